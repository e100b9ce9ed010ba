"""Volumes as volumes: one denoiser of every instrument on three axes, against slices one by one and Wiener filters.

    python benchmarks/volumes.py --prepare OUT          # OUT/volumes: 35 patients to train and calibrate; OUT/unseen: 8
    python benchmarks/volumes.py OUT --step-seconds      # CPU seconds of a step of training of either network
    retrodict fit configs/any-scanner-volume.yaml --set data.root=OUT -o runs/any-scanner-volume
    retrodict fit configs/any-scanner-volume-slices.yaml --set data.root=OUT -o runs/any-scanner-volume-slices
    python benchmarks/volumes.py OUT
    python benchmarks/volumes.py OUT --restore           # whole volumes by `retrodict.restore`, with its verdict
    python benchmarks/volumes.py --docs

CT of soft-tissue sarcomas (petct_sts; 3.27 mm slices, 1.95 mm pixels; air is clipped at -1000 HU).  The 8 patients for
validation are neither trained nor calibrated on here: ten of the 35 calibrate, and stand in the configuration.  Both
networks start from the shipped model, which was trained on slices of the 35, of half the pixel size, so of the
calibrating ten, too.  The
middle of every volume, 24 slices of 48 x 48 pixels, is measured within a border of the volume itself:

12, 30, 60   noise of that many HU: an MTF of 0.5 at 0.35 /mm, the NPS of a ramp; slices are independent, and as thick
             as in the truth.
30, thick    30 HU, slices of a profile of 3.27 mm whose noise has a correlation of 0.5 between neighbors.

`volume`       one call of the model: mean, deviation.
`slices`       its twin, slice by slice, one call: the network of two axes that it starts from, trained on slices of the
               same patients for as many CPU seconds, and calibrated on slices of the same ten.  It is told the
               curves of the plane; nobody can tell it of a slice profile.
`Wiener 3-D`   the linear estimate of the volume under the spectrum of the model.
`Wiener 2-D`   the same of every slice by itself, under the spectrum of slices of the training patients.
`ct`           the shipped model, slice by slice, one call.  It knows no pixels of 1.95 mm, so it is told that they have
               1.465 mm (patients three quarters as large), with the curves that go with it.  It was trained on other
               patients, for much longer; nobody can tell it of a slice profile.

A row per patient, case and method goes to benchmarks/results/volumes.json.  Error: mean square over that of the
3-D Wiener filter; SSR^2: mean square over mean variance; cover: of 90 % intervals of voxels; CPU seconds a slice.
`volume` over the others: ratio of their mean squares patient by patient, geometric mean and SD between patients.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from patient_slices import DATA
from retrodict import restore
from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import channel_spectrum
from retrodict.data import read
from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser
from retrodict.metrics.calibration import central_factor
from retrodict.models.instrument import measured_inside, model_with_instrument
from retrodict.models.model import Intensity, Model, open_model
from retrodict.models.range import at_spacing
from retrodict.nets import precision_for
from retrodict.processes.fourier import measured
from retrodict.samplers.ensemble import SamplingOptions, restore_batch
from retrodict.samplers.margin import MARGIN
from retrodict.tasks.fit import FitPlan, batcher, options_of, prepare_fit
from retrodict.tasks.fit_config import load_config
from retrodict.training.loop import train
from retrodict.training.losses import denoising_loss
from tables import replace_block

SET = "petct_sts"
OUT = Path(__file__).resolve().parent / "results" / "volumes.json"
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "howto-volumes.md"
INSIDE, AROUND = (24, 48, 48), 8
KNOWN = 1.465
"""Pixel spacing in mm that the shipped model of slices is told."""
METHODS = ("volume", "slices", "Wiener 3-D", "Wiener 2-D", "ct")
CONFIGS = {"volume": "any-scanner-volume", "slices": "any-scanner-volume-slices"}
ROUNDS, STEPS = 3, 10
"""Of timing: the networks take turns, so that what else the machine does falls on both."""
SPECTRA = 256
"""Training slices that the spectrum of slices is found from."""


class Case(NamedTuple):
    """Noise in HU, slice profile in mm and correlation of the noise of neighboring slices."""

    noise: float
    profile: float = 0.0
    correlation: float = 0.0


CASES = {"12 HU": Case(12.0), "30 HU": Case(30.0), "60 HU": Case(60.0), "30 HU, thick": Case(30.0, 3.27, 0.5)}


# ---- data ------------------------------------------------------------------------------------------------------------


def prepare(out: Path) -> None:
    """Volumes in HU with their spacing, a file for each patient."""
    split = json.loads((DATA / SET / "split.json").read_text())
    for side, folder in (("train", "volumes"), ("validation", "unseen")):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for name in split[side]:
            with np.load(DATA / SET / f"{name}.npz") as z:
                values, spacing = z["ct_hu"], json.loads(str(z["meta_json"]))["ct_spacing_mm"]
            np.savez_compressed(out / folder / f"{name}.npz", hu=values, spacing=np.array(spacing), unit=np.array("HU"))
        print(folder, len(split[side]))


def block(path: Path) -> Tensor:
    """The middle of a volume `(1, 1, Z, H, W)` in HU with `AROUND` voxels of border, mirrored where there are none."""
    values = read(path, unit="HU").values[None].double()
    for axis, side in enumerate(INSIDE, start=2):
        count, wanted = values.shape[axis], side + 2 * AROUND
        place = torch.arange(wanted) + (count - wanted) // 2
        place = place.abs()
        values = values.index_select(axis, torch.where(place < count, place, 2 * (count - 1) - place))
    return values


def slice_spectrum(folder: Path, intensity: Intensity, spacing: tuple[float, ...]) -> Any:
    """Of slices of 48 x 48 pixels in the middle of the training patients, evenly taken."""
    files = sorted(folder.glob("*.npz"))
    found = []
    for path in files:
        x = intensity.encode(block(path)[0, :, :, AROUND:-AROUND, AROUND:-AROUND])
        found += [x[:, k] for k in torch.linspace(0, x.shape[1] - 1, SPECTRA // len(files)).long().tolist()]
    return channel_spectrum(found, spacing)


# ---- instruments -----------------------------------------------------------------------------------------------------


def curves(noise: float, spacing: float, zoom: float = 1.0) -> tuple[Curve, Curve]:
    """MTF exp(-ln 2 (f / 0.35)^2), and an NPS of a ramp under that MTF with `noise` HU in all per voxel.

    zoom: true spacing over the one that is told, by which frequencies are larger and areas smaller.
    """
    f = torch.linspace(0, 0.75 / spacing, 200, dtype=torch.float64)
    mtf = torch.exp(-math.log(2.0) * (f / 0.35) ** 2)
    shape = (f / 0.3 + 0.1) * mtf**2
    grid = Fourier((128, 128), (spacing, spacing))
    table = Curve.isotropic(f, shape, "HU^2 mm^2").on(grid)
    level = noise**2 * spacing**2 / float((table * grid.multiplicity()).sum() / grid.multiplicity().sum())
    nps = Curve.isotropic(f * zoom, shape * level / zoom**2, "HU^2 mm^2")
    return Curve.isotropic(f * zoom, mtf, "1"), nps


# ---- what a step of training costs -----------------------------------------------------------------------------------


def step_seconds(data: Path) -> dict[str, Any]:
    """Of either network: its parameters, and CPU seconds of a step of training, a number for every round."""
    plans = {name: _plan(file, data) for name, file in CONFIGS.items()}
    found: dict[str, Any] = {name: {"parameters": p.parameters, "seconds": []} for name, p in plans.items()}
    for turn in range(1 + ROUNDS):  # the first round warms up and is not kept
        for name, plan in plans.items():
            seconds = _timed(plan)
            print(f"{name}: {seconds:.3f} CPU s a step", flush=True)
            found[name]["seconds"] += [seconds] if turn else []
    return found


def _plan(name: str, data: Path) -> FitPlan:
    path = ROOT / "configs" / f"{name}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        return prepare_fit(load_config(path, [f"data.root={data.resolve()}"]), Path(folder), path.parent)


def _timed(plan: FitPlan) -> float:
    config, law = plan.config, plan.config.clocks()
    denoiser = plan.spec.build(config.name, precision_for(config.training.precision))
    options, batch = replace(options_of(config), steps=STEPS), batcher(plan.training, plan.spec.intensity)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        train(denoiser, batch, options, Path(folder), objective=partial(denoising_loss, law=law))
        return (time.process_time() - started) / STEPS


# ---- methods ---------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """Mean and variance of a volume `(1, 1, Z, H, W)` in model units."""

    mean: Tensor
    variance: Tensor


def one_call(denoiser: Denoiser, y: Tensor, seed: int) -> Found:
    """Mean and variance by one call, of images `(B, C, *N)`."""
    options = SamplingOptions(samples=2, instant=True, seed=seed, margin=MARGIN[y.ndim - 2])
    result = restore_batch(denoiser, y, options)
    assert result.sd is not None
    return Found(result.mean.double(), result.sd.double() ** 2)


def sliced(found: Callable[[Tensor], Found], y: Tensor) -> Found:
    """A method of slices `(Z, 1, H, W)` on a volume `(1, 1, Z, H, W)`."""
    parts = found(y[0].transpose(0, 1))
    return Found(*(x.transpose(0, 1)[None] for x in parts))


def linear(denoiser: Denoiser) -> Callable[[Tensor], Found]:
    """The same of a denoiser without a network."""
    return lambda y: one_call(denoiser, y, 0)


class Models(NamedTuple):
    """Of volumes, its twin of slices, and the shipped one."""

    volume: Model
    slices: Model
    ct: Model


def methods(models: Models, spectrum: Any, case: Case) -> tuple[Any, dict[str, Callable[[Tensor], Found]]]:
    """The process of a case, and what restores y in the units of the model of volumes, which are those of its twin."""
    model, twin, flat = models
    spacing = model.spec.spacing
    mtf, nps = curves(case.noise, spacing[1])
    between = {"profile": case.profile, "correlation": case.correlation}
    bound, _ = model_with_instrument(model, mtf, nps, between)
    process = bound.denoiser.process
    plane = measured(Fourier(INSIDE[1:], spacing[1:]), mtf, nps, model.intensity.scale)
    told = curves(case.noise, spacing[1], spacing[1] / KNOWN)
    shipped = model_with_instrument(at_spacing(flat, (KNOWN, KNOWN)), *told)[0]
    slices = model_with_instrument(at_spacing(twin, spacing[1:]), mtf, nps)[0]

    def by_ct(y: Tensor) -> Found:
        found = sliced(lambda x: one_call(shipped.denoiser, x, 0), flat.intensity.encode(model.intensity.decode(y)))
        ratio = flat.intensity.scale / model.intensity.scale
        return Found(model.intensity.encode(flat.intensity.decode(found.mean)), found.variance * ratio**2)

    return process, {
        "volume": lambda y: one_call(bound.denoiser, y, 0),
        "slices": lambda y: sliced(lambda x: one_call(slices.denoiser, x, 0), y),
        "Wiener 3-D": linear(bound.denoiser.gaussian()),
        "Wiener 2-D": lambda y: sliced(linear(GaussianDenoiser(plane, spectrum=spectrum)), y),
        "ct": by_ct,
    }


# ---- by the command --------------------------------------------------------------------------------------------------


STRONGER = 1.5
"""Of noise that the curves do not say: a verdict should say it."""


def restored(folder: Path, model: Model, patients: int) -> None:
    """Whole volumes by one call of `restore`: kind of the result, and of a posterior SSR^2 and coverage."""
    record, rows = recorded(), []
    for seed, path in enumerate(sorted((folder / "unseen").glob("*.npz"))[:patients]):
        for name, case in CASES.items():
            for stronger in (1.0, STRONGER):
                rows.append({"patient": path.stem, "case": name, "stronger": stronger,
                             **one_restored(path, model, case, stronger, seed)})  # fmt: skip
                print(rows[-1], flush=True)
        write({**record, "restored": rows})


def one_restored(path: Path, model: Model, case: Case, stronger: float, seed: int) -> dict[str, Any]:
    """A volume that is measured with `stronger` times the noise that the curves say."""
    image = read(path, unit="HU")
    between = {"profile": case.profile, "correlation": case.correlation}
    true, told = (curves(case.noise * k, image.spacing[1]) for k in (stronger, 1.0))
    process = model_with_instrument(model, *true, between)[0].denoiser.process
    truth = model.intensity.encode(image.values[None].double())
    y = model.intensity.decode(measured_inside(process, truth, seed, AROUND))[0].float()
    flags = {"slice_profile": case.profile, "slice_correlation": case.correlation}
    found = restore(replace(image, values=y), model=model, mtf=told[0], nps=told[1], instant=True, samples=2, **flags)
    out: dict[str, Any] = {"kind": found.kind, "why": found.verdict.text}
    error = (found.mean.values - image.values).double()
    out["square"] = float(error.square().mean())
    if found.sd is not None:
        sd = found.sd.values.double()
        out["ssr2"] = out["square"] / float(sd.square().mean())
        out["cover"] = float((error.abs() <= central_factor(0.9) * sd).double().mean())
    return out


def restored_table(rows: list[dict[str, Any]]) -> str:
    """Verdicts and what posteriors are worth."""
    lines = ["| instrument | a posterior | error, HU rms | SSR² | 90 % cover | a posterior where the noise is "
             f"{STRONGER} times as strong | its SSR² |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for case in CASES:
        own = [r for r in rows if r["case"] == case and r["stronger"] == 1.0]
        other = [r for r in rows if r["case"] == case and r["stronger"] != 1.0]
        held, wrong = ([r for r in some if r["kind"] == "posterior"] for some in (own, other))
        cells = (f"{len(held)} of {len(own)}", shown([math.sqrt(r["square"]) for r in own], 1),
                 shown([r["ssr2"] for r in held]), shown([r["cover"] for r in held], 3),
                 f"{len(wrong)} of {len(other)}", shown([r["ssr2"] for r in wrong]))  # fmt: skip
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return f"{len({r['patient'] for r in rows})} patients, whole volumes, mean ± SD over patients.\n\n" + "\n".join(
        lines
    )


# ---- figures ---------------------------------------------------------------------------------------------------------


def rows_of(path: Path, models: Models, spectrum: Any, seed: int) -> list[dict[str, Any]]:
    """Figures of one patient: cases and methods."""
    model = models.volume
    wide, inner = block(path), (..., *[slice(AROUND, -AROUND)] * 3)
    truth, found = model.intensity.encode(wide[inner]), []
    quantile = central_factor(0.9)
    for name, case in CASES.items():
        process, known = methods(models, spectrum, case)
        bound = process.on(tuple(wide.shape[2:]))
        y = bound.pairing.simulate(model.intensity.encode(wide), bound.basis, torch.tensor([seed]))[inner].float()
        for method, by in known.items():
            started = time.process_time()
            result = by(y)
            seconds = time.process_time() - started
            error = result.mean - truth
            found.append({
                "patient": path.stem, "case": name, "method": method,
                "square": float(error.square().mean()) * model.intensity.scale**2,
                "ssr2": float(error.square().mean() / result.variance.mean()),
                "cover": float((error.abs() <= quantile * result.variance.sqrt()).double().mean()),
                "seconds": seconds / INSIDE[0],
            })  # fmt: skip
            print(found[-1], flush=True)
    return found


def run(folder: Path, models: Models, patients: int) -> None:
    """All patients, one after the other; the seconds of a step that are in the file stay there."""
    model, twin = models.volume, models.slices
    if model.intensity != twin.intensity:
        raise InputError("--twin: intensity", twin.intensity, f"{model.intensity}, as the model of volumes has")
    spectrum = slice_spectrum(folder / "volumes", model.intensity, model.spec.spacing[1:])
    record: dict[str, Any] = recorded() | {"model": card(model), "twin": card(twin), "inside": INSIDE, "rows": []}
    for seed, path in enumerate(sorted((folder / "unseen").glob("*.npz"))[:patients]):
        record["rows"] += rows_of(path, models, spectrum, seed)
        write(record)


def card(model: Model) -> dict[str, Any]:
    """What the record says of a model."""
    return {k: model.spec.card.get(k) for k in ("name", "training", "patients", "slices")}


def recorded() -> dict[str, Any]:
    """The record as it is there."""
    return json.loads(OUT.read_text()) if OUT.exists() else {}


def write(record: dict[str, Any]) -> None:
    """The record, whole."""
    OUT.write_text(json.dumps(record, indent=1) + "\n")


def shown(values: list[float], digits: int = 2) -> str:
    """Mean and SD over patients."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "-"


