"""Predictor and Langevin corrector, with the norms of every item for itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.processes.observation import ratio
from retrodict.processes.process import Process
from retrodict.samplers.loop import advance
from retrodict.samplers.rules import make_plan
from retrodict.samplers.stateful import Progress, Run, item_dot

__all__ = ["PredictorCorrector", "langevin"]

PREDICTORS = ("ancestral", "reverse_diffusion", "ddim", "euler")
KINDS = ("state", "plain")


def langevin(run: Run, w: Tensor, t: float, z: Tensor, snr: float, kind: str) -> Tensor:
    """One Langevin step at time t: w + e P S + sqrt(2 e) P^(1/2) z, S the score (h D - w)/s^2, one call.

    kind "state": P = s^2 per coefficient, the noise of the state; "plain": P = 1 (Song et al. 2021).  The step of an
    item is e = 2 (snr |z|/|P^(1/2) S|)^2 by its own norms.  With the exact score of Gaussian data of one variance V the
    stationary variance is V (1 + snr^2) in many dimensions: a corrector does not converge to the law, it widens it.
    """
    m = run.process.moments(torch.tensor([t], dtype=torch.float64, device="cpu"))
    real, std = w.real.dtype, m.s2.sqrt()
    score = ratio(torch.ones_like(m.s2), m.s2).to(real) * (m.h.to(real) * run.denoised(w, t) - w)
    root = std.to(real) if kind == "state" else (std > 0).to(real)
    force = root * score
    norms = item_dot(run.process, z, z), item_dot(run.process, force, force)
    step = 2 * snr**2 * ratio(*norms)
    return w + step * root * force + (2 * step).sqrt() * root * z


@dataclass(frozen=True)
class PredictorCorrector:
    """At every time `corrections` Langevin steps, then one step of a predictor (Song et al. 2021, algorithms 2-5).

    snr: signal-to-noise ratio of the corrector; precondition "state" (by the noise of the state, for structured noise)
    or "plain".  Nothing is corrected at a start that is the measurement itself.  Calls: N (1 + corrections).
    """

    snr: float = 0.16
    corrections: int = 1
    predictor: str = "reverse_diffusion"
    precondition: str = "state"

    alone = False

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        choice("predictor_corrector predictor", self.predictor, PREDICTORS)
        choice("predictor_corrector precondition", self.precondition, KINDS)
        if self.snr <= 0 or self.corrections < 1:
            found = f"snr {self.snr}, corrections {self.corrections}"
            raise InputError("predictor_corrector", found, "snr above 0 and at least 1 correction")

    def check(self, process: Process, times: Tensor) -> None:
        """The predictor must exist."""
        make_plan(self.predictor, process, times)

    def begin(self, run: Run, w: Tensor) -> Progress:
        """Rows of the predictor."""
        plan = make_plan(self.predictor, run.process, run.plan.times, run.plan.spectrum)
        return Progress(w, float(run.plan.times[0]), (0, list(plan.cast(w.dtype, w.device))))

    def step(self, run: Run, progress: Progress) -> Progress:
        """Correct at this time, then predict the next."""
        (index, rows), w, t = progress.memory, progress.w, progress.t
        if not (index == 0 and run.process.pairing.starts):
            for k in range(self.corrections):
                z = run.white(w, "corrector", index * self.corrections + k)
                w = langevin(run, w, t, z, self.snr, self.precondition)
        row = rows[index]
        noises = (run.white(w, "step", index),) if row.noise else ()
        w = advance(row, (w,), (run.denoised(w, t),), noises)
        index += 1
        return Progress(w, float(run.plan.times[index]), (index, rows), index == len(rows))
