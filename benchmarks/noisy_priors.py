"""Inverse problems with priors that were trained on noisy scans alone, beside the same network trained on clean ones.

    python benchmarks/noisy_priors.py [--problem mri] [--methods clean naive paper ours] [--patients 8] [--members 4]
    python benchmarks/noisy_priors.py --docs

Every prior is sampled by `sample_posterior(method="matched")` at its defaults; the law of the training is that of every
instrument (`ClockLaw`), with white noise up to where a chain starts, as `law: clocks` of a configuration has it.

`ct`: patients, slices, noise (40 HU) and network are those of `noisy_only.py`.  The object is the middle crop of 96 x
96 pixels of 1 mm of a validation patient: 60 of 720 parallel views of 144 rays, white noise of the line integrals of 1
(200 HU mm; what 62,500 photons leave behind water).  `fbp`: filtered backprojection; `tv`: total variation, its
strength by Morozov's discrepancy.

`mri`: legs and noise (0.05 of fat) of `noisy_mri.py`, a network of twice the width on patches of 48 x 48, in bfloat16
where the processor has it.  The object is a middle of at most 96 x 96 pixels of a validation patient: a quarter of the
lines of k-space of one coil, complex white noise of 0.05 a component, which is that of the training images.  `zero`:
the inverse transform with 0 where nothing was measured; `tv`, `wavelet`: penalties by FISTA, their strength by
Morozov's discrepancy.

Error: root mean square of the mean of the members (CT: inside a circle), over that of the prior on clean images, paired
by patient.  SSR^2: mean square error over the variance of the members, (1 + 1/K) of it.  Results are in
benchmarks/results/noisy_priors.json and noisy_priors_mri.json, members beside the models in runs/, from where
`noisy_mri_picture.py` draws them; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import noisy_mri
from noisy_only import CT, METHODS, NAMES, ROOT, SIDE, Images, measured, shown, slices, trained
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

RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "howto-noisy-scans.md"
STD, VIEWS, BINS, RAY = 40.0, 60, 144, 1.0
SHOWN = {**NAMES, "wavelet": "(L1 of wavelets)", "fbp": "(filtered backprojection)", "zero": "(zero-filled)"}


@dataclass(frozen=True)
class Problem:
    """What is trained on, what is measured, and what restores it without a prior.

    read: the slices of a split.  objects: images `(1, 1, *N)` of at most so many patients, in model units.  scan: the
    measurement of an image, with a number for its noise.  weight: `(*N)`, where an error counts.  plain: images of a
    measurement.  shown: an error in the unit of the images, for the table.
    """

    images: Images
    std: float
    law: ClockLaw
    read: Callable[[str], list[Slice]]
    objects: Callable[[list[Slice], int], Mapping[str, Tensor]]
    scan: Callable[[Tensor, int], Measurement]
    weight: Callable[[Tensor], Tensor]
    plain: Mapping[str, Callable[[Measurement], Tensor]]
    shown: Callable[[float], str]
    steps: int
    batch: int
    file: str


def scan(x: Tensor, number: int) -> Measurement:
    """The sinogram of an object `(1, 1, SIDE, SIDE)` in model units."""
    beam = ParallelBeam(even_angles(VIEWS), BINS, 1.0)
    operator = Radon((SIDE, SIDE), beam, unit="arbitrary")
    return Measurement.simulate(operator, GaussianNoise.white(RAY), x.double(), [number])


def circle(x: Tensor) -> Tensor:
    """Where every view sees a pixel of an image."""
    n = x.shape[-1]
    axis = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    return (torch.hypot(axis[:, None], axis) < 0.48 * n).double()


def drawn(prior: NetDenoiser, law: ClockLaw, y: Measurement, members: int) -> Tensor:
    """Members `(K, *N)` of the posterior with a prior."""
    size = y.operator.domain.shape[1:]
    basis = Fourier(size, (1.0, 1.0))
    assert prior.unit is not None
    most = min(2 * prior.unit, law.hidden * law.noise[1] / law.scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sample_posterior(prior.at(edm(basis, most)), y, "matched", samples=members, uncalibrated=True)
    return found.samples.double().reshape(members, *size)


def figures(members: Tensor, x: Tensor, weight: Tensor) -> tuple[float, float]:
    """Mean square error of the mean of members `(K, *N)` where there is weight, and over their variance (SSR^2)."""
    square = float((weight * (members.mean(0) - x).square()).sum() / weight.sum())
    variance = members.var(0) * (1 + 1 / len(members))  # the mean of K members is 1/K of it off
    return square, square / float((weight * variance).sum() / weight.sum())


def row(problem: Problem, method: str, prior: NetDenoiser | None, x: Tensor, y: Measurement, kept: Path, count: int
        ) -> dict[str, float]:  # fmt: skip
    """Error in the unit of the images and SSR^2 of one patient; `count` members of a prior are written to `kept`."""
    started, weight, image = time.process_time(), problem.weight(x), x[0, 0].double()
    if prior is None:
        made = problem.plain[method](y).reshape(image.shape)
        square, out = float((weight * (made - image).square()).sum() / weight.sum()), {}
    else:
        members = drawn(prior, problem.law, y, count)
        np.save(kept, members.float().numpy())
        square, ratio = figures(members, image, weight)
        out = {"ssr2": ratio}
    rmse = problem.images.unit.scale * math.sqrt(square)
    return {"rmse": rmse, "seconds": time.process_time() - started, **out}


def objects(items: list[Slice], most: int) -> dict[str, Tensor]:
    """The first crop of every patient, evenly taken from both sets."""
    found: dict[str, Tensor] = {}
    for patient, x, _ in measured(items, STD):
        found.setdefault(patient, x)
    names = list(found)
    return {name: found[name] for name in names[:: max(1, len(names) // most)][:most]}


PROBLEMS = {
    "ct": Problem(
        CT, STD, ClockLaw(noise=(2.0, 250.0), scale=CT.unit.scale, hidden=8.0), lambda split: slices(split, 2), objects,
        scan, circle,
        {"fbp": lambda y: fbp(y).image, "tv": lambda y: choose(y, method="fista", penalty="tv", iterations=100).image},
        lambda error: f"{error:.1f} HU", 6000, 8, "noisy_priors",
    ),
    "mri": Problem(
        noisy_mri.LEGS, noisy_mri.STD, noisy_mri.LAW, noisy_mri.legs, noisy_mri.middles, noisy_mri.kspace,
        lambda x: torch.ones(x.shape[2:], dtype=torch.float64), noisy_mri.PLAIN,
        lambda error: f"{error:.4f} of fat", 2500, 8, "noisy_priors_mri",
    ),
}  # fmt: skip


def text(problem: Problem, content: dict[str, Any]) -> str:
    """The table."""
    rows = content["rows"]
    clean = {r["patient"]: r["rmse"] for r in rows if r["method"] == "clean"}
    lines = []
    for method in [m for m in SHOWN if any(r["method"] == m for r in rows)]:
        own = [r for r in rows if r["method"] == method]
        over = [r["rmse"] / clean[r["patient"]] for r in own if r["patient"] in clean]
        errors = [r["rmse"] for r in own]
        cells = [problem.shown(sum(errors) / len(errors)), "1" if method == "clean" else shown(over)]
        cells.append(shown([r["ssr2"] for r in own]) if "ssr2" in own[0] else "")
        lines.append([SHOWN[method], *cells, f"{sum(r['seconds'] for r in own) / len(own):.0f}"])
    setup = content["setup"]
    steps, members = setup["steps"], setup["members"]
    said = (f"{steps} steps of {problem.batch} patches; {len(clean)} validation patients, {members} members; "
            "mean ± SD between patients.")  # fmt: skip
    head = ["prior trained on", "error", "over that of clean images", "SSR²", "CPU seconds a patient"]
    return "\n\n".join([said, table(head, lines), counted(rows)])


GOAL = 1.05
"""Of the error over that of the prior of clean images."""


def counted(rows: list[dict[str, Any]]) -> str:
    """On how many patients one prior has less error than another, and how many are within the goal."""
    error = {(r["method"], r["patient"]): r["rmse"] for r in rows}
    methods, patients = ({r[name] for r in rows} for name in ("method", "patient"))

    def less(one: str, other: str, factor: float = 1.0) -> str:
        both = [p for p in patients if {(one, p), (other, p)} <= error.keys()]
        return f"{sum(error[one, p] <= factor * error[other, p] for p in both)} of {len(both)}"

    found = [f"{SHOWN[one]} than {SHOWN[other]} {less(one, other)}" for one in ("clean", "ours")
             for other in SHOWN if other not in ("clean", "ours") and {one, other} <= methods]  # fmt: skip
    within = (
        f" {SHOWN['ours']} within {GOAL} of clean images: {less('ours', 'clean', GOAL)}." if "ours" in methods else ""
    )
    return f"Patients with less error: {'; '.join(found)}.{within}"


def split(items: list[Slice]) -> dict[str, list[Slice]]:
    """Slices to train on, and those of every sixth patient to calibrate the spread."""
    held = set(sorted({s.patient for s in items})[::6])
    return {"train": [s for s in items if s.patient not in held],
            "calibration": [s for s in items if s.patient in held]}  # fmt: skip


def options_of(problem: Problem, steps: int) -> TrainingOptions:
    """The training of every method."""
    ema = max(0.99, 1 - 16 / steps)
    return TrainingOptions(steps=steps, batch=problem.batch, warmup=50, decay=0.3, ema=ema, learning_rate=3e-3)


def prior_of(problem: Problem, method: str, steps: int, folder: Path) -> NetDenoiser:
    """A prior by one of the methods, its training continued from where it was kept in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = split(problem.read("train"))
    options = options_of(problem, steps)
    return trained(method, problem.std, sides, folder, options, law=problem.law, images=problem.images)


