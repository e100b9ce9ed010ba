"""Scans to measure on: read without clipping, perhaps resampled, with regions in pixels of the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from retrodict._check import InputError
from retrodict.data import Image, discover, read, resample
from retrodict.metrics.regions import Region

__all__ = ["Box", "Scan", "load", "same_grid", "sources_of"]


Box = tuple[int, int, int, int]
"""First row, last row + 1, first column, last column + 1."""


@dataclass(frozen=True)
class Scan:
    """An image as it is measured: `first` slice of the file that it holds, and its pixels per pixel of the file.

    Places are always given in the numbers of the file, its slices and pixels: `at` and `slices` do not move them.
    """

    image: Image
    grid: tuple[float, float] = (1.0, 1.0)
    first: int = 0

    @property
    def stack(self) -> Tensor:
        """Slices (Z, H, W), float64."""
        values = self.image.values[0].double()
        return values if values.ndim == 3 else values[None]

    def placed(self, regions: Sequence[tuple[int, ...]], size: int) -> list[Region]:
        """Squares of `size` pixels of the measured grid from first pixels (row, column) or (slice, row, column)."""
        out = []
        depth = len(self.stack)
        for place in regions:
            if len(place) not in (2, 3):
                raise InputError("region", place, "row,column or slice,row,column")
            if len(place) == 3 and not self.first <= place[0] < self.first + depth:
                found = f"slice {place[0]} of {place}"
                raise InputError("region", found, f"a slice of {self.first}:{self.first + depth}, counted in the file")
            row, column = (round(p * g) for p, g in zip(place[-2:], self.grid, strict=True))
            self._inside(place, (row, row + size, column, column + size))
            levels = range(depth) if len(place) == 2 else [place[0] - self.first]
            out += [Region(z, row, column, size) for z in levels]
        return out

    def crop(self, region: Box | None) -> Tensor:
        """The slices within a box in pixels of the file."""
        if region is None:
            return self.stack
        top, bottom, left, right = region
        rows = [math.ceil(top * self.grid[0] - 1e-9), math.floor(bottom * self.grid[0] + 1e-9)]
        columns = [math.ceil(left * self.grid[1] - 1e-9), math.floor(right * self.grid[1] + 1e-9)]
        self._inside(region, (*rows, *columns))
        return self.stack[:, rows[0] : rows[1], columns[0] : columns[1]]

    def _inside(self, given: Sequence[int], box: Sequence[int]) -> None:
        height, width = self.image.values.shape[-2:]
        if not (0 <= box[0] < box[1] <= height and 0 <= box[2] < box[3] <= width):
            old = round(height / self.grid[0]), round(width / self.grid[1])
            hint = (
                ""
                if self.grid == (1.0, 1.0)
                else (f"Regions count pixels of the file, not those after resampling to {height} x {width}.")
            )
            raise InputError("region", tuple(given), f"rows and columns within the {old[0]} x {old[1]} pixels of the "
                             "file", hint)  # fmt: skip

    def named(self, region: Region) -> str:
        """A region in words, with the slice as the file counts it."""
        return str(Region(region.slice + self.first, region.row, region.column, region.size))


def check_targets(path: str | Path, endings: Sequence[str], *, force: bool = False) -> list[Path]:
    """NAME with each of the endings for the path NAME.json; raises where one could not be written there."""
    target = Path(path)
    if target.suffix != ".json":
        raise InputError(target, f"the suffix {target.suffix!r}", ".json")
    if not target.parent.is_dir():
        raise InputError(target, "no such folder", "a file name in an existing folder")
    files = [target.with_name(target.stem + ending) for ending in endings]
    for file in files:
        if file.exists() and not force:
            raise InputError(file, "a file of an earlier run", "a new name", "Use {force} to replace it.", force=True)
    return files


def sources_of(sources: Sequence[str | Path] | str | Path) -> list[str | Path]:
    """One source or several as a list."""
    found = [sources] if isinstance(sources, str | Path) else list(sources)
    if not found:
        raise InputError("sources", "nothing", "at least one image or series")
    return found


def load(
    source: str | Path,
    spacing: Sequence[float] | None,
    unit: str | None,
    at: float | None,
    slices: tuple[int, int] | None,
) -> Scan:
    """One image or series, slices as they are, not clipped: clipping bends the noise of air and of metal."""
    found = discover(source)
    if len(found) != 1:
        hint = "Give the paths of the series one by one; repeats are told with --repeats."
        raise InputError(source, f"{len(found)} images or series", "exactly one", hint)
    given = None if spacing is None else tuple(spacing)
    image = read(found[0], spacing=given, unit=unit, slices="independent", allow_gaps=True, clip=False, expect=None)
    image = image.gray()
    if not all(math.isfinite(s) for s in image.spacing[-2:]):
        raise InputError(source, "no pixel spacing", "a file with spacing", "Give --spacing in mm.")
    first = 0
    if slices is not None and image.values.ndim == 4:
        first, last = slices
        if not 0 <= first < last <= image.values.shape[1]:
            raise InputError("slices", slices, f"a range within 0:{image.values.shape[1]}")
        image = Image(image.values[:, first:last], image.unit, image.spacing, image.format, image.source, regular=False)
    if at is None:
        return Scan(image, first=first)
    before = image.values.shape[-2:]
    image = resample(image, (at, at))
    rows, columns = (new / old for new, old in zip(image.values.shape[-2:], before, strict=True))
    return Scan(image, (rows, columns), first)


def same_grid(images: Sequence[Image]) -> tuple[float, float]:
    """Pixel spacing (row, column) in mm of images that must lie on one grid and have one unit."""
    first = images[0]
    for other in images[1:]:
        same = other.values.shape[-2:] == first.values.shape[-2:] and other.unit == first.unit
        close = all(abs(a / b - 1) < 1e-3 for a, b in zip(other.spacing[-2:], first.spacing[-2:], strict=True))
        if not (same and close):
            found = f"{tuple(other.values.shape[-2:])} pixels of {other.spacing[-2:]} mm in {other.unit}"
            raise InputError(other.source[0], found, f"the grid and unit of {first.source[0]}")
    return float(first.spacing[-2]), float(first.spacing[-1])
