"""Training: cost, logs, resuming after a kill, and what is refused."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from retrodict import InputError, read, restore
from retrodict.models.model import load_model
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_config import load_config
from retrodict.training.calibrate import calibrate_spread
from retrodict.training.losses import denoising_loss

STEPS = 24


def settings(folder: Path, **training) -> Path:
    """A tiny configuration on synthetic slices of three patients."""
    rng = np.random.default_rng(0)
    for patient in "abc":
        smooth = rng.normal(size=(3, 6, 6)).repeat(8, 1).repeat(8, 2) * 100 + rng.normal(size=(3, 48, 48)) * 10
        np.savez(folder / f"{patient}.npz", image=smooth.astype(np.float32), spacing=[2.0, 1.0, 1.0], unit="HU")
    record = {
        "name": "tiny",
        "spacing": [1.0, 1.0],
        "intensity": {"unit": "HU", "scale": 100.0, "offset": 0.0},
        "process": {"name": "fourier"},
        "network": {"name": "unet", "options": {"width": 8, "multipliers": [1, 2], "padding": "circular"}},
        "bands": 2,
        "data": {
            "groups": [{"name": p, "paths": [f"{p}.npz"]} for p in "abc"],
            "validation": ["c"],
            "patch": [16, 16],
        },
        "training": {
            "steps": STEPS,
            "batch": 4,
            "warmup": 4,
            "checkpoint_every": 5,
            "validate_every": 12,
            "log_every": 4,
            "threads": 1,
            **training,
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(record))
    return path


def run(path: Path, folder: Path) -> Path:
    config = load_config(path)
    return fit(prepare_fit(config, folder, path.parent), folder, tensorboard=False)


def command(path: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "retrodict", "fit", str(path), "-o", str(folder)]


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_bit_identical(tmp_path):
    path = settings(tmp_path)
    whole = run(path, tmp_path / "whole").read_bytes()
    folder = tmp_path / "killed"
    process = subprocess.Popen(command(path, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = sorted(folder.glob("checkpoint-*"))
    assert stopped, "the run was not killed after its first checkpoint"
    assert not (folder / "tiny.safetensors").exists(), "the run ended before it was killed"
    # a kill in the middle of writing leaves a folder under a temporary name, which must not be taken for a checkpoint
    (folder / ".tmp-checkpoint-00000010").mkdir(exist_ok=True)
    (folder / ".tmp-checkpoint-00000010" / "weights.safetensors").write_bytes(b"half")
    assert run(path, folder).read_bytes() == whole
    assert (folder / "tiny.json").read_text() == (tmp_path / "whole" / "tiny.json").read_text()


def test_the_run_is_logged_and_its_model_loads(tmp_path):
    path = settings(tmp_path)
    weights = run(path, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "validation" in r] == [12, 24]
    assert all(np.isfinite(r["loss"]) for r in records)
    model = load_model(weights)
    assert model.intensity.scale == 100.0
    assert model.spec.spread_scale is not None
    assert model.spec.card["validation"] == ["c"]
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 2


def test_another_configuration_does_not_resume(tmp_path):
    path = settings(tmp_path)
    run(path, tmp_path / "run")
    other = settings(tmp_path, learning_rate=5e-4)
    with pytest.raises(InputError, match="learning_rate"):
        run(other, tmp_path / "run")


def test_more_steps_are_the_same_run_before_the_rate_falls(tmp_path):
    path = settings(tmp_path, decay=0.0)
    run(path, tmp_path / "short")
    long = settings(tmp_path, steps=STEPS + 6, decay=0.0)
    resumed = run(long, tmp_path / "short").read_bytes()
    assert resumed == run(long, tmp_path / "long").read_bytes()


def test_batches_made_ahead_are_the_same_run(tmp_path):
    state = torch.get_rng_state()
    alone = run(settings(tmp_path), tmp_path / "alone").read_bytes()
    assert run(settings(tmp_path, workers=2), tmp_path / "ahead").read_bytes() == alone
    assert torch.equal(torch.get_rng_state(), state)
    # a run may go on with other workers
    run(settings(tmp_path, steps=STEPS - 4, decay=0.0), tmp_path / "part")
    path = settings(tmp_path, decay=0.0, workers=1)
    assert run(path, tmp_path / "part").read_bytes() == run(path, tmp_path / "all").read_bytes()


def test_cost_is_known_before_it_is_paid(tmp_path):
    path = settings(tmp_path)
    plan = prepare_fit(load_config(path), tmp_path / "run", path.parent)
    assert plan.seconds == pytest.approx(plan.seconds_per_step * STEPS)
    assert plan.seconds > 0
    assert not (tmp_path / "run").exists()


def test_batches_do_not_change_a_loss(tmp_path):
    """Each item's loss depends on its own seed alone."""
    path = settings(tmp_path)
    plan = prepare_fit(load_config(path), tmp_path / "run", path.parent)
    denoiser = plan.spec.build("test")
    x0 = plan.spec.intensity.encode(plan.training.batch([1, 2, 3]))
    seeds = torch.tensor([1, 2, 3])
    whole = denoising_loss(denoiser, x0, seeds).total
    single = torch.cat([denoising_loss(denoiser, x0[i : i + 1], seeds[i : i + 1]).total for i in range(3)])
    assert torch.allclose(whole, single, rtol=1e-6)


