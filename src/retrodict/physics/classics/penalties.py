"""Penalties of variational methods: total variation and wavelets, with their proximal maps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Fourier, Wavelet
from retrodict.physics.operator import Space

__all__ = ["PENALTIES", "Penalty", "TotalVariation", "WaveletPenalty", "make_penalty"]

PENALTIES = ("tv", "wavelet")
"""Penalties by name."""


class Near(NamedTuple):
    """A proximal map: the image, and the dual variable to start the next one from."""

    x: Tensor
    dual: Tensor | None


class Penalty(ABC):
    """R(x) = sum over places |(D x)_i|: D is `analyse`, its adjoint `synthesise`."""

    def __init__(self, space: Space) -> None:
        self.space = space

    @abstractmethod
    def analyse(self, x: Tensor) -> Tensor:
        """D x."""

    @abstractmethod
    def synthesise(self, z: Tensor) -> Tensor:
        """D^H z."""

    @abstractmethod
    def sizes(self, z: Tensor) -> Tensor:
        """|z_i| of every place, to be broadcast against z; 0 where there is no penalty."""

    @abstractmethod
    def symbol(self, basis: Fourier) -> Tensor:
        """D^H D in the Fourier basis, nearly, `(*K)`."""

    def shrink(self, z: Tensor, threshold: float) -> Tensor:
        """Argmin |v - z|^2 / 2 + threshold sum |v_i|: every place shorter by the threshold."""
        size = self.sizes(z)
        return torch.where(size > 0, z * (1 - threshold / size.clamp_min(threshold).clamp_min(1e-300)), z)

    def clip(self, z: Tensor, bound: float) -> Tensor:
        """The nearest z with |z_i| <= bound."""
        return z / (self.sizes(z) / bound).clamp_min(1.0)

    def value(self, x: Tensor) -> float:
        """R(x)."""
        return self._total(self.sizes(self.analyse(x)))

    def _total(self, sizes: Tensor) -> float:
        return float(sizes.double().sum())

    @abstractmethod
    def near(self, v: Tensor, threshold: float, nonnegative: bool, dual: Tensor | None, rounds: int) -> Near:
        """Argmin |x - v|^2 / 2 + threshold R(x), over x >= 0 if asked."""


class TotalVariation(Penalty):
    """Isotropic total variation: sum over pixels and channels of |grad x|, forward differences, 0 at the border.

    Differences are between neighbors, without the spacing (Rudin, Osher, Fatemi, Physica D 60, 1992); the length is
    over the axes of the image, and over real and imaginary part of complex ones.
    """

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.axes = len(space.shape) - 1
        if not 1 <= self.axes <= 3:
            raise InputError("penalty 'tv'", f"images {space.shape}", "channels and one to three axes")

    def analyse(self, x: Tensor) -> Tensor:
        """`(B, C, *N)` to `(B, C, axes, *N)`: differences to the next pixel."""
        parts = []
        for axis in range(-self.axes, 0):
            gap = x.diff(dim=axis)
            parts.append(torch.cat([gap, torch.zeros_like(x.narrow(axis, 0, 1))], axis))
        return torch.stack(parts, 2)

    def synthesise(self, z: Tensor) -> Tensor:
        """The adjoint, minus the divergence."""
        out = torch.zeros_like(z[:, :, 0])
        for k, axis in enumerate(range(-self.axes, 0)):
            n = z.shape[axis]
            part = z[:, :, k].narrow(axis, 0, n - 1)
            edge = torch.zeros_like(z[:, :, k].narrow(axis, 0, 1))
            out = out + torch.cat([edge, part], axis) - torch.cat([part, edge], axis)
        return out

    def sizes(self, z: Tensor) -> Tensor:
        """Length of the gradient `(B, C, 1, *N)`."""
        return z.abs().square().sum(2, keepdim=True).sqrt()

    def symbol(self, basis: Fourier) -> Tensor:
        """Sum over axes of 4 sin^2(pi f d), of periodic differences."""
        axes = zip(basis.frequencies(), basis.spacing, strict=True)
        return torch.stack([4 * torch.sin(math.pi * f * d) ** 2 for f, d in axes]).sum(0)

    def near(self, v: Tensor, threshold: float, nonnegative: bool, dual: Tensor | None, rounds: int) -> Near:
        """Fast gradient projection on the dual (Beck and Teboulle, IEEE Trans. Image Process. 18, 2009)."""
        if threshold == 0:
            return Near(v.clamp_min(0) if nonnegative else v, dual)
        step = 1 / (4 * self.axes)
        p = torch.zeros_like(self.analyse(v)) if dual is None else dual
        q, t = p, 1.0

        def primal(dual: Tensor) -> Tensor:
            x = v - self.synthesise(dual)
            return x.clamp_min(0) if nonnegative else x

        for _ in range(rounds):
            new = self.clip(q + step * self.analyse(primal(q)), threshold)
            later = 0.5 * (1 + math.sqrt(1 + 4 * t * t))
            q, p, t = new + (t - 1) / later * (new - p), new, later
        return Near(primal(p), p)


class WaveletPenalty(Penalty):
    """sum |details| of an orthogonal wavelet transform (`Wavelet`, periodic), the coarse approximation is free.

    Of complex images it is the modulus of the coefficients.
    """

    def __init__(self, space: Space, family: str = "db2", levels: int = 3) -> None:
        super().__init__(space)
        self.basis = Wavelet(space.shape[1:], space.spacing, complex=space.complex, levels=levels, family=family)
        corner = torch.zeros(self.basis.size, dtype=torch.bool, device="cpu")
        approximation = self.basis.places()[next(iter(self.basis.places()))]
        corner[approximation[-len(self.basis.size) :]] = True
        self.detail = ~corner

    def analyse(self, x: Tensor) -> Tensor:
        """Coefficients, in place of the pixels."""
        return self.basis.forward(x)

    def synthesise(self, z: Tensor) -> Tensor:
        """The inverse, which is the adjoint."""
        return self.basis.inverse(z)

    def sizes(self, z: Tensor) -> Tensor:
        """|details|."""
        return z.abs() * self.detail.to(z.device)

    def symbol(self, basis: Fourier) -> Tensor:
        """1: the transform is orthogonal."""
        return torch.ones(basis.shape, dtype=torch.float64, device="cpu")

    def near(self, v: Tensor, threshold: float, nonnegative: bool, dual: Tensor | None, rounds: int) -> Near:
        """Soft threshold; with x >= 0 by Dykstra's alternation (Bauschke and Combettes, 2008)."""
        if not nonnegative:
            return Near(self.synthesise(self.shrink(self.analyse(v), threshold)), None)
        x, p, q = v, torch.zeros_like(v), torch.zeros_like(v)
        for _ in range(rounds):
            y = self.synthesise(self.shrink(self.analyse(x + p), threshold))
            p = x + p - y
            x = (y + q).clamp_min(0)
            q = y + q - x
        return Near(x, None)


def make_penalty(name: str, space: Space, family: str, levels: int) -> Penalty:
    """The penalty of images of a space by name."""
    choice("penalty", name, PENALTIES)
    return TotalVariation(space) if name == "tv" else WaveletPenalty(space, family, levels)
