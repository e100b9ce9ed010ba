"""What the verdict of a restoration catches and what it does not: false and missed alarms on CT of held-out patients.

    python benchmarks/verdict.py [--data ../shared/data] [--record] [--quick]

--record measures the held-out patients with the instrument of the shipped model and stores their numbers with it (the
field `held_out` of its JSON).  Without it the table is made: right inputs, wrong ones, and real images at their own
noise.  Each is judged before the sampling, as `retrodict restore` does, with intervals from the *other* patients; some
are sampled too, and judged after it.  Images are 128 x 128 at 1 mm; larger ones are judged by the same intervals.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from retrodict._check import InputError
from retrodict.data import Image, read
from retrodict.data.resample import resample_axes
from retrodict.models.model import Model, open_model
from retrodict.processes.observation import noise_like
from retrodict.samplers.ensemble import SamplingOptions
from retrodict.samplers.misfit import bands_of
from retrodict.tasks.examine import Examination, judged
from retrodict.tasks.held_out import Row, center, record_of, rows_of
from retrodict.tasks.plausible import implausible
from retrodict.tasks.verdict import Verdict

RESULTS = Path(__file__).parent / "results" / "verdict.json"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "concepts-calibration.md"
MODEL = Path(str(resources.files("retrodict") / "assets" / "ct-fourier.json"))
FOLDERS = (
    "ct_tcga_lung", "ct_nysbu_chest", "ct_sts_extremity", "ct_liver_lung_tcia3", "ct_kernel_pairs_lungdx",
)  # fmt: skip
PER_PATIENT = 2


# ---- the images --------------------------------------------------------------------------------------------------


def patients(data: Path) -> dict[str, list[Tensor]]:
    """Axial slices `(1, H, W)` of the validation patients in HU at 1 mm, two of each, cut to their middle."""
    found: dict[str, list[Tensor]] = {}
    for folder in FOLDERS:
        rows = csv.DictReader((data / folder / "index.csv").open(encoding="utf-8"))
        mine: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            if row["split"] == "validation" and row.get("orientation", "axial") == "axial":
                mine.setdefault(row["patient"], []).append(row)
        for name, of_one in mine.items():
            places = np.linspace(0, len(of_one) - 1, min(PER_PATIENT, len(of_one))).astype(int)
            found[name] = [center(_slice(data / folder, of_one[k])) for k in places]
    return found


def _slice(folder: Path, row: dict[str, str]) -> Tensor:
    values = np.load(folder / row["file"], allow_pickle=False)[row["key"]][int(row["index"])].astype(np.float32)
    return resample_axes(torch.from_numpy(values)[None], json.loads(row["pixel_spacing_mm"]), (1.0, 1.0))[0]


def measured(
    x: Tensor, model: Model, seed: int, *, noise: float = 1.0, white: bool = False, wider: float = 0.0
) -> Tensor:
    """HU measured by an instrument like that of the model: noise times `noise`, white of the same variance, or blurred
    by `wider` mm FWHM more (less where it is negative, as far as the instrument blurs at all).
    """
    x0 = model.intensity.encode(x[None])
    process = model.denoiser.process.on(tuple(x0.shape[2:]))
    basis, law = process.basis, process.measurement
    assert law is not None
    sigma = 2 * math.pi**2 * (abs(wider) / 2.3548) ** 2
    h = law.h * torch.exp(-sigma * basis.radius() ** 2 * math.copysign(1, wider))
    h = h.clamp(max=1.0) if wider < 0 else h
    s2 = law.s2
    if white:
        weight = basis.multiplicity()
        s2 = ((s2 * weight).sum() / weight.sum()).expand(s2.shape)
    z = basis.forward(noise_like(x0, torch.tensor([seed]), "measurement", 0))
    y = basis.inverse(h.float() * basis.forward(x0) + noise * s2.sqrt().float() * z)
    return model.intensity.decode(y)[0]


def half(x: Tensor, model: Model, seed: int) -> Tensor:
    """Noise 0.8 times as strong in one half and 1.2 times in the other."""
    parts = [measured(x, model, seed, noise=n) for n in (0.8, 1.2)]
    width = x.shape[-1] // 2
    return torch.cat([parts[0][..., :width], parts[1][..., width:]], -1)


def clipped(x: Tensor, model: Model, seed: int) -> Tensor:
    """As a scanner stores it: nothing below -1024 HU."""
    return measured(x, model, seed).clamp(min=-1024)


WRONG = {
    "noise x 1.3": lambda x, m, s: measured(x, m, s, noise=1.3),
    "noise x 0.7": lambda x, m, s: measured(x, m, s, noise=0.7),
    "noise x 1.1": lambda x, m, s: measured(x, m, s, noise=1.1),
    "noise x 0.9": lambda x, m, s: measured(x, m, s, noise=0.9),
    "white noise of the same variance": lambda x, m, s: measured(x, m, s, white=True),
    "noise x 0.8 in one half, x 1.2 in the other": half,
    "clean CT as it is": lambda x, m, s: x,
    "stored values (HU + 1024) as HU": lambda x, m, s: measured(x, m, s) + 1024,
    "clean stored values as HU": lambda x, m, s: x + 1024,
    "window of 0 to 255 as HU": lambda x, m, s: ((x + 160) / 400).clamp(0, 1).mul(255).round(),
    "clipped at -1024 HU": clipped,
    "MTF 0.5 mm wider": lambda x, m, s: measured(x, m, s, wider=0.5),
    "MTF 1 mm wider": lambda x, m, s: measured(x, m, s, wider=1.0),
    "MTF 0.5 mm narrower": lambda x, m, s: measured(x, m, s, wider=-0.5),
    "MTF 1 mm narrower": lambda x, m, s: measured(x, m, s, wider=-1.0),
}
"""Inputs that do not fit, each a function of (HU, model, seed)."""


def microscope(data: Path) -> Iterator[tuple[str, Tensor]]:
    """Microscope images called HU: 8 bit, the same stretched to 16 bit, and raw 16 bit counts."""
    nuclei = np.load(data / "micro_nuclei_bbbc038" / "validation.npz", allow_pickle=False)["g256"]
    for k, values in enumerate(nuclei[:4].astype(np.float32)):
        yield f"nuclei {k}", center(torch.from_numpy(values)[None])
        yield f"nuclei {k}", center(torch.from_numpy(values * 257)[None])
    for path in sorted((data / "micro_confocal_lysosome").glob("*.npz"))[:6]:
        loaded = np.load(path, allow_pickle=False)
        stack = next(loaded[k] for k in loaded.files if loaded[k].ndim >= 3)
        yield path.stem, center(torch.from_numpy(stack.reshape(-1, *stack.shape[-2:])[0].astype(np.float32))[None])


def real(data: Path, slices: dict[str, list[Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Images that a scanner made, at their own noise."""
    for name, images in slices.items():
        yield name, images[0]
    for path in sorted((data / "ct_head_ge").glob("*.dcm"))[::4]:
        image = read(path)
        yield f"ct_head_ge {path.stem}", center(resample_axes(image.values, image.spacing, (1.0, 1.0))[0])
    phantom = np.load(data / "ct_headphantom_philips" / "head_phantom_5mm_hu.npz", allow_pickle=False)
    volume = next(phantom[k] for k in phantom.files if phantom[k].ndim == 3)
    for z in (8, 18):
        yield f"phantom {z}", center(torch.from_numpy(volume[z].astype(np.float32))[None])


