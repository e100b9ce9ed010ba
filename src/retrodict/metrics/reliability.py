"""Whether predicted standard deviations are the errors found: by size, by place, by level, and as z-scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._results import against, images
from retrodict.metrics.calibration import _student, central_factor, coverage, z_scores

__all__ = [
    "CoverageCurve",
    "ReliabilityCurve",
    "ZSummary",
    "coverage_curve",
    "reliability_curve",
    "reliability_map",
    "z_summary",
]

LEVELS = tuple(round(0.05 * j, 2) for j in range(1, 20))
ITEMS = 8  # with fewer items than this, standard errors come from blocks of them
PARTS = 4  # blocks along each of the last two axes


@dataclass(frozen=True)
class ReliabilityCurve:
    """One entry per bin, (bins,), from the smallest predicted standard deviation to the largest.

    `predicted` and `observed` in the image unit, for means of `members` samples; `ratio` = observed / predicted,
    1 when calibrated; `standard_error` of the ratio and its 95 % band `ratio_low`, `ratio_high`, NaN where fewer than
    two images or blocks reach into the bin. See `reliability_curve`.
    """

    predicted: Tensor
    observed: Tensor
    ratio: Tensor
    standard_error: Tensor
    ratio_low: Tensor
    ratio_high: Tensor
    members: int


@dataclass(frozen=True)
class CoverageCurve:
    """`nominal` (L,) and `observed` (L,) coverage, equal when calibrated, and the `standard_error` of the latter."""

    nominal: Tensor
    observed: Tensor
    standard_error: Tensor


@dataclass(frozen=True)
class ZSummary:
    """Mean and variance of z = (truth - mean) / sd, no unit.

    `ratio` = variance / expected_variance is 1 when calibrated, above 1 where sd is too small; `ratio_low` and
    `ratio_high` are its 95 % band. `mean_error`: standard error of the mean.
    """

    mean: float
    mean_error: float
    variance: float
    expected_variance: float
    ratio: float
    ratio_low: float
    ratio_high: float


def reliability_curve(samples: object, truth: Tensor, bins: int = 10) -> ReliabilityCurve:
    """Error found against standard deviation predicted, in bins of equal numbers of pixels sorted by the latter.

    Shapes: `samples` (K, n, ...), `truth` (n, ...), K >= 4. Unit: image unit. Formula: predicted =
    sqrt((1 + 1/k) <variance>), observed = sqrt(<(mean - truth)^2>) over the pixels of a bin (after Leutbecher and
    Palmer, J. Comput. Phys. 227, 2008). Pixels are sorted with one half of the samples and judged with the k samples
    of the other half, then the other way round. Sorted by the very variance that is judged, the bin of the smallest
    would collect those that came out small by chance and look too sure of itself, however good the ensemble: by a
    factor 1.2 even with 64 samples. Only the split makes a ratio of 1 exact for any posterior.
    Errors: over images where there are at least 8, else over 4 x 4 blocks of each, as clusters of a ratio estimate
    (Cochran, Sampling Techniques, 1977, ch. 6).
    """
    x, t = against(samples, truth)
    if len(x) < 4:
        raise InputError("samples", f"K = {len(x)}", "at least 4: one half sorts the pixels, the other is judged")
    if not 1 <= bins <= t.numel():
        raise InputError("bins", bins, f"from 1 to the number of pixels, {t.numel()}")
    half = len(x) // 2
    first, second = x[:half], x[half : 2 * half]
    label, count = _clusters(t.shape)
    label = label.to(x.device)
    parts = [_binned(a, b, t, label, count, bins) for a, b in ((first, second), (second, first))]
    square, variance, pixels = (one + two for one, two in zip(*parts, strict=True))
    if bool((variance.sum(0) <= 0).any()):
        raise InputError("samples", "pixels without any spread", "samples that differ", "Mask these pixels.")
    number = pixels.sum(0)
    predicted, observed = (variance.sum(0) / number).sqrt(), (square.sum(0) / number).sqrt()
    ratio = observed / predicted
    error, used = _ratio_error(square, variance, pixels > 0)
    error = error / (2 * ratio)
    low, high = _band(ratio, error, used)
    return ReliabilityCurve(predicted, observed, ratio, error, low, high, half)


def _binned(sort: Tensor, judge: Tensor, truth: Tensor, label: Tensor, count: int, bins: int) -> tuple[Tensor, ...]:
    """Sums (count, bins) of squared error, of expected squared error, and of pixels."""
    order = sort.var(0).flatten().argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) * bins // len(order)
    cell = label * bins + place
    square = (judge.mean(0) - truth).square().flatten()
    expected = judge.var(0).flatten() * (1 + 1 / len(judge))
    values = square, expected, torch.ones_like(square)
    return tuple(torch.bincount(cell, v, count * bins).reshape(count, bins) for v in values)


def reliability_map(samples: object, truth: Tensor, width: float) -> Tensor:
    """Local mean of squared error over local mean of predicted variance: 1 where the standard deviation is right.

    Shapes: `samples` (K, n, H, W), `truth` (n, H, W), or without n; result (H, W). Units: `width` in pixels, full
    width at half maximum of the Gaussian window; result none, above 1 where the ensemble is too sure of itself.
    Formula: G * <(mean - truth)^2> / (G * (1 + 1/K) <unbiased variance>) with <> over the n images and G * the
    Gaussian-weighted mean over the pixels inside the image. It scatters by about sqrt(2 / N) where the window holds
    N independent errors over all images: widen it, or add images, before reading structure into the map.
    """
    x, t = images(samples, truth)
    if not 0 < width < math.inf:
        raise InputError("width", width, "a finite number of pixels above 0")
    square = (x.mean(0) - t).square().mean(0)
    expected = (1 + 1 / len(x)) * x.var(0).mean(0)
    row, col = (_gauss(n, width).to(x.device) for n in t.shape[-2:])
    below = row @ expected @ col
    if bool((below <= 0).any()):
        raise InputError("samples", "places without any spread", "samples that differ", "Crop, or widen the window.")
    return (row @ square @ col) / below


def _gauss(size: int, width: float) -> Tensor:
    """Symmetric weights (size, size) exp(-d^2 / (2 s^2)), s = width / sqrt(8 log 2); the ratio needs no norm."""
    place = torch.arange(size, dtype=torch.float64, device="cpu")
    return torch.exp(-4 * math.log(2) * ((place[:, None] - place[None, :]) / width).square())


def coverage_curve(samples: object, truth: Tensor, levels: Sequence[float] = LEVELS) -> CoverageCurve:
    """Coverage of the central intervals of a normal posterior, level by level: the reliability diagram.

    Shapes: `samples` (K, n, ...), `truth` (n, ...), K >= 2. Unit: fraction. Formula: `coverage` with count = K, that
    is, Student intervals, exact for normal posteriors at any K. For others use `ranks`, which assume no law.
    The standard error is over images or blocks, as in `reliability_curve`.
    """
    x, t = against(samples, truth)
    mean, sd = x.mean(0), x.std(0)
    observed = coverage(mean, sd, t, levels, count=len(x))
    label, count = _clusters(t.shape)
    hits = [(t - mean).abs() <= central_factor(p, len(x)) * sd for p in levels]
    inside = torch.stack([_sums(h.double(), label, count) for h in hits], 1)
    size = _sums(torch.ones_like(t), label, count)[:, None].expand_as(inside)
    error, _ = _ratio_error(inside, size, size > 0)
    return CoverageCurve(torch.tensor(list(levels), dtype=torch.float64, device="cpu"), observed, error)


def z_summary(samples: object, truth: Tensor) -> ZSummary:
    """Pooled z-scores against their law for K samples.

    Shapes: `samples` (K, n, ...), `truth` (n, ...), K >= 4. Unit: none. Formula: z = (truth - mean) / sd; for a normal
    posterior z / sqrt(1 + 1/K) is Student with K - 1 degrees of freedom, so that the variance of z is
    (1 + 1/K) (K - 1) / (K - 3), not 1. Below K = 6 the Student law has no fourth moment: ratio and band then scatter
    wildly. The band is over images or blocks, as in `reliability_curve`.
    """
    x, t = against(samples, truth)
    k = len(x)
    if k < 4:
        raise InputError("samples", f"K = {k}", "at least 4, or z has no finite variance")
    z = z_scores(x.mean(0), x.std(0), t)
    mean, expected = float(z.mean()), (1 + 1 / k) * (k - 1) / (k - 3)
    label, count = _clusters(t.shape)
    size = _sums(torch.ones_like(z), label, count)
    square = _sums((z - mean).square(), label, count)
    mean_error, _ = _ratio_error(_sums(z, label, count)[:, None], size[:, None], size[:, None] > 0)
    error, used = _ratio_error(square[:, None], expected * size[:, None], size[:, None] > 0)
    variance = float((z - mean).square().mean())
    ratio = torch.tensor([variance / expected], dtype=torch.float64, device="cpu")
    low, high = _band(ratio, error.cpu(), used)
    return ZSummary(mean, float(mean_error), variance, expected, float(ratio), float(low), float(high))


def _clusters(shape: Sequence[int]) -> tuple[Tensor, int]:
    """Cluster number of every value (flattened), and how many: items, or blocks of them where items are few."""
    number = torch.zeros(tuple(shape), dtype=torch.int64, device="cpu")
    split = [0] if shape and shape[0] >= ITEMS else [0, *range(max(1, len(shape) - 2), len(shape))]
    for axis in split[: len(shape)]:
        parts = PARTS if axis else shape[0]
        part = torch.arange(shape[axis], device="cpu") * parts // shape[axis]
        number = number * parts + part.reshape([-1 if j == axis else 1 for j in range(len(shape))])
    used, label = number.flatten().unique(return_inverse=True)
    return label, len(used)


def _sums(values: Tensor, label: Tensor, count: int) -> Tensor:
    """Sums (count,) of values over clusters."""
    return torch.bincount(label.to(values.device), values.flatten(), count)


def _ratio_error(above: Tensor, below: Tensor, filled: Tensor) -> tuple[Tensor, list[int]]:
    """Standard error of sum(above) / sum(below) over clusters (C, L), for each of L; and how many took part."""
    ratio = above.sum(0) / below.sum(0)
    used = filled.sum(0)
    spread = (above - ratio * below).square().sum(0) * used / (used - 1)
    return torch.where(used > 1, spread.sqrt() / below.sum(0), math.nan), used.tolist()


def _band(ratio: Tensor, error: Tensor, used: list[int]) -> tuple[Tensor, Tensor]:
    """95 % band of a positive ratio, symmetric in its logarithm, Student with one degree less than clusters."""
    known = {u: _student(0.95, u - 1) if u > 1 else math.nan for u in set(used)}
    factor = torch.tensor([known[u] for u in used], dtype=torch.float64, device=ratio.device)
    reach = torch.exp(factor * error / ratio)
    return ratio / reach, ratio * reach
