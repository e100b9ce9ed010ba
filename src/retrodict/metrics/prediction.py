"""What the next of several numbers may be: prediction intervals, and how surprising a number is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from retrodict._check import InputError

__all__ = ["Prediction", "student_quantile", "student_tail"]


@dataclass(frozen=True)
class Prediction:
    """The law of a number to come: center + scale T, T Student with `dof` degrees of freedom (inf: normal).

    `slack` widens it by a range of centers that cannot be told apart: the number is compared with the nearest.
    `upper`: only large numbers speak against it.  No unit is assumed; `scale` and `slack` are in that of the center.
    """

    center: float
    scale: float
    dof: float = math.inf
    slack: float = 0.0
    upper: bool = False

    def p_value(self, value: float) -> float:
        """Probability of a number as far from the center as `value`, on both sides or on the upper one."""
        if math.isnan(value):
            raise InputError("value", value, "a number")
        off = value - self.center
        if self.upper:
            return student_tail((off - self.slack) / self.scale, self.dof)
        return min(1.0, 2 * student_tail((abs(off) - self.slack) / self.scale, self.dof))

    def interval(self, level: float) -> tuple[float, float]:
        """The numbers whose `p_value` is at least `level`."""
        reach = self.slack + self.scale * student_quantile(level if self.upper else level / 2, self.dof)
        return (-math.inf if self.upper else self.center - reach), self.center + reach


def student_tail(t: float, dof: float) -> float:
    """P(T > t) for Student's T with `dof` degrees of freedom (inf: the normal law).

    With t = sqrt(dof) tan(a) the density in a is proportional to cos(a)^(dof - 1) on (-pi/2, pi/2).
    """
    if not dof > 0:
        raise InputError("dof", dof, "a number above 0")
    if dof > 1e6 or math.isinf(t):
        return 0.5 * math.erfc(t / math.sqrt(2))
    if t < 0:
        return 1 - student_tail(-t, dof)
    log_norm = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(math.pi)
    start = math.atan(t / math.sqrt(dof))
    # the density falls like a Gaussian of width 1 / sqrt(dof)
    nodes, weights = _gauss()
    end = min(math.pi / 2, start + 12 / math.sqrt(dof))
    angle = start + (nodes + 1) / 2 * (end - start)
    density = np.exp((dof - 1) * np.log(np.cos(angle)))
    return min(1.0, float(weights @ density) * (end - start) / 2 * math.exp(log_norm))


@cache
def _gauss() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss and Legendre; finding them takes far longer than using them."""
    return np.polynomial.legendre.leggauss(200)


@lru_cache(maxsize=256)
def student_quantile(tail: float, dof: float) -> float:
    """T with P(T > t) = tail, by bisection to 1e-12 of its size."""
    if not 0 < tail < 1:
        raise InputError("tail", tail, "a probability between 0 and 1")
    if tail > 0.5:
        return -student_quantile(1 - tail, dof)
    low, high = 0.0, 1.0
    while student_tail(high, dof) > tail:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, dof) > tail else (low, middle)
    return (low + high) / 2
