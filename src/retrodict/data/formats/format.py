"""What the package has to know of a file format, and what the readers and writers of all formats share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrodict._check import InputError
from retrodict.data.image import Image, Source, decoding, in_memory
from retrodict.data.limits import check_regular

__all__ = [
    "MARK",
    "PLANES",
    "Format",
    "Labels",
    "Raw",
    "ReadOptions",
    "file_reader",
    "mark",
    "marked",
    "one_gray_channel",
    "real",
]


class ReadOptions(NamedTuple):
    """What a caller of `read` may ask; see there. `spacing` is checked to be positive numbers."""

    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    expect: str | None = "CT"
    independent: bool = False
    allow_gaps: bool = False
    clip: bool = True
    plane: str | None = None


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
    read_only : extensions of files that are read and that no result gets.
    probe : says whether a file is of this format by its first bytes, whatever its extension.
    made : the mark of this program that a file carries, "retrodict ROLE" (see `mark`), or "".
    parts : other files in the same folder that are part of this one, such as the .raw of an .mhd.
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
    read_only: tuple[str, ...] = ()
    made: Callable[[Path], str] | None = None
    parts: Callable[[Path], tuple[Path, ...]] | None = None


MARK = "retrodict"


def mark(labels: Labels) -> str:
    """Return what a writer puts into a file so that it is known as made by this program, and as what."""
    return f"{MARK} {labels.role}"


def marked(labels: Labels) -> str:
    """Return the mark and the description in one line, for a format with one text field."""
    text = " ".join(labels.description.split()).removeprefix(f"{MARK} ")
    return f"{mark(labels)}: {text}" if text else mark(labels)


@dataclass(frozen=True)
class Raw:
    """What a file holds: array (C, *N) with N = (H, W) or (Z, H, W), real or complex numbers.

    spacing : mm per axis of N; None or fewer numbers than axes where it is not known. unit : None where not known.
    channels : their names; () for the usual ones (see `Image`). axes : as in `Image`.
    frames : what the first axis of N is where it is none of space, such as "a time series (T)"; "" where it is.
    note : why there is no spacing, where there is more to say than that.
    """

    array: np.ndarray
    spacing: tuple[float, ...] | None
    unit: str | None
    header: object
    channels: tuple[str, ...] = ()
    axes: tuple[tuple[float, float, float], ...] = ()
    frames: str = ""
    note: str = ""


def file_reader(name: str, load: Callable[[Path], Raw]) -> Callable[[Source, ReadOptions], Image]:
    """Make the `read` of a format that is one file: `load` decodes, and unit, spacing and values are checked here."""

    def read(source: Source, options: ReadOptions) -> Image:
        path = source.paths[0]
        check_regular(path)
        with decoding(path, name), np.errstate(all="ignore"):  # what overflows is found as infinite
            return _image(load(path), path, name, options)

    return read


def _image(raw: Raw, path: Path, name: str, options: ReadOptions) -> Image:
    raw, order = _in_plane(raw, options.plane)
    grid = raw.array.shape[1:]
    if raw.frames and not options.independent:
        hint = 'Read them one by one with slices="independent".'
        raise InputError(path, f"{grid[0]} frames, {raw.frames}", "slices that lie side by side in space", hint)
    stacked = options.independent and len(grid) == 3
    spacing = _spacing(path, options.spacing, raw, stacked)
    unit = options.unit or raw.unit or "arbitrary"
    values, padding = in_memory(raw.array, unit, options.clip, path)
    made: dict[str, Any] = {"header": raw.header, "padding": padding, "regular": not stacked}
    return Image(values, unit, spacing, name, (path,), channels=raw.channels, axes=raw.axes, order=order, **made)


PLANES = ("sagittal", "coronal", "axial")
"""By the axis of the patient (right, anterior, superior) that the plane is perpendicular to."""


def _in_plane(raw: Raw, plane: str | None) -> tuple[Raw, tuple[int, ...]]:
    """Return a volume with its axes in the order in which the last two lie in `plane`, and that order; () as it was.

    Only axes are exchanged: no value changes, and none is mirrored.
    """
    if plane is None or len(raw.axes) != 3 or raw.frames:
        return raw, ()
    along = [int(np.abs(axis).argmax()) for axis in raw.axes]  # the axis of the patient that each axis is nearest to
    wanted = (PLANES.index(plane), *(axis for axis in (2, 1, 0) if axis != PLANES.index(plane)))
    if along[0] == wanted[0] or sorted(along) != [0, 1, 2]:
        return raw, ()
    order = tuple(along.index(axis) for axis in wanted)
    spacing = raw.spacing if raw.spacing is None or len(raw.spacing) != 3 else tuple(raw.spacing[i] for i in order)
    array = raw.array.transpose(0, *(1 + i for i in order))
    return replace(raw, array=array, spacing=spacing, axes=tuple(raw.axes[i] for i in order)), order


def _spacing(path: Path, given: tuple[float, ...] | None, raw: Raw, stacked: bool) -> tuple[float, ...]:
    ndim, known = raw.array.ndim - 1, given or raw.spacing
    needed, example = ("(dy, dx)", (0.7, 0.7)) if ndim == 2 or stacked else ("(dz, dy, dx)", (1.0, 0.7, 0.7))
    expected, hint = f"spacing {needed} in mm", "Give {spacing}."
    if known is None:
        raise InputError(path, raw.note or "no spacing in the file", expected, hint, spacing=example)
    if stacked and len(known) in (2, 3):
        known = (math.nan, *known[-2:])
    if len(known) != ndim:
        if ndim == 3:
            hint = 'Give all three, or read the slices one by one with slices="independent".'
        raise InputError(path, f"{len(known)} spacings for {ndim} axes", expected, hint, spacing=example)
    if not all(math.isfinite(s) and s > 0 for s in known[1 if stacked else 0 :]):
        raise InputError(path, f"spacing {known}", "positive numbers in mm", hint, spacing=example)
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
