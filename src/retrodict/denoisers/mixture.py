"""The Gaussian and Gaussian-mixture test bed: laws with exact denoiser, score, evidence and posterior at every t.

Everything is per coefficient of the basis of a process, in float64 where the inputs are (inverse spec, section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict.bases import Basis
from retrodict.denoisers.denoiser import Estimate, SpectralSpread
from retrodict.processes.process import Cond, Gaussian, Process, ratio, wiener

__all__ = ["GaussianLaw", "MixtureDenoiser", "MixtureLaw"]


def log_density(basis: Basis, difference: Tensor, variance: Tensor) -> Tensor:
    """Log N(difference; 0, variance) `(B,)` of coefficients `(B, C, *K)`: half-spectrum weights count each real
    degree of freedom once (structured spec, section 1).
    """
    weight = basis.multiplicity()
    energy = difference.abs() ** 2 / variance + torch.log(2 * math.pi * variance)
    return -0.5 * (weight * energy).flatten(1).sum(1)


@dataclass(frozen=True)
class GaussianLaw:
    """Data with coefficients N(mean, spectrum): `mean`, `spectrum` `(*K)`."""

    basis: Basis
    mean: Tensor
    spectrum: Tensor

    def posterior(self, y: Tensor, measured: Gaussian) -> GaussianLaw:
        """Law of u_0 given coefficients y `(B, C, *K)` of a measurement: Kalman update per coefficient."""
        gain = ratio(self.spectrum * measured.gain, measured.gain**2 * self.spectrum + measured.variance)
        mean = self.mean + gain * (y - measured.gain * self.mean)
        return GaussianLaw(self.basis, mean, self.spectrum * (1 - gain * measured.gain))

    def draw(self, z: Tensor) -> Tensor:
        """Image `(B, C, *N)` from white noise of the same shape."""
        return self.basis.inverse(self.mean + self.spectrum.sqrt().to(z) * self.basis.forward(z))

    def log_evidence(self, y: Tensor, measured: Gaussian) -> Tensor:
        """Log p(y) `(B,)` of coefficients y."""
        total = measured.gain**2 * self.spectrum + measured.variance
        return log_density(self.basis, y - measured.gain * self.mean, total)


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

    def posterior(self, y: Tensor, measured: Gaussian) -> tuple[Tensor, list[GaussianLaw]]:
        """Posterior weights `(B, M)` and updated components given coefficients y `(B, C, *K)`."""
        logs = [p.log() + law.log_evidence(y, measured) for p, law in zip(self.weights, self.components(), strict=True)]
        return torch.stack(logs, 1).softmax(1), [law.posterior(y, measured) for law in self.components()]


@dataclass(frozen=True)
class MixtureDenoiser:
    """Exact denoiser, covariance diagonal and score of a `MixtureLaw` at every t."""

    process: Process
    law: MixtureLaw

    def _responsibilities(self, w: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Weights `(B, M)`, means and variances of each component given w_t."""
        m = self.process.moments(t)
        logs, means, variances = [], [], []
        for p, law in zip(self.law.weights, self.law.components(), strict=True):
            logs.append(p.log() + log_density(self.law.basis, w - m.h * law.mean, m.h**2 * law.spectrum + m.s2))
            g, v = wiener(m, law.spectrum)
            means.append(law.mean + g * (w - m.h * law.mean))
            variances.append(v)
        return torch.stack(logs, 1).softmax(1), means, variances

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        """Posterior mean `(B, C, *N)`."""
        return self.estimate(xt, t, cond).mean

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """Mean and per-coefficient variance sum_k r_k (v_k + |mu_k|^2) - |mean|^2 (off-diagonals are left out)."""
        r, means, variances = self._responsibilities(self.process.to_coefficients(xt, t), t)
        share = [r[:, k].reshape(-1, *([1] * (means[0].ndim - 1))) for k in range(r.shape[1])]
        mean = sum(s * mu for s, mu in zip(share, means, strict=True))
        spread = sum(s * (v + (mu - mean).abs() ** 2) for s, v, mu in zip(share, variances, means, strict=True))
        basis = self.process.basis
        return Estimate(basis.inverse(mean), SpectralSpread(basis, spread))  # type: ignore[arg-type]

    def score(self, xt: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t in coefficients: (h D - w) / s^2 (Tweedie)."""
        m = self.process.moments(t)
        w = self.process.to_coefficients(xt, t)
        return (m.h * self.process.basis.forward(self(xt, t)) - w) / m.s2
