"""From phantom scans to the instrument: NPS and MTF with bands, units and provenance, as files that others take."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._output import staged, stamp, write_file
from retrodict.bases.curve import Curve
from retrodict.data import Image, acquisition, fingerprints
from retrodict.data.units import unit as unit_named
from retrodict.metrics.noise import NoiseSpectrum, autocorrelation, noise_fields, noise_spectrum, whiteness
from retrodict.metrics.overlap import independent_regions
from retrodict.metrics.regions import Region, check_uniform, cut, find_uniform
from retrodict.metrics.resolution import Resolution, circular_edge_mtf, edge_mtf, point_mtf
from retrodict.tasks.scan import Box, Scan, check_targets, load, same_grid, sources_of

__all__ = ["Measured", "check_target", "measure_mtf", "measure_nps", "verdict"]


@dataclass(frozen=True)
class Measured:
    """A measured curve: `record` is the JSON that `fit`, `restore` and `FourierProcess.from_measurement` take.

    `curve` is the record as a `Curve`.  `figure` holds what the picture shows.
    """

    record: dict[str, Any]
    figure: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def curve(self) -> Curve:
        """The curve with its units."""
        return Curve.parse(self.record, self.record["quantity"])

    def save(self, path: str | Path, *, plot: bool = True, force: bool = False) -> list[Path]:
        """Write PATH (JSON) and, with `plot`, a picture beside it (.png); nothing is overwritten without `force`."""
        files = check_target(path, plot=plot, force=force)
        with staged(files[0].parent, files[0].stem, force=True) as staging:
            write_file(staging / files[0].name, json.dumps(self.record, indent=1).encode())
            if plot:
                from retrodict.report.measurement import measured_figure

                write_file(staging / files[1].name, measured_figure(self))
        return files


def check_target(path: str | Path, *, plot: bool = True, force: bool = False) -> list[Path]:
    """The files that `Measured.save` will write; raises where it could not, so that one can look before measuring."""
    return check_targets(path, [".json", ".png"] if plot else [".json"], force=force)


def verdict(white: dict[str, Any]) -> str:
    """The test of whiteness in words: "white (p = 0.3)"."""
    from retrodict.report.measurement import chance

    return f"{'white' if white['white'] else 'not white'} ({chance(white['p_value'])})"


# ---- noise -------------------------------------------------------------------------------------------------------


def measure_nps(
    sources: Sequence[str | Path] | str | Path,
    *,
    repeats: Literal["none", "scans", "half-dose"] = "none",
    size: int = 32,
    count: int = 64,
    regions: Sequence[tuple[int, ...]] | None = None,
    slices: tuple[int, int] | None = None,
    detrend: Literal["poly2", "mean"] = "poly2",
    window: Literal["none", "hann"] = "none",
    spacing: Sequence[float] | None = None,
    unit: str | None = None,
    at: float | None = None,
    bootstrap: int = 400,
    seed: int = 0,
) -> Measured:
    """Noise power spectrum of one scan, of repeated scans of one object, or of a pair of half-dose images.

    repeats "none": uniform regions of each source.  "scans": 2 or more sources of the same object and geometry; what
    they have in common is subtracted, so that the regions need not be uniform.  "half-dose": two sources of half the
    dose each; the result is the NPS of their mean, the full-dose image.

    regions: (row, column) or (slice, row, column) of the first pixel of squares of `size` pixels; without a slice, in
    every slice.  Slices and pixels are always counted as in the file, whatever `slices` and `at` say; `size` counts
    pixels of the grid that is measured.  None: found automatically, at most `count`.  slices: first and last + 1 to
    look at.  at: bring the images to this pixel spacing (mm) first, as `restore --resample` does: a restoration at that
    spacing needs the NPS there.  spacing, unit: for files that have none.

    The autocorrelation has lags of its own along rows (`lag_mm`) and along columns (`lag_columns_mm`).  Regions that
    overlap and slices that share data (overlapping reconstruction) count as what they are worth:
    `summary.independent_regions` and `correlation_of_slices`.

    Raises `InputError` for regions that are not uniform or are clipped, fewer than 2 regions or repeats, images that
    do not lie on one grid, and missing spacing.
    """
    choice("repeats", repeats, ("none", "scans", "half-dose"))
    scans = [load(s, spacing, unit, at, slices) for s in sources_of(sources)]
    images = [s.image for s in scans]
    pixel = same_grid(images)
    stacks = [s.stack for s in scans]
    lowest = unit_named(images[0].unit).air
    if repeats == "none":
        chosen, how = _single(scans, regions, size, count, lowest), detrend
        patches = torch.cat([cut(s, c) for s, c in zip(stacks, chosen, strict=True)])
        places = [r for c in chosen for r in c]
        check_uniform(patches, places)
        independent, along = independent_regions(stacks, chosen)
    else:
        places, patches = _repeated(scans, regions, size, count, lowest, repeats)
        how = "ensemble" if repeats == "scans" and len(stacks) > 2 else "pair"
        independent, along = independent_regions([stacks[0] - stacks[1]], [places])
    shared: dict[str, Any] = {"how": how, "independent": independent}
    spectrum = noise_spectrum(patches, pixel, window=window, bootstrap=bootstrap, seed=seed, **shared)
    if repeats == "half-dose":
        parts = ("value", "lower", "upper", "plane", "variance")
        spectrum = replace(spectrum, **{n: getattr(spectrum, n) / 2 for n in parts})
    test = whiteness(patches, **shared)
    lags = autocorrelation(patches, pixel, how=how, reach=min(12, size // 2 - 1))
    record = _nps_record(spectrum, scans, pixel, places, repeats, how, window, at)
    record["summary"] |= {"independent_regions": independent, "correlation_of_slices": along}
    record["whiteness"] = {"white": test.white, "p_value": test.p_value, "statistic": test.statistic, "dof": test.dof,
                           "strongest_correlation": test.strongest, "at_lag_px": list(test.lag)}  # fmt: skip
    steps = range(lags.shape[1] // 2 + 1)
    record["autocorrelation"] = {"unit": "1", "lag_mm": [k * pixel[1] for k in steps],
                                 "lag_columns_mm": [k * pixel[0] for k in steps],
                                 "rows": lags[lags.shape[0] // 2, lags.shape[1] // 2 :].tolist(),
                                 "columns": lags[lags.shape[0] // 2 :, lags.shape[1] // 2].tolist()}  # fmt: skip
    shown = places[len(places) // 2].slice
    mean = torch.stack(stacks).mean(0) if repeats != "none" else stacks[0]
    noise = noise_fields(patches, how)[0][0]
    return Measured(record, {"kind": "nps", "image": mean[shown], "slice": shown, "regions": places, "field": noise,
                             "spectrum": spectrum, "lags": lags, "unit": images[0].unit, "pixel": pixel})  # fmt: skip


def _single(
    scans: list[Scan], regions: Sequence[tuple[int, ...]] | None, size: int, count: int, lowest: float | None
) -> list[list[Region]]:
    if regions is not None:
        return [s.placed(regions, size) for s in scans]
    each = max(2, count // len(scans))
    return [find_uniform(s.stack, size, count=each, lowest=lowest) for s in scans]


def _repeated(
    scans: list[Scan],
    regions: Sequence[tuple[int, ...]] | None,
    size: int,
    count: int,
    lowest: float | None,
    repeats: str,
) -> tuple[list[Region], Tensor]:
    """Regions and repeats of them (K, R, size, size)."""
    stacks = [s.stack for s in scans]
    if len(stacks) < 2 or (repeats == "half-dose" and len(stacks) != 2):
        wanted = "exactly 2 half-dose images" if repeats == "half-dose" else "at least 2 repeated scans"
        raise InputError("sources", f"{len(stacks)}", wanted, "For one scan leave {repeats} out.", repeats=...)
    if len({s.shape for s in stacks}) > 1:
        raise InputError("sources", "repeats with different numbers of slices", "the same object, scanned alike")
    difference = stacks[0] - stacks[1]
    if not bool((difference != 0).any()):
        raise InputError("sources", "repeats that are identical", "independent scans", "Is it the same file twice?")
    mean = torch.stack(stacks).mean(0)
    if regions is None:
        places = find_uniform(difference, size, count=count, lowest=lowest, level=mean)
    else:
        places = scans[0].placed(regions, size)
    try:
        check_uniform(cut(difference, places), places)
    except InputError as error:
        hint = "The difference of repeats holds more than noise: the object moved, or a pixel is clipped."
        raise InputError(error.where, error.found, "repeats that differ by noise alone", hint) from error
    return places, torch.stack([cut(s, places) for s in stacks])


def _nps_record(
    s: NoiseSpectrum,
    scans: list[Scan],
    pixel: tuple[float, float],
    places: list[Region],
    repeats: str,
    how: str,
    window: str,
    at: float | None,
) -> dict[str, Any]:
    images = [scan.image for scan in scans]
    unit = images[0].unit
    # below two rings a quadratic surface has taken noise away: the second ring is continued to zero frequency
    kept = 1 if how == "poly2" else 0
    frequency = [0.0, *s.frequency[kept:].tolist()]
    continued = [[float(v[kept]), *v[kept:].tolist()] for v in (s.value, s.lower, s.upper)]
    axes, quadrant = _quadrant(s.plane, pixel)
    return {
        "format": "retrodict-measurement-1",
        "quantity": "nps",
        "frequency": frequency,
        "value": continued[0],
        "lower": continued[1],
        "upper": continued[2],
        "unit": f"{unit}^2 mm^2",
        "frequency_unit": "cycles/mm",
        "summary": {
            "noise_sd": s.sd,
            "unit": unit,
            "peak_frequency": s.peak_frequency,
            "average_frequency": s.average_frequency,
            "regions": len(places),
            "integral_over_variance_minus_1": s.integral_error,
            "continued_to_zero_below": float(s.frequency[kept]),
            "compare_with_truth_only_above": s.reliable_from,
            "frequency_resolution": float(s.frequency[0]),
            "band": "95 %, chi^2 law of the periodogram and scatter between regions",
            "rings_complete_below": 0.5 / max(pixel),
        },
        "plane": {
            "frequency": axes,
            "value": quadrant,
            "unit": f"{unit}^2 mm^2",
            "frequency_unit": "cycles/mm",
            "quantity": "nps",
        },
        "method": {"repeats": repeats, "detrend": how, "window": window},
        "provenance": _provenance(images, pixel, at) | {"regions": [scans[0].named(r) for r in places]},
    }


def _quadrant(plane: Tensor, pixel: tuple[float, float]) -> tuple[list[list[float]], list[list[float]]]:
    """Non-negative axes and the mean of the four quadrants, up to Nyquist; zero frequency like its neighbors."""
    axes, folded = [], plane.clone()
    folded[0, 0] = (folded[0, 1] + folded[1, 0] + folded[0, -1] + folded[-1, 0]) / 4
    for axis, d in ((0, pixel[0]), (1, pixel[1])):
        n = plane.shape[axis]
        index = torch.arange(n // 2 + 1, device="cpu")
        folded = 0.5 * (folded.index_select(axis, index) + folded.index_select(axis, (-index) % n))
        axes.append((index.double() / (n * d)).tolist())
    return axes, folded.tolist()


def _provenance(images: list[Image], pixel: tuple[float, float], at: float | None) -> dict[str, Any]:
    paths = [p for i in images for p in i.source]
    return {
        "files": fingerprints(paths),
        "pixel_spacing_mm": list(pixel),
        "resampled_to_mm": at,
        "unit": images[0].unit,
        "acquisition": acquisition(paths),
        **stamp(),
    }


# ---- resolution --------------------------------------------------------------------------------------------------


def measure_mtf(
    source: str | Path,
    *,
    kind: Literal["edge", "disc", "wire", "bead"] = "edge",
    region: Box | None = None,
    slices: tuple[int, int] | None = None,
    diameter: float = 0.0,
    radius: float | None = None,
    half_width: float | None = None,
    oversampling: int = 4,
    window: Literal["auto", "hann", "tukey"] = "auto",
    spacing: Sequence[float] | None = None,
    unit: str | None = None,
    at: float | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> Measured:
    """MTF from a slanted straight "edge", the rim of a "disc" insert, a "wire" seen end-on or a "bead".

    region: (first row, last row + 1, first column, last column + 1) that holds the object and its surroundings, in
    pixels of the file whatever `at` says; None takes the whole image.  slices: first and last + 1 of the slices to
    average over.  diameter (mm) of the wire or bead, radius (mm) of the disc (None: estimated).  at: bring the image to
    this pixel spacing (mm) first.  Other arguments and errors: `retrodict.metrics.edge_mtf`, `circular_edge_mtf`,
    `point_mtf`.
    """
    choice("kind", kind, ("edge", "disc", "wire", "bead"))
    scan = load(source, spacing, unit, at, slices)
    image, part = scan.image, scan.crop(region)
    pixel = same_grid([image])
    shared: dict[str, Any] = {"half_width": half_width, "bootstrap": bootstrap, "seed": seed}
    if kind == "edge":
        result = edge_mtf(part, pixel, oversampling=oversampling, window=window, **shared)
    elif kind == "disc":
        result = circular_edge_mtf(part, pixel, radius=radius, oversampling=oversampling, window=window, **shared)
    else:
        result = point_mtf(part, pixel, diameter=diameter, **shared)
    record = _mtf_record(result, image, pixel, kind, region, slices, at)
    return Measured(record, {"kind": "mtf", "image": part.mean(0), "resolution": result, "pixel": pixel,
                             "unit": image.unit})  # fmt: skip


def _mtf_record(
    r: Resolution,
    image: Image,
    pixel: tuple[float, float],
    kind: str,
    region: Box | None,
    slices: tuple[int, int] | None,
    at: float | None,
) -> dict[str, Any]:
    def three(values: tuple[float, float, float]) -> dict[str, float | None]:
        return {n: (v if math.isfinite(v) else None) for n, v in zip(("value", "lower", "upper"), values, strict=True)}

    where = {"region": list(region) if region else None, "slices": list(slices) if slices else None}
    return {
        "format": "retrodict-measurement-1",
        "quantity": "mtf",
        "frequency": r.frequency.tolist(),
        "value": r.value.clamp_min(0.0).tolist(),
        "lower": r.lower.clamp_min(0.0).tolist(),
        "upper": r.upper.clamp_min(0.0).tolist(),
        "unit": "1",
        "frequency_unit": "cycles/mm",
        "summary": {
            "mtf50": three(r.mtf50),
            "mtf10": three(r.mtf10),
            "contrast": r.contrast,
            "noise_sd_per_pixel": r.noise,
            "unit": image.unit,
            "band": "95 %, bootstrap",
            "nyquist": 0.5 / pixel[1],
        },
        "method": {"kind": kind, **r.details},
        "provenance": _provenance([image], pixel, at) | where,
    }
