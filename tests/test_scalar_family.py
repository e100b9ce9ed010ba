"""The scalar family: golden numbers of the specification, closed forms, and conversion by equal log-SNR."""

from __future__ import annotations

import math

import pytest
import torch

from retrodict import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.foreign import Converted
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.network import NetDenoiser
from retrodict.processes import PROCESSES
from retrodict.processes.convert import convert_state, convert_time, log_snr, time_at
from retrodict.processes.fourier import fourier
from retrodict.processes.residual import mean_reverting
from retrodict.processes.scalar import (
    edm,
    encoder_decoder,
    latent_flow,
    rectified_flow,
    sub_vp,
    trigonometric,
    ve,
    vp,
    zero_snr,
)
from retrodict.samplers import make_plan, sample
from retrodict.samplers.card import gaussian_card
from retrodict.samplers.plan import make_grid

B3, B1 = Pixel((3,)), Pixel((1,))
L = torch.tensor([0.01, 0.25, 1.0], dtype=torch.float64)
T = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
SCALARS = [
    "vp", "cosine", "sub_vp", "ve", "scalar", "zero_snr", "edm", "discrete", "rectified_flow", "trigonometric",
    "latent_flow", "encoder_decoder",
]  # fmt: skip


def at(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---- golden numbers of spec-samplers, section G --------------------------------------------------------------------

VE_MULTIPLIERS = {  # G.1: sigma from 80 to 0.002 on the rho-7 grid
    ("ddim", 10): [8.783474134e-04, 4.704799653e-03, 9.665709004e-03],
    ("heun", 10): [1.616799489e-03, 7.341283317e-03, 1.424736377e-02],
    ("dpmpp2m", 10): [1.188614370e-03, 6.789212129e-03, 1.381051753e-02],
    ("ddim", 20): [1.045690492e-03, 5.422188404e-03, 1.098990613e-02],
    ("heun", 20): [1.330031030e-03, 6.494899855e-03, 1.289687224e-02],
    ("dpmpp2m", 20): [1.310766294e-03, 6.516654414e-03, 1.294067715e-02],
}


@pytest.mark.parametrize(("rule", "steps"), VE_MULTIPLIERS)
def test_golden_multipliers_of_edm(rule, steps):
    process = edm(B3)
    times = make_grid(process, steps, "rho", last=0.002 / 80)
    ramp = torch.arange(steps + 1, dtype=torch.float64) / steps
    known = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 / 80
    assert torch.allclose(times, known, rtol=1e-11)
    found = gaussian_card(make_plan(rule, process, times), L).start
    assert torch.allclose(found, at(*VE_MULTIPLIERS[rule, steps]), rtol=1e-8)


def test_the_exact_multipliers_of_edm():
    plan = make_plan("gaussian_ode", edm(B3), make_grid(edm(B3), 4, "rho", last=0.002 / 80), L)
    assert torch.allclose(
        gaussian_card(plan, L).start, at(1.250248998e-03, 6.249927932e-03, 1.249904855e-02), rtol=1e-8
    )


def test_golden_ends_of_vp():
    assert float(vp(B1).moments(at(1.0)).h) == pytest.approx(0.006571586494929619, rel=1e-13)
    assert log_snr(vp(B1), at(1.0, 1e-3)).tolist() == pytest.approx([-5.024978406659204, 4.557714932729898], rel=1e-13)


def test_a_grid_ends_where_the_state_is_nearly_clean():
    """At t = 1e-3 where the clock is that of VP or less, earlier where it is more, later never."""
    for make, first in ((vp, 1e-3), (ve, 1e-3), (rectified_flow, 1e-3), (edm, 1.2e-4**0.5 / 80), (latent_flow, 1.2e-4)):
        assert float(make_grid(make(B3), 8, "logsnr")[-2]) == pytest.approx(first, rel=3e-4), make.__name__
    assert float(make_grid(ve(B3, 0.1), 8, "logsnr")[-2]) == pytest.approx(1e-3)  # never as clean as that
    strong = torch.full((3,), 4.0, dtype=torch.float64)
    assert float(make_grid(edm(B3), 8, "logsnr", spectrum=strong)[-2]) == pytest.approx((4 * 1.2e-4) ** 0.5 / 80)
    weak = torch.full((3,), 0.01, dtype=torch.float64)
    assert float(make_grid(edm(B3), 8, "logsnr", spectrum=weak)[-2]) == pytest.approx(1.2e-4**0.5 / 80)
    assert float(make_grid(edm(B3), 8, "logsnr", first=1e-3)[-2]) == pytest.approx(1e-3)


# ---- closed forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [zero_snr, rectified_flow, trigonometric, latent_flow, encoder_decoder])
def test_nothing_of_the_image_is_left_at_the_end(make):
    m = make(B1).moments(at(1.0))
    assert float(m.h) == 0
    assert float(m.s2) == pytest.approx(1, abs=1e-15)


def test_zero_terminal_snr_is_vp_shifted_and_scaled():
    """Lin et al. 2023, algorithm 1 on the table of VP."""
    g, m = vp(B1).moments(T).h, zero_snr(B1).moments(T)
    last = vp(B1).moments(at(1.0)).h
    assert torch.allclose(m.h, (g - last) / (1 - last), rtol=1e-12)
    assert torch.allclose(m.s2, 1 - m.h**2, rtol=1e-11)


def test_edm_is_its_own_noise_level():
    m, r = edm(B1, 20.0).moments(T), edm(B1, 20.0).rates(T)
    assert torch.allclose(m.s2.flatten().sqrt(), 20 * T, rtol=1e-14)
    assert torch.allclose(r.G2.flatten(), 800 * T, rtol=1e-13)


def test_interpolants_are_one_process_in_other_clothes():
    for make, time in ((trigonometric, None), (encoder_decoder, torch.sin(math.pi * T / 2) ** 2)):
        later = convert_time(T, make(B1), rectified_flow(B1))
        assert torch.allclose(later, time if time is not None else _trigonometric(T), rtol=1e-12)
    a, b = encoder_decoder(B1).moments(T), rectified_flow(B1).moments(torch.sin(math.pi * T / 2) ** 2)
    assert torch.allclose(a.h, b.h, rtol=1e-13)
    assert torch.allclose(a.s2, b.s2, rtol=1e-13)
    circle = trigonometric(B1).moments(T)
    assert torch.allclose(circle.h**2 + circle.s2, torch.ones_like(circle.h), rtol=1e-14)


def _trigonometric(t):
    """Tan a = t'/(1 - t') of the straight line."""
    tan = torch.tan(math.pi * t / 2)
    return tan / (1 + tan)


def test_latent_noise_is_the_sum_of_two():
    """(1 - t) x_0 + t x_1 + gamma z has variance t^2 + gamma^2 around (1 - t) x_0; 0 and 2 are known processes."""
    m = latent_flow(B1, 0.7).moments(T)
    assert torch.allclose(m.s2.flatten(), T**2 + 0.7 * T * (1 - T), rtol=1e-14)
    assert torch.equal(latent_flow(B1, 0.0).moments(T).s2, rectified_flow(B1).moments(T).s2)
    two = latent_flow(B1, 2.0).moments(T)
    assert torch.allclose(two.h**2 + two.s2, torch.ones_like(two.h), rtol=1e-14)
    with pytest.raises(InputError, match="at least 0"):
        latent_flow(B1, -1.0)


def test_sub_vp_never_has_more_noise_than_vp():
    assert bool((sub_vp(B1).moments(T).s2 < vp(B1).moments(T).s2).all())


def test_the_preconditioning_of_edm_is_the_wiener_prediction_of_a_flat_spectrum():
    """D = c_skip x + c_out F with c_in = 1/sqrt(sigma^2 + sd^2), for whatever the network answers."""
    process, sd = edm(Pixel((8, 8))), 0.5
    seen = []

    class Ones(torch.nn.Module):
        def forward(self, x, level):
            seen.append(x)
            return torch.ones_like(x[:, :1])

    denoiser = NetDenoiser(Ones(), process, Spectrum.flat(0.0, sd**2))
    t, x = at(0.01, 0.4), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    sigma = (80 * t)[:, None, None, None]
    total = (sigma**2 + sd**2).sqrt()
    found = denoiser(x, t)
    assert torch.allclose(found, sd**2 / total**2 * x + sigma * sd / total, rtol=1e-12)
    # the first channel that it sees is E[x_0 | x_t] over the data, c_skip x / sd: c_in x times sd/total
    assert torch.allclose(seen[0][:, :1] * total / sd, x / total, rtol=1e-12)


# ---- conversion ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALARS)
def test_a_level_is_found_at_its_time(name):
    process = PROCESSES[name](B1)
    t = at(1e-3, 0.2, 0.5, 0.8, 1.0)
    assert torch.allclose(time_at(process, log_snr(process, t)), t, rtol=1e-12)


def test_vp_becomes_ve_at_the_time_of_the_closed_form():
    x, process, other = torch.randn(4, 1, 1, dtype=torch.float64), vp(B1), ve(B1, 1e-3, 200.0)
    m = process.moments(T)
    sigma = (m.s2.sqrt() / m.h).flatten()
    found, later = convert_state(x, T, process, other)
    assert torch.allclose(later, torch.log(sigma / 1e-3) / math.log(200 / 1e-3), rtol=1e-12)
    assert torch.allclose(found, x / m.h, rtol=1e-12)
    assert torch.allclose(other.moments(later).s2.sqrt().flatten(), sigma, rtol=1e-12)


@pytest.mark.parametrize("source", SCALARS)
@pytest.mark.parametrize("target", ["vp", "edm", "rectified_flow", "discrete", "latent_flow"])
def test_states_go_there_and_back(source, target):
    a, b = PROCESSES[source](B1), PROCESSES[target](B1)
    x, t = torch.randn(4, 1, 1, dtype=torch.float64), at(0.15, 0.3, 0.5, 0.7)
    moved, later = convert_state(x, t, a, b)
    m, n = a.moments(t), b.moments(later)
    assert torch.allclose(n.s2 / n.h**2, m.s2 / m.h**2, rtol=1e-12)
    back, again = convert_state(moved, later, b, a)
    assert torch.allclose(again, t, rtol=1e-12)
    assert torch.allclose(back, x, rtol=1e-12)


def test_an_erased_state_stays_erased():
    x = torch.full((1, 1, 1), 3.0, dtype=torch.float64)
    found, later = convert_state(x, at(1.0), rectified_flow(B1), latent_flow(B1, 0.5))
    assert float(later) == 1.0
    assert float(found) == pytest.approx(3.0, rel=1e-15)


def test_a_level_that_is_not_reached_is_refused():
    with pytest.raises(InputError, match="which the process reaches"):
        convert_time(at(1.0), edm(B1, 80.0), vp(B1, beta_max=5.0))
    with pytest.raises(InputError, match="which the process reaches"):
        convert_time(at(0.0), edm(B1), ve(B1))


@pytest.mark.parametrize("other", [fourier(Fourier((8,))), mean_reverting(Pixel((8,)))])
def test_what_is_not_scalar_is_not_converted(other):
    denoiser = GaussianDenoiser(vp(other.basis), spectrum=Spectrum.flat())
    with pytest.raises(InputError, match="scalar process"):
        Converted(denoiser, other)


def law():
    one = torch.ones(1, dtype=torch.float64)
    return MixtureLaw(B1, at(0.4, 0.6), at(-1.0, 1.2)[:, None], torch.stack([0.1 * one, 0.2 * one]))


@pytest.mark.parametrize("target", [edm(B1, 50.0), ve(B1), latent_flow(B1), trigonometric(B1)])
def test_a_converted_denoiser_is_that_of_the_target(target):
    """Data of two Gaussians, whose exact denoiser is known for every process."""
    source = PROCESSES["zero_snr"](B1)
    found, known = Converted(MixtureDenoiser(source, law()), target), MixtureDenoiser(target, law())
    x, t = torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(6, 1, 1), at(0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    assert torch.allclose(found(x, t), known(x, t), rtol=1e-10, atol=1e-12)


def test_every_rule_runs_a_converted_denoiser():
    target = edm(B1, 50.0)
    times = make_grid(target, 12, "rho", last=1e-3)
    start = 50 * torch.linspace(-1, 1, 5, dtype=torch.float64).reshape(5, 1, 1)
    runs = [
        sample(d, make_plan("heun", target, times), start, seeds=torch.arange(5)).x
        for d in (Converted(MixtureDenoiser(zero_snr(B1), law()), target), MixtureDenoiser(target, law()))
    ]
    assert torch.allclose(*runs, rtol=1e-9)


def test_a_target_with_more_noise_is_refused_before_anything_is_computed():
    denoiser = GaussianDenoiser(vp(B1, beta_max=5.0), spectrum=Spectrum.flat())
    with pytest.raises(InputError, match="knows no more noise"):
        Converted(denoiser, edm(B1))
    Converted(denoiser, edm(B1, 3.0))


def test_a_converted_denoiser_keeps_grid_and_twin():
    inner = GaussianDenoiser(vp(Pixel((8, 8))), spectrum=Spectrum.flat(0.0, 2.0))
    found = Converted(inner, edm(Pixel((8, 8)), 80.0)).on((4, 4))
    assert found.process.basis.size == (4, 4) == found.inner.process.basis.size
    assert found.gaussian().prior()[1].shape == (4, 4)
    assert found.to("meta").process.basis.device == "meta"
