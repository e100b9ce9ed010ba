"""One denoising loss; the published losses are weights of the error of D (structured spec 0.7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import uniform
from retrodict.bases import Basis
from retrodict.denoisers.network import NetDenoiser, Terms
from retrodict.denoisers.predictions import rate_of
from retrodict.processes.observation import Cond, Moments, noise_like, ratio
from retrodict.processes.process import Process

__all__ = [
    "WEIGHTS",
    "Batch",
    "Example",
    "Losses",
    "ProcessLaw",
    "band_errors",
    "band_overlap",
    "bind",
    "denoising_loss",
    "draw_times",
    "example",
    "simulate",
    "state_noise",
]

ProcessLaw = Callable[[Basis, Tensor], Process]
"""(basis, seeds `(B,)`) -> a process whose tables have a row for every item."""

Weight = Callable[[Moments, Tensor], Tensor]


WEIGHTS: dict[str, Weight] = {
    "data": lambda m, g2: torch.ones_like(m.s2),
    "eps": lambda m, g2: ratio(m.h**2, m.s2),
    "score": lambda m, g2: ratio(m.h**2, m.s2**2),
    "whitened": lambda m, g2: (ratio(g2, m.s2) * m.h) ** 2,
    "soft": lambda m, g2: m.h**2,
    "kappa": lambda m, g2: ratio(m.h**2, m.s2.flatten(2).mean(-1).reshape(*m.s2.shape[:2], *[1] * (m.s2.ndim - 2))),
    "likelihood": lambda m, g2: ratio(g2 * m.h**2, m.s2**2),
}
"""Weight on |D - u_0|^2 per coefficient.  On the eps error these are S/H^2, 1, 1/S, G^4/S, S, S over
its mean, and G^2/S.  "data", "whitened", "soft" and "kappa" never divide by the noise of a coefficient, which may be
nothing or next to nothing: with them a process of any noise kernel is trained without an inverse of it."""


Noise = Callable[[Tensor, Tensor], Tensor]
"""(white noise `(B, C, *N)`, times `(B,)`) -> the noise of a state in training."""


class Losses(NamedTuple):
    """Per-item losses `(B,)`: total to minimize, weighted squared error, negative log-likelihood of the spread."""

    total: Tensor
    error: Tensor
    spread: Tensor


def draw_times(seeds: Tensor, first: float = 1e-3) -> Tensor:
    """One time in [first, 1] per seed, `(B,)` float64."""
    return first + (1 - first) * uniform(seeds, "time", 0)


class Example(NamedTuple):
    """A batch of clean images x0 `(B, C, *N)` and, where their law is not known, of measured images beside them.

    `spacing` (mm per axis) is that of the batch where it is not the spacing of the model.  `labels`: integer label maps
    `(B, *N)` for objectives that know regions.  `white`: `state_noise` of the batch where it was drawn ahead.
    `noise`: where x0 is no clean image but holds noise of its own, the variance of that noise by coefficient
    `(B, 1, *K)` in model units squared (`training.ambient`); y is then a second such image of the same object.
    """

    x0: Tensor
    y: Tensor | None = None
    spacing: tuple[float, ...] | None = None
    labels: Tensor | None = None
    white: Tensor | None = None
    noise: Tensor | None = None


Batch = Callable[[list[int]], Tensor | Example]
"""Integer keys, one for each item, to clean images `(B, C, *N)` in model units, or to pairs."""


def example(batch: Tensor | Example, denoiser: NetDenoiser) -> Example:
    """A batch on the device of the denoiser."""
    made = batch if isinstance(batch, Example) else Example(batch)
    device = denoiser.process.basis.device
    moved = {k: x.to(device, non_blocking=True) for k, x in made._asdict().items() if isinstance(x, Tensor)}
    return made._replace(**moved)


def state_noise(x0: Tensor, seeds: Tensor) -> Tensor:
    """White noise of the states of a batch x0 `(B, C, *N)`, one stream for each of the seeds `(B,)`."""
    return noise_like(x0, seeds, "state", 0)


def simulate(
    process: Process,
    x0: Tensor,
    t: Tensor,
    seeds: Tensor,
    y: Tensor | None = None,
    noise: Noise | None = None,
    white: Tensor | None = None,
) -> tuple[Tensor, Cond]:
    """x_t and, for external conditioning, the measurement: x0 `(B, C, *N)` -> (xt, cond).

    noise: makes the noise of the state of white noise `(B, C, *N)` and times `(B,)`; None leaves it white.
    white: `state_noise` of x0 and the seeds where it was drawn ahead.

    The measurement is y where it is given, and else simulated with noise of its own; a process that does not know the
    law of its measurement needs pairs.
    """
    z = state_noise(x0, seeds) if white is None else white
    z = z if noise is None else noise(z, t)
    if not process.pairing.sees:
        return process.corrupt(x0, t, z), Cond()
    if y is None:
        y = process.pairing.simulate(x0, process.basis, seeds)
    return process.corrupt(x0, t, z, y if process.anchored else None), process.pairing.cond(y)


def denoising_loss(
    denoiser: NetDenoiser,
    batch: Tensor | Example,
    seeds: Tensor,
    weight: str = "unit",
    spread_weight: float = 0.1,
    *,
    law: ProcessLaw | None = None,
    noise: Noise | None = None,
) -> Losses:
    """Loss of each item of a batch of clean images `(B, C, *N)` at a random time; every draw is a function of its seed.

    weight "unit": mean |D - x_0|^2 / c_out^2 (unit-variance target; for predicts="wiener"), or one of `WEIGHTS`.
    Where the network predicts variances, the Gaussian negative log-likelihood of its own error in every band is added
    with `spread_weight`; the error is detached there, so that the variance cannot bias the mean.  Its target, squared
    errors of the bands around what the predicted ratios leave in them, is exact for ratios that are constant over the
    reach of the band's filter and up to a factor of 2 off, pixel by pixel, where they change over a dozen pixels (an
    edge); on average over an image `calibrate_spread` sets it right.  `law` draws a process for every item
    (`law(basis, seeds)`), whose denoiser is then trained.  `noise`: see `simulate`.
    """
    denoiser, x0, t, terms = asked(denoiser, batch, seeds, law=law, noise=noise)
    return losses_of(denoiser, x0, t, terms, weight, spread_weight)


class Asked(NamedTuple):
    """A denoiser bound to the processes of a batch, the clean images x0 `(B, C, *N)`, times t `(B,)` and what one pass
    answered to their states."""

    denoiser: NetDenoiser
    x0: Tensor
    t: Tensor
    terms: Terms


def asked(
    denoiser: NetDenoiser,
    batch: Tensor | Example,
    seeds: Tensor,
    *,
    law: ProcessLaw | None = None,
    noise: Noise | None = None,
) -> Asked:
    """One pass on the states of a batch at random times; arguments and draws are those of `denoising_loss`."""
    x0, y, spacing, _, white, own = example(batch, denoiser)
    if own is not None:
        raise InputError("batch", "images with noise of their own", "clean images", "Train with the objective Ambient.")
    denoiser = bind(denoiser, law, spacing, seeds)
    t = draw_times(seeds)
    xt, cond = simulate(denoiser.process, x0, t, seeds, y, noise, white)
    return Asked(denoiser, x0, t, denoiser.training_terms(xt, t, cond))


def losses_of(denoiser: NetDenoiser, x0: Tensor, t: Tensor, terms: Terms, weight: str, spread_weight: float) -> Losses:
    """The losses of `denoising_loss` of what was `asked`."""
    mean = denoiser.answer(terms, rate_of(denoiser.process, t))
    if weight == "unit" and denoiser.predicts == "wiener":
        scale = terms.c_out.to(x0.real)
        halves = 0.5 if x0.is_complex() else 1.0  # per real component
        error = halves * ((terms.out - (x0 - terms.skip) / scale).abs() ** 2).flatten(1).mean(1)
    else:
        error = _weighted(denoiser.process, mean - x0, t, "eps" if weight == "unit" else weight)
    if terms.log_ratio is None:
        return Losses(error, error, torch.zeros_like(error))
    nll = _spread_nll(denoiser, (x0 - mean).detach(), terms)
    return Losses(error + spread_weight * nll, error, nll)


def bind(
    denoiser: NetDenoiser, law: ProcessLaw | None, spacing: tuple[float, ...] | None, seeds: Tensor
) -> NetDenoiser:
    """The denoiser on the grid of the batch and, with a law of processes, of one for each item."""
    if law is None and spacing is None:
        return denoiser
    basis = denoiser.process.basis
    basis = basis if spacing is None else replace(basis, spacing=spacing)
    return denoiser.at(replace(denoiser.process, basis=basis) if law is None else law(basis, seeds))


def mean_over(table: Tensor, basis: Basis) -> Tensor:
    """Mean over channels and degrees of freedom of a table `(B, C, *K)`, `(B,)`."""
    weight = basis.multiplicity()
    return (table * weight.to(table)).flatten(1).sum(1) / (weight.sum().to(table) * table.shape[1])


def _weighted(process: Process, error: Tensor, t: Tensor, weight: str) -> Tensor:
    basis = process.basis
    density = WEIGHTS[choice("loss weight", weight, WEIGHTS)](process.moments(t), process.rates(t).G2)
    energy = basis.energy(basis.forward(error))
    total = (energy * (density * basis.multiplicity()).to(error.real)).flatten(1).sum(1)
    return total / (basis.multiplicity().sum() * error.shape[1]).to(total)


def _spread_nll(denoiser: NetDenoiser, error: Tensor, terms: Terms) -> Tensor:
    """Mean over bands, channels and pixels of (log p + e^2 / p) / 2 of the whitened error of each band, `(B,)`."""
    e2, p, filled = band_errors(denoiser, error, terms)
    parts = 0.5 * (p.log() + e2 / p)
    parts = parts if len(filled) == parts.shape[1] else parts[:, filled]  # an index of numbers makes a GPU wait
    return parts.flatten(2).mean(2).mean(1)


def band_overlap(denoiser: NetDenoiser) -> Tensor:
    """Part of band a that is made of band b, `(bands, bands)` float64: mean F_a^2 F_b^2 by its row sum."""
    basis, filters = denoiser.process.basis, denoiser.filters
    assert filters is not None
    weight = basis.multiplicity() / basis.multiplicity().sum()
    overlap = torch.einsum("a...,b...,...->ab", filters**2, filters**2, weight)
    return overlap / overlap.sum(1, keepdim=True).clamp_min(1e-300)


def band_errors(denoiser: NetDenoiser, error: Tensor, terms: Terms) -> tuple[Tensor, Tensor, list[int]]:
    """Squared whitened error e_b^2 and its predicted variance p_b, `(B, bands, C, *N)`, and the bands not empty.

    e_b = B^-1 [F_b v^-1/2 B error] has local variance p_b = sum_b' M_bb' ratio_b', M_bb' = mean F_b^2 F_b'^2.  That
    holds where the ratios change little over the reach of a filter; where they change over a dozen pixels, the lower
    bands are off by up to a factor of 2 on a pixel: see `calibrate_spread` for what that does not touch.
    """
    basis, filters, v, log_ratio = denoiser.process.basis, denoiser.filters, terms.linear.v, terms.log_ratio
    assert filters is not None
    assert log_ratio is not None
    whitened = basis.forward(error) * ratio(torch.ones_like(v), v.sqrt()).to(error.real)
    shares, overlap = denoiser.band_shares, band_overlap(denoiser).to(error.real)
    local = log_ratio.clamp(-14.0, 5.0).exp()
    filled = [b for b, share in enumerate(shares) if share > 0]  # the pixel basis has no frequencies to divide
    halves = 0.5 if error.is_complex() else 1.0  # per real component
    squares = [
        halves * basis.inverse(filters[b].to(error.real) * whitened).abs() ** 2 / max(share, 1e-300)
        for b, share in enumerate(shares)
    ]
    return torch.stack(squares, 1), torch.einsum("ab,nb...->na...", overlap, local), filled
