"""Mean and variance per frequency of a stationary Gaussian image given a measurement: by solves, or by matrices."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from retrodict._random import member_seeds
from retrodict.bases import Fourier
from retrodict.physics.measurement import Measurement
from retrodict.posterior.law import Conditioner, flat_root
from retrodict.posterior.method import noise_of

__all__ = ["DENSE", "DenseMoments", "PosteriorMoments", "SolvedMoments"]

DENSE = 2500
"""Real unknowns up to which the system is a matrix: 50 MB, and seconds a factorisation."""

BATCH = 64
"""Unit images that go through the operator together."""


class PosteriorMoments(Protocol):
    """What a round of a fit asks: the law N(mean, L) in, the posterior out.  `error`: of the last answer's solves, root
    mean square in deviations of the posterior.
    """

    error: float

    def __call__(self, mean: float, power: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | y] `(1, 1, *N)` and its variance per coefficient `(*K)`, float64."""
        ...


class SolvedMoments:
    """By conjugate gradients of at most `rounds`, to an error of `enough` deviations: the mean, and `members` draws
    whose scatter is the variance.  Random numbers are the same at every call.
    """

    def __init__(
        self,
        measurement: Measurement,
        like: Tensor,
        basis: Fourier,
        members: int,
        seed: int,
        rounds: int,
        enough: float,
    ) -> None:
        self.conditioner, self.basis = Conditioner(measurement, None, rounds, enough), basis
        self.like, self.error = like.expand(1 + members, *like.shape[1:]), 0.0
        z = noise_of(self.like, member_seeds(seed, 0, 1 + members), 0)(1 + self.conditioner.extra).clone()
        z[:, 0] = 0.0  # its draw is the mean
        self.z = z

    def __call__(self, mean: float, power: Tensor) -> tuple[Tensor, Tensor]:
        """One batch of solves."""
        x = self.conditioner.drawn(self.like + mean, self.z, 1, flat_root(self.basis, power[None, None]))
        self.error = self.conditioner.error_left
        return x[:1], self.basis.energy(self.basis.forward(x[1:] - x[:1])).mean((0, 1))


class DenseMoments:
    """Exact, for at most `DENSE` real unknowns: with G the root of the law in the Fourier basis,

        S = 1 + G A^H Sigma^-1 A G = R R^T,    V = G S^-1 G = W^T W,  W = R^-1 G,

    the posterior covariance is V, whose variance per coefficient is the energy of the rows of W.
    """

    error = 0.0

    def __init__(self, measurement: Measurement, like: Tensor, basis: Fourier) -> None:
        self.conditioner, self.basis, self.like = Conditioner(measurement), basis, like
        count = like[0].numel()
        self.unit = torch.eye(count, dtype=torch.float64, device=like.device)
        self.images = self.unit.reshape(-1, *like.shape[1:])
        gram = self.conditioner.operator.gram
        self.gram = torch.cat([gram(part).flatten(1) for part in self.images.split(BATCH)])

    def __call__(self, mean: float, power: Tensor) -> tuple[Tensor, Tensor]:
        """One factorisation."""
        basis, c = self.basis, self.conditioner
        root = basis.inverse(power.sqrt() * basis.forward(self.images)).flatten(1)
        system = root @ self.gram @ root
        factor = torch.linalg.cholesky(self.unit + 0.5 * (system + system.T))
        rows = torch.linalg.solve_triangular(factor, root, upper=False)
        right = c.operator.adjoint(c.residual(self.like + mean)).flatten()
        x = mean + (rows.T @ (rows @ right)).reshape(self.like.shape)
        return x, basis.energy(basis.forward(rows.reshape(self.images.shape))).sum((0, 1))

    @staticmethod
    def serves(measurement: Measurement) -> bool:
        """Whether images are real and few enough numbers."""
        domain = measurement.operator.domain
        return not domain.complex and domain.count <= DENSE
