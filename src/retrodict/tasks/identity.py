"""Whose law a calibration is: checksums of a model and of an instrument, and the pixels that a model has seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from retrodict.data import Image
from retrodict.data.units import unit as unit_named
from retrodict.models.model import Model
from retrodict.processes.process import Process

__all__ = ["law_digest", "model_digest", "pixel_prints", "seen_in_training"]


SAID_ONLY = ("card", "held_out", "process")
"""Fields of a model that change no number of a restoration, or are told apart by themselves (the instrument)."""


def model_digest(model: Model) -> str:
    """SHA-256 of the weights of a model and of all that says how they are used, but not of its instrument."""
    said = {k: v for k, v in asdict(model.spec).items() if k not in SAID_ONLY}
    total = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for name, value in sorted(model.denoiser.net.state_dict().items()):
        total.update(name.encode())
        total.update(_bytes(value))
    return total.hexdigest()


def law_digest(process: Process, size: tuple[int, ...]) -> str:
    """SHA-256 of the law of a process halfway and at its end, on a grid of `size`; to seven digits, so that machines
    agree.
    """
    total = hashlib.sha256()
    bound = process.to("cpu").on(size)
    for t in (0.5, 1.0):
        for table in bound.moments(torch.tensor([t], dtype=torch.float64, device="cpu")):
            total.update(" ".join(f"{v:.6e}" for v in table.double().flatten().tolist()).encode())
    return total.hexdigest()


def _bytes(x: Tensor) -> memoryview:
    flat = x.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


# ---- what a model was trained on ------------------------------------------------------------------------------------


def pixel_prints(image: Image) -> set[str]:
    """SHA-256 of the pixels of an image as little-endian float32, whole and slice by slice, as read and as clipped to
    the range of the unit (training reads them so).
    """
    limits = unit_named(image.unit).range
    variants = [image.values] if limits is None else [image.values, image.values.clamp(*limits)]
    found = set()
    for values in variants:
        planes = values.reshape(-1, *values.shape[-2:])
        for part in (values, *planes):
            found.add(
                hashlib.sha256(part.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes()).hexdigest()
            )
    return found


def seen_in_training(image: Image, card: dict[str, Any]) -> bool | None:
    """Whether the pixels of an image were in the training of a model; None where its card does not say.

    The card holds `training_images`, the beginnings of the checksums of `pixel_prints`.
    """
    known = card.get("training_images")
    if not isinstance(known, list) or not all(isinstance(k, str) and len(k) >= 8 for k in known):
        return None
    return _any_begins(pixel_prints(image), set(known))


def _any_begins(prints: Iterable[str], known: set[str]) -> bool:
    lengths = {len(k) for k in known}
    return any(p[:n] in known for p in prints for n in lengths)
