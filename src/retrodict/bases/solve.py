"""Conjugate gradients for operators that no basis makes diagonal: a cropped image, or noise of uneven strength."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Solution", "conjugate_gradients"]

DELAY = 4
"""Rounds over which the error is estimated."""


class Solution(NamedTuple):
    """The answer `x`, the residual that is `left` over the first (in the norm of `guess`), the `rounds` it took, and an
    estimate of its relative `error`, |x - exact| / |exact| in the norm of the operator.

    The estimate is that of Hestenes and Stiefel (1952; Strakos and Tichy, ETNA 13, 2002): |x_k - exact|^2 is the sum of
    length_j <r_j, z_j> over all rounds j >= k, of which the last ones are known.  It is a lower bound of the error
    `DELAY` rounds ago, and as the error falls in every round mostly above the one of now.  After a single round it is
    `left`.
    """

    x: Tensor
    left: float
    rounds: int
    error: float = math.inf


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor],
    guess: Callable[[Tensor], Tensor],
    rest: Tensor,
    tolerance: float = 1e-6,
    rounds: int = 300,
    refresh: int = 0,
) -> Solution:
    """Solve operator(x) = rest for one item, both maps Hermitian and positive; `guess` is nearly the inverse.

    Preconditioned conjugate gradients (Hestenes and Stiefel, J. Res. NBS 49, 1952), until the residual is `tolerance`
    of the first or `rounds` are over: whoever asks looks at `left`.  `refresh`: every so many rounds the residual is
    computed anew instead of updated (0: never).
    """
    answer, residual = torch.zeros_like(rest), rest
    step = z = guess(residual)
    size = first = _dot(residual, z)
    done, gains = 0, []
    while done < rounds and first != 0 and size > tolerance**2 * first:
        image = operator(step)
        length = size / _dot(step, image)
        answer = answer + length * step
        again = refresh and (done + 1) % refresh == 0
        residual = rest - operator(answer) if again else residual - length * image
        gains.append(length * size)
        z = guess(residual)
        after = _dot(residual, z)
        step, size = z + (after / size) * step, after
        done += 1
    left = math.sqrt(max(size, 0.0) / first) if first else 0.0
    return Solution(answer, left, done, left if len(gains) < 2 else _error(gains))


def _error(gains: list[float]) -> float:
    """Relative error of the answer some rounds ago, by what the rounds since have gained."""
    delay = min(DELAY, len(gains) - 1)
    return math.sqrt(max(sum(gains[-delay:]), 0.0) / max(sum(gains), 1e-300))


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.conj() * b).real.detach().sum())
