"""Two scans of one object and what the posterior of the first says of the second.

    y_1 = h_1 x_0 + s_1 z_1,   y_2 = h_2 x_0 + s_2 z_2,   x_k ~ p(x_0 | y_1),   m = E[x_0 | y_1],   e = y_2 - h_2 m.

Given y_1, e has mean 0 and the covariance of h_2 x_k plus that of the noise, whatever the prior: that is what is
compared.  With K members the mean of them stands for m, which adds 1/K of the posterior variance.  And e is orthogonal
to every function of y_1, so to r = y_1 - h_1 m.  Where the scans share noise (correlation c) the slope of e on r is c,
exactly so for Gaussian data: cov(e, r) = c N^2 / M and var(r) = N^2 / M with M = h^2 L + N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.bases import Fourier
from retrodict.metrics.predictive import disc, disc_means, predictive_factor
from retrodict.metrics.ranks import ranks
from retrodict.processes.observation import Moments, noise_like
from retrodict.processes.process import Process
from retrodict.samplers.margin import Frame, frame_of, mirrored
from retrodict.samplers.misfit import band_filters, reach
from retrodict.tasks.tissues import classes_of

__all__ = ["DISCS", "LEVELS", "Laws", "Place", "Seen", "Tally", "edges_of", "joined"]


BANDS = 5
"""Bands of equal width up to the Nyquist frequency; the last one holds the corners, too."""


DISCS = (2.0, 5.0, 10.0, 20.0)
"""Diameters in mm of the discs whose means are predicted."""


LEVELS = (0.5, 0.9)
"""Probabilities of the predictive intervals."""


TILE = 16
"""Side in pixels of the tiles whose scatter gives the error of a figure."""


STRIDE = 8
"""Distance in pixels between those whose rank is counted: neighbors are not independent."""


class Tally(NamedTuple):
    """Sums over tiles `(rows, tiles)` for rows such as bands or classes.

    `observed` e^2; `posterior` and `noise` what is predicted of it, (1 + 1/K) times the variance of members and the
    law of the noise; `inside` `(levels, rows, tiles)` values in their interval; `count` values.
    """

    observed: Tensor
    posterior: Tensor
    noise: Tensor
    inside: Tensor
    count: Tensor


class Seen(NamedTuple):
    """What was seen of one slice: tallies of bands, classes (the last: all of them) and discs (one for each diameter),
    sums `(bands, tiles)` of e r and r^2 without what the finite ensemble adds, and counts of ranks 0 ... K.
    """

    bands: Tally
    classes: Tally
    discs: tuple[Tally, ...]
    cross: Tensor
    own: Tensor
    ranks: Tensor


def joined(parts: Sequence[Seen], *, same: bool) -> Seen:
    """Tallies of several scans of the `same` slice, which are added tile by tile, or of several slices."""
    first, *rest = parts
    for part in rest:
        first = _joined(first, part, same)
    return first


def _joined(a: Seen, b: Seen, same: bool) -> Seen:
    def both(x: Tensor, y: Tensor) -> Tensor:
        return x + y if same else torch.cat([x, y], -1)

    def tally(x: Tally, y: Tally) -> Tally:
        return Tally(*map(both, x, y))

    discs = tuple(map(tally, a.discs, b.discs))
    return Seen(tally(a.bands, b.bands), tally(a.classes, b.classes), discs, both(a.cross, b.cross),
                both(a.own, b.own), a.ranks + b.ranks)  # fmt: skip


def edges_of(process: Process) -> tuple[float, ...]:
    """Edges of the bands in cycles/mm."""
    nyquist = 0.5 / max(process.basis.spacing)
    corner = math.hypot(*(0.5 / s for s in process.basis.spacing))
    return (*(nyquist * k / BANDS for k in range(BANDS)), corner)


@dataclass(frozen=True)
class Laws:
    """The laws of two scans on images of a `size` (H, W); `first` and `second` are processes that end at them.

    `margin`: pixels of mirrored border, as the checks of a verdict have them; no pixel within `reach` of the border is
    looked at.  Raises `InputError` for a process of another basis or without a law.
    """

    first: Process
    second: Process
    size: tuple[int, int]
    margin: int = 16

    def __post_init__(self) -> None:
        """Refuse what has no law of two axes."""
        for process in (self.first, self.second):
            if type(process.basis) is not Fourier or process.basis.complex or process.ndim != 2:
                found = f"a process on {process.basis}"
                raise InputError("repeats", found, "one of real images of two axes in the Fourier basis")
            if process.measurement is None:
                raise InputError("repeats", "a process without a law of the measurement", "one with an MTF and an NPS")

    @cached_property
    def frame(self) -> Frame:
        """The border round the images."""
        return frame_of(self.size, self.first.basis, self.margin, 1)

    @cached_property
    def basis(self) -> Fourier:
        """The basis of the framed grid, on the CPU."""
        return Fourier(self.frame.size, self.first.basis.spacing)

    @cached_property
    def edges(self) -> tuple[float, ...]:
        """Edges of the bands in cycles/mm."""
        return edges_of(self.first)

    @property
    def reach(self) -> int:
        """Pixels that a filtered pixel looks far, along the axis of the finer ones."""
        return max(reach(self.edges, self.basis.spacing))

    @cached_property
    def filters(self) -> list[Tensor]:
        """Filter `(*K)` of every band."""
        return band_filters(self.basis.radius(), self.edges)

    def law(self, which: int) -> Moments:
        """Gain and noise variance `(*K)` of scan 1 or 2."""
        process = (self.first, self.second)[which - 1].to("cpu").on(self.frame.size)
        found = process.measurement
        assert found is not None
        return Moments(*(t.reshape(t.shape[-2:]).expand(self.basis.shape) for t in found))

    @cached_property
    def same_blur(self) -> bool:
        """Whether both scans have one MTF."""
        return bool(torch.allclose(self.law(1).h, self.law(2).h, rtol=1e-9, atol=1e-12))

    def difference_law(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gains (a, b) `(*K)` with a y_2 - b y_1 free of the object, and the variance of that difference."""
        one, two = self.law(1), self.law(2)
        if self.same_blur:
            return torch.ones_like(one.h), torch.ones_like(one.h), one.s2 + two.s2
        return one.h, two.h, one.h**2 * two.s2 + two.h**2 * one.s2

    def power(self, variance: Tensor) -> float:
        """Mean square of a pixel of a field with a `variance` `(*K)` per coefficient."""
        weight = self.basis.multiplicity()
        return float((weight * variance).sum() / weight.sum())

    def log_variance(self, variance: Tensor, pixels: int) -> float:
        """Sampling variance of the log power of a Gaussian field over `pixels` pixels; infinite without power."""
        weight = self.basis.multiplicity()
        total, second = float((weight * variance).sum()), float((weight * variance**2).sum())
        return 2 * second / total**2 * math.prod(self.basis.size) / max(1, pixels) if total > 0 else math.inf

    def coefficients(self, images: Tensor) -> Tensor:
        """Coefficients `(n, *K)` of images `(n, H, W)` within the frame, in float64."""
        return self.basis.forward(mirrored(images.double().cpu()[:, None], self.frame))[:, 0]

    def pixels(self, coefficients: Tensor) -> Tensor:
        """Images `(n, H, W)` of coefficients `(n, *K)`."""
        return self.basis.inverse(coefficients[:, None])[self.frame.crop][:, 0]

    @property
    def tiles(self) -> tuple[int, int]:
        """Number of tiles down and across."""
        return -(-self.size[0] // TILE), -(-self.size[1] // TILE)

    def pixels_of_noise(self, fields: Tensor, variance: Tensor) -> Tensor:
        """The covariance of noise of a `variance` `(*K)` times fields `(..., H, W)`, which are 0 beyond the border."""
        framed = fields.new_zeros(*fields.shape[:-2], *self.basis.size)
        framed[self.frame.crop] = fields
        return self.basis.inverse(variance * self.basis.forward(framed))[self.frame.crop]

    # ---- one slice ---------------------------------------------------------------------------------------------

    def look(
        self, y1: Tensor, y2: Tensor, members: Tensor, seen: Tensor, *, seed: int = 0, mean_in_unit: Tensor, unit: str
    ) -> Seen:
        """Compare scan 2 with what members `(K, H, W)` of the posterior of scan 1 predict, where `seen` `(H, W)`.

        y1, y2 `(H, W)` and members in model units; `mean_in_unit` `(H, W)`: the posterior mean in the `unit` of the
        image, for the classes.  `seed` draws the noise of the ranks.
        """
        one, two, count = self.law(1), self.law(2), len(members)
        u = self.coefficients(members)
        predicted, e = two.h * u, self.coefficients(y2[None])[0] - (two.h * u).mean(0)
        r, fitted = self.coefficients(y1[None])[0] - (one.h * u).mean(0), one.h * u
        place = Place.of(seen)
        rows, cross, own = [], [], []
        for f in self.filters:
            field, errors, spread = self.pixels(f * predicted), self.pixels((f * e)[None])[0], 1 + 1 / count
            rows.append((errors**2, spread * field.var(0), self.power(f**2 * two.s2)))
            residual, other = self.pixels((f * r)[None])[0], self.pixels(f * fitted)
            shared = ((field - field.mean(0)) * (other - other.mean(0))).sum(0) / (count - 1) / count
            cross.append(place.sums(errors * residual - shared))
            own.append(place.sums(residual**2 - other.var(0) / count))
        images, errors = self.pixels(predicted), self.pixels(e[None])[0]
        return Seen(
            place.tally(rows, None),
            self._classes(place, images, errors, mean_in_unit, unit),
            tuple(self._disc(d, images, errors, seen) for d in DISCS),
            torch.stack(cross),
            torch.stack(own),
            self._ranks(images, y2.double().cpu(), seen, seed),
        )

    def _classes(self, place: Place, images: Tensor, errors: Tensor, mean: Tensor, unit: str) -> Tally:
        count, noise = len(images), self.power(self.law(2).s2)
        posterior = (1 + 1 / count) * images.var(0)
        inside = _inside(errors, posterior, noise, count)
        names, number = classes_of(mean.cpu(), unit)
        masks = [*((number == k).double() for k in range(len(names))), torch.ones_like(errors)]
        return place.tally([(errors**2, posterior, noise)] * len(masks), inside, masks)

    def _disc(self, diameter: float, images: Tensor, errors: Tensor, seen: Tensor) -> Tally:
        pixel, count = (self.basis.spacing[0], self.basis.spacing[1]), len(images)
        posterior = (1 + 1 / count) * disc_means(images, diameter, pixel, seen).var(0)[None]
        error = disc_means(errors[None], diameter, pixel, seen)
        weights, kernel = disc(diameter, pixel), torch.zeros(self.basis.size, dtype=torch.float64, device="cpu")
        if any(a > b for a, b in zip(weights.shape, self.size, strict=True)):
            noise = 0.0
        else:
            kernel[: weights.shape[0], : weights.shape[1]] = weights
            noise = self.power(self.law(2).s2 * self.basis.energy(self.basis.forward(kernel)) * kernel.numel())
        inside = _inside(error, posterior, noise, count)
        return Tally(error**2, posterior, torch.full_like(error, noise), inside.double(), torch.ones_like(error))

    def _ranks(self, images: Tensor, y2: Tensor, seen: Tensor, seed: int) -> Tensor:
        """Ranks of scan 2 among members with noise of their own: uniform whatever the number of members."""
        seeds = torch.tensor([key(seed, "predictive", k) for k in range(len(images))], device="cpu")
        like = torch.zeros(len(images), 1, *self.basis.size, dtype=torch.float64, device="cpu")
        noise = self.pixels(self.law(2).s2.sqrt() * self.basis.forward(noise_like(like, seeds, "noise", 0))[:, 0])
        thin = torch.zeros_like(seen)
        thin[::STRIDE, ::STRIDE] = seen[::STRIDE, ::STRIDE]
        if not bool(thin.any()):
            return torch.zeros(len(images) + 1, dtype=torch.long, device="cpu")
        found = ranks((images + noise)[:, thin], y2[thin], seed=seed)
        return torch.bincount(found.long(), minlength=len(images) + 1)


def _inside(errors: Tensor, posterior: Tensor, noise: float, count: int) -> Tensor:
    """Whether errors are within their intervals `(levels, ...)`."""
    sd = (posterior + noise).sqrt()
    return torch.stack([errors.abs() <= predictive_factor(p, posterior, noise, count) * sd for p in LEVELS])


class Place(NamedTuple):
    """Which pixels are looked at, and the tile that each is in."""

    seen: Tensor
    tile: Tensor
    tiles: int

    @classmethod
    def of(cls, seen: Tensor) -> Place:
        rows, columns = (torch.arange(n, device="cpu") // TILE for n in seen.shape)
        wide = int(columns[-1]) + 1
        return cls(seen.cpu(), rows[:, None] * wide + columns[None], (int(rows[-1]) + 1) * wide)

    def sums(self, values: Tensor) -> Tensor:
        """Sums `(tiles,)` of values `(H, W)`."""
        out = torch.zeros(self.tiles, dtype=torch.float64, device="cpu")
        return out.index_add(0, self.tile[self.seen], values.double().cpu()[self.seen])

    def tally(
        self,
        rows: Sequence[tuple[Tensor, Tensor, float]],
        inside: Tensor | None,
        masks: Sequence[Tensor] | None = None,
    ) -> Tally:
        """Sums of rows (e^2, posterior variance, noise variance), of all that is seen or of masks `(H, W)`."""
        masks = [torch.ones(self.seen.shape, dtype=torch.float64, device="cpu")] * len(rows) if masks is None else masks
        pairs = list(zip(rows, masks, strict=True))
        hits = [[self.sums(m * level) for m in masks] for level in ([] if inside is None else inside)]
        empty = torch.zeros(0, len(rows), self.tiles, dtype=torch.float64, device="cpu")
        return Tally(
            torch.stack([self.sums(m * o) for (o, _, _), m in pairs]),
            torch.stack([self.sums(m * v) for (_, v, _), m in pairs]),
            torch.stack([n * self.sums(m) for (_, _, n), m in pairs]),
            torch.stack([torch.stack(row) for row in hits]) if hits else empty,
            torch.stack([self.sums(m) for _, m in pairs]),
        )
