"""Closed forms: the Wiener filter, and SENSE by unfolding, with its noise amplification."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.spectrum import Spectrum
from retrodict.physics.classics.result import Reconstruction, closed
from retrodict.physics.conditional import gain_of
from retrodict.physics.covariance import Covariance
from retrodict.physics.measurement import Measurement
from retrodict.physics.mri import CartesianMRI

__all__ = ["g_factor", "sense", "wiener"]


def wiener(
    measurement: Measurement, *, prior: Covariance | Spectrum, mean: Tensor | float | None = None
) -> Reconstruction:
    """X = mean + C h* / (|h|^2 C + Sigma) (y - A mean), in the basis that makes A, C and Sigma diagonal (Wiener 1949).

    The linear estimate of least mean square error, and the posterior mean of Gaussian images.  `prior` is their
    covariance, or a `Spectrum` (with its mean, unless `mean` is given) in the basis of the operator.

    Raises `InputError` where no basis makes everything diagonal; `Measurement.posterior_mean` solves that.
    """
    form = measurement.operator.part.spectral()
    if isinstance(prior, Spectrum):
        if form is None:
            raise InputError("wiener", f"{measurement.operator.name}, which no basis makes diagonal", "a spectral form")
        if mean is None:
            shape = measurement.operator.domain.shape
            mean = prior.mean_image(form.basis).to(measurement.y.real.dtype).expand(1, *shape)
            mean = mean.to(measurement.y.dtype) if measurement.operator.domain.complex else mean
        prior = Covariance.of_spectrum(prior, form.basis)
    if any(gain_of(measurement.item(i), prior) is None for i in range(len(measurement))):
        found = f"{measurement.operator.name}, its noise and the prior, which no one basis makes diagonal"
        raise InputError("wiener", found, "all of them diagonal in one", "Use posterior_mean, which solves it.")
    found = measurement.posterior_mean(0.0 if mean is None else mean, prior)
    return closed(measurement, found.x)


def _period(operator: CartesianMRI) -> tuple[int, int]:
    """Axis and factor of a mask that measures every R-th line; `InputError` for another."""
    mask = operator.mask
    for axis in range(mask.ndim):
        line = mask.movedim(axis, -1).reshape(-1, mask.shape[axis])
        if not bool((line == line[:1]).all()):
            continue
        places = torch.nonzero(line[0] == 1).flatten()
        if len(places) < 1 or mask.shape[axis] % len(places):
            continue
        step = mask.shape[axis] // len(places)
        expected = torch.arange(int(places[0]), mask.shape[axis], step, device="cpu")
        if int(places[0]) < step and torch.equal(places, expected) and (step > 1 or bool((mask == 1).all())):
            return axis, step
    hint = "Use cg_sense, which takes any mask."
    raise InputError("mask", "lines that are not every R-th one", "a regular mask whose R divides the lines", hint)


def _operator(measurement: Measurement) -> CartesianMRI:
    operator = measurement.operator
    if not isinstance(operator, CartesianMRI) or operator.coils < 2:
        raise InputError("sense", operator.name, "CartesianMRI with the maps of several coils")
    return operator


def _aliases(operator: CartesianMRI) -> tuple[Tensor, int, int]:
    """Maps of the R pixels that fall on each other, `(pixels, coils, R)`, with the axis and R."""
    axis, step = _period(operator)
    assert operator.maps is not None
    maps = operator.maps.movedim(axis + 1, -1)
    width = maps.shape[-1] // step
    return maps.unflatten(-1, (step, width)).movedim(0, -1).movedim(-3, -1), axis, step


def _precision(measurement: Measurement) -> Tensor:
    """Inverse covariance of the coils, `(C, C)` complex128."""
    operator = _operator(measurement)
    coils = operator.coils
    whole = torch.eye(coils, dtype=torch.complex128, device="cpu")
    if measurement.noise is None:
        return whole
    covariance = measurement.gaussian()[1]
    if covariance.basis is not None or isinstance(covariance.variance, Tensor):
        raise InputError("noise", "noise that differs over k-space", "white noise, alone or of GaussianNoise.coils")
    matrix = whole if covariance.channels is None else covariance.channels.to(torch.complex128)
    return torch.linalg.inv(covariance.variance * matrix)


def sense(measurement: Measurement) -> Reconstruction:
    """Unfold a regularly undersampled multi-coil image pixel by pixel (Pruessmann et al., Magn. Reson. Med. 42, 1999).

    The R pixels that fall on each other are v = (S^H Psi^-1 S)^-1 S^H Psi^-1 a of the aliased coil images a; Psi is the
    covariance of the noise between coils.  For masks of every R-th line, where it is the least-squares solution.
    """
    operator = _operator(measurement)
    maps, axis, step = _aliases(operator)
    precision = _precision(measurement)
    y = measurement.y
    alias = operator.aliased(y).to(torch.complex128).cpu().movedim(axis + 2, -1)
    # an image folded R times repeats itself with a phase: the first pixels of every coil are enough
    width = alias.shape[-1] // step
    alias = step * alias[..., :width].movedim(1, -1)[..., None]
    phase = _phases(operator, axis, step, width)
    seen = maps * phase
    weighted = seen.mH @ precision
    normal = weighted @ seen
    scale = normal.diagonal(dim1=-2, dim2=-1).real.amax(-1)[..., None, None]
    # pixels that no coil sees have no equation and are 0
    dark = normal.diagonal(dim1=-2, dim2=-1).real <= 1e-12 * scale.amax()
    normal = normal + torch.diag_embed(dark.to(normal.dtype) * scale[..., 0].clamp_min(1.0))
    values = torch.linalg.solve(normal, weighted @ alias)[..., 0]
    image = values.movedim(-1, -2).flatten(-2).movedim(-1, axis + 1)[:, None]
    return closed(measurement, image.to(y))


def _phases(operator: CartesianMRI, axis: int, step: int, width: int) -> Tensor:
    """Phase exp(2 pi i k0 j / R) of the j-th alias, k0 the first line counted from the middle of k-space."""
    n = operator.mask.shape[axis]
    places = torch.nonzero(operator.mask.movedim(axis, -1).reshape(-1, n)[0] == 1).flatten()
    first = int(places[0]) - n // 2
    j = torch.arange(step, dtype=torch.float64, device="cpu")
    return torch.polar(torch.ones_like(j), -2 * torch.pi * first * j / step)


def g_factor(measurement: Measurement) -> Tensor:
    """Noise amplification of `sense` at every pixel, `(*N)` float64: sqrt([N^-1]_rr [N]_rr), N = S^H Psi^-1 S.

    1 where coils tell the aliases apart for free; the deviation of the noise is g sqrt(R) that of a full scan.
    """
    operator = _operator(measurement)
    maps, axis, _ = _aliases(operator)
    normal = maps.mH @ _precision(measurement) @ maps
    inverse = torch.linalg.pinv(normal, hermitian=True)
    product = (normal.diagonal(dim1=-2, dim2=-1) * inverse.diagonal(dim1=-2, dim2=-1)).real
    return product.clamp_min(0).sqrt().movedim(-1, -2).flatten(-2).movedim(-1, axis)
