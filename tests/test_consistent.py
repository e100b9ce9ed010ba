"""Data consistency inside a chain: CDDB and the range of the operator."""

from __future__ import annotations

import pytest
import torch

import retrodict as rd
from retrodict._check import InputError
from retrodict.denoisers.denoiser import Estimate, GaussianDenoiser
from retrodict.physics.algebra import Scaled
from retrodict.physics.measurement import Measurement
from retrodict.physics.noise import GaussianNoise
from retrodict.posterior.consistent import ConsistentDenoiser
from retrodict.processes.observation import Cond

SIZE = (5, 4)
PIXELS = rd.Pixel(SIZE)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mask(*, part: float = 1.0, seen: int = 12):
    """`seen` of the pixels, times a number."""
    kept = torch.zeros(SIZE[0] * SIZE[1], dtype=torch.float64)
    kept[:seen] = 1
    return Scaled(rd.Mask(kept.reshape(SIZE)), part)


def bridge() -> GaussianDenoiser:
    return GaussianDenoiser(rd.PROCESSES["i2sb"](PIXELS), 0.0, torch.full(SIZE, 2.0, dtype=torch.float64))


def measured(operator, seed: int = 3) -> Measurement:
    return Measurement(operator, operator.forward(images(1, seed)), GaussianNoise.white(0.1))


def asked(denoiser, x, c, t: float = 0.5):
    return denoiser.estimate(x, torch.full((len(x),), t, dtype=torch.float64), Cond(c))


def test_half_a_step_on_the_image_itself_answers_with_the_data():
    """T15 of the specification: A = 1, step 1/2 with the factor 2 of the square."""
    m = measured(mask(seen=20))
    found = asked(ConsistentDenoiser(bridge(), m, step=0.5), images(3), images(1, 1).expand(3, 1, *SIZE))
    assert torch.allclose(found.mean, m.y.expand_as(found.mean), atol=1e-14)
    assert found.spread is None


@pytest.mark.parametrize(("part", "step"), [(1.0, 1.0), (0.5, 0.3), (4.0, 0.25)])
def test_a_residual_shrinks_by_what_the_formula_says(part, step):
    m = measured(mask(part=part))
    x, c = images(2), images(1, 1).expand(2, 1, *SIZE)
    plain = asked(bridge(), x, c).mean
    moved = asked(ConsistentDenoiser(bridge(), m, step=step), x, c).mean
    factor = 1 - 2 * step * part**2 / max(1.0, part**2)
    assert torch.allclose(m.residual(moved), factor * m.residual(plain), atol=1e-13)
    unseen = (m.operator.forward(torch.ones(1, 1, *SIZE, dtype=torch.float64)) == 0).expand_as(plain)
    assert torch.equal(moved[unseen], plain[unseen])


def test_the_range_is_that_of_the_data_and_a_second_time_changes_nothing():
    m = measured(mask(part=0.5))
    once = ConsistentDenoiser(bridge(), m, form="range")
    x, c = images(2), images(1, 1).expand(2, 1, *SIZE)
    found = asked(once, x, c).mean
    assert float(m.residual(found).abs().max()) < 1e-13
    assert torch.allclose(asked(ConsistentDenoiser(once, m, form="range"), x, c).mean, found, atol=1e-14)


def test_a_bridge_ends_in_the_data_with_any_rule():
    """Its last step is its last answer, so what is measured is what was measured."""
    process = bridge().process
    operator = mask()
    truth, c = images(1, 3), images(1, 5)
    m = Measurement(operator, operator.forward(truth), GaussianNoise.white(0.1))
    for rule, options in (("sde_exponential", {"order": 1}), ("exponential", {"order": 2})):
        plan = rd.make_plan(rule, process, rd.make_grid(process, 6, "total"), **options)
        made = rd.sample(ConsistentDenoiser(bridge(), m, form="range"), plan, c, seeds=[0], cond=Cond(c))
        assert float(m.residual(made.x).abs().max()) < 1e-10, rule


def test_its_spread_is_refused_and_its_error_law_is_none():
    wrapped = ConsistentDenoiser(bridge(), measured(mask()))
    assert wrapped.error_law == "none"
    assert wrapped.gaussian() is None
    assert wrapped.on(SIZE) is wrapped


def test_what_does_not_fit_is_refused_by_name():
    inner, m = bridge(), measured(mask())
    for options, named in (({"form": "other"}, "form"), ({"step": 0.0}, "step")):
        with pytest.raises(InputError, match=named):
            ConsistentDenoiser(inner, m, **options)
    small = rd.Mask(torch.ones(3, 3, dtype=torch.float64))
    with pytest.raises(InputError, match="grid"):
        ConsistentDenoiser(inner, Measurement(small, small.forward(torch.zeros(1, 1, 3, 3, dtype=torch.float64))))
    two = Measurement(mask(), mask().forward(images(2)))
    with pytest.raises(InputError, match="items"):
        ConsistentDenoiser(inner, two)
    with pytest.raises(InputError, match="size"):
        ConsistentDenoiser(inner, m).on((9, 9))


