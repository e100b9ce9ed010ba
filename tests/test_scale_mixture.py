"""Scale mixtures of Gaussians: their densities, and the exact denoiser of independent pixels against quadrature."""

from __future__ import annotations

import math

import pytest
import torch

from retrodict._check import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.scale_mixture import IndependentDenoiser, ScaleMixture
from retrodict.processes.observation import Moments
from retrodict.processes.scalar import edm, vp

F = {"dtype": torch.float64}


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_density_of_a_laplace_law_is_that_of_the_formula(scale):
    u = torch.linspace(-12 * scale, 12 * scale, 201, **F)
    found = ScaleMixture.laplace(scale).log_density(u)
    assert torch.allclose(found, -u.abs() / scale - math.log(2 * scale), atol=2e-3)


@pytest.mark.parametrize("freedom", [1.0, 2.0, 3.0])
def test_the_density_of_a_student_law_is_that_of_the_formula(freedom):
    u = torch.linspace(-60, 60, 241, **F)
    found = ScaleMixture.student(freedom, 1.5).log_density(u)
    assert torch.allclose(found, torch.distributions.StudentT(freedom, 0.0, 1.5).log_prob(u), atol=5e-4)


@pytest.mark.parametrize("law", [ScaleMixture.laplace(0.8), ScaleMixture.student(3.0)])
def test_mean_and_variance_given_an_observation_are_those_of_quadrature(law):
    u = torch.linspace(-60, 60, 60001, **F)
    h, s2, w = 0.7, 0.3, 1.9
    logs = law.log_density(u) - 0.5 * (w - h * u) ** 2 / s2
    p = logs.softmax(0)
    mean = (p * u).sum()
    found = law.posterior(torch.tensor([w], **F), torch.tensor([h], **F), torch.tensor([s2], **F))
    assert float(found[0]) == pytest.approx(float(mean), rel=1e-6)
    assert float(found[1]) == pytest.approx(float((p * (u - mean) ** 2).sum()), rel=1e-5)


def test_a_sparse_law_with_a_gaussian_slab_is_spike_and_slab():
    """Share and variance as the formulas of a two-point mixture have them."""
    law, w, s2 = ScaleMixture.spike(0.2, ScaleMixture.gaussian(4.0)), 1.5, 0.5
    odds = 0.2 / 0.8 * math.sqrt(s2 / (4 + s2)) * math.exp(0.5 * w**2 * (1 / s2 - 1 / (4 + s2)))
    share, one = odds / (1 + odds), 4 / (4 + s2) * w
    mean, variance = law.posterior(torch.tensor([w], **F), torch.ones(1, **F), torch.tensor([s2], **F))
    assert float(mean) == pytest.approx(share * one, rel=1e-12)
    assert float(variance) == pytest.approx(share * (4 * s2 / (4 + s2) + one**2) - (share * one) ** 2, rel=1e-12)
    assert float(law.log_density(torch.zeros(1, **F))) == pytest.approx(math.log(0.8))
    assert float(law.log_density(torch.ones(1, **F))) == pytest.approx(
        math.log(0.2) - 0.5 * math.log(2 * math.pi * 4) - 0.125
    )


def test_samples_have_the_variance_and_the_zeros_of_their_law():
    law = ScaleMixture.spike(0.1, ScaleMixture.laplace())
    u = law.sample((200, 500), torch.Generator().manual_seed(0))
    assert float((u == 0).double().mean()) == pytest.approx(0.9, abs=0.005)
    assert float(u.var()) == pytest.approx(law.variance, rel=0.08)
    assert law.variance == pytest.approx(0.2, rel=1e-5)


def test_gaussian_pixels_are_denoised_as_by_the_gaussian_denoiser():
    denoiser = IndependentDenoiser(vp(Pixel((4, 3))), ScaleMixture.gaussian(0.7))
    x, t = torch.randn(2, 1, 4, 3, generator=torch.Generator().manual_seed(0), **F), torch.tensor([0.3, 0.9], **F)
    mine, wanted = denoiser.estimate(x, t), denoiser.gaussian().estimate(x, t)
    assert torch.allclose(mine.mean, wanted.mean, atol=1e-12)
    assert torch.allclose(mine.spread.variance(), wanted.spread.variance().expand(2, 1, 4, 3), atol=1e-12)


def test_the_variance_is_the_jacobian_of_the_mean():
    """Cov[x_0 | x_t] = (s^2/h) dD/dx_t, for any law (Tweedie)."""
    denoiser = IndependentDenoiser(vp(Pixel((5,))), ScaleMixture.spike(0.3, ScaleMixture.laplace()))
    x, t = torch.linspace(-2, 2, 5, **F).reshape(1, 1, 5), torch.tensor([0.4], **F)
    m = denoiser.process.moments(t)
    slope = torch.autograd.functional.jacobian(lambda v: denoiser(v.reshape(1, 1, 5), t).flatten(), x.flatten())
    spread = denoiser.estimate(x, t).spread
    assert torch.allclose(spread.power().flatten(), (m.s2 / m.h).flatten() * slope.diagonal(), atol=1e-10)
    assert torch.allclose(slope, torch.diag(slope.diagonal()), atol=1e-12)


def test_far_tails_keep_their_variance():
    """An observation of 10^5 with noise 10^-2 under a Cauchy law: D = w, variance s^2, with no cancellation."""
    mean, variance = ScaleMixture.student(1.0).posterior(
        torch.tensor([1e5], **F), torch.ones(1, **F), torch.tensor([1e-4], **F)
    )
    assert float(mean) == pytest.approx(1e5, rel=1e-9)
    assert float(variance) == pytest.approx(1e-4, rel=1e-6)


def test_an_observation_that_says_nothing_leaves_the_prior():
    law = ScaleMixture.laplace()
    mean, variance = law.posterior(torch.zeros(1, **F), torch.zeros(1, **F), torch.ones(1, **F))
    assert float(mean) == 0.0
    assert float(variance) == pytest.approx(law.variance)
    denoiser = IndependentDenoiser(edm(Pixel((3,))), law, width=5.0)
    assert torch.equal(denoiser.prior()[1], torch.full((3,), 5.0, **F))
    found = denoiser.observe(
        torch.zeros(1, 1, 3, **F), Moments(*(torch.zeros(3, **F), torch.zeros(3, **F), torch.ones(3, **F)))
    )
    assert torch.equal(found.mean, torch.zeros(1, 1, 3, **F))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: ScaleMixture.laplace(0.0), "scale"),
        (lambda: ScaleMixture.student(-1.0), "freedom"),
        (lambda: ScaleMixture.gaussian(float("inf")), "variance"),
        (lambda: ScaleMixture.spike(1.0, ScaleMixture.laplace()), "share"),
        (lambda: ScaleMixture(torch.ones(2, **F), torch.ones(2, **F)), "sum 1"),
        (lambda: ScaleMixture(torch.ones(1), torch.ones(1)), "float64"),
        (lambda: ScaleMixture(torch.ones(1, **F), -torch.ones(1, **F)), "from 0"),
        (lambda: IndependentDenoiser(vp(Fourier((4,), (1.0,))), ScaleMixture.laplace()), "Pixel"),
    ],
)
def test_what_is_no_law_is_refused_by_name(make, word):
    with pytest.raises(InputError, match=word):
        make()
