"""Operators made of operators: scaled, summed, composed, stacked, transposed, squared, and shifted (affine)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.operator import Operator, Space, Spectral, Table

__all__ = ["Adjoint", "Affine", "Composed", "Gram", "Scaled", "Stacked", "Sum", "normalized"]


def _same(where: str, first: Space, second: Space) -> None:
    """Refuse two spaces that are not one: shape, kind of number, unit."""
    for name in ("shape", "complex", "unit"):
        a, b = getattr(first, name), getattr(second, name)
        if a != b:
            raise InputError(where, f"{name} {b!r}", f"{a!r}, as of the operator beside it")


def _linear(where: str, *operators: Operator) -> None:
    for operator in operators:
        if not operator.linear:
            hint = "Build it of the linear parts (.part) and put Affine round the whole."
            raise InputError(where, f"the affine operator {operator.name}", "linear ones", hint)


class Scaled(Operator):
    """y = factor A x, a real factor; `unit` is that of the range where the factor changes it."""

    def __init__(self, operator: Operator, factor: float, unit: str | None = None) -> None:
        _linear("Scaled", operator)
        if not math.isfinite(factor):
            raise InputError("factor", factor, "a finite number")
        self.inner, self.factor = operator, float(factor)
        self.domain = operator.domain
        self.range = replace(operator.range, unit=operator.range.unit if unit is None else unit)

    def _forward(self, x: Tensor) -> Tensor:
        return self.factor * self.inner.forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.factor * self.inner.adjoint(y)

    @property
    def about(self) -> Mapping[str, Any]:
        """That of A."""
        return self.inner.about

    @property
    def measured(self) -> Tensor | None:
        """That of A."""
        return self.inner.measured

    def spectral(self) -> Spectral | None:
        """That of A, times the factor."""
        form = self.inner.spectral()
        return None if form is None else replace(form, gain=self.factor * form.gain)


def normalized(operator: Operator) -> tuple[Operator, float]:
    """The operator over its norm, and the norm: y, its noise and the operator are to be divided by the same number."""
    norm = operator.norm()
    if norm == 0.0:
        raise InputError(operator.name, "an operator that is 0", "one with a norm above 0")
    return Scaled(operator, 1 / norm), norm


class Sum(Operator):
    """y = A x + B x + ..."""

    def __init__(self, *operators: Operator) -> None:
        _linear("Sum", *operators)
        if not operators:
            raise InputError("Sum", "no operators", "at least one")
        for other in operators[1:]:
            _same("Sum domain", operators[0].domain, other.domain)
            _same("Sum range", operators[0].range, other.range)
        self.parts = operators
        self.domain, self.range = operators[0].domain, operators[0].range

    def _forward(self, x: Tensor) -> Tensor:
        return torch.stack([a.forward(x) for a in self.parts]).sum(0)

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.stack([a.adjoint(y) for a in self.parts]).sum(0)


class Composed(Operator):
    """y = A (B x): `Composed(A, B)`; shape, kind and unit of B's range are those of A's domain."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        _linear("Composed", outer, inner)
        _same("Composed", outer.domain, inner.range)
        self.outer, self.inner = outer, inner
        self.domain, self.range = inner.domain, outer.range

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    @property
    def about(self) -> Mapping[str, Any]:
        """Those of B and A; A's word stands where both have one."""
        return {**self.inner.about, **self.outer.about}

    @property
    def measured(self) -> Tensor | None:
        """That of the outer operator."""
        return self.outer.measured

    def spectral(self) -> Spectral | None:
        """The product of the gains, where both are diagonal in one basis."""
        a, b = self.outer.spectral(), self.inner.spectral()
        if a is None or b is None or b.left is not None or a.basis != b.basis:
            return None
        return replace(a, gain=a.gain * b.gain)


class Stacked(Operator):
    """y = (A x, B x, ...), one after the other along the first axis of an item (channels, views, coils)."""

    def __init__(self, *operators: Operator) -> None:
        _linear("Stacked", *operators)
        if not operators:
            raise InputError("Stacked", "no operators", "at least one")
        first = operators[0].range
        for other in operators[1:]:
            _same("Stacked domain", operators[0].domain, other.domain)
            _same(
                "Stacked range",
                replace(first, shape=first.shape[1:]),
                replace(other.range, shape=other.range.shape[1:]),
            )
        self.parts = operators
        self.sizes = [a.range.shape[0] for a in operators]
        self.domain, self.range = operators[0].domain, replace(first, shape=(sum(self.sizes), *first.shape[1:]))

    def _forward(self, x: Tensor) -> Tensor:
        return torch.cat([a.forward(x) for a in self.parts], 1)

    def _adjoint(self, y: Tensor) -> Tensor:
        pairs = zip(self.parts, y.split(self.sizes, 1), strict=True)
        return torch.stack([a.adjoint(part) for a, part in pairs]).sum(0)


