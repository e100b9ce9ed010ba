"""The verdict of a restoration: closed forms of its checks, and every way in which an image may not fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import torch

from data.made_files import make_slice, slice_values
from models import field, make_model
from models import scan as make_scan
from retrodict import InputError
from retrodict._random import key
from retrodict.bases import Cosine, Fourier
from retrodict.bases.spectrum import Spectrum
from retrodict.data import Image, read
from retrodict.data.plane import plane_of
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.metrics.prediction import Prediction, student_quantile, student_tail
from retrodict.models.held_out import HeldOut, scatter
from retrodict.models.instrument import measure
from retrodict.models.model import Model, load_model, save_model
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import noise_like
from retrodict.samplers.misfit import BandMisfit, band_filters, bands_of, flat_pixels, one_call, reach
from retrodict.tasks.batch import restore_all
from retrodict.tasks.examine import Examination
from retrodict.tasks.held_out import by_group, evenly, held_out
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.plausible import implausible, noise_sd
from retrodict.tasks.restore import Job, restore
from retrodict.tasks.resume import Parts
from retrodict.tasks.verdict import LEVEL, Verdict

SIZE = (64, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    """Exact for Gaussian data, with a record of patients who scatter as little as the noise makes them."""
    return make_model(tmp_path_factory.mktemp("verdict"))


def scan(_, seed=0, *, noise=1.0, size=SIZE):
    """Measured by the instrument of the tiny models."""
    return make_scan(size, seed, noise=noise)


FAST = {"samples": 2, "steps": 1}


# ---- closed forms ----


def test_student_tails_are_those_of_the_tables():
    assert student_quantile(0.025, 10) == pytest.approx(2.2281388520, rel=1e-9)
    assert student_quantile(0.0005, 5) == pytest.approx(6.8688266259, rel=1e-9)
    assert student_tail(1.0, 1) == pytest.approx(0.25, rel=1e-12)
    assert student_tail(-2.0, 3) == pytest.approx(1 - student_tail(2.0, 3), rel=1e-12)
    assert student_tail(3.0, math.inf) == pytest.approx(1.349898031630e-3, rel=1e-9)


@pytest.mark.parametrize("upper", [False, True])
def test_the_interval_holds_what_its_p_value_lets_pass(upper):
    law = Prediction(0.3, 0.2, 7, slack=0.05, upper=upper)
    low, high = law.interval(0.02)
    assert law.p_value(high) == pytest.approx(0.02, rel=1e-6)
    assert law.p_value(low) == (1.0 if upper else pytest.approx(0.02, rel=1e-6))
    assert law.p_value(-math.inf) == (1.0 if upper else 0.0)
    with pytest.raises(InputError):
        law.p_value(math.nan)


def test_the_filters_of_the_bands_pass_all_power_once():
    basis = Fourier((24, 30), (1.0, 0.8))
    total = sum(f**2 for f in band_filters(basis.radius(), (0.0, 0.2, 0.5, 0.8)))
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12)


def gaussian_scans(basis, n, size, spectrum, strength=1.0):
    """The exact denoiser of a measurement, and n scans of Gaussian data with noise `strength` times as strong."""
    process = fourier(basis(size))
    like, m = torch.zeros(n, 1, *size, dtype=torch.float64), process.measurement
    data, noise = (process.basis.forward(noise_like(like, torch.arange(n), name, 0)) for name in ("data", "noise"))
    y = m.h * spectrum.on(process.basis).sqrt() * data + strength * m.s2.sqrt() * noise
    return GaussianDenoiser(process, spectrum=spectrum), process.basis.inverse(y)


def misfit_of_one_call(denoiser, y, margin):
    """The misfit, and the ratios of every band `(n, bands)` of a sample of each scan."""
    misfit = BandMisfit(denoiser, y, flat_pixels(y), margin)
    samples = [one_call(denoiser, y[k : k + 1], margin=margin, seed=k)[1] for k in range(len(y))]
    return misfit, torch.cat([misfit.ratios(x, k).bands for k, x in enumerate(samples)])


@pytest.mark.parametrize("basis", [Fourier, Cosine])
def test_on_gaussian_data_the_misfit_of_one_call_has_its_law(basis):
    """The exact denoiser, float64: mean 1, the stated variance, p values uniform; noise 1.3 times as strong is 1.69."""
    n, margin = 150, 0 if basis is Fourier else 16
    denoiser, y = gaussian_scans(basis, n, (40, 40), Spectrum.power_law(0.0, 30.0, 0.04, 3.0))
    misfit, found = misfit_of_one_call(denoiser, y, margin)
    law = torch.tensor(misfit.variances(0), dtype=torch.float64)
    bias = (found.mean(0) - 1) / (law / n).sqrt()
    assert bias.abs().max() < (4 if basis is Fourier else 6), found.mean(0)
    ratio = found.log().var(0) / law
    assert ratio.min() > 0.65  # within four standard errors of a variance, 0.12 each, and what the mask adds
    assert ratio.max() < 1.5
    p = torch.tensor(
        [[Prediction(0.0, math.sqrt(v)).p_value(math.log(x)) for v, x in zip(law, row, strict=True)] for row in found]
    )
    assert abs(float(p.mean()) - 0.5) < 0.07
    assert float((p < 0.05).double().mean()) < 0.11


@pytest.mark.parametrize("basis", [Fourier, Cosine])
def test_what_is_left_to_see_of_a_stronger_noise(basis):
    """The exact denoiser, float64, and noise 1.5 times as strong as it was told: 1 + eta (1.5^2 - 1) in every band."""
    n, margin = 60, 0 if basis is Fourier else 16
    denoiser, y = gaussian_scans(basis, n, (64, 64), Spectrum.power_law(0.0, 20.0, 0.2, 1.5), 1.5)
    misfit, found = misfit_of_one_call(denoiser, y, margin)
    expected = 1 + 1.25 * torch.tensor(misfit.sensitivity, dtype=torch.float64)
    law = torch.tensor(misfit.variances(0), dtype=torch.float64)
    assert misfit.counts[0] > 0
    assert 0.1 < misfit.sensitivity[0] < 0.6 < misfit.sensitivity[-1] < 0.9
    assert ((found.mean(0) / expected - 1) / (law / n).sqrt()).abs().max() < 6, (found.mean(0), expected)


def test_the_misfit_of_members_sees_strength_and_color(model):
    for noise, expected in ((1.0, 1.0), (1.3, 1.69), (0.7, 0.49)):
        y = model.intensity.encode(scan(model, 3, noise=noise).values[None])
        misfit = BandMisfit(model.denoiser, y, flat_pixels(y))
        bands = misfit.ratios(one_call(model.denoiser, y)[1], 0).bands[0]
        assert torch.allclose(bands[1:], torch.full_like(bands[1:], expected), rtol=0.25)


def test_a_reach_is_where_the_energy_of_the_filters_ends():
    """Half the width, twice the reach."""
    near, far = (reach((0.0, *e), (1.0, 1.0)) for e in ((0.2, 0.4, 0.6, 0.7), (0.1, 0.2, 0.3, 0.35)))
    assert all(1 < a < b <= 3 * a for a, b in zip(near, far, strict=True))


def test_a_reach_is_as_many_mm_along_every_axis():
    """So thick slices need fewer voxels; with voxels as thick as wide the number is one and the same."""
    edges = (0.0, 0.1, 0.17, 0.23)
    thick, even = reach(edges, (4.0, 2.0, 2.0)), reach(edges, (2.0, 2.0, 2.0))
    assert thick[1] == thick[2]
    assert thick[0] == thick[1] // 2
    assert len(set(even)) == 1
    assert abs(thick[1] - even[1]) <= 1


# ---- what the verdict says ----


def test_an_image_of_the_instrument_is_a_posterior(model, tmp_path):
    result = restore(scan(model, 1), tmp_path, model=model, **FAST)
    assert result.verdict.text == "posterior"
    assert result.sd is not None
    assert result.details["verdict"]["text"] == "posterior"
    assert {c.stage for c in result.verdict.checks} == {"before the sampling", "after the sampling"}
    assert all(c.passed for c in result.verdict.checks)
    page = next(tmp_path.glob("*_report.html")).read_text()
    assert 0 < page.index("checks passed") < page.index('class="verdict"')


@pytest.mark.parametrize("noise", [1.3, 0.7, 0.0])
def test_another_noise_is_a_point_estimate_without_deviation_or_samples(model, tmp_path, noise):
    result = restore(scan(model, 2, noise=noise), tmp_path, model=model, keep_samples=True, **FAST)
    assert result.sd is None
    assert not result.samples
    assert result.verdict.text.startswith("point estimate: not calibrated because the noise")
    assert not list(tmp_path.glob("*_sd*"))
    assert not list(tmp_path.glob("*sample*"))
    record = json.loads(next(tmp_path.glob("*_restore.json")).read_text())
    assert record["kind"] == "point"
    assert record["verdict"]["text"] == result.verdict.text
    failed = [c for c in record["verdict"]["checks"] if not c["passed"]]
    assert failed
    assert set(failed[0]) == {"name", "stage", "item", "found", "low", "high", "p", "level", "passed"}
    page = next(tmp_path.glob("*_report.html")).read_text()
    assert "Point estimate: not calibrated" in page
    assert page.index("not calibrated") < page.index('class="verdict"')


def test_the_estimate_of_a_failed_check_is_the_posterior_mean_of_one_call(model):
    image = scan(model, 2, noise=1.3)
    y = model.intensity.encode(image.values[None])
    own = key(0, "examination", 0)  # the draw of the first slice
    exact = model.intensity.decode(one_call(model.denoiser, y, seed=own)[0])[0]
    result = restore(image, model=model, **FAST)
    assert torch.allclose(result.mean.values, exact, atol=1e-4)
    assert result.details["network_calls_per_member"] == 1


def test_a_point_estimate_that_was_asked_for_says_what_does_not_fit(model):
    asked = restore(scan(model, 1), model=model, point=True, **FAST)
    assert asked.verdict.text == "point estimate: asked for"
    wrong = restore(scan(model, 1, noise=1.3), model=model, point=True, **FAST)
    assert "not calibrated because the noise" in wrong.verdict.text


def test_noise_that_differs_over_the_image_is_seen(model):
    weak, strong = (scan(model, 4, noise=n, size=(128, 128)).values for n in (0.75, 1.2))
    image = scan(model, 4, size=(128, 128)).with_values(torch.cat([weak[..., :64], strong[..., 64:]], -1))
    result = restore(image, model=model, **FAST)
    uneven = next(c for c in result.verdict.checks if c.name == "noise over the image")
    assert not uneven.passed
    assert result.sd is None


def test_members_that_do_not_explain_the_image_take_the_posterior_back(model):
    """The second look: whatever came before, an ensemble of another noise is none."""
    image = scan(model, 5)
    y = model.intensity.encode(image.values[None])
    sample = one_call(model.denoiser, y)[1]
    for factor, stands in ((1.0, True), (1.5, False)):
        process = model.denoiser.process.on(SIZE)
        blurred = process.basis.inverse(process.measurement.h.float() * process.basis.forward(sample))
        other = Examination(model, blurred + factor * (y - blurred))
        other.saw(sample, 1)
        assert other.after() == stands
        assert (other.verdict("posterior", False).kind == "posterior") == stands


def test_one_wrong_slice_of_a_volume_is_named(model):
    slices = [scan(model, k, noise=1.4 if k == 1 else 1.0).values for k in range(3)]
    volume = Image(torch.stack(slices, 1), "HU", (math.nan, 1.0, 1.0), "npz", (), regular=False)
    result = restore(volume, model=model, **FAST)
    assert result.sd is None
    assert "in slice 2" in result.verdict.text


def test_without_held_out_patients_the_posterior_has_a_warning(model):
    bare = replace(model, spec=replace(model.spec, held_out=None))
    fits = restore(scan(model, 1), model=bare, **FAST)
    assert fits.verdict.text.startswith("posterior with a warning: how much the noise of images scatters")
    assert fits.sd is not None
    assert restore(scan(model, 1, noise=1.3), model=bare, **FAST).sd is None


def test_false_alarms_are_as_rare_as_stated(model):
    """40 images that fit, looked at before the sampling: at 1 % for both looks more than one is 1.5 % likely."""
    failed = 0
    for k in range(40):
        examination = Examination(model, model.intensity.encode(scan(model, 1000 + k).values[None]))
        failed += not examination.before()
    assert failed <= 1
    assert LEVEL == 0.01


# ---- images that cannot be judged ----


@pytest.mark.parametrize("size", [(1, 64), (7, 9), (1, 1), (64, 5)])
def test_tiny_images_are_refused_before_anything_is_computed(model, monkeypatch, size):
    def computed(*_, **__):
        raise AssertionError("a network call")

    monkeypatch.setattr(type(model.denoiser), "estimate", computed)
    with pytest.raises(InputError, match=r"pixels; expected at least \d+ x \d+"):
        restore(Image(torch.randn(1, *size) * 100, "HU", (1.0, 1.0), "npz", ()), model=model, **FAST)


def test_too_few_pixels_to_see_anything_are_a_point_estimate(model):
    least = Examination(model, torch.zeros(1, 1, *SIZE)).smallest()[0]
    result = restore(scan(model, 1, size=(2 * least + 2, 2 * least + 2)), model=model, **FAST)
    assert result.sd is None
    assert "too few" in result.verdict.text


def test_a_constant_image_is_a_point_estimate(model):
    result = restore(Image(torch.full((1, *SIZE), 40.0), "HU", (1.0, 1.0), "npz", ()), model=model, **FAST)
    assert result.sd is None
    assert "100.0% of the pixels carry no noise" in result.verdict.text


def test_clipped_pixels_are_left_out_and_said(model):
    image = scan(model, 6, size=(128, 128))
    values = image.values.clone()
    values[..., :40] = -1000.0
    result = restore(image.with_values(values), model=model, **FAST)
    assert "31.2% of the pixels carry no noise" in result.verdict.text
    assert result.verdict.kind == "posterior"


def test_flat_pixels_are_those_that_no_noise_leaves_so():
    x = torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert not flat_pixels(x).any()
    assert int(flat_pixels(x.clamp(min=0)).sum()) == int((x <= 0).sum())
    filled = x.clone()
    filled[..., 10:20, 10:20] = 0.5
    assert int(flat_pixels(filled).sum()) == 64  # all neighbors equal: the inner 8 x 8


def test_resampling_is_named_as_what_smooths_the_noise(model):
    image = replace(scan(model, 1, size=(128, 128)), spacing=(0.5, 0.5))
    result = restore(image, model=model, resample=True, **FAST)
    assert result.sd is None
    assert "resampled from 0.5 x 0.5 to 1 x 1 mm" in result.verdict.text


# ---- values and planes ----


def test_stored_values_given_as_HU_are_warned_of(model):
    image = scan(model, 1, size=(96, 96))
    body = image.with_values(image.values + 1524)
    assert any("1024" in text for text in implausible(body, model, "x"))
    assert not implausible(image, model, "x")


def test_values_that_no_unit_explains_are_refused(model):
    micro = Image(torch.rand(1, *SIZE) * 65535, "HU", (1.0, 1.0), "tiff", ())
    with pytest.raises(InputError, match="outside -1024 to 3071 HU"):
        restore(micro, model=model, **FAST)
    metal = scan(model, 1).values.clone()
    metal[..., :2, :2] = 20000
    assert any("outside" in text for text in implausible(scan(model, 1).with_values(metal), model, "x"))


def test_the_noise_of_pixels_and_boxes_is_that_of_the_law(model):
    pixel, box = noise_sd(model)
    size = (256, 256)
    flat = Image(torch.zeros(1, *size), "HU", (1.0, 1.0), "npz", ())
    noise = measure(flat, model, 0).values - measure(flat, model, 0).values.mean()
    assert float(noise.std()) == pytest.approx(pixel, rel=0.02)
    means = torch.nn.functional.avg_pool2d(noise, 9, 1)
    assert float(means.std()) == pytest.approx(box, rel=0.15)


AXES = {"axial": [1, 0, 0, 0, 1, 0], "coronal": [1, 0, 0, 0, 0, -1], "sagittal": [0, 1, 0, 0, 0, -1]}


@pytest.mark.parametrize("plane", AXES)
def test_the_plane_of_a_dicom_slice(model, tmp_path, plane):
    path = make_slice(tmp_path / "a.dcm", slice_values(0, 32, 32), position=(0, 0, 0), axes=AXES[plane])
    image = read(path)
    assert plane_of(image) == plane
    said = implausible(image.with_values(scan(model, 1, size=tuple(image.values.shape[1:])).values), model, "x")
    assert (plane == "axial") == (not any(plane in text for text in said))


@pytest.mark.parametrize("plane", AXES)
def test_the_plane_of_a_nifti_volume(tmp_path, plane):
    nib = pytest.importorskip("nibabel")
    normal = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    order = [*(k for k in range(3) if k != normal), normal]
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order]
    nib.save(nib.Nifti1Image(np.zeros((8, 9, 4), np.float32), affine), tmp_path / "a.nii.gz")
    assert plane_of(read(tmp_path / "a.nii.gz", unit="HU")) == plane


# ---- the record of held-out patients ----


def test_the_scatter_counts_patients_alike_and_holds_that_within_them():
    mean, sd = scatter([[0.0, 2.0], [4.0]])
    assert mean == 2.5
    assert sd == pytest.approx(math.sqrt(((2.5**2 + 0.5**2) / 2 + 1.5**2) / 2 * 2))


def test_a_record_goes_through_a_model_file(model, tmp_path):
    save_model(model.spec, model.denoiser.net.state_dict(), tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert HeldOut.from_json(again.spec.held_out, "x") == HeldOut.from_json(model.spec.held_out, "x")
    assert HeldOut.from_json(model.spec.held_out, "x").patients == 40


@pytest.mark.parametrize(
    "damage",
    [
        {"patients": 1},
        {"edges": [0.1]},
        {"one_call": [[0.0], [1.0]]},
        {"pixels": "many"},
        {"edges": None},
        {"tiles": 0},
    ],
)
def test_a_damaged_record_is_one_error_before_the_sampling(model, damage):
    spec = replace(model.spec, held_out={**model.spec.held_out, **damage})
    with pytest.raises(InputError, match="held_out"):
        restore(scan(model, 1), model=replace(model, spec=spec), **FAST)


def test_patients_make_a_record_that_is_near_the_law(model):
    """Two looks at three Gaussian patients: logs of ratios near 0 within four deviations of their mean."""
    record = held_out(model.denoiser, {str(k): [field(SIZE, k)] for k in range(3)})
    law = HeldOut.from_json(model.spec.held_out, "x")
    assert (record.patients, record.images, record.pixels, record.tiles) == (3, 3, law.pixels, law.tiles)
    for mean, sd in (record.one_call, record.sampled):
        for m, s, expected in zip(mean[:-1], sd[:-1], law.one_call[1], strict=False):
            assert abs(m) < 4 * expected / math.sqrt(3)
            assert 0 < s < 3 * expected


def test_one_patient_makes_no_record(model):
    assert held_out(model.denoiser, {"a": [field(SIZE, 1)]}) is None
    images = [("a", torch.zeros(1, 2, 2) + k) for k in range(9)] + [("b", torch.ones(1, 2, 2))]
    assert {k: len(v) for k, v in by_group(images).items()} == {"a": 2, "b": 1}


def test_bands_are_where_the_data_end(model):
    """The lowest band holds what the data may fill; the others hold noise."""
    bands = bands_of(model.denoiser)
    assert bands.content[0] > 1
    assert max(bands.content[1:]) < 0.6


# ---- where it stands ----


def test_the_verdict_stands_in_the_dicom_result(model, tmp_path):
    hu = np.rint(scan(model, 1, noise=1.4).values[0].numpy())
    path = make_slice(tmp_path / "in" / "a.dcm", hu, position=(0, 0, 0), spacing=(1.0, 1.0))
    summary = restore_all(path, tmp_path / "out", model=model, **FAST)
    ds = pydicom.dcmread(next((tmp_path / "out").glob("a_mean*")))
    assert "not calibrated because the noise" in ds.DerivationDescription
    assert "not calibrated because the noise" in ds.ImageComments
    assert summary.restored[0].verdict.kind == "point"


def test_the_words_of_a_verdict():
    assert Verdict("posterior").text == "posterior"
    assert Verdict("posterior", warnings=("a", "b")).text == "posterior with a warning: a; b"
    assert Verdict("point", ("a",), ("b",)).text == "point estimate: not calibrated because a; b"
    assert Verdict("point", asked=True).text == "point estimate: asked for"


def test_a_run_that_goes_on_judges_the_slices_of_the_run_before(model, tmp_path):
    """The members of a finished slice are not drawn again; what was seen of them is kept beside it."""
    volume = Image(torch.stack([scan(model, k).values for k in range(2)], 1), "HU", (2.0, 1.0, 1.0), "npz", ())
    job, parts = Job.of(volume, model, RestoreOptions(**FAST), "a"), Parts(tmp_path)
    first = job.run(parts=parts)
    again = job.run(parts=parts)
    assert parts.reused == 2
    assert [c.to_json() for c in again.verdict.checks] == [c.to_json() for c in first.verdict.checks]
    assert {c.item for c in again.verdict.checks if c.stage == "after the sampling"} == {0, 1}


def test_a_patient_is_looked_at_in_the_middle_of_a_stack():
    assert [evenly(list(range(n))) for n in (1, 2, 3, 4, 66)] == [[0], [0, 1], [0, 2], [1, 3], [16, 49]]
