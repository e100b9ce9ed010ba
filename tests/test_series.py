"""Folders and series: one boundary for each input, slices that outlive their run, names, and images in memory."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data.made_files import make_slice
from models import SPECTRUM, make_model
from retrodict import InputError, NotCalibratedError
from retrodict.bases import Fourier
from retrodict.data import Image, OutputError
from retrodict.processes.fourier import fourier
from retrodict.processes.observation import noise_like
from retrodict.tasks.batch import Interrupted, restore_all
from retrodict.tasks.machine import usable_cores
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.restore import Job, restore
from retrodict.tasks.results import belongs_to, result_name
from retrodict.tasks.resume import fingerprint

FAST = {"samples": 2, "steps": 1}  # one call a slice, which the members share


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("zero"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Plotting a page takes a second, and no test here looks at one."""
    monkeypatch.setattr("retrodict.report.restoration.write", lambda _, path: path.write_text("<html>"))


SIZE = (60, 64)


def pixels(seed=0, size=SIZE):
    """What the instrument of the model measures, in HU: another image would be no posterior, and not be sampled."""
    if len(size) == 3:
        return np.stack([pixels(100 * seed + i, size[1:]) for i in range(size[0])])
    process = fourier(Fourier(size))
    basis, seeds = process.basis, torch.tensor([seed])
    z = noise_like(torch.zeros(1, 1, *size, dtype=torch.float64), seeds, "data", 0)
    x = basis.inverse(SPECTRUM.mean_on(basis) + SPECTRUM.on(basis).sqrt() * basis.forward(z)).float()
    return (100 * process.pairing.simulate(x - 5, basis, seeds))[0, 0].numpy().astype(np.float32)


def save(folder, name="scan.npz", seed=0, size=SIZE):
    folder.mkdir(exist_ok=True, parents=True)
    np.savez(folder / name, image=pixels(seed, size), spacing=[1.0] * len(size), unit="HU")
    return folder / name


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def dead():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


# ---- one boundary for each input -------------------------------------------------------------------------------------

FAULTS = [
    ValueError("bad VR"),
    MemoryError(),
    RecursionError("deep"),
    OSError(errno.EIO, "I/O"),
    ZeroDivisionError("x"),
]


@pytest.mark.parametrize("error", FAULTS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("where", ["tasks.batch.open_image", "tasks.restore.write_parts"])
def test_whatever_happens_to_one_input_costs_no_other_its_result(tmp_path, model, monkeypatch, error, where):
    for name in "abc":
        save(tmp_path / "in", f"{name}.npz")
    import retrodict.tasks.batch
    import retrodict.tasks.restore

    module, function = where.rsplit(".", 1)
    owner = {"tasks.batch": retrodict.tasks.batch, "tasks.restore": retrodict.tasks.restore}[module]
    real = getattr(owner, function)

    def faulty(what, *rest):
        if "b" in (getattr(what, "name", ""), Path(getattr(what, "paths", ["x"])[0]).stem):
            raise error
        return real(what, *rest)

    monkeypatch.setattr(owner, function, faulty)
    summary = restore_all(tmp_path / "in", tmp_path / "out", model=model, **FAST)
    assert [r.name for r in summary.restored] == ["a", "c"]
    (failure,) = summary.failures
    assert failure.name == "b"
    assert "\n" not in failure.reason
    assert failure.error is error
    assert failure.unexpected == (not isinstance(error, OSError))
    if failure.unexpected:
        assert type(error).__name__ in failure.reason
        assert str(failure.log) in failure.reason
        assert "Traceback" in failure.log.read_text()
    assert not [n for n in names(tmp_path / "out") if n.startswith(("b_", ".")) and not n.endswith(".log")]


def test_a_failed_input_is_tried_again_and_its_traceback_goes(tmp_path, model, monkeypatch):
    save(tmp_path / "in", "a.npz")
    with monkeypatch.context() as broken:
        broken.setattr("retrodict.tasks.restore.write_parts", lambda *_: 1 / 0)
        assert restore_all(tmp_path / "in", tmp_path / "out", model=model, **FAST).failures
    assert names(tmp_path / "out") == ["a_error.log"]
    assert not restore_all(tmp_path / "in", tmp_path / "out", model=model, resume=True, **FAST).failures
    assert "a_error.log" not in names(tmp_path / "out")
    assert "a_mean.npz" in names(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"rule": "eulr"}, "euler"),
        ({"grid": "tim"}, "time"),
        ({"device": "gpu"}, "device"),
        ({"sampels": 1}, "samples"),
    ],
)
def test_what_is_wrong_for_every_input_is_raised_at_once(tmp_path, model, changes, error):
    save(tmp_path / "in", "a.npz")
    with pytest.raises(InputError, match=error):
        restore_all(tmp_path / "in", tmp_path / "out", model=model, **changes)
    assert not (tmp_path / "out").exists()


