import pytest
import torch
from scipy import stats

from retrodict._check import InputError
from retrodict.metrics import central_factor, coverage, z_scores


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_z_scores_closed_form():
    z = z_scores(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 4.0]), torch.tensor([2.0, 0.0]))
    assert z.tolist() == [2, -0.5]


def test_coverage_counts():
    mean, sd = torch.zeros(4), torch.ones(4)
    truth = torch.tensor([0.5, -0.9, 1.5, -3.0])
    assert coverage(mean, sd, truth).tolist() == [0.5, 0.75]


def test_calibrated_gaussian_covers_as_stated():
    truth = noise(400_000) * 7 + 3
    out = coverage(torch.full_like(truth, 3), torch.full_like(truth, 7), truth, (0.5, 0.68, 0.95))
    assert torch.allclose(out, torch.tensor([0.5, 0.68, 0.95], dtype=torch.float64), atol=0.003)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_few_samples_cover_as_stated_only_with_the_count(count):
    draws = noise(count + 1, 200_000)
    mean, sd = draws[1:].mean(0), draws[1:].std(0)
    assert coverage(mean, sd, draws[0], (0.95,), count=count).item() == pytest.approx(0.95, abs=0.004)
    assert coverage(mean, sd, draws[0], (0.95,)).item() < 0.92


@pytest.mark.parametrize("dof", [1, 2, 7, 63, 4000])
@pytest.mark.parametrize("level", [0.05, 0.68, 0.95, 0.99])
def test_factor_is_the_student_quantile(dof, level):
    expected = stats.t.ppf((1 + level) / 2, dof) * (1 + 1 / (dof + 1)) ** 0.5
    assert central_factor(level, dof + 1) == pytest.approx(expected, rel=1e-6)


def test_factor_tends_to_the_normal_quantile():
    assert central_factor(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert central_factor(0.95, 100_000) == pytest.approx(1.959964, rel=1e-4)


def test_zero_sd_covers_only_the_exact_value():
    out = coverage(torch.zeros(2), torch.zeros(2), torch.tensor([0.0, 1e-9]), (0.5,))
    assert out.tolist() == [0.5]


def test_refuses():
    one = torch.ones(2)
    with pytest.raises(InputError, match="sd"):
        z_scores(one, one * 0, one)
    with pytest.raises(InputError, match="negative"):
        coverage(one, -one, one)
    with pytest.raises(InputError, match="level"):
        coverage(one, one, one, (95,))
    with pytest.raises(InputError, match="count"):
        central_factor(0.5, 1)
    with pytest.raises(InputError, match="shape"):
        coverage(one, torch.ones(3), one)
