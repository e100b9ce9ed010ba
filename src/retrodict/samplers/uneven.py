"""A measured image with a noise map, restored by one call: mean, deviation and draws (`retrodict.denoisers.uneven`).

More calls are no posterior sampler here: the states on the way have the noise of the measurement, uneven as it is, and
a plan of numbers per coefficient adds even noise to them (`benchmarks/noise_map.py` prints how far off that ends).
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.denoisers.denoiser import Denoiser, Observer
from retrodict.denoisers.uneven import Uneven
from retrodict.processes.observation import noise_like
from retrodict.samplers.instant import Instant, at_border
from retrodict.samplers.margin import Frame, frame_of, mirrored, placed, say_left

__all__ = ["instant_with_map", "mapped", "one_call_with_map"]

COARSE = 1e-3
"""Residual for what differs between members beyond the border: a part in a thousand of a small part."""


def mapped(denoiser: Denoiser, factor: Tensor, frame: Frame) -> Uneven:
    """A denoiser on the grid of `frame` with the noise map `(1, 1, *n)` of the image within: mirrored beyond it."""
    if not isinstance(denoiser, Observer):
        raise InputError("noise map", f"a {type(denoiser).__name__}", "a denoiser that answers for any observation")
    return Uneven(denoiser, mirrored(factor.to(denoiser.process.basis.device, torch.float64), frame))


def instant_with_map(
    denoiser: Denoiser, y: Tensor, factor: Tensor, frame: Frame, seeds: Tensor | None = None
) -> Instant:
    """`samplers.instant` of a measured image y `(1, C, *N)` whose noise is `factor` `(1, 1, *N)` times that of the
    process of `denoiser`, which is on the grid of `frame`.

    Raises `InputError` for what cannot take a map (`Uneven`), and for a denoiser that does not know its error law where
    `seeds` `(K,)` ask for it.
    """
    uneven, crop = mapped(denoiser, factor, frame), frame.crop
    around = surrounded_with_map(uneven, y, frame, None)
    with torch.no_grad():
        mean, spread = uneven.observe(around)
    if seeds is None:
        return Instant(mean[crop])
    if spread is None:
        raise InputError("instant", "a denoiser that does not know its error law", "one with a spread, or {point}")
    variance = spread.variance()[crop].expand_as(mean[crop].real)
    wide = at_border(denoiser.border, frame).to(variance)
    members, beyond = [], torch.zeros_like(variance)
    for k in range(len(seeds)):
        own = seeds[k : k + 1]
        z = torch.stack([noise_like(mean, own, "instant-map", b) for b in range(spread.fields)])
        error = spread.draw(z)[crop]
        if any(frame.before) or any(frame.after):
            other = surrounded_with_map(uneven, y, frame, own, COARSE) - around
            shift = uneven.law.moved(other.to(uneven.law.exact(y)), COARSE)[crop].to(mean)
            beyond = beyond + shift.abs().square() / (len(seeds) * (2 if shift.is_complex() else 1))
            error = error + shift
        members.append(mean[crop] + wide.sqrt() * error)
    return Instant(mean[crop], wide * (variance + beyond), torch.cat(members))


def one_call_with_map(
    denoiser: Denoiser, y: Tensor, factor: Tensor, *, margin: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor | None]:
    """`samplers.misfit.one_call` with a noise map `(1, 1, *N)`: E[x_0 | y] `(1, C, *N)` of one image and a sample."""
    y = y.to(denoiser.process.basis.device)
    frame = frame_of(tuple(y.shape[2:]), denoiser.process.basis, margin, denoiser.multiple)
    seeds = torch.tensor([key(seed, "one-call")], device="cpu")
    uneven = mapped(denoiser.on(frame.size), factor, frame)
    with torch.no_grad():
        mean, spread = uneven.observe(surrounded_with_map(uneven, y, frame, seeds))
        if spread is None:
            return mean[frame.crop], None
        z = torch.stack([noise_like(mean, seeds, "one-call-map", b) for b in range(spread.fields)])
        return mean[frame.crop], (mean + spread.draw(z))[frame.crop]


def surrounded_with_map(
    uneven: Uneven, y: Tensor, frame: Frame, seeds: Tensor | None, tolerance: float = 1e-6
) -> Tensor:
    """The image `(1, C, *n)` within its frame, whose margin is drawn given the image and the map; without `seeds` it is
    the mean of it (`samplers.margin.surrounded` with a noise map).
    """
    if not any(frame.before) and not any(frame.after):
        return y
    law = uneven.law
    exact = law.exact(y)
    empty = exact.new_zeros(1, y.shape[1], *law.basis.size)
    field = law.center(empty)
    if seeds is not None:
        field = field + uneven.inner.margin * (law.draw(empty, seeds, "margin") - field)
    found = law.solved_within(exact - field[frame.crop], lambda x: placed(x, frame), lambda x: x[frame.crop], tolerance)
    say_left(found)
    field = (field + law.covariance(placed(found.x, frame))).to(y)
    field[frame.crop] = y
    return field
