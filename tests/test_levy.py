"""The Gibbs sampler and the figures of the Levy benchmark against closed forms and quadrature."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from retrodict.denoisers.scale_mixture import ScaleMixture

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

levy = pytest.importorskip("levy")
truth = pytest.importorskip("levy_truth")

F = {"dtype": torch.float64}


def exact_of(law, M, y, noise, reach=9.0, n=401):
    """Mean and covariance of two numbers by quadrature."""
    u = torch.linspace(-reach, reach, n, **F)
    grid = torch.stack(torch.meshgrid(u, u, indexing="ij"), -1).reshape(-1, 2)
    p = (law.log_density(grid).sum(-1) - 0.5 * (y - grid @ M.T).square().sum(-1) / noise).softmax(0)
    mean = (p[:, None] * grid).sum(0)
    return mean, (p[:, None] * (grid - mean)).T @ (grid - mean)


@pytest.mark.parametrize("law", [ScaleMixture.laplace(), ScaleMixture.student(3.0)], ids=["laplace", "student"])
def test_scales_and_increments_in_turn_have_the_law_of_quadrature(law):
    M, y, noise = torch.tensor([[1.0, 0.0], [1.0, 1.0]], **F), torch.tensor([0.8, -0.4], **F), 0.5
    mean, covariance = exact_of(law, M, y, noise)
    found = truth.gibbs(law, M, y[None], noise, chains=200, sweeps=140, burn=40)
    assert torch.allclose(found.mean[0], mean, atol=0.02)
    assert torch.allclose(found.samples[0].T.cov(), covariance, atol=0.04)
    assert found.spread == pytest.approx(1.0, abs=0.05)


def test_gaussian_increments_have_the_exact_posterior():
    law, M = ScaleMixture.gaussian(0.25), torch.tril(torch.ones(5, 5, **F))
    y, noise = torch.linspace(0, 1, 5, **F), 0.1
    covariance = torch.linalg.inv(M.T @ M / noise + 4 * torch.eye(5, **F))
    found = truth.gibbs(law, M, y[None], noise, chains=100, sweeps=100, burn=0)
    assert torch.allclose(found.mean[0], covariance @ M.T @ y / noise, atol=1e-10)
    assert torch.allclose(found.samples[0].T.cov(), covariance, atol=0.006)


def test_scales_with_increments_integrated_out_have_the_weights_of_their_likelihoods():
    """Three increments, each 0 or of variance 2: the eight weights."""
    law = ScaleMixture.spike(0.4, ScaleMixture.gaussian(2.0))
    M, noise = torch.tensor([[1.0, 0.0, 0.3], [1.0, 1.0, 0.0]], **F), 0.3
    y = torch.tensor([[1.0, 0.2]], **F)
    states = torch.tensor([[a, b, c] for a in (0.0, 2.0) for b in (0.0, 2.0) for c in (0.0, 2.0)], **F)
    logs = []
    for v in states:
        S = (M * v) @ M.T + noise * torch.eye(2, **F)
        prior = sum(math.log(0.4 if a else 0.6) for a in v.tolist())
        logs.append(prior + float(torch.distributions.MultivariateNormal(torch.zeros(2, **F), S).log_prob(y[0])))
    wanted = torch.tensor(logs, **F).softmax(0)
    generator, v = torch.Generator().manual_seed(0), torch.zeros(2000, 3, **F)
    counts = torch.zeros(8, **F)
    for k in range(40):
        v = truth.scales_alone(law, M, y.expand(2000, 2), noise, v, generator)
        if k >= 10:
            counts += (v[:, None] == states).all(-1).double().mean(0) / 30
    assert torch.allclose(counts, wanted, atol=0.01)


def test_members_of_the_posterior_itself_are_covered_as_they_say():
    law, M, noise = ScaleMixture.laplace(), torch.tril(torch.ones(4, 4, **F)), 0.2
    y = torch.tensor([[0.3, 1.0, 0.9, 2.0]], **F)
    found = truth.gibbs(law, M, y, noise, chains=400, sweeps=60, burn=20)
    covers = []
    for k in range(60):
        members = found.samples[0, torch.randperm(16000, generator=torch.Generator().manual_seed(k))[:64]]
        covers.append(levy.figures(law, M, y[0], noise, members, (found.samples[0], found.mean[0])))
    table = torch.tensor(covers, **F).mean(0)
    assert float(table[0]) == pytest.approx(0.9, abs=0.015)
    assert float(table[1]) == pytest.approx(1 / 64, rel=0.35)
    assert float(table[2]) == pytest.approx(1.0, abs=0.05)


def test_problems_are_those_of_the_paper():
    found = levy.operators()
    assert torch.allclose(found["deconvolution"].sum(1), torch.ones(64, **F))
    assert int((found["deconvolution"][20] > 0).sum()) == 13
    assert torch.allclose(found["Fourier"] @ found["Fourier"].T, torch.eye(len(found["Fourier"]), **F), atol=1e-12)
    assert bool(((found["imputation"] == 1).sum(1) == 1).all())
