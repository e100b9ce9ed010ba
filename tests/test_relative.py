"""Images without a unit: their level, a prior relative to it, and the phase that makes complex images real."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import retrodict
from models import SPECTRUM, field, spec
from retrodict import Blur, Fourier, GaussianNoise, Image, InputError, Measurement
from retrodict.data.index import IndexRow, write_index
from retrodict.data.level import level_of
from retrodict.data.units import percentile_of, unit
from retrodict.models.model import Intensity, load_model, save_model
from retrodict.models.prior import prior_of
from retrodict.models.relative import at_level
from retrodict.physics import CartesianMRI, Phased, check_adjoint, middle_phase, sampling, tie
from retrodict.physics.algebra import Affine
from retrodict.physics.covariance import Covariance
from retrodict.physics.phase import _reach
from retrodict.posterior.fused import coefficients_of
from retrodict.posterior.joint import with_imaginary
from retrodict.processes.clocks import ClockLaw
from retrodict.tasks.fit import prepare_fit
from retrodict.tasks.fit_config import load_config
from test_fit_index import settings

F64 = torch.float64
SIZE = (16, 14)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model, exact for Gaussian images, of a relative unit: 0.4 times the level is 1."""
    law = ClockLaw(noise=(0.008, 1.0), scale=0.4).to_json()
    record = replace(spec(), level="clock", law=law, spacings=(0.5, 1.5), intensity=Intensity("p99.5", 0.4, 0.0))
    folder = tmp_path_factory.mktemp("relative")
    torch.manual_seed(0)
    save_model(record, record.build("test").net.state_dict(), folder / "model")
    return load_model(folder / "model")


# ---- the level -------------------------------------------------------------------------------------------------------


