"""What choosing measurements one by one is worth on Gaussian data, in closed form: nothing over the best fixed mask.

    python benchmarks/inverse_active.py

64 independent lines of k-space with variances 1/(1 + (k/2)^2), noise variance 0.01, 16 of them measured.  The variance
that is left does not depend on the data, so the greedy order of `retrodict.acquire` is the same for every image: it is
the mask of the 16 largest variances, which is also the best fixed one.  Printed: mean squared error of the posterior
mean over that of the prior for that mask, and for masks that know less.
"""

from __future__ import annotations

import torch


def left(variance: torch.Tensor, taken: torch.Tensor, noise: float) -> float:
    """Expected squared error of the posterior mean over that of the prior mean."""
    seen = torch.zeros_like(variance, dtype=torch.bool)
    seen[taken] = True
    rest = torch.where(seen, variance * noise / (variance + noise), variance)
    return float(rest.sum() / variance.sum())


def greedy(variance: torch.Tensor, count: int, noise: float) -> torch.Tensor:
    """Each where the posterior given the others is the most uncertain."""
    rest, order = variance.clone(), []
    for _ in range(count):
        k = int(rest.argmax())
        order.append(k)
        rest[k] = 0.0
    return torch.tensor(order)


def main() -> None:
    n, count, noise = 64, 16, 0.01
    k = (torch.arange(n) - n // 2).double()
    variance = 1 / (1 + (k / 2) ** 2)
    best = variance.sort(descending=True).indices[:count]
    middle = torch.arange(n // 2 - 2, n // 2 + 3)
    outside = torch.tensor([i for i in range(n) if i not in middle.tolist()])
    generator = torch.Generator().manual_seed(0)
    drawn = [
        left(variance, torch.cat([middle, outside[torch.randperm(len(outside), generator=generator)[:11]]]), noise)
        for _ in range(1000)
    ]
    even = torch.cat([middle, outside[torch.linspace(0, len(outside) - 1, 11).round().long()]])
    anywhere = [left(variance, torch.randperm(n, generator=generator)[:count], noise) for _ in range(1000)]
    rows = {
        "active (greedy by entropy)": left(variance, greedy(variance, count, noise), noise),
        "best fixed mask": left(variance, best, noise),
        "5 in the middle, the rest at even distances": left(variance, even, noise),
        "5 in the middle, the rest at random": sum(drawn) / 1000,
        "at random": sum(anywhere) / 1000,
    }
    for name, value in rows.items():
        print(f"{name:45s} {value:.3f}")


if __name__ == "__main__":
    main()
