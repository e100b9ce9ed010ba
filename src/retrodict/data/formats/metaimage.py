"""MetaImage (.mha): read here, and written as NIfTI with the same place in space."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from retrodict._check import InputError
from retrodict.data.formats import nifti
from retrodict.data.formats.format import Format, Labels, Raw, file_reader
from retrodict.data.image import Image, optional

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
    "FLOAT": "f4",
    "DOUBLE": "f8",
}


def _load(path: Path) -> Raw:
    fields, rest = _mha_header(path)
    ndim = int(fields["NDims"])
    shape = tuple(int(n) for n in fields["DimSize"].split())
    if ndim not in (2, 3) or len(shape) != ndim or fields.get("ElementNumberOfChannels", "1") != "1":
        raise InputError(path, f"{ndim} axes, {fields.get('ElementNumberOfChannels', '1')} channels", "gray, 2D or 3D")
    code = MET.get(fields["ElementType"].removeprefix("MET_"))
    if code is None or fields["ElementDataFile"] != "LOCAL":
        found = f"ElementType {fields['ElementType']}, ElementDataFile {fields['ElementDataFile']}"
        raise InputError(path, found, "numbers that follow the header in the same file (LOCAL)")
    if fields.get("CompressedData", "False") == "True":
        rest = zlib.decompress(rest)
    big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")) == "True"
    array = np.frombuffer(rest, dtype=(">" if big else "<") + code, count=int(np.prod(shape))).reshape(shape[::-1])
    spacing = _floats(fields.get("ElementSpacing", fields.get("ElementSize", "")), ndim, 1.0)
    return Raw(array[None], tuple(reversed(spacing)), None, MhaHeader(_mha_affine(fields, ndim, spacing)))


def _mha_header(path: Path) -> tuple[dict[str, str], bytes]:
    content, fields, at = path.read_bytes(), {}, 0
    while "ElementDataFile" not in fields:
        end = content.find(b"\n", at)
        if end < 0 or end - at > 4096:
            raise InputError(
                path, "bytes that are not a MetaImage header", "lines 'name = value' up to ElementDataFile"
            )
        name, _, value = content[at:end].decode("ascii", "replace").partition("=")
        fields[name.strip()], at = value.strip(), end + 1
    return fields, content[at:]


def _floats(text: str, count: int, default: float) -> list[float]:
    return [float(v) for v in text.split()] if text else [default] * count


def _mha_affine(fields: dict[str, str], ndim: int, spacing: list[float]) -> np.ndarray:
    eye = " ".join(str(v) for v in np.eye(ndim).ravel())
    matrix = _floats(fields.get("TransformMatrix", fields.get("Rotation", eye)), ndim * ndim, 0.0)
    offset = _floats(fields.get("Offset", fields.get("Position", fields.get("Origin", ""))), ndim, 0.0)
    affine = np.eye(4)
    affine[:ndim, :ndim] = np.reshape(matrix, (ndim, ndim)).T * np.array(spacing)  # row i is the direction of axis i
    affine[:ndim, 3] = offset
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS of MetaImage to RAS of NIfTI


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
        shape = tuple(image.values.shape[1:])
        return replace(image, header=nifti.header_in_space(shape, image.spacing, image.header.affine))


FORMAT = Format("mha", "MetaImage", (".mha",), ".nii.gz", file_reader("mha", _load), check, encode)
