"""How well an instrument is found from the image itself: `python benchmarks/estimate_instrument.py [--data FOLDER]`.

Slices of patients (the middle 256 x 256 pixels where they are larger) are measured by simulated instruments, rounded
and clipped to -1024 ... 3071 HU as scanners do, and estimated without their curves.  Figures are by patient, of one
slice each.  `--patients` prints instead the scatter of edges between training patients, which is the prior of
`retrodict.tasks.estimate_prior`; `--gaussian` tests on Gaussian data of the model's spectrum; `--hard` the cases that
have to be refused or said; `--own` real scans at their own noise.  Skips where the data is absent.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import patient_slices
from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.data import Image
from retrodict.metrics.blind import fit_patches
from retrodict.metrics.blind_law import NAMES, PatchLaw
from retrodict.metrics.patch_power import patch_power
from retrodict.models.model import Model, open_model
from retrodict.processes.fourier import fourier
from retrodict.tasks.estimate import EstimatedInstrument, _density, estimated
from retrodict.tasks.estimate_prior import EDGE_CORRELATION, PRIOR
from retrodict.tasks.index import own_noise

RESULT = Path(__file__).parent / "results" / "estimate-instrument.json"
BANDS = (0.0, 0.15, 0.3, 0.5, 2.0)  # cycles/mm; the last ends at the Nyquist frequency


@dataclass(frozen=True)
class Instrument:
    """Noise sd (HU), MTF and shape of the NPS given the MTF, over |f|."""

    sd: float
    mtf: Callable[[Tensor], Tensor]
    shape: Callable[[Tensor, Tensor], Tensor]

    def mtf50(self) -> float:
        """Frequency at which the MTF falls to a half."""
        f = torch.linspace(0.02, 3.0, 2981, dtype=torch.float64)
        return float(f[int((self.mtf(f) < 0.5).nonzero()[0])])


def falling(half: float, power: float, lift: float = 0.0) -> Callable[[Tensor], Tensor]:
    """exp(-ln 2 (f / half)^power) with the lift of a sharp kernel."""
    return lambda f: torch.exp(-math.log(2) * (f / half) ** power) * (1 + lift * torch.exp(-(((f - 0.32) / 0.16) ** 2)))


def paper() -> Instrument:
    """The instrument of Fourier diffusion (Tivnan et al.), as tables over |f|."""
    process = fourier(Fourier((256, 256), (0.5, 0.5)))
    bound, radii = process.measurement, process.basis.radius()
    assert bound is not None
    order = radii.flatten().argsort()
    nodes = radii.flatten()[order]

    def table(values: Tensor) -> Callable[[Tensor], Tensor]:
        along = values.expand(radii.shape).flatten()[order]
        return lambda f: along[torch.searchsorted(nodes, f.contiguous()).clamp(max=len(nodes) - 1)]

    mtf, shape = table(bound.h), table(bound.s2)
    return Instrument(170.0, mtf, lambda f, _: shape(f))


def instruments() -> dict[str, Instrument]:
    """Soft, standard and sharp kernels at 12, 30 and 60 HU, and the paper's."""
    return {
        "soft, 12 HU": Instrument(12.0, falling(0.30, 2.0), lambda f, m: (f / 0.3 + 0.1) * m**2),
        "standard, 30 HU": Instrument(30.0, falling(0.45, 2.0), lambda f, m: (f / 0.3 + 0.1) * m**2),
        "sharp, 60 HU": Instrument(
            60.0, falling(0.75, 2.5, 0.4), lambda f, m: ((f / 0.3) ** 1.2 + 0.05) * torch.exp(-((f / 0.8) ** 3))
        ),
        "paper, 170 HU": paper(),
    }


def radius(shape: tuple[int, ...], spacing: float) -> Tensor:
    """|f| of a plane."""
    fy, fx = (torch.fft.fftfreq(n, spacing, dtype=torch.float64) for n in shape)
    return torch.hypot(fy[:, None], fx[None])


def measured(hu: Tensor, spacing: float, instrument: Instrument, seed: int, *, clip: bool = True) -> Tensor:
    """Blurred, with noise, rounded and clipped."""
    pad = 32
    x = F.pad(hu.double()[None, None], [pad] * 4, mode="reflect")[0, 0]
    f = radius(tuple(x.shape), spacing)
    mtf = instrument.mtf(f.flatten()).reshape(f.shape)
    power = instrument.shape(f.flatten(), mtf.flatten()).reshape(f.shape)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = torch.fft.ifft2(torch.fft.fft2(z) * (power / power.mean()).sqrt()).real * instrument.sd
    y = (torch.fft.ifft2(torch.fft.fft2(x) * mtf).real + noise)[pad:-pad, pad:-pad]
    return y.round().clamp(-1024, 3071) if clip else y


