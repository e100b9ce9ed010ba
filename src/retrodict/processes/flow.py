"""The probability flow in coordinates in which Gaussian data stand still, and in which its steps are exact for them.

For data of mean m and variance L per coefficient let M = h^2 L + s^2, v = (w - h m)/sqrt(M), tau = h/sqrt(M).  Then

    dv/dtau = Q,     Q = (D - D_G) M/s^2,     D_G = m + (h L/M)(w - h m),

where D_G is the Wiener estimate: Gaussian data have Q = 0.  Any m and L are allowed, they are a choice of coordinates;
L = 0 is DDIM.  tau is finite where a coefficient is erased (h = 0).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retrodict.processes.observation import Moments, ratio
from retrodict.processes.process import Process

__all__ = ["FlowTables", "flow_tables", "flow_weights", "tau_step"]


class FlowTables(NamedTuple):
    """At one time, `(1, 1, *K)`: gain h, root sqrt(M), filter h L/M, speed dtau/dt times M/s^2, and stretch M/s^2.

    dv/dt = speed (D - D_G); both are 0 where a coefficient carries no noise, for there D = D_G.
    """

    h: Tensor
    root: Tensor
    filter: Tensor
    speed: Tensor
    stretch: Tensor


def flow_tables(process: Process, t: float, spectrum: Tensor) -> FlowTables:
    """The tables at time t for data of variance `spectrum`, broadcastable to coefficients."""
    time = torch.tensor([t], dtype=torch.float64, device="cpu")
    m, rates = process.moments(time), process.rates(time)
    power = m.h**2 * spectrum + m.s2
    root = power.sqrt()
    speed = ratio(rates.dh * m.s2 - 0.5 * m.h * rates.ds2, m.s2 * root)
    return FlowTables(m.h, root, ratio(m.h * spectrum, power), speed, ratio(power, m.s2))


def tau_step(a: Moments, b: Moments, spectrum: Tensor) -> Tensor:
    """tau_b - tau_a without a difference of near numbers; 0 between two erased levels, infinite onto M = 0."""
    before, after = (m.h**2 * spectrum + m.s2 for m in (a, b))
    first, second = (ratio(m.h, power.sqrt(), otherwise=torch.inf) for m, power in ((a, before), (b, after)))
    step = ratio((b.h**2 * a.s2 - a.h**2 * b.s2), before * after * (first + second))
    return torch.where(torch.isinf(first + second), second - first, step)


def flow_weights(process: Process, t: Tensor, s: Tensor, spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (keep, data) of w_s = keep w_t + data D for Q held constant from t to s, either direction, `(1,)` times.

    keep = sqrt(M_s) (1/sqrt(M_t) - (h_t L/s_t^2) dtau), data = sqrt(M_s) (M_t/s_t^2) dtau.  Exact for Gaussian data;
    with spectrum 0 it is DDIM.  Onto M_s = 0 the state is h_s D; out of a noise-free coefficient it is scaled.
    """
    a, b = process.moments(t), process.moments(s)
    before, after = a.h**2 * spectrum + a.s2, b.h**2 * spectrum + b.s2
    gone, clean = after == 0, (a.s2 == 0) & (a.h != 0)
    step = torch.where(gone, 0.0, tau_step(a, b, spectrum))
    root = after.sqrt()
    keep = root * (ratio(torch.ones_like(before), before.sqrt()) - ratio(a.h * spectrum, a.s2) * step)
    data = root * ratio(before, a.s2) * step
    keep, data = torch.where(gone, 0.0, keep), torch.where(gone, b.h, data)
    return torch.where(clean, ratio(b.h, a.h), keep), torch.where(clean, 0.0, data)
