"""Readers and encoders of the formats that are one file each: NIfTI, TIFF, PNG, npz and MetaImage (.mha).

Every reader returns `Raw`; every encoder returns bytes, so that one place does all the writing.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._check import InputError
from retrodict.data.image import Image, decoding, optional

__all__ = ["Raw", "encode_nifti", "encode_npz", "encode_png", "encode_tiff", "read_raw"]


Spacing = tuple[float, ...]


@dataclass(frozen=True)
class Raw:
    """What a file holds: array (*N), spacing in mm (None or fewer numbers than axes where it is not known), unit."""

    array: np.ndarray
    spacing: Spacing | None
    unit: str | None
    header: object


def read_raw(path: Path, kind: str) -> Raw:
    """Read a file of the format `kind`; N = (H, W) or (Z, H, W)."""
    readers: dict[str, Callable[[Path], Raw]] = {
        "nifti": _read_nifti,
        "tiff": _read_tiff,
        "png": _read_png,
        "npz": _read_npz,
        "mha": _read_mha,
    }
    with decoding(path, kind):
        return readers[kind](path)


# --- NIfTI -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class NiftiHeader:
    """The nibabel header (affine, units, ...) and the shape the file had, which may carry axes of one."""

    header: Any
    shape: tuple[int, ...]


MILLIMETERS = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 1e-3}


def _read_nifti(path: Path) -> Raw:
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
    return Raw(array, tuple(reversed(zooms)), None, NiftiHeader(loaded.header.copy(), shape))


def _spatial(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    if any(n != 1 for n in shape[3:]):
        raise InputError(path, f"shape {shape}, with a time or channel axis", "2 or 3 axes", "Take one volume of it.")
    kept = shape[:3]
    return kept[:2] if len(kept) == 3 and kept[2] == 1 else kept


def encode_nifti(image: Image, like: Image, description: str, destination: Path) -> bytes:
    """Return a float32 NIfTI file with the affine and the voxel sizes of `like`, gzipped for .nii.gz."""
    with optional(destination, "nibabel"):
        import nibabel as nib
    data = np.ascontiguousarray(image.values[0].numpy().T.astype(np.float32))
    if isinstance(like.header, MhaHeader):
        made: Any = nib.Nifti1Image(data, None)
        made.header.set_zooms([float(s) for s in reversed(like.spacing)])
        made.set_sform(like.header.affine, code=1)
        made.set_qform(like.header.affine, code=1, strip_shears=True)
        header = made.header
    elif isinstance(like.header, NiftiHeader):
        data, header = data.reshape(like.header.shape, order="F"), like.header.header.copy()
    else:
        raise InputError(destination, "no NIfTI header", "an image as it was read", "A resampled image has lost it.")
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the display range of the source
    header["descrip"] = description.encode("ascii", "replace")[:79]
    space, time = header.get_xyzt_units()
    header.set_xyzt_units("mm" if space == "unknown" else space, time)
    kind: Any = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    content = kind(data, None, header).to_bytes()  # without an affine nibabel leaves sform and qform as they are
    return gzip.compress(content, 6, mtime=0) if destination.name.lower().endswith(".gz") else content


# --- MetaImage -------------------------------------------------------------------------------------------------------
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


def _read_mha(path: Path) -> Raw:
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
    return Raw(array, tuple(reversed(spacing)), None, MhaHeader(_mha_affine(fields, ndim, spacing)))


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


# --- TIFF ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TiffHeader:
    """The resolution tags as they were (x, y as fractions, unit code) or None, and the kind of the file."""

    resolution: tuple[tuple[int, int], tuple[int, int], int] | None
    kind: str  # "plain", "imagej" or "ome"


LENGTHS = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "µm": 1e-3, "um": 1e-3, "micron": 1e-3, "nm": 1e-6}


LENGTHS |= {"\\u00b5m": 1e-3, "microns": 1e-3, "inch": 25.4, "in": 25.4}


STACKS = {"YX": 2, "ZYX": 3, "IYX": 3, "QYX": 3}  # I and Q: a stack whose axis was not named


def _read_tiff(path: Path) -> Raw:
    with optional(path, "tifffile"):
        import tifffile
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise InputError(path, f"{len(file.series)} images of different sizes", "one image or one stack")
        series = file.series[0]
        if series.axes not in STACKS:
            raise InputError(path, f"axes {series.axes} of shape {series.shape}", "gray values with axes YX or ZYX")
        if series.dtype is None or str(series.dtype.name) not in ("float32", "uint16", "uint8", "int16"):
            raise InputError(path, f"values of type {series.dtype}", "float32, uint16, int16 or uint8")
        tags: Any = file.pages[0].tags  # pyright: ignore[reportAttributeAccessIssue]
        known = [tags.get(name) for name in ("XResolution", "YResolution", "ResolutionUnit")]
        resolution = None
        if known[0] is not None and known[1] is not None:
            resolution = (known[0].value, known[1].value, int(known[2].value) if known[2] is not None else 2)
        kind = "imagej" if file.is_imagej else "ome" if file.is_ome else "plain"
        spacing = _tiff_spacing(file, resolution, STACKS[series.axes])
        # Tags that give no length (unit "none") say nothing worth writing back.
        meant = resolution is not None and (spacing is not None if kind == "imagej" else resolution[2] in (2, 3))
        return Raw(series.asarray(), spacing, None, TiffHeader(resolution if meant else None, kind))


def _tiff_spacing(file: Any, resolution: Any, ndim: int) -> Spacing | None:
    """Return the spacing in mm from OME, ImageJ or the resolution tags; fewer numbers than axes where dz is unknown."""
    if file.is_ome:
        return _ome_spacing(file.ome_metadata, ndim)
    extra = (file.imagej_metadata if file.is_imagej else None) or (file.shaped_metadata or ({},))[0]
    scale = {2: 25.4, 3: 10.0}.get(resolution[2] if resolution else 1)  # inch, centimeter
    if file.is_imagej or scale is None:
        scale = LENGTHS.get(str(extra.get("unit", "")))
    if resolution is None or scale is None or 0 in (*resolution[0], *resolution[1]):
        return None
    dx, dy = (scale * d / n for n, d in resolution[:2])
    dz = extra.get("spacing")
    if ndim == 3 and dz:
        return (float(dz) * (scale if file.is_imagej else 1.0), dy, dx)
    return (dy, dx)


def _ome_spacing(xml: str, ndim: int) -> Spacing | None:
    import xml.etree.ElementTree as ET

    pixels = next((e for e in ET.fromstring(xml).iter() if e.tag.endswith("}Pixels")), None)
    sizes = []
    for axis in "ZYX"[3 - ndim :]:
        size = None if pixels is None else pixels.get(f"PhysicalSize{axis}")
        unit = "µm" if pixels is None else pixels.get(f"PhysicalSize{axis}Unit", "µm")  # the default of OME
        if size is None or unit not in LENGTHS:
            if axis == "Z":
                continue
            return None
        sizes.append(float(size) * LENGTHS[unit])
    return tuple(sizes)


def encode_tiff(image: Image, like: Image, description: str, destination: Path) -> bytes:
    """Return a float32 TIFF file with the resolution tags of `like`, or with its spacing where it had no such tags."""
    with optional(destination, "tifffile"):
        import tifffile
    header = like.header if isinstance(like.header, TiffHeader) else TiffHeader(None, "plain")
    values, spacing = image.values[0].numpy().astype(np.float32), like.spacing
    metadata: dict[str, Any] = {"axes": "ZYX"[-values.ndim :]}
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": metadata}
    across, down, code = header.resolution or (_fraction(10.0 / spacing[-1]), _fraction(10.0 / spacing[-2]), 3)
    if header.kind == "ome":
        options["ome"] = True
        metadata |= {"Description": description}
        for axis, size in zip(metadata["axes"], spacing, strict=True):
            if np.isfinite(size):
                metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "mm"}
    elif header.kind == "imagej":
        options["imagej"] = True
        unit = _pixel_unit(across, spacing[-1])
        metadata |= {"unit": unit, "Info": description}
        if values.ndim == 3 and np.isfinite(spacing[0]):
            metadata["spacing"] = spacing[0] / LENGTHS[unit]
    else:
        metadata["description"] = description
        if values.ndim == 3 and np.isfinite(spacing[0]):
            metadata["spacing"] = spacing[0]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, resolution=(across, down), resolutionunit=code, **options)
    return buffer.getvalue()


def _fraction(value: float) -> tuple[int, int]:
    exact = Fraction(value).limit_denominator(max(1, min(10**5, int(2**31 / value))))  # both must fit 32 bits
    return exact.numerator, exact.denominator


def _pixel_unit(resolution: tuple[int, int], dx: float) -> str:
    """Return the ImageJ unit for which the resolution tag, in pixels per unit, means a pixel of dx mm."""
    pixel = resolution[1] / resolution[0]
    return min(("mm", "cm", "um", "nm", "m", "inch"), key=lambda u: abs(np.log(pixel * LENGTHS[u] / dx)))


# --- PNG -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PngHeader:
    """Bits per pixel: 8 or 16."""

    bits: int


def _read_png(path: Path) -> Raw:
    with optional(path, "pillow"):
        from PIL import Image as Pillow
    with Pillow.open(path) as file:
        if file.mode not in ("L", "I;16", "I;16B", "I"):
            raise InputError(path, f"a {file.mode} image", "an 8 or 16 bit gray PNG", "Convert it to gray first.")
        # The resolution a PNG may carry is that of a screen or a printer, not that of the object: never used.
        return Raw(np.asarray(file), None, None, PngHeader(8 if file.mode == "L" else 16))


def encode_png(image: Image, like: Image, description: str, destination: Path) -> bytes | None:
    """Return a PNG file of the bit depth of `like`, or None where the values are not all exactly representable."""
    with optional(destination, "pillow"):
        from PIL import Image as Pillow
        from PIL.PngImagePlugin import PngInfo
    bits = like.header.bits if isinstance(like.header, PngHeader) else 8
    values = image.values[0].numpy()
    if values.min() < 0 or values.max() > 2**bits - 1 or (values != np.rint(values)).any():
        return None
    info = PngInfo()
    info.add_text("Description", description.encode("latin-1", "replace").decode("latin-1"))
    buffer = io.BytesIO()
    Pillow.fromarray(values.astype(np.uint8 if bits == 8 else np.uint16)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


# --- npz -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class NpzHeader:
    """The name of the image array and all other arrays of the file."""

    key: str
    others: dict[str, np.ndarray] = field(default_factory=dict)


def _read_npz(path: Path) -> Raw:
    if not zipfile.is_zipfile(path):
        raise InputError(path, "bytes that are not an npz archive", "a file written by numpy.savez")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: _array(file, name, path) for name in file.files}
    key = _image_key(arrays, path)
    array = arrays.pop(key)
    if array.dtype.kind not in "iufb" or array.ndim not in (2, 3):
        expected = "real numbers of shape (H, W) or (Z, H, W)"
        raise InputError(f"{path}[{key}]", f"{array.dtype} of shape {array.shape}", expected)
    if array.ndim == 3 and array.shape[-1] in (3, 4) and min(array.shape[:2]) > 8:
        raise InputError(f"{path}[{key}]", f"shape {array.shape}, a color image", "gray values, (H, W) or (Z, H, W)")
    unit = str(arrays["unit"]) if "unit" in arrays else ("HU" if key == "hu" else None)
    return Raw(array, _npz_spacing(arrays, array.ndim), unit, NpzHeader(key, arrays))


def _array(file: Any, name: str, path: Path) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:
        if "pickle" in str(error):
            raise InputError(f"{path}[{name}]", "an array of Python objects", "an array of numbers") from error
        raise


def _image_key(arrays: dict[str, np.ndarray], path: Path) -> str:
    candidates = [k for k in ("image", "hu") if k in arrays] or [k for k, a in arrays.items() if a.ndim >= 2]
    if len(candidates) != 1:
        found = "arrays " + ", ".join(f"{k} {a.shape}" for k, a in arrays.items())
        raise InputError(path, found, "one array called image or hu, or a single array with two or more axes")
    return candidates[0]


def _npz_spacing(arrays: dict[str, np.ndarray], ndim: int) -> Spacing | None:
    known = arrays.get("spacing", arrays.get("pixel_spacing_mm"))
    if known is None:
        return None
    spacing = tuple(float(v) for v in np.broadcast_to(known, ndim if known.ndim == 0 else known.shape).ravel())
    places = arrays.get("slice_location")
    if ndim == 3 and len(spacing) == 2 and places is not None and places.size > 1:
        steps = np.abs(np.diff(places))
        if np.ptp(steps) <= max(0.02 * float(np.median(steps)), 0.01):
            return (float(np.mean(steps)), *spacing)
    return spacing


def encode_npz(image: Image, like: Image, role: str, description: str) -> bytes:
    """Return an npz file: the image as float32 under the name it had, all other arrays, and spacing and unit."""
    header = like.header if isinstance(like.header, NpzHeader) else NpzHeader("image")
    arrays = dict(header.others)
    arrays["spacing"] = np.array([s for s in like.spacing if np.isfinite(s)])
    arrays |= {"unit": np.array(image.unit), "role": np.array(role), "description": np.array(description)}
    arrays[header.key] = image.values[0].numpy().astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
