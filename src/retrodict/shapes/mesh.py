"""Closed triangle meshes: area, volume, whether they are watertight, points on them, and their signed distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from retrodict._check import InputError
from retrodict._random import key
from retrodict.shapes.volume import Volume, checked_spacing, grid_points, needed

__all__ = ["Mesh", "distance_of_mesh", "sample_points"]

MOST_FACES = 200_000
"""More would take hours by the exact distances of this module."""

CHUNK = 1 << 16
"""Pairs of a point and a triangle at once."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles `faces` (F, 3) int64 of `vertices` (V, 3) float64 in mm, counterclockwise seen from outside.

    The axes of a vertex are those of the volume that it comes from: (Z, Y, X).
    """

    vertices: np.ndarray
    faces: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what is no list of triangles."""
        vertices, faces = np.asarray(self.vertices, dtype=np.float64), np.asarray(self.faces)
        if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
            raise InputError("mesh", f"vertices {np.shape(self.vertices)}", "(V, 3) finite numbers of mm")
        if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces) or faces.dtype.kind not in "iu":
            raise InputError("mesh", f"faces {faces.shape} of {faces.dtype}", "(F, 3) whole numbers: triangles")
        if faces.min() < 0 or faces.max() >= len(vertices):
            wanted = f"indices from 0 to {len(vertices) - 1}"
            raise InputError("mesh", f"a face of vertex {int(faces.max())}", wanted)
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces.astype(np.int64))

    @cached_property
    def corners(self) -> np.ndarray:
        """Corners of every triangle, `(F, 3, 3)` mm."""
        return self.vertices[self.faces]

    @cached_property
    def areas(self) -> np.ndarray:
        """Of every triangle, `(F,)` mm^2."""
        a, b, c = self.corners.transpose(1, 0, 2)
        return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=-1)

    @property
    def area(self) -> float:
        """Of the surface, mm^2."""
        return float(self.areas.sum())

    @property
    def volume(self) -> float:
        """Enclosed, mm^3, by the divergence theorem: negative where the triangles are turned inside out."""
        a, b, c = self.corners.transpose(1, 0, 2)
        return float((a * np.cross(b, c)).sum() / 6)

    def open_edges(self) -> int:
        """Edges that are not shared by exactly two triangles of opposite direction; 0: watertight."""
        edges = np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])
        count = len(self.vertices)
        forward = np.unique(edges[:, 0] * count + edges[:, 1], return_counts=True)
        backward = np.unique(edges[:, 1] * count + edges[:, 0], return_counts=True)
        both = np.intersect1d(forward[0][forward[1] == 1], backward[0][backward[1] == 1])
        return len(forward[0]) - len(both)

    def merged(self) -> Mesh:
        """Vertices at the same place as one, and triangles without an area left out: STL has every corner by itself."""
        places, index = np.unique(self.vertices, axis=0, return_inverse=True)
        faces = index.reshape(-1)[self.faces]
        a, b, c = faces.T
        return Mesh(places, faces[(a != b) & (b != c) & (a != c)])

    def require_watertight(self, name: str = "mesh") -> None:
        """Raise `InputError` where a side cannot be told from the other."""
        holes = self.open_edges()
        if holes:
            hint = "Close its holes (fill holes in a mesh editor), or give a mask of it."
            raise InputError(name, f"a mesh that is not watertight: {holes} open edges", "a closed surface", hint)


def sample_points(mesh: Mesh, count: int, seed: int = 0) -> np.ndarray:
    """Points `(count, 3)` mm spread evenly over the surface: triangles by their area, then uniformly in each."""
    if count < 1:
        raise InputError("points", count, "at least 1")
    draws = np.random.default_rng(key(seed, "surface-points")).random((count, 3))
    total = mesh.areas.cumsum()
    which = np.searchsorted(total, draws[:, 0] * total[-1], side="right").clip(0, len(total) - 1)
    root, v = np.sqrt(draws[:, 1]), draws[:, 2]
    weights = np.stack([1 - root, root * (1 - v), root * v], -1)
    return np.einsum("pk,pkd->pd", weights, mesh.corners[which])


