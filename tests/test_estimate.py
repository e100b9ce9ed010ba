"""The instrument from the image itself: likelihood, recovery, refusals, and the way into `restore`."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models import make_model
from retrodict import Curve, Image, InputError, NotCalibratedError, RestoreOptions, restore
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.cli.app import app
from retrodict.cli.command import in_shell
from retrodict.metrics.blind import _climb
from retrodict.metrics.blind_law import CONTRAST, NAMES, PatchLaw
from retrodict.metrics.patch_power import HANN, OVERLAP, patch_power
from retrodict.tasks.estimate import _radial, estimate_instrument, estimated
from retrodict.tasks.estimate_prior import KERNELS, PRIOR, kernel_family, prior_of

D, SIDE = 0.8, 160
SHARP = Spectrum(0.0, (0.01, 0.1, 1.0), (12000.0, 30.0, 7.5e-3), 1.0)


def radius(side=SIDE):
    f = torch.fft.fftfreq(side, D, dtype=torch.float64)
    return torch.hypot(f[:, None], f[None])


def white(seed, side=SIDE):
    return torch.randn(side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def texture(sd=30.0, half=0.45, side=SIDE):
    f = radius(side)
    shape = (f / 0.3 + 0.1) * torch.exp(-2 * math.log(2) * (f / half) ** 2)
    return shape / shape.mean() * sd**2


def field(seed=0, side=SIDE):
    """Gaussian data of the spectrum (HU = 100 u) whose edges are those of the average patient."""
    x = radius(side).clamp_min(0.004) / 0.25
    power = 1e4 * SHARP._interpolate(0.25 * x) * x ** PRIOR["edge1"][0] * torch.exp(PRIOR["edge2"][0] * x * x / 4)
    return torch.fft.ifft2(torch.fft.fft2(white(100 + seed, side)) * power.sqrt() / D).real


def scene(seed=0):
    """Structure on the right, none on the left."""
    return 40 + field(seed) * torch.sigmoid((torch.arange(SIDE).double() - 70) / 4)


def measured(x, sd=30.0, half=0.45, seed=1):
    f = radius(len(x))
    mtf = torch.exp(-math.log(2) * (f / half) ** 2)
    noise = torch.fft.ifft2(torch.fft.fft2(white(seed, len(x))) * texture(sd, half, len(x)).sqrt()).real
    return torch.fft.ifft2(torch.fft.fft2(x) * mtf).real + noise


def image(values, spacing=D):
    return Image(values.float()[None], "HU", (spacing, spacing), "npz", ())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    loaded = make_model(tmp_path_factory.mktemp("model"))
    denoiser = replace(loaded.denoiser, spectrum=SHARP)
    return replace(loaded, denoiser=denoiser, spec=replace(loaded.spec, spacing=(D, D)))


@pytest.fixture(scope="module")
def found(model):
    return estimated(image(measured(scene())), model)


# ---- the parts ---------------------------------------------------------------------------------------------------


def test_power_of_white_noise_is_its_density():
    data = patch_power(torch.stack([white(k, 256) * 5 for k in range(4)]), (D, D))
    mean = data.power.mean(0) / (25 * D * D)
    free = data.freedom * len(data.power)
    assert ((mean - 1).abs() < 4 * (2 / free).sqrt()).all()
    # a ring alone scatters less, as neighbors across it, which are not independent, lie in other rings
    inner = data.power[:, 3:] / (25 * D * D)
    assert float((inner.var(0) * data.freedom[3:] / 2).mean()) == pytest.approx(HANN * OVERLAP**2, rel=0.1)


def test_patches_that_are_clipped_or_constant_are_left_out():
    x = white(0)[None].clone()
    flat = torch.zeros_like(x, dtype=torch.bool)
    flat[:, :, :80] = True
    data = patch_power(x, (D, D), flat=flat)
    assert 0.3 < data.flat < 0.7
    assert int(data.place[:, 2].min()) >= 80
    with pytest.raises(InputError, match="in every patch"):
        patch_power(x, (D, D), flat=torch.ones_like(flat))
    with pytest.raises(InputError, match="at least 32 x 32"):
        patch_power(white(0, 16)[None], (D, D))


def law():
    return PatchLaw(lambda f: 1e4 * f**-3, (D, D), *prior_of(None))


def test_the_noise_of_a_law_has_its_standard_deviation():
    free = law().start
    free[0] = math.log(7.0)
    f = radius(48)
    variance = law().noise(free, f.flatten()).mean() / D**2
    assert float(variance) == pytest.approx(49.0, rel=1e-12)


def test_the_likelihood_is_that_of_a_mixture():
    free = law().start + 0.1 * torch.randn(len(law().start), generator=torch.Generator().manual_seed(0)).double()
    data = patch_power(30 * white(3)[None], (D, D))
    weights, means, contrast = law().components(free, data.frequency)
    assert float(weights.logsumexp(0)) == pytest.approx(0, abs=1e-12)
    assert means.shape == (len(CONTRAST) * 9, len(data.frequency))
    p = data.power[0]
    terms = [w - sum(data.freedom / 2 * (p / m + m.log())) for w, m in zip(weights, means, strict=True)]
    whole = float(torch.stack(terms).logsumexp(0))
    assert float(law().log_likelihood(free, data)[0]) == pytest.approx(whole, rel=1e-12)
    # without contrast there is only noise, whose level averages to one
    quiet = contrast == 0
    mean = (weights[quiet].softmax(0)[:, None] * means[quiet]).sum(0)
    assert torch.allclose(mean, law().noise(free, data.frequency), rtol=1e-12)


def test_kernels_by_vendor():
    def family(name):
        return next((f for f, pattern in KERNELS if re.search(pattern, name)), None)

    assert [family(n) for n in ("STANDARD", "SOFT", "B30F", "FC17", "B", "BR40")] == ["standard"] * 6
    assert [family(n) for n in ("BONE", "LUNG", "B70F", "FC51", "L", "BL57")] == ["sharp"] * 6
    assert family("59") is None
    assert kernel_family(()) is None
    center = {n: float(prior_of(("B70f", "sharp"))[0][NAMES.index(n)]) for n in NAMES}
    assert center["lift"] > float(prior_of(None)[0][NAMES.index("lift")])


# ---- recovery ----------------------------------------------------------------------------------------------------


def test_noise_and_resolution_are_found(found):
    noise, half = found.summary["noise_sd"], found.summary["mtf50"]
    assert noise["value"] == pytest.approx(30, rel=0.05)
    assert half["lower"] < 0.45 < half["upper"]
    curve, basis = Curve.parse(found.nps, "nps"), Fourier((SIDE, SIDE), (D, D))
    truth = texture()[:, : SIDE // 2 + 1] * D**2
    band = (basis.radius() > 0.15) & (basis.radius() < 0.5)
    assert float(curve.on(basis)[band].mean() / truth[band].mean()) == pytest.approx(1, rel=0.1)
    for record in (found.nps, found.mtf):
        assert all(a <= b <= c for a, b, c in zip(record["lower"], record["value"], record["upper"], strict=True))
        assert "estimated from the image itself" in record["method"]["kind"]


def test_data_that_are_structure_everywhere(model):
    got = estimated(image(measured(field(1), seed=1)), model)
    noise, half = got.summary["noise_sd"], got.summary["mtf50"]
    assert noise["lower"] < 30 < noise["upper"]
    assert half["lower"] < 0.45 < half["upper"]
    assert half["upper"] > 2 * half["lower"]  # a softer patient would look the same
    assert "resolution unknown" in got.unknown


def test_a_known_curve_is_not_estimated(model):
    y = image(measured(scene()))
    f = torch.linspace(0, 1, 101, dtype=torch.float64)
    mtf = Curve.isotropic(f, torch.exp(-math.log(2) * (f / 0.45) ** 2), "1")
    only = estimated(y, model, mtf=mtf)
    assert only.mtf is None
    assert list(only.curves) == ["nps"]
    assert not only.unknown
    assert only.summary["noise_sd"]["value"] == pytest.approx(30, rel=0.05)
    assert "mtf50" not in only.summary
    shape = (f / 0.3 + 0.1) * torch.exp(-2 * math.log(2) * (f / 0.45) ** 2)
    nps = Curve.isotropic(f, shape / shape[30] * float(texture()[radius() >= f[30]].max()) * D**2, "HU^2 mm^2")
    only = estimated(y, model, nps=nps)
    assert list(only.curves) == ["mtf"]
    assert "noise_sd" not in only.summary  # the level of a known NPS is no parameter: a number would be the prior's
    assert set(only.summary["parameters"]) == {"half", "power", "lift"}
    assert only.summary["mtf50"]["lower"] < 0.45 < only.summary["mtf50"]["upper"]
    both = {"mtf": mtf, "nps": Curve.isotropic(f, f, "HU^2 mm^2")}
    with pytest.raises(InputError, match="nothing is left"):
        estimated(y, model, **both)
    with pytest.raises(InputError, match="nothing is left"):
        RestoreOptions(estimate_instrument=True, **both)


def test_a_two_dimensional_curve_counts_with_all_its_directions():
    f = torch.linspace(0, 1, 201, dtype=torch.float64)
    fy, fx = f[:, None], f[None]
    # |f| (1 + cos(2 angle) / 2): its mean over directions is |f|, along either axis it is half of that off
    value = torch.hypot(fy, fx) + 0.5 * (fx**2 - fy**2) / torch.hypot(fy, fx).clamp_min(1e-9)
    curve = Curve(tuple([tuple(f.tolist())] * 2), tuple(value.flatten().tolist()), "HU^2 mm^2")
    at = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    assert torch.allclose(_radial(curve)(at), at, rtol=1e-3)
    isotropic = Curve.isotropic(f, f, "HU^2 mm^2")
    assert torch.allclose(_radial(isotropic)(at), at, rtol=1e-12)


def test_a_climb_that_runs_off_keeps_what_it_found():
    class Cliff:
        """Better and better up to 3, no number beyond."""

        weight = torch.eye(2, dtype=torch.float64)

        @staticmethod
        def penalty(free):
            return torch.zeros((), dtype=torch.float64)

        @staticmethod
        def log_likelihood(free, data):
            return (free[0] if free[0] < 3 else free[0] * math.nan)[None]

    start = torch.zeros(2, dtype=torch.float64)
    end = _climb(None, Cliff, start, 1.0, 12)
    assert 0 < float(end[0]) < 3


# ---- where it cannot know ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (torch.full((SIDE, SIDE), -1000.0), "in every patch"),
        (scene(), "no noise"),
        (measured(scene())[:48, :48], "patches"),
        (torch.full((SIDE, SIDE), -990.0) + white(0), "no air"),
    ],
    ids=["constant", "noiseless", "small", "air"],
)
def test_refusals_name_what_was_found(model, values, match):
    with pytest.raises(InputError, match=match):
        estimated(image(values), model)


def test_an_image_that_the_model_does_not_take_is_refused(model):
    y = image(measured(scene()))
    with pytest.raises(InputError, match=r"'arbitrary'.*'HU'"):
        estimate_instrument(replace(y, unit="arbitrary"), model=model)
    with pytest.raises(InputError, match="NaN"):
        estimate_instrument(replace(y, values=y.values.clone().fill_(math.nan)), model=model)


def test_noise_alone_has_no_resolution(model):
    got = estimated(image(measured(torch.zeros(SIDE, SIDE).double())), model)
    assert "resolution unknown" in got.unknown
    assert got.summary["noise_sd"]["value"] == pytest.approx(30, rel=0.05)
    with pytest.raises(NotCalibratedError, match="resolution unknown"):
        got.bound(model, RestoreOptions(estimate_instrument=True))


def test_uneven_noise_is_said(model):
    ramp = torch.linspace(0.3, 1.7, SIDE, dtype=torch.float64)
    got = estimated(image(scene() + ramp * measured(torch.zeros(SIDE, SIDE).double())), model)
    assert any("not the same everywhere" in w for w in got.warnings)


# ---- the ways in -------------------------------------------------------------------------------------------------


def test_files_are_used_as_measured_ones(found, tmp_path):
    files = found.save(tmp_path / "own.json")
    assert [f.name for f in files] == ["own-mtf.json", "own-nps.json", "own.png"]
    assert files[2].read_bytes()[:4] == b"\x89PNG"
    assert Curve.parse(files[1], "nps") == found.curves["nps"]
    with pytest.raises(InputError, match="earlier run"):
        found.save(tmp_path / "own.json")


@pytest.fixture
def at_hand(monkeypatch, found):
    """What the estimate would find, without its work."""
    calls = []

    def answer(image, model, **options):
        calls.append(options)
        return found

    monkeypatch.setattr("retrodict.tasks.estimate.estimated", answer)
    return calls


def test_restore_says_that_it_was_estimated(model, found, at_hand, tmp_path):
    y = image(measured(scene()))
    options = {"model": model, "estimate_instrument": True, "samples": 2, "name": "p"}
    done = restore(y, tmp_path, point=True, **options)
    assert "instrument: estimated from the image itself" in done.verdict.text
    record = json.loads((tmp_path / "p_restore.json").read_text())
    assert record["instrument"]["estimate"]["noise_sd"]["value"] == pytest.approx(30, rel=0.05)
    assert "estimated from the image itself" in (tmp_path / "p_report.html").read_text()
    assert "estimated from the image" in done.model.source
    law = done.model.denoiser.process.measurement
    basis = done.model.denoiser.process.basis
    expected = found.curves["nps"].on(basis) / math.prod(basis.spacing) / model.intensity.scale**2
    assert torch.allclose(law.s2, expected, rtol=1e-9)
    assert at_hand[0]["mtf"] is None
    unsure = replace(found, unknown="resolution unknown: any")
    with pytest.raises(NotCalibratedError) as error:
        unsure.bound(model, RestoreOptions(estimate_instrument=True))
    assert re.search(r"resolution unknown: any.*--mtf", error.value.said(in_shell))


def test_command_line(model, at_hand, tmp_path, monkeypatch):
    np.savez(tmp_path / "scan.npz", hu=measured(scene()).numpy().astype(np.float32)[None], pixel_spacing_mm=[D, D])
    monkeypatch.setattr("retrodict.tasks.estimate.open_model", lambda name: model)
    line = ["measure", "instrument", str(tmp_path / "scan.npz"), "-o", str(tmp_path / "own.json")]
    told = CliRunner().invoke(app, line)
    assert told.exit_code == 0, told.output
    assert "estimated from the image itself" in " ".join(told.output.split())
    again = CliRunner().invoke(app, line)
    assert again.exit_code == 5
    assert len(at_hand) == 1  # looked before the work
