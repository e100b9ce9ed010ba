"""The picture of a process: its gain and noise over time and frequency, and states of an example image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from PIL import Image

from retrodict.report.measurement import INK, MUTED, PALETTE, finish, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Profile", "process_figure"]

COLORS, GRAYS = 256, 20
"""Colors of the picture, and gray levels of its states: they are noise, which does not compress otherwise."""


class Profile(NamedTuple):
    """Gain, pull and noise over time `(T, 1)`, or over time and frequency `(T, F)` in cycles/mm."""

    t: np.ndarray
    frequency: np.ndarray | None
    gain: np.ndarray
    pull: np.ndarray
    noise: np.ndarray


def process_figure(
    name: str, what: str, profile: Profile, states: Sequence[np.ndarray], times: Sequence[float]
) -> bytes:
    """PNG: three panels of the law above the states at `times`, each in a window of its own."""
    figure = Figure(figsize=(7.6, 4.3), layout="constrained")
    figure.suptitle(f"{name}: {what}", x=0.01, ha="left", fontsize=10, color=INK, wrap=True)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.3, 1))
    above, below = parts
    panels = above.subplots(1, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        clock = np.where(profile.gain != 0, profile.noise / np.where(profile.gain == 0, 1, profile.gain), np.nan)
    drawn = _curves if profile.frequency is None else _images
    drawn(above, panels, profile, clock)
    for axes, state, t in zip(below.subplots(1, len(times)), states, times, strict=True):
        middle, half = float(np.median(state)), 2.2 * max(float(state.std()), 1e-12)
        shown = np.round(np.clip((state - middle) / (2 * half) + 0.5, 0, 1) * (GRAYS - 1)) / (GRAYS - 1)
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"t = {t:g}", fontsize=9, color=MUTED, pad=4)
        axes.set_axis_off()
    return _small(finish(figure, 100))


def _curves(figure: object, panels: Sequence[Axes], profile: Profile, clock: np.ndarray) -> None:
    left, middle, right = panels
    left.plot(profile.t, profile.gain[:, 0], color=PALETTE[0], label="gain h")
    if np.any(profile.pull):
        left.plot(profile.t, profile.pull[:, 0], color=PALETTE[1], linestyle="--", label="pull k")
        left.legend(frameon=False, fontsize=8)
    style(left, "gain h" if not np.any(profile.pull) else "gain h, pull k", "t", "")
    middle.plot(profile.t, profile.noise[:, 0], color=PALETTE[0])
    style(middle, "noise s", "t", "")
    inside = np.isfinite(clock[:, 0]) & (clock[:, 0] > 0)
    right.semilogy(profile.t[inside], clock[inside, 0], color=PALETTE[0])
    style(right, "noise over gain, s / h", "t", "")
    for axes in (left, middle):
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    for axes in panels:
        axes.set_xlim(0, 1)


def _images(figure: Figure, panels: Sequence[Axes], profile: Profile, clock: np.ndarray) -> None:
    assert profile.frequency is not None
    extent = (0.0, 1.0, 0.0, float(profile.frequency[-1]))
    known = clock[np.isfinite(clock) & (clock > 0)]
    span = LogNorm(max(known.min(), known.max() * 1e-5), known.max()) if known.size else None
    tables = (
        ("gain h", profile.gain, Normalize(0, max(1.0, float(profile.gain.max())))),
        ("noise s", profile.noise, Normalize(0, max(float(profile.noise.max()), 1e-12))),
        ("noise over gain, s / h", clock, span),
    )
    for axes, (title, table, norm) in zip(panels, tables, strict=True):
        shown = np.ma.masked_invalid(table.T)
        drawn = axes.imshow(shown, origin="lower", aspect="auto", extent=extent, cmap="viridis", norm=norm)
        style(axes, title, "t", "cycles/mm" if title == "gain h" else "")
        axes.grid(False)
        bar = figure.colorbar(drawn, ax=axes, shrink=0.9)
        bar.ax.tick_params(labelsize=7, colors=MUTED)
        bar.outline.set_visible(False)  # type: ignore[operator]


def _small(png: bytes) -> bytes:
    """The picture in few colors."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    image.save(stream, format="png", optimize=True)
    return stream.getvalue()
