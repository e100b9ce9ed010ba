"""Opening a DICOM file: with or without the DICM mark, packed or not, and never more of it than the budget allows."""

from __future__ import annotations

import gzip
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import VR

from retrodict._check import InputError
from retrodict.data.formats.compressed import head, is_gzip
from retrodict.data.image import decoding
from retrodict.data.limits import LIMIT_VARIABLE, budget, check_regular

__all__ = ["WRITER", "dataset", "looks_like_dicom", "made_here"]


WRITER = "RETRODICT"  # ImplementationVersionName of the files written here


DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax Deflated Explicit VR Little Endian


CODES = {str(vr).encode() for vr in VR if len(str(vr)) == 2}


LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}


def looks_like_dicom(path: Path) -> bool:
    """Say whether a file is DICOM by its content, whatever its name.

    It is where it has the DICM mark after 128 bytes; where it begins, without preamble and mark, with elements of the
    data set in ascending order; and where it is packed by gzip and one of these inside. False for what cannot be read.
    """
    try:
        check_regular(path)
        start = head(path, 1024)
    except (InputError, OSError):
        return False
    return _marked(start) or _starts_with_elements(start)


def _marked(start: bytes) -> bool:
    return start[128:132] == b"DICM"


def _starts_with_elements(head: bytes) -> bool:
    """Whether the bytes are elements of group 2 or 8 in ascending order: at least two, each one in the dictionary."""
    for order in ("little", "big"):
        place, last, count = 0, 0, 0
        while place + 12 <= len(head) and count < 3:
            tag, length, value = _element(head, place, order)
            if tag <= last or not dictionary_has_tag(tag) or (count == 0 and tag >> 16 not in (2, 8)):
                break
            place, last, count = value + length, tag, count + 1
        if count >= 2:
            return True
    return False


def _element(head: bytes, place: int, order: Any) -> tuple[int, int, int]:
    """Tag, length and place of the value of the element at `place`, of explicit or implicit VR."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], order)

    tag, code = number(place, 2) << 16 | number(place + 2, 2), head[place + 4 : place + 6]
    if code in LONG:
        return tag, number(place + 8, 4), place + 12
    if code in CODES:
        return tag, number(place + 6, 2), place + 8
    return tag, number(place + 4, 4), place + 8


def dataset(path: Path, header_only: bool = False, tags: list[str] | None = None) -> Dataset:
    """Read a DICOM file, or its header, or those tags of its header; `InputError` for anything that is none.

    The file may lack the preamble and the mark, and may be packed by gzip. A file without file meta information has
    the transfer syntax that it is written in.
    """
    with decoding(path, "DICOM"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that break a rule of their VR: they are judged where they matter
        check_regular(path)
        _check_bytes(path, path.stat().st_size)
        source = _unpacked(path)
        wanted: Any = tags
        try:
            _check_deflated(path, source)
            force = looks_like_dicom(path)
            ds = pydicom.dcmread(_again(source), stop_before_pixels=header_only, specific_tags=wanted, force=force)
        except InvalidDicomError as error:
            raise InputError(path, "bytes that are not DICOM (no DICM mark)", "a DICOM file") from error
        ds.filename = str(path)
        if "TransferSyntaxUID" not in ds.file_meta:
            ds.file_meta.TransferSyntaxUID = _syntax(ds)
        return ds


def _check_bytes(path: Path, size: int, kind: str = "") -> None:
    most = budget()
    if size > most:
        hint = f"Set the environment variable {LIMIT_VARIABLE} to allow more."
        raise InputError(path, f"more than {most / 1024**3:.3g} GiB{kind}", "a smaller file", hint)


def _unpacked(path: Path) -> Path | BytesIO:
    """The file itself, or what gzip has packed in it, up to the budget."""
    if not is_gzip(path):
        return path
    with gzip.open(path, "rb") as file:
        content = file.read(budget() + 1)
    _check_bytes(path, len(content), " when unpacked")
    return BytesIO(content)


def _again(source: Path | BytesIO) -> Any:
    if isinstance(source, BytesIO):
        source.seek(0)
    return source


def _check_deflated(path: Path, source: Path | BytesIO) -> None:
    """Refuse a deflated data set that would not fit the budget: pydicom inflates all of it at once."""
    stream: BinaryIO = BytesIO(source.getvalue()) if isinstance(source, BytesIO) else source.open("rb")
    with stream:
        head = stream.read(1024)
        start = 132 if _marked(head) else 0
        if DEFLATED not in head[start:]:
            return
        stream.seek(start + 12 + int.from_bytes(head[start + 8 : start + 12], "little"))  # behind the meta information
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while block := stream.read(1 << 16):
            while block:
                size += len(inflater.decompress(block, 1 << 24))
                _check_bytes(path, size, " when inflated")
                block = inflater.unconsumed_tail


def _syntax(ds: Dataset) -> Any:
    implicit, little = ds.original_encoding
    if implicit or implicit is None:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def made_here(path: Path) -> bool:
    """Say whether a DICOM file was written by this package: a result, and no scan. False for what cannot be read."""
    try:
        return str(read_file_meta_info(path).get("ImplementationVersionName", "")).startswith(WRITER)
    except Exception:  # a damaged header raises almost anything; it is none of ours
        return False
