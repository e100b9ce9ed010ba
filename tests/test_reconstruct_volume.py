"""`reconstruct --posterior --coupling`: slices drawn together, exact on Gaussian volumes, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import retrodict
from models import SPECTRUM, spec
from retrodict import Blur, Fourier, GaussianNoise, Image, InputError, Measurement
from retrodict.models.model import load_model, save_model
from retrodict.physics.algebra import Affine
from retrodict.physics.operator import adjoint_error
from retrodict.physics.slices import Slices, volume_of
from retrodict.posterior.slices import correlation
from retrodict.processes.clocks import ClockLaw
from retrodict.tasks.recon_options import ReconstructOptions
from retrodict.tasks.reconstruct import ReconstructJob
from retrodict.tasks.resume import Parts
from shell import retrodict as run

SIZE, Z, RHO, NOISE = (8, 8), 3, 0.8, 60.0
N = 64
FIELDS = ("blur.fwhm=2.0", "blur.boundary=zero")
DEBLUR = {"problem": "deblur", "sigma": NOISE, "field": FIELDS, "posterior": True, "coupling": RHO}


@pytest.fixture(autouse=True)
def linear(monkeypatch):
    """The network of these tests answers zero: as a prior it is Gaussian."""
    monkeypatch.setattr("retrodict.tasks.recon_volume.NETWORKS", True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model whose network answers zero: exact for Gaussian images; HU = 100 u."""
    record = replace(
        spec(), level="clock", law=ClockLaw(noise=(2.0, 250.0), scale=100.0).to_json(), spacings=(0.5, 1.5)
    )
    folder = tmp_path_factory.mktemp("prior")
    torch.manual_seed(0)
    save_model(record, record.build("test").net.state_dict(), folder / "model")
    return load_model(folder / "model")


def matrices():
    """Covariance of a slice in HU, mean and blur."""
    basis, each = Fourier(SIZE), torch.eye(N, dtype=torch.float64).reshape(N, 1, *SIZE)
    C = 1e4 * basis.inverse(SPECTRUM.on(basis) * basis.forward(each)).reshape(N, N)
    A = Blur.gaussian(SIZE, 2.0, spacing=(1.0, 1.0), boundary="zero").forward(each).reshape(N, N).T
    return C, torch.full((N,), 100 * float(SPECTRUM.mean), dtype=torch.float64), A


@pytest.fixture(scope="module")
def volume():
    """Blurred and noisy, of a volume with neighbors correlated by RHO."""
    C, mean, A = matrices()
    g = torch.Generator().manual_seed(4)
    z = torch.randn(Z, N, generator=g, dtype=torch.float64)
    x = mean + torch.linalg.cholesky(correlation(Z, -1 / np.log(RHO), 1.0)) @ z @ torch.linalg.cholesky(C).T
    y = x @ A.T + NOISE * torch.randn(Z, N, generator=g, dtype=torch.float64)
    return Image.of(y.reshape(Z, *SIZE).float().numpy(), unit="HU", spacing=(2.0, 1.0, 1.0))


def exact(y, rho):
    C, mean, A = matrices()
    whole = torch.kron(correlation(Z, -1 / np.log(rho), 1.0), C) if rho else torch.block_diag(*[C] * Z)
    big, middle = torch.block_diag(*[A] * Z), mean.repeat(Z)
    K = whole @ big.T @ torch.linalg.inv(big @ whole @ big.T + NOISE**2 * torch.eye(Z * N, dtype=torch.float64))
    return middle + K @ (y - big @ middle), whole - K @ big @ whole


def test_samples_have_the_posterior_of_the_separable_volume(model, volume):
    found = retrodict.reconstruct(volume, model=model, samples=64, calls=1, **DEBLUR)
    mean, covariance = exact(volume.values[0].double().flatten(), RHO)
    samples = torch.stack([x.values[0].double().flatten() for x in found.samples])
    assert found.kind == "posterior"
    assert found.method == "matched"
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (samples - mean).T, upper=False)
    assert float(z.var()) == pytest.approx(1.0, abs=0.04)  # 64 x 192 numbers: 3 standard errors
    assert float(z.mean(1).square().mean() * len(samples)) == pytest.approx(1.0, abs=0.4)
    alone, _ = exact(volume.values[0].double().flatten(), None)
    gap = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (alone - mean)[:, None], upper=False)
    assert float(gap.square().mean() * len(samples)) > 1.5  # what slices one by one are off by: the test can see it
    assert found.details["posterior"]["coupling"] == RHO
    assert "neighbors correlated by 0.8" in found.details["posterior"]["said"]
    assert len(found.details["posterior"]["misfit"]) == Z


def test_a_volume_of_an_earlier_run_is_not_drawn_again(model, volume, tmp_path):
    job = ReconstructJob.of(volume, ReconstructOptions(model=model, samples=2, calls=1, **DEBLUR))
    told = []
    first = job.run(lambda name, done, total: told.append((done, total)), Parts(tmp_path))
    assert told[-1] == (2 * Z, 2 * Z)
    parts = Parts(tmp_path)
    second = job.run(None, parts)
    assert parts.reused == Z
    assert torch.equal(first.samples[1].values, second.samples[1].values)
    (tmp_path / "item-000001.safetensors").unlink()
    parts = Parts(tmp_path)
    third = job.run(None, parts)  # a part of a volume is none: it is drawn anew, the same
    assert parts.reused == 0
    assert torch.equal(first.samples[1].values, third.samples[1].values)
    other = ReconstructJob.of(
        volume, ReconstructOptions(model=model, samples=2, calls=1, **{**DEBLUR, "coupling": 0.5})
    )
    assert other.fingerprint != job.fingerprint


