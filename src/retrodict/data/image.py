"""The image record that every reader returns and every writer takes, and the checks that all readers share."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.data.limits import check_size
from retrodict.data.units import unit as unit_named

__all__ = ["Image", "Source", "clean", "decoding", "finite", "in_memory", "mm_of", "numbers", "optional"]


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
    format : a name in `FORMATS`: "dicom", "dicom-series", "nifti", "tiff", "png", "npz", "mha", ...; what comes from
        no file is written as npz.
    source : the file(s) it came from, in slice order; () for an array.
    header : what the writer of `format` needs to write the same geometry back; None after resampling.
    padding : (*N) bool, True outside the reconstruction circle; None where there is no such pixel. In an HU image the
        values there are -1024.
    regular : False for a stack of slices read one by one (`slices="independent"`), which has no slice spacing.
    channels : a name for each of the C channels; where none are given, "gray" for one and "0", "1", ... for several.
        The components of a vector field in mm are called "dz", "dy", "dx".
    axes : a unit vector for each axis of N, where it leads in the patient: (right, anterior, superior). () if unknown.
    order : axis i of N is axis order[i] of the file, where a volume was brought to another plane; () where not.
    notes : sentences that the reader wants said to whoever uses the image: a file of the series that it left out, ...

    `Image.of` makes one of an array or a tensor.
    """

    values: Tensor
    unit: str
    spacing: tuple[float, ...]
    format: str = "npz"
    source: tuple[Path, ...] = ()
    header: object | None = None
    padding: Tensor | None = None
    regular: bool = True
    channels: tuple[str, ...] = ()
    axes: tuple[tuple[float, float, float], ...] = ()
    order: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        array: Any,
        *,
        unit: str = "arbitrary",
        spacing: float | Sequence[float],
        channels: Sequence[str] = (),
        clip: bool = True,
    ) -> Image:
        """Make an image of a NumPy array, a tensor, or anything that NumPy takes for an array of numbers.

        array : (H, W) or (Z, H, W); with names for `channels` (C, H, W) or (C, Z, H, W). Real or complex; copied.
        unit : of the values, such as "HU". clip : as in `read`.
        spacing : mm: one number for all axes, (dy, dx), or (dz, dy, dx). A stack with two numbers holds independent
            slices, as with `slices="independent"` in `read`.

        Raises `InputError` for what are no numbers, for nan and infinite values, and for sizes that do not fit.
        """
        values = numbers(array)
        names = (channels,) if isinstance(channels, str) else tuple(str(c) for c in channels)
        grid = values.shape[1:] if names else values.shape
        if len(grid) not in (2, 3):
            hint = "" if names or values.ndim != 4 else "Name the channels of the first axis: channels=[...]."
            found = f"shape {values.shape}" + (f" with {len(names)} channels" if names else "")
            raise InputError("array", found, "(H, W) or (Z, H, W), and before them the channels that are named", hint)
        if not names and len(grid) == 3 and grid[-1] in (3, 4) and min(grid[:2]) > 8:
            hint = "For colors, move them to the first axis and name them: channels=['r', 'g', 'b']."
            raise InputError("array", f"shape {grid}, a color image", "gray values, (H, W) or (Z, H, W)", hint)
        known = mm_of([spacing] * len(grid) if isinstance(spacing, int | float) else spacing)
        stacked = len(grid) == 3 and len(known) == 2
        full = (math.nan, *known) if stacked else known
        tensor, padding = in_memory(values if names else values[None], unit, clip, "array")
        return cls(tensor, unit, full, padding=padding, regular=not stacked, channels=names)

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
        for name, given in (("axes", self.axes), ("order", self.order)):
            if given and len(given) != len(self.spacing):
                raise InputError(
                    where, f"{len(given)} {name}", f"one for each of the {len(self.spacing)} axes, or none"
                )

    @property
    def plane(self) -> str | None:
        """The plane that the last two axes span: "axial", "coronal", "sagittal" or "oblique"; None where unknown.

        Named is the nearest plane of the body; beyond 40 degrees from all of them it is oblique.
        """
        if not self.axes:
            return None
        down, across = (np.asarray(axis, np.float64) for axis in self.axes[-2:])
        normal = np.abs(np.cross(down, across))
        nearest, length = int(normal.argmax()), float(np.linalg.norm(normal))
        if not length > 0 or normal[nearest] < math.cos(math.radians(40)) * length:
            return "oblique"
        return ("sagittal", "coronal", "axial")[nearest]

    def __repr__(self) -> str:
        """One line: size, channels, unit, spacing, range and where it came from; no values."""
        size = " x ".join(str(n) for n in self.values.shape[1:])
        names = "" if self.channels == ("gray",) else f"channels {', '.join(self.channels)}; "
        span = " x ".join(f"{s:.4g}" for s in self.spacing)
        real = self.values.abs() if self.values.is_complex() else self.values
        limits = f"{float(real.min()):.5g} to {float(real.max()):.5g} {self.unit}" if real.numel() else "empty"
        kind = "complex, magnitude " if self.values.is_complex() else ""
        origin = f"; {self.format} {self.source[0].name!r}" if self.source else ""
        return f"Image({size}; {names}{kind}{limits}; {span} mm{origin})"

    def _repr_html_(self) -> str:
        """A small picture of the middle slice with size, unit and spacing, for notebooks."""
        from retrodict.data.thumbnail import html

        return html(self)

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


