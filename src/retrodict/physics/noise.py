"""What a law of noise is, and the Gaussian ones: white, per sample, stationary, correlated between coils."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key, white
from retrodict.bases import Basis
from retrodict.bases.curve import Curve
from retrodict.physics.covariance import Covariance
from retrodict.physics.operator import Space, inner

__all__ = ["GaussianNoise", "Misfit", "Noise", "Seeds", "Slopes", "items", "noise_like"]

Seeds = Tensor | Sequence[int]
"""A seed for every item."""


def noise_like(clean: Tensor, seeds: Seeds, stream: str, step: int = 0) -> Tensor:
    """Unit white noise per real component, shaped like a batch, in its precision; item i is a function of seeds[i]."""
    if len(seeds) != len(clean):
        raise InputError("seeds", f"{len(seeds)} seeds", f"{len(clean)}, one for every item")
    parts = [
        white(seeds, f"{stream}-{part}", step, clean.shape[1:]).to(clean.device)
        for part in range(1 + clean.is_complex())
    ]
    real = clean.real.dtype
    return torch.complex(*(p.to(real) for p in parts)) if clean.is_complex() else parts[0].to(real)


def generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A generator of its own on the CPU."""
    return torch.Generator(device="cpu").manual_seed(key(int(seed), stream, step))


