"""The Gaussian card of a plan: its exact gain and variance on Gaussian data, without Monte Carlo.

For data N(m, L) per coefficient the exact denoiser is linear, so a sampler is a linear recursion.  A state is carried
as its coefficients on (start, measurement, 1, every random draw).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retrodict.processes.process import Gaussian, Process, ratio, wiener
from retrodict.samplers.plan import Plan, Row

__all__ = ["Card", "gaussian_card", "gaussian_posterior", "posterior_card", "start_law"]


class Card(NamedTuple):
    """Output = start * w_1 + measurement * y + offset + noise of `variance`, per coefficient `(*K)`."""

    start: Tensor
    measurement: Tensor
    offset: Tensor
    variance: Tensor


class _Linear(NamedTuple):
    start: Tensor
    measurement: Tensor
    offset: Tensor
    noise: dict[int, Tensor]


def gaussian_posterior(spectrum: Tensor, measured: Gaussian) -> tuple[Tensor, Tensor]:
    """Gain K = L a/(a^2 L + S) on y and variance V = L S/(a^2 L + S) of u_0 | y, per coefficient."""
    total = measured.gain**2 * spectrum + measured.variance
    return ratio(spectrum * measured.gain, total), ratio(spectrum * measured.variance, total, otherwise=0.0)


def start_law(process: Process, spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Gain on y and variance of the shifted state w_1 as a run starts it, `(*K)`, for data N(0, spectrum).

    terminal: y itself.  External with a known law: the exact Gaussian law of w_1 given y, h mu_y + N(0, h^2 V + s^2).
    Otherwise the exact marginal N(0, h^2 L + s^2), or N(0, s^2) around an anchor.
    """
    zero = torch.zeros_like(spectrum)
    if process.conditioning == "terminal":
        return zero + 1, zero
    m = process.moments(torch.ones(1, dtype=torch.float64))
    h, s2 = (zero + m.h)[0, 0], (zero + m.s2)[0, 0]
    if process.conditioning == "external" and process.measured is not None:
        gain, variance = gaussian_posterior(spectrum, process.measured)
        return h * gain, h**2 * variance + s2
    return zero, s2 if process.anchored else h**2 * spectrum + s2


def posterior_card(plan: Plan, spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Gain on the measurement and variance of what a whole run returns, its start included, `(*K)`."""
    card, (gain, variance) = gaussian_card(plan, spectrum), start_law(plan.process, spectrum)
    return card.measurement + card.start * gain, card.variance + card.start**2 * variance


def gaussian_card(plan: Plan, spectrum: Tensor, mean: Tensor | float = 0.0) -> Card:
    """Exact card of `plan` for data N(mean, spectrum), `(*K)` float64, with the exact (conditional) denoiser."""
    process = plan.process
    zero = torch.zeros(process.basis.shape, dtype=torch.float64)
    states = [_Linear(zero + 1, zero, zero, {})]
    images: list[_Linear] = []
    for i, row in enumerate(plan):
        variance = zero
        if row.call:
            image, variance = _denoise(process, states[0], row, spectrum, zero + mean)
            images.insert(0, image)
        states.insert(0, _advance(row, states, images, variance, i))
        del states[plan.depth :], images[plan.depth :]
    final = states[0]
    variance = sum((n**2 for n in final.noise.values()), start=zero)
    return Card(final.start, final.measurement, final.offset, variance)


def _denoise(process: Process, state: _Linear, row: Row, spectrum: Tensor, mean: Tensor) -> tuple[_Linear, Tensor]:
    """D as a linear function of the state (and of y, for external conditioning with a known law), and its variance."""
    m = process.moments(torch.tensor([row.t], dtype=torch.float64))
    g, v = (x[0, 0] for x in wiener(m, spectrum))
    h, gain_y = m.h[0, 0], torch.zeros_like(spectrum)
    constant = mean - g * h * mean
    if process.conditioning == "external" and process.measured is not None:
        a, s = process.measured
        kalman = ratio(v * a, a**2 * v + s)
        g, constant, gain_y, v = g * (1 - kalman * a), constant * (1 - kalman * a), kalman, v * (1 - kalman * a)
    noise = {j: g * n for j, n in state.noise.items()}
    image = _Linear(g * state.start, g * state.measurement + gain_y, g * state.offset + constant, noise)
    return image, v.expand(spectrum.shape)


def _advance(row: Row, states: list[_Linear], images: list[_Linear], variance: Tensor, index: int) -> _Linear:
    zero = torch.zeros_like(states[0].start)
    start, measurement, offset, noise = zero, zero, zero, {}
    terms = [*zip(row.keep, states, strict=False), *zip(row.data, images, strict=False)]
    for weight, value in terms:
        weight = _flat(weight)
        start, measurement = start + weight * value.start, measurement + weight * value.measurement
        offset = offset + weight * value.offset
        for j, n in value.noise.items():
            noise[j] = noise.get(j, zero) + weight * n
    if row.noise is not None:
        noise[2 * index] = noise.get(2 * index, zero) + _flat(row.noise)
    if row.spread is not None:
        noise[2 * index + 1] = _flat(row.spread) * variance.sqrt()
    return _Linear(start, measurement, offset, noise)


def _flat(weight: Tensor) -> Tensor:
    return weight[0, 0] if weight.ndim > 2 else weight.reshape(())
