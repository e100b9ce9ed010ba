"""What a user gives to `restore` as an image: a path, a source, or an array with its unit and spacing."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data import Image, Source, discover, read
from retrodict.models.model import Model
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.results import name_of

__all__ = ["open_image"]


def open_image(source: Any, options: RestoreOptions, model: Model) -> tuple[Image, str]:
    """The image at a path, of a source, or of an array, and its name."""
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
        return _read(source, options), source.name
    return _of_array(source, options, model), "image"


def _read(source: Source, options: RestoreOptions) -> Image:
    # air with noise reaches below -1024 HU: clipping it would bend the law of the measurement
    return read(
        source,
        spacing=tuple(options.spacing) if options.spacing else None,
        unit=options.unit,
        expect=None if options.expect == "any" else options.expect,
        slices="independent",
        allow_gaps=options.allow_gaps,
        clip=False,
    )


def _of_array(array: Any, options: RestoreOptions, model: Model) -> Image:
    """An array or tensor as an image of independent slices, in the unit and at the spacing that are given."""
    if isinstance(array, Tensor):
        array = array.detach().cpu().resolve_conj().resolve_neg()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    values = np.asarray(array)
    if values.dtype.kind not in "iufc" or values.ndim not in (2, 3, 4):
        found = f"{type(array).__name__} of {values.dtype} with {values.ndim} axes"
        raise InputError("source", found, "a path, an Image, or numbers (H, W), (Z, H, W) or (C, Z, H, W)")
    for name, value, example in (("unit", options.unit, "HU"), ("spacing", options.spacing, (0.7, 0.7))):
        if value is None:
            wanted = "the pixel spacing in mm" if name == "spacing" else "the unit of the values"
            raise InputError(name, "none for an array", wanted, f"Give {{{name}}}.", **{name: example})
    channels = len(model.spec.channels)
    if values.ndim == 2 or (values.ndim == 3 and channels == 1):
        values = values[None]
    kind = np.complex64 if values.dtype.kind == "c" else np.float32
    tensor = torch.from_numpy(np.array(values, dtype=kind, order="C"))
    spacing = tuple(float(s) for s in options.spacing or ())
    independent = len(spacing) == 2 and values.ndim == 4
    if independent:
        spacing = (math.nan, *spacing)
    return Image(tensor, str(options.unit), spacing, "npz", (), regular=not independent)