def items(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum over every item, `(B,)` float64; `mask` `(*shape)` of what counts.

    What does not count is left out, not multiplied by 0: it may be infinite.
    """
    if mask is not None:
        values = torch.where(mask.to(values.device) > 0, values, 0.0)
    return values.double().flatten(1).sum(1)


class Misfit(NamedTuple):
    """How far measured and computed data are apart, beside what the law of the noise says of it; all `(B,)` float64.

    `value` is chi^2 = sum of residual^2 / variance; `mean` and `variance` are its moments for the true image (m and 2 m
    of m real Gaussian numbers).  `below` and `above` are the probabilities of a value as small and as large, of the
    Gamma law of these moments: exact (chi^2) for Gaussian noise.  A small `above` is a fit that is too bad for the
    noise, a small `below` one that is too good: it has fitted noise.
    """

    value: Tensor
    mean: Tensor
    variance: Tensor

    @property
    def ratio(self) -> Tensor:
        """Value over its mean: 1 for the true image."""
        return self.value / self.mean

    @property
    def above(self) -> Tensor:
        """P(chi^2 >= value), the p-value of a fit that is too bad."""
        return torch.special.gammaincc(*self._gamma())

    @property
    def below(self) -> Tensor:
        """P(chi^2 <= value)."""
        return torch.special.gammainc(*self._gamma())

    def _gamma(self) -> tuple[Tensor, Tensor]:
        return self.mean**2 / self.variance, self.value * self.mean / self.variance


class Slopes(NamedTuple):
    """Derivatives of log p(y | u) of a sample by its clean u: the first, *minus* the second (at least 0), the third."""

    first: Tensor
    second: Tensor
    third: Tensor


class Noise(ABC):
    """The law p(y | u) of measured data y around clean ones u = A x, item by item.

    `clean_unit` and `unit` are those of u and y (None: any, the same).  A law whose samples are independent writes the
    moments, density and score of one sample; the sums, the mask of what was measured and the misfit follow.
    Arrays are batches `(B, *shape)`; `mask` `(*shape)` is 1 where something was measured, and the rest is left out.
    """

    clean_unit: str | None = None
    unit: str | None = None
    real_only: ClassVar[bool] = False

    @abstractmethod
    def sample(self, clean: Tensor, seeds: Seeds, *, step: int = 0) -> Tensor:
        """One draw of y for every item; a function of its clean data, its seed and `step` alone."""

    @abstractmethod
    def density(self, clean: Tensor, y: Tensor) -> Tensor:
        """Log p of every sample, constants included."""

    @abstractmethod
    def score(self, clean: Tensor, y: Tensor) -> Tensor:
        """D log p / du of every sample; of complex ones the derivative by real plus i that by imaginary part."""

    @abstractmethod
    def variance(self, clean: Tensor) -> Tensor:
        """Variance of y per real component, of every sample."""

    @abstractmethod
    def fourth(self, clean: Tensor) -> Tensor:
        """E |y - mean|^4 of every sample."""

    def item(self, i: int, ndim: int) -> Noise:
        """The law of item i of a batch whose items have `ndim` axes."""
        return self

    def mean(self, clean: Tensor) -> Tensor:
        """E[y | u]: u itself, unless a law says otherwise."""
        return clean

    def check(self, space: Space, where: str = "noise") -> None:
        """Refuse data of a kind that the law is not about."""
        if self.real_only and space.complex:
            raise InputError(where, "complex data", f"real ones: {type(self).__name__} is a law of counts")

    def log_likelihood(self, clean: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log p(y | u) of every item, `(B,)` float64, constants included."""
        return items(self.density(clean, y), mask)

    def gradient(self, clean: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """D log p(y | u) / du, like u; in the real inner product."""
        score = self.score(clean, y)
        return score if mask is None else torch.where(mask.to(score.device) > 0, score, 0.0)

    def misfit(self, clean: Tensor, y: Tensor, mask: Tensor | None = None) -> Misfit:
        """Sum |y - E y|^2 / Var y, with its moments under the law."""
        degrees = 2.0 if y.is_complex() else 1.0
        variance = self.variance(clean)
        value = items((y - self.mean(clean)).abs() ** 2 / variance, mask)
        spread = (self.fourth(clean) / variance**2 - degrees**2).expand(value.shape[0], *y.shape[1:])
        count = items(torch.full_like(y.real, degrees), mask)
        return Misfit(value, count.expand_as(value), items(spread, mask))

    def gaussian(self, y: Tensor) -> tuple[Tensor, Covariance]:
        """The Gaussian law N(data; u, Sigma) that stands for p(y | u) near the data: what linear solvers are given."""
        return y, Covariance(self.variance(y))

    def slopes(self, clean: Tensor, y: Tensor) -> Slopes:
        """The law near u = `clean`, of independent real samples; `InputError` for a law that has no such form."""
        hint = "Use 'matched', which takes the Gaussian law beside the data."
        raise InputError("noise", type(self).__name__, "a law of counts, or independent Gaussian noise", hint)

    def inside(self, clean: Tensor, y: Tensor) -> Tensor:
        """Clean data at which `slopes` may be taken: u itself, unless the law is about positive numbers alone."""
        return clean

    def valid(self, y: Tensor) -> Tensor:
        """Share of the samples for which `gaussian` is a good stand-in, `(B,)` float64."""
        return torch.ones(len(y), dtype=torch.float64, device=y.device)


class GaussianNoise(Noise):
    """y = u + n, n ~ N(0, Sigma) with a `Covariance`; for complex data Sigma is that of a real component.

    `white`, `per_pixel`, `stationary` and `coils` make the common ones.  `unit` is that of sigma; where it is given it
    has to be that of the data.

    Raises `InputError` for a variance of 0: data without noise are no law (mask what was not measured).
    """

    def __init__(self, covariance: Covariance, unit: str | None = None) -> None:
        if not covariance.positive:
            hint = "Samples that were not measured belong into the mask of the measurement."
            raise InputError("noise", "a variance of 0", "variances above 0", hint)
        self.covariance, self.unit, self.clean_unit = covariance, unit, unit

    @classmethod
    def white(cls, sigma: float, unit: str | None = None) -> GaussianNoise:
        """Sigma^2 I, `sigma` per real component, in the unit of the data."""
        if not (isinstance(sigma, int | float) and math.isfinite(sigma) and sigma > 0):
            raise InputError(
                "sigma", sigma, "the standard deviation of the noise, a positive number in the data's unit"
            )
        return cls(Covariance.white(sigma), unit)

    @classmethod
    def per_pixel(cls, sigma: Tensor, unit: str | None = None) -> GaussianNoise:
        """A deviation for every sample: `(*shape)` of an item, `(B, *shape)` of a batch, or what broadcasts to them."""
        return cls(Covariance.pixels(sigma), unit)

    @classmethod
    def stationary(cls, basis: Basis, nps: Curve | Tensor, unit: str | None = None) -> GaussianNoise:
        """Noise that is diagonal in a basis: `nps` the variance of every coefficient `(*K)`, or a measured `Curve`.

        A curve in unit^2 mm^n over cycles/mm is divided by the volume of a pixel.
        """
        if isinstance(nps, Curve):
            nps.require("nps", basis)
            table = nps.on(basis) / math.prod(basis.spacing)
        else:
            table = nps.double()
        return cls(Covariance(table, basis), unit)

    @classmethod
    def coils(cls, covariance: Tensor, unit: str | None = None) -> GaussianNoise:
        """White noise that is correlated between channels, E[n n^H] = `covariance` `(C, C)` of complex data.

        Half of it is the covariance of real components, as of k-space (Pruessmann et al., Magn. Reson. Med. 42, 1999).
        """
        return cls(Covariance(0.5, channels=covariance), unit)

    def check(self, space: Space, where: str = "noise") -> None:
        """Refuse a covariance of another shape."""
        super().check(space, where)
        self.covariance.check(space, where)

    def item(self, i: int, ndim: int) -> GaussianNoise:
        """With the deviations of one item, where every item has its own."""
        return GaussianNoise(self.covariance.item(i, ndim), self.unit)

    def _alone(self, what: str) -> Covariance:
        if not self.covariance.elementwise:
            raise InputError(what, "noise that is correlated between samples", "independent samples")
        return self.covariance

    def sample(self, clean: Tensor, seeds: Seeds, *, step: int = 0) -> Tensor:
        """U + Sigma^(1/2) z."""
        return clean + self.covariance.power(noise_like(clean, seeds, "noise", step), 0.5)

    def density(self, clean: Tensor, y: Tensor) -> Tensor:
        """-|y - u|^2 / (2 v) - log(2 pi v) / 2 per real component."""
        self._alone("density")
        degrees = 2.0 if y.is_complex() else 1.0
        variance = self.variance(clean)
        return -0.5 * ((y - clean).abs() ** 2 / variance + degrees * (2 * math.pi * variance).log())

    def score(self, clean: Tensor, y: Tensor) -> Tensor:
        """Sigma^-1 (y - u)."""
        return self.covariance.power(y - clean, -1.0)

    def variance(self, clean: Tensor) -> Tensor:
        """As it was given, `(B, *shape)`."""
        table = torch.as_tensor(self._alone("variance").variance, dtype=torch.float64, device="cpu")
        return table.to(device=clean.device, dtype=clean.real.dtype).expand(clean.shape)

    def slopes(self, clean: Tensor, y: Tensor) -> Slopes:
        """(y - u) / v, 1 / v, 0: the quadratic is the law itself."""
        variance = self.variance(clean)
        return Slopes((y - clean) / variance, 1 / variance, torch.zeros_like(clean))

    def fourth(self, clean: Tensor) -> Tensor:
        """3 v^2, and 8 v^2 of complex samples."""
        return (8.0 if clean.is_complex() else 3.0) * self.variance(clean) ** 2

    def log_likelihood(self, clean: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """-(chi^2 + log det(2 pi Sigma)) / 2."""
        space = Space(tuple(y.shape[1:]), complex=y.is_complex())
        found = self.misfit(clean, y, mask)
        constant = self.covariance.log_det(space, mask).to(found.value.device)
        return -0.5 * (found.value + found.mean * math.log(2 * math.pi) + constant)

    def misfit(self, clean: Tensor, y: Tensor, mask: Tensor | None = None) -> Misfit:
        """Chi^2 = (y - u)^H Sigma^-1 (y - u): m degrees of freedom, variance 2 m."""
        gap = y - clean
        if self.covariance.elementwise:
            value = items(gap.abs() ** 2 / self.variance(gap), mask)
        else:
            gap = gap if mask is None else gap * mask.to(gap.device)
            value = inner(gap, self.covariance.power(gap, -1.0))
        degrees = 2.0 if y.is_complex() else 1.0
        count = items(torch.full_like(gap.real, degrees), mask)
        return Misfit(value, count, 2 * count)

    def gaussian(self, y: Tensor) -> tuple[Tensor, Covariance]:
        """Itself."""
        return y, self.covariance

    def whitened(self, residual: Tensor) -> Tensor:
        """Sigma^(-1/2) r: unit white noise, where r is a residual of the true image."""
        return self.covariance.power(residual, -0.5)

    def __repr__(self) -> str:
        """What it is, without tables."""
        c = self.covariance
        kind: Any = f"sigma={math.sqrt(c.number):g}" if c.number is not None else type(c.basis).__name__
        return f"GaussianNoise({kind})"
