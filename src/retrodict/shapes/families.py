"""Procedural shapes by their signed distance: what a generator of shapes is tried on where the truth has to be known.

A shape lives in the box [-1, 1]^3 and is negative inside.  Torus, rounded box and capsule have exact distances; the
others F / |grad F|, exact to first order at the surface, which is all that a truncated distance keeps (Hart 1996).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from retrodict._check import choice
from retrodict._random import key, uniform, white

__all__ = ["SHAPE_FAMILIES", "Shape", "draw_shape"]

Distance = Callable[[np.ndarray], np.ndarray]
"""Points `(P, 3)` in the box to signed distances `(P,)`."""

Draw = Callable[[Iterator[float], int], Distance]
"""(numbers in [0, 1), seed) to the distance of one shape in its own axes."""

STAR_REACH = 0.35
"""Of the box: further than that along its ray from a star the slope of F is not looked at; a distance that is kept
after truncation is well within it."""

MARGIN = 0.9
"""Of the half side of the box: what a shape may fill (Hui et al. 2022)."""


@dataclass(frozen=True)
class Shape:
    """One shape of a family: all of it follows from `seed`; `turned`: in a random direction, else along the axes."""

    family: str
    seed: int
    turned: bool = True

    @cached_property
    def _parts(self) -> tuple[Distance, np.ndarray]:
        numbers = iter(uniform(range(64), f"shape-{self.family}", self.seed).tolist())
        turn = _rotation(self.seed) if self.turned else np.eye(3)
        return SHAPE_FAMILIES[self.family](numbers, self.seed), turn

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance of points `(..., 3)` in the box, float64 `(...)`: negative inside."""
        own, turn = self._parts
        flat = np.asarray(points, dtype=np.float64).reshape(-1, 3) @ turn
        return own(flat).reshape(np.shape(points)[:-1])


def draw_shape(seed: int, families: Sequence[str] = (), *, turned: bool = True) -> Shape:
    """The shape of a seed, of one of `families` (all of `SHAPE_FAMILIES` where none are named), equally often.

    Raises `InputError` for a family that there is not.
    """
    names = tuple(families) or tuple(SHAPE_FAMILIES)
    for name in names:
        choice("families", name, SHAPE_FAMILIES)
    which = int(uniform([seed], "shape-family", 0)[0] * len(names))
    return Shape(names[which], key(seed, "shape"), turned)


def _rotation(seed: int) -> np.ndarray:
    """A uniformly random rotation `(3, 3)`, from a quaternion of four normal numbers (Shoemake 1992)."""
    q = white([seed], "shape-turn", 0, (4,))[0].double().numpy()
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _between(numbers: Iterator[float], low: float, high: float) -> float:
    return low + (high - low) * next(numbers)


# ---- distances -------------------------------------------------------------------------------------------------------


def superquadric(points: np.ndarray, axes: np.ndarray, power: float) -> np.ndarray:
    """F / |grad F| of F = (sum |x_i / a_i|^p)^(1/p) - 1; an ellipsoid for p = 2."""
    scaled = np.abs(points) / axes
    norm = (scaled**power).sum(-1) ** (1 / power)
    safe = np.where(norm > 0, norm, 1.0)
    gradient = (scaled / safe[:, None]) ** (power - 1) / axes
    slope = np.sqrt((gradient**2).sum(-1))
    at_center = norm == 0  # no direction there: the nearest end of an axis
    return np.where(at_center, -axes.min(), (norm - 1) / np.where(at_center, 1.0, slope))


def rounded_box(points: np.ndarray, half: np.ndarray, radius: float) -> np.ndarray:
    """Exact distance of a box with half sides `half` whose edges are rounded by `radius`."""
    beyond = np.abs(points) - (half - radius)
    return np.sqrt((np.maximum(beyond, 0) ** 2).sum(-1)) + np.minimum(beyond.max(-1), 0) - radius


def torus(points: np.ndarray, large: float, small: float) -> np.ndarray:
    """Exact distance of a torus round the last axis."""
    ring = np.hypot(points[:, 0], points[:, 1]) - large
    return np.hypot(ring, points[:, 2]) - small


