"""Conformal calibration on a user's own pairs: factors on the stated deviation with a finite-sample guarantee."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._output import refuse_existing, stamp, write_file
from retrodict.metrics.calibration import central_factor
from retrodict.metrics.conformal import (
    BOUNDS,
    FACTORS,
    image_score,
    miscoverage,
    patients_needed,
    risk_factor,
    risk_patients_needed,
    split_factor,
    standardized,
)
from retrodict.metrics.predictive import disc_means
from retrodict.models.model import Model, open_model
from retrodict.samplers.misfit import flat_pixels
from retrodict.tasks.calibrate_pairs import Pair, pairs_of
from retrodict.tasks.calibration import FORMAT, Calibration, statement, valid_for
from retrodict.tasks.grid import items
from retrodict.tasks.identity import seen_in_training
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.prepare import prepared
from retrodict.tasks.repeats_law import DISCS
from retrodict.tasks.restore import Job, Watch, restore_image
from retrodict.tasks.tissues import body_of, classes_of

__all__ = ["METHODS", "Calibrated", "Plan", "calibrate"]


METHODS = ("split", "risk")


FEW = 50
"""Pixels of a class that an image has to have to say something of it."""


log = logging.getLogger("retrodict")


@dataclass(frozen=True)
class Plan:
    """What is guaranteed: `method` "split" or "risk", `alpha`, `delta`, the `bound` of "risk", and `by` "pixels" or
    "classes", what restorations use.
    """

    alpha: float = 0.1
    delta: float = 0.1
    method: str = "split"
    bound: str = "hoeffding-bentkus"
    by: str = "pixels"

    def __post_init__(self) -> None:
        """Refuse what is no plan."""
        choice("method", self.method, METHODS)
        choice("bound", self.bound, BOUNDS)
        choice("by", self.by, ("pixels", "classes"))
        for name in ("alpha", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "a probability between 0 and 1, such as 0.1")

    @property
    def needed(self) -> int:
        """Patients without whom there is no such guarantee."""
        if self.method == "split":
            return patients_needed(self.delta)
        return risk_patients_needed(self.alpha, self.delta, self.bound)

    def factor(self, rows: Sequence[Sequence[Need]]) -> dict[str, Any]:
        """The factor of patients, each a list of images; a row of the record. Raises as `metrics.conformal` does.

        A patient's score is that of the worst image: it then holds for any image of the next patient.  A patient's loss
        is the mean over the images.
        """
        scores = [max(n.score for n in images) for images in rows]
        losses = torch.stack([torch.stack([n.losses for n in images]).mean(0) for images in rows])
        if self.method == "split":
            found = split_factor(scores, self.delta)
            if not math.isfinite(found.factor):
                raise InputError("sd", "a stated deviation of 0 where the mean is wrong", "deviations above 0")
            row = {"factor": max(found.factor, FACTORS[0]), "rank": found.rank,
                   "probability": [found.lower, found.upper]}  # fmt: skip
        else:
            row = {"factor": risk_factor(losses, self.alpha, self.delta, bound=self.bound)}
        outside = losses[:, _below(row["factor"])]
        return {**row, "patients": len(rows), "covered": float(1 - outside.mean()),
                "covered_sd": float(outside.std()) if len(rows) > 1 else None, "scores": sorted(scores)}  # fmt: skip


def _below(q: float) -> int:
    """Place in FACTORS of the largest one that is at most q."""
    return max(0, int(np.searchsorted(FACTORS, q * (1 + 1e-9), side="right")) - 1)


@dataclass(frozen=True)
class Need:
    """What the values of one image need: its score, and its miscoverage `(len(FACTORS),)` at every factor."""

    score: float
    losses: Tensor

    @classmethod
    def of(cls, need: Tensor, alpha: float) -> Need:
        """From standardized errors (n,)."""
        return cls(image_score(need, alpha), miscoverage(need))


@dataclass(frozen=True, repr=False)
class Calibrated:
    """The outcome: `record` is what `restore(..., calibration=)` takes; `save` writes it."""

    record: dict[str, Any]
    calibration: Calibration = field(repr=False)

    @property
    def statement(self) -> str:
        """The guarantee in words."""
        return self.calibration.statement

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the record as JSON."""
        return write_file(Path(path), json.dumps(self.record, indent=1).encode(), force=force)

    def __repr__(self) -> str:
        """Factor and guarantee."""
        return f"Calibrated(factor {self.record['factors']['pixels']['factor']:.3g}: {self.statement})"


