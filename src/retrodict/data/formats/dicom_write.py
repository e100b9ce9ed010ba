"""Writing DICOM: derived slices that keep patient, study and geometry of the slices they were made from."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from retrodict._check import InputError
from retrodict.data.formats.dicom_read import RESCALE_TYPES, DicomHeader
from retrodict.data.formats.format import Labels, one_gray_channel
from retrodict.data.image import Image
from retrodict.data.units import unit as unit_named

__all__ = ["check", "encode"]


LOWEST = -3072.0  # HU; padding below this would cost the valid range its resolution


STALE = (
    "PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue", "LargestImagePixelValue",
    "SmallestPixelValueInSeries", "LargestPixelValueInSeries", "ModalityLUTSequence", "IconImageSequence",
    "PixelDataProviderURL", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "DigitalSignaturesSequence",
    "MACParametersSequence", "NumberOfFrames", "PixelAspectRatio", "RedPaletteColorLookupTableDescriptor",
)  # fmt: skip


IMAGE_ROLES = ("mean", "sample", "median", "quantile", "input", "measured")


OFFSETS = {"mean": 1000, "sd": 2000, "difference": 3000, "sample": 4000}


def is_image(role: str) -> bool:
    """Say whether the role is an image like its source ("mean", "sample-000", ...) rather than a map ("sd", ...)."""
    return role.startswith(IMAGE_ROLES)


def check(image: Image, path: Path) -> None:
    """Refuse what `encode` would refuse: the header of every slice is derived and encoded, without its pixels."""
    one_gray_channel(image, "DICOM", path)
    header = _header(image)
    context = _context(header, Labels(path, "mean", ""), image.unit)
    for index, source in enumerate(header.datasets):
        _bytes(_derived(source, index, image.values.shape[-2:], context))


def encode(image: Image, labels: Labels) -> Iterator[tuple[str, bytes]]:
    """Yield a DICOM file for each slice, in slice order: 0001.dcm, ..., or the one file that the labels name.

    The stored pixels are uint16 with one RescaleSlope and RescaleIntercept for the series. An HU image of a role like
    "mean" or "sample-000" is clipped to [-1024, 3071] as the reader would, its padding gets a stored value of its own,
    and its quantization is at most 0.05 HU; a map such as "sd" is 0 in the padding and as fine as its range allows.
    """
    one_gray_channel(image, "DICOM", labels.path)
    header = _header(image)
    slices = image.values[0].numpy()
    single = slices.ndim == 2
    slices = slices[None] if single else slices
    padding = None if image.padding is None else image.padding.numpy().reshape(slices.shape)
    coder = _Coder.fit(slices, padding, header, image.unit, labels.role)
    context = _context(header, labels, image.unit)
    for index, source in enumerate(header.datasets):
        ds = _derived(source, index, slices[index].shape, context)
        _set_pixels(ds, slices[index], None if padding is None else padding[index], coder, context)
        yield labels.path.name if single else f"{index + 1:04d}.dcm", _bytes(ds)


def _header(image: Image) -> DicomHeader:
    header = image.header
    if not isinstance(header, DicomHeader):
        raise InputError(image.format, "no DICOM header", "an image as it was read", "A resampled image has lost it.")
    count = image.values.shape[1] if image.values.ndim == 4 else 1
    if len(header.datasets) != count:
        raise InputError(image.format, f"{count} slices to write", f"{len(header.datasets)}, the number of the source")
    return header


class _Context:
    """What all slices of a written series have in common."""

    def __init__(self, role: str, description: str, series: str, study: str, now: datetime, unit: str) -> None:
        self.role, self.series, self.study, self.unit = role, series, study, unit
        self.description = description.encode("ascii", "replace").decode()[:1024]  # whatever the character set
        self.date, self.time = now.strftime("%Y%m%d"), now.strftime("%H%M%S.%f")


def _context(header: DicomHeader, labels: Labels, unit: str) -> _Context:
    series = labels.series_uid or generate_uid()
    return _Context(labels.role, labels.description, series, _study(header), datetime.now(), unit)


class _Coder:
    """The map between values and stored numbers of a series: value = slope * stored + intercept."""

    def __init__(
        self,
        slope: float,
        intercept: float,
        level: float,
        clip: tuple[float, float] | None,
        window: tuple[float, float] | None,
    ) -> None:
        self.slope, self.intercept, self.level, self.clip, self.window = slope, intercept, level, clip, window

    @classmethod
    def fit(cls, slices: np.ndarray, padding: np.ndarray | None, header: DicomHeader, unit: str, role: str) -> _Coder:
        # noise below the range of a unit is part of a measurement
        clip = unit_named(unit).range if is_image(role) and role != "measured" else None
        low, high = _range(slices, padding)
        window = None
        if not is_image(role):
            some = slices.reshape(-1)[:: max(1, slices.size // 1_000_000)]  # a window needs no exact quantile
            window = (min(low, 0.0), max(float(np.quantile(some, 0.995)), 1e-6))
        level = math.nan
        if clip is not None:
            bottom, top = clip
            low, high = max(low, bottom), min(high, top)
            low, high = min(low, top), max(high, bottom)
        if padding is not None:
            level = _padding_level(header, low, clip)
            low, high = min(low, level), max(high, level)
        slope = _nice((high - low) / 65533)
        return cls(slope, math.floor(low / slope) * slope, level, clip, window)

    def stored(self, values: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
        values = values.astype(np.float64)  # a float32 would add its own rounding
        values = values if self.clip is None else np.clip(values, *self.clip)
        if padding is not None:
            values = np.where(padding, self.level, values)
        return np.clip(np.rint((values - self.intercept) / self.slope), 0, 65535).astype("<u2")


def _range(slices: np.ndarray, padding: np.ndarray | None) -> tuple[float, float]:
    """Return the smallest and largest valid value; slice by slice, because a series may be large."""
    masks = [np.zeros(s.shape, bool) for s in slices] if padding is None or padding.all() else padding
    valid = [s[~m] for s, m in zip(slices, masks, strict=True) if not m.all()]
    return min(float(v.min()) for v in valid), max(float(v.max()) for v in valid)


def _padding_level(header: DicomHeader, low: float, clip: tuple[float, float] | None) -> float:
    """Return the value to write in the padding.

    In an HU image it is the one the source had, kept below every valid value so that no valid pixel is taken for
    padding when the file is read again, and above -3072 HU so that it costs no resolution. A map has nothing there: 0.
    """
    if clip is None:
        return 0.0
    air = clip[0]
    known = [v for v in header.padding_level if not math.isnan(v)]
    return min(max(min(known, default=air), LOWEST), math.floor(min(low, air)) - 1.0)


def _nice(least: float) -> float:
    """Return the smallest 1, 2 or 5 times a power of ten that is at least `least`: exact as a decimal string.

    Its multiples include every whole number (as long as it is below one), so integer HU survive unchanged.
    """
    power = math.floor(math.log10(max(least, 1e-7)))
    return next(c for p in (power, power + 1) for m in (1, 2, 5) if (c := float(f"{m}e{p}")) >= least * (1 - 1e-12))


def _study(header: DicomHeader) -> str:
    """Return the StudyInstanceUID; where the source has none, one that is the same for everything written from it."""
    first = header.datasets[0]
    known = str(first.get("StudyInstanceUID", "") or "")
    frame = str(first.get("FrameOfReferenceUID", "") or "")
    return known or generate_uid(entropy_srcs=["retrodict study", *([frame] if frame else _reference(first))])


def _reference(source: Dataset) -> tuple[str, str]:
    """Return (class, instance) UID of a slice, from the file's own preamble where the data set has none."""
    meta = source.file_meta
    kind = str(source.get("SOPClassUID", "") or meta.get("MediaStorageSOPClassUID", "") or CTImageStorage)
    instance = str(source.get("SOPInstanceUID", "") or meta.get("MediaStorageSOPInstanceUID", "") or "")
    return kind, instance or generate_uid(entropy_srcs=["retrodict", Path(str(source.filename)).name])


