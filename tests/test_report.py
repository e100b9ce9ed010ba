"""The HTML report: self-contained, honest about point estimates, safe, all or nothing."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from models import make_model
from retrodict import InputError
from retrodict.bases.curve import Curve
from retrodict.report import evaluation, page
from retrodict.report import restoration as report
from retrodict.tasks.results import _curves


def data(**changes):
    g = torch.Generator().manual_seed(0)
    truth = torch.zeros(64, 72)
    truth[20:40, 20:50] = 100
    noisy = truth + 30 * torch.randn(64, 72, generator=g)
    mean = truth + 5 * torch.randn(64, 72, generator=g)
    fields = {
        "title": "Restoration of scan",
        "input": noisy,
        "mean": mean,
        "sd": torch.full((64, 72), 5.0),
        "sample_count": 8,
        "unit": "HU",
        "spacing": (1.0, 1.0),
        "window": (40.0, 400.0),
        "parameters": {"rule": "matched", "steps": 8},
        "versions": {"retrodict": "0"},
        "seeds": [1, 2],
        "files": ["out/scan_mean.dcm"],
        "timing": {"restoration": 1.5},
    }
    return report.ReportData(**{**fields, **changes})


def words(html):
    return re.sub(r"<[^>]+>", " ", html)


def titles(html):
    return re.findall(r'<figure class="panel">\s*<figcaption class="name">([^<]*)', html)


def pixels(html, title):
    """The pixels of the panel with that title."""
    found = re.search(rf'<figcaption class="name">{re.escape(title)}</figcaption>\s*<img src="[^,]*,([^"]*)', html)
    assert found, title
    return np.asarray(Picture.open(io.BytesIO(base64.b64decode(found[1]))))


def several(count, **changes):
    """Images with `count` channels, each another multiple of the same."""
    factors = torch.linspace(0.5, 1, count)[:, None, None]
    names = ("input", "mean", "sd")
    return data(**{k: factors * getattr(data(), k) for k in names} | changes)


def test_the_report_shows_and_records_everything(tmp_path):
    html = report.write(data(), tmp_path / "r.html").read_text()
    text = words(html)
    for word in (
        "Posterior mean",
        "Standard deviation",
        "Difference",
        "Profiles",
        "Noise power spectra",
        "matched",
        "HU",
    ):
        assert word in text, word
    assert "out/scan_mean.dcm" in text
    assert html.count("data:image/png;base64") >= 4


def test_it_asks_nothing_of_a_network(tmp_path):
    html = report.write(data(), tmp_path / "r.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", html)
    assert "<script" not in html


def test_a_point_estimate_says_so_and_shows_no_spread(tmp_path):
    changes = {"point_estimate": True, "point_estimate_reason": "the rule is deterministic", "sd": None}
    text = words(report.write(data(**changes), tmp_path / "r.html").read_text())
    assert re.search("point estimate", text, re.IGNORECASE)
    assert "the rule is deterministic" in text
    with_sd = words(report.write(data(), tmp_path / "s.html").read_text())
    assert len(re.findall("standard deviation", text, re.IGNORECASE)) < len(
        re.findall("standard deviation", with_sd, re.IGNORECASE)
    )


def test_a_truth_brings_errors_and_calibration(tmp_path):
    truth = torch.zeros(64, 72)
    truth[20:40, 20:50] = 100
    text = words(report.write(data(truth=truth, data_range=2000.0), tmp_path / "r.html").read_text())
    assert "Against the truth" in text
    assert "95 % interval" in text.replace("\u00a0", " ")


def test_hostile_names_are_escaped(tmp_path):
    html = report.write(data(title="<script>alert(1)</script>", files=["<img src=x>"]), tmp_path / "r.html").read_text()
    assert "<script>alert" not in html
    assert "<img src=x>" not in html


def test_volumes_show_some_slices(tmp_path):
    volume = {k: torch.stack([getattr(data(), k)] * 5) for k in ("input", "mean", "sd")}
    text = words(report.write(data(**volume, spacing=(2.0, 1.0, 1.0)), tmp_path / "r.html").read_text())
    assert "lice" in text


def test_nothing_is_overwritten_or_half_written(tmp_path, monkeypatch):
    path = report.write(data(), tmp_path / "r.html")
    with pytest.raises(InputError):
        report.write(data(), path)
    report.write(data(), path, force=True)

    def broken(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(report, "render", broken)
    with pytest.raises(RuntimeError):
        report.write(data(), tmp_path / "other.html")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_shapes_must_agree():
    with pytest.raises(InputError):
        data(mean=torch.zeros(3, 3))


def test_one_channel_may_have_an_axis_of_its_own():
    one = {k: getattr(data(), k)[None] for k in ("input", "mean", "sd")}
    assert report.render(data(**one)) == report.render(data())
    volume = {k: torch.stack([getattr(data(), k)] * 5) for k in ("input", "mean", "sd")}
    with_axis = {k: v[None] for k, v in volume.items()}
    assert report.render(data(**with_axis)) == report.render(data(**volume))


def test_red_green_and_blue_are_one_picture_and_a_deviation_each():
    shown = several(3, channels=("r", "g", "b"), unit="intensity", window=(50.0, 100.0))
    html = report.render(data(**vars(shown) | {"truth": shown.mean, "samples": [shown.mean, shown.input]}))
    assert "in 3\u00a0channels" in html
    found = titles(html)
    for title in ("Input", "Posterior mean", "Truth", "Sample 1"):
        assert pixels(html, title).ndim == 3
    expected = (shown.mean.movedim(0, -1) * 2.55 + 0.5).clamp(0, 255).byte().numpy()
    assert np.array_equal(pixels(html, "Posterior mean"), expected)
    for channel in "rgb":
        for quantity in ("Standard deviation", "Difference", "Error"):
            assert found.count(f"{quantity}, {channel}") == 1
        assert re.search(rf"Horizontal profile, row \d+, {channel}<", html)
        assert f"Root mean squared error, {channel}" in html
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_other_channels_are_shown_one_by_one():
    html = report.render(several(2, channels=("dy", "dx"), unit="mm"))
    assert words(html).count("Channel dy") == words(html).count("Channel dx") == 2  # images and noise
    assert titles(html).count("Standard deviation") == 2
    assert pixels(html, "Input").ndim == 2
    volume = {k: torch.stack([getattr(several(2, channels=("dy", "dx")), k)] * 3, 1) for k in ("input", "mean", "sd")}
    assert "Slice 2 of 3, Channel dx" in words(report.render(data(**volume, channels=("dy", "dx"))))


def test_complex_images_are_shown_by_magnitude_and_phase():
    turn = torch.exp(1j * torch.linspace(-3, 3, 72))
    noisy, mean = data().input * turn, data().mean * turn
    shown = data(input=noisy, mean=mean, truth=mean, samples=[mean, noisy], unit="a.u.", window=(50.0, 100.0))
    html = report.render(shown)
    assert {"Input, phase", "Posterior mean, phase", "Truth, phase"} <= set(titles(html))
    expected = (mean.abs() * 2.55 + 0.5).clamp(0, 255).byte().numpy()
    assert np.array_equal(pixels(html, "Posterior mean"), expected)
    assert "Magnitude, window" in words(html)
    rms = float(torch.view_as_real(noisy - mean).double().square().mean().sqrt())
    assert f"from {page.number(rms)} to 0" in words(html)


def test_a_complex_volume_of_several_channels_may_be_a_conjugate():
    values = torch.randn(2, 3, 16, 18, dtype=torch.complex64)
    images = {"input": values.conj(), "mean": values.conj(), "sd": values.abs()}
    html = report.render(data(**images, channels=("coil 1", "coil 2"), window=None))
    assert titles(html).count("Input, phase") == 4  # two of the three slices are shown


def test_the_spread_of_complex_images_is_that_of_each_part():
    g = torch.Generator().manual_seed(1)
    truth = torch.zeros(64, 72, dtype=torch.complex64)
    mean = torch.complex(*(5 * torch.randn(2, 64, 72, generator=g)))
    found = report._truth(report.Case(data(input=mean, mean=mean, truth=truth, sample_count=None)))
    ratio = float(found["calibration"]["rows"][0][1].split()[0])
    assert ratio == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"channels": ("r", "g")}, "channels"),
        ({"channels": ("a", "a", "b")}, "channels"),
        ({"channels": ()}, "channels"),
        ({"truth": torch.zeros(3, 64, 72, dtype=torch.complex64)}, "truth"),
        ({"sd": torch.ones(3, 64, 72, dtype=torch.complex64)}, "sd"),
    ],
)
def test_channels_and_kinds_must_agree(changes, where):
    with pytest.raises(InputError, match=where):
        several(3, **{"channels": ("r", "g", "b"), **changes})


def test_units_choose_the_window():
    assert "window center 40, width 400" in words(report.render(data(window=None)))
    assert "automatic window" in words(report.render(data(window=None, unit="mm")))


def test_instrument_curves_have_their_units():
    mtf = Curve.isotropic([0, 0.2, 0.5], [1, 0.5, 0.1], "1")
    nps = Curve(((0.0, 0.5), (0.0, 0.2, 0.5)), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), "HU^2 mm^2")
    html = report.render(data(mtf=mtf, nps=nps))
    assert "MTF: " not in words(html)
    assert ">NPS / (HU² mm²)<" in html
    assert ">MTF<" in html
    assert {">across<", ">down<"} <= set(re.findall(">across<|>down<", html))


def test_the_curves_of_a_restoration_are_those_of_its_process(tmp_path):
    model = make_model(tmp_path)
    mtf, nps = _curves(model)
    process = model.denoiser.process.on((256, 256))
    along = process.basis.radius()[0].numpy()
    for curve, values in ((mtf, process.measurement.h), (nps, process.measurement.s2 * model.intensity.scale**2)):
        assert curve.frequency[0][0] == 0
        assert curve.frequency[0][-1] == 0.5
        exact = values.expand(process.basis.radius().shape)[0].numpy()
        assert np.allclose(np.interp(along, curve.frequency[0], curve.value), exact, atol=0.01 * exact.max())
    assert (mtf.unit, nps.unit) == ("1", "HU^2 mm^2")


# ---- the page of an evaluation -----------------------------------------------------------------------------------


def evaluated():
    """A record of two methods, as `retrodict.tasks.evaluate` makes it."""

    def summary(value):
        return {"rmse": {"value": value, "lower": value - 1, "upper": value + 1}}

    difference = {"method": "b", "metric": "rmse", "difference": 2.0, "lower": 1.0, "upper": 3.0}
    difference |= {"p_value": 0.01, "n": 8}
    noise = {"frequency": [0.1, 0.2, 0.3], "value": [5000.0, 9000.0, 6000.0]}
    return {
        "name": "<b>comparison</b>",
        "date": "2026-01-01",
        "images": 3,
        "names": ["x", "y", "z"],
        "who": "3 images, patients: not told",
        "patients": None,
        "slices": 3,
        "items": "images",
        "unit": "HU",
        "columns": ["rmse"],
        "reference": "a",
        "methods": [
            {"name": "a", "kind": "posterior", "summary": summary(10.0), "nps": noise},
            {"name": "b", "kind": "point", "summary": summary(12.0), "nps": noise},
        ],
        "differences": [difference, {**difference, "lower": -1.0, "p_value": 0.4}],
        "config": {"truth": ["t"], "measured": None, "methods": [{"name": "a", "path": "p"}], "bands": 4},
        "versions": {"retrodict": "0"},
    }


def evaluation_page():
    image = np.arange(64, dtype=np.float32).reshape(8, 8)
    pictures = {"truth": image, "mean:a": image + 1, "mean:b": image * 1.1, "sd:a": np.ones_like(image)}
    return evaluation.render(evaluated(), pictures, {"rmse": ("RMSE", "root mean squared error")})


def test_the_table_of_differences_says_yes_or_no():
    html = evaluation_page()
    table = re.search('<section id="differences">.*?</section>', html, re.DOTALL)
    assert table
    assert re.findall(r"<td>(\w+)</td></tr>", table[0]) == ["yes", "no"]
    assert "built-in method" not in html


def test_the_page_of_an_evaluation_holds_everything_and_no_formula():
    html = evaluation_page()
    assert "<b>comparison" not in html
    assert titles(html) == ["truth", "a", "b", "a: error", "b: error", "a: stated deviation"]
    text = words(html)
    for word in ("methods.a.path", "bands", "differs", "not for diagnosis"):
        assert word in text, word
    assert "config.measured" not in text  # what was not given is left out
    assert "mathdefault" not in html


# ---- words -------------------------------------------------------------------------------------------------------


def test_records_become_rows():
    record = {"a": {"b": None, "c": [1, 2.5]}, "list": [{"name": "x", "v": True}, {"v": 1e-9}], "none": ""}
    assert page.rows(record) == [
        ("a.b", "not given"),
        ("a.c", "1, 2.5"),
        ("list.x.name", "x"),
        ("list.x.v", "yes"),
        ("list.1.v", "1e-09"),
        ("none", ""),
    ]
    assert [name for name, _ in page.rows(record, skip_empty=True)] == ["a.c", "list.x.name", "list.x.v", "list.1.v"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0, "0"), (0.5, "0.500"), (-1234.4, "−1234"), (99.96, "100"), (1e-5, "1.00e−05"), (float("inf"), "∞")],
)
def test_numbers_have_three_digits(value, text):
    assert page.number(value) == text
