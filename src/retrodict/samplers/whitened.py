"""Algorithm 1 of whitened-score diffusion (Alido et al. 2025) as a plan, with the published and with the right sign."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.processes.observation import ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row, denoise_row

__all__ = ["SIGNS", "whitened_plan"]

SIGNS = {"corrected": 1.0, "published": -1.0}
"""Sign of the whitened score in a step.  The published training teaches minus G^2 score, and the published sampler adds
it as if it were plus."""

BLOCK = 64
"""Times whose rates are found together."""


def whitened_plan(process: Process, times: Tensor, *, signs: str = "corrected", final: bool = False) -> Plan:
    """Algorithm 1: explicit steps of the probability flow in the whitened score n = G^2 score, deterministic, NFE = N.

        w' = (2 - sqrt(1 + 2 F d)) w + (d/2) n,     n = (G^2/s^2) (h D - w),     d = t - t'

    with F = -beta/2, so that the first factor is 2 - sqrt(1 - beta d) = 1 + beta d/2 + O(d^2).  Order 1.  No inverse of
    a noise kernel: G^2/s^2 is a number, and 0 where there is no noise.  `signs` "published" subtracts n, as a network
    of the published training does in the published sampler: its variance grows without bound.  `final`: the step onto
    t = 0 returns D (Tweedie) instead.  A likelihood enters by `LikelihoodGuided` round the denoiser.

    It is no entry of RULES: it is a baseline, stable from a few dozen steps on, and follows the flow of `ddim`, whose
    steps are exact in the linear part at any number.  Raises `InputError` where a step is longer than 1/beta, and where
    a gain is zero.
    """
    sign = SIGNS[choice("whitened_plan signs", signs, SIGNS)]
    steps = len(times) - 1

    rates = _rates(process, times[:-1])

    def row(i: int) -> Row:
        t, s = float(times[i]), float(times[i + 1])
        if final and i == steps - 1 and s == 0:
            return denoise_row(t)
        h, drift, strength = rates(i)
        push = sign * 0.5 * (t - s) * strength
        return Row(t, True, (2 - (1 + 2 * drift * (t - s)).clamp_min(0.0).sqrt() - push,), (push * h,))

    _check_steps(process, times)
    return Plan(process, times, row, steps, steps, "whitened")


def _rates(process: Process, times: Tensor) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """I -> (h, F, G^2/s^2) at times[i], found for a block of times together: one differentiation costs like many."""
    many = BLOCK if process.moments(times[:1]).s2.shape[0] == 1 else 1  # else the law has a row for every item

    @lru_cache(maxsize=1)
    def block(first: int) -> tuple[Tensor, Tensor, Tensor]:
        t = times[first : first + many]
        m, r = process.moments(t), process.rates(t)
        return m.h, r.F, ratio(r.G2, m.s2)

    def at(i: int) -> tuple[Tensor, Tensor, Tensor]:
        first, k = i - i % many, i % many
        h, drift, strength = (x if many == 1 else x[k : k + 1] for x in block(first))
        return h, drift, strength

    return at


def _check_steps(process: Process, times: Tensor) -> None:
    """Refuse erased coefficients, and steps d > 1/beta, where the square root does not exist, of a schedule that is
    fastest at t = 1 or at its longest step.
    """
    longest = int((times[:-1] - times[1:]).argmax())
    for i in {0, longest}:
        t, d = times[i : i + 1], float(times[i] - times[i + 1])
        if process.erases(t):
            raise InputError("whitened_plan", "a gain of zero", "a gain above 0", "Use ddim: it has the limit.")
        beta = -2 * float(process._small.rates(t).F.min())
        if beta * d > 1 + 1e-9:  # round-off of exactly 1/beta is clamped
            found = f"a step of {d:.3g} at t = {float(t):.3g}, where beta = {beta:.3g}"
            raise InputError("whitened_plan times", found, "steps of at most 1/beta", "Take more steps.")
