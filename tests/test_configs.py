"""The configurations that ship: each is valid, and says what is missing where its images are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from data.made_files import make_series
from retrodict import InputError
from retrodict.data.simulated import ellipses
from retrodict.models.model import open_model
from retrodict.tasks.evaluate_methods import load_evaluation
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_config import FitConfig, load_config
from retrodict.tasks.fit_data import groups_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ALL = sorted(CONFIGS.glob("*.yaml"))
TRAINING = [p for p in ALL if "truth" not in yaml.safe_load(p.read_text())]
WITH_DATA = [p for p in TRAINING if "root" in yaml.safe_load(p.read_text())["data"]]


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_every_configuration_is_valid(path):
    if path in TRAINING:
        assert load_config(path).name
        return
    config, base = load_evaluation(path)
    assert all((base / truth).exists() for truth in config.truth)


@pytest.mark.parametrize("path", WITH_DATA, ids=lambda p: p.stem)
def test_images_that_are_not_there_are_one_error_that_says_how_to_set_the_folder(path, tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(InputError) as caught:
        prepare_fit(load_config(path, [f"data.root={missing}"]), tmp_path / "run", path.parent)
    assert str(missing) in str(caught.value)
    assert "data.root" in str(caught.value)
    assert "--set data.root=" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        prepare_fit(load_config(path, [f"data.root={tmp_path / 'empty'}"]), tmp_path / "run", path.parent)
    assert str(tmp_path / "empty") in str(caught.value)
    assert "data.root" in str(caught.value)


def test_no_images_at_all_are_refused(tmp_path):
    record = {"name": "x", "spacing": [1, 1], "process": {"name": "fourier"}, "data": {}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(InputError, match="folders, groups, simulated or shapes"):
        load_config(tmp_path / "c.yaml")


def test_a_folder_of_patients_is_trained_on_patient_by_patient(tmp_path):
    """A folder of DICOM, a file of its own, something hidden and a README: two patients."""
    scans = tmp_path / "scans"
    make_series(scans / "one", 3)
    volume = np.random.default_rng(0).normal(0, 100, (3, 20, 20)).astype(np.float32)
    np.savez(scans / "two.npz", image=volume, spacing=[2.0, 1.0, 1.0], unit="HU")
    (scans / "README").write_text("patients")
    (scans / ".hidden").mkdir()
    words = [f"data.root={scans}", "data.patch=[8, 8]", "data.validation=0.5", "spacing=[1.0, 1.0]",
             "training.batch=2", "network.options.width=4"]  # fmt: skip
    config = load_config(CONFIGS / "own-folder.yaml", words)
    assert [g.name for g in groups_of(config, CONFIGS)] == ["./one", "./two.npz"]
    plan = prepare_fit(config, tmp_path / "run", CONFIGS)
    assert len(plan.training) == 3
    assert plan.validation is not None
    assert len(plan.validation) == 3
    with pytest.raises(InputError, match=r"no folder .*three"):
        groups_of(load_config(CONFIGS / "own-folder.yaml", [*words, "data.folders=[three]"]), CONFIGS)


def test_the_shipped_model_is_trained_on_for_one_instrument(tmp_path):
    """From its weights, by its name: a rate of next to nothing leaves them as they are."""
    words = ["data.indices=[]", "data.simulated.images=5", "data.simulated.side=64", "data.patch=[32, 32]",
             "training.steps=1", "training.batch=2", "training.learning_rate=1e-12", "data.most_noise=null",
             "data.slices=null", "training.precision=float32"]  # fmt: skip
    config = load_config(CONFIGS / "own-instrument.yaml", words)
    weights = fit(prepare_fit(config, tmp_path / "run", CONFIGS), tmp_path / "run", tensorboard=False)
    found, first = (open_model(name, "float32").denoiser for name in (weights, "ct"))
    for name, value in found.net.state_dict().items():
        torch.testing.assert_close(value, first.net.state_dict()[name], rtol=0, atol=1e-9)
    assert found.process.measurement is not None
    with pytest.raises(InputError, match="another-model"):
        prepare_fit(
            load_config(CONFIGS / "own-instrument.yaml", [*words, "start_from=another-model"]), tmp_path, CONFIGS
        )


def test_the_simulated_configuration_trains_without_a_file(tmp_path):
    words = ["training.steps=1", "training.batch=2", "data.simulated.images=5", "data.simulated.side=32",
             "data.patch=[16, 16]", "network.options.width=4", "data.validation=[]"]  # fmt: skip
    config = load_config(CONFIGS / "simulated.yaml", words)
    weights = fit(prepare_fit(config, tmp_path, CONFIGS), tmp_path, tensorboard=False)
    assert weights.name == "simulated.safetensors"


def test_simulated_slices_are_bodies_in_air_and_differ_by_seed_alone():
    one, again, other = ellipses(3, 64), ellipses(3, 64), ellipses(4, 64)
    assert torch.equal(one.values, again.values)
    assert not torch.equal(one.values, other.values)
    assert one.values.shape == (1, 64, 64)
    assert one.unit == "HU"
    assert float(one.values[0, 0].max()) < -900  # the border is air
    inside = one.values[0, 24:40, 24:40]
    assert -900 <= float(inside.median()) <= 1000
    assert float(one.values.min()) >= -1000
    fine = ellipses(3, 64, 2.0)
    assert fine.spacing == (2.0, 2.0)


def test_the_schema_names_every_way_to_give_images():
    names = FitConfig.model_json_schema()["$defs"]["DataConfig"]["properties"]
    assert {"root", "folders", "groups", "simulated", "validation", "modality"} <= set(names)