def test_what_is_no_image_is_named(tmp_path, model):
    save(tmp_path / "in", "a.npz")
    (tmp_path / "in" / "notes.txt").write_text("words")
    (tmp_path / "in" / "b.npz").write_bytes(b"not a zip")
    summary = restore_all(tmp_path / "in", tmp_path / "out", model=model, **FAST)
    assert [f.name for f in summary.failures] == ["b"]
    assert "notes.txt" in " ".join(summary.notes)
    assert repr(summary) == "Summary(1 restored, 1 failed, 1 left out)"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("words")
    with pytest.raises(InputError, match=r"no image .*notes\.txt"):
        restore_all(tmp_path / "empty", tmp_path / "out", model=model)


def test_results_are_no_inputs_of_the_next_run(tmp_path, model):
    save(tmp_path, "a.npz")
    restore_all(tmp_path, tmp_path, model=model, **FAST)
    summary = restore_all(tmp_path, tmp_path, model=model, force=True, **FAST)
    assert [r.name for r in summary.restored] == ["a"]
    assert len(summary.left_out) >= 4


def test_results_may_be_forgotten_once_they_are_told(tmp_path, model):
    save(tmp_path / "in", "a.npz")
    told = []
    summary = restore_all(tmp_path / "in", tmp_path / "out", model=model, keep=False, told=told.append, **FAST)
    assert [r.name for r in told] == ["a"]
    assert summary.restored == []
    assert str(summary) == "1 restored, 0 failed"


# ---- a series that was cut short -------------------------------------------------------------------------------------


def stopping_after(calls):
    def watch(name, done, total):
        if done > calls:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("keep", [False, True])
def test_a_killed_series_goes_on_with_the_bits_of_one_that_was_not(tmp_path, model, keep):
    source = save(tmp_path / "in", "s.npz", size=(4, *SIZE))
    options = {**FAST, "keep_samples": keep}
    whole = restore(source, model=model, **options)
    with pytest.raises(KeyboardInterrupt):
        restore(source, tmp_path / "out", model=model, watch=stopping_after(2), **options)
    (staging,) = [p for p in (tmp_path / "out").iterdir()]
    os.rename(staging, staging.with_name(f".s.tmp-{dead()}"))  # as another process would have left it
    seen = []
    again = restore(source, tmp_path / "out", model=model, watch=lambda n, done, total: seen.append(done), **options)
    assert torch.equal(again.mean.values, whole.mean.values)
    assert torch.equal(again.sd.values, whole.sd.values)
    assert all(torch.equal(a.values, b.values) for a, b in zip(again.samples, whole.samples, strict=True))
    assert again.details["slices_of_an_earlier_run"] == 2
    assert again.details["seeds"] == whole.details["seeds"]
    assert seen[:2] == [1, 2]
    assert not [n for n in names(tmp_path / "out") if n.startswith(".")]


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 2}, {"samples": 3}])
def test_slices_of_other_options_are_not_used(tmp_path, model, change):
    source = save(tmp_path / "in", "s.npz", size=(3, *SIZE))
    with pytest.raises(KeyboardInterrupt):
        restore(source, tmp_path / "out", model=model, watch=stopping_after(1), **FAST)
    again = restore(source, tmp_path / "out", model=model, **{**FAST, **change})
    assert again.details["slices_of_an_earlier_run"] == 0
    assert torch.equal(again.mean.values, restore(source, model=model, **{**FAST, **change}).mean.values)
    assert not [n for n in names(tmp_path / "out") if n.startswith(".")]


def test_a_damaged_slice_is_computed_again(tmp_path, model):
    source = save(tmp_path / "in", "s.npz", size=(3, *SIZE))
    with pytest.raises(KeyboardInterrupt):
        restore(source, tmp_path / "out", model=model, watch=stopping_after(2), **FAST)
    first = sorted((tmp_path / "out").rglob("item-*"))[0]
    first.write_bytes(first.read_bytes()[:-7])
    again = restore(source, tmp_path / "out", model=model, **FAST)
    assert again.details["slices_of_an_earlier_run"] == 1
    assert torch.equal(again.mean.values, restore(source, model=model, **FAST).mean.values)


