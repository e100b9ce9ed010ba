"""Error sentences: what was found, what was expected, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InputError", "NotCalibratedError", "choice"]


class InputError(ValueError):
    """Something the user gave cannot be used.

    `where` names the file or field, `found` what was there, `expected` what should have been there and `hint`,
    where there is one, what would mend it.
    """

    def __init__(self, where: object, found: object, expected: object, hint: str = "") -> None:
        self.where, self.found, self.expected, self.hint = str(where), str(found), str(expected), hint
        tail = f" {hint}" if hint else ""
        super().__init__(f"{self.where}: found {self.found}; expected {self.expected}.{tail}")


class NotCalibratedError(ValueError):
    """An uncertainty was asked of a combination whose spread is not that of the posterior."""


def choice(where: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`; otherwise raise an `InputError` that offers the nearest one."""
    options = sorted(known)
    if name in options:
        return name
    near = difflib.get_close_matches(name, options, n=1)
    raise InputError(where, repr(name), f"one of {', '.join(options)}", f"Did you mean {near[0]!r}?" if near else "")
