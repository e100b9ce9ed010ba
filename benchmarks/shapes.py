"""Shapes at equal budget: details drawn (ours), details regressed (Hui et al. 2022), no details, and direct diffusion.

    python benchmarks/shapes.py [--steps 500] [--out benchmarks/results/shapes.json]

Every variant is fit by the ordinary `fit` (resumable: run it again to go on) on one procedural set and drawn by the
ordinary loop.  The coarse network is the same in the first three: same data, seed and steps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from retrodict.models.cascade import open_generator
from retrodict.shapes.picture import sheet
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_config import FitConfig
from retrodict.tasks.shapes import compare_shapes, generate_shapes, shape_sides

NET = {"name": "unet", "options": {"width": 32, "multipliers": [1, 2], "blocks": 1}}
VARIANTS = ("posterior", "regression", "none", "direct")
HELD = 64


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="of each of two networks")
    parser.add_argument("--images", type=int, default=464)
    parser.add_argument("--calls", type=int, default=16, help="of every level, and twice as many for the direct model")
    parser.add_argument("--runs", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shapes.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/shapes-benchmark.png"))
    parser.add_argument("--only", nargs="*", default=VARIANTS)
    given = parser.parse_args()
    records, rows = (json.loads(given.out.read_text())["variants"] if given.out.exists() else {}), []
    training, held = shape_sides(config("posterior", given.steps, given.images), Path())
    for variant in given.only:
        start = time.process_time()
        settings, folder = config(variant, given.steps, given.images), given.runs / variant
        plan = prepare_fit(settings, folder, Path())
        model = fit(plan, folder, tensorboard=False)
        spent = time.process_time() - start
        calls = 2 * given.calls if variant == "direct" else given.calls
        start = time.process_time()
        drawn = generate_shapes(open_generator(model.with_suffix("")), HELD, seed=1, steps=calls, threads=1)
        meshes = [m for m in drawn.meshes if m is not None]
        scores = compare_shapes(meshes, held, training[:256])
        records[variant] = {
            "parameters": plan.parameters,
            "cpu_seconds": spent,
            "drawing_seconds": time.process_time() - start,
            "calls": drawn.record["calls"],
            "empty": drawn.record["empty"],
            **scores,
        }
        rows += drawn.volumes[:8]
        print(variant, json.dumps(records[variant]), flush=True)
    if "training" not in records:
        records["training"] = compare_shapes(training[:HELD], held, training[HELD : HELD + 256])
        print("training", json.dumps(records["training"]), flush=True)
    record = {"steps": given.steps, "images": given.images - HELD, "held_out": HELD, "variants": records}
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    given.picture.write_bytes(sheet(rows, columns=8, pixels=112))


if __name__ == "__main__":
    main()
