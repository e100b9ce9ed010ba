"""Ultrasound without a wave equation: a pulse-echo point spread, and haze beside the tissue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.algebra import Adjoint, Scaled, Stacked
from retrodict.physics.convolution import Blur
from retrodict.physics.diagonal import Identity
from retrodict.physics.operator import Operator

__all__ = ["beside", "pulse_echo", "ultrasound"]

SPEED = 1.54e6
"""Speed of sound in soft tissue, mm/s."""


def pulse_echo(
    frequency: float, bandwidth: float, lateral: float, spacing: Sequence[float], *, speed: float = SPEED
) -> Tensor:
    """Point spread of radio-frequency data `(axial, lateral)`: a Gaussian pulse of a carrier, and a Gaussian beam.

    h(z, x) = exp(-z^2 / (2 s_z^2)) cos(2 pi z 2 f / speed) exp(-x^2 / (2 s_x^2)), peak 1.  `frequency` f in Hz,
    `bandwidth` the width of the spectrum at half of its amplitude over f, `lateral` the width of the beam at half
    maximum in mm, `spacing` (axial, lateral) in mm, `speed` of sound in mm/s.
    """
    dz, dx = spacing
    carrier = 2 * frequency / speed  # cycles/mm: there and back
    wide = 2 * math.sqrt(2 * math.log(2))
    if not (frequency > 0 and 0 < bandwidth < 2 and lateral > 0 and dz > 0 and dx > 0):
        found = (frequency, bandwidth, lateral, tuple(spacing))
        raise InputError("frequency, bandwidth, lateral, spacing", found, "positive; a bandwidth below 2")
    if carrier * (1 + bandwidth / 2) > 0.5 / dz:
        found = f"{dz:g} mm for a pulse of up to {carrier * (1 + bandwidth / 2):.4g} cycles/mm"
        raise InputError(
            "spacing", found, f"an axial spacing of at most {0.5 / (carrier * (1 + bandwidth / 2)):.4g} mm"
        )
    sigma = wide / (2 * math.pi * bandwidth * carrier), lateral / wide
    halves = (math.ceil(4 * s / d) for s, d in zip(sigma, (dz, dx), strict=True))
    z, x = (
        torch.arange(-n, n + 1, dtype=torch.float64, device="cpu") * d for n, d in zip(halves, (dz, dx), strict=True)
    )
    pulse = torch.exp(-0.5 * (z / sigma[0]) ** 2) * torch.cos(2 * math.pi * carrier * z)
    return pulse[:, None] * torch.exp(-0.5 * (x / sigma[1]) ** 2)


def beside(*operators: Operator) -> Operator:
    """Sum of A_i x_i, of parts x_i one after the other along the channels: the transpose of `Stacked`."""
    return Adjoint(Stacked(*(Adjoint(a) for a in operators)))


def ultrasound(
    size: Sequence[int],
    psf: Tensor,
    *,
    haze: float | None = None,
    spacing: Sequence[float] = (),
    unit: str = "1",
) -> Operator:
    """RF data y = psf * x (0 outside the image), or y = psf * x + haze h of the pair (x, h), `(2, axial, lateral)`.

    x are the scatterers and h the haze, clutter of multiple reflections that is estimated jointly with its own prior
    (Stevens et al., IEEE Trans. Medical Imaging, 2024); `haze` is its strength.
    """
    options: dict[str, Any] = {"spacing": spacing, "unit": unit}
    blur = Blur(size, psf, boundary="zero", **options)
    if haze is None:
        return blur
    return beside(blur, Scaled(Identity(tuple(size), **options), haze))