def table(record: dict[str, Any]) -> str:
    """The table of the docs."""
    rows = record["rows"]
    base = {(r["patient"], r["case"]): r["square"] for r in rows if r["method"] == "Wiener 3-D"}
    head = ("instrument", "method", "error, HU rms", "squared error over 3-D Wiener", "SSR²", "90 % cover",
            "CPU s a slice")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|---|---|"]
    for case in CASES:
        for method in METHODS:
            own = [r for r in rows if r["case"] == case and r["method"] == method]
            if own:
                cells = (
                    shown([math.sqrt(r["square"]) for r in own], 1),
                    shown([r["square"] / base[r["patient"], case] for r in own], 3),
                    shown([r["ssr2"] for r in own]),
                    shown([r["cover"] for r in own], 3),
                    f"{np.mean([r['seconds'] for r in own]):.2f}",
                )
                lines.append(f"| {case} | {method} | {' | '.join(cells)} |")
    count = len({r["patient"] for r in rows})
    return f"{count} patients, mean ± SD over patients. {budgets(record)}\n\n" + "\n".join([*lines, "", *pairs(rows)])


def budgets(record: dict[str, Any]) -> str:
    """What each network had: of those that were measured."""
    said = []
    for name, key, what in (("volume", "model", "blocks"), ("slices", "twin", "slices")):
        if key in record:
            training, cost = record[key]["training"], record["step_seconds"][name]
            seconds = float(np.median(cost["seconds"]))
            said.append(
                f"`{name}`: {cost['parameters'] / 1e6:.2f} M parameters, {training['steps']} steps of "
                f"{training['batch']} {what}, {seconds:.2f} CPU s a step, {training['steps'] * seconds:.0f} in all"
            )
    return "; ".join(said) + "."


