"""The command line in this process: starting torch anew for every command would cost seconds."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from unittest import mock

from retrodict.cli import main, terminal


def retrodict(*arguments, columns=100):
    """Run `retrodict ARGUMENTS` as a shell would; `returncode`, `stdout` and `stderr` as of a finished process."""
    shown, said, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, {"COLUMNS": str(columns)}),
        mock.patch.object(sys, "argv", ["retrodict", *map(str, arguments)]),
        mock.patch.object(terminal.out, "_width", columns),
        mock.patch.object(terminal.err, "_width", columns),
        redirect_stdout(shown),
        redirect_stderr(said),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return SimpleNamespace(returncode=code, stdout=shown.getvalue(), stderr=said.getvalue())
