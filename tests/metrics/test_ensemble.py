import pytest
import torch

from retrodict._check import InputError
from retrodict.metrics import decompose, spread_skill
from retrodict.samplers.moments import RunningMoments


def fill(samples):
    moments = RunningMoments()
    for sample in samples:
        moments.add(sample)
    return moments


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_moments_of_two_values():
    moments = fill([torch.tensor([1.0, 5.0]), torch.tensor([3.0, 5.0])])
    assert moments.count == 2
    assert moments.mean.tolist() == [2, 5]
    assert moments.variance.tolist() == [2, 0]


def test_large_offset_keeps_the_variance():
    samples = noise(50, 4) + 1e9
    assert torch.allclose(fill(samples).variance, samples.var(0), rtol=1e-9)


def test_float32_samples_use_float64_sums():
    samples = (noise(64, 10) * 1e-3 + 1000).float()
    moments = fill(samples)
    assert moments.mean.dtype == torch.float64
    assert torch.allclose(moments.variance, samples.double().var(0), rtol=1e-10)


def test_merge_is_exact_where_arithmetic_is():
    # Powers of two and small integers: every intermediate is a float64, so equality must be to the bit.
    samples = torch.tensor([[1.0, 8], [3, -8], [5, 16], [7, 0], [9, 24], [11, -40], [13, 4], [15, 12]])
    whole, left, right = fill(samples), fill(samples[:4]), fill(samples[4:])
    left.merge(right)
    assert left.count == whole.count == 8
    assert torch.equal(left.mean, samples.double().mean(0))
    assert torch.equal(left.variance, samples.double().var(0))


@pytest.mark.parametrize("cut", [0, 1, 3, 9, 10])
def test_merge_agrees_at_every_cut(cut):
    samples = noise(10, 3, 4) * 40 - 1000
    left = fill(samples[:cut])
    left.merge(fill(samples[cut:]))
    assert left.count == 10
    assert torch.allclose(left.mean, samples.mean(0), rtol=1e-14)
    assert torch.allclose(left.variance, samples.var(0), rtol=1e-12)


def test_same_order_same_bits_and_results_are_copies():
    samples = noise(7, 5)
    moments = fill(samples)
    assert torch.equal(moments.variance, fill(samples).variance)
    moments.mean.zero_()
    assert torch.equal(moments.mean, fill(samples).mean)
    first = samples[0].clone()
    alone = fill([first])
    first.zero_()
    assert torch.equal(alone.mean, samples[0])


def test_moments_refuse():
    with pytest.raises(InputError, match="no samples"):
        _ = RunningMoments().mean
    moments = fill([torch.zeros(2)])
    with pytest.raises(InputError, match="two samples"):
        _ = moments.variance
    with pytest.raises(InputError, match="shape"):
        moments.add(torch.zeros(3))
    with pytest.raises(InputError, match="non-finite"):
        moments.add(torch.tensor([0.0, float("inf")]))
    assert moments.count == 1


def test_decompose_closed_form():
    parts = decompose(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0]))
    assert (parts.mse, parts.bias2, parts.variance) == (5, 4, 1)
    assert (parts.bias2_corrected, parts.variance_corrected) == (3, 2)


@pytest.mark.parametrize("count", [2, 5, 17])
def test_both_pairs_add_up_to_the_error(count):
    parts = decompose(noise(count, 9, 8) * 3 + 2, noise(9, 8, seed=1))
    assert parts.bias2 + parts.variance == pytest.approx(parts.mse, rel=1e-12)
    assert parts.bias2_corrected + parts.variance_corrected == pytest.approx(parts.mse, rel=1e-12)


def test_corrected_values_do_not_depend_on_the_count():
    truth = torch.zeros(200_000, dtype=torch.float64)
    parts = decompose(noise(2, 200_000) * 2 + 1, truth)
    assert parts.variance_corrected == pytest.approx(4, rel=0.02)
    assert parts.bias2_corrected == pytest.approx(1, rel=0.05)
    assert parts.bias2 > 2.8  # the raw value mistakes half of the variance for bias


def test_decompose_refuses():
    with pytest.raises(InputError, match="at least two"):
        decompose(torch.zeros(1, 3), torch.zeros(3))
    with pytest.raises(InputError, match="shape"):
        decompose(torch.zeros(2, 3), torch.zeros(1, 3))


def test_spread_skill_closed_form():
    zero = torch.zeros(4)
    result = spread_skill(zero, torch.full((4,), 2.0), torch.full((4,), 3.0), 2)
    assert result.skill_over_spread == pytest.approx(9 / 3)
    assert result.ssr == pytest.approx(3**0.5)
    assert spread_skill(zero, torch.full((4,), 9.0), torch.full((4,), 3.0), None).ssr == pytest.approx(1)


@pytest.mark.parametrize("count", [2, 4, 16])
def test_calibrated_ensemble_gives_one_at_any_count(count):
    draws = noise(count + 1, 200_000, seed=count) * 5 + 7
    result = spread_skill(draws[1:].mean(0), draws[1:].var(0), draws[0], count)
    assert result.skill_over_spread == pytest.approx(1, abs=0.02)


def test_overconfident_ensemble_is_above_one():
    draws = noise(9, 100_000)
    assert spread_skill(draws[1:].mean(0), draws[1:].var(0) / 4, draws[0], 8).ssr == pytest.approx(2, rel=0.02)


def test_spread_skill_refuses():
    one = torch.ones(2)
    with pytest.raises(InputError, match="variance"):
        spread_skill(one, one * 0, one, 4)
    with pytest.raises(InputError, match="count"):
        spread_skill(one, one, one, 1)
