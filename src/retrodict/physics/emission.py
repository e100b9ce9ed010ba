"""Emission tomography: expected counts of a tracer, with attenuation, sensitivity, randoms and scatter given."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.algebra import Affine, Composed
from retrodict.physics.diagonal import Diagonal
from retrodict.physics.projection import Projection
from retrodict.physics.radon import Radon

__all__ = ["emission"]


def emission(
    projector: Radon | Projection,
    *,
    attenuation: Tensor | None = None,
    sensitivity: Tensor | float = 1.0,
    randoms: Tensor | float = 0.0,
    scatter: Tensor | float = 0.0,
) -> Affine:
    """Expected counts y = s exp(-p) A x + r + c of an activity x, the mean of a Poisson law.

    A is `projector`, with the unit of the activity; p = line integrals of `attenuation`, an image in 1/mm on the same
    grid `(*N)`, or a sinogram of them `(*views, bins)`; `sensitivity` s is counts for each unit of a line integral
    (efficiency, time, decay), `randoms` r and `scatter` c are expected counts, one number or a sinogram.  Affine:
    `part` is s exp(-p) A and `offset` is r + c (Shepp and Vardi, IEEE Trans. Medical Imaging 1, 1982).
    """
    shape = projector.range.shape[1:]
    if projector.domain.shape[0] != 1:
        raise InputError("projector", f"{projector.domain.shape[0]} channels", "one, the activity")
    weight = _counts("sensitivity", sensitivity, shape)
    if attenuation is not None:
        weight = weight * torch.exp(-_lost(projector, attenuation))
    counted = Diagonal(weight, unit=projector.range.unit, out_unit="counts")
    offset = _counts("randoms", randoms, shape) + _counts("scatter", scatter, shape)
    return Affine(Composed(counted, projector), offset[None])


def _counts(name: str, value: Tensor | float, shape: tuple[int, ...]) -> Tensor:
    given = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    if given.ndim and tuple(given.shape) != shape:
        raise InputError(name, tuple(given.shape), f"one number, or a sinogram {shape}")
    if not bool((given >= 0).all()) or not bool(torch.isfinite(given).all()):
        raise InputError(name, "a negative value, NaN or infinity", "values of at least 0")
    return given.expand(shape).clone()


def _lost(projector: Radon | Projection, attenuation: Tensor) -> Tensor:
    """Line integrals of the attenuation."""
    grid, shape = projector.domain.shape[1:], projector.range.shape[1:]
    if grid == shape:
        raise InputError("attenuation", f"{grid}, the shape of image and sinogram", "a scan of another number of bins")
    if not bool((attenuation >= 0).all()) or not bool(torch.isfinite(attenuation).all()):
        raise InputError("attenuation", "a negative value, NaN or infinity", "1/mm, at least 0")
    if tuple(attenuation.shape) == shape:
        return attenuation.to("cpu", torch.float64)
    if tuple(attenuation.shape) != grid:
        raise InputError("attenuation", tuple(attenuation.shape), f"an image {grid}, or its sinogram {shape}")
    return projector.forward(attenuation.to("cpu", torch.float64)[None, None])[0, 0]