def test_the_fingerprint_is_of_everything_that_changes_the_result(tmp_path, model):
    def of(image=None, used=model, **changes):
        job = Job.of(
            image or Image(torch.zeros(1, *SIZE), "HU", (1.0, 1.0), "npz", ()), used, RestoreOptions(**changes), "a"
        )
        return fingerprint(job.model, job.options, job.image, job.about)

    other = make_model(tmp_path, zero=False)
    image = Image(torch.zeros(1, *SIZE), "HU", (1.0, 1.0), "npz", ())
    image.values[0, 3, 3] = 1e-6
    found = [of(), of(seed=1), of(keep_samples=True), of(spread="wiener"), of(image), of(used=other), of(tile=64)]
    assert len(set(found)) == len(found)
    assert of() == of(threads=1)


def test_a_stopped_folder_says_what_was_done_and_goes_on(tmp_path, model):
    for name, size in (("a", SIZE), ("b", (3, *SIZE)), ("c", SIZE)):
        save(tmp_path / "in", f"{name}.npz", size=size)

    def watch(name, done, total):
        if name == "b" and done > 1:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="1 restored, 0 failed, and 1 finished slices of b kept") as stopped:
        restore_all(tmp_path / "in", tmp_path / "out", model=model, watch=watch, **FAST)
    assert [r.name for r in stopped.value.summary.restored] == ["a"]
    worked = set()
    watch = lambda name, *_: worked.add(name)  # noqa: E731
    summary = restore_all(tmp_path / "in", tmp_path / "out", model=model, resume=True, watch=watch, **FAST)
    assert summary.skipped == ["a"]
    assert [r.name for r in summary.restored] == ["b", "c"]
    assert worked == {"b", "c"}


@pytest.mark.parametrize("change", ["options", "pixels", "a missing file"])
def test_resuming_skips_only_results_of_the_same_computation(tmp_path, model, change):
    source, out = save(tmp_path / "in", "a.npz"), tmp_path / "out"
    restore_all(source, out, model=model, **FAST)
    assert restore_all(source, out, model=model, resume=True, **FAST).skipped == ["a"]
    if change == "pixels":
        save(tmp_path / "in", "a.npz", seed=1)
    elif change == "a missing file":
        (out / "a_sd.npz").unlink()
    options = {**FAST, "seed": 1} if change == "options" else FAST
    summary = restore_all(source, out, model=model, resume=True, **options)
    assert summary.skipped == []
    assert "a file of an earlier run" in summary.failures[0].reason
    assert restore_all(source, out, model=model, resume=True, force=True, **options).count == 1


def test_a_run_that_was_killed_while_it_moved_its_results_is_done(tmp_path, model):
    source, out = save(tmp_path / "in", "a.npz"), tmp_path / "out"
    restore_all(source, out, model=model, **FAST)
    staging = out / f".a.tmp-{dead()}"
    (staging / ".work" / "old").mkdir(parents=True)
    files = [n for n in names(out) if n.startswith("a_")]
    for name in files[:3]:
        os.rename(out / name, staging / name)
    (staging / ".work" / "move.json").write_text(json.dumps({"entries": files, "obsolete": []}))
    summary = restore_all(source, out, model=model, **FAST)
    assert (summary.skipped, summary.failures) == (["a"], [])
    assert names(out) == files


# ---- before the work -------------------------------------------------------------------------------------------------


def no_work(*_):
    raise AssertionError("the work has begun")


def test_an_output_that_cannot_be_made_is_refused_before_the_work(tmp_path, model):
    source = save(tmp_path / "in", "scan [1].npz")
    (tmp_path / "file").write_text("")
    for out in (Path("/proc/out"), Path("/dev/null/out"), tmp_path / "file" / "out"):
        with pytest.raises((OutputError, InputError)):
            restore(source, out, model=model, watch=no_work, **FAST)


def test_results_of_a_name_with_brackets_are_found_before_the_work(tmp_path, model):
    source = save(tmp_path / "in", "scan [1].npz")
    restore(source, tmp_path / "out", model=model, **FAST)
    with pytest.raises(InputError, match="earlier run"):
        restore(source, tmp_path / "out", model=model, watch=no_work, **FAST)


