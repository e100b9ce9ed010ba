"""Is the ensemble worth its calls?  Ours beside what else says how sure it is of a restored image.

    python benchmarks/worth.py OUT --steps 4000 [--scanners standard-30 paper] [--device cpu] [--members 8 --calls 8]
    python benchmarks/worth.py OUT --general CHECKPOINT --spectrum FILE --steps 4000     (a row of it more)

For every instrument, networks of one size are trained on the same patients, steps, batch and seeds (resumed where they
were cut short): ours, told the clock, along the whole ramp of the instrument; a quantile U-Net, a mean + variance U-Net
and an MC-dropout U-Net on its measurements (`benchmarks/rivals.py`).  Beside them the Wiener filter, non-local means
and, where it is installed and --bm3d says so, BM3D.

Measured on one crop of 128 x 128 pixels of every validation patient, at its own pixels.  The patients are cut in two
halves: whatever is calibrated (factors on the spread of ours, conformal factors, the strength of non-local means) is
calibrated on one half and measured on the other, and then the other way round.

"+ conformal": half widths times the factor with which 90 % of the pixels of the calibration patients, who count alike,
are inside.  That is right in the mean over many patients and promises nothing for a few.  With a promise, the
expected miscoverage of the next patient is at most 10 % whatever the law of the errors (conformal risk control,
Angelopoulos et al. 2022: (n R + 1)/(n + 1) <= 10 % for the miscoverage R of n patients), the factor is larger, with
nine patients that of their worst pixel: column `guaranteed`.

Printed for every instrument, as mean +- SD between patients:

1. per pixel: rms error (HU); coverage and mean length (HU) of 90 % intervals; that length with a promise; energy score
   (HU, least is best; of the whole image, over the root of its pixels; methods without members: pixels drawn
   independently); calls of the network; CPU seconds of image and deviation (members that cost no call left out);
2. means of discs of 2, 5, 10, 20 mm: coverage / length.  Where a method draws members, their law, which is scaled by
   the factor of the pixels; where it only has pixels, both bounds: errors independent, and fully correlated;
3. a reading, made from the numbers alone: who has the shortest valid interval (coverage 87-93 %) per pixel, who is
   valid for discs, whose error and energy are least, and what calls buy over one call.

OUT/worth.json holds the figures of every patient, and OUT/INSTRUMENT the networks and what they predicted.
`python benchmarks/worth.py OUT --docs` puts them into benchmarks/results and docs/experiment-worth.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from torch import Tensor

import rivals
from equal_budget import Budget, RampLaw, arguments, budget, instrument
from intervals import DRAWS, conformal_factor, figures, need
from new_patients import DISCS, SIDE
from patient_slices import DATA, there
from retrodict._check import read_json
from retrodict._output import write_file
from retrodict._random import key
from retrodict.bases import Fourier
from retrodict.denoisers.network import NetDenoiser
from rivals import HEADS, STRENGTHS, Measured, Prediction, kept
from scanners import INSTRUMENTS
from tables import replace_block, table
from unseen import Case, Results, cases, halves, mean_sd, measurement, shown

VALID = (0.87, 0.93)
KEPT = Path(__file__).parent / "results" / "worth.json"
PAGE = Path(__file__).parents[1] / "docs" / "experiment-worth.md"


class Row(NamedTuple):
    """A line of the tables: its name, the prediction it shows, and whether a conformal factor is put on it."""

    label: str
    method: str
    conformal: bool = False

    @property
    def title(self) -> str:
        return self.label + (" + conformal" if self.conformal else "")


ONE, MANY, ANY = "ours, one call", "ours, ensemble", "ours, every instrument, one call"
NAMES = {"wiener": "Wiener filter", "quantile": "quantile U-Net", "gaussian": "mean + variance U-Net",
         "dropout": "MC-dropout U-Net", "instant": ONE}  # fmt: skip


def lines(bm3d: bool, general: bool) -> list[Row]:
    """The lines in order."""
    rows = [Row("non-local means", "nlm", True), *([Row("BM3D", "bm3d", True)] if bm3d else [])]
    rows += [Row(label, method, conformal) for method, label in NAMES.items() for conformal in (False, True)]
    return [*rows, Row(MANY, "ensemble"), *([Row(ANY, "general")] if general else [])]


# ---- one instrument --------------------------------------------------------------------------------------------------


class Instrument:
    """Networks and predictions of one instrument; both are kept in its folder."""

    def __init__(self, name: str, shared: Budget, given: argparse.Namespace) -> None:
        self.name, self.shared, self.given, self.scanner = name, shared, given, INSTRUMENTS[name]
        self.folder = shared.out / name / "predictions"
        self.cases = cases(0.0, given.most)
        self.halves = halves([c.patient for c in self.cases])
        scale = shared.intensity.scale
        self.along, self.end = RampLaw(self.scanner, scale), RampLaw(self.scanner, scale, end=1.0)

    @cached_property
    def nets(self) -> dict[str, NetDenoiser]:
        """Trained, resumed, or as they are there."""
        made = {"ours": self.shared.trained(f"{self.name}/ours", self.along)}
        for kind, head in HEADS.items():
            wrap = rivals.Dropped if kind == "dropout" else None
            made[kind] = self.shared.trained(
                f"{self.name}/{kind}", self.end, objective=rivals.objective(head, self.end), bands=head.extra, wrap=wrap
            )  # type: ignore[arg-type]
        if self.given.general is not None:
            made["general"] = self.shared.loaded(self.given.general)
        sizes = {k: sum(p.numel() for p in net.net.parameters()) for k, net in made.items()}
        print(f"{self.name}: parameters " + ", ".join(f"{k} {n}" for k, n in sizes.items()), flush=True)
        return made

    @cached_property
    def calibrated(self) -> dict[tuple[str, str], NetDenoiser]:
        """Ours and the general one with factors of either half."""
        made = {}
        for tag, patients in self.halves.items():
            ours, name = self.shared.calibrated, f"{self.name}/ours"
            made["ours", tag] = ours(name, self.nets["ours"], self.along, patients, tag)
            if "general" in self.nets:
                law = self.shared.config.clocks()
                assert law is not None
                made["general", tag] = ours("general", self.nets["general"], law, patients, tag)
        return made

    def half_of(self, case: Case) -> str:
        return "a" if case.patient in self.halves["a"] else "b"

    def measured(self, case: Case) -> Measured:
        end = instrument(self.scanner, Fourier((SIDE, SIDE), (case.spacing,) * 2), self.shared.intensity.scale)
        seed = key(0, "worth", case.number)
        return Measured(measurement(case, self.scanner, self.shared.intensity), end, self.shared.intensity, seed)

    def prediction(self, method: str, case: Case, tag: str) -> Prediction:
        """Of a method whose spread was calibrated on the half `tag`, where it is."""
        tagged = method in ("instant", "ensemble", "general")
        path = self.folder / f"{method}-{tag}" / str(case.number) if tagged else self.folder / method / str(case.number)
        return kept(path.with_suffix(".safetensors"), lambda: self._predicted(method, self.measured(case), tag))

    def _predicted(self, method: str, it: Measured, tag: str) -> Prediction:
        if method.startswith("nlm-"):
            return rivals.non_local_means(it, float(method.removeprefix("nlm-")))
        if method == "bm3d":
            return rivals.bm3d(it)
        if method in ("instant", "general", "ensemble"):
            net = self.calibrated["general" if method == "general" else "ours", tag]
            bound = net.at(it.end.to(self.shared.device))
            if method == "ensemble":
                return rivals.ensemble(bound, it, self.given.members, self.given.calls)
            return rivals.call(bound, it, DRAWS)
        net = self.nets["ours" if method == "wiener" else method]
        if method == "dropout":
            return rivals.dropout(net, it, self.given.passes)
        if method == "wiener":
            return rivals.wiener(net, it, DRAWS)
        return {"quantile": rivals.quantile, "gaussian": rivals.gaussian}[method](net, it)

    def row(self, row: Row) -> list[dict[str, Any]]:
        """Figures of every patient, calibrated on the half that it is not in."""
        out = []
        for tag, patients in self.halves.items():
            known, new = ([c for c in self.cases if (c.patient in patients) == same] for same in (True, False))
            truths = {c.patient: c.truth[0, 0].double() for c in self.cases}
            method = self._strength(known, tag, truths) if row.method == "nlm" else row.method
            factor = promised = 1.0
            if row.conformal:
                needs = [need(self.prediction(method, c, tag), truths[c.patient]) for c in known]
                factor, promised = conformal_factor(needs), conformal_factor(needs, promise=True)
            for c in new:
                p = self.prediction(method, c, tag)
                found = figures(p, truths[c.patient], c.spacing, factor, promised, c.number)
                out.append({"patient": c.patient, "calibrated_on": tag, "factor": factor, "method": method, **found})
        return out

    def _strength(self, known: Sequence[Case], tag: str, truths: dict[str, Tensor]) -> str:
        """Non-local means of the strength that errs least on the calibration patients."""

        def error(strength: float) -> float:
            return sum(float((self.prediction(f"nlm-{strength:g}", c, tag).center - truths[c.patient]).square().mean())
                       for c in known)  # fmt: skip

        return f"nlm-{min(STRENGTHS, key=error):g}"


# ---- tables and what they say ----------------------------------------------------------------------------------------


def column(rows: Sequence[dict[str, Any]], name: str, part: int | None = None) -> list[float]:
    """A figure of every patient; of discs by their name, coverage (0) or length (1)."""
    return [r[name] if part is None else r["discs"][name][part] for r in rows]


def pixels(found: dict[str, list]) -> Table:
    """The first table."""
    table = Table(title="90 % intervals per pixel; mean±SD between patients")
    for name in ("method", "rms HU", "coverage", "length HU", "guaranteed", "energy HU", "calls", "CPU s"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for label, rows in found.items():
        promise = _promise(column(rows, "guaranteed")) if label.endswith("conformal") else ""
        table.add_row(label, shown(column(rows, "rms_hu"), 1), shown(column(rows, "coverage")),
                      shown(column(rows, "length"), 1), promise, shown(column(rows, "energy"), 1),
                      str(rows[0]["calls"]), f"{mean_sd(column(rows, 'cpu_seconds'))[0]:.2f}")  # fmt: skip
    return table


def _promise(lengths: Sequence[float | None]) -> str:
    """None is a promise for which there are too few patients."""
    known = [x for x in lengths if x is not None]
    return shown(known, 0) if len(known) == len(lengths) else "none"


def discs(found: dict[str, list]) -> Table:
    """The second."""
    table = Table(title="90 % intervals for means of discs: coverage±SD / length in HU")
    for name in ("method", "law", *(f"{d:g} mm" for d in DISCS)):
        table.add_column(name, justify="right" if name.endswith("mm") else "left")
    for label, rows in found.items():
        for number, law in enumerate(laws(rows)):
            cells = [f"{shown(column(rows, f'{d:g} mm, {law}', 0))} / "
                     f"{mean_sd(column(rows, f'{d:g} mm, {law}', 1))[0]:.1f}" for d in DISCS]  # fmt: skip
            table.add_row(label if number == 0 else "", law, *cells)
    return table


def laws(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Laws that a method has for discs."""
    return list(dict.fromkeys(name.split(", ")[1] for name in rows[0]["discs"]))