def segment(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of points `(P, 3)` to the segment a b, and where the nearest point of it lies, 0 at a and 1 at b."""
    along = b - a
    place = np.clip((points - a) @ along / max(float(along @ along), 1e-300), 0.0, 1.0)
    return np.linalg.norm(points - a - place[:, None] * along, axis=-1), place


def smooth_union(first: np.ndarray, second: np.ndarray, sharpness: float = 32.0) -> np.ndarray:
    """-ln(e^(-k d1) + e^(-k d2)) / k."""
    return -np.logaddexp(-sharpness * first, -sharpness * second) / sharpness


def real_harmonics(directions: np.ndarray, degree: int) -> list[tuple[int, np.ndarray]]:
    """Real orthonormal spherical harmonics of unit vectors `(P, 3)`: (l, values `(P,)`) for l = 0 ... degree, all m.

    By the recursion of the normalized Legendre functions in cos(theta), times sqrt(2) cos(m phi) or sin(m phi).
    """
    x, azimuth = directions[:, 2], np.arctan2(directions[:, 1], directions[:, 0])
    sine = np.sqrt(np.maximum(0.0, 1 - x**2))
    found: list[tuple[int, np.ndarray]] = []
    diagonal = np.full_like(x, math.sqrt(1 / (4 * math.pi)))
    for m in range(degree + 1):
        if m:
            diagonal = -math.sqrt((2 * m + 1) / (2 * m)) * sine * diagonal
        before, legendre = np.zeros_like(x), diagonal
        for l in range(m, degree + 1):
            if l > m:
                a = math.sqrt((4 * l * l - 1) / (l * l - m * m))
                b = math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)) if l > m + 1 else 0.0
                before, legendre = legendre, a * (x * legendre - b * before)
            if m == 0:
                found.append((l, legendre))
            else:
                found.append((l, math.sqrt(2) * legendre * np.cos(m * azimuth)))
                found.append((l, math.sqrt(2) * legendre * np.sin(m * azimuth)))
    return found


# ---- families --------------------------------------------------------------------------------------------------------


def _ellipsoid(numbers: Iterator[float], seed: int) -> Distance:
    axes = np.array([_between(numbers, 0.3, 0.8) for _ in range(3)])
    return lambda points: superquadric(points, axes, 2.0)


def _superquadric(numbers: Iterator[float], seed: int) -> Distance:
    axes = np.array([_between(numbers, 0.3, 0.65) for _ in range(3)])
    power = _between(numbers, 2.5, 6.0)
    return lambda points: superquadric(points, axes, power)


def _torus(numbers: Iterator[float], seed: int) -> Distance:
    large, small = _between(numbers, 0.42, 0.6), _between(numbers, 0.16, 0.28)
    return lambda points: torus(points, large, small)


def _box(numbers: Iterator[float], seed: int) -> Distance:
    half = np.array([_between(numbers, 0.25, 0.5) for _ in range(3)])
    radius = _between(numbers, 0.04, 0.15)
    return lambda points: rounded_box(points, half, radius)


def _capsule(numbers: Iterator[float], seed: int) -> Distance:
    end, radius = np.array([0.0, 0.0, _between(numbers, 0.2, 0.55)]), _between(numbers, 0.16, 0.32)
    return lambda points: segment(points, -end, end)[0] - radius


def _blend(numbers: Iterator[float], seed: int) -> Distance:
    """A ball and a bar that flow into each other."""
    radius, place = _between(numbers, 0.25, 0.42), np.array([0.0, 0.0, -_between(numbers, 0.1, 0.4)])
    end = np.array([_between(numbers, -0.3, 0.3), 0.0, _between(numbers, 0.35, 0.6)])
    bar = _between(numbers, 0.14, 0.24)
    return lambda points: smooth_union(
        np.linalg.norm(points - place, axis=-1) - radius, segment(points, place, end)[0] - bar
    )


def _star(numbers: Iterator[float], seed: int) -> Distance:
    """r(direction) = r_0 (1 + sum a_lm Y_lm), l = 2 ... 6, a_lm ~ N(0, (0.25 / l^1.5)^2): like an organ."""
    radius = _between(numbers, 0.42, 0.55)
    draws = white([seed], "shape-star", 0, (49,))[0].double().numpy()

    def level(points: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(points, axis=-1)
        directions = points / np.where(length > 0, length, 1.0)[:, None]
        parts = real_harmonics(directions, 6)
        bump = sum(0.25 / l**1.5 * a * y for (l, y), a in zip(parts, draws, strict=True) if l >= 2)
        return length - np.clip(radius * (1 + bump), 0.12, MARGIN)

    def distance(points: np.ndarray) -> np.ndarray:
        value, step = level(points), 1e-4
        near = points[np.abs(value) < STAR_REACH]
        slopes = [(level(near + step * e) - level(near - step * e)) / (2 * step) for e in np.eye(3)]
        # 1 along the ray, more across it
        value[np.abs(value) < STAR_REACH] /= np.maximum(np.sqrt(sum(s**2 for s in slopes)), 1.0)
        return value

    return distance


def _tube(numbers: Iterator[float], seed: int) -> Distance:
    """A bent tube that tapers: 16 segments of a quadratic Bezier curve, like a vessel."""
    ends = np.array([[0.0, 0.0, -0.6], [_between(numbers, -0.9, 0.9), _between(numbers, -0.9, 0.9), 0.0], [0, 0, 0.6]])
    thick, thin = _between(numbers, 0.18, 0.28), _between(numbers, 0.12, 0.18)
    t = np.linspace(0.0, 1.0, 17)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    curve = curve - 0.5 * (curve.min(0) + curve.max(0))
    radii = thick + (thin - thick) * t[:, 0]

    def distance(points: np.ndarray) -> np.ndarray:
        best = np.full(len(points), np.inf)
        for i in range(16):
            away, place = segment(points, curve[i], curve[i + 1])
            best = np.minimum(best, away - (radii[i] + (radii[i + 1] - radii[i]) * place))
        return best

    return distance


SHAPE_FAMILIES: dict[str, Draw] = {
    "ellipsoid": _ellipsoid,
    "superquadric": _superquadric,
    "torus": _torus,
    "box": _box,
    "capsule": _capsule,
    "blend": _blend,
    "star": _star,
    "tube": _tube,
}
"""Families of `draw_shape`, by name."""
