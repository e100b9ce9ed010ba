"""The functions of the benchmarks of points 8 and 9 against closed forms; no patient and no trained network."""

from __future__ import annotations

import copy
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import instruments
import intervals
import rivals
import two_processes
import worth
from equal_budget import CONFIG, Budget, RampLaw, checkpoint_options, instrument
from new_patients import disc
from retrodict import InputError
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.models.model import Intensity, open_model
from retrodict.nets import UNet
from retrodict.processes.clocks import ClockLaw
from retrodict.processes.observation import wiener
from retrodict.tasks.fit_config import load_config
from retrodict.training.loop import TrainingOptions
from retrodict.training.losses import Example
from scanners import INSTRUMENTS, SCANNERS, curves, more_scanners
from unseen import Results, by_patient, halves

BASIS = Fourier((16, 16), (0.8, 0.8))
STANDARD = SCANNERS["standard-30"]


def white(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def certain(center, width=1.0, members=None):
    wide = torch.full_like(center, width)
    return rivals.Prediction(center, wide, wide, members, 1, 0.0)


# ---- laws and instruments --------------------------------------------------------------------------------------------


def test_a_specialist_sees_its_own_ramp_and_its_end_as_often_as_it_is_told():
    end = instrument(STANDARD, BASIS, 200.0)
    seeds = torch.arange(400)
    law = RampLaw(STANDARD, 200.0)
    clocks, last = law.clocks(BASIS, seeds), end.clock(torch.ones(1, dtype=torch.float64))
    at_end = (clocks == last).flatten(1).all(1)
    assert float(at_end.double().mean()) == pytest.approx(0.4, abs=0.08)
    assert bool((clocks <= last * (1 + 1e-12)).all())
    assert bool((RampLaw(STANDARD, 200.0, end=1.0).clocks(BASIS, seeds) == last).all())
    m = law(BASIS, seeds[:3]).moments(torch.full((3,), 0.5, dtype=torch.float64))
    assert torch.equal(m.s2, clocks[:3])
    assert bool((m.h == 1).all())
    assert torch.equal(law.clocks(BASIS, seeds[7:8]), clocks[7:8])


def test_twelve_more_instruments_are_apart_and_within_what_was_trained_on():
    more = more_scanners()
    assert len(INSTRUMENTS) == 16
    assert more == more_scanners()
    assert len({s.cut for s in more.values()}) >= 9
    low, high = ClockLaw().noise
    for scanner in more.values():
        assert low < scanner.noise < high
        process = instrument(scanner, BASIS, 1.0)
        weight = BASIS.multiplicity()
        assert process.measurement is not None
        variance = float((process.measurement.s2 * weight).sum() / weight.sum())
        assert math.sqrt(variance) == pytest.approx(scanner.noise, rel=0.02)
        assert min(curves(scanner, 0.8)[0].to_json()["value"]) > 0


def test_a_network_told_the_std_takes_the_noise_for_white_of_the_same_std_and_no_blur():
    end = instrument(STANDARD, BASIS, 200.0)
    told = instruments.told_the_std(end)
    assert told.measurement is not None
    assert end.measurement is not None
    weight = BASIS.multiplicity()
    both = [float((law.s2.expand(BASIS.shape) * weight).sum()) for law in (told.measurement, end.measurement)]
    assert both[0] == pytest.approx(both[1], rel=1e-12)
    assert float(told.measurement.s2.std()) == pytest.approx(0, abs=1e-12)
    assert bool((told.measurement.h == 1).all())


# ---- prices ----------------------------------------------------------------------------------------------------------


def test_the_price_is_paired_by_patient():
    ours, theirs = {"a": 2.0, "b": 20.0}, {"a": 1.0, "b": 10.0}
    assert instruments.price(ours, theirs) == pytest.approx((100.0, 0.0))
    assert instruments.price({"a": 2.0, "b": 5.0}, theirs)[0] == pytest.approx(0.0)


def test_prices_and_what_is_said_of_them():
    def row(e):
        return [{"patient": p, "error": e, "spacing": 1.0} for p in "ab"]

    rows = {f"general | {n}": row(1.02) for n in "XY"}
    rows |= {"X | X": row(1.0), "Y | Y": row(1.0), "X | Y": row(1.02 / 0.9), "Y | X": row(1.0)}
    found = instruments.prices(rows, ["X", "Y"])
    assert found["mean"] == pytest.approx(2.0)
    assert found["off"]["X"]["mean"] == pytest.approx(-10.0)
    assert found["off"]["X"]["better"] == 1
    assert found["off"]["Y"]["better"] == 0
    white_noise = {n: (50.0, 1.0) for n in "XY"}
    text = "\n".join(instruments.reading(found) + instruments.white_reading(white_noise, white_noise))
    assert "+2.0 %" in text
    assert "better on 0 of 1" in text
    assert "+50.0 %" in text


def test_one_network_over_another_is_paired_on_every_instrument():
    rows = {
        f"{n} | X": [{"patient": "a", "error": e, "spacing": s} for s in (1.0, 2.0)] for n, e in (("A", 3), ("B", 2))
    }
    assert instruments.over(rows, ["X"], "A", "B")["X"] == pytest.approx((50.0, 0.0))


def test_spacings_of_a_patient_are_averaged_and_halves_share_nobody():
    rows = [{"patient": "a", "error": e} for e in (1.0, 3.0)] + [{"patient": "b", "error": 5.0}]
    assert by_patient(rows, "error") == {"a": 2.0, "b": 5.0}
    assert halves(list("abcde")) == {"a": ["a", "c", "e"], "b": ["b", "d"]}


# ---- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
def test_the_pinball_loss_is_least_at_the_quantile(level):
    z = white(4001).sort().values
    grid = torch.linspace(-3, 3, 601, dtype=torch.float64)
    loss = torch.stack([rivals.pinball(z, q, level).mean() for q in grid])
    assert float(grid[loss.argmin()]) == pytest.approx(float(z.quantile(level)), abs=0.011)


def test_quantiles_do_not_cross_and_the_gaussian_loss_is_the_likelihood():
    out, extra = white(2, 1, 4, 4), 5 * white(2, 2, 1, 4, 4, seed=1)
    low, middle, high = rivals.quantiles(out, extra)
    assert bool((low < middle).all())
    assert bool((middle < high).all())
    z, log_variance = white(2, 1, 4, 4, seed=2), white(2, 1, 1, 4, 4, seed=3)
    law = torch.distributions.Normal(out, (0.5 * log_variance[:, 0]).exp())
    wanted = -law.log_prob(z).flatten(1).mean(1) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(rivals.gaussian_loss(z, out, log_variance), wanted, rtol=1e-12, atol=1e-12)


def test_dropout_is_a_function_of_the_seed_of_each_item():
    torch.manual_seed(0)
    net = UNet(in_channels=1, out_channels=1, width=8, multipliers=(1, 2))
    torch.nn.init.normal_(net.head.conv.weight)
    dropped = rivals.Dropped(net, rate=0.5)
    x, level = torch.randn(2, 1, 8, 8), torch.zeros(2, 1)
    plain = dropped(x, level)
    dropped.seeds = torch.tensor([3, 4])
    with torch.no_grad():
        both, again = dropped(x, level), dropped(x, level)
        dropped.seeds = torch.tensor([4])
        alone = dropped(x[1:], level[1:])
        dropped.seeds = None
        assert torch.equal(dropped(x, level), plain)
    assert torch.equal(both, again)
    torch.testing.assert_close(both[1:], alone)
    assert not torch.allclose(both, plain, atol=1e-3)


def test_bm3d_is_given_the_psd_of_the_noise_and_a_point_spread_of_the_mtf(monkeypatch):
    seen = {}

    def fake(y, psd, psf):
        seen.update(psd=torch.as_tensor(psd), psf=torch.as_tensor(psf))
        return y

    monkeypatch.setitem(sys.modules, "bm3d", SimpleNamespace(bm3d_deblurring=fake))
    end = instrument(STANDARD, BASIS, 200.0)
    it = rivals.Measured(white(1, 1, 16, 16), end, Intensity("HU", 200.0, -1000.0))
    p = rivals.bm3d(it)
    assert p.center.shape == (16, 16)
    assert math.sqrt(float(seen["psd"].sum()) / 256**2) == pytest.approx(30, rel=0.02)
    assert int(seen["psf"].argmax()) == 8 * 16 + 8
    assert end.measurement is not None
    assert float(seen["psf"].sum()) == pytest.approx(float(end.measurement.h.flatten()[0]), rel=1e-9)


# ---- intervals -------------------------------------------------------------------------------------------------------


def test_the_conformal_factor_counts_patients_alike():
    needs = [torch.arange(1.0, 11.0, dtype=torch.float64), torch.full((1000,), 20.0, dtype=torch.float64)]
    assert intervals.conformal_factor(needs, 0.5) == 10.0
    assert intervals.conformal_factor(needs[:1], 0.9) == 9.0
    assert intervals.conformal_factor([torch.arange(1.0, 101.0).double()] * 3, 0.9) == 90.0


@pytest.mark.parametrize(("count", "wanted"), [(8, math.inf), (9, 100.0), (19, 95.0)])
def test_a_promise_costs_more_the_fewer_patients_there_are(count, wanted):
    needs = [torch.arange(1.0, 101.0, dtype=torch.float64)] * count  # 19: (0.1 * 20 - 1) / 19 = 5.3 % may be outside
    assert intervals.conformal_factor(needs, promise=True) == wanted


def test_the_energy_score_is_that_of_its_definition():
    members, truth = white(5, 3, 3), white(3, 3, seed=1)
    first = sum(float((m - truth).norm()) for m in members) / 5
    second = sum(float((a - b).norm()) for a in members for b in members) / (5 * 4)
    assert intervals.energy_score(members, truth) == pytest.approx((first - second / 2) / 3, rel=1e-9)


@pytest.mark.parametrize("count", [4, 16])
def test_the_energy_score_does_not_reward_members_about_their_own_mean(count):
    truth, members = white(96, 96), white(count, 96, 96, seed=1)
    wanted = math.sqrt(2) - math.sqrt(2) / 2  # in many dimensions, of the law N(0, 1) itself
    about = members - members.mean(0)
    assert intervals.energy_score(members, truth) == pytest.approx(wanted, rel=0.02)
    assert intervals.energy_score(about, truth, own_mean=True) == pytest.approx(wanted, rel=0.02)
    assert intervals.energy_score(about, truth) < wanted - 0.2 / count


def test_discs_of_pixels_alone_are_bounded_by_both_assumptions():
    center, spacing = torch.zeros(128, 128, dtype=torch.float64), 1.0
    count = round(1 / float(torch.fft.irfft2(disc(5.0, spacing), s=(128, 128)).square().sum()))
    found = intervals.disc_intervals(certain(center, 7.0), None, 5.0, spacing)
    assert float(found["independent"][1].mean()) == pytest.approx(7 / math.sqrt(count), rel=1e-9)
    assert float(found["correlated"][2].mean()) == pytest.approx(7.0, rel=1e-9)
    shifts = torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64)
    members = center + shifts[:, None, None]  # all pixels move together, with a deviation of 1
    width = intervals.disc_intervals(certain(center, members=members), members, 5.0, spacing)["members"][1]
    assert float(width.mean()) == pytest.approx(2.919986, rel=1e-5)  # 95 % of Student with 2 degrees of freedom


