"""Tomography in three dimensions: line integrals of a volume by Joseph's method, cone beams and radiographs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.operator import Operator, Space
from retrodict.physics.radon import integrated
from retrodict.physics.rays import RayMatrix, Weights, back_projection, compressed, integrals
from retrodict.physics.views import ConeBeam, Radiograph

__all__ = ["Projection", "attenuation"]

WATER = 0.02
"""Attenuation of water in 1/mm at about 70 keV."""


def attenuation(hu: Tensor, water: float = WATER) -> Tensor:
    """Attenuation mu = water (1 + HU / 1000) in 1/mm, not below 0; `water` is that of water at the mean energy."""
    return (water * (1 + hu / 1000)).clamp_min(0)


@dataclass(frozen=True)
class _Rays:
    """Rays on a grid: at step i < `steps` a ray is at slope i + first along the two other axes.

    `slope` and `first` `(n, 2)`, `across` and `other` (pixels and stride of those axes) `(n, 2)`, the rest `(n,)`.
    """

    slope: Tensor
    first: Tensor
    length: Tensor
    steps: Tensor
    stride: Tensor
    across: Tensor
    other: Tensor

    def part(self, start: int, stop: int) -> _Rays:
        """Some of the rays."""
        return _Rays(*(getattr(self, name)[start:stop] for name in self.__dataclass_fields__))


class _Joseph3(Weights):
    """Joseph's weights in a volume `(nz, ny, nx)`: steps along one axis, bilinear between the pixels of its plane."""

    taps = 4

    def rows(self, point: Tensor, along: Tensor) -> _Rays:
        """Of rays through points `(n, 3)` in unit directions, (x, y, z) in mm; the middle of the volume is 0."""
        spacing = torch.tensor(self.spacing, dtype=torch.float64, device="cpu")
        size = torch.tensor(self.size, dtype=torch.int64, device="cpu")
        sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64, device="cpu")  # y runs against the rows
        index = point.flip(-1) * sign / spacing + (size - 1) / 2
        slope = along.flip(-1) * sign / spacing
        axis = slope.abs().argmax(-1, keepdim=True)
        rest = torch.tensor([[1, 2], [0, 2], [0, 1]], device="cpu")[axis[:, 0]]
        main = slope.gather(1, axis)
        slopes = slope.gather(1, rest) / main
        firsts = index.gather(1, rest) - slopes * index.gather(1, axis)
        stride = torch.tensor([self.size[1] * self.size[2], self.size[2], 1], device="cpu")
        flat = axis[:, 0]
        return _Rays(slopes, firsts, 1 / main[:, 0].abs(), size[flat], stride[flat], size[rest], stride[rest])

    def some(self, rows: _Rays) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of a few rays."""
        most = max(self.size)
        at = torch.arange(most, dtype=torch.float64, device="cpu")
        place = rows.first[:, None] + rows.slope[:, None] * at[:, None]
        low = place.floor()
        high = place - low
        inside = (torch.arange(most, device="cpu") < rows.steps[:, None])[..., None]
        pixel = (torch.arange(most, device="cpu") * rows.stride[:, None])[..., None]
        weight = rows.length[:, None, None]
        taps = list(itertools.product(range(2), repeat=2))
        weights, pixels, known = [], [], []
        for tap in taps:
            w, p, ok = weight[..., 0], pixel[..., 0], inside[..., 0]
            for a, step in enumerate(tap):
                k = low[..., a].long() + step
                w = w * (high[..., a] if step else 1 - high[..., a])
                p = p + k * rows.other[:, None, a]
                ok = ok & (k >= 0) & (k < rows.across[:, None, a])
            weights.append(w)
            pixels.append(p)
            known.append(ok & (w > 0))
        return compressed(torch.stack(known, -1), torch.stack(pixels, -1).int(), torch.stack(weights, -1))


class Projection(Operator):
    """p = integral of f along every ray of a `ConeBeam` or `Radiograph`.

    Volumes `(C, nz, ny, nx)` to projections `(C, views, rows, columns)`.  f in 1/mm gives p without unit; a radiograph
    is I0 exp(-p).  `spacing` (dz, dy, dx) in mm; the middle of the volume is (0, 0, 0), x grows with the column, y
    against the row, z with the slice.  Joseph's method with the exact transpose.  For volumes of modest size: weights
    are kept if they fit into `memory` bytes, otherwise computed at every use.

    Raises `InputError` for a grid that is none, or a source inside the volume.
    """

    def __init__(
        self,
        size: Sequence[int],
        geometry: ConeBeam | Radiograph,
        *,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        channels: int = 1,
        unit: str = "1/mm",
        memory: float = 2e9,
    ) -> None:
        if len(size) != 3 or len(spacing) != 3:
            raise InputError("Projection size, spacing", (tuple(size), tuple(spacing)), "three numbers, slices first")
        if not isinstance(geometry, ConeBeam | Radiograph):
            raise InputError("geometry", type(geometry).__name__, "a ConeBeam or a Radiograph")
        self.domain = Space((channels, *size), unit, spacing=tuple(spacing))
        self.range = Space((channels, *geometry.shape), integrated(unit), spacing=geometry.pitch)
        self.geometry, self.memory = geometry, memory
        geometry.check_source(0.5 * math.hypot(*(n * d for n, d in zip(size, spacing, strict=True))))
        joseph = _Joseph3(self.domain.shape[1:], self.domain.spacing)
        point, along = (part.reshape(-1, 3) for part in geometry.rays())
        self._matrix = RayMatrix(joseph, joseph.rows(point, along), len(point), memory)

    @property
    def about(self) -> Mapping[str, Any]:
        """Views, detector, and whether the weights are kept."""
        return {
            "geometry": type(self.geometry).__name__,
            "views": self.geometry.views,
            "bins": list(self.geometry.bins),
            "weights": self._matrix.weights,
            "kept": self._matrix.kept(torch.float32),
        }

    def subset(self, views: Sequence[int]) -> Projection:
        """The operator of some of the views."""
        d = self.domain
        options: dict[str, Any] = {"spacing": d.spacing, "channels": d.shape[0], "unit": d.unit, "memory": self.memory}
        return Projection(d.shape[1:], self.geometry.subset(views), **options)

    def _forward(self, x: Tensor) -> Tensor:
        return integrals(x.flatten(0, 1), self._matrix).reshape(len(x), *self.range.shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return back_projection(y.flatten(2).flatten(0, 1), self._matrix).reshape(len(y), *self.domain.shape)
