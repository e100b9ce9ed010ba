"""The gate: whether a plan, with a denoiser and the law of its error, samples the posterior.

Three questions, none of which needs an image or a network's weights to be right.  Is the plan exact enough on Gaussian
data of the model's spectrum (the card)?  Is it still on data that are as far from Gaussian as two modes can be
(`two_modes`)?  And is the error that the rule draws the error of *this* denoiser (`is_wiener_filter`)?
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.bases import Pixel
from retrodict.denoisers.denoiser import Denoiser, Estimate, GaussianDenoiser
from retrodict.denoisers.guidance import ClassifierGuided
from retrodict.denoisers.spread import SpectralSpread
from retrodict.denoisers.wrappers import Guided, Wrapper
from retrodict.processes.observation import Cond, Moments, Pairing, ratio, wiener
from retrodict.processes.process import Process
from retrodict.samplers.card import dense_card, posterior_card
from retrodict.samplers.loop import sample, start_state
from retrodict.samplers.plan import Plan, Row

__all__ = ["BIAS_LIMIT", "DENSE_LIMIT", "MODES_LIMIT", "VARIANCE_LIMIT", "Gate", "Modes", "judge", "two_modes"]

BIAS_LIMIT, VARIANCE_LIMIT, MODES_LIMIT = 0.15, 0.05, 0.10
"""Largest error of the mean, in standard deviations of the posterior; of the variance on Gaussian data, and on data of
two modes, as parts of the exact one.  Together an accepted plan is at most 10 % wrong in its total variance."""

DENSE_LIMIT = 100
"""Pixels up to which a denoiser that is not diagonal is checked as matrices, in seconds."""

UNKNOWN = float("nan")


class Gate(NamedTuple):
    """Verdict on a plan, against the exact posterior.

    gain, variance: the ratios that are farthest from 1 over frequency bands, on Gaussian data; bias: error of the mean
    over the posterior's standard deviation (square root of the ratio of mean squares) in the worst band; modes: the
    total variance on data of two modes; direction: the variance along the line between the modes, which no limit is
    set for.  NaN where it was not judged.
    """

    gain: float
    variance: float
    passed: bool
    reason: str
    bias: float = UNKNOWN
    modes: float = UNKNOWN
    direction: float = UNKNOWN


Build = Callable[[Process, Tensor | None], Plan]
"""(process, variance of the data on its basis) -> the plan to be judged."""


def judge(denoiser: Denoiser, build: Build, bands: int = 5) -> Gate:
    """The verdict on the plans of `build` with `denoiser`; see `retrodict.gate`."""
    if _guided(denoiser):
        return _shut("the denoiser is guided: its flow ends at no posterior, and its spread is no uncertainty")
    twin = denoiser.gaussian()
    if denoiser.process.measurement is None:
        return _shut("the law of the measurement is not known")
    if twin is None:
        return _shut("the denoiser knows no spectrum of the data, so its spread cannot be checked")
    small = _small(twin.to("cpu"), 32 if isinstance(twin, GaussianDenoiser) else 8)
    dense = not isinstance(small, GaussianDenoiser)
    if dense and (math.prod(small.process.basis.size) > DENSE_LIMIT or small.process.basis.complex):
        return _shut("the denoiser is not diagonal, and its grid too large (or complex) to check as matrices")
    prior = small.prior()
    assert prior is not None
    plan = build(small.process, prior[1])
    law = _law_problem(denoiser, plan)
    if law:
        return _shut(law)
    found = _dense_ratios(small, plan) if dense else _card_ratios(small, plan, bands)
    reason = f"on Gaussian data its gain is {found.gain:.3f} and its variance {found.variance:.3f} of the exact ones"
    if found.bias > BIAS_LIMIT or abs(found.variance - 1) > VARIANCE_LIMIT:
        return Gate(found.gain, found.variance, False, reason, found.bias)
    if dense:
        return Gate(found.gain, found.variance, True, reason, found.bias)
    modes = two_modes(small, plan)
    reason += (
        f"; on data of two modes its variance is {modes.total:.2f} of the exact one, {modes.direction:.2f} along them"
    )
    return Gate(found.gain, found.variance, abs(modes.total - 1) <= MODES_LIMIT, reason, found.bias, *modes)


def _guided(denoiser: Denoiser) -> bool:
    """Whether the denoiser, or one that it is made of, is guided with a weight other than 1."""
    if isinstance(denoiser, ClassifierGuided) or (isinstance(denoiser, Guided) and denoiser.weight != 1.0):
        return True
    return isinstance(denoiser, Wrapper) and _guided(denoiser.inner)


def _shut(reason: str) -> Gate:
    return Gate(UNKNOWN, UNKNOWN, False, reason)


def _small(twin: Denoiser, side: int) -> Denoiser:
    """The twin on a small grid, or on its own where its tables cannot be carried over."""
    try:
        return twin.on((side,) * twin.process.ndim)
    except InputError:
        return twin


# ---- the law of the error -----------------------------------------------------------------------------------------


def _law_problem(denoiser: Denoiser, plan: Plan) -> str:
    """Why the error that the plan draws is not that of the denoiser, or an empty string."""
    if not plan.uses_spread or denoiser.error_law == "own":
        return ""
    if denoiser.error_law == "none":
        return f"rule {plan.rule!r} draws the error of the denoiser, whose law is not known"
    if is_wiener_filter(denoiser, plan.times):
        return ""
    return (
        "the law of the error is that of the Wiener filter, and the denoiser is not that filter: the spread of its "
        "samples can be several times too large. Take the law that the network has learned (train it with bands), or a "
        "rule that draws no error, such as 'sde_dpmpp2m'"
    )


def is_wiener_filter(denoiser: Denoiser, times: Tensor) -> bool:
    """Whether the answers are those of the Gaussian twin, to 1 % of the variance that both state, on random states.

    For any data E|x_0 - W|^2 = E|x_0 - D|^2 + E|D - W|^2 holds for a posterior mean D and the best linear estimate W:
    the mean square of D - W over that of the Wiener error is the part by which a Wiener law is too wide.
    """
    side = -(-32 // denoiser.multiple) * denoiser.multiple
    bound = _small(denoiser, side)
    twin = bound.gaussian()
    if not isinstance(twin, GaussianDenoiser):
        return False
    process, (mean, variance) = bound.process, twin.prior()
    basis, channels = process.basis, variance.shape[0] if variance.ndim > process.ndim else 1
    seeds = torch.arange(2, device="cpu")
    fields = [
        _field(seeds, name, (channels, *basis.size), basis.complex, basis.device) for name in ("data", "state", "y")
    ]
    u0 = mean + variance.sqrt() * basis.forward(fields[0])
    x0 = basis.inverse(u0)
    seen = process.measurement if process.pairing.sees else None
    y = None if seen is None else basis.inverse(seen.h * u0 + seen.s2.sqrt() * basis.forward(fields[2]))
    for time in times[:-1][:: max(1, (len(times) - 1) // 3)]:
        t = time.expand(2)
        xt = process.corrupt(x0, t, fields[1], y if process.anchored else None)
        cond = process.pairing.cond(y)
        exact = twin.estimate(xt, t, cond)
        assert exact.spread is not None
        with torch.no_grad():
            error = denoiser_at(bound, xt, t, cond) - exact.mean
        if float(error.abs().square().mean()) > 0.01 * float(exact.spread.variance().mean()) * (1 + basis.complex):
            return False
    return True


def denoiser_at(denoiser: Denoiser, xt: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The answer in float64, of a denoiser that is used in float32."""
    single = torch.complex64 if xt.is_complex() else torch.float32
    image = None if cond.image is None else cond.image.to(single)
    return denoiser(xt.to(single), t, Cond(image, cond.vector)).to(xt)


