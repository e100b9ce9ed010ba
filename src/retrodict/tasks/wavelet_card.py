"""How many steps a sampler needs as images grow, on pixels and through a wavelet cascade: closed form, no Monte Carlo.

Data are stationary and Gaussian with a steep spectrum (`retrodict.bases.stationary.power_law`), the score is exact, and
every sampler acts on each eigenvector of the covariance as numbers: with lambda its variance in units of the model, a
run from N(0, 1) ends with a variance v and a share m of the conditional mean, and

    KL / d = 1/d sum_modes [ (lambda/v - 1 - ln(lambda/v)) / 2 + (1 - m)^2 mu^2 / (2 v) ] ,

mu^2 the energy of the conditional mean (Guth et al. 2022, section 3; the sum over levels is the chain rule, with every
level judged at true coarse images).  Pixels: all frequencies, one step count.  Cascade: for each level the bands over
their deviations given the coarse image, the same number of steps at every level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Pixel, Wavelet
from retrodict.bases.filters import FAMILIES
from retrodict.bases.stationary import power_law, stationary_levels
from retrodict.denoisers.denoiser import GaussianDenoiser, Linear
from retrodict.processes.observation import Moments, wiener
from retrodict.processes.process import Process
from retrodict.samplers import make_plan
from retrodict.samplers.card import card
from retrodict.samplers.plan import Plan, make_grid

__all__ = ["SAMPLERS", "Modes", "Sampler", "divergence", "euler_map", "modes_of", "steps_to", "wavelet_card"]

HORIZON = 8.0
"""Of the Ornstein-Uhlenbeck process: exp(-8) of an image is left at the start."""

MOST = 1 << 16
"""A sampler that needs more steps is said to need them, without a number."""


class Modes(NamedTuple):
    """Distinct eigenvalues `(K,)`, how many modes have each, and the summed energy of their conditional means."""

    variance: Tensor
    count: Tensor
    energy: Tensor

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue; of a cascade see `worst_condition`."""
        return float(self.variance.max() / self.variance.min())


@dataclass(frozen=True)
class Sampler:
    """A rule with its grid: `exponent` of the clock on a grid uniform in time, or the name of another grid.

    law: what the rule knows of the error of the denoiser: "bands", the Wiener filter of data of one variance a band (a
    pixel model: one variance in all), or "own", the exact covariance.
    """

    title: str
    rule: str
    grid: str = "time"
    exponent: float = 2.0
    law: str = "bands"


SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler("Euler-Maruyama, uniform times (Guth et al. 2022)", "euler", exponent=1.0),
    "ancestral": Sampler("ancestral, quadratic times", "ancestral"),
    "ddim": Sampler("DDIM, quadratic times", "ddim"),
    "matched": Sampler("matched, spread of the bands", "matched"),
    "gaussian_ode": Sampler("probability flow, exact for white bands", "gaussian_ode"),
    "dpmpp2m": Sampler("DPM-Solver++(2M)", "dpmpp2m", "logsnr"),
    "exponential": Sampler("exponential, third order", "exponential", "logsnr"),
    "matched_own": Sampler("matched, spread of the data", "matched", law="own"),
}
"""What is compared, by name."""


# ---- the data as modes -----------------------------------------------------------------------------------------------


def modes_of(model: str, side: int, exponent: float, family: str = "db4") -> tuple[Modes, float]:
    """The modes of a "pixel" or "wavelet" model of side x side fields, and its condition number.

    Of the cascade that is the worst of its conditional covariances, levels down to one pixel.
    """
    power = power_law((side, side), exponent)
    if choice("model", model, ("pixel", "wavelet")) == "pixel":
        return _distinct(power.flatten(), torch.zeros_like(power).flatten()), float(power.max() / power.min())
    levels = stationary_levels(Wavelet((side, side), levels=side.bit_length() - 1, family=family), power)
    values = [level.modes[0].flatten() for level in levels]
    energies = [level.mean_energy.flatten() for level in levels]
    last = levels[-1].power.flatten()
    values.append(last / last.mean())
    energies.append(torch.zeros_like(last))
    return _distinct(torch.cat(values), torch.cat(energies)), max(float(v.max() / v.min()) for v in values)


