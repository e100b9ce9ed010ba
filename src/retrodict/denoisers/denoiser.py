"""The interface of every denoiser, the laws of its error, and the exact denoiser of Gaussian data.

A denoiser is a function of a state: `denoiser(xt, t, cond) -> E[x_0 | x_t, cond]`; `estimate` also tells the law of
the error, from which stochastic rules draw x_0.  Whatever wraps a denoiser is a denoiser again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.spread import SpectralSpread, Spread
from retrodict.processes.observation import Cond, Moments, wiener
from retrodict.processes.process import Process

__all__ = [
    "Denoiser",
    "ErrorLaw",
    "Estimate",
    "FunctionDenoiser",
    "GaussianDenoiser",
    "Linear",
    "LinearEstimate",
    "Observer",
    "check_state",
    "linear_estimate",
]


# ---- the interface ------------------------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """E[x_0 | x_t] `(B, C, *N)` and the law of the error around it, or None where it is not known."""

    mean: Tensor
    spread: Spread | None


ErrorLaw = Literal["own", "wiener", "none"]
"""Whose law a denoiser states for its error."""


class Denoiser(ABC):
    """E[x_0 | x_t, cond] as a function; nothing asks what it is made of.

    `process`: whose states it denoises.  `spectrum`: mean and power of the data where known, for rules that are exact
    in the Gaussian part.  `multiple`: every axis of an image has to be a multiple of it.  `error_law`: whose law the
    error of `estimate` has: its "own" (exact, or learned), that of the "wiener" filter of the spectrum, or "none".
    It knows no plan, no seed and no file.
    """

    process: Process
    spectrum: Spectrum | Tensor | None = None
    multiple: int = 1
    error_law: ErrorLaw = "own"

    @property
    def modes(self) -> int | None:
        """How many Gaussians the law of the data is known to be a mixture of: 1 where it is Gaussian, the number of
        images of a finite set; None where it is not known, as for a network.
        """
        return None

    @property
    def border(self) -> tuple[float, ...]:
        """Factors on the error variance of one call at the outermost pixels of an image within a margin, outermost
        first; none for a denoiser that a margin does not mislead.
        """
        return ()

    @property
    def margin(self) -> float:
        """Deviation of the margins to draw, over that of their Gaussian law (`samplers.margin`)."""
        return 1.0

    @property
    def draw_calls(self) -> int:
        """How many calls a draw of the error costs as much as; 0 where it is no work of a network."""
        return 0

    @abstractmethod
    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D and the law of its error: xt `(B, C, *N)`, t `(B,)`."""

    @abstractmethod
    def on(self, size: Sequence[int]) -> Denoiser:
        """The same denoiser on another image grid of the same spacing."""

    @abstractmethod
    def to(self, device: str | torch.device) -> Denoiser:
        """The same denoiser with its tables and weights on another device."""

    def gaussian(self) -> Denoiser | None:
        """The same construction round the exact denoiser of Gaussian data with the spectrum, or None.

        A plan is judged on it (`retrodict.gate`): what is not right there is not right at all.
        """
        return None

    def prior(self) -> tuple[Tensor, Tensor] | None:
        """Mean and variance of the coefficients of the data on the grid of the process, where known."""
        if not isinstance(self.spectrum, Spectrum):
            return None
        return self.spectrum.mean_on(self.process.basis), self.spectrum.on(self.process.basis)

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        """E[x_0 | x_t, cond] `(B, C, *N)`."""
        return self.estimate(xt, t, cond).mean


