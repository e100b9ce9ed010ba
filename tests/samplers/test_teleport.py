"""The early phase in one jump, and grids that are optimised."""

from __future__ import annotations

import pytest
import torch

from objects import make_process, restoring_process
from retrodict import InputError
from retrodict._random import white
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.processes import PROCESSES
from retrodict.processes.process import Process
from retrodict.processes.scalar import ve, vp
from retrodict.samplers import RULES, make_plan, sample
from retrodict.samplers.card import gaussian_card
from retrodict.samplers.optimal import _shortest, aligned_grid, card_errors, optimal_grid
from retrodict.samplers.plan import make_grid
from retrodict.samplers.teleport import teleport, teleport_time, teleport_weights, teleported

SPECTRUM = Spectrum.power_law(0.3, 100.0, 0.02, 3.0)


def at(t):
    return torch.tensor([t], dtype=torch.float64)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_flow_of_gaussian_data_composes_and_ends_as_the_exact_rule_does(name):
    """psi(1 -> b) = psi(1 -> a) psi(a -> b), and gaussian_ode in one call, on every process that is noisy at t = 1."""
    process = make_process(name)
    process = Process(process.family, process.basis)
    if process.pinned(at(1.0)):
        with pytest.raises(InputError, match="exact transition"):
            teleport_weights(process, at(1.0), at(0.5), SPECTRUM.on(process.basis))
        return
    L = SPECTRUM.on(process.basis)
    whole, first, second = (teleport_weights(process, at(t), at(s), L) for t, s in ((1, 0.3), (1, 0.6), (0.6, 0.3)))
    assert torch.allclose(whole[0], first[0] * second[0], rtol=1e-10, atol=1e-14)
    assert torch.allclose(whole[1], second[0] * first[1] + second[1], rtol=1e-9, atol=1e-10)
    times = torch.tensor([1.0, 0.3], dtype=torch.float64)
    card = gaussian_card(make_plan("gaussian_ode", process, times, L), L, mean=1.0)
    assert torch.allclose(card.start.expand(whole[0].shape), whole[0], rtol=1e-9, atol=1e-12)
    assert torch.allclose(card.offset.expand(whole[0].shape), whole[1].expand_as(whole[0]), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["vp", "ve", "scalar", "mean_reverting", "rectified_flow"])
def test_a_jump_by_the_transition_has_the_law_of_the_marginal(name):
    """Gaussian data, also given a measurement: mean and variance of many draws, from the exact law at t = 1."""
    process = make_process(name, (4, 4))
    L = SPECTRUM.on(process.basis)
    denoiser = GaussianDenoiser(process, spectrum=SPECTRUM)
    count = 4000
    z = white(torch.arange(count), "z", 0, (1, 4, 4)).double()
    y = torch.zeros(count, 1, 4, 4, dtype=torch.float64)
    mean, _ = denoiser.prior()
    start = process.start(z, y if process.anchored else None, mean, L)
    w = teleport(denoiser, start, 1.0, 0.4, seeds=torch.arange(count))
    m = process.moments(at(0.4))
    real = process.basis.energy(w - m.h * mean).mean((0, 1))
    assert torch.allclose(real, (m.h**2 * L + m.s2)[0, 0].expand(real.shape), rtol=0.2)


def test_a_jump_given_the_measurement_is_that_of_the_posterior():
    process = restoring_process("vp")
    denoiser = GaussianDenoiser(process, spectrum=SPECTRUM)
    y = white([1], "y", 0, (1, 8, 8)).double()
    start = white([2], "w", 0, (1, 8, 8)).double()
    w = process.basis.forward(start)
    cond = process.pairing.cond(y)
    got = teleport(denoiser, w, 1.0, 0.5, cond=cond)
    plan = make_plan("gaussian_ode", process, torch.tensor([1.0, 0.5]).double(), SPECTRUM.on(process.basis))
    known = sample(denoiser, plan, w, seeds=torch.tensor([1]), cond=cond).x
    assert torch.allclose(process.basis.inverse(got), known, atol=1e-8)


def two_modes():
    """The check of the specification (g): modes at +-1 along a line in 32 dimensions, deviation 0.05 within."""
    process = ve(Pixel((32,)), 0.002, 80.0)
    line = white([1], "line", 0, (32,)).double()[0]
    line = line / line.norm()
    within = torch.full((32,), 0.05**2, dtype=torch.float64)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    law = MixtureLaw(process.basis, weights, torch.stack([line, -line]), torch.stack([within, within]))
    return process, MixtureDenoiser(process, law), line, within


def test_the_error_of_a_jump_falls_like_the_fourth_power_of_the_level():
    process, denoiser, line, _ = two_modes()
    n = 4
    start = 80 * white(torch.arange(n), "s", 0, (1, 32)).double()
    # in a basis along the line the covariance is diagonal; there the jump is a number for it and one for the rest
    along = (start @ line)[..., None] * line
    errors = []
    for sigma in (20.0, 10.0, 5.0):
        psi = [((v + sigma**2) / (v + 80.0**2)) ** 0.5 for v in (1 + 0.05**2, 0.05**2)]
        jumped = psi[0] * along + psi[1] * (start - along)
        t = float(
            torch.log(torch.tensor(sigma / 0.002, dtype=torch.float64)) / torch.log(torch.tensor(80 / 0.002).double())
        )
        times = 1 + (t - 1) * torch.linspace(0, 1, 101, dtype=torch.float64)
        exact = sample(denoiser, make_plan("exponential", process, times), start, seeds=torch.arange(n)).x
        errors.append(float((jumped - exact).norm() / exact.norm()))
    assert errors[0] < errors[1] < errors[2]
    assert errors[2] < 2e-4


