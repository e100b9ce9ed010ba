"""What is beyond the border of a measured image: drawn from its law given the image, not made up.

The Fourier basis is periodic, so an image gets a margin.  Mirrored, the margin repeats the noise of the image: the same
measurement is counted twice, and the posterior is too sure of itself at the border (error over variance 1.3 to 2.5 at
the outermost pixel).  What is right is to know nothing there.  With x the image and y_m a margin that nobody measured,

    p(x | y) = integral p(x | y, y_m) p(y_m | y) dy_m ,

so every member of an ensemble gets a margin of its own, drawn from p(y_m | y), a Gaussian with the variance
M = h^2 L + s^2 of the measurement.  Members then differ at the border by what is not known there.

That law is exact for a linear denoiser.  A network sees the texture of a Gaussian margin, which is not that of an
image: its second and later calls spread 25 % more as far as 16 pixels inside.  So its margins have a share of the
deviation (`Denoiser.margin`), measured on held-out images that go on beyond their border (`tasks.in_use`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict.bases import Basis, Cosine, Fourier, Stack
from retrodict.bases.solve import Solution, conjugate_gradients
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.observation import noise_like, ratio

__all__ = ["MARGIN", "Frame", "depth_of", "frame_of", "mirrored", "placed", "say_left", "surrounded"]

TOLERANCE, ROUNDS = 1e-3, 300
"""Residual of the conjugate gradients over what they start from, and the most rounds; about ten are usual.  At the
tolerance the margin is its law to a tenth of the noise or less: its own share of what is not known at the border."""

MARGIN = {1: 16, 2: 16, 3: 8}
"""Pixels of border by the axes of an image: 16 would be half of a volume of 60 slices again."""

log = logging.getLogger("retrodict")


class Frame(NamedTuple):
    """Pixels added before and after each axis; `crop` undoes it."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def crop(self) -> tuple[slice, ...]:
        """The image within its frame."""
        return (..., *(slice(b, n - a) for b, a, n in zip(self.before, self.after, self.size, strict=True)))  # type: ignore[return-value]


def frame_of(size: tuple[int, ...], basis: Basis, margin: int, multiple: int) -> Frame:
    """A margin of `margin` pixels, less than the image is long, on every axis, filled up to a multiple of `multiple`.

    Slices of a `Stack` are independent of each other and get none.
    """
    before, after = [], []
    for axis, n in enumerate(size):
        own = 0 if isinstance(basis, Stack) and axis == 0 else min(margin, n - 1)
        wanted = 1 if isinstance(basis, Stack) and axis == 0 else multiple
        before.append(own)
        after.append(own + -(n + 2 * own) % wanted)
    return Frame(tuple(before), tuple(after), tuple(b + n + a for b, n, a in zip(before, size, after, strict=True)))


def surrounded(denoiser: Denoiser, y: Tensor, frame: Frame, seeds: Tensor | None) -> Tensor:
    """Measured images y `(B, C, *N)` within `frame`, on the grid of the denoiser; `seeds` `(B,)` draw the margin.

    Without seeds the margin is its mean given y: all that a linear denoiser asks of it, and the same in every run.
    Where the law of the data or of the measurement is not known, the image is mirrored (then there is no uncertainty).
    """
    if not any(frame.before) and not any(frame.after):
        return y
    process, prior = denoiser.process, denoiser.prior()
    measured = process.measurement
    if prior is None or measured is None:
        return mirrored(y, frame)
    basis, (mean, variance) = process.basis, prior
    kind = torch.complex128 if y.is_complex() else torch.float64
    M = (measured.h**2 * variance + measured.s2).expand(y.shape[1], *basis.shape)
    center = basis.inverse(
        (measured.h * mean)
        .expand(y.shape[1], *basis.shape)[None]
        .to(basis.forward(y.new_zeros(1, *y.shape[1:2], *basis.size).to(kind)))
    )
    out = []
    for i, one in enumerate(y.to(kind).split(1)):  # item by item, so that a batch is its items
        field = center
        if seeds is not None:
            like = torch.zeros(1, y.shape[1], *basis.size, dtype=kind, device=y.device)
            z = noise_like(like, seeds[i : i + 1], "margin", 0)
            field = field + denoiser.margin * basis.inverse(M.sqrt() * basis.forward(z))
        field = field + _carried(basis, M, frame, one - field[frame.crop])
        field = field.to(y).clone()
        field[frame.crop] = y[i : i + 1]
        out.append(field)
    return torch.cat(out)


