"""Reconstructing a measurement: raw data in; an image, its misfit and a report out, slice by slice."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._output import kept_parts, recover, require_room, staged, stamp
from retrodict.data import Image
from retrodict.data.io import check_writable
from retrodict.physics.classics import Reconstruction
from retrodict.physics.measurement import Measurement
from retrodict.tasks.machine import free_memory, torch_threads
from retrodict.tasks.recon_acquired import Acquisition
from retrodict.tasks.recon_files import belongs_to, check_folder, image_like, recorded, write_parts
from retrodict.tasks.recon_inputs import acquired
from retrodict.tasks.recon_methods import DEFAULTS, WHOLE, Method, Solver, settings_of
from retrodict.tasks.recon_misfit import Residual, residual_law
from retrodict.tasks.recon_options import ReconstructOptions
from retrodict.tasks.results import result_name
from retrodict.tasks.resume import Parts

__all__ = ["ReconstructJob", "Reconstructed", "reconstruct"]

log = logging.getLogger("retrodict")

STOPS = ("closed form", "tolerance", "discrepancy", "iterations")
CLOSED = 4
"""Applications up to which a method is a closed form, whose residual is all that the operator is asked for."""

TOLD = 5.0
"""Seconds from which on the cost is said before the work begins."""

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, repr=False)
class Reconstructed:
    """A reconstruction: `image` in its unit, `truth` where it was simulated, and `details`, the full record.

    `slices` holds for every slice its residual, misfit and how the method ended; `residual` is the whitened residual of
    the slice that the report shows, `data` what was measured of it.  `kind` is "point": there is no uncertainty.
    """

    name: str
    image: Image
    method: str
    slices: tuple[dict[str, Any], ...]
    residual: Residual
    data: Tensor
    shown: int
    acquired: Acquisition
    truth: Image | None = None
    files: tuple[Path, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    kind: str = "point"

    @property
    def said(self) -> str:
        """One sentence on the fit."""
        said = self.residual.record["said"]
        return f"{said[0].upper()}{said[1:]}."

    @property
    def error(self) -> float | None:
        """Root mean square difference to the truth of a simulation; None without one."""
        if self.truth is None:
            return None
        return float((_real(self.image) - self.truth.values).double().square().mean().sqrt())

    def __repr__(self) -> str:
        """One short line, without pixels."""
        size = " x ".join(map(str, self.image.values.shape[1:]))
        return f"Reconstructed({self.name!r}, {self.method}, {size} {self.image.unit}, {self.said})"

    def save(self, out: str | Path, *, force: bool = False) -> list[Path]:
        """Write image, record and report into the folder `out`, and return their paths: all appear, or none."""
        folder = Path(out)
        check_folder(folder, self.name, self.image.source, force)
        with staged(folder, self.name, force=force, owned=belongs_to(self.name)) as staging:
            written = write_parts(self, staging, folder)
        return [folder / p.relative_to(staging) for p in written]


def reconstruct(
    source: Any,
    out: str | Path | None = None,
    *,
    solver: Solver | None = None,
    name: str | None = None,
    force: bool = False,
    resume: bool = False,
    watch: Watch | None = None,
    **changes: Any,
) -> Reconstructed:
    """Reconstruct a raw measurement and, with `out`, write image, record and report there.

    source: a file of sinograms or k-space (HDF5, ISMRMRD, MAT, npz, a TIFF stack), an image that was blurred, masked or
    sampled coarsely, an `Image`, arrays by name, or a `Measurement` (whose adjoint is tested).  changes: fields of
    `ReconstructOptions`, which are the flags of the command line: `config` and `field` describe the measurement,
    `method` and `set` say how to reconstruct it.  solver: a function from a `Measurement` of one item to a
    `Reconstruction`, instead of a method by name.  simulate: `source` is an image that is measured first, on finer
    pixels than those of the reconstruction.

    Slices are read and computed one at a time; those that a killed run of the same call had finished are not computed
    again.  With `resume` results of the same call that lie in `out` are read back instead.

    Raises `InputError` for bad input, before anything is written.
    """
    extra = ("solver", "name", "force", "resume", "watch")
    options = ReconstructOptions.of(changes, extra)
    job = ReconstructJob.of(source, options, solver, name)
    if out is None:
        return job.run(watch)
    return job.into(Path(out), force=force, resume=resume, watch=watch)


# ---- the work --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReconstructJob:
    """A reconstruction of which everything is checked that can be beforehand; `cost` in seconds and bytes."""

    name: str
    acquired: Acquisition
    options: ReconstructOptions
    solver: Solver
    method: str
    settings: Mapping[str, Any]
    cost: dict[str, float]

    @classmethod
    def of(
        cls, source: Any, options: ReconstructOptions, solver: Solver | None = None, name: str | None = None
    ) -> ReconstructJob:
        """Read and check; raises what `reconstruct` raises before the work."""
        settings = settings_of(options.set)
        if solver is None and options.method is not None:
            Method(options.method, settings)  # before the file is looked at
        measured, problem, found = acquired(source, options)
        method = options.method or (DEFAULTS[problem] if problem else None)
        if solver is None:
            if method is None:
                raise InputError("method", "none", "the name of one, for a Measurement")
            solver = Method(method, settings)
        named = result_name(found if name is None else name)
        for note in measured.notes:
            log.info("%s: %s", named, note)
        first = measured.part(0, method in WHOLE)
        if isinstance(solver, Method):
            solver.require(first)
        calls = solver.applications() if isinstance(solver, Method) else 100
        cost = _cost(first, calls, measured.count)
        if cost["seconds"] > TOLD:
            log.info("%s: about %s and %.1f GB of memory", named, _duration(cost["seconds"]), cost["bytes"] / 1e9)
        return cls(named, measured, options, solver, method or "solver", settings, cost)

    @property
    def fingerprint(self) -> str:
        """A checksum of all that the result depends on."""
        said = [
            self.acquired.digest,
            self.method,
            {k: v if not isinstance(v, Tensor) else v.tolist() for k, v in self.settings.items()},
            {k: v for k, v in stamp()["versions"].items() if k != "python"},
        ]
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()

    def run(self, watch: Watch | None = None, parts: Parts | None = None) -> Reconstructed:
        """Compute it; slices that `parts` holds are taken from there."""
        started, made = time.perf_counter(), self.acquired
        images: list[Tensor] = []
        records: list[dict[str, Any]] = []
        middle = made.count // 2
        with torch_threads(self.options.threads) as threads, torch.no_grad():
            for i in range(made.count):
                if watch is not None and made.count > 1:
                    watch(self.name, i, made.count)
                image, record = self._slice(i, parts)
                images.append(image)
                records.append(record)
            part = made.part(middle, self.method in WHOLE)
            law = residual_law(part, images[middle])
        if watch is not None and made.count > 1:
            watch(self.name, made.count, made.count)
        values = torch.cat([made.shown(x) for x in images])  # (slices, C, *N)
        image, truth = image_like(made, values, self.options.format)
        seconds = time.perf_counter() - started
        result = Reconstructed(
            self.name, image, self.method, tuple(records), law, part.y[0].detach().cpu(), middle, made, truth
        )
        details = self._record(result, seconds, threads)
        return replace(result, details=details)

    def _slice(self, i: int, parts: Parts | None) -> tuple[Tensor, dict[str, Any]]:
        """Image `(1, C, *N)` and record of a slice, computed or found."""
        known = None if parts is None else parts.load(i)
        if known is not None and set(known) == {"image", "numbers"}:
            return known["image"], _numbers_back(known["numbers"])
        part = self.acquired.part(i, self.method in WHOLE)
        found = self.solver(part)
        _check_result(found, part)
        record = _numbers(found, part)
        if parts is not None:
            parts.save(i, {"image": found.image, "numbers": record})
        return found.image, _numbers_back(record)

    def into(
        self, out: Path, *, force: bool = False, resume: bool = False, watch: Watch | None = None
    ) -> Reconstructed:
        """Compute it and write the results into `out`."""
        made, key = self.acquired, self.fingerprint
        if made.like is not None:
            check_writable(made.like)
        for whose, what in recover(out):
            log.info("%s: %s", whose, what)
        before = recorded(out, self.name)
        complete = before.get("fingerprint") == key and all((out / f).exists() for f in before.get("files", [""]))
        check_folder(out, self.name, made.source, force or (resume and complete))
        pixels = math.prod(made.part(0, True).operator.domain.shape) * made.count
        require_room(out, 16 * pixels * (2 + (made.truth is not None)) + 4_000_000)
        replacing = force or (resume and complete)
        with staged(out, self.name, force=replacing, key=key, owned=belongs_to(self.name)) as staging:
            parts = Parts(kept_parts(staging)) if made.count > 1 else None
            if parts is not None and parts.done():
                log.info("%s: %d of %d slices were finished by an earlier run", self.name, parts.done(), made.count)
            result = self.run(watch, parts)
            result.details.update(fingerprint=key, slices_of_an_earlier_run=parts.reused if parts else 0)
            written = write_parts(result, staging, out)
        return replace(result, files=tuple(out / p.relative_to(staging) for p in written))

    def _record(self, result: Reconstructed, seconds: float, threads: int) -> dict[str, Any]:
        made, error = self.acquired, result.error
        return {
            "kind": result.kind,
            "method": self.method,
            "settings": {k: v for k, v in self.settings.items() if not isinstance(v, Tensor)},
            "residual": result.residual.record,
            "slices": list(result.slices),
            "shown_slice": result.shown,
            "unit": result.image.unit,
            "spacing_mm": [s if math.isfinite(s) else None for s in result.image.spacing],
            **({} if error is None else {"error_rms": error}),
            "measurement": made.about,
            "notes": list(made.notes),
            "source": [str(p.absolute()) for p in made.source],
            "forecast": self.cost,
            "seconds": seconds,
            "threads": threads,
            **stamp(),
        }


def _real(image: Image) -> Tensor:
    return image.values.abs() if image.values.is_complex() else image.values


def _check_result(found: Reconstruction, part: Measurement) -> None:
    wanted = (1, *part.operator.domain.shape)
    if tuple(found.image.shape) != wanted:
        raise InputError("solver", f"an image {tuple(found.image.shape)}", f"{wanted}")
    if not bool(torch.isfinite(found.image.abs()).all()):
        hint = "Its settings may be too large a step, or the data too uneven."
        raise InputError("method", "a result with nan or infinite values", "finite values", hint)


def _numbers(found: Reconstruction, part: Measurement) -> Tensor:
    """What is kept of a slice beside its image, float64."""
    stop = STOPS.index(found.stopped[0]) if found.stopped[0] in STOPS else len(STOPS)
    above = below = math.nan
    if part.noise is not None:
        misfit = part.misfit(found.image)
        above, below = float(misfit.above[0]), float(misfit.below[0])
    strength = found.parameter[0] if found.parameter else math.nan
    row = [float(found.residual[0]), float(found.misfit[0]), above, below, found.iterations[0], stop, strength]
    return torch.tensor(row, dtype=torch.float64, device="cpu")


def _numbers_back(row: Tensor) -> dict[str, Any]:
    names = ("residual", "misfit", "above", "below", "iterations", "stopped", "strength")
    record: dict[str, Any] = dict(zip(names, row.tolist(), strict=True))
    record["iterations"], stop = int(record["iterations"]), int(record["stopped"])
    record["stopped"] = STOPS[stop] if stop < len(STOPS) else "the solver's own rule"
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


# ---- cost ------------------------------------------------------------------------------------------------------------


def _cost(part: Measurement, calls: int, count: int) -> dict[str, float]:
    """Seconds and bytes, from one forward and adjoint; `InputError` where the memory that is free does not suffice.

    The first use of an operator builds its tables and is not counted.
    """
    operator = part.operator.part
    pixels, data = math.prod(operator.domain.shape), math.prod(operator.range.shape)
    size = part.y.element_size()
    kept = float(dict(operator.about).get("weights", 0)) * 16 if dict(operator.about).get("kept") else 0.0
    needed = kept + 14 * size * (pixels + data) + size * pixels * count * 3
    free = free_memory()
    if free is not None and needed > free:
        found = f"{count} slices of {pixels} pixels from {data} data, and {free / 1e9:.1f} GB of free memory"
        raise InputError(
            "image.size", found, f"at least the {needed / 1e9:.1f} GB that it takes", "Take larger pixels."
        )
    with torch.no_grad():
        kind = part.y.dtype if operator.domain.complex else part.y.real.dtype
        image = torch.zeros(1, *operator.domain.shape, dtype=kind, device=part.y.device)
        pairs = (
            [operator.forward]
            if calls <= CLOSED
            else [operator.forward, lambda x: operator.adjoint(operator.forward(x))]
        )
        pairs[-1](image)
        started = time.perf_counter()
        pairs[-1](image)
    each = time.perf_counter() - started
    return {"seconds": each * calls * count, "bytes": needed, "applications": float(calls * count)}


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
