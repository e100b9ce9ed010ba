"""MetaImage (.mha, or .mhd with the values in a file beside it): read here, and written as NIfTI in the same place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from retrodict._check import InputError
from retrodict.data.formats import nifti
from retrodict.data.formats.compressed import head, take
from retrodict.data.formats.format import Format, Labels, Raw, file_reader
from retrodict.data.formats.space import beside, independent, unit_axes
from retrodict.data.image import Image, optional
from retrodict.data.limits import check_size

__all__ = ["FORMAT", "MhaHeader", "check", "encode"]


@dataclass(frozen=True)
class MhaHeader:
    """The affine (4, 4) from voxel (x, y, z) to mm in the RAS frame of NIfTI."""

    affine: np.ndarray


MET = {
    "CHAR": "i1",
    "UCHAR": "u1",
    "SHORT": "i2",
    "USHORT": "u2",
    "INT": "i4",
    "UINT": "u4",
    "LONG": "i4",  # of four bytes in this format, whatever the machine
    "ULONG": "u4",
    "LONG_LONG": "i8",
    "ULONG_LONG": "u8",
    "FLOAT": "f4",
    "DOUBLE": "f8",
}


LAST = "ElementDataFile"  # the field that ends the header


LONGEST = 2**16  # bytes of a header


LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def _load(path: Path) -> Raw:
    fields, end = _mha_header(path)
    ndim, shape = int(_field(fields, "NDims", path)), [int(n) for n in _field(fields, "DimSize", path).split()]
    channels = fields.get("ElementNumberOfChannels", "1")
    if ndim not in (2, 3) or len(shape) != ndim or channels != "1":
        raise InputError(path, f"{ndim} axes of sizes {shape}, {channels} channels", "gray, 2D or 3D")
    kind = _field(fields, "ElementType", path)
    code = MET.get(kind.removeprefix("MET_"))
    if code is None or not _true(fields.get("BinaryData", "True")):
        found = f"ElementType {kind}, BinaryData {fields.get('BinaryData', 'True')}"
        raise InputError(path, found, f"binary numbers of MET_{', MET_'.join(MET)}")
    check_size(path, shape, np.dtype(code).itemsize)
    big = _true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
    data = _data(path, fields, end, int(np.prod(shape)) * np.dtype(code).itemsize)
    array = np.frombuffer(data, (">" if big else "<") + code).reshape(shape[::-1])
    given = fields.get("ElementSpacing", fields.get("ElementSize"))
    spacing = [1.0] * ndim if given is None else _numbers(given)
    affine = _mha_affine(fields, spacing, path)
    axes = unit_axes(affine[:3, :ndim].T[::-1])
    known = None if given is None else tuple(reversed(spacing))
    return Raw(array[None], known, None, MhaHeader(affine), axes=axes)


def _data(path: Path, fields: dict[str, str], end: int, count: int) -> bytes:
    """Return `count` bytes of values, from behind the header or from the file that it names."""
    name = fields[LAST]
    where = path if name == "LOCAL" else beside(path, name, LAST)
    start = end if name == "LOCAL" else int(fields.get("HeaderSize", "0"))
    with where.open("rb") as file:
        file.seek(start) if start >= 0 else file.seek(-count, 2)  # -1: the values are the end of the file
        return take(file, "zlib" if _true(fields.get("CompressedData", "False")) else "raw", count)


def _mha_header(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields of the header, and the byte after it."""
    with path.open("rb") as file:
        content = file.read(LONGEST)
    fields, at = {}, 0
    while LAST not in fields:
        end = content.find(b"\n", at)
        if end < 0 and content.find(b"=", at) > 0 and len(content) < LONGEST:
            end = len(content)  # the last line of an .mhd may be without an end
        if end < 0 or end - at > 4096 or at >= len(content):
            raise InputError(path, "bytes that are not a MetaImage header", f"lines 'name = value' up to {LAST}")
        name, _, value = content[at:end].decode("utf-8", "replace").partition("=")
        fields[name.strip()], at = value.strip(), end + 1
    return fields, at


def _field(fields: dict[str, str], name: str, path: Path) -> str:
    if name not in fields:
        raise InputError(path, f"no line {name} in the header", f"a line '{name} = ...'")
    return fields[name]


def _true(text: str) -> bool:
    return text.lower() in ("true", "t", "1", "yes")


def _numbers(text: str) -> list[float]:
    return [float(v) for v in text.split()]


def _mha_affine(fields: dict[str, str], spacing: list[float], path: Path) -> np.ndarray:
    ndim = len(spacing)
    matrix = fields.get("TransformMatrix", fields.get("Rotation", fields.get("Orientation")))
    place = fields.get("Offset", fields.get("Position", fields.get("Origin")))
    directions = np.eye(3)  # row i is the direction of axis i
    if matrix is not None:
        directions[:ndim, :ndim] = np.reshape(_numbers(matrix), (ndim, ndim))
    offset = np.zeros(3)
    if place is not None:
        offset[:ndim] = _numbers(place)
    independent(directions, "TransformMatrix", path)
    if not np.isfinite(offset).all() or not np.allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-2):
        raise InputError(path, f"Offset {offset.tolist()}, TransformMatrix {matrix}", "finite numbers, unit vectors")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = LPS_TO_RAS @ directions.T, LPS_TO_RAS @ offset
    affine[:3, :ndim] *= np.array(spacing)
    return affine


def check(image: Image, path: Path) -> None:
    """Refuse what the NIfTI writer would refuse."""
    nifti.check(_as_nifti(image, path), path)


def encode(image: Image, labels: Labels) -> Iterator[tuple[str, bytes]]:
    """Yield a float32 NIfTI file with the affine and the voxel sizes of the source."""
    yield from nifti.encode(_as_nifti(image, labels.path), labels)


def _as_nifti(image: Image, path: Path) -> Image:
    if not isinstance(image.header, MhaHeader):
        return image
    with optional(path, "nibabel"):
        shape, affine = tuple(image.values.shape[1:]), image.header.affine
        sizes = tuple(float(s) for s in np.linalg.norm(affine[:3, : len(shape)], axis=0)[::-1])
        return replace(image, header=nifti.header_in_space(shape, sizes, affine))


def _probe(path: Path) -> bool:
    start = head(path, 256).lstrip()
    return start.startswith((b"ObjectType", b"NDims")) and b"=" in start


def _parts(path: Path) -> tuple[Path, ...]:
    name = _mha_header(path)[0][LAST]
    return () if name == "LOCAL" else (beside(path, name, LAST),)


FORMAT = Format(
    "mha",
    "MetaImage",
    (".mha",),
    ".nii.gz",
    file_reader("mha", _load),
    check,
    encode,
    _probe,
    read_only=(".mhd",),
    parts=_parts,
)
