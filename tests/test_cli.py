"""The command line: exit codes, one-sentence errors, and nothing left behind."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.made_files import make_series, make_slice, rewrite
from models import make_model
from models import scan as measured
from retrodict.cli import progress
from retrodict.cli.command import CODES, Code
from shell import retrodict


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return folder / "model"


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Plotting a page takes a second, and no test here looks at one."""
    if "slow" not in request.keywords:
        monkeypatch.setattr("retrodict.report.restoration.write", lambda _, path: path.write_text("<html>"))


def hu(size=(60, 64), seed=0):
    return measured(size, seed).values[0].numpy().round().astype(np.int16)


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
        np.savez(folder / "scan.npz", image=np.full((60, 64), np.inf, np.float32), spacing=[1.0, 1.0], unit="HU")
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
    assert done.returncode == Code.some_failed
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
    assert "point estimate: asked for" in done.stdout
    assert not (tmp_path / "out" / "scan_sd.dcm").exists()


def test_unknown_models_and_configurations(tmp_path):
    done = retrodict("restore", scan(tmp_path / "in"), "-o", tmp_path / "out", "--model", "mri")
    assert done.returncode == 2
    assert "shipped model" in done.stderr
    (tmp_path / "c.yaml").write_text("name: x\nunheard: 1\n")
    done = retrodict("fit", tmp_path / "c.yaml")
    assert done.returncode == Code.bad_input
    assert "c.yaml" in done.stderr


def test_schema_and_info():
    assert json.loads(retrodict("schema").stdout)["title"] == "FitConfig"
    assert json.loads(retrodict("info").stdout)["unit"] == "HU"


# ---- one table of exit codes -----------------------------------------------------------------------------------------


def array(folder, name="a.npz", seed=0, **extra):
    folder.mkdir(exist_ok=True)
    np.savez(folder / name, image=hu(seed=seed).astype(np.float32), **{"spacing": [1.0, 1.0], "unit": "HU", **extra})
    return folder / name


USAGE = [
    ["--rule", "eulr"],
    ["--grid", "tim"],
    ["--model", "tc"],
    ["--device", "gpu"],
    ["--precision", "fp8"],
    ["--samples", "0"],
    ["--samples", "x"],
    ["--spacing", "a,b"],
    ["--spread", "locl"],
    ["--sampels", "2"],
    ["--rule", "ddim"],
]


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
def test_every_mistake_in_an_option_has_one_code_and_names_its_flag(tmp_path, model, words):
    source = array(tmp_path / "in")
    done = retrodict("restore", source, "-o", tmp_path / "out", "--model", model, *words)
    assert done.returncode == Code.usage, done.stderr
    if words != ["--rule", "ddim"]:  # which is a rule, but no posterior
        assert words[0] in done.stderr
    assert not (tmp_path / "out").exists()


def test_codes_of_inputs_and_outputs(tmp_path, model, monkeypatch):
    good = array(tmp_path / "in")
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"nothing")
    fast = ("--model", model, "--samples", 2, "--steps", 1)
    assert retrodict("restore", tmp_path / "nowhere", "-o", tmp_path / "out", *fast).returncode == Code.bad_input
    assert retrodict("restore", bad, "-o", tmp_path / "out", *fast).returncode == Code.bad_input
    assert retrodict("restore", good, "-o", "/proc/out", *fast).returncode == Code.no_output
    assert retrodict("restore", good, "-o", tmp_path / "out", *fast).returncode == Code.done
    assert retrodict("restore", good, "-o", tmp_path / "out", *fast).returncode == Code.no_output
    assert retrodict("restore", good, "-o", tmp_path / "out", "--resume", *fast).returncode == Code.done
    monkeypatch.setattr("retrodict.tasks.restore.write_parts", lambda *_: 1 / 0)
    broken = retrodict("restore", good, "-o", tmp_path / "other", *fast)
    assert broken.returncode == Code.fault
    assert "ZeroDivisionError" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert "a_error.log" in broken.stderr
    assert "Traceback" in retrodict("restore", good, "-o", tmp_path / "other", "--debug", *fast).stderr


def test_a_fault_outside_of_any_input_is_one_line(monkeypatch):
    monkeypatch.setattr("retrodict.tasks.prepare.model_card", lambda _: 1 / 0)
    done = retrodict("info")
    assert done.returncode == Code.fault
    assert done.stderr.count("\n") == 1
    assert "--debug" in done.stderr
    assert "Traceback" in retrodict("info", "--debug").stderr


def test_stopping_says_what_was_done_and_how_to_go_on(tmp_path, model, monkeypatch):
    for name in ("a.npz", "b.npz"):
        array(tmp_path / "in", name)
    from retrodict.tasks.restore import Job

    run = Job.run

    def stopped(job, *rest):
        if job.name == "b":
            raise KeyboardInterrupt
        return run(job, *rest)

    monkeypatch.setattr(Job, "run", stopped)
    fast = ("--model", model, "--samples", 2, "--steps", 1)
    done = retrodict("restore", tmp_path / "in", "-o", tmp_path / "out", *fast, "--json")
    assert done.returncode == Code.stopped
    assert "1 restored" in done.stderr
    assert "--resume" in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 130
    monkeypatch.undo()
    done = retrodict("restore", tmp_path / "in", "-o", tmp_path / "out", *fast, "--resume", "--json")
    assert done.returncode == 0
    record = json.loads(done.stdout)
    assert (record["skipped"], [r["name"] for r in record["restored"]]) == (["a"], ["b"])


