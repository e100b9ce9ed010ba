"""The periodised wavelet transform by strided convolution, and its exact adjoint, in one to three dimensions.

Along an axis of even length N, with low-pass taps h and g_i = (-1)^i h_(F-1-i) (Mallat 1989; Daubechies 1988),

    a[n] = sum_i h_i x[2n + start + i mod N] ,     d[n] = sum_i g_i x[2n + start + i mod N] ,     n = 0 ... N/2 - 1 .

start = 1 - F/2 is the alignment of PyWavelets' mode "periodization", start = 0 the "causal" one; they differ by a shift
of the image.  x is split into its even and odd samples once, and every tap is then one fused multiply-add of contiguous
halves: no matrix, no library of convolutions, so that the bits of an image do not depend on the batch it is in, nor on
autocast, nor on a reduced precision that the caller allows in matrix products.
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

_BLOCK = 2**18
"""Numbers of a batch that are transformed together on a CPU: they stay in its cache."""


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
    each = (levels,) * ndim if isinstance(levels, int) else tuple(levels)
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
        lead = x.shape[: x.ndim - steps.rank]
        items = x.reshape(-1, *x.shape[x.ndim - steps.rank :])
        run = _synthesis if inverse else _analysis
        count = max(1, _BLOCK // max(1, math.prod(items.shape[1:]))) if x.device.type == "cpu" else len(items)
        if len(items) <= count:
            return run(items, steps).reshape(x.shape)
        out = torch.empty(items.shape, dtype=x.dtype, device=x.device)
        for first in range(0, len(items), count):
            out[first : first + count] = run(items[first : first + count], steps)
        return out.reshape(*lead, *items.shape[1:])

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


def _analysis(x: Tensor, steps: Steps) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    part = out
    for axes in steps.axes:
        for axis in axes:
            x = _split(x, steps, axis)
        part.copy_(x)
        part = _corner(part, axes)
        x = part  # read on in place: splitting copies
    return out


def _synthesis(u: Tensor, steps: Steps) -> Tensor:
    x = u.clone(memory_format=torch.contiguous_format)
    parts = [x]
    for axes in steps.axes[:-1]:
        parts.append(_corner(parts[-1], axes))
    for part, axes in zip(reversed(parts), reversed(steps.axes), strict=True):
        merged = part
        for axis in reversed(axes):
            merged = _merge(merged, steps, axis)
        part.copy_(merged)
    return x


def _split(x: Tensor, steps: Steps, axis: int) -> Tensor:
    """One level of analysis along an axis (counted from the end): the low half, then the high half."""
    half = x.shape[axis] // 2
    pairs = x.unflatten(axis, (half, 2))
    where = [divmod(steps.start + i, 2) for i in range(len(steps.low))]  # (shift, even or odd) of every tap
    before, after = max(0, -where[0][0]), max(0, where[-1][0])
    samples = [_extended(pairs.select(axis, parity), axis, before, after) for parity in (0, 1)]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for first, filt in ((0, steps.low), (half, steps.high)):
        terms = [(samples[parity], before + shift, w) for (shift, parity), w in zip(where, filt, strict=True)]
        combine(out.narrow(axis, first, half), terms, axis)
    return out


def _merge(u: Tensor, steps: Steps, axis: int) -> Tensor:
    """The transpose of `_split`."""
    half = u.shape[axis] // 2
    where = [divmod(steps.start + i, 2) for i in range(len(steps.low))]
    before, after = max(0, where[-1][0]), max(0, -where[0][0])
    bands = [_extended(u.narrow(axis, first, half), axis, before, after) for first in (0, half)]
    parities = []
    for parity in (0, 1):
        terms = [
            (band, before - shift, w)
            for band, filt in zip(bands, (steps.low, steps.high), strict=True)
            for (shift, own), w in zip(where, filt, strict=True)
            if own == parity
        ]
        shape = (*u.shape[: u.ndim + axis], half, *u.shape[u.ndim + axis + 1 :])
        parities.append(combine(torch.empty(shape, dtype=u.dtype, device=u.device), terms, axis))
    return torch.stack(parities, axis).flatten(axis - 1, axis)


def _extended(part: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Contiguous copy continued periodically by `before` and `after` samples."""
    n = part.shape[axis]
    if max(before, after) > n:  # a filter longer than the signal wraps more than once
        index = torch.arange(-before, n + after, device=part.device) % n
        return part.index_select(axis, index)
    pieces = [part.narrow(axis, n - before, before), part, part.narrow(axis, 0, after)]
    return torch.cat([piece for piece in pieces if piece.shape[axis]], axis) if before or after else part.contiguous()


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
