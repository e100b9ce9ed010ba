"""Reading DICOM: one slice, or the slices of one series, in Hounsfield units."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from pydicom.uid import UID

from retrodict._check import InputError
from retrodict.data.formats import dicom_file
from retrodict.data.image import IO_EXTRA, Image, clean, decoding, finite
from retrodict.data.units import unit as unit_named

__all__ = ["RESCALE_TYPES", "DicomHeader", "read_series", "read_slice", "series_key"]


NO_IMAGE = {"SR", "RTSTRUCT", "RTPLAN", "RTRECORD", "PR", "KO", "REG", "DOC", "AU"}


RESCALE_TYPES = {"HU": "HU"}  # our units that RescaleType can say; it is US, unspecified, for all others


WANTED = ["SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "Rows", "NumberOfFrames"]


@dataclass(frozen=True)
class DicomHeader:
    """What the writer needs, in slice order: data sets without their pixels, and the HU of the padding (or nan)."""

    datasets: tuple[Dataset, ...]
    padding_level: tuple[float, ...]


def series_key(path: Path) -> tuple[str, str] | None:
    """Return (series, series number) of a DICOM file, or None for an object that is no image (a report, a plan, ...).

    Files without a SeriesInstanceUID (some anonymizers empty it) belong to the series of their folder.  A file of many
    frames is a series by itself.  An image without a size is damaged: an `InputError`.
    """
    ds = dicom_file.dataset(path, header_only=True, tags=WANTED)
    with decoding(path, "DICOM"):  # pydicom decodes a tag when it is asked for, and fails only then
        kind = str(ds.get("SOPClassUID", "") or ds.file_meta.get("MediaStorageSOPClassUID", "") or "")
        if "Rows" not in ds:
            if str(ds.get("Modality", "")) in NO_IMAGE or (kind and "Image Storage" not in UID(kind).name):
                return None
            raise InputError(path, "no image (no Rows)", "a complete DICOM image", "The file is damaged.")
        uid = str(ds.get("SeriesInstanceUID", "") or "") or f"folder {path.parent}"
        many = int(ds.get("NumberOfFrames", 1) or 1) > 1
        return (f"{uid} {path}" if many else uid), str(ds.get("SeriesNumber", "") or "")


def _numbers(ds: Dataset, keyword: str, count: int, path: Path) -> np.ndarray:
    """Return the tag as `count` finite float64, or name file and tag in an `InputError`."""
    tag = f"{keyword} {Tag(keyword)}"
    value = ds.get(keyword)
    if value is None or value == "":
        raise InputError(path, f"no {tag}", f"the tag {keyword}", "Without it the pixels have no place in space.")
    with decoding(path, "DICOM"):
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise InputError(path, f"{tag} = {value}", f"{count} finite numbers")
    return numbers


@dataclass(frozen=True)
class _Slice:
    path: Path
    dataset: Dataset  # without its pixels
    values: np.ndarray  # (H, W) float32
    padding: np.ndarray | None  # (H, W) bool
    level: float
    unit: str
    spacing: tuple[float, float] | None  # (dy, dx) in mm
    position: np.ndarray  # (3,) mm
    axes: np.ndarray  # (6,) direction cosines of the rows and of the columns
    instance: int | None

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.axes[:3], self.axes[3:])


def _load(path: Path, expect: str | None, unit: str | None, spacing: Sequence[float] | None, clip: bool) -> _Slice:
    with decoding(path, "DICOM"):  # pydicom decodes a tag when it is asked for, and fails only then
        return _slice(dicom_file.dataset(path), path, expect, unit, spacing, clip)


def _slice(
    ds: Dataset, path: Path, expect: str | None, unit: str | None, spacing: Sequence[float] | None, clip: bool
) -> _Slice:
    _check_kind(ds, path, expect)
    unit = unit or ("HU" if str(ds.get("Modality", "")) == "CT" else "arbitrary")
    position = _numbers(ds, "ImagePositionPatient", 3, path)
    axes = _numbers(ds, "ImageOrientationPatient", 6, path)
    if abs(np.linalg.norm(axes[:3]) - 1) > 1e-2 or abs(np.linalg.norm(axes[3:]) - 1) > 1e-2:
        raise InputError(path, f"ImageOrientationPatient = {axes.tolist()}", "two unit vectors")
    grid = None
    if spacing is None:
        dy, dx = _numbers(ds, "PixelSpacing", 2, path)
        if min(dy, dx) <= 0:
            raise InputError(path, f"PixelSpacing = [{dy}, {dx}]", "two positive numbers in mm")
        grid = (float(dy), float(dx))
    stored = _pixels(ds, path)
    slope, intercept = _rescale(ds, path, unit)
    values = stored * slope + intercept
    finite(values, path)
    marked = _marked(ds, stored)
    cleaner = _clean_other if unit_named(unit).range is None else clean
    cleaned, padding, level = cleaner(values, unit, marked, clip)
    finite(cleaned, path)  # a float64 may be too large for a float32
    for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if keyword in ds:
            delattr(ds, keyword)
    number = ds.get("InstanceNumber")
    instance = None if number is None or number == "" else int(number)
    return _Slice(path, ds, cleaned, padding, level, unit, grid, position, axes, instance)


def _check_kind(ds: Dataset, path: Path, expect: str | None) -> None:
    modality = str(ds.get("Modality", "") or "none")
    if expect is not None and modality != expect:
        hint = "Give expect=None to read any modality; its values then have the unit 'arbitrary'."
        raise InputError(path, f"Modality {modality}", f"Modality {expect}", hint)
    if int(ds.get("SamplesPerPixel", 1) or 1) != 1 or "PALETTE" in str(ds.get("PhotometricInterpretation", "")):
        raise InputError(path, f"a color image ({ds.get('PhotometricInterpretation')})", "one gray value per pixel")
    if int(ds.get("NumberOfFrames", 1) or 1) != 1:
        raise InputError(path, f"{ds.NumberOfFrames} frames in one file", "one slice per file", "Convert it first.")
    if modality == "CT" and "LOCALIZER" in [str(t) for t in ds.get("ImageType", None) or []]:
        raise InputError(path, "a localizer (scout view)", "a reconstructed CT slice", "Leave this file out.")


def _pixels(ds: Dataset, path: Path) -> np.ndarray:
    """Return the stored pixels (H, W) as float64, or say whether they are missing, cut short or need a codec."""
    if not any(k in ds for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise InputError(path, "no pixel data", "a complete DICOM image", "The file is truncated or holds no image.")
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed:
        _check_codec(syntax, path)
    with decoding(path, "DICOM"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the length of the pixel data; what matters of it is checked below
        try:
            pixels = np.asarray(ds.pixel_array, dtype=np.float64)
        except ValueError as error:
            if "less than expected" in str(error) or "number of bytes" in str(error):
                rows, columns = ds.get("Rows"), ds.get("Columns")
                found = f"pixel data cut short ({len(ds.get('PixelData', b''))} bytes)"
                raise InputError(path, found, f"{rows} x {columns} pixels", "The file is truncated.") from error
            raise
    if pixels.ndim != 2:
        raise InputError(path, f"pixels of shape {pixels.shape}", "one gray slice (rows, columns)")
    return pixels


def _check_codec(syntax: Any, path: Path) -> None:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise InputError(path, f"transfer syntax {syntax.name}", "one that pydicom can decode") from error
    if decoder.is_available:
        return
    if "JPEG 2000" in syntax.name or "High-Throughput" in syntax.name:
        hint = f"Install it with: {IO_EXTRA}"
    else:
        hint = f"{IO_EXTRA} covers JPEG 2000 only; this syntax needs one of: {'; '.join(decoder.missing_dependencies)}"
    raise InputError(path, f"transfer syntax {syntax.name} ({syntax})", "a codec for it to be installed", hint)


def _rescale(ds: Dataset, path: Path, unit: str) -> tuple[float, float]:
    wanted = RESCALE_TYPES.get(unit)
    if wanted is not None:
        kind = str(ds.get("RescaleType", "") or wanted)
        if kind != wanted:
            expected = f"RescaleType {wanted}"
            raise InputError(path, f"RescaleType {kind}", expected, "Give unit= to read it in another unit.")
        slope, intercept = (float(_numbers(ds, k, 1, path)[0]) for k in ("RescaleSlope", "RescaleIntercept"))
    else:
        slope = float(_numbers(ds, "RescaleSlope", 1, path)[0]) if "RescaleSlope" in ds else 1.0
        intercept = float(_numbers(ds, "RescaleIntercept", 1, path)[0]) if "RescaleIntercept" in ds else 0.0
    if slope == 0:
        raise InputError(path, "RescaleSlope = 0", "a slope that is not zero")
    return slope, intercept


def _marked(ds: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Return the pixels (H, W) that hold PixelPaddingValue, or lie between it and PixelPaddingRangeLimit."""
    first = ds.get("PixelPaddingValue")
    if not isinstance(first, int):
        return None
    limit = ds.get("PixelPaddingRangeLimit")
    low, high = sorted((_signed(ds, first), _signed(ds, limit if isinstance(limit, int) else first)))
    marked = (stored >= low) & (stored <= high)
    # A file that calls every pixel padding has a wrong tag rather than no image.
    return marked if marked.any() and not marked.all() else None


