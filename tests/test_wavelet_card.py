"""Steps of pixel and wavelet models in closed form (wavelet specification 0.5, 2(8); tests T6-T9, T11-T12)."""

from __future__ import annotations

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from retrodict import InputError
from retrodict.bases import Wavelet
from retrodict.bases.stationary import power_law, stationary_levels
from retrodict.bases.wavelet import band_powers
from retrodict.cli.app import app
from retrodict.denoisers.cascade import cascade_of_stationary
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.samplers import make_plan, sample, start_state
from retrodict.samplers.card import card, dense_card
from retrodict.samplers.cascade import cascade_cost, cascade_grid
from retrodict.samplers.plan import make_grid
from retrodict.tasks.wavelet_card import (
    SAMPLERS,
    _clock,
    _Exact,
    divergence,
    end_of,
    euler_map,
    modes_of,
    steps_to,
    wavelet_card,
)
from retrodict.tasks.wavelet_theorems import theorems


def covariance(power):
    """Dense covariance of the stationary field, pixels in a row."""
    n, axes = power.numel(), tuple(range(1, power.ndim + 1))
    unit = torch.eye(n, dtype=torch.float64).reshape(n, *power.shape)
    return torch.fft.ifftn(power * torch.fft.fftn(unit, dim=axes), dim=axes).real.reshape(n, n)


# ---- the level calculus ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alignment", ["causal", "centered"])
@pytest.mark.parametrize(("size", "family"), [((8, 8), "db2"), ((8,), "db3"), ((4, 4, 4), "haar")])
def test_levels_are_the_blocks_of_the_dense_covariance(size, family, alignment):
    """Eigenvalues of the conditional covariance, and the variances of the bands, against Schur complements (T11)."""
    basis = Wavelet(size, levels=2, family=family, alignment=alignment)
    power = power_law(size, 2.0)
    n = power.numel()
    W = basis.forward(torch.eye(n, dtype=torch.float64).reshape(n, *size)).reshape(n, n).T
    C = W @ covariance(power) @ W.T
    place, coarse = torch.arange(n).reshape(size), torch.zeros(size, dtype=torch.bool)
    for j, level in enumerate(stationary_levels(basis, power), start=1):
        low = tuple(slice(0, m >> j) for m in size)
        coarse[...] = False
        coarse[low] = True
        c = place[coarse]
        bands = [place[basis.places()[j, name]].flatten() for name in level.names]
        d = torch.cat(bands)
        known = torch.cat([C[b, b] for b in bands])
        assert torch.allclose(level.variances.repeat_interleave(len(c)), known, rtol=1e-12)
        left = C[d][:, d] - C[d][:, c] @ torch.linalg.solve(C[c][:, c], C[c][:, d])
        left = left / known.sqrt() / known.sqrt()[:, None]
        found = level.modes[0].flatten().sort().values
        assert torch.allclose(found, torch.linalg.eigvalsh(left), rtol=1e-10)
        energy = torch.trace(
            (C[d][:, c] @ torch.linalg.solve(C[c][:, c], C[c][:, d])) / known.sqrt() / known.sqrt()[:, None]
        )
        assert float(level.mean_energy.sum()) == pytest.approx(float(energy), rel=1e-10)


@pytest.mark.parametrize(("eta", "family", "low", "high"), [(2, "db4", 0.439484, 2.170374)])
def test_golden_eigenvalues_and_powers(eta, family, low, high):
    power = power_law((32, 32), eta)
    assert (float(power.mean()), float(power[0, 0]), float(power.min())) == pytest.approx(
        (1, 56.439805, 0.110019), abs=5e-7
    )
    level = stationary_levels(Wavelet((32, 32), levels=1, family=family), power)[0]
    assert (float(level.modes[0].min()), float(level.modes[0].max())) == pytest.approx((low, high), abs=5e-7)
    assert (float(power_law((32, 32), 3)[0, 0]), float(power_law((32, 32), 3).min())) == pytest.approx(
        (142.924789, 0.012336), abs=5e-7
    )


def test_the_power_of_a_level_is_that_of_its_bands():
    """Sum over bands of the mean power is 2^n that of the image (T6), and agrees with the filters of the basis."""
    power = power_law((16, 16), 3.0)
    basis = Wavelet((16, 16), levels=2, family="db4")
    levels = stationary_levels(basis, power)
    assert float(levels[0].variances.sum() + levels[0].power.mean()) == pytest.approx(4, rel=1e-12)
    known = band_powers(basis, power)
    assert levels[1].variances.tolist() == pytest.approx([float(known[2, name]) for name in levels[1].names], rel=1e-12)


