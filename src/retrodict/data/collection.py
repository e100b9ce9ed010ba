"""Slices of the images that a table lists, and the digests by which one is known again whatever file it is in."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data.formats.npz import named_array
from retrodict.data.image import Image, Source, in_memory
from retrodict.data.index import IndexRow
from retrodict.data.io import find, read

__all__ = ["Slice", "evenly", "read_row", "row_digest", "row_slices", "slice_digest", "slice_digests", "slices_of"]


@dataclass(frozen=True)
class Slice:
    """One slice of a patient: values `(C, H, W)` in `image`, its own noise in that unit where it is known, its digest,
    and where it is from."""

    patient: str
    image: Image
    noise: float | None = None
    digest: str = ""
    where: str = ""

    @property
    def spacing(self) -> tuple[float, float]:
        """Mm (rows, columns)."""
        return self.image.spacing[-2], self.image.spacing[-1]


# ---- digests ---------------------------------------------------------------------------------------------------------


def slice_digest(values: Tensor) -> str:
    """SHA-256 of the pixels of a slice `(C, H, W)`: their size, and float32 in C order, lowest byte first.

    The same pixels have the same digest in every format: DICOM in HU, and the NIfTI or npz that was made of it.
    """
    plain = torch.view_as_real(values) if values.is_complex() else values
    array = (plain.detach().cpu().float() + 0.0).contiguous().numpy()  # -0 becomes 0
    head = f"retrodict slice {'x'.join(map(str, values.shape))}\n".encode()
    return hashlib.sha256(head + array.astype("<f4").tobytes()).hexdigest()


def slice_digests(image: Image) -> list[str]:
    """The digest of every slice of an image: of the one, or of those along the first axis of a volume."""
    return [slice_digest(values) for values in _stack(image)]


def row_digest(digests: Sequence[str]) -> str:
    """What stands in the column `sha256`: the digest of a single slice, or SHA-256 of those of all, one a line."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


# ---- slices ----------------------------------------------------------------------------------------------------------


def _stack(image: Image) -> list[Tensor]:
    values = image.values
    return [values] if values.ndim == 3 else list(values.unbind(1))


def evenly(count: int, most: int | None) -> list[int]:
    """At most `most` of the numbers below `count`, each in the middle of an equal part."""
    kept = count if most is None else min(count, most)
    return [(2 * k + 1) * count // (2 * kept) for k in range(kept)]


def slices_of(image: Image, patient: str, where: str, *, most: int | None = None, noise: float | None = None
              ) -> list[Slice]:  # fmt: skip
    """At most `most` evenly spaced slices of an image, each an image by itself; memory of the others is not kept."""
    stack = _stack(image)
    plain = replace(image, values=stack[0], spacing=image.spacing[-2:], padding=None, header=None, regular=True,
                    axes=image.axes[-2:] if image.axes else (), order=())  # fmt: skip
    found = []
    for k in evenly(len(stack), most):
        values = stack[k].clone() if len(stack) > 1 else stack[k]
        place = f"{where}, slice {k}" if len(stack) > 1 else where
        found.append(Slice(patient, replace(plain, values=values), noise, slice_digest(values), place))
    return found


def read_row(row: IndexRow, expect: str | None = None) -> Image:
    """The image of a row: (C, H, W), or (C, Z, H, W) slices that are read each for itself.

    `InputError` where the file is missing or broken, or has no spacing and the row states none.
    """
    unit, spacing = row.known_unit, row.pixel_spacing_mm or None
    if row.key:
        return _array(row, unit)
    paths = row.paths
    for path in paths:
        if not path.exists():
            raise InputError(f"{row.where}, column file", f"nothing at {path}", "a file relative to the table")
    source = Source(paths, row.format, row.series) if row.format else _only(paths, row)
    return read(source, spacing=spacing, unit=unit, expect=expect, slices="independent", allow_gaps=True)


def _only(paths: tuple[Path, ...], row: IndexRow) -> Source:
    sources = find(paths[0]).sources
    if len(paths) > 1 or len(sources) != 1:
        found = f"{len(paths) if len(paths) > 1 else len(sources)} files or series"
        raise InputError(f"{row.where}, column format", f"nothing, for {found}", "the format of the series")
    return sources[0]


def _array(row: IndexRow, unit: str | None) -> Image:
    path = row.paths[0]
    if not row.pixel_spacing_mm:
        raise InputError(f"{row.where}, column pixel_spacing_mm", "an empty cell", "mm for an array with a key")
    values = named_array(path, row.key)
    if values.ndim not in (2, 3):
        raise InputError(f"{path}[{row.key}]", f"shape {values.shape}", "(H, W) or (Z, H, W)")
    tensor, padding = in_memory(values[None], unit or "arbitrary", True, f"{path}[{row.key}]")
    stacked = values.ndim == 3
    spacing = (math.nan, *row.pixel_spacing_mm) if stacked else row.pixel_spacing_mm
    return Image(tensor, unit or "arbitrary", spacing, "npz", (path,), padding=padding, regular=not stacked)


def row_slices(rows: Sequence[IndexRow], *, most: int | None = None, expect: str | None = None) -> Iterator[Slice]:
    """The slices of rows in their order; a file that several rows in a sequence name is read once.

    most : slices of a row without `index`, evenly spaced.  `InputError` for a slice that is not there, and for pixels
    that are not those of which the row has the digest.
    """
    for _, group in itertools.groupby(rows, key=lambda r: (r.path.parent / r.file, r.files, r.key, r.known_unit)):
        same = list(group)
        image = read_row(same[0], expect)
        for row in same:
            # Slices of different scans may stand in one array: each row has a spacing of its own.
            own = row.pixel_spacing_mm or image.spacing[-2:]
            yield from _of_row(row, replace(image, spacing=(*image.spacing[:-2], *own)), most)


def _of_row(row: IndexRow, image: Image, most: int | None) -> list[Slice]:
    count = 1 if image.values.ndim == 3 else image.values.shape[1]
    if row.index is None:
        if row.sha256:
            _check_digest(row, row_digest(slice_digests(image)))
        return slices_of(image, row.patient, row.where, most=most, noise=row.noise)
    if row.index >= count:
        raise InputError(f"{row.where}, column index", row.index, f"a number below {count}, the slices of {row.file}")
    part = image if image.values.ndim == 3 else replace(image, values=image.values[:, row.index : row.index + 1],
                                                        padding=None)  # fmt: skip
    found = [replace(s, where=row.where) for s in slices_of(part, row.patient, row.where, noise=row.noise)]
    if row.sha256:
        _check_digest(row, found[0].digest)
    return [replace(s, image=replace(s.image, values=s.image.values.clone())) for s in found]


def _check_digest(row: IndexRow, digest: str) -> None:
    if digest != row.sha256:
        hint = "Write the table again with `retrodict data index`."
        raise InputError(f"{row.where}, column sha256", "other pixels in the file", "those that were listed", hint)