def _derived(source: Dataset, index: int, shape: tuple[int, ...], context: _Context) -> Dataset:
    """Return the data set of a slice to write, still without pixels."""
    if tuple(shape) != (source.Rows, source.Columns):
        raise InputError(source.filename, f"{tuple(shape)} pixels to write", f"{(source.Rows, source.Columns)}")
    ds = Dataset()
    ds.update(copy.deepcopy({e.tag: e for e in source if e.tag.group != 0x0002}))
    _drop_stale(ds)
    _identify(ds, source, index, context)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def _bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _drop_stale(ds: Dataset) -> None:
    """Drop what no longer holds: pixel statistics, overlays, and private elements, of which nobody can say."""
    ds.remove_private_tags()
    for keyword in STALE:
        if keyword in ds:
            delattr(ds, keyword)
    for tag in [e.tag for e in ds if 0x5000 <= e.tag.group <= 0x50FF or 0x6000 <= e.tag.group <= 0x60FF]:
        del ds[tag]


def _identify(ds: Dataset, source: Dataset, index: int, context: _Context) -> None:
    """Give the slice its own identity and name the slice it was derived from."""
    kind, instance = _reference(source)
    ds.SOPClassUID, ds.SOPInstanceUID = kind, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = context.study, context.series
    old = [str(t) for t in source.get("ImageType", None) or []]
    code = "".join(c if c.isalnum() else "_" for c in context.role.upper())[:16]
    ds.ImageType = ["DERIVED", "SECONDARY", *(old[2:3] or ["AXIAL"]), code]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, instance
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = DicomSequence([purpose])
    ds.SourceImageSequence = DicomSequence([item])
    ds.DerivationDescription = context.description
    tail = f" | retrodict {context.role}"
    ds.SeriesDescription = f"{str(source.get('SeriesDescription', '') or '')[: 64 - len(tail)]}{tail}".strip()
    ds.SeriesNumber = int(source.get("SeriesNumber", 0) or 0) + _offset(context.role)
    if ds.get("InstanceNumber") in (None, ""):
        ds.InstanceNumber = index + 1
    ds.ContentDate = ds.SeriesDate = ds.InstanceCreationDate = context.date
    ds.ContentTime = ds.SeriesTime = ds.InstanceCreationTime = context.time


def _offset(role: str) -> int:
    name, _, number = role.partition("-")
    return OFFSETS.get(name, 9000) + (int(number) if number.isdecimal() else 0)


def _set_pixels(ds: Dataset, values: np.ndarray, padding: np.ndarray | None, coder: _Coder, context: _Context) -> None:
    stored = coder.stored(values, padding)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 16, 16, 15, 0, 1
    ds.RescaleSlope, ds.RescaleIntercept = f"{coder.slope:.12g}", f"{coder.intercept:.12g}"
    ds.RescaleType = RESCALE_TYPES.get(context.unit, "US")
    if coder.clip is not None and padding is not None and padding.any():
        code = round((coder.level - coder.intercept) / coder.slope)
        ds.add_new("PixelPaddingValue", "US", code)
    if coder.window is not None:
        # The window of the source would show a map of a few HU as one shade of gray.
        low, high = coder.window
        ds.WindowCenter, ds.WindowWidth = f"{(low + high) / 2:.9g}", f"{high - low:.9g}"
        for keyword in ("WindowCenterWidthExplanation", "VOILUTSequence", "VOILUTFunction"):
            if keyword in ds:
                delattr(ds, keyword)
    ds.add_new("PixelData", "OW", stored.tobytes())
