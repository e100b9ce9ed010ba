"""Reading DICOM: a slice, the frames of a file, or the files of one series, in Hounsfield units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydicom.dataset import Dataset
from pydicom.uid import UID

from retrodict._check import InputError
from retrodict.data.formats import dicom_file
from retrodict.data.formats.dicom_frames import frame_count, integer, modality, numbers, of_frame, words
from retrodict.data.formats.dicom_header import writable
from retrodict.data.formats.dicom_pixels import LOSSY, stored_frames, values_of
from retrodict.data.formats.dicom_series import Slice, check_alike, check_numbers, in_order, slice_spacing
from retrodict.data.formats.format import ReadOptions
from retrodict.data.formats.space import unit_axes
from retrodict.data.image import Image, decoding
from retrodict.data.limits import check_size

__all__ = ["DicomHeader", "read_file", "read_series", "series_key"]


NO_IMAGE = {"SR", "RTSTRUCT", "RTPLAN", "RTRECORD", "PR", "KO", "REG", "DOC", "AU"}


SCOUTS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW"}  # words of ImageType


PLACED = {"CT", "MR", "PT"}  # modalities whose slices have a place in the patient


DETECTOR = ("ImagerPixelSpacing", "NominalScannedPixelSpacing")  # spacing of projections and scanned films


WANTED = ["SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "Rows", "NumberOfFrames"]


@dataclass(frozen=True)
class DicomHeader:
    """What the writer needs, in slice order: data sets without their pixels, and the HU of the padding (or nan).

    frames : for an image that is one file of several frames, with one data set, the frame of each slice.
    """

    datasets: tuple[Dataset, ...]
    padding_level: tuple[float, ...]
    frames: tuple[int, ...] = ()


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
        many = integer(ds, "NumberOfFrames", path, 1) > 1
        return (f"{uid} {path}" if many else uid), str(ds.get("SeriesNumber", "") or "")


def read_file(path: Path, options: ReadOptions) -> Image:
    """Read one DICOM file: an image with N = (H, W), or (Z, H, W) where it has several frames."""
    slices, notes = _load(path, dicom_file.dataset(path), options)
    if len(slices) == 1:
        return _single(slices[0], options, notes)
    image = _stacked(slices, options, set(), notes)
    return replace(image, format="dicom", source=(path,))


def _single(one: Slice, options: ReadOptions, notes: list[str]) -> Image:
    grid = one.spacing or tuple(options.spacing or ())
    if len(grid) != 2:
        raise InputError("spacing", f"{len(grid)} numbers", f"2 for {one.path.name}")
    padding = None if one.padding is None else torch.from_numpy(one.padding)
    header = DicomHeader((one.dataset,), (one.level,))
    values, axes = torch.from_numpy(one.values)[None], _axes(one)[1:]
    return Image(values, one.unit, grid, "dicom", (one.path,), header, padding, axes=axes, notes=tuple(notes))


def read_series(paths: Sequence[Path], options: ReadOptions) -> Image:
    """Read the files of one series, in any order, as an image with N = (Z, H, W).

    A scout view, a screenshot without a place in the patient and a second copy of a slice are left out; the notes of
    the image name them.
    """
    slices: list[Slice] = []
    notes: list[str] = []
    strangers: dict[Path, str] = {}
    known: set[int] = set()
    for path in paths:
        ds = dicom_file.dataset(path)
        reason = _stranger(ds, path)
        if reason:
            strangers[path] = reason
            known.add(_instance(ds, path) or 0)
            continue
        loaded, said = _load(path, ds, options)
        if len(loaded) > 1:
            raise InputError(path, f"{len(loaded)} frames", "one slice per file in a series of several files")
        check_size(path.parent, (len(paths), *loaded[0].values.shape))
        slices += loaded
        notes += [note for note in said if note not in notes]
    if not slices:
        path, reason = next(iter(strangers.items()))
        raise InputError(path, reason, "a reconstructed slice", "Leave this file out.")
    notes += [f"{path.name}: left out, {reason}" for path, reason in strangers.items()]
    slices = _without_copies(slices, notes)
    if len(slices) == 1:
        return _single(slices[0], options, notes)
    return _stacked(slices, options, known, notes)


def _stranger(ds: Dataset, path: Path) -> str:
    """Say why a file of a series is none of its slices; "" for one that is."""
    with decoding(path, "DICOM"):
        said = words(ds)
        if SCOUTS & set(said):
            return "a localizer (scout view)"
        if modality(ds) in PLACED and of_frame(ds, 0, "ImagePositionPatient") is None and "SECONDARY" in said:
            return "a secondary capture without a place in the patient"
        return ""


def _without_copies(slices: list[Slice], notes: list[str]) -> list[Slice]:
    """Leave out the second of two files that are one and the same object."""
    kept: dict[str, Slice] = {}
    for one in slices:
        uid = str(one.dataset.get("SOPInstanceUID", "") or one.path)
        first = kept.setdefault(uid, one)
        if first is one:
            continue
        if np.array_equal(first.values, one.values) and np.array_equal(first.position, one.position, equal_nan=True):
            notes.append(f"{one.name}: left out, a copy of another file")
        else:
            kept[f"{uid} {one.path}"] = one  # one UID for two images: an anonymizer's fault, not a copy
    return list(kept.values())


def _stacked(slices: list[Slice], options: ReadOptions, known: set[int], notes: list[str]) -> Image:
    check_alike(slices, options.independent)
    slices = in_order(slices)
    dz = math.nan
    if options.independent:
        if not options.allow_gaps:
            check_numbers(slices, known)
    else:
        for one in (s for s in slices if not s.placed):  # says what is missing
            numbers(one.dataset, one.frame, "ImagePositionPatient", 3, one.path)
            numbers(one.dataset, one.frame, "ImageOrientationPatient", 6, one.path)
        dz = slice_spacing(slices)
    values = torch.from_numpy(np.stack([s.values for s in slices]))[None]
    padding = None
    if any(s.padding is not None for s in slices):
        blank = np.zeros(slices[0].values.shape, bool)
        padding = torch.from_numpy(np.stack([blank if s.padding is None else s.padding for s in slices]))
    levels = tuple(s.level for s in slices)
    if slices[0].frames > 1:
        header = DicomHeader((slices[0].dataset,), levels, tuple(s.frame for s in slices))
    else:
        header = DicomHeader(tuple(s.dataset for s in slices), levels)
    return Image(
        values,
        slices[0].unit,
        _grid(slices[0].spacing, dz, options.spacing),
        "dicom-series",
        tuple(s.path for s in slices),
        header,
        padding,
        regular=not options.independent,
        axes=_axes(slices[0]),
        notes=tuple(notes),
    )


def _axes(one: Slice) -> tuple[tuple[float, float, float], ...]:
    """Unit vectors to right, anterior and superior across the slice, down and across its rows; () without a place."""
    if not one.placed:
        return ()
    to_ras = np.array([-1.0, -1.0, 1.0])  # DICOM counts to the left, posterior and superior
    return unit_axes(np.stack([one.normal, one.axes[3:], one.axes[:3]]) * to_ras)


def _grid(plane: tuple[float, float] | None, dz: float, given: Sequence[float] | None) -> tuple[float, ...]:
    if plane is not None:
        return (dz, *plane)
    asked = tuple(float(s) for s in given or ())
    return asked if len(asked) == 3 else (dz, *asked)


# ---- one file ----------------------------------------------------------------------------------------------------


def _load(path: Path, ds: Dataset, options: ReadOptions) -> tuple[list[Slice], list[str]]:
    """Return every frame of a file, and what has to be said of the file."""
    notes: list[str] = []
    with decoding(path, "DICOM"):  # pydicom decodes a tag when it is asked for, and fails only then
        _check_kind(ds, path, options.expect)
        unit = options.unit or _unit(ds)
        count = frame_count(ds, path)
        places = [_place(ds, i, path, count, options.spacing is None, notes) for i in range(count)]
        stored = stored_frames(ds, path)
        values = [values_of(stored[i], ds, i, path, options.unit, unit, options.clip) for i in range(count)]
        _flag_lossy(ds, path, notes)
        header, lost = writable(ds)
        header.filename, header.file_meta = str(path), ds.file_meta
        if lost:
            notes.append(f"{path.name}: not in the results, because it cannot be encoded, is {', '.join(lost[:6])}")
        instance = _instance(ds, path)
    return [
        Slice(path, header, i, count, *frame, unit, *place, instance if count == 1 else None)
        for i, (frame, place) in enumerate(zip(values, places, strict=True))
    ], notes


def _check_kind(ds: Dataset, path: Path, expect: str | None) -> None:
    found = modality(ds)
    if expect is not None and found != expect:
        hint = "Give {expect} to read any modality; its values are then in the unit 'arbitrary', or in that of {unit}."
        raise InputError(path, f"Modality {found}", f"Modality {expect}", hint, expect=None, unit=...)
    if integer(ds, "SamplesPerPixel", path, 1) != 1 or "PALETTE" in str(ds.get("PhotometricInterpretation", "")):
        raise InputError(path, f"a color image ({ds.get('PhotometricInterpretation')})", "one gray value per pixel")
    if found == "CT" and SCOUTS & set(words(ds)):
        raise InputError(path, "a localizer (scout view)", "a reconstructed CT slice", "Leave this file out.")


def _unit(ds: Dataset) -> str:
    known = modality(ds)
    return "HU" if known == "CT" or (known == "none" and of_frame(ds, 0, "RescaleType") == "HU") else "arbitrary"


def _place(
    ds: Dataset, frame: int, path: Path, count: int, spaced: bool, notes: list[str]
) -> tuple[tuple[float, float] | None, np.ndarray, np.ndarray]:
    """Return spacing (where it is asked for), position and axes of a frame; nan for what a projection does not have."""
    position, axes = np.full(3, math.nan), np.full(6, math.nan)
    keywords = ("ImagePositionPatient", "ImageOrientationPatient")
    if (modality(ds) in PLACED and count == 1) or all(of_frame(ds, frame, k) is not None for k in keywords):
        position, axes = numbers(ds, frame, keywords[0], 3, path), numbers(ds, frame, keywords[1], 6, path)
        lengths = [np.linalg.norm(axes[:3]), np.linalg.norm(axes[3:])]
        if np.abs(np.array(lengths) - 1).max() > 1e-2 or abs(axes[:3] @ axes[3:]) > 1e-2:
            raise InputError(path, f"ImageOrientationPatient = {axes.tolist()}", "two unit vectors at a right angle")
    return (_pixel_spacing(ds, frame, path, notes) if spaced else None), position, axes


def _pixel_spacing(ds: Dataset, frame: int, path: Path, notes: list[str]) -> tuple[float, float]:
    keyword = "PixelSpacing"
    if of_frame(ds, frame, keyword) is None and modality(ds) not in PLACED:
        keyword = next((k for k in DETECTOR if of_frame(ds, frame, k) is not None), keyword)
        if keyword != "PixelSpacing" and frame == 0:
            notes.append(f"{path.name}: the pixel spacing is {keyword}, that of the detector and not of the object")
    dy, dx = numbers(ds, frame, keyword, 2, path)
    if min(dy, dx) <= 0:
        raise InputError(path, f"{keyword} = [{dy}, {dx}]", "two positive numbers in mm")
    return float(dy), float(dx)


def _flag_lossy(ds: Dataset, path: Path, notes: list[str]) -> None:
    """Note a lossy compression, and flag it in the header where the transfer syntax alone tells of it."""
    flagged = str(ds.get("LossyImageCompression", "") or "") == "01"
    if not flagged and ds.file_meta.get("TransferSyntaxUID") in LOSSY:
        ds.LossyImageCompression, flagged = "01", True
    if flagged:
        notes.append("lossy compression (LossyImageCompression 01), whose errors are no noise of the instrument")


def _instance(ds: Dataset, path: Path) -> int | None:
    """The InstanceNumber; None where there is none, or none that is a number: nothing depends on it."""
    try:
        return integer(ds, "InstanceNumber", path)
    except Exception:  # also what pydicom raises on a value that is no number
        return None
