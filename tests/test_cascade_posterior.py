"""A posterior drawn scale by scale: exact on stationary data whatever its steps; the networks, the loss, files."""

from __future__ import annotations

import json

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
from retrodict.denoisers.cascade_posterior import CascadeDraws, CascadePosterior, residual_views
from retrodict.denoisers.spread import LocalSpread, band_filters
from retrodict.models.model import Intensity, Model, ModelSpec, load_model
from retrodict.models.prior import prior_of
from retrodict.nets import WaveletCascade
from retrodict.nets.scales import analysed, composed
from retrodict.processes.clocks import ClockLaw
from retrodict.samplers.ensemble import SamplingOptions, gate, restore_batch
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_config import FitConfig
from retrodict.training import cascade_posterior as objective
from retrodict.training.losses import asked

NET = {"levels": 2, "width": 4, "multipliers": [1], "blocks": 1}


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
    shift = torch.zeros(1, 1, *size, dtype=torch.float64)
    law = CascadeDraws(
        basis, v, shift[:, None].expand(1, 3, 1, *size), band_filters(basis, 3), model, views, shift, steps
    )
    n, total = size[0] * size[1], 0.0
    for i in range(law.fields):
        z = torch.zeros(law.fields, n, 1, *size, dtype=torch.float64)
        z[i] = torch.eye(n, dtype=torch.float64).reshape(n, 1, *size)
        root = law.draw(z).reshape(n, n).T
        total = total + root @ root.T
    units = torch.eye(n, dtype=torch.float64).reshape(n, 1, *size)
    exact = basis.inverse(v[0] * basis.forward(units)).reshape(n, n)
    assert torch.allclose(total, exact, atol=1e-12 * float(exact.max()), rtol=1e-10)


def test_a_draw_is_around_the_wiener_estimate():
    basis = Fourier((8, 8), (1.0, 1.0))
    v = torch.ones(1, 1, *basis.shape, dtype=torch.float64)
    views = residual_views(basis, v, 2)
    model = StationaryModel(views.basis, tuple(stationary_levels(views.basis, torch.ones(8, 8, dtype=torch.float64))))
    shift = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    law = CascadeDraws(basis, v, torch.zeros(1, 3, 1, 8, 8), band_filters(basis, 3), model, views, shift, 2)
    nothing = torch.zeros(law.fields, 1, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(law.draw(nothing), -shift)


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
    found, wavelet = analysed(x, 2), Wavelet(size, levels=2, family="haar")
    u = wavelet.forward(x)
    for level in (1, 2):
        own = [u[(..., *place)] for (at, name), place in wavelet.places().items() if at == level and "d" in name]
        assert torch.allclose(found.details[level - 1], torch.stack(own, 1), atol=1e-14)
    assert torch.allclose(found.coarse[1], u[(..., *(slice(0, n // 4) for n in size))], atol=1e-14)
    assert torch.allclose(composed(found.coarse[0], found.details[0]), x, atol=1e-14)


def test_outputs_are_in_units_of_the_deviation_of_their_band():
    torch.manual_seed(0)
    net = WaveletCascade(in_channels=2, out_channels=4, level_features=1, **NET)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x, level = torch.randn(1, 2, 16, 16), torch.zeros(1, 1 + net.bands)
    finest = Wavelet((16, 16), levels=2, family="haar")
    places = {band: place for band, place in finest.places().items() if band[0] == 1}

    def found(log: float) -> dict:
        told = level.clone()
        told[:, 1 + net.bands - 3 :] = log  # the finest bands are the last
        with torch.no_grad():
            u = finest.forward(net(x, told)[:, :1])
        return {band: u[(..., *place)] for band, place in places.items()}

    with torch.no_grad():
        one = net(x, level)
    assert one.shape == (1, 4, 16, 16)
    gone = found(-60.0)
    assert all(float(values.abs().max()) < 1e-5 for band, values in gone.items() if "d" in band[1])
    assert any(float(values.abs().max()) > 1e-2 for band, values in found(0.0).items() if "d" in band[1])


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


# ---- the objective -------------------------------------------------------------


def test_the_objective_is_zero_for_who_knows_the_residual(monkeypatch):
    d, law = denoiser(), ClockLaw(scale=200.0)
    x0, seeds = torch.randn(4, 1, 16, 16), torch.arange(4)
    found = asked(d, x0, seeds, law=law)
    views = found.denoiser.views(found.terms.linear.v)
    u = views.basis.forward(x0 - found.terms.skip)
    seen = []

    def oracle(self, guide, view, level):
        h, s = (x.reshape(-1, 1, 1, 1, 1).float() for x in (view.h, view.s2.sqrt()))
        seen.append(view)
        return (views.unit(u, view.scale) - h * view.noisy) / s, torch.zeros_like(view.noisy)

    monkeypatch.setattr(CascadePosterior, "at_scale", oracle)
    for first in range(6):
        seeds = torch.tensor([first, 1, 2, 3])
        found = asked(d, x0, seeds, law=law)
        views = found.denoiser.views(found.terms.linear.v)
        u = views.basis.forward(x0 - found.terms.skip)
        squares, nll = objective._of_scale(found, seeds)
        assert float(squares.max()) < 1e-6
        assert torch.allclose(nll, torch.zeros_like(nll), atol=1e-6)
    assert len({view.scale for view in seen}) == 3
    finest = next(view for view in seen if view.scale == 0)
    assert finest.coarse is not None
    assert finest.coarse.shape == (4, 1, 8, 8)


# ---- files and errors -------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": 4}, "levels"),
        ({"bands": 0}, "levels"),
        ({"predicts": "x0", "bands": 0}, "levels"),
        ({"flow_map": True}, "flow_map"),
        ({"network": {"name": "wavelet_cascade", "options": {**NET, "levels": 0}}}, "levels"),
        (
            {"process": {"name": "vp", "options": {}, "basis": {"name": "pixel", "options": {}}}, "level": "rms"},
            "a Fourier basis",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        spec(**changes).build()


def test_a_size_that_the_levels_do_not_divide_is_refused():
    net = WaveletCascade(in_channels=2, out_channels=4, level_features=1, **NET)
    with pytest.raises(InputError, match="multiples of 4"):
        net(torch.zeros(1, 2, 10, 16), torch.zeros(1, 1 + net.bands))


@pytest.mark.slow
def test_fit_and_restore_by_a_configuration(tmp_path):
    record = {
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
