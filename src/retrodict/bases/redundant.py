"""Redundant wavelet transforms: the undecimated Haar frame, and a Laplacian pyramid with zeros outside."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.bands import Band
from retrodict.bases.dwt import combine, full_precision
from retrodict.bases.filters import pair

__all__ = ["Pyramid", "UndecimatedHaar", "laplacian_pyramid", "pyramid_sizes"]


def whole(value: object) -> bool:
    """Whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# ---- undecimated Haar ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UndecimatedHaar:
    """The Haar transform without subsampling ("a trous"), periodic, along the last `ndim` axes (Coifman, Donoho 1995).

    Per axis and level j: a_j = (a_(j-1)(x) + a_(j-1)(x + 2^(j-1)))/2 and d_j = (a_(j-1)(x) - a_(j-1)(x + 2^(j-1)))/2.
    A tight frame: |a_(j-1)|^2 = |a_j|^2 + |d_j|^2, so the adjoint undoes it, U^T U = 1.  Any size.
    """

    levels: int
    ndim: int = 2

    def __post_init__(self) -> None:
        """Refuse no levels, or axes that are not images."""
        if not whole(self.levels) or not whole(self.ndim) or self.ndim > 3:
            found = f"{self.levels} levels, {self.ndim} axes"
            raise InputError("UndecimatedHaar", found, "at least one level, and 1 to 3 axes")

    @property
    def bands(self) -> list[Band]:
        """Bands (level, name) in the order of the stack: the coarse one first, then from the coarsest to the finest."""
        names = ["".join(letters) for letters in itertools.product("ad", repeat=self.ndim)]
        details = [(level, name) for level in range(self.levels, 0, -1) for name in names[1:]]
        return [(self.levels, names[0]), *details]

    def forward(self, x: Tensor) -> Tensor:
        """X `(..., *N)` to all bands, each of the size of the image: `(..., bands, *N)`."""
        low, found = full_precision(x, "UndecimatedHaar input"), []
        if low.ndim < self.ndim:
            raise InputError("UndecimatedHaar input", tuple(x.shape), f"at least {self.ndim} axes")
        for level in range(1, self.levels + 1):
            parts = [low]
            for axis in range(-self.ndim, 0):
                moved = [(part, part.roll(-(2 ** (level - 1)), axis)) for part in parts]
                parts = [half for a, b in moved for half in ((a + b) / 2, (a - b) / 2)]
            low, found = parts[0], [*parts[1:], *found]
        return torch.stack([low, *found], -self.ndim - 1)

    def adjoint(self, v: Tensor) -> Tensor:
        """The transpose, `(..., bands, *N)` to `(..., *N)`; of what `forward` made it is the image again."""
        count = len(self.bands)
        if v.ndim <= self.ndim or v.shape[-self.ndim - 1] != count:
            raise InputError("UndecimatedHaar adjoint", tuple(v.shape), f"(..., {count}, *N): {count} bands")
        low, *rest = full_precision(v, "UndecimatedHaar input").unbind(-self.ndim - 1)
        details = 2**self.ndim - 1
        for level in range(self.levels, 0, -1):
            parts, rest = [low, *rest[:details]], rest[details:]
            for axis in reversed(range(-self.ndim, 0)):
                pairs = zip(parts[0::2], parts[1::2], strict=True)
                parts = [(a + d) / 2 + ((a - d) / 2).roll(2 ** (level - 1), axis) for a, d in pairs]
            low = parts[0]
        return low


# ---- Laplacian pyramid -----------------------------------------------------------------------------------------------


