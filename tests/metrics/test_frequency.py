import pytest
import torch

from retrodict._check import InputError
from retrodict.metrics import detrend, nps, radial


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize(("shape", "spacing"), [((4, 16, 20), (0.7, 0.5)), ((1, 15, 9), 0.8)])
def test_integral_is_the_variance(shape, spacing):
    x = noise(*shape) * 12 + 40
    dy, dx = spacing if isinstance(spacing, tuple) else (spacing, spacing)
    cell = 1 / (shape[1] * dy * shape[2] * dx)
    variance = x.var((1, 2), correction=0).mean()
    assert float(nps(x, spacing).sum() * cell) == pytest.approx(float(variance), rel=1e-12)


def test_cosine_is_two_lines():
    rows = torch.arange(16, dtype=torch.float64)
    x = (6 * torch.cos(2 * torch.pi * 3 * rows / 16))[None, :, None].expand(1, 16, 8)
    out = nps(x, (0.5, 0.25))
    peak = 6**2 / 4 * (16 * 0.5 * 8 * 0.25)  # half of the variance a^2 / 2 in each line, over the cell du dv
    assert float(out[3, 0]) == pytest.approx(peak)
    assert float(out[-3, 0]) == pytest.approx(peak)
    assert float(out.sum()) == pytest.approx(2 * peak)


def test_white_noise_is_flat_at_variance_times_pixel_area():
    f, value = radial(nps(noise(400, 32, 32) * 10, 0.8), 0.8, 8)
    assert torch.allclose(value, torch.full_like(value, 100 * 0.64), rtol=0.05)
    assert float(f[-1]) <= 0.5 / 0.8


def test_radial_reads_a_known_function_of_frequency():
    dy, dx = 0.5, 1.0
    v = torch.fft.fftfreq(64, dy, dtype=torch.float64)[:, None]
    u = torch.fft.fftfreq(48, dx, dtype=torch.float64)[None, :]
    f, value = radial(3 * torch.hypot(v, u) + 1, (dy, dx), 12)
    assert torch.allclose(value, 3 * f + 1, rtol=1e-12)  # exact: the ring reports its mean frequency
    assert float(f.max()) <= 0.5
    assert bool((f.diff() > 0).all())


def test_radial_leaves_out_zero_frequency_and_empty_rings():
    spectrum = torch.ones(8, 8)
    spectrum[0, 0] = 1e9
    f, value = radial(spectrum, 1.0, 100)
    assert torch.equal(value, torch.ones_like(value))
    assert len(f) < 20
    assert float(f[0]) == pytest.approx(1 / 8)


def test_detrend_removes_a_surface_and_keeps_the_rest():
    row, col = torch.meshgrid(torch.arange(24).double(), torch.arange(20).double(), indexing="ij")
    surface = 5 + 2 * row - col + 0.1 * row * col + 0.3 * row**2 - 0.2 * col**2
    assert float(detrend(surface[None]).abs().max()) < 1e-10
    x = noise(2, 24, 20)
    assert torch.allclose(detrend(x + surface), detrend(x), atol=1e-10)
    assert float(detrend(x).var() / x.var()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("spacing", [0, -1.0, (1.0, 0), float("nan"), float("inf")])
def test_refuses_bad_spacing(spacing):
    with pytest.raises(InputError, match="spacing"):
        nps(torch.ones(1, 4, 4), spacing)


def test_refuses_bad_shapes():
    with pytest.raises(InputError, match="region_stack"):
        nps(torch.ones(4, 4), 1.0)
    with pytest.raises(InputError, match="nps2d"):
        radial(torch.ones(1, 4, 4), 1.0, 4)
    with pytest.raises(InputError, match="bins"):
        radial(torch.ones(4, 4), 1.0, 0)
