"""Evaluation of folders and of models against the truth, with figures that are known."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import retrodict
from models import field, make_model
from retrodict import Image, InputError
from retrodict.cli.app import app
from retrodict.metrics.bootstrap import bootstrap, paired_bootstrap
from retrodict.metrics.similarity import ssim, ssim_map
from retrodict.tasks.demo import CURVES as SCANNER
from retrodict.tasks.evaluate import _blur, evaluate
from retrodict.tasks.evaluate_methods import EvaluationConfig, Method, load_evaluation, measured_images
from retrodict.tasks.evaluate_metrics import CURVES, METRICS, Case

SIDE, COUNT, K = 48, 6, 12


def save(path, values):
    np.savez(path, hu=np.asarray(values, np.float32), pixel_spacing_mm=np.array([1.0, 1.0]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Six images, y = x + noise with x, noise ~ N(0, 100^2): the exact posterior, one of a fifth too little variance,
    and a point estimate."""
    base = tmp_path_factory.mktemp("evaluate")
    for name in ("truth", "measured", "exact", "narrow", "point"):
        (base / name).mkdir()
    g = torch.Generator().manual_seed(0)
    for i in range(COUNT):
        x, n = (100 * torch.randn(SIDE, SIDE, generator=g, dtype=torch.float64) for _ in range(2))
        save(base / "truth" / f"image{i}.npz", x)
        save(base / "measured" / f"image{i}-measured.npz", x + n)
        mean = (x + n) / 2
        save(base / "point" / f"image{i}.npz", mean)
        for method, factor in (("exact", 1.0), ("narrow", math.sqrt(0.8))):
            z = torch.randn(K, SIDE, SIDE, generator=g, dtype=torch.float64)
            samples = mean + factor * math.sqrt(5000) * z
            save(base / method / f"image{i}_mean.npz", samples.mean(0))
            save(base / method / f"image{i}_sd.npz", samples.std(0))
            for k, s in enumerate(samples):
                save(base / method / f"image{i}_sample-{k:03d}.npz", s)
            record = {"kind": "posterior", "sampling": {"members": K}, "seconds": 1.5}
            (base / method / f"image{i}_restore.json").write_text(json.dumps(record))
    return base


def config(**changes):
    methods = [Method(name=n, path=n) for n in ("exact", "narrow", "point")]
    fields = {"truth": ["truth"], "measured": "measured", "methods": methods, "bands": 4, "bootstrap": 500}
    return EvaluationConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def result(folders):
    return evaluate(config(uniform=[(4, 4, 16)]), folders)


def summary(result, name):
    return next(m for m in result.record["methods"] if m["name"] == name)


def test_the_figures_are_those_of_the_closed_form(result):
    exact, narrow, point = (summary(result, n) for n in ("exact", "narrow", "point"))
    assert summary(result, "measured")["summary"]["rmse"]["value"] == pytest.approx(100, rel=0.02)
    assert point["summary"]["rmse"]["value"] == pytest.approx(math.sqrt(5000), rel=0.02)
    assert exact["summary"]["rmse"]["value"] == pytest.approx(math.sqrt(5000 * (1 + 1 / K)), rel=0.02)
    assert exact["summary"]["bias"]["value"] == pytest.approx(math.sqrt(5000), rel=0.02)
    assert exact["summary"]["spread"]["value"] == pytest.approx(math.sqrt(5000), rel=0.02)
    assert exact["summary"]["ssr"]["lower"] < 1 < exact["summary"]["ssr"]["upper"]
    assert exact["summary"]["cover95"]["value"] == pytest.approx(0.95, abs=0.01)
    assert narrow["summary"]["ssr"]["lower"] > 1.05
    assert narrow["summary"]["ssr"]["value"] == pytest.approx(
        math.sqrt((5000 + 4000 / K) / (4000 * (1 + 1 / K))), rel=0.02
    )
    assert max(abs(np.array(exact["bands"]["ssr"]) - 1)) < 0.1
    assert np.mean(narrow["bands"]["ssr"]) > 1.05
    assert exact["ranks"]["p_value"] > 0.01
    assert sum(exact["ranks"]["counts"]) == COUNT * 36
    assert summary(result, "measured")["summary"]["noise_ratio"]["value"] == 1


