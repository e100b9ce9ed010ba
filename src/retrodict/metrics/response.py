"""What a system or a restoration does to a signal: cross spectra with the truth, and small perturbations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.metrics._arrays import double, same_shape
from retrodict.metrics.bootstrap import stretch
from retrodict.metrics.frequency import Spacing, _pair, nps
from retrodict.metrics.noise import ring_average

__all__ = ["KnownSystem", "NpsRatio", "Perturbation", "draw_disc", "known_system", "nps_ratio", "perturbation_mtf"]


class KnownSystem(NamedTuple):
    """Radial curves over `frequency` (cycles/mm): MTF, coherence gamma^2, and residual NPS (unit^2 mm^2)."""

    frequency: Tensor
    mtf: Tensor
    coherence: Tensor
    noise: Tensor


class Perturbation(NamedTuple):
    """MTF of a restoration for a disc of `contrast` (image unit): median curve over positions with its range.

    `lower`, `upper`: 95 % bootstrap band over positions (equal to the value for one position).
    """

    frequency: Tensor
    value: Tensor
    lower: Tensor
    upper: Tensor
    contrast: float
    positions: int


class NpsRatio(NamedTuple):
    """Ratio of two radial NPS with a 95 % band over regions."""

    frequency: Tensor
    value: Tensor
    lower: Tensor
    upper: Tensor


def known_system(outputs: Tensor, inputs: Tensor, spacing: Spacing) -> KnownSystem:
    """Response of a linear system with noise from pairs of images (n, H, W), n >= 2, with known inputs.

    MTF = Re<Y X*> / <|X|^2>, coherence = |<Y X*>|^2 / (<|Y|^2> <|X|^2>), noise = dy dx / (H W) <|Y - MTF X|^2>, per
    frequency over images, then averaged over rings.  For a state of a diffusion process it gives its h(t) and s^2(t).
    """
    y, x = same_shape("outputs", outputs, "inputs", inputs)
    if x.ndim != 3 or len(x) < 2:
        raise InputError("inputs", f"shape {tuple(x.shape)}", "at least two images (n, H, W)")
    dy, dx = _pair(spacing)
    fy, fx = torch.fft.fft2(y), torch.fft.fft2(x)
    cross, power = (fy * fx.conj()).mean(0), fx.abs().square().mean(0)
    if float(power.min()) <= 0:
        raise InputError("inputs", "no signal at some frequency", "inputs with energy everywhere")
    gain = cross.real / power
    coherence = cross.abs().square() / (power * fy.abs().square().mean(0))
    # n images estimate the gain too: the residual keeps (n - 1/2) / n of the noise of a real gain
    scale = dy * dx / (x.shape[1] * x.shape[2]) / (1 - 0.5 / len(x))
    residual = (fy - gain * fx).abs().square().mean(0) * scale
    frequency, value = ring_average(gain, (dy, dx))
    return KnownSystem(frequency, value, *(ring_average(v, (dy, dx))[1] for v in (coherence, residual)))


def draw_disc(
    shape: Sequence[int], spacing: Spacing, position: Sequence[float], radius: float, fine: int = 8
) -> Tensor:
    """A disc of height 1, each pixel the covered share of its area (fine x fine points): (H, W).

    `position` (row, column) in pixels, `radius` in mm.
    """
    dy, dx = _pair(spacing)
    rows = (torch.arange(shape[0] * fine, dtype=torch.float64, device="cpu") + 0.5) / fine - 0.5
    columns = (torch.arange(shape[1] * fine, dtype=torch.float64, device="cpu") + 0.5) / fine - 0.5
    inside = torch.hypot(((rows - position[0]) * dy)[:, None], ((columns - position[1]) * dx)[None]) <= radius
    return inside.double().reshape(shape[0], fine, shape[1], fine).mean((1, 3))


def perturbation_mtf(
    restore: Callable[[Tensor], Tensor],
    measured: Tensor,
    spacing: Spacing,
    *,
    blur: Callable[[Tensor], Tensor],
    contrast: float,
    radius: float,
    positions: Sequence[tuple[float, float]],
    floor: float = 0.05,
    bootstrap: int = 400,
    seed: int = 0,
) -> Perturbation:
    """MTF of instrument and restoration together, for a small known disc added to the object.

    The measured image (H, W) is restored with and without the disc's image, `blur(disc)`, added (same noise: a small
    signal passes through the linearised restoration); MTF(f) = Re<R D*> / <|D|^2> over rings, R the difference of the
    restorations and D the disc.  Rings where |D| is below `floor` of its maximum are left out.  For a linear
    restoration it is the product of both transfer functions exactly.  `contrast` in image units, `radius` in mm; the
    result holds for that contrast.  `restore` must use the same seeds in every call.
    """
    x = double("measured", measured)
    if x.ndim != 2 or not positions or contrast == 0:
        raise InputError("perturbation", f"shape {tuple(x.shape)}, {len(positions)} positions, contrast {contrast}",
                         "an image (H, W), at least one position and a contrast that is not 0")  # fmt: skip
    base = double("restored", restore(x))
    curves = []
    for place in positions:
        disc = contrast * draw_disc(x.shape, spacing, place, radius)
        response = double("restored", restore(x + blur(disc))) - base
        d, r = torch.fft.fft2(disc), torch.fft.fft2(response)
        frequency, power = ring_average(d.abs().square(), spacing)
        cross = ring_average((r * d.conj()).real, spacing)[1]
        peak = float(d.abs().square().max())
        kept = power > floor**2 * peak
        curves.append(torch.where(kept, cross / torch.where(kept, power, 1.0), torch.nan))
    stack = torch.stack(curves)
    kept = torch.isfinite(stack).all(0)
    stack, frequency = stack[:, kept], frequency[kept]
    draw = torch.Generator().manual_seed(key(seed, "bootstrap"))
    means = stack[torch.randint(len(stack), (bootstrap, len(stack)), generator=draw, device="cpu")].mean(1)
    if len(stack) > 1:
        means = stack.mean(0) + (means - stack.mean(0)) * stretch(len(stack))
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu"), dim=0)
    return Perturbation(frequency, stack.mean(0), low, high, contrast, len(stack))


def nps_ratio(after: Tensor, before: Tensor, spacing: Spacing, *, bootstrap: int = 400, seed: int = 0) -> NpsRatio:
    """NPS after over NPS before a restoration, from the same regions (R, H, W), with a band over regions."""
    a, b = same_shape("after", after, "before", before)
    if a.ndim != 3 or len(a) < 2:
        raise InputError("after", f"shape {tuple(a.shape)}", "at least two regions (R, H, W)")
    pairs = [[ring_average(nps(v[None], spacing), spacing)[1] for v in stack] for stack in (a, b)]
    over, under = (torch.stack(p) for p in pairs)
    frequency = ring_average(nps(a, spacing), spacing)[0]
    draw = torch.Generator().manual_seed(key(seed, "bootstrap"))
    pick = torch.randint(len(a), (bootstrap, len(a)), generator=draw, device="cpu")
    value = over.mean(0) / under.mean(0)
    found = value + (over[pick].mean(1) / under[pick].mean(1) - value) * stretch(len(a))
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu"), dim=0)
    return NpsRatio(frequency, value, low, high)
