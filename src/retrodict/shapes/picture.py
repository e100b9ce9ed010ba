"""Pictures of shapes: parallel rays through a signed distance to its first surface, shaded by the normal there."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch

from retrodict._check import InputError
from retrodict.shapes.volume import Volume

__all__ = ["rendered", "shape_sheet"]

LIGHT = (-0.45, -0.6, -0.66)
"""Where light comes from, in the axes of the picture: down, right, away from the eye."""

COLOR = (0.42, 0.60, 0.80)
"""Of a surface that faces the light."""


def rendered(volume: Volume, pixels: int = 128, azimuth: float = 35.0, elevation: float = 25.0) -> np.ndarray:
    """Picture `(pixels, pixels, 3)` uint8 of the surface, white around it; the first axis of the volume points down.

    azimuth, elevation: of the eye, degrees.
    """
    turn, side = _view(azimuth, elevation), max(n * s for n, s in zip(volume.values.shape, volume.spacing, strict=True))
    across = ((np.arange(pixels) + 0.5) / pixels - 0.5) * side
    depth = np.arange(-0.87, 0.87, 0.7 / max(volume.values.shape)) * side
    down, right, away = np.meshgrid(across, across, depth, indexing="ij")
    # a rim of outside, as `surface` has it: what reaches the edge of the grid does not go on beyond it
    rim = max(float(np.abs(volume.values).max()), min(volume.spacing))
    volume = Volume(np.pad(volume.values, 1, constant_values=rim), volume.spacing)
    found = interpolated(volume, np.stack([down, right, away], -1) @ turn)
    inside = found < 0
    hit, first = inside.any(-1), inside.argmax(-1)
    before = np.maximum(first - 1, 0)
    d0, d1 = (np.take_along_axis(found, k[..., None], -1)[..., 0] for k in (before, first))
    step = np.where(first > 0, d0 / np.where(d0 - d1 == 0, 1.0, d0 - d1), 0.0)
    place = depth[before] + step * (depth[1] - depth[0])
    where = np.stack([down[..., 0], right[..., 0], place], -1)
    h = 0.6 * min(volume.spacing)
    ends = [[interpolated(volume, (where + sign * h * e) @ turn) for sign in (1, -1)] for e in np.eye(3)]
    normal = np.stack([ahead - behind for ahead, behind in ends], -1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    light = np.array(LIGHT) / np.linalg.norm(LIGHT)
    facing = np.maximum(np.einsum("...k,k->...", normal, light), 0.0)[..., None]
    image = np.where(np.asarray(hit)[..., None], (0.28 + 0.72 * facing) * np.array(COLOR) + 0.25 * facing**24, 1.0)
    return (255 * np.clip(image, 0, 1)).round().astype(np.uint8)


def _view(azimuth: float, elevation: float) -> np.ndarray:
    """Rows: the axes of the picture (down, right, away) in those of the volume."""
    a, e = math.radians(azimuth), math.radians(elevation)
    right = np.array([0.0, math.cos(a), math.sin(a)])
    away = np.array([math.sin(e), -math.sin(a) * math.cos(e), math.cos(a) * math.cos(e)])
    return np.stack([np.cross(right, away) * -1, right, away])


def interpolated(volume: Volume, points: np.ndarray) -> np.ndarray:
    """Distance at points `(..., 3)` in mm, linear between voxels; outside of the grid that of its edge; float32."""
    reach = (np.array(volume.values.shape) - 1) / 2 * np.array(volume.spacing)
    # torch counts from the last axis, and from -1 to 1 between the centers of the outer voxels
    place = np.ascontiguousarray((points / reach)[..., ::-1], dtype=np.float32).reshape(1, 1, 1, -1, 3)
    values = torch.from_numpy(volume.values.astype(np.float32))[None, None]
    found = torch.nn.functional.grid_sample(
        values, torch.from_numpy(place), mode="bilinear", padding_mode="border", align_corners=True
    )
    return found.numpy().reshape(points.shape[:-1])


def shape_sheet(volumes: Sequence[Volume], columns: int = 0, pixels: int = 128) -> bytes:
    """PNG of all volumes in rows of `columns` (near a square without)."""
    if not volumes:
        raise InputError("volumes", "none", "at least one shape")
    from PIL import Image

    wide = columns or math.ceil(math.sqrt(len(volumes)))
    rows = math.ceil(len(volumes) / wide)
    page = np.full((rows * pixels, wide * pixels, 3), 255, dtype=np.uint8)
    for i, volume in enumerate(volumes):
        y, x = (i // wide) * pixels, (i % wide) * pixels
        page[y : y + pixels, x : x + pixels] = rendered(volume, pixels)
    stream = io.BytesIO()
    Image.fromarray(page).save(stream, "png")
    return stream.getvalue()
