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

from retrodict._check import InputError
from retrodict.process import Process

__all__ = ["Level", "Levels", "Plan", "Row"]

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
