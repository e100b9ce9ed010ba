"""The claims of the structured processes and their Gaussian cards, in closed form.

    python benchmarks/spectral.py

Data with the stored spectrum of the shipped model `ct` on 64 x 64 pixels of 1 mm, unless the claim is about grids.
`benchmarks/results/spectral.json` and the blocks of docs/processes/spectral.md are written.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import torch

from paths import HU, measure, processes, stored_spectrum
from retrodict import PROCESSES, RULES, Fourier, Spectrum, gaussian_card, make_grid, make_plan, path_lengths
from retrodict.processes.process import Process
from retrodict.tasks.gaussian_card import card_restoration
from tables import replace_block, table

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("blurring", "ihdm", "soft", "band_noise", "shortest_path", "matern")
BASIS, SPECTRUM = Fourier((64, 64)), stored_spectrum()
L, ONE = SPECTRUM.on(BASIS), torch.ones(1, dtype=torch.float64)


def held(yes: bool) -> str:
    """One word."""
    return "held" if yes else "not held"


def generated(process, rule="ancestral", steps=32, louder=1.0, variance=L) -> torch.Tensor:
    """Variance of every coefficient at the end of a run from the exact start, by that of the data."""
    plan = make_plan(rule, process, make_grid(process, steps), variance)
    if louder != 1:
        loud = [row._replace(noise=tuple(louder * n for n in row.noise)) for row in plan]
        plan = replace(plan, build=loud.__getitem__)
    card, m = gaussian_card(plan, variance), process.moments(ONE)
    start = (m.h**2 * variance + m.s2).expand(1, 1, *process.basis.shape)[0, 0]
    return (card.start**2 * start + card.variance) / variance


def by_band(ratio: torch.Tensor, basis=BASIS) -> list[float]:
    """Of three bands up to Nyquist, mean over coefficients."""
    weight, bands = basis.multiplicity(), basis.bands(3, 0.5)
    return [float((ratio * weight)[part].sum() / weight[part].sum()) for _, _, part in bands]


def numbers(values) -> str:
    """Three digits each."""
    return ", ".join(f"{v:.3g}" for v in values)


def shortest() -> tuple[list, dict]:
    """Every deviation from the path of shortest_path is longer; and so are other processes between their own ends."""
    process = PROCESSES["shortest_path"](BASIS, spectrum=SPECTRUM)
    times, draw = torch.linspace(1, 0, 65, dtype=torch.float64), torch.Generator().manual_seed(0)
    own, excess = path_lengths(process, L, times), []
    for size in [0.01] * 100 + [0.1] * 100:
        waves = size * torch.randn(4, *BASIS.shape, generator=draw, dtype=torch.float64)

        def family(bound, waves=waves):
            def law(t):
                bend = sum(w * torch.sin(math.pi * (j + 1) * t) for j, w in enumerate(waves))
                return 0 * t + 0 * L, 0 * t, L ** (1 - t) * bend.exp()

            return law

        excess.append(float(path_lengths(Process(family, BASIS), L, times).fisher.sum()) / own.fisher_shortest - 1)
    fine = {name: measure(p, L) for name, p in processes(BASIS, SPECTRUM).items()}
    others = {name: r["fisher"] / r["fisher_shortest"] for name, r in fine.items() if name != "shortest_path"}
    m = process.moments(torch.tensor([0.37], dtype=torch.float64))
    identity = float(((m.h**2 * L + m.s2)[0, 0] / L**0.63 - 1).abs().max())
    figure = f"200 of 200 smooth ones, by {min(excess):.1g} to {max(excess):.1g} of its length"
    if min(excess) <= 0:
        figure = f"{sum(x > 0 for x in excess)} of 200 smooth ones"
    rows = [
        ["`shortest_path`: the variance of a state is a power of that of the data", held(identity < 1e-12)],
        ["`shortest_path`: every deviation is longer in the Fisher metric", held(min(excess) > 0)],
        ["`shortest_path` alone is the shortest path between its own ends; length / shortest of the others"],
    ]
    rows[0].append(f"largest relative error {identity:.1g}")
    rows[1].append(figure)
    rows[2] += [held(min(others.values()) > 1 + 1e-6), ", ".join(f"{k} {v:.3f}" for k, v in others.items())]
    sample = {name: by_band(generated(p)) for name, p in (("vp", PROCESSES["vp"](BASIS)), ("shortest_path", process))}
    away = {name: max(abs(v - 1) for v in values) for name, values in sample.items()}
    figure = "; ".join(f"{k} {numbers(v)} of the variance in three bands" for k, v in sample.items())
    rows.append(["`shortest_path`: 32 ancestral steps are closer to the law of the data than those of `vp`"])
    rows[-1] += [held(away["shortest_path"] < away["vp"]), figure]
    return rows, {"excess": excess, "ratio": others, "identity": identity, "variance": sample}


def heat() -> tuple[list, dict]:
    """The published chain of inverse heat dissipation on Gaussian data, and its louder noise."""
    found = {}
    for chain in ("markov", "independent"):
        process = PROCESSES["ihdm"](BASIS, noise=0.1, chain=chain)
        for louder in (1.0, 1.3):
            found[f"{chain}, {louder:g}"] = by_band(generated(process, steps=200, louder=louder))
        found[f"{chain}, matched"] = by_band(generated(process, "matched", 200))
    for chain in ("momentum", "independent", "markov"):
        process = PROCESSES["soft"](BASIS, chain=chain)
        found[f"soft {chain}"] = by_band(generated(process))
    good = {k: max(abs(v - 1) for v in values) < 0.05 for k, values in found.items()}
    quiet, loud = found["independent, 1"], found["independent, 1.3"]
    rows = [
        ["`ihdm`: the published sampler (independent levels, delta = sigma) has the law of the data"],
        ["`ihdm`: delta = 1.3 sigma mends it"],
        ["`ihdm`: with x_0 drawn (`matched`) the same chain is exact"],
        ["`soft`: the momentum sampler is closer to the law of the data than the naive one (32 steps)"],
    ]
    rows[0] += [held(good["independent, 1"]), f"variance of three bands / exact: {numbers(quiet)}"]
    rows[1] += [held(good["independent, 1.3"]), numbers(loud)]
    exact = found["independent, matched"]
    noise = by_band(1 + 0.01 / L)  # what the law itself leaves at t = 0
    rows[2] += [
        held(max(abs(a / b - 1) for a, b in zip(exact, noise, strict=True)) < 1e-6),
        f"{numbers(exact)}, of which the remaining noise explains {numbers(noise)}",
    ]
    away = {c: max(abs(v - 1) for v in found[f"soft {c}"]) for c in ("momentum", "independent")}
    figure = "; ".join(f"{c} {numbers(found[f'soft {c}'])}" for c in ("momentum", "independent", "markov"))
    rows[3] += [held(away["momentum"] < away["independent"]), figure]
    return rows, found


def bands() -> tuple[list, dict]:
    """Frequencies without noise are left out of what is generated; the others are as they were."""
    process = PROCESSES["band_noise"](BASIS, bands=[[0.0, 0.4, 1.0], [0.8, 2.0, 1.0]])
    plan = make_plan("matched", process, make_grid(process, 8), L)
    card, m = gaussian_card(plan, L), process.moments(ONE)
    empty = m.s2[0, 0] == 0
    power = card.start**2 * m.s2[0, 0] + card.variance
    left, kept = float(power[empty].max()), float((power / L)[~empty].sub(1).abs().max())
    start = float(m.h[0, 0] ** 2 * L[~empty].max())
    row = ["`band_noise`: generation from N(0, s^2) leaves a masked band empty, and the others as they are"]
    row += [
        held(left == 0 and kept < 0.05),
        f"largest power in the band {left:g}; elsewhere off by {kept:.1g}, what this start leaves out of the data",
    ]
    snr = L / PROCESSES["band_noise"](BASIS, spectrum=SPECTRUM).clock(torch.tensor([0.5], dtype=torch.float64))[0, 0]
    even = ["`band_noise` with the spectrum of the data: one signal-to-noise ratio at all frequencies"]
    even += [
        held(float(snr.max() / snr.min()) < 1 + 1e-9),
        f"largest / smallest - 1 = {float(snr.max() / snr.min() - 1):.1g}",
    ]
    return [row, even], {"left": left, "kept": kept, "signal_at_start": start}


def grids() -> tuple[list, dict]:
    """Matern noise on grids of one extent."""

    def field(n, s, name="matern"):
        basis = Fourier((n, n), (64.0 / n, 64.0 / n))
        return PROCESSES[name](basis, **({"smoothness": s} if name == "matern" else {}))

    def covariance(process):
        flat = process.moments(ONE).s2[0, 0].expand(process.basis.shape)
        return process.basis.inverse(flat.to(torch.complex128)) / process.basis.size[0]

    sizes, off, order = (32, 64, 128, 256), {}, {}
    for s in (1.5, 2.0, 3.0):
        tables = [covariance(field(n, s)) for n in sizes]
        steps = [n // sizes[0] for n in sizes]
        shared = [t[::k, ::k] for t, k in zip(tables, steps, strict=True)]
        off[s] = [float((a - shared[-1]).abs().max() / tables[-1][0, 0]) for a in shared[:-1]]
        at_point = [float(t[0, 0]) for t in tables]
        gaps = [b - a for a, b in itertools.pairwise(at_point)]
        order[s] = -math.log2(gaps[-1] / gaps[-2])
    data = replace(Spectrum.power_law(0.0, 40.0, 0.03, 4.0), volume=1.0)
    errors = {}
    for name in ("matern", "vp"):
        values = []
        for n in sizes[:3]:
            process = field(n, 2.0, name)
            values.append(by_band(generated(process, steps=8, variance=data.on(process.basis)), process.basis)[0])
        errors[name] = values
    same = max(errors["matern"]) / min(errors["matern"]) - 1
    rows = [
        ["`matern`: shared points of grids of 64 mm have one law to 1e-3 (s = 3, 64 against 256 pixels)"],
        ["`matern`: the variance that pixels lack falls as N^(2 - 2s)"],
        ["`matern`: the error of sampling does not depend on the grid (8 ancestral steps, lowest third)"],
    ]
    rows[0] += [held(off[3.0][1] < 1e-3), "; ".join(f"s = {s:g}: {numbers(v)} at 32, 64, 128" for s, v in off.items())]
    close = all(abs(v - (2 * s - 2)) < 0.15 for s, v in order.items())
    rows[1] += [held(close), "; ".join(f"s = {s:g}: exponent {v:.3f} of {2 * s - 2:g}" for s, v in order.items())]
    rows[2] += [held(same < 1e-6), "; ".join(f"{k} {numbers(v)} of the variance" for k, v in errors.items())]
    return rows, {"off": {str(k): v for k, v in off.items()}, "order": {str(k): v for k, v in order.items()}, **errors}


def updates() -> tuple[list, dict]:
    """The first explanation of the Fourier paper: reverse updates are smaller."""
    found = {name: measure(p, L) for name, p in processes(BASIS, SPECTRUM).items() if name in ("scalar", "fourier")}
    a, b = found["fourier"], found["scalar"]
    rows = []
    for key, words, digits in (
        ("updates_8_HU", "8 reverse updates of a pixel, root of summed squares, HU", 0),
        ("transport_HU", "way of a pixel in the probability flow, HU", 0),
        ("fisher", "Fisher length per root of the degrees of freedom", 2),
        ("fisher_step_8", "the largest of 8 Fisher steps", 2),
    ):
        row = [f"`fourier`: reverse updates are smaller than those of `scalar`: {words}"]
        rows.append([*row, held(a[key] < b[key]), f"{a[key]:.{digits}f} against {b[key]:.{digits}f}"])
    return rows, found


def cards() -> tuple[str, list]:
    """Worst gain and variance of every rule at its default number of steps, restoring a measurement."""
    records = card_restoration((2,), NAMES)
    body = []
    for name in NAMES:
        row = [f"`{name}`"]
        for rule in RULES:
            (r,) = [x for x in records if x["process"] == name and x["sampler"] == rule and x["default"]]
            stable = r["verdict"] != "failed" and max(abs(r["worst_gain"]), r["worst_variance"]) < 1e3
            row.append(f"{r['worst_gain']:.3f} / {r['worst_variance']:.3f}" if stable else "unstable")
        body.append(row)
    return table(["process", *(f"`{n}` ({r.steps})" for n, r in RULES.items())], body), records


def exact(records) -> list:
    """Rules that are exact in the Gaussian part are, at 2 steps and at their default."""
    chosen = [r for r in records if RULES[r["sampler"]].exact]
    worst = {n: max(max(r["largest_error"].values()) for r in chosen if r["process"] == n) for n in NAMES}
    row = ["all: `matched` and `gaussian_ode` are exact to 1e-6 at every coefficient, 2 and 8 steps"]
    return [*row, held(max(worst.values()) < 1e-6), ", ".join(f"`{k}` {v:.0e}" for k, v in worst.items())]


def main() -> None:
    """Measure, print, and write."""
    page, (grid, records) = ROOT / "docs" / "processes" / "spectral.md", cards()
    rows, found = [exact(records)], {"cards": records}
    for part in (shortest, heat, bands, grids, updates):
        more, found[part.__name__] = part()
        rows += more
    claims = table(["claim", "held or not", "figure"], rows)
    print(
        claims, grid, f"data: {math.sqrt(float((L * BASIS.multiplicity()).sum()) / 4096) * HU:.0f} HU rms", sep="\n\n"
    )
    path = ROOT / "benchmarks" / "results" / "spectral.json"
    path.write_text(json.dumps({"claims": rows, **found}, indent=1) + "\n")
    replace_block(page, "claims", claims)
    replace_block(page, "cards", grid)


if __name__ == "__main__":
    main()
