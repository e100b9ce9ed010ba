"""Rules whose scalars depend on the data: what they keep, where they stop, and that nobody calls them a posterior."""

from __future__ import annotations

import pytest
import torch

from retrodict import InputError, NotCalibratedError
from retrodict._random import white
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.processes.fourier import fourier
from retrodict.processes.recipes import external
from retrodict.processes.scalar import ve, vp
from retrodict.samplers import make_plan, sample, start_state
from retrodict.samplers.ensemble import SamplingOptions, gate, kind_of
from retrodict.samplers.plan import make_grid
from retrodict.samplers.stateful import NO_CARD, STATEFUL_NAMES, Run, item_dot, stateful_sample
from retrodict.samplers.stateful_rules import STATEFUL, make_stateful_plan
from retrodict.samplers.stateful_rules.corrector import langevin
from retrodict.samplers.stateful_rules.extrapolation import literal_direction, stable_direction

L3 = torch.tensor([0.01, 0.25, 1.0], dtype=torch.float64)
ONE = torch.ones(1, dtype=torch.float64)


def setting(count=4, size=3, variance=None):
    process = vp(Pixel((size,)))
    L = L3 if variance is None else variance
    denoiser = GaussianDenoiser(process, torch.zeros(size, dtype=torch.float64), L)
    seeds = torch.arange(count) + 3
    return denoiser, seeds, start_state(process, seeds, (1, size), spectrum=L, dtype=torch.float64)


def exact_end(process, start, last, L):
    a, b = process.moments(ONE), process.moments(torch.tensor([last], dtype=torch.float64))
    return ((b.h**2 * L + b.s2) / (a.h**2 * L + a.s2)).sqrt() * start


def times_for(name, process):
    return make_grid(process, 8, "logsnr", last=1e-3)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_batch_is_its_items_bit_for_bit_and_repeats(name):
    denoiser, seeds, start = setting(3)
    loose = {"rtol": 0.3, "atol": 0.1} if name == "adaptive_sde" else {}
    plan = make_stateful_plan(name, denoiser.process, times_for(name, denoiser.process), L3, **loose)
    whole = stateful_sample(denoiser, plan, start, seeds=seeds)
    again = stateful_sample(denoiser, plan, start, seeds=seeds)
    single = [stateful_sample(denoiser, plan, start[i : i + 1], seeds=seeds[i : i + 1]) for i in range(3)]
    assert torch.equal(whole.x, again.x)
    assert torch.equal(whole.x, torch.cat([s.x for s in single]))
    assert torch.equal(whole.nfe, torch.cat([s.nfe for s in single]))
    assert bool(whole.met.all())
    assert torch.equal(whole.reached, torch.full((3,), 1e-3, dtype=torch.float64))


@pytest.mark.parametrize("name", STATEFUL)
def test_nobody_calls_them_a_posterior(name):
    process = external(vp(Fourier((8, 8))), fourier(Fourier((8, 8))))
    denoiser = GaussianDenoiser(process, spectrum=Spectrum.power_law(0.3, 100.0, 0.02, 3.0))
    verdict = gate(denoiser, SamplingOptions(rule=name))
    assert not verdict.passed
    assert NO_CARD in verdict.reason
    with pytest.raises(NotCalibratedError, match="no Gaussian card"):
        kind_of(denoiser, SamplingOptions(rule=name))
    with pytest.raises(InputError, match="make_stateful_plan"):
        make_plan(name, process, make_grid(process, 2))


def test_the_names_are_those_of_the_table():
    assert tuple(STATEFUL) == STATEFUL_NAMES


# ---- Langevin ----


