"""What the gate accepts, against a known truth: every process x rule x error law x conditioning x steps.

    python benchmarks/gate.py                    # all; writes benchmarks/results/gate.json and prints the tables
    python benchmarks/gate.py --only fourier,vp  # some processes

Truth is drawn, measured and restored `--items` times on 8 x 8 pixels, with exact denoisers: of Gaussian data, and of
data of two modes, +-blob, as far apart in the measurement as one deviation of its noise.  The posterior is known in
closed form, so mean |x - E[x | y]|^2 over tr Cov[x | y] is 1 for a posterior sampler; its error of sampling is in the
record.  "along" is the same along the line between the modes, 7 % uncertain with 400 items.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import Denoiser, Estimate, GaussianDenoiser
from retrodict.denoisers.mixture import GaussianLaw, MixtureDenoiser, MixtureLaw
from retrodict.denoisers.spread import SpectralSpread
from retrodict.denoisers.wrappers import Fused, Guided, Respread, Wrapper
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond, Moments
from retrodict.processes.process import Process
from retrodict.processes.recipes import external
from retrodict.processes.wavelet import WAVELET_PROCESSES
from retrodict.samplers import RULES, sample, start_state
from retrodict.samplers.ensemble import SamplingOptions, gate, plan_for

SIDE, STEPS = 8, (2, 8, 32)
SPECTRUM = Spectrum.power_law(0.0, 100.0, 0.02, 3.0)
RESULT = Path(__file__).parent / "results" / "gate.json"


def process_named(name: str) -> Process:
    """Entry of PROCESSES, starting at or shown the measurement of the paper's instrument."""
    basis = Fourier((SIDE, SIDE))
    if name == "measured":
        f = torch.linspace(0, 0.75, 31).tolist()
        units = {"frequency_unit": "cycles/mm"}
        mtf = {"frequency": f, "value": [1 / (1 + 4 * x**2) for x in f], "unit": "1", **units}
        nps = {"frequency": f, "value": [0.1 + 2 * x for x in f], "unit": "HU^2 mm^2", **units}
        return PROCESSES[name](basis, mtf=mtf, nps=nps)
    process = PROCESSES[name](basis)
    return process if process.pairing.starts else external(process, fourier(basis))


# ---- laws of the data ---------------------------------------------------------------------------------------------


def gaussian(process: Process) -> MixtureLaw:
    """One component of the spectrum."""
    L = SPECTRUM.on(process.basis)
    return MixtureLaw(process.basis, torch.ones(1).double(), torch.zeros_like(L)[None], L[None])


def two_modes(process: Process) -> MixtureLaw:
    """+-blob and what is left of the spectrum; the blob is scaled to one deviation of the measurement."""
    basis, m = process.basis, process.measurement
    assert m is not None
    L, weight = SPECTRUM.on(basis), basis.multiplicity()
    axis = torch.minimum(torch.arange(SIDE), SIDE - torch.arange(SIDE)).double()
    blob = basis.forward(torch.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 0.7**2)))
    low, high = 0.0, float((0.9 * L / blob.abs() ** 2).min().sqrt())
    for _ in range(50):
        scale = 0.5 * (low + high)
        mode = (scale * blob).abs() ** 2
        apart = float((weight * m.h**2 * mode / (m.h**2 * (L - mode) + m.s2)).sum().sqrt())
        low, high = (scale, high) if apart < 1 else (low, scale)
    mode = low * blob
    rest = L - mode.abs() ** 2
    return MixtureLaw(basis, torch.tensor([0.5, 0.5]).double(), torch.stack([mode, -mode]), torch.stack([rest, rest]))


DATA = {"gaussian": gaussian, "two modes": two_modes}


@dataclass(frozen=True)
class Scaled(Wrapper):
    """An error law that is wrong by a factor: what a gate cannot see without data."""

    factor: float = 1.0

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """The inner mean, its variance times the factor."""
        mean, spread = self.inner.estimate(xt, t, cond)
        assert isinstance(spread, SpectralSpread)
        return Estimate(mean, replace(spread, v=self.factor * spread.v))


@dataclass(frozen=True)
class Together(Wrapper):
    """All items at one time: tables are made once."""

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """The inner estimate."""
        return self.inner.estimate(xt, t[:1], cond)


# ---- one combination ----------------------------------------------------------------------------------------------


def posterior(law: MixtureLaw, seen: list[tuple[Tensor, Moments]]) -> tuple[Tensor, list[GaussianLaw]]:
    """Weights `(B, M)` and components given several observations."""
    logs, laws = law.weights.log()[None], law.components()
    for u, m in seen:
        logs = logs + torch.stack([part.log_evidence(u, m) for part in laws], 1)
        laws = [part.posterior(u, m) for part in laws]
    return logs.softmax(1), laws


