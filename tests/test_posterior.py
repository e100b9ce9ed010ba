"""Posterior methods: the contract of every line of the table, laws that are not stationary, ensembles, bad input."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import retrodict
from retrodict._check import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.empirical import EmpiricalDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.spread import LocalSpread, SpectralSpread, band_filters
from retrodict.denoisers.wrappers import Respread
from retrodict.physics import Blur, CartesianMRI, Covariance, GaussianNoise, Identity, Measurement, Space, sampling
from retrodict.physics.adapters import MatrixFree
from retrodict.posterior import POSTERIORS, posterior_method
from retrodict.posterior.card import dense_posterior, prior_matrix
from retrodict.posterior.ensemble import sample_posterior
from retrodict.posterior.fused import FusedDenoiser
from retrodict.posterior.joint import JointDenoiser
from retrodict.posterior.law import ConditionalSpread, Conditioner, _Drawn, root_of
from retrodict.posterior.particles import effective, systematic
from retrodict.processes import PROCESSES
from retrodict.processes.observation import Cond
from retrodict.processes.scalar import rectified_flow, vp

F = {"dtype": torch.float64}
SIZE = (4, 4)
FEW = {"pnp_dm": {"inner": 2}, "daps": {"inner": 2}}
"""Options that keep the contracts quick."""


def power_law(basis):
    return 1 / (0.05 + basis.radius() ** 2) / 30


def bed(sigma=0.3, process=vp, seed=0):
    basis = Fourier(SIZE, (1.0, 1.0))
    L = power_law(basis)
    denoiser = GaussianDenoiser(process(basis), torch.zeros_like(L), L)
    z = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(seed), **F)
    x = basis.inverse(L.sqrt() * basis.forward(z))
    operator = Blur.gaussian(SIZE, fwhm=1.5, spacing=(1.0, 1.0))
    return denoiser, Measurement.simulate(operator, GaussianNoise.white(sigma), x, [seed])


CASES = [(name, style) for name, row in POSTERIORS.items() for style in row.styles()]


@pytest.mark.parametrize(("name", "style"), CASES)
def test_a_member_is_a_function_of_its_seed_alone(name, style):
    denoiser, m = bed()
    options = FEW.get(name, {}) if style == "paper" else {}
    method = posterior_method(name, denoiser, m, style=style, **options)
    settings = {"steps": 4, "dtype": torch.float64}
    both = method.run(torch.tensor([3, 5]), **settings)
    assert both.x.shape == (2, 1, *SIZE)
    assert bool(torch.isfinite(both.x).all())
    assert both.calls == 4 * method.calls or name == "daps"
    if POSTERIORS[name].together:
        assert torch.equal(method.run(torch.tensor([3, 5]), **settings).x, both.x)
        return
    alone = method.run(torch.tensor([5]), **settings)
    assert torch.allclose(alone.x[0], both.x[1], rtol=1e-9, atol=1e-11)
    if name not in ("flowchef", "mcg", "projection"):  # those overwrite all that was measured: members are alike
        assert not torch.allclose(both.x[0], both.x[1])


@pytest.mark.parametrize(("name", "style"), CASES)
def test_only_a_calibrated_method_gives_a_deviation_unasked(name, style):
    denoiser, m = bed()
    options = FEW.get(name, {}) if style == "paper" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sample_posterior(denoiser, m, name, style=style, samples=3, steps=3, **options)
    row = POSTERIORS[name]
    assert found.kind == (
        "point" if row.kind == "point" else {"paper": "uncalibrated", "calibrated": "posterior"}[style]
    )
    assert (found.sd is not None) == (found.kind == "posterior")
    assert found.samples.shape == (1 if row.kind == "point" else 3, 1, 1, *SIZE)
    assert torch.allclose(found.mean, found.samples.mean(0))
    assert found.reason
    assert (found.method, found.style) == (name, style)


def test_samples_that_do_not_fit_the_data_are_no_posterior_of_them():
    """Data ten deviations away from the prior: N(0, 1) and y = 10 +- 1 is 5 +- 0.7, and chi^2 is 25, not 1."""
    denoiser, m = bed(sigma=1.0)
    basis = denoiser.process.basis
    white = GaussianDenoiser(denoiser.process, torch.zeros(basis.shape, **F), torch.ones(basis.shape, **F))
    near = Measurement(Blur.gaussian(SIZE, fwhm=1e-3, spacing=(1.0, 1.0)), 0 * m.y + 1.0, m.noise)
    for y, kind in ((near.y, "posterior"), (10 * near.y, "uncalibrated")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            part = replace(near, y=y)
            found = sample_posterior(white, part, "matched", samples=4, steps=2)
            asked = sample_posterior(white, part, "matched", samples=4, steps=2, uncalibrated=True)
        assert found.kind == kind
        assert (found.sd is not None) == (kind == "posterior")
        assert ("chi^2" in found.reason) == (kind == "uncalibrated")
        assert asked.sd is not None
    assert float(found.misfit.mean()) == pytest.approx(25.5, rel=0.1)


def test_the_page_names_every_method_and_its_source():
    text = (Path(__file__).resolve().parents[1] / "docs" / "posterior.md").read_text(encoding="utf-8")
    missing = [name for name, row in POSTERIORS.items() if f"`{name}`" not in text]
    assert not missing


# ---- laws of the error -----------------------------------------------------------------------------------------------


def matrix_of(factor, fields, n):
    units = torch.eye(fields * n, **F).reshape(fields * n, fields, 1, *SIZE).transpose(0, 1)
    return factor.forward(units).reshape(fields * n, n).T


def local_law(basis):
    filters = band_filters(basis, 3)
    ratio = 0.5 * torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1), **F)
    return LocalSpread(basis, power_law(basis)[None, None], ratio, filters)


@pytest.mark.parametrize("kind", ["spectral", "local", "by its draw"])
def test_conditioning_is_that_of_matrices_for_laws_that_differ_in_place_and_band(kind):
    basis, n = Fourier(SIZE, (1.0, 1.0)), math.prod(SIZE)
    law = SpectralSpread(basis, power_law(basis)[None, None]) if kind == "spectral" else local_law(basis)
    factor = _Drawn(law) if kind == "by its draw" else root_of(law)
    A = torch.randn(5, n, generator=torch.Generator().manual_seed(0), **F)
    op = MatrixFree(
        lambda x: (x.flatten(1) @ A.T)[:, None], lambda y: (y[:, 0] @ A).reshape(-1, 1, *SIZE), Space((1, *SIZE)),
        Space((1, 5)),
    )  # fmt: skip
    m = Measurement(op, torch.ones(1, 1, 5, **F), GaussianNoise.per_pixel(torch.linspace(0.2, 1, 5, **F)[None]))
    c, G = Conditioner(m), matrix_of(factor, law.fields, n)
    mean = torch.linspace(-1, 1, n, **F)
    exact = dense_posterior(m, mean, G @ G.T)
    assert torch.allclose(c.mean(mean.reshape(1, 1, *SIZE), factor).flatten(), exact.mean, atol=1e-8)
    spread = ConditionalSpread(c, law)
    total = spread.fields * n
    units = torch.eye(total, **F).reshape(total, spread.fields, 1, *SIZE).transpose(0, 1)
    if kind != "by its draw":
        root = spread.draw(units).reshape(total, n).T
        assert torch.allclose(root @ root.T, exact.covariance, atol=1e-8)
    else:
        assert torch.allclose(c.error(units, law.fields, factor), spread.draw(units), atol=1e-8)


def test_complex_images_are_conditioned_as_by_the_measurement_itself():
    """MR images of two coils: `Measurement.posterior_mean` is another implementation of the same update."""
    basis = Fourier(SIZE, (1.0, 1.0), complex=True)
    maps = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.complex128)
    operator = CartesianMRI(sampling("random", SIZE, 2.0, center=0.25, seed=0), maps=maps)
    x = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(4), dtype=torch.complex128)
    m = Measurement.simulate(operator, GaussianNoise.white(0.1), x, [0])
    L = 1 / (0.05 + basis.radius() ** 2) / 30
    found = Conditioner(m).mean(0.1 * x, root_of(SpectralSpread(basis, L[None, None])))
    assert torch.allclose(found, m.posterior_mean(0.1 * x, Covariance(L, basis)).x, atol=1e-7)


def test_a_solve_that_does_not_end_is_said(monkeypatch):
    """It was silent: what was drawn then misfitted the data sixteenfold."""
    denoiser, m = bed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not any("rounds" in text for text in sample_posterior(denoiser, m, "matched", samples=2).warnings)
        monkeypatch.setattr(Conditioner, "_guess", lambda self, factor, like: lambda w: w)  # no preconditioner
        monkeypatch.setattr(
            "retrodict.posterior.matched.Conditioner", lambda m, tolerance, _: Conditioner(m, tolerance, 1)
        )
        found = sample_posterior(denoiser, m, "matched", samples=2)
    assert found.warnings[0].startswith("measurement 0: a data step ended after 1 rounds with")


def test_the_distance_of_data_is_that_of_their_evidence():
    denoiser, m = bed()
    method = posterior_method("matched", denoiser, m)
    mean, C = prior_matrix(method)
    n = len(mean)
    A = m.operator.forward(torch.eye(n, **F).reshape(n, 1, *SIZE)).reshape(n, n).T
    rest = m.y.flatten() - A @ mean
    wanted = rest @ torch.linalg.solve(A @ C @ A.T + 0.09 * torch.eye(n, **F), rest)
    basis = denoiser.process.basis
    law = root_of(SpectralSpread(basis, power_law(basis)[None, None]))
    found = Conditioner(m).squared_distance(torch.zeros(1, 1, *SIZE, **F), law)
    assert torch.allclose(found, wanted[None], rtol=1e-8)


def test_a_fused_mixture_has_the_exact_mean_of_its_posterior():
    """Not Gaussian: where nothing is left at t = 1, one call is E[x_0 | y] of the mixture."""
    basis = Pixel((3,))
    law = MixtureLaw(
        basis, torch.tensor([0.3, 0.7], **F), torch.tensor([[0.0] * 3, [3.0] * 3], **F), torch.ones(2, 3, **F)
    )
    y = torch.tensor([[[1.0, 2.0, 1.2]]], **F)
    m = Measurement(Identity((3,)), y, GaussianNoise.white(0.8))
    fused = FusedDenoiser(MixtureDenoiser(rectified_flow(basis), law), m)
    found = fused(torch.zeros(1, 1, 3, **F), torch.ones(1, **F), Cond(fused.image))
    weights, parts = law.posterior(y, fused.process.measurement)
    wanted = sum(weights[:, k, None, None] * part.mean for k, part in enumerate(parts))
    assert torch.allclose(found, wanted, atol=1e-12)


# ---- particles -------------------------------------------------------------------------------------------------------


def test_systematic_resampling_takes_every_particle_in_proportion():
    logs = torch.tensor([0.5, 0.125, 0.125, 0.25], **F).log()
    assert torch.bincount(systematic(logs, 0.6), minlength=4).tolist() == [2, 0, 1, 1]
    assert effective(torch.zeros(7, **F)) == pytest.approx(7)
    assert effective(torch.tensor([0.0, -1e4], **F)) == pytest.approx(1)


@pytest.mark.parametrize(("name", "particles", "steps", "slack"), [("tds", 400, 20, 0.0), ("afdps", 400, 200, 0.05)])
def test_particles_have_the_mean_and_the_evidence_of_gaussian_data(name, particles, steps, slack):
    """Two unknowns, an operator that mixes them, noise of 1 (the test of the inverse spec, section 2.14).

    Mean within 5 standard errors of that many particles; log p(y) within 0.1, and what 200 steps of Euler leave.
    """
    A = torch.tensor([[1, 0.4], [-0.2, 0.7]], **F)
    op = MatrixFree(lambda x: x @ A.T, lambda y: y @ A, Space((1, 2)), Space((1, 2)))
    m = Measurement(op, torch.tensor([[[0.8, -0.5]]], **F), GaussianNoise.white(1.0))
    denoiser = GaussianDenoiser(vp(Pixel((2,))), torch.zeros(2, **F), torch.full((2,), 0.25, **F))
    method = posterior_method(name, denoiser, m)
    exact = dense_posterior(m, *prior_matrix(method))
    with torch.no_grad():
        found = method.run(torch.arange(particles), steps=steps, dtype=torch.float64)
    error = (found.x.flatten(1).mean(0) - exact.mean).abs()
    assert bool((error < 5 * (exact.covariance.diagonal() / particles).sqrt()).all())
    total = 0.25 * A @ A.T + torch.eye(2, **F)
    log = torch.distributions.MultivariateNormal(torch.zeros(2, **F), total).log_prob(m.y[0, 0])
    assert abs(found.log_evidence - float(log)) < 0.1 + slack


# ---- ensembles -------------------------------------------------------------------------------------------------------


def test_auto_fuses_where_it_can_and_solves_elsewhere():
    denoiser, m = bed()
    assert sample_posterior(denoiser, m, samples=2, steps=1).method == "fuse"
    other = Measurement(projected()[0], torch.zeros(1, 1, 5, **F), GaussianNoise.white(1.0))
    assert sample_posterior(denoiser, other, samples=2, steps=1).method == "matched"


def projected(seed=0):
    """Five random numbers of an image: diagonal in no basis."""
    A = torch.randn(5, 16, generator=torch.Generator().manual_seed(seed), **F)
    op = MatrixFree(
        lambda x: (x.flatten(1) @ A.T)[:, None], lambda y: (y[:, 0] @ A).reshape(-1, 1, *SIZE), Space((1, *SIZE)),
        Space((1, 5)),
    )  # fmt: skip
    return op, A


def test_auto_takes_a_prior_of_known_modes_at_its_weights_which_matched_does_not_find():
    """Images as the prior: their weights given y are those of the likelihood."""
    op, A = projected()
    basis = Pixel(SIZE)
    images = 2.0 * torch.randn(24, 1, *SIZE, generator=torch.Generator().manual_seed(3), **F)
    prior = EmpiricalDenoiser(vp(basis), images)
    sigma = 4.0
    m = Measurement.simulate(op, GaussianNoise.white(sigma), images[:1], [4])
    weights = (-((m.y[0, 0] - images.flatten(1) @ A.T) ** 2).sum(1) / (2 * sigma**2)).softmax(0)
    assert 0.1 < 1 - float(weights.max()) < 0.9  # several images are possible
    off, told = {}, {"auto": ("enumerated", "posterior", ""), "propagated": ("propagated", "posterior", "nearly"),
                     "matched": ("matched", "uncalibrated", "one Gaussian")}  # fmt: skip
    for name, (method, kind, word) in told.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = sample_posterior(prior, m, name, samples=200, steps=20 if name == "matched" else 10)
        near = torch.cdist(found.samples[:, 0].flatten(1), images.flatten(1)).argmin(1)
        off[name] = float((torch.bincount(near, minlength=24) / 200 - weights).abs().sum()) / 2
        assert (found.method, found.kind) == (method, kind)
        said = [text for text in found.warnings if "mixture of 24" in text]
        assert bool(said) == bool(word)
        assert all(word in text for text in said)
    assert off["auto"] < 0.1  # 200 exact members are off by 0.03
    assert off["propagated"] < 0.25
    assert off["matched"] > 0.5
    alone = sample_posterior(EmpiricalDenoiser(vp(basis), images[:1], 0.1), m, samples=2, steps=1)
    assert (alone.method, alone.kind) == ("matched", "posterior")


def test_modes_are_known_of_exact_priors_and_pass_through_wrappers():
    basis = Pixel(SIZE)
    images = torch.zeros(3, 1, *SIZE, **F)
    law = MixtureLaw(basis, torch.full((2,), 0.5, **F), torch.zeros(2, *SIZE, **F), torch.ones(2, *SIZE, **F))
    empirical, mixture = EmpiricalDenoiser(vp(basis), images), MixtureDenoiser(vp(basis), law)
    gaussian = GaussianDenoiser(vp(basis), torch.zeros(SIZE, **F), torch.ones(SIZE, **F))
    assert (empirical.modes, mixture.modes, gaussian.modes) == (3, 2, 1)
    assert (Respread(mixture).modes, JointDenoiser((empirical, mixture)).modes) == (2, 6)
    function = FunctionDenoiser(lambda x, t: x, vp(basis))
    assert function.modes is None
    assert JointDenoiser((function, mixture)).modes is None


def test_samples_of_the_posterior_have_the_misfit_law_of_the_true_image():
    """E chi^2/m = 1 over measurements; of 24 of them with 4 samples each within 4 standard errors."""
    basis = Fourier(SIZE, (1.0, 1.0))
    L = power_law(basis)
    denoiser = GaussianDenoiser(vp(basis), torch.zeros_like(L), L)
    z = torch.randn(24, 1, *SIZE, generator=torch.Generator().manual_seed(7), **F)
    operator = Blur.gaussian(SIZE, fwhm=1.5, spacing=(1.0, 1.0))
    x = basis.inverse(L.sqrt() * basis.forward(z))
    m = Measurement.simulate(operator, GaussianNoise.white(0.3), x, list(range(24)))
    found = sample_posterior(denoiser, m, samples=4, steps=2)
    assert found.mean.shape == x.shape
    assert found.misfit.shape == (4, 24)
    assert found.misfit_sd == pytest.approx(math.sqrt(2 / 16))
    assert abs(float(found.misfit.mean()) - 1) < 4 * math.sqrt(2 / 16 / 24)
    error = ((found.mean - x) ** 2).mean() / (found.sd**2).mean() / (1 + 1 / 4)
    assert abs(float(error) - 1) < 0.35


def test_an_ensemble_does_not_depend_on_chunks_or_items():
    denoiser, m = bed()
    one = sample_posterior(denoiser, m, "matched", samples=5, steps=2, chunk=5)
    two = sample_posterior(denoiser, m, "matched", samples=5, steps=2, chunk=2)
    assert torch.allclose(one.samples, two.samples, rtol=1e-9, atol=1e-11)
    assert one.seeds == two.seeds
    other = sample_posterior(denoiser, m, "matched", samples=5, steps=2, items=[1])
    assert not torch.allclose(one.samples, other.samples)


def test_the_public_names_are_those_of_the_room():
    assert retrodict.POSTERIORS is POSTERIORS
    assert retrodict.sample_posterior is sample_posterior


# ---- bad input -------------------------------------------------------------------------------------------------------


def refused(word, denoiser, m, *args, **options):
    with pytest.raises(InputError, match=word):
        sample_posterior(denoiser, m, *args, samples=2, steps=1, **options)


def test_noise_has_to_be_stated():
    denoiser, m = bed()
    refused("noise", denoiser, Measurement(m.operator, m.y))
    with pytest.raises(InputError, match="sigma"):
        GaussianNoise.white(0.0)


def test_an_operator_that_is_not_linear_is_refused_before_anything_is_drawn():
    denoiser, m = bed()
    space = Space((1, *SIZE))
    square = MatrixFree(lambda x: x * x.abs(), lambda y: y, space, space, name="Square", check=False)
    refused("Square.*linear", denoiser, Measurement(square, m.y, m.noise))
    wrong = MatrixFree(lambda x: 2 * x, lambda y: y, space, space, name="Wrong", check=False)
    refused("Wrong.*adjoint", denoiser, Measurement(wrong, m.y, m.noise))


def test_a_prior_of_other_images_is_refused():
    _, m = bed()
    for basis, word in ((Fourier((5, 4), (1.0, 1.0)), "pixels"), (Fourier(SIZE, (0.5, 0.5)), "spacing")):
        refused(word, GaussianDenoiser(vp(basis), 0.0, power_law(basis)), m)
    basis = Fourier(SIZE, (1.0, 1.0), complex=True)
    refused("complex", GaussianDenoiser(vp(basis), 0.0, 1 + basis.radius()), m)
    denoiser, m = bed()
    refused("unit", denoiser, m, unit="HU")
    own = Fourier(SIZE, (1.0, 1.0))
    refused("terminal", GaussianDenoiser(PROCESSES["vp"](own, conditioning="terminal"), 0.0, power_law(own)), m)


def test_unknown_methods_styles_and_options_are_answered():
    denoiser, m = bed()
    refused("posterior", denoiser, m, "dsp")
    refused("style.*paper", denoiser, m, "dps", style="calibrated")
    refused("strength", denoiser, m, "dps", strenght=2.0)


@pytest.mark.filterwarnings("ignore:measurement 0. chi")
def test_data_outside_the_range_of_the_prior_are_told_before_an_image_is_believed():
    denoiser, m = bed()
    far = Measurement(m.operator, m.y * 40 + 25, m.noise)
    with pytest.warns(UserWarning, match="outside the range of this prior"):
        found = sample_posterior(denoiser, far, samples=2, steps=1)
    assert any("per datum" in text for text in found.warnings)


def test_a_denoiser_without_a_law_of_its_error_is_refused_by_name():
    basis = Fourier(SIZE, (1.0, 1.0))
    denoiser = FunctionDenoiser(lambda xt, t: 0 * xt, vp(basis))
    _, m = bed()
    refused("law of its error", denoiser, m, "matched")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sample_posterior(denoiser, m, "dds", style="paper", samples=2, steps=2).kind == "uncalibrated"
