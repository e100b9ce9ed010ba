"""The table of a folder of images: whose they are, how they were made, how noisy they are, and who is held out."""

from __future__ import annotations

import contextlib
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retrodict._check import InputError, choice
from retrodict._random import key
from retrodict.data import Image, LeftOut, Source, acquisition, find, read
from retrodict.data.collection import evenly, row_digest, slice_digests
from retrodict.data.discovery import summarized
from retrodict.data.index import SPLITS, IndexRow, write_index
from retrodict.data.units import unit as unit_named
from retrodict.metrics.frequency import detrend
from retrodict.metrics.noise import autocorrelation
from retrodict.metrics.regions import cut, find_uniform

__all__ = ["FolderIndex", "index_folder", "own_noise"]


PATIENTS = ("header", "folder")
"""What says who the patient of an image is."""


LOOKED_AT = 6
"""Slices of a series in which uniform regions are looked for."""


REGIONS = (16, 8)
"""Sides of the regions in pixels: the second where there are none of the first."""


@dataclass(frozen=True)
class FolderIndex:
    """Rows of a folder, what was left out, and sentences that a user should read."""

    folder: Path
    rows: tuple[IndexRow, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def save(self, path: Path | str | None = None, *, force: bool = False) -> Path:
        """Write the table (`folder/index.csv` where no path is given) and return where it is."""
        return write_index(self.rows, self.folder / "index.csv" if path is None else path, force=force)

    @property
    def record(self) -> dict[str, Any]:
        """What was found in numbers: counts by side, kernels, and (least, median, most) of spacing and noise."""
        sides = {side: [r for r in self.rows if r.split == side] for side in SPLITS}
        spacing = [r.pixel_spacing_mm[0] for r in self.rows if r.pixel_spacing_mm]
        units = sorted({r.unit for r in self.rows})
        noise = {u: _spread([r.noise for r in self.rows if r.unit == u and r.noise is not None]) for u in units}
        return {
            "series": len(self.rows),
            "patients": len({r.patient for r in self.rows}),
            "slices": sum(r.slices or 1 for r in self.rows),
            "splits": {
                s: {"series": len(rows), "patients": len({r.patient for r in rows})} for s, rows in sides.items()
            },
            "kernels": dict(Counter(r.kernel or "unknown" for r in self.rows).most_common()),
            "modalities": dict(Counter(r.modality or "unknown" for r in self.rows).most_common()),
            "planes": dict(Counter(r.orientation or "unknown" for r in self.rows).most_common()),
            "spacing_mm": _spread(spacing),
            "noise": noise,
            "without_noise": sum(r.noise is None for r in self.rows),
            "left_out": [{"path": str(x.path), "reason": x.reason, "failed": x.failed} for x in self.left_out],
            "notes": list(self.notes),
        }

    def summary(self) -> list[str]:
        """The same as lines for people."""
        record = self.record
        lines = [f"{_count(len(self.rows), 'series', 'series')} ({_count(record['slices'], 'slice')}) of "
                 f"{_count(record['patients'], 'patient')}"]  # fmt: skip
        sides = [f"{side} {_count(n['patients'], 'patient')}" for side, n in record["splits"].items() if n["series"]]
        lines.append(f"split    {', '.join(sides)}")
        for title, name in (("kernels", "kernels"), ("planes", "planes"), ("kinds", "modalities")):
            lines.append(f"{title:<8} {', '.join(f'{k} ({n})' for k, n in record[name].items())}")
        if record["spacing_mm"]:
            lines.append("spacing  {:.3g} to {:.3g} mm (median {:.3g})".format(*_ordered(record["spacing_mm"])))
        for name, noise in record["noise"].items():
            if noise:
                lines.append("noise    {:.3g} to {:.3g} {} (median {:.3g})".format(*_ordered(noise)[:2], name,
                                                                                  noise["median"]))  # fmt: skip
        if record["without_noise"]:
            lines.append(f"noise    not found in {_count(record['without_noise'], 'series', 'series')}")
        return lines

    def reasons(self) -> list[str]:
        """What was left out, a line for each reason."""
        return summarized(self.left_out)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"least": min(values), "median": statistics.median(values), "most": max(values)} if values else {}


