"""Exact exponential integrals of a polynomial through denoised images, per coefficient.

Over a step H of the clock, int_0^H e^(y - H) D(y) dy is a weighted sum of the images that D is continued through.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retrodict.processes.observation import ratio

__all__ = ["node_of", "phi", "polynomial_weights"]

TERMS = 16


def phi(H: Tensor, count: int = 3) -> tuple[Tensor, ...]:
    """p1, p2, ... with p_(k+1) = H int_0^1 e^(-H (1 - x)) x^k dx = 1 - k p_k/H; all 1 at infinity."""
    small = H.abs() < 0.5
    x = torch.where(small, H, 0.0)
    series = [torch.zeros_like(x) for _ in range(count)]
    for m in range(TERMS, 0, -1):
        terms = [(-1) ** (m - 1) * math.factorial(k) / math.factorial(m + k) for k in range(count)]
        series = [(total + c) * x for total, c in zip(series, terms, strict=True)]
    away = torch.where(small, 1.0, H)
    known = [-torch.expm1(-away)]
    for k in range(1, count):
        known.append(torch.where(torch.isinf(away), 1.0, 1 - k * known[-1] / away))
    return tuple(torch.where(small, s, p) for s, p in zip(series, known, strict=True))


def node_of(part: Tensor, whole: Tensor) -> Tensor:
    """Place part/whole of a node in a step, and 0 where it is no node: either is zero or infinite, or they differ in
    sign, so that the clock turned between them.
    """
    usable = torch.isfinite(part) & torch.isfinite(whole) & (part * whole > 0)
    return torch.where(usable, ratio(part, torch.where(usable, whole, 1.0)), 0.0)


def polynomial_weights(H: Tensor, nodes: list[Tensor]) -> tuple[Tensor, ...]:
    """Weights of D_0 (now, x = 0) and of D at `nodes` x_j (in steps; 0 where there is none), exact for polynomials.

    A coefficient that lacks a node lowers its own order: it uses the nodes before it in the list.
    """
    moments = phi(H, len(nodes) + 1)
    best = (moments[0], *(torch.zeros_like(moments[0] * x) for x in nodes))
    usable = torch.isfinite(H) & (H != 0)
    for count in range(1, len(nodes) + 1):
        usable = usable & (nodes[count - 1] != 0)
        places = [torch.where(usable, x, float(j + 2)) for j, x in enumerate(nodes[:count])]
        weights = [_lagrange(moments, places, j) for j in range(count)]
        full = (moments[0] - sum(weights), *weights, *best[count + 1 :])
        best = tuple(torch.where(usable, new, old) for new, old in zip(full, best, strict=True))
    return best


def _lagrange(moments: tuple[Tensor, ...], nodes: list[Tensor], j: int) -> Tensor:
    """Integral of x prod_k (x - x_k) / [x_j prod_k (x_j - x_k)], k != j."""
    powers, below = [torch.ones_like(nodes[j])], nodes[j]  # coefficients of prod_k (x - x_k), lowest first
    for k, x in enumerate(nodes):
        if k == j:
            continue
        shifted = [torch.zeros_like(x), *powers]
        powers = [s - x * p for s, p in zip(shifted, [*powers, torch.zeros_like(x)], strict=True)]
        below = below * (nodes[j] - x)
    return sum(c * moments[i + 1] for i, c in enumerate(powers)) / below  # type: ignore[return-value]