@pytest.mark.parametrize("kind", ["state", "plain"])
def test_a_corrector_widens_the_law_by_one_plus_snr_squared(kind):
    """Exact score of one variance V, many dimensions: it settles at V (1 + snr^2), not at V (spec (a) 8)."""
    n, snr = 20000, 0.4
    process = vp(Pixel((n,)))
    L = torch.full((n,), 0.5, dtype=torch.float64)
    denoiser = GaussianDenoiser(process, torch.zeros(n, dtype=torch.float64), L)
    plan = make_stateful_plan("predictor_corrector", process, torch.tensor([0.5, 0.4], dtype=torch.float64), L)
    run = Run(denoiser, plan, torch.tensor([1]))
    m = process.moments(torch.tensor([0.5], dtype=torch.float64))
    V = (m.h**2 * 0.5 + m.s2).mean()
    w = V.sqrt() * white([2], "w", 0, (1, n)).double()
    for k in range(40):
        w = langevin(run, w, 0.5, run.white(w, "z", k), snr, kind)
    assert float(w.var() / V) == pytest.approx(1 + snr**2, abs=0.04)


def test_predictor_and_corrector_make_the_calls_they_say():
    denoiser, seeds, start = setting()
    plan = make_stateful_plan("predictor_corrector", denoiser.process, torch.linspace(1, 0, 6).double(), corrections=2)
    assert stateful_sample(denoiser, plan, start, seeds=seeds).nfe.tolist() == [15] * 4


def test_the_variance_after_a_corrected_run_is_nearly_that_of_the_data():
    n = 4000
    process, L = vp(Pixel((n,))), torch.full((n,), 0.25, dtype=torch.float64)
    denoiser = GaussianDenoiser(process, torch.zeros(n, dtype=torch.float64), L)
    start = start_state(process, torch.tensor([5]), (1, n), spectrum=L, dtype=torch.float64)
    times = make_grid(process, 100, "time")
    options = {"snr": 0.1, "predictor": "ancestral"}
    plan = make_stateful_plan("predictor_corrector", process, times, L, **options)
    alone = sample(denoiser, make_plan("ancestral", process, times, L), start, seeds=torch.tensor([5])).x
    x = stateful_sample(denoiser, plan, start, seeds=torch.tensor([5])).x
    assert abs(float(x.var()) / 0.25 - 1) < abs(float(alone.var()) / 0.25 - 1)  # it mends the ancestral loss


# ---- LML ----


def test_the_published_setting_of_lml_is_the_identity():
    """kappa = 0: the rank-one direction is the direction, and its norm is put back (spec (d) 7)."""
    process = Pixel((3072,))
    process = vp(process)
    e = white([1], "e", 0, (1, 3072)).double()
    before = white([2], "e", 0, (1, 3072)).double()
    for damping in (8e-4, 1e-3, 6e-3, 1.0):
        found = literal_direction(process, e, before, 0.0, damping)
        assert float((found - e).norm() / e.norm()) < 5e-9
    rough = literal_direction(process, e.float(), before.float(), 0.0, 8e-4)
    assert 0.03 < float((rough - e.float()).norm() / e.norm()) < 0.5  # what float32 makes of it is round-off


def test_the_stable_direction_is_the_literal_one_for_little_momentum():
    process = vp(Pixel((3072,)))
    e, before = (white([k], "e", 0, (1, 3072)).double() for k in (1, 2))
    kappa, damping = 1e-8, 1e-3
    rho = kappa * float((e**2).sum()) / damping
    literal, stable = literal_direction(process, e, before, kappa, damping), stable_direction(process, e, before, rho)
    assert torch.allclose(literal, stable, atol=1e-7)
    assert torch.allclose(item_dot(process, stable, stable), item_dot(process, e, e), rtol=1e-12)
    assert float(item_dot(process, stable, e)) > 0


def test_lml_without_momentum_is_ddim_bit_for_bit():
    denoiser, seeds, start = setting()
    times = times_for("lml", denoiser.process)
    plan = make_stateful_plan("lml", denoiser.process, times, rho=0.0)
    ddim = sample(denoiser, make_plan("ddim", denoiser.process, times), start, seeds=seeds).x
    assert torch.equal(stateful_sample(denoiser, plan, start, seeds=seeds).x, ddim)
    turned = make_stateful_plan("lml", denoiser.process, times, rho=0.3)
    assert not torch.allclose(stateful_sample(denoiser, turned, start, seeds=seeds).x, ddim, atol=1e-3)


