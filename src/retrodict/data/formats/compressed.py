"""Bytes of a file, unpacked or not, and never more of them than the file's header asks for."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable
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

    What is packed is read to its end, where its checksum is compared, and at most `SURPLUS` bytes beyond `count` are
    unpacked for that. Raises `EOFError` where the file ends before, `ValueError` where it holds far more, and what the
    decoders raise for broken bytes.
    """
    if packing == "raw":
        data = file.read(count)
    elif packing == "zlib":
        data = _inflated(file, count)
    else:
        kind = gzip.GzipFile(fileobj=file) if packing in ("gzip", "gz") else bz2.BZ2File(file)
        with kind as unpacked:
            data = unpacked.read(count)
            _to_the_end(lambda: unpacked.read(STEP))
    if len(data) < count:
        raise EOFError(f"{len(data)} of {count} bytes")
    return data


SURPLUS = 2**26


STEP = 2**20


def _to_the_end(step: Callable[[], bytes]) -> None:
    beyond = 0
    while found := step():
        beyond += len(found)
        if beyond > SURPLUS:
            raise ValueError("far more packed than the header declares")


def _inflated(file: BinaryIO, count: int) -> bytes:
    unpacker, data, rest = zlib.decompressobj(), bytearray(), b""

    def step(most: int) -> bytes:
        nonlocal rest
        found = b""
        while not found and not unpacker.eof and (rest := rest or file.read(STEP)):
            found = unpacker.decompress(rest, most)
            rest = unpacker.unconsumed_tail
        return found

    while len(data) < count and (found := step(count - len(data))):
        data += found
    _to_the_end(lambda: step(STEP))
    if not unpacker.eof:
        raise EOFError(f"a stream that is cut short after {len(data)} bytes")
    return bytes(data)
