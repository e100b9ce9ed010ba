"""The posterior denoiser of any linear operator, and the two methods that are exact on Gaussian data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Estimate, GaussianDenoiser, Observer
from retrodict.denoisers.wrappers import Wrapper
from retrodict.physics.measurement import Measurement
from retrodict.posterior.fused import FusedDenoiser
from retrodict.posterior.law import ROUNDS, ConditionalSpread, Conditioner, root_of
from retrodict.posterior.method import Draw, Method, ancestral_step, drawn_step, spread_of
from retrodict.processes.observation import Cond

__all__ = ["Fuse", "Matched", "PosteriorDenoiser"]


@dataclass(frozen=True)
class PosteriorDenoiser(Wrapper):
    """E[x_0 | x_t, y] and the law of x_0 around it, for any linear operator and noise of any covariance.

    The inner denoiser states N(D, C) for x_0 given x_t; the measurement updates it,

        mean = D + C A^H (A C A^H + Sigma)^-1 (y - A D),   covariance = C - C A^H (A C A^H + Sigma)^-1 A C,

    by conjugate gradients with a spectral preconditioner, and the law is drawn from by perturb and solve.  C is the
    covariance that the denoiser itself predicts: diagonal in its basis, or local and per band.  For Gaussian data both
    are exact, so rule "matched" samples the posterior at any number of calls, one included, with any operator
    (inverse spec, identity I4 and section 4.5; Finzi et al. 2023; Rozet et al. 2024 for means with C from a Jacobian).
    One call of the inner denoiser and two solves a step, no gradients.
    """

    measurement: Measurement
    tolerance: float | None = None
    rounds: int = ROUNDS

    @cached_property
    def conditioner(self) -> Conditioner:
        """The measurement as an update."""
        return Conditioner(self.measurement, self.tolerance, self.rounds)

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """The updated mean, and the law that draws of x_0 are taken from."""
        mean, spread = self.inner.estimate(xt, t, cond)
        spread = spread_of(spread)
        c = self.conditioner
        return Estimate(c.mean(mean, root_of(spread)), ConditionalSpread(c, spread))

    def on(self, size: Sequence[int]) -> Self:
        """Itself: a measurement is of one grid."""
        if tuple(size) != self.process.basis.size:
            raise InputError("size", tuple(size), f"{self.process.basis.size}, the grid of the measurement")
        return self


@dataclass(frozen=True, eq=False)
class Matched(Method):
    """`PosteriorDenoiser` with x_0 drawn from its law at every step: exact on Gaussian data, the default."""

    style: ClassVar[str] = "calibrated"
    grid: ClassVar[str] = "logsnr"
    steps: ClassVar[int] = 16
    conditional_start: ClassVar[bool] = True

    @cached_property
    def updated(self) -> PosteriorDenoiser:
        """The posterior denoiser."""
        return PosteriorDenoiser(self.denoiser, self.measurement)

    @cached_property
    def conditioner(self) -> Conditioner:
        """That of the posterior denoiser."""
        return self.updated.conditioner

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """x_0 ~ p(x_0 | x_t, y), then x_s ~ q(x_s | x_t, x_0)."""
        mean, spread = self.denoiser.estimate(x, t)
        spread, c = spread_of(spread), self.conditioner
        x0 = c.drawn(mean, draw(spread.fields + c.extra), spread.fields, root_of(spread))
        return ancestral_step(self.process, x, t, s, x0, draw(1)[0])


@dataclass(frozen=True, eq=False)
class Fuse(Matched):
    """`FusedDenoiser` with x_0 drawn from its law: one call a step and nothing else, exact for any data at many steps.

    Where process, operator and noise are diagonal in one basis, for denoisers that answer for any observation.
    """

    @cached_property
    def fused(self) -> FusedDenoiser:
        """The fused denoiser."""
        if not isinstance(self.denoiser, Observer):
            raise InputError("fuse", type(self.denoiser).__name__, "a denoiser that answers for any observation")
        return FusedDenoiser(self.denoiser, self.measurement)

    def __post_init__(self) -> None:
        """Refuse what cannot be fused before anything is run."""
        _ = self.fused

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call at the fused observation."""
        image = self.fused.image.to(x).expand_as(x)
        return drawn_step(self.process, x, t, s, self.fused.estimate(x, t, Cond(image)), draw)

    def twin(self) -> GaussianDenoiser | None:
        """The Gaussian twin, which the gate judges."""
        return self.fused.gaussian()
