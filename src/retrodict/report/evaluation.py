"""The HTML page of an evaluation: table, differences, calibration curves and pictures, in one file without scripts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogLocator

from retrodict.report.page import (
    DASHED,
    GRID,
    INK,
    INPUT,
    SERIES,
    Panel,
    Scale,
    display_window,
    nice,
    number,
    panel,
    percent_axes,
    plain_log,
    plot,
    render_page,
    rows,
    signed_scale,
    square,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["render"]


Record = Mapping[str, Any]


def render(record: Record, pictures: Mapping[str, np.ndarray], metrics: Mapping[str, tuple[str, str]]) -> str:
    """The page of an evaluation record (`retrodict.tasks.evaluate`); `metrics` names the columns."""
    colors = _colors(record)
    context = {
        "kind": "Evaluation",
        "title": record["name"],
        "date": record["date"],
        "verdict": _verdict(record),
        "record": record,
        "columns": [metrics[c] for c in record["columns"]],
        "methods": [_method(m, record) for m in record["methods"]],
        "dots": [_dots(c, metrics[c], record, colors) for c in ("rmse", "ssim", "ssr") if c in record["columns"]],
        "differences": [_difference(d, metrics) for d in record["differences"]],
        "curves": _curves(record, colors),
        "histograms": _histograms(record, colors),
        "panels": _panels(record, pictures),
        "tables": [
            {"name": "Configuration", "rows": rows(record["config"], skip_empty=True)},
            {"name": "Versions", "rows": rows(record["versions"])},
        ],
    }
    return render_page("evaluation.html.j2", context)


def _colors(record: Record) -> dict[str, str]:
    names = [m["name"] for m in record["methods"] if m["name"] != "measured"]
    return {"measured": INPUT} | {n: SERIES[i % len(SERIES)] for i, n in enumerate(names)}


# ---- words and tables --------------------------------------------------------------------------------------------


def _method(method: Record, record: Record) -> dict[str, Any]:
    found = [method["summary"].get(column) for column in record["columns"]]
    cells = [{"value": _value(f), "band": _band(f)} if f else {"value": "", "band": ""} for f in found]
    return {"name": method["name"], "kind": method["kind"], "cells": cells}


def _value(found: Mapping[str, float | None]) -> str:
    scatter = found.get("sd")
    return number(found["value"]) + ("" if scatter is None else f" ± {number(scatter)}")


def _band(found: Mapping[str, float | None]) -> str:
    return "" if found["lower"] is None else f"{number(found['lower'])} to {number(found['upper'])}"


def _verdict(record: Record) -> str:
    """The finding in a sentence: the smallest error, the measured image among them, and whose spread is right."""
    methods = [m for m in record["methods"] if m["name"] != "measured"]
    best = min(methods, key=_error)
    text = f"{best['name']} has the smallest error, {number(_error(best))} {record['unit']} rms"
    base = next((m for m in record["methods"] if m["name"] == "measured"), None)
    if base and _error(base) <= _error(best):
        text = f"No method has a smaller error than the measured images, {number(_error(base))} {record['unit']} rms; "
        text += f"the nearest is {best['name']}, {number(_error(best))}"
    elif base:
        text += f" (measured {number(_error(base))})"
    text += f", over {record['who']}."
    stated = [m for m in methods if "ssr" in m["summary"]]
    parts = [f"{m['name']} {number(m['summary']['ssr']['value'])}" for m in stated]
    if parts:
        text += f" Error over spread, 1 when the uncertainty is right: {', '.join(parts)}."
    points = [m["name"] for m in methods if m["kind"] == "point"]
    if points:
        text += f" {', '.join(points)} state{'s' if len(points) == 1 else ''} no uncertainty."
    return text


def _error(method: Record) -> float:
    return method["summary"]["rmse"]["value"]


def _difference(found: Record, metrics: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    return {
        "method": found["method"],
        "metric": metrics[found["metric"]][0],
        "difference": number(found["difference"]),
        "band": _band(found),
        "excluded": "yes" if found["p_value"] < 0.05 else "no" if found["n"] >= 6 else f"too few ({found['n']})",
    }


# ---- plots -------------------------------------------------------------------------------------------------------


def _dots(column: str, words: tuple[str, str], record: Record, colors: Mapping[str, str]) -> dict[str, Any]:
    given = [(m["name"], m["summary"][column]) for m in record["methods"] if column in m["summary"]]
    shown = [(name, found) for name, found in given if found["value"] is not None]
    height = 0.62 + 0.3 * len(shown)
    svg = plot(f"dots-{column}", 3.9, height, partial(_draw_dots, shown=shown, colors=colors, column=column))
    unit = f" ({record['unit']})" if column == "rmse" else ""
    return {"title": words[0] + unit, "caption": words[1], "svg": svg}


def _draw_dots(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str], column: str) -> None:
    places = np.arange(len(shown))[::-1]
    for y, (name, found) in zip(places, shown, strict=True):
        if found["lower"] is not None:
            axes.plot([found["lower"], found["upper"]], [y, y], color=colors[name], linewidth=2.6, alpha=0.45)
        axes.plot(found["value"], y, "o", color=colors[name], markersize=5.5)
        axes.annotate(number(found["value"]), (found["value"], y), (0, 6), textcoords="offset points", ha="center",
                      color=INK, fontsize=7.5)  # fmt: skip
    if column == "ssr":
        axes.axvline(1, **DASHED)
    axes.set_yticks(places, [n for n, _ in shown])
    axes.set_ylim(-0.6, len(shown) - 0.2)
    axes.margins(x=0.12)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _curves(record: Record, colors: Mapping[str, str]) -> list[dict[str, Any]]:
    unit = record["unit"]
    plots = {
        "coverage": (_draw_coverage, "Coverage",
                     "On the diagonal the stated probability holds; below it the spread is too small."),
        "bands": (_draw_bands, "Error over spread by frequency",
                  "1 is calibrated; above 1 the ensemble varies too little in that band."),
        "reliability": (partial(_draw_reliability, unit=unit), "Reliability",
                        "Pixels sorted by their stated deviation: on the diagonal the error is as stated."),
        "nps": (partial(_draw_nps, unit=unit), "Noise in the uniform regions",
                "Radial noise power spectrum of each result."),
        "task": (_draw_mtf, "MTF by perturbation",
                 f"Instrument and restoration, for the stated disc. {_observer(record)}"),
    }  # fmt: skip
    out = []
    for key, (draw, title, caption) in plots.items():
        shown = [(m["name"], m[key]) for m in record["methods"] if key in m]
        if shown:
            svg = plot(key, 4.6, 3.4, partial(draw, shown=shown, colors=colors))
            out.append({"title": title, "caption": caption, "svg": svg})
    return out


def _draw_coverage(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str]) -> None:
    axes.plot((0, 1), (0, 1), **DASHED)
    for name, c in shown:
        axes.plot(c["nominal"], c["observed"], color=colors[name], marker="o", markersize=2.6, label=name)
    percent_axes(axes, "stated probability", "truth inside")
    axes.legend(loc="upper left")


def _draw_bands(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str]) -> None:
    axes.axhline(1, **DASHED)
    for name, b in shown:
        middle = (np.array(b["low"]) + np.array(b["high"])) / 2
        axes.plot(middle, b["ssr"], color=colors[name], marker="o", markersize=3.4, label=name)
    top = max(1.5, 1.1 * max(max(b["ssr"]) for _, b in shown))
    axes.set(xlabel="cycles/mm", ylabel="SSR", ylim=(0, top), xlim=(0, max(b["high"][-1] for _, b in shown)))
    axes.legend(loc="lower left")


def _draw_reliability(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str], unit: str) -> None:
    top = 1.05 * max(max(max(c["predicted"]), max(c["observed"])) for _, c in shown)
    axes.plot((0, top), (0, top), **DASHED)
    for name, c in shown:
        axes.plot(c["predicted"], c["observed"], color=colors[name], marker="o", markersize=3.4, label=name)
    axes.set(xlabel=f"stated deviation ({unit})", ylabel=f"error found ({unit} rms)", xlim=(0, top), ylim=(0, top))
    axes.legend(loc="upper left")


def _draw_nps(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str], unit: str) -> None:
    for name, s in shown:
        axes.plot(s["frequency"], s["value"], color=colors[name], label=name)
    axes.set(xlabel="cycles/mm", ylabel=f"{square(unit)} mm²")
    plain_log(axes)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set_ylim(bottom=0.3 * min(min(s["value"]) for _, s in shown) or None)  # room for the names
    axes.legend(loc="lower left", ncols=2)


def _observer(record: Record) -> str:
    """D' of every method that has one."""
    parts = []
    for m in record["methods"]:
        if "task" in m:
            t = m["task"]
            both = (
                f"{number(t[k])} [{number(t[k + '_band'][0])}, {number(t[k + '_band'][1])}]"
                for k in ("d_npw", "d_hotelling")
            )
            parts.append("{}: d\u2032 {} (NPW), {} (Hotelling)".format(m["name"], *both))
    return "; ".join(parts) + "." if parts else ""


