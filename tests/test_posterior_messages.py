"""Expectation propagation in a step: exact on Gaussian data, fusion where all is diagonal, weights of modes."""

from __future__ import annotations

import math

import pytest
import torch

from retrodict._check import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import Estimate, FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.spread import LocalSpread, band_filters
from retrodict.physics import Blur, Covariance, GaussianNoise, Measurement, Space
from retrodict.physics.adapters import MatrixFree
from retrodict.posterior import posterior_method
from retrodict.posterior.card import affine_card, dense_posterior, prior_matrix
from retrodict.posterior.fused import FusedDenoiser
from retrodict.posterior.messages import Message, without
from retrodict.processes.observation import Cond
from retrodict.processes.scalar import vp

F = {"dtype": torch.float64}
SIZE = (4, 4)


def projections(rows, size, seed):
    n = math.prod(size)
    A = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed), **F) / math.sqrt(n)
    return MatrixFree(
        lambda x: (x.flatten(1) @ A.T)[:, None], lambda y: (y[:, 0] @ A).reshape(-1, 1, *size), Space((1, *size)),
        Space((1, rows)),
    )  # fmt: skip


def gaussian_bed():
    basis = Fourier((3, 3), (1.0, 1.0))
    L = 1 / (0.05 + basis.radius() ** 2) / 30
    y = torch.linspace(-1, 1, 4, **F)[None, None]
    noise = GaussianNoise.per_pixel(torch.linspace(0.2, 0.6, 4, **F)[None])
    return GaussianDenoiser(vp(basis), 0.1 * L, L), Measurement(projections(4, (3, 3), 0), y, noise)


def mixture_bed(shift=1.0, sigma=0.3):
    """Two modes that differ in one image, seen through a blur: diagonal in the Fourier basis."""
    basis = Fourier(SIZE, (1.0, 1.0))
    means = torch.zeros(2, *basis.shape, dtype=torch.complex128)
    means[1] = basis.forward(shift * torch.linspace(-1, 1, 16, **F).reshape(1, 1, *SIZE))[0, 0]
    law = MixtureLaw(basis, torch.tensor([0.4, 0.6], **F), means, torch.full((2, *basis.shape), 0.2, **F))
    y = torch.linspace(-0.5, 0.7, 16, **F).reshape(1, 1, *SIZE)
    operator = Blur.gaussian(SIZE, fwhm=1.5, spacing=(1.0, 1.0))
    return MixtureDenoiser(vp(basis), law), Measurement(operator, y, GaussianNoise.white(sigma))


@pytest.mark.parametrize("steps", [1, 2])
def test_mean_and_covariance_are_those_of_the_posterior_on_gaussian_data(steps):
    denoiser, m = gaussian_bed()
    method = posterior_method("propagated", denoiser, m)
    got, exact = affine_card(method, steps), dense_posterior(m, *prior_matrix(method))
    assert torch.allclose(got.mean, exact.mean, atol=1e-8)
    assert torch.allclose(got.covariance, exact.covariance, atol=1e-8)


def test_the_step_is_fusion_where_process_operator_and_noise_share_a_basis():
    denoiser, m = mixture_bed()
    method, fused = posterior_method("propagated", denoiser, m), FusedDenoiser(denoiser, m)
    x, t = torch.randn(5, 1, *SIZE, generator=torch.Generator().manual_seed(1), **F), torch.full((5,), 0.4, **F)
    wanted = fused.estimate(x, t, Cond(fused.image.expand_as(x)))
    assert torch.allclose(method.estimate(x, t).mean, wanted.mean, atol=1e-8)
    matched = posterior_method("matched", denoiser, m)
    assert not torch.allclose(matched.updated.estimate(x, t).mean, wanted.mean, atol=1e-2)


def test_the_message_of_a_diagonal_measurement_is_the_measurement():
    denoiser, m = mixture_bed()
    method = posterior_method("propagated", denoiser, m)
    x, t = torch.zeros(1, 1, *SIZE, **F), torch.full((1,), 0.4, **F)
    message = method._message(denoiser.estimate(x, t))
    gain = m.operator.spectral().gain
    assert torch.allclose(message.precision, (gain.abs() ** 2 / 0.09).expand_as(message.precision), rtol=1e-8)
    assert torch.allclose(message.weighted, gain.conj() * denoiser.process.basis.forward(m.y) / 0.09, atol=1e-7)


