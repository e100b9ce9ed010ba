"""What a basis is, and the pixel basis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from retrodict._check import InputError

__all__ = ["Basis", "Pixel", "check_grid"]


class Basis(Protocol):
    """An orthonormal map between images `(..., *N)` and coefficients `(..., *K)`.

    White pixel noise of unit variance has unit variance in every real degree of freedom of every coefficient, so
    gains and variances of a process that is diagonal here are plain element-wise numbers.
    """

    @property
    def size(self) -> tuple[int, ...]:
        """Image grid N."""
        ...

    @property
    def spacing(self) -> tuple[float, ...]:
        """Pixel spacing in mm along every axis of N."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Coefficient grid K."""
        ...

    def forward(self, x: Tensor) -> Tensor:
        """Image `(..., *N)` real to coefficients `(..., *K)`."""
        ...

    def inverse(self, u: Tensor) -> Tensor:
        """Coefficients `(..., *K)` to image `(..., *N)`; the adjoint of `forward`."""
        ...

    def multiplicity(self) -> Tensor:
        """Real degrees of freedom behind each coefficient, `(*K)` float64; sums to the number of pixels."""
        ...

    def radius(self) -> Tensor:
        """Spatial frequency |f| in cycles/mm of each coefficient, `(*K)` float64 (0 where it has none)."""
        ...

    def on(self, size: tuple[int, ...]) -> Self:
        """The same basis on another image grid."""
        ...


def check_grid(where: str, size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    """Raise unless `size` and `spacing` describe the same 1 to 3 axes."""
    if not 1 <= len(size) <= 3 or any(n < 1 for n in size):
        raise InputError(f"{where} size", size, "1 to 3 positive integers")
    if len(spacing) != len(size) or not all(d > 0 for d in spacing):
        raise InputError(f"{where} spacing", spacing, f"{len(size)} positive numbers in mm")


@dataclass(frozen=True)
class Pixel:
    """The identity basis: coefficients are pixels."""

    size: tuple[int, ...]
    spacing: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "spacing", self.spacing or (1.0,) * len(self.size))
        check_grid("Pixel", self.size, self.spacing)

    @property
    def shape(self) -> tuple[int, ...]:
        """Coefficient grid, equal to the image grid."""
        return self.size

    def forward(self, x: Tensor) -> Tensor:
        """Identity."""
        return x

    def inverse(self, u: Tensor) -> Tensor:
        """Identity."""
        return u

    def multiplicity(self) -> Tensor:
        """One degree of freedom per pixel."""
        return torch.ones(self.size, dtype=torch.float64)

    def radius(self) -> Tensor:
        """A pixel has no frequency: zeros."""
        return torch.zeros(self.size, dtype=torch.float64)

    def on(self, size: tuple[int, ...]) -> Pixel:
        """The same basis on another image grid."""
        return replace(self, size=tuple(size))
