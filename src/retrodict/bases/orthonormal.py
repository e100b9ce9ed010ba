"""A basis given by an orthogonal matrix: the common eigenvectors of operators that commute, whatever they are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.basis import Basis, Fourier

__all__ = ["Orthonormal"]


@dataclass(frozen=True)
class Orthonormal(Basis):
    """u = Q x with an orthogonal matrix Q `(n, n)`, n = prod(size), for real images of few pixels.

    Built by `Orthonormal.of(matrix, size)`: its rows are the basis images.  A matrix is on one grid.  Bases are equal
    where their matrices are, bit for bit (`digest`).
    """

    rows: Tensor | None = field(default=None, compare=False, repr=False)
    digest: str = ""
    fixed: ClassVar[bool] = True

    @classmethod
    def of(cls, matrix: Tensor, size: Sequence[int], spacing: Sequence[float] = ()) -> Orthonormal:
        """The basis whose images are the rows of `matrix` `(n, n)`.

        Raises `InputError` for a matrix of another size, a complex one, or rows that are not orthonormal to 1e-9.
        """
        n, rows = math.prod(size), torch.as_tensor(matrix, device=matrix.device)
        if rows.is_complex() or tuple(rows.shape) != (n, n):
            found = f"a {'complex' if rows.is_complex() else 'real'} matrix {tuple(rows.shape)}"
            raise InputError("Orthonormal matrix", found, f"a real one {(n, n)}, a row for each of {n} pixels")
        rows = rows.detach().double().contiguous()
        away = float((rows @ rows.T - torch.eye(n, dtype=torch.float64, device=rows.device)).abs().max())
        if not away < 1e-9:
            raise InputError("Orthonormal matrix", f"rows that are orthonormal to {away:.1g}", "to 1e-9")
        digest = hashlib.sha256(rows.cpu().numpy().tobytes()).hexdigest()
        return cls(tuple(size), tuple(spacing), str(rows.device), False, rows, digest)

    def __post_init__(self) -> None:
        """Refuse a basis without its matrix."""
        super().__post_init__()
        if self.rows is None or self.complex:
            raise InputError("Orthonormal", "no real matrix", "one", "Build it with Orthonormal.of(matrix, size).")

    @property
    def matrix(self) -> Tensor:
        """Q `(n, n)` float64."""
        assert self.rows is not None
        return self.rows

    def forward(self, x: Tensor) -> Tensor:
        """`(..., *N)` to `(..., *N)` coefficients, in the order of the rows."""
        return self._each(self.matrix, x)

    def inverse(self, u: Tensor) -> Tensor:
        """Transpose of `forward`."""
        return self._each(self.matrix.T, u)

    def _each(self, matrix: Tensor, x: Tensor) -> Tensor:
        """Image by image: a product of matrices rounds a batch differently from its items."""
        items = x.reshape(-1, matrix.shape[0])
        matrix = matrix.to(items)
        return torch.stack([matrix @ item for item in items]).reshape(x.shape) if len(items) else x

    def tabulate(self, power: Callable[[Tensor], Tensor]) -> Tensor:
        """Variance of every coefficient of stationary, periodic data: sum over frequencies of |row|^2 times power."""
        partner = Fourier(self.size, self.spacing, self.device)
        table = partner.tabulate(power) * partner.multiplicity()
        shares = partner.forward(self.matrix.reshape(-1, *self.size)).abs() ** 2
        variance = torch.einsum("...k,nk->...n", table.flatten(-self.ndim), shares.flatten(1))
        return variance.reshape(*table.shape[: -self.ndim], *self.size)

    def on(self, size: Sequence[int]) -> Self:
        """Itself: a matrix is on one grid."""
        if tuple(size) != self.size:
            raise InputError("size", tuple(size), f"{self.size}, the grid of the matrix of the basis")
        return self

    def to(self, device: str | torch.device) -> Self:
        """The same basis on another device."""
        return replace(self, device=str(device), rows=self.matrix.to(device))

    def small(self) -> Self:
        """Itself."""
        return self

    def _frequency(self) -> Tensor:
        return torch.zeros(self.size, dtype=torch.float64, device=self.device)  # a row has none of its own
