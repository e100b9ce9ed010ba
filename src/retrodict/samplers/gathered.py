"""What is gathered of the members of one measured image: its mean, its deviation, and what was asked to be kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retrodict.processes.process import Process
from retrodict.samplers.instant import Instant
from retrodict.samplers.loop import Samples
from retrodict.samplers.moments import RunningMoments
from retrodict.samplers.stop import StopMoments

__all__ = ["Finish", "Gathered"]

Finish = Callable[[Tensor], Tensor]
"""Maps members `(k, C, *N)` to what mean and deviation are wanted of, in another unit or on another grid.

It may have a method `variance`, from the variances of pixels `(k, C, *N)` to those of what it makes; None (or no such
method) where they do not tell, as on another grid.

One that is not affine, such as an exponential, has a method `moments(mean, variance)` instead: mean and variance of
what it makes of pixels with a Gaussian law.  What is delivered is then the mean of the images made, which is not the
image made of the mean.
"""


class Gathered:
    """Members of one measured image as they come: `posterior` asks for a deviation, `keep` for the members.

    mean: E[x_0 | y], see `Restoration`.  `deterministic`: of the rule; `starts`: whether the chain starts at the
    measurement; `crop`: the image within its frame.
    """

    def __init__(
        self,
        finish: Finish | None,
        saw: Callable[[Tensor], None] | None = None,
        *,
        posterior: bool,
        keep: bool,
        crop: tuple[slice, ...] = (),
        deterministic: bool = False,
        starts: bool = True,
    ) -> None:
        self.finish: Finish = finish or _same
        self.variance: Callable[[Tensor], Tensor | None] = getattr(
            finish, "variance", _same if finish is None else _unknown
        )
        self.moments: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = getattr(finish, "moments", None)
        self.saw, self.posterior, self.keep, self.crop = saw, posterior, keep, crop
        self.deterministic, self.starts = deterministic, starts
        self.centers, self.ends, self.lasts, self.within = (RunningMoments() for _ in range(4))
        self.kept: list[Tensor] = []
        self.stops: StopMoments | None = None

    def add(self, drawn: Samples, process: Process, stop: float | None = None) -> None:
        """Take in members as they come off the loop, on the grid of their frame."""
        crop = self.crop
        members, last = drawn.x[crop], drawn.x0[crop]
        ends = self._ended(members)
        left = None if drawn.spread is None else drawn.spread.variance()[crop].expand_as(last.real)
        if self.moments is not None and not self.deterministic:
            made, left = (ends, None) if left is None else self.moments(last, left)
            _each(self.centers, made)
        else:
            first = drawn.first[crop] if self.starts and drawn.first is not None else last
            _each(self.centers, ends if self.deterministic else self.finish(first))
            left = None if left is None else self.variance(left)
            made = ends if left is None else self.finish(last)
        if left is not None:
            _each(self.within, left)
            _each(self.lasts, made)
        if stop is not None:
            self.stops = self.stops or StopMoments(process, stop)
            self.stops.add(drawn.kept[0], drawn.x, self.finish(drawn.kept[0][crop]))

    def once(self, found: Instant) -> None:
        """Take in all that one call says."""
        made, left = self.finish(found.mean), found.variance
        if left is not None:
            made, left = (made, self.variance(left)) if self.moments is None else self.moments(found.mean, left)
        _each(self.centers, made)
        if found.members is None:
            return
        self._ended(found.members)
        if left is not None:
            _each(self.within, left)

    def _ended(self, members: Tensor) -> Tensor:
        if self.saw is not None:
            self.saw(members)
        ends = self.finish(members)
        _each(self.ends, ends)
        if self.keep:
            self.kept += list(ends)
        return ends

    def part(self, like: Tensor) -> dict[str, Tensor]:
        """Tensors of the kind of `like` by name: "mean", "sd", "samples", and "stop-..."."""
        mean = self.centers.mean.to(like)
        part = {"mean": mean}
        if self.posterior:
            part["sd"] = self._variance().sqrt().to(mean.real)
        if self.keep:
            part["samples"] = torch.stack(self.kept).to(mean)
        stops = {} if self.stops is None else self.stops.part()
        return part | {f"stop-{name}": value for name, value in stops.items()}

    def _variance(self) -> Tensor:
        """By the law of total variance where the law of the last error is known, and else of the members."""
        if not self.within.count:
            return self.ends.variance
        return self.within.mean + (self.lasts.variance if self.lasts.count > 1 else 0.0)


def _same(x: Tensor) -> Tensor:
    return x


def _unknown(v: Tensor) -> Tensor | None:
    return None


def _each(moments: RunningMoments, images: Tensor) -> None:
    for image in images:
        moments.add(image)
