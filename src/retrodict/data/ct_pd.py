"""DICOM-CT-PD: clinical projections, one DICOM file a view, as arrays with the geometry of their private elements.

The format is that of Chen et al. (Proc. SPIE 9412, 2015) and of the library of Moen et al. (Med. Phys. 48, 2021), whose
table IV names the elements.  Of a third-generation scanner the files say where the focal spot stands and how the
detector lies, so that a sinogram of a single turn is a fan beam.  What a fan beam is not, is refused by its name.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from retrodict._check import InputError
from retrodict.data.formats import dicom_file
from retrodict.data.formats.dicom_pixels import stored_frames
from retrodict.data.limits import check_size

__all__ = ["CtPd", "headers_of", "read_ct_pd"]

ELEMENTS: dict[str, tuple[int, str]] = {
    "NumberofDetectorRows": (0x70291010, "US"),
    "NumberofDetectorColumns": (0x70291011, "US"),
    "DetectorElementTransverseSpacing": (0x70291002, "FL"),
    "DetectorElementAxialSpacing": (0x70291006, "FL"),
    "DetectorShape": (0x7029100B, "CS"),
    "DetectorFocalCenterAngularPosition": (0x70311001, "FL"),
    "DetectorFocalCenterAxialPosition": (0x70311002, "FL"),
    "DetectorFocalCenterRadialDistance": (0x70311003, "FL"),
    "ConstantRadialDistance": (0x70311031, "FL"),
    "DetectorCentralElement": (0x70311033, "FL"),
    "SourceAngularPositionShift": (0x7033100B, "FL"),
    "SourceAxialPositionShift": (0x7033100C, "FL"),
    "SourceRadialDistanceShift": (0x7033100D, "FL"),
    "FlyingFocalSpotMode": (0x7033100E, "CS"),
    "NumberofSpectra": (0x70331061, "US"),
    "PhotonStatistics": (0x70331065, "FL"),
    "TypeofProjectionData": (0x70371009, "CS"),
    "TypeofProjectionGeometry": (0x7037100A, "CS"),
    "LogFlag": (0x70391009, "CS"),
    "WaterAttenuationCoefficient": (0x70411001, "DS"),
}
"""Tag and kind of value of the private elements that are read."""

PUBLIC = ("InstanceNumber", "Rows", "Columns", "RescaleSlope", "RescaleIntercept")

STILL = 0.1
"""Shifts of the focal spot and of the table that are none: a share of a column or row of the detector at the axis."""


@dataclass(frozen=True)
class CtPd:
    """A single turn of fan-beam views: `arrays` of the geometry, and `view(i)`: line integrals `(rows, columns)`.

    `arrays`: "angles" `(views,)` in radians as `FanBeam` has them with the columns reversed, "pitch", "row_pitch",
    "source" and "detector" in mm, "center" (column, row) counted from 0, "curved" and "logarithm" 0 or 1, "tilt"
    `(rows,)` in degrees against the plane of the turn, "water" in 1/mm and "photons" `(views, columns)` where known.
    """

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    arrays: dict[str, np.ndarray]
    view: Callable[[int], np.ndarray]


# ---- elements --------------------------------------------------------------------------------------------------------


def _value(ds: Dataset, name: str, path: Path) -> Any:
    """A private element as number, numbers or text, whether its kind is written in the file or not; None if absent."""
    tag, kind = ELEMENTS[name]
    if tag not in ds:
        return None
    given = ds[tag].value
    if isinstance(given, bytes):
        given = _decoded(given, kind, f"{path}: {name}")
    if kind == "CS":
        return str(given or "").strip().strip("\0").upper()
    try:
        numbers = [float(v) for v in (given if isinstance(given, list | tuple) or _many(given) else [given])]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {name}", repr(given)[:60], "a number") from error
    if not numbers or not all(map(math.isfinite, numbers)):
        raise InputError(f"{path}: {name}", repr(given)[:60], "finite numbers")
    return numbers


def _many(given: Any) -> bool:
    return not isinstance(given, str | int | float) and hasattr(given, "__iter__")


def _decoded(given: bytes, kind: str, where: str) -> Any:
    """The value of an element of unknown kind: readers without the dictionary of the format keep its bytes."""
    if kind in ("CS", "DS"):
        text = given.decode("ascii", "replace").strip("\0 ")
        return text if kind == "CS" else text.split("\\")
    code, size = ("f", 4) if kind == "FL" else ("H", 2)
    if not given or len(given) % size:
        raise InputError(where, f"{len(given)} bytes", f"values of {size} bytes")
    return list(struct.unpack(f"<{len(given) // size}{code}", given))


def _number(ds: Dataset, name: str, path: Path, count: int = 1) -> list[float]:
    found = _value(ds, name, path)
    if found is None or len(found) < count:
        tag = ELEMENTS[name][0]
        raise InputError(path, f"no {name} ({tag >> 16:04X},{tag & 0xFFFF:04X})", "a projection of DICOM-CT-PD")
    return found


def _header(path: Path) -> Dataset:
    tags: list[Any] = [*PUBLIC, *(tag for tag, _ in ELEMENTS.values())]
    return dicom_file.dataset(path, header_only=True, tags=tags)


def headers_of(files: list[Path]) -> list[tuple[Path, Dataset]]:
    """Those files that are projections of DICOM-CT-PD (DICOM with the angle of a focal center), with their headers."""
    found = [(file, _header(file)) for file in files if dicom_file.looks_like_dicom(file)]
    return [(file, ds) for file, ds in found if ELEMENTS["DetectorFocalCenterAngularPosition"][0] in ds]


# ---- a scan ----------------------------------------------------------------------------------------------------------


def read_ct_pd(path: Path, headers: list[tuple[Path, Dataset]]) -> CtPd:
    """The views of a folder in the order of their instance numbers (of their names without).

    Raises `InputError` for what a fan beam cannot be: a helical scan, several table positions, a flying focal spot,
    several spectra, rebinned parallel rays, a spherical detector, and more than one turn.
    """
    if all(ds.get("InstanceNumber") is not None for _, ds in headers):
        headers = sorted(headers, key=lambda pair: int(pair[1].InstanceNumber))
    first, head = headers[0]
    rows, columns = (int(_number(head, f"NumberofDetector{n}", first)[0]) for n in ("Rows", "Columns"))
    shape = (len(headers), rows, columns)
    check_size(path, shape, 4)
    per_view = {name: _per_view(headers, name) for name in ELEMENTS if name.startswith(("DetectorFocal", "Source"))}
    arrays = _geometry(first, head, rows, columns, per_view)
    _check_fan(path, headers, arrays, per_view)
    arrays["angles"] = _angles(path, per_view["DetectorFocalCenterAngularPosition"])
    photons = _photons(headers, columns)
    if photons is not None:
        arrays["photons"] = photons
    names = tuple(file for file, _ in headers)
    return CtPd(names, shape, arrays, lambda i: _view(names[i], rows, columns))


def _per_view(headers: list[tuple[Path, Dataset]], name: str) -> np.ndarray:
    """An element of every view; shifts that are not given are 0."""
    if name.startswith("Source"):
        return np.array([(_value(ds, name, file) or [0.0])[0] for file, ds in headers])
    return np.array([_number(ds, name, file)[0] for file, ds in headers])


def _geometry(
    path: Path, head: Dataset, rows: int, columns: int, per_view: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Lengths in mm, and places on the detector counted from 0 (the format counts from 1)."""
    radius = per_view["DetectorFocalCenterRadialDistance"]
    found = {
        "pitch": _number(head, "DetectorElementTransverseSpacing", path)[0],
        "row_pitch": _number(head, "DetectorElementAxialSpacing", path)[0],
        "source": float(radius.mean()),
        "detector": _number(head, "ConstantRadialDistance", path)[0],
    }
    for name, value in found.items():
        if not value > 0:
            raise InputError(f"{path}: {name}", f"{value:g}", "a positive length in mm")
    center = [v - 1 for v in _number(head, "DetectorCentralElement", path, 2)[:2]]
    if not (0 <= center[0] <= columns - 1 and -0.5 <= center[1] <= rows - 0.5):
        found_at = f"column {center[0] + 1:g}, row {center[1] + 1:g}"
        expected = f"an element of {columns} columns and {rows} rows"
        raise InputError(f"{path}: DetectorCentralElement", found_at, expected)
    tilt = np.degrees(np.arctan((np.arange(rows) - center[1]) * found["row_pitch"] / found["detector"]))
    log = _value(head, "LogFlag", path)
    given = {"curved": _shape(path, head), "logarithm": float(log != "NO")}
    arrays = {name: np.asarray(value) for name, value in {**found, **given}.items()}
    arrays |= {"center": np.array(center), "tilt": tilt}
    water = _value(head, "WaterAttenuationCoefficient", path)
    return arrays if water is None else arrays | {"water": np.asarray(water[0])}


