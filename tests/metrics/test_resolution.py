"""MTF of known blurs, the traps of the field as tests, and objects that are none."""

import math

import pytest
import torch
from torch.nn import functional as F

from retrodict._check import InputError
from retrodict.metrics.resolution import circular_edge_mtf, crossing, edge_mtf, point_mtf


def gaussian(frequency, sigma):
    return torch.exp(-2 * math.pi**2 * sigma**2 * frequency**2)


def edge(sigma, angle=5.0, noise=0.0, seed=0, shape=(256, 128), contrast=1000.0):
    """Point-sampled erf edge; sigma in px."""
    rows = torch.arange(shape[0], dtype=torch.float64)[:, None] - shape[0] / 2
    columns = torch.arange(shape[1], dtype=torch.float64)[None] - shape[1] / 2 - 0.3
    distance = columns * math.cos(math.radians(angle)) - rows * math.sin(math.radians(angle))
    image = contrast * 0.5 * (1 + torch.erf(distance / (sigma * math.sqrt(2))))
    draw = torch.Generator().manual_seed(seed)
    return image + noise * torch.randn(shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize(("sigma", "half", "tolerance"), [(0.425, 16, 0.0012), (0.425, 32, 0.002), (1.0, 32, 0.002)])
def test_noise_free_edge(sigma, half, tolerance):
    r = edge_mtf(edge(sigma), 1.0, half_width=half, window="hann", bootstrap=10)
    assert float((r.value - gaussian(r.frequency, sigma)).abs().max()) < tolerance
    assert abs(r.details["angle_degrees"] - 5) < 1e-3
    assert abs(r.mtf50[0] - 0.1873906251 / sigma) < 0.004 / sigma
    assert abs(r.contrast - 1000) < 1e-6


def test_noisy_edge_has_the_spread_that_the_spec_gives():
    values = []
    for seed in range(12):
        r = edge_mtf(edge(0.425, noise=20, seed=seed), 1.0, half_width=16, bootstrap=4)
        values.append(r.value - gaussian(r.frequency, 0.425))
    error = torch.stack(values)
    for f, sd in ((0.1, 0.001), (0.3, 0.007), (0.5, 0.011)):
        at = int((r.frequency - f).abs().argmin())
        assert float(error[:, at].std()) < 3 * sd
        assert abs(float(error[:, at].mean())) < 0.01
    # the trap: edges from one centroid of the derivative over whole rows scatter by more than a pixel, which alone
    # would multiply the MTF at Nyquist by exp(-2 pi^2 0.25) < 0.01
    slope = F.pad(edge(0.425, noise=20).diff(dim=1), (0, 1))
    place = (slope * (torch.arange(128) + 0.5)).sum(1) / slope.sum(1)
    rows = torch.arange(256, dtype=torch.float64) - 128
    assert float((place - rows * math.tan(math.radians(5))).std()) > 1


def test_bands_and_spacing_and_orientation():
    """A 95 % band holds the truth in most of twelve draws (in fewer than nine with probability 0.0004)."""
    held = torch.zeros(2)
    for draw in range(12):
        r = edge_mtf(-edge(0.8, angle=-4, noise=20, seed=draw).T, 0.5, bootstrap=60, seed=1)
        truth = 2 * 0.1873906251 / 0.8, 2 * 0.3415411008 / 0.8
        held += torch.tensor([band[1] < f < band[2] for band, f in zip((r.mtf50, r.mtf10), truth, strict=True)])
        assert r.contrast == pytest.approx(-1000, rel=0.01)
        assert r.noise == pytest.approx(20, rel=0.05)
    assert held.min() >= 9


def test_a_filtered_edge_gives_the_filter():
    """Spec T12: an edge filtered by H_y (eq. 29), divided by the MTF of the edge itself."""
    f = torch.fft.fftfreq(512, dtype=torch.float64)
    rho = torch.hypot(f[:, None], f[None])
    s = 0.42466090014400953

    def transfer(radius):
        narrow, wide = gaussian(radius, s), gaussian(radius, 3 * s)
        return wide + 0.5 * (narrow - wide) + 0.1 * (1 - narrow)

    image = torch.fft.ifft2(torch.fft.fft2(edge(s, shape=(512, 512))) * transfer(rho)).real
    r = edge_mtf(image[128:384, 128:384], 1.0, half_width=32, window="hann", bootstrap=4)
    ratio = r.value / gaussian(r.frequency, s)
    assert float((ratio - transfer(r.frequency)).abs().max()) < 0.004


def test_a_narrow_window_is_refused_or_replaced():
    image = edge(2.0)
    with pytest.raises(InputError, match="half width 16"):
        edge_mtf(image, 1.0, half_width=16, window="hann")
    r = edge_mtf(image, 1.0, half_width=16, bootstrap=4)
    assert r.details["window"] == "tukey"
    assert float((r.value - gaussian(r.frequency, 2.0)).abs().max()) < 0.02


def disc(side, radius, sigma, contrast=200.0, noise=0.0, slices=1, seed=0, fine=8):
    """Blurred disc, drawn on a fine grid and point-sampled."""
    axis = (torch.arange(side * fine, dtype=torch.float64) + 0.5) / fine - 0.5
    inside = ((axis[:, None] - side / 2 + 0.3) ** 2 + (axis[None] - side / 2 - 0.2) ** 2).sqrt() < radius
    f = torch.fft.fftfreq(side * fine, 1 / fine, dtype=torch.float64)
    blur = gaussian(torch.hypot(f[:, None], f[None]), sigma)
    shift = torch.exp(2j * math.pi * f / (2 * fine))  # sample at pixel centres
    spectrum = torch.fft.fft2(inside.double()) * blur * shift[:, None] * shift[None]
    image = contrast * torch.fft.ifft2(spectrum).real[fine // 2 - 1 :: fine, fine // 2 - 1 :: fine]
    draw = torch.Generator().manual_seed(seed)
    return image + noise * torch.randn(slices, side, side, generator=draw, dtype=torch.float64)


def test_circular_edge():
    r = circular_edge_mtf(disc(128, 25, 1.2), 0.8, window="hann", bootstrap=4)
    assert float((r.value - gaussian(r.frequency * 0.8, 1.2)).abs().max()) < 0.02
    assert r.details["radius_mm"] == pytest.approx(20, abs=0.3)
    assert r.details["center_px"] == pytest.approx([63.7, 64.2], abs=0.02)
    noisy = circular_edge_mtf(disc(128, 25, 1.2, noise=20, slices=12), 0.8)
    assert noisy.mtf50[0] == pytest.approx(0.1873906251 / 1.2 / 0.8, rel=0.05)
    assert noisy.mtf50[1] < noisy.mtf50[0] < noisy.mtf50[2]


def bead(sigma, noise=0.0, slices=8, side=96):
    y = torch.arange(side, dtype=torch.float64) - side / 2 + 0.3
    x = torch.arange(side, dtype=torch.float64) - side / 2 - 0.2
    psf = 1000 * torch.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * sigma**2))
    draw = torch.Generator().manual_seed(0)
    return psf + noise * torch.randn(slices, side, side, generator=draw, dtype=torch.float64)


