"""Bounds and directions of a method by name: what `--set support=disc` and `upper=map.tif` stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from retrodict._check import InputError
from retrodict.data import read
from retrodict.physics.measurement import Measurement
from retrodict.physics.outline import OUTLINES, outline
from retrodict.physics.radon import Radon
from retrodict.physics.subsets import tomograph

__all__ = ["NAMED", "VIEWS", "check_named", "named"]

NAMED = ("lower", "upper", "support", "direction")
"""Settings of a method that may be a word, or the path of an image."""

VIEWS = "views"
"""The direction of the middle view of a scan of limited angle."""


def check_named(name: str, value: Any) -> bool:
    """Whether a setting is one that is resolved here; `InputError` for a word that is none."""
    if name not in NAMED or isinstance(value, bool):
        return False
    if name == "direction":
        if isinstance(value, str) and value != VIEWS:
            raise InputError("set direction", repr(value), f"degrees, or {VIEWS}")
        return isinstance(value, str)
    if name == "support" and isinstance(value, int | float):
        raise InputError("set support", repr(value), f"{', '.join(OUTLINES)}, or an image")
    return isinstance(value, str | Tensor)


def named(settings: Mapping[str, Any], measurement: Measurement) -> dict[str, Any]:
    """The settings with maps and angles in place of words, for a measurement of one item."""
    out = dict(settings)
    for name in NAMED:
        value = out.get(name)
        if not isinstance(value, str):
            continue
        if name == "direction":
            out[name] = _middle(measurement)
        elif name == "support" and value in OUTLINES:
            out[name] = _outline(value, measurement)
        else:
            out[name] = _map(name, value, measurement)
    return out


def _radon(measurement: Measurement, what: str) -> Radon:
    found = tomograph(measurement.operator)
    if not isinstance(found, Radon):
        raise InputError(what, f"of {found.name}", "a scan in a plane")
    return found


def _middle(measurement: Measurement) -> float:
    angles = _radon(measurement, "set direction").geometry.angles
    return math.degrees((min(angles) + max(angles)) / 2)


def _outline(kind: str, measurement: Measurement) -> Tensor:
    operator = _radon(measurement, "set support")
    found = outline(kind, measurement.y[0, 0], operator.geometry)
    return found.mask(operator.size, operator.domain.spacing)


def _map(name: str, path: str, measurement: Measurement) -> Tensor:
    domain = measurement.operator.domain
    size = domain.shape[1:]
    try:
        image = read(path, expect=None, clip=False).gray()
    except InputError:  # plain pictures of a mask say neither spacing nor unit
        image = read(path, expect=None, clip=False, spacing=tuple(domain.spacing), unit="arbitrary").gray()
    values = image.values.reshape(-1, *image.values.shape[-len(size) :])
    if values.shape != (1, *size):
        raise InputError(f"set {name} ({path})", f"an image of {tuple(values.shape[1:])}", f"the pixels {tuple(size)}")
    return values.double()
