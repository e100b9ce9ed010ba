"""Any denoiser, any channels, complex images, any device, one observation law."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from objects import curves, fits, make_process, restoring_process
from retrodict import InputError, NotCalibratedError, SamplingOptions, gate, restore_batch
from retrodict.bases import ChannelMix, Cosine, Fourier, Pixel, Stack, Wavelet
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import Estimate, FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.network import LEVELS, NetDenoiser, channels_in, channels_out
from retrodict.denoisers.predictions import PREDICTIONS
from retrodict.denoisers.spread import SpectralSpread
from retrodict.denoisers.spread_scale import SpreadScale
from retrodict.denoisers.wrappers import Fused, Guided, Respread, SliceWise, Wrapper
from retrodict.nets import UNet, network
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import (
    Cond,
    Moments,
    Pairing,
    clock_ratio,
    fuse,
    log_snr_step,
    noise_like,
    wiener,
)
from retrodict.processes.process import Process
from retrodict.processes.recipes import external
from retrodict.processes.scalar import vp
from retrodict.processes.wavelet import WAVELET_PROCESSES
from retrodict.samplers import RULES, make_plan, sample, start_state
from retrodict.samplers.card import gaussian_card
from retrodict.training.losses import Example, denoising_loss, simulate

SPECTRUM = Spectrum.power_law(0.3, 20.0, 0.05, 3.0)
T2 = torch.tensor([0.3, 0.8], dtype=torch.float64)


def net_for(process, channels=1, bands=0, level="rms", **options):
    """A random network of the right number of channels."""
    torch.manual_seed(1)
    net = UNet(
        in_channels=channels_in(process, channels),
        out_channels=channels_out(process, channels, bands),
        level_features=LEVELS[level].features,
        width=8,
        multipliers=(1, 2),
        padding="circular",
    ).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.05)
    return NetDenoiser(net, process, spectrum=SPECTRUM, bands=bands, level=level, **options)


def field(shape, seed=0, complex=False):
    like = torch.zeros(*shape, dtype=torch.complex128 if complex else torch.float64)
    return noise_like(like, torch.arange(shape[0]) + 100 * seed, "field", 0)


# ---- one observation law --------------------------------------------------------------------------------------------


def of(h, s2):
    return Moments(*(torch.tensor([x], dtype=torch.float64) for x in (h, 0.0, s2)))


LIMITS = {"clean": of(0.5, 0.0), "noisy": of(0.5, 0.3), "erased": of(0.0, 0.3), "nothing": of(0.0, 0.0)}


@pytest.mark.parametrize("a", LIMITS)
@pytest.mark.parametrize("b", LIMITS)
def test_fusing_two_observations_is_updating_twice(a, b):
    """Whatever their limits; two noise-free ones agree, so either will do."""
    L, truth = torch.tensor([2.0], dtype=torch.float64), torch.tensor([[[0.7]]], dtype=torch.float64)
    m, n = LIMITS[a], LIMITS[b]
    u, y = (p.h * truth + p.s2.sqrt() * z for p, z in ((m, 0.4), (n, -0.9)))
    g, v = wiener(m, L)
    mean = g * u
    g, v = wiener(n, v)
    mean = mean + g * (y - n.h * mean)
    both, law = fuse(u, m, y, n)
    gain, variance = wiener(law, L)
    assert torch.allclose(gain * both, mean, atol=1e-12)
    assert torch.allclose(variance, v, atol=1e-12)


def test_the_limits_of_steps_between_observations():
    clean, noisy, erased, nothing = LIMITS.values()
    assert float(clock_ratio(clean, noisy)) == 0.0
    assert float(clock_ratio(noisy, erased)) == 0.0
    assert float(clock_ratio(erased, erased)) == 1.0
    assert float(clock_ratio(clean, clean)) == 1.0
    assert float(log_snr_step(noisy, clean)) == math.inf
    assert float(log_snr_step(erased, noisy)) == math.inf
    assert float(log_snr_step(clean, clean)) == 0.0
    assert float(log_snr_step(erased, nothing)) == 0.0
    assert float(log_snr_step(of(0.5, 0.3), of(0.7, 0.3))) == pytest.approx(math.log(0.7 / 0.5))


def test_a_likelihood_of_a_measurement_is_that_of_dense_gaussians():
    process = restoring_process("scalar", (4,))
    basis, m = process.basis, process.measurement
    x, y = field((2, 1, 4), 1), field((2, 1, 4), 2)
    eye = torch.eye(4, dtype=torch.float64)
    gain, cov = (basis.inverse(t * basis.forward(eye)).T for t in (m.h, m.s2))
    law = torch.distributions.MultivariateNormal(x[:, 0] @ gain.T, cov)
    assert torch.allclose(process.pairing.log_likelihood(x, y, basis), law.log_prob(y[:, 0]), rtol=1e-10)
    residual = y[:, 0] - x[:, 0] @ gain.T
    chi2 = (residual * torch.linalg.solve(cov, residual.T).T).sum(1) / 4
    assert torch.allclose(process.pairing.misfit(x, y, basis), chi2, rtol=1e-10)


def test_the_truth_has_a_misfit_of_one():
    process = fourier(Fourier((32, 32)))
    x = field((40, 1, 32, 32), 3)
    y = process.pairing.simulate(x, process.basis, torch.arange(40))
    found = process.pairing.misfit(x, y, process.basis)
    assert float(found.mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / (40 * 1024)))


def test_an_external_process_without_a_law_refuses_to_train_without_pairs():
    """Today's fault: it trained with the clean image as its condition."""
    process = replace(vp(Fourier((8, 8))), pairing=Pairing("external"))
    denoiser, x0, seeds = net_for(process), field((2, 1, 8, 8)), torch.tensor([1, 2])
    with pytest.raises(InputError, match="does not know the law"):
        denoising_loss(denoiser, x0, seeds)
    y = x0 + 1
    _, cond = simulate(process, x0, T2, seeds, y)
    assert torch.equal(cond.image, y)
    assert bool(torch.isfinite(denoising_loss(denoiser, Example(x0, y), seeds).total).all())


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_prediction_knows_what_the_measurement_adds_to_its_error(kind):
    """The error law is v (1 - kappa a) whatever the network predicts; today plain predictions leave the factor out."""
    process = external(vp(Fourier((8, 8))), fourier(Fourier((8, 8))))
    denoiser = net_for(process, predicts=kind)
    exact = GaussianDenoiser(process, spectrum=SPECTRUM)
    xt, cond = field((2, 1, 8, 8)), Cond(field((2, 1, 8, 8), 1))
    found, known = denoiser.estimate(xt, T2, cond), exact.estimate(xt, T2, cond)
    assert torch.allclose(found.spread.v, known.spread.v, rtol=1e-12)