def _ordered(found: dict[str, float]) -> tuple[float, float, float]:
    return found["least"], found["most"], found["median"]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def index_folder(
    folder: Path | str,
    *,
    validation: float = 0.15,
    test: float = 0.0,
    seed: int = 0,
    patients: str = "header",
    deidentify: bool = False,
    modality: str | None = None,
    spacing: Sequence[float] | None = None,
    unit: str | None = None,
    licence: str = "",
    watch: Callable[[int, int, str], None] | None = None,
) -> FolderIndex:
    """Look at every image of a folder and list it: one row for each series or file.

    validation, test : fractions of the patients, drawn by `seed` and the name; a patient never lies on two sides.
    patients : "header" takes the PatientID of DICOM files and else the folder; "folder" always the folder: each folder
        in `folder` is a patient, and so is each file that lies directly in it.
    deidentify : patients are numbered, and paths are refused that hold a PatientID or a PatientName;
        a note says so where names of files hold UIDs.
    modality : only DICOM files of this one; None takes all.  spacing (mm), unit : for files that say neither.
    licence : written into every row.  watch : told (done, in all, name).

    Every image is read, because its noise and the digest of its pixels stand in the table; what cannot be read is left
    out with its reason.  `InputError` for a folder without any image.
    """
    folder = Path(folder)
    choice("patients", patients, PATIENTS)
    for name, value in (("validation", validation), ("test", test), ("validation and test", validation + test)):
        if not 0 <= value < 1:
            raise InputError(name, value, "a fraction from 0 to below 1")
    if not folder.is_dir():
        raise InputError(folder, "nothing" if not folder.exists() else "a file", "a folder of images")
    found = find(folder)
    left = [x for x in found.left_out if x.path != folder / "index.csv"]
    entries: list[_Entry] = []
    for number, source in enumerate(found.sources):
        if watch is not None:
            watch(number, len(found.sources), source.name)
        try:
            entries.append(_entry(source, folder, patients, modality, spacing, unit, licence))
        except InputError as error:
            left.append(LeftOut(source.paths[0], f"found {error.found}; expected {error.expected}",
                                not isinstance(error, _Unwanted), error))  # fmt: skip
    if not entries:
        hint = "; ".join(summarized(left)) or "the folder is empty"
        raise InputError(folder, "no image that can be used", "at least one", f"Left out: {hint}.")
    if deidentify:
        entries = _without_names(entries)
    names = sorted({e.row.patient for e in entries})
    sides = _sides(names, validation, test, seed)
    rows = tuple(replace(e.row, split=sides[e.row.patient]) for e in entries)
    return FolderIndex(folder, rows, tuple(left), tuple(_notes(rows, names, sides, validation, deidentify, entries)))


# ---- one image -------------------------------------------------------------------------------------------------------


class _Unwanted(InputError):
    """Left out on purpose."""


@dataclass(frozen=True)
class _Entry:
    """A row, and what its header says of a person."""

    row: IndexRow
    persons: tuple[str, ...] = field(default=(), repr=False)
    named: bool = False  # the patient is that of the header


