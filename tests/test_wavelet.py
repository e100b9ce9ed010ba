"""Processes that are diagonal in a wavelet basis (wavelet specification, sections 0.1-0.5; tests T3, T5, T10, T14)."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch

from objects import make_process
from retrodict import BandSpectrum, InputError, Spectrum, band_spectrum
from retrodict.bases import Fourier, Pixel, Wavelet
from retrodict.bases.wavelet import band_powers
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.processes import PROCESSES
from retrodict.processes.recipes import process_from_recipe, process_to_recipe
from retrodict.processes.scalar import vp
from retrodict.processes.wavelet import (
    WAVELET_PROCESSES,
    wavelet_cascade,
    wavelet_normalised,
    wavelet_residual,
    wavelet_scaled,
    wavelet_subspace,
)
from retrodict.samplers import make_plan, sample, start_state
from retrodict.samplers.card import gaussian_card

BASIS = Wavelet((8, 8), levels=2)


def at(*times):
    return torch.tensor(times, dtype=torch.float64)


def power_law(size, eta):
    """P(w) = c / (xi^eta + |w|^eta), xi = 2 pi / L, mean 1, on the whole Fourier grid."""
    axes = [2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64) for n in size]
    w = sum(f**2 for f in torch.meshgrid(*axes, indexing="ij")).sqrt()
    table = 1 / ((2 * math.pi / size[0]) ** eta + w**eta)
    return table / table.mean()


def statistics_of(basis, table, mean=0.0):
    return BandSpectrum.of(basis, mean, torch.stack(list(band_powers(basis, table).values())))


# ---- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "known"),
    [("db4", (2.986714, 0.400071, 0.400071, 0.213144)), ("haar", (2.766486, 0.492792, 0.492792, 0.247931))],
)
def test_golden_variances_of_a_level(family, known):
    found = band_powers(Wavelet((32, 32), levels=1, family=family), power_law((32, 32), 2))
    assert [float(v) for v in found.values()] == pytest.approx(known, abs=1e-6)
    assert sum(float(v) for v in found.values()) == pytest.approx(4, abs=1e-12)


@pytest.mark.parametrize("eta", [2, 3])
def test_variances_grow_by_a_power_a_level(eta):
    found = band_powers(Wavelet((256, 256), levels=4, family="db4"), power_law((256, 256), eta))
    ratios = [float(found[j + 1, "dd"] / found[j, "dd"]) for j in (1, 2, 3)]
    assert ratios[1:] == pytest.approx([2.0**eta] * 2, rel=0.02)


@pytest.mark.parametrize("alignment", ["causal", "centered"])
@pytest.mark.parametrize("levels", [2, (3, 1)])
def test_the_variance_of_a_band_is_the_mean_of_its_covariance(alignment, levels):
    """Against the dense covariance of a stationary field; the spectrum of a model goes the same way."""
    basis = Wavelet((8, 4), (1.0, 1.5), levels=levels, family="db3", alignment=alignment)
    data = Spectrum.power_law(0.5, 4.0, 0.1, 2.0)
    fourier = Fourier((8, 4), (1.0, 1.5), complex=True)
    unit = torch.eye(32, dtype=torch.float64).reshape(32, 8, 4)
    root = fourier.inverse(fourier.tabulate(data._interpolate).sqrt() * fourier.forward(unit.to(torch.complex128)))
    variance = (basis.forward(root.real) ** 2).sum(0)
    found = basis.split(data.on(basis))
    for band, part in basis.split(variance).items():
        assert torch.allclose(found[band], part.mean().expand_as(found[band]), rtol=1e-12)


def test_statistics_are_measured_stored_and_read_back():
    basis = Wavelet((16, 16), (0.5, 0.5), levels=2, family="db2")
    images = [
        5.0 + 3 * torch.randn(2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        for i in range(4)
    ]
    found = band_spectrum(images, basis)
    stack = torch.stack(images)
    assert found.mean == pytest.approx(stack.mean((0, 2, 3)).tolist(), abs=1e-13)
    centred = stack - stack.mean((0, 2, 3))[:, None, None]
    for band, part in basis.split(found.on(basis)).items():
        expected = (basis.split(basis.forward(centred))[band] ** 2).mean((0, 2, 3))
        assert torch.allclose(part, expected[:, None, None].expand_as(part), rtol=1e-12)
    again = Spectrum.from_json(json.loads(json.dumps(found.to_json())), "test")
    assert again == found
    assert isinstance(again, BandSpectrum)
    assert again.on(basis.on((32, 8))).shape == (2, 32, 8)
    assert torch.allclose(found.mean_on(basis)[0, :4, :4], torch.tensor(found.mean[0] * 4, dtype=torch.float64))  # type: ignore[index]


def test_other_bases_are_given_the_mean_of_every_level():
    found = BandSpectrum.of(Wavelet((8, 8), levels=2), 0.0, [9.0, 1, 2, 3, 0.1, 0.2, 0.3])
    assert found.power == pytest.approx((9.0, 2.0, 0.2))
    assert list(found.frequency) == sorted(found.frequency)
    assert float(found.on(Fourier((8, 8)))[0, 3]) == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics_of(BASIS, torch.ones(8, 8)).on(Wavelet((8, 8), levels=1)), "measured in"),
        (
            lambda: wavelet_normalised(Wavelet((8, 8), levels=1), spectrum=statistics_of(BASIS, torch.ones(8, 8))),
            "measured in",
        ),
        (lambda: band_spectrum([], BASIS), "no images"),
        (lambda: band_spectrum([torch.zeros(6, 8)], BASIS), "divisible"),
        (lambda: band_spectrum([torch.zeros(1, 2, 8, 8)], BASIS), "images of 2 axes"),
        (lambda: BandSpectrum.of(BASIS, 0.0, [1.0, 2.0]), "each of the 7 bands"),
        (lambda: BandSpectrum.of(BASIS, 0.0, [-1.0] * 7), "positive"),
        (lambda: wavelet_cascade(BASIS, overlap=-1.0), "overlap"),
        (lambda: wavelet_cascade(BASIS, horizon=0.0), "horizon"),
        (lambda: wavelet_normalised(BASIS, exponent=0.5), "exponent"),
        (lambda: wavelet_scaled(BASIS, coarse=-3.0), "coarse"),
        (lambda: wavelet_subspace(BASIS, times=[0.5]), "2 rising times"),
        (lambda: wavelet_subspace(BASIS, times=[0.6, 0.5]), "2 rising times"),
        (lambda: wavelet_residual(BASIS, reference="vp"), "reference"),
        (lambda: wavelet_scaled(Pixel((8, 8))), "a Wavelet basis"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_damaged_record_is_refused():
    record = statistics_of(BASIS, torch.ones(8, 8, dtype=torch.float64)).to_json()
    for damage in ({"family": "db99"}, {"levels": [2]}, {"levels": "x"}, {"variances": [{}]}, {"variances": 3}):
        with pytest.raises(InputError):
            Spectrum.from_json({**record, "wavelet": {**record["wavelet"], **damage}}, "test")


# ---- laws ------------------------------------------------------------------------------------------------------------


def test_a_pixel_process_is_the_same_in_wavelets():
    """P1: the same states, and the same samples from the same noise."""
    pixel, wavelet = vp(Pixel((8, 8))), vp(BASIS)
    x, z = (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    assert torch.allclose(pixel.corrupt(x, at(0.3, 0.7), z), wavelet.corrupt(x, at(0.3, 0.7), z), atol=1e-5)
    seeds, found = torch.tensor([3, 4]), []
    for process in (pixel, wavelet):
        one = torch.full((8, 8), 0.3, dtype=torch.float64)
        denoiser, times = GaussianDenoiser(process, 0.0, one), torch.linspace(1, 0, 5, dtype=torch.float64)
        start = start_state(process, seeds, (1, 8, 8), spectrum=one)
        found.append(sample(denoiser, make_plan("ancestral", process, times, one), start, seeds=seeds).x)
    assert torch.allclose(*found, atol=1e-5)


def test_laws_by_hand():
    t, data = at(0.4), statistics_of(BASIS, power_law((8, 8), 2))
    s2 = data.on(BASIS)
    m = wavelet_normalised(BASIS, 5.0, 2.0, data).moments(t)
    assert torch.allclose(m.h, torch.exp(at(-0.8)))
    assert torch.allclose(m.s2[0, 0], s2 * (1 - math.exp(-1.6)))
    m, white = wavelet_scaled(BASIS, 3.0).moments(t), vp(BASIS).moments(t)
    assert torch.allclose(m.s2[0, 0, :2, :2], 9 * white.s2[0, 0].expand(2, 2))
    assert torch.allclose(m.s2[0, 0, 4:], white.s2[0, 0].expand(4, 8))
    reference = {"name": "wavelet_scaled", "options": {"coarse": 2.0}}
    m, own = wavelet_residual(BASIS, reference).moments(t), wavelet_scaled(BASIS, 2.0).moments(t)
    for found, expected in zip(m, (own.h, 1 - own.h, own.s2), strict=True):
        assert torch.equal(found, expected)
    m = wavelet_subspace(BASIS, [0.3, 0.6]).moments(t)
    assert float(m.h[0, 0, 4:].abs().max()) == 0 < float(m.h[0, 0, :4, :4].min())


def test_windows_of_a_cascade():
    """t = 1/3, 2/3, 1 end the windows of level 1, level 2 and the coarse band; outside nothing moves."""
    process = wavelet_cascade(BASIS, 4.0, 1.0)
    for t, fine, middle, coarse in (
        (1 / 6, math.exp(-2), 1, 1),
        (1 / 3, math.exp(-4), 1, 1),
        (1 / 2, 0, math.exp(-2), 1),
        (2 / 3, 0, math.exp(-4), 1),
        (1.0, 0, 0, math.exp(-4)),
    ):
        m, r = process.moments(at(t)), process.rates(at(t))
        assert [float(m.h[0, 0, i, i]) for i in (7, 3, 0)] == pytest.approx([fine, middle, coarse], abs=1e-12)
        assert [float(m.s2[0, 0, i, i]) for i in (7, 3, 0)] == pytest.approx([1 - h**2 for h in (fine, middle, coarse)])
        moving = [float(r.G2[0, 0, i, i]) != 0 for i in (7, 3, 0)]
        assert moving == [0 < h < 1 for h in (fine, middle, coarse)]
    kept = wavelet_cascade(BASIS, 4.0, 1.0, drop=False).moments(at(0.9))
    assert float(kept.h[0, 0, 7, 7]) == pytest.approx(math.exp(-4))
    wide, plain = wavelet_cascade(BASIS, overlap=1e6).moments(at(0.5)), wavelet_normalised(BASIS).moments(at(0.5))
    assert torch.allclose(wide.h, plain.h.expand_as(wide.h), rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7, 9])
@pytest.mark.parametrize("name", WAVELET_PROCESSES)
@pytest.mark.parametrize("rule", ["matched", "gaussian_ode"])
def test_rules_that_are_exact_are_so_through_every_rest(name, rule, steps):
    """Coefficients that rest, clean or erased, have steps of no length; grids meet the windows or do not."""
    known = statistics_of(BASIS, power_law((8, 8), 3))
    options = {"spectrum": known} if name in ("wavelet_normalised", "wavelet_cascade") else {}
    process = PROCESSES[name](BASIS, **options, conditioning="none")
    L = known.on(BASIS)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    card, m = gaussian_card(make_plan(rule, process, times, L), L), process.moments(at(1.0))
    variance = card.variance + card.start**2 * (m.h**2 * L + m.s2)[0, 0]
    assert float((variance / L - 1).abs().max()) < 1e-10


# ---- the cascade is a process ----------------------------------------------------------------------------------------


def reverse(process, C, steps):
    """Covariance of Euler-Maruyama on the reverse SDE with the exact score of N(0, C), from N(0, s^2(1))."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    cov = torch.diag(process.moments(times[:1]).s2.flatten())
    for t, after in itertools.pairwise(times):
        m, r, dt = process.moments(t[None]), process.rates(t[None]), float(t - after)
        h, s2, G2 = (v.flatten().expand(len(C)) for v in (m.h, m.s2, r.G2))
        F = torch.where(G2 == 0, 0.0, r.F.flatten())
        score = -torch.linalg.inv(h[:, None] * C * h + torch.diag(s2))
        A = torch.eye(len(C), dtype=torch.float64) - dt * torch.diag(F) + dt * G2[:, None] * score
        cov = A @ cov @ A.T + torch.diag(G2 * dt)
    return cov


