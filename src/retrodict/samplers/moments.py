"""Mean and variance of samples that come one at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError

__all__ = ["RunningMoments"]


class RunningMoments:
    """Mean and unbiased variance of samples that come one at a time, without keeping them.

    Shapes: every sample has one shape; `mean` and `variance` have it too. Units: `mean` in the image unit,
    `variance` in the unit squared, per real component of complex samples. Sums are float64 on the device of the first
    sample.
    Formula: m_n = m_{n-1} + (x - m_{n-1}) / n, S_n = S_{n-1} + (x - m_{n-1})(x - m_n), variance = S_n / (n - 1)
    (Welford, Technometrics 4, 1962); `merge` after Chan, Golub and LeVeque, Am. Stat. 37, 1983.
    The same samples in the same order give the same bits; another order agrees to rounding.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    def add(self, sample: Tensor) -> None:
        """Take in one sample."""
        x = sample.to(torch.complex128 if sample.is_complex() else torch.float64)
        if not bool(torch.isfinite(x).all()):
            raise InputError("sample", "non-finite values", "finite values")
        if self._mean is None or self._squares is None:
            self._count, self._mean, self._squares = 1, x.clone(), torch.zeros_like(x.real)
            return
        self._same_shape(x)
        self._count += 1
        delta = x.to(self._mean.device) - self._mean
        self._mean = self._mean + delta / self._count
        rest = x.to(self._mean.device) - self._mean
        self._squares = self._squares + (delta * rest.conj()).real / (2 if x.is_complex() else 1)

    def merge(self, other: RunningMoments) -> None:
        """Take in all samples of `other`, as if they had been added after the ones here."""
        if other._mean is None or other._squares is None:
            return
        if self._mean is None or self._squares is None:
            self._count, self._mean, self._squares = other._count, other._mean.clone(), other._squares.clone()
            return
        self._same_shape(other._mean)
        total = self._count + other._count
        delta = other._mean.to(self._mean.device) - self._mean
        between = delta.abs().square() / (2 if delta.is_complex() else 1) * (self._count * other._count / total)
        self._squares = self._squares + other._squares.to(self._mean.device) + between
        self._mean = self._mean + delta * (other._count / total)
        self._count = total

    def _same_shape(self, x: Tensor) -> None:
        if self._mean is not None and x.shape != self._mean.shape:
            raise InputError("sample", f"shape {tuple(x.shape)}", f"shape {tuple(self._mean.shape)}")

    @property
    def count(self) -> int:
        """Number of samples so far."""
        return self._count

    @property
    def mean(self) -> Tensor:
        """Mean of the samples, float64."""
        if self._mean is None:
            raise InputError("RunningMoments.mean", "no samples", "at least one sample")
        return self._mean.clone()

    @property
    def variance(self) -> Tensor:
        """Unbiased variance of the samples (divided by count - 1), float64."""
        if self._squares is None or self._count < 2:
            raise InputError("RunningMoments.variance", f"{self._count} samples", "at least two samples")
        return self._squares / (self._count - 1)
