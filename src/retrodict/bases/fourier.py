"""The orthonormal real Fourier basis in one, two or three dimensions, stored as a half spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from retrodict.bases._base import check_grid

__all__ = ["Fourier"]


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
