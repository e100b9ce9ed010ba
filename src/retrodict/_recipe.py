"""A recipe says how to rebuild an object that lives in one of the dictionaries: its name and plain options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from retrodict._check import InputError, choice

__all__ = ["Recipe", "build"]

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
