"""Losses of a network that answers for steps of any length of the probability flow (`denoisers.flow_map.FlowMap`).

A step is w_s = K(t, s) w_t + A(t, s) B M(w_t, t, s), with the weights of `flow_weights`: exact on Gaussian data, so
that a map with nothing but the Wiener filter has no error there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrodict._random import uniform
from retrodict.denoisers.flow_map import FlowMap
from retrodict.denoisers.network import NetDenoiser
from retrodict.training.distill import Weights, flow_step, mean_energy, opened, state_of, weights_of
from retrodict.training.losses import Losses, denoising_loss, example

__all__ = ["average_velocity_loss", "trajectory_loss"]

WIDTH = 1e-3
"""Half the distance in t over which derivatives are taken, centrally."""


def trajectory_loss(
    student: FlowMap,
    batch: Any,
    seeds: Tensor,
    weight: str = "unit",
    spread_weight: float = 0.0,
    *,
    teacher: NetDenoiser,
    times: Tensor,
) -> Losses:
    """A step of the student against a step of its teacher and its own from there (Kim et al. 2024, CTM, eq. 9-12).

    From times[i] to times[k], i < k drawn by the seed: the student in one step, against the teacher from times[i] to
    times[i + 1] and the student, as it is and without a gradient, from there on.  |w_s - w_s*|^2 is in units of what is
    open (`opened`).  `spread` is the denoising loss of its steps of no length, which is added: M(w, t, t) = D.
    `times` `(n + 1,)` fall from 1 to 0; no adversary is trained.
    """
    made, n = example(batch, student), len(times) - 1
    first = (uniform(seeds, "from", 0) * n).long().clamp_max(n - 1)
    last = first + 1 + (uniform(seeds, "to", 0) * (n - first)).long().clamp_max(n - 1 - first)
    t, u, s = times[first], times[first + 1], times[last]
    w = state_of(student, made, t, seeds)
    with torch.no_grad():
        near = flow_step(teacher, w, t, u)
        far = flow_step(student, near, u, s)
        wanted = torch.where((last == first + 1).reshape(-1, *[1] * (w.ndim - 1)).to(w.device), near, far)
    size = opened(student, weights_of(student, t, s).data, t)
    error = mean_energy(student, flow_step(student, w, t, s) - wanted) / size.to(made.x0)
    denoising = denoising_loss(student, made, seeds, weight, 0.0)
    return Losses(error + denoising.error, error, denoising.error)


def average_velocity_loss(
    student: FlowMap,
    batch: Any,
    seeds: Tensor,
    weight: str = "unit",
    spread_weight: float = 0.0,
    *,
    teacher: NetDenoiser,
    still: float = 0.25,
) -> Losses:
    """The map says the same from every state of a trajectory: d w_s / dt = 0 along the flow (Geng et al. 2025).

    With ' for d/dt at fixed s, and the velocity w' of the teacher, 0 = K' w + K w' + A' M + A dM/dt; the last is taken
    of the student as it is, without a gradient, by a central difference along (w', 1, 0) of width 2 WIDTH, which needs
    no forward derivatives of a network.  For the straight flow and no data variance this is the identity of MeanFlow,
    u = v - (t - r) du/dt.  t is uniform; a part `still` of the items has s = t, where it says M = D; the others s
    uniform below t.  Units and unused arguments as in `trajectory_loss`.
    """
    made = example(batch, student)
    process, basis = student.process, student.process.basis
    t = 2 * WIDTH + (1 - 3 * WIDTH) * uniform(seeds, "time", 0)
    below = WIDTH + (t - 2 * WIDTH).clamp_min(0) * uniform(seeds, "to", 0)
    s = torch.where(uniform(seeds, "still", 0) < still, t, below)
    w = state_of(student, made, t, seeds)
    later, sooner = t + WIDTH, t - WIDTH

    def rate(end: Tensor) -> Weights:
        a, b = weights_of(student, later, end), weights_of(student, sooner, end)
        return Weights((a.keep - b.keep) / (2 * WIDTH), (a.data - b.data) / (2 * WIDTH))

    with torch.no_grad():
        own = rate(t)
        told = basis.forward(teacher(process.to_image(w, t), t))
        speed = -own.keep.to(w) * w - own.data.to(w) * told
        ends = [basis.forward(student.jump(process.to_image(w + k * speed, at), at, s))
                for k, at in ((WIDTH, later), (-WIDTH, sooner))]  # fmt: skip
        drift = (ends[0] - ends[1]) / (2 * WIDTH)
    step, change = weights_of(student, t, s), rate(s)
    answer = basis.forward(student.jump(process.to_image(w, t), t, s))
    kept = change.keep.to(w) * w + step.keep.to(w) * speed
    residual = kept + change.data.to(w) * answer + step.data.to(w) * drift
    error = mean_energy(student, residual) / opened(student, change.data, t).to(made.x0)
    return Losses(error, error, torch.zeros_like(error))