def test_a_full_disk_is_refused_before_the_work(tmp_path, model, monkeypatch):
    source = save(tmp_path / "in", "a.npz")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 1000})())
    with pytest.raises(OutputError, match="nothing was computed"):
        restore(source, tmp_path / "out", model=model, watch=no_work, **FAST)
    assert not (tmp_path / "out").exists()


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_name_that_begins_another_is_not_in_its_way(tmp_path, model):
    out = tmp_path / "out"
    for name in ("pat_1", "pat_mean", "pat"):
        restore(save(tmp_path / "in", f"{name}.npz"), out, model=model, **FAST)
    assert len([n for n in names(out) if n.endswith("_mean.npz")]) == 3
    own = belongs_to("pat")
    assert all(
        own(f"pat_{n}") for n in ("mean", "mean.dcm", "sd.nii.gz", "sample-000.npz", "restore.json", "report.html")
    )
    others = ("pat_1_mean.dcm", "pat_mean_mean.npz", "pat_mean.x_mean.npz", "pat_meanwhile.dcm", "pat_error.log", "pat")
    assert not any(own(n) for n in others)


NAMES = [
    "CT.1.2.840.99.1",
    "CT.1.2.840.99.2",
    ".hidden",
    "scan",
    "größe 中",
    "x" * 220 + "1",
    "x" * 220 + "2",
    "scan.v2",
]


def test_two_names_have_two_results(tmp_path, model):
    out = tmp_path / "out"
    for i, name in enumerate(NAMES):
        restore(save(tmp_path / "in", f"{name}.npz", seed=i), out, model=model, force=True, **FAST)
    means = [n for n in names(out) if n.endswith("_mean.npz")]
    assert len(means) == len(NAMES)
    assert not any(n.startswith(".") for n in means)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a\nb", "a\x1b[31m", "\udcff", "..", "", "é" * 200])
def test_a_result_name_can_be_a_file_name(tmp_path, name):
    usable = result_name(name)
    assert usable == result_name(usable)
    (tmp_path / f".{usable}_sample-000.nii.gz.tmp-1234567").write_text("")
    assert not usable.startswith(".")
    assert usable.isprintable()


def test_force_does_not_replace_the_results_of_another_input(tmp_path, model):
    """Files whose names differ only by their extension: the second is refused, and says of which the results are."""
    out = tmp_path / "out"
    first = save(tmp_path / "in", "scan.npz", seed=1)
    restore(first, out, model=model, **FAST)
    before = (out / "scan_mean.npz").read_bytes()
    make_slice(tmp_path / "in" / "scan.dcm", pixels(2).round().astype(np.int16), position=(0, 0, 0), spacing=(1.0, 1.0))
    with pytest.raises(InputError, match=r"results of another input, .*scan\.npz"):
        restore(tmp_path / "in" / "scan.dcm", out, model=model, force=True, watch=no_work, **FAST)
    assert (out / "scan_mean.npz").read_bytes() == before
    (tmp_path / "moved").mkdir()
    os.rename(first, tmp_path / "moved" / "scan.npz")
    restore(tmp_path / "moved" / "scan.npz", out, model=model, force=True, **FAST)


def test_a_point_estimate_does_not_stand_beside_the_deviation_of_another_run(tmp_path, model):
    source = save(tmp_path / "in", "a.npz")
    restore(source, tmp_path / "out", model=model, keep_samples=True, **FAST)
    restore(source, tmp_path / "out", model=model, point=True, force=True, **FAST)
    assert names(tmp_path / "out") == ["a_mean.npz", "a_report.html", "a_restore.json"]


# ---- in memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: x,
        torch.from_numpy,
        lambda x: torch.from_numpy(x).requires_grad_(),
        lambda x: x[:, ::-1],
        lambda x: x.tolist(),
    ],
    ids=["array", "tensor", "gradient", "view", "list"],
)
def test_arrays_are_restored_as_files_are(tmp_path, model, turn):
    given = turn(pixels())
    plain = np.array(given.detach().numpy() if isinstance(given, torch.Tensor) else given, dtype=np.float32)
    np.savez(tmp_path / "a.npz", image=plain, spacing=[1.0, 1.0], unit="HU")
    result = restore(given, model=model, unit="HU", spacing=(1.0, 1.0), **FAST)
    assert torch.equal(result.mean.values, restore(tmp_path / "a.npz", model=model, **FAST).mean.values)


