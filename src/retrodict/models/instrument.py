"""A model used with a measured MTF and NPS: its process ends at them, and its calibration is checked against them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.curve import Curve
from retrodict.data import Image
from retrodict.models.model import Model
from retrodict.processes.fourier import measured
from retrodict.processes.observation import Moments
from retrodict.processes.process import Process

__all__ = ["Agreement", "as_scanned", "measure", "measured_inside", "model_with_instrument", "own_curves"]


AROUND = {1: 32, 2: 32, 3: 8}
"""Mirrored pixels around an image that is measured, by its axes: farther than an MTF reaches, in larger voxels too."""


NOISE_FACTOR = 1.5
"""Ratio of noise variances, in a frequency band, up to which the spread learned in training still holds."""


MTF_DIFFERENCE = 0.1
"""Difference of MTF, averaged over a frequency band, up to which the spread learned in training still holds."""


@dataclass(frozen=True)
class Agreement:
    """How far the measured curves are from those of the training, in the worst of five frequency bands.

    `noise_ratio`: measured over trained noise variance; `mtf_difference`: measured minus trained; `holds`: whether the
    calibration of the model may be taken over.
    """

    noise_ratio: float
    mtf_difference: float

    @property
    def holds(self) -> bool:
        """Within a factor 1.5 of noise variance and 0.1 of MTF."""
        near = 1 / NOISE_FACTOR <= self.noise_ratio <= NOISE_FACTOR
        return near and abs(self.mtf_difference) <= MTF_DIFFERENCE

    def __str__(self) -> str:
        return (
            f"the noise variance is up to {self.noise_ratio:.3g} times that of the training, the MTF differs by up to "
            f"{self.mtf_difference:+.2f}"
        )


def own_curves(process: Process, scale: float) -> tuple[Curve, Curve]:
    """MTF and NPS (data unit^2 mm^n) that a process ends at, as isotropic curves up to the corner of the plane."""
    bound = process.to("cpu").on((256,) * process.ndim)
    if bound.measurement is None:
        raise InputError("model", "a process without a measurement law", "one that ends at an MTF and NPS")
    radius = bound.basis.radius()
    order = radius.flatten().argsort()
    nodes = torch.linspace(0, float(radius.max()), 201, dtype=torch.float64, device="cpu")
    place = torch.searchsorted(radius.flatten()[order], nodes).clamp(max=radius.numel() - 1)
    volume = math.prod(bound.basis.spacing) * scale**2

    def line(values: Tensor) -> list[float]:
        return values.expand(radius.shape).flatten()[order][place].tolist()

    unit = f"unit^2 mm^{max(2, process.ndim)}"
    mtf = Curve.isotropic(nodes, line(bound.measurement.h), "1")
    return mtf, Curve.isotropic(nodes, [v * volume for v in line(bound.measurement.s2)], unit)


AS_SCANNED = Curve.isotropic([0.0, 1000.0], [1.0, 1.0], "1")
"""The MTF of images that are to stay as sharp as they were measured."""


def as_scanned(model: Model) -> bool:
    """Whether a model was trained on noisy scans alone: what it knows is as sharp as they are, and its MTF is 1."""
    return isinstance(model.spec.card.get("noise"), dict)


def model_with_instrument(
    model: Model, mtf: Any = None, nps: Any = None, slices: Mapping[str, float] | None = None
) -> tuple[Model, Agreement]:
    """The model with its process bound to a measured MTF and NPS (`Curve`, record, or path; None keeps its own).

    The Wiener part of the denoiser and the sampler follow the measured curves exactly; the network, which sees a
    standardized noise estimate, is the one that was trained.  Raises `InputError` for a model whose process does not
    end at the measurement, and for curves that do not reach its Nyquist frequency or are in another unit.  A model that
    was trained on noisy scans (`as_scanned`) has an MTF of 1 where none is given.  slices: with curves of a slice, what
    a model of volumes has to be told of the third axis (`processes.measured`).
    """
    process, scale = model.denoiser.process, model.intensity.scale
    if not process.pairing.starts:
        raise InputError("model", f"a process with conditioning {process.pairing.kind!r}", "a terminal one")
    mtf = AS_SCANNED if mtf is None and as_scanned(model) else mtf
    given = None if nps is None else Curve.parse(nps, "nps")
    if given is not None and given.unit.split("^")[0] != model.intensity.unit:
        raise InputError("nps.unit", repr(given.unit), f"{model.intensity.unit}^2 mm^2, the unit of the model")
    missing = [n for n, c in (("mtf", mtf), ("nps", given)) if c is None] if model.spec.law is not None else []
    if missing:
        found = "a model of every instrument, which has no curves of its own"
        raise InputError(missing[0], found, "the measured curve", "Measure it with 'retrodict measure'.")
    own_mtf, own_nps = (mtf, given) if mtf is not None and given is not None else own_curves(process, scale)
    ends = own_mtf if mtf is None else mtf, own_nps if given is None else given
    bound = measured(process.basis, *ends, scale, slices)
    assert process.measurement is not None
    assert bound.measurement is not None
    agreement = _agreement(process, process.measurement, bound.measurement)
    denoiser = model.denoiser.at(bound)
    names = [str(c) for c in (mtf, nps) if isinstance(c, str | Path)]
    source = f"{model.source} at {' and '.join(names) if names else 'measured curves'}"
    return replace(model, denoiser=denoiser, source=source), agreement


def _agreement(process: Process, trained: Moments, found: Moments) -> Agreement:
    """Worst band; every band of equal width up to the Nyquist frequency."""
    shape = process.basis.shape
    ratio, difference = 1.0, 0.0
    for _, _, band in process.basis.bands(5, highest=0.5 / max(process.basis.spacing)):
        pair = [law.s2.expand(shape)[band].mean() for law in (found, trained)]
        r = float(pair[0] / pair[1])
        d = float((found.h - trained.h).expand(shape)[band].mean())
        ratio = r if abs(math.log(max(r, 1e-12))) > abs(math.log(max(ratio, 1e-12))) else ratio
        difference = d if abs(d) > abs(difference) else difference
    return Agreement(ratio, difference)


def measure(image: Image, model: Model, seed: int = 0, *, margin: int = AROUND[2]) -> Image:
    """Measurement of a clean 2-D image by the instrument of the model: its MTF, then noise of its NPS.

    margin: pixels of mirrored border (see `measured_inside`); 0 takes the image as periodic.
    """
    process = model.denoiser.process
    if process.measurement is None:
        raise InputError("measure", "a model without a measurement law", "one trained for a measured MTF and NPS")
    y = measured_inside(process, model.intensity.encode(image.values[None]), seed, margin)
    return image.with_values(model.intensity.decode(y)[0])


def measured_inside(process: Process, x0: Tensor, seed: int, margin: int) -> Tensor:
    """The measurement of images x0 `(1, C, *N)` in model units, within `margin` mirrored pixels (as many as there are).

    A basis is periodic: without a margin what lies at one end of an image is blurred into the other.
    """
    size, ndim = tuple(x0.shape[2:]), x0.ndim - 2
    around = [min(margin, n - 1) for n in size]
    real = torch.view_as_real(x0).movedim(-1, 1).flatten(1, 2) if x0.is_complex() else x0
    wide = F.pad(real, [a for n in reversed(around) for a in (n, n)], mode="reflect") if any(around) else real
    if x0.is_complex():
        wide = torch.complex(*wide.chunk(2, 1))
    bound = process.on(tuple(wide.shape[-ndim:]))
    y = bound.pairing.simulate(wide, bound.basis, torch.tensor([seed], device="cpu"))
    return y[(..., *(slice(a, a + n) for a, n in zip(around, size, strict=True)))]
