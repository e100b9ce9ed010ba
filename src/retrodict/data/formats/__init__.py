"""File formats: a module for each, and one table from which extensions, help and error sentences follow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from retrodict._check import InputError
from retrodict.data.formats import dicom, metaimage, nifti, npz, nrrd, png, tiff
from retrodict.data.formats.format import Format

__all__ = [
    "FORMATS",
    "accepted_suffixes",
    "format_named",
    "format_of",
    "format_titles",
    "known_suffixes",
    "recognizable",
    "written_suffix",
]

FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        dicom.FORMAT,
        dicom.SERIES,
        nifti.FORMAT,
        tiff.FORMAT,
        png.FORMAT,
        npz.FORMAT,
        npz.NPY,
        metaimage.FORMAT,
        nrrd.FORMAT,
    )
}
"""Every format by the name that an `Image` carries, in the order in which they are listed to people."""


def format_named(name: str, where: object) -> Format:
    """Return the row of a format; `InputError` about `where` for a name that is not in the table."""
    if name not in FORMATS:
        raise InputError(where, f"format {name!r}", _listed(FORMATS))
    return FORMATS[name]


def format_of(path: Path) -> Format | None:
    """Return the format of a file by its content, or by its extension where the content says nothing; None of neither.

    Raises `OSError` for a file that cannot be opened.
    """
    with path.open("rb") as file:
        file.read(1)
    for row in FORMATS.values():
        if row.probe is not None and row.probe(path):
            return row
    return next((row for row in FORMATS.values() if _ends(path, row)), None)


def _ends(path: Path, row: Format) -> bool:
    return path.name.lower().endswith((*row.suffixes, *row.read_only)) and row.written != ""


def known_suffixes() -> tuple[str, ...]:
    """Return every extension that can be read, in the order of the table."""
    return tuple(dict.fromkeys(s for row in FORMATS.values() for s in (*row.suffixes, *row.read_only)))


def recognizable() -> str:
    """Say what a file has to be: of one of the formats, whatever its extension, and what they usually have."""
    return f"{format_titles()} ({' '.join(known_suffixes())})"


def format_titles() -> str:
    """Return the formats in words: "DICOM, NIfTI, ... or MetaImage"."""
    return _listed(dict.fromkeys(row.title for row in FORMATS.values()))


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def written_suffix(name: str) -> str:
    """Return the extension of a result from an image of this format; "" where a result is a folder of files."""
    return format_named(name, "format").written


def accepted_suffixes(row: Format) -> tuple[str, ...]:
    """Return the extensions that a result of this format may have: those of the format that it is written in."""
    return next((r.suffixes for r in FORMATS.values() if row.written in r.suffixes), ())