def test_a_teleported_plan_spends_its_steps_below_and_is_nearer_at_few_calls():
    process = ve(Pixel((3,)), 0.002, 80.0)
    L = torch.tensor([0.01, 0.25, 1.0], dtype=torch.float64)
    denoiser = GaussianDenoiser(process, torch.zeros(3, dtype=torch.float64), L)
    first = teleport_time(process, L)
    sigma = float(process.moments(at(first)).s2.flatten()[0].sqrt())
    assert sigma == pytest.approx(3.0, rel=1e-6)
    start = 80 * white([1, 2], "s", 0, (1, 3)).double()
    exact = ((L + 0.002**2) / (L + 80.0**2)).sqrt() * start
    plan = teleported("ddim", process, 6, L)
    assert len(plan) == 6
    assert float(plan.times[0]) == first
    jumped = teleport(denoiser, start, 1.0, first)
    plain = make_plan("ddim", process, make_grid(process, 6, RULES["ddim"].grid), L)
    near = (sample(denoiser, plan, jumped, seeds=torch.arange(2)).x - exact).norm()
    far = (sample(denoiser, plain, start, seeds=torch.arange(2)).x - exact).norm()
    assert near < 0.8 * far


def test_jumps_that_cannot_be_are_refused_by_name():
    process = vp(Pixel((3,)))
    denoiser = GaussianDenoiser(process, torch.zeros(3).double(), torch.ones(3).double())
    with pytest.raises(InputError, match="0 <= s < t <= 1"):
        teleport(denoiser, torch.zeros(1, 1, 3).double(), 0.5, 0.7)
    with pytest.raises(InputError, match="factor"):
        teleport_time(process, torch.ones(3).double(), 0.0)
    with pytest.raises(InputError, match="until"):
        teleported("ddim", process, 4, torch.ones(3).double(), until=0.0)


# ---- optimised grids ----


@pytest.mark.parametrize("rule", ["ddim", "dpmpp2m"])
def test_an_optimised_grid_is_better_on_the_card_than_every_grid_of_the_package(rule):
    process = vp(Pixel((3,)))
    L = torch.tensor([0.01, 0.25, 1.0], dtype=torch.float64)
    times = optimal_grid(process, 6, rule, L, last=1e-3, rounds=5)
    assert (float(times[0]), float(times[-1])) == (1.0, 1e-3)
    assert bool((times[1:] < times[:-1]).all())

    def error(t):
        return float(card_errors(rule, process, t, L).square().sum())

    best = min(
        error(make_grid(process, 6, kind, last=1e-3, spectrum=L)) for kind in ("logsnr", "rho", "time", "energy")
    )
    assert error(times) < 0.8 * best


def test_an_optimised_grid_ends_where_it_is_told_to():
    process = restoring_process("fourier")
    L = SPECTRUM.on(process.basis)
    times = optimal_grid(process, 5, "ancestral", L, rounds=2)
    assert float(times[-1]) == 0.0
    assert len(times) == 6
    best = min(
        float(card_errors("ancestral", process, make_grid(process, 5, k, spectrum=L), L).square().sum())
        for k in ("logsnr", "time")
    )
    assert float(card_errors("ancestral", process, times, L).square().sum()) <= best


def test_the_path_through_a_table_of_costs_is_the_cheapest():
    costs = torch.tensor([[0, 1, 5, 20], [0, 0, 1, 9], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.float64)
    assert _shortest(costs, 2).tolist() == [0, 2, 3]
    assert _shortest(costs, 3).tolist() == [0, 1, 2, 3]
    assert _shortest(costs, 1).tolist() == [0, 3]


def test_a_grid_from_images_has_its_nodes_where_the_answers_change():
    """Data of two deviations: between their two transitions nothing changes, and no node is spent there."""
    process = ve(Pixel((16,)), 1e-4, 1e4)
    L = torch.tensor([1e-2, 1e2], dtype=torch.float64).square().repeat(8)
    denoiser = GaussianDenoiser(process, torch.zeros(16).double(), L)
    seeds = torch.arange(8)
    images = L.sqrt() * white(seeds, "x", 0, (1, 16)).double()
    times = aligned_grid(denoiser, images, 8, seeds=seeds, ladder=40, last=0.02)
    assert len(times) == 9
    assert (float(times[0]), float(times[-1])) == (1.0, 0.0)
    assert bool((times[1:] < times[:-1]).all())
    plain = make_grid(process, 8, "logsnr", first=0.02)
    gaps = [float((t[:-1] - t[1:]).max()) for t in (times, plain)]
    assert gaps[0] > gaps[1]


def test_images_and_spectra_that_do_not_fit_are_refused_by_name():
    process = vp(Pixel((3,)))
    denoiser = GaussianDenoiser(process, torch.zeros(3).double(), torch.ones(3).double())
    with pytest.raises(InputError, match="twice as many rungs"):
        aligned_grid(denoiser, torch.zeros(2, 1, 3).double(), 8, seeds=torch.arange(2), ladder=10)
    with pytest.raises(InputError, match="a seed for every image"):
        aligned_grid(denoiser, torch.zeros(2, 1, 3).double(), 4, seeds=torch.arange(3), ladder=10)
    with pytest.raises(InputError, match="one value a coefficient"):
        optimal_grid(vp(Fourier((4, 4))), 4, "ddim", torch.ones(3).double())
