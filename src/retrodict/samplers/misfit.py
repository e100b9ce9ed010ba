"""How badly samples explain the measured image, band by band and place by place, and the law of it when all is right.

Given y, a sample of the posterior has the law of the truth: (x, y) and (truth, y) have one joint law, and y - h x that
of the noise, whatever the prior.  So the power of y - h x over that of the noise is 1 in every band, with a known
sampling error.  It tests the instrument and not the prior (`retrodict.metrics.data_misfit` is the same for arrays).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.bases import Basis, Fourier
from retrodict.denoisers.denoiser import Denoiser
from retrodict.processes.observation import noise_like
from retrodict.processes.process import Process
from retrodict.samplers.loop import answer
from retrodict.samplers.margin import Frame, frame_of, mirrored, surrounded

__all__ = ["BandMisfit", "Bands", "Ratios", "bands_of", "flat_pixels", "grown", "one_call", "reach"]


BANDS = 3
"""Bands of equal width among the frequencies that are mostly noise; below them is one more."""


MOSTLY_NOISE = 0.5
"""Power of the blurred data over that of the noise below which a frequency is mostly noise."""


TILE = 16
"""Side in pixels of the tiles over which the noise is compared."""


# ---- bands -------------------------------------------------------------------------------------------------------


class Bands(NamedTuple):
    """Edges in cycles/mm, and for every band the power of the blurred data over that of the noise."""

    edges: tuple[float, ...]
    content: tuple[float, ...]


def noise_bands(process: Process, spectrum: Tensor) -> Bands:
    """Bands of |f|: one of what the data may fill, and `BANDS` of what is mostly noise, up to the corner.

    `spectrum`: variance of the data on the basis of the process.  Without a frequency that is mostly noise the upper
    third is taken.  Wavelet and pixel bases are looked at through their draws.
    """
    basis = partner(process.basis)
    radius, weight = basis.radius(), basis.multiplicity()
    assert process.measurement is not None
    noise, data = _noise(process), _power(process, process.measurement.h**2 * spectrum)
    top = float(radius.max())
    nodes = torch.linspace(0, top + 1e-9, 33, dtype=torch.float64, device="cpu")
    content = torch.stack(
        [_share(data, noise, weight * ((radius >= a) & (radius <= b))) for a, b in pairwise(nodes.tolist())]
    )
    loud = (content > MOSTLY_NOISE).nonzero().flatten().tolist()
    low = float(nodes[loud[-1] + 1]) if loud else 0.0
    low = low if low < 0.8 * top else 2 / 3 * top
    inner = torch.linspace(low, top, BANDS + 1, dtype=torch.float64, device="cpu").tolist()
    edges = (0.0, *inner) if low > 0 else tuple(inner)
    filters = band_filters(radius, edges)
    return Bands(edges, tuple(float(_share(data, noise, weight * f**2)) for f in filters))


def _share(data: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
    total = (noise * weight).mean()
    return (data * weight).mean() / total if bool(total > 0) else torch.full_like(total, math.inf)


def band_filters(radius: Tensor, edges: tuple[float, ...]) -> list[Tensor]:
    """Filters F_b of |f| with sum F_b^2 = 1: cosine ramps a third of the narrowest band wide, so that they stay local
    in space.
    """
    width = min(b - a for a, b in pairwise(edges)) / 3
    remaining, out = torch.ones_like(radius), []
    for edge in reversed(edges[1:-1]):
        above = ((radius - edge) / width + 0.5).clamp(0, 1)
        out.append(remaining * torch.sin(0.5 * math.pi * above))
        remaining = remaining * torch.cos(0.5 * math.pi * above)
    return [remaining, *reversed(out)]


def partner(basis: Basis) -> Fourier:
    """The Fourier basis of the images of any basis."""
    return basis if type(basis) is Fourier else Fourier(basis.size, basis.spacing, basis.device, basis.complex)


def _noise(process: Process) -> Tensor:
    """Variance of the noise per coefficient of the Fourier partner, `(*K)` or `(C, *K)`."""
    assert process.measurement is not None
    return _power(process, process.measurement.s2)


def _power(process: Process, variance: Tensor) -> Tensor:
    basis = partner(process.basis)
    power = variance if type(process.basis) is Fourier else _drawn(process, variance)
    lead = power.shape[: max(0, power.ndim - basis.ndim)]
    return power.expand(*lead, *basis.shape)


def _drawn(process: Process, variance: Tensor, draws: int = 32) -> Tensor:
    """Power `(C, *K)` in the Fourier partner of draws with a variance per coefficient of the basis."""
    basis, fourier = process.basis, partner(process.basis)
    channels = variance.shape[0] if variance.ndim > basis.ndim else basis.channels or 1
    like = torch.zeros(draws, channels, *basis.size, dtype=torch.float64, device=basis.device)
    like = like.to(torch.complex128) if basis.complex else like
    z = noise_like(like, torch.arange(draws, device="cpu"), "misfit-law", 0)
    field = basis.inverse(variance.sqrt().to(z.real) * basis.forward(z))
    return fourier.energy(fourier.forward(field)).mean(0)


@lru_cache(maxsize=16)
def reach(edges: tuple[float, ...], spacing: tuple[float, ...]) -> tuple[int, ...]:
    """Pixels along every axis within which 99 % of the energy of every band filter lies: how far a pixel looks.

    The filters are functions of |f|, so it is one distance in mm, and fewer of the thicker voxels.
    """
    size = tuple(64 if len(spacing) == 3 else 128 for _ in spacing)
    basis = Fourier(size, spacing)
    axes = [
        d * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device="cpu") for n, d in zip(size, spacing, strict=True)
    ]
    distance = torch.stack([a.abs() for a in torch.meshgrid(*axes, indexing="ij")]).amax(0).flatten()
    order, worst = distance.argsort(), 0.0
    for f in band_filters(basis.radius(), edges):
        energy = basis.inverse(f.to(torch.complex128)).square().flatten()[order].cumsum(0)
        worst = max(worst, float(distance[order][int((energy < 0.99 * energy[-1]).sum())]))
    return tuple(int(worst / d + 1e-9) for d in spacing)


# ---- where noise can be seen -------------------------------------------------------------------------------------


def flat_pixels(values: Tensor) -> Tensor:
    """Pixels `(B, *N)` of values `(B, C, *N)` that no noise of an instrument leaves so: clipped, padded or constant.

    True where a pixel equals all its neighbors, and where it has the largest or smallest value of its item and more
    than one pixel in a thousand has it.
    """
    x = torch.view_as_real(values).movedim(-1, 1).flatten(1, 2) if values.is_complex() else values
    ndim, lead = x.ndim - 2, (x.shape[0] * x.shape[1], 1)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[ndim]
    flat = x.reshape(*lead, *x.shape[2:]).double()
    high, low = pool(flat, 3, 1, 1), -pool(-flat, 3, 1, 1)
    same = high == low
    for extreme in (flat.flatten(1).amax(1), flat.flatten(1).amin(1)):
        at = flat == extreme.reshape(-1, *[1] * (ndim + 1))
        often = at.flatten(1).double().mean(1) > 1e-3
        same |= at & often.reshape(-1, *[1] * (ndim + 1))
    return same.reshape(x.shape).any(1)


def grown(mask: Tensor, by: int | tuple[int, ...]) -> Tensor:
    """The mask `(B, *N)` widened by `by` pixels along every axis; what lies outside the image counts as inside it."""
    by = (by,) * (mask.ndim - 1) if isinstance(by, int) else by
    x = F.pad(mask.double(), [n for n in reversed(by) for _ in range(2)], value=1.0)
    for axis, n in enumerate(by, start=1):  # a box is lines along every axis: three times its side, not its cube
        lines = x.movedim(axis, -1)
        x = F.max_pool1d(lines.reshape(1, -1, lines.shape[-1]), 2 * n + 1, 1)
        x = x.reshape(*lines.shape[:-1], -1).movedim(-1, axis)
    return x > 0


# ---- the statistic -----------------------------------------------------------------------------------------------


class Ratios(NamedTuple):
    """Of one measured image: power of y - h x over that of the noise in every band `(k, bands)` for k images x, and
    `uneven` `(k,)`: the variance of its log over tiles, over what the noise itself makes (NaN below four tiles).
    """

    bands: Tensor
    uneven: Tensor


class _Law(NamedTuple):
    """Filters `(*K)`, mean square of the filtered noise, and the sampling variance of its log times pixels."""

    filters: list[Tensor]
    power: list[float]
    variance: list[float]


@dataclass(frozen=True)
class BandMisfit:
    """The misfit of images to measured images y `(B, C, *N)` in model units, and its sampling error.

    `unseen` `(B, *N)`: pixels to leave out, with all that lie within `reach` of them and of the border.  `margin`:
    pixels of reflected border, as the sampler has it.  `factor` `(B, 1, *N)`: a noise map, by which y - h x is divided,
    so that every place is compared with the noise that it should have.
    """

    denoiser: Denoiser
    y: Tensor
    unseen: Tensor
    margin: int = 16
    factor: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse a denoiser of which nothing is known."""
        if self.denoiser.process.measurement is None or self.denoiser.prior() is None:
            raise InputError("misfit", "an unknown law of the measurement or of the data", "a process with both")

    @cached_property
    def bands(self) -> Bands:
        """The bands, which do not depend on the size of the image."""
        return bands_of(self.denoiser)

    @cached_property
    def seen(self) -> Tensor:
        """Pixels `(B, *N)` that are looked at."""
        by = reach(self.bands.edges, self.denoiser.process.basis.spacing)
        return ~grown(self.unseen.cpu(), by)

    @cached_property
    def counts(self) -> list[int]:
        """Number of pixels that are looked at, for each item."""
        return self.seen.flatten(1).sum(1).tolist()

    @cached_property
    def tiles(self) -> list[int]:
        """Number of tiles that are compared, for each item."""
        if min(self.seen.shape[1:]) < TILE:
            return [0] * len(self.seen)
        return (_tiled(self.seen.double()) >= 0.5).flatten(1).sum(1).tolist()

    @cached_property
    def process(self) -> Process:
        """The process on the grid of y and its border."""
        return self.denoiser.process.on(self.frame.size)

    @cached_property
    def frame(self) -> Frame:
        """The border round y, mirrored on both sides of the comparison; no pixel within reach of it is looked at."""
        return frame_of(tuple(self.y.shape[2:]), self.denoiser.process.basis, self.margin, 1)

    @cached_property
    def _law(self) -> _Law:
        basis, channels = partner(self.process.basis), self.y.shape[1]
        filters = band_filters(basis.radius(), self.bands.edges)
        noise = _noise(self.process).reshape(-1, *basis.shape).expand(channels, *basis.shape)
        weight = basis.multiplicity()
        total, pixels = float(weight.sum()) * channels, math.prod(basis.size)
        power = [float((weight * f**2 * noise).sum()) for f in filters]
        second = [float((weight * (f**2 * noise) ** 2).sum()) for f in filters]
        variance = [2 * b / a**2 * pixels if a > 0 else math.inf for a, b in zip(power, second, strict=True)]
        return _Law(filters, [p / total for p in power], variance)

    @cached_property
    def sensitivity(self) -> list[float]:
        """Of every band, how much of a stronger noise is left to see, from 0 to 1, on Gaussian data.

        A sample of the posterior takes up a part of noise that nobody told it of: with k^2 N instead of N the residual
        y - h x has N + (k^2 - 1) N (N / (N + h^2 S))^2 instead of N, so a band shows eta (k^2 - 1) with eta the mean of
        that square over its noise.
        """
        basis = partner(self.process.basis)
        prior = self.denoiser.on(tuple(self.process.basis.size)).prior()
        assert self.process.measurement is not None
        assert prior is not None
        data = _power(self.process, self.process.measurement.h**2 * prior[1])
        noise = _noise(self.process)
        left = torch.where(noise > 0, noise / (noise + data), 0.0) ** 2
        weights = [basis.multiplicity() * f**2 * noise for f in self._law.filters]
        return [float((w * left).sum() / w.sum()) if bool(w.sum() > 0) else 0.0 for w in weights]

    def variances(self, item: int) -> list[float]:
        """Sampling variance of the log ratio of every band: 2 sum (F^2 N)^2 / (sum F^2 N)^2, over the pixels seen."""
        return [v / max(1, self.counts[item]) for v in self._law.variance]

    @property
    def tile_variance(self) -> float:
        """Sampling variance of the log power of a whole tile, of all bands but the lowest."""
        return 1 / sum(1 / s for s in self._law.variance[1:]) / TILE**self.process.ndim

    def ratios(self, x: Tensor, item: int) -> Ratios:
        """The misfit of images x `(k, C, *N)` to the measured image number `item`, on its grid."""
        basis, law = self.process.basis, self._law
        own, precise = partner(basis), torch.complex128 if self.y.is_complex() else torch.float64
        y = mirrored(self.y[item : item + 1].to(basis.device, precise), self.frame)
        padded, crop = mirrored(x.to(y), self.frame), self.frame.crop
        assert self.process.measurement is not None
        rest = y - basis.inverse(self.process.measurement.h * basis.forward(padded))
        if self.factor is not None:
            rest = rest / mirrored(self.factor[item : item + 1].to(rest.real), self.frame)
        u = own.forward(rest)
        energy = [own.energy(own.inverse(f * u)[crop]).mean(1) for f in law.filters]
        seen = self.seen[item].to(u.device)
        count = max(1, self.counts[item])
        found = torch.stack([(e * seen).flatten(1).sum(1) / count for e in energy], 1)
        ratio = found / torch.tensor(law.power, dtype=torch.float64, device=u.device)
        share = [(1 / v) / sum(1 / w for w in law.variance[1:]) for v in law.variance[1:]]
        level = sum(w * e / p for w, e, p in zip(share, energy[1:], law.power[1:], strict=True))
        return Ratios(ratio.cpu(), self._uneven(torch.as_tensor(level, device=u.device), item).cpu())

    def _uneven(self, level: Tensor, item: int) -> Tensor:
        """Variance of the log of the local noise `(k, *N)` over tiles, over its sampling variance."""
        if self.tiles[item] < 4:
            return torch.full(level.shape[:1], math.nan, device=level.device)
        seen = self.seen[item].to(level.device).double()
        share = _tiled(seen[None])[0]
        kept = share >= 0.5
        logs = (_tiled(level * seen) / share)[:, kept].log()  # -inf where there is no noise at all
        law = self.tile_variance * float((1 / share[kept]).mean())
        spread = (logs - logs.mean(1, keepdim=True)).square().sum(1) / (int(kept.sum()) - 1) / law
        return torch.where(torch.isfinite(spread), spread, math.inf)


