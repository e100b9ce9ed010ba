"""A calibration: factors on the stated deviation with their guarantee, whose they are, and the intervals they make."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, read_json
from retrodict.data import Image
from retrodict.models.model import Model
from retrodict.samplers.rules import RULES
from retrodict.tasks.identity import law_digest, model_digest
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.tissues import classes_of

__all__ = ["FORMAT", "Calibration", "statement", "valid_for"]


FORMAT = "retrodict-calibration-1"


WITHIN = 0.03
"""Relative difference from the pixel spacings of the calibration up to which it holds."""


def valid_for(model: Model, options: RestoreOptions) -> dict[str, Any]:
    """What a calibration holds for: model, instrument, options and unit; spacings come from the images."""
    rule = RULES[options.rule]
    steps = 1 if options.instant else options.steps or rule.steps
    return {
        "model": model_digest(model),
        "model_name": model.source,
        "instrument": law_digest(model.denoiser.process, model.spec.size),
        "options": {
            "samples": options.samples,
            "steps": steps,
            "instant": options.instant,
            "process": options.process,
            "rule": options.rule,
            "grid": options.grid,
            "spread": options.spread,
            "resample": options.resample,
        },
        "unit": model.intensity.unit,
    }


def statement(record: Mapping[str, Any]) -> str:
    """The guarantee in words."""
    alpha, delta, n = record["alpha"], record["delta"], record["factors"]["pixels"]["patients"]
    where = "in each class of tissue " if record["apply"] == "classes" else ""
    likely = f"of a new patient, drawn as the {n} patients of the calibration were"
    if record["method"] == "split":
        return (
            f"With probability at least {_percent(1 - delta)} over the image {likely}, at least {_percent(1 - alpha)} "
            f"of its body {where}lies in the interval (split conformal; the probability is over the calibration "
            "patients, too)."
        )
    return (
        f"The part of the body {where}outside the interval, on average over images {likely}, is at most "
        f"{_percent(alpha)}, with probability at least {_percent(1 - delta)} over the calibration patients "
        f"(risk control, {record['bound']})."
    )


def _percent(x: float) -> str:
    return f"{100 * x:.4g} %"


@dataclass(frozen=True)
class Calibration:
    """What `retrodict calibrate` writes: `record` as a mapping, and `digest`, its checksum."""

    record: Mapping[str, Any]
    digest: str
    source: str = "calibration"

    @classmethod
    def open(cls, given: Any) -> Calibration:
        """From a `Calibration`, a record, or the path of a JSON file; `InputError` for anything else."""
        if isinstance(given, Calibration):
            return given
        if isinstance(given, str | Path):
            record, source = read_json(given, "a calibration (retrodict calibrate)"), str(given)
        elif isinstance(given, Mapping):
            record, source = dict(given), "calibration"
        else:
            found = type(given).__name__
            raise InputError("calibration", found, "the path or record of a calibration (retrodict calibrate)")
        _check(record, source)
        text = json.dumps(record, sort_keys=True, default=str)
        return cls(record, hashlib.sha256(text.encode()).hexdigest()[:16], source)

    @property
    def statement(self) -> str:
        """The guarantee in words."""
        return statement(self.record)

    @property
    def label(self) -> str:
        """What an interval is called, in a few words."""
        kind = "conformal" if self.record["method"] == "split" else "risk-controlled"
        return f"{kind} interval, alpha {self.record['alpha']:g}, delta {self.record['delta']:g}"

    def to_json(self) -> dict[str, Any]:
        """What the record of a restoration says of it."""
        names = ("method", "bound", "alpha", "delta", "apply", "factors")
        own = {n: self.record.get(n) for n in names}
        return {"source": self.source, "digest": self.digest, **own, "statement": self.statement}

    def factors(self, mean: Tensor, unit: str) -> Tensor:
        """The factor of every value of a restored mean, which is in `unit`."""
        if self.record["apply"] == "pixels":
            return torch.full_like(mean, float(self.record["factors"]["pixels"]["factor"]))
        names, number = classes_of(mean, unit)
        rows = self.record["factors"]["classes"]
        # what is no class of the calibration (air) has no guarantee, and the widest factor there is
        known = {n: float(rows[n]["factor"]) for n in names if rows.get(n, {}).get("factor") is not None}
        table = torch.tensor([known.get(n, max(known.values())) for n in names], dtype=mean.dtype, device=mean.device)
        return table[number]

    def interval(self, mean: Image, sd: Image) -> tuple[Image, Image]:
        """Lower and upper image, mean -+ factor times deviation."""
        half = self.factors(mean.values, mean.unit) * sd.values
        return mean.with_values(mean.values - half), mean.with_values(mean.values + half)

    def require(self, model: Model, options: RestoreOptions, image: Image, name: str) -> None:
        """Raise `InputError` for a restoration that this calibration does not hold for, and say in what it differs."""
        if options.point:
            raise InputError("calibration", "one beside {point}", "a posterior: an interval needs a deviation")
        if options.noise_map is not None:
            raise InputError("calibration", "one beside a noise map", "an image whose noise is the same everywhere")
        own, wanted = self.record["valid_for"], valid_for(model, options)
        if own["unit"] != wanted["unit"]:
            raise InputError(self.source, f"a calibration in {own['unit']!r}", f"one in {wanted['unit']!r}")
        if own["model"] != wanted["model"]:
            found = f"a calibration of another model, {own.get('model_name')}"
            raise InputError(self.source, found, f"one of {model.source}", "Calibrate this one: retrodict calibrate.")
        if own["instrument"] != wanted["instrument"]:
            raise InputError(
                self.source, "a calibration for another instrument", "one for the MTF and NPS of this restoration",
                "Calibrate with the same {mtf} and {nps}.", mtf=..., nps=...,
            )  # fmt: skip
        for option, value in wanted["options"].items():
            if own["options"].get(option) != value:
                found = f"a calibration with {option} = {own['options'].get(option)}"
                raise InputError(self.source, found, f"one with {option} = {value}, as this restoration")
        self._require_spacing(image, name)

    def _require_spacing(self, image: Image, name: str) -> None:
        for (low, high), s in zip(self.record["valid_for"]["spacing_mm"], image.spacing[-2:], strict=False):
            if not low * (1 - WITHIN) <= s <= high * (1 + WITHIN):
                raise InputError(f"{name}: pixel spacing", f"{s:.4g} mm", f"{low:.4g} to {high:.4g} mm, as calibrated")


def _check(record: Mapping[str, Any], source: str) -> None:
    """Refuse records that are no calibration, by the first field that is wrong."""
    if record.get("format") != FORMAT:
        raise InputError(f"{source}: format", repr(record.get("format"))[:80], FORMAT)
    for name, allowed in (("method", ("split", "risk")), ("apply", ("pixels", "classes"))):
        if record.get(name) not in allowed:
            raise InputError(f"{source}: {name}", repr(record.get(name))[:80], f"one of {', '.join(allowed)}")
    for name in ("alpha", "delta"):
        value = record.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
            raise InputError(f"{source}: {name}", repr(value)[:80], "a probability between 0 and 1")
    factors = record.get("factors")
    if not isinstance(factors, Mapping) or not isinstance(factors.get("pixels"), Mapping):
        raise InputError(f"{source}: factors", repr(factors)[:80], "factors of pixels")
    rows = [("pixels", factors["pixels"])]
    if record["apply"] == "classes":
        classes = factors.get("classes")
        if not isinstance(classes, Mapping) or not any(_has_factor(row) for row in classes.values()):
            raise InputError(f"{source}: factors.classes", repr(classes)[:80], "a factor for a class")
        rows += [(n, r) for n, r in classes.items() if _has_factor(r)]
    for name, row in rows:
        factor, patients = row.get("factor"), row.get("patients")
        if not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise InputError(f"{source}: factors.{name}.factor", repr(factor)[:80], "a number above 0")
        if not isinstance(patients, int) or patients < 1:
            raise InputError(f"{source}: factors.{name}.patients", repr(patients)[:80], "a number of patients")
    _check_use(record.get("valid_for"), source)


def _has_factor(row: Any) -> bool:
    return isinstance(row, Mapping) and row.get("factor") is not None


def _check_use(use: Any, source: str) -> None:
    if not isinstance(use, Mapping):
        raise InputError(f"{source}: valid_for", repr(use)[:80], "what the calibration holds for")
    for name in ("model", "instrument", "unit"):
        if not isinstance(use.get(name), str):
            raise InputError(f"{source}: valid_for.{name}", repr(use.get(name))[:80], "a text")
    if not isinstance(use.get("options"), Mapping):
        raise InputError(f"{source}: valid_for.options", repr(use.get("options"))[:80], "options by name")
    spans = use.get("spacing_mm")
    if not isinstance(spans, list) or not all(
        isinstance(s, list) and len(s) == 2 and all(isinstance(v, int | float) and v > 0 for v in s) for s in spans
    ):
        raise InputError(f"{source}: valid_for.spacing_mm", repr(spans)[:80], "pairs of mm")
