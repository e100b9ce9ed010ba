"""Theorems 1 and 3 of Guth et al. (2022) as figures: steps against tolerance and condition, seconds against pixels.

Theorem 1 bounds the Euler-Maruyama steps of a pixel model by C eps^-2 kappa^3, theorem 3 those of a cascade by C eps^-2
whatever the size.  What is found in closed form: KL/d falls as 1/N^2 where it is small, so steps grow as eps^-1/2; with
the condition number they grow as kappa^s, s < 1 for power laws, and a cascade does not see it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from retrodict.bases import Fourier, Wavelet
from retrodict.bases.stationary import power_law
from retrodict.denoisers.cascade import cascade_of_stationary
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.processes.process import Process, assemble
from retrodict.samplers import make_plan
from retrodict.samplers.cascade import Stage, cascade_stages, run_stages
from retrodict.tasks.wavelet_card import HORIZON, SAMPLERS, modes_of, steps_to

__all__ = ["picture", "theorems"]

MODELS = ("pixel", "wavelet")


def theorems(
    sides: Sequence[int] = (8, 16, 32, 64, 128),
    exponents: Sequence[float] = (1.0, 2.0, 3.0),
    limits: Sequence[float] = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4),
    *,
    family: str = "db4",
    timed: bool = True,
    watch: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Records "tolerance" (side 32, exponent 3), "condition" (limit 0.01) and, `timed`, "seconds" of one field.

    seconds: a step with exact scores, in every window, times the Euler-Maruyama steps that the model needs at this
    size.  The scores are Fourier transforms, so a step costs about its pixels; a cascade makes its steps on the
    sub-lattices (`sample_cascade`), so that all together cost about those of the finest.
    """
    rule, tell = SAMPLERS["euler"], watch or (lambda word: None)
    found: dict[str, Any] = {"tolerance": [], "condition": [], "seconds": []}
    for model in MODELS:
        modes, guess = modes_of(model, 32, 3.0, family)[0], 16
        for limit in sorted(limits, reverse=True):
            guess = steps_to(rule, modes, limit, guess=guess) or guess
            found["tolerance"].append({"model": model, "limit": limit, "steps": guess})
    tell("tolerance")
    needed: dict[tuple[str, int], int] = {}
    for eta in exponents:
        for model in MODELS:
            guess = 16
            for side in sides:
                pixel = power_law((side, side), eta)
                guess = steps_to(rule, modes_of(model, side, eta, family)[0], guess=guess) or guess
                row = {"model": model, "eta": eta, "side": side, "steps": guess}
                found["condition"].append({**row, "condition": float(pixel.max() / pixel.min())})
                if eta == max(exponents):
                    needed[model, side] = guess
        tell(f"condition, exponent {eta:g}")
    for model, side in sorted(needed, key=lambda pair: pair[1]) if timed else ():
        seconds = _seconds(model, side, max(exponents), needed[model, side], family)
        found["seconds"].append({"model": model, "pixels": side**2, "steps": needed[model, side], "seconds": seconds})
        tell(f"seconds, {side} x {side}")
    return found


def _white(side: int) -> Process:
    """The Ornstein-Uhlenbeck process of pixels, with tables in the Fourier basis: white noise is white there too."""

    def law(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.exp(-HORIZON * t), 0 * t, -torch.expm1(-2 * HORIZON * t)

    return assemble(lambda basis: law, Fourier((side, side)), "ornstein_uhlenbeck", {})


def _seconds(model: str, side: int, eta: float, steps: int, family: str) -> float:
    """Seconds of one field, from three steps of every window: of a cascade on its sub-lattices, as images are drawn."""
    power, seeds = power_law((side, side), eta), torch.zeros(1, dtype=torch.int64, device="cpu")
    if model == "pixel":
        process = _white(side)
        denoiser = GaussianDenoiser(process, 0.0, power[:, : side // 2 + 1].contiguous())
        plan = make_plan("euler", process, torch.linspace(1, 0, 4, dtype=torch.float64, device="cpu"), None)
        stages: tuple[Stage, ...] = (Stage(denoiser, plan, 0, 0),)
    else:
        basis = Wavelet((side, side), levels=side.bit_length() - 1, family=family)
        stages = cascade_stages(cascade_of_stationary(basis, power, HORIZON, 1.0), "euler", 3)
    best = torch.full((sum(len(stage.plan) for stage in stages),), math.inf, dtype=torch.float64, device="cpu")
    for _ in range(3):
        rows = zip(run_stages(stages, seeds, dtype=torch.float64), range(len(best)), strict=True)
        before = time.perf_counter()
        for _memory, i in rows:
            now = time.perf_counter()
            best[i], before = min(float(best[i]), now - before), now
    # the first step draws the start, and the last one is made where the next details are
    return float(((steps - 1) * best[1::3] + best[2::3]).sum())


def picture(record: dict[str, Any]) -> bytes:
    """PNG of `theorems`."""
    from retrodict.report.wavelet import theorem_figure

    return theorem_figure(record)
