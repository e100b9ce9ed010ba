"""The tables of `own_networks.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from own_networks import CALLS, NAMES, PAIR, RULED, TASKS, TIMES, Job
from unseen import mean_sd, shown

Rows = dict[str, Any]
COLUMNS = (("error", "wiener"), ("single", "wiener"), ("error", "variance"))


def read(out: Path, jobs: Sequence[Job]) -> dict[str, Rows]:
    """The rows of every job that has any, by its name: of a folder of jobs, or of one file (`gathered`)."""
    if out.suffix == ".json":
        found = json.loads(out.read_text())["jobs"]
        return {job.name: found[job.name] for job in jobs if job.name in found}
    paths = {job.name: out / job.folder / "figures.json" for job in jobs}
    return {name: json.loads(path.read_text())["rows"] for name, path in paths.items() if path.exists()}


def gathered(out: Path, jobs: Sequence[Job]) -> dict[str, Any]:
    """What is measured in a folder of jobs, as one record."""
    first = next(path for job in jobs if (path := out / job.folder / "figures.json").exists())
    setup = {k: v for k, v in json.loads(first.read_text())["setup"].items() if k not in ("job", "network")}
    return {"setup": setup, "jobs": read(out, jobs)}


def ratios(rows: Sequence[dict[str, Any]] | None, above: str, below: str) -> dict[str, float]:
    """Sum over the crops of a patient of one figure over that of another, by patient; nothing where not defined."""
    sums: dict[str, list[float]] = {}
    for row in rows or []:
        if "undefined" in row:
            return {}
        part = sums.setdefault(row["patient"], [0.0, 0.0])
        part[0] += row[above]
        part[1] += row[below]
    return {patient: a / b for patient, (a, b) in sums.items() if b > 1e-6}


def cell(rows: Sequence[dict[str, Any]] | None) -> str:
    """Error of the mean and of one member over Wiener, and SSR^2."""
    if not rows:
        return ""
    if "undefined" in rows[0]:
        return "not defined"
    parts = [list(ratios(rows, *names).values()) for names in COLUMNS]
    if mean_sd(parts[0])[0] > 100:
        return "> 100"
    return f"{shown(parts[0])} / {shown(parts[1])}, {shown(parts[2]) if parts[2] else 'no spread'}"


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
        for rule in (r for r in RULED if any(f"{r} | {n}" in rows for n in CALLS)):
            table.add_row(f"{name}, {rule}", *(cell(rows.get(f"{rule} | {n}")) for n in CALLS))
    return table


def reasons(found: dict[str, Rows]) -> list[str]:
    """Why a rule is not defined for a process, each said once."""
    said = {}
    for name, rows in found.items():
        for key, row in rows.items():
            if isinstance(row, list) and row and "undefined" in row[0]:
                said[name.split("|")[-1], key.split(" | ")[0]] = row[0]["undefined"]
    return [f"{process}, {rule}: {why}" for (process, rule), why in said.items()]


def over_times(rows: Rows) -> dict[str, float]:
    """Error of one call over Wiener of every patient, the mean over the times."""
    parts: dict[str, list[float]] = {}
    for t in TIMES:
        for patient, value in ratios(rows.get(f"time | {t:.2f}"), "error", "wiener").items():
            parts.setdefault(patient, []).append(value)
    return {patient: sum(values) / len(values) for patient, values in parts.items()}


def excess(ours: dict[str, float], best: dict[str, float]) -> str:
    """Percent above another network, paired by patient: geometric mean ± SD."""
    ratios = [math.log(ours[p] / best[p]) for p in best if p in ours and ours[p] > 0 and best[p] > 0]
    if not ratios:
        return ""
    mean, sd = mean_sd(ratios)
    return f"{100 * math.expm1(mean):+.1f}±{100 * sd:.1f} %"


def capacity(found: dict[str, Rows]) -> list[list[str]]:
    """Rows of the table of U-Nets of several widths and of mixers; the last of a process ends a section."""
    names, out = [n for n in found if n.startswith(("capacity|", "mixer|"))], []
    for process in PAIR:
        own = [n for n in names if n.split("|")[1] == process]
        most = next((n for n in reversed(own) if n.startswith("capacity")), None)
        for name in own:
            kind = "U-Net" if name.startswith("capacity") else "mixer"
            cells = [process, kind, f"{found[name].get('network', {}).get('parameters', 0) / 1e6:.2f} M"]
            for figures in (over_times, lambda rows: ratios(rows.get("matched | 16"), "error", "wiener")):
                ours = figures(found[name])
                cells += [shown(list(ours.values())) if ours else ""]
                other = most if kind == "U-Net" else f"capacity|{process}|32"
                cells += ["" if other not in found or other == name else excess(ours, figures(found[other]))]
            out.append(cells)
    return out


def capacity_table(found: dict[str, Rows]) -> Table | None:
    """Error of one call over the times, and of the restored mean, by process and parameters."""
    rows = capacity(found)
    if not rows:
        return None
    table = Table(title="Capacity: error over Wiener; a U-Net against the largest, a mixer against that of its size")
    for column in ("process", "network", "parameters"):
        table.add_column(column)
    for column in ("one call, mean over t", "above", "16 calls, matched", "above"):
        table.add_column(column, justify="right")
    for row, after in zip(rows, [*rows[1:], [""]], strict=True):
        table.add_row(*row, end_section=row[0] != after[0])
    return table


# ---- for the documents -----------------------------------------------------------------------------------------------


def markdown(found: dict[str, Rows], calls: int = 8) -> str:
    """One row a process and one column a task, at one number of calls; and the capacity of networks."""
    names = list(dict.fromkeys(name.split("|")[2] for name in found if name.startswith("process|")))
    tasks = [t for t in TASKS if any(f"process|{t}|{name}" in found for name in names)]
    patients = {r["patient"] for rows in found.values() for r in rows.get(f"matched | {calls}", []) if "patient" in r}
    lines = [f"Error of the mean over Wiener, and SSR² ({calls} calls, {len(patients)} patients, mean±SD):", ""]
    lines += ["| process, rule | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for name in names:
        for rule in RULED:
            cells = [brief(found.get(f"process|{t}|{name}", {}).get(f"{rule} | {calls}")) for t in tasks]
            if any(cells):
                lines.append(f"| {name}, {rule} | " + " | ".join(cells) + " |")
    base = next(n for n in (NAMES[0], "vp", *names) if n in names)
    lines += [
        "",
        f"Error of the mean above that of `{base}`, paired by patient (`matched`, {calls} calls, mean±SD):",
        "",
    ]
    lines += ["| process | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for name in (n for n in names if n != base):
        lines.append(f"| {name} | " + " | ".join(above(found, t, name, base, calls) for t in tasks) + " |")
    if not capacity(found):
        return "\n".join(lines)
    lines += ["", "| process | network | parameters | one call | above | 16 calls, matched | above |", "|---" * 7 + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in capacity(found))])


def above(found: dict[str, Rows], task: str, name: str, base: str, calls: int) -> str:
    """Percent above another process; nothing where one of them was not done."""
    pair = [found.get(f"process|{task}|{n}", {}).get(f"matched | {calls}") for n in (name, base)]
    ours, theirs = (ratios(rows, "error", "wiener") for rows in pair)
    return excess(ours, theirs) if ours and theirs else ""


def brief(rows: Sequence[dict[str, Any]] | None) -> str:
    """Error over Wiener and SSR^2."""
    if not rows:
        return ""
    if "undefined" in rows[0]:
        return "not defined"
    error, ssr2 = (list(ratios(rows, "error", below).values()) for below in ("wiener", "variance"))
    return f"{shown(error)}, {shown(ssr2) if ssr2 and mean_sd(ssr2)[0] < 100 else 'next to no spread'}"


def show(out: Path, jobs: Sequence[Job]) -> None:
    """Print the tables of what is there."""
    found, console = read(out, jobs), Console(width=150)
    for table in (*(process_table(found, task) for task in TASKS), capacity_table(found)):
        if table is not None:
            console.print(table)
    for sentence in reasons(found):
        console.print(f"not defined: {sentence}", markup=False)
