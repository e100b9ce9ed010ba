"""The HTML report: self-contained, honest about point estimates, safe, all or nothing."""

from __future__ import annotations

import re

import pytest
import torch

from retrodict import InputError
from retrodict.report import restoration as report


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
