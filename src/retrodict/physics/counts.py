"""Laws of counted quanta: Poisson, transmission through an object, and its logarithm at low dose."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.covariance import Covariance
from retrodict.physics.geometry import FanBeam, ParallelBeam
from retrodict.physics.noise import Misfit, Noise, Seeds, Slopes, generator, noise_like
from retrodict.physics.operator import Space

__all__ = ["LogPoissonNoise", "PoissonNoise", "TransmissionNoise", "bow_tie"]

LOW, QUIET = 0.05, 1e-3
"""Least expected count at which the law of a count is looked at, over the count itself and over the mean of all."""

TRUSTED = 20.0
"""Expected counts above which a Gaussian stands in for the logarithm of a Poisson number."""


def bow_tie(
    geometry: ParallelBeam | FanBeam, dose: float, radius: float, *, water: float = 0.02, strength: float = 1.0
) -> Tensor:
    """Counts without an object, `(bins,)`, behind a bow-tie filter made for a cylinder of water of `radius` mm.

    A ray s mm from the axis has the path L(s) = 2 sqrt(radius^2 - s^2) in the cylinder, and the filter takes from it
    what the cylinder does not: I0(s) = dose exp(-strength water (L(0) - L(s))).  With `strength` 1 the cylinder casts a
    flat shadow; 0 is no filter.  `water` in 1/mm.
    """
    for name, value in (("dose", dose), ("radius", radius), ("water", water)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(name, value, "a positive number")
    if not 0 <= strength <= 1:
        raise InputError("strength", strength, "0 (no filter) to 1 (a flat shadow)")
    s = geometry.positions()
    if isinstance(geometry, FanBeam):
        s = geometry.source * geometry.fan().sin()
    path = 2 * (radius**2 - s**2).clamp_min(0).sqrt()
    return dose * torch.exp(-strength * water * (2 * radius - path))


def _number(name: str, value: Tensor | float, least: float, strict: bool = False) -> Tensor:
    table = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    if not bool(torch.isfinite(table).all()) or not bool(((table > least) if strict else (table >= least)).all()):
        raise InputError(
            name, "a value that is too small, NaN or infinite", f"values {'above' if strict else 'from'} {least:g}"
        )
    return table


class PoissonNoise(Noise):
    """y = gain N + e, N ~ Poisson(u / gain), e ~ N(0, electronic^2): counted quanta and the noise of the reading.

    u is the expected signal (in counts, for a gain of 1), at least 0.  Mean u, variance gain u + electronic^2.  With
    electronic noise the density is that of the shifted Poisson number (y + electronic^2 / gain) / gain of mean
    (u + electronic^2 / gain) / gain, which has the same mean and variance (Snyder et al., J. Opt. Soc. Am. A 10, 1993);
    without it the law is exact, a probability of every count.
    """

    real_only: ClassVar[bool] = True

    def __init__(self, gain: float = 1.0, electronic: float = 0.0, unit: str | None = None) -> None:
        if not (math.isfinite(gain) and gain > 0) or not (math.isfinite(electronic) and electronic >= 0):
            raise InputError("gain, electronic", (gain, electronic), "a positive gain, and a deviation of at least 0")
        self.gain, self.electronic = float(gain), float(electronic)
        self.unit = self.clean_unit = unit

    @property
    def _shift(self) -> float:
        return (self.electronic / self.gain) ** 2

    def _mean(self, clean: Tensor) -> Tensor:
        """Of the shifted Poisson number."""
        return clean / self.gain + self._shift

    def sample(self, clean: Tensor, seeds: Seeds, *, step: int = 0) -> Tensor:
        """One draw of every item."""
        if not bool((clean >= 0).all()):
            raise InputError("clean", f"an expected count of {float(clean.min()):.3g}", "values of at least 0")
        if len(seeds) != len(clean):
            raise InputError("seeds", f"{len(seeds)} seeds", f"{len(clean)}, one for every item")
        rate = (clean.double() / self.gain).cpu()
        drawn = [torch.poisson(r, generator(int(s), "counts", step)) for r, s in zip(rate, seeds, strict=True)]
        y = self.gain * torch.stack(drawn).to(clean)
        return y if self.electronic == 0 else y + self.electronic * noise_like(clean, seeds, "electronic", step)

    def density(self, clean: Tensor, y: Tensor) -> Tensor:
        """K log l - l - log Gamma(k + 1) of the shifted count k and mean l."""
        count, mean = self._mean(y), self._mean(clean)
        known = torch.special.xlogy(count, mean) - mean - torch.lgamma(count.clamp_min(0) + 1)
        if self.electronic:  # readings are real numbers, and dy = gain dk
            known = known - math.log(self.gain)
        return torch.where((mean >= 0) & (count >= 0), known, -math.inf)

    def score(self, clean: Tensor, y: Tensor) -> Tensor:
        """(k / l - 1) / gain."""
        return (self._mean(y) / self._mean(clean) - 1) / self.gain

    def slopes(self, clean: Tensor, y: Tensor) -> Slopes:
        """(k / l - 1) / g, k / (l g)^2, 2 k / (l g)^3, of k log l - l; a reading below 0 is no count."""
        count, mean = self._mean(y).clamp_min(0), self._mean(clean)
        scale = mean * self.gain
        return Slopes(self.score(clean, y), count / scale**2, 2 * count / scale**3)

    def inside(self, clean: Tensor, y: Tensor) -> Tensor:
        """U, where it is above 5 % of the count and 0.1 % of the mean of all counts of the item."""
        level = y.clamp_min(0).flatten(1).mean(1).reshape(-1, *[1] * (y.ndim - 1))
        return torch.maximum(clean, torch.maximum(LOW * y, QUIET * level + self.gain * 1e-6))

    def variance(self, clean: Tensor) -> Tensor:
        """Gain u + electronic^2; a mean of no count at all is taken as one, since no count says no more."""
        return self.gain * clean.clamp_min(0 if self.electronic else self.gain) + self.electronic**2

    def fourth(self, clean: Tensor) -> Tensor:
        """3 v^2 + gain^3 u: a Poisson number has the fourth cumulant l."""
        return 3 * self.variance(clean) ** 2 + self.gain**3 * clean.clamp_min(0)

    def valid(self, y: Tensor) -> Tensor:
        """Share of samples with more than 20 counts."""
        return (self._mean(y) > TRUSTED).double().flatten(1).mean(1)


class TransmissionNoise(Noise):
    """Counts behind an object: y = N + e, N ~ Poisson(I0 exp(-p) + r), e ~ N(0, electronic^2), p line integrals.

    u = p = A x.  `dose` I0 are the counts of every ray without an object (a number, or `(bins,)` such as `bow_tie`, or
    a sinogram), `background` r the expected counts of scatter and dark current, `electronic` the deviation of the
    reading in counts.  log p = N log l - l + ..., l = I0 exp(-p) + r; d log p / dp = (N / l - 1)(-I0 exp(-p)), which
    for r = 0 is I0 exp(-p) - N.
    """

    real_only: ClassVar[bool] = True
    clean_unit = "1"
    unit = "counts"

    def __init__(self, dose: Tensor | float, *, background: Tensor | float = 0.0, electronic: float = 0.0) -> None:
        self.dose = _number("dose", dose, 0.0, strict=True)
        self.background = _number("background", background, 0.0)
        self.counts = PoissonNoise(1.0, electronic)

    @property
    def electronic(self) -> float:
        """Deviation of the reading in counts."""
        return self.counts.electronic

    def check(self, space: Space, where: str = "noise") -> None:
        """Refuse a dose of another detector."""
        super().check(space, where)
        for name in ("dose", "background"):
            table = getattr(self, name)
            try:
                same = torch.broadcast_shapes(table.shape, space.shape) == torch.Size(space.shape)
            except RuntimeError:
                same = False
            if not same:
                raise InputError(f"{where} {name}", tuple(table.shape), f"a number, or one of the rays {space.shape}")

    def through(self, clean: Tensor) -> Tensor:
        """I0 exp(-p), the expected counts through the object."""
        return self.dose.to(clean) * torch.exp(-clean)

    def mean(self, clean: Tensor) -> Tensor:
        """I0 exp(-p) + r."""
        return self.through(clean) + self.background.to(clean)

    def sample(self, clean: Tensor, seeds: Seeds, *, step: int = 0) -> Tensor:
        """Counts of every ray."""
        return self.counts.sample(self.mean(clean), seeds, step=step)

    def density(self, clean: Tensor, y: Tensor) -> Tensor:
        """That of the counts."""
        return self.counts.density(self.mean(clean), y)

    def score(self, clean: Tensor, y: Tensor) -> Tensor:
        """-(I0 exp(-p)) (N / l - 1)."""
        return -self.through(clean) * self.counts.score(self.mean(clean), y)

    def slopes(self, clean: Tensor, y: Tensor) -> Slopes:
        """T - k q, T - k q (1 - q), T - k q (1 - q)(1 - 2 q), with T = I0 exp(-p), q = T / l, of k log l - l.

        k and l are the (shifted) count and its mean; with r = 0 all are T but the first, T - N.
        """
        through = self.through(clean)
        count = self.counts._mean(y)
        share = through / self.counts._mean(self.mean(clean))
        bent = count * share * (1 - share)
        return Slopes(through - count * share, (through - bent).clamp_min(0), through - bent * (1 - 2 * share))

    def variance(self, clean: Tensor) -> Tensor:
        """Of the counts."""
        return self.counts.variance(self.mean(clean))

    def fourth(self, clean: Tensor) -> Tensor:
        """Of the counts."""
        return self.counts.fourth(self.mean(clean))

    def logarithm(self, y: Tensor, least: float = 1.0) -> Tensor:
        """-log(max(N - r, least) / I0): line integrals of the counts."""
        net = (y - self.background.to(y)).clamp_min(least)
        return (self.dose.to(y) / net).log()

    def gaussian(self, y: Tensor) -> tuple[Tensor, Covariance]:
        """The logarithm, with the variance (I0 exp(-p) + r + electronic^2) / (I0 exp(-p))^2."""
        p = self.logarithm(y)
        return p, Covariance(self.variance(p) / self.through(p) ** 2)

    def valid(self, y: Tensor) -> Tensor:
        """Share of rays with more than 20 counts above the background."""
        return ((y - self.background.to(y)) > TRUSTED).double().flatten(1).mean(1)


class LogPoissonNoise(Noise):
    """Line integrals as a low-dose scan gives them: y = -log(max(N - r, least) / I0), N as of `TransmissionNoise`.

    Where N - r > `least` the density is that of the counts times dN/dy = N - r; at the end, y = log(I0 / least), it is
    log P(N - r <= least), a probability.  Mean p + 1 / (2 I0 exp(-p)), variance 1 / (I0 exp(-p)) to first order, good
    above 20 counts; a misfit is counted in N, where it has no such bias.
    """

    real_only: ClassVar[bool] = True
    clean_unit = "1"
    unit = "1"

    def __init__(
        self,
        dose: Tensor | float,
        *,
        background: Tensor | float = 0.0,
        electronic: float = 0.0,
        least: float = 1.0,
    ) -> None:
        self.transmission = TransmissionNoise(dose, background=background, electronic=electronic)
        self.least = float(_number("least", least, 0.0, strict=True))

    def check(self, space: Space, where: str = "noise") -> None:
        """Refuse a dose of another detector."""
        self.transmission.check(space, where)

    def counts(self, y: Tensor) -> Tensor:
        """N = I0 exp(-y) + r."""
        return self.transmission.mean(y)

    def _ended(self, y: Tensor) -> Tensor:
        """Where the counts were at most `least`."""
        end = (self.transmission.dose.to(y) / self.least).log()
        return y >= end - 16 * torch.finfo(y.dtype).eps * end.abs().clamp_min(1)

    def sample(self, clean: Tensor, seeds: Seeds, *, step: int = 0) -> Tensor:
        """One draw of every item."""
        return self.transmission.logarithm(self.transmission.sample(clean, seeds, step=step), self.least)

    def _limit(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Shape and mean of P(N - r <= least) = Q(shape, mean), of the shifted Poisson number."""
        shift = self.transmission.counts._shift
        end = self.transmission.background.to(clean) + self.least
        # whole numbers end at the last of them, readings with noise half way to the next
        shape = end.floor() + 1 if shift == 0 else end + shift + 0.5
        mean = self.transmission.mean(clean) + shift
        return shape.expand_as(mean), mean

    def density(self, clean: Tensor, y: Tensor) -> Tensor:
        """That of N times dN/dy, or of all N that end there."""
        within = self.transmission.density(clean, self.counts(y)) + self.transmission.through(y).log()
        return torch.where(self._ended(y), torch.special.gammaincc(*self._limit(clean)).log(), within)

    def score(self, clean: Tensor, y: Tensor) -> Tensor:
        """That of N, or at the end d log Q(a, l) / dp = I0 exp(-p) l^(a - 1) exp(-l) / (Gamma(a) Q)."""
        shape, mean = self._limit(clean)
        log_peak = torch.special.xlogy(shape - 1, mean) - mean - torch.lgamma(shape)
        ended = self.transmission.through(clean) * log_peak.exp() / torch.special.gammaincc(shape, mean)
        return torch.where(self._ended(y), ended, self.transmission.score(clean, self.counts(y)))

    def slopes(self, clean: Tensor, y: Tensor) -> Slopes:
        """Those of the counts: y is a function of them, and where it ended they are taken as `least`."""
        return self.transmission.slopes(clean, self.counts(y))

    def variance(self, clean: Tensor) -> Tensor:
        """(I0 exp(-p) + r + electronic^2) / (I0 exp(-p))^2, to first order."""
        return self.transmission.variance(clean) / self.transmission.through(clean) ** 2

    def fourth(self, clean: Tensor) -> Tensor:
        """To first order, as of the counts."""
        return self.transmission.fourth(clean) / self.transmission.through(clean) ** 4

    def misfit(self, clean: Tensor, y: Tensor, mask: Tensor | None = None) -> Misfit:
        """In counts: sum (N - l)^2 / Var N."""
        return self.transmission.misfit(clean, self.counts(y), mask)

    def valid(self, y: Tensor) -> Tensor:
        """Share of rays with more than 20 counts."""
        return (self.transmission.through(y) > TRUSTED).double().flatten(1).mean(1)
