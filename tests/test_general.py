"""The process of any operators by dense matrices, and every process of the table compared with it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from objects import TIMES, make_process
from retrodict import InputError
from retrodict.bases import Fourier, Orthonormal, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.processes import PROCESSES
from retrodict.processes.general import DenseProcess, dephased, inverse_of, root_of
from retrodict.processes.observation import Cond, Moments, noise_like, wiener
from retrodict.processes.process import Process
from retrodict.processes.scalar import vp
from retrodict.samplers import RULES, make_plan, sample
from retrodict.samplers.card import gaussian_card
from retrodict.samplers.general import DENSE_RULES, DenseGaussian, dense_law, dense_plan, dense_sample
from retrodict.samplers.plan import make_grid

EXACT = {"atol": 1e-10, "rtol": 1e-10}
PAIRS = list(itertools.combinations([0.0, *TIMES.tolist()], 2))
SIDE = 4
N = SIDE**2


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(n, seed=0, low=0.2):
    a = normal(n, n, seed=seed)
    return a @ a.T / n + low * torch.eye(n, dtype=torch.float64)


def stable(n, seed):
    """A drift that pulls to 0 in every direction, and rotates."""
    a, skew = covariance(n, seed), normal(n, n, seed=seed + 1)
    return -a + 0.5 * (skew - skew.T)


MILD = {"whitened": {"width": 0.4}, "ihdm": {"blur_max": 1.0}, "soft": {"blur": 1.0},
        "matern": {"smoothness": 1.2, "length": 1.0}}  # fmt: skip
"""Options with which matrices can be inverted to 1e-10: by default gains or noise vanish on some frequencies."""


ERASING = ("wavelet_cascade", "wavelet_subspace")
"""Processes that lose whole bands: their H has no inverse, which the matrices here need (see tests/test_wavelet.py)."""


@pytest.fixture(params=[name for name in PROCESSES if name not in ERASING], name="process")
def _process(request):
    return (
        PROCESSES[name](Fourier((SIDE, SIDE)), **MILD[name])
        if (name := request.param) in MILD
        else make_process(name, (SIDE, SIDE))
    )


def columns(x):
    """Images `(n, 1, *N)`, one for each unit image, as the columns of a matrix."""
    return x.reshape(len(x), -1).T


def matrix(basis, table):
    """B^-1 diag(table) B."""
    n = math.prod(basis.size)
    unit = torch.eye(n, dtype=torch.float64).reshape(n, 1, *basis.size)
    return columns(basis.inverse(table * basis.forward(unit)))


def at(*times):
    return torch.tensor(times, dtype=torch.float64)


# ---- every process of the table ----------------------------------------------------------------------------------


def test_marginals_are_those_of_the_matrices(process):
    """H, K and Sigma from the images of unit images, and Sigma as the mean square of coloured noise."""
    dense, unit = DenseProcess.of(process), torch.eye(N, dtype=torch.float64).reshape(N, 1, SIDE, SIDE)
    nothing = torch.zeros_like(unit)
    for t in [0.0, *TIMES.tolist()]:
        m, time = dense.moments(t), at(t).expand(N)
        assert torch.allclose(columns(process.corrupt(unit, time, nothing)), m.H, **EXACT)
        pulled = process.to_image(torch.zeros_like(process.basis.forward(unit)), time, unit)
        assert torch.allclose(columns(pulled), m.K, **EXACT)
        root = columns(process.corrupt(nothing, time, unit))
        assert torch.allclose(root @ root.T, m.S, **EXACT)


def test_conditionals_are_those_of_the_joint_law(process):
    """Brute force at every pair of times: the joint law of (x_s, x_t) given x_0, built forwards, conditioned by the
    inverse of a block; and the members of the family that are less noisy.
    """
    dense, basis = DenseProcess.of(process), process.basis
    for s, t in PAIRS:
        ms, mt = dense.moments(s), dense.moments(t)
        together = ms.S @ dense._gain(s, t).T  # A_t A_s^-1: noise at s that is left at t
        exact = together @ inverse_of(mt.S)
        for eta in (0.0, 0.3, 1.0):
            numbers, matrices = process.conditional(at(t), at(s), eta), dense.conditional(t, s, eta)
            keep, data, left = (matrix(basis, table) for table in (numbers[0], numbers[1], numbers[2] ** 2))
            assert torch.allclose(matrices[0] @ mt.S, keep @ mt.S, **EXACT)
            assert torch.allclose(matrices[2], left, **EXACT)
            assert torch.allclose(keep @ mt.S @ keep.T + left, ms.S, **EXACT)
            assert torch.allclose(keep @ mt.H + data, ms.H, **EXACT)
            assert torch.allclose(matrices[0] @ mt.H + matrices[1], ms.H, **EXACT)
        assert torch.allclose(keep @ mt.S, together, **EXACT)
        assert torch.allclose(left, ms.S - exact @ together.T, **EXACT)


def test_two_time_laws_are_those_of_the_matrices(process):
    """Of Gaussian data: Cov(x_s, x_t) of a chain that goes forwards by `transition`, all pairs of times."""
    if process.memory is not None:
        pytest.skip("its forward step is not a function of the state alone")
    dense, prior = DenseProcess.of(process), covariance(N)
    for s, t in PAIRS:
        gain, step = (matrix(process.basis, table) for table in process.transition(at(s), at(t)))
        ms, mt = dense.moments(s), dense.moments(t)
        law = ms.H @ prior @ ms.H.T + ms.S
        assert torch.allclose(gain @ law @ gain.T + step, mt.H @ prior @ mt.H.T + mt.S, **EXACT)
        assert torch.allclose(gain @ law, mt.H @ prior @ ms.H.T + dense._gain(s, t) @ ms.S, **EXACT)


def test_rates_are_those_of_the_matrices(process):
    dense = DenseProcess.of(process)
    for t in TIMES[:3].tolist():
        rates, own = dense.rates(t), process.rates(at(t))
        assert torch.allclose(rates.F, matrix(process.basis, own.F), atol=1e-8, rtol=1e-8)
        assert torch.allclose(rates.GG, matrix(process.basis, own.G2), atol=1e-8, rtol=1e-8)


def test_the_posterior_of_gaussian_data_is_that_of_the_matrices(process):
    process = Process(process.family, process.basis, memory=process.memory)
    dense, basis, real = DenseProcess.of(process), process.basis, {"dtype": torch.float64}
    spectrum = Spectrum.power_law(0.3, 4.0, 0.1, 2.0)
    prior, x = matrix(basis, spectrum.on(basis)), normal(3, 1, SIDE, SIDE)
    condition = Cond(image=torch.zeros_like(x)) if process.anchored else Cond()
    for t in TIMES.tolist():
        found = GaussianDenoiser(process, spectrum=spectrum).estimate(x, at(t).expand(3), condition)
        mean, left = dense.posterior(torch.full((N,), 0.3, **real), prior, x.reshape(3, N), t)
        assert torch.allclose(found.mean.reshape(3, N), mean, **EXACT)
        assert torch.allclose(matrix(basis, found.spread.v[:1]), left, **EXACT)


@pytest.mark.parametrize("rule", ["matched", "ancestral", "ddim"])
def test_the_loop_of_the_package_is_that_of_the_matrices(process, rule):
    """The Gaussian card of a plan of numbers against the recursion of a plan of matrices."""
    process = Process(process.family, process.basis)
    variance = Spectrum.power_law(0.0, 4.0, 0.1, 2.0).on(process.basis)
    times, dense = make_grid(process, 4), DenseProcess.of(process)
    found = gaussian_card(make_plan(rule, process, times, variance), variance)
    denoiser = DenseGaussian(dense, torch.zeros(N, dtype=torch.float64), matrix(process.basis, variance))
    law, end = dense_law(denoiser, dense_plan(dense, times, rule)), dense.moments(1.0)
    total = end.H @ denoiser.covariance @ end.H.T + end.S
    assert torch.allclose(law.start @ total, matrix(process.basis, found.start) @ total, **EXACT)
    assert torch.allclose(law.covariance, matrix(process.basis, found.variance), **EXACT)


# ---- operators that do not commute ---------------------------------------------------------------------------------


@pytest.fixture(name="general", scope="module")
def _general():
    return DenseProcess.linear(stable(16, 3), covariance(16, 5))


def test_the_diffusion_of_a_general_process_is_recovered_and_the_printed_form_fails(general):
    """T17: dx = M x dt + Q^(1/2) dw; Sigma' - F Sigma - Sigma F^T = Q, and Sigma' - 2 F Sigma is not even symmetric."""
    for t in (0.2, 0.7, 1.0):
        rates = general.rates(t)
        assert torch.allclose(rates.GG, covariance(16, 5), atol=1e-8)
        assert torch.allclose(rates.F, stable(16, 3), atol=1e-8)
        s = general.moments(t).S
        printed = rates.GG + s @ rates.F.T - rates.F @ s  # Sigma' - 2 F Sigma
        assert float((printed - covariance(16, 5)).abs().max()) > 0.3
    slope = (general.clock(0.5 + 1e-4) - general.clock(0.5 - 1e-4)) / 2e-4
    h = general.moments(0.5).H
    assert torch.allclose(h @ slope @ h.T, covariance(16, 5), atol=1e-6)


def test_general_transitions_compose_and_conditionals_are_those_of_the_joint_law(general):
    (h1, v1), (h2, v2), (h3, v3) = (general.transition(*p) for p in ((0.2, 0.5), (0.5, 0.9), (0.2, 0.9)))
    assert torch.allclose(h2 @ h1, h3, **EXACT)
    assert torch.allclose(h2 @ v1 @ h2.T + v2, v3, **EXACT)
    keep, data, left = general.conditional(0.9, 0.2)
    ms, mt = general.moments(0.2), general.moments(0.9)
    joint = torch.cat([torch.cat([ms.S, ms.S @ h3.T], 1), torch.cat([h3 @ ms.S, mt.S], 1)])
    precision = torch.linalg.inv(joint)[:16, :16]
    assert torch.allclose(torch.linalg.inv(precision), left, **EXACT)
    assert torch.allclose(keep, ms.S @ h3.T @ torch.linalg.inv(mt.S), **EXACT)
    assert torch.allclose(keep @ mt.H + data, ms.H, **EXACT)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_every_member_of_the_general_family_keeps_the_marginals(general, eta):
    keep, data, left = general.conditional(0.8, 0.3, eta)
    ms, mt = general.moments(0.3), general.moments(0.8)
    assert torch.allclose(keep @ mt.S @ keep.T + left, ms.S, **EXACT)
    assert torch.allclose(keep @ mt.H + data, ms.H, **EXACT)


def test_the_deterministic_member_tends_to_the_probability_flow(general):
    """keep = 1 - d (F + G G^T Sigma^-1 / 2) to second order in the step d, for operators that do not commute too."""
    rates, s = general.rates(0.6), general.moments(0.6).S
    flow = rates.F + 0.5 * rates.GG @ torch.linalg.inv(s)
    away = [
        float((general.conditional(0.6, 0.6 - d, 0.0)[0] - torch.eye(16).double() + d * flow).abs().max())
        for d in (1e-2, 1e-3)
    ]
    assert away[0] / away[1] == pytest.approx(100, rel=0.1)


def test_the_general_sampler_is_exact_at_any_number_of_steps(general):
    """Mean and covariance of `matched` from a fixed x_1 are those of the posterior."""
    mean, prior = normal(16, seed=8), 2 * covariance(16, 9)
    denoiser = DenseGaussian(general, mean, prior)
    gain, left = general.update(prior, 1.0)
    for times in ([1.0, 0.0], [1.0, 0.3, 0.0], [1.0, 0.9, 0.5, 0.2, 0.0]):
        law = dense_law(denoiser, dense_plan(general, times))
        assert torch.allclose(law.start, gain, **EXACT)
        assert torch.allclose(law.covariance, left, **EXACT)
        assert torch.allclose(law.offset, mean - gain @ general.moments(1.0).H @ mean, **EXACT)
    law = dense_law(denoiser, dense_plan(general, [1.0, 0.5, 0.0], "ancestral"))
    assert float(torch.trace(law.covariance) / torch.trace(left)) < 0.9  # x_0 set to its mean: too narrow


@pytest.mark.parametrize(("rule", "order"), [("euler", 1), ("flow", 1), ("ddim", 1)])
def test_the_general_equations_lead_from_the_terminal_law_to_the_data(general, rule, order):
    """T8: the total covariance of what comes out tends to that of the data, halving its error with the step."""
    prior = 2 * covariance(16, 9)
    denoiser, end = DenseGaussian(general, torch.zeros(16).double(), prior), general.moments(1.0)
    total, away = end.H @ prior @ end.H.T + end.S, []
    for steps in (50, 100):
        times = torch.linspace(1.0, 0.02, steps + 1).double()
        law = dense_law(denoiser, dense_plan(general, times, rule))
        m = general.moments(0.02)
        found = law.start @ total @ law.start.T + law.covariance
        away.append(float((found - m.H @ prior @ m.H.T - m.S).abs().max()))
    assert away[1] < 0.4
    assert away[0] / away[1] == pytest.approx(2**order, rel=0.25)


def test_what_is_sampled_has_the_law_that_the_recursion_says(general):
    prior = 2 * covariance(16, 9)
    denoiser, plan = DenseGaussian(general, normal(16), prior), dense_plan(general, [1.0, 0.5, 0.0])
    law = dense_law(denoiser, plan)
    start = normal(1, 16, seed=4).expand(4000, 16)
    x = dense_sample(denoiser, plan, start, torch.arange(4000))
    deviation = torch.diagonal(law.covariance).sqrt()
    assert float(((x.mean(0) - law.start @ start[0] - law.offset) / deviation).abs().max()) < 4 / math.sqrt(4000)
    assert torch.allclose(x.var(0), deviation**2, rtol=5 * math.sqrt(2 / 4000))
    alone = dense_sample(denoiser, plan, start[:1], torch.arange(1))
    assert torch.equal(alone, x[:1])


def test_a_general_process_that_is_not_markov_is_noticed():
    """H = 1 - 0.1 t, Sigma = 0.2 t (1.2 - t) in one direction of a turned basis (T15): the flow is defined, no more."""
    turn = torch.linalg.qr(normal(3, 3))[0]

    def law(t):
        h = torch.stack([1 - 0.1 * t, 1 - 0.5 * t, 1 - 0.2 * t])
        s = torch.stack([0.2 * t * (1.2 - t), t, t])
        return turn @ torch.diag(h) @ turn.T, torch.zeros_like(turn), turn @ torch.diag(s) @ turn.T

    process = DenseProcess(law, (3,))
    assert not process.markov
    assert process.first_decrease[0] == pytest.approx(0.63, abs=0.05)
    with pytest.raises(InputError, match="no covariance"):
        dense_plan(process, [1.0, 0.0])
    assert len(dense_plan(process, [1.0, 0.5, 0.0], "ddim")) == 2
    prior = covariance(3)
    plan = dense_plan(process, torch.linspace(1, 0.01, 200).double(), "ddim")
    law_of_run = dense_law(DenseGaussian(process, torch.zeros(3).double(), prior), plan)
    end, m = process.moments(1.0), process.moments(0.01)
    found = law_of_run.start @ (end.H @ prior @ end.H.T + end.S) @ law_of_run.start.T
    assert torch.allclose(found, m.H @ prior @ m.H.T + m.S, atol=5e-3)


def test_independent_increments_have_a_memory_of_matrices():
    """A = 1 (residual spec 1.6): keep = Sigma_s Sigma_t^-1, whatever H."""
    base = DenseProcess.linear(stable(5, 1), covariance(5, 2))
    process = DenseProcess(base.law, base.size, lambda t: torch.eye(5, dtype=torch.float64))
    keep, _, left = process.conditional(0.8, 0.3)
    ms, mt = process.moments(0.3), process.moments(0.8)
    assert torch.allclose(keep, ms.S @ torch.linalg.inv(mt.S), **EXACT)
    assert torch.allclose(left, ms.S - ms.S @ torch.linalg.inv(mt.S) @ ms.S, **EXACT)


# ---- complex responses ---------------------------------------------------------------------------------------------


def motion(basis):
    """Transform of a blur along five pixels to one side of the centre, off the axes: not symmetric, no zeros."""
    x = torch.zeros(1, 1, *basis.size, dtype=torch.float64)
    for weight, place in zip((0.5, 0.25, 0.15, 0.1), ((0, 0), (0, 1), (1, 1), (1, 2)), strict=True):
        x[(0, 0, *place)] = weight
    return basis.forward(x)[0, 0] * math.sqrt(math.prod(basis.size))


def test_the_conditional_of_a_complex_gain_is_the_dense_one():
    """T16: H(t) = (1 - a) + a H_y with a motion blur on 8 x 8; c = conj(H_t/H_s) Sigma_s / Sigma_t and its phase."""
    basis = Fourier((8, 8))
    response = motion(basis)
    noise = 0.2 + basis.radius()
    one, end, power = (matrix(basis, x) for x in (torch.ones_like(response), response, noise))
    process = DenseProcess(lambda t: ((1 - t) * one + t * end, torch.zeros_like(one), t * power), (8, 8))
    hs, ht = 1 - 0.4 + 0.4 * response, 1 - 0.9 + 0.9 * response
    step, vs, vt = ht / hs, 0.4 * noise, 0.9 * noise
    gain = step.conj() * vs / vt
    left = vs - gain.abs() ** 2 * vt
    keep, data, covariance_left = process.conditional(0.9, 0.4)
    assert torch.allclose(keep, matrix(basis, gain), **EXACT)
    assert torch.allclose(data, matrix(basis, hs - gain * ht), **EXACT)
    assert torch.allclose(covariance_left, matrix(basis, left), **EXACT)
    for eta in (0.0, 0.5):
        phased = ((vs - eta**2 * left) / vt).sqrt() * step.conj() / step.abs()
        assert torch.allclose(process.conditional(0.9, 0.4, eta)[0], matrix(basis, phased), **EXACT)


def test_a_measurement_with_phases_is_one_with_real_gains():
    """The Kalman posterior of a motion blur on 8 x 8 by matrices, and by `wiener` of the turned measurement."""
    basis = Fourier((8, 8))
    response, noise = motion(basis), 0.2 + basis.radius()
    variance = Spectrum.power_law(0.0, 4.0, 0.1, 2.0).on(basis)
    h, s, prior = (matrix(basis, x) for x in (response, noise, variance))
    y = normal(1, 1, 8, 8)
    gain = prior @ h.T @ torch.linalg.inv(h @ prior @ h.T + s)
    turned, modulus = dephased(y, response, basis)
    own, left = wiener(Moments(modulus, 0 * noise, noise), variance)
    assert torch.allclose(basis.inverse(own * basis.forward(turned)).reshape(-1), gain @ y.reshape(-1), **EXACT)
    assert torch.allclose(matrix(basis, left), prior - gain @ h @ prior, **EXACT)
    with pytest.raises(InputError, match="no real blur"):
        dephased(y, 1j * response, basis)
    with pytest.raises(InputError, match="one for every frequency"):
        dephased(y, response[:3], basis)


# ---- a common basis --------------------------------------------------------------------------------------------------


def commuting(n=12, seed=2):
    """Symmetric operators with common eigenvectors that are those of no named basis."""
    turn = torch.linalg.qr(normal(n, n, seed=seed))[0]
    fall, rise = torch.linspace(0.2, 3, n).double(), torch.linspace(0.5, 1.5, n).double()

    def law(t):
        h, s = torch.exp(-fall * t), rise * t**2
        return turn.T @ torch.diag(h) @ turn, torch.zeros_like(turn), turn.T @ torch.diag(s) @ turn

    return DenseProcess(law, (3, 4)), turn


@pytest.mark.parametrize("rule", RULES)
def test_operators_that_commute_run_on_the_loop_of_the_package(rule):
    """Every rule, from the measurement: the exact ones hit the dense posterior; the card says what the loop does."""
    dense, _ = commuting()
    process = dense.diagonal(conditioning="terminal")
    assert isinstance(process.basis, Orthonormal)
    for t in (0.0, 0.3, 1.0):
        for a, b in zip(dense.moments(t), DenseProcess.of(process).moments(t), strict=True):
            assert torch.allclose(a, b, **EXACT)
    spectrum = torch.linspace(1, 4, 12).double().reshape(3, 4)
    plan = make_plan(rule, process, make_grid(process, 6, RULES[rule].grid, spectrum=spectrum), spectrum)
    found = gaussian_card(plan, spectrum)
    prior = process.basis.matrix.T @ torch.diag(spectrum.reshape(-1)) @ process.basis.matrix
    gain, left = dense.update(prior, 1.0)
    if RULES[rule].exact and not RULES[rule].deterministic:
        turn = process.basis.matrix
        assert torch.allclose(turn.T @ torch.diag(found.start.reshape(-1)) @ turn, gain, **EXACT)
        assert torch.allclose(turn.T @ torch.diag(found.variance.reshape(-1)) @ turn, left, **EXACT)
    y = normal(2, 1, 3, 4)
    seeds = torch.arange(2)
    run = sample(GaussianDenoiser(process, 0.0, spectrum), plan, process.start(y, y), seeds=seeds)
    if RULES[rule].deterministic:
        assert torch.allclose(process.basis.forward(run.x), found.start * process.basis.forward(y), **EXACT)
    assert run.x.shape == y.shape


def test_operators_that_do_not_commute_have_no_common_basis(general):
    with pytest.raises(InputError, match="no common orthonormal basis"):
        general.diagonal()


def test_a_negative_gain_has_no_rule():
    with pytest.raises(InputError, match="eigenvalue of H"):
        DenseProcess(lambda t: ((1 - 2 * t) * torch.eye(3).double(), torch.zeros(3, 3).double(),
                                t * torch.eye(3).double()), (3,)).diagonal()  # fmt: skip


def test_a_basis_of_a_matrix_refuses_what_is_none():
    with pytest.raises(InputError, match="orthonormal to"):
        Orthonormal.of(torch.ones(4, 4).double(), (2, 2))
    with pytest.raises(InputError, match=r"real one \(4, 4\)"):
        Orthonormal.of(torch.eye(3).double(), (2, 2))
    with pytest.raises(InputError, match="Build it with"):
        Orthonormal((2, 2))
    basis = Orthonormal.of(torch.eye(4).double(), (2, 2))
    assert basis == Orthonormal.of(torch.eye(4).double(), (2, 2)) != Orthonormal.of(-torch.eye(4).double(), (2, 2))
    with pytest.raises(InputError, match="the grid of the matrix"):
        basis.on((4, 4))


def test_stationary_data_have_their_variance_in_a_basis_of_a_matrix():
    """Diagonal of Q C Q^T, C the circulant covariance of the spectrum."""
    basis, partner = Orthonormal.of(torch.linalg.qr(normal(20, 20))[0], (4, 5)), Fourier((4, 5))
    spectrum = Spectrum.power_law(0.0, 9.0, 0.1, 3.0)
    c = matrix(partner, spectrum.on(partner))
    known = torch.diagonal(basis.matrix @ c @ basis.matrix.T).reshape(4, 5)
    assert torch.allclose(spectrum.on(basis), known, rtol=1e-12)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_bad_input_is_one_clear_error(general):
    with pytest.raises(InputError, match="real images"):
        DenseProcess.of(vp(Fourier((4, 4), complex=True)))
    with pytest.raises(InputError, match="that fall"):
        dense_plan(general, [0.2, 0.5])
    with pytest.raises(InputError, match="Did you mean 'euler'"):
        dense_plan(general, [1.0, 0.0], "eulr")
    plan = dense_plan(general, [1.0, 0.0])
    with pytest.raises(InputError, match="covariance of its error"):
        dense_sample(lambda w, t: (w, None), plan, normal(1, 16), torch.arange(1))
    with pytest.raises(InputError, match="a state for every seed"):
        dense_sample(lambda w, t: (w, None), plan, normal(2, 16), torch.arange(1))
    erased = DenseProcess(lambda t: ((1 - t) * torch.eye(2).double(), torch.zeros(2, 2).double(),
                                     t**2 * torch.eye(2).double()), (2,))  # fmt: skip
    with pytest.raises(InputError, match="matched, ancestral or ddim"):
        erased.rates(1.0)
    assert len(dense_plan(erased, [1.0, 0.5, 0.0])) == 2
    assert set(DENSE_RULES) == {"matched", "ancestral", "ddim", "euler", "flow"}


def test_roots_and_inverses_leave_silent_directions_alone():
    a = torch.diag(at(4.0, 0.0, 1.0))
    assert torch.allclose(root_of(a), torch.diag(at(2.0, 0.0, 1.0)), atol=1e-14)
    assert torch.allclose(inverse_of(a), torch.diag(at(0.25, 0.0, 1.0)), atol=1e-14)


def test_noise_of_a_run_is_keyed_by_its_seed():
    assert torch.equal(noise_like(torch.zeros(1, 4), at(3).long(), "step", 0)[0],
                       noise_like(torch.zeros(2, 4), at(1, 3).long(), "step", 0)[1])  # fmt: skip


def test_pixels_of_one_scalar_process_are_a_multiple_of_the_identity():
    dense = DenseProcess.of(vp(Pixel((3,))))
    h = dense.moments(0.5).H
    assert torch.allclose(h, float(h[0, 0]) * torch.eye(3).double(), atol=1e-15)
