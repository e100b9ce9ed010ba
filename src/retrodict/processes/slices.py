"""What slices do to a volume: their sensitivity profile, and the noise that neighboring slices share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis, Fourier

__all__ = ["MOST_CORRELATION", "along", "plane_of", "slice_mtf", "slice_power"]


TERMS = 24
"""Slices apart beyond which noise of a correlation of at most `MOST_CORRELATION` is independent to 1e-25."""

MOST_CORRELATION = 0.9
"""Largest correlation of the noise of neighboring slices: profiles of 3.6 distances."""


def plane_of(basis: Basis) -> Fourier:
    """The basis of one slice of a volume; `InputError` for another basis than a real Fourier one of three axes."""
    if not isinstance(basis, Fourier) or basis.ndim != 3:
        found = f"a {type(basis).__name__} basis of {basis.ndim} axes"
        raise InputError("slices", found, "a Fourier basis of three axes: slices, rows, columns")
    return Fourier(basis.size[1:], basis.spacing[1:], basis.device, basis.complex)


def along(basis: Fourier, axis: int) -> Tensor:
    """Signed frequency in cycles/mm along one axis, with all other axes of length 1."""
    whole = basis.frequencies()[axis]
    return whole[tuple(slice(None) if k == axis else slice(1) for k in range(basis.ndim))]


def slice_mtf(frequency: Tensor, width: Tensor | float) -> Tensor:
    """MTF along the slice axis of a Gaussian sensitivity profile: exp(-2 pi^2 sigma^2 f^2), sigma = width / 2.3548.

    frequency: cycles/mm; width: full width at half maximum in mm (0: slices as thin as they are in the data).
    """
    return torch.exp(-((math.pi * width * frequency) ** 2) / (4 * math.log(2.0)))


def slice_power(frequency: Tensor, distance: float, correlation: Tensor | float) -> Tensor:
    """Power of the noise along the slice axis over its mean: 1 + 2 sum_k rho^(k^2) cos(2 pi k d f).

    Noise that was independent before a Gaussian profile of width w has the correlation 4^(-(k d / w)^2) between slices
    k distances d apart: its first value rho says the rest, and this is its spectrum (Jacobi's theta function, which is
    positive).  frequency: cycles/mm; distance: d in mm; correlation: rho of neighbors, from 0 (independent slices) to
    `MOST_CORRELATION`, a number or broadcast with the frequencies.
    """
    rho = torch.as_tensor(correlation, dtype=torch.float64, device=frequency.device)
    total = torch.ones_like(frequency) + 0 * rho
    term, ratio = torch.ones_like(rho), rho
    for k in range(1, TERMS + 1):
        term, ratio = term * ratio, ratio * rho * rho  # rho^(k^2), rho^(2 k + 1): products are the same in every batch
        total = total + 2 * term * torch.cos(2 * math.pi * k * distance * frequency)
    return total.clamp_min(0)
