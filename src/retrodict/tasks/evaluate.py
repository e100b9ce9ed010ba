"""Judging restorations against the truth: one table, one report, and differences between methods with error bars."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from retrodict._check import InputError
from retrodict._output import staged, stamp, write_file
from retrodict.data import Image, discover, read
from retrodict.metrics import coverage, psnr, rmse
from retrodict.metrics.bands import band_spread_skill
from retrodict.metrics.bootstrap import bootstrap, paired_bootstrap
from retrodict.metrics.frequency import nps, radial
from retrodict.metrics.ranks import rank_histogram, ranks
from retrodict.metrics.reliability import reliability_curve
from retrodict.metrics.response import perturbation_mtf
from retrodict.metrics.similarity import ssim
from retrodict.metrics.task import detectability, disc_spectrum
from retrodict.models.instrument import measure
from retrodict.models.model import open_model
from retrodict.processes.process import Process
from retrodict.tasks.restore import restore

__all__ = ["METRICS", "Evaluation", "EvaluationConfig", "Method", "check_folder", "evaluate", "load_evaluation"]


Watch = Callable[[str, int, int], None]


METRICS: dict[str, tuple[str, str]] = {
    "rmse": ("RMSE", "root mean squared error, in the unit of the image"),
    "psnr": ("PSNR", "dB, for the stated data range"),
    "ssim": ("SSIM", "7 x 7 window, mean over slices"),
    "bias": ("bias", "root of the error of the mean, its share of K members taken off"),
    "spread": ("spread", "root mean variance of the ensemble"),
    "ssr": ("SSR", "error of the mean over spread, 1 is calibrated"),
    "cover68": ("in 68 %", "truth inside the central 68 % interval"),
    "cover95": ("in 95 %", "truth inside the central 95 % interval"),
    "noise_ratio": ("noise", "standard deviation in the uniform regions over that of the measured image"),
    "cnr": ("CNR", "contrast to noise of the stated disc"),
}
"""Columns of the table: short name and meaning; only those that can be had are shown."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(_Strict):
    """A method: a folder of results, or a model to run here.

    path: folder with NAME_mean, NAME_sd and NAME_sample-000 ... (as `retrodict restore` writes) or with NAME alone, a
    point estimate.  Without a path, `model` is run with `rule`, `steps` and `samples`.
    """

    name: str
    path: str | None = None
    model: str = "ct"
    rule: str = "matched"
    steps: int | None = Field(None, gt=0)
    samples: int = Field(8, ge=1)
    uncertainty: bool = True
    seed: int = 0


class Disc(_Strict):
    """A disc for the contrast-to-noise ratio, in pixels; the background is the ring from 1.5 to 2.5 radii."""

    row: float
    column: float
    radius: float = Field(gt=1)
    slice: int = 0


class Task(_Strict):
    """A low-contrast disc to detect: contrast in the unit of the image, radius in mm, positions (row, column) in px.

    For methods that are run here, the disc's image is added to the first measured image and restored with the same
    seeds: this gives the MTF of instrument and restoration, and with the NPS of the uniform regions d'.
    """

    contrast: float
    radius: float = Field(gt=0, description="mm")
    positions: list[tuple[float, float]] = Field(min_length=1)


class EvaluationConfig(_Strict):
    """What to compare: truth, measured images and methods; paths are relative to the file."""

    name: str = "evaluation"
    truth: list[str] = Field(min_length=1)
    measured: str | None = Field(None, description="folder or file of measured images, by the names of the truth")
    simulate: bool = Field(False, description="measure the truth with the instrument of the first model instead")
    methods: list[Method] = Field(min_length=1)
    reference: str | None = Field(None, description="method that the others are compared with (default: the first)")
    data_range: float | None = Field(None, gt=0, description="for PSNR and SSIM; 2000 for HU")
    uniform: list[tuple[int, int, int]] = Field(default_factory=list, description="row, column, size of regions")
    disc: Disc | None = None
    task: Task | None = Field(None, description="needs `uniform`, and methods that are run here")
    bands: int = Field(6, ge=2, le=32)
    bootstrap: int = Field(2000, ge=100)
    spacing: list[float] | None = None
    unit: str | None = None


