"""What the package has to know of a file format, and what the readers and writers of all formats share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from retrodict._check import InputError
from retrodict.data.image import Image, Source, clean, decoding, finite
from retrodict.data.units import unit as unit_named

__all__ = ["Format", "Labels", "Raw", "ReadOptions", "file_reader", "one_gray_channel", "real"]


class ReadOptions(NamedTuple):
    """What a caller of `read` may ask; see there. `spacing` is checked to be positive numbers."""

    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    expect: str | None = "CT"
    independent: bool = False
    allow_gaps: bool = False
    clip: bool = True


class Labels(NamedTuple):
    """Where a result goes, and what is written into it: `path` has the extension of the format (or is a folder)."""

    path: Path
    role: str
    description: str
    series_uid: str | None = None


class Format(NamedTuple):
    """A file format: one row of `FORMATS`. It knows no model and no option of sampling.

    name : the `format` of an `Image` and a `Source`; title : the word for people.
    suffixes : extensions in lower case, the usual one first.
    written : the extension that a result gets, which may be that of another format; "" where it is a folder of files.
    read : source, options -> image. Raises `InputError` for a file that cannot be used, and names it.
    check : an image as it was read, and the path to write to -> None. Does to the header what `encode` will do, and
        raises the same `InputError`: it is asked before a long computation.
    encode : a result with header, geometry and padding of the image that it was made from, and labels -> (file name,
        content) of one file, or of every file of the folder.
    probe : says of a file without a telling extension whether it is of this format.
    group : the files of this format with one key, (key, number), are one image; None leaves a file out. The row for an
        image of several files has the name "NAME-series".
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    written: str
    read: Callable[[Source, ReadOptions], Image]
    check: Callable[[Image, Path], None]
    encode: Callable[[Image, Labels], Iterable[tuple[str, bytes]]]
    probe: Callable[[Path], bool] | None = None
    group: Callable[[Path], tuple[str, str] | None] | None = None


@dataclass(frozen=True)
class Raw:
    """What a file holds: array (C, *N) with N = (H, W) or (Z, H, W), real or complex numbers.

    spacing : mm per axis of N; None or fewer numbers than axes where it is not known. unit : None where not known.
    channels : their names; () for the usual ones (see `Image`).
    """

    array: np.ndarray
    spacing: tuple[float, ...] | None
    unit: str | None
    header: object
    channels: tuple[str, ...] = ()


def file_reader(name: str, load: Callable[[Path], Raw]) -> Callable[[Source, ReadOptions], Image]:
    """Make the `read` of a format that is one file: `load` decodes, and unit, spacing and values are checked here."""

    def read(source: Source, options: ReadOptions) -> Image:
        path = source.paths[0]
        with decoding(path, name):
            raw = load(path)
        return _image(raw, path, name, options)

    return read


def _image(raw: Raw, path: Path, name: str, options: ReadOptions) -> Image:
    grid = raw.array.shape[1:]
    if raw.array.size == 0:
        raise InputError(path, f"an empty image of shape {grid}", "at least one pixel")
    finite(raw.array, path)
    stacked = options.independent and len(grid) == 3
    spacing = _spacing(path, options.spacing or raw.spacing, len(grid), stacked)
    unit = options.unit or raw.unit or "arbitrary"
    kind = np.complex64 if raw.array.dtype.kind == "c" else np.float32
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is found and said below
        values = raw.array.astype(kind)
    padding = None
    if unit_named(unit).range is not None:
        values, padding = _in_range(values, unit, options.clip, path)
    finite(values, path)  # a float64 may be too large for a float32
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    mask = None if padding is None else torch.from_numpy(padding)
    return Image(tensor, unit, spacing, name, (path,), raw.header, mask, regular=not stacked, channels=raw.channels)


def _in_range(values: np.ndarray, unit: str, clip: bool, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Clean the channels (C, *N) of a unit that has a range; what is padding in one channel is so in all of them."""
    if values.dtype.kind == "c":
        raise InputError(path, f"complex values in {unit}", f"real values: {unit} has no phase")
    cleaned = [clean(channel, unit, clip=clip) for channel in values]
    masks = [padding for _, padding, _ in cleaned if padding is not None]
    values = np.stack([channel for channel, _, _ in cleaned])
    if not masks:
        return values, None
    padding = np.logical_or.reduce(masks)
    limits = unit_named(unit).range
    assert limits is not None
    values[:, padding] = limits[0]
    return values, padding


def _spacing(path: Path, known: tuple[float, ...] | None, ndim: int, stacked: bool) -> tuple[float, ...]:
    needed, example = ("(dy, dx)", (0.7, 0.7)) if ndim == 2 or stacked else ("(dz, dy, dx)", (1.0, 0.7, 0.7))
    if known is None:
        raise InputError(path, "no spacing in the file", f"spacing {needed} in mm", "Give {spacing}.", spacing=example)
    if stacked and len(known) in (2, 3):
        return (math.nan, *known[-2:])
    if len(known) != ndim:
        hint = 'Give all three, or read the slices one by one with slices="independent".' if ndim == 3 else ""
        raise InputError(path, f"{len(known)} spacings for {ndim} axes", f"spacing {needed} in mm", hint)
    if not all(math.isfinite(s) and s > 0 for s in known):
        raise InputError(path, f"spacing {known}", "positive numbers in mm", "Give {spacing}.", spacing=example)
    return known


def one_gray_channel(image: Image, title: str, path: Path) -> None:
    """Refuse several channels and complex values, for a format whose files are written with one real number a voxel."""
    expected = f"one real gray channel to write as {title}"
    if image.values.shape[0] != 1:
        raise InputError(path, f"{image.values.shape[0]} channels ({', '.join(image.channels)})", expected)
    real(image, title, path)


def real(image: Image, title: str, path: Path) -> None:
    """Refuse complex values, for a format that has none."""
    if image.values.is_complex():
        raise InputError(path, "complex values", f"real values to write as {title}", "An npz file can hold them.")
