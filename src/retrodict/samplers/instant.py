"""A posterior from one call: the mean, its deviation and any number of members.

The answer of the denoiser to the measurement is E[x_0 | y], and the law of its error is that of x_0 given y: a draw is
the mean and a draw of the error.  What lies beyond the border of the image is not measured (`samplers.margin`).  The
call sees the mean of it, given y; how the answer would vary with it is told by the Gaussian twin, whose calls cost a
Fourier transform: every member has a margin of its own there, and the variance of that is added.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser, Estimate
from retrodict.processes.observation import noise_like
from retrodict.samplers.loop import start_state
from retrodict.samplers.margin import Frame, surrounded

__all__ = ["Instant", "instant"]


class Instant(NamedTuple):
    """E[x_0 | y] `(1, C, *N)` and, where members were asked for, the variance of x_0 `(1, C, *N)` per real component
    and the members `(K, C, *N)`.
    """

    mean: Tensor
    variance: Tensor | None = None
    members: Tensor | None = None


def instant(denoiser: Denoiser, y: Tensor, frame: Frame, seeds: Tensor | None = None) -> Instant:
    """One call at the measured image y `(1, C, *N)`; `seeds` `(K,)` ask for the deviation and for K members.

    Raises `InputError` for a process that does not start at its measurement, and for a denoiser that does not know the
    law of its error where it is asked for.
    """
    if not denoiser.process.pairing.starts:
        raise InputError("instant", "a process that starts at random", "one that starts at the measurement")
    around, crop = surrounded(denoiser, y, frame, None), frame.crop
    found = _answer(denoiser, around)
    if seeds is None:
        return Instant(found.mean[crop])
    if found.spread is None:
        raise InputError("instant", "a denoiser that does not know its error law", "one with a spread, or {point}")
    variance = found.spread.variance()[crop].expand_as(found.mean[crop].real)
    twin = denoiser.gaussian() if any(frame.before) or any(frame.after) else None
    center = found.mean[crop] if twin is None else _answer(twin, around).mean[crop]
    members, beyond = [], torch.zeros_like(variance)
    for k in range(len(seeds)):
        like = found.mean.expand(found.spread.fields, *found.mean.shape).transpose(0, 1)
        z = noise_like(like, seeds[k : k + 1], "instant", 0).transpose(0, 1)
        member = found.mean[crop] + found.spread.draw(z)[crop]
        if twin is not None:
            shift = _answer(twin, surrounded(denoiser, y, frame, seeds[k : k + 1])).mean[crop] - center
            beyond = beyond + shift.abs().square() / (len(seeds) * (2 if shift.is_complex() else 1))
            member = member + shift
        members.append(member)
    return Instant(found.mean[crop], variance + beyond, torch.cat(members))


def _answer(denoiser: Denoiser, y: Tensor) -> Estimate:
    """The answer to a measured image on the grid of the denoiser, at t = 1."""
    process, seeds = denoiser.process, torch.zeros(1, dtype=torch.int64, device="cpu")
    mean, spectrum = denoiser.prior() or (0.0, None)
    start = start_state(process, seeds, tuple(y.shape[1:]), measurement=y, mean=mean, spectrum=spectrum, dtype=y.dtype)
    t, cond = torch.ones(1, dtype=torch.float64, device="cpu"), process.pairing.cond(y)
    with torch.no_grad():
        return denoiser.estimate(process.to_image(start, t, cond.image if process.anchored else None), t, cond)
