"""Training from a table of images, over a law of clocks: batches, card, resuming, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from retrodict import ClockLaw, Image, InputError, load_model, read, read_index, seen
from retrodict.bases import Fourier
from retrodict.bases.spectrum import Spectrum, density_spectrum
from retrodict.data.collection import Slice
from retrodict.data.index import IndexRow, write_index
from retrodict.data.spacings import SpacingSet, bin_of, by_spacing, center_of
from retrodict.denoisers.spread_scale import SpreadScale
from retrodict.processes.fourier import fourier
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_collection import training_sets
from retrodict.tasks.fit_config import load_config
from retrodict.tasks.held_out import SIDES
from retrodict.tasks.in_use import by_intensity, in_use
from retrodict.training.calibrate_law import calibrate_over_law

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SPACINGS = {"a": 0.6, "b": 0.8, "c": 1.0, "v": 0.7}


def tissue(seed, side=48):
    """Smooth structure and noise, HU."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 100, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1)
    return (coarse + rng.normal(0, 5, (side, side))).round().astype(np.int16)


def collection(folder, **changes):
    """Three train patients and one that is held out, two slices each, and their table."""
    folder.mkdir(exist_ok=True)
    rows = []
    for k, (name, spacing) in enumerate(SPACINGS.items()):
        np.savez(folder / f"{name}.npz", hu=np.stack([tissue(10 * k), tissue(10 * k + 1)]))
        split = "validation" if name == "v" else "train"
        rows += [IndexRow(split, name, f"{name}.npz", key="hu", index=i, orientation="axial", noise=5.0 + 10 * i,
                          pixel_spacing_mm=(spacing, spacing), licence="CC0", path=folder / "index.csv",
                          **changes.get(name, {})) for i in range(2)]  # fmt: skip
    write_index(rows, folder / "index.csv", force=True)
    return folder


def settings(tmp_path, **changes):
    """A tiny configuration over a law."""
    collection(tmp_path / "data")
    record = {
        "name": "tiny",
        "spacing": [0.8, 0.8],
        "intensity": {"unit": "HU", "scale": 100.0, "offset": 0.0},
        "process": {"name": "fourier"},
        "law": {"name": "clocks", "options": {"noise": [2.0, 100.0]}},
        "level": "clock",
        "network": {"name": "unet", "options": {"width": 8, "multipliers": [1, 2], "patch": 2, "activation": "relu"}},
        "bands": 2,
        "data": {"root": "data", "indices": ["index.csv"], "patch": [16, 16],
                 "spacings": {"least": 0.5, "most": 1.2}},
        "training": {"steps": 6, "batch": 4, "warmup": 2, "checkpoint_every": 3, "validate_every": 6, "threads": 1},
    }  # fmt: skip
    for name, value in changes.items():
        *parents, last = name.split(".")
        part = record
        for parent in parents:
            part = part[parent]
        part[last] = value
        if value is None:
            del part[last]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(record))
    return path


def planned(path, folder):
    return prepare_fit(load_config(path), folder, path.parent)


def test_a_model_is_trained_from_a_table_and_says_over_what(tmp_path, monkeypatch):
    drawn, clocks = set(), ClockLaw.clocks
    monkeypatch.setattr("retrodict.training.calibrate_law.MOST_PIXELS", 2**16)  # quick
    monkeypatch.setattr(ClockLaw, "clocks", lambda s, basis, seeds: drawn.add(basis.spacing) or clocks(s, basis, seeds))
    path = settings(tmp_path)
    plan = planned(path, tmp_path / "run")
    assert len(plan.training) == 6
    assert plan.validation is not None
    model = load_model(fit(plan, tmp_path / "run", tensorboard=False))
    assert len(drawn) > 3, "the law is drawn anew for batches of several spacings"
    spec, card = model.spec, model.spec.card
    assert spec.law == ClockLaw(noise=(2.0, 100.0), scale=100.0).to_json()
    assert spec.spacings == pytest.approx((0.6, 1.2), rel=0.1)
    assert spec.level == "clock"
    assert Spectrum.from_json(spec.spectrum, "x").volume == 1.0
    assert spec.spread_scale is not None
    assert len(spec.spread_scale["factor"]) == 8
    assert (card["patients"], card["slices"], card["licences"]) == (3, 6, ["CC0"])
    assert card["sets"] == [{"index": "index.csv", "patients": 3, "rows": 6, "validation_patients": 1,
                             "licences": ["CC0"]}]  # fmt: skip
    assert len(card["training_images"]) == 6
    assert len(card["validation_images"]) == 2
    text = json.dumps({**card, "run": card["run"]["fields"]})
    assert not any(f'"{name}"' in text or f"{name}:" in text for name in SPACINGS), "the card names a patient"
    assert seen(spec, read(tmp_path / "data" / "a.npz", spacing=(1, 1, 1))) == [0, 1]
    assert seen(spec, read(tmp_path / "data" / "v.npz", spacing=(1, 1, 1))) == []
    assert seen(spec, read(tmp_path / "data" / "v.npz", spacing=(1, 1, 1)), "validation") == [0, 1]
    assert seen(replace(spec, card={}), Image.of(np.zeros((4, 4)), spacing=1.0)) is None


