"""How far image and law travel in every process, per step and in all, in closed form on data with the spectrum of CT.

    python benchmarks/paths.py

Gaussian data with the stored spectrum of the shipped model on 64 x 64 pixels of 1 mm.  Fisher length of the law of the
state per square root of the degrees of freedom, beside the shortest between the same ends; way of a pixel in the
probability flow (HU); rms change of a pixel in the largest of 8 and of 32 reverse steps (HU).
`benchmarks/results/paths.json` and the block of docs/processes/spectral.md are written.
"""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path

import torch

from retrodict import PROCESSES, Fourier, Spectrum, path_lengths
from tables import replace_block, table

ROOT = Path(__file__).resolve().parents[1]
HU = 200.0
"""HU of a model unit."""
FINE = 512


def stored_spectrum() -> Spectrum:
    """The spectrum of the shipped model `ct`, model units."""
    text = (resources.files("retrodict") / "assets" / "ct.json").read_text()
    return Spectrum.from_json(json.loads(text)["spectrum"], "ct.json")


def processes(basis: Fourier, spectrum: Spectrum) -> dict:
    """What is compared, by name; noise of a tenth of a unit (20 HU) where a process has little of it."""
    return {
        "scalar": PROCESSES["scalar"](basis),
        "vp": PROCESSES["vp"](basis),
        "ve": PROCESSES["ve"](basis),
        "fourier": PROCESSES["fourier"](basis),
        "blurring": PROCESSES["blurring"](basis),
        "ihdm": PROCESSES["ihdm"](basis, noise=0.1),
        "soft": PROCESSES["soft"](basis),
        "band_noise, W^2 = L": PROCESSES["band_noise"](basis, spectrum=spectrum),
        "shortest_path": PROCESSES["shortest_path"](basis, spectrum=spectrum),
        "matern": PROCESSES["matern"](basis),
    }


def measure(process, variance) -> dict:
    """Lengths of one process."""
    times = {n: torch.linspace(1, 0, n + 1, dtype=torch.float64) for n in (FINE, 8, 32)}
    fine = path_lengths(process, variance, times[FINE])
    dof = math.sqrt(float(process.basis.multiplicity().sum()))
    record = {
        "fisher": float(fine.fisher.sum()) / dof,
        "fisher_shortest": fine.fisher_shortest / dof,
        "transport_HU": float(fine.transport.sum()) * HU,
        "transport_shortest_HU": fine.transport_shortest * HU,
    }
    for n in (8, 32):
        coarse = path_lengths(process, variance, times[n])
        record[f"fisher_step_{n}"] = float(coarse.fisher.max()) / dof
        record[f"update_{n}_HU"] = float(coarse.update.max()) * HU
        record[f"updates_{n}_HU"] = float((coarse.update**2).sum().sqrt()) * HU
    return record


def rows(records: dict) -> str:
    """The table of the documents."""
    header = ["process", "Fisher length", "shortest", "ratio", "way of a pixel, HU", "shortest, HU"]
    header += ["largest of 8 steps, HU", "of 32, HU", "largest Fisher step of 8"]
    body = []
    for name, r in records.items():
        body.append([name, f"{r['fisher']:.2f}", f"{r['fisher_shortest']:.2f}"])
        body[-1] += [f"{r['fisher'] / r['fisher_shortest']:.3f}", f"{r['transport_HU']:.0f}"]
        body[-1] += [f"{r['transport_shortest_HU']:.0f}", f"{r['update_8_HU']:.0f}", f"{r['update_32_HU']:.0f}"]
        body[-1] += [f"{r['fisher_step_8']:.2f}"]
    return table(header, body)


def main() -> None:
    """Measure, print, and write."""
    basis, spectrum = Fourier((64, 64)), stored_spectrum()
    variance = spectrum.on(basis)
    records = {name: measure(p, variance) for name, p in processes(basis, spectrum).items()}
    (ROOT / "benchmarks" / "results" / "paths.json").write_text(json.dumps({"records": records}, indent=1) + "\n")
    print(rows(records))
    replace_block(ROOT / "docs" / "processes" / "spectral.md", "paths", rows(records))


if __name__ == "__main__":
    main()
