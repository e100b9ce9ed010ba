"""Measurements made from images: the object on fine pixels, the reconstruction on coarser ones.

Inverting with the very discretization that made the data hides its error (the inverse crime: Colton and Kress, 1998;
Kaipio and Somersalo, 2005).  Here the image is the object, on its own pixels; rays are means over thin rays of a bin,
k-space is that of the fine image.  What is reconstructed has pixels `refine` times as large, and the truth beside it is
the mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data import Image
from retrodict.physics.convolution import Blur
from retrodict.physics.counts import LogPoissonNoise
from retrodict.physics.diagonal import Mask, random_mask
from retrodict.physics.geometry import FanBeam, ParallelBeam, even_angles
from retrodict.physics.kspace import sampling
from retrodict.physics.measurement import Measurement
from retrodict.physics.mri import CartesianMRI, birdcage
from retrodict.physics.noise import GaussianNoise, Noise
from retrodict.physics.operator import Operator
from retrodict.physics.projection import attenuation
from retrodict.physics.radon import Radon
from retrodict.physics.resampling import Downsample
from retrodict.tasks.recon_acquired import Acquisition, chosen, digest_of, same
from retrodict.tasks.recon_config import Problem, SimulatePart
from retrodict.tasks.recon_image import psf_of

__all__ = ["block_mean", "coarse_psf", "simulated"]

CRIME = "simulated and inverted with the same discretization (an inverse crime): errors are smaller than in reality"


class _Made(NamedTuple):
    """The operator of the reconstruction, noiseless data of a fine object `(1, 1, *N)`, noise, unit of y."""

    operator: Operator
    clean: Callable[[Tensor], Tensor]
    noise: Noise
    unit: str


def block_mean(x: Tensor, factor: int) -> Tensor:
    """Mean over blocks of `factor` pixels along the last two axes."""
    if factor == 1:
        return x
    height, width = (n // factor for n in x.shape[-2:])
    cut = x[..., : height * factor, : width * factor]
    return cut.unflatten(-1, (width, factor)).unflatten(-3, (height, factor)).mean((-3, -1))


def coarse_psf(psf: Tensor, factor: int) -> Tensor:
    """The kernel between coarse pixels of a blur of fine ones, exact for images that are constant over coarse pixels.

    K[m] = (1 / f) sum_(a, b < f) k[f m + a - b] along every axis: k summed with a triangle of f fine pixels.
    """
    for axis in range(psf.ndim):
        line = psf.movedim(axis, -1)
        half = line.shape[-1] // 2
        reach = math.ceil((half + factor - 1) / factor)
        out = line.new_zeros(*line.shape[:-1], 2 * reach + 1)
        for m in range(-reach, reach + 1):
            for d in range(1 - factor, factor):
                at = factor * m + d + half
                if 0 <= at < line.shape[-1]:
                    out[..., m + reach] += (factor - abs(d)) / factor * line[..., at]
        psf = out.movedim(-1, axis)
    return psf


def simulated(image: Image, problem: Problem) -> Acquisition:
    """A measurement of an image as `problem.simulate` says; raises `InputError` for what cannot be measured so."""
    settings = problem.simulate
    assert settings is not None
    for name in ("size", "spacing"):
        given = getattr(problem.image, name)
        if given is not None:
            wanted = (
                "none in a simulation: pixels are simulate.refine times as large as those of the image that is measured"
            )
            raise InputError(f"image.{name}", given, wanted)
    image = image.gray()
    stack = image.values[0] if image.values.ndim == 4 else image.values
    slices = chosen(len(stack), problem.slices)
    refine = 1 if settings.same_grid or problem.problem == "inpaint" else settings.refine
    spacing = tuple(float(s) for s in image.spacing[-2:])
    multiple = refine * (problem.factor if problem.problem == "super_resolution" else 1)
    height, width = (n // multiple * multiple for n in stack.shape[-2:])
    if min(height, width) < 8 * multiple:
        raise InputError("image", f"{tuple(stack.shape[-2:])} pixels", f"at least {8 * multiple} along both axes")
    stack = stack[:, :height, :width]
    made = MAKERS[problem.problem](problem, settings, (height, width), spacing, refine, image.unit)
    hounsfield = problem.problem == "tomography" and image.unit == "HU"
    if problem.problem == "tomography" and image.unit not in ("HU", "1/mm"):
        raise InputError("image unit", repr(image.unit), "HU or 1/mm, to be projected")
    water = problem.image.water

    def object_of(i: int) -> Tensor:
        x = stack[slices[i]].float()[None, None]
        return attenuation(x, water) if hounsfield else x

    def part(i: int, whole: bool) -> Measurement:
        clean = made.clean(object_of(i))
        y = made.noise.sample(clean, [settings.seed], step=slices[i])
        mask = made.operator.measured
        return Measurement(made.operator, y if mask is None else mask.to(y.real) * y, made.noise, unit=made.unit)

    unit, shown = ("HU", lambda mu: 1000 * (mu / water - 1)) if hounsfield else (image.unit, same)
    truth = torch.stack([block_mean(object_of(i), refine)[0, 0] for i in range(len(slices))])
    crime = refine == 1 and problem.problem != "inpaint"
    about: dict[str, Any] = {
        "simulated": {**settings.model_dump(exclude_none=True), "same_grid": crime, "refine": refine},
        "operator": dict(made.operator.about),
        "noise": repr(made.noise) if isinstance(made.noise, GaussianNoise) else type(made.noise).__name__,
    }
    said = CRIME if crime else f"simulated on pixels {refine} times finer" if refine > 1 else "simulated pixel by pixel"
    part(0, False)
    return Acquisition(
        {"tomography": "sinogram", "kspace": "k-space"}.get(problem.problem, "image"),
        part,
        len(slices),
        unit,
        tuple(s * refine for s in spacing),
        digest_of(stack.numpy(), problem.model_dump_json()),
        image.spacing[0] if image.regular and len(image.spacing) == 3 else problem.image.slice_spacing,
        shown,
        about,
        (said,),
        image.source,
        truth=shown(truth),
        stacked=image.values.ndim == 4,
    )


# ---- what can be made ------------------------------------------------------------------------------------------------


def _white(settings: SimulatePart, what: str) -> GaussianNoise:
    if settings.sigma is None:
        raise InputError("simulate.sigma", "none", f"the deviation of the noise of {what}")
    return GaussianNoise.white(float(settings.sigma))


def _scan(
    problem: Problem, settings: SimulatePart, size: Sequence[int], spacing: Sequence[float]
) -> ParallelBeam | FanBeam:
    """Rays over the whole image of `size` pixels of `spacing` mm, on as many bins as needed."""
    scan = problem.scan
    fan = scan.beam == "fan"
    source, detector = scan.source or 570.0, scan.detector or 1040.0
    width = math.hypot(*(n * d for n, d in zip(size, spacing, strict=True)))
    reach = (
        width / math.sqrt(1 - (width / 2 / source) ** 2) * detector / source if fan and width < 2 * source else width
    )
    pitch = scan.pitch or min(spacing) * (detector / source if fan else 1.0)
    bins = scan.bins or math.ceil(reach / pitch)
    span = math.radians(settings.span) if settings.span else (2 * math.pi if fan else math.pi)
    angles = even_angles(settings.views, span)
    if fan:
        return FanBeam(angles, bins, pitch, scan.offset, source=source, detector=detector, curved=scan.curved)
    return ParallelBeam(angles, bins, pitch, scan.offset)


def _tomography(
    problem: Problem, settings: SimulatePart, size: tuple[int, int], spacing: tuple[float, ...], refine: int, unit: str
) -> _Made:
    if (settings.dose is None) == (settings.sigma is None):
        found = "both" if settings.dose else "neither"
        raise InputError("simulate", f"{found} of dose and sigma", "photons of a ray, or the noise of line integrals")
    wide = tuple(d * refine for d in spacing)
    coarse = tuple(n // refine for n in size)
    scan = _scan(problem, settings, coarse, wide)
    thin = replace(scan, bins=scan.bins * refine, pitch=scan.pitch / refine)
    fine = Radon(size, thin, spacing=spacing)
    operator = Radon(coarse, scan, spacing=wide)
    noise: Noise = (
        GaussianNoise.white(float(settings.sigma), "1")
        if settings.sigma
        else LogPoissonNoise(float(settings.dose or 1), electronic=settings.electronic)
    )

    def clean(x: Tensor) -> Tensor:
        return fine.forward(x).unflatten(-1, (scan.bins, refine)).mean(-1)

    return _Made(operator, clean, noise, "1")


def _kspace(
    problem: Problem, settings: SimulatePart, size: tuple[int, int], spacing: tuple[float, ...], refine: int, unit: str
) -> _Made:
    coarse = tuple(n // refine for n in size)
    lines = sampling(settings.family, coarse, settings.acceleration, center=settings.center, seed=settings.seed)
    fine_maps = birdcage(size, settings.coils) if settings.coils > 1 else None
    maps = (
        None if fine_maps is None else torch.complex(*(block_mean(p, refine) for p in (fine_maps.real, fine_maps.imag)))
    )
    operator = CartesianMRI(lines, maps=maps, spacing=tuple(d * refine for d in spacing), unit=unit)
    everything = torch.ones(size, dtype=torch.float64, device="cpu")
    fine = CartesianMRI(everything, maps=fine_maps, spacing=spacing, unit=unit)
    turn = _turn(size, coarse, refine)

    def clean(x: Tensor) -> Tensor:
        whole = fine.forward(x.to(torch.complex64))
        first = [n // 2 - c // 2 for n, c in zip(size, coarse, strict=True)]
        middle = whole[..., first[0] : first[0] + coarse[0], first[1] : first[1] + coarse[1]]
        return (middle * turn.to(middle) / refine).contiguous() * operator.mask.to(middle.real)

    return _Made(operator, clean, _white(settings, "k-space, per real component"), unit)


def _turn(size: Sequence[int], coarse: Sequence[int], refine: int) -> Tensor:
    """Phase of the shift between the middles of the fine and of the coarse pixels, `(*coarse)`."""
    phase = torch.zeros(tuple(coarse), dtype=torch.float64, device="cpu")
    for axis, (n, c) in enumerate(zip(size, coarse, strict=True)):
        shift = refine * (c // 2) + (refine - 1) / 2 - n // 2
        k = (torch.arange(c, dtype=torch.float64, device="cpu") - c // 2) / n
        phase = phase + (2 * math.pi * shift * k).reshape([-1 if a == axis else 1 for a in range(2)])
    return torch.polar(torch.ones_like(phase), phase)


def _deblur(
    problem: Problem, settings: SimulatePart, size: tuple[int, int], spacing: tuple[float, ...], refine: int, unit: str
) -> _Made:
    psf, _ = psf_of(problem, size, spacing)
    boundary = problem.blur.boundary
    fine = Blur(size, psf, boundary=boundary, spacing=spacing, unit=unit)
    wide = tuple(d * refine for d in spacing)
    operator = Blur([n // refine for n in size], coarse_psf(psf, refine), boundary=boundary, spacing=wide, unit=unit)
    return _Made(operator, lambda x: block_mean(fine.forward(x), refine), _white(settings, "the image"), unit)


def _inpaint(
    problem: Problem, settings: SimulatePart, size: tuple[int, int], spacing: tuple[float, ...], refine: int, unit: str
) -> _Made:
    operator = Mask(random_mask(size, settings.share, seed=settings.seed), spacing=spacing, unit=unit)
    return _Made(operator, operator.forward, _white(settings, "the image"), unit)


def _super_resolution(
    problem: Problem, settings: SimulatePart, size: tuple[int, int], spacing: tuple[float, ...], refine: int, unit: str
) -> _Made:
    fine = Downsample(size, problem.factor * refine, filter=problem.filter, spacing=spacing, unit=unit)
    coarse, wide = [n // refine for n in size], tuple(d * refine for d in spacing)
    operator = Downsample(coarse, problem.factor, filter=problem.filter, spacing=wide, unit=unit)
    return _Made(operator, fine.forward, _white(settings, "the image"), unit)


MAKERS: dict[str, Callable[..., _Made]] = {
    "tomography": _tomography,
    "kspace": _kspace,
    "deblur": _deblur,
    "inpaint": _inpaint,
    "super_resolution": _super_resolution,
}