@pytest.mark.parametrize(
    ("side", "eta", "pixel", "db4", "haar"),
    [(8, 2, 33, 4.20, 4.20), (32, 2, 513, 4.94, 4.95), (128, 2, 8193, 5.00, 5.46), (32, 3, 1.16e4, 11.16, 14.3)],
)
def test_golden_condition_numbers(side, eta, pixel, db4, haar):
    assert modes_of("pixel", side, eta)[1] == pytest.approx(pixel, rel=5e-3)
    assert modes_of("wavelet", side, eta, "db4")[1] == pytest.approx(db4, abs=6e-3)
    assert modes_of("wavelet", side, eta, "haar")[1] == pytest.approx(haar, abs=6e-2)


# ---- samplers as numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eta", "sampler", "model", "family", "known"),
    [
        (2, "euler", "pixel", "db4", (2.264724e-01, 3.533467e-02, 2.764176e-03)),
        (2, "euler", "wavelet", "db4", (4.055007e-02, 2.918250e-03, 1.850751e-04)),
        (2, "euler", "wavelet", "haar", (6.250157e-02, 5.113293e-03, 3.308363e-04)),
        (2, "ddim", "pixel", "db4", (4.984888e-02, 2.674584e-03, 1.622568e-04)),
        (2, "ddim", "wavelet", "db4", (2.565450e-02, 1.461180e-03, 8.950985e-05)),
        (2, "ancestral", "pixel", "db4", (1.221474e-01, 1.188185e-02, 9.704896e-04)),
        (2, "ancestral", "wavelet", "db4", (7.830482e-02, 6.638090e-03, 4.942599e-04)),
        (3, "euler", "pixel", "db4", (7.977087e-01, 3.320702e-01, 7.626209e-02)),
        (3, "euler", "wavelet", "db4", (7.509451e-02, 6.999963e-03, 4.643853e-04)),
    ],
)
def test_golden_divergences(eta, sampler, model, family, known):
    modes, numbers = modes_of(model, 32, eta, family)[0], (16, 64) if sampler == "ancestral" else (16, 64, 256)
    found = [divergence(SAMPLERS[sampler], n, modes)[0] for n in numbers]
    assert found == pytest.approx(known[: len(numbers)], rel=1e-5)


@pytest.mark.parametrize(
    ("value", "bracket"),
    [(0.1, 9.872079), (0.5, 1.653426), (1, 0.5), (2, -0.193147), (10, -1.179214), (100, -2.315844)],
)
def test_the_first_order_of_euler_maruyama(value, bracket):
    """v / lambda = 1 + d [1/lambda - lambda ln(lambda) / (2 (lambda - 1))] + O(d^2): T7, by Richardson."""
    off = []
    for n in (2048, 4096):
        v, _ = euler_map(n, torch.tensor([float(value)], dtype=torch.float64), 16.0)
        off.append((float(v) / value - 1) * n / 16.0)
    assert 2 * off[1] - off[0] == pytest.approx(bracket, abs=2e-3 * max(1, 1 / value**2))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "euler"])
def test_modes_end_as_the_card_of_the_plan_says(name):
    sampler, variance = SAMPLERS[name], torch.tensor([0.01, 0.5, 1.0, 20.0], dtype=torch.float64)
    process, one = _clock(sampler.exponent, 8.0), torch.ones(1, dtype=torch.float64)
    plan = make_plan(sampler.rule, process, make_grid(process, 5, sampler.grid, spectrum=one), one)
    exact = GaussianDenoiser(process, torch.ones_like(variance), variance)
    known = card(plan, _Exact(exact, sampler.law == "own"))
    v, m = end_of(sampler, 5, variance)
    assert torch.allclose(v, known.variance + known.start**2, rtol=1e-12)
    assert torch.allclose(m, known.offset, rtol=1e-12)


def test_what_is_drawn_from_the_exact_law_is_exact():
    variance = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    v, m = end_of(SAMPLERS["matched_own"], 2, variance, 20.0)
    assert torch.allclose(v, variance, rtol=1e-12)
    assert torch.allclose(m, torch.ones_like(m), atol=1e-8)