def main() -> None:
    """Train and measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", default="ct", choices=list(PROBLEMS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--methods", nargs="+", help="by default all of the problem")
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--docs", action="store_true", help="only write the tables of the how-to")
    given = parser.parse_args()
    if given.docs:
        for each in PROBLEMS.values():
            replace_block(PAGE, each.file.replace("_", "-"), text(each, stored(each, None)))
        return
    torch.set_num_threads(1)
    problem = PROBLEMS[given.problem]
    known = [*problem.plain, *METHODS]
    methods = known if given.methods is None else given.methods
    if not set(methods) <= set(known):
        parser.error(f"--methods {' '.join(methods)}: those of {given.problem} are {', '.join(known)}")
    steps = problem.steps if given.steps is None else given.steps
    setup = {"steps": steps, "members": given.members}
    runs = ROOT / "runs" / problem.file if given.runs is None else given.runs
    seen = list(enumerate(problem.objects(problem.read("validation"), given.patients).items()))
    for method in methods:
        done = {r["patient"] for r in stored(problem, setup)["rows"] if r["method"] == method}
        left = [(number, patient, x) for number, (patient, x) in seen if patient not in done]
        folder = runs / f"{method}-{steps}"
        prior = prior_of(problem, method, steps, folder) if left and method in METHODS else None
        for number, patient, x in left:
            kept, y = folder / f"{patient}.npy", problem.scan(x, number)
            found, content = row(problem, method, prior, x, y, kept, given.members), stored(problem, setup)
            content["rows"].append({"method": method, "patient": patient, **found})
            write_file(RESULTS / f"{problem.file}.json", json.dumps(content, indent=1).encode())
            print(f"{method:8s} {patient}: {found}", flush=True)
    print(text(problem, stored(problem, setup)))


def stored(problem: Problem, setup: dict[str, Any] | None) -> dict[str, Any]:
    """What was measured; with a setup that is another one, what knows neither steps nor members."""
    path = RESULTS / f"{problem.file}.json"
    content = json.loads(path.read_text()) if path.exists() else {"setup": setup, "rows": []}
    if setup in (None, content["setup"]):
        return content
    return {"setup": setup, "rows": [r for r in content["rows"] if r["method"] in problem.plain]}


if __name__ == "__main__":
    main()