def test_eigenvalues_are_those_of_the_operator():
    """The trace of (p + A^H A / sigma^2)^-1 by the quadrature."""
    basis = Pixel((32,))
    denoiser = GaussianDenoiser(vp(basis), torch.zeros(32, **F), torch.ones(32, **F))
    operator = projections(20, (32,), 1)
    m = Measurement(operator, torch.zeros(1, 1, 20, **F), GaussianNoise.white(0.3))
    response = posterior_method("propagated", denoiser, m).response
    A = operator.forward(torch.eye(32, **F)[:, None])[:, 0].T / 0.3
    prior = torch.full((1, 1, 32), 2.0, **F)
    left = 1 / (response.precision(prior) + prior)
    exact = torch.linalg.inv(A.T @ A + 2 * torch.eye(32, **F)).trace() / 32
    assert float(left.mean()) == pytest.approx(float(exact), rel=1e-4)
    assert float(1 / (response.gain.mean() + 2)) < 0.7 * float(exact)  # numbers alone, without the eigenvalues


def test_modes_get_their_weights():
    """Two modes and 14 projections of 16 numbers; the exact share of one is 0.70, "matched" gives it 0.60."""
    n, rows, sigma = 16, 14, 0.5
    operator, means = projections(rows, (n,), 5), torch.zeros(2, n, **F)
    means[1, [2, 9]] = 3.0
    law = MixtureLaw(Pixel((n,)), torch.tensor([0.5, 0.5], **F), means, torch.full((2, n), 0.5, **F))
    x = 0.5 * means[1] + math.sqrt(0.5) * torch.randn(n, generator=torch.Generator().manual_seed(105), **F)
    noise = sigma * torch.randn(rows, generator=torch.Generator().manual_seed(205), **F)
    y = operator.forward(x[None, None]) + noise
    A = operator.forward(torch.eye(n, **F)[:, None])[:, 0].T
    total = torch.distributions.MultivariateNormal(torch.zeros(rows, **F), 0.5 * A @ A.T + sigma**2 * torch.eye(rows))
    exact = float(torch.stack([total.log_prob(y[0, 0] - A @ mu) for mu in means]).softmax(0)[1])
    m = Measurement(operator, y, GaussianNoise.white(sigma))
    share = {}
    for name in ("propagated", "matched"):
        method = posterior_method(name, MixtureDenoiser(vp(Pixel((n,))), law), m)
        with torch.no_grad():
            run = method.run(torch.arange(400), dtype=torch.float64)
        assert run.calls == 20 if name == "propagated" else 16
        share[name] = float((run.x[:, 0][:, [2, 9]].mean(1) > 1.5).double().mean())
    assert exact == pytest.approx(0.703, abs=0.001)
    assert share["propagated"] == pytest.approx(exact, abs=0.07)
    assert abs(share["matched"] - exact) > abs(share["propagated"] - exact)


def test_a_law_that_differs_in_place_keeps_what_differs():
    basis = Fourier(SIZE, (1.0, 1.0))
    v = (1 / (0.05 + basis.radius() ** 2) / 30)[None, None]
    local = LocalSpread(basis, v, torch.linspace(-1, 1, 48, **F).reshape(1, 3, *SIZE), band_filters(basis, 3))
    g = 0.3 / local.power()
    found = without(Estimate(torch.ones(1, 1, *SIZE, **F), local), Message(torch.zeros_like(g), g), basis)
    assert torch.allclose(1 / found.spread.power(), 1 / local.power() - g)
    assert torch.equal(found.spread.log_ratio, local.log_ratio)


def test_a_prior_between_modes_keeps_a_positive_variance():
    basis = Pixel((4,))
    estimate = GaussianDenoiser(vp(basis), torch.zeros(4, **F), torch.ones(4, **F)).estimate(
        torch.ones(1, 1, 4, **F), torch.full((1,), 0.5, **F)
    )
    g = 5 / estimate.spread.v
    found = without(estimate, Message(torch.ones(1, 1, 4, **F), g.expand(1, 1, 4)), basis)
    assert bool((found.spread.v > 0).all())
    assert bool(torch.isfinite(found.mean).all())


def test_what_cannot_be_asked_is_refused():
    denoiser, m = gaussian_bed()
    plain = FunctionDenoiser(denoiser.process, lambda x, t: x)
    with pytest.raises(InputError, match="any observation"):
        posterior_method("propagated", plain, m)
    with pytest.raises(InputError, match="rounds"):
        posterior_method("propagated", denoiser, m, rounds=0)
    noise = GaussianNoise(Covariance.white(0.2))
    assert posterior_method("propagated", denoiser, Measurement(m.operator, m.y, noise), rounds=2).calls == 3
