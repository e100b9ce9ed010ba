"""The affine family (residual specification, sections 1-5): laws, noise memories, posteriors of the papers, rules."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import retrodict
from objects import make_process
from retrodict import InputError
from retrodict._random import white
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.heads import data_from_heads, data_from_label, data_from_resnoise, two_head_step
from retrodict.denoisers.predictions import target, to_data
from retrodict.processes import PROCESSES
from retrodict.processes.observation import Cond
from retrodict.processes.process import Process
from retrodict.processes.shift import nodes, resfusion_nodes, resshift_nodes, time_at
from retrodict.processes.wavelet import WAVELET_PROCESSES
from retrodict.samplers import make_plan, sample, start_state
from retrodict.samplers.card import gaussian_card
from retrodict.samplers.plan import make_grid
from retrodict.samplers.rules.interpolate import phi
from retrodict.samplers.starts import choose_start

ONE = Pixel((1,))
AFFINE = [name for name in PROCESSES if name not in ("fourier", "measured", "whitened", *WAVELET_PROCESSES)]
PINNED = ["bridge", "brownian_bridge", "i2sb", "ddbm_ve", "ddbm_vp", "goub"]
PAIRS = [(0.0, 0.3), (0.3, 0.5), (0.5, 0.92), (0.15, 1.0), (0.9, 1.0), (0.0, 1.0)]


def at(*t):
    return torch.tensor(t, dtype=torch.float64)


def one(name, **options):
    return PROCESSES[name](ONE, **options)


def hks(process, t):
    h, k, s2 = (float(x) for x in process.moments(at(t)))
    return h, k, math.sqrt(s2)


def weights(process, t, s, eta=1.0):
    keep, data, std = (float(x) for x in process.conditional(at(t), at(s), eta))
    return keep, data, std**2


# ---- brute force -----------------------------------------------------------------------------------------------------


def brute(process, t, s):
    """Mean weights and variance of u_s given u_t and x_0 by elimination in the joint covariance of (noise_s, noise_t).

    The joint law is built from independent increments alone: the Markov chain of the reference (or of A) on many times.
    """
    (hs, _, ss), (ht, _, st) = hks(process, s), hks(process, t)
    if process.memory == "frozen":
        cross = ss * st
    else:
        gain = [float(process.memory_gain(at(x))) for x in (s, t)]
        cross = gain[1] / gain[0] * ss**2
    if st == 0:
        return 0.0, hs, ss**2
    keep = cross / st**2
    return keep, hs - keep * ht, ss**2 - cross**2 / st**2


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_conditionals_are_those_of_the_two_time_law(name, s, t):
    process = make_process(name, (4,))
    process = Process(process.family, ONE, process.pairing, process.memory)
    got, known = weights(process, t, s), brute(process, t, s)
    assert got == pytest.approx(known, rel=1e-10, abs=1e-10 * max(1.0, known[2]))


def i2sb_variance(t):
    """int beta by plain summation: linspace(0.01, sqrt(0.0003), 1000)^2, first half mirrored; between nodes a cubic."""
    beta = torch.linspace(0.01, math.sqrt(0.0003), 1000, dtype=torch.float64)[:500] ** 2
    sums = torch.cat([torch.zeros(1).double(), torch.cat([beta, beta.flip(0)]).cumsum(0)])
    return sums[(t * 1000).round().long()]


@pytest.mark.parametrize("name", PINNED)
def test_bridges_are_their_reference_given_its_end(name):
    """Dense: (w_t, w_1) of the reference given x_0, conditioned on x_1 = c, and the two-time law at pairs of times."""
    references = {
        "bridge": lambda: one("vp"),
        "brownian_bridge": lambda: Process(lambda b: lambda t: (1 + 0 * t, 0 * t, 2 * t**2), ONE),
        "i2sb": lambda: Process(lambda b: lambda t: (1 + 0 * t, 0 * t, i2sb_variance(t)), ONE),
        "ddbm_ve": lambda: Process(lambda b: lambda t: (1 + 0 * t, 0 * t, 6400 * t**6), ONE),
        "ddbm_vp": lambda: one("vp", beta_max=2.1),
        "goub": lambda: one("ir_sde", level=30 / 255),
    }
    reference, process, c, x0 = references[name](), one(name), 0.7, -0.4
    times = [0.2, 0.55, 0.9, 1.0]
    h, k, s = zip(*(hks(reference, t) for t in times), strict=True)
    mean = torch.tensor([a * x0 + b * c for a, b in zip(h, k, strict=True)], dtype=torch.float64)
    rows = [[h[max(i, j)] / h[min(i, j)] * s[min(i, j)] ** 2 for j in range(4)] for i in range(4)]
    joint = torch.tensor(rows, dtype=torch.float64)
    gain = joint[:3, 3] / joint[3, 3]
    known_mean, known = mean[:3] + gain * (c - mean[3]), joint[:3, :3] - gain[:, None] * joint[None, 3, :3]
    m = process.moments(at(*times[:3]))
    assert torch.allclose((m.h * x0 + m.k * c).flatten(), known_mean, rtol=1e-10, atol=1e-12)
    gains = m.h.flatten()
    two = torch.stack(
        [
            torch.stack([gains[max(i, j)] / gains[min(i, j)] * m.s2.flatten()[min(i, j)] for j in range(3)])
            for i in range(3)
        ]
    )
    assert torch.allclose(two, known, rtol=1e-10, atol=1e-13)
    end = process.moments(at(1.0))
    assert (float(end.h), float(end.k), float(end.s2)) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("gamma", [1e2, 1e4, 1e7])
def test_a_soft_end_is_an_observation_of_it(gamma):
    """UniDB: w_1 seen as 0 with variance 1/gamma; s^2(1) of the specification (T8)."""
    process, reference = one("unidb", level=50 / 255, gamma=gamma), one("ir_sde")
    assert float(process.moments(at(1.0)).s2) == pytest.approx(
        {1e2: 7.94e-3, 1e4: 1.0e-4, 1e7: 1.0e-7}[gamma], rel=5e-3
    )
    (h, _, s), (h1, _, s1) = hks(reference, 0.6), hks(reference, 1.0)
    cross, total = h1 / h * s**2, s1**2 + 1 / gamma
    got = process.moments(at(0.6))
    assert float(got.s2) == pytest.approx(s**2 - cross**2 / total, rel=1e-10)
    assert float(got.h) == pytest.approx(h - cross * h1 / total, rel=1e-10)
    assert float(got.h + got.k) == pytest.approx(1, abs=1e-14)


def test_a_fourier_reference_gives_a_fourier_bridge_without_a_line():
    basis = Fourier((6, 6))
    plain = PROCESSES["bridge"](basis, reference={"name": "ve", "options": {"sigma_max": 3.0}})
    assert float(plain.moments(at(1.0)).s2.abs().max()) == 0
    wavelet = PROCESSES["bridge"](make_process("wavelet_bands").basis, reference="wavelet_bands")
    sigma, own = wavelet.clock(at(0.5)), make_process("wavelet_bands")
    snr = [1 / own.clock(at(t)) for t in (0.5, 1.0)]
    assert torch.allclose(sigma, 1 / snr[0] / (1 - snr[1] / snr[0]), rtol=1e-9)  # T7
    with pytest.raises(InputError, match="h = 0 or s = 0"):
        PROCESSES["bridge"](basis, reference="rectified_flow")
    with pytest.raises(InputError, match="not Markov"):
        PROCESSES["bridge"](basis, reference="rddm")
    with pytest.raises(InputError, match="Did you mean"):
        PROCESSES["bridge"](basis, reference="vpp")


# ---- golden numbers of the schedules ---------------------------------------------------------------------------------


def test_ir_sde_is_the_published_discrete_schedule():
    process = one("ir_sde")
    known = {
        1: (0.99982362, 0.00368260, 5.603960),
        10: (0.98536493, 0.03342316, 3.383763),
        25: (0.85308863, 0.10230706, 2.120885),
        50: (0.36082161, 0.18286958, 0.679610),
        75: (0.05923649, 0.19573411, -1.195219),
        90: (0.01402818, 0.19605914, -2.637348),
        100: (0.005, 0.19607598, -3.669064),
    }
    for i, (h, s, log_snr) in known.items():
        got = hks(process, i / 100)
        assert (got[0], got[2]) == pytest.approx((h, s), abs=6e-9)
        assert math.log(got[0] / got[2]) == pytest.approx(log_snr, abs=6e-7)
        assert got[1] == pytest.approx(1 - got[0], abs=1e-15)
    assert -math.log(hks(process, 0.5)[0]) == pytest.approx(1.0193715870, abs=1e-9)
    for level, first, last in ((10 / 255, 7.213398, -2.059626), (30 / 255, 6.114785, -3.158239)):
        ends = [hks(one("ir_sde", level=level), t) for t in (0.01, 1.0)]
        assert [math.log(h / s) for h, _, s in ends] == pytest.approx([first, last], abs=1e-6)
    assert hks(one("ir_sde", schedule="constant"), 0.5)[0] == pytest.approx(math.sqrt(0.005), rel=1e-12)
    linear = one("ir_sde", schedule="linear", steps=9)  # rates 0.01 + 1.99 j/9, j = 1..9
    assert -math.log(hks(linear, 1 / 9)[0]) == pytest.approx(-math.log(0.005) * (0.01 + 1.99 / 9) / (0.09 + 1.99 * 5))


def test_schedules_of_rddm_resshift_resfusion_and_i2sb():
    process = one("rddm")
    for i, ab, bb, log_snr in (
        (0, 0.0019980, 0.0014135, 6.5597),
        (99, 0.18991, 0.10045, 2.0875),
        (899, 0.98991, 0.90005, -4.4909),
    ):
        h, k, s = hks(process, (i + 1) / 1000)
        assert (k, s, math.log(h / s)) == pytest.approx((ab, bb, log_snr), rel=2e-4)
    kinds = {"increased": lambda n: n, "decreased": lambda n: 9 - n, "average": lambda n: 1}
    for kind, part in kinds.items():
        parts = [part(n) for n in range(1, 9)]
        sums = [sum(parts[:n]) / sum(parts) for n in range(9)]
        got = one("rddm", residual=kind, noise=kind, steps=8, level=0.5).moments(at(*(n / 8 for n in range(9))))
        assert torch.allclose(got.k.flatten(), at(*sums), atol=1e-15)
        assert torch.allclose(got.h.flatten(), 1 - at(*sums), atol=1e-15)
        assert torch.allclose(got.s2.flatten(), at(*sums) / 4, atol=1e-15)
    assert resshift_nodes(2.0, 15, 0.3, 0.04)[1:4] == pytest.approx([0.02, 0.117165, 0.176305], abs=1e-6)
    assert resshift_nodes(2.0, 4, 0.3, 0.2)[1:] == pytest.approx([0.1, 0.520096, 0.761382, 0.99], abs=1e-6)
    ends = [hks(one("resshift"), t) for t in (1 / 15, 1.0)]
    assert [math.log(h / s) for h, _, s in ends] == pytest.approx([3.2185, -4.6001], abs=1e-4)
    assert resfusion_nodes(12, "linear") == pytest.approx(
        [1, 0.99582462, 0.91318208, 0.75862929, 0.55716347, 0.5], abs=1e-8
    )  # T18
    assert len(resfusion_nodes(273, "linear")) == 101
    assert hks(one("resfusion"), 1.0) == (0.0, 0.5, pytest.approx(math.sqrt(0.75)))
    for beta, total, largest in ((0.3, 0.1410273, 0.18777), (1.0, 0.2469287, 0.24846)):
        h, k, s = hks(one("i2sb", beta_max=beta), 0.5)
        assert (4 * s**2, s) == pytest.approx((total, largest), abs=6e-6)
        h, _, s = hks(one("i2sb", beta_max=beta), 0.001)
        assert s / math.sqrt(h) == pytest.approx(0.01, rel=1e-9)  # sigma_fwd of the first index
    m = one("ddbm_vp").moments(at(0.5))
    assert (float(m.k), float(m.h), float(m.s2) ** 0.5) == pytest.approx(
        (0.260421544, 0.710457816, 0.462533793), abs=1e-9
    )


# ---- every paper's own posterior (T1) --------------------------------------------------------------------------------


@pytest.mark.parametrize(("i", "j"), [(50, 49), (60, 40), (100, 20), (1, 0)])
def test_posterior_of_ir_sde(i, j):
    """a = e^-(T_i - T_j), b = e^-T_i, c = e^-T_j; MR-Sampler-SDE-1 is the same step of any length."""
    process = one("ir_sde")
    (b, _, s), (c, _, s1) = hks(process, i / 100), hks(process, j / 100)
    a, lam = b / c, 50 / 255
    keep, data, variance = weights(process, i / 100, j / 100)
    assert keep == pytest.approx(a * (1 - c**2) / (1 - b**2), abs=1e-12)
    assert data == pytest.approx(c * (1 - a**2) / (1 - b**2), abs=1e-12)
    assert variance == pytest.approx(lam**2 * (1 - a**2) * (1 - c**2) / (1 - b**2), abs=1e-13)
    if j:
        dl = math.log(c / s1) - math.log(b / s)
        assert keep == pytest.approx(s1 / s * math.exp(-dl), rel=1e-12)
        assert data == pytest.approx(-c * math.expm1(-2 * dl), rel=1e-12)


@pytest.mark.parametrize("steps", [4, 15])
def test_posterior_of_resshift(steps):
    process = one("resshift", steps=steps, least=0.2 if steps == 4 else 0.04)
    eta = [x**2 for x in resshift_nodes(2.0, steps, 0.3, 0.2 if steps == 4 else 0.04)]
    for i in range(1, steps + 1):
        part = (eta[i] - eta[i - 1]) / eta[i]
        known = (eta[i - 1] / eta[i], part, 4 * eta[i - 1] * part)
        assert weights(process, i / steps, (i - 1) / steps) == pytest.approx(known, abs=1e-12)


def test_posterior_of_rddm_with_both_of_its_etas():
    """Full: (b'^2/b^2) x + ((be2 ab' - b'^2 al)/b^2) R + (be2/b^2) x_0; eta linear in the variance; eta 0 is A = s."""
    process, t, s, x0, c, x = one("rddm", level=0.8), 0.62, 0.31, 0.3, -1.1, 0.45
    (_, ab, bb), (_, ab1, bb1) = hks(process, t), hks(process, s)
    be2, al, R = bb**2 - bb1**2, ab - ab1, c - x0
    keep, data, variance = weights(process, t, s)
    mean = keep * (x - ab * c) + data * x0 + ab1 * c
    assert mean == pytest.approx(
        (bb1 / bb) ** 2 * x + (be2 * ab1 - bb1**2 * al) / bb**2 * R + be2 / bb**2 * x0, abs=1e-12
    )
    assert variance == pytest.approx(be2 * bb1**2 / bb**2, abs=1e-13)
    noise = (x - x0 - ab * R) / bb
    for eta in (0.0, 0.4, 1.0):
        v = eta * be2 * bb1**2 / bb**2
        known = x - al * R - (bb - math.sqrt(bb1**2 - v)) * noise
        keep, data, variance = weights(process, t, s, math.sqrt(eta))
        assert keep * (x - ab * c) + data * x0 + ab1 * c == pytest.approx(known, abs=1e-12)
        assert variance == pytest.approx(v, abs=1e-13)
        w, heads = at(x - ab * c), (at(R), at(noise))
        got = two_head_step(process, *heads, w, at(t), at(s), at(c), at(0.3) if eta else None, eta=eta)
        assert float(got) == pytest.approx(known - ab1 * c + 0.3 * math.sqrt(v), abs=1e-12)
        assert float(data_from_heads(*heads, w, process.moments(at(t)), at(c))) == pytest.approx(x0, abs=1e-12)
    with pytest.raises(InputError, match="white noise z"):
        two_head_step(process, at(R), at(noise), at(x), at(t), at(s), at(c), eta=1.0)


def test_posterior_and_resnoise_step_of_resfusion():
    """Mean, variance and x_0 mode of the released sampler, on the coarse grid of 12."""
    process, a, x0, y, e = one("resfusion"), resfusion_nodes(12, "linear"), 0.35, -0.8, 0.7
    for i in range(2, 6):
        alpha = (a[i] / a[i - 1]) ** 2
        beta, root, R = 1 - alpha, math.sqrt(alpha), y - x0
        m, s = process.moments(at(i / 5)), math.sqrt(1 - a[i] ** 2)
        x = (2 * a[i] - 1) * x0 + (1 - a[i]) * y + s * e
        weight = (1 - root) * s / beta
        known = (x - beta / s * (e + weight * R)) / root
        keep, data, variance = weights(process, i / 5, (i - 1) / 5)
        w = x - (1 - a[i]) * y
        assert keep * w + data * x0 + (1 - a[i - 1]) * y == pytest.approx(known, abs=1e-12)
        assert variance == pytest.approx((1 - a[i - 1] ** 2) / (1 - a[i] ** 2) * beta, abs=1e-12)
        mode = (root * (1 - a[i - 1] ** 2) * (x - R) + a[i - 1] * beta * (x0 - R)) / (1 - a[i] ** 2) + R
        assert mode == pytest.approx(known, abs=1e-12)
        back = data_from_resnoise(at(e + weight * R), at(w), m, at(y), weight)
        assert float(back) == pytest.approx(x0, abs=1e-12)
    with pytest.raises(InputError, match="h \\+ s weight"):
        data_from_resnoise(at(0.0), at(0.0), process.moments(at(1.0)), at(0.0), 0.0)


@pytest.mark.parametrize(("name", "total"), [("brownian_bridge", 2.0), ("i2sb", None)])
def test_posterior_of_brownian_bridges(name, total):
    """I2SB's DDPM step and BBDM's eta = 1: N((u'/u) x + (1 - u'/u) x_0, S u' (1 - u'/u)); D of I2SB's label."""
    process, t, s, x0, y, x = one(name), 0.8, 0.45, 0.2, 1.3, 0.9
    (_, u, st), (_, v, ss) = hks(process, t), hks(process, s)
    S = total or st**2 / (u * (1 - u))
    keep, data, variance = weights(process, t, s)
    assert keep * (x - u * y) + data * x0 + v * y == pytest.approx(v / u * x + (1 - v / u) * x0, abs=1e-12)
    assert variance == pytest.approx(S * v * (1 - v / u), abs=1e-13)
    var, var1 = st**2, ss**2
    s2 = (var - var1 * (1 - u) ** 2 / (1 - v) ** 2) * var1 / var  # BBDM
    mean = (1 - v) * x0 + v * y + math.sqrt((var1 - s2) / var) * (x - (1 - u) * x0 - u * y)
    assert (keep * (x - u * y) + data * x0 + v * y, variance) == pytest.approx((mean, s2), abs=1e-12)
    scale = math.sqrt(S * u)
    assert float(data_from_label(at((x - x0) / scale), at(x), scale)) == pytest.approx(x0, abs=1e-15)


def test_resshift_and_the_brownian_bridge_share_their_reverse_kernel():
    bridge, shift = one("brownian_bridge", variance=4.0), one("resshift", kappa=2.0)
    etas = [float(shift.moments(at(i / 15)).k) for i in (12, 7)]
    t, s = (math.sqrt(e) for e in etas)
    a, b = weights(bridge, t, s), weights(shift, 12 / 15, 7 / 15)
    assert a == pytest.approx(b, abs=1e-12)


def test_posterior_of_goub_is_data_solver_1_of_unidb():
    """Coefficient of x is sinh T'/sinh T, noise lam 2 sinh T' sqrt(1/(e^2T' - 1) - 1/(e^2T - 1))."""
    process, reference, lam = one("goub"), one("ir_sde"), 30 / 255
    T, T1 = (-math.log(hks(reference, t)[0]) for t in (0.7, 0.4))
    keep, _, variance = weights(process, 0.7, 0.4)
    assert keep == pytest.approx(math.sinh(T1) / math.sinh(T), abs=1e-12)
    known = lam * 2 * math.sinh(T1) * math.sqrt(1 / math.expm1(2 * T1) - 1 / math.expm1(2 * T))
    assert math.sqrt(variance) == pytest.approx(known, abs=1e-12)


def test_deterministic_step_of_indi_and_of_flows_from_an_anchor():
    for level in (0.01, 1.0):
        keep, data, variance = weights(one("anchored_flow", level=level), 0.8, 0.6)
        assert (keep, data, variance) == pytest.approx((0.75, 0.25, 0.0), abs=1e-15)


def test_reverse_drifts_of_the_denoising_sde():
    """1.5 with g_A: -(1/2) sigma^2 (1 + e^-2T) score and, without noise, -(1/2) sigma^2 e^-2T score (T2)."""
    process, t, e = one("denoising_sde"), 0.6, 1e-4
    rates, m = process.rates(at(t)), process.moments(at(t))
    T = -math.log(float(process.memory_gain(at(t))))
    decay = -(-math.log(float(process.memory_gain(at(t + e)))) - -math.log(float(process.memory_gain(at(t - e))))) / (
        2 * e
    )
    sigma2 = -2 * (70 / 255) ** 2 * decay
    assert float(rates.G2) == pytest.approx(sigma2 * math.exp(-2 * T), rel=1e-6)  # v = -(1/2) G^2 score
    g2 = float(rates.ds2) - 2 * decay * float(m.s2)
    assert g2 == pytest.approx(sigma2, rel=1e-6)
    assert 0.5 * float(rates.G2) + 0.5 * g2 == pytest.approx(0.5 * sigma2 * (1 + math.exp(-2 * T)), rel=1e-6)


@pytest.mark.parametrize(("name", "options"), [("resshift", {}), ("rddm", {"noise": "average", "residual": "average"})])
def test_share_of_noise_of_independent_increments(name, options):
    """dX/dl = (1 - eta)/(1 + eta) for A = 1, h = 1 - eta, s ~ sqrt(eta) (T9)."""
    process = one(name, **options)
    t, s = 0.61, 0.6099
    eta, dx = hks(process, t)[1], float(process.memory_step(at(t), at(s)))
    dl = float(replace(process, memory=None).memory_step(at(t), at(s)))
    assert dx / dl == pytest.approx((1 - eta) / (1 + eta), rel=1e-3)


def test_a_chain_of_states_has_its_two_time_law():
    """Monte Carlo (T10): states drawn backwards, x_t first, have Cov (A_t/A_s) s_s^2 within 4 standard errors."""
    n = 200_000
    z = white([1, 2], "z", 0, (n,)).double()
    for name in ("rddm", "resfusion", "denoising_sde", "i2sb"):
        process = one(name)
        (_, _, st), (_, _, ss) = hks(process, 0.8), hks(process, 0.3)
        keep, _, variance = weights(process, 0.8, 0.3)
        late = st * z[0]
        early = keep * late + math.sqrt(variance) * z[1]
        known = float(process.memory_gain(at(0.8)) / process.memory_gain(at(0.3))) * ss**2
        error = math.sqrt((ss**2 * st**2 + known**2) / n)
        assert float((late * early).mean()) == pytest.approx(known, abs=4 * error), name


# ---- the exponential rules (5.1 - 5.3) -------------------------------------------------------------------------------

GOLDEN = {
    (0.0025, 5): (1.585188085778e-01, 2.471415762595e-01, 3.117245254658e-01),
    (0.0025, 20): (2.278088607321e-01, 2.613880615784e-01, 2.565151570591e-01),
    (0.01, 10): (4.047631004883e-01, 5.503490276725e-01, 5.433952090124e-01),
    (0.04, 5): (6.488050095864e-01, 1.124362801374e00, 1.440812176946e00),
    (0.04, 20): (9.083950147130e-01, 1.044229755870e00, 1.022548198519e00),
}
SDE = {5: (-0.731784, 0.187829, 1.890752), 10: (-0.545220, 0.447886, 0.939534), 20: (-0.347891, 0.162475, 0.046737)}


def on_log_snr(process, first, last, n):
    times = time_at(process, torch.exp(-torch.linspace(first, last, n + 1, dtype=torch.float64)))
    return times


def marginal(process, t, L):
    m = process.moments(t)
    return float(m.h**2 * L + m.s2)


@pytest.mark.parametrize(("L", "n"), GOLDEN)
def test_golden_multipliers_of_ir_sde(L, n):
    times = on_log_snr(one("ir_sde"), -3.6690643266615037 + 1e-13, 5.603959803130623, n)
    got = [
        float(gaussian_card(make_plan("exponential", one("ir_sde"), times, order=k), at(L)).start) for k in (1, 2, 3)
    ]
    assert got == pytest.approx(GOLDEN[L, n], rel=1e-9)


@pytest.mark.parametrize("n", SDE)
def test_golden_variances_of_the_markov_sde(n):
    process, L = one("ir_sde"), 0.01
    times = on_log_snr(process, -3.6690643266615037 + 1e-13, 5.603959803130623, n)
    for k, known in zip((1, 2, 3), SDE[n], strict=True):
        card = gaussian_card(make_plan("sde_exponential", process, times, order=k), at(L))
        total = float(card.start**2) * marginal(process, times[:1], L) + float(card.variance)
        assert total / marginal(process, times[-1:], L) - 1 == pytest.approx(known, abs=1.5e-6)


@pytest.mark.parametrize("n", [5, 10])
def test_five_processes_are_one_solver(n):
    """R1: on one log-SNR grid the same relative errors, to round-off."""
    known = {
        5: (-0.3315078046691077, 0.12687698399216196, 0.300727157348438),
        10: (-0.1811553543611737, 0.06833846595117565, 0.01454837353275451),
    }[n]
    cases = {
        "ir_sde": {},
        "resshift": {},
        "brownian_bridge": {"variance": 1.0},
        "anchored_flow": {"level": 1.0},
        "rddm": {},
    }
    for name, options in cases.items():
        process = one(name, **options)
        times = on_log_snr(process, -3.0, 5.0, n)
        exact = math.sqrt(marginal(process, times[-1:], 0.25) / marginal(process, times[:1], 0.25))
        got = [
            float(gaussian_card(make_plan("exponential", process, times, order=k), at(0.25)).start) for k in (1, 2, 3)
        ]
        assert [g / exact - 1 for g in got] == pytest.approx(known, abs=1e-11), name


@pytest.mark.parametrize(
    ("order", "form", "least", "most"),
    [
        (1, "exact", 0.93, 1.1),
        (2, "exact", 1.95, 2.1),
        (2, "midpoint", 1.9, 2.1),
        (3, "exact", 2.9, 3.95),
        (3, "published", 1.95, 2.3),
    ],
)
def test_orders_of_the_exponential_rule(order, form, least, most):
    """R3: the published third order is of second order (VP, L = 0.01, l = -4..4, exact start of two steps)."""
    process, L, errors = one("vp"), 0.01, []
    for n in (80, 160):
        times = on_log_snr(process, -4.0, 4.0, n)
        h, _, s2 = (x.flatten().tolist() for x in process.moments(times))
        marks = [math.sqrt(a**2 * L + b) for a, b in zip(h, s2, strict=True)]
        states, images = [marks[0]], []
        for i, row in enumerate(make_plan("exponential", process, times, order=order, form=form)):
            images.insert(0, h[i] * L / marks[i] ** 2 * states[0])
            new = sum(float(w) * x for w, x in zip((*row.keep, *row.data), (states[0], *images), strict=False))
            states.insert(0, marks[i + 1] if i < 2 else new)
        errors.append(abs(states[0] / marks[-1] - 1))
    assert least <= math.log2(errors[0] / errors[1]) <= most


def test_third_order_integrates_a_quadratic_exactly():
    """D = G^2 on uneven steps: the weights give int_0^H e^(y - H) (G + y)^2 dy to 1e-12."""
    process = one("rddm")
    times = at(0.9, 0.7, 0.6, 0.35)
    for rule in ("exponential", "sde_exponential"):
        row = make_plan(rule, process, times, order=3)[2]
        dl = [
            float(replace(process, memory=None).memory_step(times[i : i + 1], times[i + 1 : i + 2])) for i in range(3)
        ]
        dx = [float(process.memory_step(times[i : i + 1], times[i + 1 : i + 2])) for i in range(3)]
        H = [a + (b if rule == "sde_exponential" else 0.0) for a, b in zip(dl, dx, strict=True)]
        G = (0.0, -H[1], -H[1] - H[0])
        got = sum(float(w) * g**2 for w, g in zip(row.data, G, strict=True))
        exact = H[2] ** 2 - 2 * H[2] + 2 - 2 * math.exp(-H[2])
        assert got == pytest.approx(float(process.moments(times[3:]).h) * exact, abs=1e-12)


def test_phi_functions_and_their_limits():
    for H in (1e-9, 1e-3, 0.3, 0.49999, 0.50001, 3.0, 40.0):
        y = torch.linspace(0, 1, 20_001, dtype=torch.float64)
        for k, p in enumerate(phi(at(H))):
            assert float(p) == pytest.approx(float(torch.trapezoid(H * torch.exp(-H * (1 - y)) * y**k, y)), rel=3e-6)
    assert [float(p) for p in phi(at(math.inf))] == [1.0, 1.0, 1.0]
    a, b = phi(at(0.5 - 1e-12)), phi(at(0.5))
    assert all(float(x) == pytest.approx(float(y), abs=2e-12) for x, y in zip(a, b, strict=True))


def test_reductions_to_the_rules_that_were_there():
    """2.7: DDIM, 2M, SDE-2M, ancestral; weights to 1e-12."""
    for name in ("vp", "i2sb", "rddm"):
        process = one(name)
        times = at(0.95, 0.7, 0.5, 0.2, 0.05)
        same = [
            (make_plan("exponential", process, times, order=1), make_plan("ddim", process, times)),
            (make_plan("sde_exponential", process, times, order=1), make_plan("ancestral", process, times)),
            (
                make_plan("exponential", process, times, order=2, form="midpoint"),
                make_plan("dpmpp2m", process, times, lower_last=False),
            ),
        ]
        if process.markov:
            two = make_plan("sde_exponential", process, times, order=2, form="midpoint")
            same.append((two, make_plan("sde_dpmpp2m", process, times)))
        for a, b in same:
            for x, y in zip(a, b, strict=True):
                for part, other in zip(x[2:5], y[2:5], strict=True):
                    assert all(torch.allclose(p, q, atol=1e-12) for p, q in zip(part, other, strict=False)), name


# ---- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule", ["ddim", "heun", "dpmpp2m", "exponential", "sde_exponential", "gaussian_ode", "ancestral"]
)
def test_the_first_step_out_of_a_pinned_end_is_drawn_by_every_rule(rule):
    """T11: w' = h' D + s' z through the ordinary loop, so that no two repeats are one; its seed decides."""
    process, L = PROCESSES["i2sb"](Pixel((3,))), torch.full((3,), 0.25, dtype=torch.float64)
    times = at(1.0, 0.7, 0.0)
    plan = make_plan(rule, process, times, L)
    m = process.moments(times[1:2])
    known = m.s2 + m.h**2 * L if rule == "gaussian_ode" else m.s2 + 0 * L
    first = plan[0]
    assert torch.allclose(first.noise[0] ** 2 + 0 * L, known, atol=1e-14)
    assert torch.allclose(first.data[0], m.h, atol=1e-14)
    assert float(first.keep[0].abs().max()) == 0
    assert plan.stochastic
    denoiser, c = GaussianDenoiser(process, spectrum=L), torch.ones(2, 1, 3, dtype=torch.float64)
    runs = [
        sample(
            denoiser, plan, start_state(process, s, (1, 3), measurement=c, dtype=torch.float64), seeds=s, cond=Cond(c)
        ).x
        for s in (torch.tensor([1, 2]), torch.tensor([1, 3]))
    ]
    assert torch.equal(runs[0][0], runs[1][0])
    assert not torch.equal(runs[0][1], runs[1][1])


