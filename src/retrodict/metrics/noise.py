"""Noise of uniform regions: power spectrum with confidence bands, autocorrelation, and a test of whiteness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import key
from retrodict.metrics._arrays import double
from retrodict.metrics.frequency import Spacing, _pair, detrend

__all__ = [
    "NoiseSpectrum",
    "Whiteness",
    "autocorrelation",
    "noise_fields",
    "noise_spectrum",
    "ring_average",
    "ring_sizes",
    "whiteness",
]

Detrend = Literal["mean", "poly2", "ensemble", "pair"]
SURFACE = {"mean": 1, "poly2": 6}  # parameters that a detrending takes from every region


@dataclass(frozen=True)
class NoiseSpectrum:
    """A measured NPS: `frequency` (n,) in cycles/mm, `value`, `lower`, `upper` (n,) and `plane` (H, W) in unit^2 mm^2.

    `lower`, `upper`: 95 % band.  `plane` is in the order of `torch.fft.fft2`.  `variance`
    (unit^2) is the mean square of the detrended fields and equals sum(plane) du dv; `integral_error` is the relative
    difference found (round-off, unless a window was used).  Below `reliable_from` (cycles/mm) the finite region leaks
    and detrending removes: do not compare with truth there.
    """

    frequency: Tensor
    value: Tensor
    lower: Tensor
    upper: Tensor
    plane: Tensor
    spacing: tuple[float, float]
    regions: int
    variance: float
    integral_error: float
    reliable_from: float

    @property
    def sd(self) -> float:
        """Noise standard deviation, in the unit of the image."""
        return math.sqrt(self.variance)

    @property
    def peak_frequency(self) -> float:
        """Frequency of the largest value, cycles/mm."""
        return float(self.frequency[self.value.argmax()])

    @property
    def average_frequency(self) -> float:
        """f_av = sum f NPS(f) / sum NPS(f) of the radial curve, cycles/mm (AAPM TG-233)."""
        return float((self.frequency * self.value).sum() / self.value.sum())


def noise_fields(regions: Tensor, how: Detrend) -> tuple[Tensor, float]:
    """Noise-only fields and the factor that their spectrum has to be multiplied by.

    "mean", "poly2": regions (R, H, W), each minus its mean or its best quadratic surface; factor 1.
    "ensemble": repeats (K, R, H, W) minus their mean over K; factor K / (K - 1).
    "pair": repeats (2, R, H, W); the difference, factor 1/2.
    Only the last two take out structure of the object; result (R', H, W).
    """
    choice("detrend", how, ("mean", "poly2", "ensemble", "pair"))
    x = double("regions", regions)
    if how in SURFACE:
        if x.ndim != 3:
            raise InputError("regions", f"shape {tuple(x.shape)}", f"shape (R, H, W) for detrend {how!r}")
        return (detrend(x) if how == "poly2" else x - x.mean((-2, -1), keepdim=True)), 1.0
    if x.ndim != 4:
        raise InputError("regions", f"shape {tuple(x.shape)}", f"repeats (K, R, H, W) for detrend {how!r}")
    count = len(x)
    if how == "pair":
        if count != 2:
            raise InputError("regions", f"{count} repeats", "exactly 2 for detrend 'pair'", "Use 'ensemble'.")
        return x[0] - x[1], 0.5
    if count < 2:
        raise InputError("regions", "1 repeat", "at least 2 repeated scans", "Use detrend 'poly2' for a single scan.")
    return (x - x.mean(0)).flatten(0, 1), count / (count - 1)


def noise_spectrum(
    regions: Tensor,
    spacing: Spacing,
    *,
    how: Detrend = "poly2",
    window: Literal["none", "hann"] = "none",
    independent: float | None = None,
    bootstrap: int = 400,
    seed: int = 0,
) -> NoiseSpectrum:
    """NPS of uniform regions (R, H, W), or of repeats of them (K, R, H, W), with 95 % bands.

    NPS(u, v) = dy dx / (H W) < |FFT(field)|^2 >, two-sided, in unit^2 mm^2 (ICRU Report 87, 2012; AAPM TG-233, 2019),
    over the fields of `noise_fields`; a Hann window is divided by the mean of its square.  The radial curve has rings
    of width df = 1 / (N d) centered on k df, k = 1 ... up to Nyquist; H and W must be even so that it gets there.
    With unlike spacings the rings beyond the lower Nyquist frequency hold the directions that the grid has.

    Bands: the law of the periodogram, chi^2 with as many degrees of freedom as a ring has samples and the regions are
    independent, and a level that scatters between regions by what their variances differ beyond chi^2; `bootstrap`
    draws of it.  This holds for few regions, where resampling them does not.  `independent`: how many regions count,
    where they overlap or lie in slices that do (`independent_regions`); None: all.
    """
    choice("window", window, ("none", "hann"))
    x = double("regions", regions)
    dy, dx = _pair(spacing)
    height, width = x.shape[-2:]
    if min(height, width) < 8 or height % 2 or width % 2:
        raise InputError("regions", f"{height} x {width} pixels", "even sides of at least 8 pixels")
    fields, factor = noise_fields(x, how)
    if not bool((fields != 0).any()):
        raise InputError("regions", "no noise: every pixel of a region has the same value", "noisy uniform regions")
    taper, norm = _taper(height, width, window)
    scale = factor * dy * dx / (height * width * norm)
    spectra = torch.fft.fft2(fields * taper).abs().square() * scale
    plane = spectra.mean(0)
    variance = factor * float(fields.square().mean())
    integral = float(plane.sum()) / (height * dy * width * dx)
    frequency, value = ring_average(plane, (dy, dx))
    units = _units(spectra, how, x)
    share = 1.0 if independent is None else independent / x.shape[-3]
    free = len(fields) * share * (1 - 1 / len(x) if how == "ensemble" else 1.0)
    lower, upper = _band(value, units, free, (dy, dx), window, bootstrap, seed)
    df = max(1 / (height * dy), 1 / (width * dx))
    return NoiseSpectrum(
        frequency, value, lower, upper, plane, (dy, dx), len(fields), variance, integral / variance - 1, 4 * df
    )


def _taper(height: int, width: int, window: str) -> tuple[Tensor, float]:
    if window == "none":
        return torch.ones(height, width, dtype=torch.float64, device="cpu"), 1.0
    row, col = (torch.hann_window(n, periodic=True, dtype=torch.float64, device="cpu") for n in (height, width))
    taper = row[:, None] * col[None, :]
    return taper, float(taper.square().mean())


def _units(spectra: Tensor, how: str, x: Tensor) -> Tensor:
    """Spectra (B, H, W) of the units that the bootstrap draws: positions, or repeats where those are few."""
    if how != "ensemble":
        return spectra
    by = spectra.reshape(x.shape[0], x.shape[1], *spectra.shape[-2:])
    return by.mean(0) if x.shape[1] >= 4 else by.mean(1)


def _band(
    value: Tensor, units: Tensor, free: float, spacing: tuple[float, float], window: str, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """95 % band of a radial curve (n,): value over the quantiles of gamma variates of its relative variance.

    `units` (B, H, W): spectra of regions, `free`: independent fields behind all of them.  A Hann window correlates
    neighbors along a ring: its samples count 18/35 (ratio of its moments, (3/8)^2 / (35/128)).
    """
    if len(units) < 2:
        raise InputError("regions", "one region", "at least 2 for a confidence band", "Add regions or repeated scans.")
    thinned = 18 / 35 if window == "hann" else 1.0
    plane, level = units.mean(0), units.mean((-2, -1))
    # a plane of few fields is rough: <P^2> = S^2 (1 + 1 / n)
    whole = float(plane.sum()) ** 2 / float(plane.square().sum()) * (1 + 1 / free) * thinned
    excess = max(float(level.var() / level.mean().square()) - 2 * len(units) / (whole * free), 0.0)
    size = ring_sizes(plane.shape, spacing)
    variance = 2 / (size * thinned * free) + excess / len(units) * max(1.0, len(units) / free)
    draw = np.random.default_rng(key(seed, "bootstrap"))
    shape = (1 / variance).numpy()
    ratio = torch.from_numpy(draw.standard_gamma(shape, (count, len(shape))) / shape)
    low, high = torch.quantile(ratio, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu"), dim=0)
    return value / high, value / low


def ring_sizes(shape: Sequence[int], spacing: Spacing) -> Tensor:
    """How many samples each ring of `ring_average` holds (n,)."""
    ring, last = _rings(shape, *_pair(spacing))
    size = torch.bincount(ring[(ring >= 1) & (ring <= last)], minlength=last + 1)[1:]
    return size[size > 0].double()


def _rings(shape: Sequence[int], dy: float, dx: float) -> tuple[Tensor, int]:
    """Ring of every sample of a plane (H, W), and the last one that counts."""
    v = torch.fft.fftfreq(shape[-2], dy, dtype=torch.float64, device="cpu")
    u = torch.fft.fftfreq(shape[-1], dx, dtype=torch.float64, device="cpu")
    df = max(1 / (shape[-2] * dy), 1 / (shape[-1] * dx))
    return (torch.hypot(v[:, None], u[None, :]) / df + 0.5).floor().long(), round(0.5 / min(dy, dx) / df)


def ring_average(plane: Tensor, spacing: Spacing) -> tuple[Tensor, Tensor]:
    """Radial curve of a spectrum (H, W) in FFT order: ring k holds | |f| - k df | < df / 2, k = 1 ... up to Nyquist.

    df = 1 / (N d) of the shorter side; corners beyond Nyquist and the zero frequency are left out.
    """
    dy, dx = _pair(spacing)
    df = max(1 / (plane.shape[-2] * dy), 1 / (plane.shape[-1] * dx))
    ring, last = _rings(plane.shape, dy, dx)
    inside = (ring >= 1) & (ring <= last)
    size = torch.bincount(ring[inside], minlength=last + 1)[1:]
    total = torch.bincount(ring[inside], plane[inside], last + 1)[1:]
    filled = size > 0
    frequency = df * torch.arange(1, last + 1, dtype=torch.float64, device="cpu")
    return frequency[filled], total[filled] / size[filled]


def autocorrelation(regions: Tensor, spacing: Spacing, *, how: Detrend = "poly2", reach: int = 12) -> Tensor:
    """Autocorrelation of the noise at lags (-reach ... reach)^2 pixels, (2 reach + 1, 2 reach + 1); 1 in the middle.

    rho(l) = sum_i n_i n_{i+l} / (pairs at lag l) over all fields, without wrap-around, divided by the variance.
    """
    fields, _ = noise_fields(regions, how)
    _pair(spacing)
    cover = _lags(fields, reach) / _pairs(fields.shape[-2:], len(fields), reach)
    return cover / cover[reach, reach]


def _lags(fields: Tensor, reach: int) -> Tensor:
    """Sum over fields of the products at every lag, zero-padded: (2 reach + 1, 2 reach + 1)."""
    height, width = fields.shape[-2:]
    if reach < 1 or reach >= min(height, width):
        raise InputError("reach", reach, f"a lag from 1 to {min(height, width) - 1} pixels")
    size = (height + reach, width + reach)
    power = torch.fft.rfft2(fields, s=size).abs().square().sum(0)
    return torch.roll(torch.fft.irfft2(power, s=size), (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]


def _pairs(shape: tuple[int, ...] | torch.Size, count: int, reach: int) -> Tensor:
    lag = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu").abs()
    return count * (shape[0] - lag)[:, None] * (shape[1] - lag)[None, :]


@dataclass(frozen=True)
class Whiteness:
    """Box-Pierce test over the lags of a half plane: `statistic` ~ chi^2 with `dof`; small `p_value`: not white.

    `strongest`: the correlation of largest magnitude at a lag other than zero, and where (rows, columns).
    """

    statistic: float
    dof: int
    p_value: float
    strongest: float
    lag: tuple[int, int]

    @property
    def white(self) -> bool:
        """Whether whiteness is not rejected at 1 %."""
        return self.p_value > 0.01


def whiteness(
    regions: Tensor, *, how: Detrend = "poly2", reach: int = 3, independent: float | None = None
) -> Whiteness:
    """Is the noise of uniform regions white?  Box-Pierce over all lags up to `reach` pixels.

    Under white noise the correlations r_l are independent N(0, 1 / pairs_l); Q = sum_l pairs_l (r_l - b_l)^2 over half
    of the plane (Box and Pierce, J. Am. Stat. Assoc. 65, 1970).  b_l is what subtracting a mean or a surface brings in
    by itself, -sum_i P_{i,i+l} with P the projection onto the surface.  `independent` as in `noise_spectrum`.
    """
    x = double("regions", regions)
    fields, _ = noise_fields(x, how)
    pairs = _pairs(fields.shape[-2:], len(fields), reach)
    cover = _lags(fields, reach) / pairs
    surface = _surface(fields.shape[-2:], SURFACE.get(how, 0))
    shrink = 1.0
    bias = torch.zeros_like(cover)
    if surface is not None:
        taken = _lags(surface, reach) / _pairs(fields.shape[-2:], 1, reach)
        bias, shrink = -taken, 1 - float(taken[reach, reach])
    correlation = (cover / cover[reach, reach]) * shrink - bias
    correlation[reach, reach] = 0.0
    half = torch.ones_like(correlation, dtype=torch.bool)
    half[:reach] = False
    half[reach, : reach + 1] = False
    repeats = 1.0 if how != "ensemble" else 1 - 1 / len(x)  # fields of an ensemble sum to zero: fewer are free
    repeats *= 1.0 if independent is None else independent / x.shape[-3]
    statistic = float((pairs * correlation.square())[half].sum()) * repeats
    dof = int(half.sum())
    p = float(
        torch.special.gammaincc(
            torch.tensor(dof / 2.0, device="cpu").double(), torch.tensor(statistic / 2, device="cpu").double()
        )
    )
    worst = int((correlation.abs() * half).argmax())
    row, col = divmod(worst, 2 * reach + 1)
    return Whiteness(statistic, dof, p, float(correlation[row, col]), (row - reach, col - reach))


def _surface(shape: tuple[int, ...] | torch.Size, parameters: int) -> Tensor | None:
    """Orthonormal surfaces (parameters, H, W) that a detrending projects out."""
    if not parameters:
        return None
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64, device="cpu") for n in shape[-2:])
    row, col = torch.meshgrid(y, x, indexing="ij")
    full = torch.stack([torch.ones_like(row), row, col, row * row, row * col, col * col])[:parameters]
    q, _ = torch.linalg.qr(full.reshape(parameters, -1).T)
    return q.T.reshape(parameters, *shape[-2:])
