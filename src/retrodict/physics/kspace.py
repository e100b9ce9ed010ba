"""Which lines of k-space are measured: families of masks, with what was realized."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import key

__all__ = ["MASKS", "Sampling", "sampling"]


@dataclass(frozen=True)
class Sampling:
    """A mask of k-space `(*N)`, true where it was measured, zero frequency at N // 2; and how it came about.

    `about` has the family, what was asked (acceleration R, share of the center) and what was realized: the number of
    measured samples and `acceleration`, all samples over the measured ones.
    """

    mask: Tensor
    about: dict[str, Any]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(key(seed, "k-space"))


def _drawn(weights: Tensor, count: int, seed: int) -> Tensor:
    """Indices of `count` different entries, drawn one after the other by weight, without replacement."""
    if count <= 0:
        return torch.zeros(0, dtype=torch.int64, device="cpu")
    return torch.multinomial(weights, count, replacement=False, generator=_generator(seed))


def _line(n: int, chosen: Tensor, center: Tensor) -> Tensor:
    lines = center.clone()
    lines[chosen] = True
    return lines


def _equispaced(n: int, asked: float, center: Tensor, seed: int) -> Tensor:
    """Lines a apart outside the center, a chosen so that all lines are about n / R (Zbontar et al., fastMRI, 2018)."""
    held = int(center.sum())
    if held * asked >= n:
        return center
    step = asked * (held - n) / (held * asked - n)
    start = int(torch.randint(max(1, round(step)), (1,), generator=_generator(seed), device="cpu"))
    at = torch.arange(start, n - 1 + 1e-9, step, dtype=torch.float64, device="cpu").round().long()
    return _line(n, at, center)


def _random(n: int, asked: float, center: Tensor, seed: int) -> Tensor:
    """floor(n / R) lines in all: the center, and others drawn evenly without replacement."""
    return _line(n, _drawn((~center).double(), int(n / asked) - int(center.sum()), seed), center)


def _gaussian(n: int, asked: float, center: Tensor, seed: int) -> Tensor:
    """As random, by the weight exp(-(k - n/2)^2 / (2 (15 n / 128)^2))."""
    k = torch.arange(n, dtype=torch.float64, device="cpu") - n // 2
    weights = torch.exp(-0.5 * (k / (15 * n / 128)) ** 2) * ~center
    wanted = min(int(n / asked) - int(center.sum()), int((weights > 0).sum()))
    return _line(n, _drawn(weights, wanted, seed), center)


MASKS: dict[str, Callable[[int, float, Tensor, int], Tensor]] = {
    "equispaced": _equispaced,
    "random": _random,
    "gaussian": _gaussian,
}
"""Families of lines along the last axis of k-space."""


def sampling(family: str, size: Sequence[int], acceleration: float, *, center: float = 0.08, seed: int = 0) -> Sampling:
    """A mask of whole lines along the last axis of k-space `size`, of a family of `MASKS`.

    `acceleration` R asks for every R-th line in all; round(center n) lines in the middle are always measured.  What
    was realized is in `Sampling.about`.  No line is drawn twice.
    """
    choice("family", family, MASKS)
    n = size[-1]
    if not (math.isfinite(acceleration) and 1 <= acceleration <= n):
        raise InputError("acceleration", acceleration, f"a number from 1 to the {n} lines")
    held = round(center * n)
    if not (0 <= center <= 1) or (family != "equispaced" and held > int(n / acceleration)):
        found = f"{held} lines, at acceleration {acceleration:g}"
        raise InputError(
            "center", found, f"a share whose lines are at most the {int(n / acceleration)} that are measured"
        )
    middle = torch.zeros(n, dtype=torch.bool, device="cpu")
    middle[n // 2 - held // 2 : n // 2 - held // 2 + held] = True
    lines = MASKS[family](n, float(acceleration), middle, seed)
    about = {
        "family": family,
        "asked": float(acceleration),
        "center": held,
        "lines": int(lines.sum()),
        "acceleration": n / max(1, int(lines.sum())),
    }
    return Sampling(lines.expand(*size).clone(), about)