def test_what_a_process_with_a_memory_cannot_do_is_refused_by_name():
    process, times = one("rddm"), at(1.0, 0.5, 0.0)
    for rule in ("euler", "sde_dpmpp2m"):
        with pytest.raises(InputError, match=r"not Markov: its noise has a memory.*sde_exponential"):
            make_plan(rule, process, times)
    increments = replace(one("i2sb"), memory="independent")  # s is not monotone
    for rule in ("sde_exponential", "ancestral", "matched"):
        with pytest.raises(InputError, match="never decreases"):
            make_plan(rule, increments, times)
    with pytest.raises(InputError, match="1, 2 or 3"):
        make_plan("exponential", process, times, order=4)
    with pytest.raises(InputError, match="Did you mean"):
        make_plan("exponential", process, times, form="exct")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ir_sde", {"delta": 1.5}, "below 1"),
        ("ir_sde", {"level": -1.0}, "level.*positive"),
        ("ir_sde", {"steps": 0}, "steps.*at least 1"),
        ("ir_sde", {"schedule": "cosin"}, "Did you mean 'cosine'"),
        ("rddm", {"noise": "increase"}, "Did you mean 'increased'"),
        ("resshift", {"kappa": math.nan}, "kappa.*positive"),
        ("resshift", {"least": 3.0}, "below 0.99"),
        ("resshift", {"steps": 1}, "at least 2"),
        ("resfusion", {"schedule": "sine"}, "one of cosine, linear"),
        ("unidb", {"gamma": 0.0}, "gamma.*positive"),
        ("i2sb", {"beta_max": 0.0}, "beta_max.*positive"),
        ("anchored_flow", {"level": 0.0}, "level.*positive"),
        ("goub", {"conditioning": "extern"}, "none, terminal or external"),
    ],
)
def test_bad_options_are_named(name, options, words):
    with pytest.raises(InputError, match=words):
        one(name, **options)


