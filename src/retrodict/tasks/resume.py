"""Work that outlives its run: finished slices on disk, and the fingerprint that says whose they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from retrodict._output import stamp, write_file
from retrodict.data import Image
from retrodict.models.model import Model
from retrodict.tasks.options import RestoreOptions

__all__ = ["Parts", "fingerprint"]

WITHOUT_EFFECT = (
    "threads", "spacing", "unit", "expect", "allow_gaps", "mtf", "nps", "noise_map", "noise_map_unit", "calibration",
)  # fmt: skip
"""Options that change nothing (threads), or nothing that the image, the bound model and the digest of a
calibration do not say already."""


def fingerprint(model: Model, options: RestoreOptions, image: Image, about: dict[str, Any]) -> str:
    """A checksum of all that the result depends on: options, weights, instrument, input, device and versions."""
    said = {
        "options": {k: v for k, v in asdict(options).items() if k not in WITHOUT_EFFECT},
        "model": asdict(model.spec),
        "image": [image.unit, image.spacing, tuple(image.values.shape), str(image.values.dtype)],
        "machine": [about.get("device"), about.get("precision"), about.get("tile")],
        "versions": {k: v for k, v in stamp()["versions"].items() if k != "python"},
    }
    if "noise_map" in about:
        said["noise_map"] = about["noise_map"]
    if "calibration" in about:
        said["calibration"] = about["calibration"]["digest"]
    total = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for name, value in sorted(model.denoiser.net.state_dict().items()):
        total.update(name.encode())
        total.update(_bytes(value))
    for table in model.denoiser.process.tables():  # the bound instrument, whatever it was built from
        total.update(_bytes(table))
    total.update(_bytes(image.values))
    return total.hexdigest()


def _bytes(x: Tensor) -> memoryview:
    flat = x.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


class Parts:
    """Finished items of a series as files in a folder: what `restore_batch` asks for, and gives, item by item."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reused = 0

    def load(self, item: int) -> dict[str, Tensor] | None:
        """The tensors of an item that was finished before; None where there is none, or it is damaged."""
        try:
            found = load_tensors(self._file(item).read_bytes())
        except (OSError, SafetensorError):
            return None
        self.reused += 1
        return {
            k.removesuffix(":complex"): torch.view_as_complex(v) if k.endswith(":complex") else v
            for k, v in found.items()
        }

    def save(self, item: int, part: dict[str, Tensor]) -> None:
        """Keep the tensors of a finished item."""
        flat = {
            f"{k}:complex" if v.is_complex() else k: (torch.view_as_real(v) if v.is_complex() else v).cpu().contiguous()
            for k, v in part.items()
        }
        write_file(self._file(item), save_tensors(flat))

    def done(self) -> int:
        """Number of finished items."""
        return len(list(self.folder.glob("item-*.safetensors"))) if self.folder.is_dir() else 0

    def _file(self, item: int) -> Path:
        return self.folder / f"item-{item:06d}.safetensors"
