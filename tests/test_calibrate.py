"""Calibration on pairs: the factors, what they hold for, and everything that is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from models import make_model, scan
from retrodict import Calibration, InputError, RestoreOptions, calibrate, read, restore, restore_image
from retrodict.bases import Fourier
from retrodict.data.collection import slice_digests
from retrodict.processes.fourier import fourier
from retrodict.tasks import calibrate as task
from retrodict.tasks.calibrate import Need, Plan
from retrodict.tasks.calibrate_pairs import pairs_of
from retrodict.tasks.identity import law_digest, model_digest, seen_in_training
from retrodict.tasks.restore import Restored
from retrodict.tasks.tissues import body_of, classes_of
from shell import retrodict as command_line

SIZE, PATIENTS = (64, 60), 5
QUICK = {"samples": 4, "steps": 1}


def save(path, values):
    np.savez(path, hu=np.asarray(values, np.float32), pixel_spacing_mm=np.array([1.0, 1.0]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("calibrate"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five patients, the first with two images; the truth is what `scan` blurs."""
    from models import field

    base = tmp_path_factory.mktemp("pairs")
    for name in ("measured", "truth"):
        (base / name).mkdir()
    lines = ["measured,truth,patient"]
    for k in range(PATIENTS + 1):
        name = f"p{max(0, k - 1)}-{k}"
        save(base / "measured" / f"{name}_measured.npz", scan(SIZE, k).values[0])
        save(base / "truth" / f"{name}.npz", 100 * (field(SIZE, k) - 5)[0])
        lines.append(f"measured/{name}_measured.npz,truth/{name}.npz,p{max(0, k - 1)}")
    (base / "pairs.csv").write_text("\n".join(lines))
    return base


@pytest.fixture(scope="module")
def found(folder, model):
    return calibrate(folder / "pairs.csv", model=model, delta=0.2, **QUICK)


# ---- factors --------------------------------------------------------------------------------------------------------


def test_factors_of_an_exact_posterior_are_those_of_its_law(found):
    """One step: mean and deviation are those of the law, so the truth of 90 % of the pixels is within 1.645 deviations,
    in every image nearly so; the score of a patient is that of the worst image."""
    row = found.record["factors"]["pixels"]
    assert found.record["of_the_law"] == pytest.approx(1.645, abs=1e-3)
    assert row["factor"] == pytest.approx(1.645, rel=0.2)
    assert row["patients"] == PATIENTS
    assert row["rank"] == 5  # ceil(6 * 0.8)
    assert row["factor"] == row["scores"][4]
    assert row["covered"] == pytest.approx(0.9, abs=0.04)
    assert 0 < row["probability"][0] < 0.8 < row["probability"][1] < 1
    assert found.record["factors"]["discs"]["2"]["factor"] == pytest.approx(2.63, rel=0.35)


def test_the_record_says_what_it_holds_for(found, model):
    use = found.record["valid_for"]
    assert use["unit"] == "HU"
    assert use["options"] == {
        "samples": 4,
        "steps": 1,
        "instant": False,
        "process": None,
        "rule": "matched",
        "grid": None,
        "spread": None,
        "resample": False,
    }
    assert use["spacing_mm"] == [[1.0, 1.0], [1.0, 1.0]]
    assert use["model"] == model_digest(model)
    assert found.record["training_images"] == "unknown"
    assert [p["images"] for p in found.record["patients"]] == [2] + [1] * 4
    assert "at least 80 % over the image of a new patient" in found.statement
    assert "at least 90 % of its body" in found.statement


def test_the_worst_image_is_the_score_of_a_patient():
    """By hand: images that need 1 and 3 make a patient of 3, and a loss that is their mean."""
    of = lambda *x: Need.of(torch.tensor(x, dtype=torch.float64), 0.5)  # noqa: E731
    row = Plan(0.5, 0.5, "split").factor([[of(1.0), of(3.0)]])
    assert row["factor"] == 3.0
    rows = [[of(1.0), of(3.0)] for _ in range(200)]
    assert Plan(0.6, 0.1, "risk").factor(rows)["factor"] == pytest.approx(1.0, rel=0.011)  # half of each is enough
    assert Plan(0.4, 0.1, "risk").factor(rows)["factor"] == pytest.approx(3.0, rel=0.011)


def test_risk_control_of_pairs(folder, model):
    with pytest.raises(InputError, match=r"at least 22 for alpha = 0\.1"):
        calibrate(folder / "pairs.csv", model=model, method="risk", **QUICK)
    record = calibrate(folder / "pairs.csv", model=model, method="risk", alpha=0.5, delta=0.2, **QUICK).record
    row = record["factors"]["pixels"]
    assert 1 - row["covered"] < 0.5
    assert row["factor"] > 0.5
    assert "on average over images of a new patient" in record["statement"]
    assert "hoeffding-bentkus" in record["statement"]


