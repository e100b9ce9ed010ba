"""Finding, reading and writing images: one function each for all formats."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from retrodict._check import InputError, choice
from retrodict._output import write_file, write_folder
from retrodict.data.discovery import Found, LeftOut, discover, find, summarized
from retrodict.data.formats import accepted_suffixes, format_named, known_suffixes
from retrodict.data.formats.format import PLANES, Labels, ReadOptions
from retrodict.data.image import Image, Source, finite, mm_of

__all__ = ["Found", "LeftOut", "check_writable", "discover", "find", "read", "write"]


def read(
    source_or_path: Source | str | Path,
    *,
    spacing: Sequence[float] | None = None,
    unit: str | None = None,
    expect: str | None = "CT",
    slices: str = "volume",
    allow_gaps: bool = False,
    clip: bool = True,
    plane: str | None = None,
) -> Image:
    """Read a source, a file, or a folder that holds exactly one source.

    spacing : mm per axis, (dy, dx) or (dz, dy, dx); used instead of what the file says. Needed for PNG, and for npz and
        TIFF files that carry none.
    unit : used instead of what the file says. DICOM CT and an npz array called `hu` are in "HU", an npz may name its
        `unit`, everything else is "arbitrary". Values in HU are clipped to [-1024, 3071], and those outside the
        reconstruction circle become -1024 and are marked in `padding`.
    expect : the Modality a DICOM file must have; None accepts any.
    slices : "volume" needs slices at equal distances along their normal. "independent" reads each slice for itself: the
        slices are stacked all the same, but the first spacing is nan and `regular` is False.
    allow_gaps : accept missing slices (only with "independent").
    clip : False keeps HU values beyond [-1024, 3071], such as the noise of air in a measured image.
    plane : "axial", "coronal" or "sagittal": a volume of NIfTI, MetaImage or NRRD whose slices lie in another plane is
        read with its axes exchanged so that they lie in this one (`Image.order`); `write` exchanges them back. Other
        files stay as they are: `Image.plane` says how.

    Gray images, and in PNG, TIFF and npz also RGB or named channels, in npz also complex values; where only gray will
    do, say `read(...).gray()`.
    """
    choice("slices", slices, ("volume", "independent"))
    if plane is not None:
        choice("plane", plane, PLANES)
    source = source_or_path if isinstance(source_or_path, Source) else _single(Path(source_or_path))
    row = format_named(source.format, source.paths[0])
    options = ReadOptions(_given_spacing(spacing), unit, expect, slices == "independent", allow_gaps, clip, plane)
    return row.read(source, options)


def _single(path: Path) -> Source:
    found = find(path)
    if not found.sources:  # whoever reads a folder of results means them
        found = find(path, results=True)
    sources = found.sources
    if len(sources) == 1:
        return sources[0]
    failed = [left for left in found.left_out if left.failed]
    if failed and not sources:
        raise failed[0].error or InputError(failed[0].path, failed[0].reason, "a file that can be opened")
    count = f"{len(sources)} images or series" + (": " + ", ".join(s.name for s in sources[:6]) if sources else "")
    lost = summarized(found.left_out) if not sources else []
    hint = "Give the path of one of them." if sources else "Left out: " + "; ".join(lost) + "." if lost else ""
    raise InputError(path, count, "exactly one", hint)


def _given_spacing(spacing: Sequence[float] | None) -> tuple[float, ...] | None:
    if spacing is None:
        return None
    given = mm_of(spacing)
    if not given or not all(math.isfinite(s) and s > 0 for s in given):
        raise InputError("spacing", str(spacing), "positive numbers in mm")
    return given


def write(
    image: Image,
    destination: str | Path,
    *,
    like: Image,
    role: str,
    description: str,
    force: bool = False,
    series_uid: str | None = None,
) -> list[Path]:
    """Write `image` in the format and geometry of `like`, the image it was derived from, and return the paths.

    role : "mean", "sd", "sample-000", "difference", ...; lower case letters, digits, "-" and "_".
    destination : a file, or a new folder for a DICOM series. A missing extension is added.
    force : replace what is there; without it, it is an `InputError`. The source itself is never replaced.
    series_uid : the SeriesInstanceUID of written DICOM files, to put slices written one by one into one series.

    Everything appears complete or not at all: `OutputError` if the file system refuses. NIfTI is written as float32
    with the affine untouched, TIFF as float32 with the same resolution tags, npz as float32 or complex64 with its other
    arrays, and .mha as NIfTI (.nii.gz). A PNG source gives a PNG of its bit depth if every value is a whole number in
    its range, and a float32 TIFF (.tif) otherwise: nothing is rounded unseen. DICOM: see `formats.dicom_write.encode`.
    `check_writable` says before a long computation what would be refused here because of `like`.
    """
    destination = _target(like, Path(destination))
    _check_result(image, like, role, destination)
    row = format_named(like.format, destination)
    result = replace(
        like, values=image.with_values(image.values.detach().cpu()).values, unit=image.unit, channels=image.channels
    )
    files = iter(row.encode(_as_stored(result), Labels(destination, role, description, series_uid)))
    if row.written == "":
        return write_folder(destination, files, force=force, only=row.suffixes[0])
    name, content = next(files)
    return [write_file(destination.with_name(name), content, force=force)]


def check_writable(like: Image, destination: str | Path | None = None) -> None:
    """Raise now the `InputError` that `write(..., destination, like=like)` would raise after the computation.

    Tries header, channels, kind of numbers and optional packages, and where a destination is given its extension and
    that it is not the source; not the file system. Costs about a millisecond, and a few for each DICOM slice.
    """
    row = format_named(like.format, destination or "Image")
    path = Path(f"result{row.written}") if destination is None else _target(like, Path(destination))
    row.check(_as_stored(like), path)


def _as_stored(image: Image) -> Image:
    """Return the image with its axes in the order of the file, where `read` exchanged them."""
    if not image.order:
        return image
    back = tuple(image.order.index(i) for i in range(len(image.order)))
    padding = None if image.padding is None else image.padding.permute(back).contiguous()
    values = image.values.permute(0, *(1 + i for i in back)).contiguous()
    spacing, axes = (tuple(these[i] for i in back) for these in (image.spacing, image.axes))
    return replace(image, values=values, padding=padding, spacing=spacing, axes=axes, order=())


def _check_result(image: Image, like: Image, role: str, destination: Path) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", role):
        raise InputError("role", repr(role), "lower case letters, digits, - and _, such as mean or sample-000")
    if image.values.shape != like.values.shape:
        expected = f"{tuple(like.values.shape)}, the size of the source"
        raise InputError(destination, f"an image of shape {tuple(image.values.shape)}", expected)
    finite(image.values.detach().cpu().numpy(), destination)


def _target(like: Image, destination: Path) -> Path:
    """Return the path with the extension of the format; the source, and another extension, are `InputError`s."""
    row = format_named(like.format, destination)
    path = _with_suffix(destination, row.written, accepted_suffixes(row)) if row.written else destination
    # The source is the file, or the folder of the series, that the result was made from: not even by force.
    originals = {p.resolve() for p in like.source}
    if row.written == "":
        originals = {parent for p in originals for parent in p.parents}
    if path.resolve() in originals:
        raise InputError(path, "the source of this result", "another path", "The original is never replaced.")
    return path


def _with_suffix(path: Path, default: str, allowed: tuple[str, ...]) -> Path:
    """Add the extension where there is none of ours; an extension of another format is an `InputError`."""
    if path.name.lower().endswith(allowed):
        return path
    if path.name.lower().endswith(known_suffixes()):
        found = max((s for s in known_suffixes() if path.name.lower().endswith(s)), key=len)
        raise InputError(path, f"the extension {found}", f"{' or '.join(allowed)}, the format of the source")
    return path.with_name(path.name + default)
