"""Finding, reading and writing images: one function each for all formats."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from retrodict._check import InputError, choice
from retrodict._output import write_file, write_folder
from retrodict.data.formats import dicom_read as _dicom
from retrodict.data.formats import dicom_write as _dicom_out
from retrodict.data.formats import files as _files
from retrodict.data.image import Image, Source, clean_hu, finite

__all__ = ["discover", "read", "write"]

SUFFIXES = {
    "dicom": (".dcm", ".dicom", ".ima"),
    "nifti": (".nii", ".nii.gz"),
    "tiff": (".tif", ".tiff"),
    "png": (".png",),
    "npz": (".npz",),
    "mha": (".mha",),
}


def _format(path: Path) -> str | None:
    """Return the format of a file by its extension; without one (or with a number, as in a UID) by the DICM mark."""
    name = path.name.lower()
    for kind, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    bare = path.suffix == "" or path.suffix[1:].isdigit()
    return "dicom" if bare and _dicom.probe(path) else None


def discover(path: str | Path) -> list[Source]:
    """Return what can be read at `path`, in a fixed order.

    A file is one source. A folder is searched with its subfolders: DICOM files are grouped by SeriesInstanceUID
    (format "dicom-series", or "dicom" where there is one file), every other readable file is a source by itself.
    Hidden files and files that are no image by their extension are left out. A path that does not exist, a file that
    is no image, and a DICOM file that cannot be opened are `InputError`s.
    """
    path = Path(path)
    if path.is_dir():
        return _discover_folder(path)
    if not path.exists():
        raise InputError(path, "nothing", "a file or a folder")
    kind = _format(path)
    if kind is None:
        known = " ".join(s for suffixes in SUFFIXES.values() for s in suffixes)
        raise InputError(path, "a file of unknown format", f"DICOM or one of {known}")
    return [Source((path,), kind, _stem(path))]


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted((s for suffixes in SUFFIXES.values() for s in suffixes), key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _discover_folder(folder: Path) -> list[Source]:
    series: dict[str, list[Path]] = {}
    numbers: dict[str, str] = {}
    sources = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        kind = _format(path)
        if kind == "dicom":
            key = _dicom.series_key(path)
            if key is not None:
                series.setdefault(key[0], []).append(path)
                numbers.setdefault(*key)
        elif kind is not None:
            sources.append(Source((path,), kind, "_".join((*inside.parent.parts, _stem(path)))))
    sources += _series_sources(folder, series, numbers)
    return _uniquely_named(sorted(sources, key=lambda s: s.paths[0]))


def _series_sources(folder: Path, series: dict[str, list[Path]], numbers: dict[str, str]) -> list[Source]:
    """Name each series after its folder, with the series number where the folder holds more than one."""
    parents = [files[0].parent for files in series.values()]
    sources = []
    for uid, files in series.items():
        parts = files[0].parent.relative_to(folder).parts
        name = "_".join(parts) or folder.resolve().name or "series"
        if parents.count(files[0].parent) > 1 and numbers[uid]:
            name += f"-{numbers[uid]}"
        sources.append(Source(tuple(files), "dicom" if len(files) == 1 else "dicom-series", name))
    return sources


def _uniquely_named(sources: list[Source]) -> list[Source]:
    seen: dict[str, int] = {}
    named = []
    for source in sources:
        base = re.sub(r"[^\w.+-]", "_", source.name)
        name = base
        while name in seen:
            seen[base] += 1
            name = f"{base}-{seen[base]}"
        seen[name] = 1
        named.append(replace(source, name=name))
    return named


def read(
    source_or_path: Source | str | Path,
    *,
    spacing: Sequence[float] | None = None,
    unit: str | None = None,
    expect: str | None = "CT",
    slices: str = "volume",
    allow_gaps: bool = False,
    clip: bool = True,
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
    """
    choice("slices", slices, ("volume", "independent"))
    source = source_or_path if isinstance(source_or_path, Source) else _single(Path(source_or_path))
    independent = slices == "independent"
    given = _given_spacing(spacing)
    first = source.paths[0]
    if source.format == "dicom" or (source.format == "dicom-series" and len(source.paths) == 1):
        _check_count(given, 2, first)
        return _dicom.read_slice(first, expect, unit, given, clip)
    if source.format == "dicom-series":
        _check_count(given, 2, first) if independent or (given and len(given) == 2) else _check_count(given, 3, first)
        return _dicom.read_series(source.paths, expect, unit, given, independent, allow_gaps, clip)
    return _read_file(source, given, unit, independent, clip)


def _single(path: Path) -> Source:
    sources = discover(path)
    if len(sources) != 1:
        found = f"{len(sources)} images or series" + (": " + ", ".join(s.name for s in sources[:6]) if sources else "")
        raise InputError(path, found, "exactly one", "Give the path of one of them." if sources else "")
    return sources[0]


def _given_spacing(spacing: Sequence[float] | None) -> tuple[float, ...] | None:
    if spacing is None:
        return None
    given = tuple(float(s) for s in spacing)
    if not given or not all(math.isfinite(s) and s > 0 for s in given):
        raise InputError("spacing", str(spacing), "positive numbers in mm")
    return given


def _check_count(given: tuple[float, ...] | None, count: int, path: Path) -> None:
    if given is not None and len(given) != count:
        raise InputError("spacing", f"{len(given)} numbers", f"{count} for {path.name}")