def test_too_few_patients_are_refused_before_the_work(folder, model, monkeypatch):
    monkeypatch.setattr(task, "restore_image", None)
    with pytest.raises(InputError, match=r"found 5 patients; expected at least 19 for delta = 0.05"):
        calibrate(folder / "pairs.csv", model=model, delta=0.05)
    for wrong in (
        {"alpha": 0.0},
        {"delta": 1.0},
        {"method": "guess"},
        {"bound": "none"},
        {"by": "slice"},
        {"point": True},
    ):
        with pytest.raises(InputError):
            calibrate(folder / "pairs.csv", model=model, **wrong)


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_a_folder_and_a_table_are_the_same_pairs(folder):
    by_name = pairs_of(folder, r"^(p\d+)")
    by_table = pairs_of(folder / "pairs.csv", None)
    assert [(p.name, p.patient) for p in by_name] == [(p.name, p.patient) for p in by_table]
    assert len(by_name) == PATIENTS + 1
    with pytest.raises(InputError, match="which pairs are of one patient"):
        pairs_of(folder, None)


def test_pairs_that_are_none(folder, model, tmp_path):
    table = tmp_path / "pairs.csv"
    first = f"{folder}/measured/p0-0_measured.npz"
    for text, words in (
        ("measured,patient\n", "a column 'truth'"),
        ("measured,truth\n", "measured and true images"),
        (f"measured,truth,patient\n{first},,p0\n", "line 2"),
        (f"measured,truth,patient\n{first},{first},p0\n{first},{first},\n", "line 3"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=words):
            pairs_of(table, None)
    with pytest.raises(InputError, match="found nothing"):
        pairs_of(tmp_path / "none", None)
    (tmp_path / "measured").mkdir()
    with pytest.raises(InputError, match="no folder truth/"):
        pairs_of(tmp_path, None)
    save(tmp_path / "small.npz", np.zeros((30, 30)))
    table.write_text(f"measured,truth,patient\n{first},small.npz,p0\n")
    with pytest.raises(InputError, match=r"\(30, 30\) pixels"):
        pairs_of(table, None)[0].read(RestoreOptions(), model)
    table.write_text(f"\ufeffmeasured,truth,patient\n{first},{first},p0\n{first},small.npz,p1\n")
    with pytest.raises(InputError, match=r"line 3: found the measured image of line 2 again"):
        pairs_of(table, None)  # one image of two patients counts as two
    (tmp_path / "truth").mkdir()
    for name in ("measured/a.npz", "measured/a_measured.npz", "truth/a.npz"):
        save(tmp_path / name, np.zeros((64, 60)))
    with pytest.raises(InputError, match=r"2 images 'a'"):
        pairs_of(tmp_path, "folder")


def test_what_the_file_of_a_truth_says_stands(folder, model, tmp_path):
    """Spacing and unit are those of the measured image only where the file says nothing."""
    first, table, array = f"{folder}/measured/p0-0_measured.npz", tmp_path / "p.csv", np.zeros(SIZE, np.float32)
    table.write_text(f"measured,truth,patient\n{first},t.npz,p0\n")
    pair = pairs_of_saved(table, tmp_path, data=array)
    assert pair.read(RestoreOptions(), model)[1].unit == "HU"
    pair = pairs_of_saved(table, tmp_path, hu=array, pixel_spacing_mm=np.array([0.5, 0.5]))
    with pytest.raises(InputError, match=r"pixels of 0.5 x 0.5 mm"):
        pair.read(RestoreOptions(), model)
    pair = pairs_of_saved(table, tmp_path, data=array, unit="mGy", pixel_spacing_mm=np.array([1.0, 1.0]))
    with pytest.raises(InputError, match="values in 'mGy'"):
        pair.read(RestoreOptions(), model)


def pairs_of_saved(table, folder, **arrays):
    np.savez(folder / "t.npz", **arrays)
    return pairs_of(table, None)[0]


def test_slices_of_a_truth_lie_in_the_plane_of_the_measured_ones(model, tmp_path):
    """A cube whose slices are stored sagittally: pairs of exchanged axes would pass as fitting."""
    import nibabel

    values = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    affine = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    for name in ("m", "t"):
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / f"{name}.nii")
    (tmp_path / "p.csv").write_text("measured,truth,patient\nm.nii,t.nii,p0\n")
    measured, truth = pairs_of(tmp_path / "p.csv", None)[0].read(RestoreOptions(unit="HU"), model)
    assert measured.order
    assert torch.equal(measured.values, truth.values)


