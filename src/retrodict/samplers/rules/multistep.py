"""DPM-Solver++ 2M, deterministic and stochastic.

Per coefficient: primes mark the next (cleaner) time, l = log(h/s).
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.process import Process, ratio
from retrodict.samplers.plan import Level, Levels, Plan, Row

__all__ = []


def dpmpp2m(
    process: Process, times: Tensor, spectrum: Tensor | None = None, *, order: int = 2, lower_last: bool = True
) -> Plan:
    """DPM-Solver++ 2M, midpoint form (Lu et al. 2022, algorithm 2), deterministic, NFE = N.

    w' = (s'/s) w + h' (1 - e^-dl) [D + (D - D_old)/(2 r)], r = dl_old/dl, dl = l' - l per coefficient; the first
    step is of order 1, and the last one too with `lower_last` or where it lands on t = 0.  `order=1` is
    DPM-Solver++ 1, equal to `ddim(eta=0)`.
    """
    return _multistep(process, times, eta=0.0, order=order, lower_last=lower_last, name="dpmpp2m")


def sde_dpmpp2m(
    process: Process,
    times: Tensor,
    spectrum: Tensor | None = None,
    *,
    eta: float = 1.0,
    order: int = 2,
    lower_last: bool = False,
) -> Plan:
    """SDE-DPM-Solver++ 2M, midpoint form (Lu et al. 2022; stochastic), NFE = N.

    H = (1 + eta) dl: w' = (s'/s) e^(-eta dl) w + h' (1 - e^-H) [D + (D - D_old)/(2 r)] + s' sqrt(1 - e^(-2 eta dl)) z.
    """
    return _multistep(process, times, eta=eta, order=order, lower_last=lower_last, name="sde_dpmpp2m")


def _multistep(process: Process, times: Tensor, *, eta: float, order: int, lower_last: bool, name: str) -> Plan:
    if order not in (1, 2):
        raise InputError(f"{name} order", order, "1 or 2")
    if eta:
        process.require_markov(name)

    def row(i: int) -> Row:
        t, s = levels.pair(i)
        now, nxt = levels[i], levels[i + 1]
        step = _advance(now, nxt)
        moved = step > 0
        dl = torch.where(moved, step, 0.0)
        final = torch.isinf(dl)
        decay = torch.where(final, 0.0, torch.exp(-eta * torch.where(final, 0.0, dl)))
        scale = torch.where(now.s == 0, ratio(nxt.h, now.h), ratio(nxt.s, now.s))
        keep = scale * decay
        total = (1 + eta) * dl
        data = torch.where(moved, nxt.h * -torch.expm1(-total), 0.0)
        std = nxt.s * (-torch.expm1(-2 * eta * dl)).clamp_min(0.0).sqrt() if eta else None
        last = i == len(levels) - 1 and (lower_last or float(s) == 0)
        if order == 1 or i == 0 or last:
            return Row(float(t), True, (keep,), (data,), std)
        before = _advance(levels[i - 1], now)
        usable = moved & (before > 0) & torch.isfinite(before) & torch.isfinite(dl)
        half = torch.where(usable, 0.5 * data * ratio(dl, torch.where(usable, before, 1.0)), 0.0)
        return Row(float(t), True, (keep,), (data + half, -half), std)

    levels = Levels(process, times)
    return Plan(process, times, row, len(levels), len(levels), name, depth=order, stochastic=eta > 0)


def _advance(now: Level, nxt: Level) -> Tensor:
    """Dl = l' - l >= 0 per coefficient; infinite onto s' = 0; 0 where both times are noise-free."""
    clean = (now.s == 0) & (nxt.s == 0)
    return torch.where(clean, 0.0, nxt.l - now.l)
