"""Noise that varies over the image: the dense posterior, constant maps, tiles, and restorations with a map."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from models import SPECTRUM, field, law_of, spec
from retrodict import restore
from retrodict._check import InputError, NotCalibratedError
from retrodict.bases import Fourier, Wavelet
from retrodict.bases.solve import conjugate_gradients
from retrodict.data import Image, read
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.spread_scale import SpectrumScale, SpreadScale
from retrodict.denoisers.uneven import Uneven, levels_of
from retrodict.metrics.local_noise import LocalNoise, high_pass, local_noise
from retrodict.models.model import load_model, save_model
from retrodict.nets import Tiled, UNet, network
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import fourier, measured
from retrodict.processes.recipes import external
from retrodict.samplers.margin import frame_of
from retrodict.samplers.misfit import BandMisfit
from retrodict.samplers.uneven import instant_with_map, mapped, surrounded_with_map
from retrodict.tasks.measure_map import _share, _without_rounding, measure_noise_map
from retrodict.tasks.noise_map import steepest

SIDE = 32


def wave(size, ratio=3.0, width=None):
    """A map `(1, 1, *size)` that falls by `ratio` along the last axis, over half of it or over `width` pixels."""
    n = size[-1]
    x = (torch.arange(n, dtype=torch.float64) - n / 2 + 0.5).abs()
    part = ((x - n / 4) / (width or n / 2) + 0.5).clamp(0, 1)
    return (math.log(ratio) * 0.5 * torch.cos(math.pi * part)).exp().expand(1, 1, *size).clone()


def dense(basis, table):
    """B^-1 table B as a matrix `(n, n)`."""
    n = math.prod(basis.size)
    unit = torch.eye(n, dtype=torch.float64).reshape(n, 1, *basis.size)
    return basis.inverse(table * basis.forward(unit)).reshape(n, n).T


class Oracle:
    """The exact posterior of Gaussian data whose noise has a map, by dense linear algebra in float64."""

    def __init__(self, denoiser, factor):
        basis, (h, _, s2) = denoiser.process.basis, denoiser.process.measurement
        m = factor.flatten()
        blur, prior = dense(basis, h), dense(basis, denoiser.prior()[1])
        self.noise = m[:, None] * dense(basis, s2) * m[None]
        self.covariance = blur @ prior @ blur.T + self.noise
        self.gain = prior @ blur.T @ torch.linalg.inv(self.covariance)
        self.left = prior - self.gain @ blur @ prior

    def mean(self, y, level):
        return (level + self.gain @ (y.flatten() - level)).reshape(y.shape)


@pytest.fixture(scope="module", name="gaussian")
def _gaussian():
    return GaussianDenoiser(fourier(Fourier((SIDE, SIDE)), noise_weights=(0.3, 1.0, 0.5)), spectrum=SPECTRUM)


def net_denoiser(size=(SIDE, SIDE), **options):
    torch.manual_seed(0)
    net = UNet(in_channels=2, out_channels=3, width=8, multipliers=(1, 2), level_features=8, patch=2)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    scale = SpreadScale(
        (-4.0, 0.0), ((1.0, 2.0), (3.0, 0.5)), SpectrumScale((0.0, 1.0), (0.0, 1.0), ((1.0, 2.0), (0.5, 3.0)))
    )
    settings = {"level": "clock", "bands": 2, "spread_scale": scale} | options
    return NetDenoiser(net, fourier(Fourier(size)), SPECTRUM, **settings)


def observed(process, size, seed=0):
    return process.pairing.simulate(field(size)[None].double(), process.basis, torch.tensor([seed]))


# ---- the Gaussian part ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "tolerance"), [(16, 0.003), (8, 0.01), (4, 0.025)])
def test_mean_and_variance_are_those_of_the_dense_posterior(gaussian, width, tolerance):
    factor = wave((SIDE, SIDE), width=width)
    uneven, oracle = Uneven(gaussian, factor), Oracle(gaussian, factor)
    y = observed(gaussian.process, (SIDE, SIDE))
    mean, spread = uneven.observe(y)
    sd = oracle.left.diagonal().sqrt().reshape(y.shape)
    assert float(((mean - oracle.mean(y, SPECTRUM.mean)) / sd).abs().max()) < 1e-4
    ratio = spread.variance() / sd**2
    assert float((ratio - 1).abs().max()) < tolerance
    even = Uneven(gaussian, torch.full_like(factor, float(factor.log().mean().exp())))
    assert float((even.observe(y).spread.variance() / sd**2 - 1).abs().max()) > 0.25  # what one level would say


def test_the_smoothed_map_is_what_makes_the_variance_right(gaussian):
    factor = wave((SIDE, SIDE), width=4)
    uneven, oracle = Uneven(gaussian, factor), Oracle(gaussian, factor)
    exact = oracle.left.diagonal().reshape(1, 1, SIDE, SIDE)
    spread = uneven.observe(observed(gaussian.process, (SIDE, SIDE))).spread
    raw = replace(spread, weights=uneven.law.bank.weights)
    found, plain = (float((s.variance() / exact - 1).abs().max()) for s in (spread, raw))
    assert found < 0.5 * plain


def test_draws_have_the_stated_variance_and_nearly_the_covariance_of_the_posterior(gaussian):
    factor = wave((SIDE, SIDE), width=8)
    uneven, oracle = Uneven(gaussian, factor), Oracle(gaussian, factor)
    spread = uneven.observe(observed(gaussian.process, (SIDE, SIDE))).spread
    n = SIDE**2
    units = torch.eye(n, dtype=torch.float64).reshape(1, n, 1, SIDE, SIDE)
    root = spread.draw(units).reshape(n, n)
    found = root.T @ root
    assert torch.allclose(found.diagonal(), spread.variance().flatten(), rtol=1e-9)
    assert float((found - oracle.left).norm() / oracle.left.norm()) < 0.04


def test_a_constant_map_is_the_instrument_with_that_much_noise(gaussian):
    twice = replace(gaussian, process=fourier(Fourier((SIDE, SIDE)), noise_weights=(1.2, 4.0, 2.0)))
    y = observed(twice.process, (SIDE, SIDE))
    t = torch.ones(1, dtype=torch.float64)
    wanted = twice.estimate(y, t)
    found = Uneven(gaussian, torch.full((1, 1, SIDE, SIDE), 2.0)).observe(y)
    assert torch.allclose(found.mean, wanted.mean, atol=1e-9)
    assert torch.allclose(found.spread.variance(), wanted.spread.variance(), rtol=1e-9)


@pytest.mark.parametrize("spread", ["local", "uncalibrated", "wiener"])
def test_a_constant_map_is_the_ordinary_call_of_a_network(spread):
    denoiser = net_denoiser(spread=spread)
    y, t = observed(denoiser.process, (SIDE, SIDE)), torch.ones(1, dtype=torch.float64)
    with torch.no_grad():
        wanted = denoiser.estimate(y, t)
        found = Uneven(denoiser, torch.ones(1, 1, SIDE, SIDE)).observe(y)
    z = torch.randn(wanted.spread.fields, 3, 1, SIDE, SIDE, dtype=torch.float64)
    assert torch.allclose(found.mean, wanted.mean, atol=1e-9)
    assert torch.allclose(found.spread.variance(), wanted.spread.variance().double(), rtol=1e-6)
    assert torch.allclose(found.spread.draw(z), wanted.spread.draw(z), atol=1e-9)


def test_a_nearly_constant_map_is_nearly_the_ordinary_call_of_a_network():
    """Two levels a part in a million apart: the way of a map, at the answer of none."""
    denoiser = net_denoiser()
    y, t = observed(denoiser.process, (SIDE, SIDE)), torch.ones(1, dtype=torch.float64)
    uneven = Uneven(denoiser, wave((SIDE, SIDE), 1 + 1e-6))
    assert len(uneven.law.bank.level) == 2
    with torch.no_grad():
        wanted, found = denoiser.estimate(y, t), uneven.observe(y)
    assert torch.allclose(found.mean, wanted.mean, atol=1e-5)
    assert torch.allclose(found.spread.variance(), wanted.spread.variance().double(), rtol=1e-4)


def test_complex_images_of_two_channels():
    basis = Fourier((8, 8), complex=True)
    denoiser = GaussianDenoiser(fourier(basis), 0.0, SPECTRUM.on(basis))
    factor = wave((8, 8), 2.0)
    y = torch.randn(1, 2, 8, 8, dtype=torch.complex128)
    found = Uneven(denoiser, factor).observe(y)
    real = GaussianDenoiser(fourier(Fourier((8, 8))), 0.0, SPECTRUM.on(Fourier((8, 8))))
    wanted = Uneven(real, factor)
    for part in ("real", "imag"):
        expected = torch.cat([wanted.observe(getattr(y[:, c : c + 1], part)).mean for c in range(2)], 1)
        assert torch.allclose(getattr(found.mean, part), expected, atol=1e-5)


def test_levels_are_a_partition_of_unity_in_the_logarithm():
    level = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    at = torch.tensor([0.25, 0.5, math.sqrt(0.5), 1.0, 1.5, 2.0, 4.0], dtype=torch.float64).log().reshape(1, 1, -1)
    weights = levels_of(at, level)[0]
    assert torch.allclose(weights.sum(0), torch.ones(7, dtype=torch.float64))
    assert torch.allclose(weights[:, 2], torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    assert weights[:, 3].tolist() == [0.0, 1.0, 0.0]
    assert weights[0, 0] == 1.0
    assert weights[2, 6] == 1.0


def test_conjugate_gradients_solve_and_say_what_is_left():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(12, dtype=torch.float64)
    rest = torch.randn(12, generator=generator, dtype=torch.float64)
    found = conjugate_gradients(lambda x: matrix @ x, lambda x: x, rest, 1e-10)
    assert torch.allclose(found.x, torch.linalg.solve(matrix, rest), atol=1e-7)
    short = conjugate_gradients(lambda x: matrix @ x, lambda x: x, rest, 1e-10, 2)
    assert short.rounds == 2
    assert short.left > 1e-3
    assert conjugate_gradients(lambda x: x, lambda x: x, torch.zeros(3)).left == 0.0


# ---- networks -------------------------------------------------------------------------------------------------------


def unet():
    torch.manual_seed(0)
    net = UNet(in_channels=2, out_channels=1, width=8, multipliers=(1, 2), level_features=3, patch=2)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.15)
    return net.eval().requires_grad_(False)


def test_where_one_level_has_all_the_weight_the_answer_is_that_of_the_level():
    net, x = unet(), torch.randn(2, 2, 18, 20)
    levels = torch.randn(2, 3, 3)
    for k in range(3):
        weights = torch.zeros(2, 3, 18, 20)
        weights[:, k] = 1.0
        assert torch.allclose(net(x, levels, weights), net(x, levels[:, k]), atol=1e-5)


def test_a_level_holds_where_its_weight_is():
    net, x, levels = unet(), torch.randn(1, 2, 96, 32), torch.randn(1, 2, 3)
    weights = torch.zeros(1, 2, 96, 32)
    weights[:, 0, :48] = weights[:, 1, 48:] = 1.0
    found = net(x, levels, weights)
    far = net.receptive_field
    assert far < 40
    assert torch.allclose(found[:, :, : 48 - far], net(x, levels[:, 0])[:, :, : 48 - far], atol=1e-5)
    assert torch.allclose(found[:, :, 48 + far :], net(x, levels[:, 1])[:, :, 48 + far :], atol=1e-5)


@pytest.mark.parametrize("wide", [(96, 130), (60, 40)])
def test_tiles_equal_the_whole_with_a_map(wide):
    net, x, levels = unet().double(), torch.randn(1, 2, *wide, dtype=torch.float64), torch.randn(1, 3, 3)
    weights = torch.rand(1, 3, *wide, dtype=torch.float64)
    weights = weights / weights.sum(1, keepdim=True)
    tiled = Tiled(net, 32)
    assert tiled.mapped
    assert torch.allclose(tiled(x, levels.double(), weights), net(x, levels.double(), weights), atol=1e-10)


def test_shapes_that_do_not_fit_are_named():
    net, x = unet(), torch.randn(1, 2, 16, 16)
    with pytest.raises(InputError, match="shape of level"):
        net(x, torch.zeros(1, 3), torch.ones(1, 1, 16, 16))
    with pytest.raises(InputError, match="shape of weights"):
        net(x, torch.zeros(1, 1, 3), torch.ones(1, 1, 8, 16))


def test_what_cannot_take_a_map_says_so():
    basis, one = Fourier((SIDE, SIDE)), torch.ones(1, 1, SIDE, SIDE)
    with pytest.raises(InputError, match="its own noise alone"):
        Uneven(replace(net_denoiser(), level="rms"), one)
    with pytest.raises(InputError, match="'mapped'"):
        Uneven(replace(net_denoiser(), net=network(torch.nn.Identity())), one)
    with pytest.raises(InputError, match="Wavelet basis"):
        Uneven(GaussianDenoiser(PROCESSES["wavelet_bands"](Wavelet((8, 8), levels=2)), 0.0, torch.ones(8, 8)), one)
    sees = external(PROCESSES["vp"](basis), fourier(basis))
    with pytest.raises(InputError, match="terminal process"):
        Uneven(GaussianDenoiser(sees, spectrum=SPECTRUM), one)
    good = GaussianDenoiser(fourier(basis), spectrum=SPECTRUM)
    for bad in (one[..., 1:], 0 * one, one * math.inf, wave((SIDE, SIDE), 30.0)):
        with pytest.raises(InputError, match="noise map"):
            Uneven(good, bad)


# ---- the margin -----------------------------------------------------------------------------------------------------


def test_the_margin_is_drawn_from_its_law_given_the_image():
    """Two images with the same seed differ in the margin by the conditional mean, a dense matrix."""
    size = (12, 10)
    denoiser = GaussianDenoiser(fourier(Fourier(size)), spectrum=SPECTRUM)
    frame = frame_of(size, denoiser.process.basis, 4, 2)
    uneven = mapped(denoiser.on(frame.size), wave(size, 2.0), frame)
    seeds = torch.tensor([3])
    y = torch.randn(2, 1, *size, dtype=torch.float64)
    fields = [surrounded_with_map(uneven, one[None], frame, seeds) for one in y]
    C = Oracle(uneven.inner, uneven.factor).covariance
    inside = torch.zeros(frame.size, dtype=torch.bool)
    inside[frame.crop[1:]] = True
    at = inside.flatten()
    wanted = C[:, at] @ torch.linalg.solve(C[at][:, at], (y[0] - y[1]).flatten())
    assert torch.allclose((fields[0] - fields[1]).flatten(), wanted, atol=1e-4)
    assert torch.equal(fields[0][frame.crop], y[:1])


def test_one_call_is_calibrated_up_to_the_border():
    """Mean square of error over deviation, of fields that go on beyond the image, and of members around the mean."""
    wide, size, inner = (64, 64), (24, 24), (..., slice(20, 44), slice(20, 44))
    big = fourier(Fourier(wide), noise_weights=(0.3, 1.0, 0.5))
    frame = frame_of(size, big.basis.on(size), 12, 1)
    denoiser = GaussianDenoiser(big.on(frame.size), spectrum=SPECTRUM)
    factor, scores, spreads = wave(size, 2.0), [], []
    for seed in range(40):
        x0 = field(wide, seed)[None].double()
        blurred = big.basis.inverse(big.measurement.h * big.basis.forward(x0))
        noise = big.pairing.simulate(x0, big.basis, torch.tensor([seed])) - blurred
        y = blurred[inner] + factor * noise[inner]
        found = instant_with_map(denoiser, y, factor, frame, torch.tensor([seed, 1000 + seed]))
        scores.append((found.mean - x0[inner]) ** 2 / found.variance)
        spreads.append(((found.members - found.mean) ** 2).mean(0, keepdim=True) / found.variance)
    score, spread = (torch.cat(x).mean(0)[0] for x in (scores, spreads))
    inside = torch.zeros(size, dtype=torch.bool)
    inside[4:-4, 4:-4] = True
    for found in (score, spread):
        assert abs(float(found[inside].mean()) - 1) < 0.06
        assert abs(float(found[~inside].mean()) - 1) < 0.1


# ---- restorations ---------------------------------------------------------------------------------------------------


SIZE = (96, 80)


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    record = replace(spec(), level="clock")
    denoiser = record.build("test")
    record = replace(record, held_out=law_of(denoiser).to_json())
    save_model(record, denoiser.net.state_dict(), folder / "model")
    return load_model(folder / "model")


def round_map(size=SIZE, ratio=3.0):
    """The centre is `ratio` times noisier than the corners."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    return np.exp(np.log(ratio) * (0.5 - np.clip(np.hypot(y, x), 0, 1) ** 2))


