"""Samplers as numbers: golden values, exactness on Gaussian data, order, and independence of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from objects import curves, fits, make_process, restoring_process, steps_needed
from retrodict import InputError
from retrodict._random import white
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import Denoiser, Estimate, FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.network import NetDenoiser, channels_in
from retrodict.denoisers.wrappers import Wrapper
from retrodict.nets import UNet
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond
from retrodict.processes.process import Process
from retrodict.processes.scalar import scalar, ve, vp
from retrodict.processes.wavelet import WAVELET_PROCESSES
from retrodict.samplers import RULES, Plan, Row, make_plan, sample, start_state
from retrodict.samplers.card import dense_card, gaussian_card, gaussian_posterior, posterior_card
from retrodict.samplers.loop import begin, step, steps
from retrodict.samplers.plan import GRIDS, make_grid

L3 = torch.tensor([0.01, 0.25, 1.0], dtype=torch.float64)
EXACT = [name for name, rule in RULES.items() if rule.exact]
RESTORING = [name for name in PROCESSES if name not in WAVELET_PROCESSES]


def grid(n, last=0.0):
    return torch.linspace(1, last, n + 1, dtype=torch.float64)


def close(got, known, rtol=1e-8):
    assert torch.allclose(got, torch.tensor(known, dtype=torch.float64), rtol=rtol, atol=1e-12), got


# ---- golden numbers of the sampler specification, section G ----


def edm(n):
    """VE with the 80 ... 0.002 rho-7 grid."""
    i = torch.arange(n + 1, dtype=torch.float64) / n
    sigma = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = (sigma / 0.002).log() / math.log(80 / 0.002)
    times[0], times[-1] = 1.0, 0.0
    return ve(Pixel((3,)), 0.002, 80.0), times


@pytest.mark.parametrize(
    ("n", "rule", "known"),
    [
        (10, "ddim", [8.783474134e-04, 4.704799653e-03, 9.665709004e-03]),
        (10, "dpmpp2m", [1.188614370e-03, 6.789212129e-03, 1.381051753e-02]),
        (20, "ddim", [1.045690492e-03, 5.422188404e-03, 1.098990613e-02]),
        (20, "dpmpp2m", [1.310766294e-03, 6.516654414e-03, 1.294067715e-02]),
    ],
)
def test_golden_ve(n, rule, known):
    process, times = edm(n)
    close(gaussian_card(make_plan(rule, process, times, L3), L3).start, known)


@pytest.mark.parametrize(
    ("n", "rule", "known"),
    [
        (10, "ddim", [7.931149148e-02, 3.936467576e-01, 7.869992513e-01]),
        (10, "dpmpp2m", [9.604782699e-02, 5.112668096e-01, 1.030659489e00]),
        (20, "ddim", [8.930878840e-02, 4.436599832e-01, 8.871282916e-01]),
        (20, "dpmpp2m", [1.011011556e-01, 5.064723452e-01, 1.013038115e00]),
    ],
)
def test_golden_vp(n, rule, known):
    process = vp(Pixel((3,)))
    times = make_grid(process, n, "logsnr", last=1e-3)
    close(gaussian_card(make_plan(rule, process, times, L3), L3).start, known)


@pytest.mark.parametrize(
    ("eta", "order", "known", "atol"),
    [
        (0.0, 1, [-0.211016, -0.212948, -0.213003], 1e-6),
        (0.5, 1, [-0.290270, -0.292699, -0.292776], 1e-6),
        (1.0, 1, [-0.353876, -0.356597, -0.356683], 1e-6),
        (0.0, 2, [0.0215, 0.0262, 0.0264], 6e-5),
        (0.5, 2, [0.0341, 0.0447, 0.0451], 6e-5),
        (1.0, 2, [0.0438, 0.0621, 0.0629], 6e-5),
    ],
)
def test_golden_stochastic(eta, order, known, atol):
    process = vp(Pixel((3,)))
    times = make_grid(process, 20, "logsnr", last=1e-3)
    card = gaussian_card(make_plan("sde_dpmpp2m", process, times, L3, eta=eta, order=order), L3)
    m1, m0 = process.moments(torch.ones(1)), process.moments(torch.tensor([1e-3], dtype=torch.float64))
    start, end = (m1.h**2 * L3 + m1.s2)[0, 0], (m0.h**2 * L3 + m0.s2)[0, 0]
    got = (card.start**2 * start + card.variance) / end - 1
    assert torch.allclose(got, torch.tensor(known, dtype=torch.float64), atol=atol)


class TwoRadii(Pixel):
    def radius(self):
        return torch.tensor([0.1, 0.25], dtype=torch.float64)


def Radii():
    return TwoRadii((2,))


P = torch.tensor([4.0, 0.3], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "n", "options", "known"),
    [
        ("ancestral", 4, {}, [[1, 1], [0.345, 0.249]]),
        ("ancestral", 16, {}, [[1, 1], [0.693, 0.611]]),
        ("ancestral", 128, {}, [[1, 1], [0.944, 0.916]]),
        ("euler", 4, {"final": False}, [[1.000, 1.069], [0.903, 2.622]]),
        ("euler", 16, {"final": False}, [[1.000, 1.002], [0.992, 1.095]]),
        ("ddim", 4, {}, [[1.007, 1.100], [0, 0]]),
        ("ddim", 128, {}, [[1.026, 1.527], [0, 0]]),
        ("matched", 1, {}, [[1, 1], [1, 1]]),
        ("matched", 7, {}, [[1, 1], [1, 1]]),
    ],
)
def test_table_of_fourier_diffusion(rule, n, options, known):
    """bias^2/V and variance/V of table 2.6 (structured specification), printed to three digits."""
    process = fourier(Radii())
    card = gaussian_card(make_plan(rule, process, grid(n), P, **options), P)
    gain, variance = gaussian_posterior(P, process.measurement)
    power = process.measurement.h**2 * P + process.measurement.s2
    got = torch.stack([1 + (card.start - gain) ** 2 * power / variance, card.variance / variance])
    assert torch.allclose(got, torch.tensor(known, dtype=torch.float64), atol=6e-4)


def test_ancestral_steps_have_the_exact_mean_at_any_number_of_steps():
    process = fourier(Radii())
    gain, _ = gaussian_posterior(P, process.measurement)
    for n in (1, 3, 10):
        assert torch.allclose(gaussian_card(make_plan("ancestral", process, grid(n), P), P).start, gain, rtol=1e-12)


# ---- exact in the Gaussian part ----

SPECTRUM = Spectrum.power_law(0.3, 100.0, 0.02, 3.0)


@pytest.mark.parametrize("n", [1, 2, 5, 32])
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("rule", EXACT)
def test_unconditional_law_is_exact_at_any_number_of_evaluations(rule, name, n):
    process = make_process(name)
    process = Process(process.family, process.basis) if process.pairing.kind == "terminal" else process
    spectrum = SPECTRUM.on(process.basis)
    plan = make_plan(rule, Process(process.family, process.basis), grid(n), spectrum)
    card = gaussian_card(plan, spectrum, mean=1.0)
    m1, m0 = process.moments(torch.ones(1)), process.moments(plan.times[-1:])
    variance = card.start**2 * (m1.h**2 * spectrum + m1.s2)[0, 0] + card.variance
    assert torch.allclose(variance, (m0.h**2 * spectrum + m0.s2)[0, 0], rtol=1e-9)
    mean = card.start * m1.h[0, 0] + card.offset  # of data with mean 1, started from its own marginal
    assert torch.allclose(mean, m0.h[0, 0].expand(mean.shape), atol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 8, 32])
@pytest.mark.parametrize("name", RESTORING)
@pytest.mark.parametrize("rule", EXACT)
def test_posterior_is_exact_at_any_number_of_evaluations(rule, name, n):
    process = restoring_process(name)
    if RULES[rule].deterministic and process.pairing.starts:
        pytest.skip("deterministic from a fixed measurement: a point estimate by nature")
    if not fits(rule, process):
        pytest.skip("its noise has a memory of its own")
    spectrum = SPECTRUM.on(process.basis)
    plan = make_plan(rule, process, grid(n), spectrum)
    gain, variance = posterior_card(plan, spectrum)
    exact_gain, exact_variance = gaussian_posterior(spectrum, process.measurement)
    end = process.moments(plan.times[-1:])
    assert torch.allclose(gain, (end.h * exact_gain)[0, 0], rtol=1e-6, atol=1e-9)
    assert torch.allclose(variance, (end.h**2 * exact_variance + end.s2)[0, 0], rtol=1e-6)


@pytest.mark.parametrize("name", RESTORING)
@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.posterior])
def test_documented_posterior_samplers_pass_the_card(rule, name):
    """Gain within 2 %, variance within 5 % in five bands, at the default number of steps."""
    process = restoring_process(name, (16, 16))
    if not fits(rule, process):
        pytest.skip("an SDE, and a process that has none")
    spectrum = SPECTRUM.on(process.basis)
    times = make_grid(process, steps_needed(process, RULES[rule]), RULES[rule].grid, spectrum=spectrum)
    gain, variance = posterior_card(make_plan(rule, process, times, spectrum), spectrum)
    K, V = gaussian_posterior(spectrum, process.measurement)
    radius = process.basis.radius()
    for band in range(5):
        part = (radius >= band * 0.1415) & (radius < (band + 1) * 0.1415)
        assert float((gain * K)[part].sum() / (K**2)[part].sum()) == pytest.approx(1, abs=0.02)
        assert float(variance[part].sum() / V[part].sum()) == pytest.approx(1, abs=0.05)


def test_plain_ancestral_sampling_fails_the_card():
    process = restoring_process("fourier", (16, 16))
    spectrum = SPECTRUM.on(process.basis)
    _, variance = posterior_card(make_plan("ancestral", process, grid(RULES["ancestral"].steps), spectrum), spectrum)
    _, V = gaussian_posterior(spectrum, process.measurement)
    assert float(variance.sum() / V.sum()) < 0.7


def test_gaussian_ode_without_spectrum_is_ddim():
    process = vp(Pixel((3,)))
    zero = torch.zeros(3, dtype=torch.float64)
    a = make_plan("gaussian_ode", process, grid(5), zero, order=1)
    b = make_plan("ddim", process, grid(5))
    for x, y in zip(a, b, strict=True):
        assert torch.allclose(x.keep[0], y.keep[0], atol=1e-12)
        assert torch.allclose(x.data[0], y.data[0], atol=1e-12)


def test_rows_reproduce_a_constant_denoiser():
    """If D does not depend on the state, every deterministic rule carries h D to h' D."""
    process = vp(Pixel((3,)))
    for rule in ("ddim", "dpmpp2m", "gaussian_ode"):
        plan = make_plan(rule, process, grid(6, 0.1), L3)
        ms = [process.moments(t[None]).h for t in plan.times]
        for i, row in enumerate(plan):
            total = sum(w * ms[i - j] for j, w in enumerate(row.keep)) + sum(row.data)
            assert torch.allclose(total, ms[i + 1].expand(total.shape), atol=1e-12), (rule, i)


