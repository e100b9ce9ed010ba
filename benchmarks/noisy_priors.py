"""Inverse problems with priors that were trained on noisy scans alone, beside the same network trained on clean ones.

    python benchmarks/noisy_priors.py [--problem mri] [--methods clean naive paper ours] [--patients 8] [--members 4]
    python benchmarks/noisy_priors.py --docs

Every prior is sampled by `sample_posterior(method="matched")` at its defaults; the law of the training is that of every
instrument (`ClockLaw`), with white noise up to where a chain starts, as `law: clocks` of a configuration has it.

`ct`: patients, slices, noise (40 HU) and network are those of `noisy_only.py`.  The object is the middle crop of 96 x
96 pixels of 1 mm of a validation patient: 60 of 720 parallel views of 144 rays, white noise of the line integrals of 1
(200 HU mm; what 62,500 photons leave behind water).  `fbp`: filtered backprojection.

`mri`: legs and noise (0.05 of fat) of `noisy_mri.py`, a network of twice the width on patches of 48 x 48, in bfloat16
where the processor has it.  The object is a middle of at most 96 x 96 pixels of a validation patient: a quarter of the
lines of k-space of one coil, complex white noise of 0.05 a component, which is that of the training images.  `zero`:
the inverse transform with 0 where nothing was measured.

Both: `tv`, `wavelet`: penalties by FISTA, their strength by Morozov's discrepancy; `dip`: a deep image prior, stopped
by the same.  `redcnn`, `unrolled`: networks that were trained on pairs of clean slices and such scans of them
(`noisy_pairs.py`), for as many CPU seconds as the training of the prior on clean images takes, which is measured first.

Error: root mean square of the mean of the members (CT: inside a circle), over that of the prior on clean images, paired
by patient.  SSR^2: mean square error over the variance of the members, (1 + 1/K) of it.  Results are in
benchmarks/results/noisy_priors.json and noisy_priors_mri.json, members beside the models in runs/, from where
`noisy_mri_picture.py` draws them; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import noisy_mri
from noisy_only import CT, METHODS, NAMES, ROOT, SIDE, Images, measured, shown, slices, trained
from noisy_pairs import PAIRED, Scans, filtered_adjoint, fitted, network
from noisy_rivals import CT_VALUES, Values
from retrodict._output import write_file
from retrodict.bases import Fourier
from retrodict.data.collection import Slice
from retrodict.denoisers.network import NetDenoiser
from retrodict.nets import precision_for
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
SHOWN = {**NAMES, "fbp": "(filtered backprojection)", "zero": "(zero-filled)"}


@dataclass(frozen=True)
class Problem:
    """What is trained on, what is measured, and what restores it without a prior.

    read: the slices of a split.  objects: images `(1, 1, *N)` of at most so many patients, in model units.  scan: the
    measurement of an image, with a number for its noise.  weight: `(*N)`, where an error counts.  plain: images of a
    measurement, of which `first` is what networks on pairs start from.  back, values: of those networks
    (`noisy_pairs`).  shown: an error in the unit of the images, for the table.
    """

    images: Images
    std: float
    law: ClockLaw
    read: Callable[[str], list[Slice]]
    objects: Callable[[list[Slice], int], Mapping[str, Tensor]]
    scan: Callable[[Tensor, int], Measurement]
    weight: Callable[[Tensor], Tensor]
    plain: Mapping[str, Callable[[Measurement], Tensor]]
    first: str
    back: Callable[[Tensor, Measurement], Tensor]
    values: Values
    shown: Callable[[float], str]
    steps: int
    batch: int
    file: str

    @property
    def scans(self) -> Scans:
        """What networks on pairs are told of it."""
        precision = precision_for(self.images.precision)
        return Scans(self.scan, self.plain[self.first], self.back, self.values, self.images.unit, SIDE, precision)


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


Answer = Callable[[Measurement, int], tuple[Tensor, dict[str, float]]]
"""Images `(K, *N)` of a measurement and its number, one or members of a posterior, and what else is to be kept."""


def row(problem: Problem, answer: Answer, x: Tensor, number: int, kept: Path) -> dict[str, float]:
    """Error in the unit of the images and SSR^2 of one patient; members are written to `kept`."""
    y, weight, image = problem.scan(x, number), problem.weight(x), x[0, 0].double()
    started = time.process_time()
    made, more = answer(y, number)
    out = {"seconds": time.process_time() - started, **more}
    made = made.double().reshape(-1, *image.shape)
    if len(made) == 1:
        square = float((weight * (made[0] - image).square()).sum() / weight.sum())
    else:
        np.save(kept, made.float().numpy())
        square, out["ssr2"] = figures(made, image, weight)
    return {"rmse": problem.images.unit.scale * math.sqrt(square), **out}


def objects(items: list[Slice], most: int) -> dict[str, Tensor]:
    """The first crop of every patient, evenly taken from both sets."""
    found: dict[str, Tensor] = {}
    for patient, x, _ in measured(items, STD):
        found.setdefault(patient, x)
    names = list(found)
    return {name: found[name] for name in names[:: max(1, len(names) // most)][:most]}


def penalized(penalty: str, y: Measurement) -> Tensor:
    """An image by FISTA, the strength of its penalty by Morozov's discrepancy."""
    return choose(y, method="fista", penalty=penalty, iterations=100).image


