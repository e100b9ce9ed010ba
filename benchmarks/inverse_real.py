"""Posterior samplers with the shipped CT prior on validation patients: low dose, sparse views, deblurring.

    python benchmarks/inverse_real.py [--data ../shared/data] [--patients 6] [--members 6] [--only matched tv ...]
    python benchmarks/inverse_real.py --only diffpir mmps "pigdm, calibrated" --patients 3 [--cases sparse]
    python benchmarks/inverse_real.py --docs
    python benchmarks/inverse_real.py --only deepinv --patients 3 --cases sparse "low dose"    where it is installed
    python benchmarks/inverse_real.py --cases "MRI, 1 coil" "MRI, 4 coils" phase --mr runs/mr/data --models runs/mr

The object is a part of 128 x 128 pixels around the middle of an axial slice, as it was measured; reconstructed are its
means over 2 x 2 pixels.  Low dose: 180 views, 10,000 photons a ray; sparse: 60 of 720 views, 30,000 photons; both with
rays through the fine pixels and the exact law of counts.  Deblurring: a Gaussian PSF of 4 mm, periodic, and noise of
20 HU whose power grows with frequency (diagonal in the Fourier basis, so `fuse` is defined; on the same grid).  Every
method has the same prior.  Published methods run on the process `vp` of their papers with as many
calls as are printed, at their defaults; the strength of TV is the best of three for low dose on a training patient, the
same for sparse views, and not tuned for deblurring.

One row per case, method and patient goes to benchmarks/results/inverse-real.json as soon as it is done, and what is
there is not done again.  PSNR and SSIM have a range of 2000 HU; SSR^2 is the mean variance of K members times
(1 + 1/K) over the mean squared error of their mean; coverage is that of 90 % intervals of the means of 8 x 8 pixels.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import retrodict
from inverse_real_scenes import MRI, PHASE, Scene, phases, resonances
from retrodict import GaussianNoise, Image, InputError, Measurement
from retrodict.metrics import psnr, ssim
from retrodict.metrics.calibration import central_factor
from retrodict.models.model import open_model
from retrodict.models.prior import prior_of
from retrodict.physics import Blur
from retrodict.physics.algebra import Affine
from retrodict.posterior.joint import with_imaginary
from retrodict.processes.scalar import vp
from retrodict.tasks.recon_inputs import acquired
from retrodict.tasks.recon_methods import Method
from retrodict.tasks.recon_options import ReconstructOptions
from retrodict.tasks.recon_simulate import block_mean
from tables import replace_block

OUT = Path(__file__).resolve().parent / "results" / "inverse-real.json"
CASES: dict[str, dict[str, Any]] = {
    "low dose": {"views": 180, "dose": 1e4, "electronic": 5.0},
    "sparse": {"views": 60, "dose": 3e4, "electronic": 5.0},
    "deblur": {},
}
OTHERS = (*MRI, PHASE)
"""Cases of `inverse_real_scenes.py`: k-space and phase, by models that are trained for it."""

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Of TV and wavelets, of which the best for one who is trained on is taken; times 1 / range of the image."""

TV = {"iterations": 50, "tolerance": 1e-4}
STRENGTH = {"low dose": 1000.0, "sparse": 1000.0, "deblur": 0.02}
METHODS: dict[str, dict[str, Any]] = {
    "truth": {},
    "fbp": {"classic": "fbp", "filter": "hann"},
    "zero filled": {"classic": "adjoint"},
    "pseudo-inverse": {"classic": "pinv"},
    "tv": {"classic": "fista", **TV},
    "wavelet": {"classic": "fista", "penalty": "wavelet", **TV},
    "matched": {"name": "matched"},
    "propagated": {"name": "propagated"},
    "fuse": {"name": "fuse"},
    "dps": {"name": "dps", "style": "paper", "steps": 50, "process": vp},
    "pigdm": {"name": "pigdm", "style": "paper", "steps": 50, "process": vp},
    "dds": {"name": "dds", "style": "paper", "steps": 50, "process": vp},
    "dds, wavelet TV": {"name": "dds", "style": "paper", "steps": 50, "process": vp, "wavelet_tv": 0.2},
    "diffpir": {"name": "diffpir", "style": "paper", "steps": 20, "process": vp},
}
FEWER = {"matched, 4 steps": {"name": "matched", "steps": 4}, "matched, 1 step": {"name": "matched", "steps": 1}}
MORE: dict[str, dict[str, Any]] = {
    "pigdm, calibrated": {"name": "pigdm", "style": "calibrated"},
    "daps, calibrated": {"name": "daps", "style": "calibrated"},
    "mmps": {"name": "mmps", "style": "paper", "steps": 50, "process": vp},
    "tmpd": {"name": "tmpd", "style": "paper", "steps": 20, "process": vp},
    "daps": {"name": "daps", "style": "paper", "steps": 50, "process": vp},
    "pnp_dm": {"name": "pnp_dm", "style": "paper", "process": vp},
    "red_diff": {"name": "red_diff", "style": "paper", "steps": 200, "process": vp},
    "sharp": {"name": "sharp", "style": "paper", "process": vp},
    "flowchef": {"name": "flowchef", "style": "paper", "process": vp},
    "score_ald": {"name": "score_ald", "style": "paper", "process": vp},
    "ddrm": {"name": "ddrm", "style": "paper", "process": vp},
    "ddnm": {"name": "ddnm", "style": "paper", "process": vp},
    "mcg": {"name": "mcg", "style": "paper", "process": vp},
    "projection": {"name": "projection", "style": "paper", "process": vp},
}
TOMOGRAPHY = ("low dose", "sparse")
LEFT_OUT: dict[str, tuple[tuple[str, ...], str]] = {
    "tmpd": (TOMOGRAPHY, "a variance of its own for every pixel leaves the solver no preconditioner"),
    "pnp_dm": (TOMOGRAPHY, "its first couplings, 10 in units of the prior, take thousands of rounds a solve"),
    "daps": (TOMOGRAPHY, "two solves a step at noise 0.01, whatever the noise is"),
}
"""Cases that a method is not run on, since it would take more than ten minutes a patient, and why that is."""
PEERS = ("DPIR, 8 steps", "DiffPIR, 20 steps", "DiffPIR, 100 steps", "DPS, 100 steps", "moment matching, 50 steps")
METHODS |= FEWER | MORE | {f"deepinv: {name}": {"peer": name} for name in PEERS}

