"""How strong the noise is at every place of an image: from frequencies beyond the reach of the object, with its error.

The image is high-pass filtered; the power of what is left is taken over tiles.  The logarithm of such a mean scatters
by a known sampling law around the log of the local power, so the map is a log-normal kriging of the tiles (Gaussian
covariance; range, variance and nugget by marginal likelihood).  Tiles that hold more than noise are left out: those
whose values are not Gaussian, and those that stand out above the map of the others (structure can only add).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._arrays import double

__all__ = ["LocalNoise", "high_pass", "local_noise"]

BORDER, SKIPPED = 16, 4
"""Pixels at the border that are mirrored before the filter, and those that are not looked at after it."""

KURTOSIS = 3.0
"""Excess kurtosis of a tile in its sampling deviations, beyond which it holds more than noise."""

LOUD, ROUNDS = 2.5, 12
"""Sampling deviations above the map of the others from which a tile holds more than noise, and how often it is asked:
of tiles with noise alone 0.6 % go."""

SCATTER = 1.4
"""Standard deviation of the tiles around the map, over its sampling law, up to which they hold noise alone."""

LEAST = 0.3
"""Share of the tiles that has to hold noise alone."""

RANGES = (15.0, 30.0, 60.0, 120.0)
"""Ranges of the covariance in mm that are compared."""

VARIANCES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Variances of the log power that are compared."""

CHOOSING = 500
"""Tiles of which the covariance is chosen; the map is made of all."""

NUGGETS = (1.0, 2.0, 4.0)
"""Factors on the sampling variance that are compared: noise whose texture varies, structure that was not seen."""


@dataclass(frozen=True)
class LocalNoise:
    """Level `(H, W)`: standard deviation of the filtered noise, in the unit of the image; `error` `(H, W)`: relative.

    `tiles` (count of those used), `clean`: their share of all that could be looked at; `range_mm`, `variance`, `nugget`
    of the kriging; `scatter`: standard deviation of the residuals of the tiles over what the law says (1 is expected);
    `known` `(H, W)`: pixels of tiles that could be looked at.
    """

    level: Tensor
    error: Tensor
    known: Tensor
    tiles: int
    clean: float
    range_mm: float
    variance: float
    nugget: float
    scatter: float


def high_pass(size: tuple[int, int], pixel: Sequence[float], above: float) -> Tensor:
    """Filter `(H, W // 2 + 1)` of |f|: a cosine ramp around `above` cycles/mm, a third of it wide."""
    axes = [torch.fft.fftfreq(size[0], pixel[0], dtype=torch.float64, device="cpu"),
            torch.fft.rfftfreq(size[1], pixel[1], dtype=torch.float64, device="cpu")]  # fmt: skip
    radius = (axes[0][:, None] ** 2 + axes[1][None] ** 2).sqrt()
    return torch.sin(0.5 * math.pi * ((radius / above - 1) * 3 + 0.5).clamp(0, 1))


class _Tiles(NamedTuple):
    """Of one image, by tile `(h, w)`: log of the mean power, its sampling variance (inf: nothing seen), and which of
    them hold noise alone as far as their kurtosis says."""

    log: Tensor
    variance: Tensor
    clean: Tensor


def local_noise(images: Tensor, pixel: Sequence[float], usable: Tensor, *, above: float, tile: int = 16) -> LocalNoise:
    """The noise level of slices `(Z, H, W)` that share one map; `usable` `(Z, H, W)` bool: pixels to look at.

    above: cycles/mm from which on the images hold noise alone; tile: side in pixels of the squares whose mean power is
    taken.  Raises `InputError` for images that are too small, and where too little of them holds noise alone.
    """
    stack = double("image", images)
    size = (int(stack.shape[1]), int(stack.shape[2]))
    if min(size) < 4 * tile + 2 * BORDER:
        raise InputError("image", f"{size[0]} x {size[1]} pixels", f"at least {4 * tile + 2 * BORDER} along each axis")
    corner = math.hypot(0.5 / pixel[0], 0.5 / pixel[1])
    if not 0 < above < corner:
        raise InputError("above", f"{above:.3g} cycles/mm", f"a frequency between 0 and {corner:.3g}, the corner")
    found = _merged([_tiles(x, u, pixel, above, tile) for x, u in zip(stack, usable, strict=True)])
    return _kriged(found, size, pixel, tile)


# ---- tiles ----------------------------------------------------------------------------------------------------------


