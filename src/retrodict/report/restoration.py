"""One HTML file that shows what a restoration did: images, uncertainty, profiles, noise spectra and a full record.

The file holds everything it shows. It has no script and asks nothing of a network, which its content security policy
also forbids, so it can be mailed, archived and printed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import torch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from PIL import Image
from torch import Tensor

from retrodict import metrics
from retrodict._check import InputError
from retrodict._output import write_file
from retrodict._version import __version__
from retrodict.report.page import INPUT, MEAN, MUTED, SAMPLE, TRUTH, legend, plot, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Curve", "ReportData", "render", "write"]


CT_WINDOW = (40.0, 400.0)


REGION = 48


PROFILE = 192


LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))


NBSP = "\u00a0"


@dataclass(frozen=True)
class Curve:
    """A measured curve to plot, such as the MTF (`y` without unit) or the NPS (`y` in unit^2 mm^2) of the scanner."""

    x: Sequence[float]
    y: Sequence[float]
    x_unit: str = "cycles/mm"
    y_unit: str = ""
    label: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportData:
    """What a report shows.

    Images are (H, W) or (Z, H, W), all of one shape, in `unit`. `spacing` is (row, column) or (slice, row, column) in
    `spacing_unit`; without it lengths are in pixels. `sd` is the square root of the unbiased variance. A point
    estimate needs a reason and shows neither `sd` nor `samples`, even if they are given. `sample_count` is the number
    of samples behind mean and sd where not all are kept in `samples`. `window` is (center, width).
    `uniform_region` is (row, column, height, width) in pixels of the (middle) slice; without it the flattest region
    is found. `mtf` and `nps` are the curves of the instrument that the restoration assumed. `timing` is in seconds.
    """

    title: str
    input: Tensor
    mean: Tensor
    sd: Tensor | None = None
    truth: Tensor | None = None
    samples: Sequence[Tensor] | None = None
    sample_count: int | None = None
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
    mtf: Curve | None = None
    nps: Curve | None = None

    def __post_init__(self) -> None:
        """Refuse what would make a figure or a number of the report wrong."""
        _check_images(self)
        _check_uncertainty(self)
        _check_numbers(self)


def write(result: ReportData, path: str | Path, force: bool = False) -> Path:
    """Write the report of `result` to `path` and return it; an existing file stays unless `force` is given.

    The page is complete before the file appears: a failure leaves no half-written report.
    """
    target = Path(path)
    _check_target(target, force)
    page = render(result)
    _check_target(target, force)  # rendering takes seconds in which another process may have written it
    return write_file(target, page.encode("utf-8", errors="replace"), force=force)


def render(result: ReportData) -> str:
    """Return the report of `result` as one HTML page."""
    case = _Case(result)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = {
        "data": result,
        "version": __version__,
        "verdict": _verdict(case),
        "tiles": _tiles(case),
        "galleries": _galleries(case),
        "closeup": _closeup(case),
        "profiles": _profiles(case),
        "noise": _noise(case),
        "instrument": _instrument(case),
        "truth": _truth(case),
        "record": _record(result),
    }
    return environment.get_template("report.html.j2").render(context)


# --- what was given -------------------------------------------------------------------------------------------------
def _check_target(target: Path, force: bool) -> None:
    if not target.parent.is_dir():
        raise InputError(target, "no such folder", "a file name in an existing folder", "Make the folder first.")
    if target.is_dir():
        raise InputError(target, "a folder", "a file name such as report.html")
    if target.exists() and not force:
        raise InputError(target, "an existing file", "a new file name", "Give force to replace it.")


def _named_images(data: ReportData) -> Iterator[tuple[str, Tensor]]:
    named = [("input", data.input), ("mean", data.mean), ("sd", data.sd), ("truth", data.truth)]
    yield from ((name, image) for name, image in named if image is not None)
    yield from ((f"samples[{k}]", sample) for k, sample in enumerate(data.samples or ()))


def _check_images(data: ReportData) -> None:
    if data.input.ndim not in (2, 3) or min(data.input.shape) < 1 or min(data.input.shape[-2:]) < 2:
        raise InputError("input", f"shape {tuple(data.input.shape)}", "shape (H, W) or (Z, H, W), H and W at least 2")
    for name, image in _named_images(data):
        if image.shape != data.input.shape:
            expected = f"the shape of input, {tuple(data.input.shape)}"
            raise InputError(name, f"shape {tuple(image.shape)}", expected, "Bring all images to one grid first.")
        if image.is_complex():
            raise InputError(name, "complex values", "real values", "Give the magnitude.")
        if not bool(torch.isfinite(image).all()):
            raise InputError(name, "non-finite values", "finite values")


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
    ndim = data.input.ndim
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


class _Case:
    """The given data with the choices that several sections share."""

    def __init__(self, data: ReportData) -> None:
        self.data = data
        self.volume = data.input.ndim == 3
        self.depth = data.input.shape[0] if self.volume else 1
        self.input, self.mean = _array(data.input), _array(data.mean)
        self.truth = None if data.truth is None else _array(data.truth)
        shown = not data.point_estimate
        self.sd = _array(data.sd) if shown and data.sd is not None else None
        self.samples = list(data.samples or ()) if shown else []
        self.count = (data.sample_count or (len(self.samples) if len(self.samples) > 1 else None)) if shown else None
        self.estimate = "estimate" if data.point_estimate else "posterior mean"
        self.slices = sorted({int((self.depth - 1) * part + 0.5) for part in (0.25, 0.5, 0.75)})
        self.middle = self.slices[len(self.slices) // 2]
        self.pixel: tuple[float, float] = (data.spacing[-2], data.spacing[-1]) if data.spacing else (1.0, 1.0)
        self.length = data.spacing_unit if data.spacing else "pixel"
        self.automatic_window = data.window is None and data.unit != "HU"
        self.window = data.window or (CT_WINDOW if data.unit == "HU" else _auto_window(self.mean))
        self.region = data.uniform_region or _flattest(self.mean[self.middle], self.input[self.middle], self.limits)

    @property
    def limits(self) -> tuple[float, float]:
        center, width = self.window
        return center - width / 2, center + width / 2

    def sample(self, k: int) -> np.ndarray:
        return _array(self.samples[k])[self.middle]


def _array(image: Tensor) -> np.ndarray:
    """Return (Z, H, W) float32 on the CPU; the numbers come from the tensors, these are for pictures."""
    out = image.detach().to(device="cpu", dtype=torch.float32).numpy()
    return out if out.ndim == 3 else out[None]


def _auto_window(image: np.ndarray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(image, (0.5, 99.5)))
    return (low + high) / 2, (high - low) or 1.0


def _box_means(image: np.ndarray, size: int, step: int) -> np.ndarray:
    """Mean of every `step`-th size x size box, in float64 so that small variances survive."""
    x = torch.from_numpy(image.astype(np.float64))[None, None]
    return torch.nn.functional.avg_pool2d(x, size, step)[0, 0].numpy()


def _box_variances(image: np.ndarray, size: int, step: int) -> np.ndarray:
    centered = image.astype(np.float64) - float(image.mean())
    mean = _box_means(centered, size, step)
    return np.clip(_box_means(centered**2, size, step) - mean**2, 0, None)


def _flattest(mean: np.ndarray, noisy: np.ndarray, limits: tuple[float, float]) -> tuple[int, int, int, int] | None:
    """Find the box in which the restored image varies least, or None if the image is too small for one.

    Boxes outside the display window come last: air and padding are the flattest of all, but clipped values there
    have no noise to measure.
    """
    size = min(REGION, min(mean.shape) // 2)
    if size < 8:
        return None
    step = max(1, size // 12)
    level, flatness = _box_means(mean, size, step), _box_variances(mean, size, step)
    alive = _box_variances(noisy, size, step) > 1e-9 * max(float(noisy.var()), 1e-30)
    if not alive.any():
        return None
    wanted = alive & (level >= limits[0]) & (level <= limits[1])
    flatness = np.where(wanted if wanted.any() else alive, flatness, np.inf)
    row, column = np.unravel_index(int(flatness.argmin()), flatness.shape)
    return int(row) * step, int(column) * step, size, size


# --- numbers and words ----------------------------------------------------------------------------------------------
def _number(value: float, digits: int = 3) -> str:
    """Format with `digits` significant digits, without exponents where people would not use them."""
    if not math.isfinite(value):
        return "∞" if value > 0 else str(value)
    size = abs(value)
    if size == 0:
        return "0"
    if not 1e-4 <= size < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(float(f"{size:.{digits - 1}e}"))))
    return f"{value:.{decimals}f}".replace("-", "−")


def _short(value: float) -> str:
    """Format a number that somebody chose: no zeros behind it, a true minus sign before it."""
    return f"{value:.4g}".replace("-", "−")


def _quantity(value: float, unit: str, digits: int = 3) -> str:
    return f"{_number(value, digits)}{NBSP}{unit}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}{NBSP}%"


def _square(unit: str) -> str:
    return f"{unit}²" if re.fullmatch(r"\w+", unit) else f"({unit})²"


def _size_words(case: _Case) -> str:
    height, width = case.mean.shape[-2:]
    slices = f"{case.depth}{NBSP}slices of " if case.depth > 1 else ""
    return f"{slices}{height}{NBSP}×{NBSP}{width}{NBSP}pixels"


def _verdict(case: _Case) -> str:
    size = _size_words(case) if case.depth > 1 else f"one image of {_size_words(case)}"
    if case.sd is None:
        made = f"Restored {size} as a point estimate; no uncertainty is given"
    else:
        of = f"{case.count} posterior samples" if case.count else "posterior samples"
        middle = _quantity(float(np.median(case.sd)), case.data.unit)
        made = f"Restored {size} as the mean of {of}; the median standard deviation is {middle}"
    if case.data.truth is None:
        return f"{made}."
    before, after = (metrics.rmse(x, case.data.truth) for x in (case.data.input, case.data.mean))
    change = "fell" if after < before else "rose" if after > before else "stayed"
    to = f"from {_number(before)} to {_quantity(after, case.data.unit)}"
    return f"{made}. Against the truth the RMS error {change} {to}."


def _tiles(case: _Case) -> list[dict[str, str]]:
    data = case.data
    shift = float((data.mean.double() - data.input.double()).mean())
    tiles = [{"label": "Size", "value": _size_words(case), "note": _spacing_words(case)}]
    if case.sd is not None:
        low, high = (float(v) for v in np.percentile(case.sd, (5, 95)))
        note = f"5th to 95th percentile: {_number(low)} to {_quantity(high, data.unit)}"
        value = _quantity(float(np.median(case.sd)), data.unit)
        tiles.append({"label": "Median standard deviation", "value": value, "note": note})
    if case.region:
        before, after = (_region_noise(case, image) for image in (case.input, case.mean))
        value = f"{_number(before)} → {_quantity(after, data.unit)}"
        tiles.append({"label": "Noise in the uniform region", "value": value, "note": f"input → {case.estimate}"})
    note = f"average of {case.estimate} − input over all pixels"
    tiles.append({"label": "Shift of the mean level", "value": _quantity(shift, data.unit), "note": note})
    if data.timing:
        tiles.append({"label": "Time", "value": _quantity(sum(data.timing.values()), "s"), "note": "all steps"})
    return tiles


def _spacing_words(case: _Case) -> str:
    if case.data.spacing is None:
        return "pixel spacing not given"
    return " × ".join(_number(s) for s in case.data.spacing) + f"{NBSP}{case.data.spacing_unit} spacing"


def _window_words(case: _Case) -> str:
    center, width = case.window
    low, high = case.limits
    how = "automatic window" if case.automatic_window else "window"
    unit = case.data.unit
    center_, width_, low_, high_ = (_short(v) for v in (center, width, low, high))
    return f"{how} center {center_}, width {width_}{NBSP}{unit} ({low_} to {high_}{NBSP}{unit})"


# --- pictures -------------------------------------------------------------------------------------------------------
def _bar(low: float, high: float, colors: str, unit: str) -> dict[str, Any]:
    marks = [m for m in MaxNLocator(4).tick_values(low, high) if low - 1e-9 <= m <= high + 1e-9]
    ticks = [{"at": 100 * (m - low) / (high - low), "label": _short(m)} for m in marks]
    return {"src": png(np.linspace(0, 1, 256, dtype=np.float32)[None], 0, 1, colors), "ticks": ticks, "unit": unit}


def _panel(case: _Case, title: str, image: np.ndarray, caption: str, scale: _Scale | None = None) -> dict[str, Any]:
    low, high, colors = (scale.low, scale.high, scale.colors) if scale else (*case.limits, "gray")
    height, width = image.shape
    dy, dx = case.pixel
    bar = _bar(low, high, colors, case.data.unit) if scale else None
    aspect = f"{width * dx:.6g} / {height * dy:.6g}"
    return {"title": title, "src": png(image, low, high, colors), "caption": caption, "bar": bar, "aspect": aspect}


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    colors: str
    words: str


def _sd_scale(case: _Case) -> _Scale | None:
    if case.sd is None:
        return None
    shown = case.sd[case.slices]
    high = _nice(float(np.percentile(shown, 99.5)))
    unit = case.data.unit
    words = f"Scale 0 to {_short(high)}{NBSP}{unit}; the largest value is {_quantity(float(case.sd.max()), unit)}."
    return _Scale(0.0, high, "inferno", words)


def _signed_scale(case: _Case, difference: np.ndarray) -> _Scale:
    """Symmetric about zero; the 98th percentile leaves the few sharpest edges to saturate, not the rest to pale."""
    high = _nice(float(np.percentile(np.abs(difference), 98)))
    words = f"Scale ±{_short(high)}{NBSP}{case.data.unit}; red is above, blue below; larger values saturate."
    return _Scale(-high, high, "RdBu_r", words)


def _nice(value: float) -> float:
    """Round up to two significant digits, so that a color bar ends on a number one can read."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")