def test_a_point_estimate_has_no_spread_columns(result):
    point = summary(result, "point")
    assert point["kind"] == "point"
    assert not {"ssr", "cover95", "spread"} & set(point["summary"])
    assert "coverage" not in point


def test_differences_are_paired(result):
    found = {(d["method"], d["metric"]): d for d in result.record["differences"]}
    gap = found["point", "rmse"]
    assert gap["upper"] < 0  # without the share of the members
    assert found["narrow", "ssr"]["lower"] > 0
    assert result.record["reference"] == "exact"


def test_files(result, tmp_path):
    files = result.save(tmp_path / "out")
    assert [f.name for f in files] == ["evaluation.json", "table.csv", "table.md", "report.html"]
    rows = list(csv.DictReader(files[1].read_text().splitlines()))
    assert len(rows) == 4 * COUNT
    assert rows[1]["method"] == "exact"
    assert float(rows[1]["seconds"]) == 1.5
    assert "| exact |" in files[2].read_text()
    page = files[3].read_text()
    assert "Rank histograms" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    with pytest.raises(InputError, match="earlier run"):
        result.save(tmp_path / "out")
    result.save(tmp_path / "out", force=True)


def test_a_model_is_run_where_no_folder_is_given(folders, tmp_path):
    """A truth that the model knows: one of its spectrum."""
    make_model(tmp_path, bands=0)
    save(tmp_path / "truth.npz", 100 * (field((96, 96), 1)[0].double() - 5))
    methods = [{"name": "model", "model": str(tmp_path / "model"), "samples": 4, "steps": 1}]
    found = evaluate(
        config(methods=methods, measured=None, simulate=True, truth=[str(tmp_path / "truth.npz")]), folders
    )
    assert summary(found, "model")["summary"]["ssr"]["value"] > 0
    assert summary(found, "model")["summary"]["rmse"]["lower"] is None  # one image gives no band


def test_a_task_gives_the_response_of_instrument_and_restoration(folders, tmp_path):
    """With a network that answers zero the posterior mean is linear: MTF x Wiener gain."""
    model = make_model(tmp_path, bands=0)
    methods = [{"name": "model", "model": str(tmp_path / "model"), "samples": 2, "steps": 1}]
    task = {"contrast": 500, "radius": 4.0, "positions": [[24, 24], [20, 26]]}
    changes = {"methods": methods, "measured": None, "simulate": True, "truth": ["truth/image0.npz"]}
    found = evaluate(config(**changes, task=task, uniform=[(4, 4, 16), (24, 24, 16)]), folders)
    t = summary(found, "model")["task"]
    process = model.denoiser.process.on((48, 48))
    gain, _, noise = process.measurement
    power = model.denoiser.spectrum.on(process.basis)
    both = gain * power * gain / (gain**2 * power + noise)
    radius = process.basis.radius()
    for f, value in zip(t["frequency"][:4], t["mtf"][:4], strict=True):
        wanted = float(both[(radius - f).abs() < 0.5 / 48].mean())
        assert value == pytest.approx(wanted, abs=0.06)
    assert t["d_hotelling"] >= t["d_npw"] > 0
    assert t["d_npw_band"][0] <= t["d_npw"] <= t["d_npw_band"][1]
    found.save(tmp_path / "out")
    assert "MTF by perturbation" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(InputError, match="no uniform regions"):
        evaluate(config(**changes, task=task), folders)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"truth": ["nothing"]}, "found nothing"),
        ({"measured": "exact"}, "no image named"),
        ({"reference": "other"}, "reference"),
        ({"simulate": True}, "one of the two"),
        ({"methods": [Method(name="a", path="measured"), Method(name="a", path="exact")]}, "different names"),
        ({"methods": [Method(name="a", path="absent")]}, "no such folder"),
        ({"methods": [Method(name="a")], "measured": None}, "measured images, or simulate"),
        ({"uniform": [(40, 40, 32)]}, "uniform"),
    ],
)
def test_what_is_wrong_is_said(folders, changes, said):
    with pytest.raises(InputError, match=said):
        evaluate(config(**changes), folders)