def calibrate(
    pairs: str | Path,
    out: str | Path | None = None,
    *,
    model: str | Path | Model = "ct",
    alpha: float = 0.1,
    delta: float = 0.1,
    method: str = "split",
    bound: str = "hoeffding-bentkus",
    by: str = "pixels",
    patients: str | None = None,
    force: bool = False,
    watch: Watch | None = None,
    **changes: Any,
) -> Calibrated:
    """Find the factor q with which mean -+ q sd holds for the next patient, from pairs of measured and true images.

    pairs: a CSV file (measured, truth, patient) or a folder with measured/ and truth/; patients: how they are told
    where the table does not ("dicom", "folder", a regular expression of the names).
    method "split": with probability 1 - delta over a new patient, a fraction 1 - alpha of the body of an image lies in
    the interval.  "risk": the mean part outside is at most alpha, with probability 1 - delta over the calibration.
    by "classes": a factor for every tissue, each with the guarantee in itself.  Factors for the means of discs of 2, 5,
    10 and 20 mm are in the record.  changes: fields of `RestoreOptions`; a calibration holds for them.

    Raises `InputError` for too few patients (and says how many it takes) before anything is restored, for pairs whose
    pixels were in the training of the model, for images on two grids, and where no factor is large enough.
    """
    known = ("model", "alpha", "delta", "method", "bound", "by", "patients", "force", "watch")
    options, plan = RestoreOptions.of(changes, known), Plan(alpha, delta, method, bound, by)
    if options.point or options.calibration is not None:
        raise InputError("point" if options.point else "calibration", "asked for", "not: deviations are calibrated")
    for name in ("estimate_instrument", "noise_map"):
        if getattr(options, name) not in (None, False):
            raise InputError(name, "asked for", "not: a calibration is of one instrument, whose curves are given")
    if out is not None:
        refuse_existing(Path(out), force)
    loaded = open_model(model)
    prepared(loaded, options)  # refuses curves that are missing before an image is read
    found = pairs_of(pairs, patients)
    count = len({p.patient for p in found})
    if count < plan.needed:
        what = f"alpha = {alpha:g} and delta = {delta:g}" if method == "risk" else f"delta = {delta:g}"
        raise InputError(pairs, f"{count} patients", f"at least {plan.needed} for {what}: patients count, not images")
    work = _Work(plan, loaded, replace(options, keep_samples=True), watch, len(found))
    for pair in found:
        work.check(pair)
    for pair in found:
        work.add(pair)
    result = Calibrated(record := work.record(), Calibration.open(record))
    if out is not None:
        result.save(out, force=force)
    return result


# ---- the work --------------------------------------------------------------------------------------------------------


