"""Closed forms of the processes (structured specification, tests T1-T4, T9, T15 and golden table 2.7)."""

from __future__ import annotations

import math

import pytest
import torch

from objects import TIMES, curves, make_process
from retrodict import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.network import NetDenoiser
from retrodict.nets import UNet
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import ct_filters, fourier
from retrodict.processes.observation import Cond, Moments, fuse, wiener
from retrodict.processes.process import Process
from retrodict.processes.recipes import external, process_from_recipe, process_to_recipe
from retrodict.processes.residual import mean_reverting
from retrodict.processes.scalar import scalar, vp


class Radii(Pixel):
    """A basis with coefficients at chosen frequencies."""

    def __init__(self, *radii):
        object.__setattr__(self, "_radii", torch.tensor(radii, dtype=torch.float64))
        super().__init__((len(radii),))

    def radius(self):
        return self._radii

    def on(self, size):
        return self


@pytest.fixture(params=PROCESSES, name="process")
def _process(request):
    return make_process(request.param)


BETWEEN = torch.tensor([0.153, 0.4035, 0.7045], dtype=torch.float64)
"""Times between the nodes of tabulated schedules, where their lines have a slope."""

GOLDEN = {  # f = 0, 0.1, 0.25, 0.5, sqrt(1/2) cycles/mm, paper schedule
    "H": [1, 0.8922269049, 0.6344918594, 0.4751818193, 0.4059904037],
    "S": [0.0917915001, 0.3022001496, 0.7148237286, 0.6471702724, 0.5363664788],
    "F": [0, -0.2425190647, -1.1565964207, -2.2174809606, -2.9375721155],
    "G2": [0.0820849986, 0.4168225593, 2.2927597526, 3.4489107009, 3.6308787746],
}


def paper(*radii):
    return fourier(Radii(*radii), normalised=False)


def test_golden_table_of_the_paper_schedule():
    process = paper(0, 0.1, 0.25, 0.5, math.sqrt(0.5))
    half = torch.tensor([0.5], dtype=torch.float64)
    m, r = process.moments(half), process.rates(half)
    for got, name in ((m.h, "H"), (m.s2, "S"), (r.F, "F"), (r.G2, "G2")):
        assert torch.allclose(got[0, 0], torch.tensor(GOLDEN[name], dtype=torch.float64), atol=1e-9), name


def test_golden_transition_at_a_quarter_cycle():
    process = paper(0.25)
    s, t = (torch.tensor([x], dtype=torch.float64) for x in (0.25, 0.5))
    gain, variance = process.transition(s, t)
    keep, data, std = process.conditional(t, s)
    half = process.conditional(t, s, 0.5)
    got = [gain, variance, keep, std**2, data, half[0], half[1], half[2] ** 2]
    known = [
        0.7356320750,
        0.5189723983,
        0.3724490821,
        0.2627547111,
        0.6261965884,
        0.6437414963,
        0.4540637601,
        0.0656886778,
    ]
    assert torch.allclose(
        torch.stack([x.reshape(()) for x in got]), torch.tensor(known, dtype=torch.float64), atol=1e-9
    )
    keep, data, _ = process.conditional(t, s, 0.0)
    assert float(keep) == pytest.approx(0.7115462359, abs=1e-9)
    assert float(data) == pytest.approx(0.4110422048, abs=1e-9)


def test_noise_of_the_papers_instrument():
    basis = Fourier((512, 512))
    noise = fourier(basis).measurement.s2
    weight = basis.multiplicity()
    assert float((noise * weight).sum() / weight.sum()) == pytest.approx(0.7069005084, abs=1e-9)


def test_terminal_law_is_exactly_the_instrument():
    basis = Fourier((8, 8))
    process = fourier(basis)
    low, band, high = ct_filters(basis.radius())
    m = process.moments(torch.ones(1, dtype=torch.float64))
    assert torch.allclose(m.h[0, 0], low + 0.5 * band + 0.1 * high, atol=1e-15)
    assert torch.allclose(m.s2[0, 0], 0.1 * low + band + 0.5 * high, atol=1e-15)


def test_clean_at_time_zero(process):
    m = process.moments(torch.zeros(1, dtype=torch.float64))
    assert bool(((1 - m.h).abs() <= m.s2.clamp_min(1e-14)).all())  # what is lost is less than the noise that is there
    assert float(m.s2.max()) <= 1e-4 + 1e-12  # VE starts at sigma_min^2
    assert float(m.k.abs().max()) < 1e-14


