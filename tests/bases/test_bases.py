"""Contracts of every basis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pywt
import scipy.fft
import torch

from objects import BASIS_CASES
from retrodict import InputError
from retrodict.bases import Cosine, Fourier, Wavelet
from retrodict.bases.wavelet import daubechies
from retrodict.denoisers.mixture import log_density


@pytest.fixture(params=BASIS_CASES, name="basis")
def _basis(request):
    return BASIS_CASES[request.param]


def image(basis, seed=0):
    return torch.randn(2, 1, *basis.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_inverse_undoes_forward(basis):
    x = image(basis)
    assert (basis.inverse(basis.forward(x)) - x).abs().max() < 1e-12


def test_energy_is_the_sum_over_degrees_of_freedom(basis):
    x = image(basis)
    u = basis.forward(x)
    energy = (basis.multiplicity() * u.abs() ** 2).sum((-1,) if u.ndim == 3 else tuple(range(2, u.ndim)))
    assert torch.allclose(energy, (x**2).flatten(2).sum(2), rtol=1e-12)


def test_inner_products_are_kept(basis):
    """Adjoint = inverse: <x, B^-1 u> = <B x, u> with the multiplicities as weights."""
    x, y = image(basis), image(basis, 1)
    u, v = basis.forward(x), basis.forward(y)
    product = (basis.multiplicity() * (u.conj() * v).real).flatten(2).sum(2)
    assert torch.allclose(product, (x * y).flatten(2).sum(2), rtol=1e-11, atol=1e-11)


def test_multiplicities_sum_to_pixels(basis):
    assert float(basis.multiplicity().sum()) == math.prod(basis.size)
    assert basis.multiplicity().shape == basis.shape == basis.radius().shape


def test_white_pixels_are_white_coefficients(basis):
    """Exactly, through the dense matrix: each real degree of freedom has variance 1."""
    n = math.prod(basis.size)
    u = basis.forward(torch.eye(n, dtype=torch.float64).reshape(n, *basis.size))
    power = (u.abs() ** 2).sum(0)  # variance of the coefficient of white noise
    assert torch.allclose(power, torch.ones_like(power), atol=1e-12)


def test_on_another_grid(basis):
    if basis.fixed:
        with pytest.raises(InputError, match="the grid of"):
            basis.on(tuple(2 * n for n in basis.size))
        return
    other = basis.on(tuple(2 * n for n in basis.size))
    assert other.size == tuple(2 * n for n in basis.size)
    assert other.spacing == basis.spacing


@pytest.mark.parametrize("size", [(4, 4), (5, 4), (4, 5), (6, 7)])
def test_half_spectrum_likelihood_is_the_dense_one(size):
    basis = Fourier(size)
    spectrum = 0.3 + basis.radius()
    n = math.prod(size)
    eye = torch.eye(n, dtype=torch.float64).reshape(n, *size)
    covariance = basis.inverse(spectrum * basis.forward(eye)).reshape(n, n)
    x = torch.randn(1, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    law = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=torch.float64), covariance)
    exact = law.log_prob(x.reshape(1, n))
    assert torch.allclose(log_density(basis, basis.forward(x), spectrum), exact, rtol=1e-12)


def test_half_spectrum_equals_the_full_one():
    basis = Fourier((6, 5), (0.7, 1.1))
    x = image(basis)
    full = torch.fft.fft2(x, norm="ortho")
    assert (full[..., :3] - basis.forward(x)).abs().max() < 1e-13
    fy = np.fft.fftfreq(6, 0.7)[:, None]
    fx = np.fft.fftfreq(5, 1.1)[None, :3]
    assert np.allclose(basis.radius().numpy(), np.hypot(fy, fx), rtol=1e-14)


def test_cosine_is_the_dct_of_scipy():
    basis = Cosine((5, 6), (0.5, 1.0))
    x = image(basis)
    assert np.allclose(basis.forward(x).numpy(), scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho"), atol=1e-13)
    assert float(basis.radius()[0, 5]) == pytest.approx(5 / 12)


@pytest.mark.parametrize("moments", [1, 2, 3, 4, 5, 6])
def test_daubechies_taps_are_those_of_pywavelets(moments):
    taps = daubechies(moments).numpy()
    known = np.array(pywt.Wavelet(f"db{moments}").rec_lo)
    assert min(abs(taps - known).max(), abs(taps - known[::-1]).max()) < 1e-10


@pytest.mark.parametrize("family", ["haar", "db2", "db4"])
def test_wavelet_bands_have_the_energies_of_pywavelets(family):
    """The two conventions differ by a circular shift of the image, which some shift of up to three pixels undoes."""
    basis = Wavelet((32, 32), levels=2, family=family)
    x = image(basis)[0, 0]
    theirs = pywt.wavedec2(x.numpy(), family, mode="periodization", level=2)
    known = [sum((np.asarray(d) ** 2).sum() for d in theirs[-1 - level]) for level in (0, 1)]
    scale, misses = basis.band(), []
    for rows in range(4):
        for columns in range(4):
            u = basis.forward(x.roll((rows, columns), (0, 1)))
            ours = [float((u[scale == level] ** 2).sum()) for level in (0, 1)]
            misses.append(max(abs(a / b - 1) for a, b in zip(ours, known, strict=True)))
    assert min(misses) < 1e-10


def test_a_constant_image_is_one_scale():
    basis = Wavelet((8, 16), levels=2)
    u = basis.forward(torch.ones(8, 16, dtype=torch.float64))
    assert u[basis.band() < 2].abs().max() < 1e-12


def test_grids_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="divisible by 2"):
        Wavelet((6, 8), levels=2)
    with pytest.raises(InputError, match="spacing"):
        Fourier((4, 4), (1.0,))
    with pytest.raises(InputError, match="size"):
        Fourier((4, 4, 4, 4), (1.0,) * 4)