def _field(seeds: Tensor, name: str, shape: tuple[int, ...], complex: bool, device: str) -> Tensor:
    real = white(seeds, f"gate-{name}", 0, shape).double().to(device)
    if not complex:
        return real
    return torch.complex(real, white(seeds, f"gate-{name}-imaginary", 0, shape).double().to(device))


# ---- Gaussian data --------------------------------------------------------------------------------------------------


class Ratios(NamedTuple):
    """Gain and variance over the exact ones, and the error of the mean in posterior deviations; the worst of each."""

    gain: float
    variance: float
    bias: float


def _worst(values: list[float]) -> float:
    return max(values, key=lambda x: abs(x - 1))


def _card_ratios(twin: GaussianDenoiser, plan: Plan, bands: int) -> Ratios:
    """The worst band of the worst channel.

    The error of the mean is weighed by the power M = h^2 L + s^2 of the measurement: (g - K)^2 M over V.  A gain that
    is twice a gain of nothing harms nobody.
    """
    process, (_, spectrum) = twin.process, twin.prior()
    assert process.measurement is not None
    exact, m = wiener(process.measurement, spectrum), process.measurement
    shape, weight = process.basis.shape, process.basis.multiplicity()
    tables = (*posterior_card(plan, spectrum), *exact, m.h**2 * spectrum + m.s2)
    got_gain, got, gain, variance, power = (
        x.expand(*spectrum.shape).reshape(-1, *shape) * weight.sqrt() for x in tables
    )
    gains, variances, biases = [1.0], [1.0], [0.0]
    root = weight.sqrt()
    for _, _, part in process.basis.bands(bands):
        left = (variance * root)[:, part].sum(1)
        error = ((got_gain - gain) ** 2 * power / root)[:, part].sum(1)
        gains += ratio((got_gain * gain)[:, part].sum(1), (gain**2)[:, part].sum(1), otherwise=1.0).tolist()
        variances += ratio((got * root)[:, part].sum(1), left, otherwise=1.0).tolist()
        biases += ratio(error, left).sqrt().tolist()
    return Ratios(_worst(gains), _worst(variances), max(biases))