@dataclass(frozen=True)
class _Result:
    """One method on one image; `samples` (K, *N) where they are kept."""

    kind: Literal["posterior", "point"]
    mean: Tensor
    sd: Tensor | None
    samples: Tensor | None
    count: int | None
    seconds: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was found: `record` (JSON), `rows` of the table by image and method, and pictures of one image."""

    record: dict[str, Any]
    rows: list[dict[str, Any]]
    pictures: dict[str, np.ndarray] = field(repr=False)

    def markdown(self) -> str:
        """The table of means with bands, as Markdown."""
        columns = self.record["columns"]
        lines = ["| method | " + " | ".join(METRICS[c][0] for c in columns) + " |"]
        lines.append("|---|" + "---:|" * len(columns))
        for m in self.record["methods"]:
            lines.append(f"| {m['name']} | " + " | ".join(_cell(m["summary"].get(c)) for c in columns) + " |")
        notes = [f"- {METRICS[c][0]}: {METRICS[c][1]}" for c in columns]
        images = self.record["images"]
        return "\n".join([*lines, "", f"Mean over {images} images, 95 % band (bootstrap over images).", "", *notes, ""])

    def save(self, out: str | Path, *, force: bool = False) -> list[Path]:
        """Write evaluation.json, table.csv, table.md and report.html into `out`: all of them, or none."""
        from retrodict.report.evaluation import render

        folder = check_folder(out, force=force)
        contents = {
            "evaluation.json": json.dumps(self.record, indent=1),
            "table.csv": self._csv(),
            "table.md": self.markdown(),
            "report.html": render(self.record, self.pictures, METRICS),
        }
        with staged(folder, "evaluation", force=True) as staging:
            for name, text in contents.items():
                write_file(staging / name, text.encode())
        return [folder / n for n in contents]

    def _csv(self) -> str:
        stream = io.StringIO()
        writer = csv.DictWriter(
            stream, ["image", "method", "kind", *METRICS, "seconds"], restval="", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows({k: v for k, v in row.items() if not k.startswith("_")} for row in self.rows)
        return stream.getvalue()


FILES = ("evaluation.json", "table.csv", "table.md", "report.html")


def check_folder(out: str | Path, *, force: bool = False) -> Path:
    """The folder that results go to; raises where they could not, so that one can look before the work."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "a file", "a folder for the results")
    taken = [folder / n for n in FILES if (folder / n).exists()]
    if taken and not force:
        raise InputError(taken[0], "a file of an earlier run", "a new output folder", "Use --force to replace it.")
    return folder


def load_evaluation(path: str | Path) -> tuple[EvaluationConfig, Path]:
    """Configuration and the folder that its paths are relative to; every error names file and field."""
    path = Path(path)
    try:
        record = yaml.safe_load(path.read_text())
        return EvaluationConfig.model_validate(record), path.resolve().parent
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a YAML evaluation") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(path, f"unreadable YAML ({str(error).splitlines()[0]})", "a YAML evaluation") from error
    except ValidationError as error:
        item = error.errors()[0]
        where = ".".join(str(p) for p in item["loc"]) or "evaluation"
        raise InputError(f"{path}: {where}", repr(item.get("input"))[:80], item["msg"]) from error


