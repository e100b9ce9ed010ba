"""Ratios over tiles, factors of a variance that is half known, and means of discs."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from retrodict import InputError
from retrodict.metrics.prediction import student_quantile
from retrodict.metrics.predictive import disc, disc_means, predictive_factor, tiled_ratio


def test_a_ratio_over_tiles_by_hand():
    """R = 12/10; residuals O - R P are 0.8, -0.8; error^2 = 2 (0.64 + 0.64) / 100."""
    o, p = torch.tensor([8.0, 4.0]), torch.tensor([6.0, 4.0])
    found = tiled_ratio(o, p)
    assert found.value == pytest.approx(1.2)
    assert found.error == pytest.approx(math.sqrt(2 * 1.28) / 10)
    low, high = found.band()
    assert high - low > 1.2  # one degree of freedom tells next to nothing
    assert tiled_ratio(o, p, least=1.0).error == 1.0
    assert math.isnan(tiled_ratio(o[:1], p[:1]).error)
    assert math.isnan(tiled_ratio(o, torch.zeros(2)).value)


def test_the_error_of_a_ratio_is_its_scatter():
    g = torch.Generator().manual_seed(0)
    found = [tiled_ratio(torch.randn(40, 50, generator=g).square().sum(1), torch.full((40,), 50.0)) for _ in range(300)]
    values = torch.tensor([f.value for f in found])
    errors = torch.tensor([f.error for f in found])
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.12)
    assert float(torch.tensor([f.p_value < 0.05 for f in found]).double().mean()) == pytest.approx(0.05, abs=0.04)


@pytest.mark.parametrize("count", [2, 8])
def test_the_factor_is_students_without_noise_and_normal_without_posterior(count):
    v = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    student, normal, between = predictive_factor(0.9, v, torch.tensor([0.0, 1.0, 1.0]), count).tolist()
    assert student == pytest.approx(student_quantile(0.05, count - 1))
    assert normal == pytest.approx(NormalDist().inv_cdf(0.95), rel=1e-6)
    assert between == pytest.approx(student_quantile(0.05, 4 * (count - 1)), rel=1e-3)


def test_an_interval_of_members_and_noise_covers_as_it_says():
    g = torch.Generator().manual_seed(1)
    members = torch.randn(5, 200_000, generator=g, dtype=torch.float64)
    truth = torch.randn(200_000, generator=g, dtype=torch.float64)
    seen = truth + 0.7 * torch.randn(200_000, generator=g, dtype=torch.float64)
    posterior = 1.2 * members.var(0)
    half = predictive_factor(0.9, posterior, 0.49, 5) * (posterior + 0.49).sqrt()
    assert float(((seen - members.mean(0)).abs() <= half).double().mean()) == pytest.approx(0.9, abs=0.006)


def test_a_disc_holds_the_pixels_whose_centers_are_in_it():
    assert (disc(2.0, (1.0, 1.0)) > 0).int().tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert disc(1.0, (1.0, 1.0)).tolist() == [[1.0]]
    assert disc(4.0, (2.0, 1.0)).shape == (3, 5)
    for d in (5.0, 20.0):
        weights = disc(d, (0.5, 0.5))
        assert float(weights.sum()) == pytest.approx(1)
        assert int((weights > 0).sum()) == pytest.approx(math.pi * d**2, rel=0.08)


def test_means_of_discs_do_not_overlap_and_stay_within_the_mask():
    images = torch.arange(2 * 9 * 12, dtype=torch.float64).reshape(2, 9, 12)
    inside = torch.ones(9, 12, dtype=torch.bool)
    found = disc_means(images, 2.0, (1.0, 1.0), inside)
    assert found.shape == (2, 12)
    centers = images[:, 1::3, 1::3].flatten(1)
    assert torch.allclose(found, centers)  # a linear image: the mean is the center
    inside[0, 0] = inside[3, 1] = False  # a corner that no disc holds, and a pixel that one does
    assert disc_means(images, 2.0, (1.0, 1.0), inside).shape == (2, 11)
    assert disc_means(images, 40.0, (1.0, 1.0), inside).shape == (2, 0)
    with pytest.raises(InputError, match="within"):
        disc_means(images, 2.0, (1.0, 1.0), inside[:4])