def test_figures_of_a_calibrated_law_are_those_of_a_normal_error():
    truth, sd = 30 * white(128, 128), 30.0
    center = torch.zeros_like(truth)
    members = sd * white(16, 128, 128, seed=1)
    found = intervals.figures(certain(center, rivals.NORMAL * sd, members), truth, 1.0)
    assert found["rms_hu"] == pytest.approx(30, rel=0.02)
    assert found["coverage"] == pytest.approx(0.9, abs=0.01)
    assert found["length"] == pytest.approx(2 * rivals.NORMAL * 30)
    assert found["energy"] == pytest.approx(30 * math.sqrt(2) / 2, rel=0.03)
    assert found["discs"]["5 mm, members"][0] == pytest.approx(0.9, abs=0.05)
    alone = intervals.figures(certain(center, rivals.NORMAL * sd), truth, 1.0)
    assert alone["discs"]["5 mm, independent"][0] == pytest.approx(0.9, abs=0.05)
    assert alone["discs"]["5 mm, correlated"][0] == 1.0
    twice = intervals.figures(certain(center, rivals.NORMAL * sd), truth, 1.0, 2.0, 6.0)
    assert twice["length"] == pytest.approx(2 * found["length"])
    assert twice["guaranteed"] == pytest.approx(6 * found["length"])
    few = intervals.figures(certain(center, rivals.NORMAL * sd), truth, 1.0, 2.0, math.inf)
    assert few["guaranteed"] is None  # a file of results holds no infinity
    assert worth._promise([1.0, None]) == "none"


