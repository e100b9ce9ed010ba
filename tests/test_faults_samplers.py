"""Closed forms of rules, grids and the loop that their contracts leave open."""

from __future__ import annotations

import math

import pytest
import torch

from objects import make_process
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import FunctionDenoiser, GaussianDenoiser
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond
from retrodict.processes.process import Process
from retrodict.processes.scalar import ve, vp
from retrodict.samplers import make_plan, sample
from retrodict.samplers.loop import steps
from retrodict.samplers.plan import make_grid


def times(*t):
    return torch.tensor(t, dtype=torch.float64)


@pytest.mark.parametrize("rule", ["matched", "ancestral"])
def test_the_last_step_has_noise_where_the_process_ends_noisy(rule):
    """VE starts at sigma_min: the last draw has the conditional's variance; VP is noise-free at 0 and draws none."""
    noisy, quiet = (make_plan(rule, p(Pixel((2,))), times(1.0, 0.5, 0.0)) for p in (ve, vp))
    (last,) = noisy[-1].noise
    s2, t2 = (noisy.process.moments(t).s2 for t in (times(0.0), times(0.5)))
    assert torch.allclose(last, (s2 * (1 - s2 / t2)).sqrt(), rtol=1e-12)
    assert all(float(x.max()) == 0 for x in quiet[-1].noise)


@pytest.mark.parametrize(("gain", "noise"), [(0.5, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_euler_steps_a_degenerate_coefficient_exactly(gain, noise):
    """Erased: the drift is infinite; noise-free: there is no score.  Both take the conditional, the other one Euler."""
    a, s = times(0.5, gain), times(1.0, noise)
    process = Process(lambda basis: lambda t: (a + (1 - a) * (1 - t), 0 * t, t * s), Pixel((2,)))
    row = make_plan("euler", process, times(1.0, 0.6, 0.3))[0]
    found = (*row.keep, *row.data, *row.noise)
    exact = process.conditional(times(1.0), times(0.6))
    for weights, expected in zip(found, exact, strict=True):
        assert torch.allclose(weights[..., 1], expected[..., 1], rtol=1e-12)
    # h = 1 - t/2, s^2 = t: F = -1, G^2 = 1 + 2 = 3 at t = 1, step 0.4
    assert [float(w.flatten()[0]) for w in found] == pytest.approx([1 + 0.4 - 1.2, 1.2 * 0.5, math.sqrt(1.2)])


@pytest.mark.parametrize(("lower", "images"), [(True, 1), (False, 2)])
def test_the_order_of_the_last_step_is_an_option(lower, images):
    plan = make_plan("dpmpp2m", vp(Pixel((2,))), times(1.0, 0.7, 0.4, 0.2), lower_last=lower)
    assert (len(plan[1].data), len(plan[2].data)) == (2, images)


def test_the_rho_grid_is_uniform_in_the_seventh_root_of_sigma():
    process = ve(Pixel((2,)))
    sigma = process.moments(make_grid(process, 6, "rho", last=0.1)).s2[:, 0, 0].sqrt()
    root = sigma ** (1 / 7)
    assert torch.allclose(root, torch.linspace(float(root[0]), float(root[-1]), 7).double(), rtol=1e-6)


def test_the_log_snr_grid_is_uniform_in_the_mean_over_the_whole_plane():
    """An even and an odd side; the mean of log r over the half spectrum alone would be another one."""
    process = fourier(Fourier((5, 6)))
    grid = make_grid(process, 4, "logsnr", last=0.1)
    clock = process.clock(grid)[:, 0].log()
    mean = (clock[..., 0] + clock[..., -1] + 2 * clock[..., 1:-1].sum(-1)).sum(1) / 30
    assert torch.allclose(mean, torch.linspace(float(mean[0]), float(mean[-1]), 5).double(), atol=1e-6)


def test_every_draw_of_a_run_is_a_field_of_its_own():
    """The streams and steps that a plan of three rows with noise and errors asks for are all different."""
    asked = []

    def noise(seeds, stream, step, shape):
        asked.append((stream, step))
        return torch.zeros(len(seeds), *shape)

    process = vp(Pixel((2,)))
    denoiser = GaussianDenoiser(process, 0.0, torch.ones(2, dtype=torch.float64))
    plan = make_plan("matched", process, times(1.0, 0.7, 0.4, 0.2))
    sample(denoiser, plan, torch.zeros(1, 1, 2), seeds=torch.tensor([1]), noise=noise)
    assert len(asked) == 6
    assert len(set(asked)) == 6


def test_a_run_that_ends_early_is_still_pulled_to_its_condition():
    """x = B^-1 (w + k B c) at the last time of the plan, where k is not 0."""
    process = make_process("mean_reverting", (4, 4))
    c = torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoiser = FunctionDenoiser(lambda xt, t: torch.zeros_like(xt), process)
    plan = make_plan("ddim", process, times(1.0, 0.6, 0.3))
    start = process.basis.forward(2 * c)
    options = {"seeds": torch.tensor([1]), "cond": Cond(c)}
    *_, memory = steps(denoiser, plan, start, **options)
    k = process.moments(times(0.3)).k
    expected = process.basis.inverse(memory.states[0] + k * process.basis.forward(c))
    assert torch.allclose(sample(denoiser, plan, start, **options).x, expected, atol=1e-12)
    assert float(k.min()) > 0.05
