"""NIfTI: float32 volumes with the affine of their source."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._check import InputError
from retrodict.data.formats.format import Format, Labels, Raw, file_reader, one_gray_channel
from retrodict.data.image import Image, optional

__all__ = ["FORMAT", "NiftiHeader", "check", "encode", "header_in_space"]


@dataclass(frozen=True)
class NiftiHeader:
    """The nibabel header (affine, units, ...) and the shape the file had, which may carry axes of one."""

    header: Any
    shape: tuple[int, ...]


MILLIMETERS = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 1e-3}


def _load(path: Path) -> Raw:
    with optional(path, "nibabel"):
        import nibabel as nib
        from nibabel.affines import voxel_sizes
    loaded: Any = nib.load(path)
    shape = tuple(int(n) for n in loaded.shape)
    kept = _spatial(shape, path)
    if loaded.get_data_dtype().names or loaded.get_data_dtype().kind not in "iuf":
        raise InputError(path, f"voxels of type {loaded.get_data_dtype()}", "one real number per voxel")
    array = np.asarray(loaded.dataobj).reshape(kept, order="F").T  # NIfTI counts x, y, z; we count z, y, x
    scale = MILLIMETERS[loaded.header.get_xyzt_units()[0]]
    zooms = [float(z) * scale for z in loaded.header.get_zooms()[: len(kept)]]
    affine = voxel_sizes(loaded.affine)[: len(kept)] * scale
    if not np.allclose(zooms, affine, rtol=1e-2):
        found = f"voxel sizes {np.round(zooms, 4).tolist()} mm, and {np.round(affine, 4).tolist()} mm in the affine"
        raise InputError(path, found, "a header that agrees with itself")
    return Raw(array[None], tuple(reversed(zooms)), None, NiftiHeader(loaded.header.copy(), shape))


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
    """Refuse several channels, complex values, a lost header and a missing package, as `encode` does."""
    one_gray_channel(image, "NIfTI", path)
    _header(image, "", path)


def encode(image: Image, labels: Labels) -> Iterator[tuple[str, bytes]]:
    """Yield a float32 NIfTI file with the affine and the voxel sizes of the source, gzipped for .nii.gz."""
    one_gray_channel(image, "NIfTI", labels.path)
    header, shape = _header(image, labels.description, labels.path)
    import nibabel as nib

    data = np.ascontiguousarray(image.values[0].numpy().T.astype(np.float32)).reshape(shape, order="F")
    kind: Any = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    content = kind(data, None, header).to_bytes()  # without an affine nibabel leaves sform and qform as they are
    name = labels.path.name
    yield name, gzip.compress(content, 6, mtime=0) if name.lower().endswith(".gz") else content


def _header(image: Image, description: str, path: Path) -> tuple[Any, tuple[int, ...]]:
    """Return the header to write, and the shape of the file, which may have axes of one that the image has not."""
    with optional(path, "nibabel"):
        import nibabel  # noqa: F401
    if not isinstance(image.header, NiftiHeader):
        raise InputError(path, "no NIfTI header", "an image as it was read", "A resampled image has lost it.")
    header, shape = image.header.header.copy(), image.header.shape
    grid, expected = tuple(image.values.shape[1:]), _spatial(shape, path)[::-1]
    if grid not in (expected, shape[::-1]):
        raise InputError(path, f"{grid} voxels to write", f"{expected}, the grid of the header")
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the display range of the source
    header["descrip"] = description.encode("ascii", "replace")[:79]
    space, time = header.get_xyzt_units()
    header.set_xyzt_units("mm" if space == "unknown" else space, time)
    return header, shape


FORMAT = Format("nifti", "NIfTI", (".nii", ".nii.gz"), ".nii.gz", file_reader("nifti", _load), check, encode)