def cascade(C, groups, variances, horizon, steps):
    """The same by separate models: each group from noise given those before it, in normalised coordinates."""
    n, delta = len(C), horizon / steps
    D = torch.diag(1 / variances.sqrt())
    Cn, cov, done = D @ C @ D, torch.zeros(n, n, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    for group in groups:
        R = Cn[group][:, done] @ torch.linalg.inv(Cn[done][:, done])
        S = Cn[group][:, group] - R @ Cn[done][:, group]
        eye = torch.eye(len(group), dtype=torch.float64)
        cov[group, group] = 1.0
        for k in range(steps, 0, -1):
            tau = k * delta
            K = torch.linalg.inv(eye + math.exp(-2 * tau) * (S - eye))
            A = torch.eye(n, dtype=torch.float64)
            A[group[:, None], group] = eye * (1 + delta) - 2 * delta * K
            A[group[:, None], done] = 2 * delta * math.exp(-tau) * K @ R
            cov = A @ cov @ A.T
            cov[group, group] += 2 * delta
        done = torch.cat([done, group])
    back = torch.diag(variances.sqrt())
    return back @ cov @ back


def test_a_staggered_clock_is_a_cascade_of_models():
    """L = 16, db2, three levels, T = 6, 12 steps a window: the covariance is that of separate conditional models."""
    basis = Wavelet((16,), levels=3, family="db2", alignment="centered")
    known = statistics_of(basis, power_law((16,), 2))
    W = basis.forward(torch.eye(16, dtype=torch.float64)).T
    waves = torch.fft.ifft(power_law((16,), 2)).real
    C = W @ torch.stack([waves.roll(i) for i in range(16)]) @ W.T
    groups = [torch.where(basis.band() == level)[0] for level in (3, 2, 1, 0)]
    expected = cascade(C, groups, known.on(basis), 6.0, 12)
    found = reverse(wavelet_cascade(basis, 6.0, 1.0, spectrum=known), C, 48)
    assert float((found - expected).abs().max()) < 1e-12 * float(C.abs().max())
    leak = float((reverse(wavelet_cascade(basis, 6.0, 1.0, drop=False, spectrum=known), C, 48) - expected).abs().max())
    assert 1e-8 < leak < 1e-4  # what is left of finer bands, of the order of exp(-2 T)
    assert float((expected - C).abs().max()) > 0.05  # and the test is not vacuous


# ---- records ---------------------------------------------------------------------------------------------------------


def test_recipes_keep_levels_alignment_and_statistics():
    basis = Wavelet((8, 8), levels=(2, 1), family="sym4", alignment="centered")
    known = statistics_of(basis, power_law((8, 8), 2))
    process = wavelet_cascade(basis, spectrum=known)
    record = json.loads(json.dumps(process_to_recipe(process)))
    again = process_from_recipe(record, (8, 8), (1.0, 1.0), "test")
    assert again.basis == basis
    for a, b in zip(process.moments(at(0.2, 0.9)), again.moments(at(0.2, 0.9)), strict=True):
        assert torch.equal(a, b)
    assert "alignment" not in process_to_recipe(vp(Wavelet((8, 8), levels=2)))["basis"]["options"]


def test_the_basis_has_the_numbers_that_it_always_had():
    """Old records name no alignment: a filter begins at its sample."""
    u = Wavelet((8,), levels=1, family="db2").forward(torch.arange(8, dtype=torch.float64))
    h = (0.482962913145, 0.836516303738, 0.224143868042, -0.129409522551)
    assert float(u[0]) == pytest.approx(sum(i * v for i, v in enumerate(h)), abs=1e-11)
    assert float(u[4]) == pytest.approx(h[2] * 1 * -1 + 0 * h[3] + 2 * h[1] - 3 * h[0], abs=1e-11)


def test_a_model_keeps_the_statistics_of_its_bands():
    process = make_process("wavelet_cascade")
    known = statistics_of(process.basis, power_law((8, 8), 2), mean=0.5)
    denoiser = GaussianDenoiser(process, spectrum=known)
    assert torch.equal(denoiser.prior()[1], known.on(process.basis))
    assert torch.equal(denoiser.on((16, 16)).prior()[1][:4, :4], known.on(process.basis.on((16, 16)))[:4, :4])
    other = replace(process, basis=Wavelet((8, 8), levels=1))
    with pytest.raises(InputError, match="measured in"):
        GaussianDenoiser(other, spectrum=known).prior()


def test_a_configuration_takes_the_statistics_of_the_data_where_it_says_so():
    from retrodict.tasks.fit import _of_data

    known = statistics_of(BASIS, power_law((8, 8), 2))
    inner = {"name": "wavelet_cascade", "options": {"spectrum": "data"}}
    record = _of_data({"name": "wavelet_residual", "options": {"reference": inner}}, known)
    process = PROCESSES["wavelet_residual"](BASIS, **record["options"])
    own = wavelet_cascade(BASIS, spectrum=known)
    assert torch.equal(process.moments(at(0.5)).s2, own.moments(at(0.5)).s2)
    assert inner["options"] == {"spectrum": "data"}
