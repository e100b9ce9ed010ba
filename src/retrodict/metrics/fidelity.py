"""How far two images are apart: MSE, RMSE and PSNR."""

from __future__ import annotations

import math

from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._arrays import same_shape

__all__ = ["mse", "psnr", "rmse"]


def mse(a: Tensor, b: Tensor) -> float:
    """Mean squared error over all pixels.

    Shapes: `a` and `b` of one shape, any rank. Unit: image unit squared (HU^2 for CT).
    Formula: mean((a - b)^2), summed in float64.
    """
    x, y = same_shape("a", a, "b", b)
    return float((x - y).square().mean())


def rmse(a: Tensor, b: Tensor) -> float:
    """Root mean squared error over all pixels.

    Shapes: as `mse`. Unit: image unit. Formula: sqrt(mse(a, b)).
    """
    return math.sqrt(mse(a, b))


def psnr(a: Tensor, b: Tensor, *, data_range: float) -> float:
    """Peak signal-to-noise ratio; infinite for identical images.

    Shapes: as `mse`. Unit: dB. Formula: 10 log10(data_range^2 / mse(a, b)) (ITU-T J.340, 2010).
    `data_range` (image unit) has no default: a range read off the image would make values of two images incomparable.
    """
    if not (math.isfinite(data_range) and data_range > 0):
        raise InputError("data_range", data_range, "a finite number above 0, in the unit of the image")
    error = mse(a, b)
    return math.inf if error == 0 else 20 * math.log10(data_range) - 10 * math.log10(error)
