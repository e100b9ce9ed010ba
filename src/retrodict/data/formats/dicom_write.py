"""Writing DICOM: derived slices that keep patient, study and geometry of the slices they were made from."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import generate_uid
from pydicom.valuerep import format_number_as_ds

from retrodict._check import InputError
from retrodict.data.formats.dicom_derived import Series, code, derived, is_image, study_of
from retrodict.data.formats.dicom_frames import SHARED, has_groups
from retrodict.data.formats.dicom_pixels import RESCALE_TYPES
from retrodict.data.formats.dicom_read import DicomHeader
from retrodict.data.formats.format import Labels, one_gray_channel
from retrodict.data.image import Image
from retrodict.data.units import unit as unit_named

__all__ = ["check", "encode"]


LOWEST = -3072.0  # HU; padding below this would cost the valid range its resolution


STEP = 0.1  # HU; wider steps of an image are said


FINE = 1e-3  # of the bulk of a map: steps coarser than this take 32 bits


UCUM = {"HU": ("[hnsf'U]", "UCUM", "Hounsfield unit")}


def check(image: Image, path: Path) -> None:
    """Refuse what `encode` would refuse: the header of every file is derived and encoded, without its pixels."""
    one_gray_channel(image, "DICOM", path)
    header = _header(image)
    for role in ("mean", "sd"):
        series = _series(header, Labels(path, role, ""))
        for index, source in enumerate(header.datasets):
            with _encoding(source):
                _bytes(derived(source, index, image.values.shape[-2:], series))


def encode(image: Image, labels: Labels) -> Iterator[tuple[str, bytes]]:
    """Yield a DICOM file for each slice, in slice order: 0001.dcm, ..., or the one file that the labels name.

    The stored pixels are uint16 with one RescaleSlope and RescaleIntercept for the series, which hold every value: an
    image of less than 6553 HU in steps of 0.1 HU or less, a wider one in coarser steps that DerivationDescription
    names.  Nothing is clipped.  The padding of an image of a role like "mean" or "sample-000" gets a
    stored value of its own.  A map such as "sd" is a Secondary Capture, 0 in the padding, and of 32 bits where a few
    large values would make 16 coarse.  A multi-frame source gives one multi-frame file.
    """
    one_gray_channel(image, "DICOM", labels.path)
    header = _header(image)
    slices = image.values[0].numpy()
    single = slices.ndim == 2
    slices = slices[None] if single else slices
    padding = None if image.padding is None else image.padding.numpy().reshape(slices.shape)
    coder = _Coder.fit(slices, padding, header, image.unit, labels.role)
    series = _series(header, labels)
    if coder.coarse:
        series = replace(series, description=_with_step(series.description, coder.slope, image.unit))
    for index, source in enumerate(header.datasets):
        with _encoding(source):
            ds = derived(source, index, slices.shape[-2:], series)
            part = np.argsort(header.frames) if header.frames else np.array([index])
            _set_pixels(ds, slices[part], None if padding is None else padding[part], coder, image.unit)
            content = _bytes(ds)
        yield (labels.path.name if single or header.frames else f"{index + 1:04d}.dcm"), content


def _header(image: Image) -> DicomHeader:
    header = image.header
    if not isinstance(header, DicomHeader):
        raise InputError(image.format, "no DICOM header", "an image as it was read", "A resampled image has lost it.")
    count = image.values.shape[1] if image.values.ndim == 4 else 1
    held = len(header.frames) or len(header.datasets)
    if held != count:
        raise InputError(image.format, f"{count} slices to write", f"{held}, the number of the source")
    return header


def _series(header: DicomHeader, labels: Labels) -> Series:
    first = header.datasets[0]
    dated = str(first.get("PatientIdentityRemoved", "") or "") != "YES" or bool(first.get("StudyDate"))
    return Series(labels.role, labels.description, labels.series_uid or generate_uid(), study_of(first), dated)


def _with_step(description: str, slope: float, unit: str) -> str:
    step = f"; stored in steps of {slope:g} {unit}"
    return f"{description[: 1024 - len(step)]}{step}"


@contextmanager
def _encoding(source: Dataset) -> Generator[None]:
    """Turn whatever pydicom raises while it encodes into an `InputError` that names the source."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(".")
        found = f"a header that cannot be written ({reason})"
        raise InputError(getattr(source, "filename", None) or "DICOM", found, "a valid DICOM header") from error


