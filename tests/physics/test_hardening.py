"""Beam hardening, air and outlines, against polychromatic scans of a disc in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import retrodict
from retrodict import FanBeam, InputError, Measurement, ParallelBeam, Radon, even_angles, fbp
from retrodict.physics.corrections import remove_air
from retrodict.physics.hardening import Hardening, fit_hardening, polychromatic
from retrodict.physics.outline import Disc, find_disc, find_hull, outline, shadow

F64 = torch.float64
WEIGHTS, MU = (0.3, 0.5, 0.2), (0.08, 0.03, 0.02)  # three energies of one material, 1/mm
MEAN = sum(w * m for w, m in zip(WEIGHTS, MU, strict=True))
DISC = Disc(3.0, -2.0, 20.0)
PARALLEL = ParallelBeam(even_angles(90), 128, 0.5)
FAN = FanBeam(even_angles(120, 2 * math.pi), 128, 0.9, source=120.0, detector=200.0)


def polychromatic_scan(scan=PARALLEL, body=DISC):
    return polychromatic(body.lengths(scan), WEIGHTS, MU)


# ---- hardening -------------------------------------------------------------------------------------------------------


def test_a_spectrum_of_one_line_is_not_hardened():
    length = torch.linspace(0, 50, 11, dtype=F64)
    torch.testing.assert_close(polychromatic(length, [2.0], [0.03]), 0.03 * length)
    assert Hardening.of_spectrum([1.0], [0.03], 50.0, 1).coefficients == pytest.approx((1.0,))


def test_thin_objects_have_the_mean_attenuation_and_thick_ones_less():
    p = polychromatic(torch.tensor([1e-6, 40.0], dtype=F64), WEIGHTS, MU)
    assert float(p[0]) / 1e-6 == pytest.approx(MEAN, rel=1e-5)
    assert float(p[1]) / 40 < 0.9 * MEAN


@pytest.mark.parametrize("way", ["spectrum", "disc"])
def test_corrected_line_integrals_are_linear_in_the_path(way):
    length, p = DISC.lengths(PARALLEL), polychromatic_scan()
    if way == "spectrum":
        correction = Hardening.of_spectrum(WEIGHTS, MU, 42.0)
    else:
        found = fit_hardening(p, length, 6)
        correction = found.correction
        assert found.attenuation == pytest.approx(MEAN, rel=1e-3)
        assert found.rms < 1e-3
    used = length > 4
    ratio = correction(p)[used] / length[used]
    assert float((ratio / MEAN - 1).abs().max()) < 2e-3
    assert float((p[used] / length[used] / MEAN - 1).abs().max()) > 0.1


def test_the_cup_vanishes():
    operator = Radon((96, 96), PARALLEL, spacing=(0.5, 0.5))
    p = polychromatic_scan()
    at = (torch.arange(96, dtype=F64) - 47.5) * 0.5
    away = torch.hypot(at[None, :] - DISC.x, -at[:, None] - DISC.y)

    def cup(values):
        image = fbp(Measurement(operator, values[None, None])).image[0, 0]
        middle, rim = image[away < 6].mean(), image[(away > 15) & (away < 18)].mean()
        return float(rim / middle - 1), float(middle)

    before, _ = cup(p)
    after, level = cup(fit_hardening(p, DISC.lengths(PARALLEL), 6).correction(p))
    assert before > 0.05
    assert abs(after) < 3e-3
    assert level == pytest.approx(MEAN, rel=5e-3)


def test_the_slope_is_the_derivative():
    correction = Hardening((1.0, -0.07, 0.09))
    p = torch.linspace(-0.1, 2.5, 27, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(correction(p).sum(), p)
    torch.testing.assert_close(correction.slope(p.detach()), slope)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Hardening((0.0, 1.0)), "a1 above 0"),
        (lambda: Hardening((1.0, -0.3)).check(torch.tensor([2.0])), "falls from"),
        (lambda: polychromatic(torch.ones(2), [1.0, 1.0], [0.1]), "2 weights and 1 attenuations"),
        (lambda: fit_hardening(torch.ones(3, 3), torch.ones(3, 3), 9), "whole number from 1 to 6"),
        (lambda: fit_hardening(torch.ones(3, 3), torch.ones(2, 3)), "that of the line integrals"),
        (lambda: fit_hardening(torch.ones(3, 3), torch.ones(3, 3)), "at least 30"),
    ],
)
def test_what_is_no_correction_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


# ---- air -------------------------------------------------------------------------------------------------------------


def test_air_is_taken_off_every_view():
    clean = 0.03 * DISC.lengths(PARALLEL)
    drift = 0.02 * torch.randn(90, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    tilt = drift + 0.03 * torch.linspace(0, 1, 128, dtype=F64)
    values, taken = remove_air(clean + tilt, 9)
    torch.testing.assert_close(values, clean, rtol=0, atol=1e-12)
    torch.testing.assert_close(taken, tilt, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="see air alone"):
        remove_air(0.03 * Disc(10.0, 0.0, 20.0).lengths(PARALLEL), 20)
    with pytest.raises(InputError, match="1 to 32"):
        remove_air(clean, 40)


# ---- outlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scan", [PARALLEL, FAN, FAN.subset(range(20))], ids=["parallel", "fan", "limited"])
def test_the_disc_is_found_by_its_tangents(scan):
    found = find_disc(0.03 * DISC.lengths(scan), scan, 0.1)
    assert (found.x, found.y, found.radius) == pytest.approx((3.0, -2.0, 20.0), abs=0.2)
    assert found.rms < 0.15
    assert outline("disc", 0.03 * DISC.lengths(scan), scan).radius == pytest.approx(20.0, abs=0.2)


def test_the_hull_holds_the_object_and_is_its_outline_if_seen_from_everywhere():
    size, spacing = (100, 100), (0.5, 0.5)
    body = DISC.mask(size, spacing)
    for scan, most in ((PARALLEL, 1.05), (FAN, 1.05), (PARALLEL.subset(range(15)), 5.0)):
        hull = find_hull(0.03 * DISC.lengths(scan), scan, 1e-4).mask(size, spacing)
        assert float((body & ~hull).sum()) < 0.01 * float(body.sum())
        assert float(hull.sum()) < most * float(body.sum())
    assert float(hull.sum()) > 1.05 * float(body.sum())  # a few views leave corners


def test_edges_lie_between_bins():
    """The shadow of a strip that ends within a bin: level by linear interpolation."""
    scan = ParallelBeam((0.0,), 12, 1.0)
    y = torch.tensor([[0, 0, 0, 0.5, 2, 2, 2, 2, 1.5, 0, 0, 0]], dtype=F64)
    found = shadow(y, scan, 1.0)
    assert float(found.first[2][0]) == pytest.approx(-5.5 + 3 + 1 / 3)
    assert float(found.last[2][0]) == pytest.approx(-5.5 + 8 + 1 / 3)


def test_what_has_no_outline_is_refused():
    p = 0.03 * DISC.lengths(PARALLEL)
    with pytest.raises(InputError, match="no ray above"):
        shadow(torch.cat([p[:1] * 0, p[1:]]), PARALLEL)
    with pytest.raises(InputError, match="inside the field of view"):
        shadow(p[:, 40:], ParallelBeam(PARALLEL.angles, 88, 0.5))
    with pytest.raises(InputError, match="views and bins"):
        shadow(p[1:], PARALLEL)


# ---- from arrays -----------------------------------------------------------------------------------------------------


def arrays(values, scan=PARALLEL):
    return {"sinogram": values.numpy(), "angles": np.degrees(scan.angles)}


def described(**corrections):
    scan = {"pitch": 0.5, "angles": "angles", "angle_unit": "deg"}
    return {"problem": "tomography", "data": "sinogram", "scan": scan, "corrections": corrections,
            "image": {"size": 96, "spacing": 0.5}}  # fmt: skip


@pytest.mark.parametrize(
    ("hardening", "tight"),
    [
        ({"fit": "disc", "order": 4}, 0.01),
        ({"fit": "threshold", "order": 3}, 0.03),
        ({"weights": list(WEIGHTS), "attenuation": list(MU), "reach": 42.0, "order": 6}, 0.01),
    ],
)
def test_reconstruct_corrects_and_says_how(hardening, tight):
    p = polychromatic_scan()
    done = retrodict.reconstruct(arrays(p), config=described(hardening=hardening), sigma=0.01)
    image = done.image.values[0].double()
    at = (torch.arange(96, dtype=F64) - 47.5) * 0.5
    away = torch.hypot(at[None, :] - DISC.x, -at[:, None] - DISC.y)
    middle, rim = image[away < 6].mean(), image[(away > 14) & (away < 17)].mean()
    assert float(rim / middle - 1) == pytest.approx(0, abs=tight)
    about = done.details["measurement"]["corrections"]
    assert about["hardening"]["coefficients"][0] == pytest.approx(1.0)
    assert about["noise"] == "GaussianNoise, a deviation for every ray"
    again = described(hardening=about["hardening"]["coefficients"])
    other = retrodict.reconstruct(arrays(p), config=again, sigma=0.01)
    torch.testing.assert_close(other.image.values, done.image.values)


@pytest.mark.parametrize(
    ("hardening", "said"),
    [
        ({}, "corrections.hardening.*nothing"),
        ({"fit": "disc", "coefficients": [1.0]}, "coefficients, fit"),
        ({"weights": [1.0]}, "part of a spectrum"),
        ([1.0, -0.5], "falls from"),
    ],
)
def test_descriptions_that_are_none_are_refused(hardening, said):
    with pytest.raises(InputError, match=said):
        retrodict.reconstruct(arrays(polychromatic_scan()), config=described(hardening=hardening))


def test_a_limited_angle_does_not_show_the_shape():
    part = PARALLEL.subset(range(40))
    with pytest.raises(InputError, match="leave the shape"):
        retrodict.reconstruct(arrays(polychromatic_scan(part), part), config=described(hardening={"fit": "threshold"}))


def test_bounds_by_name_reach_the_method():
    p = 0.03 * DISC.lengths(PARALLEL)
    settings = ["strength=1", "iterations=30", "upper=0.02", "support=disc", "weights=[1, 2]", "direction=views"]
    done = retrodict.reconstruct(arrays(p), config=described(), sigma=0.01, method="fista", set=settings)
    image, body = done.image.values[0], DISC.mask((96, 96), (0.5, 0.5))
    assert float(image.max()) == pytest.approx(0.02)
    at = (torch.arange(96, dtype=F64) - 47.5) * 0.5
    assert float(image[torch.hypot(at[None, :] - 3, -at[:, None] + 2) > 20.5].abs().max()) == 0
    assert float(image[body].mean()) > 0.019
    for wrong, said in (("support=ball", "ball"), ("direction=north", "views"), ("weights=2", "list of numbers")):
        with pytest.raises(InputError, match=said):
            retrodict.reconstruct(arrays(p), config=described(), sigma=0.01, method="fista", set=["strength=1", wrong])


def test_a_fan_that_runs_the_other_way_is_turned_round():
    """The same scan written from the last bin to the first, from the other side."""
    body = Disc(8.0, 5.0, 6.0)
    p = 0.03 * body.lengths(FAN)
    degrees = np.degrees(FAN.angles)
    scan = {"beam": "fan", "pitch": 0.9, "angles": "angles", "angle_unit": "deg", "source": 120.0, "detector": 200.0}
    image = {"size": 64, "spacing": 0.8}
    config = {"problem": "tomography", "data": "sinogram", "scan": scan, "image": image}
    plain = retrodict.reconstruct({"sinogram": p.numpy(), "angles": degrees}, config=config)
    other = {**config, "scan": {**scan, "reversed": True, "turn": 30.0, "center": 63.5}}
    written = {"sinogram": p.flip(1).numpy(), "angles": degrees - 30}
    again = retrodict.reconstruct(written, config=other)
    torch.testing.assert_close(again.image.values, plain.image.values, rtol=0, atol=1e-6)
