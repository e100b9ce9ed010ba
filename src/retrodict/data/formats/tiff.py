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
from retrodict.data.formats import tiff_decode, tiff_spacing
from retrodict.data.formats.compressed import head
from retrodict.data.formats.format import MARK, Format, Labels, Raw, file_reader, mark, real
from retrodict.data.image import Image, optional
from retrodict.data.limits import check_size
from retrodict.data.units import length_unit

__all__ = ["FORMAT", "RGB", "TiffHeader", "check", "encode"]


RGB = ("r", "g", "b")


@dataclass(frozen=True)
class TiffHeader:
    """The resolution tags as they were (x, y as fractions, unit code) or None, and the kind of the file."""

    resolution: tuple[tuple[int, int], tuple[int, int], int] | None
    kind: str  # "plain", "imagej" or "ome"


STACKS = {"YX": 2, "ZYX": 3, "IYX": 3, "QYX": 3, "TYX": 3}  # I and Q: a stack whose axis was not named


PHOTOMETRIC = {
    0: "WhiteIsZero", 1: "BlackIsZero", 2: "RGB", 3: "a palette", 4: "a transparency mask", 5: "CMYK", 6: "YCbCr",
    8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "a color filter array", 32844: "LogL", 32845: "LogLuv",
    34892: "linear raw",
}  # fmt: skip


def _load(path: Path) -> Raw:
    with optional(path, "tifffile"):
        import tifffile
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise InputError(path, f"{len(file.series)} images of different size or kind", "one image or one stack")
        series: Any = file.series[0]
        ndim = _axes(series, path)
        page: Any = series.keyframe
        kind = series.dtype
        if kind is None or kind.kind not in "iuf" or int(page.bitspersample) < 8:
            found = f"{page.bitspersample} bits a value" if int(page.bitspersample) < 8 else f"values of type {kind}"
            raise InputError(path, found, "integers or floating point numbers of at least 8 bits")
        white = _photometric(page, path)
        check_size(path, series.shape, kind.itemsize)
        resolution = tiff_spacing.resolution_tags(page.tags)
        flavor = "imagej" if file.is_imagej else "ome" if file.is_ome else "plain"
        spacing, note = tiff_spacing.spacing(file, series, resolution, ndim)
        # Tags that give no length say nothing worth writing back.
        header = TiffHeader(resolution if spacing is not None and not note else None, flavor)
        array = tiff_decode.values(path, series, page)
        if white:
            array = _inverted(array, page, path)
        frames = "a time series (axis T)" if "T" in series.axes else ""
        place = _channel_axis(series.axes)
        if place is None:
            return Raw(array[None], spacing, None, header, frames=frames, note=note)
        names = _names(file, series, page)
        return Raw(np.moveaxis(array, place, 0), spacing, None, header, names, frames=frames, note=note)


def _photometric(page: Any, path: Path) -> bool:
    """Say whether a stored 0 is white; what is neither gray nor RGB, and any alpha channel, is refused."""
    tag = page.tags.get(262)
    code = 1 if tag is None else int(tag.value)  # the tag is missing in some old files, which mean black by 0
    expected = "gray or RGB values"
    if code not in (0, 1, 2):
        hint = "Convert it to gray or RGB first."
        raise InputError(path, f"colors stored as {PHOTOMETRIC.get(code, f'kind {code}')}", expected, hint)
    extra = tuple(int(e) for e in page.extrasamples)
    if any(extra) or (extra and code == 2):
        kind = "alpha" if any(extra) else "unnamed"
        found = f"{page.samplesperpixel} samples per pixel, of which {len(extra)} {kind}"
        raise InputError(path, found, expected, "Leave out the alpha channel.")
    return code == 0


def _inverted(array: np.ndarray, page: Any, path: Path) -> np.ndarray:
    """Return values that grow with brightness, of a file in which a stored 0 is white."""
    if array.dtype.kind != "u":
        found = f"WhiteIsZero for values of type {array.dtype}"
        raise InputError(path, found, "unsigned integers, whose white and black are known", "Invert it first.")
    return np.array(2 ** int(page.bitspersample) - 1, array.dtype) - array


def _channel_axis(axes: str) -> int | None:
    """Return the place of the channels, which are an axis (C) or the samples of a pixel (S)."""
    return next((i for i, axis in enumerate(axes) if axis in "CS"), None)


def _axes(series: Any, path: Path) -> int:
    """Return the number of axes of the grid; other axes than those of a grid and of its channels are refused."""
    place = _channel_axis(series.axes)
    rest = series.axes if place is None else series.axes[:place] + series.axes[place + 1 :]
    if rest not in STACKS:
        expected = "gray values with axes YX, ZYX or TYX, or with one axis of channels (C or S) more"
        raise InputError(path, f"axes {series.axes} of shape {series.shape}", expected)
    return STACKS[rest]


def _names(file: Any, series: Any, page: Any) -> tuple[str, ...]:
    """Return the names of the channels where the file gives a different one to each; () otherwise."""
    place = _channel_axis(series.axes)
    count = series.shape[place]
    if series.axes[place] == "S":
        return RGB if int(page.photometric) == 2 and count == 3 else ()
    if file.is_ome:
        given = [e.get("Name") for e in tiff_spacing.elements(file.ome_metadata, "Channel")]
    elif file.is_imagej:
        given = list((file.imagej_metadata or {}).get("Labels", []))[:count]
    else:
        given = tiff_spacing.shaped(file).get("channels", [])
    names = tuple(str(name) for name in given if name)
    return names if len(names) == len(set(names)) == count else ()


RESOLUTION_UNITS = (1, 2, 3)  # none, inch, centimeter; a file with another number is written with its spacing


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
    stated = header.resolution if header.resolution and header.resolution[2] in RESOLUTION_UNITS else None
    across, down, code = stated or (_fraction(10.0 / spacing[-1]), _fraction(10.0 / spacing[-2]), 3)
    metadata = {"axes": axes, **METADATA[header.kind](image, labels, across)}
    options: dict[str, Any] = {"photometric": photometric, "metadata": metadata, "software": mark(labels)}
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
    more |= {"spacing_mm": [s for s in image.spacing if np.isfinite(s)]}  # exact, and sure to be of pixels
    return more | {"description": labels.description} | _depth(image, 1.0)


def _imagej(image: Image, labels: Labels, across: tuple[int, int]) -> dict[str, Any]:
    unit = _pixel_unit(across, image.spacing[-1])
    planes = image.values.shape[1] if len(image.spacing) == 3 else 1
    more = {"Labels": [*image.channels] * planes} if _named(image) else {}
    return more | {"unit": unit, "Info": labels.description} | _depth(image, length_unit(unit) or 1.0)


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
    return min(("mm", "cm", "um", "nm", "m", "inch"), key=lambda u: abs(np.log(pixel * (length_unit(u) or 1.0) / dx)))


MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and big, of both orders of bytes


def _probe(path: Path) -> bool:
    return head(path, 4) in MAGIC


def _made(path: Path) -> str:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        text = str(page.software)
    return text if text.startswith(MARK) else ""


FORMAT = Format(
    "tiff", "TIFF", (".tif", ".tiff"), ".tif", file_reader("tiff", _load), check, encode, _probe, made=_made
)
