"""Measurements of the slices of a volume as one measurement, whose images have a channel for every slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.algebra import Affine
from retrodict.physics.measurement import Measurement
from retrodict.physics.noise import GaussianNoise
from retrodict.physics.operator import Operator

__all__ = ["Slices", "volume_of"]


class Slices(Operator):
    """Each slice through its own operator: images `(Z, *N)` to data `(Z C, *M)`, from Z linear operators of gray slices
    `(1, *N)` to `(C, *M)`.  One operator that is the same object for all of them is called once for all.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        if not operators:
            raise InputError("Slices", "no operator", "one for every slice")
        first = operators[0]
        for one in operators:
            if one.domain.shape != first.domain.shape or one.range.shape != first.range.shape or not one.linear:
                raise InputError("Slices", f"{one.domain.shape} to {one.range.shape}", "linear ones of the same shapes")
        if first.domain.shape[0] != 1:
            raise InputError("Slices", f"images {first.domain.shape}", "gray slices (1, *N)")
        self.operators = tuple(operators)
        self._alike = all(one is first for one in operators)
        many = len(operators)
        self.domain = replace(first.domain, shape=(many, *first.domain.shape[1:]))
        self.range = replace(first.range, shape=(many * first.range.shape[0], *first.range.shape[1:]))

    def _forward(self, x: Tensor) -> Tensor:
        if self._alike:
            return self.operators[0].forward(x.flatten(0, 1)[:, None]).reshape(len(x), *self.range.shape)
        return torch.cat([a.forward(x[:, k : k + 1]) for k, a in enumerate(self.operators)], 1)

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = y.unflatten(1, (len(self.operators), -1))
        if self._alike:
            return self.operators[0].adjoint(parts.flatten(0, 1)).reshape(len(y), *self.domain.shape)
        return torch.cat([a.adjoint(parts[:, k]) for k, a in enumerate(self.operators)], 1)


def volume_of(parts: Sequence[Measurement]) -> Measurement:
    """Measurements of one item, one for each slice, as one of the volume `(1, Z, *N)`.

    Its noise is Gaussian and independent: of a law of counts the Gaussian one beside the data (`Measurement.gaussian`).
    Raises `InputError` where noise is not known or correlated between samples, and for slices of other shapes.
    """
    data, deviations = [], []
    for part in parts:
        y, covariance = part.gaussian()
        if not covariance.elementwise:
            raise InputError("volume noise", "noise that is correlated between samples", "independent samples")
        variance = torch.as_tensor(covariance.variance, dtype=torch.float64, device="cpu")
        data.append(y)
        deviations.append(variance.sqrt().expand(1, *part.operator.range.shape)[0])
    operator: Operator = Slices([part.operator.part for part in parts])
    if any(part.operator.offset is not None for part in parts):
        shifts = [part.operator.offset for part in parts]
        zero = torch.zeros_like(next(b for b in shifts if b is not None))
        operator = Affine(operator, torch.cat([zero if b is None else b for b in shifts], 1)[0])
    mask = None
    if any(part.mask is not None for part in parts):
        full = torch.ones(parts[0].operator.range.shape, dtype=torch.float32, device=data[0].device)
        mask = torch.cat([full if part.mask is None else part.mask.to(full) for part in parts])
    return Measurement(operator, torch.cat(data, 1), GaussianNoise.per_pixel(torch.cat(deviations)), mask)
