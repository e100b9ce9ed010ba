"""Judging restorations against the truth: one table, one report, and differences between methods with error bars."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError, visible
from retrodict._output import staged, stamp, write_file
from retrodict.data import Image
from retrodict.metrics.response import perturbation_mtf
from retrodict.metrics.task import detectability, disc_spectrum
from retrodict.tasks.evaluate_methods import (
    EvaluationConfig,
    Method,
    Result,
    Task,
    instrument_of,
    measured_images,
    point,
    result_of,
    run,
    true_images,
)
from retrodict.tasks.evaluate_metrics import METRICS, Judged, case_of, differences, judge, stacked, summary
from retrodict.tasks.patients import patients_of

__all__ = ["Evaluation", "check_folder", "evaluate"]


Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What was found: `record` (JSON), `rows` of the table by image and method, and pictures of one image."""

    record: dict[str, Any]
    rows: list[dict[str, Any]]
    pictures: dict[str, np.ndarray] = field(repr=False)

    def markdown(self) -> str:
        """The table of means with bands, as Markdown."""
        columns = self.record["columns"]
        lines = ["| method | " + " | ".join(METRICS[c].title for c in columns) + " |"]
        lines.append("|---|" + "---:|" * len(columns))
        for m in self.record["methods"]:
            lines.append(
                f"| {_in_table(m['name'])} | " + " | ".join(_cell(m["summary"].get(c)) for c in columns) + " |"
            )
        notes = [f"- {METRICS[c].title}: {METRICS[c].meaning}" for c in columns]
        counted = f"{self.record['who']}. {ITEMS[self.record['items']]}"
        return "\n".join([*lines, "", counted, "", *notes, ""])

    def save(self, out: str | Path, *, force: bool = False) -> list[Path]:
        """Write evaluation.json, table.csv, table.md and report.html into `out`: all of them, or none."""
        from retrodict.report.evaluation import render

        folder = check_folder(out, force=force)
        words = {name: (metric.title, metric.meaning) for name, metric in METRICS.items()}
        contents = {
            "evaluation.json": json.dumps(self.record, indent=1),
            "table.csv": self._csv(),
            "table.md": self.markdown(),
            "report.html": render(self.record, self.pictures, words),
        }
        with staged(folder, "evaluation", force=True) as staging:
            for name, text in contents.items():
                write_file(staging / name, text.encode())
        return [folder / n for n in contents]

    def _csv(self) -> str:
        stream = io.StringIO()
        columns = ["image", "patient", "slices", "method", "kind", "members", *METRICS, "seconds"]
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return stream.getvalue()


ITEMS = {
    "patients": "Images are averaged within a patient, then over patients: mean ± standard deviation between patients, "
    "95 % band of the mean over patients (from 3 on).",
    "images": "Mean ± standard deviation between images, 95 % band of the mean over images (from 3 on); images of one "
    "patient are not independent: tell patients apart to have bands over patients.",
}
"""What scatter and band stand for."""


def who(images: int, slices: int, patients: int | None) -> str:
    """How much was looked at: "6 images (12 slices) of 3 patients"."""
    text = f"{_count(images, 'image')} ({_count(slices, 'slice')})"
    return f"{text}; patients: not told" if patients is None else f"{text} of {_count(patients, 'patient')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


FILES = ("evaluation.json", "table.csv", "table.md", "report.html")


