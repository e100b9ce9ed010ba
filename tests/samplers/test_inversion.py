"""BDIA and EDICT: golden numbers, round trips, what is refused, and images between images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from retrodict import InputError, interpolate, invert, make_grid, make_plan, regenerate, round_trip
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.processes.bridges import brownian_bridge
from retrodict.processes.flow import flow_weights
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond
from retrodict.processes.recipes import external
from retrodict.processes.scalar import ve, vp
from retrodict.samplers.card import gaussian_card
from retrodict.samplers.loop import sample, steps

F64 = torch.float64
L3 = torch.tensor([0.01, 0.25, 1.0], dtype=F64)

GOLDEN = [
    ("ve", 10, 1.0, [1.498830438e-03, 7.779489053e-03, 1.460632467e-02]),
    ("ve", 10, 0.5, [1.374319792e-03, 6.541659499e-03, 1.283765900e-02]),
    ("ve", 20, 1.0, [1.340820484e-03, 6.584228101e-03, 1.308901070e-02]),
    ("ve", 20, 0.5, [1.241938308e-03, 6.161268399e-03, 1.230212547e-02]),
    ("vp", 10, 1.0, [1.103222175e-01, 5.120845265e-01, 9.880633516e-01]),
    ("vp", 20, 1.0, [1.031630205e-01, 5.061988313e-01, 1.000100597e00]),
]


def setting(kind, n):
    if kind == "vp":
        process = vp(Pixel((3,)))
        return process, make_grid(process, n, "logsnr", last=1e-3)
    i = torch.arange(n + 1, dtype=F64) / n
    sigma = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = (sigma / 0.002).log() / torch.tensor(80 / 0.002, dtype=F64).log()
    times[0], times[-1] = 1.0, 0.0
    return ve(Pixel((3,)), 0.002, 80.0), times


def mixture(process=None):
    process = process or vp(Pixel((4,)))
    m = torch.tensor([1.0, 0.5, -0.2, 0.8], dtype=F64)
    spectra = torch.tensor([[0.2, 0.1, 0.3, 0.05], [0.1, 0.3, 0.1, 0.2]], dtype=F64)
    law = MixtureLaw(process.basis, torch.tensor([0.3, 0.7], dtype=F64), torch.stack([m, -m]), spectra)
    return MixtureDenoiser(process, law), torch.stack([m + 0.2, m * 0, -2 * m])[:, None]


@pytest.mark.parametrize(("kind", "n", "gamma", "known"), GOLDEN)
def test_golden_multipliers(kind, n, gamma, known):
    """G.1 and G.2, printed to ten digits."""
    process, times = setting(kind, n)
    plan = make_plan("bdia", process, times, L3, gamma=gamma)
    gain = gaussian_card(plan, L3).start
    torch.testing.assert_close(gain, torch.tensor(known, dtype=F64), rtol=1e-8, atol=0)
    assert plan.nfe == n


def test_order_and_limits():
    """gamma = 1 is of order 2, 0.5 of order 1, 0 is DDIM; in the Gaussian form Gaussian data are exact."""
    exact = torch.tensor([0.1005448991, 0.5000905500, 1.0], dtype=F64)

    def error(n, **options):
        process, times = setting("vp", n)
        return (gaussian_card(make_plan("bdia", process, times, L3, **options), L3).start - exact).abs()

    assert float((error(80) / error(160))[1].log2()) == pytest.approx(2.0, abs=0.15)
    assert float((error(80, gamma=0.5) / error(160, gamma=0.5))[1].log2()) == pytest.approx(0.9, abs=0.25)
    assert error(3, form="gaussian").max() < 1e-9
    process, times = setting("vp", 7)
    one, other = (gaussian_card(make_plan(*a), L3).start for a in (("bdia", process, times), ("ddim", process, times)))
    assert (make_plan("bdia", process, times, gamma=0.0)[3].keep[1] == 0).all()
    zero = gaussian_card(make_plan("bdia", process, times, gamma=0.0), L3).start
    torch.testing.assert_close(zero, other, rtol=1e-12, atol=0)
    assert (one - other).abs().max() > 1e-3


def test_flow_weights_are_the_gaussian_flow_both_ways():
    """Up and down again with D of the Gaussian law is the identity, also into an erased coefficient."""
    process = fourier(Fourier((6, 6)))
    spectrum = 0.05 / (0.05 + process.basis.radius()) ** 2
    denoiser = GaussianDenoiser(process, 0.0, spectrum)
    w = process.basis.forward(torch.randn(1, 1, 6, 6, dtype=F64, generator=torch.Generator().manual_seed(0)))
    t, s = (torch.tensor([x], dtype=F64) for x in (0.3, 1.0))

    def moved(w, t, s):
        keep, data = flow_weights(process, t, s, spectrum)
        return keep * w + data * process.basis.forward(denoiser(process.basis.inverse(w), t))

    up = moved(w, t, s)
    a, b = process.moments(t), process.moments(s)
    known = w * ((b.h**2 * spectrum + b.s2) / (a.h**2 * spectrum + a.s2)).sqrt()
    torch.testing.assert_close(up, known, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(moved(up, s, t), w, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [{}, {"form": "gaussian"}, {"strength": 0.9}, {"method": "edict"}],
    ids=str,
)
def test_round_trip(options):
    """An image comes back to 1e-12; the noise of an image is not that of another."""
    denoiser, x = mixture()
    most = 1e-11 if options.get("method") == "edict" else 1e-12  # its mixing amplifies round-off at few steps
    assert round_trip(denoiser, x, steps=20, **options).max() < most
    latent = invert(denoiser, x, steps=4, **options)
    assert latent.nfe == (len(latent.times) - 1) * (2 if latent.method == "edict" else 1)
    assert (latent.first[0] - latent.first[1]).abs().max() > 0.1


@pytest.mark.parametrize("steep", [False, True])
def test_round_trip_in_a_basis_with_a_measurement(steep):
    """A structured clock, the image given beside the chain."""
    basis = Fourier((6, 6))
    chain = fourier(basis) if steep else vp(basis)
    process = chain if steep else external(chain, fourier(basis))
    denoiser = GaussianDenoiser(process, 0.0, 0.05 / (0.05 + basis.radius()) ** 2)
    x, y = torch.randn(2, 2, 1, 6, 6, dtype=F64, generator=torch.Generator().manual_seed(3))
    options = {} if steep else {"cond": Cond(image=y)}
    assert round_trip(denoiser, x, form="gaussian", steps=12, **options).max() < 1e-12


def test_single_precision():
    """1e-4 in float32, in which networks run."""
    denoiser, x = mixture()
    assert round_trip(denoiser, x.float(), steps=20).max() < 1e-4


def test_regenerate_is_the_rule():
    """From the first noise and DDIM's second state a latent runs as the plan does."""
    denoiser, x = mixture()
    latent = invert(denoiser, x, steps=5)
    plan, end = make_plan("bdia", denoiser.process, latent.times), latent.times[-1:]
    second = next(iter(steps(denoiser, plan, latent.first, seeds=torch.arange(3)))).states[0]
    ran = sample(denoiser, plan, latent.first, seeds=torch.arange(3)).x  # VP on pixels: the state is its image
    m, spectrum = denoiser.process.moments(end), denoiser.prior()[1]
    mean, psi = denoiser.prior()[0], (spectrum / (m.h**2 * spectrum + m.s2)).sqrt()
    known = mean + psi * (ran - m.h * mean)
    torch.testing.assert_close(regenerate(denoiser, replace(latent, second=second)), known, rtol=1e-10, atol=1e-12)


