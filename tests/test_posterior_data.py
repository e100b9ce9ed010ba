"""ShaRP at its stationary point, and posteriors of the data themselves."""

from __future__ import annotations

import pytest
import torch

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.physics import GaussianNoise, Measurement, Space
from retrodict.physics.adapters import MatrixFree
from retrodict.posterior import posterior_method
from retrodict.posterior.card import affine_card, dense_posterior
from retrodict.posterior.data_domain import data_measurement, sample_data
from retrodict.processes.scalar import vp

F = {"dtype": torch.float64}
SIZE, DATA = (3, 4), (4, 5)


def power_law(size):
    basis = Fourier(size, (1.0, 1.0))
    return basis, 1 / (0.2 + basis.radius() ** 2) / 5


def measured(seed=0):
    A = torch.randn(20, 12, generator=torch.Generator().manual_seed(seed), **F) / 4
    op = MatrixFree(
        lambda x: (x.flatten(1) @ A.T).reshape(-1, 1, *DATA), lambda y: (y.flatten(1) @ A).reshape(-1, 1, *SIZE),
        Space((1, *SIZE)), Space((1, *DATA)),
    )  # fmt: skip
    return A, Measurement(op, torch.linspace(-1, 2, 20, **F).reshape(1, 1, *DATA), GaussianNoise.white(0.4))


def matrix(basis, L):
    units = torch.eye(basis.size[0] * basis.size[1], **F).reshape(-1, 1, *basis.size)
    return basis.inverse(L * basis.forward(units)).flatten(1)


# ---- ShaRP -----------------------------------------------------------------------------------------------------------


def test_the_descent_of_sharp_ends_where_its_closed_form_says():
    """Without noise in the restored images and at one time, the stationary point is that of matrices to 1e-8.

    A^H Sigma^-1 (A x - y) + tau h^2/s^2 (1 - h G)(x - m) = 0 with the Wiener gain G = L h/(h^2 L + s^2), per
    coefficient; the denoiser is affine, so noise of mean 0 moves the average nowhere.
    """
    A, m = measured()
    basis, L = power_law(SIZE)
    denoiser = GaussianDenoiser(vp(basis), torch.zeros_like(L), L)
    method = posterior_method("sharp", denoiser, m, low=0.4, high=0.4, strength=0.7, tail=0.0)
    t = torch.tensor([0.4], **F)
    moments = denoiser.process.moments(t)
    h, s2 = float(moments.h.flatten()[0]), float(moments.s2.flatten()[0])
    weight = 0.7 * h**2 / s2 * (1 - h * L * h / (h**2 * L + s2))
    system = A.T @ A / 0.16 + matrix(basis, weight)
    wanted = torch.linalg.solve(system, A.T @ m.y.flatten() / 0.16)
    quiet = method.run(
        torch.tensor([0]), steps=1000, noise=lambda s, n, k, shape: torch.zeros(len(s), *shape, **F), **F
    )
    assert torch.allclose(quiet.x.flatten(), wanted, atol=1e-8)
    noisy = posterior_method("sharp", denoiser, m, low=0.4, high=0.4, strength=0.7)
    z = torch.randn(4, 1, *SIZE, generator=torch.Generator().manual_seed(5), **F)
    up, down = (noisy.gradient(quiet.x.expand_as(z), t.expand(4), sign * z) for sign in (1, -1))
    assert torch.allclose(up + down, torch.zeros_like(up), atol=1e-6)  # noise moves it, and on average nowhere
    assert float(up.abs().max()) > 0.1


def test_times_of_sharp_fill_their_window_evenly():
    _, m = measured()
    basis, L = power_law(SIZE)
    method = posterior_method("sharp", GaussianDenoiser(vp(basis), torch.zeros_like(L), L), m, low=0.2, high=0.6)
    times = torch.tensor([method.time(k) for k in range(400)])
    assert torch.histc(times, 4, 0.2, 0.6).tolist() == pytest.approx([100] * 4, abs=2)
    with pytest.raises(InputError, match="low <= high"):
        posterior_method("sharp", method.denoiser, m, low=0.6, high=0.2)


# ---- a prior of the data ---------------------------------------------------------------------------------------------


def data_prior():
    basis, L = power_law(DATA)
    return GaussianDenoiser(vp(basis), torch.zeros_like(L), L), matrix(basis, L)


def test_data_denoised_and_completed_have_the_posterior_of_matrices():
    """Missing samples and noise that differs: the clean data given y, and what a linear inverse makes of their law."""
    A, m = measured()
    mask = torch.ones(1, *DATA, **F)
    mask[0, 1] = 0
    noise = GaussianNoise.per_pixel(torch.linspace(0.2, 0.7, 20, **F).reshape(1, *DATA))
    part = Measurement(m.operator, m.y, noise, mask)
    prior, C = data_prior()
    exact = dense_posterior(data_measurement(part), torch.zeros(20, **F), C)
    got = affine_card(posterior_method("matched", prior, data_measurement(part)), 2)
    assert torch.allclose(got.mean, exact.mean, atol=1e-8)
    assert torch.allclose(got.covariance, exact.covariance, atol=1e-8)
    B = torch.linalg.pinv(A)
    inverse = lambda u: (u.flatten(1) @ B.T).reshape(-1, 1, *SIZE)  # noqa: E731
    found = sample_data(prior, part, inverse, samples=300, steps=1, chunk=300)
    mean, covariance = B @ exact.mean, B @ exact.covariance @ B.T
    sd = covariance.diagonal().sqrt()
    assert float(((found.mean.flatten() - mean) / sd).abs().max()) < 5 / 300**0.5
    assert torch.allclose(found.sd.flatten(), sd, rtol=0.25)
    assert found.samples.shape == (300, 1, 1, *SIZE)
    assert found.data.kind == "posterior"


def test_an_inverse_that_makes_no_image_is_refused():
    _, m = measured()
    with pytest.raises(InputError, match="inverse"):
        sample_data(data_prior()[0], m, lambda u: u, samples=2, steps=1)
