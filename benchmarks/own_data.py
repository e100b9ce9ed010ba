"""The images of `own_networks.py` in one file, so that many processes start at once and a step cuts nothing.

Patches of 64 x 64 pixels of 1 mm of the patients of the split train (`PatchSet`, every patient as often); others of an
eighth of these patients, who are not trained on, for the factors on the spread; and a crop of the body of up to three
slices of every validation patient.  In eighths of HU as whole numbers of 16 bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from patient_slices import body_corner, slices
from retrodict._output import write_file
from retrodict._random import key
from retrodict.bases.spectrum import Spectrum
from retrodict.data.collection import Slice
from retrodict.data.patches import Group, PatchSet
from retrodict.data.resample import resample_axes
from retrodict.models.model import Intensity
from retrodict.tasks.fit_collection import body_spectrum

SIDE, SPACING = 64, 1.0
INTENSITY = Intensity("HU", 200.0, -1000.0)
LEFT_OUT = ("A048383",)
"""The patient of the demonstration, as in configs/any-scanner.yaml."""
STEPS_OF_HU, SLICES, NEAR = 8, 3, 0.03


class Bank(NamedTuple):
    """Patches `(N, 1, 64, 64)` to train on and of patients held out, crops `(P, 1, 64, 64)`, all in model units; the
    patient of every crop, and the spectrum.
    """

    training: Tensor
    held: Tensor
    truth: Tensor
    patients: list[str]
    spectrum: Spectrum

    def batch(self, held: bool = False) -> Callable[[list[int]], Tensor]:
        """Patches by key, mirrored and turned: a function of the key alone, on the device of the bank."""
        bank = self.held if held else self.training

        def drawn(keys: list[int]) -> Tensor:
            place = torch.tensor([(k % len(bank), k // len(bank) % 8) for k in keys], device=bank.device)
            x, turn = bank[place[:, 0]], place[:, 1].reshape(-1, 1, 1, 1)
            x = torch.where(turn % 2 == 1, x.flip(-1), x)
            x = torch.where(turn // 2 % 2 == 1, x.flip(-2), x)
            return torch.where(turn // 4 == 1, x.mT, x)

        return drawn


def _packed(x: Tensor) -> Tensor:
    return (x.clamp(-1024, 3071) * STEPS_OF_HU).round().to(torch.int16)


def at_spacing(item: Slice) -> Slice | None:
    """A slice at 1 mm: averaged down, or as it is where it is within 3 % of that; None where it is coarser or small."""
    if max(item.spacing) > (1 + NEAR) * SPACING:
        return None
    values, wanted = item.image.values, (SPACING, SPACING)
    if min(item.spacing) < (1 - NEAR) * SPACING:
        values = resample_axes(values, item.spacing, wanted)[0]
    image = replace(item.image, values=values, spacing=wanted)
    return None if min(values.shape[-2:]) < SIDE else replace(item, image=image)


def _patches(found: list[Slice], count: int) -> Tensor:
    """Patches of some slices, `(count, 1, 64, 64)`, every patient as often."""
    names = sorted({s.patient for s in found})
    groups = [Group(name, images=tuple(s.image for s in found if s.patient == name)) for name in names]
    patches = PatchSet(groups, SIDE, balance="groups")
    return torch.cat([_packed(patches.batch([key(0, "bank", i)])) for i in range(count)])


def prepare(path: Path, count: int) -> None:
    """Write the file; where it is there, nothing is done."""
    if path.exists():
        return
    print(f"cutting {count} patches for {path}", flush=True)
    found = [s for s in map(at_spacing, slices("train")) if s is not None and s.patient not in LEFT_OUT]
    names = sorted({s.patient for s in found})
    aside = names[::8]
    kept = [s for s in found if s.patient not in aside]
    training = _patches(kept, count)
    held = _patches([s for s in found if s.patient in aside], max(64, count // 8))
    crops: dict[str, list[Tensor]] = {}
    for item in filter(None, map(at_spacing, slices("validation"))):
        cut, values = crops.setdefault(item.patient, []), item.image.values
        if len(cut) < SLICES:
            top, left = body_corner(values, SIDE)
            cut.append(_packed(values[None, :, top : top + SIDE, left : left + SIDE]))
    patients = [name for name, cut in crops.items() for _ in cut]
    record = {"patients": patients, "trained_on": sorted(set(names) - set(aside)), "held_out": aside,
              "spectrum": body_spectrum(kept, INTENSITY, SIDE).to_json()}  # fmt: skip
    truth = torch.cat([part for cut in crops.values() for part in cut])
    content = save({"training": training, "held": held, "truth": truth}, {"record": json.dumps(record)})
    write_file(path, content)


def load(path: Path, device: str, most: int) -> Bank:
    """Read the file, with the first `most` validation patients."""
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["record"])
        values = [INTENSITY.encode(file.get_tensor(n).float() / STEPS_OF_HU) for n in ("training", "held", "truth")]
    spectrum = Spectrum.from_json(record["spectrum"], str(path))
    training, held = (x.to(device) for x in values[:2])
    known = list(dict.fromkeys(record["patients"]))[:most]
    count = sum(p in known for p in record["patients"])  # those of a patient stand together
    return Bank(training, held, values[2][:count], record["patients"][:count], spectrum)