def _dense_ratios(twin: Denoiser, plan: Plan) -> Ratios:
    """Ratios along the direction, of all pixels, where they are worst.

    For a denoiser that is not diagonal the run is compared as matrices with the posterior given y, in the directions
    that the posterior leaves open.
    """
    process, prior = twin.process, twin.prior()
    m = process.measurement
    assert m is not None
    assert prior is not None
    channels = prior[1].shape[0] if prior[1].ndim > process.ndim else 1
    got_gain, got = dense_card(plan, twin, channels)
    gain, variance = wiener(m, prior[1])
    n, basis = len(got), process.basis
    units = torch.eye(n, dtype=torch.float64, device="cpu").reshape(n, -1, *basis.size)
    tables = (gain, variance, m.h**2 * prior[1] + m.s2)
    exact_gain, exact, power = (basis.inverse(x * basis.forward(units)).reshape(n, n).T for x in tables)
    values, vectors = torch.linalg.eigh(exact)
    open_ones = values > 1e-12 * values.max()
    root = vectors[:, open_ones] / values[open_ones].sqrt()
    ratios = torch.linalg.eigvalsh(root.T @ got @ root).tolist()
    bias = got_gain - exact_gain
    squares = torch.linalg.eigvalsh(root.T @ bias @ power @ bias.T @ root)
    shared = float((got_gain * exact_gain).sum() / (exact_gain**2).sum())
    return Ratios(shared, _worst([float(r) for r in ratios]), float(squares.max().clamp_min(0).sqrt()))


# ---- data of two modes ----------------------------------------------------------------------------------------------

PLACES, ITEMS, APART = 8, 2000, 1.0
"""Coefficients and items of the test on two modes, and the distance of the modes in the measurement, in deviations."""


class Modes(NamedTuple):
    """Variance of samples over that of the posterior on data of two modes: of all, and along the line between them."""

    total: float
    direction: float


@dataclass(frozen=True)
class TwoModes(Denoiser):
    """Exact denoiser of data +-mode + N(0, rest) in a real basis, every sign equally likely, with its error law.

    The law holds the variance of every coefficient, as that of a network does; what couples them is left out.
    """

    process: Process
    mode: Tensor
    rest: Tensor

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean 0 and variance of every coefficient."""
        return torch.zeros_like(self.mode), self.mode**2 + self.rest

    def on(self, size: object) -> TwoModes:
        """Itself; a law in tables cannot go to another grid."""
        return self

    def to(self, device: str | torch.device) -> TwoModes:
        """Itself: the test runs on the CPU."""
        return self

    def posterior(self, seen: list[tuple[Tensor, Moments]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Given observations: mean, variance within a mode, half the way between the modes, and 1 - odds^2, where odds
        is the difference of the probabilities of the modes.
        """
        precision = sum((ratio(m.h**2, m.s2) for _, m in seen), start=torch.zeros_like(self.rest))
        value = sum((ratio(m.h, m.s2) * u for u, m in seen), start=torch.zeros_like(self.rest))
        within = self.rest / (1 + self.rest * precision)
        half = self.mode / (1 + self.rest * precision)
        odds = torch.tanh((half * value).sum(-1, keepdim=True))
        return within * value + half * odds, within, half, 1 - odds**2

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """All items are at one time here."""
        process, t = self.process, t[:1]
        seen = [(process.to_coefficients(xt, t, cond.image if process.anchored else None), process.moments(t))]
        if process.pairing.sees and cond.image is not None and process.measurement is not None:
            seen.append((cond.image, process.measurement))
        mean, within, half, open_part = self.posterior(seen)
        return Estimate(mean, SpectralSpread(process.basis, within + open_part * half**2))


