"""Task transfer function at the rim of a disc."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from retrodict._check import InputError, choice
from retrodict.metrics._edge_spread import Edge, resolve
from retrodict.metrics._resolution import Resolution, Window, slices, square_pixel
from retrodict.metrics.frequency import Spacing

__all__ = ["circular_edge_mtf"]


def circular_edge_mtf(
    image: Tensor,
    spacing: Spacing,
    *,
    radius: float | None = None,
    oversampling: int = 4,
    half_width: float | None = None,
    window: Window = "auto",
    bootstrap: int = 200,
    seed: int = 0,
) -> Resolution:
    """Task transfer function at the rim of a disc insert in an image (H, W) or in slices (S, H, W) of it.

    Edge spread from distances to the center (Richard et al., Med. Phys. 39, 2012), binned as in `edge_mtf`.  The center
    is the centroid of the insert over its background, refined on the mean slice; `radius` (mm) None is estimated.
    Slow shading of the background and of the insert is taken off as in `edge_mtf`.  Bands: Bayesian bootstrap over
    sectors of at least 8 px of the rim, which slices share.  Many slices are needed at low contrast.
    """
    choice("window", window, ("auto", "hann", "tukey"))
    pixel = square_pixel(spacing)
    x = slices(image)
    center, r0 = _disc(x.mean(0), None if radius is None else radius / pixel)
    _same_radius(x, r0)
    rows = torch.arange(x.shape[1], dtype=torch.float64, device="cpu")[:, None] - center[0]
    columns = torch.arange(x.shape[2], dtype=torch.float64, device="cpu")[None] - center[1]
    distance = torch.hypot(rows, columns) - r0
    room = min(center[0], center[1], x.shape[1] - 1 - center[0], x.shape[2] - 1 - center[1]) - r0
    half = min(32.0, math.floor(min(room, r0 - 1))) if half_width is None else half_width
    if half < 4 or half > min(room, r0):
        found = f"{room:.1f} px outside and {r0:.1f} px inside the rim"
        raise InputError("insert", found, f"at least {max(half, 4):g} px on both sides", "Use a larger region.")
    sectors = min(36, max(8, int(2 * math.pi * (r0 - half / 2) / 8)))
    sector = (torch.atan2(rows, columns) / (2 * math.pi) * sectors).floor().long() % sectors
    grid = torch.stack(
        torch.meshgrid(torch.arange(x.shape[1], device="cpu"), torch.arange(x.shape[2], device="cpu"), indexing="ij"),
        -1,
    )
    inside = distance.abs() <= half + 2
    shared = (v[inside].repeat(len(x), *[1] * (v.ndim - 2)) for v in (distance, sector, grid))
    spread, unit, place = shared
    edge = Edge(spread, x[:, inside].flatten(), unit, place, half, oversampling, window)
    details = {"kind": "circular edge", "center_px": list(center), "radius_mm": r0 * pixel, "slices": len(x)}
    return resolve(edge, pixel, bootstrap, seed, details)


def _disc(mean: Tensor, radius: float | None) -> tuple[tuple[float, float], float]:
    """Centre (row, column) and radius in px of a disc on a uniform background."""
    height, width = mean.shape
    border = torch.cat([mean[:3].flatten(), mean[-3:].flatten(), mean[:, :3].flatten(), mean[:, -3:].flatten()])
    background, noise = float(border.median()), float(border.std())
    # the level of the insert from its middle: the center of a region holds the insert
    core = mean[height // 2 - height // 10 : height // 2 + height // 10 + 1,
                width // 2 - width // 10 : width // 2 + width // 10 + 1]  # fmt: skip
    contrast = float(core.median()) - background
    if abs(contrast) < 4 * max(noise, 1e-300) / math.sqrt(core.numel()) + 1e-12 or abs(contrast) < noise:
        found = f"a contrast of {contrast:.3g} in noise of {noise:.3g}"
        raise InputError("insert", found, "a disc that stands out from its background in the mean of all slices",
                         "Average more slices, or center the region on the insert.")  # fmt: skip
    rows = torch.arange(height, dtype=torch.float64, device="cpu")[:, None]
    columns = torch.arange(width, dtype=torch.float64, device="cpu")[None]
    smooth = F.avg_pool2d(F.pad(mean[None, None], (2, 2, 2, 2), mode="replicate"), 5, 1)[0, 0]
    level = ((smooth - background) / contrast).clamp(0, 1)
    inside = _connected(level > 0.5)
    area = float(inside.double().sum())
    if area < 30 or area > 0.7 * inside.numel():
        raise InputError("insert", f"{area:.0f} px at its level", "a disc within the region", "Check the region.")
    r = math.sqrt(area / math.pi) if radius is None else radius
    cy, cx = float((rows * inside).sum() / area), float((columns * inside).sum() / area)
    for _ in range(3):  # centroid of the mean within 1.5 radii: no bias from a threshold
        near = (torch.hypot(rows - cy, columns - cx) < 1.4 * r).double()
        weight = ((mean - background) / contrast) * near
        mass = float(weight.sum())
        cy, cx = float((rows * weight).sum()) / mass, float((columns * weight).sum()) / mass
    extent = torch.stack([(rows - cy).square() * inside, (columns - cx).square() * inside]).sum((-2, -1)) / area
    if float(extent.max() / extent.min()) > 1.3:
        raise InputError("insert", "a shape that is not round", "a circular insert", "Use a straight edge instead.")
    return (cy, cx), r


def _same_radius(x: Tensor, r0: float) -> None:
    """Refuse slices of a sphere or cone: their rim moves from slice to slice, which the mean would blur."""
    for i, s in enumerate(x if len(x) > 1 else x[:0]):
        try:
            r = _disc(s, None)[1]
        except InputError:  # too noisy alone: nothing can be said
            continue
        if abs(r - r0) > max(1.0, 0.03 * r0):
            found = f"a radius of {r:.1f} px in slice {i} of the range and {r0:.1f} px in their mean"
            hint = "A sphere is sharp at its equator only: give that one slice."
            raise InputError("insert", found, "a cylinder, with the same rim in all slices", hint)


def _connected(mask: Tensor) -> Tensor:
    """The part of a mask (H, W) that is connected to its middle."""
    seed = torch.zeros_like(mask)
    seed[mask.shape[0] // 2, mask.shape[1] // 2] = True
    while True:
        grown = (F.max_pool2d(seed[None].double(), 3, 1, 1)[0] > 0) & mask
        if bool((grown == seed).all()):
            return seed
        seed = grown