# ---- judging -----------------------------------------------------------------------------------------------------


def judge(values: Tensor, model: Model) -> tuple[str, str]:
    """("posterior", "warning", "point" or "refused") and the text, before the sampling."""
    image = Image(values, "HU", (1.0, 1.0), "npz", ())
    try:
        strange = implausible(image, model, "image")
    except InputError as error:
        return "refused", str(error)
    examination = Examination(model, model.intensity.encode(values[None]), warnings=strange)
    examination.before()
    return _kind(examination.verdict("posterior", False))


def sampled(values: Tensor, model: Model) -> tuple[str, str]:
    """The verdict of a whole restoration with two members."""
    image, y = Image(values, "HU", (1.0, 1.0), "npz", ()), model.intensity.encode(values[None])
    options = SamplingOptions(samples=2)
    return _kind(judged(image, image, y, model, options, "image", model.intensity.decode)[1])


def _kind(verdict: Verdict) -> tuple[str, str]:
    if verdict.kind == "point":
        return "point", verdict.text
    return ("warning" if verdict.warnings else "posterior"), verdict.text


def without(rows: dict[str, list[Row]], name: str, model: Model) -> Model:
    """The model with the record of all patients but one."""
    record = record_of([r for n, r in rows.items() if n != name], bands_of(model.denoiser).edges)
    assert record is not None
    return replace(model, spec=replace(model.spec, held_out=record.to_json()))


# ---- the table ---------------------------------------------------------------------------------------------------


