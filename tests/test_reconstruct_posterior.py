"""`reconstruct --posterior`: exact on Gaussian images, honest about what it is, and clear about what it cannot use."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import retrodict
from models import SPECTRUM, field, make_model, spec
from retrodict import Blur, Fourier, GaussianNoise, Image, InputError, Measurement
from retrodict._random import white
from retrodict.metrics.calibration import central_factor
from retrodict.models.model import load_model, save_model
from retrodict.models.prior import prior_of, state_noise, unlike
from retrodict.physics.crop import Crop
from retrodict.physics.operator import Space, inner
from retrodict.posterior.law import Conditioner, root_of
from retrodict.processes.clocks import ClockLaw
from retrodict.processes.observation import Moments
from retrodict.tasks.recon_options import ReconstructOptions
from retrodict.tasks.recon_regions import of_region
from retrodict.tasks.reconstruct import ReconstructJob
from retrodict.tasks.resume import Parts
from shell import retrodict as run

SIZE = (16, 14)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model of every instrument: its network answers zero, so it is exact for Gaussian images; HU = 100 u."""
    record = replace(
        spec(), level="clock", law=ClockLaw(noise=(2.0, 250.0), scale=100.0).to_json(), spacings=(0.5, 1.5)
    )
    folder = tmp_path_factory.mktemp("prior")
    torch.manual_seed(0)
    save_model(record, record.build("test").net.state_dict(), folder / "model")
    return load_model(folder / "model")


def image(size=SIZE, noise=20.0, fwhm=2.0, boundary="circular"):
    """Of a Gaussian image in HU what a blur and white noise leave, and the image."""
    truth = 100 * field(size)[None].double()
    blur = Blur.gaussian(size, fwhm, spacing=(1.0, 1.0), boundary=boundary)
    y = blur.forward(truth) + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(3)).double()
    return Image.of(y[0, 0].float().numpy(), unit="HU", spacing=(1.0, 1.0)), truth[0, 0]


FIELDS = ("blur.fwhm=2.0", "blur.boundary=circular")
DEBLUR = {"problem": "deblur", "sigma": 20.0, "field": FIELDS, "posterior": True}


def exact(y, size=SIZE, noise=20.0, fwhm=2.0):
    """Mean and covariance of Gaussian images of SPECTRUM given a blurred one, as matrices in HU."""
    basis, count = Fourier(size), size[0] * size[1]
    each = torch.eye(count, dtype=torch.float64).reshape(count, 1, *size)
    covariance = 1e4 * basis.inverse(SPECTRUM.on(basis) * basis.forward(each)).reshape(count, count)
    a = Blur.gaussian(size, fwhm, spacing=(1.0, 1.0), boundary="circular").forward(each).reshape(count, count).T
    mean = torch.full((count,), 100 * float(SPECTRUM.mean), dtype=torch.float64)
    gain = covariance @ a.T @ torch.linalg.inv(a @ covariance @ a.T + noise**2 * torch.eye(count, dtype=torch.float64))
    return mean + gain @ (y.double().flatten() - a @ mean), covariance - gain @ a @ covariance


@pytest.mark.parametrize("method", ["fuse", "matched"])
def test_samples_have_the_mean_and_the_variance_of_the_posterior_of_gaussian_images(model, method):
    given, _ = image()
    found = retrodict.reconstruct(given, model=model, method_posterior=method, samples=64, calls=4, **DEBLUR)
    mean, covariance = exact(given.values[0])
    assert found.kind == "posterior"
    assert found.details["posterior"]["method"] == method
    samples = torch.stack([x.values[0].double().flatten() for x in found.samples])
    root = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(root, (samples - mean).T, upper=False)  # (n, K), unit white
    assert float(z.var()) == pytest.approx(1.0, abs=0.04)  # 64 x 224 numbers: 3 standard errors
    assert float(z.mean(1).square().mean() * 64) == pytest.approx(1.0, abs=0.3)
    sd = found.sd.values[0].double()
    assert float(sd.square().mean() / covariance.diagonal().mean()) == pytest.approx(1.0, abs=0.08)


def test_auto_takes_the_fused_call_where_all_is_diagonal_and_else_the_solve(model):
    given, _ = image()
    options = {"model": model, "samples": 2, "calls": 1, **DEBLUR}
    assert retrodict.reconstruct(given, **options).method == "fuse"
    options["field"] = ["blur.fwhm=2.0", "blur.boundary=zero"]
    assert retrodict.reconstruct(given, **options).method == "matched"


