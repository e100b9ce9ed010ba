"""The terminal: two consoles, a bar of progress, plain text, and numbers from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from retrodict._check import InputError, visible

__all__ = ["Force", "Spacing", "Unit", "bar", "err", "files", "integers", "numbers", "out", "plain"]


out = Console(highlight=False, emoji=False)


err = Console(stderr=True, highlight=False, emoji=False)


Spacing = Annotated[str | None, typer.Option(help="Pixel spacing in mm (rows,columns) for files that have none.")]


Unit = Annotated[str | None, typer.Option(help="Unit of the values for files that have none, such as HU.")]


Force = Annotated[bool, typer.Option("--force", help="Replace results of an earlier run.")]


def plain(text: object) -> str:
    """Foreign text (a name, a path, a word from a file) as it may stand in what is printed: on one line, without
    meaning for the terminal or for rich.
    """
    shown = visible(text).replace("\\[", "\\\\x5b").replace("[", "\\[")  # rich reads backslashes before a bracket
    return f"{shown[:-1]}\\x5c" if shown.endswith("\\") else shown  # ... and so one before a tag of ours


def files(paths: list[Path]) -> None:
    """One line for each file."""
    for path in paths:
        out.print(f"  {plain(str(path))}", soft_wrap=True)


class _Description(TextColumn):
    """The name of a task, in which `:name:` is no emoji."""

    def render(self, task: Task) -> Text:
        """One line."""
        return Text.from_markup(task.description, emoji=False)


def bar() -> Progress:
    """A bar on the error stream that disappears at the end."""
    columns = (
        _Description("{task.description}"),
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