def evaluate(config: EvaluationConfig, base: Path | str = ".", *, watch: Watch | None = None) -> Evaluation:
    """Compare methods on images with known truth.

    Every metric is computed for each image; the table gives means over images with percentile-bootstrap bands, and
    differences to the reference method are paired by image.  SSR and coverage are refused for point estimates: they
    appear only where a method states a spread.
    """
    base = Path(base)
    truths = _truths(config, base)
    measured = _measured(config, base, truths)
    names = [m.name for m in config.methods]
    if len(set(names)) < len(names):
        raise InputError("methods", f"the names {names}", "different names")
    reference = config.reference or names[0]
    if reference not in names:
        raise InputError("reference", repr(reference), f"one of {', '.join(names)}")
    rows, kept = [], {}
    jobs = len(truths) * len(config.methods)
    for i, (name, truth) in enumerate(truths.items()):
        if measured:
            rows.append(_row(name, "measured", _point(measured[name]), truth, measured.get(name), config))
        for k, method in enumerate(config.methods):
            result = _result(method, name, truth, measured.get(name), base)
            rows.append(_row(name, method.name, result, truth, measured.get(name), config))
            if i == 0:
                kept[method.name] = result
            if watch is not None:
                watch(method.name, i * len(config.methods) + k + 1, jobs)
    record = _record(config, rows, truths, reference, bool(measured))
    if config.task is not None:
        _detect(config, config.task, record, next(iter(measured.values()), None), base)
    return Evaluation(record, rows, _pictures(truths, measured, kept))


# ---- what is compared --------------------------------------------------------------------------------------------


def _read(path: Path, config: EvaluationConfig) -> dict[str, Image]:
    spacing = None if config.spacing is None else tuple(config.spacing)
    if not path.exists():
        raise InputError(path, "nothing", "a file or a folder")
    options: dict[str, Any] = {"spacing": spacing, "unit": config.unit, "slices": "independent", "allow_gaps": True}
    return {s.name: read(s, **options, clip=False, expect=None) for s in discover(path)}


def _truths(config: EvaluationConfig, base: Path) -> dict[str, Image]:
    found: dict[str, Image] = {}
    for path in config.truth:
        for name, image in _read(base / path, config).items():
            if name in found:
                raise InputError(f"truth: {path}", f"a second image named {name!r}", "different names")
            found[name] = image
    if not found:
        raise InputError("truth", "no image", "at least one")
    return found


def _measured(config: EvaluationConfig, base: Path, truths: Mapping[str, Image]) -> dict[str, Image]:
    if config.simulate:
        if config.measured:
            raise InputError("simulate", "true beside measured images", "one of the two")
        model = open_model(_model(config.methods[0], base))
        return {n: _simulated(t, model, i) for i, (n, t) in enumerate(truths.items())}
    if config.measured is None:
        return {}
    images = _read(base / config.measured, config)
    return {n: _named(images, n, t, config.measured) for n, t in truths.items()}


def _simulated(truth: Image, model: Any, index: int) -> Image:
    if truth.values.ndim == 3:
        return measure(truth, model, seed=index)
    flat = Image(truth.values[:, 0], truth.unit, truth.spacing[-2:], truth.format, truth.source)
    slices = [measure(flat.with_values(v[None]), model, seed=1000 * index + z) for z, v in enumerate(truth.values[0])]
    return truth.with_values(torch.stack([s.values[0] for s in slices])[None])


def _named(images: Mapping[str, Image], name: str, truth: Image, where: str) -> Image:
    """Image `name` of a folder, also as NAME-measured or NAME_measured, on the grid of the truth."""
    candidates = (name, f"{name}-measured", f"{name}_measured")
    image = next((images[c] for c in candidates if c in images), None)
    if image is None and len(images) == 1:
        image = next(iter(images.values()))
    if image is None:
        raise InputError(f"measured: {where}", f"no image named {name!r}", f"one of {', '.join(sorted(images)[:5])}")
    return _like(image, truth, where)


def _like(image: Image, truth: Image, where: str) -> Image:
    if image.values.shape != truth.values.shape:
        raise InputError(where, f"shape {tuple(image.values.shape)}", f"that of the truth, {tuple(truth.values.shape)}")
    if image.unit != truth.unit:
        raise InputError(where, f"unit {image.unit!r}", f"{truth.unit!r}, the unit of the truth")
    return image


def _model(method: Method, base: Path) -> str | Path:
    path = base / method.model
    return path if path.with_suffix(".json").exists() else method.model


def _result(method: Method, name: str, truth: Image, measured: Image | None, base: Path) -> _Result:
    return _run(method, name, measured, base) if method.path is None else _load(method, name, truth, base)