def _draw_mtf(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str]) -> None:
    for name, t in shown:
        axes.fill_between(t["frequency"], t["lower"], t["upper"], color=colors[name], alpha=0.2, linewidth=0)
        axes.plot(t["frequency"], t["mtf"], color=colors[name], label=name)
    axes.axhline(1, **DASHED)
    axes.set(xlabel="cycles/mm", ylabel="", ylim=(0, None))
    axes.legend(loc="upper right")


def _histograms(record: Record, colors: Mapping[str, str]) -> list[dict[str, Any]]:
    out = []
    for i, m in enumerate(record["methods"]):
        if "ranks" in m:
            svg = plot(f"ranks-{i}", 3.9, 2.1, partial(_draw_ranks, found=m["ranks"], color=colors[m["name"]]))
            out.append({"title": m["name"], "svg": svg, "caption": f"every {m['ranks']['stride']}th pixel"})
    return out


def _draw_ranks(axes: Axes, found: Record, color: str) -> None:
    counts = np.array(found["counts"], float)
    share = counts / counts.mean()
    axes.bar(np.arange(len(share)), share, width=0.86, color=color, alpha=0.75)
    axes.axhline(1, **DASHED)
    axes.set(xlabel="rank of the truth among the samples", ylabel="over uniform", xlim=(-0.6, len(share) - 0.4))
    axes.spines["bottom"].set_color(GRID)


# ---- pictures ----------------------------------------------------------------------------------------------------


def _panels(record: Record, pictures: Mapping[str, np.ndarray]) -> list[Panel]:
    """Truth, measured, the mean of every method, its error and its stated deviation; one gray scale for all."""
    truth, unit = pictures["truth"], record["unit"]
    (center, width), _ = display_window(truth, unit)
    gray = (center - width / 2, center + width / 2)
    means = {k.removeprefix("mean:"): v for k, v in pictures.items() if k.startswith("mean:")}
    spreads = {k.removeprefix("sd:"): v for k, v in pictures.items() if k.startswith("sd:")}
    high = nice(5 * float(np.median([np.abs(v - truth).std() for v in means.values()])))
    error, spread = signed_scale(high, unit), Scale(0.0, high, "viridis", unit)
    shown = {k: pictures[k] for k in ("truth", "measured") if k in pictures} | means
    return [
        *(panel(name, image, gray) for name, image in shown.items()),
        *(panel(f"{name}: error", image - truth, error) for name, image in means.items()),
        *(panel(f"{name}: stated deviation", image, spread) for name, image in spreads.items()),
    ]
