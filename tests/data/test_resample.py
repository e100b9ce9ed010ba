"""Resampling: extent, means, smooth structure and aliasing."""

import numpy as np
import pytest
import torch

from retrodict._check import InputError
from retrodict.data import Image, resample


def image(values, spacing, **options):
    return Image(torch.as_tensor(values, dtype=torch.float32)[None], "HU", spacing, "npz", (), **options)


@pytest.mark.parametrize("spacing", [(0.35, 0.9), (1.1, 0.31)])
def test_extent_and_constants_are_kept(spacing):
    source = image(torch.full((20, 31), 40.0), (0.7, 0.5), header="something")
    result = resample(source, spacing)
    for size, new, old, count in zip(result.values.shape[1:], result.spacing, source.spacing, (20, 31), strict=True):
        assert size * new == pytest.approx(old * count, rel=1e-12)
    assert result.spacing == pytest.approx(spacing, rel=0.05)
    assert result.values.allclose(torch.tensor(40.0))
    assert result.header is None


def test_straight_lines_stay_straight_and_in_place():
    x = (np.arange(60) + 0.5) * 0.5
    result = resample(image(np.tile(x, (8, 1)), (1.0, 0.5)), (1.0, 1.25))
    places = (np.arange(24) + 0.5) * 1.25
    # a triangle over whole pixels is only nearly centered: to a hundredth of a pixel
    assert np.allclose(result.values[0, 0, 2:-2], places[2:-2], atol=0.01 * 1.25)
    finer = resample(image(np.tile(x, (8, 1)), (1.0, 0.5)), (1.0, 0.2))
    assert np.allclose(finer.values[0, 0, 3:-3], ((np.arange(150) + 0.5) * 0.2)[3:-3], atol=1e-5)


def test_agrees_with_the_antialiased_interpolation_of_torch():
    values = torch.randn(1, 40, 60, generator=torch.Generator().manual_seed(0))
    result = resample(image(values[0], (1.0, 1.0)), (40 / 13, 60 / 50))
    expected = torch.nn.functional.interpolate(values[None], (13, 50), mode="bilinear", antialias=True)[0]
    assert torch.allclose(result.values, expected, atol=1e-5)


def test_fine_stripes_do_not_alias():
    stripes = 100.0 * (-1) ** np.arange(96)
    result = resample(image(np.tile(stripes, (4, 1)), (1.0, 1.0)), (1.0, 1.9))
    assert result.values[..., 2:-2].abs().max() < 6


def test_volumes_and_stacks():
    values = torch.randn(1, 6, 20, 20, generator=torch.Generator().manual_seed(0))
    one = Image(values, "HU", (3.0, 1.0, 1.0), "nifti", ())
    assert resample(one, (1.5, 2.0, 2.0)).values.shape == (1, 12, 10, 10)
    stack = Image(values, "HU", (float("nan"), 1.0, 1.0), "npz", (), regular=False)
    plane = resample(stack, (2.0, 2.0))
    assert plane.values.shape == (1, 6, 10, 10)
    assert np.isnan(plane.spacing[0])
    assert torch.equal(plane.values, resample(one, (2.0, 2.0)).values)
    with pytest.raises(InputError, match="spacing"):
        resample(stack, (1.0, 2.0, 2.0))
    with pytest.raises(InputError, match="1 numbers"):
        resample(one, (1.0,))


def test_padding_follows():
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[:, :10] = True
    result = resample(image(torch.zeros(20, 20), (1.0, 1.0), padding=mask), (2.0, 2.0))
    assert result.padding is not None
    assert result.padding[:, :5].all()
    assert not result.padding[:, 5:].any()


def test_channels_and_complex_values_are_resampled_each_for_itself():
    parts = [torch.randn(20, 30, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    values = torch.stack([torch.complex(parts[0], parts[1]), torch.complex(parts[2], parts[3])])
    mask = torch.zeros(20, 30, dtype=torch.bool)
    source = Image(values, "arbitrary", (1.0, 1.0), "npz", (), padding=mask, channels=("a", "b"))
    result = resample(source, (1.7, 0.6))
    assert result.channels == ("a", "b")
    assert result.values.dtype == torch.complex64
    for index, part in enumerate(parts):
        alone = resample(image(part, (1.0, 1.0)), (1.7, 0.6)).values[0]
        channel = result.values[index // 2]
        assert torch.allclose(channel.imag if index % 2 else channel.real, alone, atol=1e-6)