def _signed(ds: Dataset, value: int) -> int:
    # Some writers give the padding with the wrong sign representation: 63536 for -2000 and the other way round.
    bits, signed = int(ds.BitsAllocated), int(ds.get("PixelRepresentation", 0)) == 1
    if signed and value >= 1 << (bits - 1):
        return value - (1 << bits)
    return value + (1 << bits) if not signed and value < 0 else value


def _clean_other(
    values: np.ndarray, unit: str, marked: np.ndarray | None, clip: bool
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Give padding the smallest valid value, in a unit without a range that would say what 'nothing' is."""
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is found and said later
        cleaned = values.astype(np.float32)
    if marked is None:
        return cleaned, None, math.nan
    level = float(values[marked].min())
    cleaned[marked] = cleaned[~marked].min()
    return cleaned, marked, level


def read_slice(
    path: Path, expect: str | None, unit: str | None, spacing: Sequence[float] | None, clip: bool = True
) -> Image:
    """Read one DICOM file as an image with N = (H, W)."""
    one = _load(path, expect, unit, spacing, clip)
    grid = one.spacing or tuple(float(s) for s in spacing or ())
    padding = None if one.padding is None else torch.from_numpy(one.padding)
    header = DicomHeader((one.dataset,), (one.level,))
    return Image(torch.from_numpy(one.values)[None], one.unit, grid, "dicom", (path,), header, padding)


def read_series(
    paths: Sequence[Path],
    expect: str | None,
    unit: str | None,
    spacing: Sequence[float] | None,
    independent: bool,
    allow_gaps: bool,
    clip: bool = True,
) -> Image:
    """Read the files of one series, in any order, as an image with N = (Z, H, W)."""
    slices = [_load(path, expect, unit, spacing, clip) for path in paths]
    _check_alike(slices, independent)
    slices = _sorted(slices)
    if independent:
        if not allow_gaps:
            _check_numbers(slices)
        dz = math.nan
    else:
        dz = _slice_spacing(slices)
    grid = _grid(slices[0].spacing, dz, spacing)
    values = torch.from_numpy(np.stack([s.values for s in slices]))[None]
    padding = None
    if any(s.padding is not None for s in slices):
        blank = np.zeros(slices[0].values.shape, bool)
        padding = torch.from_numpy(np.stack([blank if s.padding is None else s.padding for s in slices]))
    header = DicomHeader(tuple(s.dataset for s in slices), tuple(s.level for s in slices))
    files = tuple(s.path for s in slices)
    return Image(values, slices[0].unit, grid, "dicom-series", files, header, padding, regular=not independent)


def _grid(plane: tuple[float, float] | None, dz: float, given: Sequence[float] | None) -> tuple[float, ...]:
    if plane is not None:
        return (dz, *plane)
    asked = tuple(float(s) for s in given or ())
    return asked if len(asked) == 3 else (dz, *asked)


def _check_alike(slices: list[_Slice], independent: bool) -> None:
    """Raise one `InputError` that names the files whose size, pixel spacing or orientation is not that of the rest."""
    sizes = {s.path: f"{s.values.shape[0]} x {s.values.shape[1]} pixels" for s in slices}
    _check_same(sizes, "of one size")
    _check_same({s.path: f"unit {s.unit}" for s in slices}, "of one modality")
    if slices[0].spacing is not None:
        _check_same(_labels(slices, "PixelSpacing", lambda s: np.array(s.spacing)), "of one pixel spacing")
    if independent:
        # Blocks of different gantry tilt may be mixed where no slice depends on its neighbor; different planes may not.
        crossed = {s.path: "parallel" if s.normal @ slices[0].normal > 0.8 else "another plane" for s in slices}
        _check_same(crossed, "in about the same plane")
    else:
        _check_same(_labels(slices, "orientation", lambda s: s.axes), "of one orientation")


def _labels(slices: list[_Slice], what: str, of: Callable[[_Slice], np.ndarray]) -> dict[Path, str]:
    """Describe each slice by the first slice whose numbers agree with its own to one part in a thousand."""
    kinds: list[np.ndarray] = []
    labels = {}
    for one in slices:
        kind = next((k for k in kinds if np.allclose(of(one), k, rtol=1e-3, atol=1e-3)), None)
        if kind is None:
            kinds.append(kind := of(one))
        labels[one.path] = f"{what} " + " x ".join(f"{v:.4g}" for v in kind)
    return labels


def _check_same(described: dict[Path, str], expected: str) -> None:
    kinds: dict[str, list[Path]] = {}
    for path, text in described.items():
        kinds.setdefault(text, []).append(path)
    if len(kinds) == 1:
        return
    parts = [f"{len(paths)} slice(s) with {text} ({_names(paths)})" for text, paths in kinds.items()]
    folder = next(iter(described)).parent
    raise InputError(folder, "; ".join(parts), f"slices all {expected}", "Leave out the files that do not belong.")


def _names(paths: Sequence[Path], most: int = 4) -> str:
    more = f", and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(p.name for p in paths[:most]) + more


def _sorted(slices: list[_Slice]) -> list[_Slice]:
    """Sort by the position along the normal of the first slice; two slices at one position are an `InputError`."""
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda s: (float(s.position @ normal), s.path.name))
    for one, two in pairwise(ordered):
        if abs(float((two.position - one.position) @ normal)) < 1e-3:
            place = f"{float(one.position @ normal):.3f} mm"
            found = f"{one.path.name} and {two.path.name} at the same position {place}"
            raise InputError(one.path.parent, found, "one file per position", "Leave one of them out.")
    return ordered


INDEPENDENT = 'To restore the slices one by one, read it with slices="independent".'


def _slice_spacing(slices: list[_Slice]) -> float:
    """Return the distance between slices in mm; a hole, an uneven or a sheared stack is an `InputError`."""
    normal, folder = slices[0].normal, slices[0].path.parent
    places = np.array([s.position for s in slices])
    gaps = np.diff(places @ normal)
    middle = float(np.median(gaps))
    tolerance = max(0.02 * middle, 0.01)
    uneven = np.flatnonzero(np.abs(gaps - middle) > tolerance)
    if uneven.size:
        steps = gaps / middle
        where = "; ".join(
            f"{gaps[i]:.2f} mm between {slices[i].path.name} and {slices[i + 1].path.name}" for i in uneven[:4]
        )
        more = f"; {uneven.size - 4} more" if uneven.size > 4 else ""
        holes = bool(np.all((np.round(steps[uneven]) >= 2) & (np.abs(steps - np.round(steps))[uneven] < 0.1)))
        kind = "missing slices: " if holes else "uneven slice distances: "
        raise InputError(folder, f"{kind}{where}{more}", f"{middle:.2f} mm between all slices", INDEPENDENT)
    _check_shear(places, slices)
    return float(np.mean(gaps))


def _check_shear(places: np.ndarray, slices: list[_Slice]) -> None:
    # With a tilted gantry the stack is a sheared box; its columns through the slices are not columns in the patient.
    offset = places - places[0]
    axes = slices[0].axes.reshape(2, 3)  # direction of increasing column, then of increasing row
    dy, dx = slices[0].spacing or (1.0, 1.0)
    drift = np.abs(offset @ axes.T) / np.array([dx, dy])
    if drift.max() > 0.5:
        found = f"slices shifted against each other by up to {drift.max():.1f} pixels (tilted gantry)"
        raise InputError(slices[0].path.parent, found, "slices stacked along their normal", INDEPENDENT)


def _check_numbers(slices: list[_Slice]) -> None:
    """Raise an `InputError` that names the slices missing from the InstanceNumbers, where there are such numbers."""
    numbers = sorted({s.instance for s in slices if s.instance is not None})
    if len(numbers) != len(slices) or len(numbers) < 3:
        return
    steps = np.diff(numbers)
    usual = float(np.median(steps))
    holes = [(numbers[i], numbers[i + 1]) for i in np.flatnonzero(steps > 1.5 * usual)]
    if holes:
        where = "; ".join(f"nothing between InstanceNumber {a} and {b}" for a, b in holes[:4])
        hint = "If the files were left out on purpose, give allow_gaps=True."
        raise InputError(slices[0].path.parent, f"missing slices: {where}", "every slice of the series", hint)
