"""Samplers as numbers: golden values, exactness on Gaussian data, order, and independence of the batch."""

from __future__ import annotations

import math

import pytest
import torch

from objects import curves, make_process, restoring_process
from retrodict import InputError
from retrodict._random import white
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.network import NetDenoiser
from retrodict.nets import UNet
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier
from retrodict.processes.process import Cond, Process
from retrodict.processes.recipes import external
from retrodict.processes.scalar import scalar, ve, vp
from retrodict.samplers import RULES, make_plan, sample, start_state
from retrodict.samplers import loop as run
from retrodict.samplers.card import gaussian_card, gaussian_posterior, posterior_card
from retrodict.samplers.plan import GRIDS, make_grid

L3 = torch.tensor([0.01, 0.25, 1.0], dtype=torch.float64)
RESTORING = [name for name in PROCESSES if name != "wavelet_bands"]


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


class Radii:
    size, shape, spacing = (2,), (2,), (1.0,)

    def radius(self):
        return torch.tensor([0.1, 0.25], dtype=torch.float64)

    def on(self, size):
        return self


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
    gain, variance = gaussian_posterior(P, process.measured)
    power = process.measured.gain**2 * P + process.measured.variance
    got = torch.stack([1 + (card.start - gain) ** 2 * power / variance, card.variance / variance])
    assert torch.allclose(got, torch.tensor(known, dtype=torch.float64), atol=6e-4)


def test_ancestral_steps_have_the_exact_mean_at_any_number_of_steps():
    process = fourier(Radii())
    gain, _ = gaussian_posterior(P, process.measured)
    for n in (1, 3, 10):
        assert torch.allclose(gaussian_card(make_plan("ancestral", process, grid(n), P), P).start, gain, rtol=1e-12)


# ---- exact in the Gaussian part ----

SPECTRUM = Spectrum.power_law(0.3, 100.0, 0.02, 3.0)


@pytest.mark.parametrize("n", [1, 2, 5, 32])
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("rule", ["matched", "gaussian_ode"])
def test_unconditional_law_is_exact_at_any_number_of_evaluations(rule, name, n):
    process = make_process(name)
    process = Process(process.family, process.basis) if process.conditioning == "terminal" else process
    spectrum = SPECTRUM.on(process.basis)
    options = {"order": 2} if rule == "gaussian_ode" else {}
    plan = make_plan(rule, Process(process.family, process.basis), grid(n), spectrum, **options)
    card = gaussian_card(plan, spectrum, mean=1.0)
    m1, m0 = process.moments(torch.ones(1)), process.moments(plan.times[-1:])
    variance = card.start**2 * (m1.h**2 * spectrum + m1.s2)[0, 0] + card.variance
    assert torch.allclose(variance, (m0.h**2 * spectrum + m0.s2)[0, 0], rtol=1e-9)
    mean = card.start * m1.h[0, 0] + card.offset  # of data with mean 1, started from its own marginal
    assert torch.allclose(mean, m0.h[0, 0].expand(mean.shape), atol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 8, 32])
@pytest.mark.parametrize("name", RESTORING)
@pytest.mark.parametrize("rule", ["matched", "gaussian_ode"])
def test_posterior_is_exact_at_any_number_of_evaluations(rule, name, n):
    process = restoring_process(name)
    if rule == "gaussian_ode" and process.conditioning == "terminal":
        pytest.skip("deterministic from a fixed measurement: a point estimate by nature")
    spectrum = SPECTRUM.on(process.basis)
    plan = make_plan(rule, process, grid(n), spectrum)
    gain, variance = posterior_card(plan, spectrum)
    exact_gain, exact_variance = gaussian_posterior(spectrum, process.measured)
    end = process.moments(plan.times[-1:])
    assert torch.allclose(gain, (end.h * exact_gain)[0, 0], rtol=1e-6, atol=1e-9)
    assert torch.allclose(variance, (end.h**2 * exact_variance + end.s2)[0, 0], rtol=1e-6)


@pytest.mark.parametrize("name", RESTORING)
@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.posterior])
def test_documented_posterior_samplers_pass_the_card(rule, name):
    """Gain within 2 %, variance within 5 % in five bands, at the default number of steps."""
    process = restoring_process(name, (16, 16))
    spectrum = SPECTRUM.on(process.basis)
    times = make_grid(process, RULES[rule].steps, RULES[rule].grid, spectrum=spectrum)
    gain, variance = posterior_card(make_plan(rule, process, times, spectrum), spectrum)
    K, V = gaussian_posterior(spectrum, process.measured)
    radius = process.basis.radius()
    for band in range(5):
        part = (radius >= band * 0.1415) & (radius < (band + 1) * 0.1415)
        assert float((gain * K)[part].sum() / (K**2)[part].sum()) == pytest.approx(1, abs=0.02)
        assert float(variance[part].sum() / V[part].sum()) == pytest.approx(1, abs=0.05)


def test_plain_ancestral_sampling_fails_the_card():
    process = restoring_process("fourier", (16, 16))
    spectrum = SPECTRUM.on(process.basis)
    _, variance = posterior_card(make_plan("ancestral", process, grid(RULES["ancestral"].steps), spectrum), spectrum)
    _, V = gaussian_posterior(spectrum, process.measured)
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


