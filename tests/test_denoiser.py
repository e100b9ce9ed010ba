"""Denoisers, error laws, predictions, losses and the test bed."""

from __future__ import annotations

import math
import pickle
from dataclasses import asdict, replace

import pytest
import torch

from models import SPECTRUM, make_model
from objects import make_process, restoring_process
from retrodict import InputError
from retrodict._random import key, member_seeds, uniform, white
from retrodict.bases import Fourier, Pixel, Wavelet
from retrodict.bases.spectrum import Spectrum, radial_spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.mixture import GaussianLaw, MixtureDenoiser, MixtureLaw
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.predictions import PREDICTIONS, target, to_data
from retrodict.denoisers.spread import LocalSpread, SpectralSpread, band_filters
from retrodict.denoisers.spread_scale import IntensityScale, SpreadScale
from retrodict.nets import UNet
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import Cond, Moments, wiener
from retrodict.processes.scalar import vp
from retrodict.training.losses import WEIGHTS, _weighted, denoising_loss, draw_times

T3 = torch.tensor([0.2, 0.6, 1.0], dtype=torch.float64)


def images(size=(8, 8), n=3, seed=0):
    return torch.randn(n, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def zero_network(process, bands=0):
    inputs = 3 if process.pairing.kind == "external" else 2
    net = UNet(in_channels=inputs, out_channels=1 + bands, width=8, multipliers=(1,)).double()
    return NetDenoiser(net, process, spectrum=SPECTRUM, bands=bands)


# ---- the Gaussian part ----


@pytest.mark.parametrize("name", PROCESSES)
def test_a_network_that_answers_zero_is_the_exact_gaussian_denoiser(name):
    process = restoring_process(name) or make_process(name)
    y = images(seed=1)
    cond = Cond(image=y) if process.pairing.kind == "external" else Cond()
    exact = GaussianDenoiser(process, SPECTRUM.mean_on(process.basis), SPECTRUM.on(process.basis))
    xt = images()
    a, b = zero_network(process).estimate(xt, T3, cond), exact.estimate(xt, T3, cond)
    assert torch.allclose(a.mean, b.mean, atol=1e-12)
    assert torch.allclose(a.spread.v, b.spread.v, rtol=1e-12)


def test_tweedie_equals_the_dense_kalman_filter():
    """Eight unknowns, an external measurement, everything as dense matrices."""
    basis = Fourier((8,))
    process = restoring_process("scalar", (8,))
    L, m = SPECTRUM.on(basis), SPECTRUM.mean_on(basis)
    eye = torch.eye(8, dtype=torch.float64)

    def dense(diagonal):
        return basis.inverse(diagonal * basis.forward(eye)).T

    prior, mean = dense(L), basis.inverse(m)
    xt, y = images((8,), 1)[0, 0], images((8,), 1, 5)[0, 0]
    t = T3[1:2]
    h, _, s2 = (float(v) for v in process.moments(t))
    A, S = dense(process.measurement.h), dense(process.measurement.s2)
    design = torch.cat([h * eye, A])
    noise = torch.block_diag(s2 * eye, S)
    kalman = prior @ design.T @ torch.linalg.inv(design @ prior @ design.T + noise)
    expected = mean + kalman @ (torch.cat([xt, y]) - design @ mean)
    covariance = prior - kalman @ design @ prior
    got = GaussianDenoiser(process, m, L).estimate(xt[None, None], t, Cond(image=y[None, None]))
    assert torch.allclose(got.mean[0, 0], expected, atol=1e-10)
    assert torch.allclose(dense(got.spread.v[0, 0]), covariance, atol=1e-10)


def test_scores_are_gradients_of_the_log_density():
    basis = Pixel((3,))
    process = vp(basis)
    mean, L = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([0.1, 0.5, 2.0]).double()
    m = process.moments(T3[:1])
    x = images((3,), 1).requires_grad_()
    log = torch.distributions.Normal(m.h[0, 0] * mean, (m.h**2 * L + m.s2)[0, 0].sqrt()).log_prob(x).sum()
    (gradient,) = torch.autograd.grad(log, x)
    assert torch.allclose(GaussianDenoiser(process, mean, L).score(x, T3[:1]), gradient, rtol=1e-10)


def mixture():
    basis = Pixel((1,))
    means = torch.tensor([[-1.0], [1.5]], dtype=torch.float64)
    spectra = torch.tensor([[0.1], [0.3]], dtype=torch.float64)
    return MixtureLaw(basis, torch.tensor([0.3, 0.7], dtype=torch.float64), means, spectra)


def test_the_mixture_denoiser_is_the_integral():
    law, process = mixture(), vp(Pixel((1,)))
    grid = torch.linspace(-6, 7, 200001, dtype=torch.float64)
    density = sum(
        w * torch.distributions.Normal(m, v.sqrt()).log_prob(grid).exp()
        for w, m, v in zip(law.weights, law.means[:, 0], law.spectra[:, 0], strict=True)
    )
    for t in T3:
        h, _, s2 = (float(v) for v in process.moments(t[None]))
        x = 0.4
        weight = density * torch.exp(-((x - h * grid) ** 2) / (2 * s2))
        mean = float((weight * grid).sum() / weight.sum())
        variance = float((weight * (grid - mean) ** 2).sum() / weight.sum())
        got = MixtureDenoiser(process, law).estimate(torch.full((1, 1, 1), x, dtype=torch.float64), t[None])
        assert float(got.mean) == pytest.approx(mean, rel=1e-6)
        assert float(got.spread.v) == pytest.approx(variance, rel=1e-6)


def test_the_mixture_score_is_tweedie():
    law, process = mixture(), vp(Pixel((1,)))
    x = torch.linspace(-2, 2, 7, dtype=torch.float64).reshape(7, 1, 1).requires_grad_()
    t = torch.full((7,), 0.5, dtype=torch.float64)
    m = process.moments(t[:1])
    logs = [
        w.log() + torch.distributions.Normal(m.h * mu, (m.h**2 * v + m.s2).sqrt()).log_prob(x)
        for w, mu, v in zip(law.weights, law.means[:, 0], law.spectra[:, 0], strict=True)
    ]
    (gradient,) = torch.autograd.grad(torch.logsumexp(torch.stack(logs), 0).sum(), x)
    assert torch.allclose(MixtureDenoiser(process, law).score(x.detach(), t), gradient, rtol=1e-8)


def test_mixture_posterior_weights_follow_the_evidence():
    law = mixture()
    measured = Moments(*torch.tensor([[0.8], [0.0], [0.2]], dtype=torch.float64))
    weights, parts = law.posterior(torch.full((1, 1, 1), 1.0, dtype=torch.float64), measured)
    evidence = [
        w * torch.distributions.Normal(0.8 * m, (0.64 * v + 0.2).sqrt()).log_prob(torch.tensor(1.0).double()).exp()
        for w, m, v in zip(law.weights, law.means[:, 0], law.spectra[:, 0], strict=True)
    ]
    assert torch.allclose(weights[0], torch.stack(evidence) / sum(evidence), rtol=1e-10)
    assert float(parts[0].spectrum) == pytest.approx(1 / (1 / 0.1 + 0.64 / 0.2), rel=1e-12)


def test_a_gaussian_law_draws_its_covariance():
    basis = Fourier((4, 4))
    L = SPECTRUM.on(basis)
    eye = torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)
    root = GaussianLaw(basis, torch.zeros_like(L), L).draw(eye).reshape(16, 16)
    covariance = basis.inverse(L * basis.forward(eye)).reshape(16, 16)
    assert torch.allclose(root.T @ root, covariance, atol=1e-10)


