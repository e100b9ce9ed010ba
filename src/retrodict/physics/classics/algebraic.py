"""Algebraic reconstruction: SIRT, SART, ordered subsets, conjugate gradients on the normal equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.classics.bounds import Bound, Box, box_of
from retrodict.physics.classics.result import (
    Reconstruction,
    Stop,
    closed,
    each_item,
    iterate,
    least_squares,
    start_of,
)
from retrodict.physics.covariance import Covariance
from retrodict.physics.measurement import Measurement
from retrodict.physics.mri import CartesianMRI, RadialMRI
from retrodict.physics.noise import GaussianNoise
from retrodict.physics.operator import Operator
from retrodict.physics.subsets import some_views, views_of

__all__ = ["cg_sense", "cgls", "os_sart", "sart", "sirt", "tikhonov"]


def _relaxed(relaxation: float) -> None:
    if not 0 < relaxation < 2:
        raise InputError("relaxation", relaxation, "a number above 0 and below 2")


def _inverse_sums(operator: Operator, mask: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """1 / (A 1) of every ray and 1 / (A^H 1) of every pixel; 0 where nothing meets."""
    if operator.domain.complex or operator.range.complex:
        raise InputError(
            "operator", f"the complex {operator.name}", "a real one, without negative weights", "Use cgls."
        )
    pixels = torch.ones_like(like)
    rows = operator.forward(pixels)
    ones = torch.ones_like(rows) if mask is None else mask.to(rows).expand_as(rows)
    columns = operator.adjoint(ones)
    if float(rows.min()) < -1e-6 * float(rows.max()) or float(columns.min()) < -1e-6 * float(columns.max()):
        raise InputError("operator", f"{operator.name} with negative weights", "weights of at least 0", "Use cgls.")
    inverse = [torch.where(v > 1e-9 * v.max(), 1 / v.clamp_min(1e-30), 0.0) for v in (rows, columns)]
    return inverse[0] * ones, inverse[1]


def _sweep(part: Measurement, x: Tensor, count: int, relaxation: float, box: Box) -> Callable[[Tensor], Tensor]:
    """One pass over `count` subsets of the views: x += relaxation C_k A_k^H R_k (y_k - A_k x), one after the other."""
    whole = part.operator.part
    data = part.y if part.operator.offset is None else part.y - part.operator.offset.to(part.y)
    steps = []
    for k in range(count):
        if count == 1:
            operator, y, mask = whole, data, part.mask
        else:
            index = list(range(k, views_of(whole), count))
            operator, y = some_views(whole, index), data[:, :, index]
            mask = None if part.mask is None else part.mask[:, index]
        steps.append((operator, y, *_inverse_sums(operator, mask, x)))

    def update(x: Tensor) -> Tensor:
        for operator, y, rows, columns in steps:
            x = box.nearest(x + relaxation * columns * operator.adjoint(rows * (y - operator.forward(x))))
        return x

    return update


def sirt(
    measurement: Measurement,
    *,
    iterations: int = 100,
    relaxation: float = 1.0,
    nonnegative: bool = False,
    lower: Bound = None,
    upper: Bound = None,
    support: Tensor | None = None,
    tolerance: float = 0.0,
    discrepancy: float | None = None,
    start: Tensor | None = None,
) -> Reconstruction:
    """Simultaneous iterative reconstruction: x <- x + relaxation C A^T R (y - A x), R = 1 / A 1, C = 1 / A^T 1.

    Converges to the minimum of |R^1/2 (y - A x)| nearest to the start in the norm of C^-1 (Gregor and Benson, IEEE
    Trans. Med. Imaging 27, 2008).  A has no negative weights.  The bounds `nonnegative`, `lower`, `upper` and `support`
    are those of `fista`, by a projection after every step; the minimum is then over the images that keep them.
    """
    stop = Stop(iterations, tolerance, discrepancy)
    box = box_of(measurement.operator.domain, lower, upper, nonnegative, support)
    return _subsets(measurement, 1, relaxation, box, stop, start)


def sart(
    measurement: Measurement,
    *,
    iterations: int = 20,
    relaxation: float = 0.5,
    nonnegative: bool = False,
    lower: Bound = None,
    upper: Bound = None,
    support: Tensor | None = None,
    tolerance: float = 0.0,
    discrepancy: float | None = None,
    start: Tensor | None = None,
) -> Reconstruction:
    """Simultaneous algebraic reconstruction (Andersen and Kak, Ultrason. Imaging 6, 1984): SIRT view by view.

    An iteration is a pass over all views.  Consistent data are solved; others end in a cycle round a weighted
    least-squares solution that shrinks with the relaxation.
    """
    stop = Stop(iterations, tolerance, discrepancy)
    count = views_of(measurement.operator)
    box = box_of(measurement.operator.domain, lower, upper, nonnegative, support)
    return _subsets(measurement, count, relaxation, box, stop, start)


def os_sart(
    measurement: Measurement,
    *,
    subsets: int = 10,
    iterations: int = 20,
    relaxation: float = 1.0,
    nonnegative: bool = False,
    lower: Bound = None,
    upper: Bound = None,
    support: Tensor | None = None,
    tolerance: float = 0.0,
    discrepancy: float | None = None,
    start: Tensor | None = None,
) -> Reconstruction:
    """SART over `subsets` interleaved subsets of the views (Wang and Jiang, J. X-Ray Sci. Technol. 12, 2004)."""
    stop = Stop(iterations, tolerance, discrepancy)
    _check_subsets(measurement, subsets)
    box = box_of(measurement.operator.domain, lower, upper, nonnegative, support)
    return _subsets(measurement, subsets, relaxation, box, stop, start)


def _check_subsets(measurement: Measurement, subsets: int) -> None:
    views = views_of(measurement.operator)
    if isinstance(subsets, bool) or not isinstance(subsets, int) or not 1 <= subsets <= views:
        raise InputError("subsets", subsets, f"1 to {views}, the number of views")


def _subsets(
    measurement: Measurement,
    count: int,
    relaxation: float,
    box: Box,
    stop: Stop,
    start: Tensor | None,
) -> Reconstruction:
    _relaxed(relaxation)

    def one(part: Measurement) -> Reconstruction:
        x = start_of(part, start)
        return iterate(part, x, _sweep(part, x, count, relaxation, box), stop)

    return each_item(measurement, one)


def cgls(
    measurement: Measurement,
    *,
    iterations: int = 100,
    tolerance: float = 1e-10,
    discrepancy: float | None = None,
    start: Tensor | None = None,
) -> Reconstruction:
    """Conjugate gradients on A^H W A x = A^H W y, W = Sigma^-1 of the law of noise (1 without one).

    Converges to the least-squares solution nearest to the start (Bjorck, 1996).  It ends where the gradient
    |A^H W (y - A x)| is `tolerance` of the first one, or at the `discrepancy`: on noisy data the number of iterations
    is the regularization.
    """
    stop = Stop(iterations, 0.0, discrepancy)
    return each_item(measurement, lambda part: _cgls(part, stop, tolerance, start))


def _cgls(part: Measurement, stop: Stop, tolerance: float, start: Tensor | None) -> Reconstruction:
    operator, data = least_squares(part)
    x = start_of(part, start)
    residual = data - operator.forward(x)
    step = gradient = operator.adjoint(residual)
    size = first = _square(gradient)
    limit = stop.limit(part)
    done, why = 0, "iterations"
    while True:
        if _square(residual) <= limit:
            why = "discrepancy"
        elif size <= tolerance**2 * first:
            why = "tolerance"
        if why != "iterations" or done == stop.iterations:
            break
        image = operator.forward(step)
        length = size / _square(image)
        x, residual = x + length * step, residual - length * image
        gradient = operator.adjoint(residual)
        after = _square(gradient)
        step, size, done = gradient + (after / size) * step, after, done + 1
    return closed(part, x, done, why)


def _square(x: Tensor) -> float:
    return float(x.abs().double().square().sum())


def tikhonov(
    measurement: Measurement, *, strength: float, iterations: int = 500, tolerance: float | None = None
) -> Reconstruction:
    """Argmin |y - A x|^2_(Sigma^-1) / 2 + strength |x|^2 / 2: in closed form where there is one, else by CG.

    `strength` in 1 / unit^2 is the inverse variance of white images; without a law of noise Sigma = 1.  `tolerance` and
    `iterations` are those of `Measurement.posterior_mean`.
    """
    if not (math.isfinite(strength) and strength > 0):
        raise InputError("strength", strength, "a positive number")

    def one(part: Measurement) -> Reconstruction:
        known = part if part.noise is not None else replace(part, noise=GaussianNoise.white(1.0))
        found = known.posterior_mean(0.0, Covariance(1 / strength), tolerance=tolerance, rounds=iterations)
        count = int(found.rounds[0])
        why = "closed form" if found.method == "closed form" else "tolerance"
        why = "iterations" if count == iterations else why
        record = closed(part, found.x, count, why)
        penalty = 0.5 * _square(found.x)
        return replace(record, parameter=(float(strength),), penalty=(penalty,))

    return each_item(measurement, one)


def cg_sense(
    measurement: Measurement,
    *,
    strength: float = 0.0,
    iterations: int = 50,
    tolerance: float = 1e-6,
    discrepancy: float | None = None,
) -> Reconstruction:
    """Iterative SENSE: conjugate gradients on A^H W A x = A^H W y of k-space with given coil maps.

    With `strength` above 0 the Tikhonov solution (Pruessmann et al., Magn. Reson. Med. 46, 2001).  Any mask or
    trajectory; the noise between coils by `GaussianNoise.coils`.
    """
    if not isinstance(measurement.operator.part, CartesianMRI | RadialMRI):
        raise InputError(
            "cg_sense", measurement.operator.name, "the measurement of CartesianMRI or RadialMRI", "Use cgls."
        )
    if strength:
        if discrepancy is not None:
            raise InputError("discrepancy", discrepancy, "none beside a strength", "Choose the strength by `choose`.")
        return tikhonov(measurement, strength=strength, iterations=iterations, tolerance=tolerance)
    return cgls(measurement, iterations=iterations, tolerance=tolerance, discrepancy=discrepancy)
