"""One network for every process: only the process and its sampler differ.

    python benchmarks/processes.py OUT [--members 4] [--processes vp edm ...] [--device cpu]
    python benchmarks/processes.py OUT --images natural --model runs/natural/natural
    python benchmarks/processes.py OUT --show                       (the tables of what is there)
    python benchmarks/processes.py --docs                           (those of benchmarks/results, into the documents)

Every process of PROCESSES that is diagonal in the Fourier basis restores crops that a clock-conditional network has
never seen, as `retrodict restore --process` does: E[x_0 | x_t, y] of such a process depends on state and measurement
only through one fused observation, which the network answers. `measured` ends at the measurement (terminal); every
other starts from noise, and the measurement is fused to the state at every call; one that is pulled to a condition
image is pulled to the measurement.

Images: `ct`, validation patients at 1 mm and the shipped network "ct"; `natural`, the photographs that
`benchmarks/natural.py` holds out and the network of `configs/natural.yaml`. Three tasks, in model units (200 HU, 60
gray values): `low-dose`, a sharp kernel under colored noise of 0.3 (60 HU, 18 gray values); `deblur`, a wide blur under
0.02; `super4`, an MTF that is 5 % at a quarter of Nyquist under white noise of 0.01.

A crop is measured on its own grid and wraps, so that the process is the same for all. For every task, process, rule
and number of calls, as mean +- SD between patients (crops of photographs): error of the mean of infinitely many members
over that of the Wiener filter (bias^2, less the share of the members drawn), that of a single member, and SSR^2, the
first over the variance of the members (1 is a posterior sampler). OUT/processes-IMAGES.json outlives a kill; another
setup is refused.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from equal_budget import instrument
from new_patients import AROUND
from patient_slices import body_corner, there
from retrodict._check import InputError
from retrodict._random import key, member_seeds
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.metrics import decompose
from retrodict.models.model import Intensity, Model, open_model
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import measured
from retrodict.processes.process import Process
from retrodict.processes.recipes import external
from retrodict.samplers import RULES
from retrodict.tasks.processes import options_of
from scanners import SCANNERS, Scanner
from tables import replace_block
from two_processes import members
from unseen import Case, Results, cases, mean_sd, shown

SIDE, SPACING = 96, 1.0
UNIT = 200.0
"""HU of a model unit, in which the tasks are written down."""
INSTRUMENTS: dict[str, Scanner] = {"low-dose": SCANNERS["sharp-60"], "deblur": Scanner(4, 0.5, 0.0, 1.2)}
TASKS = (*INSTRUMENTS, "super4")
IMAGES = ("ct", "natural")
RULED = ("matched", "sde_dpmpp2m", "dpmpp2m")
CALLS = (8,)
HELD_OUT = ("astronaut", "camera")
REFUSED: dict[str, str] = {}
"""Processes that this network cannot serve, and why; filled by `served`."""
RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "experiment-processes.md"


def ending(task: str, basis: Fourier) -> Process:
    """The process that ends at what a task measures."""
    if task in INSTRUMENTS:
        return instrument(INSTRUMENTS[task], basis, UNIT)
    spacing = basis.spacing[0]
    f = torch.linspace(0, 0.75 / spacing, 301, dtype=torch.float64)
    mtf = torch.exp(math.log(0.05) * (f / (0.125 / spacing)) ** 2).clamp_min(1e-3)
    nps = torch.full_like(f, 2.0**2 * spacing**2)
    curves = Curve.isotropic(f, mtf.tolist(), "1"), Curve.isotropic(f, nps.tolist(), "HU^2 mm^2")
    return measured(basis, *curves, unit_scale=UNIT)


def photographs(folder: Path, each: int = 4) -> list[Case]:
    """Crops of the photographs that are held out, evenly along the diagonal, with what lies around them."""
    out = []
    for name in HELD_OUT:
        with Image.open(folder / f"{name}.png") as image:
            values = torch.from_numpy(np.asarray(image, dtype=np.float32).copy())[None, None]
        side = SIDE + 2 * AROUND
        for k in range(each):
            top, left = (round((n - side) * k / (each - 1)) for n in values.shape[2:])
            out.append(Case(len(out) + 1, f"{name} {k + 1}", values[..., top : top + side, left : left + side], 1.0))
    return out


def bound(name: str, end: Process) -> Process:
    """Process `name` restoring what `end` measures."""
    return end if name == "measured" else external(PROCESSES[name](end.basis), end)


def served(net: NetDenoiser, names: Sequence[str]) -> list[str]:
    """Those of the processes that are diagonal in the Fourier basis and whose law the network can be told."""
    end = instrument(SCANNERS["sharp-60"], Fourier((32, 32), (SPACING,) * 2), 1.0)
    out = []
    for name in names:
        try:
            if "mtf" not in options_of(name) and PROCESSES[name](end.basis).pairing.starts:
                raise InputError(name, "the instrument of a paper", "that of the benchmark, as 'measured' has it")
            _ = net.on((32, 32)).at(bound(name, end)).process.law
            out.append(name)
        except InputError as error:
            REFUSED[name] = str(error)
    return out


def possible(name: str, rule: str) -> bool:
    """A deterministic rule from the measurement itself has no spread."""
    return not (name == "measured" and RULES[rule].deterministic)


def _row(net: NetDenoiser, case: Case, task: str, intensity: Intensity, name: str, rule: str, calls: int,
         count: int) -> dict[str, Any]:  # fmt: skip
    """Figures of one patient."""
    top, left = body_corner(case.truth, SIDE)  # of a crop of that size, its own
    truth = intensity.encode(case.truth[..., top : top + SIDE, left : left + SIDE])
    end = ending(task, Fourier((SIDE, SIDE), (case.spacing,) * 2))
    y = end.pairing.simulate(truth, end.basis, torch.tensor([key(0, "processes", case.number)]))
    assert end.measurement is not None
    filtered = GaussianDenoiser(end, spectrum=net.spectrum).observe(end.basis.forward(y), end.measurement).mean
    wiener = float((filtered - truth).double().square().mean())
    device = net.process.basis.device
    started = time.process_time()
    x = members(net.at(bound(name, end).to(device)), y.to(device), rule, calls, member_seeds(0, case.number, count))
    parts = decompose(x, truth[0])
    spread = parts.variance_corrected
    return {
        "patient": case.patient,
        "error": parts.bias2_corrected / wiener,
        "single": parts.mse / wiener,
        "ssr2": parts.bias2_corrected / spread if spread > 1e-9 else None,
        "rms": max(parts.bias2_corrected, 0.0) ** 0.5 * intensity.scale,
        "wiener_rms": wiener**0.5 * intensity.scale,
        "calls": calls,
        "seconds": time.process_time() - started,
    }


def measure(net: NetDenoiser, intensity: Intensity, found: Sequence[Case], names: Sequence[str], results: Results,
            count: int, calls: Sequence[int]) -> None:  # fmt: skip
    """Rows that are not there yet, fewest calls first; a pair that is not defined is a row that says why."""
    for n in calls:
        for place in TASKS:
            for name in names:
                for rule in (r for r in RULED if possible(name, r)):
                    results.row(
                        f"{place} | {name} | {rule} | {n}",
                        lambda s=place, p=name, r=rule, n=n: _rows(net, found, s, intensity, p, r, n, count),
                    )
                print(f"  {place}, {name}: {n} calls", flush=True)


def _rows(net: NetDenoiser, found: Sequence[Case], *settings: Any) -> list[dict[str, Any]]:
    try:
        return [_row(net, case, *settings) for case in found]
    except InputError as error:
        return [{"undefined": str(error)}]


def tables(rows: dict[str, Any], calls: Sequence[int]) -> list[Table]:
    """One for every instrument: error and single error over Wiener, and SSR^2, by process, rule and calls."""
    out = []
    for place in TASKS:
        table = Table(title=f"{place}: error of the mean / of one member over Wiener, and SSR²; mean±SD over patients")
        table.add_column("process, rule", no_wrap=True)
        for n in calls:
            table.add_column(f"{n} calls", justify="right")
        keys = dict.fromkeys(tuple(k.split(" | ")[1:3]) for k in rows if k.startswith(f"{place} |"))
        for name, rule in keys:
            table.add_row(f"{name}, {rule}", *(_cell(rows.get(f"{place} | {name} | {rule} | {n}")) for n in calls))
        out.append(table)
    return out


def _cell(found: list[dict[str, Any]] | None) -> str:
    if not found:
        return ""
    if "undefined" in found[0]:
        return "not defined"
    ssr2 = [r["ssr2"] for r in found]
    spread = "no spread" if None in ssr2 else shown(ssr2)
    return f"{shown([r['error'] for r in found])} / {shown([r['single'] for r in found])}, {spread}"


def pages(records: dict[str, dict[str, Any]], calls: int = 8) -> str:
    """The table of the documents: error of the mean over Wiener and SSR^2 of the two rules that draw."""
    out = []
    for images, record in records.items():
        rows = record["rows"]
        count = next(len(found) for found in rows.values() if "undefined" not in found[0])
        what = f"{count} validation patients" if images == "ct" else f"{count} crops of two photographs"
        out.append(f"**{images}**, {what}, {calls} calls, {record['setup']['members']} members, mean±SD:\n")
        header = [f"{task}, {rule}" for task in TASKS for rule in RULED[:2]]
        out += ["| process | " + " | ".join(header) + " |", "|---" * (1 + len(header)) + "|"]
        for name in dict.fromkeys(k.split(" | ")[1] for k in rows):
            cells = [_short(rows.get(f"{t} | {name} | {r} | {calls}")) for t in TASKS for r in RULED[:2]]
            out.append(f"| {name} | " + " | ".join(cells) + " |")
        out += ["", _against(rows, calls)]
        left = ", ".join(f"`{name}`" for name in record["refused"])
        out += [f"Left out, because this network cannot be told their law: {left}.\n"] if left else []
    return "\n".join(out)


def _short(found: list[dict[str, Any]] | None) -> str:
    if not found or "undefined" in found[0]:
        return "not defined" if found else ""
    ssr2 = [r["ssr2"] for r in found if r["ssr2"] is not None]
    return f"{shown([r['error'] for r in found])}, {shown(ssr2) if ssr2 else 'no spread'}"


def _against(rows: dict[str, Any], calls: int) -> str:
    """How far processes and how far rules are apart, paired by patient."""
    names = list(dict.fromkeys(k.split(" | ")[1] for k in rows))
    lines = []
    for task in TASKS:
        base = {r["patient"]: r["error"] for r in rows[f"{task} | measured | matched | {calls}"]}
        apart = {}
        for name in names:
            found = rows.get(f"{task} | {name} | matched | {calls}")
            if found and "undefined" not in found[0] and name != "measured":
                apart[name] = mean_sd([100 * (r["error"] / base[r["patient"]] - 1) for r in found])[0]
        low, high = min(apart, key=lambda n: apart[n]), max(apart, key=lambda n: apart[n])
        lines.append(f"- {task}: under `matched` the error of the mean lies between {apart[low]:+.1f} % (`{low}`) and "
                     f"{apart[high]:+.1f} % (`{high}`) of that of `measured`.")  # fmt: skip
    return "\n".join([*lines, ""])


def model_of(a: argparse.Namespace) -> Model:
    """The shipped model, or that of --model."""
    if a.model is None and a.images != "ct":
        raise SystemExit("--model: that of `retrodict fit configs/natural.yaml`; see benchmarks/natural.py")
    return open_model(a.model or "ct")


def found_cases(a: argparse.Namespace) -> list[Case]:
    """What is restored."""
    if a.images == "natural":
        return photographs(a.photographs)
    if not there():
        raise SystemExit("the patients of the benchmarks are not there: see docs/figures.md")
    return cases(SPACING, a.patients)


def main() -> None:
    """Measure what is not there yet, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--images", choices=IMAGES, default="ct")
    parser.add_argument("--model", help="of --images natural")
    parser.add_argument("--photographs", type=Path, default=Path("runs/natural"), help="folder of natural.py")
    parser.add_argument("--patients", type=int, default=7)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS))
    parser.add_argument("--processes", nargs="+", default=list(PROCESSES), metavar="NAME")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--show", action="store_true", help="print the tables of what is there")
    parser.add_argument("--docs", action="store_true", help="write the tables of OUT into the documents")
    a = parser.parse_args()
    if a.docs:
        found = {n: path for n in IMAGES if (path := a.out / f"processes-{n}.json").exists()}
        replace_block(PAGE, "processes", pages({n: json.loads(path.read_text()) for n, path in found.items()}))
        return
    a.out.mkdir(parents=True, exist_ok=True)
    setup = {"images": a.images, "patients": a.patients, "members": a.members, "side": SIDE, "spacing": SPACING,
             "instruments": {k: list(v) for k, v in INSTRUMENTS.items()}}  # fmt: skip
    results = Results(a.out / f"processes-{a.images}.json", setup)
    if not a.show:
        model = model_of(a)
        net = model.denoiser.to(a.device)
        names = served(net, a.processes)
        for name, why in REFUSED.items():
            print(f"  left out {name}: {why}")
        measure(net, model.intensity, found_cases(a), names, results, a.members, a.calls)
        results.save(refused=REFUSED)
    console = Console(width=150)
    for table in tables(results.rows, a.calls):
        console.print(table)


if __name__ == "__main__":
    main()
