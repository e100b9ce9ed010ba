"""Images that an instrument blurred, masked or sampled coarsely, as measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.data import Image, read
from retrodict.physics.convolution import Blur, gaussian_psf
from retrodict.physics.corrections import noise_level
from retrodict.physics.counts import PoissonNoise
from retrodict.physics.diagonal import Mask
from retrodict.physics.measurement import Measurement
from retrodict.physics.noise import GaussianNoise, Noise
from retrodict.physics.operator import Operator
from retrodict.physics.resampling import FILTERS, Downsample
from retrodict.tasks.recon_acquired import Acquisition, check_noise_unit, chosen, digest_of
from retrodict.tasks.recon_config import Problem

__all__ = ["image_problem", "open_psf", "psf_of"]

SPACING = 0.05
"""Relative difference of pixels of an image and a PSF that is let pass, and said."""


def image_problem(image: Image, problem: Problem) -> Acquisition:
    """An image as a measurement of what it shows; raises `InputError` for all that does not fit."""
    image = image.gray()
    where = image.source[0] if image.source else "image"
    volume = problem.problem == "deblur" and problem.blur.volume
    if volume and image.values.ndim != 4:
        raise InputError(where, "one slice", "a volume, for a PSF of three axes")
    stack = image.values[0] if image.values.ndim == 4 and not volume else image.values
    slices = range(1) if volume else chosen(len(stack), problem.slices)
    spacing = tuple(image.spacing) if volume else tuple(image.spacing[-2:])
    size = tuple(stack.shape[-3:] if volume else stack.shape[-2:])
    operator, about, notes, fine = _operator(problem, size, spacing, image.unit)
    noise = _law(problem, stack[slices[0]] if not volume else stack[0], image.unit, 3 if volume else 2)
    about |= {"operator": dict(operator.about), "noise": "none" if noise is None else repr(noise)}

    def part(k: int, whole: bool) -> Measurement:
        y = stack[None] if volume else stack[slices[k]][None, None]
        return Measurement(operator, y.float(), noise, unit=image.unit)

    part(0, False)
    regular = image.regular and len(image.spacing) == 3 and not volume
    whole = len(slices) == (1 if image.values.ndim == 3 or volume else len(stack))
    return Acquisition(
        "image",
        part,
        len(slices),
        image.unit,
        fine,
        digest_of(stack.numpy(), problem.model_dump_json()),
        image.spacing[0] if regular else problem.image.slice_spacing,
        about=about,
        notes=tuple(notes),
        source=image.source,
        like=image if whole and fine == spacing else None,
        stacked=image.values.ndim == 4 and not volume,
    )


def _operator(
    problem: Problem, size: tuple[int, ...], spacing: tuple[float, ...], unit: str
) -> tuple[Operator, dict[str, Any], list[str], tuple[float, ...]]:
    """The operator, what is said of it, and the pixel of its images."""
    settings: dict[str, Any] = {"spacing": spacing, "unit": unit}
    if problem.problem == "inpaint":
        assert problem.mask is not None
        mask = _mask(problem.mask, size)
        return Mask(mask, **settings), {}, [f"{float(mask.mean()):.1%} of the pixels were measured"], spacing
    if problem.problem == "super_resolution":
        choice("filter", problem.filter, FILTERS)
        factor = problem.factor
        fine = tuple(d / factor for d in spacing)
        operator = Downsample([n * factor for n in size], factor, filter=problem.filter, spacing=fine, unit=unit)
        return operator, {}, [], fine
    psf, notes = psf_of(problem, size, spacing)
    operator = Blur(size, psf, boundary=problem.blur.boundary, **settings)
    return operator, {"psf": _psf_said(psf, spacing)}, notes, spacing


def _mask(path: str, size: tuple[int, ...]) -> Tensor:
    image, _ = open_psf(path, "mask")
    mask = image.values.reshape(image.values.shape[-2:])
    if tuple(mask.shape) != size:
        raise InputError("mask", f"{tuple(mask.shape)}", f"{size}, as the image")
    values = (mask > 0).double()
    if not bool(values.any()):
        raise InputError("mask", "nothing but zeros", "an image that is above 0 where something was measured")
    return values


def open_psf(path: str | Path, what: str = "psf") -> tuple[Image, bool]:
    """A PSF or mask from any image file, and whether the file says how large its pixels are."""
    if not Path(path).exists():
        raise InputError(what, f"no file {str(path)!r}", "an image file")
    try:
        return read(path, expect=None, clip=False).gray(), True
    except InputError as error:
        if "spacing" not in f"{error.found} {error.expected}":
            raise
    for axes in (2, 3):
        try:
            return read(path, expect=None, clip=False, spacing=(1.0,) * axes).gray(), False
        except InputError:
            if axes == 3:
                raise
    raise AssertionError


def psf_of(problem: Problem, size: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[Tensor, list[str]]:
    """The PSF of sum 1 on the pixels of the image, float64, and what was done to it.

    A measured one has its background taken off (the median of its border), values below 0 set to 0, and its middle at
    its center of mass, by cutting away rows on one side.
    """
    blur = problem.blur
    if blur.fwhm is not None:
        widths = [blur.fwhm] * len(size) if isinstance(blur.fwhm, float | int) else list(blur.fwhm)
        return gaussian_psf(widths, spacing), []
    assert blur.psf is not None
    image, sized = open_psf(blur.psf)
    values = image.values[0].double()
    values = values[0] if values.ndim > len(size) and len(values) == 1 else values
    if values.ndim != len(size):
        hint = "Give blur.volume=true for a volume." if values.ndim == 3 else ""
        raise InputError("blur.psf", f"{values.ndim} axes", f"{len(size)}, as what is blurred", hint)
    notes = []
    known = image.spacing[-len(size) :]
    worst = max(abs(a / b - 1) for a, b in zip(known, spacing, strict=True))
    if sized and worst > SPACING:
        found = f"pixels of {' x '.join(f'{k:.4g}' for k in known)} mm"
        expected = f"{' x '.join(f'{s:.4g}' for s in spacing)} mm, those of the image"
        raise InputError("blur.psf", found, expected, "Resample it, or correct its spacing.")
    if sized and 1e-6 < worst <= SPACING:
        notes.append(f"pixels of PSF and image differ by {worst:.1%}, which is let pass")
    border = torch.ones_like(values, dtype=torch.bool)
    border[tuple(slice(1, -1) for _ in size)] = False
    background = float(values[border].median())
    net = (values - background).clamp_min(0)
    if not float(net.sum()) > 0:
        raise InputError("blur.psf", "nothing above its border", "a bright point on a darker background")
    if background:
        notes.append(f"a background of {background:.4g} was taken off the PSF")
    net = _middled(net)
    if any(k > n for k, n in zip(net.shape, size, strict=True)):
        raise InputError("blur.psf", f"{tuple(net.shape)}", f"at most the image {size}", "Cut it round the point.")
    return net / net.sum(), notes


def _middled(net: Tensor) -> Tensor:
    """Cut so that the center of mass lies in the middle sample of an odd size along every axis."""
    for axis, n in enumerate(net.shape):
        mass = net.sum([a for a in range(net.ndim) if a != axis])
        at = torch.arange(n, dtype=torch.float64, device="cpu")
        middle = round(float((mass * at).sum() / mass.sum()))
        half = min(middle, n - 1 - middle)
        net = net.narrow(axis, middle - half, 2 * half + 1)
    return net


def _psf_said(psf: Tensor, spacing: tuple[float, ...]) -> dict[str, Any]:
    """Size and widths: 2.355 standard deviations along each axis, in mm."""
    widths = []
    for axis, (n, d) in enumerate(zip(psf.shape, spacing, strict=True)):
        mass = psf.sum([a for a in range(psf.ndim) if a != axis])
        at = torch.arange(n, dtype=torch.float64, device="cpu") * d
        middle = (mass * at).sum() / mass.sum()
        widths.append(2.355 * float((mass * (at - middle) ** 2).sum().clamp_min(0).sqrt()))
    return {"size": list(psf.shape), "fwhm_mm": widths}


def _law(problem: Problem, image: Tensor, unit: str, ndim: int) -> Noise | None:
    stated = problem.noise
    check_noise_unit(stated, unit)
    if stated.law == "none":
        return None
    if stated.law in ("poisson", "counts"):
        return PoissonNoise(stated.gain or 1.0, stated.electronic or 0.0)
    if stated.sigma == "estimate":
        return GaussianNoise.white(noise_level(image, range(-ndim, 0)), unit)
    if stated.sigma is not None:
        spread = float(image.double().std())
        if stated.sigma > 10 * spread:
            found = f"{stated.sigma:g}, and the image has a deviation of {spread:.4g} {unit} in all"
            raise InputError("noise.sigma", found, f"the noise of the image in {unit}")
        return GaussianNoise.white(float(stated.sigma), unit)
    if stated.law == "white":
        raise InputError("noise.sigma", "none", "the deviation of the noise, or estimate")
    return None
