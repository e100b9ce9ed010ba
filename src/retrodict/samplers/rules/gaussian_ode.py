"""Probability-flow steps that are exact in the Gaussian part."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import Moments, clock, clock_ratio, ratio, wiener
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row

__all__ = ["gaussian_ode"]

FARTHEST = 1e4
"""How many times its last step a coefficient may be continued: beyond, what two answers differ by is round-off."""


def gaussian_ode(process: Process, times: Tensor, spectrum: Tensor | None = None, *, order: int = 2) -> Plan:
    """Probability-flow steps that are exact in the Gaussian part, NFE = N; deterministic.

    With y = w/h, clock r and data variance L, the flow dy/dr = -score_y/2 becomes dY/dtau = Q in Y = y/sqrt(L + r),
    tau = 1/sqrt(L + r), where Q = (D - L y/(L + r)) (L + r)/r is the non-Gaussian rest of the denoiser (zero for
    Gaussian data).  Q is held constant (order 1) or continued linearly in tau (order 2, Adams-Bashforth).  L = 0 gives
    DDIM; for external conditioning with a known law L is the posterior variance given y.  Order 1 in weights:
    a = sqrt((L + r')/(L + r)), b = (1 - r'/r)/(1 + a): y' = (1 - b) y + b D.  Out of an erased coefficient (h = 0) the
    state keeps sqrt(M'/M), M = h^2 L + s^2; out of the pinned end of a bridge (M = 0) it is drawn, with std sqrt(M').
    """
    if spectrum is None:
        raise InputError("gaussian_ode", "no spectrum", "the data spectrum (variance of every coefficient)")
    if order not in (1, 2):
        raise InputError("gaussian_ode order", order, "1 or 2")
    if process.pairing.sees and process.measurement is not None:
        _, spectrum = wiener(process.measurement, spectrum)  # the flow of the Gaussian posterior given y
    steps = len(times) - 1
    pinned = process.pinned(times[:1])

    def moments(i: int) -> tuple[Moments, Tensor]:
        m = process.moments(times[i : i + 1])
        return m, clock(m)

    def row(i: int) -> Row:
        (mt, rt), (ms, rs) = moments(i), moments(i + 1)
        q = clock_ratio(ms, mt)
        root = torch.where(torch.isinf(rt), 0.0, ratio(spectrum + rs, spectrum + rt, otherwise=1.0).sqrt())
        b = (1 - q) / (1 + root)
        # (h'/h) (1 - b) = [sqrt(M'/M) + (h'/h) r'/r]/(1 + a) without a difference, and with its limit h = 0
        gain, power = ratio(ms.h, mt.h), mt.h**2 * spectrum + mt.s2
        scale = torch.where(power == 0, gain, ratio(ms.h**2 * spectrum + ms.s2, power).sqrt())
        keep = (scale + torch.where(torch.isinf(rt), 0.0, gain * q)) / (1 + root)
        data = ms.h * torch.where(torch.isinf(rt), 1.0, b)
        if order == 1 or i == 0:
            if not pinned or i:
                return Row(float(times[i]), True, (keep,), (data,))
            drawn = torch.where(process.pins(times[:1]), (ms.h**2 * spectrum + ms.s2).sqrt(), 0.0)
            return Row(float(times[i]), True, (keep,), (data,), (drawn,))
        # second difference: with g = (L + r)/r the rest is Q = g D - (g - 1) y, so that g (1 - L/(L + r)) = 1
        mp, rp = moments(i - 1)
        tau, before, after = (_inverse_root(spectrum + r) for r in (rt, rp, rs))
        step, previous = after - tau, tau - before
        part = 0.5 * ratio(step, previous) * step * (spectrum + rs).sqrt()
        usable = torch.isfinite(rp) & torch.isfinite(rt) & (rt > 0) & (step.abs() <= FARTHEST * previous.abs())
        usable = usable & (previous != 0)
        gt, gp = (torch.where(usable, ratio(spectrum + r, r), 0.0) for r in (rt, rp))
        part = torch.where(usable, part, 0.0)
        ct, cp = part * gt, part * gp
        lt, lp = (torch.where(usable, ratio(spectrum, spectrum + r), 0.0) for r in (rt, rp))
        keeps = (keep - ms.h * ct * ratio(lt, mt.h), ms.h * cp * ratio(lp, mp.h))
        return Row(float(times[i]), True, keeps, (data + ms.h * ct, -ms.h * cp))

    return Plan(process, times, row, steps, steps, "gaussian_ode", depth=1 if order == 1 else 2, stochastic=pinned)


def _inverse_root(x: Tensor) -> Tensor:
    return torch.where(torch.isinf(x), 0.0, ratio(torch.ones_like(x), x.sqrt()))
