"""DEIS: Adams-Bashforth on the noise prediction, the exponential kernel integrated exactly in time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row

__all__ = ["deis"]

POINTS = 48
"""Nodes of the Gauss-Legendre rule of a step."""


def deis(process: Process, times: Tensor, spectrum: Tensor | None = None, *, order: int = 2) -> Plan:
    """TAB-DEIS (Zhang, Chen 2023) with the polynomial of degree `order`, 0 to 3, in t; deterministic, NFE = N.

    w' = (h'/h) w + sum_j C_j eps_(i-j), eps = (w - h D)/s, C_j = h' int sigma'(t) l_j(t) dt with sigma = s/h and l_j
    the Lagrange polynomials of the last times.  By parts C_j = h' ([sigma l_j] - int sigma l_j' dt), so the integral
    needs values of the law alone; it is right to round-off (48 points of Gauss and Legendre).  `order` 0 is DDIM.  A
    coefficient that leaves h = 0 or s = 0 takes the step of DDIM.
    """
    if order not in (0, 1, 2, 3):
        raise InputError("deis order", order, "0, 1, 2 or 3: the degree of the polynomial in t")
    steps, pinned = len(times) - 1, process.pinned(times[:1])

    def row(i: int) -> Row:
        t, s = times[i : i + 1], times[i + 1 : i + 2]
        keep, data, std = process.conditional(t, s, 0.0)
        now, after = process.moments(t), process.moments(s)
        degree = min(order, i)
        noise = (std,) if pinned and i == 0 else ()
        if degree == 0:
            return Row(float(t), True, (keep,), (data,), noise)
        weights, regular = _kernel(process, times, i, degree), (now.h != 0) & (now.s2 != 0)
        keeps, images = [], []
        for j, c in enumerate(weights):
            m = process.moments(times[i - j : i - j + 1])
            regular = regular & (m.s2 != 0)
            on_state = after.h * ratio(c, m.s2.sqrt())
            keeps.append(on_state)
            images.append(-m.h * on_state)
        keeps[0] = ratio(after.h, now.h) + keeps[0]
        first = torch.where(regular, keeps[0], keep), torch.where(regular, images[0], data)
        past = tuple(torch.where(regular, w, 0.0) for w in keeps[1:])
        return Row(
            float(t), True, (first[0], *past), (first[1], *(torch.where(regular, w, 0.0) for w in images[1:])), noise
        )

    return Plan(process, times, row, steps, steps, "deis", depth=order + 1, stochastic=pinned)


def _kernel(process: Process, times: Tensor, i: int, degree: int) -> list[Tensor]:
    """Integral of sigma' l_j over step i, per coefficient, for each of the last degree + 1 times."""
    low, high = float(times[i + 1]), float(times[i])
    nodes = [float(times[i - j]) for j in range(degree + 1)]
    points, shares = np.polynomial.legendre.leggauss(POINTS)
    points, shares = (low + high) / 2 + (high - low) / 2 * points, shares * (high - low) / 2
    m = process.moments(torch.tensor([*points, low, high], dtype=torch.float64, device="cpu"))
    sigma = ratio(m.s2.sqrt(), m.h)  # 0 where h = 0: such a coefficient takes no part
    found = []
    for j in range(degree + 1):
        p = _lagrange(nodes, j)
        # the step runs from high down to low, and so does the integral
        weights = torch.tensor([*(shares * p.deriv()(points)), p(low), -p(high)], dtype=torch.float64, device="cpu")
        found.append(torch.tensordot(weights.to(sigma.device), sigma, 1)[None])
    return found


def _lagrange(nodes: list[float], j: int) -> np.polynomial.Polynomial:
    found = np.polynomial.Polynomial([1.0])
    for k, x in enumerate(nodes):
        if k != j:
            found = found * np.polynomial.Polynomial([-x, 1.0]) / (nodes[j] - x)
    return found
