"""Closed forms of losses, calibration and the training loop: what a run of the whole would not show."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

import retrodict.tasks.fit as fit_module
from models import SPECTRUM, spec
from objects import make_process
from retrodict.bases import Fourier
from retrodict.data import PatchSet
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.instrument import Agreement, _agreement, own_curves
from retrodict.models.model import Intensity
from retrodict.nets import UNet
from retrodict.processes.fourier import fourier, measured
from retrodict.processes.observation import Cond
from retrodict.training.calibrate import calibrate_spread
from retrodict.training.loop import TrainingOptions, _average, _keys, _step, rate, train
from retrodict.training.losses import Losses, _spread_nll, band_errors, denoising_loss, draw_times


def field(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tiny(bands=1, size=(8, 8)):
    """A network that answers zero, on Fourier diffusion."""
    net = UNet(in_channels=2, out_channels=1 + bands, width=8, multipliers=(1,)).double()
    return NetDenoiser(net, fourier(Fourier(size)), spectrum=SPECTRUM, bands=bands)


# ---- losses ---------------------------------------------------------------------------------------------------------


def test_the_likelihood_of_the_spread_is_best_at_the_squared_error():
    """d/dp of (log p + e^2 / p) / 2 is zero at p = e^2, at every pixel; with one band there is no leakage."""
    denoiser, t = tiny(), torch.tensor([0.5, 0.8]).double()
    terms, error = denoiser.training_terms(field(2, 1, 8, 8), t, Cond()), field(2, 1, 8, 8, seed=1)
    e2 = band_errors(denoiser, error, terms)[0]
    inside = (e2 > 1e-5) & (e2 < 140)  # beyond, log ratios are clamped
    ratio = e2.log().requires_grad_()
    (gradient,) = torch.autograd.grad(_spread_nll(denoiser, error, terms._replace(log_ratio=ratio)).sum(), ratio)
    assert float(gradient[inside].abs().max()) < 1e-12
    assert int(inside.sum()) > 60


def gradients(spread_weight):
    """Of the loss, in the bias of the image and in that of the log-variances."""
    denoiser = tiny()
    torch.nn.init.constant_(denoiser.net.head.conv.bias, 0.3)
    denoising_loss(denoiser, field(4, 1, 8, 8), torch.arange(4), spread_weight=spread_weight).total.sum().backward()
    return denoiser.net.head.conv.bias.grad


def test_the_variance_cannot_pull_at_the_mean_and_its_weight_is_an_option():
    none, one, five = gradients(0.0), gradients(1.0), gradients(5.0)
    assert torch.allclose(one[0], none[0], rtol=1e-12)
    assert torch.allclose(five[1], 5 * one[1], rtol=1e-10)
    assert abs(float(one[1])) > 1e-3


@pytest.mark.parametrize(("weight", "scale"), [("data", 0), ("eps", 1), ("score", 2)])
def test_a_weight_of_the_loss_is_used(weight, scale):
    """Of VP, whose h and s are those of every coefficient: |D - x_0|^2 times 1, h^2 / s^2, h^2 / s^4."""
    process = make_process("vp")
    net = UNet(in_channels=2, out_channels=1, width=8, multipliers=(1,)).double()
    denoiser, x0, seeds = NetDenoiser(net, process, spectrum=SPECTRUM), field(3, 1, 8, 8), torch.arange(3)
    found = denoising_loss(denoiser, x0, seeds, weight).error
    plain = denoising_loss(denoiser, x0, seeds, "data").error
    m = process.moments(draw_times(seeds))
    expected = [1, m.h**2 / m.s2, m.h**2 / m.s2**2][scale]
    assert torch.allclose(found, plain * torch.as_tensor(expected).flatten(), rtol=1e-10)


def test_times_start_where_they_are_told():
    t = draw_times(torch.arange(500), first=0.4)
    assert 0.4 <= float(t.min()) < 0.42


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_every_level_is_calibrated_on_draws_of_its_own():
    asked = []

    def batch(keys):
        asked.extend(keys)
        return field(len(keys), 1, 8, 8)

    calibrate_spread(tiny(), batch, levels=3, items=4)
    assert len(set(asked)) == 12
    asked_before = set(asked)
    calibrate_spread(tiny(), batch, levels=3, items=4, seed=1)
    assert not asked_before & set(asked[12:])


def plan_of_two_sides():
    """A plan of training whose two sides can be told apart: images of ones, and of twos."""
    plan = MagicMock()
    plan.spec, plan.start_from = replace(spec(), intensity=Intensity("HU", 1.0, 0.0)), None
    plan.config.training.seed, plan.config.training.precision = 0, "float32"
    plan.config.training.device, plan.device = "cpu", "cpu"
    plan.config.training.model_dump.return_value = {"workers": 0}
    for side, value in (("training", 1.0), ("validation", 2.0)):
        patches = MagicMock(spec=PatchSet)
        patches.batch = lambda keys, value=value: torch.full((len(keys), 1, 32, 32), value)
        patches.images = list
        setattr(plan, side, patches)
    plan.config.clocks.return_value = None
    return plan


def test_calibration_and_validation_never_see_the_training_set(tmp_path, monkeypatch):
    plan, seen = plan_of_two_sides(), {}
    plan.noise, plan.keeps_mean = None, False

    def calibrated(denoiser, batch, **options):
        seen["calibration"] = float(batch([0]).mean())

    def trained(denoiser, batch, options, folder, *, validation, **more):
        seen["training"], seen["validation"] = float(batch([0]).mean()), float(validation([0]).mean())

    monkeypatch.setattr(fit_module, "calibrate_spread", calibrated)
    monkeypatch.setattr(fit_module, "train", trained)
    fit_module.calibrated(plan, plan.spec.build("test").net.state_dict())
    fit_module._trained(plan, tmp_path, None, None)
    assert seen == {"calibration": 2.0, "training": 1.0, "validation": 2.0}


# ---- the loop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "decay"), [(1, 2 / 11), (1000, 0.9)])
def test_the_average_forgets_slowly_and_at_first_quickly(step, decay):
    average = {"w": torch.tensor([1.0]), "n": torch.tensor([3])}
    _average(average, {"w": torch.tensor([2.0]), "n": torch.tensor([7])}, 0.9, step)
    assert float(average["w"]) == pytest.approx(decay * 1 + (1 - decay) * 2)
    assert int(average["n"]) == 7


def test_a_run_ends_with_the_average_of_its_weights(tmp_path):
    """w_1 and w_2 after two steps: average = w_0, then d w + (1 - d) w_n with d = 2/11, 3/12."""
    denoiser, seen = tiny(), []

    def objective(denoiser, batch, seeds, loss, spread_weight):
        (bias,) = [p for name, p in denoiser.net.named_parameters() if name.endswith("head.conv.bias")]
        seen.append(bias.detach().clone())
        value = bias.sum() * torch.ones(len(seeds)).to(bias)
        return Losses(value, value, value)

    options = TrainingOptions(steps=2, batch=1, warmup=1, learning_rate=0.1)
    average = train(denoiser, lambda keys: field(1, 1, 8, 8), options, tmp_path, objective=objective)
    last = dict(denoiser.net.named_parameters())
    (name,) = [n for n in average if n.endswith("head.conv.bias")]
    w = [*seen, last[name].detach()]
    known = w[0] * 2 / 11 + w[1] * 9 / 11
    known = known * 3 / 12 + w[2] * 9 / 12
    assert torch.allclose(average[name], known, rtol=1e-6)
    assert not torch.allclose(average[name], w[2], rtol=1e-3)


def test_every_item_of_every_step_has_a_key_of_its_own():
    keys = [k for step in range(3) for k in _keys(TrainingOptions(seed=4), step, 5)]
    assert len(set(keys)) == 15
    assert not set(keys) & set(_keys(TrainingOptions(seed=4), 0, 5, "validation"))
    assert not set(keys) & set(_keys(TrainingOptions(seed=5), 0, 5))


def test_the_rate_rises_stays_and_falls():
    options = TrainingOptions(steps=100, warmup=10, decay=0.2, learning_rate=2.0)
    assert [rate(options, s) for s in (0, 4, 9, 50, 79)] == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0])
    assert [rate(options, s) for s in (90, 99)] == pytest.approx([1.0, 0.1])


def test_gradients_are_clipped_to_the_option():
    denoiser, asked = tiny(), []
    accelerator = SimpleNamespace(
        backward=lambda total: total.backward(), clip_grad_norm_=lambda p, limit: asked.append(limit) or 1.0
    )
    options = TrainingOptions(batch=1, clip=0.25)
    optimizer = torch.optim.SGD(denoiser.net.parameters(), lr=1e-3)
    _step(denoiser, [1], field(1, 1, 8, 8), optimizer, accelerator, options, 0, denoising_loss)
    assert asked == [0.25]


# ---- instruments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "mtf", "holds"),
    [
        (1.49, 0.0, True),
        (0.68, 0.0, True),
        (1.51, 0.0, False),
        (0.65, 0.0, False),
        (1.0, 0.11, False),
        (1.0, -0.11, False),
    ],
)
def test_an_instrument_agrees_within_both_limits(noise, mtf, holds):
    """A noise variance 1.5 times lower or higher, an MTF 0.1 lower or higher."""
    assert Agreement(noise, mtf).holds is holds


def test_the_worst_band_decides_whether_instruments_agree():
    """Half the noise at low frequencies, and a little more at high ones: the ratio is that of the low ones."""
    process = fourier(Fourier((16, 16)))
    trained = process.measurement
    low = process.basis.radius() < 0.1
    found = trained._replace(s2=torch.where(low, 0.5, 1.1) * trained.s2, h=trained.h - 0.2 * low)
    agreement = _agreement(process, trained, found)
    assert agreement.noise_ratio == pytest.approx(0.5)
    assert agreement.mtf_difference == pytest.approx(-0.2)


def test_the_curves_of_a_model_are_in_the_unit_of_the_data():
    f = [0.0, 0.5, 2.0]
    mtf = {"frequency": f, "value": [1.0, 0.5, 0.5], "unit": "1", "frequency_unit": "cycles/mm"}
    nps = {"frequency": f, "value": [9.0, 9.0, 9.0], "unit": "HU^2 mm^2", "frequency_unit": "cycles/mm"}
    process = measured(Fourier((16, 16), (0.5, 0.8)), mtf, nps, unit_scale=100.0)
    own = own_curves(process, 100.0)
    assert own[1].value == pytest.approx([9.0] * len(own[1].value))
    assert own[0].value[0] == pytest.approx(1.0)


def test_units_go_there_and_back():
    intensity = Intensity("HU", 200.0, -1000.0)
    x = torch.tensor([-1000.0, 0.0, 40.0])
    assert intensity.encode(x).tolist() == pytest.approx([0.0, 5.0, 5.2])
    assert intensity.decode(intensity.encode(x)).tolist() == pytest.approx(x.tolist())
