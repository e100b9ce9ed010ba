"""A message carried along the chain: exact on Gaussian data, and the posterior of sparse and heavy-tailed data."""

from __future__ import annotations

import math

import pytest
import torch

from retrodict._check import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.scale_mixture import IndependentDenoiser, ScaleMixture
from retrodict.physics import GaussianNoise, Measurement, Space
from retrodict.physics.adapters import MatrixFree
from retrodict.posterior import posterior_method
from retrodict.posterior.card import affine_card, dense_posterior, prior_matrix
from retrodict.posterior.messages import Message
from retrodict.processes.scalar import edm, vp

F = {"dtype": torch.float64}


def matrix_operator(A, size):
    return MatrixFree(
        lambda x: (x.flatten(1).to(A) @ A.T)[:, None].to(x), lambda y: (y[:, 0].to(A) @ A).reshape(-1, 1, *size).to(y),
        Space((1, *size)), Space((1, len(A))),
    )  # fmt: skip


def bed(basis, rows=5):
    n = math.prod(basis.size)
    A = torch.randn(rows, n, generator=torch.Generator().manual_seed(0), **F)
    L = torch.linspace(0.3, 1.5, n, **F).reshape(basis.size)
    L = 1 / (0.1 + basis.radius() ** 2) / 20 if isinstance(basis, Fourier) else L
    noise = GaussianNoise.per_pixel(torch.linspace(0.2, 0.6, rows, **F)[None])
    y = torch.linspace(-1, 1, rows, **F)[None, None]
    return GaussianDenoiser(vp(basis), 0.2 * L, L), Measurement(matrix_operator(A, basis.size), y, noise)


BASES = [Pixel((7,)), Pixel((3, 3)), Fourier((3, 3), (1.0, 1.0))]


@pytest.mark.parametrize("basis", BASES, ids=["line", "pixels", "fourier"])
@pytest.mark.parametrize("steps", [1, 3])
def test_mean_and_covariance_are_those_of_the_posterior_on_gaussian_data(basis, steps):
    denoiser, m = bed(basis)
    method = posterior_method("carried", denoiser, m)
    got, exact = affine_card(method, steps), dense_posterior(m, *prior_matrix(method))
    assert torch.allclose(got.mean, exact.mean, atol=1e-8)
    assert torch.allclose(got.covariance, exact.covariance, atol=1e-8)


@pytest.mark.parametrize("basis", BASES, ids=["line", "pixels", "fourier"])
def test_the_law_of_gaussian_data_is_the_same_whatever_the_message(basis):
    denoiser, m = bed(basis)
    method = posterior_method("carried", denoiser, m)
    x, t = torch.randn(2, 1, *basis.size, generator=torch.Generator().manual_seed(1), **F), torch.full((2,), 0.4, **F)
    message = Message(0.3 * basis.forward(x), torch.full((1, 1, *basis.shape), 0.7, **F))
    without, found = method.cavity(x, t, None), method.cavity(x, t, message)
    assert torch.allclose(found.mean, without.mean, atol=1e-9)
    assert torch.allclose(found.spread.power().expand_as(without.spread.power()), without.spread.power(), atol=1e-9)


def test_the_message_is_what_makes_of_the_prior_the_posterior_of_every_pixel():
    """Mean and variance of prior times message are those of matrices."""
    denoiser, m = bed(Pixel((7,)))
    method = posterior_method("carried", denoiser, m)
    mean, variance = torch.linspace(-1, 1, 7, **F).reshape(1, 1, 7), torch.linspace(0.2, 2, 7, **F).reshape(1, 1, 7)
    answer, exact = method.dense(mean, variance), dense_posterior(m, mean.flatten(), torch.diag(variance.flatten()))
    total = answer.message.precision + 1 / variance
    assert torch.allclose(answer.mean.flatten(), exact.mean, atol=1e-10)
    assert torch.allclose((1 / total).flatten(), exact.covariance.diagonal(), atol=1e-10)
    assert torch.allclose(((answer.message.weighted + mean / variance) / total).flatten(), exact.mean, atol=1e-10)
    z = torch.eye(7, **F).reshape(7, 1, 7)
    both = method.dense(mean.expand(7, 1, 7), variance.expand(7, 1, 7))
    root = (both.drawn(z) - both.mean).flatten(1)
    assert torch.allclose(root.T @ root, exact.covariance, atol=1e-10)


