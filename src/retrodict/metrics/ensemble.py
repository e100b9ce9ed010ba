"""Whether the spread of an ensemble is that of its error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._arrays import double, same_shape

__all__ = ["Decomposition", "SpreadSkill", "decompose", "spread_skill"]


@dataclass(frozen=True)
class Decomposition:
    """Mean squared error of single samples, split; all in the image unit squared. See `decompose`."""

    mse: float
    bias2: float
    variance: float
    bias2_corrected: float
    variance_corrected: float


def decompose(samples: Tensor, truth: Tensor) -> Decomposition:
    """Split the error of single samples into squared bias and variance.

    Shapes: `samples` (K, ...), `truth` (...), K >= 2. Unit: image unit squared, averaged over pixels.
    Formula: mse = mean_k mean((x_k - t)^2), bias2 = mean((m - t)^2), variance = mean_k mean((x_k - m)^2) with m the
    mean of the K samples, so that mse = bias2 + variance exactly (Geman et al., Neural Comput. 4, 1992).
    Those two depend on K. The corrected values do not, in expectation: variance_corrected = variance K / (K - 1) and
    bias2_corrected = bias2 - variance_corrected / K, which may be negative by chance; they too add up to mse.
    """
    x, t = double("samples", samples), double("truth", truth)
    if x.ndim != t.ndim + 1 or x.shape[1:] != t.shape:
        raise InputError("samples", f"shape {tuple(x.shape)}", f"shape (K, ...) with ... = {tuple(t.shape)}")
    count = x.shape[0]
    if count < 2:
        raise InputError("samples", "K = 1", "at least two samples, or there is no variance")
    center = x.mean(0)
    error, bias2 = float((x - t).square().mean()), float((center - t).square().mean())
    variance = float((x - center).square().mean())
    corrected = variance * count / (count - 1)
    return Decomposition(error, bias2, variance, bias2 - corrected / count, corrected)


@dataclass(frozen=True)
class SpreadSkill:
    """Both numbers have no unit and are 1 for a calibrated ensemble, above 1 for one that is too sure of itself."""

    ssr: float
    skill_over_spread: float


def spread_skill(mean: Tensor, variance_unbiased: Tensor, truth: Tensor, count: int | None) -> SpreadSkill:
    """Compare the error of the ensemble mean with the spread of the ensemble.

    Shapes: all three of one shape. Unit: none. `count` is the number K of samples, at least 2; None means that mean
    and variance are exact, as if K were infinite.
    Formula: skill_over_spread = MSE(mean, truth) / ((1 + 1/K) mean(variance)) and ssr is its square root,
    sqrt(K/(K+1) MSE / mean(variance)). The factor belongs to the mean of K samples, which errs by variance / K more
    than the true mean (Fortin et al., J. Hydrometeorol. 15, 2014; they print the inverse, spread over skill).
    """
    m, t = same_shape("mean", mean, "truth", truth)
    m, v = same_shape("mean", m, "variance_unbiased", variance_unbiased)
    if count is not None and count < 2:
        raise InputError("count", count, "at least 2 samples")
    spread = float(v.mean()) * (1 + (1 / count if count else 0))
    if bool((v < 0).any()) or spread <= 0:
        raise InputError("variance_unbiased", "a negative or everywhere zero variance", "a variance above 0")
    ratio = float((m - t).square().mean()) / spread
    return SpreadSkill(math.sqrt(ratio), ratio)
