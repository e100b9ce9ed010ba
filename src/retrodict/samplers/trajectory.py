"""The shape of a trajectory of the probability flow: how flat it is, what appears first, how much of it is Gaussian.

The statistics of Wang and Vastola (2023, arXiv 2303.02490; TMLR 2024, arXiv 2412.09726), for every process that is
diagonal in its basis: for Gaussian data a state is w_t = h m + psi (w_1 - h_1 m) with psi of `teleport_weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.observation import Cond, noise_like, ratio
from retrodict.samplers.loop import sample, steps
from retrodict.samplers.plan import Plan, make_grid
from retrodict.samplers.rules import make_plan
from retrodict.samplers.teleport import teleport

__all__ = ["Trajectory", "persistence", "trajectory"]

RULE = "gaussian_ode"
"""The flow, exact in its Gaussian part, so that what differs from the Gaussian solution is the data's own."""


class Trajectory(NamedTuple):
    """Of n states at `times` `(n,)`, the start first, and the n - 1 denoised images of the calls between them.

    plane, turn: shares `(B,)` of the squared distance of the states from their mean that lie in the plane of their
    first two principal components, and of the states that lie in the plane of the first and the last.  shown
    `(B, bands, n - 1)`: 1 - |D - D_last|^2 / |D_last - m|^2 in each band: what of the final image is there.  gaussian
    `(B, n)`: 1 - |x - x_Gauss|^2 / |x - h m|^2, the share of the state that the solution for Gaussian data from the
    same start explains (nan where the process pins its start).  answers: the denoised images, `(n - 1, B, C, *N)`.
    """

    times: Tensor
    plane: Tensor
    turn: Tensor
    shown: Tensor
    gaussian: Tensor
    answers: Tensor


def trajectory(
    denoiser: Denoiser,
    start: Tensor,
    seeds: Tensor,
    bands: Sequence[tuple[float, float, Tensor]],
    count: int = 32,
    cond: Cond = Cond(),
) -> Trajectory:
    """Follow the flow in `count` calls from shifted coefficients `(B, C, *K)` at t = 1, items of `seeds` `(B,)`.

    Raises `InputError` for a denoiser that knows no spectrum of the data: nothing is compared then.
    """
    basis, plan = denoiser.process.basis, _plan(denoiser, count)
    prior = denoiser.prior()
    assert prior is not None  # `_plan` has looked
    states, answers = [start], []
    with torch.no_grad():
        for memory in steps(denoiser, plan, start, seeds=seeds, cond=cond):
            states.append(memory.states[0])
            if memory.image is not None:
                answers.append(memory.image)
    images = torch.stack([basis.inverse(w) for w in states])
    last, mean = basis.forward(answers[-1]), prior[0].to(states[0])
    weight = basis.multiplicity()
    shown = []
    for _, _, mask in bands:
        whole = (weight * basis.energy(last - mean) * mask).flatten(1).sum(1)
        rest = [(weight * basis.energy(basis.forward(d) - last) * mask).flatten(1).sum(1) for d in answers]
        shown.append(1 - ratio(torch.stack(rest, 1), whole[:, None]))
    gaussian = torch.stack([_explained(denoiser, states, k, plan, mean, cond) for k in range(len(states))], 1)
    flat = images.flatten(2).transpose(0, 1).double()
    return Trajectory(plan.times, _plane(flat), _turn(flat), torch.stack(shown, 1), gaussian, torch.stack(answers))


def persistence(
    denoiser: Denoiser,
    start: Tensor,
    seeds: Tensor,
    times: Sequence[int],
    count: int = 32,
    size: float = 0.1,
    cond: Cond = Cond(),
) -> Tensor:
    """How far the end moves where the state of step k of `times` is moved, `(B, len(times))`: |dx_end| over
    `size` |x_end - m|, for a move of `size` times the noise of the state in a random direction.

    For Gaussian data a component of variance L that is moved by dw ends sqrt(L / (h^2 L + s^2)) dw off: what is moved
    early, where the noise is large, stays.
    """
    process, basis, plan = denoiser.process, denoiser.process.basis, _plan(denoiser, count)
    prior = denoiser.prior()
    assert prior is not None  # `_plan` has looked
    mean, variance = prior
    with torch.no_grad():
        path = [start, *(m.states[0] for m in steps(denoiser, plan, start, seeds=seeds, cond=cond))]
        moved = []
        for k in times:
            std = process.moments(plan.times[k : k + 1]).s2.sqrt().to(start.real)
            field = std * basis.forward(noise_like(basis.inverse(start), seeds, "move", k))
            rest = make_plan(RULE, process, plan.times[k:], variance)
            end = sample(denoiser, rest, path[k] + size * field, seeds=seeds, cond=cond).x
            moved.append(_norm(end - basis.inverse(path[-1])))
    away = _norm(basis.inverse(path[-1] - mean.to(start)))
    return ratio(torch.stack(moved, 1), size * away[:, None])


def _plan(denoiser: Denoiser, count: int) -> Plan:
    prior = denoiser.prior()
    if prior is None:
        raise InputError("trajectory", "a denoiser that knows no spectrum of the data", "one with a spectrum")
    process = denoiser.process
    return make_plan(RULE, process, make_grid(process, count, "time", spectrum=prior[1]), prior[1])


def _explained(denoiser: Denoiser, states: Sequence[Tensor], k: int, plan: Plan, mean: Tensor, cond: Cond) -> Tensor:
    """Share of a state that the Gaussian solution has, `(B,)`."""
    process, basis = denoiser.process, denoiser.process.basis
    first, t = plan.times[:1], plan.times[k : k + 1]
    if process.pinned(first):
        return torch.full((len(states[0]),), torch.nan, dtype=torch.float64, device="cpu")
    exact = states[0] if k == 0 else teleport(denoiser, states[0], float(first), float(t), cond=cond)
    weight = basis.multiplicity()
    away = states[k] - process.moments(t).h.to(mean.real) * mean
    left, whole = ((weight * basis.energy(x)).flatten(1).sum(1) for x in (states[k] - exact, away))
    return 1 - ratio(left, whole).double().cpu()


def _plane(path: Tensor) -> Tensor:
    """Share of the squared distance of points `(B, n, d)` from their mean in their first two components."""
    values = torch.linalg.svdvals(path - path.mean(1, keepdim=True)) ** 2
    return ratio(values[:, :2].sum(1), values.sum(1))


def _turn(path: Tensor) -> Tensor:
    """Share of the squared size of points `(B, n, d)` in the plane of the first and the last."""
    frame, _ = torch.linalg.qr(path[:, [0, -1]].transpose(1, 2))
    return ratio((path @ frame).square().sum((1, 2)), path.square().sum((1, 2)))


def _norm(x: Tensor) -> Tensor:
    return x.abs().square().flatten(1).sum(1).sqrt()
