"""Two priors in one measurement, and measurements that are chosen one by one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from retrodict._check import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.spread import LocalSpread, band_filters
from retrodict.physics import GaussianNoise, Identity, Mask, Measurement, Scaled, beside
from retrodict.posterior import posterior_method
from retrodict.posterior.active import acquire, ensemble_entropy
from retrodict.posterior.card import affine_card, dense_posterior, prior_matrix
from retrodict.posterior.joint import JointDenoiser, _Beside
from retrodict.processes.scalar import ve, vp

F = {"dtype": torch.float64}


def white(variance, basis, process=vp):
    return GaussianDenoiser(process(basis), torch.zeros(basis.shape, **F), torch.full(basis.shape, variance, **F))


@pytest.mark.parametrize("calls", [1, 3])
def test_tissue_and_haze_are_drawn_jointly_with_errors_that_are_anti_correlated(calls):
    """E[x | y] = L_x/(L_x + L_h + sigma^2) y and Cov(x, h | y) = -L_x L_h/(L_x + L_h + sigma^2) (spec, 2.20)."""
    basis, (a, b, sigma) = Pixel((2,)), (1.0, 0.5, 0.3)
    denoiser = JointDenoiser((white(a, basis), white(b, basis)))
    operator = beside(Identity((2,)), Scaled(Identity((2,)), 1.0))
    y = torch.tensor([[[0.7, -1.1]]], **F)
    method = posterior_method("matched", denoiser, Measurement(operator, y, GaussianNoise.white(sigma)))
    found, total = affine_card(method, calls), a + b + sigma**2
    assert torch.allclose(found.mean[:2], a / total * y.flatten(), atol=1e-8)
    assert torch.allclose(found.mean[2:], b / total * y.flatten(), atol=1e-8)
    cross = found.covariance[:2, 2:]
    assert torch.allclose(cross, torch.full((2,), -a * b / total, **F).diag(), atol=1e-8)
    exact = dense_posterior(method.measurement, *prior_matrix(method))
    assert torch.allclose(found.covariance, exact.covariance, atol=1e-8)


def test_error_laws_of_another_kind_stand_side_by_side():
    basis = Fourier((4, 4), (1.0, 1.0))
    filters = band_filters(basis, 3)
    law = LocalSpread(basis, torch.ones(1, 1, *basis.shape, **F), torch.zeros(1, 3, 4, 4, **F), filters)
    both = _Beside((law, law), 1)
    z = torch.randn(3, 1, 2, 4, 4, generator=torch.Generator().manual_seed(0), **F)
    drawn = both.draw(z)
    assert torch.equal(drawn[:, 1:], law.draw(z[:, :, 1:]))
    assert both.fields == 3


def test_priors_of_other_processes_are_refused():
    basis = Pixel((2,))
    with pytest.raises(InputError, match="one process"):
        JointDenoiser((white(1.0, basis), white(1.0, basis, ve)))
    with pytest.raises(InputError, match="at least two"):
        JointDenoiser((white(1.0, basis),))
    joint = JointDenoiser((white(1.0, basis), white(1.0, basis)))
    with pytest.raises(InputError, match="channels"):
        joint(torch.zeros(1, 3, 2, **F), torch.ones(1, **F))


def test_the_entropy_of_an_ensemble_lies_between_its_bounds_and_ranks_spread_above_an_outlier():
    """Sixteen members evenly on [-2, 2] are less certain than fifteen at 0 and one at 5 (inverse spec, 2.21)."""
    even = torch.linspace(-2, 2, 16, **F)
    lone = torch.cat([torch.zeros(15, **F), torch.full((1,), 5.0, **F)])
    predicted, sigma = torch.stack([even, lone], 1), 0.5
    upper, lower = (ensemble_entropy(predicted, sigma, kind) for kind in ("upper", "lower"))
    noise = 0.5 * (1 + math.log(2 * math.pi * sigma**2))
    grid = torch.linspace(-10, 10, 20001, **F)
    for k in range(2):
        density = torch.exp(-0.5 * (grid[:, None] - predicted[:, k]) ** 2 / sigma**2).mean(1) / math.sqrt(
            2 * math.pi * sigma**2
        )
        entropy = float(-(density * density.clamp_min(1e-300).log()).sum() * (grid[1] - grid[0])) - noise
        assert float(lower[k]) - 1e-6 <= entropy <= float(upper[k]) + 1e-6
    assert upper[0] > upper[1]
    assert lower[0] > lower[1]
    with pytest.raises(InputError, match="sigma"):
        ensemble_entropy(predicted, 0.0)


def test_pixels_are_acquired_in_the_order_of_their_variance():
    """Of independent Gaussian pixels the greedy order is that of the prior variance, whatever was measured."""
    basis, n = Pixel((5,)), 5
    variance = torch.tensor([0.3, 4.0, 0.02, 25.0, 1.0], **F)
    denoiser = GaussianDenoiser(vp(basis), torch.zeros(n, **F), variance)
    truth = variance.sqrt().reshape(1, 1, n)

    def measure(taken):
        mask = torch.zeros(n, dtype=torch.bool)
        mask[list(taken)] = True
        operator = Mask(mask)
        return Measurement(operator, operator(truth), GaussianNoise.white(0.1))

    found = acquire(
        denoiser, measure, lambda x: x[:, 0, :], range(n), 4, 0.1, first=[2], entropy="variance", samples=128, steps=1
    )
    assert found.order == [2, 3, 1, 4]
    left = variance - variance**2 / (variance + 0.01)
    errors = {  # of the posterior mean, for every fixed mask of four with pixel 2: none is better
        taken: float(torch.where(torch.tensor([k in taken for k in range(n)]), left, variance).sum())
        for taken in itertools.combinations(range(n), 4)
        if 2 in taken
    }
    assert min(errors, key=lambda taken: errors[taken]) == tuple(sorted(found.order))
    assert found.ensemble.kind == "posterior"
    with pytest.raises(InputError, match="budget"):
        acquire(denoiser, measure, lambda x: x[:, 0, :], range(n), 9, 0.1)
