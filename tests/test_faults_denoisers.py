"""Closed forms of denoisers, error laws and predictions that their contracts leave open."""

from __future__ import annotations

import math

import pytest
import torch

from models import SPECTRUM
from objects import make_process
from retrodict import InputError
from retrodict._random import white
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.mixture import MixtureLaw
from retrodict.denoisers.network import LEVELS, NetDenoiser
from retrodict.denoisers.predictions import PREDICTIONS, target, to_data
from retrodict.denoisers.spread import band_filters
from retrodict.denoisers.wrappers import Guided, Respread, SliceWise
from retrodict.nets import network
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond
from retrodict.processes.process import Process
from retrodict.processes.recipes import external
from retrodict.processes.scalar import vp


def at(*t):
    return torch.tensor(t, dtype=torch.float64)


def field(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Listening(torch.nn.Module):
    """A network that answers zero and keeps what it was shown."""

    def forward(self, x, level):
        self.seen = x
        return 0 * x[:, :1]


def shown(process, x0, z, t, y=None, spectrum=SPECTRUM):
    """What a network is shown of a state of x0: (B, inputs, *N)."""
    net = Listening()
    denoiser = NetDenoiser(network(net), process, spectrum)
    denoiser(process.corrupt(x0, t, z), t, Cond(image=y))
    return net.seen


# ---- what a network sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.25, 0.9])
def test_the_noise_that_a_network_sees_has_unit_variance(t):
    """On Gaussian data of its spectrum: that of the state, and that of the measurement; 64 x 1024 pixels, 5 sigma of
    the variance of white noise, doubled because the fields are colored.
    """
    basis = Fourier((32, 32))
    process = external(vp(basis), fourier(basis, noise_weights=(0.002, 0.002, 0.002)))  # L and S are near each other
    z = [white(range(64), name, 0, (1, 32, 32)).double() for name in ("data", "state")]
    x0 = basis.inverse(SPECTRUM.mean_on(basis) + SPECTRUM.on(basis).sqrt() * basis.forward(z[0]))
    y = process.pairing.simulate(x0, basis, torch.arange(64))
    seen = shown(process, x0, z[1], torch.full((64,), t, dtype=torch.float64), y)
    assert seen.shape[1] == 3
    for number in (1, 2):
        assert float(seen[:, number].square().mean()) == pytest.approx(1, abs=10 * math.sqrt(2 / 65536))


def test_an_image_that_is_the_mean_is_shown_as_zero():
    process = vp(Fourier((8, 8)))
    x0 = torch.full((1, 1, 8, 8), SPECTRUM.mean, dtype=torch.float64)
    assert float(shown(process, x0, torch.zeros_like(x0), at(0.5)).abs().max()) < 1e-9


def test_the_unit_of_a_network_is_the_std_over_the_whole_plane():
    """And the estimate it is shown is in that unit: of a state without noise it is (x - mean) / unit."""
    process, spectrum = vp(Fourier((6, 7))), Spectrum(0.5, (0.01, 1.0), (50.0, 0.1))
    denoiser = NetDenoiser(network(Listening()), process, spectrum)
    fy, fx = torch.fft.fftfreq(6).double(), torch.fft.fftfreq(7).double()
    f = torch.hypot(fy[:, None], fx[None]).clamp_min(0.5 / 7)
    slope = math.log(0.1 / 50) / math.log(100)
    assert denoiser.unit == pytest.approx(float((50 * (f / 0.01) ** slope).mean().sqrt()), rel=1e-6)
    x0 = field(1, 1, 6, 7)
    seen = shown(process, x0, 0 * x0, at(1e-9), spectrum=spectrum)
    assert torch.allclose(seen[:, :1], (x0 - 0.5) / denoiser.unit, atol=1e-6)


def test_the_clock_is_told_over_the_whole_plane_and_as_the_mean_of_channels():
    basis = Fourier((15, 16), (1.0, 1.0))
    v, power = 0.1 + basis.radius(), 3 + 0 * basis.radius()
    told = LEVELS["clock"].of(v[None, None].expand(1, 3, -1, -1), power, basis, 1.0)
    assert torch.allclose(told, LEVELS["clock"].of(v[None, None], power, basis, 1.0), rtol=1e-12)
    fy, fx = torch.fft.fftfreq(15).double(), torch.fft.fftfreq(16).double()
    f = torch.hypot(fy[:, None], fx[None])
    band = (f >= 0.16) & (f < 0.32)  # the fourth of six
    assert float(told[0, 4]) == pytest.approx(math.log(float((0.1 + f)[band].mean()) / 3), rel=1e-6)


# ---- error laws ------------------------------------------------------------------------------------------------------


def test_octaves_are_cut_at_halves_of_the_nyquist_of_the_finer_axis():
    """At Nyquist / 2 and / 4 the bands above and below have half of the power each."""
    basis = Fourier((64, 32), (0.5, 1.0))  # Nyquist of the finer axis is 1 / mm
    filters, f = band_filters(basis, 3), basis.radius()
    assert torch.allclose((filters[0] ** 2)[f == 0.5], at(0.5), atol=1e-12)
    assert torch.allclose((filters[1] ** 2)[f == 0.25], at(0.5), atol=1e-12)
    assert torch.allclose((filters[2] ** 2)[f < 0.25 / math.sqrt(2) - 1e-6], at(1.0), atol=1e-12)


@pytest.mark.parametrize("kind", ["function", "respread"])
def test_an_error_law_knows_the_measurement_that_was_shown(kind):
    """Var(u_0 | w, y) = 1 / (1/L + h^2/s^2 + a^2/S)."""
    basis = Fourier((6, 6))
    process, t = external(vp(basis), fourier(basis)), at(0.4)
    y = field(1, 1, 6, 6)
    if kind == "function":
        denoiser = FunctionDenoiser(lambda xt, t, y: xt, process, SPECTRUM, sees=True)
    else:
        denoiser = Respread(GaussianDenoiser(process, spectrum=SPECTRUM))
    m, n = process.moments(t), process.measurement
    known = 1 / (1 / SPECTRUM.on(basis) + m.h**2 / m.s2 + n.h**2 / n.s2)
    assert torch.allclose(denoiser.estimate(y, t, Cond(image=y)).spread.v, known, rtol=1e-10)


def test_guidance_extrapolates_and_knows_no_error():
    process = vp(Pixel((3,)))
    inner, free = (FunctionDenoiser(lambda xt, t, c=c: xt * 0 + c, process, Spectrum.flat()) for c in (2.0, 0.5))
    found = Guided(inner, free, 3.0).estimate(field(1, 1, 3), at(0.5))
    assert torch.allclose(found.mean, at(0.5 + 3 * 1.5))
    assert found.spread is None
    assert Guided(inner, free, 1.0).estimate(field(1, 1, 3), at(0.5)).spread is not None


def test_slices_of_a_volume_have_the_time_of_their_volume():
    """Two volumes at different times, each as if alone."""
    volumes = SliceWise(GaussianDenoiser(vp(Fourier((4, 4))), spectrum=SPECTRUM), depth=3)
    x, t = field(2, 1, 3, 4, 4), at(0.2, 0.9)
    alone = torch.cat([volumes(x[i : i + 1], t[i : i + 1]) for i in range(2)])
    assert torch.allclose(volumes(x, t), alone, atol=1e-12)


def test_an_answer_is_in_units_of_the_wiener_error():
    """D = Wiener(x) + c_out N_0 with N_0 = 1: c_out^2 is the mean of L s^2 / (h^2 L + s^2) over the whole plane."""
    process, x, t = vp(Fourier((5, 7))), field(1, 1, 5, 7), at(0.5)

    class One(torch.nn.Module):
        def forward(self, x, level):
            return torch.ones_like(x[:, :1])

    one, none = (NetDenoiser(network(net), process, SPECTRUM)(x, t) for net in (One(), Listening()))
    m, L = process.moments(t), SPECTRUM.on(process.basis)
    v = (L * m.s2 / (m.h**2 * L + m.s2))[0, 0]
    c_out = ((v[:, 0].sum() + 2 * v[:, 1:].sum()) / 35).sqrt()
    assert torch.allclose(one - none, c_out.expand(1, 1, 5, 7), rtol=1e-10)


def test_a_mixture_varies_within_and_between_its_components():
    law = MixtureLaw(Pixel((1,)), at(0.25, 0.75), at(0.0, 4.0)[:, None], at(1.0, 2.0)[:, None])
    mean, variance = law.moments()
    assert (float(mean), float(variance)) == (3.0, 0.25 * 1 + 0.75 * 2 + 0.25 * 9 + 0.75 * 1)


def test_an_exact_denoiser_in_numbers_is_itself():
    """u_0 = state w + measurement y + offset, with a mean that is not zero and a measurement."""
    basis = Fourier((6, 6))
    process, t = external(vp(basis), fourier(basis)), at(0.4)
    denoiser = GaussianDenoiser(process, 1 + basis.radius(), 2 + basis.radius())
    w, y = field(1, 1, 6, 6), field(1, 1, 6, 6, seed=1)
    a = denoiser.linear(t)
    expected = a.state * basis.forward(w) + a.measurement * basis.forward(y) + a.offset
    assert torch.allclose(denoiser(w, t, Cond(image=y)), basis.inverse(expected), atol=1e-10)


# ---- predictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vp", "fourier", "measured"])
def test_predictions_are_what_their_names_say(name):
    """From u_0 and eps alone: the score is a gradient, the velocity the motion of h u_0 + s eps, the others by name."""
    process, t, e = make_process(name), at(0.6), 1e-5
    u0, eps = process.basis.forward(field(1, 1, 8, 8)), process.basis.forward(field(1, 1, 8, 8, seed=1))

    def state(time):
        m = process.moments(time)
        return m.h * u0 + m.s2.sqrt() * eps

    h, s, G2 = process.moments(t).h, process.moments(t).s2.sqrt(), process.rates(t).G2
    known = {"data": u0, "eps": eps, "kappa": s * eps, "score": -eps / s, "whitened": -G2 * eps / s}
    known |= {"velocity": (state(t + e) - state(t - e)) / (2 * e), "q": (h * eps - s * u0) / (h**2 + s**2).sqrt()}
    c, sine = process.basis.forward(field(1, 1, 8, 8, seed=2)), (1 - h**2).sqrt()
    known |= {"residual": c - u0, "resnoise": eps + s / 2 * (c - u0)}
    known |= {"shift": state(t) + process.moments(t).k * c - u0, "angle": sine * (c - u0) + h * s * eps / sine}
    assert set(known) == set(PREDICTIONS)
    for kind, value in known.items():
        if PREDICTIONS[kind].turns and process.grows(t):
            continue
        assert torch.allclose(target(kind, process, u0, state(t), t, c), value, rtol=1e-6, atol=1e-6), kind


def test_a_rate_is_not_asked_of_a_stopped_clock():
    """s^2 = min(t, 1/2): no noise is taken up after t = 1/2, and G^2 = 0 would be divided by."""
    process = Process(lambda basis: lambda t: (1 + 0 * t, 0 * t, t.clamp(max=0.5)), Pixel((2,)))
    u = field(1, 1, 2)
    for kind, prediction in PREDICTIONS.items():
        if prediction.turns:
            continue  # the gain is 1
        assert bool(torch.isfinite(to_data(kind, process, u, u, at(0.3), u)).all())
        if prediction.rates:
            with pytest.raises(InputError, match=r"G\^2 = 0"):
                to_data(kind, process, u, u, at(0.7), u)
