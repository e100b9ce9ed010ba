"""The values of a TIFF file: complete, unpacked within what the file declares, and with a second way to unpack."""

from __future__ import annotations

import contextlib
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._check import InputError

__all__ = ["values"]


DEFLATE = (8, 32946, 50013)


UNCHECKED = 2**26
"""Bytes that deflate may unpack to without being counted first; it packs at most 1032 to 1."""


def values(path: Path, series: Any, page: Any) -> np.ndarray:
    """Return the values of a series of pages like `page`, or an `InputError` that says what is missing."""
    _check_segments(path, series, page)
    try:
        return series.asarray()
    except (ImportError, ValueError) as error:
        if isinstance(error, ValueError) and "imagecodecs" not in str(error):
            raise
        found = _by_pillow(path, series, page)
        if found is None:
            kind = f"{page.compression.name} compression"
            if int(page.predictor) != 1:
                kind += f" with predictor {page.predictor.name}"
            hint = "Install it with: pip install imagecodecs"
            raise InputError(
                path, f"{kind} of {series.dtype} values", "the package imagecodecs, which unpacks it", hint
            ) from error
        return found


def _check_segments(path: Path, series: Any, page: Any) -> None:
    """Refuse segments without data, which decode to zeros, or cut short, and deflate that unpacks to far more."""
    size = path.stat().st_size
    for one in series.pages:
        if one is None:
            raise InputError(path, "a stack with pages missing", "every page that the file declares")
        offsets, counts = one.dataoffsets, one.databytecounts
        short = any(o <= 0 or c <= 0 or o + c > size for o, c in zip(offsets, counts, strict=False))
        if short or len(offsets) != len(counts) or not counts:
            raise InputError(path, "segments without data, or cut short", "a complete TIFF file")
        if page.compression == 1 and sum(counts) < page.nbytes * int(page.bitspersample) / (8 * page.dtype.itemsize):
            raise InputError(path, f"{sum(counts)} bytes of values", f"{page.nbytes}", "The file is cut short.")
        if int(page.compression) in DEFLATE:
            _check_deflate(path, one, page)


def _check_deflate(path: Path, one: Any, page: Any) -> None:
    most = int(np.prod(page.chunks)) * page.dtype.itemsize + UNCHECKED
    for offset, count in zip(one.dataoffsets, one.databytecounts, strict=True):
        if count * 1032 <= most:
            continue
        unpacker, total = zlib.decompressobj(), 0
        with path.open("rb") as file:
            file.seek(offset)
            rest = file.read(count)
        while rest and not unpacker.eof and total <= most:
            total += len(unpacker.decompress(rest, 2**24))
            rest = unpacker.unconsumed_tail
        if total > most:
            raise InputError(path, f"a segment that unpacks to more than {most} bytes", f"at most {most}")


def _by_pillow(path: Path, series: Any, page: Any) -> np.ndarray | None:
    """Return the values as the library behind Pillow unpacks them (LZW, JPEG, Zstandard, ...); None where it cannot.

    Only where each page is a whole picture of one kind that Pillow keeps as it is.
    """
    from PIL import Image as Pillow
    from PIL import ImageSequence, UnidentifiedImageError

    gray = page.samplesperpixel == 1 and int(page.photometric) in (0, 1)
    if not gray and not (int(page.photometric) == 2 and page.samplesperpixel == 3 and page.dtype == np.uint8):
        return None
    if int(page.bitspersample) != 8 * page.dtype.itemsize or len(series.pages) * page.size != np.prod(series.shape):
        return None
    if page.parent.byteorder == ">" and page.dtype.itemsize > 1 and page.dtype.str[1:] != "u2":
        return None  # Pillow mixes up their bytes
    planes = []
    with warnings.catch_warnings(), contextlib.suppress(UnidentifiedImageError):
        warnings.simplefilter("ignore")
        with Pillow.open(path, formats=("TIFF",)) as file:
            if getattr(file, "n_frames", 1) != len(series.pages):
                return None
            for frame in ImageSequence.Iterator(file):
                plane = _as_stored(np.asarray(frame), frame.mode, page)
                if plane is None:
                    return None
                planes.append(plane)
    if len(planes) != len(series.pages):
        return None
    whole = np.stack(planes)
    if not gray and int(page.planarconfig) == 2:
        whole = np.moveaxis(whole, -1, 1)
    return whole.reshape(series.shape)


def _as_stored(plane: np.ndarray, mode: str, page: Any) -> np.ndarray | None:
    """Return a plane in the type of the file, undoing what Pillow does to it; None for a mode that loses something."""
    kind = page.dtype.newbyteorder("=")
    if mode == "RGB":
        return plane
    if mode == "L" and kind.itemsize == 1:
        inverted = int(page.photometric) == 0  # Pillow inverts these, and only these
        return (255 - plane if inverted else plane).view(kind)
    if mode.startswith("I;16") and kind.itemsize == 2 and kind.kind in "iu":
        return plane.astype(plane.dtype.newbyteorder("=")).view(kind)
    if mode == "I" and kind.kind in "iu":
        return plane.astype(np.int32).view(kind) if kind.itemsize == 4 else plane.astype(kind)
    return plane if mode == "F" and kind.kind == "f" else None
