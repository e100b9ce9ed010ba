"""The records of the Gaussian card as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrodict.tasks.gaussian_card import Record, restoration_setup, unconditional_setup

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["render"]

_COLORS = {"posterior": "green", "calibrated": "green", "not calibrated": "red", "failed": "red", "point": "yellow"}


def render(records: Sequence[Record]) -> Table:
    """A table of records: gain and variance ratio per coefficient or band, low to high; 1.00 is exact.

    Eighty columns are enough; from about 110 on most records are one line.  Reasons are numbered notes below.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Gaussian card: gain and variance over the exact ones (1.00)", caption_justify="left")
    table.box, table.pad_edge = box.SIMPLE_HEAD, False
    table.add_column("sampler", min_width=12)
    for name in ("steps", "NFE"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("gain", "variance"):
        table.add_column(name, min_width=14)
    table.add_column("verdict", min_width=14)
    group: tuple[str, ...] = ()
    sampler = ""
    notes: list[str] = []
    for record in records:
        names = tuple(str(record[key]) for key in ("setup", "library", "process"))
        if names != group:
            table.add_section()
            table.add_row(Text(" ".join(names), style="bold"))
            group, sampler = names, ""
        steps, nfe = record["steps"], record.get("nfe")
        verdict = Text(record["verdict"], style=_COLORS.get(record["verdict"], "dim"))
        if record.get("reason") and record["verdict"] in ("undefined", "failed"):
            if record["reason"] not in notes:
                notes.append(record["reason"])
            verdict.append(f" [{notes.index(record['reason']) + 1}]", style="dim")
        table.add_row(
            Text("" if record["sampler"] == sampler else str(record["sampler"])),
            "" if steps is None else f"{steps}{'*' if record.get('default') else ''}",
            "" if nfe is None else f"{nfe:g}",
            _values(record["gain"]),
            _values(record["variance"]),
            verdict,
        )
        sampler = record["sampler"]
    legend = [
        f"U: unconditional, coefficients {'; '.join(unconditional_setup().labels)}.",
        f"R: restored from one measurement, bands {', '.join(restoration_setup()[0].labels)}.",
        "* default steps.  Rows of other libraries are Monte Carlo; their standard errors are in the JSON.",
        *(f"[{i}] {note}." for i, note in enumerate(notes, 1)),
    ]
    table.caption = Text("\n".join(legend))
    return table


def _values(values: Sequence[float | None]) -> str:
    return " ".join("-" if v is None else _short(v) for v in values)


def _short(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0e}"
