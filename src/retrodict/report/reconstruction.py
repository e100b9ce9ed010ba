"""The page of a reconstruction: the image, what was measured, and what is left of it beside the law of the noise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from retrodict.report.page import (
    DASHED,
    MEAN,
    SAMPLE,
    Panel,
    Scale,
    display_window,
    legend,
    nice,
    number,
    panel,
    percent,
    plot,
    quantity,
    render_page,
    rows,
    sentence,
    signed_scale,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["render"]

Record = Mapping[str, Any]
GAUSSIAN = (
    "The prior is Gaussian: it knows the power of images at every frequency, and nothing of edges, shapes or air, so "
    "its intervals are those of such images"
)
TITLES = {
    "sinogram": "Sinogram",
    "projections": "Projection",
    "k-space": "k-space",
    "image": "Measured image",
    "data": "Data",
}


def render(record: Record, pictures: Mapping[str, Any], name: str) -> str:
    """The page of a record of `retrodict.tasks.reconstruct`, with arrays of the slice that is shown.

    `pictures`: kind; image, truth or None `(H, W)`; data, residual and seen (2-D); sample of the residual (flat).
    """
    context = {
        "kind": f"Reconstruction by {record['method']}",
        "title": name,
        "date": record["date"],
        "verdict": sentence(_verdict(record)),
        "notes": [sentence(f"{n[0].upper()}{n[1:]}") for n in (*record["notes"], *_stamps(record), *_warnings(record))],
        "crime": not _warnings(record) and any("inverse crime" in n for n in record["notes"]),
        "tiles": _tiles(record),
        "panels": _panels(record, pictures),
        "samples": _samples(record, pictures),
        "regions": _regions(record),
        "point": record["kind"] == "point",
        "residual_of": "image" if record["kind"] == "point" else "first sample",
        "data": _data_panels(record, pictures),
        "plots": _plots(record, pictures),
        "slices": _slices(record),
        "tables": [
            {"name": "Method", "rows": rows({"method": record["method"], **record["settings"]})},
            *_posterior_table(record),
            {"name": "Measurement", "rows": rows(record["measurement"], skip_empty=True)},
            {"name": "Run", "rows": rows(_run(record))},
            {"name": "Files", "rows": [("", f) for f in record["files"]]},
            {"name": "Versions", "rows": rows(record["versions"])},
        ],
    }
    return render_page("reconstruction.html.j2", context)


def _run(record: Record) -> dict[str, Any]:
    return {
        "seconds": round(record["seconds"], 2),
        "forecast seconds": round(record["forecast"]["seconds"], 2),
        "threads": record["threads"],
        "source": record["source"],
    }


def _warnings(record: Record) -> list[str]:
    return list(record.get("posterior", {}).get("warnings", []))


def _stamps(record: Record) -> list[str]:
    """What a reader has to know of the prior and of the test by data left out."""
    out = [GAUSSIAN] if "prior" in record.get("posterior", {}) else []
    return [*out, *([record["held_out"]["said"]] if "held_out" in record else [])]


def _posterior_table(record: Record) -> list[dict[str, Any]]:
    if "posterior" not in record:
        return []
    hidden = ("said", "seeds", "warnings", "kind", "prior", "spread_on_patients")
    shown = {k: v for k, v in record["posterior"].items() if k not in hidden and v is not None}
    prior = {k: v for k, v in record["posterior"].get("prior", {}).items() if k not in ("frequency", "power")}
    shown |= {f"prior, {k}": v for k, v in prior.items()}
    return [{"name": "Posterior", "rows": rows(shown)}]


# ---- words -----------------------------------------------------------------------------------------------------------


def _verdict(record: Record) -> str:
    said = record["residual"]["said"]
    if "posterior" in record:
        return record["posterior"]["said"]
    return f"A point estimate, without an uncertainty. {said[0].upper()}{said[1:]}"


def _regions(record: Record) -> list[dict[str, str]]:
    """A row for every region and slice."""
    unit, out = record["unit"], []
    for row in record.get("regions", []):
        y, x, h, w = row["region"]
        where = f"rows {y} to {y + h - 1}, columns {x} to {x + w - 1}"
        where += f", slice {row['slice']}" if row["slices"] > 1 else ""
        reach = f"{row['low']:.5g} to {row['high']:.5g} {unit}" if "low" in row else "no interval"
        truth = f"{row['truth']:.5g} {unit}" if "truth" in row else ""
        out.append({"where": where, "mean": f"{row['mean']:.5g} {unit}", "reach": reach, "truth": truth})
    return out


def _tiles(record: Record) -> list[dict[str, str]]:
    law, shown = record["residual"], record["slices"][record["shown_slice"]]
    if "posterior" in record:
        return _tiles_of_posterior(record, shown)
    tiles = [{"label": "residual", "value": percent(shown["residual"]), "note": "of the data, |y − A x| / |y|"}]
    if "ratio" in law:
        p = min(law["above"], law["below"])
        word = "p\u00a0<\u00a010⁻⁶" if p < 1e-6 else f"p = {p:.2g}"
        tiles.append(
            {"label": "chi² over its mean", "value": number(law["ratio"]), "note": f"1 for the true image; {word}"}
        )
    for name, value in law["lag"].items():
        note = f"±{number(law['band'], 2)} if white"
        tiles.append({"label": f"neighbors {name}", "value": f"{value:+.3f}".replace("-", "−"), "note": note})
    tiles.append(
        {"label": "beyond 3 deviations", "value": percent(law["beyond_3"]), "note": f"0.3{chr(160)}% of a normal law"}
    )
    if "error_rms" in record:
        value = quantity(record["error_rms"], record["unit"])
        tiles.append({"label": "error", "value": value, "note": "rms against what was simulated"})
    return tiles


def _tiles_of_posterior(record: Record, shown: Record) -> list[dict[str, str]]:
    found = record["posterior"]
    law = f"1 ± {number(found['misfit_sd'], 2)} for the true image"
    tiles = [
        {"label": "chi² of the samples over its mean", "value": number(shown["samples_misfit"]), "note": law},
        {"label": "samples", "value": str(found["samples"]), "note": f"by {found['method']}, {found['style']}"},
        {"label": "calls of the network", "value": str(found["calls"]), "note": "for every sample"},
    ]
    if "sd_rms" in record:
        value = quantity(record["sd_rms"], record["unit"])
        tiles.append({"label": "deviation", "value": value, "note": "of the posterior, rms over pixels"})
    if "held_out" in record:
        told = record["held_out"]
        note = f"of {told['data']} numbers that were left out, within their {told['level']:.0%} intervals"
        tiles.append({"label": "left out and predicted", "value": percent(told["covered"]), "note": note})
        note = f"± {number(told['ratio_error'], 2)}, over what samples and noise predict; 1 is right"
        tiles.append({"label": "their squared error", "value": number(told["ratio"]), "note": note})
    if "error_rms" in record:
        value = quantity(record["error_rms"], record["unit"])
        tiles.append({"label": "error of the mean", "value": value, "note": "rms against what was simulated"})
    return tiles


def _slices(record: Record) -> list[dict[str, str]]:
    """A row for every slice, at most sixty of them."""
    many = record["slices"]
    step = max(1, -(-len(many) // 60))
    return [
        {
            "number": str(i),
            "residual": percent(row["residual"]),
            "misfit": "" if row["misfit"] is None else number(row["misfit"]),
            "stopped": f"{row['stopped']}, {row['iterations']}" if row["iterations"] else row["stopped"],
            "strength": "" if row["strength"] is None else number(row["strength"]),
        }
        for i, row in list(enumerate(many))[::step]
    ]


# ---- pictures --------------------------------------------------------------------------------------------------------


def _panels(record: Record, pictures: Mapping[str, Any]) -> list[Panel]:
    unit, image, truth = record["unit"], pictures["image"], pictures["truth"]
    (center, width), _ = display_window(image if truth is None else truth, unit)
    gray = (center - width / 2, center + width / 2)
    dy, dx = pictures["spacing"]
    aspect = f"{image.shape[1] * dx:g} / {image.shape[0] * dy:g}"
    words = f"{number(gray[0])} to {number(gray[1])} {unit}"
    title = "Reconstruction" if record["kind"] == "point" else "Mean of the samples"
    out = [panel(title, image, gray, words, aspect)]
    if pictures.get("sd") is not None:
        high = nice(float(np.percentile(pictures["sd"], 99.5)))
        words = f"Larger values than {number(high)} {unit} saturate.{_on_patients(record)}"
        out.append(
            panel("Deviation of the posterior", pictures["sd"], Scale(0, high, "viridis", unit, words), words, aspect)
        )
    if truth is not None:
        error = image - truth
        high = nice(float(np.percentile(np.abs(error), 99)))
        out += [
            panel("Truth", truth, gray, "", aspect),
            panel(f"{title.split()[0]} minus truth", error, signed_scale(high, unit), "", aspect),
        ]
    return out


def _on_patients(record: Record) -> str:
    """How the deviation of this model compares with the error on patients it has not seen."""
    found = record["posterior"].get("spread_on_patients")
    return "" if found is None else f" {found['said']}"


def _samples(record: Record, pictures: Mapping[str, Any]) -> list[Panel]:
    """The samples in one gray scale, to go through."""
    drawn = pictures.get("samples") or []
    if record["kind"] == "point" or not drawn:
        return []
    truth = pictures["truth"]
    (center, width), _ = display_window(pictures["image"] if truth is None else truth, record["unit"])
    dy, dx = pictures["spacing"]
    aspect = f"{drawn[0].shape[1] * dx:g} / {drawn[0].shape[0] * dy:g}"
    gray = (center - width / 2, center + width / 2)
    return [panel(f"Sample {k + 1} of {len(drawn)}", x, gray, "", aspect) for k, x in enumerate(drawn)]


def _data_panels(record: Record, pictures: Mapping[str, Any]) -> list[Panel]:
    """What was measured, and the residual in deviations of the noise."""
    data, kind = pictures["data"], pictures["kind"]
    shown, words = (np.abs(data), "magnitude") if np.iscomplexobj(data) else (data, "")
    if kind == "k-space":
        floor = np.percentile(shown[shown > 0], 5) if (shown > 0).any() else 1.0
        shown, words = np.log10(np.maximum(shown, floor)), "logarithm of the magnitude, first coil; black: not measured"
    if kind == "sinogram":
        words = "views down, bins across"
    low, high = (float(v) for v in np.percentile(shown, (0.5, 99.5)))
    aspect = "4 / 3" if kind == "sinogram" else ""
    rest = np.real(pictures["residual"]) * pictures["seen"]
    scale = signed_scale(4.0, "sd")
    caption = "data minus A x, in deviations of the noise" + (", real part" if np.iscomplexobj(data) else "")
    return [
        panel(TITLES[kind], shown, (low, high if high > low else low + 1), words, aspect),
        panel("Residual", rest, Scale(scale.low, scale.high, scale.colors, scale.unit, caption), caption, aspect),
    ]


def _plots(record: Record, pictures: Mapping[str, Any]) -> list[dict[str, Any]]:
    sample = pictures["sample"]
    flat = np.concatenate([sample.real, sample.imag]) if np.iscomplexobj(sample) else sample
    out = [
        {
            "title": "Law of the residual",
            "caption": "Every sample over its deviation; the line is the normal law that noise alone would have.",
            "svg": plot("law", 4.8, 3.0, partial(_draw_law, values=flat[np.isfinite(flat)])),
        },
        {
            "title": "Whiteness",
            "caption": "Correlation of the residual with itself some samples away, along both axes of the picture; "
            "0 for white noise.",
            "svg": plot("white", 4.8, 3.0, partial(_draw_lags, pictures=pictures)),
        },
    ]
    many = [row["misfit"] for row in record["slices"] if row["misfit"] is not None]
    if len(many) > 1:
        draw = partial(_draw_slices, values=many)
        caption = "Chi² over its mean, slice by slice."
        out.append({"title": "Slices", "caption": caption, "svg": plot("slices", 4.8, 2.4, draw)})
    return out


def _draw_law(axes: Axes, values: np.ndarray) -> None:
    edges = np.linspace(-6, 6, 61)
    counts, _ = np.histogram(np.clip(values, -6, 6), edges)
    middle = (edges[1:] + edges[:-1]) / 2
    share = counts / max(1, counts.sum()) / (edges[1] - edges[0])
    axes.bar(middle, share, 0.9 * (edges[1] - edges[0]), color=MEAN, alpha=0.75, label="residual")
    axes.plot(edges, np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi), color=SAMPLE, label="noise alone")
    axes.set(xlabel="deviations", ylabel="density", xlim=(-6, 6))
    legend(axes)


def lags(values: np.ndarray, seen: np.ndarray, axis: int, most: int = 12) -> list[float]:
    """Correlation at lags 0 ... `most` along an axis, over pairs that both count."""
    out = []
    for k in range(min(most, values.shape[axis] - 2) + 1):
        n = values.shape[axis]
        one, other = (np.take(values, range(a, a + n - k), axis) for a in (0, k))
        both = np.take(seen, range(n - k), axis) & np.take(seen, range(k, n), axis)
        pairs = np.real(one * np.conj(other))[both]
        out.append(float(pairs.mean()) if pairs.size else np.nan)
    return [v / out[0] if out and out[0] > 0 else np.nan for v in out]


def _draw_lags(axes: Axes, pictures: Mapping[str, Any]) -> None:
    values, seen = pictures["residual"], pictures["seen"].astype(bool)
    names = ("views", "bins") if pictures["kind"] == "sinogram" else ("down", "across")
    for axis, color in ((0, MEAN), (1, SAMPLE)):
        if values.shape[axis] > 3:
            found = lags(values, seen, axis)
            axes.plot(range(len(found)), found, "o-", color=color, markersize=3, label=f"along {names[axis]}")
    axes.axhline(0, **DASHED)
    axes.set(xlabel="samples apart", ylabel="correlation", xlim=(0, 12), ylim=(-0.6, 1.05))
    legend(axes)


def _draw_slices(axes: Axes, values: list[float]) -> None:
    axes.axhline(1, **DASHED)
    axes.plot(range(len(values)), values, "o-", color=MEAN, markersize=3)
    axes.set(xlabel="slice", ylabel="chi² / mean", xlim=(-0.5, len(values) - 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
