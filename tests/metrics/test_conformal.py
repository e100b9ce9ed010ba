"""Conformal factors: what they guarantee, exactly where it can be counted."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import pytest
import torch

from retrodict import InputError
from retrodict.metrics import conformal
from retrodict.metrics.conformal import (
    FACTORS,
    betting_p,
    binomial_cdf,
    hoeffding_bentkus_p,
    image_score,
    miscoverage,
    patients_needed,
    risk_factor,
    split_factor,
    standardized,
    upper_bound,
)


def of(*values):
    return torch.tensor(values, dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- scores ---------------------------------------------------------------------------------------------------------


def test_the_score_is_the_smallest_factor_that_covers_enough():
    need = of(3.0, 1.0, 2.0, 5.0, 4.0)
    assert [image_score(need, a) for a in (0.19, 0.2, 0.21, 0.4, 0.61, 0.99)] == [5.0, 4.0, 4.0, 3.0, 2.0, 1.0]
    assert image_score(torch.arange(1, 11), 0.1) == 9.0  # 0.9 * 10 is nine values, not ten


def test_a_deviation_of_zero_is_right_or_never_enough():
    assert standardized(of(1, 1, 1), of(0, 0, 2), of(1, 2, 4)).tolist() == [0.0, math.inf, 1.5]
    with pytest.raises(InputError, match="negative"):
        standardized(of(1), of(-1), of(1))


def test_the_factor_of_a_perfect_gaussian_law_is_its_quantile():
    z = torch.randn(400, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = [image_score(x.abs(), 0.1) for x in z]
    known = NormalDist().inv_cdf(0.95)
    assert sum(scores) / len(scores) == pytest.approx(known, abs=0.01)
    losses = torch.stack([miscoverage(x.abs()) for x in z])
    assert risk_factor(losses, 0.1, 0.1, bound="betting") == pytest.approx(known, rel=0.08)
    assert risk_factor(losses, 0.1, 0.1) == pytest.approx(known, rel=0.15)


def test_miscoverage_counts_and_never_rises():
    need = of(0.2, 1.0, 1.5, 2.5)
    assert miscoverage(need, (0.1, 1.0, 2.0, 3.0)).tolist() == [1.0, 0.5, 0.25, 0.0]
    assert bool((miscoverage(4 * uniform(100)).diff() <= 0).all())


# ---- split conformal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delta", "need"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.3, 3), (0.5, 1), (0.01, 99)])
def test_patients_needed(delta, need):
    assert patients_needed(delta) == need
    assert split_factor(range(need), delta).factor == need - 1  # the largest score
    with pytest.raises(InputError, match=f"at least {need}"):
        split_factor(range(need - 1), delta)


@pytest.mark.parametrize(("n", "delta"), [(4, 0.2), (5, 0.3), (6, 0.25), (3, 0.5)])
def test_the_guarantee_counted_over_all_orders(n, delta):
    """Of n + 1 exchangeable scores every order is as likely: the last is covered in k / (n + 1) of them, no less."""
    covered = total = 0
    for order in itertools.permutations(range(n + 1)):
        found = split_factor(order[:n], delta)
        covered, total = covered + (order[n] <= found.factor), total + 1
    assert covered * (n + 1) == total * found.rank
    assert 1 - delta <= covered / total < 1 - delta + 1 / (n + 1)


def test_the_guarantee_in_simulation():
    """Heavy tails, 20 patients: the next one is covered in 19/21 of cases, within four binomial deviations."""
    scores = torch.tan(1.5 * uniform(4000, 21, seed=3))
    hits = sum(float(row[20]) <= split_factor(row[:20], 0.1).factor for row in scores)
    p = 19 / 21
    assert abs(hits - 4000 * p) < 4 * math.sqrt(4000 * p * (1 - p))


def test_the_band_of_the_probability_is_that_of_a_beta_law():
    """Beta(1, 1) at one patient; Beta(n, 1) at the largest score, whose quantiles are p^(1/n)."""
    one = split_factor([3.0], 0.5)
    assert (one.lower, one.upper) == (pytest.approx(0.05), pytest.approx(0.95))
    nine = split_factor(range(9), 0.1)
    assert (nine.rank, nine.lower) == (9, pytest.approx(0.05 ** (1 / 9)))


# ---- risk control ---------------------------------------------------------------------------------------------------


def test_the_binomial_law():
    assert binomial_cdf(0, 10, 0.1) == pytest.approx(0.9**10)
    assert binomial_cdf(1, 2, 0.5) == pytest.approx(0.75)
    assert binomial_cdf(10, 10, 0.3) == 1.0
    assert binomial_cdf(-1, 10, 0.3) == 0.0
    counted = sum(math.comb(30, k) * 0.2**k * 0.8 ** (30 - k) for k in range(6))
    assert binomial_cdf(5, 30, 0.2) == pytest.approx(counted, rel=1e-12)


def test_hoeffding_and_bentkus_at_known_values():
    assert hoeffding_bentkus_p(torch.zeros(10), 0.1) == pytest.approx(0.9**10)  # Hoeffding; e 0.9^10 is Bentkus
    ones = torch.cat([torch.ones(60), torch.zeros(940)]).double()
    bentkus = math.e * binomial_cdf(60, 1000, 0.1)
    hoeffding = math.exp(-1000 * (0.06 * math.log(0.6) + 0.94 * math.log(0.94 / 0.9)))
    assert hoeffding_bentkus_p(ones, 0.1) == pytest.approx(bentkus)
    assert bentkus < hoeffding  # so both sides of the minimum are seen here
    assert hoeffding_bentkus_p(of(0.5, 0.5), 0.3) == 1.0  # a mean above the risk speaks for it


def test_betting_by_hand():
    """Two losses of 0 at risk r: bets of min(1, sqrt(2 log 10 / (2 / 4))) = 1, so the capital is (1 + r)^2."""
    assert betting_p(torch.zeros(2), 0.2) == pytest.approx(1 / 1.2**2)
    assert betting_p(of(1.0, 1.0), 0.2) == 1.0


def test_betting_is_the_product_of_its_definition():
    """Bets from the running variance of what came before: 60 losses, written once more with whole arrays."""
    x, risk, n = 0.3 * uniform(60, seed=9), 0.2, 60
    count = torch.arange(1, n + 1).double()
    means = (0.5 + x.cumsum(0)) / (count + 1)
    variances = (0.25 + (x - means).square().cumsum(0)) / (count + 1)
    before = torch.cat([torch.tensor([0.25]).double(), variances[:-1]])
    bets = (2 * math.log(10) / (n * before)).sqrt().clamp(max=1)
    assert float(bets.min()) < 1
    capital = (1 - bets * (x - risk)).cumprod(0)
    assert betting_p(x, risk) == pytest.approx(min(1.0, 1 / float(capital.max())), rel=1e-10)


@pytest.mark.parametrize("bound", conformal.BOUNDS)
def test_an_upper_bound_is_above_the_mean_and_falls_with_more_patients(bound):
    losses = 0.1 * uniform(400)
    bounds = [upper_bound(losses[:n], 0.1, bound) for n in (10, 50, 400)]
    assert 1 > bounds[0] > bounds[1] > bounds[2] > float(losses.mean())
    assert upper_bound(losses[:50], 0.01, bound) > bounds[1]
    zero = upper_bound(torch.zeros(30), 0.1, "hoeffding-bentkus")
    assert zero == pytest.approx(1 - 0.1 ** (1 / 30), rel=1e-9)


@pytest.mark.parametrize("bound", conformal.BOUNDS)
def test_risk_is_controlled_in_simulation(bound):
    """Patients who miss everything or nothing, the widest law there is: the mean loss at the chosen factor is at most
    alpha in at least 1 - delta of the repetitions."""
    factors = tuple(0.05 * k for k in range(1, 21))  # P(miss) = 1 - q
    draws, bad, alpha, delta = 600, 0, 0.3, 0.1
    for i in range(draws):
        u = uniform(40, seed=100 + i)
        losses = (u[:, None] > torch.tensor(factors, dtype=torch.float64)).double()
        bad += 1 - risk_factor(losses, alpha, delta, factors, bound) > alpha + 1e-9
    assert bad <= draws * delta + 4 * math.sqrt(draws * delta * (1 - delta))


def test_factors_follow_alpha_and_delta():
    losses = torch.stack(
        [miscoverage((1 + 0.2 * uniform(1, seed=i)) * 3 * uniform(500, seed=50 + i)) for i in range(60)]
    )
    by_alpha = [risk_factor(losses, a, 0.1) for a in (0.15, 0.3, 0.5)]
    assert by_alpha == sorted(by_alpha, reverse=True)
    assert by_alpha[0] > by_alpha[2]
    assert risk_factor(losses, 0.3, 0.01) > risk_factor(losses, 0.3, 0.3)
    assert risk_factor(losses, 0.3, 0.1, bound="betting") < risk_factor(losses, 0.3, 0.1)


def test_too_few_patients_are_told_how_many_it_takes():
    with pytest.raises(InputError, match="at least 22"):
        risk_factor(torch.zeros(21, len(FACTORS)), 0.1, 0.1)
    assert risk_factor(torch.zeros(22, len(FACTORS)), 0.1, 0.1) == FACTORS[0]
    with pytest.raises(InputError, match="mean miscoverage of 1 at"):
        risk_factor(torch.ones(100, len(FACTORS)), 0.1, 0.1)


def test_losses_that_cannot_be_meant():
    with pytest.raises(InputError, match="never rise"):
        risk_factor(of(0.1, 0.2)[None], 0.3, 0.1, (1.0, 2.0))
    with pytest.raises(InputError, match="from 0 to 1"):
        upper_bound(of(1.5), 0.1)
    for wrong in (0.0, 1.0):
        with pytest.raises(InputError, match="probability"):
            split_factor([1.0], wrong)
