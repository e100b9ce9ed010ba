"""DICOM: one slice a file, the frames of a file, and the files of a series as one image."""

from __future__ import annotations

import re
from pathlib import Path

from retrodict._check import InputError
from retrodict.data.formats import dicom_file, dicom_read, dicom_write
from retrodict.data.formats.format import MARK, Format, ReadOptions
from retrodict.data.image import Image, Source

__all__ = ["FORMAT", "SERIES"]


def _read(source: Source, options: ReadOptions) -> Image:
    return dicom_read.read_file(source.paths[0], options)


def _read_series(source: Source, options: ReadOptions) -> Image:
    if len(source.paths) == 1:
        return _read(source, options)
    given = options.spacing
    plane = options.independent or (given is not None and len(given) == 2)
    if given is not None and len(given) != (2 if plane else 3):
        raise InputError("spacing", f"{len(given)} numbers", f"{2 if plane else 3} for {source.paths[0].name}")
    return dicom_read.read_series(source.paths, options)


def _made(path: Path) -> str:
    """Return the mark that the writer puts at the end of SeriesDescription."""
    ds = dicom_file.dataset(path, header_only=True, tags=["SeriesDescription"])
    found = re.search(rf"\| ({MARK} [a-z0-9_-]+)$", str(ds.get("SeriesDescription", "") or ""))
    return found[1] if found else ""


FORMAT = Format(
    "dicom",
    "DICOM",
    (".dcm", ".dicom", ".ima"),
    ".dcm",
    _read,
    dicom_write.check,
    dicom_write.encode,
    dicom_file.looks_like_dicom,
    dicom_read.series_key,
    read_only=(".dcm.gz",),
    made=_made,
)


SERIES = FORMAT._replace(name="dicom-series", written="", read=_read_series, probe=None, group=None, made=None)