def _entry(
    source: Source,
    folder: Path,
    patients: str,
    modality: str | None,
    spacing: Sequence[float] | None,
    unit: str | None,
    licence: str,
) -> _Entry:
    header = _header(source)
    kind = header.get("Modality", "")
    if modality is not None and kind and kind != modality:
        raise _Unwanted(source.paths[0], f"modality {kind}", modality)
    if "LOCALIZER" in header.get("ImageType", ""):
        raise _Unwanted(source.paths[0], "a scout view", "a reconstructed image")
    image = _image(source, spacing, unit)
    if len(image.channels) > 1:
        found = f"{len(image.channels)} channels ({', '.join(image.channels)})"
        raise InputError(source.paths[0], found, "a gray image", "Save its luminance, or each channel as an image.")
    noise, correlation = own_noise(image)
    made = acquisition(source.paths) if source.format.startswith("dicom") else {}
    top, names = _place(source, folder)
    own = header.get("PatientID", "") if patients == "header" else ""
    row = IndexRow(
        split="train",
        patient=own or _folder_patient(source, folder),
        file=top,
        files=names,
        series=source.name,
        format=source.format,
        modality=kind,
        unit=image.unit,
        orientation=image.plane or "",
        slices=1 if image.values.ndim == 3 else image.values.shape[1],
        rows=image.values.shape[-2],
        columns=image.values.shape[-1],
        pixel_spacing_mm=tuple(image.spacing[-2:]),
        slice_thickness_mm=_single(made.get("slice_thickness_mm")),
        manufacturer=_word(made.get("manufacturer")),
        model=_word(made.get("scanner")),
        kernel=_word(made.get("kernel")),
        kvp=_numbers(made.get("tube_voltage_kV")),
        tube_current_mA=_numbers(made.get("tube_current_mA")),
        noise=noise,
        lag1_corr=correlation,
        sha256=row_digest(slice_digests(image)),
        licence=licence,
        path=folder / "index.csv",
    )
    persons = tuple(filter(None, (header.get("PatientID"), *re.split(r"[\^= ,]+", header.get("PatientName", "")))))
    return _Entry(row, persons, bool(own))


def _image(source: Source, spacing: Sequence[float] | None, unit: str | None) -> Image:
    """The image; what a file says itself stands, and `spacing` and `unit` are for those that say nothing."""
    options: dict[str, Any] = {"expect": None, "slices": "independent", "allow_gaps": True}
    try:
        image = read(source, **options)
    except InputError:
        if spacing is None:
            raise
        options["spacing"] = spacing
        image = read(source, **options)
    if unit is None or image.unit != "arbitrary" or source.format.startswith("dicom"):
        return image
    return read(source, unit=unit, **options)


TAGS = ["Modality", "PatientID", "PatientName", "ImageType"]


def _header(source: Source) -> dict[str, str]:
    """Words of the header of the first DICOM file; nothing for other formats and for values that cannot be read."""
    if not source.format.startswith("dicom"):
        return {}
    from retrodict.data.formats.dicom_file import dataset

    data, found = dataset(source.paths[0], header_only=True, tags=TAGS), {}
    for name in TAGS:
        with contextlib.suppress(Exception):  # pydicom raises almost anything on a value that is none of its kind
            found[name] = str(data.get(name) or "").strip()
    return found


def _place(source: Source, folder: Path) -> tuple[str, tuple[str, ...]]:
    """The file relative to the folder, or the folder of several and their names in it."""
    paths = [p.relative_to(folder) for p in source.paths]
    if len(paths) == 1:
        return paths[0].as_posix(), ()
    top = paths[0].parent
    while not all(p.is_relative_to(top) for p in paths):
        top = top.parent
    return top.as_posix(), tuple(p.relative_to(top).as_posix() for p in paths)


def _folder_patient(source: Source, folder: Path) -> str:
    """The folder in `folder` that holds the image, or the name of a file that lies directly in it."""
    path = source.paths[0].relative_to(folder)
    return path.parts[0] if len(path.parts) > 1 else source.name


def _word(value: Any) -> str:
    """One word on one line; what differs between files is joined."""
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value if value is not None else "")
    return " ".join(text.split())