# ---- order of convergence on a law that is not Gaussian ----


def mixture():
    process = vp(Pixel((1,)))
    one = torch.ones(1, dtype=torch.float64)
    means = torch.tensor([[-1.0], [1.2]], dtype=torch.float64)
    law = MixtureLaw(
        process.basis, torch.tensor([0.4, 0.6], dtype=torch.float64), means, torch.stack([0.1 * one, 0.2 * one])
    )
    return MixtureDenoiser(process, law)


def flow(rule, n, **options):
    denoiser = mixture()
    times = make_grid(denoiser.process, n, "logsnr", last=0.02)
    spectrum = torch.tensor([1.3], dtype=torch.float64)
    start = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1, 1)
    return sample(
        denoiser, make_plan(rule, denoiser.process, times, spectrum, **options), start, seeds=torch.arange(9)
    ).x


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.deterministic])
def test_a_rule_has_the_order_that_it_declares(rule):
    """Richardson: differences between N, 2N, 4N fall like 2^-order."""
    a, b, c = (flow(rule, n) for n in (80, 160, 320))
    observed = math.log2(float((a - b).abs().max() / (b - c).abs().max()))
    assert observed == pytest.approx(RULES[rule].order, abs=0.25)


def test_the_first_order_of_the_gaussian_flow_has_order_one():
    a, b, c = (flow("gaussian_ode", n, order=1) for n in (80, 160, 320))
    assert math.log2(float((a - b).abs().max() / (b - c).abs().max())) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("rule", RULES)