class Counts:
    """Verdicts by kind of input."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.rows: dict[str, dict[str, object]] = {}

    def add(self, group: str, kind: str, patient: str, found: tuple[str, str]) -> None:
        """One more input."""
        row = self.rows.setdefault(
            kind,
            {"kind": kind, "group": group, "inputs": 0, "patients": [], "posterior": 0, "warning": 0, "point": 0,
             "refused": 0, "example": ""},
        )  # fmt: skip
        row["inputs"] += 1  # type: ignore[operator]
        row[found[0]] += 1  # type: ignore[operator]
        if patient not in row["patients"]:  # type: ignore[operator]
            row["patients"].append(patient)  # type: ignore[attr-defined]
        row["example"] = row["example"] or ("" if found[0] == "posterior" else found[1])

    def records(self) -> list[dict[str, object]]:
        """Rows with the number of patients."""
        return [{**row, "patients": len(row["patients"])} for row in self.rows.values()]  # type: ignore[arg-type]


def table(records: list[dict[str, object]]) -> Table:
    """For the terminal."""
    out = Table("input", "inputs", "patients", "posterior", "warning", "point", "refused")
    for row in records:
        out.add_row(*(str(row[k]) for k in ("kind", "inputs", "patients", "posterior", "warning", "point", "refused")))
    return out


def main() -> None:
    """Make the record or the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--record", action="store_true", help="store the numbers of held-out patients with the model")
    parser.add_argument("--quick", action="store_true", help="three patients")
    options = parser.parse_args()
    model, started = open_model("ct-simulated"), time.process_time()
    slices = patients(options.data)
    slices = dict(list(slices.items())[:3]) if options.quick else slices
    encoded = {n: [model.intensity.encode(x) for x in xs] for n, xs in slices.items()}
    rows = rows_of(model.denoiser, encoded, members=2 if options.record else 0)
    if options.record:
        record = record_of(list(rows.values()), bands_of(model.denoiser).edges)
        assert record is not None
        spec = json.loads(MODEL.read_text(encoding="utf-8"))
        spec["held_out"] = record.to_json()
        spec["card"]["plane"] = "axial"
        MODEL.write_text(json.dumps(spec, indent=1), encoding="utf-8")
        return
    counts = Counts()
    _fill(counts, model, rows, slices, options.data)
    records = counts.records()
    Console().print(table(records))
    result = {"patients": len(slices), "rows": records, "cpu_seconds": time.process_time() - started}
    result |= {"image": "128 x 128 at 1 mm", "model": "ct-simulated"}
    RESULTS.write_text(json.dumps(result, indent=1), encoding="utf-8")
    document(result)


def document(result: dict) -> None:
    """Put the table between its marks in the docs."""
    begin, end = "<!-- verdict:begin -->", "<!-- verdict:end -->"
    lines = [
        f"Measured (`python benchmarks/verdict.py`, {result['image']}, model `{result['model']}`, {result['patients']} "
        "validation patients, each judged by the intervals of the others):",
        "",
        "| input | inputs | patients or images | posterior | with a warning | point | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    names = ("kind", "inputs", "patients", "posterior", "warning", "point", "refused")
    lines += ["| " + " | ".join(str(row[k]) for k in names) + " |" for row in result["rows"]]
    text = DOCS.read_text(encoding="utf-8")
    head, tail = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    DOCS.write_text("\n".join([head, *lines, tail]), encoding="utf-8")


def _fill(
    counts: Counts, model: Model, rows: dict[str, list[Row]], slices: dict[str, list[Tensor]], data: Path
) -> None:
    for number, (name, images) in enumerate(slices.items()):
        own = without(rows, name, model)
        for k, x in enumerate(images):
            for draw in range(2):
                seed = 10_000 + 100 * number + 10 * k + draw
                counts.add("right", "the instrument of the model", name, judge(measured(x, model, seed), own))
        x, seed = images[0], 50_000 + number
        for kind, make in WRONG.items():
            counts.add("wrong", kind, name, judge(make(x, model, seed), own))
        if number % 4 == 0:
            counts.add("right", "the same, sampled", name, sampled(measured(x, model, seed + 1), model))
    whole = record_of(list(rows.values()), bands_of(model.denoiser).edges)
    assert whole is not None
    full = replace(model, spec=replace(model.spec, held_out=whole.to_json()))
    for name, x in microscope(data):
        counts.add("wrong", "microscope image as HU", name, judge(x, full))
    for name, x in real(data, slices):
        counts.add("real", "CT at its own noise", name, judge(x, full))


if __name__ == "__main__":
    main()