def uneven_scan(factor, seed=1):
    """An image in HU whose noise is `factor` times that of the instrument, and the truth."""
    process = fourier(Fourier(SIZE))
    x0 = field(SIZE, seed)[None] - 5
    blurred = process.basis.inverse(process.measurement.h.float() * process.basis.forward(x0))
    noise = process.pairing.simulate(x0, process.basis, torch.tensor([seed])) - blurred
    values = blurred + torch.as_tensor(factor).float() * noise
    return Image(100 * values[0], "HU", (1.0, 1.0), "npz", ()), 100 * x0[0]


def test_with_its_map_an_uneven_image_is_a_posterior_and_without_none(model):
    image, truth = uneven_scan(round_map())
    found = restore(image, model=model, instant=True, noise_map=round_map(), samples=3, keep_samples=True)
    assert found.verdict.kind == "posterior"
    assert len(found.samples) == 3
    score = ((found.mean.values - truth) / found.sd.values) ** 2
    assert 0.85 < float(score.mean()) < 1.2
    assert float(found.sd.values[0, 40:56, 32:48].mean()) > 1.2 * float(found.sd.values[0, :8, :8].mean())
    for changes in ({}, {"instant": True, "noise_map": np.ones(SIZE)}):
        worse = restore(image, model=model, samples=2, **changes)
        assert worse.verdict.kind == "point"
        assert worse.sd is None
        assert "not calibrated because the noise" in worse.verdict.text