def pairs(rows: list[dict[str, Any]]) -> list[str]:
    """Squared error of `volume` over those of the networks of slices, paired by patient."""
    square = {(r["patient"], r["case"], r["method"]): r["square"] for r in rows}
    patients, known = sorted({r["patient"] for r in rows}), {r["method"] for r in rows}
    others = [name for name in ("slices", "ct") if name in known]
    heads = [f"`volume` over `{name}` | better for" for name in others]
    lines = [f"| squared error, paired | {' | '.join(heads)} |", "|---" * (1 + 2 * len(others)) + "|"]
    for case in CASES:
        cells = []
        for other in others:
            logs = np.log([square[p, case, "volume"] / square[p, case, other] for p in patients])
            mean, sd = 100 * math.expm1(logs.mean()), 100 * logs.std(ddof=1)
            cells.append(f"{mean:+.1f} % ± {sd:.1f} | {(logs < 0).sum()} of {len(logs)}")
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Prepare, measure, or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder that --prepare wrote")
    parser.add_argument("--prepare", type=Path)
    parser.add_argument("--step-seconds", action="store_true", help="time steps of training; nothing else")
    parser.add_argument("--model", default="runs/any-scanner-volume/any-scanner-volume")
    parser.add_argument("--twin", default="runs/any-scanner-volume-slices/any-scanner-volume-slices")
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--restore", action="store_true", help="whole volumes by `retrodict.restore`; nothing else")
    parser.add_argument("--docs", action="store_true")
    args = parser.parse_args()
    if args.prepare is not None:
        prepare(args.prepare)
    torch.set_num_threads(1)
    if args.data is not None and args.step_seconds:
        write(recorded() | {"step_seconds": step_seconds(args.data)})
    elif args.data is not None and args.restore:
        restored(args.data, open_model(args.model), args.patients)
    elif args.data is not None:
        run(args.data, Models(open_model(args.model), open_model(args.twin), open_model("ct")), args.patients)
    if args.docs:
        replace_block(PAGE, "volumes", table(recorded()))
        replace_block(PAGE, "volumes-restored", restored_table(recorded()["restored"]))


if __name__ == "__main__":
    main()
