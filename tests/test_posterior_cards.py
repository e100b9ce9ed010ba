"""Posterior methods against closed forms: the table of the literature's samplers, and exact means and covariances."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.physics import Blur, Covariance, GaussianNoise, Identity, Mask, Measurement, Space, random_mask
from retrodict.physics.adapters import MatrixFree
from retrodict.posterior import POSTERIORS, posterior_method
from retrodict.posterior.card import affine_card, dense_posterior, pixel_card, prior_matrix
from retrodict.posterior.ensemble import posterior_verdict
from retrodict.posterior.fused import FusedDenoiser
from retrodict.posterior.matched import PosteriorDenoiser
from retrodict.posterior.proximal import Daps
from retrodict.processes import PROCESSES
from retrodict.processes.discrete import discrete
from retrodict.processes.scalar import ve, vp
from retrodict.samplers.card import dense_card, gaussian_card
from retrodict.samplers.ensemble import SamplingOptions, gate
from retrodict.samplers.plan import make_grid
from retrodict.samplers.rules import make_plan

F = {"dtype": torch.float64}
BEDS = ((1.0, 0.3), (0.25, 0.1), (4.0, 0.5), (1.0, 0.05))
"""Variance of the data and deviation of the noise (inverse spec, section 4.3, T0)."""


class FlowDaps(Daps):
    """DAPS with the exact endpoint of the probability-flow ODE, x sqrt(L / (L + r)), as the table has it."""

    def flow(self, x, t):
        L = self.denoiser.spectrum
        return x * (L / (L + self.process.clock(t))).sqrt()


def even(n):
    return torch.linspace(1, 0, n + 1, **F)


def subsampled(n):
    """n of the 1000 steps of DDPM, from the last to the first, and the clean image."""
    return torch.cat([torch.linspace(999, 0, n, **F).round().add(1) / 1000, torch.zeros(1, **F)])


def annealed(n):
    """sigma from 100 to 0.1 and then x_0 itself, on `fine`."""
    return torch.cat([torch.linspace(1, math.log(1e5) / math.log(1e8), n, **F), torch.zeros(1, **F)])


def wide(basis):
    return ve(basis, 0.002, 80.0)


def fine(basis):
    return ve(basis, 1e-6, 100.0)


def ratios(method, process, times, beds, style="paper", **options):
    """(gain/K, variance/V) on each bed: together as pixels, or one by one for methods that need white noise."""
    groups = [beds] if method in TOGETHER else [(bed,) for bed in beds]
    out = []
    for group in groups:
        n, L, sigma = len(group), torch.tensor([b[0] for b in group], **F), torch.tensor([[b[1] for b in group]], **F)
        basis = Pixel((n,))
        denoiser = GaussianDenoiser(process(basis), torch.zeros(n, **F), L)
        noise = GaussianNoise.per_pixel(sigma) if n > 1 else GaussianNoise.white(group[0][1])
        m = Measurement(Identity((n,)), torch.zeros(1, 1, n, **F), noise)
        own = {k: v(group) if callable(v) else v for k, v in options.items()}
        made = (
            method(denoiser, m, **own)
            if isinstance(method, type)
            else posterior_method(method, denoiser, m, style=style, **own)
        )
        gain, variance = pixel_card(made, m.y, times)
        K, V = L / (L + sigma[0] ** 2), L * sigma[0] ** 2 / (L + sigma[0] ** 2)
        out += list(zip((gain / K).tolist(), (variance / V).tolist(), strict=True))
    return out


TOGETHER = ("matched", "tmpd", "mmps", "pigdm", "dps", "diffpir", "daps", FlowDaps)

TABLE = [
    ("exact score", "mmps", wide, even(4000), {"style": "paper"}, [(1.0, 0.997)] * 3 + [(1.0, 0.998)]),
    ("diagonal Jacobian", "tmpd", wide, even(4000), {}, [(1.0, 0.997)] * 3 + [(1.0, 0.998)]),
    ("oracle kernel", "matched", wide, even(20), {"style": "calibrated"}, [(1.0, 1.0)] * 4),
    ("PiGDM", "pigdm", wide, even(4000), {}, [(1.0, 0.997), (0.967, 1.088), (1.052, 0.839), (1.0, 0.996)]),
    (
        "DPS theory", "dps", wide, even(20000), {"form": "theory"},
        [(1.090, 0.545), (1.040, 0.519), (1.063, 0.531), (1.003, 0.500)],
    ),
    (
        "score-ALD drift", "score_ald", wide, even(4000), {"form": "drift"},
        [(0.912, 0.805), (0.938, 0.868), (0.924, 0.835), (0.990, 0.976)],
    ),
    (
        "DiffPIR 1, 0.1", "diffpir", discrete, subsampled(100), {},
        [(1.018, 0.800), (1.007, 0.694), (1.009, 0.857), (1.0, 0.603)],
    ),
    (
        "DiffPIR 8, 0.3", "diffpir", discrete, subsampled(100), {"strength": 8.0, "zeta": 0.3},
        [(0.717, 3.92), (0.843, 4.46), (0.759, 4.60), (0.984, 5.80)],
    ),
    (
        "DDS", "dds", discrete, subsampled(50), {},
        [(1.085, 0.009), (1.025, 0.070), (1.061, 0.003), (0.998, 0.295)],
    ),
    (
        "DDS, gamma of C", "dds", discrete, subsampled(50), {"variance": lambda group: group[0][0]},
        [(1.059, 0.315), (1.032, 0.249), (1.039, 0.325), (1.003, 0.169)],
    ),
    ("DDRM 20", "ddrm", discrete, subsampled(20), {}, [(0.974, 0.426), (0.920, 1.772), (0.992, 0.380), (0.973, 9.62)]),
    # the same recursion, written by two groups
    (
        "DDRM 100", "ddrm", discrete, subsampled(100), {},
        [(1.006, 0.295), (0.993, 0.415), (1.013, 0.231), (0.998, 0.844)],
    ),
    ("DDNM+", "ddnm", discrete, subsampled(100), {}, [(1.006, 0.295), (0.993, 0.415), (1.013, 0.231), (0.998, 0.844)]),
    (
        "DAPS tau 0.01", FlowDaps, fine, annealed(200), {"tau": 0.01 * math.sqrt(2)},  # the table's law has the 1/2
        [(1.090, 0.001), (1.040, 0.010), (1.063, 0.000), (1.003, 0.040)],
    ),
    (
        "DAPS tau of the noise", FlowDaps, fine, annealed(200), {"tau": None},
        [(1.044, 1.040), (1.020, 1.014), (1.031, 1.029), (1.001, 1.000)],
    ),
    ("DAPS corrected", "daps", fine, annealed(200), {"style": "calibrated"}, [(1.0, 1.0)] * 4),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_every_sampler_has_the_bias_that_its_formulas_have(row):
    """The table of the inverse spec, section 4.6, to 0.005: properties of the algorithms, not of networks."""
    _, method, process, times, options, expected = row
    found = ratios(method, process, times, BEDS, **options)
    for (gain, variance), (wanted_gain, wanted) in zip(found, expected, strict=True):
        assert abs(gain - wanted_gain) <= 0.005
        assert abs(variance - wanted) <= 0.005 * max(1.0, wanted)


@pytest.mark.parametrize(("rho", "expected"), [(0.3, (1.85, 7.43, 1.33, 33.9)), (0.1, (1.10, 1.93, 1.04, 4.95))])
def test_pnp_dm_samples_the_posterior_of_noise_that_its_coupling_adds(rho, expected):
    """Its stationary law is the posterior of noise sigma^2 + rho^2 (inverse spec, section 4.4)."""
    L, sigma = (torch.tensor([b[i] for b in BEDS], **F) for i in (0, 1))
    n = len(BEDS)
    denoiser = GaussianDenoiser(fine(Pixel((n,))), torch.zeros(n, **F), L)
    m = Measurement(Identity((n,)), torch.zeros(1, 1, n, **F), GaussianNoise.per_pixel(sigma[None]))
    method = posterior_method("pnp_dm", denoiser, m, first=rho, last=rho, inner=1)
    times = torch.full((801,), method.time_of(rho), **F)
    gain, variance = pixel_card(method, m.y, times)
    wide_noise = sigma**2 + rho**2
    assert torch.allclose(gain, L / (L + wide_noise), atol=2e-3)
    assert torch.allclose(variance, L * wide_noise / (L + wide_noise), rtol=2e-3)
    exact = L * sigma**2 / (L + sigma**2)
    assert torch.allclose(variance / exact, torch.tensor(expected, **F), rtol=0.005)


def test_the_ancestral_kernel_loses_variance_as_one_over_the_number_of_steps():
    """1 - var/V = c h with c from the step between 100 and 200: slope 1 (inverse spec, section 4.5)."""
    lost = [1 - ratios("mmps", wide, even(n), ((1.0, 0.3),))[0][1] for n in (50, 100, 200, 400)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(lost[1:])]
    assert all(0.9 < s < 1.1 for s in slopes)


# ---- any linear operator ---------------------------------------------------------------------------------------------


def dense_operator(rows, size, seed=0):
    n = math.prod(size)
    A = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed), **F)
    return MatrixFree(
        lambda x: (x.flatten(1) @ A.T).unsqueeze(1), lambda y: (y[:, 0] @ A).reshape(-1, 1, *size),
        Space((1, *size)), Space((1, rows)),
    )  # fmt: skip


def power_law(basis, mean=0.3):
    L = 1 / (0.02 + basis.radius() ** 2) / 30
    return torch.zeros_like(L) + mean, L


def beds():
    size = (3, 4)
    op = dense_operator(7, size)
    y = torch.linspace(-1, 2, 7, **F).reshape(1, 1, 7)
    yield "white", Measurement(op, y, GaussianNoise.white(0.3)), "vp"
    yield "uneven", Measurement(op, y, GaussianNoise.per_pixel(torch.linspace(0.1, 1, 7, **F)[None])), "rectified_flow"
    mask = Mask(random_mask(size, 0.5, seed=1))
    y = torch.linspace(-1, 1, 12, **F).reshape(1, 1, *size)
    yield "mask", Measurement(mask, mask(y), GaussianNoise.white(0.2)), "cosine"
    basis = Pixel((7,))
    smooth = Covariance(torch.linspace(0.1, 0.5, 4, **F), Fourier((7,)))
    yield "colored", Measurement(op, torch.ones(1, 1, 7, **F), GaussianNoise(smooth)), "vp"
    del basis


BEDS_DENSE = list(beds())


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("bed", BEDS_DENSE, ids=lambda bed: bed[0])
def test_matched_has_mean_and_covariance_of_the_posterior_for_any_operator_and_count(bed, calls):
    _, m, process = bed
    basis = Fourier((3, 4), (1.0, 1.0))
    method = posterior_method("matched", GaussianDenoiser(PROCESSES[process](basis), *power_law(basis)), m)
    exact, found = dense_posterior(m, *prior_matrix(method)), affine_card(method, calls)
    assert torch.allclose(found.mean, exact.mean, atol=1e-8)
    assert torch.allclose(found.covariance, exact.covariance, atol=1e-8)


@pytest.mark.parametrize("name", ["pigdm", "daps", "dds", "diffpir"])
def test_every_calibrated_method_is_exact_on_gaussian_data(name):
    _, m, process = BEDS_DENSE[0]
    basis = Fourier((3, 4), (1.0, 1.0))
    method = posterior_method(name, GaussianDenoiser(PROCESSES[process](basis), *power_law(basis)), m)
    exact, found = dense_posterior(m, *prior_matrix(method)), affine_card(method, 2)
    assert method.style == "calibrated"
    assert torch.allclose(found.mean, exact.mean, atol=1e-8)
    assert torch.allclose(found.covariance, exact.covariance, atol=1e-8)


def test_the_matrices_of_the_card_are_those_of_samples():
    """The exact covariance beside that of 400 draws of the same method, within 5 standard errors."""
    _, m, _ = BEDS_DENSE[0]
    basis = Fourier((3, 4), (1.0, 1.0))
    method = posterior_method("matched", GaussianDenoiser(vp(basis), *power_law(basis)), m)
    card, count = affine_card(method, 2), 400
    x = method.run(torch.arange(count), steps=2, dtype=torch.float64).x.flatten(1)
    variance = card.covariance.diagonal()
    assert bool(((x.mean(0) - card.mean).abs() < 5 * (variance / count).sqrt()).all())
    assert bool(((x.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / count)).all())


def test_the_posterior_denoiser_is_exact_under_the_public_card():
    """With a process that keeps nothing at t = 1 the public `dense_card` starts right, and has the exact covariance."""
    _, m, _ = BEDS_DENSE[0]
    basis = Fourier((3, 4), (1.0, 1.0))
    inner = GaussianDenoiser(PROCESSES["rectified_flow"](basis), *power_law(basis))
    denoiser = PosteriorDenoiser(inner, m)
    plan = make_plan("matched", denoiser.process, make_grid(denoiser.process, 3))
    _, covariance = dense_card(plan, denoiser)
    exact = dense_posterior(m, *prior_matrix(posterior_method("matched", inner, m)))
    assert torch.allclose(covariance, exact.covariance, atol=1e-8)


def test_the_verdict_on_a_small_grid_is_by_matrices():
    _, m, _ = BEDS_DENSE[0]
    basis = Fourier((3, 4), (1.0, 1.0))
    denoiser = GaussianDenoiser(vp(basis), *power_law(basis))
    found = posterior_verdict(posterior_method("matched", denoiser, m), 1)
    assert found.calibrated
    assert "1.0000 of the exact one" in found.reason
    assert not posterior_verdict(posterior_method("pigdm", denoiser, m, style="paper")).calibrated


# ---- one basis ------------------------------------------------------------------------------------------------------


def deblurring(size=(8, 8), sigma=0.2, process=vp):
    basis = Fourier(size, (1.0, 1.0))
    operator = Blur.gaussian(size, fwhm=2.0, spacing=(1.0, 1.0))
    y = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(2), **F)
    denoiser = GaussianDenoiser(process(basis), *power_law(basis))
    return denoiser, Measurement(operator, y, GaussianNoise.white(sigma))


@pytest.mark.parametrize("calls", [1, 2, 8])
def test_a_fused_denoiser_with_matched_is_exact_at_any_count(calls):
    denoiser, m = deblurring()
    fused = FusedDenoiser(denoiser, m)
    _, L = denoiser.prior()
    plan = make_plan("matched", fused.process, make_grid(fused.process, calls, "logsnr"), L)
    twin = fused.gaussian()
    card = gaussian_card(plan, L, twin.mean)
    law = fused.process.measurement
    precision = 1 / L + law.h**2 / law.s2
    from retrodict.samplers.card import posterior_card

    gain, variance = posterior_card(plan, L)
    assert torch.allclose(variance, 1 / precision, rtol=1e-10, atol=1e-14)
    assert torch.allclose(gain, law.h / law.s2 / precision, rtol=1e-10, atol=1e-14)
    assert card.variance.shape == L.shape


def test_the_public_gate_judges_a_fused_denoiser():
    denoiser, m = deblurring()
    fused = FusedDenoiser(denoiser, m)
    found = gate(fused, SamplingOptions(samples=4, steps=2, rule="matched"))
    assert found.passed
    assert abs(found.variance - 1) < 1e-10
    assert abs(found.gain - 1) < 1e-10
    assert not gate(fused, SamplingOptions(samples=4, steps=8, rule="ancestral")).passed


def test_fuse_and_matched_are_one_method_where_both_are_defined():
    denoiser, m = deblurring((3, 4))
    cards = [affine_card(posterior_method(name, denoiser, m), 2) for name in ("fuse", "matched")]
    exact = dense_posterior(m, *prior_matrix(posterior_method("matched", denoiser, m)))
    for card in cards:
        assert torch.allclose(card.mean, exact.mean, atol=1e-8)
        assert torch.allclose(card.covariance, exact.covariance, atol=1e-8)


def test_a_shifted_point_spread_is_fused_with_its_phase():
    """A complex transfer function: the phase is turned back before precisions are added."""
    basis = Fourier((3, 4), (1.0, 1.0))
    kernel = torch.zeros(3, 3, **F)
    kernel[0, 1], kernel[1, 1] = 0.7, 0.3
    operator = Blur((3, 4), kernel, spacing=(1.0, 1.0))
    y = torch.linspace(-1, 1, 12, **F).reshape(1, 1, 3, 4)
    m = Measurement(operator, y, GaussianNoise.white(0.3))
    method = posterior_method("fuse", GaussianDenoiser(vp(basis), *power_law(basis)), m)
    found, exact = affine_card(method, 1), dense_posterior(m, *prior_matrix(method))
    assert torch.allclose(found.mean, exact.mean, atol=1e-8)
    assert torch.allclose(found.covariance, exact.covariance, atol=1e-8)


def test_every_method_and_style_has_a_row_on_the_cards():
    """Of benchmarks/inverse.py: figures on the four beds, or why there are none."""
    record = json.loads((Path(__file__).parents[1] / "benchmarks" / "results" / "inverse-cards.json").read_text())
    for name, row in POSTERIORS.items():
        for style in row.styles():
            found = record[f"{name} {style}"]
            assert all("gain" in found[card] or found[card]["refused"] for card in "PBCM"), (name, style)
