"""Bases made of bases: the same on every slice of a volume, and with the channels of an image rotated first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.basis import Basis

__all__ = ["ChannelMix", "Stack"]


@dataclass(frozen=True)
class Stack(Basis):
    """The basis `inner` of a plane on every slice of a volume `(D, *N)`; slices stay apart.

    Built by `Stack.of(inner, depth, pitch)`; `pitch` is the distance of slices in mm.
    """

    inner: Basis | None = None

    @classmethod
    def of(cls, inner: Basis, depth: int, pitch: float = 1.0) -> Stack:
        """`inner` on `depth` slices."""
        return cls((depth, *inner.size), (pitch, *inner.spacing), inner.device, inner.complex, inner)

    def __post_init__(self) -> None:
        """Refuse a stack of nothing, or one whose planes are not those of the inner basis."""
        super().__post_init__()
        if self.inner is None or self.inner.size != self.size[1:]:
            raise InputError("Stack", self.size, "a basis for its planes", "Build it with Stack.of(inner, depth).")

    @property
    def plane(self) -> Basis:
        """The basis of one slice."""
        assert self.inner is not None
        return self.inner

    @property
    def shape(self) -> tuple[int, ...]:
        """Slices, then the coefficient grid of a plane."""
        return (self.size[0], *self.plane.shape)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., D, *N)` to `(..., D, *K)`."""
        return self.plane.forward(x)

    def inverse(self, u: Tensor) -> Tensor:
        """The adjoint of `forward`."""
        return self.plane.inverse(u)

    def on(self, size: Sequence[int]) -> Self:
        """The same basis on another volume."""
        return replace(self, size=tuple(size), inner=self.plane.on(tuple(size)[1:]))

    def to(self, device: str | torch.device) -> Self:
        """The same basis on another device."""
        return replace(self, device=str(device), inner=self.plane.to(device))

    def tabulate(self, power: Callable[[Tensor], Tensor]) -> Tensor:
        """That of the plane, on every slice."""
        table, n = self.plane.tabulate(power), self.plane.ndim
        return table.unsqueeze(-n - 1).expand(*table.shape[:-n], *self.shape)

    def small(self) -> Self:
        """One slice."""
        return replace(self, size=(1, *self.plane.small().size), inner=self.plane.small())

    def _count(self) -> Tensor:
        return self.plane.multiplicity().expand(self.shape)

    def _frequency(self) -> Tensor:
        return self.plane.radius().expand(self.shape)


@dataclass(frozen=True)
class ChannelMix(Basis):
    """The basis `inner` after a rotation of the channels: u_d = sum_c m_dc B x_c, m orthogonal `(C, C)`.

    Channels that are correlated become independent in it, so that every formula stays element-wise; gray noise, for
    example, is variance on the one rotated channel (1, 1, 1) / sqrt(3).  Built by `ChannelMix.of(inner, matrix)`.
    """

    inner: Basis | None = None
    rows: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, inner: Basis, matrix: Tensor | Sequence[Sequence[float]]) -> ChannelMix:
        """`inner` with channels rotated by `matrix`, whose rows are orthonormal."""
        rows = tuple(tuple(row) for row in torch.as_tensor(matrix, dtype=torch.float64, device="cpu").tolist())
        return cls(inner.size, inner.spacing, inner.device, inner.complex, inner, rows)

    def __post_init__(self) -> None:
        """Refuse a matrix that is no rotation."""
        super().__post_init__()
        m = torch.tensor(self.rows, dtype=torch.float64, device="cpu")
        square = m.ndim == 2 and m.shape[0] == m.shape[1]
        if (
            self.inner is None
            or not square
            or not torch.allclose(m @ m.T, torch.eye(len(m), device="cpu").double(), atol=1e-10)
        ):
            raise InputError("ChannelMix", f"a matrix {tuple(m.shape)}", "orthonormal rows, as many as channels")

    @property
    def single(self) -> Basis:
        """The basis of one channel."""
        assert self.inner is not None
        return self.inner

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the inner basis; the channel axis stands before it."""
        return self.single.shape

    def _rotate(self, u: Tensor, matrix: Tensor, grid: tuple[int, ...]) -> Tensor:
        flat = u.flatten(-len(grid))
        return torch.einsum("dc,...cn->...dn", matrix.to(flat), flat).reshape(*u.shape[: -len(grid)], *grid)

    def _matrix(self) -> Tensor:
        return torch.tensor(self.rows, dtype=torch.float64, device=self.device)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., C, *N)` to `(..., C, *K)`."""
        return self._rotate(self.single.forward(x), self._matrix(), self.shape)

    def inverse(self, u: Tensor) -> Tensor:
        """The adjoint of `forward`."""
        return self.single.inverse(self._rotate(u, self._matrix().T, self.shape))

    def on(self, size: Sequence[int]) -> Self:
        """The same rotation on another grid."""
        return replace(self, size=tuple(size), inner=self.single.on(size))

    def to(self, device: str | torch.device) -> Self:
        """The same basis on another device."""
        return replace(self, device=str(device), inner=self.single.to(device))

    @property
    def channels(self) -> int:
        """As many as the matrix has rows."""
        return len(self.rows)

    def unmixed(self, variance: Tensor) -> Tensor:
        """Var x_c = sum_d m_dc^2 var u_d."""
        return variance.expand(-1, self.channels) @ self._matrix().square().to(variance)

    def tabulate(self, power: Callable[[Tensor], Tensor]) -> Tensor:
        """That of the inner basis; rows of a spectrum are those of the rotated channels."""
        return self.single.tabulate(power)

    def _count(self) -> Tensor:
        return self.single.multiplicity()

    def _frequency(self) -> Tensor:
        return self.single.radius()
