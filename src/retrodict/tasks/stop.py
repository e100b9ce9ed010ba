"""The image at a time between the measurement and its restoration, with the MTF and NPS it should have and has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retrodict.data import Image
from retrodict.models.model import Model

__all__ = ["Stop"]


@dataclass(frozen=True)
class Stop:
    """The image at time `at` of the chain, in the unit of the input, and its deviation given what was measured.

    `image` is one draw of x_t given y: over all patients its MTF and NPS are those of the process at `at`.  `sd` is the
    deviation between such draws: what the choice of this time leaves to chance; it is 0 at 1 and that of the posterior
    at 0.  Curves over `frequency` (cycles/mm): `mtf` and `nps` (unit^2 mm^n), each promised by the law of the process
    and as measured from the members of this run (see `retrodict.samplers.stop`).
    """

    at: float
    image: Image
    sd: Image | None
    frequency: tuple[float, ...]
    mtf: tuple[tuple[float, ...], tuple[float, ...]]
    nps: tuple[tuple[float, ...], tuple[float, ...]]

    @classmethod
    def of(
        cls, stops: tuple[dict[str, Tensor], ...], at: float, model: Model, whole: Callable[[Tensor], Image]
    ) -> Stop:
        """Of what `restore_batch` kept of every slice; `whole` makes one image of slices `(B, C, *N)`."""
        curves = torch.stack([s["curves"] for s in stops]).mean(0)
        volume = math.prod(model.denoiser.process.basis.spacing) * model.intensity.scale**2
        frequency, promised, measured, noise, found = (tuple(row) for row in curves.tolist())
        powers = tuple(v * volume for v in noise), tuple(v * volume for v in found)
        sd = whole(torch.stack([s["sd"] for s in stops])) if "sd" in stops[0] else None
        return cls(at, whole(torch.stack([s["image"] for s in stops])), sd, frequency, (promised, measured), powers)

    def to_json(self) -> dict[str, Any]:
        """For the record: the time and the curves."""
        pairs = {"mtf": self.mtf, "nps": self.nps}
        named = {name: dict(zip(("promised", "measured"), pair, strict=True)) for name, pair in pairs.items()}
        unit = f"{self.image.unit}^2 mm^{max(2, len(self.image.spacing[-2:]))}"
        return {"at": self.at, "frequency_per_mm": self.frequency, **named, "nps_unit": unit}
