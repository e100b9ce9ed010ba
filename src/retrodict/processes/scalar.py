"""Processes that are the same at every coefficient of every basis."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis
from retrodict.processes.process import Law, Process, assemble

__all__ = [
    "cosine",
    "edm",
    "encoder_decoder",
    "latent_flow",
    "rectified_flow",
    "scalar",
    "sub_vp",
    "trigonometric",
    "ve",
    "vp",
    "zero_snr",
]


def _scalar(law: Law) -> Any:
    """A family that is the same at every coefficient of every basis."""
    return lambda basis: law


def vp(basis: Basis, beta_min: float = 0.1, beta_max: float = 20.0, **pairing: Any) -> Process:
    """Variance preserving with a linear rate.

    log h = -t^2 (b1 - b0)/4 - t b0/2, s^2 = 1 - h^2: dw = -(b/2) w dt + sqrt(b) dW with b = b0 + t (b1 - b0)
    (Song et al. 2021, eq. 11; Ho, Jain, Abbeel 2020).  `beta_min`, `beta_max`: b0 and b1, per unit of time.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_h = -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2
        return log_h.exp(), 0 * t, -torch.expm1(2 * log_h)

    return assemble(_scalar(law), basis, "vp", {"beta_min": beta_min, "beta_max": beta_max}, **pairing)


def cosine(basis: Basis, offset: float = 0.008, end: float = 0.9999, **pairing: Any) -> Process:
    """Variance preserving on a quarter of a cosine.

    h = cos(a(t)) / cos(a(0)), a = (pi/2) (end t + offset)/(1 + offset), s^2 = 1 - h^2
    (Nichol and Dhariwal 2021, eq. 17).  `end` < 1 keeps h(1) > 0, so that every conversion stays finite; `offset` keeps
    the first rates from vanishing.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        start = 0.5 * math.pi * offset / (1 + offset)
        angle = 0.5 * math.pi * (end * t + offset) / (1 + offset)
        h = torch.cos(angle) / math.cos(start)
        # 1 - h^2 without cancellation: cos^2 a0 - cos^2 a = sin(a - a0) sin(a + a0)
        return h, 0 * t, torch.sin(angle - start) * torch.sin(angle + start) / math.cos(start) ** 2

    return assemble(_scalar(law), basis, "cosine", {"offset": offset, "end": end}, **pairing)


def sub_vp(basis: Basis, beta_min: float = 0.1, beta_max: float = 20.0, **pairing: Any) -> Process:
    """The gain of `vp` with less noise at every time.

    log h = -t^2 (b1 - b0)/4 - t b0/2, s = 1 - h^2, the standard deviation: s^2 is the square of that of `vp`
    (Song et al. 2021, sub-VP).  `beta_min`, `beta_max`: b0 and b1, as in `vp`.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_h = -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2
        return log_h.exp(), 0 * t, torch.expm1(2 * log_h) ** 2

    return assemble(_scalar(law), basis, "sub_vp", {"beta_min": beta_min, "beta_max": beta_max}, **pairing)


def ve(basis: Basis, sigma_min: float = 0.01, sigma_max: float = 50.0, **pairing: Any) -> Process:
    """Variance exploding, noise that grows geometrically.

    h = 1, s = sigma_min (sigma_max / sigma_min)^t (Song et al. 2021, eq. 9).  `sigma_min`, `sigma_max` in data units;
    s(0) is sigma_min and not 0, as published.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(t), 0 * t, sigma_min**2 * torch.exp(2 * t * math.log(sigma_max / sigma_min))

    return assemble(_scalar(law), basis, "ve", {"sigma_min": sigma_min, "sigma_max": sigma_max}, **pairing)


def scalar(basis: Basis, **pairing: Any) -> Process:
    """The scalar schedule that Fourier diffusion is compared with.

    h = exp(-5 t^2), s^2 = 1 - exp(-10 t^2) (Tivnan et al. 2023, eqs. 31-32).  It is `vp` with b(t) = 20 t.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.exp(-5 * t**2), 0 * t, -torch.expm1(-10 * t**2)

    return assemble(_scalar(law), basis, "scalar", {}, **pairing)