def test_point():
    r = point_mtf(bead(0.9), 0.5, bootstrap=4)
    assert float((r.value - gaussian(r.frequency * 0.5, 0.9)).abs().max()) < 0.002
    noisy = point_mtf(bead(0.9, noise=2.0), 0.5)
    assert noisy.mtf50[1] < 2 * 0.1873906251 / 0.9 < noisy.mtf50[2]
    thick = point_mtf(bead(0.9), 0.5, diameter=0.4, bootstrap=4)
    x = math.pi * 0.4 * r.frequency[-1]
    assert float(thick.value[-1] / r.value[-1]) == pytest.approx(float(x / (2 * torch.special.bessel_j1(x))), rel=1e-9)


def test_the_size_of_the_region_matters_and_is_checked():
    with pytest.raises(InputError, match="half width"):
        point_mtf(bead(2.0, side=48), 1.0)


def bad(kind):
    if kind == "nothing":
        return torch.randn(128, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if kind == "straight":
        return edge(0.6, angle=0.0, noise=5)
    if kind == "clipped":
        return edge(0.6, noise=20).clamp(max=1000.0)
    if kind == "two":
        return edge(0.6, noise=5) + edge(0.6, angle=-20, noise=5).flip(1)
    if kind == "narrow":
        return edge(0.6)[:, 60:77]
    raise ValueError(kind)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nothing", "agree on where the edge is"),
        ("straight", "1 to 45 degrees"),
        ("clipped", "saturated or clipped"),
        ("two", "uniform material on both sides"),
        ("narrow", "at least"),
    ],
)
def test_what_is_no_edge_is_refused(kind, said):
    with pytest.raises(InputError, match=said):
        edge_mtf(bad(kind), 1.0)


