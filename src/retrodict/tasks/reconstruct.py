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
from retrodict.tasks.machine import torch_threads
from retrodict.tasks.recon_acquired import Acquisition
from retrodict.tasks.recon_cost import cost_of, duration
from retrodict.tasks.recon_files import KIND, belongs_to, image_like, write_parts
from retrodict.tasks.recon_held_out import HeldOut, predicted, prediction_said
from retrodict.tasks.recon_inputs import acquired
from retrodict.tasks.recon_methods import DEFAULTS, WHOLE, Method, Solver, settings_of
from retrodict.tasks.recon_misfit import Residual, residual_law
from retrodict.tasks.recon_options import ReconstructOptions
from retrodict.tasks.recon_posterior import Drawing, PosteriorSolver, packed
from retrodict.tasks.recon_regions import inside, of_region
from retrodict.tasks.recon_slice import Slice, numbers_of
from retrodict.tasks.recon_volume import draw_volume, require_volume
from retrodict.tasks.results import check_folder, recorded, result_name
from retrodict.tasks.resume import Parts

__all__ = ["ReconstructJob", "Reconstructed", "reconstruct"]

log = logging.getLogger("retrodict")

ROUNDS = 50
"""Rounds of conjugate gradients that a step of a posterior method takes at most, as a rule."""