def test_the_reading_is_what_the_numbers_say():
    def rows(coverage, length, rms, discs, calls=1):
        law = {f"{d:g} mm, {law}": (c, 1.0) for d in worth.DISCS for law, c in discs.items()}
        base = {"coverage": coverage, "length": length, "rms_hu": rms, "energy": rms, "calls": calls, "discs": law}
        return [{"patient": p, **base} for p in "abc"]

    found = {
        "long": rows(0.9, 50.0, 9.0, {"independent": 0.4, "correlated": 1.0}),
        "short": rows(0.8, 10.0, 8.0, {"independent": 0.4, "correlated": 1.0}),
        worth.ONE: rows(0.91, 40.0, 4.0, {"members": 0.9}),
        worth.MANY: rows(0.91, 41.0, 5.0, {"members": 0.88}, 64),
    }
    text = "\n".join(worth.reading(found))
    assert "shortest first: ours, one call 40.0 HU; ours, ensemble 41.0 HU; long 50.0 HU." in text
    assert "not valid: short 0.80." in text
    assert "every size: ours, one call (members); ours, ensemble (members)." in text
    assert "best other, short: error -50.0 %" in text
    assert "What 64 calls buy over one: error +25.0 %" in text


# ---- one network, two processes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", two_processes.PROCESSES)
def test_every_process_samples_the_same_posterior_of_gaussian_data(name):
    basis = Fourier((16, 16), (1.0, 1.0))
    spectrum = Spectrum.power_law(0.3, 20.0, 0.05, 3.0)
    end = instrument(STANDARD, basis, 20.0)
    exact = GaussianDenoiser(end, spectrum=spectrum)
    y = white(1, 1, 16, 16).float() + 0.3
    denoiser = two_processes.denoiser_for(name, exact, end, y)  # type: ignore[arg-type]
    x = two_processes.members(denoiser, y, "matched", 4, torch.arange(400)).double()
    assert end.measurement is not None
    variance = wiener(end.measurement, spectrum.on(basis))[1]
    u = basis.forward(x - exact.observe(basis.forward(y), end.measurement).mean)
    weight = basis.multiplicity()
    bias = float((basis.energy(u.mean(0)) / variance * weight).sum() / weight.sum())
    spread = float((basis.energy(u).mean(0) / variance * weight).sum() / weight.sum())
    assert bias < 0.02  # 1/400 of chance
    assert spread == pytest.approx(1.0, abs=0.05)


