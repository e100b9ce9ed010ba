"""The law of clocks and what a network that is told the clock may depend on."""

import json
from dataclasses import replace

import pytest
import torch

from models import spec
from retrodict import InputError
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import load_model, save_model
from retrodict.nets import UNet
from retrodict.nets.unet import blocked, unblocked
from retrodict.processes.clocks import ClockLaw, law_from_json
from retrodict.processes.observation import Moments
from retrodict.training.losses import Example, band_overlap, denoising_loss

BASIS = Fourier((16, 24), (0.7, 0.7))


def test_clocks_are_positive_differ_and_do_not_depend_on_the_batch():
    seeds = torch.arange(40)
    clocks = ClockLaw(scale=200.0).clocks(BASIS, seeds)
    assert clocks.shape == (40, 1, *BASIS.shape)
    assert clocks.dtype == torch.float64
    assert bool((clocks > 0).all())
    assert bool(clocks.isfinite().all())
    assert len({float(c.sum()) for c in clocks}) == 40
    assert torch.equal(clocks[17:19], ClockLaw(scale=200.0).clocks(BASIS, seeds[17:19]))


def test_white_clocks_have_the_noise_that_is_asked_for():
    law = ClockLaw(noise=(3.0, 5.0), scale=2.0, white=1.0, smooth=0.0, fused=0.0, hidden=1.0)
    clocks = law.clocks(BASIS, torch.arange(50))
    std = 2.0 * clocks.flatten(1)[:, :1].sqrt()
    assert torch.equal(clocks, clocks[..., :1, :1].expand_as(clocks))
    assert 3.0 <= float(std.min()) < 3.2
    assert 4.8 < float(std.max()) <= 5.0


def test_fused_clocks_are_below_each_of_their_parts():
    seeds = torch.arange(30)
    law = ClockLaw(white=0.0, smooth=0.0, fused=1.0)
    one, two = (law._single(BASIS, seeds, k) for k in (0, 1))
    torch.testing.assert_close(1 / law.clocks(BASIS, seeds)[:, 0], 1 / one + 1 / two, rtol=1e-12, atol=0)


def test_bad_laws_are_refused():
    with pytest.raises(InputError, match=r"ClockLaw\.noise"):
        ClockLaw(noise=(5.0, 2.0))
    with pytest.raises(InputError, match="probabilities"):
        ClockLaw(white=0.6, smooth=0.3, fused=0.2)


def test_a_law_goes_through_a_record():
    law = ClockLaw(noise=(3.0, 50.0), scale=200.0, white=0.5)
    record = json.loads(json.dumps(law.to_json()))
    assert law_from_json(record, "x") == law
    assert hash(law_from_json(record, "x")) == hash(law)
    with pytest.raises(InputError, match="clocks"):
        law_from_json({"name": "clock"}, "x")
    with pytest.raises(InputError, match="no_such"):
        law_from_json({"name": "clocks", "options": {"no_such": 1}}, "x")


def test_a_model_keeps_its_law_and_its_spacings(tmp_path):
    law = ClockLaw(scale=100.0)
    stated = replace(spec(), law=law.to_json(), spacings=(0.4, 1.5), level="clock")
    save_model(stated, stated.build().net.state_dict(), tmp_path / "m")
    found = load_model(tmp_path / "m").spec
    assert law_from_json(found.law, "law") == law
    assert found.spacings == (0.4, 1.5)


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        ({"spacings": [1.5, 0.4]}, "spacings"),
        ({"spacings": [0.4]}, "spacings"),
        ({"spacings": [0.0, 1.0]}, "spacings"),
        ({"law": {"name": "none"}}, "law"),
        ({"law": {"name": "clocks", "options": {"noise": [5, 2], "scale": 100.0}}}, "noise"),
        ({"law": {"name": "clocks", "options": {"scale": 200.0}}}, "intensity.scale"),
        ({"law": {"name": "clocks", "options": {"scale": "wide"}}}, "law"),
    ],
)
def test_a_range_that_cannot_be_meant_is_refused_by_name(damage, field, tmp_path):
    stated = spec()
    _, path = save_model(stated, stated.build().net.state_dict(), tmp_path / "m")
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(InputError, match=field):
        load_model(path)


def clock_denoiser():
    torch.manual_seed(0)
    net = UNet(in_channels=2, out_channels=1, width=4, multipliers=(1, 2), level_features=8, patch=2, activation="relu")
    torch.nn.init.normal_(net.head.conv.weight, std=0.1)
    process = ClockLaw()(BASIS, torch.arange(1))
    return NetDenoiser(net, process, spectrum=Spectrum.power_law(0.0, 30.0, 0.05, 2.5), level="clock")


def test_a_network_told_the_clock_depends_on_the_observation_over_h_and_the_clock_alone():
    denoiser = clock_denoiser()
    r = ClockLaw().clocks(BASIS, torch.arange(3))
    u = BASIS.forward(torch.randn(3, 1, 16, 24, dtype=torch.float64))
    h = 0.2 + 0.8 * torch.rand(BASIS.shape, dtype=torch.float64)
    zero = torch.zeros_like(r)
    plain = denoiser.observe(u, Moments(zero + 1, zero, r)).mean
    scaled = denoiser.observe(h * u, Moments(zero + h, zero, h**2 * r)).mean
    torch.testing.assert_close(plain, scaled, rtol=1e-5, atol=1e-5)  # the network is float32


