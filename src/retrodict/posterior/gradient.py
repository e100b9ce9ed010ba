"""Posterior methods that differentiate the denoiser: DPS, PiGDM, TMPD and MMPS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from retrodict._check import choice
from retrodict.bases import Pixel
from retrodict.denoisers.denoiser import Estimate
from retrodict.denoisers.spread import Spread
from retrodict.posterior.law import ConditionalSpread, Factor, Root, flat_root, root_of, solve
from retrodict.posterior.method import Draw, Method, ancestral_step, drawn_step, in_precision, number_clock, spread_of

__all__ = ["Dps", "Gradient", "Jacobian", "Pigdm"]

Pullback = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Gradient(Method):
    """Methods that need J^T v, J = dD/dx_t, by one backward pass through the denoiser."""

    gradients: ClassVar[int] = 1
    steps: ClassVar[int] = 100

    def evaluated(self, x: Tensor, t: Tensor) -> tuple[Tensor, Spread | None, Pullback]:
        """D, the law of its error and v -> J^T v of each item."""
        with torch.enable_grad():
            state = x.detach().requires_grad_()
            mean, spread = self.denoiser.estimate(state, t)

        def pullback(v: Tensor) -> Tensor:
            (g,) = torch.autograd.grad(mean, state, v, retain_graph=True)
            return g

        return mean.detach(), spread, pullback


@dataclass(frozen=True, eq=False)
class Dps(Gradient):
    """Diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687).

    "norm": x_s = (ancestral step with D) - `strength` * grad_(x_t) ||y - A D||, as their code, but with the norm of
    each item by itself; residuals in the unit of y.  `strength` has no unit-free value: the norm grows with the number
    of data, so what a step does falls with it.  "theory": D' = D + (s^2/h) grad_(x_t) log N(y; A D, Sigma), which takes
    x_0 as known given x_t: gain 1 - exp(-k) instead of k/(1 + k), k the signal-to-noise ratio, and half the variance.
    "weighted": for counts, x_s = (ancestral step with D) - `strength` * grad_(x_t) sum (y - A D)^2 / (2 y), the paper's
    weights of a Poisson law (its equation 19; a count of 0 is taken as 1), which are those of the data.
    """

    strength: float = 1.0
    form: str = "norm"
    steps: ClassVar[int] = 1000

    def __post_init__(self) -> None:
        """Refuse an unknown form."""
        choice("Dps form", self.form, ("norm", "theory", "weighted"))

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One ancestral step and one gradient."""
        mean, _, pullback = self.evaluated(x, t)
        z = draw(1)[0]
        if self.form == "theory":
            c = self.conditioner
            g = pullback(c.operator.adjoint(c.residual(mean)))
            return ancestral_step(self.process, x, t, s, mean + self.process.tweedie(g, t), z)
        if self.form == "weighted":
            c = self.conditioner
            g = pullback(c.operator.adjoint(c.residual(mean)))
            return ancestral_step(self.process, x, t, s, mean, z) + self.strength * g
        residual = in_precision(self.measurement.residual(in_precision(mean, self.measurement.y)), mean)
        size = torch.linalg.vector_norm(residual.flatten(1), dim=1).reshape(-1, *[1] * (residual.ndim - 1))
        up = torch.where(size > 0, residual / torch.where(size > 0, size, 1.0), 0.0)
        g = pullback(self.measurement.operator.adjoint(up))
        return ancestral_step(self.process, x, t, s, mean, z) + self.strength * g


@dataclass(frozen=True, eq=False)
class Pigdm(Gradient):
    """Pseudo-inverse guided diffusion (Song, Vahdat, Mardani, Kautz 2023): D' = D + (s^2/h) J^T A^H u,

        (A C A^H + Sigma) u = y - A D,    C = r_t^2 I with r_t^2 = r/(1 + r), r = s^2/h^2,

    then a DDIM step with eta = 1.  That is the principled coefficient; the public code multiplies it by alpha-bar.
    Exact for data of unit variance that are white.
    """

    def covariance(self, x: Tensor, t: Tensor, spread: Spread | None) -> Factor:
        """The factor of C."""
        r = number_clock(self.process, t, "pigdm")
        return flat_root(self.process.basis, torch.where(torch.isinf(r), 1.0, r / (1 + r)))

    def mean(self, x: Tensor, t: Tensor) -> Estimate:
        """D' and the law of the error of D."""
        mean, spread, pullback = self.evaluated(x, t)
        factor, c = self.covariance(x, t, spread), self.conditioner
        g = pullback(c.operator.adjoint(c.residual(c.mean(mean, factor))))  # A^H (A C A^H + Sigma)^-1 (y - A D)
        return Estimate(mean + self.process.tweedie(g, t), spread)

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call, one solve, one gradient."""
        return ancestral_step(self.process, x, t, s, self.mean(x, t).mean, draw(1)[0])


@dataclass(frozen=True, eq=False)
class CalibratedPigdm(Pigdm):
    """`Pigdm` with the covariance that the denoiser predicts, and x_0 drawn from the conditional law."""

    style: ClassVar[str] = "calibrated"
    steps: ClassVar[int] = 16
    grid: ClassVar[str] = "logsnr"
    conditional_start: ClassVar[bool] = True

    def covariance(self, x: Tensor, t: Tensor, spread: Spread | None) -> Factor:
        """That of the predicted law."""
        return root_of(spread_of(spread))

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call, one gradient, two solves."""
        law = self.mean(x, t)
        spread = ConditionalSpread(self.conditioner, spread_of(law.spread))
        return drawn_step(self.process, x, t, s, Estimate(law.mean, spread), draw)


@dataclass(frozen=True, eq=False)
class Jacobian(Gradient):
    """Guidance with the covariance of x_0 that follows from the Jacobian, C = (s^2/h) J (exact for any data).

    `form` "full" (MMPS: Rozet et al. 2024, arXiv 2405.13712): D' = D + C A^H u, (A C A^H + Sigma) u = y - A D by
    conjugate gradients of `rounds` rounds, a backward pass each.  "diagonal" (TMPD: Boys et al. 2023, arXiv
    2310.06721): C = diag((s^2/h) J^T 1), real images.  Means are exact for Gaussian data ("diagonal": for independent
    pixels); the ancestral kernel holds too little variance at few steps.
    """

    form: str = "full"
    rounds: int = 5

    @property
    def gradients(self) -> int:  # type: ignore[override]
        """A backward pass for every product with C, at most."""
        return self.rounds + 1 if self.form == "full" else 2

    def __post_init__(self) -> None:
        """Refuse an unknown form."""
        choice("Jacobian form", self.form, ("full", "diagonal"))

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call, and a backward pass for every product with C."""
        mean, _, pullback = self.evaluated(x, t)
        c = self.conditioner

        def times(v: Tensor) -> Tensor:
            """C v, with the symmetric part that J has for an exact denoiser."""
            return self.process.tweedie(pullback(v), t)

        if self.form == "diagonal":
            variance = times(torch.ones_like(mean)).clamp_min(0.0)
            factor = Root(Pixel(tuple(mean.shape[2:])), variance.sqrt()[None])
            new = mean + times(c.operator.adjoint(c.residual(c.mean(mean, factor))))
            return ancestral_step(self.process, x, t, s, new, draw(1)[0])

        def system(u: Tensor) -> Tensor:
            return u + c.operator.forward(times(c.operator.adjoint(u)))

        u = solve(system, lambda v: v, c.residual(mean), 1e-12, self.rounds, axis=0).x
        return ancestral_step(self.process, x, t, s, mean + times(c.operator.adjoint(u)), draw(1)[0])
