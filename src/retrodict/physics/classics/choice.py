"""The strength of a penalty: by Morozov's discrepancy, by the corner of the L-curve, or given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from retrodict._check import InputError, choice
from retrodict.physics.classics.algebraic import tikhonov
from retrodict.physics.classics.result import Reconstruction, each_item, least_squares
from retrodict.physics.classics.variational import admm, fista
from retrodict.physics.measurement import Measurement

__all__ = ["RULES_OF_CHOICE", "choose"]

RULES_OF_CHOICE = ("morozov", "l_curve")
"""How a strength may be chosen."""

METHODS: dict[str, Callable[..., Reconstruction]] = {"tikhonov": tikhonov, "fista": fista, "admm": admm}


def choose(
    measurement: Measurement,
    *,
    method: str = "fista",
    rule: str = "morozov",
    low: float = 1e-4,
    high: float = 1e4,
    discrepancy: float = 1.0,
    accuracy: float = 0.01,
    points: int = 13,
    **options: Any,
) -> Reconstruction:
    """A reconstruction by `method` ("tikhonov", "fista", "admm") whose strength the data choose; `parameter` is it.

    "morozov": chi^2 = discrepancy^2 m, by bisection of log strength between `low` and `high` until the misfit is right
    to `accuracy` (Morozov, Soviet Math. Dokl. 7, 1966); needs a law of noise.  "l_curve": the point of largest
    curvature of (log |W (y - A x)|, log R(x)) over `points` strengths (Hansen, SIAM Rev. 34, 1992), which needs none
    and promises less.  Every item for itself; `options` go to the method.

    Raises `InputError` where the misfit is not reached between low and high.
    """
    choice("method", method, METHODS)
    choice("rule", rule, RULES_OF_CHOICE)
    if not 0 < low < high < math.inf:
        raise InputError("low, high", (low, high), "two strengths, 0 < low < high")

    def one(part: Measurement) -> Reconstruction:
        def solve(strength: float) -> Reconstruction:
            return METHODS[method](part, strength=strength, **options)

        if rule == "morozov":
            return _morozov(part, solve, low, high, discrepancy, accuracy)
        return _l_curve(part, solve, low, high, points)

    return each_item(measurement, one)


def _square(part: Measurement, found: Reconstruction) -> float:
    operator, data = least_squares(part)
    return float((data - operator.forward(found.image)).abs().double().square().sum())


def _morozov(
    part: Measurement,
    solve: Callable[[float], Reconstruction],
    low: float,
    high: float,
    discrepancy: float,
    accuracy: float,
) -> Reconstruction:
    if not (math.isfinite(discrepancy) and discrepancy > 0):
        raise InputError("discrepancy", discrepancy, "a positive number; 1 is the noise")
    aim = discrepancy**2 * part.count if part.law else 0.0
    ends = {s: _square(part, solve(s)) / aim for s in (low, high)}
    if not ends[low] <= 1 <= ends[high]:
        found = f"chi^2 over its aim of {ends[low]:.3g} at {low:g} and {ends[high]:.3g} at {high:g}"
        raise InputError("low, high", found, "at most 1 and at least 1", "Widen the range, or look at the noise.")
    while True:
        middle = math.sqrt(low * high)
        found = solve(middle)
        ratio = _square(part, found) / aim
        if abs(ratio - 1) <= accuracy or high / low < 1 + 1e-6:
            return found
        low, high = (low, middle) if ratio > 1 else (middle, high)


def _l_curve(
    part: Measurement, solve: Callable[[float], Reconstruction], low: float, high: float, points: int
) -> Reconstruction:
    if points < 5:
        raise InputError("points", points, "at least 5")
    step = (high / low) ** (1 / (points - 1))
    found = [solve(low * step**k) for k in range(points)]
    rest = [0.5 * math.log(max(_square(part, f), 1e-300)) for f in found]
    size = [math.log(max(f.penalty[0], 1e-300)) for f in found]
    curve = torch.tensor([rest, size], dtype=torch.float64, device="cpu")
    first = (curve[:, 2:] - curve[:, :-2]) / 2
    second = curve[:, 2:] - 2 * curve[:, 1:-1] + curve[:, :-2]
    bend = first[0] * second[1] - first[1] * second[0]
    bend = bend / (first.square().sum(0) ** 1.5).clamp_min(1e-300)
    return found[1 + int(bend.argmax())]
