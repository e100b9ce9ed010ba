"""A sampler written as numbers: rows of weights of one linear recursion.

    w' = sum_i keep_i w_i + sum_j data_j D_j + noise z + spread e,     newest first,

with z white and e a draw of the error x_0 - D from the denoiser's own law.  Because a plan is data, its exact gain
and variance on Gaussian data follow without Monte Carlo (`retrodict.samplers.card`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.processes.process import Process

__all__ = ["GRIDS", "Level", "Levels", "Plan", "Row", "Rule", "make_grid"]


CACHE_LIMIT = 256 * 2**20
"""Rows of a plan are kept in memory if together they are smaller than this many bytes, and computed anew otherwise."""


class Row(NamedTuple):
    """One line of a sampler; weights are float64, broadcastable to `(1, 1, *K)`.

    t: time of the newest state; call: evaluate the denoiser there?  keep, data: weights of the newest states and
    denoised images; noise: weight of fresh white noise; spread: weight of a draw of the denoiser's error law.
    """

    t: float
    call: bool
    keep: tuple[Tensor, ...]
    data: tuple[Tensor, ...] = ()
    noise: Tensor | None = None
    spread: Tensor | None = None


@dataclass(frozen=True)
class Plan(Sequence[Row]):
    """An immutable sequence of rows, from t = 1 to `last`.

    build(i) makes row i; `nfe` counts denoiser calls, `depth` how many past states or images a row may use.
    `stochastic`: fresh randomness enters.  `uses_spread`: the denoiser must know the law of its error.
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

    def __post_init__(self) -> None:
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
        size = sum(w.numel() for w in (*first.keep, *first.data) if w is not None) * 8 * 3
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

    def cast(self, index: int, dtype: torch.dtype, device: torch.device) -> Row:
        """Row with weights in the dtype of a state, complex ones too (mixed products would convert at every step);
        cast once per plan and dtype where rows are cached.
        """
        if self._rows is None:
            return _to(self[index], dtype, device)
        rows = self._cast.get((dtype, str(device)))
        if rows is None:
            rows = [_to(row, dtype, device) for row in self._rows]
            self._cast[(dtype, str(device))] = rows
        return rows[index]

    @property
    def last(self) -> float:
        """Time at which the plan ends."""
        return float(self.times[-1])


def _to(row: Row, dtype: torch.dtype, device: torch.device) -> Row:
    def move(w: Tensor | None) -> Tensor | None:
        return None if w is None else w.to(dtype=dtype, device=device)

    keep = tuple(w.to(dtype=dtype, device=device) for w in row.keep)
    data = tuple(w.to(dtype=dtype, device=device) for w in row.data)
    return Row(row.t, row.call, keep, data, move(row.noise), move(row.spread))


class Level(NamedTuple):
    """Moments at one time of a grid: h, s2, s and half log-SNR l = log(h/s) per coefficient, float64 `(1, 1, *K)`."""

    h: Tensor
    s2: Tensor
    s: Tensor
    l: Tensor


@dataclass(frozen=True)
class Levels:
    """Moments of a process along a time grid, computed on demand."""

    process: Process
    times: Tensor

    def __getitem__(self, index: int) -> Level:
        m = self.process.moments(self.times[index : index + 1])
        s = m.s2.sqrt()
        return Level(m.h, m.s2, s, m.h.log() - s.log())

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Times t_i and t_{i+1} as `(1,)` tensors."""
        return self.times[index : index + 1], self.times[index + 1 : index + 2]

    def __len__(self) -> int:
        return len(self.times) - 1


def _uniform(process: Process, steps: int, last: float, spectrum: Tensor | None) -> Tensor:
    """Uniform in t from 1 to `last`."""
    return torch.linspace(1.0, last, steps + 1, dtype=torch.float64)


def _summary(process: Process, spectrum: Tensor | None, t: Tensor) -> Tensor:
    """Mean log clock over degrees of freedom at times `(n,)`: the one number that stands for a structured clock."""
    weight = process.basis.multiplicity()
    rows = []
    for time in t:
        clock = process.clock(time[None]).clamp(1e-300, 1e300).log().expand(1, 1, *process.basis.shape)
        rows.append((clock[0, 0] * weight).sum() / weight.sum())
    return torch.stack(rows)


def _invert(times: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Times at which a rising tabulated function takes the wanted values, by linear interpolation."""
    values = torch.cummax(values, 0).values
    place = (torch.searchsorted(values, wanted.clamp(values[0], values[-1])) - 1).clamp(0, len(times) - 2)
    width = (values[place + 1] - values[place]).clamp_min(1e-300)
    part = ((wanted - values[place]) / width).clamp(0, 1)
    return times[place] * (1 - part) + times[place + 1] * part


