"""What a set of whole images is like, and how far two sets are apart: laws of pixels and bands, spectrum, layout.

Every statistic is kept for each image, so that a bootstrap over patients costs no transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from phi4 import spectrum
from retrodict.bases import Wavelet

LAYOUT = 16
"""Side of the images whose mean and deviation are compared."""
REACH = np.linspace(-6.0, 6.0, 601)
"""Where laws of bands are compared, in deviations of the reference."""


class Grid(NamedTuple):
    """Where laws are compared: values of pixels, and the deviation of the details of every level, finest first."""

    pixels: np.ndarray
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """Of n images: power in rings `(n, R)`, share of pixels up to every value `(n, P)`, the same of the details of
    every level `(n, J, Q)`, and the images at 16 x 16 `(n, 16, 16)`."""

    rings: np.ndarray
    pixels: np.ndarray
    bands: np.ndarray
    layout: np.ndarray

    def take(self, which: np.ndarray) -> Measured:
        """Some of the images, or some again."""
        return Measured(*(getattr(self, name)[which] for name in ("rings", "pixels", "bands", "layout")))


def details(images: np.ndarray, levels: int) -> list[np.ndarray]:
    """Details of every level, finest first, `(n, 3 M^2)`: orthonormal Haar."""
    basis = Wavelet(images.shape[1:], levels=levels, family="haar")
    parts = basis.split(basis.forward(torch.from_numpy(images).double()))
    of = {j: [v for (level, name), v in parts.items() if level == j and "d" in name] for j in range(1, levels + 1)}
    return [torch.stack(of[j], 1).flatten(1).numpy() for j in range(1, levels + 1)]


def grid_of(reference: np.ndarray, pixels: np.ndarray, levels: int) -> Grid:
    """Where laws are compared with those of `reference` `(n, N, N)`."""
    return Grid(pixels, tuple(float(np.sqrt(np.mean(x**2))) for x in details(reference, levels)))


def shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The share of the values `(n, m)` of every image that is at most each of the rising edges, `(n, len(edges))`."""
    return np.stack([np.searchsorted(np.sort(x), edges, side="right") / len(x) for x in values])


def measure(images: np.ndarray, grid: Grid) -> Measured:
    """What is compared of images `(n, N, N)`."""
    n, side = len(images), images.shape[-1]
    parts = details(images, len(grid.deviations))
    bands = np.stack([shares(x, s * REACH) for x, s in zip(parts, grid.deviations, strict=True)], 1)
    block = side // LAYOUT
    layout = images.reshape(n, LAYOUT, block, LAYOUT, block).mean((2, 4), dtype=np.float64)
    rings = np.stack([spectrum(x[None].astype(np.float64)) for x in images])
    return Measured(rings, shares(images.reshape(n, -1), grid.pixels), bands, layout)


def kolmogorov(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of two laws, from the shares of each image, at the edges."""
    return float(np.abs(a.mean(0) - b.mean(0)).max())


def wasserstein(a: np.ndarray, b: np.ndarray, edges: np.ndarray) -> float:
    """int |F - G|, by the trapezoidal rule: mean distance of the values, those beyond the edges taken to the edge."""
    return float(np.trapezoid(np.abs(a.mean(-2) - b.mean(-2)), edges))


def errors(a: Measured, b: Measured, grid: Grid) -> dict[str, float]:
    """Distances of a set from a reference b.

    spectrum: root mean square over rings of the difference of log power.  pixels: Kolmogorov-Smirnov.  bands: mean over
    levels of the Wasserstein distance over the deviation.  mean, deviation: of the images at 16 x 16, root mean square
    difference over that of the pixels of b about their mean.
    """
    log = np.log(a.rings.mean(0)) - np.log(b.rings.mean(0))
    spread = float(np.sqrt(np.mean(b.layout.var(0))))
    far = [wasserstein(a.bands[:, j], b.bands[:, j], REACH) for j in range(a.bands.shape[1])]
    return {
        "spectrum": float(np.sqrt(np.mean(log**2))),
        "pixels": kolmogorov(a.pixels, b.pixels),
        "bands": float(np.mean(far)),
        "mean": float(np.sqrt(np.mean((a.layout.mean(0) - b.layout.mean(0)) ** 2))) / spread,
        "deviation": float(np.sqrt(np.mean((a.layout.std(0) - b.layout.std(0)) ** 2))) / spread,
    }


def scatter(a: Measured, b: Measured, groups: Sequence[int], grid: Grid, rounds: int = 200) -> dict[str, float]:
    """Deviation of `errors` when the images of a, and the groups (patients) of b, are drawn again."""
    rng, own = np.random.default_rng(0), np.asarray(groups)
    members = [np.flatnonzero(own == g) for g in np.unique(own)]
    rows = []
    for _ in range(rounds):
        chosen = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        rows.append(errors(a.take(rng.integers(len(a.rings), size=len(a.rings))), b.take(chosen), grid))
    return {name: float(np.std([row[name] for row in rows])) for name in rows[0]}


def nearest(layout: np.ndarray, known: np.ndarray) -> float:
    """Median root mean square distance of images at 16 x 16 `(n, 16, 16)` from the nearest of `known`."""
    far = np.sqrt(((layout[:, None] - known[None]) ** 2).mean((2, 3)))
    return float(np.median(far.min(1)))


def halves(measured: Measured, groups: Sequence[int]) -> tuple[Measured, Measured]:
    """The images of every other group, and the rest."""
    own = np.asarray(groups)
    odd = np.isin(own, np.unique(own)[1::2])
    return measured.take(np.flatnonzero(~odd)), measured.take(np.flatnonzero(odd))