# ---- any denoiser ---------------------------------------------------------------------------------------------------


def restorations(denoiser, y, **options):
    return restore_batch(denoiser, y, SamplingOptions(samples=3, steps=3, margin=4, keep_samples=True, **options))


def test_the_same_function_in_any_dress_is_the_same_restoration():
    """A Gaussian denoiser, the function of it, and a mixture of one component."""
    process = fourier(Fourier((16, 16)))
    exact = GaussianDenoiser(process, spectrum=SPECTRUM)
    function = FunctionDenoiser(lambda xt, t: exact.on(xt.shape[2:])(xt, t), process, SPECTRUM)
    y = field((2, 1, 16, 16))
    known = restorations(exact, y)
    assert known.kind == "posterior"
    assert torch.allclose(restorations(function, y).samples, known.samples, atol=1e-12)
    basis = process.on((24, 24)).basis
    law = MixtureLaw(basis, torch.ones(1).double(), SPECTRUM.mean_on(basis)[None], SPECTRUM.on(basis)[None])
    mixture = MixtureDenoiser(process.on((24, 24)), law)
    assert torch.allclose(restorations(mixture, y).samples, known.samples, atol=1e-10)


class Plain(nn.Module):
    """A module that knows nothing of this package."""

    def __init__(self, inputs=2, outputs=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular")

    def forward(self, x, level):
        return self.conv(x) + level[:, :1, None, None]


def test_a_plain_module_is_a_network_through_one_adapter():
    process = fourier(Fourier((16, 16)))
    adapted = network(Plain(), stride=5, receptive_field=1, circular=True)
    denoiser = NetDenoiser(adapted, process, SPECTRUM)
    assert denoiser.multiple == 5
    y = field((1, 1, 16, 16)).float()
    whole = restorations(denoiser, y, uncertainty=False)
    assert torch.allclose(restorations(denoiser.tiled(10), y, uncertainty=False).samples, whole.samples, atol=1e-5)
    assert NetDenoiser(Plain(), process, SPECTRUM).multiple == 1
    with pytest.raises(InputError, match="receptive_field"):
        NetDenoiser(Plain(), process, SPECTRUM).tiled(10)


def test_wrappers_go_through_restoring_and_the_gate():
    process = external(vp(Fourier((16, 16))), fourier(Fourier((16, 16))))
    inner = net_for(process, bands=2)
    y = field((1, 1, 16, 16))
    pair = [restorations(d, y, uncertainty=False) for d in (Respread(inner, "wiener"), inner.with_spread("wiener"))]
    assert torch.equal(pair[0].samples, pair[1].samples)
    with pytest.raises(InputError, match="does not know its error law"):
        restorations(Respread(inner, "none"), y, uncertainty=False)
    assert gate(inner, SamplingOptions()).passed
    for wiener_law in (Respread(inner, "wiener"), inner.with_spread("wiener")):
        assert "not that filter" in gate(wiener_law, SamplingOptions()).reason
    free = FunctionDenoiser(lambda xt, t: xt, vp(Fourier((16, 16))), SPECTRUM)
    assert torch.equal(restorations(Guided(inner, free), y).samples, restorations(inner, y).samples)
    with pytest.raises(NotCalibratedError, match="not calibrated"):
        restorations(Guided(inner, free, 1.5), y, rule="sde_dpmpp2m")


def test_a_fused_measurement_is_the_exact_posterior_in_one_call():
    """Identity I5 for Gaussian data: state, terminal measurement and a second measurement of another law."""
    process = fourier(Fourier((8, 8)))
    exact = GaussianDenoiser(process, spectrum=SPECTRUM)
    basis, second = process.basis, vp(process.basis).moments(T2[:1])
    x, y = field((2, 1, 8, 8)), field((2, 1, 8, 8), 1)
    t = torch.tensor([0.6, 0.6], dtype=torch.float64)
    found = Fused(exact, y, second).estimate(x, t)
    first = exact.estimate(x, t)
    gain, v = wiener(second, first.spread.v)
    d = basis.forward(first.mean)
    known = basis.inverse(d + gain * (basis.forward(y) - second.h * d))
    assert torch.allclose(found.mean, known, atol=1e-10)
    assert torch.allclose(found.spread.v, v, rtol=1e-10)


def test_no_law_and_no_twin_give_no_uncertainty():
    y = field((1, 1, 16, 16))
    unknown = replace(vp(Fourier((16, 16))), pairing=Pairing("external"))
    with pytest.raises(NotCalibratedError, match="law of the measurement is not known"):
        restorations(net_for(unknown), y)
    bare = FunctionDenoiser(lambda xt, t: xt, fourier(Fourier((16, 16))))
    with pytest.raises(NotCalibratedError, match="no spectrum"):
        restorations(bare, y, rule="ancestral")
    assert restorations(bare, y, rule="ancestral", uncertainty=False).kind == "point"


def test_a_grid_that_is_no_multiple_of_what_the_denoiser_needs_is_filled_and_cropped():
    denoiser = net_for(fourier(Fourier((16, 16))))
    assert denoiser.multiple == 2
    assert restorations(denoiser, field((1, 1, 15, 13)), uncertainty=False).mean.shape == (1, 1, 15, 13)


def test_what_a_denoiser_cannot_take_is_refused_by_name():
    process = fourier(Fourier((16, 16)))
    denoiser = GaussianDenoiser(process, spectrum=Spectrum.stack([SPECTRUM, SPECTRUM]))
    with pytest.raises(InputError, match="1 channels; expected 2"):
        restorations(denoiser, field((1, 1, 16, 16)))
    with pytest.raises(InputError, match="complex images; expected real"):
        restorations(net_for(process), field((1, 1, 16, 16), complex=True))
    with pytest.raises(InputError, match="Denoiser, such as"):
        restorations(nn.Identity(), field((1, 1, 16, 16)))
    with pytest.raises(InputError, match="no denoiser here reads a vector"):
        denoiser(field((1, 2, 16, 16)), T2[:1], Cond(vector=torch.ones(1, 3)))
    with pytest.raises(InputError, match="Did you mean 'clock'"):
        replace(net_for(process), level="cloc")


# ---- channels and complex images -------------------------------------------------------------------------------------


def test_three_channels_are_three_images():
    """With a spectrum of its own each, a channel of the restoration is the restoration of the channel."""
    parts = [Spectrum.power_law(m, a, 0.05, 3.0) for m, a in ((0.3, 20.0), (-1.0, 5.0), (2.0, 60.0))]
    process = fourier(Fourier((16, 16)))
    whole = GaussianDenoiser(process, spectrum=Spectrum.stack(parts))
    x, t = field((2, 3, 16, 16)), torch.tensor([0.4, 1.0], dtype=torch.float64)
    found = whole.estimate(x, t)
    for c, part in enumerate(parts):
        single = GaussianDenoiser(process, spectrum=part).estimate(x[:, c : c + 1], t)
        assert torch.allclose(found.mean[:, c : c + 1], single.mean, atol=1e-12)
        assert torch.allclose(found.spread.variance()[:, c : c + 1], single.spread.variance(), rtol=1e-12)
    result = restorations(whole, x)
    assert result.mean.shape == result.sd.shape == (2, 3, 16, 16)
    assert result.kind == "posterior"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("complex", [False, True])
def test_networks_learn_from_and_restore_any_channels(channels, complex):
    process = fourier(Fourier((16, 16), complex=complex))
    spectrum = Spectrum.stack([SPECTRUM] * 3) if channels == 3 else SPECTRUM
    denoiser = replace(net_for(process, channels, bands=2), spectrum=spectrum, unit=None)
    x0 = field((2, channels, 16, 16), complex=complex)
    loss = denoising_loss(denoiser, x0, torch.tensor([3, 4]))
    loss.total.mean().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in denoiser.net.parameters())
    result = restorations(denoiser, x0)
    assert result.mean.dtype == x0.dtype
    assert result.sd.dtype == torch.float64
    assert result.samples.shape == (3, 2, channels, 16, 16)
    options = SamplingOptions(samples=3, steps=3, margin=4, keep_samples=True)
    alone = restore_batch(denoiser, x0[1:], options, items=[1])
    assert torch.equal(alone.samples[:, 0], result.samples[:, 1])