def test_spread_calibration_finds_a_variance_that_is_wrong(tmp_path):
    """A zero network on white Gaussian data predicts exactly its error; shifted log-variances are found again."""
    path = settings(tmp_path)
    plan = prepare_fit(load_config(path), tmp_path / "run", path.parent)
    denoiser = plan.spec.build("test")
    generator = torch.Generator().manual_seed(1)

    def gaussian(keys):
        basis = denoiser.process.basis
        z = torch.randn(len(keys), 1, *basis.size, generator=generator)
        power = denoiser.spectrum.on(basis).sqrt().to(z)
        return basis.inverse(power * basis.forward(z)) + denoiser.spectrum.mean

    right = calibrate_spread(denoiser, gaussian, levels=2, items=128)
    assert torch.allclose(torch.tensor(right.factor), torch.ones(2, 2), atol=0.08)
    with torch.no_grad():
        denoiser.net.head.conv.bias[1:] = torch.tensor([0.25, 4.0]).log()  # type: ignore[union-attr]
    wrong = calibrate_spread(denoiser, gaussian, levels=2, items=128)
    assert wrong.factor[0] == pytest.approx((4.0, 0.25), rel=0.1)  # although the two bands overlap


def test_a_group_on_both_sides_is_refused(tmp_path):
    path = settings(tmp_path)
    record = yaml.safe_load(path.read_text())
    record["data"]["groups"][2]["paths"] = ["a.npz"]
    path.write_text(yaml.safe_dump(record))
    with pytest.raises(InputError, match=r"a\.npz"):
        prepare_fit(load_config(path), tmp_path / "run", path.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"naem": "x"}, "unknown key"),
        ({"training": {"stepps": 5}}, "Did you mean 'steps'"),
        ({"training": {"steps": "many"}}, "training.steps"),
        ({"training": {"batch": 0}}, "training.batch"),
        ({"process": {"name": "furier"}}, "Did you mean 'fourier'"),
        ({"network": {"name": "unet", "options": {"widht": 8}}}, "widht"),
        ({"intensity": {"unit": "1/mm"}}, "HU"),
    ],
)
def test_bad_configurations_are_one_clear_error(tmp_path, change, message):
    path = settings(tmp_path)
    record = yaml.safe_load(path.read_text())
    for name, value in change.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) and name in record else value
    path.write_text(yaml.safe_dump(record))
    with pytest.raises(InputError, match=message):
        prepare_fit(load_config(path), tmp_path / "run", path.parent)


def test_overrides_and_missing_files(tmp_path):
    path = settings(tmp_path)
    assert load_config(path, ["training.steps=7", "data.patch=[8, 8]"]).training.steps == 7
    with pytest.raises(InputError, match=r"a\.b=value"):
        load_config(path, ["training.steps"])
    with pytest.raises(InputError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    for name, words in (("spacing", "spacing: found nothing; expected mm per axis"), ("data", "data: found nothing")):
        lines = re.sub(rf"^{name}:.*\n(?:[ -].*\n)*", "", path.read_text(), flags=re.MULTILINE)
        (tmp_path / "without.yaml").write_text(lines)
        with pytest.raises(InputError, match=words):
            load_config(tmp_path / "without.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1,")
    with pytest.raises(InputError, match="unreadable YAML"):
        load_config(tmp_path / "broken.yaml")


@pytest.mark.parametrize("kind", ["color", "complex"])
def test_color_and_complex_images_are_learned_and_restored(tmp_path, kind):
    """From files to a restored file: channels and kind of the data are those of the model."""
    path = settings(tmp_path, steps=6)
    rng = np.random.default_rng(1)
    for patient in "abc":
        shape = (3, 3, 48, 48) if kind == "color" else (3, 48, 48)
        values = rng.normal(size=shape).astype(np.float32) * 50 + 100
        extra = {"channels": ["r", "g", "b"], "channel_axis": 0} if kind == "color" else {}
        if kind == "complex":
            values = (values + 1j * rng.normal(size=shape) * 50).astype(np.complex64)
        np.savez(tmp_path / f"{patient}.npz", image=values, spacing=[2.0, 1.0, 1.0], unit="a.u.", **extra)
    record = yaml.safe_load(path.read_text())
    record["intensity"]["unit"] = "a.u."
    if kind == "color":
        record["data"]["channels"] = 3
    else:
        record["process"]["basis"] = {"name": "fourier", "options": {"complex": True}}
    path.write_text(yaml.safe_dump(record))
    model = load_model(run(path, tmp_path / "run"))
    assert model.spec.channels == (("r", "g", "b") if kind == "color" else ("gray",))
    assert model.denoiser.process.basis.complex == (kind == "complex")
    out = tmp_path / "out"
    result = restore(tmp_path / "c.npz", out, model=model, samples=2, steps=1)
    again = read(out / "c_mean.npz", slices="independent")
    assert again.values.dtype == result.input.values.dtype
    assert again.values.shape == result.input.values.shape == ((3, 3, 48, 48) if kind == "color" else (1, 3, 48, 48))
    assert (out / "c_report.html").exists()
