"""The page and the picture of a test with repeats: predicted against observed, band by band, and what it can see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from retrodict.report.measurement import PALETTE, finish, style
from retrodict.report.page import (
    DASHED,
    GRID,
    MEAN,
    SERIES,
    Panel,
    display_window,
    number,
    panel,
    percent,
    plot,
    render_page,
    rows,
    signed_scale,
    square,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["picture", "render"]


Record = Mapping[str, Any]


def render(record: Record, pictures: Mapping[str, np.ndarray]) -> str:
    """The page of a record of `retrodict.tasks.repeats`; `pictures` `(H, W)`: scan 1, scan 2, mean and score."""
    verdict = record["verdict"]
    context = {
        "kind": "Test with repeats",
        "title": " against ".join((record["scans"][0], ", ".join(record["scans"][1:]))),
        "date": record["date"],
        "verdict": verdict["text"],
        "notes": verdict["notes"],
        "blind": verdict["cannot_see"],
        "unit": square(record["unit"]),
        "groups": [
            {"name": "By frequency", "rows": [_cells(_band(b), b) for b in record["bands"]]},
            {"name": "By class of the mean", "rows": [_cells(_class(c), c) for c in record["classes"]]},
            {"name": "Means of discs", "rows": [_cells(f"discs of {d['mm']:g} mm", d) for d in record["discs"]]},
        ],
        "plots": _plots(record),
        "panels": _panels(record, pictures),
        "difference": [_difference(k, d, record) for k, d in enumerate(record["difference"])],
        "tables": [
            {"name": "Restoration of scan 1", "rows": rows(record["sampling"], skip_empty=True)},
            {"name": "Repeats", "rows": rows(_facts(record), skip_empty=True)},
            {"name": "Versions", "rows": rows(record["versions"])},
        ],
    }
    return render_page("repeats.html.j2", context)


def _facts(record: Record) -> dict[str, Any]:
    names = ("model", "restoration", "slices", "pixels", "members", "unit", "spacing_mm", "noise_of_scan_2", "places")
    return {n: record[n] for n in names}


# ---- words and tables ------------------------------------------------------------------------------------------------


def _band(band: Record) -> str:
    return f"{band['low']:.2f} to {band['high']:.2f} /mm"


def _class(row: Record) -> str:
    return "all pixels" if row["name"] == "all" else row["name"]


def _cells(name: str, row: Record) -> dict[str, str]:
    """A row of the table."""
    cover = row["coverage"]
    return {
        "name": name,
        "values": f"{row['values']:,}".replace(",", "\u202f"),
        "observed": number(row["observed"]),
        "predicted": number(row["posterior"] + row["noise"]),
        "ratio": number(row["ratio"]),
        "band": _range(row["lower"], row["upper"]),
        "share": percent(row["share"]),
        "spread": number(row["spread"]) if row["sees"] < 1 else "not seen",
        "sees": percent(row["sees"]) if row["sees"] < 10 else "nothing",
        "half": percent(cover["0.5"]) if "0.5" in cover else "",
        "most": percent(cover["0.9"]) if "0.9" in cover else "",
    }


def _range(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}" if low == low else ""


def _difference(k: int, found: Record, record: Record) -> dict[str, Any]:
    """The difference of two scans over its noise, band by band."""
    pairs = zip(found["ratio"], found["error"], strict=True)
    return {"name": record["scans"][k + 1], "cells": [f"{number(r)} ± {number(e)}" for r, e in pairs]}


# ---- plots -----------------------------------------------------------------------------------------------------------


def _plots(record: Record) -> list[dict[str, Any]]:
    bands = record["bands"]
    out = [
        {
            "title": "Observed over predicted",
            "caption": "Power of scan 2 minus its prediction over what is predicted of it, with 95 % band. Above 1 the "
            "posterior is too narrow; below 1 too wide. Bars: share of the prediction that is the posterior's.",
            "svg": plot("ratio", 4.6, 3.2, partial(_draw_ratio, bands=bands)),
        },
        {
            "title": "Coverage",
            "caption": "Predictive intervals of 50 and 90 % (lines), found in pixels by class and in means of discs.",
            "svg": plot("cover", 4.6, 3.2, partial(_draw_cover, record=record)),
        },
    ]
    if record["ranks"]:
        p = record["ranks"]["p_value"]
        caption = (
            f"Scan 2 among members with noise of their own, every {record['ranks']['stride']}th pixel; p = {p:.2g}."
        )
        out.append(
            {"title": "Ranks", "caption": caption, "svg": plot("ranks", 4.6, 2.4, partial(_draw_ranks, record=record))}
        )
    return out


def _draw_ratio(axes: Axes, bands: Sequence[Record]) -> None:
    middle = [(b["low"] + b["high"]) / 2 for b in bands]
    axes.bar(middle, [b["share"] for b in bands], [0.8 * (b["high"] - b["low"]) for b in bands], color=GRID)
    axes.axhline(1, **DASHED)
    for x, b in zip(middle, bands, strict=True):
        axes.plot([x, x], [b["lower"], b["upper"]], color=MEAN, linewidth=2.4, alpha=0.5)
    axes.plot(middle, [b["ratio"] for b in bands], "o", color=MEAN, markersize=4.5)
    top = max(1.5, 1.1 * max(b["upper"] for b in bands if b["upper"] == b["upper"]))
    axes.set(xlabel="cycles/mm", ylabel="ratio", xlim=(0, bands[-1]["high"]), ylim=(0, min(top, 5)))


def _covered(record: Record) -> tuple[list[str], list[list[float]]]:
    """Names, and the coverage of 50 and 90 % intervals."""
    named = [(_class(c), c) for c in record["classes"]] + [(f"{d['mm']:g} mm", d) for d in record["discs"]]
    return [n for n, _ in named], [[row["coverage"][p] for _, row in named] for p in ("0.5", "0.9")]


def _draw_cover(axes: Axes, record: Record) -> None:
    names, values = _covered(record)
    places = np.arange(len(names))
    for level, found, color in zip((0.5, 0.9), values, SERIES, strict=False):
        axes.axhline(level, **DASHED)
        axes.plot(places, found, "o", color=color, markersize=4.5)
    axes.set_xticks(places, names, rotation=30, ha="right")
    axes.set(ylim=(0, 1), xlim=(-0.5, len(names) - 0.5), ylabel="scan 2 inside")


def _draw_ranks(axes: Axes, record: Record) -> None:
    counts = np.array(record["ranks"]["counts"], float)
    axes.bar(np.arange(len(counts)), counts / counts.mean(), width=0.86, color=MEAN, alpha=0.75)
    axes.axhline(1, **DASHED)
    axes.set(xlabel="rank of scan 2", ylabel="over uniform", xlim=(-0.6, len(counts) - 0.4))


def _panels(record: Record, pictures: Mapping[str, np.ndarray]) -> list[Panel]:
    """Both scans and the mean in one gray scale, and the score of scan 2."""
    unit = record["unit"]
    (center, width), _ = display_window(pictures["mean"], unit)
    gray = (center - width / 2, center + width / 2)
    shown = [panel(name, pictures[key], gray) for name, key in (
        (record["scans"][0], "scan 1"), (record["scans"][1], "scan 2"), ("posterior mean", "mean"))]  # fmt: skip
    words = "scan 2 minus its prediction, in predicted deviations; gray where nothing is looked at"
    return [*shown, panel("score", pictures["score"], signed_scale(4.0, "sd"), words)]


# ---- the picture -----------------------------------------------------------------------------------------------------


def picture(record: Record) -> bytes:
    """PNG of ratios, coverage and ranks."""
    figure = Figure(figsize=(12.6, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1.25, 1))
    bands = record["bands"]
    centers = [(b["low"] + b["high"]) / 2 for b in bands]
    left.bar(centers, [b["share"] for b in bands], [0.8 * (b["high"] - b["low"]) for b in bands], color="#d8dee4",
             label="posterior's share")  # fmt: skip
    for x, b in zip(centers, bands, strict=True):
        left.plot([x, x], [b["lower"], b["upper"]], color=PALETTE[0], linewidth=2.6, alpha=0.4)
    left.plot(centers, [b["ratio"] for b in bands], "o", color=PALETTE[0], markersize=4.5, label="observed / predicted")
    left.axhline(1, color="#5d6b78", linewidth=0.8, dashes=(4, 3))
    style(left, f"scan 2 and its prediction: {record['verdict']['title']}", "cycles/mm", "")
    left.set_ylim(0, max(1.6, min(5, 1.1 * max(b["upper"] for b in bands if b["upper"] == b["upper"]))))
    left.legend(frameon=False, fontsize=8, loc="upper left")
    names, values = _covered(record)
    for level, found, color in zip((0.5, 0.9), values, PALETTE, strict=False):
        middle.axhline(level, color=color, linewidth=0.8, dashes=(4, 3))
        middle.plot(np.arange(len(names)), found, "o", color=color, markersize=4.5, label=f"{level:.0%} interval")
    style(middle, "coverage: pixels by class, means of discs", "", "scan 2 inside")
    middle.set_xticks(np.arange(len(names)), names, rotation=30, ha="right")
    middle.set_ylim(0, 1)
    middle.legend(frameon=False, fontsize=8, loc="lower right")
    if record["ranks"]:
        counts = np.array(record["ranks"]["counts"], float)
        right.bar(np.arange(len(counts)), counts / counts.mean(), width=0.86, color=PALETTE[2], alpha=0.8)
        right.axhline(1, color="#5d6b78", linewidth=0.8, dashes=(4, 3))
    style(right, "ranks of scan 2 among the members", "rank", "over uniform")
    return finish(figure)
