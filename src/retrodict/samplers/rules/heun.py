"""Heun's method on the probability flow: two denoiser calls a step, order 2; with churn, and with restarts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row, mean_log_clock
from retrodict.samplers.rules.nodes import stand_in, times_at

__all__ = ["edm", "heun", "restart"]


def heun(process: Process, times: Tensor, spectrum: Tensor | None = None) -> Plan:
    """Heun's method in y = w/h and sigma = s/h (Karras et al. 2022, algorithm 1), deterministic, NFE = 2 N.

    dy/dsigma = (y - D)/sigma; with d = sigma' - sigma a step predicts y* = y + d (y - D)/sigma, which is DDIM, and
    corrects y' = y + (d/2) [(y - D)/sigma + (y* - D*)/sigma'].  A coefficient that leaves h = 0 or s = 0, or lands on
    s = 0, keeps its prediction, as there (out of the pinned end of a bridge with its noise); onto a noise-free end the
    whole correction and its call are left out.
    """
    made = [f for t, s in _steps(times) for f in _heun_step(process, t, s)]
    return _plan(process, times, made, "heun", process.pinned(times[:1]))


def edm(
    process: Process,
    times: Tensor,
    spectrum: Tensor | None = None,
    *,
    churn: float = 10.0,
    low: float = 0.0,
    high: float = math.inf,
    noise: float = 1.0,
) -> Plan:
    """Stochastic Heun (Karras et al. 2022, algorithm 2), two calls a step: noise is added before every step.

    The level sigma = s/h, as geometric mean over coefficients, is raised by 1 + gamma, gamma = min(churn/N,
    sqrt(2) - 1) for low <= sigma <= high, by the forward transition of the process itself with `noise` times its
    deviation; so the law is kept (noise = 1) on structured clocks, too.  Nothing is added above t = 1.
    """
    if churn < 0 or noise < 0 or not 0 <= low <= high:
        found = f"churn {churn}, noise {noise}, from {low} to {high}"
        raise InputError("edm", found, "churn and noise of at least 0, and low <= high")
    process.require_markov("edm with churn")
    levels, gamma = mean_log_clock(stand_in(process), times[:-1]), min(churn / (len(times) - 1), math.sqrt(2) - 1)
    raised = times_at(process, levels + 2 * math.log1p(gamma))
    made: list[Callable[[], Row]] = []
    forward = 0
    for i, (t, s) in enumerate(_steps(times)):
        up = raised[i : i + 1]
        if gamma > 0 and float(up) > float(t) and float(t) < 1 and low <= math.exp(float(levels[i]) / 2) <= high:
            made.append(lambda t=t, up=up: _forward(process, t, up, noise))
            forward += 1
        else:
            up = t
        made += _heun_step(process, up, s)
    return _plan(process, times, made, "edm", True, forward)


def restart(
    process: Process,
    times: Tensor,
    spectrum: Tensor | None = None,
    *,
    repeats: int = 1,
    span: tuple[float, float] = (0.5, 0.8),
) -> Plan:
    """Restart sampling (Xu et al. 2023): Heun, and `repeats` times forward again by noise and down once more.

    Between the grid points at the parts `span` of the steps; what the deterministic steps got wrong above is contracted
    by the noise.  At most 2 (1 + repeats) calls a step.  A grid of one step has nothing to repeat.
    """
    process.require_markov("restart")
    if repeats < 1 or not 0 <= span[0] < span[1] <= 1:
        raise InputError(
            "restart", f"repeats {repeats}, span {span}", "repeats of at least 1, 0 <= span[0] < span[1] <= 1"
        )
    pairs = _steps(times)
    first, last = round(span[0] * len(pairs)), round(span[1] * len(pairs))
    first = max(first, 1)  # from t = 1 itself the start would be drawn anew
    made: list[Callable[[], Row]] = []
    for i, (t, s) in enumerate(pairs):
        made += _heun_step(process, t, s)
        if i + 1 == last and first < last:
            top = times[first : first + 1]
            for _ in range(repeats):
                made.append(lambda s=s, top=top: _forward(process, s, top, 1.0))
                made += [f for a, b in pairs[first:last] for f in _heun_step(process, a, b)]
    return _plan(process, times, made, "restart", True, repeats if 0 < first < last else 0)


def _steps(times: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(times[i : i + 1], times[i + 1 : i + 2]) for i in range(len(times) - 1)]


def _plan(
    process: Process, times: Tensor, made: list[Callable[[], Row]], name: str, stochastic: bool, forward: int = 0
) -> Plan:
    """A plan of rows of which `forward` make no call."""
    nfe = len(made) - forward
    return Plan(process, times, lambda k: made[k](), len(made), nfe, name, depth=2, stochastic=stochastic)


def _forward(process: Process, s: Tensor, t: Tensor, noise: float) -> Row:
    """Noise from time s up to t, by the transition of the process."""
    gain, variance = process.transition(s, t)
    return Row(float(s), False, (gain,), (), (noise * variance.clamp_min(0.0).sqrt(),))


def _heun_step(process: Process, t: Tensor, s: Tensor) -> list[Callable[[], Row]]:
    rows: list[Callable[[], Row]] = [lambda: _predict(process, t, s)]
    return rows if process.noise_free(s) else [*rows, lambda: _correct(process, t, s)]


def _predict(process: Process, t: Tensor, s: Tensor) -> Row:
    keep, data, std = process.conditional(t, s, 0.0)
    return Row(float(t), True, (keep,), (data,), (std,) if process.pinned(t) else ())


def _correct(process: Process, t: Tensor, s: Tensor) -> Row:
    a, b = process.moments(t), process.moments(s)
    usable = (a.h != 0) & (b.h != 0) & (a.s2 != 0) & (b.s2 != 0)
    # r = sigma'/sigma in [0, 1]: d/sigma = r - 1 and d/sigma' = 1 - 1/r
    r = ratio(b.s2.sqrt() * a.h, a.s2.sqrt() * b.h)
    new, old = (1 - ratio(torch.ones_like(r), r)) / 2, (r - 1) / 2
    keeps = (torch.where(usable, new, 1.0), torch.where(usable, ratio(b.h, a.h) * (1 + old), 0.0))
    return Row(float(s), True, keeps, tuple(torch.where(usable, -b.h * w, 0.0) for w in (new, old)))
