"""From a measured image to its posterior: an ensemble, its mean and spread, and what may be said of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from retrodict._check import InputError, NotCalibratedError, choice
from retrodict._random import member_seeds
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.process import Process
from retrodict.samplers.gathered import Finish, Gathered
from retrodict.samplers.instant import Instant, beyond, instant
from retrodict.samplers.judge import Gate, judge
from retrodict.samplers.margin import Frame, frame_of, surrounded
from retrodict.samplers.moments import RunningMoments
from retrodict.samplers.opening import draw, opening, shares
from retrodict.samplers.plan import Plan, make_grid
from retrodict.samplers.rules import RULES, make_plan
from retrodict.samplers.stateful import NO_CARD
from retrodict.samplers.stateful_rules import STATEFUL
from retrodict.samplers.stop import require_stop
from retrodict.samplers.uneven import instant_with_map

__all__ = [
    "Finished",
    "Restoration",
    "RunningMoments",
    "SamplingOptions",
    "draw",
    "gate",
    "kind_of",
    "plan_for",
    "restore_batch",
    "unchecked",
]


@dataclass(frozen=True)
class SamplingOptions:
    """How an ensemble is drawn: members, steps of the rule, rule, grid, seed.

    `steps` None takes the default of the rule.  `uncertainty` False asks for a point estimate.  `chunk` members are
    run together; the result does not depend on it.  `stop`: a time in (0, 1) at which the state is wanted too.
    `instant`: mean, deviation and all members from one call.  `components`: of rule "matched2", directions of
    covariance that are looked for at the measurement, by as many calls and one for all members together.  `margin`:
    pixels around an image, against the periodic boundary of the Fourier basis; nothing is known there, so every member
    draws its own (`retrodict.samplers.margin`).
    With 0 the image is taken as periodic.
    """

    samples: int = 8
    steps: int | None = None
    rule: str = "matched"
    grid: str | None = None
    seed: int = 0
    uncertainty: bool = True
    keep_samples: bool = False
    chunk: int = 1
    margin: int = 16
    stop: float | None = None
    instant: bool = False
    components: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        for name, least in (("samples", 1), ("steps", 1), ("chunk", 1), ("margin", 0), ("components", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(name, value, f"at least {least}")
        if self.stop is not None and not 0 < self.stop < 1:
            raise InputError("stop", self.stop, "a time between 0 (restored) and 1 (as measured)")
        if self.components and self.rule != "matched2":
            raise InputError("components", f"{self.components} with rule {self.rule!r}", "none, or rule 'matched2'")
        if self.instant and (self.steps not in (None, 1) or self.rule != "matched" or self.stop is not None):
            found = f"rule {self.rule!r}, steps {self.steps}, stop {self.stop}"
            raise InputError("instant", found, "no rule, steps or stop: one call is all there is")


@dataclass(frozen=True)
class Restoration:
    """Posterior mean and standard deviation `(B, C, *N)`, in model units, of B measured images.

    `mean` is E[x_0 | y] itself: the answer of the denoiser to the measurement where the chain starts at it, and the
    average of the last denoised images where it starts at random; only under a deterministic rule it is the end of the
    chain.  So its error has no share of the spread over the number of members.

    `kind` "posterior": `sd` is the deviation of x_0 given y, by the law of total variance: the mean over members of
    the variance left at their last call, and the variance between their last denoised images.  "point": `sd` is None
    and `reason` says why there is no uncertainty.  `samples` `(K, B, C, *N)` where they were asked for; `nfe` denoiser
    calls per member; `stops` for each image what was kept at the time `stop`.  `count`: members whose scatter the error
    of the mean has a share of; None where it has none.
    """

    mean: Tensor
    sd: Tensor | None
    kind: str
    reason: str
    samples: Tensor | None
    nfe: int
    seeds: list[list[int]]
    seconds: float
    details: dict[str, object] = field(default_factory=dict)
    stops: tuple[dict[str, Tensor], ...] = ()
    count: int | None = None


class Finished(Protocol):
    """Where the tensors of finished items are kept, so that a run that was cut short goes on with the next."""

    def load(self, item: int) -> dict[str, Tensor] | None:
        """What was kept of an item; None where nothing was."""
        ...

    def save(self, item: int, part: dict[str, Tensor]) -> None:
        """Keep what came out of an item."""
        ...


def plan_for(process: Process, options: SamplingOptions, spectrum: Tensor | None) -> Plan:
    """The plan that `options` describe on `process`; `spectrum` is the data variance on its basis, where known."""
    rule = RULES[choice("rule", options.rule, RULES)]
    steps = rule.steps if options.steps is None else options.steps
    kind = options.grid or ("leap" if options.components else rule.grid)
    times = make_grid(process, steps, kind, spectrum=spectrum)
    if options.stop is not None:
        times = _with_time(times, options.stop)
    more = {"components": options.components} if options.components else {}
    return make_plan(options.rule, process, times, spectrum, **more)


def _with_time(times: Tensor, wanted: float) -> Tensor:
    """The grid with the time in it: in the place of one that is near, and else between its neighbors."""
    inner = times[1:-1]
    if len(inner):
        gaps = (times[:-1] - times[1:]).min()
        near = int((inner - wanted).abs().argmin()) + 1
        if abs(float(times[near]) - wanted) < 0.25 * float(gaps):
            return torch.where(torch.arange(len(times), device="cpu") == near, wanted, times)
    return torch.cat([times, times.new_tensor([wanted])]).sort(descending=True).values


# ---- the gate ----------------------------------------------------------------------------------------------------


def gate(denoiser: Denoiser, options: SamplingOptions, bands: int = 5) -> Gate:
    """Whether the plan of `options` with this denoiser is a posterior sampler, and how far from it.

    The plan is run with the Gaussian twin of the denoiser and the law of its measurement: as numbers on Gaussian data
    (the Gaussian card, setup R), where the error of the mean may be 0.15 deviations of the posterior and the variance
    5 % off in the worst of `bands` bands; and on data of two modes along the direction that the measurement determines
    least, where the total variance may be 10 % off (`retrodict.samplers.judge`).  The card does not depend on the image
    grid, so a small one is used.  Of the denoiser itself one thing is asked: that the error law that the rule draws
    from is its own.  Whether a law that a network has learned is right is a matter of data (`retrodict evaluate`).
    Without a law of the measurement, or without a twin, nothing is known and the gate stays shut.
    """
    if options.rule in STATEFUL:
        return Gate(float("nan"), float("nan"), False, f"rule {options.rule!r}: {NO_CARD}")
    return judge(denoiser, lambda process, spectrum: plan_for(process, options, spectrum), bands)


def kind_of(denoiser: Denoiser, options: SamplingOptions) -> tuple[str, str]:
    """("posterior", how it was checked) or ("point", why there is no uncertainty)."""
    if options.components and not shares(denoiser):
        wanted = "one that starts at the measurement, where all members begin alike"
        raise InputError("components", "a process that starts at random, or slices that are restored together", wanted)
    if options.rule in STATEFUL:
        raise NotCalibratedError(
            f"rule {options.rule!r} gives no uncertainty: {NO_CARD}. Use rule 'matched', or run it by itself with "
            "retrodict.stateful_sample."
        )
    rule, pairing = RULES[choice("rule", options.rule, RULES)], denoiser.process.pairing
    if options.instant and not pairing.starts:
        raise InputError("instant", "a process that starts at random", "one that starts at the measurement")
    options = replace(options, steps=1) if options.instant else options
    if not pairing.restores:
        raise InputError("model", "an unconditional process", "one whose process is terminal or external")
    if pairing.starts and rule.deterministic:
        reason = f"{options.rule} is deterministic: from a fixed measurement every run gives the same image"
        if options.uncertainty:
            raise NotCalibratedError(
                f"{reason}. Ask for a point estimate ({{point}}), or use rule 'matched'.", point=True
            )
        return "point", reason
    if not options.uncertainty:
        return "point", "a point estimate was asked for"
    verdict = gate(denoiser, options)
    if not verdict.passed:
        raise NotCalibratedError(
            f"rule {options.rule!r} at {options.steps or rule.steps} steps is a restoration whose uncertainty is "
            f"not calibrated: {verdict.reason}. Use rule 'matched', more steps, or a point estimate ({{point}}).",
            point=True,
        )
    return "posterior", verdict.reason


# ---- the work ----------------------------------------------------------------------------------------------------


def restore_batch(
    denoiser: Denoiser,
    measured: Tensor,
    options: SamplingOptions,
    *,
    items: list[int] | None = None,
    finish: Finish | None = None,
    saw: Callable[[Tensor], None] | None = None,
    watch: Callable[[int, int], None] | None = None,
    parts: Finished | None = None,
    factor: Tensor | None = None,
) -> Restoration:
    """Restore measured images `(B, C, *N)` in model units; item i uses the seed stream `items[i]` (default i).

    Any denoiser of a process with a measurement will do.  `finish` maps members `(k, C, *N)` to what mean and
    deviation are wanted of, such as another grid or unit: the deviation of resampled members is not the resampled
    deviation.  `saw` is shown the members as they are drawn.  `watch(done, total)` counts denoiser calls.  The work is
    done on the device of the denoiser.  `parts` keeps what comes out of each item and is asked first: items do not
    depend on each other, so the bits are the same.

    A point estimate that asks for no samples of a chain that starts at the measurement costs one call.  With
    `instant` so does a posterior: mean, deviation and every member come from one call (`retrodict.samplers.instant`).

    `factor` `(B, 1, *N)`: a noise map, how many times the noise of the process that of each pixel is; one call only.

    Raises `NotCalibratedError` where an uncertainty is asked of a plan that is not a posterior sampler.
    """
    started = time.perf_counter()
    _check_batch(denoiser, measured, items)
    kind, reason = kind_of(denoiser, options)
    run = _Run.of(denoiser, options, tuple(measured.shape[2:]), kind)
    if factor is not None and not run.once:
        raise InputError("factor", f"a noise map with {run.nfe} calls a member", "one call: SamplingOptions.instant")
    if kind == "posterior" and run.members < 2:
        raise InputError("samples", run.members, "at least 2 for a standard deviation (or {point})", point=True)
    y = measured.to(denoiser.process.basis.device)
    found, seeds, calls = [], [], run.calls * len(measured)
    for b in range(len(measured)):
        item = items[b] if items else b
        stream = member_seeds(options.seed, item, run.members)
        part = None if parts is None else parts.load(item)
        if part is None:
            told = partial(_tell, watch, b * run.calls, calls)
            own = None if factor is None else factor[b : b + 1]
            part = run.item(y[b : b + 1], stream, finish, saw, told, measured, own)
            if parts is not None:
                parts.save(item, part)
        else:
            _tell(watch, b * run.calls, calls, run.calls)
        found.append(part)
        seeds.append(stream.tolist())
    mean, sd, samples = (
        torch.stack([p[name] for p in found], at).to(measured.device) if name in found[0] else None
        for name, at in (("mean", 0), ("sd", 0), ("samples", 1))
    )
    assert mean is not None
    names = [name for name in found[0] if name.startswith("stop-")]
    stops = tuple({name.removeprefix("stop-"): p[name] for name in names} for p in found) if names else ()
    seconds = time.perf_counter() - started
    shared = run.shared or (hasattr(finish, "moments") and not run.once)
    nfe, count = run.nfe, run.members if shared else None
    return Restoration(mean, sd, kind, reason, samples, nfe, seeds, seconds, run.details, stops, count)


def unchecked(denoiser: Denoiser, measured: Tensor, options: SamplingOptions) -> dict[str, Tensor]:
    """Mean and deviation ("mean", "sd") of one measured image `(1, C, *N)`, no card asked: to measure a rule with."""
    run = _Run.of(denoiser, options, tuple(measured.shape[2:]), "posterior")
    seeds = member_seeds(options.seed, 0, run.members)
    return run.item(measured.to(denoiser.process.basis.device), seeds, None, None, lambda _: None, measured)


def _tell(watch: Callable[[int, int], None] | None, before: int, total: int, done: int) -> None:
    if watch is not None:
        watch(before + done, total)


def check_stop(process: Process, options: SamplingOptions) -> None:
    """Raise `InputError` where the state at the time `stop` is no image of an instrument, before anything is drawn."""
    if options.stop is None:
        return
    if RULES[options.rule].deterministic:
        raise InputError("stop", f"the deterministic rule {options.rule!r}", "a rule whose states are draws")
    require_stop(process)


def calls_of(denoiser: Denoiser, options: SamplingOptions) -> int:
    """Calls of the denoiser for an image, at most, and what its draws cost in calls: for a forecast."""
    members, once = _members(denoiser, options, "posterior" if options.uncertainty else "point")
    rule = RULES[options.rule]
    more = options.stop is not None
    each = ((options.steps or rule.steps) + more) * rule.calls_per_step
    opens = (members > 1 or options.components > 0) and shares(denoiser)
    drawn = denoiser.draw_calls * (0 if once and not options.uncertainty else members * (1 if once else each))
    return drawn + (1 if once else opens * (1 + options.components) + members * (each - opens))


def _members(denoiser: Denoiser, options: SamplingOptions, kind: str) -> tuple[int, bool]:
    """How many members are drawn of an image, and whether one call is all there is."""
    rule, starts = RULES[options.rule], denoiser.process.pairing.starts
    alone = kind == "point" and starts and not rule.deterministic and not options.keep_samples
    once = options.stop is None and (alone or options.instant)
    if kind == "point" and (rule.deterministic or (alone and once)):
        return 1, once
    return options.samples, once


@dataclass(frozen=True)
class _Run:
    """How each measured image is restored: the denoiser on the grid of the images and their frame, and the plan.

    `once`: one call is all there is (a point estimate, or `SamplingOptions.instant`).
    """

    denoiser: Denoiser
    options: SamplingOptions
    plan: Plan
    frame: Frame
    kind: str
    members: int
    once: bool

    @classmethod
    def of(cls, denoiser: Denoiser, options: SamplingOptions, size: tuple[int, ...], kind: str) -> _Run:
        check_stop(denoiser.process, options)
        members, once = _members(denoiser, options, kind)
        options = replace(options, rule="matched", steps=1, grid=None) if once else options
        frame = frame_of(size, denoiser.process.basis, options.margin, denoiser.multiple)
        bound = denoiser.on(frame.size)
        prior = bound.prior()
        plan = plan_for(bound.process, options, None if prior is None else prior[1])
        return cls(bound, options, plan, frame, kind, members, once)

    @cached_property
    def edge(self) -> Tensor:
        """Variance at the border of an image by what is not known beyond it, for what is told by one call."""
        return beyond(self.denoiser, self.frame)

    @property
    def nfe(self) -> int:
        """Denoiser calls of a member; of all of them where they share one."""
        return self.plan.nfe

    @property
    def calls(self) -> int:
        """Denoiser calls of an image."""
        if self.once:
            return 1
        return self.opens * (1 + self.plan.components) + self.members * (self.plan.nfe - self.opens)

    @property
    def opens(self) -> bool:
        """Whether all members share their first call (`retrodict.samplers.opening`)."""
        several = self.members > 1 or self.plan.components > 0
        return not self.once and several and self.plan[0].call and shares(self.denoiser)

    @property
    def deterministic(self) -> bool:
        """Whether the rule is one of an ordinary differential equation."""
        return RULES[self.options.rule].deterministic

    @property
    def shared(self) -> bool:
        """Whether the error of the mean has a share of the scatter of the members."""
        return not self.denoiser.process.pairing.starts

    @property
    def details(self) -> dict[str, object]:
        """For the record."""
        rule = "one call" if self.once else self.options.rule
        times = self.plan.times.tolist()
        told: dict[str, object] = {
            "rule": rule,
            "steps": len(times) - 1,
            "nfe": self.nfe,
            "members": self.members,
            "grid": times,
        }
        if self.opens:
            told["shared_calls"] = self.plan.components + 1
        return told

    def item(
        self,
        y: Tensor,
        stream: Tensor,
        finish: Finish | None,
        saw: Callable[[Tensor], None] | None,
        told: Callable[[int], None],
        like: Tensor,
        factor: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean, deviation (of a posterior), members (where they are kept) and stop of a measured image `(1, C, *N)`."""
        kept = Gathered(
            finish,
            saw,
            posterior=self.kind == "posterior",
            keep=self.options.keep_samples,
            crop=self.frame.crop,
            deterministic=self.deterministic,
            starts=self.denoiser.process.pairing.starts,
        )
        if self.once:
            wanted = self.kind == "posterior" or self.options.keep_samples or hasattr(finish, "moments")
            kept.once(self._at_once(y, stream if wanted else None, factor))
            told(1)
            return kept.part(like)
        fixed = self.deterministic and self.kind == "point"  # every run is to give the same image
        shared = opening(self.denoiser, self.plan, y, self.frame) if self.opens else None
        before = 0 if shared is None else shared.calls
        for first in range(0, len(stream), self.options.chunk):
            seeds = stream[first : first + self.options.chunk]
            own = y.expand(1 if fixed else len(seeds), *y.shape[1:])
            around = surrounded(self.denoiser, own, self.frame, None if fixed else seeds)
            drawn = draw(self.denoiser, self.plan, around, seeds, self._keep, shared)
            kept.add(drawn, self.denoiser.process, self.options.stop)
            told(before + (first + len(seeds)) * (self.nfe - self.opens))
        return kept.part(like)

    def _at_once(self, y: Tensor, seeds: Tensor | None, factor: Tensor | None) -> Instant:
        if factor is None:
            return instant(self.denoiser, y, self.frame, seeds, self.edge, whole=self.options.keep_samples)
        return instant_with_map(self.denoiser, y, factor, self.frame, seeds)

    @property
    def _keep(self) -> tuple[float, ...]:
        return () if self.options.stop is None else (self.options.stop,)


def _check_batch(denoiser: Denoiser, measured: Tensor, items: list[int] | None) -> None:
    if not isinstance(denoiser, Denoiser):
        raise InputError("denoiser", type(denoiser).__name__, "a Denoiser, such as FunctionDenoiser(function, process)")
    ndim, basis = denoiser.process.ndim, denoiser.process.basis
    if measured.ndim != ndim + 2 or not len(measured):
        raise InputError("measured", f"shape {tuple(measured.shape)}", f"(B, C, *N) with {ndim} axes N")
    prior = denoiser.prior()
    wanted = prior[1].shape[0] if prior is not None and prior[1].ndim > ndim else measured.shape[1]
    if wanted != measured.shape[1]:
        raise InputError("measured", f"{measured.shape[1]} channels", f"{wanted}, as the data of the denoiser")
    if measured.is_complex() != basis.complex:
        found, need = ("complex", "real") if measured.is_complex() else ("real", "complex")
        raise InputError("measured", f"{found} images", f"{need} ones, as the basis of the process")
    if items is not None and len(items) != len(measured):
        raise InputError("items", f"{len(items)} numbers", f"one for each of {len(measured)} images")