def _tiles(image: Tensor, usable: Tensor, pixel: Sequence[float], above: float, tile: int) -> _Tiles:
    rest, freedom = _filtered(image, pixel, above)
    seen = usable.clone()
    for axis in (0, 1):
        seen.narrow(axis, 0, SKIPPED).fill_(False)
        seen.narrow(axis, seen.shape[axis] - SKIPPED, SKIPPED).fill_(False)
    share = _means(seen.double(), tile)
    weight = seen.double()
    second = _means(rest**2 * weight, tile) / share.clamp_min(1e-12)
    fourth = _means(rest**4 * weight, tile) / share.clamp_min(1e-12)
    enough = (share >= 0.5) & (second > 0)
    variance = torch.where(enough, freedom / (share.clamp_min(1e-12) * tile**2), math.inf)
    kurtosis = fourth / second.clamp_min(1e-300) ** 2 - 3
    clean = enough & (kurtosis < KURTOSIS * (12 * variance).sqrt())
    return _Tiles(torch.where(enough, second.clamp_min(1e-300).log(), 0.0) + variance.nan_to_num(posinf=0.0) / 2,
                  variance, clean)  # fmt: skip


def _filtered(image: Tensor, pixel: Sequence[float], above: float) -> tuple[Tensor, float]:
    """The image beyond `above`, `(H, W)`, and the sampling variance of the log of a mean of its square, times pixels:
    2 sum P^2 / (sum P)^2 N for a spectrum P."""
    wide = F.pad(image[None, None], [BORDER] * 4, mode="reflect")[0, 0]
    size = (int(wide.shape[0]), int(wide.shape[1]))
    coefficients = torch.fft.rfft2(wide) * high_pass(size, pixel, above)
    rest = torch.fft.irfft2(coefficients, s=size)[BORDER:-BORDER, BORDER:-BORDER]
    return rest, _freedom(coefficients, size, pixel)


