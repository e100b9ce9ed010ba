"""MTF across a straight, slanted edge."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from retrodict._check import InputError, choice
from retrodict.metrics._edge_spread import Edge, resolve
from retrodict.metrics._resolution import Resolution, Window, slices, square_pixel
from retrodict.metrics.frequency import Spacing

__all__ = ["edge_mtf"]


def edge_mtf(
    image: Tensor,
    spacing: Spacing,
    *,
    oversampling: int = 4,
    half_width: float | None = None,
    window: Window = "auto",
    bootstrap: int = 200,
    seed: int = 0,
) -> Resolution:
    """MTF across a straight edge in an image (H, W) or in slices of the same edge (S, H, W).

    After ISO 12233: (1) derivative along rows, (2) edge of each row from the smoothed derivative, robust line,
    (3) three refinements of windowed centroids around the line, (4) slow shading taken off, (5) signed distances
    binned at 1/`oversampling` px, (6) central difference, (7) window of half width h px,
    (8) |DFT| / [sinc(2 f/over) sinc(f/over)].
    Shading, where there is any beyond chance, is a plane or quadratic surface beside the edge, fitted with the step.
    `half_width` None takes the widest window up to 32 px; window "auto" is Hann where that is wide enough, else Tukey
    (flat over 3/4 of the width: less bias, more noise).  The edge must be 1-45 degrees off a pixel axis, and the tilt
    must sample it finely: at slopes like 1/2 or 1/1 the rows repeat one another.  Bands: Bayesian bootstrap over blocks
    of rows, which slices share, so that neither neighboring rows nor overlapping slices count as independent; the fit
    of the shading is repeated in every draw.  Spacing must be square.

    Raises `InputError` for what is no edge: rows that do not agree on a line, a contrast lost in the noise, clipped
    sides, an angle out of range, or a window too narrow for the spread found (bias above 1 %; spec: h > 22 sigma).
    """
    choice("window", window, ("auto", "hann", "tukey"))
    pixel = square_pixel(spacing)
    x = slices(image)
    if _across(x) < 0:
        x = x.transpose(-1, -2)
    found = [_straight(s) for s in x]  # (intercept, slope): column of the edge at row r is intercept + slope r
    angle = math.degrees(math.atan(sum(slope for _, slope in found) / len(found)))
    if not 1 <= abs(angle) <= 46:
        hint = "Tilt the edge by 2 to 10 degrees: without a tilt there is no sampling finer than a pixel."
        raise InputError("edge", f"an angle of {angle:.2f} degrees to the pixel axis", "1 to 45 degrees", hint)
    distance, place = _distances(x, found)
    half = _half_width(x, found, half_width)
    inside = distance.abs() <= half + 2
    _sampled(distance[inside], angle, oversampling)
    block = _blocks(x.shape[-2])[place[inside][:, 0]]
    edge = Edge(distance[inside], x.flatten()[inside], block, place[inside], half, oversampling, window)
    details = {"kind": "edge", "angle_degrees": angle, "rows": x.shape[-2] * len(x), "slices": len(x)}
    return resolve(edge, pixel, bootstrap, seed, details)


def _blocks(rows: int) -> Tensor:
    """Number of the block of every row: about 8 rows each, so that colored noise makes blocks that are independent."""
    count = min(rows, max(8, min(32, rows // 8)))
    return torch.arange(rows, device="cpu") * count // rows


def _sampled(distance: Tensor, angle: float, oversampling: int) -> None:
    """Refuse an angle at which the pixel grid leaves gaps in the edge spread (slopes 1/1, 1/2, ... or too few rows)."""
    near = distance[distance.abs() < 4].sort().values
    gap = float(near.diff().max()) if len(near) > 1 else math.inf
    if gap > 1.2 / oversampling:
        found = f"an angle of {angle:.2f} degrees, at which the pixels sample the edge only every {gap:.2f} px"
        hint = "Tilt the edge by another angle (2 to 10 degrees), or use more rows."
        raise InputError("edge", found, f"steps of at most {1.2 / oversampling:.2f} px", hint)


def _across(x: Tensor) -> float:
    """Positive where the mean slice changes more along columns than along rows."""
    mean = x.mean(0)
    smooth = F.avg_pool2d(mean[None], 5, 1)[0]
    return float(smooth.diff(dim=1).abs().mean() - smooth.diff(dim=0).abs().mean())


def _straight(image: Tensor) -> tuple[float, float]:
    """(intercept, slope) of the edge of one slice (H, W): robust line, then windowed centroids."""
    height, width = image.shape
    slope_sign = 1.0 if float(image[:, -width // 4 :].mean() - image[:, : width // 4].mean()) > 0 else -1.0
    derivative = slope_sign * _central(image)
    smooth = F.avg_pool2d(F.pad(derivative[None, None], (2, 2, 4, 4), mode="replicate"), (9, 5), 1)[0, 0]
    rows = torch.arange(height, dtype=torch.float64, device="cpu")
    place = smooth.argmax(1).double()
    kept = torch.ones(height, dtype=torch.bool, device="cpu")
    intercept, slope = _line(rows, place)
    for _ in range(3):
        residual = (place - intercept - slope * rows).abs()
        mad = float(residual[kept].median()) * 1.4826
        kept = residual <= min(max(3 * mad, 1.0), max(3.0, 0.05 * width))  # rows of noise alone agree on nothing
        intercept, slope = _line(rows[kept], place[kept])
    if float(kept.double().mean()) < 0.6 or height < 16:
        share = float(kept.double().mean())
        found = f"rows of which only {share:.0%} agree on where the edge is"
        raise InputError("edge", found, "one straight edge through all rows", "Choose a region with one edge in it.")
    columns = torch.arange(width, dtype=torch.float64, device="cpu")
    half = min(16.0, width / 2 - 2)
    for _ in range(3):
        offset = columns[None] - (intercept + slope * rows)[:, None]
        taper = torch.where(offset.abs() < half, torch.cos(math.pi * offset / (2 * half)) ** 2, 0.0)
        mass = (derivative * taper).sum(1)
        good = kept & (mass > 0.2 * float(mass[kept].median()))
        center = (derivative * taper * columns).sum(1) / torch.where(mass == 0, 1.0, mass)
        intercept, slope = _line(rows[good], center[good])
    return intercept, slope


def _central(image: Tensor) -> Tensor:
    out = torch.zeros_like(image)
    out[:, 1:-1] = 0.5 * (image[:, 2:] - image[:, :-2])
    return out


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    mx, my = x.mean(), y.mean()
    slope = float(((x - mx) * (y - my)).sum() / (x - mx).square().sum().clamp_min(1e-300))
    return float(my - slope * mx), slope


def _distances(x: Tensor, lines: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Signed distance to the line in px (n,), and row and column (n, 2) of every pixel, slice after slice."""
    count, height, width = x.shape
    rows = torch.arange(height, dtype=torch.float64, device="cpu")[:, None]
    columns = torch.arange(width, dtype=torch.float64, device="cpu")[None]
    parts = [(columns - (a + b * rows)) / math.sqrt(1 + b * b) for a, b in lines]
    grid = torch.stack(
        torch.meshgrid(torch.arange(height, device="cpu"), torch.arange(width, device="cpu"), indexing="ij"), -1
    )
    return torch.stack(parts).flatten(), grid[None].expand(count, -1, -1, -1).reshape(-1, 2)


def _half_width(x: Tensor, lines: list[tuple[float, float]], wanted: float | None) -> float:
    """Half width of the window in px: as wide as the region allows on both sides of the edge, at most 32."""
    width, last = x.shape[-1], x.shape[-2] - 1
    room = min(min(a + b * r, width - 1 - a - b * r) for a, b in lines for r in (0, last))
    if wanted is not None:
        if wanted > room:
            raise InputError("half width", f"{wanted:g} px", f"at most {room:.0f} px, the room beside the edge")
        return wanted
    if room < 6:
        raise InputError("edge", f"{room:.1f} px beside it", "at least 6 px on both sides", "Use a wider region.")
    return min(32.0, math.floor(room))
