"""Multiplicative noise: the published moments and samplers, and its equality with additive noise in log x."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from retrodict import InputError
from retrodict._random import white
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.nets import UNet
from retrodict.processes.multiplicative import GeometricBrownian, LogDomain, geometric
from retrodict.processes.observation import wiener
from retrodict.processes.scalar import ve
from retrodict.samplers.ensemble import SamplingOptions, restore_batch
from retrodict.samplers.multiplicative import multiplicative_sample
from retrodict.training.losses import denoising_loss, draw_times, simulate

MEAN, VARIANCE = 0.3, 0.2


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_moments_in_x_are_those_of_the_equation():
    """E X_t = X_0 e^(mu t) and the published variance, from the log-normal law of its logarithm."""
    law, domain, x0 = GeometricBrownian(0.1, 0.7), LogDomain(), torch.tensor([0.5, 2.0]).double()
    mean, variance = law.moments(x0, 0.6)
    known = domain.moments(x0.log() + law.shift(0.6), law.variance(0.6))
    assert torch.allclose(mean, known[0], rtol=1e-13)
    assert torch.allclose(variance, known[1], rtol=1e-12)
    assert float(mean[0]) == pytest.approx(0.5 * math.exp(0.06), rel=1e-13)
    z = normal(200_000, seed=3)
    x = law.corrupt(torch.full((1, 200_000), 0.5).double(), torch.tensor([0.6]), z[None])
    assert float(x.mean()) == pytest.approx(float(mean[0]), abs=4 * float(variance[0]) ** 0.5 / 200_000**0.5)


def test_it_is_variance_exploding_in_the_logarithm_up_to_the_shift():
    """Log x_t - m(t) is that of `geometric`: h = 1, s^2 = sigma^2 t^2 at t^2; mu = sigma^2 / 2 no shift."""
    law, process = GeometricBrownian(0.1, 0.7), geometric(Pixel((6,)), sigma=0.7)
    x0, t, z = normal(2, 1, 6).exp(), torch.tensor([0.3, 1.0]).double(), normal(2, 1, 6, seed=1)
    state = process.corrupt(x0.log(), t.sqrt(), z)
    assert torch.allclose(law.corrupt(x0, t, z).log() - law.shift(t).reshape(2, 1, 1), state, atol=1e-13)
    exploding, sigma = ve(Pixel((1,)), 0.01, 50.0), [0.7 * x**0.5 for x in (0.3, 1.0)]
    same = torch.tensor([math.log(x / 0.01) / math.log(5000) for x in sigma]).double()  # times of the same noise
    for own, other in zip(
        process.conditional(t[1:].sqrt(), t[:1].sqrt()), exploding.conditional(same[1:], same[:1]), strict=True
    ):
        assert float(own[0, 0, 0]) == pytest.approx(float(other[0, 0, 0]), rel=1e-6)
    assert float(GeometricBrownian(0.245, 0.7).shift(0.8)) == pytest.approx(0.0, abs=1e-15)
    rates = process.rates(t)
    assert torch.allclose(rates.G2.flatten(), 2 * 0.49 * t, rtol=1e-13)
    assert torch.equal(rates.F, torch.zeros_like(rates.F))


def exact(law, x, t):
    """Score h of log-normal data N(MEAN, VARIANCE) at t: that of log x, minus 1."""
    total = VARIANCE + law.variance(t)
    return -(x.log() - MEAN - law.shift(t)) / total - 1


def test_the_published_sampler_in_the_logarithm_has_the_golden_moments():
    """T14: mu = 0.1, sigma = 1, T = 1, 400 steps; target 0.3 and 0.2 within 0.003.  The step is affine in log x: its
    coefficients from three points give the moments without a sample."""
    law, times = GeometricBrownian(0.1, 1.0), torch.linspace(1, 0, 401).double().tolist()
    u, z = torch.tensor([0.0, 1.0, 0.0]).double(), torch.tensor([0.0, 0.0, 1.0]).double()
    mean, variance = MEAN + float(law.shift(1.0)), VARIANCE + 1.0
    for t, s in itertools.pairwise(times):
        zero, one, noise = law.step(u.exp(), exact(law, u.exp(), t), t - s, z).log().tolist()
        mean = zero + (one - zero) * mean
        variance = (one - zero) ** 2 * variance + (noise - zero) ** 2
    assert mean == pytest.approx(MEAN, abs=1e-3)
    assert variance == pytest.approx(VARIANCE, abs=3e-3)


@pytest.mark.parametrize("form", ["log", "ambient"])
def test_both_published_samplers_lead_to_the_data(form):
    """The same by samples, 1e4 of them: within four standard errors and the golden 0.003."""
    law, count = GeometricBrownian(0.1, 1.0), 10_000
    z = white([5], "start", 0, (count,)).double()
    start = (MEAN + law.shift(1.0) + (VARIANCE + law.variance(1.0)).sqrt() * z).exp()
    times = torch.linspace(1, 0, 401).double()
    x = multiplicative_sample(law, lambda x, t: exact(law, x, t), start, times, seeds=torch.tensor([1]), form=form)
    assert float(x.min()) > 0
    assert float(x.log().mean()) == pytest.approx(MEAN, abs=0.003 + 4 * (VARIANCE / count) ** 0.5)
    assert float(x.log().var()) == pytest.approx(VARIANCE, abs=0.003 + 4 * VARIANCE * (2 / count) ** 0.5)


def test_the_score_in_x_is_that_of_the_logarithm_minus_one():
    """H = x grad log p(x), by differentiating the log-normal density in x; Tweedie there and back."""
    law, t = GeometricBrownian(0.1, 0.8), torch.tensor([0.5]).double()
    x = torch.tensor([[0.3, 1.0, 4.0]]).double().requires_grad_()
    total = VARIANCE + float(law.variance(0.5))
    density = (-((x.log() - MEAN - law.shift(0.5)) ** 2) / (2 * total) - x.log()).sum()
    h = (x * torch.autograd.grad(density, x)[0]).detach()
    assert torch.allclose(exact(law, x.detach(), 0.5), h, atol=1e-13)
    gain = VARIANCE / total
    posterior = MEAN + gain * (x.detach().log() - law.shift(0.5) - MEAN)
    assert torch.allclose(law.log_mean(h, x.detach(), t), posterior, atol=1e-13)
    assert torch.allclose(law.score_of(posterior, x.detach(), t), h, atol=1e-13)


def test_multiplicative_score_matching_is_score_matching_in_the_logarithm():
    """E |h - target|^2 for the h of a network is the package's loss of weight "score" on log x, item by item."""
    law, process = GeometricBrownian(0.1, 0.7), geometric(Fourier((8, 8)), sigma=0.7)
    torch.manual_seed(0)
    net = UNet(in_channels=2, out_channels=1, width=8, multipliers=(1,), blocks=1, level_features=1)
    denoiser = NetDenoiser(net.double(), process, spectrum=Spectrum.power_law(0.0, 1.0, 0.1, 2.0))
    u0, seeds = normal(4, 1, 8, 8), torch.arange(4)
    t = draw_times(seeds)
    state, _ = simulate(process, u0, t, seeds)
    ran = t.square()
    xt = (state + law.shift(ran).reshape(-1, 1, 1, 1)).exp()
    with torch.no_grad():
        score = law.score_of(denoiser(state, t), xt, ran)
        own = law.loss(score, xt, u0.exp(), ran)
        known = denoising_loss(denoiser, u0, seeds, weight="score").error
    assert torch.allclose(own, known, rtol=1e-6)


