import copy
import io

import pytest
import torch
from torch import nn

from retrodict._check import InputError
from retrodict.nets import NETS, UNet


def make(seed=0, perturb=True, **settings):
    """A small network, its weights moved off their start so that the output is not zero."""
    torch.manual_seed(seed)
    settings = {"in_channels": 2, "out_channels": 1, "width": 8, "embedding": 16} | settings
    net = UNet(**settings)
    if perturb:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return net


def data(batch, *size, channels=2, features=1, dtype=torch.float32, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, *size, generator=g, dtype=torch.float64)
    level = 16 * torch.rand(batch, features, generator=g, dtype=torch.float64) - 8
    return x.to(dtype), level.to(dtype)


@pytest.fixture(autouse=True)
def threads():
    """One thread, which for images this small is the fastest; a test may ask for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_registry():
    assert NETS["unet"] is UNet


def test_default_size():
    net = UNet(in_channels=2, out_channels=1)
    assert 0.9e6 < sum(p.numel() for p in net.parameters()) < 1.5e6
    assert net.stride == 4


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(
    "size", [(1,), (7,), (130,), (1, 1), (2, 3), (5, 1), (17, 30), (32, 32), (1, 2, 3), (9, 6, 11), (20, 8, 8)]
)
def test_shapes(size, padding, attention):
    net = make(ndim=len(size), padding=padding, attention=attention, out_channels=3, level_features=2)
    x, level = data(2, *size, features=2)
    y = net(x, level)
    assert y.shape == (2, 3, *size)
    assert y.is_contiguous()
    assert y.isfinite().all()


def test_inputs_that_share_memory():
    x, level = data(1, 8, 8)
    net = make()
    many = net(x.expand(3, -1, -1, -1), level.expand(3, -1))
    assert torch.equal(many, net(x, level).expand(3, -1, -1, -1))


def test_new_network_answers_zero():
    x, level = data(2, 12, 12)
    assert not make(perturb=False)(x, level).any()


def test_level_changes_the_output():
    net = make()
    x, level = data(1, 16, 16)
    assert (net(x, level) - net(x, level + 0.1)).abs().max() > 1e-4
    assert (net(x, torch.full((1, 1), -8.0)) - net(x, torch.full((1, 1), 8.0))).abs().max() > 1e-2


def test_every_level_feature_and_every_block_is_used():
    net = make(level_features=3, blocks=2)
    x, level = data(2, 16, 16, features=3)
    level.requires_grad_()
    net(x, level).square().sum().backward()
    assert (level.grad != 0).all()
    weight = net.embed.last.weight.grad
    assert weight is not None
    at = 0
    for channels in net.film:  # a scale and a shift for each channel of each block
        part = weight[at : at + 2 * channels]
        assert part.abs().amax(1).gt(0).all()
        at += 2 * channels
    assert at == len(weight)
    assert len(net.film) == len(net.residual) == 2 * 6


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_gradient_reaches_every_parameter(ndim, attention):
    net = make(ndim=ndim, attention=attention)
    x, level = data(2, *[12] * ndim)
    net(x, level).square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        if name != "attend.qkv.bias":  # a bias of the keys alone cancels in the softmax
            assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_gradient_is_right(padding):
    net = make(width=2, multipliers=(1, 2), embedding=4, padding=padding).double()
    x, level = data(1, 4, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(net, (x.requires_grad_(), level.requires_grad_()), fast_mode=True)
    assert torch.autograd.gradgradcheck(net, (x, level), fast_mode=True)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_functional_transforms(padding):
    net = make(padding=padding).double()
    x, level = data(2, 8, 8, dtype=torch.float64)
    v = torch.randn_like(x)
    _, tangent = torch.func.jvp(lambda a: net(a, level), (x,), (v,))
    e = 1e-6
    finite = (net(x + e * v, level) - net(x - e * v, level)) / (2 * e)
    assert torch.allclose(tangent, finite, atol=1e-7)
    many = torch.stack([x, 2 * x, -x])
    mapped = torch.func.vmap(lambda a: net(a, level))(many)
    assert torch.allclose(mapped, torch.stack([net(a, level) for a in many]), atol=1e-12)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((16, 16), {}),
        ((64, 64), {}),
        ((31, 45), {"width": 12}),
        ((40, 40), {"width": 32, "multipliers": (1, 2)}),
        ((23, 17), {"multipliers": (1,)}),
        ((9, 33), {"attention": True}),
        ((77,), {}),
        ((9, 10, 11), {}),
        ((16, 16, 16), {"width": 12}),
    ],
)
def test_an_image_has_the_same_bits_alone_and_in_any_batch(size, settings, count, padding, threads):
    threads(count)
    net = make(ndim=len(size), padding=padding, **settings)
    x, level = data(7, *size)
    with torch.no_grad():
        whole = net(x, level)
        alone = torch.cat([net(a[None], b[None]) for a, b in zip(x, level, strict=True)])
        parts = torch.cat([net(x[:2], level[:2]), net(x[2:], level[2:])])
    assert torch.equal(whole, alone)
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("size", [(16, 16), (31, 45), (64, 64), (9, 10, 11)])
def test_the_same_bits_in_bfloat16(size):
    net = make(ndim=len(size))
    x, level = data(5, *size)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        whole = net(x, level)
        alone = torch.cat([net(a[None], b[None]) for a, b in zip(x, level, strict=True)])
    assert torch.equal(whole, alone)


def test_the_same_bits_with_and_without_gradients_and_in_either_layout():
    net = make()
    x, level = data(3, 20, 24)
    y = net(x, level)
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(y, net(x, level))
        assert torch.equal(y, net(x.contiguous(memory_format=torch.channels_last), level))
    assert torch.equal(y, net(x, level))
    assert torch.equal(x, before)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_equivariant_to_shifts_by_the_stride(ndim):
    net = make(ndim=ndim, padding="circular").double()
    size = [24, 16, 12][:ndim]
    x, level = data(2, *size, dtype=torch.float64)
    axes = tuple(range(2, 2 + ndim))
    shift = [net.stride * k for k in (1, 3, 2)[:ndim]]
    there = net(x.roll(shift, axes), level)
    assert (there - net(x, level).roll(shift, axes)).abs().max() < 1e-10


def test_attention_is_equivariant_to_shifts_by_its_window():
    net = make(padding="circular", attention=True, multipliers=(1, 2)).double()
    x, level = data(1, 48, 32, dtype=torch.float64)
    y = net(x, level)
    far = net.stride * 8
    assert (net(x.roll((far, 16), (2, 3)), level) - y.roll((far, 16), (2, 3))).abs().max() < 1e-10
    assert (net(x.roll(net.stride, 2), level) - y.roll(net.stride, 2)).abs().max() > 1e-6


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize(
    ("ndim", "size", "settings"),
    [
        (1, 400, {}),
        (2, 132, {}),
        (2, 100, {"multipliers": (1, 2)}),
        (2, 144, {"multipliers": (1, 2), "blocks": 2, "attention": True}),
        (2, 30, {"multipliers": (1,)}),
        (3, 44, {"multipliers": (1, 2), "width": 4}),
    ],
)
def test_a_tile_equals_the_whole_beyond_the_receptive_field(ndim, size, settings, padding):
    net = make(ndim=ndim, padding=padding, **settings).double()
    r, s = net.receptive_field, net.stride * (8 if net.attend is not None else 1)
    x, level = data(1, *[size] * ndim, dtype=torch.float64)
    start, stop = s, size - s - 1  # an end that is no multiple of the stride
    assert stop - start > 2 * r
    tile = (..., *[slice(start, stop)] * ndim)
    inner = (..., *[slice(r, stop - start - r)] * ndim)
    with torch.no_grad():
        whole = net(x, level)[tile]
        part = net(x[tile], level)
    assert (whole[inner] - part[inner]).abs().max() < 1e-10
    assert (whole - part).abs().max() > 1e-8  # the edge of the tile does see the difference


@pytest.mark.parametrize("settings", [{}, {"multipliers": (1, 1)}, {"blocks": 2}, {"multipliers": (1,)}])
def test_the_receptive_field_is_exact(settings):
    """No pixel beyond it has a gradient; a pixel at its end has one, at some position within the stride."""
    net = make(ndim=1, **settings).double()
    r, s = net.receptive_field, net.stride
    n = s * (-(-3 * r // s))
    x, level = data(1, n, dtype=torch.float64)
    x.requires_grad_()
    far = 0
    for p in range(n // 2 // s * s, n // 2 // s * s + s):
        (grad,) = torch.autograd.grad(net(x, level)[0, 0, p], x)
        seen = grad.abs().amax((0, 1)).nonzero().flatten()
        far = max(far, p - int(seen.min()), int(seen.max()) - p)
    assert far == r


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_any_size_is_the_padded_size_cropped(padding):
    net = make(padding=padding).double()
    x, level = data(1, 10, 13, dtype=torch.float64)
    mode = "circular" if padding == "circular" else "reflect"
    full = nn.functional.pad(x, (0, 3, 0, 2), mode=mode)
    assert (net(x, level) - net(full, level)[..., :10, :13]).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_preserved(dtype):
    net = make().to(dtype)
    x, level = data(1, 8, 8, dtype=dtype)
    assert net(x, level).dtype == dtype


def test_a_level_of_another_dtype():
    net = make()
    x, level = data(1, 8, 8)
    assert torch.equal(net(x, level.double()), net(x, level))


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_autocast_stays_near_float32(ndim, attention):
    net = make(ndim=ndim, attention=attention)
    x, level = data(2, *[16] * ndim)
    y = net(x, level)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = net(x, level)
        z.square().mean().backward()
    assert z.dtype == torch.float32
    assert (z - y).abs().max() < 0.1 * y.abs().max()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_float64_and_float32_agree():
    net = make()
    x, level = data(2, 16, 16)
    double = copy.deepcopy(net).double()
    assert torch.allclose(net(x, level).double(), double(x.double(), level.double()), atol=1e-4)


def test_state_dict_round_trip():
    net, other = make(seed=0), make(seed=5)
    x, level = data(2, 8, 8)
    assert not torch.equal(net(x, level), other(x, level))
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(net(x, level), other(x, level))


def test_same_seed_same_network_and_no_randomness():
    x, level = data(2, 8, 8)
    net = make().train()
    y = net(x, level)
    assert torch.equal(y, net(x, level))
    assert torch.equal(y, net.eval()(x, level))
    assert torch.equal(y, make()(x, level))


def test_no_statistic_over_space_or_batch():
    kinds = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
    assert not any(isinstance(m, kinds) for m in make(attention=True).modules())


def test_learns():
    torch.manual_seed(0)
    net = UNet(in_channels=1, out_channels=1, width=8, multipliers=(1, 2), embedding=16)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    g = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(60):
        clean = (torch.rand(8, 1, 4, 4, generator=g) > 0.5).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
        noisy = clean + 0.5 * torch.randn(clean.shape, generator=g)
        loss = (net(noisy, torch.zeros(8, 1)) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ndim": 4}, "UNet.ndim: found 4"),
        ({"in_channels": 0}, "UNet.in_channels"),
        ({"width": 0}, "UNet.width"),
        ({"blocks": 0}, "UNet.blocks"),
        ({"multipliers": ()}, "UNet.multipliers"),
        ({"multipliers": (1, 0)}, "UNet.multipliers"),
        ({"padding": "circle"}, "Did you mean 'circular'"),
        ({"slices": True}, "UNet.slices: found 2 axes"),
        ({"ndim": 3, "slices": True, "padding": "circular"}, "UNet.slices: found 3 axes, padding 'circular'"),
        ({"ndim": 3, "slices": True, "attention": True}, "UNet.slices: .*attention"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(InputError, match=words):
        UNet(**({"in_channels": 2, "out_channels": 1} | settings))


def test_inputs_that_do_not_fit():
    net = make()
    x, level = data(2, 8, 8)
    for bad in (x[0], x[:, :1], x[..., :0], x[..., None]):
        with pytest.raises(InputError, match="shape of x"):
            net(bad, level)
    for bad in (level[:1], level[:, 0], level.expand(2, 3)):
        with pytest.raises(InputError, match="shape of level"):
            net(x, bad)


# ---- slices --------------------------------------------------------------------------------------------------------


FLAT = {"width": 8, "multipliers": (1, 2, 4), "patch": 2, "activation": "relu", "level_features": 2}


def lifted():
    """A network of two axes, and that of slices with its weights."""
    flat = make(out_channels=3, **FLAT)
    net = make(ndim=3, slices=True, out_channels=3, perturb=False, **FLAT)
    net.load_state_dict(net.from_plane(flat.state_dict()))
    return flat, net


@pytest.mark.parametrize("mapped", [False, True])
def test_from_a_plane_every_slice_is_answered_by_itself(mapped):
    flat, net = lifted()
    x, level = data(2, 5, 30, 41, features=2)
    levels, weights = level[:, None].expand(2, 3, 2), torch.rand(2, 3, 5, 30, 41)
    more = (torch.cat([levels, 0 * levels], 1), torch.cat([weights, weights], 1) / 6) if mapped else (level,)
    with torch.no_grad():
        found = net(x, *more)
        slices = [flat(x[:, :, k], more[0], *(w[:, :, k] for w in more[1:])) for k in range(x.shape[2])]
    assert torch.equal(found, torch.stack(slices, 2))
    assert net.plane_state().keys() == flat.state_dict().keys()
    assert all(x.shape == flat.state_dict()[name].shape for name, x in net.plane_state().items())


def test_slices_reach_as_many_neighbors_as_there_are_blocks():
    net = make(ndim=3, slices=True, **FLAT).double()
    x, level = data(1, 17, 16, 16, features=2, dtype=torch.float64)
    other = x.clone()
    other[:, :, 0] += 1.0
    with torch.no_grad():
        changed = (net(x, level) - net(other, level)).abs().amax((0, 1, 3, 4)) > 1e-12
    blocks = len(net.film)
    assert changed.tolist() == [True] * (blocks + 1) + [False] * (16 - blocks)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_volume_of_slices_has_the_same_bits_alone_and_in_a_batch(bf16):
    net = make(ndim=3, slices=True, **FLAT)
    for size in ((1, 16, 16), (7, 20, 13), (16, 24, 24)):
        x, level = data(5, *size, features=2)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            whole = net(x, level)
            alone = torch.cat([net(a[None], b[None]) for a, b in zip(x, level, strict=True)])
        assert whole.shape == (5, 1, *size)
        assert torch.equal(whole, alone)


def test_every_parameter_of_slices_learns():
    net = make(ndim=3, slices=True, **FLAT)
    x, level = data(2, 4, 16, 16, features=2)
    net(x, level).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    new = make(ndim=3, slices=True, perturb=False, **FLAT)
    assert all(not p.any() for name, p in new.named_parameters() if ".along." in name)


def test_tiles_of_slices_equal_the_whole():
    net = make(ndim=3, slices=True, **{**FLAT, "multipliers": (1, 2), "width": 4}).double()
    r, s = net.receptive_field, net.stride
    x, level = data(1, 40, 80, 80, features=2, dtype=torch.float64)
    tile, inner = (..., *[slice(0, 72)] * 3), (..., *[slice(0, 72 - r)] * 3)
    assert s == 4
    with torch.no_grad():
        assert (net(x, level)[tile][inner] - net(x[tile], level)[inner]).abs().max() < 1e-10


def test_a_network_without_slices_has_no_plane():
    with pytest.raises(InputError, match="slices=True"):
        make(ndim=3).plane_state()
