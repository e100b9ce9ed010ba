"""Pictures of measured curves: what was looked at beside what came out, with bands and units."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from retrodict.report.page import square

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PALETTE", "chance", "estimated_figure", "finish", "measured_figure", "noise_map_figure", "style"]


class Measured(Protocol):
    """What a measurement shows: its JSON record, and the arrays behind it (see `retrodict.tasks.measure.Measured`)."""

    @property
    def record(self) -> dict[str, Any]:
        """The JSON record."""
        ...

    @property
    def figure(self) -> dict[str, Any]:
        """Arrays for the picture."""
        ...


PALETTE = ("#1f5fa8", "#c8501e", "#2c8a57", "#7a4fa3", "#a8322d", "#5d6b78", "#b58900", "#008b94")


INK, MUTED, LINE = "#1d252c", "#5d6b78", "#d8dee4"


def style(axes: Axes, title: str, x: str, y: str) -> None:
    """One quiet look for every plot: a title on the left, units on the axes, a light grid."""
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=8)
    axes.set_xlabel(x, fontsize=9, color=MUTED)
    axes.set_ylabel(y, fontsize=9, color=MUTED)
    axes.tick_params(labelsize=8, colors=MUTED, length=3)
    axes.grid(True, color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)


def finish(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, facecolor="white")
    return stream.getvalue()


def measured_figure(measured: Measured) -> bytes:
    """PNG of a measured NPS or MTF."""
    return _nps(measured) if measured.figure["kind"] == "nps" else _mtf(measured)


def _picture(axes: Axes, image: Any, title: str, limits: tuple[float, float] | None = None, **options: Any) -> Any:
    low, high = limits if limits else (None, None)
    shown = axes.imshow(np.asarray(image), cmap="gray", vmin=low, vmax=high, interpolation="nearest", **options)
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=8)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return shown


def _window(values: np.ndarray) -> tuple[float, float]:
    """Four times the interdecile range around the median."""
    low, middle, high = np.percentile(values, (10, 50, 90))
    half = 2 * max(high - low, 1e-12)
    return float(middle - half), float(middle + half)


def _nps(measured: Measured) -> bytes:
    shown, record = measured.figure, measured.record
    summary, spectrum = record["summary"], shown["spectrum"]
    figure = Figure(figsize=(12.6, 3.7), layout="constrained")
    left, middle, right, far = figure.subplots(1, 4, width_ratios=(1, 1, 1.55, 1.2))
    image = np.asarray(shown["image"])
    here = [r for r in shown["regions"] if r.slice == shown["slice"]]
    inside = np.concatenate([image[r.row : r.row + r.size, r.column : r.column + r.size].ravel() for r in here])
    _picture(left, image, f"slice {shown['slice']}, {len(here)} of {len(shown['regions'])} regions", _window(inside))
    for r in here:
        box = Rectangle((r.column, r.row), r.size, r.size, fill=False, edgecolor="#ffb000", linewidth=1.0)
        left.add_patch(box)
    plane = np.fft.fftshift(np.asarray(spectrum.plane))
    dy, dx = shown["pixel"]
    extent = (-0.5 / dx, 0.5 / dx, 0.5 / dy, -0.5 / dy)
    middle.imshow(plane, cmap="magma", extent=extent, interpolation="nearest")
    style(middle, "two-dimensional NPS", "cycles/mm", "cycles/mm")
    middle.grid(False)
    frequency = np.asarray(record["frequency"])
    _banded(right, frequency, record)
    style(right, "radial NPS with 95 % band", "cycles/mm", f"{square(shown['unit'])} mm²")
    right.set_ylim(bottom=0)
    right.set_xlim(0, frequency[-1])
    note = f"noise {summary['noise_sd']:.4g} {shown['unit']}\naverage {summary['average_frequency']:.3g} /mm"
    right.text(0.98, 0.97, note, transform=right.transAxes, ha="right", va="top", fontsize=8.5, color=INK)
    lags = record["autocorrelation"]
    for name, color in (("rows", PALETTE[0]), ("columns", PALETTE[1])):
        label = {"rows": "along rows", "columns": "along columns"}[name]
        lag = lags["lag_mm" if name == "rows" else "lag_columns_mm"]
        far.plot(lag[: len(lags[name])], lags[name], color=color, label=label, marker="o", markersize=2.5)
    white = record["whiteness"]
    verdict = "white" if white["white"] else "not white"
    style(far, f"autocorrelation: {verdict} ({chance(white['p_value'])})", "mm", "")
    far.axhline(0, color=MUTED, linewidth=0.8)
    far.legend(frameon=False, fontsize=8.5)
    return finish(figure)


def noise_map_figure(measured: Measured) -> bytes:
    """PNG of a measured noise map: the slice, the map and its relative error, on what could be looked at."""
    shown = measured.figure
    figure = Figure(figsize=(12.2, 4.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    image, known = np.asarray(shown["image"]), np.asarray(shown["known"])
    aspect = shown["pixel"][0] / shown["pixel"][1]
    _picture(left, image, f"slice, in {shown['unit']}", _window(image[known]), aspect=aspect)
    tables = ((middle, shown["map"], "noise map (times the noise it is relative to)"),
              (right, 100 * np.asarray(shown["error"]), "its standard error, %"))  # fmt: skip
    for axes, table, title in tables:
        drawn = axes.imshow(np.where(known, np.asarray(table), np.nan), cmap="viridis", aspect=aspect)
        axes.set_title(title, loc="left", fontsize=10, color=INK, pad=8)
        axes.set_axis_off()
        bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
        bar.ax.tick_params(labelsize=8, colors=MUTED)
        bar.outline.set_visible(False)  # type: ignore[operator]
    return finish(figure)


def _banded(axes: Axes, frequency: np.ndarray, record: dict[str, Any]) -> None:
    lower, upper = np.asarray(record["lower"]), np.asarray(record["upper"])
    axes.fill_between(frequency, lower, upper, color=PALETTE[0], alpha=0.22, linewidth=0)
    axes.plot(frequency, record["value"], color=PALETTE[0], linewidth=1.6)


def _mtf(measured: Measured) -> bytes:
    shown, record = measured.figure, measured.record
    figure = Figure(figsize=(8.6, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))
    image = np.asarray(shown["image"])
    low, high = np.percentile(image, (1, 99))
    _picture(left, image, f"{record['method']['kind']}, mean of the slices", (float(low), float(high)))
    frequency = np.asarray(record["frequency"])
    _banded(right, frequency, record)
    for name, level in (("mtf50", 0.5), ("mtf10", 0.1)):
        value = record["summary"][name]
        if value["value"] is not None:
            right.plot(
                [0, value["value"], value["value"]], [level, level, 0], color=MUTED, linewidth=0.8, dashes=(3, 2)
            )
            right.text(value["value"], level + 0.02, _three(level, value), fontsize=8.5, color=INK)
    style(right, "MTF with 95 % band", "cycles/mm", "")
    right.set_xlim(0, frequency[-1])
    right.set_ylim(0, max(1.05, float(np.max(record["upper"])) * 1.02))
    return finish(figure)


def estimated_figure(shown: dict[str, Any]) -> bytes:
    """PNG of an instrument that was estimated from an image: where noise was seen, and the curves with their bands."""
    curves = [name for name in ("nps", "mtf") if shown[name] is not None]
    figure = Figure(figsize=(4.0 + 4.4 * len(curves), 3.7), layout="constrained")
    left, *rest = figure.subplots(1, 1 + len(curves), width_ratios=(1, *[1.3] * len(curves)))
    image = np.asarray(shown["image"])
    _picture(left, image, f"{len(shown['places'])} patches of noise", _window(image))
    for _, row, column in shown["places"]:
        box = Rectangle((column, row), shown["size"], shown["size"], fill=False, edgecolor="#ffb000", linewidth=0.8)
        left.add_patch(box)
    for axes, name in zip(rest, curves, strict=True):
        record = shown[name]
        frequency = np.asarray(record["frequency"])
        _banded(axes, frequency, record)
        value = record["summary"]["noise_sd" if name == "nps" else "mtf50"]
        unit = shown["unit"] if name == "nps" else "/mm"
        note = f"{'noise' if name == 'nps' else '50 %'} {value['value']:.3g} {unit}"
        note += f"\n95 %: {value['lower']:.3g} to {value['upper']:.3g}"
        axes.text(0.98, 0.97, note, transform=axes.transAxes, ha="right", va="top", fontsize=8.5, color=INK)
        y = f"{square(shown['unit'])} mm²" if name == "nps" else ""
        style(axes, f"{name.upper()}, estimated from the image itself", "cycles/mm", y)
        axes.set_xlim(0, frequency[-1])
        axes.set_ylim(bottom=0)
    return finish(figure)


def chance(p: float) -> str:
    """A p-value in words; one that underflows is not zero."""
    return f"p = {p:.2g}" if p > 1e-6 else "p < 1e-6"


def _three(level: float, value: dict[str, float | None]) -> str:
    text = f" {level:.0%}: {value['value']:.3g} /mm"
    return text if value["lower"] is None else f"{text} [{value['lower']:.3g}, {value['upper']:.3g}]"
