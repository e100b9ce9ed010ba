"""The rules of the literature: golden numbers of the sampler specification, orders on a ladder, their limits."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest
import torch

from retrodict import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import log_snr_step
from retrodict.processes.scalar import ve, vp
from retrodict.samplers import make_plan
from retrodict.samplers.card import gaussian_card
from retrodict.samplers.plan import make_grid
from retrodict.samplers.rules.interpolate import phi, polynomial_weights
from retrodict.samplers.rules.reverse import reverse_weights

ROOT = Path(__file__).resolve().parents[2]
L3 = torch.tensor([0.01, 0.25, 1.0], dtype=torch.float64)
THIRD = {"form": "dpmpp", "lower_last": True}


def edm_grid(n):
    """VE on the 80 ... 0.002 rho-7 grid."""
    i = torch.arange(n + 1, dtype=torch.float64) / n
    sigma = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = (sigma / 0.002).log() / math.log(80 / 0.002)
    times[0], times[-1] = 1.0, 0.0
    return ve(Pixel((3,)), 0.002, 80.0), times


def vp_grid(n):
    process = vp(Pixel((3,)))
    return process, make_grid(process, n, "logsnr", last=1e-3)


G1 = [
    (10, "heun", {}, [1.616799489e-03, 7.341283317e-03, 1.424736377e-02]),
    (10, "dpmpp2s", {}, [1.131426010e-03, 5.850317322e-03, 1.182349232e-02]),
    (10, "exponential", THIRD, [1.274017259e-03, 8.029036893e-03, 1.554605161e-02]),
    (10, "unipc", {"form": "bh1"}, [1.534129174e-03, 9.505690215e-03, 1.906987204e-02]),
    (10, "unipc", {}, [1.218075152e-03, 6.936700950e-03, 1.401753831e-02]),
    (10, "unipc", {"order": 3, "form": "bh1"}, [1.552111998e-03, 9.088820206e-03, 1.621696912e-02]),
    (20, "heun", {}, [1.330031030e-03, 6.494899855e-03, 1.289687224e-02]),
    (20, "dpmpp2s", {}, [1.215139973e-03, 6.135172638e-03, 1.230852636e-02]),
    (20, "exponential", THIRD, [1.354456142e-03, 6.247925286e-03, 1.246213370e-02]),
    (20, "unipc", {"form": "bh1"}, [1.415501463e-03, 6.672393421e-03, 1.307744492e-02]),
    (20, "unipc", {}, [1.309022624e-03, 6.432048776e-03, 1.276715939e-02]),
    (20, "unipc", {"order": 3, "form": "bh1"}, [1.331080607e-03, 6.093119678e-03, 1.235009047e-02]),
]
G2 = [
    (10, "dpmpp2s", {}, [9.590905469e-02, 4.767317404e-01, 9.533248050e-01]),
    (10, "exponential", THIRD, [1.019737106e-01, 5.604149900e-01, 1.099137795e00]),
    (10, "unipc", {}, [9.855485584e-02, 5.186699543e-01, 1.041295738e00]),
    (10, "unipc", {"order": 3}, [1.022988059e-01, 5.513553972e-01, 1.069431096e00]),
    (10, "deis", {"order": 1}, [8.588355521e-02, 4.408714164e-01, 9.028668487e-01]),
    (10, "deis", {"order": 2}, [8.808122435e-02, 4.620714867e-01, 9.581025348e-01]),
    (10, "deis", {"order": 3}, [8.920444209e-02, 4.748048070e-01, 9.885358201e-01]),
    (20, "dpmpp2s", {}, [9.924579143e-02, 4.935570634e-01, 9.869312859e-01]),
    (20, "exponential", THIRD, [1.022192037e-01, 5.040120869e-01, 1.007543435e00]),
    (20, "unipc", {}, [1.010360240e-01, 5.040813036e-01, 1.008066184e00]),
    (20, "unipc", {"order": 3}, [1.010363159e-01, 5.003622632e-01, 1.000409219e00]),
    (20, "deis", {"order": 1}, [9.549933555e-02, 4.804381003e-01, 9.692380727e-01]),
    (20, "deis", {"order": 2}, [9.736537390e-02, 4.916258093e-01, 9.927185782e-01]),
    (20, "deis", {"order": 3}, [9.818016519e-02, 4.961968114e-01, 9.998716388e-01]),
]


@pytest.mark.parametrize(
    ("setting", "n", "rule", "options", "known"),
    [(edm_grid, *case) for case in G1] + [(vp_grid, *case) for case in G2],
)
def test_golden_multipliers(setting, n, rule, options, known):
    """G.1 and G.2, printed to ten digits; DEIS to the quadrature that they were printed with."""
    process, times = setting(n)
    options = {**options, "lower_last": True} if rule == "unipc" else options
    got = gaussian_card(make_plan(rule, process, times, L3, **options), L3).start
    tolerance = 1e-7 if rule == "deis" else 1e-8
    assert torch.allclose(got, torch.tensor(known, dtype=torch.float64), rtol=tolerance, atol=0), got


def end_ratio(plan, process, end):
    card, one = gaussian_card(plan, L3), torch.ones(1, dtype=torch.float64)
    a, b = process.moments(one), process.moments(torch.tensor([end], dtype=torch.float64))
    return (card.start**2 * (a.h**2 * L3 + a.s2)[0, 0] + card.variance) / (b.h**2 * L3 + b.s2)[0, 0] - 1


@pytest.mark.parametrize(
    ("order", "n", "known", "atol"),
    [
        (1, 20, [0.049, 0.044, 0.044], 6e-4),
        (1, 100, [0.0026, 0.0016, 0.0016], 6e-5),
        (2, 20, [0.073] * 3, 1.5e-3),
        (2, 50, [0.0012] * 3, 6e-5),
        (2, 100, [0.0001] * 3, 6e-5),
    ],
)
def test_golden_variances_of_seeds_in_the_form_of_the_paper(order, n, known, atol):
    process, times = vp_grid(n)
    got = end_ratio(make_plan("seeds", process, times, L3, order=order, form="noise"), process, 1e-3)
    assert torch.allclose(got, torch.tensor(known, dtype=torch.float64), atol=atol), got


def test_seeds_of_order_one_is_ancestral():
    process, times = vp_grid(5)
    for a, b in zip(make_plan("seeds", process, times, order=1), make_plan("ancestral", process, times), strict=True):
        assert torch.equal(a.keep[0], b.keep[0])
        assert torch.equal(a.noise[0], b.noise[0])


def test_wide_steps_of_seeds_in_noise_form_are_refused_by_name():
    process, times = vp_grid(10)
    with pytest.raises(InputError, match="form='data'"):
        make_plan("seeds", process, times, form="noise")


def variance_after(process, rows):
    """v <- A^2 v + C^2 over rows of order one from the exact variance at t = 1, over that at 1e-3, less 1."""
    one, end = process.moments(number([1.0])), process.moments(number([1e-3]))
    v = (one.h**2 * L3 + one.s2)[0, 0]
    for t, (keep, data, noise) in rows:
        m = process.moments(t)
        A = (keep + data * m.h * L3 / (m.h**2 * L3 + m.s2))[0, 0]
        v = A**2 * v + noise.reshape(-1) ** 2
    return v / (end.h**2 * L3 + end.s2)[0, 0] - 1


@pytest.mark.parametrize(
    ("n", "known"), [(100, [0.029098, 0.028270, 0.029161]), (1000, [0.035192, 0.007630, 0.002807])]
)
def test_golden_variances_of_reverse_diffusion(n, known):
    """G.3: N steps at linspace(1, 1e-3, N) with the discrete betas of DDPM and the score of the continuous process."""
    process = vp(Pixel((3,)))
    times = torch.linspace(1, 1e-3, n, dtype=torch.float64)
    betas = torch.linspace(0.1 / n, 20 / n, n, dtype=torch.float64)

    def rows():
        for t in times.split(1):
            beta = betas[math.floor(float(t) * (n - 1))]
            yield t, reverse_weights(process.moments(t), (1 - beta).sqrt(), beta)

    assert torch.allclose(variance_after(process, rows()), number(known), atol=1e-6)


def test_golden_variances_of_euler():
    process = vp(Pixel((3,)))
    plan = make_plan("euler", process, torch.linspace(1, 0, 1001, dtype=torch.float64), final=False)
    rows = ((number([row.t]), (row.keep[0], row.data[0], row.noise[0])) for row in plan)
    assert torch.allclose(variance_after(process, rows), number([-0.005104, 0.001080, 0.001400]), atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "options", "known", "tolerance"),
    [
        ("heun", {}, 2, 0.15),
        ("dpmpp2s", {}, 2, 0.15),
        ("dpmpp3s", {}, 3, 0.15),
        ("unipc", {}, 3, 0.15),
        ("deis", {"order": 1}, 2, 0.15),
        ("deis", {}, 3, 0.15),
        ("pece2", {}, 1.85, 0.15),
        ("exponential", {"form": "published"}, 2, 0.15),
        # above 3: the leading term of the third order is small for a Gaussian on a uniform grid (spec 5.2: 3.5 to 4)
        ("exponential", {}, 3.9, 0.3),
        ("unipc", {"order": 3}, 3.85, 0.15),
        ("deis", {"order": 3}, 3.85, 0.15),
    ],
)
def test_order_on_the_ladder_of_a_gaussian(rule, options, known, tolerance):
    """The error of the exact denoiser's multiplier at 80 against 160 steps, L = 0.25."""
    errors = []
    for n in (80, 160):
        process, times = vp_grid(n)
        a, b = process.moments(times[:1]), process.moments(times[-1:])
        exact = ((b.h**2 * L3 + b.s2) / (a.h**2 * L3 + a.s2)).sqrt()[0, 0]
        errors.append(gaussian_card(make_plan(rule, process, times, L3, **options), L3).start / exact - 1)
    assert float((errors[0] / errors[1]).abs().log2()[1]) == pytest.approx(known, abs=tolerance)


