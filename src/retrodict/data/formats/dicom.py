"""DICOM: one slice a file, the frames of a file, and the files of a series as one image."""

from __future__ import annotations

from retrodict._check import InputError
from retrodict.data.formats import dicom_read, dicom_write
from retrodict.data.formats.dicom_file import looks_like_dicom
from retrodict.data.formats.format import Format, ReadOptions
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
