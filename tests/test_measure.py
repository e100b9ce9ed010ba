"""From scans to curves with provenance, and the curves into fit, restore and processes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models import make_model, scan
from retrodict import Curve, FourierProcess, InputError, NotCalibratedError
from retrodict.cli.app import app
from retrodict.models.instrument import model_with_instrument, own_curves
from retrodict.tasks.measure import measure_mtf, measure_nps
from retrodict.tasks.restore import restore

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
D = 0.5


def noise(count, seed, side=128):
    f = torch.fft.fftfreq(side, D, dtype=torch.float64)
    rho = torch.hypot(f[:, None], f[None])
    root = 60 * (rho + 0.1) * torch.exp(-((rho / 0.5) ** 2)) + 2
    z = torch.randn(count, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.fft.ifft2(torch.fft.fft2(z) * root / D).real, root**2


def save(path, stack, unit="HU"):
    np.savez(path, **{unit.lower() if unit == "HU" else "image": np.asarray(stack, np.float32)},
             pixel_spacing_mm=np.array([D, D]))  # fmt: skip
    return path


@pytest.fixture
def scans(tmp_path):
    """Four repeats of a structured object of three slices."""
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    structure = 400.0 * ((rows - 50) ** 2 + (columns - 60) ** 2 < 35**2).double()
    return [save(tmp_path / f"scan{k}.npz", structure + noise(3, k)[0]) for k in range(4)]


def truth_at(frequency):
    return (60 * (frequency + 0.1) * np.exp(-((frequency / 0.5) ** 2)) + 2) ** 2


def compare(record, factor=1.0, tolerance=0.15):
    f, v = np.array(record["frequency"]), np.array(record["value"])
    use = f > record["summary"]["compare_with_truth_only_above"]
    assert np.abs(v[use] / truth_at(f[use]) / factor - 1).mean() < tolerance


def test_uniform_scan(tmp_path):
    path = save(tmp_path / "water.npz", noise(4, 0)[0])
    m = measure_nps(path)
    compare(m.record)
    assert abs(m.record["summary"]["integral_over_variance_minus_1"]) < 1e-12
    assert not m.record["whiteness"]["white"]
    assert m.record["frequency"][-1] == pytest.approx(0.5 / D)
    assert m.record["provenance"]["files"][0]["name"] == "water.npz"
    assert len(m.record["provenance"]["files"][0]["sha256"]) == 64
    process = FourierProcess.from_measurement(Curve.isotropic([0, 2], [1, 1], "1"), m.record, (D, D), (32, 32))
    variance = float(process.measurement.s2.mean())
    assert variance == pytest.approx(float(noise(40, 1)[0].var()), rel=0.1)  # noise in the unit of the data comes back
    plane = Curve.parse(m.record["plane"], "nps").on(process.basis)
    assert float(plane.mean()) / D**2 == pytest.approx(variance, rel=0.1)


def test_repeats_and_half_dose(scans):
    compare(measure_nps(scans, repeats="scans").record)
    compare(measure_nps(scans[:2], repeats="scans").record)
    compare(measure_nps(scans[:2], repeats="half-dose").record, factor=0.5)
    with pytest.raises(InputError, match="structure"):
        measure_nps(scans[0], regions=[(0, 0), (40, 80)])


def test_what_is_wrong_with_repeats(scans, tmp_path):
    with pytest.raises(InputError, match="at least 2 repeated scans"):
        measure_nps(scans[:1], repeats="scans")
    with pytest.raises(InputError, match="identical"):
        measure_nps([scans[0], scans[0]], repeats="scans")
    with pytest.raises(InputError, match="exactly 2 half-dose"):
        measure_nps(scans[:3], repeats="half-dose")
    moved = save(tmp_path / "moved.npz", np.roll(np.load(scans[1])["hu"], 12, 2))
    with pytest.raises(InputError, match="differ by noise"):
        measure_nps([scans[0], moved], repeats="scans", regions=[(40, 84), (80, 4)])
    other = save(tmp_path / "other.npz", noise(3, 1, side=64)[0])
    with pytest.raises(InputError, match="grid and unit"):
        measure_nps([scans[0], other], repeats="scans")


def test_missing_spacing_and_small_images_say_so(tmp_path):
    bare = tmp_path / "bare.npz"
    np.savez(bare, hu=np.asarray(noise(2, 0)[0], np.float32))
    with pytest.raises(InputError, match="spacing"):
        measure_nps(bare)
    assert measure_nps(bare, spacing=(D, D)).record["summary"]["unit"] == "HU"
    with pytest.raises(InputError, match="region size"):
        measure_nps(save(tmp_path / "small.npz", noise(2, 0, side=32)[0]))


def edge_file(path, noise_sd=5.0):
    rows, columns = np.indices((160, 120)) - np.array([80, 60.2])[:, None, None]
    distance = columns * math.cos(math.radians(4)) - rows * math.sin(math.radians(4))
    image = 500 * torch.special.erf(torch.from_numpy(distance / (0.8 * 2**0.5))).numpy() + 500
    return save(path, image[None] + noise_sd * np.random.default_rng(0).standard_normal((1, 160, 120)))


def test_edge_to_process_and_fit_config(tmp_path):
    m = measure_mtf(edge_file(tmp_path / "edge.npz"))
    s = m.record["summary"]
    assert s["mtf50"]["lower"] < 0.1873906251 / 0.8 / D < s["mtf50"]["upper"]
    files = m.save(tmp_path / "mtf.json")
    assert [f.suffix for f in files] == [".json", ".png"]
    assert files[1].read_bytes()[:4] == b"\x89PNG"
    nps = measure_nps(save(tmp_path / "water.npz", noise(4, 0)[0]))
    nps.save(tmp_path / "nps.json", plot=False)
    process = FourierProcess.from_measurement(tmp_path / "mtf.json", tmp_path / "nps.json", (D, D))
    assert process.markov
    with pytest.raises(InputError, match="found a measured NPS; expected a measured MTF"):
        FourierProcess.from_measurement(tmp_path / "nps.json", tmp_path / "nps.json", (D, D))
    with pytest.raises(InputError, match="earlier run"):
        m.save(tmp_path / "mtf.json")
    from retrodict.models.model import Intensity
    from retrodict.tasks.fit import _instrument

    record = {"name": "measured", "options": {"mtf": "mtf.json", "nps": "nps.json"}}
    filled = _instrument(record, Intensity("HU", 200.0, 0.0), tmp_path)
    assert filled["options"]["nps"]["unit"] == "HU^2 mm^2"
    assert filled["options"]["unit_scale"] == 200.0


def test_resampled_measurement_is_at_the_new_spacing(tmp_path):
    path = save(tmp_path / "water.npz", noise(4, 0)[0])
    m = measure_nps(path, at=1.0, size=16)
    assert m.record["provenance"]["resampled_to_mm"] == 1.0
    assert m.record["frequency"][-1] == pytest.approx(0.5)
    assert m.record["summary"]["noise_sd"] < measure_nps(path).record["summary"]["noise_sd"]


# ---- into restore ----


def test_model_with_its_own_curves_is_the_model(tmp_path):
    model = make_model(tmp_path, zero=False)
    mtf, nps = own_curves(model.denoiser.process, 100.0)
    bound, agreement = model_with_instrument(model, mtf)
    assert agreement.holds
    assert agreement.noise_ratio == pytest.approx(1, abs=0.02)
    x = torch.randn(1, 1, 32, 32)
    t = torch.tensor([0.7], dtype=torch.float64)
    assert torch.allclose(bound.denoiser(x, t), model.denoiser(x, t), atol=0.05)
    assert nps.value[0] > 0


def test_restore_with_measured_curves_is_exact_in_the_gaussian_part(tmp_path):
    """A network that answers zero: the posterior mean is the Wiener filter of the *measured* law."""
    model = make_model(tmp_path, bands=0)
    image = scan((80, 80), seed=5, noise=math.sqrt(1.4))
    f = torch.linspace(0, 0.75, 60)
    _, own = own_curves(model.denoiser.process, 100.0)
    nps = Curve.isotropic(own.frequency[0], [1.4 * v for v in own.value], "HU^2 mm^2")
    result = restore(image, model=model, nps=nps, samples=100, steps=1)
    assert result.sd is not None

    def distance(bound):
        """From the Wiener filter in the middle, far from the border, in a tenth of the deviation."""
        padded = torch.nn.functional.pad(image.values[None] / 100.0, (16, 16, 16, 16), mode="reflect")
        found = bound.denoiser.on((112, 112)).gaussian()(padded, torch.ones(1, dtype=torch.float64))
        error = (result.mean.values - 100 * found[0, :, 16:96, 16:96]) / (result.sd.values / 10)
        return float(error[:, 24:56, 24:56].square().mean().sqrt())

    assert distance(model_with_instrument(model, nps=nps)[0]) < 0.1
    assert distance(model) > 0.9
    assert result.details["instrument"]["noise_ratio"] == pytest.approx(1.4, abs=0.03)
    far = Curve.isotropic(f, torch.full((60,), 5e5), "HU^2 mm^2")
    with pytest.raises(NotCalibratedError, match="start_from"):
        restore(image, model=model, nps=far)
    point = restore(image, model=model, nps=far, uncertainty=False)
    assert point.sd is None
    assert not point.details["instrument"]["calibration_holds"]
    with pytest.raises(InputError, match="unit of the model"):
        restore(image, model=model, nps=Curve.isotropic(f, torch.ones(60), "counts^2 mm^2"))


# ---- the command line ----


def test_command_line(tmp_path):
    run = CliRunner()
    water = save(tmp_path / "water.npz", noise(4, 0)[0])
    result = run.invoke(app, ["measure", "nps", str(water), "-o", str(tmp_path / "nps.json")])
    assert result.exit_code == 0, result.output
    assert "noise" in result.output
    assert (tmp_path / "nps.png").exists()
    edge = edge_file(tmp_path / "edge.npz")
    box = ["--region", "10:150,20:100"]
    result = run.invoke(app, ["measure", "mtf", str(edge), *box, "-o", str(tmp_path / "mtf.json")])
    assert result.exit_code == 0, result.output
    assert "50 % at" in result.output
    record = json.loads((tmp_path / "mtf.json").read_text())
    assert record["provenance"]["region"] == [10, 150, 20, 100]
    bad = run.invoke(app, ["measure", "mtf", str(edge), "--region", "10:150", "-o", str(tmp_path / "x.json")])
    assert bad.exit_code == 2  # usage
    assert "--region" in bad.output
    assert not (tmp_path / "x.json").exists()


# ---- real scans ----


def real(*parts):
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real data {path.name} is not there")
    return path


def test_head_phantom():
    path = real("ct_headphantom_philips", "head_phantom_5mm_hu.npz")
    m = measure_nps(path, regions=[(262, 232)], slices=(0, 7))
    assert 2 < m.record["summary"]["noise_sd"] < 6
    r = measure_mtf(path, kind="disc", region=(136, 237, 154, 255), slices=(16, 17), half_width=20)
    assert 0.2 < r.record["summary"]["mtf50"]["value"] < 0.4
    with pytest.raises(InputError, match="cylinder"):  # the insert is a sphere
        measure_mtf(path, kind="disc", region=(136, 237, 154, 255), slices=(15, 18), half_width=20)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("ct_body_totalsegmentator/example_ct_dicom_hu.npz", 8, 16), ("ct_head_ge", 2, 6), ("ct_abdomen_dcmqi", 20, 45)],
)
def test_uniform_parts_of_patients(name, low, high):
    m = measure_nps(real(*name.split("/")))
    assert low < m.record["summary"]["noise_sd"] < high
    assert not m.record["whiteness"]["white"]
    if name == "ct_head_ge":
        assert m.record["provenance"]["acquisition"]["kernel"] == "STD+"
        assert "PatientName" not in json.dumps(m.record)


def test_another_format_gives_the_same_noise(tmp_path):
    """NIfTI, with its spacing from the file."""
    nibabel = pytest.importorskip("nibabel")
    field = noise(3, 0)[0].float()[None]
    nibabel.save(nibabel.Nifti1Image(field[0].permute(2, 1, 0).numpy(), np.diag([D, D, 1, 1])), tmp_path / "a.nii.gz")
    m = measure_nps(tmp_path / "a.nii.gz", unit="HU")
    assert m.record["summary"]["noise_sd"] == pytest.approx(float(field.std()), rel=0.1)


# ---- regions in pixels of the file, overlap, non-square pixels ----


def test_a_region_counts_pixels_of_the_file_whatever_the_spacing(tmp_path):
    """Loud noise in one quadrant: the region must fall there with and without resampling."""
    stack = noise(3, 0)[0]
    stack[:, 64:, 64:] *= 5
    path = save(tmp_path / "a.npz", stack)
    loud, quiet = [(70, 70), (70, 90)], [(6, 6), (6, 30)]
    for at, size in ((None, 16), (1.0, 8)):
        both = [measure_nps(path, regions=r, size=size, at=at).record["summary"]["noise_sd"] for r in (loud, quiet)]
        assert both[0] == pytest.approx(5 * both[1], rel=0.25)
    with pytest.raises(InputError, match="pixels of the file"):
        measure_nps(path, regions=[(120, 6)], size=8, at=1.0)
    record = measure_nps(path, regions=[(2, 6, 6), (1, 6, 6)], slices=(1, 3), size=16).record
    assert record["provenance"]["regions"][0].startswith("slice 2, rows 6:22")
    with pytest.raises(InputError, match="counted in the file"):
        measure_nps(path, regions=[(0, 6, 6), (1, 6, 6)], slices=(1, 3), size=16)


def test_a_box_counts_pixels_of_the_file_too(tmp_path):
    path = edge_file(tmp_path / "edge.npz")
    values = [measure_mtf(path, region=(10, 150, 20, 100), at=at, bootstrap=20).record for at in (None, 0.625)]
    half = [v["summary"]["mtf50"]["value"] for v in values]
    assert half[1] < half[0]
    with pytest.raises(InputError, match="160 x 120 pixels of the file"):
        measure_mtf(path, region=(10, 150, 20, 130), at=0.625)


def test_slices_that_overlap_widen_the_band_and_are_named(tmp_path):
    z = np.random.default_rng(0).normal(0, 20, (16, 80, 80))
    shared = np.stack([z[i : i + 5].mean(0) for i in range(12)]) * 5**0.5
    places = [(4, 4), (4, 42), (42, 4), (42, 42)]
    free, bound = (
        measure_nps(save(tmp_path / f"{k}.npz", v), regions=places).record for k, v in (("a", z[:12]), ("b", shared))
    )
    assert free["summary"]["independent_regions"] == pytest.approx(48, rel=0.02)
    assert bound["summary"]["independent_regions"] < 24
    assert bound["summary"]["correlation_of_slices"][:2] == pytest.approx([0.8, 0.6], abs=0.05)
    width = [np.mean(np.log(np.array(r["upper"]) / r["lower"])) for r in (free, bound)]
    assert width[1] / width[0] > 1.35


def test_columns_have_lags_of_their_own(tmp_path):
    stack = np.random.default_rng(0).normal(0, 20, (2, 96, 96)).astype("f4")
    np.savez(tmp_path / "a.npz", image=stack, spacing=np.array([1, 2.0, 0.5]), unit=np.array("HU"))
    lags = measure_nps(tmp_path / "a.npz").record["autocorrelation"]
    assert lags["lag_mm"][:3] == [0, 0.5, 1.0]
    assert lags["lag_columns_mm"][:3] == [0, 2.0, 4.0]


def test_the_smallest_size_finds_regions(tmp_path):
    m = measure_nps(save(tmp_path / "water.npz", noise(1, 0)[0]), size=8)
    assert m.record["summary"]["regions"] > 10


def test_the_search_on_the_head_phantom_finds_noise_and_no_skull():
    record = measure_nps(real("ct_headphantom_philips", "head_phantom_5mm_hu.npz")).record
    assert 1.5 < record["summary"]["noise_sd"] < 5
