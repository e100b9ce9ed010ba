"""How well a stated task can be done with an image: contrast to noise, and observers that detect a disc."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.metrics._arrays import double, same_shape
from retrodict.metrics.frequency import Spacing, _pair

__all__ = [
    "Contrast",
    "Detectability",
    "contrast_to_noise",
    "detectability",
    "detectability_plane",
    "disc_spectrum",
    "hotelling_from_samples",
    "laguerre_gauss",
    "neq",
]


class Detectability(NamedTuple):
    """d' (no unit) of the non-prewhitening and of the prewhitening (Hotelling) observer."""

    npw: float
    hotelling: float


class Contrast(NamedTuple):
    """Difference of two regions: contrast and its standard error (image unit), and contrast over the noise."""

    contrast: float
    standard_error: float
    cnr: float


class Observed(NamedTuple):
    """d' of a channelized observer, with its 95 % band."""

    value: float
    lower: float
    upper: float


def disc_spectrum(frequency: Tensor, contrast: float, radius: float) -> Tensor:
    """Fourier transform of a disc: W(f) = C R J1(2 pi R f) / f, C pi R^2 at zero.

    `frequency` in cycles/mm, any shape; `radius` R in mm; result in the unit of `contrast` times mm^2.
    """
    f = double("frequency", frequency)
    if not (radius > 0 and math.isfinite(radius)):
        raise InputError("radius", radius, "a length above 0 in mm")
    x = 2 * math.pi * radius * f
    shape = torch.where(x == 0, 0.5, torch.special.bessel_j1(x) / torch.where(x == 0, 1.0, x))
    return 2 * math.pi * contrast * radius**2 * shape


def neq(mtf: Tensor, nps: Tensor) -> Tensor:
    """Noise-equivalent quanta per unit signal squared, MTF^2 / NPS (ICRU Report 54, 1996); shapes alike.

    Unit: 1 / (image unit^2 mm^2). Multiply by the squared large-area signal for a number of quanta per mm^2.
    """
    m, s = same_shape("mtf", mtf, "nps", nps)
    _positive(m, s)
    return torch.where(m == 0, 0.0, m.square() / torch.where(s == 0, 1.0, s))


def _positive(signal: Tensor, nps: Tensor) -> None:
    if bool((nps < 0).any()):
        raise InputError("nps", "negative values", "values of at least 0")
    lost = int(((nps == 0) & (signal != 0)).sum())
    if lost:
        found, hint = f"no noise at {lost} frequencies where there is signal", "Restrict the frequencies."
        raise InputError("nps", found, "noise wherever there is signal", hint)


def detectability(frequency: Tensor, task: Tensor, mtf: Tensor, nps: Tensor) -> Detectability:
    """D' from radial curves (n,) over `frequency` (cycles/mm, rising from 0): integrals 2 pi f df by the trapezoid.

    d'_NPW^2 = [int |W|^2 MTF^2]^2 / int |W|^2 MTF^2 NPS,  d'_PW^2 = int |W|^2 MTF^2 / NPS   (ICRU Report 54; AAPM
    TG-233).  `task` W in image unit mm^2, `nps` in image unit^2 mm^2.
    """
    f, w = same_shape("frequency", frequency, "task", task)
    f, m = same_shape("frequency", f, "mtf", mtf)
    f, s = same_shape("frequency", f, "nps", nps)
    if f.ndim != 1 or len(f) < 3 or bool((f.diff() <= 0).any()) or float(f[0]) < 0:
        raise InputError("frequency", f"shape {tuple(f.shape)}", "a rising vector of at least 3 frequencies")

    def integral(v: Tensor) -> float:
        return float(torch.trapezoid(2 * math.pi * f * v, f))

    return _observers((w * m).square(), s, integral)


def detectability_plane(task: Tensor, mtf: Tensor, nps: Tensor, spacing: Spacing) -> Detectability:
    """As `detectability`, from the whole FFT plane: arrays (H, W) in the order of `torch.fft.fft2`, `spacing` in mm."""
    w, m = same_shape("task", task, "mtf", mtf)
    w, s = same_shape("task", w, "nps", nps)
    dy, dx = _pair(spacing)
    area = 1 / (w.shape[-2] * dy * w.shape[-1] * dx)
    return _observers((w * m).square(), s, lambda v: float(v.sum()) * area)


def _observers(power: Tensor, nps: Tensor, integral) -> Detectability:  # type: ignore[no-untyped-def]  # noqa: ANN001
    _positive(power, nps)
    npw = integral(power) / math.sqrt(integral(power * nps))
    prewhitened = torch.where(power == 0, 0.0, power / torch.where(nps == 0, 1.0, nps))
    return Detectability(npw, math.sqrt(integral(prewhitened)))


def contrast_to_noise(image: Tensor, region: Tensor, background: Tensor) -> Contrast:
    """CNR = |mean in `region` - mean in `background`| / standard deviation in `background`.

    `image` (H, W) in its unit; masks (H, W) bool.  The standard error assumes independent pixels: with colored noise
    it is too small.
    """
    x = double("image", image)
    for name, mask in (("region", region), ("background", background)):
        if mask.shape != x.shape or mask.dtype != torch.bool:
            raise InputError(name, f"{mask.dtype} of shape {tuple(mask.shape)}", f"a bool mask of {tuple(x.shape)}")
        if int(mask.sum()) < 10:
            raise InputError(name, f"{int(mask.sum())} pixels", "at least 10")
    if bool((region & background).any()):
        raise InputError("background", "pixels of the region", "masks that do not overlap")
    a, b = x[region], x[background]
    noise = float(b.std())
    if noise == 0:
        raise InputError("background", "no noise", "a noisy background")
    contrast = float(a.mean() - b.mean())
    error = math.sqrt(float(a.var()) / len(a) + float(b.var()) / len(b))
    return Contrast(contrast, error, abs(contrast) / noise)