def _run(method: Method, name: str, measured: Image | None, base: Path) -> _Result:
    if measured is None:
        raise InputError(f"methods.{method.name}", "no measured image", "measured images, or simulate: true")
    found = restore(
        measured,
        model=_model(method, base),
        rule=method.rule,
        steps=method.steps,
        samples=method.samples,
        seed=method.seed,
        uncertainty=method.uncertainty,
        keep_samples=method.uncertainty,
    )
    samples = torch.stack([s.values[0] for s in found.samples]) if found.samples else None
    sd = None if found.sd is None else found.sd.values[0]
    kind: Literal["posterior", "point"] = "point" if sd is None else "posterior"
    return _Result(kind, found.mean.values[0], sd, samples, method.samples if sd is not None else None,
                   found.details["seconds"])  # fmt: skip


def _load(method: Method, name: str, truth: Image, base: Path) -> _Result:
    folder = base / str(method.path)
    where = f"methods.{method.name}: {folder}"
    if not folder.is_dir():
        raise InputError(where, "no such folder", "a folder of results")
    stems = {s.name: s for s in discover(folder)}
    values = {n: read(s, slices="independent", allow_gaps=True, clip=False, expect=None, unit=truth.unit,
                      spacing=truth.spacing[-2:] if s.format in ("png", "npz", "tiff") else None)
              for n, s in stems.items() if n == name or n.startswith((f"{name}_", f"{name}-measured_"))}  # fmt: skip

    def part(role: str) -> Tensor | None:
        image = next((v for n, v in values.items() if n.endswith(f"_{role}")), None)
        return None if image is None else _like(image, truth, f"{where}/{name}_{role}").values[0]

    mean = part("mean")
    if mean is None:
        if name not in values:
            raise InputError(where, f"nothing named {name} or {name}_mean", f"results of the image {name}")
        return _point(_like(values[name], truth, where))
    members = [v for n, v in sorted(values.items()) if "_sample-" in n]
    samples = torch.stack([_like(m, truth, where).values[0] for m in members]) if len(members) > 1 else None
    sd = part("sd")
    details = _details(folder, name)
    if details.get("kind") == "point" or sd is None:
        return _Result("point", mean, None, None, None, details.get("seconds"))
    count = details.get("sampling", {}).get("members") or (len(members) if samples is not None else None)
    return _Result("posterior", mean, sd, samples, count, details.get("seconds"))


def _details(folder: Path, name: str) -> dict[str, Any]:
    """The record that `retrodict restore` writes beside its images, where it is there."""
    paths = [*folder.glob(f"{name}_restore.json"), *folder.glob(f"{name}-measured_restore.json")]
    return json.loads(paths[0].read_text()) if paths else {}


def _point(image: Image) -> _Result:
    return _Result("point", image.values[0], None, None, None)


# ---- figures of one image ----------------------------------------------------------------------------------------


def _slices(values: Tensor) -> Tensor:
    """(Z, H, W)."""
    return values if values.ndim == 3 else values[None]


def _row(
    name: str, method: str, result: _Result, truth: Image, measured: Image | None, config: EvaluationConfig
) -> dict[str, Any]:
    t = truth.values[0].double()
    mean = result.mean.double()
    row: dict[str, Any] = {"image": name, "method": method, "kind": result.kind, "rmse": rmse(mean, t)}
    limit = config.data_range or (2000.0 if truth.unit == "HU" else None)
    if limit is not None:
        row["psnr"] = psnr(mean, t, data_range=limit)
        row["ssim"] = ssim(_slices(mean), _slices(t), data_range=limit)
    if result.seconds is not None:
        row["seconds"] = result.seconds
    if result.sd is not None:
        row |= _spread(result, t, truth, config)
    if measured is not None and config.uniform:
        row |= _uniform(mean, measured, truth, config)
    if config.disc is not None:
        row["cnr"] = _contrast(mean, config.disc)
    return row


