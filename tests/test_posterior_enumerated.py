"""The posterior of a list of images or of Gaussians, against Bayes' rule written out."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from retrodict._check import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.empirical import EmpiricalDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.physics import GaussianNoise, Measurement, PoissonNoise, Space
from retrodict.physics.adapters import MatrixFree
from retrodict.posterior import posterior_method
from retrodict.posterior.card import affine_card, dense_posterior, prior_matrix
from retrodict.posterior.ensemble import sample_posterior
from retrodict.processes.scalar import vp

F = {"dtype": torch.float64}
SIZE, N, M = (3, 4), 12, 7


def generator(seed):
    return torch.Generator().manual_seed(seed)


def projected(A):
    return MatrixFree(
        lambda x: (x.flatten(1) @ A.T.to(x))[:, None], lambda y: (y[:, 0] @ A.to(y)).reshape(-1, 1, *SIZE),
        Space((1, *SIZE)), Space((1, len(A))),
    )  # fmt: skip


def gaussian_bed(width=0.0):
    A = torch.randn(5, N, generator=generator(0), **F)
    images = torch.randn(M, 1, *SIZE, generator=generator(1), **F)
    prior = EmpiricalDenoiser(vp(Pixel(SIZE)), images, width)
    noise = GaussianNoise.per_pixel(torch.linspace(3.0, 6.0, 5, **F)[None])
    return A, images, prior, Measurement.simulate(projected(A), noise, images[:1], [3])


def test_weights_mean_deviation_and_evidence_of_images_are_those_of_bayes_rule():
    A, images, prior, m = gaussian_bed()
    method = posterior_method("enumerated", prior, m)
    sigma = torch.linspace(3.0, 6.0, 5, **F)
    logs = torch.distributions.Normal(images.flatten(1) @ A.T, sigma).log_prob(m.y[0, 0]).sum(1)
    w = logs.exp() / logs.exp().sum()
    assert float(w.max()) < 0.9  # or nothing is tested
    mean = (w[:, None] * images.flatten(1)).sum(0)
    variance = (w[:, None] * images.flatten(1) ** 2).sum(0) - mean**2
    assert torch.allclose(method.weights, w, rtol=1e-12)
    assert torch.allclose(method.mean.flatten(), mean, atol=1e-13)
    assert torch.allclose(method.sd.flatten() ** 2, variance, atol=1e-12)
    assert method.log_evidence == pytest.approx(float(logs.exp().mean().log()), abs=1e-12)


def test_counts_have_the_poisson_law_itself_and_an_image_that_is_impossible_has_no_weight():
    A = torch.rand(5, N, generator=generator(2), **F)
    images = torch.rand(M, 1, *SIZE, generator=generator(3), **F)
    images[2] -= 5.0  # a negative mean of counts
    m = Measurement.simulate(projected(A), PoissonNoise(), images[:1], [0])
    method = posterior_method("enumerated", EmpiricalDenoiser(vp(Pixel(SIZE)), images), m)
    rate = images.flatten(1) @ A.T
    logs = torch.distributions.Poisson(rate.clamp_min(1e-9)).log_prob(m.y[0, 0]).sum(1)
    logs[2] = -math.inf
    assert torch.allclose(method.weights, logs.softmax(0), rtol=1e-10)
    assert float(method.weights[2]) == 0.0
    assert method.log_evidence == pytest.approx(math.log(float(logs.exp().sum()) / M), abs=1e-10)
    dark = Measurement(m.operator, torch.zeros_like(m.y), PoissonNoise())  # where exp(-rate) would favor it
    dark = posterior_method("enumerated", EmpiricalDenoiser(vp(Pixel(SIZE)), images), dark)
    logs = -rate.sum(1)
    logs[2] = -math.inf
    assert torch.allclose(dark.weights, logs.softmax(0), rtol=1e-10)


def test_members_are_images_of_the_list_as_often_as_their_weights_say():
    _, images, prior, m = gaussian_bed()
    found = sample_posterior(prior, m, samples=4000, chunk=500)
    assert (found.method, found.kind) == ("enumerated", "posterior")
    same = (found.samples[:, 0].flatten(1)[:, None] == images.flatten(1)).all(-1)
    assert bool((same.sum(1) == 1).all())
    counts = same.sum(0).double()
    method = posterior_method("enumerated", prior, m)
    w = method.weights
    assert bool(((counts - 4000 * w).abs() < 4.5 * (4000 * w * (1 - w)).sqrt() + 1).all())
    assert bool(((found.mean - method.mean).abs() < 4.5 * method.sd / math.sqrt(4000)).all())
    assert found.details["log_evidence"][0] == pytest.approx(method.log_evidence)
    assert found.calls == 0


def test_gaussians_of_one_width_have_the_weights_of_their_evidence():
    """And the mean of Kalman's update of each."""
    A, images, prior, m = gaussian_bed(width=0.4)
    sigma = torch.linspace(3.0, 6.0, 5, **F)
    total = 0.4 * A @ A.T + torch.diag(sigma**2)
    law = torch.distributions.MultivariateNormal(torch.zeros(5, **F), total)
    rest = m.y[0, 0] - images.flatten(1) @ A.T
    w = law.log_prob(rest).softmax(0)
    parts = images.flatten(1) + 0.4 * torch.linalg.solve(total, rest.T).T @ A
    method = posterior_method("enumerated", prior, m)
    assert torch.allclose(method.weights, w, atol=1e-9)
    assert torch.allclose(method.mean.flatten(), w @ parts, atol=1e-8)
    mixture = MixtureLaw(Pixel(SIZE), torch.tensor([0.1, 0.9], **F), images[:2, 0], torch.full((2, *SIZE), 0.4, **F))
    two = posterior_method("enumerated", MixtureDenoiser(vp(Pixel(SIZE)), mixture), m)
    odds = law.log_prob(rest[:2]) + torch.tensor([0.1, 0.9], **F).log()
    assert torch.allclose(two.weights, odds.softmax(0), atol=1e-9)


