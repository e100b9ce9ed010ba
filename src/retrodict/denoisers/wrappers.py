"""Denoisers made of denoisers: guidance, a further measurement, slices of a volume, another error law."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Basis, Stack
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import (
    Denoiser,
    ErrorLaw,
    Estimate,
    GaussianDenoiser,
    Linear,
    Observer,
    check_state,
)
from retrodict.denoisers.spread import CoupledSpread, SpectralSpread, Spread
from retrodict.processes.observation import Cond, Moments, fuse, wiener
from retrodict.processes.process import Law, Process

__all__ = ["Clamped", "Fused", "Guided", "Respread", "SliceWise", "Wrapper", "stacked"]


@dataclass(frozen=True)
class Wrapper(Denoiser):
    """A denoiser round `inner`: process, spectrum, grid, device and Gaussian twin pass through; write `estimate`."""

    inner: Denoiser

    @property
    def process(self) -> Process:  # type: ignore[override]
        """That of the inner denoiser."""
        return self.inner.process

    @property
    def spectrum(self) -> Spectrum | Tensor | None:  # type: ignore[override]
        """That of the inner denoiser."""
        return self.inner.spectrum

    @property
    def multiple(self) -> int:  # type: ignore[override]
        """That of the inner denoiser."""
        return self.inner.multiple

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """That of the inner denoiser."""
        return self.inner.error_law

    @property
    def modes(self) -> int | None:
        """Those of the inner denoiser."""
        return self.inner.modes

    @property
    def margin(self) -> float:
        """That of the inner denoiser: it is what a margin misleads."""
        return self.inner.margin

    def prior(self) -> tuple[Tensor, Tensor] | None:
        """That of the inner denoiser."""
        return self.inner.prior()

    def on(self, size: Sequence[int]) -> Self:
        """Round the inner denoiser on another grid."""
        return replace(self, inner=self.inner.on(size))

    def to(self, device: str | torch.device) -> Self:
        """Round the inner denoiser on another device."""
        return replace(self, inner=self.inner.to(device))

    def gaussian(self) -> Denoiser | None:
        """Round the Gaussian twin of the inner denoiser."""
        twin = self.inner.gaussian()
        return None if twin is None else replace(self, inner=twin)


@dataclass(frozen=True)
class Clamped(Wrapper):
    """D with every pixel brought between `low` and `high`, in model units, also where the process is one of bands.

    What samplers of wavelet processes do at every step so that rough answers stay images (Friedrich et al. 2024).
    Where D is beyond the limits the result is no posterior mean, so the law of its error is not known.
    """

    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        """Refuse limits that leave nothing between them."""
        if not self.low < self.high:
            raise InputError("Clamped limits", (self.low, self.high), "low < high")

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """None: the answer is changed."""
        return "none"

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """The answer between the limits."""
        return Estimate(self.inner.estimate(xt, t, cond).mean.clamp(self.low, self.high), None)

    def gaussian(self) -> Denoiser | None:
        """None: what is cut off is not Gaussian."""
        return None


@dataclass(frozen=True)
class Guided(Wrapper):
    """Guidance: D = free + weight (inner - free), an extrapolation of what a condition changes (Ho, Salimans 2022).

    interval: the times from low to high in which it is done; outside them the answer is the inner one, and `free` is
    not asked (Kynkaanniemi et al. 2024).  For weight other than 1 the result is no posterior mean, so the law of its
    error is not known.  What the weight does to Gaussian data is `retrodict.guided_law`.
    """

    free: Denoiser
    weight: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse two denoisers that do not share their states, and an interval that is none."""
        self._check_pair()
        if self.free.process.pairing.sees:
            raise InputError("Guided free", "a denoiser that needs the measurement", "an unconditional one")

    def _check_pair(self) -> None:
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise InputError("Guided interval", self.interval, "two times 0 <= low < high <= 1")
        one, other = self.inner.process, self.free.process
        t = torch.linspace(0, 1, 5, dtype=torch.float64, device="cpu")
        if one.basis != other.basis or any(
            not torch.equal(a, b) for a, b in zip(one.moments(t), other.moments(t), strict=True)
        ):
            raise InputError(f"{type(self).__name__} free", "a denoiser of another process", "one of the same states")

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """That of the inner denoiser, or none where its answer is changed."""
        return self.inner.error_law if self.weight == 1.0 else "none"

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """Both denoisers at the state, the second without the condition."""
        mean, spread = self.inner.estimate(xt, t, cond)
        if self.weight == 1.0:
            return Estimate(mean, spread)
        weight = self._weights(t)
        if bool((weight == 1.0).all()):
            return Estimate(mean, None)
        free = self._freely(xt, t, cond)
        return Estimate(free + weight.reshape(-1, *[1] * (mean.ndim - 1)).to(mean) * (mean - free), None)

    def _weights(self, t: Tensor) -> Tensor:
        """The weight of each item `(B,)`: 1 outside the interval."""
        low, high = self.interval
        return torch.where((t >= low) & (t <= high), self.weight, torch.ones_like(t))

    def _freely(self, xt: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """What is extrapolated from: it does not see the condition."""
        return self.free(xt, t)

    def linear(self, t: Tensor) -> Linear:
        """As numbers, where both are: for exact cards.  The variance is that of the inner error, and is not claimed."""
        inner, free = self.inner.linear(t), self.free.linear(t)  # type: ignore[attr-defined]
        weight = float(self._weights(t)[0])
        state, measurement, offset = (f + weight * (a - f) for a, f in zip(inner[:3], free[:3], strict=True))
        return Linear(state, measurement, offset, inner.variance)

    def on(self, size: Sequence[int]) -> Self:
        """Both on another grid."""
        return replace(self, inner=self.inner.on(size), free=self.free.on(size))

    def to(self, device: str | torch.device) -> Self:
        """Both on another device."""
        return replace(self, inner=self.inner.to(device), free=self.free.to(device))

    def gaussian(self) -> Denoiser | None:
        """Guidance of the twins; without any, the twin of the inner denoiser."""
        if self.weight == 1.0:
            return self.inner.gaussian()
        inner, free = self.inner.gaussian(), self.free.gaussian()
        return None if inner is None or free is None else replace(self, inner=inner, free=free)


@dataclass(frozen=True)
class Measured(Wrapper):
    """A denoiser with one more measurement: y, an image `(B|1, C, *N)`, and its moments `law` in the basis."""

    y: Tensor
    law: Moments

    def on(self, size: Sequence[int]) -> Self:
        """Itself: a measurement is on one grid."""
        if tuple(size) != self.process.basis.size:
            raise InputError("size", tuple(size), f"{self.process.basis.size}, the grid of the measurement")
        return self

    def to(self, device: str | torch.device) -> Self:
        """The inner denoiser, the measurement and its law on another device."""
        law = Moments(*(x.to(device) for x in self.law))
        return replace(self, inner=self.inner.to(device), y=self.y.to(device), law=law)


@dataclass(frozen=True)
class Fused(Measured):
    """A denoiser that knows one more measurement y of the image, diagonal in the basis of its process (identity I5).

    State and measurement are fused to one observation, and the inner denoiser is asked once: no guidance and no inner
    solve.  `y` is an image `(B|1, C, *N)`, `law` its moments; the inner denoiser has to be one that answers for any
    observation (`observe`): exact ones do, and networks that are told the clock.
    """

    inner: Observer

    def __post_init__(self) -> None:
        """Refuse an inner denoiser that cannot answer for a fused observation."""
        if not isinstance(self.inner, Observer) or not self.inner.any_clock:
            found = type(self.inner).__name__
            raise InputError(
                "Fused", found, "a denoiser that answers for any observation (level='clock' for a network)"
            )

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """One call at the fused observation."""
        process = self.process
        check_state(process, xt, cond)
        w = process.to_coefficients(xt, t, cond.image if process.anchored else None)
        y = process.basis.forward(self.y).expand_as(w)
        return self.inner.observe(*fuse(w, process.moments(t), y, self.law), cond)

    def prior(self) -> tuple[Tensor, Tensor] | None:
        """What is known of the data without the state: the prior of the inner denoiser, given y."""
        prior = self.inner.prior()
        if prior is None:
            return None
        (mean, variance), u = prior, self.process.basis.forward(self.y)
        gain, left = wiener(self.law, variance)
        mean, real = mean.to(u), u.real.dtype
        return mean + gain.to(real) * (u - self.law.h.to(real) * mean), left

    def gaussian(self) -> Denoiser | None:
        """The exact denoiser of Gaussian data that y is known of already."""
        twin = self.inner.gaussian()
        prior = None if not isinstance(twin, Observer) else replace(self, inner=twin).prior()
        if prior is None:
            return None
        variance = prior[1][0] if prior[1].ndim > self.process.ndim + 1 else prior[1]
        return GaussianDenoiser(self.process, 0.0, variance)  # the mean of the data does not change gain or variance


@dataclass(frozen=True)
class Respread(Wrapper):
    """The inner denoiser with another law of its error: "wiener", that of the Wiener filter, or "none"."""

    kind: str = "wiener"

    def __post_init__(self) -> None:
        """Refuse an unknown law, and a Wiener law without a spectrum."""
        choice("spread", self.kind, ("wiener", "none"))
        if self.kind == "wiener" and self.inner.prior() is None:
            raise InputError("spread 'wiener'", "a denoiser without a spectrum", "one that knows the data spectrum")

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """The chosen one: no inner denoiser has stated it of itself."""
        return "none" if self.kind == "none" else "wiener"

    def gaussian(self) -> Denoiser | None:
        """The twin itself, whose error law is that of the Wiener filter."""
        return self.inner.gaussian()

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """The inner mean with the chosen law."""
        mean = self.inner(xt, t, cond)
        prior = self.inner.prior()
        if self.kind == "none" or prior is None:
            return Estimate(mean, None)
        _, v = wiener(self.process.moments(t), prior[1])
        y = self.process.measurement if self.process.pairing.sees and cond.image is not None else None
        return Estimate(mean, SpectralSpread(self.process.basis, v if y is None else wiener(y, v)[1]))


# ---- volumes with a prior for planes -------------------------------------------------------------------------------


def stacked(process: Process, depth: int, pitch: float = 1.0) -> Process:
    """The process of a plane on every slice of a volume of `depth` slices, `pitch` mm apart."""

    def lifted(law: Law) -> Law:
        """Tables of the plane `(B, 1, *K)` as tables of the volume `(B, 1, 1, *K)`."""
        return lambda t: tuple(x.unsqueeze(2) for x in law(t.squeeze(2)))  # type: ignore[return-value]

    def plane(basis: Basis) -> Basis:
        assert isinstance(basis, Stack)
        return basis.plane

    memory, law = process.memory, process.pairing.law
    pairing = process.pairing if law is None else replace(process.pairing, law=lambda b: law(plane(b)))
    return Process(
        lambda b: lifted(process.family(plane(b))),
        Stack.of(process.basis, depth, pitch),
        pairing,
        memory
        if memory is None or memory == "frozen" or memory == "independent"
        else (lambda b: lambda t: memory(plane(b))(t.squeeze(2)).unsqueeze(2)),
    )


@dataclass(frozen=True)
class SliceWise(Wrapper):
    """A denoiser of planes on every slice of a volume; what couples the slices is one more wrapper above it.

    `inner` is the denoiser of a plane, `depth` the number of slices, `pitch` their distance in mm.
    """

    depth: int
    pitch: float = 1.0

    @cached_property
    def process(self) -> Process:  # type: ignore[override]
        """That of the plane on every slice."""
        return stacked(self.inner.process, self.depth, self.pitch)

    def prior(self) -> tuple[Tensor, Tensor] | None:
        """Mean and variance of the plane, the same on every slice."""
        prior = self.inner.prior()
        n = self.inner.process.ndim
        return None if prior is None else (_sliced(prior[0], self.depth, n), _sliced(prior[1], self.depth, n))

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """Slices as items of a batch: `(B, C, D, *N)` -> `(B D, C, *N)` and back."""
        image = None if cond.image is None else _fold(cond.image)
        mean, spread = self.inner.estimate(_fold(xt), t.repeat_interleave(self.depth), Cond(image, cond.vector))
        return Estimate(_unfold(mean, self.depth), None if spread is None else _SliceSpread(spread, self.depth))

    def on(self, size: Sequence[int]) -> Self:
        """Another volume."""
        return replace(self, inner=self.inner.on(tuple(size)[1:]), depth=int(size[0]))

    def gaussian(self) -> Denoiser | None:
        """The Gaussian twin of a plane, on which the plan is judged: slices are independent."""
        return self.inner.gaussian()


@dataclass(frozen=True)
class _SliceSpread:
    """The error law of every slice; each has draws of its own."""

    inner: Spread
    depth: int

    @property
    def fields(self) -> int:
        return self.inner.fields

    def draw(self, z: Tensor) -> Tensor:
        return _unfold(self.inner.draw(torch.stack([_fold(x) for x in z])), self.depth)

    def variance(self) -> Tensor:
        variance = self.inner.variance()
        return _unfold(variance, self.depth) if len(variance) > 1 else variance.unsqueeze(2)

    def power(self) -> Tensor:
        """Variance per coefficient of every slice."""
        power = self._known().power()
        return _unfold(power, self.depth) if len(power) > 1 else power.unsqueeze(2)

    def given(self, u: Tensor, gain: Tensor, variance: Tensor) -> Tensor:
        """Slice by slice: a `Stack` transforms each on its own."""
        tables = (_fold(x.expand(u.shape)) for x in (gain, variance))
        return _unfold(self._known().given(_fold(u), *tables), self.depth)

    def _known(self) -> CoupledSpread:
        if not isinstance(self.inner, CoupledSpread):
            raise InputError("the law of the error of a slice", "one to draw from", "one that is known per coefficient")
        return self.inner


def _fold(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)


def _unfold(x: Tensor, depth: int) -> Tensor:
    return x.unflatten(0, (-1, depth)).transpose(1, 2)


def _sliced(table: Tensor, depth: int, ndim: int) -> Tensor:
    """A table `(*K)` or `(C, *K)` of a plane with an axis of slices before its grid."""
    table = table.unsqueeze(-ndim - 1)
    return table.expand(*table.shape[: -ndim - 1], depth, *table.shape[-ndim:])