@pytest.mark.parametrize(("rule", "options"), [("seeds", {}), ("edm", {"churn": 4.0}), ("restart", {})])
def test_the_variance_of_a_stochastic_rule_has_order_two(rule, options):
    errors = []
    for n in (30, 60):
        process, times = vp_grid(n)
        errors.append(end_ratio(make_plan(rule, process, times, L3, **options), process, 1e-3).abs())
    assert torch.allclose((errors[0] / errors[1]).log2(), torch.full((3,), 2.0, dtype=torch.float64), atol=0.15)


@pytest.mark.parametrize("name", ["rddm", "resshift", "resfusion", "ir_sde"])
def test_seeds_of_order_two_have_the_noise_memory_of_the_process(name):
    """Residual spec 2.5: both stages share one path of the noise, and the variance has order two for any A(t)."""
    process, errors = PROCESSES[name](Pixel((3,))), []
    for n in (160, 320):
        times = torch.linspace(0.9, 0.05, n + 1, dtype=torch.float64)
        plan = make_plan("seeds", process, times, L3)
        for i in (0, n // 2):
            first, last = plan[2 * i], plan[2 * i + 1]
            keep, data, std = process.conditional(times[i : i + 1], times[i + 1 : i + 2], 1.0)
            whole = sum((x.square() for x in last.noise), torch.zeros_like(std)).sqrt()
            torch.testing.assert_close(whole, std, rtol=1e-10, atol=1e-15)
            torch.testing.assert_close(last.keep[1], keep, rtol=1e-12, atol=0.0)
            torch.testing.assert_close(last.data[0] + last.data[1], data, rtol=1e-12, atol=0.0)
            assert float(times[i]) == pytest.approx(first.t)
        a, b = process.moments(times[:1]), process.moments(times[-1:])
        start, end = (a.h**2 * L3 + a.s2)[0, 0], (b.h**2 * L3 + b.s2)[0, 0]
        card = gaussian_card(plan, L3)
        errors.append((((card.start.square() * start + card.variance) / end) - 1).abs())
    assert torch.allclose((errors[0] / errors[1]).log2(), torch.full((3,), 2.0, dtype=torch.float64), atol=0.15)


def test_pece2_has_the_errors_of_the_specification():
    """Relative errors (c)(8) on 256 modes, VE 80 to 0.002 on a log-SNR grid."""
    np = pytest.importorskip("numpy")
    random = np.random.default_rng(0)
    variance = torch.from_numpy(np.exp(random.uniform(np.log(1e-3), np.log(1.0), 256)))
    mean = torch.from_numpy(0.3 * random.standard_normal(256))
    start = torch.from_numpy(80 * random.standard_normal(256)) + mean
    process = ve(Pixel((256,)), 0.002, 80.0)
    exact = mean + ((variance + 0.002**2) / (variance + 80.0**2)).sqrt() * (start - mean)
    both = {"correct_first": False, "correct_last": True}
    for n, known in ((10, 0.01749), (20, 0.000817), (40, 0.00177), (80, 0.000676)):
        found = gaussian_card(make_plan("pece2", process, torch.linspace(1, 0, n + 1).double(), **both), variance, mean)
        error = found.start * start + found.offset - exact
        assert float((error.square().mean() / exact.square().mean()).sqrt()) == pytest.approx(known, rel=4e-3)


def number(x):
    return torch.tensor(x, dtype=torch.float64)


# ---- what the rules keep --------------------------------------------------------------------------------------------


def test_polynomial_weights_integrate_polynomials():
    """Of degree up to the number of nodes, against Gauss and Legendre."""
    np = pytest.importorskip("numpy")
    x, w = np.polynomial.legendre.leggauss(40)
    x, w = torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)
    for H in (1e-3, 0.4, 3.0):
        nodes = [1.0, -0.7, -1.9]
        weights = polynomial_weights(number(H), [number(v) for v in nodes])
        for degree in range(4):
            exact = (w * H * torch.exp(-H * (1 - x)) * x**degree).sum()
            got = sum(c * v**degree for c, v in zip(weights, [0.0, *nodes], strict=True))
            assert float(got) == pytest.approx(float(exact), rel=1e-11, abs=1e-15)


