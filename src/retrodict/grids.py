"""Time grids: strictly decreasing float64 times `(N + 1,)`, explicit at both ends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.process import Process

__all__ = ["GRIDS", "make_grid"]


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