def test_the_level_goes_with_the_values_and_not_with_the_noise():
    x = torch.linspace(0, 1, 64 * 64, dtype=F64).reshape(1, 64, 64)
    level = level_of([x], 99.5)
    first = 4 * np.arange(16) + 1.5  # the middle of a block
    means = np.sort((64 * first[:, None] + first).ravel()) / (64 * 64 - 1)
    assert level == pytest.approx(means[253] + 0.725 * (means[254] - means[253]), rel=1e-12)  # 0.995 of 255
    assert level_of([1e6 * x], 99.5) == pytest.approx(1e6 * level, rel=1e-12)
    flat, s = torch.ones(1, 400, 400, dtype=F64), 0.2
    z = torch.randn(1, 400, 400, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert level_of([flat + s * z], 99.5) == pytest.approx(1 + 2.576 * s / 4, abs=0.01)
    air = s * torch.complex(z, z.flip(-1))
    rayleigh = s / 4 * (-2 * np.log(0.005)) ** 0.5  # of means, not the mean of magnitudes s (pi / 2)^1/2
    assert level_of([air], 99.5) == pytest.approx(rayleigh, rel=0.05)


def test_a_level_that_is_none_is_refused():
    with pytest.raises(InputError, match=r"whose percentile 99\.5 is 0"):
        level_of([torch.zeros(1, 8, 8)], 99.5, "scan")
    with pytest.raises(InputError, match="NaN"):
        level_of([torch.full((1, 8, 8), torch.nan)], 99.5, "scan")


def test_relative_units_are_known_by_their_name():
    assert [percentile_of(n) for n in ("p99.5", "p50", "p100", "HU", "p0", "p101", "p99.5 ", "1")] == [
        99.5, 50.0, 100.0, None, None, None, None, None]  # fmt: skip
    assert unit("p99.5").data_range == 1.0
    assert unit("arbitrary").data_range is None


# ---- the prior -------------------------------------------------------------------------------------------------------


def test_a_prior_scaled_by_c_has_c_times_the_posterior(model):
    """Of N(m, S) in u, folded in by the scale at two levels; and that of N(c m, c^2 S) in x, without any folding."""
    basis, c = Fourier(SIZE), 3.7e4
    blur = Blur.gaussian(SIZE, 2.0, spacing=(1.0, 1.0), boundary="zero", unit="arbitrary")
    y = blur.forward(0.4 * field(SIZE)[None].double()) + 0.05 * field(SIZE, 9)[None].double()
    prior = Covariance.of_spectrum(SPECTRUM, basis)
    mean, found = float(SPECTRUM.mean), []
    for level in (1.0, c):
        own = at_level(model, "arbitrary", level)
        assert own.intensity.unit == "arbitrary"
        operator = Affine.rescaled(blur, own.intensity.scale, own.intensity.offset, "u")
        noise = GaussianNoise.white(0.05 * level, "arbitrary")
        u = Measurement(operator, level * y, noise).posterior_mean(mean, prior, tolerance=1e-13).x
        found.append(own.intensity.decode(u))
    assert torch.allclose(found[1], c * found[0], rtol=1e-9, atol=0)
    wide = Covariance((0.4 * c) ** 2 * SPECTRUM.on(basis), basis)
    plain = Measurement(blur, c * y, GaussianNoise.white(0.05 * c, "arbitrary"))
    closed = plain.posterior_mean(0.4 * c * mean, wide, tolerance=1e-13).x
    assert torch.allclose(found[1], closed, rtol=1e-8, atol=1e-8 * c)


def test_what_is_counted_in_the_unit_of_the_model_goes_with_the_level(model):
    own = at_level(model, "arbitrary", 250.0)
    assert own.spec.intensity == Intensity("arbitrary", 100.0, 0.0)
    assert own.spec.law is not None
    assert own.spec.law["options"]["noise"] == pytest.approx([2.0, 250.0])
    assert own.spec.law["options"]["scale"] == pytest.approx(100.0)
    assert model.spec.law["options"]["noise"] == [0.008, 1.0]
    with pytest.raises(InputError, match="one of a relative unit"):
        at_level(own, "arbitrary", 2.0)
    with pytest.raises(InputError, match="level"):
        at_level(model, "arbitrary", 0.0)


FIELDS = ("blur.fwhm=2.0", "blur.boundary=circular")


def test_reconstruct_finds_the_level_and_gives_the_unit_of_the_measurement(model):
    """The level of 5000 times the data is 5000 times theirs, and so are all samples; the record says it."""
    blur = Blur.gaussian(SIZE, 2.0, spacing=(1.0, 1.0), boundary="circular")
    y = blur.forward(2.0 + 0.4 * field(SIZE)[None].double())[0, 0]
    out = []
    for c in (1.0, 5000.0):
        given = Image.of((c * y).float().numpy(), unit="arbitrary", spacing=(1.0, 1.0))
        out.append(retrodict.reconstruct(given, problem="deblur", sigma=0.05 * c, field=FIELDS, posterior=True,
                                         model=model, samples=3, calls=2))  # fmt: skip
    levels = [r.details["posterior"]["level"] for r in out]
    assert levels[0]["percentile"] == 99.5
    assert levels[1]["value"] == pytest.approx(5000 * levels[0]["value"], rel=1e-4)
    assert levels[0]["value"] == pytest.approx(level_of([2.0 + 0.4 * field(SIZE)[None]], 99.5), rel=0.1)
    assert out[1].image.unit == "arbitrary"
    for a, b in zip(out[0].samples, out[1].samples, strict=True):
        assert torch.allclose(5000 * a.values, b.values, rtol=2e-3, atol=1.0)
    json.dumps(out[0].details["posterior"])


def test_restore_finds_the_level_and_gives_the_unit_of_the_image(model):
    z = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    values = 2.0 + 0.4 * field((32, 32))[0] + 0.1 * z
    common = {"frequency": [0.0, 0.8], "frequency_unit": "cycles/mm"}
    nps = {**common, "value": [0.01, 0.01], "unit": "arbitrary^2 mm^2"}
    made = []
    for c in (1.0, 2000.0):
        own = {**nps, "value": [c * c * v for v in nps["value"]]}
        image = Image.of((c * values).numpy(), unit="arbitrary", spacing=(1.0, 1.0))
        flat = {**common, "value": [1.0, 1.0], "unit": "1"}
        made.append(retrodict.restore(image, model=model, mtf=flat, nps=own, samples=2, steps=2, point=True))
    assert made[1].mean.unit == "arbitrary"
    assert made[1].details["level"]["value"] == pytest.approx(2000 * made[0].details["level"]["value"], rel=1e-5)
    assert torch.allclose(2000 * made[0].mean.values, made[1].mean.values, rtol=1e-3, atol=1.0)


# ---- training --------------------------------------------------------------------------------------------------------


def scanned(folder):
    """Two people whose values differ by a factor of 10^4 and nothing else, and one who is held out."""
    folder.mkdir(exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    base = rng.gamma(2.0, 1.0, (3, 48, 48))
    for name, c in (("a", 1.0), ("b", 1e4), ("v", 30.0)):
        np.savez(folder / f"{name}.npz", s=(c * base).astype(np.float32) + (name == "v"))
        rows.append(IndexRow("validation" if name == "v" else "train", name, f"{name}.npz", key="s", noise=0.1 * c,
                             pixel_spacing_mm=(0.8, 0.8), path=folder / "index.csv"))  # fmt: skip
    write_index(rows, folder / "index.csv", force=True)


def test_each_series_is_divided_by_its_own_level_before_training(tmp_path):
    intensity = {"unit": "p99.5", "scale": 0.3, "offset": 0.0}
    path = settings(tmp_path, intensity=intensity, **{"law.options": {"noise": [0.01, 1.0]}})
    scanned(tmp_path / "data")
    plan = prepare_fit(load_config(path), tmp_path / "run", path.parent)
    images = dict(plan.training.images())
    assert torch.allclose(images["a"], images["b"], rtol=1e-5)
    slices = [s for s in plan.training.slices if s.patient == "b"]
    assert level_of([s.image.values for s in slices], 99.5) == pytest.approx(1.0, rel=1e-5)
    assert plan.spec.intensity == Intensity("p99.5", 0.3, 0.0)
    assert len(set(plan.spec.card["training_images"])) == 6, "images are known by their own pixels"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.most_noise": 3.0}, "data.most_noise"),
        ({"data.noise": {"std": 3.0}}, "data.noise"),
        ({"intensity": {"unit": "p99.5", "scale": 0.3, "offset": 1.0}}, "intensity.offset"),
    ],
)
def test_what_has_a_unit_of_its_own_is_refused_beside_a_relative_one(tmp_path, changes, said):
    intensity = {"unit": "p99.5", "scale": 0.3, "offset": 0.0}
    path = settings(tmp_path, **{"intensity": intensity, "law.options": {"noise": [0.01, 1.0]}, **changes})
    with pytest.raises(InputError, match=said):
        load_config(path)


