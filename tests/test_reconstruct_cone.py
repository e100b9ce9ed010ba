"""Cone beams in files: a ball in closed form becomes its attenuation where it lies, by FDK and by iterations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tifffile
import torch

import retrodict
from retrodict import InputError
from retrodict.physics import ConeBeam, Projection, even_angles
from retrodict.tasks.recon_cost import _sample
from retrodict.tasks.recon_options import ReconstructOptions
from retrodict.tasks.reconstruct import ReconstructJob
from shell import retrodict as run

VIEWS, ROWS, COLUMNS = 90, 15, 41
PITCH, ROW_PITCH, SOURCE, DETECTOR = 1.6, 2.6, 160.0, 240.0
MU, RADIUS, PLACE = 0.02, 8.0, (3.0, -2.0, 2.0)
CENTER, ROW_CENTER = 20.4, 4.5  # from 0; the middle is 20 and 7
SCAN = {
    "beam": "cone",
    "angles": {"start": 0, "step": 360 / VIEWS},
    "angle_unit": "deg",
    "pitch": PITCH,
    "row_pitch": ROW_PITCH,
    "source": SOURCE,
    "detector": DETECTOR,
    "center": CENTER,
    "row_center": ROW_CENTER,
}
IMAGE = {"size": 25, "spacing": 1.0, "slices": 9, "slice_spacing": 1.4}


def projections(views=VIEWS):
    """`(views, rows, columns)` written out: a source at (-sin b, cos b), columns along (cos b, sin b)."""
    b = (2 * math.pi * np.arange(views) / views)[:, None, None]
    u = ((np.arange(COLUMNS) - CENTER) * PITCH)[None, None, :]
    v = ((np.arange(ROWS) - ROW_CENTER) * ROW_PITCH)[None, :, None]
    spot = np.stack(np.broadcast_arrays(-SOURCE * np.sin(b), SOURCE * np.cos(b), 0 * b), -1)
    along = np.stack(
        np.broadcast_arrays(
            u * np.cos(b) + DETECTOR * np.sin(b) + 0 * v, u * np.sin(b) - DETECTOR * np.cos(b) + 0 * v, v + 0 * u * b
        ),
        -1,
    )
    along = along / np.linalg.norm(along, axis=-1, keepdims=True)
    gap = np.array(PLACE) - spot
    distance = np.linalg.norm(np.cross(gap, along), axis=-1)
    return 2 * MU * np.sqrt(np.clip(RADIUS**2 - distance**2, 0, None))


def config(**changes):
    return {
        "problem": "tomography",
        "data": "p",
        "axes": ["view", "row", "bin"],
        "scan": SCAN,
        "image": IMAGE,
        **changes,
    }


def scanned(**changes):
    return {**SCAN, **changes}


def deep(image, away=1.8):
    """Voxels inside the ball."""
    axes = zip(image.values.shape[1:], image.spacing, strict=True)
    z, y, x = ((torch.arange(n).double() - (n - 1) / 2) * d for n, d in axes)
    far = (x - PLACE[0]) ** 2 + (-y[:, None] - PLACE[1]) ** 2 + (z[:, None, None] - PLACE[2]) ** 2
    return far.sqrt() < RADIUS - away


def error(done):
    found = done.image.values[0].double()[deep(done.image)]
    return float((found - MU).abs().mean()) / MU


def test_a_ball_comes_back_by_feldkamp():
    done = retrodict.reconstruct({"p": projections()}, config=config())
    assert done.method == "fdk"
    assert done.image.values.shape == (1, 9, 25, 25)
    assert done.image.spacing == pytest.approx((1.4, 1.0, 1.0))
    assert error(done) < 0.01


def test_rows_that_run_the_other_way_and_axes_in_another_order():
    p = projections()[:, :, ::-1].transpose(1, 0, 2)
    scan = scanned(reversed=True, center=COLUMNS - 1 - CENTER)
    done = retrodict.reconstruct({"p": p}, config=config(scan=scan, axes=["row", "view", "bin"]))
    assert error(done) < 0.01


@pytest.mark.parametrize(("method", "rounds"), [("sirt", 60), ("cgls", 6)])
def test_iterations_find_the_ball_too(method, rounds):
    scan = scanned(angles={"start": 0, "step": 12})
    done = retrodict.reconstruct(
        {"p": projections(30)}, config=config(scan=scan, image={**IMAGE, "slices": 19}), method=method,
        set={"iterations": rounds},
    )  # fmt: skip
    assert error(done) < 0.06


def test_counts_are_divided_by_flats_and_darks_row_by_row():
    rng = np.random.default_rng(0)
    beam = 30000 * (1 + 0.3 * np.sin(np.arange(ROWS)[:, None] + np.arange(COLUMNS)))
    read = rng.poisson(beam * np.exp(-projections())) + 50.0
    flats, darks = rng.poisson(beam, (10, ROWS, COLUMNS)) + 50.0, 50 + rng.normal(0, 2, (10, ROWS, COLUMNS))
    arrays = {"p": read, "flats": flats, "darks": darks}
    counts = {"flats": "flats", "darks": "darks"}
    done = retrodict.reconstruct(arrays, config=config(counts=counts, noise={"gain": 1.0}))
    inside = done.image.values[0].double()[deep(done.image)]
    assert float(inside.mean()) == pytest.approx(MU, rel=0.03)
    part = done.acquired.part(0, True)
    assert part.noise.transmission.dose.numpy() == pytest.approx((flats - darks).mean(0), rel=1e-6)
    truth = torch.from_numpy(projections())[None, None]
    rest = part.y.double() - truth
    assert float((rest / part.noise.variance(truth).sqrt()).std()) == pytest.approx(1, abs=0.07)


def test_a_stack_of_pages_on_the_command_line(tmp_path):
    tifffile.imwrite(tmp_path / "cone.tif", projections().astype("f4"))
    fields = [f"scan.{k}={v}" for k, v in SCAN.items() if k != "angles"] + ["scan.angles={start: 0, step: 4}"]
    fields += [f"image.{k}={v}" for k, v in IMAGE.items()] + ["counts.kind=line_integrals"]
    flags = [text for field in fields for text in ("--field", field)]
    found = run("reconstruct", tmp_path / "cone.tif", "-o", tmp_path / "out", "--problem", "tomography", *flags)
    assert found.returncode == 0, found.stderr
    assert "fdk, a point estimate" in found.stdout
    image = retrodict.read(tmp_path / "out" / "cone_image.nii.gz", expect=None)
    assert image.values.shape[1:] == (9, 25, 25)
    assert "Projection" in (tmp_path / "out" / "cone_report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scan": scanned(curved=True)}, "scan.curved: found true, for a cone beam"),
        ({"scan": scanned(row_center=15)}, "scan.row_center: found 15"),
        ({"scan": scanned(center="find")}, "scan.center: found find"),
        ({"scan": scanned(source=None)}, "scan.source: found none"),
        ({"scan": scanned(angles={"start": 0, "step": 9})}, "angles"),
        ({"slices": [0, 1]}, "slices: found"),
        ({"axes": ["view", "slice", "bin"]}, "view, bin and row"),
        ({"corrections": {"hardening": {"fit": "disc"}}}, "hardening.fit"),
        ({"image": {**IMAGE, "size": 400}}, "ConeBeam source"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        retrodict.reconstruct({"p": projections()}, config=config(**changes))


def test_a_sinogram_is_no_cone():
    with pytest.raises(InputError, match="two axes"):
        retrodict.reconstruct({"p": projections()[:, 7]}, config=config(axes=None))


def test_the_cost_of_a_cone_whose_weights_are_not_kept_is_that_of_a_few_views():
    operator = Projection((4, 9, 9), ConeBeam(even_angles(10, 2 * math.pi), (3, 9), (1.0, 1.0), 50.0, 80.0), memory=0.0)
    small, share = _sample(operator)
    assert (small.geometry.views, share) == (4, 2.5)
    assert _sample(Projection((4, 9, 9), operator.geometry))[1] == 1
    job = ReconstructJob.of({"p": projections()}, ReconstructOptions(config=config()))
    assert job.cost["seconds"] > 0
