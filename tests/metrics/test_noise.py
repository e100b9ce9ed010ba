"""NPS, autocorrelation and whiteness of known noise; finding and refusing regions."""

import math

import pytest
import torch

from retrodict._check import InputError
from retrodict.metrics.noise import (
    autocorrelation,
    noise_fields,
    noise_spectrum,
    ring_average,
    ring_sizes,
    whiteness,
)
from retrodict.metrics.overlap import independent_regions
from retrodict.metrics.regions import Region, check_uniform, cut, find_uniform, roughness

D = 0.7  # mm


def colored(count, side, seed, spacing=D):
    """Stationary noise with NPS S(f) = 40 f^2 exp(-(f/0.25)^2) + 1, periodic; returns (fields, NPS on the plane)."""
    f = torch.fft.fftfreq(side, spacing, dtype=torch.float64)
    rho = torch.hypot(f[:, None], f[None])
    nps = 40 * rho**2 * torch.exp(-((rho / 0.25) ** 2)) + 1
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(count, side, side, generator=draw, dtype=torch.float64)
    return torch.fft.ifft2(torch.fft.fft2(z) * (nps / spacing**2).sqrt()).real, nps


@pytest.mark.parametrize("how", ["mean", "poly2"])
def test_the_integral_is_the_variance(how):
    fields, _ = colored(8, 32, 0)
    s = noise_spectrum(fields, D, how=how)
    assert abs(float(s.plane.sum()) / (32 * D) ** 2 / s.variance - 1) < 1e-12
    assert abs(s.integral_error) < 1e-12


def test_periodic_fields_give_the_known_spectrum():
    fields, nps = colored(400, 64, 1)
    s = noise_spectrum(fields, D, how="mean")
    plane = s.plane / nps
    plane[0, 0] = 1
    assert abs(float(plane.mean()) - 1) < 0.005
    assert abs(float(plane.std()) * math.sqrt(400) - 1) < 0.1  # 1/sqrt(K) per bin (spec 6.2)
    truth = ring_average(nps, D)[1]
    assert float((s.value / truth - 1).abs()[1:].max()) < 0.05
    assert float(s.frequency[-1]) == pytest.approx(0.5 / D)


def test_bands_cover_the_truth():
    hits = []
    for seed in range(40):
        fields, nps = colored(12, 32, seed)
        s = noise_spectrum(fields, D, how="mean", bootstrap=200, seed=seed)
        truth = ring_average(nps, D)[1]
        hits.append(((s.lower <= truth) & (truth <= s.upper)).double().mean())
    assert 0.86 < float(torch.stack(hits).mean()) < 0.97  # a bootstrap of 12 is a little short of 95 %


def test_a_finite_region_leaks_only_where_it_is_said_to():
    field, nps = colored(6, 512, 2)
    tiles = field.unfold(1, 32, 32).unfold(2, 32, 32).reshape(-1, 32, 32)
    s = noise_spectrum(tiles, D, how="poly2")
    truth, where = ring_average(nps, D)
    truth = torch.tensor([float(where[(truth - f).abs().argmin()]) for f in s.frequency])
    ratio = s.value / truth
    assert float((ratio - 1).abs()[s.frequency > s.reliable_from].max()) < 0.1
    assert float((ratio - 1).abs()[0]) > 0.1  # the size of the region biases the lowest ring: the trap


def test_repeats_remove_structure():
    noise, nps = colored(6 * 5, 32, 3)
    structure = 300 * torch.rand(5, 32, 32, dtype=torch.float64)
    scans = structure + noise.reshape(6, 5, 32, 32)
    truth = ring_average(nps, D)[1]
    for how, x in (("ensemble", scans), ("pair", scans[:2])):
        value = noise_spectrum(x, D, how=how).value
        assert abs(float((value / truth)[3:].mean()) - 1) < 0.12
    fields, factor = noise_fields(scans, "ensemble")
    assert factor == 6 / 5
    assert fields.shape == (30, 32, 32)
    expected = float(noise.var())
    assert abs(float(fields.square().mean()) * factor / expected - 1) < 0.05


