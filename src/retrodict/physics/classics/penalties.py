"""Penalties of variational methods: total variation and wavelets, with their proximal maps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Fourier, Wavelet
from retrodict.physics.classics.bounds import Box
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
        return z * (self.sizes(z) / bound).clamp_min_(1.0).reciprocal_()

    def value(self, x: Tensor) -> float:
        """R(x)."""
        return self._total(self.sizes(self.analyse(x)))

    def _total(self, sizes: Tensor) -> float:
        return float(sizes.double().sum())

    @abstractmethod
    def near(self, v: Tensor, threshold: float, box: Box, dual: Tensor | None, rounds: int) -> Near:
        """Argmin |x - v|^2 / 2 + threshold R(x) over the images of the box."""


class TotalVariation(Penalty):
    """Isotropic total variation: sum over pixels and channels of |grad x|, forward differences, 0 at the border.

    Differences are between neighbors, without the spacing (Rudin, Osher, Fatemi, Physica D 60, 1992); the length is
    over the axes of the image, and over real and imaginary part of complex ones.

    With `weights` w, one for each axis, the length is that of (w_k d_k x): directional total variation.  Images of two
    axes may turn them: at `direction` b in degrees the second weight is of the derivative along (cos b, sin b), x with
    the column and y against the row, and the first one of that across (Bayram and Kamasak, IEEE Signal Process. Lett.
    19, 2012).  A scan of limited angle whose middle view is at b shows edges across (cos b, sin b) best: a second
    weight above the first one leaves the others, which hardly anything shows, free (Chen et al., Phys. Med. Biol. 58,
    2013; Jorgensen et al., Appl. Math. Mod. Challenges 1, 2023).

    Raises `InputError` for weights that are not one positive number an axis, and a direction of other than two axes.
    """

    def __init__(self, space: Space, weights: Sequence[float] | None = None, direction: float = 0.0) -> None:
        super().__init__(space)
        self.axes = len(space.shape) - 1
        if not 1 <= self.axes <= 3:
            raise InputError("penalty 'tv'", f"images {space.shape}", "channels and one to three axes")
        self.frame = _frame(self.axes, weights, direction)
        plain = weights is None and not direction % 90
        self._turn = None if plain else torch.tensor(self.frame, dtype=torch.float64, device="cpu")

    @property
    def bound(self) -> float:
        """At least |D|^2: four times the square of the largest weight an axis."""
        if self._turn is None:
            return 4.0 * self.axes
        # |D x|^2 <= |F|^2 |differences|^2 with the largest singular value of the frame
        return 4.0 * self.axes * float(torch.linalg.matrix_norm(self._turn, 2)) ** 2

    def _mixed(self, z: Tensor, turn: Tensor) -> Tensor:
        return torch.einsum("ij,bcj...->bci...", turn.to(z), z)

    def analyse(self, x: Tensor) -> Tensor:
        """`(B, C, *N)` to `(B, C, axes, *N)`: differences to the next pixel, turned and weighted."""
        z = x.new_zeros(*x.shape[:2], self.axes, *x.shape[2:])
        for k, axis in enumerate(range(-self.axes, 0)):
            n = x.shape[axis]
            z[:, :, k].narrow(axis, 0, n - 1).copy_(x.diff(dim=axis))
        return z if self._turn is None else self._mixed(z, self._turn)

    def synthesise(self, z: Tensor) -> Tensor:
        """The adjoint, minus the divergence."""
        if self._turn is not None:
            z = self._mixed(z, self._turn.mT)
        out = torch.zeros_like(z[:, :, 0])
        for k, axis in enumerate(range(-self.axes, 0)):
            n = z.shape[axis]
            part = z[:, :, k].narrow(axis, 0, n - 1)
            out.narrow(axis, 1, n - 1).add_(part)
            out.narrow(axis, 0, n - 1).sub_(part)
        return out

    def sizes(self, z: Tensor) -> Tensor:
        """Length of the gradient `(B, C, 1, *N)`."""
        squares = z.abs().square() if z.is_complex() else z.square()
        total = squares[:, :, :1]
        for k in range(1, self.axes):  # a sum over a short axis is slow
            total = total + squares[:, :, k : k + 1]
        return total.sqrt()

    def symbol(self, basis: Fourier) -> Tensor:
        """Sum over axes of |w_k d_k|^2, of periodic differences."""
        axes = zip(basis.frequencies(), basis.spacing, strict=True)
        waves = [2 * math.pi * f * d for f, d in axes]
        steps = [torch.polar(torch.ones_like(w), w) - 1 for w in waves]
        mixed = [torch.stack([v * s for v, s in zip(row, steps, strict=True)]).sum(0) for row in self.frame]
        return torch.stack([m.abs().square() for m in mixed]).sum(0)

    def near(self, v: Tensor, threshold: float, box: Box, dual: Tensor | None, rounds: int) -> Near:
        """Fast gradient projection on the dual (Beck and Teboulle, IEEE Trans. Image Process. 18, 2009).

        The bounds are in the primal map, x = nearest(v - D^H p), so that the dual is that of the constrained problem.
        """
        if threshold == 0:
            return Near(box.nearest(v), dual)
        step = 1 / self.bound
        p = torch.zeros_like(self.analyse(v)) if dual is None else dual
        q, t = p, 1.0
        for _ in range(rounds):
            image = box.nearest(v - self.synthesise(q))
            new = self.clip(q + step * self.analyse(image), threshold)
            later = 0.5 * (1 + math.sqrt(1 + 4 * t * t))
            q, p, t = new + (t - 1) / later * (new - p), new, later
        return Near(box.nearest(v - self.synthesise(p)), p)


def _frame(axes: int, weights: Sequence[float] | None, direction: float) -> list[list[float]]:
    """Rows w_k (direction k) on the differences along the axes."""
    given = [1.0] * axes if weights is None else weights
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != axes:
        raise InputError("weights", repr(weights), f"{axes} numbers, one for each axis of the image")
    if not all(isinstance(w, int | float) and math.isfinite(w) and w > 0 for w in given):
        raise InputError("weights", repr(weights), "positive numbers")
    if isinstance(direction, bool) or not isinstance(direction, int | float) or not math.isfinite(direction):
        raise InputError("direction", repr(direction), "an angle in degrees")
    if not direction:
        return [[float(w) * (i == j) for j in range(axes)] for i, w in enumerate(given)]
    if axes != 2:
        raise InputError("direction", f"{direction:g} degrees in {axes} axes", "none, or images of two axes")
    # differences are along the rows (against y) and along the columns (with x)
    cos, sin = math.cos(math.radians(direction)), math.sin(math.radians(direction))
    across, along = (float(w) for w in given)
    return [[across * cos, across * sin], [-along * sin, along * cos]]


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

    def near(self, v: Tensor, threshold: float, box: Box, dual: Tensor | None, rounds: int) -> Near:
        """Soft threshold; with bounds by Dykstra's alternation (Bauschke and Combettes, 2008)."""
        if box.free:
            return Near(self.synthesise(self.shrink(self.analyse(v), threshold)), None)
        x, p, q = v, torch.zeros_like(v), torch.zeros_like(v)
        for _ in range(rounds):
            y = self.synthesise(self.shrink(self.analyse(x + p), threshold))
            p = x + p - y
            x = box.nearest(y + q)
            q = y + q - x
        return Near(x, None)


def make_penalty(
    name: str,
    space: Space,
    family: str,
    levels: int,
    weights: Sequence[float] | None = None,
    direction: float = 0.0,
) -> Penalty:
    """The penalty of images of a space by name; `weights` and `direction` are of total variation."""
    choice("penalty", name, PENALTIES)
    if name == "tv":
        return TotalVariation(space, weights, direction)
    if weights is not None or direction:
        raise InputError("weights, direction", (weights, direction), "none with penalty 'wavelet'", "Use penalty 'tv'.")
    return WaveletPenalty(space, family, levels)
