"""Where the rays of a tomograph run: parallel and fan beams, angles in radians, lengths in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from retrodict._check import InputError

__all__ = ["FanBeam", "ParallelBeam", "check_angles", "even_angles", "golden_angles"]


def even_angles(views: int, span: float = math.pi, start: float = 0.0) -> tuple[float, ...]:
    """`views` angles start + k span / views in radians, the end left out.

    span = pi (parallel) or 2 pi (fan) is a full scan, few views of it a sparse one, less than it a limited one.
    """
    if views < 1 or not 0 < abs(span) <= 2 * math.pi:
        raise InputError("views, span", (views, span), "at least one view, and a span of at most 2 pi radians")
    return tuple(start + k * span / views for k in range(views))


def golden_angles(views: int, start: float = 0.0) -> tuple[float, ...]:
    """`views` angles a golden section of pi apart, modulo pi: any run of them covers the half circle nearly evenly."""
    step = math.pi * (math.sqrt(5) - 1) / 2
    return tuple((start + k * step) % math.pi for k in range(views))


def check_angles(name: str, given: Sequence[float]) -> tuple[float, ...]:
    """The angles of a scan as numbers, if they can be radians."""
    angles = tuple(float(a) for a in given)
    if not angles or not all(map(math.isfinite, angles)):
        raise InputError(f"{name} angles", f"{len(angles)} angles, or one that is no number", "at least one, finite")
    widest = max(map(abs, angles))
    if widest > 4 * math.pi or (widest > 2 * math.pi + 1e-9 and all(a == round(a) for a in angles)):
        hint = "Degrees are turned by math.radians; more than two turns by angle % (2 * math.pi)."
        raise InputError(f"{name} angles", f"an angle of {widest:g}", "radians, at most two turns", hint)
    return angles


@dataclass(frozen=True)
class _Beam:
    """What every scan has: its views and its row of detectors."""

    angles: tuple[float, ...]
    bins: int
    pitch: float
    offset: float = 0.0
    center: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Refuse angles in degrees, and lengths that are none."""
        object.__setattr__(self, "angles", check_angles(type(self).__name__, self.angles))
        object.__setattr__(self, "center", tuple(float(c) for c in self.center))
        name = type(self).__name__
        if self.bins < 1 or not (math.isfinite(self.pitch) and self.pitch > 0):
            raise InputError(
                f"{name} bins, pitch", (self.bins, self.pitch), "at least one bin, of positive pitch in mm"
            )
        if not all(map(math.isfinite, (self.offset, *self.center))) or len(self.center) != 2:
            raise InputError(f"{name} offset, center", (self.offset, self.center), "mm, and a pair (x, y) in mm")

    @property
    def views(self) -> int:
        """Number of angles."""
        return len(self.angles)

    @property
    def shape(self) -> tuple[int, int]:
        """Of a sinogram: (views, bins)."""
        return self.views, self.bins

    def subset(self, views: Sequence[int]) -> Self:
        """The same scan with only these views, by index, in this order."""
        if not views or not all(-self.views <= v < self.views for v in views):
            raise InputError("views", list(views)[:8], f"indices of {self.views} views")
        return replace(self, angles=tuple(self.angles[v] for v in views))

    def subsets(self, count: int) -> list[list[int]]:
        """Indices of `count` interleaved subsets, k, k + count, ...: the order of ordered-subset methods."""
        if not 1 <= count <= self.views:
            raise InputError("subsets", count, f"1 to {self.views}, the number of views")
        return [list(range(k, self.views, count)) for k in range(count)]

    def positions(self) -> Tensor:
        """Middle of every bin along the detector in mm, `(bins,)`: (j - (bins - 1) / 2) pitch + offset."""
        at = torch.arange(self.bins, dtype=torch.float64, device="cpu")
        return (at - (self.bins - 1) / 2) * self.pitch + self.offset

    def _turn(self) -> tuple[Tensor, Tensor]:
        beta = torch.tensor(self.angles, dtype=torch.float64, device="cpu")[:, None]
        return beta.cos(), beta.sin()

    def lines(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every ray as nx x + ny y = s with a unit normal: nx, ny, s `(views, bins)` float64, s in mm.

        x grows with the column and y against the row of an image whose middle is (0, 0).
        """
        raise NotImplementedError

    def check_source(self, reach: float) -> None:
        """Refuse a source inside the object, which reaches `reach` mm from the middle of the image."""


@dataclass(frozen=True)
class ParallelBeam(_Beam):
    """Parallel rays x cos(a) + y sin(a) = s: `angles` a in radians, `bins` detectors of `pitch` mm.

    `offset` (mm) shifts the detector along s; `center` (x, y) in mm is the axis of rotation in the image, whose middle
    is (0, 0).  As in scikit-image, x grows with the column and y against the row.
    """

    def lines(self) -> tuple[Tensor, Tensor, Tensor]:
        """Normals (cos a, sin a) and s, as in the base class."""
        cos, sin = (v.expand(self.shape) for v in self._turn())
        return cos, sin, self.positions() + cos * self.center[0] + sin * self.center[1]


@dataclass(frozen=True)
class FanBeam(_Beam):
    """Rays of a point source: at angle b it stands at `source` (-sin b, cos b) from the axis, the detector opposite.

    `source` is the distance source to axis and `detector` source to detector, in mm; the detector is flat, along
    (cos b, sin b), or `curved`, an arc round the source, and `pitch` and `offset` are lengths on it.  With a source far
    away a ray is that of `ParallelBeam` at the same angle, its pitch times source / detector.
    """

    source: float = math.nan
    detector: float = math.nan
    curved: bool = False

    def __post_init__(self) -> None:
        """Refuse distances that are none."""
        super().__post_init__()
        if not (0 < self.source < math.inf and self.source <= self.detector < math.inf):
            found = f"source {self.source:g}, detector {self.detector:g}"
            expected = "distances from the source in mm: 0 < source (to the axis) <= detector"
            raise InputError("FanBeam source, detector", found, expected)
        if self.curved and float(self.fan().abs().max()) >= math.pi / 2:
            raise InputError(
                "FanBeam pitch",
                f"a fan of {math.degrees(float(self.fan().abs().max())):.0f} degrees to one side",
                "less than 90",
            )

    def fan(self) -> Tensor:
        """Angle of every ray against the middle one, `(bins,)` radians."""
        arc = self.positions() / self.detector
        return arc if self.curved else torch.atan(arc)

    def lines(self) -> tuple[Tensor, Tensor, Tensor]:
        """A ray at fan angle g is the parallel one at b + g, s = source sin(g): from the source, turned by g."""
        gamma = self.fan().expand(self.shape)
        beta = torch.tensor(self.angles, dtype=torch.float64, device="cpu")[:, None]
        cos, sin = (beta + gamma).cos(), (beta + gamma).sin()
        return cos, sin, self.source * gamma.sin() + cos * self.center[0] + sin * self.center[1]

    def check_source(self, reach: float) -> None:
        """Refuse a source inside the object, which reaches `reach` mm from the middle of the image."""
        if self.source - math.hypot(*self.center) <= reach:
            expected = f"more than the {reach:.4g} mm from the middle of the image to its corner"
            raise InputError("FanBeam source", f"{self.source:g} mm from the axis", expected)
