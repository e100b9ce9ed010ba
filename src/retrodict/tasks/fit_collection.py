"""The slices that a configuration of training takes from tables of images, and what the card says of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from retrodict._check import InputError
from retrodict._random import uniform
from retrodict.bases.spectrum import Spectrum, density_spectrum
from retrodict.data import Group, PatchSet, read, split
from retrodict.data.collection import Slice, row_slices, slice_digest, slices_of
from retrodict.data.index import IndexRow, read_index
from retrodict.data.level import level_of
from retrodict.data.spacings import SpacingSet
from retrodict.data.units import percentile_of, unit
from retrodict.models.model import Intensity
from retrodict.tasks.fit_config import FitConfig
from retrodict.tasks.fit_data import groups_of, how_to_set, patch_set
from retrodict.tasks.machine import free_memory

__all__ = ["Sets", "body_spectrum", "rows_of", "training_sets"]


DIGITS = 12
"""Hexadecimal digits by which the card of a model knows an image it was trained on."""


@dataclass(frozen=True)
class Sets:
    """The patches of both sides, and what the card says of the images (nothing without tables and without a law)."""

    training: PatchSet | SpacingSet
    validation: PatchSet | SpacingSet | None
    card: dict[str, Any]


def training_sets(config: FitConfig, base: Path) -> Sets:
    """Load what the configuration names; `base` is what its paths stand in.

    Groups and folders are split as the configuration says, rows of tables as their column does.
    """
    others = groups_of(config, base)
    data = config.data
    kept, held = split(others, data.validation, config.training.seed) if others else ([], [])
    if not data.indices and (config.law is None or config.volumes):
        first, second = patch_set(config, kept), patch_set(config, held) if held else None
        return Sets(first, second, {} if config.law is None else _volume_card(first, second))
    rows = rows_of(config, base)
    _check_apart(rows, others)
    sides = {side: [r for r in rows.kept if r.split == side] for side in ("train", "validation")}
    _check_memory(config, rows.kept)
    training = [*_listed(config, sides["train"]), *_of_groups(config, kept)]
    validation = [*_listed(config, sides["validation"]), *_of_groups(config, held)]
    _check_digests(training, validation)
    make = _by_patient if config.law is None else _by_spacing
    first, second = make(config, training), make(config, validation) if validation else None
    first.notes.extend(rows.notes)
    return Sets(first, second, _card(config, rows, _used(first, training), _used(second, validation)))


# ---- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Rows that are trained or validated on, by the name of their table, and what was passed over."""

    tables: dict[str, list[IndexRow]]
    notes: list[str]

    @property
    def kept(self) -> list[IndexRow]:
        """All of them in order."""
        return [row for rows in self.tables.values() for row in rows]


def rows_of(config: FitConfig, base: Path) -> Rows:
    """The rows of all tables that the configuration takes.

    Raises `InputError` for a table that is not there or says nothing that can be trained on, for a patient who is on
    different sides in two tables, and for a row in another unit.
    """
    listed = {name: _read(config, base, name) for name in config.data.indices}
    reasons = Counter(reason for rows in listed.values() for row in rows if (reason := _reason(config, row)))
    rows = Rows({name: [r for r in rows if not _reason(config, r)] for name, rows in listed.items()}, [])
    if listed and not any(row.split == "train" for row in rows.kept):
        found = "; ".join(f"{n} with {reason}" for reason, n in reasons.items()) or "no row"
        raise InputError("data.indices", f"nothing to train on ({found})", "rows of the split train")
    for row in rows.kept:
        if percentile_of(config.intensity.unit) is None and row.known_unit not in (None, config.intensity.unit):
            expected = f"{config.intensity.unit!r}, as intensity.unit says"
            hint = "Correct the cell, or take the row out."
            raise InputError(f"{row.where}, column unit", f"{row.known_unit!r}", expected, hint)
    unknown = set(config.data.leave_out) - {row.patient for table in listed.values() for row in table}
    if unknown:
        raise InputError("data.leave_out", f"{min(unknown)!r}", "the name of a patient of the tables")
    _check_sides(rows.kept)
    rows.notes.extend(f"{n} rows left out: {reason}." for reason, n in reasons.items())
    silent = sum(row.noise is None for row in rows.kept)
    if config.data.most_noise is not None and silent:
        rows.notes.append(f"{silent} rows are taken although they state no noise.")
    return rows


def _check_sides(rows: Sequence[IndexRow]) -> None:
    sides: dict[str, IndexRow] = {}
    for row in rows:
        first = sides.setdefault(row.patient, row)
        if first.split != row.split:
            found = f"{row.split!r} for the patient {row.patient!r}, who is in {first.split!r} in {first.where}"
            raise InputError(f"{row.where}, column split", found, "one side for all rows of a patient")