def test_complex_gaussian_data_come_back_with_the_posterior_law():
    """The dense Kalman filter of real and imaginary parts, which are independent."""
    process = fourier(Fourier((4,), complex=True))
    basis, m = process.basis, process.measurement
    L = SPECTRUM.on(basis)
    y = field((1, 1, 4), complex=True)
    found = GaussianDenoiser(process, spectrum=SPECTRUM).estimate(y, torch.ones(1).double())
    eye = torch.eye(4, dtype=torch.complex128)
    A, S, P = (basis.inverse(x * basis.forward(eye)).T for x in (m.h, m.s2, L))
    mean = torch.full((4,), 0.3, dtype=torch.complex128)
    kalman = P @ A.conj().T @ torch.linalg.inv(A @ P @ A.conj().T + S)
    assert torch.allclose(found.mean[0, 0], mean + kalman @ (y[0, 0] - A @ mean), atol=1e-10)
    covariance = P - kalman @ A @ P
    assert torch.allclose(found.spread.variance()[0, 0], covariance.diagonal().real, rtol=1e-10)
    draws = field((20000, 1, 1, 4), 5, complex=True).transpose(0, 1)
    e = found.spread.draw(draws.expand(1, 20000, 1, 4))
    assert float(e.real.var()) == pytest.approx(float(covariance.diagonal().real.mean()), rel=0.05)