def test_an_absolute_map_in_a_file_is_the_relative_one(model, tmp_path):
    image, _ = uneven_scan(round_map())
    weight = model.denoiser.process.basis.multiplicity()
    noise = 100 * float((model.denoiser.process.measurement.s2 * weight).sum() / weight.sum()) ** 0.5
    np.savez(tmp_path / "map.npz", image=noise * round_map(), spacing=(1.0, 1.0), unit="HU")
    settings = {"model": model, "instant": True}
    found = restore(image, tmp_path / "out", noise_map=tmp_path / "map.npz", **settings)
    wanted = restore(image, noise_map=round_map(), **settings)
    assert torch.allclose(found.mean.values, wanted.mean.values, atol=0.05)
    assert torch.allclose(found.sd.values, wanted.sd.values, rtol=1e-3)
    record = json.loads((tmp_path / "out" / "image_restore.json").read_text())
    assert record["sampling"]["rule"] == "one call"
    assert record["noise_map"]["highest"] == pytest.approx(round_map().max(), rel=1e-3)


def test_one_map_serves_all_slices_and_each_may_have_its_own(model):
    image, _ = uneven_scan(round_map())
    stack = Image(image.values[:, None].repeat(1, 2, 1, 1), "HU", (math.nan, 1.0, 1.0), "npz", (), regular=False)
    settings = {"model": model, "instant": True, "point": True}
    one = restore(stack, noise_map=round_map(), **settings)
    each = restore(stack, noise_map=np.stack([round_map(), np.ones(SIZE)]), **settings)
    assert torch.equal(one.mean.values[:, 0], each.mean.values[:, 0])
    assert not torch.allclose(one.mean.values[:, 1], each.mean.values[:, 1], atol=1.0)