class Adjoint(Operator):
    """x = A^H y as an operator of its own."""

    def __init__(self, operator: Operator) -> None:
        _linear("Adjoint", operator)
        self.inner = operator
        self.domain, self.range = operator.range, operator.domain

    def _forward(self, x: Tensor) -> Tensor:
        return self.inner.adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner.forward(y)

    def spectral(self) -> Spectral | None:
        """The conjugate gains, where domain and range are one space."""
        form = self.inner.spectral()
        return None if form is None or form.left is not None else replace(form, gain=form.gain.conj().resolve_conj())


class Gram(Operator):
    """A^H W A without a matrix; `weight` `(*range.shape)`, real and not negative, is W's diagonal (default 1).

    With the inverse variances of the noise as the weight it is the information that y has of x.
    """

    def __init__(self, operator: Operator, weight: Tensor | None = None) -> None:
        _linear("Gram", operator)
        if weight is not None:
            if weight.is_complex() or tuple(weight.shape) != operator.range.shape:
                raise InputError("weight", f"{tuple(weight.shape)}, {weight.dtype}", f"real, {operator.range.shape}")
            if not bool((weight >= 0).all()):
                raise InputError("weight", "a negative value or NaN", "values of at least 0")
        self.inner, self.weight = operator, None if weight is None else Table(weight)
        self.domain = operator.domain
        self.range = replace(operator.domain, unit=f"({operator.range.unit})^2 / ({operator.domain.unit})")

    def _forward(self, x: Tensor) -> Tensor:
        y = self.inner.forward(x)
        return self.inner.adjoint(y if self.weight is None else self.weight(y) * y)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    def spectral(self) -> Spectral | None:
        """|gain|^2, without a weight."""
        form = self.inner.spectral()
        if form is None or self.weight is not None:
            return None
        return Spectral(form.basis, form.gain.abs() ** 2)


class Affine(Operator):
    """y = A x + b with a given b `(*range.shape)`: scatter, randoms, airlight, or A of a known part of x.

    `part` is A and `offset` is b; `adjoint`, `gram`, `norm` and `spectral` are those of A, because y - b = A x.
    """

    linear: ClassVar[bool] = False

    def __init__(self, operator: Operator, offset: Tensor) -> None:
        _linear("Affine", operator)
        if tuple(offset.shape) != operator.range.shape or offset.is_complex() != operator.range.complex:
            kind = "complex" if operator.range.complex else "real"
            raise InputError("offset", f"{tuple(offset.shape)}, {offset.dtype}", f"{operator.range.shape}, {kind}")
        if not bool(torch.isfinite(torch.view_as_real(offset) if offset.is_complex() else offset).all()):
            raise InputError("offset", "NaN or infinity", "finite numbers")
        self.inner, self._offset = operator, Table(offset[None])
        self.domain, self.range = operator.domain, operator.range

    def _forward(self, x: Tensor) -> Tensor:
        y = self.inner.forward(x)
        return y + self._offset(y)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(y)

    @property
    def part(self) -> Operator:
        """A."""
        return self.inner

    @property
    def offset(self) -> Tensor:
        """The constant b `(1, *range.shape)`, float64 or complex128."""
        return self._offset.values

    @property
    def measured(self) -> Tensor | None:
        """That of A, where b is 0 as well."""
        inner = self.inner.measured
        return None if inner is None else torch.maximum(inner, (self._offset.values[0] != 0).double())

    @property
    def about(self) -> Mapping[str, Any]:
        """That of A."""
        return self.inner.about

    def pinv(self, y: Tensor, floor: float = 1e-3) -> Tensor:
        """A^+ (y - b)."""
        return self.inner.pinv(y - self._offset(y), floor)

    @staticmethod
    def rescaled(operator: Operator, scale: float, shift: float, unit: str) -> Affine:
        """The operator A (scale x + shift): an image in another unit, such as that of a model, folded in once."""
        _linear("Affine.rescaled", operator)
        dtype = torch.complex128 if operator.domain.complex else torch.float64
        constant = torch.full((1, *operator.domain.shape), shift, dtype=dtype, device="cpu")
        affine = Affine(Scaled(operator, scale), operator.forward(constant)[0])
        affine.domain = affine.inner.domain = replace(operator.domain, unit=unit)
        return affine
