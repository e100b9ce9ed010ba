"""Restoring one image: measured image in; posterior mean, standard deviation, samples and a report out."""

from __future__ import annotations

import html
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from retrodict._check import choice
from retrodict._output import kept_parts, recover, staged, stamp
from retrodict.data import Image, Source
from retrodict.data.io import check_writable
from retrodict.models.model import Model, open_model
from retrodict.models.relative import at_level_of
from retrodict.nets.tiles import Tiled
from retrodict.samplers.ensemble import Finished, Restoration, SamplingOptions, calls_of, check_stop
from retrodict.samplers.margin import MARGIN
from retrodict.samplers.plan import GRIDS
from retrodict.samplers.rules import RULES
from retrodict.tasks.calibration import Calibration
from retrodict.tasks.estimate import EstimatedInstrument, instrument_of
from retrodict.tasks.examine import judged
from retrodict.tasks.forecast import Forecast, fitted
from retrodict.tasks.grid import finisher, items, on_grid
from retrodict.tasks.inputs import open_image
from retrodict.tasks.machine import torch_threads
from retrodict.tasks.noise_map import noise_map_of, require_instant
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.prepare import check_image, prepared
from retrodict.tasks.results import (
    belongs_to,
    check_folder,
    recorded,
    require_space,
    result_name,
    write_parts,
)
from retrodict.tasks.resume import Parts, fingerprint
from retrodict.tasks.stop import Stop
from retrodict.tasks.verdict import Verdict

__all__ = ["Job", "Restored", "Watch", "restore", "restore_image", "restore_into"]

log = logging.getLogger("retrodict")

ALONE = 256**2
"""Pixels from which members run one by one: tensors beyond 32 MB are taken from the system anew for every layer, which
costs a sixth of the time."""

Watch = Callable[[str, int, int], None]
"""Told the name of the input, network calls done and in all."""


