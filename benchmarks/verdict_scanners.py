"""What the verdict of the shipped model of every instrument catches: `verdict.py` for scanners it was not trained on.

    python benchmarks/verdict_scanners.py [--data ../shared/data] [--patients 19] [--docs]

Every validation patient (the middle of one slice, 128 x 128 at 1 mm) is measured by scanners of `scanners.py`, as their
curves say and otherwise, and restored by one call with the curves that are said; judged before and after, as `retrodict
restore --instant` does.  The record that it is judged by is that of the model, which holds the same patients (other
instruments, other noise).  benchmarks/results/verdict_scanners.json, and a table in docs/concepts-calibration.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from patient_slices import DATA
from retrodict._output import write_file
from retrodict.data import Image
from retrodict.models.instrument import model_with_instrument
from retrodict.models.model import Model, open_model
from retrodict.models.range import at_spacing
from retrodict.samplers.ensemble import SamplingOptions
from retrodict.tasks.examine import judged
from scanners import SCANNERS, curves
from tables import replace_block
from tables import table as markdown
from verdict import half, measured, patients

OUT = Path(__file__).resolve().parent / "results" / "verdict_scanners.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "concepts-calibration.md"
NAMES = ("soft-12", "standard-30", "sharp-60")
INPUTS = {
    "as the curves say": lambda x, m, s: measured(x, m, s),
    **{f"noise x {k}": lambda x, m, s, k=k: measured(x, m, s, noise=k) for k in (0.7, 0.8, 0.9, 1.1, 1.2, 1.3, 1.5)},
    "white noise of the same variance": lambda x, m, s: measured(x, m, s, white=True),
    "noise x 0.8 in one half, x 1.2 in the other": half,
    "MTF 1 mm wider": lambda x, m, s: measured(x, m, s, wider=1.0),
}


def kind(values: Tensor, model: Model, seed: int) -> str:
    """Kind of the result: posterior or point."""
    image, y = Image(values, "HU", (1.0, 1.0), "npz", ()), model.intensity.encode(values[None])
    options = SamplingOptions(samples=2, instant=True, seed=seed)
    return judged(image, image, y, model, options, "image", model.intensity.decode)[1].kind


def rows(data: Path, most: int) -> list[dict[str, Any]]:
    """A row for each scanner and input: how many patients have a posterior."""
    model, found = at_spacing(open_model("ct"), (1.0, 1.0)), []
    people = {name: xs[0] for name, xs in list(patients(data).items())[:most]}
    for name in NAMES:
        bound = model_with_instrument(model, *curves(SCANNERS[name], 1.0))[0]
        for what, make in INPUTS.items():
            kinds = [kind(make(x, bound, 70_000 + k), bound, k) for k, x in enumerate(people.values())]
            row = {"scanner": name, "input": what, "patients": len(kinds), "posterior": kinds.count("posterior")}
            found.append(row)
            print(*row.values(), flush=True)
    return found


def text(content: list[dict[str, Any]]) -> str:
    """The table: posteriors of so many patients."""
    count = {(r["scanner"], r["input"]): f"{r['posterior']} of {r['patients']}" for r in content}
    body = [[what, *(count[name, what] for name in NAMES)] for what in INPUTS]
    return "A posterior is given for:\n\n" + markdown(["input", *NAMES], body)


def main() -> None:
    """Measure, or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--patients", type=int, default=99)
    parser.add_argument("--docs", action="store_true")
    args = parser.parse_args()
    if not args.docs:
        content = {"scanners": {n: s._asdict()
                                for n, s in SCANNERS.items() if n in NAMES},
                   "rows": rows(args.data, args.patients)}  # fmt: skip
        write_file(OUT, json.dumps(content, indent=1).encode())
    replace_block(PAGE, "verdict-scanners", text(json.loads(OUT.read_text())["rows"]))


if __name__ == "__main__":
    main()
