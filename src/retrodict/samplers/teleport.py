"""Gaussian teleport: the early, noisy phase of a run as one exact jump from the spectrum of the data, without a call.

At high noise any data look Gaussian, and for Gaussian data the flow and the transition of a process are known per
coefficient (Wang, Vastola 2023, arXiv 2303.02490; here for clocks of every coefficient of its own).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.observation import Cond, clock, noise_like, ratio, wiener
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, make_grid
from retrodict.samplers.rules import RULES, make_plan
from retrodict.samplers.rules.nodes import stand_in

__all__ = ["teleport", "teleport_time", "teleport_weights", "teleported"]


def teleport_weights(process: Process, t: Tensor, s: Tensor, spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (psi, offset) of the flow of Gaussian data N(m, L) from t to s < t, `(1,)`: w_s = psi w_t + offset m.

    psi = sqrt((h_s^2 L + s_s^2)/(h_t^2 L + s_t^2)), offset = h_s - psi h_t.  Raises `InputError` where a coefficient is
    pinned at t: its flow is not defined.
    """
    if process.pinned(t):
        found = f"a bridge, whose end at t = {float(t):g} is one point"
        raise InputError("teleport", found, "a process that is noisy there", "Give seeds: the exact transition.")
    a, b = process.moments(t), process.moments(s)
    psi = ratio(b.h**2 * spectrum + b.s2, a.h**2 * spectrum + a.s2, otherwise=1.0).sqrt()
    return psi, b.h - psi * a.h


def teleport(
    denoiser: Denoiser,
    state: Tensor,
    t: float,
    s: float,
    *,
    cond: Cond = Cond(),
    seeds: Tensor | None = None,
) -> Tensor:
    """The state at s < t from shifted coefficients `(B, C, *K)` at t, as if the data were Gaussian; no call is made.

    Without `seeds` along the probability flow (`teleport_weights`); with seeds `(B,)` a draw of the exact transition
    w_s | w_t, keep w_t + data E[x_0 | w_t] and its variance V + data^2 v.  The data are those of `denoiser.prior()`,
    given the measured image `cond.image` where the process is external.  Exact for Gaussian data and every process that
    is diagonal in its basis; for other data the error of the end falls like (deviation of the data/sigma)^4.
    """
    process, prior = denoiser.process, denoiser.prior()
    if prior is None:
        raise InputError("teleport", "a denoiser that knows no spectrum of the data", "one with a spectrum")
    if not 0 <= s < t <= 1:
        raise InputError("teleport", f"from t = {t} to {s}", "0 <= s < t <= 1")
    mean, variance = prior
    if cond.image is not None and process.pairing.sees:
        mean, variance = process.pairing.given(mean, variance, cond.image, process.basis)
    now, after = (torch.tensor([x], dtype=torch.float64, device="cpu") for x in (t, s))
    mean, real = mean.to(state), state.real.dtype
    if seeds is None:
        psi, offset = teleport_weights(process, now, after, variance)
        return psi.to(real) * state + offset.to(real) * mean
    process.require_admissible("teleport with seeds")
    keep, data, std = process.conditional(now, after, 1.0)
    m = process.moments(now)
    gain, left = wiener(m, variance)
    x0 = mean + gain.to(real) * (state - m.h.to(real) * mean)
    z = process.basis.forward(noise_like(process.basis.inverse(state), seeds, "teleport", 0, white))
    return keep.to(real) * state + data.to(real) * x0 + (std**2 + data**2 * left).sqrt().to(real) * z


def teleport_time(process: Process, spectrum: Tensor, factor: float = 3.0) -> float:
    """The latest time to jump to: the least at which sigma = s/h of every coefficient with data is at least `factor`
    deviations of the strongest one; 1 where there is none, and nothing can be left out.
    """
    if factor <= 0:
        raise InputError("teleport_time factor", factor, "above 0; 2 to 5 deviations of the data")
    level = factor**2 * float(spectrum.max())
    small = stand_in(process)

    def noisy(t: float) -> bool:
        m = small.moments(torch.tensor([t], dtype=torch.float64, device="cpu"))
        return bool((clock(m) >= level).all())

    low, high = 0.0, 1.0
    if not noisy(1.0):
        return 1.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if noisy(middle) else (middle, high)
    return high


def teleported(
    rule: str,
    process: Process,
    steps: int,
    spectrum: Tensor,
    *,
    until: float | None = None,
    grid: str | None = None,
    **options: object,
) -> Plan:
    """A plan of `rule` whose `steps` all lie below the time `until` (default `teleport_time`).

    Its first time is `until`: run it from `teleport(denoiser, start, 1.0, plan.times[0])`.  The grid is the
    part below of that of the rule.
    """
    first = teleport_time(process, spectrum) if until is None else until
    if not 0 < first <= 1:
        raise InputError("teleported until", first, "a time above 0 and at most 1")
    kind = grid or RULES[rule].grid
    return make_plan(rule, process, _below(process, steps, kind, first, spectrum), spectrum, **options)


def _below(process: Process, steps: int, kind: str, first: float, spectrum: Tensor) -> Tensor:
    """The part of a grid below `first`, spread over `steps` intervals: uniform in what the grid is uniform in."""
    fine = make_grid(process, 64 * steps + 1, kind, spectrum=spectrum)
    jumps = kind != "time"  # the last interval of such a grid is the jump to 0
    body = fine[:-1] if jumps else fine
    if not first > float(body[-1]):
        raise InputError(
            "teleported until", first, f"a time above {float(body[-1]):.3g}, the last node of grid {kind!r}"
        )
    inner = steps - int(jumps)
    if inner == 0:
        return fine.new_tensor([first, 0.0])
    place = torch.linspace(0, 1, len(body), dtype=torch.float64, device="cpu")
    start = float(np.interp(-first, -body.numpy(), place.numpy()))
    wanted = np.linspace(start, 1, inner + 1)
    times = torch.from_numpy(np.interp(wanted, place.numpy(), body.numpy()))
    times[0] = first
    return torch.cat([times, fine[-1:]]) if jumps else times
