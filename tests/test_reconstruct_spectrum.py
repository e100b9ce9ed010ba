"""`reconstruct --posterior` with a Gaussian prior found from the data, and data left out and predicted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import retrodict
from retrodict import Blur, Fourier, GaussianNoise, Image, InputError, Mask, Measurement
from retrodict.denoisers.wrappers import Wrapper
from retrodict.physics import Identity
from retrodict.posterior import empirical
from retrodict.posterior.card import dense_posterior
from retrodict.posterior.empirical import PowerLaw, basis_of, first_law, fit_spectrum, gaussian_prior
from retrodict.posterior.fused import FusedDenoiser
from retrodict.posterior.method import noise_of
from retrodict.posterior.moments import DenseMoments
from retrodict.tasks import recon_priors
from retrodict.tasks.recon_held_out import HeldOut, left_out, predicted
from retrodict.tasks.recon_inputs import acquired
from retrodict.tasks.recon_options import ReconstructOptions
from shell import retrodict as run

F = {"dtype": torch.float64}
SIZE = (24, 20)
LAW = PowerLaw(3.0, 40.0, 0.1, 3.0)


def field(size=SIZE, law=LAW, seed=0, complex=False):
    """An image of a law `(1, 1, *N)`."""
    basis = Fourier(size, (1.0, 1.0), complex=complex)
    z = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed), **F)
    if complex:
        z = torch.complex(z, torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed + 50), **F))
    return law.mean + basis.inverse(law.at(basis.radius()).sqrt() * basis.forward(z))


def blurred(size=SIZE, sigma=0.3, fwhm=2.0, seed=0, law=LAW):
    blur = Blur.gaussian(size, fwhm, spacing=(1.0, 1.0))
    return Measurement.simulate(blur, GaussianNoise.white(sigma), field(size, law, seed), [seed])


# ---- the law ---------------------------------------------------------------------------------------------------------


def evidence(m, law):
    """Log p(y | law) of what is diagonal, the constant left out, up to a constant."""
    basis = basis_of(m)
    gain = m.operator.spectral().gain.abs()
    v = gain**2 * law.at(basis.radius()) + m.gaussian()[1].variance
    terms = basis.multiplicity() * (v.log() + basis.energy(basis.forward(m.y[0, 0] - law.mean)) / v)
    terms[0, 0] = 0.0
    return -0.5 * float(terms.sum())


def test_the_law_that_is_found_is_as_likely_as_any_near_it():
    m = blurred((48, 40))
    found = fit_spectrum(m, members=16, rounds=25)
    assert found.settled
    weak = -0.5 * (found.law.exponent - 3.0) ** 2  # of the exponent before the data
    reached = evidence(m, found.law) + weak
    assert reached > evidence(m, LAW._replace(mean=found.law.mean)) - 0.7
    for name in ("amplitude", "corner"):
        for times in (0.7, 1.4):
            other = found.law._replace(**{name: getattr(found.law, name) * times})
            assert evidence(m, other) + weak < reached + 0.3
    f = torch.tensor([0.05, 0.1, 0.2], **F)
    assert float((found.law.at(f) / LAW.at(f)).log().abs().max()) < math.log(1.5)


def test_the_law_is_found_through_a_mask_and_of_complex_images():
    seen = torch.rand(SIZE, generator=torch.Generator().manual_seed(4)) < 0.6
    truth = field()
    found = fit_spectrum(Measurement.simulate(Mask(seen), GaussianNoise.white(0.3), truth, [0]))
    f = torch.tensor([0.1, 0.2], **F)
    assert float((found.law.at(f) / LAW.at(f)).log().abs().max()) < math.log(2.0)
    law = LAW._replace(mean=0.0)
    mask = (torch.rand(SIZE, generator=torch.Generator().manual_seed(5)) < 0.7).double()
    operator = retrodict.CartesianMRI(mask, spacing=(1.0, 1.0))
    m = Measurement.simulate(operator, GaussianNoise.white(0.3, "1"), field(law=law, complex=True), [0])
    found = fit_spectrum(m)
    assert found.law.mean == 0.0
    assert float((found.law.at(f) / law.at(f)).log().abs().max()) < math.log(2.0)


def limited(size=(20, 20), sigma=0.02, law=PowerLaw(2.0, 4.0, 0.1, 3.0), seed=0):
    """Sixty degrees of a parallel beam with little noise: a system that conjugate gradients do not solve."""
    beam = retrodict.ParallelBeam(torch.linspace(0, math.pi / 3, 40, **F), 30, 1.0)
    radon = retrodict.Radon(size, beam, spacing=(1.0, 1.0), unit="1")
    noise = GaussianNoise.white(sigma, unit=radon.range.unit)
    return Measurement.simulate(radon, noise, field(size, law, seed), [seed]), law


def test_moments_by_matrices_are_those_of_the_posterior():
    m, law = limited((8, 8), 0.1)
    basis = basis_of(m)
    exact = DenseMoments(m, torch.zeros(1, 1, 8, 8, **F), basis)
    mean, variance = exact(law.mean, law.at(basis.radius()))
    each = torch.eye(64, **F).reshape(64, 1, 8, 8)
    covariance = basis.inverse(law.at(basis.radius()) * basis.forward(each)).reshape(64, 64)
    dense = dense_posterior(m, torch.full((64,), law.mean, **F), covariance)
    assert torch.allclose(mean.flatten(), dense.mean, rtol=0, atol=1e-8)
    values, vectors = torch.linalg.eigh(dense.covariance)
    rows = (values.clamp_min(0.0).sqrt() * vectors).T.reshape(64, 1, 8, 8)
    assert torch.allclose(variance, basis.energy(basis.forward(rows)).sum((0, 1)), rtol=0, atol=1e-8)


def test_a_known_law_is_found_from_a_limited_angle_which_solves_that_do_not_end_make_white(monkeypatch):
    m, law = limited()
    found = fit_spectrum(m)
    f = torch.tensor([0.1, 0.2, 0.4], **F)
    assert found.settled
    assert found.error == 0.0  # by matrices
    assert float((found.law.at(f) / law.at(f)).log().abs().max()) < math.log(1.6)
    monkeypatch.setattr(empirical, "CAP", 12)
    monkeypatch.setattr(empirical.DenseMoments, "serves", lambda measurement: False)
    white = fit_spectrum(m)
    assert white.error > 1
    assert float((white.law.at(f) / law.at(f)).log().abs().max()) > math.log(10)
    prior = recon_priors.FittedPrior("1", measurement=m)
    with pytest.raises(InputError, match="deviations of the posterior"):
        _ = prior.found


def test_a_law_without_a_corner_on_the_grid_is_found_and_does_not_run_away():
    law = PowerLaw(3.0, 4e4, 0.002, 2.5)  # a power of f at every frequency there is
    m = blurred((32, 32), 0.05, 1.5, 1, law)
    found = fit_spectrum(m)
    f = torch.tensor([0.05, 0.1, 0.2], **F)
    assert found.settled
    assert float((found.law.at(f) / law.at(f)).log().abs().max()) < math.log(1.6)


def test_a_fit_depends_on_its_seed_alone_and_data_without_an_image_are_refused():
    m = blurred()
    one = fit_spectrum(m, rounds=2)
    torch.manual_seed(7)
    assert fit_spectrum(m, rounds=2).law == one.law
    flat = replace(m, y=0.3 * torch.randn(m.y.shape, generator=torch.Generator().manual_seed(1), **F))
    with pytest.raises(InputError, match="more than the noise"):
        first_law(replace(flat, noise=GaussianNoise.white(0.4)))
    with pytest.raises(InputError, match="at least one"):
        fit_spectrum(m, rounds=0)


def test_one_call_of_a_gaussian_prior_is_exact():
    m = blurred((10, 8))
    prior = gaussian_prior(LAW.spectrum(basis_of(m)), basis_of(m))
    found = retrodict.sample_posterior(prior, m, "matched", steps=1, samples=400)
    basis = basis_of(m)
    each = torch.eye(80, **F).reshape(80, 1, 10, 8)
    covariance = basis.inverse(prior.prior()[1] * basis.forward(each)).reshape(80, 80)
    exact = dense_posterior(m, torch.full((80,), 3.0, **F), covariance)
    x = found.samples[:, 0].flatten(1)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(exact.covariance), (x - exact.mean).T, upper=False)
    assert float(white.var()) == pytest.approx(1.0, abs=0.025)  # 32,000 numbers, three standard errors
    assert float(white.mean(1).square().mean() * 400) == pytest.approx(1.0, abs=0.5)


def test_a_fused_denoiser_is_a_wrapper_that_keeps_the_grid_of_its_measurement():
    m = blurred((10, 8))
    prior = gaussian_prior(LAW.spectrum(basis_of(m)), basis_of(m))
    fused = FusedDenoiser(prior, m)
    assert isinstance(fused, Wrapper)
    assert (fused.multiple, fused.error_law) == (prior.multiple, prior.error_law)
    assert torch.equal(fused.prior()[1], prior.prior()[1])
    assert fused.process.pairing.sees
    assert fused.to("cpu").inner.process.basis == prior.process.basis
    with pytest.raises(InputError, match="grid of the measurement"):
        fused.on((12, 8))


# ---- data left out ---------------------------------------------------------------------------------------------------


def test_left_out_data_are_covered_at_the_level_and_a_narrow_ensemble_is_found_out():
    inside = error = told = 0.0
    for seed in range(6):
        m = blurred(sigma=0.5, seed=seed)
        m = replace(m, mask=torch.ones(1, *SIZE))
        out = left_out(m, 0.3, 0, seed, "data")
        kept, held = (replace(m, mask=x.float()) for x in (~out, out))
        prior = gaussian_prior(LAW.spectrum(basis_of(m)), basis_of(m))
        x = retrodict.sample_posterior(prior, kept, "matched", steps=1, samples=12, seed=seed).samples[:, 0]
        found = predicted(x, held, "data")
        inside, told = inside + found["covered"] * found["data"], told + found["data"]
        error += found["ratio"] / 6
        narrow = predicted(x.mean(0) + 0.1 * (x - x.mean(0)), held, "data")
        assert narrow["ratio"] > found["ratio"]
    assert inside / told == pytest.approx(0.9, abs=0.03)  # 860 numbers: three standard errors
    assert error == pytest.approx(1.0, abs=0.15)


def test_what_is_left_out_is_whole_views_all_coils_and_not_the_middle():
    y = torch.zeros(1, 1, 40, 7)
    scan = retrodict.ParallelBeam.even(40, 7, 1.0) if hasattr(retrodict.ParallelBeam, "even") else None
    part = type("P", (), {"operator": type("O", (), {"range": type("R", (), {"shape": (1, 40, 7)})}), "y": y})
    out = left_out(part, 0.3, 0, 0, "sinogram")
    assert scan is None or out.shape == (1, 40, 7)
    assert torch.equal(out.all(-1), out.any(-1))
    assert 4 <= int(out.any(-1).sum()) <= 20
    part.operator.range.shape = (3, 40, 30)
    out = left_out(part, 0.3, 0, 0, "k-space", 12)
    assert torch.equal(out.all(0), out.any(0))
    assert not bool(out[:, 14:26, 9:21].any())
    assert not torch.equal(out, left_out(part, 0.3, 0, 1, "k-space", 12))
    assert torch.equal(out, left_out(part, 0.3, 0, 0, "k-space", 12))


def test_what_is_left_out_changes_nothing():
    """Neither the fit nor the samples look at it."""
    y = field()[0, 0].float().numpy()
    image = Image.of(y, unit="arbitrary", spacing=(1.0, 1.0))
    options = {"problem": "deblur", "sigma": 0.3, "field": ["blur.fwhm=2.0", "blur.boundary=zero"]}
    made = acquired(image, ReconstructOptions(**options))[0]
    out = left_out(made.part(0, False), 0.2, 0, 0, made.kind)[0].numpy()
    other = Image.of(np.where(out, y + 9, y), unit="arbitrary", spacing=(1.0, 1.0))
    settings = {"posterior": True, "prior_spectrum": "fit", "hold_out": 0.2, "samples": 2, **options}
    one, two = (retrodict.reconstruct(x, **settings) for x in (image, other))
    assert torch.equal(one.image.values, two.image.values)
    assert one.details["held_out"]["ratio"] < two.details["held_out"]["ratio"]
    assert "Gaussian prior" in one.details["posterior"]["said"]
    assert one.details["posterior"]["calls"] == 1
    assert HeldOut(0.2).kept(made).digest != made.digest


# ---- the command -----------------------------------------------------------------------------------------------------


def test_complex_images_have_samples_by_a_fitted_spectrum_and_the_model_is_refused(tmp_path):
    law = LAW._replace(mean=0.0)
    mask = (torch.rand(SIZE, generator=torch.Generator().manual_seed(5)) < 0.7).double()
    m = Measurement.simulate(
        retrodict.CartesianMRI(mask), GaussianNoise.white(0.3, "1"), field(law=law, complex=True), [0]
    )
    np.savez(tmp_path / "scan.npz", kspace=m.y[0].numpy().astype(np.complex64))
    call = ["reconstruct", str(tmp_path / "scan.npz"), "-o", str(tmp_path / "out"), "--problem", "kspace",
            "--sigma", "0.3", "--posterior", "--prior-spectrum", "fit", "--samples", "4",
            "--hold-out", "0.2", "--field", "coils.calibration=8", "--threads", "1"]  # fmt: skip
    done = run(*call)
    assert done.returncode == 0, done.stderr
    assert "Gaussian prior" in done.stdout
    assert "lie in their 90% intervals" in " ".join(done.stdout.split())
    page = (tmp_path / "out" / "scan_report.html").read_text()
    assert "left out" in page
    refused = run(*[c for c in call if c not in ("--prior-spectrum", "fit")], "--force")
    assert refused.returncode != 0
    assert "--prior-spectrum" in refused.stderr


def test_the_spectrum_of_other_images_is_a_prior_too(tmp_path):
    like = {"image": field(seed=9)[0, 0].numpy().astype(np.float32), "spacing": np.array([1.0, 1.0])}
    np.savez(tmp_path / "other.npz", unit="mT", **like)
    np.savez(tmp_path / "like.npz", unit="HU", **like)
    image = Image.of(blurred().y[0, 0].float().numpy(), unit="HU", spacing=(1.0, 1.0))
    options = {"problem": "deblur", "sigma": 0.3, "field": ["blur.fwhm=2.0", "blur.boundary=circular"], "samples": 3}
    with pytest.raises(InputError, match="'HU'"):
        retrodict.reconstruct(image, posterior=True, prior_spectrum=str(tmp_path / "other.npz"), **options)
    found = retrodict.reconstruct(image, posterior=True, prior_spectrum=str(tmp_path / "like.npz"), **options)
    assert found.kind == "posterior"
    assert found.details["posterior"]["misfit"][0] == pytest.approx(1.0, abs=0.3)
    assert "other images" in found.details["posterior"]["said"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hold_out": 0.0}, "share between 0 and 1"),
        ({"hold_out": 1.0}, "share between 0 and 1"),
        ({"model": "ct"}, "none beside a model"),
        ({"prior_spectrum": "nowhere"}, "not there"),
        ({"posterior": False}, "nothing without a posterior"),
    ],
)
def test_what_cannot_be_meant(changes, said):
    image = Image.of(blurred().y[0, 0].float().numpy(), unit="arbitrary", spacing=(1.0, 1.0))
    options = {
        "problem": "deblur",
        "sigma": 0.3,
        "field": ["blur.fwhm=2.0"],
        "posterior": True,
        "prior_spectrum": "fit",
    }
    with pytest.raises(InputError, match=said):
        retrodict.reconstruct(image, **{**options, **changes})


# ---- a published method outside what it assumes ----------------------------------------------------------------------


@pytest.mark.parametrize(("variance", "steps", "grows"), [(1.0, 20, False), (100.0, 50, True), (1000.0, 400, True)])
def test_pigdm_as_published_diverges_on_data_of_large_variance(variance, steps, grows):
    """Its C = r/(1 + r) is that of unit variance.  For data of variance L a step from r to q r multiplies an error of
    the state by q + (1 - q) L/(L + r) (1 - (L r/(L + r))/(r/(1 + r) + sigma^2)), below -1 where L is large.
    """
    basis, sigma = retrodict.Pixel((4,)), 0.1
    denoiser = retrodict.GaussianDenoiser(retrodict.PROCESSES["vp"](basis), 0.0, torch.full((4,), variance, **F))
    m = Measurement.simulate(Identity((4,)), GaussianNoise.white(sigma), torch.ones(1, 1, 4, **F), [0])
    method = retrodict.posterior_method("pigdm", denoiser, m, style="paper")
    times = method.times(steps)
    r = denoiser.process.clock(times).flatten()
    q, r = r[1:] / r[:-1], r[:-1]
    share = variance / (variance + r)
    factors = q + (1 - q) * share * (1 - share * r / (r / (1 + r) + sigma**2))
    h = denoiser.process.moments(times[:1]).h.flatten()
    one, two = (method.run(torch.arange(2), steps=steps, dtype=torch.float64, noise=n).x for n in (quiet, loud))
    moved = float((two - one).abs().max())
    first = float(method.start(two, noise_of(two, torch.arange(2), 0, loud)).flatten()[0])
    rest = float(method.start(two, noise_of(two, torch.arange(2), 0, quiet)).flatten()[0])
    expected = abs((first - rest) / float(h) * float(factors.prod()))
    assert moved == pytest.approx(expected, rel=1e-6)
    assert (float(factors.cumprod(0).abs().max()) > 10) == grows


def test_samples_of_a_chain_that_diverged_are_refused_and_a_spectrum_that_is_none_too(monkeypatch):
    basis = retrodict.Pixel((4,))
    m = Measurement.simulate(Identity((4,)), GaussianNoise.white(0.1), torch.ones(1, 1, 4, **F), [0])
    denoiser = retrodict.GaussianDenoiser(retrodict.PROCESSES["vp"](basis), 0.0, torch.full((4,), 1000.0, **F))
    with pytest.raises(InputError, match=r"'pigdm'.* chi\^2 of .*diverge"):
        retrodict.sample_posterior(denoiser, m, samples=2, method="pigdm", style="paper", steps=400)
    found = fit_spectrum(blurred())
    monkeypatch.setattr(recon_priors, "fit_spectrum", lambda _: replace(found, settled=False, change=1.78))
    with pytest.raises(InputError, match=r"178%.*larger deviation of the noise"):
        _ = recon_priors.FittedPrior("1", measurement=blurred()).law


def quiet(seeds, stream, step, shape):
    """No noise."""
    return torch.zeros(len(seeds), *shape)


def loud(seeds, stream, step, shape):
    """A thousandth of a deviation at the start, and no noise after it."""
    return torch.full((len(seeds), *shape), 1e-3 if step == 0 else 0.0)
