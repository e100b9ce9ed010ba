"""Super-resolution: what a camera with larger pixels sees, with its anti-alias filter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Fourier
from retrodict.physics.convolution import Blur
from retrodict.physics.operator import Operator, Table, scaled_by

__all__ = ["FILTERS", "Downsample"]


def _box(t: Tensor) -> Tensor:
    return (t.abs() < 0.5).double()


def _triangle(t: Tensor) -> Tensor:
    return (1 - t.abs()).clamp_min(0)


def _cubic(t: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2 (IEEE Trans. ASSP 29, 1981)."""
    t = t.abs()
    near = (1.5 * t - 2.5) * t**2 + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0.0))


def _gauss(t: Tensor) -> Tensor:
    """A full width at half maximum of one coarse pixel, cut at 2."""
    return torch.where(t.abs() < 2, torch.exp(-4 * math.log(2) * t**2), 0.0)


FILTERS = {"mean": (_box, 0.5), "linear": (_triangle, 1.0), "bicubic": (_cubic, 2.0), "gaussian": (_gauss, 2.0)}
"""Anti-alias filters: profile over coarse pixels, and where it ends."""


def _taps(filter: str, factor: int) -> tuple[Tensor, int]:
    """Weights of sum 1 and the index of the fine pixel that a coarse one starts with.

    The middle of a coarse pixel lies (factor - 1) / 2 fine pixels after its first.
    """
    profile, reach = FILTERS[filter]
    half = math.ceil(reach * factor)
    at = torch.arange(-half, factor + half, dtype=torch.float64, device="cpu")
    weights = profile((at - (factor - 1) / 2) / factor)
    used = torch.nonzero(weights).flatten()
    first, last = int(used[0]), int(used[-1])
    weights = weights[first : last + 1]
    return weights / weights.sum(), half - first


class Downsample(Operator):
    """y[i] = sum_m h[m] x[factor i + m]: anti-alias filter h of sum 1, then every `factor`-th sample, periodic images.

    `filter` is a name of `FILTERS` ("mean" is the mean over blocks), or a PSF `(*K)` on the fine grid whose origin
    K // 2 lies on the first fine pixel of a coarse one.  `factor` is one number or one for each axis; the size has
    to be a multiple of it.  A A^H is circulant on the coarse grid, so `pinv` is exact: A^H (A A^H)^+.
    """

    def __init__(
        self,
        size: Sequence[int],
        factor: int | Sequence[int],
        *,
        filter: str | Tensor = "mean",
        spacing: Sequence[float] = (),
        channels: int = 1,
        complex: bool = False,
        unit: str = "1",
    ) -> None:
        size = tuple(size)
        self.factor = (factor,) * len(size) if isinstance(factor, int) else tuple(factor)
        if len(self.factor) != len(size) or any(f < 1 for f in self.factor):
            raise InputError("factor", factor, f"one positive integer, or one for each of {len(size)} axes")
        if any(n % f for n, f in zip(size, self.factor, strict=True)):
            hint = "Crop the image to a multiple."
            raise InputError("size", size, f"a multiple of the factor {self.factor} along every axis", hint)
        self.filter = filter if isinstance(filter, str) else "given"
        psf, center = self._kernel(filter)
        options: dict[str, Any] = {"spacing": spacing, "channels": channels, "complex": complex, "unit": unit}
        self._blur = Blur(size, psf, center=center, **options)
        self.domain = self._blur.domain
        coarse = tuple(n // f for n, f in zip(size, self.factor, strict=True))
        wider = tuple(d * f for d, f in zip(spacing, self.factor, strict=True)) if spacing else ()
        self.range = replace(self.domain, shape=(channels, *coarse), spacing=wider)
        self._coarse = Fourier(coarse, wider, complex=complex)
        self._square = Table(self._aliased(coarse))

    def _kernel(self, filter: str | Tensor) -> tuple[Tensor, tuple[int, ...] | None]:
        """The PSF that a convolution takes, and its origin: a correlation is a convolution with the flipped kernel."""
        if isinstance(filter, Tensor):
            return filter, None
        choice("filter", filter, FILTERS)
        psf, center = torch.ones((), dtype=torch.float64, device="cpu"), []
        for factor in self.factor:
            weights, first = _taps(filter, factor)
            psf = psf[..., None] * weights.flip(0)
            center.append(len(weights) - 1 - first)
        return psf, tuple(center)

    def _aliased(self, coarse: tuple[int, ...]) -> Tensor:
        """Eigenvalues of A A^H on the coarse frequencies: the mean of |h|^2 over what falls on each (aliases)."""
        delta = torch.zeros(1, 1, *coarse, dtype=torch.float64, device="cpu")
        delta[(0, 0, *[0] * len(coarse))] = 1.0
        delta = delta.to(torch.complex128) if self.domain.complex else delta
        response = self._coarse.forward(self._forward(self._adjoint(delta)))[0, 0]
        return response.real * math.sqrt(math.prod(coarse))

    @property
    def about(self) -> Mapping[str, Any]:
        """Factors and filter."""
        return {"factor": list(self.factor), "filter": self.filter}

    def _forward(self, x: Tensor) -> Tensor:
        cut = tuple(slice(None, None, f) for f in self.factor)
        return self._blur._forward(x)[(..., *cut)].contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        fine = y.new_zeros(*y.shape[:2], *self.domain.shape[1:])
        fine[(..., *(slice(None, None, f) for f in self.factor))] = y
        return self._blur._adjoint(fine)

    def pinv(self, y: Tensor, floor: float = 1e-3) -> Tensor:
        """A^H (A A^H)^+ y; singular values below `floor` times the largest count as 0."""
        self.range.check(y, f"{self.name}.pinv")
        square = self._square.values
        known = square > floor**2 * square.max()
        inverse = torch.where(known, 1 / torch.where(known, square, 1.0), 0.0)
        return self._adjoint(self._coarse.inverse(scaled_by(inverse, self._coarse.forward(y))))

    def norm(self, **_: Any) -> float:
        """Root of the largest eigenvalue of A A^H."""
        return math.sqrt(float(self._square.values.max()))
