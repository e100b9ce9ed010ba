"""Raw readings to line integrals, coil maps and simulated data, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from retrodict import CartesianMRI, InputError
from retrodict.physics import birdcage
from retrodict.physics.coils import calibration_size, coil_covariance, coil_maps
from retrodict.physics.convolution import Blur
from retrodict.physics.corrections import (
    dead_bins,
    fill,
    find_center,
    moments,
    noise_level,
    photon_gain,
    remove_rings,
    transmission,
)
from retrodict.tasks.recon_simulate import block_mean, coarse_psf

F64 = torch.float64


def parallel(axis, bins=101, views=91, last=180.0, start=0.0):
    """Line integrals of two Gaussians, which are closed forms under any rotation."""
    angles = [start + math.radians(last) * k / (views - 1) for k in range(views)]
    s = torch.arange(bins, dtype=F64) - axis
    a = torch.tensor(angles, dtype=F64)[:, None]
    total = torch.zeros(views, bins, dtype=F64)
    for x, y, w, h in ((12.0, -7.0, 5.0, 1.0), (-9.0, 4.0, 8.0, 0.6)):
        total += h * torch.exp(-0.5 * ((s - x * a.cos() - y * a.sin()) / w) ** 2)
    return total, angles


def test_the_logarithm_is_that_of_the_transmission():
    p = torch.tensor([[0.0, 1.0, 2.0]], dtype=F64)
    beam, dark = torch.tensor([900.0, 1100.0, 1000.0], dtype=F64), torch.tensor([10.0, 20.0, 30.0], dtype=F64)
    readings = (beam - dark) * torch.exp(-p) + dark
    found = transmission(readings, beam, dark)
    torch.testing.assert_close(found.values, p, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.open_beam, beam - dark)
    assert not bool(found.starved.any())
    low = transmission(torch.tensor([[5.0, 21.5, 31.0]], dtype=F64), beam, dark)
    assert low.starved.tolist() == [[True, False, False]]
    assert float(low.values[0, 0]) == pytest.approx(math.log(890.0))


def test_the_gain_is_the_variance_of_photons_over_their_mean():
    draw = torch.Generator().manual_seed(0)
    gain, photons, bins, n = 0.4, 5000.0, 400, 60
    drift = 1 + 0.05 * torch.randn(n, 1, dtype=F64, generator=draw)  # of the beam: no noise of photons
    counted = torch.poisson((photons * drift).expand(n, bins), generator=draw)
    flats = gain * counted + 100 + 3 * torch.randn(n, bins, dtype=F64, generator=draw)
    darks = 100 + 3 * torch.randn(n, bins, dtype=F64, generator=draw)
    found = photon_gain(flats, darks)
    # variance of 60 draws is known to sqrt(2 / 59) = 0.18, the median of 400 of them to 0.18 * 1.25 / 20 = 0.012;
    # and the median of chi^2 lies 2 / (3 * 59) below its mean
    assert found.gain == pytest.approx(gain, rel=0.05)
    assert found.electronic == pytest.approx(3.0, rel=0.05)
    with pytest.raises(InputError, match="at least three"):
        photon_gain(flats[:2], darks)


def test_dead_bins_and_holes_are_filled_by_the_line_between_neighbors():
    values = torch.arange(10, dtype=F64).expand(4, 10) * torch.arange(1, 5, dtype=F64)[:, None]
    missing = torch.zeros(10, dtype=torch.bool)
    missing[[0, 4, 5]] = True
    found = fill(torch.where(missing, -99.0, values), missing)
    torch.testing.assert_close(found[:, 1:], values[:, 1:], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[:, 0], values[:, 1])  # at the end: the nearest
    beam = torch.full((50,), 100.0, dtype=F64)
    beam[7] = 2.0
    readings = 50 + torch.rand(6, 50, dtype=F64, generator=torch.Generator().manual_seed(0))
    readings[:, 30] = 65535.0
    assert torch.nonzero(dead_bins(beam, readings)).flatten().tolist() == [7, 30]
    with pytest.raises(InputError, match="without a single usable bin"):
        fill(values, torch.ones(10, dtype=torch.bool))


def test_a_stripe_goes_and_what_is_wider_stays():
    p, _ = parallel(50.0)
    stripe = torch.zeros(101, dtype=F64)
    stripe[40], stripe[60] = 0.3, -0.2
    found, taken = remove_rings(p + stripe, 9)
    step = float(p.mean(0).diff().abs().max())  # a median of 9 moves by less than a sample where one of them is off
    assert float((taken - stripe)[[40, 60]].abs().max()) < step
    clean, none = remove_rings(p, 9)
    assert float(none.abs().max()) < step  # what is wider than the filter stays
    assert float((found - clean).abs().max()) < 2 * step
    with pytest.raises(InputError, match="odd"):
        remove_rings(p, 4)


@pytest.mark.parametrize("axis", [50.0, 46.37, 55.5])
@pytest.mark.parametrize("last", [180.0, 178.0])
def test_the_axis_is_found_to_a_tenth_of_a_bin(axis, last):
    p, angles = parallel(axis, last=last)
    found = find_center(p, angles)
    assert found.bin == pytest.approx(axis, abs=0.1)
    assert found.by_moments == pytest.approx(axis, abs=0.01)
    assert found.explained > 0.999
    wrong = moments(p, [2.3 * a for a in angles])
    assert wrong[1] < 0.9


def test_an_axis_needs_half_a_turn():
    p, angles = parallel(50.0, last=120.0)
    with pytest.raises(InputError, match="no two views closer to half a turn than 120 degrees"):
        find_center(p, angles)


@pytest.mark.parametrize("axes", [(-1,), (-2, -1)])
def test_the_level_of_white_noise_is_found_on_smooth_data(axes):
    draw = torch.Generator().manual_seed(0)
    smooth = torch.sin(torch.linspace(0, 6, 200, dtype=F64)) * torch.linspace(0, 1, 300, dtype=F64)[:, None]
    noisy = smooth + 0.05 * torch.randn(300, 200, dtype=F64, generator=draw)
    # the median of 60,000 absolute values: 1.25 / sqrt(60,000), neighbors being correlated
    assert noise_level(noisy, axes) == pytest.approx(0.05, rel=0.03)


# ---- coils -----------------------------------------------------------------------------------------------------------


def scanned(n=48, m=40, coils=6):
    maps = birdcage((n, m), coils)
    y, x = torch.linspace(-1, 1, n, dtype=F64)[:, None], torch.linspace(-1, 1, m, dtype=F64)
    image = ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1) * torch.polar(1 + 0.3 * torch.cos(5 * x + y), x * y)
    kspace = CartesianMRI(torch.ones(n, m), maps=maps).forward(image[None, None])[0]
    return image, maps, kspace


def test_maps_are_those_of_the_coils_up_to_a_phase():
    image, maps, kspace = scanned()
    found = coil_maps(kspace, calibration=24)
    inside = image.abs() > 0
    same = (found.conj() * maps).sum(0).abs()[inside]
    assert float(same.mean()) > 0.999
    assert float(same.min()) > 0.99
    power = (found.abs() ** 2).sum(0)
    assert bool(((power - 1).abs() < 1e-9).logical_or(power == 0).all())


def test_the_middle_that_was_measured_is_found_and_a_small_one_refused():
    mask = torch.zeros(32, 30)
    mask[16 - 5 : 16 + 6, 15 - 7 : 15 + 8] = 1
    mask[::4] = 1
    assert calibration_size(mask) == (11, 15)
    _, _, kspace = scanned(32, 30)
    kspace[:, 1::2] = 0
    with pytest.raises(InputError, match="1 x 29 fully measured"):
        coil_maps(kspace)


def test_the_covariance_of_coils_is_that_of_the_samples():
    draw = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.5j], [0.0, 2.0]], dtype=torch.complex128)
    white = torch.complex(*(torch.randn(2, 40000, dtype=F64, generator=draw) for _ in range(2))) / math.sqrt(2)
    expected = mix @ mix.mH
    found = coil_covariance(mix @ white)
    # entries of size 4 from 40,000 samples: 4 / 200
    assert float((found - expected).abs().max()) < 4 * 4 / 200
    torch.testing.assert_close(found, found.mH)


# ---- simulation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3])
def test_the_coarse_kernel_is_exact_for_images_that_are_constant_over_coarse_pixels(factor):
    draw = torch.Generator().manual_seed(0)
    psf = torch.rand(5, 7, dtype=F64, generator=draw)
    coarse = torch.rand(1, 1, 12, 10, dtype=F64, generator=draw)
    fine = coarse.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    measured = block_mean(Blur(fine.shape[-2:], psf).forward(fine), factor)
    expected = Blur((12, 10), coarse_psf(psf, factor)).forward(coarse)
    torch.testing.assert_close(measured, expected, rtol=1e-12, atol=1e-12)
