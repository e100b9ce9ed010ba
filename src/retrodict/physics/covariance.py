"""Covariances of noise and of images: numbers in a basis, times a matrix over the channels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis
from retrodict.bases.spectrum import Spectrum
from retrodict.physics.operator import Space, scaled_by

__all__ = ["Covariance"]


@dataclass(frozen=True)
class Covariance:
    """Sigma = B^-1 diag(variance) B, times M over the channels: what noise or an image is like around its mean.

    `variance` is that of a real component in the orthonormal `basis` (None: of the samples as they are): one
    number, or a table that broadcasts against items `(C, *K)`, or against a batch `(B, C, *K)` of items with their
    own. `basis` acts on the last axes. `channels` M `(C, C)`, Hermitian and positive, correlates channels (coils);
    the variance is then the same for all of them. Of complex values the covariance E[n n^H] is 2 Sigma: sigma is
    per real component.

    Raises `InputError` for a variance that is negative or no number, or a matrix that is no covariance.
    """

    variance: float | Tensor = 1.0
    basis: Basis | None = None
    channels: Tensor | None = None
    _powers: dict[float, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no covariance."""
        table = torch.as_tensor(self.variance, dtype=torch.float64, device="cpu")
        if not bool(((table >= 0) & torch.isfinite(table)).all()):
            raise InputError("variance", "a negative value, NaN or infinity", "finite values of at least 0")
        if self.basis is not None and table.ndim and tuple(table.shape[-self.basis.ndim :]) != self.basis.shape:
            raise InputError("variance", f"a table {tuple(table.shape)}", f"one of coefficients {self.basis.shape}")
        object.__setattr__(self, "variance", float(table) if table.ndim == 0 else table)
        if table.ndim == 0:
            object.__setattr__(self, "basis", None)  # white is white in every basis
        if self.channels is not None:
            self._check_channels(table)

    def _check_channels(self, table: Tensor) -> None:
        matrix = self.channels
        assert matrix is not None
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError("channels", f"a matrix {tuple(matrix.shape)}", "a square one, a row for each channel")
        matrix = matrix.to("cpu", torch.complex128 if matrix.is_complex() else torch.float64)
        values = torch.linalg.eigvalsh(matrix)
        if not torch.allclose(matrix, matrix.mH, rtol=1e-9, atol=0) or not float(values.min()) > 0:
            raise InputError("channels", f"eigenvalues from {float(values.min()):.3g}", "Hermitian, positive definite")
        image_axes = self.basis.ndim if self.basis is not None else 1
        if table.ndim > image_axes and table.shape[-image_axes - 1] != 1 and self.basis is not None:
            raise InputError("variance", "one for each channel", "one for all where `channels` correlates them")
        object.__setattr__(self, "channels", matrix)

    # ---- ways to make one --------------------------------------------------------------------------------------------

    @classmethod
    def white(cls, sigma: float) -> Covariance:
        """Sigma = sigma^2 I, sigma for each real component."""
        return cls(float(sigma) ** 2)

    @classmethod
    def pixels(cls, sigma: Tensor) -> Covariance:
        """A deviation for every sample: sigma `(*shape)` of one item, or `(B, *shape)`."""
        return cls(sigma.double() ** 2)

    @classmethod
    def of_spectrum(cls, spectrum: Spectrum, basis: Basis) -> Covariance:
        """The variances of a `Spectrum` in a basis: an image law, without its mean (`spectrum.mean_image`)."""
        return cls(spectrum.on(basis), basis)

    # ---- what it does ------------------------------------------------------------------------------------------------

    @property
    def elementwise(self) -> bool:
        """Whether samples are independent of each other."""
        return self.basis is None and self.channels is None

    @property
    def number(self) -> float | None:
        """The one variance of white noise, else None."""
        if self.channels is not None or isinstance(self.variance, Tensor):
            return None
        return self.variance

    @property
    def positive(self) -> bool:
        """Whether every variance is above 0, so that there is an inverse."""
        return bool((torch.as_tensor(self.variance, device="cpu") > 0).all())

    def item(self, i: int, ndim: int) -> Covariance:
        """That of item i of a batch whose items have `ndim` axes."""
        if not isinstance(self.variance, Tensor) or self.variance.ndim <= ndim:
            return self
        table = self.variance
        return Covariance(table[i if len(table) > 1 else 0], self.basis, self.channels)

    def power(self, x: Tensor, exponent: float) -> Tensor:
        """Sigma^exponent x for `(B, *shape)`: 1, 1/2 (symmetric), -1/2, -1; negative ones need `positive`."""
        if self.basis is not None and isinstance(self.variance, Tensor):
            x = self.basis.inverse(scaled_by(self._scale(exponent), self.basis.forward(x)))
        else:
            x = scaled_by(self._scale(exponent), x)
        if self.channels is None:
            return x
        matrix = self._matrix(exponent)
        dtype = x.dtype if not matrix.is_complex() or x.is_complex() else matrix.dtype
        return torch.einsum("cd,bd...->bc...", matrix.to(dtype=dtype, device=x.device), x)

    def _scale(self, exponent: float) -> Tensor:
        return torch.as_tensor(self.variance, dtype=torch.float64, device="cpu") ** exponent

    def _matrix(self, exponent: float) -> Tensor:
        if exponent not in self._powers:
            assert self.channels is not None
            values, vectors = torch.linalg.eigh(self.channels)
            self._powers[exponent] = (vectors * values**exponent) @ vectors.mH
        return self._powers[exponent]

    def log_det(self, space: Space, mask: Tensor | None = None) -> Tensor:
        """Log of the determinant over the real components of an item of `space`, `(B|1,)`; `mask` of what counts."""
        parts = 2 if space.complex else 1
        logs = torch.as_tensor(self.variance, dtype=torch.float64, device="cpu").log()
        if self.basis is not None and isinstance(self.variance, Tensor):
            whole = (*space.shape[: len(space.shape) - self.basis.ndim], *self.basis.shape)
            weight = self.basis.multiplicity().to("cpu")
        else:
            whole, weight = space.shape, torch.tensor(float(parts), dtype=torch.float64, device="cpu")
        if mask is not None:
            weight = weight * mask.to("cpu", torch.float64)
        total = logs * weight
        total = total.expand(*total.shape[: max(0, total.ndim - len(whole))], *whole)
        found = total.reshape(-1, math.prod(whole)).sum(1)
        if self.channels is None:
            return found
        seen = math.prod(space.shape[1:]) if mask is None else float(mask.expand(space.shape)[0].sum())
        return found + parts * seen * torch.linalg.eigvalsh(self.channels).log().sum()

    def check(self, space: Space, where: str) -> None:
        """Refuse a space that it does not fit."""
        basis = self.basis
        if basis is not None and (tuple(space.shape[-basis.ndim :]), space.complex) != (basis.size, basis.complex):
            kind = "complex" if basis.complex else "real"
            wanted = f"one of {'complex' if space.complex else 'real'} items {space.shape}"
            raise InputError(where, f"a basis of {kind} {basis.size}", wanted)
        if self.channels is not None and len(self.channels) != space.shape[0]:
            raise InputError(
                where, f"channels of {len(self.channels)}", f"{space.shape[0]}, as the items {space.shape}"
            )
        if self.channels is not None and self.channels.is_complex() and not space.complex:
            raise InputError(where, "complex correlations of channels", "real ones, as the values are real")
        if self.basis is None and isinstance(self.variance, Tensor):
            try:
                shape = torch.broadcast_shapes(self.variance.shape[-len(space.shape) :], space.shape)
            except RuntimeError:
                shape = None
            if shape != torch.Size(space.shape):
                raise InputError(where, f"variances {tuple(self.variance.shape)}", f"those of items {space.shape}")
