"""What is kept of one reconstructed slice, and read back after a killed run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict.physics.classics import Reconstruction
from retrodict.physics.measurement import Measurement
from retrodict.tasks.recon_posterior import unpacked

__all__ = ["Slice", "numbers_of"]

STOPS = ("closed form", "tolerance", "discrepancy", "iterations")


def numbers_of(found: Reconstruction, part: Measurement) -> Tensor:
    """What is kept of a slice beside its image, float64."""
    stop = STOPS.index(found.stopped[0]) if found.stopped[0] in STOPS else len(STOPS)
    above = below = math.nan
    if part.noise is not None:
        misfit = part.misfit(found.image)
        above, below = float(misfit.above[0]), float(misfit.below[0])
    strength = found.parameter[0] if found.parameter else math.nan
    row = [float(found.residual[0]), float(found.misfit[0]), above, below, found.iterations[0], stop, strength]
    return torch.tensor(row, dtype=torch.float64, device="cpu")


class Slice(NamedTuple):
    """Image `(1, C, *N)` and record of a slice; samples `(K, 1, C, *N)` of a posterior and their record."""

    image: Tensor
    record: dict[str, Any]
    samples: Tensor
    about: dict[str, Any]

    @classmethod
    def of(cls, kept: Mapping[str, Tensor]) -> Slice:
        """From what is kept on disk."""
        image, record = kept["image"], _numbers_back(kept["numbers"])
        if "samples" not in kept:
            return cls(image, record, image[None], {})
        about = unpacked(kept["about"])
        record |= {"samples_misfit": about["misfit"], "samples_misfit_sd": about["misfit_sd"]}
        return cls(image, record | {"stopped": f"{about['calls']} calls"}, kept["samples"], about)

    @property
    def typical(self) -> Tensor:
        """An image whose residual has the law of the noise if all is right: the first sample, else the image."""
        return self.samples[0]


def _numbers_back(row: Tensor) -> dict[str, Any]:
    names = ("residual", "misfit", "above", "below", "iterations", "stopped", "strength")
    record: dict[str, Any] = dict(zip(names, row.tolist(), strict=True))
    record["iterations"], stop = int(record["iterations"]), int(record["stopped"])
    record["stopped"] = STOPS[stop] if stop < len(STOPS) else "the solver's own rule"
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