def test_another_spacing_takes_the_map_along(model):
    image, _ = uneven_scan(round_map())
    fine = replace(image, spacing=(0.8, 0.8))
    settings = {"model": model, "instant": True, "resample": True, "noise_map": round_map()}
    found = restore(fine, point=True, **settings)
    assert found.mean.values.shape == image.values.shape


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"instant": False}, NotCalibratedError, "instant mode"),
        ({"steps": 3}, InputError, "one call"),
        ({"rule": "euler_maruyama"}, InputError, "rule"),
        ({"noise_map": 0 * round_map()}, InputError, "above 0"),
        ({"noise_map": round_map()[1:]}, InputError, "95 x 80 pixels; expected 96 x 80"),
        ({"noise_map": np.where(round_map() > 1, 3.0, 1.0)}, InputError, "factor of 3 within 4 mm"),
        ({"noise_map_unit": "mm"}, InputError, "noise_map: unit"),
        ({"noise_map": None, "noise_map_unit": "1"}, InputError, "without a noise map"),
        ({"noise_map": "nowhere.npz"}, InputError, "nowhere.npz"),
        ({"model": "ct-simulated"}, InputError, "its own noise alone"),
    ],
)
def test_what_is_no_posterior_is_refused_by_name(model, changes, error, said):
    image, _ = uneven_scan(round_map())
    settings = {"model": model, "instant": True, "noise_map": round_map()} | changes
    with pytest.raises(error, match=said):
        restore(image, **settings)