def test_training_pixels_are_refused(folder, model, monkeypatch):
    truth = read(folder / "truth" / "p3-4.npz", clip=False)
    digest = slice_digests(read(folder / "truth" / "p3-4.npz", clip=True))[0]
    trained = replace(model, spec=replace(model.spec, card={"training_images": ["0" * 16, digest[:16]]}))
    assert seen_in_training(truth, trained.spec) is True
    assert seen_in_training(read(folder / "truth" / "p3-4.npz", clip=True), trained.spec) is True
    assert seen_in_training(read(folder / "truth" / "p2-3.npz"), trained.spec) is False
    assert seen_in_training(truth, model.spec) is None
    monkeypatch.setattr(task, "restore_image", lambda image, *_, name, **__: _point(image, model, name))
    with pytest.raises(InputError, match=r"p3-4.npz: found pixels that .* was trained on"):
        calibrate(folder / "pairs.csv", model=trained, delta=0.2)
    named = replace(model, spec=replace(model.spec, card={"training_patients": ["p4"]}))
    with pytest.raises(InputError, match="the patient p4"):
        calibrate(folder / "pairs.csv", model=named, delta=0.2)


def _point(image, model, name):
    return Restored(name, image, image, None, (), "no", model)


def test_images_without_a_posterior_are_left_out_and_counted(folder, model, monkeypatch):
    monkeypatch.setattr(task, "restore_image", lambda image, *_, name, **__: _point(image, model, name))
    with pytest.raises(InputError, match=r"found 0 patients \(6 images were left out"):
        calibrate(folder / "pairs.csv", model=model, delta=0.2)


def test_an_image_of_air_is_left_out_and_its_patient_does_not_count(folder, model, tmp_path):
    save(tmp_path / "t.npz", np.full(SIZE, -1500.0))
    save(tmp_path / "m.npz", scan(SIZE, 9).values[0] - 1000)
    lines = (folder / "pairs.csv").read_text().replace("measured/", f"{folder}/measured/")
    lines = lines.replace("truth/", f"{folder}/truth/")
    (tmp_path / "pairs.csv").write_text(f"{lines}\nm.npz,t.npz,air\n")
    original = task.body_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "body_of", lambda mean, unit: original(mean, unit) & (mean > -1100))
        patch.setattr(task, "restore_image", _posterior)
        record = calibrate(tmp_path / "pairs.csv", model=model, delta=0.2, **QUICK).record
    assert [p["patient"] for p in record["patients"]] == [f"p{k}" for k in range(PATIENTS)]
    assert record["left_out"] == [{"name": "m", "patient": "air", "reason": "no pixel above air"}]


def _posterior(image, model, *_, name, **__):
    one = image.with_values(torch.ones_like(image.values))
    noisy = tuple(image.with_values(image.values + k * torch.rand_like(image.values)) for k in (0, 1))
    return Restored(name, image, image, one, noisy, "", model, details={"sampling": {"mean_members": 2}})


def test_pairs_are_checked_before_the_first_is_restored(folder, model, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "restore_image", None)
    save(tmp_path / "small.npz", np.zeros((30, 30)))
    lines = (folder / "pairs.csv").read_text().replace("measured/", f"{folder}/measured/")
    lines = lines.replace("truth/p4-5.npz", "small.npz").replace("truth/", f"{folder}/truth/")
    (tmp_path / "pairs.csv").write_text(lines)
    with pytest.raises(InputError, match=r"\(30, 30\) pixels"):
        calibrate(tmp_path / "pairs.csv", model=model, delta=0.2, **QUICK)
    for name in ("estimate_instrument", "noise_map"):
        with pytest.raises(InputError, match=name):
            calibrate(folder / "pairs.csv", model=model, delta=0.2, **{name: True})


