"""What is said of a raw measurement (problem, geometry, corrections, noise): in YAML, flags or the file itself."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from retrodict._check import InputError
from retrodict.tasks.config_file import Strict, first_error, overridden, read_record

__all__ = [
    "BlurPart",
    "CoilPart",
    "CorrectionPart",
    "CountPart",
    "GridPart",
    "HardeningPart",
    "NoisePart",
    "Problem",
    "ScanPart",
    "SimulatePart",
    "asked",
    "problem_of",
]

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
PROBLEMS = ("tomography", "kspace", "deblur", "inpaint", "super_resolution")


class Range(Strict):
    """Angles start, start + step, ...; their number is that of the views."""

    start: float = 0.0
    step: float


class ScanPart(Strict):
    """Geometry of a tomograph: lengths in mm, `center` in bins; angles are a name in the file, a list, or a range.

    `reversed`: the first bin of the file is the last one of the detector; `turn` is added to all angles, in degrees.
    Both matter of a fan: one that runs the wrong way is sharp in the middle and doubled further out.  Of a cone beam,
    `row_pitch` is that of the rows (`pitch` unless given) and `row_center` the row in the plane of the turn; slices of
    the volume rise with the rows.
    """

    beam: Literal["parallel", "fan", "cone"] = "parallel"
    angles: str | list[float] | Range | None = None
    angle_unit: Literal["deg", "rad"] | None = None
    order: Literal["sorted", "any"] = "sorted"
    views: Count | None = None
    bins: Count | None = None
    pitch: Positive | None = None
    offset: float = 0.0
    center: float | Literal["find"] | None = None
    source: Positive | None = None
    detector: Positive | None = None
    curved: bool = False
    reversed: bool = False
    turn: float = 0.0
    row_pitch: Positive | None = None
    row_center: float | None = None


class GridPart(Strict):
    """The image: rows and columns, `slices` of a cone beam, pixel in mm, "1/mm" or "HU" (`water` in 1/mm)."""

    size: Count | tuple[Count, Count] | None = None
    spacing: Positive | tuple[Positive, Positive] | None = None
    slices: Count | None = None
    slice_spacing: Positive = 1.0
    unit: str | None = None
    water: Positive = 0.02


class CountPart(Strict):
    """What readings are: `kind`, where flats and darks lie (in the file, or files beside it), `i0` of an open beam."""

    kind: Literal["counts", "line_integrals"] | None = None
    flats: str | None = None
    darks: str | None = None
    i0: Positive | None = None


class HardeningPart(Strict):
    """Beam hardening of one material: given `coefficients` a1, a2, ... of a1 p + a2 p^2 + ...; or `fit` from this scan,
    of a homogeneous "disc" whose outline the shadow shows, or by "threshold" of an object of one material and any
    shape; or a known spectrum, `weights` and `attenuation` in 1/mm of every energy for paths up to `reach` mm.
    """

    coefficients: list[float] | None = None
    fit: Literal["disc", "threshold"] | None = None
    order: Annotated[int, Field(ge=1, le=6)] = 3
    weights: list[float] | None = None
    attenuation: list[float] | None = None
    reach: Positive | None = None

    @model_validator(mode="after")
    def _one(self) -> HardeningPart:
        """Refuse two ways at once, and half a spectrum."""
        spectrum = [self.weights, self.attenuation, self.reach]
        given = [n for n, v in (("coefficients", self.coefficients), ("fit", self.fit)) if v is not None]
        given += ["weights, attenuation and reach"] if any(v is not None for v in spectrum) else []
        if len(given) != 1 or (given == ["weights, attenuation and reach"] and None in spectrum):
            found = ", ".join(given) if len(given) != 1 else "a part of a spectrum"
            expected = "coefficients, or fit, or weights with attenuation and reach"
            raise InputError("corrections.hardening", found or "nothing", expected)
        return self


class CorrectionPart(Strict):
    """`dead` bins are found and filled in, `rings` is the width of the filter in bins (0: none), `starved` the share of
    rays without counts that is accepted, `air` the bins at each end of a view that see air (0: none), whose line
    integrals are taken off, `hardening` coefficients or a `HardeningPart`.
    """

    dead: bool = True
    rings: Annotated[int, Field(ge=0)] = 0
    starved: Annotated[float, Field(ge=0, le=1)] = 0.001
    air: Annotated[int, Field(ge=0)] = 0
    hardening: HardeningPart | None = None

    @field_validator("hardening", mode="before")
    @classmethod
    def _list(cls, given: Any) -> Any:
        """A list is one of coefficients."""
        return {"coefficients": given} if isinstance(given, list | tuple) else given


class NoisePart(Strict):
    """`law` of the noise; `sigma` per real component in the unit of the data, or "estimate"; for counts the dose.

    `dose` is the photons of a ray without an object: a number, or the name of an array of the file, `(bins,)` or
    `(views, bins)`.
    """

    law: Literal["white", "counts", "poisson", "none"] | None = None
    sigma: Positive | Literal["estimate"] | None = None
    unit: str | None = None
    dose: Positive | str | None = None
    gain: Positive | None = None
    electronic: Annotated[float, Field(ge=0)] | None = None


class CoilPart(Strict):
    """k-space: names or files of the `mask`, of the `maps` ("espirit" finds them) and of samples of `noise` alone."""

    mask: str | None = None
    maps: str = "espirit"
    noise: str | None = None
    calibration: Annotated[int, Field(ge=8)] = 24
    kernel: Annotated[int, Field(ge=3, le=12)] = 6
    crop_oversampling: bool = True


class BlurPart(Strict):
    """The PSF: a file of an image, or the full width of a Gaussian in mm (one, or one for each axis)."""

    psf: str | None = None
    fwhm: Positive | list[Positive] | None = None
    boundary: Literal["circular", "zero"] = "circular"
    volume: bool = False


class SimulatePart(Strict):
    """What to measure of the image: views and dose, accelerated lines, a mask, a blur, noise.

    The image is taken on its own pixels, and the reconstruction has pixels `refine` times as large; with `same_grid`
    both have the same, which is an inverse crime, and said so.
    """

    views: Count = 180
    span: Positive | None = None
    dose: Positive | None = None
    electronic: Annotated[float, Field(ge=0)] = 0.0
    acceleration: Annotated[float, Field(ge=1)] = 4.0
    family: str = "equispaced"
    center: Annotated[float, Field(ge=0, le=1)] = 0.08
    coils: Annotated[int, Field(ge=1)] = 8
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    sigma: Positive | None = None
    refine: Annotated[int, Field(ge=2, le=8)] = 2
    same_grid: bool = False
    seed: int = 0


class Problem(Strict):
    """A raw measurement and all that is needed to reconstruct it."""

    problem: Literal["tomography", "kspace", "deblur", "inpaint", "super_resolution"]
    data: str | None = None
    axes: list[Literal["slice", "view", "row", "bin", "coil", "ky", "kx"]] | None = None
    slices: tuple[int, int] | None = None
    scan: ScanPart = ScanPart()
    image: GridPart = GridPart()
    counts: CountPart = CountPart()
    corrections: CorrectionPart = CorrectionPart()
    noise: NoisePart = NoisePart()
    coils: CoilPart = CoilPart()
    blur: BlurPart = BlurPart()
    mask: str | None = None
    factor: Annotated[int, Field(ge=2)] = 2
    filter: str = "mean"
    simulate: SimulatePart | None = None

    @model_validator(mode="after")
    def _whole(self) -> Problem:
        """Refuse a problem that lacks its one thing."""
        if self.problem == "deblur" and (self.blur.psf is None) == (self.blur.fwhm is None):
            found = "both a PSF and a width" if self.blur.psf else "neither a PSF nor a width"
            raise InputError("blur", found, "one of psf and fwhm")
        if self.problem == "inpaint" and self.mask is None and self.simulate is None:
            raise InputError("mask", "none", "an image that is 1 where something was measured")
        if self.slices is not None and not 0 <= self.slices[0] < self.slices[1]:
            raise InputError("slices", list(self.slices), "two numbers, first and end, 0 <= first < end")
        return self

    @property
    def grid_size(self) -> tuple[int, int] | None:
        """Rows and columns, if they were given."""
        size = self.image.size
        return (size, size) if isinstance(size, int) else size

    @property
    def pixel(self) -> tuple[float, float] | None:
        """(dy, dx) in mm, if given."""
        spacing = self.image.spacing
        return (spacing, spacing) if isinstance(spacing, float | int) else spacing


def problem_of(
    known: Mapping[str, Any], config: Path | str | Mapping[str, Any] | None, fields: Sequence[str] = ()
) -> Problem:
    """What a file says of itself (`known`), over it a configuration (YAML or mapping), over it `a.b=value` fields.

    Raises `InputError` that names the file or field, and for a problem that nobody names.
    """
    where: object = "config" if isinstance(config, Mapping) else "problem" if config is None else config
    merged = _laid(known, config, fields)
    if "problem" not in merged:
        hint = "Give {problem}, or a configuration with it."
        raise InputError(
            where, "none, and a file that does not say", f"one of {', '.join(PROBLEMS)}", hint, problem="kspace"
        )
    try:
        return Problem.model_validate(merged)
    except ValidationError as error:
        found = first_error(Problem, where, error)
        place = re.sub(r"\.(constrained-\w+|float|int|str|Range|(literal|tuple|list)\[.*)$", "", found.where)
        raise InputError(place, found.found, found.expected, found.hint) from error


def asked(config: Path | str | Mapping[str, Any] | None, fields: Sequence[str] = ()) -> object:
    """The problem that a configuration and fields name, unchecked; None where they name none."""
    return _laid({}, config, fields).get("problem")


def _laid(
    known: Mapping[str, Any], config: Path | str | Mapping[str, Any] | None, fields: Sequence[str]
) -> dict[str, Any]:
    """Fields over a configuration over what is known."""
    record: Mapping[str, Any] = {}
    if isinstance(config, Mapping):
        record = config
    elif config is not None:
        record = read_record(Path(config), "description of a measurement")
    merged = _merged(known, record)
    for text in fields:
        overridden(merged, text, "--field")
    return merged


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings laid over each other, key by key."""
    out = {k: _merged(v, {}) if isinstance(v, Mapping) else v for k, v in below.items()}
    for key, value in above.items():
        old = out.get(key)
        out[key] = _merged(old if isinstance(old, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return out


def radians(given: Sequence[float], unit: str | None, where: object, order: str = "sorted") -> tuple[float, ...]:
    """Angles in radians; `InputError` for those that are in another unit than is said, or out of order.

    Without a unit, a range beyond two turns of radians is degrees, and whole numbers beyond 2 pi are; anything else has
    to be said.
    """
    angles = [float(a) for a in given]
    if not angles or not all(map(math.isfinite, angles)):
        raise InputError(where, f"{len(angles)} angles, or one that is no number", "finite angles")
    widest, span = max(map(abs, angles)), max(angles) - min(angles)
    if unit is None:
        if widest <= 2 * math.pi + 1e-6 and len(angles) > 1:
            hint = "Give scan.angle_unit, deg or rad."
            raise InputError(where, f"angles up to {widest:.4g} without a unit", "their unit", hint)
        unit = "deg"
    if unit == "deg" and len(angles) > 12 and span <= 2 * math.pi + 1e-3 and 0.9 * math.pi < span:
        found = f"{len(angles)} views over {span:.4g} degrees"
        raise InputError(where, found, "degrees", "A span of pi or 2 pi is radians: give scan.angle_unit=rad.")
    if unit == "rad" and widest > 4 * math.pi:
        found = f"an angle of {widest:.4g} radians"
        raise InputError(where, found, "radians, at most two turns", "Give scan.angle_unit=deg.")
    if order == "sorted" and len(angles) > 2:
        steps = [b - a for a, b in pairwise(angles)]
        wrong = [i for i, s in enumerate(steps) if s * steps[0] <= 0]
        if wrong:
            i = wrong[0] + 1
            found = f"view {i} at {angles[i]:.6g} after {angles[i - 1]:.6g}, and {len(wrong)} turns back in all"
            hint = "Give scan.order=any if the views were taken in this order."
            raise InputError(where, found, "angles in the order of the views, rising or falling", hint)
    return tuple(math.radians(a) for a in angles) if unit == "deg" else tuple(angles)
