"""Table and picture of the Levy benchmark from its record: `python benchmarks/levy.py --write`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from retrodict.report.measurement import PALETTE, finish, style
from tables import replace_block

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "experiment-levy.md"
SHORT = {
    "Gauss(0.25)": "Gauss",
    "Laplace(1)": "Laplace",
    "Bernoulli-Laplace(0.1, 1)": "Bernoulli-Laplace",
    "Student(3)": "Student(3)",
    "Student(2)": "Student(2)",
    "Student(1)": "Student(1)",
}
PROBLEMS = ("denoising", "deconvolution", "imputation", "Fourier")
COVER, GAP, LEVEL = 0.02, 0.2, 0.9
MARKS = {
    "carried": "o", "propagated": "s", "matched": "^", "DiffPIR": "x", "MMPS": "+", "DPnP": "1", "C-DPS": "2",
    "exact": "D",
}  # fmt: skip


def met(f: dict[str, Any]) -> bool:
    """Whether a cell has both figures: coverage within 2 points of 0.9, and a gap of at most 0.2 dB."""
    return abs(f["cover"] - LEVEL) <= COVER and f["gap"] <= GAP


def _cell(f: dict[str, Any] | None) -> str:
    if f is None:
        return ""
    if "refused" in f:
        return "-"
    text = f"{f['cover']:.3f} / {min(f['gap'], 99.0):.2f}"
    return f"**{text}**" if met(f) else text


def table(record: dict[str, Any]) -> str:
    """Coverage / gap of every method, problem and law; bold where both figures are met."""
    lines = ["| problem | method | " + " | ".join(SHORT.values()) + " |", "|---|---|" + "---|" * len(SHORT)]
    for problem in PROBLEMS:
        laws = record.get(problem, {})
        for label in MARKS:
            cells = [_cell(laws.get(law, {}).get(label)) for law in SHORT]
            if any(cells):
                name = f"`{label}`" if label in ("carried", "propagated", "matched") else label
                name = "exact members" if label == "exact" else name
                lines.append(f"| {problem} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def counts(record: dict[str, Any]) -> str:
    """How many cells meet both figures, by method, and the pooled coverage of "carried" where the gap is met."""
    lines = []
    for label in ("carried", "matched", "propagated", "DiffPIR", "MMPS", "DPnP", "C-DPS"):
        found = [
            laws[label] for problem in record.values() for laws in problem.values() if "cover" in laws.get(label, {})
        ]
        if found:
            within = sum(abs(f["cover"] - LEVEL) <= COVER for f in found)
            near = sum(f["gap"] <= GAP for f in found)
            both = sum(met(f) for f in found)
            name = f"`{label}`" if label in ("carried", "propagated", "matched") else label
            lines.append(f"| {name} | {len(found)} | {within} | {near} | {both} |")
    head = [
        "| method | cells run | coverage within 2 points | gap at most 0.2 dB | both |",
        "|---|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *lines])


def picture(record: dict[str, Any]) -> bytes:
    """Coverage over gap, a mark for every cell; the box is what an entry has to meet."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    axes = figure.subplots(1, 1)
    axes.fill_between([0.01, GAP], LEVEL - COVER, LEVEL + COVER, color="#dfe9df", linewidth=0)
    axes.axhline(LEVEL, color="#5d6b78", linewidth=0.8)
    for k, (label, mark) in enumerate(MARKS.items()):
        found = [
            laws[label] for problem in record.values() for laws in problem.values() if "cover" in laws.get(label, {})
        ]
        if found:
            axes.scatter(
                [min(max(f["gap"], 0.01), 60.0) for f in found], [f["cover"] for f in found], marker=mark,
                s=34, label="exact members" if label == "exact" else label, color=PALETTE[k % len(PALETTE)], zorder=3,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(0.01, 70)
    axes.set_xticks([0.01, 0.1, 0.2, 1, 10, 60], ["0.01", "0.1", "0.2", "1", "10", "60"])
    axes.minorticks_off()
    style(
        axes,
        "20 calls, exact denoisers: a mark for every law and problem",
        "gap to the posterior mean, dB",
        "share of the posterior in the 0.9 region",
    )
    figure.legend(loc="outside lower center", ncols=8, frameon=False, fontsize=8.5)
    return finish(figure)


def write(record: dict[str, Any]) -> None:
    """Put tables and picture into the documents."""
    (ROOT / "docs" / "images" / "levy.png").write_bytes(picture(record))
    replace_block(PAGE, "levy", table(record))
    replace_block(PAGE, "levy-counts", counts(record))