def _spread(result: _Result, t: Tensor, truth: Image, config: EvaluationConfig) -> dict[str, Any]:
    assert result.sd is not None
    variance = result.sd.double().square()
    count = result.count
    share = 1 / count if count else 0.0
    error, spread = float((result.mean.double() - t).square().mean()), float(variance.mean())
    if spread <= 0:
        raise InputError("sd", "a stated deviation of zero everywhere", "a posterior, or a point estimate without sd")
    levels = coverage(result.mean, result.sd, t, (0.68, 0.95), count=count).tolist()
    row: dict[str, Any] = {
        "bias": math.sqrt(max(error - spread * share, 0.0)),
        "spread": math.sqrt(spread),
        "ssr": math.sqrt(error / ((1 + share) * spread)),
        "cover68": levels[0],
        "cover95": levels[1],
        "_error": error,
        "_spread": (1 + share) * spread,
        "_levels": coverage(result.mean, result.sd, t, _LEVELS, count=count).tolist(),
    }
    if result.samples is None:
        return row
    samples = result.samples.double()
    stack = samples if samples.ndim == 4 else samples[:, None]
    pixel = (float(truth.spacing[-2]), float(truth.spacing[-1]))
    bands = band_spread_skill(stack, _slices(t), pixel, config.bands, bootstrap=100)
    row["_bands"] = {"low": bands.frequency_low.tolist(), "high": bands.frequency_high.tolist(),
                     "skill": bands.skill.tolist(), "spread": bands.spread.tolist()}  # fmt: skip
    row["_ranks"] = _rank_counts(stack, _slices(t))
    if len(samples) >= 4 and bool((samples.var(0) > 0).all()):  # constant pixels, as outside of a field of view
        curve = reliability_curve(stack, _slices(t), bins=8)
        row["_reliability"] = {"predicted": curve.predicted.tolist(), "observed": curve.observed.tolist()}
    return row


_LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))


_STRIDE = 8


def _rank_counts(samples: Tensor, truth: Tensor) -> list[int]:
    """Ranks of the truth at every 8th pixel (neighbors are not independent), as counts 0 ... K."""
    found = ranks(samples[..., ::_STRIDE, ::_STRIDE], truth[..., ::_STRIDE, ::_STRIDE]).flatten()
    return torch.bincount(found.long(), minlength=len(samples) + 1).tolist()


