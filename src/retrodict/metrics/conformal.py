"""Factors on stated deviations that hold whatever the law of the errors: split conformal and risk control.

An interval mean +- q sd is made from a model that may be wrong; pairs of stated and true values of n independent
*patients* find a q with a guarantee for the next one.  Patients are exchangeable, pixels and slices are not.
Sources: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005 (split conformal); Bates,
Angelopoulos, Lei, Malik and Jordan, J. ACM 68, 2021 (risk-controlling prediction sets); Angelopoulos, Bates, Candes,
Jordan and Lei, Learn then Test, 2021; Angelopoulos, Kohli, Bates, Jordan, Malik, Alshaabi, Upadhyayula and Romano,
ICML 2022 (images); Waudby-Smith and Ramdas, J. R. Stat. Soc. B 86, 2024 (betting).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.metrics._arrays import as_tensor, double, same_shape

__all__ = [
    "BOUNDS",
    "FACTORS",
    "Split",
    "betting_p",
    "binomial_cdf",
    "hoeffding_bentkus_p",
    "image_score",
    "miscoverage",
    "patients_needed",
    "risk_factor",
    "risk_patients_needed",
    "split_factor",
    "standardized",
    "upper_bound",
]


FACTORS = tuple(round(0.05 * 1.01**k, 6) for k in range(695))
"""Factors that risk control chooses from, 0.05 to 50 in steps of 1 %: fixed before any data are seen."""


# ---- scores of one image ---------------------------------------------------------------------------------------------


def standardized(mean: Tensor, sd: Tensor, truth: Tensor) -> Tensor:
    """|truth - mean| / sd: the factor that a value needs to lie in its interval.

    Shapes: all of one shape, and so the result. Unit: none. A stated deviation of 0 gives 0 where the mean is right
    and infinity where it is not.
    """
    m, s = same_shape("mean", mean, "sd", sd)
    m, t = same_shape("mean", m, "truth", truth)
    if bool((s < 0).any()):
        raise InputError("sd", "negative values", "standard deviations of 0 or more")
    error = (t - m).abs()
    return torch.where(error == 0, 0.0, error / s)


def image_score(need: Tensor, alpha: float) -> float:
    """Smallest factor q with at least a fraction 1 - alpha of the values in mean +- q sd.

    Shapes: `need` (n,), from `standardized`. Unit: none. Formula: the ceil((1 - alpha) n)-th smallest of |e| / sd.
    """
    _check_probability("alpha", alpha)
    flat = as_tensor(need).double().flatten()
    if not flat.numel() or bool(flat.isnan().any()):
        raise InputError("need", "no values, or values that are no numbers", "standardized errors")
    rank = max(1, _ceil((1 - Fraction(str(alpha))) * flat.numel()))
    return float(flat.kthvalue(rank).values)


def miscoverage(need: Tensor, factors: Sequence[float] = FACTORS) -> Tensor:
    """Fraction of values outside mean +- q sd for every factor q: (len(factors),), never rising with q.

    Shapes: `need` (n,), from `standardized`. Unit: fraction.
    """
    flat = as_tensor(need).double().flatten().sort().values
    if not flat.numel() or bool(flat.isnan().any()):
        raise InputError("need", "no values, or values that are no numbers", "standardized errors")
    q = torch.tensor(factors, dtype=torch.float64, device=flat.device)
    return 1 - torch.searchsorted(flat, q, right=True).double() / flat.numel()


# ---- split conformal -------------------------------------------------------------------------------------------------


def patients_needed(delta: float) -> int:
    """Patients without whom no finite factor has the guarantee of `split_factor`: ceil(1 / delta) - 1."""
    _check_probability("delta", delta)
    return _ceil(1 / Fraction(str(delta))) - 1


@dataclass(frozen=True)
class Split:
    """A factor of split conformal prediction: the `rank`-th smallest of `count` scores.

    `lower`, `upper`: the probability that the next score is at most the factor depends on the patients that were drawn
    and has the law Beta(rank, count + 1 - rank); between these it lies with probability 0.9.
    """

    factor: float
    rank: int
    count: int
    lower: float
    upper: float


def split_factor(scores: Sequence[float] | Tensor, delta: float) -> Split:
    """Factor q with P(score of the next patient <= q) >= 1 - delta, for exchangeable patients and whatever their law.

    Shapes: `scores` (n,), one a patient. Unit: that of the scores. Formula: q is the k-th smallest score with
    k = ceil((n + 1)(1 - delta)); the probability, over calibration patients and the next one, is k / (n + 1) where
    scores have no ties and at most that where they have: between 1 - delta and 1 - delta + 1 / (n + 1).
    Raises `InputError` for fewer than `patients_needed(delta)`.
    """
    values = sorted(float(s) for s in scores)
    n, need = len(values), patients_needed(delta)
    if any(math.isnan(v) for v in values):
        raise InputError("scores", "a score that is no number", "one number a patient")
    if n < need:
        raise InputError("patients", n, f"at least {need}, without whom no factor holds with delta = {delta:g}")
    k = _ceil((n + 1) * (1 - Fraction(str(delta))))
    lower, upper = (_beta_quantile(p, k, n + 1 - k) for p in (0.05, 0.95))
    return Split(values[k - 1], k, n, lower, upper)


def _beta_quantile(p: float, a: int, b: int) -> float:
    """P(Beta(a, b) <= x) = P(Bin(a + b - 1, x) >= a) for whole a and b."""
    return _bisect(lambda x: 1 - binomial_cdf(a - 1, a + b - 1, x) - p)


# ---- bounds of a mean ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 16)
def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k)."""
    if k >= n or p <= 0:
        return 1.0 if k >= 0 else 0.0
    if k < 0 or p >= 1:
        return 0.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))