def test_a_map_of_other_pixels_is_refused(model):
    image, _ = uneven_scan(round_map())
    other = Image.of(round_map(), unit="1", spacing=(0.5, 0.5))
    with pytest.raises(InputError, match=r"0\.5 x 0\.5 mm; expected 1 x 1 mm"):
        restore(image, model=model, instant=True, noise_map=other)


def test_the_misfit_is_taken_at_the_local_level(model):
    image, truth = uneven_scan(round_map())
    y, x = (model.intensity.encode(v)[None] for v in (image.values, truth))
    nothing = torch.zeros(1, *SIZE, dtype=torch.bool)
    factor = torch.as_tensor(round_map())[None, None]
    plain, mapped = (BandMisfit(model.denoiser, y, nothing, 16, f).ratios(x, 0) for f in (None, factor))
    assert float(plain.uneven) > 8
    assert float(mapped.uneven) < 3
    assert float((mapped.bands - 1).abs().max()) < 0.2


def test_steepest_looks_along_every_axis():
    factor = torch.ones(1, 1, 12, 12, dtype=torch.float64)
    factor[..., 6:, :] = 1.5
    factor[..., 8:, :] = 3.0
    assert steepest(factor, 4) == pytest.approx(3.0)
    assert steepest(factor, 1) == pytest.approx(2.0)
    assert steepest(factor.transpose(-1, -2), 4) == pytest.approx(3.0)


