"""Tomography in two dimensions: line integrals of an image by Joseph's method, parallel and fan beams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.geometry import FanBeam, ParallelBeam
from retrodict.physics.operator import Operator, Space
from retrodict.physics.rays import Joseph, RayMatrix, back_projection, integrals

__all__ = ["Radon", "integrated"]


def integrated(unit: str) -> str:
    """The unit of a line integral in mm of values in `unit`."""
    return "1" if unit == "1/mm" else f"{unit} mm"


class Radon(Operator):
    """p = integral of f along every ray of a `ParallelBeam` or `FanBeam`: images `(C, ny, nx)` to `(C, views, bins)`.

    f in 1/mm (an attenuation) gives p without unit; another `unit` u gives "u mm".  `spacing` (dy, dx) is the pixel in
    mm; the middle of the image is (0, 0), x grows with the column and y against the row.  Joseph's method; the adjoint
    is the transpose of the same weights.  The first use in a precision builds the matrix, which takes about twenty
    times as long as using it; if it and its transpose would take more than `memory` bytes it is computed at every use
    instead, block by block.

    Raises `InputError` for a grid that is none, or a source inside the image.
    """

    def __init__(
        self,
        size: Sequence[int],
        geometry: ParallelBeam | FanBeam,
        *,
        spacing: Sequence[float] = (1.0, 1.0),
        channels: int = 1,
        unit: str = "1/mm",
        memory: float = 2e9,
    ) -> None:
        if len(size) != 2 or len(spacing) != 2:
            raise InputError("Radon size, spacing", (tuple(size), tuple(spacing)), "two numbers each, rows first")
        if not isinstance(geometry, ParallelBeam | FanBeam):
            raise InputError("geometry", type(geometry).__name__, "a ParallelBeam or a FanBeam")
        self.domain = Space((channels, *size), unit, spacing=tuple(spacing))
        self.range = Space((channels, *geometry.shape), integrated(unit), spacing=(geometry.pitch,))
        self.geometry, self.memory = geometry, memory
        geometry.check_source(0.5 * math.hypot(*(n * d for n, d in zip(self.size, spacing, strict=True))))
        self._matrix = RayMatrix.shared(Joseph(self.size, self.domain.spacing), geometry.lines(), memory)

    @property
    def size(self) -> tuple[int, ...]:
        """Rows and columns of the image."""
        return self.domain.shape[1:]

    @property
    def about(self) -> Mapping[str, Any]:
        """Views, their span in degrees, bins, how many symmetric rays share a weight, and whether it is kept."""
        angles = self.geometry.angles
        return {
            "geometry": type(self.geometry).__name__,
            "views": self.geometry.views,
            "bins": self.geometry.bins,
            "span_degrees": math.degrees(max(angles) - min(angles)),
            "shared": len(self._matrix.kinds),
            "weights": self._matrix.weights,
            "kept": self._matrix.kept(torch.float32),
        }

    def subset(self, views: Sequence[int]) -> Radon:
        """The operator of some of the views, for ordered subsets: rows `views` of the sinogram."""
        return Radon(self.size, self.geometry.subset(views), **self._options())

    def subsets(self, count: int) -> list[tuple[list[int], Radon]]:
        """`count` interleaved subsets: the indices of their views, and their operators."""
        return [(views, self.subset(views)) for views in self.geometry.subsets(count)]

    def on(self, size: Sequence[int], spacing: Sequence[float]) -> Radon:
        """The same scan of an image on another grid, such as a finer one that simulates the measurement."""
        return Radon(size, self.geometry, **{**self._options(), "spacing": tuple(spacing)})

    def _options(self) -> dict[str, Any]:
        d = self.domain
        return {"spacing": d.spacing, "channels": d.shape[0], "unit": d.unit, "memory": self.memory}

    def _forward(self, x: Tensor) -> Tensor:
        return integrals(x.flatten(0, 1), self._matrix).reshape(len(x), *self.range.shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return back_projection(y.flatten(2).flatten(0, 1), self._matrix).reshape(len(y), *self.domain.shape)
