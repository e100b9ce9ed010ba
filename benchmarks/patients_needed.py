"""Error and calibration against the number of training patients, at equal steps.

    python benchmarks/patients_needed.py OUT --patients 1 3 10 30 all --steps 4000

The network of configs/any-scanner.yaml (or a narrower one, `--width`) is trained on nested subsets of the train
patients of the CT sets, each in its folder of OUT, by `retrodict fit` from a table of that subset; what is there is
resumed, what is finished is only measured.  Then, for one crop of 128 x 128 pixels of body at 1 mm of every validation
patient and four instruments (the paper's, and realistic ones of 12, 30 and 60 HU): squared error of one call over that
of the Wiener filter, and SSR^2, squared error over predicted variance (1 is calibrated, above 1 too sure).  The spread
is calibrated on the same validation patients, so SSR^2 is 1 in the mean but for its scatter between them.
`--docs` puts what was measured into benchmarks/results and docs/howto-own-folder.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patient_slices import DATA, there
from patients import SIDE, crop
from retrodict._random import key
from retrodict.bases import Fourier
from retrodict.data.collection import row_slices
from retrodict.data.index import IndexRow, write_index
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import Model, load_model, model_files
from retrodict.processes.fourier import fourier, measured
from retrodict.processes.observation import Moments
from retrodict.processes.process import Process
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_collection import rows_of
from retrodict.tasks.fit_config import FitConfig, load_config
from tables import replace_block, table

KEPT = Path(__file__).parent / "results" / "patients-needed.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "howto-own-folder.md"
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "any-scanner.yaml"
SPACING = (1.0, 1.0)
BASIS = Fourier((SIDE, SIDE), SPACING)


# ---- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patients:
    """Rows of the train patients in the order in which they join, and of the validation patients."""

    train: dict[str, list[IndexRow]]
    validation: list[IndexRow]

    def first(self, count: int) -> list[IndexRow]:
        """The rows of the first patients and of all validation patients."""
        return [row for name in list(self.train)[:count] for row in self.train[name]] + self.validation


def patients() -> Patients:
    """All patients that the configuration takes; each larger subset holds the smaller ones."""
    rows = rows_of(load_config(CONFIG, [f"data.root={DATA}"]), CONFIG.parent).kept
    names = sorted({r.patient for r in rows if r.split == "train"}, key=lambda n: key(0, f"patients needed {n}"))
    train = {name: [r for r in rows if r.patient == name] for name in names}
    return Patients(train, [r for r in rows if r.split == "validation"])


def configured(folder: Path, arguments: argparse.Namespace) -> FitConfig:
    """The shipped configuration with the table of one subset, without the two patients that have no table."""
    words = {
        "name": "model",
        "data.root": folder.resolve(),
        "data.indices": "[index.csv]",
        "data.groups": "[]",
        "data.leave_out": "[]",  # the table of the subset has no row of them
        "network.options.width": arguments.width,
        "training.steps": arguments.steps,
        "training.warmup": min(300, max(1, arguments.steps // 10)),
        "training.ema": 0.999,
        "training.threads": arguments.threads,
        "training.validate_every": arguments.steps,
    }
    return load_config(CONFIG, [*(f"{name}={value}" for name, value in words.items()), *arguments.words])


def trained(folder: Path, rows: list[IndexRow], arguments: argparse.Namespace) -> Model:
    """The model of one subset: trained, resumed, or as it is there."""
    weights, record = model_files(folder / "model")
    if not record.exists():
        write_index(rows, folder / "index.csv", force=True)
        plan = prepare_fit(configured(folder, arguments), folder, folder)
        print(f"{folder.name}: {len(plan.training)} slices, step {plan.start_step}, {plan.seconds / 60:.0f} min",
              flush=True)  # fmt: skip
        fit(plan, folder, tensorboard=False)
    return load_model(weights, "auto")


# ---- measuring -------------------------------------------------------------------------------------------------------


def instruments(scale: float) -> Iterator[tuple[str, Process]]:
    """Name and process: the paper's, and measured curves of a resolution of 0.35/mm and ramp noise of 12, 30, 60 HU."""
    yield "paper", fourier(BASIS)
    f = torch.linspace(0, 0.75, 76, dtype=torch.float64)
    mtf = 0.01 + 0.99 * 2 ** -((f / 0.35) ** 2)
    shape = (f / 0.3 + 0.05) * mtf**2 + 2e-3
    plane = torch.fft.fftfreq(SIDE, 1.0, dtype=torch.float64)
    radius = torch.hypot(plane[:, None], plane[None]).clamp_max(0.75)
    mean = float(torch.from_numpy(_interpolated(radius, f, shape)).mean())
    for noise in (12, 30, 60):
        record = [{"frequency": f.tolist(), "value": value.tolist(), "unit": unit, "frequency_unit": "cycles/mm"}
                  for value, unit in ((mtf, "1"), (shape * noise**2 / mean, "HU^2 mm^2"))]  # fmt: skip
        yield f"{noise} HU", measured(BASIS, *record, unit_scale=scale)