# ---- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eta", "steps"), [(3, (53, 53, 53, 54, 54, 54)), (2, (33, 34, 35, 35, 35, 35))])
def test_a_cascade_needs_as_many_steps_at_any_size(eta, steps):
    """T9: Euler-Maruyama, 8 to 256 pixels a side."""
    found = [steps_to(SAMPLERS["euler"], modes_of("wavelet", n, eta)[0]) for n in (8, 16, 32, 64, 128, 256)]
    assert tuple(found) == steps


def test_pixels_need_twice_as_many_at_each_doubling():
    found = [steps_to(SAMPLERS["euler"], modes_of("pixel", n, 3)[0], guess=4 * n) for n in (8, 16, 32)]
    assert found == [204, 434, 905]


@pytest.mark.parametrize(
    ("sampler", "model", "side", "steps"),
    [
        ("ddim", "wavelet", 16, 27),
        ("ddim", "wavelet", 128, 27),
        ("ddim", "pixel", 16, 52),
        ("matched", "wavelet", 16, 8),
        ("matched", "wavelet", 128, 8),
        ("gaussian_ode", "wavelet", 128, 2),
    ],
)
def test_golden_steps(sampler, model, side, steps):
    modes = modes_of(model, side, 3)[0]
    assert steps_to(SAMPLERS[sampler], modes, guess=steps + 3) == steps
    assert divergence(SAMPLERS[sampler], steps, modes)[0] <= 0.01 < divergence(SAMPLERS[sampler], steps - 1, modes)[0]


def test_golden_steps_of_the_worst_mode():
    assert steps_to(SAMPLERS["euler"], modes_of("pixel", 8, 2)[0], 0.1, largest=True) == 400
    assert steps_to(SAMPLERS["euler"], modes_of("wavelet", 32, 2)[0], 0.1, largest=True) == 166


def test_a_limit_out_of_reach_has_no_number(monkeypatch):
    monkeypatch.setattr("retrodict.tasks.wavelet_card.MOST", 200)
    modes = modes_of("pixel", 8, 3)[0]
    assert steps_to(SAMPLERS["euler"], modes) is None  # it needs 204


# ---- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alignment", "steps"), [("causal", 1), ("centered", (2, 1, 2))])
def test_a_cascade_of_exact_levels_has_the_covariance_of_the_data(alignment, steps):
    """The real loop, one call a level and more, with x_0 drawn from the conditional law of the level."""
    basis = Wavelet((8, 8), levels=2, family="db2", alignment=alignment)
    power = power_law((8, 8), 3.0)
    denoiser = cascade_of_stationary(basis, power, horizon=18.0)
    plan = make_plan("matched", denoiser.process, cascade_grid(denoiser.process, steps), denoiser.spectrum.on(basis))
    assert plan.nfe == cascade_cost(denoiser.process, steps)[0]
    _, found = dense_card(plan, denoiser)
    assert torch.allclose(found, covariance(power), atol=1e-12)


def test_the_loop_ends_with_the_divergence_of_the_modes():
    """DDIM through the dispatcher: KL of the dense covariance, coarse to fine, against the closed form (8d)."""
    basis, power, steps = Wavelet((8, 8), levels=3, family="db2"), power_law((8, 8), 2.0), 3
    denoiser = cascade_of_stationary(basis, power, horizon=16.0)
    plan = make_plan("ddim", denoiser.process, cascade_grid(denoiser.process, steps))
    _, found = dense_card(plan, denoiser)
    W = basis.forward(torch.eye(64, dtype=torch.float64).reshape(64, 8, 8)).reshape(64, 64).T
    own, true = (W @ c @ W.T for c in (found, covariance(power)))
    total, scale = 0.0, basis.band().flatten()
    for b in range(4):  # the chain rule: each scale given the coarser ones, at true coarse images
        d, c = (scale == b).nonzero().flatten(), (scale > b).nonzero().flatten()
        parts = []
        for C in (true, own):
            R = torch.linalg.solve(C[c][:, c], C[c][:, d]).T if len(c) else torch.zeros(len(d), 0, dtype=torch.float64)
            parts.append((R, C[d][:, d] - R @ C[c][:, d]))
        (R, S), (r, s) = parts
        drift = (R - r) @ true[c][:, c] @ (R - r).T
        inner = torch.linalg.solve(s, S + drift)
        total += 0.5 * float(torch.trace(inner) - len(d) - torch.logdet(torch.linalg.solve(s, S)))
    modes = modes_of("wavelet", 8, 2.0, "db2")[0]
    v, m = end_of(SAMPLERS["ddim"], steps, modes.variance, 16.0)
    ratio = modes.variance / v
    known = 0.5 * float((modes.count * (ratio - 1 - ratio.log()) + (1 - m) ** 2 * modes.energy / v).sum())
    assert total == pytest.approx(known, rel=1e-6)


