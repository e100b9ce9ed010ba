"""Files that say themselves what they hold: each layout is a function from the arrays of a file to a description."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from retrodict.data.raw import Raw

__all__ = ["LAYOUTS", "known_of"]


def _helsinki(raw: Raw) -> dict[str, Any] | None:
    """Helsinki Tomography Challenge 2022: a fan beam on a flat detector, line integrals, angles in degrees.

    The ray at fan angle g is the parallel one at b - g: our source stands on the other side, and bins run against ours.
    """
    root = next((n.split(".")[0] for n in raw.entries if n.startswith("CtData") and n.endswith(".sinogram")), None)
    if root is None:
        return None

    def value(*names: str) -> float:
        name = next(n for n in names if f"{root}.parameters.{n}" in raw.entries)
        return float(raw.read(f"{root}.parameters.{name}"))

    scan = {
        "beam": "fan",
        "angles": f"{root}.parameters.angles",
        "angle_unit": "deg",
        "pitch": value("pixelSizePost", "pixelSize"),
        "source": value("distanceSourceOrigin"),
        "detector": value("distanceSourceDetector"),
        "reversed": True,
        "turn": 180.0,
    }
    return {"problem": "tomography", "data": f"{root}.sinogram", "scan": scan, "counts": {"kind": "line_integrals"}}


def _exchange(raw: Raw) -> dict[str, Any] | None:
    """Scientific Data Exchange: counts of parallel views with flats and darks, angles in degrees."""
    if "exchange/data" not in raw.entries:
        return None
    counts = {"kind": "counts"}
    for ours, theirs in (("flats", "exchange/data_white"), ("darks", "exchange/data_dark")):
        if theirs in raw.entries:
            counts[ours] = theirs
    scan: dict[str, Any] = {"beam": "parallel", "angle_unit": "deg"}
    if "exchange/theta" in raw.entries:
        scan["angles"] = "exchange/theta"
    return {"problem": "tomography", "data": "exchange/data", "scan": scan, "counts": counts}


def _ct_pd(raw: Raw) -> dict[str, Any] | None:
    """DICOM-CT-PD: the row of the detector in the plane of the turn, and the photons of every ray where they are told.

    Columns run against our bins as the angles have been turned (`retrodict.data.ct_pd`).
    """
    if raw.kind != "ct-pd":
        return None
    column, row = (float(v) for v in raw.read("center"))
    rows = raw.stored("projections").shape[1]
    middle = min(max(round(row), 0), rows - 1)
    scan = {
        "beam": "fan",
        "angles": "angles",
        "angle_unit": "rad",
        "center": column,
        "curved": bool(raw.read("curved")),
        "reversed": True,
        **{name: float(raw.read(name)) for name in ("pitch", "source", "detector")},
    }
    known: dict[str, Any] = {"problem": "tomography", "data": "projections", "axes": ["view", "slice", "bin"]}
    known |= {"scan": scan, "slices": [middle, middle + 1]}
    known["counts"] = {"kind": "line_integrals" if raw.read("logarithm") else "counts"}
    known["image"] = {"water": float(raw.read("water"))} if "water" in raw.entries else {}
    known["noise"] = {"dose": "photons"} if "photons" in raw.entries and raw.read("logarithm") else {}
    return known


def _ismrmrd(raw: Raw) -> dict[str, Any] | None:
    """ISMRMRD: acquisitions of Cartesian k-space."""
    return (
        {"problem": "kspace", "data": "dataset/data"} if {"dataset/data", "dataset/xml"} <= set(raw.entries) else None
    )


def _sinogram(raw: Raw) -> dict[str, Any] | None:
    """Arrays called sinogram and angles."""
    if not {"sinogram", "angles"} <= set(raw.entries):
        return None
    counts = {name: name for name in ("flats", "darks") if name in raw.entries}
    return {"problem": "tomography", "data": "sinogram", "scan": {"angles": "angles"}, "counts": counts}


def _complex(raw: Raw) -> dict[str, Any] | None:
    """An array called kspace, or the only complex one."""
    names = [n for n, s in raw.entries.items() if len(s.shape) >= 2 and _is_complex(s.dtype)]
    if "kspace" not in names and len(names) != 1:
        return None
    coils = {name: name for name in ("mask", "maps", "noise") if name in raw.entries}
    return {"problem": "kspace", "data": "kspace" if "kspace" in names else names[0], "coils": coils}


def _is_complex(dtype: np.dtype) -> bool:
    return dtype.kind == "c" or dtype.names in (("real", "imag"), ("r", "i"))


LAYOUTS: dict[str, Callable[[Raw], dict[str, Any] | None]] = {
    "Helsinki Tomography Challenge 2022": _helsinki,
    "Scientific Data Exchange": _exchange,
    "DICOM-CT-PD": _ct_pd,
    "ISMRMRD": _ismrmrd,
    "sinogram and angles": _sinogram,
    "k-space": _complex,
}
"""By name, tried in this order."""


def known_of(raw: Raw) -> tuple[str, dict[str, Any]]:
    """The name of the layout of a file and what it says; "" and nothing where it has none that is known."""
    for name, look in LAYOUTS.items():
        found = look(raw)
        if found is not None:
            return name, found
    return "", {}
