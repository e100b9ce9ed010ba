"""Whose law a calibration is: checksums of a model and of an instrument, and whether a model has seen an image."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import torch
from torch import Tensor

from retrodict.data import Image
from retrodict.data.units import unit as unit_named
from retrodict.models.model import Model, ModelSpec
from retrodict.models.provenance import seen
from retrodict.processes.process import Process

__all__ = ["law_digest", "model_digest", "seen_in_training"]


SAID_ONLY = ("card", "held_out", "process", "spacing")
"""Fields of a model that change no number of a restoration, or are told apart by themselves (instrument, pixels)."""


def model_digest(model: Model) -> str:
    """SHA-256 of the weights of a model and of all that says how they are used, but not of its instrument."""
    said = {k: v for k, v in asdict(model.spec).items() if k not in SAID_ONLY}
    total = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for name, value in sorted(model.denoiser.net.state_dict().items()):
        total.update(name.encode())
        total.update(_bytes(value))
    return total.hexdigest()


def law_digest(process: Process, size: tuple[int, ...]) -> str:
    """SHA-256 of the law of a process and of its measurement, on a grid of `size`; to seven digits, so that machines
    agree.
    """
    total = hashlib.sha256()
    for table in process.to("cpu").on(size).tables():
        total.update(" ".join(f"{v:.6e}" for v in table.double().flatten().tolist()).encode())
    return total.hexdigest()


def _bytes(x: Tensor) -> memoryview:
    flat = x.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


# ---- what a model was trained on ------------------------------------------------------------------------------------


def seen_in_training(image: Image, spec: ModelSpec) -> bool | None:
    """Whether a slice of an image was in the training of a model (`models.provenance.seen`), as it was read or clipped
    to the range of its unit, as training reads images; None where the card of the model does not say.
    """
    limits = unit_named(image.unit).range
    clipped = image if limits is None else image.with_values(image.values.clamp(*limits))
    found = [seen(spec, image), seen(spec, clipped)]
    return None if None in found else any(found)