def test_a_model_of_every_instrument_is_calibrated_at_the_curves_and_one_spacing(tmp_path, monkeypatch):
    """The instrument of the file is that of the curves on these pixels, so that a restoration with them is taken."""
    from retrodict.models.model import open_model
    from retrodict.tasks.restore import Job
    from test_range import curves

    loaded, given = open_model("ct"), curves(30, 0.7)
    lines = ["measured,truth,patient"]
    for k in range(2):
        np.savez(tmp_path / f"{k}.npz", hu=scan(SIZE, k).values[0].numpy(), pixel_spacing_mm=np.array([0.7, 0.7]))
        np.savez(tmp_path / f"t{k}.npz", hu=scan(SIZE, k).values[0].numpy(), pixel_spacing_mm=np.array([0.7, 0.7]))
        lines.append(f"{k}.npz,t{k}.npz,p{k}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    monkeypatch.setattr(task, "restore_image", _posterior)
    monkeypatch.setattr(task, "image_score", lambda *_: 1.0, raising=True)
    record = calibrate(tmp_path / "pairs.csv", model=loaded, delta=0.4, **QUICK, **given).record
    image = read(tmp_path / "0.npz")
    Job.of(image, loaded, RestoreOptions(calibration=record, **QUICK, **given), "a")
    with pytest.raises(InputError, match="another instrument"):
        Job.of(image, loaded, RestoreOptions(calibration=record, **QUICK, **curves(40, 0.7)), "a")
    for name in ("1", "t1"):
        np.savez(tmp_path / f"{name}.npz", hu=scan(SIZE, 1).values[0].numpy(), pixel_spacing_mm=np.array([0.8, 0.8]))
    with pytest.raises(InputError, match=r"0.8 x 0.8 mm.*at one spacing"):
        calibrate(tmp_path / "pairs.csv", model=loaded, delta=0.4, **QUICK, **given)


def test_factors_by_class(found, folder, model):
    """The images are around -500 HU: all lung."""
    assert set(found.record["factors"]["classes"]) == {"lung"}
    used = calibrate(folder / "pairs.csv", model=model, delta=0.2, by="classes", **QUICK)
    assert "in each class of tissue" in used.statement
    q = used.record["factors"]["classes"]["lung"]["factor"]
    mean = torch.tensor([[-2000.0, -500.0]])
    assert used.calibration.factors(mean, "HU").tolist() == [[pytest.approx(q)] * 2]


# ---- use ------------------------------------------------------------------------------------------------------------


def test_a_restoration_writes_the_interval(found, model, tmp_path):
    path = found.save(tmp_path / "factors.json")
    save(tmp_path / "scan.npz", scan(SIZE, 77).values[0])
    made = restore(tmp_path / "scan.npz", tmp_path / "out", model=model, calibration=path, **QUICK)
    lower, upper = made.interval
    q = found.record["factors"]["pixels"]["factor"]
    assert torch.allclose(upper.values - made.mean.values, q * made.sd.values, atol=1e-3)
    assert torch.allclose(made.mean.values - lower.values, q * made.sd.values, atol=1e-3)
    names = {p.name for p in made.files}
    assert {"scan_lower.npz", "scan_upper.npz"} <= names
    assert torch.allclose(read(tmp_path / "out" / "scan_upper.npz", clip=False).values, upper.values)
    record = json.loads((tmp_path / "out" / "scan_restore.json").read_text())
    assert record["calibration"]["factors"]["pixels"]["factor"] == q
    assert record["calibration"]["statement"] == found.statement
    assert found.statement in (tmp_path / "out" / "scan_report.html").read_text()
    plain = restore(tmp_path / "scan.npz", model=model, **QUICK)
    assert plain.interval is None
    assert torch.equal(plain.mean.values, made.mean.values)


def test_a_series_of_dicom_says_the_guarantee_in_its_header(found, model, tmp_path):
    from importlib import resources

    import pydicom

    like = read(str(resources.files("retrodict") / "assets" / "chest-1.dcm"))
    made = Restored("a", like, like, like.with_values(torch.ones_like(like.values)), (), "", model,
                    details=_details(), calibration=found.calibration)  # fmt: skip
    made.save(tmp_path)
    data = pydicom.dcmread(tmp_path / "a_upper.dcm")
    assert "conformal interval, alpha 0.1, delta 0.2" in data.DerivationDescription
    assert "at least 80 %" in data.DerivationDescription
    assert data.SeriesDescription.endswith("retrodict upper")
    assert "NOT ANATOMY" not in data.SeriesDescription


def _details():
    return {"sampling": {"members": 4}, "date": "now", "versions": {}, "seeds": [[1]], "seconds": 1.0}


def test_a_result_that_is_no_posterior_has_no_interval(found, model):
    noisy = scan(SIZE, 5, noise=2.0)
    made = restore_image(noisy, model, RestoreOptions(calibration=found.record, **QUICK))
    assert made.sd is None
    assert made.interval is None


def test_a_calibration_holds_for_its_own_alone(found, model, tmp_path):
    own = found.calibration
    image, options = scan(SIZE, 5), RestoreOptions(**QUICK)
    own.require(model, options, image, "a")
    other = make_model(tmp_path, zero=False)
    stronger = replace(model, denoiser=model.denoiser.at(fourier(Fourier((32, 32)), noise_weights=[0.2, 1.0, 1.0])))
    for changes, words in (
        ({"model": other}, "another model"),
        ({"model": stronger}, "another instrument"),
        ({"options": RestoreOptions(samples=5, steps=1)}, "samples = 4"),
        ({"options": RestoreOptions(samples=4, steps=2)}, "steps = 1"),
        ({"options": RestoreOptions(samples=4, steps=1, point=True)}, "point"),
        ({"image": replace(image, spacing=(1.1, 1.0))}, "pixel spacing"),
    ):
        given = {"model": model, "options": options, "image": image, **changes}
        with pytest.raises(InputError, match=words):
            own.require(given["model"], given["options"], given["image"], "a")
    in_other_unit = dict(found.record, valid_for={**found.record["valid_for"], "unit": "mm"})
    with pytest.raises(InputError, match="'mm'"):
        Calibration.open(in_other_unit).require(model, options, image, "a")
    with pytest.raises(InputError, match="another instrument"):
        restore_image(image, model, RestoreOptions(calibration=found.record, **QUICK, **_own_curves()))


def _own_curves():
    """Curves near those of the model, so that its calibration may be taken over, and not the same."""
    from retrodict.models.instrument import own_curves

    mtf, nps = own_curves(fourier(Fourier((32, 32))), 100.0)
    stronger = replace(nps, value=tuple(1.05 * v for v in nps.value), unit="HU^2 mm^2")
    return {"mtf": mtf, "nps": stronger}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "retrodict-model-1"),
        ("method", "magic"),
        ("apply", "slices"),
        ("alpha", 2),
        ("delta", True),
        ("factors", {}),
        ("factors", {"pixels": {"factor": -1, "patients": 9}}),
        ("factors", {"pixels": {"factor": 2.0, "patients": 0}}),
        ("valid_for", None),
    ],
)
def test_damaged_records_are_refused_by_field(found, field, value):
    with pytest.raises(InputError, match=field):
        Calibration.open({**found.record, field: value})