def valid(values: Sequence[float]) -> bool:
    """Whether the mean coverage of 90 % intervals is 87 to 93 %."""
    return VALID[0] <= mean_sd(values)[0] <= VALID[1]


def _paired(ours: Sequence[dict], theirs: Sequence[dict], name: str) -> str:
    """Difference of two methods, percent, and its standard error."""
    other = {r["patient"]: r[name] for r in theirs}
    logs = [math.log(r[name] / other[r["patient"]]) for r in ours]
    mean, sd = mean_sd(logs)
    fewer = sum(x < 0 for x in logs)
    error = 100 * sd / math.sqrt(len(logs))
    return f"{100 * math.expm1(mean):+.1f} % (standard error {error:.1f}; less in {fewer} of {len(logs)})"


def _least(found: dict[str, list], value: Callable[[list], float], among: Sequence[str]) -> list[str]:
    return sorted(among, key=lambda label: value(found[label]))


def reading(found: dict[str, list]) -> list[str]:
    """Sentences from the numbers."""
    mean = lambda name, part=None: lambda rows: mean_sd(column(rows, name, part))[0]  # noqa: E731
    good = [label for label, rows in found.items() if valid(column(rows, "coverage"))]
    ranked = _least(found, mean("length"), good)
    told = [f"{label} {mean('length')(found[label]):.1f} HU" for label in ranked]
    out = ["Per pixel, valid (mean coverage 87-93 %), shortest first: " + ("; ".join(told) or "none") + "."]
    bad = [f"{label} {mean('coverage')(found[label]):.2f}" for label in found if label not in good]
    out.append("Per pixel, not valid: " + ("; ".join(bad) or "none") + ".")
    every = [(label, law) for label, rows in found.items() for law in laws(rows)]
    sizes = {
        (label, law): [d for d in DISCS if valid(column(found[label], f"{d:g} mm, {law}", 0))] for label, law in every
    }
    whole = [f"{label} ({law})" for (label, law), ok in sizes.items() if len(ok) == len(DISCS)]
    out.append("Valid for discs of every size: " + ("; ".join(whole) or "none") + ".")
    some = [f"{label} ({law}) at {', '.join(f'{d:g}' for d in ok)} mm" for (label, law), ok in sizes.items()
            if 0 < len(ok) < len(DISCS)]  # fmt: skip
    out.append("Valid for some: " + ("; ".join(some) or "none") + ".")
    for name, word in (("rms_hu", "error"), ("energy", "energy score")):
        order = _least(found, mean(name), list(found))
        out.append(
            f"Least {word}: " + "; ".join(f"{label} {mean(name)(found[label]):.1f} HU" for label in order[:3]) + "."
        )
        if ONE in found:
            others = [label for label in order if not label.startswith("ours")]
            out.append(f"  Ours with one call against the best other, {others[0]}: "
                       f"{word} {_paired(found[ONE], found[others[0]], name)}.")  # fmt: skip
    if ONE in found and MANY in found:
        calls = found[MANY][0]["calls"]
        bought = "; ".join(f"{word} {_paired(found[MANY], found[ONE], name)}"
                           for name, word in (("rms_hu", "error"), ("energy", "energy score")))  # fmt: skip
        out.append(f"What {calls} calls buy over one: {bought}; coverage {mean('coverage')(found[ONE]):.3f} -> "
                   f"{mean('coverage')(found[MANY]):.3f}.")  # fmt: skip
    return out


