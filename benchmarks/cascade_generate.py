"""CT slices generated whole, by a wavelet cascade and by models of pixels of equal training time.

    python benchmarks/cascade_generate.py OUT --seconds 330      # CT, 256 x 256 of 1.5 mm; cut short, it goes on
    python benchmarks/cascade_generate.py OUT --kinds ct-512 --steps 16 --count 8
    python benchmarks/cascade_generate.py OUT --times            # seconds of a cascade over the side of the image
    python benchmarks/cascade_generate.py OUT --show             # print what is there
    python benchmarks/cascade_generate.py OUT --docs             # ... into benchmarks/results and the documents

All networks are the same U-Net, trained on parts of 64 x 64 pixels for the same CPU seconds: "cascade" is one network a
level of `wavelet_cascade`, each on parts of its sub-lattice and that of the coarse image of 16 x 16 on all of it;
"pixel" is vp with one variance known and "fourier" vp with the whole spectrum known.  All learn the law of their error,
from which `matched` draws.  Drawn images are compared with slices of patients whom no training saw (`whole_images.py`).
"real" are the slices that were trained on, in place of drawn ones, and "floor" one half of the held-out patients
against the other.  Scatter is a bootstrap over patients and drawn images.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image as Picture
from torch import Tensor

from patient_slices import body_corner, slices
from retrodict._check import Recipe, build
from retrodict._random import key
from retrodict.bases import Pixel, Wavelet
from retrodict.bases.spectrum import BandSpectrum
from retrodict.data.resample import resample_axes
from retrodict.denoisers.cascade import CascadeDenoiser, LevelLaw, View
from retrodict.denoisers.cascade_net import NetModel
from retrodict.models.cascade import Generator, open_generator
from retrodict.models.model import save_model
from retrodict.nets import NETS
from retrodict.nets.cascade import CascadeNet
from retrodict.processes.wavelet import wavelet_cascade
from retrodict.report.measurement import finish
from retrodict.samplers import make_plan, sample, start_state
from retrodict.samplers.cascade import cascade_grid, cascade_stages, sample_cascade
from retrodict.tasks.fit import _built, _spectrum, batcher, prepare_fit
from retrodict.tasks.fit_cascade import _built as built_cascade
from retrodict.tasks.fit_cascade import source_of
from retrodict.tasks.fit_config import FitConfig, load_config
from retrodict.tasks.forecast import _Live
from retrodict.tasks.generate import generate
from retrodict.tasks.machine import torch_threads
from retrodict.training.calibrate import calibrate_spread
from retrodict.training.cascade import LevelTrainer, calibrate_cascade, level_loss
from retrodict.training.losses import denoising_loss
from shapes import Spent, trained
from tables import replace_block, table
from whole_images import Grid, Measured, errors, grid_of, halves, measure, nearest, scatter

MODELS = ("cascade", "pixel", "fourier")
STEPS = (8, 16, 64)
SHOWN = (16, 64)
"""Steps of what the picture shows."""
PATCH = 64
"""Side of the parts that every network is trained on, in pixels of its own images and bands together."""
NET = {"name": "unet", "options": {"width": 32, "multipliers": [1, 2, 4], "blocks": 1}}
JITTER = 16
"""Slices are trained on at places that differ by up to 1 / JITTER of their side: they are few."""
HELD = 0.1
"""Of the patients trained on: their slices measure the spread of the networks, and train none."""


@dataclass(frozen=True)
class Kind:
    """Slices of one grid: side, pixel in mm; shares of the budget of a cascade, coarse first, as many as there are
    networks down to 16 x 16."""

    side: int
    spacing: float
    shares: tuple[float, ...]

    @property
    def levels(self) -> int:
        """Of the transform."""
        return len(self.shares) - 1


KINDS = {
    "ct-256": Kind(256, 1.5, (0.36, 0.16, 0.16, 0.16, 0.16)),
    "ct-512": Kind(512, 0.75, (0.3, 0.14, 0.14, 0.14, 0.14, 0.14)),
}


# ---- images ----------------------------------------------------------------------------------------------------------


def whole(values: Tensor, spacing: Sequence[float], side: int, pixel: float) -> Tensor:
    """A slice of HU `(H, W)` on `side` x `side` pixels of `pixel` mm round the middle of the body, air beyond it."""
    x = resample_axes(values.clamp(-1000.0, 2000.0), spacing, (pixel, pixel))[0]
    missing = [max(0, side - n) for n in x.shape]
    ends = [k for n in reversed(missing) for k in (n // 2, n - n // 2)]
    x = torch.nn.functional.pad(x, ends, value=-1000.0)
    y, z = body_corner(x, side)
    return x[y : y + side, z : z + side].contiguous()


def chests(kind: Kind, split: str, side: int) -> dict[str, list[Tensor]]:
    """Slices of the trunk by patient: 512 x 512 pixels of at most 1.15 times the pixel wanted."""
    found: dict[str, list[Tensor]] = {}
    for item in slices(split):
        if tuple(item.image.values.shape[-2:]) == (512, 512) and max(item.spacing) <= 1.15 * kind.spacing:
            values = whole(item.image.values.reshape(512, 512), item.spacing, side, kind.spacing)
            found.setdefault(item.patient, []).append(values)
    return found


def prepare(out: Path, name: str) -> None:
    """Write the images to train on, a folder a patient, and those that are held out."""
    kind, folder = KINDS[name], out / name
    if (folder / "held.npz").exists():
        return
    training, held = chests(kind, "train", kind.side + kind.side // JITTER), chests(kind, "validation", kind.side)
    for i, images in enumerate(training.values()):
        own = folder / "images" / f"{i:03d}"
        own.mkdir(parents=True, exist_ok=True)
        for k, x in enumerate(images):
            np.savez(own / f"{k}.npz", image=x.numpy(), spacing=[kind.spacing] * 2, unit="HU")
    groups = [np.full(len(images), i) for i, images in enumerate(held.values())]
    stacks = [torch.stack(images).numpy() for images in held.values()]
    np.savez(folder / "held.npz", images=np.concatenate(stacks), groups=np.concatenate(groups))


# ---- models ----------------------------------------------------------------------------------------------------------


def configuration(name: str, model: str, root: Path) -> FitConfig:
    """What `retrodict fit` would be given."""
    kind, net = KINDS[name], NET
    process: dict[str, Any] = {"name": "vp", "basis": {"name": model}}
    if model == "cascade":
        basis = {"name": "wavelet", "options": {"family": "db4", "levels": kind.levels, "alignment": "centered"}}
        process = {"name": "wavelet_cascade", "options": {"horizon": 5, "spectrum": "data"}, "basis": basis}
        net = {"name": "cascade", "options": {"crop": PATCH // 2, "net": NET}}
    return FitConfig.model_validate(
        {
            "name": f"{name}-{model}",
            "spacing": [kind.spacing] * 2,
            "intensity": {"unit": "HU", "scale": 200.0, "offset": -1000.0},
            "process": process,
            "network": net,
            "bands": {"cascade": 0, "pixel": 1, "fourier": 4}[model],  # all learn the law of their error
            "data": {
                "root": str(root),
                "folders": ["images"],
                "modality": None,
                "validation": HELD,
                "patch": [kind.side if model == "cascade" else PATCH] * 2,
                "turn": False,
            },
            "training": {"steps": 50, "batch": 16, "learning_rate": 1e-3, "warmup": 50, "decay": 0.0, "ema": 0.995,
                         "checkpoint_every": 50, "validate_every": 1_000_000, "threads": 1},
        }
    )  # fmt: skip


def train(out: Path, name: str, model: str, seconds: float) -> tuple[Generator, list[dict[str, Any]]]:
    """A model after so many CPU seconds of training, and what its networks took; what is there is kept."""
    folder, path = out / name / model, out / name / f"{model}-{seconds:g}"
    stated = path.with_suffix(".spent.json")
    if path.with_suffix(".json").exists() and stated.exists():
        return open_generator(path), json.loads(stated.read_text())
    plan = prepare_fit(configuration(name, model, out / name), folder / "nothing", out)
    for patches in (plan.training, plan.validation):
        patches.max_empty = 1.0  # type: ignore[union-attr]  # air is part of the law that is learned
    batch, held = batcher(plan.training, plan.spec.intensity), batcher(plan.validation, plan.spec.intensity)  # type: ignore[arg-type]
    if model == "cascade":
        denoiser, spent = built_cascade(plan.spec, plan.config), []
        for scale, share in zip(range(KINDS[name].levels, -1, -1), KINDS[name].shares, strict=True):
            own, seed = folder / f"scale-{scale}", key(0, "scale", scale) % 2**31
            print(f"{name} {model}: scale {scale}, {share * seconds:.0f} CPU s", flush=True)
            trainer = LevelTrainer.of(denoiser, scale, PATCH // 2)
            average = trained(trainer, plan, batch, own, share * seconds, seed, level_loss)
            denoiser.model.net.net_of(scale).load_state_dict(average)  # type: ignore[attr-defined]
            spent.append(Spent(own).known)
        exact = replace(denoiser, model=replace(denoiser.model, precision="float32"))  # type: ignore[type-var]
        factors = calibrate_cascade(exact, held, rounds=2, size=8, source=source_of(plan)).model.factors  # type: ignore[attr-defined]
        spec, weights = replace(plan.spec, spread_scale=factors.to_json()), denoiser.model.net.state_dict()  # type: ignore[attr-defined]
    else:
        spectrum = _spectrum(plan.config, plan.training, plan.spec.intensity)
        if model == "pixel":  # one number, which is that of the patches on every grid
            variance = float(spectrum.on(Pixel((PATCH, PATCH), tuple(plan.config.spacing))).mean())
            spectrum = replace(spectrum, power=(variance,) * len(spectrum.power))
        plan.spec = replace(plan.spec, spectrum=spectrum.to_json())
        denoiser = _built(plan.spec, plan.config)
        print(f"{name} {model}: {seconds:.0f} CPU s", flush=True)
        weights = trained(denoiser, plan, batch, folder, seconds, 0, denoising_loss)
        denoiser.net.load_state_dict(weights)
        scale = calibrate_spread(replace(denoiser, precision="float32"), held)
        spec, spent = replace(plan.spec, spread_scale=None if scale is None else asdict(scale)), [Spent(folder).known]
    save_model(spec, weights, path)
    stated.write_text(json.dumps(spent))
    return open_generator(path), spent


# ---- what they draw --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Held-out images `(n, N, N)` with the patient of each, those that were trained on, and all that is compared."""

    held: np.ndarray
    groups: np.ndarray
    known: np.ndarray
    grid: Grid
    measured: Measured
    patients: int

    @classmethod
    def of(cls, out: Path, name: str) -> Reference:
        """From the files of `prepare`; slices to train on have their middle here."""
        kind, folder = KINDS[name], out / name
        with np.load(folder / "held.npz") as archive:
            held, groups = archive["images"], archive["groups"]
        known = []
        for path in sorted((folder / "images").glob("*/*.npz")):
            with np.load(path) as archive:
                x = archive["image"]
            y, z = ((n - kind.side) // 2 for n in x.shape)
            known.append(x[y : y + kind.side, z : z + kind.side])
        grid = grid_of(held, np.arange(-950.0, 1501.0, 2.0), kind.levels)
        patients = len(list((folder / "images").iterdir()))
        return cls(held, groups, np.stack(known), grid, measure(held, grid), patients)

    def row(self, images: np.ndarray) -> dict[str, Any]:
        """How far images are from those held out, with the scatter, and how near to one that was trained on."""
        own, known = measure(images, self.grid), measure(self.known, self.grid).layout
        found = errors(own, self.measured, self.grid)
        near = nearest(own.layout, known) / nearest(self.measured.layout, known)
        sd = scatter(own, self.measured, self.groups.tolist(), self.grid)
        return {**found, "nearest": near, "sd": sd, "images": len(images)}


def compare(out: Path, name: str, given: argparse.Namespace, known: dict[str, Any], keep: Any) -> None:
    """Every model and number of steps that has no row yet."""
    prepare(out, name)
    reference = Reference.of(out, name)
    about = {"kind": name, "patients": reference.patients, "slices": len(reference.known)}
    about |= {"held patients": len(np.unique(reference.groups)), "held slices": len(reference.held)}
    if f"{name} floor" not in known:
        one, two = halves(reference.measured, reference.groups.tolist())
        known[f"{name} floor"] = {**about, "model": "floor", **errors(one, two, reference.grid)}
        known[f"{name} real"] = {**about, "model": "real", **reference.row(reference.known), "nearest": None}
        keep(known)
    for model in given.models:
        generator, spent = train(out, name, model, given.seconds)
        for steps in given.steps:
            label = f"{name} {model} {steps}"
            if label in known:
                continue
            images, row = drawn(generator, KINDS[name].side, steps, given.count)
            np.savez_compressed(out / name / f"drawn-{model}-{steps}.npz", images=images.astype(np.float32))
            known[label] = {**about, "model": model, "steps": steps, **row, **reference.row(images), "training": spent}
            keep(known)
            print(label, json.dumps({k: v for k, v in known[label].items() if k != "training"}), flush=True)


def drawn(generator: Generator, side: int, steps: int, count: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Images `(count, N, N)`, and CPU seconds and megabytes of one."""
    with _Live() as live:
        generate(generator, 1, seed=4, steps=1, size=(side, side), threads=1)
    begin = time.process_time()
    made = generate(generator, count, seed=3, steps=steps, size=(side, side), batch=4, threads=1)
    row = {"full": made.record["full"], "seconds": (time.process_time() - begin) / count, "law": made.record["law"]}
    return made.images[:, 0].numpy(), {**row, "megabytes": live.peak / 1e6}


# ---- the time of the loop --------------------------------------------------------------------------------------------


class Clocked:
    """A model of levels that adds up the CPU seconds of its answers."""

    multiple = 1

    def __init__(self, model: NetModel) -> None:
        self.model, self.seconds = model, 0.0

    def answer(self, view: View) -> LevelLaw:
        """That of the model."""
        begin = time.process_time()
        law = self.model.answer(view)
        self.seconds += time.process_time() - begin
        return law


def untrained(side: int) -> tuple[CascadeDenoiser, Clocked]:
    """A cascade with the networks of configs/wavelet-cascade.yaml, Haar levels down to 8 x 8."""
    config = load_config(Path(__file__).resolve().parents[1] / "configs" / "wavelet-cascade.yaml")
    recipe = Recipe.from_json(config.network.options["net"], "net")
    levels = side.bit_length() - 4
    basis = Wavelet((side, side), levels=levels, family="haar", alignment="centered")
    spectrum = BandSpectrum.of(basis, 0.0, [1.0] * len(basis.places()))
    nets = CascadeNet(lambda **shape: build(NETS, recipe, "net", **shape), levels=levels).requires_grad_(False)
    model = Clocked(NetModel(nets))
    return CascadeDenoiser(wavelet_cascade(basis, spectrum=spectrum), model, spectrum), model  # type: ignore[arg-type]


def times(sides: Sequence[int] = (64, 128, 256, 512), steps: int = 8) -> list[dict[str, float]]:
    """CPU seconds of one image, the least of three: every row on the whole lattice, and each on its sub-lattice."""
    rows = []
    for side in sides:
        denoiser, model = untrained(side)
        seeds, variance = torch.zeros(1, dtype=torch.int64), denoiser.prior()[1]  # type: ignore[index]
        plan = make_plan("matched", denoiser.process, cascade_grid(denoiser.process, steps), variance)
        stages = cascade_stages(denoiser, "matched", steps)

        def whole(denoiser: Any = denoiser, plan: Any = plan, seeds: Tensor = seeds, variance: Any = variance) -> None:
            start = start_state(denoiser.process, seeds, (1, *denoiser.process.basis.size), spectrum=variance)
            sample(denoiser, plan, start, seeds=seeds)

        row: dict[str, float] = {"side": side, "levels": denoiser.views.basis.depth, "steps": steps}
        for name, run in (
            ("whole", whole),
            ("parts", lambda stages=stages, seeds=seeds: sample_cascade(stages, seeds)),
        ):
            best = (float("inf"), 0.0)
            for _ in range(3):
                model.seconds, begin = 0.0, time.process_time()
                run()
                best = min(best, (time.process_time() - begin, model.seconds))
            row[name], row[f"{name}, networks"] = best
        rows.append(row)
        print(row, flush=True)
    return rows


# ---- tables, picture -------------------------------------------------------------------------------------------------

COLUMNS = ("spectrum", "pixels", "bands", "mean", "deviation")


def figures(known: dict[str, Any]) -> str:
    """All rows in Markdown."""
    rows = []
    found = [r for label, r in known.items() if label != "times"]
    order = ("floor", "real", *MODELS)
    for row in sorted(found, key=lambda r: (r["kind"], order.index(r["model"]), r.get("steps", 0))):
        kind, sd = KINDS[row["kind"]], row.get("sd", {})
        head = [f"{kind.side}², {kind.spacing:g} mm", row["model"]]
        head += [str(row.get("steps", "")), f"{row['full']:.3g}" if "full" in row else ""]
        body = [f"{row[c]:.3f}" + (f" ± {sd[c]:.3f}" if c in sd else "") for c in COLUMNS]
        near = row.get("nearest")
        cost = [f"{row['seconds']:.2f}", f"{row['megabytes']:.0f}"] if "seconds" in row else ["", ""]
        rows.append([*head, *body, "" if near is None else f"{near:.2f}", *cost])
    head = [
        "image",
        "model",
        "steps",
        "full-lattice calls",
        "spectrum",
        "pixels",
        "bands",
        "mean layout",
        "its deviation",
    ]
    return table([*head, "nearest trained on", "CPU s", "MB"], rows) + "\n\n" + counted(known)


def counted(known: dict[str, Any]) -> str:
    """Who was trained on and who is held out, and the budget as it was spent."""
    words = []
    for kind in dict.fromkeys(r["kind"] for label, r in known.items() if label != "times"):
        own = [r for label, r in known.items() if label != "times" and r["kind"] == kind]
        first, made = own[0], max(r.get("images", 0) for r in own if r["model"] in MODELS) if len(own) > 2 else 0
        spent = {r["model"]: r["training"] for r in own if "training" in r}
        each = [
            f"{m} {sum(n['cpu_seconds'] for n in nets):.0f} s ({' + '.join(str(n['steps']) for n in nets)} steps)"
            for m, nets in spent.items()
        ]
        words.append(
            f"{kind}: {first['slices']} slices of {first['patients']} patients trained on, {first['held slices']} of "
            f"{first['held patients']} held out, {made} drawn; CPU seconds of training: {', '.join(each)}."
        )
    return "\n".join(words)


def seconds_table(rows: Sequence[dict[str, float]]) -> str:
    """Seconds over the side."""
    head = ["side", "levels", "before, CPU s", "of it networks", "now, CPU s", "of it networks", "now, µs a pixel"]
    body = [
        [f"{r['side']:g}²", f"{r['levels']:g}", f"{r['whole']:.2f}", f"{r['whole, networks']:.2f}", f"{r['parts']:.2f}",
         f"{r['parts, networks']:.2f}", f"{1e6 * r['parts'] / r['side'] ** 2:.1f}"]
        for r in rows
    ]  # fmt: skip
    return table(head, body)


def picture(out: Path, name: str, shown: Sequence[tuple[str, int]], count: int = 4) -> bytes:
    """PNG from -1000 to 400 HU: held-out slices of different patients, and the first that each model drew."""
    with np.load(out / name / "held.npz") as archive:
        first = np.unique(archive["groups"], return_index=True)[1][:count]
        rows = [("held out", archive["images"][first])]
    for model, steps in shown:
        with np.load(out / name / f"drawn-{model}-{steps}.npz") as archive:
            rows.append((f"{model}, {steps} steps", archive["images"][:count]))
    figure = Figure(figsize=(1.6 * count, 1.7 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (title, images) in zip(axes, rows, strict=True):
        for panel, image in zip(line, images, strict=True):
            panel.imshow(image, cmap="gray", vmin=-1000.0, vmax=400.0, interpolation="nearest")
            panel.set_axis_off()
        line[0].set_title(title, loc="left", fontsize=10)
    stream = io.BytesIO()
    Picture.open(io.BytesIO(finish(figure))).convert("L").quantize(24).save(stream, "png", optimize=True)
    return stream.getvalue()


def documents(out: Path) -> None:
    """What is in OUT, into benchmarks/results and the page of cascades."""
    root = Path(__file__).resolve().parents[1]
    known = json.loads((out / "cascade-generate.json").read_text())
    (root / "benchmarks" / "results" / "cascade_generate.json").write_text(json.dumps(known, indent=1) + "\n")
    page = root / "docs" / "experiment-wavelet-cascade.md"
    replace_block(page, "cascade-generate", figures(known))
    if "times" in known:
        replace_block(page, "cascade-times", seconds_table(known["times"]))
    shown = [(m, n) for m in ("cascade", "pixel") for n in SHOWN if f"ct-256 {m} {n}" in known]
    if shown:
        (root / "docs" / "images" / "cascade-generate.png").write_bytes(picture(out, "ct-256", shown))


def main() -> None:
    """Run, show, or write into the documents."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", default="ct-256", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--models", default="cascade,pixel", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--seconds", type=float, default=330, help="CPU seconds of training a model")
    parser.add_argument("--steps", default=",".join(map(str, STEPS)), help="of every level")
    parser.add_argument("--count", type=int, default=24, help="images drawn")
    parser.add_argument("--times", action="store_true", help="seconds over the side alone")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--docs", action="store_true", help="write what is there into the documents")
    given = parser.parse_args()
    given.models, given.steps = given.models.split(","), [int(n) for n in given.steps.split(",")]
    out = given.out.resolve()
    if given.docs:
        return documents(out)
    out.mkdir(parents=True, exist_ok=True)
    result = out / "cascade-generate.json"
    known: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}

    def keep(rows: dict[str, Any]) -> None:
        result.write_text(json.dumps(rows, indent=1))

    with torch_threads(1), torch.no_grad() if given.times else torch.enable_grad():
        if given.times:
            known["times"] = times()
            keep(known)
        elif not given.show:
            for name in given.kinds.split(","):
                compare(out, name, given, known, keep)
    print(figures(known) if len(known) > 1 else "")
    print(seconds_table(known["times"]) if "times" in known else "")


if __name__ == "__main__":
    main()
