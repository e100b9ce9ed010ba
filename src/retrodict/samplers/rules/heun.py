"""Heun's method on the probability flow: two denoiser calls a step, order 2."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict.processes.observation import ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row

__all__ = ["heun"]


def heun(process: Process, times: Tensor, spectrum: Tensor | None = None) -> Plan:
    """Heun's method in y = w/h and sigma = s/h (Karras et al. 2022, algorithm 1), deterministic, NFE = 2 N.

    dy/dsigma = (y - D)/sigma; with d = sigma' - sigma a step predicts y* = y + d (y - D)/sigma, which is DDIM, and
    corrects y' = y + (d/2) [(y - D)/sigma + (y* - D*)/sigma'].  A coefficient that leaves h = 0 or s = 0, or lands on
    s = 0, keeps its prediction, as there (out of the pinned end of a bridge with its noise); onto a noise-free end the
    whole correction and its call are left out.
    """
    steps = len(times) - 1
    length = 2 * steps - int(process.noise_free(times[-1:]))
    pinned = process.pinned(times[:1])

    def row(i: int) -> Row:
        now, after = times[i // 2 : i // 2 + 1], times[i // 2 + 1 : i // 2 + 2]
        if i % 2 == 0:
            keep, data, std = process.conditional(now, after, 0.0)
            return Row(float(now), True, (keep,), (data,), (std,) if pinned and i == 0 else ())
        a, b = process.moments(now), process.moments(after)
        usable = (a.h != 0) & (b.h != 0) & (a.s2 != 0) & (b.s2 != 0)
        # r = sigma'/sigma in [0, 1]: d/sigma = r - 1 and d/sigma' = 1 - 1/r
        r = ratio(b.s2.sqrt() * a.h, a.s2.sqrt() * b.h)
        new, old = (1 - ratio(torch.ones_like(r), r)) / 2, (r - 1) / 2
        keeps = (torch.where(usable, new, 1.0), torch.where(usable, ratio(b.h, a.h) * (1 + old), 0.0))
        return Row(float(after), True, keeps, tuple(torch.where(usable, -b.h * w, 0.0) for w in (new, old)))

    return Plan(process, times, row, length, length, "heun", depth=2, stochastic=pinned)
