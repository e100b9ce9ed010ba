"""The loop that runs every plan: a pure step, a generator of steps, and `sample`, which runs them to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.denoisers.denoiser import Denoiser, Estimate
from retrodict.denoisers.spread import CoupledSpread, Spread
from retrodict.processes.observation import Cond, noise_like
from retrodict.processes.process import Process
from retrodict.samplers.corrected import Drawn, along, correction, secant, shifted
from retrodict.samplers.plan import Plan, Row

__all__ = ["Memory", "Samples", "Step", "advance", "answer", "begin", "sample", "start_state", "step", "steps"]

Noise = Callable[..., Tensor]
"""(seeds, stream, step, shape) -> white noise `(len(seeds), *shape)`, as `retrodict._random.white`."""


class Memory(NamedTuple):
    """What a run remembers, newest first: coefficients `(B, C, *K)` of states, denoised images, noises and errors.

    `image` is the last denoised image `(B, C, *N)` and `spread` the law of its error, where the row drew from it;
    `nfe` counts denoiser calls; `depth` entries are kept of each.  `drawn`: the last step, where a row put it by;
    `directions`: what is known of the covariance of the error beside its law, coefficients `(B, C, *K)`.
    """

    states: tuple[Tensor, ...]
    images: tuple[Tensor, ...] = ()
    noises: tuple[Tensor, ...] = ()
    errors: tuple[Tensor, ...] = ()
    image: Tensor | None = None
    nfe: int = 0
    depth: int = 1
    spread: Spread | None = None
    drawn: Drawn | None = None
    directions: tuple[Tensor, ...] = ()

    def take(self, which: Tensor) -> Memory:
        """The memory of items `which` (indices or a mask), for particles that are reordered or dropped.

        The law of the last error is not carried over, nor what it drew: it is that of the items before.
        """
        states, images, noises, errors = (tuple(x[which] for x in part) for part in self[:4])
        image = None if self.image is None else self.image[which]
        return Memory(states, images, noises, errors, image, self.nfe, self.depth)


class Samples(NamedTuple):
    """x `(B, C, *N)` at the end of the plan, the last denoised image x0, denoiser calls per item, seeds `(B,)`.

    kind "sample": fresh randomness entered along the way; "point": a deterministic function of the start.  `first`: the
    first denoised image, which from a measured start is E[x_0 | y].  `spread`: the law of x_0 given the last state,
    where the last row drew from it: then the law of x is that of x0 and of it.  `kept`: states at times asked for.
    """

    x: Tensor
    x0: Tensor
    nfe: int
    seeds: Tensor
    kind: Literal["sample", "point"]
    first: Tensor | None = None
    spread: Spread | None = None
    kept: tuple[Tensor, ...] = ()


class Step(NamedTuple):
    """What `watch` is told after each row."""

    index: int
    length: int
    nfe: int


def start_state(
    process: Process,
    seeds: Tensor,
    shape: tuple[int, ...],
    *,
    measurement: Tensor | None = None,
    mean: Tensor | float = 0.0,
    spectrum: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    noise: Noise = white,
) -> Tensor:
    """Shifted coefficients at t = 1 for items of shape (C, *N): the measurement itself, or noise from the seeds.

    `mean` and `spectrum` are those of the data, in coefficients; see `Process.start`.
    """
    if measurement is not None and len(measurement) != len(seeds):
        raise InputError("start", f"{len(measurement)} measurements", f"one for each of {len(seeds)} seeds")
    like = torch.zeros(len(seeds), *shape, dtype=dtype, device=process.basis.device)
    z = like if process.pairing.starts else noise_like(like, seeds, "start", 0, noise)
    return process.start(z, measurement, mean, spectrum)


def answer(denoiser: Denoiser, measured: Tensor, seeds: Tensor) -> Estimate:
    """What the denoiser says at t = 1 to measured images `(B, C, *N)` on its grid, one for each of `seeds` `(B,)`.

    From a start at the measurement this is E[x_0 | y] and the law of x_0 given y; the seeds matter to a random start.
    """
    process, (mean, spectrum) = denoiser.process, denoiser.prior() or (0.0, None)
    shape, settings = tuple(measured.shape[1:]), {"mean": mean, "spectrum": spectrum, "dtype": measured.dtype}
    start = start_state(process, seeds, shape, measurement=measured, **settings)
    t = torch.ones(len(measured), dtype=torch.float64, device="cpu")
    cond = process.pairing.cond(measured)
    with torch.no_grad():
        return denoiser.estimate(process.to_image(start, t, cond.image if process.anchored else None), t, cond)


def begin(start: Tensor, depth: int = 1, directions: tuple[Tensor, ...] = ()) -> Memory:
    """The memory of a run that starts at shifted coefficients `(B, C, *K)`, with directions of covariance known."""
    return Memory((start,), depth=depth, directions=directions)


def step(
    denoiser: Denoiser,
    row: Row,
    memory: Memory,
    *,
    seeds: Tensor,
    index: int,
    cond: Cond = Cond(),
    noise: Noise = white,
    first: Estimate | None = None,
) -> Memory:
    """One row of a plan: a pure function of the memory, the seeds `(B,)` and the number of the row.

    first: the answer to the start, where it is known already: row 0 then makes no call.
    """
    process, state = denoiser.process, memory.states[0]
    row = row.cast(state.dtype, state.device)
    images, noises, errors, image, nfe = memory.images, memory.noises, memory.errors, memory.image, memory.nfe
    law, directions = memory.spread, memory.directions
    if row.call:
        t = (
            row.t
            if isinstance(row.t, Tensor)
            else torch.full(state.shape[:1], row.t, dtype=torch.float64, device="cpu")
        )
        xt = process.to_image(state, t, cond.image if process.anchored else None)
        image, law = _answered(denoiser, row, xt, t, cond) if first is None or index else first
        if nfe == 0 and image.device.type == "cpu":  # elsewhere it would be a read-back; the ensemble looks at the end
            _require_finite(image)
        nfe, coefficients = nfe + 1, process.basis.forward(image)
        if row.correct is not None and memory.drawn is not None:
            rest = correction(memory.drawn, coefficients)
            directions = (secant(memory.drawn, rest, process.basis), *directions)
            shift = row.correct * rest
            state, coefficients = state + shift, shifted(coefficients, shift, _conditional(law), process.moments(t))
            image = process.basis.inverse(coefficients)
        images = (coefficients, *images)
        directions = directions[: row.directions]
        if row.spread and law is not None:
            errors = (_drawn(denoiser, law, image, directions, seeds, index, noise), *errors)
    if row.noise:
        like = process.basis.inverse(state) if image is None else image
        noises = (process.basis.forward(noise_like(like, seeds, "step", index, noise)), *noises)
    new = advance(row, (state, *memory.states[1:]), images, noises, errors)
    k, drawn = memory.depth, None
    if row.remember:
        std = row.noise[0] if row.noise else torch.zeros_like(row.data[0])
        center = row.keep[0] * state + row.data[0] * images[0]
        drawn = Drawn(new - center, images[0], _conditional(law), row.data[0].real, std.real)
    states = (new, state, *memory.states[1:])[:k]
    return Memory(states, images[:k], noises[:k], errors[:k], image, nfe, k, law, drawn, directions)


def advance(
    row: Row,
    states: tuple[Tensor, ...],
    images: tuple[Tensor, ...],
    noises: tuple[Tensor, ...] = (),
    errors: tuple[Tensor, ...] = (),
) -> Tensor:
    """The new state: a weighted sum of what is remembered, newest first."""
    total = row.keep[0] * states[0]
    rest = (row.keep[1:], states[1:]), (row.data, images), (row.noise, noises), (row.spread, errors)
    for weights, values in rest:
        if len(weights) > len(values):
            found = f"{len(weights)} weights where {len(values)} values are remembered"
            raise InputError("row of a plan", found, "a plan of sufficient depth")
        for weight, value in zip(weights, values, strict=False):
            total = torch.addcmul(total, weight, value)
    return total


def _answered(denoiser: Denoiser, row: Row, xt: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Spread | None]:
    """Denoised image and, where the row asks for it, the law of its error."""
    if not row.spread:
        return _shaped(denoiser(xt, t, cond), xt), None
    mean, spread = denoiser.estimate(xt, t, cond)
    if spread is None:
        raise InputError("matched", "a denoiser that does not know its error law", "one with a spectrum or a spread")
    return _shaped(mean, xt), spread


def _drawn(
    denoiser: Denoiser,
    law: Spread,
    mean: Tensor,
    directions: tuple[Tensor, ...],
    seeds: Tensor,
    index: int,
    noise: Noise,
) -> Tensor:
    """Coefficients of a draw of the error."""
    like = mean.expand(law.fields, *mean.shape).transpose(0, 1)  # (B, fields, C, *N)
    error = denoiser.process.basis.forward(law.draw(noise_like(like, seeds, "spread", index, noise).transpose(0, 1)))
    if not directions or denoiser.process.basis.complex:
        return error
    numbers = noise(seeds, "directions", index, (len(directions),)).to(error.device)
    return along(error, _conditional(law).power(), directions, numbers)


def _conditional(law: Spread | None) -> CoupledSpread:
    if not isinstance(law, CoupledSpread):
        found = "a law of the error that is drawn from and nothing more"
        raise InputError("matched2", found, "one that is known per coefficient, or rule 'matched'")
    return law


def _shaped(mean: Tensor, xt: Tensor) -> Tensor:
    if mean.shape != xt.shape:
        raise InputError("denoiser", f"an estimate of shape {tuple(mean.shape)}", f"{tuple(xt.shape)}, as its input")
    return mean


def _require_finite(mean: Tensor) -> None:
    if not bool(torch.isfinite(mean).all()):
        raise InputError("denoiser", "an estimate with NaN or infinite values at the first call", "finite values")


def steps(
    denoiser: Denoiser,
    plan: Plan,
    start: Tensor,
    *,
    seeds: Tensor,
    cond: Cond = Cond(),
    noise: Noise = white,
    directions: tuple[Tensor, ...] = (),
    first: Estimate | None = None,
) -> Iterator[Memory]:
    """The memory after each row of `plan`, from shifted coefficients `(B, C, *K)` at its first time."""
    memory = begin(start, plan.depth, directions)
    for i, row in enumerate(plan.cast(start.dtype, start.device)):
        memory = step(denoiser, row, memory, seeds=seeds, index=i, cond=cond, noise=noise, first=first)
        yield memory


def sample(
    denoiser: Denoiser,
    plan: Plan,
    start: Tensor,
    *,
    seeds: Tensor,
    cond: Cond | None = None,
    watch: Callable[[Step], None] | None = None,
    noise: Noise = white,
    keep: Sequence[float] = (),
    directions: tuple[Tensor, ...] = (),
    first: Estimate | None = None,
) -> Samples:
    """Run `plan` from `start`, shifted coefficients `(B, C, *K)` at plan.times[0]; seeds `(B,)`, one per item.

    keep: times of the plan's grid at which the state is kept as an image.  directions: what is known of the covariance
    of x_0 given the start beside the law of the denoiser, `(B, C, *K)` each (`retrodict.samplers.principal`).  first:
    the answer to the start where it is known; `Samples.nfe` counts it all the same.

    A pure function: the noise of item i at row j depends on (seeds[i], j) alone, so a batch equals its items.
    `cond` is the record of conditions handed to the denoiser; its `image` is also the anchor of a process with k != 0.
    """
    process, cond = plan.process, Cond() if cond is None else cond
    anchor = cond.image if process.anchored else None
    if process.anchored and anchor is None:
        raise InputError("sample", "no condition image", "cond with the image that the process is pulled to")
    if denoiser.process.basis != process.basis:
        found, wanted = denoiser.process.basis, process.basis
        raise InputError("sample", f"a denoiser on {found}", f"{wanted}, that of the plan", "Use denoiser.on(size).")
    own, other = denoiser.process.recipe, process.recipe
    if own is not None and other is not None and own != other:
        raise InputError(
            "sample", f"a denoiser of the process {own.name!r}", f"the plan's, {other.name!r}, alike in all"
        )
    memory, began, rows = begin(start, plan.depth), None, _rows_at(plan, keep)

    def shown(state: Tensor, time: float) -> Tensor:
        return process.to_image(state, torch.full((len(start),), time, dtype=torch.float64, device="cpu"), anchor)

    kept = {time: shown(start, time) for time, row in rows.items() if row < 0}
    run = steps(denoiser, plan, start, seeds=seeds, cond=cond, noise=noise, directions=directions, first=first)
    for i, memory in enumerate(run):
        began = memory.image if began is None else began
        kept |= {time: shown(memory.states[0], time) for time, row in rows.items() if row == i}
        if watch is not None:
            watch(Step(i + 1, len(plan), memory.nfe))
    x = shown(memory.states[0], plan.last)
    image = x if memory.image is None else memory.image
    states = tuple(kept[float(time)] for time in keep)
    kind = "sample" if plan.stochastic else "point"
    return Samples(x, image, memory.nfe, seeds, kind, began, memory.spread, states)


def _rows_at(plan: Plan, times: Sequence[float]) -> dict[float, int]:
    """For each of `times` the row after which the state is at it; -1 for the start."""
    grid = plan.times.tolist()
    if not times:
        return {}
    if len(grid) != len(plan) + 1:
        raise InputError("keep", f"rule {plan.rule!r}, which has rows between its times", "a rule of one row a step")
    out = {}
    for time in map(float, times):
        near = min(range(len(grid)), key=lambda i: abs(grid[i] - time))
        if abs(grid[near] - time) > 1e-9:
            raise InputError("keep", time, "a time of the grid of the plan")
        out[time] = near - 1
    return out