def pyramid_sizes(n: int, levels: int, family: str = "bior6.8") -> list[int]:
    """Lengths of an axis of n samples at levels 0 to `levels`: each is floor((n + F - 1)/2) of the one before.

    Raises `InputError` where a level is finer than its filter: 2^levels (F - 1) > n, PyWavelets' `dwt_max_level`.
    """
    length = len(pair(family).down)
    if not whole(levels) or 2**levels * (length - 1) > n:
        most = max(0, (n // (length - 1)).bit_length() - 1)
        wanted = f"1 to {most} on {n} samples" if most else f"none: {n} samples are too few"
        raise InputError("pyramid levels", levels, f"{wanted} with {family!r}")
    sizes = [n]
    for _ in range(levels):
        sizes.append((sizes[-1] + length - 1) // 2)
    return sizes


@dataclass(frozen=True)
class Pyramid:
    """A wavelet Laplacian pyramid: the coarse image a_J and the residuals q_0 (of the size of the image) to q_(J-1).

    `outside`: the value beyond the edges, that of the constant image which has no coefficient at all.
    """

    coarse: Tensor
    details: tuple[Tensor, ...]
    family: str
    ndim: int
    outside: float = 0.0

    def image(self) -> Tensor:
        """a_j = up(a_(j+1)) + q_j, down to the image `(..., *N)`: exact for any filters."""
        x = self.coarse
        for detail in reversed(self.details):
            x = _up(x, detail.shape[detail.ndim - self.ndim :], self.family) + detail
        return x + self.outside

    def keeping(self, *levels: int) -> Pyramid:
        """The same with the residuals of all other levels set to zero."""
        kept = (q if j in levels else torch.zeros_like(q) for j, q in enumerate(self.details))
        return replace(self, details=tuple(kept))


def laplacian_pyramid(
    x: Tensor, levels: int, family: str = "bior6.8", *, ndim: int = 3, outside: float = 0.0
) -> Pyramid:
    """The pyramid of x `(..., *N)` along its last `ndim` axes, zeros outside (Hui et al. 2022; Burt, Adelson 1983).

    a_0 = x - outside; a_(j+1) = low(a_j), separable and of stride 2; q_j = a_j - up(a_(j+1)).  PyWavelets' mode "zero":
    an axis of n becomes floor((n + F - 1)/2), 256 -> 136 -> 76 -> 46 for "bior6.8".  A constant grows by 2^(ndim/2) a
    level inside.  `outside`: for a truncated distance its upper end, so that no wall stands at the edge of the volume.

    Raises `InputError` for an unknown family, levels that exceed the size, or values that are no floating point.
    """
    low = full_precision(x, "laplacian_pyramid input") - outside
    if x.ndim < ndim or not 1 <= ndim <= 3:
        raise InputError("laplacian_pyramid input", tuple(x.shape), f"at least {ndim} axes, 1 to 3 of the image")
    for n in x.shape[x.ndim - ndim :]:
        pyramid_sizes(n, levels, family)
    details = []
    for _ in range(levels):
        size, above = low.shape[low.ndim - ndim :], low
        low = _down(low, ndim, family)
        details.append(above - _up(low, size, family))
    return Pyramid(low, tuple(details), family, ndim, outside)


class _Filter(torch.autograd.Function):
    """a[n] = sum_i w_i x[2n + first + i], n < length, zeros outside; its transpose has w_(m-first-2n)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: tuple[float, ...], first: int, length: int, axis: int, transposed: bool
    ) -> Tensor:  # type: ignore[override]
        ctx.rest = (weights, first, x.shape[axis], axis, not transposed)
        return (_spread if transposed else _gather)(x, weights, first, length, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return _Filter.apply(gradient, *ctx.rest), None, None, None, None, None


def _gather(x: Tensor, weights: Sequence[float], first: int, length: int, axis: int) -> Tensor:
    reach = 2 * (length - 1) + first + len(weights)  # one beyond the last sample that is read
    before, start = max(0, -first), max(0, first)
    padded = _zeros_round(x, axis, before, max(0, reach - x.shape[axis]) + 1)
    pairs = [padded.narrow(axis, start + i, 2 * length).unflatten(axis, (length, 2)) for i in range(len(weights))]
    out = torch.empty(_resized(x, axis, length), dtype=x.dtype, device=x.device)
    return combine(out, [(pair.select(axis, 0), 0, w) for pair, w in zip(pairs, weights, strict=True)], axis)


def _spread(a: Tensor, weights: Sequence[float], first: int, length: int, axis: int) -> Tensor:
    out = torch.zeros(_resized(a, axis, length), dtype=a.dtype, device=a.device)
    for shift, w in enumerate(weights, start=first):
        # the samples m = 2 n + shift that fall into the outcome
        low, high = max(0, -(shift // 2)), min(a.shape[axis] - 1, (length - 1 - shift) // 2)
        if low <= high:
            begin = 2 * low + shift
            every = slice(begin, begin + 2 * (high - low) + 1, 2)
            target = out[(..., every, *[slice(None)] * (-axis - 1))]
            target.add_(a.narrow(axis, low, high - low + 1), alpha=w)
    return out


def _resized(x: Tensor, axis: int, n: int) -> tuple[int, ...]:
    return (*x.shape[: x.ndim + axis], n, *x.shape[x.ndim + axis + 1 :])


def _zeros_round(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    edges = [torch.zeros(_resized(x, axis, n), dtype=x.dtype, device=x.device) for n in (before, after)]
    return torch.cat([edges[0], x, edges[1]], axis)


def _down(x: Tensor, ndim: int, family: str) -> Tensor:
    down = pair(family).down
    length, weights = len(down), tuple(down.flip(0).tolist())
    for axis in range(-ndim, 0):
        # a[n] = sum_m down[m] x[2n + 1 - m]: the first sample that is read is 2n + 2 - F
        x = _Filter.apply(x, weights, 2 - length, (x.shape[axis] + length - 1) // 2, axis, False)  # type: ignore[assignment]
    return x


def _up(x: Tensor, size: Sequence[int], family: str) -> Tensor:
    up = pair(family).up
    weights = tuple(up.tolist())
    for axis, n in zip(range(-len(size), 0), size, strict=True):
        # x[m] = sum_n up[m + F - 2 - 2n] a[n]
        x = _Filter.apply(x, weights, 2 - len(up), n, axis, True)  # type: ignore[assignment]
    return x