def as_image(hu: Tensor, spacing: float) -> Image:
    """An image in memory."""
    return Image(hu.float()[None], "HU", (spacing, spacing), "npz", ())


def middle(hu: Tensor, side: int = 256) -> Tensor:
    """The middle square of a slice, or the whole of a smaller one."""
    top, left = (max(0, (n - side) // 2) for n in hu.shape)
    return hu[top : top + side, left : left + side]


@dataclass(frozen=True)
class Item:
    """One slice of a patient `(H, W)`, clipped to what CT can say; the noise that its table states, HU."""

    patient: str
    values: Tensor
    spacing: float
    noise: float


def one_each(split: str, most_noise: float, step: int = 1) -> list[Item]:
    """The first slice of every patient, by name."""
    found: dict[str, Item] = {}
    for s in patient_slices.slices(split, most_noise):
        hu = s.image.values[0].clamp(-1024, 3071)
        found.setdefault(s.patient, Item(s.patient, hu, s.spacing[0], math.nan if s.noise is None else s.noise))
    return [found[name] for name in sorted(found)][::step]


# ---- figures -----------------------------------------------------------------------------------------------------


def figures(found: EstimatedInstrument, truth: Instrument, spacing: float) -> dict[str, object]:
    """Of one image: errors and whether the bands hold the truth."""
    noise, half = found.summary["noise_sd"], found.summary["mtf50"]
    record = found.nps
    assert record is not None
    f = torch.tensor(record["frequency"], dtype=torch.float64)
    plane = radius((256, 256), spacing).flatten()
    level = truth.shape(plane, truth.mtf(plane)).mean()
    nps = truth.shape(f, truth.mtf(f)) / level * truth.sd**2 * spacing**2
    value, low, high = (torch.tensor(record[n], dtype=torch.float64) for n in ("value", "lower", "upper"))
    shape, inside = [], []
    for a, b in pairwise(BANDS):
        band = (f >= a) & (f < min(b, 0.5 / spacing))
        weight = f[band]
        shape.append(
            float((value[band] * weight).sum() / (nps[band] * weight).sum()) / (noise["value"] / truth.sd) ** 2
        )
        inside.append(float(((low[band] <= nps[band]) & (nps[band] <= high[band])).double().mean()))
    return {
        "noise": noise["value"] / truth.sd,
        "noise_in": noise["lower"] <= truth.sd <= noise["upper"],
        "half": half["value"] / truth.mtf50(),
        "half_in": half["lower"] <= truth.mtf50() <= half["upper"],
        "half_width": half["upper"] / half["lower"],
        "shape": shape,
        "nps_in": inside,
        "unknown": bool(found.unknown),
        "text": found.text,
        "warnings": list(found.warnings),
    }


def summary(rows: list[dict]) -> dict[str, object]:
    """Bias, scatter between patients, coverage and refusals."""
    done = [r for r in rows if "refused" not in r]

    def pair(values: list[float]) -> list[float]:
        return [statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0]

    logs = [math.log(r["half"]) for r in done]
    return {
        "patients": len(rows),
        "refused": len(rows) - len(done),
        "resolution_unknown": sum(r["unknown"] for r in done),
        "noise_ratio": pair([r["noise"] for r in done]),
        "noise_band_holds": statistics.fmean([r["noise_in"] for r in done]),
        "mtf50_ratio": [math.exp(statistics.fmean(logs)), statistics.stdev(logs) if len(logs) > 1 else 0.0],
        "mtf50_band_holds": statistics.fmean([r["half_in"] for r in done]),
        "mtf50_band_factor": statistics.median([r["half_width"] for r in done]),
        "nps_shape": [pair([r["shape"][k] for r in done]) for k in range(len(BANDS) - 1)],
        "nps_band_holds": [statistics.fmean([r["nps_in"][k] for r in done]) for k in range(len(BANDS) - 1)],
    }


def simulated(model: Model, split: str, step: int, most_noise: float, only: str) -> dict[str, object]:
    """The table of the simulated instruments."""
    out: dict[str, object] = {}
    patients = one_each(split, most_noise, step)
    for name, instrument in instruments().items():
        if not name.startswith(only):
            continue
        rows = []
        for number, item in enumerate(patients):
            y = measured(middle(item.values), item.spacing, instrument, number)
            row: dict[str, object] = {"patient": item.patient, "own_noise": item.noise, "spacing": item.spacing}
            try:
                row |= figures(estimated(as_image(y, item.spacing), model), instrument, item.spacing)
            except InputError as error:
                row["refused"] = error.found
            rows.append(row)
            print(name, json.dumps(row), file=sys.stderr, flush=True)
        out[name] = {**summary(rows), "rows": rows}
        print(name, json.dumps(summary(rows)), flush=True)
    return out


def own(model: Model, split: str, step: int) -> dict[str, object]:
    """Real scans at their own noise, against that of uniform squares (`retrodict index`).

    The tables of these sets state less, kept as "table": a second difference, which misses the low frequencies that
    noise of a smooth kernel has: 0.1 to 0.5 of the standard deviation.
    """
    rows: list[dict[str, object]] = []
    ratios, held = [], 0
    for item in one_each(split, 100.0, step):
        image = as_image(item.values, item.spacing)
        squares = own_noise(image)[0]
        row: dict[str, object] = {"patient": item.patient, "table": item.noise, "squares": squares}
        try:
            found = estimated(image, model)
            noise = found.summary["noise_sd"]
            row |= {"noise": noise["value"], "band": [noise["lower"], noise["upper"]], "text": found.text,
                    "unknown": found.unknown, "warnings": list(found.warnings)}  # fmt: skip
            if squares is not None:
                ratios.append(noise["value"] / squares)
                held += noise["lower"] <= squares <= noise["upper"]
        except InputError as error:
            row["refused"] = error.found
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    said = {"patients": len(rows), "refused": sum("refused" in r for r in rows),
            "unknown": sum(bool(r.get("unknown")) for r in rows), "compared": len(ratios),
            "ratio": [statistics.fmean(ratios), statistics.stdev(ratios), min(ratios), max(ratios)],
            "band_holds": held}  # fmt: skip
    print(f"{split}, own noise", json.dumps(said), flush=True)
    return {**said, "rows": rows}


def gaussian(model: Model, count: int) -> dict[str, object]:
    """Gaussian data of the law itself, 256 x 256 at 0.8 mm, soft instrument of 30 HU: a quarter holds no structure.

    The edges of each image are those of a patient drawn from the prior.
    """
    soft, spacing = instruments()["soft, 12 HU"], 0.8
    instrument = Instrument(30.0, soft.mtf, soft.shape)
    f = radius((256, 256), spacing).clamp_min(0.004)
    power = _density(model)(f.flatten()).reshape(f.shape)
    there = torch.sigmoid((torch.arange(256, dtype=torch.float64) - 64) / 4)
    rows = []
    for seed in range(count):
        draw = torch.Generator().manual_seed(1000 + seed)
        a, b = torch.randn(2, generator=draw, dtype=torch.float64).tolist()
        b = EDGE_CORRELATION * a + math.sqrt(1 - EDGE_CORRELATION**2) * b
        first, second = (m + s * u for (m, s), u in zip((PRIOR["edge1"], PRIOR["edge2"]), (a, b), strict=True))
        x = f / 0.25
        patient = power * x**first * torch.exp(second * x * x / 4)
        z = torch.randn(f.shape, generator=draw, dtype=torch.float64)
        hu = torch.fft.ifft2(torch.fft.fft2(z) * patient.sqrt() / spacing).real * there
        y = measured(hu, spacing, instrument, seed, clip=False)
        row = figures(estimated(as_image(y, spacing), model), instrument, spacing) | {"patient": seed}
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    found = summary(rows)
    print("Gaussian data", json.dumps(found), flush=True)
    return found


def hard(model: Model) -> dict[str, str]:
    """Cases that have to be refused or said."""
    item = one_each("validation", 9.0)[0]
    hu, spacing = middle(item.values), item.spacing
    tools = instruments()
    y = measured(hu, spacing, tools["standard, 30 HU"], 0)
    loud = measured(hu, spacing, tools["sharp, 60 HU"], 0, clip=False)
    noise = measured(torch.zeros_like(hu), spacing, tools["standard, 30 HU"], 1, clip=False)
    ramp = torch.linspace(0.4, 1.6, hu.shape[1], dtype=torch.float64)
    blurred = F.interpolate(F.avg_pool2d(hu.double()[None, None], 8), size=hu.shape, mode="bicubic")[0, 0]
    cases = {
        "clipped air": loud.clamp(min=-1000.0),
        "everything clipped": loud.clamp(-20, 20) * 0 - 1000.0,
        "noiseless": blurred,
        "pure noise": noise,
        "smoothed": smoothed(y),
        "upsampled twice": F.interpolate(y[None, None], scale_factor=2, mode="bicubic")[0, 0],
        "uneven noise": blurred + noise * ramp,
    }
    said = {}
    for name, values in cases.items():
        step = spacing / 2 if name == "upsampled twice" else spacing
        try:
            found = estimated(as_image(values, step), model)
            said[name] = "; ".join(filter(None, [found.text, found.unknown, *found.warnings]))
            print(json.dumps(found.summary), file=sys.stderr, flush=True)
        except InputError as error:
            said[name] = f"refused: {error.found}"
        print(f"{name}: {said[name]}", flush=True)
    return said


def smoothed(y: Tensor, strength: float = 30.0) -> Tensor:
    """A bilateral filter: flat places are smoothed, edges stay, as after non-local means."""
    x = F.pad(y[None, None], [3] * 4, mode="reflect")[0, 0]
    total, weight = torch.zeros_like(y), torch.zeros_like(y)
    for dy in range(7):
        for dx in range(7):
            other = x[dy : dy + y.shape[0], dx : dx + y.shape[1]]
            w = torch.exp(-((other - y) ** 2) / (2 * (2 * strength) ** 2))
            total, weight = total + w * other, weight + w
    return total / weight


def scatter(model: Model, step: int) -> dict[str, object]:
    """Parameters of edges of training patients, their instrument being known: mean, deviation and correlation."""
    names = ("edge1", "edge2", "sharpness", "softness")
    center = torch.tensor([PRIOR[n][0] for n in NAMES], dtype=torch.float64)
    scale = torch.tensor([3.0 if n in ("edge1", "edge2") else PRIOR[n][1] for n in NAMES], dtype=torch.float64)
    instrument = Instrument(
        12.0, falling(0.5, 1.5), lambda f, _: ((f / 0.3) ** 0.7 + 0.2) * torch.exp(-((f / 0.5) ** 2.5))
    )
    rows = []
    for number, item in enumerate(one_each("train", 6.5, step)):
        y = measured(middle(item.values), item.spacing, instrument, number)
        plane = radius((256, 256), item.spacing).flatten()
        level = float(instrument.shape(plane, plane).mean()) / instrument.sd**2 / item.spacing**2
        law = PatchLaw(
            _density(model), (item.spacing,) * 2, center, torch.diag(1 / scale**2),
            mtf=instrument.mtf, nps=lambda f, level=level: instrument.shape(f, f) / level,
        )  # fmt: skip
        try:
            data = patch_power(y[None], (item.spacing,) * 2)
        except InputError:
            continue
        best = fit_patches(data, law, draws=2).best
        rows.append([float(best[NAMES.index(n)]) for n in names])
        print(item.patient, rows[-1], flush=True)
    table = torch.tensor(rows, dtype=torch.float64)
    mean, sd = (
        dict(zip(names, table.mean(0).tolist(), strict=True)),
        dict(zip(names, table.std(0).tolist(), strict=True)),
    )
    found = {"patients": len(rows), "mean": mean, "sd": sd, "correlation": float(torch.corrcoef(table.T)[0, 1])}
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    """Run what was asked for and keep it in the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=patient_slices.DATA)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--only", default="", help="instruments whose name begins so")
    parser.add_argument("--step", type=int, default=1, help="every n-th patient")
    parser.add_argument("--most-noise", type=float, default=9.0, help="HU of the slices themselves")
    for name in ("patients", "gaussian", "hard", "own"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    patient_slices.DATA = options.data
    if not patient_slices.there():
        sys.exit(f"no patients in {options.data}: nothing to measure")
    model = open_model("ct")
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if options.patients:
        kept["patients"] = scatter(model, options.step)
    elif options.gaussian:
        kept["gaussian"] = gaussian(model, 20 // options.step)
    elif options.hard:
        kept["hard"] = hard(model)
    elif options.own:
        kept["own"] = kept.get("own", {}) | {options.split: own(model, options.split, options.step)}
    else:
        kept[options.split] = kept.get(options.split, {}) | simulated(
            model, options.split, options.step, options.most_noise, options.only
        )
    RESULT.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
