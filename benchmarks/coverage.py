"""Bands and tests from few items: how often the truth is inside, and how often a true null is called different.

python benchmarks/coverage.py [--trials 1000]
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from retrodict.metrics.bootstrap import bootstrap, paired_bootstrap

ITEMS = (3, 4, 5, 6, 8, 15)


def normal(n: int, draw: torch.Generator) -> Tensor:
    """Standard normal, mean 0."""
    return torch.randn(n, generator=draw, dtype=torch.float64)


def exponential(n: int, draw: torch.Generator) -> Tensor:
    """Exponential, mean 1."""
    return torch.empty(n, dtype=torch.float64).exponential_(1.0, generator=draw)


def lognormal(n: int, draw: torch.Generator) -> Tensor:
    """Log-normal of unit log-deviation, mean exp(1/2)."""
    return normal(n, draw).exp()


LAWS = {"normal": (normal, 0.0), "exponential": (exponential, 1.0), "log-normal": (lognormal, math.exp(0.5))}


def row(name: str, n: int, trials: int) -> tuple[float, float]:
    """Share of bands that hold the mean, and of nulls with p < 0.05."""
    law, truth = LAWS[name]
    draw = torch.Generator().manual_seed(n)
    held = called = 0
    for seed in range(trials):
        x = law(n, draw)
        band = bootstrap(x, lambda v: v.mean(0), seed=seed, count=500)
        held += bool(band.lower <= truth <= band.upper)
        called += paired_bootstrap(x, torch.full_like(x, truth), seed=seed, count=500).p_value < 0.05
    return held / trials, called / trials


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    print("| law of the items | " + " | ".join(f"n = {n}" for n in ITEMS) + " |")
    print("|---|" + "---|" * len(ITEMS))
    for name in LAWS:
        cells = [row(name, n, trials) for n in ITEMS]
        print(f"| {name} | " + " | ".join(f"{held:.3f}; {called:.3f}" for held, called in cells) + " |")


if __name__ == "__main__":
    main()