def _uniform(mean: Tensor, measured: Image, truth: Image, config: EvaluationConfig) -> dict[str, Any]:
    stacks = [_slices(v.double()) for v in (mean, measured.values[0])]
    fields = []
    for stack in stacks:
        parts = [z[r : r + s, c : c + s] for z in stack for r, c, s in config.uniform]
        if any(p.shape != (s, s) for p, s in zip(parts, [s for _, _, s in config.uniform] * len(stack), strict=True)):
            raise InputError("uniform", config.uniform, f"row, column, size within {tuple(stack.shape[1:])}")
        fields.append(torch.stack(parts))
    pixel = (float(truth.spacing[-2]), float(truth.spacing[-1]))
    spectra = [radial(nps(f, pixel), pixel, fields[0].shape[-1] // 2) for f in fields]
    deviation = [float((f - f.mean((-2, -1), keepdim=True)).square().mean().sqrt()) for f in fields]
    curve = {"frequency": spectra[0][0].tolist(), "value": spectra[0][1].tolist()}
    return {"noise_ratio": deviation[0] / deviation[1], "_nps": curve}


def _contrast(mean: Tensor, disc: Disc) -> float:
    plane = _slices(mean)[disc.slice]
    rows = torch.arange(plane.shape[0], dtype=torch.float64)[:, None] - disc.row
    columns = torch.arange(plane.shape[1], dtype=torch.float64)[None] - disc.column
    r = torch.hypot(rows, columns)
    inside, ring = r <= disc.radius, (r >= 1.5 * disc.radius) & (r <= 2.5 * disc.radius)
    if int(inside.sum()) < 5 or int(ring.sum()) < 10:
        raise InputError("disc", disc.model_dump(), "a disc and a ring around it inside the image")
    return float((plane[inside].mean() - plane[ring].mean()).abs() / plane[ring].std())


def _detect(config: EvaluationConfig, task: Task, record: dict[str, Any], measured: Image | None, base: Path) -> None:
    """Add MTF by perturbation and d' to the record of every method that is run here."""
    if measured is None or measured.values.ndim != 3 or not config.uniform:
        found = "no 2-D measured image" if measured is None or measured.values.ndim != 3 else "no uniform regions"
        raise InputError("task", found, "measured 2-D images and `uniform` regions for the noise")
    pixel = (float(measured.spacing[-2]), float(measured.spacing[-1]))
    for method in (m for m in config.methods if m.path is None):
        entry = next(m for m in record["methods"] if m["name"] == method.name)
        process = open_model(_model(method, base)).denoiser.process.on(measured.values.shape[1:])
        assert process.measurement is not None

        def restored(values: Tensor, method: Method = method) -> Tensor:
            image = measured.with_values(values[None].float())
            return _run(method, "task", image, base).mean

        def blurred(values: Tensor, process: Process = process) -> Tensor:
            assert process.measurement is not None
            return process.basis.inverse(process.measurement.h * process.basis.forward(values))

        found = perturbation_mtf(restored, measured.values[0], pixel, blur=blurred, contrast=task.contrast,
                                 radius=task.radius, positions=task.positions)  # fmt: skip
        noise = entry["nps"]
        level = np.interp(found.frequency.numpy(), noise["frequency"], noise["value"])
        spectrum = disc_spectrum(found.frequency, task.contrast, task.radius)
        curves = (found.value, found.lower, found.upper)
        seen, low, high = (
            detectability(found.frequency, spectrum, c.clamp_min(0.0), torch.from_numpy(level)) for c in curves
        )
        entry["task"] = {"contrast": task.contrast, "radius_mm": task.radius, "frequency": found.frequency.tolist(),
                         "mtf": found.value.tolist(), "lower": found.lower.tolist(), "upper": found.upper.tolist(),
                         "d_npw": seen.npw, "d_hotelling": seen.hotelling,
                         "d_npw_band": sorted((low.npw, high.npw)),
                         "d_hotelling_band": sorted((low.hotelling, high.hotelling))}  # fmt: skip


# ---- over all images ---------------------------------------------------------------------------------------------


def _record(
    config: EvaluationConfig, rows: list[dict[str, Any]], truths: Mapping[str, Image], reference: str, measured: bool
) -> dict[str, Any]:
    names = (["measured"] if measured else []) + [m.name for m in config.methods]
    methods = [_summary(n, [r for r in rows if r["method"] == n], config) for n in names]
    columns = [c for c in METRICS if any(c in m["summary"] for m in methods)]
    first = next(iter(truths.values()))
    return {
        "format": "retrodict-evaluation-1",
        "name": config.name,
        "images": len(truths),
        "names": list(truths),
        "unit": first.unit,
        "columns": columns,
        "reference": reference,
        "methods": methods,
        "differences": _differences(names, reference, rows, config),
        "config": config.model_dump(),
        **stamp(),
    }


def _summary(name: str, rows: list[dict[str, Any]], config: EvaluationConfig) -> dict[str, Any]:
    """Means with bands of one method, and its pooled curves."""
    summary: dict[str, Any] = {}
    for column in METRICS:
        values = [r[column] for r in rows if column in r]
        if values:
            pooled = _pooled_ssr(rows, config) if column == "ssr" else None
            summary[column] = pooled or _mean(values, config)
    out: dict[str, Any] = {"name": name, "kind": rows[0]["kind"], "summary": summary}
    stated = [r for r in rows if "_levels" in r]
    if stated:
        out["coverage"] = {"nominal": list(_LEVELS), "observed": np.mean([r["_levels"] for r in stated], 0).tolist()}
    out |= _pooled_curves(rows)
    return out


def _mean(values: Sequence[float], config: EvaluationConfig) -> dict[str, float | None]:
    data = torch.tensor(values, dtype=torch.float64)
    if len(data) < 3:  # a bootstrap of two is no error bar
        return {"value": float(data.mean()), "lower": None, "upper": None}
    band = bootstrap(data, lambda x: x.mean(0), seed=0, count=config.bootstrap)
    return {"value": float(data.mean()), "lower": float(band.lower), "upper": float(band.upper)}


def _pooled_ssr(rows: list[dict[str, Any]], config: EvaluationConfig) -> dict[str, float | None]:
    """Root of summed error over summed spread: a mean of ratios would not be 1 for a calibrated ensemble."""
    pair = torch.tensor([[r["_error"], r["_spread"]] for r in rows if "_error" in r], dtype=torch.float64)
    value = math.sqrt(float(pair[:, 0].sum() / pair[:, 1].sum()))
    if len(pair) < 3:
        return {"value": value, "lower": None, "upper": None}
    band = bootstrap(pair, lambda x: (x[..., 0].sum(0) / x[..., 1].sum(0)).sqrt(), seed=0, count=config.bootstrap)
    return {"value": value, "lower": float(band.lower), "upper": float(band.upper)}


def _pooled_curves(rows: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    bands = [r["_bands"] for r in rows if "_bands" in r]
    if bands:
        skill, spread = (np.sum([b[k] for b in bands], 0) for k in ("skill", "spread"))
        count = max(len(r["_ranks"]) - 1 for r in rows if "_ranks" in r)
        ratio = np.sqrt(skill / ((1 + 1 / count) * spread))
        out["bands"] = {"low": bands[0]["low"], "high": bands[0]["high"], "ssr": ratio.tolist()}
    counts = [r["_ranks"] for r in rows if "_ranks" in r]
    if counts:
        total = np.sum(counts, 0)
        flat = torch.repeat_interleave(torch.arange(len(total)), torch.tensor(total))
        found = rank_histogram(flat, len(total) - 1)
        out["ranks"] = {"counts": total.tolist(), "p_value": found.p_value, "stride": _STRIDE}
    curves = [r["_reliability"] for r in rows if "_reliability" in r]
    if curves:
        out["reliability"] = {k: np.mean([c[k] for c in curves], 0).tolist() for k in ("predicted", "observed")}
    spectra = [r["_nps"] for r in rows if "_nps" in r]
    if spectra:
        out["nps"] = {"frequency": spectra[0]["frequency"], "value": np.mean([s["value"] for s in spectra], 0).tolist()}
    return out


def _differences(
    names: list[str], reference: str, rows: list[dict[str, Any]], config: EvaluationConfig
) -> list[dict[str, Any]]:
    """Method minus reference, paired by image, for every metric that both have."""
    table = {(r["image"], r["method"]): r for r in rows}
    images = list(dict.fromkeys(r["image"] for r in rows))
    out = []
    for name in names:
        for column in METRICS if name != reference else ():
            pairs = [(table[i, name].get(column), table[i, reference].get(column)) for i in images]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            if len(both) < 3:
                continue
            a, b = (torch.tensor(v, dtype=torch.float64) for v in zip(*both, strict=True))
            found = paired_bootstrap(a, b, seed=0, count=config.bootstrap)
            out.append({"method": name, "metric": column, "difference": float(found.value), "lower": float(found.lower),
                        "upper": float(found.upper), "p_value": float(found.p_value), "images": len(both)})  # fmt: skip
    return out


def _cell(value: dict[str, float | None] | None) -> str:
    if value is None or value["value"] is None:
        return ""
    text = f"{value['value']:.3g}" if abs(value["value"]) < 1000 else f"{value['value']:.0f}"
    return text if value["lower"] is None else f"{text} [{value['lower']:.3g}, {value['upper']:.3g}]"


def _pictures(
    truths: Mapping[str, Image], measured: Mapping[str, Image], kept: Mapping[str, _Result]
) -> dict[str, np.ndarray]:
    """Middle slices of the first image: truth, measured, and mean and deviation of every method."""
    name, truth = next(iter(truths.items()))

    def middle(values: Tensor) -> np.ndarray:
        stack = _slices(values)
        return stack[len(stack) // 2].float().numpy()

    out = {"truth": middle(truth.values[0])}
    if name in measured:
        out["measured"] = middle(measured[name].values[0])
    for method, result in kept.items():
        out[f"mean:{method}"] = middle(result.mean)
        if result.sd is not None:
            out[f"sd:{method}"] = middle(result.sd)
    return out
