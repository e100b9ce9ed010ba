"""The records of `retrodict bench wavelet` as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retrodict.tasks.wavelet_card import SAMPLERS

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["picture_of", "render"]


def picture_of(records: Sequence[dict[str, Any]]) -> bytes:
    """The same as a PNG."""
    from retrodict.report.wavelet import steps_figure

    return steps_figure(records, {name: sampler.title for name, sampler in SAMPLERS.items()})


def render(records: Sequence[dict[str, Any]]) -> Table:
    """Steps on pixels and of each level of a cascade: a row for every sampler, a column for every side."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    sides = sorted({r["side"] for r in records})
    limit, family = records[0]["limit"], next((r["family"] for r in records if r["family"]), "")
    table = Table(title=f"Steps to KL/d <= {limit:g}: pixels, and each level of a {family} cascade")
    table.box, table.pad_edge = box.SIMPLE_HEAD, False
    table.add_column("sampler", min_width=20)
    table.add_column("", no_wrap=True)
    for side in sides:
        table.add_column(f"{side}²", justify="right", no_wrap=True)
    for eta in dict.fromkeys(r["eta"] for r in records):
        table.add_section()
        table.add_row(Text(f"spectrum 1/|w|^{eta:g}", style="bold"))
        for model in ("pixel", "wavelet"):
            found = {r["side"]: r["condition"] for r in records if (r["eta"], r["model"]) == (eta, model)}
            name = "condition number" if model == "pixel" else ""
            table.add_row(
                Text(name, style="dim"), Text(model, style="dim"), *(Text(_short(found[s]), style="dim") for s in sides)
            )
        for name in dict.fromkeys(r["sampler"] for r in records):
            for model in ("pixel", "wavelet"):
                own = {
                    r["side"]: r["steps"] for r in records if (r["eta"], r["model"], r["sampler"]) == (eta, model, name)
                }
                style = "green" if model == "wavelet" else ""
                table.add_row(
                    SAMPLERS[name].title if model == "pixel" else "",
                    Text(model, style=style),
                    *(Text("many" if own[s] is None else str(own[s]), style=style) for s in sides),
                )
    return table


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1e4 else f"{value:.1e}".replace("e+0", "e")
