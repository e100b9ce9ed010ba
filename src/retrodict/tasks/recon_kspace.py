"""k-space of files as measurements of `CartesianMRI`, with masks, coil maps and noise given or found."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data.ismrmrd import acquisitions
from retrodict.data.raw import Raw
from retrodict.physics.coils import coil_covariance, coil_maps
from retrodict.physics.measurement import Measurement
from retrodict.physics.mri import CartesianMRI
from retrodict.physics.noise import GaussianNoise
from retrodict.tasks.recon_acquired import (
    Acquisition,
    array_of,
    check_noise_unit,
    chosen,
    data_name,
    digest_of,
    tensor,
)
from retrodict.tasks.recon_config import Problem

__all__ = ["kspace", "outer_noise"]

ORDERS = {2: ("ky", "kx"), 3: ("coil", "ky", "kx"), 4: ("slice", "coil", "ky", "kx")}


def kspace(raw: Raw, problem: Problem) -> Acquisition:
    """The k-space of a file; raises `InputError` for all that does not fit, before anything long."""
    notes: list[str] = []
    spacing, slice_spacing, found_noise = problem.pixel or (1.0, 1.0), problem.image.slice_spacing, None
    if "dataset/xml" in raw.entries:
        sorted_ = acquisitions(raw, crop=problem.coils.crop_oversampling)
        shape, found_noise = sorted_.kspace.shape, sorted_.noise
        spacing, slice_spacing = problem.pixel or sorted_.spacing, sorted_.slice_spacing
        where, read = "dataset/data", sorted_.kspace.__getitem__
    else:
        where = data_name(raw, problem.data)
        shape, read = _plain(raw, problem, where)
        if problem.pixel is None:
            notes.append("the file has no pixel size: lengths are in pixels")
    if problem.grid_size is not None and problem.grid_size != tuple(shape[-2:]):
        raise InputError("image.size", problem.grid_size, f"{tuple(shape[-2:])}, the size of k-space")
    slices = chosen(shape[0], problem.slices)
    mask, maps, noise = (_given(raw, problem, name) for name in ("mask", "maps", "noise"))
    noise = noise if noise is not None else found_noise
    law = _law(problem, noise, shape[1])

    @cache
    def slice_(k: int) -> Measurement:
        return _measured(raw, problem, tensor(read(slices[k])), mask, maps, law, (where, slices[k]), spacing)

    def part(k: int, whole: bool) -> Measurement:
        if slice_.cache_info().currsize > 1:
            slice_.cache_clear()
        return slice_(k)

    first = part(len(slices) // 2, False)
    operator = first.operator
    assert isinstance(operator, CartesianMRI)
    about: dict[str, Any] = {"operator": dict(operator.about), "maps": _maps_said(problem, operator, maps)}
    about["calibration"] = problem.coils.calibration
    about["noise"] = "none" if first.noise is None else repr(first.noise)
    notes.append(f"acceleration {operator.about['acceleration']:.2f}, {operator.coils} coils, maps {about['maps']}")
    key = (first.y.numpy(), problem.model_dump_json(), raw.identity)
    return Acquisition(
        "k-space",
        part,
        len(slices),
        problem.image.unit or "arbitrary",
        spacing,
        digest_of(*key),
        slice_spacing,
        about=about,
        notes=tuple(notes),
        source=() if raw.kind == "memory" else (raw.path,),
    )


def _plain(raw: Raw, problem: Problem, name: str) -> tuple[tuple[int, ...], Callable[[int], np.ndarray]]:
    """Shape (slices, coils, ny, nx) of an array, and how to read a slice of it."""
    stored = raw.stored(name)
    axes = tuple(problem.axes) if problem.axes is not None else ORDERS.get(len(stored.shape), ())
    if len(axes) != len(stored.shape) or not {"ky", "kx"} <= set(axes) <= {"slice", "coil", "ky", "kx"}:
        hint = "Give axes, such as [slice, coil, ky, kx]."
        raise InputError(
            f"{raw.path}: {name}", f"shape {stored.shape}", "k-space of slices, coils, lines, samples", hint
        )
    if stored.dtype.kind in "iuf":
        hint = "A pair of real and imaginary parts has to be made complex first."
        raise InputError(f"{raw.path}: {name}", f"real values ({stored.dtype})", "complex k-space", hint)
    rest = [a for a in axes if a != "slice"]
    order = [rest.index(a) for a in ("coil", "ky", "kx") if a in rest]
    sizes = {a: n for a, n in zip(axes, stored.shape, strict=True)}
    shape = (sizes.get("slice", 1), sizes.get("coil", 1), sizes["ky"], sizes["kx"])

    def read(i: int) -> np.ndarray:
        array = raw.read(name, tuple(i if a == "slice" else slice(None) for a in axes)).transpose(order)
        return array if "coil" in rest else array[None]

    return shape, read


def _given(raw: Raw, problem: Problem, name: str) -> Tensor | None:
    wanted = getattr(problem.coils, name)
    if wanted is None or (name == "maps" and wanted in ("espirit", "none")):
        return None
    array = array_of(raw, wanted, f"coils.{name}")
    return torch.from_numpy(np.ascontiguousarray(array))


def _law(problem: Problem, noise: Tensor | np.ndarray | None, coils: int) -> GaussianNoise | None:
    """White noise of a stated deviation, or that of samples of noise alone; None where it has to be estimated."""
    stated = problem.noise
    check_noise_unit(stated, "1")
    if stated.law in ("counts", "poisson"):
        raise InputError("noise.law", repr(stated.law), "white or none: k-space is complex")
    if isinstance(stated.sigma, float | int):
        return GaussianNoise.white(float(stated.sigma), "1")
    if noise is None or stated.law == "none" or stated.sigma == "estimate":
        return None
    samples = torch.as_tensor(noise, device="cpu").reshape(coils, -1) if len(noise) == coils else None
    if samples is None:
        raise InputError("coils.noise", f"shape {tuple(noise.shape)}", f"({coils}, samples), as the coils")
    return GaussianNoise.coils(coil_covariance(samples.to(torch.complex128)), "1")


def _measured(
    raw: Raw,
    problem: Problem,
    data: Tensor,
    mask: Tensor | None,
    maps: Tensor | None,
    law: GaussianNoise | None,
    where: tuple[str, int],
    spacing: tuple[float, ...],
) -> Measurement:
    """One slice `(C, ny, nx)` as a measurement."""
    name, number = where
    if not bool(torch.isfinite(data.abs()).all()):
        raise InputError(f"{raw.path}: {name}, slice {number}", "nan or infinity", "finite values")
    size = data.shape[-2:]
    if mask is None:
        known = (data.abs().amax(0) > 0).double()
    else:
        known = mask.double().expand(size) if mask.ndim < 2 else mask.double()
        if tuple(known.shape) != tuple(size):
            raise InputError("coils.mask", f"shape {tuple(mask.shape)}", f"{tuple(size)}, as k-space")
    if not bool(known.any()):
        raise InputError(f"{raw.path}: {name}, slice {number}", "nothing but zeros", "measured samples")
    sensitivities = None
    if maps is not None:
        sensitivities = maps[number] if maps.ndim == 4 else maps
        if tuple(sensitivities.shape) != tuple(data.shape):
            raise InputError("coils.maps", f"shape {tuple(maps.shape)}", f"{tuple(data.shape)}, as k-space")
    elif len(data) > 1:
        if problem.coils.maps == "none":
            raise InputError("coils.maps", f"none for {len(data)} coils", "maps, or espirit to find them")
        options = {"calibration": problem.coils.calibration, "kernel": problem.coils.kernel}
        sensitivities = coil_maps(data * known.to(data), **options)
    operator = CartesianMRI(known, maps=sensitivities, spacing=spacing)
    if law is None and problem.noise.sigma == "estimate":
        law = GaussianNoise.white(outer_noise(data, known), "1")
    return Measurement(operator, (data * known)[None].to(torch.complex64), law, unit="1")


def outer_noise(data: Tensor, known: Tensor) -> float:
    """Deviation of a real component in the outermost tenth of the measured samples, where an object has least: from
    above, by the median.
    """
    axes = [(torch.arange(n, dtype=torch.float64, device="cpu") - n // 2) / n for n in known.shape]
    radius = (axes[0][:, None].square() + axes[1].square()).sqrt()
    measured = known > 0
    outer = measured & (radius >= radius[measured].quantile(0.9))
    samples = torch.view_as_real(data[:, outer])
    return float(samples.abs().median()) / 0.6745


def _maps_said(problem: Problem, operator: CartesianMRI, maps: Tensor | None) -> str:
    if operator.maps is None:
        return "none needed"
    return "given" if maps is not None else "found by ESPIRiT"
