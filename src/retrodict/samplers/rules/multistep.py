"""DPM-Solver++ 2M, deterministic and stochastic.

Per coefficient: primes mark the next (cleaner) time, l = log(h/s), dl = l' - l.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import log_snr_step, ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row

__all__ = ["dpmpp2m", "sde_dpmpp2m"]


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
    steps, pinned = len(times) - 1, process.pinned(times[:1])

    def row(i: int) -> Row:
        before, now, after = (process.moments(times[j : j + 1]) for j in (max(i - 1, 0), i, i + 1))
        dl = log_snr_step(now, after)  # negative where the clock falls, which the deterministic rule may follow
        s, s_now = after.s2.sqrt(), now.s2.sqrt()
        # e^(-eta dl) is 1 for eta = 0 even where dl is infinite: out of an erased coefficient, onto a noise-free one
        decay = torch.exp(-eta * dl) if eta else 1.0
        keep = torch.where(s_now == 0, ratio(after.h, now.h), ratio(s, s_now)) * decay
        data = after.h * -torch.expm1(-(1 + eta) * dl)
        std = s * (-torch.expm1(-2 * eta * dl)).clamp_min(0.0).sqrt() if eta else torch.zeros_like(s)
        if pinned and i == 0:  # what leaves the end of a bridge has to be drawn
            std = torch.where((now.h == 0) & (s_now == 0), s, std)
        noise = (std,) if eta or (pinned and i == 0) else ()
        last = i == steps - 1 and (lower_last or float(times[-1]) == 0)
        if order == 1 or i == 0 or last:
            return Row(float(times[i]), True, (keep,), (data,), noise)
        old = log_snr_step(before, now)
        usable = (dl != 0) & (old != 0) & torch.isfinite(old) & torch.isfinite(dl)
        half = torch.where(usable, 0.5 * data * ratio(dl, torch.where(usable, old, 1.0)), 0.0)
        return Row(float(times[i]), True, (keep,), (data + half, -half), noise)

    return Plan(process, times, row, steps, steps, name, depth=order, stochastic=eta > 0 or pinned)
