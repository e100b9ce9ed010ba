"""Stacks of optical images as one observation: fused exactly, and algorithm 1 of whitened-score diffusion on them."""

from __future__ import annotations

import pytest
import torch

from retrodict import GaussianNoise, Measurement
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.likelihood import LikelihoodGuided
from retrodict.physics import idt, tie
from retrodict.posterior import posterior_method
from retrodict.posterior.card import affine_card, dense_posterior, prior_matrix
from retrodict.posterior.fused import coefficients_of
from retrodict.processes.observation import wiener
from retrodict.processes.scalar import vp
from retrodict.processes.whitened import whitened
from retrodict.samplers import sample
from retrodict.samplers.card import card
from retrodict.samplers.whitened import whitened_plan

F64 = {"dtype": torch.float64}
SIZE, PIXEL = (6, 5), 1e-3
BASIS = Fourier(SIZE, (PIXEL, PIXEL))
STACKS = {
    "tie": lambda: tie(SIZE, [0.05, -0.1], wavelength=5e-4, spacing=(PIXEL, PIXEL), kind="ctf"),
    "idt": lambda: idt(
        SIZE, [(0.0, 0.0), (150.0, 60.0), (-90.0, 200.0)], [0.02], wavelength=5e-4, aperture=0.25,
        spacing=(PIXEL, PIXEL), index=1.33, thickness=5e-3, absorption=False,
    ),
}  # fmt: skip
POWER = 1 / (0.05 + (BASIS.radius() / 500) ** 2)


def measured(kind, colored=False):
    operator = STACKS[kind]()
    level = 0.3 * float(operator.norm())
    noise = GaussianNoise.white(level)
    if colored:
        noise = GaussianNoise.stationary(BASIS, level**2 * (0.2 + BASIS.radius() / BASIS.radius().max()))
    x = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(0), **F64)
    return Measurement.simulate(operator, noise, x, [1])


@pytest.mark.parametrize("colored", [False, True])
@pytest.mark.parametrize("kind", STACKS)
def test_a_stack_fused_is_the_exact_posterior(kind, colored):
    m = measured(kind, colored)
    denoiser = GaussianDenoiser(vp(BASIS), torch.zeros_like(POWER), POWER)
    method = posterior_method("fuse", denoiser, m)
    exact = dense_posterior(m, *prior_matrix(method))
    got = affine_card(method, 2)
    assert torch.allclose(got.mean, exact.mean, atol=1e-8)
    assert torch.allclose(got.covariance, exact.covariance, atol=1e-8)


def test_what_a_stack_says_of_two_unknowns_is_no_number_per_frequency():
    both = idt(SIZE, [(0.0, 0.0)], [0.02], wavelength=5e-4, aperture=0.25, spacing=(PIXEL, PIXEL), thickness=5e-3)
    m = Measurement(both, torch.zeros(1, *both.range.shape, **F64), GaussianNoise.white(0.1))
    assert coefficients_of(m, BASIS) is None


def guided(kind, process, strength=1.0, state="as image", sign="corrected"):
    m = measured(kind)
    u, law = coefficients_of(m, BASIS)
    inner = GaussianDenoiser(process, 0.0, POWER)
    return LikelihoodGuided(inner, BASIS.inverse(u), law, strength, state, sign), law


def even(n):
    return torch.linspace(1, 0, n + 1, **F64)


@pytest.mark.parametrize("kind", STACKS)
def test_the_likelihood_of_a_stack_goes_uphill(kind):
    """One step of algorithm 1 less that without data is (d/2) G^2 lambda A^H Sigma^-1 (y - A x), by the operator."""
    m, process = measured(kind), whitened(BASIS, 1.5e-3, white=0.1)
    with_data, _ = guided(kind, process, 2.0)
    plan = whitened_plan(process, even(100))
    x = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(3), **F64)
    row = next(iter(plan))
    t = torch.tensor([row.t], **F64)
    moved = BASIS.inverse(row.data[0][0, 0] * BASIS.forward(with_data(x, t) - with_data.inner(x, t)))
    g2 = process.rates(t).G2[0, 0]
    uphill = m.operator.adjoint(m.residual(x)) / m.noise.covariance.number
    assert torch.allclose(moved, 0.5 * 0.01 * 2.0 * BASIS.inverse(g2 * BASIS.forward(uphill)), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", STACKS)
def test_the_card_on_a_stack_is_the_run_and_the_published_sign_leaves_the_posterior(kind):
    process = whitened(BASIS, 1.5e-3, white=0.3)
    errors = {}
    for sign in ("corrected", "published"):
        denoiser, law = guided(kind, process, 0.5, sign=sign)
        plan = whitened_plan(process, even(400))
        found = card(plan, denoiser)
        x = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(5), **F64)
        run = sample(denoiser, plan, BASIS.forward(x), seeds=[0]).x
        told = BASIS.inverse(found.start * BASIS.forward(x) + found.measurement * BASIS.forward(denoiser.y))
        scale = float(told.abs().max())
        assert torch.allclose(run, told, atol=1e-8 * max(1.0, scale))
        gain, _ = wiener(law, POWER)
        seen = law.h > 0
        errors[sign] = float((found.measurement - gain)[seen].abs().max() / gain[seen].abs().max())
    assert errors["published"] > 10 * errors["corrected"]
