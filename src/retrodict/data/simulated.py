"""Simulated slices of bodies, to train on and to try things with where there are no images at hand."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from retrodict._random import uniform, white
from retrodict.data.image import Image

__all__ = ["ellipses"]


TISSUES = (-850.0, -700.0, -100.0, -80.0, 0.0, 20.0, 40.0, 60.0, 90.0, 250.0, 600.0, 900.0)
"""HU of what lies in a body: lung, fat, water, soft tissue with and without contrast agent, bone."""

OVERSAMPLING = 3  # along each axis, so that the rims of ellipses cover parts of pixels as anatomy does


def ellipses(seed: int, side: int = 128, spacing: float = 1.0) -> Image:
    """One slice (side, side) in HU, pixels of `spacing` mm: an oval body in air with some twenty ellipses in it.

    Shapes and values are drawn from `seed`.  Each ellipse has a texture of its own (noise of a few HU, correlated over
    about three pixels) so that the power spectrum falls as that of tissue does, and not only as that of edges.
    """
    draws = iter(uniform(range(200), "ellipses", seed).tolist())

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(draws)

    fine = side * OVERSAMPLING
    axis = (torch.arange(fine, dtype=torch.float64, device="cpu") + 0.5) / fine * 2 - 1
    y, x = axis[:, None], axis[None, :]
    values = torch.full((fine, fine), -1000.0, dtype=torch.float64, device="cpu")
    height, width = between(0.6, 0.8), between(0.75, 0.93)
    body = _inside(y, x, 0.0, 0.0, height, width, between(-0.2, 0.2))
    values[body] = -100.0  # fat under the skin
    values[_inside(y, x, 0.0, 0.0, 0.92 * height, 0.92 * width, 0.0) & body] = 45.0
    for _ in range(20):
        size = 0.35 * between(0.15, 1.0) ** 2 + 0.02
        place = between(-0.75, 0.75) * height, between(-0.75, 0.75) * width
        shape = _inside(y, x, *place, size, size * between(0.5, 2.0), between(0.0, math.pi))
        values[shape & body] = TISSUES[int(between(0, len(TISSUES)))] + between(-15.0, 15.0)
    image = torch.nn.functional.avg_pool2d(values[None, None], OVERSAMPLING)[0, 0]
    texture = _texture(seed, side) * (image > -900)
    image = (image + texture).clamp(-1000.0, 3000.0).float()
    return Image(image[None], "HU", (spacing, spacing), "simulated", (Path(f"simulated-{seed}"),))


def _inside(y: Tensor, x: Tensor, cy: float, cx: float, ry: float, rx: float, angle: float) -> Tensor:
    across, down = x - cx, y - cy
    u = across * math.cos(angle) + down * math.sin(angle)
    v = down * math.cos(angle) - across * math.sin(angle)
    return (u / rx) ** 2 + (v / ry) ** 2 <= 1


def _texture(seed: int, side: int) -> Tensor:
    """Smooth noise of 8 HU rms."""
    noise = white([seed], "ellipses-texture", 0, (1, 1, side + 4, side + 4))[0].double()
    smooth = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(noise, 3, stride=1), 3, stride=1)[0, 0]
    return 8.0 * smooth / smooth.std()
