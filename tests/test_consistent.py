"""Data consistency inside a chain: CDDB and the range of the operator."""

from __future__ import annotations

import pytest
import torch

import retrodict as rd
from retrodict._check import InputError
from retrodict.denoisers.denoiser import GaussianDenoiser
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
