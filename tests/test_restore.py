"""Restoring arrays and files: closed forms, independence, the gate, geometry, and what is written."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from models import SPECTRUM, make_model, scan
from retrodict import InputError, NotCalibratedError
from retrodict.data import Image, read, resample, write
from retrodict.models.model import Model
from retrodict.nets.tiles import tiled_apply
from retrodict.processes.recipes import process_to_recipe
from retrodict.samplers import RULES
from retrodict.samplers.card import gaussian_posterior
from retrodict.samplers.ensemble import SamplingOptions, gate, restore_batch
from retrodict.tasks.batch import restore_all
from retrodict.tasks.grid import finisher
from retrodict.tasks.restore import restore

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return make_model(tmp_path_factory.mktemp("zero"))


@pytest.fixture(scope="module")
def rough(tmp_path_factory) -> Model:
    return make_model(tmp_path_factory.mktemp("rough"), zero=False)


def measured(n=1, size=(32, 32)):
    return torch.randn(n, 1, *size, generator=torch.Generator().manual_seed(4)) * 2


def picture(size=(64, 60), spacing=(1.0, 1.0)):
    return scan(size, 5, spacing=spacing)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"samples": 0}, "samples"), ({"steps": 0}, "steps"), ({"chunk": 0}, "chunk"), ({"margin": -1}, "margin")],
)
def test_numbers_that_cannot_be_meant(changes, said):
    with pytest.raises(InputError, match=said):
        SamplingOptions(**changes)


def test_shapes_are_checked(model):
    with pytest.raises(InputError, match=r"\(B, C, \*N\)"):
        restore_batch(model.denoiser, torch.zeros(32, 32), SamplingOptions())
    with pytest.raises(InputError, match="one for each"):
        restore_batch(model.denoiser, measured(2), SamplingOptions(), items=[0])


def test_the_deviation_is_that_of_the_resampled_members(rough):
    """Between pixels the members are averages: their deviation is smaller than the interpolated deviation."""
    image = picture((40, 40), (0.5, 0.5))
    y = rough.intensity.encode(resample(image, (1.0, 1.0)).values[None])
    options = SamplingOptions(samples=6, steps=1, keep_samples=True)
    result = restore_batch(rough.denoiser, y, options, finish=finisher(image, rough))
    members = result.samples[:, 0]
    assert members.shape[1:] == image.values.shape
    assert torch.allclose(result.sd[0], members.std(0), atol=1e-4 * float(members.std()))
    once = restore_batch(rough.denoiser, y, SamplingOptions(uncertainty=False), finish=finisher(image, rough))
    scatter = float(result.sd.square().mean().sqrt())
    assert float((result.mean - once.mean).abs().max()) < 2 * scatter  # they differ by the margin alone
    assert float((result.mean - once.mean)[..., 8:-8, 8:-8].abs().max()) < 0.1 * scatter


# ---- closed forms ----


@pytest.mark.parametrize("name", ["fourier", "scalar", "ve"])
@pytest.mark.parametrize("steps", [1, 4])
def test_ensemble_has_the_exact_posterior_mean_and_variance(tmp_path, name, steps):
    """With a zero network the model is Gaussian: 400 members against the Wiener filter, in standard errors."""
    denoiser = make_model(tmp_path, name, bands=0).denoiser
    y = measured()
    options = SamplingOptions(samples=400, steps=steps, margin=0, chunk=50)
    result = restore_batch(denoiser, y, options)
    process = denoiser.process
    L, m = SPECTRUM.on(process.basis), SPECTRUM.mean_on(process.basis)
    gain, variance = gaussian_posterior(L, process.measurement)
    mean = process.basis.inverse(m + gain * (process.basis.forward(y.double()) - process.measurement.h * m))
    weight = process.basis.multiplicity()
    exact = float(((variance * weight).sum() / weight.sum()).sqrt())
    z = (result.mean - mean) / (exact / 20)
    assert float(z.abs().max()) < 5.5  # 1024 pixels
    assert float((result.sd**2).mean().sqrt()) == pytest.approx(exact, rel=0.02)


def test_uncertainty_and_reason_are_recorded(model):
    result = restore_batch(model.denoiser, measured(), SamplingOptions(samples=2, steps=2))
    assert result.kind == "posterior"
    assert "variance 1.000" in result.reason
    assert result.nfe == 2


# ---- independence ----


def test_batches_and_chunks_do_not_change_a_bit(rough):
    y = measured(3)
    options = SamplingOptions(samples=3, steps=2, seed=7)
    whole = restore_batch(rough.denoiser, y, options)
    for chunk in (1, 2, 3):
        other = SamplingOptions(samples=3, steps=2, seed=7, chunk=chunk)
        for item in range(3):
            single = restore_batch(rough.denoiser, y[item : item + 1], other, items=[item])
            assert torch.equal(single.mean, whole.mean[item : item + 1])
            assert torch.equal(single.sd, whole.sd[item : item + 1])


def test_members_do_not_depend_on_their_number(rough):
    few = restore_batch(rough.denoiser, measured(), SamplingOptions(samples=2, steps=2, keep_samples=True))
    many = restore_batch(rough.denoiser, measured(), SamplingOptions(samples=4, steps=2, keep_samples=True))
    assert torch.equal(few.samples, many.samples[:2])


def test_seeds_matter(rough):
    a, b = (restore_batch(rough.denoiser, measured(), SamplingOptions(samples=2, steps=2, seed=s)) for s in (0, 1))
    assert not torch.equal(a.mean, b.mean)


@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_tiles_equal_the_whole(tmp_path, padding):
    denoiser = make_model(tmp_path, zero=False, padding=padding).denoiser.on((96, 64))
    x = measured(1, (96, 64)).double()
    denoiser.net.double()
    t = torch.ones(1, dtype=torch.float64)
    whole, tiled = denoiser.estimate(x, t), denoiser.tiled(32).estimate(x, t)
    assert float((whole.mean - tiled.mean).abs().max()) < 1e-10
    assert float((whole.spread.log_ratio - tiled.spread.log_ratio).abs().max()) < 1e-10


def test_a_halo_too_small_is_seen():
    """The equality above can fail: a convolution of reach 3 on tiles with a halo of 1 differs."""
    kernel = torch.ones(1, 1, 7, 7, dtype=torch.float64)

    def blur(x):
        return torch.nn.functional.conv2d(torch.nn.functional.pad(x, (3, 3, 3, 3), mode="circular"), kernel)

    x = measured(1, (32, 32)).double()
    good = tiled_apply(blur, x, tile=8, halo=3, stride=1, circular=True)
    bad = tiled_apply(blur, x, tile=8, halo=1, stride=1, circular=True)
    assert torch.allclose(good, blur(x), atol=1e-12)
    assert not torch.allclose(bad, blur(x), atol=1e-3)


# ---- the gate ----


@pytest.mark.parametrize("rule", RULES)
def test_the_gate_follows_the_card(model, rule):
    """What is declared a posterior sampler passes; of the others the many steps of Euler do, too."""
    assert gate(model.denoiser, SamplingOptions(rule=rule)).passed == (RULES[rule].posterior or rule == "euler")


def test_an_ode_from_a_fixed_measurement_is_a_point_estimate(model):
    with pytest.raises(NotCalibratedError, match="deterministic"):
        restore_batch(model.denoiser, measured(), SamplingOptions(rule="gaussian_ode", steps=2))
    result = restore_batch(model.denoiser, measured(), SamplingOptions(rule="gaussian_ode", steps=2, uncertainty=False))
    assert result.kind == "point"
    assert result.sd is None
    assert "same image" in result.reason


def test_an_ode_from_a_random_start_is_a_posterior_sampler(tmp_path):
    denoiser = make_model(tmp_path, "scalar").denoiser
    assert gate(denoiser, SamplingOptions(rule="gaussian_ode", steps=32)).passed


def test_ancestral_sampling_is_refused_with_its_figure(model):
    with pytest.raises(NotCalibratedError, match=r"variance 0\."):
        restore_batch(model.denoiser, measured(), SamplingOptions(rule="ancestral", steps=8))


def test_one_member_has_no_spread(model):
    with pytest.raises(InputError, match="at least 2"):
        restore_batch(model.denoiser, measured(), SamplingOptions(samples=1))


# ---- images and files ----


def test_an_image_in_memory(model):
    result = restore(picture(), model=model, samples=2, steps=1)
    assert result.mean.values.shape == (1, 64, 60)
    assert result.sd.unit == "HU"
    assert result.files == ()


def test_unit_and_spacing_must_be_those_of_the_model(model):
    with pytest.raises(InputError, match="unit of the model"):
        restore(Image(picture().values, "1/mm", (1.0, 1.0), "npz", ()), model=model)
    with pytest.raises(InputError, match="resample=True"):
        restore(picture(spacing=(0.8, 0.8)), model=model)
    result = restore(picture(spacing=(0.8, 0.8)), model=model, samples=2, steps=1, resampling=True)
    assert result.mean.values.shape == (1, 64, 60)


def test_pixels_must_be_finite(model):
    bad = picture()
    bad.values[0, 3, 3] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        restore(bad, model=model)


def save(folder, name="scan.npz", size=(64, 60), **extra):
    path = folder / name
    np.savez(path, image=picture(size).values[0].numpy(), spacing=[1.0, 1.0], unit="HU", **extra)
    return path


def test_what_is_written(tmp_path, model):
    out = tmp_path / "out"
    result = restore(save(tmp_path), out, model=model, samples=3, steps=1, keep_samples=True)
    names = sorted(p.name for p in out.iterdir())
    samples = [f"scan_sample-{i:03d}.npz" for i in range(3)]
    assert names == sorted(["scan_mean.npz", "scan_sd.npz", *samples, "scan_restore.json", "scan_report.html"])
    assert sorted(p.name for p in result.files) == names
    record = json.loads((out / "scan_restore.json").read_text())
    assert record["kind"] == "posterior"
    assert record["sampling"]["seed"] == 0
    members = torch.stack([read(out / name).values for name in samples]).double()
    mean = read(out / "scan_mean.npz").values.double()
    assert float((members.mean(0) - mean).abs().mean()) < float(members.std(0).mean())
    html = (out / "scan_report.html").read_text()
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_a_point_estimate_has_no_uncertainty_map(tmp_path, model):
    out = tmp_path / "out"
    restore(save(tmp_path), out, model=model, rule="ddim", steps=2, uncertainty=False)
    assert not (out / "scan_sd.npz").exists()
    assert "oint estimate" in (out / "scan_report.html").read_text()


def test_nothing_is_overwritten_without_force(tmp_path, model):
    out, path = tmp_path / "out", save(tmp_path)
    restore(path, out, model=model, samples=2, steps=1)
    before = (out / "scan_mean.npz").read_bytes()
    with pytest.raises(InputError, match="force=True"):
        restore(path, out, model=model, samples=2, steps=1, seed=1)
    assert (out / "scan_mean.npz").read_bytes() == before
    restore(path, out, model=model, samples=2, steps=1, seed=1, force=True)
    assert (out / "scan_mean.npz").read_bytes() != before


def test_a_full_disk_leaves_nothing_half_written(tmp_path, model, monkeypatch):
    out = tmp_path / "out"

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises((InputError, OSError), match="space"):
        restore(save(tmp_path), out, model=model, samples=2, steps=1)
    assert not [p for p in out.rglob("*") if p.is_file()]


def test_a_disk_that_fills_half_way_leaves_nothing(tmp_path, model, monkeypatch):
    """The mean is written, the standard deviation is not: neither stays."""
    out, calls = tmp_path / "out", []
    real = write

    def second(*args, **kwargs):
        calls.append(kwargs["role"])
        if kwargs["role"] == "sd":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr("retrodict.tasks.results.write", second)
    with pytest.raises(OSError, match="space"):
        restore(save(tmp_path), out, model=model, samples=2, steps=1)
    assert calls == ["mean", "sd"]
    assert not [p for p in out.rglob("*") if p.is_file()]


def test_one_bad_file_does_not_stop_the_rest(tmp_path, model):
    folder = tmp_path / "in"
    folder.mkdir()
    save(folder, "a.npz")
    (folder / "b.npz").write_bytes(b"not a zip")
    (folder / "c.dcm").write_bytes(b"not dicom")
    save(folder, "d.npz", size=(16, 16))
    summary = restore_all(folder, tmp_path / "out", model=model, samples=2, steps=1)
    assert [r.name for r in summary.restored] == ["a", "d"]
    assert len(summary.failures) == 2
    assert (tmp_path / "out" / "d_mean.npz").exists()


# ---- DICOM ----


def dicom(folder, count=1, size=(60, 64)):
    from data.made_files import make_slice

    folder.mkdir(exist_ok=True)
    for i in range(count):
        hu = scan(size, i).values[0].numpy().round().astype(np.int16)
        make_slice(folder / f"{i}.dcm", hu, position=(0, 0, 2.0 * i), number=i + 1, spacing=(1.0, 1.0))
    return folder


def test_a_dicom_series_keeps_its_geometry(tmp_path, model):
    source = dicom(tmp_path / "series", 3)
    summary = restore_all(source, tmp_path / "out", model=model, samples=2, steps=1)
    assert not summary.failures, summary.failures
    folder = next(p for p in (tmp_path / "out").iterdir() if p.is_dir() and p.name.endswith("_mean"))
    written = sorted((pydicom.dcmread(p) for p in folder.iterdir()), key=lambda d: d.ImagePositionPatient[2])
    originals = [pydicom.dcmread(source / f"{i}.dcm") for i in range(3)]
    for new, old in zip(written, originals, strict=True):
        for tag in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns"):
            assert new[tag].value == old[tag].value
        assert new.StudyInstanceUID == old.StudyInstanceUID
        assert new.SeriesInstanceUID != old.SeriesInstanceUID
        assert new.SOPInstanceUID != old.SOPInstanceUID
        assert new.ImageType[0] == "DERIVED"
        assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not there")
def test_a_real_slice(tmp_path, model):
    source = SHARED / "ct_abdomen_dcmqi" / "02.dcm"
    result = restore(source, tmp_path, model=model, samples=2, steps=1, resampling=True)
    back = read(tmp_path / "02_mean.dcm")
    assert back.spacing == result.input.spacing
    assert (
        torch.allclose(back.values, result.mean.values.clamp(-1024, 3071), atol=0.051)
        or result.input.padding is not None
    )


# ---- checkpoints ----


def test_model_files_round_trip(tmp_path, rough):
    from retrodict.models.model import load_model, save_model

    save_model(rough.spec, rough.denoiser.net.state_dict(), tmp_path / "again")
    again = load_model(tmp_path / "again.json")
    assert process_to_recipe(again.denoiser.process) == process_to_recipe(rough.denoiser.process)
    y = measured()
    t = torch.ones(1, dtype=torch.float64)
    assert torch.equal(again.denoiser(y, t), rough.denoiser(y, t))


@pytest.mark.parametrize(
    "fault", ["shape", "missing", "surplus", "pickle", "zip", "truncated", "json", "field", "format", "none"]
)
def test_bad_model_files_are_one_clear_error(tmp_path, rough, fault):
    import pickle

    from retrodict.models.model import load_model, save_model

    weights = dict(rough.denoiser.net.state_dict())
    first = next(iter(weights))
    if fault == "shape":
        weights[first] = torch.zeros(3)
    elif fault == "missing":
        del weights[first]
    elif fault == "surplus":
        weights["extra"] = torch.zeros(1)
    path, record = save_model(rough.spec, weights, tmp_path / "bad")
    data = path.read_bytes()
    written = json.loads(record.read_text())
    if fault == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif fault == "zip":
        torch.save({"a": torch.zeros(1)}, path)
    elif fault == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif fault == "json":
        record.write_text("{")
    elif fault == "field":
        record.write_text(json.dumps({**written, "unheard": 1}))
    elif fault == "format":
        record.write_text(json.dumps({**written, "format": "other"}))
    elif fault == "none":
        path.unlink()
    words = {"shape": "shape", "missing": "no tensor", "surplus": "extra", "pickle": "pickle", "zip": "pickle"}
    words |= {
        "truncated": "damaged",
        "json": "unreadable",
        "field": "unheard",
        "format": "format",
        "none": "no such file",
    }
    with pytest.raises(InputError, match=words[fault]):
        load_model(tmp_path / "bad")


def test_saving_a_model_on_a_full_disk_leaves_nothing(tmp_path, rough, monkeypatch):
    from retrodict.models.model import save_model

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(rough.spec, rough.denoiser.net.state_dict(), tmp_path / "full")
    assert not list(tmp_path.iterdir())


def test_the_noise_of_air_is_not_clipped(tmp_path, model):
    """A measured image is read as it is; only its padding is replaced (clipping would bias the restoration of air)."""
    folder = dicom(tmp_path / "in")
    truth = read(folder / "0.dcm")
    noisy = truth.with_values(truth.values - 600)
    path = write(noisy, tmp_path / "measured.dcm", like=truth, role="measured", description="simulated")[0]
    assert float(read(path).values.min()) == -1024.0
    result = restore(path, model=model, samples=2, steps=1)
    assert float(result.input.values.min()) < -1100
    assert torch.allclose(result.input.values, noisy.values, atol=0.06)


# ---- one call, and the image on the way ----


def test_an_instant_restoration_has_a_mean_a_deviation_and_members(tmp_path, model):
    result = restore(save(tmp_path), tmp_path / "out", model=model, samples=3, instant=True, keep_samples=True)
    assert result.details["network_calls_per_member"] == 1
    assert (result.details["sampling"]["rule"], result.details["sampling"]["mean_members"]) == ("one call", None)
    assert len(result.samples) == 3
    assert result.sd is not None
    with pytest.raises(InputError, match="one call"):
        restore(save(tmp_path), model=model, instant=True, steps=4)


def test_the_image_at_a_time_is_written_with_what_was_promised_and_measured(tmp_path, model):
    result = restore(save(tmp_path), tmp_path / "out", model=model, samples=3, steps=2, stop_at=0.5)
    names = {p.name for p in result.files}
    assert {"scan_stop.npz", "scan_stop-sd.npz"} <= names
    record = json.loads((tmp_path / "out" / "scan_restore.json").read_text())["stop"]
    assert record["at"] == 0.5
    promised, measured = (torch.tensor(record["nps"][k]) for k in ("promised", "measured"))
    assert float((measured / promised).log().mean().exp()) == pytest.approx(1, abs=0.25)
    mtf = torch.tensor(record["mtf"]["promised"])
    assert bool((mtf[:-1] >= mtf[1:]).all())
    assert "On the way" in (tmp_path / "out" / "scan_report.html").read_text()
    assert torch.equal(read(tmp_path / "out" / "scan_stop.npz").values, result.stop.image.values)
    again = restore(save(tmp_path), tmp_path / "out", model=model, samples=3, steps=2, force=True)
    assert not (tmp_path / "out" / "scan_stop.npz").exists()
    assert again.stop is None


def test_a_time_outside_is_refused(tmp_path, model):
    with pytest.raises(InputError, match="between 0"):
        restore(save(tmp_path), model=model, stop_at=1.0)
