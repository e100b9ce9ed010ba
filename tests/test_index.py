"""The table of a folder: what stands in it, who is held out, and what is refused by file, line and column."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from data.made_files import make_slice
from retrodict import Image, InputError, index_folder, read, read_index
from retrodict.data.collection import evenly, row_digest, row_slices, slice_digest, slice_digests
from retrodict.data.index import COLUMNS, IndexRow, write_index
from retrodict.tasks.index import own_noise
from shell import retrodict as command_line

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def body(seed, side=64, noise=10.0):
    """A uniform body of noise in air, HU."""
    rng = np.random.default_rng(seed)
    hu = np.full((side, side), -1000.0)
    hu[4:-4, 4:-4] = 40 + rng.normal(0, noise, (side - 8, side - 8))
    return hu.round().astype(np.int16)


def patient(folder, number, slices=2, uid="1.2", **tags):
    """A series of a patient in a folder of its own."""
    for k in range(slices):
        tags = {"PatientID": f"ID-{number}", "PatientName": f"Secret{number}^Name", "ConvolutionKernel": "B30f",
                "KVP": "120", "XRayTubeCurrent": "200", "Manufacturer": "Maker", **tags}  # fmt: skip
        make_slice(folder / f"case{number}" / f"{k}.dcm", body(10 * number + k), position=(0, 0, 2.0 * k),
                   series=f"{uid}.{number}", spacing=(0.8, 0.8), number=k + 1, **tags)  # fmt: skip


@pytest.fixture
def scans(tmp_path):
    """Three DICOM patients, an npz of a fourth, and a README."""
    folder = tmp_path / "scans"
    for number in range(3):
        patient(folder, number)
    np.savez(folder / "volume.npz", hu=np.stack([body(90), body(91), body(92)]), spacing=[3.0, 0.7, 0.7])
    (folder / "README").write_text("no image")
    return folder


def test_a_folder_is_listed_with_what_its_headers_say(scans):
    found = index_folder(scans, validation=0.3)
    rows = {row.patient: row for row in found.rows}
    assert set(rows) == {"ID-0", "ID-1", "ID-2", "volume"}
    row = rows["ID-1"]
    assert (row.file, row.files) == ("case1", ("0.dcm", "1.dcm"))
    assert (row.modality, row.unit, row.orientation, row.kernel) == ("CT", "HU", "axial", "B30f")
    assert (row.slices, row.rows, row.columns, row.pixel_spacing_mm) == (2, 64, 64, (0.8, 0.8))
    assert (row.kvp, row.tube_current_mA, row.slice_thickness_mm) == ((120.0,), (200.0,), 2.5)
    assert row.noise == pytest.approx(10.0, rel=0.1)
    assert abs(row.lag1_corr) < 0.15
    assert [x.path.name for x in found.left_out] == ["README"]
    assert sum(r.split == "validation" for r in found.rows) == 1
    assert found.record["spacing_mm"] == {"least": 0.7, "median": 0.8, "most": 0.8}
    assert any("4 patients" in line for line in found.summary())


def test_a_table_goes_through_its_file_wherever_it_lies(scans, tmp_path):
    found = index_folder(scans)
    for path in (scans / "index.csv", tmp_path / "elsewhere" / "table.csv"):
        again = read_index(found.save(path))
        assert [r.paths[0].resolve() for r in again] == [r.paths[0].resolve() for r in found.rows]
        blank = {"path": Path(), "line": 0, "file": "", "noise": None, "lag1_corr": None}
        assert [replace(r, **blank) for r in again] == [replace(r, **blank) for r in found.rows]
        assert [s.patient for s in row_slices(again)] == ["ID-0"] * 2 + ["ID-1"] * 2 + ["ID-2"] * 2 + ["volume"] * 3
    assert index_folder(scans).left_out == found.left_out  # the table itself is not said to be no image


def test_the_draw_is_by_patient_and_by_name(scans):
    patient(scans / "more", 0, uid="1.3")  # the patient ID-0 again, in another folder
    sides = {row.file: row.split for row in index_folder(scans, validation=0.5, seed=3).rows}
    assert sides["case0"] == sides["more/case0"]
    assert sorted(sides.values()).count("validation") in (2, 3)
    again = {row.file: row.split for row in index_folder(scans, validation=0.5, seed=3).rows}
    assert again == sides
    others = [{r.file: r.split for r in index_folder(scans, validation=0.5, seed=s).rows} for s in range(6)]
    assert any(other != sides for other in others)
    assert {r.split for r in index_folder(scans, validation=0, test=0).rows} == {"train"}
    assert {r.split for r in index_folder(scans, validation=0.25, test=0.25).rows} == {"train", "validation", "test"}


def test_folders_are_patients_where_that_is_asked(scans):
    for number in range(3):
        patient(scans, number, PatientID="ANON")
    found = index_folder(scans / "case0")
    assert found.rows[0].patient == "ANON"
    (scans / "volume.npz").unlink()
    assert any("--patients folder" in note for note in index_folder(scans).notes)
    assert [r.patient for r in index_folder(scans, patients="folder").rows] == ["case0", "case1", "case2"]


def test_a_deidentified_table_says_no_identity(scans, tmp_path):
    found = index_folder(scans, deidentify=True)
    text = found.save(tmp_path / "t.csv").read_text()
    assert not any(word in text for word in ("ID-", "Secret", "1.2.0"))
    assert sorted(r.patient for r in found.rows) == [f"patient-{k:04d}" for k in range(1, 5)]
    (scans / "case1").rename(scans / "secret1")
    with pytest.raises(InputError, match="deidentify") as caught:
        index_folder(scans, deidentify=True)
    assert "secret1" not in str(caught.value).lower()


@pytest.mark.parametrize(
    ("name", "path"), [("Li^Bo", "bo_2024"), ("M\u00fcller^Eva", "Mu\u0308ller1"), ("M\u00fcller^Eva", "muller1")]
)
def test_names_in_paths_are_known_however_they_are_written(scans, name, path):
    patient(scans, 7, PatientName=name, SpecificCharacterSet="ISO_IR 192")
    (scans / "case7").rename(scans / "abox")  # "Bo" is not a word of it
    index_folder(scans, deidentify=True)
    (scans / "abox").rename(scans / path)
    with pytest.raises(InputError, match="deidentify"):
        index_folder(scans, deidentify=True)


def test_uids_in_names_of_files_are_said(scans):
    assert not any("UIDs" in note for note in index_folder(scans, deidentify=True).notes)
    (scans / "case1" / "0.dcm").rename(scans / "case1" / "1.2.826.0.1.3680043.8.498.77.dcm")
    assert any("UIDs" in note for note in index_folder(scans, deidentify=True).notes)


def test_what_cannot_be_read_is_left_out_with_its_reason(scans):
    (scans / "case0" / "0.dcm").write_bytes((scans / "case0" / "0.dcm").read_bytes()[:500])
    patient(scans, 7, Modality="MR")
    patient(scans, 8, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    found = index_folder(scans, modality="CT")
    reasons = {x.path.parent.name: (x.reason, x.failed) for x in found.left_out}
    assert reasons["case0"][1]
    assert reasons["case7"] == ("found modality MR; expected CT", False)
    assert "scout" in reasons["case8"][0]
    done = command_line("data", "index", scans, "--modality", "CT", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["exit_code"] == 4


def test_a_picture_in_colors_is_left_out_because_no_model_can_be_trained_on_it(scans):
    PillowImage.fromarray(np.zeros((8, 8, 3), np.uint8)).save(scans / "photo.png")
    found = index_folder(scans, spacing=(1, 1), unit="HU")
    assert "photo.png" not in {row.file for row in found.rows}
    (reason,) = [x.reason for x in found.left_out if x.path.name == "photo.png"]
    assert "3 channels (r, g, b)" in reason
    assert "gray" in reason


def test_spacing_and_unit_are_for_files_that_say_nothing(scans):
    np.savez(scans / "bare.npz", image=body(5))
    assert [x.path.name for x in index_folder(scans).left_out if x.failed] == ["bare.npz"]
    found = {r.patient: r for r in index_folder(scans, spacing=(0.5, 0.5), unit="HU").rows}
    assert (found["bare"].pixel_spacing_mm, found["bare"].unit) == ((0.5, 0.5), "HU")
    assert found["ID-0"].pixel_spacing_mm == (0.8, 0.8)
    patient(scans, 5, Modality="MR")
    assert {r.patient: r for r in index_folder(scans, unit="HU").rows}["ID-5"].unit == "arbitrary"


def test_the_command_prints_a_summary_and_replaces_nothing_unasked(scans):
    done = command_line("data", "index", scans, "--validation", "0.3")
    assert done.returncode == 0, done.stderr
    assert "4 series (9 slices) of 4 patients" in done.stdout
    assert "noise" in done.stdout
    assert "README: no image of a known format" in done.stdout
    again = command_line("data", "index", scans)
    assert again.returncode == 5
    assert "--force" in again.stderr
    quiet = command_line("data", "index", scans, "--force", "--json")
    assert json.loads(quiet.stdout)["patients"] == 4


@pytest.mark.parametrize(
    ("options", "field"),
    [({"validation": 1.0}, "validation"), ({"validation": 0.6, "test": 0.5}, "validation and test"),
     ({"patients": "name"}, "patients")],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(scans, options, field):
    with pytest.raises(InputError, match=field):
        index_folder(scans, **options)


def test_a_folder_without_an_image_is_an_error(tmp_path):
    with pytest.raises(InputError, match="folder of images"):
        index_folder(tmp_path / "none")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"no image.*a\.txt"):
        index_folder(tmp_path)


# ---- the schema ------------------------------------------------------------------------------------------------------

HEAD = "split,patient,file,key,index,noise_hu,pixel_spacing_mm\n"
ROW = 'train,a,a.npz,hu,0,3.5,"[0.7, 0.7]"\n'


def written(tmp_path, text):
    path = tmp_path / "index.csv"
    path.write_text(text)
    return path


def test_a_table_without_our_columns_is_read_with_those_it_has(tmp_path):
    row = read_index(written(tmp_path, "\ufeff" + HEAD.replace("key", "own,key") + ROW.replace("hu", "x,hu")))[0]
    assert row == IndexRow("train", "a", "a.npz", key="hu", index=0, noise=3.5, pixel_spacing_mm=(0.7, 0.7),
                           path=tmp_path / "index.csv", line=2)  # fmt: skip
    assert row.known_unit == "HU"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1.*a column 'split'"),
        (HEAD, "no row"),
        (HEAD.replace("patient", "pateint") + ROW, "line 1.*Did you mean 'pateint'"),
        (HEAD.replace("key", "index") + ROW, "line 1.*'index' twice"),
        (HEAD + ROW + ROW.replace("train", "trian"), "line 3, column split: found 'trian'; expected train"),
        (HEAD + ROW.replace(",a,", ",,"), "line 2, column patient: found an empty cell"),
        (HEAD + ROW.replace(",0,", ",-1,"), "line 2, column index: found '-1'"),
        (HEAD + ROW.replace("3.5", "low"), "line 2, column noise: found 'low'"),
        (HEAD + ROW.replace("[0.7, 0.7]", "[0, 1]"), r"line 2, column pixel_spacing_mm: found '\[0, 1\]'"),
        (HEAD + ROW.replace("[0.7, 0.7]", "[" * 20000), "line 2, column pixel_spacing_mm"),
        (HEAD + ROW + "train,b,b.npz\n", "line 3: found 3 cells; expected 7"),
        (HEAD + ROW + ROW.replace("train", "validation").replace(",0,", ",1,"), "line 3, column split.*patient 'a'"),
        (HEAD + ROW + ROW, "line 3, column file: found the image of line 2 again"),
        (HEAD + ROW + ROW.replace("a.npz", "./a.npz"), "line 3, column file: found the image of line 2"),
        (HEAD + ROW.replace("3.5", '"3.5'), "unreadable CSV"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_by_line_and_column(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_index(written(tmp_path, text))
    assert "index.csv" in str(caught.value)


def test_a_table_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_index(tmp_path / "index.csv")


def test_nan_is_nothing_known(tmp_path):
    assert read_index(written(tmp_path, HEAD + ROW.replace("3.5", "nan")))[0].noise is None


def test_every_column_is_a_field_and_documented():
    import retrodict.data.index as module

    assert all(f"`{name}`" in module.__doc__ for name in COLUMNS)


def test_the_limit_of_cells_of_the_caller_stays(tmp_path):
    before = csv.field_size_limit()
    with pytest.raises(InputError, match="unreadable CSV"):
        read_index(written(tmp_path, HEAD + ROW.replace("a.npz", "a" * 200_000)))
    long = IndexRow("train", "a", ".", files=tuple(f"{k:040d}" for k in range(4000)), path=tmp_path / "x.csv")
    with pytest.raises(InputError, match="column files"):
        write_index([long], tmp_path / "x.csv")
    assert csv.field_size_limit() == before


# ---- slices and digests ----------------------------------------------------------------------------------------------


def test_rows_of_one_array_have_spacings_of_their_own(tmp_path):
    np.savez(tmp_path / "a.npz", hu=np.stack([body(1), body(2)]))
    text = HEAD + ROW + ROW.replace(",0,", ",1,").replace("0.7", "0.5")
    slices = list(row_slices(read_index(written(tmp_path, text))))
    assert [s.spacing for s in slices] == [(0.7, 0.7), (0.5, 0.5)]
    assert [s.noise for s in slices] == [3.5, 3.5]
    assert torch.equal(slices[1].image.values[0], torch.from_numpy(body(2)).float())


@pytest.mark.parametrize(
    ("change", "message"),
    [((",0,", ",2,"), "line 2, column index: found 2; expected a number below 2"), (("a.npz", "b.npz"), "b.npz"),
     ((",hu,", ",hv,"), "found 'hv'; expected one of hu"), (('"[0.7, 0.7]"', ""), "line 2, column pixel_spacing_mm")],
)  # fmt: skip
def test_a_row_without_its_image_is_refused(tmp_path, change, message):
    np.savez(tmp_path / "a.npz", hu=np.stack([body(1), body(2)]))
    with pytest.raises(InputError, match=message):
        list(row_slices(read_index(written(tmp_path, HEAD + ROW.replace(*change)))))


def test_pixels_are_known_again_in_another_format_and_other_pixels_are_not(scans, tmp_path):
    image = read(scans / "case1")
    np.savez(tmp_path / "same.npz", hu=image.values[0].numpy(), spacing=[2.0, 0.8, 0.8])
    rows = index_folder(scans).rows
    row = next(r for r in rows if r.patient == "ID-1")
    digests = slice_digests(read(tmp_path / "same.npz"))
    assert row.sha256 == row_digest(digests)
    assert len(set(digests)) == 2
    assert row_digest(digests[:1]) == digests[0]
    assert slice_digest(torch.zeros(1, 2, 3)) == slice_digest(-torch.zeros(1, 2, 3))
    assert slice_digest(torch.zeros(1, 2, 3)) != slice_digest(torch.zeros(1, 3, 2))
    (scans / "case1" / "0.dcm").write_bytes((scans / "case2" / "0.dcm").read_bytes())
    with pytest.raises(InputError, match="column sha256: found other pixels"):
        list(row_slices([row]))


def test_the_noise_is_that_of_the_image():
    """White noise with its six degrees of freedom back, and noise that a moving average correlates."""
    rng = np.random.default_rng(0)
    white = rng.normal(0, 7.0, (128, 128))
    sd, correlation = own_noise(Image.of(white, spacing=1.0))
    assert sd == pytest.approx(7.0, rel=0.04)
    assert correlation == pytest.approx(0.0, abs=0.05)
    smooth = (white + np.roll(white, 1, 0) + np.roll(white, 1, 1) + np.roll(white, (1, 1), (0, 1))) / 4
    sd, correlation = own_noise(Image.of(smooth, spacing=1.0))
    assert sd == pytest.approx(3.5, rel=0.06)
    assert correlation == pytest.approx(0.5, abs=0.07)
    assert own_noise(Image.of(np.zeros((64, 64)), spacing=1.0)) == (None, None)


def test_slices_are_taken_evenly():
    assert evenly(10, None) == list(range(10))
    assert evenly(10, 3) == [1, 5, 8]
    assert evenly(2, 5) == [0, 1]
    assert evenly(101, 1) == [50]


@pytest.mark.skipif(not (DATA / "ct_tcga_lung").is_dir(), reason="no CT patients beside the repository")
def test_the_tables_of_the_training_sets_are_read():
    rows = read_index(DATA / "ct_tcga_lung" / "index.csv")
    assert len({r.patient for r in rows if r.split == "train"}) == 38
    found = list(row_slices(rows[:3]))
    assert [s.image.unit for s in found] == ["HU"] * 3
    assert all(os.fspath(DATA) in s.where for s in found)
