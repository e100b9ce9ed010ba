"""Maximum likelihood of counts: ML-EM, ordered subsets, and Richardson-Lucy deconvolution."""

from __future__ import annotations

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.classics.algebraic import _check_subsets
from retrodict.physics.classics.result import Reconstruction, Stop, each_item, iterate, start_of
from retrodict.physics.convolution import Blur
from retrodict.physics.measurement import Measurement
from retrodict.physics.operator import Operator
from retrodict.physics.subsets import some_views, views_of

__all__ = ["ml_em", "os_em", "richardson_lucy"]


def _sensitivity(operator: Operator, mask: Tensor | None, like: Tensor) -> Tensor:
    """A^T M 1 of every pixel."""
    if operator.domain.complex or operator.range.complex:
        raise InputError("operator", f"the complex {operator.name}", "a real one, without negative weights")
    rows = operator.forward(torch.ones_like(like))
    ones = torch.ones_like(rows) if mask is None else mask.to(rows).expand_as(rows)
    seen = operator.adjoint(ones)
    if float(rows.min()) < -1e-6 * float(rows.max()) or float(seen.min()) < -1e-6 * float(seen.max()):
        raise InputError("operator", f"{operator.name} with negative weights", "weights of at least 0")
    return seen


def _pass(part: Measurement, like: Tensor, count: int):  # noqa: ANN202
    """One pass: x <- x / (A_k^T 1) A_k^T (y_k / (A_k x + b_k)), subset by subset."""
    whole = part.operator
    steps = []
    for k in range(count):
        if count == 1:
            operator, y, mask = whole, part.y, part.mask
        else:
            index = list(range(k, views_of(whole), count))
            operator, y = some_views(whole, index), part.y[:, :, index]
            mask = None if part.mask is None else part.mask[:, index]
        steps.append((operator, y, mask, _sensitivity(operator.part, mask, like)))

    def update(x: Tensor) -> Tensor:
        for operator, y, mask, seen in steps:
            mean = operator.forward(x)
            # a mean of 0 with a count of 0 says nothing; with a count it is impossible, and only x = 0 leads there
            ratio = torch.where(mean > 0, y / torch.where(mean > 0, mean, 1.0), 0.0)
            ratio = ratio if mask is None else ratio * mask.to(ratio)
            known = seen > 1e-9 * seen.max()
            x = torch.where(known, x * operator.adjoint(ratio) / torch.where(known, seen, 1.0), x)
        return x

    return update


def _counted(part: Measurement) -> None:
    if part.operator.range.complex or not bool((part.y >= 0).all()):
        hint = "Counts below 0 after a subtraction: give the background to the operator instead."
        raise InputError("y", "values below 0", "counts of at least 0", hint)


def ml_em(
    measurement: Measurement,
    *,
    iterations: int = 50,
    tolerance: float = 0.0,
    discrepancy: float | None = None,
    start: Tensor | None = None,
) -> Reconstruction:
    """X <- x / (A^T 1) A^T (y / (A x + b)): the maximum of the Poisson likelihood (Shepp and Vardi, 1982).

    Every step raises the likelihood and keeps x positive, and without b the expected total is the measured one.
    `emission` has b = randoms + scatter in it.  Starts from a constant unless `start` is given.
    """
    return _em(measurement, 1, Stop(iterations, tolerance, discrepancy), start)


def os_em(
    measurement: Measurement,
    *,
    subsets: int = 8,
    iterations: int = 10,
    tolerance: float = 0.0,
    discrepancy: float | None = None,
    start: Tensor | None = None,
) -> Reconstruction:
    """ML-EM over interleaved subsets of the views (Hudson and Larkin, IEEE Trans. Med. Imaging 13, 1994).

    As many times faster at first; consistent data are solved, others end in a cycle round the maximum.
    """
    _check_subsets(measurement, subsets)
    return _em(measurement, subsets, Stop(iterations, tolerance, discrepancy), start)


def richardson_lucy(
    measurement: Measurement,
    *,
    iterations: int = 30,
    tolerance: float = 0.0,
    discrepancy: float | None = None,
    start: Tensor | None = None,
) -> Reconstruction:
    """ML-EM of a `Blur` (Richardson, J. Opt. Soc. Am. 62, 1972; Lucy, Astron. J. 79, 1974), with or without background.

    The PSF has no negative values; boundaries are those of the blur, whose A^T 1 falls off at an open border.
    """
    if not isinstance(measurement.operator.part, Blur):
        raise InputError("richardson_lucy", measurement.operator.name, "the measurement of a Blur", "Use ml_em.")
    return _em(measurement, 1, Stop(iterations, tolerance, discrepancy), start)


def _em(measurement: Measurement, count: int, stop: Stop, start: Tensor | None) -> Reconstruction:
    def one(part: Measurement) -> Reconstruction:
        _counted(part)
        x = start_of(part, start, 1.0)
        if start is None:  # a constant with the measured total
            total = part.operator.part.forward(x)
            x = x * float(part.y.sum() / total.sum().clamp_min(1e-30))
        elif not bool((x >= 0).all()):
            raise InputError("start", "values below 0", "values above 0: a pixel that starts at 0 stays there")
        return iterate(part, x, _pass(part, x, count), stop)

    return each_item(measurement, one)
