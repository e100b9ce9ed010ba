"""What all measurements of resolution share: the result, its summary, windows and the input."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.metrics._arrays import double
from retrodict.metrics.calibration import _student
from retrodict.metrics.frequency import Spacing, _pair

__all__ = [
    "Resolution",
    "Window",
    "crossing",
    "few",
    "slices",
    "spread_of",
    "square_pixel",
    "summarize",
    "weights",
    "window_of",
]

Window = Literal["auto", "hann", "tukey"]


@dataclass(frozen=True)
class Resolution:
    """A measured MTF: `frequency` (n,) cycles/mm from 0 to Nyquist, `value`, `lower`, `upper` (n,), 1 at zero.

    `lower`, `upper`: 95 % band.  `mtf50`, `mtf10`: (value, lower, upper) of the frequencies where the curve
    first falls below 50 % and 10 %, cycles/mm (NaN: not within Nyquist).  `contrast` and `noise` of what was imaged, in
    image units; for a non-linear method the curve holds for these only.  `details`: angle, center, window, ...
    """

    frequency: Tensor
    value: Tensor
    lower: Tensor
    upper: Tensor
    mtf50: tuple[float, float, float]
    mtf10: tuple[float, float, float]
    contrast: float
    noise: float
    details: dict[str, Any] = field(default_factory=dict)


def crossing(frequency: Tensor, value: Tensor, level: float) -> float:
    """First frequency at which the curve falls below `level`, by linear interpolation; NaN where it never does."""
    below = (value < level).nonzero()
    if not len(below) or int(below[0]) == 0:
        return math.nan
    i = int(below[0])
    part = float((value[i - 1] - level) / (value[i - 1] - value[i]))
    return float(frequency[i - 1]) + part * float(frequency[i] - frequency[i - 1])


def square_pixel(spacing: Spacing) -> float:
    dy, dx = _pair(spacing)
    if abs(dy / dx - 1) > 1e-3:
        raise InputError("spacing", f"{dy:g} x {dx:g} mm", "square pixels", "Resample the image first.")
    return math.sqrt(dy * dx)


def slices(image: Tensor) -> Tensor:
    x = double("image", image)
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or min(x.shape[-2:]) < 16:
        raise InputError("image", f"shape {tuple(image.shape)}", "(H, W) or (S, H, W) with at least 16 x 16 pixels")
    return x


def spread_of(frequency: Tensor, value: Tensor) -> float:
    """Standard deviation in px of the Gaussian with the same frequency of half height (robust to noisy tails)."""
    half = crossing(frequency, value, 0.5)
    return 0.1873906251 / half if math.isfinite(half) else 0.1873906251 / 0.5


def window_of(x: Tensor, half: float, name: str) -> Tensor:
    """Window of half width `half` at distances `x`.

    "hann": cos^2 v, v = pi x / (2 half).  "flattened": times 1 + v^2, flat to third order: a Hann disc narrows what it
    cuts, and MTF 50 % comes out some 0.3 % too high.  "tukey": flat over 3/4 of the width.
    """
    u = (x / half).abs()
    if name in ("hann", "flattened"):
        v = 0.5 * math.pi * u
        taper = torch.where(u < 1, torch.cos(v).square(), 0.0)
        return taper * (1 + v.square()) if name == "flattened" else taper
    flat = 0.75  # Tukey with a taper over the outer quarter
    ramp = torch.cos(0.5 * math.pi * ((u - flat) / (1 - flat)).clamp(0, 1)) ** 2
    return torch.where(u < flat, 1.0, ramp)


def weights(units: int, count: int, seed: int) -> Tensor:
    """Weights `(count, units)` of a Bayesian bootstrap, mean 1 (Rubin, Ann. Stat. 9, 1981).

    Unlike resamples they leave no unit out, and so no bin of an edge spread empty.
    """
    draw = torch.Generator().manual_seed(key(seed, "bootstrap"))
    parts = torch.empty(count, units, dtype=torch.float64, device="cpu").exponential_(1.0, generator=draw)
    return parts * (units / parts.sum(1, keepdim=True))


def few(units: int) -> float:
    """Factor that widens a Bayesian bootstrap of few units, of variance (n - 1) / (n + 1) s^2 / n and normal tails.

    sqrt((n + 1) / (n - 1)) t_{0.975, n - 1} / 1.96.
    """
    return math.sqrt((units + 1) / (units - 1)) * _student(0.95, units - 1) / NormalDist().inv_cdf(0.975)


def summarize(
    frequency: Tensor,
    value: Tensor,
    curves: Tensor,
    contrast: float,
    noise: float,
    details: dict[str, Any],
) -> Resolution:
    """The result with the bands that `curves` `(draws, n)`, widened about `value`, give to it and to its crossings."""
    quantiles = torch.quantile(curves, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu"), dim=0)
    summary = []
    for level in (0.5, 0.1):
        each = torch.tensor([crossing(frequency, c, level) for c in curves], dtype=torch.float64, device="cpu")
        each = each[torch.isfinite(each)]
        value_at = crossing(frequency, value, level)
        if len(each) < 0.9 * len(curves) or not math.isfinite(value_at):
            summary.append((value_at, math.nan, math.nan))
        else:
            low, high = torch.quantile(each, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu")).tolist()
            summary.append((value_at, low, high))
    return Resolution(frequency, value, quantiles[0], quantiles[1], summary[0], summary[1], contrast, noise, details)
