"""From a measured image to its posterior: an ensemble, its mean and spread, and what may be said of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError, NotCalibratedError, choice
from retrodict._random import member_seeds
from retrodict.denoisers.network import NetDenoiser
from retrodict.processes.process import Cond, Process
from retrodict.samplers import RULES, Plan, make_plan, sample, start_state
from retrodict.samplers.card import gaussian_posterior, posterior_card
from retrodict.samplers.plan import make_grid

__all__ = ["Gate", "Restoration", "RunningMoments", "SamplingOptions", "gate", "plan_for", "restore_batch"]


@dataclass(frozen=True)
class SamplingOptions:
    """How an ensemble is drawn: members, evaluations of the network, rule, grid, seed, error law.

    `steps` None takes the default of the rule.  `uncertainty` False asks for a point estimate.  `chunk` members are
    run together; the result does not depend on it.  `margin`: pixels of reflected border around an image, against the
    periodic boundary of the Fourier basis.  `tile`: side of the tiles the network sees, None for the whole image.
    """

    samples: int = 8
    steps: int | None = None
    rule: str = "matched"
    grid: str | None = None
    seed: int = 0
    spread: str | None = None
    uncertainty: bool = True
    keep_samples: bool = False
    chunk: int = 1
    margin: int = 16
    tile: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        for name, least in (("samples", 1), ("steps", 1), ("chunk", 1), ("margin", 0), ("tile", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(name, value, f"at least {least}")


@dataclass(frozen=True)
class Restoration:
    """Posterior mean and standard deviation `(B, 1, *N)`, in model units, of B measured images.

    `kind` "posterior": `sd` is the standard deviation of the ensemble.  "point": `sd` is None and `reason` says why
    there is no uncertainty.  `samples` `(K, B, 1, *N)` where they were asked for; `nfe` network calls per member.
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


class Gate(NamedTuple):
    """Verdict of the Gaussian card of a plan: worst gain and variance ratio over frequency bands."""

    gain: float
    variance: float
    passed: bool
    reason: str


