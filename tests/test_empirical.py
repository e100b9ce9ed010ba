"""The law of a finite set of images: weights, mean and variance against the mixture and against sums."""

from __future__ import annotations

import pytest
import torch

from retrodict._check import InputError
from retrodict.bases import Cosine, Fourier, Pixel
from retrodict.denoisers.empirical import EmpiricalDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond
from retrodict.processes.scalar import vp

F = {"dtype": torch.float64}
SIZE = (4, 5)


def images(count=7):
    return torch.randn(count, 1, *SIZE, generator=torch.Generator().manual_seed(0), **F)


@pytest.mark.parametrize("basis", [Pixel(SIZE), Fourier(SIZE, (1.0, 1.0)), Cosine(SIZE, (1.0, 1.0))])
@pytest.mark.parametrize("width", [0.0, 0.3])
def test_mean_and_variance_are_those_of_the_mixture(basis, width):
    process, data = vp(basis), images()
    mine = EmpiricalDenoiser(process, data, width)
    table = torch.full((7, *basis.shape), width, **F)
    other = MixtureDenoiser(process, MixtureLaw(basis, torch.full((7,), 1 / 7, **F), basis.forward(data)[:, 0], table))
    x, t = torch.randn(3, 1, *SIZE, generator=torch.Generator().manual_seed(1), **F), torch.tensor([0.2, 0.4, 0.7], **F)
    found, wanted = mine.estimate(x, t), other.estimate(x, t)
    assert torch.allclose(found.mean, wanted.mean, atol=1e-10)
    assert torch.allclose(found.spread.v, wanted.spread.v, atol=1e-10)
    assert torch.allclose(mine.prior()[1], other.prior()[1], atol=1e-10)


def test_weights_are_those_of_the_sum_over_images():
    process, data = vp(Pixel(SIZE)), images()
    x, t = data[2:3] * 0.5, torch.tensor([0.5], **F)
    m = process.moments(t)
    h, s2 = float(m.h.flatten()[0]), float(m.s2.flatten()[0])
    wanted = (-0.5 * (x - h * data).square().flatten(1).sum(1) / s2).softmax(0)
    assert torch.allclose(EmpiricalDenoiser(process, data).weights(x, m)[0], wanted, atol=1e-12)


def test_a_measurement_beside_the_state_is_seen():
    basis = Fourier(SIZE, (1.0, 1.0))
    process = fourier(basis, conditioning="external")
    mine, data = EmpiricalDenoiser(process, images(), 0.1), images()
    table = torch.full((7, *basis.shape), 0.1, **F)
    other = MixtureDenoiser(process, MixtureLaw(basis, torch.full((7,), 1 / 7, **F), basis.forward(data)[:, 0], table))
    x, t, y = data[:1] + 0.2, torch.tensor([0.4], **F), Cond(data[1:2] * 0.8)
    assert torch.allclose(mine.estimate(x, t, y).mean, other.estimate(x, t, y).mean, atol=1e-10)


def test_an_item_does_not_depend_on_its_batch():
    mine = EmpiricalDenoiser(vp(Pixel(SIZE)), images(), 0.1)
    x, t = torch.randn(3, 1, *SIZE, generator=torch.Generator().manual_seed(1), **F), torch.full((3,), 0.3, **F)
    assert torch.allclose(mine(x, t)[1], mine(x[1:2], t[1:2])[0], atol=1e-13)


@pytest.mark.parametrize(
    ("data", "width", "word"),
    [
        (torch.zeros(3, 1, 2, 2), 0.0, "images"),
        (torch.full((2, 1, *SIZE), torch.nan), 0.0, "NaN"),
        (images(), -1.0, "width"),
    ],
)
def test_what_is_no_set_of_images_is_refused_by_name(data, width, word):
    with pytest.raises(InputError, match=word):
        EmpiricalDenoiser(vp(Pixel(SIZE)), data, width)
