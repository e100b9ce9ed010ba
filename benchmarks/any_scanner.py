"""Train the denoiser of every instrument on many patients: `python benchmarks/any_scanner.py OUT [--steps N]`.

A batch has one pixel spacing, drawn for each step from those of the patients and from coarser copies; every item has a
clock of its own (`processes.clocks.ClockLaw`).  Resumes from the checkpoints in OUT.  Skips where the data is absent.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from retrodict._random import key, uniform
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.data import Group, Image, PatchSet, read
from retrodict.data.resample import resample_axes
from retrodict.models.model import Intensity, ModelSpec, save_model
from retrodict.nets import precision_for
from retrodict.processes.clocks import ClockLaw
from retrodict.training.loop import TrainingOptions, train
from retrodict.training.losses import Example, denoising_loss

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("ct_tcga_lung", "ct_nysbu_chest", "ct_sts_extremity", "ct_liver_lung_tcia3", "ct_kernel_pairs_lungdx")
INTENSITY = Intensity("HU", 200.0, -1000.0)
SIZE, STEP = 64, 0.04  # pixels of a patch; ratio between neighbouring spacings of a batch
LAW = ClockLaw(scale=INTENSITY.scale)
NETWORK = {
    "name": "unet",
    "options": {
        "width": 32,
        "multipliers": [1, 2, 4],
        "blocks": 1,
        "patch": 2,
        "activation": "relu",
        "padding": "zeros",
    },
}


@dataclass(frozen=True)
class Slice:
    """One axial slice of a patient, clipped to what CT can say."""

    patient: str
    values: torch.Tensor
    spacing: float
    noise: float = float("nan")  # HU, of the scan itself


def slices(split: str, most_noise: float = 16.0) -> list[Slice]:
    """Axial slices of the patients of a split ("train" or "validation") whose own noise is below `most_noise` HU."""
    found = []
    for name in SETS:
        with open(DATA / name / "index.csv") as stream:
            rows = [r for r in csv.DictReader(stream) if r["split"] == split and r["orientation"] == "axial"]
        for row in rows:
            noise = float(row["noise_hu"] or "nan")
            if noise > most_noise:
                continue
            with np.load(DATA / name / row["file"], allow_pickle=False) as archive:
                values = archive[row["key"]][int(row["index"])]
            hu = torch.from_numpy(values.astype(np.float32)).clamp(-1024, 3071)
            found.append(Slice(row["patient"], hu, float(json.loads(row["pixel_spacing_mm"])[0]), noise))
    return found + (others() if split == "train" else [])


def others() -> list[Slice]:
    """Two patients of sets that have no split: a head and a trunk, both for training."""
    body = DATA / "ct_body_totalsegmentator" / "example_ct_dicom_hu.npz"
    found = []
    with np.load(body, allow_pickle=False) as archive:
        for values in archive["hu"]:
            hu = torch.from_numpy(values.astype(np.float32)).clamp(-1024, 3071)
            found.append(Slice("totalsegmentator", hu, float(archive["pixel_spacing_mm"][0])))
    for path in sorted((DATA / "ct_head_ge").glob("*.dcm")):
        image = read(path)
        hu = image.values.reshape(image.values.shape[-2:]).clamp(-1024, 3071)
        found.append(Slice("head-ge", hu, float(image.spacing[-1])))
    return found


def bin_of(spacing: float) -> int:
    """Number of the spacing on a logarithmic grid."""
    return round(math.log(spacing) / STEP)


def grids(found: list[Slice], copies: int = 1) -> dict[int, list[Slice]]:
    """Slices by spacing: each as it is and `copies` times averaged down to a coarser grid of at most 1.5 mm."""
    out: dict[int, list[Slice]] = {}
    for number, item in enumerate(found):
        out.setdefault(bin_of(item.spacing), []).append(item)
        for copy in range(copies):
            u = float(uniform([number], "coarser", copy)[0])
            target = item.spacing * (1.5 / item.spacing) ** (0.15 + 0.85 * u)
            values, spacing = resample_axes(item.values[None, None], (item.spacing,) * 2, (target,) * 2)
            if min(values.shape[-2:]) >= SIZE and abs(spacing[0] / spacing[1] - 1) < 0.02:
                coarse = Slice(item.patient, values[0, 0], spacing[0])
                out.setdefault(bin_of(coarse.spacing), []).append(coarse)
    return out


class Patients:
    """A `Batch`: patches of one spacing from patients that are drawn equally often."""

    def __init__(self, found: list[Slice], seed: int = 0) -> None:
        self.bins = sorted(grids(found).items())
        self.sets, patients = [], []
        for _, items in self.bins:
            names = sorted({item.patient for item in items})
            groups = [Group(n, images=tuple(_image(i) for i in items if i.patient == n)) for n in names]
            self.sets.append(PatchSet(groups, SIZE, seed=seed, balance="groups"))
            patients.append(len(names))
        self.share = torch.tensor(patients, dtype=torch.float64).cumsum(0) / sum(patients)

    def __call__(self, keys: list[int]) -> Example:
        place = int(torch.searchsorted(self.share, uniform(keys[:1], "spacing", 0)[0], right=True))
        spacing = math.exp(self.bins[place][0] * STEP)
        return Example(INTENSITY.encode(self.sets[place].batch(keys)), spacing=(spacing, spacing))


def _image(item: Slice) -> Image:
    return Image(values=item.values[None], spacing=(item.spacing, item.spacing), unit="HU", format="npz", source=())


def spectrum(found: list[Slice], bins: int = 40, crop: int = 128) -> Spectrum:
    """Density of power of all patients, each counted once, from crops of body under a Hann window, at 1 mm^2."""
    edges = torch.logspace(math.log10(0.004), math.log10(1.3), bins + 1, dtype=torch.float64)
    window = torch.hann_window(crop + 2, periodic=False, dtype=torch.float64)[1:-1]
    window = window[:, None] * window
    total, weight, frequency = torch.zeros(3, bins, dtype=torch.float64)
    crops: dict[str, list[tuple[torch.Tensor, float]]] = {}
    for number, item in enumerate(found):
        height, width = item.values.shape
        if min(height, width) < crop:
            continue
        for trial in range(6):
            u = uniform([number], "crop", 2 * trial)[0], uniform([number], "crop", 2 * trial + 1)[0]
            y, x = int(u[0] * (height - crop + 1)), int(u[1] * (width - crop + 1))
            part = INTENSITY.encode(item.values[y : y + crop, x : x + crop].double())
            if float((part < 0.5).double().mean()) < 0.9:
                crops.setdefault(item.patient, []).append((part, item.spacing))
    everything = [part for parts in crops.values() for part in parts]
    mean = float(sum(part.mean() for part, _ in everything) / len(everything))
    for parts in crops.values():
        for part, spacing in parts:
            basis = Fourier((crop, crop), (spacing, spacing))
            energy = basis.forward((part - mean) * window).abs() ** 2 / (window**2).mean() * spacing**2
            place = torch.bucketize(basis.radius(), edges) - 1
            inside = (place >= 0) & (place < bins)
            share = basis.multiplicity()[inside] / len(parts)
            total.index_add_(0, place[inside], share * energy[inside])
            frequency.index_add_(0, place[inside], share * basis.radius()[inside])
            weight.index_add_(0, place[inside], share)
    kept = weight > 0
    power = (total[kept] / weight[kept]).clamp_min(1e-9)
    return Spectrum(mean, tuple((frequency[kept] / weight[kept]).tolist()), tuple(power.tolist()), 1.0)


def specification(found: list[Slice]) -> ModelSpec:
    """The model before its training."""
    return ModelSpec(
        process={"name": "fourier", "options": {}, "basis": {"name": "fourier", "options": {}}},
        network=NETWORK,
        spectrum=spectrum(found).to_json(),
        intensity=INTENSITY,
        spacing=(1.0, 1.0),
        size=(SIZE, SIZE),
        bands=4,
        level="clock",
        card={"name": "any-scanner", "patients": len({f.patient for f in found}), "images": len(found)},
    )


def main() -> None:
    """Train, save checkpoints, and write the model of the averaged weights at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=40000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not all((DATA / name / "index.csv").is_file() for name in SETS):
        sys.exit(f"no patients in {DATA}: nothing to train on")
    torch.set_num_threads(options.threads)
    found, held = slices("train"), slices("validation")
    spec = specification(found)
    torch.manual_seed(key(0, "weights") % 2**31)
    denoiser = spec.build("any-scanner", precision_for("auto"))
    settings = TrainingOptions(
        steps=options.steps,
        learning_rate=1e-3,
        warmup=300,
        decay=0.25,
        ema=0.9995,
        checkpoint_every=500,
        validate_every=1000,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    log = open(options.out / "log.jsonl", "a")  # noqa: SIM115

    def write(record: dict[str, float]) -> None:
        log.write(json.dumps(record) + "\n")
        log.flush()

    def objective(net, batch, seeds, weight, spread):
        return denoising_loss(net, batch, seeds, weight, spread, law=LAW)

    average = train(
        denoiser,
        Patients(found),
        settings,
        options.out,
        validation=Patients(held),
        log=write,
        objective=objective,
    )
    save_model(spec, average, options.out / "any-scanner")


if __name__ == "__main__":
    main()
