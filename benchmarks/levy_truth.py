"""The posterior of increments of a Levy process by Gibbs sampling: what the entries of `levy.py` are compared with.

Increments u are scale mixtures of Gaussians, y = M u + n with white noise.  A sweep draws the scale of every increment
given u, and all increments at once given their scales, by one factorisation (Andrews and Mallows 1974; Zach et al. 2026
do the same).  Laws with an atom at 0, or with tails as those of Student(1), do not mix so: for them each scale is drawn
given the other scales and y, with the increments integrated out, and then all increments at once.
All chains of all items are one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict.denoisers.scale_mixture import ScaleMixture

FAR = 100.0
"""Variance of a law above which its tails are so heavy that scales and increments in turn do not mix."""


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
    """Variances of increments u."""
    v = law.variances
    logs = law.weights.log() - 0.5 * v.log() - u[..., None].square() * (0.5 / v)
    return v[_pick(logs, generator)]


def increments_given(gram: Tensor, right: Tensor, scales: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mean and a draw of u given its scales; gram M^T M / s^2, right M^T y / s^2 `(B, n)`."""
    root, unit = scales.sqrt(), torch.eye(len(gram), dtype=gram.dtype)
    factor = torch.linalg.cholesky(unit + root[:, :, None] * gram * root[:, None, :])
    mean = root * torch.cholesky_solve((root * right)[..., None], factor)[..., 0]
    z = torch.randn(*scales.shape, 1, generator=generator, dtype=gram.dtype)
    return mean, mean + root * torch.linalg.solve_triangular(factor.mT, z, upper=True)[..., 0]


def scales_alone(
    law: ScaleMixture, M: Tensor, y: Tensor, noise: float, v: Tensor, generator: torch.Generator
) -> Tensor:
    """Every scale given the others and y `(B, m)`, in random order, with all increments integrated out.

    y ~ N(0, S), S = noise + sum_j v_j a_j a_j^T.  Without increment i, tau = a^T S^-1 a and beta = a^T S^-1 y, so that
    a scale v has weight p (1 + v tau)^-1/2 exp(v beta^2 / 2 (1 + v tau)).
    """
    v, unit = v.clone(), torch.eye(len(M), dtype=M.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(noise * unit + (M * v[:, None, :]) @ M.T))
    for i in torch.randperm(M.shape[1], generator=generator).tolist():
        k = inverse @ M[:, i]
        whole, now = k @ M[:, i], v[:, i]
        left = 1 - now * whole
        tau, beta = whole / left, (k * y).sum(-1) / left
        total = 1 + law.variances * tau[:, None]
        logs = law.weights.log() - 0.5 * total.log() + 0.5 * law.variances * beta[:, None].square() / total
        new = law.variances[_pick(logs, generator)]
        change = now / left - new / (1 + new * tau) / left.square()
        inverse = torch.baddbmm(inverse, (change[:, None] * k)[:, :, None], k[:, None, :])
        v[:, i] = new
    return v


def gibbs(
    law: ScaleMixture, M: Tensor, y: Tensor, noise: float, *, chains: int, sweeps: int, burn: int, seed: int = 0
) -> Truth:
    """Posterior of u `(n,)` given each of y `(items, m)` = M u + sqrt(noise) z."""
    generator = torch.Generator().manual_seed(seed)
    items, n = len(y), M.shape[1]
    gram, right = M.T @ M / noise, (y @ M / noise).repeat_interleave(chains, 0)
    atom = bool((law.variances == 0).any())
    alone = atom or law.variance > FAR
    start = torch.full((items * chains, n), 0.0 if atom else min(law.variance, FAR), dtype=torch.float64)
    data, scales = y.repeat_interleave(chains, 0), start
    kept, mean = [], torch.zeros(items * chains, n, dtype=torch.float64)
    u = increments_given(gram, right, start, generator)[1]
    for k in range(sweeps):
        scales = scales_alone(law, M, data, noise, scales, generator) if alone else scales_given(law, u, generator)
        middle, u = increments_given(gram, right, scales, generator)
        if k >= burn:
            mean += middle / (sweeps - burn)
            kept.append(u)
    samples = torch.stack(kept, 1).reshape(items, chains, sweeps - burn, n)
    within = samples.cumsum(-1).var(2).mean((1, 2))
    total = samples.flatten(1, 2).cumsum(-1).var(1).mean(1)
    return Truth(samples.flatten(1, 2), mean.reshape(items, chains, n).mean(1), float((total / within).max()))
