"""Closed forms of processes that their contracts leave open: limits, tolerances, starts, memories, recipes."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from objects import curves, make_process
from retrodict._random import white
from retrodict.bases import Fourier, Pixel, Wavelet
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier, measured
from retrodict.processes.observation import Moments, Pairing, noise_like
from retrodict.processes.process import Process
from retrodict.processes.recipes import external, process_from_recipe, process_to_recipe
from retrodict.processes.scalar import rectified_flow, scalar, ve, vp
from retrodict.processes.wavelet import WAVELET_PROCESSES
from retrodict.training.losses import simulate


def at(*t):
    return torch.tensor(t, dtype=torch.float64)


def field(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def of(law, size=(2,), **options):
    return Process(lambda basis: law, Pixel(size), **options)


# ---- limits and tolerances -------------------------------------------------------------------------------------------


def test_an_erased_coefficient_has_an_infinite_drift():
    """F = h'/h with h' < 0 and h = 0; its G^2 is (s^2)', which does not hold the drift."""
    r = rectified_flow(Pixel((2,))).rates(at(1.0))
    assert bool(torch.isneginf(r.F).all())
    assert torch.equal(r.G2, torch.full_like(r.G2, 2.0))  # d(t^2)/dt


def test_a_falling_clock_beside_a_rising_one_is_no_round_off():
    """G^2 = -0.01 beside G^2 = 1: two orders below, and still no round-off."""
    rate = at(1.0, -0.01)
    process = of(lambda t: (torch.ones_like(t), 0 * t, 1 + rate * t))
    assert torch.allclose(process.rates(at(0.5)).G2[0, 0], rate, atol=1e-15)


@pytest.mark.parametrize("level", [1.0, 1e-6])
def test_a_clock_that_falls_by_little_falls(level):
    """By 5e-7 of itself on each of 1000 steps, whatever its own size: no stochastic rule holds there."""
    assert not of(lambda t: (torch.ones_like(t), 0 * t, level * (2 - 1e-3 * t))).markov
    assert of(lambda t: (torch.ones_like(t), 0 * t, level * (2 + 1e-3 * t))).markov


def test_the_first_decrease_is_named_where_it_ends():
    process = of(lambda t: (torch.ones_like(t), 0 * t, torch.minimum(t, 1 - t)))
    coefficient, time = process.first_decrease
    assert (coefficient, time) == (0, pytest.approx(0.501, abs=1e-12))


def test_ve_is_geometric():
    m = ve(Pixel((1,)), 0.01, 50.0).moments(at(0.0, 0.5, 1.0))
    assert torch.allclose(m.s2.flatten().sqrt(), at(0.01, math.sqrt(0.5), 50.0), rtol=1e-12)


def test_the_clock_of_a_sharp_kernel_is_that_of_its_noise():
    """Where the MTF is above 1, s^2 = rho (H / MTF)^2 NPS / V: s^2 / H^2 = rho NPS / (V MTF^2)."""
    process = make_process("measured")
    gain, _, noise = process.measurement
    rho = math.expm1(-10 * 0.25) / math.expm1(-10.0)
    sharp = gain > 1
    assert bool(sharp.any())
    assert torch.allclose(process.clock(at(0.5))[0, 0][sharp], (rho * noise / gain**2)[sharp], rtol=1e-12)


# ---- memory, start, Tweedie ------------------------------------------------------------------------------------------


def test_a_memory_is_the_covariance_of_two_states():
    """Cov(x_s, x_t | x_0) = (A_t / A_s) s_s^2 with A = exp(-t): keep and variance of the regression of x_s on x_t."""
    base = scalar(Pixel((2,)))
    process = Process(base.family, base.basis, memory=lambda basis: lambda t: torch.exp(-t))
    s, t = at(0.3), at(0.7)
    ms, mt = process.moments(s), process.moments(t)
    covariance = math.exp(-0.4) * ms.s2
    keep, data, std = process.conditional(t, s)
    assert torch.allclose(keep, covariance / mt.s2, rtol=1e-12)
    assert torch.allclose(std**2, ms.s2 - covariance**2 / mt.s2, rtol=1e-12)
    assert torch.allclose(data, ms.h - keep * mt.h, rtol=1e-12)


def test_a_start_has_the_marginal_law_of_the_data():
    """w_1 = h m + sqrt(s^2 + h^2 L) B z with a gain that is far from 0."""
    basis = Fourier((4, 6))
    process = vp(basis, beta_max=1.0)
    L, mean, z = 0.5 + basis.radius(), 1 + basis.radius(), field(1, 1, 4, 6)
    h, _, s2 = process.moments(at(1.0))
    assert float(h.min()) > 0.7
    expected = h * mean + (s2 + h**2 * L).sqrt() * basis.forward(z)
    assert torch.allclose(process.start(z, mean=mean, variance=L), expected, rtol=1e-12)
    assert torch.allclose(process.start(z), s2.sqrt() * basis.forward(z), rtol=1e-12)  # nothing known of the data


def test_an_external_start_knows_the_measurement():
    """The law of the data given y, by the Kalman gain written out."""
    basis = Fourier((4, 6))
    process = external(vp(basis, beta_max=1.0), fourier(basis))
    L, mean, z, y = 0.5 + basis.radius(), 1 + basis.radius(), field(1, 1, 4, 6), field(1, 1, 4, 6, seed=1)
    a, _, S = process.measurement
    known = mean + a * L / (a**2 * L + S) * (basis.forward(y) - a * mean)
    left = L * S / (a**2 * L + S)
    h, _, s2 = process.moments(at(1.0))
    expected = h * known + (s2 + h**2 * left).sqrt() * basis.forward(z)
    assert torch.allclose(process.start(z, y, mean, L), expected, rtol=1e-12)


