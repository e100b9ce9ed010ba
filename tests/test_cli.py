"""The command line: exit codes, one-sentence errors, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.made_files import make_series, make_slice, rewrite
from models import make_model
from shell import retrodict


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return folder / "model"


def hu(size=(20, 24), seed=0):
    return np.random.default_rng(seed).normal(0, 100, size).round().astype(np.int16)


def scan(folder, name="scan.dcm", **tags):
    folder.mkdir(exist_ok=True)
    make_slice(folder / name, hu(), position=(0, 0, 0), spacing=(1.0, 1.0), **tags)
    return folder / name


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "retrodict", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == retrodict("--version").stdout


def test_version_and_help():
    assert retrodict("--version").stdout.startswith("retrodict 0.")
    shown = retrodict("restore", "--help").stdout
    for option in ("--output", "--samples", "--steps", "--model", "--force", "--resample", "--point"):
        assert option in shown


def test_restoring_a_dicom_file_prints_complete_paths(tmp_path, model):
    out = tmp_path / "a-folder-with-a-rather-long-name-that-would-not-fit" / "out"
    done = retrodict(
        "restore", scan(tmp_path / "in"), "-o", out, "--model", model, "--samples", 2, "--steps", 1, columns=60
    )
    assert done.returncode == 0, done.stderr
    for role in ("mean.dcm", "sd.dcm", "report.html", "restore.json"):
        assert str(out / f"scan_{role}") in done.stdout.replace("\n ", "\n")
    assert "posterior" in done.stdout


def damaged(folder, kind):
    """A bad input of each kind and words that its error must contain."""
    folder.mkdir()
    path = folder / "scan.dcm"
    if kind in ("mixed sizes", "missing slice"):
        make_series(folder, 5, leave_out=(2,) if kind == "missing slice" else ())
        if kind == "mixed sizes":
            make_slice(folder / "big.dcm", hu((13, 15)), position=(0, 0, 10.0), number=6)
        return folder, {"mixed sizes": "one size", "missing slice": "InstanceNumber"}[kind]
    if kind == "NaN pixels":
        values = hu().astype(np.float32)
        values[3, 4] = np.nan
        np.savez(folder / "scan.npz", image=values, spacing=[1.0, 1.0], unit="HU")
        return folder / "scan.npz", "finite"
    if kind == "infinite pixels":
        np.savez(folder / "scan.npz", image=np.full((20, 24), np.inf, np.float32), spacing=[1.0, 1.0], unit="HU")
        return folder / "scan.npz", "finite"
    if kind == "pickle":
        np.savez(folder / "scan.npz", image=np.array([{"a": 1}], dtype=object))
        return folder / "scan.npz", "Python objects"
    scan(folder)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
        return path, "scan.dcm"
    if kind == "not CT":
        rewrite(path, Modality="MR")
        return path, "Modality"
    if kind == "no geometry":
        rewrite(path, PixelSpacing=None)
        return path, "PixelSpacing"
    if kind == "other spacing":
        make_slice(path, hu(), position=(0, 0, 0), spacing=(0.5, 0.5))
        return path, "pixel spacing"
    raise AssertionError(kind)


BAD = [
    "truncated",
    "not CT",
    "no geometry",
    "mixed sizes",
    "missing slice",
    "NaN pixels",
    "infinite pixels",
    "pickle",
    "other spacing",
]


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_clear_error(tmp_path, model, kind):
    source, words = damaged(tmp_path / "in", kind)
    out = tmp_path / "out"
    done = retrodict("restore", source, "-o", out, "--model", model, "--samples", 2, "--steps", 1)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout
    assert words.lower() in done.stderr.lower()
    assert "expected" in done.stderr
    assert not out.exists() or not list(out.rglob("*"))


def test_a_missing_codec_is_named(tmp_path, model):
    """Claim a JPEG 2000 stream and hide every decoder."""
    source = scan(tmp_path / "in")
    code = (
        "import sys; sys.modules['openjpeg'] = None; sys.modules['pylibjpeg'] = None; sys.modules['gdcm'] = None;"
        "sys.modules['PIL'] = None\n"
        "import pydicom\n"
        f"d = pydicom.dcmread({str(source)!r})\n"
        "d.PixelData = pydicom.encaps.encapsulate([d.PixelData]); d['PixelData'].VR = 'OB'\n"
        "d['PixelData'].is_undefined_length = True\n"
        "d.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless\n"
        f"d.save_as({str(source)!r})\n"
        "from retrodict.data import read\n"
        "try:\n"
        f"    read({str(source)!r})\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "InputError" in done.stdout, done.stdout + done.stderr
    assert "1.2.840.10008.1.2.4.90" in done.stdout or "JPEG 2000" in done.stdout
    assert "pip install" in done.stdout


def test_one_bad_file_in_a_folder_is_reported_at_the_end(tmp_path, model):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "c"):
        np.savez(folder / f"{name}.npz", image=hu().astype(np.float32), spacing=[1.0, 1.0], unit="HU")
    (folder / "b.npz").write_bytes(b"nothing")
    done = retrodict("restore", folder, "-o", tmp_path / "out", "--model", model, "--samples", 2, "--steps", 1)
    assert done.returncode == 1
    assert (tmp_path / "out" / "a_mean.npz").exists()
    assert (tmp_path / "out" / "c_mean.npz").exists()
    assert "b.npz" in done.stderr
    assert "2 restored, 1 failed" in done.stderr


def test_an_uncertainty_that_is_not_one_is_refused(tmp_path, model):
    arguments = ("restore", scan(tmp_path / "in"), "-o", tmp_path / "out", "--model", model, "--rule", "ddim")
    done = retrodict(*arguments)
    assert done.returncode == 2
    assert "same image" in done.stderr
    done = retrodict(*arguments, "--point", "--steps", 2)
    assert done.returncode == 0, done.stderr
    assert "no uncertainty" in done.stdout
    assert not (tmp_path / "out" / "scan_sd.dcm").exists()


def test_unknown_models_and_configurations(tmp_path):
    done = retrodict("restore", scan(tmp_path / "in"), "-o", tmp_path / "out", "--model", "mri")
    assert done.returncode == 2
    assert "shipped model" in done.stderr
    (tmp_path / "c.yaml").write_text("name: x\nunheard: 1\n")
    done = retrodict("fit", tmp_path / "c.yaml")
    assert done.returncode == 2
    assert "c.yaml" in done.stderr


def test_schema_and_info():
    assert json.loads(retrodict("schema").stdout)["title"] == "FitConfig"
    assert json.loads(retrodict("info").stdout)["unit"] == "HU"


@pytest.mark.slow
def test_demo_writes_what_it_says(tmp_path):
    """The main job, at its smallest: one slice, two members."""
    done = retrodict("demo", "-o", tmp_path, "--samples", 2, "--slices", 1)
    assert done.returncode == 0, done.stderr
    for role in ("mean.dcm", "sd.dcm", "report.html"):
        assert (tmp_path / f"abdomen-1-measured_{role}").exists()
        assert f"abdomen-1-measured_{role}" in done.stdout