# ---- error laws ----


@pytest.mark.parametrize("basis", [Fourier((6, 5)), Wavelet((8, 8), levels=2), Pixel((4, 4))])
def test_band_filters_split_unity(basis):
    for bands in (1, 2, 4):
        filters = band_filters(basis, bands)
        assert len(filters) == bands
        assert torch.allclose((filters**2).sum(0), torch.ones(basis.shape, dtype=torch.float64), atol=1e-14)


def dense_law(spread, size, bands):
    """Root of the covariance of draws: one column for every pixel of every noise field."""
    n = math.prod(size)
    columns = []
    for band in range(bands):
        for pixel in range(n):
            z = torch.zeros(bands, 1, 1, n, dtype=torch.float64)
            z[band, ..., pixel] = 1
            columns.append(spread.draw(z.reshape(bands, 1, 1, *size)).reshape(n))
    return torch.stack(columns, 1)


def test_a_local_spread_of_ratio_one_is_the_stationary_one():
    basis = Fourier((6, 5))
    v = (0.1 + basis.radius())[None, None]
    local = LocalSpread(basis, v, torch.zeros(1, 3, 6, 5, dtype=torch.float64), band_filters(basis, 3))
    a, b = dense_law(local, (6, 5), 3), dense_law(SpectralSpread(basis, v), (6, 5), 1)
    assert torch.allclose(a @ a.T, b @ b.T, atol=1e-12)