def test_diffusion_is_the_rate_of_the_clock(process):
    """G^2 = h^2 dr/dt = s^2 d(log r)/dt (T1), the derivative by central differences of order 4."""
    r, m, e = process.rates(BETWEEN), process.moments(BETWEEN), 1e-4
    points = [process.clock(BETWEEN + j * e).log() for j in (-2, -1, 1, 2)]
    slope = (points[0] - 8 * points[1] + 8 * points[2] - points[3]) / (12 * e)
    seen = torch.isfinite(slope)  # and not erased
    assert bool(seen.any())
    assert torch.allclose(r.G2.expand_as(seen)[seen], (m.s2 * slope)[seen], rtol=2e-6, atol=1e-9)


def test_derivatives_are_those_of_the_law(process):
    r, e = process.rates(BETWEEN), 1e-4
    far, down, up, beyond = (process.moments(BETWEEN + j * e) for j in (-2, -1, 1, 2))
    for got, a, b, c, d in zip((r.dh, r.dk, r.ds2), far, down, up, beyond, strict=True):
        assert torch.allclose(got, (a - 8 * b + 8 * c - d) / (12 * e), rtol=1e-6, atol=1e-8)


def test_transitions_compose(process):
    """Chapman-Kolmogorov (T2), of the noise alone where it has a memory of its own."""
    s, t, u = TIMES[0:1], TIMES[1:2], TIMES[2:3]
    h1, v1 = process.transition(s, t)
    h2, v2 = process.transition(t, u)
    h3, v3 = process.transition(s, u)
    assert torch.allclose(h1 * h2, h3, rtol=1e-12)
    assert torch.allclose(h2**2 * v1 + v2, v3, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_conditionals_keep_the_marginals(process, eta):
    """c^2 s_t^2 + v = s_s^2 and c h_t + data = h_s (T3)."""
    t, s = TIMES[2:3], TIMES[1:2]
    keep, data, std = process.conditional(t, s, eta)
    mt, ms = process.moments(t), process.moments(s)
    assert torch.allclose(keep**2 * mt.s2 + std**2, ms.s2, rtol=1e-13)
    assert torch.allclose(keep * mt.h + data, ms.h, rtol=1e-13)
    if eta == 1.0:
        gain, _ = process.transition(s, t)
        assert torch.allclose(keep * mt.s2, gain * ms.s2, rtol=1e-12)  # also where a coefficient rests, s = 0


def test_every_shipped_process_is_markov_or_has_a_noise_memory(process):
    assert process.admissible
    assert process.markov == (process.memory is None)


def test_recipes_rebuild_the_process(process):
    record = process_to_recipe(process)
    again = process_from_recipe(record, process.basis.size, process.basis.spacing, "test")
    for a, b in zip(process.moments(TIMES), again.moments(TIMES), strict=True):
        assert torch.equal(a, b)
    assert again.pairing.kind == process.pairing.kind
    assert process_to_recipe(again) == record


def test_external_recipe_round_trip():
    process = external(scalar(Fourier((8, 8))), fourier(Fourier((8, 8))))
    again = process_from_recipe(process_to_recipe(process), (8, 8), (1.0, 1.0), "test")
    assert torch.equal(again.measurement.h, process.measurement.h)
    assert again.pairing.kind == "external"


def test_scalar_is_vp_with_beta_20_t():
    a, b = scalar(Pixel((2,))), vp(Pixel((2,)), beta_min=0.0, beta_max=20.0)
    for x, y in zip(a.moments(TIMES), b.moments(TIMES), strict=True):
        assert torch.allclose(x, y, atol=1e-14)
    for x, y in zip(a.rates(TIMES), b.rates(TIMES), strict=True):
        assert torch.allclose(x, y, rtol=1e-13, atol=1e-14)


def test_sub_vp_has_the_squared_variance_of_vp():
    basis = Pixel((2,))
    v, s = PROCESSES["vp"](basis).moments(TIMES), PROCESSES["sub_vp"](basis).moments(TIMES)
    assert torch.allclose(s.s2, v.s2**2, rtol=1e-12)


def test_mean_reversion_obeys_its_equation():
    """dx = theta (c - x) dt + sigma dW, sigma^2 = 2 level^2 theta: h' = -theta h, k' = theta (1 - k), G^2."""
    level = 0.3
    process = mean_reverting(Pixel((2,)), level=level)
    m, r = process.moments(TIMES), process.rates(TIMES)
    theta = -r.F
    assert torch.allclose(r.dk, theta * (1 - m.k), rtol=1e-12)
    assert torch.allclose(r.G2, 2 * level**2 * theta, rtol=1e-10)
    assert torch.allclose(m.h + m.k, torch.ones_like(m.h), atol=1e-15)
    assert float(process.moments(torch.ones(1)).h) == pytest.approx(0.005, rel=1e-12)


def test_mean_reversion_follows_the_published_discrete_schedule():
    """Accumulated rate at t = 50/100 of Luo et al. 2023: 1.01937 of 5.29832 in all (their 100 sampled rates)."""
    process = mean_reverting(Pixel((1,)))
    h = float(process.moments(torch.tensor([0.5], dtype=torch.float64)).h)
    assert -math.log(h) == pytest.approx(1.0193715870, abs=0.06)


def test_wavelet_bands_run_at_their_own_speed():
    process = make_process("wavelet_bands")
    m, scale = process.moments(TIMES[1:2]), process.basis.band()
    fine, coarse = m.s2[0, 0][scale == 0], m.s2[0, 0][scale == 2]
    assert float(fine.min()) > float(coarse.max())
    assert float(fine[0]) == pytest.approx(1 - math.exp(-20 * 0.16), rel=1e-12)


def shrinking():
    """H = 1 - 0.1 t, Sigma = 0.2 t (1.2 - t): its clock decreases after t = 0.63 (T15)."""

    def law(t):
        return 1 - 0.1 * t, 0 * t, 0.2 * t * (1.2 - t)

    return Process(lambda basis: law, Pixel((2,)))


def test_a_decreasing_clock_is_noticed():
    process = shrinking()
    known = torch.tensor([0.1311, 0.0153, -0.0661, -0.1511], dtype=torch.float64)
    got = process.rates(torch.tensor([0.3, 0.6, 0.8, 1.0], dtype=torch.float64)).G2.reshape(-1)
    assert torch.allclose(got, known, atol=1e-4)
    assert not process.markov
    with pytest.raises(InputError, match="never decreases"):
        process.require_markov("ancestral")


def test_independent_noise_increments():
    """Memory A = 1 (residual spec 1.6): keep = s_s^2/s_t^2, variance s_s^2 - keep^2 s_t^2."""
    base = scalar(Pixel((2,)))
    process = Process(base.family, base.basis, memory=lambda basis: lambda t: torch.ones_like(t))
    t, s = TIMES[2:3], TIMES[1:2]
    keep, data, std = process.conditional(t, s)
    mt, ms = process.moments(t), process.moments(s)
    assert torch.allclose(keep, ms.s2 / mt.s2, rtol=1e-13)
    assert torch.allclose(std**2, ms.s2 - keep**2 * mt.s2, rtol=1e-12)
    assert torch.allclose(data, ms.h - keep * mt.h, rtol=1e-12)


def test_a_noise_memory_is_a_correlation_between_times():
    """Cov(x_s, x_t | x_0) = (A_t / A_s) s_s^2, and the conditional is that of two Gaussians with it."""
    base = scalar(Pixel((2,)))
    process = Process(base.family, base.basis, memory=lambda basis: lambda t: 1 - 0.5 * t)
    t, s = TIMES[2:3], TIMES[1:2]
    keep, data, std = process.conditional(t, s)
    mt, ms = process.moments(t), process.moments(s)
    together = (1 - 0.5 * t) / (1 - 0.5 * s) * ms.s2
    assert torch.allclose(keep, together / mt.s2, rtol=1e-13)
    assert torch.allclose(std**2, ms.s2 - together**2 / mt.s2, rtol=1e-12)
    assert torch.allclose(data, ms.h - keep * mt.h, rtol=1e-12)


def test_the_drift_out_of_an_erased_coefficient_is_infinite():
    """H = 1 - t, Sigma = t^2: F = -1/(1 - t), at t = 1 minus infinity, and G^2 = 2 t / (1 - t), there (s^2)'."""
    process = Process(lambda basis: lambda t: (1 - t, 0 * t, t**2), Pixel((2,)))
    r = process.rates(torch.tensor([0.5, 1.0], dtype=torch.float64))
    assert r.F.flatten().tolist() == [-2.0, -math.inf]
    assert r.G2.flatten().tolist() == [2.0, 2.0]


def test_a_clock_that_falls_by_a_millionth_is_noticed():
    process = Process(lambda basis: lambda t: (1 + 0 * t, 0 * t, 1 - 1e-6 * t), Pixel((2,)))
    assert not process.markov
    assert Process(lambda basis: lambda t: (1 + 0 * t, 0 * t, 1 + 0 * t), Pixel((2,))).markov


def test_a_start_is_the_marginal_of_the_data():
    """w_1 = h m + sqrt(h^2 L + s^2) z; given a measurement that is seen, of the data given it."""
    process = external(vp(Fourier((4, 6)), beta_max=2.0), fourier(Fourier((4, 6))))
    basis, m = process.basis, process.moments(torch.ones(1))
    L, mean = torch.rand(basis.shape).double() * 9 + 1, torch.rand(basis.shape).double()
    z, y = torch.randn(2, 1, 4, 6).double(), torch.randn(2, 1, 4, 6).double()
    free = process.start(z, None, mean, L)
    assert torch.allclose(free, m.h * mean + (m.h**2 * L + m.s2).sqrt() * basis.forward(z), atol=1e-12)
    gain, left = wiener(process.measurement, L)
    known = mean + gain * (basis.forward(y) - process.measurement.h * mean)
    seen = process.start(z, y, mean, L)
    assert torch.allclose(seen, m.h * known + (m.h**2 * left + m.s2).sqrt() * basis.forward(z), atol=1e-12)
    assert torch.allclose(process.start(z), m.s2.sqrt() * basis.forward(z), atol=1e-12)


def test_tables_of_a_basis_are_the_callers_own_and_can_be_differentiated():
    basis = Fourier((6, 8), (0.9, 1.3))
    with torch.inference_mode():
        basis.multiplicity(), basis.radius()
        law = fourier(basis)
        law.moments(torch.ones(1))
        assert law.measurement is not None
    for table in (basis.multiplicity, basis.radius):
        table().zero_()
        assert float(table().sum()) > 0
    t = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    total = (law.moments(t).s2 * law.measurement.h * basis.multiplicity()).sum()
    assert float(torch.autograd.grad(total, t)[0]) > 0


def test_fusing_two_observations_with_next_to_no_noise_does_not_overflow():
    """Variances of 1e-42 and 3e-42, states in float32: shares 3/4 and 1/4."""
    m, n = (
        Moments(*(torch.tensor([x], dtype=torch.float64) for x in (h, 0.0, s2))) for h, s2 in ((1, 1e-42), (2, 1.2e-41))
    )
    u, y = torch.tensor([1.0]), torch.tensor([4.0])
    mean, law = fuse(u, m, y, n)
    assert float(mean) == pytest.approx(1.25, rel=1e-6)
    assert float(law.s2) == pytest.approx(0.75e-42, rel=1e-9)
    erased = Moments(*(torch.tensor([x], dtype=torch.float64) for x in (0.0, 0.0, 1.0)))
    assert [float(x) for x in fuse(u, m, y, erased)[1]] == pytest.approx([1.0, 0.0, 1e-42])
    assert [float(x) for x in fuse(u, erased, y, erased)[1]] == [0.0, 0.0, 1.0]
    assert float(fuse(u, erased, y, n)[0]) == 2.0


def test_white_pixels_hold_the_mean_of_a_spectrum_over_all_frequencies():
    """Half spectra count their inner columns twice: against the whole one."""
    spectrum = Spectrum.power_law(0.0, 9.0, 0.1, 3.0)
    for size in ((6, 4), (5, 7)):
        whole = spectrum.on(Fourier(size, complex=True))
        assert torch.allclose(spectrum.on(Pixel(size)), whole.mean().expand(size), rtol=1e-12)


def degenerate(gain, noise):
    """Two coefficients: an ordinary one, and one with terminal gain and noise as given."""

    def law(t):
        a, s = torch.tensor([0.5, gain], dtype=torch.float64), torch.tensor([1.0, noise], dtype=torch.float64)
        return a + (1 - a) * (1 - t), 0 * t, t * s

    return Process(lambda basis: law, Pixel((2,)))


@pytest.mark.parametrize(("gain", "noise"), [(0.5, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_degenerate_coefficients_stay_finite(gain, noise):
    process = degenerate(gain, noise)
    one, half = torch.ones(1, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64)
    for eta in (0.0, 1.0):
        for weights in process.conditional(one, half, eta):
            assert bool(torch.isfinite(weights).all())
    g, v = wiener(process.moments(one), torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert bool(torch.isfinite(g).all())
    assert bool(torch.isfinite(v).all())
    expected = {(0.5, 0.0): (2.0, 0.0), (0.0, 1.0): (0.0, 2.0), (0.0, 0.0): (0.0, 2.0)}[(gain, noise)]
    assert (float(g[0, 0, 1]), float(v[0, 0, 1])) == expected


def test_an_mtf_above_one_is_legal_and_markov():
    process = make_process("measured")
    gain, _, noise = process.measurement
    assert float(gain.max()) > 1.05
    assert process.markov
    m = process.moments(torch.ones(1, dtype=torch.float64))
    assert torch.allclose(m.h[0, 0], gain, rtol=1e-14)
    assert torch.allclose(m.s2[0, 0], noise, rtol=1e-14)


def test_measured_reproduces_the_presets_that_its_curves_come_from():
    basis = Fourier((16, 16))
    process = fourier(basis)
    f = torch.linspace(0, 0.75, 3001, dtype=torch.float64)
    filters = ct_filters(f)
    gain = sum(w * x for w, x in zip((1.0, 0.5, 0.1), filters, strict=True))
    noise = sum(w * x for w, x in zip((0.1, 1.0, 0.5), filters, strict=True))
    mtf = {"frequency": f.tolist(), "value": gain.tolist(), "unit": "1", "frequency_unit": "cycles/mm"}
    nps = {
        "frequency": f.tolist(),
        "value": (40000 * noise).tolist(),
        "unit": "HU^2 mm^2",
        "frequency_unit": "cycles/mm",
    }
    same = PROCESSES["measured"](basis, mtf, nps, unit_scale=200.0)
    for a, b in zip(process.moments(TIMES), same.moments(TIMES), strict=True):
        assert torch.allclose(a, b, atol=1e-6)  # linear interpolation between nodes 0.00025 apart


def test_pixel_volume_enters_the_noise():
    f = [0.0, 5.0]
    mtf = {"frequency": f, "value": [1.0, 0.5], "unit": "1", "frequency_unit": "cycles/mm"}
    nps = {"frequency": f, "value": [3.0, 3.0], "unit": "HU^2 mm^2", "frequency_unit": "cycles/mm"}
    process = PROCESSES["measured"](Fourier((4, 4), (0.5, 0.25)), mtf, nps)
    assert torch.allclose(process.measurement.s2, torch.tensor(3.0 / 0.125, dtype=torch.float64))


def tiny(process, inputs):
    net = UNet(in_channels=inputs, out_channels=1, width=8, multipliers=(1,))
    return NetDenoiser(net, process, spectrum=Spectrum.flat())


def test_a_terminal_denoiser_refuses_a_second_look():
    denoiser = tiny(fourier(Fourier((8, 8))), 2)
    x, t = torch.zeros(1, 1, 8, 8), torch.ones(1, dtype=torch.float64)
    with pytest.raises(InputError, match="count it twice"):
        denoiser(x, t, Cond(image=x))


def test_an_external_denoiser_demands_the_measurement():
    process = external(scalar(Fourier((8, 8))), fourier(Fourier((8, 8))))
    denoiser = tiny(process, 3)
    x, t = torch.zeros(1, 1, 8, 8), torch.ones(1, dtype=torch.float64)
    with pytest.raises(InputError, match="external"):
        denoiser(x, t)
    assert denoiser(x, t, Cond(image=x)).shape == x.shape


def test_a_terminal_start_is_the_measurement():
    process = fourier(Fourier((8, 8)))
    y = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(process.start(torch.zeros_like(y), y), process.basis.forward(y))
    with pytest.raises(InputError, match="measured image"):
        process.start(torch.zeros_like(y))


@pytest.mark.parametrize(
    ("curve", "change", "message"),
    [
        ("mtf", {"value": [1.0, -0.1]}, "negative"),
        ("nps", {"value": [1.0, float("nan")]}, "NaN"),
        ("nps", {"value": [1.0, float("inf")]}, "infinity"),
        ("mtf", {"unit": None}, "no units"),
        ("nps", {"frequency_unit": None}, "no units"),
        ("nps", {"frequency_unit": "1/cm"}, "cycles/mm"),
        ("nps", {"unit": "HU^2"}, "mm\\^2"),
        ("mtf", {"frequency": [0.0, 0.4]}, "Nyquist"),
        ("mtf", {"frequency": [0.5, 0.1]}, "rising"),
        ("mtf", {"value": [1.0, 1.0, 1.0]}, "3 values"),
    ],
)
def test_bad_curves_are_one_clear_error(curve, change, message):
    records = curves()
    for record in records.values():
        record.update(frequency=[0.0, 0.5], value=[1.0, 0.5])
    records[curve].update(change)
    with pytest.raises(InputError, match=message) as caught:
        PROCESSES["measured"](Fourier((8, 8)), **records)
    assert caught.value.where.startswith(curve)
