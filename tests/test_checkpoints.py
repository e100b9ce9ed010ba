"""Checkpoints and finished models: whole, and of the configuration that they are used with."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest
import yaml

import retrodict._output as output
from models import make_model
from retrodict import InputError
from retrodict._check import OutputError
from retrodict.models.model import load_model
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_config import load_config
from retrodict.training.checkpoints import newest
from shell import retrodict
from test_fit import settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A configuration, its data, and the folder of a run of four steps with two checkpoints."""
    base = tmp_path_factory.mktemp("trained")
    path = settings(base, steps=4, batch=2, checkpoint_every=2, decay=0.0)
    record = yaml.safe_load(path.read_text())
    record["data"]["validation"] = []  # no calibration, which would be most of the work
    record["network"]["options"]["multipliers"] = [1]
    path.write_text(yaml.safe_dump(record))
    run(path, base / "run")
    return base


@pytest.fixture
def copy(trained, tmp_path):
    """(configuration, folder of the run) that a test may change."""
    shutil.copytree(trained, tmp_path / "all")
    return tmp_path / "all" / "tiny.yaml", tmp_path / "all" / "run"


def run(path, folder, *overrides):
    return fit(prepare_fit(load_config(path, overrides), folder, path.parent), folder, tensorboard=False)


# ---- another configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("process.name=vp", "process.name"),
        ("intensity.scale=50.0", "intensity.scale"),
        ("spacing=[1.5, 1.5]", "spacing"),
        ("network.options.width=4", "network.options.width"),
        ("bands=1", "bands"),
        ("data.patch=[12, 12]", "data.patch"),
        ("data.validation=[b]", "data.validation"),
        ("card.note=another", "card.note"),
        ("training.seed=5", "seed"),
    ],
)
@pytest.mark.parametrize("what", ["checkpoint", "model"])
def test_a_run_of_another_configuration_is_refused_by_the_name_of_the_field(copy, word, field, what):
    path, folder = copy
    if what == "model":
        for old in folder.glob("checkpoint-*"):
            shutil.rmtree(old)
    before = {p: p.read_bytes() for p in folder.glob("tiny.*")}
    with pytest.raises(InputError) as caught:
        prepare_fit(load_config(path, [word]), folder, path.parent)
    assert field in str(caught.value)
    assert "another configuration" in str(caught.value)
    assert before == {p: p.read_bytes() for p in folder.glob("tiny.*")}


def test_other_images_are_another_configuration_and_another_place_of_them_is_not(copy, trained):
    path, folder = copy
    moved = path.parent / "elsewhere"
    moved.mkdir()
    for image in path.parent.glob("*.npz"):
        image.rename(moved / image.name)
    word = f"data.root={moved}"
    assert run(path, folder, word).read_bytes() == (trained / "run" / "tiny.safetensors").read_bytes()
    shutil.copy(moved / "b.npz", moved / "a.npz")
    with pytest.raises(InputError, match=r"data\.images"):
        prepare_fit(load_config(path, [word]), folder, path.parent)


def test_what_may_change_may_change(copy):
    path, folder = copy
    words = ["training.precision=float32", "training.threads=1", "training.log_every=1", "training.validate_every=3"]
    plan = prepare_fit(load_config(path, [*words, "training.steps=5"]), folder, path.parent)
    assert plan.start_step == 4


def test_fewer_steps_than_were_done_are_refused(copy):
    path, folder = copy
    with pytest.raises(InputError, match="steps"):
        prepare_fit(load_config(path, ["training.steps=3"]), folder, path.parent)
    for old in folder.glob("checkpoint-*"):
        shutil.rmtree(old)
    with pytest.raises(InputError, match="steps"):
        prepare_fit(load_config(path, ["training.steps=3"]), folder, path.parent)


def test_the_command_refuses_too_and_changes_nothing(copy):
    path, folder = copy
    before = (folder / "tiny.json").read_bytes(), (folder / "config.json").read_bytes()
    done = retrodict("fit", path, "-o", folder, "--set", "process.name=vp")
    assert done.returncode != 0
    assert "process.name" in done.stderr
    assert before == ((folder / "tiny.json").read_bytes(), (folder / "config.json").read_bytes())


