"""Is a denoiser the score of a law?  Identities that hold of an exact one, measured on a model, with a page of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._output import refuse_existing, stamp, write_folder
from retrodict._random import key
from retrodict.denoisers.denoiser import Denoiser
from retrodict.denoisers.diagnostics import (
    BandError,
    fokker_planck,
    intrinsic_dimension,
    jacobian,
    probes_of,
    score_error,
    stein,
    whitened,
)
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.instrument import model_with_instrument
from retrodict.models.model import Intensity, Model, open_model
from retrodict.processes.observation import Cond, noise_like
from retrodict.report.diagnose import render
from retrodict.samplers.loop import start_state
from retrodict.samplers.trajectory import persistence, trajectory
from retrodict.tasks.diagnose_data import clean_images
from retrodict.tasks.diagnose_verdict import verdict
from retrodict.tasks.machine import torch_threads

__all__ = ["TIMES", "Diagnosis", "diagnose", "diagnosis"]

TIMES = (0.05, 0.15, 0.35, 0.65, 0.95)
"""Of the process, at which everything is measured."""

BANDS = 4
"""Of equal width in radius up to the Nyquist frequency."""

FOLLOWED = 4
"""Images whose trajectories are followed."""

BATCH = 4
"""Images at a time: of each probe as much memory is held as training takes."""

MOVES = (0.0, 0.25, 0.5, 0.75)
"""Parts of a trajectory after which its state is moved."""

STEPS = 24
"""Calls of a trajectory."""


@dataclass(frozen=True)
class Diagnosis:
    """The record of a diagnosis, and denoised images `(n, H, W)` along the first trajectory in the unit of the data."""

    record: dict[str, Any]
    pictures: np.ndarray

    def page(self) -> str:
        """One page of HTML that needs nothing else."""
        return render(self.record, self.pictures)

    def save(self, out: str | Path, force: bool = False) -> list[Path]:
        """`diagnose.html` and `diagnose.json` in a new folder."""
        files = [("diagnose.html", self.page().encode()), ("diagnose.json", json.dumps(self.record, indent=1).encode())]
        return write_folder(out, files, force=force)


def diagnose(
    model: str | Path | Model = "ct",
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    points: int = 8,
    times: Sequence[float] = TIMES,
    probes: int = 4,
    seed: int = 0,
    mtf: Any = None,
    nps: Any = None,
    threads: int | None = None,
    force: bool = False,
    watch: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Measure a model against what holds of an exact score, and write the page into `out`.

    data: clean images of patients who were not in training (a table or a folder, see `clean_images`).  Without them
    states are those of Gaussian fields of the model's spectrum, and what is a statement about real data (Stein's
    identities, the error, the dimension) is left out.  points: images.  times: in [0.002, 0.998] of the process.
    probes: for each Jacobian.  mtf, nps: the instrument of a model of every one, by default that of its record.

    Works in float64 on the CPU whatever the model was trained in: round-off of float32 is an asymmetry too.  Raises
    `InputError` for numbers that cannot be meant, for images that do not fit, and for a cascade.
    """
    for where, value, least in (("points", points, 1), ("probes", probes, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(where, value, f"a whole number of at least {least}")
    if not times or not all(0.002 <= t <= 0.998 for t in times):
        raise InputError("times", ", ".join(map(str, times)) or "none", "numbers from 0.002 to 0.998")
    if out is not None:
        refuse_existing(Path(out), force)
    opened = open_model(model, "float32")
    if "distilled" in opened.spec.card:
        teacher = opened.spec.card["distilled"]["teacher"]
        raise InputError("model", "a distilled model, which is no score", f"its teacher, {teacher}")
    if mtf is not None or nps is not None:
        opened = model_with_instrument(opened, mtf, nps)[0]
    images = None if data is None else clean_images(data, opened.spec, points)
    with torch_threads(threads):
        found = diagnosis(
            opened.denoiser, images, points=points, times=times, probes=probes, seed=seed,
            channels=len(opened.spec.channels), intensity=opened.intensity, watch=watch,
        )  # fmt: skip
    about = {"model": opened.source, "data": None if data is None else str(data)}
    found = replace(found, record={**about, **found.record, **stamp()})
    if out is not None:
        found.save(out, force)
    return found


def diagnosis(
    denoiser: Denoiser,
    images: Sequence[tuple[str, Tensor]] | None = None,
    *,
    points: int = 8,
    times: Sequence[float] = TIMES,
    probes: int = 4,
    seed: int = 0,
    channels: int = 1,
    intensity: Intensity = Intensity(),
    watch: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """`diagnose` of any denoiser that knows the spectrum of its data, on pairs of a patient and an image `(C, *N)`."""
    denoiser = _in_float64(denoiser)
    prior = denoiser.prior()
    if prior is None:
        raise InputError("diagnose", "a denoiser that knows no spectrum of the data", "one with a spectrum")
    size = denoiser.process.basis.size
    seeds = torch.tensor([key(seed, "diagnose", i) for i in range(len(images) if images else points)], device="cpu")
    if images is None:
        white = noise_like(torch.zeros(points, channels, *size, dtype=torch.float64, device="cpu"), seeds, "image", 0)
        basis = denoiser.process.basis
        x0 = basis.inverse(prior[0] + prior[1].sqrt() * basis.forward(white))
        names = [str(i) for i in range(points)]
    else:
        names, x0 = [n for n, _ in images], torch.stack([x for _, x in images]).double()
    case = Case(denoiser, x0, names, seeds, probes, images is not None)
    rows = []
    for k, t in enumerate(times):
        rows.append(_at(case, float(t), k))
        if watch is not None:
            watch(k + 1, len(times) + 1)
    path, pictures = _path(case)
    if watch is not None:
        watch(len(times) + 1, len(times) + 1)
    record = {
        "process": None if denoiser.process.recipe is None else denoiser.process.recipe.name,
        "size": list(size),
        "patients": len(set(names)),
        "images": len(names),
        "measured": images is not None,
        "seed": seed,
        "probes": probes,
        "unit": intensity.unit,
        "bands": [[a, b] for a, b, _ in case.bands],
        "times": rows,
        "trajectory": path,
    }
    shown = intensity.decode(pictures).numpy()
    return Diagnosis({**record, "findings": verdict(record)}, shown)


@dataclass(frozen=True)
class Case:
    """What is measured: a denoiser, images x0 `(B, C, *N)` of named patients, and the seeds of their noise `(B,)`."""

    denoiser: Denoiser
    x0: Tensor
    names: Sequence[str]
    seeds: Tensor
    probes: int
    measured: bool

    @property
    def bands(self) -> list[tuple[float, float, Tensor]]:
        """Of the basis, up to the Nyquist frequency."""
        basis = self.denoiser.process.basis
        return basis.bands(BANDS, highest=0.5 / max(basis.spacing)) or basis.bands(1)

    def conditions(self, rows: slice) -> tuple[Tensor | None, Cond]:
        """Measurements of some of the images, as the process wants them."""
        process = self.denoiser.process
        if not process.pairing.sees:
            return None, Cond()
        y = process.pairing.simulate(self.x0[rows], process.basis, self.seeds[rows])
        return y, process.pairing.cond(y)

    def mean(self, values: Tensor) -> dict[str, Any]:
        """Mean of a number of every image `(B,)` over patients, who count alike, and their standard deviation."""
        patients = sorted(set(self.names))
        each = [float(values[[n == p for n in self.names]].mean()) for p in patients]
        return {"mean": float(np.mean(each)), "sd": float(np.std(each, ddof=1)) if len(each) > 1 else None}

    def ratio(self, above: Tensor, below: Tensor) -> dict[str, Any]:
        """Mean and deviation over patients of the ratio of sums over the images of each."""
        masks = [torch.tensor([n == p for n in self.names], device="cpu") for p in sorted(set(self.names))]
        each = [float(above[m].sum() / below[m].sum()) for m in masks]
        return {"mean": float(np.mean(each)), "sd": float(np.std(each, ddof=1)) if len(each) > 1 else None}

    def excess(self, error: BandError, band: int) -> dict[str, Any]:
        """`BandError.excess` of all images in a band, and the deviation between patients that its jackknife has."""
        every = sorted(set(self.names))
        masks = [torch.tensor([n != p for n in self.names], device="cpu") for p in every] if len(every) > 1 else []
        left = [float(BandError(*(x[m] for x in error)).pooled().excess[band]) for m in masks]
        n = len(left)
        sd = (n - 1) * float(np.std(left)) if n > 1 else None  # sqrt(n) times the standard error of the jackknife
        return {"mean": float(error.pooled().excess[band]), "sd": sd}


def _in_float64(denoiser: Denoiser) -> Denoiser:
    if not isinstance(denoiser, NetDenoiser):
        return denoiser
    return replace(denoiser, net=copy.deepcopy(denoiser.net).double(), precision="float32")


def _parts(case: Case) -> Iterator[slice]:
    for first in range(0, len(case.x0), BATCH):
        yield slice(first, first + BATCH)


def _at(case: Case, time: float, k: int) -> dict[str, Any]:
    """Everything at one time."""
    denoiser, found = case.denoiser, []
    for rows in _parts(case):
        x0, seeds = case.x0[rows], case.seeds[rows]
        t = torch.full((len(x0),), time, dtype=torch.float64, device="cpu")
        y, cond = case.conditions(rows)
        anchor = y if denoiser.process.anchored else None
        xt = denoiser.process.corrupt(x0, t, noise_like(x0, seeds, "state", k), anchor)
        at, z = whitened(denoiser, xt, t, cond)
        fields = probes_of(z, seeds, case.probes)
        there = jacobian(at, z, fields)
        part = {
            "asymmetry": there.asymmetry,
            "asymmetry_of_rest": there.asymmetry_of_rest,
            "trace": there.trace,
            "stable_rank": there.stable_rank,
            "fokker_planck": fokker_planck(denoiser, xt, t, fields[0], cond),
            "dimension": at.dimension(x0.shape[1]),
        }
        if case.measured:
            clean, zero = whitened(denoiser, denoiser.process.corrupt(x0, t, torch.zeros_like(x0), anchor), t, cond)
            local = jacobian(clean, zero, fields[:2]).trace
            part["local_dimension"] = intrinsic_dimension(clean, zero, local)
            part |= {f"stein.{n}": v for n, v in stein(at, z, case.bands, there.trace)._asdict().items()}
            error = score_error(denoiser, x0, xt, t, case.bands, cond)
            part |= {f"error.{n}": v for n, v in error._asdict().items()}
        found.append(part)
    whole = {name: torch.cat([part[name] for part in found]).detach() for name in found[0]}
    return {"t": time, **_row(case, whole, time)}


def _row(case: Case, whole: dict[str, Tensor], time: float) -> dict[str, Any]:
    process, prior = case.denoiser.process, case.denoiser.prior()
    assert prior is not None
    m = process.moments(torch.tensor([time], dtype=torch.float64, device="cpu"))
    signal = m.h**2 * prior[1]
    part = torch.where(signal + m.s2 > 0, signal / (signal + m.s2), 0.0)
    weight = process.basis.multiplicity() * (m.s2 > 0)
    channels = case.x0.shape[1] if part.shape[1] == 1 else 1
    names = ("asymmetry", "asymmetry_of_rest", "trace", "stable_rank", "fokker_planck", "local_dimension")
    row: dict[str, Any] = {n: case.mean(whole[n]) for n in names if n in whole}
    row["dimension"] = float(whole["dimension"][0])
    row["trace_gaussian"] = float((part * weight).sum()) * channels
    if case.measured:
        score2, count = whole["stein.score2"], len(case.bands)
        row["stein"] = [case.mean(whole["stein.bands"][:, b]) for b in range(count)]
        axes = range(whole["stein.turn"].shape[1])
        size = [(score2.mean() * whole["stein.turned2"][:, a].mean()).sqrt() for a in axes]
        row["turn"] = [case.mean(whole["stein.turn"][:, a] / size[a]) for a in axes]
        row["hyvarinen"] = case.mean(whole["stein.hyvarinen"])
        error = BandError(*(whole[f"error.{n}"] for n in BandError._fields))
        row["error"] = [
            {
                "over_wiener": case.ratio(error.error[:, b], error.wiener[:, b]),
                "over_stated": case.ratio(error.error[:, b], error.stated[:, b]),
                "excess": case.excess(error, b),
            }
            for b in range(count)
        ]
    return row


def _path(case: Case) -> tuple[dict[str, Any], Tensor]:
    """The shape of a few trajectories, from the measurement where the process starts there, and pictures of one."""
    denoiser, prior = case.denoiser, case.denoiser.prior()
    assert prior is not None
    some = slice(0, FOLLOWED)
    x0, seeds, process = case.x0[some], case.seeds[some], denoiser.process
    y, cond = case.conditions(some)
    if process.pairing.starts:
        one = torch.ones(len(x0), dtype=torch.float64, device="cpu")
        start = process.to_coefficients(process.corrupt(x0, one, noise_like(x0, seeds, "measured", 0)), one)
    else:
        start = start_state(
            process, seeds, tuple(x0.shape[1:]), measurement=y, mean=prior[0], spectrum=prior[1], dtype=torch.float64
        )
    found = trajectory(denoiser, start, seeds, case.bands, STEPS, cond)
    moves = [round(part * STEPS) for part in MOVES]
    moved = persistence(denoiser, start, seeds, moves, STEPS, cond=cond)
    record = {
        "images": len(x0),
        "times": found.times.tolist(),
        "plane": _mean(found.plane),
        "turn": _mean(found.turn),
        "gaussian": [_mean(found.gaussian[:, k]) for k in range(found.gaussian.shape[1])],
        "shown": [[_mean(found.shown[:, b, k]) for k in range(STEPS)] for b in range(found.shown.shape[1])],
        "moved_at": [float(found.times[k]) for k in moves],
        "moved": [_mean(moved[:, k]) for k in range(len(moves))],
    }
    picked = found.answers[[0, STEPS // 4, STEPS // 2, 3 * STEPS // 4, STEPS - 1], 0, 0]
    return record, picked.reshape(len(picked), -1, *picked.shape[-2:])[:, 0] if picked.ndim > 3 else picked


def _mean(values: Tensor) -> dict[str, Any]:
    return {"mean": float(values.mean()), "sd": float(values.std()) if len(values) > 1 else None}