def _distinct(variance: Tensor, energy: Tensor) -> Modes:
    """Modes whose variances agree to 1e-9 together."""
    keys = (variance.log() * 1e9).round()
    _, place, count = torch.unique(keys, return_inverse=True, return_counts=True)
    weight = count.double()
    return Modes(
        torch.zeros_like(weight).index_add_(0, place, variance) / weight,
        weight,
        torch.zeros_like(weight).index_add_(0, place, energy),
    )


# ---- a sampler as numbers --------------------------------------------------------------------------------------------


def _clock(exponent: float, horizon: float) -> Process:
    """The Ornstein-Uhlenbeck process of one coefficient: h = exp(-tau), s^2 = 1 - exp(-2 tau), tau = T t^exponent."""

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tau = horizon * t**exponent
        return torch.exp(-tau), 0 * t, -torch.expm1(-2 * tau)

    return Process(lambda basis: law, Pixel((1,)))


@dataclass(frozen=True)
class _Exact:
    """The exact denoiser of all modes as numbers, with the error law that the rule is told."""

    inner: GaussianDenoiser
    told: bool

    def linear(self, t: Tensor) -> Linear:
        found = self.inner.linear(t)
        if self.told:
            return found
        m = Moments(*(x[0, 0] for x in self.inner.process.moments(t)))
        return found._replace(variance=wiener(m, torch.ones_like(found.variance))[1])


def end_of(sampler: Sampler, steps: int, variance: Tensor, horizon: float = HORIZON) -> tuple[Tensor, Tensor]:
    """Variance and share of the conditional mean `(K,)` that a run from N(0, 1) ends with, for modes of `variance`.

    By the plan that the library itself runs; Euler-Maruyama without the last denoising that `euler` adds to it.
    """
    if sampler.rule == "euler":
        return euler_map(steps, variance, horizon)
    process, one = _clock(sampler.exponent, horizon), torch.ones(1, dtype=torch.float64, device="cpu")
    plan = make_plan(sampler.rule, process, make_grid(process, steps, sampler.grid, spectrum=one), one)
    denoiser = _Exact(GaussianDenoiser(process, torch.ones_like(variance), variance), sampler.law == "own")
    if plan.depth == 1:
        return _one_by_one(plan, denoiser, variance)
    found = card(plan, denoiser)
    return found.variance + found.start**2, found.offset


def _one_by_one(plan: Plan, denoiser: _Exact, variance: Tensor) -> tuple[Tensor, Tensor]:
    """`card` of a plan that remembers one state: its noises are independent, so their variances add as they come."""
    v, m = torch.ones_like(variance), torch.zeros_like(variance)
    for row in plan:
        linear = denoiser.linear(torch.tensor([row.t], dtype=torch.float64, device="cpu"))
        keep, data, noise, spread = (
            sum(part[:1], torch.zeros(1, dtype=torch.float64, device="cpu")).reshape(()) for part in row.weights
        )
        gain = keep + data * linear.state
        v, m = gain**2 * v + noise**2 + spread**2 * linear.variance, gain * m + data * linear.offset
    return v, m


def euler_map(steps: int, variance: Tensor, horizon: float = HORIZON) -> tuple[Tensor, Tensor]:
    """The same of Euler-Maruyama, y <- y + d (y + 2 score) + sqrt(2 d) z with uniform d (Guth et al. 2022).

    Per mode: m <- m + d [m - 2 (m - h)/S], v <- (1 + d (1 - 2/S))^2 v + 2 d, S = 1 + h^2 (lambda - 1), h = exp(-tau).
    """
    d = horizon / steps
    v, m = torch.ones_like(variance), torch.zeros_like(variance)
    for k in range(steps, 0, -1):
        h = math.exp(-d * k)
        pull = 2 * d / (1 + h**2 * (variance - 1))
        keep = 1 + d - pull
        m, v = keep * m + pull * h, keep**2 * v + 2 * d
    return v, m


def divergence(sampler: Sampler, steps: int, modes: Modes, horizon: float = HORIZON) -> tuple[float, float]:
    """KL divergence a pixel of the data from the samples, and the largest |v / lambda - 1|; infinite where it is."""
    v, m = end_of(sampler, steps, modes.variance, horizon)
    ratio = modes.variance / v
    kl = 0.5 * (modes.count * (ratio - 1 - ratio.log()) + (1 - m) ** 2 * modes.energy / v).sum() / modes.count.sum()
    worst = (1 / ratio - 1).abs().max()
    return tuple(float(x) if bool(torch.isfinite(x)) else math.inf for x in (kl, worst))  # type: ignore[return-value]