def test_the_posterior_of_complex_images_is_exact_for_matched():
    """Eight members of many pixels: spread of real and of imaginary part against the exact posterior variance."""
    process = fourier(Fourier((64, 64), complex=True))
    denoiser = GaussianDenoiser(process, spectrum=SPECTRUM)
    y = process.pairing.simulate(field((1, 1, 64, 64), complex=True), process.basis, torch.tensor([5]))
    result = restore_batch(denoiser, y, SamplingOptions(samples=16, steps=2, margin=0))
    exact = float(denoiser.estimate(y, torch.ones(1).double()).spread.variance().mean())
    assert float((result.sd**2).mean()) == pytest.approx(exact, rel=0.03)


def test_correlated_channels_are_independent_in_a_rotated_basis():
    """Gray noise on RGB: the measurement shares its noise among channels; the dense Kalman filter of all pixels."""
    m = torch.tensor([[1, 1, 1], [1, -1, 0], [1, 1, -2]], dtype=torch.float64)
    m = m / m.norm(dim=1, keepdim=True)
    basis = ChannelMix.of(Pixel((2,)), m)
    noise = torch.tensor([3.0, 0.1, 0.1], dtype=torch.float64).reshape(3, 1).expand(3, 2)
    process = Process(lambda b: lambda t: (1 + 0 * t, 0 * t, t * noise), basis)
    mean, prior = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([[2.0], [1.0], [0.5]]).double().expand(3, 2)
    y = field((1, 3, 2))
    found = GaussianDenoiser(process, mean, prior)(y, torch.ones(1).double())[0]
    P, S = (m.T @ torch.diag(d[:, 0]) @ m for d in (prior, noise))
    assert torch.allclose(found, P @ torch.linalg.inv(P + S) @ y[0], atol=1e-12)
    assert torch.allclose(basis.inverse(basis.forward(y)), y, atol=1e-14)
    assert torch.allclose(basis.forward(y).norm(), y.norm(), rtol=1e-12)
    with pytest.raises(InputError, match="orthonormal rows"):
        ChannelMix.of(Pixel((2,)), 2 * m)


