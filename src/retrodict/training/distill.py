"""Losses that make a model answer in one to four calls what its teacher answers in many.

Student and teacher take steps w_s = keep w_t + data B D of the probability flow (`flow_weights`) that are exact in
their Gaussian part: on Gaussian data a step is the flow map sqrt((h_s^2 L + s_s^2)/(h_t^2 L + s_t^2)), the identity for
s = t and a semigroup, so there is nothing to learn.  What is learned is the rest of the data.  No measurement enters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._random import uniform
from retrodict.denoisers.flow_map import FlowMap
from retrodict.denoisers.network import NetDenoiser
from retrodict.processes.flow import flow_weights
from retrodict.processes.observation import wiener
from retrodict.training.losses import Example, Losses, example, mean_over, state_noise

__all__ = ["consistency_loss", "flow_step", "mean_energy", "opened", "progressive_loss", "state_of", "weights_of"]


class Weights(NamedTuple):
    """Weights `(B, C|1, *K)` float64 of the state and of the image of a step."""

    keep: Tensor
    data: Tensor


def weights_of(denoiser: NetDenoiser, t: Tensor, s: Tensor) -> Weights:
    """Of steps from t to s, `(B,)` each."""
    return Weights(*flow_weights(denoiser.process, t, s, denoiser.data_power))


def flow_step(denoiser: NetDenoiser, w: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Coefficients w_s `(B, C, *K)` from w_t in one call, t and s `(B,)`; a flow map is told where the step ends."""
    step, process, x = weights_of(denoiser, t, s), denoiser.process, denoiser.process.to_image(w, t)
    image = denoiser.jump(x, t, s) if isinstance(denoiser, FlowMap) else denoiser(x, t)
    return step.keep.to(w) * w + step.data.to(w) * process.basis.forward(image)


def mean_energy(denoiser: NetDenoiser, coefficients: Tensor) -> Tensor:
    """Mean square over degrees of freedom of `(B, C, *K)`, `(B,)`."""
    basis = denoiser.process.basis
    return mean_over(basis.energy(coefficients), basis)


def opened(denoiser: NetDenoiser, data: Tensor, t: Tensor) -> Tensor:
    """Mean of data^2 v, `(B,)`: how much of a state is open where v is the Wiener error of x_0 at t."""
    left = wiener(denoiser.process.moments(t), denoiser.data_power)[1]
    return mean_over(data**2 * left, denoiser.process.basis).clamp_min(1e-300)


def state_of(denoiser: NetDenoiser, made: Example, t: Tensor, seeds: Tensor) -> Tensor:
    """Coefficients of states at t `(B,)` of clean images, the noise of each from its seed."""
    white = state_noise(made.x0, seeds) if made.white is None else made.white
    return denoiser.process.to_coefficients(denoiser.process.corrupt(made.x0, t, white), t)


def progressive_loss(
    student: NetDenoiser,
    batch: Any,
    seeds: Tensor,
    weight: str = "unit",
    spread_weight: float = 0.0,
    *,
    teacher: NetDenoiser,
    times: Tensor,
) -> Losses:
    """One step of the student against two of the teacher over the same interval (Salimans and Ho 2022).

    `times` `(2n + 1,)` are those of the teacher, falling; each item of clean images `(B, C, *N)` has an interval and a
    noise that are functions of its seed.  |w_s - w_s*|^2 is in units of `opened`.  No variance is learned: `weight` and
    `spread_weight` are those of every objective and change nothing.
    """
    made, first = example(batch, student), 2 * _drawn(seeds, (len(times) - 1) // 2)
    t, middle, s = times[first], times[first + 1], times[first + 2]
    w = state_of(student, made, t, seeds)
    with torch.no_grad():
        wanted = flow_step(teacher, flow_step(teacher, w, t, middle), middle, s)
    return _compared(student, w, t, s, wanted)


def consistency_loss(
    student: NetDenoiser,
    batch: Any,
    seeds: Tensor,
    weight: str = "unit",
    spread_weight: float = 0.0,
    *,
    teacher: NetDenoiser,
    times: Tensor,
) -> Losses:
    """The student's image from a state against its own from where a step of the teacher leads (Song et al. 2023).

    A step of the teacher leads from times[i] to times[i + 1], one of the student from there to 0; the last step of the
    teacher is an end, so the truth comes in there.  The other side is the student as it is, without a gradient (Song
    and Dhariwal 2024: no average).  Units, seeds and unused arguments as in `progressive_loss`.
    """
    made, first = example(batch, student), _drawn(seeds, len(times) - 1)
    t, u = times[first], times[first + 1]
    end = torch.zeros_like(t)
    w = state_of(student, made, t, seeds)
    with torch.no_grad():
        near = flow_step(teacher, w, t, u)
        there = (u == 0).reshape(-1, *[1] * (w.ndim - 1)).to(w.device)
        wanted = torch.where(there, near, flow_step(student, near, u, end))
    return _compared(student, w, t, end, wanted)


def _drawn(seeds: Tensor, count: int) -> Tensor:
    return (uniform(seeds, "interval", 0) * count).long().clamp_max(count - 1)


def _compared(student: NetDenoiser, w: Tensor, t: Tensor, s: Tensor, wanted: Tensor) -> Losses:
    """Squared difference of the step of the student from what is wanted of it."""
    size = opened(student, weights_of(student, t, s).data, t)
    error = mean_energy(student, flow_step(student, w, t, s) - wanted)
    error = error / size.to(error)
    return Losses(error, error, torch.zeros_like(error))
