"""What the formats with a place in space share: directions, checked and made unit vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrodict._check import InputError

__all__ = ["beside", "independent", "unit_axes"]


FLATTEST = 1e-3
"""Volume that the unit vectors of three axes must span at least; 1 for right angles, 0 where they lie in a plane."""


def independent(directions: np.ndarray, name: str, path: Path) -> None:
    """Refuse directions (axes, space) that are not finite, or of which one depends on the others."""
    directions = np.asarray(directions, np.float64)
    lengths = np.linalg.norm(directions, axis=1)
    flat = not np.isfinite(directions).all() or not (lengths > 0).all()
    if not flat:
        spanned = directions / lengths[:, None]
        flat = np.linalg.det(spanned @ spanned.T) < FLATTEST**2
    if flat:
        listed = np.array2string(directions, precision=4, separator=", ").replace("\n", "")
        raise InputError(path, f"the directions {listed} in the {name}", "axes of which none depends on the others")


def unit_axes(directions: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    """Return directions (axes, 3) as unit vectors; `independent` has found them sound."""
    unit = directions / np.linalg.norm(directions, axis=1)[:, None]
    return tuple((float(x), float(y), float(z)) for x, y, z in unit)


def beside(path: Path, name: str, field: str) -> Path:
    """Return the file that a header at `path` names in `field`: one that lies in its folder or below, and is there."""
    given = Path(name.replace("\\", "/"))
    if given.is_absolute() or ".." in given.parts or not name or "%" in name or name.split()[0] == "LIST":
        raise InputError(path, f"{field} {name}", "the name of one file in the same folder")
    where = path.parent / given
    if not where.is_file():
        raise InputError(path, f"{field} {name}, which is no file there", "the file with the values beside the header")
    return where
