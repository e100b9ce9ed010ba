"""Denoising MCMC: a chain in the state and its time, and a short run from where it is least noisy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import uniform
from retrodict.processes.process import Process
from retrodict.samplers.loop import advance
from retrodict.samplers.plan import mean_log_clock
from retrodict.samplers.rules import RULES, make_plan
from retrodict.samplers.rules.nodes import times_at
from retrodict.samplers.stateful import Progress, Run

__all__ = ["DenoisingMCMC"]


@dataclass(frozen=True)
class DenoisingMCMC:
    """Denoising Langevin-Gibbs (Kim, Ye 2023), generalised to clocks of every coefficient.

    The chain: w moves by a Langevin step at its time, y += (size/2) S + sqrt(size) z for y = w/h with the step `size`
    times r = s^2/h^2 of every coefficient (the paper: one absolute step), then its time is drawn from p(t | w) over
    `levels` times uniform in the mean log clock ("draw", exact Gibbs), or is the likeliest ("argmax", as released).
    The paper learns p(t | w); here it is that of Gaussian data with the spectrum.  After `skip` such moves the visited
    state of least time is run down by `rule` in as many steps as the plan has intervals.

    warm: moves before the first sample, started from a full run of `rule`.  Calls of an item: run + warm + skip + run;
    of every further sample of the chain (`samples`) skip + run.  The samples of one chain depend on each other, and
    taking the least time of a window biases the law: never an uncertainty.
    """

    rule: str = "dpmpp2m"
    size: float = 0.5
    skip: int = 5
    warm: int = 20
    levels: int = 64
    pick: str = "draw"

    alone = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        choice("dmcmc rule", self.rule, RULES)
        choice("dmcmc pick", self.pick, ("draw", "argmax"))
        if self.skip < 1 or self.warm < 0 or self.levels < 2 or not 0 < self.size < 4:
            found = f"skip {self.skip}, warm {self.warm}, levels {self.levels}, size {self.size}"
            raise InputError("dmcmc", found, "skip of at least 1, warm of at least 0, 2 levels or more, 0 < size < 4")

    def check(self, process: Process, times: Tensor) -> None:
        """A chain needs noise at its start that no measurement is, and a rule that draws no error law."""
        if process.pairing.restores:
            found = f"a process of kind {process.pairing.kind!r}: the chain is one of the prior"
            raise InputError("dmcmc", found, "a process without a measurement", "Use matched for a posterior.")
        if process.erases(times[:1]):
            raise InputError("dmcmc", "a process that erases everything at its start", "h above 0 there")
        if make_plan(
            self.rule, process, times, torch.ones(process.basis.shape, dtype=torch.float64, device=process.basis.device)
        ).uses_spread:
            raise InputError("dmcmc rule", self.rule, "a rule that draws no error law", "Use dpmpp2m, heun or unipc.")

    def begin(self, run: Run, w: Tensor) -> Progress:
        """A chain, warmed up."""
        return Progress(w, float(run.plan.times[0]), self.samples(run, w))

    def step(self, run: Run, progress: Progress) -> Progress:
        """One sample is the whole run."""
        return Progress(next(progress.memory), float(run.plan.times[-1]), None, True)

    def samples(self, run: Run, w: Tensor) -> Iterator[Tensor]:
        """Samples of one chain from a start `(1, C, *K)` at t = 1, without end."""
        prior = run.denoiser.prior()
        if prior is None:
            found = "a denoiser that knows no spectrum of the data"
            raise InputError("dmcmc", found, "one with a spectrum, which says how noisy a state is")
        levels = self._levels(run)
        end = self._down(run, w, run.plan.times, 0)
        level, w = self._noised(run, end, levels)
        number = 0
        for _ in range(self.warm):
            w, level, number = self._move(run, w, level, levels, prior, number)
        while True:
            kept = (level, w)
            for _ in range(self.skip):
                w, level, number = self._move(run, w, level, levels, prior, number)
                kept = (level, w) if level < kept[0] else kept
            yield self._down(run, kept[1], self._grid(run, float(levels[kept[0]])), number)

    def _levels(self, run: Run) -> Tensor:
        """Times of the chain, rising, uniform in the mean log clock, from the last noisy node to 1."""
        times = run.plan.times
        noisy = times[:-1] if run.process.noise_free(times[-1:]) else times
        low, high = (float(x) for x in mean_log_clock(run.process.to("cpu"), noisy[[-1, 0]]))
        if len(noisy) < 2:
            low = high - 9.0
        found = times_at(run.process, torch.linspace(low, high, self.levels, dtype=torch.float64, device="cpu"))
        found[-1] = float(times[0])
        return found

    def _grid(self, run: Run, top: float) -> Tensor:
        """As many intervals as the plan has, from `top` down, uniform in the mean log clock; its end is the plan's."""
        times = run.plan.times
        steps, last = len(times) - 1, times[-1:]
        quiet = run.process.noise_free(last)
        below = float(self._levels(run)[0])
        inner = steps - int(quiet)
        if inner < 1 or top <= below * (1 + 1e-9):
            return torch.cat([last.new_tensor([top]), last])
        ends = mean_log_clock(run.process.to("cpu"), last.new_tensor([top, below]))
        part = torch.linspace(0, 1, inner + 1, dtype=torch.float64, device="cpu")
        body = times_at(run.process, ends[0] * (1 - part) + ends[1] * part)
        body[0], body[-1] = top, below
        return torch.cat([body, last]) if quiet else body

    def _noised(self, run: Run, end: Tensor, levels: Tensor) -> tuple[int, Tensor]:
        """The sample at the middle level, by the transition from the end."""
        level = len(levels) // 2
        gain, variance = run.process.transition(run.plan.times[-1:], levels[level : level + 1])
        real = end.real.dtype
        noise = variance.clamp_min(0.0).sqrt().to(real) * run.white(end, "chain", 0)
        return level, gain.to(real) * end + noise

    def _move(
        self, run: Run, w: Tensor, level: int, levels: Tensor, prior: tuple[Tensor, Tensor], number: int
    ) -> tuple[Tensor, int, int]:
        """A Langevin step at this level, and a new level for the state."""
        m, real = run.process.moments(levels[level : level + 1]), w.real.dtype
        D = run.denoised(w, levels[level])
        # in y = w/h: y + (size/2) r S_y + sqrt(size r) z with r S_y = D - y, times h
        step = self.size
        w = w + (step / 2) * (m.h.to(real) * D - w)
        w = w + (step * m.s2).sqrt().to(real) * run.white(w, "langevin", number)
        y = w / m.h.to(real)
        logs = self._log_levels(run.process, y, levels, prior)
        if self.pick == "argmax":
            new = int(logs.argmax())
        else:
            share, at = logs.softmax(0).cumsum(0), float(uniform(run.seeds, "level", number)[0])
            new = min(int((share < at).sum()), len(levels) - 1)
        return run.process.moments(levels[new : new + 1]).h.to(real) * y, new, number + 1

    def _log_levels(self, process: Process, y: Tensor, levels: Tensor, prior: tuple[Tensor, Tensor]) -> Tensor:
        """The log of p(t | y) `(levels,)`, y = w/h, for levels as likely as each other: y is N(mean, L + r)."""
        mean, variance = prior
        total = variance + process.clock(levels)
        exact = y.to(torch.complex128 if y.is_complex() else torch.float64)
        terms = process.basis.energy(exact - mean) / total + total.log()
        return -0.5 * (terms * process.basis.multiplicity()).flatten(1).sum(1).cpu()

    def _down(self, run: Run, w: Tensor, times: Tensor, number: int) -> Tensor:
        """The rule from a state at times[0] to the end."""
        prior = run.denoiser.prior()
        plan = make_plan(self.rule, run.process, times, None if prior is None else prior[1])
        states, images, noises = (w,), (), ()
        for index, row in enumerate(plan.cast(w.dtype, w.device)):
            if row.call:
                images = (run.denoised(states[0], float(row.t)), *images)[: plan.depth]
            if row.noise:
                noises = (run.white(w, f"down-{number}", index), *noises)[: plan.depth]
            states = (advance(row, states, images, noises), *states)[: plan.depth]
        return states[0]
