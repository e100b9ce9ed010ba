"""A prior of the data instead of the image: sinograms (or k-space) denoised and completed, and then reconstructed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser
from retrodict.physics.diagonal import Diagonal
from retrodict.physics.measurement import Measurement
from retrodict.posterior.ensemble import Ensemble, sample_posterior

__all__ = ["FromData", "data_measurement", "sample_data"]


class FromData(NamedTuple):
    """Images `samples` `(K, B, C, *N)` from samples of the clean data, their `mean` and `sd` (None where the data have
    none, or of one sample), and `data`, the ensemble of clean data `(K, B, *range)`.
    """

    mean: Tensor
    sd: Tensor | None
    samples: Tensor
    data: Ensemble


def data_measurement(measurement: Measurement) -> Measurement:
    """The same data as a measurement of the *clean data* u = A x + b: the operator is the identity on its range.

    Noise and mask are those of the measurement, so that missing views are inpainted and noisy ones denoised.
    """
    space = measurement.operator.range
    weights = torch.ones(space.shape[1:], dtype=torch.float64, device="cpu")
    same = Diagonal(weights, channels=space.shape[0], unit=space.unit, spacing=space.spacing, complex=space.complex)
    return replace(measurement, operator=same)


def sample_data(
    prior: Denoiser, measurement: Measurement, inverse: Callable[[Tensor], Tensor], method: str = "auto", **options: Any
) -> FromData:
    """Posterior samples of the clean data, each reconstructed by `inverse` `(B, *range)` -> `(B, C, *N)`.

    `prior` is a denoiser of data (a sinogram `(C, views, bins)` as an image), `options` those of `sample_posterior`.
    With a linear inverse B, such as filtered back-projection, and Gaussian data N(m, V) given y, images are
    N(B m, B V B^H): calibrated *if the clean data are what the prior says*.  Nothing keeps them in the range of A, so
    what is drawn there is removed by B and what B amplifies is amplified: the spread of an image by its own prior is
    smaller (compare `sample_posterior` with a prior of images).

    Raises `InputError` as `sample_posterior` does, and for an inverse that returns no batch of images.
    """
    data = sample_posterior(prior, data_measurement(measurement), method, **options)
    images = [inverse(member) for member in data.samples]
    shape = measurement.operator.domain.shape
    for image in images:
        if tuple(image.shape) != (len(measurement), *shape):
            raise InputError("inverse", f"images {tuple(image.shape)}", f"{(len(measurement), *shape)}")
    samples = torch.stack(images)
    known = data.kind == "posterior" and len(samples) > 1 and not samples.is_complex()
    return FromData(samples.mean(0), samples.std(0) if known else None, samples, data)
