"""What an operator of physics is: spaces with units, forward and adjoint, norm, spectral form and pseudo-inverse."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.bases import Basis

__all__ = ["Operator", "Space", "Spectral", "Table", "adjoint_error", "check_adjoint", "inner", "scaled_by"]

ADJOINT = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Largest relative error of an adjoint, by precision."""


@dataclass(frozen=True)
class Space:
    """What the arrays of one side of an operator are.

    `shape` is that of one item, channels first: `(C, *N)`; tensors are batches `(B, *shape)`.  `unit` is that of
    the values ("1/mm", "1", "HU"), `complex` says that they are complex, `spacing` is the distance between samples in
    mm along the last axes (empty where an axis is no distance).  The precision is that of the tensors that come.
    """

    shape: tuple[int, ...]
    unit: str = "1"
    complex: bool = False
    spacing: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a shape that is none."""
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "spacing", tuple(float(d) for d in self.spacing))
        if not self.shape or any(n < 1 for n in self.shape):
            raise InputError("Space shape", self.shape, "positive integers, channels first")
        if not all(math.isfinite(d) and d > 0 for d in self.spacing):
            raise InputError("Space spacing", self.spacing, "positive numbers in mm")

    @property
    def count(self) -> int:
        """Number of real scalars of one item."""
        return math.prod(self.shape) * (2 if self.complex else 1)

    def check(self, x: Tensor, where: str) -> Tensor:
        """Return x if it is a batch `(B, *shape)` of this space; otherwise raise an `InputError` about `where`."""
        expected = f"(B, {', '.join(map(str, self.shape))}), {'complex' if self.complex else 'real'}"
        if not isinstance(x, Tensor):
            raise InputError(where, type(x).__name__, f"a tensor {expected}")
        if tuple(x.shape[1:]) != self.shape or x.ndim != len(self.shape) + 1:
            hint = "One item is x[None]." if tuple(x.shape) == self.shape else ""
            raise InputError(where, f"a tensor of shape {tuple(x.shape)}", expected, hint)
        if x.is_complex() != self.complex:
            raise InputError(where, f"{'complex' if x.is_complex() else 'real'} values ({x.dtype})", expected)
        if x.dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
            raise InputError(where, f"values of {x.dtype}", "32 or 64 bits for each real number")
        return x

    def white(self, seed: int, stream: str, step: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """One item `(1, *shape)` of unit white noise per real component; `dtype` is that of the real numbers."""
        parts = [white([seed], f"{stream}-{part}", step, self.shape).to(dtype) for part in range(1 + self.complex)]
        return torch.complex(*parts) if self.complex else parts[0]


@dataclass(frozen=True)
class Spectral:
    """A = L diag(gain) B, with B an orthonormal basis of the domain and L an isometry into the range.

    `gain` `(*K)`, float64 or complex128: |gain| are the singular values, each as often as `basis.multiplicity()` says.
    `left` maps coefficients into the range and `left_adjoint` back; None is the basis itself (range = domain).
    """

    basis: Basis
    gain: Tensor
    left: Callable[[Tensor], Tensor] | None = None
    left_adjoint: Callable[[Tensor], Tensor] | None = None

    def to_range(self, u: Tensor) -> Tensor:
        """L u: coefficients `(..., *K)` as an element of the range."""
        return (self.left or self.basis.inverse)(u)

    def from_range(self, y: Tensor) -> Tensor:
        """L^H y: the coefficients of a measurement."""
        return (self.left_adjoint or self.basis.forward)(y)

    @property
    def norm(self) -> float:
        """Largest singular value."""
        return float(self.gain.abs().max())


class Table:
    """A constant of an operator, float64 or complex128, in the precision and on the device of what it meets."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.detach().to(torch.complex128 if values.is_complex() else torch.float64)
        self._casts: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __call__(self, like: Tensor) -> Tensor:
        """The constant beside `like`; each cast is made once."""
        double = like.dtype in (torch.float64, torch.complex128)
        if self.values.is_complex():
            dtype = torch.complex128 if double else torch.complex64
        else:
            dtype = torch.float64 if double else torch.float32
        key = (dtype, like.device)
        if key not in self._casts:
            self._casts[key] = self.values.to(dtype=dtype, device=like.device)
        return self._casts[key]


