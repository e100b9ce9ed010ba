"""Several images out of several images, each through its own filter: what optical stacks and color are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.physics.operator import Operator, Space, Table, scaled_by

__all__ = ["FilterBank"]


class FilterBank(Operator):
    """y_j = sum_i F^-1 [H_ji F x_i]: images `(I, *N)`, periodic, to `(J, *N)`.

    `gains` `(J, I, *K)` are the transfer functions on the frequencies of `Fourier(size, spacing, complex=...)`.  Of
    real images the part that no real filter has (at the Nyquist frequency of an even axis) is taken out.  `pinv` is
    the pseudo-inverse of the matrix (J, I) at every frequency.
    """

    def __init__(
        self,
        size: Sequence[int],
        gains: Tensor,
        *,
        spacing: Sequence[float] = (),
        complex: bool = False,
        unit: str = "1",
        out_unit: str = "1",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self._basis = Fourier(tuple(size), tuple(spacing), complex=complex)
        if gains.ndim != 2 + len(self._basis.shape) or tuple(gains.shape[2:]) != self._basis.shape:
            expected = f"(outputs, inputs, {', '.join(map(str, self._basis.shape))})"
            raise InputError("gains", tuple(gains.shape), expected)
        if not bool(torch.isfinite(gains.abs()).all()):
            raise InputError("gains", "NaN or infinity", "finite numbers")
        whole = gains.detach().to("cpu", torch.complex128)
        whole = whole if complex else self._basis.forward(self._basis.inverse(whole))
        self._gains, self._about = Table(whole), dict(about or {})
        self.domain = Space((gains.shape[1], *size), unit, complex, tuple(spacing))
        self.range = Space((gains.shape[0], *size), out_unit, complex, tuple(spacing))

    @property
    def gains(self) -> Tensor:
        """H `(J, I, *K)` complex128."""
        return self._gains.values

    @property
    def basis(self) -> Fourier:
        """That of the frequencies."""
        return self._basis

    @property
    def about(self) -> Mapping[str, Any]:
        """What the gains were made of."""
        return self._about

    def _forward(self, x: Tensor) -> Tensor:
        u = self._basis.forward(x)
        return self._basis.inverse((self._gains(u) * u[:, None]).sum(2))

    def _adjoint(self, y: Tensor) -> Tensor:
        u = self._basis.forward(y)
        return self._basis.inverse((self._gains(u).conj() * u[:, :, None]).sum(1))

    def _matrices(self) -> Tensor:
        return self.gains.movedim((0, 1), (-2, -1))

    def norm(self, **_: Any) -> float:
        """Largest singular value of the matrices at all frequencies."""
        return float(torch.linalg.matrix_norm(self._matrices(), 2).max())

    def pinv(self, y: Tensor, floor: float = 1e-3) -> Tensor:
        """Pseudo-inverse at every frequency; singular values below `floor` times the largest of all count as 0."""
        self.range.check(y, f"{self.name}.pinv")
        inverse = torch.linalg.pinv(self._matrices(), atol=floor * self.norm(), rtol=0.0).movedim((-2, -1), (0, 1))
        u = self._basis.forward(y)
        return self._basis.inverse(scaled_by(inverse, u[:, None]).sum(2))