def test_sizes_that_the_network_does_not_take_are_a_part_of_a_larger_image(model):
    given, _ = image((15, 17))
    found = retrodict.reconstruct(given, model=model, samples=3, calls=2, **DEBLUR)
    assert found.image.values.shape == (1, 15, 17)
    assert found.method == "matched"
    assert found.details["posterior"]["misfit"][0] == pytest.approx(1.0, abs=0.4)


def test_a_crop_has_its_adjoint_and_stays_inside():
    crop = Crop(Space((1, 9, 8), "HU", spacing=(1.0, 2.0)), (1, 3), (6, 5))
    x, y = crop.domain.white(0, "x"), crop.range.white(0, "y")
    assert crop.range.shape == (1, 6, 5)
    assert float(inner(crop.forward(x), y)) == pytest.approx(float(inner(x, crop.adjoint(y))), rel=1e-12)
    with pytest.raises(InputError, match="Crop"):
        Crop(Space((1, 9, 8)), (4, 3), (6, 5))


def test_one_solve_draws_what_mean_and_error_give_and_single_precision_is_near(model):
    prior = prior_of(model, SIZE, (1.0, 1.0))
    blur = Blur.gaussian(SIZE, 2.0, spacing=(1.0, 1.0), boundary="zero")
    noise = GaussianNoise.per_pixel(0.1 + torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(0)).double())
    y = noise.sample(blur.forward(field(SIZE)[None].double()), [1])
    c = Conditioner(Measurement(blur, y, noise))
    x = field(SIZE, 5)[None].double()
    mean, spread = prior.estimate(x, torch.tensor([0.3], dtype=torch.float64))
    factor = root_of(spread)
    z = white([7], "z", 0, (spread.fields + 1, *x.shape[1:])).double().transpose(0, 1)
    whole = c.drawn(mean.double(), z, spread.fields, factor)
    parts = c.mean(mean.double(), factor) + c.error(z, spread.fields, factor)
    assert torch.allclose(whole, parts, rtol=0, atol=1e-8)
    single = c.drawn(mean.float(), z.float(), spread.fields, factor).double()
    assert float((single - whole).std() / c.error(z, spread.fields, factor).std()) < 0.02


# ---- what is written -------------------------------------------------------------------------------------------------


def test_the_interval_of_a_region_is_that_of_the_means_of_the_samples():
    samples = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    row = of_region((2, 1, 3, 4), samples.mean(0), samples, "posterior", samples[0])
    means = samples[:, 2:5, 1:5].mean((1, 2))
    assert row["mean"] == pytest.approx(float(means.mean()))
    assert row["truth"] == pytest.approx(float(means[0]))
    half = central_factor(0.9, 5) * float(means.std())
    assert (row["low"], row["high"]) == (pytest.approx(row["mean"] - half), pytest.approx(row["mean"] + half))
    assert "low" not in of_region((2, 1, 3, 4), samples.mean(0), samples, "uncalibrated")


def test_the_command_line_writes_mean_deviation_samples_record_and_page(model, tmp_path):
    given, _ = image()
    np.save(tmp_path / "blurred.npy", given.values[0].numpy())
    call = [
        "reconstruct", tmp_path / "blurred.npy", "-o", tmp_path / "out", "--problem", "deblur", "--sigma", "20",
        "--unit", "HU", "--spacing", "1,1", "--field", FIELDS[0], "--field", FIELDS[1], "--posterior",
        "--model", model.source, "--samples", "3", "--calls", "2", "--region", "2,3,4,5", "--threads", "1",
    ]  # fmt: skip
    done = run(*map(str, call))
    assert done.returncode == 0, done.stderr
    assert "posterior" in done.stdout
    assert "region 2,3,4,5: mean" in done.stdout
    names = {p.name.split(".")[0] for p in (tmp_path / "out").iterdir()}
    assert names == {f"blurred_{n}" for n in ("mean", "sd", "sample-000", "sample-001", "sample-002",
                                             "reconstruct", "report")}  # fmt: skip
    record = json.loads((tmp_path / "out" / "blurred_reconstruct.json").read_text())
    assert record["kind"] == "posterior"
    assert record["posterior"]["calls"] == 2
    assert record["regions"][0]["low"] < record["regions"][0]["mean"] < record["regions"][0]["high"]
    page = (tmp_path / "out" / "blurred_report.html").read_text()
    assert 'type="range"' in page
    assert "Sample 3 of 3" in page
    assert "90 % interval" in page
    refused = run(*map(str, call))
    assert refused.returncode != 0
    assert "--force" in refused.stderr
    again = run(*map(str, call), "--force")
    assert again.returncode == 0, again.stderr


