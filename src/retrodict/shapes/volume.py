"""Signed distances on a grid of voxels, in mm: from procedural shapes and label masks, truncated for a generator."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retrodict._check import InputError
from retrodict.shapes.families import Shape

__all__ = ["Volume", "distance_of_labels", "in_cube", "needed", "volume_of_shape"]

EXTRA = 'Install it with pip install "retrodict[shapes]".'


@dataclass(frozen=True, eq=False)
class Volume:
    """Signed distance `values` (Z, Y, X) float64 in mm, negative inside, on voxels of `spacing` mm.

    The center of the grid is the origin: the center of voxel i of an axis of n lies at (i - (n - 1)/2) spacing.
    """

    values: np.ndarray
    spacing: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no volume, has no spacing, or holds NaN."""
        spacing = checked_spacing(self.spacing)
        if np.ndim(self.values) != 3 or 0 in np.shape(self.values):
            raise InputError("volume", f"values of shape {np.shape(self.values)}", "three axes of voxels")
        if not np.isfinite(self.values).all():
            raise InputError("volume", "NaN or infinite distances", "finite distances in mm")
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))
        object.__setattr__(self, "spacing", spacing)

    def points(self) -> np.ndarray:
        """Centers of the voxels in mm, `(Z, Y, X, 3)`."""
        return grid_points(self.values.shape, self.spacing)

    def truncated(self, clip: float) -> Volume:
        """Distances beyond `clip` mm on either side become it: a TSDF."""
        if not 0 < clip < math.inf:
            raise InputError("clip", clip, "a positive distance in mm")
        return replace(self, values=np.clip(self.values, -clip, clip))


def checked_spacing(spacing: Any) -> tuple[float, float, float]:
    """Three positive numbers; one error for a spacing that is missing or cannot be meant."""
    wanted = "three positive numbers of mm, one an axis"
    if spacing is None or len(np.atleast_1d(spacing)) == 0:
        raise InputError("spacing", "none", wanted, "Without it a distance has no unit.")
    numbers = tuple(float(s) for s in np.atleast_1d(spacing))
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not all(0 < s < math.inf for s in numbers):
        raise InputError("spacing", spacing, wanted)
    return numbers  # type: ignore[return-value]


def grid_points(size: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """Centers of the voxels of a grid about the origin, mm, `(*size, 3)`."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def volume_of_shape(shape: Shape, size: int, spacing: float) -> Volume:
    """The distance of a procedural shape whose box [-1, 1]^3 is a cube of `size` voxels of `spacing` mm."""
    half = size * spacing / 2
    points = grid_points((size,) * 3, (spacing,) * 3)
    return Volume(half * shape.distance(points / half), (spacing,) * 3)


def distance_of_labels(labels: np.ndarray, spacing: Any, which: Sequence[int] | None = None) -> Volume:
    """Signed distance of a mask to its border, by the exact Euclidean distance transform (Maurer et al. 2003), mm.

    labels `(Z, Y, X)`: inside where it is one of `which`, or anything but 0.  The transform measures from center to
    center of voxels; half a voxel in the direction of the nearest one of the other side is taken off, so that the
    border lies between them.  Raises `InputError` for a mask that is empty, full, or touches every side of its grid
    (inverted), for a missing spacing, and where scipy is not installed.
    """
    steps = checked_spacing(spacing)
    found = np.asarray(labels)
    if found.ndim != 3:
        raise InputError("labels", f"{found.ndim} axes", "3: a volume of labels")
    mask = found != 0 if which is None else np.isin(found, list(which))
    check_mask(mask, which)
    outside, inside = _away(~mask, steps), _away(mask, steps)
    return Volume(np.where(mask, -inside, outside), steps)


def check_mask(mask: np.ndarray, which: Sequence[int] | None = None) -> None:
    """Refuse a mask without an inside, without an outside, or whose inside is what surrounds it."""
    if not mask.any():
        named = "no voxel that is not 0" if which is None else f"no voxel with a label of {list(which)}"
        raise InputError("labels", named, "a mask with a shape in it")
    if mask.all():
        raise InputError("labels", "a mask without background", "a shape with background around it")
    faces = [mask.take(end, axis).mean() for axis in range(3) for end in (0, -1)]
    if min(faces) > 0.5:
        found = f"a mask that fills all six sides of its grid ({100 * float(mask.mean()):.0f} % of it)"
        raise InputError("labels", found, "background around the shape", "Is it inverted? Give 1 - mask.")


def _away(side: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Of voxels in `side` the distance to the border, mm."""
    ndimage = needed("scipy.ndimage")
    padded = np.pad(side, 1, mode="edge")
    away, nearest = ndimage.distance_transform_edt(padded, sampling=spacing, return_indices=True)
    vector = np.stack([(nearest[k] - np.indices(padded.shape)[k]) * spacing[k] for k in range(3)])
    length = np.where(away > 0, away, 1.0)
    half = 0.5 * sum(np.abs(vector[k]) * spacing[k] for k in range(3)) / length
    return np.maximum(away - half, 0.0)[1:-1, 1:-1, 1:-1]


def in_cube(volume: Volume, size: int, spacing: float, name: str = "shape") -> Volume:
    """The same shape about the center of a cube of `size` voxels of `spacing` mm, by linear interpolation.

    A shape that reaches the edge of its own grid is closed at the border of the last voxels.
    Raises `InputError` where it does not fit with a voxel to spare: nothing is cut off.
    """
    ndimage = needed("scipy.ndimage")
    filled = np.argwhere(volume.values < 0)
    if not len(filled):
        raise InputError(name, "no voxel inside", "a shape that is larger than a voxel")
    low, high = filled.min(0), filled.max(0)
    steps = np.array(volume.spacing)
    extent = (high - low + 1) * steps
    if extent.max() > (size - 2) * spacing:
        hint = "Use larger voxels (spacing) or more of them (patch)."
        cube = f"at most {(size - 2) * spacing:.4g} mm: the cube of {size} voxels of {spacing:g} mm less its rim"
        raise InputError(name, f"a shape of {extent.max():.4g} mm", cube, hint)
    wanted = grid_points((size,) * 3, (spacing,) * 3) / steps + (low + high) / 2
    inner = np.clip(wanted, 0, np.array(volume.values.shape) - 1)
    values = ndimage.map_coordinates(volume.values, np.moveaxis(inner, -1, 0), order=1, mode="nearest")
    beyond = np.linalg.norm((wanted - inner) * steps, axis=-1)  # outside of the grid it goes on growing
    middle = (np.array(volume.values.shape) - 1) / 2
    rim = np.abs(wanted - middle) * steps - (middle + 0.5) * steps
    box = np.linalg.norm(np.maximum(rim, 0), axis=-1) + np.minimum(rim.max(-1), 0)
    return Volume(np.maximum(values + beyond, box), (spacing,) * 3)  # what its grid cuts ends there


def needed(name: str) -> Any:
    """A module of the extra `shapes`; `InputError` that names the extra where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = {"scipy": "scipy", "skimage": "scikit-image", "trimesh": "trimesh"}[name.partition(".")[0]]
        raise InputError("shapes", f"{library} is not installed", "the extra `shapes`", EXTRA) from error
