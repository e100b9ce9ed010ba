"""Noise power spectra of uniform regions."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._arrays import double

__all__ = ["detrend", "nps", "radial"]

Spacing = float | tuple[float, float]


def nps(region_stack: Tensor, spacing: Spacing) -> Tensor:
    """Two-dimensional noise power spectrum, averaged over regions.

    Shapes: `region_stack` (R, H, W) of uniform or difference fields; result (H, W) in the order of `torch.fft.fft2`,
    zero frequency first. Units: `spacing` in mm, as one number or (row, column); result in image unit squared mm^2.
    Formula: NPS(u, v) = dy dx / (H W) <|FFT(region - mean of region)|^2> (ICRU Report 87, 2012; AAPM TG-233, 2019).
    Its sum times du dv = 1 / (H dy W dx) is the variance of the regions. Halve it for a difference of two images.
    """
    x = _stack(region_stack)
    dy, dx = _pair(spacing)
    x = x - x.mean((-2, -1), keepdim=True)
    return torch.fft.fft2(x).abs().square().mean(0) * (dy * dx / (x.shape[-2] * x.shape[-1]))


def radial(nps2d: Tensor, spacing: Spacing, bins: int) -> tuple[Tensor, Tensor]:
    """Average a two-dimensional spectrum over rings of equal frequency.

    Shapes: `nps2d` (H, W) as `nps` gives it; result two vectors, frequency and value, of at most `bins` entries:
    rings that hold no sample are left out. Units: `spacing` in mm, frequency in cycles per mm, value as `nps2d`.
    Formula: rings of equal width from 0 to the lower of the two Nyquist frequencies 1 / (2 spacing); each gives the
    mean frequency and mean value of its samples. Zero frequency, which the removal of the mean emptied, is left out,
    and so are the corners beyond Nyquist.
    """
    values = double("nps2d", nps2d)
    if values.ndim != 2:
        raise InputError("nps2d", f"shape {tuple(values.shape)}", "shape (H, W)")
    if bins < 1:
        raise InputError("bins", bins, "at least 1")
    dy, dx = _pair(spacing)
    v = torch.fft.fftfreq(values.shape[0], dy, dtype=torch.float64, device=values.device)
    u = torch.fft.fftfreq(values.shape[1], dx, dtype=torch.float64, device=values.device)
    frequency = torch.hypot(v[:, None], u[None, :])
    nyquist = 0.5 / max(dy, dx)
    # The tolerance keeps the samples that sit on Nyquist itself, whatever rounding did to them.
    inside = (frequency > 0) & (frequency <= nyquist * (1 + 1e-12))
    ring = (frequency[inside] / nyquist * bins).long().clamp(max=bins - 1)
    size = torch.bincount(ring, minlength=bins)
    filled = size > 0
    f = torch.bincount(ring, frequency[inside], bins)[filled] / size[filled]
    return f, torch.bincount(ring, values[inside], bins)[filled] / size[filled]


def detrend(region_stack: Tensor) -> Tensor:
    """Take the best second-order polynomial surface off each region.

    Shapes: (R, H, W) in and out. Unit: image unit. Formula: residual of least squares on 1, x, y, x^2, xy, y^2
    (AAPM TG-233, 2019), which keeps slow shading out of the lowest frequencies of the spectrum.
    """
    x = _stack(region_stack)
    h, w = x.shape[-2:]
    row, col = torch.meshgrid(_axis(h, x), _axis(w, x), indexing="ij")
    basis = torch.stack([torch.ones_like(row), row, col, row * row, row * col, col * col]).reshape(6, -1)
    q, _ = torch.linalg.qr(basis.T)
    flat = x.reshape(x.shape[0], -1)
    return (flat - (flat @ q) @ q.T).reshape(x.shape)


def _axis(size: int, like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, size, dtype=torch.float64, device=like.device)


def _stack(region_stack: Tensor) -> Tensor:
    x = double("region_stack", region_stack)
    if x.ndim != 3 or min(x.shape[-2:]) < 3:
        raise InputError("region_stack", f"shape {tuple(x.shape)}", "shape (R, H, W), H and W at least 3")
    return x


def _pair(spacing: Spacing) -> tuple[float, float]:
    dy, dx = spacing if isinstance(spacing, tuple | list) else (spacing, spacing)
    if not (0 < dy < float("inf") and 0 < dx < float("inf")):
        raise InputError("spacing", spacing, "finite numbers above 0, in mm")
    return float(dy), float(dx)
