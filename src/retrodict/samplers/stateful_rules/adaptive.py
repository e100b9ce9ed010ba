"""Adaptive steps, every item with its own: Runge-Kutta on the probability flow, and a stochastic pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import make_grid
from retrodict.samplers.stateful import Progress, Run, item_dot

__all__ = ["AdaptiveSDE", "RungeKutta"]

NODES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
PLACES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Dormand and Prince 1980, order 5 with an error of order 4; the last stage is the first of the next step."""

SHORTEST = 1e-7
"""Shortest step, as a part of the whole way: below it the tolerance is given up."""


def _moments_at(process: Process, t: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h, s^2, F and G^2 at a time; F = 0 where h = 0 for good."""
    time = torch.tensor([t], dtype=torch.float64, device="cpu")
    m, r = process.moments(time), process.rates(time)
    return m.h, m.s2, torch.where(torch.isfinite(r.F), r.F, 0.0), r.G2


def _flow(run: Run, w: Tensor, t: float, share: float = 0.5) -> Tensor:
    """F w - share G^2 score, score = (h D - w)/s^2; share 1/2 is the probability flow, 1 the drift of the SDE."""
    h, s2, F, G2 = _moments_at(run.process, t)
    real = w.real.dtype
    pull = share * ratio(G2, s2)
    return (F + pull).to(real) * w - (pull * h).to(real) * run.denoised(w, t)


def _size(process: Process, error: Tensor, scale: Tensor) -> float:
    """Root mean square of error/scale of the one item."""
    scaled = error / scale
    weight = process.basis.multiplicity()
    count = float(weight.expand(process.basis.shape).sum()) * error.shape[1]
    return math.sqrt(float(item_dot(process, scaled, scaled).sum()) / count)


@dataclass(frozen=True)
class _Adaptive:
    rtol: float
    atol: float
    most: int

    alone = True

    def __post_init__(self) -> None:
        """Refuse tolerances that mean nothing."""
        if self.rtol < 0 or self.atol < 0 or self.rtol + self.atol <= 0:
            found = f"rtol {self.rtol}, atol {self.atol}"
            raise InputError("tolerance", found, "both at least 0, and one above", "About 1e-3 restores an image.")
        if self.most < 8:
            raise InputError("most", self.most, "at least 8 calls")

    def check(self, process: Process, times: Tensor) -> None:
        """The drift must be finite at the first time."""
        if process.erases(times[:1]) or process.pinned(times[:1]):
            found = "a process with an erased or pinned coefficient at its start, where the drift in t is infinite"
            raise InputError(self._name, found, "h above 0 at the first time", "Use unipc, exponential or matched.")

    _name = "adaptive"

    def _end(self, run: Run) -> float:
        """The last time that is stepped to: at a noise-free end the time before the jump of the log-SNR grids."""
        times = run.plan.times
        if not run.process.noise_free(times[-1:]):
            return float(times[-1])
        return float(make_grid(run.process, 2, "logsnr", spectrum=run.plan.spectrum)[1])

    def _finished(self, run: Run, w: Tensor, t: float) -> Progress:
        """At the end; a noise-free one is reached by the denoised image."""
        last = float(run.plan.times[-1])
        if t > last:
            now, after = (torch.tensor([x], dtype=torch.float64, device="cpu") for x in (t, last))
            keep, data, _ = run.process.conditional(now, after, 0.0)
            w = keep.to(w.real.dtype) * w + data.to(w.real.dtype) * run.denoised(w, t)
        return Progress(w, last, None, True)

    def _stopped(self, run: Run, w: Tensor, t: float, step: float, whole: float) -> Progress | None:
        """Where the tolerance cannot be met: the state as it is, and why."""
        why = ""
        if run.calls >= self.most:
            why = f"{run.calls} calls were made"
        elif not step > SHORTEST * whole:
            why = f"the step fell to {step:.1e}"
        elif not bool(torch.isfinite(w).all()):
            why = "the state is not finite"
        if not why:
            return None
        told = (
            f"{self._name}: stopped at t = {t:.4g}, because {why} with rtol {self.rtol:g} and atol {self.atol:g}. "
            "Use a larger tolerance, more calls, or a rule of fixed steps such as unipc"
        )
        return Progress(w, t, None, True, False, told)


@dataclass(frozen=True)
class RungeKutta(_Adaptive):
    """Dormand-Prince 5(4) on the probability flow dw/dt = F w - G^2 score/2, step control per item.

    rtol, atol: per coefficient, error over atol + rtol max(|w|, |w'|), as root mean square of the item; `most`: calls.
    Of the times only the first and the last count.  Runs to the last time, or, where that is noise-free, to the node
    before it and then returns the denoised image.  A tolerance that cannot be met ends the item where it stands.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    most: int = 2000

    _name = "rk45"

    def begin(self, run: Run, w: Tensor) -> Progress:
        """The slope at the start."""
        t = float(run.plan.times[0])
        return Progress(w, t, (_flow(run, w, t), 0.02 * t))

    def step(self, run: Run, progress: Progress) -> Progress:
        """One attempt at a step."""
        (slope, step), w, t, end = progress.memory, progress.w, progress.t, self._end(run)
        whole = float(run.plan.times[0]) - end
        stop = self._stopped(run, w, t, step, whole)
        if stop is not None:
            return stop
        step, slopes, new = min(step, t - end), [slope], w
        for place, weights in zip(PLACES, NODES, strict=True):
            new = w - step * sum(c * k for c, k in zip(weights, slopes, strict=False))
            slopes.append(_flow(run, new, max(t - place * step, end)))
        error = step * sum(c * k for c, k in zip(ERROR, slopes, strict=True))
        scale = self.atol + self.rtol * torch.maximum(w.abs(), new.abs())
        size = _size(run.process, error, scale)
        change = min(5.0, max(0.2, 0.9 * (size if size > 0 else 1e-12) ** -0.2)) if math.isfinite(size) else 0.2
        if not size <= 1:
            return Progress(w, t, (slope, step * min(change, 0.9)))
        if t - step <= end + 1e-12:
            return self._finished(run, new, end)
        return Progress(new, t - step, (slopes[-1], step * change))


@dataclass(frozen=True)
class AdaptiveSDE(_Adaptive):
    """Adaptive stochastic pair on the reverse SDE (Jolicoeur-Martineau et al. 2021), step control per item.

    x' is Euler-Maruyama, x'' the same with drift and noise at the end of the step; their mean goes on, and
    |x' - x''|/2 over atol + rtol max(|x|, |x'|) is held at 1.  Where a step is refused, the part of its noise that the
    shorter one takes is drawn from the Brownian bridge and the rest is kept, so that refusing biases nothing (the
    released code draws anew).
    """

    rtol: float = 0.02
    atol: float = 0.01
    most: int = 4000

    _name = "adaptive_sde"

    def check(self, process: Process, times: Tensor) -> None:
        """An SDE must exist."""
        process.require_markov(self._name)
        super().check(process, times)

    def begin(self, run: Run, w: Tensor) -> Progress:
        """No increment is pending."""
        t = float(run.plan.times[0])
        return Progress(w, t, (0.02 * t, [], 0))

    def step(self, run: Run, progress: Progress) -> Progress:
        """One attempt at a step."""
        (step, pending, drawn), w, t, end = progress.memory, progress.w, progress.t, self._end(run)
        stop = self._stopped(run, w, t, step, float(run.plan.times[0]) - end)
        if stop is not None:
            return stop
        step = min(step, t - end)
        increment, step, pending, drawn = self._increment(run, w, step, pending, drawn)
        real, before = w.real.dtype, t - step
        noise = [_moments_at(run.process, x)[3].clamp_min(0.0).sqrt().to(real) for x in (t, before)]
        first = w - step * _flow(run, w, t, 1.0) + noise[0] * increment
        second = w - step * _flow(run, first, before, 1.0) + noise[1] * increment
        error, scale = (first - second) / 2, self.atol + self.rtol * torch.maximum(w.abs(), first.abs())
        size = _size(run.process, error, scale)
        change = min(5.0, 0.9 * (size if size > 0 else 1e-12) ** -0.9) if math.isfinite(size) else 0.2
        if not size <= 1:
            return Progress(w, t, (step * min(max(change, 0.1), 0.8), [(step, increment), *pending], drawn))
        new = (first + second) / 2
        if before <= end + 1e-12:
            return self._finished(run, new, end)
        return Progress(new, before, (step * change, pending, drawn))

    def _increment(
        self, run: Run, w: Tensor, step: float, pending: list[tuple[float, Tensor]], drawn: int
    ) -> tuple[Tensor, float, list[tuple[float, Tensor]], int]:
        """The Brownian increment of the next step: new, or (part of) what a refused step had drawn."""
        if not pending:
            return math.sqrt(step) * run.white(w, "step", drawn), step, [], drawn + 1
        (length, total), *rest = pending
        if step >= length * (1 - 1e-12):  # not beyond what is drawn: its end is a node of the path
            return total, length, rest, drawn
        z = run.white(w, "step", drawn)
        part = (step / length) * total + math.sqrt(step * (length - step) / length) * z
        return part, step, [(length - step, total - part), *rest], drawn + 1
