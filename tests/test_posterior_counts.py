"""Posteriors of counts: derivatives of the laws, the Gaussian limit, and the exact Poisson posterior by quadrature."""

from __future__ import annotations

import math
import zlib

import pytest
import torch

from retrodict._check import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.physics import (
    Blur,
    Covariance,
    GaussianNoise,
    LogPoissonNoise,
    Measurement,
    PoissonNoise,
    Space,
    TransmissionNoise,
)
from retrodict.physics.adapters import MatrixFree
from retrodict.physics.algebra import Affine
from retrodict.posterior import posterior_method
from retrodict.posterior.card import affine_card, dense_posterior, prior_matrix
from retrodict.posterior.counted import LocalConditioner
from retrodict.posterior.ensemble import sample_posterior
from retrodict.posterior.law import flat_root
from retrodict.posterior.method import ancestral_step
from retrodict.processes.scalar import vp

F = {"dtype": torch.float64}
MIX = torch.tensor([[1.0, 0.4], [0.3, 0.8], [0.5, 0.5]], **F)
"""Two pixels, three detectors."""


def fast(seeds, stream, step, shape):
    """Noise of all members at once, for thousands of them."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{stream} {step}".encode()))
    return torch.randn(len(seeds), *shape, generator=generator, **F)


def counted(dose, background, y, law=None):
    rows = dose * MIX
    op = MatrixFree(
        lambda x: (x.flatten(1) @ rows.T)[:, None], lambda y: (y[:, 0] @ rows).reshape(-1, 1, 2), Space((1, 2)),
        Space((1, 3), unit="counts"),
    )  # fmt: skip
    known = Affine(op, torch.full((1, 3), background, **F))
    return Measurement(known, torch.as_tensor(y, **F).reshape(1, 1, 3), law or PoissonNoise(unit="counts"))


def gaussian(mean=(8.0, 6.0), variance=(6.0, 4.0)):
    return GaussianDenoiser(vp(Pixel((2,))), torch.tensor(mean, **F), torch.tensor(variance, **F))


def quadrature(log_prior, dose, background, y, low=-2.0, high=22.0, points=401):
    """Mean, covariance, points and weights of the exact posterior."""
    axis = torch.linspace(low, high, points, **F)
    x = torch.cartesian_prod(axis, axis)
    u = dose * x @ MIX.T + background
    likelihood = (torch.tensor(y, **F) * u.clamp_min(1e-300).log() - u).sum(1)
    logs = torch.where((u > 0).all(1), likelihood + log_prior(x), -math.inf)
    weights = (logs - logs.max()).exp()
    weights = weights / weights.sum()
    mean = (weights[:, None] * x).sum(0)
    return mean, (x - mean).T @ (weights[:, None] * (x - mean)), x, weights


def drawn(denoiser, m, steps, members=5000, name="counted", **options):
    method = posterior_method(name, denoiser, m, **options)
    with torch.no_grad():
        return method.run(torch.arange(members), steps=steps, noise=fast, **F).x.reshape(-1, 2)


def errors(x, mean, covariance):
    """Largest error of the mean in deviations, and variances over the exact ones in its eigen-directions."""
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors / values.sqrt()
    return float(((x.mean(0) - mean) @ root).abs().max()), torch.linalg.eigvalsh(root.T @ torch.cov(x.T) @ root)


@pytest.mark.parametrize(
    ("law", "low"),
    [
        (PoissonNoise(), 5.0),
        (PoissonNoise(gain=2.0, electronic=3.0), 5.0),
        (TransmissionNoise(40.0), 0.1),
        (TransmissionNoise(40.0, background=3.0, electronic=2.0), 0.1),
        (GaussianNoise.per_pixel(torch.linspace(0.5, 2, 6, **F)[None]), 0.1),
    ],
    ids=["poisson", "read out", "transmission", "scattered", "gaussian"],
)
def test_slopes_are_the_derivatives_of_the_log_density(law, low):
    u = low * torch.linspace(1, 3, 6, **F)[None, None]
    y = law.sample(u, [0])
    u = u.requires_grad_()
    first, second, third = law.slopes(u.detach(), y)

    def derivative(f):
        return torch.autograd.grad(f.sum(), u, create_graph=True, allow_unused=True)[0]

    one = derivative(law.density(u, y))
    two = derivative(one)
    three = derivative(two) if two.requires_grad else torch.zeros_like(two)
    assert torch.allclose(first, one, rtol=1e-10, atol=1e-12)
    assert torch.allclose(second, -two, rtol=1e-10, atol=1e-12)
    assert torch.allclose(third, torch.zeros_like(two) if three is None else three, rtol=1e-9, atol=1e-12)


def test_a_logarithm_has_the_slopes_of_its_counts():
    law, u = LogPoissonNoise(400.0), torch.linspace(0.2, 2, 6, **F)[None, None]
    y = law.sample(u, [1])
    for one, two in zip(law.slopes(u, y), law.transmission.slopes(u, 400 * (-y).exp()), strict=True):
        assert torch.allclose(one, two, rtol=1e-12)


def test_a_law_is_looked_at_where_it_is_defined():
    law, y = PoissonNoise(), torch.tensor([[[0.0, 40.0, 20.0]]], **F)
    found = law.inside(torch.tensor([[[-3.0, 1.0, 15.0]]], **F), y)
    assert torch.allclose(found.flatten(), torch.tensor([0.02, 2.0, 15.0], **F), atol=1e-5)
    assert float(TransmissionNoise(9.0).inside(torch.tensor([-1.0]), torch.ones(1))) == -1.0


def test_with_gaussian_noise_it_is_the_matched_update():
    basis = Fourier((4, 4), (1.0, 1.0))
    power = 1 / (0.05 + basis.radius() ** 2) / 30
    denoiser = GaussianDenoiser(vp(basis), torch.zeros_like(power), power)
    noise = GaussianNoise.per_pixel(torch.linspace(0.2, 0.6, 16, **F).reshape(1, 4, 4))
    y = torch.linspace(-1, 2, 16, **F).reshape(1, 1, 4, 4)
    method = posterior_method(
        "counted", denoiser, Measurement(Blur.gaussian((4, 4), 1.5, spacing=(1.0, 1.0)), y, noise)
    )
    exact, got = dense_posterior(method.measurement, *prior_matrix(method)), affine_card(method, 2)
    assert torch.allclose(got.mean, exact.mean, atol=1e-8)
    assert torch.allclose(got.covariance, exact.covariance, atol=1e-8)


def test_at_many_counts_it_is_the_gaussian_posterior_of_the_weighted_law():
    """What is left goes with one over the root of the counts: 1e10 of them, 1e-4 deviations."""
    dose = 1e9
    u = dose * MIX @ torch.tensor([9.5, 4.5], **F) + 0.5 * dose
    y = u + u.sqrt() * torch.tensor([0.5, -1.0, 0.7], **F)
    m, denoiser = counted(dose, 0.5 * dose, y), gaussian()
    method = posterior_method("counted", denoiser, m)
    weighted = counted(dose, 0.5 * dose, y, GaussianNoise.per_pixel(u.sqrt()[None], unit="counts"))
    exact = dense_posterior(weighted, *prior_matrix(method))
    near = LocalConditioner(method.conditioner, method.opening)
    mean, factor = torch.tensor([[[8.0, 6.0]]], **F), flat_root(Pixel((2,)), torch.tensor([[[6.0, 4.0]]], **F))
    gap = near.mean(mean, factor).flatten() - exact.mean
    assert float((gap / exact.covariance.diagonal().sqrt()).abs().max()) < 1e-4
    units = torch.eye(2 + 2 * near.extra, **F)
    z = units.reshape(-1, 1 + near.extra, 1, 2).transpose(0, 1)
    root = near.error(z, 1, factor).flatten(1).T
    assert torch.allclose(root @ root.T, exact.covariance, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dose", [1.0, 10.0])
def test_few_counts_have_the_exact_poisson_posterior(dose):
    """5 to 7 counts a detector, and 60 to 90: means within 0.05 deviations, variances within 7 %.

    5,000 members know them to 0.014 and 2 %; the Gaussian law beside the data is off by 0.44 and 0.21 deviations.
    """
    y = {1.0: [5.0, 5.0, 7.0], 10.0: [92.0, 58.0, 72.0]}[dose]
    mean, L = torch.tensor([8.0, 6.0], **F), torch.tensor([6.0, 4.0], **F)
    exact = quadrature(lambda x: -((x - mean) ** 2 / (2 * L)).sum(1), dose, 0.5, y)
    m = counted(dose, 0.5, y)
    gap, variance = errors(drawn(gaussian(), m, 6), *exact[:2])
    print(f"dose {dose}: {gap:.4f} deviations, variances {variance.tolist()}")
    assert gap < 0.05
    assert float((variance - 1).abs().max()) < 0.07
    beside = errors(drawn(gaussian(), m, 1, name="matched"), *exact[:2])
    assert beside[0] > 0.15
    mode = errors(drawn(gaussian(), m, 1, probes=0), *exact[:2])
    assert mode[0] > 0.06


def test_a_mixture_has_its_modes_at_few_counts():
    """Two modes that the counts do not settle: share of the second within 0.08 of the exact one at 32 calls."""
    weights, variance = torch.tensor([0.5, 0.5], **F), torch.ones(2, 2, **F)
    means = torch.tensor([[6.0, 6.0], [9.0, 9.0]], **F)
    law = MixtureLaw(Pixel((2,)), weights, means, variance)
    y = [11.0, 8.0, 7.0]

    def log_prior(x):
        return torch.logsumexp(-((x[:, None] - means) ** 2).sum(2) / 2, 1)

    mean, covariance, x, w = quadrature(log_prior, 1.0, 0.5, y)
    found = drawn(MixtureDenoiser(vp(Pixel((2,))), law), counted(1.0, 0.5, y), 32, members=1500)
    gap, ratio = errors(found, mean, covariance)
    share, exact = float((found.sum(1) > 15).double().mean()), float(w[x.sum(1) > 15].sum())
    print(f"mixture: {gap:.3f} deviations, variances {ratio.tolist()}, share {share:.3f} of {exact:.3f}")
    assert gap < 0.13  # 0.055 of 3000 members, and 3 standard errors of 1500
    assert float((ratio - 1).abs().max()) < 0.15
    assert abs(share - exact) < 0.08


def test_no_count_at_all_is_data_too():
    """Zero counts pull with a slope of -1: a Gaussian prior far from 0 is moved by -V A^T 1 and keeps its variance."""
    denoiser = gaussian((40.0, 40.0), (0.5, 0.5))
    x = drawn(denoiser, counted(1.0, 0.0, [0.0, 0.0, 0.0]), 2)
    wanted = 40 - 0.5 * MIX.sum(0)
    assert torch.allclose(x.mean(0), wanted, atol=0.04)
    assert torch.allclose(x.var(0), torch.full((2,), 0.5, **F), rtol=0.08)


def test_what_was_not_counted_says_nothing():
    m = counted(1.0, 0.5, [5.0, 5.0, 900.0])
    masked = Measurement(m.operator, m.y, m.noise, torch.tensor([[1.0, 1.0, 0.0]], **F))
    other = Measurement(m.operator, counted(1.0, 0.5, [5.0, 5.0, 3.0]).y, m.noise, masked.mask)
    one, two = (drawn(gaussian(), part, 2, members=4) for part in (masked, other))
    assert torch.allclose(one, two)
    assert not torch.allclose(one, drawn(gaussian(), m, 2, members=4))


def test_transmission_counts_have_no_bias_of_the_logarithm():
    """40 photons and an optical depth of 2, 5 of them left: the exact posterior of one pixel by quadrature."""
    op = MatrixFree(lambda x: x, lambda y: y, Space((1, 2)), Space((1, 2), unit="1"))
    m = Measurement(op, torch.tensor([[[3.0, 8.0]]], **F), TransmissionNoise(40.0))
    x = drawn(gaussian((2.0, 2.0), (0.25, 0.25)), m, 8)
    axis = torch.linspace(-2, 6, 20001, **F)
    for k, n in enumerate((3.0, 8.0)):
        logs = -40 * (-axis).exp() - n * axis - (axis - 2) ** 2 / 0.5
        w = (logs - logs.max()).exp() / (logs - logs.max()).exp().sum()
        mean = float((w * axis).sum())
        sd = math.sqrt(float((w * (axis - mean) ** 2).sum()))
        assert abs(float(x[:, k].mean()) - mean) < 0.06 * sd
        assert abs(float(x[:, k].std()) / sd - 1) < 0.04


def test_its_samples_count_as_samples_of_the_posterior():
    found = sample_posterior(gaussian(), counted(1.0, 0.5, [5.0, 5.0, 7.0]), "counted", samples=4, steps=2)
    assert found.kind == "posterior"
    assert "counts" in found.reason


def test_noise_without_a_local_law_is_refused():
    basis = Fourier((4, 4), (1.0, 1.0))
    power = 1 + basis.radius()
    noise = GaussianNoise(Covariance(power, basis))
    m = Measurement(Blur.gaussian((4, 4), 1.5, spacing=(1.0, 1.0)), torch.ones(1, 1, 4, 4, **F), noise)
    denoiser = GaussianDenoiser(vp(basis), torch.zeros_like(power), power)
    with pytest.raises(InputError, match="correlated"):
        posterior_method("counted", denoiser, m)
    with pytest.raises(InputError, match="rounds"):
        posterior_method("counted", gaussian(), counted(1.0, 0.5, [5.0, 5.0, 7.0]), rounds=-1)


def test_the_weighted_step_of_dps_is_the_gradient_of_weighted_squares():
    m, denoiser = counted(1.0, 0.5, [0.0, 5.0, 7.0]), gaussian()
    method = posterior_method("dps", denoiser, m, style="paper", form="weighted", strength=0.3)
    t, s = torch.tensor([0.6], **F), torch.tensor([0.5], **F)
    x = torch.tensor([[[0.4, -0.7]]], **F).requires_grad_()
    D = denoiser(x, t)
    loss = ((m.y - m.operator.forward(D)) ** 2 / (2 * m.y.clamp_min(1))).sum()
    (g,) = torch.autograd.grad(loss, x)
    z = torch.zeros(1, 1, 1, 2, **F)
    found = method.step(x.detach(), t, s, lambda fields: z.expand(fields, 1, 1, 2))
    wanted = ancestral_step(method.process, x.detach(), t, s, D.detach(), z[0]) - 0.3 * g
    assert torch.allclose(found, wanted, atol=1e-12)
