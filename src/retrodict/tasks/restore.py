"""Restoring files and folders: measured image in; posterior mean, standard deviation, samples and a report out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError, NotCalibratedError
from retrodict._output import staged, stamp, write_file
from retrodict.data import Image, Source, discover, read, resample, units, write
from retrodict.data.formats import format_titles, written_suffix
from retrodict.models.instrument import model_with_instrument, own_curves
from retrodict.models.model import Model
from retrodict.samplers.ensemble import Restoration, SamplingOptions, restore_batch

if TYPE_CHECKING:
    from retrodict.bases.curve import Curve
    from retrodict.report.restoration import ReportData
from retrodict.models.model import open_model

__all__ = ["Restored", "Summary", "restore", "restore_all"]


SPACING_TOLERANCE = 0.03
"""Relative difference of pixel spacing up to which a model is used as it is."""


Watch = Callable[[str, int, int], None]
"""Told the name of the input, network calls done and in all."""


@dataclass(frozen=True)
class Restored:
    """The restoration of one image: `mean` and `sd` (None for a point estimate) in the unit of the input.

    `samples` are kept where asked for; `files` are what was written; `details` is the full record (rule, evaluations,
    seeds, timing, card of the model).
    """

    name: str
    input: Image
    mean: Image
    sd: Image | None
    samples: tuple[Image, ...]
    reason: str
    files: tuple[Path, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


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
    samples: int = 8,
    steps: int | None = None,
    seed: int = 0,
    rule: str = "matched",
    uncertainty: bool = True,
    keep_samples: bool = False,
    spacing: Sequence[float] | None = None,
    unit: str | None = None,
    resampling: bool = False,
    truth: Image | None = None,
    tile: int | None = None,
    mtf: Any = None,
    nps: Any = None,
    force: bool = False,
    allow_gaps: bool = False,
    watch: Watch | None = None,
) -> Restored:
    """Restore one measured image (or one series, slice by slice) and, with `out`, write results and a report there.

    source: a path, or an `Image`; `spacing` (mm) and `unit` are for files that have none.  samples: members of the
    ensemble; steps: network evaluations for each (default of the rule).  What comes out for a fixed measurement is a
    posterior: rules that are not raise `NotCalibratedError` unless `uncertainty=False`, and then only a point estimate
    is written.  resampling: bring an image of another pixel spacing to that of the model and back.  truth: a reference
    image, for the report.  mtf, nps: measured curves of the instrument (`retrodict measure`; a path, record or `Curve`)
    to use instead of those of the training; where they are far from those, the spread of the model is not calibrated
    for them and only a point estimate is given.  Files are NAME_mean, NAME_sd, NAME_sample-000 ... in the format of
    the input, NAME.json and NAME_report.html; nothing is overwritten without `force`.

    Raises `InputError` for bad input, before anything is written.
    """
    loaded, agreement = _with_instrument(open_model(model), mtf, nps, uncertainty)
    image = source if isinstance(source, Image) else _read(source, spacing, unit, allow_gaps)
    name = source.name if isinstance(source, Source) else _name(image)
    options = SamplingOptions(
        samples=samples,
        steps=steps,
        rule=rule,
        seed=seed,
        uncertainty=uncertainty,
        keep_samples=keep_samples,
        chunk=2,
    )
    loaded = replace(loaded, denoiser=loaded.denoiser.tiled(tile))
    if out is not None:
        _refuse_existing(Path(out), name, force)
    _check_image(image, loaded, name)
    result, mean, sd, members = _restore_values(image, loaded, options, resampling, name, watch)
    restored = Restored(
        name,
        image,
        image.with_values(mean),
        None if sd is None else image.with_values(sd),
        tuple(image.with_values(s) for s in members),
        result.reason,
        details=_record(result, loaded, options, image) | agreement,
    )
    return restored if out is None else _write(restored, Path(out), loaded, truth, force)


def _with_instrument(model: Model, mtf: Any, nps: Any, uncertainty: bool) -> tuple[Model, dict[str, Any]]:
    """The model bound to measured curves, and the record of how far they are from those of the training."""
    if mtf is None and nps is None:
        return model, {}
    bound, agreement = model_with_instrument(model, mtf, nps)
    if uncertainty and not agreement.holds:
        raise NotCalibratedError(
            f"The measured instrument is not the one that the model was calibrated for: {agreement}. "
            "Train on for it (retrodict fit with start_from and the measured curves, some hundred steps), or ask for a "
            "point estimate (--point)."
        )
    record = {"noise_ratio": agreement.noise_ratio, "mtf_difference": agreement.mtf_difference}
    return bound, {"instrument": {**record, "calibration_holds": agreement.holds, "files": [str(mtf), str(nps)]}}


def restore_all(path: str | Path, out: str | Path, *, watch: Watch | None = None, **options: Any) -> Summary:
    """Restore everything that can be read at `path` (a file, a series, a folder of them).

    One bad input does not stop the rest: it is listed in `failures`.  Options are those of `restore`.
    """
    options["model"] = open_model(options.get("model", "ct"))
    summary = Summary()
    for source in _discover(Path(path), summary):
        try:
            summary.restored.append(restore(source, out, watch=watch, **options))
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


def _read(source: Source | str | Path, spacing: Sequence[float] | None, unit: str | None, gaps: bool) -> Image:
    given = tuple(spacing) if spacing else None
    # air with noise reaches below -1024 HU: clipping it would bend the law of the measurement
    return read(source, spacing=given, unit=unit, slices="independent", allow_gaps=gaps, clip=False)


def _name(image: Image) -> str:
    if not image.source:
        return "image"
    first = image.source[0]
    return first.parent.name if len(image.source) > 1 else first.name.split(".")[0]


# ---- the work ----------------------------------------------------------------------------------------------------


def _check_image(image: Image, model: Model, name: str) -> None:
    where = str(image.source[0]) if image.source else name
    if image.values.shape[0] != 1:
        raise InputError(where, f"{image.values.shape[0]} channels", "one channel")
    if image.unit != model.intensity.unit:
        raise InputError(where, f"values in {image.unit!r}", f"{model.intensity.unit!r}, the unit of the model")
    if not bool(torch.isfinite(image.values).all()):
        raise InputError(where, "NaN or infinite pixels", "finite pixels")
    ndim = len(model.spec.size)
    if image.values.ndim - 1 < ndim:
        raise InputError(where, f"a {image.values.ndim - 1}-D image", f"{ndim} axes for this model")


def _off_grid(image: Image, model: Model) -> bool:
    """Whether the in-plane (or volume) spacing differs from that of the model by more than the tolerance."""
    own = image.spacing[-len(model.spec.spacing) :]
    return any(abs(a / b - 1) > SPACING_TOLERANCE for a, b in zip(own, model.spec.spacing, strict=True))


def _restore_values(
    image: Image, model: Model, options: SamplingOptions, resampling: bool, name: str, watch: Watch | None
) -> tuple[Restoration, Tensor, Tensor | None, list[Tensor]]:
    """Posterior mean, sd and members `(1, *N)` in the unit of the image."""
    ndim = len(model.spec.size)
    work = image
    if _off_grid(image, model):
        own, wanted = image.spacing[-ndim:], model.spec.spacing
        if not resampling:
            raise InputError(
                f"{image.source[0] if image.source else name}: pixel spacing",
                f"{tuple(round(s, 4) for s in own)} mm",
                f"{wanted} mm (within {SPACING_TOLERANCE:.0%}), at which the model was trained",
                "Ask for resampling (--resample) to restore at the spacing of the model.",
            )
        work = resample(image, wanted)
    size = image.values.shape[-ndim:]
    stack = work.values.reshape(-1, 1, *work.values.shape[-ndim:])  # slices of a volume are items of a 2-D model
    told = None if watch is None else (lambda done, total: watch(name, done, total))

    def finish(members: Tensor) -> Tensor:
        """Members in the unit and on the grid of the image, before mean and deviation are taken."""
        values = model.intensity.decode(members)
        if values.shape[-ndim:] == size:
            return values
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[ndim]
        return F.interpolate(values, size=tuple(size), mode=mode, align_corners=False)

    result = restore_batch(model.denoiser, model.intensity.encode(stack), options, finish=finish, watch=told)
    shape = image.values.shape
    sd = None if result.sd is None else result.sd.reshape(shape)
    members = [] if result.samples is None else [s.reshape(shape) for s in result.samples]
    return result, result.mean.reshape(shape), sd, members


def _record(result: Restoration, model: Model, options: SamplingOptions, image: Image) -> dict[str, Any]:
    return {
        "kind": result.kind,
        "reason": result.reason,
        "model": model.source,
        "sampling": {**vars(options), **result.details},
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


def _write(restored: Restored, out: Path, model: Model, truth: Image | None, force: bool) -> Restored:
    """All results appear, or none."""
    with staged(out, restored.name, force=force) as staging:
        written = _write_parts(restored, staging, model, truth, out)
    return replace(restored, files=tuple(out / p.relative_to(staging) for p in written))


def _write_parts(restored: Restored, folder: Path, model: Model, truth: Image | None, out: Path) -> list[Path]:
    """Images, record and report in `folder`; the report names the files where they will be, in `out`."""
    point = restored.sd is None
    what = "point estimate (no uncertainty)" if point else "posterior mean"
    parts: list[tuple[str, Image, str]] = [("mean", restored.mean, what)]
    if restored.sd is not None:
        parts.append(("sd", restored.sd, "posterior standard deviation"))
    parts += [(f"sample-{i:03d}", s, f"posterior sample {i}") for i, s in enumerate(restored.samples)]
    written: list[Path] = []
    like = restored.input
    for role, image, text in parts:
        destination = folder / f"{restored.name}_{role}{written_suffix(like.format)}"
        description = f"retrodict {text}, model {Path(model.source).name}"
        paths = write(image, destination, like=like, role=role, description=description)
        written += [destination] if destination.is_dir() else paths
    record, page = folder / f"{restored.name}_restore.json", folder / f"{restored.name}_report.html"
    write_file(record, json.dumps(restored.details, indent=1, default=str).encode())
    final = [out / p.name for p in (*written, record, page)]
    _report_module().write(_report(restored, model, truth, final), page)
    return [*written, record, page]


def _report_module() -> Any:
    """The report writer; imported when needed, because plotting takes longer to import than everything else."""
    from retrodict.report import restoration as report

    return report


def _report(restored: Restored, model: Model, truth: Image | None, files: list[Path]) -> ReportData:
    image, details = restored.input, restored.details
    mtf, nps = _curves(model)
    off = [f"Restored at {model.spec.spacing} mm and resampled back."] if _off_grid(image, model) else []
    spacing = tuple(float(s) for s in image.spacing)
    return _report_module().ReportData(
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
