"""Bounds and directional total variation: against a slow reference, and the conditions of the minimum."""

from __future__ import annotations

import math

import pytest
import torch

from physics_cases import noise
from retrodict import GaussianNoise, InputError, Measurement, ParallelBeam, Radon, even_angles
from retrodict.bases import Fourier
from retrodict.physics.classics import CLASSICS
from retrodict.physics.classics.bounds import FREE, Box, box_of
from retrodict.physics.classics.penalties import TotalVariation, WaveletPenalty
from retrodict.physics.operator import Space

F64 = torch.float64
SPACE = Space((1, 4, 5), "1/mm", spacing=(1.0, 1.0))
SMALL = Radon((4, 5), ParallelBeam(even_angles(6), 7, 1.0))


def matrix(penalty, space):
    """D as a dense matrix `(places, axes, pixels)`."""
    count = math.prod(space.shape)
    unit = torch.eye(count, dtype=F64).reshape(count, *space.shape)
    return penalty.analyse(unit).movedim(0, -1).reshape(-1, len(space.shape) - 1, *space.shape[1:], count)[0]


def reference_prox(v, penalty, threshold, box, rounds=1000):
    """The prox by plain alternating directions on dense matrices: another method, slow and exact."""
    dense = matrix(penalty, penalty.space).movedim(0, 2)  # (ny, nx, axes, pixels)
    places, pixels = dense.shape[:2].numel(), dense.shape[-1]
    d = dense.reshape(places * dense.shape[2], pixels)
    c, flat = 1.0, v.reshape(-1)
    inverse = torch.linalg.inv((1 + c) * torch.eye(pixels, dtype=F64) + c * d.T @ d)
    z, u = torch.zeros(len(d), dtype=F64), torch.zeros(len(d), dtype=F64)
    b, w = torch.zeros(pixels, dtype=F64), torch.zeros(pixels, dtype=F64)
    for _ in range(rounds):
        x = inverse @ (flat + c * (d.T @ (z - u) + b - w))
        s = (d @ x + u).reshape(places, -1)
        size = s.norm(dim=1, keepdim=True)
        z = (s * (1 - threshold / c / size.clamp_min(threshold / c))).reshape(-1)
        b = box.nearest((x + w).reshape(v.shape)).reshape(-1)
        u, w = u + d @ x - z, w + x - b
        if float((x - b).abs().max()) < 1e-12 and float((d @ x - z).abs().max()) < 1e-12:
            break
    return b.reshape(v.shape)


MAP = 0.3 + 0.5 * noise(1, 1, 4, 5)[0].abs()


@pytest.mark.parametrize("box", [FREE, Box(0.0, None), Box(-0.2, 0.5), Box(0.0, MAP)], ids=["free", "0", "both", "map"])
@pytest.mark.parametrize("options", [{}, {"weights": (1.0, 3.0), "direction": 30.0}], ids=["isotropic", "turned"])
def test_the_prox_is_that_of_a_slow_reference(box, options):
    v = 0.3 + noise(1, 1, 4, 5)
    penalty = TotalVariation(SPACE, **options)
    found = penalty.near(v, 0.2, box, None, 800).x
    torch.testing.assert_close(found, reference_prox(v, penalty, 0.2, box), rtol=0, atol=2e-5)


def test_the_prox_is_not_the_free_one_cut_off():
    v = 0.3 + noise(1, 1, 4, 5)
    penalty, box = TotalVariation(SPACE), Box(-0.2, 0.5)
    cut = box.nearest(penalty.near(v, 0.2, FREE, None, 2000).x)
    assert float((penalty.near(v, 0.2, box, None, 2000).x - cut).abs().max()) > 1e-2