def test_interpolation():
    """The ends are the images; between independent Gaussian images the spectrum is that of the data."""
    denoiser, x = mixture()
    between = interpolate(denoiser, x[:1], x[2:], 3, steps=8)
    assert between.shape == (3, 1, 1, 4)
    assert (between[0] - x[:1]).abs().max() < 1e-12
    assert (between[-1] - x[2:]).abs().max() < 1e-12
    process = vp(Pixel((64,)))
    spectrum = torch.linspace(0.2, 3.0, 64, dtype=F64)
    data = GaussianDenoiser(process, 0.5, spectrum)
    z = torch.randn(2, 400, 1, 64, dtype=F64, generator=torch.Generator().manual_seed(0))
    a, b = 0.5 + spectrum.sqrt() * z
    middle = interpolate(data, a, b, 3, form="gaussian", steps=3)[1]
    ratio = (middle - 0.5).square().mean((0, 1)) / spectrum
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.02)
    assert ratio.max() < 1.4


def test_refusals():
    """By name, with what to use instead."""
    denoiser, x = mixture()
    bridged = GaussianDenoiser(brownian_bridge(Pixel((4,))), 0.0, torch.ones(4, dtype=F64))
    cases = [
        (denoiser, {"method": "ddim"}, "method"),
        (denoiser, {"form": "other"}, "form"),
        (denoiser, {"strength": 0.0}, "strength"),
        (denoiser, {"strength": 0.5, "steps": 60}, "amplifies round-off"),
        (denoiser, {"times": torch.tensor([1.0, 0.5, 0.0], dtype=F64)}, "no noise"),
        (denoiser, {"times": torch.tensor([0.5, 1.0, 0.1], dtype=F64)}, "falling"),
        (bridged, {"cond": Cond(image=x)}, "bridge"),
    ]
    for one, options, match in cases:
        with pytest.raises(InputError, match=match):
            invert(one, x, **options)
    with pytest.raises(InputError, match="amplifies"):
        invert(denoiser, x.float(), strength=0.8, steps=50)
    with pytest.raises(InputError, match="at least 2"):
        interpolate(denoiser, x, x, 1)
    with pytest.raises(InputError, match="bdia gamma"):
        make_plan("bdia", denoiser.process, make_grid(denoiser.process, 4), gamma=1.5)
    with pytest.raises(InputError, match="spectrum"):
        make_plan("bdia", denoiser.process, make_grid(denoiser.process, 4), form="gaussian")