def test_a_list_of_one_gaussian_has_the_covariance_of_matrices():
    _, _, _, m = gaussian_bed()
    basis = Fourier(SIZE, (1.0, 1.0))
    power = 1 / (0.05 + basis.radius() ** 2)
    denoiser = GaussianDenoiser(vp(basis), torch.full_like(power, 0.3), power)
    method = posterior_method("enumerated", denoiser, m)
    found, exact = affine_card(method, 1), dense_posterior(m, *prior_matrix(method))
    assert torch.allclose(found.mean, exact.mean, atol=1e-8)
    assert torch.allclose(found.covariance, exact.covariance, atol=1e-8)


def test_logarithms_hold_where_likelihoods_underflow():
    A, images, prior, m = gaussian_bed()
    sharp = Measurement(m.operator, m.y + 40.0, GaussianNoise.white(1e-2))
    method = posterior_method("enumerated", prior, sharp)
    logs = -((sharp.y[0, 0] - images.flatten(1) @ A.T) ** 2).sum(1) / 2e-4
    assert float(logs.max()) < -1e5
    assert torch.allclose(method.weights, logs.softmax(0), atol=1e-9)
    single = Measurement(m.operator, sharp.y.float(), sharp.noise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = posterior_method("enumerated", prior, single).run(torch.arange(3))
    assert found.x.dtype == torch.float32
    assert bool(torch.isfinite(found.x).all())


def refused(word, *args):
    with pytest.raises(InputError, match=word):
        _ = posterior_method("enumerated", *args).weights


def test_what_is_no_list_is_refused_and_what_no_image_can_have_given():
    A, images, _, m = gaussian_bed()
    refused("FunctionDenoiser", FunctionDenoiser(lambda x, t: x, vp(Pixel(SIZE))), m)
    spectra = torch.stack([torch.full(SIZE, 0.4, **F), torch.full(SIZE, 0.5, **F)])
    law = MixtureLaw(Pixel(SIZE), torch.full((2,), 0.5, **F), images[:2, 0], spectra)
    refused("one spectrum", MixtureDenoiser(vp(Pixel(SIZE)), law), m)
    counts = Measurement(m.operator, m.y.abs().round(), PoissonNoise())
    refused("Gaussian noise", EmpiricalDenoiser(vp(Pixel(SIZE)), images, 0.1), counts)
    refused("no image of the prior", EmpiricalDenoiser(vp(Pixel(SIZE)), -images.abs()),
            Measurement(projected(A.abs()), m.y.abs().round(), PoissonNoise()))  # fmt: skip
    with pytest.raises(InputError, match="closed form"):
        _ = posterior_method("enumerated", gaussian_bed(0.1)[2], m).sd
    counts = Measurement(projected(A.abs()), m.y.abs().round(), PoissonNoise())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prior = EmpiricalDenoiser(vp(Pixel(SIZE)), images.abs(), 0.1)
        assert sample_posterior(prior, counts, samples=2, steps=1).method == "propagated"