def test_configuration_file_and_command_line(folders, tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(f"truth: [{folders}/truth]\nmethods:\n  - {{name: exact, path: {folders}/exact}}\nbootstrap: 200\n")
    run = CliRunner()
    done = run.invoke(app, ["evaluate", str(path), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "report.html").exists()
    options = ["--truth", f"{folders}/truth", "--method", f"a={folders}/point", "-o", str(tmp_path / "two")]
    assert run.invoke(app, ["evaluate", *options]).exit_code == 0
    path.write_text("truth: [x]\nmethod: []\n")
    with pytest.raises(InputError, match=r"methods|method"):
        load_evaluation(path)
    assert run.invoke(app, ["evaluate", "-o", str(tmp_path / "three")]).exit_code in (2, 3)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("{name: a, sampels: 4}", r"e\.yaml: methods\.0\.sampels: .*unknown key.*Did you mean 'samples'"),
        ("{name: a, samples: 0}", r"e\.yaml: methods\.0\.samples: found 0; expected at least 1"),
        ("{name: a, steps: few}", r"e\.yaml: methods\.0\.steps: found 'few'"),
        ("{name: a, uncertainty: 'no'}", r"e\.yaml: methods\.0\.uncertainty: found 'no'; expected true or false"),
        ("{name: a, uncertainty: true, point: true}", "one of the two"),
    ],
)
def test_an_error_in_an_evaluation_names_file_and_field(tmp_path, method, said):
    path = tmp_path / "e.yaml"
    path.write_text(f"truth: [x]\nmethods: [{method}]\n")
    with pytest.raises(InputError, match=said):
        load_evaluation(path)


def test_a_file_that_is_no_mapping_is_said(tmp_path):
    (tmp_path / "e.yaml").write_text("- a\n")
    with pytest.raises(InputError, match="expected a YAML mapping"):
        load_evaluation(tmp_path / "e.yaml")


def test_a_method_takes_every_option_of_restore_and_is_recorded_as_it_is_written():
    method = Method.model_validate(
        {"name": "a", "rule": "ddim", "samples": 1, "uncertainty": False, "spread": "wiener"}
    )
    assert method.options.point
    assert method.options.samples == 1
    assert method.model_dump() == {
        "name": "a",
        "path": None,
        "model": "ct",
        "rule": "ddim",
        "steps": None,
        "samples": 1,
        "uncertainty": False,
        "seed": 0,
        "spread": "wiener",
    }
    assert Method.model_validate(method.model_dump()) == method


def test_a_model_of_every_instrument_is_simulated_and_judged_with_the_curves_of_the_method():
    """The shipped scanner has 30 HU of noise at 0.81 mm, and the default process of the model 168 HU at 1 mm."""
    assets = Path(retrodict.__file__).parent / "assets"
    options = dict(zip(("mtf", "nps"), SCANNER, strict=True))
    method = Method.model_validate({"name": "a", "model": "ct", **options})
    truth = Image.of(np.zeros((64, 64), np.float32), unit="HU", spacing=(0.81, 0.81))
    compared = EvaluationConfig(truth=["x"], simulate=True, methods=[method])
    found = measured_images(compared, assets, {"x": truth})["x"]
    assert float(found.values.std()) == pytest.approx(30, rel=0.1)
    rows = torch.arange(64, dtype=torch.float64)[:, None].expand(64, 64)
    wave = torch.cos(2 * math.pi * 16 * rows / 64)  # 0.25 cycles a pixel, 0.309 /mm
    mtf = json.loads((assets / SCANNER[0]).read_text())
    wanted = float(np.interp(0.25 / 0.81, mtf["frequency"], mtf["value"]))
    blurred = _blur(method, found, assets)(wave[None, None])
    torch.testing.assert_close(blurred[0, 0], wanted * wave, rtol=0, atol=1e-3)