def test_phi_is_continuous_where_the_series_takes_over():
    a, b = (torch.stack(phi(torch.tensor(h, dtype=torch.float64), 4)) for h in (0.5 - 1e-12, 0.5 + 1e-12))
    assert torch.allclose(a, b, rtol=1e-11)


def test_unipc_of_large_form_needs_its_last_correction():
    """One more call and, at the end of a log-SNR grid above 0, a smaller error."""
    process, times = vp_grid(10)
    plain = make_plan("unipc", process, times, L3)
    full = make_plan("unipc", process, times, L3, correct_last=True)
    assert (plain.nfe, full.nfe) == (10, 11)
    a, b = process.moments(times[:1]), process.moments(times[-1:])
    exact = ((b.h**2 * L3 + b.s2) / (a.h**2 * L3 + a.s2)).sqrt()[0, 0]
    errors = [(gaussian_card(p, L3).start / exact - 1).abs().max() for p in (plain, full)]
    assert errors[1] < errors[0]


def test_a_step_of_churn_and_a_restart_keep_the_law():
    """Noise by the transition of the process, on clocks of every coefficient of its own: exactly."""
    process = fourier(Fourier((8, 8)))
    L = torch.ones(process.basis.shape, dtype=torch.float64)
    times = torch.linspace(1, 0.1, 4, dtype=torch.float64)
    for rule, options in (("edm", {"churn": 1.0}), ("restart", {"span": (0.3, 0.7)})):
        plan = make_plan(rule, process, times, L, **options)
        rows = [row for row in plan if not row.call]
        assert rows
        for row in rows:
            ahead = next(r for r in list(plan)[list(plan).index(row) + 1 :])
            a, b = (process.moments(torch.tensor([t], dtype=torch.float64)) for t in (row.t, ahead.t))
            got = row.keep[0] ** 2 * (a.h**2 * L + a.s2) + row.noise[0] ** 2
            assert torch.allclose(got, b.h**2 * L + b.s2, rtol=1e-9)


