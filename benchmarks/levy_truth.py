"""The posterior of increments of a Levy process by Gibbs sampling: what the entries of `levy.py` are compared with.

Increments u are scale mixtures of Gaussians, y = M u + n with white noise.  A sweep draws the scale of every increment
given u, and all increments at once given their scales, by one factorisation (Andrews and Mallows 1974; Zach et al. 2026
do the same).  Laws with an atom at 0 do not mix so: for them every increment is drawn given the others, scale and value
together, and neighbours are exchanged (accepted by Metropolis), before the increments that are not 0 are drawn at once.
All chains of all items are one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict.denoisers.scale_mixture import ScaleMixture


@dataclass(frozen=True)
class Truth:
    """Samples `(items, samples, n)` of the posterior, its mean `(items, n)` (of conditional means), and the worst ratio
    of the variance of all samples to that within chains (1 where chains agree).
    """

    samples: Tensor
    mean: Tensor
    spread: float


def _pick(logs: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from unnormalised log weights along the last axis."""
    return (logs - torch.empty_like(logs).exponential_(generator=generator).log()).argmax(-1)


def scales_given(law: ScaleMixture, u: Tensor, generator: torch.Generator) -> Tensor:
    """Variances of increments u; 0 for an increment that is 0 under a law with an atom."""
    solid = law.variances > 0
    v, p = law.variances[solid], law.weights[solid]
    logs = p.log() - 0.5 * v.log() - u[..., None].square() * (0.5 / v)
    found = v[_pick(logs, generator)]
    return found if bool(solid.all()) else torch.where(u == 0, 0.0, found)


def increments_given(
    gram: Tensor, right: Tensor, scales: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean and a draw of u given its scales; gram M^T M / s^2, right M^T y / s^2 `(B, n)`."""
    root, unit = scales.sqrt(), torch.eye(len(gram), dtype=gram.dtype)
    factor = torch.linalg.cholesky(unit + root[:, :, None] * gram * root[:, None, :])
    mean = root * torch.cholesky_solve((root * right)[..., None], factor)[..., 0]
    z = torch.randn(*scales.shape, 1, generator=generator, dtype=gram.dtype)
    return mean, mean + root * torch.linalg.solve_triangular(factor.mT, z, upper=True)[..., 0]


def one_by_one(
    law: ScaleMixture, gram: Tensor, right: Tensor, u: Tensor, generator: torch.Generator
) -> Tensor:
    """Every increment given the others, in random order, and then exchanges of neighbours."""
    slope, own, u = right - u @ gram, gram.diagonal(), u.clone()
    for i in torch.randperm(len(gram), generator=generator).tolist():
        told = slope[:, i] + own[i] * u[:, i]
        share = law.variances / (1 + law.variances * own[i])
        logs = law.weights.log() - 0.5 * (1 + law.variances * own[i]).log() + 0.5 * told[:, None].square() * share
        v = share[_pick(logs, generator)]
        new = v * told + v.sqrt() * torch.randn(len(u), generator=generator, dtype=u.dtype)
        slope = slope - (new - u[:, i])[:, None] * gram[i]
        u[:, i] = new
    for i in torch.randperm(len(gram) - 1, generator=generator).tolist():
        move = u[:, i + 1] - u[:, i]
        gain = move * (slope[:, i] - slope[:, i + 1])
        cost = 0.5 * move.square() * (own[i] + own[i + 1] - 2 * gram[i, i + 1])
        taken = (torch.rand(len(u), generator=generator, dtype=u.dtype).log() < gain - cost) * move
        u[:, i] += taken
        u[:, i + 1] -= taken
        slope = slope - taken[:, None] * (gram[i] - gram[i + 1])
    return u


def gibbs(
    law: ScaleMixture, M: Tensor, y: Tensor, noise: float, *, chains: int, sweeps: int, burn: int, seed: int = 0
) -> Truth:
    """Posterior of u `(n,)` given each of y `(items, m)` = M u + sqrt(noise) z."""
    generator = torch.Generator().manual_seed(seed)
    items, n = len(y), M.shape[1]
    gram, right = M.T @ M / noise, (y @ M / noise).repeat_interleave(chains, 0)
    atom = bool((law.variances == 0).any())
    start = torch.full((items * chains, n), 0.0 if atom else min(law.variance, 100.0), dtype=torch.float64)
    u = start if atom else increments_given(gram, right, start, generator)[1]
    kept, mean = [], torch.zeros(items * chains, n, dtype=torch.float64)
    for k in range(sweeps):
        if atom:
            u = one_by_one(law, gram, right, u, generator)
        middle, u = increments_given(gram, right, scales_given(law, u, generator), generator)
        if k >= burn:
            mean += middle / (sweeps - burn)
            kept.append(u)
    samples = torch.stack(kept, 1).reshape(items, chains, sweeps - burn, n)
    within = samples.cumsum(-1).var(2).mean((1, 2))
    total = samples.flatten(1, 2).cumsum(-1).var(1).mean(1)
    return Truth(samples.flatten(1, 2), mean.reshape(items, chains, n).mean(1), float((total / within).max()))