LARGEST = 0.745
"""mm of the pixels of a slice."""

FEW = 4
"""Members of published methods."""


def patients(folder: Path, split: str, most: int) -> list[tuple[str, np.ndarray, list[float]]]:
    """The middle one of the slices of each patient whose pixels, twice as large, the model knows."""
    seen: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader((folder / "index.csv").open()):
        if (
            row["split"] == split
            and row["orientation"] == "axial"
            and json.loads(row["pixel_spacing_mm"])[0] <= LARGEST
        ):
            seen.setdefault(row["patient"], []).append(row)
    out = []
    for name, rows in sorted(seen.items())[:most]:
        row = rows[len(rows) // 2]
        image = np.load(folder / row["file"])[row["key"]]
        image = image[int(row["index"])] if image.ndim == 3 else image
        y, x = (n // 2 - 64 for n in image.shape)
        part = np.clip(image[y : y + 128, x : x + 128], -1024, 3071).astype(np.float32)
        out.append((name, part, json.loads(row["pixel_spacing_mm"])))
    return out


def measured(case: str, image: np.ndarray, spacing: list[float], seed: int) -> tuple[Measurement, torch.Tensor, Any]:
    """The measurement in the unit of its operator, the truth in HU, and the map from one to the other."""
    if case == "deblur":
        truth = block_mean(torch.from_numpy(image)[None, None], 2)
        wide = tuple(2 * d for d in spacing)
        blur = Blur.gaussian(truth.shape[-2:], 4.0, spacing=wide, unit="HU")
        basis = retrodict.Fourier(tuple(truth.shape[-2:]), wide)
        ramp = 0.2 + basis.radius() / basis.radius().mean()
        noise = GaussianNoise.stationary(basis, 400 * ramp / float((ramp * basis.multiplicity()).sum() / 64**2))
        return Measurement.simulate(blur, noise, truth, [seed]), truth[0, 0], lambda x: x
    field = [f"simulate.{k}={v}" for k, v in {**CASES[case], "seed": seed}.items()]
    whole = Image.of(image, unit="HU", spacing=spacing)
    made = acquired(whole, ReconstructOptions(simulate=True, problem="tomography", field=field))[0]
    assert made.truth is not None
    return made.part(0, True), made.truth[0], made.shown


def figures(samples: torch.Tensor, truth: torch.Tensor, spread: bool, span: float = 2000.0) -> dict[str, float]:
    """Samples `(K, H, W)` and truth `(H, W)` in one unit, of which PSNR and SSIM have the range `span`."""
    mean, count = samples.mean(0), len(samples)
    row = {"psnr": psnr(mean, truth, data_range=span), "ssim": ssim(mean, truth, data_range=span)}
    row["rmse"] = float((mean - truth).square().mean().sqrt())
    if spread and count > 1:
        more = 1 + 1 / count
        row["ssr2"] = float(samples.var(0).mean() * more / (mean - truth).square().mean())
        means = F.avg_pool2d(samples[:, None], 8)[:, 0]
        gap, var = means.mean(0) - F.avg_pool2d(truth[None, None], 8)[0, 0], means.var(0)
        row["region_ssr2"] = float(var.mean() * more / gap.square().mean())
        row["region_cover"] = float((gap.abs() <= central_factor(0.9, count) * var.sqrt()).double().mean())
    return row


def run(scene: Scene, label: str, members: int, strength: float | None = None) -> dict[str, Any]:
    """One method on one patient."""
    case, part, truth, shown, span = scene.case, scene.part, scene.truth, scene.shown, scene.span
    options, spacing = dict(METHODS[label]), part.operator.domain.spacing
    started = time.process_time()
    if label == "truth":  # what the pixels of the reconstruction cannot explain, if nothing else is wrong
        low, high = (float(shown(torch.full((1, 1, 1, 1), v))) for v in (0.0, 1.0))
        image = ((truth - low) / (high - low))[None, None] if scene.actual is None else scene.actual
        image = image.to(part.y.real)
        row = {"misfit": float(part.misfit(image).ratio), "calls": 0, "seconds": 0.0}
        if scene.imaginary:  # what is left where the phase that was found is taken for the true one
            alone = torch.cat([image[:, :1], 0 * image[:, 1:]], 1)
            row["misfit_without_q"] = float(part.misfit(alone).ratio)
        return row
    if options.get("classic") in ("adjoint", "pinv"):
        image = part.operator.adjoint(part.y) if options["classic"] == "adjoint" else part.operator.pinv(part.y, 0.05)
        row = figures(scene.image(shown(image)).double(), truth.double(), False, span)
        return {**row, "misfit": float(part.misfit(image).ratio), "calls": 0, "seconds": time.process_time() - started}
    if "classic" in options:
        if case in OTHERS:
            options |= {"strength": strength}
        elif label == "tv":
            options |= {"strength": STRENGTH[case], **({} if case == "deblur" else {"start": "fbp"})}
        done = Method(options.pop("classic"), options)(part)
        row = figures(scene.image(shown(done.image)).double(), truth.double(), False, span)
        return {**row, "misfit": float(done.misfit[0]), "calls": 0, "seconds": time.process_time() - started}
    if "peer" in options:
        return peer(options["peer"], part, truth, shown, started)
    model = scene.model
    prior = prior_of(model, tuple(truth.shape), spacing)
    process = options.pop("process", None)
    prior = prior if process is None else prior.at(process(prior.process.basis))
    prior = with_imaginary(prior) if scene.imaginary else prior
    low, high = (float(shown(torch.full((1, 1, 1, 1), v))) for v in (0.0, 1.0))
    scale, offset = model.intensity.scale, model.intensity.offset
    operator = Affine.rescaled(part.operator, scale / (high - low), (offset - low) / (high - low), "u")
    count = FEW if process is not None else members
    try:
        found = retrodict.sample_posterior(
            prior, replace(part, operator=operator), options.pop("name"), samples=count, **options
        )
    except InputError as error:  # a chain that diverged is refused
        return {"failed": error.found, "calls": options.get("steps", 0), "seconds": time.process_time() - started}
    samples = scene.image(scale * found.samples[:, 0].double() + offset)
    row = figures(samples, truth.double(), True, span)
    row |= {"misfit": float(found.misfit.mean()), "misfit_sd": found.misfit_sd, "members": count}
    row |= {"calls": found.calls, "gradients": found.gradients, "kind": found.kind}
    return {**row, "seconds": time.process_time() - started}


def peer(name: str, part: Measurement, truth: torch.Tensor, shown: Any, started: float) -> dict[str, Any]:
    """One method of deepinv, with the same prior and the same noise."""
    from inverse_real_peers import Scene, jobs

    scene = Scene(part, tuple(truth.shape), shown)
    samples, job = next((s, run) for label, s, run in jobs(scene, FEW) if label == name)
    found = scene.hu(job())
    if not bool(torch.isfinite(found).all()):
        return {"failed": "NaN", "calls": scene.calls, "seconds": time.process_time() - started}
    low, high = (float(shown(torch.full((1, 1, 1, 1), v))) for v in (0.0, 1.0))
    images = ((found - low) / (high - low))[:, None].to(part.y)
    misfit = float(torch.stack([part.misfit(x[None]).ratio for x in images]).mean())
    row = figures(found, truth.double(), samples) | {"misfit": misfit, "members": len(found), "calls": scene.calls}
    return {**row, "seconds": time.process_time() - started}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and deviation between patients, as Markdown."""
    head = ["case", "method", "calls", "PSNR, dB", "SSIM", "SSR²", "of 8 x 8 means", "90 % cover", "chi² / m", "CPU s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]

    def cell(group: list[dict[str, Any]], key: str, digits: int) -> str:
        values = [r[key] for r in group if key in r]
        if any("failed" in r for r in group):
            said = [r["failed"] for r in group if "failed" in r]
            lost = ("not finite", "NaN", "samples with a chi^2")
            return "diverges" if all(any(word in text for word in lost) for text in said) else "refused"
        if len(values) == 1:
            return f"{values[0]:.{digits}f}"
        return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}" if values else "-"

    for case in (*CASES, *OTHERS):
        for label in METHODS:
            group = [r for r in rows if r["case"] == case and r["method"] == label]
            if not group:
                continue
            cells = [cell(group, k, d) for k, d in (("psnr", 1), ("ssim", 3), ("ssr2", 2), ("region_ssr2", 2))]
            cells += [cell(group, "region_cover", 2), cell(group, "misfit", 2)]
            calls, seconds = str(group[0]["calls"] or "-"), f"{np.mean([r['seconds'] for r in group]):.1f}"
            what = label if label.startswith("deepinv") else f"`{label}`"
            lines.append("| " + " | ".join([case, what, calls, *cells, seconds]) + " |")
    return "\n".join(lines)


def scenes(asked: argparse.Namespace) -> Iterator[Scene]:
    """All that is asked for: patients of CT one by one with every case, then the other cases one by one."""
    chosen = [case for case in asked.cases if case in CASES]
    whom = patients(asked.data / "ct_tcga_lung", asked.split, asked.patients) if chosen else []
    for i, (name, image, spacing) in enumerate(whom):
        for case in chosen:
            part, truth, shown = measured(case, image, spacing, i)
            yield Scene(case, name, part, truth, shown, open_model("ct"), 2000.0)
    for case in asked.cases:
        if case in MRI:
            yield from resonances(asked.mr, asked.models, case)
        if case == PHASE:
            yield from phases(asked.mr.parent / "pictures", asked.models)


def fits(case: str, label: str) -> bool:
    """Whether a method is defined for a case, or asked of it."""
    if case not in OTHERS:
        spared = ("zero filled", "pseudo-inverse", "wavelet", *(("fbp",) if case == "deblur" else ()))
    else:
        spared = ("fbp", "pigdm", "propagated", "pseudo-inverse" if case in MRI else "zero filled")
    return label not in spared and (label != "fuse" or case in ("deblur", PHASE))


@cache
def _trained(case: str, mr: Path, models: Path) -> Scene:
    if case == PHASE:
        return next(phases(mr.parent / "pictures", models, ("coffee",)))
    return next(resonances(mr, models, case, "train"))


@cache
def _strength(case: str, label: str, mr: Path, models: Path) -> float:
    scene = _trained(case, mr, models)
    span = scene.span / float(scene.shown(torch.ones(1)))
    found = {k: run(scene, label, 1, k / span)["psnr"] for k in STRENGTHS}
    return max(found, key=lambda k: found[k])


def tuned(case: str, label: str, asked: argparse.Namespace) -> float:
    """The strength of TV or wavelets that is best for one person, or picture, of the training."""
    scene = _trained(case, asked.mr, asked.models)
    return _strength(case, label, asked.mr, asked.models) / (scene.span / float(scene.shown(torch.ones(1))))


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--split", default="validation")
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--only", nargs="*", default=list(METHODS))
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--mr", type=Path, default=Path("runs/mr/data"), help="what benchmarks/mr.py wrote")
    parser.add_argument("--models", type=Path, default=Path("runs/mr"), help="folder of the trained priors")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--docs", action="store_true", help="write the table of what is in the JSON, and run nothing")
    asked = parser.parse_args()
    if asked.docs:
        found = json.loads(asked.out.read_text())["rows"]
        return replace_block(
            Path(__file__).resolve().parents[1] / "docs" / "posterior.md", "inverse-real", table(found)
        )
    if asked.only == ["deepinv"]:
        asked.only = [name for name in METHODS if name.startswith("deepinv")]
    elif asked.only == list(METHODS):
        asked.only = [name for name in METHODS if not name.startswith("deepinv")]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
    for scene in scenes(asked):
        for label in asked.only:
            known = any((r["case"], r["method"], r["patient"]) == (scene.case, label, scene.name) for r in rows)
            left_out = scene.case in LEFT_OUT.get(label, ((), ""))[0]
            if known or left_out or not fits(scene.case, label):
                continue
            strength = tuned(scene.case, label, asked) if scene.case in OTHERS and label in ("tv", "wavelet") else None
            row = run(scene, label, asked.members, strength) | scene.said
            row |= {} if strength is None else {"strength": strength}
            rows.append({"case": scene.case, "method": label, "patient": scene.name, **row})
            asked.out.write_text(json.dumps({"command": "python benchmarks/inverse_real.py", "rows": rows}, indent=1))
            print(f"{scene.name} {scene.case} {label}: " + ", ".join(
                f"{k} {v:.3g}" for k, v in row.items() if isinstance(v, float)), flush=True)  # fmt: skip
    print(table(rows))


if __name__ == "__main__":
    main()
