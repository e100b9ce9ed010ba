"""Exact mean and covariance of a posterior method on Gaussian data: its real steps, run on unit fields.

With the exact denoiser of Gaussian data most methods are affine in the state, the measurement and the noise.  Their
mean and covariance then follow without Monte Carlo: matrices on small grids (`affine_card`), numbers for pixels that do
not know of each other, all steps at once (`pixel_card`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.measurement import Measurement
from retrodict.posterior.method import Draw, Method

__all__ = ["AffineCard", "affine_card", "dense_posterior", "pixel_card", "prior_matrix"]


class AffineCard(NamedTuple):
    """Mean `(n,)` and covariance `(n, n)` of what a method returns for one measurement, pixels in a row."""

    mean: Tensor
    covariance: Tensor


class _Probe:
    """Stands for the noise of a step: item i of a batch gets a one at entry i of all of it, in the order of drawing."""

    def __init__(self, like: Tensor, first: int) -> None:
        self.like, self.first, self.total = like, first, 0

    def __call__(self, fields: int) -> Tensor:
        z = torch.zeros(fields, *self.like.shape, dtype=self.like.dtype, device="cpu")
        flat = z.transpose(0, 1).reshape(len(self.like), -1)
        size = flat.shape[1]
        place = torch.arange(len(self.like), device="cpu") - self.first - self.total
        inside = (place >= 0) & (place < size)
        flat = flat.clone()
        flat[inside, place[inside]] = 1.0
        self.total += size
        return flat.reshape(len(self.like), fields, *self.like.shape[1:]).transpose(0, 1)


Act = Callable[[Tensor, Draw], Tensor]


def _affine(act: Act, shape: tuple[int, ...], states: int) -> tuple[Tensor, Tensor, Tensor]:
    """An affine map of a state (of `states` numbers, 0 for none) and noise as (matrix, offset, root of its noise)."""
    count = _Probe(torch.zeros(1, *shape, dtype=torch.float64, device="cpu"), 10**9)
    act(torch.zeros(1, *shape, dtype=torch.float64, device="cpu"), count)
    items = 1 + states + count.total
    x = torch.zeros(items, *shape, dtype=torch.float64, device="cpu")
    if states:
        x.reshape(items, -1)[1 : 1 + states] = torch.eye(states, dtype=torch.float64, device="cpu")
    out = act(x, _Probe(x, 1 + states)).reshape(items, -1)
    rest = out[1:] - out[:1]
    return rest[:states].T, out[0], rest[states:].T


def affine_card(method: Method, steps: int | None = None) -> AffineCard:
    """Exact mean and covariance of the output of `method`, its start included, for the measurement it holds.

    The method is run in float64 on unit vectors, one step after the other: for real images of some hundred pixels and
    methods that are affine (an exact Gaussian denoiser, no norm of a residual in a step size).  Raises `InputError`
    where a step is not.
    """
    shape = method.measurement.operator.domain.shape
    n = math.prod(shape)
    _, mean, root = _affine(lambda x, draw: method.start(x, draw), shape, 0)
    covariance, times = root @ root.T, method.times(steps)
    for t, s in itertools.pairwise(times):

        def act(x: Tensor, draw: Draw, t: Tensor = t, s: Tensor = s) -> Tensor:
            return method.step(x, t.expand(len(x)), s.expand(len(x)), draw)

        matrix, offset, noise = _affine(act, shape, n)
        if t == times[0]:
            _require_affine(act, matrix, offset, shape)
        mean = matrix @ mean + offset
        covariance = matrix @ covariance @ matrix.T + noise @ noise.T
    return AffineCard(mean, covariance)


def _require_affine(act: Act, matrix: Tensor, offset: Tensor, shape: tuple[int, ...]) -> None:
    x = torch.linspace(-2, 3, len(offset), dtype=torch.float64, device="cpu")
    quiet = _Probe(torch.zeros(1, *shape, dtype=torch.float64, device="cpu"), 10**9)
    found = act(x.reshape(1, *shape), quiet).flatten()
    wanted = matrix @ x + offset
    if not torch.allclose(found, wanted, rtol=1e-6, atol=1e-6 * float(1 + wanted.abs().max())):
        raise InputError(
            "affine_card", "a method that is not affine on Gaussian data", "an affine one", "Draw samples."
        )


def prior_matrix(method: Method) -> tuple[Tensor, Tensor]:
    """Mean `(n,)` and covariance `(n, n)` of the Gaussian data of the denoiser, pixels in a row."""
    prior, basis = method.denoiser.prior(), method.process.basis
    if prior is None:
        raise InputError("denoiser", "one without mean and variance of the data", "one with a spectrum")
    shape = method.measurement.operator.domain.shape
    n = math.prod(shape)
    units = torch.eye(n, dtype=torch.float64, device="cpu").reshape(n, *shape)
    covariance = basis.inverse(prior[1] * basis.forward(units)).reshape(n, n)
    mean = basis.inverse(prior[0] + torch.zeros_like(basis.forward(units[:1])))
    return mean.flatten(), covariance


def dense_posterior(measurement: Measurement, mean: Tensor, covariance: Tensor) -> AffineCard:
    """The exact law of x ~ N(mean, covariance) given y, by matrices."""
    domain, n = measurement.operator.domain, len(mean)
    units = torch.eye(n, dtype=torch.float64, device="cpu").reshape(n, *domain.shape)
    operator, data = measurement.whitened()
    A = operator.forward(units).reshape(n, -1).T
    M = A @ covariance @ A.T + torch.eye(len(A), dtype=torch.float64, device="cpu")
    K = torch.linalg.solve(M, A @ covariance).T
    rest = data.double().flatten() - A @ mean
    return AffineCard(mean + K @ rest, covariance - K @ A @ covariance)


def pixel_card(method: Method, y: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Gain on y and variance `(K,)` of a method on independent pixels, all steps of `times` probed at once.

    The measurement is of as many pixels, each seen by itself; y `(1, 1, K)` has a value for each.  For many thousand
    steps: the recursion of gain and variance is all that is done one after the other.
    """
    zero, unit = (method.given(replace(method.measurement, y=v)) for v in (torch.zeros_like(y), torch.ones_like(y)))
    t, s, n = times[:-1], times[1:], y.shape[-1]
    like = torch.zeros(len(t), 1, n, dtype=torch.float64, device="cpu")
    x0, x1 = like, torch.ones_like(like)
    counter = _Fields(None, like)
    base = zero.step(x0, t, s, counter)
    keep = (zero.step(x1, t, s, _Fields(None, like)) - base)[:, 0]
    data = (unit.step(x0, t, s, _Fields(None, like)) - base)[:, 0]
    noise = torch.zeros_like(keep)
    for j in range(counter.total):
        noise += (zero.step(x0, t, s, _Fields(j, like)) - base)[:, 0] ** 2
    gain, variance = _start(zero, unit, n)
    for a, b, v in zip(keep, data, noise, strict=True):
        gain, variance = a * gain + b, a**2 * variance + v
    return gain, variance


class _Fields:
    """Zeros, but ones in field `hot`, counted over all calls."""

    def __init__(self, hot: int | None, like: Tensor) -> None:
        self.hot, self.total, self.like = hot, 0, like

    def __call__(self, fields: int) -> Tensor:
        z = torch.zeros(fields, 1, 1, 1, dtype=torch.float64, device="cpu")
        if self.hot is not None and self.total <= self.hot < self.total + fields:
            z[self.hot - self.total] = 1.0
        self.total += fields
        return z.expand(fields, *self.like.shape)


def _start(zero: Method, unit: Method, n: int) -> tuple[Tensor, Tensor]:
    like = torch.zeros(1, 1, n, dtype=torch.float64, device="cpu")
    counter = _Fields(None, like)
    base = zero.start(like, counter)
    gain = (unit.start(like, _Fields(None, like)) - base)[0, 0]
    variance = torch.zeros_like(gain)
    for j in range(counter.total):
        variance += (zero.start(like, _Fields(j, like)) - base)[0, 0] ** 2
    return gain, variance
