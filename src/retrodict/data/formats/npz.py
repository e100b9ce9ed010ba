"""The npz archives of NumPy: any number of channels, real or complex."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._check import InputError
from retrodict.data.formats.format import Format, Labels, Raw, file_reader
from retrodict.data.image import Image

__all__ = ["FORMAT", "NpzHeader", "check", "encode"]


@dataclass(frozen=True)
class NpzHeader:
    """The name of the image array, the axis of its channels (None: it has no such axis), and all other arrays."""

    key: str
    others: dict[str, np.ndarray] = field(default_factory=dict)
    axis: int | None = None


def _load(path: Path) -> Raw:
    if not zipfile.is_zipfile(path):
        raise InputError(path, "bytes that are not an npz archive", "a file written by numpy.savez")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: _array(file, name, path) for name in file.files}
    key = _image_key(arrays, path)
    array = arrays.pop(key)
    where = f"{path}[{key}]"
    axis, names = _channels(arrays, array, where)
    grid = array[None] if axis is None else np.moveaxis(array, axis, 0)
    if array.dtype.kind not in "iufbc" or grid.ndim not in (3, 4):
        expected = "numbers of shape (H, W) or (Z, H, W)"
        hint = (
            "With several channels the file needs their names in an array called channels." if array.ndim == 4 else ""
        )
        raise InputError(where, f"{array.dtype} of shape {array.shape}", expected, hint)
    if axis is None and array.ndim == 3 and array.shape[-1] in (3, 4) and min(array.shape[:2]) > 8:
        hint = "Or name its channels: channels=['r', 'g', 'b'], channel_axis=-1."
        raise InputError(where, f"shape {array.shape}, a color image", "gray values, (H, W) or (Z, H, W)", hint)
    unit = str(arrays["unit"]) if "unit" in arrays else ("HU" if key == "hu" else None)
    return Raw(grid, _spacing(arrays, grid.ndim - 1), unit, NpzHeader(key, arrays, axis), names)


def _array(file: Any, name: str, path: Path) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:
        if "pickle" in str(error):
            raise InputError(f"{path}[{name}]", "an array of Python objects", "an array of numbers") from error
        raise


def _image_key(arrays: dict[str, np.ndarray], path: Path) -> str:
    candidates = [k for k in ("image", "hu") if k in arrays] or [k for k, a in arrays.items() if a.ndim >= 2]
    if len(candidates) != 1:
        found = "arrays " + ", ".join(f"{k} {a.shape}" for k, a in arrays.items())
        raise InputError(path, found, "one array called image or hu, or a single array with two or more axes")
    return candidates[0]


def _channels(arrays: dict[str, np.ndarray], array: np.ndarray, where: str) -> tuple[int | None, tuple[str, ...]]:
    """Return the axis and the names of the channels: (None, ()) where no array of strings `channels` gives names."""
    if "channels" not in arrays or arrays["channels"].dtype.kind != "U":
        return None, ()
    names = tuple(str(name) for name in arrays["channels"].ravel())
    if len(names) == 1 and "channel_axis" not in arrays and array.shape[0] != 1:
        return None, names
    axis = int(arrays["channel_axis"]) if "channel_axis" in arrays else 0
    if not -array.ndim <= axis < array.ndim or array.shape[axis] != len(names):
        expected = f"{len(names)} channels along axis {axis}, named {', '.join(names)}"
        raise InputError(where, f"shape {array.shape}", expected, "The array channel_axis says which axis it is.")
    return axis, names


def _spacing(arrays: dict[str, np.ndarray], ndim: int) -> tuple[float, ...] | None:
    known = arrays.get("spacing", arrays.get("pixel_spacing_mm"))
    if known is None:
        return None
    spacing = tuple(float(v) for v in np.broadcast_to(known, ndim if known.ndim == 0 else known.shape).ravel())
    places = arrays.get("slice_location")
    if ndim == 3 and len(spacing) == 2 and places is not None and places.size > 1:
        steps = np.abs(np.diff(places))
        if np.ptp(steps) <= max(0.02 * float(np.median(steps)), 0.01):
            return (float(np.mean(steps)), *spacing)
    return spacing


def check(image: Image, path: Path) -> None:
    """Refuse nothing: an npz file can hold every image."""


def encode(image: Image, labels: Labels) -> Iterator[tuple[str, bytes]]:
    """Yield an npz file: the image as float32 or complex64 under the name it had, all other arrays, spacing and unit.

    An image with several channels, or with a name for its only one, has an axis for them and an array `channels`.
    """
    header = image.header if isinstance(image.header, NpzHeader) else NpzHeader("image")
    arrays = dict(header.others)
    arrays["spacing"] = np.array([s for s in image.spacing if np.isfinite(s)])
    arrays |= {"unit": np.array(image.unit), "role": np.array(labels.role)}
    arrays["description"] = np.array(labels.description)
    values, axis = image.values.numpy(), header.axis
    if axis is None and image.channels != ("gray",):
        axis = 0
    if axis is not None:
        arrays |= {"channels": np.array(image.channels), "channel_axis": np.array(axis)}
    arrays[header.key] = values[0] if axis is None else np.moveaxis(values, 0, axis)
    yield labels.path.name, _archive(arrays)


def _archive(arrays: dict[str, np.ndarray]) -> bytes:
    # numpy.savez would take an array called "file" for its own argument.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


FORMAT = Format("npz", "npz", (".npz",), ".npz", file_reader("npz", _load), check, encode)
