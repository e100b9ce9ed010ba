"""Runs of a cascade: steps of their own in the window of every level, and every level on its own sub-lattice.

While the details of a level are drawn, nothing is known of finer ones.  So the rows of a plan up to there are run on
the coarse image of the level, where the cascade is again a cascade with the same windows (`CascadeDenoiser.coarser`);
bands join in the row that lands on the beginning of their window, the first that their state depends on.  A window then
costs its sub-lattice, and a run a constant times the pixels.  It is the run of the ordinary loop: in law, and number by
number where the noise is the same on the sub-lattices.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.bases import Wavelet
from retrodict.denoisers.cascade import CascadeDenoiser
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.process import Process
from retrodict.samplers.loop import Memory, Noise, begin, start_state, step
from retrodict.samplers.plan import Plan
from retrodict.samplers.rules import make_plan

__all__ = ["Stage", "cascade_cost", "cascade_grid", "cascade_stages", "run_stages", "sample_cascade"]


def cascade_grid(process: Process, steps: int | Sequence[int]) -> Tensor:
    """Times for `steps` in the window of every level of `wavelet_cascade`: one number, or coarse to fine one each.

    Within a window they are uniform in its own time, which the exponent of the process bends (2: quadratic).
    """
    each = _each(process, steps)
    edges = torch.linspace(1.0, 0.0, len(each) + 1, dtype=torch.float64, device="cpu")
    parts = [
        torch.linspace(float(a), float(b), n + 1, dtype=torch.float64, device="cpu")[:-1]
        for a, b, n in zip(edges[:-1], edges[1:], each, strict=True)
    ]
    return torch.cat([*parts, edges[-1:]])


def cascade_cost(process: Process, steps: int | Sequence[int]) -> tuple[int, float]:
    """Calls of a run of one call a step, and the same in evaluations of the whole lattice: a level costs its pixels."""
    each = _each(process, steps)
    assert isinstance(process.basis, Wavelet)
    levels = [process.basis.depth, *range(process.basis.depth, 0, -1)]
    return sum(each), sum(n * 2.0 ** (-j * process.ndim) for n, j in zip(each, levels, strict=True))


def _each(process: Process, steps: int | Sequence[int]) -> list[int]:
    recipe = process.recipe
    if recipe is None or recipe.name != "wavelet_cascade" or recipe.options.get("overlap", 0.0) != 0:
        raise InputError("steps", steps, "one number: only a cascade without overlap has steps for each level")
    assert isinstance(process.basis, Wavelet)
    count = process.basis.depth + 1
    each = [steps] * count if isinstance(steps, int) else list(steps)
    if len(each) != count or any(n < 1 for n in each):
        raise InputError("steps", steps, f"one number of at least 1, or {count}: the coarse band, then every level")
    return each


# ---- every level on its own sub-lattice ------------------------------------------------------------------------------


class Stage(NamedTuple):
    """What is run on one sub-lattice: the model of its image, the rows, and the number of the first in the whole run.

    level: of the image, 0 for the last stage.
    """

    denoiser: Denoiser
    plan: Plan
    first: int
    level: int


def cascade_stages(denoiser: CascadeDenoiser, rule: str, steps: int | Sequence[int]) -> tuple[Stage, ...]:
    """The run of a rule, coarse to fine; `steps` as in `cascade_grid`.  For rules of one row a step (`Plan`).

    Rows on the image of level m end before the last one of its window, which is run where the details of level m are.
    """
    each = _each(denoiser.process, steps)
    depth = len(each) - 1
    ends = list(itertools.accumulate(each))
    firsts = [0, *(end - 1 for end in ends[1:-1])]
    stages = []
    for level, first, last in zip(range(depth - 1, -1, -1), firsts, [*firsts[1:], ends[-1]], strict=True):
        own = denoiser.coarser(level)
        times = cascade_grid(own.process, each[: depth - level + 1])
        prior = own.prior()
        plan = make_plan(rule, own.process, times, None if prior is None else prior[1])
        if len(plan) != len(times) - 1:
            raise InputError("rule", repr(rule), "one of one row a step: others are run by `sample`")
        stages.append(Stage(own, _part(plan, first, last), first, level))
    return tuple(stages)


def _part(plan: Plan, first: int, last: int) -> Plan:
    """Rows `first` to `last` - 1 of a plan of one row a step; the others are never made."""
    count, about = last - first, (plan.rule, plan.depth, plan.stochastic, plan.uses_spread)
    return Plan(plan.process, plan.times[first : last + 1], lambda i: plan.build(first + i), count, count, *about)


def sample_cascade(
    stages: Sequence[Stage],
    seeds: Tensor,
    channels: int = 1,
    *,
    dtype: torch.dtype = torch.float32,
    noise: Noise = white,
) -> Tensor:
    """Images `(B, C, *N)` of `cascade_stages`; item i depends on seeds[i] alone."""
    last = deque(run_stages(stages, seeds, channels, dtype=dtype, noise=noise), maxlen=1)[0]
    process = stages[-1].denoiser.process
    return process.to_image(last.states[0], torch.zeros(len(seeds), dtype=torch.float64, device="cpu"))


def run_stages(
    stages: Sequence[Stage],
    seeds: Tensor,
    channels: int = 1,
    *,
    dtype: torch.dtype = torch.float32,
    noise: Noise = white,
) -> Iterator[Memory]:
    """What the loop remembers after every row of `sample_cascade`, coarse to fine."""
    memory: Memory | None = None
    for stage in stages:
        own = _start(stage, seeds, channels, dtype, noise)
        memory = begin(own, stage.plan.depth) if memory is None else _wider(memory, own, stage.denoiser.process)
        for i, row in enumerate(stage.plan.cast(dtype, own.device)):
            memory = step(stage.denoiser, row, memory, seeds=seeds, index=stage.first + i, noise=noise)
            yield memory


def _start(stage: Stage, seeds: Tensor, channels: int, dtype: torch.dtype, noise: Noise) -> Tensor:
    """Coefficients at t = 1 on a sub-lattice, from draws of its own."""

    def of_level(seeds: Tensor | Sequence[int], stream: str, step: int, shape: Sequence[int]) -> Tensor:
        return noise(seeds, stream, stage.level, shape)

    process = stage.denoiser.process
    mean, variance = stage.denoiser.prior() or (0.0, None)
    shape = (channels, *process.basis.size)
    return start_state(process, seeds, shape, mean=mean, spectrum=variance, dtype=dtype, noise=of_level)


def _wider(memory: Memory, own: Tensor, process: Process) -> Memory:
    """What is remembered of a sub-lattice, on the next finer one: new bands are noise, and in images their mean, 0."""
    zero = torch.zeros_like(own)

    def inside(u: Tensor, rest: Tensor) -> Tensor:
        out = rest.clone()
        out[(..., *(slice(0, n) for n in u.shape[2:]))] = u
        return out

    states = tuple(inside(u, own) for u in memory.states)
    images, noises, errors = (tuple(inside(u, zero) for u in part) for part in memory[1:4])
    image = process.basis.inverse(images[0]) if images else None
    return Memory(states, images, noises, errors, image, memory.nfe, memory.depth)
