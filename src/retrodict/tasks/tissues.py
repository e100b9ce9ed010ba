"""Classes of pixels by the restored mean: what is asked of an uncertainty is asked in every tissue.

They depend on the measured image alone: a law that is right given the measured image is right in every class of it.
Classes by the truth would not do: where the truth is high, the mean is too low on average, whatever the law.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retrodict.data.units import unit as unit_named

__all__ = ["body_of", "classes_of"]


CLASSES: dict[str, tuple[tuple[str, float], ...]] = {
    "HU": (
        ("air", -900.0),
        ("lung", -250.0),
        ("fat", -20.0),
        ("soft tissue", 150.0),
        ("bone and contrast", math.inf),
    ),
}
"""For a unit, names of classes and the value that they end below."""


QUARTERS = ("lowest quarter", "second quarter", "third quarter", "highest quarter")


def classes_of(mean: Tensor, unit: str) -> tuple[tuple[str, ...], Tensor]:
    """Names of classes, and the number of the class of every value of `mean`, which is in `unit`.

    Tissues where the unit has them, else quarters of the values of this image.
    """
    if unit in CLASSES:
        names, ends = zip(*CLASSES[unit], strict=True)
        edges = torch.tensor(ends[:-1], dtype=torch.float64, device=mean.device)
    else:
        names = QUARTERS
        ranks = mean.double().flatten().sort().values
        edges = torch.stack([ranks[k * (len(ranks) - 1) // 4] for k in (1, 2, 3)])
    return tuple(names), torch.bucketize(mean.double().contiguous(), edges, right=True)


def body_of(mean: Tensor, unit: str) -> Tensor:
    """Where an image holds something to restore: above air where the unit knows it, everywhere else."""
    air = unit_named(unit).air
    return torch.ones_like(mean, dtype=torch.bool) if air is None else mean >= air