def test_the_variance_of_a_local_spread_is_that_of_its_draws():
    basis = Fourier((6, 5))
    v = (0.1 + basis.radius())[None, None]
    ratio = 0.5 * torch.randn(1, 2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    spread = LocalSpread(basis, v, ratio, band_filters(basis, 2))
    root = dense_law(spread, (6, 5), 2)
    assert torch.allclose((root**2).sum(1).reshape(6, 5), spread.variance()[0, 0], atol=1e-12)


def test_spread_scales_interpolate_in_the_level():
    scale = SpreadScale((-4.0, -2.0), ((1.0, 4.0), (math.e, 1.0)))
    got = scale.log_at(torch.tensor([-9.0, -3.0, 0.0]))
    known = torch.tensor([[0.0, math.log(4)], [0.5, math.log(2)], [1.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(got, known, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": [[1.0], [1.0]]}, "2 factors per node"),
        ({"level": [0.0, -1.0]}, "nodes that rise"),
        ({"level": None}, "level and factor"),
        ({"spectrum": {"radius": [0, 1], "unknown": [0, 1], "factor": [[1, 1], [1, -1]]}}, "positive factors"),
        ({"spectrum": {"radius": [0, 1], "unknown": [1, 0], "factor": [[1, 1], [1, 1]]}}, "nodes that rise"),
        ({"spectrum": {"radius": [0, 1], "unknown": [0, 1], "factor": [[1, 1]]}}, "factors per node"),
        ({"spectrum": {"radius": [0, 1]}}, "level and factor"),
    ],
)
def test_damaged_factors_are_refused(change, message):
    whole = {"level": [-1.0, 0.0], "factor": [[1.0, 2.0], [1.0, 1.0]]}
    assert SpreadScale.from_json(whole, 2).factor[0] == (1.0, 2.0)
    with pytest.raises(ValueError, match=message):
        SpreadScale.from_json({**whole, **change}, 2)


def test_a_scaled_spread_is_larger_by_the_factor(tmp_path):
    denoiser = make_model(tmp_path, zero=False).denoiser
    y, t = images((32, 32), 1).float(), torch.ones(1, dtype=torch.float64)
    before = denoiser.estimate(y, t).spread.variance()
    denoiser = replace(denoiser, spread_scale=SpreadScale((-9.0, 9.0), ((2.0, 2.0), (2.0, 2.0))))
    assert torch.allclose(denoiser.estimate(y, t).spread.variance(), 2 * before, rtol=1e-5)
    assert torch.allclose(denoiser.with_spread("uncalibrated").estimate(y, t).spread.variance(), before, rtol=1e-6)


def test_factors_by_what_a_pixel_shows_are_those_of_the_answer():
    """Constant ones are the constant; others are linear in log between nodes, and move with the restored image."""
    process = fourier(Fourier((16, 16)))
    denoiser = zero_network(process, bands=2)
    plain = SpreadScale((-9.0, 9.0), ((1.0, 1.0), (1.0, 1.0)))
    y, t = images((16, 16), 2), torch.ones(2, dtype=torch.float64)

    def said(scale):
        estimate = replace(denoiser, spread_scale=scale).estimate(y, t)
        return estimate.mean.detach(), estimate.spread.variance().detach()

    mean, before = said(plain)
    twice = replace(plain, intensity=IntensityScale((0.0, 1.0), (2.0, 2.0)))
    assert torch.allclose(said(twice)[1], 2 * before, rtol=1e-12)
    table = IntensityScale((0.0, 1.0), (1.0, math.e))
    at = torch.tensor([-3.0, 0.0, 0.25, 1.0, 7.0], dtype=torch.float64)
    assert table.log_at(at).tolist() == pytest.approx([0.0, 0.0, 0.25, 1.0, 1.0])
    assert torch.allclose(plain.local(torch.zeros(2, 2, 1, 16, 16), torch.zeros(()), mean), torch.zeros(()))
    shifted = replace(plain, intensity=table).local(torch.zeros(2, 2, 1, 16, 16).double(), torch.ones(()), mean)
    assert torch.allclose(shifted, 1 + table.log_at(mean)[:, None].expand_as(shifted), rtol=1e-12)
    high = mean > mean.median()
    more = said(replace(plain, intensity=table))[1] / before
    assert float(more[high].mean()) > float(more[~high].mean()) >= 1
    record = asdict(replace(plain, intensity=table))
    assert SpreadScale.from_json(record, 2).intensity == table
    record["intensity"]["intensity"] = [1.0, 0.0]
    with pytest.raises(ValueError, match="rise"):
        SpreadScale.from_json(record, 2)


def test_grids_share_weights_and_the_unit_of_the_inputs(tmp_path):
    denoiser = make_model(tmp_path, zero=False).denoiser
    other = denoiser.on((64, 48))
    assert other.net is denoiser.net
    assert other.unit == denoiser.unit
    x = images((32, 32), 1).float().repeat(1, 1, 2, 2)[..., :48]
    assert other(x, torch.ones(1, dtype=torch.float64)).shape == x.shape
    with pytest.raises(InputError, match="on\\(size\\)"):
        denoiser(x, torch.ones(1, dtype=torch.float64))


# ---- predictions and losses ----


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", ["vp", "ve", "fourier", "mean_reverting", "measured"])
def test_predictions_go_there_and_back(kind, name):
    process = make_process(name)
    u0, w = process.basis.forward(images(seed=3)), process.basis.forward(images(seed=4))
    c = process.basis.forward(images(seed=5))
    if PREDICTIONS[kind].turns and process.grows(T3):
        with pytest.raises(InputError, match="gain h of 1"):
            to_data(kind, process, w, w, T3, c)
        return
    back = to_data(kind, process, target(kind, process, u0, w, T3, c), w, T3, c)
    assert (back - u0).abs().max() < 1e-8 * float(process.clock(T3).max().clamp_min(1))


def test_predictions_that_divide_by_an_erased_gain_are_refused():
    process = fourier(Fourier((8, 8)), gain_weights=(0.0, 0.0, 0.0))
    w = process.basis.forward(images())
    for kind in PREDICTIONS:
        if PREDICTIONS[kind].erased:
            assert bool(torch.isfinite(to_data(kind, process, w, w, T3, w).abs()).all())
        else:
            with pytest.raises(InputError, match="gain h = 0"):
                to_data(kind, process, w, w, T3, w)


def test_weights_are_those_of_the_published_losses():
    """On the eps error: data S/H^2, eps 1, score 1/S, whitened G^4/S, soft S, likelihood G^2/S."""
    process = make_process("fourier")
    m, g2 = process.moments(T3), process.rates(T3).G2
    on_eps = {name: weight(m, g2) * m.s2 / m.h**2 for name, weight in WEIGHTS.items()}
    known = {"data": m.s2 / m.h**2, "eps": 1 + 0 * m.s2, "score": 1 / m.s2, "whitened": g2**2 / m.s2}
    known |= {"soft": m.s2, "likelihood": g2 / m.s2}
    for name, value in known.items():
        assert torch.allclose(on_eps[name], value.expand(on_eps[name].shape), rtol=1e-12), name


def test_the_data_weight_is_the_pixel_error():
    process = make_process("fourier")
    error = images(seed=6)
    assert torch.allclose(_weighted(process, error, T3, "data"), (error**2).flatten(1).mean(1), rtol=1e-12)


def test_a_zero_network_on_its_own_gaussian_data_has_unit_loss():
    """The skip is the Wiener filter and c_out its error, so the target has unit variance."""
    process = make_process("fourier", (16, 16))
    denoiser = zero_network(process)
    basis = process.basis
    z = white(range(512), "data", 0, (1, 16, 16)).double()
    x0 = basis.inverse(SPECTRUM.mean_on(basis) + SPECTRUM.on(basis).sqrt() * basis.forward(z))
    loss = denoising_loss(denoiser, x0, torch.arange(512)).total
    assert float(loss.detach().mean()) == pytest.approx(1, abs=4 * float(loss.detach().std()) / 512**0.5)


def test_a_spectrum_is_found_again():
    basis = Fourier((128, 128))
    true = Spectrum.power_law(0.0, 20.0, 0.05, 3.0)
    z = white(range(40), "field", 0, (128, 128)).double()
    fields = basis.inverse(true.on(basis).sqrt() * basis.forward(z))
    found = radial_spectrum(list(fields + 2.0), (1.0, 1.0))
    assert found.mean == pytest.approx(2.0, abs=0.1)
    middle = (basis.radius() > 0.05) & (basis.radius() < 0.6)
    assert torch.allclose(found.on(basis)[middle], true.on(basis)[middle], rtol=0.12)


# ---- randomness ----


def test_noise_is_a_function_of_seed_stream_and_step():
    a = white([3, 4], "step", 1, (5,))
    assert torch.equal(a[1:], white([4], "step", 1, (5,)))
    for other in (white([3], "step", 2, (5,)), white([3], "start", 1, (5,)), white([5], "step", 1, (5,))):
        assert not torch.equal(a[:1], other)


def test_noise_does_not_depend_on_the_default_dtype_of_the_caller():
    known = white([3], "step", 1, (5,))
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(white([3], "step", 1, (5,)), known)
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_error_crosses_between_processes_as_what_it_is():
    error = InputError("file", 1, "2", "Do this.")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.where, again.hint) == (str(error), "file", "Do this.")


def test_keys_do_not_change_between_versions():
    """A result of today must be reproducible tomorrow."""
    assert key(0, "step", 0) == KNOWN_KEY
    assert float(uniform([0], "time", 0)) == KNOWN_KEY_TIME / 2**63
    assert torch.equal(member_seeds(1, 2, 3)[:2], member_seeds(1, 2, 2))


KNOWN_KEY = 7409706211145474717
KNOWN_KEY_TIME = 2880265018316849666


def test_times_fill_the_interval():
    t = draw_times(torch.arange(4000))
    assert float(t.min()) >= 1e-3
    assert float(t.max()) <= 1
    assert float(t.mean()) == pytest.approx(0.5, abs=0.02)


def test_the_wiener_gain_minimizes_the_error():
    process = make_process("fourier")
    L = SPECTRUM.on(process.basis)
    m = process.moments(T3[1:2])
    g, v = wiener(m, L)
    for factor in (0.99, 1.01):
        other = factor * g
        assert bool(((1 - other * m.h) ** 2 * L + other**2 * m.s2 > v).all())


def test_numbers_of_many_seeds_are_those_of_each():
    seeds = [0, 1, -1, 2**63 - 1, -(2**63), 12345678901234567]
    for step in (0, 3, -2):
        known = torch.tensor([key(s, "many", step) / 2.0**63 for s in seeds], dtype=torch.float64)
        assert torch.equal(uniform(seeds, "many", step), known)
        assert torch.equal(uniform(torch.tensor(seeds), "many", step), known)