# ---- who was looked at ----


def test_the_record_says_what_was_found_not_what_might_have_been_run(result):
    exact = summary(result, "exact")
    assert exact["members"] == [K]
    listed = result.record["config"]["methods"][0]
    assert listed == {"name": "exact", "path": "exact"}
    assert result.record["who"] == "6 images (6 slices); patients: not told"
    assert "patients: not told" in result.markdown()
    assert all(row["slices"] == 1 for row in result.rows)
    assert exact["summary"]["rmse"]["n"] == COUNT


def test_images_are_averaged_within_patients_first(folders):
    """Patients of 4, 1 and 1 images: the mean over patients is not that over images."""
    told = config(patients=r"image([45])|image")
    found = evaluate(config(patients="image[0-3]|image4|image5"), folders)
    assert found.record["patients"] == 6
    with pytest.raises(InputError, match="no match"):
        evaluate(told, folders)
    found = evaluate(config(patients="e(?=[0-3])|4|5"), folders)
    assert found.record["patients"] == 3
    assert found.record["who"] == "6 images (6 slices) of 3 patients"
    each = [r["rmse"] for r in found.rows if r["method"] == "point"]
    patients = [np.mean(each[:4]), each[4], each[5]]
    seen = summary(found, "point")["summary"]["rmse"]
    assert seen["value"] == pytest.approx(np.mean(patients))
    assert seen["sd"] == pytest.approx(np.std(patients, ddof=1))
    assert seen["n"] == 3
    assert {d["n"] for d in found.record["differences"]} == {3}
    assert all(d["p_value"] >= 0.25 for d in found.record["differences"])  # 2 / 2^3


def test_folders_name_patients(folders, tmp_path):
    for i in range(3):
        (tmp_path / "truth" / f"p{i}").mkdir(parents=True)
        values = np.load(folders / "truth" / f"image{i}.npz")["hu"]
        save(tmp_path / "truth" / f"p{i}" / f"image{i}.npz", values)
    changes = {"truth": [f"truth/p{i}" for i in range(3)], "measured": None, "patients": "folder"}
    methods = [Method(name="point", path=str(folders / "point"))]
    found = evaluate(config(**changes, methods=methods), tmp_path)
    assert found.record["patients"] == 3
    assert [r["patient"] for r in found.rows] == ["p0", "p1", "p2"]
    with pytest.raises(InputError, match="no PatientID"):
        evaluate(config(**{**changes, "patients": "dicom"}, methods=methods), tmp_path)


def test_the_page_does_not_praise_a_method_that_is_worse_than_the_measurement(folders, tmp_path):
    (tmp_path / "worse").mkdir()
    for i in range(COUNT):
        save(tmp_path / "worse" / f"image{i}.npz", 3 * np.load(folders / "truth" / f"image{i}.npz")["hu"])
    found = evaluate(config(methods=[Method(name="worse", path=str(tmp_path / "worse"))]), folders)
    page = found.save(tmp_path / "out")[3].read_text()
    assert "has the smallest error" not in page
    assert "No method has a smaller error than the measured images" in page


# ---- contracts of the table ----


