"""The patch-denoising experiment against closed forms (medical spec, section 6.5); no trained network."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
pytest.importorskip("nibabel")  # patch_data reads the CT volumes of the experiment with it

import patches
from patch_data import area_weights, crop
from patch_train import frequency_loss, specification
from retrodict import InputError
from retrodict._random import member_seeds
from retrodict.bases import Cosine, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.data import read_medmnist
from retrodict.denoisers.denoiser import Estimate, GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.nets import UNet
from retrodict.processes.scalar import cosine, ve
from retrodict.samplers import make_plan
from retrodict.samplers.card import gaussian_posterior, posterior_card
from retrodict.training.losses import draw_times, simulate

SIGMA = 0.3
MMSE = SIGMA**2 / (1 + SIGMA**2)
ONE = torch.ones(1, dtype=torch.float64)


def white_images(count, seed=0, side=28):
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def seeds(count):
    return torch.arange(count)


# ---- a: an isotropic Gaussian ----


@pytest.fixture(scope="module")
def isotropic():
    """A network that answers zero, trained (so to say) on a VE process and bound to the one that ends at y."""
    net = UNet(in_channels=2, out_channels=1, width=8, multipliers=(1,))
    trained = NetDenoiser(net, ve(Cosine((28, 28))), spectrum=Spectrum.flat(0.0, 1.0))
    return patches.ending_at_y(trained)


def test_mean_and_sample_of_an_isotropic_gaussian_are_exact_on_the_card(isotropic):
    process, spectrum = isotropic.process, isotropic.spectrum.on(isotropic.process.basis)
    variance = isotropic.estimate(torch.zeros(1, 1, 28, 28), ONE).spread.variance()
    assert variance.double().allclose(torch.tensor(MMSE, dtype=torch.float64), rtol=1e-6)
    assert math.isclose(MMSE, 0.0825688, abs_tol=1e-7)
    plan = make_plan("matched", process, torch.linspace(1, 0, 9, dtype=torch.float64))
    gain, spread = posterior_card(plan, spectrum)
    exact_gain, exact_spread = gaussian_posterior(spectrum, process.measurement)
    assert torch.allclose(gain, exact_gain, atol=1e-12)
    assert torch.allclose(spread, exact_spread, atol=1e-12)


def test_psnr_of_mean_and_matched_sample_of_an_isotropic_gaussian(isotropic):
    x0 = white_images(500)
    y = patches.noisy(x0)
    with torch.inference_mode():
        mean = patches.psnr(patches.one_call(isotropic, y), x0).mean()
        drawn = patches.psnr(patches.matched(isotropic, 4)(y, seeds(500)), x0).mean()
    assert float(patches.psnr(y, x0).mean()) == pytest.approx(16.478, abs=0.02)
    assert float(mean) == pytest.approx(16.852, abs=0.02)
    assert float(drawn) == pytest.approx(13.842, abs=0.02)


def test_a_state_of_the_cosine_process_is_the_same_measurement(isotropic):
    """One call at t* of the variance-preserving process, on a* y, is the call at y itself."""
    clock = NetDenoiser(isotropic.net, cosine(Cosine((28, 28)), end=1.0), spectrum=isotropic.spectrum)
    t = patches.time_of(clock.process, SIGMA**2 * ONE)
    y = white_images(1)
    h = clock.process.moments(t).h
    assert float(h**2) == pytest.approx(1 / (1 + SIGMA**2), abs=1e-12)
    with torch.inference_mode():
        assert torch.allclose(clock(h.to(y) * y, t), patches.one_call(isotropic, y), atol=1e-6)


# ---- b: the chain from y and the fused chain are both the posterior ----

PRIOR = torch.tensor([[0.6, 0.35], [0.35, 0.4]], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)


class Dense:
    """Exact denoiser and error law of N(0, PRIOR) in two pixels, at one time for the whole batch."""

    def __init__(self, process):
        self.process = process

    def covariance(self, t):
        h, s2 = (float(v.reshape(-1)[0]) for v in self.process.moments(t[:1])[::2])
        gain = h * PRIOR @ torch.linalg.inv(h**2 * PRIOR + s2 * EYE)
        return gain, (EYE - h * gain) @ PRIOR

    def __call__(self, xt, t):
        return xt @ self.covariance(t)[0].T

    def estimate(self, xt, t):
        return Estimate(self(xt, t), self.covariance(t)[1])


def moments(denoiser, plan, gain, variance):
    """Gain on y and covariance of what a plan returns, from those at its start, by its recursion.

    The batch of four is made of unit states with y = 0 and zero states with y a unit vector.
    """
    states = torch.cat([EYE, 0 * EYE])[:, None]
    for row in plan:
        t = torch.full((4,), row.t, dtype=torch.float64)
        keep, data = (float(v[0].reshape(-1)[0]) for v in (row.keep, row.data))
        mean, spread = denoiser.estimate(states, t)
        by_state, by_y = mean[:2, 0].T, mean[2:, 0].T
        step = keep * EYE + data * by_state
        gain, variance = step @ gain + data * by_y, step @ variance @ step.T
        for weight in row.noise:
            variance = variance + float(weight.reshape(-1)[0]) ** 2 * EYE
        if row.spread:
            variance = variance + data**2 * spread
    return gain, variance


def chains(process, rule, steps):
    """(gain, covariance) of the chain from t* and of the fused chain from t = 1."""
    denoiser = Dense(process)
    start = patches.time_of(process, SIGMA**2 * ONE)
    scale = float(process.moments(start).h)
    short = make_plan(rule, process, torch.linspace(float(start), 0, steps + 1, dtype=torch.float64))
    whole = make_plan(rule, process, torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    y = torch.cat([0 * EYE, EYE])[:, None]
    yield moments(denoiser, short, scale * EYE, 0 * EYE)
    yield moments(patches.Fused(denoiser, y), whole, 0 * EYE, EYE)


@pytest.mark.parametrize(("rule", "steps", "tolerance"), [("matched", 6, 1e-9), ("ancestral", 1000, 0.02)])
def test_the_chain_from_y_and_the_fused_chain_are_the_posterior(rule, steps, tolerance):
    exact_gain = PRIOR @ torch.linalg.inv(PRIOR + SIGMA**2 * EYE)
    exact = (EYE - exact_gain) @ PRIOR
    for gain, variance in chains(cosine(Pixel((2,)), end=1.0), rule, steps):
        assert float((gain - exact_gain).abs().max()) < 1e-3 * tolerance / 0.02
        assert float((variance - exact).abs().max() / exact.abs().max()) < tolerance


def test_the_loop_of_the_deck_is_not_the_posterior():
    """Prior variance 0.25: by its text too little variance (inverse spec, section 1: 0.487), by its code nothing."""
    size, process = (64, 64), cosine(Pixel((64, 64)), end=1.0)
    zero = torch.zeros(size, dtype=torch.float64)
    denoiser = GaussianDenoiser(process, zero, zero + 0.25)
    y = torch.ones(2, 1, *size)
    gain, variance = 0.25 / (0.25 + SIGMA**2), 0.25 * SIGMA**2 / (0.25 + SIGMA**2)
    with torch.inference_mode():
        text, code = (patches.deck(denoiser, y, seeds(2), code=c, clamp=False) for c in (False, True))
    assert float(text.mean()) / gain == pytest.approx(0.989, abs=0.01)
    assert float(text.var()) / variance == pytest.approx(0.487, abs=0.03)
    assert float(code.abs().max()) < 0.01


def test_the_fused_sampler_is_the_posterior():
    size, process = (64, 64), cosine(Pixel((64, 64)), end=1.0)
    zero = torch.zeros(size, dtype=torch.float64)
    denoiser = GaussianDenoiser(process, zero, zero + 0.25)
    y = torch.ones(2, 1, *size)
    x = patches.fused(denoiser, y, seeds(2), steps=8, rule="matched")
    assert float(x.mean()) == pytest.approx(0.25 / (0.25 + SIGMA**2), abs=0.01)
    assert float(x.var()) == pytest.approx(0.25 * SIGMA**2 / (0.25 + SIGMA**2), rel=0.05)


# ---- c, d: the level of y, and clipping ----


def test_the_time_of_the_cosine_schedule_at_which_the_state_is_y():
    process = cosine(Pixel((2,)), end=1.0)
    t = patches.time_of(process, torch.tensor([SIGMA**2, 1.0], dtype=torch.float64))
    assert float(t[0]) == pytest.approx(0.17920, abs=1e-5)
    assert torch.allclose(process.clock(t).reshape(-1), torch.tensor([SIGMA**2, 1.0], dtype=torch.float64), rtol=1e-12)


def test_clipping_halves_the_error_of_a_black_image():
    x0 = torch.full((1000, 1, 28, 28), -1.0)
    y = patches.noisy(x0)
    raw, clipped = (float(patches.psnr(v, x0).mean()) for v in (y, y.clamp(-1, 1)))
    assert raw == pytest.approx(20 * math.log10(2 / SIGMA), abs=0.02)
    assert clipped == pytest.approx(raw + 10 * math.log10(2), abs=0.03)


# ---- e: the frequency loss ----


@pytest.mark.parametrize("kind", ["repaired", "deck"])
def test_the_repaired_frequency_loss_is_a_pixel_error_and_that_of_the_deck_is_not(kind):
    x0 = 0.5 * white_images(6).clamp(-2, 2)
    denoiser = specification("plain", x0).build("test")
    torch.manual_seed(0)
    for p in denoiser.net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    keys = member_seeds(0, 0, 6)
    with torch.no_grad():
        plain, other = (frequency_loss(k)(denoiser, x0, keys, "", 0.0).total for k in ("plain", kind))
        t = draw_times(keys)
        mean = denoiser(simulate(denoiser.process, x0, t, keys)[0], t)
    snr = 1 / denoiser.process.clock(t).reshape(-1)
    pixels = ((mean - x0).double() ** 2).flatten(1).mean(1)
    assert torch.allclose(plain.double(), snr * pixels, rtol=1e-4)
    parseval = torch.allclose((other - plain).double(), 0.1 * snr.clamp_max(5) * pixels, rtol=1e-3)
    assert parseval == (kind == "repaired")
    spectra = torch.fft.fft2((mean - x0).double(), norm="ortho").abs() ** 2
    assert torch.allclose(spectra.flatten(1).mean(1), pixels, rtol=1e-6)


# ---- baselines and figures ----


def test_lmmse_is_the_direct_solve_and_its_sample_has_twice_the_error():
    draw = torch.Generator().manual_seed(3)
    mixing = torch.randn(36, 36, generator=draw, dtype=torch.float64) / 6
    data = (torch.randn(4000, 36, generator=draw, dtype=torch.float64) @ mixing.T + 0.2).reshape(-1, 1, 6, 6)
    prior = patches.GaussianPrior.fit(data)
    y = data[:500] + SIGMA * torch.randn(500, 1, 6, 6, generator=draw, dtype=torch.float64)
    flat, mu = data.flatten(1), data.flatten(1).mean(0)
    covariance = (flat - mu).T @ (flat - mu) / len(flat)
    eye = torch.eye(36, dtype=torch.float64)
    direct = mu + (y.flatten(1) - mu) @ torch.linalg.solve(covariance + SIGMA**2 * eye, covariance)
    mean = prior.posterior_mean(y)
    assert torch.allclose(mean.flatten(1), direct, atol=1e-10)
    errors = [float(((x - data[:500]) ** 2).mean()) for x in (mean, prior.posterior_sample(y, seeds(500)))]
    expected = float((prior.values * SIGMA**2 / (prior.values + SIGMA**2)).mean())
    assert errors[0] == pytest.approx(expected, rel=0.04)
    assert errors[1] == pytest.approx(2 * expected, rel=0.04)


def test_sliding_transform_keeps_what_is_above_the_threshold():
    x = white_images(2, side=12)
    assert torch.allclose(patches.sliding_dct(x, 0.0), x, atol=1e-5)
    flat = torch.full((1, 1, 12, 12), 0.4)
    assert torch.allclose(patches.sliding_dct(flat, 1e9), flat, atol=1e-6)
    noise = SIGMA * white_images(50)
    assert float(patches.sliding_dct(noise, 2.7 * SIGMA).var()) < 0.1 * SIGMA**2


def test_standard_errors_over_images_and_over_groups():
    values = torch.tensor([1.0, 2.0, 4.0, 7.0])
    assert patches.standard_error(values) == pytest.approx(float(values.std()) / 2)
    twice, groups = values.repeat_interleave(3), [i for i in range(4) for _ in range(3)]
    assert patches.standard_error(twice, groups) == pytest.approx(float(values.std()) / 2)
    assert math.isnan(patches.standard_error(values, [0, 0, 0, 0]))


def test_area_resampling_preserves_the_mean():
    image = white_images(1, side=50)[0, 0]
    assert float(crop(image, 50.0, torch.zeros(2)).mean()) == pytest.approx(float(image.mean()), abs=1e-6)
    weights = area_weights(3.3, 17.9, 40)
    assert torch.allclose(weights.sum(1), torch.ones(28))
    share = weights.sum(0) / 28  # of every pixel in the mean: its length inside [3.3, 21.2]
    assert float(share[3]) == pytest.approx(0.7 / 17.9, abs=1e-6)
    assert float(share[21]) == pytest.approx(0.2 / 17.9, abs=1e-6)
    assert torch.allclose(share[4:21], torch.full((17,), 1 / 17.9), atol=1e-6)
    ramp = torch.arange(40.0)[:, None].expand(40, 40)  # the average of a ramp over areas is the ramp at their centers
    centers = 0.5 * (40 - 28) + 28 / 28 * (torch.arange(28) + 0.5) - 0.5
    assert torch.allclose(crop(ramp, 28.0, torch.tensor([0.5, 0.5]))[:, 0], centers, atol=1e-4)


def test_rows_verdicts_and_rows_of_an_earlier_run():
    x0 = 0.5 * white_images(6)
    sets = patches.Patches("crops", x0, [0, 0, 1, 1, 2, 2])
    jobs = [
        patches.job(sets, "noisy", 0, lambda: lambda y, _: y),
        patches.job(sets, "noisy, clipped", 0, lambda: lambda y, _: y.clamp(-1, 1)),
        patches.job(sets, patches.MEAN, 1, lambda: lambda y, _: 0.9 * y, law_dB=0.0),
        patches.job(sets, patches.SAMPLE, 8, lambda: lambda y, _: 1.1 * y, **patches.SAMPLE_LAW),
    ]
    records = [row for one in jobs for row in one.compute()]
    assert [one.stored(records) for one in jobs] == [[row] for row in records]
    assert patches.Job(sets.first(3), ("noisy",), list).stored(records) is None
    assert records[0]["psnr"] == pytest.approx(16.48, abs=0.3)
    assert "psnr_se_slices" in records[0]
    assert not any(passed for _, passed in patches.verdicts(records))
    assert len(list(patches.verdicts(records))) == 5
    assert patches.render(records, "crops").row_count == 4


# ---- MedMNIST files ----


def test_medmnist_round_trip(tmp_path):
    images = np.arange(3 * 28 * 28, dtype=np.int64).reshape(3, 28, 28).astype(np.uint8)
    np.savez(tmp_path / "set.npz", test_images=images, test_labels=np.zeros((3, 1)))
    found = read_medmnist(tmp_path / "set.npz", "test")
    assert found.shape == (3, 1, 28, 28)
    assert (found.min(), found.max()) == (-1, 1)
    assert np.array_equal(((found[:, 0] + 1) * 127.5).round().numpy().astype(np.uint8), images)


GREY = np.zeros((2, 28, 28), dtype=np.uint8)
BAD = {
    "missing split": ({"train_images": GREY}, "test_images"),
    "color": ({"test_images": np.zeros((2, 28, 28, 3), dtype=np.uint8)}, "grey"),
    "dtype": ({"test_images": GREY.astype(np.float32)}, "uint8"),
    "empty": ({"test_images": GREY[:0]}, "uint8"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=list(BAD))
def test_medmnist_files_that_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_medmnist(tmp_path / "set.npz", "test")


def test_what_is_no_medmnist_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_medmnist(tmp_path / "none.npz", "test")
    for content in (b"", b"no archive", b"PK\x03\x04 cut short"):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(InputError, match="npz"):
            read_medmnist(tmp_path / "broken.npz", "test")
    np.savez(tmp_path / "set.npz", test_images=GREY)
    with pytest.raises(InputError, match="part"):
        read_medmnist(tmp_path / "set.npz", "all")


class Bomb:
    """Unpickling this leaves a mark."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_medmnist_object_arrays_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "set.npz", test_images=np.array([Bomb(tmp_path / "mark")], dtype=object))
    with pytest.raises(InputError, match="npz"):
        read_medmnist(tmp_path / "set.npz", "test")
    assert not (tmp_path / "mark").exists()