def test_tweedie_of_the_score_is_the_denoised_image():
    """E[x_0 | x_t] = x_t / h + s^2 / h score, on Gaussian data, with gains that differ between coefficients."""
    basis = Fourier((6, 6))
    process, x, t = fourier(basis), field(1, 1, 6, 6), at(0.8)
    denoiser = GaussianDenoiser(process, 0.0, 1 + 0 * basis.radius())
    gain = process.moments(t).h
    score = basis.inverse(denoiser.score(x, t))
    expected = basis.inverse(basis.forward(x) / gain) + process.tweedie(score, t)
    assert torch.allclose(denoiser(x, t), expected, atol=1e-10)


def test_a_state_loses_its_condition_and_gets_it_back():
    process, x, c, t = make_process("mean_reverting", (4, 4)), field(1, 1, 4, 4), field(1, 1, 4, 4, seed=1), at(0.6)
    w = process.to_coefficients(x, t, c)
    assert torch.allclose(w, process.basis.forward(x - float(process.moments(t).k) * c), atol=1e-12)
    assert torch.allclose(process.to_image(w, t, c), x, atol=1e-12)


# ---- noise and misfit ------------------------------------------------------------------------------------------------


def test_noise_of_the_measurement_is_not_that_of_the_state():
    """Of an empty image both are noise alone; 4096 pixels: correlation within 5 / 64."""
    process = external(scalar(Pixel((64, 64))), Process(*noise_of_one()))
    xt, cond = simulate(process, torch.zeros(1, 1, 64, 64), at(1.0), torch.tensor([3]))
    both = torch.stack([xt.flatten(), cond.image.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 5 / 64
    assert float(cond.image.std()) == pytest.approx(2.0, abs=0.2)  # the variance is 4


def noise_of_one():
    """Family, basis, pairing, memory and recipe of an instrument with gain 1 and noise variance 4."""
    inner = scalar(Pixel((64, 64)))
    law = Moments(*(torch.tensor(v, dtype=torch.float64) for v in (1.0, 0.0, 4.0)))
    return inner.family, inner.basis, Pairing("terminal", lambda basis: law), None, inner.recipe


def test_the_components_of_complex_noise_are_independent():
    z = noise_like(torch.zeros(1, 1, 64, 64, dtype=torch.complex128), torch.tensor([5]), "step", 2)
    assert abs(float(torch.corrcoef(torch.stack([z.real.flatten(), z.imag.flatten()]))[0, 1])) < 5 / 64
    assert torch.equal(z.real.float(), white([5], "step", 2, (1, 64, 64)))


def test_the_misfit_of_channels_is_the_mean_of_theirs():
    process = fourier(Fourier((8, 8)))
    x, y = field(1, 3, 8, 8), field(1, 3, 8, 8, seed=1)
    each = [process.pairing.misfit(x[:, c : c + 1], y[:, c : c + 1], process.basis) for c in range(3)]
    assert torch.allclose(process.pairing.misfit(x, y, process.basis), torch.stack(each).mean(0), rtol=1e-12)


# ---- options and recipes ---------------------------------------------------------------------------------------------


def other_options(name):
    """Every numeric default of a process, one at a time, away from its default."""
    defaults = {k: p.default for k, p in inspect.signature(PROCESSES[name]).parameters.items()}
    for key, value in defaults.items():
        if isinstance(value, bool):
            yield {key: not value}
        elif isinstance(value, int):
            yield {key: value - 1}
        elif isinstance(value, float):
            yield {key: value * 0.9 or 0.5}
        elif isinstance(value, tuple):
            yield {key: tuple(0.9 * v for v in value)}


OPTIONS = [(name, option) for name in PROCESSES for option in other_options(name)]


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{n}-{next(iter(o))}" for n, o in OPTIONS])
def test_every_option_changes_the_law_and_is_kept_by_the_recipe(name, option):
    basis = Wavelet((8, 8), levels=2) if name in WAVELET_PROCESSES else Fourier((8, 8))
    extra = curves() if name == "measured" else {}
    times = at(0.2, 0.5, 1.0)
    plain, other = PROCESSES[name](basis, **extra), PROCESSES[name](basis, **extra, **option)
    again = process_from_recipe(process_to_recipe(other), (8, 8), (1.0, 1.0), "test")
    assert any(not torch.equal(a, b) for a, b in zip(plain.moments(times), other.moments(times), strict=True))
    for a, b in zip(other.moments(times), again.moments(times), strict=True):
        assert torch.equal(a, b)


def test_mean_reversion_ends_at_its_delta():
    assert float(PROCESSES["mean_reverting"](Pixel((1,)), delta=0.02).moments(at(1.0)).h) == pytest.approx(0.02)


def test_noise_of_an_instrument_is_in_model_units_squared():
    """NPS 8 HU^2 mm^2, pixels of 2 mm^2 and 1 model unit = 4 HU: 8 / 2 / 16 per pixel."""
    record = {"frequency": [0.0, 9.0], "unit": "HU^2 mm^2", "frequency_unit": "cycles/mm", "value": [8.0, 8.0]}
    process = measured(Fourier((4, 4), (1.0, 2.0)), {**record, "unit": "1", "value": [1.0, 1.0]}, record, 4.0)
    assert torch.allclose(process.measurement.s2, torch.tensor(0.25).double())
