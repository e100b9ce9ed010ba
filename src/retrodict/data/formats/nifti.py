"""NIfTI, in one file or as a pair .hdr and .img: float32 volumes with the affine of their source."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._check import InputError
from retrodict.data.formats.compressed import head, is_gzip, take
from retrodict.data.formats.format import MARK, Format, Labels, Raw, file_reader, marked, one_gray_channel
from retrodict.data.formats.space import independent, unit_axes
from retrodict.data.image import Image, optional
from retrodict.data.limits import check_regular, check_size

__all__ = ["FORMAT", "NiftiHeader", "check", "encode", "header_in_space"]


@dataclass(frozen=True)
class NiftiHeader:
    """The nibabel header (affine, units, ...) and the shape the file had, which may carry axes of one."""

    header: Any
    shape: tuple[int, ...]


MILLIMETERS = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 1e-3}


MAGIC = {(348, b"n+1\0"): 1, (348, b"ni1\0"): 1, (540, b"n+2\0"): 2, (540, b"ni2\0"): 2}
"""Version by the size of the header and the letters in it; n+ has the values in the same file, ni in an .img."""


FARTHEST = 2**26
"""Bytes of extensions that may lie between header and values."""


def _load(path: Path) -> Raw:
    with optional(path, "nibabel"):
        from nibabel.affines import voxel_sizes
    where, values = _files(path)
    header = _read_header(where, path)
    shape = tuple(int(n) for n in header.get_data_shape())
    kept = _spatial(shape, path)
    kind = header.get_data_dtype()
    if kind.names or kind.kind not in "iuf":
        raise InputError(path, f"voxels of type {kind}", "one real number per voxel")
    check_size(path, shape, kind.itemsize)
    array = _values(header, kept, kind, values, path)
    scale = MILLIMETERS[header.get_xyzt_units()[0]]
    zooms = [float(z) * scale for z in header.get_zooms()[: len(kept)]]
    affine = np.asarray(header.get_best_affine(), np.float64)
    sizes = voxel_sizes(affine)[: len(kept)] * scale
    if not np.allclose(zooms, sizes, rtol=1e-2):
        found = f"voxel sizes {np.round(zooms, 4).tolist()} mm, and {np.round(sizes, 4).tolist()} mm in the affine"
        raise InputError(path, found, "a header that agrees with itself")
    independent(affine[:3, : len(kept)].T, "affine", path)
    placed = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    axes = unit_axes(affine[:3, : len(kept)].T[::-1]) if placed else ()
    return Raw(array[None], tuple(reversed(zooms)), None, NiftiHeader(header, shape), axes=axes)


def _files(path: Path) -> tuple[Path, Path]:
    """Return the files of the header and of the values: the same one, or the two of a pair of which `path` is one."""
    name = path.name
    if not name.lower().endswith(PAIR):
        return path, path
    packed = name[-3:] if name.lower().endswith(".gz") else ""
    stem, ending = name[: len(name) - len(packed) - 4], name[: len(name) - len(packed)][-4:]
    header, values = (path.with_name(f"{stem}{e.upper() if ending.isupper() else e}{packed}") for e in PAIR[:2])
    if not header.is_file():
        raise InputError(path, "no header beside it", f"a file {header.name}")
    return header, (header if head(header)[344:347] == b"n+1" else values)


def _read_header(where: Path, path: Path) -> Any:
    """Return the header of version 1 or 2; what it says is checked by who uses it."""
    import nibabel as nib

    check_regular(where)
    start = head(where, 540)
    version, order = _version(start)
    if version is None:
        analyze = any(int.from_bytes(start[:4], o) == 348 for o in ("little", "big")) and len(start) >= 348
        found = "an Analyze 7.5 header, which does not say where left and right are" if analyze else "other bytes"
        raise InputError(path, found, "a NIfTI header", "Convert it to NIfTI first." if analyze else "")
    kind: Any = nib.Nifti2Header if version == 2 else nib.Nifti1Header
    header = kind(start[: kind.template_dtype.itemsize], ">" if order == "big" else "<", check=False)
    if not 1 <= int(header["dim"][0]) <= 7 or min(header["dim"][1 : int(header["dim"][0]) + 1]) < 0:
        raise InputError(path, f"the axes {header['dim'].tolist()}", "one to seven axes, none of negative size")
    codes = [int(header[name]) for name in ("sform_code", "qform_code")]
    if not all(0 <= code <= 5 for code in codes):
        raise InputError(path, f"sform_code {codes[0]} and qform_code {codes[1]}", "codes from 0 to 5")
    quiet = logging.Logger("quiet")  # that of nibabel writes to the terminal
    quiet.addHandler(logging.NullHandler())
    header.check_fix(quiet, error_level=40)
    return header


def _version(start: bytes) -> tuple[int | None, str]:
    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)
        version = MAGIC.get((size, start[344:348] if size == 348 else start[4:8]))
        if version is not None:
            return version, order
    return None, ""


def _values(header: Any, kept: tuple[int, ...], kind: np.dtype, values: Path, path: Path) -> np.ndarray:
    """Return the voxels in array order (z, y, x), scaled as the header says."""
    offset, (slope, intercept) = float(header["vox_offset"]), header.get_slope_inter()
    if not 0 <= offset <= FARTHEST:
        raise InputError(path, f"values that begin at byte {offset:g}", f"0 to {FARTHEST}")
    offset = max(int(offset), 352 if header["magic"].item()[:2] == b"n+" else 0)
    check_regular(values)
    with values.open("rb") as file:
        packing = "gzip" if is_gzip(values) else "raw"
        data = take(file, packing, offset + int(np.prod(kept)) * kind.itemsize)
    array = np.frombuffer(data, kind, offset=offset).reshape(kept[::-1])  # NIfTI counts x, y, z; we count z, y, x
    if slope is None or (slope, intercept) == (1, 0):
        return array
    scaled = np.empty(array.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is found and said later
        for place, plane in enumerate(array):  # plane by plane, in float64 without room for all of it
            scaled[place] = plane.astype(np.float64) * slope + intercept
    return scaled


def _spatial(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    if any(n != 1 for n in shape[3:]):
        raise InputError(path, f"shape {shape}, with a time or channel axis", "2 or 3 axes", "Take one volume of it.")
    kept = shape[:3]
    return kept[:2] if len(kept) == 3 and kept[2] == 1 else kept


def header_in_space(shape: tuple[int, ...], spacing: tuple[float, ...], affine: np.ndarray) -> NiftiHeader:
    """Make the header of a new file: shape and spacing (mm) of N = (Z, H, W), and an affine (4, 4) in the RAS frame."""
    import nibabel as nib

    header: Any = nib.Nifti1Header()
    header.set_data_shape(shape[::-1])
    header.set_zooms([float(s) for s in reversed(spacing)])
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1, strip_shears=True)
    return NiftiHeader(header, shape[::-1])


def check(image: Image, path: Path) -> None:
    """Refuse what `encode` would refuse: one voxel is written with the header that all of them would have."""
    one_gray_channel(image, "NIfTI", path)
    header, shape = _header(image, Labels(path, "mean", ""))
    _bytes(header, np.zeros([1] * len(shape), np.float32))


def encode(image: Image, labels: Labels) -> Iterator[tuple[str, bytes]]:
    """Yield a float32 NIfTI file with the affine and the voxel sizes of the source, gzipped for .nii.gz.

    Its text field says that this program made it; extensions of the source are not copied.
    """
    one_gray_channel(image, "NIfTI", labels.path)
    header, shape = _header(image, labels)
    data = np.ascontiguousarray(image.values[0].numpy().T.astype(np.float32)).reshape(shape, order="F")
    content, name = _bytes(header, data), labels.path.name
    yield name, gzip.compress(content, 6, mtime=0) if name.lower().endswith(".gz") else content


def _bytes(header: Any, data: np.ndarray) -> bytes:
    import nibabel as nib

    kind: Any = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    return kind(data, None, header).to_bytes()  # without an affine nibabel leaves sform and qform as they are


def _header(image: Image, labels: Labels) -> tuple[Any, tuple[int, ...]]:
    """Return the header to write, and the shape of the file, which may have axes of one that the image has not."""
    path = labels.path
    with optional(path, "nibabel"):
        import nibabel as nib
    if not isinstance(image.header, NiftiHeader):
        raise InputError(path, "no NIfTI header", "an image as it was read", "A resampled image has lost it.")
    kind: Any = nib.Nifti2Header if isinstance(image.header.header, nib.Nifti2Header) else nib.Nifti1Header
    header, shape = kind.from_header(image.header.header, check=False), image.header.shape
    grid, expected = tuple(image.values.shape[1:]), _spatial(shape, path)[::-1]
    if grid not in (expected, shape[::-1]):
        raise InputError(path, f"{grid} voxels to write", f"{expected}, the grid of the header")
    header["magic"] = header.single_magic
    header["vox_offset"] = 0  # just behind the header
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the display range of the source
    header["descrip"] = marked(labels).encode("ascii", "replace")[:79]
    space, time = header.get_xyzt_units()
    header.set_xyzt_units("mm" if space == "unknown" else space, time)
    return header, shape


def _probe(path: Path) -> bool:
    return _version(head(path, 540))[0] is not None


def _made(path: Path) -> str:
    start = head(path, 540)
    text = start[148:228] if _version(start)[0] == 1 else start[240:320]
    return text.split(b"\0")[0].decode("ascii", "replace").split(":")[0] if text.startswith(MARK.encode()) else ""


def _parts(path: Path) -> tuple[Path, ...]:
    return _files(path)[1:] if path.name.lower().endswith((".hdr", ".hdr.gz")) else ()


PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")


FORMAT = Format(
    "nifti",
    "NIfTI",
    (".nii", ".nii.gz"),
    ".nii.gz",
    file_reader("nifti", _load),
    check,
    encode,
    _probe,
    read_only=PAIR,
    made=_made,
    parts=_parts,
)
