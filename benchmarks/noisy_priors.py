"""Sparse-view CT with priors that were trained on noisy scans alone, beside the same network trained on clean ones.

    python benchmarks/noisy_priors.py [--steps 6000] [--methods clean naive paper ours] [--patients 8] [--members 4]
    python benchmarks/noisy_priors.py --docs

Patients, slices, noise (40 HU) and network are those of `noisy_only.py`; here the law of the training is that of every
instrument (`ClockLaw`), with white noise up to where a chain starts, as `law: clocks` of a configuration has it.  The
object is the middle crop of 96 x 96 pixels of 1 mm of a validation patient: 60 of 720 parallel views of 144 rays, white
noise of the line integrals of 1 (200 HU mm; what 62,500 photons leave behind water).  Every prior is sampled by
`sample_posterior(method="matched")` at its defaults.

Error: root mean square of the mean of the members inside a circle, over that of the prior on clean images, paired by
patient.  SSR^2: mean square error over the variance of the members, (1 + 1/K) of it.  `fbp`: filtered backprojection;
`tv`: total variation, its strength by Morozov's discrepancy.  benchmarks/results/noisy_priors.json; a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisy_only import METHODS, NAMES, ROOT, SIDE, UNIT, measured, shown, slices, trained
from retrodict._output import write_file
from retrodict.bases import Fourier
from retrodict.data.collection import Slice
from retrodict.denoisers.network import NetDenoiser
from retrodict.physics import GaussianNoise, Measurement, Radon
from retrodict.physics.classics import choose, fbp
from retrodict.physics.geometry import ParallelBeam, even_angles
from retrodict.posterior.ensemble import sample_posterior
from retrodict.processes.clocks import ClockLaw
from retrodict.processes.scalar import edm
from retrodict.training.loop import TrainingOptions
from tables import replace_block, table

OUT, PAGE = ROOT / "benchmarks" / "results" / "noisy_priors.json", ROOT / "docs" / "howto-noisy-scans.md"
STD, VIEWS, BINS, RAY = 40.0, 60, 144, 1.0
LAW = ClockLaw(noise=(2.0, 250.0), scale=UNIT.scale, hidden=8.0)
SHOWN = {**NAMES, "fbp": "(filtered backprojection)"}


def scan(x: Tensor, number: int) -> Measurement:
    """The sinogram of an object `(1, 1, SIDE, SIDE)` in model units."""
    beam = ParallelBeam(even_angles(VIEWS), BINS, 1.0)
    operator = Radon((SIDE, SIDE), beam, unit="arbitrary")
    return Measurement.simulate(operator, GaussianNoise.white(RAY), x.double(), [number])


def circle() -> Tensor:
    """Where every view sees a pixel."""
    axis = torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2
    return (torch.hypot(axis[:, None], axis) < 0.48 * SIDE).double()


def drawn(prior: NetDenoiser, y: Measurement, members: int) -> Tensor:
    """Members `(K, SIDE, SIDE)` of the posterior with a prior."""
    basis = Fourier((SIDE, SIDE), (1.0, 1.0))
    assert prior.unit is not None
    most = min(2 * prior.unit, LAW.hidden * LAW.noise[1] / LAW.scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sample_posterior(prior.at(edm(basis, most)), y, "matched", samples=members, uncalibrated=True)
    assert found.samples is not None
    return found.samples.double().reshape(members, SIDE, SIDE)


def row(method: str, prior: NetDenoiser | None, x: Tensor, y: Measurement, members: int) -> dict[str, float]:
    """Error in HU and SSR^2 of one patient."""
    started, weight = time.process_time(), circle()
    variance = None
    if prior is not None:
        found = drawn(prior, y, members)
        mean, variance = found.mean(0), found.var(0) * (1 + 1 / members)
    elif method == "fbp":
        mean = fbp(y).image.reshape(SIDE, SIDE)
    else:
        mean = choose(y, method="fista", penalty="tv", iterations=100).image.reshape(SIDE, SIDE)
    square = float((weight * (mean - x[0, 0]).square()).sum() / weight.sum())
    out = {"rmse": UNIT.scale * math.sqrt(square), "seconds": time.process_time() - started}
    return out if variance is None else {**out, "ssr2": square / float((weight * variance).sum() / weight.sum())}


def objects(items: list[Slice], most: int) -> dict[str, Tensor]:
    """The first crop of every patient, evenly taken from both sets."""
    found: dict[str, Tensor] = {}
    for patient, x, _ in measured(items, STD):
        found.setdefault(patient, x)
    names = list(found)
    return {name: found[name] for name in names[:: max(1, len(names) // most)][:most]}


def text(content: dict[str, Any]) -> str:
    """The table."""
    rows = content["rows"]
    clean = {r["patient"]: r["rmse"] for r in rows if r["method"] == "clean"}
    lines = []
    for method in [m for m in SHOWN if any(r["method"] == m for r in rows)]:
        own = [r for r in rows if r["method"] == method]
        over = [r["rmse"] / clean[r["patient"]] for r in own if r["patient"] in clean]
        hu = [r["rmse"] for r in own]
        cells = [f"{sum(hu) / len(hu):.1f} HU" if method == "clean" else shown(over)]
        cells.append(shown([r["ssr2"] for r in own]) if "ssr2" in own[0] else "")
        lines.append([SHOWN[method], *cells, f"{sum(r['seconds'] for r in own) / len(own):.0f}"])
    setup = content["setup"]
    steps, members = setup["steps"], setup["members"]
    said = (
        f"{steps} steps of 8 patches; {len(clean)} validation patients, {members} members; mean ± SD between patients."
    )
    return said + "\n\n" + table(["prior trained on", "error", "SSR²", "CPU seconds a patient"], lines)


def main() -> None:
    """Train and measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--methods", nargs="+", default=["fbp", "tv", *METHODS], choices=["fbp", "tv", *METHODS])
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "noisy_priors")
    parser.add_argument("--docs", action="store_true", help="only write the table of the how-to")
    given = parser.parse_args()
    content: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {}
    if given.docs:
        replace_block(PAGE, "noisy-priors", text(content))
        return
    torch.set_num_threads(1)
    setup = {"steps": given.steps, "members": given.members}
    content = content if content.get("setup") == setup else {"setup": setup, "rows": []}
    train_items = slices("train", 2)
    held = set(sorted({s.patient for s in train_items})[::6])
    sides = {"train": [s for s in train_items if s.patient not in held],
             "calibration": [s for s in train_items if s.patient in held]}  # fmt: skip
    ema = max(0.99, 1 - 16 / given.steps)
    options = TrainingOptions(steps=given.steps, batch=8, warmup=50, decay=0.3, ema=ema, learning_rate=3e-3)
    for method in given.methods:
        folder, prior = given.runs / f"{method}-{given.steps}", None
        if method in METHODS:
            folder.mkdir(parents=True, exist_ok=True)
            prior = trained(method, STD, sides, folder, options, law=LAW)
        for number, (patient, x) in enumerate(objects(slices("validation", 1), given.patients).items()):
            if (method, patient) in {(r["method"], r["patient"]) for r in content["rows"]}:
                continue
            found = row(method, prior, x, scan(x, number), given.members)
            content["rows"].append({"method": method, "patient": patient, **found})
            write_file(OUT, json.dumps(content, indent=1).encode())
            print(f"{method:8s} {patient}: {found}", flush=True)
    print(text(content))


if __name__ == "__main__":
    main()
