"""The periodised wavelet transform by strided convolution, and its exact adjoint, in one to three dimensions.

Along an axis of even length N, with low-pass taps h and g_i = (-1)^i h_(F-1-i) (Mallat 1989; Daubechies 1988),

    a[n] = sum_i h_i x[2n + start + i mod N] ,     d[n] = sum_i g_i x[2n + start + i mod N] ,     n = 0 ... N/2 - 1 .

start = 1 - F/2 is the alignment of PyWavelets' mode "periodization", start = 0 the "causal" one; they differ by a shift
of the image.  x is split into its even and odd samples once, and every tap is then one fused multiply-add of contiguous
halves; two taps, those of Haar, are a sum and a difference, scaled once for all axes.  No matrix and no library of
convolutions, so that the bits of an image do not depend on the batch it is in, nor on autocast, nor on a reduced
precision that the caller allows in matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.filters import FAMILIES, taps

__all__ = ["Alignment", "Steps", "combine", "full_precision", "levels_of", "steps_of", "transform"]

Alignment = Literal["causal", "centered"]
"""Where a filter stands: it begins at its sample, or as in PyWavelets half of it lies before."""

_TILE = 2**17
"""Numbers that are transformed together on a CPU, so that they stay in its nearest caches through all taps."""


class Steps(NamedTuple):
    """A transform: taps of low- and high-pass, first sample, and for every level the axes (from the end) it splits."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    start: int
    axes: tuple[tuple[int, ...], ...]

    @property
    def rank(self) -> int:
        """Trailing axes that are touched."""
        return max((-axis for axes in self.axes for axis in axes), default=0)


def levels_of(levels: int | Sequence[int], ndim: int, where: str = "levels") -> tuple[int, ...]:
    """Levels of every axis: one number for all, or one each (0 leaves an axis as it is)."""
    each: tuple[int, ...] = tuple(levels) if isinstance(levels, list | tuple) else (levels,) * ndim  # type: ignore[assignment]
    if len(each) != ndim or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in each) or not any(each):
        raise InputError(where, levels, f"a positive whole number, or {ndim} of at least 0, one for every axis")
    return each


def steps_of(family: str, levels: Sequence[int], alignment: Alignment = "centered") -> Steps:
    """The transform of a family with `levels` on each of the trailing axes."""
    low = taps(family).tolist()
    high = [(-1.0) ** i * v for i, v in enumerate(reversed(low))]
    start = {"causal": 0, "centered": 1 - FAMILIES[family]}[alignment]
    every = range(1, max(levels) + 1)
    axes = tuple(tuple(a - len(levels) for a, n in enumerate(levels) if n >= level) for level in every)
    return Steps(tuple(low), tuple(high), start, axes)


def full_precision(x: Tensor, where: str) -> Tensor:
    """X in at least single precision: half precision loses three digits in a transform and is converted to float32."""
    if not isinstance(x, Tensor):
        raise InputError(where, type(x).__name__, "a torch tensor", "Convert with torch.as_tensor(x).")
    if not (x.is_floating_point() or x.is_complex()):
        raise InputError(where, f"{x.dtype} values", "real or complex floating point", "Convert with x.float().")
    half = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}
    return x.to(half.get(x.dtype, x.dtype))


def transform(x: Tensor, steps: Steps, *, inverse: bool = False) -> Tensor:
    """Coefficients in place (coarse ones in the low corner, Mallat's layout) of x `(..., *N)`, or x from coefficients.

    Real or complex, float32 or float64; differentiable any number of times, in forward mode and under vmap.  Every
    axis has to be divisible by 2^levels.
    """
    return _Transform.apply(x, steps, inverse)  # type: ignore[return-value]