def test_the_arithmetic_mean_is_delivered_and_the_geometric_one_is_below():
    """Speckle on log-Gaussian data, in one call and by members: E[x | y] = exp(mean + variance / 2), exact."""
    process = geometric(Fourier((16, 16)), sigma=0.6, conditioning="terminal")
    spectrum, basis = Spectrum.power_law(0.2, 2.0, 0.1, 2.0), process.basis
    denoiser = GaussianDenoiser(process, spectrum=spectrum)
    domain = LogDomain(offset=-5.0, scale=3.0)
    y = normal(1, 1, 16, 16, seed=2)
    found = denoiser.estimate(y, torch.ones(1).double())
    variance = float((wiener(process.measurement, spectrum.on(basis))[1] * basis.multiplicity()).sum()) / 256
    level = 3 * (found.mean + variance / 2).exp()
    once = restore_batch(denoiser, y, SamplingOptions(instant=True, margin=0), finish=domain)
    assert torch.allclose(once.mean, -5 + level, rtol=1e-10)
    assert torch.allclose(once.sd, level * math.expm1(variance) ** 0.5, rtol=1e-10)
    assert bool((domain(found.mean) < once.mean).all())
    assert once.count is None
    options = SamplingOptions(samples=100, steps=2, margin=0, keep_samples=True, chunk=100)
    drawn = restore_batch(denoiser, y, options, finish=domain)
    assert drawn.count == 100
    error = (drawn.mean - once.mean) / (once.sd / 100**0.5)
    assert float(error.abs().max()) < 4.5
    assert float(error.square().mean()) < 0.9  # of the last calls, not of the members: less scatter
    assert float((drawn.sd / once.sd - 1).abs().mean()) < 0.12
    assert torch.allclose(drawn.samples.mean(0), drawn.mean, atol=5 * float(once.sd.max()) / 100**0.5)
    point = restore_batch(denoiser, y, SamplingOptions(uncertainty=False, margin=0), finish=domain)
    assert torch.allclose(point.mean, once.mean, rtol=1e-10)