def test_predictions_about_the_condition_image():
    process, t = one("rddm"), at(1.0)
    c, u0, w = at(0.4), at(-0.2), at(0.9)
    for kind in ("residual", "shift", "resnoise", "angle"):
        said = target(kind, process, u0, w, t, c)
        assert float(to_data(kind, process, said, w, t, c)) == pytest.approx(-0.2, abs=1e-12)  # where eps is refused
        with pytest.raises(InputError, match="no condition image"):
            to_data(kind, process, said, w, t)
    with pytest.raises(InputError, match="gain h = 0"):
        to_data("eps", process, w, w, t)
    with pytest.raises(InputError, match="pinned end"):
        to_data("resnoise", one("i2sb"), w, w, t, c)


# ---- times and starts ------------------------------------------------------------------------------------------------


def test_the_time_of_a_noise_level():
    process = one("denoising_sde", level=70 / 255, delta=0.04, steps=1000)
    (t,) = time_at(process, 25 / 255)
    T = -math.log(float(process.memory_gain(t[None])))
    known = -0.5 * math.log(1 - (25 / 70) ** 2)
    assert pytest.approx(known, rel=1e-12) == T
    with pytest.raises(InputError, match="positive numbers up to"):
        time_at(process, 1.0)
    with pytest.raises(InputError, match="differs between"):
        time_at(make_process("fourier"), 0.1)


