"""The contract of every law of noise: draws, likelihood, gradient, the Gaussian that stands for it, the misfit."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from scipy import stats

from noise_cases import CASES, SHAPE, hermitian, laws, nps, real
from retrodict import InputError
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.physics import (
    NOISES,
    Covariance,
    FanBeam,
    GaussianNoise,
    LogPoissonNoise,
    Misfit,
    MixtureNoise,
    ParallelBeam,
    PoissonNoise,
    Space,
    TransmissionNoise,
    bow_tie,
    even_angles,
)

ALL = laws()
each = pytest.mark.parametrize("name", ALL)
DRAWS = 600


@lru_cache
def drawn(name):
    law, clean = ALL[name]
    many = clean.expand(DRAWS, *clean.shape[1:])
    return law, many, law.sample(many, range(DRAWS))


def flat(x):
    return torch.view_as_real(x).flatten(1) if x.is_complex() else x.flatten(1)


def test_every_entry_of_the_table_has_a_case():
    assert set(CASES) == set(NOISES)


# ---- the contract ----------------------------------------------------------------------------------------------------


@each
def test_the_gradient_is_that_of_the_likelihood(name):
    law, clean = ALL[name]
    u = clean.expand(2, *clean.shape[1:]).clone().requires_grad_()
    y = law.sample(u.detach(), [4, 5])
    if isinstance(law, LogPoissonNoise):  # autograd has NaN where the other branch of the law is infinite
        step = 1e-6
        with torch.no_grad():
            known = (law.density(u + step, y) - law.density(u - step, y)) / (2 * step)
        assert torch.allclose(law.gradient(u.detach(), y), known, rtol=1e-5, atol=1e-4)
        return
    law.log_likelihood(u, y).sum().backward()
    assert torch.allclose(law.gradient(u.detach(), y), u.grad, rtol=1e-9, atol=1e-9)


@each
def test_draws_have_the_moments_of_the_law(name):
    law, clean, y = drawn(name)
    if isinstance(law, GaussianNoise):
        y, mean = flat(y), flat(clean)
        unit = torch.eye(y.shape[1], dtype=torch.float64)
        cast = torch.view_as_complex(unit.reshape(-1, *SHAPE, 2)) if clean.is_complex() else unit.reshape(-1, *SHAPE)
        exact = flat(law.covariance.power(cast, 1.0))
        sigma = exact.diagonal().sqrt()
        z = (y - mean) / sigma
        bound = 5 / math.sqrt(DRAWS)
        assert float(z.mean(0).abs().max()) < bound
        found = z.T @ z / DRAWS
        assert float((found - exact / sigma / sigma[:, None]).abs().max()) < 1.5 * bound
        return
    gap = y - law.mean(clean)
    variance = law.variance(clean) * (2 if y.is_complex() else 1)
    spread = (law.fourth(clean) / variance**2 - 1).sqrt()
    # a logarithm has a bias of 1 / (2 N), to second order
    bias = 1 / (2 * law.transmission.through(clean)) if isinstance(law, LogPoissonNoise) else 0
    assert float(((gap.mean(0) - bias) / variance.sqrt()).abs().max()) < 5 / math.sqrt(DRAWS)
    ratio = (gap.abs() ** 2 / variance).mean(0)
    assert float(((ratio - 1) / spread).abs().max()) < 5 / math.sqrt(DRAWS) + (0.01 if torch.is_tensor(bias) else 0)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)


@each
def test_the_score_of_draws_is_zero_on_average(name):
    law, clean, y = drawn(name)
    score = flat(law.gradient(clean, y))
    assert float((score.mean(0) / score.std(0)).abs().max()) < 5 / math.sqrt(DRAWS)


@each
def test_a_simulated_residual_has_the_law_of_the_misfit(name):
    """Chi-square with the right quantiles: its p-values are uniform (Kolmogorov and Smirnov, 1 in 1000)."""
    law, clean, y = drawn(name)
    found = law.misfit(clean, y)
    assert float(found.ratio.mean()) == pytest.approx(
        1, abs=5 * float(found.variance[0].sqrt() / found.mean[0]) / math.sqrt(DRAWS)
    )
    assert stats.kstest(found.above.numpy(), "uniform").statistic < 1.95 / math.sqrt(DRAWS)
    assert torch.allclose(found.above + found.below, torch.ones_like(found.above))


@each
def test_a_draw_is_a_function_of_its_seed(name):
    law, clean = ALL[name]
    both = torch.cat([clean, clean])
    y = law.sample(both, [7, 9])
    assert torch.equal(y[1:], law.sample(clean, [9]))
    assert not torch.equal(y[:1], y[1:])
    assert not torch.equal(y[:1], law.sample(clean, [7], step=1))
    assert law.sample(both.to(torch.complex64 if both.is_complex() else torch.float32), [7, 9]).dtype in (
        torch.complex64,
        torch.float32,
    )
    torch.manual_seed(1)
    state = torch.get_rng_state()
    law.sample(clean, [7])
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(InputError, match="one for every item"):
        law.sample(both, [7])


@each
def test_what_was_not_measured_counts_nowhere(name):
    law, clean = ALL[name]
    if isinstance(law, GaussianNoise) and not law.covariance.elementwise:
        pytest.skip("samples of correlated noise are not left out")
    y = law.sample(clean, [3])
    mask = torch.ones(SHAPE)
    mask[:, 2] = 0
    broken = y.clone()
    broken[:, :, 2] = math.nan
    assert torch.isfinite(law.log_likelihood(clean, broken, mask)).all()
    assert float(law.misfit(clean, broken, mask).mean) == float(mask.sum()) * (2 if y.is_complex() else 1)
    gradient = law.gradient(clean, broken, mask)
    assert torch.equal(gradient[:, :, 2], torch.zeros_like(gradient[:, :, 2]))
    assert torch.equal(gradient[:, :, 3], law.gradient(clean, y)[:, :, 3])


@each
def test_the_gaussian_that_stands_for_it_has_its_curvature(name):
    """The inverse variance is the information: the variance of the score, where counts are many."""
    law, clean, y = drawn(name)
    data, covariance = law.gaussian(y)
    assert data.shape == y.shape
    if isinstance(law, MixtureNoise):
        assert float(law.valid(y).max()) == 0
        return
    score = flat(law.gradient(clean, y))
    local = covariance.power(torch.ones_like(y), -1.0) if covariance.elementwise else None
    if local is None:
        return
    information = flat(torch.complex(local.real, local.real) if y.is_complex() else local).mean(0)
    if not isinstance(law, TransmissionNoise | LogPoissonNoise) and law.unit != "counts":
        information = information.clone()
    assert float((score.var(0) / information).mean()) == pytest.approx(1, abs=0.05)
    assert float(law.valid(y).min()) > 0.9


# ---- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, (law, _) in ALL.items() if isinstance(law, GaussianNoise)])
def test_a_gaussian_likelihood_is_that_of_scipy(name):
    law, clean = ALL[name]
    y = law.sample(clean, [2])
    unit = torch.eye(flat(y).shape[1], dtype=torch.float64)
    cast = torch.view_as_complex(unit.reshape(-1, *SHAPE, 2)) if clean.is_complex() else unit.reshape(-1, *SHAPE)
    dense = flat(law.covariance.power(cast, 1.0)).T
    expected = stats.multivariate_normal(flat(clean)[0].numpy(), dense.numpy()).logpdf(flat(y)[0].numpy())
    assert float(law.log_likelihood(clean, y)) == pytest.approx(expected, rel=1e-10)
    assert torch.allclose(law.covariance.power(law.whitened(y - clean), 0.5), y - clean)
    assert float(law.misfit(clean, y).above) == pytest.approx(
        float(stats.chi2(unit.shape[0]).sf(float(law.misfit(clean, y).value))), rel=1e-7
    )


def test_whitened_noise_is_white_and_the_noise_is_not():
    """Mean periodogram in bands of frequency: chi-square of twice the number of coefficients."""
    basis = Fourier((64, 64))
    law = GaussianNoise.stationary(basis, 0.02 + basis.radius())
    clean = torch.zeros(40, 1, 64, 64, dtype=torch.float64)
    y = law.sample(clean, range(40))
    for x, white in ((law.whitened(y), True), (y / y.std(), False)):
        energy = basis.energy(basis.forward(x)).mean((0, 1))
        z = []
        for _, _, band in basis.bands(12):
            weight = basis.multiplicity()[band]
            count = 40 * float(weight.sum())
            z.append((float((weight * energy[band]).sum() / weight.sum()) - 1) / math.sqrt(2 / count))
        assert (max(map(abs, z)) < 4) == white


def test_a_measured_noise_power_spectrum_is_divided_by_the_pixel():
    basis = Fourier((16, 16), (0.5, 0.5))
    law = GaussianNoise.stationary(basis, Curve.isotropic([0.0, 1.0, 2.0], [40.0, 40.0, 40.0], "HU^2 mm^2"), "HU")
    assert float(law.covariance.variance.mean()) == pytest.approx(160.0)


def test_probabilities_of_counts_sum_to_one():
    count = torch.arange(400, dtype=torch.float64)[None]
    mean = torch.full_like(count, 60.0)
    assert float(PoissonNoise().density(mean, count).exp().sum()) == pytest.approx(1, abs=1e-12)
    assert float(PoissonNoise(2.0).density(2 * mean, 2 * count).exp().sum()) == pytest.approx(1, abs=1e-12)
    assert float(PoissonNoise().density(mean[:, :1] * 0, count[:, :1])) == 0.0  # no count is certain of mean 0
    assert float(PoissonNoise().density(mean[:, :1] * 0, count[:, 1:2])) == -math.inf


@pytest.mark.parametrize(("gain", "electronic"), [(1.0, 0.0), (2.5, 0.0), (2.5, 3.0)])
def test_moments_of_few_counts_are_sums_over_counts(gain, electronic):
    """Central moments of gain N + e: those of N by summation, with those of e (Isserlis)."""
    count = torch.arange(60, dtype=torch.float64)
    weight = torch.from_numpy(stats.poisson(1.7).pmf(count.numpy()))
    second, fourth = ((weight * (gain * (count - 1.7)) ** k).sum() for k in (2, 4))
    law, clean = PoissonNoise(gain, electronic), torch.tensor([[1.7 * gain]], dtype=torch.float64)
    assert float(law.variance(clean)) == pytest.approx(float(second) + electronic**2)
    expected = float(fourth) + 6 * float(second) * electronic**2 + 3 * electronic**4
    assert float(law.fourth(clean)) == pytest.approx(expected)


def test_a_reading_with_noise_is_nearly_the_convolution():
    law = PoissonNoise(1.0, electronic=5.0)
    y = torch.linspace(0, 120, 241, dtype=torch.float64)
    k = torch.arange(300, dtype=torch.float64)
    weight = stats.poisson(45).pmf(k.numpy())
    exact = (torch.from_numpy(weight) * torch.exp(-((y[:, None] - k) ** 2) / 50) / math.sqrt(50 * math.pi)).sum(1)
    found = law.density(torch.full_like(y, 45.0), y).exp()
    assert float((found - exact).abs().sum() * 0.5) < 0.02  # total variation


@pytest.mark.parametrize(("background", "dose", "p"), [(0.0, 30.0, 1.0), (4.0, 50.0, 3.0), (0.0, 1000.0, 6.0)])
def test_logarithms_of_counts_have_a_law_that_sums_to_one(background, dose, p):
    """Counts above the least one by their density, all others at the end of the scale."""
    law = LogPoissonNoise(dose, background=background)
    count = torch.arange(background + 2, background + 400, dtype=torch.float64)
    y = -((count - background) / dose).log()
    clean = torch.full_like(y, p)
    inside = (law.density(clean, y).exp() / (count - background)).sum()
    end = torch.tensor([math.log(dose)], dtype=torch.float64)
    outside = law.density(clean[:1], end).exp()
    assert float(inside + outside) == pytest.approx(1, abs=1e-10)
    assert float(outside) == pytest.approx(
        stats.poisson(dose * math.exp(-p) + background).cdf(background + 1), rel=1e-10
    )
    u = clean[:1].clone().requires_grad_()
    law.density(u, end).sum().backward()
    assert torch.allclose(law.score(clean[:1], end), u.grad, rtol=1e-8)


@pytest.mark.parametrize(("dose", "p", "bias", "variance"), [(1e4, 4.0, 0.0030, 0.00551), (1e3, 6.0, None, None)])
def test_low_dose_has_the_bias_and_variance_of_the_specification(dose, p, bias, variance):
    """Sections 3.11: 4e5 draws of a ray; at 2.5 counts 8.4 % of the readings have no count."""
    law = LogPoissonNoise(dose)
    y = law.sample(torch.full((1, 400_000), p, dtype=torch.float64), [1])
    if bias is None:
        share = (TransmissionNoise(dose).sample(torch.full((1, 400_000), p, dtype=torch.float64), [1]) == 0).double()
        assert float(share.mean()) == pytest.approx(math.exp(-dose * math.exp(-p)), abs=0.002)
        assert float(law.valid(y)) == 0.0
        return
    assert float(y.mean() - p) == pytest.approx(bias, abs=4e-4)
    assert float(y.var()) == pytest.approx(variance, rel=0.01)


def test_the_gradient_of_transmission_is_that_of_the_specification():
    law, p = TransmissionNoise(500.0), real()[None]
    y = law.sample(p, [1])
    assert torch.allclose(law.gradient(p, y), 500 * torch.exp(-p) - y)
    data, covariance = law.gaussian(y)
    assert torch.allclose(data, -(y.clamp_min(1) / 500).log())
    assert torch.allclose(covariance.variance, 1 / y)


def test_a_bow_tie_flattens_its_cylinder():
    beam = ParallelBeam(even_angles(3), 41, 5.0)
    dose = bow_tie(beam, 1e5, 80.0)
    path = 2 * (80.0**2 - beam.positions() ** 2).clamp_min(0).sqrt()
    behind = dose * torch.exp(-0.02 * path)
    assert torch.allclose(behind, behind[20].expand_as(behind))
    assert float(dose.max()) == float(dose[20]) == 1e5
    fan = FanBeam(even_angles(3), 41, 5.0, source=500.0, detector=900.0)
    assert float(bow_tie(fan, 1e5, 80.0, strength=0.0).min()) == 1e5
    assert float(bow_tie(fan, 1e5, 80.0)[30]) == pytest.approx(
        1e5 * math.exp(-0.02 * (160 - 2 * math.sqrt(80**2 - (500 * math.sin(math.atan(50 / 900))) ** 2)))
    )


def test_a_mixture_bends_outliers():
    law = MixtureNoise([0.9, 0.1], [GaussianNoise.white(1.0), GaussianNoise.white(10.0)])
    y = torch.tensor([[0.5, 30.0]], dtype=torch.float64)
    pull = law.gradient(torch.zeros_like(y), y)
    assert float(pull[0, 0]) == pytest.approx(0.5, rel=0.02)
    assert float(pull[0, 1]) == pytest.approx(0.3, rel=1e-6)
    draws = law.sample(torch.zeros(1, 100_000, dtype=torch.float64), [1])
    assert float((draws.abs() > 4).double().mean()) == pytest.approx(0.1 * 2 * stats.norm.sf(0.4), abs=0.004)


def test_misfits_say_both_sides():
    exact = Misfit(*(torch.tensor([v], dtype=torch.float64) for v in (130.0, 100.0, 200.0)))
    assert float(exact.above) == pytest.approx(float(stats.chi2(100).sf(130)))
    assert float(exact.below) == pytest.approx(float(stats.chi2(100).cdf(130)))
    large = Misfit(*(torch.tensor([v], dtype=torch.float64) for v in (1.002e6, 1e6, 2e6)))
    assert float(large.above) == pytest.approx(float(stats.chi2(1e6).sf(1.002e6)), rel=1e-3)


# ---- bad input -------------------------------------------------------------------------------------------------------

SPACE = Space(SHAPE)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GaussianNoise.white(0.0), "standard deviation"),
        (lambda: GaussianNoise.white("high"), "standard deviation"),
        (lambda: GaussianNoise.per_pixel(torch.tensor([1.0, 0.0])), "variances above 0"),
        (lambda: GaussianNoise.per_pixel(torch.tensor([1.0, math.nan])), "finite values"),
        (lambda: Covariance(torch.ones(3, 4), Fourier((3, 4))), "coefficients"),
        (lambda: Covariance(1.0, channels=torch.ones(2, 2)), "positive definite"),
        (lambda: Covariance(1.0, channels=torch.ones(2, 3)), "square"),
        (lambda: GaussianNoise.per_pixel(torch.ones(4, 6)).check(SPACE), "items"),
        (lambda: GaussianNoise.coils(hermitian(3)).check(Space(SHAPE, complex=True)), "channels of 3"),
        (lambda: GaussianNoise.coils(hermitian(2)).check(SPACE), "complex correlations"),
        (lambda: GaussianNoise.stationary(*nps(True)).check(SPACE), "complex"),
        (lambda: PoissonNoise().check(Space(SHAPE, complex=True)), "law of counts"),
        (lambda: PoissonNoise(gain=0), "positive gain"),
        (lambda: PoissonNoise().sample(-real()[None], [0]), "at least 0"),
        (lambda: TransmissionNoise(0.0), "dose"),
        (lambda: TransmissionNoise(torch.ones(7)).check(SPACE), "rays"),
        (lambda: LogPoissonNoise(10.0, least=0.0), "least"),
        (lambda: MixtureNoise([0.5, 0.6], [PoissonNoise(), PoissonNoise()]), "a sum of 1.1"),
        (lambda: MixtureNoise([0.5, 0.5], [PoissonNoise(), TransmissionNoise(1.0)]), "one unit"),
        (lambda: MixtureNoise([1.0], [GaussianNoise.stationary(*nps())]), "independent"),
        (lambda: bow_tie(ParallelBeam(even_angles(2), 3, 1.0), 1e4, 50.0, strength=2.0), "strength"),
    ],
)
def test_what_is_no_law_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_a_mixture_of_other_means_has_no_variance():
    law = MixtureNoise([0.5, 0.5], [TransmissionNoise(10.0), TransmissionNoise(20.0)])
    with pytest.raises(InputError, match="one mean"):
        law.variance(real()[None])


def test_one_item_of_its_own_deviations():
    law = GaussianNoise.per_pixel(torch.stack([real(), 2 * real()]))
    assert torch.equal(law.item(1, 3).covariance.variance, (2 * real()) ** 2)
    y = law.sample(torch.zeros(2, *SHAPE, dtype=torch.float64), [1, 2])
    assert torch.allclose(
        law.log_likelihood(torch.zeros_like(y), y)[1:], law.item(1, 3).log_likelihood(0 * y[1:], y[1:])
    )
