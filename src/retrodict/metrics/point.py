"""MTF of a wire seen end-on, or of a bead."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.metrics._resolution import Resolution, slices, spread_of, square_pixel, summarize, window_of
from retrodict.metrics.frequency import Spacing

__all__ = ["point_mtf"]


REACH = 12  # pixels over which the noise around the wire is taken to be correlated


def point_mtf(
    image: Tensor,
    spacing: Spacing,
    *,
    diameter: float = 0.0,
    half_width: float | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> Resolution:
    """MTF of a thin wire (seen end-on) or bead in an image (H, W) or slices (S, H, W): 2-D transform of its image.

    A(f) = sum (image - background) w(r) J0(2 pi f r), the angular mean of the transform about the centroid of the mean
    slice, over A(0) and over that of a disc of `diameter` (mm), 2 J1(pi D f) / (pi D f).  w is a Hann disc of
    `half_width` px (default: what fits), flattened to third order.  The background is a quadratic
    surface around the point.

    Bands: noise with the correlation of what is left around the point is drawn, added, and the whole estimate, its
    background too, made again.  An error of the background counts with the area of w: it is most of the band.
    """
    pixel = square_pixel(spacing)
    x = slices(image)
    mean = x.mean(0)
    center, contrast, noise = _spot(mean)
    room = min(center[0], center[1], x.shape[1] - 1 - center[0], x.shape[2] - 1 - center[1])
    half = math.floor(room) - 2 if half_width is None else half_width
    if half < 5 or half > room:
        raise InputError("wire or bead", f"{room:.1f} px around it", "at least 7 px", "Use a larger region.")
    nodes = torch.linspace(0, 0.5, 65, dtype=torch.float64, device="cpu")
    disc = _disc_transform(nodes / pixel, diameter)
    if diameter and float(disc[-1]) < 0.3:
        raise InputError("diameter", f"{diameter:g} mm", f"less than {1.5 * pixel:g} mm for {pixel:g} mm pixels")
    rows = torch.arange(x.shape[1], dtype=torch.float64, device="cpu") - center[0]
    columns = torch.arange(x.shape[2], dtype=torch.float64, device="cpu") - center[1]
    distance = torch.hypot(rows[:, None], columns[None])
    around = distance > 0.5 * half
    surface = _surface(rows / half, columns / half)
    functional = _functional(distance, nodes, half, surface, around)
    transform = functional @ mean.flatten()
    value = transform / transform[0] / disc
    sigma = spread_of(nodes, value)
    if half < 22 * sigma / math.sqrt(2):
        found = f"a window of half width {half:g} px for a spread of standard deviation {sigma:.2f} px"
        raise InputError("wire or bead", found, f"at least {22 * sigma / math.sqrt(2):.0f} px", "Use a larger region.")
    left = (mean.flatten() - surface @ (_fit(surface, around) @ mean.flatten())).reshape(mean.shape)
    fields = _noise_like(left, around, surface, bootstrap, seed).flatten(1)
    drawn = transform + fields @ functional.T
    curves = drawn / drawn[:, :1] / disc
    details = {"kind": "point", "center_px": list(center), "half_width_px": half, "diameter_mm": diameter}
    details |= {"slices": len(x), "window": "hann, flattened", "sigma_lsf_px": sigma}
    return summarize(nodes / pixel, value, curves, contrast, noise, details)


def _surface(rows: Tensor, columns: Tensor) -> Tensor:
    """Quadratic surfaces `(H W, 6)`."""
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    terms = [torch.ones_like(row), row, column, row * row, row * column, column * column]
    return torch.stack(terms, -1).reshape(-1, 6)


def _fit(surface: Tensor, around: Tensor) -> Tensor:
    """The matrix `(6, H W)` from an image to the coefficients of its background, by the pixels `around`."""
    masked = surface * around.flatten()[:, None]
    return torch.linalg.solve(masked.T @ masked, masked.T)


def _functional(distance: Tensor, nodes: Tensor, half: float, surface: Tensor, around: Tensor) -> Tensor:
    """The linear map `(nodes, H W)` from an image to its windowed transform, the fitted background taken off."""
    r = distance.flatten()
    taper = window_of(r, half, "flattened")
    kernel = torch.special.bessel_j0(2 * math.pi * nodes[:, None] * r[None]) * taper
    return kernel - (kernel @ surface) @ _fit(surface, around)


def _noise_like(left: Tensor, around: Tensor, surface: Tensor, count: int, seed: int) -> Tensor:
    """Gaussian fields `(count, H, W)` with the covariance of the residual `left` where it is noise.

    The surface has taken slow noise with it, and that is what an error of the background is made of: the share that
    the projection takes at every lag is given back, in proportion to the power at zero frequency.
    """
    height, width = left.shape
    size = (height + REACH, width + REACH)
    mask = around.double()
    q, _ = torch.linalg.qr(surface * mask.reshape(-1, 1))
    taken = q.T.reshape(-1, height, width)
    power = [torch.fft.rfft2(v, s=size).abs().square().sum(0) for v in ((left * mask)[None], mask[None], taken)]
    products, pairs, lost = (torch.fft.irfft2(p, s=size) for p in power)
    near = [torch.minimum(torch.arange(n, device="cpu"), n - torch.arange(n, device="cpu")).double() for n in size]
    taper = [(1 - lag / (REACH + 1)).clamp_min(0) for lag in near]
    weight = taper[0][:, None] * taper[1][None] / pairs.clamp_min(1.0)
    slow = max(float((products * weight).sum()), 0.0) / max(1 - float((lost * weight).sum()), 0.25)
    covariance = (products + slow * lost) * weight
    root = torch.fft.rfft2(covariance).real.clamp_min(0).sqrt()
    draw = torch.Generator().manual_seed(key(seed, "bootstrap"))
    white = torch.randn(count, *size, generator=draw, dtype=torch.float64, device="cpu")
    return torch.fft.irfft2(torch.fft.rfft2(white) * root, s=size)[:, :height, :width]


def _spot(mean: Tensor) -> tuple[tuple[float, float], float, float]:
    """Centre, peak contrast and noise of a small bright or dark spot."""
    background = float(mean.median())
    noise = 1.4826 * float((mean - background).abs().median())
    deviation = mean - background
    peak = int(deviation.abs().argmax())
    cy, cx = divmod(peak, mean.shape[1])
    contrast = float(deviation.flatten()[peak])
    if abs(contrast) < 8 * noise or contrast == 0:
        found = f"a largest deviation of {contrast:.3g} in noise of {noise:.3g}"
        raise InputError("wire or bead", found, "a point that stands out", "Average more slices.")
    top = float((deviation * math.copysign(1.0, contrast) >= 0.999 * abs(contrast)).double().sum())
    if top >= 4:
        raise InputError("wire or bead", f"{top:.0f} pixels at its peak value: saturated", "one peak pixel",
                         "Use a thinner wire or a scan that is not clipped.")  # fmt: skip
    rows = torch.arange(mean.shape[0], dtype=torch.float64, device="cpu")[:, None]
    columns = torch.arange(mean.shape[1], dtype=torch.float64, device="cpu")[None]
    y, x = float(cy), float(cx)
    for _ in range(5):
        near = window_of(torch.hypot(rows - y, columns - x), 6.0, "hann")
        weight = deviation * near / contrast
        mass = float(weight.sum())
        y, x = float((rows * weight).sum()) / mass, float((columns * weight).sum()) / mass
    return (y, x), contrast, noise


def _disc_transform(frequency: Tensor, diameter: float) -> Tensor:
    x = math.pi * diameter * frequency
    return torch.where(x == 0, 1.0, 2 * torch.special.bessel_j1(x) / torch.where(x == 0, 1.0, x))
