"""Structural similarity with a stated data range."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from retrodict._check import InputError
from retrodict.metrics._arrays import same_shape

__all__ = ["ssim", "ssim_map"]


def ssim_map(a: Tensor, b: Tensor, *, data_range: float, window: int = 7) -> Tensor:
    """Local similarity of images (..., H, W) -> (..., H - window + 1, W - window + 1).

    (2 m_a m_b + C1)(2 c_ab + C2) / ((m_a^2 + m_b^2 + C1)(v_a + v_b + C2)) over uniform windows, sample covariances,
    C1 = (0.01 L)^2, C2 = (0.03 L)^2 (Wang et al., IEEE Trans. Image Process. 13, 2004; window and covariance as in
    scikit-image).  Unit: none; `data_range` L in the unit of the image, without a default.
    """
    x, y = same_shape("a", a, "b", b)
    if x.ndim < 2 or window % 2 == 0 or not 3 <= window <= min(x.shape[-2:]):
        raise InputError("window", f"{window} for shape {tuple(x.shape)}", "an odd number from 3 to the image side")
    if not (math.isfinite(data_range) and data_range > 0):
        raise InputError("data_range", data_range, "a finite number above 0, in the unit of the image")
    shape = x.shape[:-2]
    x, y = (v.reshape(-1, 1, *v.shape[-2:]) for v in (x, y))

    def mean(v: Tensor) -> Tensor:
        return F.avg_pool2d(v, window, 1)

    ma, mb = mean(x), mean(y)
    sample = window**2 / (window**2 - 1)
    va, vb = sample * (mean(x * x) - ma * ma), sample * (mean(y * y) - mb * mb)
    cov = sample * (mean(x * y) - ma * mb)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return found.reshape(*shape, *found.shape[-2:])


def ssim(a: Tensor, b: Tensor, *, data_range: float, window: int = 7) -> float:
    """Mean of `ssim_map` over all windows and images.

    Shapes: `a` and `b` (..., H, W). Unit: none. 1 for equal images.
    """
    return float(ssim_map(a, b, data_range=data_range, window=window).mean())