def _read_file(
    source: Source, given: tuple[float, ...] | None, unit: str | None, independent: bool, clip: bool
) -> Image:
    path = source.paths[0]
    raw = _files.read_raw(path, source.format)
    if raw.array.size == 0:
        raise InputError(path, f"an empty image of shape {raw.array.shape}", "at least one pixel")
    finite(raw.array, path)
    stacked = independent and raw.array.ndim == 3
    spacing = _file_spacing(path, given or raw.spacing, raw.array.ndim, stacked)
    unit = unit or raw.unit or "arbitrary"
    padding = None
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is found and said below
        values = raw.array.astype(np.float32)
    if unit == "HU":
        values, padding, _ = clean_hu(values, clip=clip)
    mask = None if padding is None else torch.from_numpy(padding)
    finite(values, path)  # a float64 may be too large for a float32
    tensor = torch.from_numpy(np.ascontiguousarray(values))[None]
    return Image(tensor, unit, spacing, source.format, (path,), raw.header, mask, regular=not stacked)


def _file_spacing(path: Path, known: tuple[float, ...] | None, ndim: int, stacked: bool) -> tuple[float, ...]:
    needed = "(dy, dx)" if ndim == 2 or stacked else "(dz, dy, dx)"
    if known is None:
        raise InputError(path, "no spacing in the file", f"spacing {needed} in mm", f"Give spacing={needed}.")
    if stacked and len(known) in (2, 3):
        return (math.nan, *known[-2:])
    if len(known) != ndim:
        hint = 'Give all three, or read the slices one by one with slices="independent".' if ndim == 3 else ""
        raise InputError(path, f"{len(known)} spacings for {ndim} axes", f"spacing {needed} in mm", hint)
    if not all(math.isfinite(s) and s > 0 for s in known):
        raise InputError(path, f"spacing {known}", "positive numbers in mm", f"Give spacing={needed}.")
    return known


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
    with the affine untouched, TIFF as float32 with the same resolution tags, npz as float32 with its other arrays, and
    .mha as NIfTI (.nii.gz). A PNG source gives a PNG of its bit depth if every value is a whole number in its range,
    and a float32 TIFF (.tif) otherwise: nothing is rounded unseen. DICOM: see `_dicom_out.encode`.
    """
    destination = Path(destination)
    _check_output(image, like, role, destination)
    image = image.with_values(image.values.detach().cpu())
    if like.format == "dicom-series":
        _refuse_source(destination, like)
        contents = _dicom_out.encode(image, like, role, description, series_uid)
        return write_folder(
            destination, ((f"{i:04d}.dcm", c) for i, c in enumerate(contents, 1)), force=force, only=".dcm"
        )
    destination, content = _encode_file(image, destination, like, role, description, series_uid)
    _refuse_source(destination, like)
    write_file(destination, content, force=force)
    return [destination]


def _check_output(image: Image, like: Image, role: str, destination: Path) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", role):
        raise InputError("role", repr(role), "lower case letters, digits, - and _, such as mean or sample-000")
    if tuple(image.values.shape) != (1, *like.values.shape[1:]):
        expected = f"{(1, *like.values.shape[1:])}, the size of the source"
        raise InputError(destination, f"an image of shape {tuple(image.values.shape)}", expected)
    finite(image.values.detach().cpu().numpy(), destination)


def _refuse_source(destination: Path, like: Image) -> None:
    """Refuse to write over the file, or into the folder of the series, that the result was made from, even by force."""
    originals = {p.resolve() for p in like.source}
    if like.format == "dicom-series":
        originals = {parent for p in originals for parent in p.parents}
    if destination.resolve() in originals:
        raise InputError(destination, "the source of this result", "another path", "The original is never replaced.")


def _encode_file(
    image: Image, destination: Path, like: Image, role: str, description: str, series_uid: str | None
) -> tuple[Path, bytes]:
    """Return the final path and the bytes of a format that is one file."""
    if like.format == "dicom":
        path = _with_suffix(destination, ".dcm", SUFFIXES["dicom"])
        return path, next(_dicom_out.encode(image, like, role, description, series_uid))
    if like.format in ("nifti", "mha"):
        path = _with_suffix(destination, ".nii.gz", SUFFIXES["nifti"])
        return path, _files.encode_nifti(image, like, description, path)
    if like.format == "tiff":
        path = _with_suffix(destination, ".tif", SUFFIXES["tiff"])
        return path, _files.encode_tiff(image, like, description, path)
    if like.format == "npz":
        return _with_suffix(destination, ".npz", SUFFIXES["npz"]), _files.encode_npz(image, like, role, description)
    if like.format == "png":
        path = _with_suffix(destination, ".png", SUFFIXES["png"])
        content = _files.encode_png(image, like, description, path)
        if content is not None:
            return path, content
        path = path.with_suffix(".tif")
        return path, _files.encode_tiff(image, like, description, path)
    raise InputError(destination, f"format {like.format!r}", "dicom, dicom-series, nifti, tiff, png, npz or mha")


def _with_suffix(path: Path, default: str, allowed: tuple[str, ...]) -> Path:
    """Add the extension where there is none of ours; an extension of another format is an `InputError`."""
    if path.name.lower().endswith(allowed):
        return path
    others = tuple(s for suffixes in SUFFIXES.values() for s in suffixes)
    if path.name.lower().endswith(others):
        raise InputError(path, f"the extension {path.suffix}", f"{' or '.join(allowed)}, the format of the source")
    return path.with_name(path.name + default)