def test_a_third_of_what_starts_differ_by_transfers_on_white_gaussian_data():
    """score = |e|^2 + |T z|^2 - 2 e.T z, T = sqrt(V): var b : var c = 2 V^2 : 4 V^2; the argmin is the smallest |z|."""
    basis = Pixel((64,))
    process = PROCESSES["anchored_flow"](basis, level=0.5)
    L = torch.full((64,), 0.3, dtype=torch.float64)
    denoiser = GaussianDenoiser(process, spectrum=L)
    plan = make_plan("gaussian_ode", process, at(1.0, 0.5, 0.0), L)
    truth = L.sqrt() * white(range(300), "truth", 0, (1, 64)).double()
    seeds = list(range(48))
    found = choose_start(denoiser, plan, torch.zeros_like(truth), truth, seeds=seeds)
    assert found.share == pytest.approx(1 / 3, abs=0.09)
    size = white(seeds, "start", 0, (1, 64)).double().square().sum((1, 2))
    assert found.seed == int(size.argmin())
    known = math.sqrt(2 * math.log(48)) * math.sqrt(2 / 64) * 0.3  # sd of the mean square of 64 numbers
    assert found.expected_gain == pytest.approx(known, rel=0.3)
    mean = truth.square().mean()  # z = 0, the posterior mean, beats every start
    assert float(found.scores.mean(1).min()) > 1.2 * float(mean)


