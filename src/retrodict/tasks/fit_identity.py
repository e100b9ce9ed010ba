"""What makes the result of a training run what it is: by this a run knows its checkpoints and its finished model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from retrodict._check import InputError, read_json
from retrodict.data import PatchSet
from retrodict.data.spacings import SpacingSet
from retrodict.models.model import model_files
from retrodict.tasks.fit_config import FitConfig
from retrodict.training.checkpoints import differing, flat, identity_hash
from retrodict.training.loop import FREE

__all__ = ["MAY_CHANGE", "check_finished", "identity_of", "signature"]


COMPUTED = ("precision", "threads", "device")
MAY_CHANGE = tuple(f"training.{name}" for name in ("steps", "each", *COMPUTED, *FREE))
"""Fields that may change and a run still goes on: how long it is, what it is computed with, and how often it says
something.  `steps` has rules of its own (`training.loop.check_resumable`).  Where the images lie may change too
(`data.root`, `paths`): they are known by their values.
"""


def identity_of(
    config: FitConfig,
    process: Mapping[str, Any],
    data: Mapping[str, PatchSet | SpacingSet | None],
    start_from: Path | None,
    noise: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The configuration with what it refers to in place of the references, flat: dotted name -> value or digest.

    process: the resolved recipe, with the curves that it was read from; data: the images themselves; start_from: the
    model whose weights a run starts from; noise: what the card says of the noise of the images, which holds its curve.
    """
    record = config.model_dump(mode="json")
    record["process"] = dict(process)
    record["start_from"] = None if start_from is None else _digest(model_files(start_from)[0].read_bytes())
    named = not config.data.indices
    images = {name: [] if patches is None else _images(patches, named) for name, patches in data.items()}
    stated = {k: record["data"][k] for k in ("patch", "coarser", "channels", "validation")}
    # What came later stands here only where it is used, so that runs from before it go on.
    stated |= {k: record["data"][k] for k in ("balance", "spacings") if record["data"][k] is not None}
    stated |= {} if config.data.turn else {"turn": False}
    if noise is not None:
        own = {k: v for k, v in record["data"]["noise"].items() if v is not None or not k.startswith("feedback")}
        stated["noise"] = {**own, "nps": _digest(json.dumps(noise["nps"]).encode())}
    if record["law"] is None:
        del record["law"]
    if record["training"]["batches"] is None:
        del record["training"]["batches"]
    record["data"] = stated | {"images": images}
    return {name: value for name, value in flat(record).items() if name not in MAY_CHANGE}


def _images(patches: PatchSet | SpacingSet, named: bool) -> list[str]:
    """A digest for each image on the grid of the model, with the name of its group, or a number for it."""
    digests, numbers = [], dict[str, int]()
    for name, image in patches.images():
        group = name if named else numbers.setdefault(name, len(numbers))
        values = torch.view_as_real(image) if image.is_complex() else image
        digests.append(f"{group}:{tuple(image.shape)}:{_digest(values.contiguous().numpy().tobytes())}")
    return digests


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def signature(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a finished model carries in its card."""
    return {"sha256": identity_hash(identity), "fields": dict(identity)}


def check_finished(record: Path, identity: Mapping[str, Any], steps: int) -> None:
    """Raise `InputError` where a finished model of another, or of a longer, run would be replaced."""
    if not record.exists() and not record.is_symlink():
        return
    card = read_json(record, "the record of a model").get("card")
    run = card.get("run") if isinstance(card, dict) else None
    hint = "Use another output folder, or remove the old one."
    if not isinstance(run, dict) or not isinstance(run.get("fields"), dict):
        raise InputError(record, "a model that does not say what it was trained with", "an empty folder", hint)
    names = differing(run["fields"], identity)
    training = card.get("training") if isinstance(card, dict) else None
    done = training.get("steps") if isinstance(training, dict) else None
    if isinstance(done, int) and done > steps:
        names.append("training.steps")
    if names:
        found = f"a finished model of another configuration: {', '.join(names[:6])}"
        raise InputError(record, found, "the configuration that it was trained with", hint)
