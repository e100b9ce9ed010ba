"""A sampler written as numbers: times, and rows of weights of one linear recursion.

    w' = sum_i keep_i w_i + sum_j data_j D_j + sum_k noise_k z_k + sum_l spread_l e_l,     newest first,

with z white and e a draw of the error x_0 - D from the denoiser's own law.  Because a plan is data, its exact gain
and variance on Gaussian data follow without Monte Carlo (`retrodict.samplers.card`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.processes.observation import clock
from retrodict.processes.process import Process

__all__ = ["GRIDS", "Plan", "Row", "Rule", "denoise_row", "make_grid", "mean_log_clock"]

CACHE_LIMIT = 256 * 2**20
"""Rows of a plan are kept in memory if together they are smaller than this many bytes, and computed anew otherwise."""


class Row(NamedTuple):
    """One line of a sampler; weights are float64, broadcastable to `(B, C, *K)`, for what is newest first.

    t: time of the newest state, a number or `(B,)`, times of its own for every item; call: evaluate the denoiser
    there?  keep, data: weights of states and of denoised images; noise: of white fields; spread: of draws of the
    denoiser's error law.  A row that names a noise or a spread draws one fresh field; older ones are remembered.
    correct: the weight of what the row before missed, which is put right before this row goes on
    (`retrodict.samplers.corrected`); remember: keep this draw for that; directions: how many directions of covariance
    the draw takes beside the law.
    """

    t: float | Tensor
    call: bool
    keep: tuple[Tensor, ...]
    data: tuple[Tensor, ...] = ()
    noise: tuple[Tensor, ...] = ()
    spread: tuple[Tensor, ...] = ()
    correct: Tensor | None = None
    remember: bool = False
    directions: int = 0

    @property
    def weights(self) -> tuple[tuple[Tensor, ...], ...]:
        """Weights of states, images, noises and errors."""
        return self.keep, self.data, self.noise, self.spread

    def cast(self, dtype: torch.dtype, device: torch.device) -> Row:
        """The row with weights in the dtype of a state, complex ones too (mixed products would convert at every
        step); weights that are so already are not copied.
        """
        if self.keep[0].dtype == dtype and self.keep[0].device == device:  # all weights of a row are alike
            return self
        return self.mapped(lambda w: w.to(dtype=dtype, device=device))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Row:
        """The row with every weight changed."""
        keep, data, noise, spread = (tuple(change(w) for w in part) for part in self.weights)
        correct = None if self.correct is None else change(self.correct)
        return self._replace(keep=keep, data=data, noise=noise, spread=spread, correct=correct)


@dataclass(frozen=True)
class Plan(Sequence[Row]):
    """An immutable sequence of rows, from the first of `times` to the last.

    build(i) makes row i; `nfe` counts denoiser calls, `depth` how many past states or images a row may use.
    `stochastic`: fresh randomness enters.  `uses_spread`: the denoiser must know the law of its error.  `components`:
    directions of covariance that are looked for at the start (`retrodict.samplers.principal`), by as many calls.
    """

    process: Process
    times: Tensor
    build: Callable[[int], Row]
    length: int
    nfe: int
    rule: str
    depth: int = 1
    stochastic: bool = False
    uses_spread: bool = False
    components: int = 0

    def __post_init__(self) -> None:
        """Refuse times that do not fall."""
        times = self.times
        if times.ndim != 1 or len(times) < 2 or times.dtype != torch.float64:
            raise InputError("plan times", f"{tuple(times.shape)} {times.dtype}", "a float64 vector of two or more")
        if not bool((times[1:] < times[:-1]).all()) or float(times[-1]) < 0 or float(times[0]) > 1:
            raise InputError("plan times", times.tolist(), "strictly decreasing times in [0, 1]")

    def __len__(self) -> int:
        return self.length

    @cached_property
    def _rows(self) -> list[Row] | None:
        """All rows, or None where they would not fit the cache."""
        first = self.build(0)
        size = sum(w.numel() for w in (*first.keep, *first.data)) * 8 * 3
        return [self.build(i) for i in range(self.length)] if size * self.length < CACHE_LIMIT else None

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not -self.length <= index < self.length:
            raise IndexError(index)
        rows = self._rows
        return self.build(index % self.length) if rows is None else rows[index]

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(self.length))

    @cached_property
    def _cast(self) -> dict[tuple[torch.dtype, str], list[Row]]:
        return {}

    def cast(self, dtype: torch.dtype, device: torch.device) -> Iterable[Row]:
        """Rows with weights in the dtype of a state; cast once per plan and dtype where rows are cached."""
        if self._rows is None:
            return (row.cast(dtype, device) for row in self)
        rows = self._cast.get((dtype, str(device)))
        if rows is None:
            rows = [row.cast(dtype, device) for row in self._rows]
            self._cast[(dtype, str(device))] = rows
        return rows

    @property
    def last(self) -> float:
        """Time at which the plan ends."""
        return float(self.times[-1])


class Rule(NamedTuple):
    """A rule and what may be said of it; the contracts of the tests read these declarations.

    build(process, times, spectrum, **options) makes the plan on a grid of N + 1 times.  `steps`: the default N.
    posterior: from a fixed measurement its samples have the gain and variance of the posterior (within 2 % and 5 % on
    the Gaussian card at `steps`); where False the spread is not an uncertainty and is refused as one.  deterministic:
    no randomness after the start, but for the first step out of the pinned end of a bridge.  calls_per_step: denoiser
    calls of one step of the grid.  order: global order in the step of the mean it follows.  exact: gain and variance
    are right on Gaussian data at any number of steps.  markov: refused where the noise has a memory of its own.
    """

    build: Callable[..., Plan]
    steps: int
    posterior: bool
    deterministic: bool
    grid: str
    reference: str
    calls_per_step: int = 1
    order: int = 1
    exact: bool = False
    markov: bool = False


def denoise_row(t: float) -> Row:
    """The row that returns the denoised image itself."""
    zero, one = torch.zeros(1, dtype=torch.float64, device="cpu"), torch.ones(1, dtype=torch.float64, device="cpu")
    return Row(t, True, (zero,), (one,))


# ---- time grids: strictly decreasing float64 times `(N + 1,)`, explicit at both ends -----------------------------

BLOCK = 2**22
"""Numbers of a table of clocks that are computed together."""

ERASED = 1e8
"""Noise clock that stands for an erased coefficient in the mean that a grid is uniform in: far above any signal, and
near enough that the grid keeps its nodes where something happens.  Coefficients without noise do not count."""


def _uniform(process: Process, steps: int, last: float, spectrum: Tensor | None) -> Tensor:
    """Uniform in t from 1 to `last`."""
    return torch.linspace(1.0, last, steps + 1, dtype=torch.float64, device="cpu")


def mean_log_clock(process: Process, t: Tensor, gain: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Mean log clock over degrees of freedom at times `(n,)`: the one number that stands for a structured clock.

    `gain` stands in for h where it is given.
    """
    weight = process.basis.multiplicity()
    rows = []
    for times in t.split(max(1, BLOCK // weight.numel())):
        m = process.moments(times)
        moments = m if gain is None else m._replace(h=gain(times))
        r = torch.where(m.s2 == 0, 1.0, clock(moments).clamp_max(ERASED)).log()  # no more erased than erased
        rows.append((r.expand(len(times), 1, *process.basis.shape)[:, 0] * weight).flatten(1).sum(1) / weight.sum())
    return torch.cat(rows).cpu()


def _with_memory(process: Process, t: Tensor) -> Tensor:
    """Mean of log s^2/(h A): `mean_log_clock` where A = h."""
    total = mean_log_clock(process, t)
    return total if process.memory is None else (total + mean_log_clock(process, t, process.memory_gain)) / 2


def _invert(times: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Times at which a rising tabulated function takes the wanted values, by linear interpolation."""
    values = torch.cummax(values, 0).values
    place = (torch.searchsorted(values, wanted.clamp(values[0], values[-1])) - 1).clamp(0, len(times) - 2)
    width = (values[place + 1] - values[place]).clamp_min(1e-300)
    part = ((wanted - values[place]) / width).clamp(0, 1)
    return times[place] * (1 - part) + times[place + 1] * part


def _logsnr(process: Process, steps: int, last: float, spectrum: Tensor | None) -> Tensor:
    """Uniform in the mean log-SNR of the coefficients; `last` must be positive."""
    return _warped(process, steps, last, lambda r: r, lambda v: v)


def _total(process: Process, steps: int, last: float, spectrum: Tensor | None) -> Tensor:
    """Uniform in the mean of log(h A/s^2), in which a step with the noise memory A averages the denoised images.

    For a Markov process it is "logsnr": A = h.
    """
    return _warped(process, steps, last, lambda r: r, lambda v: v, _with_memory)


def _rho(process: Process, steps: int, last: float, spectrum: Tensor | None) -> Tensor:
    """Uniform in sigma^(1/7), sigma = s/h as geometric mean over coefficients (Karras et al. 2022, eq. 5)."""
    return _warped(process, steps, last, lambda r: (r / 14).exp(), lambda v: 14 * v.log())


def _warped(
    process: Process,
    steps: int,
    last: float,
    forward: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], Tensor],
    summary: Callable[[Process, Tensor], Tensor] | None = None,
) -> Tensor:
    if last <= 0:
        raise InputError("grid last", last, "a positive time for a log-SNR or rho grid")
    times = last * (1 / last) ** torch.linspace(0, 1, 513, dtype=torch.float64, device="cpu")
    summary = summary or mean_log_clock
    values = torch.cummax(summary(process, times), 0).values
    span = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu")
    wanted = backward(forward(values[-1]) * (1 - span) + forward(values[0]) * span)
    grid = _invert(times, values, wanted)
    # interpolation leaves 1e-4 errors; two Newton-free bisection refinements make the grid exact to round-off
    return _refine(process, grid, wanted, times, summary)


def _refine(
    process: Process, grid: Tensor, wanted: Tensor, times: Tensor, summary: Callable[[Process, Tensor], Tensor]
) -> Tensor:
    low, high = (grid * 0.97).clamp_min(float(times[0])), (grid * 1.03).clamp_max(1.0)
    for _ in range(46):
        middle = 0.5 * (low + high)
        below = summary(process, middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    exact = 0.5 * (low + high)
    exact[0], exact[-1] = 1.0, times[0]
    return exact


def _energy(process: Process, steps: int, last: float, spectrum: Tensor | None) -> Tensor:
    """Equal progress of the energy: nodes uniform in sum_k w_k L_k/(L_k + r_k) d log r_k.

    Only coefficients in transition (r near L) count (structured clocks move at different times); needs a spectrum.
    """
    if spectrum is None:
        raise InputError("grid 'energy'", "no spectrum", "the data spectrum")
    start = max(last, 1e-4)
    times = start + (1 - start) * torch.linspace(0, 1, 401, dtype=torch.float64, device="cpu") ** 2
    weight = process.basis.multiplicity()
    clocks = [process.clock(t[None]).expand(1, 1, *process.basis.shape)[0, 0].clamp(1e-300, 1e300) for t in times]
    # integral of L/(L + r) dlog r = log r - log(L + r), rising in t at every coefficient
    levels = [((r.log() - (spectrum + r).log()) * weight * spectrum.sqrt()).sum() for r in clocks]
    values = torch.stack(levels).cpu()
    span = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu")
    grid = _invert(times, values, values[-1] * (1 - span) + values[0] * span)
    grid[0], grid[-1] = 1.0, last
    return grid


LEAP = 0.35
"""Where the first step of the grid "leap" ends."""


def _leap(process: Process, steps: int, last: float, spectrum: Tensor | None) -> Tensor:
    """From 1 to `LEAP` at once, then uniform in t: for a first call that knows the covariance (`principal`)."""
    if steps == 1:
        return _uniform(process, steps, last, spectrum)
    rest = torch.linspace(max(LEAP, last + (1 - last) / 2), last, steps, dtype=torch.float64, device="cpu")
    return torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), rest])


GRIDS = {"time": _uniform, "leap": _leap, "logsnr": _logsnr, "total": _total, "rho": _rho, "energy": _energy}


CLEAN = 1.2e-4
"""Noise clock of a state that is nearly clean, for data of unit variance or less: that of `vp` at t = 1e-3."""


def _nearly_clean(process: Process, spectrum: Tensor | None) -> float:
    """The time of at most 1e-3 at which the clock, as geometric mean of what carries noise, is at most `CLEAN`.

    It grows with the mean variance of the data where that is known and above 1.  1e-3 where the clock never is as low.
    """
    weight = process.basis.multiplicity()
    power = 1.0 if spectrum is None else float((spectrum * weight).sum() / weight.expand_as(spectrum).sum())

    def dirty(t: float) -> bool:
        m = process.moments(torch.tensor([t], dtype=torch.float64, device="cpu"))
        noisy = weight * (m.s2 != 0) * (m.h != 0)
        level = torch.where(noisy > 0, clock(m), 1.0).log()
        return float((level * noisy).sum()) > math.log(CLEAN * max(1.0, power)) * float(noisy.sum())

    low, high = 1e-9, 1e-3
    if not dirty(high) or dirty(low):
        return high
    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if dirty(middle) else (middle, high)
    return high


def make_grid(
    process: Process,
    steps: int,
    kind: str = "time",
    *,
    last: float = 0.0,
    first: float | None = None,
    spectrum: Tensor | None = None,
) -> Tensor:
    """Times `(steps + 1,)` from 1 down to `last`.

    With last = 0 the log-SNR, rho and energy grids run from 1 to `first` in steps - 1 intervals and then jump to 0
    (the final denoising step); "time" runs to 0 directly.  `first` is 1e-3 where the state is nearly clean by then, and
    otherwise the time at which it is: noise that the jump takes away is missing in the samples.
    """
    choice("grid", kind, GRIDS)
    if steps < 1:
        raise InputError("steps", steps, "at least 1")
    if last > 0 or kind in ("time", "leap"):
        return GRIDS[kind](process, steps, last, spectrum)
    if steps == 1:
        return torch.tensor([1.0, 0.0], dtype=torch.float64, device="cpu")
    body = GRIDS[kind](process, steps - 1, _nearly_clean(process, spectrum) if first is None else first, spectrum)
    return torch.cat([body, torch.zeros(1, dtype=torch.float64, device="cpu")])


# ---- the dictionary ----------------------------------------------------------------------------------------------