class Operator(ABC):
    """A map from `domain` to `range`, item by item, with its exact adjoint.

    Adjoint means <A x, y> = <x, A^H y> in the real inner product Re sum conj(a) b, for real and complex spaces alike.
    A subclass sets `domain` and `range` and writes `_forward` and `_adjoint`; `spectral` where there is a basis that
    makes it diagonal.  Everything is a function of the item: a batch never changes what an item gives.  Operators are
    not changed once they are made.
    """

    domain: Space
    range: Space
    linear: ClassVar[bool] = True

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        """`(B, *domain.shape)` to `(B, *range.shape)`, in the precision and on the device of x.

        Raises `InputError` for another shape, or real values where complex ones belong and the reverse.
        """
        return self._forward(self.domain.check(x, f"{self.name}.forward"))

    def adjoint(self, y: Tensor) -> Tensor:
        """`(B, *range.shape)` to `(B, *domain.shape)`: A^H y.  Of an affine operator, that of its linear part."""
        return self._adjoint(self.range.check(y, f"{self.name}.adjoint"))

    def __call__(self, x: Tensor) -> Tensor:
        """`forward`."""
        return self.forward(x)

    def __matmul__(self, other: Operator) -> Operator:
        """A @ B: first B, then A."""
        from retrodict.physics.algebra import Composed

        return Composed(self, other)

    def gram(self, x: Tensor) -> Tensor:
        """A^H A x of the linear part."""
        return self.part.adjoint(self.part.forward(x))

    @property
    def name(self) -> str:
        """The word for it in sentences."""
        return type(self).__name__

    @property
    def about(self) -> Mapping[str, Any]:
        """What was realized and belongs into a record: acceleration, number of views, widths; JSON types."""
        return {}

    @property
    def measured(self) -> Tensor | None:
        """1 where the range holds a measurement and 0 where it is always 0, `(*range.shape)`; None: everywhere."""
        return None

    @property
    def part(self) -> Operator:
        """The linear part: itself, unless the operator is affine."""
        return self

    @property
    def offset(self) -> Tensor | None:
        """What an affine operator adds, `(1, *range.shape)` float64; None of a linear one."""
        return None

    def spectral(self) -> Spectral | None:
        """The operator as element-wise numbers in a basis, or None where there is no such basis."""
        return None

    def pinv(self, y: Tensor, floor: float = 1e-3) -> Tensor:
        """Pseudo-inverse A^+ y `(B, *domain.shape)`; singular values below `floor` times the largest count as 0.

        Raises `InputError` where the operator has none in closed form.
        """
        form = self.spectral()
        if form is None:
            hint = "Solve the least-squares problem with forward and adjoint instead."
            raise InputError(f"{self.name}.pinv", "an operator without a closed pseudo-inverse", "one with it", hint)
        self.range.check(y, f"{self.name}.pinv")
        gain = form.gain
        known = gain.abs() > floor * gain.abs().max()
        inverse = torch.where(known, gain.conj() / torch.where(known, gain.abs() ** 2, 1.0), 0.0)
        u = form.from_range(y)
        return form.basis.inverse(scaled_by(inverse, u))

    def norm(
        self, *, seed: int = 0, tolerance: float = 1e-7, rounds: int = 2000, dtype: torch.dtype = torch.float64
    ) -> float:
        """Largest singular value of the linear part.

        The largest |gain| where there is a spectral form; otherwise by the power method on A^H A from noise of its
        own `seed`, until the estimate moves by less than `tolerance` a round.  It comes from below.  Computed once.
        `dtype` float32 spares a large operator its tables in float64.
        """
        key = (seed, tolerance, rounds, dtype)
        if key not in self._norms:
            form = self.part.spectral()
            self._norms[key] = form.norm if form is not None else _power(self.part, *key)
        return self._norms[key]

    @cached_property
    def _norms(self) -> dict[tuple[int, float, int, torch.dtype], float]:
        return {}