TOLD = 5.0
"""Seconds from which on the cost is said before the work begins."""

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, repr=False)
class Reconstructed:
    """A reconstruction: `image` in its unit, `truth` where it was simulated, and `details`, the full record.

    `slices` holds for every slice its residual, misfit and how the method ended; `residual` is the whitened residual of
    the slice that the report shows, `data` what was measured of it.  `kind` is "point": there is no uncertainty; or
    it is that of an `Ensemble`, with `image` the mean of `samples`, and `sd` where the kind is "posterior".
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
    samples: tuple[Image, ...] | None = None
    sd: Image | None = None

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
        check_folder(folder, self.name, self.image.source, force, belongs_to, KIND)
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

    source: a file of sinograms or k-space (HDF5, ISMRMRD, MAT, npz, a TIFF stack), a folder of DICOM-CT-PD, an
    image that was blurred, masked or sampled coarsely, an `Image`, arrays by name, or a `Measurement` (whose
    adjoint is tested).  changes: fields of `ReconstructOptions`, which are the flags of the command line: `config`
    and `field` describe the measurement, `method` and `set` say how to reconstruct it, `posterior` draws samples
    with the prior `model` instead.  solver: a function from a `Measurement` of one item to a `Reconstruction`,
    instead of a method by name.  simulate: `source` is an image that is measured first, on finer pixels than those
    of the reconstruction.

    Slices are read and computed one at a time; those that a killed run of the same call had finished are not computed
    again.  With `resume` results of the same call that lie in `out` are replaced.

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
    drawing: PosteriorSolver | None = None
    held: tuple[HeldOut, Acquisition] | None = None

    @classmethod
    def of(
        cls, source: Any, options: ReconstructOptions, solver: Solver | None = None, name: str | None = None
    ) -> ReconstructJob:
        """Read and check; raises what `reconstruct` raises before the work."""
        settings = settings_of(options.set)
        if solver is None and options.method is not None:
            Method(options.method, settings)  # before the file is looked at
        measured, problem, found = acquired(source, options)
        if options.posterior:
            if solver is not None:
                raise InputError("solver", "a function", "none with a posterior")
            return cls._drawing(measured, options, settings, result_name(found if name is None else name))
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
        cost = cost_of(first, calls, measured.count)
        if cost["seconds"] > TOLD:
            log.info("%s: about %s and %.1f GB of memory", named, duration(cost["seconds"]), cost["bytes"] / 1e9)
        return cls(named, measured, options, solver, method or "solver", settings, cost)

    @classmethod
    def _drawing(
        cls, measured: Acquisition, options: ReconstructOptions, settings: dict[str, Any], name: str
    ) -> ReconstructJob:
        """The same for samples of a posterior."""
        for note in measured.notes:
            log.info("%s: %s", name, note)
        given = {"samples": options.samples, "calls": options.calls, "seed": options.seed, "coupling": options.coupling}
        given |= {"method": options.method_posterior}
        chosen, held = {k: v for k, v in given.items() if v is not None}, None
        if options.hold_out is not None:
            left = HeldOut(options.hold_out, options.seed or 0)
            held, measured = (left, measured), left.kept(measured)
        first = measured.part(0, False)
        if first.noise is None:
            hint = "Give {sigma}, or the law of the counts."
            wanted = "its level: a posterior weighs data and prior by it"
            raise InputError("noise", "none", wanted, hint, sigma="estimate")
        drawing = PosteriorSolver.of(measured, options.model, options.prior_spectrum, settings=settings, **chosen)
        require_volume(drawing, measured)
        drawing.require(first, measured.spacing)
        inside(options.region, first.operator.domain.shape[1:])
        if options.region and first.operator.domain.complex:
            raise InputError("region", "one of complex images", "none: the mean of a region has a phase there")
        count = measured.count * drawing.samples
        cost = cost_of(first, 2 * ROUNDS * (drawing.calls or 16), count)
        if cost["seconds"] > TOLD:
            log.info("%s: up to %s and %.1f GB of memory", name, duration(cost["seconds"]), cost["bytes"] / 1e9)
        return cls(name, measured, options, _refuse, drawing.method, settings, cost, drawing, held)

    @property
    def fingerprint(self) -> str:
        """A checksum of all that the result depends on."""
        said = [
            self.acquired.digest,
            None if self.drawing is None else self.drawing.digest(self.options.region),
            self.method,
            {k: v if not isinstance(v, Tensor) else v.tolist() for k, v in self.settings.items()},
            {k: v for k, v in stamp()["versions"].items() if k != "python"},
        ]
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()

    def run(self, watch: Watch | None = None, parts: Parts | None = None) -> Reconstructed:
        """Compute it; slices that `parts` holds are taken from there."""
        started, made = time.perf_counter(), self.acquired
        found: list[Slice] = []
        middle = made.count // 2
        each = 1 if self.drawing is None else self.drawing.samples
        watched = watch is not None and made.count * each > 1
        with torch_threads(self.options.threads) as threads, torch.no_grad():
            if self.drawing is not None and self.drawing.coupling:
                found = self._volume(parts, watch)
            for i in range(len(found), made.count):
                if watch is not None and watched:
                    watch(self.name, i * each, made.count * each)
                found.append(self._slice(i, parts, watch))
            part = made.part(middle, self.method in WHOLE)
            law = residual_law(part, found[middle].typical)
        if watch is not None and watched:
            watch(self.name, made.count * each, made.count * each)
        values = torch.cat([made.shown(s.image) for s in found])  # (slices, C, *N)
        image, truth = image_like(made, values, self.options.format)
        seconds = time.perf_counter() - started
        rows = tuple(s.record for s in found)
        data = part.y[0].detach().cpu()
        result = Reconstructed(self.name, image, self.method, rows, law, data, middle, made, truth)
        more = {} if self.drawing is None else self._drawn(found)
        result = replace(result, **{k: v for k, v in more.items() if k != "details"})
        details = self._record(result, seconds, threads) | more.get("details", {})
        return replace(result, details=details)

    def _slice(self, i: int, parts: Parts | None, watch: Watch | None) -> Slice:
        """What is found of a slice, computed or kept by an earlier run."""
        if (known := self._kept(i, parts)) is not None:
            return known
        part = self.acquired.part(i, self.method in WHOLE)
        if self.drawing is None:
            found = self.solver(part)
        else:
            found = self.drawing(part, self.acquired.spacing, i, self._told(i, watch))
        return self._keep(i, found, part, parts)

    def _volume(self, parts: Parts | None, watch: Watch | None) -> list[Slice]:
        """All slices, drawn together, or kept by an earlier run that had drawn them all."""
        made, whole, drawing = self.acquired, range(self.acquired.count), self.drawing
        assert drawing is not None
        if parts is not None and parts.done() == made.count:
            known = [s for i in whole if (s := self._kept(i, parts)) is not None]
            if len(known) == made.count:
                return known
            parts.reused = 0
        measured = [made.part(i, False) for i in whole]
        told = None if watch is None else lambda done, of: watch(self.name, done * made.count, made.count * of)
        found = draw_volume(drawing, measured, made.spacing, told)
        return [self._keep(i, f, part, parts) for i, (f, part) in enumerate(zip(found, measured, strict=True))]

    def _kept(self, i: int, parts: Parts | None) -> Slice | None:
        """A slice of an earlier run."""
        known = None if parts is None else parts.load(i)
        kept = {"image", "numbers"} | (set() if self.drawing is None else {"samples", "about"})
        return Slice.of(known) if known is not None and set(known) == kept else None

    def _keep(self, i: int, found: Reconstruction, part: Measurement, parts: Parts | None) -> Slice:
        """What was found, checked and kept for a later run."""
        _check_result(found, part)
        kept = {"image": found.image, "numbers": numbers_of(found, part)}
        if isinstance(found, Drawing):
            assert found.samples is not None
            kept |= {"samples": found.samples, "about": packed(found.about)}
        if parts is not None:
            parts.save(i, kept)
        return Slice.of(kept)

    def _told(self, i: int, watch: Watch | None) -> Callable[[int, int], None] | None:
        """Samples of a slice as a part of all of them."""
        if watch is None:
            return None
        return lambda done, of: watch(self.name, i * of + done, self.acquired.count * of)

    def _drawn(self, found: list[Slice]) -> dict[str, Any]:
        """Samples, deviation, kind and record of a posterior, in the unit of the results."""
        made, abouts = self.acquired, [s.about for s in found]
        samples = torch.stack([made.shown(s.samples[:, 0]) for s in found], 1)  # (K, slices, C, *N)
        images = tuple(image_like(made, x, self.options.format)[0] for x in samples)
        kinds = {a["kind"] for a in abouts}
        kind = "posterior" if kinds == {"posterior"} else "point" if "point" in kinds else "uncalibrated"
        sd = None
        if kind == "posterior":
            sd = image_like(made, _deviation(samples), self.options.format)[0]
        means = torch.cat([made.shown(s.image) for s in found])
        rows = [
            {"slice": i, "slices": made.count}
            | of_region(box, means[i, 0], samples[:, i, 0], kind, None if made.truth is None else made.truth[i])
            for box in self.options.region
            for i in range(made.count)
        ]
        details = {"posterior": self.drawing.record(abouts, kind), "regions": rows}  # type: ignore[union-attr]
        if self.held is not None:
            details["held_out"] = self._predicted(found)
        return {"kind": kind, "samples": images, "sd": sd, "method": abouts[0]["method"], "details": details}

    def _predicted(self, found: list[Slice]) -> dict[str, Any]:
        """What the samples say of the data that were left out."""
        assert self.held is not None
        left, whole = self.held
        rows = [predicted(s.samples[:, 0], left.of(whole, i)[1], whole.kind) for i, s in enumerate(found)]
        return prediction_said(rows, whole.kind) | {"share": left.share}

    def into(
        self, out: Path, *, force: bool = False, resume: bool = False, watch: Watch | None = None
    ) -> Reconstructed:
        """Compute it and write the results into `out`."""
        made, key = self.acquired, self.fingerprint
        if made.like is not None:
            check_writable(made.like)
        for whose, what in recover(out):
            log.info("%s: %s", whose, what)
        before = recorded(out, self.name, KIND)
        complete = before.get("fingerprint") == key and all((out / f).exists() for f in before.get("files", [""]))
        check_folder(out, self.name, made.source, force or (resume and complete), belongs_to, KIND)
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
            "method": result.method,
            "settings": {k: v for k, v in self.settings.items() if not isinstance(v, Tensor)},
            "residual": result.residual.record,
            "slices": list(result.slices),
            "shown_slice": result.shown,
            "unit": result.image.unit,
            "spacing_mm": [s if math.isfinite(s) else None for s in result.image.spacing],
            **({} if error is None else {"error_rms": error}),
            **({} if result.sd is None else {"sd_rms": float(result.sd.values.double().square().mean().sqrt())}),
            "measurement": made.about,
            "notes": list(made.notes),
            "source": [str(p.absolute()) for p in made.source],
            "forecast": self.cost,
            "seconds": seconds,
            "threads": threads,
            **stamp(),
        }


def _deviation(samples: Tensor) -> Tensor:
    """Of samples `(K, ...)`, unbiased; of complex ones that of a real component."""
    if samples.is_complex():
        return torch.view_as_real(samples).double().var(0).mean(-1).sqrt()
    return samples.double().var(0).sqrt()


def _real(image: Image) -> Tensor:
    return image.values.abs() if image.values.is_complex() else image.values


def _check_result(found: Reconstruction, part: Measurement) -> None:
    wanted = (1, *part.operator.domain.shape)
    if tuple(found.image.shape) != wanted:
        raise InputError("solver", f"an image {tuple(found.image.shape)}", f"{wanted}")
    if not bool(torch.isfinite(found.image.abs()).all()):
        hint = "Its settings may be too large a step, or the data too uneven."
        raise InputError("method", "a result with nan or infinite values", "finite values", hint)


def _refuse(measurement: Measurement) -> Reconstruction:
    raise InputError("solver", "none", "a function, as samples are drawn by the prior")
