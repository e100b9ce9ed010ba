"""TIFF, also of OME and ImageJ: gray, RGB or other channels, written as float32 with the resolution of the source."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._check import InputError
from retrodict.data.formats.format import Format, Labels, Raw, file_reader, real
from retrodict.data.image import Image, optional

__all__ = ["FORMAT", "RGB", "TiffHeader", "check", "encode"]


RGB = ("r", "g", "b")


@dataclass(frozen=True)
class TiffHeader:
    """The resolution tags as they were (x, y as fractions, unit code) or None, and the kind of the file."""

    resolution: tuple[tuple[int, int], tuple[int, int], int] | None
    kind: str  # "plain", "imagej" or "ome"


LENGTHS = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "µm": 1e-3, "um": 1e-3, "micron": 1e-3, "nm": 1e-6}


LENGTHS |= {"\\u00b5m": 1e-3, "microns": 1e-3, "inch": 25.4, "in": 25.4}


STACKS = {"YX": 2, "ZYX": 3, "IYX": 3, "QYX": 3}  # I and Q: a stack whose axis was not named


def _load(path: Path) -> Raw:
    with optional(path, "tifffile"):
        import tifffile
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise InputError(path, f"{len(file.series)} images of different sizes", "one image or one stack")
        series = file.series[0]
        ndim = _axes(series, path)
        if series.dtype is None or str(series.dtype.name) not in ("float32", "uint16", "uint8", "int16"):
            raise InputError(path, f"values of type {series.dtype}", "float32, uint16, int16 or uint8")
        tags: Any = file.pages[0].tags  # pyright: ignore[reportAttributeAccessIssue]
        known = [tags.get(name) for name in ("XResolution", "YResolution", "ResolutionUnit")]
        resolution = None
        if known[0] is not None and known[1] is not None:
            resolution = (known[0].value, known[1].value, int(known[2].value) if known[2] is not None else 2)
        kind = "imagej" if file.is_imagej else "ome" if file.is_ome else "plain"
        spacing = _spacing(file, resolution, ndim)
        # Tags that give no length (unit "none") say nothing worth writing back.
        meant = resolution is not None and (spacing is not None if kind == "imagej" else resolution[2] in (2, 3))
        header = TiffHeader(resolution if meant else None, kind)
        array = series.asarray()
        place = _channel_axis(series.axes)
        if place is None:
            return Raw(array[None], spacing, None, header)
        return Raw(np.moveaxis(array, place, 0), spacing, None, header, _names(file, series))


def _channel_axis(axes: str) -> int | None:
    """Return the place of the channels, which are an axis (C) or the samples of a pixel (S)."""
    return next((i for i, axis in enumerate(axes) if axis in "CS"), None)


def _axes(series: Any, path: Path) -> int:
    """Return the number of axes of the grid; other axes than those of a grid and of its channels are refused."""
    place = _channel_axis(series.axes)
    rest = series.axes if place is None else series.axes[:place] + series.axes[place + 1 :]
    if rest not in STACKS:
        expected = "gray values with axes YX or ZYX, or with one axis of channels (C or S) more"
        raise InputError(path, f"axes {series.axes} of shape {series.shape}", expected)
    if "S" in series.axes and series.shape[place] != 3:
        found = f"axes {series.axes} of shape {series.shape}: {series.shape[place]} samples per pixel"
        raise InputError(path, found, "gray or RGB values", "Leave out the alpha channel.")
    return STACKS[rest]


def _names(file: Any, series: Any) -> tuple[str, ...]:
    """Return the names of the channels where the file gives a different one to each; () otherwise."""
    place = _channel_axis(series.axes)
    if series.axes[place] == "S":
        return RGB
    count = series.shape[place]
    if file.is_ome:
        given = [e.get("Name") for e in _elements(file.ome_metadata, "Channel")]
    elif file.is_imagej:
        given = list((file.imagej_metadata or {}).get("Labels", []))[:count]
    else:
        given = (file.shaped_metadata or ({},))[0].get("channels", [])
    names = tuple(str(name) for name in given if name)
    return names if len(names) == len(set(names)) == count else ()


def _spacing(file: Any, resolution: Any, ndim: int) -> tuple[float, ...] | None:
    """Return the spacing in mm from OME, ImageJ or the resolution tags; fewer numbers than axes where dz is unknown."""
    if file.is_ome:
        return _ome_spacing(file.ome_metadata, ndim)
    extra = (file.imagej_metadata if file.is_imagej else None) or (file.shaped_metadata or ({},))[0]
    scale = {2: 25.4, 3: 10.0}.get(resolution[2] if resolution else 1)  # inch, centimeter
    if file.is_imagej or scale is None:
        scale = LENGTHS.get(str(extra.get("unit", "")))
    if resolution is None or scale is None or 0 in (*resolution[0], *resolution[1]):
        return None
    dx, dy = (scale * d / n for n, d in resolution[:2])
    dz = extra.get("spacing")
    if ndim == 3 and dz:
        return (float(dz) * (scale if file.is_imagej else 1.0), dy, dx)
    return (dy, dx)


def _ome_spacing(xml: str, ndim: int) -> tuple[float, ...] | None:
    pixels = next(iter(_elements(xml, "Pixels")), None)
    sizes = []
    for axis in "ZYX"[3 - ndim :]:
        size = None if pixels is None else pixels.get(f"PhysicalSize{axis}")
        unit = "µm" if pixels is None else pixels.get(f"PhysicalSize{axis}Unit", "µm")  # the default of OME
        if size is None or unit not in LENGTHS:
            if axis == "Z":
                continue
            return None
        sizes.append(float(size) * LENGTHS[unit])
    return tuple(sizes)


def _elements(xml: str, name: str) -> list[Any]:
    import xml.etree.ElementTree as ET

    return [e for e in ET.fromstring(xml).iter() if e.tag.endswith("}" + name)]


def check(image: Image, path: Path) -> None:
    """Refuse complex values and a missing package, and write one pixel as `encode` will write them all."""
    corner = image.values[(..., *[slice(0, 1)] * len(image.spacing))]
    for _ in encode(replace(image, values=corner, padding=None), Labels(path, "mean", "")):
        pass


def encode(image: Image, labels: Labels) -> Iterator[tuple[str, bytes]]:
    """Yield a float32 TIFF file with the resolution tags of the source, or with its spacing where it had no such tags.

    Channels called r, g, b are the samples of a pixel, except for ImageJ, which knows them in 8 bits only; others are
    an axis with their names.
    """
    real(image, "TIFF", labels.path)
    with optional(labels.path, "tifffile"):
        import tifffile
    header = image.header if isinstance(image.header, TiffHeader) else TiffHeader(None, "plain")
    values, axes, photometric = _laid_out(image, header.kind)
    spacing = image.spacing
    across, down, code = header.resolution or (_fraction(10.0 / spacing[-1]), _fraction(10.0 / spacing[-2]), 3)
    metadata = {"axes": axes, **METADATA[header.kind](image, labels, across)}
    options: dict[str, Any] = {"photometric": photometric, "metadata": metadata}
    if header.kind != "plain":
        options[header.kind] = True
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, resolution=(across, down), resolutionunit=code, **options)
    yield labels.path.name, buffer.getvalue()


def _laid_out(image: Image, kind: str) -> tuple[np.ndarray, str, str]:
    """Return the values in the order of the file, the names of their axes, and the meaning of the samples."""
    values, grid = image.values.numpy(), "ZYX"[-len(image.spacing) :]
    if image.channels == RGB and kind != "imagej":
        return np.ascontiguousarray(np.moveaxis(values, 0, -1)), f"{grid}S", "rgb"
    if _named(image):  # just before Y and X, where ImageJ wants it
        return np.ascontiguousarray(np.moveaxis(values, 0, -3)), f"{grid[:-2]}CYX", "minisblack"
    return values[0], grid, "minisblack"


def _named(image: Image) -> bool:
    """Say whether the channels are written as an axis with names."""
    return image.channels != ("gray",)


def _plain(image: Image, labels: Labels, across: tuple[int, int]) -> dict[str, Any]:
    more = {"channels": list(image.channels)} if _named(image) and image.channels != RGB else {}
    return more | {"description": labels.description} | _depth(image, 1.0)


def _imagej(image: Image, labels: Labels, across: tuple[int, int]) -> dict[str, Any]:
    unit = _pixel_unit(across, image.spacing[-1])
    planes = image.values.shape[1] if len(image.spacing) == 3 else 1
    more = {"Labels": [*image.channels] * planes} if _named(image) else {}
    return more | {"unit": unit, "Info": labels.description} | _depth(image, LENGTHS[unit])


def _depth(image: Image, scale: float) -> dict[str, float]:
    """Return the distance of slices in a unit of `scale` mm, where there is one."""
    known = len(image.spacing) == 3 and np.isfinite(image.spacing[0])
    return {"spacing": image.spacing[0] / scale} if known else {}


def _ome(image: Image, labels: Labels, across: tuple[int, int]) -> dict[str, Any]:
    found: dict[str, Any] = {"Description": labels.description}
    for axis, size in zip("ZYX"[-len(image.spacing) :], image.spacing, strict=True):
        if np.isfinite(size):
            found |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "mm"}
    if _named(image) and image.channels != RGB:
        found["Channel"] = {"Name": list(image.channels)}
    return found


METADATA = {"plain": _plain, "imagej": _imagej, "ome": _ome}


def _fraction(value: float) -> tuple[int, int]:
    exact = Fraction(value).limit_denominator(max(1, min(10**5, int(2**31 / value))))  # both must fit 32 bits
    return exact.numerator, exact.denominator


def _pixel_unit(resolution: tuple[int, int], dx: float) -> str:
    """Return the ImageJ unit for which the resolution tag, in pixels per unit, means a pixel of dx mm."""
    pixel = resolution[1] / resolution[0]
    return min(("mm", "cm", "um", "nm", "m", "inch"), key=lambda u: abs(np.log(pixel * LENGTHS[u] / dx)))


FORMAT = Format("tiff", "TIFF", (".tif", ".tiff"), ".tif", file_reader("tiff", _load), check, encode)
