"""Configuration files: read the YAML, override, validate; every error names file and field, and the nearest key."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from retrodict._check import DEEPEST, InputError, depth, read_text, visible

__all__ = ["Strict", "first_error", "overridden", "read_config", "read_record"]


class Strict(BaseModel):
    """A part of a configuration: unknown keys are errors, values do not change.

    `embeds` names fields that hold a dataclass, and the class; its own fields are written on this level.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    embeds: ClassVar[Mapping[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any) -> Any:
        """Move the keys of embedded dataclasses into them."""
        if not isinstance(given, Mapping):
            return given
        own = cls.respelled(given)
        for name, kind in cls.embeds.items():
            inner = {f.name for f in fields(kind)} & set(own)
            if inner and name not in own:
                own[name] = {k: own.pop(k) for k in inner}
        return own

    @classmethod
    def respelled(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given keys under the names of fields, for parts whose keys have other spellings."""
        return dict(given)

    @classmethod
    def keys(cls) -> list[str]:
        """Keys that may be written on this level."""
        own = [name for name in cls.model_fields if name not in cls.embeds]
        return own + [f.name for kind in cls.embeds.values() for f in fields(kind)]


Config = TypeVar("Config", bound=Strict)


def read_config(cls: type[Config], path: Path | str, what: str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file, apply `a.b=value` overrides (YAML values) and validate; `what` the file holds, for errors.

    Raises `InputError` that names file and field.
    """
    path = Path(path)
    record = read_record(path, what)
    for text in overrides:
        overridden(record, text)
    if depth(record) > DEEPEST:
        raise InputError(path, "values that are nested too deeply", f"at most {DEEPEST} levels")
    try:
        return cls.model_validate(record)
    except ValidationError as error:
        raise first_error(cls, path, error) from error


def read_record(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file; `what` it holds, for errors."""
    record = _parsed(read_text(path, f"a YAML {what}", MOST_BYTES), path, f"a YAML {what}")
    if not isinstance(record, dict):
        raise InputError(path, "nothing" if record is None else type(record).__name__, "a YAML mapping")
    return record


def overridden(record: dict[str, Any], text: str, flag: str = "--set") -> None:
    """Put the YAML value of `a.b=value` into a record; `flag` is where it was given."""
    name, equals, value = text.partition("=")
    where = f"{flag} {visible(name, 200)}"
    if not equals:
        raise InputError(where, "no '='", "a.b=value")
    *parents, last = name.split(".")
    if not all((*parents, last)) or len(parents) >= DEEPEST:
        raise InputError(where, "no path of keys", "names with a dot between them, such as training.steps")
    for parent in parents:
        record = record.setdefault(parent, {})
        if not isinstance(record, dict):
            raise InputError(where, f"{parent!r}, which is no mapping", "a path of mappings")
    record[last] = _parsed(value, where, "a YAML value")


# ---- YAML ------------------------------------------------------------------------------------------------------------

MOST_BYTES = 128_000
"""Size of a configuration: fifty times that of the longest one that ships."""

MOST_VALUES = 10_000
"""Values in a configuration, those that aliases repeat counted every time."""


class _Loader(yaml.SafeLoader):
    """Safe YAML of the types that JSON has, each key once, in bounded depth and size; a date is the text it is.

    Aliases count as what they stand for, so that a few lines cannot become billions of values.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth, self._count, self._sizes = 0, 0, dict[int, int]()

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One node, with its depth and the number of values in it."""
        alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        if self._depth >= DEEPEST:
            raise ComposerError(None, None, f"more than {DEEPEST} levels", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and id(node) not in self._sizes:
            raise ComposerError(None, None, "a value inside itself", mark)
        if not alias:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in _parts(node))
        self._count += self._sizes[id(node)] if alias else 1
        if self._count > MOST_VALUES:
            raise ComposerError(None, None, f"more than {MOST_VALUES} values", mark)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """A value; what cannot be one is an error of YAML with its place, whatever the conversion raised."""
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
            found = f"{str(node.value)[:40]!r}, which is no {node.tag.rpartition(':')[2]}"
            raise ConstructorError(None, None, found, node.start_mark) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise ConstructorError(None, None, "a number that is not finite", node.start_mark)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are text, each of them once."""
        if not isinstance(node, yaml.MappingNode):
            raise ConstructorError(None, None, "no mapping where one is declared", node.start_mark)
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if len(set(map(str, names))) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise ConstructorError(None, None, f"the key {str(twice)[:40]!r} twice", node.start_mark)
        found = super().construct_mapping(node, deep)
        for key in found:
            if not isinstance(key, str):
                raise ConstructorError(None, None, f"a key that is no text: {key!r}", node.start_mark)
        return found


def _parts(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if not tag.endswith(":timestamp")]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: build
    for tag, build in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
}


_TOWER = re.compile(rf"(?:[\[{{]\s*){{{DEEPEST + 1}}}")


def _parsed(text: str, where: object, what: str) -> Any:
    """The value of a YAML text, or one sentence on the first thing that is wrong with it."""
    if len(text) > MOST_BYTES:
        raise InputError(where, f"{len(text)} characters", f"{what} of at most {MOST_BYTES}")
    if _TOWER.search(text):  # the scanner needs seconds for what the composer would refuse
        raise InputError(where, f"unreadable YAML (more than {DEEPEST} levels)", what)
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        problem = error.problem or error.context
        raise InputError(where, f"unreadable YAML ({problem}{place})", what) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(where, f"unreadable YAML ({str(error).splitlines()[0]})", what) from error


# ---- errors ----------------------------------------------------------------------------------------------------------


def first_error(cls: type[Strict], path: object, error: ValidationError) -> InputError:
    """The first of the errors in one sentence."""
    item = error.errors()[0]
    parts, known = _walk(cls, item["loc"])
    where = ".".join(str(part) for part in parts)
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, InputError):  # said by one of our own records, which knows its field
        place = ".".join(filter(None, (where, cause.where)))
        return InputError(f"{path}: {place}", cause.found, cause.expected, cause.hint)
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else ""
        return InputError(f"{path}: {where}", "an unknown key", "a known key", hint)
    if item["type"] == "missing":
        return InputError(f"{path}: {where}", "nothing", _wanted(cls, item["loc"]))
    expected = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return InputError(f"{path}: {where}", repr(item.get("input"))[:80], expected)


def _wanted(cls: Any, loc: Sequence[str | int]) -> str:
    """What a key that has to be there is for."""
    for part in loc[:-1]:
        inner = cls.model_fields[part].annotation if hasattr(cls, "model_fields") and part in cls.model_fields else cls
        cls = next(iter(get_args(inner)), inner)
    known = getattr(cls, "model_fields", {}).get(loc[-1])
    return "a value" if known is None or not known.description else known.description


def _walk(cls: Any, loc: Iterable[str | int]) -> tuple[list[str | int], list[str]]:
    """The parts of a place as the file writes them, and the keys that are known where the last of them stands."""
    written: list[str | int] = []
    known: list[str] = []
    for part in loc:
        config = cls if isinstance(cls, type) and issubclass(cls, Strict) else None
        if config is None or part not in config.embeds:
            written.append(part)
        if isinstance(part, int):  # an item of a list, whose class is known by now
            continue
        known = config.keys() if config else []
        inner = config.model_fields[part].annotation if config and part in config.model_fields else None
        cls = next(iter(get_args(inner)), inner)
    return written, known
