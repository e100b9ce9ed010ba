"""The pixels of a DICOM file: as they are stored, and as values in a unit."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from retrodict._check import InputError
from retrodict.data.formats.dicom_frames import frame_count, integer, number, of_frame
from retrodict.data.image import IO_EXTRA, clean, decoding, finite
from retrodict.data.limits import check_size
from retrodict.data.units import unit as unit_named

__all__ = ["LOSSY", "PIXELS", "RESCALE_TYPES", "Values", "stored_frames", "values_of"]


PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


RESCALE_TYPES = {"HU": "HU"}  # our units that RescaleType can say; it is US, unspecified, for all others


SPELLINGS = {"HOUNSFIELD": "HU", "HOUNSFIELD UNIT": "HU", "HOUNSFIELD UNITS": "HU"}


LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81")  # always lossy


class Values(NamedTuple):
    """One frame: values (H, W) float32, padding (H, W) bool or None, and the value that the padding had (or nan)."""

    values: np.ndarray
    padding: np.ndarray | None
    level: float


def stored_frames(ds: Dataset, path: Path) -> np.ndarray:
    """Return the stored pixels (frames, H, W), or say whether they are missing, too many, cut short or need a codec."""
    if not any(k in ds for k in PIXELS):
        raise InputError(path, "no pixel data", "a complete DICOM image", "The file is truncated or holds no image.")
    shape = (frame_count(ds, path), integer(ds, "Rows", path), integer(ds, "Columns", path))
    bits = integer(ds, "BitsAllocated", path)
    if min(shape) < 1 or bits not in (8, 16, 32, 64):
        raise InputError(path, f"{' x '.join(map(str, shape))} pixels of {bits} bits", "pixels of 8, 16, 32 or 64 bits")
    check_size(path, shape, bits / 8)
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed and syntax.is_encapsulated:
        _check_codec(syntax, path)
        _check_codestream(ds, syntax, shape, path)
    pixels = _decoded(ds, path)
    if pixels.ndim not in (2, 3) or pixels.shape[-2:] != shape[1:] or pixels.size != math.prod(shape):
        raise InputError(
            path, f"pixels of shape {pixels.shape}", f"{shape[0]} gray frame(s) of {shape[1]} x {shape[2]}"
        )
    pixels = pixels.reshape(shape)
    return pixels if pixels.dtype.kind == "f" else _valued_bits(pixels, ds, path)


def _decoded(ds: Dataset, path: Path) -> np.ndarray:
    with decoding(path, "DICOM"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the length of the pixel data; what matters of it is checked below
        try:
            # pydicom would cut off the bits above BitsStored unseen; what they hold is judged in _valued_bits.
            return np.asarray(pixel_array(ds, correct_unused_bits=False))
        except ValueError as error:
            if "less than expected" in str(error) or "number of bytes" in str(error):
                rows, columns = ds.get("Rows"), ds.get("Columns")
                found = f"pixel data cut short ({len(ds.get('PixelData', b''))} bytes)"
                raise InputError(path, found, f"{rows} x {columns} pixels", "The file is truncated.") from error
            raise


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


def _check_codestream(ds: Dataset, syntax: Any, shape: tuple[int, int, int], path: Path) -> None:
    """Refuse frames whose own header declares another size than the data set: a decoder would make room for that."""
    if syntax in JPEG2000TransferSyntaxes:
        measured = _size_of_jpeg2000
    elif syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        measured = _size_of_jpeg
    else:
        return
    with decoding(path, "DICOM"):
        for frame in generate_frames(ds.PixelData, number_of_frames=shape[0]):
            size = measured(frame)
            if size is not None and size != shape[1:]:
                found = f"a compressed frame of {size[0]} x {size[1]} pixels"
                raise InputError(path, found, f"{shape[1]} x {shape[2]}, as the data set says", "The file is damaged.")


def _size_of_jpeg2000(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns of the SIZ segment (ISO/IEC 15444-1, A.5.1), the first one of the codestream."""
    start = stream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0:
        return None
    right, bottom, left, top = (int.from_bytes(stream[start + i : start + i + 4], "big") for i in (8, 12, 16, 20))
    return bottom - top, right - left


