"""The part of an operator that some of its views measure, through shifts, weights and factors."""

from __future__ import annotations

from collections.abc import Sequence

from retrodict._check import InputError
from retrodict.physics.algebra import Affine, Composed, Scaled
from retrodict.physics.diagonal import Diagonal
from retrodict.physics.operator import Operator
from retrodict.physics.projection import Projection
from retrodict.physics.radon import Radon

__all__ = ["some_views", "tomograph", "views_of"]


def views_of(operator: Operator) -> int:
    """Number of views of a tomograph; `InputError` for an operator that has none."""
    return tomograph(operator).geometry.views


def tomograph(operator: Operator) -> Radon | Projection:
    """The projector within weights, factors and shifts; `InputError` for an operator that has none."""
    inner = operator
    while not isinstance(inner, Radon | Projection):
        if isinstance(inner, Affine | Scaled) or (isinstance(inner, Composed) and isinstance(inner.outer, Diagonal)):
            inner = inner.inner
        else:
            expected = "Radon or Projection, also weighted, scaled or shifted"
            raise InputError("operator", f"{operator.name}, which has no views", expected)
    return inner


def some_views(operator: Operator, views: Sequence[int]) -> Operator:
    """The operator of these views, in this order: rows `views` of the data, axis 1 of an item."""
    views_of(operator)
    index = list(views)
    if isinstance(operator, Affine):
        return Affine(some_views(operator.inner, index), operator.offset[0][:, index])
    if isinstance(operator, Scaled):
        return Scaled(some_views(operator.inner, index), operator.factor, operator.range.unit)
    if isinstance(operator, Composed):
        outer, inner = operator.outer, some_views(operator.inner, index)
        assert isinstance(outer, Diagonal)
        d = outer.domain
        options = {"channels": d.shape[0], "unit": d.unit, "out_unit": outer.range.unit, "spacing": d.spacing}
        return Composed(Diagonal(outer.weights[index], **options), inner)
    assert isinstance(operator, Radon | Projection)
    return operator.subset(index)