def test_an_affine_finish_is_delivered_as_before():
    """Mean and deviation of twice the image are twice those of the image, and a point estimate is one call."""
    process = geometric(Fourier((8, 8)), conditioning="terminal")
    denoiser = GaussianDenoiser(process, spectrum=Spectrum.power_law(0.0, 2.0, 0.1, 2.0))
    y = normal(1, 1, 8, 8)
    for options in (SamplingOptions(samples=3, steps=2), SamplingOptions(instant=True)):
        plain = restore_batch(denoiser, y, options)

        def double(x):
            return 2 * x

        double.variance = lambda v: 4 * v
        twice = restore_batch(denoiser, y, options, finish=double)
        assert torch.allclose(twice.mean, 2 * plain.mean, atol=1e-12)
        assert torch.allclose(twice.sd, 2 * plain.sd, rtol=1e-12)
    silent = FunctionDenoiser(lambda xt, t: xt, process)
    with pytest.raises(InputError, match="error law"):
        restore_batch(silent, y, SamplingOptions(uncertainty=False), finish=LogDomain())


def test_the_logarithm_goes_there_and_back_and_speckle_of_mean_one_is_unbiased():
    domain = LogDomain(offset=-1024.0, scale=1000.0)
    values = torch.tensor([-1000.0, 0.0, 3000.0]).double()
    assert torch.allclose(domain.decode(domain.encode(values)), values, atol=1e-9)
    law = GeometricBrownian(0.0, 0.5)
    speckle = (law.shift(1.0) + 0.5 * normal(400_000)).exp()
    assert float(speckle.mean()) == pytest.approx(1.0, abs=4 * math.expm1(0.25) ** 0.5 / 400_000**0.5)
    measured = LogDomain(shift=float(law.shift(1.0))).encode(speckle)
    assert float(measured.mean()) == pytest.approx(0.0, abs=4 * 0.5 / 400_000**0.5)


def test_what_is_not_positive_is_refused_by_name():
    with pytest.raises(InputError, match="multiplicative noise: found values down to -1; expected finite values above"):
        LogDomain().encode(torch.tensor([1.0, -1.0]))
    with pytest.raises(InputError, match="multiplicative noise"):
        LogDomain(offset=2.0).encode(torch.tensor([2.0, 3.0]))
    with pytest.raises(InputError, match="multiplicative noise"):
        LogDomain().encode(torch.tensor([1.0, math.nan]))
    with pytest.raises(InputError, match="LogDomain scale"):
        LogDomain(scale=0.0)
    with pytest.raises(InputError, match="geometric sigma"):
        geometric(Pixel((2,)), sigma=-1.0)
    law, one = GeometricBrownian(), torch.ones(1, 4).double()
    with pytest.raises(InputError, match="that fall"):
        multiplicative_sample(law, lambda x, t: x, one, [0.5, 1.0], seeds=torch.arange(1))
    with pytest.raises(InputError, match="Use form 'log'"):
        multiplicative_sample(law, lambda x, t: -50 * x, one, [1.0, 0.5, 0.0], seeds=torch.arange(1), form="ambient")
    with pytest.raises(InputError, match="Did you mean 'log'"):
        law.step(one, one, 0.1, one, "logs")