# ---- conditional networks and k-space --------------------------------------------------------------------------------

MRI_BASIS = rd.Fourier(SIZE, (1.0, 1.0), complex=True)
SIGMA = 0.5


def kspace(coils: int = 1, sigma: float = SIGMA, mask: torch.Tensor | None = None) -> Measurement:
    """Complex k-space of a random image, every third sample left out."""
    g = torch.Generator().manual_seed(8)
    if mask is None:
        mask = (torch.arange(20) % 3 != 0).double().reshape(SIZE)
    maps = None if coils == 1 else torch.randn(coils, *SIZE, generator=g, dtype=torch.complex128)
    operator = rd.physics.CartesianMRI(mask, maps=maps, spacing=(1.0, 1.0))
    x = torch.randn(1, 1, *SIZE, generator=g, dtype=torch.complex128)
    return Measurement.simulate(operator, GaussianNoise.white(sigma), x, [2])


class Says(GaussianDenoiser):
    """A network that is conditioned on y: it answers with the image it is given as condition."""

    def estimate(self, xt, t, cond=Cond()):
        return Estimate(cond.image.expand_as(xt), None)


def conditional() -> GaussianDenoiser:
    return Says(rd.PROCESSES["vp"](MRI_BASIS), 0.0, torch.ones(SIZE, dtype=torch.float64))


def prox(m: Measurement, answer: torch.Tensor, v: float) -> torch.Tensor:
    wrapped = ConsistentDenoiser(conditional(), m, step=v, form="prox")
    return wrapped.estimate(torch.zeros_like(answer), torch.ones(len(answer), dtype=torch.float64), Cond(answer)).mean


def answers(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.complex128)


@pytest.mark.parametrize("v", [1e-9, 0.1, 3.0, 1e9])
def test_samples_of_k_space_are_weighted_by_their_variances(v):
    """From the answer itself (v to 0) to replacement by the data (v to infinity, or no noise)."""
    m, d = kspace(), answers()
    got = prox(m, d, v)
    assert torch.allclose(m.residual(got), SIGMA**2 / (SIGMA**2 + v) * m.residual(d), atol=1e-9)
    everything = rd.physics.CartesianMRI(torch.ones(SIZE, dtype=torch.float64), spacing=(1.0, 1.0))
    unseen = m.operator.measured == 0
    assert torch.allclose(everything.forward(got)[..., unseen[0]], everything.forward(d)[..., unseen[0]], atol=1e-9)


def test_without_noise_the_data_replace_what_the_network_says():
    m, d = kspace(sigma=1e-3), answers()
    got = prox(m, d, 1.0)
    assert float(m.residual(got).abs().max()) < 1e-5
    replaced = d + m.operator.adjoint(m.residual(d))  # of one coil the adjoint is the pseudo-inverse
    assert torch.allclose(got, replaced, atol=1e-5)  # sigma^2 times a residual of some units


def test_the_data_step_of_several_coils_solves_the_normal_equations():
    m, d, v = kspace(coils=3), answers(), 0.7
    got = prox(m, d, v)
    slope = (got - d) / v - m.operator.adjoint(m.residual(got)) / SIGMA**2
    assert float(slope.abs().max()) < 1e-8


@pytest.mark.parametrize("wrong", [0.0, 0.1])
def test_a_network_that_knows_the_data_is_best_left_alone_as_far_as_it_is_right(wrong):
    """Expected squared error on Gaussian k-space of power 1: image, noise and error of the network one at a time.

    Exact network: 0.200, replaced 0.250.  With an error of variance 0.1: 0.300, 0.250, and 0.233 at the best v.
    """
    whole = torch.ones(SIZE, dtype=torch.float64)
    m = kspace(mask=whole)
    gain = 1 / (1 + SIGMA**2)
    x, n, e = answers(1)[:1], answers(2)[:1], answers(3)[:1]

    def error(v: float) -> float:
        total = 0.0
        for image, noise, off, size in ((x, 0 * n, 0 * e, 1.0), (0 * x, n, 0 * e, SIGMA**2), (0 * x, 0 * n, e, wrong)):
            y = m.operator.forward(image) + m.operator.forward(noise)
            given = Measurement(m.operator, y, m.noise)
            answer = gain * m.operator.adjoint(y) + off
            gap = (prox(given, answer, v) - image).abs().square().sum() / (image + noise + off).abs().square().sum()
            total += size * float(gap)
        return total

    best = wrong * (1 + SIGMA**2) / SIGMA**2
    none, replaced = error(1e-12), error(1e12)
    assert none == pytest.approx(0.2 + wrong, rel=1e-6)
    assert replaced == pytest.approx(SIGMA**2, rel=1e-6)
    at = error(best) if best else none
    assert at == pytest.approx(0.2 if not wrong else 0.2333333, rel=1e-6)
    for v in (0.3 * best + 0.05, 3 * best + 0.05):
        assert error(v) > at


def test_a_step_by_the_noise_wants_its_law():
    m = kspace()
    with pytest.raises(InputError, match="noise"):
        ConsistentDenoiser(conditional(), Measurement(m.operator, m.y), form="prox")
