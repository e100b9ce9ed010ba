"""Blur by any point spread function or MTF, in one to three dimensions, with exact boundaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.physics.operator import Operator, Space, Spectral, Table

__all__ = ["Blur", "centered", "gaussian_psf"]

BOUNDARIES = ("circular", "zero", "valid")


def gaussian_psf(fwhm: Sequence[float], spacing: Sequence[float], *, reach: float = 4.0) -> Tensor:
    """Sampled Gaussian `(*K)` of sum 1, odd sizes; `fwhm` and `spacing` in mm along each axis.

    sigma = fwhm / (2 sqrt(2 ln 2)); cut at `reach` sigma.
    """
    if len(fwhm) != len(spacing) or not all(w > 0 for w in fwhm) or not all(d > 0 for d in spacing):
        raise InputError("fwhm", tuple(fwhm), f"{len(spacing)} positive numbers in mm")
    psf = torch.ones((), dtype=torch.float64, device="cpu")
    for width, d in zip(fwhm, spacing, strict=True):
        sigma = width / (2 * math.sqrt(2 * math.log(2)))
        half = max(1, math.ceil(reach * sigma / d))
        at = torch.arange(-half, half + 1, dtype=torch.float64, device="cpu") * d
        line = torch.exp(-0.5 * (at / sigma) ** 2)
        psf = psf[..., None] * (line / line.sum())
    return psf


def centered(psf: Tensor, size: Sequence[int], center: Sequence[int]) -> Tensor:
    """The kernel `(*K)` on the periodic grid `size`, its sample `center` at index 0; what is longer is wrapped."""
    grid = torch.zeros(*size, dtype=psf.dtype, device=psf.device)
    axes = [(torch.arange(k, device=psf.device) - c) % n for k, c, n in zip(psf.shape, center, size, strict=True)]
    return grid.index_put(tuple(torch.meshgrid(*axes, indexing="ij")), psf, accumulate=True)


class Blur(Operator):
    """y[n] = sum_m psf[m] x[n - (m - c)], a convolution of images `(C, *N)` on a grid of `spacing` mm.

    `psf` `(*K)` has as many axes as the grid, one to three; its origin c is `center`, K // 2 unless it is given: the
    middle sample of an odd size.  Boundaries: "circular", x is periodic; "zero", x is 0 outside; "valid", only what no
    outside touches, N - K + 1 samples.  All three are exact, by Fourier transforms that are padded where they must be.
    Circular blurs are diagonal: `spectral` and `pinv` exist.  A PSF is used as it is; of sum 1 it keeps the mean.

    Raises `InputError` for another number of axes, NaN, a complex PSF of real images, or one that is larger than the
    image where that has no meaning.
    """

    def __init__(
        self,
        size: Sequence[int],
        psf: Tensor,
        *,
        boundary: str = "circular",
        center: Sequence[int] | None = None,
        spacing: Sequence[float] = (),
        channels: int = 1,
        complex: bool = False,
        unit: str = "1",
    ) -> None:
        choice("boundary", boundary, BOUNDARIES)
        size = tuple(size)
        if psf.ndim != len(size) or not 1 <= len(size) <= 3:
            raise InputError("psf", f"{psf.ndim} axes for an image of {len(size)}", "as many axes, one to three")
        if psf.is_complex() and not complex:
            raise InputError("psf", "complex values", "real ones for real images", "Give complex=True.")
        if not bool(torch.isfinite(psf.abs()).all()):
            raise InputError("psf", "NaN or infinity", "finite numbers")
        if boundary == "valid" and any(k > n for k, n in zip(psf.shape, size, strict=True)):
            raise InputError("psf", f"{tuple(psf.shape)}", f"at most the image {size} where boundary='valid'")
        center = tuple(k // 2 for k in psf.shape) if center is None else tuple(center)
        if len(center) != len(size) or not all(0 <= c < k for c, k in zip(center, psf.shape, strict=True)):
            raise InputError("center", center, f"an index into the PSF {tuple(psf.shape)}")
        grow = boundary == "zero"
        grid = tuple(n + k - 1 if grow else n for n, k in zip(size, psf.shape, strict=True))
        self._basis = Fourier(grid, tuple(spacing), complex=complex)
        wide = torch.complex128 if psf.is_complex() else torch.float64
        kernel = centered(psf.detach().to(dtype=wide, device="cpu"), grid, center)
        self._gain = self._basis.forward(kernel.to(torch.complex128) if complex else kernel) * math.sqrt(
            math.prod(grid)
        )
        self._table, self.boundary, self.size = Table(self._gain), boundary, size
        valid = boundary == "valid"
        self._first = tuple(k - 1 - c if valid else 0 for k, c in zip(psf.shape, center, strict=True))
        out = tuple(n - k + 1 if valid else n for n, k in zip(size, psf.shape, strict=True))
        self.domain = Space((channels, *size), unit, complex, tuple(spacing))
        self.range = Space((channels, *out), unit, complex, tuple(spacing))

    @classmethod
    def gaussian(cls, size: Sequence[int], fwhm: float, *, spacing: Sequence[float] = (), **options: Any) -> Blur:
        """A Gaussian PSF of full width `fwhm` mm at half maximum, sampled, of sum 1."""
        step = tuple(spacing) or (1.0,) * len(size)
        return cls(size, gaussian_psf([fwhm] * len(size), step), spacing=spacing, **options)

    @classmethod
    def mtf(
        cls,
        size: Sequence[int],
        curve: Curve | Tensor,
        *,
        spacing: Sequence[float] = (),
        channels: int = 1,
        complex: bool = False,
        unit: str = "1",
    ) -> Blur:
        """A circular blur by its response: a measured MTF (`Curve`, cycles/mm), or a gain for every coefficient.

        The gain `(*K)`, real or complex, is on the grid of `Fourier(size, spacing, complex=...)`.
        """
        blur = cls(size, _delta(size), spacing=spacing, channels=channels, complex=complex, unit=unit)
        if isinstance(curve, Curve):
            curve.require("mtf", blur._basis)
            gain = curve.on(blur._basis)
        else:
            gain = curve
        if tuple(gain.shape) != blur._basis.shape:
            raise InputError("mtf", tuple(gain.shape), f"{blur._basis.shape}, one for every frequency")
        blur._table = Table(gain)
        blur._gain = blur._table.values
        return blur

    @property
    def about(self) -> Mapping[str, Any]:
        """Boundary, and gain at frequency 0."""
        at_zero = self._gain[(0,) * self._gain.ndim]
        return {"boundary": self.boundary, "gain_at_zero": float(at_zero.real)}

    def _forward(self, x: Tensor) -> Tensor:
        u = self._basis.forward(self._pad(x, (0,) * len(self.size)))
        return self._crop(self._basis.inverse(self._table(u.real) * u), self._first, self.range.shape[1:])

    def _adjoint(self, y: Tensor) -> Tensor:
        u = self._basis.forward(self._pad(y, self._first))
        return self._crop(self._basis.inverse(self._table(u.real).conj() * u), (0,) * len(self.size), self.size)

    def _pad(self, x: Tensor, first: Sequence[int]) -> Tensor:
        grid, own = self._basis.size, x.shape[2:]
        if tuple(own) == grid:
            return x
        pairs = [(a, n - a - m) for a, n, m in zip(first, grid, own, strict=True)]
        return torch.nn.functional.pad(x, [p for pair in reversed(pairs) for p in pair])

    @staticmethod
    def _crop(x: Tensor, first: Sequence[int], size: Sequence[int]) -> Tensor:
        cut = tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))
        return x[(..., *cut)].contiguous()

    def spectral(self) -> Spectral | None:
        """The transfer function in the Fourier basis, of circular blurs."""
        return Spectral(self._basis, self._gain) if self.boundary == "circular" else None


def _delta(size: Sequence[int]) -> Tensor:
    return torch.ones(*[1] * len(size), dtype=torch.float64, device="cpu")