def _shape(path: Path, head: Dataset) -> float:
    """1 of an arc round the focal center, 0 of a plane."""
    said = _value(head, "DetectorShape", path) or "CYLINDRICAL"
    if said not in ("CYLINDRICAL", "FLAT"):
        raise InputError(f"{path}: DetectorShape", repr(said), "CYLINDRICAL or FLAT")
    return float(said == "CYLINDRICAL")


def _check_fan(
    path: Path, headers: list[tuple[Path, Dataset]], arrays: dict[str, np.ndarray], per_view: dict[str, np.ndarray]
) -> None:
    """Refuse by name what the views of a fan beam are not."""
    first, head = headers[0]
    hint = "A fan beam cannot represent it; rebin it elsewhere and give the sinogram."
    at_axis = float(arrays["source"] / arrays["detector"])
    column, row = float(arrays["pitch"]) * at_axis, float(arrays["row_pitch"]) * at_axis
    place = per_view["DetectorFocalCenterAxialPosition"]
    moved = float(np.ptp(place))
    if _value(head, "TypeofProjectionData", first) == "HELICAL" or _moves(place, STILL * row):
        raise InputError(path, f"a helical scan ({moved:.4g} mm along the axis)", "an axial scan", hint)
    if moved > STILL * row:
        count = 1 + int((np.abs(np.diff(np.sort(place))) > STILL * row).sum())
        raise InputError(path, f"{count} table positions", "one", "Put the views of each into a folder of its own.")
    mode = _value(head, "FlyingFocalSpotMode", first) or "FFSNONE"
    shifts = {
        "along the turn": (per_view["SourceAngularPositionShift"] * arrays["source"], column),
        "along the axis": (per_view["SourceAxialPositionShift"], row),
        "outwards": (per_view["SourceRadialDistanceShift"], column),
    }
    away = {where: float(np.abs(s).max()) for where, (s, size) in shifts.items() if np.abs(s).max() > STILL * size}
    if away or mode not in ("FFSNONE", "NONE"):
        by = ", ".join(f"{size:.3g} mm {where}" for where, size in away.items())
        raise InputError(path, f"a flying focal spot ({mode}{', ' if by else ''}{by})", "one that stands still", hint)
    radius = per_view["DetectorFocalCenterRadialDistance"]
    if np.ptp(radius) > STILL * column:
        raise InputError(
            path, f"focal centers {radius.min():g} to {radius.max():g} mm from the axis", "one circle", hint
        )
    rays = _value(head, "TypeofProjectionGeometry", first)
    if rays not in (None, "", "FANBEAM"):
        raise InputError(f"{path}: TypeofProjectionGeometry", repr(rays), "FANBEAM: rays as they were measured", hint)
    spectra = _value(head, "NumberofSpectra", first)
    if spectra is not None and spectra[0] > 1:
        raise InputError(path, f"{spectra[0]:g} spectra", "one", "Put the views of each into a folder of its own.")