# ---- the program -----------------------------------------------------------------------------------------------------


def run(given: argparse.Namespace) -> None:
    """Every instrument: train, predict, print."""
    shared = budget(given, DATA)
    setup = {
        "options": asdict(shared.options) | {"validate_every": 0, "checkpoint_every": 0, "log_every": 0},
        "network": shared.config.network.model_dump(),
        "data": shared.config.data.model_dump(mode="json"),
        "most": given.most,
        "members": given.members,
        "calls": given.calls,
        "passes": given.passes,
        "general": None if given.general is None else given.general.name,
    }
    results = Results(given.out / "worth.json", setup)
    wanted = lines(given.bm3d, given.general is not None)
    if not given.bm3d:
        print("BM3D: left out: its licence is for non-commercial use; install it and say --bm3d where that fits")
    console, told = Console(width=150), {}
    for name in given.scanners:
        this = Instrument(name, shared, given)
        found = {row.title: results.row(f"{name} | {row.title}", lambda this=this, row=row: this.row(row))
                 for row in wanted}  # fmt: skip
        console.print(f"\n[bold]{name}[/], {len(this.cases)} validation patients, {shared.options.steps} steps")
        console.print(pixels(found))
        console.print(discs(found))
        told[name] = reading(found)
        print("\n".join(told[name]), flush=True)
        results.save(reading=told)