class RunningMoments:
    """Mean and unbiased variance of samples that come one at a time, without keeping them.

    Shapes: every sample has one shape; `mean` and `variance` have it too. Units: `mean` in the image unit,
    `variance` in the unit squared. All sums are float64 on the device of the first sample.
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
        x = sample.double()
        if not bool(torch.isfinite(x).all()):
            raise InputError("sample", "non-finite values", "finite values")
        if self._mean is None or self._squares is None:
            self._count, self._mean, self._squares = 1, x.clone(), torch.zeros_like(x)
            return
        self._same_shape(x)
        self._count += 1
        delta = x.to(self._mean.device) - self._mean
        self._mean = self._mean + delta / self._count
        self._squares = self._squares + delta * (x.to(self._mean.device) - self._mean)

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
        between = delta.square() * (self._count * other._count / total)
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


def plan_for(process: Process, options: SamplingOptions, spectrum: Tensor) -> Plan:
    """The plan that `options` describe on `process`; `spectrum` is the data variance on its basis."""
    rule = RULES[choice("rule", options.rule, RULES)]
    steps = rule.steps if options.steps is None else options.steps
    times = make_grid(process, steps, options.grid or rule.grid, spectrum=spectrum)
    return make_plan(options.rule, process, times, spectrum)


def gate(denoiser: NetDenoiser, options: SamplingOptions, bands: int = 5) -> Gate:
    """Whether the plan of `options` is a posterior sampler: gain within 2 % and variance within 5 % of the exact ones.

    The plan is run, as numbers, on Gaussian data with the model's own spectrum and measurement law (the Gaussian card,
    setup R); no network and no Monte Carlo are involved.  The card does not depend on the image grid, so a small one
    is used.
    """
    process = denoiser.process.on((32,) * denoiser.process.ndim)
    if process.measured is None:
        return Gate(
            float("nan"), float("nan"), RULES[options.rule].posterior, "the law of the measurement is not known"
        )
    spectrum = denoiser.spectrum.on(process.basis)
    got_gain, got_variance = posterior_card(plan_for(process, options, spectrum), spectrum)
    gain, variance = gaussian_posterior(spectrum, process.measured)
    worst_gain, worst_variance = 1.0, 1.0
    for part in _bands(process, bands):
        g = float((got_gain * gain)[part].sum() / (gain**2)[part].sum())
        v = float(got_variance[part].sum() / variance[part].sum())
        worst_gain = g if abs(g - 1) > abs(worst_gain - 1) else worst_gain
        worst_variance = v if abs(v - 1) > abs(worst_variance - 1) else worst_variance
    passed = abs(worst_gain - 1) <= 0.02 and abs(worst_variance - 1) <= 0.05
    reason = f"on Gaussian data its gain is {worst_gain:.3f} and its variance {worst_variance:.3f} of the exact ones"
    return Gate(worst_gain, worst_variance, passed, reason)


def _bands(process: Process, count: int) -> list[Tensor]:
    radius = process.basis.radius()
    edges = torch.linspace(0, float(radius.max()) + 1e-9, count + 1, dtype=torch.float64)
    parts = [(radius >= a) & (radius < b) for a, b in itertools.pairwise(edges)]
    return [part for part in parts if bool(part.any())]


def restore_batch(
    denoiser: NetDenoiser,
    measured: Tensor,
    options: SamplingOptions,
    *,
    items: list[int] | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Restoration:
    """Restore measured images `(B, 1, *N)` in model units; item i uses the seed stream `items[i]` (default i).

    `finish` maps members `(k, 1, *N)` to what mean and deviation are wanted of, such as another grid or unit: the
    deviation of resampled members is not the resampled deviation.  `watch(done, total)` counts network calls.

    Raises `NotCalibratedError` where an uncertainty is asked of a plan that is not a posterior sampler.
    """
    started = time.perf_counter()
    _check_batch(denoiser, measured, items)
    kind, reason = _kind(denoiser, options)
    members = options.samples if kind == "posterior" or not RULES[options.rule].deterministic else 1
    if kind == "posterior" and members < 2:
        raise InputError("samples", members, "at least 2 for a standard deviation (or uncertainty off)")
    padded, crop = _pad(measured, options.margin, _multiple(denoiser))
    bound = denoiser.on(padded.shape[2:]).tiled(options.tile)
    if options.spread:
        bound = bound.with_spread(options.spread)
    plan = plan_for(bound.process, options, bound.spectrum.on(bound.process.basis))
    total, done = len(measured) * members * plan.nfe, 0
    means, deviations, kept, seeds = [], [], [], []
    for b in range(len(measured)):
        item = items[b] if items else b
        stream = member_seeds(options.seed, item, members)
        moments, drawn = RunningMoments(), []
        for first in range(0, members, options.chunk):
            part = stream[first : first + options.chunk]
            x = _draw(bound, plan, padded[b : b + 1], part)[crop]
            x = x if finish is None else finish(x)
            for image in x:
                moments.add(image)
                if options.keep_samples:
                    drawn.append(image)
            done += len(part) * plan.nfe
            if watch is not None:
                watch(done, total)
        means.append(moments.mean.to(measured))
        deviations.append(moments.variance.sqrt().to(measured) if kind == "posterior" else None)
        kept.append(torch.stack(drawn) if drawn else None)
        seeds.append(stream.tolist())
    sd = torch.stack([d for d in deviations if d is not None]) if kind == "posterior" else None
    samples = torch.stack([k for k in kept if k is not None], 1) if options.keep_samples else None
    seconds = time.perf_counter() - started
    details = {"rule": options.rule, "steps": plan.nfe, "members": members, "grid": [float(t) for t in plan.times]}
    return Restoration(torch.stack(means), sd, kind, reason, samples, plan.nfe, seeds, seconds, details)


def _check_batch(denoiser: NetDenoiser, measured: Tensor, items: list[int] | None) -> None:
    ndim = denoiser.process.ndim
    if measured.ndim != ndim + 2 or measured.shape[1] != 1 or not len(measured):
        raise InputError("measured", f"shape {tuple(measured.shape)}", f"(B, 1, *N) with {ndim} axes N")
    if items is not None and len(items) != len(measured):
        raise InputError("items", f"{len(items)} numbers", f"one for each of {len(measured)} images")


def _kind(denoiser: NetDenoiser, options: SamplingOptions) -> tuple[str, str]:
    """("posterior", how it was checked) or ("point", why there is no uncertainty)."""
    rule = RULES[choice("rule", options.rule, RULES)]
    terminal = denoiser.process.conditioning == "terminal"
    if denoiser.process.conditioning == "none":
        raise InputError("model", "an unconditional process", "one whose process is terminal or external")
    if terminal and rule.deterministic:
        reason = f"{options.rule} is deterministic: from a fixed measurement every run gives the same image"
        if options.uncertainty:
            raise NotCalibratedError(f"{reason}. Ask for a point estimate (uncertainty off), or use rule 'matched'.")
        return "point", reason
    if not options.uncertainty:
        return "point", "a point estimate was asked for"
    verdict = gate(denoiser, options)
    if not verdict.passed:
        raise NotCalibratedError(
            f"rule {options.rule!r} at {options.steps or rule.steps} evaluations is a restoration whose uncertainty is "
            f"not calibrated: {verdict.reason}. Use rule 'matched', more steps, or a point estimate (uncertainty off)."
        )
    return "posterior", verdict.reason


def _draw(denoiser: NetDenoiser, plan: Plan, measured: Tensor, seeds: Tensor) -> Tensor:
    """Samples `(len(seeds), 1, *N)` from one measured image `(1, 1, *N)`."""
    process = denoiser.process
    y = measured.expand(len(seeds), *measured.shape[1:])
    cond = Cond(image=y) if process.conditioning == "external" else Cond()
    mean, spectrum = _start_moments(denoiser, y)
    start = start_state(
        process,
        seeds,
        tuple(y.shape[1:]),
        measurement=y if process.conditioning == "terminal" or process.anchored else None,
        mean=mean,
        spectrum=spectrum,
        dtype=y.dtype,
    )
    with torch.inference_mode():
        return sample(denoiser, plan, start, seeds=seeds, cond=cond).x


def _start_moments(denoiser: NetDenoiser, y: Tensor) -> tuple[Tensor | float, Tensor | None]:
    """Gaussian mean and variance of u_0 that the start at t = 1 is drawn with: given y where its law is known."""
    process = denoiser.process
    mean, spectrum = denoiser.spectrum.mean_on(process.basis), denoiser.spectrum.on(process.basis)
    if process.measured is not None:
        gain, variance = gaussian_posterior(spectrum, process.measured)
        u = process.basis.forward(y)
        mean = mean.to(u)
        return mean + gain.to(y) * (u - process.measured.gain.to(y) * mean), variance
    return (0.0, None) if process.anchored else (mean.to(process.basis.forward(y)), spectrum)


def _multiple(denoiser: NetDenoiser) -> int:
    return int(getattr(denoiser.net, "stride", 1))


def _pad(x: Tensor, margin: int, multiple: int) -> tuple[Tensor, tuple[slice, ...]]:
    """Reflect `margin` pixels around x and fill each axis up to `multiple`; also the slices that undo it."""
    pads, crop = [], []
    for n in x.shape[2:]:
        before = min(margin, n - 1)
        extra = -(n + 2 * before) % multiple
        pads.append((before, min(before + extra, n - 1) if margin else extra))
        crop.append(slice(before, before + n))
    flat = [p for pair in reversed(pads) for p in pair]
    mode = "reflect" if margin else "circular"
    padded = F.pad(x, flat, mode=mode) if any(flat) else x
    return padded, (Ellipsis, *crop)  # type: ignore[return-value]
