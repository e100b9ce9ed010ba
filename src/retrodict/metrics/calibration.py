"""Whether a stated standard deviation holds against the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._arrays import same_shape

__all__ = ["central_factor", "coverage", "z_scores"]


def z_scores(mean: Tensor, sd: Tensor, truth: Tensor) -> Tensor:
    """Error of the mean in standard deviations; mean 0 and variance 1 when calibrated.

    Shapes: all of one shape, and so the result. Unit: none. Formula: (truth - mean) / sd, in float64.
    """
    m, s, t = _three(mean, sd, truth)
    if bool((s <= 0).any()):
        raise InputError("sd", f"{int((s <= 0).sum())} values that are zero", "values above 0", "Mask these pixels.")
    return (t - m) / s


def central_factor(level: float, count: int | None = None) -> float:
    """Half width of the central interval that holds the truth with probability `level`, in standard deviations.

    Formula: normal quantile of (1 + level) / 2. With `count` = K samples behind mean and sd it is the Student
    quantile with K - 1 degrees of freedom times sqrt(1 + 1/K), the exact prediction interval for a normal posterior
    (Geisser, Predictive Inference, 1993): with few samples the normal interval covers too little through no fault of
    the sampler. Unit: none.
    """
    if not 0 < level < 1:
        raise InputError("level", level, "a probability between 0 and 1, such as 0.95")
    if count is None:
        return NormalDist().inv_cdf((1 + level) / 2)
    if count < 2:
        raise InputError("count", count, "at least 2 samples")
    return _student(level, count - 1) * math.sqrt(1 + 1 / count)


def coverage(
    mean: Tensor, sd: Tensor, truth: Tensor, levels: Sequence[float] = (0.68, 0.95), *, count: int | None = None
) -> Tensor:
    """Fraction of pixels whose truth lies in the central interval, one for each nominal level.

    Shapes: images of one shape; result (L,) for L levels. Unit: fraction. Formula: mean(|truth - mean| <= q sd) with
    q from `central_factor`. Calibrated means that it equals the nominal level; plotted against it, this is the
    reliability diagram (Gneiting et al., J. R. Stat. Soc. B 69, 2007). Neighboring pixels are not independent: the
    sampling error is larger than the number of pixels suggests.
    """
    m, s, t = _three(mean, sd, truth)
    error = (t - m).abs()
    fractions = [float((error <= central_factor(p, count) * s).double().mean()) for p in levels]
    return torch.tensor(fractions, dtype=torch.float64, device="cpu")


def _three(mean: Tensor, sd: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    m, s = same_shape("mean", mean, "sd", sd)
    m, t = same_shape("mean", m, "truth", truth)
    if bool((s < 0).any()):
        raise InputError("sd", "negative values", "standard deviations of 0 or more")
    return m, s, t


def _student(level: float, dof: int) -> float:
    """Two-sided Student quantile; with x = sqrt(dof) tan(a) the density is cos(a)^(dof - 1), smooth on [0, pi/2)."""
    if dof > 5000:  # nearer to the normal than the grid below resolves
        return NormalDist().inv_cdf((1 + level) / 2)
    angle = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angle) ** (dof - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(dof) * math.tan(float(np.interp(level, mass / mass[-1], angle)))
