"""Cascades of networks: what a level sees, training by level, files, drawing (wavelet specification 0.3, T13-T15)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from retrodict import InputError
from retrodict.bases import Fourier, Pixel, Wavelet
from retrodict.bases.spectrum import BandSpectrum, Spectrum
from retrodict.bases.stationary import power_law, stationary_levels
from retrodict.cli.app import app
from retrodict.denoisers.cascade import CascadeDenoiser, View, Views, cascade_of_stationary
from retrodict.denoisers.cascade_net import Factors, NetModel
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.wrappers import Clamped
from retrodict.models.cascade import open_generator
from retrodict.models.model import Intensity, ModelSpec, load_model, save_model
from retrodict.nets.cascade import CascadeNet
from retrodict.nets.network import Network
from retrodict.processes.observation import noise_like
from retrodict.processes.recipes import process_to_recipe
from retrodict.processes.scalar import vp
from retrodict.processes.wavelet import wavelet_cascade
from retrodict.samplers import make_plan, sample, start_state
from retrodict.samplers.cascade import cascade_grid, cascade_stages, sample_cascade
from retrodict.tasks import fit_cascade
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_cascade import _built
from retrodict.tasks.fit_config import FitConfig
from retrodict.tasks.generate import generate, judged
from retrodict.training.cascade import LevelTrainer, _seen, calibrate_cascade, gain, level_loss
from retrodict.training.checkpoints import newest

SMALL = {
    "name": "small",
    "spacing": [1.0, 1.0],
    "process": {
        "name": "wavelet_cascade",
        "options": {"spectrum": "data"},
        "basis": {"name": "wavelet", "options": {"family": "haar", "levels": 2}},
    },
    "network": {
        "name": "cascade",
        "options": {"net": {"name": "unet", "options": {"width": 4, "multipliers": [1], "blocks": 1}}},
    },
    "data": {"simulated": {"images": 3, "side": 32}, "validation": 0.34, "patch": [16, 16]},
    "training": {"steps": 3, "batch": 2, "checkpoint_every": 2, "validate_every": 10, "threads": 1},
}


def config(**changes):
    record = json.loads(json.dumps(SMALL))
    for path, value in changes.items():
        *keys, last = path.split("__")
        inner = record
        for k in keys:
            inner = inner[k]
        inner[last] = value
    return FitConfig.model_validate(record)


class Linear(Network):
    """A 1 x 1 convolution, and log-ratios of zero: the loss of the mean alone."""

    def __init__(self, **shape):
        super().__init__()
        self.out = shape["out_channels"] // 2
        self.conv = nn.Conv2d(shape["in_channels"], self.out, 1).double()

    def forward(self, x, level):
        mean = self.conv(x)
        return torch.cat([mean, torch.zeros_like(mean)], 1)


def spectrum_of(basis, power, mean=0.0):
    levels = stationary_levels(basis, power)
    variances = [float(levels[-1].power.mean())]
    for level in reversed(levels):
        variances += level.variances.tolist()
    return BandSpectrum.of(basis, mean, variances)


def cascade(make=Linear, size=(8, 8), levels=2, mean=0.0, shared=False):
    basis = Wavelet(size, levels=levels, family="haar")
    spectrum = spectrum_of(basis, power_law(size, 2.0), mean)
    process = wavelet_cascade(basis, spectrum=spectrum)
    nets = CascadeNet(make, levels=levels, shared=shared)
    return CascadeDenoiser(process, NetModel(nets), spectrum)


# ---- what a level sees -----------------------------------------------------------------------------------------------


def test_views_are_of_unit_scale_and_are_put_back():
    """Mean subtraction included: the coarse mean of an image that is 5 deviations off is recovered (T14, T15)."""
    basis = Wavelet((16, 16), levels=2, family="haar")
    power = power_law((16, 16), 2.0)
    views = Views.of(basis, spectrum_of(basis, power, mean=5.0))
    noise = torch.randn(400, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = 5.0 + torch.fft.ifft2(power.sqrt() * torch.fft.fft2(noise)).real
    u = basis.forward(x)
    again = torch.zeros_like(u)
    for scale in (2, 1, 0):
        seen = views.unit(u, scale)
        assert seen.shape[1] == (1 if scale == 2 else 3)
        assert float(seen.mean()) == pytest.approx(0, abs=0.2)
        assert torch.allclose(seen.square().mean((0, 2, 3, 4)), torch.ones(1, dtype=torch.float64), atol=0.1)
        coarse = views.coarse(u, scale)
        if scale < 2:
            assert float(coarse.square().mean()) == pytest.approx(1, abs=0.15)
            block = 2 ** (scale + 1)
            means = x.unfold(2, block, block).unfold(3, block, block).mean((-1, -2)) - 5.0
            assert torch.allclose(coarse / coarse.std(), means / means.std(), atol=1e-10)  # Haar: block means
        views.put(again, scale, seen)
    assert torch.allclose(again, u, atol=1e-12)


@pytest.mark.parametrize("scale", [0, 1])
def test_the_score_given_a_clean_coarse_image_is_that_part_of_the_joint_score(scale):
    """T11, dense: grad log p of clean coarse and noisy details together, with respect to the details."""
    basis, power = Wavelet((8, 8), levels=2, family="db2"), power_law((8, 8), 2.0)
    denoiser = cascade_of_stationary(basis, power, 5.0, 1.0)
    unit = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    rows = basis.forward(torch.fft.ifft2(power.sqrt() * torch.fft.fft2(unit)).real).reshape(64, 64)
    cov = rows.T @ rows  # of coefficients of data with this spectrum
    active, coarser = (torch.zeros(8, 8, dtype=torch.bool) for _ in range(2))
    for place in denoiser.views.places(scale):
        active[place] = True
    for other in range(scale + 1, 3):
        for place in denoiser.views.places(other):
            coarser[place] = True
    kept = (active | coarser).reshape(-1)
    time = (scale + 0.5) / 3
    window, h, s2 = denoiser.window(time)
    assert window == scale
    gain = torch.where(active, h, 1.0).double().reshape(-1)[kept]
    noise = torch.where(active, s2, 0.0).double().reshape(-1)[kept]
    scales = torch.ones(8, 8, dtype=torch.float64)
    for place, deviation in zip(denoiser.views.places(scale), denoiser.views.deviation(scale).reshape(-1), strict=True):
        scales[place] = deviation  # noise is white in units of the bands
    noise = noise * scales.reshape(-1)[kept] ** 2
    state = torch.zeros(8, 8, dtype=torch.float64)
    state[active | coarser] = torch.randn(
        int(kept.sum()), dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    joint = gain[:, None] * cov[kept][:, kept] * gain + torch.diag(noise)
    score = -torch.linalg.solve(joint, state.reshape(-1)[kept])
    mean = basis.forward(denoiser(basis.inverse(state[None, None]), torch.tensor([time], dtype=torch.float64)))[0, 0]
    own = active.reshape(-1)[kept]
    found = (h * mean[active] - state[active]) / noise[own]
    assert torch.allclose(found, score[own], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_only_the_active_bands_change(scale):
    denoiser = cascade()
    basis = denoiser.process.basis
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.full((3,), (scale + 0.5) / 3, dtype=torch.float64)
    assert denoiser.window(float(t[0]))[0] == scale
    u, out = basis.forward(x), basis.forward(denoiser(x, t).detach())
    band = basis.band()
    assert torch.allclose(out[:, :, band > scale], u[:, :, band > scale], atol=1e-14)
    assert torch.allclose(out[:, :, band < scale], torch.zeros((), dtype=torch.float64), atol=1e-14)
    assert float((out - u)[:, :, band == scale].abs().min()) > 0


def test_items_of_other_windows_in_a_batch_change_nothing():
    denoiser = cascade()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.9, 0.2, 0.0, 0.25], dtype=torch.float64)
    both = denoiser.estimate(x, t)
    z = torch.randn(1, 4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for i in range(4):
        alone = denoiser.estimate(x[i : i + 1], t[i : i + 1])
        assert torch.allclose(both.mean[i], alone.mean[0], atol=1e-13)
        assert torch.allclose(both.spread.draw(z)[i], alone.spread.draw(z[:, i : i + 1])[0], atol=1e-13)
    assert torch.allclose(both.mean[2], x[2], atol=1e-13)  # clean
    assert float(both.spread.variance()[2].abs().max()) == 0


def test_the_stated_variance_is_that_of_draws():
    denoiser = cascade_of_stationary(Wavelet((8, 8), levels=2, family="haar"), power_law((8, 8), 2.0))
    for t in (0.2, 0.5, 0.9):
        found = denoiser.estimate(torch.zeros(1, 1, 8, 8, dtype=torch.float64), torch.tensor([t]).double())
        unit = torch.eye(64, dtype=torch.float64).reshape(1, 64, 1, 8, 8)
        many = denoiser.estimate(torch.zeros(64, 1, 8, 8, dtype=torch.float64), torch.full((64,), t).double())
        assert float(many.spread.draw(unit).square().sum() / 64) == pytest.approx(
            float(found.spread.variance().mean()), rel=1e-10
        )


# ---- training --------------------------------------------------------------------------------------------------------


class Dense(Linear):
    """All coefficients of a 2 x 2 sub-lattice by one matrix."""

    def __init__(self, **shape):
        super().__init__(**shape)
        self.line = nn.Linear(4 * shape["in_channels"], 4 * self.out).double()

    def forward(self, x, level):
        mean = self.line(x.flatten(1)).reshape(len(x), self.out, 2, 2)
        return torch.cat([mean, torch.zeros_like(mean)], 1)


def test_a_linear_network_learns_the_exact_conditional_mean():
    """T13: on a set with exactly the second moments of the data, the loss of one noise level has its minimum there."""
    denoiser, power = cascade(Dense, size=(4, 4), levels=1), power_law((4, 4), 2.0)
    exact = cascade_of_stationary(denoiser.process.basis, power)
    unit = 28**0.5 * torch.eye(28, dtype=torch.float64)  # 16 numbers of an image, 12 of the noise
    unit = torch.cat([unit, -unit])
    x = torch.fft.ifft2(power.sqrt() * torch.fft.fft2(unit[:, :16].reshape(-1, 1, 4, 4))).real
    u, z = denoiser.process.basis.forward(x), unit[:, 16:].reshape(-1, 3, 1, 2, 2)
    clean, h = denoiser.views.unit(u, 0), torch.full((56,), 0.8, dtype=torch.float64)
    view = View(0, 0.8 * clean + 0.6 * z, denoiser.views.coarse(u, 0), h, 1 - h**2)
    target = 0.6 * clean - 0.8 * z
    model, net = denoiser.model, LevelTrainer.of(denoiser, 0).net
    optimizer = torch.optim.LBFGS(
        net.line.parameters(), max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = (model.terms(view).out - target).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        learned, known = (m.answer(view).mean - 0.8 * view.noisy for m in (model, exact.model))
    assert torch.allclose(learned, known, atol=1e-5)
    assert float(known.square().mean()) > 0.01  # there is something to be learned


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_the_target_and_what_is_shown_give_the_clean_bands(scale):
    """h y + s N = y_0, at noise of its own for every item."""
    denoiser = cascade(mean=3.0)
    x = 3.0 + torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    view, target = _seen(denoiser.views, denoiser.process, x, scale, times, torch.arange(4))
    h, s = (v.reshape(-1, 1, 1, 1, 1) for v in (view.h, view.s2.sqrt()))
    clean = denoiser.views.unit(denoiser.process.basis.forward(x), scale)
    assert torch.allclose(h * view.noisy + s * target, clean, atol=1e-12)
    for item, time in enumerate((times + scale) / 3):
        window = denoiser.window(float(time))
        assert window == (scale, pytest.approx(float(view.h[item])), pytest.approx(float(view.s2[item])))


def test_the_loss_of_a_new_network_is_one_and_does_not_depend_on_the_batch():
    class Zero(Linear):
        def forward(self, x, level):
            return torch.zeros(len(x), 2 * self.out, *x.shape[2:], dtype=x.dtype)

    denoiser = cascade(Zero)
    noise = torch.randn(256, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.fft.ifft2(power_law((8, 8), 2.0).sqrt() * torch.fft.fft2(noise)).real
    seeds = torch.arange(256)
    for scale in (0, 1, 2):
        losses = level_loss(LevelTrainer.of(denoiser, scale), x, seeds)
        assert float(losses.error.mean()) == pytest.approx(1, abs=0.15)
        one = level_loss(LevelTrainer.of(denoiser, scale), x[3:4], seeds[3:4])
        assert float(one.error[0]) == pytest.approx(float(losses.error[3]), rel=1e-12)


def test_factors_bring_a_spread_that_is_said_wrong_to_what_is_measured():
    class Zero(Linear):
        """It knows nothing, and says a variance e^2 too large."""

        def forward(self, x, level):
            out = torch.zeros(len(x), 2 * self.out, *x.shape[2:], dtype=x.dtype)
            out[:, self.out :] = 2.0
            return out

    power = power_law((8, 8), 2.0)

    def batch(keys):
        noise = [
            torch.randn(1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(k % 2**31)) for k in keys
        ]
        return torch.fft.ifft2(power.sqrt() * torch.fft.fft2(torch.stack(noise))).real

    model = calibrate_cascade(cascade(Zero), batch, rounds=8, size=32).model
    assert model.factors is not None
    for row in model.factors.rows:
        assert np.mean(row) == pytest.approx(-2, abs=0.15)
    again = Factors.from_json(json.loads(json.dumps(model.factors.to_json())), 3, "test")
    assert again == model.factors
    assert float(again.at(0, torch.tensor([-9.0]))) == pytest.approx(again.rows[0][0])


OWN = [str(i) for i in range(64)]
"""Every item another image."""


def states(n=64, side=4):
    """What is shown of white Gaussian bands at s^2 = 0.3, and the target; E[target y] = 0 in the mean."""
    generator = torch.Generator().manual_seed(5)
    clean, z = torch.randn(2, n, 3, 1, side, side, dtype=torch.float64, generator=generator)
    return math.sqrt(0.7) * clean + math.sqrt(0.3) * z, math.sqrt(0.3) * clean - math.sqrt(0.7) * z


def test_a_gain_takes_away_what_the_error_shares_with_what_was_shown():
    """N + 0.2 y has a gain that is 0.2 less than that of N, and after it the error is uncorrelated with y."""
    y, target = states()
    ratio = torch.zeros_like(y)
    plain, parts = gain([(y, target, ratio)], OWN, doubt=0), [(y[:16], target[:16]), (y[16:], target[16:])]
    wrong = gain([(own, wanted - 0.2 * own, ratio) for own, wanted in parts], OWN, doubt=0)
    assert wrong == pytest.approx(plain - 0.2, abs=1e-12)
    assert float(((target - 0.2 * y - wrong * y) * y).sum()) == pytest.approx(0, abs=1e-9)


def test_a_gain_that_may_be_chance_is_none():
    """Of the exact answer at most what four of two thousand draws have; a gain of 0.2 loses next to nothing."""
    y, target = states()
    assert gain([(y, target, y)], OWN) == 0
    assert gain([(y, target - 0.2 * y, y)], OWN) == pytest.approx(-0.2, abs=0.03)
    assert abs(gain([(y, target - 0.2 * y, y)], OWN)) < abs(gain([(y, target - 0.2 * y, y)], OWN, doubt=0))


def test_items_of_one_image_count_once_for_the_doubt():
    """Every item sixteen times: the gain of one time, and with the sources named its doubt; of one source nothing."""
    y, target = states(n=8)
    weak = target - 0.08 * y
    many = [(y.repeat(16, 1, 1, 1, 1), weak.repeat(16, 1, 1, 1, 1), y)]
    once = gain([(y, weak, y)], OWN[:8])
    assert gain(many, OWN[:8] * 16) == pytest.approx(once, abs=1e-12)
    assert abs(gain(many, [str(i) for i in range(128)])) > abs(once) + 0.005
    assert gain([(y, weak, y)], ["one"] * 8) == 0


class Tilted(Linear):
    """An answer with 0.5 y too much: draws of it have the wrong variance."""

    def forward(self, x, level):
        return torch.cat([0.5 * x[:, : self.out], torch.zeros_like(x[:, : self.out])], 1)


def test_gains_mend_an_answer_that_has_too_much_of_what_it_was_shown():
    """White Gaussian images, for which N = 0 is exact: gains of -0.5, then no factor, and draws of variance 1."""

    def batch(keys):
        return noise_like(torch.zeros(len(keys), 1, 16, 16).double(), torch.tensor(keys), "x", 0)

    def variance(model):
        stages = cascade_stages(replace(tilted, model=model), "matched", 8)
        return float(sample_cascade(stages, torch.arange(400), dtype=torch.float64).var())

    basis = Wavelet((16, 16), levels=2, family="haar")
    spectrum = BandSpectrum.of(basis, 0.0, [1.0] * 7)
    nets = CascadeNet(Tilted, levels=2, shared=False)
    tilted = CascadeDenoiser(wavelet_cascade(basis, spectrum=spectrum), NetModel(nets), spectrum)
    model = calibrate_cascade(tilted, batch, rounds=8, size=32).model
    for row in model.factors.gains:
        assert np.allclose(row, -0.5, atol=0.04)
    assert np.allclose(model.factors.rows, 0, atol=0.1)  # 0.22 without the gains
    again = Factors.from_json(json.loads(json.dumps(model.factors.to_json())), 3, "test")
    assert again == model.factors
    assert variance(model) == pytest.approx(1, abs=0.05)
    assert abs(variance(replace(model, factors=None)) - 1) > 0.2


class Single(Linear):
    """The same in single precision."""

    def __init__(self, **shape):
        super().__init__(**shape)
        self.conv = self.conv.float()


def test_networks_run_in_the_precision_of_the_configuration():
    """Under bfloat16 every answer is one of its numbers; the loss is that of float32 to 8 bits, but not the same."""
    built = {name: _built(prepare_fit(config(training__precision=name), Path("nowhere"), Path()).spec,
                          config(training__precision=name)) for name in ("float32", "bf16")}  # fmt: skip
    assert {name: d.model.precision for name, d in built.items()} == {"float32": "float32", "bf16": "bf16"}
    torch.manual_seed(0)
    exact = cascade(Single)
    half = replace(exact, model=replace(exact.model, precision="bf16"))
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    view, _ = _seen(exact.views, exact.process, x, 0, torch.full((4,), 0.5, dtype=torch.float64), torch.arange(4))
    out, rough = exact.model.terms(view).out, half.model.terms(view).out
    assert torch.equal(rough, rough.bfloat16().to(rough))
    assert not torch.equal(out, out.bfloat16().to(out))
    assert out.dtype == rough.dtype == x.dtype
    assert (
        float((out - rough).detach().abs().max() / out.detach().abs().max()) < 2**-6
    )  # inputs, weights and answer rounded to 2^-9
    losses = [level_loss(LevelTrainer.of(d, 0), x, torch.arange(4)).total for d in (exact, half)]
    assert not torch.equal(*losses)
    assert torch.allclose(*losses, rtol=2**-5)


def test_a_precision_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="precision"):
        NetModel(cascade().model.net, precision="half")


# ---- by configuration, in files, and drawn ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    plan = prepare_fit(config(), folder, folder)
    assert plan.steps == 9
    fit(plan, folder, tensorboard=False)
    return folder


def test_a_cascade_is_trained_by_a_configuration_and_resumed(trained, tmp_path):
    assert {p.name for p in trained.iterdir()} >= {"coarse", "level-1", "level-2", "small.json", "small.safetensors"}
    record = json.loads((trained / "small.json").read_text())
    assert record["network"]["options"]["levels"] == 2
    assert len(record["spread_scale"]["rows"]) == 3
    assert prepare_fit(config(), trained, trained).start_step == 9  # all is done
    plan = prepare_fit(config(), tmp_path, tmp_path)

    class Stop(Exception):
        pass

    def stop(p):
        if p.step == 5:  # in the middle of the second network
            raise Stop

    with pytest.raises(Stop):
        fit(plan, tmp_path, watch=stop, tensorboard=False)
    fit(prepare_fit(config(), tmp_path, tmp_path), tmp_path, tensorboard=False)
    assert (tmp_path / "small.safetensors").read_bytes() == (trained / "small.safetensors").read_bytes()


def test_networks_are_trained_for_steps_of_their_own(tmp_path):
    plan = prepare_fit(config(training__each=[4, 3, 1]), tmp_path, tmp_path)
    assert plan.steps == 8
    told = []
    fit(plan, tmp_path, watch=lambda p: told.append((p.step, p.steps)), tensorboard=False)
    assert told == [(n, 8) for n in range(1, 9)]
    done = {name: newest(tmp_path / name)[0].step for name in ("coarse", "level-2", "level-1")}
    assert done == {"coarse": 4, "level-2": 3, "level-1": 1}
    assert prepare_fit(config(training__each=[4, 3, 1]), tmp_path, tmp_path).start_step == 8


def test_networks_are_shown_batches_of_their_own(tmp_path, monkeypatch):
    seen = []
    loss = fit_cascade.level_loss

    def spy(trainer, batch, seeds, *options):
        seen.append((trainer.scale, len(seeds)))
        return loss(trainer, batch, seeds, *options)

    monkeypatch.setattr(fit_cascade, "level_loss", spy)
    changed = config(training__batches=[5, 3, 2], training__steps=1)
    plan = prepare_fit(changed, tmp_path, tmp_path)
    seen.clear()
    fit(plan, tmp_path, tensorboard=False)
    assert sorted(set(seen)) == [(0, 2), (1, 3), (2, 5)]
    with pytest.raises(InputError, match="batch"):  # other batches are another run
        prepare_fit(config(training__batches=[6, 3, 2], training__steps=1), tmp_path, tmp_path)
    assert "training.batches" not in prepare_fit(config(), tmp_path / "x", tmp_path).identity


def test_steps_of_networks_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"training\.each.*3 numbers: coarse, level-2, level-1"):
        prepare_fit(config(training__each=[4, 3]), tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"training\.each.*network: \{name: cascade\}"):
        config(training__each=[4, 3], network={"name": "unet"})
    with pytest.raises(InputError, match=r"training\.batches.*3 numbers: coarse, level-2, level-1"):
        prepare_fit(config(training__batches=[4, 3]), tmp_path, tmp_path)


def test_checkpoints_of_other_levels_are_refused_by_name(trained):
    with pytest.raises(InputError, match=r"process\.basis\.options\.levels"):
        prepare_fit(
            config(process__basis={"name": "wavelet", "options": {"family": "haar", "levels": 1}}), trained, trained
        )


def test_a_record_whose_levels_differ_is_refused_by_name(trained, tmp_path):
    record = json.loads((trained / "small.json").read_text())
    record["network"]["options"]["levels"] = 3
    (tmp_path / "small.json").write_text(json.dumps(record))
    (tmp_path / "small.safetensors").write_bytes((trained / "small.safetensors").read_bytes())
    with pytest.raises(
        InputError, match=r"network\.options\.levels.*3.*expected 2|network\.options\.levels.*2, the levels"
    ):
        open_generator(tmp_path / "small")
    record["network"]["options"]["levels"] = 2
    record["process"]["basis"]["options"]["levels"] = 1
    (tmp_path / "small.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"small\.json: process.*levels \(1, 1\); expected.*\(2, 2\)"):
        open_generator(tmp_path / "small")
    record["process"]["basis"]["options"]["levels"] = 2
    del record["spread_scale"]["rows"][0]
    (tmp_path / "small.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="3 rows"):
        open_generator(tmp_path / "small")


def test_what_is_drawn_depends_on_the_seed_and_the_item_alone(trained):
    many = generate(trained / "small", 5, steps=2, batch=5, seed=3)
    few = generate(trained / "small", 3, steps=2, batch=2, seed=3)
    assert torch.allclose(many.images[:3], few.images, atol=2e-3)
    assert many.images.shape == (5, 1, 16, 16)
    assert torch.isfinite(many.images).all()
    assert not torch.allclose(many.images[0], many.images[1])
    assert many.record["calls"] == 6
    assert many.record["full"] == pytest.approx(2 * (1 / 4 + 1 / 16 + 1 / 16))
    assert many.record["law"].startswith("calibrated")
    assert "held-out" in many.record["spread"]


def test_the_default_dtype_of_the_caller_changes_nothing(trained, tmp_path):
    """Weights are drawn, kept and used in float32: the same bits under another default."""
    known = generate(trained / "small", 2, steps=2).images
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(generate(trained / "small", 2, steps=2).images, known)
        plan = prepare_fit(config(training__steps=1), tmp_path, tmp_path)
        other = fit(plan, tmp_path, tensorboard=False)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    again = fit(prepare_fit(config(training__steps=1), tmp_path / "b", tmp_path), tmp_path / "b", tensorboard=False)
    assert other.read_bytes() == again.read_bytes()


def test_steps_of_every_level_and_other_sizes(trained):
    times = cascade_grid(open_generator(trained / "small").denoiser.process, (3, 1, 2))
    assert times.tolist() == pytest.approx([1, 8 / 9, 7 / 9, 2 / 3, 1 / 3, 1 / 6, 0], abs=1e-12)
    made = generate(trained / "small", 1, steps=(3, 1, 2), size=(16, 32))
    assert made.record["calls"] == 6
    assert made.images.shape == (1, 1, 16, 32)


def test_a_sampler_that_is_not_right_is_said_to_be_so(trained):
    found = open_generator(trained / "small")
    assert judged(found.denoiser, "matched", 1, None).startswith("calibrated")
    assert "not calibrated" in judged(found.denoiser, "ancestral", 4, None)


@pytest.mark.parametrize("files", ["npz", "tiff"])
def test_the_command_writes_images_a_picture_and_a_record(trained, tmp_path, files):
    out = tmp_path / "images"
    arguments = ["generate", str(trained / "small"), "-o", str(out), "-n", "3", "--steps", "1", "--files", files, "-q"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    record = json.loads((out / "generate.json").read_text())
    assert len(record["seeds"]) == 3
    if files == "npz":
        with np.load(out / "samples.npz") as archive:
            assert archive["image"].shape == (3, 1, 16, 16)
            assert archive["seeds"].tolist() == record["seeds"]
            assert "calibrated" in str(archive["note"])
    else:
        assert sorted(p.name for p in out.glob("*.tif")) == [f"sample-{i:04d}.tif" for i in range(3)]
    assert (out / "grid.png").read_bytes()[:4] == b"\x89PNG"
    assert CliRunner().invoke(app, arguments).exit_code == 5


def test_answers_are_brought_between_limits_once_and_for_all():
    """The same again, and nothing where none is beyond them (T20); the law of the error is gone."""
    basis, power = Fourier((8, 8)), torch.ones(8, 5, dtype=torch.float64)
    plain = GaussianDenoiser(vp(basis), 0.0, power)
    x, t = 3 * noise_like(torch.zeros(2, 1, 8, 8).double(), torch.arange(2), "x", 0), torch.full((2,), 0.2).double()
    clamped = Clamped(plain, -0.5, 0.8)
    mean, again = clamped(x, t), Clamped(clamped, -0.5, 0.8)(x, t)
    assert (float(mean.min()), float(mean.max())) == (-0.5, 0.8)
    assert torch.equal(mean, again)
    assert torch.equal(Clamped(plain, -99, 99)(x, t), plain(x, t))
    assert clamped.estimate(x, t).spread is None
    assert clamped.error_law == "none"
    assert clamped.gaussian() is None
    with pytest.raises(InputError, match="low < high"):
        Clamped(plain, 1.0, 1.0)


def test_other_unconditional_processes_are_drawn_from_too(tmp_path):
    record = config(
        process={"name": "vp", "basis": {"name": "fourier"}},
        network={"name": "unet", "options": {"width": 4, "multipliers": [1], "blocks": 1}},
        training__steps=1,
    )
    fit(prepare_fit(record, tmp_path, tmp_path), tmp_path, tensorboard=False)
    made = generate(tmp_path / "small", 2, steps=4)
    assert made.images.shape == (2, 1, 16, 16)
    assert made.record["law"].startswith("calibrated")
    assert "not calibrated" in generate(tmp_path / "small", 1, steps=8, rule="ddim").record["law"]
    with pytest.raises(InputError, match="one number"):
        generate(tmp_path / "small", 1, steps=(2, 2))
    clamped = generate(tmp_path / "small", 2, steps=8, clamp=(-0.01, 0.02))
    assert clamped.images.max() <= 0.02 + 1e-4  # float32 of HU
    assert clamped.images.min() >= -0.01 - 1e-4
    assert (clamped.record["law"], clamped.record["rule"]) == ("not calibrated: answers are clamped", "ancestral")
    with pytest.raises(InputError, match="draws no error"):
        generate(tmp_path / "small", 1, rule="matched", clamp=(0, 1))
    with pytest.raises(InputError, match=r"clamp.*least"):
        generate(tmp_path / "small", 1, clamp=(1, 0))
    command = ["generate", str(tmp_path / "small"), "-o", str(tmp_path / "out"), "--clamp", "0"]
    assert "two numbers" in CliRunner().invoke(app, command).output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples"),
        ({"rule": "matchd"}, "matchd"),
        ({"steps": (1, 2)}, "coarse band"),
        ({"steps": 0}, "steps"),
        ({"size": (18, 16)}, "multiples of 4"),
        ({"grid": "rho"}, "window"),
        ({"files": "jpg"}, "jpg"),
        ({"clamp": (0.0, 1.0)}, r"clamp.*cascade"),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_error(trained, changes, message):
    with pytest.raises(InputError, match=message):
        generate(trained / "small", **{"samples": 1, **changes})


def test_models_that_restore_are_not_drawn_from_and_cascades_do_not_restore(trained):
    with pytest.raises(InputError, match="retrodict restore"):
        generate("ct-simulated", 1)
    with pytest.raises(InputError, match="retrodict generate"):
        load_model(trained / "small")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: replace(d, process=vp(d.process.basis)), "wavelet_cascade"),
        (lambda d: replace(d, process=wavelet_cascade(d.process.basis, overlap=1.0, spectrum=d.spectrum)), "overlap"),
        (lambda d: replace(d, process=wavelet_cascade(d.process.basis)), "other statistics"),
        (lambda d: Views.of(Wavelet((8, 8), levels=(2, 1)), d.spectrum), "as many levels"),
        (lambda d: CascadeNet(Linear, levels=0), "levels"),
        (lambda d: d.model.on(Wavelet((8, 8), levels=1)), "those of the networks"),
    ],
)
def test_what_is_no_cascade_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(cascade())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predicts": "eps"}, "predicts"),
        ({"level": "clock"}, "level"),
        ({"training__loss": "eps"}, "loss"),
        ({"network__options": {"levels": 5}}, "levels of process.basis"),
        ({"network__options": {"depth": 5}}, "depth"),
        ({"process__options": {}}, r"process\.options\.spectrum: found nothing; expected .data."),
        (
            {"process__basis": {"name": "wavelet", "options": {"levels": [2, 1]}}},
            "levels: found \\[2, 1\\]; expected one number",
        ),
        ({"network__options": {"net": {"name": "unet", "options": {"breadth": 3}}}}, "found the option 'breadth'"),
        ({"process__basis": {"name": "fourier"}}, "process: found wavelet_cascade in the basis fourier"),
    ],
)
def test_configurations_that_are_no_cascade(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        prepare_fit(config(**changes), tmp_path, tmp_path)


def test_a_shared_network_answers_for_every_level_of_details():
    told = []

    class Told(Linear):
        def forward(self, x, level):
            told.append(level.shape[1])
            return super().forward(x, level)

    denoiser = cascade(Told, shared=True)
    seeds = torch.arange(2)
    start = start_state(denoiser.process, seeds, (1, 8, 8), dtype=torch.float64, spectrum=denoiser.prior()[1])
    plan = make_plan("matched", denoiser.process, cascade_grid(denoiser.process, 1), denoiser.prior()[1])
    assert torch.isfinite(sample(denoiser, plan, start, seeds=seeds).x).all()
    assert told == [1, 2, 2]
    assert LevelTrainer.of(denoiser, 0).scales == [0, 1]


@pytest.mark.parametrize("side", [1, 3, 16])
def test_a_network_of_details_may_be_trained_on_parts_of_its_sub_lattice(side):
    """Each item a part of its own, of bands, coarse image and target alike; the whole where the part is larger."""
    seen = []

    class Looks(Linear):
        def forward(self, x, level):
            seen.append(x)
            return super().forward(x, level)

    denoiser = cascade(Looks, size=(16, 16))
    x = torch.randn(6, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seeds = torch.arange(6)
    trainer = LevelTrainer.of(denoiser, 0, side)
    found = level_loss(trainer, x, seeds).error
    own = min(side, 8)
    assert seen[0].shape == (6, 4, own, own)
    level_loss(replace(trainer, crop=None), x, seeds)
    places = set()
    for part, full in zip(seen[0], seen[1], strict=True):
        at = [
            (i, j)
            for i in range(9 - own)
            for j in range(9 - own)
            if torch.equal(part, full[:, i : i + own, j : j + own])
        ]
        assert len(at) == 1
        places.add(at[0])
    assert (len(places) > 1) == (own < 8)
    alone = level_loss(trainer, x[2:3], seeds[2:3]).error
    assert float(alone[0]) == pytest.approx(float(found[2]), rel=1e-12)
    level_loss(LevelTrainer.of(denoiser, 2, 1), x, seeds)
    assert seen[-1].shape == (6, 1, 4, 4)  # the coarse image is seen whole


def test_parts_are_an_option_of_the_configuration(tmp_path):
    options = {"crop": 2, "net": {"name": "unet", "options": {"width": 4, "multipliers": [1], "blocks": 1}}}
    changed = config(network__options=options, training__steps=1)
    fit(prepare_fit(changed, tmp_path, tmp_path), tmp_path, tensorboard=False)
    assert json.loads((tmp_path / "small.json").read_text())["network"]["options"]["crop"] == 2
    assert generate(tmp_path / "small", 1, steps=1).images.shape == (1, 1, 16, 16)
    for crop in (0, True, 2.5):
        with pytest.raises(InputError, match=r"network\.options\.crop"):
            prepare_fit(config(network__options={**options, "crop": crop}), tmp_path / "none", tmp_path)


def test_images_that_stand_upright_stay_so(tmp_path):
    """`data.turn: false`: every patch of the size of the image is an image, not its mirror."""
    upright = prepare_fit(config(data__turn=False, data__patch=[32, 32]), tmp_path, tmp_path)
    turned = prepare_fit(config(data__patch=[32, 32]), tmp_path, tmp_path)
    known = [image for _, image in upright.training.images()]

    def as_they_are(patches):
        return [any(torch.equal(patches.patch(k), image) for image in known) for k in range(20)]

    assert all(as_they_are(upright.training))
    assert not all(as_they_are(turned.training))
    with pytest.raises(ValueError, match=r"data\.turn"):
        config(
            data__turn=False,
            law={"name": "clocks"},
            level="clock",
            process={"name": "fourier"},
            network={"name": "unet"},
        )


def test_bands_of_pixels_are_one_or_refused(tmp_path):
    """More had an empty filter each, a variance of 0, and a gradient that is not a number."""
    record = {"process": {"name": "vp", "basis": {"name": "pixel"}}, "network": SMALL["network"]["options"]["net"]}
    fit(prepare_fit(config(**record, bands=1), tmp_path, tmp_path), tmp_path, tensorboard=False)
    with pytest.raises(InputError, match="no frequency"):
        prepare_fit(config(**record, bands=2), tmp_path / "none", tmp_path)


def test_a_pixel_model_is_not_drawn_where_its_data_have_another_variance(tmp_path):
    """On a larger image a power law has lower frequencies; a flat spectrum has the same variance everywhere."""
    basis = Pixel((16, 16))
    record = {"network": {"name": "unet", "options": {"width": 4, "multipliers": [1]}}, "spacing": (1.0, 1.0),
              "process": process_to_recipe(vp(basis)), "size": (16, 16), "bands": 0,
              "intensity": Intensity("1", 1.0, 0.0)}  # fmt: skip
    for name, spectrum in (("law", Spectrum.power_law(0.0, 40.0, 0.01, 3.0)), ("flat", Spectrum.flat(0.0, 2.0))):
        made = ModelSpec(**record, spectrum=spectrum.to_json())
        save_model(made, made.build().net.state_dict(), tmp_path / name)
    with pytest.raises(InputError, match="times the variance of a pixel"):
        generate(tmp_path / "law", 1, steps=1, size=(64, 64))
    assert generate(tmp_path / "law", 1, steps=1).images.shape == (1, 1, 16, 16)
    assert generate(tmp_path / "flat", 1, steps=1, size=(64, 64)).images.shape == (1, 1, 64, 64)
