"""From one scan to a map of its noise: what `restore --noise-map` takes, with its sampling error and a picture."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError
from retrodict._output import staged, stamp, write_file
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.data import Image, acquisition, fingerprints
from retrodict.data.units import unit as unit_named
from retrodict.metrics.local_noise import LocalNoise, high_pass, local_noise
from retrodict.samplers.misfit import flat_pixels
from retrodict.tasks.scan import Scan, load, same_grid

__all__ = ["MeasuredMap", "measure_noise_map"]

CANDIDATES = (0.45, 0.6, 0.75, 0.9)
"""Parts of the Nyquist frequency above which noise is looked for, the lowest where enough of the image is clean."""

CLEAN = 0.6
"""Share of the tiles that has to be clean for a lower frequency to be taken."""

MOST_ERROR = 0.15
"""Relative standard error of the level that nine tenths of the image have to be within."""

AROUND = 4
"""Pixels around clipped or constant ones that are not looked at."""


@dataclass(frozen=True)
class MeasuredMap:
    """A measured noise map: `image` in the unit "1", `error` its relative standard error `(Z, H, W)`, and `record`.

    With the NPS of the instrument the values are multiples of its noise; without one they are relative to the root mean
    square over what could be looked at.
    """

    image: Image
    error: Tensor
    record: dict[str, Any]
    figure: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, path: str | Path, *, plot: bool = True, force: bool = False) -> list[Path]:
        """Write PATH (npz: image, spacing, unit, relative_error), its record (.json) and perhaps a picture (.png).

        Nothing is overwritten without `force`.
        """
        files = check_map_target(path, plot=plot, force=force)
        with staged(files[0].parent, files[0].stem, force=True) as staging:
            write_file(staging / files[0].name, self._archive())
            write_file(staging / files[1].name, json.dumps(self.record, indent=1).encode())
            if plot:
                from retrodict.report.measurement import noise_map_figure

                write_file(staging / files[2].name, noise_map_figure(self))
        return files

    def _archive(self) -> bytes:
        values, stream = self.image.values[0].numpy().astype(np.float32), io.BytesIO()
        np.savez_compressed(
            stream,
            image=values,
            spacing=np.array(self.image.spacing[-2:] if values.ndim == 2 or not self.image.regular else
                             self.image.spacing),
            unit=np.array(self.image.unit),
            relative_error=self.error.reshape(values.shape).numpy().astype(np.float32),
        )  # fmt: skip
        return stream.getvalue()


def check_map_target(path: str | Path, *, plot: bool = True, force: bool = False) -> list[Path]:
    """The files that `MeasuredMap.save` will write; raises where it could not."""
    target = Path(path)
    if target.suffix != ".npz":
        raise InputError(target, f"the suffix {target.suffix!r}", ".npz")
    if not target.parent.is_dir():
        raise InputError(target, "no such folder", "a file name in an existing folder")
    files = [target, target.with_suffix(".json"), *([target.with_suffix(".png")] if plot else [])]
    for file in files:
        if file.exists() and not force:
            raise InputError(file, "a file of an earlier run", "a new name", "Use {force} to replace it.", force=True)
    return files


def measure_noise_map(
    source: str | Path,
    *,
    nps: Any = None,
    above: float | None = None,
    tile: int = 16,
    together: bool = False,
    slices: tuple[int, int] | None = None,
    spacing: Sequence[float] | None = None,
    unit: str | None = None,
) -> MeasuredMap:
    """How the strength of the noise varies over a scan, from the frequencies that its object does not reach.

    nps: the NPS of the instrument (path, record or `Curve`) that the map is then relative to: the one to restore with.
    above: cycles/mm from which on there is noise alone (None: the lowest part of the Nyquist frequency at which the
    tiles look like noise).  tile: side in pixels of the squares whose mean power is taken.  together: one map of all
    slices, for scans whose noise does not change along the table; else one for each.  slices: first and last + 1.

    Raises `InputError` where too few tiles hold noise alone, where the level is not known to 15 % in nine tenths of the
    image, and where half of the noise is the rounding of the values.
    """
    if tile < 8:
        raise InputError("tile", tile, "at least 8 pixels")
    scan = load(source, spacing, unit, None, slices)
    pixel = same_grid([scan.image])
    usable = _usable(scan)
    curve = None if nps is None else _nps_of(nps, scan.image)
    groups = (
        [(scan.stack, usable)] if together else [(x[None], u[None]) for x, u in zip(scan.stack, usable, strict=True)]
    )
    chosen = above or _above(*groups[len(groups) // 2], pixel, tile)
    found = [local_noise(x, pixel, u, above=chosen, tile=tile) for x, u in groups]
    for number, one in enumerate(found):
        _check(one, number + scan.first, together or len(groups) == 1)
    found = [_without_rounding(f, x, pixel, chosen) for f, (x, _) in zip(found, groups, strict=True)]
    level = torch.stack([f.level for f in found])
    known = torch.stack([f.known for f in found])
    whole = _expected(curve, pixel, chosen) if curve else float(level[known].square().mean().sqrt())
    values = (level / whole).reshape(1, *level.shape) if len(level) > 1 else (level / whole)
    image = Image(values.float(), "1", _spacing_of(scan.image, len(level)), "npz", (), regular=len(level) == 1)
    record = _record(found, values[:, known.reshape(values.shape[1:])], scan, pixel, chosen, together, nps)
    shown = len(found) // 2
    figure = {"kind": "noise-map", "image": scan.stack[len(scan.stack) // 2], "map": values.reshape(level.shape)[shown],
              "error": found[shown].error, "known": known[shown], "pixel": pixel, "unit": scan.image.unit}  # fmt: skip
    return MeasuredMap(image, torch.stack([f.error for f in found]), record, figure)


def _spacing_of(image: Image, count: int) -> tuple[float, ...]:
    return (math.nan, *image.spacing[-2:]) if count > 1 else tuple(image.spacing[-2:])


# ---- where noise can be seen ----------------------------------------------------------------------------------------


def _usable(scan: Scan) -> Tensor:
    """Pixels `(Z, H, W)` where the noise is that of the instrument: not clipped, constant, outside, nor air."""
    stack = scan.stack
    bad = flat_pixels(stack[:, None])
    if scan.image.padding is not None:
        bad = bad | scan.image.padding.reshape(-1, *bad.shape[1:])
    air = unit_named(scan.image.unit).air
    if air is not None:  # scanners cut the noise of air off, or smooth it
        bad = bad | (F.avg_pool2d(stack[:, None], 9, 1, 4, count_include_pad=False)[:, 0] < air)
    wide = F.max_pool2d(bad[:, None].double(), 2 * AROUND + 1, 1, AROUND)[:, 0] > 0
    return ~wide


def _above(stack: Tensor, usable: Tensor, pixel: tuple[float, float], tile: int) -> float:
    """The lowest candidate at which enough tiles hold noise alone, or the one with the most."""
    nyquist, best, error = 0.5 / max(pixel), (0.0, 0.0), None
    for part in CANDIDATES:
        try:
            clean = local_noise(stack, pixel, usable, above=part * nyquist, tile=tile).clean
        except InputError as failed:
            error = failed
            continue
        if clean >= CLEAN:
            return part * nyquist
        best = max(best, (clean, part * nyquist))
    if best[1] == 0.0:
        assert error is not None
        raise error
    return best[1]


def _check(found: LocalNoise, number: int, alone: bool) -> None:
    where = "image" if alone else f"slice {number}"
    errors = found.error[found.known]
    worst = float(errors.kthvalue(max(1, math.ceil(0.9 * len(errors)))).values)
    if worst > MOST_ERROR:
        raise InputError(where, f"a level of the noise that is known to {worst:.0%} only",
                         f"{MOST_ERROR:.0%} in nine tenths of the image",
                         "Measure several slices with {together}, or a phantom of the same size.",
                         together=True)  # fmt: skip


def _without_rounding(found: LocalNoise, values: Tensor, pixel: tuple[float, float], above: float) -> LocalNoise:
    """The level without the variance 1/12 that whole numbers add; an error where that is half of it or more."""
    if not bool((values == values.round()).all()):
        return found
    size = (int(values.shape[-2]), int(values.shape[-1]))
    rounding = float(_share(high_pass(size, pixel, above), size)) / 12
    if float(found.level[found.known].square().min()) < 2 * rounding:
        raise InputError(
            "image",
            f"noise of {float(found.level[found.known].min()):.2g} above {above:.2g} cycles/mm in values that are "
            f"rounded to whole numbers, which alone makes {math.sqrt(rounding):.2g}",
            "stronger noise",
            "Give a lower {above}.",
            above=...,
        )
    return replace(found, level=(found.level.square() - rounding).clamp_min(rounding).sqrt())


def _share(filters: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean of the square of a filter over all frequencies."""
    return (filters.square() * Fourier(size).multiplicity()).sum() / math.prod(size)


