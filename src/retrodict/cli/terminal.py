"""The terminal: two consoles, a bar of progress, plain text, and numbers from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from retrodict._check import InputError

__all__ = ["Force", "Spacing", "Unit", "bar", "err", "files", "integers", "numbers", "out", "plain"]


out = Console(highlight=False)


err = Console(stderr=True, highlight=False)


Spacing = Annotated[str | None, typer.Option(help="Pixel spacing in mm (rows,columns) for files that have none.")]


Unit = Annotated[str | None, typer.Option(help="Unit of the values for files that have none, such as HU.")]


Force = Annotated[bool, typer.Option("--force", help="Replace results of an earlier run.")]


def plain(text: str) -> str:
    """Text without meaning for rich."""
    return text.replace("[", "\\[")


def files(paths: list[Path]) -> None:
    """One line for each file."""
    for path in paths:
        out.print(f"  {plain(str(path))}", soft_wrap=True)


def bar() -> Progress:
    """A bar on the error stream that disappears at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, transient=True)


def numbers(name: str, text: str | None) -> list[float] | None:
    """Numbers separated by commas."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(name, repr(text), "numbers separated by commas, such as 1.0,1.0") from error


def integers(name: str, text: str | None, separator: str = ",") -> tuple[int, ...] | None:
    """Whole numbers separated by `separator`."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(separator))
    except ValueError as error:
        raise InputError(name, repr(text), f"whole numbers separated by {separator!r}") from error
