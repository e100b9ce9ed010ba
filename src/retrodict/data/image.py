"""The image record that every reader returns and every writer takes, and the checks that all readers share."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data.units import unit as unit_named

__all__ = ["Image", "Source", "clean", "decoding", "finite", "optional"]


IO_EXTRA = 'pip install "retrodict[io]"'


@dataclass(frozen=True)
class Source:
    """One thing that can be read: a file, or the files of one DICOM series.

    `paths` are the files, `format` is a name in `FORMATS` ("dicom", "dicom-series", "nifti", ...), and `name` is unique
    among the sources found together and usable as a file name.
    """

    paths: tuple[Path, ...]
    format: str
    name: str


@dataclass(frozen=True, eq=False)
class Image:
    """Values together with the geometry they live on.

    values : (C, *N) float32 or complex64 in `unit`; N = (H, W) or (Z, H, W), C = 1 for gray images.
    unit : "HU", "arbitrary", ...
    spacing : mm per axis of N in array order: (dy, dx) or (dz, dy, dx). dz is nan where the slices are independent.
    format : a name in `FORMATS`: "dicom", "dicom-series", "nifti", "tiff", "png", "npz", "mha", ...
    source : the file(s) it came from, in slice order.
    header : what the writer of `format` needs to write the same geometry back; None after resampling.
    padding : (*N) bool, True outside the reconstruction circle; None where there is no such pixel. In an HU image the
        values there are -1024.
    regular : False for a stack of slices read one by one (`slices="independent"`), which has no slice spacing.
    channels : a name for each of the C channels; where none are given, "gray" for one and "0", "1", ... for several.
        The components of a vector field in mm are called "dz", "dy", "dx".
    notes : sentences that the reader wants said to whoever uses the image: a file of the series that it left out, ...
    """

    values: Tensor
    unit: str
    spacing: tuple[float, ...]
    format: str
    source: tuple[Path, ...]
    header: object | None = None
    padding: Tensor | None = None
    regular: bool = True
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that values, spacing, padding and channels belong together; `InputError` otherwise."""
        shape = tuple(self.values.shape)
        where = str(self.source[0]) if self.source else "Image"
        if len(shape) not in (3, 4):
            raise InputError(where, f"values of shape {shape}", "(C, H, W) or (C, Z, H, W)")
        if len(self.spacing) != len(shape) - 1:
            raise InputError(where, f"{len(self.spacing)} spacings", f"one for each of the {len(shape) - 1} axes")
        if not all(s > 0 or (math.isnan(s) and not self.regular) for s in self.spacing):
            raise InputError(where, f"spacing {self.spacing}", "positive numbers in mm")
        if self.padding is not None and tuple(self.padding.shape) != shape[1:]:
            raise InputError(where, f"padding of shape {tuple(self.padding.shape)}", f"{shape[1:]}")
        if not self.channels:
            names = ("gray",) if shape[0] == 1 else tuple(str(i) for i in range(shape[0]))
            object.__setattr__(self, "channels", names)
        if len(self.channels) != shape[0] or len(set(self.channels)) != shape[0]:
            raise InputError(
                where, f"channels {self.channels}", f"a different name for each of the {shape[0]} channels"
            )

    def gray(self) -> Image:
        """Return this image if it has one channel of real numbers; otherwise raise an `InputError` that says so."""
        where = str(self.source[0]) if self.source else "Image"
        if self.values.shape[0] != 1:
            raise InputError(where, f"{self.values.shape[0]} channels ({', '.join(self.channels)})", "a gray image")
        if self.values.is_complex():
            raise InputError(where, "complex values", "a gray image of real values")
        return self

    def with_values(self, values: Tensor, unit: str | None = None) -> Image:
        """Return other values (C, *N) on the same grid, as float32 or complex64; a different N is an `InputError`.

        The names of the channels stay where their number does.
        """
        if tuple(values.shape[1:]) != tuple(self.values.shape[1:]):
            where = str(self.source[0]) if self.source else "Image"
            raise InputError(where, f"values of shape {tuple(values.shape)}", f"(C, *{tuple(self.values.shape[1:])})")
        values = values.to(torch.complex64 if values.is_complex() else torch.float32)
        channels = self.channels if values.shape[0] == len(self.channels) else ()
        return replace(self, values=values, unit=self.unit if unit is None else unit, channels=channels)


def clean(
    values: np.ndarray, unit: str, marked: np.ndarray | None = None, clip: bool = True
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Clip values to the range of their unit and find the pixels outside the reconstruction circle.

    values : (*N) in a unit that has a range, such as HU with [-1024, 3071]; marked : (*N) bool, pixels that the file
    itself calls padding; clip : False keeps the noise of air.
    Returns the clipped values (*N) float32, the padding (*N) bool or None, and the value the padding had (nan if none).
    """
    known = unit_named(unit)
    assert known.range is not None
    padding = np.zeros(values.shape, bool) if marked is None else marked.copy()
    # Scanners use the padding as their smallest value. Taking only the minimum keeps a noisy pixel that happens to be
    # -1500 in an image padded with -3024 from being called padding.
    smallest = float(values.min())
    if smallest in known.outside:
        padding |= values == smallest
    level = float(values[padding].min()) if padding.any() else math.nan
    clipped = (np.clip(values, *known.range) if clip else values).astype(np.float32)
    clipped[padding] = known.range[0]
    return clipped, (padding if padding.any() else None), level


def finite(values: np.ndarray, where: object) -> None:
    """Raise an `InputError` that counts the values that are nan or infinite."""
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InputError(where, f"{bad} of {values.size} values that are nan or infinite", "finite values only")


@contextmanager
def decoding(path: Path, kind: str) -> Generator[None]:
    """Turn whatever a decoder raises while it reads `path` into an `InputError` that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(path, "no such file", f"a {kind} file") from error
    except Exception as error:  # decoders raise almost anything on broken bytes
        reason = f"{type(error).__name__}: {error}".strip().rstrip(".")
        raise InputError(path, f"a file that cannot be decoded ({reason})", f"a complete {kind} file") from error


@contextmanager
def optional(path: Path, package: str) -> Generator[None]:
    """Turn a missing optional package into an `InputError` that names the extra to install."""
    try:
        yield
    except ImportError as error:
        hint = f"Install it with: {IO_EXTRA}"
        raise InputError(
            path, f"the package {package} is not installed", f"{package}, to handle this file", hint
        ) from error