# ---- relative to what -----------------------------------------------------------------------------------------------


def _nps_of(nps: Any, image: Image) -> Curve:
    curve = Curve.parse(nps, "nps")
    if curve.unit.split("^")[0] != image.unit:
        raise InputError("nps.unit", repr(curve.unit), f"{image.unit}^2 mm^2, the unit of the image")
    return curve


def _expected(nps: Curve, pixel: tuple[float, float], above: float) -> float:
    """Standard deviation of what the filter leaves of noise with the NPS."""
    basis = Fourier((256, 256), pixel)
    nps.require("nps", basis)
    power = nps.on(basis) / math.prod(pixel) * high_pass((256, 256), pixel, above) ** 2
    total = float((power * basis.multiplicity()).sum() / math.prod(basis.size))
    if total <= 0:
        raise InputError("nps", f"no noise above {above:.3g} cycles/mm", "an NPS that is not zero there",
                         "Give a lower {above}.", above=...)  # fmt: skip
    return math.sqrt(total)


def _record(
    found: list[LocalNoise],
    values: Tensor,
    scan: Scan,
    pixel: tuple[float, float],
    above: float,
    together: bool,
    nps: Any,
) -> dict[str, Any]:
    errors = torch.cat([f.error[f.known] for f in found])
    return {
        "format": "retrodict-noise-map-1",
        "unit": "1",
        "relative_to": "root mean square of the image" if nps is None else f"the NPS {nps}",
        "summary": {
            "lowest": float(values.min()),
            "highest": float(values.max()),
            "ratio": float(values.max() / values.min()),
            "relative_error": float(errors.median()),
            "tiles": sum(f.tiles for f in found),
            "clean_share": min(f.clean for f in found),
            "scatter_of_tiles": max(f.scatter for f in found),
            "range_mm": [f.range_mm for f in found],
        },
        "method": {"above": above, "together": together, "slices": len(scan.stack),
                   "error": "sampling error of the kriging; structure that looks like noise is not in it"},
        "provenance": {"files": fingerprints(list(scan.image.source)), "pixel_spacing_mm": list(pixel),
                       "acquisition": acquisition(list(scan.image.source)), **stamp()},
    }  # fmt: skip
