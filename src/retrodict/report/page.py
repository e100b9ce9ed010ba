"""Pictures and plots inside an HTML page: colors follow the light or dark page, nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["INK", "INPUT", "SERIES", "legend", "plot", "png"]


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


def png(image: np.ndarray, low: float, high: float, colors: str = "gray") -> str:
    """Encode at native resolution with 256 colors; returns a data URI."""
    index = np.clip((image - low) / (high - low) * 255 + 0.5, 0, 255).astype(np.uint8)
    picture = Image.fromarray(index)
    if colors != "gray":
        table = matplotlib.colormaps[colors](np.arange(256), bytes=True)[:, :3]
        picture.putpalette(table.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


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
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=5, borderaxespad=0.1, handlelength=1.6)
