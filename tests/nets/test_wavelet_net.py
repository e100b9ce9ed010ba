"""A U-Net on wavelet bands: the transform, what it keeps of an image, and volumes of any shape."""

from __future__ import annotations

import pytest
import pywt
import torch

from retrodict import InputError
from retrodict.nets import NETS, Tiled, WaveletUNet
from retrodict.nets.unet import blocked
from retrodict.nets.wavelet import haar

SMALL = {"width": 4, "multipliers": (1, 2), "blocks": 1}


def made(ndim=2, seed=0, **options):
    """With weights that are not zero."""
    net = WaveletUNet(ndim=ndim, in_channels=1, out_channels=1, **{**SMALL, **options}).double()
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = 0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return net.requires_grad_(False)


def images(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_channels_are_the_haar_bands_and_the_transform_is_its_own_inverse():
    x = images(2, 3, 8, 12)
    bands = haar(blocked(x, 2).unflatten(1, (3, 4)), 2)
    a, (h, v, d) = pywt.dwt2(x.numpy(), "haar")
    for k, expected in ((0, a), (1, v), (2, h), (3, d)):
        assert torch.allclose(bands[:, :, k].abs(), torch.from_numpy(expected).abs(), atol=1e-12)
    assert torch.allclose(haar(bands, 2), blocked(x, 2).unflatten(1, (3, 4)), atol=1e-12)
    assert float(haar(images(1, 1, 64, 5), 6).square().sum()) == pytest.approx(
        float(images(1, 1, 64, 5).square().sum()))  # fmt: skip


@pytest.mark.parametrize(("ndim", "size", "levels"), [(2, (16, 8), 1), (2, (8, 16), 2), (3, (16, 4, 8), 1)])
def test_an_inner_network_that_copies_copies(ndim, size, levels):
    net = made(ndim, levels=levels)
    net.inner = torch.nn.Module()
    net.inner.forward = lambda x, level: x  # type: ignore[method-assign]
    x = images(2, 1, *size)  # a volume deeper than wide as well
    assert torch.allclose(net(x, torch.zeros(2, 1)), x, atol=1e-12)


def test_a_new_network_answers_zero_and_an_item_does_not_know_the_others():
    net = NETS["wavelet_unet"](ndim=3, in_channels=2, out_channels=1, **SMALL)
    assert isinstance(net, WaveletUNet)
    x, level = torch.randn(2, 2, 16, 8, 4), torch.randn(2, 1)
    assert float(net(x, level).detach().abs().max()) == 0
    other = made(3)
    x = images(3, 1, 16, 4, 8)
    level = torch.tensor([[0.1], [0.5], [-1.0]], dtype=torch.float64)
    assert torch.equal(other(x, level)[1:2], other(x[1:2], level[1:2]))


def test_no_pixel_beyond_the_receptive_field_matters_and_tiles_equal_the_whole():
    net = made(padding="zeros")
    x, level = images(1, 1, 64, 64), torch.zeros(1, 1, dtype=torch.float64)
    whole = net(x, level)
    changed = x.clone()
    changed[..., 31, 31] += 1.0
    moved = (net(changed, level) - whole).abs()[0, 0] > 0
    rows = moved.any(1).nonzero()[:, 0]
    assert int(rows.max()) - 31 <= net.receptive_field
    assert 31 - int(rows.min()) <= net.receptive_field
    assert torch.allclose(Tiled(net, 32)(x, level), whole, atol=1e-12)


def test_levels_may_vary_over_the_image():
    net, x = made(), images(1, 1, 16, 16)
    levels = torch.tensor([[[0.3], [-0.7]]], dtype=torch.float64)
    one = torch.zeros(1, 2, 16, 16, dtype=torch.float64)
    one[:, 1] = 1.0
    assert torch.allclose(net(x, levels, one), net(x, levels[:, 1]), atol=1e-12)


def test_the_gradient_goes_through():
    net = made(levels=2).requires_grad_()
    net(images(1, 1, 16, 16), torch.zeros(1, 1, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in net.inner.stem.parameters())


@pytest.mark.parametrize(("options", "match"), [({"levels": 0}, "levels"), ({"coarse": -1.0}, "coarse"),
                                                ({"width": 0}, "width")])  # fmt: skip
def test_what_cannot_be_meant_is_refused(options, match):
    with pytest.raises(InputError, match=match):
        WaveletUNet(in_channels=1, out_channels=1, **{**SMALL, **options})
    with pytest.raises(InputError, match="multiples of 4"):
        made()(images(1, 1, 7, 8), torch.zeros(1, 1, dtype=torch.float64))