# ---- the phase -------------------------------------------------------------------------------------------------------


def turned(size):
    """A smooth phase."""
    y, x = (torch.linspace(-1, 1, n, dtype=F64) for n in size)
    return torch.polar(torch.ones(size, dtype=F64), 0.8 * x + 1.5 * y[:, None] - 0.6 * y[:, None] ** 2)


def test_phased_has_its_adjoint_and_sees_both_parts():
    size = (12, 10)
    mask = sampling("equispaced", size, 2, center=0.4)
    inner = CartesianMRI(mask, spacing=(1.0, 1.0))
    operator = Phased(inner, turned(size))
    check_adjoint(operator)
    x = operator.domain.white(0, "x")
    assert not operator.domain.complex
    whole = torch.complex(x[:, :1], x[:, 1:]) * turned(size)
    assert torch.equal(operator.forward(x), inner.forward(whole))
    assert torch.allclose(operator.joined(operator.parted(whole)), whole, rtol=1e-12, atol=1e-12)
    assert operator.norm() == pytest.approx(inner.norm(), rel=1e-5)
    with pytest.raises(InputError, match="complex"):
        Phased(Blur.gaussian(size, 2.0, spacing=(1.0, 1.0), boundary="zero"), turned(size))
    with pytest.raises(InputError, match="magnitude"):
        Phased(inner, 2 * turned(size))


def test_what_the_phase_leaves_has_the_stated_share_of_the_images(model):
    """The joint posterior of (m, q) of Gaussian images is that of matrices, and the prior of q has 0.2 rad."""
    size = (8, 8)
    joint = with_imaginary(prior_of(model, size, (1.0, 1.0)), 0.2)
    mean, variance = joint.prior()
    weight = Fourier(size).multiplicity()
    pixel = (variance * weight).sum((1, 2)) / 64
    square = pixel[0] + float(SPECTRUM.mean) ** 2
    assert float(pixel[1]) == pytest.approx(0.04 * float(square), rel=1e-6)
    assert float(mean[1].abs().max()) == 0.0
    mask = sampling("equispaced", size, 2, center=0.5)
    operator = Phased(CartesianMRI(mask, spacing=(1.0, 1.0)), turned(size))
    y = operator.forward(operator.domain.white(0, "x"))
    found = retrodict.sample_posterior(joint, Measurement(operator, y, GaussianNoise.white(0.3)), "matched",
                                       samples=400, steps=1)  # fmt: skip
    eye = torch.eye(128, dtype=F64).reshape(128, 2, *size)
    a = torch.view_as_real(operator.forward(eye)).reshape(128, -1).T
    basis = Fourier(size)
    c = basis.inverse(variance * basis.forward(eye)).reshape(128, 128)
    middle = torch.cat([torch.full((64,), float(SPECTRUM.mean), dtype=F64), torch.zeros(64, dtype=F64)])
    noise = 0.09 * torch.eye(len(a), dtype=F64)
    gain = c @ a.T @ torch.linalg.inv(a @ c @ a.T + noise)
    exact = middle + gain @ (torch.view_as_real(y).flatten() - a @ middle)
    left = c - gain @ a @ c
    x = found.samples[:, 0].reshape(400, -1).double()
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(left), (x - exact).T, upper=False)
    assert float(z.var()) == pytest.approx(1.0, abs=0.025)  # 400 x 128 numbers: 4 standard errors
    assert float(z.mean(1).square().mean() * 400) == pytest.approx(1.0, abs=0.4)


