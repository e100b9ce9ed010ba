"""Taps of wavelet filters, each from the roots of its half-band polynomial; none is a copied table.

An orthonormal low-pass filter of p vanishing moments is (1 + z)^p times one of z, 1/z for every root of

    P(y) = sum_{k < p} C(p - 1 + k, k) y^k ,      y = (2 - z - 1/z) / 4        (Daubechies 1988, eqs. 4.8-4.12).

All inside the unit circle: Daubechies' filters "db1" to "db8" ("haar" is "db1").  A choice of some outside, nearer to
linear phase: the symlets "sym4" to "sym8" (Daubechies 1992, section 8.1.1).  A biorthogonal pair shares the roots, both
of z and 1/z, between the two filters (Cohen, Daubechies, Feauveau 1992).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError, choice

__all__ = ["BIORTHOGONAL", "FAMILIES", "Pair", "daubechies", "pair", "taps"]

_OUTSIDE = {"sym4": (1,), "sym5": (0,), "sym6": (0, 2), "sym7": (0,), "sym8": (1, 3)}
"""Roots y of P, ordered by their real part, of which z is taken outside the unit circle: the choice under the names of
PyWavelets."""

FAMILIES: dict[str, int] = {
    "haar": 1,
    **{f"db{p}": p for p in range(1, 9)},
    **{f"sym{p}": p for p in range(4, 9)},
}
"""Orthonormal families and their vanishing moments; a filter has twice as many taps."""

BIORTHOGONAL: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "bior2.2": (2, 2, ()),
    "bior3.3": (3, 3, ()),
    "bior4.4": (4, 4, (0,)),
    "bior6.8": (6, 8, (1,)),
}
"""Zeros at z = -1 of synthesis and analysis, and the roots y of P (by real part) that the synthesis filter has."""


class Pair(NamedTuple):
    """Low-pass filters `(F,)` float64, F even, sum sqrt(2): analysis `a[n] = sum_m down[m] x[2n + 1 - m]`, synthesis
    `x[m] = sum_n up[m + F - 2 - 2n] a[n]`.
    """

    down: Tensor
    up: Tensor


def _roots(moments: int) -> list[complex]:
    """Roots y of P, one of every conjugate pair, by real part."""
    if moments == 1:
        return []
    every = np.roots([math.comb(moments - 1 + k, k) for k in range(moments)][::-1])
    return sorted((complex(y) for y in every if y.imag > -1e-9), key=lambda y: y.real)


def _zeros(y: complex, *, outside: bool) -> list[complex]:
    """Z (and its conjugate, where y is not real) of a root y, inside or outside the unit circle."""
    z = min((complex(z) for z in np.roots([1.0, 4.0 * y - 2.0, 1.0])), key=abs)
    z = 1 / z if outside else z
    return [z] if abs(y.imag) < 1e-9 else [z, z.conjugate()]


def _polynomial(at_minus_one: int, zeros: list[complex]) -> Tensor:
    """Coefficients of (1 + z)^n prod (z - z_k), their sum sqrt(2)."""
    values = np.real(np.poly(np.array([*[-1.0] * at_minus_one, *zeros], dtype=complex)))
    return torch.from_numpy(values * (math.sqrt(2.0) / values.sum()))


@lru_cache(maxsize=64)
def taps(family: str) -> Tensor:
    """Low-pass synthesis taps `(2 p,)` float64 of an orthonormal family: unit norm, sum sqrt(2), p vanishing moments.

    In the order of PyWavelets' `rec_lo`, to the last digits.  Raises `InputError` for a name that is none of FAMILIES.
    """
    choice("wavelet family", family, FAMILIES)
    outside = _OUTSIDE.get(family, ())
    zeros = [z for i, y in enumerate(_roots(FAMILIES[family])) for z in _zeros(y, outside=i in outside)]
    return _polynomial(FAMILIES[family], zeros)


def daubechies(moments: int) -> Tensor:
    """Taps `(2 * moments,)` float64 of Daubechies' filter with 1 to 8 vanishing moments."""
    return taps(f"db{moments}")


@lru_cache(maxsize=64)
def pair(family: str) -> Pair:
    """Low-pass filters of analysis and synthesis of an orthonormal or biorthogonal family, both of one even length.

    Raises `InputError` for an unknown name.
    """
    if family in FAMILIES:
        own = taps(family)
        return Pair(own.flip(0), own)
    if family not in BIORTHOGONAL:
        raise InputError("wavelet family", family, f"one of {', '.join([*FAMILIES, *BIORTHOGONAL])}")
    up, down, shared = BIORTHOGONAL[family]
    parts: tuple[list[complex], list[complex]] = ([], [])
    for i, y in enumerate(_roots((up + down) // 2)):
        parts[i in shared].extend(_zeros(y, outside=False) + _zeros(y, outside=True))
    analysis, synthesis = _polynomial(down, parts[0]), _polynomial(up, parts[1])
    length = max(len(analysis), len(synthesis))
    length += length % 2
    # the middle of analysis at F/2, that of synthesis one before it (for odd lengths; even ones stand symmetrically)
    return Pair(_placed(analysis, length, length // 2), _placed(synthesis, length, length // 2 - 1))


def _placed(values: Tensor, length: int, middle: int) -> Tensor:
    first = middle - len(values) // 2 if len(values) % 2 else (length - len(values)) // 2
    out = torch.zeros(length, dtype=torch.float64, device="cpu")
    out[first : first + len(values)] = values
    return out
