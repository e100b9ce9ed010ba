"""Restoring with a map of the noise: reading it, and saying where it may be used."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError, NotCalibratedError
from retrodict.bases import Basis
from retrodict.data import Image, read, resample
from retrodict.denoisers.uneven import MOST, Uneven
from retrodict.models.model import Model
from retrodict.models.range import outside
from retrodict.processes.observation import Moments
from retrodict.tasks.grid import items
from retrodict.tasks.options import RestoreOptions

__all__ = ["noise_map_of", "require_instant", "steepest"]

REACH, CHANGE = 4, 2.0
"""Pixels, and the factor by which a map may change within them: then variances of the Gaussian part are right to 2 %
(`benchmarks/noise_map.py`)."""

RELATIVE = ("1", "arbitrary")
"""Units of a map in multiples of the noise of the instrument."""


# ---- the map --------------------------------------------------------------------------------------------------------


def require_instant(options: RestoreOptions) -> None:
    """Raise `NotCalibratedError` for a noise map with more than one call."""
    if options.noise_map is None:
        if options.noise_map_unit is not None:
            raise InputError("noise_map_unit", repr(options.noise_map_unit), "none without a noise map")
        return
    if not options.instant:
        raise NotCalibratedError(
            f"With a noise map rule {options.rule!r} is no posterior sampler: its states would need noise that is as "
            "uneven as that of the image, and it adds even noise. The instant mode (one call) is one: {instant}.",
            instant=True,
        )


def noise_map_of(
    options: RestoreOptions, image: Image, work: Image, model: Model, name: str
) -> tuple[Tensor, dict[str, Any]]:
    """The map as factors on the noise of the model's instrument, `(items, 1, *N)` float64 on the grid of `work`, and a
    record of it.

    Raises `InputError` for a file that cannot be read, another grid, values that are not above 0, a unit that is
    neither relative nor that of the model, and a map that changes faster than its posterior is known;
    `NotCalibratedError` for noise outside the range of the model.
    """
    found = _opened(options.noise_map, options, image)
    where = f"noise_map {found.source[0]}" if found.source else "noise_map"
    _check_grid(found, image, where)
    values = found.values.double()
    low, high = float(values.min()), float(values.max())
    if not (low > 0 and math.isfinite(high)):
        raise InputError(where, f"values from {low:.4g} to {high:.4g}", "finite values above 0 everywhere")
    ndim = len(model.spec.size)
    relative = replace(found, values=values / _unit_of(found, model, where))
    if work is not image:
        relative = resample(relative, work.spacing[-2:] if ndim == 2 else work.spacing)
    factor = items(relative, ndim)
    factor = factor.expand(len(items(work, ndim)), *factor.shape[1:])
    _check_change(factor, model, where)
    _check_model(model, factor, work)
    if not options.point:
        _check_range(model, factor)
    digest = hashlib.sha256(factor.contiguous().numpy().tobytes()).hexdigest()
    return factor, {"file": str(options.noise_map) if isinstance(options.noise_map, str | os.PathLike) else "in memory",
                    "sha256": digest, "lowest": float(factor.min()), "highest": float(factor.max())}  # fmt: skip


def _opened(given: Any, options: RestoreOptions, image: Image) -> Image:
    if isinstance(given, Image):
        return given if options.noise_map_unit is None else replace(given, unit=options.noise_map_unit)
    if isinstance(given, str | os.PathLike):
        return read(
            given,  # type: ignore[arg-type]
            unit=options.noise_map_unit,
            spacing=tuple(options.spacing) if options.spacing else None,
            expect=None,
            slices="independent",
            allow_gaps=True,
            clip=False,
        )
    spacing = image.spacing if image.regular else image.spacing[-2:]
    grid = image.values.ndim - 1
    array = torch.as_tensor(given, dtype=torch.float64, device="cpu")
    own = spacing[-2:] if array.ndim < grid else spacing
    return Image.of(array, unit=options.noise_map_unit or "1", spacing=own, clip=False)


def _check_grid(found: Image, image: Image, where: str) -> None:
    """Raise where the map is neither on the pixels of the image nor one for all of its slices."""
    own, wanted = tuple(found.values.shape[1:]), tuple(image.values.shape[1:])
    plain = own[1:] if len(own) == 3 and own[0] == 1 else own
    if found.values.shape[0] != 1 or found.values.is_complex():
        raise InputError(where, f"{found.values.shape[0]} channels", "one channel of real values")
    if own != wanted and plain != wanted[-len(plain) :]:
        hint = " (or one slice for all of them)" if len(wanted) == 3 else ""
        raise InputError(where, f"{_size(own)} pixels", f"{_size(wanted)}, those of the image{hint}")
    pairs = zip(found.spacing[-2:], image.spacing[-2:], strict=True)
    if any(abs(a / b - 1) > 0.01 for a, b in pairs if math.isfinite(a) and math.isfinite(b)):
        sides = [" x ".join(f"{s:.4g}" for s in i.spacing[-2:]) for i in (found, image)]
        raise InputError(where, f"pixels of {sides[0]} mm", f"{sides[1]} mm, as the image")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _unit_of(found: Image, model: Model, where: str) -> float:
    """What the values of a map are multiples of, in its unit: 1, or the noise of the instrument a pixel."""
    if found.unit in RELATIVE:
        return 1.0
    if found.unit != model.intensity.unit:
        wanted = f"'1' (times the noise of the instrument) or {model.intensity.unit!r} (a standard deviation)"
        raise InputError(
            f"{where}: unit", repr(found.unit), wanted, "Say it with {noise_map_unit}.", noise_map_unit="1"
        )
    process = model.denoiser.process
    if process.measurement is None:
        raise InputError(
            where, f"values in {found.unit!r}", "a relative map: the model knows no noise of its instrument"
        )
    weight = process.basis.multiplicity()
    power = float((process.measurement.s2 * weight).sum() / weight.sum())
    return math.sqrt(power) * model.intensity.scale


def steepest(factor: Tensor, reach: int = REACH) -> float:
    """The largest factor by which maps `(n, 1, *N)` change within `reach` pixels along the axes."""
    ndim = factor.ndim - 2
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[ndim]
    log_map, worst = factor.log(), 0.0
    for axis in range(ndim):
        side = [1] * ndim
        side[axis] = min(reach + 1, factor.shape[2 + axis])
        worst = max(worst, float((pool(log_map, side, 1) + pool(-log_map, side, 1)).max()))
    return math.exp(worst)


def _check_change(factor: Tensor, model: Model, where: str) -> None:
    found, within = steepest(factor), REACH * max(model.denoiser.process.basis.spacing)
    if found > CHANGE:
        raise InputError(
            where,
            f"a noise map that changes by a factor of {found:.3g} within {within:.3g} mm",
            f"at most {CHANGE:g} within {REACH} pixels: the deviation is known only where it is smooth",
            "Smooth the map: the noise of an instrument has no edges.",
        )
    high, low = float(factor.max()), float(factor.min())
    if high > MOST * low:
        raise InputError(where, f"values that differ by a factor of {high / low:.3g}", f"at most {MOST:g}")


def _check_model(model: Model, factor: Tensor, work: Image) -> None:
    """Raise for a model that cannot take a map, before anything is computed."""
    size = tuple(work.values.shape[-len(model.spec.size) :])
    basis = model.denoiser.process.basis
    bound = model.denoiser.on(size) if basis.size != size else model.denoiser
    Uneven(bound, factor[:1].to(basis.device))


def _check_range(model: Model, factor: Tensor) -> None:
    """Raise where the noise at one end of the map is none that a model of every instrument was trained on."""
    pairing = model.denoiser.process.pairing
    assert pairing.law is not None
    for level in (float(factor.min()), float(factor.max())):
        scaled = replace(model.denoiser.process, pairing=replace(pairing, law=_scaled(pairing.law, level)))
        why = outside(model, scaled)
        if why:
            raise NotCalibratedError(
                f"Where the noise map is {level:.3g}, the instrument is not of the kind that the model was trained on: "
                f"{why}. Check unit and values of the map, or ask for a point estimate ({{point}}).",
                point=True,
            )


def _scaled(law: Callable[[Basis], Moments], level: float) -> Callable[[Basis], Moments]:
    def scaled(basis: Basis) -> Moments:
        m = law(basis)
        return m._replace(s2=level**2 * m.s2)

    return scaled
