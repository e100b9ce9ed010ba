"""Shapes at equal budget: details drawn (ours), details regressed (Hui et al. 2022), no details, direct diffusion, and
an auto-decoder (Park et al. 2019).

    python benchmarks/shapes.py [--seconds 80 160] [--only posterior direct]
    python benchmarks/shapes.py --docs               # the table of docs/shapes.md

A budget is CPU seconds of training, of all networks of a generator; a network goes on from its newest checkpoint to the
next budget, and so does the command.  The rate is constant and the weights that draw are the running average, so that a
shorter budget is the beginning of a longer one.  Drawn shapes are compared with shapes of another seed than those that
were trained on, and that the spread was measured on; `--against validation` is for choices.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import shape_rival
from retrodict._random import key
from retrodict.data import Group
from retrodict.denoisers.cascade import CascadeDenoiser
from retrodict.models.cascade import Generator, open_generator
from retrodict.models.model import save_model
from retrodict.shapes.mesh import Mesh
from retrodict.shapes.picture import shape_sheet
from retrodict.shapes.surface import surface
from retrodict.shapes.volume import Volume
from retrodict.tasks.fit import FitPlan, _built, batcher, calibrated, options_of, prepare_fit
from retrodict.tasks.fit_cascade import _built as built_cascade
from retrodict.tasks.fit_cascade import source_of
from retrodict.tasks.fit_config import FitConfig
from retrodict.tasks.machine import torch_threads
from retrodict.tasks.shape_data import shape_groups
from retrodict.tasks.shapes import compare_shapes, generate_shapes
from retrodict.training.cascade import LevelTrainer, calibrate_cascade, level_loss
from retrodict.training.loop import Objective, train
from retrodict.training.losses import Batch, denoising_loss
from tables import replace_block

VARIANTS = ("posterior", "regression", "none", "direct", "auto-decoder")
NET = {"width": 48, "multipliers": [1, 2], "blocks": 1}
LEVELS, SIDE, CLIP = 2, 32, 3.0
SHARES = (0.5, 0.35, 0.15)
"""Of the budget of a cascade, coarse to fine: the finest details are nearly all noise to the coarse image."""
CALLS, DIRECT_CALLS = (32, 16, 8), 64
TRAINED, CHOSEN, TEST, POINTS = 1500, 128, 64, 256
EVERY = 50
"""Steps between checkpoints: a budget is met to that many."""
SPACING = (1.0, 1.0, 1.0)


def config(variant: str, seed: int = 0, images: int = TRAINED + CHOSEN) -> FitConfig:
    """A generator of 32^3 voxels: networks of 4^3, 4^3 and 8^3 blocks for the cascade, of 8^3 for direct diffusion."""
    basis = {"name": "wavelet", "options": {"family": "db2", "levels": LEVELS, "alignment": "centered"}}
    if variant == "direct":
        process = {"name": "vp", "basis": {"name": "pixel"}}
        network = {"name": "unet", "options": {**NET, "patch": 4}}
    else:
        process = {"name": "wavelet_cascade", "options": {"horizon": 5, "spectrum": "data"}, "basis": basis}
        inner = {"name": "unet", "options": {**NET, "patch": 2}}
        network = {"name": "cascade", "options": {"details": variant, "net": inner}}
    return FitConfig.model_validate(
        {
            "name": variant,
            "spacing": SPACING,
            "intensity": {"unit": "mm", "scale": CLIP, "offset": 0.0},
            "process": process,
            "network": network,
            "bands": 0,
            "data": {
                "shapes": {"images": images, "clip": CLIP, "seed": seed},
                "validation": [f"shape-{i}" for i in range(CHOSEN)],
                "patch": [SIDE] * 3,
            },
            "training": {
                "steps": EVERY,
                "batch": 16,
                "learning_rate": 2e-3,
                "warmup": 100,
                "decay": 0.0,
                "ema": 0.998,
                "checkpoint_every": EVERY,
                "validate_every": 1_000_000,
                "threads": 1,
            },
        }
    )


NAMES = {
    "posterior": "details drawn (ours)",
    "regression": "details regressed (Hui et al. 2022), same coarse network",
    "none": "no details, all of the budget for the coarse network",
    "direct": "direct diffusion of the volume",
    "auto-decoder": "auto-decoder and a Gaussian of its codes (Park et al. 2019)",
    "training": "training shapes in place of drawn ones",
}


def table(content: dict[str, Any]) -> str:
    """What every generator reached at every budget, CPU seconds as they were spent."""
    head = ["generator", "budget, CPU s", "spent", "steps", "calls", "shapes"]
    head += ["1-NNA, Chamfer", "COV", "MMD, mm^2", "1-NNA, sliced", "novelty"]
    rows = []
    for variant in NAMES:
        for budget, own in sorted(content["variants"].get(variant, {}).items(), key=lambda pair: float(pair[0])):
            nets, c = own.get("networks", []), own["chamfer"]
            spent = f"{sum(n['cpu_seconds'] for n in nets):.0f}" if nets else ""
            taken = " + ".join(str(n["steps"]) for n in nets)
            called = str(own.get("calls", "1" if nets else ""))
            rest = [_one_nna(own, "chamfer"), f"{c['cov']:.2f}", f"{c['mmd']:.2f}", _one_nna(own, "sliced")]
            new = f"{own['novelty']:.2f}" if "novelty" in own else ""
            rows.append([NAMES[variant], budget if nets else "", spent, taken, called, str(c["made"]), *rest, new])
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _one_nna(own: dict[str, Any], name: str) -> str:
    """1-NNA, of repeats their mean and its standard error."""
    values = [own[name]["one_nna"], *own.get("again", {}).get(name, [])]
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


# ---- training by CPU seconds -----------------------------------------------------------------------------------------


@dataclass
class Spent:
    """CPU seconds and steps of one network, in a file beside its checkpoints."""

    folder: Path

    @property
    def known(self) -> dict[str, Any]:
        path = self.folder / "spent.json"
        return json.loads(path.read_text()) if path.exists() else {"steps": 0, "cpu_seconds": 0.0}

    def write(self, steps: int, seconds: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "spent.json").write_text(json.dumps({"steps": steps, "cpu_seconds": round(seconds, 2)}))


def trained(
    trainer: Any, plan: FitPlan, batch: Batch, folder: Path, seconds: float, seed: int, objective: Objective
) -> dict[str, Tensor]:
    """The averaged weights of a network after `seconds` CPU seconds of training, going on from what there is."""
    spent, options = Spent(folder), options_of(plan.config)
    steps, used = spent.known["steps"], spent.known["cpu_seconds"]
    while True:
        more = used < seconds
        start = time.process_time()
        now = replace(options, steps=steps + EVERY * more, seed=seed)
        average = train(trainer, batch, now, folder, objective=objective, identity=plan.identity)
        if not more:
            return average
        steps, used = steps + EVERY, used + time.process_time() - start
        spent.write(steps, used)


class Cascades:
    """The three cascades: two with one coarse network and networks of details of their own, and one without details,
    whose coarse network goes on from there for the rest of the budget."""

    def __init__(self, runs: Path, plan: FitPlan) -> None:
        self.runs, self.plan = runs, plan
        self.batch = batcher(plan.training, plan.spec.intensity)
        assert plan.validation is not None
        self.validation = batcher(plan.validation, plan.spec.intensity)

    def model(self, variant: str, seconds: float) -> tuple[Generator, dict[str, Any]]:
        """The generator after a budget, and what its networks took."""
        network = {**self.plan.spec.network}
        network["options"] = {**network["options"], "details": variant}
        spec = replace(self.plan.spec, network=network)
        denoiser = built_cascade(spec, self.plan.config)
        spent = []
        for scale, share in zip(range(LEVELS, -1, -1), SHARES, strict=True):
            if variant == "none" and scale < LEVELS:
                continue
            folder = self.runs / ("coarse" if scale == LEVELS else f"{variant}-{scale + 1}")
            if variant == "none":
                folder, share = self.alone(folder), 1.0
            trainer, own = LevelTrainer.of(denoiser, scale), key(0, "scale", scale) % 2**31
            average = trained(trainer, self.plan, self.batch, folder, share * seconds, own, level_loss)
            denoiser.model.net.net_of(scale).load_state_dict(average)  # type: ignore[attr-defined]
            spent.append(Spent(folder).known)
        spec = replace(spec, spread_scale=self.factors(denoiser))
        path = self.runs / f"{variant}-{seconds:g}"
        save_model(spec, denoiser.model.net.state_dict(), path)  # type: ignore[attr-defined]
        return open_generator(path), {"networks": spent}

    def alone(self, coarse: Path) -> Path:
        """The coarse network by itself: the first part of its training is that of the others."""
        folder = self.runs / "alone"
        if coarse.exists() and not folder.exists():
            shutil.copytree(coarse, folder)
        return folder

    def factors(self, denoiser: CascadeDenoiser) -> dict[str, Any]:
        exact = replace(denoiser, model=replace(denoiser.model, precision="float32"))  # type: ignore[type-var]
        return calibrate_cascade(exact, self.validation, source=source_of(self.plan)).model.factors.to_json()  # type: ignore[attr-defined]


def direct(runs: Path, seconds: float) -> tuple[Generator, dict[str, Any]]:
    """Diffusion of the truncated distance itself."""
    plan = prepare_fit(config("direct"), runs / "nothing", Path())
    denoiser, batch = _built(plan.spec, plan.config), batcher(plan.training, plan.spec.intensity)
    average = trained(denoiser, plan, batch, runs / "direct", seconds, 0, denoising_loss)
    path = runs / f"direct-{seconds:g}"
    save_model(calibrated(plan, average), average, path)
    return open_generator(path), {"networks": [Spent(runs / "direct").known]}


def decoded(runs: Path, seconds: float, plan: FitPlan, count: int, seed: int) -> tuple[list[Volume], dict[str, Any]]:
    """Volumes of the auto-decoder, and what it took."""
    volumes = torch.stack([image for _, image in plan.training.images()]) / CLIP
    found = shape_rival.learn(volumes, runs / "auto-decoder", seconds)
    start = time.process_time()
    made = [Volume(v[0].double().numpy() * CLIP, SPACING) for v in shape_rival.draw(found.net, count, seed=seed)]
    spent = {"steps": found.step, "cpu_seconds": round(found.cpu_seconds, 2)}
    about = {"networks": [spent], "fit": round(found.loss, 5), "drawing_cpu_seconds": time.process_time() - start}
    return made, about


# ---- the comparison --------------------------------------------------------------------------------------------------


def surfaces(groups: list[Group]) -> list[Mesh]:
    return [surface(_volume(g)) for g in groups]


def _volume(group: Group) -> Volume:
    return Volume(group.images[0].values[0].double().numpy(), group.images[0].spacing)


def made_by(
    variant: str, seconds: float, cascades: Cascades, count: int, seed: int = 1
) -> tuple[list[Volume], dict[str, Any]]:
    """Volumes that a generator draws after a budget, and what training and drawing took."""
    if variant == "auto-decoder":
        return decoded(cascades.runs, seconds, cascades.plan, count, seed)
    model, about = direct(cascades.runs, seconds) if variant == "direct" else cascades.model(variant, seconds)
    start = time.process_time()
    calls = DIRECT_CALLS if variant == "direct" else CALLS
    drawn = generate_shapes(model, count, seed=seed, steps=calls, threads=1)
    about |= {"calls": drawn.record["calls"], "full": drawn.record["full"], "law": drawn.record["law"]}
    return drawn.volumes, {**about, "drawing_cpu_seconds": time.process_time() - start}


def compared(volumes: list[Volume], reference: list[Mesh], known: list[Mesh]) -> dict[str, Any]:
    made = [surface(v) for v in volumes if (v.values < 0).any() and (v.values > 0).any()]
    return {"empty": len(volumes) - len(made), **compare_shapes(made, reference, known, points=POINTS)}


def again(variant: str, seconds: float, cascades: Cascades, count: int, repeats: int) -> dict[str, list[float]]:
    """1-NNA of further draws, each against held-out shapes of a seed of its own."""
    found: dict[str, list[float]] = {"chamfer": [], "sliced": []}
    for seed in range(2, repeats + 1):
        volumes, _ = made_by(variant, seconds, cascades, count, seed)
        made = [surface(v) for v in volumes if (v.values < 0).any() and (v.values > 0).any()]
        reference = surfaces(shape_groups(config("posterior", seed=seed, images=count), Path()))
        one = compare_shapes(made, reference, points=POINTS)
        for name, values in found.items():
            values.append(one[name]["one_nna"])
    return found


def picture(rows: list[Path], held: list[Group]) -> bytes:
    """Eight shapes of every generator, and as many that were held out."""
    shown = [Volume(v, SPACING) for path in rows for v in np.load(path)["values"][:8]]
    return shape_sheet([*shown, *(_volume(g) for g in held[:8])], columns=8, pixels=112)


def measured(given: argparse.Namespace, cascades: Cascades, say: Callable[[dict[str, Any]], None]) -> None:
    """Every generator at every budget that has no record yet."""
    trained_on = shape_groups(config("posterior", images=2 * CHOSEN), Path())
    test = shape_groups(config("posterior", seed=1, images=given.shapes), Path())
    held = trained_on[:CHOSEN] if given.against == "validation" else test
    reference, known = surfaces(held), surfaces(trained_on[CHOSEN:])
    records = given.records
    if str(len(reference)) not in records.setdefault("training", {}):
        beside = compare_shapes(known[: len(reference)], reference, points=POINTS)
        records["training"][str(len(reference))] = beside
        say(records)
    for seconds in given.seconds:
        for variant in given.only if seconds == given.seconds[-1] else given.only[:1]:
            if f"{seconds:g}" in records.get(variant, {}):
                continue
            volumes, about = made_by(variant, seconds, cascades, len(held))
            own = {**about, **compared(volumes, reference, known)}
            records.setdefault(variant, {})[f"{seconds:g}"] = own
            values = np.stack([v.values for v in volumes]).astype(np.float32)
            np.savez_compressed(cascades.runs / f"{variant}-{given.against}.npz", values=values)
            print(variant, seconds, json.dumps(own), flush=True)
            say(records)
    for variant in given.only if given.repeats > 1 else ():
        own = records[variant][f"{given.seconds[-1]:g}"]
        if len(own.get("again", {}).get("chamfer", ())) < given.repeats - 1:
            own["again"] = again(variant, given.seconds[-1], cascades, len(held), given.repeats)
            print(variant, json.dumps(own["again"]), flush=True)
            say(records)
    if given.against == "test":
        rows = [p for n in VARIANTS if (p := cascades.runs / f"{n}-test.npz").exists()]
        given.picture.write_bytes(picture(rows, test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[80, 160], help="CPU seconds of training")
    parser.add_argument("--runs", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shapes.json"))
    parser.add_argument("--only", nargs="*", default=VARIANTS, choices=VARIANTS, help="the first at all budgets")
    parser.add_argument("--shapes", type=int, default=TEST, help=f"drawn and held out, at most {CHOSEN}")
    parser.add_argument("--repeats", type=int, default=1, help="of the last budget: other draws, other held-out shapes")
    parser.add_argument("--against", choices=("test", "validation"), default="test")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/shapes-benchmark.png"))
    parser.add_argument("--docs", action="store_true", help="only write the table of the page on shapes")
    given = parser.parse_args()
    if given.docs:
        replace_block(Path("docs/shapes.md"), "shapes", table(json.loads(given.out.read_text())))
        return
    kept = json.loads(given.out.read_text()) if given.out.exists() else {}
    place = "variants" if given.against == "test" else "validation"
    given.records = kept.get(place, {})
    if not 2 <= given.shapes <= CHOSEN:
        parser.error(f"--shapes {given.shapes}: from 2 to {CHOSEN}")
    about = {"trained_on": TRAINED, "points": POINTS, "shares": SHARES}

    def say(records: dict[str, Any]) -> None:
        given.out.write_text(json.dumps({**kept, **about, place: records}, indent=1) + "\n")

    with torch_threads(1):
        plan = prepare_fit(config("posterior"), given.runs / "nothing", Path())
        measured(given, Cascades(given.runs, plan), say)


if __name__ == "__main__":
    main()
