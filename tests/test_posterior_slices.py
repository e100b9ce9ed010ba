"""Volumes by a prior of slices: the coupling along z against matrices, and the pieces of DiffusionMBIR."""

from __future__ import annotations

import pytest
import torch

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import FunctionDenoiser, GaussianDenoiser
from retrodict.physics import GaussianNoise, Measurement, Space
from retrodict.physics.adapters import MatrixFree
from retrodict.posterior import posterior_method
from retrodict.posterior.card import affine_card, dense_posterior
from retrodict.posterior.ensemble import sample_posterior
from retrodict.posterior.slices import Coupled, _back, along_z, correlation
from retrodict.processes.scalar import ve, vp

F = {"dtype": torch.float64}
Z, SIZE = 3, (2, 3)
N = Z * 6


def prior(process=vp):
    basis = Fourier(SIZE, (1.0, 1.0))
    power = 1 / (0.2 + basis.radius() ** 2) / 5
    mean = torch.zeros(basis.shape, dtype=torch.complex128)
    mean[0, 0] = 0.7
    return GaussianDenoiser(process(basis), mean, power)


def seen(rows=7, seed=0):
    A = torch.randn(rows, N, generator=torch.Generator().manual_seed(seed), **F)
    op = MatrixFree(
        lambda x: (x.flatten(1) @ A.T)[:, None], lambda y: (y[:, 0] @ A).reshape(-1, Z, *SIZE), Space((Z, *SIZE)),
        Space((1, rows)),
    )  # fmt: skip
    return Measurement(op, torch.linspace(-1, 2, rows, **F)[None, None], GaussianNoise.white(0.4))


def matrix(denoiser, K):
    basis = denoiser.process.basis
    units = torch.eye(6, **F).reshape(6, 1, *SIZE)
    C = basis.inverse(denoiser.spectrum * basis.forward(units)).reshape(6, 6)
    mean = basis.inverse(denoiser.mean + torch.zeros_like(basis.forward(units[:1]))).flatten()
    return mean.repeat(Z), torch.kron(K, C)


@pytest.mark.parametrize("steps", [1, 2])
def test_coupled_slices_have_the_posterior_of_a_separable_volume(steps):
    K = correlation(Z, 2.0, 1.0)
    inner, m = prior(), seen()
    exact = dense_posterior(m, *matrix(inner, K))
    got = affine_card(posterior_method("matched", Coupled(inner, K), m), steps)
    assert torch.allclose(got.mean, exact.mean, atol=1e-8)
    assert torch.allclose(got.covariance, exact.covariance, atol=1e-8)
    apart = dense_posterior(m, *matrix(inner, torch.eye(Z, **F)))
    assert not torch.allclose(apart.mean, exact.mean, atol=0.05)


def test_slices_that_are_not_coupled_are_the_slices():
    inner = prior()
    x, t = torch.randn(2, Z, *SIZE, generator=torch.Generator().manual_seed(1), **F), torch.tensor([0.3, 0.7], **F)
    found = Coupled(inner, torch.eye(Z, **F)).estimate(x, t)
    for k in range(Z):
        one = inner.estimate(x[:, k : k + 1], t)
        assert torch.allclose(found.mean[:, k], one.mean[:, 0], atol=1e-12)
    assert torch.allclose(found.spread.variance(), inner.estimate(x, t).spread.variance().expand(2, Z, *SIZE))


def test_an_ensemble_of_volumes_is_a_posterior():
    found = sample_posterior(Coupled(prior(), correlation(Z, 2.0, 1.0)), seen(), samples=2, steps=2)
    assert found.kind == "posterior"
    assert found.samples.shape == (2, 1, Z, *SIZE)


def test_what_is_no_coupling_is_refused():
    with pytest.raises(InputError, match="ones on the diagonal"):
        Coupled(prior(), 2 * torch.eye(2, **F))
    with pytest.raises(InputError, match="eigenvalue"):
        Coupled(prior(), torch.ones(2, 2, **F))
    with pytest.raises(InputError, match="spectrum"):
        Coupled(FunctionDenoiser(lambda x, t: x, vp(Fourier(SIZE, (1.0, 1.0)))), torch.eye(2, **F))
    with pytest.raises(InputError, match="length"):
        correlation(3, -1.0, 1.0)
    with pytest.raises(InputError, match="slices"):
        Coupled(prior(), torch.eye(2, **F)).estimate(torch.zeros(1, 3, *SIZE, **F), torch.ones(1, **F))


# ---- DiffusionMBIR ---------------------------------------------------------------------------------------------------


def test_differences_along_z_have_their_adjoint_and_no_neighbor_at_the_end():
    a, b = (torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(k), **F) for k in (0, 1))
    assert torch.allclose((along_z(a) * b).sum(), (a * _back(b)).sum(), rtol=1e-12)
    assert torch.equal(along_z(a)[:, -1], torch.zeros(2, 3, 3, **F))


def mbir(m, **options):
    return posterior_method("mbir", prior(lambda basis: ve(basis, 0.01, 10.0)), m, **options)


def test_the_alternation_alone_solves_the_problem_of_tv_along_z():
    """Optimality: A^H (A x - y) + D^H p = 0 with |p| <= lambda, and p = lambda sign(D x) where D x is not 0."""
    m = seen(rows=30)
    method = mbir(m, strength=0.02, coupling=0.05, rounds=15)
    state, x = None, torch.zeros(1, Z, *SIZE, **F)
    for _ in range(300):
        x, state = method.alternate(x, state)
    norm = m.operator.part.norm() ** 2
    p = 0.05 * norm * state.u
    slope = -m.operator.adjoint(m.residual(x)) + _back(p)
    assert float(slope.abs().max()) < 1e-6
    assert float(p.abs().max()) <= 0.02 * norm * (1 + 1e-9)
    edge = along_z(x).abs() > 1e-3
    assert bool(edge.any())
    assert torch.allclose(p[edge], 0.02 * norm * along_z(x)[edge].sign(), atol=1e-6)


def test_the_default_does_not_diverge_on_gaussian_volumes():
    """With the published 10 and 0.04 taken for an operator of norm 1 the samples leave the data by far."""
    m = seen(rows=12)
    found = sample_posterior(mbir(m).denoiser, m, "mbir", samples=2, steps=60)
    assert found.kind == "uncalibrated"
    assert float(found.misfit.mean()) < 20  # 4, and 68 with those


def test_a_volume_that_fits_and_does_not_change_along_z_stays():
    m = seen()
    x = torch.ones(1, Z, 1, 1, **F) * torch.linspace(0, 1, 6, **F).reshape(1, 1, *SIZE)
    fits = Measurement(m.operator, m.operator.forward(x), m.noise)
    found, state = mbir(fits).alternate(x, None)
    assert torch.allclose(found, x, atol=1e-12)
    assert float(state.z.abs().max()) == 0


def test_the_split_goes_on_to_the_next_step():
    method, t = mbir(seen()), torch.tensor([0.4], **F)
    x = torch.randn(1, Z, *SIZE, generator=torch.Generator().manual_seed(3), **F)

    def draw(fields):
        return torch.zeros(fields, 1, Z, *SIZE, **F)

    walk, cold = method.stepper(), method.step
    one = walk(x, t, t - 0.1, draw)
    assert torch.equal(one, cold(x, t, t - 0.1, draw))
    assert not torch.allclose(walk(one, t - 0.1, t - 0.2, draw), cold(one, t - 0.1, t - 0.2, draw))
