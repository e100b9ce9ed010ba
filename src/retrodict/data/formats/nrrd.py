"""NRRD with the header in the same file: gray images, written as float32 with the place in space of their source."""

from __future__ import annotations

import bz2
import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrodict._check import InputError
from retrodict.data.formats.format import Format, Labels, Raw, file_reader, one_gray_channel
from retrodict.data.image import Image

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
    "f4": ("float",),
    "f8": ("double",),
}


DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "gzip": gzip.decompress,
    "gz": gzip.decompress,
    "bzip2": bz2.decompress,
    "bz2": bz2.decompress,
}


LENGTHS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}


KEPT = (
    "space", "space dimension", "space directions", "space origin", "space units", "measurement frame", "spacings",
    "kinds", "units", "labels", "centers", "centerings", "axis mins", "axismins", "axis maxs", "axismaxs",
    "thicknesses", "sample units", "sampleunits",
)  # fmt: skip


PLACED = ("space directions", "spacings")


def _load(path: Path) -> Raw:
    content = path.read_bytes()
    end = re.search(rb"\r?\n\r?\n", content)
    if not content.startswith(b"NRRD000") or end is None:
        raise InputError(
            path, "bytes that are not an NRRD header", "NRRD000 and lines 'name: value' up to an empty one"
        )
    lines = content[: end.start()].decode("utf-8", "replace").splitlines()[1:]
    fields = {name: text for line in lines if (name := _name(line)) and (text := line.split(":", 1)[1].strip())}
    sizes = tuple(int(n) for n in fields["sizes"].split())
    code = next((code for code, names in CODES.items() if fields["type"] in names), None)
    decode = DECODERS.get(fields["encoding"].lower())
    elsewhere = [f"{n} {fields[n]}" for n in ("data file", "datafile", "line skip", "byte skip") if n in fields]
    if code is None or decode is None or elsewhere:
        found = ", ".join([f"type {fields['type']}", f"encoding {fields['encoding']}", *elsewhere])
        raise InputError(path, found, f"numbers that follow the header, encoded as {', '.join(DECODERS)}")
    if len(sizes) not in (2, 3) or "none" in fields.get("space directions", ""):
        raise InputError(path, f"sizes {sizes}, with other axes than those of space", "gray, 2D or 3D")
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    array = np.frombuffer(decode(content[end.end() :]), order + code, int(np.prod(sizes)))
    kept = tuple(line for line in lines if ":=" in line or _name(line) in KEPT)
    return Raw(array.reshape(sizes[::-1])[None], _spacing(fields, len(sizes), path), None, NrrdHeader(kept))


def _name(line: str) -> str:
    """Return the name of the field that a line sets; "" for a comment and for a key:=value pair."""
    found = re.match(r"([^:#]+):(?!=)", line)
    return found[1].strip().lower() if found else ""


def _spacing(fields: dict[str, str], ndim: int, path: Path) -> tuple[float, ...] | None:
    """Return mm along each axis, slowest first; without that of the slices where the file calls it nan."""
    if "space directions" in fields:
        vectors = re.findall(r"\(([^)]*)\)", fields["space directions"])
        steps = [float(np.linalg.norm([float(v) for v in vector.split(",")])) for vector in vectors]
        units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    elif "spacings" in fields:
        steps = [float(v) for v in fields["spacings"].split()]
        units = re.findall(r'"([^"]*)"', fields.get("units", ""))
    else:
        return None
    unknown = sorted({u for u in units if u not in LENGTHS})
    if len(steps) != ndim or unknown:
        raise InputError(path, f"{len(steps)} spacings in {unknown or 'mm'}", f"{ndim}, in one of {', '.join(LENGTHS)}")
    spacing = tuple(s * LENGTHS[u] for s, u in zip(steps, units or ["mm"] * ndim, strict=False))[::-1]
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
    lines += ["encoding: gzip", f"content: {content}", *kept, "", ""]
    numbers = gzip.compress(np.ascontiguousarray(values, "<f4").tobytes(), 6, mtime=0)
    yield labels.path.name, "\n".join(lines).encode() + numbers


FORMAT = Format("nrrd", "NRRD", (".nrrd",), ".nrrd", file_reader("nrrd", _load), check, encode)