def case(**without):
    """A case that has everything, less what `without` names."""
    g = torch.Generator().manual_seed(1)
    truth, noise = (100 * torch.randn(1, SIDE, SIDE, generator=g, dtype=torch.float64) for _ in range(2))
    samples = (truth + noise) / 2 + 70 * torch.randn(K, 1, SIDE, SIDE, generator=g, dtype=torch.float64)
    stated = {"uniform": [(4, 4, 16)], "disc": {"row": 24, "column": 24, "radius": 4}}
    fields = {"mean": samples.mean(0), "sd": samples.std(0), "samples": samples, "count": K}
    fields |= {"measured": truth + noise, "pixel": (1.0, 1.0), "unit": "HU", "config": config(**stated)}
    return Case(truth=truth, **{**fields, **without})


WITHOUT = {
    "spread": {"sd": None, "samples": None, "count": None},
    "members": {"samples": None},
    "measurement": {"measured": None},
    "known unit": {"unit": "counts"},
    "regions": {"config": config()},
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_words_and_a_finite_value_of_a_case_that_has_everything(name):
    metric = METRICS[name]
    assert metric.title
    assert metric.meaning
    assert [m.title for m in METRICS.values()].count(metric.title) == 1
    value = metric.of(case())
    assert isinstance(value, float)
    assert math.isfinite(value)


@pytest.mark.parametrize("missing", WITHOUT)
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_does_without_an_input_or_has_no_value(name, missing):
    assert METRICS[name].of(case(**WITHOUT[missing])) in (None, METRICS[name].of(case()))


@pytest.mark.parametrize("name", METRICS)
def test_equal_images_pool_to_the_value_of_one(name):
    data, statistic = METRICS[name].pool
    value = METRICS[name].of(case())
    assert float(statistic(torch.tensor([data(value)] * 3, dtype=torch.float64))) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("missing", WITHOUT)
def test_what_is_missing_is_missed_by_some_figure(missing):
    """So that the contract above cannot hold because nothing was taken away."""
    figures = [*METRICS.values(), *CURVES.values()]
    assert any(f.of(case()) is not None and f.of(case(**WITHOUT[missing])) is None for f in figures)


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_goes_into_a_record_or_is_none(name):
    part = CURVES[name].of(case())
    json.dumps(CURVES[name].pool([part, part]), allow_nan=False)
    nothing = case(**WITHOUT["spread"], **WITHOUT["measurement"])
    assert CURVES[name].of(nothing) is None


# ---- the metrics behind it ----


def test_ssim_is_that_of_scikit_image():
    reference = pytest.importorskip("skimage.metrics").structural_similarity
    g = torch.Generator().manual_seed(0)
    a = 100 * torch.rand(40, 37, generator=g, dtype=torch.float64)
    b = a + 20 * torch.randn(40, 37, generator=g, dtype=torch.float64)
    for window in (7, 5):
        wanted = reference(a.numpy(), b.numpy(), data_range=100, win_size=window)
        assert abs(ssim(a, b, data_range=100, window=window) - wanted) < 1e-10
    assert ssim(torch.stack([a, b]), torch.stack([a, a]), data_range=100) == pytest.approx(
        (1 + ssim(b, a, data_range=100)) / 2
    )
    assert ssim_map(a, a, data_range=1).shape == (34, 31)
    with pytest.raises(InputError, match="odd number"):
        ssim(a, b, data_range=1, window=6)


def test_bootstrap_covers_and_pairs():
    hits = 0
    for seed in range(200):
        x = torch.randn(15, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        band = bootstrap(x, lambda v: v.mean(0), seed=seed, count=400)
        hits += bool(band.lower <= 0 <= band.upper)
    assert 0.89 < hits / 200 < 0.98
    g = torch.Generator().manual_seed(1)
    common = 10 * torch.randn(20, generator=g, dtype=torch.float64)
    a = common + 0.5 + 0.3 * torch.randn(20, generator=g, dtype=torch.float64)
    found = paired_bootstrap(a, common)
    assert found.lower > 0
    assert found.p_value < 0.01
    unpaired = bootstrap(a, lambda v: v.mean(0))
    assert float(unpaired.lower) < float(common.mean())  # the same shift is lost without pairs
    assert paired_bootstrap(common, common + 1e-12).p_value <= 1
