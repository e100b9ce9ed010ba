"""Crops of patients that no network has seen, what one call makes of them, and results that outlive a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equal_budget import instrument
from new_patients import AROUND, crop
from patient_slices import slices
from retrodict._check import InputError, read_json
from retrodict._output import write_file
from retrodict._random import key
from retrodict.bases import Fourier
from retrodict.data.collection import Slice
from retrodict.denoisers.denoiser import Denoiser
from retrodict.models.model import Intensity
from retrodict.samplers.instant import beyond, instant
from retrodict.samplers.margin import frame_of
from scanners import Scanner

MARGIN = 16


# ---- patients --------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A crop of a validation patient with what lies around it, (1, 1, N, N) HU, and its pixel spacing in mm."""

    number: int
    patient: str
    wide: Tensor
    spacing: float

    @property
    def truth(self) -> Tensor:
        """The crop itself."""
        return self.wide[..., AROUND:-AROUND, AROUND:-AROUND]


def cases(wanted: float, most: int) -> list[Case]:
    """The first slice of every validation patient that is large enough, at a spacing (0: its own)."""
    out: dict[str, Case] = {}
    for item in _validation():
        found = None if item.patient in out or len(out) >= most else crop(item.image.values, item.spacing, wanted)
        if found is not None:
            out[item.patient] = Case(len(out) + 1, item.patient, *found)
    return list(out.values())


@lru_cache(maxsize=1)
def _validation() -> list[Slice]:
    return slices("validation")


def measurement(case: Case, scanner: Scanner, intensity: Intensity) -> Tensor:
    """The crop as the scanner measures it, model units (1, 1, n, n); it goes on beyond the crop and does not wrap."""
    wide = tuple(case.wide.shape[2:])
    process = instrument(scanner, Fourier(wide, (case.spacing,) * 2), intensity.scale)
    x = intensity.encode(case.wide)
    y = process.pairing.simulate(x, process.basis, torch.tensor([key(0, "new-patient", case.number)]))
    return y[..., AROUND:-AROUND, AROUND:-AROUND]


# ---- one call --------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """Mean and variance (1, 1, n, n) and members (K, 1, n, n), model units, on the CPU."""

    mean: Tensor
    variance: Tensor
    members: Tensor


def one_call(denoiser: Denoiser, y: Tensor, members: int = 1, *, whole: bool = False, seed: int = 0) -> Answer:
    """The posterior of one call, with a margin of which nothing is known."""
    frame = frame_of(tuple(y.shape[2:]), denoiser.process.basis, MARGIN, denoiser.multiple)
    bound = denoiser.on(frame.size)
    seeds = torch.tensor([key(seed, "member", k) for k in range(members)])
    with torch.inference_mode():
        found = instant(bound, y.to(bound.process.basis.device), frame, seeds, beyond(bound, frame), whole=whole)
    assert found.variance is not None
    assert found.members is not None
    return Answer(found.mean.cpu(), found.variance.cpu(), found.members.cpu())


# ---- results ---------------------------------------------------------------------------------------------------------


class Results:
    """A JSON file of rows by name; written after each, so that a run that was killed goes on.

    `setup` is what the rows depend on: a file of another one is refused.
    """

    def __init__(self, path: Path, setup: dict[str, Any]) -> None:
        self.path, self.setup = path, json.loads(json.dumps(setup))
        self.rows: dict[str, Any] = {}
        if path.exists():
            found = read_json(path, "results")
            if found.get("setup") != self.setup:
                changed = [k for k in {*self.setup, *found.get("setup", {})}
                           if self.setup.get(k) != found.get("setup", {}).get(k)]  # fmt: skip
                raise InputError(path, f"results of another {', '.join(sorted(changed))}", "another folder OUT")
            self.rows = found["rows"]

    def row(self, name: str, make: Callable[[], Any]) -> Any:
        """The row that is there, or a new one."""
        if name not in self.rows:
            self.rows[name] = json.loads(json.dumps(make(), allow_nan=False))
            self.save()
        return self.rows[name]

    def save(self, **more: Any) -> None:
        record = {"setup": self.setup, **more, "rows": self.rows}
        write_file(self.path, json.dumps(record, indent=1, allow_nan=False).encode())


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and SD between patients; SD 0 of one."""
    x = torch.tensor(list(values), dtype=torch.float64)
    return float(x.mean()), float(x.std()) if len(x) > 1 else 0.0


def shown(values: Sequence[float], digits: int = 2) -> str:
    """`mean±SD`."""
    mean, sd = mean_sd(values)
    return f"{mean:.{digits}f}±{sd:.{digits}f}"


def by_patient(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """A figure of every patient, averaged over the spacings of that patient."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["patient"], []).append(row[name])
    return {patient: sum(values) / len(values) for patient, values in found.items()}


def halves(patients: Sequence[str]) -> dict[str, list[str]]:
    """Two halves by turns, so that both hold patients of every set where these stand one after the other."""
    return {"a": list(patients[0::2]), "b": list(patients[1::2])}
