"""Distances between clouds of surface points, and what two sets of shapes have in common: MMD, COV, 1-NNA, novelty.

Chamfer: mean_x min_y |x - y|^2 + mean_y min_x |x - y|^2, in mm^2 (Fan et al. 2017; the convention of Yang et al. 2019).
Of sets G (made) and R (reference) with a distance d: MMD = mean_r min_g d(g, r), COV = share of R that is nearest to
some g (Achlioptas et al. 2018), 1-NNA = accuracy of leave-one-out one-nearest-neighbor classification of G against R
(Lopez-Paz, Oquab 2017): one half for two samples of one law, 1 for sets that do not touch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.metrics._arrays import double

__all__ = [
    "DISTANCES",
    "ShapeSets",
    "chamfer",
    "compare_sets",
    "earth_mover",
    "novelty",
    "pairwise",
    "sliced_distance",
]

PAIRS = 1 << 16
"""Of points that are held at once."""

DIRECTIONS = 64
"""Of a sliced distance, on a spiral over the half sphere."""


def chamfer(x: Tensor, y: Tensor) -> float:
    """Chamfer distance of clouds `(P, 3)` and `(Q, 3)`, mm^2."""
    return float(_chamfer(*_clouds(x, y)))


def earth_mover(x: Tensor, y: Tensor) -> float:
    """Least mean |x - phi(x)| over all bijections phi of clouds of equally many points `(P, 3)`, mm: exact, O(P^3).

    Raises `InputError` for clouds of different numbers, and where scipy (the extra `shapes`) is not installed.
    """
    a, b = _clouds(x, y)
    if len(a) != len(b):
        raise InputError("earth_mover", f"{len(a)} and {len(b)} points", "equally many")
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        hint = 'Install it with pip install "retrodict[shapes]".'
        raise InputError("earth_mover", "scipy is not installed", "the extra `shapes`", hint) from error
    cost = torch.linalg.vector_norm(a[:, None] - b, dim=-1).cpu().numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def sliced_distance(x: Tensor, y: Tensor) -> float:
    """Mean over 64 directions of the transport distance between the projected clouds of equally many points, mm.

    A lower bound of `earth_mover` (Rabin et al. 2012): a translation by v gives the mean of |v . direction|.
    """
    a, b = _clouds(x, y)
    if len(a) != len(b):
        raise InputError("sliced_distance", f"{len(a)} and {len(b)} points", "equally many")
    return float((_projected(a) - _projected(b)).abs().mean())


def directions() -> Tensor:
    """Unit vectors `(64, 3)` float64 on a Fibonacci spiral over the half sphere."""
    index = torch.arange(DIRECTIONS, dtype=torch.float64, device="cpu")
    height = (index + 0.5) / DIRECTIONS
    angle = torch.pi * (1 + 5**0.5) * index
    ring = (1 - height**2).sqrt()
    return torch.stack([ring * angle.cos(), ring * angle.sin(), height], -1)


def _projected(x: Tensor) -> Tensor:
    """Sorted projections `(64, P)`."""
    return (directions().to(x.device) @ x.T).sort(-1).values


def _clouds(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    a, b = double("points", x), double("points", y)
    for cloud in (a, b):
        if cloud.ndim != 2 or cloud.shape[1] != 3:
            raise InputError("points", tuple(cloud.shape), "(P, 3): points in mm")
    return a, b.to(a.device)


def _chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Of clouds `(..., P, 3)` and `(..., Q, 3)`, `(...)`."""
    square = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    return square.amin(-1).mean(-1) + square.amin(-2).mean(-1)


DISTANCES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "chamfer": chamfer,
    "emd": earth_mover,
    "sliced": sliced_distance,
}
"""Distances of two clouds, by name."""


def pairwise(first: Sequence[Tensor], second: Sequence[Tensor], distance: str = "chamfer") -> Tensor:
    """The distance of every cloud of one set to every one of another, `(len(first), len(second))` float64."""
    choice("distance", distance, DISTANCES)
    if not first or not second:
        raise InputError("shapes", "an empty set", "at least one shape on either side")
    if distance == "sliced":
        a, b = (torch.stack([_projected(double("points", x)).flatten() for x in s]) for s in (first, second))
        return torch.cdist(a, b, p=1.0) / a.shape[1]
    if first is second and distance != "sliced":  # a distance is symmetric: every pair once
        return _symmetric(list(first), distance)
    if distance == "chamfer":
        return _chamfers([double("points", x) for x in first], [double("points", x) for x in second])
    call = DISTANCES[distance]
    rows = [[call(x, y) for y in second] for x in first]
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def _symmetric(clouds: list[Tensor], distance: str) -> Tensor:
    out = torch.zeros(len(clouds), len(clouds), dtype=torch.float64, device="cpu")
    for i in range(1, len(clouds)):
        out[i, :i] = pairwise(clouds[i : i + 1], clouds[:i], distance)[0].cpu()
    return out + out.T


def _chamfers(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Chamfer distances of all pairs, many at a time where the second set has clouds of one size."""
    if len({x.shape for x in second}) != 1:
        return torch.tensor([[float(_chamfer(x, y)) for y in second] for x in first], dtype=torch.float64, device="cpu")
    rows = []
    for x in first:
        many = max(1, PAIRS // (len(x) * len(second[0])))
        parts = [torch.stack(second[i : i + many]) for i in range(0, len(second), many)]
        rows.append(torch.cat([_chamfer(x.expand(len(part), -1, -1), part) for part in parts]))
    return torch.stack(rows)


@dataclass(frozen=True)
class ShapeSets:
    """Of G against R: `mmd` in the unit of the distance, `cov` and `one_nna` from 0 to 1, and how many there were."""

    mmd: float
    cov: float
    one_nna: float
    made: int
    reference: int


def compare_sets(across: Tensor, made: Tensor, reference: Tensor) -> ShapeSets:
    """MMD, COV and 1-NNA from distances: `across` (G, R), `made` (G, G) and `reference` (R, R).

    The diagonal of the last two is left out.  A tie between the two sets goes to the other one.
    """
    g, r = across.shape
    if made.shape != (g, g) or reference.shape != (r, r):
        found = f"distances of {tuple(made.shape)} and {tuple(reference.shape)}"
        raise InputError("distances", found, f"({g}, {g}) and ({r}, {r}), as across says")
    own_g, own_r = (_without_self(m) for m in (made, reference))
    right = (own_g < across.min(1).values).sum() + (own_r < across.min(0).values).sum()
    covered = len(across.argmin(1).unique()) / r
    return ShapeSets(float(across.min(0).values.mean()), covered, float(right) / (g + r), g, r)


def _without_self(square: Tensor) -> Tensor:
    away = square.clone()
    away.fill_diagonal_(float("inf"))
    return away.min(1).values


def novelty(made_to_training: Tensor, training: Tensor) -> float:
    """Median distance of what was made to the nearest training shape, over the same between training shapes.

    made_to_training `(G, T)`, training `(T, T)`.  Near 1: as new as another draw; near 0: copies.
    """
    nearest, usual = made_to_training.min(1).values.median(), _without_self(training).median()
    if not float(usual) > 0:
        raise InputError("novelty", "training shapes that are copies of each other", "different training shapes")
    return float(nearest / usual)