def steps_to(
    sampler: Sampler, modes: Modes, limit: float = 0.01, *, largest: bool = False, guess: int = 16, least: int = 1
) -> int | None:
    """The smallest number of steps with KL/d <= limit (or, `largest`, the worst mode within it); None above `MOST`.

    Between a number that does and one that does not, where the logarithm of the error says, and each third time by
    halves.
    """
    known: dict[int, float] = {}

    def off(n: int) -> float:
        """The logarithm of the error over the limit."""
        if n not in known:
            found = divergence(sampler, n, modes)[int(largest)]
            known[n] = math.log(found / limit) if 0 < found < math.inf else math.copysign(math.inf, found - limit)
        return known[n]

    high = max(least, guess)
    while off(high) > 0:
        if high >= MOST:
            return None
        high = min(MOST, 2 * high)
    low = max((n for n in known if known[n] > 0), default=high // 2)
    while low >= least and off(low) <= 0:
        low, high = low // 2, low
    low, turn = max(low, least - 1), 0
    while high - low > 1:
        n, turn = (low + high) // 2, turn + 1
        if turn % 3 and low >= least and math.isfinite(off(low)) and math.isfinite(off(high)):
            part = off(low) / (off(low) - off(high))
            guessed = low * (high / low) ** part
            n = min(max(math.ceil(guessed) - (turn % 3 == 2), low + 1), high - 1)
        low, high = (low, n) if off(n) <= 0 else (n, high)
    return high


# ---- the whole ------------------------------------------------------------------------------------------------------


def wavelet_card(
    sides: Sequence[int] = (8, 16, 32, 64, 128, 256),
    exponents: Sequence[float] = (3.0,),
    samplers: Sequence[str] | None = None,
    *,
    limit: float = 0.01,
    family: str = "db4",
    watch: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """A record for every exponent of the spectrum, side, model and sampler: steps to KL/d <= limit, and condition.

    steps of a cascade are those of each level; `full` are evaluations in units of the whole lattice, where a level of
    the cascade counts its share of the pixels (N sum 4^-j, near N/3).  Raises `InputError` for sides that are no powers
    of two.
    """
    _check(sides, exponents, limit, family)
    names = list(SAMPLERS) if samplers is None else [choice("sampler", name, SAMPLERS) for name in samplers]
    records, done, total = [], 0, len(sides) * len(exponents) * 2 * len(names)
    for exponent in exponents:
        before: dict[tuple[str, str], int] = {}
        for side in sorted(sides):
            for model in ("pixel", "wavelet"):
                modes, condition = modes_of(model, side, exponent, family)
                for name in names:
                    guess = before.get((model, name), 16)
                    steps = steps_to(SAMPLERS[name], modes, limit, guess=guess)
                    before[model, name] = steps or guess
                    share = 1.0 if model == "pixel" else _share(side)
                    records.append(
                        {
                            "eta": exponent,
                            "side": side,
                            "model": model,
                            "family": family if model == "wavelet" else None,
                            "sampler": name,
                            "limit": limit,
                            "condition": condition,
                            "steps": steps,
                            "full": None if steps is None else steps * share,
                        }
                    )
                    done += 1
                    if watch is not None:
                        watch(done, total)
    return records


def _share(side: int) -> float:
    """Pixels of all levels, the last of one pixel included, over those of the image."""
    return sum(4.0**-j for j in range(1, side.bit_length())) + 1 / side**2


def _check(sides: Sequence[int], exponents: Sequence[float], limit: float, family: str) -> None:
    for side in sides:
        if side < 2 or side > 1024 or side & (side - 1):
            raise InputError("sides", side, "powers of two from 2 to 1024")
    for exponent in exponents:
        if not 0 <= exponent <= 6:
            raise InputError("exponents", exponent, "numbers from 0 to 6")
    if not 0 < limit < math.inf:
        raise InputError("limit", limit, "a positive number")
    choice("family", family, FAMILIES)
