import pytest
import torch
from torch import nn

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.network import NetDenoiser
from retrodict.nets import NETS, Mixer, Tiled
from retrodict.processes.scalar import vp


def data(batch, *size, channels=2, features=1, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, *size, generator=g, dtype=torch.float64)
    return x.to(dtype), (16 * torch.rand(batch, features, generator=g, dtype=torch.float64) - 8).to(dtype)


def make(**settings):
    """A small mixer, its weights moved off their start so that the output is not zero."""
    torch.manual_seed(0)
    settings = {"in_channels": 2, "out_channels": 3, "size": 8, "width": 8, "depth": 2, "token_hidden": 8} | settings
    net = Mixer(**{"embedding": 16, **settings})
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("size", [(8,), (8, 12), (4, 8, 4)])
def test_shapes(size):
    assert NETS["mixer"] is Mixer
    net = make(ndim=len(size), size=size, level_features=2)
    x, level = data(2, *size, features=2)
    assert net(x, level).shape == (2, 3, *size)


def test_a_new_network_answers_zero():
    net = Mixer(in_channels=2, out_channels=1, size=8, width=8)
    assert bool((net(*data(2, 8, 8)) == 0).all())


def test_default_size():
    assert 0.9e6 < sum(p.numel() for p in Mixer(in_channels=2, out_channels=1).parameters()) < 1.2e6


def test_has_no_convolution():
    assert not any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in make().modules())


def test_every_pixel_reaches_every_other_at_once():
    net = make(depth=1).double()
    x, level = data(1, 8, 8, dtype=torch.float64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x, level)[0, 0, 0, 0], x)
    assert bool((gradient != 0).all())


def test_an_image_does_not_know_its_batch():
    net = make().double()
    x, level = data(3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(net(x, level)[1:2], net(x[1:2], level[1:2]), rtol=1e-12, atol=1e-12)


def test_the_level_scales_and_shifts_every_layer():
    net = make().double()
    x, level = data(1, 8, 8, dtype=torch.float64)
    assert not torch.allclose(net(x, level), net(x, level + 1))
    (gradient,) = torch.autograd.grad(net(x, level).square().sum(), net.embed.last.bias)
    assert bool((gradient != 0).all())


def test_a_block_is_placed_where_it_was():
    """With nothing mixed between blocks and the matrices inverse to each other, the image comes back normalised."""
    net = Mixer(in_channels=1, out_channels=1, size=(8, 12), patch=4, width=16, depth=1, embedding=16).double()
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net.stem.weight.copy_(torch.eye(16))
        net.head.weight.copy_(torch.eye(16))
    x, level = data(2, 8, 12, channels=1, dtype=torch.float64)
    blocks = x.unfold(2, 4, 4).unfold(3, 4, 4)
    mean, variance = blocks.mean((-2, -1)), blocks.var((-2, -1), correction=0)
    wide = [v.repeat_interleave(4, 2).repeat_interleave(4, 3) for v in (mean, variance)]
    torch.testing.assert_close(net(x, level), (x - wide[0]) / (wide[1] + 1e-5).sqrt(), rtol=1e-10, atol=1e-10)


def test_another_size_is_refused():
    with pytest.raises(InputError, match="one image size"):
        make()(*data(1, 8, 12))
    with pytest.raises(InputError, match="level"):
        make()(data(1, 8, 8)[0], torch.zeros(1, 2))
    with pytest.raises(InputError, match="receptive_field"):
        Tiled(make(), 8)


@pytest.mark.parametrize("wrong", [{"size": 10}, {"size": (8, 8, 8)}, {"width": 0}, {"ndim": 4}, {"depth": 0}])
def test_options_that_cannot_be_meant(wrong):
    with pytest.raises(InputError, match="Mixer"):
        make(**wrong)


def test_it_learns_and_serves_a_denoiser():
    """Noisy images that are one of two patterns: the first loss is that of the answer zero."""
    torch.manual_seed(0)
    net = Mixer(in_channels=2, out_channels=1, size=8, width=16, depth=2, token_hidden=16, embedding=16)
    pattern = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    images = torch.where(torch.arange(32).reshape(-1, 1, 1, 1) % 2 == 0, pattern, -pattern)
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(40):
        noisy = images + torch.randn(32, 2, 8, 8)
        loss = (net(noisy, torch.zeros(32, 1)) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    denoiser = NetDenoiser(net, vp(Fourier((8, 8), (1.0, 1.0))), spectrum=Spectrum.flat())
    assert denoiser.multiple == 4
    assert denoiser(images, torch.full((32,), 0.5, dtype=torch.float64)).shape == images.shape