def _freedom(coefficients: Tensor, size: tuple[int, int], pixel: Sequence[float]) -> float:
    """From the periodogram in 24 rings: the spectrum is taken as isotropic and smooth."""
    axes = [torch.fft.fftfreq(size[0], pixel[0], dtype=torch.float64, device="cpu"),
            torch.fft.rfftfreq(size[1], pixel[1], dtype=torch.float64, device="cpu")]  # fmt: skip
    radius = (axes[0][:, None] ** 2 + axes[1][None] ** 2).sqrt().flatten()
    weight = torch.full((size[0], size[1] // 2 + 1), 2.0, dtype=torch.float64, device="cpu")
    weight[:, 0] = 1.0
    if size[1] % 2 == 0:
        weight[:, -1] = 1.0
    weight = weight.flatten()
    ring = (radius / radius.max() * 23.999).long()
    zero = torch.zeros(24, dtype=torch.float64, device="cpu")
    count = zero.index_add(0, ring, weight)
    power = zero.index_add(0, ring, weight * coefficients.abs().square().flatten()) / count.clamp_min(1e-12)
    total = float((count * power).sum())
    square = float((count * power**2).sum())
    return 2 * square * size[0] * size[1] / total**2 if square > 0 else math.inf


def _means(x: Tensor, tile: int) -> Tensor:
    return F.avg_pool2d(x[None, None], tile)[0, 0]


def _merged(slices: list[_Tiles]) -> _Tiles:
    """Slices that share a map: means of the logs, weighted by their precision."""
    precision = torch.stack([torch.where(s.clean, 1 / s.variance, 0.0) for s in slices])
    total = precision.sum(0)
    log = (precision * torch.stack([s.log for s in slices])).sum(0) / total.clamp_min(1e-300)
    could = torch.stack([torch.isfinite(s.variance) for s in slices]).any(0)
    other = torch.full_like(total, 1e30).masked_fill(~could, math.inf)
    variance = torch.where(total > 0, 1 / total.clamp_min(1e-300), other)
    return _Tiles(log, variance, total > 0)


# ---- kriging --------------------------------------------------------------------------------------------------------


class _Fit(NamedTuple):
    score: float
    range_mm: float
    variance: float
    nugget: float
    mean: float
    root: Tensor
    alpha: Tensor


def _kriged(tiles: _Tiles, size: tuple[int, int], pixel: Sequence[float], tile: int) -> LocalNoise:
    could = torch.isfinite(tiles.variance)
    centers = [((torch.arange(n, dtype=torch.float64, device="cpu") + 0.5) * tile - 0.5) * p
               for n, p in zip(tiles.log.shape, pixel, strict=True)]  # fmt: skip
    place = torch.stack(torch.meshgrid(*centers, indexing="ij"), -1)
    used = _without_loud(place, tiles, could)
    fit = _fitted(place[used], tiles.log[used], tiles.variance[used], NUGGETS)
    rest = (tiles.log[used] - _at(fit, place[used], place[used])) / tiles.variance[used].sqrt()
    grid = [torch.arange(n, dtype=torch.float64, device="cpu") * p for n, p in zip(size, pixel, strict=True)]
    kernels = [_kernel(g[:, None] - c[None], fit.range_mm) for g, c in zip(grid, centers, strict=True)]
    weights = torch.zeros_like(tiles.log)
    weights[used] = fit.alpha
    log = fit.mean + fit.variance * kernels[0] @ weights @ kernels[1].T
    error = 0.5 * _on_pixels(_deviation(fit, place.reshape(-1, 2), place[used]).reshape(could.shape), size)
    known = _on_pixels(could.double(), size, "nearest") > 0.5
    share, scatter = float(used.sum() / could.sum()), float(rest.square().mean().sqrt())
    if scatter > SCATTER:
        raise InputError(
            "image",
            f"tiles whose power scatters {scatter:.2g} times as much as that of noise alone",
            f"at most {SCATTER:g} times: the object reaches into these frequencies",
            "Give a higher {above}, or measure a phantom of the same size.",
            above=...,
        )
    return LocalNoise((0.5 * log).exp(), error, known, int(used.sum()), share, fit.range_mm, fit.variance, fit.nugget,
                      scatter)  # fmt: skip


def _without_loud(place: Tensor, tiles: _Tiles, could: Tensor) -> Tensor:
    """The tiles `(h, w)` that do not stand out above the map of the others."""
    used = tiles.clean.clone()
    for _ in range(ROUNDS):
        if int(used.sum()) < 16 or float(used.sum()) < LEAST * float(could.sum()):
            _refuse(int(used.sum()), int(could.sum()))
        fit = _fitted(place[used], tiles.log[used], tiles.variance[used], NUGGETS)
        rest = (tiles.log[used] - _at(fit, place[used], place[used])) / tiles.variance[used].sqrt()
        loud = rest > LOUD
        if not bool(loud.any()):
            break
        used[used.clone()] = ~loud
    return used


def _refuse(used: int, could: int) -> None:
    raise InputError(
        "image",
        f"{used} of {could} tiles that hold noise alone",
        "at least 16, and 3 of 10: the object reaches into these frequencies",
        "Give a higher {above}, or measure a phantom of the same size.",
        above=...,
    )


def _kernel(distance: Tensor, range_mm: float) -> Tensor:
    return torch.exp(-0.5 * (distance / range_mm) ** 2)


def _covariance(a: Tensor, b: Tensor, range_mm: float) -> Tensor:
    return torch.exp(-0.5 * torch.cdist(a, b).square() / range_mm**2)


def _fitted(place: Tensor, log: Tensor, variance: Tensor, nuggets: tuple[float, ...]) -> _Fit:
    """All tiles under the best of the covariances on the grid, which is found with at most `CHOOSING` of them."""
    chance = torch.Generator(device="cpu").manual_seed(0)
    some = torch.randperm(len(place), generator=chance, device="cpu")[:CHOOSING]
    part = [x[some] for x in (place, log, variance)]
    tried = ((r, v, n) for r in RANGES for v in VARIANCES for n in nuggets)
    best = max(tried, key=lambda p: _solved(part[0], part[1], part[2], *p).score)
    return _solved(place, log, variance, *best)


def _solved(place: Tensor, log: Tensor, variance: Tensor, range_mm: float, v: float, nugget: float) -> _Fit:
    """One covariance: its marginal likelihood with an unknown mean, and the weights of the tiles."""
    root = torch.linalg.cholesky(v * _covariance(place, place, range_mm) + torch.diag(nugget * variance))
    both = torch.cholesky_solve(torch.stack([log, torch.ones_like(log)], 1), root)
    mean = float(both[:, 0].sum() / both[:, 1].sum())
    alpha = both[:, 0] - mean * both[:, 1]
    score = -0.5 * float(((log - mean) * alpha).sum()) - float(root.diagonal().log().sum())
    return _Fit(score - 0.5 * math.log(float(both[:, 1].sum())), range_mm, v, nugget, mean, root, alpha)


def _at(fit: _Fit, place: Tensor, known: Tensor) -> Tensor:
    return fit.mean + fit.variance * _covariance(place, known, fit.range_mm) @ fit.alpha


def _deviation(fit: _Fit, place: Tensor, known: Tensor) -> Tensor:
    """Standard error of the log power at places, that of the unknown mean included."""
    cross = fit.variance * _covariance(place, known, fit.range_mm)
    half = torch.linalg.solve_triangular(fit.root, cross.T, upper=False)
    ones = torch.linalg.solve_triangular(
        fit.root, torch.ones(len(known), 1, dtype=cross.dtype, device="cpu"), upper=False
    )
    left = 1 - (half * ones).sum(0)
    return (fit.variance - half.square().sum(0) + left**2 / ones.square().sum()).clamp_min(0).sqrt()


def _on_pixels(x: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """A table of tiles on the pixels that they cover; stretched over what is left over."""
    more = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(x[None, None], size=size, mode=mode, **more)[0, 0]  # type: ignore[arg-type]
