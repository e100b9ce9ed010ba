"""Whether the values and the plane of an image can be those that a model was trained on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.data import Image
from retrodict.data.plane import plane_of
from retrodict.data.units import Unit, unit
from retrodict.models.model import Model

__all__ = ["implausible"]


SIDE = 9
"""Side in pixels of the boxes whose means stand for values without noise."""


TAIL = 5.0
"""Standard deviations of noise that a value may lie beyond the range of its unit."""


FOREIGN = 0.05
"""Share of pixels beyond the range of the unit, noise allowed for, from which the unit cannot be right."""


def implausible(image: Image, model: Model, name: str) -> list[str]:
    """What is strange about an image, in words for a warning.

    Raises `InputError` where its values cannot be in its unit: more than `FOREIGN` of them are out of the range of
    the unit by more than the noise of the instrument explains.
    """
    return [*_values(image, model, name), *_plane(image, model)]


def _values(image: Image, model: Model, name: str) -> list[str]:
    known = unit(image.unit)
    if known.range is None or image.values.is_complex():
        return []
    pixel, box = noise_sd(model)
    everywhere = torch.ones(image.values.shape[1:], dtype=torch.bool, device="cpu")
    inside = everywhere if image.padding is None else ~image.padding
    values = image.values[:, inside].double()
    if not values.numel():
        return []
    low, high = known.range
    beyond = float(((values < low - TAIL * pixel) | (values > high + TAIL * pixel)).double().mean())
    where = str(image.source[0]) if image.source else name
    if beyond > FOREIGN:
        found = f"{beyond:.0%} of the values outside {low:g} to {high:g} {known.name} ({_span(values)})"
        hint = "Is it in another unit, or stored values without their slope and intercept?"
        raise InputError(where, found, f"values in {known.name}", hint)
    said = [f"{beyond:.2%} of the values lie outside {low:g} to {high:g} {known.name}"] if beyond > 0 else []
    return said + _offset(image, known, inside, box)


def _span(values: Tensor) -> str:
    return f"from {float(values.min()):.4g} to {float(values.max()):.4g}, median {float(values.median()):.4g}"


def _offset(image: Image, known: Unit, inside: Tensor, box: float) -> list[str]:
    """Where a unit has an air below zero, an image without anything below zero is suspect."""
    if known.range is None or known.air is None or known.air >= 0:
        return []
    lowest = float(_box_means(image.values, inside).min())
    if not math.isfinite(lowest) or lowest < -TAIL * box:
        return []
    shift = -known.range[0]
    return [
        f"nothing in the image is below 0 {known.name}, not even air: it may hold stored values "
        f"({known.name} + {shift:g}) or gray values of a window"
    ]


def _box_means(values: Tensor, inside: Tensor) -> Tensor:
    """Means over boxes of `SIDE` pixels in the plane that hold no pixel outside."""
    flat = values.double().reshape(-1, 1, *values.shape[-2:])
    side = [min(SIDE, n) for n in values.shape[-2:]]
    mask = inside.double().expand(values.shape).reshape(flat.shape)
    share, means = F.avg_pool2d(mask, side, 1), F.avg_pool2d(flat * mask, side, 1)
    return torch.where(share > 0.999, means, math.inf)


def noise_sd(model: Model) -> tuple[float, float]:
    """Standard deviation, in the unit of the data, of the noise of the instrument: of a pixel and of a box mean."""
    process = model.denoiser.process.to("cpu").on((64,) * model.denoiser.process.ndim)
    if process.measurement is None:
        return 0.0, 0.0
    basis, noise = process.basis, process.measurement.s2
    weight = basis.multiplicity()
    lead = noise.expand(*noise.shape[: max(0, noise.ndim - basis.ndim)], *basis.shape).reshape(-1, *basis.shape).mean(0)
    pixel = math.sqrt(float((lead * weight).sum() / weight.sum()))
    passed = 1.0 / SIDE**2
    if isinstance(basis, Fourier):
        passed = float((lead * weight * _box_gain(basis)).sum() / (lead * weight).sum().clamp_min(1e-300))
    return pixel * model.intensity.scale, pixel * math.sqrt(passed) * model.intensity.scale


def _box_gain(basis: Fourier) -> Tensor:
    """Squared transfer of a mean over `SIDE` pixels along the last two axes."""
    gain = torch.ones(basis.shape, dtype=torch.float64, device=basis.device)
    for f, d in list(zip(basis.frequencies(), basis.spacing, strict=True))[-2:]:
        phase = math.pi * f * d
        one = torch.where(phase == 0, 1.0, torch.sin(SIDE * phase) / (SIDE * torch.sin(phase)))
        gain = gain * one**2
    return gain


def _plane(image: Image, model: Model) -> list[str]:
    """A model of planes is a model of one plane."""
    if len(model.spec.size) != 2:
        return []
    found, wanted = plane_of(image), model.spec.card.get("plane")
    if wanted is None and image.unit == "HU":
        wanted = "axial"  # as computed tomography is reconstructed
    if found is None or wanted is None or found == wanted:
        return []
    return [f"the slices are {found}, the orientation of the model is {wanted}: it has not seen such images"]
