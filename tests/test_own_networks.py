"""The program that trains a network for each process: jobs, images and figures, without a patient."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import own_data
import own_networks
import own_tables
from own_data import INTENSITY, SIDE, Bank
from own_networks import Job, Measured, Settings
from retrodict import InputError
from retrodict.bases.spectrum import Spectrum
from retrodict.data.collection import Slice
from retrodict.data.image import Image
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.spread_scale import SpreadScale
from retrodict.processes import PROCESSES


def bank(patches=5, crops=3):
    """White images about 0 HU and a flat spectrum."""
    draw = torch.Generator().manual_seed(0)
    training, held, truth = (5 + torch.randn(n, 1, SIDE, SIDE, generator=draw) for n in (patches, patches, crops))
    return Bank(training, held, truth, [f"p{n // 2}" for n in range(crops)], Spectrum.flat(5.0, 1.0))


# ---- jobs ------------------------------------------------------------------------------------------------------------


def test_jobs_are_twelve_processes_and_more_on_three_tasks():
    jobs = own_networks.every_job()
    assert len({j.name for j in jobs}) == len({j.folder for j in jobs}) == len(jobs)
    for task in own_networks.TASKS:
        names = [j.process for j in jobs if (j.kind, j.task) == ("process", task)]
        assert len(names) >= 12
        assert set(names) <= set(PROCESSES)


def test_jobs_are_chosen_by_pattern():
    assert [j.name for j in own_networks.chosen(["mixer|*"])] == ["mixer|fourier", "mixer|scalar"]
    assert own_networks.chosen([]) == own_networks.every_job()
    with pytest.raises(InputError, match="proces"):
        own_networks.chosen(["proces|*"])


def test_the_terminal_network_sees_no_measurement_and_the_others_do():
    for job in own_networks.chosen(["process|deblur|*", "capacity|*|10"]):
        process = own_networks.process_of(job, bank())
        assert process.pairing.sees == (job.process != "measured")
        assert process.measurement is not None


def test_super_resolution_passes_a_quarter_of_the_frequencies():
    end = own_networks.end_of("super4")
    assert end.measurement is not None
    h, s2 = end.measurement.h, end.measurement.s2
    radius = end.basis.radius()
    assert float(h[0, 0]) == pytest.approx(1.0)
    assert float(h[0, 8]) == pytest.approx(0.05, rel=1e-3)  # a quarter of Nyquist, 0.125 /mm
    assert float(h[radius > 0.2].max()) < 2e-3
    assert float(s2.sqrt().mean()) * INTENSITY.scale == pytest.approx(2.0)


# ---- images ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_its_keys_and_a_turn_of_a_patch():
    images = bank()
    draw = images.batch()
    keys = list(range(40))
    whole = draw(keys)
    assert torch.equal(whole[7:9], draw(keys[7:9]))
    assert len({tuple(x.flatten()[:6].tolist()) for x in whole}) == 40  # 5 patches in 8 ways
    for key, x in zip(keys, whole, strict=True):
        assert torch.equal(x.flatten().sort().values, images.training[key % 5].flatten().sort().values)


def _slice(spacing, n):
    return Slice("p", Image(torch.rand(1, n, n), "HU", (spacing, spacing)))


@pytest.mark.parametrize(
    ("spacing", "n", "side"), [(0.977, 80, 80), (0.5, 160, 80), (1.2, 200, None), (0.5, 100, None)]
)
def test_slices_come_to_one_millimetre(spacing, n, side):
    found = own_data.at_spacing(_slice(spacing, n))
    assert (None if found is None else found.image.values.shape[-1]) == side
    assert found is None or found.spacing == (1.0, 1.0)


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_levels_rise_or_are_left_out():
    scale = own_networks.rising(SpreadScale((-2.0, -1.0, -1.0, -0.9999), tuple((float(i + 1),) for i in range(4))))
    assert scale.level == (-2.0, -1.0)
    assert scale.factor == ((1.0,), (2.0,))
    flat = own_networks.rising(SpreadScale((-1.0, -1.0), ((2.0,), (3.0,))))
    assert flat.log_at(torch.tensor([-5.0, -1.0, 3.0])).flatten().tolist() == pytest.approx([np.log(2.0)] * 3)


def test_the_exact_denoiser_of_white_images_is_the_wiener_filter():
    """Its error over Wiener is 1 at every time, its spread that of its error, and the rows are in HU^2."""
    images = bank(crops=4)
    job = own_networks.chosen(["process|low-dose|vp"])[0]
    exact = GaussianDenoiser(own_networks.process_of(job, images), spectrum=images.spectrum)
    found = Measured(job.task, images, "cpu")
    rows = found.denoised(exact, 0.5)  # type: ignore[arg-type]
    assert [r["patient"] for r in rows] == images.patients
    assert all(r["error"] == r["wiener"] for r in rows)
    drawn = found.restored(exact, "matched", 4, 12)  # type: ignore[arg-type]
    error, spread = (own_tables.ratios(drawn, "error", below) for below in ("wiener", "variance"))
    assert list(error) == ["p0", "p1"]
    assert np.mean(list(error.values())) == pytest.approx(1.0, abs=0.03)
    assert np.mean(list(spread.values())) == pytest.approx(1.0, abs=0.03)
    assert np.mean([r["single"] / r["wiener"] for r in drawn]) == pytest.approx(2.0, abs=0.06)


def test_a_rule_that_is_not_defined_says_why():
    images = bank(crops=1)
    job = own_networks.chosen(["process|low-dose|rddm"])[0]
    exact = GaussianDenoiser(own_networks.process_of(job, images), spectrum=images.spectrum)
    rows = Measured(job.task, images, "cpu").restored(exact, "sde_dpmpp2m", 4, 2)  # type: ignore[arg-type]
    assert "not Markov" in rows[0]["undefined"]
    assert own_tables.cell(rows) == "not defined"
    assert own_tables.ratios(rows, "error", "wiener") == {}


def test_ratios_are_of_sums_over_the_crops_of_a_patient():
    rows = [{"patient": "a", "error": 1.0, "wiener": 1.0}, {"patient": "a", "error": 5.0, "wiener": 2.0}]
    assert own_tables.ratios(rows, "error", "wiener") == {"a": 2.0}


def test_a_job_is_trained_measured_and_then_left_alone(tmp_path, capsys):
    job, images = Job("capacity", "paper", "measured", "unet", 2), bank(crops=2)
    settings = Settings(tmp_path, "cpu", 2, 2, 2, 9, 0, keep=False)
    own_networks.perform(job, images, settings)
    path = tmp_path / job.folder / "figures.json"
    rows = json.loads(path.read_text())["rows"]
    assert list(rows) == own_networks.rows_of(job)
    assert rows["network"]["parameters"] > 0
    assert not (tmp_path / job.folder / "network").exists()
    assert "done" in capsys.readouterr().out
    own_networks.perform(job, images, settings)
    assert capsys.readouterr().out == ""


def test_no_time_left_is_said_and_kept(tmp_path):
    settings = Settings(tmp_path, "cpu", 2, 2, 2, 9, 0, keep=False, until=0.0)
    with pytest.raises(own_networks.OutOfTime):
        own_networks.perform(Job("capacity", "paper", "measured", "unet", 2), bank(), settings)