def test_the_command_line_writes_a_volume_and_its_page(model, volume, tmp_path):
    np.save(tmp_path / "stack.npy", volume.values[0].numpy())
    call = [
        "reconstruct", tmp_path / "stack.npy", "-o", tmp_path / "out", "--problem", "deblur", "--sigma", NOISE,
        "--unit", "HU", "--spacing", "2,1,1", "--field", FIELDS[0], "--field", FIELDS[1], "--posterior", "--model",
        model.source, "--samples", "2", "--calls", "1", "--coupling", "0.8", "--region", "2,2,4,4", "--threads", "1",
    ]  # fmt: skip
    done = run(*call)
    assert done.returncode == 0, done.stderr
    assert "drawn together" in done.stdout
    record = json.loads((tmp_path / "out" / "stack_reconstruct.json").read_text())
    assert record["posterior"]["coupling"] == 0.8
    assert [row["slice"] for row in record["regions"]] == [0, 1, 2]
    assert "drawn together" in (tmp_path / "out" / "stack_report.html").read_text()
    again = run(*call, "--resume")
    assert again.returncode == 0, again.stderr
    refused = run(*[c if c != "0.8" else "1.5" for c in call], "--force")
    assert refused.returncode != 0
    assert "--coupling" in refused.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"coupling": 1.0}, "above 0 and below 1"),
        ({"coupling": -0.2}, "above 0 and below 1"),
        ({"posterior": False, "model": None, "samples": None, "calls": None}, "nothing without a posterior"),
        ({"method_posterior": "fuse"}, "matched, for slices that are coupled"),
    ],
)
def test_what_cannot_be_coupled_is_refused_by_name(model, volume, changes, said):
    with pytest.raises(InputError, match=said):
        retrodict.reconstruct(volume, **{"model": model, "samples": 2, "calls": 1, **DEBLUR, **changes})


def test_one_slice_is_no_volume_and_a_volume_has_to_fit(model, volume, monkeypatch):
    one = Image.of(volume.values[0, 0].numpy(), unit="HU", spacing=(1.0, 1.0))
    with pytest.raises(InputError, match=r"coupling.*one slice"):
        retrodict.reconstruct(one, model=model, samples=2, calls=1, **DEBLUR)
    monkeypatch.setattr("retrodict.tasks.recon_volume.free_memory", lambda: 10_000)
    with pytest.raises(InputError, match="fits into the memory"):
        retrodict.reconstruct(volume, model=model, samples=2, calls=1, **DEBLUR)


# ---- the measurement of a volume -------------------------------------------------------------------------------------


def blurs(boundary="zero"):
    return [Blur.gaussian(SIZE, w, spacing=(1.0, 1.0), boundary=boundary) for w in (1.0, 2.0)]


def test_slices_are_their_operators_and_have_their_adjoint():
    one, two = blurs()
    x = torch.randn(2, 2, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for both in (Slices([one, two]), Slices([one, one])):
        assert float(adjoint_error(both)) < 1e-12
        for k, a in enumerate(both.operators):
            assert torch.allclose(both.forward(x)[:, k], a.forward(x[:, k : k + 1])[:, 0], atol=1e-14)
    with pytest.raises(InputError, match="gray slices"):
        Slices([Slices([one, two])])
    with pytest.raises(InputError, match="no operator"):
        Slices([])


def test_the_likelihood_of_a_volume_is_the_product_of_those_of_its_slices():
    g = torch.Generator().manual_seed(1)
    one, two = blurs()
    y = torch.randn(2, 1, 1, *SIZE, generator=g, dtype=torch.float64)
    seen = (torch.rand(1, *SIZE, generator=g) > 0.3).double()
    parts = [
        Measurement(one, y[0], GaussianNoise.white(0.5)),
        Measurement(Affine(two, torch.ones(1, *SIZE, dtype=torch.float64)), y[1],
                    GaussianNoise.per_pixel(0.1 + seen), seen),
    ]  # fmt: skip
    x = torch.randn(1, 2, *SIZE, generator=g, dtype=torch.float64)
    whole = volume_of(parts)
    apart = sum(float(p.log_likelihood(x[:, k : k + 1])) for k, p in enumerate(parts))
    assert float(whole.log_likelihood(x)) == pytest.approx(apart, rel=1e-12)
    basis = Fourier(SIZE, (1.0, 1.0))
    colored = Measurement(one, y[0], GaussianNoise.stationary(basis, 1 + basis.radius()))
    with pytest.raises(InputError, match="correlated"):
        volume_of([parts[0], colored])


def test_a_trained_network_is_not_coupled(model, volume, monkeypatch):
    monkeypatch.setattr("retrodict.tasks.recon_volume.NETWORKS", False)
    with pytest.raises(InputError, match=r"coupling: found the prior of a network; expected a Gaussian prior"):
        retrodict.reconstruct(volume, model=model, samples=2, calls=1, **DEBLUR)