def _read(config: FitConfig, base: Path, name: str) -> list[IndexRow]:
    path = base / config.data.root / name
    try:
        return read_index(path)
    except InputError as error:
        if error.found != "no such file":
            raise
        hint = f"Make it with `retrodict data index`. {how_to_set(config.data)}"
        raise InputError("data.indices", f"no file {path}", "a table of images", hint) from error


def _reason(config: FitConfig, row: IndexRow) -> str:
    """Why a row is left out, or ""."""
    data = config.data
    if row.split == "test":
        return "the split test"
    if row.patient in data.leave_out:
        return "the patient is in data.leave_out"
    if data.modality is not None and row.modality not in ("", data.modality):
        return f"modality {row.modality}"
    if data.orientation is not None and row.orientation not in ("", data.orientation):
        return f"orientation {row.orientation}"
    if data.most_noise is not None and row.noise is not None and row.noise > data.most_noise:
        return f"own noise above {data.most_noise:g}"
    return ""


def _check_apart(rows: Rows, groups: Sequence[Group]) -> None:
    names = {row.patient for row in rows.kept}
    twice = next((g.name for g in groups if g.name in names), None)
    if twice is not None:
        raise InputError("data.groups", f"the name {twice!r}, a patient of a table", "another name")


def _check_memory(config: FitConfig, rows: Sequence[IndexRow]) -> None:
    """Raise before the hours of reading where the slices would not fit."""
    most, free = config.data.slices, free_memory()
    count = [1 if r.index is not None else min(r.slices or 1, most or r.slices or 1) for r in rows]
    copies = 1 + config.copies * (config.law is not None)
    needed = 4 * copies * sum(n * (r.rows or 0) * (r.columns or 0) for n, r in zip(count, rows, strict=True))
    if free is not None and needed > 0.8 * free:
        found = f"{sum(count)} slices, {needed / 1e9:.3g} GB"
        raise InputError("data.slices", found, f"at most {0.8 * free / 1e9:.3g} GB", "Take fewer of each series.")


# ---- slices ----------------------------------------------------------------------------------------------------------


def _listed(config: FitConfig, rows: Sequence[IndexRow]) -> list[Slice]:
    found = list(row_slices(rows, most=config.data.slices, expect=config.data.modality))
    return _in_unit(config, found, "State it in the column unit.")


def _of_groups(config: FitConfig, groups: Sequence[Group]) -> list[Slice]:
    found: list[Slice] = []
    for group in groups:
        options: dict[str, Any] = {"spacing": group.spacing, "unit": group.unit, "expect": group.expect}
        loaded = [read(s, slices="independent", allow_gaps=True, **options) for s in group.sources()]
        for image in [*loaded, *group.images]:
            found += slices_of(image, group.name, f"group {group.name}", most=config.data.slices)
    return _in_unit(config, found)


def _in_unit(config: FitConfig, slices: list[Slice], hint: str = "") -> list[Slice]:
    """Slices in the unit of the configuration; those of a series together, where that is a relative one.

    `InputError` for a slice in another unit.
    """
    wanted = config.intensity.unit
    part = percentile_of(wanted)
    if part is None:
        other = next((item for item in slices if item.image.unit != wanted), None)
        if other is not None:
            raise InputError(other.where, f"an image in {other.image.unit!r}", f"intensity.unit {wanted!r}", hint)
        return slices
    series: dict[Any, list[int]] = {}
    for i, item in enumerate(slices):
        series.setdefault((item.patient, item.image.source or item.where), []).append(i)
    found = list(slices)
    for numbers in series.values():
        level = level_of([slices[i].image.values for i in numbers], part, slices[numbers[0]].where)
        for i in numbers:
            item = slices[i]
            image = replace(item.image, values=item.image.values / level, unit=wanted)
            noise = None if item.noise is None else item.noise / level
            found[i] = replace(item, image=image, noise=noise)
    return found


def _check_digests(training: Sequence[Slice], validation: Sequence[Slice]) -> None:
    """Raise for a slice that is held out and trained on under another name or in another format."""
    known = {item.digest: item for item in training}
    both = next((item for item in validation if item.digest in known), None)
    if both is not None:
        found = f"the pixels of {known[both.digest].where}, which is trained on"
        hint = "Give both to one patient, or take one of them out of the table."
        raise InputError(both.where, found, "a slice that training does not see", hint)


def _used(patches: PatchSet | SpacingSet | None, slices: Sequence[Slice]) -> Sequence[Slice]:
    """Those that patches are cut from: a set of many spacings leaves out what does not fit."""
    return patches.slices if isinstance(patches, SpacingSet) else slices


