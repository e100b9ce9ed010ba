"""The Gaussian card of a plan: its exact gain and variance on Gaussian data, without Monte Carlo.

For data N(m, L) per coefficient the exact denoiser is linear, so a sampler is a linear recursion.  A state is carried
as its coefficients on (start, measurement, 1, every random draw).  `dense_card` does the same for any linear denoiser
by running the real loop on unit fields.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser, Linear
from retrodict.processes.observation import Moments, ratio, wiener
from retrodict.processes.process import Process
from retrodict.samplers.loop import sample, start_state
from retrodict.samplers.plan import Plan, Row

__all__ = ["Card", "card", "dense_card", "gaussian_card", "gaussian_posterior", "posterior_card", "start_law"]


class Card(NamedTuple):
    """Output = start * w_1 + measurement * y + offset + noise of `variance`, per coefficient `(*K)`."""

    start: Tensor
    measurement: Tensor
    offset: Tensor
    variance: Tensor


class HasLinear(Protocol):
    """A denoiser that can write itself as numbers at a time `(1,)`."""

    def linear(self, t: Tensor) -> Linear:
        """Gains on the state and the measurement, offset and variance."""
        ...


class _Value(NamedTuple):
    """A quantity of the run as a linear function of its inputs; `noise` by (kind, row)."""

    start: Tensor
    measurement: Tensor
    offset: Tensor
    noise: dict[tuple[str, int], Tensor]


def gaussian_posterior(spectrum: Tensor, measured: Moments) -> tuple[Tensor, Tensor]:
    """Gain on y and variance of u_0 | y for u_0 ~ N(0, spectrum), per coefficient: `wiener`, by its older name."""
    return wiener(measured, spectrum)


def start_law(process: Process, spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Gain on y and variance of the shifted state w_1 as a run starts it, `(*K)`, for data N(0, spectrum).

    terminal: y itself.  External with a known law: the exact Gaussian law of w_1 given y, h mu_y + N(0, h^2 V + s^2).
    Otherwise the exact marginal N(0, h^2 L + s^2).
    """
    zero = torch.zeros_like(spectrum)
    if process.pairing.starts:
        return zero + 1, zero
    m = process.moments(torch.ones(1, dtype=torch.float64, device="cpu"))
    h, s2 = m.h[0, 0], m.s2[0, 0]
    if process.pairing.sees and process.measurement is not None:
        gain, variance = wiener(process.measurement, spectrum)
        return h * gain, h**2 * variance + s2
    return zero, h**2 * spectrum + s2


