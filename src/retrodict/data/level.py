"""The level of a series whose values have no unit: a high percentile of its local means, which noise moves little."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError

__all__ = ["BLOCK", "level_of"]

BLOCK = 4
"""Pixels along both sides of a local mean: white noise of deviation s moves it by s / 4."""


def level_of(slices: Sequence[Tensor], percentile: float, where: str = "image") -> float:
    """The `percentile` of |means over 4 x 4 pixels| of the slices `(..., H, W)` of a series, real or complex.

    c times the values have c times the level.  Of constant values with white noise of deviation s around them it is off
    by z s / 4, z the quantile of the normal law at the percentile (2.58 at 99.5); means of complex values are taken
    before their magnitude, so that noise adds nothing to the air (no Rician floor).  In the unit of the values; raises
    `InputError` for values that are not finite, and for a level of 0.
    """
    level = float(np.percentile(np.concatenate([_means(v).ravel() for v in slices]), percentile))
    if not np.isfinite(level):
        raise InputError(where, "NaN or infinite pixels", "finite pixels")
    if not level > 0:
        found = f"values whose percentile {percentile:g} is {level:g}"
        raise InputError(where, found, "values above 0, to which others are relative")
    return level


def _means(values: Tensor) -> np.ndarray:
    stack = values.detach().reshape(-1, 1, *values.shape[-2:])
    size = [min(BLOCK, n) for n in stack.shape[-2:]]
    parts = (stack.real, stack.imag) if stack.is_complex() else (stack,)
    real, *imaginary = (F.avg_pool2d(part.double(), size).cpu().numpy() for part in parts)
    return np.hypot(real, imaginary[0]) if imaginary else np.abs(real)
