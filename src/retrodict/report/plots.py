"""Plots of a restoration: profiles, noise spectra and the curves of the instrument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retrodict import metrics
from retrodict.bases.curve import Curve
from retrodict.report.given import Case, ReportData, View
from retrodict.report.page import (
    INPUT,
    MEAN,
    SAMPLE,
    TRUTH,
    curve_unit,
    legend,
    panel,
    plain_log,
    plot,
    quantity,
    square,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["instrument", "interval", "noise", "profiles", "region_fields"]


PROFILE = 192


# ---- profiles ----------------------------------------------------------------------------------------------------


def profiles(case: Case) -> dict[str, Any]:
    """A row and a column through the middle slice, and where they lie."""
    row, column = _informative(case, axis=1), _informative(case, axis=0)
    across, down = _Cut(case, "row", row), _Cut(case, "column", column)
    locator = panel("Where", _thumbnail(case.pictures[0].of("mean", case.middle)), case.limits)
    height, width = case.size
    overlay = {"across": across, "down": down, "height": height, "width": width, "box": case.region}
    caption = f"The parts of the row and the column{case.of_slice} with the most edges inside the display window."
    plots = [_line(case, k, cut) for k in range(len(case.views)) for cut in (across, down)]
    return {"plots": plots, "locator": locator, "overlay": overlay, "caption": caption, "aspect": case.aspect}


def _thumbnail(image: np.ndarray) -> np.ndarray:
    if image.ndim == 3:
        return np.stack([_thumbnail(channel) for channel in np.moveaxis(image, -1, 0)], -1)
    small = Image.fromarray(image)
    small.thumbnail((320, 320))
    return np.asarray(small)


class _Cut:
    """A stretch of one row or column, short enough that single pixels can be told apart in the plot."""

    def __init__(self, case: Case, kind: str, index: int) -> None:
        self.kind, self.index = kind, index
        image = case.flat("mean")
        line = np.clip(image[index] if kind == "row" else image[:, index], *case.limits)
        self.size = min(PROFILE, len(line))
        steps = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(line)))])
        self.start = int((steps[self.size - 1 :] - steps[: len(steps) - self.size + 1]).argmax())
        self.stop = self.start + self.size
        self.spacing = case.pixel[1] if kind == "row" else case.pixel[0]
        along = slice(self.start, self.stop)
        self.where = (index, along) if kind == "row" else (along, index)


def _informative(case: Case, axis: int) -> int:
    """Pick the line along `axis` with the largest sum of absolute steps.

    Values are clipped to the window first, or the table under the patient would win; borders are left out.
    """
    steps = np.abs(np.diff(np.clip(case.flat("mean"), *case.limits), axis=axis)).sum(axis)
    margin = len(steps) // 20
    return margin + int(steps[margin : len(steps) - margin].argmax())


def _line(case: Case, channel: int, line: _Cut) -> dict[str, Any]:
    view, z = case.views[channel], case.middle
    mean, noisy = view.of("mean", z)[line.where], view.of("input", z)[line.where]
    x = np.arange(line.start, line.stop) * line.spacing
    band = None if view.sd is None else 2 * view.sd[z][line.where]

    def draw(axes: Axes) -> None:
        axes.plot(x, noisy, color=INPUT, linewidth=0.8, label="input")
        if case.has_truth:
            axes.plot(x, view.of("truth", z)[line.where], color=TRUTH, linewidth=1, label="truth")
        if band is not None:
            axes.fill_between(x, mean - band, mean + band, color=MEAN, alpha=0.28, linewidth=0, label="± 2 sd")
        axes.plot(x, mean, color=MEAN, label=case.estimate)
        axes.set(xlabel=f"{'across' if line.kind == 'row' else 'down'} / {case.length}", ylabel=case.data.unit)
        axes.set_ylim(*_profile_limits(case, [mean, noisy]))
        legend(axes)

    title = f"Horizontal profile, row {line.index}" if line.kind == "row" else f"Vertical profile, column {line.index}"
    return {"title": view.titled(title), "svg": plot(f"profile-{line.kind}{_suffix(channel)}", 8.2, 2.6, draw)}


def _suffix(channel: int) -> str:
    return f"-{channel}" if channel else ""


def _profile_limits(case: Case, lines: Sequence[np.ndarray]) -> tuple[float, float]:
    """Show the window and a little more: over the full range of CT a band of a few HU would be a hairline."""
    low, high = case.limits
    pad = 0.15 * (high - low)
    lowest, highest = min(float(x.min()) for x in lines), max(float(x.max()) for x in lines)
    bottom, top = max(low - pad, lowest - pad / 3), min(high + pad, highest + pad / 3)
    return (bottom, top) if bottom < top else (low - pad, high + pad)


# ---- noise and instrument ----------------------------------------------------------------------------------------


def region_fields(case: Case, part: Literal["input", "mean"]) -> Tensor:
    """What is left of the region in every channel."""
    return torch.cat([_region_field(case, view.arrays[part][case.middle]) for view in case.views])


def _region_field(case: Case, image: np.ndarray) -> Tensor:
    row, column, height, width = case.region or (0, 0, 0, 0)
    return metrics.detrend(torch.from_numpy(np.real(image)[None, row : row + height, column : column + width].copy()))


def noise(case: Case) -> dict[str, Any] | None:
    """Noise power spectra of the uniform region; None where there is no such region."""
    if case.region is None:
        return None
    plots = [
        {"title": f"Channel {view.name}" if view.name else "", "svg": plot(f"noise{_suffix(k)}", 11.0, 3.4, draw)}
        for k, view in enumerate(case.views)
        for draw in [_noise_drawer(case, view)]
    ]
    return {"plots": plots, "caption": _region_words(case)}


def _noise_drawer(case: Case, view: View) -> Callable[[Axes], None]:
    z = case.middle
    lines = [("input", view.arrays["input"][z], INPUT, "-"), (case.estimate, view.arrays["mean"][z], MEAN, "-")]
    if view.samples:
        lines.append(("one sample", view.samples[0], SAMPLE, "--"))
    bins = max(4, min((case.region or ())[2:]) // 3)
    unit = f"{square(case.data.unit)} {square(case.length)}"

    def draw(axes: Axes) -> None:
        for name, image, color, style in lines:
            field = _region_field(case, image)
            frequency, power = metrics.radial(metrics.nps(field, case.pixel), case.pixel, bins)
            label = f"{name}: {quantity(float(field.std()), case.data.unit)}"
            axes.plot(frequency, power, style, color=color, label=label, marker="o", markersize=2.6)
        axes.set(xlabel=f"spatial frequency / (cycles/{case.length})", ylabel=f"NPS / ({unit})")
        plain_log(axes)
        axes.set_xlim(0, 0.5 / max(case.pixel))
        legend(axes)

    return draw


def _region_words(case: Case) -> str:
    row, column, height, width = case.region or (0, 0, 0, 0)
    how = "The given uniform region" if case.data.uniform_region else "The flattest region, found automatically"
    level = quantity(float(case.flat("mean")[row : row + height, column : column + width].mean()), case.data.unit)
    where = f"{height} × {width} pixels from row {row}, column {column}{case.of_slice}"
    real = " The spectra are those of the real part." if case.complex else ""
    return (
        f"{how}: {where}, mean level {level} (box in the locator image above). "
        "A second-order surface was taken off; the legend gives the standard deviation left in the region. "
        f"Any structure in the region counts as noise here.{real}"
    )


def instrument(data: ReportData) -> list[dict[str, Any]]:
    """The curves of the instrument that were given."""
    given = [("mtf", "MTF", data.mtf), ("nps", "NPS", data.nps)]
    return [
        {"title": name, "svg": plot(f"instrument-{key}", 5.3, 3.0, partial(_draw_curve, name=name, curve=curve))}
        for key, name, curve in given
        if curve is not None
    ]


def _draw_curve(axes: Axes, name: str, curve: Curve) -> None:
    """An isotropic curve; of a map over two frequencies its two axes."""
    if len(curve.frequency) == 1:
        axes.plot(curve.frequency[0], curve.value, color=MEAN)
    else:
        down, across = curve.frequency
        axes.plot(across, curve.value[: len(across)], color=MEAN, label="across")
        axes.plot(down, curve.value[:: len(across)], color=SAMPLE, label="down")
        axes.legend()
    unit = curve_unit(curve.unit)
    axes.set(xlabel=f"spatial frequency / ({curve.frequency_unit})", ylabel=f"{name} / ({unit})" if unit else name)
    axes.set_ylim(bottom=0)


# ---- the calibrated interval -----------------------------------------------------------------------------------------


def interval(case: Case) -> dict[str, Any]:
    """Ends of the calibrated interval of the middle slice of the first channel, and the guarantee."""
    data = case.data
    if not data.interval or data.sd is None:
        return {}
    ends = [data.interval[k].reshape(-1, *data.interval[k].shape[-2:]).float().numpy() for k in ("lower", "upper")]
    z = case.middle
    words = ("Lower end", "Upper end")
    panels = [panel(w, e[z], case.limits, aspect=case.aspect) for w, e in zip(words, ends, strict=True)]
    half = quantity(float(np.median(ends[1] - ends[0])) / 2, data.unit)
    return {"panels": panels, "label": data.interval["label"], "statement": data.interval["statement"], "half": half}
