"""The coefficients of a wavelet transform in three layouts: by band, in place, and as a stack of channels.

A band is (level, name): level 1 is the finest, and the name has one letter an axis, in the order of the axes: "a" low-
pass or not split at that level, "d" high-pass, as `pywt.dwtn` has it.  The coarse band is (J, "a...a").  In place is
Mallat's: the shape of the image, coarse in the corner of low indices.  The stack holds every coefficient too: bands of
the finer levels are cut into the cosets of the coarse grid ("space to depth"), so that all channels have its size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases.dwt import Alignment, full_precision, levels_of, steps_of, transform

__all__ = ["Band", "Bands", "dwt", "join", "named", "split", "stack", "unstack"]

Band = tuple[int, str]
"""Level, 1 the finest, and a letter an axis."""


def named(size: Sequence[int], levels: Sequence[int]) -> dict[Band, tuple[slice, ...]]:
    """Where every band lies in the layout in place: the coarse one first, then from the coarsest details to the finest.

    size: divisible by 2^levels along every axis.
    """
    deepest, ndim = max(levels), len(levels)
    places: dict[Band, tuple[slice, ...]] = {}
    for level in range(deepest, 0, -1):
        letters = ["ad" if n >= level else "a" for n in levels]
        for name in map("".join, itertools.product(*letters)):
            if level == deepest or name != "a" * ndim:
                width = [n >> min(level, own) for n, own in zip(size, levels, strict=True)]
                places[level, name] = tuple(
                    slice(w, 2 * w) if x == "d" else slice(0, w) for w, x in zip(width, name, strict=True)
                )
    return places


def split(u: Tensor, levels: Sequence[int]) -> dict[Band, Tensor]:
    """Bands of coefficients in place `(..., *N)`: views."""
    return {band: u[(..., *place)] for band, place in named(u.shape[u.ndim - len(levels) :], levels).items()}


def join(parts: Mapping[Band, Tensor], levels: Sequence[int]) -> Tensor:
    """Inverse of `split`: coefficients in place `(..., *N)`.

    Raises `InputError` for a band too many, one that lacks, or one of another shape.
    """
    ndim, deepest = len(levels), max(levels)
    coarse = parts.get((deepest, "a" * ndim))
    if coarse is None:
        raise InputError("bands", sorted(parts), f"the coarse band {(deepest, 'a' * ndim)} among them")
    lead, small = coarse.shape[: coarse.ndim - ndim], coarse.shape[coarse.ndim - ndim :]
    places = named([n << own for n, own in zip(small, levels, strict=True)], levels)
    if set(places) != set(parts):
        raise InputError("bands", sorted(parts), f"the bands {sorted(places)}")
    for band, place in places.items():
        shape = (*lead, *(part.stop - part.start for part in place))
        if tuple(parts[band].shape) != shape:
            raise InputError(f"band {band}", tuple(parts[band].shape), f"the shape {shape}")
    return _joined(parts, levels, 1)


def _joined(parts: Mapping[Band, Tensor], levels: Sequence[int], level: int) -> Tensor:
    """By concatenation, level by level, so that gradients reach every band."""
    inner = parts[level, "a" * len(levels)] if level == max(levels) else _joined(parts, levels, level + 1)
    pieces = {name: part for (own, name), part in parts.items() if own == level} | {"a" * len(levels): inner}
    for axis in range(len(levels)):
        if levels[axis] < level:
            continue
        pairs = [name for name in pieces if name[axis] == "a"]
        both = {name: (pieces[name], pieces[f"{name[:axis]}d{name[axis + 1 :]}"]) for name in pairs}
        pieces = {name: torch.cat(pair, axis - len(levels)) for name, pair in both.items()}
    return pieces["a" * len(levels)]


def _folds(level: int, levels: Sequence[int]) -> list[int]:
    """Coefficients of a band of a level to one of the coarse band, along every axis."""
    return [1 << (own - min(level, own)) for own in levels]


def stack(u: Tensor, levels: Sequence[int]) -> Tensor:
    """Coefficients in place `(..., C, *N)` as channels `(..., C prod 2^levels, *N / 2^levels)`.

    Channels go band by band in the order of `named`, within a band coset by coset, the channels of the image innermost.
    For one level they are the bands a...a first, each with its C channels (Phung et al. 2023; Friedrich et al. 2024).
    """
    ndim = len(levels)
    if u.ndim <= ndim:
        raise InputError("channel stack", tuple(u.shape), f"(..., C, *N): a channel axis before {ndim} of the image")
    lead, coarse = u.shape[: u.ndim - ndim - 1], [n >> own for n, own in zip(u.shape[-ndim:], levels, strict=True)]
    parts = []
    for (level, _), part in split(u, levels).items():
        pairs = itertools.chain.from_iterable(zip(coarse, _folds(level, levels), strict=True))
        cut = part.reshape(-1, u.shape[-ndim - 1], *pairs)
        cut = cut.permute(0, *range(3, 3 + 2 * ndim, 2), 1, *range(2, 2 + 2 * ndim, 2))
        parts.append(cut.reshape(len(cut), -1, *coarse))
    return torch.cat(parts, 1).reshape(*lead, -1, *coarse)


def unstack(v: Tensor, levels: Sequence[int]) -> Tensor:
    """Inverse of `stack`.  Raises `InputError` where the channels are no multiple of what the levels make."""
    ndim, count = len(levels), 2 ** sum(levels)
    if v.ndim <= ndim or v.shape[-ndim - 1] % count:
        raise InputError("channel stack", tuple(v.shape), f"(..., C, *N) with a multiple of {count} channels")
    lead, coarse = v.shape[: v.ndim - ndim - 1], v.shape[-ndim:]
    channels = v.shape[-ndim - 1] // count
    places = named([n << own for n, own in zip(coarse, levels, strict=True)], levels)
    pieces = v.reshape(-1, *v.shape[-ndim - 1 :]).split([channels * math.prod(_folds(b[0], levels)) for b in places], 1)
    parts = {}
    for (level, name), piece in zip(places, pieces, strict=True):
        folds = _folds(level, levels)
        cut = piece.reshape(len(piece), *folds, channels, *coarse)
        pairs = itertools.chain.from_iterable((ndim + 2 + a, 1 + a) for a in range(ndim))
        cut = cut.permute(0, ndim + 1, *pairs)
        parts[level, name] = cut.reshape(*lead, channels, *(n * f for n, f in zip(coarse, folds, strict=True)))
    return join(parts, levels)


# ---- images of any size ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bands:
    """Coefficients of an image `(..., *N)` of any size, with all that undoes the transform.

    coefficients: in place, `(..., *P)`, P the size `size` = N continued to a multiple of 2^levels along every axis.
    """

    coefficients: Tensor
    size: tuple[int, ...]
    levels: tuple[int, ...]
    family: str
    alignment: Alignment = "centered"

    @property
    def pad(self) -> tuple[int, ...]:
        """Samples that were added at the end of every axis."""
        grid = self.coefficients.shape[self.coefficients.ndim - len(self.size) :]
        return tuple(p - n for p, n in zip(grid, self.size, strict=True))

    @property
    def parts(self) -> dict[Band, Tensor]:
        """By band."""
        return split(self.coefficients, self.levels)

    def stack(self) -> Tensor:
        """As channels: `(..., C, *N)` becomes `(..., C prod 2^levels, *P / 2^levels)`."""
        return stack(self.coefficients, self.levels)

    def with_coefficients(self, u: Tensor) -> Bands:
        """Other coefficients in place of the same grid."""
        grid, ndim = self.coefficients.shape[-len(self.size) :], len(self.size)
        if tuple(u.shape[-ndim:]) != tuple(grid):
            raise InputError("coefficients", tuple(u.shape), f"(..., {', '.join(map(str, grid))})")
        return Bands(u, self.size, self.levels, self.family, self.alignment)

    def with_parts(self, parts: Mapping[Band, Tensor]) -> Bands:
        """Other bands of the same shapes."""
        return self.with_coefficients(join(parts, self.levels))

    def with_stack(self, v: Tensor) -> Bands:
        """Another stack of channels of the same grid."""
        return self.with_coefficients(unstack(v, self.levels))

    def image(self) -> Tensor:
        """The inverse transform, cut to the size of the image: `(..., *N)`."""
        x = transform(self.coefficients, steps_of(self.family, self.levels, self.alignment), inverse=True)
        return x[(..., *(slice(0, n) for n in self.size))]


def dwt(
    x: Tensor,
    family: str = "db2",
    levels: int | Sequence[int] = 1,
    *,
    ndim: int = 2,
    alignment: Alignment = "centered",
) -> Bands:
    """The orthonormal, periodised wavelet transform of x `(..., *N)` along its last `ndim` axes (Mallat 1989).

    family: "haar", "db1" to "db8", "sym4" to "sym8".  levels: of every axis, or one number each; 0 leaves an axis as it
    is.  alignment: "centered" is PyWavelets' mode "periodization", "causal" that of the basis `Wavelet`.  Sizes that
    2^levels does not divide are first continued by mirrored samples at the end (`Bands.pad`), and cut by the inverse;
    the transform of what was added is orthonormal, that of the image alone then is not.  float32, float64 and complex
    keep their dtype; half precision is computed and returned in float32.

    Raises `InputError` for an unknown family or alignment, levels that exceed the size (2^(levels - 1) >= N), or values
    that are no floating point numbers.
    """
    x = full_precision(x, "dwt input")
    each = levels_of(levels, ndim, "dwt levels")
    if x.ndim < ndim or not 1 <= ndim <= 3:
        raise InputError("dwt input", tuple(x.shape), f"at least {ndim} axes, of which 1 to 3 are transformed")
    choice("dwt alignment", alignment, get_args(Alignment))
    size = tuple(x.shape[x.ndim - ndim :])
    if any(own and 2 ** (own - 1) >= n for n, own in zip(size, each, strict=True)):
        raise InputError("dwt levels", levels, f"fewer: an axis of {size} is used up", "N > 2^(levels - 1).")
    steps = steps_of(family, each, alignment)
    for axis, (n, own) in enumerate(zip(size, each, strict=True), start=-ndim):
        x = _mirrored(x, axis, -n % 2**own)
    return Bands(transform(x, steps), size, each, family, alignment)


def _mirrored(x: Tensor, axis: int, extra: int) -> Tensor:
    """X continued by `extra` samples at the end, mirrored with the last one repeated, as often as it takes."""
    if not extra:
        return x
    n = x.shape[axis]
    index = torch.arange(n + extra, device=x.device) % (2 * n)
    return x.index_select(axis, torch.where(index < n, index, 2 * n - 1 - index))
