"""Probability-flow steps that are exact in the Gaussian part."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.process import Process, ratio
from retrodict.samplers.card import gaussian_posterior
from retrodict.samplers.plan import Levels, Plan, Row

__all__ = []


def gaussian_ode(process: Process, times: Tensor, spectrum: Tensor | None = None, *, order: int = 2) -> Plan:
    """Probability-flow steps that are exact in the Gaussian part, NFE = N; deterministic.

    With y = w/h, clock r and data variance L, the flow dy/dr = -score_y/2 becomes dY/dtau = Q in Y = y/sqrt(L + r),
    tau = 1/sqrt(L + r), where Q = (D - L y/(L + r)) (L + r)/r is the non-Gaussian rest of the denoiser (zero for
    Gaussian data).  Q is held constant (order 1) or continued linearly in tau (order 2, Adams-Bashforth).  L = 0 gives
    DDIM; for external conditioning with a known law L is the posterior variance given y.  Order 1 in weights:
    a = sqrt((L + r')/(L + r)), b = (1 - r'/r)/(1 + a): y' = (1 - b) y + b D.
    """
    if spectrum is None:
        raise InputError("gaussian_ode", "no spectrum", "the data spectrum (variance of every coefficient)")
    if order not in (1, 2):
        raise InputError("gaussian_ode order", order, "1 or 2")
    if process.conditioning == "external" and process.measured is not None:
        _, spectrum = gaussian_posterior(spectrum, process.measured)  # the flow of the Gaussian posterior given y

    def row(i: int) -> Row:
        t, s = levels.pair(i)
        mt, ms = process.moments(t), process.moments(s)
        rt, rs = process.clock(t), process.clock(s)
        q = torch.where(torch.isinf(rt), 0.0, torch.where(rt == 0, 1.0, ratio(rs, rt)))
        root = torch.where(torch.isinf(rt), 0.0, ratio(spectrum + rs, spectrum + rt, otherwise=1.0).sqrt())
        b = (1 - q) / (1 + root)
        keep, data = torch.where(mt.h == 0, 0.0, ratio(ms.h, mt.h) * (1 - b)), ms.h * b
        if order == 1 or i == 0:
            return Row(float(t), True, (keep,), (data,))
        # second difference: with g = (L + r)/r the rest is Q = g D - (g - 1) y, so that g (1 - L/(L + r)) = 1
        rp = process.clock(times[i - 1 : i])
        tau, before, after = (_inverse_root(spectrum + r) for r in (rt, rp, rs))
        step, previous = after - tau, tau - before
        part = 0.5 * ratio(step, previous) * step * (spectrum + rs).sqrt()
        usable = torch.isfinite(rp) & (rt > 0) & (previous != 0)
        gt, gp = (torch.where(usable, ratio(spectrum + r, r), 0.0) for r in (rt, rp))
        part = torch.where(usable, part, 0.0)
        hp = process.moments(times[i - 1 : i]).h
        ct, cp = part * gt, part * gp
        lt, lp = (ratio(spectrum, spectrum + r) for r in (rt, torch.where(usable, rp, 1.0)))
        keeps = (keep - ms.h * ct * ratio(lt, mt.h), torch.where(usable, ms.h * cp * ratio(lp, hp), 0.0))
        return Row(float(t), True, keeps, (data + ms.h * ct, -ms.h * cp))

    levels = Levels(process, times)
    depth = 1 if order == 1 else 2
    return Plan(process, times, row, len(levels), len(levels), "gaussian_ode", depth=depth)


def _inverse_root(x: Tensor) -> Tensor:
    return torch.where(torch.isinf(x), 0.0, ratio(torch.ones_like(x), x.sqrt()))