# ---- measuring a map ------------------------------------------------------------------------------------------------


NYQUIST = 0.5 / 0.8


def phantom(factor, seed=0, edges=0, contrast=100.0):
    """A disc with noise `factor` times an NPS (HU on 0.8 mm pixels), and discs of another value in it."""
    size = factor.shape
    basis = Fourier(tuple(size), (0.8, 0.8))
    f = basis.radius()
    density = 150.0 * (f / 0.3) * torch.exp(-((f / 0.5) ** 2)) + 5.0
    z = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = basis.inverse((density / 0.64).sqrt() * basis.forward(z))
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in size), indexing="ij")
    object_ = torch.zeros(size, dtype=torch.float64)
    for k in range(edges):
        object_ += contrast * (((y - math.sin(k)) ** 2 + (x - math.cos(k) * k / edges) ** 2).sqrt() < 0.08)
    return object_ + torch.as_tensor(factor) * noise, basis, density


def curve_of(basis, density):
    from retrodict.bases.curve import Curve

    f = torch.linspace(0, 0.9, 200, dtype=torch.float64)
    return Curve.isotropic(f, 150.0 * (f / 0.3) * torch.exp(-((f / 0.5) ** 2)) + 5.0, "HU^2 mm^2")


def smooth_map(n=256, ratio=3.0):
    x = torch.linspace(-1, 1, n, dtype=torch.float64)
    return torch.exp(math.log(ratio) * (0.5 - 0.5 * (x[:, None] ** 2 + x[None] ** 2)))


