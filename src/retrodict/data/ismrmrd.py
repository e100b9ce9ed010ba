"""Cartesian k-space of ISMRMRD files (Inati et al., Magn. Reson. Med. 77, 2017): acquisitions sorted into a grid."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrodict._check import InputError
from retrodict.data.limits import check_size
from retrodict.data.raw import Raw

__all__ = ["Acquisitions", "acquisitions"]

NOISE = 1 << 18
"""Bit of the flags of an acquisition that measures noise alone (ACQ_IS_NOISE_MEASUREMENT = 19, counted from 1)."""

SKIPPED = sum(1 << (bit - 1) for bit in (19, 20, 23, 24, 26, 27))
"""Bits of acquisitions that are no line of the image: noise, calibration alone, navigation, phase correction, feedback,
dummies.
"""


@dataclass(frozen=True)
class Acquisitions:
    """`kspace` `(slices, coils, ny, nx)` complex64, 0 where nothing was measured, and the readout without oversampling;
    `spacing` (dy, dx) in mm of the image, `slice_spacing`, and `noise` `(coils, m)` of noise scans, or None.
    """

    kspace: np.ndarray
    spacing: tuple[float, float]
    slice_spacing: float
    noise: np.ndarray | None
    averages: int


def acquisitions(raw: Raw, *, crop: bool = True) -> Acquisitions:
    """Sort the lines of a two-dimensional Cartesian ISMRMRD file; repeated lines are averaged.

    Raises `InputError` for other trajectories, several encodings or volumes with partitions, and what is inconsistent.
    """
    header = _header(raw)
    table = raw.stored("dataset/data").take(())
    heads, flags = table["head"], table["head"]["flags"].astype(np.uint64)
    use = np.flatnonzero((flags & np.uint64(SKIPPED)) == 0).tolist()
    if not use:
        raise InputError(raw.path, "no acquisition of an image", "lines of k-space")
    index = heads["idx"]
    if int(index["kspace_encode_step_2"][use].max()) > 0:
        raise InputError(raw.path, "partitions (a three-dimensional encoding)", "slices of two-dimensional k-space")
    nx, ny = header["encoded"]
    slices, coils = int(index["slice"][use].max()) + 1, int(heads["active_channels"][use[0]])
    check_size(raw.path, (slices, coils, ny, nx), 8)
    out = np.zeros((slices, coils, ny, nx), np.complex64)
    count = np.zeros((slices, ny), np.int64)
    shift = ny // 2 - header["center"]
    for i in use:
        row, s = int(index["kspace_encode_step_1"][i]) + shift, int(index["slice"][i])
        line = _line(raw, table, i, coils)
        first = nx // 2 - int(heads["center_sample"][i])
        if not 0 <= row < ny or first < 0 or first + line.shape[1] > nx:
            found = f"acquisition {i} at line {row}, samples {first} to {first + line.shape[1]}"
            raise InputError(raw.path, found, f"lines within the encoded {ny} x {nx}")
        out[s, :, row, first : first + line.shape[1]] += line
        count[s, row] += 1
    out /= np.maximum(count, 1)[:, None, :, None]
    noise = [_line(raw, table, i, coils) for i in np.flatnonzero((flags & np.uint64(NOISE)) != 0).tolist()]
    wide = header["recon"][0]
    if crop and wide < nx:
        out = _without_oversampling(out, wide)
    spacing = (header["fov"][1] / ny, header["fov"][0] / nx)
    return Acquisitions(out, spacing, header["fov"][2], np.concatenate(noise, 1) if noise else None, int(count.max()))


def _line(raw: Raw, table: Any, i: int, coils: int) -> np.ndarray:
    samples = int(table["head"]["number_of_samples"][i])
    values = np.asarray(table["data"][i], np.float32)
    if values.size != 2 * coils * samples or int(table["head"]["active_channels"][i]) != coils:
        found = f"acquisition {i} of {values.size} numbers"
        raise InputError(raw.path, found, f"{2 * coils * samples}: {coils} coils of {samples} complex samples")
    return values.view(np.complex64).reshape(coils, samples)


def _without_oversampling(kspace: np.ndarray, wide: int) -> np.ndarray:
    """The middle of the field of view along the readout."""
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, -1), norm="ortho"), -1)
    first = image.shape[-1] // 2 - wide // 2
    cut = image[..., first : first + wide]
    return np.fft.fftshift(np.fft.fft(np.fft.ifftshift(cut, -1), norm="ortho"), -1).astype(np.complex64)


def _header(raw: Raw) -> dict[str, Any]:
    text = np.asarray(raw.stored("dataset/xml").take(())).ravel()[0]
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    if len(text) > 4_000_000 or re.search(r"<!(DOCTYPE|ENTITY)", text):
        raise InputError(f"{raw.path}: dataset/xml", "a header that is too long, or has entities", "an ISMRMRD header")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{raw.path}: dataset/xml", f"unreadable XML ({error})", "an ISMRMRD header") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    encodings = root.findall("encoding")
    if len(encodings) != 1:
        raise InputError(raw.path, f"{len(encodings)} encodings", "one")
    kind = (encodings[0].findtext("trajectory") or "").strip().lower()
    if kind != "cartesian":
        raise InputError(raw.path, f"a {kind or 'nameless'} trajectory", "a Cartesian one")
    try:
        encoded = [int(encodings[0].findtext(f"encodedSpace/matrixSize/{a}") or "") for a in "xy"]
        recon = [int(encodings[0].findtext(f"reconSpace/matrixSize/{a}") or "") for a in "xy"]
        fov = [float(encodings[0].findtext(f"encodedSpace/fieldOfView_mm/{a}") or "") for a in "xyz"]
    except ValueError as error:
        expected = "matrixSize and fieldOfView_mm of its encoded and recon space"
        raise InputError(f"{raw.path}: dataset/xml", "a header without sizes", expected) from error
    center = encodings[0].findtext("encodingLimits/kspace_encoding_step_1/center")
    return {"encoded": encoded, "recon": recon, "fov": fov, "center": int(center) if center else encoded[1] // 2}
