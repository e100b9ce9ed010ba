"""Error bars without a model: percentile bootstrap of a statistic, and of paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.metrics._arrays import double, same_shape
from retrodict.metrics.calibration import _student

__all__ = ["Band", "Difference", "bootstrap", "paired_bootstrap", "stretch"]


def stretch(units: int) -> float:
    """Factor that widens a percentile-bootstrap band of few units to its nominal coverage.

    Resamples of n units vary by (n - 1)/n too little, and their quantiles are normal where Student's with n - 1
    degrees of freedom belong: sqrt(n / (n - 1)) t_{0.975, n - 1} / 1.96 (Efron and Tibshirani 1993, sections 12.2 and
    13.3); 1.29 for 8 units.
    """
    return math.sqrt(units / (units - 1)) * _student(0.95, units - 1) / NormalDist().inv_cdf(0.975)


class Band(NamedTuple):
    """A statistic and its 95 % band; tensors of the shape of the statistic, in its unit."""

    value: Tensor
    lower: Tensor
    upper: Tensor


class Difference(NamedTuple):
    """Mean of a - b, its 95 % band, and the two-sided p-value of no difference."""

    value: float
    lower: float
    upper: float
    p_value: float


def bootstrap(values: Tensor, statistic: Callable[[Tensor], Tensor], *, seed: int = 0, count: int = 2000) -> Band:
    """Percentile bootstrap over the first axis of `values` (n, ...), the independent items.

    `statistic` maps (n, ...) to its value.  Quantiles are those of resamples of n items, widened about the value by
    `stretch(n)`.  Fewer than 2 items are an error; fewer than about 10 give a rough band.
    """
    x = double("values", values)
    n = x.shape[0] if x.ndim else 0
    if n < 2:
        raise InputError("values", f"{n} items", "at least 2 to draw from")
    draw = torch.Generator().manual_seed(key(seed, "bootstrap"))
    pick = torch.randint(n, (count, n), generator=draw, device="cpu")
    value = statistic(x)
    found = torch.stack([statistic(x[p]) for p in pick])
    spread = value + (found - value) * stretch(n)
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu"), dim=0)
    return Band(value, low, high)


def paired_bootstrap(a: Tensor, b: Tensor, *, seed: int = 0, count: int = 2000) -> Difference:
    """Difference of two methods on the same items: mean of a - b (n,), with band and p-value.

    Items are resampled as pairs, so that what is common to both (an image that is hard for every method) drops out.
    p = 2 min(share of resampled means above zero, below zero), at least 2 / (count + 1).
    """
    x, y = same_shape("a", a, "b", b)
    if x.ndim != 1 or len(x) < 2:
        raise InputError("a", f"shape {tuple(x.shape)}", "one number for each of at least 2 items")
    difference = x - y
    n = len(difference)
    draw = torch.Generator().manual_seed(key(seed, "bootstrap"))
    means = difference[torch.randint(n, (count, n), generator=draw, device="cpu")].mean(1)
    center = difference.mean()
    means = center + (means - center) * stretch(n)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu")).tolist()
    side = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Difference(float(center), low, high, min(1.0, 2 * (side + 1) / (count + 1)))
