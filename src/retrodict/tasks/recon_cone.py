"""Cone beams: projections of a file, corrected row by row as sinograms are, as one measurement of a `Projection`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data.raw import Raw
from retrodict.physics.counts import LogPoissonNoise
from retrodict.physics.geometry import FanBeam
from retrodict.physics.measurement import Measurement
from retrodict.physics.noise import GaussianNoise, Noise
from retrodict.physics.projection import Projection
from retrodict.physics.views import ConeBeam
from retrodict.tasks.machine import free_memory
from retrodict.tasks.recon_acquired import Acquisition, digest_of
from retrodict.tasks.recon_config import Problem
from retrodict.tasks.recon_geometry import angles_of, beam_of, center_of, check_counts_of, grid_of, shown_as, span_of
from retrodict.tasks.recon_hardening import hardening_of, noise_after
from retrodict.tasks.recon_tomography import Sinogram, Stack, notes_of, said_of, sinogram_of, stack_of

__all__ = ["cone"]


def cone(raw: Raw, problem: Problem) -> Acquisition:
    """The projections of a file `(views, rows, columns)` as one volume; `InputError` for all that does not fit."""
    stack = _in_memory(stack_of(raw, problem))
    views, rows, bins = (stack.size(axis) for axis in ("view", "slice", "bin"))
    if problem.slices is not None:
        raise InputError("slices", list(problem.slices), "none of a cone beam, whose rows see the volume together")
    check_counts_of(problem.scan, views, bins)
    angles = angles_of(raw, problem.scan, views)
    found = [sinogram_of(stack, i) for i in range(rows)]
    values, missing = (torch.stack([getattr(s, name) for s in found], 1) for name in ("values", "missing"))
    center, about = center_of(problem.scan, values[:, rows // 2], angles)
    fan = beam_of(problem.scan, angles, bins, center)
    assert isinstance(fan, FanBeam)  # a cone has the middle row of one
    size, spacing = _grid(problem, fan, rows)
    operator = Projection(size, _beam(problem, fan, rows), spacing=spacing)
    noise = _joined([s.noise for s in found])
    values, noise, hardened = _linear(problem, values, noise)
    corrections = _about(found) | hardened | {"noise": said_of(noise)}
    about |= {"corrections": corrections, "angles": span_of(angles)}
    mask = (~missing).float()[None] if bool(missing.any()) else None
    y = values.float()[None, None]
    unit, shown = shown_as(problem)
    return Acquisition(
        "projections",
        lambda k, whole: Measurement(operator, y, noise, None if whole else mask),
        1,
        unit,
        spacing,
        digest_of(values.numpy(), problem.model_dump_json(), raw.identity),
        spacing[0],
        shown,
        {"operator": dict(operator.about), **about},
        tuple(notes_of(corrections, about)),
        () if raw.kind == "memory" else (raw.path,),
        stacked=False,
    )


def _in_memory(stack: Stack) -> Stack:
    """The projections read once, as a cone is not read row by row; refused where they would not fit."""
    if "slice" not in stack.axes:
        expected = "views, rows and columns of a cone beam"
        raise InputError(f"{stack.raw.path}: {stack.name}", f"two axes {stack.stored.shape}", expected)
    needed, free = 30 * math.prod(stack.stored.shape), free_memory()
    if free is not None and needed > free:
        found = f"projections {stack.stored.shape}, and {free / 1e9:.1f} GB of free memory"
        hint = "Bin the detector, or take fewer views."
        raise InputError(f"{stack.raw.path}: {stack.name}", found, f"at least {needed / 1e9:.1f} GB of it", hint)
    array = stack.raw.read(stack.name)
    kept = Raw.of({stack.name: array}, str(stack.raw.path))
    return replace(stack, raw=replace(kept, entries={**stack.raw.entries, **kept.entries}))


def _beam(problem: Problem, fan: FanBeam, rows: int) -> ConeBeam:
    """The scan whose middle row is the fan; `row_center` is the row of the plane of the turn."""
    scan = problem.scan
    if scan.curved:
        raise InputError("scan.curved", "true, for a cone beam", "false: a flat detector")
    pitch = scan.pitch if scan.row_pitch is None else scan.row_pitch
    offset = 0.0
    if scan.row_center is not None:
        if not 0 <= scan.row_center <= rows - 1:
            raise InputError("scan.row_center", f"{scan.row_center:g}", f"a row from 0 to {rows - 1}")
        offset = ((rows - 1) / 2 - scan.row_center) * float(pitch or fan.pitch)
    bins = (rows, fan.bins)
    return ConeBeam(
        fan.angles, bins, (float(pitch or fan.pitch), fan.pitch), fan.source, fan.detector, (offset, fan.offset)
    )


def _grid(problem: Problem, fan: FanBeam, rows: int) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Slices, rows and columns, and voxels: in the plane as of a fan, along the axis as the rows see it."""
    (ny, nx), (dy, dx) = grid_of(problem, fan)
    image, scan = problem.image, problem.scan
    pitch = fan.pitch if scan.row_pitch is None else scan.row_pitch
    dz = image.slice_spacing if "slice_spacing" in image.model_fields_set else pitch * fan.source / fan.detector
    return (image.slices or rows, ny, nx), (dz, dy, dx)


def _joined(laws: list[Noise | None]) -> Noise | None:
    """One law of all rows: their photons side by side, or one deviation."""
    counted = [n for n in laws if isinstance(n, LogPoissonNoise)]
    if len(counted) == len(laws):
        doses = torch.broadcast_tensors(*(n.transmission.dose for n in counted))
        electronic = sum(n.transmission.electronic for n in counted) / len(counted)
        return LogPoissonNoise(torch.stack(doses, -2) if doses[0].ndim else doses[0], electronic=electronic)
    numbers = [n.covariance.number for n in laws if isinstance(n, GaussianNoise) and n.covariance.number is not None]
    if len(numbers) == len(laws):
        return GaussianNoise.white(math.sqrt(sum(float(v) for v in numbers) / len(numbers)), "1")
    return None


def _linear(problem: Problem, values: Tensor, noise: Noise | None) -> tuple[Tensor, Noise | None, dict[str, Any]]:
    """Corrected for beam hardening of known coefficients or spectrum."""
    asked = problem.corrections.hardening
    if asked is None:
        return values, noise, {}
    if asked.fit is not None:
        hint = "Fit the middle row as a fan beam, and give the coefficients."
        raise InputError("corrections.hardening.fit", asked.fit, "none of a cone beam", hint)
    found = hardening_of(asked, values, None)
    return found.correction(values), noise_after(noise, found.correction, values), {"hardening": found.about}


def _about(rows: list[Sinogram]) -> dict[str, Any]:
    """What was done to the rows together: counts are summed, levels averaged."""
    out: dict[str, Any] = {"kind": rows[0].about["kind"], "rows": len(rows)}
    for name in rows[0].about:
        given = [s.about[name] for s in rows if isinstance(s.about.get(name), int | float)]
        if not given:
            continue
        if name == "dead_bins":
            out[name] = sum(given)
        elif name.endswith("_rms"):
            out[name] = math.sqrt(sum(v * v for v in given) / len(given))
        else:
            out[name] = sum(given) / len(given)
    return out