def two_modes(twin: GaussianDenoiser, plan: Plan) -> Modes:
    """The plan on data of the twin's spectrum that have two modes: its rows, at a few coefficients, with the exact law.

    The modes lie along the direction that the measurement determines least (mode^2 = c V, V the posterior variance,
    with c at most 0.9) and `APART` deviations of the measurement from each other's middle, so that it cannot tell them
    apart.  All is drawn `ITEMS` times from fixed seeds: 1.5 % of the total, 3 % of the direction.
    """
    process, (_, spectrum) = twin.process, twin.prior()
    tables = spectrum.reshape(-1, *process.basis.shape).flatten(1)
    found = [_two_modes(process, plan, row, channel) for channel, row in enumerate(tables)]
    return max(found, key=lambda m: abs(m.total - 1))


def _two_modes(process: Process, plan: Plan, spectrum: Tensor, channel: int) -> Modes:
    assert process.measurement is not None
    flat = Moments(*(_flat(x, process, channel) for x in process.measurement))
    told = torch.nonzero((flat.s2 > 0) & (spectrum > 0)).flatten()  # a noise-free coefficient has one mode
    if not len(told):
        return Modes(1.0, 1.0)
    order = told[process.basis.radius().flatten()[told].argsort(stable=True)]
    index = order[torch.linspace(0, len(order) - 1, min(PLACES, len(order)), device="cpu").round().long()]
    picked, L = _picked(process, index, channel), spectrum[index]
    m = picked.measurement
    assert m is not None
    law = _least_determined(picked, m, L)
    generator = torch.Generator(device="cpu").manual_seed(0)

    def noise(seeds: Tensor, stream: str, step: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(len(seeds), *shape, generator=generator, dtype=torch.float64, device="cpu")

    seeds, shape = torch.arange(ITEMS, device="cpu"), (1, len(index))
    sign = torch.randint(0, 2, (ITEMS, 1, 1), generator=generator, device="cpu").double() * 2 - 1
    u0 = sign * law.mode + law.rest.sqrt() * noise(seeds, "data", 0, shape)
    y = m.h * u0 + m.s2.sqrt() * noise(seeds, "measurement", 0, shape)
    settings = {"measurement": y, "mean": 0.0, "spectrum": L, "dtype": torch.float64, "noise": noise}
    start = start_state(picked, seeds, shape, **settings)  # type: ignore[arg-type]
    rows = Plan(
        picked, plan.times, lambda i: _row(plan[i], process, index, channel), len(plan), plan.nfe, plan.rule, plan.depth
    )
    x = sample(law, rows, start, seeds=seeds, cond=picked.pairing.cond(y), noise=noise).x
    mean, within, half, open_part = law.posterior([(y, m)])
    error, between = x - mean, open_part.mean()
    along = ratio(half, within)  # the direction in which the modes are farthest apart for what is left
    total = error.square().sum(-1).mean() / (within.sum() + between * half.square().sum())
    line = (error * along).sum(-1).square().mean() / ((within * along**2).sum() + between * (half * along).sum() ** 2)
    return Modes(float(total), float(line))


def _least_determined(process: Process, m: Moments, L: Tensor) -> TwoModes:
    """Modes +-sqrt(c V), with c so that they are `APART` in the measurement, and what is left of the variance."""
    _, V = wiener(m, L)

    def apart(c: float) -> float:
        mode = c * V
        return float((m.h**2 * mode / (m.h**2 * (L - mode) + m.s2)).sum().sqrt())

    low, high = 0.0, 0.9
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if apart(middle) < APART else (low, middle)
    return TwoModes(process, (low * V).sqrt(), L - low * V)


def _flat(table: Tensor, process: Process, channel: int) -> Tensor:
    """A table `(B|1, C|1, *K)` or `(*K)` of one channel on the whole grid, `(..., K)`."""
    if table.ndim <= process.ndim:
        return table.expand(process.basis.shape).flatten()
    table = table.expand(*table.shape[: -process.ndim], *process.basis.shape).flatten(-process.ndim)
    return table[..., min(channel, table.shape[-2] - 1), :]


def _picked(process: Process, index: Tensor, channel: int) -> Process:
    """The process at coefficients `index` of a channel, as a process of that many real pixels."""

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        time = t.flatten()
        time = time[:1] if bool((time == time[0]).all()) else time
        return tuple(_flat(x, process, channel)[..., None, index] for x in process.moments(time))  # type: ignore[return-value]

    pairing: Pairing = process.pairing
    if process.measurement is not None:
        m = Moments(*(_flat(x, process, channel)[index] for x in process.measurement))
        pairing = replace(pairing, law=lambda basis: m)
    return Process(lambda basis: law, Pixel((len(index),)), pairing)


def _row(row: Row, process: Process, index: Tensor, channel: int) -> Row:
    return row.mapped(lambda w: w.reshape(()) if w.numel() == 1 else _flat(w, process, channel)[..., None, index])
