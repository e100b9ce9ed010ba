"""Whether a stated standard deviation holds against the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._arrays import same_shape

__all__ = ["central_factor", "coverage", "student_within", "z_scores"]


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


@lru_cache(maxsize=256)
def _student(level: float, dof: int) -> float:
    """Two-sided Student quantile: |t| is below it with probability `level`."""
    if dof > 5000:  # the normal law to five digits
        return NormalDist().inv_cdf((1 + level) / 2)
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(dof))
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _within(middle, dof) < level else (low, middle)
    return math.sqrt(dof) * math.tan(0.5 * (low + high))


def student_within(t: float, dof: int) -> float:
    """Probability that Student's |t| with `dof` degrees of freedom is below `t`."""
    return _within(math.atan(abs(t) / math.sqrt(dof)), dof)


def _within(angle: float, dof: int) -> float:
    """The finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4, at t = sqrt(dof) tan(angle)."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    term = total = math.cos(angle) if dof % 2 else 1.0
    for k in range(3 if dof % 2 else 2, dof - 1, 2):
        term *= square * (k - 1) / k
        total += term
    if dof % 2 == 0:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if dof > 1 else 0.0))
