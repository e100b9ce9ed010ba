"""The one loop that runs every plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row

__all__ = ["Samples", "Step", "advance", "sample", "start_state"]


class _Denoiser(Protocol):
    """What the loop needs of a denoiser; rules that draw x_0 also need `estimate`."""

    @property
    def process(self) -> Process: ...

    def __call__(self, xt: Tensor, t: Tensor, cond: Any) -> Tensor: ...


class Samples(NamedTuple):
    """x `(B, C, *N)` at the end of the plan, the last denoised image x0, denoiser calls per item, seeds `(B,)`.

    kind "sample": fresh randomness entered along the way; "point": a deterministic function of the start.
    """

    x: Tensor
    x0: Tensor
    nfe: int
    seeds: Tensor
    kind: Literal["sample", "point"]


class Step(NamedTuple):
    """What `watch` is told after each row."""

    index: int
    length: int
    nfe: int


def advance(row: Row, states: list[Tensor], images: list[Tensor], noise: Tensor | None, error: Tensor | None) -> Tensor:
    """One row: the new state is a weighted sum of what is remembered, newest first."""
    terms = [*zip(row.keep, states, strict=False), *zip(row.data, images, strict=False)]
    if noise is not None and row.noise is not None:
        terms.append((row.noise, noise))
    if error is not None and row.spread is not None:
        terms.append((row.spread, error))
    total = terms[0][0] * terms[0][1]
    for weight, value in terms[1:]:
        total = torch.addcmul(total, weight, value)
    return total


def start_state(
    process: Process,
    seeds: Tensor,
    shape: tuple[int, ...],
    *,
    measurement: Tensor | None = None,
    mean: Tensor | float = 0.0,
    spectrum: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Shifted coefficients at t = 1 for items of shape (C, *N): the measurement itself, or noise from the seeds."""
    if measurement is not None and len(measurement) != len(seeds):
        raise InputError("start", f"{len(measurement)} measurements", f"one for each of {len(seeds)} seeds")
    if process.conditioning == "terminal":
        z = torch.zeros(len(seeds), *shape, dtype=dtype)
    else:
        z = white(seeds, "start", 0, shape).to(dtype)
    return process.start(z, measurement=measurement, mean=mean, spectrum=spectrum)


def sample(
    denoiser: _Denoiser,
    plan: Plan,
    start: Tensor,
    *,
    seeds: Tensor,
    cond: Any = None,
    edit_data: Callable[[Tensor, Tensor, float], Tensor] | None = None,
    watch: Callable[[Step], None] | None = None,
) -> Samples:
    """Run `plan` from `start`, shifted coefficients `(B, C, *K)` at plan.times[0]; seeds `(B,)`, one per item.

    A pure function: the noise of item i at row j depends on (seeds[i], j) alone, so a batch equals its items.
    `cond` is the record of conditions handed to the denoiser; its `image` is also the anchor of a process with k != 0.
    `edit_data(D, x_t, t)` may replace the denoised image `(B, C, *N)` (data consistency).
    """
    process = plan.process
    anchor = cond.image if cond is not None and process.anchored else None
    if process.anchored and anchor is None:
        raise InputError("sample", "no condition image", "cond with the image that the process is pulled to")
    conditions = () if cond is None else (cond,)
    states, images = [start], []
    mean = start.real
    nfe = 0
    for i in range(len(plan)):
        row = plan.cast(i, start.dtype, start.device)
        t = torch.full((len(start),), row.t, dtype=torch.float64)
        error = None
        if row.call:
            xt = process.to_image(states[0], t, anchor)
            mean, error = _evaluate(denoiser, row, xt, t, conditions, seeds, i)
            if edit_data is not None:
                mean = edit_data(mean, xt, row.t)
            nfe += 1
            images.insert(0, process.basis.forward(mean))
        noise = None
        if row.noise is not None:
            z = white(seeds, "step", i, mean.shape[1:]).to(mean)
            noise = process.basis.forward(z)
        states.insert(0, advance(row, states, images, noise, error))
        del states[plan.depth :], images[plan.depth :]
        if watch is not None:
            watch(Step(i + 1, len(plan), nfe))
    end = torch.full((len(start),), plan.last, dtype=torch.float64)
    x = process.to_image(states[0], end, anchor)
    return Samples(x, mean, nfe, seeds, "sample" if plan.stochastic else "point")


def _evaluate(
    denoiser: Any, row: Row, xt: Tensor, t: Tensor, conditions: tuple[Any, ...], seeds: Tensor, index: int
) -> tuple[Tensor, Tensor | None]:
    """Denoised image and, where the row asks for it, the coefficients of a draw of its error."""
    if row.spread is None:
        return denoiser(xt, t, *conditions), None
    if not hasattr(denoiser, "estimate"):
        raise InputError("matched", type(denoiser).__name__, "a denoiser with `estimate` (it must know its error law)")
    mean, spread = denoiser.estimate(xt, t, *conditions)
    if spread is None:
        raise InputError("matched", "a denoiser that does not know its error law", "one with a spectrum or a spread")
    z = white(seeds, "spread", index, (spread.fields, *mean.shape[1:])).to(mean)
    return mean, denoiser.process.basis.forward(spread.draw(z.transpose(0, 1)))
