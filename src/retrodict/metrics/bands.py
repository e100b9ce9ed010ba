"""Spread against error in bands of spatial frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.metrics._results import images
from retrodict.metrics.calibration import _student
from retrodict.metrics.frequency import Spacing, _pair

__all__ = ["BandSpreadSkill", "band_spread_skill"]


@dataclass(frozen=True)
class BandSpreadSkill:
    """One entry per band, all float64 of shape (bands,). See `band_spread_skill`.

    `frequency_low`, `frequency_high`: edges in cycles/mm. `skill`, `spread`: image unit squared per Fourier sample.
    `ratio` and `ssr` = sqrt(ratio): no unit, 1 when calibrated, above 1 for an ensemble too sure of itself.
    `log_error`: standard error of log(ratio); `ratio_low`, `ratio_high`: 95 % band; all three NaN for one image.
    """

    frequency_low: Tensor
    frequency_high: Tensor
    skill: Tensor
    spread: Tensor
    ratio: Tensor
    ssr: Tensor
    log_error: Tensor
    ratio_low: Tensor
    ratio_high: Tensor


def band_spread_skill(
    samples: object, truth: Tensor, spacing: Spacing, bands: int = 6, *, bootstrap: int = 400, seed: int = 0
) -> BandSpreadSkill:
    """Compare the error of the ensemble mean with the spread of the ensemble, scale by scale.

    Shapes: `samples` (K, n, H, W), `truth` (n, H, W); a channel axis of length 1 is allowed. Units: `spacing` in mm,
    one number or (row, column). Formula: with w the Hann window of unit mean square and F the orthonormal FFT,
    skill = <|F(w (mean - truth))|^2> and spread = <sum_k |F(w (x_k - mean))|^2> / (K - 1), averaged over the images
    and over the ring of the band; ratio = skill / ((1 + 1/K) spread), which is `spread_skill` in each band. Nothing is
    subtracted: the lowest band holds the zero frequency and sees a wrong gray level. Rings of equal width reach from
    0 to the lower Nyquist frequency; the corners beyond are left out.
    The band is exp(log ratio -+ q se), q the Student quantile with n - 1 degrees of freedom, se from a bootstrap over
    the n images (Efron and Tibshirani, 1993, ch. 6), scaled by sqrt(n / (n - 1)): only images are independent.
    """
    x, t = images(samples, truth)
    low, high, ring = _rings(t.shape[-2:], _pair(spacing), bands)
    ring = ring.to(x.device)
    window, center, count = _window(t.shape[-2:]).to(x.device), x.mean(0), len(x)
    skill = _power(center - t, window, ring)
    spread = torch.stack([_power(sample - center, window, ring) for sample in x]).sum(0) / (count - 1)
    if bool((spread.mean(0) <= 0).any()):
        raise InputError("samples", "a frequency band without any spread", "samples that differ")
    ratio = skill.mean(0) / ((1 + 1 / count) * spread.mean(0))
    error = _log_error(skill, spread, bootstrap, seed)
    reach = torch.exp(error * (_student(0.95, len(t) - 1) if len(t) > 1 else math.nan))
    means = skill.mean(0), spread.mean(0)
    return BandSpreadSkill(low, high, *means, ratio, ratio.sqrt(), error, ratio / reach, ratio * reach)


def _rings(shape: torch.Size, spacing: tuple[float, float], bands: int) -> tuple[Tensor, Tensor, Tensor]:
    """Edges of the rings and the weights (H W, bands) that average over each."""
    if bands < 1:
        raise InputError("bands", bands, "at least 1")
    v, u = (torch.fft.fftfreq(n, d, dtype=torch.float64, device="cpu") for n, d in zip(shape, spacing, strict=True))
    nyquist = 0.5 / max(spacing)
    place = torch.hypot(v[:, None], u[None, :]).flatten() / nyquist
    # The tolerances keep samples that sit on an edge in the ring above, and those on Nyquist in the last ring.
    ring = (place * bands + 1e-9).long().clamp(max=bands - 1)
    member = torch.nn.functional.one_hot(ring, bands).double() * (place <= 1 + 1e-9)[:, None]
    if bool((member.sum(0) == 0).any()):
        raise InputError("bands", bands, f"fewer bands: in {shape[0]} x {shape[1]} pixels some hold no frequency")
    edges = torch.linspace(0, nyquist, bands + 1, dtype=torch.float64, device="cpu")
    return edges[:-1], edges[1:], member / member.sum(0)


def _window(shape: torch.Size) -> Tensor:
    row, col = (
        torch.sin(math.pi * (torch.arange(n, dtype=torch.float64, device="cpu") + 0.5) / n).square() for n in shape
    )
    window = row[:, None] * col[None, :]
    return window / window.square().mean().sqrt()


def _power(fields: Tensor, window: Tensor, ring: Tensor) -> Tensor:
    """Mean power (n, bands) of windowed fields (n, H, W)."""
    return torch.fft.fft2(fields * window, norm="ortho").abs().square().flatten(1) @ ring


def _log_error(skill: Tensor, spread: Tensor, count: int, seed: int) -> Tensor:
    """Standard error (bands,) of log(mean skill / mean spread); rows of (n, bands) are drawn together."""
    n = len(skill)
    if n < 2:
        return torch.full_like(skill[0], math.nan)
    draw = torch.Generator().manual_seed(key(seed, "band-bootstrap"))
    pick = torch.randint(n, (count, n), generator=draw, device="cpu").to(skill.device)
    return (skill[pick].mean(1) / spread[pick].mean(1)).log().std(0) * math.sqrt(n / (n - 1))