@pytest.mark.parametrize("kind", ["terminal", "external"])
def test_a_volume_with_a_prior_for_planes_is_its_slices(kind):
    """The same law slice by slice, in the loop and at the gate."""
    plane = fourier(Fourier((8, 8)))
    plane = plane if kind == "terminal" else external(vp(Fourier((8, 8))), plane)
    inner = GaussianDenoiser(plane, spectrum=SPECTRUM)
    volume = SliceWise(inner, depth=3, pitch=2.0)
    x, y = field((2, 1, 3, 8, 8)), field((2, 1, 3, 8, 8), 1)
    found = volume.estimate(x, T2, volume.process.pairing.cond(y))
    for z in range(3):
        known = inner.estimate(x[:, :, z], T2, plane.pairing.cond(y[:, :, z]))
        assert torch.allclose(found.mean[:, :, z], known.mean, atol=1e-12)
        assert torch.allclose(found.spread.variance()[:, :, z], known.spread.variance(), rtol=1e-12)
    result = restore_batch(volume, y, SamplingOptions(samples=200, steps=2, margin=0, chunk=50))
    assert result.kind == "posterior"
    exact = inner.estimate(y[:, :, 0], torch.ones(2).double(), plane.pairing.cond(y[:, :, 0])).spread
    if kind == "terminal":
        assert float((result.sd**2).mean()) == pytest.approx(float(exact.variance().mean()), rel=0.05)


def test_variances_of_rotated_channels_are_said_of_the_channels_of_the_image():
    """A turn by 45 degrees: both image channels carry the mean of both variances, in draws and in words."""
    half = math.sqrt(0.5)
    basis = ChannelMix.of(Fourier((16, 16)), [[half, half], [half, -half]])
    v = torch.tensor([1.0, 0.01]).double().reshape(1, 2, 1, 1).expand(1, 2, *basis.shape)
    spread = SpectralSpread(basis, v)
    assert torch.allclose(spread.variance()[0, :, 0, 0], torch.tensor([0.505, 0.505]).double(), rtol=1e-12)
    draws = spread.draw(field((400, 2, 16, 16))[None])
    assert torch.allclose(draws.var((0, 2, 3)), torch.tensor([0.505, 0.505]).double(), rtol=0.05)
    process = Process(lambda b: lambda t: (1 + 0 * t, 0 * t, t), basis)
    same = GaussianDenoiser(process, spectrum=SPECTRUM)  # one row for all channels: the rotation changes nothing
    plain = GaussianDenoiser(Process(process.family, basis.single), spectrum=SPECTRUM)
    x = field((2, 2, 16, 16))
    assert torch.allclose(same(x, T2), plain(x, T2), atol=1e-12)


def test_data_have_one_spectrum_whatever_is_built_round_a_basis():
    for plane in (Pixel((8, 8)), Fourier((8, 8)), Cosine((8, 8))):
        known = SPECTRUM.on(plane)
        assert torch.equal(SPECTRUM.on(Stack.of(plane, 40, 5.0)), known.expand(40, *known.shape))
        assert torch.equal(SPECTRUM.on(ChannelMix.of(plane, torch.eye(3))), known)


def test_a_function_that_never_sees_the_measurement_gets_no_uncertainty():
    """It may be the exact denoiser of the prior: it is no posterior, and has no twin that is one."""
    process = external(vp(Fourier((16, 16))), fourier(Fourier((16, 16))))
    prior = GaussianDenoiser(vp(Fourier((24, 24))), spectrum=SPECTRUM)
    blind = FunctionDenoiser(prior, process, SPECTRUM)
    with pytest.raises(NotCalibratedError):
        restorations(blind, field((1, 1, 16, 16)))


