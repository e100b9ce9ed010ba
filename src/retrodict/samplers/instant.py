"""A posterior from one call: the mean, its deviation and any number of members.

The answer of the denoiser to the measurement is E[x_0 | y], and the law of its error is that of x_0 given y: a draw is
the mean and a draw of the error.  What lies beyond the border of the image is not measured (`samplers.margin`).  The
call sees the mean of it, given y; how the answer would vary with it is told by the Gaussian twin, whose calls cost a
Fourier transform.  That variation does not depend on y, only on how far the border is: its variance is found once, on a
small image, and members that are kept have a margin of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.observation import noise_like
from retrodict.samplers.loop import answer
from retrodict.samplers.margin import Frame, depth_of, frame_of, surrounded

__all__ = ["Instant", "at_border", "beyond", "instant"]

SIDE, DRAWS = 64, 8
"""Side of the image on which the variance at a border is found, and margins drawn for it."""

NO_SEED = torch.zeros(1, dtype=torch.int64, device="cpu")
"""A start at the measurement draws nothing."""


class Instant(NamedTuple):
    """E[x_0 | y] `(1, C, *N)` and, where members were asked for, the variance of x_0 `(1, C, *N)` per real component
    and the members `(K, C, *N)`.
    """

    mean: Tensor
    variance: Tensor | None = None
    members: Tensor | None = None


def instant(
    denoiser: Denoiser,
    y: Tensor,
    frame: Frame,
    seeds: Tensor | None = None,
    edge: Tensor | None = None,
    *,
    whole: bool = True,
) -> Instant:
    """One call at the measured image y `(1, C, *N)`; `seeds` `(K,)` ask for the deviation and for K members.

    edge: `beyond` of the denoiser and frame, where it is known already.  whole: False leaves the margin of the members
    at its mean, which costs less: they then lack what is not known at the border, and the variance does not.

    Raises `InputError` for a process that does not start at its measurement, and for a denoiser that does not know the
    law of its error where it is asked for.
    """
    if not denoiser.process.pairing.starts:
        raise InputError("instant", "a process that starts at random", "one that starts at the measurement")
    around, crop = surrounded(denoiser, y, frame, None), frame.crop
    found = answer(denoiser, around, NO_SEED)
    if seeds is None:
        return Instant(found.mean[crop])
    if found.spread is None:
        raise InputError("instant", "a denoiser that does not know its error law", "one with a spread, or {point}")
    edge = beyond(denoiser, frame) if edge is None else edge
    mean, wide = found.mean[crop], at_border(denoiser.border, frame).to(found.mean.real)
    variance = wide * (found.spread.variance()[crop].expand_as(mean.real) + edge.to(found.mean.real))
    like = found.mean.expand(found.spread.fields, *found.mean.shape).transpose(0, 1)
    twin = denoiser.gaussian() if whole and bool((edge > 0).any()) else None
    center = found.mean if twin is None else answer(twin, around, NO_SEED).mean
    members = []
    for k in range(len(seeds)):
        z = noise_like(like, seeds[k : k + 1], "instant", 0).transpose(0, 1)
        with torch.no_grad():  # a law may be one of networks
            error = found.spread.draw(z)
        if twin is not None:
            error = error + answer(twin, surrounded(denoiser, y, frame, seeds[k : k + 1]), NO_SEED).mean - center
        members.append(mean + wide.sqrt() * error[crop])
    return Instant(mean, variance, torch.cat(members))


def at_border(factors: Sequence[float], frame: Frame) -> Tensor:
    """Factors `(*N)` on the variance by the distance from the nearest border that has a margin; 1 farther inside."""
    size = [n - b - a for n, b, a in zip(frame.size, frame.before, frame.after, strict=True)]
    axes = [k for k in range(len(size)) if frame.before[k] or frame.after[k]]
    depth = depth_of(size, len(factors), axes)
    return torch.tensor([*factors, 1.0], dtype=torch.float64, device="cpu")[depth]


def beyond(denoiser: Denoiser, frame: Frame) -> Tensor:
    """Variance `(*N)` of the posterior mean over what is not known beyond the border; of the Gaussian twin.

    On an image of `SIDE` pixels: mean square of how the answers to `DRAWS` margins differ, along each axis over the
    distance from its ends, away from the corners.  At a corner the two are added.
    """
    size = tuple(n - b - a for n, b, a in zip(frame.size, frame.before, frame.after, strict=True))
    twin = denoiser.gaussian()
    total = torch.zeros(size, dtype=torch.float64, device=denoiser.process.basis.device)
    if twin is None or not (any(frame.before) or any(frame.after)):
        return total
    basis = denoiser.process.basis
    small = tuple(min(n, SIDE) if b or a else 1 for n, b, a in zip(size, frame.before, frame.after, strict=True))
    around = frame_of(small, basis, max(frame.before), denoiser.multiple)
    bound = twin.on(around.size)
    prior = bound.prior()
    channels = 1 if prior is None or prior[1].ndim <= basis.ndim else prior[1].shape[0]
    kind = torch.complex128 if basis.complex else torch.float64
    nothing = torch.zeros(1, channels, *small, dtype=kind, device=basis.device)
    center = answer(bound, surrounded(bound, nothing, around, None), NO_SEED).mean
    squares = torch.zeros(small, dtype=torch.float64, device=basis.device)
    for seed in torch.arange(DRAWS, device="cpu").split(1):
        shift = (answer(bound, surrounded(bound, nothing, around, seed), NO_SEED).mean - center)[around.crop]
        squares += denoiser.margin**2 * shift.abs().square().mean((0, 1)) / (DRAWS * (2 if basis.complex else 1))
    for axis, n in enumerate(small):
        if n > 1:
            total = total + _along(_profile(squares, axis), size[axis], axis, len(size))
    return total


def _profile(squares: Tensor, axis: int) -> Tensor:
    """Mean of `squares` over the distance from both ends of an axis, in the middle half of the others."""
    for other, n in enumerate(squares.shape):
        if other != axis and n > 1:
            squares = squares.narrow(other, n // 4, n - 2 * (n // 4)).mean(other, keepdim=True)
    line = squares.flatten()
    line = 0.5 * (line + line.flip(0))
    return line[: (len(line) + 1) // 2]


def _along(profile: Tensor, n: int, axis: int, ndim: int) -> Tensor:
    """A profile over the distance from both ends of an axis of n pixels; 0 where it ends."""
    place = torch.arange(n, device=profile.device)
    distance = torch.minimum(place, n - 1 - place)
    values = torch.where(distance < len(profile), profile[distance.clamp(max=len(profile) - 1)], 0.0)
    return values.reshape([n if k == axis else 1 for k in range(ndim)])
