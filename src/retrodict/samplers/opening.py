"""What the members of an ensemble share: the first call, and what it tells of the covariance.

A chain that starts at the measurement begins with E[x_0 | y], the same for every member but for the margin that each
draws beyond the border (`samplers.margin`).  So the first call is made once, with the mean of the margin, and what the
margin of a member changes in the answer is told by the Gaussian twin, as in `samplers.instant`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict.denoisers.denoiser import Denoiser, Estimate
from retrodict.samplers.instant import NO_SEED
from retrodict.samplers.loop import Samples, answer, sample, start_state
from retrodict.samplers.margin import Frame, surrounded
from retrodict.samplers.plan import Plan
from retrodict.samplers.principal import principal

__all__ = ["Opening", "draw", "opening", "shares"]


class Opening(NamedTuple):
    """The answer to the measurement, one item; the directions of covariance found there; and the calls it took.

    twin, center: the Gaussian twin and its answer, where members have margins of their own.
    """

    said: Estimate
    directions: tuple[Tensor, ...]
    calls: int
    twin: Denoiser | None = None
    center: Tensor | None = None

    def of(self, measured: Tensor, seeds: Tensor) -> Estimate:
        """The answers to members' own measured images `(B, C, *N)`, their margins included."""
        mean = self.said.mean.expand(measured.shape)
        if self.twin is None or self.center is None:
            return Estimate(mean, self.said.spread)
        return Estimate(mean + (answer(self.twin, measured, seeds).mean - self.center), self.said.spread)


def shares(denoiser: Denoiser) -> bool:
    """Whether members start with the same call: at the measurement, where nothing is shown beside the state, with a
    twin on the same grid, if any, to tell what a margin changes.
    """
    twin, process = denoiser.gaussian(), denoiser.process
    told = twin is None or twin.process.basis == process.basis
    return process.pairing.starts and not process.anchored and told


def opening(denoiser: Denoiser, plan: Plan, y: Tensor, frame: Frame) -> Opening:
    """The first call of all members at the measured image y `(1, C, *N)`, in `frame`."""
    around = surrounded(denoiser, y, frame, None)
    said = answer(denoiser, around, NO_SEED)
    t = torch.ones(1, dtype=torch.float64, device="cpu")
    found = principal(denoiser, around, t, NO_SEED, plan.components, said=said) if plan.components else ()
    twin = denoiser.gaussian() if any(frame.before) or any(frame.after) else None
    center = None if twin is None else answer(twin, around, NO_SEED).mean
    return Opening(said, found, 1 + plan.components, twin, center)


def draw(
    denoiser: Denoiser,
    plan: Plan,
    measured: Tensor,
    seeds: Tensor,
    keep: Sequence[float] = (),
    shared: Opening | None = None,
    directions: tuple[Tensor, ...] = (),
) -> Samples:
    """Samples `(len(seeds), C, *N)` from measured images on the grid of the denoiser, one `(1, C, *N)` or one a seed.

    keep: times at which the state is kept; directions: what is known of the covariance; see `sample`.  `shared`: the
    opening of the measured image, which has directions of its own.
    """
    y = measured.expand(len(seeds), *measured.shape[1:])
    mean, spectrum = denoiser.prior() or (0.0, None)
    shape = tuple(y.shape[1:])
    start = start_state(denoiser.process, seeds, shape, measurement=y, mean=mean, spectrum=spectrum, dtype=y.dtype)
    cond = denoiser.process.pairing.cond(y)
    with torch.no_grad():
        first = None if shared is None else shared.of(y, seeds)
        known = directions if shared is None else shared.directions
        return sample(denoiser, plan, start, seeds=seeds, cond=cond, keep=keep, directions=known, first=first)