def test_starts_are_not_chosen_for_what_has_none():
    process = PROCESSES["anchored_flow"](Pixel((4,)))
    L, y = torch.ones(4, dtype=torch.float64), torch.zeros(2, 1, 4, dtype=torch.float64)
    denoiser, times = GaussianDenoiser(process, spectrum=L), at(1.0, 0.0)
    with pytest.raises(InputError, match="stochastic rule 'matched'"):
        choose_start(denoiser, make_plan("matched", process, times, L), y, y, seeds=[1, 2])
    plan = make_plan("ddim", process, times, L)
    with pytest.raises(InputError, match="two different seeds"):
        choose_start(denoiser, plan, y, y, seeds=[1, 1])
    with pytest.raises(InputError, match="two pairs"):
        choose_start(denoiser, plan, y[:1], y[:1], seeds=[1, 2])
    fourier = make_process("fourier")
    other = GaussianDenoiser(fourier, spectrum=torch.ones(fourier.basis.shape).double())
    with pytest.raises(InputError, match="starts at the measurement"):
        choose_start(other, make_plan("ddim", fourier, times), y, y, seeds=[1, 2])
    assert retrodict.choose_start is choose_start


def test_a_grid_in_the_total_clock_is_even_in_it():
    process = one("rddm")
    times = make_grid(process, 8, "total", last=0.01)
    G = [2 * math.log(s) - math.log(h) for h, _, s in (hks(process, float(t)) for t in times[1:])]
    steps = [a - b for a, b in pairwise(G)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6)
    markov = one("ir_sde")
    assert torch.equal(make_grid(markov, 8, "total"), make_grid(markov, 8, "logsnr"))


def test_nodes_are_met_exactly_at_both_ends():
    line = nodes([0.1, 0.7, 0.3], ONE)
    assert line(at(0.0, 0.5, 1.0)).tolist() == [0.1, 0.7, 0.3]
    assert float(line(at(0.25))) == pytest.approx(0.4)
