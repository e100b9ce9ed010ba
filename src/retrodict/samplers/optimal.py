"""Grids that are optimised: for the Gaussian card of a rule, and for the answers of a denoiser to images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.observation import clock, noise_like, ratio, wiener
from retrodict.processes.process import Process
from retrodict.samplers.card import gaussian_card, start_law
from retrodict.samplers.plan import make_grid, mean_log_clock
from retrodict.samplers.rules import RULES, make_plan
from retrodict.samplers.rules.nodes import stand_in, times_at

__all__ = ["aligned_grid", "card_errors", "optimal_grid"]


def card_errors(rule: str, process: Process, times: Tensor, spectrum: Tensor, **options: object) -> Tensor:
    """Errors of `rule` on Gaussian data of the spectrum `(*K)`, those of a converged run being 0: a vector.

    For every coefficient, weighted by the share of its degrees of freedom: log of the variance of what a run from its
    start law returns over the exact one, and, where there is a measurement, the error of the mean in deviations of the
    posterior.  A deterministic rule from a measurement has no variance to be right.
    """
    plan, (gain, variance) = make_plan(rule, process, times, spectrum, **options), start_law(process, spectrum)
    found, end = gaussian_card(plan, spectrum), process.moments(times[-1:])
    h, s2 = end.h[0, 0], end.s2[0, 0]
    root = (process.basis.multiplicity() / process.basis.multiplicity().sum()).sqrt()
    total = found.variance + found.start**2 * variance
    pairing = process.pairing
    if pairing.restores and process.measurement is not None:
        known, left = wiener(process.measurement, spectrum)
        exact, wanted = h * known, h**2 * left + s2
        got = found.measurement + found.start * gain
        scale = ((process.measurement.h**2 * spectrum + process.measurement.s2) / wanted.clamp_min(1e-300)).sqrt()
        mean = (got - exact) * torch.where(wanted > 0, scale, 0.0)
    else:
        wanted, mean = h**2 * spectrum + s2, torch.zeros_like(spectrum)
    deviation = torch.where(wanted > 0, ratio(total, wanted, otherwise=1.0).clamp_min(1e-12).log(), 0.0)
    if RULES[rule].deterministic and pairing.starts:  # a point estimate: there is no variance to be right
        deviation = torch.zeros_like(deviation)
    return torch.cat([(root * deviation).flatten(), (root * mean).flatten()])


def optimal_grid(
    process: Process,
    steps: int,
    rule: str,
    spectrum: Tensor,
    *,
    last: float = 0.0,
    rounds: int = 12,
    **options: object,
) -> Tensor:
    """Times `(steps + 1,)` that make the Gaussian card of `rule` least wrong, by Gauss-Newton with damping (Levenberg).

    The nodes move in the mean log clock, their gaps as exp; the best of the grids of the package is the start, so the
    result is never worse than any of them.  Sum of squares of `card_errors`.  steps + 1 cards a round: seconds on a
    grid of 32 x 32 or less (the card does not depend on the image grid: give a small one).
    """
    if spectrum.shape[-process.ndim :] != process.basis.shape:
        wanted = f"one value a coefficient, {process.basis.shape}"
        raise InputError("optimal_grid spectrum", tuple(spectrum.shape), wanted)

    def errors(times: Tensor) -> Tensor:
        return card_errors(rule, process, times, spectrum, **options)

    best = _best_of_the_package(process, steps, spectrum, last, errors)
    inner = steps if last > 0 else steps - 1
    if inner < 2:
        return best
    small = stand_in(process)
    values = mean_log_clock(small, best[: inner + 1])
    top = float(values[0])

    def grid(x: Tensor) -> Tensor:
        """From log gaps of the clock (and with last = 0 the lowest node moves too)."""
        levels = top - torch.cumsum(x.exp(), 0)
        if last > 0:
            levels = top + (levels - top) * ((float(values[-1]) - top) / float(levels[-1] - top))
        times = torch.cat([best[:1], times_at(process, levels)])
        return torch.cat([times[:inner], best[inner:]]) if last > 0 else torch.cat([times, best[inner + 1 :]])

    x = (values[:-1] - values[1:]).clamp_min(1e-3).log()
    now, damping = errors(grid(x)), 1e-2
    for _ in range(rounds):
        slopes = torch.stack([(errors(grid(_moved(x, j, 1e-4))) - now) / 1e-4 for j in range(len(x))], 1)
        for _ in range(6):
            A = slopes.T @ slopes
            step = torch.linalg.solve(A + torch.diag(damping * A.diagonal() + 1e-14), slopes.T @ now)
            tried = x - step.clamp(-0.7, 0.7)
            new = errors(grid(tried))
            if float(new.square().sum()) < float(now.square().sum()):
                x, gain, now, damping = tried, 1 - float(new.square().sum() / now.square().sum()), new, damping / 3
                break
            damping *= 4
        else:
            break
        if gain < 1e-3:
            break
    found = grid(x)
    return found if float(now.square().sum()) < float(errors(best).square().sum()) else best


def _moved(x: Tensor, j: int, by: float) -> Tensor:
    x = x.clone()
    x[j] += by
    return x


def _best_of_the_package(
    process: Process, steps: int, spectrum: Tensor, last: float, errors: Callable[[Tensor], Tensor]
) -> Tensor:
    found = []
    for kind in ("logsnr", "rho", "time", "energy"):
        times = make_grid(process, steps, kind, last=last, spectrum=spectrum)
        value = float(errors(times).square().sum())
        found.append((value if math.isfinite(value) else math.inf, len(found), times))
    return min(found, key=lambda x: x[:2])[2]


# ---- from images -----------------------------------------------------------------------------------------------------


def aligned_grid(
    denoiser: Denoiser,
    images: Tensor,
    steps: int,
    *,
    seeds: Tensor,
    last: float | None = None,
    ladder: int = 48,
    chunk: int = 16,
) -> Tensor:
    """Times `(steps + 1,)`, the last 0, at which holding the denoised image over a step loses least on images.

    Align Your Steps (Sabour, Fidler, Kreis 2024), per coefficient: a first-order step that holds D(x_a, a) down to b
    is off in path measure by sum_k int |D(x_t, t) - D(x_a, a)|_k^2 d(1/r_k), r = s^2/h^2 the clock of the coefficient.
    The differences are measured on clean images `(n, C, *N)` in model units, noised along one path each (their seeds),
    on a ladder of times; among nodes of the ladder the best grid is found exactly, by dynamic programming.
    n * ladder calls.  `last` is the node before the jump to 0 (default: that of "logsnr").
    """
    process = denoiser.process
    if steps < 2 or ladder < 2 * steps:
        found = f"{steps} steps on a ladder of {ladder}"
        raise InputError("aligned_grid", found, "2 steps or more and twice as many rungs")
    if len(images) != len(seeds) or process.pairing.sees:
        found = f"{len(images)} images, {len(seeds)} seeds, a process of kind {process.pairing.kind!r}"
        raise InputError("aligned_grid", found, "a seed for every image and a process that sees no measurement")
    prior = denoiser.prior()
    if last is None:
        last = float(make_grid(process, 2, "logsnr", spectrum=None if prior is None else prior[1])[1])
    rungs = make_grid(process, ladder, "logsnr", last=last)
    costs = torch.zeros(ladder + 1, ladder + 1, dtype=torch.float64, device="cpu")
    for part in torch.arange(len(images), device="cpu").split(chunk):
        answers = _answers(denoiser, images[part], rungs, seeds[part])
        costs += _held(process, answers, rungs).cpu()
    return torch.cat([rungs[_shortest(costs, steps - 1)], rungs.new_zeros(1)])


def _answers(denoiser: Denoiser, images: Tensor, rungs: Tensor, seeds: Tensor) -> list[Tensor]:
    z, process = noise_like(images, seeds, "aligned", 0), denoiser.process
    found = []
    with torch.no_grad():
        for t in rungs:
            time = t.expand(len(images))
            xt = process.corrupt(images, time, z, images if process.anchored else None)
            found.append(process.basis.forward(denoiser(xt, time)))
    return found


def _held(process: Process, answers: list[Tensor], rungs: Tensor) -> Tensor:
    """Costs `(M, M)` of holding the answer of rung a down to rung b, summed over items and coefficients."""
    weight = process.basis.multiplicity()
    precision = [ratio(torch.ones_like(c), c) for c in (clock(process.moments(t[None])) for t in rungs)]
    count = len(rungs)
    costs = torch.zeros(count, count, dtype=torch.float64, device="cpu")
    for a in range(count):
        total = 0.0
        for b in range(a + 1, count):
            gap = (precision[b] - precision[b - 1]).clamp_min(0.0)
            gap = torch.where(torch.isfinite(gap), gap, 0.0) * weight
            change = process.basis.energy(answers[b] - answers[a]) + process.basis.energy(answers[b - 1] - answers[a])
            total += float((0.5 * change * gap).sum())
            costs[a, b] = total
    return costs


def _shortest(costs: Tensor, steps: int) -> Tensor:
    """Rungs of the path of `steps` steps from the first to the last of least cost."""
    count = len(costs)
    value = torch.full((steps + 1, count), torch.inf, dtype=torch.float64, device="cpu")
    back = torch.zeros(steps + 1, count, dtype=torch.int64, device="cpu")
    value[0, 0] = 0.0
    upper = torch.ones(count, count, device="cpu").triu(1) > 0
    table = torch.where(upper, costs, torch.inf)
    for n in range(1, steps + 1):
        value[n], back[n] = (value[n - 1][:, None] + table).min(0)
    path = [count - 1]
    for n in range(steps, 0, -1):
        path.append(int(back[n, path[-1]]))
    return torch.tensor(path[::-1], device="cpu")
