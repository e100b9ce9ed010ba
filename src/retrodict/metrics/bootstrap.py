"""Error bars without a model of the data: bands of a statistic, paired differences and their test, from few items.

What holds at n = 3 ... 15 items, by simulation: `benchmarks/coverage.py` and docs/howto-phantom-to-report.md.
"""

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
from retrodict.metrics.calibration import _student, student_within

__all__ = ["SMALLEST_TEST", "Band", "Difference", "bootstrap", "paired_bootstrap", "stretch"]


SMALLEST_TEST = 6
"""Fewest pairs with which a two-sided exact test can reach 5 %: 2 / 2^6 = 0.031, but 2 / 2^5 = 0.063."""


_EXACT = 14  # up to here all 2^n sign flips are counted, above they are drawn


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
    """95 % band of a smooth statistic (mean, ratio, root of either) of `values` (n, ...), n independent items.

    `statistic` maps (n, ...) to its value.  From the jackknife pseudo-values u_i = n T - (n - 1) T_(i) (Tukey 1958):
    T +- t_{0.975, n-1} s_u / sqrt(n), joined with the same in log T where all values and statistics are above 0, and,
    from 4 items on, with the studentized bootstrap of u (Efron and Tibshirani 1993, section 12.5): both see skewness.
    Percentile bands cover 83-88 % for skewed data at n = 3-8; these 90-98 %.  Of 3 items nothing is known of
    skewness: the band is Student's.  Fewer than 2 are an error.  A median is not smooth: not for it.
    """
    x = double("values", values)
    n = x.shape[0] if x.ndim else 0
    if n < 2:
        raise InputError("values", f"{n} items", "at least 2 to draw from")
    keep = ~torch.eye(n, dtype=torch.bool, device="cpu")
    value = torch.as_tensor(statistic(x), device="cpu").double()
    without = torch.stack([torch.as_tensor(statistic(x[k]), device="cpu").double() for k in keep])
    low, high = _studentized(n * value - (n - 1) * without, seed, count)
    low, high = value - high, value - low
    reach = _reach(n * value - (n - 1) * without)
    low, high = torch.minimum(low, value - reach), torch.maximum(high, value + reach)
    if bool((x > 0).all()) and bool((value > 0).all()) and bool((without > 0).all()):
        reach = _reach(n * value.log() - (n - 1) * without.log())
        low, high = torch.minimum(low, value * torch.exp(-reach)), torch.maximum(high, value * torch.exp(reach))
    return Band(value, low, high)


def _reach(pseudo: Tensor) -> Tensor:
    """Half width of Student's 95 % band of the mean of pseudo-values (n, ...)."""
    n = len(pseudo)
    return _student(0.95, n - 1) * pseudo.std(0) / math.sqrt(n)


def _studentized(pseudo: Tensor, seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Quantiles (2.5 %, 97.5 %) of the error of the mean of `pseudo` (n, ...), from studentized resamples.

    Below 4 items every fourth resample has no scatter and the quantiles are infinite: zeros then, which widen nothing.
    """
    n = len(pseudo)
    if n < 4:
        return torch.zeros_like(pseudo[0]), torch.zeros_like(pseudo[0])
    score = _scores(pseudo, seed, count)
    error = pseudo.std(0) / math.sqrt(n)
    ends = torch.quantile(
        score, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu"), dim=0, interpolation="nearest"
    )
    low, high = torch.where(error == 0, 0.0, ends * error)
    return low, high


def _scores(x: Tensor, seed: int, count: int) -> Tensor:
    """(mean of a resample - mean) / its standard error, `(count, ...)`, for x (n, ...)."""
    n = len(x)
    draw = torch.Generator().manual_seed(key(seed, "bootstrap"))
    pick = torch.randint(n, (count, n), generator=draw, device="cpu")
    times = torch.zeros(count, n, dtype=torch.float64, device="cpu").scatter_add_(
        1, pick, torch.ones(count, n, dtype=torch.float64, device="cpu")
    )
    flat = (x - x.mean(0)).reshape(n, -1)
    mean, square = times @ flat / n, times @ flat.square() / n
    scatter = ((square - mean.square()).clamp_min(0) / (n - 1)).sqrt()
    none = scatter <= 1e-9 * flat.std(0)  # a resample of one item, drawn n times
    score = torch.where(
        none, torch.copysign(torch.tensor(math.inf, dtype=torch.float64, device="cpu"), mean), mean / scatter
    )
    return score.reshape(count, *x.shape[1:])


def paired_bootstrap(a: Tensor, b: Tensor, *, seed: int = 0, count: int = 2000) -> Difference:
    """Difference of two methods on the same items: mean of a - b (n,), with band and p-value.

    Pairs: what is common to both (an image that is hard for every method) drops out.  The band is that of `bootstrap`.
    p is the largest of three: the exact test of sign flips (Fisher 1935, section 21; all 2^n of them to n = 14, drawn
    above), valid for any symmetric law of the differences; Student's; and the studentized bootstrap, which keeps its
    level better where the law is skewed.  With fewer than `SMALLEST_TEST` = 6 items p cannot fall below 0.06: no method
    can tell two apart at 5 % without believing in a normal law.
    """
    x, y = same_shape("a", a, "b", b)
    if x.ndim != 1 or len(x) < 2:
        raise InputError("a", f"shape {tuple(x.shape)}", "one number for each of at least 2 items")
    difference = x - y
    band = bootstrap(difference, _mean, seed=seed, count=count)
    center = float(difference.mean())
    if float(difference.std()) == 0:  # all alike: zero, or a shift without scatter
        p = 1.0 if center == 0 else _flips(difference, seed, count)
    else:
        p = max(_flips(difference, seed, count), _student_p(difference), _studentized_p(difference, seed, count))
    return Difference(center, float(band.lower), float(band.upper), min(1.0, p))


def _mean(x: Tensor) -> Tensor:
    return x.mean(0)


def _flips(x: Tensor, seed: int, count: int) -> float:
    """Two-sided p-value of the mean of x (n,) among its sign flips; drawn flips count the data among them."""
    n = len(x)
    if n <= _EXACT:
        bits = (torch.arange(2**n, device="cpu")[:, None] >> torch.arange(n, device="cpu")) & 1
        extra = 0
    else:
        bits = torch.randint(2, (count, n), generator=torch.Generator().manual_seed(key(seed, "flips")), device="cpu")
        extra = 1
    sums = (1.0 - 2.0 * bits.double()) @ x
    near = 1e-12 * float(x.abs().sum())  # sums that are equal but for round-off
    return (int((sums.abs() >= abs(float(x.sum())) - near).sum()) + extra) / (len(bits) + extra)


def _student_p(x: Tensor) -> float:
    """Two-sided p-value of Student's test of mean zero."""
    return 1 - student_within(float(x.mean()) / float(x.std()) * math.sqrt(len(x)), len(x) - 1)


def _studentized_p(x: Tensor, seed: int, count: int) -> float:
    if len(x) < 4:
        return 1.0
    score, t = _scores(x, seed, count), float(x.mean()) / float(x.std()) * math.sqrt(len(x))
    side = min(int((score >= t).sum()), int((score <= t).sum()))
    return 2 * (side + 1) / (count + 1)
