"""Error sentences: what was found, what was expected, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["InputError", "NotCalibratedError", "OutputError", "Recipe", "Words", "build", "choice", "in_python"]


Words = Callable[[str, Any], str]
"""How an option and its value are written where the user stands."""


def in_python(name: str, value: Any) -> str:
    """An option as a Python call says it: `force=True`; its name alone where the value is `...`."""
    return name if value is ... else f"{name}={value!r}"


def _filled(text: str, options: Mapping[str, Any], words: Words) -> str:
    for name, value in options.items():
        text = text.replace(f"{{{name}}}", words(name, value))
    return text


class InputError(ValueError):
    """Something the user gave cannot be used.

    `where` names the file or field, `found` what was there, `expected` what should have been there and `hint`,
    where there is one, what would mend it.  `{name}` in `expected` and `hint` stands for an option of the call, with
    its value in `options`: "Give {spacing}." and spacing=(0.7, 0.7) say "Give spacing=(0.7, 0.7)." in Python and "Give
    --spacing 0.7,0.7." on the command line.  `field` is `where` if that was given as a string: it may be the name of
    an option, which is then what is wrong.
    """

    def __init__(self, where: object, found: object, expected: object, hint: str = "", **options: Any) -> None:
        self.where, self.found, self.expected, self.hint = str(where), str(found), str(expected), hint
        self.field = where if isinstance(where, str) else None
        self.options = options
        super().__init__(self.said())

    def said(self, words: Words = in_python, where: str | None = None) -> str:
        """As one sentence; `where` replaces the name of what is wrong.  What was found is never read as a template."""
        expected, hint = (_filled(text, self.options, words) for text in (self.expected, self.hint))
        return f"{where or self.where}: found {self.found}; expected {expected}." + (f" {hint}" if hint else "")

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str], dict[str, Any]]:
        """So that the error crosses from a worker process as what it is."""
        return type(self), (self.where, self.found, self.expected, self.hint), dict(vars(self))

    def __str__(self) -> str:
        """As in Python."""
        return self.said()


class NotCalibratedError(ValueError):
    """An uncertainty was asked of a combination whose spread is not that of the posterior.

    `{name}` in the sentence stands for an option of the call, as in `InputError`.
    """

    def __init__(self, sentence: str, **options: Any) -> None:
        self.sentence, self.options = sentence, options
        super().__init__(self.said())

    def said(self, words: Words = in_python) -> str:
        """The sentence in the words of where the user stands."""
        return _filled(self.sentence, self.options, words)

    def __reduce__(self) -> tuple[type, tuple[str], dict[str, Any]]:
        """So that the error crosses from a worker process as what it is."""
        return type(self), (self.sentence,), dict(vars(self))

    def __str__(self) -> str:
        """As in Python."""
        return self.said()


def choice(where: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`; otherwise raise an `InputError` that offers the nearest one."""
    options = sorted(known)
    if name in options:
        return name
    near = difflib.get_close_matches(name, options, n=1)
    raise InputError(where, repr(name), f"one of {', '.join(options)}", f"Did you mean {near[0]!r}?" if near else "")


T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """`name` in a dictionary of builders and the keyword `options` (JSON types only) to call it with."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary `{"name": ..., "options": {...}}`."""
        return {"name": self.name, "options": dict(self.options)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], where: str) -> Recipe:
        """Inverse of `to_json`; `where` names the file or field in errors."""
        if not isinstance(record, Mapping) or set(record) - {"name", "options"} or "name" not in record:
            raise InputError(where, f"{record!r}", 'a record {"name": ..., "options": {...}}')
        return cls(str(record["name"]), dict(record.get("options", {})))


def build(table: Mapping[str, Callable[..., T]], recipe: Recipe, where: str, /, *args: Any, **extra: Any) -> T:
    """Call `table[recipe.name](*args, **recipe.options, **extra)`; unknown names and options are errors."""
    function = table[choice(where, recipe.name, table)]
    try:
        return function(*args, **{**recipe.options, **extra})
    except TypeError as error:
        raise InputError(f"{where} {recipe.name!r}", str(error), "options that this entry knows") from error


class OutputError(OSError):
    """A result could not be written (full disk, no permission, ...); nothing of it was left behind."""
