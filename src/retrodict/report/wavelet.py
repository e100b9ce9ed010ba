"""Pictures of `retrodict bench wavelet`: steps over size, tolerance and condition, and seconds over pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from retrodict.report.measurement import INK, MUTED, PALETTE, finish, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["steps_figure", "theorem_figure"]


def steps_figure(records: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> bytes:
    """PNG: for every exponent of the spectrum, steps that are needed over the side; pixels dashed, wavelets solid."""
    exponents = list(dict.fromkeys(r["eta"] for r in records))
    names = list(dict.fromkeys(r["sampler"] for r in records))
    figure = Figure(figsize=(4.6 * len(exponents) + 3.2, 4.4), layout="constrained")
    panels: Any = figure.subplots(1, len(exponents), sharey=True, squeeze=False)[0]
    for axes, exponent in zip(panels, exponents, strict=True):
        for i, name in enumerate(names):
            for model, dash in (("pixel", "--"), ("wavelet", "-")):
                own = [
                    r
                    for r in records
                    if (r["eta"], r["sampler"], r["model"]) == (exponent, name, model) and r["steps"] is not None
                ]
                label = titles[name] if model == "wavelet" else None
                axes.loglog(
                    [r["side"] for r in own],
                    [r["steps"] for r in own],
                    dash,
                    marker="o",
                    markersize=3.5,
                    color=PALETTE[i % len(PALETTE)],
                    label=label,
                )
        sides = sorted({r["side"] for r in records if r["eta"] == exponent})
        axes.set_xticks(sides, [str(n) for n in sides])
        axes.minorticks_off()
        style(axes, f"spectrum 1/|w|^{exponent:g}", "side of the image, pixels", "")
    limit = records[0]["limit"]
    panels[0].set_ylabel(f"steps to KL/d ≤ {limit:g}", fontsize=9, color=MUTED)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8, labelcolor=INK)
    figure.suptitle("Dashed: pixels.  Solid: each level of the wavelet cascade.", x=0.01, ha="left", fontsize=9)
    return finish(figure)


def theorem_figure(record: Mapping[str, Any]) -> bytes:
    """PNG of `theorems` of the tasks: steps over 1/tolerance and over condition; seconds over pixels."""
    timed = bool(record["seconds"])
    figure = Figure(figsize=(12.6 if timed else 8.6, 3.8), layout="constrained")
    panels: Any = figure.subplots(1, 3 if timed else 2)
    _lines(panels[0], record["tolerance"], "limit", lambda x: 1 / x)
    x = np.array([1 / max(r["limit"] for r in record["tolerance"]), 1 / min(r["limit"] for r in record["tolerance"])])
    least = min(r["steps"] for r in record["tolerance"] if r["model"] == "wavelet")
    panels[0].loglog(x, least * (x / x[0]) ** 0.5, ":", color=MUTED, label="slope 1/2")
    panels[0].loglog(x[:1].repeat(2) * [1, 30], least * np.array([1, 900]), "-.", color=MUTED, label="bound, slope 2")
    panels[0].legend(frameon=False, fontsize=8)
    style(panels[0], "theorem 1 and 3: tolerance", "1 / (KL/d)", "Euler-Maruyama steps")
    _lines(panels[1], record["condition"], "condition", float)
    panels[1].legend(frameon=False, fontsize=8)
    style(panels[1], "theorem 1: condition number", "condition of the covariance of pixels", "")
    if timed:
        _lines(panels[2], record["seconds"], "pixels", float, "seconds")
        panels[2].legend(frameon=False, fontsize=8)
        style(panels[2], "theorem 3: time of one field", "pixels", "seconds")
    return finish(figure)


def _lines(axes: Axes, records: Sequence[Mapping[str, Any]], x: str, turn: Any, y: str = "steps") -> None:
    for i, model in enumerate(dict.fromkeys(r["model"] for r in records)):
        for side in dict.fromkeys(r.get("eta") for r in records):
            own = [r for r in records if r["model"] == model and r.get("eta") == side and r[y] is not None]
            label = model if side == records[0].get("eta") else None
            axes.loglog([turn(r[x]) for r in own], [r[y] for r in own], "o-", ms=3.5, color=PALETTE[i], label=label)
