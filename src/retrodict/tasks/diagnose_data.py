"""Clean images to diagnose a model on: from a table or a folder, on the grid of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from retrodict._check import InputError
from retrodict.data import Image, read, resample
from retrodict.data.collection import evenly, row_slices
from retrodict.data.discovery import find
from retrodict.data.index import IndexRow, read_index
from retrodict.models.model import ModelSpec

__all__ = ["clean_images"]


def clean_images(data: str | Path, spec: ModelSpec, points: int) -> list[tuple[str, Tensor]]:
    """About `points` pairs of a patient and a clean image `(C, *N)` in the units and on the grid of the model.

    data: a table as `retrodict data index` writes it, of which the rows of split validation are taken, or a folder of
    images, in which a folder or a file is a patient.  Patients are spread evenly and count alike; of an image its
    middle is taken, at the spacing of the model.  Raises `InputError` where nothing is found, and for an image that is
    smaller than the grid of the model or in another unit.
    """
    path = Path(data)
    if not path.exists():
        raise InputError("data", f"nothing at {path}", "a folder of clean images, or their table index.csv")
    images = _listed(path, spec, points) if path.suffix.lower() == ".csv" else _found(path, spec, points)
    return [(patient, _prepared(image, spec, where)) for patient, image, where in images]


def _listed(path: Path, spec: ModelSpec, points: int) -> Iterator[tuple[str, Image, str]]:
    if len(spec.size) != 2:
        raise InputError("data", f"a table of slices for a model of {len(spec.size)} axes", "a folder of its images")
    by_patient: dict[str, list[IndexRow]] = {}
    for row in read_index(path):
        if row.split == "validation":
            by_patient.setdefault(row.patient, []).append(row)
    if not by_patient:
        raise InputError(f"{path}, column split", "no row of validation", "patients who were not in training")
    names = list(by_patient)
    chosen = [names[k] for k in evenly(len(names), points)]
    each = math.ceil(points / len(chosen))
    rows = [by_patient[name][k] for name in chosen for k in evenly(len(by_patient[name]), each)]
    for item in row_slices(rows, most=1, expect=None):
        yield item.patient, item.image, item.where


def _found(path: Path, spec: ModelSpec, points: int) -> Iterator[tuple[str, Image, str]]:
    sources = find(path).sources
    if not sources:
        raise InputError("data", f"no image in {path}", "a folder of clean images, or their table index.csv")
    kept = [sources[k] for k in evenly(len(sources), points)]
    for source in kept:
        image = read(source, expect=None, slices="volume" if len(spec.size) == 3 else "independent", allow_gaps=True)
        if image.values.ndim == len(spec.size) + 2:  # a stack for a model of slices
            middle = image.values.shape[1] // 2
            image = Image.of(image.values[:, middle].numpy(), spacing=image.spacing[-2:], unit=image.unit)
        first = source.paths[0]
        inside = first.relative_to(path) if first.is_relative_to(path) else Path(first.name)
        yield inside.parts[0], image, str(first)


def _prepared(image: Image, spec: ModelSpec, where: str) -> Tensor:
    if image.unit != spec.intensity.unit:
        raise InputError(where, f"an image in {image.unit!r}", f"{spec.intensity.unit!r}, the unit of the model")
    if image.values.ndim != len(spec.size) + 1 or len(image.values) != len(spec.channels):
        wanted = f"({len(spec.channels)}, {', '.join('N' * len(spec.size))})"
        raise InputError(where, f"an image of shape {tuple(image.values.shape)}", wanted)
    values = resample(image, spec.spacing).values
    if any(have < want for have, want in zip(values.shape[1:], spec.size, strict=True)):
        found = f"{tuple(values.shape[1:])} pixels at the spacing of the model"
        raise InputError(where, found, f"at least {tuple(spec.size)}, its grid")
    cuts = [slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(values.shape[1:], spec.size, strict=True)]
    return spec.intensity.encode(values[(slice(None), *cuts)].double())