def test_the_help_and_the_documents_hold_the_table():
    shown = " ".join(retrodict("restore", "-h", columns=200).stdout.split())
    page = (Path(__file__).parents[1] / "docs" / "howto-restore.md").read_text()
    for code, text in CODES.items():
        assert f"{int(code)} {text}" in shown.replace("│ ", "")
        assert f"| {int(code)} | {text} |" in page


# ---- for people and for programs -------------------------------------------------------------------------------------


def test_json_is_one_object_and_nothing_else(tmp_path, model):
    for name in ("a.npz", "b.npz"):
        array(tmp_path / "in", name)
    (tmp_path / "in" / "b.npz").write_bytes(b"nothing")
    (tmp_path / "in" / "notes.txt").write_text("words")
    done = retrodict("restore", tmp_path / "in", "-o", tmp_path / "out", "--model", model, "--samples", 2, "--json")
    record = json.loads(done.stdout)
    assert record["exit_code"] == done.returncode == Code.some_failed
    (result,) = record["restored"]
    assert (result["name"], result["kind"]) == ("a", "posterior")
    assert all(Path(path).exists() for path in result["files"])
    assert record["failed"][0]["type"] == "InputError"
    assert record["left_out"][0]["path"].endswith("notes.txt")


@pytest.mark.parametrize(
    "words",
    [["restore", "nowhere", "-o", "x"], ["restore"], ["info", "mri"], ["fit", "no.yaml"], ["restore", "--x"]],
    ids=" ".join,
)
def test_errors_are_objects_too(words):
    done = retrodict(*words, "--json")
    record = json.loads(done.stdout)
    assert record["exit_code"] == done.returncode != 0
    assert record["error"]["type"]


def test_quiet_says_nothing_but_errors(tmp_path, model):
    source = array(tmp_path / "in")
    words = ("restore", source, "-o", tmp_path / "out", "--model", model, "--samples", 2, "-q")
    done = retrodict(*words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = retrodict(*words)
    assert done.stderr.startswith("error") or done.stderr.startswith("failed")
    assert retrodict("info").stdout  # and the next command speaks again


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.watching() as watch:
        for done in range(1, 101):
            now[0] += 1.0
            watch("scan [1]", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "scan [1]: 1 of 100"
    assert lines[1] == "scan [1]: 11 of 100, about 89 s left"


def test_other_names_of_options_are_taken(tmp_path, model):
    source = array(tmp_path / "in", spacing=[0.8, 0.8])
    words = ("restore", source, "-o", tmp_path / "out", "--model", model, "--samples", 2, "--steps", 1)
    done = retrodict(*words)
    assert "Give --resample" in done.stderr
    assert retrodict(*words, "--resampling", "--no-uncertainty").returncode == 0
    assert not (tmp_path / "out" / "a_sd.npz").exists()
    assert "resampling" not in retrodict("restore", "-h").stdout


def test_errors_speak_the_language_of_the_command_line(tmp_path, model):
    from PIL import Image

    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "a.png")
    words = ("--model", model, "-o", tmp_path / "out")
    done = retrodict("restore", tmp_path / "a.png", *words)
    assert "Give --spacing 0.7,0.7" in done.stderr
    done = retrodict("restore", tmp_path / "a.png", *words, "--spacing", "1,1")
    assert "Give --unit HU" in done.stderr
    rewrite(scan(tmp_path / "mr"), Modality="MR")
    done = retrodict("restore", tmp_path / "mr" / "scan.dcm", *words)
    assert "Give --expect any" in done.stderr
    done = retrodict("restore", tmp_path / "mr" / "scan.dcm", *words, "--expect", "MR", "--samples", 2)
    assert "--unit HU" in done.stderr
    done = retrodict("restore", tmp_path / "mr" / "scan.dcm", *words, "--expect", "any", "--unit", "HU", "--samples", 2)
    assert done.returncode == 0, done.stderr


def test_a_demonstration_does_not_overwrite(tmp_path):
    (tmp_path / "chest-1-measured.dcm").write_text("mine")
    done = retrodict("demo", "-o", tmp_path, "--slices", 1)
    assert done.returncode == Code.no_output
    assert "--force" in done.stderr
    assert (tmp_path / "chest-1-measured.dcm").read_text() == "mine"
    (tmp_path / "chest-1-measured.dcm").unlink()
    (tmp_path / "scanner-nps.json").write_text("mine")
    done = retrodict("demo", "-o", tmp_path, "--slices", 1)
    assert done.returncode == Code.no_output
    assert "scanner-nps.json" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["scanner-nps.json"]


@pytest.mark.slow
def test_demo_writes_what_it_says(tmp_path):
    """The main job, at its smallest: one slice, two members."""
    done = retrodict("demo", "-o", tmp_path, "--samples", 2, "--slices", 1)
    assert done.returncode == 0, done.stderr
    for role in ("mean.dcm", "sd.dcm", "report.html"):
        assert (tmp_path / f"chest-1-measured_{role}").exists()
        assert f"chest-1-measured_{role}" in done.stdout
    words = shlex.split(next(line for line in done.stdout.splitlines() if "--mtf" in line))
    assert words[:2] == ["retrodict", "restore"]
    words[words.index("-o") + 1] = str(tmp_path / "again")
    done = retrodict(*words[1:], "--instant")
    assert done.returncode == 0, done.stderr
    assert "posterior" in done.stdout
    record = json.loads((tmp_path / "chest-1-measured_restore.json").read_text())
    files = record["instrument"]["files"]
    assert [Path(f) for f in files] == [tmp_path / f"scanner-{name}.json" for name in ("mtf", "nps")]