def rectified_flow(basis: Basis, **pairing: Any) -> Process:
    """The straight line from image to noise.

    h = 1 - t, s = t (Liu et al. 2022; Lipman et al. 2022): the linear one-sided interpolant.  Nothing of the image is
    left at t = 1: h(1) = 0, and the limits of `retrodict.processes.observation` hold there.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 - t, 0 * t, t**2

    return assemble(_scalar(law), basis, "rectified_flow", {}, **pairing)


def zero_snr(basis: Basis, beta_min: float = 0.1, beta_max: float = 20.0, **pairing: Any) -> Process:
    """The gain of `vp` shifted and scaled so that nothing of the image is left at the end.

    h = (g(t) - g(1)) / (1 - g(1)) with g the gain of `vp`, s^2 = 1 - h^2, so h(1) = 0 (Lin et al. 2023, algorithm 1,
    in continuous time).  A network that predicts the noise says nothing at t = 1: predict "data", "q" or "wiener".
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_g = -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2
        whole, left = (beta_max + beta_min) / 4, (1 - t**2) * (beta_max - beta_min) / 4 + (1 - t) * beta_min / 2
        h = torch.expm1(left) / math.expm1(whole)  # exactly 0 at t = 1
        # 1 - h by itself, so that s^2 = (1 - h)(1 + h) has no cancellation near t = 0
        return h, 0 * t, torch.expm1(log_g) / math.expm1(-whole) * (1 + h)

    return assemble(_scalar(law), basis, "zero_snr", {"beta_min": beta_min, "beta_max": beta_max}, **pairing)


def edm(basis: Basis, sigma_max: float = 80.0, **pairing: Any) -> Process:
    """Plain noise that grows linearly: the noise level itself is the time.

    h = 1, s = sigma_max t (Karras et al. 2022, table 1).  `sigma_max` in data units.  Its published grid is
    `make_grid(process, N, "rho", last=0.002 / sigma_max)`, its sampler the rule "heun", and its preconditioning the
    prediction "wiener" of a flat spectrum sigma_data^2.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(t), 0 * t, (sigma_max * t) ** 2

    return assemble(_scalar(law), basis, "edm", {"sigma_max": sigma_max}, **pairing)


# ---- stochastic interpolants whose other end is white noise ----------------------------------------------------------


def trigonometric(basis: Basis, **pairing: Any) -> Process:
    """The quarter of a circle from image to noise.

    h = cos(pi t / 2), s = sin(pi t / 2), so that h^2 + s^2 = 1 and h(1) = 0 (Albergo, Boffi, Vanden-Eijnden 2023, the
    trigonometric one-sided interpolant).  At equal clock it is `rectified_flow` and `vp`, run at another speed.
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # sin(pi (1 - t) / 2): the cosine itself would leave 6e-17 of the image at t = 1
        return torch.sin(0.5 * math.pi * (1 - t)), 0 * t, torch.sin(0.5 * math.pi * t) ** 2

    return assemble(_scalar(law), basis, "trigonometric", {}, **pairing)


def latent_flow(basis: Basis, latent: float = 1.0, **pairing: Any) -> Process:
    """The straight line from image to noise with more noise, a latent one, on the way.

    x_t = (1 - t) x_0 + t x_1 + gamma z with white x_1 and z, gamma^2 = latent t (1 - t): h = 1 - t,
    s^2 = t^2 + latent t (1 - t) (Albergo, Boffi, Vanden-Eijnden 2023, linear interpolant).  `latent` >= 0 in data
    units squared; 0 is `rectified_flow`.  With latent = 2, s^2 = 1 - h^2.
    """
    if not 0 <= latent < math.inf:
        raise InputError("latent_flow latent", latent, "a variance of at least 0")

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 - t, 0 * t, t**2 + latent * t * (1 - t)

    return assemble(_scalar(law), basis, "latent_flow", {"latent": latent}, **pairing)


def encoder_decoder(basis: Basis, **pairing: Any) -> Process:
    """The first half of the interpolant that fades to pure noise before it forms the other end.

    h = cos^2(pi t / 2), s = sin^2(pi t / 2), so that h + s = 1 and h(1) = 0 (Albergo, Boffi, Vanden-Eijnden 2023, the
    encoding-decoding interpolant).  Its second half holds nothing of the image and is left out: t here is twice theirs.
    It is `rectified_flow` at the time sin^2(pi t / 2).
    """

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # as in `trigonometric`, and h = 1 - s loses nothing of s where it is small
        return torch.sin(0.5 * math.pi * (1 - t)) ** 2, 0 * t, torch.sin(0.5 * math.pi * t) ** 4

    return assemble(_scalar(law), basis, "encoder_decoder", {}, **pairing)