def test_other_objects_that_are_none():
    with pytest.raises(InputError, match="square pixels"):
        edge_mtf(edge(0.6), (1.0, 0.7))
    with pytest.raises(InputError, match="stands out"):
        circular_edge_mtf(disc(96, 20, 1.0, contrast=1.0, noise=20), 1.0)
    box = torch.zeros(128, 128, dtype=torch.float64)
    box[50:78, 34:94] = 100
    with pytest.raises(InputError, match="not round"):
        circular_edge_mtf(box, 1.0)
    with pytest.raises(InputError, match="stands out"):
        point_mtf(bad("nothing"), 1.0)
    with pytest.raises(InputError, match="saturated"):
        point_mtf(bead(1.5, noise=1.0, slices=1).clamp(max=400.0), 1.0)
    sphere = torch.cat([disc(128, r, 1.0, noise=2) for r in (20, 24, 28)])
    with pytest.raises(InputError, match="cylinder"):
        circular_edge_mtf(sphere, 1.0)


def test_crossing():
    f = torch.tensor([0.0, 0.1, 0.2, 0.3])
    assert crossing(f, torch.tensor([1.0, 0.8, 0.4, 0.6]), 0.5) == pytest.approx(0.175)
    assert math.isnan(crossing(f, torch.ones(4), 0.5))


def test_shading_is_taken_off_an_edge():
    rows, columns = torch.meshgrid(torch.arange(256.0) - 128, torch.arange(128.0) - 64, indexing="ij")
    shading = 2 * columns + rows + 0.01 * columns**2 + 0.005 * rows * columns
    plain, shaded = (edge_mtf(edge(0.8) + s, 1.0, bootstrap=4) for s in (torch.zeros(1), shading.double()))
    assert float((plain.value - shaded.value).abs().max()) < 5e-4
    assert shaded.contrast == pytest.approx(1000, rel=1e-3)
    assert shaded.details["shading_range"] > 100 > plain.details["shading_range"]


def test_curvature_is_taken_off_the_background_of_a_point():
    y, x = torch.meshgrid(torch.arange(96.0) - 40, torch.arange(96.0) - 50, indexing="ij")
    plain, shaded = (point_mtf(bead(0.9) + s, 0.5, bootstrap=4) for s in (torch.zeros(1), (0.05 * y * y + x).double()))
    assert float((plain.value - shaded.value).abs().max()) < 2e-3


def test_the_band_of_a_wire_holds_the_error_of_its_background():
    """Noise around the wire moves zero frequency, by which all others are divided."""
    clean, hits = bead(1.0, slices=1, side=64), 0
    for seed in range(12):
        noise = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        r = point_mtf(clean + 4 * noise, 1.0, bootstrap=100, seed=seed)
        hits += r.mtf50[1] <= 0.1873906251 <= r.mtf50[2]
    assert hits >= 9  # of 12


def test_rows_of_colored_noise_are_not_independent():
    f = torch.hypot(torch.fft.fftfreq(128)[:, None], torch.fft.fftfreq(96)[None]).double()
    blur, hits = torch.exp(-((f / 0.08) ** 2)), 0
    for seed in range(12):
        z = torch.randn(128, 96, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        noise = torch.fft.ifft2(torch.fft.fft2(z) * blur).real
        r = edge_mtf(edge(0.8, shape=(128, 96)) + 10 * noise / noise.std(), 1.0, bootstrap=40, seed=seed)
        hits += r.mtf50[1] <= 0.1873906251 / 0.8 <= r.mtf50[2]
    assert hits >= 9


@pytest.mark.parametrize("slope", [0.5, 1.0])
def test_an_angle_at_which_rows_repeat_one_another_is_refused(slope):
    with pytest.raises(InputError, match="sample the edge only every"):
        edge_mtf(edge(0.8, angle=math.degrees(math.atan(slope)), shape=(64, 200)), 1.0, half_width=16)


def test_a_wide_angle_that_samples_finely_is_as_good_as_a_narrow_one():
    r = edge_mtf(edge(0.8, angle=36, shape=(64, 200)), 1.0, half_width=16, bootstrap=4)
    assert float((r.value - gaussian(r.frequency, 0.8)).abs().max()) < 0.01


def test_a_dark_wire_that_is_cut_off_is_refused():
    with pytest.raises(InputError, match="saturated"):
        point_mtf(-bead(1.5, noise=1.0, slices=1).clamp(max=400.0), 1.0)
