"""Losses that make a model answer in one to four calls what its teacher answers in many.

Student and teacher take steps w_s = keep w_t + data B D of the probability flow (`Leap`) that are exact in their
Gaussian part: on Gaussian data a step is the flow map sqrt((h_s^2 L + s_s^2)/(h_t^2 L + s_t^2)), the identity for s = t
and a semigroup, so there is nothing to learn.  What is learned is the rest of the data.  No measurement enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._random import uniform
from retrodict.denoisers.network import NetDenoiser
from retrodict.training.losses import Losses, example, state_noise

__all__ = ["Leap", "consistency_loss", "leap", "progressive_loss"]


class Leap(NamedTuple):
    """One step from t to s: weights `(1, C|1, *K)` of the state and of the denoised image, and `size`, the mean of
    data^2 v over degrees of freedom: how much of w_s is open where v is the variance of x_0 given the state.
    """

    t: float
    s: float
    keep: Tensor
    data: Tensor
    size: float


def leap(denoiser: NetDenoiser, row: Leap, w: Tensor) -> Tensor:
    """Coefficients w_s `(B, C, *K)` from w_t."""
    process, basis = denoiser.process, denoiser.process.basis
    t = torch.full((len(w),), row.t, dtype=torch.float64, device="cpu")
    d = basis.forward(denoiser(process.to_image(w, t), t))
    return row.keep.to(w) * w + row.data.to(w) * d


def progressive_loss(
    student: NetDenoiser,
    batch: Any,
    seeds: Tensor,
    weight: str = "unit",
    spread_weight: float = 0.0,
    *,
    teacher: NetDenoiser,
    coarse: Sequence[Leap],
    fine: Sequence[tuple[Leap, ...]],
) -> Losses:
    """One step of the student against the steps of the teacher over the same interval (Salimans and Ho 2022).

    coarse[i] and the steps fine[i] begin and end alike; each item of clean images `(B, C, *N)` has an interval and a
    noise that are functions of its seed.  |w_s - w_s*|^2 is in units of `Leap.size`.  No variance is learned: `weight`
    and `spread_weight` are those of every objective and change nothing.
    """

    def target(i: int, w: Tensor) -> Tensor:
        for row in fine[i]:
            w = leap(teacher, row, w)
        return w

    def answer(i: int, w: Tensor) -> Tensor:
        return leap(student, coarse[i], w)

    return _matched(student, batch, seeds, coarse, answer, target)


def consistency_loss(
    student: NetDenoiser,
    batch: Any,
    seeds: Tensor,
    weight: str = "unit",
    spread_weight: float = 0.0,
    *,
    teacher: NetDenoiser,
    steps: Sequence[Leap],
    ends: Sequence[Leap],
) -> Losses:
    """The student's image from a state against its own from where a step of the teacher leads (Song et al. 2023).

    steps[i] leads from t_i to t_(i+1), ends[i] from t_i to 0; the last step of the teacher is an end, so the truth
    comes in there.  The other side is the student as it is, without a gradient (Song and Dhariwal 2024: no average).
    Units, seeds and unused arguments as in `progressive_loss`.
    """

    def target(i: int, w: Tensor) -> Tensor:
        w = leap(teacher, steps[i], w)
        return w if i + 1 == len(steps) else leap(student, ends[i + 1], w)

    def answer(i: int, w: Tensor) -> Tensor:
        return leap(student, ends[i], w)

    return _matched(student, batch, seeds, ends, answer, target)


def _matched(student: NetDenoiser, batch: Any, seeds: Tensor, rows: Sequence[Leap], answer: Any, target: Any) -> Losses:
    """Squared difference of two maps at states of the data, each item at the start of one of `rows`."""
    made = example(batch, student)
    process, basis = student.process, student.process.basis
    white = state_noise(made.x0, seeds) if made.white is None else made.white
    chosen = (uniform(seeds, "interval", 0) * len(rows)).long().clamp_max(len(rows) - 1)
    weight = basis.multiplicity()
    error = torch.zeros(len(seeds), dtype=made.x0.dtype, device=made.x0.device)
    for i in chosen.unique().tolist():
        mine = chosen == i
        t = torch.full((int(mine.sum()),), rows[i].t, dtype=torch.float64, device="cpu")
        w = process.to_coefficients(process.corrupt(made.x0[mine], t, white[mine]), t)
        with torch.no_grad():
            wanted = target(i, w)
        energy = basis.energy(answer(i, w) - wanted)
        mean = (energy * weight.to(energy)).flatten(1).sum(1) / (weight.sum().to(energy) * energy.shape[1])
        error = error.index_put((mine.nonzero()[:, 0],), mean / rows[i].size)
    return Losses(error, error, torch.zeros_like(error))