# ---- networks that go on from a model ----


def of_noise(out, start, **more):
    """What `instruments.py` trains with, on white noise instead of patients."""
    shared = Budget(
        load_config(CONFIG, ["data.patch=[32,32]"]),
        TrainingOptions(steps=1, batch=2, warmup=0, **more),
        out,
        start=start,
    )
    shared._batch = lambda: lambda keys: Example(white(len(keys), 1, 32, 32).float(), spacing=(1.0, 1.0))
    return shared


def test_a_network_goes_on_from_the_weights_of_the_model_it_starts_from(tmp_path):
    model, law = open_model("ct", "float32"), ClockLaw(scale=200.0)
    weights = model.denoiser.net.state_dict()
    still = of_noise(tmp_path / "still", model, learning_rate=0.0).trained("X", law)
    assert all(torch.equal(value, weights[name]) for name, value in still.net.state_dict().items())
    assert still.spectrum == model.denoiser.spectrum
    moved = of_noise(tmp_path / "moved", model, learning_rate=1e-3).trained("X", law).net.state_dict()
    far = max(float((value - weights[name]).abs().max()) for name, value in moved.items())
    assert 1e-5 < far < 2e-3  # one step of AdamW is at most its rate a weight, the decay of weights being 0
    unmoved = of_noise(tmp_path / "x", model).started().net.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in unmoved.items())


