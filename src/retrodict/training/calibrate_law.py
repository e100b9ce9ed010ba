"""Factors on the predicted spread of a network that is told the clock: by level and by frequency."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from retrodict._random import key, uniform
from retrodict.bases import Basis, Fourier
from retrodict.denoisers.network import NetDenoiser, Terms
from retrodict.denoisers.spread_scale import SpectrumScale, SpreadScale, hats
from retrodict.processes.clocks import at_rest
from retrodict.processes.observation import Cond, clock, lift, noise_like, ratio
from retrodict.training.ambient import own_error, two_looks
from retrodict.training.calibrate import autocorrelation, scattered, unmixed_factors
from retrodict.training.losses import Batch, Example, ProcessLaw, bind, example, simulate

__all__ = ["calibrate_over_law", "inside"]

TOGETHER = 16
"""Observations that are drawn at one spacing."""

ROUNDS = 5
"""Of fitting each table with the others in place; after four no factor moves by a percent."""

RADIUS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15)
UNKNOWN = (0.0, 0.05, 0.15, 0.35, 0.65, 1.0)
"""Nodes of the factors on the spectrum: |f| over Nyquist, Wiener error over data power."""

MOST_PIXELS = 2**24
"""Pixels of all observations together: of a quarter as many, two draws give factors that differ by a tenth."""

LEAST = 1e-3
"""Least part of a predicted energy that counts as found."""

HELD = 0.02
"""What speaks for a factor of 1, as a part of an average cell: cells in which next to nothing lies stay there."""


def calibrate_over_law(
    denoiser: NetDenoiser,
    batch: Batch,
    law: ProcessLaw,
    *,
    levels: int = 8,
    items: int = 512,
    seed: int = 0,
) -> SpreadScale | None:
    """`calibrate_spread` of a network that is told the clock: over a law of observations and the spacings of `batch`.

    `levels` * `items` observations are drawn and sorted by their noise level, and each of `levels` equal parts gives
    one node.  What is found and what was predicted in the bands of an observation is taken over the Wiener error of its
    clock, so that every clock counts alike, a band for as much of the error as it holds, and an image for as much as it
    errs: the ratio of the sums is that of squared error to variance over whole images (a mean of ratios would give air,
    where the error is small, the weight of an organ).

    A band is an octave, and its highest one holds frequencies that a soft kernel has erased beside others that it
    passes; so the spectrum of the error gets factors by frequency and by how much of the data is unknown there
    (`SpectrumScale`).  Both tables are fitted in turn, each to the ratio of found to predicted energy with the other in
    place (iterative proportional fitting, Deming and Stephan 1940).

    Of images with noise of their own (`Example.noise`) no truth is needed: their error is measured against a second
    look of known noise, which is taken off, and at their own noise by Stein's estimate (`training.ambient`).  Factors
    below that are those of the own noise, and factors that the noise hides are drawn to 1.
    """
    if not denoiser.bands:
        return None
    count = min(levels * items, max(TOGETHER, MOST_PIXELS // math.prod(denoiser.process.basis.size)))
    seen = _joined(list(_over_law(denoiser, batch, law, count, seed)))
    scale = seen.levels(SpreadScale((), ()), levels)
    if not seen.basis.complex:
        scale = replace(scale, spectrum=SpectrumScale(RADIUS, UNKNOWN, ((1.0,) * len(UNKNOWN),) * len(RADIUS)))
        predicted = seen.predicted(scale)
        for _ in range(ROUNDS):
            scale = seen.spectrum(scale, predicted)
            predicted = seen.predicted(scale)
            scale = seen.levels(scale, levels, predicted)
    return scale


def _over_law(denoiser: NetDenoiser, batch: Batch, law: ProcessLaw, count: int, seed: int) -> Iterator[_Seen]:
    """What one call says of `count` observations, and how wrong it is."""
    for start in range(0, count, TOGETHER):
        keys = [key(seed, "calibration", start + i) for i in range(min(TOGETHER, count - start))]
        seeds, made = torch.tensor(keys, device="cpu"), example(batch(keys), denoiser)
        if made.noise is not None:
            yield _without_truth(denoiser, made, law, seeds, own=start // TOGETHER % 4 == 0)
            continue
        x0, y, spacing = made[:3]
        bound, t = bind(denoiser, law, spacing, seeds), torch.ones(len(keys), dtype=torch.float64, device="cpu")
        xt, cond = simulate(bound.process, x0, t, seeds, y)
        with torch.no_grad():
            terms = bound.training_terms(xt, t, cond)
            yield _seen(bound, terms, _energy(bound, x0 - bound.answer(terms)))


def _without_truth(denoiser: NetDenoiser, made: Example, law: ProcessLaw, seeds: Tensor, own: bool) -> _Seen:
    """`_seen` of noisy images: at their own noise, or with at least as much again added to it."""
    denoiser, t = bind(denoiser, None, made.spacing, seeds), torch.ones(len(seeds), dtype=torch.float64, device="cpu")
    basis, y, noise = denoiser.process.basis, made.x0, made.noise
    assert noise is not None
    assert isinstance(basis, Fourier)
    if own:
        bound = replace(denoiser.at(at_rest(basis, noise)), precision="float32")  # the probe takes small steps
        with torch.no_grad():
            probe = noise_like(y, seeds, "probe", 0)
            found = own_error(lambda x: bound.estimate(x, t).mean, y, noise, probe, basis, inside(basis))[1]
            return _seen(bound, bound.training_terms(y, t, Cond()), found.sum(1), noise.expand_as(found).sum(1))
    clocks = clock(law(basis, seeds).moments(t))
    times = lift((50.0 ** uniform(seeds, "calibration-times", 0)).to(basis.device), basis.ndim)
    many = lift((uniform(seeds, "calibration-law", 0) < 0.5).to(basis.device), basis.ndim)
    added = torch.where(many, torch.maximum(clocks, noise), noise * times)
    looks = two_looks(y, noise, added, noise_like(y, seeds, "state", 0), basis)
    bound = denoiser.at(at_rest(basis, looks.clock))
    with torch.no_grad():
        terms = bound.training_terms(looks.state, t, Cond())
        window = autocorrelation(inside(basis), basis.ndim)
        known = scattered(basis, window, looks.variance.expand(len(y), y.shape[1], *basis.shape)).sum(1)
        return _seen(bound, terms, _energy(bound, looks.target - bound.answer(terms)) - known, known)


def _energy(bound: NetDenoiser, error: Tensor) -> Tensor:
    """Energy of an error `(B, C, *N)` by coefficient, seen through the window, `(B, *K)`."""
    basis = bound.process.basis
    wide = error.to(torch.promote_types(error.dtype, torch.float64))
    return (basis.forward(inside(basis) * wide).abs() ** 2).sum(1)


def _seen(bound: NetDenoiser, terms: Terms, energy: Tensor, noise: Tensor | None = None) -> _Seen:
    """noise: energy `(B, *K)` of what was taken off to find that of the error."""
    basis, v = bound.process.basis, terms.linear.v
    assert isinstance(basis, Fourier)
    assert terms.log_ratio is not None
    weight, window = basis.multiplicity() / basis.multiplicity().sum(), inside(basis)
    sigma = window * (0.5 * terms.log_ratio.clamp(-14.0, 5.0).double()).exp()
    unknown = ratio(v, bound.data_power.expand_as(v), otherwise=1.0).mean(1)
    count = len(energy)
    return _Seen(
        bound.noise_level(terms).expand(count),
        energy * weight,
        torch.zeros_like(energy) if noise is None else 2 * (noise * weight) ** 2,
        autocorrelation(sigma, basis.ndim).float(),
        v.expand(count, *v.shape[1:]),
        unknown.expand(count, *unknown.shape[1:]),
        bound,
    )


def _joined(parts: list[_Seen]) -> _Seen:
    """On grids of one size all bands and radii are the same parts of Nyquist, whatever the spacing of a batch."""
    joined = {name: torch.cat([getattr(p, name) for p in parts]) for name in FIELDS}
    return _Seen(**joined, denoiser=parts[0].denoiser)


FIELDS = ("level", "energy", "doubt", "together", "v", "unknown")


@dataclass(frozen=True, eq=False)
class _Seen:
    """Observations: noise level `(B,)`; energy of the error by coefficient `(B, *K)`, and the variance of that by noise
    that was taken off; `autocorrelation` of the predicted local deviations before any factor `(B, bands, C, *N)`;
    Wiener error v `(B, C|1, *K)`, and v over the power of the data `(B, *K)`.

    Error and deviation are looked at through a window that leaves out the border: a patch that is taken as periodic has
    an edge there that no image has.
    """

    level: Tensor
    energy: Tensor
    doubt: Tensor
    together: Tensor
    v: Tensor
    unknown: Tensor
    denoiser: NetDenoiser

    @property
    def basis(self) -> Fourier:
        """That of the first: others differ in spacing alone."""
        basis = self.denoiser.process.basis
        assert isinstance(basis, Fourier)
        return basis

    @cached_property
    def filters(self) -> Tensor:
        """Squares of the octave filters, `(bands, *K)`."""
        assert self.denoiser.filters is not None
        return self.denoiser.filters**2

    @cached_property
    def alike(self) -> Tensor:
        """One over the Wiener error of an observation, `(B,)`."""
        return (-2 * self.level).exp()

    @cached_property
    def _radius(self) -> Tensor:
        return hats(RADIUS, self.basis.radius() * 2 * min(self.basis.spacing))

    @cached_property
    def _unknown(self) -> Tensor:
        return hats(UNKNOWN, self.unknown).float()

    def predicted(self, scale: SpreadScale) -> list[Tensor]:
        """Energy `(B, *K)` that the predicted error of every band leaves in the coefficients, without the factors by
        level.
        """
        v, weight = self.v, self.basis.multiplicity() / self.basis.multiplicity().sum()
        if scale.spectrum is not None:
            v = v * scale.spectrum.at(self.unknown, self.basis)[:, None]
        pairs = zip(self.together.unbind(1), self.filters, strict=True)
        return [scattered(self.basis, one, v * square).sum(1) * weight for one, square in pairs]

    # ---- the tables, each with the others in place --------------------------------------------------------------

    def levels(self, scale: SpreadScale, count: int, predicted: list[Tensor] | None = None) -> SpreadScale:
        """Factors by level and band."""
        found = torch.einsum("a...,n...->na", self.filters, self.energy)
        doubt = torch.einsum("a...,n...->na", self.filters**2, self.doubt)
        parts = self.predicted(scale) if predicted is None else predicted
        leakage = torch.stack([torch.einsum("a...,n...->na", self.filters, p) for p in parts], -1)
        nodes, factors = [], []
        for part in self.level.argsort().chunk(count):
            weight = self.alike[part]
            nodes.append(max(float(self.level[part].mean()), *(n + 1e-6 for n in nodes[-1:]), -math.inf))  # nodes rise
            squares, left = (torch.einsum("n,n...->...", weight, x[part]) for x in (found, leakage))
            held = torch.einsum("n,na->a", weight**2, doubt[part]).sqrt()
            squares = squares.clamp_min(LEAST * left.sum(1)) + held  # noise taken off may leave less than nothing
            left = left + held.diag()
            factors.append(tuple(unmixed_factors(squares, left).tolist()))
        return replace(scale, level=tuple(nodes), factor=tuple(factors))

    def spectrum(self, scale: SpreadScale, predicted: list[Tensor]) -> SpreadScale:
        """Factors by frequency and by how much is unknown there."""
        assert scale.spectrum is not None
        factors = scale.log_at(self.level).exp()[(..., *[None] * self.basis.ndim)]
        said = torch.stack([p * factors[:, b] for b, p in enumerate(predicted)]).sum(0)
        table = torch.tensor(scale.spectrum.factor, dtype=torch.float64, device=said.device)
        table = table * _held(self._cells(self.energy), self._cells(said), self._cells(self.doubt, 2).sqrt())
        return replace(scale, spectrum=replace(scale.spectrum, factor=tuple(map(tuple, table.tolist()))))

    def _cells(self, energy: Tensor, power: int = 1) -> Tensor:
        """Energy `(B, *K)` by radius and by what is unknown, every observation counted alike, `(n, m)`; of a variance
        with squares of all weights, `power` 2.
        """
        weighted = energy * self.alike[(slice(None), *[None] * self.basis.ndim)] ** power
        by_unknown = torch.stack([(weighted * part**power).sum(0) for part in self._unknown])
        return torch.einsum("n...,m...->nm", self._radius**power, by_unknown)


def _held(found: Tensor, predicted: Tensor, error: Tensor) -> Tensor:
    """Found over predicted, drawn to 1 where there is little of either, or less than the error of what was found."""
    little = HELD * predicted.mean() + error
    return (found.clamp_min(LEAST * predicted) + little) / (predicted + little)


def inside(basis: Basis) -> Tensor:
    """0 within a tenth of the side from the border, 1 from two tenths on, with a cosine between."""
    window = torch.ones(basis.size, dtype=torch.float64, device=basis.device)
    for axis, n in enumerate(basis.size):
        place = (torch.arange(n, dtype=torch.float64, device=basis.device) + 0.5) / n
        ramp = ((torch.minimum(place, 1 - place) - 0.1) / 0.1).clamp(0, 1)
        line = torch.sin(0.5 * math.pi * ramp) ** 2
        window = window * line.reshape([n if k == axis else 1 for k in range(basis.ndim)])
    return window
