"""Processes that are the same at every coefficient of every basis."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from retrodict.bases import Basis
from retrodict.processes.process import Law, Process, assemble

__all__ = ["cosine", "rectified_flow", "scalar", "sub_vp", "ve", "vp"]


def _scalar(law: Law) -> Any:
    """A family that is the same at every coefficient of every basis."""
    return lambda basis: law


def vp(basis: Basis, beta_min: float = 0.1, beta_max: float = 20.0, **pairing: Any) -> Process:
    """Variance preserving, linear beta: log h = -t^2 (b1 - b0)/4 - t b0/2, s^2 = 1 - h^2 (Song et al. 2021)."""

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_h = -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2
        return log_h.exp(), 0 * t, -torch.expm1(2 * log_h)

    return assemble(_scalar(law), basis, "vp", {"beta_min": beta_min, "beta_max": beta_max}, **pairing)


def cosine(basis: Basis, offset: float = 0.008, end: float = 0.9999, **pairing: Any) -> Process:
    """Variance preserving with h = cos(a(t)) / cos(a(0)), a = (pi/2) (end t + offset)/(1 + offset).

    Nichol and Dhariwal 2021, eq. 17; `end` < 1 keeps h(1) > 0, so that every conversion stays finite.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        start = 0.5 * math.pi * offset / (1 + offset)
        angle = 0.5 * math.pi * (end * t + offset) / (1 + offset)
        h = torch.cos(angle) / math.cos(start)
        # 1 - h^2 without cancellation: cos^2 a0 - cos^2 a = sin(a - a0) sin(a + a0)
        return h, 0 * t, torch.sin(angle - start) * torch.sin(angle + start) / math.cos(start) ** 2

    return assemble(_scalar(law), basis, "cosine", {"offset": offset, "end": end}, **pairing)


def sub_vp(basis: Basis, beta_min: float = 0.1, beta_max: float = 20.0, **pairing: Any) -> Process:
    """Sub-VP: the gain of `vp`, standard deviation s = 1 - h^2 (Song et al. 2021)."""

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_h = -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2
        return log_h.exp(), 0 * t, torch.expm1(2 * log_h) ** 2

    return assemble(_scalar(law), basis, "sub_vp", {"beta_min": beta_min, "beta_max": beta_max}, **pairing)


def ve(basis: Basis, sigma_min: float = 0.01, sigma_max: float = 50.0, **pairing: Any) -> Process:
    """Variance exploding: h = 1, s = sigma_min (sigma_max / sigma_min)^t, in data units (Song et al. 2021)."""

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(t), 0 * t, sigma_min**2 * torch.exp(2 * t * math.log(sigma_max / sigma_min))

    return assemble(_scalar(law), basis, "ve", {"sigma_min": sigma_min, "sigma_max": sigma_max}, **pairing)


def scalar(basis: Basis, **pairing: Any) -> Process:
    """The scalar schedule of Fourier diffusion, eqs. 31-32: h = exp(-5 t^2), s^2 = 1 - exp(-10 t^2) (Tivnan 2023).

    It is `vp` with beta(t) = 20 t.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.exp(-5 * t**2), 0 * t, -torch.expm1(-10 * t**2)

    return assemble(_scalar(law), basis, "scalar", {}, **pairing)


def rectified_flow(basis: Basis, **pairing: Any) -> Process:
    """The straight line from image to noise: h = 1 - t, s = t (Liu et al. 2022; Lipman et al. 2022).

    Nothing of the image is left at t = 1: h(1) = 0, and the limits of `retrodict.processes.observation` hold there.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 - t, 0 * t, t**2

    return assemble(_scalar(law), basis, "rectified_flow", {}, **pairing)