def test_churn_of_a_exploding_process_multiplies_sigma():
    """Karras et al. 2022: sigma is raised by 1 + min(S_churn/N, sqrt(2) - 1), but not above the first."""
    process, times = edm_grid(10)
    plan = make_plan("edm", process, times, L3, churn=2.0)
    raised = [row for row in plan if not row.call]
    assert len(raised) == 9
    m = process.moments(times[1:2])
    sigma = float(m.s2.flatten()[0].sqrt())
    assert float(raised[0].noise[0].flatten()[0]) == pytest.approx(sigma * math.sqrt(1.2**2 - 1), rel=1e-9)
    assert plan.nfe == 20
    assert make_plan("edm", process, times, L3, churn=0.0).nfe == 20


def test_the_middle_of_a_step_is_half_of_its_log_snr():
    process, times = vp_grid(6)
    row = make_plan("dpmpp2s", process, times)[1]
    a, b, c = (
        process.moments(torch.tensor([t], dtype=torch.float64)) for t in (float(times[0]), row.t, float(times[1]))
    )
    assert torch.allclose(log_snr_step(a, b), 0.5 * log_snr_step(a, c), rtol=1e-9)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("unipc", {"order": 4}),
        ("unipc", {"form": "bh3"}),
        ("deis", {"order": 4}),
        ("dpmpp2s", {"part": 0.0}),
        ("seeds", {"order": 3}),
        ("seeds", {"form": "eps"}),
        ("edm", {"churn": -1.0}),
        ("restart", {"repeats": 0}),
        ("restart", {"span": (0.8, 0.5)}),
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(rule, options):
    process, times = vp_grid(4)
    with pytest.raises(InputError, match=rule):
        make_plan(rule, process, times, L3, **options)


def test_the_table_of_the_documents_is_that_of_the_rules():
    script = runpy.run_path(str(ROOT / "scripts" / "sampler_table.py"))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert script["written"](page) == page, "run python scripts/sampler_table.py"
