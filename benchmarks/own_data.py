"""The images of `own_networks.py` in one file, so that many processes start at once and a step cuts nothing.

Patches of 64 x 64 pixels of 1 mm of the patients of the split train (`PatchSet`, every patient as often); as many of an
eighth of these patients, who are not trained on, for the factors on the spread; and one crop of the body of every
validation patient.  In eighths of HU as whole numbers of 16 bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from new_patients import SIDE as WIDE
from patient_slices import body_corner, slices
from retrodict._output import write_file
from retrodict._random import key
from retrodict.bases.spectrum import Spectrum
from retrodict.data.collection import Slice
from retrodict.data.patches import Group, PatchSet
from retrodict.models.model import Intensity
from retrodict.tasks.fit_collection import body_spectrum
from unseen import cases

SIDE, SPACING = 64, 1.0
INTENSITY = Intensity("HU", 200.0, -1000.0)
LEFT_OUT = ("A048383",)
"""The patient of the demonstration, as in configs/any-scanner.yaml."""
STEPS_OF_HU = 8


class Bank(NamedTuple):
    """Patches `(N, 1, 64, 64)` to train on and of patients held out, crops `(P, 1, 64, 64)`, all in model units; the
    patients of the crops, and the spectrum.
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


def _patches(found: list[Slice], count: int) -> Tensor:
    """Patches of some slices, `(count, 1, 64, 64)`, every patient as often."""
    names = sorted({s.patient for s in found})
    groups = [Group(name, images=tuple(s.image for s in found if s.patient == name)) for name in names]
    patches = PatchSet(groups, SIDE, spacing=SPACING, balance="groups")
    return torch.cat([_packed(patches.batch([key(0, "bank", i)])) for i in range(count)])


def prepare(path: Path, count: int) -> None:
    """Write the file; where it is there, nothing is done."""
    if path.exists():
        return
    print(f"cutting {count} patches for {path}", flush=True)
    found = [s for s in slices("train") if s.patient not in LEFT_OUT and max(s.spacing) <= 1.02 * SPACING]
    names = sorted({s.patient for s in found})
    aside = names[::8]
    kept = [s for s in found if s.patient not in aside]
    training = _patches(kept, count)
    held = _patches([s for s in found if s.patient in aside], max(64, count // 8))
    crops = cases(SPACING, 99)
    cut = []
    for case in crops:
        assert case.truth.shape[-1] == WIDE
        top, left = body_corner(case.truth, SIDE)
        cut.append(_packed(case.truth[..., top : top + SIDE, left : left + SIDE]))
    record = {"patients": [c.patient for c in crops], "trained_on": sorted(set(names) - set(aside)), "held_out": aside,
              "spectrum": body_spectrum(kept, INTENSITY, SIDE).to_json()}  # fmt: skip
    content = save({"training": training, "held": held, "truth": torch.cat(cut)}, {"record": json.dumps(record)})
    write_file(path, content)


def load(path: Path, device: str, most: int) -> Bank:
    """Read the file, with the first `most` validation patients."""
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["record"])
        values = [INTENSITY.encode(file.get_tensor(n).float() / STEPS_OF_HU) for n in ("training", "held", "truth")]
    spectrum = Spectrum.from_json(record["spectrum"], str(path))
    training, held = (x.to(device) for x in values[:2])
    return Bank(training, held, values[2][:most], record["patients"][:most], spectrum)
