"""Shapes at equal budget: details drawn (ours), details regressed (Hui et al. 2022), no details, and direct diffusion.

    python benchmarks/shapes.py [--steps 500] [--out benchmarks/results/shapes.json]

Every variant is fit by the ordinary `fit` (resumable: run it again to go on) on one procedural set and drawn by the
ordinary loop.  The coarse network is the same in the first three: same data, seed and steps.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrodict.denoisers.cascade_net import RegressionModel
from retrodict.models.cascade import Generator, build_cascade, open_generator
from retrodict.shapes.picture import shape_sheet
from retrodict.shapes.volume import Volume
from retrodict.tasks.fit import batcher, fit, options_of, prepare_fit
from retrodict.tasks.fit_config import FitConfig
from retrodict.tasks.machine import torch_threads
from retrodict.tasks.shape_data import shape_groups
from retrodict.tasks.shapes import compare_shapes, generate_shapes, shape_sides
from retrodict.training.cascade import LevelTrainer, level_loss
from retrodict.training.loop import train

NET = {"name": "unet", "options": {"width": 32, "multipliers": [1, 2], "blocks": 1}}
VARIANTS = ("posterior", "none", "regression", "direct")
HELD, KNOWN, POINTS = 64, 64, 256


def config(variant: str, steps: int, images: int) -> FitConfig:
    """One training of `steps` steps of every network: two of 16^3, or one of 32^3, whose step costs as much as both."""
    wavelet = {"name": "wavelet", "options": {"family": "db2", "levels": 1, "alignment": "centered"}}
    if variant == "direct":
        process = {"name": "vp", "basis": {"name": "pixel"}}
        network = {"name": "unet", "options": {**NET["options"], "patch": 4}}  # 8^3 blocks, as the others
    else:
        process = {"name": "wavelet_cascade", "options": {"horizon": 5, "spectrum": "data"}, "basis": wavelet}
        inner = {"name": "unet", "options": {**NET["options"], "patch": 2}}
        network = {"name": "cascade", "options": {"details": variant, "net": inner}}
    return FitConfig.model_validate(
        {
            "name": variant,
            "spacing": [1.0] * 3,
            "intensity": {"unit": "mm", "scale": 3.0, "offset": 0.0},
            "process": process,
            "network": network,
            "bands": 0,
            "data": {
                "shapes": {"images": images, "clip": 3},
                "validation": [f"shape-{i}" for i in range(HELD)],
                "patch": [32] * 3,
            },
            "training": {
                "steps": steps,  # a step of the direct model costs what one of both networks costs
                "batch": 8,
                "learning_rate": 2e-3,
                "warmup": 30,
                "ema": 0.99,
                "checkpoint_every": 100,
                "validate_every": 100_000,
                "threads": 1,
            },
        }
    )


def trained(variant: str, given: argparse.Namespace) -> Generator:
    """The model of a variant; the first three share the coarse network of the first."""
    base = "posterior" if variant == "none" else variant
    settings, folder = config(base, given.steps, given.images), given.runs / base
    if variant != "regression":
        if not (folder / f"{base}.json").exists():
            fit(prepare_fit(settings, folder, Path()), folder, tensorboard=False)
        found = open_generator(folder / base)
        if variant == "none":
            model = RegressionModel(**{**vars(found.denoiser.model), "silent": True})
            found = replace(found, denoiser=replace(found.denoiser, model=model))
        return found
    first = trained("posterior", given)
    plan = prepare_fit(settings, folder, Path())
    denoiser = build_cascade(plan.spec)
    weights = first.denoiser.model.net.state_dict()
    denoiser.model.net.load_state_dict(weights)
    trainer, batch = LevelTrainer.of(denoiser, 0), batcher(plan.training, plan.spec.intensity)
    with torch_threads(1):
        average = train(trainer, batch, options_of(settings), folder, objective=level_loss, identity=plan.identity)
    trainer.net.load_state_dict(average)
    return replace(
        first,
        spec=plan.spec,
        denoiser=replace(
            denoiser,
            model=replace(
                denoiser.model,
                net=denoiser.model.net.eval().requires_grad_(False),
                factors=first.denoiser.model.factors,
            ),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="of each network")
    parser.add_argument("--images", type=int, default=464)
    parser.add_argument("--calls", type=int, default=16, help="of every level, and twice as many for the direct model")
    parser.add_argument("--runs", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shapes.json"))
    parser.add_argument("--only", nargs="*", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--picture", type=Path, default=Path("docs/images/shapes-benchmark.png"))
    given = parser.parse_args()
    records = json.loads(given.out.read_text())["variants"] if given.out.exists() else {}
    training, held = shape_sides(config("posterior", given.steps, given.images), Path())
    if "training" not in records:
        records["training"] = compare_shapes(training[:HELD], held, training[HELD : HELD + KNOWN], points=POINTS)
        print("training", json.dumps(records["training"]), flush=True)
    for variant in given.only:
        volumes = given.runs / f"{variant}.npz"
        if variant not in records or not volumes.exists():
            start = time.process_time()
            model = trained(variant, given)
            spent = time.process_time() - start
            calls = 2 * given.calls if variant == "direct" else given.calls
            start = time.process_time()
            drawn = generate_shapes(model, HELD, seed=1, steps=calls, threads=1)
            records[variant] = {
                "parameters": sum(t.numel() for t in read_tensors_of(model).values()),
                "training_cpu_seconds_this_run": round(spent, 1),
                "drawing_cpu_seconds": round(time.process_time() - start, 1),
                "calls": drawn.record["calls"],
                "empty": drawn.record["empty"],
                **compare_shapes([m for m in drawn.meshes if m is not None], held, training[:KNOWN], points=POINTS),
            }
            np.savez_compressed(volumes, values=np.stack([v.values for v in drawn.volumes]).astype(np.float32))
            print(variant, json.dumps(records[variant]), flush=True)
        record = {"steps": given.steps, "images": given.images - HELD, "held_out": HELD, "variants": records}
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    drawn = [n for n in VARIANTS if (given.runs / f"{n}.npz").exists()]
    rows = [Volume(v, (1.0,) * 3) for n in drawn for v in np.load(given.runs / f"{n}.npz")["values"][:8]]
    shown = [g.images[0] for g in shape_groups(config("posterior", 1, 8), Path())]
    rows += [Volume(image.values[0].double().numpy(), image.spacing) for image in shown]
    given.picture.write_bytes(shape_sheet(rows, columns=8, pixels=112))


def read_tensors_of(model: Generator) -> dict:
    inner = getattr(model.denoiser, "model", model.denoiser)
    return inner.net.state_dict()


if __name__ == "__main__":
    main()
