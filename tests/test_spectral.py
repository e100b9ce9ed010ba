"""Blurring, inverse heat, soft diffusion, band noise, shortest path, Matern (structured specification, section 4)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from retrodict import PROCESSES, InputError, path_lengths
from retrodict.bases import Cosine, Fourier, Pixel, Stack, Wavelet
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.processes.blurring import blurring, ihdm, soft
from retrodict.processes.observation import Moments, clock
from retrodict.processes.process import Process
from retrodict.processes.recipes import process_from_recipe, process_to_recipe
from retrodict.processes.scalar import vp
from retrodict.processes.spectral import band_noise, matern, shortest_path
from retrodict.samplers import make_plan, sample, start_state
from retrodict.samplers.card import gaussian_card
from retrodict.samplers.plan import make_grid
from retrodict.training.losses import WEIGHTS

SPECTRUM = Spectrum.power_law(0.5, 40.0, 0.03, 3.0)


def at(*times):
    return torch.tensor(times, dtype=torch.float64)


def near(got, expected, rtol=1e-10, atol=1e-12):
    got = torch.as_tensor(got, dtype=torch.float64)
    return torch.allclose(got, torch.as_tensor(expected, dtype=torch.float64), rtol=rtol, atol=atol)


# ---- every pair of times against dense matrices ----------------------------------------------------------------------


def transform(kind, n):
    """Dense orthonormal (unitary) transform of n pixels of 1 mm, and |f|, written without the package."""
    k, i = torch.arange(n).double()[:, None], torch.arange(n).double()[None]
    if kind == "cosine":
        rows = torch.cos(math.pi * k * (2 * i + 1) / (2 * n)) * math.sqrt(2 / n)
        rows[0] /= math.sqrt(2)
        return rows.to(torch.complex128), k[:, 0] / (2 * n)
    rows = torch.polar(torch.full((n, n), 1 / math.sqrt(n), dtype=torch.float64), -2 * math.pi * k * i / n)
    return rows, torch.fft.fftfreq(n, dtype=torch.float64).abs()


def plane(kind, shape):
    """The transform of a 1-D or 2-D grid with pixels in a row, and |f|."""
    parts = [transform(kind, n) for n in shape]
    matrix, f2 = parts[0][0], parts[0][1] ** 2
    for other, f in parts[1:]:
        matrix, f2 = torch.kron(matrix, other), (f2[:, None] + f**2).flatten()
    return matrix, f2.sqrt()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_hand(name, f, t):
    """Gain and variance at frequencies f, in the words of the papers."""
    w2 = (2 * math.pi * f) ** 2
    if name == "blurring":
        a, b = math.atan(math.exp(-5)), math.atan(math.exp(5)) - math.atan(math.exp(-5))
        log_snr = -2 * math.log(math.tan(b * t + a))
        kept = 0.999 * torch.exp(-w2 * (1.5 * math.sin(math.pi * t / 2) ** 2) ** 2 / 2) + 0.001
        return math.sqrt(sigmoid(log_snr)) * kept, sigmoid(-log_snr) + 0 * f
    if name == "ihdm":
        width = 0.5 * 10 * t if t < 0.1 else 0.5 * 2 ** ((10 * t - 1) / 9)
        return torch.exp(-w2 * width**2 / 2), 0.1**2 + 0 * f
    if name == "soft":
        return torch.exp(-w2 * (0.8 * t) ** 2 / 2), (0.4 * t) ** 2 + 0 * f
    if name == "shortest_path":
        power = 4 / (0.5 + f * 8) ** 1.5
        kept = (power ** (1 - t) - 1) / (power - 1)
        return kept.sqrt(), 1 - kept
    a2 = math.exp(-(0.1 * t + 0.5 * (2 - 0.1) * t**2))
    if name == "band_noise":
        return math.sqrt(a2) + 0 * f, (1 - a2) * (2 * f).clamp_min(0.05) ** -1
    raise AssertionError(name)


SMALL = {
    "blurring": {"blur": 1.5},
    "ihdm": {"noise": 0.1, "blur_max": 1.0, "levels": 10},
    "soft": {"blur": 0.8, "noise": 0.4},
    "shortest_path": {"c1": 4.0, "c2": 0.5, "m": 1.5, "extent": 8.0},
    "band_noise": {"normalised": False, "beta_max": 2.0},
}
CASES = [(name, chain) for name in SMALL for chain in ("markov", "momentum", "independent")]
CASES = [(name, chain) for name, chain in CASES if chain == "markov" or name in ("ihdm", "soft")]


@pytest.mark.parametrize("basis", [Cosine((6,)), Cosine((4, 4)), Fourier((5,)), Fourier((4, 4))])
@pytest.mark.parametrize(("name", "chain"), CASES)
def test_marginals_and_conditionals_are_those_of_dense_matrices(name, chain, basis):
    """The joint law of x_s and x_t given x_0, conditioned as two Gaussian vectors."""
    options = SMALL[name] if chain == "markov" else {**SMALL[name], "chain": chain}
    process = PROCESSES[name](basis, **options)
    matrix, f = plane("cosine" if isinstance(basis, Cosine) else "fourier", basis.size)
    n = math.prod(basis.size)
    eye = torch.eye(n, dtype=torch.float64).reshape(n, *basis.size)

    def dense(values):
        return (matrix.conj().T @ (values[:, None] * matrix)).real

    def ours(weights):
        return basis.inverse(weights[0, 0] * basis.forward(eye)).reshape(n, n).T

    for s, t in ((0.0, 0.3), (0.3, 0.7), (0.2, 1.0), (0.0, 1.0), (0.99, 1.0), (0.5, 0.5001)):
        (hs, vs), (ht, vt) = ((dense(x) for x in by_hand(name, f, time)) for time in (s, t))
        for time, h, v in ((s, hs, vs), (t, ht, vt)):
            m = process.moments(at(time))
            assert near(ours(m.h), h)
            assert near(ours(m.s2.expand(1, 1, *basis.shape)), v)
        if chain == "markov":
            together = ht @ torch.linalg.inv(hs) @ vs
        else:
            together = vs if chain == "momentum" else 0 * vs
        gain = torch.linalg.lstsq(vt, together).solution.T  # Cov(x_s, x_t) Sigma_t^-1
        keep, data, std = process.conditional(at(t), at(s))
        assert near(ours(keep), gain, atol=1e-10)
        assert near(ours(data), hs - gain @ ht, atol=1e-10)
        assert near(ours((std**2).expand(1, 1, *basis.shape)), vs - gain @ together, atol=1e-10)


# ---- blurring --------------------------------------------------------------------------------------------------------


def test_golden_numbers_of_blurring_diffusion():
    """t = 0.5, 64 pixels, blur 20: d and h at n = 0, 1, 2, 4, 8, 63, s^2 = 1/2."""
    m = blurring(Cosine((64,))).moments(at(0.5))
    h = m.h[0, 0, [0, 1, 2, 4, 8, 63]]
    assert near(h, [0.7071067812, 0.6269276528, 0.4369795469, 0.1034802513, 0.0010236020, 0.00070711], 0, 5e-9)
    assert near(h / math.sqrt(0.5), [1, 0.8866095892, 0.6179824018, 0.1463431748, 0.0014475918, 0.001], 0, 1e-10)
    assert near(m.s2, 0.5)


def test_the_step_of_blurring_diffusion_is_the_conditional():
    """Its published posterior step, with the clip of 1e-8."""
    process, (t, s), clip = blurring(Cosine((16,)), blur=3.0), (at(0.6), at(0.55)), 1e-8
    mt, ms = process.moments(t), process.moments(s)
    gain, added = process.transition(s, t)
    v = 1 / (1 / ms.s2.clamp_min(clip) + 1 / (mt.s2 / gain**2 - ms.s2).clamp_min(clip))
    state, of_eps = gain * v / (added + clip), v / (gain * ms.s2.clamp_min(clip))
    # mean = state u_t + of_eps (u_t - sigma_t eps), where u_t - sigma_t eps = h_t u_0
    keep, data, std = process.conditional(t, s)
    assert near(std**2, v, 1e-5)
    assert near(keep, state, 1e-5)
    assert near(data, of_eps * mt.h, 1e-5, 1e-7)


# ---- inverse heat and soft diffusion ---------------------------------------------------------------------------------


def test_the_levels_of_inverse_heat_dissipation_are_the_published_ones():
    process, widths = ihdm(Cosine((32,))), torch.logspace(math.log10(0.5), math.log10(24), 200, dtype=torch.float64)
    waves = (math.pi * torch.arange(32).double() / 32) ** 2
    for k in (1, 2, 57, 200):
        m = process.moments(at(k / 200))
        assert near(m.h[0, 0], torch.exp(-waves * widths[k - 1] ** 2 / 2), 1e-9)
        assert near(m.s2, 1e-4)
    assert near(process.moments(at(0.0)).h, torch.ones(32))


def test_the_diffusion_of_inverse_heat_leaves_the_mean_alone():
    """G^2 = (2 pi f)^2 noise^2 d(sigma_B^2)/dt, zero at f = 0, where nothing diffuses."""
    process = ihdm(Cosine((8,)), noise=0.1, blur_max=2.0)
    waves = (math.pi * torch.arange(8).double() / 8) ** 2
    width, rate = 0.5 * 4 ** (99 / 199), math.log(4) * 200 / 199
    g2 = process.rates(at(0.5)).G2[0, 0]
    assert near(g2, waves * 0.01 * 2 * width**2 * rate)
    assert float(g2[0]) == 0
    assert process.markov


def test_generation_by_inverse_heat_starts_at_the_gaussian_law_of_blurred_images():
    process = ihdm(Fourier((16, 16)), blur_max=4.0)
    L, mean, basis = SPECTRUM.on(process.basis), SPECTRUM.mean_on(process.basis), process.basis
    z = torch.randn(4000, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blurred = process.corrupt(basis.inverse(mean + L.sqrt() * basis.forward(z)), at(1.0), z.flip(0))
    began = basis.inverse(process.start(z.roll(1, 0), None, mean, L))
    assert abs(float(began.mean() - blurred.mean())) < 0.06
    assert float(began.var() / blurred.var()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("make", "chain"), [(m, c) for m in (ihdm, soft) for c in ("momentum", "independent")])
def test_chains_of_other_memories_are_the_samplers_of_the_papers(make, chain):
    """Momentum: keep = s_s^2/s_t^2 with its rest; naive: keep = 0, h_s x_0 + s_s z."""
    process, (t, s) = make(Fourier((4, 4)), chain=chain), (at(0.8), at(0.5))
    mt, ms = process.moments(t), process.moments(s)
    keep, data, std = process.conditional(t, s)
    c = ms.s2 / mt.s2 if chain == "momentum" else 0 * ms.s2
    assert near(keep, c.expand_as(keep))
    assert near(data, ms.h - c * mt.h)
    assert near(std**2, (ms.s2 - c**2 * mt.s2).expand_as(std))


def test_soft_score_matching_weighs_the_error_as_the_state_sees_it():
    process, error = soft(Cosine((5, 4))), torch.randn(1, 1, 5, 4, dtype=torch.float64)
    m = process.moments(at(0.3))
    seen = process.basis.inverse(m.h * process.basis.forward(error))  # C_t (D - x_0)
    weight = WEIGHTS["soft"](m, process.rates(at(0.3)).G2)
    assert near((weight * process.basis.forward(error) ** 2).sum(), (seen**2).sum())


def test_gains_whose_square_is_no_number_are_erased():
    tiny = Moments(at(1e-170), at(0.0), at(0.5))
    assert float(clock(tiny)) == math.inf
    assert ihdm(Fourier((64, 64))).markov
    assert soft(Fourier((64, 64)), blur=40.0).markov
    assert not Process(lambda basis: lambda t: (torch.exp(-900 * (1 - t)), 0 * t, 1 + 0 * t), Pixel((2,))).markov


# ---- band noise ------------------------------------------------------------------------------------------------------


def test_white_band_noise_is_vp():
    a, b = band_noise(Fourier((8, 8)), exponent=0.0).moments(at(0.2, 1.0)), vp(Fourier((8, 8))).moments(at(0.2, 1.0))
    assert near(a.s2, b.s2.expand_as(a.s2), 1e-14)
    assert torch.equal(a.h, b.h)


@pytest.mark.parametrize(
    "options",
    [{}, {"exponent": 1.0}, {"decay": 2.0}, {"bands": [[0, 0.3, 1.0], [0.5, 2, 0.2]]}, {"spectrum": SPECTRUM}],
)
def test_band_noise_has_the_power_of_white_noise_and_one_law_on_every_grid(options):
    basis = Fourier((64, 64), (0.7, 0.7))
    process, weight, white = band_noise(basis, **options), basis.multiplicity(), vp(basis)
    ratio = process.moments(at(0.5)).s2 / white.moments(at(0.5)).s2
    assert near((weight * ratio).sum() / weight.sum(), 1.0, 1e-12)
    small = process.on((32, 32))  # every second frequency of 64 pixels
    assert near(small.moments(at(0.5)).s2[0, 0, 1:16, 1:16], process.moments(at(0.5)).s2[0, 0, 2:32:2, 2:32:2])
    again = process_from_recipe(process_to_recipe(process), (64, 64), (0.7, 0.7), "test")
    assert torch.equal(again.moments(at(0.5)).s2, process.moments(at(0.5)).s2)


def test_noise_with_the_spectrum_of_the_data_has_one_signal_to_noise_ratio():
    basis = Fourier((16, 16))
    snr = SPECTRUM.on(basis) / band_noise(basis, spectrum=SPECTRUM).clock(at(0.4))
    assert near(snr, torch.full_like(snr, float(snr.mean())))


def test_a_masked_band_is_left_out_of_what_is_generated():
    """From N(0, s^2), zero in the band, steps of any rule leave it empty; the others have the spectrum of the data."""
    basis = Fourier((16, 16))
    process = band_noise(basis, bands=[[0.0, 0.4, 1.0], [0.8, 2.0, 1.0]])
    empty = (basis.radius() * 2 >= 0.4) & (basis.radius() * 2 < 0.8)
    L, seeds = SPECTRUM.on(basis), torch.arange(200)
    plan = make_plan("matched", process, make_grid(process, 4), L)
    start = start_state(process, seeds, (1, 16, 16), dtype=torch.float64)
    power = basis.forward(sample(GaussianDenoiser(process, 0.0, L), plan, start, seeds=seeds).x).abs() ** 2
    assert float(power[..., empty].max()) < 1e-24
    weight = basis.multiplicity()
    shares = (power.mean(0)[0] * weight / L)[~empty].sum() / weight[~empty].sum()
    assert float(shares) == pytest.approx(1, abs=5 * math.sqrt(2 / (200 * float(weight[~empty].sum()))) + 1e-3)


# ---- shortest path ---------------------------------------------------------------------------------------------------


def test_golden_numbers_of_shortest_path_diffusion():
    """h^2 at 0, 1, 2, 8, 16 cycles over 32 pixels, tau = 1 - t = 0.5, 0.9, 0.1."""
    known = {
        0.5: [0.00677, 0.444, 0.614, 0.864, 0.927],
        0.1: [0.3687, 0.8787, 0.9365, 0.9886, 0.9959],
        0.9: [7.962e-5, 0.08112, 0.14674, 0.31694, 0.40094],
    }
    for t, values in known.items():
        h = shortest_path(Fourier((32,))).moments(at(t)).h[0, 0, [0, 1, 2, 8, 16]]
        assert near(h**2, values, 1.1e-3, 0)  # printed with three digits


@pytest.mark.parametrize("level", [1.0, 0.3])
def test_the_variance_on_the_shortest_path_is_a_power_of_that_of_the_data(level):
    basis = Fourier((16, 16))
    L, process = SPECTRUM.on(basis), shortest_path(basis, spectrum=SPECTRUM, level=level)
    for t in (0.0, 0.25, 0.7, 1.0):
        m = process.moments(at(t))
        assert near(m.h**2 * L + m.s2, level**2 * (L / level**2) ** (1 - t), 1e-12)
    again = process_from_recipe(process_to_recipe(process), (16, 16), (1.0, 1.0), "test")
    assert torch.equal(again.moments(at(0.3)).h, process.moments(at(0.3)).h)


def test_steps_of_the_shortest_path_are_the_published_betas():
    """beta_k = 1 - ab_k / ab_(k-1): H_D^2 = 1 - beta, Sigma_D = beta."""
    process = shortest_path(Fourier((32,)))
    s, t = at(0.4), at(0.41)
    beta = 1 - (process.moments(t).h / process.moments(s).h) ** 2
    gain, added = process.transition(s, t)
    assert near(gain**2, 1 - beta)
    assert near(added, beta, 1e-9)


def test_data_of_the_level_of_the_noise_fade_linearly():
    h = shortest_path(Fourier((4,)), spectrum=Spectrum.flat(0.0, 1.0)).moments(at(0.3)).h
    assert near(h**2, torch.full_like(h, 0.7))
    close = shortest_path(Fourier((4,)), spectrum=Spectrum.flat(0.0, 1.0 + 1e-9)).moments(at(0.3)).h
    assert near(close**2, torch.full_like(h, 0.7), 1e-8)


def test_every_deviation_from_the_shortest_path_is_longer():
    """Fisher length, against 40 smooth deviations with the same ends, and against the paths of other processes."""
    basis = Fourier((16, 16))
    L, times = SPECTRUM.on(basis), torch.linspace(1, 0, 65, dtype=torch.float64)
    found = path_lengths(shortest_path(basis, spectrum=SPECTRUM), L, times)
    assert float(found.fisher.sum()) == pytest.approx(found.fisher_shortest, rel=1e-12)
    draw = torch.Generator().manual_seed(1)
    for _ in range(40):
        waves = torch.randn(3, *basis.shape, generator=draw, dtype=torch.float64)

        def family(bound, waves=waves):
            def law(t):
                bend = sum(0.3 * w * torch.sin(math.pi * (j + 1) * t) for j, w in enumerate(waves))
                return 0 * t + 0 * L, 0 * t, L ** (1 - t) * bend.exp()

            return law

        bent = path_lengths(Process(family, basis), L, times)
        assert bent.fisher_shortest == pytest.approx(found.fisher_shortest, rel=1e-12)
        assert float(bent.fisher.sum()) > found.fisher_shortest * (1 + 1e-3)


def test_lengths_of_a_path_are_those_of_one_variance():
    """One coefficient of variance 4 that fades to 1: log 2 sqrt 2 in Fisher's metric, 1 in the image's."""
    process = Process(lambda basis: lambda t: (1 - 0.5 * t, 0 * t, 0 * t), Pixel((1,)))
    found = path_lengths(process, torch.tensor([4.0]).double(), at(1.0, 0.5, 0.0))
    assert float(found.fisher.sum()) == pytest.approx(math.sqrt(2) * math.log(2), rel=1e-12)
    assert float(found.transport.sum()) == pytest.approx(1.0, rel=1e-12)
    assert float(found.update.sum()) == pytest.approx(1.0, rel=1e-12)  # without noise the image itself moves so far
    noisy = Process(lambda basis: lambda t: (1 + 0 * t, 0 * t, t), Pixel((1,)))
    assert path_lengths(noisy, torch.tensor([4.0]).double(), at(1.0, 0.5, 0.0)).update.tolist() == pytest.approx(
        [math.sqrt(0.5)] * 2
    )
    forgetful = replace(noisy, memory=lambda basis: torch.zeros_like)
    assert path_lengths(forgetful, torch.tensor([4.0]).double(), at(1.0, 0.5)).update.tolist() == pytest.approx(
        [math.sqrt(1.5)]
    )


# ---- noise that is a function ----------------------------------------------------------------------------------------


def field(n, extent=32.0, **options):
    basis = Fourier((n, n), (extent / n, extent / n))
    return matern(basis, **options)


def covariance(process):
    """Covariance of the noise at t = 1 of a pixel and those beside it, `(*N)`."""
    basis, m = process.basis, process.moments(at(1.0))
    return basis.inverse(m.s2[0, 0].to(torch.complex128)) / math.sqrt(math.prod(basis.size))


def test_the_variance_of_a_matern_field_converges_like_the_grid_says():
    """Differences between grids of 32, 64, 128 and 256 pixels shrink by 2^(2 - 2s), to the variance that was asked."""
    values = [float(covariance(field(n, 128.0, smoothness=2.0))[0, 0]) for n in (32, 64, 128, 256)]
    a, b, c = (y - x for x, y in itertools.pairwise(values))
    assert b / a == pytest.approx(0.25, abs=0.12)
    assert c / b == pytest.approx(0.25, abs=0.03)
    left = 1 - float(vp(Pixel((1,))).moments(at(1.0)).s2)  # of the image, at t = 1
    assert values[-1] == pytest.approx(1 - left, abs=2e-3)


def test_a_matern_field_has_one_law_on_every_grid():
    """The covariance of points that 32, 64 and 128 pixels share is the same to 1e-3 of the variance."""
    coarse, middle, fine = (covariance(field(n, smoothness=3.0)) for n in (32, 64, 128))
    assert float((middle[::2, ::2] - coarse).abs().max()) < 1e-3 * float(fine[0, 0])
    assert float((fine[::4, ::4] - coarse).abs().max()) < 1e-3 * float(fine[0, 0])
    white = [vp(Fourier((n, n), (32.0 / n, 32.0 / n))) for n in (32, 64)]
    assert all(float(p.moments(at(1.0)).s2.max()) > 0.99 for p in white)  # per pixel, whatever its size


def test_the_low_frequencies_of_a_fine_field_are_the_coarse_field():
    """Cut a state of 64 pixels to the frequencies of 32: its variance is that of the process on 32."""
    fine, coarse = field(64), field(32)
    cut = fine.moments(at(0.4)).s2[0, 0, :16, :16] / 4  # values of a function: orthonormal transforms scale by 64/32
    assert near(cut, coarse.moments(at(0.4)).s2[0, 0, :16, :16])


def test_the_error_of_sampling_does_not_depend_on_the_grid():
    """Ancestral steps, 8 of them, on data that are a function: the error at a frequency is that of every grid."""
    data = replace(Spectrum.power_law(0.0, 40.0, 0.03, 4.0), volume=1.0)

    def error(process):
        L = data.on(process.basis)
        plan = make_plan("ancestral", process, make_grid(process, 8), L)
        card, m = gaussian_card(plan, L), process.moments(at(1.0))
        return ((card.variance + card.start**2 * (m.h**2 * L + m.s2)[0, 0]) / L)[1:8, 1:8]

    assert near(error(field(16)), error(field(64)))
    white = [error(vp(Fourier((n, n), (32.0 / n, 32.0 / n)))) for n in (16, 64)]
    assert float((white[0] / white[1] - 1).abs().max()) > 0.02


def test_slices_of_a_stack_have_noise_of_their_own():
    basis = Stack.of(Fourier((8, 8)), 3, 5.0)
    m = matern(basis).moments(at(0.5)).s2
    assert near(m[0, 0], matern(Fourier((8, 8))).moments(at(0.5)).s2[0, 0].expand(3, 8, 5))


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "basis", "options", "message"),
    [
        (blurring, Pixel((4,)), {}, "Fourier or Cosine"),
        (ihdm, Wavelet((8, 8), levels=1), {}, "Fourier or Cosine"),
        (soft, Stack.of(Pixel((4, 4)), 2), {}, "Fourier or Cosine"),
        (matern, Pixel((4,)), {}, "frequencies"),
        (band_noise, Pixel((4,)), {}, "frequencies"),
        (blurring, Fourier((4,)), {"blur": 0.0}, "positive"),
        (blurring, Fourier((4,)), {"floor": 1.0}, "below 1"),
        (ihdm, Fourier((4,)), {"blur_max": 0.4}, "blur_min below"),
        (ihdm, Fourier((4,)), {"chain": "momentun"}, "momentum"),
        (soft, Fourier((4,)), {"noise": -1.0}, "positive"),
        (matern, Fourier((4, 4)), {"smoothness": 1.0}, "more than 1 on 2 axes"),
        (matern, Fourier((4, 4)), {"length": 0.0}, "positive"),
        (band_noise, Fourier((4, 4)), {"decay": 1.0, "spectrum": SPECTRUM}, "one shape"),
        (band_noise, Fourier((4, 4)), {"bands": [[0.5, 0.2, 1.0]]}, "upper edge"),
        (band_noise, Fourier((4, 4)), {"bands": [[0.5, 1.0]]}, "triples"),
        (band_noise, Fourier((4, 4)), {"bands": [[3.0, 4.0, 1.0]]}, "hold a frequency"),
        (band_noise, Fourier((4, 4)), {"spectrum": {"mean": 0}}, "mean, frequency and power"),
        (shortest_path, Fourier((4, 4)), {"c1": 0.0}, "positive"),
        (shortest_path, Fourier((4, 4)), {"spectrum": Spectrum.stack([SPECTRUM] * 3)}, "one row"),
    ],
)
def test_what_is_not_a_law_is_refused(make, basis, options, message):
    with pytest.raises(InputError, match=message):
        make(basis, **options)
