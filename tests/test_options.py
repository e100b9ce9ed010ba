"""The options of a restoration: one record, and everything that takes from it agrees with it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from models import make_model, scan
from retrodict import InputError, RestoreOptions
from retrodict.cli.app import app
from retrodict.tasks.machine import device_named, torch_threads
from retrodict.tasks.options import ALSO_CALLED, described
from retrodict.tasks.prepare import model_channels
from retrodict.tasks.restore import restore, restore_image

FIELDS = {f.name: f for f in fields(RestoreOptions)}
FLAGS = {p.name: p for p in typer.main.get_command(app).commands["restore"].params}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("zero"))


def picture(size=(64, 60)):
    return scan(size, 5)


# ---- the record and the command line ----


def test_every_flag_is_a_field_and_every_field_a_flag():
    common = {"source", "output", "model", "resume", "force", "quiet", "as_json", "debug", "help"}
    assert set(FLAGS) - common - set(ALSO_CALLED) == set(FIELDS)
    assert all(FLAGS[name].hidden for name in ALSO_CALLED)


@pytest.mark.parametrize("name", FIELDS)
def test_flag_and_field_agree(name):
    flag, (option, _) = FLAGS[name], described()[name]
    assert flag.opts == [f"--{name.replace('_', '-')}"]
    assert flag.help == option.help
    assert flag.help.endswith(".")
    assert flag.default == FIELDS[name].default


@pytest.mark.parametrize("name", [n for n, (option, _) in described().items() if option.least is not None])
def test_a_number_below_its_bound_is_refused(name):
    least = described()[name][0].least
    RestoreOptions(**{name: least})
    with pytest.raises(InputError, match=f"{name}: found {least - 1}; expected at least {least}"):
        RestoreOptions(**{name: least - 1})
    done = CliRunner().invoke(app, ["restore", "x", "-o", "y", *FLAGS[name].opts, str(least - 1)])
    assert done.exit_code == 2
    assert f"greater than or equal to {least}" in done.output.replace("\n", " ")


def test_an_unknown_name_is_answered_with_the_nearest(model):
    with pytest.raises(InputError, match=r"'sampels'.*Did you mean 'samples'"):
        restore(picture(), model=model, sampels=2)


def test_other_names_stand_for_their_fields():
    assert RestoreOptions.of({"uncertainty": False, "resampling": True}) == RestoreOptions(point=True, resample=True)
    assert RestoreOptions.of({"uncertainty": True}) == RestoreOptions()
    assert {field for field, _ in ALSO_CALLED.values()} <= set(FIELDS)
    with pytest.raises(InputError, match="one of the two"):
        RestoreOptions.of({"uncertainty": True, "point": True})


# ---- what they do ----


def test_options_reach_the_record(model):
    options = {"samples": 3, "steps": 2, "rule": "ddim", "grid": "rho", "seed": 4, "spread": "wiener"}
    details = restore(picture(), model=model, point=True, device="cpu", **options).details
    said = {"steps": 2, "rule": "ddim", "seed": 4, "spread": "wiener", "uncertainty": False}
    assert said.items() <= details["sampling"].items()
    other = restore(picture(), model=model, point=True, **{**options, "grid": "time"}).details
    assert details["sampling"]["grid"] != other["sampling"]["grid"]
    assert details["device"] == "cpu"


def test_another_error_law_gives_another_spread(model):
    sds = [restore(picture(), model=model, samples=2, steps=2, spread=s).sd.values for s in ("wiener", "local")]
    assert not torch.equal(*sds)


def test_the_network_sees_tiles(tmp_path):
    model, seen = make_model(tmp_path, zero=False), []
    hook = model.denoiser.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    whole = restore(picture((128, 128)), model=model, samples=2, steps=1)
    full, seen[:] = max(seen), []
    tiled = restore(picture((128, 128)), model=model, samples=2, steps=1, tile=64)
    hook.remove()
    assert max(seen) < full
    assert torch.allclose(whole.mean.values, tiled.mean.values, atol=1e-2)


def test_threads_hold_for_the_call_alone(model, monkeypatch):
    before, during = torch.get_num_threads(), []
    other = before + 1
    monkeypatch.setattr("retrodict.tasks.machine.usable_cores", lambda: other)
    watch = lambda *_: during.append(torch.get_num_threads())  # noqa: E731
    restore(picture(), model=model, samples=2, steps=1, threads=other, watch=watch)
    assert set(during) == {other}
    assert torch.get_num_threads() == before
    with pytest.raises(InputError), torch_threads(other):
        raise InputError("a", "b", "c")
    assert torch.get_num_threads() == before


def test_a_device_that_is_not_there_is_one_clear_error(model, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_named("auto") == "cpu"
    with pytest.raises(InputError, match=r"device: found 'cuda' on a machine where torch finds no GPU"):
        restore(picture(), model=model, device="cuda")
    with pytest.raises(InputError, match="Did you mean 'cuda'"):
        restore(picture(), model=model, device="cudo")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_named("auto") == "cuda"


def test_channels_must_be_those_of_the_model(model):
    assert model_channels(model) == 1
    two = picture().with_values(picture().values.repeat(2, 1, 1))
    with pytest.raises(InputError, match="found 2 channels; expected one channel"):
        restore(two, model=model)


# ---- results in memory, and saved ----


def test_saving_is_what_out_does(tmp_path, model):
    result = restore_image(picture(), model, RestoreOptions(samples=2, steps=1), name="scan")
    assert result.files == ()
    assert "Model" not in repr(result)
    written = result.save(tmp_path / "a")
    also = restore(picture(), tmp_path / "b", model=model, samples=2, steps=1).files
    assert [p.name.removeprefix("scan") for p in written] == [p.name.removeprefix("image") for p in also]
    assert written[0].read_bytes() == also[0].read_bytes()
    assert all(p.exists() for p in written)
    with pytest.raises(InputError, match="force=True"):
        result.save(tmp_path / "a")
    result.save(tmp_path / "a", force=True)


def test_a_folder_that_cannot_be_is_refused_before_the_work(tmp_path, model):
    (tmp_path / "file").write_text("")
    worked = []
    with pytest.raises(InputError, match="a folder for the results"):
        restore(picture(), Path(tmp_path / "file"), model=model, watch=lambda *_: worked.append(1))
    assert not worked
