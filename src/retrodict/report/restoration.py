"""One HTML file that shows what a restoration did: images, uncertainty, profiles, noise spectra and a full record.

The file holds everything it shows. It has no script and asks nothing of a network, which its content security policy
also forbids, so it can be mailed, archived and printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from retrodict import metrics
from retrodict._output import refuse_existing, write_file
from retrodict.report.given import Case, ReportData, View, box_means, parts
from retrodict.report.page import (
    DASHED,
    MEAN,
    NBSP,
    Panel,
    Scale,
    nice,
    number,
    panel,
    percent,
    percent_axes,
    plot,
    quantity,
    render_page,
    rows,
    sentence,
    short,
    signed_scale,
    square,
)
from retrodict.report.plots import instrument, interval, noise, profiles, region_fields
from retrodict.report.stopped import stopped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ReportData", "render", "write"]


LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))


def write(result: ReportData, path: str | Path, force: bool = False) -> Path:
    """Write the report of `result` to `path` and return it; an existing file stays unless `force` is given.

    The page is complete before the file appears: a failure leaves no half-written report.
    """
    target = Path(path)
    refuse_existing(target, force)  # before the page is drawn, which takes seconds
    return write_file(target, render(result).encode("utf-8", errors="replace"), force=force)


def render(result: ReportData) -> str:
    """Return the report of `result` as one HTML page."""
    case = Case(result)
    context = {
        "kind": "Restoration report",
        "title": result.title,
        "date": result.created,
        "data": result,
        "verdict": _verdict(case),
        "judged": _judged(result.verdict),
        "tiles": _tiles(case),
        "galleries": _galleries(case),
        "interval": interval(case),
        "closeup": _closeup(case),
        "profiles": profiles(case),
        "noise": noise(case),
        "instrument": instrument(result),
        "stop": stopped(case),
        "truth": _truth(case),
        "record": _record(result),
    }
    return render_page("restoration.html.j2", context)


# ---- words -------------------------------------------------------------------------------------------------------


def _size_words(case: Case) -> str:
    height, width = case.size
    slices = f"{case.depth}{NBSP}slices of " if case.depth > 1 else ""
    channels = f" in {len(case.views)}{NBSP}channels" if len(case.views) > 1 else ""
    return f"{slices}{height}{NBSP}×{NBSP}{width}{NBSP}pixels{channels}"


def _verdict(case: Case) -> str:
    data = case.data
    size = _size_words(case) if case.depth > 1 else f"one image of {_size_words(case)}"
    if case.sd is None:
        made = f"Restored {size} as a point estimate; no uncertainty is given"
    else:
        of = f"{case.count} posterior samples" if case.count else "posterior samples"
        middle = quantity(float(np.median(case.sd)), data.unit)
        how = f"as the posterior mean, with {of}" if data.mean_exact else f"as the mean of {of}"
        made = f"Restored {size} {how}; the median standard deviation is {middle}"
    if data.truth is None:
        return sentence(made)
    before, after = (_rmse(x, data.truth) for x in (data.input, data.mean))
    change = "fell" if after < before else "rose" if after > before else "stayed"
    to = f"from {number(before)} to {quantity(after, data.unit)}"
    return f"{sentence(made)} Against the truth the RMS error {change} {sentence(to)}"


def _judged(verdict: Mapping[str, Any]) -> dict[str, Any] | None:
    """The verdict for the head of the page, and its checks as a table; of several slices the worst of each check."""
    if not verdict:
        return None
    worst: dict[tuple[str, str], Mapping[str, Any]] = {}
    for check in verdict["checks"]:
        name = (check["name"], check["stage"])
        if name not in worst or check["p"] < worst[name]["p"]:
            worst[name] = check
    tone = "alarm" if verdict["reasons"] else "caution" if verdict["warnings"] or verdict["kind"] == "point" else "good"
    stages = list(dict.fromkeys(stage for _, stage in worst))
    names = list(dict.fromkeys(name for name, _ in worst))
    table = [(name, [_cell(worst.get((name, stage))) for stage in stages]) for name in names]
    return {
        "title": verdict["title"][:1].upper() + verdict["title"][1:],
        "tone": tone,
        "reasons": [*verdict["reasons"], *verdict["warnings"]],
        "because": "because " if verdict["reasons"] else "",
        "stages": stages,
        "rows": table,
        "notes": [*verdict["notes"], verdict["cannot_see"]],
        "count": len(verdict["checks"]),
    }


def _cell(check: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """One check: the ratio, the interval, and where both lie on a scale from 1/2 to 2."""
    if check is None:
        return None
    low, high, found = check["low"], check["high"], check["found"]
    span = f"up to {number(high)}" if not low else f"{number(low)} to {number(high)}"
    marks = [_place(0.0 if x is None else x) for x in (low, high, found)]
    return {"found": number(found), "span": span, "passed": check["passed"], "marks": marks}


def _place(ratio: float) -> float:
    """Percent of the width of a logarithmic scale from 1/2 to 2, cut at its ends."""
    return 100 * min(1.0, max(0.0, 0.5 + 0.5 * math.log2(max(ratio, 1e-12))))


def _rmse(a: Tensor, b: Tensor) -> float:
    return metrics.rmse(parts(a), parts(b))


def _tiles(case: Case) -> list[dict[str, str]]:
    unit, timing = case.data.unit, case.data.timing
    tiles = [{"label": "Size", "value": _size_words(case), "note": _spacing_words(case)}]
    if case.sd is not None:
        low, high = (float(v) for v in np.percentile(case.sd, (5, 95)))
        note = f"5th to 95th percentile: {number(low)} to {quantity(high, unit)}"
        value = quantity(float(np.median(case.sd)), unit)
        tiles.append({"label": "Median standard deviation", "value": value, "note": note})
    if case.region:
        before, after = (float(region_fields(case, part).std()) for part in ("input", "mean"))
        value = f"{number(before)} → {quantity(after, unit)}"
        tiles.append({"label": "Noise in the uniform region", "value": value, "note": f"input → {case.estimate}"})
    tiles.append(
        {"label": "Shift of the mean level", "value": quantity(_shift(case), unit), "note": _shift_words(case)}
    )
    if timing:
        tiles.append({"label": "Time", "value": quantity(sum(timing.values()), "s"), "note": "all steps"})
    return tiles


def _shift(case: Case) -> float:
    mean, noisy = (x.abs() if case.complex else x for x in (case.data.mean, case.data.input))
    return float((mean.double() - noisy.double()).mean())


def _shift_words(case: Case) -> str:
    what = f"|{case.estimate}| − |input|" if case.complex else f"{case.estimate} − input"
    return f"average of {what} over all pixels"


def _spacing_words(case: Case) -> str:
    if case.data.spacing is None:
        return "pixel spacing not given"
    return " × ".join(number(s) for s in case.data.spacing) + f"{NBSP}{case.data.spacing_unit} spacing"


def _window_words(case: Case) -> str:
    how = "automatic window" if case.automatic_window else "window"
    center, width, low, high = (short(v) for v in (*case.window, *case.limits))
    unit = case.data.unit
    words = f"{how} center {center}, width {width}{NBSP}{unit} ({low} to {high}{NBSP}{unit})"
    return f"magnitude, {words}" if case.complex else words


# ---- pictures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scales:
    """The color scales that all slices and channels share."""

    sd: Scale | None
    change: Scale
    error: Scale | None


def _scales(case: Case) -> _Scales:
    error = _change_scale(case, "truth") if case.has_truth else None
    return _Scales(_sd_scale(case), _change_scale(case, "input"), error)


def _sd_scale(case: Case) -> Scale | None:
    if case.sd is None:
        return None
    high, unit = nice(float(np.percentile(case.sd[:, case.slices], 99.5))), case.data.unit
    words = f"Scale 0 to {short(high)}{NBSP}{unit}; the largest value is {quantity(float(case.sd.max()), unit)}"
    return Scale(0.0, high, "inferno", unit, sentence(words))


def _change_scale(case: Case, since: Literal["input", "truth"]) -> Scale:
    """The 98th percentile leaves the few sharpest edges to saturate, not the rest to pale."""
    change = np.stack([view.change(z, since) for view in case.views for z in case.slices])
    high, unit = nice(float(np.percentile(np.abs(change), 98))), case.data.unit
    if not case.complex:
        return signed_scale(high, unit)
    return Scale(0.0, high, "inferno", unit, f"Scale 0 to {short(high)}{NBSP}{unit}; larger values saturate.")


def _galleries(case: Case) -> list[dict[str, Any]]:
    """One gallery for each slice and channel, all with the same color scales; a color picture is one."""
    scales = _scales(case)
    galleries = []
    for z in case.slices:
        on = f"Slice {z + 1} of {case.depth}" if case.depth > 1 else ""
        for view in case.pictures:
            lines = _color_lines(case, view, z, scales) if case.color else _lines(case, view, z, scales)
            channel = f"Channel {view.name}" if view.name else ""
            galleries.append({"name": ", ".join(filter(None, (on, channel))), "lines": lines})
    return galleries


def _lines(case: Case, view: View, z: int, scales: _Scales) -> list[dict[str, Any]]:
    panels = [*_shown(case, view, z), *_maps(case, view, z, scales)]
    lines = [{"panels": panels, "grid": "columns-2" if len(panels) == 4 else "columns-3"}]
    if case.complex:
        lines.append({"panels": _phases(case, view, z), "grid": "gallery"})
    return lines


def _color_lines(case: Case, picture: View, z: int, scales: _Scales) -> list[dict[str, Any]]:
    """Color pictures, and below them a line for every quantity, a channel a panel."""
    maps = zip(*(_maps(case, view, z, scales) for view in case.views), strict=True)
    return [{"panels": panels, "grid": "columns-3"} for panels in (_shown(case, picture, z), *maps)]


def _shown(case: Case, view: View, z: int) -> list[Panel]:
    window = _window_words(case)
    show = partial(panel, shown=case.limits, aspect=case.aspect)
    panels = [
        show("Input", view.of("input", z), caption=f"As measured; {window}."),
        show(case.estimate.capitalize(), view.of("mean", z), caption=f"{window[0].upper()}{window[1:]}."),
    ]
    if case.has_truth:
        panels.append(show("Truth", view.of("truth", z), caption=f"Known reference; {window}."))
    return panels


def _maps(case: Case, view: View, z: int, scales: _Scales) -> list[Panel]:
    """Standard deviation, difference and error of one channel."""
    title = view.titled if case.color else str  # elsewhere the heading names the channel
    what = case.estimate.capitalize()
    less = (lambda other: f"|{what} − {other}|") if case.complex else (lambda other: f"{what} − {other}")
    show = partial(panel, aspect=case.aspect)
    panels = []
    if view.sd is not None and scales.sd is not None:
        of = ", of real and imaginary part each" if case.complex else ""
        known = case.data.model_card.get("spread on patients", "")
        caption = f"Spread of the posterior samples at each pixel{of}. {scales.sd.words} {known}".rstrip()
        panels.append(show(title("Standard deviation"), view.sd[z], scales.sd, caption))
    caption = f"{less('input')}: what the restoration changed. {scales.change.words}"
    panels.append(show(title("Difference"), view.change(z, "input"), scales.change, caption))
    if scales.error is not None:
        caption = f"{less('truth')}. {scales.error.words}"
        panels.append(show(title("Error"), view.change(z, "truth"), scales.error, caption))
    return panels


def _phases(case: Case, view: View, z: int) -> list[Panel]:
    scale = Scale(-math.pi, math.pi, "twilight", "rad")
    names = {"input": "Input", "mean": case.estimate.capitalize(), "truth": "Truth"}
    return [
        panel(f"{names[part]}, phase", np.angle(array[z]), scale, aspect=case.aspect)
        for part, array in view.arrays.items()
    ]


def _closeup(case: Case) -> dict[str, Any] | None:
    """Cut the most uncertain part of the middle slice out of the input, the mean and a few samples."""
    if case.sd is None or not case.views[0].samples:
        return None
    z, size = case.middle, min(128, *case.size)
    step, mean = max(1, size // 16), case.flat("mean")
    inside = (mean >= case.limits[0]) & (mean <= case.limits[1])  # what black and white would hide
    level = box_means(np.where(inside, case.flat("sd"), 0), size, step)
    row, column = (int(k) * step for k in np.unravel_index(int(level.argmax()), level.shape))
    cut = (slice(row, row + size), slice(column, column + size))
    aspect = f"{size * case.pixel[1]:.6g} / {size * case.pixel[0]:.6g}"
    panels = []
    for view in case.pictures:
        named = [("Input", view.of("input", z)), ("Posterior mean", view.of("mean", z))]
        named += [(f"Sample {k + 1}", np.abs(s) if case.complex else s) for k, s in enumerate(view.samples)]
        panels.append([panel(view.titled(name), image[cut], case.limits, "", aspect) for name, image in named])
    where = f"rows {row} to {row + size - 1}, columns {column} to {column + size - 1}"
    found = "Where the standard deviation is largest on average, among values inside the window"
    return {"lines": panels, "caption": f"{found}: {where}{case.of_slice}; {_window_words(case)}."}


# ---- against the truth -------------------------------------------------------------------------------------------


def _truth(case: Case) -> dict[str, Any] | None:
    data, truth = case.data, case.data.truth
    if truth is None:
        return None
    unit, images, reference = data.unit, (parts(data.input), parts(data.mean)), parts(truth)
    table = [
        ("Mean squared error", [quantity(metrics.mse(x, reference), square(unit)) for x in images]),
        ("Root mean squared error", [quantity(metrics.rmse(x, reference), unit) for x in images]),
    ]
    if len(case.views) > 1:
        for k, view in enumerate(case.views):
            values = [quantity(metrics.rmse(x[k], reference[k]), unit) for x in images]
            table.append((view.titled("Root mean squared error"), values))
    if data.data_range is not None:
        name = f"PSNR for a data range of {quantity(data.data_range, unit)}"
        ratios = [metrics.psnr(x, reference, data_range=data.data_range) for x in images]
        table.append((name, [quantity(r, "dB", 4) for r in ratios]))
    return {"rows": table, "calibration": _calibration(case, truth), "estimate": case.estimate}


def _calibration(case: Case, truth: Tensor) -> dict[str, Any] | None:
    if case.sd is None or case.data.sd is None or not bool((case.data.sd > 0).any()):
        return None
    mean, truth = parts(case.data.mean), parts(truth)
    sd = case.data.sd[..., None].expand(mean.shape) if case.complex else case.data.sd
    behind = None if case.data.mean_exact else case.count
    ratio = metrics.spread_skill(mean, sd.double().square(), truth, behind).ssr
    inside = metrics.coverage(mean, sd, truth, (0.68, 0.95), count=behind).tolist()
    found = metrics.coverage(mean, sd, truth, LEVELS, count=behind).numpy()
    sense = "the spread is too small" if ratio > 1.1 else "the spread is too large" if ratio < 0.9 else "calibrated"
    table = [
        ("Error over spread (1 is calibrated)", f"{number(ratio)} ({sense})"),
        ("Truth inside the 68 % interval", percent(inside[0])),
        ("Truth inside the 95 % interval", percent(inside[1])),
    ]
    samples = f"the finite number of samples ({behind})" if behind else "no finite number of samples"
    caption = (
        f"Central intervals of a normal distribution around the mean, widened for {samples}, over all pixels. "
        "On the diagonal the stated probability holds; below it the standard deviation is too small."
    )
    svg = plot("reliability", 4.3, 4.0, partial(_draw_reliability, found=found))
    return {"rows": table, "svg": svg, "caption": caption}


def _draw_reliability(axes: Axes, found: np.ndarray) -> None:
    axes.plot((0, 1), (0, 1), **DASHED, label="calibrated")
    axes.plot(LEVELS, found, color=MEAN, marker="o", markersize=3.2, label="found")
    percent_axes(axes, "stated probability of the interval", "truth inside")
    axes.set_aspect("equal")
    axes.legend(loc="upper left")


# ---- the record --------------------------------------------------------------------------------------------------


def _record(data: ReportData) -> list[dict[str, Any]]:
    tables = [
        ("Parameters", rows(data.parameters)),
        ("Model card", rows(data.model_card)),
        ("Versions", rows(data.versions)),
        ("Time", [(str(k), quantity(float(v), "s")) for k, v in data.timing.items()]),
        ("Seeds", [("", ", ".join(str(s) for s in data.seeds))] if data.seeds else []),
        ("Files written", [("", str(name)) for name in data.files]),
    ]
    return [{"name": name, "rows": table} for name, table in tables if table]
