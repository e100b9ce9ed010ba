"""Rank of the truth among its samples, and simulation-based calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import key, white
from retrodict.metrics._arrays import as_tensor, double
from retrodict.metrics._results import against

__all__ = [
    "STATISTICS",
    "RankHistogram",
    "chi_square_sf",
    "mean_of",
    "pixel_at",
    "projection",
    "rank_histogram",
    "ranks",
    "simulation_based_calibration",
    "total_variation",
]

Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RankHistogram:
    """Counts of ranks (bins,), what a uniform law lets expect (bins,), chi2, and the probability of so large a chi2.

    `p_value` is computed under "calibrated"; a small one speaks against. A hill in `counts` is an ensemble too broad,
    a valley one too narrow, a slope a bias. `members` is K.
    """

    counts: Tensor
    expected: Tensor
    chi2: float
    p_value: float
    members: int


def ranks(samples: object, truth: Tensor, *, seed: int = 0) -> Tensor:
    """Rank of the truth among its K samples: uniform on 0 ... K for a calibrated ensemble, whatever K and the law.

    Shapes: `samples` (K, ...), `truth` (...), result (...) int64. Unit: none. Formula: number of samples below the
    truth, plus a uniform draw from 0 ... E where E samples equal it, seeded (Hamill, Mon. Weather Rev. 129, 2001).
    """
    x, t = against(samples, truth)
    below, equal = (x < t).sum(0), (x == t).sum(0)
    draw = torch.Generator().manual_seed(key(seed, "rank-ties"))
    u = torch.rand(t.shape, generator=draw, dtype=torch.float64, device="cpu").to(t.device)
    return below + (u * (equal + 1)).long()


def rank_histogram(ranks: Tensor, K: int, bins: int | None = None) -> RankHistogram:
    """Test ranks 0 ... K of independent items for uniformity.

    Shapes: `ranks` of any shape; record of `bins` entries. Without `bins` there are as many as give ten items each,
    at most 20 and at most K + 1. Formula: bin floor(rank bins / (K + 1)), expected count in proportion to the number
    of ranks it holds, chi2 = sum (count - expected)^2 / expected with bins - 1 degrees of freedom. The law holds for
    independent ranks: take one pixel per image, not all pixels of it.
    """
    r = as_tensor(ranks).flatten().cpu()
    if r.is_floating_point() or r.numel() == 0 or int(r.min()) < 0 or int(r.max()) > K:
        raise InputError("ranks", f"{r.numel()} values of {r.dtype}", f"whole numbers from 0 to K = {K}")
    bins = min(20, K + 1, max(2, r.numel() // 10)) if bins is None else bins
    if not 2 <= bins <= K + 1:
        raise InputError("bins", bins, f"from 2 to K + 1 = {K + 1}")
    counts = torch.bincount(r.long() * bins // (K + 1), minlength=bins).double()
    size = torch.bincount(torch.arange(K + 1, device="cpu") * bins // (K + 1), minlength=bins).double()
    expected = size * (r.numel() / (K + 1))
    chi2 = float(((counts - expected).square() / expected).sum())
    return RankHistogram(counts, expected, chi2, chi_square_sf(chi2, bins - 1), K)


def chi_square_sf(chi2: float, dof: float) -> float:
    """Probability that chi-square with `dof` degrees of freedom exceeds `chi2`: Q(dof / 2, chi2 / 2)."""
    half = torch.tensor([dof / 2, chi2 / 2], dtype=torch.float64, device="cpu")
    return float(torch.special.gammaincc(half[0], half[1]))


def pixel_at(*index: int) -> Statistic:
    """Test quantity: the value at `index`, such as (row, column); the middle without one. (n, ...) to (n,)."""

    def statistic(x: Tensor) -> Tensor:
        at = index or tuple(size // 2 for size in x.shape[1:])
        if len(at) != x.ndim - 1:
            raise InputError("pixel_at", f"index {at}", f"{x.ndim - 1} numbers for items of shape {tuple(x.shape[1:])}")
        return x[(slice(None), *at)]

    return statistic


def mean_of(*region: slice) -> Statistic:
    """Test quantity: the mean over `region`, one slice per last axis; of everything without. (n, ...) to (n,)."""

    def statistic(x: Tensor) -> Tensor:
        return x[(..., *region)].flatten(1).mean(1)

    return statistic


def total_variation(x: Tensor) -> Tensor:
    """Test quantity: sum of |differences of neighbors| along all axes but the first, (n, ...) to (n,)."""
    along = [x.diff(dim=axis).abs().flatten(1).sum(1) for axis in range(1, x.ndim)]
    return torch.stack(along).sum(0) if along else torch.zeros_like(x)


def projection(seed: int = 0) -> Statistic:
    """Test quantity: product with one random direction of unit length, the same for all items. (n, ...) to (n,)."""

    def statistic(x: Tensor) -> Tensor:
        w = white([seed], "sbc-projection", 0, tuple(x.shape[1:])).flatten().to(x)
        return x.flatten(1) @ (w / w.norm())

    return statistic


STATISTICS: dict[str, Statistic] = {
    "pixel": pixel_at(),
    "mean": mean_of(),
    "total_variation": total_variation,
    "projection": projection(),
}


def simulation_based_calibration(
    samples: object,
    truth: Tensor,
    statistics: Mapping[str, Statistic] | Sequence[str] = tuple(STATISTICS),
    *,
    bins: int | None = None,
    seed: int = 0,
) -> dict[str, RankHistogram]:
    """Rank histogram of each test quantity over n independent items (Talts et al., arXiv:1804.06788, 2018).

    Shapes: `samples` (K, n, ...), `truth` (n, ...). `statistics` are names in `STATISTICS` or functions by name; each
    maps (n, ...) to (n,) and is called for the truth and for every sample, so one may use the data of the n items by
    closure. It should: a sampler that ignores the data and draws from the prior passes every quantity of the image
    alone (Modrak et al., Bayesian Anal., 2023). Each p_value is for one quantity; of several, compare the smallest
    with the level divided by their number. Truth and data must come from the prior that the sampler assumes.
    """
    x, t = against(samples, truth)
    if t.ndim < 1:
        raise InputError("truth", "one number", "items (n, ...)")
    if not isinstance(statistics, Mapping):
        statistics = {name: STATISTICS[choice("statistics", name, STATISTICS)] for name in statistics}
    out = {}
    for j, (name, statistic) in enumerate(statistics.items()):
        values = torch.stack([double(name, statistic(item)) for item in (t, *x)])
        if values.shape != (len(x) + 1, len(t)):
            raise InputError(name, f"values of shape {tuple(values.shape[1:])}", f"one for each of {len(t)} items")
        out[name] = rank_histogram(ranks(values[1:], values[0], seed=key(seed, "sbc", j)), len(x), bins)
    return out
