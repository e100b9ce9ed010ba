"""Observers, contrast and responses against closed forms."""

import math

import pytest
import torch

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.metrics.response import draw_disc, known_system, nps_ratio, perturbation_mtf
from retrodict.metrics.task import (
    contrast_to_noise,
    detectability,
    detectability_plane,
    disc_spectrum,
    hotelling_from_samples,
    laguerre_gauss,
    neq,
)
from retrodict.processes.fourier import fourier


def plane(side, d):
    f = torch.fft.fftfreq(side, d, dtype=torch.float64)
    return torch.hypot(f[:, None], f[None])


def gaussian(f, sigma):
    return torch.exp(-2 * math.pi**2 * sigma**2 * f**2)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_disc_spectrum_is_the_transform_of_a_disc():
    d, side, radius = 0.5, 256, 12.0
    drawn = torch.fft.fft2(draw_disc((side, side), d, (128, 128), radius)).abs() * d * d
    rho = plane(side, d)
    near = rho < 0.1
    assert float((drawn - disc_spectrum(rho, 1.0, radius).abs())[near].abs().max()) < 0.01 * math.pi * radius**2
    assert float(disc_spectrum(torch.zeros(1), 3.0, 2.0)) == pytest.approx(3 * math.pi * 4)


def test_white_noise_gives_the_ideal_observer():
    rho, nps = plane(512, 0.25), 40.0
    white = torch.full_like(rho, nps)
    w = disc_spectrum(rho, 10.0, 6.0)
    found = detectability_plane(w, torch.ones_like(rho), white, 0.25)
    ideal = 10 * math.sqrt(math.pi * 36 / nps)
    assert found.npw == pytest.approx(ideal, rel=0.01)
    assert found.hotelling == pytest.approx(found.npw, rel=1e-12)
    f = torch.linspace(0, 2.0, 4001, dtype=torch.float64)
    radial = detectability(f, disc_spectrum(f, 10.0, 6.0), torch.ones_like(f), torch.full_like(f, nps))
    assert radial.npw == pytest.approx(found.npw, rel=0.01)


def test_prewhitening_wins_on_colored_noise():
    rho = plane(256, 0.5)
    w, mtf = disc_spectrum(rho, 10.0, 4.0), gaussian(rho, 0.5)
    for nps in (5 + 200 * rho, 5 + 200 * rho * torch.exp(-rho), 300 * torch.exp(-4 * rho) + 1):
        found = detectability_plane(w, mtf, nps, 0.5)
        assert found.hotelling > found.npw * 1.005
    assert torch.allclose(neq(mtf, 5 + rho), mtf**2 / (5 + rho))
    with pytest.raises(InputError, match="no noise at"):
        detectability_plane(w, mtf, torch.zeros_like(rho), 0.5)


def test_channelized_observer_reaches_the_closed_form():
    side, sd, n = 32, 10.0, 400
    channels = laguerre_gauss(side, 10.0)
    wide = laguerre_gauss(96, 10.0).flatten(1)
    gram = wide @ wide.T
    assert float((gram - torch.eye(6)).abs().max()) < 1e-6
    signal = 60 * channels[0]
    ideal = float(signal.square().sum().sqrt()) / sd
    found = hotelling_from_samples(signal + sd * randn(n, side, side), sd * randn(n, side, side, seed=1), width=10.0)
    assert found.value == pytest.approx(ideal, abs=0.35)
    assert found.lower < ideal < found.upper
    values = [
        hotelling_from_samples(
            signal + sd * randn(40, side, side, seed=2 * s), sd * randn(40, side, side, seed=2 * s + 1), width=10.0,
            bootstrap=2,
        ).value**2
        for s in range(100, 160)
    ]  # fmt: skip
    assert sum(values) / 60 == pytest.approx(ideal**2, rel=0.06)  # 40 images are enough: the bias is taken off
    with pytest.raises(InputError, match="at least 24"):
        hotelling_from_samples(randn(10, 8, 8), randn(10, 8, 8), width=4)