def test_a_prior_that_hesitates_leaves_the_precision_of_the_state():
    """Far from a Cauchy peak the answer is less sure than state and message together."""
    basis = Pixel((1,))
    denoiser = IndependentDenoiser(edm(basis, sigma_max=10.0), ScaleMixture.student(1.0), width=10.0)
    m = Measurement(
        matrix_operator(torch.ones(1, 1, **F), (1,)), torch.full((1, 1, 1), 9.0, **F), GaussianNoise.white(2.0)
    )
    method = posterior_method("carried", denoiser, m)
    x, t = torch.full((1, 1, 1), 5.0, **F), torch.full((1,), 0.5, **F)
    message = Message(torch.full((1, 1, 1), 9.0 / 4, **F), torch.full((1, 1, 1), 0.25, **F))
    answer = denoiser.law.posterior(
        torch.tensor([(9 / 4 + 5 / 25) / (1 / 4 + 1 / 25)], **F), torch.ones(1, **F), torch.tensor([1 / 0.29], **F)
    )
    assert float(answer[1]) > 1 / 0.29
    found = method.cavity(x, t, message)
    precision = 1 / float(found.spread.power().flatten()[0])
    assert precision == pytest.approx(1 / 25)
    mean = (precision * float(found.mean) + 9 / 4) / (precision + 0.25)
    assert mean == pytest.approx(float(answer[0]))


def test_sparse_pixels_seen_in_sums_have_the_moments_of_their_posterior():
    """Two numbers, 0 but for 30 %, of which the sum and a half are seen: moments by quadrature."""
    law = ScaleMixture.spike(0.3, ScaleMixture.gaussian(2.0))
    A, sigma, y = torch.tensor([[1.0, 1.0], [0.2, 0.7]], **F), 0.5, torch.tensor([1.2, 0.5], **F)
    parts = [(a, b) for a in (0.0, 2.0) for b in (0.0, 2.0)]
    logs, means, squares = [], [], []
    for v in parts:
        C = torch.diag(torch.tensor(v, **F))
        S = A @ C @ A.T + sigma**2 * torch.eye(2, **F)
        K = C @ A.T @ torch.linalg.inv(S)
        weight = sum(math.log(0.3 if a else 0.7) for a in v)
        logs.append(weight + float(torch.distributions.MultivariateNormal(torch.zeros(2, **F), S).log_prob(y)))
        means.append(K @ y)
        squares.append((C - K @ A @ C).diagonal() + (K @ y) ** 2)
    w = torch.tensor(logs, **F).softmax(0)
    mean = (w[:, None] * torch.stack(means)).sum(0)
    variance = (w[:, None] * torch.stack(squares)).sum(0) - mean**2
    denoiser = IndependentDenoiser(edm(Pixel((2,)), sigma_max=6.0), law)
    m = Measurement(matrix_operator(A, (2,)), y[None, None], GaussianNoise.white(sigma))
    run = posterior_method("carried", denoiser, m).run(torch.arange(4000), dtype=torch.float64)
    assert run.calls == 20
    x = run.x.flatten(1)
    assert torch.allclose(x.mean(0), mean, atol=0.05)
    assert torch.allclose(x.var(0) / variance, torch.ones(2, **F), atol=0.15)


def test_runs_do_not_share_their_messages():
    denoiser, m = bed(Pixel((7,)))
    method = posterior_method("carried", denoiser, m)
    first = method.run(torch.tensor([1, 2]), steps=3, dtype=torch.float64).x
    again = method.run(torch.tensor([2]), steps=3, dtype=torch.float64).x
    assert torch.allclose(first[1], again[0], atol=1e-12)


def test_a_denoiser_of_its_own_process_alone_is_refused():
    _, m = bed(Pixel((7,)))
    with pytest.raises(InputError, match="any observation"):
        posterior_method("carried", FunctionDenoiser(lambda x, t: x, vp(Pixel((7,)))), m)
