"""What every page is made of: template engine, words, tables, pictures and plots.

A page is one file.  Colors follow the light or dark page, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from PIL import Image

from retrodict._version import __version__
from retrodict.data.units import unit as unit_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "DASHED",
    "GRID",
    "INK",
    "INPUT",
    "MEAN",
    "MUTED",
    "NBSP",
    "SAMPLE",
    "SERIES",
    "TRUTH",
    "Panel",
    "Scale",
    "curve_unit",
    "display_window",
    "legend",
    "nice",
    "number",
    "panel",
    "percent",
    "percent_axes",
    "plain_log",
    "plot",
    "quantity",
    "render_page",
    "rows",
    "sentence",
    "short",
    "signed_scale",
    "square",
]


Panel = dict[str, Any]
"""A picture for the macro `panel`: title, src, caption, bar, aspect."""


NBSP = "\u00a0"


# ---- the page ----------------------------------------------------------------------------------------------------


def render_page(template: str, context: Mapping[str, Any]) -> str:
    """The page of a template in this package; a name that the context lacks is an error, not a gap in the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render({"version": __version__, **context})


# ---- words -------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """Format with `digits` significant digits, without exponents where people would not use them; nothing for None."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "∞" if value > 0 else str(value)
    size = abs(value)
    if size == 0:
        return "0"
    if not 1e-4 <= size < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(float(f"{size:.{digits - 1}e}"))))
    return f"{value:.{decimals}f}".replace("-", "−")


def short(value: float) -> str:
    """Format a number that somebody chose: no zeros behind it, a true minus sign before it."""
    return f"{value:.4g}".replace("-", "−")


def quantity(value: float, unit: str, digits: int = 3) -> str:
    """A number with its unit, which no line break may part."""
    return f"{number(value, digits)}{NBSP}{unit}"


def percent(fraction: float) -> str:
    """A fraction in percent."""
    return f"{100 * fraction:.1f}{NBSP}%"


def sentence(text: str) -> str:
    """End with one full stop, also after a unit such as a.u."""
    return text if text.endswith(".") else f"{text}."


def square(unit: str) -> str:
    """The square of a unit."""
    return f"{unit}²" if re.fullmatch(r"\w+", unit) else f"({unit})²"


def curve_unit(unit: str) -> str:
    """The unit of a `Curve` as people write it: "HU^2 mm^2" with raised digits, and nothing for "1"."""
    return "" if unit == "1" else unit.replace("**", "^").replace("^2", "²").replace("^3", "³")


def rows(values: Mapping[str, Any], prefix: str = "", *, skip_empty: bool = False) -> list[tuple[str, str]]:
    """Flatten a nested record into dotted names and words; `skip_empty` leaves out what was not given."""
    out: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out += rows(value, f"{name}.", skip_empty=skip_empty)
        elif isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value):
            for i, item in enumerate(value):
                out += rows(item, f"{name}.{item.get('name', i)}.", skip_empty=skip_empty)
        elif not skip_empty or value not in (None, [], (), ""):
            out.append((name, _plain(value)))
    return out


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


# ---- pictures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """A color scale: what its ends mean, and words for the caption."""

    low: float
    high: float
    colors: str
    unit: str
    words: str = ""


def display_window(image: np.ndarray, unit: str) -> tuple[tuple[float, float], bool]:
    """(center, width) to show an image with, and whether it was read off the image because the unit has none."""
    known = unit_row(unit).window
    if known is not None:
        return known, False
    low, high = (float(v) for v in np.percentile(image, (0.5, 99.5)))
    return ((low + high) / 2, (high - low) or 1.0), True


def nice(value: float) -> float:
    """Round up to two significant digits, so that a color bar ends on a number one can read."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")


def signed_scale(high: float, unit: str) -> Scale:
    """Red above zero, blue below it."""
    words = f"Scale ±{short(high)}{NBSP}{unit}; red is above, blue below; larger values saturate."
    return Scale(-high, high, "RdBu_r", unit, words)


def panel(
    title: str, image: np.ndarray, shown: tuple[float, float] | Scale, caption: str = "", aspect: str = ""
) -> Panel:
    """A picture for the page: (H, W), or (H, W, 3) for red, green, blue.

    `shown`: the values of black and white, or a color scale, which is drawn below.  `aspect`: width / height in
    physical units (default: square pixels).
    """
    scale = shown if isinstance(shown, Scale) else Scale(*shown, "gray", "")
    src = _png(image, scale.low, scale.high, scale.colors)
    bar = _bar(scale) if isinstance(shown, Scale) else None
    aspect = aspect or f"{image.shape[1]} / {image.shape[0]}"
    return {"title": title, "src": src, "caption": caption, "bar": bar, "aspect": aspect}


def _bar(scale: Scale) -> dict[str, Any]:
    low, high = scale.low, scale.high
    marks = [m for m in MaxNLocator(4).tick_values(low, high) if low - 1e-9 <= m <= high + 1e-9]
    ticks = [{"at": 100 * (m - low) / (high - low), "label": short(m)} for m in marks]
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    return {"src": _png(ramp, 0, 1, scale.colors), "ticks": ticks, "unit": scale.unit}


def _png(image: np.ndarray, low: float, high: float, colors: str) -> str:
    """Encode at native resolution with 256 levels; returns a data URI."""
    index = np.clip((image - low) / (high - low) * 255 + 0.5, 0, 255).astype(np.uint8)
    picture = Image.fromarray(index)
    if colors != "gray":
        table = matplotlib.colormaps[colors](np.arange(256), bytes=True)[:, :3]
        picture.putpalette(table.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# ---- plots -------------------------------------------------------------------------------------------------------


# Colors that no figure uses otherwise: they become CSS variables, so the plots follow the light or dark page.
INK, MUTED, GRID = "#0a0a01", "#0a0a02", "#0a0a03"
INPUT, MEAN, TRUTH, SAMPLE = "#0a0a04", "#0a0a05", "#0a0a06", "#0a0a07"
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    INPUT: "var(--series-input)",
    MEAN: "var(--series-mean)",
    TRUTH: "var(--series-truth)",
    SAMPLE: "var(--series-sample)",
}
SERIES = (MEAN, TRUTH, SAMPLE, *(f"#0a0a{k:02x}" for k in range(8, 13)))
"""Colors of methods, in order."""
VARIABLES |= {color: f"var(--method-{k})" for k, color in enumerate(SERIES[3:])}


STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a unit with a dollar sign is a unit, not a formula
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.xmargin": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.3,
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: selectable, searchable, in the font of the page
    "svg.hashsalt": "retrodict",
}


DASHED: Any = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (4, 3))}
"""Keywords of a line to compare with, such as the diagonal of a calibrated forecast."""


def plot(name: str, width: float, height: float, draw: Callable[[Axes], None]) -> Markup:
    """Draw into a figure of its own and return SVG to place in the page; ids begin with `name` to stay unique."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(name, buffer.getvalue())


def _inline(name: str, svg: str) -> Markup:
    """Take off what only a separate file needs, and tie colors and fonts to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:\w+)?|width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for sentinel, variable in VARIABLES.items():
        svg = svg.replace(sentinel, variable)
    return Markup(svg)  # safe: drawn here, and matplotlib escapes the texts


def legend(axes: Axes) -> None:
    """Names in one row above the plot, out of the way of the lines."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=5, borderaxespad=0.1, handlelength=1.6)


def plain_log(axes: Axes) -> None:
    """A logarithmic y axis with numbers on it; the formulas of matplotlib would need TeX."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def percent_axes(axes: Axes, x: str, y: str) -> None:
    """Both axes from 0 to 100 %."""
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