@dataclass(frozen=True, repr=False)
class Restored:
    """The restoration of one image: `mean` and `sd` (None for a point estimate) in the unit of the input.

    `samples` are kept where asked for; `files` are what was written; `details` is the full record (rule, evaluations,
    seeds, timing, card of the model).  `stop`: the image at the time `stop_at`.  `verdict` says whether this is a
    posterior.  `model` and `truth` are what the report of `save` speaks of.  `calibration` makes `interval` of mean and
    deviation.
    """

    name: str
    input: Image
    mean: Image
    sd: Image | None
    samples: tuple[Image, ...]
    reason: str
    model: Model
    verdict: Verdict = field(default_factory=Verdict)
    files: tuple[Path, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    truth: Image | None = None
    stop: Stop | None = None
    calibration: Calibration | None = None

    @cached_property
    def interval(self) -> tuple[Image, Image] | None:
        """Lower and upper image with the guarantee of the `calibration`; None without one, or without a deviation."""
        if self.calibration is None or self.sd is None:
            return None
        return self.calibration.interval(self.mean, self.sd)

    @property
    def kind(self) -> str:
        """ "posterior", or "point" where there is no uncertainty; `reason` says why."""
        return "point" if self.sd is None else "posterior"

    def save(self, out: str | Path, *, force: bool = False) -> list[Path]:
        """Write images, record and report into the folder `out`, and return their paths: all appear, or none.

        Files are NAME_mean, NAME_sd, NAME_sample-000 ... (with a calibration NAME_lower and NAME_upper) in the format
        of the input, NAME_restore.json and NAME_report.html.  Raises `InputError` for results of an earlier run without
        `force` (and with it for those of another input), and `OutputError` where the file system refuses.
        """
        folder = Path(out)
        check_folder(folder, self.name, self.input.source, force)
        with staged(folder, self.name, force=force, owned=belongs_to(self.name)) as staging:
            written = write_parts(self, staging, folder)
        return [folder / p.relative_to(staging) for p in written]

    def _facts(self) -> dict[str, str]:
        """What a person wants to know at a glance."""
        size, unit = " x ".join(map(str, self.mean.values.shape[-self.mean.values.ndim + 1 :])), self.mean.unit
        facts = {"result": self.kind if self.sd is not None else "point estimate", "pixels": size}
        if not self.mean.values.is_complex():
            facts["mean"] = f"{float(self.mean.values.mean()):.4g} {unit}"
        if self.sd is not None:
            facts["sd"] = f"{float(self.sd.values.double().square().mean().sqrt()):.3g} {unit} rms"
        if self.samples:
            facts["samples"] = str(len(self.samples))
        return facts

    def __repr__(self) -> str:
        """One short line, without pixels."""
        result, *rest = self._facts().items()
        return f"Restored({self.name!r}, {result[1]}, " + ", ".join(f"{k} {v}" for k, v in rest) + ")"

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        rows = {"name": self.name, **self._facts(), "because": self.reason, "files": str(len(self.files))}
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
        return f"<table>{cells}</table>"


def restore(
    source: Image | Source | str | Path | np.ndarray | Tensor,
    out: str | Path | None = None,
    *,
    model: str | Path | Model = "ct",
    truth: Image | None = None,
    name: str | None = None,
    force: bool = False,
    watch: Watch | None = None,
    **changes: Any,
) -> Restored:
    """Restore one measured image (or one series, slice by slice) and, with `out`, write results and a report there.

    source: a path, an `Image`, or an array or tensor `(H, W)`, `(Z, H, W)` of slices (`(C, H, W)` for a model of C
    channels) or `(C, Z, H, W)` with its `unit` and its `spacing` in mm.  truth: a reference image, for the report.
    name: what the files begin with (default: the file without its extension).
    changes: fields of `RestoreOptions`, which are the flags of the command line.  samples: members of the ensemble;
    steps: of the sampler for each (default of the rule); rule, grid, seed, spread, tile, device, precision, threads,
    keep_samples.  spacing, unit, expect, allow_gaps: for reading files.  What comes out for a fixed measurement is a
    posterior: rules that are not raise `NotCalibratedError` unless `point=True`, and then only a point estimate is
    written.  resample: bring an image of another pixel spacing to that of the model and back.  mtf, nps: measured
    curves of the instrument (`retrodict measure`; a path, record or `Curve`) to use instead of those of the training;
    where they are far from those, the spread of the model is not calibrated for them and only a point estimate is
    given.  noise_map: how strong the noise is at every pixel, relative to that of the instrument or (in the unit of the
    values) as a standard deviation, for instant=True; docs/howto-noise-map.md.
    estimate_instrument: find the curves that are not given in the image itself; the verdict says so.
    given.  calibration: factors of `calibrate` (a path or record) for this model, instrument, options, unit and
    spacing; where the result is a posterior, the interval with their guarantee is written as NAME_lower and NAME_upper.
    Files are NAME_mean, NAME_sd, NAME_sample-000 ... in the format of the input, NAME_restore.json and
    NAME_report.html; nothing is overwritten without `force`, and results of another input never.  Slices that a
    killed run of the same call had finished are not computed again.

    Raises `InputError` for bad input, before anything is written; an unknown name is answered with the nearest.
    """
    options = RestoreOptions.of(changes, ("model", "truth", "name", "force", "watch"))
    loaded = open_model(model)
    image, found = open_image(source, options, loaded)
    named = result_name(found if name is None else name)
    if out is None:
        return replace(restore_image(image, loaded, options, name=named, watch=watch), truth=truth)
    job = Job.of(image, loaded, options, named)
    restored = restore_into(Path(out), job, truth=truth, force=force, watch=watch)
    assert restored is not None  # by its default, nothing is skipped
    return restored


# ---- the work --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A restoration of which everything is decided and everything checked that can be before it is computed."""

    name: str
    image: Image
    model: Model
    options: RestoreOptions
    about: dict[str, Any]
    work: Image
    sampling: SamplingOptions
    cost: Forecast | None
    factor: Tensor | None = None
    estimate: EstimatedInstrument | None = None
    calibration: Calibration | None = None

    @classmethod
    def of(cls, image: Image, model: Model, options: RestoreOptions, name: str) -> Job:
        """Put options on the model and the image on its grid; raises what `restore` raises before the work."""
        require_instant(options)
        choice("rule", options.rule, RULES)
        if options.grid is not None:
            choice("grid", options.grid, GRIDS)
        model, level = at_level_of(model, image, name)
        check_image(image, model, name)
        calibration = None if options.calibration is None else Calibration.open(options.calibration)
        work = on_grid(image, model, options.resample, name)
        found, spacing = instrument_of(work, model, options, name), tuple(work.spacing[-len(model.spec.size) :])
        ready, about = prepared(model, options, spacing) if found is None else found.bound(model, options, spacing)
        about |= level
        if calibration is not None:
            calibration.require(ready, options, image, name)
            about |= {"calibration": calibration.to_json()}
        for note in image.notes:
            log.warning("%s: %s", name, note)
        factor = None
        if options.noise_map is not None:
            factor, about["noise_map"] = noise_map_of(options, image, work, ready, name)
        ndim = len(ready.spec.size)
        sampling = _sampling(options)
        sampling = replace(sampling, margin=MARGIN[ndim])
        check_stop(ready.denoiser.process, sampling)
        size = tuple(n + 2 * sampling.margin for n in work.values.shape[-ndim:])
        if math.prod(size) > ALONE:
            sampling = replace(sampling, chunk=1)  # the result is the same
        calls = len(items(work, ndim)) * calls_of(ready.denoiser, sampling)
        denoiser, cost = fitted(ready.denoiser, size, calls, image.source[0] if image.source else name)
        ready = replace(ready, denoiser=denoiser)
        if cost is not None:
            log.warning("%s: %s pixels take %s", name, " x ".join(map(str, work.values.shape[1:])), cost)
            about |= {"forecast": {"bytes": cost.bytes, "seconds": round(cost.seconds, 1)}}
        net = getattr(ready.denoiser, "net", None)
        about |= {"tile": net.tile if isinstance(net, Tiled) else None}
        return cls(name, image, ready, options, about, work, sampling, cost, factor, found, calibration)

    @property
    def slices(self) -> int:
        """Images that are restored one after the other."""
        return len(items(self.work, len(self.model.spec.size)))

    def run(self, watch: Watch | None = None, parts: Finished | None = None) -> Restored:
        """Compute it; slices that `parts` holds are taken from there."""
        name, image, ready, options = self.name, self.image, self.model, self.options
        told = None if watch is None else (lambda done, total: watch(name, done, total))
        y = ready.intensity.encode(items(self.work, len(ready.spec.size))).to(self.about["device"])
        with torch_threads(options.threads) as threads:
            back = finisher(image, ready)
            said = [*_out_of_range(self.about), *(() if self.estimate is None else self.estimate.said)]
            given = {"watch": told, "parts": parts, "factor": self.factor, "warnings": said}
            result, verdict = judged(image, self.work, y, ready, self.sampling, name, back, **given)

        def whole(found: Tensor) -> Image:
            return image.with_values(found.cpu().transpose(0, 1).reshape(image.values.shape))

        stop = None if not result.stops else Stop.of(result.stops, options.stop_at or 0.0, ready, whole)
        return Restored(
            name,
            image,
            whole(result.mean),
            None if result.sd is None else whole(result.sd),
            () if result.samples is None else tuple(whole(s) for s in result.samples),
            result.reason,
            ready,
            verdict,
            details=_record(result, self, threads) | {"verdict": verdict.to_json()} | _of_stop(stop),
            stop=stop,
            calibration=self.calibration,
        )


def restore_image(
    image: Image, model: Model, options: RestoreOptions, *, name: str = "image", watch: Watch | None = None
) -> Restored:
    """Restore an image in memory with a model and options, and write nothing; errors as `restore`."""
    return Job.of(image, model, options, name).run(watch)


def restore_into(
    out: Path,
    job: Job,
    *,
    truth: Image | None = None,
    force: bool = False,
    skip: Literal["never", "recovered", "finished"] = "never",
    watch: Watch | None = None,
) -> Restored | None:
    """Do a job and write its results into `out`; None where `skip` and the folder say that they are there already.

    skip: "finished" results of the same fingerprint, or those of a run that was killed while it moved them
    ("recovered").

    All that can refuse the results does so before the work: a folder that cannot be made, results of an earlier run, a
    full disk, a header that cannot be written back.
    """
    name, image = job.name, job.image
    check_writable(image)
    key = fingerprint(job.model, job.options, image, job.about)
    tidied = recover(out)
    for whose, what in tidied:
        log.info("%s: %s", whose, what)
    recovered = skip == "recovered" and name in dict(tidied)
    if (skip == "finished" or recovered) and _is_there(out, name, key):
        return None
    check_folder(out, name, image.source, force)
    keep = job.slices > 1
    options = job.options
    images = 2 + 2 * (job.calibration is not None) + 2 * (options.stop_at is not None)
    require_space(out, image, images + options.samples * options.keep_samples, keep)
    with staged(out, name, force=force, key=key, owned=belongs_to(name)) as staging:
        parts = Parts(kept_parts(staging)) if keep else None
        if parts is not None and parts.done():
            log.info("%s: %d of %d slices were finished by an earlier run", name, parts.done(), job.slices)
        restored = replace(job.run(watch, parts), truth=truth)
        restored.details.update(fingerprint=key, slices_of_an_earlier_run=parts.reused if parts else 0)
        written = write_parts(restored, staging, out)
    return replace(restored, files=tuple(out / p.relative_to(staging) for p in written))


def _out_of_range(about: dict[str, Any]) -> list[str]:
    """What the verdict has to say of a point estimate with an instrument that the model was not trained on."""
    why = about.get("instrument", {}).get("why")
    return [f"the instrument is not of the kind that the model was trained on: {why}"] if why else []


def _of_stop(stop: Stop | None) -> dict[str, Any]:
    return {} if stop is None else {"stop": stop.to_json()}


def _is_there(out: Path, name: str, key: str) -> bool:
    """Whether results of this very computation are complete in the folder."""
    record = recorded(out, name)
    return record.get("fingerprint") == key and all((out / str(f)).exists() for f in record.get("files", [""]))


# ---- the record ------------------------------------------------------------------------------------------------------


def _sampling(options: RestoreOptions) -> SamplingOptions:
    return SamplingOptions(
        samples=options.samples,
        steps=options.steps,
        rule=options.rule,
        grid=options.grid,
        components=options.components,
        seed=options.seed,
        uncertainty=not options.point,
        keep_samples=options.keep_samples,
        chunk=2,
        stop=options.stop_at,
        instant=options.instant,
    )


def _record(result: Restoration, job: Job, threads: int) -> dict[str, Any]:
    options, image, sampling = job.options, job.image, job.sampling
    return {
        "kind": result.kind,
        "reason": result.reason,
        "model": job.model.source,
        "sampling": {
            "samples": options.samples,
            "steps": options.steps,
            "rule": options.rule,
            "grid": options.grid,
            "components": options.components,
            "seed": options.seed,
            "spread": options.spread,
            "uncertainty": not options.point,
            "keep_samples": options.keep_samples,
            "instant": options.instant,
            "stop_at": options.stop_at,
            "chunk": sampling.chunk,
            "margin": sampling.margin,
            **result.details,
            "mean_members": result.count,
            "tile": job.about["tile"],
        },
        "seeds": result.seeds,
        "seconds": result.seconds,
        "network_calls_per_member": result.nfe,
        "spacing_mm": list(image.spacing),
        "unit": image.unit,
        "notes": list(image.notes),
        "deidentified": options.deidentify,
        "source": [str(p.absolute()) for p in image.source],
        **stamp(),
        **job.about,
        "threads": threads,
    }
