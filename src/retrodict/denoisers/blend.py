"""The law of an error that is stationary at each of a few levels of the noise, blended by a map of the levels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from retrodict.bases import Basis
from retrodict.denoisers.spread import root_mean

__all__ = ["BlendedSpread"]


@dataclass(frozen=True, eq=False)
class BlendedSpread:
    """error = sum_b exp(log_ratio_b / 2) sum_k w_k(x) B^-1 [F_b sqrt(v_k) B z_b], one white field z_b a band.

    v `(K, C|1, *K)` are the variances at K levels, `weights` `(1, K, *N)` sum to 1; `log_ratio` `(1, bands, C, *N)` and
    `filters` `(bands, *K)` with sum_b F_b^2 = 1 are those of `LocalSpread`, or None.  All levels share the field, so
    amplitudes are interpolated, and the variance is sum_b exp(log_ratio_b) sum_kl w_k w_l mean(F_b^2 sqrt(v_k v_l)):
    with independent fields it would sag between two levels.  With one level it is `LocalSpread`.
    """

    basis: Basis
    v: Tensor
    weights: Tensor
    log_ratio: Tensor | None = None
    filters: Tensor | None = None

    @property
    def fields(self) -> int:
        """One white field per band."""
        return 1 if self.filters is None else len(self.filters)

    @cached_property
    def _bands(self) -> Tensor:
        return self.v.new_ones(1, *self.basis.shape) if self.filters is None else self.filters

    def draw(self, z: Tensor) -> Tensor:
        """White noise `(bands, B, C, *N)` to B errors `(B, C, *N)` of the one image."""
        total = torch.zeros_like(z[0])
        root = self.v.sqrt()
        for b, noise in enumerate(z):
            u, error = self.basis.forward(noise), torch.zeros_like(noise)
            for k, amplitude in enumerate(root):
                colored = self.basis.inverse((amplitude * self._bands[b]).to(noise.real) * u)
                error = error + self.weights[:, k : k + 1].to(noise.real) * colored
            total = total + (error if self.log_ratio is None else (0.5 * self.log_ratio[:, b]).exp() * error)
        return total

    def variance(self) -> Tensor:
        """Variance of the error per pixel and real component, `(1, C|1, *N)`."""
        total = torch.zeros((), dtype=torch.float64, device=self.v.device)
        for b, band in enumerate(self._bands):
            part = self._of_band(band)
            total = total + (part if self.log_ratio is None else self.log_ratio[:, b].double().exp() * part)
        return total

    def _of_band(self, band: Tensor) -> Tensor:
        """sum_kl w_k w_l mean(F^2 sqrt(v_k v_l)), `(1, C|1, *N)`."""
        root, w = self.v.sqrt(), self.weights
        total = torch.zeros_like(w[:, :1])
        for k in range(len(root)):
            for j in range(max(0, k - 1), min(len(root), k + 2)):  # others share no pixel
                power = root_mean((root[k] * root[j] * band**2)[None], self.basis) ** 2
                total = total + (w[:, k] * w[:, j])[:, None] * power
        return total