def test_a_record_survives_its_file(found, tmp_path):
    path = found.save(tmp_path / "f.json")
    assert Calibration.open(path).digest == found.calibration.digest
    with pytest.raises(InputError):
        found.save(path)
    with pytest.raises(InputError, match="calibration"):
        Calibration.open(3)


def test_digests_tell_instruments_apart():
    process = fourier(Fourier((16, 16)))
    assert law_digest(process, (16, 16)) == law_digest(fourier(Fourier((32, 32))), (16, 16))
    assert law_digest(process, (16, 16)) != law_digest(
        fourier(Fourier((16, 16)), noise_weights=[0.1, 1.0, 1.01]), (16, 16)
    )


# ---- classes --------------------------------------------------------------------------------------------------------


def test_classes_of_hounsfield_units_and_of_others():
    names, number = classes_of(torch.tensor([-1000.0, -900.0, -300.0, -100.0, 40.0, 400.0]), "HU")
    assert [names[k] for k in number] == ["air", "lung", "lung", "fat", "soft tissue", "bone and contrast"]
    names, number = classes_of(torch.arange(8.0), "arbitrary")
    assert torch.bincount(number).tolist() == [1, 2, 2, 3]  # edges at 1, 3 and 5
    assert body_of(torch.tensor([-1000.0, 0.0]), "HU").tolist() == [False, True]
    assert body_of(torch.tensor([-1000.0, 0.0]), "mm").all()


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command(folder, model, tmp_path):
    done = command_line("calibrate", folder, "--patients", r"^(p\d+)", "-m", model.source, "--samples", 4, "--steps", 1,
                        "--delta", 0.2, "-o", tmp_path / "factors.json", columns=80)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "means of discs of 5 mm" in done.stdout
    assert "With probability at least 80 %" in done.stdout
    assert "does not say what it was trained on" in done.stdout
    few = command_line(
        "calibrate", folder, "--patients", r"^(p\d+)", "-m", model.source, "--delta", 0.01, "-o", tmp_path / "f.json"
    )
    assert few.returncode == 3
    assert "at least 99" in few.stderr
    ready = ("restore", folder / "measured" / "p0-0_measured.npz", "-m", model.source, "--steps", 1)
    factors = ("--calibration", tmp_path / "factors.json")
    used = command_line(*ready, "-o", tmp_path / "out", "--samples", 4, *factors)
    assert used.returncode == 0, used.stderr
    assert "lower" in used.stdout
    wrong = command_line(*ready, "-o", tmp_path / "out2", "--samples", 5, *factors)
    assert wrong.returncode == 3
    assert "samples = 4" in wrong.stderr
