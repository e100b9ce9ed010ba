"""From what a user gives to `reconstruct` to an `Acquisition`: paths, images, arrays, or a ready `Measurement`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from retrodict._check import InputError
from retrodict.data import Image, discover, read
from retrodict.data.raw import Raw, open_raw
from retrodict.physics.measurement import Measurement
from retrodict.physics.operator import check_adjoint
from retrodict.tasks.recon_acquired import Acquisition, digest_of
from retrodict.tasks.recon_cone import cone
from retrodict.tasks.recon_config import Problem, asked, problem_of
from retrodict.tasks.recon_image import image_problem
from retrodict.tasks.recon_kspace import kspace
from retrodict.tasks.recon_layouts import known_of
from retrodict.tasks.recon_options import ReconstructOptions
from retrodict.tasks.recon_simulate import simulated
from retrodict.tasks.recon_tomography import tomography
from retrodict.tasks.results import name_of

__all__ = ["acquired"]

IMAGES = ("deblur", "inpaint", "super_resolution")


def acquired(source: Any, options: ReconstructOptions) -> tuple[Acquisition, str | None, str]:
    """The measurement, the problem by name (None of a ready one), and the name of the results."""
    if isinstance(source, Measurement):
        return _ready(source), None, "measurement"
    if options.simulate:
        problem = problem_of({"simulate": {}}, options.config, options.entries())
        image, name = _image(source, options)
        return simulated(image, problem), problem.problem, name
    if isinstance(source, Mapping):
        raw = Raw.of(source)
        return (*_of_raw(raw, options), "arrays")
    if isinstance(source, np.ndarray | Tensor):
        expected = 'an Image, or arrays by name, such as {"sinogram": y, "angles": a}'
        raise InputError("source", f"an array of shape {tuple(source.shape)} without a name", expected)
    if isinstance(source, Image):
        return (*_of_image(source, options), name_of(source))
    if not isinstance(source, str | os.PathLike):
        raise InputError("source", type(source).__name__, "a path, an Image, arrays by name, or a Measurement")
    path = Path(source)
    if not path.exists():
        raise InputError(path, "no such file", "a measurement")
    if asked(options.config, options.entries()) in IMAGES:
        image, name = _image(path, options)
        return (*_of_image(image, options), name)
    with open_raw(path) as raw:
        return (*_of_raw(raw, options, keep=True), path.stem if path.is_file() else path.name)


def _of_image(image: Image, options: ReconstructOptions) -> tuple[Acquisition, str]:
    problem = problem_of({}, options.config, options.entries())
    if problem.problem not in IMAGES:
        raise InputError("problem", repr(problem.problem), f"one of an image: {', '.join(IMAGES)}")
    return image_problem(image, problem), problem.problem


def _of_raw(raw: Raw, options: ReconstructOptions, keep: bool = False) -> tuple[Acquisition, str]:
    _, known = known_of(raw)
    problem = problem_of(known, options.config, options.entries())
    if problem.problem in IMAGES:
        raise InputError(raw.path, "arrays", f"an image, for {problem.problem}")
    if problem.simulate is not None:
        raise InputError("simulate", "settings of a simulation for a measurement", "none, or {simulate}", simulate=True)
    if raw.kind not in ("memory", "ct-pd"):
        raw = _reopening(raw)
    if problem.problem == "tomography" and problem.scan.beam == "cone":
        return cone(raw, problem), "cone"
    return _made(raw, problem), problem.problem


def _made(raw: Raw, problem: Problem) -> Acquisition:
    return tomography(raw, problem) if problem.problem == "tomography" else kspace(raw, problem)


def _reopening(raw: Raw) -> Raw:
    """The same arrays, from a file that stays open as long as they are used."""
    return open_raw(raw.path)


def _image(source: Any, options: ReconstructOptions) -> tuple[Image, str]:
    if isinstance(source, Image):
        return source, name_of(source)
    if not isinstance(source, str | os.PathLike):
        raise InputError("source", type(source).__name__, "a path or an Image")
    found = discover(Path(source))
    if len(found) != 1:
        names = ", ".join(s.name for s in found[:6])
        raise InputError(Path(source), f"{len(found)} images or series {names}".strip(), "exactly one")
    spacing = None if options.spacing is None else tuple(options.spacing)
    settings: dict[str, Any] = {"expect": None, "slices": "volume", "clip": False}
    return read(found[0], spacing=spacing, unit=options.unit, **settings), found[0].name


def _ready(measurement: Measurement) -> Acquisition:
    """A measurement made in Python; an adjoint that is none is refused, or nothing would converge to anything."""
    operator = measurement.operator
    if len(operator.domain.shape) not in (3, 4):
        raise InputError(operator.name, f"images {operator.domain.shape}", "(C, H, W) or (C, Z, H, W)")
    import torch

    kind = torch.float64 if measurement.y.dtype in (torch.float64, torch.complex128) else torch.float32
    check_adjoint(operator, pairs=2, dtype=kind)
    spacing = operator.domain.spacing
    ndim = len(operator.domain.shape) - 1
    noise = "none" if measurement.noise is None else type(measurement.noise).__name__
    return Acquisition(
        "data",
        lambda i, whole: measurement.item(i),
        len(measurement),
        operator.domain.unit,
        tuple(spacing) if len(spacing) == ndim else (1.0,) * ndim,
        digest_of(measurement.y.detach().cpu().numpy(), str(dict(measurement.about))),
        about={"operator": dict(operator.about), "noise": noise},
        stacked=len(measurement) > 1,
    )