@pytest.mark.parametrize("penalty", ["tv", "wavelet"])
def test_no_image_of_the_box_is_better(penalty):
    """A convex problem: nothing on the way to any other image of the box may be lower; both methods end there."""
    operator = Radon((4, 4), ParallelBeam(even_angles(6), 7, 1.0))
    box = box_of(operator.domain, 0.0, 0.6 + 0.4 * noise(1, 1, 4, 4)[0].abs())
    measurement = Measurement(operator, operator.forward(2 * noise(1, 1, 4, 4)) + 0.1 * noise(1, 1, 6, 7))
    options = {"penalty": penalty, "levels": 1, "family": "haar", "lower": box.lower, "upper": box.upper}
    x = CLASSICS["fista"](measurement, strength=0.3, iterations=150, tolerance=1e-12, **options).image
    kind = TotalVariation(operator.domain) if penalty == "tv" else WaveletPenalty(operator.domain, "haar", 1)

    def cost(image):
        return float(0.5 * (measurement.y - operator.forward(image)).square().sum()) + 0.3 * kind.value(image)

    assert torch.equal(box.nearest(x), x)
    assert bool((x == box.upper).any())
    assert bool((x == 0).any())
    for i in range(60):
        other = box.nearest(x + noise(1, 1, 4, 4, seed=i) * 10 ** -(i % 4))
        assert cost(x + 1e-3 * (other - x)) >= cost(x) - 1e-9
    split = CLASSICS["admm"](measurement, strength=0.3, iterations=60, **options).image
    assert torch.equal(box.nearest(split), split)
    torch.testing.assert_close(split, x, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", ["sirt", "sart", "os_sart"])
def test_algebraic_methods_keep_the_bounds_and_reach_the_minimum(name):
    x = 0.2 + 0.6 * noise(1, 1, 4, 5).abs().clamp_max(1)
    bounds = {"lower": 0.2, "upper": 0.8}
    options = {"subsets": 2} if name == "os_sart" else {}
    found = CLASSICS[name](Measurement(SMALL, SMALL.forward(x)), iterations=200, **bounds, **options).image
    assert float(found.min()) >= 0.2
    assert float(found.max()) <= 0.8
    assert float((SMALL.forward(found - x)).norm() / SMALL.forward(x).norm()) < 5e-3


def test_sirt_with_bounds_has_the_conditions_of_its_minimum():
    """Weighted by R, the gradient points out of the box where a bound holds, and is 0 elsewhere."""
    y = SMALL.forward(noise(1, 1, 4, 5)) + 0.3 * noise(1, 1, 6, 7)
    x = CLASSICS["sirt"](Measurement(SMALL, y), iterations=1500, lower=0.0, upper=0.5).image
    rows = SMALL.forward(torch.ones_like(x))
    weights = torch.where(rows > 1e-9, 1 / rows.clamp_min(1e-30), 0.0)
    gradient = SMALL.adjoint(weights * (SMALL.forward(x) - y))
    low, high = x <= 0, x >= 0.5
    assert bool(low.any())
    assert bool(high.any())
    assert float(gradient[low].min()) > -1e-8
    assert float(gradient[high].max()) < 1e-8
    assert float(gradient[~low & ~high].abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["fista", "admm", "sirt"])
def test_outside_the_support_is_nothing(name):
    support = torch.zeros(4, 5, dtype=torch.bool)
    support[1:3, 1:4] = True
    x = torch.where(support, 0.7, 0.0).double()[None, None]
    options = {} if name == "sirt" else {"strength": 1e-3}
    found = CLASSICS[name](Measurement(SMALL, SMALL.forward(x)), iterations=400, support=support, **options).image
    assert float(found[..., ~support].abs().max()) == 0
    torch.testing.assert_close(found, x, rtol=0, atol=2e-2)


@pytest.mark.parametrize("direction", [0.0, 20.0, 135.0])
def test_directional_variation_of_a_plane_is_in_closed_form(direction):
    """Of the plane x cos a + y sin a, inside, |(w2 cos(a - b), w1 sin(a - b))|."""
    space, across, along = Space((1, 9, 9), "1/mm", spacing=(1.0, 1.0)), 1.0, 3.0
    penalty = TotalVariation(space, (across, along), direction)
    at = torch.arange(9, dtype=F64)
    for a in (0.0, 50.0, 90.0):
        ramp = at[None, :] * math.cos(math.radians(a)) - at[:, None] * math.sin(math.radians(a))
        turned = math.radians(a - direction)
        inner = penalty.sizes(penalty.analyse(ramp[None, None]))[0, 0, 0, :-1, :-1]
        expected = math.hypot(along * math.cos(turned), across * math.sin(turned))
        torch.testing.assert_close(inner, torch.full_like(inner, expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 5, 6), (2, 3, 4, 5)])