def mm_of(spacing: Sequence[float]) -> tuple[float, ...]:
    """Return the numbers of a spacing as float; `InputError` for what are none."""
    try:
        return tuple(float(s) for s in spacing)
    except (TypeError, ValueError) as error:
        raise InputError("spacing", repr(spacing), "numbers in mm, such as (0.7, 0.7)") from error


def numbers(array: Any) -> np.ndarray:
    """Return an array or tensor as NumPy numbers (real or complex); `InputError` for anything else."""
    if isinstance(array, Tensor):
        if array.layout != torch.strided or array.is_quantized:
            raise InputError("array", f"a tensor of layout {array.layout}", "a dense tensor of numbers")
        array = array.detach().cpu().resolve_conj().resolve_neg()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        hint = "Fill it first: array.filled(value)."
        raise InputError("array", f"{np.ma.count_masked(array)} masked values", "a value for every pixel", hint)
    try:
        values = np.asarray(array)
    except (TypeError, ValueError) as error:
        raise InputError("array", f"{type(array).__name__} ({error})", "an array of numbers") from error
    if values.dtype.kind not in "iufbc":
        raise InputError("array", f"values of type {values.dtype}", "an array of numbers")
    return values


def in_memory(values: np.ndarray, unit: str, clip: bool, where: object) -> tuple[Tensor, Tensor | None]:
    """Return values (C, *N) of any kind of number as float32 or complex64, cleaned as their unit asks, and the padding.

    `InputError` about `where` for an empty image, for values that are nan, infinite or too large for a float32.
    """
    grid = values.shape[1:]
    if values.size == 0:
        raise InputError(where, f"an empty image of shape {grid}", "at least one pixel")
    check_size(where, values.shape, values.itemsize)
    whole = values.dtype.kind in "iub"
    with np.errstate(over="ignore"):  # a float64 that does not fit becomes infinite
        values = values.astype(np.complex64 if values.dtype.kind == "c" else np.float32)
    if not whole:
        finite(values, where)
    padding = None
    if unit_named(unit).range is not None:
        values, padding = _in_range(values, unit, clip, where)
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor, None if padding is None else torch.from_numpy(padding)


def _in_range(values: np.ndarray, unit: str, clip: bool, where: object) -> tuple[np.ndarray, np.ndarray | None]:
    """Clean the channels (C, *N) of a unit that has a range; what is padding in one channel is so in all of them."""
    if values.dtype.kind == "c":
        raise InputError(where, f"complex values in {unit}", f"real values: {unit} has no phase")
    cleaned = [clean(channel, unit, clip=clip) for channel in values]
    masks = [padding for _, padding, _ in cleaned if padding is not None]
    values = np.stack([channel for channel, _, _ in cleaned])
    if not masks:
        return values, None
    padding = np.logical_or.reduce(masks)
    limits = unit_named(unit).range
    assert limits is not None
    values[:, padding] = limits[0]
    return values, padding


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
    """Turn whatever a decoder raises while it reads `path` into an `InputError` that names the file.

    What was raised is kept as the cause.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(path, "no such file", f"a {kind} file") from error
    except MemoryError as error:
        raise InputError(path, "more values than there is memory for", f"a {kind} file that fits") from error
    except Exception as error:  # decoders raise almost anything on broken bytes
        # A message may quote the file: on one line, without control characters, and not all of it.
        text = "".join(c if c.isprintable() else "?" for c in " ".join(f"{type(error).__name__}: {error}".split()))
        reason = (text if len(text) <= 200 else f"{text[:200]} ...").rstrip(" .:")
        raise InputError(path, f"a file that cannot be decoded ({reason})", f"a complete {kind} file") from error


@contextmanager
def optional(path: Path, package: str) -> Generator[None]:
    """Turn a missing package into an `InputError` that says how to install it."""
    try:
        yield
    except ImportError as error:
        hint = f"Install it with: pip install {package}"
        raise InputError(
            path, f"the package {package} is not installed", f"{package}, to handle this file", hint
        ) from error
    # Without a handler a library's warnings about broken files go to the terminal, between our own lines.
    logger = logging.getLogger(package)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
