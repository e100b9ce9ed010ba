"""What a reconstruction takes, before it begins."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from retrodict._check import InputError
from retrodict.physics.measurement import Measurement
from retrodict.physics.operator import Operator
from retrodict.physics.projection import Projection
from retrodict.tasks.machine import free_memory

__all__ = ["cost_of", "duration", "volume_bytes"]

VIEWS = 4
"""Views that stand for all of a cone beam."""

CLOSED = 4
"""Applications up to which a method is a closed form, whose residual is all that the operator is asked for."""


def cost_of(part: Measurement, calls: int, count: int) -> dict[str, float]:
    """Seconds and bytes, from one forward and adjoint; `InputError` where the memory that is free does not suffice.

    The first use of an operator builds its tables and is not counted.
    """
    operator, share = _sample(part.operator.part)
    whole = part.operator.part
    pixels, data = math.prod(whole.domain.shape), math.prod(whole.range.shape)
    size = part.y.element_size()
    kept = float(dict(whole.about).get("weights", 0)) * 16 if dict(whole.about).get("kept") else 0.0
    needed = kept + 14 * size * (pixels + data) + size * pixels * count * 3
    free = free_memory()
    if free is not None and needed > free:
        found = f"{count} slices of {pixels} pixels from {data} data, and {free / 1e9:.1f} GB of free memory"
        raise InputError(
            "image.size", found, f"at least the {needed / 1e9:.1f} GB that it takes", "Take larger pixels."
        )
    with torch.no_grad():
        kind = part.y.dtype if operator.domain.complex else part.y.real.dtype
        image = torch.zeros(1, *operator.domain.shape, dtype=kind, device=part.y.device)
        pairs = (
            [operator.forward]
            if calls <= CLOSED
            else [operator.forward, lambda x: operator.adjoint(operator.forward(x))]
        )
        pairs[-1](image)
        started = time.perf_counter()
        pairs[-1](image)
    each = (time.perf_counter() - started) * share
    return {"seconds": each * calls * count, "bytes": needed, "applications": float(calls * count)}


def volume_bytes(part: Measurement, count: int, samples: int) -> tuple[float, float]:
    """Bytes of one sample of a volume of `count` slices while it is drawn (14 copies of images and data, as of a
    slice), and of all that are kept.
    """
    pixels, data = math.prod(part.operator.domain.shape), math.prod(part.operator.range.shape)
    size = part.y.element_size()
    return 14.0 * size * (pixels + data) * count, 3.0 * size * pixels * count * samples


def _sample(operator: Operator) -> tuple[Operator, float]:
    """What is timed, and how many times it is in the operator: a few views of a cone whose weights are not kept."""
    if not isinstance(operator, Projection) or operator.about["kept"] or operator.geometry.views <= VIEWS:
        return operator, 1.0
    views = operator.geometry.views
    few, d = operator.geometry.subset(range(0, views, -(-views // VIEWS))), operator.domain
    options: dict[str, Any] = {"spacing": d.spacing, "channels": d.shape[0], "unit": d.unit}
    return Projection(d.shape[1:], few, **options, memory=0.0), views / few.views


def duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