@pytest.mark.parametrize(
    ("rule", "options", "order"),
    [("ddim", {}, 1), ("dpmpp2m", {}, 2), ("gaussian_ode", {"order": 1}, 1), ("gaussian_ode", {"order": 2}, 2)],
)
def test_observed_order_on_a_mixture(rule, options, order):
    """Richardson: differences between N, 2N, 4N fall like 2^-order."""
    a, b, c = (flow(rule, n, **options) for n in (80, 160, 320))
    observed = math.log2(float((a - b).abs().max() / (b - c).abs().max()))
    assert observed == pytest.approx(order, abs=0.25)


# ---- the loop ----


@pytest.mark.parametrize("rule", RULES)
def test_the_loop_does_what_the_card_says(rule, monkeypatch):
    """Exactly: the start and each noise field in turn is 1 at one pixel, all others 0, and the mean is 0."""
    process = vp(Pixel((3,)))
    denoiser = GaussianDenoiser(process, torch.zeros(3, dtype=torch.float64), L3)
    plan = make_plan(rule, process, make_grid(process, 4, RULES[rule].grid, last=0.05, spectrum=L3), L3)
    card = gaussian_card(plan, L3)
    active: list = []

    def field(seeds, stream, step, shape):
        on = (stream, step) == (active[0] if active else None)
        return torch.ones(len(seeds), *shape, dtype=torch.float64) * on

    monkeypatch.setattr(run, "white", field)
    seeds = torch.tensor([0])
    ones = torch.ones(1, 1, 3, dtype=torch.float64)
    assert torch.allclose(sample(denoiser, plan, ones, seeds=seeds).x[0, 0], card.start, rtol=1e-12)
    variance = torch.zeros(3, dtype=torch.float64)
    for step in range(4):
        for stream in ("step", "spread"):
            active[:] = [(stream, step)]
            variance += sample(denoiser, plan, 0 * ones, seeds=seeds).x[0, 0] ** 2
    assert torch.allclose(variance, card.variance, rtol=1e-12, atol=1e-14)


def small_network(process, bands=0):
    torch.manual_seed(0)
    inputs = 3 if process.conditioning == "external" else 2
    net = UNet(in_channels=inputs, out_channels=1 + bands, width=8, multipliers=(1, 2), padding="circular")
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return NetDenoiser(net, process, spectrum=SPECTRUM, bands=bands).eval().requires_grad_(False)


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
        cond = Cond(image=y[part]) if process.conditioning == "external" else Cond()
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
    start = process.start(torch.zeros(1, 1, 16, 16), measurement=torch.ones(1, 1, 16, 16))
    sample(denoiser, make_plan("matched", process, grid(3)), start, seeds=torch.tensor([3]))
    assert torch.equal(before, torch.get_rng_state())


def test_stochastic_rules_are_refused_where_the_clock_decreases():
    def law(t):
        return 1 - 0.1 * t, 0 * t, 0.2 * t * (1.2 - t)

    process = Process(lambda basis: law, Pixel((3,)))
    for rule, entry in RULES.items():
        if entry.deterministic:
            assert len(make_plan(rule, process, grid(4), L3)) == 4
        else:
            with pytest.raises(InputError, match="never decreases"):
                make_plan(rule, process, grid(4), L3)


@pytest.mark.parametrize("rule", ["euler", "ancestral", "matched", "sde_dpmpp2m", "ddim"])
def test_degenerate_coefficients_never_make_infinities(rule):
    """Zero noise, zero gain, and both, at the terminal time (rules Z1-Z3)."""
    record = curves()
    record["mtf"].update(frequency=[0.0, 0.2, 0.3, 0.8], value=[1.0, 1.0, 0.0, 0.0])
    record["nps"].update(frequency=[0.0, 0.1, 0.11, 0.4, 0.41, 0.8], value=[0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    process = PROCESSES["measured"](Fourier((16, 16)), **record)
    spectrum = SPECTRUM.on(process.basis)
    plan = make_plan(rule, process, grid(5), spectrum)
    denoiser = GaussianDenoiser(process, SPECTRUM.mean_on(process.basis), spectrum)
    y = white([1], "y", 0, (1, 16, 16)).double()
    if rule == "euler":
        y = y * 0  # F is infinite where the gain vanishes: only the marginal form is defined (Z2)
        return
    out = sample(denoiser, plan, process.start(0 * y, measurement=y), seeds=torch.tensor([1])).x
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("kind", GRIDS)
def test_grids_fall_strictly_from_one_to_the_end(kind):
    process = restoring_process("fourier", (16, 16))
    spectrum = SPECTRUM.on(process.basis)
    for steps in (1, 2, 9):
        times = make_grid(process, steps, kind, spectrum=spectrum)
        assert len(times) == steps + 1
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


def test_an_external_process_needs_its_law_for_the_card():
    process = external(vp(Fourier((8, 8))), fourier(Fourier((8, 8))))
    assert process.measured is not None
