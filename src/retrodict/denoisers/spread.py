"""The laws of a denoiser's error, from which stochastic rules draw x_0: stationary, or different in place and band."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from retrodict.bases import Basis
from retrodict.processes.observation import ratio

__all__ = [
    "CoupledSpread",
    "LocalSpread",
    "SpectralSpread",
    "Spread",
    "band_filters",
    "given_of",
    "root_mean",
    "shares_of",
    "standardized",
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
        """Variance of the error per pixel and real component, `(B, C|1, *N)`."""
        ...


@runtime_checkable
class CoupledSpread(Spread, Protocol):
    """A law that also tells what is known of the error once a noisy sum with it is seen."""

    def power(self) -> Tensor:
        """Variance of the error per coefficient, `(B|1, C|1, *K)`: the mean over the image of what varies in it."""
        ...

    def given(self, u: Tensor, gain: Tensor, variance: Tensor) -> Tensor:
        """E[e | gain e + sqrt(variance) z = u], coefficients `(B, C, *K)`: what a sum with white noise tells of e."""
        ...


@dataclass(frozen=True)
class SpectralSpread:
    """A stationary error: variance v `(B|1, C|1, *K)` per coefficient of `basis`."""

    basis: Basis
    v: Tensor
    fields: int = 1

    def draw(self, z: Tensor) -> Tensor:
        """One white field, colored by sqrt(v)."""
        return self.basis.inverse(self.v.sqrt().to(z.real) * self.basis.forward(z[0]))

    def variance(self) -> Tensor:
        """The same at every pixel of the grid: the mean of v over degrees of freedom."""
        mean = _power(self.v, self.basis)
        return mean[(..., *[None] * self.basis.ndim)].expand(*mean.shape, *self.basis.size)

    def power(self) -> Tensor:
        """The variance v itself."""
        return self.v

    def given(self, u: Tensor, gain: Tensor, variance: Tensor) -> Tensor:
        """The coefficients times gain v / (gain^2 v + variance), per coefficient."""
        return ratio(gain * self.v, gain**2 * self.v + variance).to(u.real) * u


@dataclass(frozen=True)
class LocalSpread:
    """A locally stationary error: in band b its variance is exp(log_ratio_b(x)) times that of spectrum v.

    error = sum_b exp(log_ratio_b / 2) * B^-1 [F_b sqrt(v) B z_b], with sum_b F_b^2 = 1, so that log_ratio = 0 is
    exactly the stationary law of v.  `log_ratio` is `(B, bands, *N)`, or `(B, bands, C, *N)` where channels differ;
    `filters` `(bands, *K)`, v `(B|1, C|1, *K)`.
    """

    basis: Basis
    v: Tensor
    log_ratio: Tensor
    filters: Tensor

    @property
    def fields(self) -> int:
        """One white field per band."""
        return len(self.filters)

    @cached_property
    def _ratios(self) -> Tensor:
        r = self.log_ratio
        return r if r.ndim == self.basis.ndim + 3 else r.unsqueeze(2)

    def draw(self, z: Tensor) -> Tensor:
        """White noise `(bands, B, C, *N)` to an error `(B, C, *N)`."""
        total = torch.zeros_like(z[0])
        root = self.v.sqrt()
        for b, noise in enumerate(z):
            colored = self.basis.inverse((root * self.filters[b]).to(z.real) * self.basis.forward(noise))
            total = total + (0.5 * self._ratios[:, b]).exp() * colored
        return total

    def variance(self) -> Tensor:
        """Sum over bands of the local ratio times the mean variance of the band."""
        bands = [_power(self.v * f**2, self.basis) for f in self.filters]
        power = torch.stack(bands, dim=1).to(self.log_ratio)[(..., *[None] * self.basis.ndim)]
        return (self._ratios.exp() * power).sum(1)

    def power(self) -> Tensor:
        """The spectrum v times the mean over the image of the ratios, band by band."""
        axes = tuple(range(-self.basis.ndim, 0))
        mean = self._ratios.double().exp().mean(axes, keepdim=True)
        return sum(((mean[:, b] * self.v) * f**2 for b, f in enumerate(self.filters)), start=torch.zeros_like(self.v))

    def covariance(self, u: Tensor) -> Tensor:
        """The covariance of the error applied to coefficients `(B, C, *K)`."""
        x, total = self.basis.inverse(u), None
        for b, f in enumerate(self.filters):
            root = (0.5 * self._ratios[:, b]).exp()
            part = root * self.basis.inverse((self.v * f**2).to(u.real) * self.basis.forward(root * x))
            total = part if total is None else total + part
        return self.basis.forward(total)  # type: ignore[arg-type]

    def given(self, u: Tensor, gain: Tensor, variance: Tensor) -> Tensor:
        """By conjugate gradients that start from the mean law, item by item."""
        laws = (LocalSpread(self.basis, _of(self.v, i), _of(self.log_ratio, i), self.filters) for i in range(len(u)))
        return torch.cat([given_of(law, u[i : i + 1], _of(gain, i), _of(variance, i)) for i, law in enumerate(laws)])


class _Uneven(Protocol):
    """A law whose covariance no basis makes diagonal."""

    @property
    def basis(self) -> Basis: ...

    def power(self) -> Tensor: ...

    def covariance(self, u: Tensor) -> Tensor: ...


def given_of(law: _Uneven, u: Tensor, gain: Tensor, variance: Tensor) -> Tensor:
    """E[e | gain e + sqrt(variance) z = u] = C gain (gain C gain + variance)^-1 u of one item `(1, C, *K)`."""
    basis, real = law.basis, u.real.dtype
    gain, variance = gain.to(real), variance.to(real)
    mean = (gain**2 * law.power().to(real) + variance).expand(u.shape)

    def total(x: Tensor) -> Tensor:
        own = basis.forward(x)
        return basis.inverse(gain * law.covariance(gain * own) + variance * own)

    def nearly(x: Tensor) -> Tensor:
        return basis.inverse(ratio(torch.ones_like(mean), mean) * basis.forward(x))

    return law.covariance(gain * basis.forward(_solved(total, nearly, basis.inverse(u))))


def _solved(total: Callable[[Tensor], Tensor], nearly: Callable[[Tensor], Tensor], rest: Tensor) -> Tensor:
    """`GIVEN_ROUNDS` rounds of preconditioned conjugate gradients for one item, with nothing read back from a device.

    Rounds beyond convergence change nothing: a residual of zero has steps of length zero.
    """
    answer, residual = torch.zeros_like(rest), rest
    step = z = nearly(residual)
    size = _dot(residual, z)
    for _ in range(GIVEN_ROUNDS):
        image = total(step)
        length = ratio(size, _dot(step, image))
        answer, residual = answer + length * step, residual - length * image
        z = nearly(residual)
        after = _dot(residual, z)
        step, size = z + ratio(after, size) * step, after
    return answer


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).real.sum()


GIVEN_ROUNDS = 10
"""Rounds of conjugate gradients of `given_of`, which start from the mean law."""


def _of(table: Tensor, item: int) -> Tensor:
    """What belongs to one item of a table `(B|1, ...)`."""
    return table[item : item + 1] if table.ndim and len(table) > 1 else table


def _power(v: Tensor, basis: Basis) -> Tensor:
    """Mean over real degrees of freedom of v `(B, C|1, *K)` as the variance of image channels `(B, C|1)`."""
    weight = basis.multiplicity()
    spread = (v * weight).expand(v.shape[0], v.shape[1], *basis.shape)
    return basis.unmixed(spread.flatten(2).sum(2) / weight.sum())


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


@lru_cache(maxsize=64)
def shares_of(basis: Basis, bands: int) -> tuple[float, ...]:
    """Share of the degrees of freedom in each of the `band_filters`."""
    weight = basis.multiplicity() / basis.multiplicity().sum()
    return tuple(torch.einsum("a...,...->a", band_filters(basis, bands) ** 2, weight).tolist())


def standardized(u: Tensor, variance: Tensor, basis: Basis) -> Tensor:
    """Image of coefficients u over the square root of the mean of their variance, `(B, C, *N)`."""
    scale = root_mean(variance.clamp_min(0.0), basis)
    image = basis.inverse(u)
    return image * ratio(torch.ones_like(scale), scale).to(image.real)


def root_mean(v: Tensor, basis: Basis) -> Tensor:
    """Square root of the mean over real degrees of freedom of v `(B|1, C|1, *K)` -> `(B|1, C|1, *1)`."""
    return _power(v, basis).sqrt()[(..., *[None] * basis.ndim)]