def _carried(basis: Basis, M: Tensor, frame: Frame, rest: Tensor) -> Tensor:
    """C P' (P C P')^-1 of a field `rest` that is known within the frame: C has spectrum M, P crops.

    Preconditioned conjugate gradients.  The power M at the frequencies of the cosine transform of the image, which
    continues by mirroring, is nearly diagonal there: 7 to 14 rounds where P C^-1 P', the inverse were there no border,
    takes 16 for much noise and 140 for little.
    """

    def within(table: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: basis.inverse(table * basis.forward(placed(x, frame)))

    spread = within(M)
    if isinstance(basis, Fourier):
        guess = _mirrored_inverse(basis, M, tuple(rest.shape[2:]))
    else:
        inverse = within(ratio(torch.ones_like(M), M))
        guess = lambda x: inverse(x)[frame.crop]  # noqa: E731
    found = conjugate_gradients(lambda x: spread(x)[frame.crop], guess, rest, TOLERANCE, ROUNDS)
    say_left(found)
    return spread(found.x)


def _mirrored_inverse(basis: Fourier, M: Tensor, size: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """The inverse, on images of `size`, of a covariance of power M `(C, *K)` on the grid of `basis`: in cosines."""
    table = M.clamp_min(1e-300).log()
    for axis, (n, whole) in enumerate(zip(size, basis.size, strict=True), start=1):
        half = whole // 2 + 1
        if table.shape[axis] == whole and whole > 1:  # both signs of the frequency: their mean
            other = table.flip(axis).roll(1, axis)
            table = (0.5 * (table + other)).narrow(axis, 0, half)
        place = torch.arange(n, dtype=torch.float64, device=M.device) * whole / (2 * n)  # in steps of the grid
        low = place.floor().long().clamp(max=max(0, half - 2))
        part = (place - low).clamp(0, 1).reshape([-1 if k == axis else 1 for k in range(table.ndim)])
        high = (low + 1).clamp(max=half - 1)
        table = table.index_select(axis, low) * (1 - part) + table.index_select(axis, high) * part
    cosine, weight = Cosine(size, basis.spacing, basis.device), (-table).exp()

    def apply(x: Tensor) -> Tensor:
        if x.is_complex():
            return torch.complex(apply(x.real), apply(x.imag))
        return cosine.inverse(weight * cosine.forward(x))

    return apply


def say_left(found: Solution) -> None:
    """Warn where the conjugate gradients of a margin ended far from its law."""
    if found.left > 1e-2:
        log.warning(
            "the margin of the image is its law only to %.1g: deviations at the border are uncertain", found.left
        )


def depth_of(size: Sequence[int], most: int, axes: Sequence[int]) -> Tensor:
    """Pixels between each pixel and the nearest end of one of `axes`, at most `most`; `(*size)` int64 on the CPU."""
    depth = torch.full(tuple(size), most, dtype=torch.int64, device="cpu")
    for axis in axes:
        place = torch.arange(size[axis], device="cpu")
        line = torch.minimum(place, size[axis] - 1 - place)
        depth = torch.minimum(depth, line.reshape([-1 if k == axis else 1 for k in range(len(size))]))
    return depth


def placed(x: Tensor, frame: Frame) -> Tensor:
    """Images `(..., *n)` within `frame`, which is filled with zeros."""
    out = x.new_zeros(*x.shape[: -len(frame.size)], *frame.size)
    out[frame.crop] = x
    return out


def mirrored(x: Tensor, frame: Frame) -> Tensor:
    """Images `(B, C, *N)` within `frame`, which is filled with what is mirrored at their borders."""
    if x.is_complex():
        return torch.complex(mirrored(x.real, frame), mirrored(x.imag, frame))
    size = x.shape[2:]
    pairs = [(b, min(a, n - 1) if b else a) for b, a, n in zip(frame.before, frame.after, size, strict=True)]
    flat = [p for pair in reversed(pairs) for p in pair]
    filled = F.pad(x, flat, mode="reflect" if any(frame.before) else "circular")
    short = [n - m for n, m in zip(frame.size, filled.shape[2:], strict=True)]
    return F.pad(filled, [p for m in reversed(short) for p in (0, m)], mode="replicate") if any(short) else filled
