"""How much every view and every ray counts: steps between angles, and weights of rays that are measured twice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["angle_steps", "redundancy"]

TAPER = math.radians(10)
"""Over what a scan shorter than a short scan is faded in and out where its rays are measured twice."""


def angle_steps(angles: Sequence[float], period: float) -> list[float]:
    """Weight of every view: half of the gaps to its neighbors, modulo `period`; they sum to what is covered.

    A gap of more than twice the median is one that was not measured, and views beside it count their other gap twice.
    """
    n = len(angles)
    if n == 1:
        return [period]
    folded = torch.tensor([a % period for a in angles], dtype=torch.float64, device="cpu")
    # an angle a hair below the period is the one at 0
    folded = torch.where(period - folded < 1e-9, folded - period, folded)
    order = torch.argsort(folded, stable=True)
    ordered = folded[order]
    gaps = torch.cat([ordered[1:], ordered[:1] + period]) - ordered
    typical = float(gaps.median())
    after = gaps
    before = gaps.roll(1)
    missing_after, missing_before = after > 2 * typical + 1e-12, before > 2 * typical + 1e-12
    if typical <= 1e-12:  # views that were repeated: each gap is as it is
        missing_after = missing_before = torch.zeros_like(missing_after)
    after_used = torch.where(missing_after, torch.where(missing_before, typical, before), after)
    before_used = torch.where(missing_before, torch.where(missing_after, typical, after), before)
    steps = torch.empty_like(gaps)
    steps[order] = 0.5 * (after_used + before_used)
    return steps.tolist()


def redundancy(angles: Sequence[float], gamma: Tensor) -> Tensor:
    """Weight of every ray of a fan `(views, bins)` float64; those of the two measurements of one line sum to 1.

    The ray (b, g) is the line of (b + pi + 2 g, -g).  `gamma` `(bins,)` is the fan angle of every bin.
    """
    beta = torch.tensor(angles, dtype=torch.float64, device="cpu")
    step = _typical_step(beta)
    start = float(beta.min()) - step / 2
    span = float(beta.max() - beta.min()) + step
    beta = (beta - start)[:, None]
    if span >= 2 * math.pi - 1e-6 * step:
        return _full(gamma).expand(len(angles), -1)
    reach = float(gamma.abs().max())
    if span >= math.pi + 2 * reach:
        return _parker(beta, gamma, 0.5 * (span - math.pi))
    return _shorter(beta, gamma, span)


def _typical_step(beta: Tensor) -> float:
    if len(beta) < 2:
        return 2 * math.pi
    return float(beta.sort().values.diff().median())


def _full(gamma: Tensor) -> Tensor:
    """1/2; on a detector off center sin^2 over the part that is seen from both sides, and 1 beyond it (Wang 2002)."""
    low, high = float(gamma.min()), float(gamma.max())
    width = float((gamma[1:] - gamma[:-1]).abs().max()) if len(gamma) > 1 else 0.0
    if abs(low + high) <= 2 * width or low >= 0 or high <= 0:
        return torch.full_like(gamma, 0.5)
    overlap = min(-low, high)
    toward = gamma if high > -low else -gamma
    return torch.sin(math.pi / 4 * (1 + (toward / overlap).clamp(-1, 1))) ** 2


def _parker(beta: Tensor, gamma: Tensor, delta: float) -> Tensor:
    """Of a scan over pi + 2 delta, delta at least the half fan."""
    rise = torch.sin(math.pi / 4 * beta / (delta - gamma).clamp_min(1e-12)) ** 2
    fall = torch.sin(math.pi / 4 * (math.pi + 2 * delta - beta) / (delta + gamma).clamp_min(1e-12)) ** 2
    one = torch.ones((), dtype=torch.float64, device="cpu")
    weight = torch.where(beta <= 2 * (delta - gamma), rise, one)
    return torch.where(beta >= math.pi - 2 * gamma, fall, weight)


def _shorter(beta: Tensor, gamma: Tensor, span: float) -> Tensor:
    """c(b) / (c(b) + c(b')) with a window c that is faded in and out, 0 outside the scan; 1 for a line seen once."""

    def window(at: Tensor) -> Tensor:
        at = at % (2 * math.pi)
        fade = min(TAPER, span / 2)
        inside = (torch.minimum(at, span - at) / fade).clamp(0, 1)
        return torch.where((at >= 0) & (at <= span), torch.sin(math.pi / 2 * inside) ** 2, 0.0)

    # a line that is seen once counts 1 even at the end of the scan, where the window is 0
    own, other = window(beta).clamp_min(1e-12), window(beta + math.pi + 2 * gamma)
    return own / (own + other)
