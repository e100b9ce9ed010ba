"""Denoisers: E[x_0 | x_t], and, where known, the law of the error around it.

A denoiser is called as `denoiser(xt, t, cond) -> D`; one that also knows its error offers
`estimate(xt, t, cond) -> Estimate(mean, spread)`, from which stochastic rules draw x_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from retrodict.bases import Basis
from retrodict.bases.spectrum import Spectrum
from retrodict.processes.process import Cond, Moments, Process, ratio, wiener

__all__ = [
    "Denoiser",
    "Estimate",
    "FunctionDenoiser",
    "GaussianDenoiser",
    "LinearEstimate",
    "LocalSpread",
    "SpectralSpread",
    "Spread",
    "SpreadScale",
    "band_filters",
    "linear_estimate",
]


class Spread(Protocol):
    """The law of x_0 - D: how to turn white noise fields into a draw of the error."""

    @property
    def fields(self) -> int:
        """Number of white noise fields that a draw takes."""
        ...

    def draw(self, z: Tensor) -> Tensor:
        """White noise `(fields, B, C, *N)` to an error image `(B, C, *N)`."""
        ...

    def variance(self) -> Tensor:
        """Variance of the error per pixel, `(B, C, *N)`."""
        ...


class Estimate(NamedTuple):
    """E[x_0 | x_t] `(B, C, *N)` and the law of the error around it, or None where it is not known."""

    mean: Tensor
    spread: Spread | None


class Denoiser(Protocol):
    """E[x_0 | x_t, cond]: xt `(B, C, *N)`, t `(B,)` -> `(B, C, *N)`."""

    @property
    def process(self) -> Process:
        """The process whose states it denoises."""
        ...

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor: ...


# ---- error laws ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpectralSpread:
    """A stationary error: variance v `(B|1, 1, *K)` per coefficient of `basis`."""

    basis: Basis
    v: Tensor
    fields: int = 1

    def draw(self, z: Tensor) -> Tensor:
        """One white field, colored by sqrt(v)."""
        return self.basis.inverse(self.v.sqrt().to(z.real) * self.basis.forward(z[0]))

    def variance(self) -> Tensor:
        """The same at every pixel of the grid: the mean of v over degrees of freedom."""
        mean = _power(self.v, self.basis)
        return mean.reshape(-1, 1, *([1] * len(self.basis.size))).expand(-1, 1, *self.basis.size)


@dataclass(frozen=True)
class LocalSpread:
    """A locally stationary error: in band b its variance is exp(log_ratio_b(x)) times that of spectrum v.

    error = sum_b exp(log_ratio_b / 2) * B^-1 [F_b sqrt(v) B z_b], with sum_b F_b^2 = 1, so that log_ratio = 0 is
    exactly the stationary law of v.  `log_ratio` is `(B, bands, *N)`, `filters` `(bands, *K)`, v `(B|1, 1, *K)`.
    """

    basis: Basis
    v: Tensor
    log_ratio: Tensor
    filters: Tensor

    @property
    def fields(self) -> int:
        """One white field per band."""
        return len(self.filters)

    def draw(self, z: Tensor) -> Tensor:
        """White noise `(bands, B, C, *N)` to an error `(B, C, *N)`."""
        total = torch.zeros_like(z[0])
        root = self.v.sqrt()
        for b, noise in enumerate(z):
            colored = self.basis.inverse((root * self.filters[b]).to(z.real) * self.basis.forward(noise))
            total = total + (0.5 * self.log_ratio[:, b : b + 1]).exp() * colored
        return total

    def variance(self) -> Tensor:
        """Sum over bands of the local ratio times the mean variance of the band."""
        bands = [_power(self.v * f**2, self.basis) for f in self.filters]
        power = torch.stack(bands, dim=1).to(self.log_ratio)
        power = power.reshape(*power.shape, *([1] * len(self.basis.size)))
        return (self.log_ratio.exp() * power).sum(1, keepdim=True)


@dataclass(frozen=True)
class SpreadScale:
    """Factors on the predicted error variance, measured on held-out data: one per level and band.

    `level` (n,) rising, the noise level log(c_out / std) that the network sees; `factor` (n, bands).  Linear in level
    and log factor between nodes, constant beyond them.
    """

    level: tuple[float, ...]
    factor: tuple[tuple[float, ...], ...]

    def log_at(self, level: Tensor) -> Tensor:
        """Log of the factors at levels `(B,)` -> `(B, bands)`."""
        nodes = torch.tensor(self.level, dtype=torch.float64)
        values = torch.tensor(self.factor, dtype=torch.float64).log()
        query = level.double().clamp(nodes[0], nodes[-1])
        left = (torch.searchsorted(nodes, query, right=True) - 1).clamp(0, len(nodes) - 2)
        part = ((query - nodes[left]) / (nodes[left + 1] - nodes[left]))[:, None]
        return values[left] * (1 - part) + values[left + 1] * part


def _power(v: Tensor, basis: Basis) -> Tensor:
    """Mean over real degrees of freedom of v `(B, C|1, *K)` -> `(B,)`."""
    weight = basis.multiplicity()
    spread = (v * weight).expand(v.shape[0], v.shape[1], *basis.shape)
    return spread.flatten(1).sum(1) / (weight.sum() * v.shape[1])


def band_filters(basis: Basis, bands: int) -> Tensor:
    """Octave filters F_b `(bands, *K)`, sum_b F_b^2 = 1: cosine ramps in log2 |f| one octave wide.

    The edges lie at Nyquist / 2, / 4, ...; the last filter holds everything below the lowest edge.
    """
    radius = basis.radius()
    nyquist = 0.5 / min(basis.spacing)
    octave = torch.log2((radius / nyquist).clamp_min(2.0**-40))
    remaining, filters = torch.ones_like(radius), []
    for b in range(bands - 1):
        above = ((octave + b + 1) + 0.5).clamp(0, 1)  # 0 half an octave below the edge 2^-(b+1), 1 half above
        high = torch.sin(0.5 * math.pi * above)
        filters.append(remaining * high)
        remaining = remaining * torch.cos(0.5 * math.pi * above)
    return torch.stack([*filters, remaining])


# ---- the Gaussian part --------------------------------------------------------------------------------------------


class LinearEstimate(NamedTuple):
    """The best linear estimate from x_t (and an external measurement): coefficients and variances.

    w: shifted coefficients of x_t; d: estimate; v: its error variance `(B, 1, *K)` float64; y: coefficients of the
    measurement, or None; m: moments.
    """

    w: Tensor
    d: Tensor
    v: Tensor
    y: Tensor | None
    m: Moments


def linear_estimate(
    process: Process, spectrum: Tensor, mean: Tensor, xt: Tensor, t: Tensor, cond: Cond
) -> LinearEstimate:
    """Wiener estimate of u_0 ~ N(mean, spectrum) from x_t and, for external conditioning with a known law, from y.

    x_t and y are independent given x_0, so the second is a Kalman update of the first, per coefficient.
    """
    m = process.moments(t)
    anchor = cond.image if process.anchored else None
    w = process.to_coefficients(xt, t, anchor)
    mean = mean.to(w)
    g, v = wiener(m, spectrum)
    d = mean + g.to(xt) * (w - m.h.to(xt) * mean)
    if process.conditioning != "external" or cond.image is None:
        return LinearEstimate(w, d, v, None, m)
    y = process.basis.forward(cond.image)
    if process.measured is None:  # how y came about is not known: only a network can use it
        return LinearEstimate(w, d, v, y, m)
    gain, noise = process.measured
    kalman = ratio(v * gain, gain**2 * v + noise)
    d = d + kalman.to(xt) * (y - gain.to(xt) * d)
    return LinearEstimate(w, d, v * (1 - kalman * gain), y, m)


# ---- denoisers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FunctionDenoiser:
    """Any callable (xt, t) -> D as a denoiser of `process`; with `spectrum`, the Wiener filter gives its error law."""

    function: Callable[[Tensor, Tensor], Tensor]
    process: Process
    spectrum: Spectrum | None = None

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        """D = function(xt, t)."""
        return self.function(xt, t)

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D with the error variance L s^2 / (h^2 L + s^2) of the Gaussian part, where a spectrum is known."""
        if self.spectrum is None:
            return Estimate(self(xt, t, cond), None)
        _, v = wiener(self.process.moments(t), self.spectrum.on(self.process.basis))
        return Estimate(self(xt, t, cond), SpectralSpread(self.process.basis, v))


@dataclass(frozen=True)
class GaussianDenoiser:
    """Exact E[x_0 | x_t, y] and covariance for data N(mean, spectrum) per coefficient of `process.basis`."""

    process: Process
    mean: Tensor
    spectrum: Tensor

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        """Posterior mean `(B, C, *N)`."""
        return self.estimate(xt, t, cond).mean

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """Posterior mean and stationary covariance."""
        linear = linear_estimate(self.process, self.spectrum, self.mean, xt, t, cond)
        return Estimate(self.process.basis.inverse(linear.d), SpectralSpread(self.process.basis, linear.v))

    def score(self, xt: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t in coefficients `(B, C, *K)`: -(w - h m) / (h^2 L + s^2)."""
        m = self.process.moments(t)
        w = self.process.to_coefficients(xt, t)
        return -(w - m.h * self.mean) / (m.h**2 * self.spectrum + m.s2)
