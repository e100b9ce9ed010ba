"""NPS, autocorrelation and whiteness of known noise; finding and refusing regions."""

import math

import pytest
import torch

from retrodict._check import InputError
from retrodict.metrics.noise import autocorrelation, noise_fields, noise_spectrum, ring_average, whiteness
from retrodict.metrics.regions import Region, check_uniform, cut, find_uniform

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
