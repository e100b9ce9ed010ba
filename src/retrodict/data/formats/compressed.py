"""Bytes of a file, unpacked or not, and never more of them than the file's header asks for."""

from __future__ import annotations

import bz2
import gzip
import zlib
from pathlib import Path
from typing import BinaryIO

__all__ = ["PACKINGS", "head", "is_gzip", "take"]


GZIP = b"\x1f\x8b"


PACKINGS = ("raw", "gzip", "gz", "bzip2", "bz2", "zlib")
"""What `take` can unpack."""


def is_gzip(path: Path) -> bool:
    """Say whether the file begins as gzip does."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def head(path: Path, count: int = 512) -> bytes:
    """Return up to `count` first bytes of a file, unpacked where it is gzip; b"" where that fails."""
    with path.open("rb") as file:
        start = file.read(count + 4096)
    if not start.startswith(GZIP):
        return start[:count]
    try:
        return zlib.decompressobj(31).decompress(start, count)
    except zlib.error:
        return b""


def take(file: BinaryIO, packing: str, count: int) -> bytes:
    """Return the next `count` bytes of what a file holds from here on, packed in one of `PACKINGS`.

    Checksums are verified where nothing follows. Raises `EOFError` where the file ends before, and what the decoders
    raise for broken bytes.
    """
    if packing == "raw":
        data = file.read(count)
    elif packing == "zlib":
        data = _inflated(file, count)
    else:
        kind = gzip.GzipFile(fileobj=file) if packing in ("gzip", "gz") else bz2.BZ2File(file)
        with kind as unpacked:
            data = unpacked.read(count)
            unpacked.read(1)  # at the end of the data the checksum is compared
    if len(data) < count:
        raise EOFError(f"{len(data)} of {count} bytes")
    return data


def _inflated(file: BinaryIO, count: int) -> bytes:
    unpacker, data, rest = zlib.decompressobj(), bytearray(), b""
    while not unpacker.eof and len(data) < count:
        rest = rest or file.read(1 << 20)
        if not rest:
            break
        data += unpacker.decompress(rest, count - len(data))
        rest = unpacker.unconsumed_tail
    while not unpacker.eof and (rest or (rest := file.read(1 << 20))):
        if unpacker.decompress(rest, 1):
            return bytes(data)
        rest = unpacker.unconsumed_tail
    if not unpacker.eof:
        raise EOFError(f"a stream that is cut short after {len(data)} bytes")
    return bytes(data)
