"""The tables of `own_networks.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from own_networks import CALLS, PAIR, RULED, TASKS, TIMES, Job
from processes import _cell
from unseen import mean_sd, shown

Rows = dict[str, Any]


def read(out: Path, jobs: Sequence[Job]) -> dict[str, Rows]:
    """The rows of every job that has any, by its name."""
    paths = {job.name: out / job.folder / "figures.json" for job in jobs}
    return {name: json.loads(path.read_text())["rows"] for name, path in paths.items() if path.exists()}


def process_table(found: dict[str, Rows], task: str) -> Table | None:
    """Error and single error over Wiener, and SSR^2, by process, rule and calls."""
    names = [name.split("|")[2] for name in found if name.startswith(f"process|{task}|")]
    if not names:
        return None
    table = Table(title=f"{task}, a network for each: error of the mean / of one member over Wiener, SSR²; mean±SD")
    table.add_column("process, rule", no_wrap=True)
    for n in CALLS:
        table.add_column(f"{n} calls", justify="right")
    for name in names:
        rows = found[f"process|{task}|{name}"]
        for rule in RULED:
            table.add_row(f"{name}, {rule}", *(_cell(rows.get(f"{rule} | {n}")) for n in CALLS))
    return table


def over_times(rows: Rows) -> dict[str, float]:
    """Error of one call over Wiener of every patient, the mean over the times."""
    parts: dict[str, list[float]] = {}
    for t in TIMES:
        for row in rows.get(f"time | {t:.2f}", []):
            parts.setdefault(row["patient"], []).append(row["error"])
    return {patient: sum(values) / len(values) for patient, values in parts.items()}


def by_patient(rows: Rows, name: str) -> dict[str, float]:
    """Error of the mean over Wiener of every patient."""
    return {r["patient"]: r["error"] for r in rows.get(name, []) if "undefined" not in r}


def excess(ours: dict[str, float], best: dict[str, float]) -> str:
    """Percent above another network, paired by patient: geometric mean ± SD."""
    ratios = [math.log(ours[p] / best[p]) for p in best if p in ours and ours[p] > 0 and best[p] > 0]
    if not ratios:
        return ""
    mean, sd = mean_sd(ratios)
    return f"{100 * math.expm1(mean):+.1f}±{100 * sd:.1f} %"


def capacity_table(found: dict[str, Rows]) -> Table | None:
    """Error by parameters: of one call, mean over times, and of the mean of members of 16 calls."""
    names = [n for n in found if n.startswith(("capacity|", "mixer|"))]
    if not names:
        return None
    table = Table(title="Capacity: error over Wiener, and what it is above the largest U-Net; mean±SD over patients")
    for column in ("process", "network", "parameters"):
        table.add_column(column)
    for column in ("one call, mean over t", "over the largest", "16 calls, matched", "over the largest"):
        table.add_column(column, justify="right")
    for process in PAIR:
        own = [n for n in names if n.split("|")[1] == process]
        most = max((n for n in own if n.startswith("capacity")), key=lambda n: int(n.split("|")[2]), default=None)
        for name in own:
            kind = "U-Net" if name.startswith("capacity") else "mixer"
            cells = [process, kind, f"{found[name].get('network', {}).get('parameters', 0) / 1e6:.2f} M"]
            for figures in (over_times, lambda rows: by_patient(rows, "matched | 16")):
                ours = figures(found[name])
                cells += [shown(list(ours.values())) if ours else ""]
                cells += ["" if most is None or most == name else excess(ours, figures(found[most]))]
            table.add_row(*cells, end_section=name == own[-1])
    return table


def show(out: Path, jobs: Sequence[Job]) -> None:
    """Print the tables of what is there."""
    found, console = read(out, jobs), Console(width=150)
    for table in (*(process_table(found, task) for task in TASKS), capacity_table(found)):
        if table is not None:
            console.print(table)
