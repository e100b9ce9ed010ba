"""Processes that blur: a gain that falls with frequency as in heat conduction, and white noise.

A Gaussian blur of standard deviation sigma_B (mm) is the gain exp(-(2 pi |f|)^2 sigma_B^2 / 2) in the Fourier basis
(periodic boundary) and in the cosine basis (no flux through the boundary, the DCT of the papers).  All lengths are in
mm, so that a law is that of every grid; on pixels of 1 mm they are the papers' pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Basis, Pixel, Wavelet
from retrodict.processes.process import Law, Process, assemble

__all__ = ["CHAINS", "blurring", "ihdm", "plain", "soft"]

CHAINS: dict[str, Callable[[Basis], Callable[[Tensor], Tensor]] | None] = {
    "markov": None,
    "momentum": lambda basis: torch.ones_like,
    "independent": lambda basis: torch.zeros_like,
}
"""How much of the noise of a state is found again in later ones, Cov(x_s, x_t | x_0) = (A_t / A_s) s_s^2 for s < t:
A = h (None), A = 1 (noise is only added), and the limit of an A that falls at once (levels share x_0 alone)."""


def plain(basis: Basis) -> Basis:
    """The basis of one plane and one channel inside a composite one."""
    while (inner := getattr(basis, "plane", None) or getattr(basis, "single", None)) is not None:
        basis = inner
    return basis


def _require_blur(name: str, basis: Basis) -> None:
    if isinstance(plain(basis), Pixel | Wavelet):
        found = f"the basis {type(plain(basis)).__name__}"
        raise InputError(f"process {name!r}", found, "Fourier or Cosine: a blur is a gain only there")


def _require(name: str, **options: float) -> None:
    """Raise unless every option is a positive number."""
    for option, value in options.items():
        if not 0 < value < math.inf:
            raise InputError(f"process {name!r} {option}", value, "a positive number")


def _waves(basis: Basis) -> Tensor:
    """Squared angular frequency (2 pi |f|)^2 of every coefficient, in 1/mm^2."""
    return (2 * math.pi * basis.radius()) ** 2


def blurring(basis: Basis, blur: float = 20.0, floor: float = 0.001, log_snr: float = 10.0, **pairing: Any) -> Process:
    """Blurring diffusion: a cosine schedule whose gain also blurs (Hoogeboom and Salimans 2023, eqs. 18-24).

    h = cos(a) d, s^2 = sin(a)^2, a(t) = A + (B - A) t, tan A = e^(-log_snr/2), tan B = e^(log_snr/2), so that the
    log-SNR of white noise falls from `log_snr` to -`log_snr`; d = (1 - floor) exp(-(2 pi |f|)^2 tau) + floor, tau =
    blur^2 sin(pi t/2)^4 / 2.  `blur`: standard deviation at t = 1 in mm; `floor` keeps h > 0.  Unit-variance data: the
    noise is in model units.  As published, s(0)^2 = 4.5e-5: h(0) is 2.3e-5 below 1.
    """
    _require_blur("blurring", basis)
    _require("blurring", blur=blur, log_snr=log_snr)
    if not 0 <= floor < 1:
        raise InputError("process 'blurring' floor", floor, "a number from 0 to below 1")
    first = math.atan(math.exp(-log_snr / 2))

    def family(bound: Basis) -> Law:
        waves = _waves(bound)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            angle = first + (0.5 * math.pi - 2 * first) * t
            tau = 0.5 * blur**2 * torch.sin(0.5 * math.pi * t) ** 4
            kept = (1 - floor) * torch.exp(-waves * tau) + floor
            return torch.cos(angle) * kept, 0 * t, torch.sin(angle) ** 2

        return law

    options = {"blur": blur, "floor": floor, "log_snr": log_snr}
    return assemble(family, basis, "blurring", options, **pairing)


def ihdm(
    basis: Basis,
    noise: float = 0.01,
    blur_min: float = 0.5,
    blur_max: float = 24.0,
    levels: float = 200,
    chain: str = "markov",
    **pairing: Any,
) -> Process:
    """Inverse heat dissipation: the image only blurs, under noise that stays small (Rissanen et al. 2023).

    h = exp(-(2 pi |f|)^2 sigma_B^2 / 2), s^2 = noise^2.  sigma_B(k / levels) are the published levels, k = 1 ... levels
    spaced evenly in log from `blur_min` to `blur_max` (mm); between 0 and 1/levels it rises linearly from 0.  `noise`
    is in model units (published for images in [0, 1]).  `chain` "markov" is the diffusion of these marginals: G^2 =
    (2 pi |f|)^2 noise^2 d(sigma_B^2)/dt, no diffusion of the mean; "independent" the published chain, whose levels
    share nothing but x_0.  Generation starts at a draw of the Gaussian law of blurred images, h^2 L + s^2 with the
    spectrum L of the data, and not at a blurred training image as published, which would put a patient into every
    result.
    """
    _require_blur("ihdm", basis)
    _require("ihdm", noise=noise, blur_min=blur_min, blur_max=blur_max)
    if blur_max <= blur_min or not 1 < levels < math.inf:
        found = f"blur_min {blur_min:g}, blur_max {blur_max:g}, levels {levels:g}"
        raise InputError("process 'ihdm'", found, "blur_min below blur_max and more than one level")

    def family(bound: Basis) -> Law:
        waves, growth = _waves(bound), math.log(blur_max / blur_min) / (levels - 1)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            level = levels * t
            width = blur_min * torch.where(level < 1, level, torch.exp(growth * (level - 1)))
            return torch.exp(-0.5 * waves * width**2), 0 * t, torch.full_like(t, noise**2, device=t.device)

        return law

    options = {"noise": noise, "blur_min": blur_min, "blur_max": blur_max, "levels": levels, "chain": chain}
    memory = CHAINS[choice("process 'ihdm' chain", chain, CHAINS)]
    return assemble(family, basis, "ihdm", options, memory=memory, **pairing)


def soft(basis: Basis, blur: float = 8.0, noise: float = 0.1, chain: str = "markov", **pairing: Any) -> Process:
    """Soft diffusion: a Gaussian blur C_t that widens and a little noise that rises (Daras et al. 2023).

    h = exp(-(2 pi |f|)^2 (blur t)^2 / 2), s = noise t.  `blur`: standard deviation at t = 1 in mm; `noise` in model
    units.  The schedule is ours (the published one could not be read).  `chain` says which of the paper's samplers
    `ancestral` steps are: "momentum", noise is only added, keep = s_s^2 / s_t^2; "independent", the naive one, keep =
    0; "markov", the diffusion of these marginals.  Soft score matching is the loss "soft" of every process, |C_t (D -
    x_0)|^2.
    """
    _require_blur("soft", basis)
    _require("soft", blur=blur, noise=noise)

    def family(bound: Basis) -> Law:
        waves = _waves(bound)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return torch.exp(-0.5 * waves * (blur * t) ** 2), 0 * t, (noise * t) ** 2

        return law

    options = {"blur": blur, "noise": noise, "chain": chain}
    memory = CHAINS[choice("process 'soft' chain", chain, CHAINS)]
    return assemble(family, basis, "soft", options, memory=memory, **pairing)
