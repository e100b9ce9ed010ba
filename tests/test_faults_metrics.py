"""Closed forms of metrics: constants, normalizations, degrees of freedom and units, each from its definition."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.metrics import structural_similarity

from retrodict import metrics
from retrodict.metrics.bands import band_spread_skill
from retrodict.metrics.bootstrap import bootstrap, paired_bootstrap
from retrodict.metrics.frequency import radial
from retrodict.metrics.misfit import data_misfit
from retrodict.metrics.noise import autocorrelation, noise_spectrum, ring_average, whiteness
from retrodict.metrics.ranks import rank_histogram, ranks
from retrodict.metrics.regions import Region, cut, find_uniform
from retrodict.metrics.reliability import _gauss, _ratio_error, reliability_curve, z_summary
from retrodict.metrics.response import draw_disc, known_system
from retrodict.metrics.tarp import _distance, tarp
from retrodict.metrics.task import detectability, hotelling_from_samples


def field(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---- numbers of images -----------------------------------------------------------------------------------------------


def test_similarity_is_that_of_scikit_image():
    """Constants from the data range, sample covariances, windows of 7."""
    a, b = field(20, 24), field(20, 24) + 0.5 * field(20, 24, seed=1)
    known = structural_similarity(a.numpy(), b.numpy(), win_size=7, data_range=5.0, full=True)[1][3:-3, 3:-3].mean()
    assert metrics.ssim(a, b, data_range=5.0) == pytest.approx(known, rel=1e-10)


def test_psnr_and_z_in_closed_form():
    a = torch.zeros(4)
    assert metrics.psnr(a, a + 2, data_range=200.0) == pytest.approx(40.0)
    assert metrics.z_scores(a, a + 2, a + 3).tolist() == [1.5] * 4  # positive where the truth is above the mean


@pytest.mark.parametrize("scatter", [0.0, 1.0])
def test_differences_that_are_symmetric_about_zero_have_a_p_value_of_one(scatter):
    """Two-sided: as many resamples, or sign flips, lie above zero as below."""
    hard = 100 * field(8).abs()
    difference = scatter * torch.tensor([-1.0, 1.0]).double().repeat(4)
    assert paired_bootstrap(hard + difference, hard).p_value == pytest.approx(1.0, abs=0.02)


def test_what_two_methods_share_drops_out_of_their_difference():
    hard = 100 * field(8).abs()
    found = paired_bootstrap(hard + 1, hard)
    assert (found.value, found.lower, found.upper) == pytest.approx((1.0, 1.0, 1.0))
    assert found.p_value < 0.05


def test_a_band_of_few_items_is_as_wide_as_that_of_student():
    """Of a mean of 8 normal numbers: t_{0.975, 7} s / sqrt(8), to what 2000 resamples and their skewness allow."""
    x = field(8, seed=3)
    reach = scipy.stats.t.ppf(0.975, 7) * float(x.std()) / math.sqrt(8)
    band = bootstrap(x, lambda v: v.mean(0))
    assert 0.88 * reach < 0.5 * float(band.upper - band.lower) < 1.4 * reach


# ---- noise -----------------------------------------------------------------------------------------------------------


def test_rings_are_centered_on_multiples_of_their_width():
    """A plane that holds the number of the nearest ring gives that number, at its frequency."""
    f = torch.fft.fftfreq(16, 0.5).double()
    ring = (torch.hypot(f[:, None], f[None]) * 8).round()  # df = 1 / (16 * 0.5)
    frequency, value = ring_average(ring, 0.5)
    assert torch.allclose(value, torch.arange(1.0, 9.0).double())
    assert torch.allclose(frequency, value / 8)


def test_a_radial_spectrum_ends_at_the_lower_nyquist_frequency():
    f, _ = radial(torch.ones(16, 16), (1.0, 0.5), 8)
    assert 0.4 < float(f.max()) <= 0.5


@pytest.mark.parametrize(
    ("how", "shape"), [("mean", (64, 16, 24)), ("pair", (2, 32, 16, 24)), ("ensemble", (2, 32, 16, 24))]
)
@pytest.mark.parametrize("window", ["none", "hann"])
def test_white_noise_has_the_same_spectrum_however_it_is_taken(how, window, shape):
    """sigma^2 dy dx = 9 * 0.5 * 2, within 5 standard errors of as many samples."""
    found = noise_spectrum(3 * field(*shape), (0.5, 2.0), how=how, window=window, bootstrap=20)
    mean = float(found.plane.mean()) / (1 - 1 / (16 * 24) if how == "mean" and window == "none" else 1)
    assert mean == pytest.approx(9.0, rel=5 * math.sqrt(2 / (32 * 16 * 24) * (1 if window == "none" else 3.8)))
    assert found.reliable_from == pytest.approx(4 * max(1 / (16 * 0.5), 1 / (24 * 2.0)))


def test_the_average_frequency_weighs_by_the_spectrum():
    found = noise_spectrum(field(8, 16, 16), 1.0, bootstrap=20)
    known = dataclasses.replace(found, frequency=torch.tensor([1.0, 2.0]), value=torch.tensor([1.0, 3.0]))
    assert known.average_frequency == pytest.approx(7 / 4)
    assert known.peak_frequency == 2.0


def test_correlations_do_not_wrap_around_the_region():
    """Products summed by hand over all pairs that there are."""
    x = field(2, 9, 10)
    n = x - x.mean((-2, -1), keepdim=True)
    found = autocorrelation(x, 1.0, how="mean", reach=3)
    for row, col in ((0, 1), (2, 3), (3, 0)):
        pairs = n[:, : 9 - row, : 10 - col] * n[:, row:, col:]
        assert float(found[3 + row, 3 + col]) == pytest.approx(float(pairs.mean() / n.square().mean()), rel=1e-9)
    assert float(found[3, 3]) == 1.0


def test_whiteness_counts_every_lag_once():
    assert whiteness(field(8, 16, 16), how="mean", reach=3).dof == 24  # half of 7 x 7 - 1


# ---- ranks, misfit, TARP ---------------------------------------------------------------------------------------------


def test_a_truth_that_ties_with_all_samples_has_any_rank():
    found = ranks(torch.zeros(3, 400), torch.zeros(400))
    assert torch.bincount(found).tolist() == pytest.approx([100] * 4, abs=5 * math.sqrt(75))


def test_bins_of_ranks_expect_what_they_hold():
    """K = 3 in 3 bins: ranks 0 and 1 share one, and counts in that proportion have chi^2 = 0."""
    flat = rank_histogram(torch.tensor([0, 1, 2, 3] * 10), 3, bins=3)
    assert flat.expected.tolist() == [20, 10, 10]
    assert (flat.chi2, flat.p_value) == pytest.approx((0.0, 1.0))
    steep = rank_histogram(torch.tensor([0] * 60 + [1] * 40), 1, bins=2)
    assert (steep.chi2, steep.p_value) == pytest.approx((4.0, math.erfc(math.sqrt(2))))  # one degree of freedom


def test_the_distance_of_tarp_looks_to_both_sides():
    assert _distance(torch.tensor([0.9, 0.95])) == pytest.approx(0.9)
    assert _distance(torch.tensor([0.05, 0.1])) == pytest.approx(0.9)


def test_samples_that_made_a_reference_are_not_ranked():
    assert tarp(field(8, 20, 3), field(20, 3, seed=1)).members == 6
    assert tarp(field(8, 20, 3), field(20, 3, seed=1), field(20, 3, seed=2)).members == 8


@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_a_misfit_has_the_law_of_chi_square(scale):
    """One sample of one item with 50 equal residuals: first, z and the two-sided p from scipy."""
    y = scale * torch.ones(1, 50, dtype=torch.float64)
    found = data_misfit(torch.zeros(2, 1, 50), y, lambda x: x, lambda r: r, 50)
    chi2 = 50 * scale**2
    law = scipy.stats.chi2(50)
    assert found.first == pytest.approx(scale**2)
    assert found.z == pytest.approx((scale**2 - 1) / math.sqrt(2 / 50))
    assert found.p_value == pytest.approx(2 * min(law.cdf(chi2), law.sf(chi2)), rel=1e-8)


# ---- spread against error --------------------------------------------------------------------------------------------


def test_bands_of_frequency_know_their_axes_and_their_norm():
    """An error of period 5 pixels of 1 mm down the rows, f = 0.2, lies above 0.125, half of the lower Nyquist; a window
    of unit mean square keeps its power, amplitude^2 / 2 a pixel, but for what leaks into the corners.
    """
    wave = torch.cos(2 * math.pi * torch.arange(40).double() / 5)[:, None].expand(40, 20)
    x = field(4, 3, 40, 20)
    x = x - x.mean(0)
    found = band_spread_skill(x + 5 * wave, torch.zeros(3, 40, 20), (1.0, 2.0), 2)
    assert torch.allclose(found.ratio, found.skill / (1.25 * found.spread), rtol=1e-12)
    f = torch.hypot(torch.fft.fftfreq(40, 1.0).double()[:, None], torch.fft.fftfreq(20, 2.0).double()[None])
    count = [int(((f >= a) & (f <= b)).sum()) for a, b in ((0, 0.1249), (0.1249, 0.25 + 1e-9))]
    assert float(found.skill[1]) * count[1] == pytest.approx(25 / 2 * 800, rel=0.05)
    assert float(found.skill[0]) * count[0] < 0.01 * 25 / 2 * 800


def test_predicted_errors_hold_that_of_the_mean():
    """Members +-1: half of them have mean 0 and unbiased variance v, so that predicted^2 = v (1 + 1/k)."""
    x = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()[:, None, None].expand(4, 2, 50)
    found = reliability_curve(x, torch.full((2, 50), 2.0).double(), bins=1)
    assert float(found.predicted) == pytest.approx(math.sqrt(2.0 * 1.5))
    assert float(found.observed) == pytest.approx(2.0)


def test_the_window_of_a_map_is_as_wide_as_it_says():
    weights = _gauss(9, 4.0)
    assert float(weights[4, 6]) == pytest.approx(0.5)
    assert float(weights[4, 4]) == 1.0


def test_z_of_few_samples_varies_as_that_of_student():
    found = z_summary(field(6, 10, 40), field(10, 40, seed=1))
    assert found.expected_variance == pytest.approx((1 + 1 / 6) * 5 / 3)
    assert found.ratio == pytest.approx(found.variance / found.expected_variance)


def test_the_error_of_a_ratio_is_that_of_its_clusters():
    """1/2 and 3/2 from two clusters: residuals -1 and 1, sqrt(2 * 2 / 1) / 4."""
    above, below = torch.tensor([[1.0], [3.0]]).double(), torch.tensor([[2.0], [2.0]]).double()
    error, used = _ratio_error(above, below, below > 0)
    assert (float(error), used) == (pytest.approx(0.5), [2])


# ---- tasks and responses ---------------------------------------------------------------------------------------------


def test_observers_in_closed_form():
    """W MTF = 1 up to f = 1, white noise S: d'_PW^2 = pi / S and d'_NPW the same; a step of S parts them."""
    f = torch.linspace(0, 1, 20001, dtype=torch.float64)
    one = torch.ones_like(f)
    white = detectability(f, one, one, 4 * one)
    assert (white.npw, white.hotelling) == pytest.approx((math.sqrt(math.pi / 4),) * 2, rel=1e-6)
    step = torch.where(f**2 < 0.5, 1.0, 9.0)  # half of the area each
    found = detectability(f, one, one, step)
    assert found.npw == pytest.approx(math.sqrt(math.pi / 5), rel=1e-3)
    assert found.hotelling == pytest.approx(math.sqrt(math.pi / 2 * (1 + 1 / 9)), rel=1e-3)


def test_an_observer_without_a_signal_sees_none_on_average():
    """E raw = (N / (N - c - 1)) c (1/n1 + 1/n2) for d' = 0 is taken off; over 30 sets of 30 images, d'^2 < 0.05."""
    squares = []
    for i in range(30):
        squares.append(hotelling_from_samples(field(30, 8, 8, seed=2 * i), field(30, 8, 8, seed=2 * i + 1), width=4.0,
                                              channels=3, bootstrap=2).value ** 2)  # fmt: skip
    assert np.mean(squares) < 0.15  # the raw mean is 0.2 * 1.07; what is below zero is cut off


def test_noise_of_a_known_system_is_not_taken_by_its_gain():
    """Four pairs, y = 0.5 x + 3 z on pixels of 2 mm^2: NPS = 9 * 2; 5 standard errors of 4 x 4096 samples."""
    x = field(4, 64, 64)
    found = known_system(0.5 * x + 3 * field(4, 64, 64, seed=1), x, (1.0, 2.0))
    size = 2 * math.pi * found.frequency
    mean = float((found.noise * size).sum() / size.sum())
    assert mean == pytest.approx(18.0, rel=5 * math.sqrt(2 / (4 * 4096)))
    assert float((found.mtf * size).sum() / size.sum()) == pytest.approx(0.5, abs=0.05)


def test_a_disc_on_oblong_pixels_is_round():
    disc = draw_disc((30, 60), (2.0, 1.0), (15.0, 30.0), 12.0)
    assert float(disc.sum()) * 2 == pytest.approx(math.pi * 144, rel=2e-3)
    assert int((disc.amax(1) > 0.5).sum()) * 2 == pytest.approx(int((disc.amax(0) > 0.5).sum()), abs=2)


def test_uniform_regions_neither_overlap_nor_lie_in_air():
    x = field(1, 96, 96)
    x[:, :48] -= 1000
    found = find_uniform(x, size=16, count=12, lowest=-500.0)
    assert all(r.row >= 44 for r in found)
    share = torch.zeros(96, 96)
    for r in found:
        share[r.row : r.row + 16, r.column : r.column + 16] += 1
    assert float(share.max()) == 1
    assert torch.equal(cut(x, [Region(0, 50, 4, 16)])[0], x[0, 50:66, 4:20])