def test_a_stack_of_slices_in_memory(tmp_path, model):
    stack = np.stack([pixels(i) for i in range(3)])
    result = restore(stack, tmp_path, name="stack", model=model, unit="HU", spacing=(1.0, 1.0), **FAST)
    assert result.mean.values.shape == (1, 3, *SIZE)
    assert (tmp_path / "stack_mean.npz").exists()


def test_an_array_without_unit_or_spacing_says_how_to_give_them(model):
    with pytest.raises(InputError, match=r"Give spacing=\(0\.7, 0\.7\)"):
        restore(pixels(), model=model, unit="HU")
    with pytest.raises(InputError, match="Give unit='HU'"):
        restore(pixels(), model=model, spacing=(1.0, 1.0))
    with pytest.raises(InputError, match="an Image has its own"):
        restore(Image(torch.zeros(1, 9, 9), "HU", (1.0, 1.0), "npz", ()), model=model, unit="HU")


def test_what_prints_is_short(tmp_path, model):
    result = restore(save(tmp_path, "<b>.npz"), tmp_path / "out", model=model, **FAST)
    assert repr(result).startswith("Restored('<b>', posterior, pixels 60 x 64, mean ")
    assert len(repr(result)) < 120
    assert "<b>" not in result._repr_html_()
    assert "posterior" in result._repr_html_()
    assert "point estimate" in repr(restore(pixels(), model=model, unit="HU", spacing=(1.0, 1.0), point=True, **FAST))


# ---- the machine -----------------------------------------------------------------------------------------------------


def test_no_more_threads_than_cores(tmp_path, model, monkeypatch):
    monkeypatch.setattr("retrodict.tasks.machine.usable_cores", lambda: 1)
    during = []
    result = restore(pixels(), model=model, unit="HU", spacing=(1.0, 1.0), threads=64,
                     watch=lambda *_: during.append(torch.get_num_threads()), **FAST)  # fmt: skip
    assert set(during) == {1}
    assert result.details["threads"] == 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_the_limits_of_a_container_count(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("retrodict.tasks.machine.GROUPS", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert usable_cores() == cores


def test_a_large_image_is_forecast_and_runs_on_tiles(tmp_path, monkeypatch, caplog):
    """With its limits brought down to the size of a test: the same image, and the record says what was done."""
    image = Image(torch.from_numpy(pixels(size=(96, 64)))[None], "HU", (1.0, 1.0), "npz", ())
    model = make_model(tmp_path, zero=False)
    whole = restore(image, model=model, point=True, **FAST)
    assert "forecast" not in whole.details
    assert whole.details["sampling"]["tile"] is None
    monkeypatch.setattr("retrodict.tasks.forecast.LARGE", 100)
    monkeypatch.setattr("retrodict.tasks.forecast.NETWORK_MEMORY", 1_000_000)
    tiled = restore(image, model=model, point=True, **FAST)
    assert tiled.details["sampling"]["tile"] == 64
    assert tiled.details["forecast"]["bytes"] > 0
    assert "tiles of 64 pixels" in caplog.text
    assert torch.allclose(whole.mean.values, tiled.mean.values, atol=1e-2)
    monkeypatch.setattr("retrodict.tasks.forecast.free_memory", lambda: 1_000_000)
    with pytest.raises(InputError, match="free memory"):
        restore(image, model=model, point=True, watch=no_work, **FAST)


# ---- words of where the user stands ----------------------------------------------------------------------------------


def test_an_error_names_options_as_the_user_writes_them():
    import pickle

    from retrodict.cli.command import in_shell

    error = InputError("a {spacing}", "{spacing}", "b", "Give {spacing}.", spacing=(0.7, 0.7))
    for same in (error, pickle.loads(pickle.dumps(error))):
        assert str(same) == "a {spacing}: found {spacing}; expected b. Give spacing=(0.7, 0.7)."
        assert same.said(in_shell) == "a {spacing}: found {spacing}; expected b. Give --spacing 0.7,0.7."
    refused = pickle.loads(pickle.dumps(NotCalibratedError("Ask for {point}.", point=True)))
    assert (str(refused), refused.said(in_shell)) == ("Ask for point=True.", "Ask for --point.")
    said = {"expect": (None, "--expect any"), "unit": ("a b", "--unit 'a b'"), "repeats": (..., "--repeats")}
    assert all(in_shell(name, value) == text for name, (value, text) in said.items())