def measure(
    law: MixtureLaw, denoiser: Denoiser, options: SamplingOptions, items: int, second: Moments | None
) -> dict[str, float]:
    """Variance of samples over that of the posterior: total, and along the line between the modes."""
    process, basis = denoiser.process, denoiser.process.basis
    m, weight = process.measurement, basis.multiplicity()
    assert m is not None
    generator = torch.Generator().manual_seed(0)

    def noise(seeds: Tensor, stream: str, step: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(len(seeds), *shape, generator=generator, dtype=torch.float64)

    def white() -> Tensor:
        return basis.forward(torch.randn(items, 1, SIDE, SIDE, generator=generator, dtype=torch.float64))

    which = torch.multinomial(law.weights, items, replacement=True, generator=generator)
    u0 = law.means[which][:, None] + law.spectra[which][:, None].sqrt() * white()
    seen = [(m.h * u0 + m.s2.sqrt() * white(), m)]
    if second is not None:
        seen.append((second.h * u0 + second.s2.sqrt() * white(), second))
        assert isinstance(denoiser, Fused)
        denoiser = replace(denoiser, y=basis.inverse(seen[1][0]))
    mean, variance = law.moments()
    if second is not None:
        mean, variance = denoiser.prior() or (mean, variance)
    y, seeds = basis.inverse(seen[0][0]), torch.arange(items)
    plan = plan_for(process, options, variance)
    settings = {"measurement": y, "mean": mean, "spectrum": variance, "dtype": torch.float64, "noise": noise}
    start = start_state(process, seeds, (1, SIDE, SIDE), **settings)  # type: ignore[arg-type]
    x = sample(Together(denoiser), plan, start, seeds=seeds, cond=process.pairing.cond(y), noise=noise).x
    shares, parts = posterior(law, seen)
    share = [shares[:, k].reshape(-1, 1, 1, 1) for k in range(len(parts))]
    known = sum(s * p.mean for s, p in zip(share, parts, strict=True))
    error = basis.forward(x) - known
    within = parts[0].spectrum
    half = (parts[0].mean - parts[-1].mean) / 2  # the same for every measurement
    half = half.reshape(-1, *basis.shape)[0]
    between = float((4 * shares[:, 0] * shares[:, -1]).mean()) if len(parts) > 1 else 0.0
    total = (weight * within).sum() + between * (weight * half.abs() ** 2).sum()
    squares = (weight * error.abs() ** 2).flatten(1).sum(1) / total
    found = {"total": float(squares.mean()), "error": float(squares.std() / math.sqrt(items))}
    if len(parts) > 1:
        line = (weight * (error * half.conj()).real).flatten(1).sum(1)
        expected = (weight * within * half.abs() ** 2).sum() + between * (weight * half.abs() ** 2).sum() ** 2
        found["along"] = float(line.square().mean() / expected)
    return found


def wrapped(law: MixtureLaw, process: Process, conditioning: str, kind: str) -> tuple[Denoiser, Moments | None]:
    """The exact denoiser with an error law and in a conditioning, and the law of a second measurement."""
    exact: Denoiser = (
        MixtureDenoiser(process, law) if len(law.weights) > 1 else GaussianDenoiser(process, *law.moments())
    )
    if conditioning == "fused":
        second = PROCESSES["vp"](process.basis).moments(torch.tensor([0.3]).double())
        second = Moments(*(x[0, 0] for x in second))
        return Fused(exact, torch.zeros(1, 1, SIDE, SIDE).double(), second), second  # type: ignore[arg-type]
    if conditioning == "guided":
        bare = Process(process.family, process.basis)
        free: Denoiser = MixtureDenoiser(bare, law) if len(law.weights) > 1 else GaussianDenoiser(bare, *law.moments())
        return Guided(exact, free, 1.5), None
    if conditioning == "unconditional":
        bare = Process(process.family, process.basis)
        return (MixtureDenoiser(bare, law) if len(law.weights) > 1 else GaussianDenoiser(bare, *law.moments())), None
    laws = {"own": exact, "wiener": Respread(exact, "wiener"), "none": Respread(exact, "none")}
    return laws[kind] if kind in laws else Scaled(exact, float(kind)), None


def combinations(names: list[str]) -> list[tuple[str, str, str, str, int]]:
    """(process, conditioning, rule, error law, steps); rules that draw no error have one law."""
    found = []
    for name in names:
        starts = process_named(name).pairing.starts
        plain = "terminal" if starts else "external"
        rules = [rule for rule, entry in RULES.items() if not (entry.deterministic and starts)]  # else points
        found += [(name, plain, rule, "own", n) for rule in rules for n in STEPS]
        found += [(name, plain, "matched", "wiener", n) for n in STEPS]
        found += [(name, plain, "matched", law, 8) for law in ("none", "0.7", "1.4")]
        found += [(name, "fused", rule, "own", 8) for rule in ("matched", "sde_dpmpp2m", "ancestral")]
        found += [(name, "unconditional", "matched", "own", 8)]
        if not starts:  # a terminal denoiser is shown nothing that guidance could strengthen
            found += [(name, "guided", rule, "own", 8) for rule in ("matched", "sde_dpmpp2m")]
    return found


def judged(case: tuple[str, str, str, str, int], items: int) -> list[dict[str, Any]]:
    """One record for each law of the data."""
    name, conditioning, rule, kind, steps = case
    process, records, verdict = process_named(name), [], None
    for data, make in DATA.items():
        law = make(process)
        denoiser, second = wrapped(law, process, conditioning, kind)
        options = SamplingOptions(rule=rule, steps=steps)
        if verdict is None or kind == "wiener":  # a twin is the same for all data of a spectrum
            verdict = gate(denoiser, options)
        record = dict(zip(("process", "conditioning", "rule", "law", "steps"), case, strict=True))
        record |= {"data": data, "accepted": verdict.passed, "reason": verdict.reason}
        try:
            record |= {} if conditioning == "unconditional" else measure(law, denoiser, options, items, second)
        except InputError as error:
            record["refused by the loop"] = str(error)
        records.append(record)
    return records


# ---- tables -------------------------------------------------------------------------------------------------------


def table(records: list[dict[str, Any]]) -> str:
    """Accepted and refused combinations and their variances, law by law."""
    lines = [
        "| error law | rule | data | accepted | their variance ratio | refused | their variance ratio |",
        "|---" * 7 + "|",
    ]
    keys = sorted({(r["law"], r["rule"], r["data"]) for r in records})
    for key in keys:
        rows = [r for r in records if (r["law"], r["rule"], r["data"]) == key]
        cells = []
        for accepted in (True, False):
            some = [r for r in rows if r["accepted"] == accepted]
            values = [r["total"] for r in some if math.isfinite(r.get("total", math.nan))]
            cells += [str(len(some)), f"{min(values):.2f} to {max(values):.2f}" if values else ""]
        lines.append("| " + " | ".join((*key, *cells)) + " |")
    return "\n".join(lines)


def along(records: list[dict[str, Any]]) -> str:
    """Variance of `matched` along the line between two modes, by process and steps."""
    lines = ["| process | " + " | ".join(f"{n} calls" for n in STEPS) + " |", "|---" * (len(STEPS) + 1) + "|"]
    rows = [r for r in records if r["rule"] == "matched" and r["law"] == "own" and "along" in r]
    for name in sorted({(r["process"], r["conditioning"]) for r in rows}):
        values = [next(r for r in rows if (r["process"], r["conditioning"]) == name and r["steps"] == n) for n in STEPS]
        lines.append(
            f"| {', '.join(name)} | " + " | ".join(f"{v['total']:.2f}, {v['along']:.2f}" for v in values) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(n for n in PROCESSES if n not in WAVELET_PROCESSES))
    parser.add_argument("--rules", default="", help="some rules, by name")
    parser.add_argument("--items", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    records = []
    for case in combinations(options.only.split(",")):
        if options.rules and case[2] not in options.rules.split(","):
            continue
        records += judged(case, options.items)
        RESULT.write_text(json.dumps({"items": options.items, "records": records}, indent=0, default=float) + "\n")
        print(
            *case,
            *(f"{r['accepted']} {r.get('total', math.nan):.2f}" for r in records[-2:]),
            file=sys.stderr,
            flush=True,
        )
    wrong = [r for r in records if r["accepted"] and abs(r.get("total", 1.0) - 1) > 0.1 + 2 * r.get("error", 0.0)]
    unseen = [r for r in wrong if r["law"] not in ("own", "wiener", "none")]
    print(table(records), along(records), sep="\n\n")
    print(
        f"\n{len(records)} combinations, {sum(r['accepted'] for r in records)} accepted; more than 10 % wrong in total"
    )
    print(f"variance, of these: {len(wrong) - len(unseen)}, and {len(unseen)} whose own law is wrong by a factor")


if __name__ == "__main__":
    main()