def test_a_model_that_does_not_say_what_it_was_trained_with_is_not_replaced(copy):
    path, folder = copy
    for old in folder.glob("checkpoint-*"):
        shutil.rmtree(old)
    record = json.loads((folder / "tiny.json").read_text())
    del record["card"]["run"]
    (folder / "tiny.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="trained with"):
        prepare_fit(load_config(path), folder, path.parent)


# ---- damage ----------------------------------------------------------------------------------------------------------


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def sparse(path):
    os.truncate(path, 2**40)


def emptied(path):
    path.write_bytes(b"")


def removed(path):
    path.unlink()


def piped(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("how", [truncated, flipped, sparse, emptied, removed, piped])
@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", "average.safetensors", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_passed_over_and_said(copy, how, name):
    _, folder = copy
    how(folder / "checkpoint-00000004" / name)
    found, notes = newest(folder)
    assert found is not None
    assert found.step == 2
    assert len(notes) == 1
    assert name in notes[0]
    assert "checkpoint-00000002" in notes[0]


def test_a_run_goes_on_from_the_checkpoint_before_and_ends_with_the_same_bits(copy, trained):
    path, folder = copy
    truncated(folder / "checkpoint-00000004" / "weights.safetensors")
    plan = prepare_fit(load_config(path), folder, path.parent)
    assert plan.start_step == 2
    assert "checkpoint-00000004" in plan.notes[0]
    weights = fit(plan, folder, tensorboard=False)
    assert weights.read_bytes() == (trained / "run" / "tiny.safetensors").read_bytes()
    assert "checkpoint-00000004" in (folder / "log.jsonl").read_text()
    assert newest(folder)[0].step == 4  # type: ignore[union-attr]


def test_the_command_says_that_a_checkpoint_is_damaged(copy):
    path, folder = copy
    truncated(folder / "checkpoint-00000004" / "weights.safetensors")
    done = retrodict("fit", path, "-o", folder, "--dry-run")
    assert done.returncode == 0
    assert "checkpoint-00000004" in done.stdout
    assert "resuming at 2" in done.stdout


def test_no_whole_checkpoint_is_an_error(copy):
    path, folder = copy
    for old in folder.glob("checkpoint-*"):
        truncated(old / "state.json")
    with pytest.raises(InputError, match="remove the folder"):
        prepare_fit(load_config(path), folder, path.parent)


def test_a_full_disk_leaves_nothing_half_written_and_says_what_is_needed(copy, monkeypatch):
    path, folder = copy
    put = output._put

    def full(target, content):
        if target.name == "optimizer.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(target, content)

    monkeypatch.setattr(output, "_put", full)
    with pytest.raises(OutputError, match=r"checkpoint needs [\d.]+ MB.*free") as caught:
        run(path, folder, "training.steps=6")
    assert str(folder) in str(caught.value)
    assert not list(folder.glob(".*"))
    assert newest(folder)[0].step == 4  # type: ignore[union-attr]


def test_what_a_killed_run_left_is_swept(copy):
    path, folder = copy
    stale = folder / ".checkpoint-00000006.tmp-999999999"
    stale.mkdir()
    (stale / "weights.safetensors").write_bytes(b"half")
    run(path, folder, "training.steps=5")
    assert not stale.exists()


# ---- models ----------------------------------------------------------------------------------------------------------


def test_a_name_with_dots_is_saved_and_loaded(tmp_path):
    make_model(tmp_path)
    for end in ("safetensors", "json"):
        (tmp_path / f"model.{end}").rename(tmp_path / f"net-1.2.{end}")
    for name in ("net-1.2", "net-1.2.json", "net-1.2.safetensors"):
        assert load_model(tmp_path / name).spec.bands == 2
    assert retrodict("info", tmp_path / "net-1.2").returncode == 0


def test_a_configuration_whose_name_has_dots_is_trained(copy):
    path, folder = copy
    weights = run(path, folder.with_name("other"), "name=net-1.2", "training.steps=1")
    assert weights.name == "net-1.2.safetensors"
    assert load_model(weights).spec.card["name"] == "net-1.2"