# ---- EVODiff ----


@pytest.mark.parametrize(("grid", "n", "known"), [("logsnr", 10, 0.158), ("logsnr", 40, 0.0137), ("rho", 10, 0.40)])
def test_evodiff_has_the_errors_of_the_port_of_the_specification(grid, n, known):
    """Relative errors (c)(7), three digits: first order, and on the rho grid worse than DDIM."""
    np = pytest.importorskip("numpy")
    random = np.random.default_rng(0)
    L = torch.from_numpy(np.exp(random.uniform(np.log(1e-3), np.log(1.0), 256)))
    mean = torch.from_numpy(0.3 * random.standard_normal(256))
    start = (torch.from_numpy(80 * random.standard_normal(256)) + mean)[None, None]
    process = ve(Pixel((256,)), 0.002, 80.0)
    times = torch.linspace(1, 0, n + 1, dtype=torch.float64)
    if grid == "rho":
        sigma = (80 ** (1 / 7) + (1 - times) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        times = (sigma / 0.002).log() / torch.tensor(80 / 0.002, dtype=torch.float64).log()
        times[0], times[-1] = 1.0, 0.0
    plan = make_stateful_plan("evodiff", process, times)
    exact = mean + ((L + 0.002**2) / (L + 80.0**2)).sqrt() * (start - mean)
    found = stateful_sample(GaussianDenoiser(process, mean, L), plan, start, seeds=torch.tensor([0]))
    error = float(((found.x - exact).square().mean() / exact.square().mean()).sqrt())
    assert error == pytest.approx(known, rel=1e-2)
    assert int(found.nfe) == n


def test_evodiff_is_refused_where_clocks_differ():
    process = fourier(Fourier((8, 8)))
    with pytest.raises(InputError, match="pece2"):
        make_stateful_plan("evodiff", process, make_grid(process, 4))


# ---- adaptive ----


def test_rk45_follows_the_flow_of_a_gaussian_to_its_tolerance():
    denoiser, seeds, start = setting()
    times = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    exact, errors, calls = exact_end(denoiser.process, start, 1e-3, L3), [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        plan = make_stateful_plan("rk45", denoiser.process, times, L3, rtol=tolerance, atol=tolerance)
        found = stateful_sample(denoiser, plan, start, seeds=seeds)
        errors.append(float((found.x - exact).abs().max()))
        calls.append(float(found.nfe.double().mean()))
    assert errors[0] < 1e-2
    assert errors[1] < 1e-4
    assert errors[2] < 1e-6
    assert calls[0] < calls[1] < calls[2]
    assert len(set(found.nfe.tolist())) > 1  # steps of their own


def test_the_adaptive_sde_keeps_the_variance():
    n = 3000
    process, L = vp(Pixel((n,))), torch.full((n,), 0.25, dtype=torch.float64)
    denoiser = GaussianDenoiser(process, torch.zeros(n, dtype=torch.float64), L)
    start = start_state(process, torch.tensor([5]), (1, n), spectrum=L, dtype=torch.float64)
    plan = make_stateful_plan("adaptive_sde", process, torch.tensor([1.0, 1e-3], dtype=torch.float64), L)
    found = stateful_sample(denoiser, plan, start, seeds=torch.tensor([5]))
    assert bool(found.met.all())
    assert float(found.x.var()) == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("name", ["rk45", "adaptive_sde"])
def test_a_tolerance_that_cannot_be_met_stops_with_the_state_and_says_so(name):
    denoiser, seeds, start = setting(2)
    times = torch.tensor([1.0, 0.0], dtype=torch.float64)
    plan = make_stateful_plan(name, denoiser.process, times, L3, rtol=1e-14, atol=1e-14, most=60)
    found = stateful_sample(denoiser, plan, start, seeds=seeds)
    assert not bool(found.met.any())
    assert bool((found.reached > 0).all())
    assert bool(torch.isfinite(found.x).all())
    assert set(found.told) == {0, 1}
    assert "rtol 1e-14" in found.told[1]
    assert "unipc" in found.told[1]
    assert bool((found.nfe <= 66).all())


# ---- denoising MCMC ----


def test_a_move_of_denoising_mcmc_keeps_the_law_of_state_and_level():
    """From exact draws of both, after a small move and an exact draw: levels as likely, and y ~ N(m, L + r)."""
    denoiser, _, _ = setting(1)
    process, items = denoiser.process, 1600
    plan = make_stateful_plan("dmcmc", process, make_grid(process, 6, "logsnr", last=0.1), L3, size=0.05, levels=8)
    rule, prior = plan.rule, denoiser.prior()
    levels = rule._levels(Run(denoiser, plan, torch.tensor([0])))
    m = process.moments(levels)
    z = white(torch.arange(items), "z", 0, (1, 1, 3)).double()
    counts, squares = torch.zeros(8), torch.zeros(8, 3, dtype=torch.float64)
    for k in range(items):
        old = k % 8
        w = (m.h[old] ** 2 * L3 + m.s2[old]).sqrt() * z[k]
        w, level, _ = rule._move(Run(denoiser, plan, torch.tensor([k])), w, old, levels, prior, 0)
        counts[level] += 1
        squares[level] += (w**2)[0, 0] / (m.h[level] ** 2 * L3 + m.s2[level])[0]
    assert torch.allclose(counts / items, torch.full((8,), 0.125), atol=0.03)  # 3.6 standard errors
    assert float(squares.sum() / (3 * items)) == pytest.approx(1, abs=0.07)


def test_denoising_mcmc_ends_near_the_law_with_every_integrator():
    n = 400
    for rule in ("ddim", "dpmpp2m", "heun", "unipc"):
        denoiser, seeds, start = setting(1, n, torch.full((n,), 0.25, dtype=torch.float64))
        times = make_grid(denoiser.process, 8, "logsnr", last=1e-3)
        plan = make_stateful_plan("dmcmc", denoiser.process, times, rule=rule)
        x = stateful_sample(denoiser, plan, start, seeds=seeds).x
        assert 0.7 < float(x.var()) / 0.25 < 1.2


# ---- bad input ----


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("rk45", {"rtol": 0.0, "atol": 0.0}, "tolerance"),
        ("rk45", {"most": 2}, "most"),
        ("adaptive_sde", {"atol": -1.0}, "tolerance"),
        ("predictor_corrector", {"snr": 0.0}, "snr"),
        ("predictor_corrector", {"predictor": "heun"}, "predictor"),
        ("lml", {"rho": 2.0}, "rho"),
        ("dmcmc", {"rule": "matched"}, "error law"),
        ("dmcmc", {"skip": 0}, "skip"),
        ("dmcmc", {"pickk": "draw"}, "options that this rule knows"),
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(name, options, words):
    process = vp(Pixel((3,)))
    with pytest.raises(InputError, match=words):
        make_stateful_plan(name, process, make_grid(process, 4), L3, **options)


def test_times_and_processes_that_do_not_fit_are_refused_by_name():
    process = vp(Pixel((3,)))
    with pytest.raises(InputError, match="strictly decreasing"):
        make_stateful_plan("rk45", process, torch.tensor([0.5, 0.7], dtype=torch.float64))
    with pytest.raises(InputError, match="Did you mean 'rk45'"):
        make_stateful_plan("rk4", process, make_grid(process, 2))
    seen = fourier(Fourier((8, 8)))
    with pytest.raises(InputError, match="matched for a posterior"):
        make_stateful_plan("dmcmc", seen, make_grid(seen, 2))