def _numbers(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(values) if all(isinstance(v, float) and v >= 0 for v in values) else ()


def _single(value: Any) -> float | None:
    found = _numbers(value)
    return found[0] if len(found) == 1 else None


def own_noise(image: Image) -> tuple[float | None, float | None]:
    """Standard deviation of the noise of an image in its unit, and its correlation between neighboring pixels.

    Uniform squares of up to six evenly spaced slices (`metrics.regions.find_uniform`), without air; a quadratic surface
    is taken off each, with the six degrees of freedom that it takes; the median over squares, and the mean of the
    correlations along rows and columns.  (None, None) where no such squares are found, for images of several channels
    and complex ones.
    """
    values = image.values
    if values.shape[0] != 1 or values.is_complex():
        return None, None
    stack = values if values.ndim == 3 else values[0]
    stack = stack[evenly(len(stack), LOOKED_AT)].double()
    for size in REGIONS:
        with contextlib.suppress(InputError):
            regions = find_uniform(stack, size, count=32, lowest=unit_named(image.unit).air)
            patches = cut(stack, regions)
            variance = detrend(patches).square().sum((-2, -1)) / (size**2 - 6)
            around = autocorrelation(patches, 1.0, reach=1)
            return float(variance.sqrt().median()), float((around[1, 2] + around[2, 1]) / 2)
    return None, None


# ---- all of them -----------------------------------------------------------------------------------------------------


def _sides(names: Sequence[str], validation: float, test: float, seed: int) -> dict[str, str]:
    """The side of every patient: the order is a function of seed and name, so that a new patient moves few others."""
    order = sorted(names, key=lambda name: (key(seed, f"split {name}"), name))
    counts = [max(1, round(part * len(names))) if part and len(names) > 1 else 0 for part in (validation, test)]
    if sum(counts) >= len(names):
        counts[1] = 0
    sides = ["validation"] * counts[0] + ["test"] * counts[1]
    return dict(zip(order, sides + ["train"] * (len(names) - len(sides)), strict=True))


UID = re.compile(r"\d+(\.\d+){5,}")
"""Numbers of DICOM objects, by which archives know them."""


def _plain(text: str) -> str:
    """Small letters without accents, so that a name is known however a system writes it."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))


def _without_names(entries: Sequence[_Entry]) -> list[_Entry]:
    """Patients by number, in the order of their files; refused where a path says who they are."""
    for entry in entries:
        path = _plain("/".join((entry.row.file, *entry.row.files)))
        words = set(re.split(r"[\W_]+", path))
        persons = [_plain(person) for person in entry.persons]
        if any(p in words or (len(p) > 2 and p in path) for p in persons if len(p) > 1):
            hint = "Rename the folders and files (the table needs their paths), or do without {deidentify}."
            raise InputError("deidentify", "paths that hold the name or the number of a patient",
                             "paths that say nothing of a person", hint, deidentify=True)  # fmt: skip
    order = {name: f"patient-{i + 1:04d}" for i, name in enumerate(dict.fromkeys(e.row.patient for e in entries))}
    # The name of a series is made of its folder; the path says it already.
    return [replace(e, row=replace(e.row, patient=order[e.row.patient], series="")) for e in entries]


def _notes(
    rows: Sequence[IndexRow],
    names: Sequence[str],
    sides: dict[str, str],
    validation: float,
    deidentify: bool,
    entries: Sequence[_Entry],
) -> list[str]:
    notes = []
    if validation and "validation" not in sides.values():
        notes.append("There is one patient only: nobody is held out, and no uncertainty can be calibrated.")
    if len(names) == 1 and entries[0].named and len({r.file.split("/")[0] for r in rows}) > 1:
        notes.append("Every series has the same PatientID. If the folders are patients: --patients folder.")
    if deidentify and any(UID.search(name) for r in rows for name in (r.file, *r.files)):
        notes.append(
            "Names of files hold UIDs, by which an archive finds the patient: rename them before you share the table."
        )
    if deidentify and not all(e.named for e in entries):
        notes.append("Paths are written as they are: rename folders that are called after people.")
    digests = Counter(r.sha256 for r in rows)
    if any(n > 1 for n in digests.values()):
        twice = [r for r in rows if digests[r.sha256] > 1]
        across = len({r.split for r in twice}) > 1
        more = " Some of them lie on both sides of the split: put them with one patient." if across else ""
        notes.append(f"{len(twice)} series have the pixels of another one.{more}")
    return notes