def documents(path: Path) -> None:
    """The figures of a run to benchmarks/results, and its tables and reading to the page."""
    found = read_json(path, "results")
    setup = {k: v for k, v in found["setup"].items() if k != "data"}  # where the images lie is nobody's business
    names = list(dict.fromkeys(name.split(" | ")[0] for name in found["rows"]))
    told = {}
    for name in names:  # a run for one instrument more has read that one alone
        rows = {k.split(" | ")[1]: v for k, v in found["rows"].items() if k.startswith(f"{name} | ")}
        told[name] = reading(rows)
        lines = "\n".join(f"- {line.strip()}" for line in told[name])
        replace_block(PAGE, f"worth-{name}", "\n\n".join([markdown(pixels(rows)), markdown(discs(rows)), lines]))
    write_file(KEPT, (json.dumps({"setup": setup, "reading": told, "rows": found["rows"]}) + "\n").encode())
    print(KEPT.name, PAGE.name)


def markdown(given: Table) -> str:
    """A table of the terminal as Markdown, under its title."""
    cells = list(zip(*(column.cells for column in given.columns), strict=True))
    return f"{given.title}:\n\n" + table([str(c.header) for c in given.columns], cells)


def main() -> None:
    """Flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--scanners", nargs="+", default=["standard-30", "paper"], choices=list(INSTRUMENTS),
                        metavar="NAME", help="instruments (default: standard-30 paper)")  # fmt: skip
    parser.add_argument("--members", type=int, default=8, help="of the ensemble of ours")
    parser.add_argument("--calls", type=int, default=8, help="of every member")
    parser.add_argument("--passes", type=int, default=16, help="of MC-dropout")
    parser.add_argument("--bm3d", action="store_true", help="with BM3D (its own licence: non-commercial use)")
    parser.add_argument("--docs", action="store_true", help="measure nothing: write the tables of OUT/worth.json")
    given = parser.parse_args()
    if given.docs:
        return documents(given.out / "worth.json")
    if not there():
        sys.exit(f"no patients in {DATA}: nothing to train on")
    if given.bm3d and importlib.util.find_spec("bm3d") is None:
        parser.error("--bm3d: the package bm3d is not installed")
    if importlib.util.find_spec("skimage") is None:
        parser.error("scikit-image is not installed: non-local means need it")
    run(given)


if __name__ == "__main__":
    main()
