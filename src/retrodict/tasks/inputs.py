"""What a user gives to `restore` as an image: a path, a source, or an array with its unit and spacing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._check import InputError
from retrodict.data import Image, Source, deidentified, discover, read
from retrodict.data.formats.dicom_private import unnamed
from retrodict.models.model import Model
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.results import name_of

__all__ = ["open_image"]


def open_image(source: Any, options: RestoreOptions, model: Model) -> tuple[Image, str]:
    """The image at a path, of a source, or of an array, and its name; without identity where that was asked for."""
    image, name = _opened(source, options, model)
    return (deidentified(image), unnamed(name, image)) if options.deidentify else (image, name)


def _opened(source: Any, options: RestoreOptions, model: Model) -> tuple[Image, str]:
    if isinstance(source, Image):
        if options.spacing is not None or options.unit is not None:
            given = "spacing" if options.spacing is not None else "unit"
            raise InputError(given, "one beside an Image", "none: an Image has its own")
        return source, name_of(source)
    if isinstance(source, str | os.PathLike):
        found = discover(Path(source))
        if len(found) != 1:
            names = ", ".join(s.name for s in found[:6])
            hint = "Give the path of one of them, or call restore_all." if found else ""
            raise InputError(Path(source), f"{len(found)} images or series {names}".strip(), "exactly one", hint)
        source = found[0]
    if isinstance(source, Source):
        return _read(source, options, model), source.name
    return _of_array(source, options, model), "image"


def _read(source: Source, options: RestoreOptions, model: Model) -> Image:
    # air with noise reaches below -1024 HU: clipping it would bend the law of the measurement
    volume, planes = len(model.spec.size) == 3, len(model.spec.size) == 2 or model.spec.law is not None
    return read(
        source,
        spacing=tuple(options.spacing) if options.spacing else None,
        unit=options.unit,
        expect=None if options.expect == "any" else options.expect,
        slices="volume" if volume else "independent",
        allow_gaps=options.allow_gaps,
        clip=False,
        plane="axial" if planes else None,  # in which its slices were trained
    )


def _of_array(array: Any, options: RestoreOptions, model: Model) -> Image:
    """An array or tensor as an image of independent slices, in the unit and at the spacing that are given."""
    for name, value, wanted, example in (
        ("unit", options.unit, "the unit of the values", "HU"),
        ("spacing", options.spacing, "the pixel spacing in mm", (0.7, 0.7)),
    ):
        if value is None:
            raise InputError(name, "none for an array", wanted, f"Give {{{name}}}.", **{name: example})
    names = model.spec.channels
    first = len(names) > 1 or np.ndim(array) == 4
    assert options.spacing is not None
    return Image.of(array, unit=str(options.unit), spacing=options.spacing, channels=names if first else (), clip=False)
