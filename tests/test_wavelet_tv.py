"""Total variation of wavelet bands: its gradient in closed form, and in a sampler (wavelet specification, T17 (c))."""

from __future__ import annotations

import pytest
import torch

from retrodict import (
    Fourier,
    GaussianDenoiser,
    InputError,
    Measurement,
    UndecimatedHaar,
    sample_posterior,
    wavelet_tv,
    wavelet_tv_gradient,
)
from retrodict.physics import Blur, CartesianMRI, GaussianNoise
from retrodict.posterior import posterior_method
from retrodict.posterior.proximal import smoothed
from retrodict.processes.scalar import ve, vp


def field(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("shape", "levels"), [((2, 3, 11), 2), ((2, 1, 9, 12), 3), ((1, 2, 4, 5, 6), 1)])
def test_the_value_is_that_of_the_definition(shape, levels):
    x, ndim = field(*shape), len(shape) - 2
    frame = UndecimatedHaar(levels, ndim)
    bands = frame.forward(x).movedim(-ndim - 1, 0)
    total = torch.zeros(len(x), dtype=torch.float64)
    for (level, name), d in zip(frame.bands, bands, strict=True):
        if "d" in name:
            squares = sum((d.roll(-1, axis) - d) ** 2 for axis in range(-ndim, 0))
            total += 2.0 ** (1 - level) * squares.sqrt().flatten(1).sum(1)
    assert torch.allclose(wavelet_tv(x, levels, ndim=ndim), total, rtol=1e-12)


def test_it_is_homogeneous_and_nothing_for_a_constant():
    x = field(2, 1, 8, 10)
    assert torch.allclose(wavelet_tv(-3.0 * x), 3.0 * wavelet_tv(x), rtol=1e-12)
    assert torch.allclose(wavelet_tv(x + 5.0), wavelet_tv(x), rtol=1e-10)
    flat = torch.full((1, 1, 8, 8), 2.0, dtype=torch.float64)
    assert float(wavelet_tv(flat)) == 0
    assert float(wavelet_tv(flat, smooth=1e-2)) == 0
    assert float(wavelet_tv_gradient(flat, smooth=0.0).abs().max()) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 7), 2), ((2, 1, 6, 9), 3), ((1, 1, 4, 5, 3), 1)])
def test_the_gradient_is_that_of_differences(dtype, shape, levels):
    x, v, ndim = field(*shape, dtype=dtype), field(*shape, dtype=dtype, seed=1), len(shape) - 2
    options = {"ndim": ndim, "smooth": 0.1}
    step = 1e-5
    ends = [wavelet_tv(x + sign * step * v, levels, **options).sum() for sign in (1, -1)]
    along = (wavelet_tv_gradient(x, levels, **options).conj() * v).sum()
    along = along.real if along.is_complex() else along
    assert float(along) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-8)
    single = wavelet_tv_gradient(x.to(torch.complex64 if x.is_complex() else torch.float32), levels, **options)
    assert float((single - wavelet_tv_gradient(x, levels, **options)).abs().max()) < 1e-5


def test_smoothing_goes_at_most_its_share_of_what_the_data_moved_each_image():
    mean, new = field(2, 1, 16, 16), field(2, 1, 16, 16, seed=1)
    found = smoothed(new, mean, 0.2)
    gone = (found - new).flatten(1).norm(dim=1) / (new - mean).flatten(1).norm(dim=1)
    assert bool((gone <= 0.2 + 1e-12).all())
    assert bool((gone > 0.1).all())  # noise: the steps point the same way
    assert bool((wavelet_tv(found) < wavelet_tv(new)).all())
    assert torch.equal(smoothed(new[1:], mean[1:], 0.2), found[1:])
    assert torch.equal(smoothed(new, new, 0.2), new)  # data that moved nothing leave nothing to smooth


def bed():
    """A Gaussian prior, and an image of it with noise."""
    basis = Fourier((16, 16), (1.0, 1.0))
    power = torch.ones(basis.shape, dtype=torch.float64)
    prior = GaussianDenoiser(ve(basis, 0.01, 10.0), torch.zeros_like(power), power)
    operator = Blur.gaussian((16, 16), fwhm=1.5, spacing=(1.0, 1.0))
    y = field(1, 1, 16, 16, dtype=torch.float32)
    return prior, Measurement.simulate(operator, GaussianNoise.white(0.5), y, [0])


@pytest.mark.filterwarnings("ignore:measurement|posterior")
def test_a_sampler_takes_it_and_leaves_it_out_by_default():
    prior, m = bed()
    options = {"style": "paper", "samples": 2, "steps": 6}
    plain = sample_posterior(prior, m, "dds", **options).samples[:, 0]
    none = sample_posterior(prior, m, "dds", wavelet_tv=0.0, **options).samples[:, 0]
    some = sample_posterior(prior, m, "dds", wavelet_tv=0.5, **options)
    assert torch.equal(plain, none)
    assert float(wavelet_tv(some.samples[:, 0]).sum()) < 0.95 * float(wavelet_tv(plain).sum())
    assert some.kind == "uncalibrated"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: posterior_method("dds", *bed(), style="paper", wavelet_tv=1.5), "share from 0 to 1"),
        (lambda: wavelet_tv(field(8, 8)), "images of 2 axes"),
        (lambda: wavelet_tv(field(1, 1, 8, 8), smooth=-1.0), "smooth"),
        (lambda: wavelet_tv_gradient(field(1, 1, 8, 8), 0), "at least one level"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("method", ["dds", "matched"])
@pytest.mark.filterwarnings("ignore:measurement|posterior")
def test_all_of_kspace_without_noise_is_the_image(method):
    """T17 (e): every line measured and next to no noise: samples are F^-1 y, whatever the prior."""
    basis = Fourier((8, 10), (1.0, 1.0), complex=True)
    power = torch.full(basis.shape, 2.0, dtype=torch.float64)
    prior = GaussianDenoiser(vp(basis), torch.zeros_like(power), power)
    operator = CartesianMRI(torch.ones(8, 10))
    image = field(1, 1, 8, 10, dtype=torch.complex128)
    m = Measurement.simulate(operator, GaussianNoise.white(1e-7), image, [0])
    samples = sample_posterior(prior, m, method, samples=2, steps=20).samples[:, 0]
    inverse = operator.adjoint(m.y)  # unitary
    assert float((inverse - image).abs().max()) < 1e-5
    assert float((samples - inverse).abs().max()) < 1e-5