def test_autocorrelation_is_that_of_the_filter():
    draw = torch.Generator().manual_seed(4)
    z = torch.randn(200, 40, 41, generator=draw, dtype=torch.float64)
    x = z[:, :, 1:] + 0.5 * z[:, :, :-1]  # rho(1 column) = 0.5 / 1.25
    rho = autocorrelation(x, 1.0, how="mean", reach=3)
    assert abs(float(rho[3, 4]) - 0.4) < 0.01
    assert float(rho[3, 3]) == 1
    assert abs(float(rho[4, 3])) < 0.01
    assert torch.allclose(rho, rho.flip(0, 1), atol=1e-12)


@pytest.mark.parametrize("how", ["mean", "poly2", "ensemble"])
def test_whiteness_has_its_level_and_sees_correlation(how):
    def draw(seed, correlation=0.0):
        z = torch.randn(60, 32, 33, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        x = z[..., 1:] + correlation * z[..., :-1]
        return x.reshape(4, 15, 32, 32) if how == "ensemble" else x

    p = torch.tensor([whiteness(draw(s), how=how).p_value for s in range(60)])
    assert float((p < 0.05).double().mean()) < 0.15
    assert abs(float(p.mean()) - 0.5) < 0.13
    result = whiteness(draw(0, 0.05), how=how)
    assert not result.white
    assert result.lag in ((0, 1), (0, -1))


def test_uniform_regions_are_found_beside_structure():
    noise, _ = colored(2, 256, 5)
    image = noise + 40
    image[:, 100:140, 100:200] += 30 * torch.rand(40, 100, dtype=torch.float64).cumsum(0)
    image[:, :, 220:] = -1000.0  # air, clipped
    regions = find_uniform(image, 32, count=200, lowest=-900)
    assert len(regions) > 20
    assert not [r for r in regions if r.row + 32 > 100 and r.row < 140 and r.column + 32 > 100 and r.column < 200]
    assert all(r.column + 32 <= 220 for r in regions)
    check_uniform(cut(image, regions), regions)


def region_of(kind):
    draw = torch.Generator().manual_seed(6)
    x = 10 * torch.randn(3, 32, 32, generator=draw, dtype=torch.float64)
    if kind == "edge":
        x[1, :, 16:] += 400
    elif kind == "insert":
        x[1, 10:14, 10:14] += 300
    elif kind == "clipped":
        x[1] = x[1].clamp(max=8.0)
    elif kind == "flat":
        x[1] = 5.0
    return x


@pytest.mark.parametrize(
    ("kind", "said"),
    [("edge", "structure"), ("insert", "structure"), ("clipped", "saturated or clipped"), ("flat", "one value")],
)
def test_regions_that_are_not_uniform_are_refused(kind, said):
    regions = [Region(0, 0, 32 * k, 32) for k in range(3)]
    check_uniform(region_of("good"), regions)
    with pytest.raises(InputError, match=said) as error:
        check_uniform(region_of(kind), regions)
    assert "columns 32:64" in str(error.value)


def test_too_little_is_an_error():
    x = region_of("good")
    with pytest.raises(InputError, match="at least 2 for a confidence band"):
        noise_spectrum(x[:1], 1.0)
    with pytest.raises(InputError, match="even sides"):
        noise_spectrum(x[:, :31, :31], 1.0)
    with pytest.raises(InputError, match="at least 2 repeated scans"):
        noise_fields(x[None], "ensemble")
    with pytest.raises(InputError, match="leaves the image"):
        cut(x, [Region(0, 0, 10, 32)])


@pytest.mark.parametrize("count", [2, 4])
def test_bands_of_few_regions_cover(count):
    hits = []
    for seed in range(60):
        fields, nps = colored(count, 32, seed)
        s = noise_spectrum(fields, D, how="mean", bootstrap=200, seed=seed)
        truth = ring_average(nps, D)[1]
        hits.append(((s.lower <= truth) & (truth <= s.upper)).double().mean())
    assert 0.91 < float(torch.stack(hits).mean()) < 0.99


def test_a_level_that_scatters_between_regions_widens_the_band():
    fields, _ = colored(12, 32, 0)
    level = torch.linspace(0.6, 1.4, 12, dtype=torch.float64)[:, None, None]
    even, uneven = (noise_spectrum(f, D, how="mean") for f in (fields, level * fields))
    width = [(s.upper / s.lower).log()[8:].mean() for s in (even, uneven)]
    assert float(width[1] / width[0]) > 2


def test_rings_beyond_the_lower_nyquist_frequency_are_kept_and_counted():
    plane = torch.ones(32, 32, dtype=torch.float64)
    frequency, value = ring_average(plane, (2.0, 0.5))
    assert float(frequency[-1]) == pytest.approx(1.0)
    assert torch.equal(value, torch.ones_like(value))
    assert int(ring_sizes((32, 32), (2.0, 0.5)).sum()) <= 32 * 32


def test_the_average_frequency_of_white_noise_is_the_middle_of_its_rings():
    z = torch.randn(200, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    s = noise_spectrum(3 * z, D, how="mean")
    assert s.sd == pytest.approx(3, rel=0.01)
    assert s.average_frequency == pytest.approx(float(s.frequency.mean()), rel=0.01)


def test_overlapping_squares_and_slices_count_as_what_they_are_worth():
    z = torch.randn(20, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart = [Region(k, 0, 32 * (k % 2), 32) for k in range(16)]
    free, along = independent_regions([z], [apart])
    assert (free, along) == (16, [])
    smooth = torch.stack([z[k : k + 5].sum(0) for k in range(16)])
    same = [Region(k, r, c, 32) for k in range(16) for r in (0, 32) for c in (0, 32)]
    free, along = independent_regions([smooth], [same])
    assert along[:4] == pytest.approx([0.8, 0.6, 0.4, 0.2], abs=0.05)
    pairs = sum(max(0.0, 1 - abs(i - j) / 5) ** 2 for i in range(16) for j in range(16))
    assert free == pytest.approx(4 * 16**2 / pairs, rel=0.1)
    half = independent_regions([z], [[Region(0, 0, 0, 32), Region(0, 0, 16, 32)]])[0]
    assert half == pytest.approx(4 / 2.5)


def test_slices_that_share_data_are_not_more_proof_against_whiteness():
    z = torch.randn(30, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    repeated = z.repeat_interleave(8, 0)
    told, untold = (whiteness(repeated, independent=n) for n in (30.0, None))
    assert told.p_value == pytest.approx(whiteness(z).p_value, abs=1e-6)
    assert untold.statistic == pytest.approx(8 * told.statistic)


def skull(slices=3):
    """A ring of bone and a textured surrounding, and one uniform place of 48 pixels in each slice."""
    draw = torch.Generator().manual_seed(2)
    y, x = torch.meshgrid(torch.arange(192.0) - 96, torch.arange(192.0) - 96, indexing="ij")
    r = torch.hypot(y, x).double()
    texture = 400 * torch.sin(0.7 * x + 0.02 * y**2).double() * torch.cos(0.9 * y).double()
    image = torch.where(r < 36, 40.0, torch.where(r < 60, 900.0, torch.where(r < 80, texture, -300 + texture)))
    return image + 4 * torch.randn(slices, 192, 192, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_squares_across_bone_and_in_texture_are_not_found(size):
    image = skull()
    regions = find_uniform(image, size)
    assert len(regions) >= 2
    for r in regions:
        corners = [(a, b) for a in (r.row - 96, r.row + size - 97) for b in (r.column - 96, r.column + size - 97)]
        inside = max(math.hypot(a, b) for a, b in corners) < 37
        bone = all(35 < math.hypot(a, b) < 61 for a, b in corners)
        assert inside or bone
    assert float(cut(image, regions).std((-2, -1)).mean()) == pytest.approx(4, rel=0.15)


def test_an_image_of_edges_alone_is_refused():
    x = torch.arange(160)
    bars = 400.0 * ((x // 11) % 2)[None, None].double().expand(2, 160, 160)
    noise = 4 * torch.randn(2, 160, 160, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with pytest.raises(InputError, match="hold nothing but noise"):
        find_uniform(bars + noise, 32)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_noise_is_not_rough_whatever_its_color(size):
    fields, _ = colored(300, 64, 7)
    white = torch.randn(300, 64, 64, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    for x in (fields, white):
        limit = torch.tensor([1 + 8 * k / size for k in (1, 2, 4) if size // k >= 4], dtype=torch.float64)
        assert float((roughness(x[:, :size, :size]) > limit).any(1).double().mean()) < 0.02
