"""`matched` for counts: the Poisson law itself, as a parabola that is laid anew at every call of the denoiser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis
from retrodict.denoisers.spread import SpectralSpread
from retrodict.physics.measurement import Measurement
from retrodict.physics.noise import GaussianNoise, Slopes
from retrodict.physics.operator import Operator
from retrodict.posterior.law import Conditioner, Factor, Solved, root_of
from retrodict.posterior.matched import Matched
from retrodict.posterior.method import Draw, ancestral_step, spread_of

__all__ = ["Counted", "LocalConditioner"]

ROUNDS, SETTLED = 20, 1e-6
"""Most rounds for the point where the law is looked at first, and the relative change at which they end."""


class _Weighted(Operator):
    """W^(1/2) A with weights W `(B, *range)` of every item."""

    def __init__(self, part: Operator, root: Tensor) -> None:
        self.inner, self.root = part, root
        self.domain, self.range = part.domain, replace(part.range, unit="1")

    def _forward(self, x: Tensor) -> Tensor:
        return self.root * self.inner.forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.root * y)


class LocalConditioner(Conditioner):
    """A measurement whose log-likelihood is a parabola in u = A x + b around clean data `clean` `(B, *range)`:

        l(u) = l'(u_0) (u - u_0) - W (u - u_0)^2 / 2,      W = -l''(u_0) >= 0,

    so that N(m, C) becomes E[x_0 | y] = m + G w, (1 + G^H A^H W A G) w = G^H A^H (l' + W (u_0 - A m - b)).  A sample
    that counted nothing has W = 0 and still pulls, with l' = -1.  `base` gives tolerance and preconditioner.
    """

    def __init__(self, base: Conditioner, clean: Tensor, slopes: Slopes | None = None) -> None:
        m = base.measurement
        self.measurement, self.tolerance, self.rounds, self.enough = m, base.tolerance, base.rounds, base.enough
        self.base, self.clean = base, clean
        self.slopes = _slopes(m, clean) if slopes is None else slopes
        self.root = self.slopes.second.sqrt()
        self.operator = _Weighted(m.operator.part, self.root)  # type: ignore[assignment]

    def gain(self, basis: Basis, like: Tensor) -> Tensor | None:
        """That of the Gaussian law beside the data: it only has to be near."""
        return self.base.gain(basis, like)

    def _note(self, found: Solved) -> None:
        self.base._note(found)

    def _pull(self, x: Tensor) -> Tensor:
        """L' + W (u_0 - A x - b)."""
        return self.slopes.first + self.slopes.second * (self.clean - self.measurement.operator.forward(x))

    def mean(self, mean: Tensor, factor: Factor) -> Tensor:
        """E[x_0 | y] for x_0 ~ N(mean, G G^H)."""
        return mean + self._moved(self.measurement.operator.part.adjoint(self._pull(mean)), factor)

    def drawn(self, mean: Tensor, z: Tensor, fields: int, factor: Factor) -> Tensor:
        """A draw of the conditional law, by one solve."""
        prior = mean + factor.forward(z[:fields])
        pulled = self._pull(prior) + self.root * self.noise(z[fields:])
        return prior + self._moved(self.measurement.operator.part.adjoint(pulled), factor)

    def bent(self, variance: Tensor) -> LocalConditioner:
        """With the third derivative: the mean of exp(l) under a Gaussian whose u has `variance` is moved by l''' v / 2.

        E[x_0 | y] = mode + V A^H (l''' diag(A V A^H)) / 2 to the order next to Laplace's (Tierney and Kadane, JASA 81,
        1986).
        """
        s = self.slopes
        return LocalConditioner(self.base, self.clean, s._replace(first=s.first + 0.5 * s.third * variance))


def _slopes(m: Measurement, clean: Tensor) -> Slopes:
    """Derivatives at clean data, 0 where nothing was measured."""
    y = m._filled().to(clean).expand_as(clean)
    found = m.law.slopes(clean, y)
    if m.mask is None:
        return found
    seen = m.mask.to(clean.device) > 0
    return Slopes(*(torch.where(seen, part, 0.0) for part in found))


@dataclass(frozen=True, eq=False)
class Counted(Matched):
    """`Matched` with the likelihood of counts itself: Poisson, Poisson with reading noise, transmission, its logarithm.

    N(D, C) for x_0 given x_t times p(y | A x_0 + b) is no Gaussian.  Its mode is found by Newton's method (`rounds` a
    step, from the mode that the Gaussian law of the prior has, found once); there the likelihood is a parabola with its
    own curvature (not that of the data, which is biased), and x_0 is drawn from what both make by perturb and solve.
    The mean is moved by the third derivative, diag(A V A^H) from `probes` draws of the error.  The narrower C is, the
    better all this holds, and it goes to 0 along the chain.  Gaussian noise: `matched` itself.

    u is kept above 5 % of the count and 0.1 % of the mean count where the law is looked at; images may be negative, as
    far as the prior lets them.  1 call and `rounds` + `probes` + 1 solves a step.
    """

    rounds: int = 1
    probes: int = 1
    steps: ClassVar[int] = 16

    def __post_init__(self) -> None:
        """Refuse noise that has no local law, before anything is run."""
        if self.rounds < 0 or self.probes < 0:
            raise InputError("counted", f"rounds {self.rounds}, probes {self.probes}", "numbers of at least 0")
        m = self.measurement
        _ = m.law.slopes(m.law.inside(m._filled(), m._filled()), m._filled())

    @property
    def gaussian_law(self) -> bool:
        """Whether the noise is Gaussian, and the parabola the law itself."""
        return isinstance(self.measurement.law, GaussianNoise)

    def clean(self, x: Tensor) -> Tensor:
        """A x + b, where the law may be looked at."""
        m = self.measurement
        u = m.operator.forward(x)
        return m.law.inside(u, m._filled().to(u).expand_as(u))

    @property
    def opening(self) -> Tensor | None:
        """A x + b of `mode`, `(1, *range)`, where the law may be looked at; None without a prior."""
        return None if self.mode is None else self.clean(self.mode)

    @cached_property
    def mode(self) -> Tensor | None:
        """The image of largest density under the Gaussian law of the prior and the counts, a MAP estimate
        `(1, *domain)` float64; None for a denoiser that knows no spectrum.
        """
        prior, basis = self.denoiser.prior(), self.process.basis
        if prior is None:
            return None
        like = self.like(1, torch.float64)
        zero = torch.zeros_like(basis.forward(like))
        middle, factor = basis.inverse(prior[0].to(zero) + zero), root_of(_law(prior[1], basis))
        x = self.conditioner.mean(middle, factor)
        for _ in range(0 if self.gaussian_law else ROUNDS):
            new = LocalConditioner(self.conditioner, self.clean(x)).mean(middle, factor)
            change, x = float((new - x).abs().max() / new.abs().max().clamp_min(1e-300)), new
            if change < SETTLED:
                break
        return x

    def local(self, mean: Tensor, factor: Factor, draw: Draw) -> LocalConditioner:
        """The measurement as it is near the posterior of x_0 ~ N(mean, G G^H)."""
        c = self.conditioner
        known = self.opening
        u = self.clean(c.mean(mean, factor)) if known is None else known.to(mean)
        u = u.expand(len(mean), *u.shape[1:])
        for _ in range(0 if self.gaussian_law else self.rounds):
            u = self.clean(LocalConditioner(c, u).mean(mean, factor))
        found = LocalConditioner(c, u)
        if self.gaussian_law or not self.probes:
            return found
        part, variance = self.measurement.operator.part, torch.zeros_like(u)
        for _ in range(self.probes):
            error = found.error(draw(factor.fields + c.extra), factor.fields, factor)
            variance = variance + part.forward(error) ** 2 / self.probes
        return found.bent(variance)

    def prior_draw(self, like: Tensor, draw: Draw) -> Tensor:
        """x_0 from the Gaussian law of the prior given y."""
        prior, basis = self.denoiser.prior(), self.process.basis
        assert prior is not None
        zero = torch.zeros_like(basis.forward(like))
        return self._draw(basis.inverse(prior[0].to(zero) + zero), root_of(_law(prior[1], basis)), draw)

    def _draw(self, mean: Tensor, factor: Factor, draw: Draw) -> Tensor:
        near = self.local(mean, factor, draw)
        return near.drawn(mean, draw(factor.fields + near.extra), factor.fields, factor)

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """x_0 ~ p(x_0 | x_t, y) with the law as it is there, then x_s ~ q(x_s | x_t, x_0)."""
        mean, spread = self.denoiser.estimate(x, t)
        x0 = self._draw(mean.to(x), root_of(spread_of(spread)), draw)
        return ancestral_step(self.process, x, t, s, x0, draw(1)[0])


def _law(variance: Tensor, basis: Basis) -> SpectralSpread:
    return SpectralSpread(basis, variance.reshape(*[1] * (2 + basis.ndim - variance.ndim), *variance.shape))
