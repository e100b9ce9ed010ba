"""Rays through a volume: cone beams on a circle, and radiographs of a turned patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.geometry import check_angles

__all__ = ["ConeBeam", "Radiograph"]


@dataclass(frozen=True)
class _Views:
    """A flat detector of `bins` (rows, columns), `pitch` (dv, du) mm, seen by a point source or by parallel rays.

    `source` is the distance source to axis, `detector` source to detector, in mm; `offset` (v, u) shifts the detector;
    `center` (x, y, z) in mm is the point that everything turns round, in a volume whose middle is (0, 0, 0).
    """

    angles: tuple
    bins: tuple[int, int]
    pitch: tuple[float, float]
    source: float = 1000.0
    detector: float = 1500.0
    offset: tuple[float, float] = (0.0, 0.0)
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    parallel: bool = False

    def __post_init__(self) -> None:
        """Refuse angles in degrees, and lengths that are none."""
        name = type(self).__name__
        for field, size in (("bins", 2), ("pitch", 2), ("offset", 2), ("center", 3)):
            value = tuple(getattr(self, field))
            object.__setattr__(self, field, value)
            if len(value) != size or not all(map(math.isfinite, value)):
                raise InputError(f"{name} {field}", value, f"{size} numbers")
        if min(self.bins) < 1 or min(self.pitch) <= 0:
            raise InputError(f"{name} bins, pitch", (self.bins, self.pitch), "at least one bin, positive pitch in mm")
        if not self.parallel and not (0 < self.source <= self.detector < math.inf):
            found = f"source {self.source:g}, detector {self.detector:g}"
            raise InputError(
                f"{name} source, detector", found, "mm from the source: 0 < source (to the axis) <= detector"
            )

    @property
    def views(self) -> int:
        """Number of views."""
        return len(self.angles)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a stack of projections: (views, rows, columns)."""
        return self.views, *self.bins

    def subset(self, views: Sequence[int]) -> Self:
        """The same scan with only these views, by index, in this order."""
        if not views or not all(-self.views <= v < self.views for v in views):
            raise InputError("views", list(views)[:8], f"indices of {self.views} views")
        return replace(self, angles=tuple(self.angles[v] for v in views))

    def turns(self) -> Tensor:
        """Rotation of the scanner against the volume at every view, `(views, 3, 3)` float64, on (x, y, z)."""
        raise NotImplementedError

    def rays(self) -> tuple[Tensor, Tensor]:
        """A point on every ray and its unit direction, `(views, rows, columns, 3)` float64, (x, y, z) in mm.

        Before it is turned, the source stands at (0, source, 0), the detector opposite with its columns along x and its
        rows along z.
        """
        v, u = (
            (torch.arange(n, dtype=torch.float64, device="cpu") - (n - 1) / 2) * d + o
            for n, d, o in zip(self.bins, self.pitch, self.offset, strict=True)
        )
        v, u = torch.meshgrid(v, u, indexing="ij")
        if self.parallel:
            start = torch.stack([u, torch.zeros_like(u), v], -1)
            along = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64, device="cpu").expand_as(start)
        else:
            start = torch.tensor([0.0, self.source, 0.0], dtype=torch.float64, device="cpu").expand(*u.shape, 3)
            along = torch.stack([u, torch.full_like(u, -self.detector), v], -1)
            along = along / torch.linalg.vector_norm(along, dim=-1, keepdim=True)
        center = torch.tensor(self.center, dtype=torch.float64, device="cpu")
        turned = [torch.einsum("vab,rcb->vrca", self.turns(), part) for part in (start, along)]
        return turned[0] + center, turned[1]

    def check_source(self, reach: float) -> None:
        """Refuse a source inside the volume, which reaches `reach` mm from its middle."""
        if not self.parallel and self.source - math.hypot(*self.center) <= reach:
            expected = f"more than the {reach:.4g} mm from the middle of the volume to its corner"
            raise InputError(f"{type(self).__name__} source", f"{self.source:g} mm from the axis", expected)


@dataclass(frozen=True)
class ConeBeam(_Views):
    """A source on a circle round z: `angles` b in radians, the source at `source` (-sin b, cos b, 0) from the axis.

    The middle row of the detector is a `FanBeam` of the same distances.
    """

    def __post_init__(self) -> None:
        """Refuse angles in degrees."""
        object.__setattr__(self, "angles", check_angles("ConeBeam", self.angles))
        super().__post_init__()

    def turns(self) -> Tensor:
        """Turns round z by b."""
        return _turn(torch.tensor([(0.0, 0.0, b) for b in self.angles], dtype=torch.float64, device="cpu"))


@dataclass(frozen=True)
class Radiograph(_Views):
    """Digitally reconstructed radiographs of a patient turned by R = Rz(c) Ry(b) Rx(a) round `center`.

    `angles` holds (a, b, c) in radians for every view; (0, 0, 0) looks along -y.  Source to axis 1000 mm and source to
    detector 1500 mm unless given; `parallel=True` for rays without perspective.
    """

    def __post_init__(self) -> None:
        """Refuse poses that are not three angles in radians."""
        poses = tuple(tuple(p) if isinstance(p, Sequence) else (p,) for p in self.angles)
        if not poses or any(len(p) != 3 for p in poses):
            raise InputError("Radiograph angles", str(self.angles)[:80], "three angles (about x, y, z) for every view")
        flat = check_angles("Radiograph", [a for p in poses for a in p])
        object.__setattr__(self, "angles", tuple(flat[i : i + 3] for i in range(0, len(flat), 3)))
        super().__post_init__()

    def turns(self) -> Tensor:
        """R^T: the volume turned by R is the scanner turned back."""
        return _turn(torch.tensor(self.angles, dtype=torch.float64, device="cpu")).mT


def _turn(angles: Tensor) -> Tensor:
    """Rz(c) Ry(b) Rx(a) of angles `(n, 3)`: `(n, 3, 3)` on (x, y, z), counter-clockwise."""
    turn = torch.eye(3, dtype=torch.float64, device="cpu").expand(len(angles), 3, 3)
    for axis, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        one = torch.eye(3, dtype=torch.float64, device="cpu").repeat(len(angles), 1, 1)
        cos, sin = angles[:, axis].cos(), angles[:, axis].sin()
        one[:, i, i], one[:, j, j], one[:, i, j], one[:, j, i] = cos, cos, -sin, sin
        turn = one @ turn
    return turn
