"""The mean over a region of a reconstruction, and between which values the posterior has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics.calibration import central_factor

__all__ = ["Box", "boxes_of", "inside", "of_region"]

LEVEL = 0.9
"""Of the intervals."""

Box = tuple[int, int, int, int]
"""First row, first column, height and width in pixels of the result."""


def boxes_of(given: Any) -> tuple[Box, ...]:
    """Regions `(y0, x0, h, w)` in pixels of the result from tuples or from texts "y0,x0,h,w"."""
    out = []
    for one in [given] if isinstance(given, str) else given:
        try:
            box = tuple(int(v) for v in (one.split(",") if isinstance(one, str) else one))
        except (TypeError, ValueError):
            box = ()
        if len(box) != 4 or min(box[:2]) < 0 or min(box[2:]) < 1:
            raise InputError("region", repr(one), "first row, first column, height, width, such as 40,52,8,8")
        out.append(box)
    return tuple(out)  # type: ignore[return-value]


def inside(boxes: Sequence[Box], size: Sequence[int]) -> None:
    """Raise `InputError` for a region that is not inside a slice of `size` pixels."""
    for y, x, h, w in boxes:
        if y + h > size[0] or x + w > size[1]:
            raise InputError("region", f"{y},{x},{h},{w}", f"a part of the {size[0]} x {size[1]} pixels of the result")


def of_region(box: Box, mean: Tensor, samples: Tensor, kind: str, truth: Tensor | None = None) -> dict[str, Any]:
    """The mean over a region of one slice, and between which values 90 % of the posterior have it.

    mean `(H, W)`, samples `(K, H, W)`, truth `(H, W)` or None, in the unit of the results.  The interval is that of
    Student's law: `central_factor(0.9, K)` deviations of the means of K samples.  Only samples of kind "posterior" have
    one.
    """
    y, x, h, w = box
    part = (..., slice(y, y + h), slice(x, x + w))
    middle = float(mean[part].double().mean())
    row: dict[str, Any] = {"region": list(box), "mean": middle}
    if truth is not None:
        row["truth"] = float(truth[part].double().mean())
    if kind == "posterior" and len(samples) > 1:
        sd = float(samples[part].double().mean((-2, -1)).std())
        reach = central_factor(LEVEL, len(samples)) * sd
        row |= {"sd": sd, "low": middle - reach, "high": middle + reach, "level": LEVEL}
    return row
