"""The shipped model on patients that it has never seen: error and calibration of each, and their scatter.

    python benchmarks/patients.py [--model ct-simulated] [--samples 8] [--steps 8]

Validation patients of the CT sets (each folder's split.json); of each one crop of 128 x 128 pixels of body at 1 mm,
measured by the simulated instrument of the model with a seed of its own.  SSR^2 is the squared error of the ensemble
mean over (1 + 1/K) times the ensemble variance: 1 is calibrated, below 1 the spread is too wide.  The truth is a scan
with noise of its own (column `own noise`), which counts as error here.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch

from patient_slices import DATA, body_corner, slices, there
from retrodict._random import key
from retrodict.bases import Fourier
from retrodict.data.collection import Slice
from retrodict.data.resample import resample_axes
from retrodict.models.model import Model, open_model
from retrodict.samplers.ensemble import SamplingOptions, restore_batch

OUT = Path(__file__).parent / "results" / "patients.json"
SIDE, BANDS = 128, 5


def crop(item: Slice, spacing: float) -> torch.Tensor | None:
    """The middle SIDE x SIDE pixels of the body at the spacing of the model, (1, 1, SIDE, SIDE) HU, or None."""
    values = item.image.values[None]
    if abs(item.spacing[0] / spacing - 1) > 0.03:
        values, _ = resample_axes(values, item.spacing, (spacing,) * 2)
    if min(values.shape[-2:]) < SIDE:
        return None
    y, x = body_corner(values, SIDE)
    return values[..., y : y + SIDE, x : x + SIDE]


def patient(model: Model, truth_hu: torch.Tensor, number: int, options: SamplingOptions) -> dict:
    """Figures of one crop."""
    process = model.denoiser.process.on((SIDE, SIDE))
    truth = model.intensity.encode(truth_hu)
    y = process.pairing.simulate(truth, process.basis, torch.tensor([key(0, "patient", number)]))
    result = restore_batch(model.denoiser, y, options)
    assert result.sd is not None
    filtered = (
        model.denoiser.gaussian()
        .on((SIDE, SIDE))
        .observe(
            process.basis.forward(y),
            process.measurement,  # type: ignore[arg-type]
        )
    )
    members = options.samples
    error = result.mean - truth
    of_wiener = float((filtered.mean - truth).square().mean())
    spread = float(result.sd.square().mean())
    basis = Fourier((SIDE, SIDE), process.basis.spacing)
    energy = basis.energy(basis.forward(error))[0, 0] * basis.multiplicity()
    members_energy = torch.stack([basis.energy(basis.forward(s - result.mean))[0, 0] for s in result.samples])  # type: ignore[union-attr]
    variance = members_energy.sum(0) / (members - 1) * basis.multiplicity()
    bands = [
        float(energy[mask].sum() / (variance[mask].sum() * (1 + 1 / members)))
        for _, _, mask in basis.bands(BANDS, highest=0.5 / process.basis.spacing[0])
    ]
    squared = float(error.square().mean())
    return {
        "rms_hu": squared**0.5 * model.intensity.scale,
        "delivered_over_wiener": squared / of_wiener,
        "mean_over_wiener": (squared - spread / members) / of_wiener,
        "ssr2": squared / (spread * (1 + 1 / members)),
        "bands": bands,
    }


def scatter(rows: list[dict], name: str) -> str:
    """Mean and SD between patients."""
    values = torch.tensor([row[name] for row in rows], dtype=torch.float64)
    return f"{float(values.mean()):.3f} +- {float(values.std()):.3f}"


def main() -> None:
    """Print a row for every patient, and mean and scatter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ct-simulated")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--most", type=int, default=99, help="patients")
    parser.add_argument("--json", type=Path, default=OUT)
    arguments = parser.parse_args()
    if not there():
        sys.exit(f"no patients in {DATA}: nothing to measure")
    model = open_model(arguments.model)
    options = SamplingOptions(samples=arguments.samples, steps=arguments.steps, keep_samples=True)
    rows, seen = [], set()
    for item in slices("validation"):
        part = None if item.patient in seen else crop(item, model.spec.spacing[0])
        if part is None or len(rows) >= arguments.most:
            continue
        seen.add(item.patient)
        rows.append(
            {
                "patient": item.patient,
                "noise_hu": math.nan if item.noise is None else item.noise,
                **patient(model, part, len(rows), options),
            }
        )
        row = rows[-1]
        print(
            f"{row['patient']:<20} own noise {row['noise_hu']:5.1f}  rms {row['rms_hu']:5.1f} HU  mean/Wiener "
            f"{row['mean_over_wiener']:.3f}  SSR^2 {row['ssr2']:.2f}  by band "
            + " ".join(f"{b:.2f}" for b in row["bands"]),
            flush=True,
        )
    print(f"{len(rows)} patients, one crop of {SIDE} x {SIDE} each; mean +- SD between patients")
    for name in ("rms_hu", "delivered_over_wiener", "mean_over_wiener", "ssr2"):
        print(f"  {name:<24}{scatter(rows, name)}")
    by_band = torch.tensor([row["bands"] for row in rows], dtype=torch.float64)
    print(
        "  SSR^2 by band           "
        + "  ".join(f"{m:.2f} +- {s:.2f}" for m, s in zip(by_band.mean(0), by_band.std(0), strict=True))
    )
    record = {"model": arguments.model, "samples": arguments.samples, "steps": arguments.steps, "patients": rows}
    arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
