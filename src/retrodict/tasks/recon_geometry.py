"""Where the rays of a sinogram in a file run: angles, axis of rotation, beam and image grid, compared with the data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data.raw import Raw
from retrodict.physics.corrections import find_center, moments
from retrodict.physics.geometry import FanBeam, ParallelBeam
from retrodict.tasks.recon_acquired import array_of, same
from retrodict.tasks.recon_config import Problem, Range, ScanPart, radians

__all__ = ["angles_of", "beam_of", "center_of", "check_counts_of", "grid_of", "shown_as", "span_of"]


def angles_of(raw: Raw, scan: ScanPart, views: int) -> tuple[float, ...]:
    """Angles in radians, one for every view."""
    where = "scan.angles"
    if scan.angles is None:
        hint = "Give the name of an array, a list, or {start: 0, step: 1}."
        raise InputError(where, "none", f"the angles of {views} views", hint)
    given: Any = scan.angles
    if isinstance(given, Range):
        given = [given.start + k * given.step for k in range(views)]
    elif isinstance(given, str):
        where = f"scan.angles ({given})"
        array = np.asarray(array_of(raw, given, "scan.angles"), dtype=np.float64)
        given = array.ravel().tolist()
    if len(given) != views:
        hint = "The axes may be in another order: give axes." if views else ""
        raise InputError(where, f"{len(given)} angles for {views} views", f"{views} angles", hint)
    found = radians(given, scan.angle_unit, where, scan.order)
    turn = math.radians(scan.turn)
    shift = turn - 2 * math.pi * ((max(found) + turn) // (2 * math.pi))  # within a turn of 0
    return tuple(a + shift for a in found) if scan.turn else found


def check_counts_of(scan: ScanPart, views: int, bins: int) -> None:
    for name, stated, found in (("views", scan.views, views), ("bins", scan.bins, bins)):
        if stated is not None and stated != found:
            hint = "The axes may be in another order: give axes."
            raise InputError(f"scan.{name}", f"{found} {name} in the data", f"{stated}, as the geometry says", hint)


def span_of(angles: tuple[float, ...]) -> dict[str, float]:
    degrees = np.degrees(angles)
    return {"first_degrees": float(degrees[0]), "last_degrees": float(degrees[-1])}


def center_of(scan: ScanPart, values: Tensor, angles: tuple[float, ...]) -> tuple[float | None, dict[str, Any]]:
    """The bin of the axis, and what was found; angles that the data contradict are refused with the figure."""
    middle = (values.shape[-1] - 1) / 2
    if scan.beam != "parallel":
        if scan.center == "find":
            raise InputError("scan.center", "find, for a fan beam", "a bin, or parallel views to find it in")
        return (None if scan.center is None else float(scan.center)), {}
    _check_moments(values, angles)
    if scan.center != "find":
        return (None if scan.center is None else float(scan.center)), {}
    found = find_center(values, angles)
    about = {"bin": found.bin, "by_center_of_mass": found.by_moments, "explained": found.explained}
    return found.bin, {"center": {**about, "off_middle_bins": found.bin - middle}}


def _check_moments(values: Tensor, angles: tuple[float, ...]) -> None:
    """The center of mass of a whole object goes round on a circle: angles in another unit or order break that."""
    bins, edge = values.shape[-1], max(2, values.shape[-1] // 40)
    ends = float(torch.cat([values[:, :edge], values[:, -edge:]], 1).abs().mean())
    if len(angles) < 12 or ends > 0.02 * float(values.max()):
        return  # cut off, or too few views to tell
    net = values.clamp_min(0)
    at = torch.arange(bins, dtype=torch.float64, device="cpu")
    path = (net.double() * at).sum(-1) / net.double().sum(-1).clamp_min(1e-30)
    explained = moments(net, angles)[1]
    if float(path.std()) > 0.01 * bins and explained < 0.5:
        found = f"views whose center of mass follows a turn of the object to {max(explained, 0):.0%}"
        hint = "Their unit or order may be another, or axes are exchanged."
        raise InputError("scan.angles", found, "above 50 %", hint)


def beam_of(scan: ScanPart, angles: tuple[float, ...], bins: int, center: float | None) -> ParallelBeam | FanBeam:
    """The geometry; a `center` in bins is an offset of the detector."""
    if scan.pitch is None:
        hint = "Give scan.pitch; 1 counts lengths in bins."
        raise InputError("scan.pitch", "none", "the distance of two bins in mm", hint)
    offset = scan.offset
    if center is not None:
        if not 0 <= center <= bins - 1:
            raise InputError("scan.center", f"{center:g}", f"a bin from 0 to {bins - 1}")
        gap = ((bins - 1) / 2 - center) * scan.pitch
        offset += -gap if scan.reversed and scan.center != "find" else gap
    if scan.beam == "parallel":
        return ParallelBeam(angles, bins, scan.pitch, offset)
    if scan.source is None or scan.detector is None:
        missing = "scan.source" if scan.source is None else "scan.detector"
        raise InputError(missing, "none", "the distance from the source in mm, of the axis and of the detector")
    return FanBeam(angles, bins, scan.pitch, offset, source=scan.source, detector=scan.detector, curved=scan.curved)


def grid_of(problem: Problem, scan: ParallelBeam | FanBeam) -> tuple[tuple[int, int], tuple[float, float]]:
    """Rows, columns and pixel: as given, or as many pixels as bins over the width that every view sees."""
    seen = scan.pitch * (scan.source / scan.detector if isinstance(scan, FanBeam) else 1.0)
    reach = 2 * (seen * (scan.bins / 2) - abs(scan.offset) * seen / scan.pitch)
    reach = reach if reach > 0 else seen * scan.bins
    size = problem.grid_size or (scan.bins, scan.bins)
    return size, problem.pixel or (reach / size[1], reach / size[1])


def shown_as(problem: Problem) -> tuple[str, Any]:
    """The unit of results, and the way to it from 1/mm."""
    unit, water = problem.image.unit or "1/mm", problem.image.water
    if unit == "HU":
        return unit, lambda mu: 1000 * (mu / water - 1)
    if unit != "1/mm":
        raise InputError("image.unit", repr(unit), "1/mm or HU")
    return unit, same