def test_contrast_to_noise():
    image = 10 * randn(64, 64)
    region, background = torch.zeros(64, 64, dtype=torch.bool), torch.zeros(64, 64, dtype=torch.bool)
    region[10:30, 10:30] = True
    background[40:60, 10:60] = True
    image[region] += 25
    found = contrast_to_noise(image, region, background)
    assert abs(found.contrast - 25) < 3 * found.standard_error
    assert found.cnr == pytest.approx(2.5, rel=0.1)
    with pytest.raises(InputError, match="do not overlap"):
        contrast_to_noise(image, region, region)
    with pytest.raises(InputError, match="at least 10"):
        contrast_to_noise(image, region & (image > 1e9), background)


def test_known_system_recovers_a_state_of_a_process():
    """Spec T11: x_t against x_0 over white images gives h(t) and s^2(t)."""
    process = fourier(Fourier((64, 64)))
    x0 = randn(300, 1, 64, 64)
    t = torch.full((300,), 0.6, dtype=torch.float64)
    xt = process.corrupt(x0, t, randn(300, 1, 64, 64, seed=1))
    found = known_system(xt[:, 0], x0[:, 0], 1.0)
    from retrodict.metrics.noise import ring_average

    half = process.moments(torch.tensor([0.6], dtype=torch.float64))
    full = [torch.cat([v[0, 0], v[0, 0][:, 1:-1].flip(1).roll(1, 0).flip(0)], 1) for v in (half.h, half.s2)]
    for got, truth in zip((found.mtf, found.noise), full, strict=True):
        wanted = ring_average(truth, 1.0)[1]
        assert float((got / wanted - 1).abs()[2:].max()) < 0.05
        assert abs(float((got / wanted - 1)[2:].mean())) < 0.01
    h, s2 = (ring_average(v, 1.0)[1] for v in full)
    assert float((found.coherence - h**2 / (h**2 + s2)).abs()[2:].max()) < 0.03


def test_perturbation_of_a_linear_restoration_is_exact():
    rho = plane(96, 0.8)
    blur, gain = gaussian(rho, 1.0), 1 / (1 + 4 * rho)

    def apply(transfer):
        return lambda v: torch.fft.ifft2(torch.fft.fft2(v) * transfer).real

    found = perturbation_mtf(
        apply(gain), randn(96, 96), 0.8, blur=apply(blur), contrast=50.0, radius=2.0, positions=[(48, 48), (30.3, 61.7)]
    )
    wanted = blur * gain
    disc = torch.fft.fft2(draw_disc((96, 96), 0.8, (48, 48), 2.0)).abs().square()
    from retrodict.metrics.noise import ring_average

    f, truth = ring_average(wanted * disc, 0.8)
    truth = truth / ring_average(disc, 0.8)[1]
    at = [int((f - q).abs().argmin()) for q in found.frequency]
    assert float((found.value - truth[at]).abs().max()) < 0.02  # the two discs weigh a ring a little differently
    one = perturbation_mtf(
        apply(gain), randn(96, 96), 0.8, blur=apply(blur), contrast=50.0, radius=2.0, positions=[(48, 48)]
    )
    at = [int((f - q).abs().argmin()) for q in one.frequency]
    assert float((one.value - truth[at]).abs().max()) < 1e-10
    assert torch.equal(one.lower, one.upper)
    assert len(one.frequency) < len(f)  # rings without signal are left out, not guessed


def test_nps_ratio():
    before = randn(40, 32, 32)
    found = nps_ratio(0.5 * before, before, 1.0)
    assert torch.allclose(found.value, torch.full_like(found.value, 0.25))
    other = nps_ratio(0.5 * randn(40, 32, 32, seed=5), before, 1.0)
    assert float(((other.lower < 0.25) & (other.upper > 0.25)).double().mean()) > 0.75
    with pytest.raises(InputError, match="at least two regions"):
        nps_ratio(before[:1], before[:1], 1.0)


def test_a_reversed_contrast_has_a_negative_response():
    x = randn(20, 32, 32)
    found = known_system(-0.5 * x + 0.1 * randn(20, 32, 32, seed=1), x, 1.0)
    assert torch.allclose(found.mtf, torch.full_like(found.mtf, -0.5), atol=0.03)
