"""Bi-directional integration: a two-step rule that can be run backwards exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.flow import flow_weights
from retrodict.processes.observation import wiener
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row

__all__ = ["FORMS", "bdia", "bdia_weights", "reference_spectrum"]

FORMS = ("ddim", "gaussian")
"""Which one-call step is averaged: DDIM as published, or the step that is exact for Gaussian data."""


def bdia(
    process: Process, times: Tensor, spectrum: Tensor | None = None, *, gamma: float = 1.0, form: str = "ddim"
) -> Plan:
    """BDIA (Zhang, Lewis, Kleijn 2024), deterministic, NFE = N.

    With d(a -> b | w) the increment of a one-call step from a to b,

        w_(i+1) = w_(i-1) + (1 - gamma) (w_i - w_(i-1)) - gamma d(i -> i-1 | w_i) + d(i -> i+1 | w_i).

    gamma = 1 is the midpoint rule (order 2; it has a root at -1, which steep fields excite), 0 the step itself.  Any
    gamma > 0 can be inverted: `retrodict.invert`.  form "gaussian" takes the step of `gaussian_ode`, for which Gaussian
    data are exact.  The first step is plain, and so is one that lands on a noise-free end.
    """
    if not 0 <= gamma <= 1:
        raise InputError("bdia gamma", gamma, "a number from 0 (a plain step) to 1")
    reference, steps = reference_spectrum(process, spectrum, form), len(times) - 1
    pinned, quiet = process.pinned(times[:1]), process.noise_free(times[-1:])

    def row(i: int) -> Row:
        now, after = times[i : i + 1], times[i + 1 : i + 2]
        if i == 0 or (quiet and i == steps - 1):
            keep, data = flow_weights(process, now, after, reference)
            if not (pinned and i == 0):
                return Row(float(now), True, (keep,), (data,))
            m = process.moments(after)
            drawn = torch.where(process.pins(now), (m.h**2 * reference + m.s2).sqrt(), 0.0)
            return Row(float(now), True, (keep,), (data,), (drawn,))
        keep, old, data = bdia_weights(process, times[i - 1 : i], now, after, gamma, reference)
        return Row(float(now), True, (keep, old), (data,))

    return Plan(process, times, row, steps, steps, "bdia", depth=2, stochastic=pinned)


def bdia_weights(
    process: Process, before: Tensor, now: Tensor, after: Tensor, gamma: float, reference: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (keep, old, data) of w_(i+1) = keep w_i + old w_(i-1) + data D_i, times `(1,)`.

    A coefficient that is pinned or noise-free now has no way back: its step is plain (old = 0).
    """
    up, lifted = flow_weights(process, now, before, reference)
    down, data = flow_weights(process, now, after, reference)
    m, past = process.moments(now), process.moments(before)
    usable = (m.s2 != 0) & ((past.h != 0) | (past.s2 != 0))
    old = torch.where(usable, gamma, torch.zeros_like(down))
    return down - old * up, old, data - old * lifted


def reference_spectrum(process: Process, spectrum: Tensor | None, form: str) -> Tensor:
    """The variance in whose coordinates a step is made: 0 for DDIM, that of the data (given y) for "gaussian"."""
    if form not in FORMS:
        raise InputError("form", repr(form), " or ".join(FORMS))
    if form == "ddim":
        return torch.zeros(1, dtype=torch.float64, device=process.basis.device)
    if spectrum is None:
        raise InputError("form 'gaussian'", "no spectrum", "the data spectrum (variance of every coefficient)")
    if process.pairing.sees and process.measurement is not None:
        return wiener(process.measurement, spectrum)[1]
    return spectrum
