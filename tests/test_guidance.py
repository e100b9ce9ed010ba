"""Guidance against closed forms: the laws of the guided flow, exact classifiers, and a gate that stays shut."""

from __future__ import annotations

import math

import pytest
import torch

from retrodict import (
    Autoguided,
    ClassifierGuided,
    Cond,
    GaussianDenoiser,
    Guided,
    InputError,
    NotCalibratedError,
    SamplingOptions,
    gate,
    guided_law,
    make_grid,
    make_plan,
    restore_batch,
)
from retrodict.bases import Fourier, Pixel
from retrodict.processes.fourier import fourier
from retrodict.processes.recipes import external
from retrodict.processes.scalar import vp
from retrodict.samplers.card import card

F64 = torch.float64
L = torch.tensor([1.0, 0.5, 2.0], dtype=F64)
V = torch.tensor([0.5, 0.05, 0.9], dtype=F64)
MU = torch.tensor([0.7, 0.4, -0.3], dtype=F64)


def pair():
    process = vp(Pixel((3,)), beta_max=60.0)  # so little is left of the image that the start is pure noise
    return process, GaussianDenoiser(process, MU, V), GaussianDenoiser(process, 0.0, L)


@pytest.mark.parametrize(("weight", "interval"), [(1.0, None), (2.0, None), (0.5, None), (3.0, (0.1, 0.4))])
def test_the_law_of_the_guided_flow(weight, interval):
    """Mean and variance of 96 Heun steps, exact on the card, are those of `guided_law`."""
    process, one, free = pair()
    times = make_grid(process, 96, "logsnr", last=1e-4)
    plan = make_plan("heun", process, times)
    found = card(plan, Guided(one, free, weight, interval or (0.0, 1.0)))
    ends = [float(process.clock(torch.tensor([t], dtype=F64)).flatten()[0]) for t in interval or ()]
    law = guided_law(L, V, weight, tuple(ends) if ends else (0.0, math.inf))
    variance = found.start**2 * process.moments(times[:1]).s2[0, 0]
    loose = 0.03  # of the steps, into one of which an edge of the interval falls
    torch.testing.assert_close(variance, law.variance, rtol=loose, atol=0)
    torch.testing.assert_close(found.offset / MU, law.gain, rtol=loose, atol=0)
    if interval is None:
        torch.testing.assert_close(law.variance, L ** (1 - weight) * V**weight, rtol=1e-9, atol=0)


def test_autoguidance():
    """It sees the condition, and its variance is that of the closed form with the believed one."""
    process, _, free = pair()
    worse = GaussianDenoiser(process, 0.0, 1.5 * L)
    times = make_grid(process, 96, "logsnr", last=1e-4)
    found = card(make_plan("heun", process, times), Autoguided(free, worse, 2.0))
    variance = found.start**2 * process.moments(times[:1]).s2[0, 0]
    torch.testing.assert_close(variance, L / 1.5, rtol=0.02, atol=0)
    chain = fourier(Fourier((4, 4)))
    seeing = external(vp(Fourier((4, 4))), chain)
    spectrum = torch.ones(seeing.basis.shape, dtype=F64)
    one, other = GaussianDenoiser(seeing, 0.0, spectrum), GaussianDenoiser(seeing, 0.0, 2 * spectrum)
    x, y = torch.randn(2, 1, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    t, cond = torch.tensor([0.4], dtype=F64), Cond(image=y)
    expected = other(x, t, cond) + 3 * (one(x, t, cond) - other(x, t, cond))
    torch.testing.assert_close(Autoguided(one, other, 3.0)(x, t, cond), expected)


def test_an_exact_classifier_gives_the_conditional_mean():
    """grad log p(c | x_t) = grad log p(x_t | c) - grad log p(x_t): weight 1 is E[x_0 | x_t, c]; twice is twice."""
    process, one, free = pair()

    def log_probability(xt, t):
        m = process.moments(t)
        logs = [-0.5 * (xt - m.h * mu) ** 2 / (m.h**2 * v + m.s2) for mu, v in ((MU, V), (0.0, L))]
        return (logs[0] - logs[1]).flatten(1).sum(1)

    x = torch.randn(2, 1, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.2, 0.6], dtype=F64)
    guided = ClassifierGuided(free, log_probability, 1.0)
    with torch.no_grad():
        torch.testing.assert_close(guided(x, t), one(x, t), rtol=1e-10, atol=1e-12)
    twice = ClassifierGuided(free, log_probability, 2.0)(x, t)
    torch.testing.assert_close(twice, Guided(one, free, 2.0)(x, t), rtol=1e-10, atol=1e-12)
    part = ClassifierGuided(free, log_probability, 1.0, (0.0, 0.3))(x, t)
    torch.testing.assert_close(part, torch.stack([one(x, t)[0], free(x, t)[1]]), rtol=1e-10, atol=1e-12)
    assert guided.gaussian() is None


