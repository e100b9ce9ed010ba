"""Pairs of measured and true images of patients: from a table, or from two folders."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from retrodict._check import InputError, read_text
from retrodict.data import Image, Source, discover, read
from retrodict.models.model import Model
from retrodict.tasks.inputs import open_image
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.patients import patients_of

__all__ = ["Pair", "pairs_of"]


FOLDERS = ("measured", "truth")


@dataclass(frozen=True)
class Pair:
    """A measured image, its truth, and the patient that both are of."""

    name: str
    measured: Source
    truth: Source
    patient: str

    def read(self, options: RestoreOptions, model: Model) -> tuple[Image, Image]:
        """Both images; `InputError` where they are not on one grid, in one unit."""
        measured, _ = open_image(self.measured, options, model)
        truth = self._truth(measured, options, model)
        where = str(self.truth.paths[0])
        if truth.values.shape != measured.values.shape:
            found, wanted = (tuple(i.values.shape[1:]) for i in (truth, measured))
            raise InputError(where, f"{found} pixels", f"{wanted}, those of {self.measured.paths[0]}")
        if truth.unit != measured.unit:
            raise InputError(where, f"values in {truth.unit!r}", f"{measured.unit!r}, those of the measured image")
        if any(abs(a / b - 1) > 1e-3 for a, b in zip(truth.spacing[-2:], measured.spacing[-2:], strict=True)):
            found, wanted = (f"{i.spacing[-2]:.5g} x {i.spacing[-1]:.5g} mm" for i in (truth, measured))
            raise InputError(where, f"pixels of {found}", f"{wanted}, those of the measured image")
        return measured, truth

    def _truth(self, measured: Image, options: RestoreOptions, model: Model) -> Image:
        """The true image, its slices in the plane of the measured one; what its file says of itself stands, and what a
        PNG, npz or TIFF does not say is as in the measured image.
        """
        given: dict[str, Any] = {
            "spacing": tuple(options.spacing) if options.spacing else None,
            "unit": options.unit,
            "slices": "independent",
            "allow_gaps": True,
            "clip": False,
            "expect": None,
            "plane": "axial" if len(model.spec.size) == 2 else None,
        }
        if self.truth.format not in ("png", "npz", "tiff"):
            return read(self.truth, **given)
        try:
            truth = read(self.truth, **given)
        except InputError:
            if given["spacing"] is not None:
                raise
            given["spacing"] = tuple(measured.spacing[-2:])
            truth = read(self.truth, **given)
        if given["unit"] is None and truth.unit == "arbitrary" != measured.unit:
            return read(self.truth, **{**given, "unit": measured.unit})
        return truth


def pairs_of(path: str | Path, patients: str | None) -> list[Pair]:
    """Pairs at a path, in the order of patients and names.

    path: a CSV file with the columns measured, truth and patient (paths relative to it), or a folder with the
    subfolders measured/ and truth/, whose images have the same names (NAME_measured and NAME-measured are NAME).
    patients: "dicom", "folder" or a regular expression, as in an evaluation; not needed where the table says it, or
    where every measured image is DICOM with a PatientID.

    Raises `InputError` for what has no partner, a name twice, and patients that nobody tells: they are what is
    exchangeable, and slices of one patient are not.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "nothing", "a CSV file of pairs, or a folder with measured/ and truth/")
    pairs = _from_folders(path) if path.is_dir() else _from_table(path)
    if not pairs:
        raise InputError(path, "no pairs", "measured and true images")
    if any(not p.patient for p in pairs):
        # what tells patients is the file, not the pixels
        light = {p.name: Image(torch.zeros(1, 1, 1, device="cpu"), "arbitrary", (1.0, 1.0), p.measured.format,
                               p.measured.paths) for p in pairs}  # fmt: skip
        told = patients_of(light, patients)
        if told is None:
            raise InputError(
                "patients", f"no patients of {len(pairs)} pairs", "which pairs are of one patient",
                "Give {patients} (dicom, folder, or a regular expression of the names), or a column 'patient'.",
                patients=...,
            )  # fmt: skip
        pairs = [Pair(p.name, p.measured, p.truth, told[p.name]) for p in pairs]
    return sorted(pairs, key=lambda p: (p.patient, p.name))


def _from_folders(path: Path) -> list[Pair]:
    found = []
    for name in FOLDERS:
        if not (path / name).is_dir():
            raise InputError(path, f"no folder {name}/", "a folder with measured/ and truth/, or a CSV file")
        sources = discover(path / name)
        stems = Counter(_stem(s.name) for s in sources)
        twice = next((stem for stem, n in stems.items() if n > 1), None)
        if twice is not None:
            raise InputError(path / name, f"{stems[twice]} images {twice!r}", "one image of a name")
        found.append({_stem(s.name): s for s in sources})
    measured, truth = found
    for names, others, folder in ((measured, truth, "truth"), (truth, measured, "measured")):
        alone = sorted(set(names) - set(others))
        if alone:
            raise InputError(path / folder, f"no image {alone[0]!r}", "a partner of every image in the other folder")
    return [Pair(name, measured[name], truth[name], "") for name in measured]


def _stem(name: str) -> str:
    return name.removesuffix("-measured").removesuffix("_measured")


def _from_table(path: Path) -> list[Pair]:
    text = read_text(path, "a CSV file with the columns measured, truth and patient, or a folder", 16_000_000)
    lines = csv.DictReader(text.removeprefix("\ufeff").splitlines())
    columns = [c.strip() for c in lines.fieldnames or ()]
    for name in ("measured", "truth"):
        if name not in columns:
            raise InputError(path, f"the columns {', '.join(columns) or '(none)'}", f"a column {name!r}")
    pairs: list[Pair] = []
    for number, row in enumerate(lines, start=2):
        given = {(k or "").strip(): (v or "").strip() for k, v in row.items() if isinstance(v, str)}
        measured, truth = (_one(path, number, column, given.get(column, "")) for column in FOLDERS)
        same = next((k for k, p in enumerate(pairs, start=2) if p.measured.paths == measured.paths), None)
        if same is not None:
            raise InputError(f"{path}: line {number}", f"the measured image of line {same} again", "every image once")
        pairs.append(Pair(_unused(_stem(measured.name), pairs), measured, truth, given.get("patient", "")))
    if any(p.patient for p in pairs) and any(not p.patient for p in pairs):
        number = next(k for k, p in enumerate(pairs, start=2) if not p.patient)
        raise InputError(f"{path}: line {number}", "no patient", "the patient of every pair, or of none")
    return pairs


def _one(table: Path, number: int, column: str, text: str) -> Source:
    if not text:
        raise InputError(f"{table}: line {number}", f"no {column} image", "a path")
    found = discover(table.parent / text, results=True)
    if len(found) != 1:
        raise InputError(f"{table}: line {number}: {text}", f"{len(found)} images or series", "exactly one")
    return found[0]


def _unused(name: str, pairs: Sequence[Pair]) -> str:
    taken = {p.name for p in pairs}
    return name if name not in taken else next(n for k in range(2, 10**6) if (n := f"{name} ({k})") not in taken)
