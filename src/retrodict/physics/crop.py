"""A part of a larger image: what an operator sees of a grid that a network or a border asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.operator import Operator, Space

__all__ = ["Crop"]


class Crop(Operator):
    """y = the pixels `before[a] ... before[a] + size[a] - 1` along every axis of the images of `domain`.

    `A @ Crop(...)` measures a part of a larger image; what lies around it is not measured.  The adjoint puts zeros
    there.  Raises `InputError` for a part that is not inside.
    """

    def __init__(self, domain: Space, before: Sequence[int], size: Sequence[int]) -> None:
        around = domain.shape[1:]
        fits = len(before) == len(size) == len(around)
        if not fits or any(b < 0 or n < 1 or b + n > m for b, n, m in zip(before, size, around, strict=False)):
            raise InputError("Crop", f"{tuple(size)} pixels from {tuple(before)}", f"a part of {around} pixels")
        self.domain, self.before = domain, tuple(before)
        self.range = replace(domain, shape=(domain.shape[0], *size))

    def _forward(self, x: Tensor) -> Tensor:
        return x[(..., *(slice(b, b + n) for b, n in zip(self.before, self.range.shape[1:], strict=True)))]

    def _adjoint(self, y: Tensor) -> Tensor:
        pads = []
        for b, n, m in zip(self.before, self.range.shape[1:], self.domain.shape[1:], strict=True):
            pads = [b, m - b - n, *pads]
        return F.pad(y, pads)
