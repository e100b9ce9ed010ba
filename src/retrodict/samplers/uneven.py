"""A measured image with a noise map, restored by one call: mean, deviation and draws (`retrodict.denoisers.uneven`).

More calls are no posterior sampler here: the states on the way have the noise of the measurement, uneven as it is, and
a plan of numbers per coefficient adds even noise to them (`benchmarks/noise_map.py` prints how far off that ends).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._random import key
from retrodict.bases import Basis
from retrodict.denoisers.denoiser import Observer
from retrodict.denoisers.uneven import Uneven
from retrodict.processes.observation import noise_like
from retrodict.samplers.margin import Frame, frame_of, mirrored, placed, say_left

__all__ = ["AtOnce", "mirrored_map", "one_call_with_map"]


class AtOnce(NamedTuple):
    """Of one measured image: E[x_0 | y] `(1, C, *N)`, the variance around it `(1, C|1, *N)` per real component, and
    `draw`: seeds `(k,)` to k samples `(k, C, *N)`.  The last two are None where the error law is not known.
    """

    mean: Tensor
    variance: Tensor | None
    draw: Callable[[Tensor], Tensor] | None


def mirrored_map(factor: Tensor, frame: Frame) -> Tensor:
    """A noise map `(1, 1, *N)` within a frame: the noise goes on as it is at the border."""
    return mirrored(factor.double(), frame)


def one_call_with_map(denoiser: Observer, y: Tensor, factor: Tensor, *, margin: int = 16, seed: int = 0) -> AtOnce:
    """Posterior of one measured image y `(1, C, *N)` in model units whose noise is `factor` `(1, 1, *N)` times that of
    the process of `denoiser`, by one call.

    The margin is drawn from its law given y and the map, once for the image.  Errors: `Uneven`.
    """
    basis = denoiser.process.basis
    y = y.to(basis.device)
    frame = frame_of(tuple(y.shape[2:]), basis, margin, denoiser.multiple)
    bound = denoiser.on(frame.size)
    assert isinstance(bound, Observer)
    uneven = Uneven(bound, mirrored_map(factor.to(basis.device), frame))
    seeds = torch.tensor([key(seed, "one-call")], device="cpu")
    with torch.no_grad():
        mean, spread = uneven.observe(_surrounded(uneven, y, frame, seeds))
    if spread is None:
        return AtOnce(mean[frame.crop], None, None)

    def draw(own: Tensor) -> Tensor:
        like = mean.expand(len(own), *mean.shape[1:])
        noise = [noise_like(like, own, "at-once", k) for k in range(spread.fields)]
        with torch.no_grad():
            return (mean + spread.draw(torch.stack(noise)))[frame.crop]

    return AtOnce(mean[frame.crop], spread.variance()[frame.crop], draw)


def _surrounded(uneven: Uneven, y: Tensor, frame: Frame, seeds: Tensor) -> Tensor:
    """The image within its frame, whose margin is drawn given the image: `samplers.margin` with a noise map."""
    if not any(frame.before) and not any(frame.after):
        return y
    law, basis = uneven.law, uneven.law.basis
    exact = y.to(torch.complex128 if y.is_complex() else torch.float64)
    field = law.draw(_empty(exact, basis), seeds, "margin")
    found = law.solved_within(exact - field[frame.crop], lambda x: placed(x, frame), lambda x: x[frame.crop])
    say_left(found)
    field = (field + law.covariance(placed(found.x, frame))).to(y)
    field[frame.crop] = y
    return field


def _empty(y: Tensor, basis: Basis) -> Tensor:
    return y.new_zeros(1, y.shape[1], *basis.size)