def bands_of(denoiser: Denoiser) -> Bands:
    """The bands in which the noise of a denoiser's measurement is judged."""
    ndim = denoiser.process.ndim
    small = denoiser.to("cpu").on((64 if ndim < 3 else 32,) * ndim)
    prior = small.prior()
    assert prior is not None
    return noise_bands(small.process, prior[1])


def _tiled(x: Tensor) -> Tensor:
    """Means over tiles of x `(n, *N)`; a rest that fills no tile is left out."""
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[x.ndim - 1]
    return pool(x[:, None], TILE)[:, 0]


def one_call(denoiser: Denoiser, y: Tensor, *, margin: int = 16, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """E[x_0 | y] `(1, C, *N)` of one measured image by one call at t = 1, and a sample: that mean and one draw of the
    error law (None where there is no law).
    """
    y = y.to(denoiser.process.basis.device)
    frame = frame_of(tuple(y.shape[2:]), denoiser.process.basis, margin, denoiser.multiple)
    bound, seeds = denoiser.on(frame.size), torch.tensor([key(seed, "one-call")], device="cpu")
    padded, crop = surrounded(bound, y, frame, seeds), frame.crop
    found = answer(bound, padded, seeds)
    if found.spread is None:
        return found.mean[crop], None
    noise = [noise_like(padded, seeds, "one-call", k) for k in range(found.spread.fields)]
    with torch.no_grad():  # a law may be one of networks
        drawn = found.spread.draw(torch.stack(noise))
    return found.mean[crop], (found.mean + drawn)[crop]
