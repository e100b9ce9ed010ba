"""What an image and how sure it is of itself are worth against the truth: pixels, means of discs, energy score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from new_patients import DISCS, disc
from retrodict.metrics.calibration import central_factor
from rivals import LEVEL, NORMAL, Prediction

DRAWS = 32
"""Members where they cost no call."""


def need(p: Prediction, truth: Tensor) -> Tensor:
    """The factor on its half widths with which every pixel is inside."""
    return torch.maximum((p.center - truth) / p.below, (truth - p.center) / p.above)


def conformal_factor(needs: Sequence[Tensor], level: float = LEVEL, *, promise: bool = False) -> float:
    """Least factor with a mean coverage of `level` over patients; `promise`: whatever their law, by risk control.

    Risk control allows the miscoverage R of n patients with (n R + 1)/(n + 1) <= 1 - level; with too few for any, the
    factor is that of the worst pixel, which n = 1/(1 - level) - 1 patients allow, and infinite with fewer.
    """
    n = len(needs)
    allowed = ((1 - level) * (n + 1) - 1) / n if promise else 1 - level
    if allowed < -1e-9:
        return math.inf
    values = torch.cat([x.flatten() for x in needs])
    weights = torch.cat([torch.full((x.numel(),), 1 / (n * x.numel()), dtype=torch.float64) for x in needs])
    order = values.argsort()
    outside = 1 - weights[order].cumsum(0)  # mean miscoverage with the factor at each value
    return float(values[order][int((outside <= allowed + 1e-9).nonzero()[0])])


def energy_score(members: Tensor, truth: Tensor, *, own_mean: bool = False) -> float:
    """Mean |x_k - t| - mean |x_k - x_l| / 2 over the root of the pixels, of K members (K, n, n); HU.

    Gneiting, Raftery 2007: least in expectation for the law of the truth itself.  Unbiased in K for members about a
    center that is not made of them.  About their mean (`own_mean`) they are too near to it, which would be rewarded:
    there the first term takes them farther off by the root of K / (K - 1).
    """
    count, root = len(members), math.sqrt(truth.numel())
    flat = members.flatten(1)
    center = flat.mean(0)
    wide = center + math.sqrt(count / (count - 1)) * (flat - center) if own_mean else flat
    between = torch.cdist(flat[None], flat[None])[0].sum() / (count * (count - 1))
    return float((wide - truth.flatten()).norm(dim=1).mean() - between / 2) / root


def drawn(p: Prediction, factor: float, seed: int) -> Tensor:
    """Members (K, n, n): its own with their deviations scaled, or pixels drawn independently from two half normals."""
    if p.members is not None:
        return p.center + factor * (p.members - p.center)
    z = torch.randn(DRAWS, *p.center.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return p.center + factor * z * torch.where(z < 0, p.below, p.above) / NORMAL


def disc_intervals(p: Prediction, members: Tensor | None, size: float, spacing: float) -> dict[str, tuple]:
    """Center and half widths below and above of 90 % intervals for the means of all whole discs, by the law assumed."""
    table, side = disc(size, spacing), p.center.shape[-1]
    part = slice(round(size / spacing), side - round(size / spacing))

    def mean(x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * table, s=(side, side))[..., part, part]

    center = mean(p.center)
    if members is not None:
        sd = mean(members).std(0)
        exact = 1 if p.own_mean else math.sqrt(1 + 1 / len(members))  # an exact center has no scatter of its own
        width = central_factor(LEVEL, len(members)) / exact * sd
        return {"members": (center, width, width)}
    squares = float(torch.fft.irfft2(table, s=(side, side)).square().sum())  # 1 / number of pixels
    alone = [(squares * mean(w**2).clamp_min(0)).sqrt() for w in (p.below, p.above)]
    return {"independent": (center, *alone), "correlated": (center, mean(p.below), mean(p.above))}


def figures(p: Prediction, truth: Tensor, spacing: float, factor: float = 1.0, promised: float = 1.0,
            seed: int = 0) -> dict[str, Any]:  # fmt: skip
    """Of one patient: truth (n, n) HU; half widths are scaled by `factor`."""
    scaled = p._replace(below=factor * p.below, above=factor * p.above)
    members = drawn(p, factor, seed)
    length = float((scaled.below + scaled.above).mean())
    found: dict[str, Any] = {
        "rms_hu": math.sqrt(float((p.center - truth).square().mean())),
        "coverage": float((need(scaled, truth) <= 1).double().mean()),
        "length": length,
        "guaranteed": length * promised / factor if math.isfinite(promised) else None,
        "energy": energy_score(members, truth, own_mean=p.own_mean),
        "calls": p.calls,
        "cpu_seconds": p.seconds,
        "discs": {},
    }
    for size in DISCS:
        same = disc(size, spacing)
        part = slice(round(size / spacing), truth.shape[-1] - round(size / spacing))
        t = torch.fft.irfft2(torch.fft.rfft2(truth) * same, s=tuple(truth.shape))[part, part]
        for law, (center, below, above) in disc_intervals(
            scaled, None if p.members is None else members, size, spacing
        ).items():
            inside = (t >= center - below) & (t <= center + above)
            found["discs"][f"{size:g} mm, {law}"] = (float(inside.double().mean()), float((below + above).mean()))
    return found
