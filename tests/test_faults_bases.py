"""Closed forms of bases, spectra and curves that the contracts of all bases leave open."""

from __future__ import annotations

import math

import pytest
import torch

from retrodict import InputError
from retrodict.bases import ChannelMix, Fourier, Pixel, Stack, Wavelet
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import Spectrum, channel_spectrum, radial_spectrum


def whole_plane(size, spacing):
    """|f| on the whole plane, which needs no weights: (H, W) in the order of fft2."""
    fy, fx = (torch.fft.fftfreq(n, d, dtype=torch.float64) for n, d in zip(size, spacing, strict=True))
    return torch.hypot(fy[:, None], fx[None])


@pytest.mark.parametrize("size", [(6, 5), (5, 8)])
def test_the_power_of_a_pixel_is_the_mean_over_the_whole_plane(size):
    """Not over the half spectrum without weights; frequency 0 is taken at half the fundamental of the longer side."""
    spacing = (0.7, 1.1)
    lowest = 0.5 / max(n * d for n, d in zip(size, spacing, strict=True))
    expected = (1 / (0.05 + whole_plane(size, spacing).clamp_min(lowest))).mean()
    table = Pixel(size, spacing).tabulate(lambda f: 1 / (0.05 + f))
    assert torch.allclose(table, expected.expand(size), rtol=1e-12)


def test_wavelet_coefficients_sit_in_the_middle_of_their_octave():
    """Details of level b reach from fs/4 to fs/2 of their level, fs = 2^-b / pitch; below is the approximation."""
    basis = Wavelet((16, 16), (0.5, 0.8), levels=3)
    f, band = basis.radius(), basis.band()
    for level in range(3):
        top = 0.5 / 0.8 / 2**level
        assert torch.allclose(f[band == level], torch.tensor(0.5 * (top + top / 2)).double())
    assert torch.allclose(f[band == 3], torch.tensor(0.5 * 0.5 / 0.8 / 2**3).double())  # middle of 0 to the last edge


def test_bands_are_half_open_and_end_where_they_are_told():
    """The lower edge belongs to a band, the zero frequency to the first, and corners beyond the end to none."""
    basis = Fourier((8, 8))
    radius, bands = basis.radius(), basis.bands(2, highest=0.5)
    assert [(a, b) for a, b, _ in bands] == [(0.0, 0.25), (0.25, 0.5)]
    assert torch.equal(bands[0][2], radius < 0.25)
    assert torch.equal(bands[1][2], (radius >= 0.25) & (radius < 0.5))
    assert int(sum(mask.sum() for _, _, mask in basis.bands(3))) == radius.numel()  # without an end: all there is


def test_a_power_law_is_interpolated_as_one_and_constant_beyond_its_last_node():
    spectrum = Spectrum(0.0, (0.1, 0.2, 0.4), (100.0, 25.0, 6.25))  # f^-2
    basis = Fourier((64,))
    f, found = basis.radius(), spectrum.on(basis)
    inside = (f > 0) & (f <= 0.4)
    assert torch.allclose(found[inside], f[inside] ** -2, rtol=1e-12)  # also below the first node
    assert torch.allclose(found[f > 0.4], torch.tensor(6.25).double())


def test_an_estimated_power_is_the_mean_over_the_whole_plane():
    """One annulus over all frequencies but zero, against the plain FFT: weights, window, mean and lowest edge."""
    shape, spacing = (9, 15), (1.2, 0.8)
    x = 3 + torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x += torch.linspace(0, 2, 9, dtype=torch.float64)[:, None]  # more along one axis than along the other
    taper = [torch.hann_window(n + 2, periodic=False, dtype=torch.float64)[1:-1] for n in shape]
    window = taper[0][:, None] * taper[1]
    energy = torch.fft.fft2((x - x.mean()) * window).abs() ** 2 / math.prod(shape) / (window**2).mean()
    f = whole_plane(shape, spacing)
    found = radial_spectrum(list(x), spacing, bins=1)
    assert found.mean == pytest.approx(float(x.mean()), rel=1e-12)
    assert found.power[0] == pytest.approx(float(energy[:, f > 0].mean()), rel=1e-12)
    assert found.frequency[0] == pytest.approx(float(f[f > 0].mean()), rel=1e-12)


def test_the_power_of_complex_images_is_that_of_one_component():
    x = torch.randn(1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one, both = channel_spectrum([x], (1.0, 1.0), 4), channel_spectrum([torch.complex(x, x)], (1.0, 1.0), 4)
    assert both.power == pytest.approx(one.power, rel=1e-12)


def record(frequency, value, **more):
    return {"frequency": frequency, "value": value, "unit": "1", "frequency_unit": "cycles/mm", **more}


def test_a_curve_of_two_axes_is_read_along_its_own():
    """10 fy + fx is linear in both, so the bilinear table is exact, up to the corner."""
    fy, fx = [0.0, 0.4, 1.0], [0.0, 0.2, 0.5]
    curve = Curve.parse(record([fy, fx], [[10 * a + b for b in fx] for a in fy]), "mtf")
    basis = Fourier((8, 6), (0.5, 1.0))
    y, x = (f.abs() for f in basis.frequencies())
    assert torch.allclose(curve.on(basis), 10 * y + x, atol=1e-12)


def test_a_curve_is_linear_between_its_nodes():
    curve = Curve.parse(record([0.0, 0.3, 1.0], [0.0, 0.6, 2.0]), "mtf")
    basis = Fourier((9, 7))
    assert torch.allclose(curve.on(basis), 2 * basis.radius(), rtol=1e-12)


def test_a_measured_nps_is_no_mtf():
    with pytest.raises(InputError, match="a measured NPS"):
        Curve.parse(record([0.0, 1.0], [1.0, 1.0], quantity="nps"), "mtf")
    assert Curve.parse(record([0.0, 1.0], [1.0, 1.0], quantity="mtf"), "mtf").unit == "1"


@pytest.mark.parametrize("basis", [Pixel((3, 4), complex=True), Fourier((3, 4), complex=True)])
def test_a_complex_coefficient_is_two_degrees_of_freedom(basis):
    """Two of them at each, whose mean square is half of |u|^2: they sum to those of the image, and to its energy."""
    x = torch.complex(*torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    u = basis.forward(x)
    assert torch.equal(basis.multiplicity(), torch.full((3, 4), 2.0).double())
    assert torch.allclose(basis.energy(u), (u.real**2 + u.imag**2) / 2)
    assert float((basis.multiplicity() * basis.energy(u)).sum()) == pytest.approx(float((x.abs() ** 2).sum()))


def test_variances_of_rotated_channels_go_back_by_columns():
    """x_c = sum_d m_dc u_d, so that Var x_c = sum_d m_dc^2 Var u_d; the squares of this m are not symmetric."""
    a, b = math.cos(0.5), math.sin(0.5)
    m = torch.tensor([[a, -b, 0], [0, 0, 1], [b, a, 0]], dtype=torch.float64)
    basis, variance = ChannelMix.of(Fourier((4, 4)), m), torch.tensor([[1.0, 5.0, 9.0]], dtype=torch.float64)
    covariance = m.T @ torch.diag(variance[0]) @ m
    assert torch.allclose(basis.unmixed(variance)[0], covariance.diagonal(), rtol=1e-12)


def test_slices_of_a_stack_are_a_pitch_apart():
    assert Stack.of(Fourier((4, 6), (0.5, 0.7)), 3, 2.0).spacing == (2.0, 0.5, 0.7)
