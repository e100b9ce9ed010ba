"""The command line."""

from __future__ import annotations

from retrodict.cli.app import app, main

__all__ = ["app", "main"]
