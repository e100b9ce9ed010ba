"""Restoring DICOM from end to end: what is read, what is said, and what is written without identity."""

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

import models
from models import make_model
from retrodict import InputError
from retrodict.tasks.batch import restore_all
from retrodict.tasks.restore import restore

sys.path.append(str(Path(__file__).parent / "data"))

from made_enhanced import make_enhanced
from made_files import make_slice, slice_values

FAST = {"samples": 2, "steps": 1, "resample": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("zero"))


def scan(path, index=0, **tags):
    return make_slice(path, slice_values(index, 32, 32), position=(0, 0, index), number=index + 1, **tags)


def measured(index=0):
    """HU that the instrument of the model measured: only such an image is given a deviation."""
    return models.scan((48, 48), seed=index).values[0].round().numpy().astype(np.int16)


def test_a_deidentified_run_names_nobody(tmp_path, model):
    folder = tmp_path / "in"
    for i in range(2):
        tags = {"InstitutionName": "St. Elsewhere", "SeriesDescription": "Doe, liver", "spacing": (1, 1)}
        path = folder / "doe_jane" / f"P7-{i}.dcm"
        make_slice(path, measured(i), position=(0, 0, i), number=i + 1, **tags)
    summary = restore_all(folder, tmp_path / "out", model=model, deidentify=True, **FAST)
    assert not summary.failures
    (done,) = summary.restored
    assert done.name.startswith("image-")
    assert done.details["source"] == []
    assert done.details["deidentified"]
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len(files) == 6  # two slices of mean and sd, the record, the report
    for path in files:
        content = path.read_bytes().lower()
        assert not [w for w in (b"doe^", b"jane", b"elsewhere", b"liver", b"1.2.3.9\0") if w in content], path
        assert "doe" not in path.relative_to(tmp_path / "out").as_posix().lower()


def test_without_the_option_the_record_of_the_patient_goes_on(tmp_path, model):
    path = scan(tmp_path / "a.dcm")
    done = restore(path, tmp_path / "out", model=model, **FAST)
    assert done.details["source"] == [str(path)]
    assert str(pydicom.dcmread(tmp_path / "out" / "a_mean.dcm").PatientName) == "Doe^Jane"


def test_only_dicom_can_be_deidentified(tmp_path, model):
    np.savez(tmp_path / "a.npz", hu=slice_values(0, 32, 32).astype("f4"))
    with pytest.raises(InputError, match="DICOM"):
        restore(tmp_path / "a.npz", tmp_path / "out", model=model, deidentify=True, spacing=(1, 1), **FAST)
    assert not (tmp_path / "out").exists()


def test_what_was_left_out_stands_in_the_record_and_the_report(tmp_path, model, caplog):
    for i in range(3):
        scan(tmp_path / "s" / f"{i}.dcm", i)
    scan(tmp_path / "s" / "scout.dcm", 7, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    done = restore(tmp_path / "s", tmp_path / "out", model=model, **FAST)
    assert done.mean.values.shape == (1, 3, 32, 32)
    assert "scout.dcm: left out, a localizer" in done.details["notes"][0]
    assert "scout.dcm: left out, a localizer" in caplog.text
    page = (tmp_path / "out" / "s_report.html").read_text()
    assert "scout.dcm: left out" in page
    assert "spacing not given" not in page


def test_another_modality_needs_to_be_asked_for_and_a_unit(tmp_path, model):
    path = scan(tmp_path / "a.dcm", Modality="MR")
    with pytest.raises(InputError, match="expect=None"):
        restore(path, model=model, **FAST)
    with pytest.raises(InputError, match="'arbitrary'"):
        restore(path, model=model, expect="MR", **FAST)
    assert restore(path, model=model, expect="any", unit="HU", **FAST).mean.unit == "HU"


def test_an_enhanced_file_comes_back_as_one(tmp_path, model):
    path = make_enhanced(tmp_path / "e.dcm", values=measured, spacing=(1, 1))
    restore(path, tmp_path / "out", model=model, **FAST)
    for role, frames in (("mean", 3), ("sd", 3)):
        assert pydicom.dcmread(tmp_path / "out" / f"e_{role}.dcm").NumberOfFrames == frames