class _Transform(torch.autograd.Function):
    """The map and its adjoint are inverses, so each is the derivative of the other."""

    @staticmethod
    def forward(x: Tensor, steps: Steps, inverse: bool) -> Tensor:  # type: ignore[override]
        items = x.reshape(-1, *x.shape[x.ndim - steps.rank :])
        run = _synthesis if inverse else _analysis
        # on a CPU, as many images at a time as stay in its cache; the bits of each do not depend on it
        count = max(1, _TILE // max(1, math.prod(items.shape[1:]))) if x.device.type == "cpu" else max(1, len(items))
        out = torch.empty(items.shape, dtype=x.dtype, device=x.device)
        for first in range(0, len(items), count):
            run(items[first : first + count], steps, out[first : first + count])
        return out.reshape(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.steps, ctx.inverse = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return transform(gradient, ctx.steps, inverse=not ctx.inverse), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:  # type: ignore[override]
        return transform(tangent, ctx.steps, inverse=ctx.inverse)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, steps: Steps, inverse: bool) -> tuple[Tensor, int]:
        return transform(x.movedim(in_dims[0] or 0, 0), steps, inverse=inverse), 0


def _corner(u: Tensor, axes: Sequence[int]) -> Tensor:
    """The half with low indices along axes: a view."""
    for axis in axes:
        u = u.narrow(axis, 0, u.shape[axis] // 2)
    return u


def _tiles(half: int, out: Tensor) -> Sequence[tuple[int, int]]:
    """First and number of outputs along an axis that are computed together: on a CPU what stays in its cache."""
    count = max(1, _TILE * half // max(1, out.numel())) if out.device.type == "cpu" else half
    return [(first, min(count, half - first)) for first in range(0, half, count)]


def _analysis(x: Tensor, steps: Steps, out: Tensor) -> None:
    part = out
    for axes in steps.axes:
        half = x.shape[axes[0]] // 2
        for first, count in _tiles(half, part):
            tile = _split(x, steps, axes[0], first, count)
            for axis in axes[1:]:
                tile = _split(tile, steps, axis, 0, tile.shape[axis] // 2)
            for place, band in ((first, 0), (half + first, count)):
                _scaled(tile.narrow(axes[0], band, count), steps, axes, part.narrow(axes[0], place, count))
        part = _corner(part, axes)
        if axes is not steps.axes[-1]:
            x = part.clone()


def _synthesis(u: Tensor, steps: Steps, out: Tensor) -> None:
    out.copy_(u)
    parts = [out]
    for axes in steps.axes[:-1]:
        parts.append(_corner(parts[-1], axes))
    for part, axes in zip(reversed(parts), reversed(steps.axes), strict=True):
        source = part.clone()
        for first, count in _tiles(source.shape[axes[0]] // 2, part):
            tile = _merge(source, steps, axes[0], first, count)
            for axis in axes[1:]:
                tile = _merge(tile, steps, axis, 0, tile.shape[axis] // 2)
            _scaled(tile, steps, axes, part.narrow(axes[0], 2 * first, 2 * count))


def _scaled(tile: Tensor, steps: Steps, axes: Sequence[int], out: Tensor) -> None:
    """What was made along `axes`, into out: of two taps it has no weights yet."""
    if len(steps.low) == 2:
        torch.mul(tile, steps.low[0] ** len(axes), out=out)
    else:
        out.copy_(tile)


def _split(x: Tensor, steps: Steps, axis: int, first: int, count: int) -> Tensor:
    """One level of analysis along an axis (counted from the end), outputs n = first ... first + count - 1 of either
    filter: low ones, then high ones.  Of two taps without their weights (`_scaled`).
    """
    pairs = x.unflatten(axis, (-1, 2))
    if len(steps.low) == 2:
        even, odd = (pairs.select(axis, parity).narrow(axis, first, count) for parity in (0, 1))
        out = torch.empty(_resized(x, axis, 2 * count), dtype=x.dtype, device=x.device)
        torch.add(even, odd, out=out.narrow(axis, 0, count))
        torch.sub(even, odd, out=out.narrow(axis, count, count))
        return out
    where = [divmod(steps.start + i, 2) for i in range(len(steps.low))]  # (shift, even or odd) of every tap
    begin, reach = where[0][0], where[-1][0] - where[0][0]
    samples = [_periodic(pairs.select(axis, parity), axis, first + begin, count + reach) for parity in (0, 1)]
    out = torch.empty(_resized(x, axis, 2 * count), dtype=x.dtype, device=x.device)
    for place, filt in ((0, steps.low), (count, steps.high)):
        terms = [(samples[parity], shift - begin, w) for (shift, parity), w in zip(where, filt, strict=True)]
        combine(out.narrow(axis, place, count), terms, axis)
    return out


def _merge(u: Tensor, steps: Steps, axis: int, first: int, count: int) -> Tensor:
    """The transpose of `_split`: samples 2 first ... 2 (first + count) - 1."""
    half = u.shape[axis] // 2
    if len(steps.low) == 2:
        low, high = (u.narrow(axis, place + first, count) for place in (0, half))
        out = torch.empty(_resized(u, axis, 2 * count), dtype=u.dtype, device=u.device)
        pairs = out.unflatten(axis, (count, 2))
        torch.add(low, high, out=pairs.select(axis, 0))
        torch.sub(low, high, out=pairs.select(axis, 1))
        return out
    where = [divmod(steps.start + i, 2) for i in range(len(steps.low))]
    last, reach = where[-1][0], where[-1][0] - where[0][0]
    bands = [_periodic(u.narrow(axis, place, half), axis, first - last, count + reach) for place in (0, half)]
    out = torch.empty(_resized(u, axis, 2 * count), dtype=u.dtype, device=u.device)
    for parity in (0, 1):
        terms = [
            (band, last - shift, w)
            for band, filt in zip(bands, (steps.low, steps.high), strict=True)
            for (shift, own), w in zip(where, filt, strict=True)
            if own == parity
        ]
        found = combine(torch.empty(_resized(u, axis, count), dtype=u.dtype, device=u.device), terms, axis)
        out.unflatten(axis, (count, 2)).select(axis, parity).copy_(found)
    return out


def _resized(x: Tensor, axis: int, n: int) -> tuple[int, ...]:
    return (*x.shape[: x.ndim + axis], n, *x.shape[x.ndim + axis + 1 :])


def _periodic(part: Tensor, axis: int, begin: int, length: int) -> Tensor:
    """`length` samples from `begin` on, of a signal that repeats: a view where lines of it are contiguous."""
    n = part.shape[axis]
    if begin >= 0 and begin + length <= n:
        inside = part.narrow(axis, begin, length)
        return inside if part.stride(-1) == 1 else inside.contiguous()
    pieces, done = [], 0
    while done < length:
        place = (begin + done) % n
        pieces.append(part.narrow(axis, place, min(n - place, length - done)))
        done += pieces[-1].shape[axis]
    return torch.cat(pieces, axis)


def combine(out: Tensor, terms: Sequence[tuple[Tensor, int, float]], axis: int) -> Tensor:
    """Out = sum of weight times source shifted along axis, over (source, shift, weight); returns out."""
    n = out.shape[axis]
    for i, (source, shift, weight) in enumerate(terms):
        view = source.narrow(axis, shift, n)
        if i == 0:
            torch.mul(view, weight, out=out)
        else:
            out.add_(view, alpha=weight)
    return out
