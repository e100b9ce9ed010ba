"""A raw measurement that is ready to be reconstructed: slices as `Measurement`s, made one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data import Image
from retrodict.data.raw import Raw, open_raw
from retrodict.physics.measurement import Measurement
from retrodict.tasks.recon_config import NoisePart

__all__ = ["Acquisition", "array_of", "check_noise_unit", "data_name", "digest_of", "only_array", "same"]


def same(image: Tensor) -> Tensor:
    """The image as the operator has it."""
    return image


@dataclass(frozen=True)
class Acquisition:
    """What `reconstruct` works on.

    `part(i, whole)` is slice i of `count` as a measurement of one item; `whole` asks for data without gaps (filled in),
    as filters need them, instead of a mask.  Reconstructions `(1, C, *N)` go through `shown` and are then in `unit`,
    with `spacing` mm along the axes of the slice (and `slice_spacing` between slices).  `about` is for the record,
    `notes` for people.  `like` is the image that a result is written like, `truth` `(count, *N)` in `unit` what a
    simulation knows.
    """

    kind: str
    part: Callable[[int, bool], Measurement]
    count: int
    unit: str
    spacing: tuple[float, ...]
    digest: str
    slice_spacing: float = 1.0
    shown: Callable[[Tensor], Tensor] = same
    about: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: tuple[Path, ...] = ()
    like: Image | None = None
    truth: Tensor | None = None
    stacked: bool = True


def data_name(raw: Raw, name: str | None, least: int = 2) -> str:
    """The name of the array with the data: as given, or the only one with `least` axes or more."""
    if name is not None:
        raw.stored(name)
        return name
    names = [n for n, s in raw.entries.items() if len(s.shape) >= least and s.dtype.kind in "iufcb"]
    if len(names) != 1:
        expected = f"one array of {least} axes or more, or the name of the data"
        raise InputError(raw.path, raw.listing, expected, "Give data: the name of the array.")
    return names[0]


def only_array(path: Path | str) -> np.ndarray:
    """The only array of a file."""
    with open_raw(path) as raw:
        return raw.read(data_name(raw, None, 1))


def array_of(raw: Raw, name: str, what: str) -> np.ndarray:
    """An array of the file, or of a file beside it: `what` is the field that names it."""
    if name in raw.entries:
        return raw.read(name)
    for path in (raw.path.parent / name, Path(name)):
        if path.exists():
            return only_array(path)
    raise InputError(what, f"{name!r}, which is neither an array in {raw.path.name} nor a file", raw.listing)


def digest_of(*parts: Any) -> str:
    """SHA-256 of arrays and of words."""
    total = hashlib.sha256()
    for part in parts:
        data = np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else str(part).encode()
        total.update(data)
    return total.hexdigest()


def check_noise_unit(noise: NoisePart, unit: str) -> None:
    """Refuse a noise level in another unit than that of the data."""
    if noise.unit is not None and noise.unit != unit:
        hint = "Give the level in the unit of the data."
        raise InputError("noise.unit", repr(noise.unit), f"{unit!r}, as the data", hint)


def chosen(count: int, slices: Sequence[int] | None) -> range:
    """The slices that were asked for; `InputError` for some that are not there."""
    if slices is None:
        return range(count)
    if slices[1] > count:
        raise InputError("slices", list(slices), f"a part of the {count} slices that there are")
    return range(*slices)


def tensor(array: np.ndarray) -> Tensor:
    """In single precision on the CPU."""
    kind = np.complex64 if array.dtype.kind == "c" else np.float32
    return torch.from_numpy(np.ascontiguousarray(array.astype(kind)))
