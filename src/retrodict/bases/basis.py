"""What a basis is; the pixel basis, the real Fourier basis and the cosine basis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Protocol, Self

import torch
from torch import Tensor

from retrodict._check import InputError

__all__ = ["Basis", "Cosine", "Fourier", "Pixel", "check_grid"]


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


def _each(transform: Callable[[Tensor], Tensor], x: Tensor, ndim: int) -> Tensor:
    """Transform image by image on a CPU, where the library rounds a batch differently from its items."""
    lead = x.shape[: x.ndim - ndim]
    if x.device.type != "cpu" or math.prod(lead) <= 1:
        return transform(x)
    return torch.stack([transform(one) for one in x.flatten(0, len(lead) - 1)]).unflatten(0, lead)


@dataclass(frozen=True)
class Fourier:
    """Real FFT with `norm="ortho"`; K = (*N[:-1], N[-1] // 2 + 1), complex.

    The last axis keeps non-negative frequencies only, so a coefficient in its interior stands for two real degrees
    of freedom and one at 0 or at an even-size Nyquist column for one (`multiplicity`).  Images are periodic.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "spacing", self.spacing or (1.0,) * len(self.size))
        check_grid("Fourier", self.size, self.spacing)

    @cached_property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.size), 0))

    @property
    def shape(self) -> tuple[int, ...]:
        """Half-spectrum grid."""
        return (*self.size[:-1], self.size[-1] // 2 + 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., *N)` real to `(..., *K)` complex."""
        return _each(lambda image: torch.fft.rfftn(image, dim=self._axes, norm="ortho"), x, len(self.size))

    def inverse(self, u: Tensor) -> Tensor:
        """`(..., *K)` complex to `(..., *N)` real."""
        size, axes = self.size, self._axes
        return _each(lambda one: torch.fft.irfftn(one, s=size, dim=axes, norm="ortho"), u, len(size))

    def multiplicity(self) -> Tensor:
        """1 on the self-conjugate columns of the last axis, 2 elsewhere; `(*K)` float64."""
        weight = torch.full((self.shape[-1],), 2.0, dtype=torch.float64)
        weight[0] = 1.0
        if self.size[-1] % 2 == 0:
            weight[-1] = 1.0
        return weight.expand(self.shape).clone()

    def frequencies(self) -> tuple[Tensor, ...]:
        """Signed frequency along every axis in cycles/mm, each shaped to broadcast over K."""
        axes = [
            torch.fft.fftfreq(n, d, dtype=torch.float64) for n, d in zip(self.size[:-1], self.spacing[:-1], strict=True)
        ]
        axes.append(torch.fft.rfftfreq(self.size[-1], self.spacing[-1], dtype=torch.float64))
        return tuple(torch.meshgrid(*axes, indexing="ij") if len(axes) > 1 else axes)

    def radius(self) -> Tensor:
        """|f| in cycles/mm, `(*K)` float64."""
        return sum(f**2 for f in self.frequencies()).sqrt()  # type: ignore[union-attr]

    def on(self, size: tuple[int, ...]) -> Fourier:
        """The same basis on another image grid of the same spacing."""
        return replace(self, size=tuple(size))


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