def test_slices_of_a_killed_run_are_not_drawn_again(model, tmp_path):
    stack = torch.stack([image()[0].values[0], image(noise=30.0)[0].values[0]])
    volume = Image.of(stack.numpy(), unit="HU", spacing=(2.0, 1.0, 1.0))
    job = ReconstructJob.of(volume, ReconstructOptions(model=model, samples=2, calls=1, region=["0,0,4,4"], **DEBLUR))
    first = job.run(None, Parts(tmp_path))
    (tmp_path / "item-000001.safetensors").unlink()
    told = []
    parts = Parts(tmp_path)
    second = job.run(lambda name, done, total: told.append((done, total)), parts)
    assert parts.reused == 1
    assert torch.equal(first.samples[1].values, second.samples[1].values)
    assert told[-1] == (4, 4)
    assert [row["slice"] for row in second.details["regions"]] == [0, 1]
    one, two = (x.values[0] for x in first.samples)
    assert not torch.equal(one, two)


def test_a_method_as_published_has_samples_and_no_deviation_and_a_point_method_one_image(model):
    given, _ = image()
    found = retrodict.reconstruct(given, model=model, samples=2, calls=3, method_posterior="dds", region=["0,0,4,4"],
                                  set={"style": "paper"}, **DEBLUR)  # fmt: skip
    assert (found.kind, found.sd) == ("uncalibrated", None)
    assert "low" not in found.details["regions"][0]
    point = retrodict.reconstruct(given, model=model, samples=2, calls=3, method_posterior="red_diff", **DEBLUR)
    assert point.kind == "point"
    assert len(point.samples) == 1


def test_data_outside_the_range_of_the_prior_are_said_to_be(model):
    given, _ = image()
    wrong = given.with_values(given.values + 3000, "HU")
    with pytest.warns(UserWarning, match="outside the range"):
        found = retrodict.reconstruct(wrong, model=model, samples=2, calls=1, **DEBLUR)
    assert "outside the range" in found.details["posterior"]["warnings"][0]


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "fista"}, "none with a posterior"),
        ({"method_posterior": "mathced"}, "matched"),
        ({"posterior": False, "samples": 4}, "nothing without a posterior"),
        ({"region": ["1,2,3"]}, "first row, first column"),
        ({"region": ["10,10,9,9"]}, "region"),
        ({"sigma": 0}, "positive"),
        ({"samples": 1}, "at least 2"),
        ({"set": {"strenght": 3}}, "option"),
        ({"problem": "inpaint", "sigma": None, "field": (), "mask": "none.npy"}, "mask"),
    ],
)
def test_what_cannot_be_meant(model, changes, said):
    given, _ = image()
    options = {"model": model, "samples": 2, "calls": 1, **DEBLUR, **changes}
    if not options["posterior"]:
        options.pop("model")
        options.pop("calls")
    with pytest.raises(InputError, match=said):
        retrodict.reconstruct(given, **options)


def test_a_prior_of_another_unit_spacing_or_kind_and_noise_that_is_not_known(model, tmp_path):
    given, _ = image()
    options = {"samples": 2, "calls": 1, **DEBLUR}
    with pytest.raises(InputError, match="the unit of the model"):
        retrodict.reconstruct(given.with_values(given.values, "1/mm"), model=model, **options)
    wide = Image.of(given.values[0].numpy(), unit="HU", spacing=(3.0, 3.0))
    with pytest.raises(InputError, match=r"square pixels of 0.5 to 1.5 mm"):
        retrodict.reconstruct(wide, model=model, **{**options, "field": ["blur.fwhm=6", "blur.boundary=circular"]})
    with pytest.raises(InputError, match="one instrument"):
        retrodict.reconstruct(given, model=make_model(tmp_path), **options)
    with pytest.raises(InputError, match="noise"):
        retrodict.reconstruct(given, model=model, **{**options, "sigma": None, "field": (*FIELDS, "noise.law=none")})


def test_the_state_stays_within_the_law_of_the_model(model):
    prior = prior_of(model, SIZE, (0.8, 0.8))
    assert prior.process.basis.spacing == (0.8, 0.8)
    end = prior.process.moments(torch.tensor([1.0], dtype=torch.float64)).s2.sqrt()
    assert float(end.max()) == pytest.approx(state_noise(model))
    assert state_noise(model) <= 60 * 250 / 100
    flat = torch.ones(prior.process.basis.shape, dtype=torch.float64)
    assert unlike(model, prior.process, Moments(flat, 0 * flat, 0.2**2 * flat)) == ""
    assert "600 HU" in unlike(model, prior.process, Moments(flat, 0 * flat, 36 * flat))
