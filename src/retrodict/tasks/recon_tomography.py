"""Sinograms: readings or line integrals of a file, corrected and checked, as measurements of a `Radon` operator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data.raw import Raw, Stored
from retrodict.physics.corrections import (
    dead_bins,
    fill,
    noise_level,
    photon_gain,
    remove_air,
    remove_rings,
    transmission,
)
from retrodict.physics.counts import LogPoissonNoise
from retrodict.physics.measurement import Measurement
from retrodict.physics.noise import GaussianNoise, Noise
from retrodict.physics.radon import Radon
from retrodict.tasks.recon_acquired import (
    Acquisition,
    array_of,
    check_noise_unit,
    chosen,
    data_name,
    digest_of,
)
from retrodict.tasks.recon_config import Problem
from retrodict.tasks.recon_geometry import angles_of, beam_of, center_of, check_counts_of, grid_of, shown_as, span_of
from retrodict.tasks.recon_hardening import Corrected, hardening_of, noise_after

__all__ = ["Sinogram", "Stack", "noise_of", "notes_of", "said_of", "sinogram_of", "stack_of", "tomography"]

MOST = 25.0
"""Line integrals beyond this are none: a transmission of 1e-11."""


TILT = 0.5
"""Degrees from which on the tilt of a row of detectors is said: 1 mm over the 115 mm from axis to skin."""


class Sinogram(NamedTuple):
    """Line integrals of one slice `(views, bins)`, which of them say nothing, their law, and what was done."""

    values: Tensor
    missing: Tensor
    noise: Noise | None
    about: dict[str, Any]


@dataclass(frozen=True)
class Stack:
    """The data of a file with their axes, and the readings without an object."""

    raw: Raw
    problem: Problem
    name: str
    axes: tuple[str, ...]
    flats: np.ndarray | None
    darks: np.ndarray | None
    kind: str

    @property
    def stored(self) -> Stored:
        return self.raw.stored(self.name)

    def size(self, axis: str) -> int:
        return self.stored.shape[self.axes.index(axis)] if axis in self.axes else 1

    def readings(self, i: int) -> Tensor:
        """Slice i, `(views, bins)` float64."""
        index = tuple(i if axis == "slice" else slice(None) for axis in self.axes)
        array = self.raw.read(self.name, index)
        if array.dtype.kind == "c":
            raise InputError(f"{self.raw.path}: {self.name}", "complex values", "real ones: counts or line integrals")
        rest = [axis for axis in self.axes if axis != "slice"]
        array = array if rest == ["view", "bin"] else array.T
        if not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise InputError(f"{self.raw.path}: {self.name}", f"{count} values that are nan or infinite", "finite ones")
        return self._in_order(array)

    def _in_order(self, array: np.ndarray) -> Tensor:
        """The bins as the detector has them."""
        array = array[..., ::-1] if self.problem.scan.reversed else array
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))

    def beam(self, which: str, i: int) -> Tensor | None:
        """Flats or darks of slice i, `(n, bins)`."""
        stack = self.flats if which == "flats" else self.darks
        if stack is None:
            return None
        bins, slices = self.size("bin"), self.size("slice")
        found = np.asarray(stack, dtype=np.float64)
        if found.ndim == 1:
            found = found[None]
        if found.ndim == 3 and found.shape[1:] == (slices, bins):
            found = found[:, i]
        elif found.ndim == 2 and found.shape == (slices, bins) and slices > 1:
            found = found[i : i + 1]
        if found.ndim != 2 or found.shape[1] != bins:
            expected = f"readings of {slices} slices of {bins} bins, as the data"
            raise InputError(f"counts.{which}", f"shape {stack.shape}", expected)
        return self._in_order(found)


# ---- reading and checking --------------------------------------------------------------------------------------------


def tomography(raw: Raw, problem: Problem) -> Acquisition:
    """The sinograms of a file; raises `InputError` for all that does not fit, before anything long."""
    stack = stack_of(raw, problem)
    views, bins = stack.size("view"), stack.size("bin")
    angles = angles_of(raw, problem.scan, views)
    check_counts_of(problem.scan, views, bins)
    slices = chosen(stack.size("slice"), problem.slices)
    middle = slices[len(slices) // 2]
    first = sinogram_of(stack, middle)
    center, about = center_of(problem.scan, first.values, angles)
    scan = beam_of(problem.scan, angles, bins, center)
    size, spacing = grid_of(problem, scan)
    operator = Radon(size, scan, spacing=spacing)
    asked = problem.corrections.hardening
    hardening = None if asked is None else hardening_of(asked, first.values, operator)
    first = _linear(first, hardening)
    about |= {"corrections": first.about, "slice_looked_at": middle, "angles": span_of(angles)}
    notes = notes_of(first.about, about) + _tilted(raw, slices, about)

    @cache
    def last(i: int) -> Sinogram:  # the one slice that a method, its record and its picture ask for
        return first if i == middle else _linear(sinogram_of(stack, i), hardening)

    def part(k: int, whole: bool) -> Measurement:
        i = slices[k]
        if i != middle:
            last.cache_clear()
        found = last(i)
        mask = None if whole or not bool(found.missing.any()) else (~found.missing).float()[None]
        return Measurement(operator, found.values.float()[None, None], found.noise, mask)

    unit, shown = shown_as(problem)
    return Acquisition(
        "sinogram",
        part,
        len(slices),
        unit,
        spacing,
        digest_of(first.values.numpy(), problem.model_dump_json(), raw.identity),
        problem.image.slice_spacing,
        shown,
        {"operator": dict(operator.about), **about},
        tuple(notes),
        () if raw.kind == "memory" else (raw.path,),
    )


def _tilted(raw: Raw, slices: range, about: dict[str, Any]) -> list[str]:
    """How far the rows of a cone beam that are taken for fans are out of the plane of the turn."""
    if raw.kind != "ct-pd":
        return []
    worst = float(np.abs(raw.read("tilt")[list(slices)]).max())
    about["tilt_degrees"] = worst
    if worst < TILT:
        return []
    return [f"rows up to {worst:.2f} degrees out of the plane of the turn are taken for rows in it"]


def stack_of(raw: Raw, problem: Problem) -> Stack:
    """The data of a file and readings without an object; rows of a cone beam are what slices are of other scans."""
    name = data_name(raw, problem.data)
    stored, counts = raw.stored(name), problem.counts
    parts = {w: getattr(counts, w) for w in ("flats", "darks")}
    stacks = {w: None if n is None else array_of(raw, n, f"counts.{w}") for w, n in parts.items()}
    kind = counts.kind
    if kind is None:
        given = stacks["flats"] is not None or counts.i0 is not None
        kind = "counts" if given or stored.dtype.kind in "iu" else "line_integrals"
    if kind == "counts" and stacks["flats"] is None and counts.i0 is None:
        hint = "Give counts.flats, or counts.i0, or counts.kind=line_integrals if the logarithm was taken."
        raise InputError("counts.flats", "none", "readings without the object, to divide the counts by", hint)
    axes = _axes(raw, problem, stored.shape)
    return Stack(raw, problem, name, axes, stacks["flats"], stacks["darks"], kind)


def _axes(raw: Raw, problem: Problem, shape: tuple[int, ...]) -> tuple[str, ...]:
    where = f"{raw.path}: {problem.data or 'data'}"
    row = "row" if problem.scan.beam == "cone" else "slice"
    if problem.axes is not None:
        if len(problem.axes) != len(shape) or not {"view", "bin"} <= set(problem.axes) <= {row, "view", "bin"}:
            raise InputError("axes", list(problem.axes), f"view, bin and {row}, in the order of {shape}")
        return tuple("slice" if axis == "row" else axis for axis in problem.axes)
    if len(shape) == 2:
        return ("view", "bin")
    if len(shape) != 3:
        raise InputError(where, f"{len(shape)} axes", "(views, bins), or views, slices and bins in any order")
    angles = problem.scan.angles
    count = problem.scan.views
    if isinstance(angles, str):
        count = int(np.size(array_of(raw, angles, "scan.angles")))
    elif isinstance(angles, list):
        count = len(angles)
    places = [k for k, n in enumerate(shape) if n == count] if count else [0]
    if len(places) != 1:
        found = f"a shape {shape} with {len(places)} axes of the {count} angles"
        raise InputError(where, found, "one axis of views", "Give axes, such as [view, slice, bin].")
    rest = [k for k in range(3) if k != places[0]]
    names = {places[0]: "view", rest[0]: "slice", rest[1]: "bin"}
    return tuple(names[k] for k in range(3))


# ---- one slice -------------------------------------------------------------------------------------------------------


def sinogram_of(stack: Stack, i: int) -> Sinogram:
    """Slice or row i as line integrals, corrected but for the hardening of the beam."""
    problem, readings = stack.problem, stack.readings(i)
    about: dict[str, Any] = {"kind": stack.kind}
    noise: Noise | None = None
    missing = torch.zeros_like(readings, dtype=torch.bool)
    if stack.kind == "counts":
        values, missing, noise = _from_counts(stack, readings, i, about)
    else:
        values = readings
        highest = float(values.max())
        if highest > MOST:
            hint = "Counts need counts.flats or counts.i0."
            raise InputError(
                f"{stack.raw.path}: {stack.name}", f"line integrals up to {highest:.4g}", f"at most {MOST:g}", hint
            )
    values = fill(values, missing)
    if problem.corrections.air:
        values, air = remove_air(values, problem.corrections.air)
        about["air_rms"] = float(air.square().mean().sqrt())
    if problem.corrections.rings:
        values, stripe = remove_rings(values, problem.corrections.rings)
        about["rings_rms"] = float(stripe.square().mean().sqrt())
    stated = noise_of(problem, values, _dose(stack))
    noise = stated if stated is not None else noise
    if problem.noise.law == "none":
        noise = None
    about["noise"] = said_of(noise)
    return Sinogram(values, missing, noise, about)


def _linear(found: Sinogram, hardening: Corrected | None) -> Sinogram:
    """Corrected for beam hardening, with the noise that it then has."""
    if hardening is None:
        return found
    noise = noise_after(found.noise, hardening.correction, found.values)
    about = found.about | {"hardening": hardening.about, "noise": said_of(noise)}
    return found._replace(values=hardening.correction(found.values), noise=noise, about=about)


def _from_counts(stack: Stack, readings: Tensor, i: int, about: dict[str, Any]) -> tuple[Tensor, Tensor, Noise | None]:
    problem = stack.problem
    flats, darks = stack.beam("flats", i), stack.beam("darks", i)
    dark = torch.zeros((), dtype=torch.float64, device="cpu") if darks is None else darks.mean(0)
    flat = flats.mean(0) if flats is not None else torch.tensor(problem.counts.i0, dtype=torch.float64, device="cpu")
    if not bool((flat > dark).any()):
        found = f"flats of {float(flat.mean()):.4g} and darks of {float(dark.mean()):.4g} on average"
        raise InputError("counts.flats", found, "flats above the darks", "They may be exchanged.")
    found = transmission(readings, flat, dark)
    dead = (
        dead_bins(found.open_beam, readings)
        if problem.corrections.dead
        else torch.zeros_like(flat > 0).expand(readings.shape[-1])
    )
    starved = found.starved & ~dead
    share = float(starved.sum()) / max(1, int((~dead).sum()) * len(readings))
    about |= {"dead_bins": int(dead.sum()), "starved_share": share, "flats": 0 if flats is None else len(flats)}
    if share > problem.corrections.starved:
        at = f"{int(starved.sum())} of {readings.numel()} readings ({share:.2%}) at or below the dark"
        expected = f"at most {problem.corrections.starved:.2%}"
        hint = "Look at the darks, or accept more with corrections.starved."
        raise InputError(f"{stack.raw.path}: {stack.name}, slice {i}", at, expected, hint)
    return found.values, starved | dead, _counting(problem, found.open_beam, flats, darks, about)


def _counting(
    problem: Problem, beam: Tensor, flats: Tensor | None, darks: Tensor | None, about: dict[str, Any]
) -> Noise | None:
    """The law of the logarithm of counts: photons per reading by repeated flats, or as given."""
    noise = problem.noise
    if noise.law not in (None, "counts") or noise.sigma is not None:
        return None
    gain, electronic = noise.gain, noise.electronic
    if gain is None and flats is not None and darks is not None and min(len(flats), len(darks)) >= 3:
        estimated = photon_gain(flats, darks)
        gain = estimated.gain
        electronic = estimated.electronic if electronic is None else electronic
    if gain is None and flats is None:
        gain = 1.0  # i0 is in photons
    if gain is None:
        return None
    about |= {"gain": gain, "electronic": electronic or 0.0, "photons": float(beam.mean()) / gain}
    return LogPoissonNoise((beam / gain).clamp_min(1.0), electronic=(electronic or 0.0) / gain)


def _dose(stack: Stack) -> Tensor | float | None:
    """Photons of a ray without an object: a number, or an array of the file for every bin of the detector, in order."""
    given, name = stack.problem.noise.dose, "noise.dose"
    if not isinstance(given, str):
        return given
    views, bins = stack.size("view"), stack.size("bin")
    found = np.asarray(array_of(stack.raw, given, name), dtype=np.float64)
    if found.shape not in ((bins,), (views, bins)):
        raise InputError(name, f"{given}: a shape {found.shape}", f"({bins},) or ({views}, {bins}), as the data")
    if not (np.isfinite(found).all() and found.min() > 0):
        raise InputError(name, f"{given}: photons down to {found.min():g}", "positive numbers")
    return stack._in_order(found)


def noise_of(problem: Problem, values: Tensor, dose: Tensor | float | None = None) -> Noise | None:
    """The law that was stated, or None; `dose` are the photons of every ray."""
    noise = problem.noise
    check_noise_unit(noise, "1")
    if noise.sigma == "estimate":
        return GaussianNoise.white(noise_level(values, (-1,)), "1")
    if noise.sigma is not None:
        spread = float(values.std())
        if noise.sigma > 10 * spread:
            found = f"{noise.sigma:g}, and the data have a deviation of {spread:.4g} in all"
            raise InputError("noise.sigma", found, "the noise of line integrals, which have no unit")
        return GaussianNoise.white(float(noise.sigma), "1")
    if dose is not None:
        return LogPoissonNoise(dose, electronic=noise.electronic or 0.0)
    if noise.law in ("white", "poisson"):
        raise InputError("noise.sigma", "none", "the deviation of the noise, or estimate")
    return None


def said_of(noise: Noise | None) -> str:
    """A law in words, for the record."""
    if noise is None:
        return "none"
    if not isinstance(noise, GaussianNoise):
        return type(noise).__name__
    return repr(noise) if noise.covariance.number is not None else "GaussianNoise, a deviation for every ray"


def notes_of(done: dict[str, Any], about: dict[str, Any]) -> list[str]:
    """What a person should know of what was `done` to the data, and of what was found (`about`)."""
    notes = []
    if "center" in about:
        c = about["center"]
        notes.append(
            f"axis of rotation found at bin {c['bin']:.2f} ({c['off_middle_bins']:+.2f} from the middle; by the center "
            f"of mass {c['by_center_of_mass']:.2f})"
        )
    if done.get("dead_bins"):
        notes.append(f"{done['dead_bins']} dead bins left out")
    if done.get("starved_share"):
        notes.append(f"{done['starved_share']:.2%} of the readings at or below the dark, left out")
    if "gain" in done:
        notes.append(f"{done['photons']:.0f} photons a bin in the open beam, by the noise of the flats")
    if "air_rms" in done:
        notes.append(f"line integrals of air of {done['air_rms']:.3g} rms taken off")
    if "hardening" in done:
        hardening = done["hardening"]
        terms = ", ".join(f"{a:.4g}" for a in hardening["coefficients"])
        fitted = (
            f", fitted to paths within {hardening['rms_mm']:.2g} mm; attenuation {hardening['attenuation']:.4g} 1/mm"
            if "fit" in hardening
            else ""
        )
        notes.append(f"beam hardening corrected by the coefficients [{terms}]{fitted}")
    if "rings_rms" in done:
        notes.append(f"stripes of {done['rings_rms']:.3g} rms taken off the sinogram")
    return notes