def _galleries(case: _Case) -> list[dict[str, Any]]:
    """One gallery for each slice, all with the same color scales."""
    shown = case.slices
    change = _signed_scale(case, case.mean[shown] - case.input[shown])
    error = None if case.truth is None else _signed_scale(case, case.mean[shown] - case.truth[shown])
    return [_gallery(case, z, _sd_scale(case), change, error) for z in shown]


def _gallery(case: _Case, z: int, sd_scale: _Scale | None, change: _Scale, error: _Scale | None) -> dict[str, Any]:
    window = _window_words(case)
    panels = [
        _panel(case, "Input", case.input[z], f"As measured; {window}."),
        _panel(case, case.estimate.capitalize(), case.mean[z], f"{window[0].upper()}{window[1:]}."),
    ]
    if case.truth is not None:
        panels.append(_panel(case, "Truth", case.truth[z], f"Known reference; {window}."))
    if case.sd is not None and sd_scale is not None:
        caption = f"Spread of the posterior samples at each pixel. {sd_scale.words}"
        panels.append(_panel(case, "Standard deviation", case.sd[z], caption, sd_scale))
    caption = f"{case.estimate.capitalize()} − input: what the restoration changed. {change.words}"
    panels.append(_panel(case, "Difference", case.mean[z] - case.input[z], caption, change))
    if case.truth is not None and error is not None:
        caption = f"{case.estimate.capitalize()} − truth. {error.words}"
        panels.append(_panel(case, "Error", case.mean[z] - case.truth[z], caption, error))
    name = f"Slice {z + 1} of {case.depth}" if case.volume else ""
    return {"name": name, "panels": panels, "columns": 2 if len(panels) == 4 else 3}


