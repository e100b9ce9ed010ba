"""Figures on real CT: error and calibration of restorations of a patient that was not in training.

    python benchmarks/ct.py [--quick] [--members 8] [--stage1 MODEL] [--scalar MODEL]

The two models of equal budget are those of configs/ct-fourier.yaml and configs/ct-scalar.yaml, found under runs/.

Truth: the two shipped slices (416 x 416, 1 mm).  Measurement: the MTF and NPS of Tivnan et al. 2023, eqs. 29-30, one
noise draw per slice.  Every figure of the table comes from one run; errors are in HU^2 over all pixels.

error/Wiener   squared error of the ensemble mean over that of the Wiener filter
mean/Wiener    the same for the posterior mean itself: the error that K members add, spread/K, is taken off
skill/spread   (squared error of the ensemble mean) / ((1 + 1/K) ensemble variance): 1 is calibrated, above 1 means
               too little spread; its square root is the spread-skill ratio SSR
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import resources
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from retrodict._random import member_seeds
from retrodict.data import read
from retrodict.models.instrument import measure
from retrodict.models.model import open_model
from retrodict.processes.observation import Cond
from retrodict.samplers.ensemble import SamplingOptions, draw, gate, plan_for
from retrodict.samplers.margin import frame_of, surrounded
from retrodict.samplers.moments import RunningMoments
from retrodict.tasks.demo import SLICES

RESULTS = Path(__file__).parent / "results"


def ensemble(model, y, name, steps, members, spread=None, grid=None):
    """(mean, variance, seconds per member, calls) of one slice, in model units; not gated: this measures everything."""
    options = SamplingOptions(samples=members, steps=steps, rule=name, grid=grid)
    frame = frame_of(tuple(y.shape[2:]), model.denoiser.process.basis, options.margin, model.denoiser.multiple)
    denoiser = model.denoiser.on(frame.size)
    denoiser = denoiser.with_spread(spread) if spread else denoiser
    plan = plan_for(denoiser.process, options, denoiser.spectrum.on(denoiser.process.basis))
    moments, started = RunningMoments(), time.perf_counter()
    for first in range(0, members, 2):
        seeds = member_seeds(0, 0, members)[first : first + 2]
        padded = surrounded(denoiser, y.expand(len(seeds), *y.shape[1:]), frame, seeds)
        for x in draw(denoiser, plan, padded, seeds).x[frame.crop]:
            moments.add(x)
    return moments, (time.perf_counter() - started) / members, plan.nfe


def point(image, truth, scale):
    """Squared error in HU^2."""
    return float(((image - truth).double() ** 2).mean()) * scale**2


def non_local_means(y, noise):
    """Non-local means of scikit-image on the measured slice, with the known noise level."""
    from skimage.restoration import denoise_nl_means

    image = y[0, 0].numpy()
    out = denoise_nl_means(image, patch_size=5, patch_distance=8, h=0.8 * noise, sigma=noise, fast_mode=True)
    return torch.from_numpy(out)[None, None]


def slices(model):
    """(truth, measurement) of every shipped slice, `(1, 1, H, W)` in model units."""
    for index, name in enumerate(SLICES):
        truth = read(Path(str(resources.files("retrodict") / "assets" / f"{name}.dcm")))
        y = measure(truth, model, seed=index)
        yield model.intensity.encode(truth.values[None]), model.intensity.encode(y.values[None])


def baselines(model, data):
    """Errors of what needs no ensemble."""
    scale, rows = (
        model.intensity.scale,
        {"measured": 0.0, "Wiener filter": 0.0, "non-local means": 0.0, "network, one call": 0.0},
    )
    for x0, y in data:
        frame = frame_of(tuple(y.shape[2:]), model.denoiser.process.basis, 16, model.denoiser.multiple)
        denoiser, crop = model.denoiser.on(frame.size), frame.crop
        padded = surrounded(denoiser, y, frame, None)
        one = torch.ones(1, dtype=torch.float64)
        noise = float(denoiser.process.measurement.s2.mean().sqrt())
        with torch.inference_mode():
            rows["measured"] += point(y, x0, scale)
            rows["Wiener filter"] += point(denoiser.gaussian()(padded, one)[crop], x0, scale)
            rows["non-local means"] += point(non_local_means(y, noise), x0, scale)
            rows["network, one call"] += point(denoiser(padded, one, Cond())[crop], x0, scale)
    return {name: value / len(data) for name, value in rows.items()}


def row(model, data, label, rule, steps, members, wiener, **options):
    """One line of the table, averaged over slices."""
    scale, skill, spread, seconds, calls = model.intensity.scale, 0.0, 0.0, 0.0, 0
    for x0, y in data:
        moments, pace, calls = ensemble(model, y, rule, steps, members, **options)
        skill += point(moments.mean, x0[0], scale) / len(data)
        spread += float(moments.variance.mean()) * scale**2 / len(data)
        seconds += pace / len(data)
    verdict = gate(model.denoiser, SamplingOptions(steps=steps, rule=rule, grid=options.get("grid")))
    return {
        "method": label,
        "calls": calls,
        "members": members,
        "mse_HU2": skill,
        "variance_HU2": spread,
        "error_over_wiener": skill / wiener,
        "mean_over_wiener": (skill - spread / members) / wiener,
        "skill_over_spread": skill / ((1 + 1 / members) * spread),
        "seconds_per_member": seconds,
        "gaussian_gate": "passes" if verdict.passed else "refused",
    }


def cases(quick):
    """(label, rule, steps, options) of the Fourier model."""
    for steps in (1, 4, 8) if quick else (1, 4, 8, 16, 32, 64):
        yield "matched", "matched", steps, {}
    if quick:
        return
    yield "matched, Wiener error law", "matched", 8, {"spread": "wiener"}
    for steps in (8, 32):
        yield "matched, not calibrated on held-out data", "matched", steps, {"spread": "uncalibrated"}
        yield "ancestral", "ancestral", steps, {}
        yield "SDE-DPM-Solver++ 2M", "sde_dpmpp2m", steps, {}


def run(quick, members, same_budget, path, done):
    """All rows of one run, stored after each; `done` holds rows of an earlier run that was cut short."""
    model = open_model("ct-simulated")
    data = list(slices(model))[: 1 if quick else None]
    base = baselines(model, data)
    wiener = base["Wiener filter"]
    records = [{"method": k, "calls": 0, "mse_HU2": v, "error_over_wiener": v / wiener} for k, v in base.items()]
    jobs = [(model, *case) for case in cases(quick)]
    for steps in (8,) if quick else (8, 32):
        for label, source in same_budget.items():
            if source is not None:
                jobs.append((open_model(source), label, "matched", steps, {}))
    for used, label, rule, steps, options in jobs:
        known = [r for r in done if (r["method"], r["calls"], r.get("members")) == (label, steps, members)]
        records.append(known[0] if known else row(used, data, label, rule, steps, members, wiener, **options))
        print(json.dumps(records[-1]), flush=True)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(records, indent=1))
    return records


def render(records):
    """The table."""
    table = Table(title="Real CT, held-out patient (2 slices, 416 x 416)")
    for column in (
        "method",
        "calls",
        "error HU rms",
        "error/Wiener",
        "mean/Wiener",
        "skill/spread",
        "s/member",
        "card",
    ):
        table.add_column(column, justify="left" if column == "method" else "right")
    for r in records:
        cells = [r["method"], str(r["calls"] or ""), f"{r['mse_HU2'] ** 0.5:.1f}", f"{r['error_over_wiener']:.3f}"]
        if "members" in r:
            cells += [f"{r['mean_over_wiener']:.3f}", f"{r['skill_over_spread']:.2f}"]
            cells += [f"{r['seconds_per_member']:.2f}", r["gaussian_gate"]]
        table.add_row(*cells)
    return table


def trained(name):
    """Model of a configuration under runs/, where it was trained."""
    path = Path(__file__).resolve().parents[1] / "runs" / name / name
    return path if path.with_suffix(".json").exists() else None


def main():
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--resume", action="store_true", help="keep the rows of a run that was cut short")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--stage1", type=Path, default=trained("ct-fourier"))
    parser.add_argument("--scalar", type=Path, default=trained("ct-scalar"))
    parser.add_argument("--json", type=Path, default=RESULTS / "ct.json")
    arguments = parser.parse_args()
    same_budget = {
        "Fourier process, 6000 steps": arguments.stage1,
        "scalar process, 6000 steps": arguments.scalar,
    }
    for label, path in same_budget.items():
        if path is None:
            print(f"{label}: no model; train it with retrodict fit configs/ct-{label.split()[0].lower()}.yaml")
    done = json.loads(arguments.json.read_text()) if arguments.resume and arguments.json.exists() else []
    records = run(arguments.quick, arguments.members, same_budget, arguments.json, done)
    Console(width=130).print(render(records))


if __name__ == "__main__":
    main()