@pytest.mark.parametrize("complex", [False, True])
def test_the_gate_judges_a_wrapper_as_what_it_is(complex):
    process = fourier(Fourier((16, 16), complex=complex))
    exact, options = GaussianDenoiser(process, spectrum=SPECTRUM), SamplingOptions()
    known = gate(exact, options)
    assert known.passed
    assert gate(Respread(exact, "wiener"), options) == known
    law = vp(process.basis).moments(T2[:1])
    fused = gate(Fused(exact, field((1, 1, 16, 16), complex=complex), law), options)
    assert fused.passed
    assert fused.variance == pytest.approx(1, abs=1e-9)
    assert not gate(Respread(exact, "wiener"), SamplingOptions(rule="ancestral")).passed
    assert not gate(
        Fused(exact, field((1, 1, 16, 16), complex=complex), law), SamplingOptions(rule="euler", steps=8)
    ).passed


@dataclass(frozen=True)
class Shifted(Wrapper):
    """Linear and not diagonal: the error of a neighbor is added."""

    weight: float = 0.0

    def estimate(self, xt, t, cond=Cond()):
        mean, spread = self.inner.estimate(xt, t, cond)
        return Estimate(mean + self.weight * (xt - mean).roll(1, -1), spread)


@pytest.mark.parametrize("dead", [False, True])
def test_the_gate_checks_what_is_not_diagonal_as_matrices(dead):
    """A right one passes, a wrong one does not; with an instrument that lets noise-free and erased pixels through."""
    process = fourier(Fourier((8, 8)))
    if dead:
        record = curves()
        record["mtf"].update(frequency=[0.0, 0.2, 0.3, 0.8], value=[1.0, 1.0, 0.0, 0.0])
        record["nps"].update(frequency=[0.0, 0.1, 0.11, 0.8], value=[0.0, 0.0, 1.0, 1.0])
        process = PROCESSES["measured"](Fourier((8, 8)), **record)
    exact = GaussianDenoiser(process, spectrum=SPECTRUM)
    options = SamplingOptions(steps=2)
    assert gate(Shifted(exact), options).passed
    assert not gate(Shifted(exact, 0.3), options).passed
    wide = process.on((32, 32))
    big = GaussianDenoiser(wide, SPECTRUM.mean_on(wide.basis), SPECTRUM.on(wide.basis))
    assert "too large" in gate(Shifted(big), options).reason


def test_the_worst_channel_decides():
    """A channel that fails alone fails among others."""
    weak = Spectrum.power_law(0.0, 0.2, 0.05, 3.0)
    process = external(vp(Fourier((16, 16))), fourier(Fourier((16, 16))))
    options = SamplingOptions(rule="sde_dpmpp2m", steps=40)
    alone = [gate(GaussianDenoiser(process, spectrum=s), options) for s in (weak, SPECTRUM)]
    both = gate(GaussianDenoiser(process, spectrum=Spectrum.stack([weak, SPECTRUM])), options)
    assert both.variance == pytest.approx(max((a.variance for a in alone), key=lambda v: abs(v - 1)), rel=1e-9)


def test_noise_free_coefficients_are_constraints_and_no_part_of_a_likelihood():
    record = curves()
    record["nps"].update(frequency=[0.0, 0.1, 0.11, 0.8], value=[0.0, 0.0, 1.0, 1.0])
    process = PROCESSES["measured"](Fourier((16, 16)), **record)
    x = field((60, 1, 16, 16), 4)
    y = process.pairing.simulate(x, process.basis, torch.arange(60))
    assert bool(torch.isfinite(process.pairing.log_likelihood(x, y, process.basis)).all())
    assert float(process.pairing.misfit(x, y, process.basis).mean()) == pytest.approx(1, abs=0.05)


def test_the_unit_loss_of_complex_images_is_one_per_real_component():
    for complex in (False, True):
        denoiser = net_for(fourier(Fourier((16, 16), complex=complex)))
        for p in denoiser.net.parameters():
            nn.init.zeros_(p)
        basis, z = denoiser.process.basis, field((256, 1, 16, 16), 9, complex=complex)
        x0 = basis.inverse(SPECTRUM.mean_on(basis) + SPECTRUM.on(basis).sqrt() * basis.forward(z))
        loss = denoising_loss(denoiser, x0, torch.arange(256)).total.detach()
        assert float(loss.mean()) == pytest.approx(1, abs=4 * float(loss.std()) / 16)


# ---- devices -----------------------------------------------------------------------------------------------------

