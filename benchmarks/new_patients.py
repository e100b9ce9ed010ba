"""A model of every instrument on patients that it has never seen: the figures that decide.

    python benchmarks/new_patients.py --model MODEL [--instant] [--scanners paper soft-12 ...] [--most 19]
    python benchmarks/new_patients.py --docs        puts the figures of the last run into the documents

Validation patients of the CT sets (each folder's split.json).  Of each one crop of 128 x 128 pixels of body, at its own
pixels and at two coarser ones, is measured by instruments that no model was trained on (`benchmarks/scanners.py`) and
restored: by one call (`--instant`) or by the sampler, with K members.  Printed, as mean +- SD between patients:

- squared error of the mean over that of the Wiener filter, and rms in HU;
- SSR^2, squared error over predicted variance: 1 is right, above 1 the spread is too small; and by radial band of a
  fifth of Nyquist, where the band holds 1 % of the error (else in brackets);
- coverage of 90 % intervals, the mean +- 1.645 deviations, per pixel by tissue, and of means of discs of 2, 5, 10 and
  20 mm.  A class that is told from the restored mean is known to who reads the interval, and an exact posterior covers
  90 % in it.  One that is told from the truth picks errors (bone by its truth is where the truth came out high), so
  even an exact posterior covers another share: `expected`, that of the members in their own classes;
- how far the mean moves with K (`--count`): by none, where it is one call.

The truth is a scan with noise of its own, which counts as error here; `own` is the correlation over patients between
that noise and SSR^2.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch

from patient_slices import DATA, body_corner, slices, there
from retrodict._random import key
from retrodict.bases import Fourier
from retrodict.data.resample import resample_axes
from retrodict.metrics.calibration import central_factor
from retrodict.models.instrument import model_with_instrument
from retrodict.models.model import Model, open_model
from retrodict.models.range import at_spacing, outside
from retrodict.samplers.ensemble import SamplingOptions, restore_batch
from scanners import SCANNERS, curves
from tables import new_patients as table_of
from tables import replace_block

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "new_patients.json"
SHORT = ("README.md", "src/retrodict/assets/MODEL_CARD.md")
FULL = ("docs/figures.md",)
"""Documents with the table, and with that of bands and tissues too."""
SIDE, BANDS, AROUND = 128, 5, 24
"""Pixels of a crop and around it: what is measured goes on beyond the crop, as in a scan, and does not wrap."""
GRIDS = (0.0, 1.0, 1.35)
"""Pixel spacings in mm; 0 is that of the scan.  A scan is only ever brought to a coarser one."""
TISSUES = {"lung": (-950, -500), "fat": (-150, -30), "soft": (-30, 150), "bone": (150, 3000)}
DISCS = (2.0, 5.0, 10.0, 20.0)


def crop(values: torch.Tensor, spacing: tuple[float, float], wanted: float) -> tuple[torch.Tensor, float] | None:
    """The middle SIDE x SIDE pixels of the body and AROUND more, (1, 1, N, N) HU, at a spacing; None where there are
    fewer than SIDE; what is missing around them is mirrored.
    """
    own = math.sqrt(spacing[0] * spacing[1])
    if wanted and wanted / own < 1.03:
        return None
    values = values[None]
    if wanted:
        values, found = resample_axes(values, spacing, (wanted, wanted))
        own = found[0]
    if min(values.shape[-2:]) < SIDE:
        return None
    y, x = body_corner(values, SIDE)
    values = torch.nn.functional.pad(values, [AROUND] * 4, mode="reflect")
    return values[..., y : y + SIDE + 2 * AROUND, x : x + SIDE + 2 * AROUND].clamp(-1024, 3071), own


def disc(diameter: float, spacing: float) -> torch.Tensor:
    """Weights of the mean over a disc, as the transform of a kernel on the grid of a crop."""
    axis = torch.minimum(torch.arange(SIDE), SIDE - torch.arange(SIDE)).double() * spacing
    inside = (torch.hypot(axis[:, None], axis[None]) <= diameter / 2).double()
    return torch.fft.rfft2(inside / inside.sum())


def patient(model: Model, wide_hu: torch.Tensor, seed: int, options: SamplingOptions) -> dict:
    """Figures of one crop; errors and variances in model units."""
    inner = (..., slice(AROUND, -AROUND), slice(AROUND, -AROUND))
    wide = model.denoiser.process.on(tuple(wide_hu.shape[2:]))
    y = wide.pairing.simulate(model.intensity.encode(wide_hu), wide.basis, torch.tensor([seed]))[inner]
    process, truth_hu = model.denoiser.process.on((SIDE, SIDE)), wide_hu[inner]
    truth = model.intensity.encode(truth_hu)
    started = time.process_time()
    result = restore_batch(model.denoiser, y, options)
    seconds = time.process_time() - started
    assert result.sd is not None
    assert result.samples is not None
    assert process.measurement is not None
    twin = model.denoiser.gaussian().on((SIDE, SIDE)).observe(process.basis.forward(y), process.measurement)
    error, members = result.mean - truth, result.samples[:, 0]
    basis, spacing = Fourier((SIDE, SIDE), process.basis.spacing), process.basis.spacing[0]
    weight, center = basis.multiplicity(), members.mean(0, keepdim=True)
    window = torch.hann_window(SIDE + 2, periodic=False)[1:-1]
    window = window[:, None] * window  # an error does not wrap, and low frequencies hold a million times more
    energy = basis.energy(basis.forward(window * error))[0, 0] * weight
    spread = basis.energy(basis.forward(window * (members - center))).sum((0, 1)) / (len(members) - 1) * weight
    rings = [mask for _, _, mask in basis.bands(BANDS, highest=0.5 / spacing)]
    squared = float(error.square().mean())
    student = central_factor(0.9, len(members)) / math.sqrt(1 + 1 / len(members))  # the mean is that of one call
    quantile = central_factor(0.9)  # most of the deviation is told by laws and not by K members
    inside = (error.abs() <= quantile * result.sd)[0, 0]
    discs = {}
    for size in DISCS:
        table = disc(size, spacing)
        part = slice(round(size / spacing), SIDE - round(size / spacing))  # whole discs only

        def mean_of(x: torch.Tensor, table: torch.Tensor = table, part: slice = part) -> torch.Tensor:
            return torch.fft.irfft2(torch.fft.rfft2(x.double()) * table, s=(SIDE, SIDE))[..., part, part]

        sd = mean_of(members - center).square().sum(0).div(len(members) - 1).sqrt()[0]
        discs[f"{size:g} mm"] = float((mean_of(error)[0, 0].abs() <= student * sd).double().mean())
    shown, drawn = (model.intensity.decode(x.double())[:, 0] for x in (result.mean, members[:, None]))
    held = (members - result.mean[:, 0]).abs() <= quantile * result.sd[:, 0] if options.instant else left_out(members)
    return {
        "rms_hu": math.sqrt(squared) * model.intensity.scale,
        "over_wiener": squared / float((twin.mean - truth).square().mean()),
        "ssr2": squared / float(result.sd.square().mean()),
        "bands": [float(energy[m].sum() / spread[m].sum()) for m in rings],
        "shares": [float(energy[m].sum() / energy.sum()) for m in rings],
        "coverage": float(inside.double().mean()),
        "tissue": by_tissue(shown, inside[None]),
        "of_truth": by_tissue(truth_hu[:, 0], inside[None]),
        "expected": by_tissue(drawn, held),
        "discs": discs,
        "cpu_seconds": seconds,
    }


def left_out(members: torch.Tensor) -> torch.Tensor:
    """Whether each of the members `(K, N, N)` lies within the 90 % interval that all others tell."""
    rest = [torch.cat([members[:k], members[k + 1 :]]) for k in range(len(members))]
    factor = central_factor(0.9, len(members) - 1)
    return torch.stack([(x - r.mean(0)).abs() <= factor * r.std(0) for x, r in zip(members, rest, strict=True)])


def by_tissue(hu: torch.Tensor, inside: torch.Tensor) -> dict[str, float]:
    """Share inside by tissue of images `(n, N, N)` in HU; NaN where there are fewer than 200 pixels of it an image."""
    masks = {name: (hu > low) & (hu <= high) for name, (low, high) in TISSUES.items()}
    return {
        name: float(inside[mask].double().mean()) if int(mask.sum()) >= 200 * len(hu) else math.nan
        for name, mask in masks.items()
    }


def mean_sd(rows: list[dict], name: str, part: str | None = None) -> str:
    """Mean +- SD between patients."""
    values = torch.tensor([r[name] if part is None else r[name][part] for r in rows], dtype=torch.float64)
    values = values[~values.isnan()]
    return f"{float(values.mean()):.2f}±{float(values.std()):.2f}" if len(values) > 1 else "-"


def told(name: str, rows: list[dict]) -> None:
    """The lines of one instrument at one spacing."""
    bands = torch.tensor([r["bands"] for r in rows], dtype=torch.float64)
    shares = torch.tensor([r["shares"] for r in rows], dtype=torch.float64).mean(0).tolist()
    shown = [
        f"{m:.2f}±{s:.2f}" if share >= 0.01 else f"({m:.2f})"
        for m, s, share in zip(bands.mean(0).tolist(), bands.std(0).tolist(), shares, strict=True)
    ]
    noise = torch.tensor([r["noise_hu"] for r in rows], dtype=torch.float64)
    ssr2 = torch.tensor([r["ssr2"] for r in rows], dtype=torch.float64)
    known = ~noise.isnan()
    own = float(torch.corrcoef(torch.stack([noise[known], ssr2[known]]))[0, 1]) if int(known.sum()) > 2 else math.nan
    print(
        f"{name:<22}{len(rows):>3}  rms {mean_sd(rows, 'rms_hu'):>12}  /Wiener {mean_sd(rows, 'over_wiener')}  "
        f"SSR2 {mean_sd(rows, 'ssr2')}  by band {'  '.join(shown)}  own {own:+.2f}"
    )
    tissue = "  ".join(f"{t} {mean_sd(rows, 'tissue', t)}" for t in TISSUES)
    discs = "  ".join(f"{d:g} mm {mean_sd(rows, 'discs', f'{d:g} mm')}" for d in DISCS)
    print(f"{'':<27}90 %: pixels {mean_sd(rows, 'coverage')}  {tissue}  discs {discs}", flush=True)
    truth = "  ".join(f"{t} {mean_sd(rows, 'of_truth', t)} ({mean_sd(rows, 'expected', t)})" for t in TISSUES)
    print(f"{'':<27}by tissue of the truth, and as expected of an exact posterior: {truth}", flush=True)


def documents(path: Path) -> None:
    """Write the tables of a result between the marks new-patients:begin and :end of the documents."""
    if not path.is_file():
        sys.exit(f"no result {path}: measure first")
    found = json.loads(path.read_text())
    for names, full in ((SHORT, False), (FULL, True)):
        for name in names:
            replace_block(ROOT / name, "new-patients", table_of(found, full))
            print(name)
    calls = path.with_name("new_patients_8_calls.json")
    if calls.is_file():
        for name in FULL:
            replace_block(ROOT / name, "new-patients-8", table_of(json.loads(calls.read_text()), True))


def main() -> None:
    """Print the lines of every instrument and spacing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ct")
    parser.add_argument("--instant", action="store_true")
    parser.add_argument("--rule", default="matched")
    parser.add_argument("--steps", type=int, help="calls of a member (default of the rule)")
    parser.add_argument("--count", type=int, default=8, help="members")
    parser.add_argument("--scanners", nargs="+", default=list(SCANNERS), choices=list(SCANNERS))
    parser.add_argument("--grids", nargs="+", type=float, default=list(GRIDS))
    parser.add_argument("--most", type=int, default=99, help="patients")
    parser.add_argument("--split", default="validation", choices=("train", "validation"), help="whose patients")
    parser.add_argument("--json", type=Path, default=OUT)
    parser.add_argument("--docs", action="store_true", help="measure nothing: write the tables of --json")
    given = parser.parse_args()
    if given.docs:
        documents(given.json)
        return
    if not there():
        sys.exit(f"no patients in {DATA}: nothing to measure")
    model, everyone = open_model(given.model), slices(given.split)
    settings = {"samples": given.count, "rule": given.rule, "steps": given.steps, "keep_samples": True}
    options = SamplingOptions(instant=given.instant, **settings)
    record: dict[str, list[dict]] = {}
    for wanted in given.grids:
        for name in given.scanners:
            rows, seen = [], set()
            for item in everyone:
                found = None if item.patient in seen else crop(item.image.values, item.spacing, wanted)
                if found is None or len(rows) >= given.most:
                    continue
                seen.add(item.patient)
                part, spacing = found
                bound, _ = model_with_instrument(_moved(model, spacing), *curves(SCANNERS[name], spacing))
                if outside(bound):
                    print(f"{name} at {spacing:.2f} mm: {outside(bound)}")
                seed = key(0, "new-patient", len(seen))
                row = patient(bound, part, seed, options)
                rows.append({"patient": item.patient, "noise_hu": item.noise or math.nan, "spacing": spacing, **row})
            label = f"{name} {wanted:g} mm" if wanted else f"{name} own pixels"
            record[label] = rows
            told(label, rows)
    given.json.write_text(json.dumps({"model": given.model, "instant": given.instant, "rows": record}, indent=1))


def _moved(model: Model, spacing: float) -> Model:
    """At the spacing of a crop; a model of one spacing is used as it is."""
    return model if model.spec.spacings is None else at_spacing(model, (spacing, spacing))


if __name__ == "__main__":
    main()
