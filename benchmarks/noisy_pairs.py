"""Pairs of clean images and simulated scans, and what networks on such pairs and a deep image prior make of a scan.

For `noisy_priors.py`: the scans are those of its problems, with masks and noise of other seeds, of random crops of the
slices that the priors were trained on.  Simulating them is part of the CPU seconds of a training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from noisy_rivals import Fit, Recipe, RedCNN, Training, Unrolled, Values, deep_image_prior, learned
from retrodict._random import key, uniform
from retrodict.data.collection import Slice
from retrodict.data.image import replace
from retrodict.models.model import Intensity
from retrodict.physics import Measurement, Radon
from retrodict.physics.classics.backprojection import ramp

__all__ = ["PAIRED", "Pair", "Scans", "crops", "explained", "filtered_adjoint", "fitted", "network"]

PAIRED = ("redcnn", "unrolled")
COUNT, PATCH, PATCHES, WHOLE = 384, 48, 4, 2
"""Pairs; the side and number of patches of a step of `redcnn`; whole images of a step of `unrolled`."""
RECIPE = Recipe(width=16, rate=4e-3, jitter=0.0, most=1000)
"""Of a deep image prior: by how fast chi^2 falls on one sparse-view scan; where to end is never asked of the truth."""


@dataclass(frozen=True)
class Scans:
    """How images are measured, and what networks are told of it.

    scan: the measurement of an image `(1, 1, n, n)` with a number for its noise.  first: an image of it.  back: B of
    `Unrolled`, of a residual and its measurement.  values, side: of images.  precision: of the training.
    """

    scan: Callable[[Tensor, int], Measurement]
    first: Callable[[Measurement], Tensor]
    back: Callable[[Tensor, Measurement], Tensor]
    values: Values
    unit: Intensity
    side: int
    precision: str = "float32"

    def descent(self, x: Tensor, data: Sequence[Measurement]) -> Tensor:
        """B (A x - y), of images each with its measurement."""
        return torch.cat([-self.back(y.residual(x[i : i + 1]), y) for i, y in enumerate(data)]).to(x)

    def net(self, name: str) -> RedCNN | Unrolled:
        """A network by name, of weights that are always the same."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return RedCNN(self.values) if name == "redcnn" else Unrolled(self.values, self.descent)


@dataclass(frozen=True)
class Pair:
    """A clean image `(1, 1, n, n)`, a first image of its measurement, and the measurement, in single precision."""

    x: Tensor
    first: Tensor
    data: Measurement


def filtered_adjoint(rows: Tensor, y: Measurement) -> Tensor:
    """A^T F of views `(B, 1, views, bins)`, F the ramp: nearly filtered backprojection, and a gradient.

    F is symmetric, so that A^T F (A x - y) is the gradient of (A x - y)^T F (A x - y) / 2.
    """
    operator = y.operator
    assert isinstance(operator, Radon)
    beam, (dy, dx) = operator.geometry, operator.domain.spacing
    response = ramp(beam.bins, beam.pitch)
    n = 2 * (len(response) - 1)
    filtered = torch.fft.irfft(torch.fft.rfft(rows, n) * response.to(rows), n)[..., : beam.bins]
    return math.pi / beam.views * beam.pitch / (dx * dy) * operator.adjoint(filtered)


def crops(items: Sequence[Slice], unit: Intensity, side: int, count: int) -> list[Tensor]:
    """`count` random crops `(1, 1, side, side)` of slices that are as large, one slice after the other."""
    large = [s for s in items if min(s.image.values.shape[-2:]) >= side]
    out = []
    for i in range(count):
        x, seed = unit.encode(large[i % len(large)].image.values), torch.tensor([key(0, "crop", i)])
        top, left = (int(uniform(seed, f"corner-{k}", 0)[0] * (n - side + 1)) for k, n in enumerate(x.shape[-2:]))
        out.append(x[None, :, top : top + side, left : left + side].float())
    return out


def simulated(scans: Scans, items: Sequence[Slice], count: int) -> list[Pair]:
    """Pairs of crops and their scans; seeds of noise and masks are none of the objects that are measured later."""
    out = []
    for i, x in enumerate(crops(items, scans.unit, scans.side, count)):
        y = scans.scan(x, 100_000 + i)
        single = replace(y, y=y.y.to(torch.complex64 if y.y.is_complex() else torch.float32))
        out.append(Pair(x, scans.first(y).float().reshape(x.shape), single))
    return out


def _patches(bank: Sequence[Pair], keys: list[int]) -> tuple[Tensor, Tensor, None]:
    """Clean and first patches, cut from pairs."""
    seeds = torch.tensor(keys)
    which, down, right = (uniform(seeds, name, 0) for name in ("pair", "row", "column"))
    clean, first = [], []
    for w, i, j in zip(which.tolist(), down.tolist(), right.tolist(), strict=True):
        pair = bank[int(w * len(bank))]
        top, left = (int(u * (pair.x.shape[-1] - PATCH + 1)) for u in (i, j))
        cut = (..., slice(top, top + PATCH), slice(left, left + PATCH))
        clean.append(pair.x[cut])
        first.append(pair.first[cut])
    return torch.cat(clean), torch.cat(first), None


def _whole(bank: Sequence[Pair], keys: list[int]) -> tuple[Tensor, Tensor, list[Measurement]]:
    """Whole images with their data."""
    chosen = [bank[int(u * len(bank))] for u in uniform(torch.tensor(keys), "pair", 0).tolist()]
    return torch.cat([p.x for p in chosen]), torch.cat([p.first for p in chosen]), [p.data for p in chosen]


def network(
    name: str, scans: Scans, items: Callable[[], Sequence[Slice]], seconds: float, kept: Path, count: int = COUNT
) -> tuple[Callable[[Measurement], Tensor], Training]:
    """A network of `PAIRED`, trained for `seconds` of CPU time on slices or read from the file where it was kept."""
    net = scans.net(name)
    if kept.exists():
        found = torch.load(kept, weights_only=True)
        net.load_state_dict(found["state"])
        training = Training(**found["training"])
    else:
        taken = items()
        started = time.process_time()
        bank = simulated(scans, taken, count)
        pairs, size = (_patches, PATCHES) if name == "redcnn" else (_whole, WHOLE)
        spent = time.process_time() - started
        training = learned(net, lambda keys: pairs(bank, keys), seconds, size, scans.precision, spent)
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state": net.state_dict(), "training": training.record()}, kept)
    net.eval()

    def answer(y: Measurement) -> Tensor:
        with torch.no_grad():
            return net(scans.first(y).float(), [y])

    return answer, training


def explained(y: Measurement) -> Callable[[Tensor], Tensor]:
    """Chi^2 of an image over the number of data."""
    operator, data = y.whitened()
    return lambda x: (data - operator.forward(x.to(data.real.dtype))).abs().square().sum() / y.count


def fitted(y: Measurement, scans: Scans, number: int) -> Fit:
    """A deep image prior of a measurement."""

    def descent(x: Tensor) -> Tensor:
        return scans.descent(x, [y])

    return deep_image_prior(explained(y), y.operator.domain.shape[1:], scans.values, number, RECIPE, descent)