def _closeup(case: _Case) -> dict[str, Any] | None:
    """Cut the most uncertain part of the middle slice out of the input, the mean and a few samples."""
    if case.sd is None or not case.samples:
        return None
    z = case.middle
    size = min(128, *case.mean.shape[-2:])
    step = max(1, size // 16)
    inside = (case.mean[z] >= case.limits[0]) & (case.mean[z] <= case.limits[1])  # what black and white would hide
    level = _box_means(np.where(inside, case.sd[z], 0), size, step)
    row, column = (int(k) * step for k in np.unravel_index(int(level.argmax()), level.shape))
    cut = (slice(row, row + size), slice(column, column + size))
    named = [("Input", case.input[z]), ("Posterior mean", case.mean[z])]
    named += [(f"Sample {k + 1}", case.sample(k)) for k in range(min(4, len(case.samples)))]
    where = f"rows {row} to {row + size - 1}, columns {column} to {column + size - 1}"
    on = f" of slice {z + 1}" if case.volume else ""
    found = "Where the standard deviation is largest on average, among values inside the window"
    caption = f"{found}: {where}{on}; {_window_words(case)}."
    return {"panels": [_panel(case, name, image[cut], "") for name, image in named], "caption": caption}


# --- plots ----------------------------------------------------------------------------------------------------------
def _profiles(case: _Case) -> dict[str, Any]:
    row, column = _informative(case, axis=1), _informative(case, axis=0)
    across, down = _Cut(case, "row", row), _Cut(case, "column", column)
    thumbnail = Image.fromarray(case.mean[case.middle])
    thumbnail.thumbnail((320, 320))
    locator = _panel(case, "Where", np.asarray(thumbnail), "")
    height, width = case.mean.shape[-2:]
    overlay = {"across": across, "down": down, "height": height, "width": width, "box": case.region}
    on = f" of slice {case.middle + 1}" if case.volume else ""
    caption = f"The parts of the row and the column{on} with the most edges inside the display window."
    plots = [_line(case, across), _line(case, down)]
    return {"plots": plots, "locator": locator, "overlay": overlay, "caption": caption, "aspect": _aspect(case)}


class _Cut:
    """A stretch of one row or column, short enough that single pixels can be told apart in the plot."""

    def __init__(self, case: _Case, kind: str, index: int) -> None:
        self.kind, self.index = kind, index
        line = np.clip(
            case.mean[case.middle, index] if kind == "row" else case.mean[case.middle, :, index], *case.limits
        )
        self.size = min(PROFILE, len(line))
        steps = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(line)))])
        self.start = int((steps[self.size - 1 :] - steps[: len(steps) - self.size + 1]).argmax())
        self.stop = self.start + self.size
        self.spacing = case.pixel[1] if kind == "row" else case.pixel[0]
        along = slice(self.start, self.stop)
        self.where = (case.middle, index, along) if kind == "row" else (case.middle, along, index)


