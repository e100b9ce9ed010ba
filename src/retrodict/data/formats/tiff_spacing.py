"""The size of a pixel as TIFF files tell it: in OME, in the text of ImageJ, in our own, or in the resolution tags."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from retrodict.data.units import length_unit

__all__ = ["Resolution", "elements", "resolution_tags", "shaped", "spacing"]


class Resolution(NamedTuple):
    """The resolution tags: pixels per unit along x and y as fractions, and the code of the unit."""

    x: tuple[int, int]
    y: tuple[int, int]
    unit: int


MILLIMETERS = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}
"""By the code of the unit: inch, centimeter and, as an extension, millimeter and micrometer."""


SCREEN = (
    1, 72, 75, 90, 96, 100, 120, 144, 150, 160, 180, 192, 200, 220, 240, 288, 300, 326, 350, 360, 400, 600, 720, 800,
    1200, 1440, 2400,
)  # fmt: skip
"""Pixels per inch that cameras, screens, printers and image editors write without having measured anything."""


NEAR = 5e-4
"""Relative distance up to which a resolution is one of those: 72 per inch are 28.35 or 28.346 per centimeter."""


def resolution_tags(tags: Any) -> Resolution | None:
    """Return the resolution tags where both are fractions of positive whole numbers."""
    x, y, unit = (tags.get(name) for name in ("XResolution", "YResolution", "ResolutionUnit"))
    if x is None or y is None:
        return None
    pairs = []
    for value in (x.value, y.value):
        if not isinstance(value, tuple) or len(value) != 2 or not all(isinstance(n, int) and n > 0 for n in value):
            return None
        pairs.append(value)
    code = 2 if unit is None else unit.value
    return Resolution(pairs[0], pairs[1], int(code) if code in MILLIMETERS else 1)  # 1: of no unit


def spacing(file: Any, series: Any, resolution: Resolution | None, ndim: int) -> tuple[tuple[float, ...] | None, str]:
    """Return mm per axis, fewer than axes where dz is unknown, or None and what was found instead."""
    if file.is_ome:
        return _ome(file.ome_metadata, ndim), ""
    if file.is_imagej:
        return _imagej(file.imagej_metadata or {}, resolution, ndim)
    own = shaped(file)
    known = own.get("spacing_mm")
    if series.kind == "shaped" and isinstance(known, list) and len(known) in (2, ndim):
        return tuple(float(s) for s in known), ""
    mm = MILLIMETERS.get(resolution.unit) if resolution else None
    if mm is None:
        mm = length_unit(own.get("unit", ""))
    if resolution is None or mm is None:
        return None, ""
    if note := _of_a_screen(resolution, mm):
        return None, note
    return _with_depth(own.get("spacing"), 1.0, _plane(resolution, mm, mm), ndim), ""


def shaped(file: Any) -> dict[str, Any]:
    """Return what tifffile, or this program, wrote into the description."""
    return (file.shaped_metadata or ({},))[0]


def _imagej(text: dict[str, Any], resolution: Resolution | None, ndim: int) -> tuple[tuple[float, ...] | None, str]:
    """ImageJ: pixels per its own unit in the resolution tags, the distance of slices in that unit."""
    x = length_unit(text.get("unit", ""))
    y, z = (length_unit(text.get(name, "")) or x for name in ("yunit", "zunit"))
    if resolution is None or x is None or y is None or z is None:
        return None, ""
    if x == 25.4 and (note := _of_a_screen(resolution, x)):  # ImageJ takes inches from the file that it opened
        return None, note
    return _with_depth(text.get("spacing"), z, _plane(resolution, x, y), ndim), ""


def _plane(resolution: Resolution, x: float, y: float) -> tuple[float, float]:
    return y * resolution.y[1] / resolution.y[0], x * resolution.x[1] / resolution.x[0]


def _with_depth(depth: Any, mm: float, plane: tuple[float, float], ndim: int) -> tuple[float, ...]:
    if ndim == 3 and isinstance(depth, int | float) and math.isfinite(depth) and depth != 0:
        return (abs(depth) * mm, *plane)  # ImageJ counts some stacks downward
    return plane


def _of_a_screen(resolution: Resolution, mm: float) -> str:
    """Return what to say of a resolution that is one of screens and printers; "" for any other."""
    dpi = [25.4 / mm * n / d for n, d in (resolution.x, resolution.y)]
    if not any(abs(v / s - 1) < NEAR for v in dpi for s in SCREEN):
        return ""
    return f"{dpi[0]:.4g} dots per inch, which screens and printers use, and no pixel size"


def _ome(xml: str, ndim: int) -> tuple[float, ...] | None:
    pixels = next(iter(elements(xml, "Pixels")), None)
    sizes = []
    for axis in "ZYX"[3 - ndim :]:
        size = None if pixels is None else pixels.get(f"PhysicalSize{axis}")
        mm = length_unit("µm" if pixels is None else pixels.get(f"PhysicalSize{axis}Unit", "µm"))  # the default of OME
        if size is None or mm is None:
            if axis == "Z":
                continue
            return None
        sizes.append(float(size) * mm)
    return tuple(sizes)


def elements(xml: str, name: str) -> list[Any]:
    """Return the elements of OME-XML of a name, in any namespace."""
    import xml.etree.ElementTree as ET

    return [e for e in ET.fromstring(xml).iter() if e.tag.endswith("}" + name)]