META = [name for name in PROCESSES if name not in WAVELET_PROCESSES]


@pytest.mark.parametrize("name", PROCESSES)
def test_laws_rates_and_conditionals_stay_on_the_device_of_their_basis(name):
    """Proved on the device that holds no numbers: whatever reads one back fails there."""
    process = make_process(name).to("meta")
    for table in (*process.moments(T2), *process.rates(T2), *process.conditional(T2, T2 / 2), process.clock(T2)):
        assert table.device.type == "meta"
    if process.measurement is not None:
        assert all(x.device.type == "meta" for x in process.measurement)


@pytest.mark.parametrize("basis", [Pixel((8, 8)), Fourier((8, 8)), Cosine((8, 8)), Wavelet((8, 8), levels=2)])
def test_spectra_follow_their_basis(basis):
    moved = basis.to("meta")
    x = torch.zeros(1, 1, 8, 8, device="meta")
    assert moved.inverse(moved.forward(x)).device.type == "meta"
    assert SPECTRUM.on(moved).device.type == SPECTRUM.mean_on(moved).device.type == "meta"


KINDS = ["vp", "fourier", "measured", "mean_reverting", "rectified_flow", "i2sb", "rddm"]
"""One process of each kind: every rule with these, and every process with one rule."""

RULE_AND_META = [
    (rule, name)
    for rule in RULES
    for name in META
    if (name in KINDS or rule == "sde_exponential") and fits(rule, make_process(name))
]


@pytest.mark.parametrize(("rule", "name"), RULE_AND_META)
def test_every_rule_and_card_is_computed_on_the_device(rule, name):
    process = make_process(name).to("meta")
    spectrum = SPECTRUM.on(process.basis)
    times = torch.linspace(1, 0, 4, dtype=torch.float64)
    plan = make_plan(rule, process, times, spectrum)
    assert all(x.device.type == "meta" for row in plan for part in row.weights for x in part if x.numel() > 1)
    assert gaussian_card(plan, spectrum).variance.device.type == "meta"


@pytest.mark.parametrize(("rule", "name"), RULE_AND_META)
def test_the_loop_reads_nothing_back(rule, name):
    """A run of a network on the device without numbers; noise comes from the CPU, which is the only way across."""
    process = restoring_process(name, (16, 16))
    plain = Plain(channels_in(process), channels_out(process, bands=2)).double()
    denoiser = NetDenoiser(plain, process, SPECTRUM, bands=2).to("meta")
    process, spectrum = denoiser.process, SPECTRUM.on(denoiser.process.basis)
    plan = make_plan(rule, process, torch.linspace(1, 0, 4, dtype=torch.float64), spectrum)
    y = torch.zeros(2, 1, 16, 16, dtype=torch.float64, device="meta")
    seeds = torch.tensor([1, 2])
    start = start_state(process, seeds, (1, 16, 16), measurement=y, spectrum=spectrum, dtype=torch.float64)
    assert sample(denoiser, plan, start, seeds=seeds, cond=process.pairing.cond(y)).x.device.type == "meta"


@pytest.mark.parametrize("weight", ["unit", "likelihood"])
def test_losses_stay_on_the_device(weight):
    process = restoring_process("scalar", (16, 16))
    denoiser = NetDenoiser(Plain(3, 3).double(), process, SPECTRUM, bands=2).to("meta")
    loss = denoising_loss(denoiser, torch.zeros(2, 1, 16, 16, dtype=torch.float64), torch.tensor([1, 2]), weight)
    assert loss.total.device.type == "meta"


