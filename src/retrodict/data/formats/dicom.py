"""DICOM: one slice a file, and the files of a series as one image."""

from __future__ import annotations

from pathlib import Path

from retrodict._check import InputError
from retrodict.data.formats import dicom_read, dicom_write
from retrodict.data.formats.dicom_file import looks_like_dicom
from retrodict.data.formats.format import Format, ReadOptions
from retrodict.data.image import Image, Source

__all__ = ["FORMAT", "SERIES"]


def _read(source: Source, options: ReadOptions) -> Image:
    first, given = source.paths[0], options.spacing
    _check_count(given, 2, first)
    return dicom_read.read_slice(first, options.expect, options.unit, given, options.clip)


def _read_series(source: Source, options: ReadOptions) -> Image:
    if len(source.paths) == 1:
        return _read(source, options)
    given = options.spacing
    plane = options.independent or (given is not None and len(given) == 2)
    _check_count(given, 2 if plane else 3, source.paths[0])
    return dicom_read.read_series(
        source.paths, options.expect, options.unit, given, options.independent, options.allow_gaps, options.clip
    )


def _check_count(given: tuple[float, ...] | None, count: int, path: Path) -> None:
    if given is not None and len(given) != count:
        raise InputError("spacing", f"{len(given)} numbers", f"{count} for {path.name}")


FORMAT = Format(
    "dicom",
    "DICOM",
    (".dcm", ".dicom", ".ima", ".dcm.gz"),
    ".dcm",
    _read,
    dicom_write.check,
    dicom_write.encode,
    looks_like_dicom,
    dicom_read.series_key,
)


SERIES = FORMAT._replace(name="dicom-series", written="", read=_read_series, probe=None, group=None)
