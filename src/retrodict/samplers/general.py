"""A sampler for processes that no basis makes diagonal: rows of matrices over the same conditionals.

    w' = keep w + data (D + e) + noise z,       matrices (n, n), z white, e a draw of the error x_0 - D.

A row is that of `retrodict.samplers.plan` with matrices for numbers; a process whose operators commute is not for this
module but for `DenseProcess.diagonal`, which brings it to every rule of the package.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import white
from retrodict.processes.general import DenseProcess, root_of

__all__ = ["DENSE_RULES", "DenseGaussian", "DenseLaw", "DenseRow", "dense_law", "dense_plan", "dense_sample"]


class DenseRow(NamedTuple):
    """One step from the state at time t; `noise` is None where no fresh noise enters, and `spread` says whether x_0 is
    drawn from the law of the denoiser's error instead of set to its mean.
    """

    t: float
    keep: Tensor
    data: Tensor
    noise: Tensor | None
    spread: bool = False


class DenseLaw(NamedTuple):
    """The law of what a run returns for Gaussian data: gain on the start w_1, offset `(n,)` and covariance."""

    start: Tensor
    offset: Tensor
    covariance: Tensor


@dataclass(frozen=True, eq=False)
class DenseGaussian:
    """Exact E[x_0 | w_t] and the covariance of its error for data N(mean `(n,)`, covariance `(n, n)`)."""

    process: DenseProcess
    mean: Tensor
    covariance: Tensor

    @cached_property
    def _known(self) -> dict[float, tuple[Tensor, Tensor, Tensor]]:
        return {}

    def at(self, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """D = gain w + offset and the covariance of its error at time t; found once a time."""
        if t not in self._known:
            gain, left = self.process.update(self.covariance, t)
            self._known[t] = gain, self.mean - gain @ (self.process.moments(t).H @ self.mean), left
        return self._known[t]

    def __call__(self, w: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Mean `(B, n)` and covariance `(n, n)` of x_0 given states `(B, n)` less the pull."""
        gain, offset, left = self.at(t)
        return _applied(gain, w) + offset, left


Estimator = Callable[[Tensor, float], tuple[Tensor, Tensor | None]]
"""(states `(B, n)`, time) -> E[x_0 | w_t] `(B, n)` and the covariance of its error, None where it is not known."""


# ---- rules -----------------------------------------------------------------------------------------------------------


def _conditional(eta: float, spread: bool) -> Callable[[DenseProcess, float, float], DenseRow]:
    def row(process: DenseProcess, t: float, s: float) -> DenseRow:
        keep, data, covariance = process.conditional(t, s, eta)
        quiet = not float(covariance.abs().max()) > 0
        return DenseRow(t, keep, data, None if quiet else root_of(covariance), spread)

    return row


def _euler(share: float) -> Callable[[DenseProcess, float, float], DenseRow]:
    """Euler step of dx = [F x - (1 + share^2)/2 G G^T score] dt + share G dw; onto s = 0 it returns D."""

    def row(process: DenseProcess, t: float, s: float) -> DenseRow:
        unit = torch.eye(process.n, dtype=torch.float64, device="cpu")
        if s == 0:
            return DenseRow(t, 0 * unit, unit, None)
        (drift, squared), moments = process.rates(t), process.moments(t)
        pull = 0.5 * (1 + share**2) * (t - s) * torch.linalg.solve(moments.S, squared, left=False)
        noise = root_of(squared) * (share * (t - s) ** 0.5) if share else None
        return DenseRow(t, unit - (t - s) * drift - pull, pull @ moments.H, noise)

    return row


DENSE_RULES: dict[str, tuple[Callable[[DenseProcess, float, float], DenseRow], bool]] = {
    "matched": (_conditional(1.0, True), True),
    "ancestral": (_conditional(1.0, False), True),
    "ddim": (_conditional(0.0, False), False),
    "euler": (_euler(1.0), True),
    "flow": (_euler(0.0), False),
}
"""Rules by name, and whether they need a Markov process: conditionals with x_0 drawn (exact for Gaussian data at any
number of steps), with x_0 = D, and without noise; Euler steps of the reverse SDE and of the probability flow.
"""


def dense_plan(process: DenseProcess, times: Sequence[float], rule: str = "matched") -> list[DenseRow]:
    """Rows of a rule of `DENSE_RULES` on falling times in [0, 1].

    Raises `InputError` for times that do not fall, an unknown rule, and a stochastic rule on a process that is not
    Markov.
    """
    build, stochastic = DENSE_RULES[choice("rule", rule, DENSE_RULES)]
    grid = [float(t) for t in times]
    if len(grid) < 2 or not all(a > b for a, b in itertools.pairwise(grid)) or grid[0] > 1 or grid[-1] < 0:
        raise InputError("times", grid, "two or more that fall, in [0, 1]")
    if stochastic:
        process.require_markov(f"rule {rule!r}")
    return [build(process, t, s) for t, s in itertools.pairwise(grid)]


# ---- the run ---------------------------------------------------------------------------------------------------------


def _applied(matrix: Tensor, w: Tensor) -> Tensor:
    """A matrix on every state, one at a time: a product of matrices rounds a batch differently from its items."""
    matrix = matrix.to(w.dtype)
    return torch.stack([matrix @ item for item in w]) if len(w) else w


def dense_sample(estimate: Estimator, plan: Sequence[DenseRow], start: Tensor, seeds: Tensor) -> Tensor:
    """Run rows from states `(B, n)` at the first time, less the pull; seeds `(B,)`; the states at the end `(B, n)`.

    The noise of item i at row j depends on (seeds[i], j) alone.  Raises `InputError` where x_0 is to be drawn and the
    law of the error is not known.
    """
    if start.ndim != 2 or len(start) != len(seeds) or start.shape[1] != len(plan[0].keep):
        wanted = f"({len(seeds)}, {len(plan[0].keep)}): a state for every seed, pixels in a row"
        raise InputError("start", tuple(start.shape), wanted)
    w = start
    for j, row in enumerate(plan):
        mean, covariance = estimate(w, row.t)
        if row.spread:
            if covariance is None:
                raise InputError("matched", "an estimate without the covariance of its error", "one with it")
            mean = mean + _applied(root_of(covariance), white(seeds, "spread", j, w.shape[1:]).to(w))
        new = _applied(row.keep, w) + _applied(row.data, mean)
        w = new if row.noise is None else new + _applied(row.noise, white(seeds, "step", j, w.shape[1:]).to(w))
    return w


def dense_law(denoiser: DenseGaussian, plan: Sequence[DenseRow]) -> DenseLaw:
    """The exact law of what `dense_sample` returns with the exact denoiser of Gaussian data, from a fixed start."""
    n = len(plan[0].keep)
    start = torch.eye(n, dtype=plan[0].keep.dtype, device=plan[0].keep.device)
    offset, covariance = torch.zeros_like(start[0]), torch.zeros_like(start)
    for row in plan:
        gain, shift, left = denoiser.at(row.t)
        step = row.keep + row.data @ gain
        start, offset = step @ start, step @ offset + row.data @ shift
        covariance = step @ covariance @ step.mH
        covariance = covariance + (row.data @ left @ row.data.mH if row.spread else 0.0)
        covariance = covariance if row.noise is None else covariance + row.noise @ row.noise.mH
    return DenseLaw(start, offset, covariance)
