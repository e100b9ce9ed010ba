"""Power of the patches of an image in rings of spatial frequency: what a likelihood of its blur and noise looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._arrays import double
from retrodict.metrics.frequency import Spacing, _pair

__all__ = ["PatchPower", "patch_power"]


HANN = 18 / 35
"""Independent share of the samples of a Hann window along an axis: ratio of its moments, (3/8)^2 / (35/128)."""


OVERLAP = 1 / (1 + 2 / 36)
"""Independent share, along an axis, of Hann windows that overlap by a half, whose squared correlation is 1/36."""


LOWEST_RING = 2
"""Rings below hold what leaks from the level and the slope of a patch, even under a window."""


MOST_FLAT = 0.02
"""Share of pixels at an extreme of the image, or equal to all their neighbours, from which a patch is left out."""


@dataclass(frozen=True)
class PatchPower:
    """Power density (unit^2 mm^2) of overlapping patches under a Hann window, averaged over rings of |f|.

    `power` `(P, K)`; `frequency` `(K,)` in cycles/mm; `freedom` `(K,)`: independent real degrees behind a ring of one
    patch; `bins` `(K,)`: coefficients of the plane that it holds; `place` `(P, 3)`: slice, first row and column;
    `mean` `(P,)`: mean of the patch; `sectors` `(P, 4)`: power along columns, rows and the two diagonals (any unit).
    `flat`: share of the patches that were left out because they are clipped, filled or constant.
    """

    power: Tensor
    frequency: Tensor
    freedom: Tensor
    bins: Tensor
    place: Tensor
    mean: Tensor
    sectors: Tensor
    size: int
    spacing: tuple[float, float]
    flat: float


def patch_power(stack: Tensor, spacing: Spacing, size: int = 32, flat: Tensor | None = None) -> PatchPower:
    """Rings of the periodogram of every patch of `size` pixels, half overlapping, of slices (Z, H, W).

    P(f) = dy dx |FFT(w (x - mean))|^2 / sum w^2, w a Hann window.  `flat` (Z, H, W) marks pixels that carry no noise
    (clipped, padded, constant); patches with more than 2 % of them are left out.  Raises `InputError` for images
    smaller than a patch, odd sizes, and images of which no patch is left.
    """
    x = double("image", stack)
    dy, dx = _pair(spacing)
    if x.ndim != 3:
        raise InputError("image", f"shape {tuple(x.shape)}", "slices (Z, H, W)")
    if size % 2 or size < 8 or size > min(x.shape[-2:]):
        raise InputError("image", f"{x.shape[-2]} x {x.shape[-1]} pixels", f"at least {size} x {size}")
    dull = torch.zeros_like(x, dtype=torch.bool) if flat is None else flat
    tiles = _unfolded(x, size)
    share = _unfolded(dull.double(), size).mean((-2, -1))
    kept = share <= MOST_FLAT
    if not bool(kept.any()):
        raise InputError("image", "clipped, filled or constant pixels in every patch", "places that carry noise")
    tiles = tiles[kept]
    window = torch.hann_window(size, periodic=True, dtype=torch.float64, device="cpu")
    window = window[:, None] * window
    mean = (tiles * window).sum((-2, -1)) / window.sum()
    energy = torch.fft.fft2((tiles - mean[:, None, None]) * window).abs().square()
    energy = energy * (dy * dx / float(window.square().sum()))
    ring = _ring_numbers(size, dy, dx)
    inside = ring >= LOWEST_RING
    bins = torch.bincount(ring[inside])[LOWEST_RING:].double()
    total = torch.zeros(len(tiles), len(bins), dtype=torch.float64, device="cpu")
    total.index_add_(1, ring[inside] - LOWEST_RING, energy[:, inside])
    radius = _radius(size, dy, dx)
    frequency = torch.zeros_like(bins).index_add_(0, ring[inside] - LOWEST_RING, radius[inside]) / bins
    grid = torch.cartesian_prod(*(torch.arange(n, device="cpu") for n in _counts(x, size)))
    place = torch.stack([grid[:, 0], grid[:, 1] * (size // 2), grid[:, 2] * (size // 2)], 1)[kept.flatten()]
    return PatchPower(
        power=total / bins,
        frequency=frequency,
        freedom=bins * (HANN * OVERLAP) ** 2,
        bins=bins,
        place=place,
        mean=mean,
        sectors=_sectors(energy, size, dy, dx),
        size=size,
        spacing=(dy, dx),
        flat=float(1 - kept.double().mean()),
    )


def _counts(x: Tensor, size: int) -> tuple[int, int, int]:
    return x.shape[0], *((n - size) // (size // 2) + 1 for n in x.shape[1:])  # type: ignore[return-value]


def _unfolded(x: Tensor, size: int) -> Tensor:
    return x.unfold(1, size, size // 2).unfold(2, size, size // 2)


def _radius(size: int, dy: float, dx: float) -> Tensor:
    fy, fx = (torch.fft.fftfreq(size, d, dtype=torch.float64, device="cpu") for d in (dy, dx))
    return torch.hypot(fy[:, None], fx[None, :])


def _ring_numbers(size: int, dy: float, dx: float) -> Tensor:
    """Ring of every coefficient, of the width of the coarser axis; the last rings are the corners of the plane."""
    width = 1 / (size * min(dy, dx))
    ring = (_radius(size, dy, dx) / width).round().long()
    return ring.clamp(max=round(0.7 * size))  # the outermost corner bins count with their neighbours


def _sectors(energy: Tensor, size: int, dy: float, dx: float) -> Tensor:
    """Power `(P, 4)` along columns, rows and the two diagonals, between a fifth and the whole of Nyquist."""
    fy, fx = (torch.fft.fftfreq(size, d, dtype=torch.float64, device="cpu") for d in (dy, dx))
    angle = torch.atan2(fy[:, None].expand(size, size), fx[None, :].expand(size, size))
    nyquist, radius = 0.5 / max(dy, dx), _radius(size, dy, dx)
    ring = (radius > 0.2 * nyquist) & (radius <= nyquist)
    out = []
    for centre in (torch.pi / 2, 0.0, torch.pi / 4, -torch.pi / 4):
        away = torch.remainder(angle - centre + torch.pi / 2, torch.pi) - torch.pi / 2
        out.append(energy[:, ring & (away.abs() < torch.pi / 8)].mean(1))
    return torch.stack(out, 1)
