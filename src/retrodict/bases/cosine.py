"""The orthonormal DCT-II basis: no periodic seam, mirror boundaries."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from retrodict.bases._base import check_grid

__all__ = ["Cosine"]


@lru_cache(maxsize=64)
def _matrix(n: int) -> Tensor:
    """Orthonormal DCT-II matrix `(n, n)` float64; row k is the k-th cosine."""
    k = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi / n * k[:, None] * (k[None, :] + 0.5)) * math.sqrt(2.0 / n)
    rows[0] /= math.sqrt(2.0)
    return rows


def _along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    return torch.movedim(torch.movedim(x, axis, -1) @ matrix.to(x).T, -1, axis)


@dataclass(frozen=True)
class Cosine:
    """DCT-II along every axis (Neumann boundary); coefficient n of N sits at n / (2 N spacing) cycles/mm."""

    size: tuple[int, ...]
    spacing: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "spacing", self.spacing or (1.0,) * len(self.size))
        check_grid("Cosine", self.size, self.spacing)

    @property
    def shape(self) -> tuple[int, ...]:
        """Coefficient grid, equal to the image grid."""
        return self.size

    def forward(self, x: Tensor) -> Tensor:
        """`(..., *N)` to `(..., *N)` coefficients."""
        for axis, n in enumerate(self.size, start=-len(self.size)):
            x = _along(x, _matrix(n), axis)
        return x

    def inverse(self, u: Tensor) -> Tensor:
        """Transpose of `forward`."""
        for axis, n in enumerate(self.size, start=-len(self.size)):
            u = _along(u, _matrix(n).T, axis)
        return u

    def multiplicity(self) -> Tensor:
        """One degree of freedom per coefficient."""
        return torch.ones(self.size, dtype=torch.float64)

    def radius(self) -> Tensor:
        """|f| in cycles/mm, `(*K)` float64."""
        axes = [
            torch.arange(n, dtype=torch.float64) / (2 * n * d) for n, d in zip(self.size, self.spacing, strict=True)
        ]
        grids = torch.meshgrid(*axes, indexing="ij") if len(axes) > 1 else axes
        return sum(f**2 for f in grids).sqrt()  # type: ignore[union-attr]

    def on(self, size: tuple[int, ...]) -> Cosine:
        """The same basis on another image grid of the same spacing."""
        return replace(self, size=tuple(size))
