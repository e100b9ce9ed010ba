"""Preconditioning round a condition image of unknown law: residual spec 1.4, and the gain that pairs give."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models import SPECTRUM
from retrodict import InputError
from retrodict.bases import Fourier, Wavelet
from retrodict.bases.paired import PairedSpectrum, paired_spectrum
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import Intensity, ModelSpec, load_model, save_model
from retrodict.nets import UNet
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond
from retrodict.training.losses import Example, denoising_loss, draw_times, simulate

SIZE = (8, 8)
BASIS = Fourier(SIZE)
GAIN, LEFT = 0.7, 0.09
"""x_0 = GAIN c + noise of variance LEFT, for c white of variance 1."""


def drawn(count, seed=0, gain=GAIN):
    made = torch.Generator().manual_seed(seed)
    c, z = (torch.randn(count, 1, *SIZE, dtype=torch.float64, generator=made) for _ in range(2))
    return gain * c + LEFT**0.5 * z, c


def zero(name, paired):
    """The denoiser of a network that answers zero, for a process that shows an image of unknown law."""
    process = PROCESSES[name](BASIS, conditioning="external")
    net = UNet(in_channels=3, out_channels=1, width=8, multipliers=(1,)).double()
    return NetDenoiser(net, process, spectrum=SPECTRUM, paired=paired)


def table(gain=GAIN, left=LEFT):
    return PairedSpectrum(0.0, 0.0, (0.01, 1.0), (gain, gain), (left, left))


@pytest.mark.parametrize("name", ["ir_sde", "rddm", "resshift", "i2sb", "ddbm_vp", "vp", "resfusion"])
def test_a_network_that_answers_zero_is_exact_for_gaussian_pairs(name):
    """E[x_0 | x_t, c] and its variance by hand, and a target of variance one: nothing is left for the network."""
    denoiser = zero(name, table())
    x0, c = drawn(400)
    t = draw_times(torch.arange(400), 0.02)
    xt, cond = simulate(denoiser.process, x0, t, torch.arange(400), c)
    m = denoiser.process.moments(t)
    w, mean = denoiser.process.to_coefficients(xt, t, c), GAIN * BASIS.forward(c)
    share = m.h * LEFT / (m.h**2 * LEFT + m.s2)
    by_hand = BASIS.inverse(mean + share * (w - m.h * mean))
    found = denoiser.estimate(xt, t, cond)
    torch.testing.assert_close(found.mean, by_hand, rtol=1e-10, atol=1e-12)
    v = (LEFT * m.s2 / (m.h**2 * LEFT + m.s2)).flatten()
    unit = (by_hand - x0).square().mean((1, 2, 3)) / v
    assert float(unit.mean()) == pytest.approx(1.0, abs=4 * (2 / 64 / 400) ** 0.5)


def test_the_pinned_end_of_a_bridge_needs_no_division():
    """Where h = s = 0 the answer is what c says, and the target still has variance one."""
    denoiser = zero("i2sb", table())
    x0, c = drawn(200, seed=3)
    one = torch.ones(200, dtype=torch.float64)
    xt, cond = simulate(denoiser.process, x0, one, torch.arange(200), c)
    torch.testing.assert_close(denoiser.estimate(xt, one, cond).mean, GAIN * c, rtol=1e-12, atol=1e-12)
    losses = denoising_loss(denoiser, Example(x0, c), torch.arange(200))
    assert bool(torch.isfinite(losses.total).all())
    assert float(losses.error.detach().mean()) == pytest.approx(1.0, abs=0.05)


def test_gain_and_rest_are_found_from_pairs():
    pairs = [(x[0], c[0]) for x, c in zip(*drawn(800), strict=True)]
    found, plain = (paired_spectrum(pairs, (1.0, 1.0), bins=3, regress=r) for r in (True, False))
    assert found.gain == pytest.approx([GAIN] * len(found.gain), abs=0.01)
    assert found.power == pytest.approx([LEFT] * len(found.power), rel=0.05)
    assert plain.gain == (1.0,) * len(plain.gain)
    assert plain.power == pytest.approx([LEFT + (1 - GAIN) ** 2] * len(plain.power), rel=0.05)
    assert all(a < b for a, b in zip(found.power, plain.power, strict=True))
    assert PairedSpectrum.from_json(found.to_json(), "x") == found


def test_a_gain_over_the_frequency_is_diagonal_in_fourier_alone():
    uneven = PairedSpectrum(0.0, 0.0, (0.01, 1.0), (0.5, 0.7), (0.1, 0.2))
    gain, left = uneven.on(BASIS)
    assert 0.5 < float(gain.min()) < float(gain.max()) < 0.7
    assert gain.shape == left.shape == BASIS.shape
    with pytest.raises(InputError, match="regress=False"):
        uneven.on(Wavelet(SIZE, levels=1))
    assert float(table().on(Wavelet(SIZE, levels=1))[0].min()) == GAIN


def test_what_does_not_fit_is_refused_by_name():
    known = fourier(BASIS)
    for process in (known, replace(known, pairing=replace(known.pairing, kind="external")), PROCESSES["vp"](BASIS)):
        with pytest.raises(InputError, match="paired"):
            NetDenoiser(UNet(in_channels=3, out_channels=1, width=8), process, spectrum=SPECTRUM, paired=table())
    with pytest.raises(InputError, match="at least one"):
        paired_spectrum([], (1.0, 1.0))
    with pytest.raises(InputError, match="pair 0"):
        paired_spectrum([(torch.zeros(8, 8), torch.zeros(8, 9))], (1.0, 1.0))
    with pytest.raises(InputError, match="model: paired"):
        PairedSpectrum.from_json({"mean": 0}, "model: paired")
    with pytest.raises(InputError, match="do not match"):
        PairedSpectrum(0.0, 0.0, (0.1, 0.2), (1.0,), (1.0, 1.0))


def test_a_condition_that_is_not_given_leaves_the_law_of_the_data():
    denoiser = zero("vp", table())
    plain = replace(denoiser, paired=None)
    u = BASIS.forward(drawn(2)[0])
    m = denoiser.process.moments(torch.tensor([0.5, 0.5], dtype=torch.float64))
    a, b = (d._estimated(u, m, Cond()).d for d in (denoiser, plain))
    assert torch.equal(a, b)


def test_a_model_file_holds_what_pairs_say(tmp_path):
    process = {"name": "i2sb", "options": {"conditioning": "external"}, "basis": {"name": "fourier", "options": {}}}
    spec = ModelSpec(
        process=process,
        network={"name": "unet", "options": {"width": 8, "multipliers": [1]}},
        spectrum=SPECTRUM.to_json(), intensity=Intensity(), spacing=(1.0, 1.0), size=SIZE, paired=table().to_json(),
    )  # fmt: skip
    save_model(spec, spec.build().net.state_dict(), tmp_path / "model")
    assert load_model(tmp_path / "model").denoiser.paired == table()
    with pytest.raises(InputError, match="paired"):
        replace(spec, process={"name": "vp", "options": {}, "basis": {"name": "fourier"}}).build()