def test_the_middle_of_k_space_tells_a_smooth_phase():
    size = (32, 32)
    y, x = (torch.linspace(-1, 1, n, dtype=F64) for n in size)
    body = torch.exp(-3 * (x**2 + y[:, None] ** 2))
    truth = (body * turned(size))[None, None]
    operator = CartesianMRI(sampling("equispaced", size, 3, center=0.25))
    found = middle_phase(Measurement(operator, operator.forward(truth)))
    gap = (found * turned(size).conj()).angle()
    assert float((body * gap).abs().max()) < 0.05
    assert float((body * turned(size).angle()).abs().max()) > 0.3
    thin = torch.zeros(size)
    thin[:, ::4] = 1
    with pytest.raises(InputError, match="fully measured middle"):
        middle_phase(Measurement(CartesianMRI(thin), operator.forward(truth) * thin))


def test_a_gap_in_the_middle_ends_it():
    mask = torch.ones(16, 16)
    mask[3, 3] = 0  # off the lines through the middle
    mask[:, 1] = 0
    assert _reach(mask) == [4, 5]
    assert mask[4:13, 3:14].all()
    assert not mask[3:14, 3:14].all()


def test_a_network_of_real_images_serves_k_space_by_its_phase(model):
    size = (16, 16)
    truth = (2.0 + 0.4 * field(size)[None].double()) * 300
    at = torch.arange(16, dtype=F64) * torch.pi / 8
    phase = torch.polar(torch.ones(size, dtype=F64), 0.7 + 0.4 * at.sin() + 0.3 * at[:, None].cos())
    mask = sampling("equispaced", size, 2, center=0.5).mask
    operator = CartesianMRI(mask)
    noise = 15.0
    z = GaussianNoise.white(noise, "1").sample(operator.forward(truth * phase), [4])
    kspace = (z * mask)[0].numpy()
    found = retrodict.reconstruct({"kspace": kspace}, posterior=True, model=model, sigma=noise, samples=4, calls=4)
    record = found.details["posterior"]
    assert found.image.values.is_complex()
    error = (found.image.values[0] - (truth * phase)[0, 0]).abs().square().mean().sqrt()
    assert float(error) < 0.5 * 300 * 0.4
    assert record["misfit"][0] == pytest.approx(1.0, abs=0.35)
    assert record["level"]["value"] == pytest.approx(level_of([truth], 99.5), rel=0.1)
    assert record["phase"].startswith("of the fully measured middle of k-space")


def test_a_stack_in_the_unit_of_a_model_is_fused_like_one_in_its_own():
    """The scale and offset of a model, folded in, change neither the gain nor what is left to be explained."""
    basis = Fourier((8, 8), (1.0, 1.0))
    bank = tie((8, 8), [2.0, -5.0], wavelength=1.0, spacing=(1.0, 1.0), kind="ctf")
    y = bank.forward(bank.domain.white(0, "phi"))
    noise = GaussianNoise.white(0.3, bank.range.unit)
    plain = coefficients_of(Measurement(bank, y, noise), basis)
    folded = coefficients_of(Measurement(Affine.rescaled(bank, 4.0, 0.7, "u"), y, noise), basis)
    assert plain is not None
    assert folded is not None
    assert torch.allclose(folded[1].h, 4 * plain[1].h, rtol=1e-12, atol=0)
    assert torch.allclose(folded[0], plain[0], rtol=1e-9, atol=1e-9)  # no defocus shows the mean
