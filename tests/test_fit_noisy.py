"""Training from noisy scans by a configuration: the spectrum behind the noise, the whole way, and what is refused."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from retrodict import InputError, RestoreOptions, ShrinkDenoiser, load_model, model_with_instrument, restore_image
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import density_spectrum
from retrodict.data.image import Image
from retrodict.data.index import IndexRow, write_index
from retrodict.processes.clocks import at_rest
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_config import load_config
from retrodict.tasks.fit_noise import OwnNoise, _mean_density, cut_variance
from shell import retrodict

RAMP = Curve.isotropic([0.0, 0.2, 0.5, 0.9], [20.0, 300.0, 120.0, 5.0], "HU^2 mm^2")
SPACING = 0.8


def noisy_slices(seed, count, side, factor=1.0):
    """Blocks of tissue at -1000 + 1000 HU, with noise of RAMP, HU."""
    rng = np.random.default_rng(seed)
    basis = Fourier((2 * side, 2 * side), (SPACING, SPACING))
    out = []
    for _ in range(count):
        z = basis.forward(torch.from_numpy(rng.normal(size=basis.size)))
        noise = basis.inverse((RAMP.on(basis) / SPACING**2).sqrt() * z)[:side, :side].numpy()
        out.append(rng.normal(0, 60, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1) + factor * noise)
    return np.stack(out).astype(np.float32)


def settings(tmp_path, noise=None, **changes):
    """Two train and two held-out patients with a table, their NPS, and a tiny configuration."""
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    rows = []
    for k, split in enumerate(("train", "train", "validation", "validation")):
        np.savez(data / f"p{k}.npz", hu=noisy_slices(k, 2, 48, 1 + 0.5 * (k % 2)))
        rows += [IndexRow(split, f"p{k}", f"p{k}.npz", key="hu", index=i, noise=14.0 * (1 + 0.5 * (k % 2)),
                          pixel_spacing_mm=(SPACING, SPACING), path=data / "index.csv") for i in range(2)]  # fmt: skip
    write_index(rows, data / "index.csv", force=True)
    (data / "nps.json").write_text(json.dumps(RAMP.to_json()))
    record = {
        "name": "noisy",
        "spacing": [SPACING, SPACING],
        "intensity": {"unit": "HU", "scale": 60.0, "offset": 0.0},
        "process": {"name": "fourier"},
        "law": {"name": "clocks", "options": {"noise": [5.0, 100.0]}},
        "level": "clock",
        "network": {"name": "unet", "options": {"width": 8, "multipliers": [1, 2], "patch": 2, "activation": "relu"}},
        "bands": 2,
        "data": {"root": "data", "indices": ["index.csv"], "patch": [16, 16],
                 "noise": {"nps": "nps.json"} if noise is None else noise,
                 "spacings": {"least": 0.5, "most": 1.2}},
        "training": {"steps": 4, "batch": 6, "warmup": 2, "checkpoint_every": 2, "validate_every": 4, "threads": 1},
    }  # fmt: skip
    for name, value in changes.items():
        *parents, last = name.split("__")
        part = record
        for parent in parents:
            part = part[parent]
        part[last] = value
    path = tmp_path / "noisy.yaml"
    path.write_text(yaml.safe_dump(record))
    return path


def planned(path, folder):
    return prepare_fit(load_config(path), folder, path.parent)


def test_noise_that_is_cut_to_a_patch_has_the_variance_that_is_said():
    """2000 cuts of 16 x 16 from a field of 64 x 64: every coefficient within 5 errors, and the mean exactly."""
    whole, patch = Fourier((64, 64), (SPACING, SPACING)), Fourier((16, 16), (SPACING, SPACING))
    z = torch.randn(2000, *whole.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fields = whole.inverse((RAMP.on(whole) / SPACING**2).sqrt() * whole.forward(z))
    found = patch.forward(fields[:, :16, :16]).abs() ** 2
    said = cut_variance(RAMP, patch)
    assert float(((found.mean(0) - said) / (found.std(0) / 2000**0.5)).abs().max()) < 5
    weight = patch.multiplicity() / patch.multiplicity().sum()
    double = patch.on((32, 32))
    share = double.multiplicity() / double.multiplicity().sum()
    mean = float((RAMP.on(double) * share).sum()) / SPACING**2
    assert float((said * weight).sum()) == pytest.approx(mean, rel=1e-12)
    flat = Curve.isotropic([0.0, 1.0], [2.0, 2.0], "HU^2 mm^2")
    assert torch.allclose(cut_variance(flat, patch), torch.full(patch.shape, 2.0 / SPACING**2).double(), rtol=1e-12)


def test_the_level_of_an_image_scales_the_shape_of_the_curve():
    basis = Fourier((16, 16), (SPACING, SPACING))
    weight = basis.multiplicity() / basis.multiplicity().sum()
    table = OwnNoise(RAMP, None, True, 60.0).variance(basis, torch.tensor([3.0, 12.0]))
    std = (table * weight).flatten(1).sum(1).sqrt() * 60
    assert std.tolist() == pytest.approx([3.0, 12.0], rel=1e-12)
    assert torch.allclose(table[1:] / table[:1], torch.full_like(table[:1], 16.0))
    white = OwnNoise(None, 6.0, False, 60.0)
    assert torch.allclose(white.variance(basis), torch.full((1, 1, *basis.shape), 0.01).double())
    density = white.density(torch.tensor([0.1, 0.5]).double(), SPACING, None)
    assert density.tolist() == pytest.approx([0.01 * SPACING**2] * 2)


def test_the_spectrum_of_clean_images_is_found_behind_the_noise(tmp_path):
    """Images of white tissue of 40 HU and noise of RAMP: what is left is 1600 HU^2 at every frequency."""
    basis = Fourier((64, 64), (SPACING, SPACING))
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(60, 2, 64, 64, generator=generator, dtype=torch.float64)
    noise = basis.inverse((RAMP.on(basis) / SPACING**2).sqrt() * basis.forward(z[:, 0]))
    found = density_spectrum([[(x, SPACING) for x in (noise + 40 * z[:, 1]) / 60.0]])
    frequency = torch.tensor(found.frequency).double()

    class One:
        patient, spacing, noise = "p", (SPACING, SPACING), None

    own = _mean_density(OwnNoise(RAMP, None, False, 60.0), [One()], frequency)
    left = torch.tensor(found.power).double() - own
    wanted = (40 / 60 * SPACING) ** 2
    inside = (frequency > 0.05) & (frequency < 0.6)
    assert left[inside].tolist() == pytest.approx([wanted] * int(inside.sum()), rel=0.2)
    assert float(left[inside].mean()) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("noise", [{"nps": "nps.json"}, {"nps": "nps.json", "level": "index"}, {"std": 10.0}], ids=str)
def test_noisy_scans_alone_train_a_model_that_says_how_it_was_calibrated(tmp_path, noise, monkeypatch):
    monkeypatch.setattr("retrodict.training.calibrate_law.MOST_PIXELS", 2**15)  # quick
    plan = planned(settings(tmp_path, noise), tmp_path / "run")
    assert any("% of the variance" in note for note in plan.notes)
    model = load_model(fit(plan, tmp_path / "run", tensorboard=False))
    card = model.spec.card["noise"]
    assert card["level"] == noise.get("level", "stated")
    assert card["calibration"]["truth"] == "none"
    assert card["calibration"]["at_own_noise"]["patients"] == 2
    assert math.isfinite(card["calibration"]["at_own_noise"]["ssr2"])
    assert 0 < card["spectrum"]["share_of_variance"] < 1
    assert model.spec.held_out["patients"] == 2  # of scans as they are
    assert model.spec.spread_scale is not None
    process = model_with_instrument(model, None, RAMP)[0].denoiser.process  # no MTF: as sharp as scanned
    assert torch.equal(process.measurement.h, torch.ones_like(process.measurement.h))
    with pytest.raises(InputError, match="model of every instrument"):
        model_with_instrument(model, None, None)
    plain = replace(model, spec=replace(model.spec, card={}))
    with pytest.raises(InputError, match="mtf"):
        model_with_instrument(plain, None, RAMP)
    assert planned(settings(tmp_path, noise), tmp_path / "run").start_step == 4
    with pytest.raises(InputError, match=r"data\.noise"):
        planned(settings(tmp_path, {"std": 9.0}), tmp_path / "run")


def test_the_joint_scheme_by_the_command_line_leaves_a_model_that_restores_and_a_wavelet_network(tmp_path, monkeypatch):
    """`data.noise.style: joint`: two networks in one file, of which the first answers as any model does."""
    monkeypatch.setattr("retrodict.training.calibrate_law.MOST_PIXELS", 2**15)  # quick
    noise = {"nps": "nps.json", "style": "joint", "feedback": 0.5, "feedback_after": 2}
    path = settings(tmp_path, noise)
    done = retrodict("fit", path, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    model = load_model(tmp_path / "run" / "noisy")
    assert model.spec.network["name"] == "joint"
    assert model.spec.network["options"]["shrink"] == {"levels": 3}
    assert model.spec.held_out["patients"] == 2
    assert model.spec.card["run"]["fields"]["data.noise.feedback"] == 0.5
    scan = Image.of(noisy_slices(9, 1, 48)[0], unit="HU", spacing=(SPACING, SPACING))
    restored = restore_image(scan, model, RestoreOptions(nps=tmp_path / "data" / "nps.json", steps=2, samples=2))
    assert restored.mean.values.shape == scan.values.shape
    assert bool(restored.mean.values.isfinite().all())
    alone = ShrinkDenoiser(model.denoiser.net.shrink, at_rest(*_own(model)), shifts=4)
    y = model.intensity.encode(scan.values)[None]
    found = alone(y, torch.ones(1, dtype=torch.float64))
    assert 0 < float((found - y).square().mean()) < float((y - y.mean()).square().mean())
    known = model_with_instrument(model, None, RAMP)[0].denoiser.process.on((48, 48))  # its NPS, not cut to a patch
    assert torch.allclose(replace(alone, process=known)(y, torch.ones(1, dtype=torch.float64)), found, atol=0.1)
    start = planned(settings(tmp_path, noise, start_from="run/noisy"), tmp_path / "again")  # both networks
    plain = planned(settings(tmp_path, {"nps": "nps.json"}), tmp_path / "plain")
    fit(plain, tmp_path / "plain", tensorboard=False)
    other = planned(settings(tmp_path, noise, start_from="plain/noisy"), tmp_path / "other")  # the score network
    assert start.parameters == other.parameters > plain.parameters


def _own(model):
    basis = Fourier((48, 48), (SPACING, SPACING))
    return basis, OwnNoise(RAMP, None, False, model.intensity.scale).variance(basis)


def test_runs_of_the_other_styles_are_known_by_what_they_were_known_by(tmp_path):
    """The identity of a run, by which checkpoints are known, has no field of the joint scheme where it is not used."""
    fields = planned(settings(tmp_path), tmp_path / "run").spec.card["run"]["fields"]
    assert [name for name in fields if "feedback" in name] == []
    assert fields["data.noise.style"] == "ambient"
    joint = planned(settings(tmp_path, {"std": 9.0, "style": "joint"}, data__patch=[12, 12]), tmp_path / "joint")
    assert joint.spec.network["options"]["shrink"] == {"levels": 2}  # 12 = 3 x 2^2


def test_patches_come_with_the_noise_of_their_own_slices(tmp_path):
    plan = planned(settings(tmp_path, {"nps": "nps.json", "level": "index"}), tmp_path / "run")
    keys = list(range(40))
    levels = plan.training.levels(keys)
    assert set(levels) == {14.0, 21.0}
    made = plan.noise.batcher(plan.training, plan.spec.intensity)(keys)
    std = (made.noise * Fourier((16, 16)).multiplicity() / 256).flatten(1).sum(1).sqrt() * 60
    assert std.tolist() == pytest.approx(levels, rel=1e-9)
    # the patients' noise differs by half, and so do the patches themselves at high frequencies
    loud = torch.tensor([level == 21.0 for level in levels])
    fine = (made.x0[..., 1:, :] - made.x0[..., :-1, :]).abs().flatten(1).median(1).values
    assert float(fine[loud].median() / fine[~loud].median()) == pytest.approx(1.5, rel=0.15)


def test_a_row_without_its_noise_is_named(tmp_path):
    path = settings(tmp_path, {"level": "index"})
    table = tmp_path / "data" / "index.csv"
    table.write_text(re.sub(r",21$", ",", table.read_text(), flags=re.MULTILINE))
    with pytest.raises(InputError, match=r"data\.noise\.level.*no noise in the row of .*index\.csv"):
        planned(path, tmp_path / "run")


@pytest.mark.parametrize(
    ("noise", "changes", "message"),
    [
        ({"nps": "nothing.json"}, {}, r"data\.noise\.nps.*no file"),
        ({"nps": "nps.json", "std": 3.0}, {}, "nps or std"),
        ({"level": "index", "std": 3.0}, {}, "every row has its own"),
        ({}, {}, "data.noise.nps|the file of a measured NPS"),
        ({"std": -1.0}, {}, r"data\.noise\.std"),
        ({"std": 1e4}, {}, "times the variance of the images"),
        ({"std": 5.0}, {"law": None, "level": "rms"}, "without a law"),
        ({"std": 5.0}, {"data__spacings": {"copies": 1}}, r"data\.spacings\.copies"),
        ({"std": 5.0}, {"training__loss": "eps"}, r"training\.loss"),
        ({"std": 5.0, "style": "paper", "feedback": 0.2}, {}, r"data\.noise\.feedback|style: joint, not paper"),
        ({"std": 5.0, "style": "joint"}, {"data__patch": [15, 15]}, r"data\.patch.*even numbers"),
        ({"std": 5.0, "style": "joint"}, {"network": {"name": "wavelet_cascade"}}, r"network\.name.*one of unet"),
        ({"std": 5.0}, {"network": {"name": "joint"}}, r"network\.name.*both of its networks"),
        ({"nps": "short.json"}, {}, "Nyquist"),
        ({"nps": "map.json"}, {}, "two axes"),
        ({"nps": "mtf.json"}, {}, "MTF"),
        ({"nps": "bare.json"}, {}, r"data\.noise\.nps: .*bare\.json: nps\.unit: found no units"),
    ],
)
def test_noise_that_cannot_be_meant_is_one_error(tmp_path, noise, changes, message):
    path = settings(tmp_path, noise, **changes)
    if changes.get("law", 1) is None:
        record = yaml.safe_load(path.read_text())
        del record["law"], record["data"]["spacings"]
        path.write_text(yaml.safe_dump(record))
    short = Curve.isotropic([0.0, 0.3], [1.0, 1.0], "HU^2 mm^2").to_json()
    table = {"frequency": [[0.0, 1.0], [0.0, 1.0]], "value": [1.0] * 4, "unit": "HU^2 mm^2"}
    bare = {"frequency": [0.0, 1.0], "value": [1.0, 1.0]}
    both = {"bare": bare, "short": short, "map": {**table, "frequency_unit": "cycles/mm"},
            "mtf": {**short, "unit": "1", "quantity": "mtf"}}  # fmt: skip
    for name, record in both.items():
        (tmp_path / "data" / f"{name}.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        planned(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