def distance_of_mesh(mesh: Mesh, size: int, spacing: float, *, name: str = "mesh") -> Volume:
    """Signed distance of a watertight mesh, on a cube of `size` voxels of `spacing` mm about the middle of its box.

    The distance to the nearest triangle (Ericson 2005, section 5.1.5) is exact, and the sign by the winding number
    (Jacobson et al. 2013; the solid angle of van Oosterom, Strackee 1983): inside where it is above 1/2, whichever way
    the triangles are turned.  Raises `InputError` for a mesh that is not watertight, has more than 200,000 triangles or
    does not fit into the cube with a voxel to spare.
    """
    steps = checked_spacing(spacing)
    if len(mesh.faces) > MOST_FACES:
        raise InputError(name, f"{len(mesh.faces)} triangles", f"at most {MOST_FACES}", "Simplify the mesh.")
    mesh.require_watertight(name)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    if (high - low).max() > (size - 2) * spacing:
        wanted = f"at most {(size - 2) * spacing:.4g} mm: the cube of {size} voxels of {spacing:g} mm less its rim"
        raise InputError(name, f"a mesh of {(high - low).max():.4g} mm", wanted, "Use larger voxels or more of them.")
    corners = mesh.corners - (low + high) / 2
    points = grid_points((size,) * 3, steps)
    away = nearest(points.reshape(-1, 3), corners).reshape(points.shape[:3])
    return Volume(np.where(_inside(points, away, corners, spacing), -away, away), steps)


def _inside(points: np.ndarray, away: np.ndarray, corners: np.ndarray, spacing: float) -> np.ndarray:
    """By the winding number: of every voxel near the surface, and of one of each region away from it.

    Neighbors that are further from the surface than from each other lie on one side of it.
    """
    far = away > spacing
    regions, count = needed("scipy.ndimage").label(far)
    flat = regions.reshape(-1)
    first = [int(np.argmax(flat == r)) for r in range(1, count + 1)]
    chosen = np.concatenate([np.flatnonzero(~far.reshape(-1)), np.array(first, dtype=np.int64)])
    inside = np.abs(solid_angles(points.reshape(-1, 3)[chosen], corners)) > 2 * math.pi
    out = np.zeros(flat.shape, dtype=bool)
    out[chosen] = inside
    side = np.concatenate([[False], inside[len(inside) - count :]])
    return np.where(flat > 0, side[flat], out).reshape(away.shape)


def nearest(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Distance of points `(P, 3)` to the nearest of triangles `(F, 3, 3)`, `(P,)`.

    The nearest corner bounds the distance from above; only triangles whose ball reaches below the bound are looked at.
    """
    spatial = needed("scipy.spatial")
    middle = corners.mean(1)
    reach = float(np.linalg.norm(corners - middle[:, None], axis=-1).max())
    bound = spatial.cKDTree(corners.reshape(-1, 3)).query(points)[0]
    tree, out = spatial.cKDTree(middle), np.empty(len(points))
    for first in range(0, len(points), 1024):
        part = slice(first, first + 1024)
        found = tree.query_ball_point(points[part], bound[part] + reach + 1e-9)
        counts = np.array([len(f) for f in found])
        which = np.concatenate([np.asarray(f, dtype=np.int64) for f in found])
        squares = _squares(np.repeat(points[part], counts, axis=0), corners[which])
        out[part] = np.sqrt(np.minimum.reduceat(squares, np.concatenate([[0], counts.cumsum()[:-1]])))
    return out


def _squares(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Squared distance of each point `(K, 3)` to its triangle `(K, 3, 3)`: of its plane, or of an edge."""
    a, b, c = corners.transpose(1, 0, 2)
    normal = _cross(b - a, c - a)
    length = np.sqrt(_dot(normal, normal))
    unit = normal / np.where(length > 0, length, 1.0)[:, None]
    height = _dot(points - a, unit)
    within, least = length > 0, np.full(len(points), np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        edge, away = end - start, points - start
        place = np.clip(_dot(away, edge) / np.maximum(_dot(edge, edge), 1e-300), 0.0, 1.0)
        rest = away - place[:, None] * edge
        least = np.minimum(least, _dot(rest, rest))
        # over the triangle where the foot of the perpendicular lies on its side of all three edges
        within = within & (_dot(_cross(edge, away), unit) >= 0)
    return np.where(within, height**2, least)


def solid_angles(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Sum of the signed solid angles of triangles `(F, 3, 3)` seen from points `(P, 3)`: 4 pi inside, 0 outside."""
    out = np.empty(len(points))
    many = max(1, CHUNK // len(corners))
    for first in range(0, len(points), many):
        part = slice(first, first + many)
        a, b, c = (corners[:, k] - points[part, None] for k in range(3))
        la, lb, lc = (np.sqrt(_dot(x, x)) for x in (a, b, c))
        rest = la * lb * lc + _dot(a, b) * lc + _dot(b, c) * la + _dot(c, a) * lb
        out[part] = 2 * np.arctan2(_dot(a, _cross(b, c)), rest).sum(-1)
    return out


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`np.cross` of vectors, several times faster."""
    x, y, z = (a[..., k] for k in range(3))
    u, v, w = (b[..., k] for k in range(3))
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], -1)
