"""Scenes of `inverse_real.py` beside CT: k-space at a quarter of the lines, and stacks of defocused images of a phase.

Magnetic resonance: the middle 80 x 80 pixels of the middle slice of people who are in no training (`benchmarks/mr.py`,
split test): four legs and a T2 of a brain (averaged to 1 mm), by the prior `configs/mr-brain.yaml`; 32 x 32 pixels of
eight hippocampi by `configs/mr-hippocampus.yaml`.  The magnitude is given a smooth phase of about 2 rad; a quarter of
the lines is measured (drawn evenly, with a tenth of all in the middle), by one coil or by four, with complex noise of
3 % of the level per real component.  Neither phase nor level is told: both are found in the data, as by
`retrodict reconstruct`.  Phase: parts of 64 x 64 pixels of two pictures that are not trained on, 255 gray values as
1 rad, by the contrast transfer of two defocused images (wavelength times defocus 8 and -16 pixels squared), noise of
0.02, and without the mean, which no defocus shows; prior `configs/natural.yaml`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture

from retrodict import GaussianNoise, Measurement
from retrodict.data.index import IndexRow, read_index
from retrodict.data.level import level_of
from retrodict.data.resample import resample_axes
from retrodict.models.model import Model, open_model
from retrodict.models.relative import at_level
from retrodict.physics import CartesianMRI, Phased, birdcage, middle_phase, sampling, tie
from retrodict.physics.classics import cgls

MRI = {"MRI, 1 coil": 1, "MRI, 4 coils": 4, "hippocampus, 1 coil": 1, "hippocampus, 4 coils": 4}
PHASE = "phase"
SIDE, SMALL, PICTURE = 80, 32, 64
NOISE, ACCELERATION, CENTER, PERCENTILE = 0.03, 4, 0.1, 99.5
PEOPLE = 8
"""Hippocampi."""

F64: dict[str, Any] = {"dtype": torch.float64}


@dataclass(frozen=True)
class Scene:
    """A measurement of one image: the truth `(H, W)` in the unit in which figures are given, `shown` the way there from
    that of the operator, the prior, the range of PSNR, what else goes into every row, and the true image of the
    operator where that is another one.
    """

    case: str
    name: str
    part: Measurement
    truth: torch.Tensor
    shown: Callable[[torch.Tensor], torch.Tensor]
    model: Model
    span: float
    said: dict[str, float] = field(default_factory=dict)
    actual: torch.Tensor | None = None
    imaginary: bool = False
    centered: bool = False

    def image(self, found: torch.Tensor) -> torch.Tensor:
        """Images `(K, H, W)` of which figures are given, of those of the operator; of two parts the magnitude."""
        if self.centered:
            return found[:, 0] - found[:, 0].mean((1, 2), keepdim=True)
        return torch.hypot(found[:, 0], found[:, 1]) if self.imaginary else found[:, 0]


def gray_of(x: torch.Tensor) -> torch.Tensor:
    """Gray values of a phase in rad."""
    return 255 * x


def same(x: torch.Tensor) -> torch.Tensor:
    """The image itself."""
    return x


@cache
def opened(path: Path) -> Model:
    """A trained prior; it ends with what trains it where there is none."""
    if not path.with_suffix(".json").exists():
        raise SystemExit(f"no model {path}: train configs/{path.name}.yaml (its first lines say how)")
    return open_model(path)


# ---- magnetic resonance ----------------------------------------------------------------------------------------------


def _middle(row: IndexRow, side: int) -> tuple[np.ndarray, tuple[float, float]] | None:
    """The middle of the middle slice, pixels below 0.9 mm averaged to 1 mm; None where it is smaller."""
    stack = np.load(row.paths[0])[row.key]
    spacing = (row.pixel_spacing_mm[0], row.pixel_spacing_mm[1])
    values = torch.from_numpy(stack[len(stack) // 2]).double()
    if min(spacing) < 0.9:
        values, found = resample_axes(values, spacing, (1.0, 1.0))
        spacing = (found[0], found[1])
    y, x = ((n - side) // 2 for n in values.shape)
    return None if min(y, x) < 0 else (values[y : y + side, x : x + side].numpy(), spacing)


def _smooth(size: tuple[int, int], seed: int) -> torch.Tensor:
    """Exp(i phi): a plane and a parabola, other ones for every person."""
    a = torch.randn(4, generator=torch.Generator().manual_seed(seed), **F64)
    y, x = (torch.linspace(-1, 1, n, **F64) for n in size)
    phi = a[3] + 0.6 * a[0] * x + 0.6 * a[1] * y[:, None] + 0.5 * a[2] * (x**2 - y[:, None] ** 2)
    return torch.polar(torch.ones_like(phi), phi)


def kspace(case: str, name: str, image: np.ndarray, spacing: tuple[float, float], seed: int, model: Model) -> Scene:
    """A magnitude with a phase, measured; what is known of it is found in the data alone."""
    truth, size = torch.from_numpy(image).double(), (image.shape[0], image.shape[1])
    level = level_of([truth[None]], PERCENTILE)
    maps = birdcage(size, MRI[case]) if MRI[case] > 1 else None
    lines = sampling("random", size, ACCELERATION, center=CENTER, seed=seed)
    operator = CartesianMRI(lines, maps=maps, spacing=spacing, unit="arbitrary")
    noise = GaussianNoise.white(NOISE * level, "arbitrary")
    whole = (truth * _smooth(size, seed))[None, None]
    made = Measurement.simulate(operator, noise, whole, [seed])
    found = level_of([cgls(made, iterations=10, discrepancy=1.0).image], PERCENTILE)
    turned = Phased(operator, middle_phase(made))
    part = Measurement(turned, made.y.to(torch.complex64), noise)
    own, actual = at_level(model, "arbitrary", found), turned.parted(whole)
    said = {"level_ratio": found / level, "imaginary": float(actual[:, 1].norm() / actual.norm())}
    return Scene(case, name, part, truth, same, own, level, said, actual, True)


def people(data: Path, case: str, split: str = "test") -> list[tuple[str, np.ndarray, tuple[float, float]]]:
    """Name, image and spacing of the people of a case."""
    tables, side = (("hippocampus",), SMALL) if case.startswith("hippocampus") else (("legs", "brain"), SIDE)
    out = []
    for table in tables:
        rows = [r for r in read_index(data / table / "index.csv") if r.split == split]
        found = [(r.patient, m) for r in rows if (m := _middle(r, side)) is not None]
        out += [(name, *m) for name, m in found[: PEOPLE if table == "hippocampus" else None]]
    return out


def resonances(data: Path, models: Path, case: str, split: str = "test") -> Iterator[Scene]:
    """The scenes of a case of magnetic resonance."""
    name = "mr-hippocampus" if case.startswith("hippocampus") else "mr-brain"
    for seed, (person, image, spacing) in enumerate(people(data, case, split)):
        yield kspace(case, person, image, spacing, seed, opened(models / name / name))


# ---- phase -----------------------------------------------------------------------------------------------------------


def phases(pictures: Path, models: Path, names: tuple[str, ...] = ("astronaut", "camera")) -> Iterator[Scene]:
    """Three parts of every picture as weak phases."""
    size, model = (PICTURE, PICTURE), opened(models / "natural" / "natural")
    operator = tie(size, [8.0, -16.0], wavelength=1.0, spacing=(1.0, 1.0), kind="ctf")
    for picture in names:
        with Picture.open(pictures / f"{picture}.png") as file:
            gray = torch.from_numpy(np.asarray(file.convert("L"), dtype=np.float64).copy())
        for k in range(3):
            y, x = (math.floor((n - PICTURE) * (0.25 + 0.25 * k)) for n in gray.shape)
            truth = gray[y : y + PICTURE, x : x + PICTURE]
            noise = GaussianNoise.white(0.02, operator.range.unit)
            truth = truth - truth.mean()
            part = Measurement.simulate(operator, noise, truth[None, None] / 255, [len(picture) * 10 + k])
            part = Measurement(operator, part.y.float(), noise)
            yield Scene(PHASE, f"{picture} {k}", part, truth, gray_of, model, 255.0, centered=True)
