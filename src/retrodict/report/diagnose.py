"""The page of a diagnosis: which identities of an exact score hold, over time and frequency, and a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from retrodict.report.page import (
    DASHED,
    SERIES,
    Panel,
    display_window,
    legend,
    number,
    panel,
    plot,
    render_page,
    rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["render"]

Record = Mapping[str, Any]

SIZE = (4.6, 3.0)
"""Of a plot, inches."""


def render(record: Record, pictures: np.ndarray) -> str:
    """The page of a record of `retrodict.tasks.diagnose`; pictures `(n, H, W)`: answers along one trajectory."""
    findings = record["findings"]
    held = sum(f["holds"] for f in findings)
    where = "on real images" if record["measured"] else "on Gaussian fields of its spectrum"
    name = record.get("model") or record["process"] or "a denoiser"
    return render_page(
        "diagnose.html.j2",
        {
            "kind": "Diagnosis of a model",
            "title": str(name).rsplit("/", 1)[-1],
            "date": record.get("date", ""),
            "verdict": f"{held} of {len(findings)} identities of an exact score hold, {where} "
            f"({record['images']} images, {record['patients']} patients).",
            "findings": [_finding(f) for f in findings],
            "plots": _plots(record),
            "panels": _panels(record, pictures),
            "tables": [
                {"name": "What was measured", "rows": rows(_facts(record), skip_empty=True)},
                {"name": "Versions", "rows": rows(record.get("versions", {}))},
            ],
        },
    )


def _facts(record: Record) -> dict[str, Any]:
    names = ("model", "data", "process", "size", "images", "patients", "seed", "probes", "unit")
    return {n: record.get(n) for n in names}


def _finding(row: Record) -> dict[str, str]:
    error = f" ± {number(row['error'], 2)}" if row["error"] else ""
    return {
        "short": row["short"],
        "words": row["words"],
        "found": f"{number(row['value'])}{error}",
        "exact": number(row["exact"]),
        "limit": number(row["limit"], 2),
        "t": number(row["t"], 2),
        "holds": "holds" if row["holds"] else "off",
    }


# ---- plots -----------------------------------------------------------------------------------------------------------


CAPTIONS = {
    "jacobian": (
        "Is it a gradient?",
        "Asymmetry of the Jacobian in whitened coordinates, 0 for an exact score and 1 for an antisymmetric one: of "
        "all, and of what the model adds to the Gaussian part.",
    ),
    "rank": (
        "How much does it let through?",
        "Trace of the Jacobian (effective rank), and its stable rank, (tr A)²/|A|². Dashed: the trace for Gaussian "
        "data of the same spectrum.",
    ),
    "fp": (
        "Does it move as its law must?",
        "Residual of the Fokker-Planck equation of the score over the change of the score in time.",
    ),
    "stein": (
        "Is the transport right?",
        "Stein's identity by band, −E S·P(z − c)/d, 1 for an exact score; mean and standard deviation between "
        "patients. The lowest band has few and large coefficients: it scatters.",
    ),
    "error": (
        "Error by band",
        "Mean square of the error over that of the Wiener filter: below 1 the model knows more than the spectrum.",
    ),
    "stated": (
        "Error over what is stated of it",
        "1 where the stated variance is right; above, the spread is too small.",
    ),
    "shown": (
        "What appears first?",
        "Share of the final image that the answer has, by band, along the trajectory (from left, the start, to right).",
    ),
    "gaussian": ("How much is Gaussian?", "Share of the state that the solution for Gaussian data explains."),
    "moved": (
        "What does an early change do?",
        "How far the end moves, in units of its contrast, for a change by one standard deviation of the noise at t "
        "(measured with a tenth of it).",
    ),
}


def _plots(record: Record) -> list[dict[str, Any]]:
    times, path = record["times"], record["trajectory"]
    shown: dict[str, Callable[[Axes], None]] = {
        "jacobian": partial(_jacobian, times),
        "rank": partial(_rank, times),
        "fp": partial(_fokker_planck, times),
    }
    if record["measured"]:
        shown["stein"] = partial(_stein, record)
        shown["error"] = partial(_error, record, "over_wiener")
        shown["stated"] = partial(_error, record, "over_stated")
    shown |= {"shown": partial(_shown, record), "gaussian": partial(_gaussian, path), "moved": partial(_moved, path)}
    more = {"gaussian": f" {100 * path['plane']['mean']:.2f} % of the trajectory lies in a plane."}
    return [
        {"title": CAPTIONS[name][0], "caption": CAPTIONS[name][1] + more.get(name, ""), "svg": plot(name, *SIZE, draw)}
        for name, draw in shown.items()
    ]


def _curve(axes: Axes, x: Sequence[float], cells: Sequence[Record], color: str, label: str = "", **more: Any) -> None:
    """A mean with its deviation between patients."""
    mean = np.array([c["mean"] for c in cells], dtype=float)
    sd = np.array([c["sd"] or 0.0 for c in cells], dtype=float)
    axes.errorbar(x, mean, sd, color=color, label=label, marker="o", markersize=3, capsize=2, linewidth=1.2, **more)


def _over_t(axes: Axes, label: str) -> None:
    axes.set(xlabel="t (0 clean, 1 end of the process)", ylabel=label, xlim=(0, 1))


def _t(times: Sequence[Record]) -> list[float]:
    return [row["t"] for row in times]


def _jacobian(times: Sequence[Record], axes: Axes) -> None:
    _curve(axes, _t(times), [r["asymmetry"] for r in times], SERIES[0], "of all")
    rest = [r["asymmetry_of_rest"] for r in times]
    if all(np.isfinite(r["mean"]) for r in rest):
        _curve(axes, _t(times), rest, SERIES[1], "of the rest")
    _over_t(axes, "asymmetry")
    axes.set_ylim(bottom=0)
    legend(axes)


def _rank(times: Sequence[Record], axes: Axes) -> None:
    _curve(axes, _t(times), [r["trace"] for r in times], SERIES[0], "trace")
    _curve(axes, _t(times), [r["stable_rank"] for r in times], SERIES[1], "stable rank")
    if "local_dimension" in times[0]:
        _curve(axes, _t(times), [r["local_dimension"] for r in times], SERIES[2], "local dimension")
    axes.plot(_t(times), [r["trace_gaussian"] for r in times], **DASHED)
    _over_t(axes, "directions")
    axes.set_ylim(bottom=0)
    legend(axes)


def _fokker_planck(times: Sequence[Record], axes: Axes) -> None:
    _curve(axes, _t(times), [r["fokker_planck"] for r in times], SERIES[0])
    _over_t(axes, "residual")
    axes.set_ylim(bottom=0)


def _bands(record: Record) -> list[str]:
    return [f"{a:.1f}–{b:.1f}" for a, b in record["bands"]]


def _stein(record: Record, axes: Axes) -> None:
    times = record["times"]
    for b, name in enumerate(_bands(record)):
        _curve(axes, _t(times), [r["stein"][b] for r in times], SERIES[b % len(SERIES)], name)
    axes.axhline(1, **DASHED)
    _over_t(axes, "−E S·P(z − c)/d")
    axes.set_ylim(0, 2)
    legend(axes)


def _error(record: Record, which: str, axes: Axes) -> None:
    times = record["times"]
    for b, name in enumerate(_bands(record)):
        _curve(axes, _t(times), [r["error"][b][which] for r in times], SERIES[b % len(SERIES)], name)
    axes.axhline(1, **DASHED)
    _over_t(axes, "ratio")
    axes.set_ylim(bottom=0)
    legend(axes)


def _shown(record: Record, axes: Axes) -> None:
    path = record["trajectory"]
    x = np.arange(len(path["shown"][0]))
    for b, name in enumerate(_bands(record)):
        axes.plot(x, [c["mean"] for c in path["shown"][b]], color=SERIES[b % len(SERIES)], label=name)
    axes.set(xlabel="call", ylabel="share of the final image")
    axes.set_ylim(bottom=max(-0.5, axes.get_ylim()[0]), top=1.02)
    legend(axes)


def _gaussian(path: Record, axes: Axes) -> None:
    mean = np.array([c["mean"] for c in path["gaussian"]])
    sd = np.array([c["sd"] or 0.0 for c in path["gaussian"]])
    axes.fill_between(path["times"], mean - sd, mean + sd, color=SERIES[0], alpha=0.25, linewidth=0)
    axes.plot(path["times"], mean, color=SERIES[0])
    axes.invert_xaxis()
    axes.set(xlabel="t, from the start of the trajectory", ylabel="share explained")


def _moved(path: Record, axes: Axes) -> None:
    _curve(axes, path["moved_at"], path["moved"], SERIES[0])
    _over_t(axes, "change of the end")
    axes.invert_xaxis()
    axes.set_ylim(bottom=0)


# ---- pictures --------------------------------------------------------------------------------------------------------


def _panels(record: Record, pictures: np.ndarray) -> list[Panel]:
    center, width = display_window(pictures[-1], record["unit"])[0]
    limits = (center - width / 2, center + width / 2)
    names = ("first answer", "after a quarter", "halfway", "after three quarters", "last answer")
    return [panel(n, p, limits) for n, p in zip(names, pictures, strict=True)]
