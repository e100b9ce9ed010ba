"""Calibration without truth: a second scan against the posterior of the first, for the shipped model.

    python benchmarks/repeats.py [--data ../shared/data] [--patients 3] [--members 8] [--wrong] [--phantom]

Slices of validation patients, 128 x 128 at 1 mm, are measured twice by the instrument of the model; the first is
restored and the second compared with what is predicted of it.  The table has means over patients and the standard
deviation between them.  --wrong: the same patients with a second scan of 1.2 times the noise, with shared noise, and
moved by half a pixel.  --phantom: simulated FBP repeats of a low-contrast phantom (ct_sim_mita_lcd), whose pixel size
is not stated (1 mm is assumed): what the command says of an instrument that is not that of the model.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from retrodict import Image, InputError, Model, evaluate_repeats, open_model
from retrodict.bases import Fourier
from retrodict.processes.observation import noise_like
from retrodict.tasks.repeats import rows_of
from verdict import patients

RESULTS = Path(__file__).parent / "results" / "repeats.json"


def mean(values: list[float]) -> float:
    """Mean over patients."""
    return float(np.mean(values))


def stdev(values: list[float]) -> float:
    """Standard deviation between patients."""
    return float(np.std(values, ddof=1))


def measured(
    x: Tensor, model: Model, seed: int, *, noise: float = 1.0, shared: float = 0.0, moved: float = 0.0
) -> Image:
    """Slice `(1, H, W)` in HU as the instrument of the model measures it; `shared`: correlation with the noise of seed
    1; `moved`: pixels to the right.
    """
    x0 = model.intensity.encode(x[None].double())
    process = model.denoiser.process.on(tuple(x0.shape[2:]))
    basis, law = process.basis, process.measurement
    assert isinstance(basis, Fourier)
    assert law is not None

    def draw(k: int) -> Tensor:
        return basis.forward(noise_like(x0, torch.tensor([k], device="cpu"), "repeats", 0))

    z = draw(seed) if not shared else shared * draw(1) + math.sqrt(1 - shared**2) * draw(seed)
    u = basis.forward(x0)
    if moved:
        fx = basis.frequencies()[1] * basis.spacing[1]
        u = u * torch.exp(-2j * math.pi * fx * moved)
    y = basis.inverse(law.h * u + noise * law.s2.sqrt() * z)
    return Image(model.intensity.decode(y)[0].float(), "HU", (1.0, 1.0))


def run(scans: list[Image], model: Model, **options: Any) -> dict[str, Any]:
    """The record of a test, or what was refused."""
    started = time.perf_counter()
    try:
        record = evaluate_repeats(scans, model=model, **options).record
    except InputError as error:
        return {"refused": str(error), "seconds": time.perf_counter() - started}
    return {**record, "seconds_in_all": time.perf_counter() - started}


def table(records: list[dict[str, Any]]) -> tuple[Table, dict[str, Any]]:
    """Means over patients and scatter between them of every row, and the same as a record."""
    shown = Table(title=f"{len(records)} validation patients, mean ± standard deviation between them")
    for head in ("", "observed / predicted", "posterior's share", "spread", "in 90 %", "n"):
        shown.add_column(head, justify="left" if not head else "right", no_wrap=True)
    names = list(dict.fromkeys(n for r in records for n, _ in rows_of(r)))
    out: dict[str, Any] = {}
    for name in names:
        rows = [dict(rows_of(r))[name] for r in records if name in dict(rows_of(r))]
        figures: dict[str, Callable[[dict[str, Any]], float]] = {
            "ratio": lambda r: r["ratio"],
            "share": lambda r: r["share"],
            "spread": lambda r: r["spread"],
            "cover90": lambda r: r["coverage"].get("0.9", math.nan),
        }
        cells = {k: [of(r) for r in rows] for k, of in figures.items()}
        seen = mean([r["sees"] for r in rows]) < 1.5
        out[name] = {k: {"mean": mean(v), "sd": stdev(v) if len(v) > 1 else None} for k, v in cells.items()}
        words = [_cell(cells["ratio"], 3), f"{mean(cells['share']):.1%}", _cell(cells["spread"], 2) if seen else ""]
        cover = cells["cover90"]
        words += [
            "" if math.isnan(cover[0]) else f"{mean(cover):.1%}" + (f" ± {stdev(cover):.1%}" if len(cover) > 1 else "")
        ]
        shown.add_row(name, *words, str(len(rows)))
    return shown, out


def _cell(values: list[float], digits: int) -> str:
    scatter = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{scatter}"


def _plain(x: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    return None if isinstance(x, float) and not math.isfinite(x) else x


WRONG = {
    "second scan with 1.2 times the noise, not stated": {"noise": 1.2},
    "noise of the scans correlated by 0.3": {"shared": 0.3},
    "moved by half a pixel": {"moved": 0.5},
}


def phantom(data: Path, model: Model, console: Console) -> dict[str, Any]:
    """What the command says of repeats of another instrument, with the curves of the model."""
    stack = np.load(data / "ct_sim_mita_lcd" / "mita_lcd_fbp.npz", allow_pickle=False)
    found: dict[str, Any] = {}
    for dose in ("dose010", "dose055", "dose100"):
        values = [stack[f"{dose}_absent"][k][64:192, 64:192].astype(np.float32) for k in (0, 1)]
        scans = [Image(torch.from_numpy(v)[None], "HU", (1.0, 1.0)) for v in values]
        said = run(scans, model, samples=8)
        found[dose] = said.get("refused") or said["verdict"]["text"]
        console.print(f"[bold]{dose}[/]: {found[dose]}", soft_wrap=True)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--wrong", action="store_true")
    parser.add_argument("--phantom", action="store_true")
    args = parser.parse_args()
    console, model = Console(width=112), open_model("ct-simulated")
    every = patients(args.data)
    chosen = list(every)[:: max(1, len(every) // args.patients)][: args.patients]
    records, results = [], {"members": args.members, "patients": chosen}
    for k, name in enumerate(chosen):
        x = every[name][0]
        record = run([measured(x, model, 10 * k + s) for s in (1, 2)], model, samples=args.members, seed=k)
        said = record.get("refused") or record["verdict"]["text"]
        console.print(f"{name}: {said} ({record.get('seconds_in_all', record['seconds']):.0f} s)", soft_wrap=True)
        if "refused" not in record:
            records.append(record)
    shown, results["table"] = table(records)
    console.print(shown)
    if args.wrong:
        x = every[chosen[0]][0]
        results["wrong"] = {}
        for what, change in WRONG.items():
            record = run([measured(x, model, 1), measured(x, model, 2, **change)], model, samples=2)
            results["wrong"][what] = record.get("refused") or record["verdict"]["text"]
            console.print(f"[bold]{what}[/]: {results['wrong'][what]}", soft_wrap=True)
    if args.phantom:
        results["phantom"] = phantom(args.data, model, console)
    RESULTS.write_text(json.dumps(_plain(results), indent=1))


if __name__ == "__main__":
    main()
