"""Conjugate gradients for operators that no basis makes diagonal: a cropped image, or noise of uneven strength."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Solution", "conjugate_gradients"]


class Solution(NamedTuple):
    """The answer `x`, the residual that is `left` over the first (in the norm of `guess`), and the rounds it took."""

    x: Tensor
    left: float
    rounds: int


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor],
    guess: Callable[[Tensor], Tensor],
    rest: Tensor,
    tolerance: float = 1e-6,
    rounds: int = 300,
) -> Solution:
    """Solve operator(x) = rest for one item, both maps Hermitian and positive; `guess` is nearly the inverse.

    Preconditioned conjugate gradients (Hestenes and Stiefel, J. Res. NBS 49, 1952), until the residual is `tolerance`
    of the first or `rounds` are over: whoever asks looks at `left`.
    """
    answer, residual = torch.zeros_like(rest), rest
    step = z = guess(residual)
    size = first = _dot(residual, z)
    done = 0
    while done < rounds and first != 0 and size > tolerance**2 * first:
        image = operator(step)
        length = size / _dot(step, image)
        answer, residual = answer + length * step, residual - length * image
        z = guess(residual)
        after = _dot(residual, z)
        step, size = z + (after / size) * step, after
        done += 1
    return Solution(answer, math.sqrt(max(size, 0.0) / first) if first else 0.0, done)


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.conj() * b).real.sum())
