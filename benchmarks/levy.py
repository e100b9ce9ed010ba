"""Posterior methods on discretised Levy processes, whose posterior is known: the benchmark of Zach et al. (ICLR 2026).

    python benchmarks/levy.py [--quick] [--laws ...] [--problems ...] [--methods ...] [--items 8] [--resume]
    python benchmarks/levy.py --write        table and picture of the documents from the record

A signal x of 64 samples is the cumulative sum of independent increments u.  y = A x + n: A the identity, a circular
convolution with 13 taps of a Gaussian of 2 samples, 40 % of the samples, or 40 % of the Fourier coefficients and the
five lowest; white noise, 25 dB under the median power of A x (sizes and noise as in their published code; which samples
and frequencies are seen is drawn here).  The truth is a Gibbs sampler (`levy_truth.py`).

The image of every method is u, the operator A times a cumulative sum: white noise is added to increments, and the exact
denoiser is a formula.  Zach et al. add it to x.  Every method here has that same denoiser and at most 20 calls of it.

gap:    10 log10 of the error of the mean of the members over that of the true posterior mean, both expected over
        truths: 1 + |mean - exact mean|^2 / (variance of the posterior), averaged over items.  K members drawn from the
        exact posterior itself have 10 log10(1 + 1/K): 0.07 dB for 64.
cover:  the share of the posterior whose density is above the 10 % quantile of the density at the members: 0.9 for
        members drawn from it.  It is what they count truths for, expected over truths.  For the law with an atom,
        increments within 0.02 of 0 count as 0 in both.
var:    variance of the members over that of the posterior.

Large memory is asked for and given back at every step; under glibc it is three times faster with
MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_MMAP_THRESHOLD_=4000000000 in the environment.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levy_truth import Truth, gibbs
from retrodict._check import InputError
from retrodict._random import member_seeds
from retrodict.bases import Pixel
from retrodict.denoisers.scale_mixture import IndependentDenoiser, ScaleMixture
from retrodict.physics import GaussianNoise, Measurement, Space
from retrodict.physics.adapters import MatrixFree
from retrodict.posterior import posterior_method
from retrodict.posterior.method import Method
from retrodict.processes.scalar import edm

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "levy.json"
LENGTH, CALLS, LEVEL, ATOM, SIGMA = 64, 20, 0.9, 0.02, 4.0
F: dict[str, Any] = {"dtype": torch.float64}

LAWS: dict[str, tuple[ScaleMixture, float]] = {
    "Gauss(0.25)": (ScaleMixture.gaussian(0.25), 0.25),
    "Laplace(1)": (ScaleMixture.laplace(1.0), 2.0),
    "Bernoulli-Laplace(0.1, 1)": (ScaleMixture.spike(0.1, ScaleMixture.laplace(1.0)), 0.2),
    "Student(3)": (ScaleMixture.student(3.0), 3.0),
    "Student(2)": (ScaleMixture.student(2.0), 10.0),
    "Student(1)": (ScaleMixture.student(1.0), 100.0),
}
"""Law of increments, and the variance that the start and the grid of times are made for."""

METHODS: dict[str, tuple[str, str | None, int, dict[str, Any]]] = {
    "carried": ("carried", None, 20, {}),
    "propagated": ("propagated", None, 10, {}),
    "matched": ("matched", None, 20, {}),
    "C-DPS": ("dps", "paper", 20, {}),
    "DiffPIR": ("diffpir", "paper", 20, {}),
    "DPnP": ("pnp_dm", "paper", 4, {"inner": 5, "decay": 0.3, "last": 0.15}),
    "MMPS": ("mmps", "paper", 20, {}),
}
"""Name in `POSTERIORS`, style, steps and options.  Published methods have their defaults, but for DPnP couplings of 10,
3, 0.9 and 0.27, so that four rounds of five calls come as near to its last, 0.15 (Zach et al.), as 20 calls can.
"""
OURS = ("carried",)
"""Those that are run on all items."""


def operators() -> dict[str, Tensor]:
    """Matrices `(m, 64)` of the four problems."""
    generator, n = torch.Generator().manual_seed(7), LENGTH
    taps = torch.exp(-0.5 * (torch.arange(-6, 7, **F) / 2) ** 2)
    place = (torch.arange(n)[:, None] + torch.arange(-6, 7)) % n
    blur = torch.zeros(n, n, **F).scatter_add_(1, place, (taps / taps.sum()).expand(n, 13))
    seen = torch.rand(n, generator=generator) < 0.4
    seen[[0, -1]] = True
    known = torch.rand(n // 2 + 1, generator=generator) < 0.4
    known[:5] = True
    phase = 2 * math.pi * torch.arange(n, **F) * torch.arange(n // 2 + 1, **F)[:, None] / n
    size = torch.full((n // 2 + 1, 1), math.sqrt(2 / n), **F)
    size[[0, -1]] = math.sqrt(1 / n)
    cosines, sines = size * phase.cos(), (size * phase.sin())[1:-1]
    fourier = torch.cat([cosines[known], sines[known[1:-1]]])
    return {
        "denoising": torch.eye(n, **F),
        "deconvolution": blur,
        "imputation": torch.eye(n, **F)[seen],
        "Fourier": fourier,
    }


def total_of(A: Tensor) -> MatrixFree:
    """A times a cumulative sum, as an operator on increments."""
    M = A @ torch.tril(torch.ones(LENGTH, LENGTH, **F))
    rows = len(M)
    return MatrixFree(
        lambda u: (u.to(M) @ M.T).to(u),
        lambda y: (y.to(M) @ M).to(y),
        Space((1, LENGTH)),
        Space((1, rows)),
    )


def noise_of(law: ScaleMixture, A: Tensor) -> float:
    """Variance 25 dB under the median of the mean square of A x over 1,000 signals."""
    x = law.sample((1000, LENGTH), torch.Generator().manual_seed(1)).cumsum(-1)
    return float((x @ A.T).square().mean(-1).median()) / 10**2.5


def log_posterior(law: ScaleMixture, M: Tensor, y: Tensor, noise: float, u: Tensor) -> Tensor:
    """Log density `(K,)` of increments `(K, n)`, but for a constant."""
    return law.log_density(u, ATOM).sum(-1) - 0.5 * (y - u @ M.T).square().sum(-1) / noise


def figures(
    law: ScaleMixture, M: Tensor, y: Tensor, noise: float, u: Tensor, truth: tuple[Tensor, Tensor]
) -> list[float]:
    """Coverage, squared error of the mean over the posterior variance, and variance over it, of members u `(K, n)`."""
    samples, mean = truth
    sorted_, place = log_posterior(law, M, y, noise, u).sort().values, (1 - LEVEL) * (len(u) + 1) - 1
    low = int(place)
    threshold = sorted_[low] + (place - low) * (sorted_[low + 1] - sorted_[low])
    cover = float((log_posterior(law, M, y, noise, samples) >= threshold).double().mean())
    x, exact = u.cumsum(-1), samples.cumsum(-1).var(0).sum()
    error = (x.mean(0) - mean.cumsum(-1)).square().sum()
    return [cover, float(error / exact), float(x.var(0).sum() / exact)]


def cell(name: str, problem: str, given: argparse.Namespace) -> dict[str, Any]:
    """All methods on one law and operator."""
    law, width = LAWS[name]
    A = operators()[problem]
    operator, noise = total_of(A), noise_of(law, A)
    M = A @ torch.tril(torch.ones(LENGTH, LENGTH, **F))
    generator = torch.Generator().manual_seed(3)
    u = law.sample((given.items, LENGTH), generator)
    y = u @ M.T + math.sqrt(noise) * torch.randn(given.items, len(M), generator=generator, **F)
    started = time.process_time()
    truth = gibbs(law, M, y, noise, chains=given.chains, sweeps=given.sweeps, burn=given.sweeps // 4)
    found: dict[str, Any] = {"noise": noise, "chains": truth.spread, "truth s": round(time.process_time() - started, 1)}
    process = edm(Pixel((LENGTH,)), sigma_max=SIGMA * math.sqrt(width))
    denoiser = IndependentDenoiser(process, law, width)
    for label in given.methods:
        started, rows, told = time.process_time(), [], None
        for item in range(given.items if label in OURS else min(given.items, given.others)):
            measurement = Measurement(operator, y[item].reshape(1, 1, -1), GaussianNoise.white(math.sqrt(noise)))
            x, told = _run(label, denoiser, measurement, member_seeds(0, item, given.members))
            if x is None:
                break
            rows.append(figures(law, M, y[item], noise, x, (truth.samples[item], truth.mean[item])))
        found[label] = summary(rows, told, given.members) if rows else {"refused": told}
        found[label]["s"] = round(time.process_time() - started, 1)
    rows = [
        figures(law, M, y[i], noise, _some(truth, i, given.members), (truth.samples[i], truth.mean[i]))
        for i in range(given.items)
    ]
    found["exact"] = summary(rows, 0, given.members)
    return found


def _some(truth: Truth, item: int, members: int) -> Tensor:
    order = torch.randperm(truth.samples.shape[1], generator=torch.Generator().manual_seed(item))
    return truth.samples[item, order[:members]]


def _run(
    label: str, denoiser: IndependentDenoiser, measurement: Measurement, seeds: Tensor
) -> tuple[Tensor | None, Any]:
    name, style, steps, options = METHODS[label]
    try:
        method: Method = posterior_method(name, denoiser, measurement, style=style, **options)
        with torch.no_grad():
            run = method.run(seeds, steps=steps, dtype=torch.float64)
    except InputError as error:
        return None, str(error)
    if not bool(torch.isfinite(run.x).all()):
        return None, "it diverged"
    assert run.calls <= CALLS, f"{label}: {run.calls} calls"
    return run.x.flatten(1), run.calls


def summary(rows: list[list[float]], calls: Any, members: int) -> dict[str, Any]:
    """Means over items with the standard error of that of the coverage; the gap in dB, and a band of two errors."""
    table = torch.tensor(rows, **F)
    count = math.sqrt(len(table))
    scatter = table.std(0) / count if len(table) > 1 else torch.zeros(3, **F)
    cover, error, variance = table.mean(0).tolist()

    def db(v: float) -> float:
        return 10 * math.log10(1 + max(v, 0.0))

    band = [db(error - 2 * float(scatter[1])), db(error + 2 * float(scatter[1]))]
    return {
        "cover": cover, "cover_error": float(scatter[0]), "gap": db(error), "gap_band": band, "var": variance,
        "items": len(table), "members": members, "calls": calls,
    }  # fmt: skip


def main() -> None:
    """A line for each law, problem and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", nargs="+", default=list(LAWS), choices=list(LAWS))
    parser.add_argument("--problems", nargs="+", default=list(operators()), choices=list(operators()))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--others", type=int, default=3, help="items of all methods but 'carried'")
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--chains", type=int, default=6)
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="two items, a cell of each law, no record")
    parser.add_argument("--resume", action="store_true", help="run what the record does not have")
    parser.add_argument("--write", action="store_true", help="table and picture from the record, nothing is run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.write:
        from levy_page import write

        return write(json.loads(OUT.read_text(encoding="utf-8")))
    if given.quick:
        given.items, given.problems, given.sweeps = 2, given.problems[:1], 120
    record = json.loads(OUT.read_text(encoding="utf-8")) if given.resume and OUT.exists() else {}
    for problem in given.problems:
        for name in given.laws:
            have = record.get(problem, {}).get(name, {})
            wanted = [m for m in given.methods if m not in have]
            if not wanted:
                continue
            found = {**have, **cell(name, problem, argparse.Namespace(**{**vars(given), "methods": wanted}))}
            record.setdefault(problem, {})[name] = found
            print(f"{name}, {problem}: chains {found['chains']:.3f}, truth {found['truth s']} s", flush=True)
            for label in (*wanted, "exact"):
                f = found[label]
                if "refused" in f:
                    print(f"  {label:12} {f['refused']}", flush=True)
                    continue
                print(
                    f"  {label:12} cover {f['cover']:.3f} +- {f['cover_error']:.3f}  gap {f['gap']:.3f} dB  "
                    f"var {f['var']:.3f}  {f['calls']} calls  {f.get('s', 0):.1f} s",
                    flush=True,
                )
            if not given.quick:
                OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
