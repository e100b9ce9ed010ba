"""The Gaussian and Gaussian-mixture test bed: laws with exact denoiser, score, evidence and posterior at every t.

Everything is per coefficient of the basis of a process, in float64 where the inputs are (inverse spec, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis
from retrodict.denoisers.denoiser import Estimate, GaussianDenoiser, Observer
from retrodict.denoisers.spread import SpectralSpread
from retrodict.processes.observation import Cond, Moments, log_density, wiener
from retrodict.processes.process import Process

__all__ = ["GaussianLaw", "MixtureDenoiser", "MixtureLaw"]


@dataclass(frozen=True)
class GaussianLaw:
    """Data with coefficients N(mean, spectrum): `mean`, `spectrum` `(*K)`, or `(B, C, *K)` where items differ."""

    basis: Basis
    mean: Tensor
    spectrum: Tensor

    def posterior(self, y: Tensor, measured: Moments) -> GaussianLaw:
        """Law of u_0 given coefficients y `(B, C, *K)` of an observation: Kalman update per coefficient."""
        gain, variance = wiener(measured, self.spectrum)
        return GaussianLaw(self.basis, self.mean + gain * (y - measured.h * self.mean), variance)

    def draw(self, z: Tensor) -> Tensor:
        """Image `(B, C, *N)` from white noise of the same shape."""
        return self.basis.inverse(self.mean + self.spectrum.sqrt().to(z.real) * self.basis.forward(z))

    def log_evidence(self, y: Tensor, measured: Moments) -> Tensor:
        """Log p(y) `(B,)` of coefficients y."""
        total = measured.h**2 * self.spectrum + measured.s2
        return log_density(self.basis, y - measured.h * self.mean, total)


@dataclass(frozen=True)
class MixtureLaw:
    """Mixture of `GaussianLaw`s with common basis: weights `(M,)`, means and spectra `(M, *K)`."""

    basis: Basis
    weights: Tensor
    means: Tensor
    spectra: Tensor

    def components(self) -> list[GaussianLaw]:
        """The single laws."""
        return [GaussianLaw(self.basis, m, L) for m, L in zip(self.means, self.spectra, strict=True)]

    def posterior(self, y: Tensor, measured: Moments) -> tuple[Tensor, list[GaussianLaw]]:
        """Posterior weights `(B, M)` and updated components given coefficients y `(B, C, *K)`."""
        logs = [p.log() + law.log_evidence(y, measured) for p, law in zip(self.weights, self.components(), strict=True)]
        return torch.stack(logs, 1).softmax(1), [law.posterior(y, measured) for law in self.components()]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of every coefficient, `(*K)`."""
        share = self.weights.reshape(-1, *[1] * (self.means.ndim - 1))
        mean = (share * self.means).sum(0)
        return mean, (share * (self.spectra + self.basis.energy(self.means - mean))).sum(0)


@dataclass(frozen=True)
class MixtureDenoiser(Observer):
    """Exact denoiser, covariance diagonal and score of a `MixtureLaw` at every t, external measurement included."""

    process: Process
    law: MixtureLaw

    @property
    def modes(self) -> int:
        """Those of the law."""
        return len(self.law.weights)

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of every coefficient."""
        return self.law.moments()

    def gaussian(self) -> GaussianDenoiser:
        """The exact denoiser of Gaussian data of the same mean and variance."""
        return GaussianDenoiser(self.process, *self.law.moments())

    def on(self, size: Sequence[int]) -> MixtureDenoiser:
        """Itself; a law in tables cannot go to another grid."""
        if tuple(size) != self.process.basis.size:
            raise InputError("size", tuple(size), f"{self.process.basis.size}, the grid of the law")
        return self

    def to(self, device: str | torch.device) -> MixtureDenoiser:
        """The same denoiser on another device."""
        tables = (x.to(device) for x in (self.law.weights, self.law.means, self.law.spectra))
        return replace(self, process=self.process.to(device), law=MixtureLaw(self.law.basis.to(device), *tables))

    def _updated(self, u: Tensor, m: Moments, cond: Cond) -> tuple[Tensor, list[GaussianLaw]]:
        """Weights `(B, M)` and components given the state, and first the measurement where it is shown."""
        logs, laws = self.law.weights.log()[None].expand(len(u), -1), self.law.components()
        seen = self.process.measurement if self.process.pairing.sees else None
        observations = [(u, m)]
        if seen is not None and cond.image is not None:
            observations.insert(0, (self.process.basis.forward(cond.image), seen))
        for value, law in observations:
            logs = logs + torch.stack([part.log_evidence(value, law) for part in laws], 1)
            laws = [part.posterior(value, law) for part in laws]
        return logs.softmax(1), laws

    def observe(self, u: Tensor, m: Moments, cond: Cond = Cond()) -> Estimate:
        """Mean and per-coefficient variance sum_k r_k (v_k + |mu_k|^2) - |mean|^2 (off-diagonals are left out)."""
        weights, laws = self._updated(u, m, cond)
        share = [weights[:, k].reshape(-1, *([1] * (u.ndim - 1))) for k in range(len(laws))]
        mean = sum(s * law.mean for s, law in zip(share, laws, strict=True))
        basis = self.process.basis
        spread = sum(s * (law.spectrum + basis.energy(law.mean - mean)) for s, law in zip(share, laws, strict=True))
        return Estimate(basis.inverse(mean), SpectralSpread(basis, spread))  # type: ignore[arg-type]

    def score(self, xt: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t in coefficients: (h D - w) / s^2 (Tweedie)."""
        m = self.process.moments(t)
        w = self.process.to_coefficients(xt, t)
        return (m.h * self.process.basis.forward(self(xt, t)) - w) / m.s2