def test_the_adjoint_and_the_bound_of_weighted_differences(shape):
    space = Space(shape, "1/mm", spacing=(1.0,) * (len(shape) - 1))
    options = {"weights": (1.0, 2.5), "direction": 40.0} if len(shape) == 3 else {"weights": (1.0, 2.0, 0.5)}
    penalty = TotalVariation(space, **options)
    x, z = noise(2, *shape), noise(2, shape[0], len(shape) - 1, *shape[1:])
    assert float((penalty.analyse(x) * z).sum()) == pytest.approx(float((x * penalty.synthesise(z)).sum()), rel=1e-12)
    for _ in range(200):
        x = penalty.synthesise(penalty.analyse(x))
        x = x / x.norm()
    assert float(penalty.analyse(x).square().sum()) <= penalty.bound


def test_the_symbol_is_that_of_periodic_differences():
    space = Space((1, 8, 8), "1/mm", spacing=(1.0, 1.0))
    penalty, basis = TotalVariation(space, (1.0, 3.0), 25.0), Fourier((8, 8))
    symbol = penalty.symbol(basis)
    x = torch.zeros(1, 1, 8, 8, dtype=F64)
    x[..., 3:5, 3:5] = noise(1, 1, 2, 2)  # away from the border both are the same
    found = basis.inverse(symbol * basis.forward(x))
    torch.testing.assert_close(found, penalty.synthesise(penalty.analyse(x)), rtol=0, atol=1e-12)


def test_equal_weights_in_any_frame_are_the_isotropic_penalty():
    x = noise(1, 1, 4, 5)
    plain = TotalVariation(SPACE).value(x)
    for direction in (0.0, 33.0):
        assert TotalVariation(SPACE, (1.0, 1.0), direction).value(x) == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lower": 1.0, "upper": 0.5}, "above the upper one"),
        ({"upper": torch.zeros(3, 3)}, r"upper.*\(3, 3\)"),
        ({"upper": math.nan}, "no number"),
        ({"support": torch.zeros(4, 5)}, "support.*not a single pixel"),
        ({"weights": (1.0,)}, "weights.*2 numbers"),
        ({"weights": (1.0, -1.0)}, "positive"),
        ({"penalty": "wavelet", "weights": (1.0, 2.0)}, "none with penalty 'wavelet'"),
        ({"direction": math.inf}, "angle in degrees"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, said):
    measurement = Measurement(SMALL, torch.zeros(1, 1, 6, 7), GaussianNoise.white(1.0))
    with pytest.raises(InputError, match=said):
        CLASSICS["fista"](measurement, strength=1.0, iterations=1, **options)


def test_bounds_of_complex_images_are_refused():
    with pytest.raises(InputError, match="complex"):
        box_of(Space((1, 4, 4), "1", complex=True), nonnegative=True)


def test_bounds_are_the_tightest_of_all_that_was_said():
    inside = torch.tensor([[True, False]])
    space = Space((1, 1, 2), "1/mm", spacing=(1.0, 1.0))
    box = box_of(space, -1.0, 2.0, nonnegative=True, support=inside)
    ends = [box.nearest(torch.full((1, 1, 1, 2), v, dtype=F64)).flatten().tolist() for v in (-9.0, 9.0)]
    assert ends == [[0.0, 0.0], [2.0, 0.0]]
    assert box_of(space).free
