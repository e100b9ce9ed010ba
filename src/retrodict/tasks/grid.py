"""An image on the grid of a model, and the members that come of it back on its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError
from retrodict.data import Image, resample
from retrodict.models.model import Intensity, Model
from retrodict.models.range import fits

__all__ = ["finisher", "items", "off_grid", "on_grid"]

SPACING_TOLERANCE = 0.03
"""Relative difference of pixel spacing up to which a model is used as it is."""


def off_grid(image: Image, model: Model) -> bool:
    """Whether the in-plane (or volume) spacing is none that the model restores at: see `nearest_grid`."""
    return nearest_grid(image.spacing[-len(model.spec.spacing) :], model) is not None


def nearest_grid(own: tuple[float, ...], model: Model) -> tuple[float, ...] | None:
    """The spacing of a model that is nearest to a spacing that it does not restore at; None where it does.

    A model of one spacing takes what differs by no more than the tolerance; one of a range takes square pixels in it.
    """
    allowed = model.spec.spacings
    if allowed is None:
        near = all(abs(a / b - 1) <= SPACING_TOLERANCE for a, b in zip(own, model.spec.spacing, strict=True))
        return None if near else model.spec.spacing
    if fits(own, allowed):
        return None
    return (min(max(max(own), allowed[0]), allowed[1]),) * len(own)  # no finer than what was measured


def on_grid(image: Image, model: Model, resampling: bool, name: str) -> Image:
    """The image at the spacing of the model; one that is not is resampled only where that was asked for."""
    own = tuple(image.spacing[-len(model.spec.size) :])
    wanted, allowed = nearest_grid(own, model), model.spec.spacings
    if wanted is None:
        return image
    if not resampling:
        kind = f"{wanted} mm (within {SPACING_TOLERANCE:.0%}), at which the model was trained"
        if allowed is not None:
            kind = f"square pixels of {allowed[0]:g} to {allowed[1]:g} mm, at which the model was trained"
        raise InputError(
            f"{image.source[0] if image.source else name}: pixel spacing",
            f"{tuple(round(s, 4) for s in own)} mm",
            kind,
            "Give {resample} to restore at the spacing of the model.",
            resample=True,
        )
    return resample(image, wanted)


def items(image: Image, ndim: int) -> Tensor:
    """`(items, C, *N)` of an image `(C, ..., *N)`: slices of a volume are items of a 2-D model."""
    channels = image.values.shape[0]
    return image.values.reshape(channels, -1, *image.values.shape[-ndim:]).transpose(0, 1)


@dataclass(frozen=True)
class Finisher:
    """Members in the unit and on the grid of an image, before mean and deviation are taken: see `Finish`."""

    intensity: Intensity
    size: tuple[int, ...]

    def __call__(self, members: Tensor) -> Tensor:
        """Members `(k, C, *N)` in model units and on the grid of the model."""
        values = self.intensity.decode(members)
        if tuple(values.shape[2:]) == self.size:
            return values
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(self.size)]
        if values.is_complex():
            parts = (values.real, values.imag)
            return torch.complex(*(F.interpolate(part, size=self.size, mode=mode) for part in parts))
        return F.interpolate(values, size=self.size, mode=mode, align_corners=False)

    def variance(self, variance: Tensor) -> Tensor | None:
        """Variances of pixels in the unit of the image; None on another grid, where they do not tell."""
        return variance * self.intensity.scale**2 if tuple(variance.shape[2:]) == self.size else None


def finisher(image: Image, model: Model) -> Finisher:
    """What brings members back into the unit and onto the grid of an image."""
    return Finisher(model.intensity, tuple(image.values.shape[-len(model.spec.size) :]))
