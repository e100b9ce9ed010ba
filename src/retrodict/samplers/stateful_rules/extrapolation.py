"""LML: a norm-preserving extrapolation of the step direction, in a form that does not cancel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import ratio
from retrodict.processes.process import Process
from retrodict.samplers.loop import advance
from retrodict.samplers.rules import make_plan
from retrodict.samplers.stateful import Progress, Run, item_dot

__all__ = ["LML", "literal_direction", "stable_direction"]


def literal_direction(process: Process, e: Tensor, before: Tensor, kappa: float, damping: float) -> Tensor:
    """The direction as released: e - m <m, e>/(damping + <m, m>) at the norm of e, m = kappa e_before + (1 - kappa) e.

    With kappa = 0, the setting of every released script, m = e and the result is e itself in exact arithmetic; what
    float32 makes of it for a damping far below |e|^2 is round-off.
    """
    m = kappa * before + (1 - kappa) * e
    turned = e - m * (item_dot(process, m, e) / (damping + item_dot(process, m, m)))
    norms = item_dot(process, e, e).sqrt(), item_dot(process, turned, turned).sqrt()
    return turned * ratio(*norms)


def stable_direction(process: Process, e: Tensor, before: Tensor, rho: float) -> Tensor:
    """The direction e + rho (e - e_before), the added part made orthogonal to e, at the norm of e.

    rho = kappa |e|^2/damping of `literal_direction`, to first order in kappa.
    """
    if rho == 0:
        return e
    change = e - before
    squared = item_dot(process, e, e)
    across = change - e * ratio(item_dot(process, e, change), squared)
    turned = e + rho * across
    return turned * ratio(squared, item_dot(process, turned, turned)).sqrt()


@dataclass(frozen=True)
class LML:
    """Levenberg-Marquardt-Langevin (Wang et al. 2025) on DDIM: the noise prediction of a step is turned, not stretched.

    rho 0, the published kappa = 0, is DDIM bit for bit.  NFE = N.  Where h = 0 the denoised image is left as it is.
    """

    rho: float = 0.1

    alone = False

    def __post_init__(self) -> None:
        """Refuse what is beyond the expansion."""
        if not 0 <= self.rho <= 1:
            raise InputError("lml rho", self.rho, "between 0 (DDIM) and 1", "rho = kappa |e|^2/lambda of the paper.")

    def check(self, process: Process, times: Tensor) -> None:
        """Any process will do."""

    def begin(self, run: Run, w: Tensor) -> Progress:
        """Rows of DDIM, and no direction yet."""
        plan = make_plan("ddim", run.process, run.plan.times)
        return Progress(w, float(run.plan.times[0]), (0, None, list(plan.cast(w.dtype, w.device))))

    def step(self, run: Run, progress: Progress) -> Progress:
        """A step of DDIM along the turned direction."""
        (index, before, rows), w, times = progress.memory, progress.w, run.plan.times
        D, m, real = run.denoised(w, progress.t), run.process.moments(times[index : index + 1]), w.real.dtype
        e = ratio(torch.ones_like(m.s2), m.s2.sqrt()).to(real) * (w - m.h.to(real) * D)
        if before is not None and self.rho > 0:
            turned = stable_direction(run.process, e, before, self.rho)
            D = D - ratio(m.s2.sqrt(), m.h).to(real) * (turned - e)
        row = rows[index]
        w = advance(row, (w,), (D,), (run.white(w, "step", index),) if row.noise else ())
        return Progress(w, float(times[index + 1]), (index + 1, e, rows), index + 2 == len(times))
