"""Operators that act on every pixel by itself: identity, weights, masks, haze."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.bases import Pixel
from retrodict.physics.algebra import Affine
from retrodict.physics.operator import Operator, Space, Spectral, Table

__all__ = ["Diagonal", "Identity", "Mask", "hazed", "random_mask"]


class Diagonal(Operator):
    """y = d x, pixel by pixel.

    d `(*N)` real (or complex, for complex images of `complex=True`) is the same for all `channels`; `size` is N.
    """

    def __init__(
        self,
        weights: Tensor,
        *,
        channels: int = 1,
        complex: bool = False,
        unit: str = "1",
        out_unit: str | None = None,
        spacing: Sequence[float] = (),
    ) -> None:
        if weights.is_complex() and not complex:
            raise InputError("weights", "complex values", "real ones for real images", "Give complex=True.")
        if not bool(torch.isfinite(weights.abs()).all()):
            raise InputError("weights", "NaN or infinity", "finite numbers")
        self._weights = Table(weights)
        shape = (channels, *weights.shape)
        self.domain = Space(shape, unit, complex, tuple(spacing))
        self.range = Space(shape, unit if out_unit is None else out_unit, complex, tuple(spacing))

    @property
    def weights(self) -> Tensor:
        """The weights d `(*N)`, float64 or complex128."""
        return self._weights.values

    def _forward(self, x: Tensor) -> Tensor:
        return self._weights(x) * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._weights(y).conj() * y

    def spectral(self) -> Spectral | None:
        """The weights in the pixel basis (grids of one to three axes)."""
        size = self.domain.shape[1:]
        if not 1 <= len(size) <= 3:
            return None
        return Spectral(Pixel(size, self.domain.spacing, complex=self.domain.complex), self.weights)


class Identity(Diagonal):
    """y = x: an image that was measured as it is, with noise."""

    def __init__(self, size: Sequence[int], **options: Any) -> None:
        super().__init__(torch.ones(*size, dtype=torch.float64, device="cpu"), **options)


class Mask(Diagonal):
    """Inpainting: y = M x, `mask` `(*N)` true (or 1) where a pixel was measured.

    M is a projection, its own adjoint and pseudo-inverse, of norm 1.  `compact=True` leaves the unmeasured pixels out:
    y is `(C, m)` in the order of the pixels, so that noise is only where something was measured.
    """

    def __init__(self, mask: Tensor, *, compact: bool = False, **options: Any) -> None:
        values = mask.to(torch.float64) if not mask.is_complex() else mask
        if values.is_complex() or not bool(((values == 0) | (values == 1)).all()):
            raise InputError(
                "mask", "values other than 0 and 1", "true or 1 where a pixel was measured, else false or 0"
            )
        if not bool((values == 1).any()):
            raise InputError("mask", "no measured pixel", "at least one")
        super().__init__(values, **options)
        self.compact = compact
        self._places = torch.nonzero(values.flatten() == 1).flatten()
        self._flat = (-1,) if compact else ()
        if compact:
            d = self.domain
            self.range = Space((d.shape[0], len(self._places)), self.range.unit, d.complex)

    @property
    def about(self) -> Mapping[str, Any]:
        """Measured share of the pixels."""
        return {"measured": len(self._places), "share": len(self._places) / math.prod(self.weights.shape)}

    @property
    def measured(self) -> Tensor | None:
        """The mask, for every channel."""
        return None if self.compact else self.weights.expand(self.range.shape)

    def _forward(self, x: Tensor) -> Tensor:
        if not self.compact:
            return super()._forward(x)
        return x.flatten(2)[..., self._places.to(x.device)]

    def _adjoint(self, y: Tensor) -> Tensor:
        if not self.compact:
            return super()._adjoint(y)
        x = y.new_zeros(*y.shape[:2], math.prod(self.weights.shape))
        x[..., self._places.to(y.device)] = y
        return x.unflatten(-1, self.weights.shape)

    def spectral(self) -> Spectral | None:
        """1 and 0 in the pixel basis."""
        form = super().spectral()
        if form is None or not self.compact:
            return form
        return Spectral(form.basis, form.gain, self._forward, self._adjoint)

    def pinv(self, y: Tensor, floor: float = 1e-3) -> Tensor:
        """Itself: what was not measured is 0."""
        return self.adjoint(y)


def random_mask(size: Sequence[int], share: float, *, seed: int = 0) -> Tensor:
    """Boolean mask `(*size)` with round(share n) of the n pixels true, drawn without replacement."""
    n = math.prod(size)
    count = round(share * n)
    if not 1 <= count <= n:
        raise InputError("share", share, f"a share of {n} pixels that is at least one of them, at most 1")
    generator = torch.Generator(device="cpu").manual_seed(key(seed, "random-mask"))
    order = torch.randperm(n, generator=generator, device="cpu")
    mask = torch.zeros(n, dtype=torch.bool, device="cpu")
    mask[order[:count]] = True
    return mask.reshape(*size)


def hazed(
    depth: Tensor, *, beta: float, airlight: float | Sequence[float], channels: int = 1, unit: str = "1"
) -> Affine:
    """Atmospheric haze of a scene of known depth: y = t x + (1 - t) a with t = exp(-beta depth).

    `depth` `(*N)` in m, at least 0; `beta` is the scattering coefficient in 1/m, `airlight` a in the unit of the image,
    one number or one for each channel (Koschmieder, 1924; He, Sun and Tang, IEEE TPAMI 33, 2011).  Affine: `part` is
    diag(t), `offset` is (1 - t) a.
    """
    if not bool((depth >= 0).all()) or not bool(torch.isfinite(depth).all()):
        raise InputError("depth", "a negative value, NaN or infinity", "distances of at least 0 m")
    if not (math.isfinite(beta) and beta >= 0):
        raise InputError("beta", beta, "a scattering coefficient of at least 0 per m")
    colors = [float(airlight)] * channels if isinstance(airlight, int | float) else [float(a) for a in airlight]
    if len(colors) != channels:
        raise InputError("airlight", f"{len(colors)} values", f"one, or one for each of {channels} channels")
    t = torch.exp(-beta * depth.double())
    a = torch.tensor(colors, dtype=torch.float64, device=t.device)[(..., *[None] * t.ndim)]
    return Affine(Diagonal(t, channels=channels, unit=unit), (1 - t) * a)
