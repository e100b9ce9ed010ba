"""How far a run is: a bar on a terminal, and now and then a line where there is none."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

from retrodict.cli.command import is_quiet
from retrodict.cli.terminal import bar, err, plain

__all__ = ["Watching", "watching"]

INTERVAL = 10.0
"""Seconds between two lines: a log file of a night stays readable."""


class Watching(Protocol):
    """Told what is worked on, how much of it is done and in all, and a word about it."""

    def __call__(self, name: str, done: int, total: int, word: str = "") -> None:
        """Show it."""
        ...


@contextmanager
def watching() -> Generator[Watching]:
    """A function of (name, done, total, word) that shows one bar for each name, or lines without a terminal."""
    if is_quiet():
        yield lambda name, done, total, word="": None
        return
    if not err.is_terminal:
        yield _Lines().watch
        return
    with bar() as shown:
        tasks: dict[str, Any] = {}

        def watch(name: str, done: int, total: int, word: str = "") -> None:
            if name not in tasks:
                for task in list(shown.task_ids)[:-SHOWN]:
                    shown.remove_task(task)
                tasks[name] = shown.add_task(plain(name), total=total)
            shown.update(tasks[name], completed=done, total=total, description=plain(f"{name}  {word}".rstrip()))

        yield watch


SHOWN = 4
"""Bars of finished inputs that stay until the end."""


class _Lines:
    """At most one line every `INTERVAL` seconds, the first one at once."""

    def __init__(self) -> None:
        self._last = -float("inf")
        self._name, self._since, self._from = "", 0.0, 0

    def watch(self, name: str, done: int, total: int, word: str = "") -> None:
        now = time.monotonic()
        if name != self._name:
            self._name, self._since, self._from = name, now, done
        if now - self._last < INTERVAL:
            return
        self._last = now
        left = ""
        if done > self._from and done < total:
            seconds = (now - self._since) / (done - self._from) * (total - done)
            left = f", about {_duration(seconds)} left"
        said = f", {word}" if word else ""
        err.print(plain(f"{name}: {done} of {total}{left}{said}"), soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
