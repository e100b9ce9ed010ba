"""The exact posterior of a prior that is a list: images, or Gaussians of one width, with a weight for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.bases import Basis
from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser
from retrodict.denoisers.empirical import EmpiricalDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser
from retrodict.physics.measurement import Measurement
from retrodict.physics.noise import GaussianNoise
from retrodict.posterior.law import Conditioner, Root, flat_root
from retrodict.posterior.method import Draw, Drawn, Method
from retrodict.samplers.loop import Noise, Step

__all__ = ["Enumerated", "FinitePrior", "finite_prior"]

BATCH = 64
"""Images that go through the operator together."""


class FinitePrior(NamedTuple):
    """p(x) = sum_k p_k N(x; m_k, W): log p_k `(M,)`, m_k `(M, C, *N)` and the variance W of every coefficient
    `(C|1, *K)`, all float64 (images complex128 where they are complex).
    """

    logs: Tensor
    means: Tensor
    width: Tensor

    @property
    def points(self) -> bool:
        """Whether there is nothing but the images themselves."""
        return not bool((self.width > 0).any())


def finite_prior(denoiser: Denoiser) -> FinitePrior | None:
    """The list that a denoiser is exact for, or None: `EmpiricalDenoiser`, `GaussianDenoiser` (one), and a
    `MixtureDenoiser` whose spectra are alike.
    """
    basis = denoiser.process.basis
    if isinstance(denoiser, EmpiricalDenoiser):
        count = len(denoiser.images)
        kind = torch.complex128 if basis.complex else torch.float64
        images = denoiser.images.to(dtype=kind, device=basis.device)
        width = torch.as_tensor(denoiser.width, dtype=torch.float64, device=basis.device).expand(basis.shape)
        return FinitePrior(_even(count, basis), images, width[None])
    if isinstance(denoiser, GaussianDenoiser):
        mean, variance = (_channels(table, basis) for table in denoiser.prior())
        return FinitePrior(_even(1, basis), _image(mean, basis)[None], variance.double())
    if isinstance(denoiser, MixtureDenoiser) and denoiser.law.basis == basis:
        law = denoiser.law
        if not bool((law.spectra == law.spectra[:1]).all()):
            return None
        logs = law.weights.double().log()
        return FinitePrior(logs - logs.logsumexp(0), _image(law.means[:, None], basis), law.spectra[:1].double())
    return None


def _even(count: int, basis: Basis) -> Tensor:
    return torch.full((count,), -math.log(count), dtype=torch.float64, device=basis.device)


def _channels(table: Tensor, basis: Basis) -> Tensor:
    """`(*K)` or `(C, *K)` as the second."""
    return table if table.ndim > len(basis.shape) else table[None]


def _image(table: Tensor, basis: Basis) -> Tensor:
    """Images of tables of coefficients, which may be real numbers."""
    one = torch.zeros(1, 1, *basis.size, dtype=torch.complex128 if basis.complex else torch.float64,
                      device=basis.device)  # fmt: skip
    return basis.inverse(table.to(basis.forward(one)))


@dataclass(frozen=True, eq=False)
class Enumerated(Method):
    """Exact draws from p(x | y) of a prior that is a list (`finite_prior`): no steps, no calls of the denoiser.

    For images x_k, with any operator and any law of noise that has a likelihood,

        p(x_k | y) = p_k p(y | x_k) / sum_j p_j p(y | x_j),

    in logarithms and float64; for Gaussians N(m_k, W) of one width, with Gaussian noise, whose determinants are alike,

        log p(k | y) = log p_k - (y - A m_k)^H (A W A^H + Sigma)^-1 (y - A m_k) / 2 + constant,

    and a member is a draw of k and one of N(m_k, W) given y (perturb and solve).  `weights`, `mean` and, of images,
    `sd` and `log_evidence` are those of the law itself and not of draws.  An image that the law of the noise excludes,
    as one of a negative mean of counts, has no weight.

    Raises `InputError` for another prior, images of more channels, Gaussians with noise that is not Gaussian, and data
    that no image of the list can have given.
    """

    style: ClassVar[str] = "calibrated"
    steps: ClassVar[int] = 1
    calls: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Refuse what is not a list before anything is run."""
        found = finite_prior(self.denoiser)
        if found is None:
            wanted = "EmpiricalDenoiser, GaussianDenoiser, or MixtureDenoiser with one spectrum for all"
            raise InputError("enumerated: prior", type(self.denoiser).__name__, wanted)
        shape = self.measurement.operator.domain.shape
        if found.means.shape[1] != shape[0]:
            raise InputError("enumerated: prior", f"images of {found.means.shape[1]} channels", f"{shape[0]}")
        if not found.points and not isinstance(self.measurement.law, GaussianNoise):
            law = type(self.measurement.law).__name__
            hint = "Give a prior of images alone (width=0), or use 'counted'."
            raise InputError("enumerated: noise", f"{law}, with Gaussians round the images", "Gaussian noise", hint)

    @cached_property
    @torch.inference_mode(mode=False)
    def list(self) -> FinitePrior:
        """The prior as a list."""
        found = finite_prior(self.denoiser)
        assert found is not None
        return found

    @cached_property
    @torch.inference_mode(mode=False)
    def conditioner(self) -> Conditioner:
        """The measurement as an update of Gaussian laws, in double precision."""
        return Conditioner(self._double)

    @cached_property
    def _double(self) -> Measurement:
        m = self.measurement
        y = m.y.to(dtype=torch.complex128 if m.y.is_complex() else torch.float64, device=self.list.means.device)
        return replace(m, y=y)

    @cached_property
    @torch.inference_mode(mode=False)
    def log_odds(self) -> Tensor:
        """Log p_k p(y | k) `(M,)` float64: of images with all constants, of Gaussians without those that are alike."""
        part = self._double.log_likelihood if self.list.points else self._distance
        logs = self.list.logs + torch.cat([part(x) for x in self.list.means.split(BATCH)])
        if not bool(torch.isfinite(logs.max())):
            found = "data that no image of the prior can have given, by the law of the noise"
            raise InputError("enumerated: y", found, "data of one of its images", "Look at operator, unit and noise.")
        return logs

    def _distance(self, x: Tensor) -> Tensor:
        return -0.5 * self.conditioner.squared_distance(x, self._root)

    @cached_property
    def _root(self) -> Root:
        return flat_root(self.process.basis, self.list.width[None])

    # ---- the law itself ----------------------------------------------------------------------------------------------

    @property
    def weights(self) -> Tensor:
        """P(k | y), `(M,)` float64."""
        return self.log_odds.softmax(0)

    @property
    def mean(self) -> Tensor:
        """E[x | y] `(1, C, *N)`, float64."""
        means, w = self.list.means, self.weights
        if not self.list.points:
            means = torch.cat([self.conditioner.mean(x, self._root) for x in means.split(BATCH)])
        return torch.tensordot(w.to(means), means, 1)[None]

    @property
    def sd(self) -> Tensor:
        """Standard deviation of every pixel, `(1, C, *N)` float64, per real component; of a list of images."""
        if not self.list.points:
            raise InputError("sd", "Gaussians round the images", "images alone: for others it has no closed form")
        w, gap = self.weights, (self.list.means - self.mean).abs() ** 2
        return (torch.tensordot(w, gap, 1)[None] / (1 + self.list.means.is_complex())).sqrt()

    @property
    def log_evidence(self) -> float:
        """Log p(y), of a list of images."""
        if not self.list.points:
            raise InputError("log_evidence", "Gaussians round the images", "images alone")
        return float(self.log_odds.logsumexp(0))

    # ---- draws -------------------------------------------------------------------------------------------------------

    def times(self, steps: int | None = None) -> Tensor:
        """1 and 0, whatever `steps`: there is one draw."""
        return super().times(1)

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """x_0 ~ p(x_0 | y), taken to s: there is nothing to be learned from x_t."""
        u = torch.special.ndtr(draw(1)[0].real.double().flatten(1)[:, 0])
        edges = self.weights.cumsum(0)
        k = torch.searchsorted(edges / edges[-1], u.to(edges)).clamp_max(len(edges) - 1)
        x0 = self.list.means[k]
        if not self.list.points:
            c = self.conditioner
            x0 = c.drawn(x0, draw(1 + c.extra).to(x0), 1, self._root)
        x0 = x0.to(x)
        if not bool((s > 0).any()):
            return x0
        return self.process.corrupt(x0, s, draw(1)[0])

    def run(
        self,
        seeds: Tensor,
        *,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
        noise: Noise = white,
        watch: Callable[[Step], None] | None = None,
    ) -> Drawn:
        """A member for each of `seeds`, and of images log p(y)."""
        found = super().run(seeds, steps=steps, dtype=dtype, noise=noise, watch=watch)
        return found._replace(log_evidence=self.log_evidence if self.list.points else None)