def _logsnr(process: Process, steps: int, last: float, spectrum: Tensor | None) -> Tensor:
    """Uniform in the mean log-SNR of the coefficients; `last` must be positive."""
    return _warped(process, steps, last, spectrum, lambda r: r, lambda v: v)


def _rho(process: Process, steps: int, last: float, spectrum: Tensor | None) -> Tensor:
    """Uniform in sigma^(1/7), sigma = s/h as geometric mean over coefficients (Karras et al. 2022, eq. 5)."""
    return _warped(process, steps, last, spectrum, lambda r: (r / 14).exp(), lambda v: 14 * v.log())


def _warped(
    process: Process,
    steps: int,
    last: float,
    spectrum: Tensor | None,
    forward: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], Tensor],
) -> Tensor:
    if last <= 0:
        raise InputError("grid last", last, "a positive time for a log-SNR or rho grid")
    times = last * (1 / last) ** torch.linspace(0, 1, 513, dtype=torch.float64)
    values = _summary(process, spectrum, times)
    span = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    wanted = backward(forward(values[-1]) * (1 - span) + forward(values[0]) * span)
    grid = _invert(times, values, wanted)
    # interpolation leaves 1e-4 errors; two Newton-free bisection refinements make the grid exact to round-off
    return _refine(process, spectrum, grid, wanted, times)


def _refine(process: Process, spectrum: Tensor | None, grid: Tensor, wanted: Tensor, times: Tensor) -> Tensor:
    low, high = (grid * 0.97).clamp_min(float(times[0])), (grid * 1.03).clamp_max(1.0)
    for _ in range(46):
        middle = 0.5 * (low + high)
        below = _summary(process, spectrum, middle) < wanted
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
    times = start + (1 - start) * torch.linspace(0, 1, 401, dtype=torch.float64) ** 2
    weight = process.basis.multiplicity()
    clocks = [process.clock(t[None]).expand(1, 1, *process.basis.shape)[0, 0].clamp(1e-300, 1e300) for t in times]
    # integral of L/(L + r) dlog r = log r - log(L + r), rising in t at every coefficient
    levels = [((r.log() - (spectrum + r).log()) * weight * spectrum.sqrt()).sum() for r in clocks]
    values = torch.stack(levels)
    span = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    grid = _invert(times, values, values[-1] * (1 - span) + values[0] * span)
    grid[0], grid[-1] = 1.0, last
    return grid


GRIDS = {"time": _uniform, "logsnr": _logsnr, "rho": _rho, "energy": _energy}


def make_grid(
    process: Process,
    steps: int,
    kind: str = "time",
    *,
    last: float = 0.0,
    first: float = 1e-3,
    spectrum: Tensor | None = None,
) -> Tensor:
    """Times `(steps + 1,)` from 1 down to `last`.

    With last = 0 the log-SNR, rho and energy grids run from 1 to `first` in steps - 1 intervals and then jump to 0
    (the final denoising step); "time" runs to 0 directly.
    """
    choice("grid", kind, GRIDS)
    if steps < 1:
        raise InputError("steps", steps, "at least 1")
    if last > 0 or kind == "time":
        return GRIDS[kind](process, steps, last, spectrum)
    if steps == 1:
        return torch.tensor([1.0, 0.0], dtype=torch.float64)
    body = GRIDS[kind](process, steps - 1, first, spectrum)
    return torch.cat([body, torch.zeros(1, dtype=torch.float64)])


# ---- the dictionary ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A rule and what may be said of it.

    posterior: from a fixed measurement its samples have the gain and variance of the posterior (within 2 % and 5 % on
    the Gaussian card at `steps` evaluations); where False the spread is not an uncertainty and is refused as one.
    deterministic: no randomness after the start.
    """

    build: Callable[..., Plan]
    steps: int
    posterior: bool
    deterministic: bool
    grid: str
    reference: str
