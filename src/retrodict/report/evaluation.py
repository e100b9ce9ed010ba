"""The HTML page of an evaluation: table, differences, calibration curves and pictures, in one file without scripts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from retrodict._version import __version__
from retrodict.report.page import GRID, INK, INPUT, MUTED, SERIES, plot, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["render"]


Record = Mapping[str, Any]


def render(record: Record, pictures: Mapping[str, np.ndarray], metrics: Mapping[str, tuple[str, str]]) -> str:
    """The page of an evaluation record (`retrodict.evaluating`); `metrics` names the columns."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    colors = _colors(record)
    context = {
        "record": record,
        "version": __version__,
        "columns": [metrics[c] for c in record["columns"]],
        "rows": [_row(m, record) for m in record["methods"]],
        "lead": _lead(record),
        "dots": [_dots(c, metrics[c], record, colors) for c in ("rmse", "ssim", "ssr") if c in record["columns"]],
        "differences": _differences(record, metrics),
        "curves": _curves(record, colors),
        "histograms": _histograms(record, colors),
        "panels": _panels(record, pictures),
        "config": _flat(record["config"]),
        "versions": _flat(record["versions"]),
    }
    return environment.get_template("evaluation.html.j2").render(context)


def _colors(record: Record) -> dict[str, str]:
    names = [m["name"] for m in record["methods"] if m["name"] != "measured"]
    return {"measured": INPUT} | {n: SERIES[i % len(SERIES)] for i, n in enumerate(names)}


# ---- words and tables --------------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    if value is None:
        return ""
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return text.replace("-", "\u2212")


def _row(method: Record, record: Record) -> dict[str, Any]:
    cells = []
    for column in record["columns"]:
        found = method["summary"].get(column)
        value = _number(found["value"]) if found else ""
        cells.append({"value": value, "band": _band(found) if found and found["lower"] is not None else ""})
    return {"name": method["name"], "kind": method["kind"], "cells": cells}


def _band(found: Mapping[str, float]) -> str:
    return f"{_number(found['lower'])} to {_number(found['upper'])}"


def _lead(record: Record) -> str:
    """The finding in a sentence: the smallest error, and whose spread is that of its error."""
    methods = [m for m in record["methods"] if m["name"] != "measured"]
    best = min(methods, key=lambda m: m["summary"]["rmse"]["value"])
    text = f"{best['name']} has the smallest error, {_number(best['summary']['rmse']['value'])} {record['unit']} rms"
    base = next((m for m in record["methods"] if m["name"] == "measured"), None)
    if base:
        text += f" (measured {_number(base['summary']['rmse']['value'])})"
    text += f", over {record['images']} image{'s' if record['images'] != 1 else ''}."
    stated = [m for m in methods if "ssr" in m["summary"]]
    parts = [f"{m['name']} {_number(m['summary']['ssr']['value'])}" for m in stated]
    if parts:
        text += f" Error over spread, 1 when the uncertainty is right: {', '.join(parts)}."
    points = [m["name"] for m in methods if m["kind"] == "point"]
    if points:
        text += f" {', '.join(points)} state{'s' if len(points) == 1 else ''} no uncertainty."
    return text


