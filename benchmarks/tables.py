"""Write the figures of the documents from benchmarks/results: docs/figures.md and the marked blocks elsewhere.

    python benchmarks/tables.py

A document holds a block between <!-- figures:begin --> and <!-- figures:end -->; everything between is replaced.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKS = ("<!-- figures:begin -->", "<!-- figures:end -->")


def load(name):
    """Content of a result file, or None."""
    path = RESULTS / name
    content = json.loads(path.read_text()) if path.exists() else None
    return content["records"] if isinstance(content, dict) else content


def table(header, rows):
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def missing(command):
    """What stands in for a table whose figures were not measured."""
    return f"Not measured here. Run `{command}`."


def ct(records, short=False):
    """Table of real CT."""
    if records is None:
        return missing("python benchmarks/ct.py")
    rows = []
    for r in records:
        cells = [r["method"], r["calls"] or "", f"{math.sqrt(r['mse_HU2']):.1f}", f"{r['error_over_wiener']:.3f}"]
        if "members" in r:
            cells += [f"{r['mean_over_wiener']:.3f}", f"{r['skill_over_spread']:.2f}"]
            cells += [f"{math.sqrt(r['skill_over_spread']):.2f}", f"{r['seconds_per_member']:.2f}", r["gaussian_gate"]]
        else:
            cells += [""] * 5
        if not short or (r["calls"] in (0, 1, 8, 32) and r["method"] in SHORT):
            rows.append(cells[:6] + cells[6:7] if short else cells)
    header = [
        "method",
        "calls",
        "error, HU rms",
        "error / Wiener",
        "mean / Wiener",
        "skill / spread",
        "SSR",
        "s per member",
        "card",
    ]
    return table(header[: 7 if short else None], rows)


SHORT = ("measured", "Wiener filter", "non-local means", "network, one call", "matched", "ancestral")


def card(records, setup):
    """Table of the Gaussian card of one setup."""
    if records is None:
        return missing("retrodict bench gaussian-card --json benchmarks/results/gaussian-card.json")
    rows = []
    for r in records:
        if r["setup"] != setup or r["steps"] is None or r["steps"] not in (1, 8, 32, 64, 200):
            continue
        numbers = [" ".join("-" if v is None else f"{v:.2f}" for v in r[k]) or "-" for k in ("gain", "variance")]
        rows.append([r["library"], r["process"], r["sampler"], r["steps"], r["nfe"] or "", *numbers, r["verdict"]])
    return table(["library", "process", "sampler", "steps", "NFE", "gain", "variance", "verdict"], rows)


def overhead(records):
    """Table of the overhead of the loop."""
    if records is None:
        return missing(".venv-peers/bin/python benchmarks/overhead.py")
    rows = []
    for r in records:
        pace = f"{r['ms_per_step']:.3f}" if "ms_per_step" in r else ""
        rows.append([r["size"], r.get("batch", ""), r["name"], pace, f"{r['ratio']:.2f}"])
    return table(["pixels a side", "batch", "what", "ms per step", "ratio to the first row of its size"], rows)


def imports(records):
    """Table of import times."""
    if records is None:
        return missing("python benchmarks/imports.py")
    return table(["what", "s beyond torch"], [[r["case"], f"{r['seconds_beyond_torch']:.2f}"] for r in records])


def page():
    """docs/figures.md."""
    peers, own = load("peers-gaussian-card.json"), load("gaussian-card.json")
    return f"""# Figures

Written by `python benchmarks/tables.py` from `benchmarks/results`; the command above each table makes its file.
Machines differ: compare within a table.

## Real CT, a patient that was not in training

`python benchmarks/ct.py` - two slices of 416 x 416 pixels of 1 mm, one noise draw each. The rows of equal budget need
the models of `retrodict fit configs/ct-fourier.yaml` and `retrodict fit configs/ct-scalar.yaml`.

{ct(load("ct.json"))}

error / Wiener: squared error of the ensemble mean over that of the Wiener filter. mean / Wiener: the same for the
posterior mean itself (the share spread / K that K members add is taken off). skill / spread: squared error of the
ensemble mean over (1 + 1/K) times the ensemble variance; 1 is calibrated, above 1 means too little spread; SSR is its
square root. card: whether `retrodict.gate` lets the rule report an uncertainty at this number of calls.

## Gaussian card, restoration (setup R)

`make bench-peers` - gain and variance over those of the exact posterior, five frequency bands from low to high.
Rows of other libraries are Monte Carlo with 256 samples and an exact denoiser; they are given the whitened problem.

{card(peers or own, "R")}

## Gaussian card, unconditional (setup U)

`make bench-peers` - four coefficients with variances 0.04, 0.25, 1, 4.

{card(peers or own, "U")}

## Gaussian card, every process and rule

`retrodict bench gaussian-card --json benchmarks/results/gaussian-card.json`

{card(own, "R")}

## Overhead of the sample loop

`.venv-peers/bin/python benchmarks/overhead.py` - batches of 1 and 8, one thread, medians, time inside the denoiser
taken off.

{overhead(load("overhead.json"))}

## Import time

`python benchmarks/imports.py`

{imports(load("imports.json"))}
"""


def replace_block(path, text):
    """Put `text` between the marks of a document that has them."""
    if not path.exists():
        return
    content = path.read_text()
    if MARKS[0] in content:
        head, rest = content.split(MARKS[0], 1)
        tail = rest.split(MARKS[1], 1)[1]
        path.write_text(f"{head}{MARKS[0]}\n{text}\n{MARKS[1]}{tail}")


def main():
    """Everything."""
    (ROOT / "docs" / "figures.md").write_text(page())
    for path in (ROOT / "README.md", ROOT / "src" / "retrodict" / "assets" / "MODEL_CARD.md"):
        replace_block(path, ct(load("ct.json"), short=True))
    print("docs/figures.md")


if __name__ == "__main__":
    main()
