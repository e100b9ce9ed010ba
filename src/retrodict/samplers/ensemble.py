"""From a measured image to its posterior: an ensemble, its mean and spread, and what may be said of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from retrodict._check import InputError, NotCalibratedError, choice
from retrodict._random import member_seeds
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.process import Process
from retrodict.samplers.judge import Gate, judge
from retrodict.samplers.loop import sample, start_state
from retrodict.samplers.margin import Frame, frame_of, surrounded
from retrodict.samplers.plan import Plan, make_grid
from retrodict.samplers.rules import RULES, make_plan

__all__ = [
    "Finished",
    "Restoration",
    "RunningMoments",
    "SamplingOptions",
    "gate",
    "kind_of",
    "plan_for",
    "restore_batch",
]


@dataclass(frozen=True)
class SamplingOptions:
    """How an ensemble is drawn: members, steps of the rule, rule, grid, seed.

    `steps` None takes the default of the rule.  `uncertainty` False asks for a point estimate.  `chunk` members are
    run together; the result does not depend on it.  `margin`: pixels around an image, against the periodic boundary of
    the Fourier basis; nothing is known there, so every member draws its own (`retrodict.samplers.margin`).  With 0 the
    image is taken as periodic.
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

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        for name, least in (("samples", 1), ("steps", 1), ("chunk", 1), ("margin", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(name, value, f"at least {least}")


@dataclass(frozen=True)
class Restoration:
    """Posterior mean and standard deviation `(B, C, *N)`, in model units, of B measured images.

    `kind` "posterior": `sd` is the standard deviation of the ensemble.  "point": `sd` is None and `reason` says why
    there is no uncertainty.  `samples` `(K, B, C, *N)` where they were asked for; `nfe` denoiser calls per member.
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


class Finished(Protocol):
    """Where the tensors of finished items are kept, so that a run that was cut short goes on with the next."""

    def load(self, item: int) -> dict[str, Tensor] | None:
        """What was kept of an item; None where nothing was."""
        ...

    def save(self, item: int, part: dict[str, Tensor]) -> None:
        """Keep what came out of an item."""
        ...


class RunningMoments:
    """Mean and unbiased variance of samples that come one at a time, without keeping them.

    Shapes: every sample has one shape; `mean` and `variance` have it too. Units: `mean` in the image unit,
    `variance` in the unit squared, per real component of complex samples. Sums are float64 on the device of the first
    sample.
    Formula: m_n = m_{n-1} + (x - m_{n-1}) / n, S_n = S_{n-1} + (x - m_{n-1})(x - m_n), variance = S_n / (n - 1)
    (Welford, Technometrics 4, 1962); `merge` after Chan, Golub and LeVeque, Am. Stat. 37, 1983.
    The same samples in the same order give the same bits; another order agrees to rounding.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    def add(self, sample: Tensor) -> None:
        """Take in one sample."""
        x = sample.to(torch.complex128 if sample.is_complex() else torch.float64)
        if not bool(torch.isfinite(x).all()):
            raise InputError("sample", "non-finite values", "finite values")
        if self._mean is None or self._squares is None:
            self._count, self._mean, self._squares = 1, x.clone(), torch.zeros_like(x.real)
            return
        self._same_shape(x)
        self._count += 1
        delta = x.to(self._mean.device) - self._mean
        self._mean = self._mean + delta / self._count
        rest = x.to(self._mean.device) - self._mean
        self._squares = self._squares + (delta * rest.conj()).real / (2 if x.is_complex() else 1)

    def merge(self, other: RunningMoments) -> None:
        """Take in all samples of `other`, as if they had been added after the ones here."""
        if other._mean is None or other._squares is None:
            return
        if self._mean is None or self._squares is None:
            self._count, self._mean, self._squares = other._count, other._mean.clone(), other._squares.clone()
            return
        self._same_shape(other._mean)
        total = self._count + other._count
        delta = other._mean.to(self._mean.device) - self._mean
        between = delta.abs().square() / (2 if delta.is_complex() else 1) * (self._count * other._count / total)
        self._squares = self._squares + other._squares.to(self._mean.device) + between
        self._mean = self._mean + delta * (other._count / total)
        self._count = total

    def _same_shape(self, x: Tensor) -> None:
        if self._mean is not None and x.shape != self._mean.shape:
            raise InputError("sample", f"shape {tuple(x.shape)}", f"shape {tuple(self._mean.shape)}")

    @property
    def count(self) -> int:
        """Number of samples so far."""
        return self._count

    @property
    def mean(self) -> Tensor:
        """Mean of the samples, float64."""
        if self._mean is None:
            raise InputError("RunningMoments.mean", "no samples", "at least one sample")
        return self._mean.clone()

    @property
    def variance(self) -> Tensor:
        """Unbiased variance of the samples (divided by count - 1), float64."""
        if self._squares is None or self._count < 2:
            raise InputError("RunningMoments.variance", f"{self._count} samples", "at least two samples")
        return self._squares / (self._count - 1)


def plan_for(process: Process, options: SamplingOptions, spectrum: Tensor | None) -> Plan:
    """The plan that `options` describe on `process`; `spectrum` is the data variance on its basis, where known."""
    rule = RULES[choice("rule", options.rule, RULES)]
    steps = rule.steps if options.steps is None else options.steps
    times = make_grid(process, steps, options.grid or rule.grid, spectrum=spectrum)
    return make_plan(options.rule, process, times, spectrum)


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
    return judge(denoiser, lambda process, spectrum: plan_for(process, options, spectrum), bands)


def kind_of(denoiser: Denoiser, options: SamplingOptions) -> tuple[str, str]:
    """("posterior", how it was checked) or ("point", why there is no uncertainty)."""
    rule, pairing = RULES[choice("rule", options.rule, RULES)], denoiser.process.pairing
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
    finish: Callable[[Tensor], Tensor] | None = None,
    watch: Callable[[int, int], None] | None = None,
    parts: Finished | None = None,
) -> Restoration:
    """Restore measured images `(B, C, *N)` in model units; item i uses the seed stream `items[i]` (default i).

    Any denoiser of a process with a measurement will do.  `finish` maps members `(k, C, *N)` to what mean and
    deviation are wanted of, such as another grid or unit: the deviation of resampled members is not the resampled
    deviation.  `watch(done, total)` counts denoiser calls.  The work is done on the device of the denoiser.  `parts`
    keeps what comes out of each item and is asked first: items do not depend on each other, so the bits are the same.

    Raises `NotCalibratedError` where an uncertainty is asked of a plan that is not a posterior sampler.
    """
    started = time.perf_counter()
    _check_batch(denoiser, measured, items)
    kind, reason = kind_of(denoiser, options)
    members = options.samples if kind == "posterior" or not RULES[options.rule].deterministic else 1
    if kind == "posterior" and members < 2:
        raise InputError("samples", members, "at least 2 for a standard deviation (or {point})", point=True)
    y = measured.to(denoiser.process.basis.device)
    frame = frame_of(tuple(y.shape[2:]), denoiser.process.basis, options.margin, denoiser.multiple)
    bound = denoiser.on(frame.size)
    fixed = RULES[options.rule].deterministic and kind == "point"  # every run is to give the same image
    prior = bound.prior()
    plan = plan_for(bound.process, options, None if prior is None else prior[1])
    found, seeds = [], []
    for b in range(len(measured)):
        item = items[b] if items else b
        stream = member_seeds(options.seed, item, members)
        part = None if parts is None else parts.load(item)
        if part is None:
            draw = partial(_members, bound, plan, y[b : b + 1], frame, fixed, finish)
            told = partial(_tell, watch, plan.nfe, b * members, len(measured) * members)
            part = _item(draw, stream, options, kind == "posterior", measured, told)
            if parts is not None:
                parts.save(item, part)
        else:
            _tell(watch, plan.nfe, b * members, len(measured) * members, members)
        found.append(part)
        seeds.append(stream.tolist())
    mean, sd, samples = (
        torch.stack([p[name] for p in found], at) if name in found[0] else None
        for name, at in (("mean", 0), ("sd", 0), ("samples", 1))
    )
    assert mean is not None
    seconds = time.perf_counter() - started
    details = {
        "rule": options.rule,
        "steps": len(plan.times) - 1,
        "nfe": plan.nfe,
        "members": members,
        "grid": plan.times.tolist(),
    }
    return Restoration(mean, sd, kind, reason, samples, plan.nfe, seeds, seconds, details)


def _tell(watch: Callable[[int, int], None] | None, nfe: int, before: int, total: int, members: int) -> None:
    if watch is not None:
        watch((before + members) * nfe, total * nfe)


def _item(
    draw: Callable[[Tensor], Tensor],
    stream: Tensor,
    options: SamplingOptions,
    spread: bool,
    like: Tensor,
    told: Callable[[int], None],
) -> dict[str, Tensor]:
    """Mean, deviation (with `spread`) and members (where they are kept) of one measured image."""
    moments, drawn = RunningMoments(), []
    for first in range(0, len(stream), options.chunk):
        seeds = stream[first : first + options.chunk]
        for image in draw(seeds):
            moments.add(image)
            if options.keep_samples:
                drawn.append(image.to(like.device))
        told(first + len(seeds))
    part = {"mean": moments.mean.to(like)}
    if spread:
        part["sd"] = moments.variance.sqrt().to(like.real)
    if options.keep_samples:
        part["samples"] = torch.stack(drawn)
    return part


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


def _members(
    denoiser: Denoiser,
    plan: Plan,
    y: Tensor,
    frame: Frame,
    fixed: bool,
    finish: Callable[[Tensor], Tensor] | None,
    seeds: Tensor,
) -> Tensor:
    """Finished samples `(len(seeds), C, *N)` from one measured image `(1, C, *N)`.

    Every seed draws its own margin, unless the run is `fixed`: then it is the mean of the margin.
    """
    own = y.expand(1 if fixed else len(seeds), *y.shape[1:])
    x = _draw(denoiser, plan, surrounded(denoiser, own, frame, None if fixed else seeds), seeds)[frame.crop]
    return x if finish is None else finish(x)


def _draw(denoiser: Denoiser, plan: Plan, measured: Tensor, seeds: Tensor) -> Tensor:
    """Samples `(len(seeds), C, *N)` from measured images, one `(1, C, *N)` or one for each seed."""
    y = measured.expand(len(seeds), *measured.shape[1:])
    mean, spectrum = denoiser.prior() or (0.0, None)
    shape = tuple(y.shape[1:])
    start = start_state(denoiser.process, seeds, shape, measurement=y, mean=mean, spectrum=spectrum, dtype=y.dtype)
    with torch.no_grad():
        return sample(denoiser, plan, start, seeds=seeds, cond=denoiser.process.pairing.cond(y)).x