def test_a_checkpoint_of_another_start_is_refused(tmp_path):
    model, law = open_model("ct", "float32"), ClockLaw(scale=200.0)
    of_noise(tmp_path, model, learning_rate=0.0).trained("X", law)
    other = replace(model, denoiser=replace(model.denoiser, net=copy.deepcopy(model.denoiser.net)))
    with torch.no_grad():
        next(iter(other.denoiser.net.parameters())).add_(1.0)
    with pytest.raises(InputError, match="start"):
        of_noise(tmp_path, other, learning_rate=0.0).trained("X", law)


def test_factors_on_a_spread_are_read_as_they_were_written(tmp_path):
    model = open_model("ct", "float32")
    assert model.denoiser.spread_scale is not None
    (tmp_path / "X").mkdir()
    (tmp_path / "X" / "factors-all.json").write_text(json.dumps(asdict(model.denoiser.spread_scale)))
    found = of_noise(tmp_path, model).calibrated("X", model.denoiser, ClockLaw(scale=200.0))
    assert found.spread_scale == model.denoiser.spread_scale


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_results_are_kept_and_those_of_another_setup_are_refused(tmp_path):
    first = Results(tmp_path / "r.json", {"steps": 3})
    assert first.row("a", lambda: [1]) == [1]
    assert Results(tmp_path / "r.json", {"steps": 3}).row("a", lambda: [2]) == [1]
    with pytest.raises(InputError, match="steps"):
        Results(tmp_path / "r.json", {"steps": 4})


def test_predictions_are_kept(tmp_path):
    made = certain(white(4, 4), members=white(2, 4, 4))
    rivals.kept(tmp_path / "p.safetensors", lambda: made)
    again = rivals.kept(tmp_path / "p.safetensors", lambda: pytest.fail("made twice"))
    torch.testing.assert_close(again.center, made.center, rtol=1e-6, atol=1e-6)
    assert again.calls == 1
    assert again.members is not None
    assert not again.own_mean
    own = rivals.kept(tmp_path / "q.safetensors", lambda: made._replace(own_mean=True))
    assert own.own_mean


@pytest.mark.parametrize(("step", "steps", "decay"), [(4000, 4000, 0.0), (40000, 40000, 0.25), (35000, None, None)])
def test_a_checkpoint_before_the_fall_of_its_rate_is_a_shorter_run(tmp_path, step, steps, decay):
    (tmp_path / "state.json").write_text(json.dumps({"step": step, "options": {"steps": 40000, "decay": 0.25}}))
    if steps is None:
        with pytest.raises(InputError, match="before the rate falls"):
            checkpoint_options(tmp_path)
        return
    found = checkpoint_options(tmp_path)
    assert found is not None
    assert (found.steps, found.decay) == (steps, decay)