def test_a_run_goes_on_where_it_stopped_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("retrodict.tasks.fit.calibrate_over_law", lambda *_, **__: None)  # weights alone are compared
    whole = fit(planned(settings(tmp_path), tmp_path / "w"), tmp_path / "w", tensorboard=False).read_bytes()
    plan = planned(settings(tmp_path), tmp_path / "k")

    def stop(progress):
        if progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(plan, tmp_path / "k", tensorboard=False, watch=stop)
    again = planned(settings(tmp_path), tmp_path / "k")
    assert again.start_step == 3
    assert fit(again, tmp_path / "k", tensorboard=False).read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "field"),
    [({"law.options": {"noise": [2.0, 90.0]}}, "law.options.noise"),
     ({"data.spacings": {"most": 1.1}}, "data.spacings"), ({"data.most_noise": 10}, "data.images.training")],
)  # fmt: skip
def test_another_law_or_other_images_do_not_resume(tmp_path, change, field, monkeypatch):
    monkeypatch.setattr("retrodict.tasks.fit.calibrate_over_law", lambda *_, **__: None)  # not what is asked here
    fit(planned(settings(tmp_path), tmp_path / "run"), tmp_path / "run", tensorboard=False)
    with pytest.raises(InputError, match=field.replace(".", r"\.")):
        planned(settings(tmp_path, **change), tmp_path / "run")


def test_rows_are_filtered_and_what_is_left_out_is_said(tmp_path):
    plan = planned(settings(tmp_path, **{"data.most_noise": 10, "data.orientation": "axial"}), tmp_path / "run")
    assert len(plan.training) == 3
    assert plan.training.notes == ["4 rows left out: own noise above 10."]
    with pytest.raises(InputError, match=r"nothing to train on \(8 with orientation axial\)"):
        planned(settings(tmp_path, **{"data.orientation": "coronal"}), tmp_path / "run")


def test_slices_out_of_range_are_left_out_with_a_sentence():
    image = Image.of(tissue(0), unit="HU", spacing=0.8)
    odd = [
        Slice("a", image),
        Slice("b", replace(image, spacing=(0.3, 0.3))),
        Slice("b", replace(image, spacing=(0.8, 0.9))),
        Slice("b", replace(image, values=image.values[..., :8, :])),
    ]
    found = SpacingSet(odd, 16)
    assert (len(found), found.patients) == (1, ["a"])
    assert sorted(found.notes) == ["1 slices left out: a spacing outside 0.4 to 1.5 mm.",
                                   "1 slices left out: fewer than 16 pixels along a side.",
                                   "1 slices left out: pixels that are not square."]  # fmt: skip
    with pytest.raises(InputError, match=r"no slice to train on .*not square"):
        SpacingSet(odd[2:3], 16)


def test_a_table_also_serves_a_model_of_one_instrument(tmp_path):
    path = settings(tmp_path, law=None, level="rms", **{"data.spacings": None, "data.balance": "patients"})
    plan = planned(path, tmp_path / "run")
    assert plan.spec.law is None
    assert plan.spec.spacings is None
    assert plan.spec.card["patients"] == 3
    assert load_model(fit(plan, tmp_path / "run", tensorboard=False)).spec.spread_scale is not None


