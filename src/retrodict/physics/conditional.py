"""The Gaussian posterior: closed forms in a basis, conjugate gradients elsewhere, and the whitened operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis, Fourier, Pixel
from retrodict.bases.solve import conjugate_gradients
from retrodict.physics.covariance import Covariance
from retrodict.physics.operator import Operator, Spectral, scaled_by

if TYPE_CHECKING:
    from retrodict.physics.measurement import Measurement

__all__ = ["Posterior", "Whitened", "gain_of", "point_response", "solve"]

REFRESH = 25
"""Rounds after which a residual is computed anew."""


class Posterior(NamedTuple):
    """Mean or draw `x` `(B, *domain.shape)`; the residual that is `left` over the first, the `rounds` it took and the
    estimated relative `error` in the norm of the system, each `(B,)`; `method` "closed form" or "conjugate gradients".
    """

    x: Tensor
    left: Tensor
    rounds: Tensor
    error: Tensor
    method: str

    @staticmethod
    def join(parts: Sequence[Posterior]) -> Posterior:
        """Items one after the other."""
        x, left, rounds, error = (torch.cat(column) for column in zip(*(p[:4] for p in parts), strict=True))
        return Posterior(x, left, rounds, error, parts[0].method)


class Whitened(Operator):
    """Sigma^(-1/2) M A: an operator whose data have unit white noise."""

    def __init__(self, operator: Operator, covariance: Covariance, mask: Tensor | None = None) -> None:
        if not covariance.positive:
            raise InputError("covariance", "a variance of 0", "variances above 0")
        self.inner, self.covariance, self.mask = operator, covariance, mask
        self.domain, self.range = operator.domain, replace(operator.range, unit="1")

    def white(self, y: Tensor) -> Tensor:
        """Sigma^(-1/2) M y."""
        y = y if self.mask is None else self.mask.to(device=y.device, dtype=y.real.dtype) * y
        return self.covariance.power(y, -0.5)

    def _forward(self, x: Tensor) -> Tensor:
        return self.white(self.inner.forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        y = self.covariance.power(y, -0.5)
        return self.inner.adjoint(y if self.mask is None else self.mask.to(device=y.device, dtype=y.real.dtype) * y)


class _Gain(NamedTuple):
    """Where A, C and Sigma are numbers in one basis: |h|^2 C, Sigma, and the weights of L^H (y - A mean)."""

    form: Spectral
    power: Tensor
    noise: Tensor
    weight: Tensor
    multiplicity: Tensor


def gain_of(measurement: Measurement, covariance: Covariance) -> _Gain | None:
    """The closed form of a measurement of one item, or None."""
    form = measurement.operator.part.spectral()
    _, sigma = measurement.gaussian()
    form = None if form is None else _anywhere(form, covariance.basis or sigma.basis)
    if form is None or covariance.channels is not None or sigma.channels is not None:
        return None
    seen, mask = measurement.operator.measured, measurement.mask
    if mask is not None and not (seen is not None and torch.equal(seen.to(mask), mask)):
        return None
    for part in (covariance, sigma):
        own = part.basis == form.basis or (part.basis is None and isinstance(form.basis, Pixel))
        if part.number is None and not own:
            return None
    if sigma.number is None and form.left is not None:
        return None
    settings = {"dtype": torch.float64, "device": "cpu"}
    prior, noise = (torch.as_tensor(c.variance, **settings) for c in (covariance, sigma))
    noise = noise[0] if noise.ndim > len(measurement.operator.range.shape) else noise
    prior = prior[0] if prior.ndim > len(measurement.operator.domain.shape) else prior
    gain = form.gain.to("cpu")
    power = gain.abs() ** 2 * prior
    return _Gain(form, power, noise, gain.conj().resolve_conj() * prior / (power + noise), form.basis.multiplicity())


def _anywhere(form: Spectral, basis: Basis | None) -> Spectral:
    """A multiple of the identity is one in every basis, such as that of the image or of the noise."""
    same = isinstance(form.basis, Pixel) and form.left is None and bool((form.gain == form.gain.flatten()[0]).all())
    if basis is None or not same or basis.size != form.basis.size:
        return form
    return Spectral(basis, form.gain.flatten()[0].expand(basis.shape))


def solve(
    measurement: Measurement, mean: Tensor, covariance: Covariance, tolerance: float | None, rounds: int
) -> Posterior:
    """The posterior mean of one item, `(1, *domain.shape)`; see `Measurement.posterior_mean`."""
    data, _ = measurement.gaussian()
    closed = gain_of(measurement, covariance)
    if closed is not None:
        rest = measurement._seen(data - measurement.operator.forward(mean))
        x = mean + closed.form.basis.inverse(scaled_by(closed.weight, closed.form.from_range(rest)))
        zero = torch.zeros(1, dtype=torch.float64, device="cpu")
        return Posterior(x, zero, zero.long(), zero, "closed form")
    operator, white = measurement.whitened()
    rest = white - operator.forward(mean)
    if tolerance is None:
        tolerance = 1e-10 if rest.dtype in (torch.float64, torch.complex128) else 1e-5

    def system(w: Tensor) -> Tensor:
        return w + covariance.power(operator.gram(covariance.power(w, 0.5)), 0.5)

    right = covariance.power(operator.adjoint(rest), 0.5)
    guess = _preconditioner(measurement, operator, covariance, mean)
    found = conjugate_gradients(system, guess, right, tolerance, rounds, REFRESH)
    numbers = (torch.tensor([v], dtype=torch.float64, device="cpu") for v in (found.left, found.rounds, found.error))
    left, count, error = numbers
    return Posterior(mean + covariance.power(found.x, 0.5), left, count.long(), error, "conjugate gradients")


def _preconditioner(
    measurement: Measurement, operator: Whitened, covariance: Covariance, like: Tensor
) -> Callable[[Tensor], Tensor]:
    """Nearly (1 + C^1/2 A^H Sigma^-1 A C^1/2)^-1: numbers in the basis of A, or in that of Fourier."""
    form = measurement.operator.part.spectral()
    space = operator.domain
    size = space.shape[1:]
    if covariance.channels is not None:
        return lambda x: x
    if form is not None and (covariance.number is not None or covariance.basis == form.basis):
        basis, gain = form.basis, form.gain.abs().to("cpu") ** 2 * _mean_precision(operator)
    elif 1 <= len(size) <= 3 and (covariance.number is not None or isinstance(covariance.basis, Fourier)):
        basis = covariance.basis or Fourier(size, space.spacing if len(space.spacing) == len(size) else ())
        basis = replace(basis, complex=space.complex)
        gain = point_response(operator, basis, like)
    else:
        return lambda x: x
    prior = torch.as_tensor(covariance.variance, dtype=torch.float64, device="cpu")
    inverse = 1 / (1 + prior * gain)
    return lambda x: basis.inverse(scaled_by(inverse, basis.forward(x)))


def _mean_precision(operator: Whitened) -> float:
    """Mean of the inverse variance of what was measured."""
    variance = torch.as_tensor(operator.covariance.variance, dtype=torch.float64, device="cpu")
    return float((1 / variance).mean())


def point_response(operator: Operator, basis: Basis, like: Tensor) -> Tensor:
    """A^H A as if it were a convolution: the transform of its answer to a point in the middle, not below 0, `(*K)`.

    `basis` is `Fourier` on the grid of the images; `like` an image whose precision is used.
    """
    place = tuple(n // 2 for n in basis.size)
    point = torch.zeros_like(like[:1])
    point[(0, 0, *place)] = 1.0
    answer = operator.gram(point)[0, 0]
    kernel = answer.roll([-p for p in place], tuple(range(answer.ndim)))
    return basis.forward(kernel).real.clamp_min(0).double().to("cpu") * math.sqrt(math.prod(basis.size))
