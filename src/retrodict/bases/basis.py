"""What a basis is; the pixel basis, the Fourier basis and the cosine basis."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self

import torch
from torch import Tensor

from retrodict._check import InputError

__all__ = ["Basis", "Cosine", "Fourier", "Pixel", "along"]


@dataclass(frozen=True)
class Basis(ABC):
    """An orthonormal map between images `(..., *N)` and coefficients `(..., *K)`.

    `size` is the image grid N, `spacing` the pixel spacing in mm along each of its axes (default 1), `complex` says
    that the images are complex.  White pixel noise of unit variance per real component has unit variance in every
    real degree of freedom of every coefficient, so gains and variances of a process that is diagonal here are plain
    element-wise numbers.

    `device` is the one place that says where tables live: everything that is built from a basis follows it.  Bases
    are equal by value, so their tables are computed once.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...] = ()
    device: str = "cpu"
    complex: bool = False
    fixed: ClassVar[bool] = False
    """Whether the basis is on one grid, and `on` refuses another."""

    def __post_init__(self) -> None:
        """Fill in a spacing of 1 mm and refuse a grid that is none."""
        object.__setattr__(self, "size", tuple(self.size))
        object.__setattr__(self, "spacing", tuple(self.spacing) or (1.0,) * len(self.size))
        where = type(self).__name__
        if not 1 <= len(self.size) <= 3 or any(n < 1 for n in self.size):
            raise InputError(f"{where} size", self.size, "1 to 3 positive integers")
        if len(self.spacing) != len(self.size) or not all(d > 0 for d in self.spacing):
            raise InputError(f"{where} spacing", self.spacing, f"{len(self.size)} positive numbers in mm")

    @property
    def shape(self) -> tuple[int, ...]:
        """Coefficient grid K."""
        return self.size

    @property
    def ndim(self) -> int:
        """Number of image axes."""
        return len(self.size)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Image `(..., *N)` to coefficients `(..., *K)`."""

    @abstractmethod
    def inverse(self, u: Tensor) -> Tensor:
        """Coefficients `(..., *K)` to image `(..., *N)`; the adjoint of `forward`."""

    def multiplicity(self) -> Tensor:
        """Real degrees of freedom behind each coefficient, `(*K)` float64; they sum to those of the image.

        The caller's own copy, as of `radius`: the table itself is shared by all that use an equal basis.
        """
        return _multiplicity(self).clone()

    def radius(self) -> Tensor:
        """Spatial frequency |f| in cycles/mm of each coefficient, `(*K)` float64 (0 where it has none)."""
        return _radius(self).clone()

    def energy(self, u: Tensor) -> Tensor:
        """Mean square of the real degrees of freedom behind each coefficient, of u `(..., *K)`."""
        return 0.5 * u.abs() ** 2 if self.complex else u.abs() ** 2

    @property
    def channels(self) -> int | None:
        """Number of channels that the basis needs, None for any."""
        return None

    def unmixed(self, variance: Tensor) -> Tensor:
        """Variances of independent channels of coefficients `(B, C|1)` as those of the channels of the image."""
        return variance

    def tabulate(self, power: Callable[[Tensor], Tensor]) -> Tensor:
        """Variance of every coefficient `(..., *K)` of data with a power spectrum, a function of |f| `(...)`."""
        # the mean of a finite image varies like the frequencies just below its fundamental
        lowest = 0.5 / max(n * d for n, d in zip(self.size, self.spacing, strict=True))
        return power(self.radius().clamp_min(lowest))

    def on(self, size: Sequence[int]) -> Self:
        """The same basis on another image grid of the same spacing."""
        return replace(self, size=tuple(size))

    def to(self, device: str | torch.device) -> Self:
        """The same basis with its tables on another device."""
        return replace(self, device=str(device))

    def bands(self, count: int, highest: float | None = None) -> list[tuple[float, float, Tensor]]:
        """Bands of equal width in |f| from 0 to `highest` (None: all there is): lower and upper edge in cycles/mm and
        mask `(*K)`; bands without a coefficient are left out.
        """
        radius = self.radius()
        end = float(radius.max()) + 1e-9 if highest is None else highest
        edges = torch.linspace(0, end, count + 1, dtype=torch.float64, device="cpu")
        parts = [(a, b, (radius >= a) & (radius < b)) for a, b in itertools.pairwise(edges.tolist())]
        return [part for part in parts if bool(part[2].any())]

    def small(self) -> Self:
        """A small grid that has every kind of coefficient: at most 64 pixels an axis, 24 of three."""
        most = 64 if self.ndim < 3 else 24
        return self.on(tuple(min(n, most) for n in self.size))

    def _count(self) -> Tensor:
        return torch.full(self.shape, 2.0 if self.complex else 1.0, dtype=torch.float64, device=self.device)

    @abstractmethod
    def _frequency(self) -> Tensor: ...


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # a table outlives the call that first asks for it
def _multiplicity(basis: Basis) -> Tensor:
    return basis._count()


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _radius(basis: Basis) -> Tensor:
    return basis._frequency()


def _length(axes: Sequence[Tensor]) -> Tensor:
    """Euclidean length of a vector given by its values along every axis, on the grid of all axes."""
    grids = torch.meshgrid(*axes, indexing="ij") if len(axes) > 1 else axes
    return sum(f**2 for f in grids).sqrt()  # type: ignore[union-attr]


class Pixel(Basis):
    """The identity basis: coefficients are pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Identity."""
        return x

    def inverse(self, u: Tensor) -> Tensor:
        """Identity."""
        return u

    def tabulate(self, power: Callable[[Tensor], Tensor]) -> Tensor:
        """The average over all frequencies, the same for every pixel."""
        partner = Fourier(self.size, self.spacing, self.device, self.complex)
        total = partner.tabulate(power) * partner.multiplicity()
        mean = total.flatten(-self.ndim).sum(-1) / partner.multiplicity().sum()
        return mean[(..., *[None] * self.ndim)].expand(*mean.shape, *self.shape).clone()

    def _frequency(self) -> Tensor:
        return torch.zeros(self.size, dtype=torch.float64, device=self.device)  # a pixel has no frequency


# ---- Fourier -----------------------------------------------------------------------------------------------------


def _each(transform: Callable[[Tensor], Tensor], x: Tensor, ndim: int) -> Tensor:
    """Transform image by image on a CPU, where the library rounds a batch differently from its items."""
    lead = x.shape[: x.ndim - ndim]
    if x.device.type != "cpu" or math.prod(lead) <= 1:
        return transform(x)
    return torch.stack([transform(one) for one in x.flatten(0, len(lead) - 1)]).unflatten(0, lead)


class Fourier(Basis):
    """FFT with `norm="ortho"`, in one, two or three dimensions; coefficients are complex, images periodic.

    For real images K = (*N[:-1], N[-1] // 2 + 1): the last axis keeps non-negative frequencies only, so a coefficient
    in its interior stands for two real degrees of freedom and one at 0 or at an even-size Nyquist column for one
    (`multiplicity`).  For complex images K = N and every coefficient stands for two.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Half spectrum of real images, whole spectrum of complex ones."""
        return self.size if self.complex else (*self.size[:-1], self.size[-1] // 2 + 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., *N)` to `(..., *K)` complex."""
        axes = tuple(range(-len(self.size), 0))
        transform = torch.fft.fftn if self.complex else torch.fft.rfftn
        return _each(lambda image: transform(image, dim=axes, norm="ortho"), x, len(self.size))

    def inverse(self, u: Tensor) -> Tensor:
        """`(..., *K)` complex to `(..., *N)`."""
        size, axes = self.size, tuple(range(-len(self.size), 0))
        transform = torch.fft.ifftn if self.complex else torch.fft.irfftn
        return _each(lambda one: transform(one, s=size, dim=axes, norm="ortho"), u, len(size))

    def _count(self) -> Tensor:
        weight = torch.full(self.shape, 2.0, dtype=torch.float64, device=self.device)
        if not self.complex:
            weight[..., 0] = 1.0
            if self.size[-1] % 2 == 0:
                weight[..., -1] = 1.0
        return weight

    def _axes(self) -> list[Tensor]:
        settings = {"dtype": torch.float64, "device": self.device}
        pairs = list(zip(self.size, self.spacing, strict=True))
        axes = [torch.fft.fftfreq(n, d, **settings) for n, d in pairs]
        return axes if self.complex else [*axes[:-1], torch.fft.rfftfreq(*pairs[-1], **settings)]

    def frequencies(self) -> tuple[Tensor, ...]:
        """Signed frequency along every axis in cycles/mm, each on the whole grid K."""
        axes = self._axes()
        return tuple(torch.meshgrid(*axes, indexing="ij") if len(axes) > 1 else axes)

    def _frequency(self) -> Tensor:
        return _length(self._axes())


# ---- cosine ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _matrix(n: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """Orthonormal DCT-II matrix `(n, n)`; row k is the k-th cosine."""
    k = torch.arange(n, dtype=torch.float64, device="cpu")
    rows = torch.cos(math.pi / n * k[:, None] * (k[None, :] + 0.5)) * math.sqrt(2.0 / n)
    rows[0] /= math.sqrt(2.0)
    return rows.to(dtype=dtype, device=device)


def along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply every line of x along `axis` by a matrix `(n, n)`."""
    return torch.movedim(torch.movedim(x, axis, -1) @ matrix.T, -1, axis)


class Cosine(Basis):
    """DCT-II along every axis (Neumann boundary): no periodic seam.

    Coefficient n of N sits at n / (2 N spacing) cycles/mm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(..., *N)` to `(..., *N)` coefficients."""
        for axis, n in enumerate(self.size, start=-len(self.size)):
            x = along(x, _matrix(n, x.dtype, str(x.device)), axis)
        return x

    def inverse(self, u: Tensor) -> Tensor:
        """Transpose of `forward`."""
        for axis, n in enumerate(self.size, start=-len(self.size)):
            u = along(u, _matrix(n, u.dtype, str(u.device)).T, axis)
        return u

    def _frequency(self) -> Tensor:
        settings = {"dtype": torch.float64, "device": self.device}
        pairs = zip(self.size, self.spacing, strict=True)
        return _length([torch.arange(n, **settings) / (2 * n * d) for n, d in pairs])