def test_groups_join_the_patients_of_a_table(tmp_path):
    path = settings(tmp_path)
    np.savez(tmp_path / "data" / "g.npz", hu=tissue(77), spacing=[0.8, 0.8])
    record = yaml.safe_load(path.read_text())
    record["data"]["groups"] = [{"name": "g", "paths": ["g.npz"]}]
    path.write_text(yaml.safe_dump(record))
    sets = training_sets(load_config(path), tmp_path)
    assert sets.card["patients"] == 4
    assert len(sets.training) == 7
    record["data"]["groups"][0]["name"] = "a"
    path.write_text(yaml.safe_dump(record))
    with pytest.raises(InputError, match=r"data\.groups.*'a', a patient of a table"):
        training_sets(load_config(path), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": "rms"}, "level: found 'rms'; expected 'clock'"),
        ({"law": {"name": "clock"}}, "Did you mean 'clocks'"),
        ({"law": {"name": "clocks", "options": {"noise": [9, 2]}}}, r"ClockLaw\.noise"),
        ({"law": {"name": "clocks", "options": {"scale": 3.0}}}, r"law\.options\.scale"),
        ({"data.patch": [16, 24]}, r"data\.patch"),
        ({"spacing": [2.0, 2.0]}, r"spacing: .*within data\.spacings"),
        ({"data.spacings": {"least": 2.0, "most": 1.0}}, r"data\.spacings\.least"),
        ({"data.validation": 0.2}, r"data\.validation.*column split"),
        ({"data.indices": ["index.csv", "index.csv"]}, r"data\.indices: found 'index\.csv' twice"),
        ({"data.channels": 3}, r"data\.channels"),
        ({"data.coarser": "refuse"}, r"data\.coarser"),
        ({"process": {"name": "vp", "basis": {"name": "cosine"}}}, r"process\.basis"),
        ({"law": None, "level": "rms"}, r"data\.spacings.*without a law"),
        ({"data.spacings": None, "data.indices": None, "data.simulated": {"images": 4}, "data.most_noise": 3},
         r"data\.most_noise.*indices"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_meant_is_refused_by_field(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config(settings(tmp_path, **change))
    assert "tiny.yaml" in str(caught.value)


def test_tables_that_do_not_fit_are_refused(tmp_path):
    path = settings(tmp_path)
    with pytest.raises(InputError, match=r"data\.indices: found no file .*none\.csv.*data index.*--set data\.root="):
        training_sets(load_config(path, ["data.indices=[none.csv]"]), tmp_path)
    collection(tmp_path / "data", b={"unit": "arbitrary"})
    with pytest.raises(InputError, match=r"index\.csv, line 4, column unit: found 'arbitrary'"):
        training_sets(load_config(path), tmp_path)
    collection(tmp_path / "data")
    table = (tmp_path / "data" / "index.csv").read_text()
    (tmp_path / "data" / "two.csv").write_text(table.replace("validation", "train").replace("train,a", "validation,a"))
    with pytest.raises(InputError, match=r"two\.csv, line 2, column split: found 'validation' for the patient 'a'"):
        training_sets(load_config(path, ["data.indices=[index.csv, two.csv]"]), tmp_path)
    np.savez(tmp_path / "data" / "v.npz", hu=np.load(tmp_path / "data" / "b.npz")["hu"])
    with pytest.raises(InputError, match=r"line 8: found the pixels of .*line 4, which is trained on"):
        training_sets(load_config(path), tmp_path)


def test_slices_that_need_more_memory_than_there_is_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("retrodict.tasks.fit_collection.free_memory", lambda: 10_000)
    path = settings(tmp_path)
    rows = [replace(r, rows=48, columns=48) for r in read_index(tmp_path / "data" / "index.csv")]
    write_index(rows, tmp_path / "data" / "index.csv", force=True)
    with pytest.raises(InputError, match=r"data\.slices: found 8 slices"):
        training_sets(load_config(path), tmp_path)


# ---- batches ---------------------------------------------------------------------------------------------------------


def slices_of(counts, side=32):
    """Slices of constant value: patient k has the value k."""
    found = []
    for k, (spacing, count) in enumerate(counts):
        for _ in range(count):
            image = Image.of(np.full((side, side), float(k + 1), np.float32), spacing=spacing)
            found.append(Slice(f"p{k}", image))
    return found


def test_a_batch_has_one_spacing_and_patients_are_drawn_alike():
    """Patient 0 has nine slices of the spacing of patient 1, who has one; patient 2 has another spacing."""
    found = SpacingSet(slices_of([(0.8, 9), (0.8, 1), (1.2, 1)]), 16, copies=0)
    assert found.reach == pytest.approx((0.8, 1.2), rel=0.02)
    seen_values = []
    for k in range(300):
        values, spacing = found.batch([10 * k, 10 * k + 1])
        kinds = set(values.flatten().tolist())
        assert kinds <= ({3.0} if spacing > 1 else {1.0, 2.0})
        seen_values += values[:, 0, 0, 0].tolist()
    shares = [seen_values.count(v) / len(seen_values) for v in (1.0, 2.0, 3.0)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.08)
    again = SpacingSet(slices_of([(0.8, 9), (0.8, 1), (1.2, 1)]), 16, copies=0)
    assert torch.equal(again.batch([7, 8])[0], found.batch([7, 8])[0])
    pixels = SpacingSet(slices_of([(0.8, 9), (0.8, 1), (1.2, 1)]), 16, copies=0, balance="pixels")
    drawn = [float(pixels.batch([k])[0][0, 0, 0, 0]) for k in range(300)]
    assert drawn.count(1.0) / 300 == pytest.approx(9 / 11, abs=0.07)


def test_copies_are_coarser_and_in_the_bin_of_their_spacing():
    found = by_spacing(slices_of([(0.6, 20)], side=64), 16, 1.5, copies=2)
    spacings = [s.spacing[0] for items in found.values() for s in items]
    assert spacings.count(0.6) == 20
    assert 0.6 < sorted(spacings)[20] < max(spacings) <= 1.5 * 1.03
    assert len(spacings) == 60
    for number, items in found.items():
        assert all(abs(s.spacing[0] / center_of(number) - 1) <= 0.0203 for s in items)
    assert bin_of(center_of(7)) == 7


def test_the_spectrum_of_several_spacings_is_one_density():
    """White noise of density 3 mm^2: variance 3 / d^2 on pixels of d; groups count once, however large they are."""
    generator = torch.Generator().manual_seed(0)

    def noise(density, spacing, count):
        size = (count, 64, 64)
        return [(x * (density**0.5 / spacing), spacing) for x in torch.randn(size, generator=generator).double()]

    found = density_spectrum([noise(3.0, 0.5, 30), noise(3.0, 1.0, 30)])
    basis = Fourier((32, 32), (0.8, 0.8))
    assert found.on(basis)[1:, 1:].mean() == pytest.approx(3.0 / 0.64, rel=0.03)
    mixed = density_spectrum([noise(1.0, 1.0, 90), noise(3.0, 1.0, 30)])
    assert mixed.on(Fourier((32, 32)))[1:, 1:].mean() == pytest.approx(2.0, rel=0.04)
    with pytest.raises(InputError, match="no images"):
        density_spectrum([])


def test_factors_over_a_law_are_one_where_the_network_is_right_and_found_where_it_is_not(tmp_path):
    """A zero network is the Wiener filter of Gaussian data of its spectrum, at any clock; then bands are shifted."""
    plan = planned(settings(tmp_path), tmp_path / "run")
    denoiser = plan.spec.build("test")
    law = ClockLaw(noise=(2.0, 100.0), scale=100.0)
    generator = torch.Generator().manual_seed(1)

    def gaussian(keys):
        basis = denoiser.process.basis
        z = torch.randn(len(keys), 1, *basis.size, generator=generator)
        return basis.inverse(denoiser.spectrum.on(basis).sqrt().to(z) * basis.forward(z)) + denoiser.spectrum.mean

    right = calibrate_over_law(denoiser, gaussian, law, levels=2, items=128)
    assert torch.allclose(torch.tensor(right.factor), torch.ones(2, 2), atol=0.12)
    with torch.no_grad():
        denoiser.net.head.conv.bias[4:] = torch.tensor([0.25, 4.0]).log().repeat_interleave(4)
    wrong = calibrate_over_law(denoiser, gaussian, law, levels=2, items=128)
    assert wrong.factor[0] == pytest.approx((4.0, 0.25), rel=0.15)
    assert right.level[0] < right.level[1]


def test_the_spectrum_of_the_error_is_found_where_the_data_have_more_power_than_the_model_knows(tmp_path):
    """Twice the power above 0.65 of Nyquist, of which an instrument of noise alone shows nothing: twice the error."""
    plan = planned(settings(tmp_path), tmp_path / "run")
    denoiser = plan.spec.build("test")
    generator, hidden = torch.Generator().manual_seed(1), 1e6

    def gaussian(keys):
        basis = denoiser.process.basis
        z = torch.randn(len(keys), 1, *basis.size, generator=generator)
        more = 1 + (basis.radius() * 2 * basis.spacing[0] > 0.65)
        power = denoiser.spectrum.on(basis) * more
        return basis.inverse(power.sqrt().to(z) * basis.forward(z)) + denoiser.spectrum.mean

    def law(basis, seeds):
        return fourier(basis, gain_weights=(1.0, 1.0, 1.0), noise_weights=(hidden,) * 3)

    scale = calibrate_over_law(denoiser, gaussian, law, levels=2, items=128)
    basis, v = denoiser.process.basis, denoiser.data_power.reshape(1, 1, *denoiser.process.basis.shape)
    bands = torch.einsum("a...,a->...", denoiser.filters**2, torch.tensor(scale.factor).mean(0).double())
    found = (scale.variances(v, v, basis) / v)[0, 0] * bands
    radius = basis.radius() * 2 * basis.spacing[0]
    assert float(found[(radius > 0.2) & (radius < 0.55)].mean()) == pytest.approx(1, abs=0.1)
    assert float(found[(radius > 0.75) & (radius < 1.1)].mean()) == pytest.approx(2, abs=0.2)
    assert float(scale.variances(0 * v, v, basis).abs().max()) == 0
    wide = replace(denoiser, spread_scale=scale, bands=2)
    y = torch.zeros(1, 1, *basis.size, dtype=torch.float64)
    said = wide.at(law(basis, None)).estimate(y, torch.ones(1, dtype=torch.float64)).spread.variance().mean()
    weight = basis.multiplicity() / basis.multiplicity().sum()
    assert float(said.detach()) == pytest.approx(float((found * v[0, 0] * weight).sum()), rel=0.05)


def test_the_factor_in_use_is_the_ratio_where_the_spread_is_wrong(tmp_path):
    """A zero network on Gaussian data of its spectrum, its variance a quarter too large: the factor takes it back."""
    denoiser = planned(settings(tmp_path), tmp_path / "run").spec.build("test")
    basis = denoiser.process.on((64, 64)).basis
    z = torch.randn(4, 1, *basis.size, generator=torch.Generator().manual_seed(2))
    x = basis.inverse(denoiser.spectrum.on(basis).sqrt().to(z) * basis.forward(z)) + denoiser.spectrum.mean
    large = replace(denoiser, spread_scale=SpreadScale((-9.0, 9.0), ((1.25, 1.25), (1.25, 1.25))))
    law = ClockLaw(noise=(2.0, 100.0), scale=100.0)
    found = in_use(large, law, {f"p{k}": [(x[k], 0.8)] for k in range(4)})
    assert torch.tensor(found.factor).flatten().tolist() == pytest.approx([1.0] * 4, abs=0.12)
    assert found.border == ()  # nothing lies around these images
    assert found.intensity.factor == pytest.approx([1.0] * len(found.intensity.factor), abs=0.12)
    shown = by_intensity(large, law, {f"p{k}": [(x[k], 0.8)] for k in range(4)})
    assert shown.factor == pytest.approx([0.8] * len(shown.factor), abs=0.1)
    pairs = {f"p{k}": [(torch.cat([x[k]] * 2), 0.8)] for k in range(4)}
    assert by_intensity(large, law, pairs) is None  # several channels
    assert in_use(large, law, {"p0": [(x[0], 0.8)]}) is large.spread_scale


def test_what_a_margin_costs_is_known_where_images_go_on(tmp_path, monkeypatch):
    """A zero network on Gaussian data is the linear estimate, which knows it: no factors at the border but 1."""
    monkeypatch.setitem(SIDES, 2, 48)
    denoiser = planned(settings(tmp_path), tmp_path / "run").spec.build("test")
    basis = denoiser.process.on((80, 80)).basis
    z = torch.randn(6, 1, *basis.size, generator=torch.Generator().manual_seed(3))
    x = basis.inverse(denoiser.spectrum.on(basis).sqrt().to(z) * basis.forward(z)) + denoiser.spectrum.mean
    one = replace(denoiser, spread_scale=SpreadScale((-9.0, 9.0), ((1.0, 1.0), (1.0, 1.0))))
    found = in_use(one, ClockLaw(noise=(20.0, 100.0), scale=100.0), {f"p{k}": [(x[k], 0.8)] for k in range(4)})
    assert len(found.border) == 8
    assert found.margin > 0.6
    assert found.border == pytest.approx([1.0] * 8, abs=0.25)


@pytest.mark.skipif(not (DATA / "ct_tcga_lung").is_dir(), reason="no CT patients beside the repository")
def test_the_shipped_training_finds_its_patients():
    path = Path(__file__).resolve().parents[1] / "configs" / "any-scanner.yaml"
    config = load_config(
        path, [f"data.root={DATA}", "data.indices=[ct_liver_lung_tcia3/index.csv]", "data.leave_out=[]"]
    )
    sets = training_sets(config, path.parent)
    assert sets.card["patients"] == 3  # one of the table, and the two that have none
    assert sets.validation is not None
    assert sets.card["licences"] == ["CC BY 4.0"]