class OneDevice(TorchDispatchMode):
    """Refuses every operation on tables of two devices; the one without numbers lets some of them pass by itself."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.ndim]
        devices = {x.device.type for x in tensors}
        assert len(devices) < 2 or "copy" in str(func), f"{func} on {devices}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["terminal", "external"])
@pytest.mark.parametrize("basis", [Fourier((16, 16)), Cosine((16, 16)), Wavelet((16, 16), levels=2)])
def test_a_whole_run_never_mixes_devices(basis, kind, monkeypatch):
    """U-Net, clock level, three channels, every rule, cards and losses; the copies counted are those of noise."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # that device has none
    process = fourier(basis)
    process = process if kind == "terminal" else external(vp(basis), process)
    spectrum = Spectrum.stack([SPECTRUM] * 3)
    scale = SpreadScale((-3.0, 0.0), ((1.0, 2.0), (1.0, 1.0)))
    denoiser = net_for(process, 3, bands=2, level="clock", spread_scale=scale)
    denoiser = replace(denoiser, spectrum=spectrum, unit=None).to("meta")
    mean, variance = denoiser.prior()
    y, seeds = torch.zeros(2, 3, 16, 16, dtype=torch.float64, device="meta"), torch.tensor([1, 2])
    with OneDevice(), torch.no_grad():
        for rule in RULES:
            plan = make_plan(rule, denoiser.process, torch.linspace(1, 0, 3, dtype=torch.float64), variance)
            settings = {"mean": mean, "spectrum": variance, "dtype": torch.float64}
            start = start_state(denoiser.process, seeds, (3, 16, 16), measurement=y, **settings)
            assert sample(denoiser, plan, start, seeds=seeds, cond=process.pairing.cond(y)).x.device.type == "meta"
            gaussian_card(plan, variance)
        for weight in ("unit", "whitened"):
            denoising_loss(denoiser, torch.zeros(2, 3, 16, 16, dtype=torch.float64), seeds, weight)
        for other in (denoiser.tiled(8), Respread(denoiser, "wiener")):
            other.estimate(y, T2, process.pairing.cond(y)).spread.variance()


def test_an_image_on_another_device_than_the_tables_is_refused():
    denoiser = GaussianDenoiser(fourier(Fourier((8, 8))), spectrum=SPECTRUM).to("meta")
    with pytest.raises(InputError, match=r"Use denoiser\.to"):
        denoiser(field((1, 1, 8, 8)), T2[:1])


# ---- what a network is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", LEVELS)
def test_levels_have_the_features_that_they_declare(level, channels):
    """Equal channels say what one says; nothing is known where everything is erased."""
    process = fourier(Fourier((16, 16)))
    spectrum = Spectrum.stack([SPECTRUM] * 3) if channels == 3 else SPECTRUM
    denoiser = replace(net_for(process, channels, level=level), spectrum=spectrum, unit=None)
    terms = denoiser.training_terms(field((2, channels, 16, 16)), T2, Cond())
    told = LEVELS[level]
    found = told.of(terms.linear.v, spectrum.on(process.basis), process.basis, denoiser.unit)
    assert found.shape == (2, told.features)
    assert torch.allclose(found[:, 0], denoiser.noise_level(terms), rtol=1e-12)
    assert bool((found[0, :1] < found[1, :1]).all())  # less is known at 0.8 than at 0.3
    prior = spectrum.on(process.basis)
    nothing = told.of(prior.expand(1, channels, *process.basis.shape), prior, process.basis, denoiser.unit)
    assert torch.allclose(nothing[0, :7], torch.zeros(min(7, told.features)).double(), atol=1e-12)


def test_a_network_that_is_told_the_clock_serves_other_processes_and_fused_pairs():
    """`at` and `observe`: with a network that answers zero both are exact."""
    process, other = fourier(Fourier((16, 16))), PROCESSES["measured"](Fourier((16, 16)), **curves())
    denoiser = net_for(process, level="clock")
    for p in denoiser.net.parameters():
        nn.init.zeros_(p)
    x, y = field((2, 1, 16, 16)), field((2, 1, 16, 16), 1)
    exact = GaussianDenoiser(other, spectrum=SPECTRUM)
    assert torch.allclose(denoiser.at(other)(x, T2), exact(x, T2), atol=1e-12)
    law = vp(other.basis).moments(T2)
    assert torch.allclose(Fused(denoiser.at(other), y, law)(x, T2), Fused(exact, y, law)(x, T2), atol=1e-12)


def test_training_may_draw_a_process_for_every_item():
    """A law of processes: item i of a batch has the loss that it has alone with its own process."""

    def law(basis, seeds):
        scale = (1 + (seeds % 3).double()).reshape(-1, 1, 1, 1)
        return replace(fourier(basis), family=lambda b: lambda t: _scaled(fourier(b).law(t), scale), recipe=None)

    denoiser, x0 = net_for(fourier(Fourier((16, 16))), level="clock"), field((3, 1, 16, 16))
    seeds = torch.tensor([3, 4, 5])
    together = denoising_loss(denoiser, x0, seeds, law=law).total
    alone = [denoising_loss(denoiser, x0[i : i + 1], seeds[i : i + 1], law=law).total for i in range(3)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-10)
    assert not torch.allclose(together, denoising_loss(denoiser, x0, seeds).total, rtol=1e-3)


def _scaled(moments, scale):
    h, k, s2 = moments
    return h, k, scale * s2