class _Coder(NamedTuple):
    """The map between values and stored numbers of a series: value = slope * stored + intercept.

    level : value of the padding; window : (lowest, highest) to show a map with, None for an image; bits : 16 or 32;
    coarse : whether the steps are wider than they should be, because of the range and the bits.
    """

    slope: float
    intercept: float
    level: float
    window: tuple[float, float] | None
    bits: int
    coarse: bool

    @classmethod
    def fit(cls, slices: np.ndarray, padding: np.ndarray | None, header: DicomHeader, unit: str, role: str) -> _Coder:
        low, high = _range(slices, padding)
        window, level, bits, coarse = None, math.nan, 16, False
        if not is_image(role):
            some = slices.reshape(-1)[:: max(1, slices.size // 1_000_000)]  # quantiles need not be exact
            bulk = float(np.quantile(np.abs(some[some != 0]), 0.95)) if some.any() else 0.0
            window = (min(low, 0.0), max(min(float(np.quantile(some, 0.995)), 3 * bulk), 1e-6))
            coarse = (max(high, 0.0) - min(low, 0.0)) / 65533 > FINE * bulk > 0
            bits = 32 if coarse and not header.frames else 16  # multi-frame secondary captures have 16 (PS3.3, A.8.4)
        if padding is not None:
            level = _padding_level(header, low, unit if is_image(role) else "")
            low, high = min(low, level), max(high, level)
        # A constant image has no range; decimal strings hold some eleven digits beside sign, point and exponent.
        step = max((high - low) / (2**bits - 3), 1e-11 * max(abs(low), abs(high)), 1e-30)
        slope = _nice(step)
        intercept = float(_decimal(math.floor(low / slope) * slope))
        wide = (
            slope > STEP if window is None and unit in RESCALE_TYPES else bits == 16 and window is not None and coarse
        )
        return cls(slope, intercept, level, window, bits, wide)

    def stored(self, values: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
        values = values.astype(np.float64)  # a float32 would add its own rounding
        if padding is not None:
            values = np.where(padding, self.level, values)
        numbers = np.rint((values - self.intercept) / self.slope)
        return np.clip(numbers, 0, 2**self.bits - 1).astype(f"<u{self.bits // 8}")


def _range(slices: np.ndarray, padding: np.ndarray | None) -> tuple[float, float]:
    """Return the smallest and largest valid value; slice by slice, because a series may be large."""
    masks = [np.zeros(s.shape, bool) for s in slices] if padding is None or padding.all() else padding
    valid = [s[~m] for s, m in zip(slices, masks, strict=True) if not m.all()]
    return min(float(v.min()) for v in valid), max(float(v.max()) for v in valid)


def _padding_level(header: DicomHeader, low: float, unit: str) -> float:
    """Return the value to write in the padding.

    In an HU image it is the one the source had, kept below every valid value so that no valid pixel is taken for
    padding when the file is read again, and above -3072 HU so that it costs no resolution. A map has nothing there: 0.
    """
    limits = unit_named(unit).range
    if limits is None:
        return 0.0
    known = [v for v in header.padding_level if not math.isnan(v)]
    return min(max(min(known, default=limits[0]), LOWEST), math.floor(min(low, limits[0])) - 1.0)


def _decimal(value: float) -> str:
    """The number as a decimal string of at most 16 characters (PS3.5, 6.2), as exact as they allow."""
    text = repr(float(value)).removesuffix(".0")
    return text if len(text) <= 16 else format_number_as_ds(float(value))


def _nice(least: float) -> float:
    """Return the smallest 1, 2 or 5 times a power of ten that is at least `least`: exact as a decimal string.

    Its multiples include every whole number (as long as it is below one), so integer HU survive unchanged.
    """
    power = math.floor(math.log10(least))
    return next(c for p in (power, power + 1) for m in (1, 2, 5) if (c := float(f"{m}e{p}")) >= least * (1 - 1e-12))


def _bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _set_pixels(ds: Dataset, values: np.ndarray, padding: np.ndarray | None, coder: _Coder, unit: str) -> None:
    """Put the frames (F, H, W) into the data set, with all that says what their stored numbers mean."""
    image = coder.window is None
    ds.BitsAllocated = ds.BitsStored = coder.bits
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = coder.bits - 1, 0, 1
    rescale = Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = _decimal(coder.slope), _decimal(coder.intercept)
    rescale.RescaleType = RESCALE_TYPES.get(unit, "US") if image else "US"
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        if keyword in ds:
            delattr(ds, keyword)
    if has_groups(ds) and image:
        ds[SHARED].value[0].PixelValueTransformationSequence = DicomSequence([rescale])
    else:
        ds.update(rescale)
    if image and unit_named(unit).range is not None and padding is not None and padding.any():
        ds.add_new("PixelPaddingValue", "US", round((coder.level - coder.intercept) / coder.slope))
    if coder.window is not None:
        low, high = coder.window
        ds.WindowCenter, ds.WindowWidth = f"{(low + high) / 2:.9g}", f"{high - low:.9g}"
        if coder.bits == 16:
            ds.RealWorldValueMappingSequence = _meaning(ds, coder, unit)
    ds.add_new("PixelData", "OW", coder.stored(values, padding).tobytes())


def _meaning(ds: Dataset, coder: _Coder, unit: str) -> DicomSequence:
    """Say in a real world value mapping what a map is of and in which unit: RescaleType has no word for either."""
    item = Dataset()
    item.RealWorldValueSlope, item.RealWorldValueIntercept = coder.slope, coder.intercept
    item.add_new("RealWorldValueFirstValueMapped", "US", 0)
    item.add_new("RealWorldValueLastValueMapped", "US", 65535)
    item.LUTLabel, item.LUTExplanation = str(ds.ImageType[3])[:16], f"{ds.ImageType[3]} of values in {unit}"[:64]
    item.MeasurementUnitsCodeSequence = code(*UCUM.get(unit, ("[arb'U]", "UCUM", "arbitrary unit")))
    if ds.ImageType[3] == "STD_DEVIATION":
        quantity = Dataset()
        quantity.ValueType = "CODE"
        quantity.ConceptNameCodeSequence = code("246205007", "SCT", "Quantity")
        quantity.ConceptCodeSequence = code("386136009", "SCT", "Standard Deviation")
        item.QuantityDefinitionSequence = DicomSequence([quantity])
    return DicomSequence([item])
