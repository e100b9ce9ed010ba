"""Data of independent heavy-tailed or sparse numbers: scale mixtures of Gaussians and their exact denoiser.

A number u ~ sum_k p_k N(0, v_k) given an observation h u + s z is a mixture again, in closed form: mean, variance and
likelihood at every t (Andrews and Mallows 1974, for which laws are such mixtures).  Laplace and Student-t laws have a
density of scales in place of weights; the trapezoidal rule in the logarithm of the scale turns it into weights.  Log
densities are then those of the formulas to 0.002 out to 12 (Laplace) or 60 (Student-t) scales.  Samples, densities and
denoisers are all of the mixture, so they agree with each other exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Pixel
from retrodict.denoisers.denoiser import Estimate, GaussianDenoiser, Observer
from retrodict.denoisers.spread import SpectralSpread
from retrodict.processes.observation import Cond, Moments, fuse
from retrodict.processes.process import Process

__all__ = ["IndependentDenoiser", "ScaleMixture"]

STEP = 0.5
"""Distance of nodes in the logarithm of the variance."""


@dataclass(frozen=True)
class ScaleMixture:
    """The law sum_k p_k N(0, v_k) of a number: `weights` and `variances` `(M,)` float64; a variance of 0 is an atom."""

    weights: Tensor
    variances: Tensor

    def __post_init__(self) -> None:
        """Refuse what is no law."""
        p, v = self.weights, self.variances
        if p.ndim != 1 or p.shape != v.shape or p.dtype != torch.float64 or v.dtype != torch.float64:
            found = f"shapes {tuple(p.shape)}, {tuple(v.shape)} of {p.dtype}, {v.dtype}"
            raise InputError("scale mixture", found, "weights and variances, one float64 vector each, as long")
        if not bool((p >= 0).all()) or abs(float(p.sum()) - 1) > 1e-9:
            raise InputError("scale mixture weights", f"sum {float(p.sum()):g}", "at least 0, with sum 1")
        if not bool((v >= 0).all()) or not bool(torch.isfinite(v).all()):
            raise InputError("scale mixture variances", f"lowest {float(v.min()):g}", "finite numbers from 0")

    @classmethod
    def gaussian(cls, variance: float) -> ScaleMixture:
        """N(0, variance)."""
        _positive("variance", variance)
        one = torch.ones(1, dtype=torch.float64, device="cpu")
        return cls(one, variance * one)

    @classmethod
    def laplace(cls, scale: float = 1.0) -> ScaleMixture:
        """The density exp(-|u|/scale)/(2 scale): v is exponential with mean 2 scale^2."""
        _positive("scale", scale)
        mean = 2 * scale**2
        return cls(*_nodes(lambda x: x - x.exp(), -20.0, 4.5, mean))

    @classmethod
    def student(cls, freedom: float, scale: float = 1.0) -> ScaleMixture:
        """Student's t of `freedom` degrees of freedom times scale: freedom scale^2 / v has the law chi^2 of them.

        Tails end where one number in 10^7 lies.
        """
        _positive("freedom", freedom)
        _positive("scale", scale)
        half = 0.5 * freedom
        end = (17.0 - math.lgamma(half + 1)) / half
        return cls(*_nodes(lambda x: -half * x - (-x).exp(), -5.0, end, half * scale**2))

    @classmethod
    def spike(cls, share: float, slab: ScaleMixture) -> ScaleMixture:
        """0 but for a `share` of the numbers, which have the law `slab`: with a Laplace slab, Bernoulli-Laplace."""
        if not 0 < share < 1:
            raise InputError("share", share, "a number between 0 and 1")
        p = torch.cat([slab.weights.new_tensor([1 - share]), share * slab.weights])
        return cls(p, torch.cat([slab.variances.new_zeros(1), slab.variances]))

    @property
    def variance(self) -> float:
        """That of a number; that of a Student-t of at most 2 degrees of freedom is as large as its nodes reach."""
        return float(self.weights @ self.variances)

    def to(self, device: str | torch.device) -> ScaleMixture:
        """The same law on another device."""
        return ScaleMixture(self.weights.to(device), self.variances.to(device))

    def sample(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Numbers of a shape, float64."""
        count = math.prod(shape)
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, dtype=torch.float64, device=self.weights.device, generator=generator)
        return (self.variances[k].sqrt() * z).reshape(tuple(shape))

    def shares(self, w: Tensor, h: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """Log likelihoods of w = h u + s z under each node with its weight, and their total variances, `(..., M)`."""
        total = (h**2)[..., None] * self.variances + s2[..., None]
        own = self.weights.log() - 0.5 * (2 * math.pi * total).log()
        logs = own - w[..., None].square() * (0.5 / total)
        return logs, total

    def log_density(self, u: Tensor, atom: float = 0.0) -> Tensor:
        """Log density of numbers; with an atom at 0, its log mass where |u| <= atom, and the rest elsewhere."""
        solid = self.variances > 0
        law = ScaleMixture(self.weights[solid] / self.weights[solid].sum(), self.variances[solid])
        zero = torch.zeros_like(u)
        logs = law.shares(u, zero + 1, zero)[0].logsumexp(-1)
        mass = self.weights[~solid].sum()
        if bool(solid.all()):
            return logs
        return torch.where(u.abs() <= atom, mass.log(), logs + (1 - mass).log())

    def posterior(self, w: Tensor, h: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of u given w = h u + s z, tensors that broadcast to w."""
        logs, total = self.shares(w, h, s2)
        r = logs.softmax(-1)
        gain = h[..., None] * self.variances / total
        middle = (r * gain).sum(-1)
        within = (r * (self.variances * s2[..., None] / total)).sum(-1)
        return middle * w, within + (r * (gain - middle[..., None]).square()).sum(-1) * w.square()


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise InputError(name, value, "a positive number")


def _nodes(log_density: Callable[[Tensor], Tensor], low: float, high: float, unit: float) -> tuple[Tensor, Tensor]:
    """Weights and variances unit * e^x of the trapezoidal rule for a density of x = log(v / unit), not normalised."""
    x = torch.arange(low, high + STEP, STEP, dtype=torch.float64, device="cpu")
    return log_density(x).softmax(0), unit * x.exp()


@dataclass(frozen=True)
class IndependentDenoiser(Observer):
    """Exact E[x_0 | x_t] and variance for images whose pixels are independent and have one law.

    `process` is on the `Pixel` basis: increments of a Levy process, coefficients of a sparse signal.  Its error law is
    not Gaussian, but coefficients are not coupled, so the variances are all of its covariance.
    `width`: the variance that a prior is said to have where the law has none (Student-t of at most 2 degrees of
    freedom); starts and grids are made with it, answers are not.
    """

    process: Process
    law: ScaleMixture
    width: float | None = None

    def __post_init__(self) -> None:
        """Refuse another basis, in which they would not be independent."""
        if not isinstance(self.process.basis, Pixel):
            raise InputError("independent denoiser", type(self.process.basis).__name__, "a process on the Pixel basis")

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of every pixel."""
        basis = self.process.basis
        level = self.law.variance if self.width is None else self.width
        table = torch.full(basis.shape, level, dtype=torch.float64, device=basis.device)
        return torch.zeros_like(table), table

    def gaussian(self) -> GaussianDenoiser:
        """The exact denoiser of Gaussian data of the same mean and variance."""
        return GaussianDenoiser(self.process, *self.prior())

    def on(self, size: Sequence[int]) -> IndependentDenoiser:
        """The same law on another grid."""
        return replace(self, process=self.process.on(tuple(size)))

    def to(self, device: str | torch.device) -> IndependentDenoiser:
        """The same denoiser on another device."""
        return replace(self, process=self.process.to(device), law=self.law.to(device))

    def observe(self, u: Tensor, m: Moments, cond: Cond = Cond()) -> Estimate:
        """Mean and variance of every pixel given one observation, and first the measurement where it is shown."""
        seen = self.process.measurement if self.process.pairing.sees else None
        if seen is not None and cond.image is not None:
            law = Moments(*(x.reshape(*[1] * (u.ndim - x.ndim), *x.shape) for x in seen))
            u, m = fuse(u, m, self.process.basis.forward(cond.image), law)
        mean, variance = self.law.posterior(u, m.h.to(u), m.s2.to(u))
        return Estimate(mean, SpectralSpread(self.process.basis, variance))
