"""The outline of an object from the edges of its shadow: a disc, or the hull that all views leave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.physics.corrections import noise_level
from retrodict.physics.geometry import FanBeam, ParallelBeam

__all__ = ["OUTLINES", "Disc", "Hull", "Shadow", "find_disc", "find_hull", "outline", "shadow"]

OUTLINES = ("disc", "hull")
"""Outlines by name."""

Scan = ParallelBeam | FanBeam


class Shadow(NamedTuple):
    """The rays that touch the object on both sides, `(views,)` each, as nx x + ny y = s; `level` made the edge."""

    first: tuple[Tensor, Tensor, Tensor]
    last: tuple[Tensor, Tensor, Tensor]
    level: float


def _grid(size: Sequence[int], spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """X and y of the pixels in mm, the middle at (0, 0)."""
    y, x = (
        (torch.arange(n, dtype=torch.float64, device="cpu") - (n - 1) / 2) * d
        for n, d in zip(size, spacing, strict=True)
    )
    return x[None, :], -y[:, None]


@dataclass(frozen=True)
class Disc:
    """A disc with its middle at (`x`, `y`) mm and its `radius`; `rms` mm is how far the tangents miss it."""

    x: float
    y: float
    radius: float
    rms: float = 0.0

    def mask(self, size: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """The pixels whose middle lies inside, `(ny, nx)` bool."""
        x, y = _grid(size, spacing)
        return (x - self.x) ** 2 + (y - self.y) ** 2 <= self.radius**2

    def lengths(self, scan: Scan) -> Tensor:
        """The chord of every ray in mm, `(views, bins)` float64."""
        nx, ny, s = scan.lines()
        return 2 * (self.radius**2 - (s - nx * self.x - ny * self.y) ** 2).clamp_min(0).sqrt()


@dataclass(frozen=True)
class Hull:
    """What no view excludes: the pixels between both tangents of every view, which contain the object."""

    shadow: Shadow

    def mask(self, size: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """The pixels whose middle lies inside, `(ny, nx)` bool."""
        x, y = _grid(size, spacing)
        inside = torch.ones(tuple(size), dtype=torch.bool, device="cpu")
        for (nx, ny, s), sign in ((self.shadow.first, 1.0), (self.shadow.last, -1.0)):
            for a, b, c in zip(nx.tolist(), ny.tolist(), s.tolist(), strict=True):
                inside &= sign * (a * x + b * y - c) >= 0
        return inside


def shadow(values: Tensor, scan: Scan, level: float | None = None) -> Shadow:
    """The edges of the shadow of line integrals `(views, bins)`: the outermost places where they pass `level`.

    Between two bins the place is that of the straight line.  The level is 5 % of the largest line integral, or five
    deviations of the noise where that is more, unless given.

    Raises `InputError` for views without a shadow, and for an object that leaves the field of view.
    """
    y = values.double().cpu()
    if y.shape != scan.shape:
        raise InputError("values", f"shape {tuple(y.shape)}", f"{scan.shape}, views and bins of the scan")
    if level is None:
        level = max(0.05 * float(y.max()), 5 * noise_level(y))
    dark = y > level
    if not bool(dark.any(1).all()):
        view = int(torch.nonzero(~dark.any(1))[0])
        raise InputError("level", f"no ray above {level:.4g} in view {view}", "a shadow in every view")
    left = dark.int().argmax(1)
    right = y.shape[1] - 1 - dark.flip(1).int().argmax(1)
    if int(left.min()) == 0 or int(right.max()) == y.shape[1] - 1:
        found = f"line integrals above {level:.4g} in the first or last bin"
        raise InputError("sinogram", found, "an object inside the field of view", "Its outline cannot be seen.")
    rows = torch.arange(len(y), device="cpu")

    def edge(inner: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        outer = inner + step
        high, low = y[rows, inner], y[rows, outer]
        share = (high - level) / (high - low)
        lines = [part[rows, inner] + share * (part[rows, outer] - part[rows, inner]) for part in scan.lines()]
        size = torch.hypot(lines[0], lines[1])  # between two rays of a fan the normal is shortened
        return lines[0] / size, lines[1] / size, lines[2] / size

    return Shadow(edge(left, -1), edge(right, 1), float(level))


def find_disc(values: Tensor, scan: Scan, level: float | None = None) -> Disc:
    """The disc whose tangents are the edges of the shadow: nx x + ny y -+ r = s by least squares over all views."""
    found = shadow(values, scan, level)
    rows, right = [], []
    for (nx, ny, s), sign in ((found.first, -1.0), (found.last, 1.0)):
        rows.append(torch.stack([nx, ny, torch.full_like(nx, sign)], 1))
        right.append(s)
    design, s = torch.cat(rows), torch.cat(right)
    solution = torch.linalg.lstsq(design, s[:, None]).solution[:, 0]
    rms = float((design @ solution - s).square().mean().sqrt())
    x, y, radius = solution.tolist()
    if not (math.isfinite(radius) and radius > 0):
        raise InputError("outline", f"a radius of {radius:.4g} mm", "a disc", "Use hull for other shapes.")
    return Disc(x, y, radius, rms)


def find_hull(values: Tensor, scan: Scan, level: float | None = None) -> Hull:
    """The convex hull that the shadows allow; of a limited angle it is larger than the object."""
    return Hull(shadow(values, scan, level))


def outline(kind: str, values: Tensor, scan: Scan, level: float | None = None) -> Disc | Hull:
    """An outline by name, of line integrals `(views, bins)`."""
    choice("outline", kind, OUTLINES)
    return find_disc(values, scan, level) if kind == "disc" else find_hull(values, scan, level)