def test_the_level_is_found_with_its_error():
    factor = smooth_map()
    values, basis, density = phantom(factor)
    seen = torch.ones(1, *factor.shape, dtype=torch.bool)
    found = local_noise(values[None], (0.8, 0.8), seen, above=0.4)
    power = density / 0.64 * high_pass((256, 256), (0.8, 0.8), 0.4) ** 2
    true = factor * ((power * basis.multiplicity()).sum() / 256**2).sqrt()
    off = (found.level / true).log()
    assert abs(float(off.mean())) < 0.015
    assert float(off.square().mean().sqrt()) < 0.03
    assert float(off[32:-32, 32:-32].abs().max()) < 0.08
    assert 0.6 < float((off / found.error).square().mean().sqrt()) < 1.7
    assert found.clean > 0.95
    assert 0.85 < found.scatter < 1.15


def test_edges_are_left_out():
    factor = smooth_map()
    values, basis, density = phantom(factor, edges=14)
    seen = torch.ones(1, *factor.shape, dtype=torch.bool)
    found = local_noise(values[None], (0.8, 0.8), seen, above=0.45)
    power = density / 0.64 * high_pass((256, 256), (0.8, 0.8), 0.45) ** 2
    true = factor * ((power * basis.multiplicity()).sum() / 256**2).sqrt()
    assert 0.3 < found.clean < 0.98
    off = (found.level / true).log()
    assert float(off.square().mean().sqrt()) < 0.08
    assert abs(float(off.median())) < 0.06


def write_scan(path, values, unit="HU"):
    np.savez(path, image=values.numpy().astype(np.float32), spacing=(0.8, 0.8), unit=unit)
    return path


def test_a_measured_map_is_relative_to_the_nps_and_can_be_read_back(tmp_path):
    factor = smooth_map()
    values, basis, density = phantom(factor)
    scan = write_scan(tmp_path / "scan.npz", values)
    found = measure_noise_map(scan, nps=curve_of(basis, density), above=0.4)
    assert float((found.image.values[0] / factor).log().square().mean().sqrt()) < 0.03
    files = found.save(tmp_path / "map.npz")
    assert [f.name for f in files] == ["map.npz", "map.json", "map.png"]
    back = read(files[0])
    assert back.unit == "1"
    assert torch.equal(back.values, found.image.values)
    with pytest.raises(InputError, match="earlier run"):
        found.save(tmp_path / "map.npz")
    alone = measure_noise_map(scan, above=0.4)
    assert float(alone.image.values.square().mean()) == pytest.approx(1.0, abs=1e-3)


