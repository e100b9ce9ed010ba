"""Times of a cascade: steps of their own in the window of every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Wavelet
from retrodict.processes.process import Process

__all__ = ["cascade_cost", "cascade_grid"]


def cascade_grid(process: Process, steps: int | Sequence[int]) -> Tensor:
    """Times for `steps` in the window of every level of `wavelet_cascade`: one number, or coarse to fine one each.

    Within a window they are uniform in its own time, which the exponent of the process bends (2: quadratic).
    """
    each = _each(process, steps)
    edges = torch.linspace(1.0, 0.0, len(each) + 1, dtype=torch.float64, device="cpu")
    parts = [
        torch.linspace(float(a), float(b), n + 1, dtype=torch.float64, device="cpu")[:-1]
        for a, b, n in zip(edges[:-1], edges[1:], each, strict=True)
    ]
    return torch.cat([*parts, edges[-1:]])


def cascade_cost(process: Process, steps: int | Sequence[int]) -> tuple[int, float]:
    """Calls of a run of one call a step, and the same in evaluations of the whole lattice: a level costs its pixels."""
    each = _each(process, steps)
    assert isinstance(process.basis, Wavelet)
    levels = [process.basis.depth, *range(process.basis.depth, 0, -1)]
    return sum(each), sum(n * 2.0 ** (-j * process.ndim) for n, j in zip(each, levels, strict=True))


def _each(process: Process, steps: int | Sequence[int]) -> list[int]:
    recipe = process.recipe
    if recipe is None or recipe.name != "wavelet_cascade" or recipe.options.get("overlap", 0.0) != 0:
        raise InputError("steps", steps, "one number: only a cascade without overlap has steps for each level")
    assert isinstance(process.basis, Wavelet)
    count = process.basis.depth + 1
    each = [steps] * count if isinstance(steps, int) else list(steps)
    if len(each) != count or any(n < 1 for n in each):
        raise InputError("steps", steps, f"one number of at least 1, or {count}: the coarse band, then every level")
    return each