PENALIZED = {name: partial(penalized, name) for name in ("tv", "wavelet")}
PROBLEMS = {
    "ct": Problem(
        CT, STD, ClockLaw(noise=(2.0, 250.0), scale=CT.unit.scale, hidden=8.0), lambda split: slices(split, 2), objects,
        scan, circle, {"fbp": lambda y: fbp(y).image, **PENALIZED}, "fbp", filtered_adjoint, CT_VALUES,
        lambda error: f"{error:.1f} HU", 5000, 8, "noisy_priors",
    ),
    "mri": Problem(
        noisy_mri.LEGS, noisy_mri.STD, noisy_mri.LAW, noisy_mri.legs, noisy_mri.middles, noisy_mri.kspace,
        lambda x: torch.ones(x.shape[2:], dtype=torch.float64), {"zero": noisy_mri.zero_filled, **PENALIZED}, "zero",
        lambda u, y: y.operator.adjoint(u), noisy_mri.VALUES,
        lambda error: f"{error:.4f} of fat", 2500, 8, "noisy_priors_mri",
    ),
}  # fmt: skip


def text(problem: Problem, content: dict[str, Any]) -> str:
    """The tables."""
    rows = content["rows"]
    clean = {r["patient"]: r["rmse"] for r in rows if r["method"] == "clean"}
    lines = []
    for method in [m for m in SHOWN if any(r["method"] == m for r in rows)]:
        own = [r for r in rows if r["method"] == method]
        over = [r["rmse"] / clean[r["patient"]] for r in own if r["patient"] in clean]
        errors = [r["rmse"] for r in own]
        cells = [problem.shown(sum(errors) / len(errors)), "1" if method == "clean" else shown(over)]
        cells.append(shown([r["ssr2"] for r in own]) if "ssr2" in own[0] else "")
        name = SHOWN[method] if len(own) >= len(clean) else f"{SHOWN[method]}, {len(own)} patients"
        lines.append([name, *cells, f"{sum(r['seconds'] for r in own) / len(own):.0f}"])
    setup = content["setup"]
    steps, members = setup["steps"], setup["members"]
    said = (f"{steps} steps of {problem.batch} patches; {len(clean)} validation patients, {members} members; "
            "mean ± SD between patients.")  # fmt: skip
    head = ["prior trained on", "error", "over that of clean images", "SSR²", "CPU seconds a patient"]
    return "\n\n".join([p for p in (said, table(head, lines), paid(content), counted(rows)) if p])


def paid(content: dict[str, Any]) -> str:
    """What networks on pairs and the deep image prior took."""
    found = []
    for name, t in content.get("training", {}).items():
        size = "patches" if name == "redcnn" else "images"
        share = t["seconds"] / content["budget"]
        found.append(f"{SHOWN[name]}: {t['seconds']:.0f} CPU seconds of training, {share:.2f} of those of the prior on "
                     f"clean images, {t['steps']} steps of {t['batch']} "
                     f"{size}, {t['weights']:.2f} million weights.")  # fmt: skip
    fits = [r for r in content["rows"] if r["method"] == "dip"]
    if fits:
        steps, ended = [r["steps"] for r in fits], sum(r["chi2"] <= 1 for r in fits)
        found.append(f"{SHOWN['dip']}: {min(steps):.0f} to {max(steps):.0f} steps, {ended} of {len(fits)} until the "
                     "residual was what noise explains.")  # fmt: skip
    return " ".join(found)


GOAL = 1.05
"""Of the error over that of the prior of clean images."""


