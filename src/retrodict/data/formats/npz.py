"""The files of NumPy: npz, with any number of channels, real or complex; and npy, whose results are npz."""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrodict._check import InputError, choice
from retrodict.data.formats.compressed import head
from retrodict.data.formats.format import MARK, Format, Labels, Raw, file_reader, mark
from retrodict.data.image import Image, decoding
from retrodict.data.limits import check_regular, check_size

__all__ = ["FORMAT", "NPY", "NpzHeader", "check", "encode", "named_array"]


@dataclass(frozen=True)
class NpzHeader:
    """The name of the image array, the axis of its channels (None: it has no such axis), and the other arrays.

    lost : names of other arrays that are too large to carry to a result; they are listed in it.
    """

    key: str
    others: dict[str, np.ndarray] = field(default_factory=dict)
    axis: int | None = None
    lost: tuple[str, ...] = ()


CARRIED = 64 * 2**20
"""Bytes of other arrays that a result keeps; what is larger is not even unpacked."""


MADE = "made_by"  # the array that holds the mark of this program


def _load(path: Path) -> Raw:
    if not zipfile.is_zipfile(path):
        raise InputError(path, "bytes that are not an npz archive", "a file written by numpy.savez")
    with zipfile.ZipFile(path) as archive:
        members = {n.removesuffix(".npy"): n for n in archive.namelist() if n.endswith(".npy")}
        known = {name: _declared(archive, member) for name, member in members.items()}
        key = _image_key(known, path)
        array = _member(archive, members[key], known[key], f"{path}[{key}]")
        others, lost = {}, []
        for name in sorted((n for n in members if n not in (key, MADE)), key=lambda n: known[n].bytes):
            size = sum(a.nbytes for a in others.values()) + known[name].bytes
            if size > CARRIED or known[name].dtype.hasobject:
                lost.append(name)
            else:
                others[name] = _member(archive, members[name], known[name], f"{path}[{name}]")
    return _raw(array, key, others, tuple(lost), path)


def named_array(path: Path, key: str) -> np.ndarray:
    """The numbers of one array of an npz file; `InputError` for a name that is not there, and as `read` raises it."""
    check_regular(path)
    with decoding(path, "npz"):
        if not zipfile.is_zipfile(path):
            raise InputError(path, "bytes that are not an npz archive", "a file written by numpy.savez")
        with zipfile.ZipFile(path) as archive:
            members = {n.removesuffix(".npy"): n for n in archive.namelist() if n.endswith(".npy")}
            choice(str(path), key, members)
            return _member(archive, members[key], _declared(archive, members[key]), f"{path}[{key}]")


class _Declared(NamedTuple):
    """What the head of an array says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _declared(archive: zipfile.ZipFile, member: str) -> _Declared:
    with archive.open(member) as file:
        return _read_declared(file)


def _read_declared(file: Any) -> _Declared:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return _Declared(shape, dtype)


def _member(archive: zipfile.ZipFile, member: str, declared: _Declared, where: str) -> np.ndarray:
    with archive.open(member) as file:
        return _array(file, declared, where)


def _array(file: Any, declared: _Declared, where: str) -> np.ndarray:
    if declared.dtype.hasobject:
        raise InputError(where, "an array of Python objects", "an array of numbers")
    check_size(where, declared.shape, declared.dtype.itemsize)
    return np.lib.format.read_array(file, allow_pickle=False)


def _raw(array: np.ndarray, key: str, arrays: dict[str, np.ndarray], lost: tuple[str, ...], path: Path) -> Raw:
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
    return Raw(grid, _spacing(arrays, grid.ndim - 1), unit, NpzHeader(key, arrays, axis, lost), names)


def _image_key(arrays: dict[str, _Declared], path: Path) -> str:
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
    arrays |= {"description": np.array(labels.description), MADE: np.array(mark(labels))}
    if header.lost:
        arrays["not_copied"] = np.array(header.lost)
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


def _probe(path: Path) -> bool:
    if head(path, 4) != b"PK\x03\x04":
        return False
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        return bool(names) and all(name.endswith(".npy") for name in names)
    return False


def _made(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        if f"{MADE}.npy" not in archive.namelist():
            return ""
        declared = _declared(archive, f"{MADE}.npy")
        if declared.dtype.kind != "U" or declared.bytes > 4096:
            return ""
        text = str(_member(archive, f"{MADE}.npy", declared, MADE))
    return text if text.startswith(MARK) else ""


def _load_npy(path: Path) -> Raw:
    with path.open("rb") as file:
        declared = _read_declared(file)
        file.seek(0)
        array = _array(file, declared, str(path))
    return _raw(array, "image", {}, (), path)


def _probe_npy(path: Path) -> bool:
    return head(path, 6) == b"\x93NUMPY"


FORMAT = Format("npz", "npz", (".npz",), ".npz", file_reader("npz", _load), check, encode, _probe, made=_made)


NPY = Format("npy", "npy", (".npy",), ".npz", file_reader("npy", _load_npy), check, encode, _probe_npy)