def test_rounding_is_taken_off(tmp_path):
    values = phantom(0.1 * smooth_map())[0].round()
    found = measure_noise_map(write_scan(tmp_path / "scan.npz", values), above=0.4).image.values[0]
    ratio = (found / smooth_map()).log()
    assert float((ratio - ratio.mean()).square().mean().sqrt()) < 0.05


def test_noise_of_which_half_is_rounding_is_refused():
    values = torch.arange(256.0 * 256).reshape(1, 256, 256)
    share = float(_share(high_pass((256, 256), (0.8, 0.8), 0.4), (256, 256))) / 12
    for level, refused in ((1.4, True), (1.5, False)):
        table = torch.full((256, 256), level * share**0.5, dtype=torch.float64)
        found = LocalNoise(table, 0.01 * table, table > 0, 99, 1.0, 60.0, 0.1, 1.0, 1.0)
        if refused:
            with pytest.raises(InputError, match="rounded"):
                _without_rounding(found, values, (0.8, 0.8), 0.4)
        else:
            left = _without_rounding(found, values, (0.8, 0.8), 0.4).level[0, 0]
            assert float(left) == pytest.approx(((level**2 - 1) * share) ** 0.5)


def test_slices_have_maps_of_their_own_or_one(tmp_path):
    factors = smooth_map(), smooth_map(ratio=1.0)
    stack = torch.stack([phantom(f, seed)[0] for seed, f in enumerate(factors)])
    scan = write_scan(tmp_path / "scan.npz", stack)
    each = measure_noise_map(scan, above=0.4)
    assert each.image.values.shape == (1, 2, 256, 256)
    spans = [float(m.max() / m.min()) for m in each.image.values[0]]
    assert spans[0] > 2.4
    assert spans[1] < 1.2
    files = each.save(tmp_path / "map.npz", plot=False)
    assert read(files[0], slices="independent").values.shape == (1, 2, 256, 256)
    one = measure_noise_map(scan, above=0.4, together=True)
    assert one.image.values.shape == (1, 256, 256)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        (lambda: phantom(smooth_map(), edges=60)[0], {"above": 0.3}, "reaches into"),
        (lambda: phantom(smooth_map())[0][:64, :64], {}, "at least 96"),
        (lambda: phantom(smooth_map())[0], {"above": 2.0}, "the corner"),
        (lambda: phantom(smooth_map())[0], {"tile": 2}, "at least 8"),
        (lambda: torch.full((256, 256), 3.0, dtype=torch.float64), {}, "hold noise alone"),
    ],
)
def test_where_the_noise_cannot_be_seen_it_is_said(tmp_path, values, options, said):
    with pytest.raises(InputError, match=said):
        measure_noise_map(write_scan(tmp_path / "scan.npz", values()), **options)


def test_measured_process_takes_a_map(gaussian):
    """The process that ends at measured curves is one with a map too."""
    f = [0.0, 0.4, 0.8]
    mtf = {"frequency": f, "value": [1.0, 0.5, 0.1], "unit": "1", "frequency_unit": "cycles/mm"}
    nps = {"frequency": f, "value": [0.1, 0.3, 0.2], "unit": "HU^2 mm^2", "frequency_unit": "cycles/mm"}
    denoiser = replace(gaussian, process=measured(Fourier((SIDE, SIDE)), mtf, nps))
    factor = wave((SIDE, SIDE), width=16)
    oracle, y = Oracle(denoiser, factor), observed(denoiser.process, (SIDE, SIDE))
    found = Uneven(denoiser, factor).observe(y)
    assert torch.allclose(found.mean, oracle.mean(y, SPECTRUM.mean), atol=1e-4)
    assert float((found.spread.variance().flatten() / oracle.left.diagonal() - 1).abs().max()) < 0.01
