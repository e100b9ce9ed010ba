"""Exponential-integrator multistep rules of orders 1 to 3 for any process and any noise memory.

With u = w/h, l = log(h/s), X = log(A/s) and the clock G = l + X, the reverse equation is du = (D - u) dG plus noise:
every sampler is an exponential average of the denoised images.  Over a step, H = G' - G and dX = X' - X,

    w' = (s'/s) e^-dX w + h' int_0^H e^(y - H) D(y) dy + s' sqrt(1 - e^(-2 dX)) z ,

and the integral is exact for a D that is a polynomial in G through the last one, two or three images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.processes.observation import log_snr_step, ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row
from retrodict.samplers.rules.interpolate import phi

__all__ = ["exponential", "sde_exponential"]

FORMS = ("exact", "midpoint", "published", "dpmpp")


def exponential(
    process: Process,
    times: Tensor,
    spectrum: Tensor | None = None,
    *,
    order: int = 3,
    form: str = "exact",
    lower_last: bool = False,
) -> Plan:
    """Semi-analytic multistep rule of the probability flow (A = s, H = dl), orders 1 to 3, NFE = N, deterministic.

    The rule of MR Sampler (Li et al. 2025, ODE, data prediction) and, for k = 0, of DPM-Solver++ (Lu et al. 2022).
    form: "exact", the integral of the polynomial; "midpoint", p1/2 for p2 at order 2; "published", the third order as
    released in either code, with half the weight on the second difference, which leaves it of order 2; "dpmpp", both,
    which with `lower_last`, no higher order than there are steps left, is DPM-Solver++ 3M as released.
    """
    return _exponential(process, times, order, form, "frozen", "exponential", lower_last)


def sde_exponential(
    process: Process, times: Tensor, spectrum: Tensor | None = None, *, order: int = 3, form: str = "exact"
) -> Plan:
    """The same with the noise memory of the process itself, orders 1 to 3, NFE = N; order 1 is `ancestral`.

    Markov (A = h, H = 2 dl): MR Sampler SDE, DDPM of any jump, UniDB++ data-solver-1; A = 1: RDDM, ResShift; A =
    sqrt(alpha_bar): Resfusion.
    """
    return _exponential(process, times, order, form, "own", "sde_exponential")


def _exponential(
    process: Process, times: Tensor, order: int, form: str, memory: str, name: str, lower_last: bool = False
) -> Plan:
    if order not in (1, 2, 3):
        raise InputError(f"{name} order", order, "1, 2 or 3")
    choice(f"{name} form", form, FORMS)
    own = memory == "own"
    if own:
        process.require_admissible(name)
    steps, pinned = len(times) - 1, process.pinned(times[:1])

    def clocks(i: int) -> tuple[Tensor, Tensor]:
        """Steps (dX, H) of the two clocks at row i."""
        t, s = times[i : i + 1], times[i + 1 : i + 2]
        dl = log_snr_step(process.moments(t), process.moments(s))
        dx = process.memory_step(t, s) if own else torch.zeros_like(dl)
        return dx, dl + dx

    def row(i: int) -> Row:
        now, after = (process.moments(times[j : j + 1]) for j in (i, i + 1))
        s, s_now = after.s2.sqrt(), now.s2.sqrt()
        dx, H = clocks(i)
        keep = torch.where(s_now == 0, ratio(after.h, now.h), ratio(s, s_now) * torch.exp(-dx))
        std = s * (-torch.expm1(-2 * dx)).clamp_min(0.0).sqrt()
        if pinned and i == 0:  # what leaves the end of a bridge has to be drawn
            std = torch.where((now.h == 0) & (s_now == 0), s, std)
        noise = (std,) if own or (pinned and i == 0) else ()
        past = [clocks(i - j)[1] for j in range(1, min(order, i + 1, steps - i if lower_last else order))]
        weights = tuple(after.h * w for w in _weights(H, past, form))
        return Row(float(times[i]), True, (keep,), weights, noise)

    return Plan(process, times, row, steps, steps, name, depth=order, stochastic=own or pinned)


def _weights(H: Tensor, past: list[Tensor], form: str) -> tuple[Tensor, ...]:
    """Weights of D_0, D_1, D_2 in the integral; a coefficient that has no history lowers its own order.

    r0 = H_1/H, r1 = H_2/H, e0 = (D_0 - D_1)/r0, e1 = (D_1 - D_2)/r1, c2 = (e0 - e1)/(r0 + r1), c1 = e0 + r0 c2:
    p1 D_0 + p2 c1 + p3 c2.
    """
    p1, p2, p3 = phi(H)
    usable = torch.isfinite(H)
    if not past:
        return (p1,)
    usable = usable & torch.isfinite(past[0]) & (H * past[0] > 0)
    a = torch.where(usable, ratio(H, torch.where(usable, past[0], 1.0)), 0.0)  # 1/r0
    linear = p1 / 2 if form in ("midpoint", "dpmpp") else p2
    if len(past) == 1:
        return p1 + linear * a, -linear * a
    third = usable & torch.isfinite(past[1]) & (H * past[1] > 0)
    b = torch.where(third, ratio(H, torch.where(third, past[1], 1.0)), 0.0)  # 1/r1
    r0 = torch.where(third, ratio(torch.ones_like(a), a), 0.0)
    q = torch.where(third, 1 / (r0 + ratio(torch.ones_like(b), b, otherwise=1.0)), 0.0)
    square = p3 / 2 if form in ("published", "dpmpp") else p3
    c2 = (square + p2 * r0) * q  # weight of e0 - e1, through c2 and c1
    e0 = torch.where(third, p2, linear) + c2
    return p1 + e0 * a, -e0 * a - c2 * b, c2 * b
