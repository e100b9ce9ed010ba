"""Restoring files and folders: measured image in; posterior mean, standard deviation, samples and a report out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError
from retrodict._output import staged, stamp, write_file
from retrodict.bases.curve import Curve
from retrodict.data import Image, Source, discover, read, resample, units, write
from retrodict.data.formats import format_titles, written_suffix
from retrodict.data.io import check_writable
from retrodict.models.instrument import own_curves
from retrodict.models.model import Model, open_model
from retrodict.samplers.ensemble import Restoration, SamplingOptions, restore_batch
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.prepare import check_image, prepared, torch_threads

if TYPE_CHECKING:
    from retrodict.report.restoration import ReportData

__all__ = ["Restored", "Summary", "restore", "restore_all", "restore_image"]


SPACING_TOLERANCE = 0.03
"""Relative difference of pixel spacing up to which a model is used as it is."""


Watch = Callable[[str, int, int], None]
"""Told the name of the input, network calls done and in all."""


@dataclass(frozen=True)
class Restored:
    """The restoration of one image: `mean` and `sd` (None for a point estimate) in the unit of the input.

    `samples` are kept where asked for; `files` are what was written; `details` is the full record (rule, evaluations,
    seeds, timing, card of the model).  `model` and `truth` are what the report of `save` speaks of.
    """

    name: str
    input: Image
    mean: Image
    sd: Image | None
    samples: tuple[Image, ...]
    reason: str
    model: Model = field(repr=False)
    files: tuple[Path, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    truth: Image | None = field(default=None, repr=False)

    def save(self, out: str | Path, *, force: bool = False) -> list[Path]:
        """Write images, record and report into the folder `out`, and return their paths: all appear, or none.

        Raises `InputError` for results of an earlier run without `force`, and `OutputError` where the file system
        refuses.
        """
        folder = Path(out)
        _refuse_existing(folder, self.name, force)
        with staged(folder, self.name, force=force) as staging:
            written = _write_parts(self, staging, folder)
        return [folder / p.relative_to(staging) for p in written]


@dataclass
class Summary:
    """What became of every input of a folder: restorations, and failures as (name, reason)."""

    restored: list[Restored] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def restore(
    source: Image | Source | str | Path,
    out: str | Path | None = None,
    *,
    model: str | Path | Model = "ct",
    truth: Image | None = None,
    force: bool = False,
    watch: Watch | None = None,
    **changes: Any,
) -> Restored:
    """Restore one measured image (or one series, slice by slice) and, with `out`, write results and a report there.

    source: a path, or an `Image`.  truth: a reference image, for the report.  changes: fields of `RestoreOptions`.
    samples: members of the ensemble; steps: network evaluations for each (default of the rule); rule, grid, seed,
    spread, tile, device, threads, keep_samples.  spacing (mm), unit, allow_gaps: for reading files; spacing and unit
    for those that have none.  What comes out for a fixed measurement is a posterior: rules that are not raise
    `NotCalibratedError` unless `point=True` (or `uncertainty=False`), and then only a point estimate is written.
    resample (or resampling): bring an image of another pixel spacing to that of the model and back.  mtf, nps: measured
    curves of the instrument (`retrodict measure`; a path, record or `Curve`) to use instead of those of the training;
    where they are far from those, the spread of the model is not calibrated for them and only a point estimate is
    given.  Files are NAME_mean, NAME_sd, NAME_sample-000 ... in the format of the input, NAME_restore.json and
    NAME_report.html; nothing is overwritten without `force`.

    Raises `InputError` for bad input, before anything is written; an unknown name is answered with the nearest.
    """
    options, loaded = RestoreOptions.of(changes), open_model(model)
    image = source if isinstance(source, Image) else _read(source, options)
    name = source.name if isinstance(source, Source) else _name(image)
    if out is not None:
        _refuse_existing(Path(out), name, force)
        check_writable(image)
    restored = replace(restore_image(image, loaded, options, name=name, watch=watch), truth=truth)
    return restored if out is None else replace(restored, files=tuple(restored.save(out, force=force)))


def restore_all(
    path: str | Path,
    out: str | Path,
    *,
    model: str | Path | Model = "ct",
    watch: Watch | None = None,
    **options: Any,
) -> Summary:
    """Restore everything that can be read at `path` (a file, a series, a folder of them).

    One bad input does not stop the rest: it is listed in `failures`.  Options are those of `restore`.
    """
    loaded = open_model(model)
    RestoreOptions.of({k: v for k, v in options.items() if k not in ("truth", "force")})  # wrong for one, wrong for all
    summary = Summary()
    for source in _discover(Path(path), summary):
        try:
            summary.restored.append(restore(source, out, model=loaded, watch=watch, **options))
        except (InputError, OSError) as error:
            summary.failures.append((source.name, str(error)))
    if not summary.restored and not summary.failures:
        raise InputError(path, "no image", f"{format_titles()} files")
    return summary


def _discover(path: Path, summary: Summary) -> list[Source]:
    """Sources at `path`; where a folder holds a file that cannot even be opened, the others are still found."""
    try:
        return discover(path)
    except InputError as error:
        if not path.is_dir():
            raise
        sources = []
        for item in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
            try:
                sources += discover(item)
            except InputError as single:
                if "unknown format" not in single.found:
                    summary.failures.append((item.name, str(single)))
        if not sources and not summary.failures:
            raise error
        return sources


def _read(source: Source | str | Path, options: RestoreOptions) -> Image:
    given = tuple(options.spacing) if options.spacing else None
    # air with noise reaches below -1024 HU: clipping it would bend the law of the measurement
    return read(
        source, spacing=given, unit=options.unit, slices="independent", allow_gaps=options.allow_gaps, clip=False
    )


def _name(image: Image) -> str:
    if not image.source:
        return "image"
    first = image.source[0]
    return first.parent.name if len(image.source) > 1 else first.name.split(".")[0]


# ---- the work ----------------------------------------------------------------------------------------------------


def restore_image(
    image: Image, model: Model, options: RestoreOptions, *, name: str = "image", watch: Watch | None = None
) -> Restored:
    """Restore an image in memory with a model and options, and write nothing; errors as `restore`."""
    ready, about = prepared(model, options)
    check_image(image, ready, name)
    work = _on_grid(image, ready, options.resample, name)
    told = None if watch is None else (lambda done, total: watch(name, done, total))
    sampling = _sampling(options)
    y = ready.intensity.encode(_items(work, len(ready.spec.size))).to(about["device"])
    with torch_threads(options.threads):
        result = restore_batch(ready.denoiser, y, sampling, finish=_finisher(image, ready), watch=told)

    def whole(items: Tensor) -> Image:
        return image.with_values(items.cpu().transpose(0, 1).reshape(image.values.shape))

    return Restored(
        name,
        image,
        whole(result.mean),
        None if result.sd is None else whole(result.sd),
        () if result.samples is None else tuple(whole(s) for s in result.samples),
        result.reason,
        ready,
        details=_record(result, ready, options, sampling, image) | about,
    )


def _sampling(options: RestoreOptions) -> SamplingOptions:
    return SamplingOptions(
        samples=options.samples,
        steps=options.steps,
        rule=options.rule,
        grid=options.grid,
        seed=options.seed,
        uncertainty=not options.point,
        keep_samples=options.keep_samples,
        chunk=2,
    )


def _off_grid(image: Image, model: Model) -> bool:
    """Whether the in-plane (or volume) spacing differs from that of the model by more than the tolerance."""
    own = image.spacing[-len(model.spec.spacing) :]
    return any(abs(a / b - 1) > SPACING_TOLERANCE for a, b in zip(own, model.spec.spacing, strict=True))


def _on_grid(image: Image, model: Model, resampling: bool, name: str) -> Image:
    """The image at the spacing of the model; one that is not is resampled only where that was asked for."""
    if not _off_grid(image, model):
        return image
    own, wanted = image.spacing[-len(model.spec.size) :], model.spec.spacing
    if not resampling:
        raise InputError(
            f"{image.source[0] if image.source else name}: pixel spacing",
            f"{tuple(round(s, 4) for s in own)} mm",
            f"{wanted} mm (within {SPACING_TOLERANCE:.0%}), at which the model was trained",
            "Ask for resampling (--resample) to restore at the spacing of the model.",
        )
    return resample(image, wanted)


def _items(image: Image, ndim: int) -> Tensor:
    """`(items, C, *N)` of an image `(C, ..., *N)`: slices of a volume are items of a 2-D model."""
    channels = image.values.shape[0]
    return image.values.reshape(channels, -1, *image.values.shape[-ndim:]).transpose(0, 1)


def _finisher(image: Image, model: Model) -> Callable[[Tensor], Tensor]:
    """Members in the unit and on the grid of the image, before mean and deviation are taken."""
    ndim = len(model.spec.size)
    size = tuple(image.values.shape[-ndim:])
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[ndim]

    def finish(members: Tensor) -> Tensor:
        values = model.intensity.decode(members)
        if tuple(values.shape[-ndim:]) == size:
            return values
        if values.is_complex():
            return torch.complex(*(F.interpolate(part, size=size, mode=mode) for part in (values.real, values.imag)))
        return F.interpolate(values, size=size, mode=mode, align_corners=False)

    return finish


def _record(
    result: Restoration, model: Model, options: RestoreOptions, sampling: SamplingOptions, image: Image
) -> dict[str, Any]:
    return {
        "kind": result.kind,
        "reason": result.reason,
        "model": model.source,
        "sampling": {
            "samples": options.samples,
            "steps": options.steps,
            "rule": options.rule,
            "grid": options.grid,
            "seed": options.seed,
            "spread": options.spread,
            "uncertainty": not options.point,
            "keep_samples": options.keep_samples,
            "chunk": sampling.chunk,
            "margin": sampling.margin,
            "tile": options.tile,
            **result.details,
        },
        "seeds": result.seeds,
        "seconds": result.seconds,
        "network_calls_per_member": result.nfe,
        "spacing_mm": list(image.spacing),
        "unit": image.unit,
        "source": [str(p) for p in image.source],
        **stamp(),
    }


# ---- files -------------------------------------------------------------------------------------------------------


def _refuse_existing(out: Path, name: str, force: bool) -> None:
    """Look before the long computation, not after it."""
    taken = sorted(p.name for p in out.glob(f"{name}_*")) if out.is_dir() else []
    if out.exists() and not out.is_dir():
        raise InputError(out, "a file", "a folder for the results")
    if taken and not force:
        raise InputError(
            out / taken[0], "a file of an earlier run", "a new output folder", "Use --force to replace it."
        )


def _write_parts(restored: Restored, folder: Path, out: Path) -> list[Path]:
    """Images, record and report in `folder`; the report names the files where they will be, in `out`."""
    from retrodict.report.restoration import write as write_report  # plotting takes longer to import than all else

    model, like = restored.model, restored.input
    what = "point estimate (no uncertainty)" if restored.sd is None else "posterior mean"
    parts: list[tuple[str, Image, str]] = [("mean", restored.mean, what)]
    if restored.sd is not None:
        parts.append(("sd", restored.sd, "posterior standard deviation"))
    parts += [(f"sample-{i:03d}", s, f"posterior sample {i}") for i, s in enumerate(restored.samples)]
    written: list[Path] = []
    for role, image, text in parts:
        destination = folder / f"{restored.name}_{role}{written_suffix(like.format)}"
        description = f"retrodict {text}, model {Path(model.source).name}"
        paths = write(image, destination, like=like, role=role, description=description)
        written += [destination] if destination.is_dir() else paths
    record, page = folder / f"{restored.name}_restore.json", folder / f"{restored.name}_report.html"
    write_file(record, json.dumps(restored.details, indent=1, default=str).encode())
    final = [out / p.name for p in (*written, record, page)]
    write_report(_report(restored, model, restored.truth, final), page)
    return [*written, record, page]


def _report(restored: Restored, model: Model, truth: Image | None, files: list[Path]) -> ReportData:
    from retrodict.report.restoration import ReportData

    image, details = restored.input, restored.details
    mtf, nps = _curves(model)
    off = [f"Restored at {model.spec.spacing} mm and resampled back."] if _off_grid(image, model) else []
    spacing = tuple(float(s) for s in image.spacing)
    return ReportData(
        title=f"Restoration of {restored.name}",
        input=image.values,
        mean=restored.mean.values,
        sd=None if restored.sd is None else restored.sd.values,
        truth=None if truth is None else truth.values,
        samples=[s.values for s in restored.samples] or None,
        channels=image.channels,
        sample_count=int(details["sampling"]["members"]),
        unit=image.unit,
        spacing=spacing if all(s == s for s in spacing) else None,
        data_range=units.unit(image.unit).data_range,
        point_estimate=restored.sd is None,
        point_estimate_reason=restored.reason,
        created=details["date"],
        model_card=_card(model),
        parameters={k: v for k, v in details["sampling"].items() if k not in ("grid",)},
        versions=details["versions"],
        seeds=[s for item in details["seeds"] for s in item],
        files=files,
        timing={"restoration": details["seconds"]},
        warnings=off,
        mtf=mtf,
        nps=nps,
    )


def _card(model: Model) -> dict[str, Any]:
    """What a reader of a report should know of the model, in short values."""
    card = model.spec.card
    groups = [g["name"] for g in card.get("data", []) if isinstance(g, dict) and "name" in g]
    held = list(card.get("validation", []))
    return {
        "name": card.get("name", Path(model.source).name),
        "process": model.spec.process["name"],
        "pixel spacing": " x ".join(f"{s:g}" for s in model.spec.spacing) + " mm",
        "trained on": ", ".join(g for g in groups if g not in held) or "not recorded",
        "images": card.get("images", "not recorded"),
        "calibrated on": ", ".join(held) or "nothing (no validation groups)",
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