def test_a_step_makes_the_calls_that_its_rule_declares(rule, n):
    """The last row of a run may return what it has: a rule of c calls a step makes at most c N."""
    process = vp(Pixel((3,)))
    denoiser = Counting(GaussianDenoiser(process, torch.zeros(3, dtype=torch.float64), L3), [])
    plan = make_plan(rule, process, grid(n, 0.1), L3)
    found = sample(denoiser, plan, torch.zeros(1, 1, 3, dtype=torch.float64), seeds=torch.tensor([0]))
    assert len(denoiser.calls) == plan.nfe == found.nfe
    assert n <= plan.nfe <= RULES[rule].calls_per_step * n


@dataclass(frozen=True)
class Counting(Wrapper):
    calls: list

    def estimate(self, xt, t, cond=Cond()):
        self.calls.append(t)
        return self.inner.estimate(xt, t, cond)


# ---- the loop ----


@pytest.mark.parametrize("rule", RULES)
def test_the_loop_does_what_the_card_says(rule):
    """Exactly: the start and each noise field in turn is 1 at one pixel, all others 0, and the mean is 0."""
    process = vp(Pixel((3,)))
    denoiser = GaussianDenoiser(process, torch.zeros(3, dtype=torch.float64), L3)
    plan = make_plan(rule, process, make_grid(process, 4, RULES[rule].grid, last=0.05, spectrum=L3), L3)
    card = gaussian_card(plan, L3)
    active: list = []

    def field(seeds, stream, step, shape):
        on = (stream, step) == (active[0] if active else None)
        return torch.ones(len(seeds), *shape, dtype=torch.float64) * on

    seeds = torch.tensor([0])
    ones = torch.ones(1, 1, 3, dtype=torch.float64)
    assert torch.allclose(sample(denoiser, plan, ones, seeds=seeds, noise=field).x[0, 0], card.start, rtol=1e-12)
    variance = torch.zeros(3, dtype=torch.float64)
    for index in range(len(plan)):
        for stream in ("step", "spread"):
            active[:] = [(stream, index)]
            variance += sample(denoiser, plan, 0 * ones, seeds=seeds, noise=field).x[0, 0] ** 2
    assert torch.allclose(variance, card.variance, rtol=1e-12, atol=1e-14)