def _size_of_jpeg(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns of the first frame header, SOF (ISO/IEC 10918-1, B.2.2; JPEG-LS has one of its own)."""
    place = 2
    while place + 9 <= len(stream) and stream[place] == 0xFF:
        kind = stream[place + 1]
        if kind == 0xF7 or (0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)):
            rows, columns = (int.from_bytes(stream[place + i : place + i + 2], "big") for i in (5, 7))
            return rows, columns
        place += 1 if kind == 0xFF else 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    return None


def _valued_bits(pixels: np.ndarray, ds: Dataset, path: Path) -> np.ndarray:
    """Return the numbers in the bits that hold them: BitsStored of them, the highest one at HighBit (PS3.5, 8.1.1)."""
    allocated = integer(ds, "BitsAllocated", path)
    bits = integer(ds, "BitsStored", path, allocated)
    high, signed = integer(ds, "HighBit", path, bits - 1), integer(ds, "PixelRepresentation", path, 0) == 1
    if not (1 <= bits <= high + 1 <= allocated):
        found = f"BitsAllocated {allocated}, BitsStored {bits}, HighBit {high}"
        raise InputError(path, found, "the stored bits to lie in the allocated ones")
    if bits == allocated:
        return pixels
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if high == bits - 1:
        beyond = (pixels < least) | (pixels > most)
        padding = ds.get("PixelPaddingValue")
        if isinstance(padding, int):
            beyond &= pixels != _signed(ds, padding)
        if not beyond.any():
            return pixels
        # Bits above may hold an overlay (retired), and those of negative numbers may be left 0: what is below counts.
        unextended = signed and int(pixels.min()) >= 0 and int(pixels.max()) < 1 << bits
        if not unextended and not _overlay_bits(ds, bits):
            count = int(np.count_nonzero(beyond))
            hint = "BitsStored is wrong, or the pixels are damaged: they can be read in two ways."
            raise InputError(path, f"{count} pixels beyond {bits} stored bits", f"{least} to {most}", hint)
    raw = pixels.astype(np.int64) >> (high + 1 - bits) & ((1 << bits) - 1)
    return np.where(raw > most, raw - (1 << bits), raw) if signed else raw


def _overlay_bits(ds: Dataset, bits: int) -> bool:
    places = [e.value for e in ds if e.tag.group & 0xFF01 == 0x6000 and e.tag.element == 0x0102]
    return any(isinstance(p, int) and p >= bits for p in places)


def values_of(
    stored: np.ndarray, ds: Dataset, frame: int, path: Path, asked: str | None, unit: str, clip: bool
) -> Values:
    """Return the values in `unit` of a frame stored as (H, W); `asked` is the unit that a user gave, if one did."""
    values = _rescaled(stored, ds, frame, path, asked, unit)
    finite(values, path)
    marked = _marked(ds, stored)
    cleaner = _clean_other if unit_named(unit).range is None else clean
    cleaned = Values(*cleaner(values, unit, marked, clip))
    finite(cleaned.values, path)  # a float64 may be too large for a float32
    return cleaned


def _rescaled(stored: np.ndarray, ds: Dataset, frame: int, path: Path, asked: str | None, unit: str) -> np.ndarray:
    wanted = RESCALE_TYPES.get(unit)
    table = ds.get("ModalityLUTSequence")
    said = of_frame(ds, frame, "RescaleType") or (table[0].get("ModalityLUTType") if table else None) or wanted
    kind = str(said or "").strip().upper()
    if wanted is not None and asked is None and SPELLINGS.get(kind, kind) != wanted:
        hint = "Give {unit} to read it all the same, or another unit."
        raise InputError(path, f"RescaleType {said}", f"RescaleType {wanted}", hint, unit=wanted)
    given = [of_frame(ds, frame, k) is not None for k in ("RescaleSlope", "RescaleIntercept")]
    if table and not any(given):
        with decoding(path, "DICOM"):
            return np.asarray(apply_modality_lut(stored.astype(np.int64), ds), dtype=np.float64)
    slope, intercept = 1.0, 0.0
    if given[0] or wanted is not None:
        slope = number(ds, frame, "RescaleSlope", path)
    if given[1] or wanted is not None:
        intercept = number(ds, frame, "RescaleIntercept", path)
    if slope == 0:
        raise InputError(path, "RescaleSlope = 0", "a slope that is not zero")
    return stored.astype(np.float64) * slope + intercept


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
    bits, signed = int(ds.BitsAllocated), int(ds.get("PixelRepresentation", 0) or 0) == 1
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