def hoeffding_bentkus_p(losses: Tensor, risk: float) -> float:
    """P-value of "the mean loss is more than `risk`" for n independent losses in [0, 1].

    Shapes: `losses` (n,). Unit: none. Formula: min(exp(-n h(min(R, r), r)), e P(Bin(n, r) <= ceil(n R))), R the mean
    of the losses, r the risk, h(a, b) = a log(a/b) + (1-a) log((1-a)/(1-b)) (Hoeffding 1963; Bentkus 2004; Bates et al.
    2021, theorem 5).
    """
    n, mean = len(losses), float(losses.mean())
    if not 0 < risk < 1:
        return 1.0 if risk <= 0 else 0.0
    a = min(mean, risk)
    divergence = (a * math.log(a / risk) if a > 0 else 0.0) + (
        (1 - a) * math.log((1 - a) / (1 - risk)) if a < 1 else 0.0
    )
    count = math.ceil(n * mean - 1e-9)  # a mean of k/n is k failures, whatever its last digit
    return min(1.0, math.exp(-n * divergence), math.e * binomial_cdf(count, n, risk))


def betting_p(losses: Tensor, risk: float, delta: float = 0.1) -> float:
    """P-value of "the mean loss is more than `risk`" by the capital of a gambler, for independent losses in [0, 1].

    Shapes: `losses` (n,), in an order that was fixed before they were seen. Formula: 1 / max_t prod_{i <= t}
    (1 - v_i (L_i - r)) with bets v_i = min(1, sqrt(2 log(1/delta) / (n s_{i-1}^2))), s^2 the running variance, begun
    at 1/4 (Waudby-Smith and Ramdas 2024; Bates et al. 2021, proposition 5). Sharper than Hoeffding and Bentkus where
    patients scatter little. `delta` sets the bets: it must be the level at which the p-value is used.
    """
    x = double("losses", losses).tolist()
    n, log_capital, best = len(x), 0.0, 0.0
    total, squares, variance = 0.5, 0.25, 0.25
    for i, loss in enumerate(x, start=1):
        bet = min(1.0, math.sqrt(2 * math.log(1 / delta) / (n * variance)))
        gain = 1 - bet * (loss - risk)
        log_capital = log_capital + math.log(gain) if gain > 0 else -math.inf
        best = max(best, log_capital)
        total += loss
        squares += (loss - total / (i + 1)) ** 2
        variance = squares / (i + 1)
    return math.exp(-best)


