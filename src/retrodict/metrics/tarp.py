"""Coverage tested with random points: joint calibration in many dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.metrics._arrays import as_tensor, same_shape
from retrodict.metrics._results import against
from retrodict.metrics.ranks import ranks

__all__ = ["Tarp", "kolmogorov_sf", "tarp"]


@dataclass(frozen=True)
class Tarp:
    """Credibility levels `alpha` (L,) and their expected coverage `ecp` (L,), equal when calibrated. No units.

    `distance` is the Kolmogorov-Smirnov distance to the diagonal, over all levels rather than the L shown, and
    `p_value` its probability under "calibrated". `members` is the number of samples that were ranked.
    """

    alpha: Tensor
    ecp: Tensor
    distance: float
    p_value: float
    members: int


def tarp(samples: object, truth: Tensor, references: Tensor | None = None, seed: int = 0, *, levels: int = 21) -> Tarp:
    """Test of the coverage of balls around random points (Lemos et al., arXiv:2302.03026, 2023).

    Shapes: `samples` (K, n, ...), `truth` (n, ...) of n independent items, each flattened to d; `references` (n, ...).
    Formula: with rank_b the number of samples of item b nearer (Euclidean) to its reference point r_b than the truth
    is and u uniform, f_b = (rank_b + u) / (K + 1) is exactly uniform when calibrated, for any finite K and any r_b
    that is independent of truth and samples once the data are given; ecp(alpha) = fraction of f_b < alpha.
    Without `references`, a quarter of the samples of each item (at least one) is set aside, is not ranked, and gives
    r_b = mean + sum_j g_j (x_j - mean) / sqrt(h - 1), g_j standard normal: a point at the distance of the spread, in
    the directions of the spread, that moves with the data, as it must for the test to notice a sampler that ignores
    them. References of your own must come neither from the truth nor from these samples.
    `p_value`: see `kolmogorov_sf`, with the argument of Stephens (J. R. Stat. Soc. B 32, 1970) for finite n.
    """
    x, t = against(samples, truth)
    if t.ndim < 1 or levels < 2:
        raise InputError("tarp", f"truth {tuple(t.shape)} and {levels} levels", "items (n, ...) and at least 2 levels")
    x, t = x.reshape(len(x), len(t), -1), t.reshape(len(t), -1)
    if references is None:
        held = max(1, len(x) // 4)
        r, x = _reference(x[:held], seed), x[held:]
    else:
        r, _ = same_shape("references", as_tensor(references).reshape(len(references), -1), "truth", t)
        r = r.to(x.device)
    near = torch.stack([(sample - r).square().sum(-1) for sample in (t, *x)])
    f = _credibility(near[1:], near[0], seed)
    alpha = torch.linspace(0, 1, levels, dtype=torch.float64, device="cpu")
    ecp = (f[None, :] < alpha[:, None]).double().mean(1)
    distance, root = _distance(f), math.sqrt(len(f))
    return Tarp(alpha, ecp, distance, kolmogorov_sf((root + 0.12 + 0.11 / root) * distance), len(x))


def _reference(held: Tensor, seed: int) -> Tensor:
    """Points (n, d) from samples (h, n, d) that are not ranked; a single sample is its own point."""
    center, h = held.mean(0), len(held)
    draw = torch.Generator().manual_seed(key(seed, "tarp-reference"))
    weight = torch.randn(h, held.shape[1], generator=draw, dtype=torch.float64, device="cpu").to(held.device)
    return center + torch.einsum("hn,hnd->nd", weight, held - center) / math.sqrt(max(h - 1, 1))


def _credibility(near: Tensor, own: Tensor, seed: int) -> Tensor:
    """Randomized ranks (n,) in (0, 1) of `own` (n,) among `near` (K, n)."""
    below = ranks(near, own, seed=seed) if len(near) > 1 else (near[0] < own).long()
    draw = torch.Generator().manual_seed(key(seed, "tarp-rank"))
    u = torch.rand(own.shape, generator=draw, dtype=torch.float64, device="cpu")
    return (below.cpu() + u) / (len(near) + 1)


def _distance(f: Tensor) -> float:
    """Largest gap between the empirical distribution of f (n,) and the uniform one."""
    value, n = f.sort().values, len(f)
    step = torch.arange(n + 1, dtype=torch.float64, device="cpu") / n
    return float(torch.maximum(step[1:] - value, value - step[:-1]).max())


def kolmogorov_sf(x: float) -> float:
    """Probability that the limit law of sqrt(n) D_n exceeds x.

    Formula: 2 sum_j (-1)^(j-1) exp(-2 j^2 x^2), or below 1, where that converges slowly, its equal
    1 - sqrt(2 pi) / x sum_j exp(-(2 j - 1)^2 pi^2 / (8 x^2)) (Feller, Ann. Math. Stat. 19, 1948).
    """
    if x <= 0.05:  # smaller than 1 by less than 1e-200
        return 1.0
    if x < 1:
        total = sum(math.exp(-(((2 * j - 1) * math.pi / x) ** 2) / 8) for j in range(1, 6))
        return 1 - math.sqrt(2 * math.pi) / x * total
    return 2 * sum((-1) ** (j - 1) * math.exp(-2 * (j * x) ** 2) for j in range(1, 8))
