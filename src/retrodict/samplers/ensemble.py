"""From a measured image to its posterior: an ensemble, its mean and spread, and what may be said of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError, NotCalibratedError, choice
from retrodict._random import member_seeds
from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser
from retrodict.processes.observation import wiener
from retrodict.processes.process import Process
from retrodict.samplers.card import Gate, dense_card, posterior_card
from retrodict.samplers.loop import sample, start_state
from retrodict.samplers.plan import Plan, make_grid
from retrodict.samplers.rules import RULES, make_plan

__all__ = ["Finished", "Restoration", "RunningMoments", "SamplingOptions", "gate", "plan_for", "restore_batch"]


@dataclass(frozen=True)
class SamplingOptions:
    """How an ensemble is drawn: members, steps of the rule, rule, grid, seed.

    `steps` None takes the default of the rule.  `uncertainty` False asks for a point estimate.  `chunk` members are
    run together; the result does not depend on it.  `margin`: pixels of reflected border around an image, against the
    periodic boundary of the Fourier basis.
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

GAIN_LIMIT, VARIANCE_LIMIT = 0.02, 0.05


def gate(denoiser: Denoiser, options: SamplingOptions, bands: int = 5) -> Gate:
    """Whether the plan of `options` is a posterior sampler: gain within 2 % and variance within 5 % of the exact ones.

    The plan is run, as numbers, with the Gaussian twin of the denoiser and the law of its measurement (the Gaussian
    card, setup R); no network and no Monte Carlo are involved.  The card does not depend on the image grid, so a small
    one is used.  Without a law of the measurement, or without a twin, nothing is known and the gate stays shut.
    """
    unknown = float("nan"), float("nan"), False
    twin = denoiser.gaussian()
    if denoiser.process.measurement is None:
        return Gate(*unknown, "the law of the measurement is not known")
    if twin is None:
        return Gate(*unknown, "the denoiser knows no spectrum of the data, so its spread cannot be checked")
    small = _small(twin.to("cpu"), 32 if isinstance(twin, GaussianDenoiser) else 8)
    if isinstance(small, GaussianDenoiser):
        worst = _card_ratios(small, options, bands)
    elif math.prod(small.process.basis.size) > DENSE_LIMIT or small.process.basis.complex:
        return Gate(*unknown, "the denoiser is not diagonal, and its grid too large (or complex) to check as matrices")
    else:
        worst = _dense_ratios(small, options)
    passed = abs(worst[0] - 1) <= GAIN_LIMIT and abs(worst[1] - 1) <= VARIANCE_LIMIT
    reason = f"on Gaussian data its gain is {worst[0]:.3f} and its variance {worst[1]:.3f} of the exact ones"
    return Gate(*worst, passed, reason)


DENSE_LIMIT = 100
"""Pixels up to which a denoiser that is not diagonal is checked as matrices, in seconds."""


def _small(twin: Denoiser, side: int) -> Denoiser:
    """The twin on a small grid, or on its own where its tables cannot be carried over."""
    try:
        return twin.on((side,) * twin.process.ndim)
    except InputError:
        return twin


def _card_ratios(twin: GaussianDenoiser, options: SamplingOptions, bands: int) -> tuple[float, float]:
    """The worst band of the worst channel."""
    process, (_, spectrum) = twin.process, twin.prior()
    assert process.measurement is not None
    got = posterior_card(plan_for(process, options, spectrum), spectrum)
    exact = wiener(process.measurement, spectrum)
    shape = process.basis.shape
    (got_gain, got_variance), (gain, variance) = (
        [x.expand(*spectrum.shape).reshape(-1, *shape) for x in pair] for pair in (got, exact)
    )
    gains, variances = [1.0], [1.0]
    for _, _, part in process.basis.bands(bands):
        gains += ((got_gain * gain)[:, part].sum(1) / (gain**2)[:, part].sum(1)).tolist()
        variances += (got_variance[:, part].sum(1) / variance[:, part].sum(1)).tolist()
    return tuple(max(values, key=lambda x: abs(x - 1)) for values in (gains, variances))  # type: ignore[return-value]


def _dense_ratios(twin: Denoiser, options: SamplingOptions) -> tuple[float, float]:
    """Gain and variance over the exact ones along the direction, of all pixels, where they are worst.

    For a denoiser that is not diagonal the run is compared as matrices with the posterior given y, in the directions
    that the posterior leaves open.
    """
    process, prior = twin.process, twin.prior()
    assert process.measurement is not None
    assert prior is not None
    channels = prior[1].shape[0] if prior[1].ndim > process.ndim else 1
    got_gain, got = dense_card(plan_for(process, options, prior[1]), twin, channels)
    gain, variance = wiener(process.measurement, prior[1])
    n, basis = len(got), process.basis
    units = torch.eye(n, dtype=torch.float64, device="cpu").reshape(n, -1, *basis.size)
    exact_gain, exact = (basis.inverse(x * basis.forward(units)).reshape(n, n).T for x in (gain, variance))
    values, vectors = torch.linalg.eigh(exact)
    open_ones = values > 1e-12 * values.max()
    root = vectors[:, open_ones] / values[open_ones].sqrt()
    ratios = torch.linalg.eigvalsh(root.T @ got @ root).tolist()
    worst = max((float(r) for r in ratios), key=lambda r: abs(r - 1))
    return float((got_gain * exact_gain).sum() / (exact_gain**2).sum()), worst


def _kind(denoiser: Denoiser, options: SamplingOptions) -> tuple[str, str]:
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
    kind, reason = _kind(denoiser, options)
    members = options.samples if kind == "posterior" or not RULES[options.rule].deterministic else 1
    if kind == "posterior" and members < 2:
        raise InputError("samples", members, "at least 2 for a standard deviation (or {point})", point=True)
    padded, crop = _pad(measured.to(denoiser.process.basis.device), options.margin, denoiser.multiple)
    bound = denoiser.on(tuple(padded.shape[2:]))
    prior = bound.prior()
    plan = plan_for(bound.process, options, None if prior is None else prior[1])
    found, seeds = [], []
    for b in range(len(measured)):
        item = items[b] if items else b
        stream = member_seeds(options.seed, item, members)
        part = None if parts is None else parts.load(item)
        if part is None:
            draw = partial(_draw, bound, plan, padded[b : b + 1], crop, finish)
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


def _draw(
    denoiser: Denoiser,
    plan: Plan,
    measured: Tensor,
    crop: tuple[slice, ...],
    finish: Callable[[Tensor], Tensor] | None,
    seeds: Tensor,
) -> Tensor:
    """Finished samples `(len(seeds), C, *N)` from one measured image `(1, C, *N)` with a border that `crop` undoes."""
    y = measured.expand(len(seeds), *measured.shape[1:])
    mean, spectrum = denoiser.prior() or (0.0, None)
    shape = tuple(y.shape[1:])
    start = start_state(denoiser.process, seeds, shape, measurement=y, mean=mean, spectrum=spectrum, dtype=y.dtype)
    with torch.no_grad():
        x = sample(denoiser, plan, start, seeds=seeds, cond=denoiser.process.pairing.cond(y)).x[crop]
    return x if finish is None else finish(x)


def _pad(x: Tensor, margin: int, multiple: int) -> tuple[Tensor, tuple[slice, ...]]:
    """Reflect `margin` pixels around x and fill each axis up to `multiple`; also the slices that undo it."""
    if x.is_complex():
        (real, crop), (imaginary, _) = _pad(x.real, margin, multiple), _pad(x.imag, margin, multiple)
        return torch.complex(real, imaginary), crop
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
