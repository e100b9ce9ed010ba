"""The calibration suite on beds whose posterior is known: the right one passes, one wrong by 20 % does not."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from retrodict._check import InputError, NotCalibratedError
from retrodict.metrics._results import posterior_samples
from retrodict.metrics.bands import band_spread_skill
from retrodict.metrics.misfit import data_misfit
from retrodict.metrics.ranks import (
    STATISTICS,
    chi_square_sf,
    mean_of,
    pixel_at,
    projection,
    rank_histogram,
    ranks,
    simulation_based_calibration,
    total_variation,
)
from retrodict.metrics.reliability import coverage_curve, reliability_curve, reliability_map, z_summary
from retrodict.metrics.tarp import kolmogorov_sf, tarp

WRONG = (0.8, 1.2)  # variance of the samples over that of the posterior


@dataclass
class Bed:
    samples: torch.Tensor
    truth: torch.Tensor
    y: torch.Tensor
    noise: torch.Tensor


def draws(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def bed(count, items, shape, scale=1.0, seed=1, prior=4.0, noise=1.0, shift=0.0):
    """x ~ N(0, prior), y = x + N(0, noise), both diagonal; samples of x given y, their variance times `scale`."""
    randn, noise = draws(seed), torch.as_tensor(noise, dtype=torch.float64).expand(shape)
    x = prior**0.5 * randn(items, *shape)
    y = x + noise.sqrt() * randn(items, *shape)
    mean, variance = prior / (prior + noise) * y, prior * noise / (prior + noise)
    samples = mean + shift + (scale * variance).sqrt() * randn(count, items, *shape)
    return Bed(samples, x, y, noise)


def stationary(count, items, size, scale=1.0, seed=1):
    """Images with falling prior spectrum and rising noise spectrum; `scale` may depend on frequency (H, W)."""
    randn, f = draws(seed), torch.fft.fftfreq(size, dtype=torch.float64)
    f = torch.hypot(f[:, None], f[None, :])
    prior, noise = 30 / (1 + (10 * f) ** 2), 0.2 + 4 * f

    def color(power, white):
        return torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real

    x = color(prior, randn(items, size, size))
    y = x + color(noise, randn(items, size, size))
    mean = torch.fft.ifft2(torch.fft.fft2(y) * prior / (prior + noise)).real
    variance = prior * noise / (prior + noise)
    return Bed(mean + color(scale * variance, randn(count, items, size, size)), x, y, noise)


def steps(*shape):
    return torch.linspace(0.1, 3, math.prod(shape)).double().reshape(shape)


def away(ratio, low, high):
    """Whether a band excludes 1 on the right side of it; scales below 1 make ensembles too sure of themselves."""
    return bool(((low > 1) | (high < 1)).all()) and bool((low <= ratio).all() and (ratio <= high).all())


# ---- what comes in


def refusers():
    one = bed(8, 8, (8, 8))
    rest = {
        "bands": lambda s: band_spread_skill(s, one.truth, 1.0, 2),
        "ranks": lambda s: ranks(s, one.truth),
        "sbc": lambda s: simulation_based_calibration(s, one.truth),
        "tarp": lambda s: tarp(s, one.truth),
        "misfit": lambda s: data_misfit(s, one.y, lambda x: x, lambda r: r, 64),
        "curve": lambda s: reliability_curve(s, one.truth),
        "map": lambda s: reliability_map(s, one.truth, 3),
        "coverage": lambda s: coverage_curve(s, one.truth),
        "z": lambda s: z_summary(s, one.truth),
    }
    return one, rest


@pytest.mark.parametrize("name", refusers()[1])
def test_point_estimates_are_refused_and_samples_are_not(name):
    one, calls = refusers()
    for kind in ("point", "mode", None):
        with pytest.raises(NotCalibratedError, match="no spread"):
            calls[name](SimpleNamespace(samples=one.samples, kind=kind))
    with pytest.raises(InputError, match="Keep the samples"):
        calls[name](SimpleNamespace(samples=None, kind="posterior"))
    for good in (one.samples, SimpleNamespace(samples=one.samples.float(), kind="sample")):
        calls[name](good)


@pytest.mark.parametrize("name", sorted(set(refusers()[1]) - {"misfit"}))
def test_unlike_shapes_are_refused(name):
    one, calls = refusers()
    with pytest.raises(InputError, match="shape"):
        calls[name](one.samples[:, :1])


def test_samples_are_double_and_at_least_two():
    assert posterior_samples(np.ones((2, 3), np.float32), "x").dtype == torch.float64
    assert posterior_samples(SimpleNamespace(samples=torch.ones(2, 3), kind="posterior"), "x").shape == (2, 3)
    with pytest.raises(InputError, match="two samples"):
        posterior_samples(torch.ones(1, 3), "x")
    with pytest.raises(InputError, match="a result with samples"):
        posterior_samples([1.0, 2.0], "x")
    with pytest.raises(InputError, match="non-finite"):
        posterior_samples(torch.tensor([1.0, math.nan]), "x")


# ---- bands


@pytest.mark.parametrize("count", [2, 4, 8])
def test_bands_of_the_right_posterior(count):
    beds = [stationary(count, 24, 32, seed=seed) for seed in range(16)]
    outs = [band_spread_skill(one.samples, one.truth, 0.5, 4, seed=j) for j, one in enumerate(beds)]
    logs, errors = torch.stack([o.ratio.log() for o in outs]), torch.stack([o.log_error for o in outs])
    assert bool((logs.mean(0).abs() < 3.5 * errors.square().mean(0).sqrt() / 4).all())
    assert bool((errors.square().mean(0).sqrt() / 4 < 0.03).all())
    inside = torch.stack([(o.ratio_low < 1) & (o.ratio_high > 1) for o in outs]).double()
    assert inside.mean().item() == pytest.approx(0.95, abs=0.08)
    assert torch.allclose(outs[0].ssr.square(), outs[0].ratio)
    assert outs[0].frequency_low.tolist() == [0, 0.25, 0.5, 0.75]
    assert outs[0].frequency_high[-1] == 1


@pytest.mark.parametrize("scale", WRONG)
def test_bands_see_a_wrong_variance(scale):
    one = stationary(8, 160, 32, scale)
    out = band_spread_skill(one.samples, one.truth, 0.5, 3)
    assert away(out.ratio, out.ratio_low, out.ratio_high)
    # the posterior errs by V, the mean of 8 samples by scale V / 8 more
    expected = (1 + scale / 8) / ((1 + 1 / 8) * scale)
    assert bool((out.ratio_low < expected).all() and (expected < out.ratio_high).all())


def test_bands_find_the_band_that_is_wrong():
    f = torch.fft.fftfreq(32, dtype=torch.float64)
    scale = torch.where(torch.hypot(f[:, None], f[None, :]) > 0.34, 0.5, 1.0)
    one = stationary(8, 60, 32, scale.double())
    out = band_spread_skill(one.samples, one.truth, 1.0, 4)
    assert out.ratio_low[3] > 1.4
    assert bool(((out.ratio_low < 1) & (out.ratio_high > 1))[:2].all())


def test_bands_units_and_single_image():
    # White errors of variance v have v in every Fourier sample, whatever the window.
    one = bed(16, 120, (32, 32))
    out = band_spread_skill(one.samples[:, :, None], one.truth[:, None], (0.5, 0.25), 3)
    assert torch.allclose(out.spread, torch.full((3,), 0.8, dtype=torch.float64), rtol=0.03)
    assert torch.allclose(out.skill, torch.full((3,), 0.85, dtype=torch.float64), rtol=0.06)
    assert out.frequency_high[-1] == 1
    single = band_spread_skill(one.samples[:, 0], one.truth[0], 1.0)
    assert bool(single.ratio_low.isnan().all() and single.log_error.isnan().all() and single.ratio.isfinite().all())


def test_bands_cover_as_stated():
    inside = []
    for seed in range(60):
        one = bed(4, 10, (16, 16), seed=seed)
        out = band_spread_skill(one.samples, one.truth, 1.0, 3, bootstrap=200, seed=seed)
        inside.append(((out.ratio_low < 1) & (out.ratio_high > 1)).double())
    assert torch.stack(inside).mean().item() == pytest.approx(0.95, abs=0.05)


def test_bands_refuse():
    one = bed(4, 2, (8, 8))
    with pytest.raises(InputError, match="fewer bands"):
        band_spread_skill(one.samples, one.truth, 1.0, 40)
    with pytest.raises(InputError, match="without any spread"):
        band_spread_skill(one.truth.expand(4, 2, 8, 8), one.truth, 1.0, 2)


# ---- ranks


def test_ranks_count_and_break_ties_evenly():
    assert ranks(torch.tensor([[1.0, 1], [2, 2], [3, 3]]), torch.tensor([2.5, 0.0])).tolist() == [2, 0]
    tied = ranks(torch.zeros(3, 40_000), torch.zeros(40_000))
    assert torch.allclose(torch.bincount(tied) / 40_000, torch.full((4,), 0.25), atol=0.01)
    assert torch.equal(tied, ranks(torch.zeros(3, 40_000), torch.zeros(40_000)))
    assert not torch.equal(tied, ranks(torch.zeros(3, 40_000), torch.zeros(40_000), seed=1))


@pytest.mark.parametrize("count", [4, 8])
def test_ranks_are_uniform_for_few_samples(count):
    one = bed(count, 40_000, ())
    out = rank_histogram(ranks(one.samples, one.truth), count)
    assert len(out.counts) == count + 1
    assert out.counts.sum() == 40_000
    assert out.p_value > 0.01


@pytest.mark.parametrize(("count", "bins"), [(4, 5), (8, 4), (31, 20), (63, 10)])
def test_histogram_is_pearsons(count, bins):
    values = torch.randint(count + 1, (500,), generator=torch.Generator().manual_seed(3))
    out = rank_histogram(values, count, bins)
    oracle = stats.chisquare(out.counts.numpy(), out.expected.numpy())
    assert out.expected.sum().item() == pytest.approx(500)
    assert out.chi2 == pytest.approx(oracle.statistic)
    assert out.p_value == pytest.approx(oracle.pvalue, rel=1e-9)


@pytest.mark.parametrize("dof", [1, 2, 19, 400, 10**6])
@pytest.mark.parametrize("sigmas", [-4, -1, 0, 1, 4])
def test_chi_square_law(dof, sigmas):
    x = max(0.01, dof + sigmas * math.sqrt(2 * dof))
    assert chi_square_sf(x, dof) == pytest.approx(stats.chi2.sf(x, dof), rel=1e-8)


def test_p_values_of_histograms_are_uniform():
    randn = draws(8)
    values = [rank_histogram(ranks(randn(9, 300), randn(300)), 9).p_value for _ in range(300)]
    assert stats.kstest(values, "uniform").pvalue > 0.01


def test_statistics_closed_forms():
    x = torch.arange(12).double().reshape(1, 3, 4)
    assert pixel_at()(x).item() == 6
    assert pixel_at(2, 1)(x).item() == 9
    assert mean_of()(x).item() == 5.5
    assert mean_of(slice(0, 2), slice(0, 1))(x).item() == 2
    assert total_variation(x).item() == 2 * 4 * 4 + 3 * 3
    assert projection(1)(x[0:1] * 0 + 1).abs().item() < 12**0.5 + 1e-9
    assert projection(1)(x) != projection(2)(x)
    with pytest.raises(InputError, match="2 numbers"):
        pixel_at(1)(x)


def test_sbc_accepts_the_right_posterior():
    one = bed(15, 1500, (4, 4))
    out = simulation_based_calibration(one.samples, one.truth)
    assert set(out) == set(STATISTICS)
    assert min(h.p_value for h in out.values()) > 0.02
    assert out["mean"].members == 15


@pytest.mark.parametrize("scale", WRONG)
def test_sbc_sees_a_wrong_variance(scale):
    one = bed(15, 6000, (4, 4), scale)
    out = simulation_based_calibration(one.samples, one.truth, ["pixel", "mean", "projection"])
    assert max(h.p_value for h in out.values()) < 1e-3
    ends = out["mean"].counts[[0, -1]].mean() / out["mean"].expected[0]
    assert ends > 1.15 if scale < 1 else ends < 0.85


def test_sbc_sees_a_sampler_that_ignores_the_data_only_through_them():
    one, randn = bed(15, 1500, (4, 4)), draws(9)
    prior = 2 * randn(15, 1500, 4, 4)
    blind = simulation_based_calibration(prior, one.truth)
    assert min(h.p_value for h in blind.values()) > 0.01
    fit = {"fit": lambda x: (x - one.y).square().flatten(1).sum(1)}
    assert simulation_based_calibration(prior, one.truth, fit)["fit"].p_value < 1e-6
    assert simulation_based_calibration(one.samples, one.truth, fit)["fit"].p_value > 0.01


def test_ranks_refuse():
    with pytest.raises(InputError, match="whole numbers"):
        rank_histogram(torch.tensor([5]), 4)
    with pytest.raises(InputError, match="whole numbers"):
        rank_histogram(torch.tensor([0.5]), 4)
    with pytest.raises(InputError, match="from 2 to"):
        rank_histogram(torch.tensor([1]), 4, 6)
    one = bed(4, 3, (4, 4))
    with pytest.raises(InputError, match="Did you mean"):
        simulation_based_calibration(one.samples, one.truth, ["pixl"])
    with pytest.raises(InputError, match="one for each of 3"):
        simulation_based_calibration(one.samples, one.truth, {"all": lambda x: x})


# ---- TARP


@pytest.mark.parametrize("x", [0.01, 0.06, 0.3, 0.6, 0.99, 1.0, 1.36, 2.5, 4.0])
def test_kolmogorov_law(x):
    assert kolmogorov_sf(x) == pytest.approx(stats.kstwobign.sf(x), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_tarp_is_uniform_for_few_samples(count):
    beds = [bed(count, 400, (6,), seed=s) for s in range(150)]
    values = [tarp(one.samples, one.truth, seed=s).p_value for s, one in enumerate(beds)]
    assert stats.kstest(values, "uniform").pvalue > 0.01


def test_tarp_distance_is_that_of_kolmogorov_and_smirnov():
    # Far references on a line order the samples by value, so that ranks and distances are known.
    one = bed(9, 300, (1,))
    out = tarp(one.samples, one.truth, torch.full((300, 1), -1e3), levels=1001)
    assert out.members == 9
    gap = (out.ecp - out.alpha).abs().max().item()
    assert out.distance == pytest.approx(gap, abs=2e-3)
    assert out.p_value == pytest.approx(stats.kstwo.sf(out.distance, 300), abs=5e-3)
    assert (out.ecp[0], out.ecp[-1]) == (0, 1)


@pytest.mark.parametrize("scale", WRONG)
def test_tarp_sees_a_wrong_variance(scale):
    shape = (8, 8)
    right, wrong = bed(16, 600, shape, seed=2), bed(16, 600, shape, scale)
    assert tarp(right.samples, right.truth).p_value > 0.01
    out = tarp(wrong.samples, wrong.truth)
    assert out.p_value < 1e-6
    # too broad an ensemble has the truth nearer than its samples: small credibilities cover too often
    assert bool((out.ecp > out.alpha)[8:13].all()) == (scale > 1)


def test_tarp_sees_a_shift_and_a_blind_sampler():
    shifted = bed(16, 600, (16,), shift=0.5)
    assert tarp(shifted.samples, shifted.truth).p_value < 1e-3
    one, randn = bed(16, 600, (16,)), draws(4)
    prior = 2 * randn(16, 600, 16)
    assert tarp(prior, one.truth).p_value > 0.01  # its samples, and so the points, know nothing of the data
    assert tarp(prior, one.truth, one.y).p_value < 1e-6


def test_tarp_is_seeded_and_refuses():
    one = bed(8, 50, (3,))
    assert tarp(one.samples, one.truth).distance == tarp(one.samples, one.truth).distance
    assert tarp(one.samples, one.truth).distance != tarp(one.samples, one.truth, seed=1).distance
    with pytest.raises(InputError, match="references"):
        tarp(one.samples, one.truth) and tarp(one.samples, one.truth, torch.zeros(50, 2))


# ---- misfit


def misfit_of(one, forward=lambda x: x):
    return data_misfit(one.samples, one.y, forward, lambda r: r / one.noise.sqrt(), one.noise.numel())


@pytest.mark.parametrize("count", [2, 8])
def test_misfit_p_values_are_uniform(count):
    values = [misfit_of(bed(count, 6, (5, 5), seed=s, noise=steps(5, 5))).p_value for s in range(400)]
    assert stats.kstest(values, "uniform").pvalue > 0.01


def test_misfit_of_the_right_posterior():
    one = bed(8, 100, (6, 6), noise=steps(6, 6))
    out = misfit_of(one)
    assert out.items.shape == (100,)
    assert abs(out.z) < 3
    assert out.p_value == pytest.approx(2 * stats.norm.sf(abs(out.z)), abs=0.02)
    assert abs(out.mean - 1) < 3 * out.standard_error
    assert out.standard_error < math.sqrt(2 / 3600)


@pytest.mark.parametrize("scale", WRONG)
def test_misfit_sees_a_wrong_variance(scale):
    one = bed(8, 150, (8, 8), scale)
    out = misfit_of(one)
    assert out.p_value < 1e-4
    # per value (N + scale P) / (P + N) with P = 4 N
    assert out.mean == pytest.approx((1 + 4 * scale) / 5, abs=4 * out.standard_error)
    assert math.copysign(1, out.z) == math.copysign(1, scale - 1)


def test_misfit_is_exact_chi_square():
    one = bed(3, 4, (5,))
    out = misfit_of(one)
    chi2 = (one.y - one.samples[0]).square().sum().item()
    assert out.first * 20 == pytest.approx(chi2)
    assert out.p_value == pytest.approx(2 * min(stats.chi2.cdf(chi2, 20), stats.chi2.sf(chi2, 20)), rel=1e-9)
    assert out.z == pytest.approx((chi2 / 20 - 1) / math.sqrt(0.1))


def test_misfit_with_an_operator_and_complex_data():
    randn = draws(3)
    x = randn(200, 1, 4)
    y = torch.fft.fft(x, norm="ortho") + torch.complex(randn(200, 1, 4), randn(200, 1, 4))
    # Real x: only the real part of the back-transform of y is about it, and its noise has variance 1.
    mean = torch.fft.ifft(y, norm="ortho").real / 2
    samples = mean + randn(5, 200, 1, 4) / math.sqrt(2)
    out = data_misfit(samples, y, lambda x: torch.fft.fft(x, norm="ortho"), lambda r: r, 8)
    assert out.p_value > 0.01
    broad = mean + randn(5, 200, 1, 4)
    assert data_misfit(broad, y, lambda x: torch.fft.fft(x, norm="ortho"), lambda r: r, 8).p_value < 1e-4


def test_misfit_refuses():
    one = bed(3, 4, (5,))
    with pytest.raises(InputError, match="dof"):
        data_misfit(one.samples, one.y, lambda x: x, lambda r: r, 0)
    with pytest.raises(InputError, match="forward"):
        data_misfit(one.samples, one.y, lambda x: x[:, :2], lambda r: r, 2)
    with pytest.raises(InputError, match="y:"):
        data_misfit(one.samples, one.y[:3], lambda x: x, lambda r: r, 5)
    with pytest.raises(InputError, match="non-finite"):
        data_misfit(one.samples, one.y, lambda x: x, lambda r: r / 0, 5)


# ---- reliability


@pytest.mark.parametrize("count", [4, 8, 9, 32])
@pytest.mark.parametrize("items", [2, 40])
def test_reliability_of_the_right_posterior(count, items):
    side = 16 if items > 8 else 48
    one = bed(count, items, (side, side), noise=steps(side, side))
    out = reliability_curve(one.samples, one.truth, 5)
    assert torch.allclose(out.ratio, torch.ones(5).double(), atol=0.06)
    assert bool(((out.ratio - 1).abs() < 3.5 * out.standard_error).all())
    assert bool((out.standard_error < 0.04).all())
    assert out.members == count // 2
    assert bool((out.predicted.diff() > 0).all())


def test_reliability_is_not_fooled_by_sorting():
    # One posterior variance everywhere: sorted by the variance it judges, the lowest bin would be far above 1.
    one = bed(8, 40, (16, 16))
    out = reliability_curve(one.samples, one.truth)
    assert torch.allclose(out.ratio, torch.ones(10).double(), atol=0.06)
    order = one.samples.var(0).flatten().argsort()[:1024]
    error = (one.samples.mean(0) - one.truth).square().flatten()[order].mean()
    assert (error / (one.samples.var(0).flatten()[order].mean() * 9 / 8)).sqrt() > 1.5


@pytest.mark.parametrize("scale", WRONG)
@pytest.mark.parametrize("items", [2, 40])
def test_reliability_sees_a_wrong_variance(scale, items):
    side = 24 if items > 8 else 96
    one = bed(16, items, (side, side), scale, noise=steps(side, side))
    out = reliability_curve(one.samples, one.truth, 4)
    assert away(out.ratio, out.ratio_low, out.ratio_high)
    assert torch.allclose(out.ratio, torch.tensor((1 + scale / 8) / (1.125 * scale)).sqrt().double(), rtol=0.05)


def test_reliability_bands_cover_as_stated():
    beds = [bed(6, 12, (8, 8), seed=s, noise=steps(8, 8)) for s in range(80)]
    curves = [reliability_curve(one.samples, one.truth, 3) for one in beds]
    inside = torch.stack([(c.ratio_low < 1) & (c.ratio_high > 1) for c in curves]).double()
    assert inside.mean().item() == pytest.approx(0.95, abs=0.05)


def test_one_cluster_has_no_error():
    one = bed(8, 1, ())
    assert reliability_curve(one.samples, one.truth, 1).standard_error.isnan().all()
    assert coverage_curve(one.samples, one.truth).standard_error.isnan().all()
    assert math.isnan(z_summary(one.samples, one.truth).ratio_low)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_map_is_one_for_the_right_posterior(count):
    one = bed(count, 60, (20, 28), noise=steps(20, 28))
    out = reliability_map(one.samples, one.truth, 8)
    assert out.shape == (20, 28)
    assert out.mean().item() == pytest.approx(1, abs=0.025)
    assert (out - 1).abs().max() < 0.25


@pytest.mark.parametrize("scale", WRONG)
def test_map_sees_a_wrong_variance_and_where(scale):
    half = torch.ones(20, 28).double()
    half[:, 14:] = scale
    one = bed(16, 60, (20, 28), half)
    out = reliability_map(one.samples, one.truth, 4)
    assert out[:, :10].mean().item() == pytest.approx(1, abs=0.04)
    assert out[:, 18:].mean().item() == pytest.approx((1 + scale / 16) / (17 / 16 * scale), abs=0.04)


def test_map_window():
    # One pixel of error among equal variances: the map is the window, down to a half at half the width.
    samples = torch.ones(2, 1, 33, 33).double()
    samples[1] = -1
    truth = torch.zeros(1, 33, 33).double()
    truth[0, 16, 16] = 1
    out = reliability_map(samples, truth, 6)
    assert (out[16, 19] / out[16, 16]).item() == pytest.approx(0.5, rel=1e-3)
    assert torch.allclose(out, out.T)
    assert torch.allclose(reliability_map(samples[:, 0], truth[0], 6), out)
    with pytest.raises(InputError, match="width"):
        reliability_map(samples, truth, 0)
    with pytest.raises(InputError, match="without any spread"):
        reliability_map(samples * 0, truth, 6)


@pytest.mark.parametrize("count", [4, 8])
def test_coverage_and_z_have_their_laws_for_few_samples(count):
    one = bed(count, 200, (16, 16), noise=steps(16, 16))
    curve = coverage_curve(one.samples, one.truth)
    assert len(curve.nominal) == 19
    assert bool(((curve.observed - curve.nominal).abs() < 4 * curve.standard_error).all())
    assert bool((curve.standard_error < 0.005).all())
    if count == 8:
        z = z_summary(one.samples, one.truth)
        assert z.expected_variance == pytest.approx(9 / 8 * 7 / 5)
        assert z.ratio == pytest.approx(1, abs=0.04)
        assert z.ratio_low < 1 < z.ratio_high
        assert abs(z.mean) < 4 * z.mean_error


@pytest.mark.parametrize("items", [3, 60])
def test_coverage_error_is_that_of_independent_pixels_where_they_are(items):
    one = bed(8, items, (32, 32))
    out = coverage_curve(one.samples, one.truth, (0.5,))
    assert out.standard_error.item() == pytest.approx(0.5 / math.sqrt(items * 1024), rel=0.35)


@pytest.mark.parametrize("scale", WRONG)
def test_coverage_and_z_see_a_wrong_variance(scale):
    one = bed(16, 60, (16, 16), scale, noise=steps(16, 16))
    curve = coverage_curve(one.samples, one.truth)
    gap = (curve.observed - curve.nominal)[4:] / curve.standard_error[4:]
    assert bool((gap > 4).all() if scale > 1 else (gap < -4).all())
    z = z_summary(one.samples, one.truth)
    assert z.ratio_low > 1 if scale < 1 else z.ratio_high < 1
    assert z.ratio == pytest.approx((1 + scale / 16) / (17 / 16 * scale), abs=0.06)


def test_reliability_refuses():
    one = bed(3, 4, (4, 4))
    with pytest.raises(InputError, match="at least 4"):
        reliability_curve(one.samples, one.truth)
    with pytest.raises(InputError, match="at least 4"):
        z_summary(one.samples, one.truth)
    with pytest.raises(InputError, match="bins"):
        reliability_curve(bed(4, 1, (2, 2)).samples, bed(4, 1, (2, 2)).truth, 5)
    with pytest.raises(InputError, match="without any spread"):
        reliability_curve(one.truth.expand(4, 4, 4, 4), one.truth, 2)
