"""The surface of a signed distance: marching cubes of scikit-image, closed, and turned outwards."""

from __future__ import annotations

import numpy as np

from retrodict._check import InputError
from retrodict.shapes.mesh import Mesh
from retrodict.shapes.volume import Volume, needed

__all__ = ["surface"]


def surface(volume: Volume, *, level: float = 0.0) -> Mesh:
    """The mesh where the distance is `level` mm (Lewiner et al. 2003), closed at the edge of the volume.

    Raises `InputError` where no value crosses the level, which is what an empty volume is, and where scikit-image (the
    extra `shapes`) is not installed.
    """
    marching_cubes = needed("skimage.measure").marching_cubes
    values = volume.values - level
    if not (values < 0).any() or not (values > 0).any():
        side = "positive: nothing is inside" if (values >= 0).all() else "negative: nothing is outside"
        raise InputError("volume", f"distances that are all {side}", f"a surface at {level:g} mm")
    # a rim of outside, so that what reaches the edge is closed there
    padded = np.pad(values, 1, constant_values=max(float(np.abs(values).max()), min(volume.spacing)))
    # a value of exactly the level would give triangles without an area
    padded = np.where(padded == 0, 1e-9 * min(volume.spacing), padded)
    vertices, faces, *_ = marching_cubes(padded, 0.0, spacing=volume.spacing, allow_degenerate=False)
    center = (np.array(padded.shape) - 1) / 2 * np.array(volume.spacing)
    mesh = Mesh(vertices.astype(np.float64) - center, faces.astype(np.int64))
    return mesh if mesh.volume > 0 else Mesh(mesh.vertices, mesh.faces[:, ::-1].copy())
