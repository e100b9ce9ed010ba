"""What the page of a restoration is given, and the choices that its sections share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.curve import Curve
from retrodict.report.page import display_window

__all__ = ["Case", "ReportData", "View", "parts"]


REGION = 48


COLORS = ("r", "g", "b")


Part = Literal["input", "mean", "truth"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportData:
    """What a report shows.

    Images are (H, W) or (Z, H, W), all of one shape, in `unit`.  With several `channels` they have one axis more, the
    first, and channels named r, g, b are shown as one color picture; a single channel may have that axis too.  Images
    may be complex (all but `sd`): pictures are magnitudes then, and numbers count real and imaginary part as two
    values.  `spacing` is (row, column) or (slice, row, column) in `spacing_unit`; without it lengths are in pixels.
    `sd` is real, the square root of the unbiased variance (of complex images: of the real part, and of the imaginary
    part alike).  A point estimate needs a reason and shows neither `sd` nor `samples`, even if they are given.
    `sample_count` is the number of samples behind mean and sd where not all are kept in `samples`; `mean_exact`: the
    mean is not theirs but the answer of the denoiser, whose error has no share of their scatter.  `window` is
    (center, width); by default that of the unit, or one read off the image.  `uniform_region` is (row, column, height,
    width) in pixels of the (middle) slice; without it the flattest region is found.  `verdict` says in words what the
    result is and lists the checks behind it (title, kind, reasons, warnings, checks, notes, cannot_see).  `mtf` and
    `nps` are the curves of the instrument that the restoration assumed.  `stop`: the record of an image at a time of
    the chain, with its `image` and `sd`.  `timing` is in seconds.
    `interval` holds the ends `lower` and `upper` of a calibrated interval, its `label` and its `statement`.
    """

    title: str
    input: Tensor
    mean: Tensor
    sd: Tensor | None = None
    truth: Tensor | None = None
    samples: Sequence[Tensor] | None = None
    sample_count: int | None = None
    mean_exact: bool = False
    channels: tuple[str, ...] = ("gray",)
    unit: str = "a.u."
    spacing: tuple[float, ...] | None = None
    spacing_unit: str = "mm"
    window: tuple[float, float] | None = None
    data_range: float | None = None
    uniform_region: tuple[int, int, int, int] | None = None
    point_estimate: bool = False
    point_estimate_reason: str = ""
    created: str = ""
    model_card: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    files: Sequence[str | Path] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    interval: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, Any] = field(default_factory=dict)
    mtf: Curve | None = None
    nps: Curve | None = None

    def __post_init__(self) -> None:
        """Refuse what would make a figure or a number of the report wrong."""
        _check_images(self)
        _check_uncertainty(self)
        _check_numbers(self)


# ---- checks ------------------------------------------------------------------------------------------------------


def _named_images(data: ReportData) -> Iterator[tuple[str, Tensor]]:
    named = [("input", data.input), ("mean", data.mean), ("sd", data.sd), ("truth", data.truth)]
    yield from ((name, image) for name, image in named if image is not None)
    yield from ((f"samples[{k}]", sample) for k, sample in enumerate(data.samples or ()))


def _check_images(data: ReportData) -> None:
    _check_shape(tuple(data.input.shape), data.channels)
    for name, image in _named_images(data):
        if image.shape != data.input.shape:
            expected = f"the shape of input, {tuple(data.input.shape)}"
            raise InputError(name, f"shape {tuple(image.shape)}", expected, "Bring all images to one grid first.")
        if image.is_complex() != (data.input.is_complex() and name != "sd"):
            kinds = ("complex values", "real values")
            found, expected = kinds if image.is_complex() else kinds[::-1]
            raise InputError(name, found, f"{expected}, as the input has" if name != "sd" else expected)
        if not bool(torch.isfinite(image).all()):
            raise InputError(name, "non-finite values", "finite values")


def _check_shape(shape: tuple[int, ...], channels: tuple[str, ...]) -> None:
    count = len(channels)
    if count < 1 or len(set(channels)) < count:
        raise InputError("channels", channels, "at least one name, all different")
    axes = (2, 3, 4) if count == 1 else (3, 4)
    if len(shape) not in axes or min(shape) < 1 or min(shape[-2:]) < 2:
        grid = "(H, W) or (Z, H, W)" if count == 1 else "(C, H, W) or (C, Z, H, W)"
        raise InputError("input", f"shape {shape}", f"shape {grid}, H and W at least 2")
    if (count > 1 or len(shape) == 4) and shape[0] != count:  # (Z, H, W) of one channel has no axis for it
        raise InputError("input", f"{shape[0]} channels", f"{count}, one for each name: {', '.join(channels)}")


def _check_uncertainty(data: ReportData) -> None:
    if data.point_estimate:
        if not data.point_estimate_reason:
            raise InputError("point_estimate_reason", "nothing", "why there is no uncertainty, in a sentence")
        return
    if data.sd is None:
        raise InputError("sd", "nothing", "a standard deviation", "Or give point_estimate=True and its reason.")
    if bool((data.sd < 0).any()):
        raise InputError("sd", "negative values", "standard deviations of 0 or more")
    if data.sample_count is not None and data.sample_count < 2:
        raise InputError("sample_count", data.sample_count, "at least 2, or there is no standard deviation")


def _check_numbers(data: ReportData) -> None:
    ndim = min(3, data.input.ndim - (len(data.channels) > 1))
    spacing = data.spacing
    if spacing is not None and not (len(spacing) in (2, ndim) and all(0 < s < math.inf for s in spacing)):
        raise InputError("spacing", spacing, "(row, column), or (slice, row, column) for a volume, all above 0")
    if data.window is not None and not (math.isfinite(data.window[0]) and 0 < data.window[1] < math.inf):
        raise InputError("window", data.window, "(center, width), width above 0")
    if data.data_range is not None and not 0 < data.data_range < math.inf:
        raise InputError("data_range", data.data_range, "a finite number above 0")
    if data.uniform_region is not None:
        row, column, height, width = data.uniform_region
        fits = row >= 0 and column >= 0 and row + height <= data.input.shape[-2]
        if not (fits and column + width <= data.input.shape[-1] and min(height, width) >= 8):
            raise InputError("uniform_region", data.uniform_region, "a box of at least 8x8 pixels inside the image")


# ---- arrays ------------------------------------------------------------------------------------------------------


def parts(image: Tensor) -> Tensor:
    """What numbers are taken over: the values, or real and imaginary part of complex ones as two values each."""
    return torch.view_as_real(image.resolve_conj()) if image.is_complex() else image


def _array(image: Tensor, channels: int) -> np.ndarray:
    """Return (C, Z, H, W) of single precision on the CPU; the numbers come from the tensors, these are for pictures."""
    dtype = torch.complex64 if image.is_complex() else torch.float32
    out = image.detach().to(device="cpu", dtype=dtype).resolve_conj().resolve_neg().numpy()
    out = out if channels > 1 or out.ndim == 4 else out[None]
    return out if out.ndim == 4 else out[:, None]


def magnitude(values: np.ndarray) -> np.ndarray:
    """Values as they are shown: complex ones by their magnitude."""
    return np.abs(values) if np.iscomplexobj(values) else values


@dataclass(frozen=True, eq=False)
class View:
    """One channel, or red, green and blue together; arrays are (Z, H, W) or (Z, H, W, 3), samples one slice of that."""

    name: str
    arrays: Mapping[str, np.ndarray]
    sd: np.ndarray | None
    samples: Sequence[np.ndarray] = ()

    def of(self, part: Part, z: int) -> np.ndarray:
        """A slice as it is shown."""
        return magnitude(self.arrays[part][z])

    def change(self, z: int, since: Part) -> np.ndarray:
        """Mean minus `since`; for complex values the magnitude of that."""
        return magnitude(self.arrays["mean"][z] - self.arrays[since][z])

    def titled(self, title: str) -> str:
        """A title with the name of the channel, where there are several."""
        return f"{title}, {self.name}" if self.name else title


class Case:
    """The given data with the choices that several sections share."""

    def __init__(self, data: ReportData) -> None:
        self.data = data
        given = {"input": data.input, "mean": data.mean, "truth": data.truth}
        arrays = {k: _array(v, len(data.channels)) for k, v in given.items() if v is not None}
        self.complex = data.input.is_complex()
        self.color = tuple(c.lower() for c in data.channels) == COLORS and not self.complex
        self.depth = arrays["mean"].shape[1]
        self.size: tuple[int, int] = arrays["mean"].shape[-2:]
        self.slices = sorted({int((self.depth - 1) * part + 0.5) for part in (0.25, 0.5, 0.75)})
        self.middle = self.slices[len(self.slices) // 2]
        self.has_truth = data.truth is not None
        shown = not data.point_estimate
        self.sd = _array(data.sd, len(data.channels)) if shown and data.sd is not None else None
        samples = list(data.samples or ()) if shown else []
        self.count = (data.sample_count or (len(samples) if len(samples) > 1 else None)) if shown else None
        first = [_array(s, len(data.channels))[:, self.middle] for s in samples[:4]]
        self.views = _views(data.channels, arrays, self.sd, first)
        self.estimate = "estimate" if data.point_estimate else "posterior mean"
        self.pixel: tuple[float, float] = (data.spacing[-2], data.spacing[-1]) if data.spacing else (1.0, 1.0)
        self.length = data.spacing_unit if data.spacing else "pixel"
        found = (data.window, False) if data.window else display_window(magnitude(arrays["mean"]), data.unit)
        self.window, self.automatic_window = found
        self.region = data.uniform_region or _flattest(self.flat("mean"), self.flat("input"), self.limits)

    @property
    def limits(self) -> tuple[float, float]:
        """The values of black and white."""
        center, width = self.window
        return center - width / 2, center + width / 2

    @property
    def of_slice(self) -> str:
        """Which slice is meant, for volumes."""
        return f" of slice {self.middle + 1}" if self.depth > 1 else ""

    @property
    def aspect(self) -> str:
        """Width over height in physical units."""
        return f"{self.size[1] * self.pixel[1]:.6g} / {self.size[0] * self.pixel[0]:.6g}"

    @cached_property
    def pictures(self) -> list[View]:
        """What becomes one picture: every channel by itself, or the three of a color picture together."""
        if not self.color:
            return self.views
        arrays = {k: np.stack([v.arrays[k] for v in self.views], -1) for k in self.views[0].arrays}
        samples = [np.stack(channels, -1) for channels in zip(*(v.samples for v in self.views), strict=True)]
        return [View("", arrays, None, samples)]

    def flat(self, part: Part | Literal["sd"]) -> np.ndarray:
        """The middle slice, averaged over channels: where to look is chosen on it."""
        if part == "sd":
            assert self.sd is not None
            return self.sd[:, self.middle].mean(0)
        return np.mean([v.of(part, self.middle) for v in self.views], 0)


def _views(
    channels: Sequence[str], arrays: Mapping[str, np.ndarray], sd: np.ndarray | None, samples: Sequence[np.ndarray]
) -> list[View]:
    names = channels if len(channels) > 1 else ("",)
    return [
        View(name, {k: v[i] for k, v in arrays.items()}, None if sd is None else sd[i], [s[i] for s in samples])
        for i, name in enumerate(names)
    ]


# ---- the uniform region ------------------------------------------------------------------------------------------


def box_means(image: np.ndarray, size: int, step: int) -> np.ndarray:
    """Mean of every `step`-th size x size box, in float64 so that small variances survive."""
    x = torch.from_numpy(image.astype(np.float64))[None, None]
    return torch.nn.functional.avg_pool2d(x, size, step)[0, 0].numpy()


def _box_variances(image: np.ndarray, size: int, step: int) -> np.ndarray:
    centered = image.astype(np.float64) - float(image.mean())
    mean = box_means(centered, size, step)
    return np.clip(box_means(centered**2, size, step) - mean**2, 0, None)


def _flattest(mean: np.ndarray, noisy: np.ndarray, limits: tuple[float, float]) -> tuple[int, int, int, int] | None:
    """Find the box in which the restored image varies least, or None if the image is too small for one.

    Boxes outside the display window come last: air and padding are the flattest of all, but clipped values there
    have no noise to measure.
    """
    size = min(REGION, min(mean.shape) // 2)
    if size < 8:
        return None
    step = max(1, size // 12)
    level, flatness = box_means(mean, size, step), _box_variances(mean, size, step)
    alive = _box_variances(noisy, size, step) > 1e-9 * max(float(noisy.var()), 1e-30)
    if not alive.any():
        return None
    wanted = alive & (level >= limits[0]) & (level <= limits[1])
    flatness = np.where(wanted if wanted.any() else alive, flatness, np.inf)
    row, column = np.unravel_index(int(flatness.argmin()), flatness.shape)
    return int(row) * step, int(column) * step, size, size