def _by_patient(config: FitConfig, slices: Sequence[Slice]) -> PatchSet:
    """Patches at the one spacing of the model."""
    names = list(dict.fromkeys(item.patient for item in slices))
    groups = [Group(name, images=tuple(s.image for s in slices if s.patient == name)) for name in names]
    return patch_set(config, groups)


def _by_spacing(config: FitConfig, slices: Sequence[Slice]) -> SpacingSet:
    """Patches of all spacings, one a batch."""
    wrong = next((s for s in slices if s.image.values.shape[0] != config.data.channels), None)
    if wrong is not None:
        raise InputError(wrong.where, f"{wrong.image.values.shape[0]} channels", f"{config.data.channels}")
    return SpacingSet(
        slices,
        config.data.patch[0],
        config.spacings,
        copies=config.copies,
        balance=config.data.balance or "patients",
        seed=config.training.seed,
        empty_below=unit(config.intensity.unit).empty_below,
    )


CROP, TRIALS = 128, 6
"""Side in pixels, and number for each slice, of the parts that the spectrum is measured in."""


def body_spectrum(slices: Sequence[Slice], intensity: Intensity, least: int) -> Spectrum:
    """The density of the power of all patients, each counted once, from crops that hold more than air.

    Crops of `CROP` pixels, of `least` where no slice is that large; model units.
    """
    below = unit(intensity.unit).empty_below
    limit = None if below is None else (below - intensity.offset) / intensity.scale
    side = CROP if any(min(s.image.values.shape[-2:]) >= CROP for s in slices) else least
    patients: dict[str, list[tuple[Tensor, float]]] = {}
    for number, item in enumerate(slices):
        height, width = item.image.values.shape[-2:]
        if min(height, width) < side:
            continue
        for trial in range(TRIALS):
            v, u = (float(uniform([number], "crop", 2 * trial + k)[0]) for k in (0, 1))
            y, x = int(v * (height - side + 1)), int(u * (width - side + 1))
            part = intensity.encode(item.image.values[:, y : y + side, x : x + side].double())
            if limit is None or float((part < limit).double().mean()) < 0.9:
                spacing = math.sqrt(math.prod(item.spacing))
                patients.setdefault(item.patient, []).extend((channel, spacing) for channel in part)
    if not patients:
        raise InputError("data", "slices of nothing but air", "something to learn from")
    return density_spectrum(patients.values())


# ---- the card --------------------------------------------------------------------------------------------------------


def _card(
    config: FitConfig,
    rows: Rows,
    training: Sequence[Slice],
    validation: Sequence[Slice],
) -> dict[str, Any]:
    """Fields of the card; patients are counted and never named.

    training_images, validation_images: the first 12 hexadecimal digits of `data.collection.slice_digest` of every
    slice, sorted: by them an image is known again that the model was trained on.
    """
    spacings = [math.sqrt(math.prod(item.spacing)) for item in training]
    return {
        "patients": len({item.patient for item in training}),
        "slices": len(training),
        "sets": [_set(name, part) for name, part in rows.tables.items()],
        "licences": sorted({row.licence for row in rows.kept if row.licence and row.split == "train"}),
        "pixel_spacings_mm": [round(min(spacings), 4), round(max(spacings), 4)],
        "filter": {"orientation": config.data.orientation, "most_noise": config.data.most_noise,
                   "unit": config.intensity.unit, "slices_of_a_series": config.data.slices},
        "training_images": _short(training),
        "validation_images": _short(validation),
    }  # fmt: skip


def _volume_card(training: PatchSet, validation: PatchSet | None) -> dict[str, Any]:
    """As `_card`, of volumes: their slices are known by the pixels that they have on the grid of the model."""
    sides = {
        "training_images": training.images(),
        "validation_images": [] if validation is None else validation.images(),
    }
    digests = {side: {digest[:DIGITS] for _, x in images for digest in map(slice_digest, x.unbind(1))}
               for side, images in sides.items()}  # fmt: skip
    both = digests["training_images"] & digests["validation_images"]
    if both:
        found = f"{len(both)} slices that are trained on, too"
        raise InputError("data.validation", found, "volumes that training does not see")
    return {
        "patients": len({name for name, _ in training.images()}),
        "slices": sum(x.shape[1] for _, x in training.images()),
        **{side: sorted(found) for side, found in digests.items()},
    }


def _set(name: str, rows: Sequence[IndexRow]) -> dict[str, Any]:
    trained = [r for r in rows if r.split == "train"]
    return {
        "index": name,
        "patients": len({r.patient for r in trained}),
        "rows": len(trained),
        "validation_patients": len({r.patient for r in rows if r.split == "validation"}),
        "licences": sorted({r.licence for r in trained if r.licence}),
    }


def _short(slices: Sequence[Slice]) -> list[str]:
    return sorted({item.digest[:DIGITS] for item in slices})
