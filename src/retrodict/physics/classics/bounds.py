"""Bounds of an image, pixel by pixel: lower, upper, and 0 outside a support."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.operator import Space

__all__ = ["FREE", "Box", "box_of"]

Bound = float | Tensor | None


@dataclass(frozen=True)
class Box:
    """All images with lower <= x <= upper in every pixel; None is no bound.  Numbers, or tensors `(C, *N)`."""

    lower: Bound = None
    upper: Bound = None

    @property
    def free(self) -> bool:
        """Whether there is no bound at all."""
        return self.lower is None and self.upper is None

    def nearest(self, x: Tensor) -> Tensor:
        """The projection of `(B, C, *N)`: every pixel goes to the nearest value that it may have."""
        for bound, end in ((self.lower, torch.maximum), (self.upper, torch.minimum)):
            if isinstance(bound, Tensor):
                x = end(x, bound.to(x))
            elif bound is not None:
                x = x.clamp_min(bound) if end is torch.maximum else x.clamp_max(bound)
        return x


FREE = Box()
"""No bound."""


def box_of(
    space: Space,
    lower: Bound = None,
    upper: Bound = None,
    nonnegative: bool = False,
    support: Tensor | None = None,
) -> Box:
    """The bounds of images of a space: `lower` and `upper` are numbers or maps in its unit, that fit `(C, *N)`.

    `nonnegative` is a lower bound of 0, beside another one the higher of both; outside `support` (True or above 0
    inside) the image is 0.

    Raises `InputError` for maps of another shape, for what is no number, bounds that cross, and complex images.
    """
    low, high = _bound("lower", lower, space), _bound("upper", upper, space)
    if nonnegative:
        low = 0.0 if low is None else low.clamp_min(0) if isinstance(low, Tensor) else max(low, 0.0)
    if space.complex and not (low is None and high is None and support is None):
        hint = "Bounds need real images."
        raise InputError("lower, upper, nonnegative or support", "bounds of a complex image", "none", hint)
    if support is not None:
        low, high = _within(support, low, high, space)
    _crossing(low, high)
    return Box(low, high)


def _bound(name: str, given: Bound, space: Space) -> Bound:
    if given is None:
        return None
    values = torch.as_tensor(given, dtype=torch.float64, device=given.device if isinstance(given, Tensor) else "cpu")
    if bool(torch.isnan(values).any()):
        raise InputError(name, "a value that is no number", "numbers, or infinity for no bound")
    if values.ndim == 0:
        return float(values)
    return _fitting(name, values, space)


def _fitting(name: str, values: Tensor, space: Space) -> Tensor:
    shape: Sequence[int] = space.shape
    while values.ndim > len(shape) and values.shape[0] == 1:
        values = values[0]
    try:
        return values.expand(shape)
    except RuntimeError as error:
        raise InputError(name, f"a map of shape {tuple(values.shape)}", f"the pixels {tuple(shape)}") from error


def _within(support: Tensor, low: Bound, high: Bound, space: Space) -> tuple[Tensor, Tensor]:
    inside = _fitting("support", support, space) > 0
    if not bool(inside.any()):
        raise InputError("support", "not a single pixel", "the pixels that the object may fill")
    filled = inside.to(torch.float64)
    infinite = torch.full_like(filled, torch.inf)

    def held(bound: Bound, none: Tensor) -> Tensor:
        values = none if bound is None else torch.as_tensor(bound, dtype=torch.float64, device=filled.device)
        return torch.where(inside, values, 0.0)

    return held(low, -infinite), held(high, infinite)


def _crossing(low: Bound, high: Bound) -> None:
    if low is None or high is None:
        return
    lowest, highest = (torch.as_tensor(v, dtype=torch.float64, device="cpu") for v in (low, high))
    crossed = lowest > highest
    if bool(crossed.any()):
        count = int(crossed.sum())
        worst = float((lowest - highest).max())
        where = "" if crossed.ndim == 0 else f" in {count} pixels"
        raise InputError("lower, upper", f"a lower bound {worst:g} above the upper one{where}", "lower <= upper")
