"""NRRD, also with its values in a file beside the header (.nhdr): gray, written as float32 in the same place."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrodict._check import InputError
from retrodict.data.formats.compressed import head, take
from retrodict.data.formats.format import MARK, Format, Labels, Raw, file_reader, mark, one_gray_channel
from retrodict.data.formats.space import beside, independent, unit_axes
from retrodict.data.image import Image
from retrodict.data.limits import check_size
from retrodict.data.units import length_unit

__all__ = ["FORMAT", "NrrdHeader", "check", "encode"]


@dataclass(frozen=True)
class NrrdHeader:
    """The lines that say where the image lies, what its axes are, and what else the file knew, in their order."""

    lines: tuple[str, ...]


CODES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}


ENCODINGS = ("raw", "gzip", "gz", "bzip2", "bz2")


LONGEST = 2**20  # bytes of a header


KEPT = (
    "space", "space dimension", "space directions", "space origin", "space units", "measurement frame", "spacings",
    "kinds", "units", "labels", "centers", "centerings", "axis mins", "axismins", "axis maxs", "axismaxs",
    "thicknesses", "sample units", "sampleunits",
)  # fmt: skip


PLACED = ("space directions", "spacings")


def _load(path: Path) -> Raw:
    lines, end = _lines(path)
    fields = _fields(lines)
    missing = [name for name in ("type", "dimension", "sizes", "encoding") if name not in fields]
    if missing:
        raise InputError(path, f"no line {missing[0]} in the header", f"a line '{missing[0]}: ...'")
    sizes = tuple(int(n) for n in fields["sizes"].split())
    code = next((code for code, names in CODES.items() if fields["type"].lower() in names), None)
    encoding = fields["encoding"].lower()
    skipped = [f"{n} {fields[n]}" for n in SKIPS if fields.get(n, "0") != "0"]
    if code is None or encoding not in ENCODINGS or skipped:
        found = ", ".join([f"type {fields['type']}", f"encoding {fields['encoding']}", *skipped])
        raise InputError(path, found, f"numbers without a header of their own, encoded as {', '.join(ENCODINGS)}")
    if len(sizes) not in (2, 3) or str(len(sizes)) != fields["dimension"] or "none" in fields.get(DIRECTIONS, ""):
        raise InputError(path, f"sizes {sizes}, with other axes than those of space", "gray, 2D or 3D")
    check_size(path, sizes, np.dtype(code).itemsize)
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    away = _data_file(fields)
    with (beside(path, away, "data file") if away else path).open("rb") as file:
        file.seek(0 if away else end)
        data = take(file, encoding, int(np.prod(sizes)) * np.dtype(code).itemsize)
    array = np.frombuffer(data, order + code).reshape(sizes[::-1])
    kept = tuple(line for line in lines if _kept(line))
    axes = _axes(fields, len(sizes), path)
    return Raw(array[None], _spacing(fields, len(sizes), path), None, NrrdHeader(kept), axes=axes)


DIRECTIONS = "space directions"


SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")


def _lines(path: Path) -> tuple[list[str], int]:
    """Return the lines of the header after the first, and the byte after it."""
    with path.open("rb") as file:
        content = file.read(LONGEST)
    end = re.search(rb"\r?\n\r?\n", content)
    stop, after = (end.start(), end.end()) if end else (len(content), len(content))
    whole = end is not None or (b"data" in content and len(content) < LONGEST)  # a header alone needs no empty line
    if not content.startswith(b"NRRD000") or not whole:
        raise InputError(
            path, "bytes that are not an NRRD header", "NRRD000 and lines 'name: value' up to an empty one"
        )
    return content[:stop].decode("utf-8", "replace").splitlines()[1:], after


def _fields(lines: list[str]) -> dict[str, str]:
    return {name: text for line in lines if (name := _name(line)) and (text := line.split(":", 1)[1].strip())}


def _data_file(fields: dict[str, str]) -> str:
    return fields.get("data file", fields.get("datafile", ""))


def _kept(line: str) -> bool:
    """Say whether a result gets the line: of a place in space, or a note; not the mark of this program."""
    return (":=" in line and not line.startswith(f"{MARK}:=")) or _name(line) in KEPT


def _name(line: str) -> str:
    """Return the name of the field that a line sets; "" for a comment and for a key:=value pair."""
    found = re.match(r"([^:#]+):(?!=)", line)
    return found[1].strip().lower() if found else ""


def _vectors(fields: dict[str, str]) -> list[list[float]]:
    """Return the space directions, in the order of the file."""
    found = re.findall(r"\(([^)]*)\)", fields.get(DIRECTIONS, ""))
    return [[float(v) for v in vector.split(",")] for vector in found]


def _axes(fields: dict[str, str], ndim: int, path: Path) -> tuple[tuple[float, float, float], ...]:
    """Return unit vectors to right, anterior and superior, slowest first; () where the file does not say."""
    vectors = _vectors(fields)
    if not vectors:
        return ()
    independent(np.array(vectors), DIRECTIONS, path)
    words = re.split("[- ]", fields.get("space", "").lower())
    letters = words[0] if len(words) == 1 else "".join(word[:1] for word in words[:3])
    if len(vectors) != ndim or len(vectors[0]) != 3 or letters not in ("ras", "las", "lps"):
        return ()
    signs = [-1.0 if letter in "lp" else 1.0 for letter in letters]
    return unit_axes(np.array(vectors)[::-1] * signs)


def _spacing(fields: dict[str, str], ndim: int, path: Path) -> tuple[float, ...] | None:
    """Return mm along each axis, slowest first; without that of the slices where the file calls it nan."""
    if DIRECTIONS in fields:
        steps = [float(np.linalg.norm(vector)) for vector in _vectors(fields)]
        units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    elif "spacings" in fields:
        steps = [float(v) for v in fields["spacings"].split()]
        units = re.findall(r'"([^"]*)"', fields.get("units", ""))
    else:
        return None
    lengths = [length_unit(unit) for unit in units or ["mm"] * ndim]
    unknown = sorted({u for u, length in zip(units, lengths, strict=False) if length is None})
    if len(steps) != ndim or len(lengths) < ndim or unknown:
        raise InputError(path, f"{len(steps)} spacings in {unknown or 'mm'}", f"{ndim}, in a unit of length")
    spacing = tuple(s * length for s, length in zip(steps, lengths, strict=False) if length is not None)[::-1]
    return spacing[1:] if ndim == 3 and not np.isfinite(spacing[0]) else spacing


def check(image: Image, path: Path) -> None:
    """Refuse several channels and complex values, as `encode` does."""
    one_gray_channel(image, "NRRD", path)


def encode(image: Image, labels: Labels) -> Iterator[tuple[str, bytes]]:
    """Yield a float32 file, gzipped inside, with the lines of the source, or only its spacing where there are none."""
    check(image, labels.path)
    values = image.values[0].numpy()
    kept = list(image.header.lines) if isinstance(image.header, NrrdHeader) else []
    if not {_name(line) for line in kept} & set(PLACED):
        kept.append("spacings: " + " ".join(repr(float(s)) for s in reversed(image.spacing)))
    sizes = " ".join(str(n) for n in reversed(values.shape))
    content = " ".join(labels.description.split()).encode("ascii", "replace").decode()
    lines = ["NRRD0005", "type: float", f"dimension: {values.ndim}", f"sizes: {sizes}", "endian: little"]
    lines += ["encoding: gzip", f"content: {content}", *kept]
    lines += [f"{MARK}:={mark(labels)}", "", ""]
    numbers = gzip.compress(np.ascontiguousarray(values, "<f4").tobytes(), 6, mtime=0)
    yield labels.path.name, "\n".join(lines).encode() + numbers


def _probe(path: Path) -> bool:
    return head(path, 7) == b"NRRD000"


def _made(path: Path) -> str:
    lines, _ = _lines(path)
    return next((line.split(":=", 1)[1] for line in lines if line.startswith(f"{MARK}:=")), "")


def _parts(path: Path) -> tuple[Path, ...]:
    name = _data_file(_fields(_lines(path)[0]))
    return (beside(path, name, "data file"),) if name else ()


FORMAT = Format(
    "nrrd",
    "NRRD",
    (".nrrd",),
    ".nrrd",
    file_reader("nrrd", _load),
    check,
    encode,
    _probe,
    read_only=(".nhdr",),
    made=_made,
    parts=_parts,
)