# ---- observers trained on images ---------------------------------------------------------------------------------


def laguerre_gauss(side: int, width: float, count: int = 6) -> Tensor:
    """Laguerre-Gauss channels (count, side, side) of width `width` px, orthonormal: sqrt(2)/a exp(-pi r^2/a^2) L_j.

    (Gallas and Barrett, J. Opt. Soc. Am. A 20, 2003.)
    """
    axis = torch.arange(side, dtype=torch.float64, device="cpu") - (side - 1) / 2
    g = 2 * math.pi * (axis[:, None].square() + axis[None].square()) / width**2
    before, now = torch.zeros_like(g), torch.ones_like(g)
    out = []
    for j in range(count):
        out.append(math.sqrt(2) / width * torch.exp(-g / 2) * now)
        before, now = now, ((2 * j + 1 - g) * now - j * before) / (j + 1)
    return torch.stack(out)


def hotelling_from_samples(
    present: Tensor, absent: Tensor, *, width: float, channels: int = 6, bootstrap: int = 2000, seed: int = 0
) -> Observed:
    """D' of the channelized Hotelling observer from images (n, H, W) with and without the signal in their middle.

    d'^2 = dv^T K^-1 dv with dv the difference of channel means and K their pooled covariance, corrected for the
    noise of the means and of K: E[d'^2] of n images is (N / (N - c - 1))(d'^2 + c (1/n1 + 1/n2)), N = n1 + n2 - 2.
    `width` in px, about the diameter of the signal.

    Band: all d' under which the value found is neither in the lowest nor in the highest 2.5 % of its law, a
    noncentral F for normal channel outputs (Wunderlich et al., IEEE Trans. Med. Imaging 34, 2015), of which
    `bootstrap` variates are drawn.  It holds to both sides, where resampled images, whose d' is biased upwards, miss
    to one.  Where the observer's decision variable has heavy tails (excess kurtosis k), its variance counts
    N / (1 + k/2) degrees of freedom.
    """
    a, b = double("present", present), double("absent", absent)
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or a.shape[1] != a.shape[2]:
        raise InputError("images", f"shapes {tuple(a.shape)} and {tuple(b.shape)}", "two stacks (n, S, S)")
    if min(len(a), len(b)) < 4 * channels:
        raise InputError("images", f"{min(len(a), len(b))}", f"at least {4 * channels} of either kind")
    filters = laguerre_gauss(a.shape[1], width, channels).flatten(1)
    va, vb = a.flatten(1) @ filters.T, b.flatten(1) @ filters.T
    raw, tails = _hotelling(va, vb)
    n1, n2, c = len(va), len(vb), channels
    degrees = n1 + n2 - 2
    value = math.sqrt(max(raw * (degrees - c - 1) / degrees - c * (1 / n1 + 1 / n2), 0.0))
    scale = n1 * n2 / (n1 + n2)
    widened = 1 + max(tails, 0.0) / 2
    low, high = _noncentral(raw * scale / degrees * widened, c, (degrees - c + 1) / widened, bootstrap, seed)
    return Observed(value, math.sqrt(low / scale), math.sqrt(high / scale))


def _hotelling(va: Tensor, vb: Tensor) -> tuple[float, float]:
    """d'^2 without corrections, and the excess kurtosis of the observer's decision variable within the kinds."""
    difference = va.mean(0) - vb.mean(0)
    degrees = len(va) + len(vb) - 2
    pooled = ((len(va) - 1) * torch.cov(va.T) + (len(vb) - 1) * torch.cov(vb.T)) / degrees
    template = torch.linalg.solve(pooled, difference)
    score = torch.cat([v @ template - (v @ template).mean() for v in (va, vb)])
    return float(difference @ template), float(score.pow(4).mean() / score.square().mean().square()) - 3


def _noncentral(found: float, c: int, dof: float, count: int, seed: int) -> tuple[float, float]:
    """Noncentralities for which `found` is the 97.5 % and the 2.5 % quantile of chi'^2_c / chi^2_dof, by bisection.

    The variates are drawn once, so that the quantiles rise with the noncentrality.
    """
    draw = np.random.default_rng(key(seed, "bootstrap"))
    first, rest, under = draw.standard_normal(count), draw.chisquare(c - 1, count), draw.chisquare(dof, count)

    def quantile(noncentrality: float, level: float) -> float:
        return float(np.quantile(((first + math.sqrt(noncentrality)) ** 2 + rest) / under, level))

    def solve(level: float) -> float:
        low, high = 0.0, 1.0
        if quantile(0.0, level) >= found:
            return 0.0
        while quantile(high, level) < found:
            high *= 2
        for _ in range(40):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if quantile(middle, level) < found else (low, middle)
        return low

    return solve(0.975), solve(0.025)
