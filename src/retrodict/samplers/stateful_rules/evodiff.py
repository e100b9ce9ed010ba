"""EVODiff as released: a multistep rule whose two scalars a step are inner products of recent predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import ratio
from retrodict.processes.process import Process
from retrodict.samplers.stateful import Progress, Run, item_dot

__all__ = ["EVODiff"]


@dataclass(frozen=True)
class EVODiff:
    """EVODiff, order 2, as released for EDM on CIFAR-10 (Li, Chen, Zeng 2025); NFE = N, deterministic.

    Data prediction; "reference-free variance optimisation" are the scalars eta and zeta of every step, from inner
    products over an item and channel.  It is *not* a convergent second-order solver: with the exact denoiser its error
    falls like one over N, and on the rho grid it is worse than DDIM (`pece2` is what it becomes at Taylor values).
    The last factor 1 - sqrt(s s_p) is not scale invariant.  Only where all coefficients share one clock, and above
    t = 0: a plan that ends there ends with the denoised image.
    """

    alone = False

    def check(self, process: Process, times: Tensor) -> None:
        """One clock, finite log-SNR."""
        if process.clock_spread > 1e-9 or process.erases(times[:1]) or process.pinned(times[:1]):
            found = "a process whose coefficients have clocks of their own, or are erased at the start"
            raise InputError("evodiff", found, "one clock for all, finite at the start", "Use pece2 or unipc.")

    def begin(self, run: Run, w: Tensor) -> Progress:
        """Levels s, h at the times, as numbers."""
        values = []
        for time in run.plan.times:
            m = run.process.moments(time[None])
            values.append((float(m.s2.flatten()[0].sqrt()), float(m.h.flatten()[0])))
        return Progress(w, float(run.plan.times[0]), (0, values, []))

    def step(self, run: Run, progress: Progress) -> Progress:
        """One step with at most one call."""
        (index, values, past), w, times = progress.memory, progress.w, run.plan.times
        if index == 0:
            past = [run.denoised(w, progress.t)]
        (s, h), (s_p, h_p) = values[index + 1], values[index]
        final = index + 2 == len(times)
        if s == 0:
            return Progress(past[0], float(times[-1]), None, True)
        H = h / s - h_p / s_p
        E = s / s_p * w + s * H * past[0]
        if index == 0:
            new = E
        elif final:
            q0 = s / s_p
            rd = 1 - math.sqrt(q0) / 2 if q0 < 0.5 else 1 - math.sqrt(q0 - 0.5) / 2
            new = (1 - math.sqrt(s * s_p)) * E + 0.5 * s * H * (past[0] - rd * past[1])
        else:
            new, answer = self._inner(run, E, H, index, values, past, float(times[index + 1]))
            past = [answer, past[0]]
        if index == 0 and not final:
            past = [run.denoised(new, float(times[1])), past[0]]
        return Progress(new, float(times[index + 1]), (index + 1, values, past), final)

    def _inner(
        self, run: Run, E: Tensor, H: float, index: int, values: list, past: list[Tensor], t: float
    ) -> tuple[Tensor, Tensor]:
        """Steps 1-10 of the listing: probe, one call, eta and zeta."""
        process, steps = run.process, len(values) - 1
        (s, h), (s_p, h_p), (s_pp, h_pp) = values[index + 1], values[index], values[index - 1]
        kappa, kappa_p, kappa_pp = s / h, s_p / h_p, s_pp / h_pp
        least, most = values[-1][0] / values[-1][1], values[0][0] / values[0][1]
        m0, m1 = past[0], past[1]
        q0, q1 = s / s_p, s_p / s_pp
        rl = math.log(kappa_pp / kappa_p) / math.log(kappa_p / kappa)
        tau = (kappa + least) / (most + least)
        om, bb = (1 - tau**2) / 2, math.sqrt(q0 / q1)

        def part(a: Tensor, b: Tensor) -> Tensor:
            """<a, b>/<b, b>, cut to [-2, 2]; 0 where b vanishes."""
            return ratio(item_dot(process, a, b, True), item_dot(process, b, b, True)).clamp(-2, 2)

        r1 = (1 - om) * bb + om * part(m0, m1)
        D1 = m0 - r1 * m1
        ri = (torch.sigmoid(0.25 * r1.abs()) * rl).clamp(0.25 * rl, 1.5 * rl)
        probe = E + 0.5 * s * H * D1 / ri
        answer = run.denoised(probe, t)
        D2 = answer - ((1 - om) * bb + om * part(answer, m0)) * m0
        Bp, Bn = D1 / (rl * H), rl * D2 / H
        eta = 0.5 * torch.sigmoid((0.5 * part(Bn + Bp, Bn - Bp)).abs())
        Bt = -eta * D1 / rl + rl * (1 - eta) * D2
        P = probe - E - 0.5 * s * H * Bt / ri
        star = part(P, D1) / (H * s)
        if steps <= 20:
            zeta = torch.sigmoid(star.abs() - 0.5)
        else:
            d = (m0 - m1) / H
            zeta = torch.sigmoid(-(star.abs() - 0.5) * torch.sigmoid(part(m0, d) * (2 - q0**2)))
        return E + 0.5 * s * H * Bt / zeta, answer
