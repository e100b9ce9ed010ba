"""The process of a table: noise schedules of networks that were trained elsewhere on N discrete steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Basis
from retrodict.processes.process import Law, Process, assemble

__all__ = ["BETAS", "discrete", "table_of"]


class Table(NamedTuple):
    """Log of sigma = s/h at the knots u = 1, 2, ..., its slopes there, and whether nothing is left at the last step."""

    level: Tensor
    slope: Tensor
    erased: bool


def _cosine(start: float, end: float, steps: int) -> Tensor:
    """beta_n = min(1 - a((n + 1)/N) / a(n/N), 0.999), a(x) = cos^2((x + 0.008)/1.008 pi/2)."""
    x = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
    gain = torch.cos((x + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - gain[1:] / gain[:-1]).clamp_max(0.999)


def _line(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64, device="cpu")


BETAS: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": _line,
    "scaled_linear": lambda start, end, steps: _line(math.sqrt(start), math.sqrt(end), steps) ** 2,
    "squaredcos_cap_v2": _cosine,
    "sigmoid": lambda start, end, steps: _line(-6, 6, steps).sigmoid() * (end - start) + start,
}
"""Rates beta_n of N steps by the name that public checkpoints give them: (first, last, N) -> (N,)."""


def discrete(
    basis: Basis,
    beta_schedule: str = "linear",
    steps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    zero_terminal_snr: bool = False,
    betas: Sequence[float] | None = None,
    **pairing: Any,
) -> Process:
    """The table of a checkpoint trained on N discrete steps, in continuous time.

    h = sqrt(a), s^2 = 1 - a, with a_n = prod_(m <= n) (1 - beta_m) at t = (n + 1)/N, n < N, exactly
    (Ho, Jain, Abbeel 2020, eq. 4).  Between them log(s/h) is a monotone cubic, below the first a power of t, down to
    s(0) = 0.

    `beta_schedule`: "linear", "scaled_linear", "squaredcos_cap_v2" or "sigmoid", from `beta_start` to `beta_end`;
    `betas` are N rates instead, of which the last may be 1.  `zero_terminal_snr` shifts and scales sqrt(a) so that
    the last is 0 (Lin et al. 2023, algorithm 1).  All in float64; public code makes its tables in float32.
    """
    where = "discrete"
    choice(f"{where} beta_schedule", beta_schedule, BETAS)
    if betas is None:
        if not (float(steps).is_integer() and steps >= 3):
            raise InputError(f"{where} steps", steps, "a whole number of at least 3")
        if not 0 < beta_start <= beta_end < 1:
            raise InputError(f"{where} beta_start, beta_end", (beta_start, beta_end), "rates, rising between 0 and 1")
        rates = BETAS[beta_schedule](beta_start, beta_end, int(steps))
    else:
        rates = torch.as_tensor(list(betas), dtype=torch.float64, device="cpu")
    table = table_of(rates, zero_terminal_snr)
    law = _law(table, len(rates))
    options = {
        "beta_schedule": beta_schedule,
        "steps": int(steps),
        "beta_start": beta_start,
        "beta_end": beta_end,
        "zero_terminal_snr": zero_terminal_snr,
        "betas": None if betas is None else [float(b) for b in betas],
    }
    return assemble(lambda bound: law, basis, "discrete", options, **pairing)


def table_of(betas: Tensor, zero_terminal_snr: bool = False) -> Table:
    """Levels log(s/h) `(N,)` of rates `(N,)`, without the last where nothing is left there; see `discrete`."""
    inside = (betas > 0) & (betas < 1)
    inside[-1:] |= betas[-1:] == 1
    if betas.ndim != 1 or len(betas) < 3 or not bool(inside.all()):
        raise InputError("discrete betas", f"{betas.numel()} rates", "three or more in (0, 1), the last at most 1")
    log_gain = torch.log1p(-betas).cumsum(0) / 2  # log h; -inf at the last where its rate is 1
    gain, lost = log_gain.exp(), -torch.expm1(log_gain)  # h, 1 - h
    if zero_terminal_snr:
        # h' = h_0 (h - h_N)/(h_0 - h_N), and 1 - h' written without cancellation
        first, last = gain[0].clone(), gain[-1].clone()
        lost = (first * lost - last * lost[0]) / (first - last)
        gain = first * (gain - last) / (first - last)
    erased = bool(gain[-1] == 0)
    known = slice(None, -1 if erased else None)
    level = (lost * (1 + gain))[known].log() / 2 - gain[known].log()
    return Table(level, _slopes(level), erased)


def _slopes(level: Tensor) -> Tensor:
    """Slopes at the knots of rising values at unit steps, as steep as a monotone cubic allows.

    Central differences of order 4, of order 2 beside the ends, one-sided at them; limited to three times the smaller
    rise beside the knot (de Boor and Swartz 1977).
    """
    rise = level.diff()
    slope = torch.cat([1.5 * rise[:1] - 0.5 * rise[1:2], level[2:] - level[:-2], 1.5 * rise[-1:] - 0.5 * rise[-2:-1]])
    slope[1:-1] /= 2
    slope[2:-2] = (8 * (level[3:-1] - level[1:-3]) - (level[4:] - level[:-4])) / 12
    slope[:1] = slope[:1].clamp_min(0.5)  # so that r is linear below the first knot
    least = torch.minimum(torch.cat([rise[:1], rise]), torch.cat([rise, rise[-1:]]))
    return torch.minimum(slope.clamp_min(0.0), 3 * least)


def _law(table: Table, steps: int) -> Law:
    """The law through the table, which has `steps` knots u = t N = 1 ... N, the last of them erased or known."""
    known = len(table.level)
    power = max(2 * float(table.slope[0]), 1.0)  # of r = s^2/h^2 before the first knot; 1 keeps G^2 finite at t = 0
    fall = max(float(table.slope[-1]), 1.0)  # of h/s towards a last knot where h = 0

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        level, slope = table.level.to(t.device), table.slope.to(t.device)
        u = t * steps
        i = (u.detach().floor().long() - 1).clamp(0, known - 2)
        x = u - 1 - i
        r = torch.exp(2 * _hermite(x, level[i], level[i + 1], slope[i], slope[i + 1]))
        r = torch.where(u < 1, torch.exp(2 * level[0]) * u.clamp_min(0.0) ** power, r)
        h, s2 = torch.rsqrt(1 + r), r / (1 + r)
        if table.erased:
            snr = torch.exp(-2 * level[-1]) * (steps - u).clamp_min(0.0) ** (2 * fall)  # h^2 / s^2
            late = u > known
            h, s2 = torch.where(late, _root(snr / (1 + snr)), h), torch.where(late, 1 / (1 + snr), s2)
        return h, 0 * t, s2

    return law


def _root(x: Tensor) -> Tensor:
    """The root, with a derivative where x = 0."""
    return torch.where(x == 0, x, torch.where(x == 0, 1.0, x).sqrt())


def _hermite(x: Tensor, a: Tensor, b: Tensor, slope_a: Tensor, slope_b: Tensor) -> Tensor:
    """The cubic on [0, 1] with values a, b and slopes at its ends; b exactly at x = 1."""
    y = 1 - x
    return y**2 * ((1 + 2 * x) * a + x * slope_a) + x**2 * ((1 + 2 * y) * b - y * slope_b)