def posterior_card(plan: Plan, spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Gain on the measurement and variance of what a whole run returns, its start included, `(*K)`."""
    found, (gain, variance) = gaussian_card(plan, spectrum), start_law(plan.process, spectrum)
    return found.measurement + found.start * gain, found.variance + found.start**2 * variance


def gaussian_card(plan: Plan, spectrum: Tensor, mean: Tensor | float = 0.0) -> Card:
    """Exact card of `plan` for data N(mean, spectrum), `(*K)` float64, with the exact (conditional) denoiser."""
    return card(plan, GaussianDenoiser(plan.process, mean, spectrum))


def card(plan: Plan, denoiser: HasLinear) -> Card:
    """Exact card of `plan` with a denoiser that is linear per coefficient."""
    basis = plan.process.basis
    zero = torch.zeros(basis.shape, dtype=torch.float64, device=basis.device)
    states, images, noises, errors = [_Value(zero + 1, zero, zero, {})], [], [], []
    before: _Step | None = None
    for i, row in enumerate(plan):  # kept short: a plan may have thousands of rows
        if row.call:
            linear = denoiser.linear(torch.tensor([row.t], dtype=torch.float64, device="cpu"))
            images.insert(0, _denoised(linear, states[0]))
            if row.correct is not None and before is not None:
                _correct(plan.process, row, before, linear, states, images)
            if row.spread:
                errors.insert(0, _Value(zero, zero, zero, {("spread", i): linear.variance.sqrt()}))
        if row.noise:
            noises.insert(0, _Value(zero, zero, zero, {("step", i): zero + 1}))
        states.insert(0, _advance(row, states, images, noises, errors))
        if row.remember:
            before = _Step(states[1], images[0], linear.variance, row)  # type: ignore[possibly-undefined]
        for part in (states, images, noises, errors):
            del part[plan.depth :]
        kept = [*states, *images, *noises, *errors, *(() if before is None else (before.state, before.image))]
        _pack(kept, i)
    final = states[0]
    return Card(*final[:3], sum((n**2 for n in final.noise.values()), start=zero))


class _Step(NamedTuple):
    """A step that is put by: the state and the image it started from, the variance of its error, and its row."""

    state: _Value
    image: _Value
    variance: Tensor
    row: Row


def _sum(*parts: tuple[Tensor, _Value]) -> _Value:
    """A weighted sum, the weights `(*K)`."""
    names = {name for _, value in parts for name in value.noise}
    zero = torch.zeros_like(parts[0][1].start)
    start = sum((w * v.start for w, v in parts), start=zero)
    measurement = sum((w * v.measurement for w, v in parts), start=zero)
    offset = sum((w * v.offset for w, v in parts), start=zero)
    noise = {name: sum((w * v.noise[name] for w, v in parts if name in v.noise), start=zero) for name in names}
    return _Value(start, measurement, offset, noise)


def _correct(
    process: Process, row: Row, before: _Step, linear: Linear, states: list[_Value], images: list[_Value]
) -> None:
    """What `retrodict.samplers.corrected` does, of a denoiser that is linear per coefficient."""
    assert row.correct is not None
    one, old = torch.ones_like(before.variance), before.row
    keep, data = _per_coefficient(old.keep[0]), _per_coefficient(old.data[0])
    std = _per_coefficient(old.noise[0]) if old.noise else 0 * one
    known = ratio(data * before.variance, data**2 * before.variance + std**2)  # E[e | innovation] over the innovation
    rest = _sum(
        (one, images[0]), (-one + known * data, before.image), (-known, states[0]), (known * keep, before.state)
    )
    weight = _per_coefficient(row.correct) * one
    m = process.moments(torch.tensor([row.t], dtype=torch.float64, device="cpu"))
    slope = ratio(m.h[0, 0] * linear.variance, m.s2[0, 0] * one)
    states[0], images[0] = _sum((one, states[0]), (weight, rest)), _sum((one, images[0]), (slope * weight, rest))


SOURCES = 24
"""How many times more independent draws than remembered quantities are carried before they are packed."""


def _pack(values: list[_Value], row: int) -> None:
    """Fewer independent draws with the same covariances, in place: as many as there are quantities that hold them.

    Past draws matter only through what is remembered.  With A the table of (draws, quantities), A^T A = R^T R for the
    triangular factor of A = Q R, whose rows stand for as many new draws.
    """
    own = list({id(v): v for v in values}.values())
    names = list(dict.fromkeys(name for v in own for name in v.noise))
    if len(names) <= SOURCES * len(own):
        return
    shape = torch.broadcast_shapes(*(n.shape for v in own for n in v.noise.values()))
    zero = torch.zeros(shape, dtype=torch.float64, device=own[0].start.device)
    table = torch.stack([torch.stack([v.noise.get(name, zero) + zero for v in own], -1) for name in names], -2)
    packed = torch.linalg.qr(table, mode="r").R
    for k, value in enumerate(own):
        value.noise.clear()
        value.noise.update({(f"packed {row}", j): packed[..., j, k] for j in range(k + 1)})


def _denoised(linear: Linear, state: _Value) -> _Value:
    noise = {name: linear.state * n for name, n in state.noise.items()}
    measurement = linear.state * state.measurement + linear.measurement
    return _Value(linear.state * state.start, measurement, linear.state * state.offset + linear.offset, noise)


def _advance(
    row: Row, states: list[_Value], images: list[_Value], noises: list[_Value], errors: list[_Value]
) -> _Value:
    zero = torch.zeros_like(states[0].start)
    start, measurement, offset, noise = zero, zero, zero, {}
    pairs = ((row.keep, states), (row.data, images), (row.noise, noises), (row.spread, errors))
    for weight, value in (pair for weights, values in pairs for pair in zip(weights, values, strict=False)):
        w = _per_coefficient(weight)
        start, measurement = start + w * value.start, measurement + w * value.measurement
        offset = offset + w * value.offset
        for name, n in value.noise.items():
            noise[name] = noise.get(name, zero) + w * n
    return _Value(start, measurement, offset, noise)


def _per_coefficient(weight: Tensor) -> Tensor:
    """A weight `(1, C|1, *K)` as `(C, *K)` or `(*K)`."""
    if weight.ndim < 3:
        return weight.reshape(())
    return weight[0, 0] if weight.shape[1] == 1 else weight[0]


# ---- any linear denoiser ------------------------------------------------------------------------------------------


class _Unit:
    """Stands for `white`: item i of a batch gets a one at entry i of all noise of a run, in the order of drawing.

    A first run with no item at all writes down what is drawn.
    """

    def __init__(self) -> None:
        self.offset: dict[tuple[str, int], int] = {}
        self.total = 0

    def __call__(self, seeds: Tensor, stream: str, step: int, shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape)
        if (stream, step) not in self.offset:
            self.offset[stream, step] = self.total
            self.total += size
        place = seeds - self.offset[stream, step]
        field = torch.zeros(len(seeds), size, dtype=torch.float64, device="cpu")
        inside = (place >= 0) & (place < size)
        field[inside, place[inside]] = 1.0
        return field.reshape(len(seeds), *shape)


def dense_card(plan: Plan, denoiser: Denoiser, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Gain on y `(n, n)` and covariance `(n, n)` of what a whole run returns, pixels in a row, n = C prod(N).

    The real loop is run, in float64, on one unit field for every number that enters: for small grids, real images and
    denoisers that are affine in the state and the measurement.  So every linear posterior method has an exact test.
    """
    process, size = plan.process, plan.process.basis.size
    n, noise = channels * math.prod(size), _Unit()

    def run(seeds: Tensor, y: Tensor) -> Tensor:
        mean, variance = denoiser.prior() or (0.0, None)
        start = start_state(
            process,
            seeds,
            (channels, *size),
            measurement=y,
            mean=mean,
            spectrum=variance,
            dtype=torch.float64,
            noise=noise,
        )
        cond = process.pairing.cond(y)
        return sample(denoiser, plan, start, seeds=seeds, cond=cond, noise=noise).x.flatten(1)

    nothing = torch.tensor([-1], device="cpu")
    offset = run(nothing, torch.zeros(1, channels, *size, dtype=torch.float64, device="cpu"))
    units = torch.eye(n, dtype=torch.float64, device="cpu").reshape(n, channels, *size)
    gain = (run(nothing.expand(n), units) - offset).T
    root = (
        run(
            torch.arange(noise.total, device="cpu"),
            torch.zeros(noise.total, channels, *size, dtype=torch.float64, device="cpu"),
        )
        - offset
    )
    return gain, root.T @ root
