"""Euler-Maruyama on the reverse SDE."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict.processes.observation import ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row, denoise_row

__all__ = ["euler"]


def euler(process: Process, times: Tensor, spectrum: Tensor | None = None, *, final: bool = True) -> Plan:
    """Euler-Maruyama on the reverse SDE (Tivnan et al. 2023, eq. 21), NFE = N.

    w' = w - [F w - G^2 score] d + G sqrt(d) z, score = (h D - w)/s^2.  With `final` the step onto t = 0 returns D.
    Where a coefficient is erased (h = 0) the drift is infinite, and where it is noise-free there is no score: there the
    step is the exact conditional.
    """
    process.require_markov("euler")
    last = len(times) - 2

    def row(i: int) -> Row:
        t, s = times[i : i + 1], times[i + 1 : i + 2]
        if final and i == last and float(s) == 0:
            return denoise_row(float(t))
        m, r, step = process.moments(t), process.rates(t), float(t - s)
        pull = ratio(r.G2 * step, m.s2)
        weights = (1 - r.F * step - pull, pull * m.h, (r.G2.clamp_min(0.0) * step).sqrt())
        exact = process.conditional(t, s)
        keep, data, noise = (torch.where((m.h == 0) | (m.s2 == 0), e, w) for e, w in zip(exact, weights, strict=True))
        return Row(float(t), True, (keep,), (data,), (noise,))

    return Plan(process, times, row, last + 1, last + 1, "euler", stochastic=True)