def check_folder(out: str | Path, *, force: bool = False, files: Sequence[str] = FILES) -> Path:
    """The folder that results (`files`) go to; raises where they could not, so that one can look before the work."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "a file", "a folder for the results")
    taken = [folder / n for n in files if (folder / n).exists()]
    if taken and not force:
        raise InputError(
            taken[0], "a file of an earlier run", "a new output folder", "Use {force} to replace it.", force=True
        )
    return folder


def evaluate(config: EvaluationConfig, base: Path | str = ".", *, watch: Watch | None = None) -> Evaluation:
    """Compare methods on images with known truth.

    Every metric is computed for each image and averaged within a patient where patients are told (`config.patients`);
    the table gives means over patients, their standard deviation and number, and bands over patients.  Where they are
    not told, images take their place and the record says so.  Differences to the reference are paired likewise.  SSR
    and coverage are refused for point estimates: they appear only where a method states a spread.
    """
    base = Path(base)
    truths = true_images(config, base)
    measured = measured_images(config, base, truths)
    reference = _reference(config)
    patients = patients_of(truths, config.patients)
    judged: list[Judged] = []
    kept: dict[str, Result] = {}
    jobs = len(truths) * len(config.methods)
    for i, (name, truth) in enumerate(truths.items()):
        seen = measured.get(name)
        if seen is not None:
            judged.append(_judged(name, "measured", point(seen), truth, seen, config, patients))
        for k, method in enumerate(config.methods):
            result = result_of(method, name, truth, seen, base)
            judged.append(_judged(name, method.name, result, truth, seen, config, patients))
            if i == 0:
                kept[method.name] = result
            if watch is not None:
                watch(method.name, i * len(config.methods) + k + 1, jobs)
    record = _record(config, judged, truths, reference, bool(measured), patients)
    if config.task is not None:
        _detect(config, config.task, record, next(iter(measured.values()), None), base)
    return Evaluation(record, [j.row for j in judged], _pictures(truths, measured, kept))


def _reference(config: EvaluationConfig) -> str:
    """The method that the others are compared with."""
    names = [m.name for m in config.methods]
    if len(set(names)) < len(names):
        raise InputError("methods", f"the names {names}", "different names")
    reference = config.reference or names[0]
    if reference not in names:
        raise InputError("reference", repr(reference), f"one of {', '.join(names)}")
    return reference


def _judged(
    name: str,
    method: str,
    result: Result,
    truth: Image,
    measured: Image | None,
    config: EvaluationConfig,
    patients: Mapping[str, str] | None,
) -> Judged:
    patient = None if patients is None else patients[name]
    return judge(name, method, result, case_of(result, truth, measured, config), patient)


def _record(
    config: EvaluationConfig,
    judged: list[Judged],
    truths: Mapping[str, Image],
    reference: str,
    measured: bool,
    patients: Mapping[str, str] | None,
) -> dict[str, Any]:
    names = (["measured"] if measured else []) + [m.name for m in config.methods]
    methods = [summary(n, [j for j in judged if j.row["method"] == n], config.bootstrap) for n in names]
    for entry in methods:  # what was found behind mean and deviation, whoever made it
        found = {j.row.get("members") for j in judged if j.row["method"] == entry["name"]}
        entry["members"] = sorted(m for m in found if m is not None)
    columns = [c for c in METRICS if any(c in m["summary"] for m in methods)]
    first = next(iter(truths.values()))
    slices = sum(len(stacked(t.values[0])) for t in truths.values())
    known = None if patients is None else len(set(patients.values()))
    return {
        "format": "retrodict-evaluation-1",
        "name": config.name,
        "images": len(truths),
        "slices": slices,
        "patients": known,
        "who": who(len(truths), slices, known),
        "items": "images" if patients is None else "patients",
        "names": list(truths),
        "unit": first.unit,
        "columns": columns,
        "reference": reference,
        "methods": methods,
        "differences": differences(names, reference, [j.row for j in judged], config.bootstrap),
        "config": config.model_dump(),
        **stamp(),
    }


def _detect(config: EvaluationConfig, task: Task, record: dict[str, Any], measured: Image | None, base: Path) -> None:
    """Add MTF by perturbation and d' to the record of every method that is run here."""
    if measured is None or measured.values.ndim != 3 or not config.uniform:
        found = "no 2-D measured image" if measured is None or measured.values.ndim != 3 else "no uniform regions"
        raise InputError("task", found, "measured 2-D images and `uniform` regions for the noise")
    for method in (m for m in config.methods if m.path is None):
        entry = next(m for m in record["methods"] if m["name"] == method.name)
        entry["task"] = _detected(method, task, entry["nps"], measured, base)


def _detected(method: Method, task: Task, noise: dict[str, Any], measured: Image, base: Path) -> dict[str, Any]:
    """Response and detectability of one method, with the noise of its uniform regions."""

    def restored(values: Tensor) -> Tensor:
        return run(method, "task", measured.with_values(values[None].float()), base).mean

    pixel = (float(measured.spacing[-2]), float(measured.spacing[-1]))
    found = perturbation_mtf(restored, measured.values[0], pixel, blur=_blur(method, measured, base),
                             contrast=task.contrast, radius=task.radius, positions=task.positions)  # fmt: skip
    level = torch.from_numpy(np.interp(found.frequency.numpy(), noise["frequency"], noise["value"]))
    spectrum = disc_spectrum(found.frequency, task.contrast, task.radius)
    curves = (found.value, found.lower, found.upper)
    seen, low, high = (detectability(found.frequency, spectrum, c.clamp_min(0.0), level) for c in curves)
    return {"contrast": task.contrast, "radius_mm": task.radius, "frequency": found.frequency.tolist(),
            "mtf": found.value.tolist(), "lower": found.lower.tolist(), "upper": found.upper.tolist(),
            "d_npw": seen.npw, "d_hotelling": seen.hotelling,
            "d_npw_band": sorted((low.npw, high.npw)),
            "d_hotelling_band": sorted((low.hotelling, high.hotelling))}  # fmt: skip


def _blur(method: Method, measured: Image, base: Path) -> Callable[[Tensor], Tensor]:
    """The blur of the instrument that a method assumes, on the grid of an image."""
    process = instrument_of(method, measured, base).denoiser.process.on(measured.values.shape[1:])
    law = process.measurement
    if law is None:
        found = "a model without a measurement law"
        raise InputError(f"methods.{method.name}", found, "one trained for a measured MTF and NPS")
    return lambda values: process.basis.inverse(law.h * process.basis.forward(values))


def _in_table(name: str) -> str:
    """A name as a cell of a Markdown table."""
    return visible(name).replace("|", r"\|")


def _cell(value: dict[str, float | None] | None) -> str:
    if value is None or value["value"] is None:
        return ""
    text = f"{value['value']:.3g}" if abs(value["value"]) < 1000 else f"{value['value']:.0f}"
    text += "" if value.get("sd") is None else f" ± {value['sd']:.2g}"
    return text if value["lower"] is None else f"{text} [{value['lower']:.3g}, {value['upper']:.3g}]"


def _pictures(
    truths: Mapping[str, Image], measured: Mapping[str, Image], kept: Mapping[str, Result]
) -> dict[str, np.ndarray]:
    """Middle slices of the first image: truth, measured, and mean and deviation of every method."""
    name, truth = next(iter(truths.items()))

    def middle(values: Tensor) -> np.ndarray:
        stack = stacked(values)
        return stack[len(stack) // 2].float().numpy()

    out = {"truth": middle(truth.values[0])}
    if name in measured:
        out["measured"] = middle(measured[name].values[0])
    for method, result in kept.items():
        out[f"mean:{method}"] = middle(result.mean)
        if result.sd is not None:
            out[f"sd:{method}"] = middle(result.sd)
    return out
