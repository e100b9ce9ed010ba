"""Volumes of every instrument: clocks of three axes, curves of slices, training and restoring."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import retrodict
from retrodict import InputError, NotCalibratedError
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import Spectrum
from retrodict.cli.app import app
from retrodict.data import read
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.held_out import HeldOut
from retrodict.models.model import model_files, open_model
from retrodict.models.range import slices_outside
from retrodict.models.tensors import read_tensors
from retrodict.nets.unet import Conv3, UNet
from retrodict.processes.clocks import ClockLaw
from retrodict.processes.fourier import measured
from retrodict.processes.recipes import process_from_recipe, process_to_recipe
from retrodict.processes.slices import slice_mtf, slice_power
from retrodict.samplers.misfit import grown
from retrodict.tasks.fit import _start_from, fit, prepare_fit
from retrodict.tasks.fit_config import FitConfig

BASIS = Fourier((8, 12, 10), (3.0, 2.0, 2.0))
F = [0.0, 0.1, 0.2, 0.4]
MTF = Curve.isotropic(F, [1.0, 0.8, 0.5, 0.1], "1")
NPS = Curve.isotropic(F, [100.0, 900.0, 500.0, 50.0], "HU^2 mm^2")


# ---- the law ---------------------------------------------------------------------------------------------------------


def test_clocks_of_volumes_are_functions_of_their_seeds_alone():
    seeds, law = torch.arange(30), ClockLaw(scale=200.0)
    clocks = law.clocks(BASIS, seeds)
    assert clocks.shape == (30, 1, *BASIS.shape)
    assert bool((clocks > 0).all())
    assert bool(clocks.isfinite().all())
    assert len({float(c.sum()) for c in clocks}) == 30
    for k in (0, 13, 29):
        alone = law.clocks(BASIS, seeds[k : k + 1])  # vectors of one number round differently
        torch.testing.assert_close(clocks[k : k + 1], alone, rtol=1e-14, atol=0)


def test_precisions_of_fused_volumes_add():
    seeds, law = torch.arange(20), ClockLaw(white=0.0, smooth=0.0, fused=1.0)
    one, two = (law._single(BASIS, seeds, k) for k in (0, 1))
    torch.testing.assert_close(1 / law.clocks(BASIS, seeds)[:, 0], 1 / one + 1 / two, rtol=1e-12, atol=0)


def test_an_instrument_is_one_of_a_slice_times_what_slices_do():
    """MTF and NPS of a drawn instrument factor exactly into (f_y, f_x) and f_z."""
    law = ClockLaw(independent=0.0, overlap=0.6, profile=(1.5, 1.5))
    for seed in range(5):
        m = law.instrument(BASIS, seed).measurement
        through = slice_mtf(BASIS.frequencies()[0], 1.5 * 3.0)
        torch.testing.assert_close(m.h / through, (m.h / through)[:1].expand_as(m.h), rtol=1e-12, atol=0)
        along = m.s2 / m.s2[:1]
        torch.testing.assert_close(along, along[:, :1, :1].expand_as(along), rtol=1e-12, atol=0)
        assert float(along[4, 0, 0]) < 0.999  # not white
    white = ClockLaw(independent=1.0).instrument(BASIS, 3).measurement.s2
    torch.testing.assert_close(white, white[:1].expand_as(white), rtol=1e-12, atol=0)


def test_the_noise_of_an_instrument_has_the_std_that_was_drawn():
    law = ClockLaw(noise=(20.0, 20.0), scale=200.0, independent=0.0)
    weight = BASIS.multiplicity()
    for seed in range(4):
        s2 = law.instrument(BASIS, seed).measurement.s2
        assert float((s2 * weight).sum() / weight.sum()) == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("options", [{"profile": (2.0, 1.0)}, {"profile": (-1.0, 1.0)}, {"overlap": 1.0},
                                     {"independent": 1.1}])  # fmt: skip
def test_laws_of_slices_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=r"ClockLaw.*" + next(iter(options))):
        ClockLaw(**options)


# ---- slices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7, 0.9])
def test_neighbors_have_the_correlation_that_is_said(rho):
    """The autocorrelation of the noise along z is rho^(k^2), that of a Gaussian profile, and its mean power 1."""
    n, d = 64, 3.27
    power = slice_power(torch.fft.fftfreq(n, d, dtype=torch.float64), d, rho)
    found = torch.fft.ifft(power).real
    expected = torch.tensor([rho ** (k * k) if k else 1.0 for k in range(8)], dtype=torch.float64)
    torch.testing.assert_close(found[:8], expected, rtol=0, atol=1e-12)
    width = d / math.sqrt(-math.log(rho) / math.log(4)) if rho else 0.0  # 4^(-(d/w)^2) = rho
    assert rho == 0 or 4 ** (-((d / width) ** 2)) == pytest.approx(rho, rel=1e-12)


def test_a_profile_has_its_width_at_half_maximum():
    f = torch.arange(-4000, 4001, dtype=torch.float64) * 1e-3
    value = [float((slice_mtf(f, 3.0) * torch.cos(2 * math.pi * f * z)).sum()) for z in (0.0, 1.5)]
    assert value[1] / value[0] == pytest.approx(0.5, abs=1e-12)


def test_a_measured_volume_of_thin_independent_slices_is_its_slices():
    volume = measured(BASIS, MTF, NPS, 10.0, slices={"profile": 0.0, "correlation": 0.0}).measurement
    one = measured(Fourier(BASIS.size[1:], BASIS.spacing[1:]), MTF, NPS, 10.0).measurement
    torch.testing.assert_close(volume.h, one.h.expand_as(volume.h), rtol=1e-12, atol=0)
    torch.testing.assert_close(volume.s2, one.s2.expand_as(volume.s2), rtol=1e-12, atol=0)


def test_a_measured_volume_goes_through_its_recipe():
    process = measured(BASIS, MTF, NPS, 10.0, slices={"profile": 3.0, "correlation": 0.4})
    again = process_from_recipe(json.loads(json.dumps(process_to_recipe(process))), BASIS.size, BASIS.spacing, "p")
    assert torch.equal(again.measurement.s2, process.measurement.s2)
    assert torch.equal(again.measurement.h, process.measurement.h)


@pytest.mark.parametrize(
    ("slices", "field"),
    [
        ({"profile": 3.0}, "slices"),
        ({"profile": -1, "correlation": 0}, "profile"),
        ({"profile": 1, "correlation": 0.95}, "correlation"),
    ],
)
def test_slices_that_cannot_be_are_refused(slices, field):
    with pytest.raises(InputError, match=field):
        measured(BASIS, MTF, NPS, slices=slices)
    with pytest.raises(InputError, match="three axes"):
        measured(Fourier((8, 8), (2.0, 2.0)), MTF, NPS, slices={"profile": 1.0, "correlation": 0.0})


def dense(basis, table):
    """The matrix of a filter on flattened volumes."""
    n = math.prod(basis.size)
    unit = torch.eye(n, dtype=torch.float64).reshape(n, *basis.size)
    return basis.inverse(table * basis.forward(unit)).reshape(n, n).T


def test_without_a_network_a_gaussian_volume_has_its_exact_posterior():
    """Mean and variance of a zero network against the dense posterior of 4 x 6 x 6 voxels, 1e-10."""

    class Zero(torch.nn.Module):
        def forward(self, x, level):
            return torch.zeros_like(x[:, :1])

    basis, spectrum = Fourier((4, 6, 6), (3.0, 2.0, 2.0)), Spectrum.power_law(0.3, 30.0, 0.05, 2.5)
    process = measured(basis, MTF, NPS, 10.0, slices={"profile": 4.0, "correlation": 0.5})
    denoiser = NetDenoiser(Zero(), process, spectrum=spectrum, level="clock")
    y = torch.randn(1, 1, *basis.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = denoiser.estimate(y, torch.ones(1, dtype=torch.float64))
    m = process.measurement
    prior, blur, noise = (dense(basis, t) for t in (spectrum.on(basis), m.h.expand(basis.shape), m.s2))
    gain = prior @ blur.T @ torch.linalg.inv(blur @ prior @ blur.T + noise)
    mean = torch.full((y.numel(),), 0.3, dtype=torch.float64)
    expected = mean + gain @ (y.flatten() - blur @ mean)
    torch.testing.assert_close(found.mean.flatten(), expected, rtol=0, atol=1e-10)
    variance = (prior - gain @ blur @ prior).diagonal()
    torch.testing.assert_close(found.spread.variance().expand_as(y).flatten(), variance, rtol=1e-10, atol=1e-10)


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_a_mask_grows_by_a_box():
    mask = torch.zeros(1, 9, 11, 10, dtype=torch.bool)
    mask[0, 4, 5, 4] = True
    wide = grown(mask, 2)
    z, y, x = (torch.arange(n) for n in mask.shape[1:])
    inside = (z > 1) & (z < 7), (y > 1) & (y < 9), (x > 1) & (x < 8)
    box = ((z - 4).abs() <= 2)[:, None, None] & ((y - 5).abs() <= 2)[None, :, None] & ((x - 4).abs() <= 2)
    core = inside[0][:, None, None] & inside[1][None, :, None] & inside[2]
    assert torch.equal(wide[0], box | ~core)
    assert torch.equal(grown(mask, (2, 2, 2)), wide)
    flat = ((z - 4).abs() <= 1)[:, None, None] & (y == 5)[None, :, None] & ((x - 4).abs() <= 3)
    edge = ((z > 0) & (z < 8))[:, None, None] & ((x > 2) & (x < 7))
    assert torch.equal(grown(mask, (1, 0, 3))[0], flat | ~edge)


def test_the_gradient_of_two_slices_is_made_of_written_memory():
    """Torch 2.13 reads what nobody wrote in bfloat16 gradients of grids of two slices, so they are not taken there."""
    torch.manual_seed(0)
    conv, x = Conv3(3, 16, 16, circular=False), torch.randn(8, 16, 2, 4, 4)

    def gradient(*, bf16):
        conv.zero_grad()
        for k, _ in itertools.product(range(8, 20), range(4)):
            torch.full((2**k,), math.nan)  # what the next allocations find
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            conv(x).float().square().mean().backward()
        return conv.conv.weight.grad.clone()

    plain = gradient(bf16=False)
    for _ in range(8):
        torch.testing.assert_close(gradient(bf16=True), plain, rtol=1e-5, atol=1e-7)


# ---- a model ---------------------------------------------------------------------------------------------------------


def volumes(folder, count=4):
    """Smooth volumes in HU of 28 x 32 x 32 voxels."""
    basis = Fourier((28, 32, 32), (3.0, 2.0, 2.0))
    root = Spectrum.power_law(0.0, 3e5, 0.03, 3.0).on(basis).sqrt()
    folder.mkdir(parents=True)
    for k in range(count):
        z = torch.randn(*basis.size, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
        x = basis.inverse(root * basis.forward(z)).clamp(-300, 300)
        np.savez(folder / f"p{k}.npz", hu=x.numpy().astype(np.float32), spacing=np.array(basis.spacing), unit="HU")


def settings(tmp_path, **data):
    return FitConfig.model_validate({
        "name": "small", "spacing": [3.0, 2.0, 2.0], "intensity": {"unit": "HU", "scale": 100.0, "offset": 0.0},
        "process": {"name": "fourier"}, "law": {"name": "clocks", "options": {"noise": [5, 100], "profile": [0, 2]}},
        "level": "clock", "bands": 2,
        "network": {"name": "unet", "options": {"width": 4, "multipliers": [1], "patch": 2, "activation": "relu"}},
        "data": {"root": str(tmp_path), "folders": ["volumes"], "validation": ["volumes/p2.npz", "volumes/p3.npz"],
                 "coarser": "refuse", "balance": "patients", "patch": [8, 16, 16], **data},
        "training": {"steps": 3, "batch": 2, "precision": "float32"},
    })  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of three steps, calibrated."""
    folder = tmp_path_factory.mktemp("volumes")
    volumes(folder / "volumes")
    plan = prepare_fit(settings(folder), folder / "run", folder)
    assert any("2 held-out patients are few" in note for note in plan.notes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrodict.training.calibrate_law.MOST_PIXELS", 2**18)
        return fit(plan, folder / "run", tensorboard=False)


def test_a_trained_model_of_volumes_knows_its_law_and_its_patients(model):
    spec = open_model(model).spec
    assert spec.law["options"]["profile"] == [0.0, 2.0]
    assert spec.spacings is None
    assert len(spec.card["training_images"]) == 56
    assert len(spec.card["validation_images"]) == 56
    assert not set(spec.card["training_images"]) & set(spec.card["validation_images"])
    assert len(spec.spread_scale["level"]) == 8


def test_a_model_of_volumes_starts_from_one_of_slices(tmp_path):
    """A model of two axes gives its weights; one of another width has none to give."""
    network = {"name": "unet", "options": {"width": 4, "multipliers": [1], "patch": 2, "activation": "relu"}}
    flat = {"name": "flat", "spacing": [1.0, 1.0], "process": {"name": "fourier"}, "law": {"name": "clocks"},
            "level": "clock", "bands": 2, "network": network, "training": {"steps": 2, "batch": 2},
            "data": {"simulated": {"images": 4, "side": 32}, "validation": 0.5, "patch": [16, 16]}}  # fmt: skip
    plan = prepare_fit(FitConfig.model_validate(flat), tmp_path / "flat", tmp_path)
    first = fit(plan, tmp_path / "flat", tensorboard=False)
    volumes(tmp_path / "volumes")
    record = settings(tmp_path).model_dump() | {"start_from": str(first)}
    options = {**network["options"], "slices": True}

    def start(**more):
        net = UNet(ndim=3, in_channels=2, out_channels=3, level_features=8, **{**options, **more})
        _start_from(net, first)
        return net

    net, weights = start(), read_tensors(model_files(first)[0], start().plane_state())
    assert torch.equal(net.head.conv.weight[:, :, 0], weights["head.conv.weight"])
    assert bool(net.head.conv.weight.any())
    with pytest.raises(InputError, match="found shape"):
        start(width=8)
    plan = prepare_fit(FitConfig.model_validate({**record, "network": {"name": "unet", "options": options}}),
                       tmp_path / "run", tmp_path)  # fmt: skip
    assert open_model(fit(plan, tmp_path / "run", tensorboard=False)).denoiser.net.slices


CURVES = {"mtf": MTF, "nps": NPS, "slice_profile": 3.0, "slice_correlation": 0.3}


def test_a_volume_is_restored_as_a_volume(model, tmp_path):
    source = tmp_path / "scan.npz"
    truth = read(model.parents[1] / "volumes" / "p3.npz")
    noise = 20 * torch.randn(truth.values.shape, generator=torch.Generator().manual_seed(1))
    np.savez(source, hu=(truth.values + noise)[0].numpy(), spacing=np.array([3.0, 2.0, 2.0]), unit="HU", note="kept")
    done = retrodict.restore(source, tmp_path / "out", model=model, samples=2, steps=1, **CURVES)
    assert done.mean.values.shape == truth.values.shape
    assert done.kind == "point"  # so small a volume does not tell its noise, and the verdict says so
    assert "too few" in done.verdict.text
    back = read(tmp_path / "out" / "scan_mean.npz")
    assert back.spacing == (3.0, 2.0, 2.0)
    assert str(back.header.others["note"]) == "kept"
    record = json.loads((tmp_path / "out" / "scan_restore.json").read_text())
    assert record["instrument"]["slices"] == {"profile": 3.0, "correlation": 0.3}
    assert record["verdict"]
    other = retrodict.restore(read(source), model=model, samples=2, steps=1, **{**CURVES, "slice_correlation": 0.0})
    assert not torch.equal(other.mean.values, done.mean.values)


def test_a_volume_of_a_model_that_knows_its_patients_has_a_deviation(model, tmp_path):
    """Large enough to see its noise, and with many patients on record: a posterior, of independent slices."""
    opened = open_model(model)

    def scattered(sd):
        known = ((0.0,) * 5, (sd,) * 5)
        record = HeldOut((), 30, 30, 9000, 4, known, known).to_json()
        return replace(opened, spec=replace(opened.spec, held_out=record))

    part = read(model.parents[1] / "volumes" / "p3.npz")
    clean = np.tile(part.values[0].numpy(), (3, 3, 3))[:72, :80, :80]
    noise = measured(Fourier(clean.shape, (3.0, 2.0, 2.0)), MTF, NPS, 1.0, {"profile": 0.0, "correlation": 0.3})
    x = torch.as_tensor(clean, dtype=torch.float64)[None, None]
    y = noise.pairing.simulate(x, noise.basis, torch.tensor([4]))
    scan = replace(part, values=y[0].float())
    told = {**CURVES, "slice_profile": 0.0}
    wide = retrodict.restore(scan, model=scattered(0.1), samples=2, instant=True, **told)
    assert wide.kind == "point"  # a sample takes up most of a stronger noise here
    assert "and the 30 patients on record are too few to see" in wide.verdict.text
    done = retrodict.restore(scan, model=scattered(0.04), samples=2, instant=True, **told)
    assert done.kind == "posterior", done.verdict.text
    assert done.sd.values.shape == scan.values.shape
    assert bool((done.sd.values > 0).all())
    assert float((done.mean.values - x[0]).square().mean()) < float((y[0] - x[0]).square().mean())
    inside = (0, *(slice(12, -12),) * 3)
    error, variance = (done.mean.values - x[0])[inside].square().mean(), done.sd.values[inside].square().mean()
    assert 0.5 < float(error / variance) < 2
    other = {**CURVES, "slice_profile": 0.0, "slice_correlation": 0.0}
    told = retrodict.restore(scan, model=scattered(0.04), samples=2, instant=True, **other)
    assert not torch.equal(told.mean.values, done.mean.values)


@pytest.mark.parametrize("name", ["slice_profile", "slice_correlation"])
def test_what_is_not_said_of_the_slices_is_asked_for(model, name):
    image = read(model.parents[1] / "volumes" / "p3.npz")
    with pytest.raises(InputError, match=name):
        retrodict.restore(image, model=model, **{**CURVES, name: None})


def test_a_model_of_slices_takes_nothing_of_volumes():
    with pytest.raises(InputError, match="slice_profile"):
        retrodict.restore(np.zeros((16, 16), np.float32), unit="HU", spacing=(1.0, 1.0), mtf=MTF, nps=NPS,
                          slice_profile=2.0)  # fmt: skip


def test_slices_outside_the_law_are_not_calibrated(model):
    opened = open_model(model)
    assert slices_outside(opened, 3.0, 0.5) == ""
    assert "slice profile" in slices_outside(opened, 9.0, 0.5)
    assert "correlation" in slices_outside(opened, 3.0, 0.85)
    image = read(model.parents[1] / "volumes" / "p3.npz")
    with pytest.raises(NotCalibratedError, match="not of the kind"):
        retrodict.restore(image, model=model, **{**CURVES, "slice_profile": 9.0})


def test_a_volume_of_other_voxels_is_refused(model):
    image = replace(read(model.parents[1] / "volumes" / "p3.npz"), spacing=(5.0, 2.0, 2.0))
    with pytest.raises(InputError, match="spacing"):
        retrodict.restore(image, model=model, **CURVES)


def test_the_flags_are_those_of_the_command(model, tmp_path):
    found = CliRunner().invoke(app, ["restore", "--help"])
    assert "--slice-profile" in found.output
    assert "--slice-correlation" in found.output


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"coarser": "keep"}, "data.coarser"),
        ({"patch": [8, 16, 12]}, "data.patch"),
        ({"slices": 4}, "data.slices"),
        ({"spacings": {"least": 0.5, "most": 3.0}}, "data.spacings"),
        ({"noise": {"std": 10.0}}, "data.noise"),
    ],
)
def test_configurations_of_volumes_that_cannot_be_are_refused(tmp_path, data, field):
    with pytest.raises((InputError, ValueError), match=field):
        settings(tmp_path, **data)
