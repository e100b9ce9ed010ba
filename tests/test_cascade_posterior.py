"""A posterior drawn scale by scale: exact on stationary data whatever its steps; the networks, the loss, files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from retrodict import InputError
from retrodict.bases import Fourier, Wavelet
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import Spectrum
from retrodict.bases.stationary import power_law, stationary_levels
from retrodict.bases.wavelet import band_powers
from retrodict.cli.app import app
from retrodict.denoisers.cascade import StationaryModel
from retrodict.denoisers.cascade_posterior import CascadeDraws, CascadePosterior, local_deviations, residual_views
from retrodict.denoisers.spread import LocalSpread, band_filters
from retrodict.models.model import Intensity, Model, ModelSpec, load_model
from retrodict.models.prior import prior_of
from retrodict.nets import WaveletCascade
from retrodict.nets.scales import analysed
from retrodict.processes.clocks import ClockLaw
from retrodict.samplers.ensemble import SamplingOptions, calls_of, gate, restore_batch
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_config import FitConfig
from retrodict.training import cascade_posterior as objective
from retrodict.training.losses import asked

SMALL = {"width": 4, "multipliers": [1], "blocks": 1}
NET = {"levels": 2, "mean": SMALL, **SMALL}


def uneven_power(size: tuple[int, ...]) -> torch.Tensor:
    """A power at the frequencies of a grid that is alike at w and -w, and nothing else."""
    rng = torch.Generator().manual_seed(3)
    table = power_law(size, 2.0) * (0.2 + torch.rand(size, generator=rng, dtype=torch.float64))
    axes = tuple(range(len(size)))
    return 0.5 * (table + table.flip(axes).roll((1,) * len(size), axes))


def spec(**changes) -> ModelSpec:
    record = {
        "process": {"name": "fourier", "options": {}, "basis": {"name": "fourier", "options": {}}},
        "network": {"name": "wavelet_cascade", "options": dict(NET)},
        "spectrum": Spectrum.power_law(5.0, 30.0, 0.02, 3.0).to_json(),
        "intensity": Intensity("HU", 200.0, -1000.0),
        "spacing": (1.0, 1.0),
        "size": (16, 16),
        "bands": 3,
        "level": "clock",
    }
    return ModelSpec(**{**record, **changes})


def simulated_slice(side: int) -> np.ndarray:
    """A disc of 40 HU in air, with noise."""
    at = np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j])
    return (np.where(at < 0.8, 40.0, -1000.0) + np.random.default_rng(0).normal(0, 30, at.shape)).astype(np.float32)


def denoiser(**changes) -> CascadePosterior:
    torch.manual_seed(0)
    found = spec(**changes).build()
    assert isinstance(found, CascadePosterior)
    for p in found.net.parameters():  # the last layers begin at zero, where nothing is to be seen
        torch.nn.init.normal_(p, std=0.2)
    return found


# ---- the law -------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(("size", "levels"), [((8, 8), 2), ((4, 8), 1)])
def test_drawn_residuals_of_stationary_data_have_their_covariance(size, levels, steps):
    basis, power = Fourier(size, (1.0, 1.0)), uneven_power(size)
    v = power[:, : size[1] // 2 + 1][None, None]
    views = residual_views(basis, v, levels)
    model = StationaryModel(views.basis, tuple(stationary_levels(views.basis, power)))
    ratios = torch.zeros(1, 3, 1, *size, dtype=torch.float64)
    law = CascadeDraws(basis, v, ratios, band_filters(basis, 3), model, views, local_deviations(ratios, levels), steps)
    n, total = size[0] * size[1], 0.0
    for i in range(law.fields):
        z = torch.zeros(law.fields, n, 1, *size, dtype=torch.float64)
        z[i] = torch.eye(n, dtype=torch.float64).reshape(n, 1, *size)
        root = law.draw(z).reshape(n, n).T
        total = total + root @ root.T
    units = torch.eye(n, dtype=torch.float64).reshape(n, 1, *size)
    exact = basis.inverse(v[0] * basis.forward(units)).reshape(n, n)
    assert torch.allclose(total, exact, atol=1e-12 * float(exact.max()), rtol=1e-10)


def test_draws_have_the_local_deviation_of_their_scale():
    """Bands of white noise, with another variance in each half of the image."""
    basis, size = Fourier((16, 16), (1.0, 1.0)), (16, 16)
    v = torch.ones(1, 1, *basis.shape, dtype=torch.float64)
    views = residual_views(basis, v, 2)
    model = StationaryModel(views.basis, tuple(stationary_levels(views.basis, torch.ones(size, dtype=torch.float64))))
    ratios = torch.zeros(1, 3, 1, *size, dtype=torch.float64)
    ratios[:, 0, :, 8:] = math.log(4.0)  # the finest octave
    ratios[:, 2, :, :8] = math.log(9.0)  # and what is coarsest
    local = local_deviations(ratios, 2)
    law = CascadeDraws(basis, v, ratios, band_filters(basis, 3), model, views, local, 1)
    n, power = 256, torch.zeros(16, 16, dtype=torch.float64)
    z = torch.zeros(2, n, 1, *size, dtype=torch.float64)
    z[1] = torch.eye(n, dtype=torch.float64).reshape(n, 1, *size)
    for error in views.basis.forward(law.draw(z)):
        power += error[0].square()
    wanted = torch.ones(16, 16, dtype=torch.float64)
    for place in views.places(0):
        wanted[place][4:] = 4.0
    for place in views.places(2):
        wanted[place][:2] = 9.0
    assert torch.allclose(power, wanted, rtol=1e-10)


def test_deviations_of_a_scale_are_of_the_pixels_under_a_coefficient():
    ratios = torch.zeros(1, 2, 1, 4, 4, dtype=torch.float64)
    ratios[0, 0, 0, 0, 0] = math.log(5.0)
    ratios[0, 1] = math.log(9.0)
    fine, middle, coarse = local_deviations(ratios, 2)
    assert torch.allclose(fine[0, 0, 0], torch.tensor([[math.sqrt(2.0), 1.0], [1.0, 1.0]], dtype=torch.float64))
    assert middle.shape == coarse.shape == (1, 1, 1, 1, 1)
    assert torch.allclose(torch.stack([middle, coarse]), torch.tensor(3.0, dtype=torch.float64))


@pytest.mark.parametrize("size", [(16, 8), (8,), (4, 8, 2)])
def test_band_powers_on_half_of_the_frequencies_are_those_of_all(size):
    wavelet, power = Wavelet(size, levels=1, family="db2"), uneven_power(size)
    whole, half = band_powers(wavelet, power), band_powers(wavelet, power[..., : size[-1] // 2 + 1])
    for band, value in whole.items():
        assert torch.allclose(half[band], value, rtol=1e-13)
    for band, place in wavelet.places().items():  # and those of a coefficient
        atom = torch.zeros(size, dtype=torch.float64)
        atom[tuple(s.start for s in place)] = 1.0
        energy = torch.fft.fftn(wavelet.inverse(atom), norm="ortho").abs().square()
        assert torch.allclose(whole[band], (energy * power).sum(), rtol=1e-12)


# ---- the networks -------------------------------------------------------------


@pytest.mark.parametrize("size", [(16,), (16, 8), (8, 8, 16)])
def test_the_images_of_a_guide_are_those_of_the_haar_basis(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    (details, coarse), wavelet = analysed(x, 2), Wavelet(size, levels=2, family="haar")
    u = wavelet.forward(x)
    for level in (1, 2):
        own = [u[(..., *place)] for (at, name), place in wavelet.places().items() if at == level and "d" in name]
        assert torch.allclose(details[level - 1], torch.stack(own, 1), atol=1e-14)
    assert torch.allclose(coarse[1], u[(..., *(slice(0, n // 4) for n in size))], atol=1e-14)


def test_the_mean_is_that_of_its_network_alone():
    net = WaveletCascade(in_channels=2, out_channels=4, level_features=1, **NET)
    x, level = torch.randn(1, 2, 16, 16), torch.zeros(1, 1)
    assert torch.equal(net(x, level), net.mean(x, level))
    assert not net.fixed
    net.mean.requires_grad_(False)
    assert net.fixed


def test_items_of_a_batch_do_not_depend_on_each_other():
    d = denoiser()
    y, t = torch.randn(3, 1, 16, 16), torch.tensor([0.3, 0.7, 1.0], dtype=torch.float64)
    z = torch.randn(8, 3, 1, 16, 16)
    with torch.no_grad():
        whole = d.estimate(y, t)
        for i in range(3):
            own = d.estimate(y[i : i + 1], t[i : i + 1])
            assert torch.equal(own.mean, whole.mean[i : i + 1])
            assert torch.equal(own.spread.draw(z[:, i : i + 1]), whole.spread.draw(z)[i : i + 1])


def test_restored_with_an_ensemble_and_a_gate():
    d = denoiser()
    options = SamplingOptions(samples=3, instant=True, margin=0, keep_samples=True)
    assert gate(d, SamplingOptions(steps=1)).passed
    found = restore_batch(d, torch.randn(1, 1, 16, 16), options)
    assert found.kind == "posterior"
    assert found.sd is not None
    assert found.samples is not None
    assert found.samples.shape == (3, 1, 1, 16, 16)
    assert not torch.equal(found.samples[0], found.samples[1])


def test_a_forecast_counts_what_members_cost():
    d = denoiser()
    assert calls_of(d, SamplingOptions(samples=3, instant=True)) == 1 + 3 * 4
    assert calls_of(replace(d, scale_steps=0), SamplingOptions(samples=3, instant=True)) == 1
    assert calls_of(d, SamplingOptions(uncertainty=False)) == 1


# ---- the objective -------------------------------------------------------------


def test_the_objective_is_zero_for_who_knows_the_residual(monkeypatch):
    d, law = denoiser(), ClockLaw(scale=200.0)
    x0, seeds = torch.randn(4, 1, 16, 16), torch.arange(4)
    seen = []

    def oracle(self, guide, view, level):
        h, s = (x.reshape(-1, 1, 1, 1, 1).float() for x in (view.h, view.s2.sqrt()))
        seen.append(view)
        clean = views.unit(u, view.scale) / local[view.scale]
        return (clean - h * view.noisy) / s, torch.zeros_like(view.noisy)

    monkeypatch.setattr(CascadePosterior, "at_scale", oracle)
    for first in range(6):
        seeds = torch.tensor([first, 1, 2, 3])
        found = asked(d, x0, seeds, law=law)
        views = found.denoiser.views(found.terms.linear.v)
        u = views.basis.forward(x0 - found.denoiser.answer(found.terms))
        local = local_deviations(found.terms.log_ratio.clamp(-14.0, 5.0), 2)
        squares, nll = objective._of_scale(found, seeds)
        assert float(squares.detach().max()) < 1e-6
        assert torch.allclose(nll, torch.zeros_like(nll), atol=1e-6)
    assert len({view.scale for view in seen}) == 3
    finest = next(view for view in seen if view.scale == 0)
    assert finest.coarse is not None
    assert finest.coarse.shape == (4, 1, 8, 8)


# ---- files and errors -------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": 0}, "bands of at least 1"),
        ({"predicts": "data", "bands": 0}, "bands of at least 1"),
        ({"flow_map": True}, "flow_map"),
        ({"network": {"name": "wavelet_cascade", "options": {**NET, "channels": 3}}}, "channels of the data"),
        ({"network": {"name": "wavelet_cascade", "options": {**NET, "levels": 0}}}, "levels"),
        (
            {
                "process": {"name": "vp", "options": {}, "basis": {"name": "pixel", "options": {}}},
                "level": "rms",
                "bands": 1,
            },
            "a Fourier basis",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        spec(**changes).build()


TINY = {
    "name": "tiny",
    "spacing": [1.0, 1.0],
    "process": {"name": "fourier"},
    "law": {"name": "clocks"},
    "level": "clock",
    "network": {"name": "wavelet_cascade", "options": NET},
    "bands": 3,
    "data": {"simulated": {"images": 4, "side": 64}, "validation": 0.5, "patch": [32, 32]},
    "training": {"steps": 2, "batch": 2, "threads": 1, "checkpoint_every": 2, "validate_every": 2},
}


@pytest.mark.slow
def test_the_mean_of_another_model_is_kept_with_its_calibration(tmp_path):
    plain = {**TINY, "name": "plain", "network": {"name": "unet", "options": SMALL}}
    first = fit(
        prepare_fit(FitConfig.model_validate(plain), tmp_path / "a", tmp_path), tmp_path / "a", tensorboard=False
    )
    cascade = {**TINY, "start_from": str(first)}
    plan = prepare_fit(FitConfig.model_validate(cascade), tmp_path / "b", tmp_path)
    made, known = (load_model(x) for x in (fit(plan, tmp_path / "b", tensorboard=False), first))
    assert made.spec.spread_scale == known.spec.spread_scale is not None
    assert made.spec.held_out is not None  # of its own members
    assert made.spec.held_out != known.spec.held_out
    y, t = torch.randn(1, 1, 32, 32), torch.ones(1, dtype=torch.float64)
    a, b = (m.denoiser.on((32, 32)).estimate(y, t) for m in (made, known))
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.spread.variance(), b.spread.variance())
    other = {**cascade, "law": {"name": "clocks", "options": {"noise": [1.0, 9.0]}}}
    with pytest.raises(InputError, match="whose mean is kept"):
        prepare_fit(FitConfig.model_validate(other), tmp_path / "c", tmp_path)


@pytest.mark.slow
def test_fit_and_restore_by_a_configuration(tmp_path):
    record = TINY
    plan = prepare_fit(FitConfig.model_validate(record), tmp_path / "run", tmp_path)
    weights = fit(plan, tmp_path / "run", tensorboard=False)
    found = load_model(weights)
    assert isinstance(found.denoiser, CascadePosterior)
    assert json.loads((tmp_path / "run" / "tiny.json").read_text())["network"]["name"] == "wavelet_cascade"
    f = torch.linspace(0, 0.75, 31, dtype=torch.float64)
    mtf = Curve.isotropic(f, torch.exp(-(f**2)).tolist(), "1")
    nps = Curve.isotropic(f, [900.0] * 31, "HU^2 mm^2")
    np.savez(tmp_path / "scan.npz", image=simulated_slice(64), unit="HU", spacing=[1.0, 1.0])
    for name, curve in (("mtf", mtf), ("nps", nps)):
        (tmp_path / f"{name}.json").write_text(json.dumps(curve.to_json()))
    given = ["--mtf", tmp_path / "mtf.json", "--nps", tmp_path / "nps.json", "--instant", "--samples", 3]
    command = ["restore", tmp_path / "scan.npz", "-o", tmp_path / "out", "--model", weights, *given]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "out" / "scan_mean.npz") as made:
        assert made["image"].shape == (64, 64)


def test_a_prior_of_a_reconstruction_has_a_covariance():
    """Its methods apply the law of the error to vectors, which drawing scale by scale is not."""
    d = denoiser()
    found = prior_of(Model(spec(), d, "here"), (16, 16), (1.0, 1.0))
    assert isinstance(found, CascadePosterior)
    said = found.estimate(torch.randn(1, 1, 16, 16), torch.ones(1, dtype=torch.float64))
    assert type(said.spread) is LocalSpread
    assert type(d.estimate(torch.randn(1, 1, 16, 16), torch.ones(1, dtype=torch.float64)).spread) is CascadeDraws