def test_outside_its_interval_guidance_asks_nobody():
    """Items of a batch each by their time; without any inside, the free denoiser is not called."""
    process, one, free = pair()
    x = torch.randn(2, 1, 3, dtype=F64, generator=torch.Generator().manual_seed(2))
    guided = Guided(one, free, 3.0, (0.3, 0.5))
    t = torch.tensor([0.4, 0.6], dtype=F64)
    mixed = guided(x, t)
    torch.testing.assert_close(mixed[0], (free(x, t) + 3 * (one(x, t) - free(x, t)))[0])
    assert torch.equal(mixed[1], one(x, t)[1])

    class Loud(GaussianDenoiser):
        def observe(self, *args, **kwargs):
            raise AssertionError("asked")

    silent = Guided(one, Loud(process, 0.0, L), 3.0, (0.3, 0.5))
    assert torch.equal(silent(x, torch.tensor([0.1, 0.9], dtype=F64)), one(x, torch.tensor([0.1, 0.9], dtype=F64)))


def test_guided_draws_carry_no_uncertainty():
    """Each states no law of its error, the gate is shut, and an uncertainty is refused."""
    basis = Fourier((8, 8))
    process, prior = external(vp(basis), fourier(basis)), vp(basis)
    spectrum = 0.05 / (0.05 + basis.radius()) ** 2
    inner, free = GaussianDenoiser(process, 0.0, spectrum), GaussianDenoiser(prior, 0.0, spectrum)
    worse = GaussianDenoiser(process, 0.0, 2 * spectrum)
    y = torch.zeros(1, 1, 8, 8)
    for guided in (
        Guided(inner, free, 2.0),
        Guided(inner, free, 2.0, (0.2, 0.5)),
        Autoguided(inner, worse, 2.0),
        ClassifierGuided(inner, lambda xt, t: -xt.square().flatten(1).sum(1)),
    ):
        assert guided.error_law == "none"
        assert guided.estimate(y.double(), torch.tensor([0.3], dtype=F64), Cond(image=y.double())).spread is None
        assert not gate(guided, SamplingOptions(rule="sde_dpmpp2m", steps=8)).passed
        with pytest.raises(NotCalibratedError):
            restore_batch(guided, y, SamplingOptions(rule="sde_dpmpp2m", steps=2))


def test_refusals():
    """By name."""
    process, one, free = pair()
    with pytest.raises(InputError, match="interval"):
        Guided(one, free, 2.0, (0.5, 0.2))
    with pytest.raises(InputError, match="interval"):
        ClassifierGuided(one, lambda xt, t: xt.sum(), 1.0, (0.0, 2.0))
    other = GaussianDenoiser(vp(Pixel((3,)), beta_max=10.0), 0.0, L)
    with pytest.raises(InputError, match="Autoguided free"):
        Autoguided(one, other, 2.0)
    x, t = torch.zeros(2, 1, 3, dtype=F64), torch.tensor([0.2, 0.2], dtype=F64)
    for wrong in (lambda xt, t: xt.sum(), lambda xt, t: torch.zeros(2, dtype=F64)):
        with pytest.raises(InputError, match="log_probability"):
            ClassifierGuided(one, wrong)(x, t)
    with pytest.raises(InputError, match="clocks"):
        guided_law(L, V, 2.0, (2.0, 1.0))
    with pytest.raises(InputError, match="variance"):
        guided_law(L, 0 * V, 2.0)
    assert process == one.process
