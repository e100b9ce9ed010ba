"""The Fourier-diffusion experiment: scalar against Fourier processes, 4 to 1024 evaluations, 32 samples a measurement.

    retrodict fit configs/ct-fourier.yaml            (terminal: started at the measurement, option 2 of the paper)
    retrodict fit configs/ct-fourier-external.yaml   (external: sees a measurement with noise of its own, option 1)
    retrodict fit configs/ct-scalar.yaml             (external)
    python benchmarks/fourier_diffusion.py [--resume] [--calls 8 1024] [--rows scalar]

Same data, network, losses and 6000 steps for the three.  Truth: 64 x 64 patches (1 mm) of a patient that was not in
training; measurement: MTF and NPS of Tivnan et al. 2023, eqs. 29-30.  For each patch and one measurement, K samples:

    MSE = <|x_k - x|^2>,  bias^2 = |mean_k - x|^2,  variance = <|x_k - mean_k|^2>;   MSE = bias^2 + variance,

and with the finite-K share moved (variance K/(K-1), bias^2 - variance/(K-1)).  For an exact posterior sampler the
corrected bias^2 equals the corrected variance, and MSE is twice that.  All in HU^2, mean over patches and its standard
deviation over patches; every row is stored when it is done.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from importlib import resources
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from retrodict._random import key, member_seeds
from retrodict.data import read
from retrodict.denoisers.network import NetDenoiser
from retrodict.metrics import decompose
from retrodict.models.model import open_model
from retrodict.processes.observation import Cond
from retrodict.samplers import make_plan, sample
from retrodict.samplers.ensemble import draw
from retrodict.samplers.plan import make_grid
from retrodict.tasks.demo import SLICES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
SIDE = 64
SHORT = (4, 8, 16, 32)
LONG = (*SHORT, 64, 128)
FULL = (*LONG, 1024)
DOUBLE = "Fourier, external net started at y (counts y twice)"
# label: (model, rule, evaluations)
ROWS = {
    "Fourier, terminal | matched": ("ct-fourier", "matched", LONG),
    "scalar, external | matched": ("ct-scalar", "matched", LONG),
    "Fourier, external | matched": ("ct-fourier-external", "matched", SHORT),
    "scalar, external | Euler-Maruyama": ("ct-scalar", "euler", FULL),
    "Fourier, terminal | Euler-Maruyama": ("ct-fourier", "euler", FULL),
    "Fourier, external | Euler-Maruyama": ("ct-fourier-external", "euler", SHORT),
    f"{DOUBLE} | Euler-Maruyama": ("ct-fourier-external", "euler", SHORT),
    f"{DOUBLE} | matched": ("ct-fourier-external", "matched", SHORT),
}


def patches(count: int) -> list[Tensor]:
    """Patches (1, 64, 64) in HU, at fixed random places where at most a fifth is air, in turn from the two slices."""
    out, number = [], 0
    images = [read(Path(str(resources.files("retrodict") / "assets" / f"{n}.dcm"))).values for n in SLICES]
    while len(out) < count:
        draw = torch.Generator().manual_seed(key(0, "place", number))
        image = images[len(out) % len(images)]
        row, column = (int(torch.randint(n - SIDE, (1,), generator=draw)) for n in image.shape[1:])
        patch = image[:, row : row + SIDE, column : column + SIDE]
        if float((patch < -900).float().mean()) < 0.2:
            out.append(patch)
        number += 1
    return out


def measurement(denoiser: NetDenoiser, x0: Tensor, index: int) -> Tensor:
    """MTF x_0 + coloured noise, the same for every model."""
    law = denoiser.process.measurement
    basis = denoiser.process.basis
    draw = torch.Generator().manual_seed(key(0, "measurement", index))
    z = torch.randn(x0.shape, generator=draw)
    return basis.inverse(law.h.to(x0) * basis.forward(x0) + law.s2.sqrt().to(x0) * basis.forward(z))


def ensemble(denoiser: NetDenoiser, y: Tensor, rule: str, steps: int, seeds: Tensor, twice: bool) -> Tensor:
    """Samples (K, 1, 64, 64) from one measurement."""
    process = denoiser.process
    spectrum = denoiser.spectrum.on(process.basis)
    plan = make_plan(rule, process, make_grid(process, steps, "time"), spectrum)
    if not twice:
        return draw(denoiser, plan, y, seeds).x
    many = y.expand(len(seeds), *y.shape[1:])
    start = process.to_coefficients(many, torch.ones(len(seeds), dtype=torch.float64))
    with torch.inference_mode():
        return sample(denoiser, plan, start, seeds=seeds, cond=Cond(image=many)).x


def row(model, data: list[Tensor], label: str, rule: str, steps: int, members: int) -> dict:
    """Figures of one line, over all patches."""
    scale, started, parts = model.intensity.scale, time.perf_counter(), []
    denoiser = model.denoiser.on((SIDE, SIDE))
    for index, truth in enumerate(data):
        x0 = model.intensity.encode(truth[None])
        y = measurement(denoiser, x0, index)
        x = ensemble(denoiser, y, rule, steps, member_seeds(0, index, members), label.startswith(DOUBLE))
        parts.append(decompose(x, x0[0]))
    figures = {"method": label, "calls": steps, "members": members, "patches": len(data)}
    for name in ("mse", "bias2", "variance", "bias2_corrected", "variance_corrected"):
        values = torch.tensor([getattr(p, name) for p in parts], dtype=torch.float64) * scale**2
        figures[name], figures[f"{name}_sd"] = float(values.mean()), float(values.std())
    bias, spread = figures["bias2_corrected"], figures["variance_corrected"]
    figures["ssr"] = math.sqrt(max(bias, 0.0) / spread)
    figures["seconds_per_sample"] = (time.perf_counter() - started) / (len(data) * members)
    return figures


def references(model, data: list[Tensor]) -> list[dict]:
    """Measurement, Wiener filter and one call of the terminal network."""
    denoiser, one = model.denoiser.on((SIDE, SIDE)), torch.ones(1, dtype=torch.float64)
    errors: dict[str, list[float]] = {"measured": [], "Wiener filter": [], "Fourier, terminal | one call (mean)": []}
    for index, truth in enumerate(data):
        x0 = model.intensity.encode(truth[None])
        y = measurement(denoiser, x0, index)
        with torch.inference_mode():
            for name, x in zip(errors, (y, denoiser.gaussian()(y, one), denoiser(y, one)), strict=True):
                errors[name].append(float(((x - x0).double() ** 2).mean()) * model.intensity.scale**2)
    return [{"method": k, "calls": 0, "bias2_corrected": sum(v) / len(v)} for k, v in errors.items()]


def identity(r: dict) -> tuple:
    """What makes a row the same row."""
    return r["method"], r["calls"], r.get("members"), r.get("patches")


def store(path: Path, record: dict) -> None:
    """Add a row to the file, or replace it; another run may be writing other rows."""
    rows = json.loads(path.read_text()) if path.exists() else []
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps([*(r for r in rows if identity(r) != identity(record)), record], indent=1))
    temporary.replace(path)


def run(arguments: argparse.Namespace) -> list[dict]:
    """All rows, fewest evaluations first; what an earlier run has stored is kept with --resume."""
    path, data = arguments.json, patches(arguments.patches)
    if not arguments.resume:
        path.unlink(missing_ok=True)
    models = {n: open_model(ROOT / "runs" / n / n) for n in sorted({m for m, _, _ in ROWS.values()})}
    for record in references(models["ct-fourier"], data):
        store(path, record)
    counts = arguments.calls or FULL
    jobs = [(label, *ROWS[label][:2], n) for n in counts for label in ROWS if n in ROWS[label][2]]
    for label, name, rule, steps in jobs:
        wanted = (label, steps, arguments.members, len(data))
        if wanted in map(identity, json.loads(path.read_text())) or arguments.rows not in label:
            continue
        store(path, row(models[name], data, label, rule, steps, arguments.members))
        print(label, steps, flush=True)
    return json.loads(path.read_text())


def render(records: list[dict]) -> Table:
    """The table, by method and number of evaluations."""
    table = Table(title="Fourier-diffusion experiment (HU^2; bias^2 and variance corrected for finite K)")
    for column in ("method", "calls", "MSE", "bias^2", "+-", "variance", "SSR", "s/sample"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for r in sorted(records, key=lambda r: (r["calls"] > 0, r["method"], r["calls"])):
        if r["calls"] == 0:
            table.add_row(r["method"], "", "", f"{r['bias2_corrected']:.0f}")
            continue
        cells = [f"{r['mse']:.0f}", f"{r['bias2_corrected']:.0f}", f"{r['bias2_corrected_sd']:.0f}"]
        cells += [f"{r['variance_corrected']:.0f}", f"{r['ssr']:.2f}", f"{r['seconds_per_sample']:.2f}"]
        table.add_row(r["method"], str(r["calls"]), *cells)
    return table


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=6)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--calls", type=int, nargs="*", help="only these numbers of evaluations")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--resume", action="store_true", help="keep the rows of a run that was cut short")
    parser.add_argument("--json", type=Path, default=RESULTS / "fourier-diffusion.json")
    Console(width=140).print(render(run(parser.parse_args())))


if __name__ == "__main__":
    main()
