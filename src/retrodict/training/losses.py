"""One denoising loss; the published losses are weights of the error of D (structured spec 0.7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import choice
from retrodict._random import uniform, white
from retrodict.denoisers.denoiser import LinearEstimate
from retrodict.denoisers.network import NetDenoiser
from retrodict.processes.process import Cond, Moments, Process, ratio

__all__ = ["WEIGHTS", "Losses", "denoising_loss", "draw_times", "simulate"]


Weight = Callable[[Moments, Tensor], Tensor]


WEIGHTS: dict[str, Weight] = {
    "data": lambda m, g2: torch.ones_like(m.s2),
    "eps": lambda m, g2: ratio(m.h**2, m.s2),
    "score": lambda m, g2: ratio(m.h**2, m.s2**2),
    "whitened": lambda m, g2: ratio(g2**2 * m.h**2, m.s2**2),
    "soft": lambda m, g2: m.h**2,
    "likelihood": lambda m, g2: ratio(g2 * m.h**2, m.s2**2),
}
"""Weight on |D - u_0|^2 per coefficient.  On the eps error these are S/H^2, 1, 1/S, G^4/S, S and G^2/S."""


class Losses(NamedTuple):
    """Per-item losses `(B,)`: total to minimize, weighted squared error, negative log-likelihood of the spread."""

    total: Tensor
    error: Tensor
    spread: Tensor


def draw_times(seeds: Tensor, first: float = 1e-3) -> Tensor:
    """One time in [first, 1] per seed, `(B,)` float64."""
    return first + (1 - first) * uniform(seeds, "time", 0)


def simulate(process: Process, x0: Tensor, t: Tensor, seeds: Tensor) -> tuple[Tensor, Cond]:
    """x_t and, for external conditioning, a measurement with noise of its own: x0 `(B, 1, *N)` -> (xt, cond)."""
    z = white(seeds, "state", 0, x0.shape[1:]).to(x0)
    if process.conditioning != "external":
        return process.corrupt(x0, t, z), Cond()
    y = x0
    if process.measured is not None:
        gain, variance = process.measured
        noise = process.basis.forward(white(seeds, "measurement", 0, x0.shape[1:]).to(x0))
        y = process.basis.inverse(gain.to(x0) * process.basis.forward(x0) + variance.sqrt().to(x0) * noise)
    return process.corrupt(x0, t, z, y if process.anchored else None), Cond(image=y)


def denoising_loss(
    denoiser: NetDenoiser, x0: Tensor, seeds: Tensor, weight: str = "unit", spread_weight: float = 0.1
) -> Losses:
    """Loss of each item of x0 `(B, 1, *N)` at a random time; every draw is a function of its seed.

    weight "unit": mean |D - x_0|^2 / c_out^2 (unit-variance target; for predicts="wiener"), or one of `WEIGHTS`.
    Where the network predicts variances, the Gaussian negative log-likelihood of its own error in every band is added
    with `spread_weight`; the error is detached there, so that the variance cannot bias the mean.
    """
    t = draw_times(seeds)
    xt, cond = simulate(denoiser.process, x0, t, seeds)
    if denoiser.predicts != "wiener":
        return _plain_loss(denoiser, x0, xt, t, cond, weight)
    out, c_out, linear, skip = denoiser.training_terms(xt, t, cond)
    mean = skip + c_out.to(x0) * out[:, :1]
    if weight == "unit":
        error = ((out[:, :1] - (x0 - skip) / c_out.to(x0)) ** 2).flatten(1).mean(1)
    else:
        error = _weighted(denoiser.process, mean - x0, t, weight)
    if not denoiser.bands:
        return Losses(error, error, torch.zeros_like(error))
    nll = _spread_nll(denoiser, (x0 - mean).detach(), linear, out[:, 1:])
    return Losses(error + spread_weight * nll, error, nll)


def _plain_loss(denoiser: NetDenoiser, x0: Tensor, xt: Tensor, t: Tensor, cond: Cond, weight: str) -> Losses:
    error = _weighted(denoiser.process, denoiser(xt, t, cond) - x0, t, "eps" if weight == "unit" else weight)
    return Losses(error, error, torch.zeros_like(error))


def _weighted(process: Process, error: Tensor, t: Tensor, weight: str) -> Tensor:
    basis = process.basis
    density = WEIGHTS[choice("loss weight", weight, WEIGHTS)](process.moments(t), process.rates(t).G2)
    energy = basis.forward(error).abs() ** 2
    return (energy * (density * basis.multiplicity()).to(error)).flatten(1).sum(1) / math.prod(basis.size)


def _spread_nll(denoiser: NetDenoiser, error: Tensor, linear: LinearEstimate, log_ratio: Tensor) -> Tensor:
    """Mean over bands and pixels of (log p + e^2 / p) / 2 of the whitened error of each band, `(B,)`."""
    e2, p, filled = _band_errors(denoiser, error, linear.v, log_ratio)
    terms = 0.5 * (p.log() + e2 / p)[:, filled]
    return terms.flatten(2).mean(2).mean(1)


def _band_errors(
    denoiser: NetDenoiser, error: Tensor, v: Tensor, log_ratio: Tensor
) -> tuple[Tensor, Tensor, list[int]]:
    """Squared whitened error e_b^2 and its predicted variance p_b, `(B, bands, *N)`, and the bands that are not empty.

    e_b = B^-1 [F_b v^-1/2 B error] has local variance p_b = sum_b' M_bb' ratio_b', M_bb' = mean F_b^2 F_b'^2.
    """
    basis = denoiser.process.basis
    filters = denoiser._filters
    assert filters is not None
    whitened = basis.forward(error) * ratio(torch.ones_like(v), v.sqrt()).to(error)
    weight = basis.multiplicity() / math.prod(basis.size)
    overlap = torch.einsum("a...,b...,...->ab", filters**2, filters**2, weight)
    scale = torch.einsum("a...,...->a", filters**2, weight)
    overlap = (overlap / overlap.sum(1, keepdim=True).clamp_min(1e-300)).to(error)
    local = log_ratio.clamp(-14.0, 5.0).exp()
    filled = [b for b in range(len(filters)) if float(scale[b]) > 0]  # the pixel basis has no frequencies to divide
    squares = [
        basis.inverse(filters[b].to(error) * whitened)[:, 0] ** 2 / max(float(scale[b]), 1e-300)
        for b in range(len(filters))
    ]
    return torch.stack(squares, 1), torch.einsum("ab,nb...->na...", overlap, local), filled
