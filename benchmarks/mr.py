"""Magnetic resonance with tables: what `configs/mr-brain.yaml` and `configs/mr-hippocampus.yaml` train on.

    python benchmarks/mr.py OUT            (OUT/legs, OUT/brain and OUT/hippocampus: slices, and a table of each)
    retrodict fit configs/mr-brain.yaml --set data.root=OUT -o runs/mr-brain
    retrodict fit configs/mr-hippocampus.yaml --set data.root=OUT -o runs/mr-hippocampus

Whole people are on one side.  Legs: T1 of 43 people (mr_t1_sts), 35 to train, 4 for validation and 4 for the test.
Brain: two people there are; one is trained on (T1, mr_brain_t1_forrest, axial slices of 1.05 mm pixels), the other
(T2, mr_brain_t2_fpg) is for the test.  Hippocampus: 231 people (mr_hippocampus_msd); of every eight one is for the
validation and one for the test.  Values are as they are in the files: their units differ by factors of 10^4.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from patient_slices import DATA
from retrodict.data import read
from retrodict.data.index import IndexRow, read_index, write_index
from retrodict.data.resample import resample_axes

LEGS, T1, T2, HIPPOCAMPUS = "mr_t1_sts", "mr_brain_t1_forrest", "mr_brain_t2_fpg", "mr_hippocampus_msd"


def _written(out: Path, name: str, patient: str, split: str, values: np.ndarray, spacing: tuple[float, ...],
             licence: str) -> IndexRow:  # fmt: skip
    """Slices `(Z, H, W)` of a person as an array of a file, and its row."""
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / name, slices=values.astype(np.float32))
    return IndexRow(split, patient, name, key="slices", modality="MR", orientation="axial", slices=len(values),
                    rows=values.shape[1], columns=values.shape[2], pixel_spacing_mm=spacing, licence=licence,
                    path=out / "index.csv")  # fmt: skip


def legs(out: Path) -> Path:
    """The table of the legs: half of the people for validation become the test."""
    rows = []
    with (DATA / LEGS / "index.csv").open() as stream:
        listed = list(csv.DictReader(stream))
    held = sorted({r["patient"] for r in listed if r["split"] == "validation"})
    for name in sorted({r["patient"] for r in listed}):
        own = [r for r in listed if r["patient"] == name]
        side = own[0]["split"] if name not in held[::2] else "test"
        spacing = json.loads(own[0]["pixel_spacing_mm"])
        values = np.load(DATA / LEGS / own[0]["file"])[own[0]["key"]]
        rows.append(_written(out, f"{name}.npz", name, side, values, (spacing[0], spacing[1]), own[0]["licence"]))
    return write_index(rows, out / "index.csv", force=True)


def brain(out: Path) -> Path:
    """The table of the two brains: axial slices of square pixels, without those of the neck and of mere air."""
    first = read(DATA / T1 / "t1w_0p7mm.nii.gz", expect=None)
    fine, at = resample_axes(first.values[:, 150:350:3], first.spacing[-2:], (1.05, 1.05))
    mean = float(sum(at[-2:])) / 2
    rows = [_written(out, "t1.npz", "forrest", "train", fine[0].numpy(), (mean, mean), "PDDL 1.0")]
    second = read(DATA / T2 / "t2.nii.gz", expect=None)
    rows.append(_written(out, "t2.npz", "fpg", "test", second.values[0, 5:22].numpy(), second.spacing[-2:], "MIT"))
    return write_index(rows, out / "index.csv", force=True)


def hippocampus(out: Path) -> Path:
    """The table of the hippocampus volumes, all slices."""
    rows = []
    for k, path in enumerate(sorted((DATA / HIPPOCAMPUS).glob("hippocampus_*.nii.gz"))):
        image = read(path, expect=None)
        side, name = {6: "validation", 7: "test"}.get(k % 8, "train"), path.name.removesuffix(".nii.gz")
        rows.append(_written(out, f"{name}.npz", name, side, image.values[0].numpy(), image.spacing[-2:],
                             "CC BY-SA 4.0"))  # fmt: skip
    return write_index(rows, out / "index.csv", force=True)


def main() -> None:
    """Prepare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    for table in (legs(out / "legs"), brain(out / "brain"), hippocampus(out / "hippocampus")):
        sides = {row.patient: row.split for row in read_index(table)}
        print(table, {side: list(sides.values()).count(side) for side in ("train", "validation", "test")})


if __name__ == "__main__":
    main()
