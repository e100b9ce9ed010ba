"""Write into the record of the shipped model how its deviation compares with its error on patients it has not seen.

    python scripts/spread_on_patients.py

From benchmarks/results/new_patients.json (`restore`: one call, every instrument and spacing, SSR^2 averaged within a
patient) and benchmarks/results/inverse-real.json (`reconstruct --posterior`: low dose and sparse views).  SSR^2 is
squared error over stated variance.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "src" / "retrodict" / "assets" / "ct.json"
RESULTS = ROOT / "benchmarks" / "results"


def of_patients(rows: list[tuple[str, float]], of: str) -> dict[str, object]:
    """Mean and deviation between patients of values, each patient once."""
    each: dict[str, list[float]] = {}
    for patient, value in rows:
        each.setdefault(patient, []).append(value)
    means = [statistics.fmean(v) for v in each.values()]
    return {"ssr2": [statistics.fmean(means), statistics.stdev(means)], "patients": len(means), "of": of}


def main() -> None:
    restored = json.loads((RESULTS / "new_patients.json").read_text())["rows"]
    drawn = json.loads((RESULTS / "inverse-real.json").read_text())["rows"]
    scans = [r for r in drawn if r["method"] == "matched" and r["case"] in ("low dose", "sparse")]
    record = json.loads(RECORD.read_text())
    record["card"]["spread_on_patients"] = {
        "restore": of_patients(
            [(r["patient"], r["ssr2"]) for rows in restored.values() for r in rows],
            "five instruments at three pixel sizes, 128 x 128 pixels",
        ),
        "reconstruct": of_patients(
            [(r["patient"], 1 / r["ssr2"]) for r in scans], "simulated low dose and sparse views, 64 x 64 pixels"
        ),
    }
    indent = 1 if RECORD.read_text().startswith('{\n "') else None
    RECORD.write_text(json.dumps(record, indent=indent) + ("\n" if RECORD.read_text().endswith("\n") else ""))


if __name__ == "__main__":
    main()