def _aspect(case: _Case) -> str:
    height, width = case.mean.shape[-2:]
    return f"{width * case.pixel[1]:.6g} / {height * case.pixel[0]:.6g}"


def _informative(case: _Case, axis: int) -> int:
    """Pick the line along `axis` with the largest sum of absolute steps.

    Values are clipped to the window first, or the table under the patient would win; borders are left out.
    """
    image = np.clip(case.mean[case.middle], *case.limits)
    steps = np.abs(np.diff(image, axis=axis)).sum(axis)
    margin = len(steps) // 20
    return margin + int(steps[margin : len(steps) - margin].argmax())


def _line(case: _Case, line: _Cut) -> dict[str, Any]:
    mean, noisy = case.mean[line.where], case.input[line.where]
    x = np.arange(line.start, line.stop) * line.spacing
    band = None if case.sd is None else 2 * case.sd[line.where]

    def draw(axes: Axes) -> None:
        axes.plot(x, noisy, color=INPUT, linewidth=0.8, label="input")
        if case.truth is not None:
            axes.plot(x, case.truth[line.where], color=TRUTH, linewidth=1, label="truth")
        if band is not None:
            axes.fill_between(x, mean - band, mean + band, color=MEAN, alpha=0.28, linewidth=0, label="± 2 sd")
        axes.plot(x, mean, color=MEAN, label=case.estimate)
        axes.set(xlabel=f"{'across' if line.kind == 'row' else 'down'} / {case.length}", ylabel=case.data.unit)
        axes.set_ylim(*_profile_limits(case, [mean, noisy]))
        legend(axes)

    title = f"Horizontal profile, row {line.index}" if line.kind == "row" else f"Vertical profile, column {line.index}"
    return {"title": title, "svg": plot(f"profile-{line.kind}", 8.2, 2.6, draw)}