def _interpolated(radius: Tensor, f: Tensor, value: Tensor) -> Any:
    import numpy as np

    return np.interp(radius.numpy(), f.numpy(), value.numpy())


def figures(model: Model, process: Process, truth: Tensor, number: int) -> dict[str, float]:
    """Error over Wiener and SSR^2 of one call on one crop, model units."""
    law = process.measurement
    assert law is not None
    law = Moments(*(part[None, None] for part in law))
    y = process.pairing.simulate(truth, process.basis, torch.tensor([key(0, "needed", number)]))
    denoiser: NetDenoiser = model.denoiser.at(process)
    with torch.inference_mode():
        found = denoiser.observe(BASIS.forward(y), law)
        filtered = denoiser.gaussian().observe(BASIS.forward(y), law)
    assert found.spread is not None
    squared = float((found.mean - truth).square().mean())
    return {
        "error": squared / float((filtered.mean - truth).square().mean()),
        "ssr2": squared / float(found.spread.variance().mean()),
        "rms_hu": squared**0.5 * model.intensity.scale,
    }


def measure(model: Model, crops: dict[str, Tensor]) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by instrument and patient."""
    return {
        name: {p: figures(model, process, model.intensity.encode(x), i) for i, (p, x) in enumerate(crops.items())}
        for name, process in instruments(model.intensity.scale)
    }


def scatter(rows: dict[str, dict[str, float]], name: str) -> str:
    """Mean and SD between patients."""
    values = torch.tensor([row[name] for row in rows.values()], dtype=torch.float64)
    return f"{float(values.mean()):.3f} +- {float(values.std()):.3f}"


def over(rows: dict[str, dict[str, float]], most: dict[str, dict[str, float]]) -> str:
    """Squared error over that with the most patients, patient by patient: geometric mean and its standard error.

    Not over the Wiener filter: that has the spectrum of the same training patients, and is worse for one.
    """
    logs = torch.tensor([2 * math.log(rows[p]["rms_hu"] / most[p]["rms_hu"]) for p in rows], dtype=torch.float64)
    mean = float(logs.mean().exp())
    return f"{mean:.3f} +- {mean * float(logs.std()) / len(logs) ** 0.5:.3f}"


def documents(path: Path) -> None:
    """The figures of a run to benchmarks/results, and a table of them to the page."""
    record = json.loads(path.read_text())
    KEPT.write_text(json.dumps(record) + "\n")
    names, counts = list(next(iter(record["counts"].values()))), record["counts"]
    most = counts[max(counts, key=int)]
    rows = [[count, *(over(by[name], most[name]) for name in names), *(scatter(by[name], "ssr2") for name in names)]
            for count, by in counts.items()]  # fmt: skip
    rows.append(["rms of all, HU", *(scatter(most[name], "rms_hu") for name in names), *[""] * len(names)])
    head = ["patients", *(f"error², {n}" for n in names), *(f"SSR², {n}" for n in names)]
    replace_block(PAGE, "patients-needed", table(head, rows))
    print(KEPT.name, PAGE.name)


def main() -> None:
    """Train what is missing, then print a row for each number of patients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", nargs="+", default=["1", "3", "10", "30", "all"])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=int, default=99, help="validation patients to measure")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="words",
                        help="override a field of configs/any-scanner.yaml")  # fmt: skip
    parser.add_argument("--docs", action="store_true", help="measure nothing: write the table of OUT")
    arguments = parser.parse_args()
    if arguments.docs:
        return documents(arguments.out / "patients_needed.json")
    if not there():
        sys.exit(f"no patients in {DATA}: nothing to train on")
    every = patients()
    counts = sorted({len(every.train) if n == "all" else min(int(n), len(every.train)) for n in arguments.patients})
    found = [(item.patient, crop(item, SPACING[0])) for item in row_slices(every.validation)]
    crops = {p: part for p, part in reversed(found) if part is not None}  # the first slice of each
    crops = dict(list(reversed(crops.items()))[: arguments.most])
    record: dict[str, Any] = {"steps": arguments.steps, "width": arguments.width, "set": arguments.words, "counts": {}}
    for count in counts:
        folder = arguments.out / f"{count:03d}-patients"
        folder.mkdir(parents=True, exist_ok=True)
        rows = measure(trained(folder, every.first(count), arguments), crops)
        record["counts"][count] = rows
        (arguments.out / "patients_needed.json").write_text(json.dumps(record, indent=1))
    print(f"{len(crops)} validation patients, {arguments.steps} steps; mean +- SD between patients")
    for count, rows in record["counts"].items():
        for name, by_patient in rows.items():
            print(f"{count:4d} patients  {name:<6}  error/Wiener {scatter(by_patient, 'error')}  "
                  f"SSR^2 {scatter(by_patient, 'ssr2')}  rms {scatter(by_patient, 'rms_hu')} HU")  # fmt: skip


if __name__ == "__main__":
    main()
