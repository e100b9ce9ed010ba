"""Orthogonal, periodised wavelet bases in one to three dimensions (Mallat 1989; Daubechies 1988)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases.basis import Basis, along

__all__ = ["Wavelet", "daubechies"]

_FAMILIES = {"haar": 1, "db2": 2, "db3": 3, "db4": 4, "db5": 5, "db6": 6}


@lru_cache(maxsize=16)
def daubechies(moments: int) -> Tensor:
    """Low-pass taps `(2 * moments,)` float64 with `moments` vanishing moments, unit norm, sum sqrt(2).

    Spectral factorization of the half-band polynomial: zeros at -1 and the roots inside the unit circle of
    P(y) = sum_k C(p - 1 + k, k) y^k with y = (2 - z - 1/z) / 4 (Daubechies 1988, eqs. 4.8-4.12).
    """
    coefficients = [math.comb(moments - 1 + k, k) for k in range(moments)]
    inside = []
    for y in np.roots(coefficients[::-1]) if moments > 1 else []:
        pair = np.roots([1.0, 4.0 * y - 2.0, 1.0])
        inside.append(pair[np.abs(pair) < 1.0][0])
    taps = np.real(np.poly(np.concatenate([-np.ones(moments), np.array(inside, dtype=complex)])))
    return torch.from_numpy(taps * (math.sqrt(2.0) / taps.sum()))


@lru_cache(maxsize=64)
def _step(n: int, moments: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """One analysis level as an orthogonal `(n, n)` matrix: n/2 low-pass rows, then n/2 high-pass rows."""
    low = daubechies(moments)
    length = len(low)
    high = low.flip(0) * torch.tensor([(-1.0) ** i for i in range(length)], dtype=torch.float64, device="cpu")
    matrix = torch.zeros(n, n, dtype=torch.float64, device="cpu")
    for row in range(n // 2):
        for tap in range(length):  # short signals wrap more than once, so taps add up
            matrix[row, (2 * row + tap) % n] += low[tap]
            matrix[n // 2 + row, (2 * row + tap) % n] += high[tap]
    return matrix.to(dtype=dtype, device=device)


@dataclass(frozen=True)
class Wavelet(Basis):
    """Separable orthogonal wavelet transform with periodic boundaries, packed in place.

    K = N: the approximation of the coarsest level sits in the low-index corner, each finer detail band around it.
    Every axis must be divisible by 2**levels, which keeps the transform exactly orthogonal.
    """

    levels: int = 3
    family: str = "db2"

    def __post_init__(self) -> None:
        """Refuse a grid that the levels do not divide."""
        super().__post_init__()
        choice("Wavelet family", self.family, _FAMILIES)
        if self.levels < 1 or any(n % 2**self.levels for n in self.size):
            raise InputError(
                "Wavelet size", self.size, f"axes divisible by 2**{self.levels}", "Pad the image or use fewer levels."
            )

    def _corner(self, level: int) -> tuple[slice, ...]:
        return (Ellipsis, *(slice(0, n >> level) for n in self.size))  # type: ignore[return-value]

    def small(self) -> Wavelet:
        """One coefficient of the approximation an axis: every band is there."""
        return self.on((2**self.levels,) * len(self.size))

    def _matrix(self, x: Tensor, axis: int) -> Tensor:
        return _step(x.shape[axis], _FAMILIES[self.family], x.dtype, str(x.device))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., *N)` to packed coefficients `(..., *N)`."""
        u = x.clone()
        for level in range(self.levels):
            corner = u[self._corner(level)]
            for axis in range(-len(self.size), 0):
                corner = along(corner, self._matrix(corner, axis), axis)
            u[self._corner(level)] = corner
        return u

    def inverse(self, u: Tensor) -> Tensor:
        """Transpose of `forward`."""
        x = u.clone()
        for level in reversed(range(self.levels)):
            corner = x[self._corner(level)]
            for axis in range(-len(self.size), 0):
                corner = along(corner, self._matrix(corner, axis).T, axis)
            x[self._corner(level)] = corner
        return x

    def band(self) -> Tensor:
        """Scale of every coefficient `(*K)` int64: 0 for the finest details, `levels` for the approximation."""
        scale = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        for level in range(1, self.levels + 1):
            scale[self._corner(level)] = level
        return scale

    def _frequency(self) -> Tensor:
        """Center frequency of the band of each coefficient: 3/8 of the sampling rate of its level."""
        pitch = max(self.spacing)
        scale = self.band()
        center = 0.375 / pitch * 2.0 ** (-scale.double())
        # the approximation holds everything below the coarsest detail band
        return torch.where(scale == self.levels, 0.125 / pitch * 2.0 ** (1 - self.levels), center)