@dataclass
class _Work:
    """Needs of every image by what they are of ("pixels", "fat", 5.0 mm, ...) and patient, as they come in."""

    plan: Plan
    model: Model
    options: RestoreOptions
    watch: Watch | None
    total: int
    needs: dict[Any, dict[str, list[Need]]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)
    spacing: list[tuple[float, ...]] = field(default_factory=list)
    known: set[bool | None] = field(default_factory=set)
    done: int = 0
    unit: str = ""
    behind: int | None = None
    use: dict[str, Any] = field(default_factory=dict)

    def check(self, pair: Pair) -> None:
        """Raise for a pair that cannot be calibrated with, before any is restored."""
        measured, truth = pair.read(self.options, self.model)
        where = str(measured.source[0])
        if measured.values.shape[0] != 1 or measured.values.is_complex():
            kind = "complex" if measured.values.is_complex() else f"{measured.values.shape[0]}-channel"
            raise InputError(where, f"a {kind} image", "a real one of one channel")
        ready = Job.of(measured, self.model, self.options, pair.name).model
        use = valid_for(ready, self.options)
        if self.use and use["instrument"] != self.use["instrument"]:
            found = f"pixels of {' x '.join(f'{s:.5g}' for s in measured.spacing[-2:])} mm"
            wanted = "pixels as in the pairs before: a model of every instrument is calibrated at one spacing"
            raise InputError(where, found, wanted, "Calibrate each spacing by itself.")
        self.use = self.use or use
        trained = seen_in_training(truth, self.model.spec)
        if trained:
            raise InputError(
                str(pair.truth.paths[0]), f"pixels that {self.model.source} was trained on",
                "patients that it has not seen: on those of the training its errors are too small",
            )  # fmt: skip
        _refuse_patient(pair, self.model)
        self.known.add(trained)

    def add(self, pair: Pair) -> None:
        """Restore the measured image of a pair and see what its truth needs."""
        measured, truth = pair.read(self.options, self.model)
        found = restore_image(measured, self.model, self.options, name=pair.name)
        self.done += 1
        if self.watch is not None:
            self.watch(pair.name, self.done, self.total)
        if found.sd is None:
            log.warning("%s: left out: %s", pair.name, found.verdict.text)
            self.left_out.append({"name": pair.name, "patient": pair.patient, "reason": found.verdict.text})
            return
        self.spacing.append(tuple(measured.spacing[-2:]))
        self.unit = measured.unit
        self.behind = found.details["sampling"]["mean_members"]
        mean, sd, true = (items(i, 2)[:, 0].double() for i in (found.mean, found.sd, truth))
        members = torch.stack([items(s, 2)[:, 0].double() for s in found.samples])
        body = body_of(mean, measured.unit) & ~flat_pixels(items(measured, 2))
        for image in (measured, truth):
            if image.padding is not None:
                body &= ~image.padding.reshape(body.shape)
        self._see(pair, mean, sd, true, body)
        pixel = (float(measured.spacing[-2]), float(measured.spacing[-1]))
        for diameter in DISCS:
            self._disc(pair.patient, diameter, pixel, members, true, body)

    def _see(self, pair: Pair, mean: Tensor, sd: Tensor, true: Tensor, body: Tensor) -> None:
        if not bool(body.any()):
            self.left_out.append({"name": pair.name, "patient": pair.patient, "reason": "no pixel above air"})
            return
        self.images[pair.patient] = self.images.get(pair.patient, 0) + 1
        need = standardized(mean, sd, true)
        self._put("pixels", pair.patient, need[body])
        names, number = classes_of(mean, self.unit)
        for k, name in enumerate(names):
            inside = body & (number == k)
            if int(inside.sum()) >= FEW:
                self._put(name, pair.patient, need[inside])

    def _disc(
        self, patient: str, mm: float, pixel: tuple[float, float], members: Tensor, true: Tensor, body: Tensor
    ) -> None:
        found = []
        for z in range(len(true)):
            draws, truth = (disc_means(x, mm, pixel, body[z]) for x in (members[:, z], true[z : z + 1]))
            if draws.shape[1]:
                found.append(standardized(draws.mean(0), draws.std(0), truth[0]))
        if found:
            self._put(mm, patient, torch.cat(found))

    def _put(self, what: Any, patient: str, need: Tensor) -> None:
        self.needs.setdefault(what, {}).setdefault(patient, []).append(Need.of(need, self.plan.alpha))

    def record(self) -> dict[str, Any]:
        """The record of the calibration."""
        factors: dict[str, Any] = {"pixels": self._row("pixels", None)}
        names = [n for n in classes_of(torch.zeros(8, device="cpu"), self.unit)[0] if n in self.needs]
        required = self.plan.by == "classes"
        factors["classes"] = {n: self._row(n, f"class {n!r}" if required else "") for n in names}
        factors["discs"] = {f"{d:g}": self._row(d, "") for d in DISCS if d in self.needs}
        spans = [[min(axis), max(axis)] for axis in zip(*self.spacing, strict=True)]
        record = {
            "format": FORMAT,
            "method": self.plan.method,
            "bound": self.plan.bound if self.plan.method == "risk" else None,
            "alpha": self.plan.alpha,
            "delta": self.plan.delta,
            "apply": self.plan.by,
            "factors": factors,
            "of_the_law": central_factor(1 - self.plan.alpha, self.behind),
            "valid_for": {**self.use, "spacing_mm": spans},
            "patients": [self._patient(p, factors["pixels"]["factor"]) for p in sorted(self.images)],
            "left_out": self.left_out,
            "training_images": "unknown" if None in self.known else "none of them",
            "seed": self.options.seed,
            **stamp(),
        }
        return {**record, "statement": statement(record)}

    def _row(self, what: Any, required: str | None) -> dict[str, Any]:
        """The factor of what there is of every patient; where it is not `required` (""), why there is none."""
        rows = self.needs.get(what, {})
        if len(rows) >= self.plan.needed:
            try:
                return self.plan.factor(list(rows.values()))
            except InputError as error:
                if required == "":
                    return {
                        "factor": None,
                        "patients": len(rows),
                        "reason": f"{error.found}; expected {error.expected}",
                    }
                raise
        reason = f"{len(rows)} patients have it, {self.plan.needed} are needed"
        if required == "":
            return {"factor": None, "patients": len(rows), "reason": reason}
        where = required or "patients with a posterior"
        hint = "" if required is None else "Calibrate by pixels, or take more patients."
        out = self.left_out
        lost = f" ({len(out)} images were left out, the first: {out[0]['reason']})" if out else ""
        raise InputError(where, f"{len(rows)} patients{lost}", f"at least {self.plan.needed}", hint)

    def _patient(self, patient: str, factor: float) -> dict[str, Any]:
        images = self.needs["pixels"][patient]
        law = central_factor(1 - self.plan.alpha, self.behind)

        def covered(q: float) -> float:
            return float(1 - torch.stack([n.losses[_below(q)] for n in images]).mean())

        return {"patient": patient, "images": len(images), "score": max(n.score for n in images),
                "covered": covered(factor), "covered_by_law": covered(law)}  # fmt: skip


def _refuse_patient(pair: Pair, model: Model) -> None:
    """Raise for a patient whom the card of the model names."""
    named = model.spec.card.get("training_patients")
    if isinstance(named, list) and pair.patient in named:
        raise InputError(
            str(pair.measured.paths[0]), f"the patient {pair.patient}, on whom {model.source} was trained",
            "patients that it has not seen: on those of the training its errors are too small",
        )  # fmt: skip
