"""The headline experiment: one network that is told the clock, against specialists of equal budget.

    python benchmarks/instruments.py OUT --steps 4000 [--scanners paper soft-12 ...] [--device cpu]
    python benchmarks/instruments.py OUT --scanners all --device cuda        (16 instruments)
    python benchmarks/instruments.py OUT --general CHECKPOINT --spectrum FILE --steps 4000
    python benchmarks/instruments.py OUT --start ct --steps 1000 --set training.learning_rate=5e-4

Trained, each in its folder of OUT and resumed where it was cut short: the network of every instrument (`general`, or
the given one), a specialist for every instrument, and one that knows only white noise (`white`).  Data, network,
steps, batch, optimizer and seeds are the same; only the law of the observations differs.  A specialist sees one
instrument at all pixel spacings, at its end in 40 % of the items and else anywhere along its ramp, as `ClockLaw` does.
It is told what the general network is told (`level: clock`): the noise level alone (`rms`), which today's models of
one instrument and one spacing get, is one of these features, and a specialist of many spacings needs the others.  None
of the measured instruments is in the law of the general network: their kernels are other functions.

A model that was trained for long has no specialists of its own budget.  With --start every network starts from the
weights of that model and goes on for --steps: `general` over the law of all instruments, which is the control, and each
specialist over its instrument alone.  A specialist then has had all that the general network has, and steps of its own
beside: what it gains is what a user gains who trains the model on for one instrument (`start_from` of `retrodict fit`).
The model itself, as it is, is measured beside them (`start`); white noise and processes are left out.

Measured on one crop of 128 x 128 pixels of every validation patient, at its own pixels and two coarser ones, by one
call.  The spread of every network is calibrated over its own law on the same validation patients, so SSR^2 of a network
on its own law is 1 in the mean by construction, and its scatter and what is off the law is what it tells.

Printed, as mean +- SD between patients (a patient's spacings averaged):

- error: squared error of the mean over that of the Wiener filter of the instrument, network x instrument;
- SSR^2: squared error over predicted variance (1 is right, above 1 the spread is too small);
- the price of generality: error of the general network over the specialist's, per instrument, paired by patient, and
  its mean over instruments; and over each specialist off its own instrument;
- the price of white-noise conditioning: the white network told only the noise std of a pixel, which takes the
  measurement for the image plus white noise (what a denoiser that is conditioned on sigma does), and told the clock;
- the Fourier-diffusion experiment with one network for all processes (`benchmarks/two_processes.py`), unless
  --no-processes.

OUT/instruments.json and OUT/processes.json hold every number; a row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import two_processes
from equal_budget import Budget, RampLaw, arguments, budget, instrument
from new_patients import GRIDS, SIDE
from patient_slices import DATA, there
from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import Intensity, open_model
from retrodict.nets import PRECISIONS, precision_for
from retrodict.processes.clocks import ClockLaw
from retrodict.processes.fourier import measured
from retrodict.processes.process import Process
from scanners import INSTRUMENTS, SCANNERS, Scanner
from unseen import Case, Results, by_patient, cases, mean_sd, measurement, one_call, shown

FOUR = [name for name in SCANNERS if name in INSTRUMENTS]
GENERAL, STD, CLOCK, START = "general", "white, told the std", "white, told the clock", "start"


# ---- measuring -------------------------------------------------------------------------------------------------------


def told_the_std(end: Process) -> Process:
    """What a denoiser conditioned on sigma takes a measurement for: the image and white noise of the same std."""
    basis = end.basis
    assert isinstance(basis, Fourier)
    assert end.measurement is not None
    weight = basis.multiplicity()
    variance = float((end.measurement.s2.expand(basis.shape) * weight).sum() / weight.sum())
    f = [0.0, 0.75 / basis.spacing[0]]
    flat = variance * math.prod(basis.spacing)  # model units, whatever the curve calls them: its scale is 1
    return measured(basis, Curve.isotropic(f, [1.0, 1.0], "1"), Curve.isotropic(f, [flat, flat], "HU^2 mm^2"))


Filtered = dict[tuple[Scanner, str, float], float]
"""Squared error of the Wiener filter by instrument, patient and spacing: that of every network of one spectrum."""


def figures(
    denoiser: NetDenoiser, told: Process, y: torch.Tensor, case: Case, filtered: float, scale: Intensity
) -> dict:
    """Of one crop: `told` is the process that the network believes; `filtered`: squared error of the Wiener filter."""
    found = one_call(denoiser.at(told.to(denoiser.process.basis.device)), y)
    squared = float((found.mean - scale.encode(case.truth)).double().square().mean())
    return {
        "patient": case.patient,
        "spacing": case.spacing,
        "error": squared / filtered,
        "ssr2": squared / float(found.variance.double().mean()),
        "rms_hu": math.sqrt(squared) * scale.scale,
    }


def measure(
    denoiser: NetDenoiser, scanner: Scanner, found: Sequence[Case], scale: Intensity, known: Filtered, *, blind: bool
) -> list:
    """Figures of one network on one instrument; `blind` is told only the noise std.  `known` is filled."""
    rows = []
    for case in found:
        end = instrument(scanner, Fourier((SIDE, SIDE), (case.spacing,) * 2), scale.scale)
        told, y = told_the_std(end) if blind else end, measurement(case, scanner, scale)
        name = scanner, case.patient, case.spacing
        if name not in known:
            mean = one_call(GaussianDenoiser(end, spectrum=denoiser.spectrum), y).mean
            known[name] = float((mean - scale.encode(case.truth)).double().square().mean())
        rows.append(figures(denoiser, told, y, case, known[name], scale))
    return rows


# ---- what the numbers say --------------------------------------------------------------------------------------------


def price(ours: dict[str, float], theirs: dict[str, float]) -> tuple[float, float]:
    """Percent by which the error of `ours` is above that of `theirs`, paired by patient: geometric mean and SD."""
    ratios = [math.log(ours[p] / theirs[p]) for p in theirs if p in ours]
    mean, sd = mean_sd(ratios)
    return 100 * math.expm1(mean), 100 * sd


def over(rows: dict[str, list], names: Sequence[str], ours: str, theirs: str) -> dict[str, tuple[float, float]]:
    """`price` of one network against another on every instrument."""
    errors = {key: by_patient(row, "error") for key, row in rows.items()}
    return {n: price(errors[f"{ours} | {n}"], errors[f"{theirs} | {n}"]) for n in names}


def prices(rows: dict[str, list], names: Sequence[str], ours: str = GENERAL) -> dict[str, Any]:
    """Price of `ours` against the specialists: on their own instruments, and off them."""
    errors = {name: by_patient(found, "error") for name, found in rows.items()}
    own = {n: price(errors[f"{ours} | {n}"], errors[f"{n} | {n}"]) for n in names}
    off = {}
    for special in names:
        others = [price(errors[f"{ours} | {n}"], errors[f"{special} | {n}"])[0] for n in names if n != special]
        if others:
            better, mean = sum(o < 0 for o in others), sum(others) / len(others)
            off[special] = {"mean": mean, "worst": max(others), "better": better, "of": len(others)}
    return {"own": own, "mean": sum(p for p, _ in own.values()) / len(own), "off": off}


def matrix(rows: dict[str, list], networks: Sequence[str], names: Sequence[str], figure: str, title: str) -> Table:
    """Network x instrument; a specialist on its own instrument is in bold."""
    table = Table(title=title)
    table.add_column("network")
    for name in names:
        table.add_column(name, justify="right")
    for network in networks:
        cells = [shown(list(by_patient(rows[f"{network} | {n}"], figure).values())) for n in names]
        cells = [f"[bold]{c}[/]" if n == network else c for c, n in zip(cells, names, strict=True)]
        table.add_row(network, *cells, end_section=network in (GENERAL, names[-1]))
    return table


def reading(found: dict[str, Any]) -> list[str]:
    """Sentences from the price of generality."""
    out = ["Error of the general network over the specialist's on its own instrument, same steps, paired by patient:"]
    out += [f"  {name:<16}{p:+6.1f} % ± {sd:.1f} between patients" for name, (p, sd) in found["own"].items()]
    out.append(f"  {'mean':<16}{found['mean']:+6.1f} %   (asked for: within 3 %)")
    if found["off"]:
        out.append("The general network over a specialist off that specialist's own instrument:")
        out += [
            f"  {name:<16}{o['mean']:+6.1f} % in the mean, {o['worst']:+.1f} % at worst; "
            f"better on {o['better']} of {o['of']}"
            for name, o in found["off"].items()
        ]
    return out


def white_reading(white: dict[str, tuple[float, float]], clock: dict[str, tuple[float, float]]) -> list[str]:
    """Sentences from the price of white-noise conditioning."""
    out = ["Conditioning on white noise: error over that of the general network, told the std | told the clock"]
    out += [
        f"  {n:<16}{p:+6.1f} % ± {sd:.1f} | {clock[n][0]:+.1f} % ± {clock[n][1]:.1f}" for n, (p, sd) in white.items()
    ]
    return out


# ---- the program -----------------------------------------------------------------------------------------------------


class Networks:
    """The networks by name, each trained or read when it is first asked for."""

    def __init__(self, shared: Budget, given: argparse.Namespace) -> None:
        self.shared, self.given, self._last = shared, given, ("", None)

    def __call__(self, name: str) -> NetDenoiser:
        if self._last[0] != name:
            self._last = (name, self._made(name))
        assert self._last[1] is not None
        return self._last[1]

    def _made(self, name: str) -> NetDenoiser:
        shared, scale = self.shared, self.shared.intensity.scale
        law = shared.config.clocks()
        if name in (STD, CLOCK):
            name, law = "white", ClockLaw(scale=scale, white=1.0, smooth=0.0, fused=0.0)
        elif name not in (GENERAL, START):
            law = RampLaw(INSTRUMENTS[name], scale)
        assert law is not None
        if name == START:
            denoiser = shared.started()
        elif name == GENERAL and self.given.general is not None:
            denoiser = shared.loaded(self.given.general)
        else:
            print(f"{name}: {shared.options.steps} steps", flush=True)
            denoiser = shared.trained(name, law)
        return shared.calibrated(name, denoiser, law)


def run(given: argparse.Namespace) -> None:
    """Train, measure and print."""
    shared = started(budget(given, DATA), given)
    names = list(INSTRUMENTS) if given.scanners == ["all"] else given.scanners
    setup = {
        "options": asdict(shared.options) | {"validate_every": 0, "checkpoint_every": 0, "log_every": 0},
        "network": shared.config.network.model_dump(),
        "data": shared.config.data.model_dump(mode="json", exclude={"root"}),
        "general": None if given.general is None else given.general.name,
        "grids": given.grids,
        "most": given.most,
        **({} if given.start is None else {"start": given.start, "precision": shared.precision}),
    }
    networks, found = Networks(shared, given), [c for grid in given.grids for c in cases(grid, given.most)]
    results = Results(given.out / "instruments.json", setup)
    known: Filtered = {}
    rows_of = [GENERAL, *names, STD, CLOCK] if given.start is None else [START, GENERAL, *names]
    for network in rows_of:
        for name in names:
            results.row(
                f"{network} | {name}",
                lambda network=network, name=name: measure(
                    networks(network), INSTRUMENTS[name], found, shared.intensity, known, blind=network == STD
                ),
            )
    rows, console = results.rows, Console(width=max(100, 24 + 13 * len(names)))
    count = len({c.patient for c in found})
    head = f"{count} validation patients, {len(given.grids)} spacings, {shared.options.steps} steps; mean±SD"
    console.print(matrix(rows, rows_of, names, "error", f"Squared error over Wiener; {head} between patients"))
    console.print(matrix(rows, rows_of, names, "ssr2", f"SSR², squared error over predicted variance; {head}"))
    told = prices(rows, names)
    print("\n".join(reading(told)), flush=True)
    if given.start is not None:
        results.save(price=told, price_of_start=prices(rows, names, START), going_on=over(rows, names, GENERAL, START))
        return
    white, clock = over(rows, names, STD, GENERAL), over(rows, names, CLOCK, GENERAL)
    print("\n".join(white_reading(white, clock)), flush=True)
    results.save(price=told, white_told_the_std=white, white_told_the_clock=clock)
    if given.processes:
        processes(networks, given, setup, shared.intensity)


def started(shared: Budget, given: argparse.Namespace) -> Budget:
    """With the model of --start, whose network and unit have to be those of the configuration."""
    if given.start is None:
        return shared
    model, config = open_model(given.start), shared.config
    wanted = {"network": config.network.model_dump(), "intensity": shared.intensity, "bands": 4, "level": "clock"}
    for name, value in wanted.items():
        if getattr(model.spec, name) != value:
            raise InputError(f"--start {given.start}: {name}", getattr(model.spec, name), f"{value}, as configured")
    return replace(shared, start=model, precision=precision_for(given.precision, given.device))


def processes(networks: Networks, given: argparse.Namespace, setup: dict[str, Any], scale: Intensity) -> None:
    """The second experiment, with the general network."""
    results = Results(given.out / "processes.json", setup | {"members": given.members, "instrument": given.instrument})
    found, scanner = cases(two_processes.SPACING, given.most), INSTRUMENTS[given.instrument]
    two_processes.measure(networks(GENERAL), found, scanner, scale, results, given.members, given.calls)
    print(f"{given.instrument}, {len(found)} patients, {given.members} members, 64 x 64 pixels of about 1 mm")
    Console(width=140).print(two_processes.table(results.rows, given.calls))


def main() -> None:
    """Flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--scanners", nargs="+", default=FOUR, choices=[*INSTRUMENTS, "all"], metavar="NAME",
                        help=f"instruments (default: {' '.join(FOUR)}), or all of {' '.join(INSTRUMENTS)}")  # fmt: skip
    parser.add_argument("--grids", nargs="+", type=float, default=list(GRIDS), help="pixel spacings in mm, 0: own")
    parser.add_argument("--start", metavar="MODEL", help="every network starts from the weights of this model (ct)")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of the training with --start")
    parser.add_argument("--no-processes", action="store_false", dest="processes", help="without the processes")
    parser.add_argument(
        "--instrument", default="paper", choices=list(INSTRUMENTS), metavar="NAME", help="of the processes"
    )
    parser.add_argument("--members", type=int, default=8, help="of the processes")
    parser.add_argument("--calls", type=int, nargs="+", default=list(two_processes.CALLS), help="of the processes")
    given = parser.parse_args()
    if not there():
        sys.exit(f"no patients in {DATA}: nothing to train on")
    if given.start is not None and given.general is not None:
        parser.error("--start: without --general, which goes on as the others do")
    if "all" in given.scanners and len(given.scanners) > 1:
        parser.error("--scanners: all, or names")
    run(given)


if __name__ == "__main__":
    main()
