"""Configuration files: read the YAML, override, validate; every error names file and field, and the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from retrodict._check import InputError

__all__ = ["Strict", "read_config"]


class Strict(BaseModel):
    """A part of a configuration: unknown keys are errors, values do not change.

    `embeds` names fields that hold a dataclass, and the class; its own fields are written on this level.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
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
    try:
        record = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise InputError(path, "no such file", f"a YAML {what}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(path, f"unreadable YAML ({str(error).splitlines()[0]})", f"a YAML {what}") from error
    if not isinstance(record, dict):
        raise InputError(path, type(record).__name__, "a YAML mapping")
    for override in overrides:
        _override(record, override)
    try:
        return cls.model_validate(record)
    except ValidationError as error:
        raise _first(cls, path, error) from error


def _override(record: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}", "no '='", "a.b=value")
    *parents, last = name.split(".")
    for parent in parents:
        record = record.setdefault(parent, {})
        if not isinstance(record, dict):
            raise InputError(f"--set {name}", f"{parent!r}, which is no mapping", "a path of mappings")
    record[last] = yaml.safe_load(value)


def _first(cls: type[Strict], path: Path, error: ValidationError) -> InputError:
    """The first of the errors in one sentence."""
    item = error.errors()[0]
    parts, known = _walk(cls, item["loc"])
    where = ".".join(str(part) for part in parts)
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, InputError):  # said by one of our own records, which knows its field
        return InputError(f"{path}: {where}.{cause.where}", cause.found, cause.expected, cause.hint)
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else ""
        return InputError(f"{path}: {where}", "an unknown key", "a known key", hint)
    return InputError(f"{path}: {where}", repr(item.get("input"))[:80], item["msg"])


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