def small_network(process, bands=0):
    torch.manual_seed(0)
    inputs = channels_in(process)
    net = UNet(in_channels=inputs, out_channels=1 + bands, width=8, multipliers=(1, 2), padding="circular")
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return NetDenoiser(net, process, spectrum=SPECTRUM, bands=bands)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["fourier", "scalar", "mean_reverting"])
def test_a_batch_is_its_items_bit_for_bit(rule, name):
    process = restoring_process(name, (16, 16))
    denoiser = small_network(process, bands=2)
    spectrum = SPECTRUM.on(process.basis)
    plan = make_plan(rule, process, make_grid(process, 3, spectrum=spectrum), spectrum)
    y = white([7, 8, 9], "y", 0, (1, 16, 16))
    seeds = torch.tensor([4, 5, 6])

    def restore(part):
        cond = process.pairing.cond(y[part])
        start = start_state(process, seeds[part], (1, 16, 16), measurement=y[part])
        return sample(denoiser, plan, start, seeds=seeds[part], cond=cond).x

    whole = restore(slice(0, 3))
    single = torch.cat([restore(slice(i, i + 1)) for i in range(3)])
    assert torch.equal(whole, single)
    assert torch.equal(whole[1:], restore(slice(1, 3)))


def test_nothing_touches_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    process = restoring_process("fourier", (16, 16))
    denoiser = GaussianDenoiser(process, SPECTRUM.mean_on(process.basis), SPECTRUM.on(process.basis))
    start = process.start(torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16))
    sample(denoiser, make_plan("matched", process, grid(3)), start, seeds=torch.tensor([3]))
    assert torch.equal(before, torch.get_rng_state())