def _profile_limits(case: _Case, lines: Sequence[np.ndarray]) -> tuple[float, float]:
    """Show the window and a little more: over the full range of CT a band of a few HU would be a hairline."""
    low, high = case.limits
    pad = 0.15 * (high - low)
    lowest, highest = min(float(x.min()) for x in lines), max(float(x.max()) for x in lines)
    bottom, top = max(low - pad, lowest - pad / 3), min(high + pad, highest + pad / 3)
    return (bottom, top) if bottom < top else (low - pad, high + pad)


def _region_field(case: _Case, image: np.ndarray) -> Tensor:
    row, column, height, width = case.region or (0, 0, 0, 0)
    return metrics.detrend(torch.from_numpy(image[None, row : row + height, column : column + width].copy()))


def _region_noise(case: _Case, image: np.ndarray) -> float:
    return float(_region_field(case, image[case.middle]).std())


def _noise(case: _Case) -> dict[str, Any] | None:
    if case.region is None:
        return None
    z = case.middle
    lines = [("input", case.input[z], INPUT, "-"), (case.estimate, case.mean[z], MEAN, "-")]
    if case.samples:
        lines.append(("one sample", case.sample(0), SAMPLE, "--"))
    bins = max(4, min(case.region[2:]) // 3)
    unit = f"{_square(case.data.unit)} {_square(case.length)}"

    def draw(axes: Axes) -> None:
        for name, image, color, style in lines:
            field = _region_field(case, image)
            frequency, power = metrics.radial(metrics.nps(field, case.pixel), case.pixel, bins)
            label = f"{name}: {_quantity(float(field.std()), case.data.unit)}"
            axes.plot(frequency, power, style, color=color, label=label, marker="o", markersize=2.6)
        axes.set(xlabel=f"spatial frequency / (cycles/{case.length})", ylabel=f"NPS / ({unit})", yscale="log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # no formula: it would need TeX
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0, 0.5 / max(case.pixel))
        legend(axes)

    return {"svg": plot("noise", 11.0, 3.4, draw), "caption": _region_words(case)}


def _region_words(case: _Case) -> str:
    row, column, height, width = case.region or (0, 0, 0, 0)
    how = "The given uniform region" if case.data.uniform_region else "The flattest region, found automatically"
    level = case.mean[case.middle, row : row + height, column : column + width].mean()
    where = f"{height} × {width} pixels from row {row}, column {column}"
    on = f" of slice {case.middle + 1}" if case.volume else ""
    return (
        f"{how}: {where}{on}, mean level {_quantity(float(level), case.data.unit)} (box in the locator image above). "
        "A second-order surface was taken off; the legend gives the standard deviation left in the region. "
        "Any structure in the region counts as noise here."
    )


def _instrument(case: _Case) -> list[dict[str, Any]]:
    given = [("mtf", "MTF", case.data.mtf), ("nps", "NPS", case.data.nps)]
    plots = []
    for key, name, curve in given:
        if curve is None:
            continue
        svg = plot(f"instrument-{key}", 5.3, 3.0, lambda axes, c=curve, n=name: _draw_curve(axes, n, c))
        plots.append({"title": f"{name}{f': {curve.label}' if curve.label else ''}", "svg": svg})
    return plots


def _draw_curve(axes: Axes, name: str, curve: Curve) -> None:
    axes.plot(np.asarray(curve.x), np.asarray(curve.y), color=MEAN)
    axes.set(
        xlabel=f"spatial frequency / ({curve.x_unit})", ylabel=f"{name} / ({curve.y_unit})" if curve.y_unit else name
    )
    axes.set_ylim(bottom=0)


# --- against the truth ----------------------------------------------------------------------------------------------
def _truth(case: _Case) -> dict[str, Any] | None:
    data, truth = case.data, case.data.truth
    if truth is None:
        return None
    unit, images = data.unit, (data.input, data.mean)
    rows = [
        ("Mean squared error", [_quantity(metrics.mse(x, truth), _square(unit)) for x in images]),
        ("Root mean squared error", [_quantity(metrics.rmse(x, truth), unit) for x in images]),
    ]
    if data.data_range is not None:
        name = f"PSNR for a data range of {_quantity(data.data_range, unit)}"
        ratios = [metrics.psnr(x, truth, data_range=data.data_range) for x in images]
        rows.append((name, [_quantity(r, "dB", 4) for r in ratios]))
    return {"rows": rows, "calibration": _calibration(case, truth), "estimate": case.estimate}


def _calibration(case: _Case, truth: Tensor) -> dict[str, Any] | None:
    sd, mean = case.data.sd, case.data.mean
    if case.sd is None or sd is None or not bool((sd > 0).any()):
        return None
    ratio = metrics.spread_skill(mean, sd.double().square(), truth, case.count).ssr
    inside = metrics.coverage(mean, sd, truth, (0.68, 0.95), count=case.count).tolist()
    found = metrics.coverage(mean, sd, truth, LEVELS, count=case.count).numpy()
    sense = "the spread is too small" if ratio > 1.1 else "the spread is too large" if ratio < 0.9 else "calibrated"
    rows = [
        ("Error over spread (1 is calibrated)", f"{_number(ratio)} ({sense})"),
        ("Truth inside the 68 % interval", _percent(inside[0])),
        ("Truth inside the 95 % interval", _percent(inside[1])),
    ]
    samples = f"the finite number of samples ({case.count})" if case.count else "no finite number of samples"
    caption = (
        f"Central intervals of a normal distribution around the mean, widened for {samples}, over all pixels. "
        "On the diagonal the stated probability holds; below it the standard deviation is too small."
    )
    svg = plot("reliability", 4.3, 4.0, lambda axes: _draw_reliability(axes, found))
    return {"rows": rows, "svg": svg, "caption": caption}


def _draw_reliability(axes: Axes, found: np.ndarray) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="calibrated")
    axes.plot(LEVELS, found, color=MEAN, marker="o", markersize=3.2, label="found")
    axes.set(
        xlabel="stated probability of the interval", ylabel="truth inside", xlim=(0, 1), ylim=(0, 1), aspect="equal"
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="upper left")


# --- the record -----------------------------------------------------------------------------------------------------
def _record(data: ReportData) -> list[dict[str, Any]]:
    tables = [
        ("Parameters", _rows(data.parameters)),
        ("Model card", _rows(data.model_card)),
        ("Versions", _rows(data.versions)),
        ("Time", [(str(k), _quantity(float(v), "s")) for k, v in data.timing.items()]),
        ("Seeds", [("", ", ".join(str(s) for s in data.seeds))] if data.seeds else []),
        ("Files written", [("", str(name)) for name in data.files]),
    ]
    return [{"name": name, "rows": rows} for name, rows in tables if rows]


def _rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested mappings into dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += _rows(value, f"{name}.") if isinstance(value, Mapping) else [(name, _plain(value))]
    return rows


def _plain(value: object) -> str:
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    return str(value)