def scaled_by(gain: Tensor, u: Tensor) -> Tensor:
    """Element-wise product in the precision of u."""
    if not gain.is_complex():
        real = {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(u.dtype, u.dtype)
        return gain.to(dtype=real, device=u.device) * u
    whole = torch.complex128 if u.dtype in (torch.float64, torch.complex128) else torch.complex64
    return gain.to(dtype=whole, device=u.device) * u


def _power(operator: Operator, seed: int, tolerance: float, rounds: int, dtype: torch.dtype) -> float:
    x = operator.domain.white(seed, "operator-norm", dtype=dtype)
    value, tolerance = 0.0, max(tolerance, 4 * torch.finfo(dtype).eps)
    for _ in range(rounds):
        x = x / torch.linalg.vector_norm(x)
        x = operator.adjoint(operator.forward(x))
        last, value = value, float(torch.linalg.vector_norm(x))
        if value == 0.0 or abs(value - last) <= tolerance * value:
            break
    return math.sqrt(value)


# ---- the adjoint test ------------------------------------------------------------------------------------------------


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Re sum conj(a) b of each item, `(B,)` float64."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    product = (a.to(wide).conj() * b.to(wide)).real
    return product.flatten(1).sum(1)


def _structured(space: Space) -> list[Tensor]:
    """A constant, single samples in the corners and the middle, alternating signs, and a ramp; float64."""
    n = math.prod(space.shape)
    at = torch.arange(n, dtype=torch.float64, device="cpu")
    flat = [torch.ones_like(at), 1 - 2 * (at % 2), at / n]
    flat += [(at == k).double() for k in sorted({0, n // 2, n - 1})]
    items = [v.reshape(1, *space.shape) for v in flat]
    return [torch.complex(v, -0.5 * v.flip(-1)) for v in items] if space.complex else items


def adjoint_error(
    operator: Operator, *, seed: int = 0, pairs: int = 5, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> float:
    """Largest |<A u, v> - <u, A^H v>| / max(|A u| |v|, |u| |A^H v|) over random and structured pairs (u, v).

    `pairs` random ones, each structured u with a random v and the reverse; and v = A u of a random and of a constant u,
    which show a wrong scale in full.  A pair with A u = 0 and A^H v = 0 counts 0.
    """
    part = operator.part
    u = [part.domain.white(seed, "adjoint-u", i) for i in range(pairs)]
    v = [part.range.white(seed, "adjoint-v", i) for i in range(pairs)]
    tests = list(zip(u, v, strict=True))
    tests += [(s, v[i % pairs]) for i, s in enumerate(_structured(part.domain))]
    tests += [(u[i % pairs], s) for i, s in enumerate(_structured(part.range))]
    tests += [(s, part.forward(_cast(s, dtype, device))) for s in (u[0], _structured(part.domain)[0])]
    errors = [_error(part, _cast(a, dtype, device), _cast(b, dtype, device)) for a, b in tests]
    return max(errors, key=lambda e: math.inf if math.isnan(e) else e)


def _cast(x: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    """One test vector in the precision and place of the test."""
    whole = {torch.float32: torch.complex64, torch.float64: torch.complex128}[dtype] if x.is_complex() else dtype
    return x.to(dtype=whole, device=device)


def _error(operator: Operator, u: Tensor, v: Tensor) -> float:
    image, back = operator.forward(u), operator.adjoint(v)
    scale = torch.maximum(inner(image, image) * inner(v, v), inner(u, u) * inner(back, back)).sqrt()
    gap = (inner(image, v) - inner(u, back)).abs()
    return float(torch.where(scale == 0, 0.0, gap / scale).max())


def check_adjoint(
    operator: Operator, *, seed: int = 0, pairs: int = 5, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> float:
    """`adjoint_error`, if it is within 1e-12 (float64) or 1e-5 (float32).

    Raises `InputError` with the figure for an operator whose adjoint is not its adjoint: a solver or sampler that uses
    it would converge to something else.
    """
    error = adjoint_error(operator, seed=seed, pairs=pairs, dtype=dtype, device=device)
    if not error <= ADJOINT[dtype]:
        found = f"an adjoint that is off by {error:.2g} of <A u, v>"
        hint = "Scale, flips, conjugation and boundaries of adjoint have to be those of forward, transposed."
        raise InputError(operator.name, found, f"at most {ADJOINT[dtype]:.0e}", hint)
    return error
