"""Steps of order two with x_0 drawn from its law."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import log_snr_step
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row

__all__ = ["matched2"]


def matched2(
    process: Process,
    times: Tensor,
    spectrum: Tensor | None = None,
    *,
    secants: int = 2,
    components: int = 0,
) -> Plan:
    """`matched`, corrected by the call that ends each step, and drawn with the covariance that the calls reveal.

    NFE = N.  Exact on Gaussian data at any number of steps, of weak order two in the rest; see
    `retrodict.samplers.corrected`.  `secants`: directions of covariance remembered from past steps.  `components`:
    directions looked for at the start, by one more call each and one (`retrodict.samplers.principal`); members that
    start at one measurement share them.  Directions are those of real images; with complex ones no secant is drawn
    along, and components are refused.
    """
    process.require_markov("matched2")
    for name, value in (("secants", secants), ("components", components)):
        if value < 0:
            raise InputError(f"matched2 {name}", value, "0 or more")
    if components and process.basis.complex:
        raise InputError(
            "components", "complex images", "real ones: a direction of covariance has no phase", "Leave it 0."
        )
    quiet, steps = process.noise_free(times[-1:]), len(times) - 1

    def row(i: int) -> Row:
        t, s = times[i : i + 1], times[i + 1 : i + 2]
        keep, data, std = process.conditional(t, s, 1.0)
        noise = () if quiet and i == steps - 1 else (std,)
        weight = _weight(process, times[i - 1 : i], t) if i else None
        known = secants if i else components
        return Row(float(t), True, (keep,), (data,), noise, (data,), weight, True, known)

    settings = {"stochastic": True, "uses_spread": True, "components": components}
    return Plan(process, times, row, steps, steps, "matched2", **settings)  # type: ignore[arg-type]


def _weight(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """The share h' p2(H) = h' (1 - (1 - e^-H)/H) of a rest that grows evenly from t to s which enters the state."""
    H = log_snr_step(process.moments(t), process.moments(s)) + process.memory_step(t, s)
    small, away = H < 1e-4, torch.where(H < 1e-4, 1.0, H)
    share = torch.where(torch.isinf(away), 1.0, 1 + torch.expm1(-away) / away)
    return process.moments(s).h * torch.where(small, H / 2 - H**2 / 6, share)
