"""Instruments that no model was trained on: the curves of the benchmarks, as a phantom measurement would give them.

The kernels are windows of filtered backprojection (Hann, cosine) over a detector aperture, other functions than those
of `retrodict.processes.clocks.ClockLaw`; the noise is a ramp under the square of the kernel on a small white floor.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from retrodict.bases.curve import Curve
from retrodict.processes.fourier import ct_filters

__all__ = ["INSTRUMENTS", "SCANNERS", "Scanner", "curves", "more_scanners"]


class Scanner(NamedTuple):
    """Noise std per pixel (HU), cut-off of the window (/mm), lift of the MTF at 0.3 /mm, and aperture (mm)."""

    noise: float
    cut: float = 1.0
    lift: float = 0.0
    aperture: float = 0.6
    kind: str = "fbp"


SCANNERS: dict[str, Scanner] = {
    "paper": Scanner(0.0, kind="paper"),
    "soft-12": Scanner(12, 0.9),
    "standard-30": Scanner(30, 1.2),
    "sharp-60": Scanner(60, 1.8, 0.25),
    "white-20": Scanner(20, kind="white"),
}


def more_scanners(count: int = 12) -> dict[str, Scanner]:
    """Kernels spread evenly over noise of 5 to 120 HU (soft kernels have less), cut-off 0.7 to 2.0 /mm, lift 0 to 0.5
    and aperture 0.4 to 0.9 mm: points of the additive recurrence of Roberts (2018), the same in every run.
    """
    root = 1.1673039782614187  # of x^5 = x + 1, for four dimensions
    steps = [root**-k for k in (1, 2, 3, 4)]
    out = {}
    for i in range(1, count + 1):
        u = [(0.5 + i * s) % 1 for s in steps]
        cut = 0.7 * (2.0 / 0.7) ** u[0]
        noise = 5 * 24 ** (0.5 * u[0] + 0.5 * u[1])
        lift = 0.0 if u[2] < 0.5 else u[2] - 0.5
        scanner = Scanner(round(noise, 1), round(cut, 2), round(lift, 2), round(0.4 + 0.5 * u[3], 2))
        out[f"{i:02d}-{noise:.0f}HU-{cut:.1f}"] = scanner
    return out


INSTRUMENTS = {name: s for name, s in SCANNERS.items() if s.kind != "white"} | more_scanners()
"""The 16 of the headline experiment: the first four on a CPU, all on a GPU."""


def curves(scanner: Scanner, spacing: float, noise_at: float | None = None) -> tuple[Curve, Curve]:
    """MTF and NPS (HU^2 mm^2) at a pixel spacing (mm), up to the corner of the plane; the noise is that of a pixel, of
    the side `noise_at` where that is another.
    """
    f = torch.linspace(0, 0.75 / spacing, 301, dtype=torch.float64)
    if scanner.kind == "paper":
        low, middle, high = ct_filters(f)
        mtf = low + 0.5 * middle + 0.1 * high
        nps = (0.1 * low + middle + 0.5 * high) * 200.0**2
    elif scanner.kind == "white":
        mtf, nps = torch.ones_like(f), torch.full_like(f, scanner.noise**2 * spacing**2)
    else:
        window = torch.where(f < scanner.cut, torch.cos(0.5 * math.pi * f / scanner.cut) ** 2, 0.0)
        mtf = window * torch.sinc(f * scanner.aperture) * (1 + scanner.lift * torch.exp(-(((f - 0.3) / 0.15) ** 2)))
        mtf = mtf.abs().clamp_min(1e-3)
        shape = f * window**2 * (1 + scanner.lift * torch.exp(-(((f - 0.3) / 0.15) ** 2))) ** 2
        shape = shape + 0.02 * shape.max()
        nps = shape * scanner.noise**2 / _pixel_variance(f, shape, noise_at or spacing)
    return Curve.isotropic(f, mtf.tolist(), "1"), Curve.isotropic(f, nps.tolist(), "HU^2 mm^2")


def _pixel_variance(f: torch.Tensor, nps: torch.Tensor, spacing: float) -> float:
    """Integral of an isotropic NPS over the square of frequencies that pixels can hold."""
    axis = (torch.arange(256, dtype=torch.float64) - 128) / 256 / spacing
    radius = torch.hypot(axis[:, None], axis[None]).flatten()
    place = torch.bucketize(radius, f).clamp(1, len(f) - 1)
    part = (radius - f[place - 1]) / (f[place] - f[place - 1])
    return float((nps[place - 1] * (1 - part) + nps[place] * part).sum()) / (256 * spacing) ** 2
