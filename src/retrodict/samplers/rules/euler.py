"""Euler-Maruyama on the reverse SDE."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict.processes.process import Process, ratio
from retrodict.samplers.plan import Levels, Plan, Row

__all__ = []


# ---- rules -------------------------------------------------------------------------------------------------------


def euler(process: Process, times: Tensor, spectrum: Tensor | None = None, *, final: bool = True) -> Plan:
    """Euler-Maruyama on the reverse SDE (Tivnan et al. 2023, eq. 21), NFE = N.

    w' = w - [F w - G^2 score] d + G sqrt(d) z, score = (h D - w)/s^2.  With `final` the step onto t = 0 returns D.
    """
    process.require_markov("euler")

    def row(i: int) -> Row:
        t, s = levels.pair(i)
        if final and i == len(levels) - 1 and float(s) == 0:
            return _denoise(float(t))
        m, r, step = process.moments(t), process.rates(t), float(t - s)
        pull = ratio(r.G2 * step, m.s2)
        noise = (r.G2.clamp_min(0.0) * step).sqrt()
        return Row(float(t), True, (1 - r.F * step - pull,), (pull * m.h,), noise)

    levels = Levels(process, times)
    return Plan(process, times, row, len(levels), len(levels), "euler", stochastic=True)


# ---- shared pieces -----------------------------------------------------------------------------------------------


def _denoise(t: float) -> Row:
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return Row(t, True, (zero,), (one,))