BOUNDS: dict[str, Callable[[Tensor, float, float], float]] = {
    "hoeffding-bentkus": lambda losses, risk, _: hoeffding_bentkus_p(losses, risk),
    "betting": betting_p,
}
"""P-values of "the mean loss is more than the risk": (losses, risk, delta)."""


def upper_bound(losses: Tensor, delta: float, bound: str = "hoeffding-bentkus") -> float:
    """Number that the mean loss exceeds with probability at most delta, for independent losses in [0, 1].

    Shapes: `losses` (n,). Unit: that of the losses. Formula: largest risk whose p-value is at least delta.
    """
    p, x = BOUNDS[choice("bound", bound, BOUNDS)], _losses(losses)
    _check_probability("delta", delta)
    if p(x, 1 - 1e-12, delta) > delta:
        return 1.0
    return _bisect(lambda risk: delta - p(x, risk, delta), low=float(x.mean()))


def risk_factor(
    losses: Tensor,
    alpha: float,
    delta: float,
    factors: Sequence[float] = FACTORS,
    bound: str = "hoeffding-bentkus",
) -> float:
    """Smallest factor whose mean miscoverage over patients is at most alpha, with probability at least 1 - delta.

    Shapes: `losses` (n, len(factors)): miscoverage of every patient at every factor, in [0, 1], never rising along the
    rising factors. Unit: none. Formula: from the largest factor down, as long as the p-value of "mean loss > alpha" is
    at most delta. Since losses never rise, that is fixed-sequence testing (Learn then Test) and costs no correction.
    The probability is over the calibration patients. Raises `InputError` where not even the largest factor passes.
    """
    x, p = _losses(losses), BOUNDS[choice("bound", bound, BOUNDS)]
    _check_probability("alpha", alpha)
    _check_probability("delta", delta)
    if x.ndim != 2 or x.shape[1] != len(factors):
        raise InputError("losses", f"shape {tuple(x.shape)}", f"(patients, {len(factors)})")
    if bool((x.diff(dim=1) > 1e-12).any()):
        raise InputError("losses", "a loss that rises with the factor", "losses that never rise")
    chosen = None
    for k in reversed(range(len(factors))):
        if p(x[:, k], alpha, delta) > delta:
            break
        chosen = factors[k]
    if chosen is not None:
        return chosen
    need = risk_patients_needed(alpha, delta, bound)
    if len(x) < need:
        raise InputError("patients", len(x), f"at least {need} for alpha = {alpha:g} and delta = {delta:g} ({bound})")
    found = f"a mean miscoverage of {float(x[:, -1].mean()):.3g} at the factor {factors[-1]:g}"
    raise InputError("losses", found, f"less than {alpha:g}, by so much that {len(x)} patients show it")


def risk_patients_needed(alpha: float, delta: float, bound: str = "hoeffding-bentkus") -> int:
    """Patients without whom `risk_factor` has no factor even if none of them loses anything."""
    p = BOUNDS[choice("bound", bound, BOUNDS)]
    _check_probability("alpha", alpha)
    _check_probability("delta", delta)
    zeros = torch.zeros(100_000, dtype=torch.float64, device="cpu")
    low, high = 0, 1  # the p-value of n zeros falls with n
    while high < len(zeros) and p(zeros[:high], alpha, delta) > delta:
        low, high = high, min(2 * high, len(zeros))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if p(zeros[:middle], alpha, delta) > delta else (low, middle)
    return high


# ---- small things ----------------------------------------------------------------------------------------------------


def _losses(losses: Tensor) -> Tensor:
    x = double("losses", losses)
    if bool(((x < 0) | (x > 1)).any()):
        raise InputError("losses", f"values from {float(x.min()):g} to {float(x.max()):g}", "values from 0 to 1")
    return x


def _bisect(rising: Callable[[float], float], low: float = 0.0, high: float = 1.0) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high


def _ceil(x: Fraction) -> int:
    return -(-x.numerator // x.denominator)


def _check_probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(name, value, "a probability between 0 and 1, such as 0.1")
