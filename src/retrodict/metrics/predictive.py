"""Whether a predicted law holds for a second measurement: ratios of power, intervals, and means of discs."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retrodict._check import InputError
from retrodict.metrics._arrays import double, same_shape
from retrodict.metrics.prediction import student_quantile, student_tail

__all__ = ["TiledRatio", "disc", "disc_means", "predictive_factor", "tiled_ratio"]


class TiledRatio(NamedTuple):
    """A ratio of sums over tiles, its standard error, and the two-sided p-value of "it is 1" (Student, tiles - 1).

    `value` is NaN where nothing was predicted; `error` and `p_value` are NaN for fewer than two tiles.
    """

    value: float
    error: float
    p_value: float
    tiles: int

    def band(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the ratio at a level, not below 0."""
        if not self.error >= 0:
            return math.nan, math.nan
        reach = self.error * student_quantile((1 - level) / 2, self.tiles - 1)
        return max(0.0, self.value - reach), self.value + reach


def tiled_ratio(observed: Tensor, predicted: Tensor, least: float = 0.0, center: float = 1.0) -> TiledRatio:
    """Sum of `observed` over sum of `predicted`, with an error from how the tiles scatter.

    Shapes: both (tiles,), sums over places far enough from each other to be independent. Units: equal. Formula: R =
    sum O / sum P, error^2 = n / (n - 1) sum (O - R P)^2 / (sum P)^2, the ratio estimator of survey sampling (Cochran,
    Sampling Techniques, 1977, chapter 6), and not less than `least`, the error that is known from the law of the noise.
    The p-value is of "the ratio is `center`". Tiles without a prediction are left out.
    """
    if not observed.numel() and not predicted.numel():
        return TiledRatio(math.nan, math.nan, math.nan, 0)
    o, p = same_shape("observed", observed, "predicted", predicted)
    o, p = o[p != 0], p[p != 0]
    n, total = len(p), float(p.sum())
    if n == 0 or total <= 0:
        return TiledRatio(math.nan, math.nan, math.nan, n)
    ratio = float(o.sum()) / total
    if n < 2:
        return TiledRatio(ratio, math.nan, math.nan, n)
    scatter = math.sqrt(n / (n - 1) * float((o - ratio * p).square().sum())) / total
    error = max(scatter, least)
    off = abs(ratio - center)
    p_value = 1.0 if off == 0 else 0.0 if error == 0 else min(1.0, 2 * student_tail(off / error, n - 1))
    return TiledRatio(ratio, error, p_value, n)


def predictive_factor(level: float, posterior: Tensor, noise: Tensor | float, count: int) -> Tensor:
    """Half width, in deviations, of the central interval of a value with a variance `posterior` + `noise`.

    Shapes: `posterior` (...), result (...). Units: of variances, equal. The noise is known and the posterior variance
    was estimated from `count` = K members, so that the law of error over deviation is Student's with the degrees of
    freedom (V + N)^2 / (V^2 / (K - 1)) (Satterthwaite, Biometrics Bulletin 2, 1946): K - 1 without noise, none needed
    where noise is all.
    """
    if not 0 < level < 1:
        raise InputError("level", level, "a probability between 0 and 1, such as 0.9")
    if count < 2:
        raise InputError("count", count, "at least 2 members")
    total = posterior + noise
    share = torch.where(total > 0, posterior / torch.where(total > 0, total, 1.0), 1.0)
    table = torch.tensor(_quantiles(level, count), dtype=torch.float64, device=posterior.device)
    place = share.double().square() * (len(table) - 1)  # 1 / dof = share^2 / (K - 1)
    low = place.floor().long().clamp(max=len(table) - 2)
    return table[low] + (place - low) * (table[low + 1] - table[low])


@lru_cache(maxsize=64)
def _quantiles(level: float, count: int, nodes: int = 65) -> tuple[float, ...]:
    steps = (k / (nodes - 1) / (count - 1) for k in range(nodes))
    return tuple(student_quantile((1 - level) / 2, 1 / s if s else math.inf) for s in steps)


# ---- means of discs --------------------------------------------------------------------------------------------------


def disc(diameter: float, pixel: tuple[float, float]) -> Tensor:
    """Weights (h, w), which sum to 1, of the pixels whose centers lie in a disc that is centered on a pixel.

    Units: mm. The sides are odd. One pixel at least.
    """
    if not 0 < diameter < math.inf or not all(0 < p < math.inf for p in pixel):
        raise InputError("disc", f"{diameter} mm on pixels of {pixel} mm", "numbers above 0")
    reach = [int(diameter / 2 / p + 1e-9) for p in pixel]
    rows, columns = (
        torch.arange(-r, r + 1, dtype=torch.float64, device="cpu") * p for r, p in zip(reach, pixel, strict=True)
    )
    inside = (torch.hypot(rows[:, None], columns[None]) <= diameter / 2 + 1e-9).double()
    return inside / inside.sum()


def disc_means(images: Tensor, diameter: float, pixel: tuple[float, float], within: Tensor) -> Tensor:
    """Means of images over discs that do not overlap and lie wholly within a mask.

    Shapes: `images` (n, H, W), `within` (H, W) bool, result (n, discs) in reading order; no discs where none fits.
    Units: `diameter` and `pixel` in mm, the result that of the images. The discs stand on a square lattice as wide as
    they are.
    """
    x = double("images", images)
    if x.ndim != 3 or within.shape != x.shape[1:]:
        raise InputError("within", f"shape {tuple(within.shape)}", f"that of the images, {tuple(x.shape[1:])}")
    weights = disc(diameter, pixel).to(x.device)
    if any(a > b for a, b in zip(weights.shape, x.shape[1:], strict=True)):
        return x.new_zeros(len(x), 0)
    step = tuple(weights.shape)
    inside = F.conv2d(within[None, None].double(), (weights > 0)[None, None].double(), stride=step)[0, 0]
    full = inside > float((weights > 0).sum()) - 0.5
    return F.conv2d(x[:, None], weights[None, None], stride=step)[:, 0][:, full]