def _moves(place: np.ndarray, still: float) -> bool:
    """Whether most steps from view to view go on in one direction: a table that moves on and does not jump."""
    steps = np.diff(place)
    if len(steps) < 2 or np.ptp(place) <= still:
        return False
    return bool((np.sign(steps) == np.sign(np.median(steps))).mean() > 0.5 and np.median(steps) != 0)


def _angles(path: Path, given: np.ndarray) -> np.ndarray:
    """In radians, without jumps, within a turn of 0, and turned the way in which images are looked at.

    The format's angle f puts the focal center at (sin f, cos f) in an image with the patient's left on the right (as
    readers that were compared with the scanners' own images have it): ours is -f, and columns run against ours.
    """
    angles = -np.unwrap(given)
    step = float(np.median(np.abs(np.diff(angles)))) if len(angles) > 1 else 0.0
    turns = float(np.ptp(angles) + step) / (2 * math.pi)
    if turns > 1 + 0.5 * step / (2 * math.pi) + 1e-6:
        raise InputError(path, f"{len(angles)} views over {turns:.3g} turns", "at most one turn")
    return angles - 2 * math.pi * np.floor(angles.max() / (2 * math.pi))


def _photons(headers: list[tuple[Path, Dataset]], columns: int) -> np.ndarray | None:
    """Photons of an open beam `(views, columns)`; None unless every view says them, above 0, for every column."""
    found = [_value(ds, "PhotonStatistics", file) for file, ds in headers]
    if not all(row is not None and len(row) in (1, columns) and min(row) > 0 for row in found):
        return None
    return np.stack([np.broadcast_to(row, (columns,)) for row in found]).astype(np.float64)


def _view(path: Path, rows: int, columns: int) -> np.ndarray:
    """Values `(rows, columns)` of one file; the format keeps them turned, a column of the detector in a line."""
    ds = dicom_file.dataset(path)
    stored = stored_frames(ds, path)[0].astype(np.float64)
    if stored.shape not in ((columns, rows), (rows, columns)):
        raise InputError(path, f"pixels of {stored.shape}", f"{rows} rows and {columns} columns of a detector")
    values = stored.T if stored.shape == (columns, rows) else stored
    slope, intercept = (float(ds.get(name, usual)) for name, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    if not (math.isfinite(slope) and slope != 0 and math.isfinite(intercept)):
        raise InputError(
            path, f"RescaleSlope {slope:g}, RescaleIntercept {intercept:g}", "finite ones, the slope not 0"
        )
    return values * slope + intercept
