"""Bands and tests from few items: coverage and level by simulation, exact values by counting."""

import itertools
import math

import pytest
import torch

from retrodict.metrics.bootstrap import SMALLEST_TEST, _studentized_p, bootstrap, paired_bootstrap
from retrodict.metrics.task import hotelling_from_samples, laguerre_gauss


def exponential(n, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.empty(n, dtype=torch.float64).exponential_(1.0, generator=draw)


def normal(n, seed):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean(x):
    return x.mean(0)


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize(("law", "truth"), [(exponential, 1.0), (normal, 0.0)])
def test_bands_of_few_items_cover(n, law, truth):
    """Percentile bands, widened, cover 0.88 for an exponential law; 200 draws scatter by 0.016."""
    bands = [bootstrap(law(n, s), mean, seed=s, count=300) for s in range(200)]
    assert sum(bool(b.lower <= truth <= b.upper) for b in bands) / 200 > 0.905


def test_a_band_follows_a_change_of_unit():
    x = exponential(6, 1)
    one, other = bootstrap(x, mean), bootstrap(25.4 * x, mean)
    assert torch.allclose(torch.stack(other), 25.4 * torch.stack(one))


def test_a_ratio_has_a_band_of_its_own():
    x = torch.stack([exponential(8, 2), 3 + exponential(8, 3)], 1)
    band = bootstrap(x, lambda v: (v[:, 0].sum() / v[:, 1].sum()).sqrt())
    assert 0 < float(band.lower) < float(band.value) < float(band.upper)


@pytest.mark.parametrize("n", [6, 8, 10])
def test_the_p_value_is_at_least_that_of_all_sign_flips(n):
    x = normal(n, n) + 0.9
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=n)), dtype=torch.float64)
    exact = float(((signs @ x).abs() >= float(x.sum().abs()) - 1e-12).double().mean())
    found = paired_bootstrap(x, torch.zeros(n, dtype=torch.float64)).p_value
    assert found >= exact
    assert found < 4 * exact


def test_no_p_value_is_below_that_of_the_fewest_flips():
    for n in (2, 3, 5, SMALLEST_TEST):
        p = paired_bootstrap(
            torch.linspace(1, 1.1, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        ).p_value
        assert p >= 2 / 2**n
        assert (p < 0.05) == (n >= SMALLEST_TEST)


def test_the_studentized_p_value_is_two_sided():
    """A mean of zero in the middle of a symmetric law: half of the scores lie on either side, and p is 1."""
    x = torch.linspace(-3, 3, 12, dtype=torch.float64)
    assert _studentized_p(x, 0, 4000) == pytest.approx(1, abs=0.05)


def test_the_p_value_is_that_of_student_where_it_is_the_largest():
    """One large difference of eight: sign flips say 2 / 2^8; Student, t = 1.155 with 7 degrees, 0.286."""
    x = torch.tensor([0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.2, 9.0], dtype=torch.float64)
    assert float(x.mean() / x.std()) * math.sqrt(8) == pytest.approx(1.155, abs=0.001)
    assert paired_bootstrap(x, 0 * x).p_value >= 0.28


@pytest.mark.parametrize("law", [exponential, normal])
def test_skewed_nulls_are_rejected_about_as_often_as_stated(law):
    """Percentile p-values reject 13-15 % of skewed nulls of 8 items."""
    shift = torch.full((8,), 1.0 if law is exponential else 0.0, dtype=torch.float64)
    p = torch.tensor([paired_bootstrap(law(8, s), shift, seed=s, count=300).p_value for s in range(200)])
    assert 0.005 < float((p < 0.05).double().mean()) < 0.095
    assert 0.35 < float(p.median()) < 0.7  # a halved p-value has a median of a quarter


def test_the_band_of_an_observer_misses_to_both_sides():
    filters = laguerre_gauss(24, 8.0)
    n, ideal, below, above = 40, 2.0, 0, 0
    for seed in range(60):
        z = torch.randn(2 * n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        images = torch.einsum("nc,chw->nhw", z, filters)
        images[:n] += ideal * filters[0]
        found = hotelling_from_samples(images[:n], images[n:], width=8.0, bootstrap=400, seed=seed)
        below, above = below + (found.lower > ideal), above + (found.upper < ideal)
    assert below + above <= 6  # 3 expected
    assert below <= 6
    assert above <= 6