class Observer(Denoiser):
    """A denoiser that answers for *any* observation u = h u_0 + s z of the image, not for states of its process alone.

    Exact denoisers do, and networks that are told the clock; so a fused pair of state and measurement is one call.
    `any_clock` is False for a network that knows the observations of its process alone.
    """

    any_clock: bool = True

    @abstractmethod
    def observe(self, u: Tensor, m: Moments, cond: Cond = Cond()) -> Estimate:
        """D and its error law given one observation, coefficients u `(B, C, *K)` with moments m."""

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D and the law of its error for a state xt `(B, C, *N)` at t `(B,)`."""
        check_state(self.process, xt, cond)
        anchor = cond.image if self.process.anchored else None
        return self.observe(self.process.to_coefficients(xt, t, anchor), self.process.moments(t), cond)


def check_state(process: Process, xt: Tensor, cond: Cond) -> None:
    """Raise where a state or its condition does not belong to `process`."""
    basis, pairing = process.basis, process.pairing
    if tuple(xt.shape[2:]) != tuple(basis.size):
        wanted = f"(B, C, {', '.join(map(str, basis.size))})"
        raise InputError("denoiser input", tuple(xt.shape), wanted, "Use denoiser.on(size) for another grid.")
    if xt.is_complex() != basis.complex:
        found, wanted = ("complex", "real") if xt.is_complex() else ("real", "complex")
        raise InputError("denoiser input", f"a {found} image", f"a {wanted} one, as the basis of the process")
    if torch.device(basis.device).type != xt.device.type:
        wanted = f"one on {basis.device}, where the tables of the process are"
        raise InputError("denoiser input", f"an image on {xt.device}", wanted, "Use denoiser.to(device).")
    if cond.vector is not None:
        raise InputError("denoiser condition", "a vector", "an image or nothing: no denoiser here reads a vector")
    if pairing.starts and cond.image is not None:
        hint = "x_1 is the measurement already; a second look would count it twice."
        raise InputError("denoiser condition", "a measurement image", "none for a terminal process", hint)
    if pairing.sees and cond.image is None:
        raise InputError("denoiser condition", "none", "the measurement: the process is external")


# ---- the Gaussian part --------------------------------------------------------------------------------------------


class LinearEstimate(NamedTuple):
    """The best linear estimate from an observation (and an external measurement): coefficients and variances.

    w: the observation; d: estimate; v: its error variance `(B, C|1, *K)` float64; y: coefficients of the measurement,
    or None; m: moments of the observation.
    """

    w: Tensor
    d: Tensor
    v: Tensor
    y: Tensor | None
    m: Moments


def linear_estimate(
    process: Process, variance: Tensor, mean: Tensor, w: Tensor, m: Moments, cond: Cond
) -> LinearEstimate:
    """Wiener estimate of u_0 ~ N(mean, variance) from an observation w and, where it is shown one, from y.

    Both are independent given x_0, so the second is a Kalman update of the first, per coefficient.
    """
    mean, real = mean.to(w), w.real.dtype
    g, v = wiener(m, variance)
    d = mean + g.to(real) * (w - m.h.to(real) * mean)
    if not process.pairing.sees or cond.image is None:
        return LinearEstimate(w, d, v, None, m)
    d, v = process.pairing.given(d, v, cond.image, process.basis)
    return LinearEstimate(w, d, v, process.basis.forward(cond.image), m)


class Linear(NamedTuple):
    """An exact denoiser as numbers `(*K)`: u_0 = state * w + measurement * y + offset, with an error of `variance`."""

    state: Tensor
    measurement: Tensor
    offset: Tensor
    variance: Tensor


@dataclass(frozen=True)
class GaussianDenoiser(Observer):
    """Exact E[x_0 | x_t, y] and covariance for data N(mean, spectrum) per coefficient of `process.basis`.

    `mean`, `spectrum`: tables `(*K)` or `(C, *K)` on the grid of the process, or a `Spectrum`, which holds both
    (`mean` is then left out) and lets the denoiser go to another grid.
    """

    process: Process
    mean: Tensor | float = 0.0
    spectrum: Tensor | Spectrum | None = None

    def __post_init__(self) -> None:
        """Refuse data without a variance."""
        if self.spectrum is None:
            raise InputError("GaussianDenoiser spectrum", "none", "a variance for every coefficient, or a Spectrum")
        if isinstance(self.spectrum, Spectrum) and not (isinstance(self.mean, float) and self.mean == 0.0):
            raise InputError("GaussianDenoiser mean", "one beside a Spectrum", "none: the Spectrum holds it")

    @cached_property
    @torch.inference_mode(mode=False)  # tables outlive the call that first asks for them
    def _tables(self) -> tuple[Tensor, Tensor]:
        basis = self.process.basis
        if isinstance(self.spectrum, Spectrum):
            return self.spectrum.mean_on(basis), self.spectrum.on(basis)
        assert self.spectrum is not None
        mean = self.mean if isinstance(self.mean, Tensor) else torch.full_like(self.spectrum, float(self.mean))
        return mean.to(basis.device), self.spectrum.to(basis.device)

    @property
    def modes(self) -> int:
        """One."""
        return 1

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of every coefficient."""
        return self._tables

    def on(self, size: Sequence[int]) -> GaussianDenoiser:
        """The same data on another grid; tables cannot be carried over."""
        if tuple(size) == self.process.basis.size:
            return self
        if not isinstance(self.spectrum, Spectrum):
            raise InputError(
                "size", tuple(size), f"{self.process.basis.size}, the grid of the tables", "Give Spectrum."
            )
        return replace(self, process=self.process.on(tuple(size)))

    def to(self, device: str | torch.device) -> GaussianDenoiser:
        """The same denoiser on another device."""
        return replace(self, process=self.process.to(device))

    def at(self, process: Process) -> GaussianDenoiser:
        """The denoiser of the same data for another process."""
        return replace(self, process=process)

    def gaussian(self) -> GaussianDenoiser:
        """Itself."""
        return self

    def observe(self, u: Tensor, m: Moments, cond: Cond = Cond()) -> Estimate:
        """Posterior mean and covariance given one observation, coefficients u `(B, C, *K)` with moments m."""
        mean, variance = self._tables
        linear = linear_estimate(self.process, variance, mean, u, m, cond)
        return Estimate(self.process.basis.inverse(linear.d), SpectralSpread(self.process.basis, linear.v))

    def linear(self, t: Tensor) -> Linear:
        """The denoiser at time t `(1,)` as gains on the state and the measurement, offset and variance."""
        mean, variance = self._tables
        m = Moments(*(x[0, 0] for x in self.process.moments(t)))
        g, v = wiener(m, variance)
        y = self.process.measurement if self.process.pairing.sees else None
        zero = torch.zeros_like(variance)
        if y is None:
            return Linear(zero + g, zero, mean - g * m.h * mean, zero + v)
        k, v = wiener(y, v)
        rest = 1 - k * y.h
        return Linear(zero + g * rest, zero + k, (mean - g * m.h * mean) * rest, zero + v)

    def score(self, xt: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t in coefficients `(B, C, *K)`: -(w - h m) / (h^2 L + s^2)."""
        mean, variance = self._tables
        m = self.process.moments(t)
        w = self.process.to_coefficients(xt, t)
        return -(w - m.h * mean) / (m.h**2 * variance + m.s2)


# ---- functions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FunctionDenoiser(Denoiser):
    """Any callable (xt, t) -> D as a denoiser of `process`; with `spectrum`, the Wiener filter gives its error law.

    `sees`: it is called as function(xt, t, y) with the measured image of an external process.
    """

    function: Callable[..., Tensor]
    process: Process
    spectrum: Spectrum | None = None
    sees: bool = False

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """That of the Wiener filter, where a spectrum is known: the function tells none."""
        return "none" if self.spectrum is None else "wiener"

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D with the error variance of the Gaussian part, where a spectrum is known."""
        check_state(self.process, xt, cond)
        mean = self.function(xt, t, cond.image) if self.sees else self.function(xt, t)
        if not isinstance(mean, Tensor) or mean.shape != xt.shape:
            found = tuple(mean.shape) if isinstance(mean, Tensor) else type(mean).__name__
            raise InputError(
                "denoiser", f"a function that returns {found}", f"an image like its input {tuple(xt.shape)}"
            )
        if self.spectrum is None:
            return Estimate(mean, None)
        _, v = wiener(self.process.moments(t), self.spectrum.on(self.process.basis))
        y = self.process.measurement if self.sees and self.process.pairing.sees else None
        return Estimate(mean, SpectralSpread(self.process.basis, v if y is None else wiener(y, v)[1]))

    def on(self, size: Sequence[int]) -> Self:
        """The same function; it has to take any size."""
        return replace(self, process=self.process.on(tuple(size)))

    def to(self, device: str | torch.device) -> Self:
        """Tables on another device; the function has to follow by itself."""
        return replace(self, process=self.process.to(device))

    def gaussian(self) -> GaussianDenoiser | None:
        """The exact denoiser of Gaussian data of the same spectrum; None for a function that is not shown the
        measurement of its process, for which no exact one stands.
        """
        blind = self.process.pairing.sees and not self.sees
        return None if self.spectrum is None or blind else GaussianDenoiser(self.process, spectrum=self.spectrum)
