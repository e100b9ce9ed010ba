"""The files of a restoration: their names, what may be replaced, and writing them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrodict._check import InputError
from retrodict._output import require_room, write_file
from retrodict.bases.curve import Curve
from retrodict.data import Image, units, write
from retrodict.data.formats import known_suffixes, written_suffix
from retrodict.models.held_out import spread_on_patients
from retrodict.models.instrument import own_curves
from retrodict.models.model import Model
from retrodict.tasks.grid import off_grid

if TYPE_CHECKING:
    from retrodict.report.restoration import ReportData
    from retrodict.tasks.restore import Restored

__all__ = ["belongs_to", "check_folder", "name_of", "recorded", "require_space", "result_name", "write_parts"]


# ---- names -----------------------------------------------------------------------------------------------------------

LONGEST = 150
"""Bytes of the longest name; 255 are what file systems take, and roles, extensions and temporary marks come on top."""


def name_of(image: Image) -> str:
    """The name of an image: its file without the extension, the folder of its series, or "image"."""
    if not image.source:
        return "image"
    first = image.source[0]
    if len(image.source) > 1:
        return first.resolve().parent.name or "series"
    ends = (s for s in sorted(known_suffixes(), key=len, reverse=True) if first.name.lower().endswith(s))
    return first.name[: -len(next(ends, "")) or None] or first.name


def result_name(name: str) -> str:
    """The name that results begin with: usable on every file system, never hidden, and as long as it may be.

    A name that had to be cut ends in a checksum of the whole, so that two that begin alike stay two.
    """
    usable = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\]", "_", name).lstrip(".") or "image"
    if len(usable.encode()) <= LONGEST:
        return usable
    return f"{usable.encode()[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(usable.encode()).hexdigest()[:8]}"


def belongs_to(name: str) -> Callable[[str], bool]:
    """Whether a file name is that of a result of `name`: pat_mean.dcm is one of pat, and pat_1_mean.dcm is none."""
    suffixes = "|".join(re.escape(s) for s in known_suffixes())
    images = rf"(?:mean|sd|lower|upper|stop|stop-sd|sample-\d{{3,}})(?:{suffixes})?"
    pattern = re.compile(rf"{re.escape(name)}_(?:{images}|restore\.json|report\.html)")
    return lambda file: pattern.fullmatch(file) is not None


ENDS = ("lower", "upper")


# ---- what stands there already ---------------------------------------------------------------------------------------


def check_folder(
    out: Path,
    name: str,
    source: tuple[Path, ...],
    force: bool,
    owned: Callable[[str], Callable[[str], bool]] = belongs_to,
    record: str = "restore",
) -> None:
    """Look before the long computation, not after it: `InputError` where results would replace what they may not.

    That is anything without `force`, and with it the results of another input.  owned(name) says which files are
    results of `name`, and NAME_`record`.json is what was written of them.
    """
    if out.exists() and not out.is_dir():
        raise InputError(out, "a file", "a folder for the results")
    own = owned(name)
    taken = sorted(p.name for p in out.iterdir() if own(p.name)) if out.is_dir() else []
    if not taken:
        return
    if not force:
        hint = "Use {force} to replace it."
        raise InputError(out / taken[0], "a file of an earlier run", "a new output folder", hint, force=True)
    before = [Path(p) for p in recorded(out, name, record).get("source", [])]
    if before and source and not _same_input(before, list(source)):
        found = f"results of another input, {before[0]}"
        hint = "{force} replaces results of the same input only."
        raise InputError(out / taken[0], found, f"none, or those of {source[0]}", hint, force=True)


def recorded(out: Path, name: str, kind: str = "restore") -> dict[str, Any]:
    """The record NAME_`kind`.json of an earlier run in the folder; empty where there is none that can be read."""
    try:
        record = json.loads((out / f"{name}_{kind}.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _same_input(before: list[Path], now: list[Path]) -> bool:
    """Whether the files of an earlier run are those of now; files that were moved keep their names."""
    if {p.absolute() for p in before} & {p.absolute() for p in now}:
        return True
    if before[0].exists():
        return now[0].exists() and before[0].samefile(now[0])
    return before[0].name == now[0].name


def require_space(out: Path, image: Image, images: int, kept: bool) -> None:
    """Raise `OutputError` where the disk has no room for that many images beside each other, and parts of them."""
    size = image.values.numel() * (8 if image.values.is_complex() else 4)
    require_room(out, size * images * (2 if kept else 1) + 2_000_000)


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_parts(restored: Restored, folder: Path, out: Path) -> list[Path]:
    """Images, record and report in `folder`; the report names the files where they will be, in `out`."""
    from retrodict.report.restoration import write as write_report  # plotting takes longer to import than all else

    model, like = restored.model, restored.input
    what = "point estimate (no uncertainty)" if restored.sd is None else "posterior mean"
    parts: list[tuple[str, Image, str]] = [("mean", restored.mean, what)]
    if restored.sd is not None:
        parts.append(("sd", restored.sd, "posterior standard deviation"))
    if restored.stop is not None:
        at = f"at time {restored.stop.at:g} of 1 between restored and measured"
        parts.append(("stop", restored.stop.image, f"image {at}"))
        if restored.stop.sd is not None:
            parts.append(("stop-sd", restored.stop.sd, f"standard deviation of the image {at}"))
    if restored.interval is not None and restored.calibration is not None:
        said = f"of a {restored.calibration.label}. {restored.calibration.statement}"
        parts += [(role, image, f"{role} end {said}") for role, image in zip(ENDS, restored.interval, strict=True)]
    parts += [(f"sample-{i:03d}", s, f"posterior sample {i}") for i, s in enumerate(restored.samples)]
    written: list[Path] = []
    for role, image, text in parts:
        destination = folder / f"{restored.name}_{role}{written_suffix(like.format)}"
        description = f"retrodict {text}, model {Path(model.source).name}: {restored.verdict.text}"
        paths = write(image, destination, like=like, role=role, description=description)
        written += [destination] if destination.is_dir() else paths
    record, page = folder / f"{restored.name}_restore.json", folder / f"{restored.name}_report.html"
    final = [out / p.name for p in (*written, record, page)]
    details = {**restored.details, "files": [p.name for p in final]}
    write_file(record, json.dumps(details, indent=1, default=str).encode())
    write_report(_report(restored, model, restored.truth, final), page)
    return [*written, record, page]


def _report(restored: Restored, model: Model, truth: Image | None, files: list[Path]) -> ReportData:
    from retrodict.report.restoration import ReportData

    image, details = restored.input, restored.details
    mtf, nps = _curves(model)
    off = [f"Restored at {model.spec.spacing} mm and resampled back."] if off_grid(image, model) else []
    spacing = tuple(float(s) for s in (image.spacing if image.regular else image.spacing[-2:]))
    return ReportData(
        title=f"Restoration of {restored.name}",
        input=image.values,
        mean=restored.mean.values,
        sd=None if restored.sd is None else restored.sd.values,
        truth=None if truth is None else truth.values,
        samples=[s.values for s in restored.samples] or None,
        channels=image.channels,
        sample_count=int(details["sampling"]["members"]),
        mean_exact=restored.sd is not None and details["sampling"].get("mean_members") is None,
        unit=image.unit,
        spacing=spacing if all(s == s for s in spacing) else None,
        data_range=units.unit(image.unit).data_range,
        point_estimate=restored.sd is None,
        point_estimate_reason=restored.reason,
        verdict=details.get("verdict", {}),
        created=details["date"],
        model_card=_card(model),
        parameters={k: v for k, v in details["sampling"].items() if k not in ("grid",)},
        versions=details["versions"],
        seeds=[s for item in details["seeds"] for s in item],
        files=files,
        timing={"restoration": details["seconds"]},
        warnings=[*off, *image.notes],
        interval=_interval(restored),
        mtf=mtf,
        nps=nps,
        stop=_stop(restored),
    )


def _interval(restored: Restored) -> dict[str, Any]:
    """Ends, label and guarantee of the calibrated interval for the report; empty where there is none."""
    if restored.interval is None or restored.calibration is None:
        return {}
    lower, upper = restored.interval
    made = restored.calibration
    return {"lower": lower.values, "upper": upper.values, "label": made.label, "statement": made.statement}


def _stop(restored: Restored) -> dict[str, Any]:
    stop = restored.stop
    if stop is None:
        return {}
    return {**stop.to_json(), "image": stop.image.values, "sd": None if stop.sd is None else stop.sd.values}


def _card(model: Model) -> dict[str, Any]:
    """What a reader of a report should know of the model, in short values."""
    card = model.spec.card
    groups = [g["name"] for g in card.get("data", []) if isinstance(g, dict) and "name" in g]
    stated = card.get("validation", [])
    held = list(stated) if isinstance(stated, list) else [f"a part of {stated:g} of the groups"]  # of older models
    spread = spread_on_patients(card, "restore")
    known = {} if spread is None else {"spread on patients": spread["said"]}
    return {
        "name": card.get("name", Path(model.source).name),
        "process": model.spec.process["name"],
        "pixel spacing": " x ".join(f"{s:g}" for s in model.spec.spacing) + " mm",
        "trained on": ", ".join(g for g in groups if g not in held) or "not recorded",
        "images": card.get("images", "not recorded"),
        "calibrated on": ", ".join(held) or "nothing (no validation groups)",
        **known,
    }


def _curves(model: Model) -> tuple[Curve | None, Curve | None]:
    """The instrument's MTF and NPS that the restoration assumed, up to Nyquist and in the unit of the model."""
    process = model.denoiser.process
    if process.measurement is None:
        return None, None
    nyquist = 0.5 / process.basis.spacing[-1]
    mtf, nps = (_up_to(curve, nyquist) for curve in own_curves(process, model.intensity.scale))
    return mtf, replace(nps, unit=nps.unit.replace("unit", model.intensity.unit))


def _up_to(curve: Curve, highest: float) -> Curve:
    """The part of an isotropic curve from 0 to a frequency; what lies in the corners of the plane is left out."""
    axis = [*(f for f in curve.frequency[0] if f < highest), highest]
    value = np.interp(axis, curve.frequency[0], curve.value)
    return replace(curve, frequency=(tuple(axis),), value=tuple(value.tolist()))