def _differences(record: Record, metrics: Mapping[str, tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {
            "method": d["method"],
            "metric": metrics[d["metric"]][0],
            "difference": _number(d["difference"]),
            "band": f"{_number(d['lower'])} to {_number(d['upper'])}",
            "clear": "yes" if d["lower"] * d["upper"] > 0 else "no",
        }
        for d in record["differences"]
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for i, item in enumerate(value):
                rows += _flat(item, f"{prefix}{key}.{item.get('name', i)}.")
        elif value not in (None, [], ""):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows


# ---- plots -------------------------------------------------------------------------------------------------------


def _dots(column: str, words: tuple[str, str], record: Record, colors: Mapping[str, str]) -> dict[str, Any]:
    shown = [(m["name"], m["summary"][column]) for m in record["methods"] if column in m["summary"]]
    if column == "ssim":
        shown = [s for s in shown if s[1]["value"] is not None]
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
        axes.annotate(_number(found["value"]), (found["value"], y), (0, 6), textcoords="offset points", ha="center",
                      color=INK, fontsize=7.5)  # fmt: skip
    if column == "ssr":
        axes.axvline(1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_yticks(places, [n for n, _ in shown])
    axes.set_ylim(-0.6, len(shown) - 0.2)
    axes.margins(x=0.12)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _curves(record: Record, colors: Mapping[str, str]) -> list[dict[str, Any]]:
    out = []
    for key, title, caption, draw in (
        ("coverage", "Coverage", "On the diagonal the stated probability holds; below it the spread is too small.",
         _draw_coverage),
        ("bands", "Error over spread by frequency", "1 is calibrated; above 1 the ensemble varies too little in that "
         "band.", _draw_bands),
        ("reliability", "Reliability", "Pixels sorted by their stated deviation: on the diagonal the error is as "
         "stated.", _draw_reliability),
        ("nps", "Noise in the uniform regions", "Radial noise power spectrum of each result.", _draw_nps),
        ("task", "MTF by perturbation", "Instrument and restoration, for the stated disc. " + _observer(record),
         _draw_mtf),
    ):  # fmt: skip
        shown = [(m["name"], m[key]) for m in record["methods"] if key in m]
        if shown:
            svg = plot(key, 4.6, 3.4, partial(draw, shown=shown, colors=colors, unit=record["unit"]))
            out.append({"title": title, "caption": caption, "svg": svg})
    return out


def _draw_coverage(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str], unit: str) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    for name, c in shown:
        axes.plot(c["nominal"], c["observed"], color=colors[name], marker="o", markersize=2.6, label=name)
    axes.set(xlabel="stated probability", ylabel="truth inside", xlim=(0, 1), ylim=(0, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="upper left")


def _draw_bands(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str], unit: str) -> None:
    axes.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    for name, b in shown:
        middle = (np.array(b["low"]) + np.array(b["high"])) / 2
        axes.plot(middle, b["ssr"], color=colors[name], marker="o", markersize=3.4, label=name)
    top = max(1.5, 1.1 * max(max(b["ssr"]) for _, b in shown))
    axes.set(xlabel="cycles/mm", ylabel="SSR", ylim=(0, top), xlim=(0, max(b["high"][-1] for _, b in shown)))
    axes.legend(loc="lower left")


def _draw_reliability(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str], unit: str) -> None:
    top = 1.05 * max(max(max(c["predicted"]), max(c["observed"])) for _, c in shown)
    axes.plot([0, top], [0, top], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    for name, c in shown:
        axes.plot(c["predicted"], c["observed"], color=colors[name], marker="o", markersize=3.4, label=name)
    axes.set(xlabel=f"stated deviation ({unit})", ylabel=f"error found ({unit} rms)", xlim=(0, top), ylim=(0, top))
    axes.legend(loc="upper left")


def _draw_nps(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str], unit: str) -> None:
    for name, s in shown:
        axes.semilogy(s["frequency"], s["value"], color=colors[name], label=name)
    axes.set(xlabel="cycles/mm", ylabel=f"{unit}\u00b2 mm\u00b2")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.legend(loc="lower left", ncols=2)


def _observer(record: Record) -> str:
    """D' of every method that has one."""
    parts = []
    for m in record["methods"]:
        if "task" in m:
            t = m["task"]
            both = (
                f"{_number(t[k])} [{_number(t[k + '_band'][0])}, {_number(t[k + '_band'][1])}]"
                for k in ("d_npw", "d_hotelling")
            )
            parts.append("{}: d\u2032 {} (NPW), {} (Hotelling)".format(m["name"], *both))
    return "; ".join(parts) + "." if parts else ""


def _draw_mtf(axes: Axes, shown: list[tuple[str, Record]], colors: Mapping[str, str], unit: str) -> None:
    for name, t in shown:
        axes.fill_between(t["frequency"], t["lower"], t["upper"], color=colors[name], alpha=0.2, linewidth=0)
        axes.plot(t["frequency"], t["mtf"], color=colors[name], label=name)
    axes.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
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
    axes.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set(xlabel="rank of the truth among the samples", ylabel="over uniform", xlim=(-0.6, len(share) - 0.4))
    axes.spines["bottom"].set_color(GRID)


# ---- pictures ----------------------------------------------------------------------------------------------------


def _panels(record: Record, pictures: Mapping[str, np.ndarray]) -> list[dict[str, str]]:
    """Truth, measured, the mean of every method, its error and its stated deviation; one gray scale for all."""
    truth = pictures["truth"]
    low, high = (-160.0, 240.0) if record["unit"] == "HU" else (float(v) for v in np.percentile(truth, (1, 99)))
    out = [{"title": "truth", "src": png(truth, low, high)}]
    if "measured" in pictures:
        out.append({"title": "measured", "src": png(pictures["measured"], low, high)})
    means = {k.removeprefix("mean:"): v for k, v in pictures.items() if k.startswith("mean:")}
    out += [{"title": name, "src": png(image, low, high)} for name, image in means.items()]
    scale = 5 * float(np.median([np.abs(v - truth).std() for v in means.values()])) or 1.0
    unit = record["unit"]
    for name, image in means.items():
        title = f"{name}: error, \u00b1{_number(scale)} {unit}"
        out.append({"title": title, "src": png(image - truth, -scale, scale, "RdBu_r")})
    for key, image in pictures.items():
        if key.startswith("sd:"):
            title = f"{key.removeprefix('sd:')}: stated deviation, 0 to {_number(scale)} {unit}"
            out.append({"title": title, "src": png(image, 0.0, scale, "viridis")})
    return out