def test_fields_of_a_cascade_have_the_variances_that_are_promised():
    """T12, Monte Carlo through the real loop: 512 fields of 16 x 16, four standard errors."""
    basis, power, n = Wavelet((16, 16), levels=2, family="db4"), power_law((16, 16), 3.0), 256
    denoiser = cascade_of_stationary(basis, power, horizon=8.0)
    seeds = torch.arange(n)
    prior = denoiser.prior()
    assert prior is not None
    start = start_state(denoiser.process, seeds, (1, 16, 16), dtype=torch.float64, spectrum=prior[1])
    plan = make_plan("matched", denoiser.process, cascade_grid(denoiser.process, (1, 2, 1)), prior[1])
    u = basis.forward(sample(denoiser, plan, start, seeds=seeds).x)
    for band, part in basis.split(u).items():
        values = part.square().flatten(1).mean(1)  # fields are independent, coefficients of one are not
        known = float(band_powers(basis, power)[band])
        assert abs(float(values.mean()) - known) < 4 * float(values.std()) / n**0.5
    again = sample(denoiser, plan, start[7:9], seeds=seeds[7:9]).x
    assert torch.equal(basis.forward(again), u[7:9])


def test_the_cost_of_a_cascade_is_a_third():
    process = cascade_of_stationary(Wavelet((16, 16), levels=4, family="haar"), power_law((16, 16), 2.0)).process
    calls, full = cascade_cost(process, 12)
    assert calls == 60
    assert full == pytest.approx(12 * (1 / 4 + 1 / 16 + 1 / 64 + 2 / 256))


# ---- what is asked of it ---------------------------------------------------------------------------------------------


def test_records_and_pictures_of_the_command(tmp_path):
    arguments = ["bench", "wavelet", "--sides", "16,8", "--sampler", "euler,matched", "-q"]
    files = ["-o", str(tmp_path / "r.json"), "--plot", str(tmp_path / "p.png")]
    result = CliRunner().invoke(app, [*arguments, *files])
    assert result.exit_code == 0, result.output
    records = json.loads((tmp_path / "r.json").read_text())["records"]
    found = {(r["side"], r["model"], r["sampler"]): (r["steps"], r["full"]) for r in records}
    assert found[16, "pixel", "euler"] == (434, 434)
    assert found[16, "wavelet", "euler"][0] == 53
    assert found[16, "wavelet", "matched"] == (8, pytest.approx(8 * (1 / 4 + 1 / 16 + 1 / 64 + 2 / 256)))
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert CliRunner().invoke(app, [*arguments, *files]).exit_code == 5  # results of before are kept


def test_theorems_as_numbers():
    found = theorems((8, 16), (2.0,), (0.1, 0.01))
    pixel = [r["steps"] for r in found["tolerance"] if r["model"] == "pixel"]
    assert math.log(pixel[1] / pixel[0]) / math.log(10) == pytest.approx(0.62, abs=0.05)
    rows = {(r["model"], r["side"]): r["steps"] for r in found["condition"]}
    assert (rows["pixel", 16], rows["wavelet", 16]) == (99, 34)
    assert [r["pixels"] for r in found["seconds"]] == [64, 64, 256, 256]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sides": (12,)}, "powers of two"),
        ({"exponents": (7,)}, "0 to 6"),
        ({"limit": 0.0}, "positive"),
        ({"samplers": ("heune",)}, "heune"),
        ({"family": "db44"}, "db44"),
    ],
)
def test_numbers_that_cannot_be_meant(arguments, message):
    with pytest.raises(InputError, match=message):
        wavelet_card(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stationary_levels(Wavelet((8, 8), levels=(2, 1)), torch.ones(8, 8)), "as many levels"),
        (lambda: stationary_levels(Wavelet((8, 8), levels=1), torch.ones(8, 4)), "grid of the basis"),
        (lambda: stationary_levels(Wavelet((8,), levels=1), torch.arange(8.0) + 1), "alike at w and -w"),
        (lambda: cascade_grid(_clock(2.0, 8.0), 4), "only a cascade"),
        (
            lambda: cascade_grid(cascade_of_stationary(Wavelet((8,), levels=2), torch.ones(8)).process, (1, 2)),
            "or 3: the coarse band",
        ),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(InputError, match=message):
        call()