def counted(rows: list[dict[str, Any]]) -> str:
    """Errors of one over those of another, paired, and on how many patients one has less."""
    error = {(r["method"], r["patient"]): r["rmse"] for r in rows}
    methods, patients = ({r[name] for r in rows} for name in ("method", "patient"))

    def ratios(one: str, other: str) -> list[float]:
        both = [p for p in patients if {(one, p), (other, p)} <= error.keys()]
        return [error[one, p] / error[other, p] for p in sorted(both)]

    def cell(one: str, other: str) -> str:
        found = ratios(one, other)
        return "" if one == other else f"{shown(found)}, less on {sum(r < 1 for r in found)} of {len(found)}"

    first = [m for m in ("clean", "ours", "paper", *PAIRED) if m in methods]
    lines = [[SHOWN[other], *(cell(one, other) for one in first)] for other in SHOWN if other in methods]
    made = table(["error, column over row", *(SHOWN[m] for m in first)], lines)
    if not {"ours", "clean"} <= methods:
        return made
    within = [r <= GOAL for r in ratios("ours", "clean")]
    return f"{made}\n\n{SHOWN['ours']} within {GOAL} of clean images: {sum(within)} of {len(within)}."


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


def training_seconds(problem: Problem, steps: int, short: int = 20, more: int = 80) -> float:
    """CPU seconds of so many steps of the prior on clean images, from two short trainings, whose beginnings cancel."""
    sides, found = split(problem.read("train")), []
    for count in (short, short + more):
        options = replace(options_of(problem, steps), steps=count)
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            trained("clean", problem.std, sides, Path(folder), options, law=problem.law, images=problem.images)
        found.append(time.process_time() - started)
    return (found[1] - found[0]) / more * steps


def answer_of(problem: Problem, method: str, setup: dict[str, Any], folder: Path, share: float) -> Answer:
    """What a method makes of a measurement; what it has learned is kept in a folder."""
    if method in METHODS:
        prior = prior_of(problem, method, setup["steps"], folder)
        return lambda y, number: (drawn(prior, problem.law, y, setup["members"]), {})
    if method == "dip":
        return partial(deep, problem)
    if method in PAIRED:
        return paired(problem, method, setup, folder, share)
    return lambda y, number: (problem.plain[method](y), {})


def deep(problem: Problem, y: Measurement, number: int) -> tuple[Tensor, dict[str, float]]:
    """A deep image prior, its steps and where it ended."""
    found = fitted(y, problem.scans, number)
    return found.image, {"steps": found.steps, "chi2": found.misfit}


def paired(problem: Problem, method: str, setup: dict[str, Any], folder: Path, share: float) -> Answer:
    """A network on pairs of a share of the CPU seconds of the prior on clean images."""
    if "budget" not in stored(problem, setup):
        seconds = training_seconds(problem, setup["steps"])
        save(problem, {**stored(problem, setup), "budget": seconds})  # read anew: another process may have written
    seconds = share * stored(problem, setup)["budget"]
    answer, training = network(
        method, problem.scans, lambda: split(problem.read("train"))["train"], seconds, folder / "net.pt"
    )
    content = stored(problem, setup)
    took = {**content.get("training", {}), method: training.record()}
    save(problem, {**content, "training": took})
    return lambda y, number: (answer(y), {})


def main() -> None:
    """Train and measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", default="ct", choices=list(PROBLEMS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--methods", nargs="+", help="by default all of the problem")
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--share", type=float, default=1.0, help="of the CPU seconds, to networks on pairs")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--docs", action="store_true", help="only write the tables of the how-to")
    given = parser.parse_args()
    if given.docs:
        for each in PROBLEMS.values():
            replace_block(PAGE, each.file.replace("_", "-"), text(each, stored(each, None)))
        return
    torch.set_num_threads(1)
    problem = PROBLEMS[given.problem]
    known = [*problem.plain, "dip", *METHODS, *PAIRED]
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
        answer = answer_of(problem, method, setup, folder, given.share) if left else None
        for number, patient, x in left:
            assert answer is not None
            found, content = row(problem, answer, x, number, folder / f"{patient}.npy"), stored(problem, setup)
            content["rows"].append({"method": method, "patient": patient, **found})
            save(problem, content)
            print(f"{method:8s} {patient}: {found}", flush=True)
    print(text(problem, stored(problem, setup)))


def save(problem: Problem, content: dict[str, Any]) -> None:
    """Write results."""
    write_file(RESULTS / f"{problem.file}.json", json.dumps(content, indent=1).encode())


def stored(problem: Problem, setup: dict[str, Any] | None) -> dict[str, Any]:
    """What was measured; with a setup that is another one, what knows neither steps nor members."""
    path = RESULTS / f"{problem.file}.json"
    content = json.loads(path.read_text()) if path.exists() else {"setup": setup, "rows": []}
    if setup in (None, content["setup"]):
        return content
    kept = [r for r in content["rows"] if r["method"] in (*problem.plain, "dip")]
    return {"setup": setup, "rows": kept}


if __name__ == "__main__":
    main()
