"""Measured curves (MTF, NPS) with units: isotropic tables or two-dimensional maps over physical frequency."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, read_json
from retrodict.bases import Basis, Fourier

__all__ = ["Curve"]


_FREQUENCY_UNITS = ("cycles/mm", "1/mm", "lp/mm")


MOST_BYTES = 32_000_000
"""Size of the file of a curve: a map of 1024 x 1024 values takes two thirds of it."""


@dataclass(frozen=True)
class Curve:
    """Values over spatial frequency.

    Isotropic: `frequency` (n,) increasing from 0 and `value` (n,).  Two-dimensional: `frequency` is a pair (fy, fx) of
    increasing non-negative axes and `value` is (len(fy), len(fx)), symmetric in the sign of either frequency.
    `frequency_unit` must be "cycles/mm"; `unit` is "1" for an MTF and for an NPS the data unit squared times mm^2
    (mm^3 for volumes), such as "HU^2 mm^2".  Between nodes values are interpolated linearly.
    """

    frequency: tuple[tuple[float, ...], ...]
    value: tuple[float, ...]
    unit: str
    frequency_unit: str = "cycles/mm"

    @classmethod
    def isotropic(cls, frequency: Any, value: Any, unit: str, frequency_unit: str = "cycles/mm") -> Curve:
        """From two arrays of equal length."""
        return cls.parse(
            {"frequency": _plain(frequency), "value": _plain(value), "unit": unit, "frequency_unit": frequency_unit},
            "curve",
        )

    @classmethod
    def parse(cls, record: Any, name: str) -> Curve:
        """From a `Curve`, a record {"frequency", "value", "unit", "frequency_unit"}, or the path of a JSON file of one
        (as `retrodict measure` writes it); `name`, "mtf" or "nps", is used in errors.
        """
        if isinstance(record, Curve):
            return record
        if isinstance(record, str | Path):
            record = _read(Path(record), name)
        if not isinstance(record, Mapping):
            raise InputError(name, type(record).__name__, "a record with frequency, value, unit, frequency_unit")
        for field in ("frequency", "value", "unit", "frequency_unit"):
            if record.get(field) is None:
                what = "no units" if "unit" in field else "none"
                raise InputError(f"{name}.{field}", what, "a value such as 'cycles/mm', '1' or 'HU^2 mm^2'")
            if "unit" in field and not isinstance(record[field], str):
                raise InputError(f"{name}.{field}", repr(record[field])[:80], "text, such as 'cycles/mm'")
        quantity = record.get("quantity", name)
        if quantity != name and {quantity, name} == {"mtf", "nps"}:
            raise InputError(name, f"a measured {quantity.upper()}", f"a measured {name.upper()}")
        try:
            axes, values = _axes(record["frequency"]), _flat(record["value"])
        except (TypeError, ValueError, OverflowError) as error:
            expected = "numbers: one axis and one value for each, or two axes and a row of values for each of the first"
            raise InputError(f"{name}: frequency and value", error, expected) from error
        curve = cls(axes, tuple(values), str(record["unit"]), str(record["frequency_unit"]))
        curve._validate(name)
        return curve

    def to_json(self) -> dict[str, Any]:
        """JSON record, inverse of `parse`."""
        axes: Any = list(self.frequency[0]) if len(self.frequency) == 1 else [list(axis) for axis in self.frequency]
        return {
            "frequency": axes,
            "value": list(self.value),
            "unit": self.unit,
            "frequency_unit": self.frequency_unit,
        }

    def _validate(self, name: str) -> None:
        if self.frequency_unit not in _FREQUENCY_UNITS:
            raise InputError(f"{name}.frequency_unit", repr(self.frequency_unit), "'cycles/mm'")
        if not self.unit.strip():
            raise InputError(f"{name}.unit", "no units", "'1' for an MTF, such as 'HU^2 mm^2' for an NPS")
        if len(self.frequency) > 2:
            raise InputError(f"{name}.frequency", f"{len(self.frequency)} axes", "one or two")
        if math.prod(len(axis) for axis in self.frequency) != len(self.value):
            raise InputError(name, f"{len(self.value)} values", "one value for every frequency")
        for axis in self.frequency:
            rising = all(b > a for a, b in itertools.pairwise(axis))
            if len(axis) < 2 or not rising or axis[0] < 0 or not all(map(math.isfinite, axis)):
                raise InputError(f"{name}.frequency", "frequencies that do not rise", "at least two, rising from 0")
        if not all(map(math.isfinite, self.value)):
            raise InputError(f"{name}.value", "NaN or infinity", "finite numbers")
        if min(self.value) < 0:
            raise InputError(f"{name}.value", f"a negative value ({min(self.value):g})", "values of at least 0")

    def require(self, name: str, basis: Basis) -> None:
        """Raise unless the curve reaches the Nyquist frequency of every axis and has the axes that the grid has."""
        if len(self.frequency) == 2 and (len(basis.size) != 2 or not isinstance(basis, Fourier)):
            raise InputError(name, "a two-dimensional curve", f"an isotropic one for a {len(basis.size)}-D grid")
        expected = f"mm^{max(2, len(basis.size))}"
        if name == "nps" and expected not in self.unit.replace("**", "^").replace("mm2", "mm^2"):
            raise InputError("nps.unit", repr(self.unit), f"the data unit squared times {expected}")
        for axis, spacing in zip(_cycle(self.frequency, len(basis.spacing)), basis.spacing, strict=True):
            nyquist = 0.5 / spacing
            if axis[-1] < nyquist * (1 - 1e-6):
                raise InputError(
                    f"{name}.frequency",
                    f"a curve that ends at {axis[-1]:.4g} cycles/mm",
                    f"one up to the Nyquist frequency {nyquist:.4g} cycles/mm of {spacing:g} mm pixels",
                )

    def on(self, basis: Basis) -> Tensor:
        """Values at the coefficients of `basis`, `(*K)` float64; beyond the last node (corners) the last value."""
        if len(self.frequency) == 1:
            return self.at(basis.radius())
        return self.at(*(f.abs() for f in basis.frequencies()))  # type: ignore[attr-defined]

    def at(self, *frequency: Tensor) -> Tensor:
        """Values at |f| of an isotropic curve, at (|fy|, |fx|) of a two-dimensional one, tensors of one shape; beyond
        the last node the last value."""
        settings = {"dtype": torch.float64, "device": frequency[0].device}
        value = torch.tensor(self.value, **settings)
        axes = [torch.tensor(axis, **settings) for axis in self.frequency]
        if len(axes) == 1:
            return _interpolate(frequency[0], axes[0], value)
        return _bilinear(frequency[0], frequency[1], axes[0], axes[1], value.reshape(len(axes[0]), len(axes[1])))


def _read(path: Path, name: str) -> Any:
    try:
        return read_json(path, "a JSON file with a measured curve", MOST_BYTES)
    except InputError as error:
        raise InputError(f"{name}: {error.where}", error.found, error.expected) from error


def _cycle(axes: tuple[tuple[float, ...], ...], count: int) -> list[tuple[float, ...]]:
    return list(axes) if len(axes) == count else [axes[0]] * count


def _plain(array: Any) -> Any:
    return array.tolist() if hasattr(array, "tolist") else list(array)


def _axes(frequency: Any) -> tuple[tuple[float, ...], ...]:
    frequency = _plain(frequency)
    nested = bool(frequency) and isinstance(frequency[0], Sequence)
    return tuple(tuple(map(float, axis)) for axis in frequency) if nested else (tuple(map(float, frequency)),)


def _flat(value: Any) -> list[float]:
    value = _plain(value)
    return [float(x) for row in value for x in (row if isinstance(row, Sequence) else [row])]


def _place(query: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Left node index and fraction of the way to the next node, clamped to the table."""
    query = query.clamp(nodes[0], nodes[-1])
    left = (torch.searchsorted(nodes, query, right=True) - 1).clamp(0, len(nodes) - 2)
    return left, (query - nodes[left]) / (nodes[left + 1] - nodes[left])


def _interpolate(query: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    left, part = _place(query, nodes)
    return values[left] * (1 - part) + values[left + 1] * part


def _bilinear(y: Tensor, x: Tensor, ny: Tensor, nx: Tensor, values: Tensor) -> Tensor:
    (i, a), (j, b) = _place(y, ny), _place(x, nx)
    top = values[i, j] * (1 - b) + values[i, j + 1] * b
    bottom = values[i + 1, j] * (1 - b) + values[i + 1, j + 1] * b
    return top * (1 - a) + bottom * a