def test_stochastic_rules_are_refused_where_the_clock_decreases():
    def law(t):
        return 1 - 0.1 * t, 0 * t, 0.2 * t * (1.2 - t)

    process = Process(lambda basis: law, Pixel((3,)))
    flow = gaussian_card(make_plan("gaussian_ode", process, grid(200), L3), L3, 1.0)
    for rule, entry in RULES.items():
        if entry.deterministic:
            plan, h = make_plan(rule, process, grid(200), L3), process.moments(torch.zeros(1)).h
            card = gaussian_card(plan, L3, 1.0)
            assert torch.allclose(card.start, flow.start, rtol=0.1), rule
            assert torch.allclose(card.offset + card.start * 0.9, h[0, 0].expand(3), atol=0.05), rule
        else:
            with pytest.raises(InputError, match="never decreases"):
                make_plan(rule, process, grid(4), L3)


# ---- degenerate coefficients ----


def dead_bands():
    """A measured instrument with an MTF and an NPS that reach zero, apart and together."""
    record = curves()
    record["mtf"].update(frequency=[0.0, 0.2, 0.3, 0.8], value=[1.0, 1.0, 0.0, 0.0])
    record["nps"].update(frequency=[0.0, 0.1, 0.11, 0.4, 0.41, 0.8], value=[0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    return PROCESSES["measured"](Fourier((16, 16)), **record)


@pytest.mark.parametrize("rule", RULES)
def test_erased_and_noise_free_coefficients_leave_every_rule_finite(rule):
    """Zero noise, zero gain, and both, at the terminal time (rules Z1-Z3); noise-free ones come back exactly."""
    process = dead_bands()
    spectrum = SPECTRUM.on(process.basis)
    denoiser = GaussianDenoiser(process, SPECTRUM.mean_on(process.basis), spectrum)
    y = white([1], "y", 0, (1, 16, 16)).double()
    gain, _, noise = process.measurement
    clean, nothing = (noise == 0) & (gain == 1), (noise == 0) & (gain == 0)
    assert int(clean.sum()) > 3
    assert int(nothing.sum()) > 3
    for kind in ("time", "logsnr"):
        plan = make_plan(rule, process, make_grid(process, 8, kind, spectrum=spectrum), spectrum)
        out = sample(denoiser, plan, process.start(0 * y, y), seeds=torch.tensor([1])).x
        assert bool(torch.isfinite(out).all())
        known = process.basis.forward(y)[0, 0][clean]
        assert torch.allclose(process.basis.forward(out)[0, 0][clean], known, atol=1e-6)
        offset = gaussian_card(plan, spectrum, mean=1.0).offset  # of what is wholly lost the prior mean is left
        assert torch.allclose(offset[nothing], torch.ones(int(nothing.sum())).double(), atol=1e-9)


LOOSE = {"ancestral": 0.25, "ddim": 0.14, "reverse_diffusion": 0.15, "edm": 0.04}
"""Tolerance of the variance at 64 steps, of rules of order 1 and of one that adds noise."""


def flow_matching():
    """Rectified flow: h = 1 - t, s = t, so that nothing of the image is left at t = 1."""
    return Process(lambda basis: lambda t: (1 - t, 0 * t, t**2), Pixel((3,)))


@pytest.mark.parametrize("rule", RULES)
def test_a_process_that_erases_everything_keeps_its_variance(rule):
    """Today's fault: variance 0 in silence (2M, Gaussian flow) and NaN (Euler) where h(1) = 0."""
    process, n = flow_matching(), 64
    card = gaussian_card(make_plan(rule, process, make_grid(process, n, RULES[rule].grid, spectrum=L3), L3), L3, 1.0)
    variance = (card.start**2 + card.variance) / L3
    tolerance = 1e-9 if RULES[rule].exact else LOOSE.get(rule, 0.03)
    assert torch.allclose(variance, torch.ones(3, dtype=torch.float64), atol=tolerance), variance
    assert torch.allclose(card.offset, torch.ones(3, dtype=torch.float64), atol=1e-9 if RULES[rule].exact else 0.05)


def test_grids_stay_spread_where_everything_is_erased():
    """log-SNR of h = 1 - t, s = t, from 1e-8 at the erased end to 1e6."""
    times = make_grid(flow_matching(), 8, "logsnr")
    known = [1, 0.999, 0.990, 0.909, 0.500, 0.091, 0.010, 0.001, 0]
    assert torch.allclose(times, torch.tensor(known, dtype=torch.float64), atol=6e-4)


def test_grids_stay_spread_where_an_mtf_reaches_zero():
    times = make_grid(dead_bands(), 8, "logsnr", spectrum=SPECTRUM.on(Fourier((16, 16))))
    assert float((times[:-1] - times[1:]).max()) < 0.6
    assert len({round(float(t), 3) for t in times}) == 9


@pytest.mark.parametrize("kind", GRIDS)
def test_grids_fall_strictly_from_one_to_the_end(kind):
    process = restoring_process("fourier", (16, 16))
    spectrum = SPECTRUM.on(process.basis)
    for n in (1, 2, 9):
        times = make_grid(process, n, kind, spectrum=spectrum)
        assert len(times) == n + 1
        assert float(times[0]) == 1.0
        assert float(times[-1]) == 0.0
        assert bool((times[1:] < times[:-1]).all())


def test_logsnr_grid_is_uniform():
    process = scalar(Pixel((3,)))
    times = make_grid(process, 10, "logsnr", last=1e-3)
    level = torch.stack([process.clock(t[None]).log().mean() for t in times])
    assert torch.allclose(level.diff(), level.diff().mean().expand(10), rtol=1e-6)


def test_unknown_names_are_answered_with_the_nearest():
    process = vp(Pixel((3,)))
    with pytest.raises(InputError, match="Did you mean 'matched'"):
        make_plan("match", process, grid(2))
    with pytest.raises(InputError, match="options that this rule knows"):
        make_plan("ddim", process, grid(2), L3, etaa=1.0)
    with pytest.raises(InputError, match="strictly decreasing"):
        make_plan("ddim", process, grid(2).flip(0), L3)


# ---- the pure step ----


def test_a_run_can_be_left_branched_and_reordered_between_rows():
    """`Memory.take` permutes the items; with the seeds permuted alike, the rest of the run is permuted."""
    process = restoring_process("scalar", (8, 8))
    denoiser = GaussianDenoiser(process, SPECTRUM.mean_on(process.basis), SPECTRUM.on(process.basis))
    plan = make_plan("dpmpp2m", process, grid(6, 0.05), SPECTRUM.on(process.basis))
    seeds, y = torch.tensor([1, 2, 3]), white([7, 8, 9], "y", 0, (1, 8, 8)).double()
    start = start_state(process, seeds, (1, 8, 8), measurement=y, dtype=torch.float64)
    cond, order = process.pairing.cond(y), torch.tensor([2, 0, 1])
    straight = list(steps(denoiser, plan, start, seeds=seeds, cond=cond))
    memory = straight[2].take(order)
    for i in range(3, 6):
        memory = step(denoiser, plan[i], memory, seeds=seeds[order], index=i, cond=process.pairing.cond(y[order]))
    assert memory.nfe == 6
    assert torch.allclose(memory.states[0], straight[-1].states[0][order], atol=1e-12)


def test_items_may_stand_at_times_of_their_own():
    """Two items that go through one row at different times are the rows of either time."""
    process = vp(Pixel((3,)))
    denoiser = GaussianDenoiser(process, torch.zeros(3, dtype=torch.float64), L3)
    x = white([1, 2], "x", 0, (1, 3)).double()
    rows = [make_plan("ddim", process, torch.tensor([t, t / 2], dtype=torch.float64))[0] for t in (0.8, 0.4)]
    keep, data = (torch.cat([getattr(r, name)[0] for r in rows]) for name in ("keep", "data"))
    both = Row(torch.tensor([0.8, 0.4], dtype=torch.float64), True, (keep,), (data,))
    seeds = torch.tensor([0, 1])
    found = step(denoiser, both, begin(x), seeds=seeds, index=0).states[0]
    for i, row in enumerate(rows):
        alone = step(denoiser, row, begin(x[i : i + 1]), seeds=seeds[i : i + 1], index=0).states[0]
        assert torch.allclose(found[i : i + 1], alone, atol=1e-14)


def test_a_row_may_use_the_noise_of_the_row_before():
    process = vp(Pixel((3,)))
    denoiser = GaussianDenoiser(process, torch.zeros(3, dtype=torch.float64), L3)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    rows = [Row(0.5, False, (zero,), (), (one,)), Row(0.4, False, (one,), (), (zero, -one))]
    plan = Plan(process, torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64), rows.__getitem__, 2, 0, "made", depth=2)
    start = white([1], "x", 0, (1, 3)).double()
    assert torch.allclose(sample(denoiser, plan, start, seeds=torch.tensor([3])).x, torch.zeros(1, 1, 3).double())
    assert torch.equal(gaussian_card(plan, L3).variance, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("rule", ["matched", "ancestral"])
@pytest.mark.parametrize("name", ["fourier", "scalar"])
def test_the_dense_card_is_the_diagonal_one(rule, name):
    """The real loop on unit fields against the recursion per coefficient."""
    process = restoring_process(name, (4, 3))
    L = SPECTRUM.on(process.basis)
    plan = make_plan(rule, process, grid(3), L)
    gain, covariance = dense_card(plan, GaussianDenoiser(process, spectrum=SPECTRUM))
    known_gain, known_variance = posterior_card(plan, L)
    eye = torch.eye(12, dtype=torch.float64).reshape(12, 1, 4, 3)
    basis = process.basis
    dense = [basis.inverse(x * basis.forward(eye)).reshape(12, 12).T for x in (known_gain, known_variance)]
    assert torch.allclose(gain, dense[0], atol=1e-10)
    assert torch.allclose(covariance, dense[1], atol=1e-10)


def test_what_does_not_fit_the_plan_is_refused_by_name():
    process = vp(Pixel((3,)))
    plan, seeds = make_plan("ddim", process, grid(2), L3), torch.tensor([1])
    start = torch.zeros(1, 1, 3, dtype=torch.float64)
    cases = {
        "an estimate of shape": FunctionDenoiserOf(process, lambda x: x[..., :2]),
        "NaN or infinite": FunctionDenoiserOf(process, lambda x: x * torch.nan),
        "that of the plan": FunctionDenoiserOf(vp(Pixel((4,))), lambda x: x),
    }
    for words, denoiser in cases.items():
        with pytest.raises(InputError, match=words):
            sample(denoiser, plan, start, seeds=seeds)
    with pytest.raises(InputError, match="a denoiser of the process 've'"):
        sample(FunctionDenoiser(lambda x, t: x, ve(Pixel((3,)))), plan, start, seeds=seeds)
    row = Row(1.0, True, (torch.ones(1).double(),), (torch.ones(1).double(),) * 2)
    shallow = Plan(process, grid(1), lambda i: row, 1, 1, "made")
    identity = FunctionDenoiser(lambda x, t: x, process)
    with pytest.raises(InputError, match="sufficient depth"):
        sample(identity, shallow, start, seeds=seeds)
    with pytest.raises(InputError, match="a complex image"):
        sample(identity, plan, torch.zeros(1, 1, 3, dtype=torch.complex128), seeds=seeds)


@dataclass(frozen=True)
class FunctionDenoiserOf(Denoiser):
    """A denoiser that breaks its promise."""

    process: Process
    function: Callable

    def estimate(self, xt, t, cond=Cond()):
        return Estimate(self.function(xt), None)

    def on(self, size):
        return self

    def to(self, device):
        return self
