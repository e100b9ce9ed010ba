"""Error sentences: what was found, what was expected, and how to mend it."""

from __future__ import annotations

import difflib
import json
import math
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "InputError",
    "NotCalibratedError",
    "OutputError",
    "Recipe",
    "Words",
    "build",
    "choice",
    "depth",
    "in_python",
    "read_json",
    "read_text",
    "visible",
]


LONGEST = 4096
"""Characters of a text that is shown: as many as a path may have."""


def visible(text: object, longest: int = LONGEST) -> str:
    """Text on one line that a terminal shows and does not obey; a text that is too long loses its middle.

    Control characters, those that turn the direction of writing, separators of lines and lone surrogates become escapes
    as Python writes them; the joiners that some scripts need stay.
    """
    found = str(text)
    if len(found) > longest:
        half = (longest - 40) // 2
        found = f"{found[:half]} ... ({len(found) - 2 * half} more characters) ... {found[-half:]}"
    if found.isprintable():
        return found
    return "".join(c if c.isprintable() or c in _JOINERS else _escaped(c) for c in found)


_JOINERS = "\u200c\u200d"


def _escaped(character: str) -> str:
    if unicodedata.category(character) == "Zs":  # an unusual space, such as the narrow one of French numbers
        return " "
    return character.encode("unicode_escape").decode("ascii")


def _flowing(text: object) -> str:
    """Words of another library as part of a sentence: lines become one, and what is too long is cut."""
    return visible(" ".join(str(text).split()) if "\n" in str(text) or "\r" in str(text) else text, 600)


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
    an option, which is then what is wrong.  The message is one line without control characters, whatever a file says;
    the attributes are as given.
    """

    def __init__(self, where: object, found: object, expected: object, hint: str = "", **options: Any) -> None:
        self.where, self.found, self.expected, self.hint = str(where), str(found), str(expected), hint
        self.field = where if isinstance(where, str) else None
        self.options = options
        super().__init__(self.said())

    def said(self, words: Words = in_python, where: str | None = None) -> str:
        """As one sentence; `where` replaces the name of what is wrong.  What was found is never read as a template."""
        expected, hint = (_flowing(_filled(text, self.options, words)) for text in (self.expected, self.hint))
        told = f"{visible(where or self.where)}: found {_flowing(self.found)}; expected {expected}."
        return told + (f" {hint}" if hint else "")

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
    near = difflib.get_close_matches(name, options, n=1) if isinstance(name, str) else []
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
            raise InputError(where, repr(record)[:80], 'a record {"name": ..., "options": {...}}')
        options = record.get("options", {})
        if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            raise InputError(f"{where}.options", repr(options)[:80], "a mapping of options by name")
        return cls(str(record["name"]), dict(options))


def build(table: Mapping[str, Callable[..., T]], recipe: Recipe, where: str, /, *args: Any, **extra: Any) -> T:
    """Call `table[recipe.name](*args, **recipe.options, **extra)`; unknown names and options are errors."""
    function = table[choice(where, recipe.name, table)]
    try:
        return function(*args, **{**recipe.options, **extra})
    except InputError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        surplus = re.search(r"unexpected keyword argument ('\w+')", str(error))
        found = f"the option {surplus[1]}" if surplus else str(error)
        raise InputError(f"{where} {recipe.name!r}", found, "options that this entry knows") from error


# ---- records ---------------------------------------------------------------------------------------------------------

DEEPEST = 32
"""Levels of lists and mappings inside each other that a record may have."""


def read_text(path: Path | str, what: str, most: int) -> str:
    """The UTF-8 text of a regular file of at most `most` bytes; `what` was expected, for the `InputError`."""
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, device or socket"
            raise InputError(path, kind, what)
        if status.st_size > most:
            raise InputError(path, f"{status.st_size / 1e6:.1f} MB", f"{what} of at most {most / 1e6:.1f} MB")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(path, "no such file", what) from error
    except UnicodeDecodeError as error:
        raise InputError(path, f"a file that is no UTF-8 text ({error.reason} at {error.start})", what) from error
    except (OSError, ValueError) as error:  # a loop of links, no permission; a zero byte in the name
        if isinstance(error, InputError):
            raise
        raise InputError(path, getattr(error, "strerror", None) or error, what) from error


def read_json(path: Path | str, what: str, most: int = 16_000_000) -> dict[str, Any]:
    """The mapping that a JSON file holds.

    Raises `InputError` for a file that is none, larger than `most` bytes, nested deeper than 32 levels, with a key
    twice in a mapping, or with NaN or an infinity, which JSON does not have.
    """
    try:
        record = json.loads(
            read_text(path, what, most), parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once
        )
    except RecursionError as error:
        raise InputError(path, "a record that is nested too deeply", f"{what} of at most {DEEPEST} levels") from error
    except ValueError as error:  # numbers of thousands of digits are one, too
        if isinstance(error, InputError):
            raise
        raise InputError(path, f"unreadable JSON ({error})", what) from error
    if not isinstance(record, dict):
        raise InputError(path, type(record).__name__, what)
    if depth(record) > DEEPEST:
        raise InputError(path, "a record that is nested too deeply", f"{what} of at most {DEEPEST} levels")
    return record


def depth(record: Any, most: int = DEEPEST) -> int:
    """Levels of lists and mappings inside each other, counted up to `most` + 1."""
    level, count = [record], 0
    while level and count <= most:
        level = [v for r in level for v in (r.values() if isinstance(r, dict) else r) if isinstance(v, dict | list)]
        count += 1
    return count


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} twice")
    return record


class OutputError(OSError):
    """A result could not be written (full disk, no permission, ...); nothing of it was left behind."""
