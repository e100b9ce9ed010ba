"""The anatomical plane that the last two axes of an image span, where its file says."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from retrodict.data.image import Image

__all__ = ["PLANES", "plane_of"]


PLANES = ("sagittal", "coronal", "axial")
"""By the axis of the patient (left-right, front-back, head-foot) that is nearest to the normal of the plane."""


def plane_of(image: Image) -> str | None:
    """Name of the plane of the (H, W) slices of an image, or None where its file does not say.

    Read from ImageOrientationPatient of DICOM, the affine of NIfTI and MetaImage and the space directions of NRRD: an
    oblique plane has the name of the nearest one.
    """
    for vectors in (_of_dicom(image.header), _of_affine(image.header), _of_nrrd(image.header)):
        if vectors is not None:
            normal = np.abs(np.cross(*vectors))
            return PLANES[int(normal.argmax())] if np.isfinite(normal).all() and normal.max() > 0 else None
    return None


def _of_dicom(header: Any) -> tuple[np.ndarray, np.ndarray] | None:
    datasets = getattr(header, "datasets", None)
    if not datasets:
        return None
    try:
        values = np.array([float(v) for v in datasets[0].get("ImageOrientationPatient", None) or ()])
    except (TypeError, ValueError):
        return None
    return (values[:3], values[3:]) if values.shape == (6,) else None


def _of_affine(header: Any) -> tuple[np.ndarray, np.ndarray] | None:
    affine = getattr(header, "affine", None)
    if affine is None and hasattr(getattr(header, "header", None), "get_best_affine"):
        affine = header.header.get_best_affine()
    if affine is None:
        return None
    matrix = np.asarray(affine, dtype=float)
    return (matrix[:3, 0], matrix[:3, 1]) if matrix.shape == (4, 4) else None


def _of_nrrd(header: Any) -> tuple[np.ndarray, np.ndarray] | None:
    fields = dict(line.partition(":")[::2] for line in getattr(header, "lines", ()) if ":" in line)
    space = fields.get("space", "").strip().lower()
    if not (space.startswith(("left-", "right-")) or space in ("las", "lps", "ras")):
        return None
    found = re.findall(r"\(([^)]*)\)", fields.get("space directions", ""))
    try:
        vectors = [np.array([float(x) for x in text.split(",")]) for text in found]
    except ValueError:
        return None
    return (vectors[0], vectors[1]) if len(vectors) > 1 and all(v.shape == (3,) for v in vectors[:2]) else None
