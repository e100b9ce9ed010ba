"""One network for every process: only the process and its sampler differ.

    python benchmarks/processes.py OUT [--patients 9] [--members 8] [--processes vp edm ...] [--device cpu]
    python benchmarks/processes.py OUT --show                       (the tables of what is there)

Every process of PROCESSES that is diagonal in the Fourier basis restores crops of validation patients with the shipped
clock-conditional network "ct", as `retrodict restore --process` does: E[x_0 | x_t, y] of such a process depends on
state and measurement only through one fused observation, which the network answers. `measured` ends at the
measurement (terminal); every other starts from noise, and the measurement is fused to the state at every call; one
that is pulled to a condition image is pulled to the measurement. Two instruments: `low-dose`, a sharp kernel under
60 HU of colored noise, and `deblur`, a wide blur under 4 HU.

A crop is measured on its own grid and wraps, so that the process is the same for all. For every instrument, process,
rule and number of calls, as mean +- SD between patients: error of the mean of infinitely many members over that of the
Wiener filter (bias^2, less the share of the members drawn), that of a single member, and SSR^2, the first over
the variance of the members (1 is a posterior sampler). OUT/processes.json outlives a kill; another setup is refused.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from equal_budget import instrument
from patient_slices import body_corner, there
from retrodict._check import InputError
from retrodict._random import key, member_seeds
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.metrics import decompose
from retrodict.models.model import Intensity, open_model
from retrodict.processes import PROCESSES
from retrodict.processes.process import Process
from retrodict.processes.recipes import external
from retrodict.samplers import RULES
from retrodict.tasks.processes import options_of
from scanners import SCANNERS, Scanner
from two_processes import members
from unseen import Case, Results, cases, shown

SIDE, SPACING = 96, 1.0
INSTRUMENTS: dict[str, Scanner] = {"low-dose": SCANNERS["sharp-60"], "deblur": Scanner(4, 0.5, 0.0, 1.2)}
RULED = ("matched", "sde_dpmpp2m", "gaussian_ode", "dpmpp2m")
CALLS = (4, 8, 16)
REFUSED: dict[str, str] = {}
"""Processes that this network cannot serve, and why; filled by `served`."""


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


def _row(net: NetDenoiser, case: Case, scanner: Scanner, intensity: Intensity, name: str, rule: str, calls: int,
         count: int) -> dict[str, Any]:  # fmt: skip
    """Figures of one patient."""
    top, left = body_corner(case.truth, SIDE)
    truth = intensity.encode(case.truth[..., top : top + SIDE, left : left + SIDE])
    end = instrument(scanner, Fourier((SIDE, SIDE), (case.spacing,) * 2), intensity.scale)
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
        "rms_hu": max(parts.bias2_corrected, 0.0) ** 0.5 * intensity.scale,
        "wiener_rms_hu": wiener**0.5 * intensity.scale,
        "calls": calls,
        "seconds": time.process_time() - started,
    }


def measure(net: NetDenoiser, intensity: Intensity, found: Sequence[Case], names: Sequence[str], results: Results,
            count: int, calls: Sequence[int]) -> None:  # fmt: skip
    """Rows that are not there yet, fewest calls first; a pair that is not defined is a row that says why."""
    for n in calls:
        for place, scanner in INSTRUMENTS.items():
            for name in names:
                for rule in (r for r in RULED if possible(name, r)):
                    results.row(
                        f"{place} | {name} | {rule} | {n}",
                        lambda s=scanner, p=name, r=rule, n=n: _rows(net, found, s, intensity, p, r, n, count),
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
    for place in INSTRUMENTS:
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


def main() -> None:
    """Measure what is not there yet, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, default=9)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS))
    parser.add_argument("--processes", nargs="+", default=list(PROCESSES), metavar="NAME")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--show", action="store_true", help="print the tables of what is there")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    setup = {"patients": a.patients, "members": a.members, "side": SIDE, "spacing": SPACING,
             "instruments": {k: list(v) for k, v in INSTRUMENTS.items()}}  # fmt: skip
    results = Results(a.out / "processes.json", setup)
    if not a.show:
        if not there():
            raise SystemExit("the patients of the benchmarks are not there: see docs/figures.md")
        model = open_model("ct")
        net = model.denoiser.to(a.device)
        names = served(net, a.processes)
        results.save(refused=REFUSED)
        for name, why in REFUSED.items():
            print(f"  left out {name}: {why}")
        measure(net, model.intensity, cases(SPACING, a.patients), names, results, a.members, a.calls)
        results.save(refused=REFUSED)
    console = Console(width=150)
    for table in tables(results.rows, a.calls):
        console.print(table)


if __name__ == "__main__":
    main()
