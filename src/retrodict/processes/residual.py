"""Processes that are pulled towards a condition image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retrodict.bases import Basis
from retrodict.processes.process import Process, assemble
from retrodict.processes.scalar import _scalar

__all__ = ["elapsed_time", "mean_reverting"]


def mean_reverting(
    basis: Basis, level: float = 50 / 255, delta: float = 0.005, offset: float = 0.008, **pairing: Any
) -> Process:
    """Mean-reverting (IR-SDE): dx = theta (c - x) dt + sigma dW, h = e^-T, k = 1 - h, s^2 = level^2 (1 - h^2).

    T(t) = log(1/delta) T0(t) / T0(1) with rate theta(t) = 1 - cos^2(((t + offset)/(1 + offset)) pi/2), the continuous
    form of the cosine schedule of Luo et al. 2023 (their 100 discrete rates are samples of it: `ir_sde`).  `level` is
    the noise standard deviation around the condition image at t = 1, in data units; h(1) = delta.
    """
    elapsed = elapsed_time(delta, offset)

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        passed = elapsed(t)
        return torch.exp(-passed), -torch.expm1(-passed), -(level**2) * torch.expm1(-2 * passed)

    options = {"level": level, "delta": delta, "offset": offset}
    return assemble(_scalar(law), basis, "mean_reverting", options, **{"conditioning": "external", **pairing})


def elapsed_time(delta: float, offset: float = 0.008) -> Callable[[Tensor], Tensor]:
    """T(t) of `mean_reverting`: the integral of its rate, scaled so that T(1) = -log(delta)."""
    rate = math.pi / (1 + offset)  # theta = (1 - cos(rate (t + offset))) / 2

    def integral(t: Tensor) -> Tensor:
        return 0.5 * (t - (torch.sin(rate * (t + offset)) - math.sin(rate * offset)) / rate)

    whole = float(integral(torch.tensor(1.0, dtype=torch.float64, device="cpu")))
    return lambda t: -math.log(delta) * integral(t) / whole
