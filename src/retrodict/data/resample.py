"""Resampling to another spacing without aliasing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data.image import Image

__all__ = ["resample", "resample_axes"]


def resample(image: Image, spacing: Sequence[float]) -> Image:
    """Return the image on a grid of about `spacing` (mm) that covers exactly the same extent.

    `spacing` has one number per axis of N, or two for the rows and columns of a volume whose slices stay as they are.
    The extent is kept, so the number of pixels is rounded and the spacing of the result is extent / pixels, which may
    differ from what was asked by up to half a pixel over the whole extent. A coarser grid is reached by a triangular
    average as wide as two new pixels, a finer one by linear interpolation. The header is dropped: the result cannot be
    written as DICOM or NIfTI.
    """
    ndim = len(image.spacing)
    asked = tuple(float(s) for s in spacing)
    if len(asked) == 2 and ndim == 3:
        asked = (image.spacing[0], *asked)
    if len(asked) != ndim:
        raise InputError(
            "spacing", f"{len(asked)} numbers", f"{ndim} for an image of shape {tuple(image.values.shape)}"
        )
    for have, want in zip(image.spacing, asked, strict=True):
        if math.isnan(have) != math.isnan(want) or want <= 0:
            raise InputError("spacing", f"{asked}", f"positive mm for the known axes of {image.spacing}")
    values, actual = resample_axes(image.values, image.spacing, asked)
    padding = image.padding
    if padding is not None:
        padding = resample_axes(padding[None].float(), image.spacing, asked)[0][0] > 0.5
    return replace(image, values=values, spacing=actual, padding=padding, header=None)


def resample_axes(values: Tensor, have: Sequence[float], want: Sequence[float]) -> tuple[Tensor, tuple[float, ...]]:
    """Resample the last len(have) axes of `values` (..., *N) from spacing `have` to about `want`.

    Returns the values (..., *M) and the spacing they have. Axes of nan spacing are left alone.
    """
    actual = []
    for axis, (old, new) in enumerate(zip(have, want, strict=True), start=values.ndim - len(have)):
        count = values.shape[axis]
        target = count if math.isnan(old) else max(1, round(count * old / new))
        if target != count:
            weights = _weights(count, target).to(values)
            values = (values.movedim(axis, -1) @ weights.T).movedim(-1, axis)
        actual.append(old * count / target)
    return values.contiguous(), tuple(actual)


def _weights(count: int, target: int) -> Tensor:
    """Return the matrix (target, count) of a triangular filter; rows sum to one, also at the edges."""
    ratio = count / target
    centers = (torch.arange(target, dtype=torch.float64, device="cpu") + 0.5) * ratio - 0.5
    distance = (torch.arange(count, dtype=torch.float64, device="cpu")[None] - centers[:, None]).abs()
    weights = (1 - distance / max(ratio, 1.0)).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)