def test_a_batch_of_another_spacing_is_trained_on_its_own_grid():
    denoiser, x0 = clock_denoiser(), torch.randn(2, 1, 16, 24)
    seeds, law = torch.arange(2), ClockLaw()
    coarse = denoising_loss(denoiser, Example(x0, spacing=(1.4, 1.4)), seeds, law=law).total
    basis = Fourier((16, 24), (1.4, 1.4))
    torch.testing.assert_close(coarse, denoising_loss(denoiser.at(law(basis, seeds)), x0, seeds).total)
    assert not torch.equal(coarse, denoising_loss(denoiser, x0, seeds, law=law).total)


def test_the_density_of_power_is_the_same_on_every_grid():
    spectrum = Spectrum(0.0, (0.01, 1.0), (4.0, 1.0), volume=0.25)
    fine, coarse = Fourier((32, 32), (0.5, 0.5)), Fourier((16, 16), (1.0, 1.0))
    torch.testing.assert_close(spectrum.on(coarse)[3, 4] * 1.0, spectrum.on(fine)[3, 4] * 0.25, rtol=1e-12, atol=0)
    torch.testing.assert_close(spectrum.on(fine), Spectrum(0.0, (0.01, 1.0), (4.0, 1.0)).on(fine), rtol=1e-15, atol=0)
    assert Spectrum.from_json(spectrum.to_json(), "s") == spectrum
    with pytest.raises(InputError, match="volume"):
        Spectrum.from_json({**spectrum.to_json(), "volume": 0.0}, "s")


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_blocks_as_channels_are_lossless(ndim):
    x = torch.randn(2, 3, *(4, 6, 8)[:ndim])
    assert torch.equal(unblocked(blocked(x, 2), 2), x)
    if ndim == 2:
        assert torch.equal(blocked(x, 2), torch.nn.functional.pixel_unshuffle(x, 2))


def test_a_network_on_blocks_sees_no_farther_than_it_says():
    torch.manual_seed(0)
    net = UNet(in_channels=1, out_channels=1, width=4, multipliers=(1, 2), patch=2, activation="relu").double()
    torch.nn.init.normal_(net.head.conv.weight, std=0.1)
    n, field = 96, net.receptive_field
    x, level = torch.zeros(1, 1, n, n, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    before = net(x, level)
    reach = []
    for place in (48, 49, 50, 51):  # every place in a block of the coarsest level
        x[..., place, place] = 1.0
        rows = (net(x, level) - before).abs().amax((0, 1, 3)).nonzero().flatten()
        reach += [int(rows.max()) - place, place - int(rows.min())]
        x[..., place, place] = 0.0
    assert net.stride == 4
    assert field - 8 < max(reach) <= field


@pytest.mark.parametrize("level", ["rms", "clock"])
def test_the_noise_estimate_that_a_network_sees_is_of_unit_variance(level):
    """On Gaussian data of the stored spectrum, whatever the clock: E[(w - h d)^2] = s^2 - h^2 v per coefficient."""
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, x, level):
            seen.append(x)
            return torch.zeros_like(x[:, :1])

    law = ClockLaw(noise=(3.0, 10.0), white=0.0, smooth=0.0)
    process, spectrum = law(BASIS, torch.arange(1)), Spectrum.power_law(0.0, 30.0, 0.3, 2.0)
    denoiser = NetDenoiser(Recorder(), process, spectrum=spectrum, level=level)
    z = torch.randn(2, 400, 1, *BASIS.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0 = BASIS.inverse(spectrum.on(BASIS).sqrt() * BASIS.forward(z[0]))
    denoiser(process.corrupt(x0, torch.ones(400), z[1]), torch.ones(400))
    assert float(seen[0][:, 1].square().mean()) == pytest.approx(1.0, abs=0.02)


def test_a_spectrum_of_ratios_one_leaks_to_one_in_every_band():
    basis = Fourier((16, 24), (0.7, 0.7))
    net = UNet(in_channels=2, out_channels=4, width=4, multipliers=(1, 2), level_features=8)
    process = ClockLaw()(basis, torch.arange(1))
    denoiser = NetDenoiser(net, process, spectrum=Spectrum.flat(), level="clock", bands=3)
    overlap = band_overlap(denoiser)
    torch.testing.assert_close(overlap.sum(1), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)
    assert float((overlap.sum(0) - 1).abs().max()) > 0.05  # bands are not of one size: the axis matters


def test_a_drawn_instrument_is_judged_on_a_small_grid():
    """Its law is a function of frequency; one of the user's own may be anything and is looked at as it is."""
    drawn = ClockLaw().instrument(Fourier((96, 80, 72), (2.0, 2.0, 2.0)), 3)
    assert drawn.admissible
    assert drawn._small.basis.size == (24, 24, 24)
    assert replace(drawn, grid_free=False)._small.basis.size == (96, 80, 72)
    flat = ClockLaw().instrument(Fourier((96, 40)), 3)
    assert flat._small.basis.size == (64, 40)
    assert flat.admissible == replace(flat, grid_free=False).admissible
