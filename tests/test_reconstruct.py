"""`reconstruct`: raw measurements in, images out; what cannot be used is said before the work, with the figure."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import retrodict
from retrodict import CartesianMRI, GaussianNoise, Image, InputError, Measurement, ParallelBeam, Radon, even_angles
from retrodict.data.raw import open_raw
from retrodict.physics import birdcage
from retrodict.physics.classics import CLASSICS
from retrodict.physics.classics.result import closed
from retrodict.tasks.recon_methods import Method
from retrodict.tasks.recon_options import ReconstructOptions, described
from retrodict.tasks.reconstruct import ReconstructJob
from retrodict.tasks.resume import Parts
from shell import retrodict as run

VIEWS, BINS, PITCH = 60, 64, 0.5
DEGREES = [3.0 * k for k in range(VIEWS)]
SCAN = {"pitch": PITCH, "angles": "angles", "angle_unit": "deg"}


def disc(n=64, center=(4.0, -3.0), radius=9.0, pixel=PITCH, value=0.02):
    at = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pixel
    return value * (((at - center[0]) ** 2 + (-at[:, None] - center[1]) ** 2) < radius**2).double()


def line_integrals(axis_bin=(BINS - 1) / 2, center=(4.0, -3.0), radius=9.0, value=0.02):
    """Of a disc, in closed form: 2 value sqrt(r^2 - d^2)."""
    s = (torch.arange(BINS, dtype=torch.float64) - axis_bin) * PITCH
    a = torch.tensor([math.radians(d) for d in DEGREES], dtype=torch.float64)[:, None]
    d = s - center[0] * a.cos() - center[1] * a.sin()
    return 2 * value * (radius**2 - d**2).clamp_min(0).sqrt()


def counts(p, photons=20000.0, gain=0.5, dark=100.0, seed=0):
    """Readings, flats and darks of a detector with a gain of its own in every bin."""
    rng = np.random.default_rng(seed)
    beam = photons * (1 + 0.2 * np.sin(np.arange(BINS)))
    read = gain * rng.poisson(beam * np.exp(-p.numpy())) + dark + rng.normal(0, 2, p.shape)
    flats = gain * rng.poisson(beam, (20, BINS)) + dark + rng.normal(0, 2, (20, BINS))
    darks = dark + rng.normal(0, 2, (20, BINS))
    return {"sinogram": read, "flats": flats, "darks": darks, "angles": np.array(DEGREES)}


def config(**changes):
    return {"problem": "tomography", "data": "sinogram", "scan": SCAN, **changes}


def sinogram(**changes):
    return {"sinogram": line_integrals().numpy(), "angles": np.array(DEGREES), **changes}


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_line_integrals_become_the_disc():
    done = retrodict.reconstruct(sinogram(), config=config())
    inside = disc(radius=7.5) > 0
    found = done.image.values[0][inside].double()
    assert done.image.unit == "1/mm"
    assert done.image.spacing == pytest.approx((PITCH, PITCH))
    assert float((found - 0.02).abs().mean()) < 0.01 * 0.02
    assert done.kind == "point"


def test_counts_are_divided_by_the_flats_and_their_noise_is_that_of_the_flats():
    arrays = counts(line_integrals())
    done = retrodict.reconstruct(arrays, config=config(counts={"flats": "flats", "darks": "darks"}))
    about = done.details["measurement"]["corrections"]
    assert about["gain"] == pytest.approx(0.5, rel=0.15)  # 20 flats of 64 bins: median of 64 variances
    assert about["photons"] == pytest.approx(20000, rel=0.15)
    part = done.acquired.part(0, True)
    clean = line_integrals()[None, None].float()
    # the mean of 20 flats adds a twentieth of the noise in air
    assert float(part.noise.misfit(clean, part.y).ratio) == pytest.approx(1.03, abs=0.15)


def test_hounsfield_units_are_those_of_the_water_that_is_given():
    grid = {"unit": "HU", "water": 0.02}
    done = retrodict.reconstruct(sinogram(), config=config(image=grid))
    assert done.image.unit == "HU"
    assert float(done.image.values[0][disc(radius=7.5) > 0].mean()) == pytest.approx(0.0, abs=10)


def test_the_axis_of_rotation_is_found_and_said():
    arrays = sinogram(sinogram=line_integrals(axis_bin=29.3).numpy())
    done = retrodict.reconstruct(arrays, config=config(scan={**SCAN, "center": "find"}))
    center = done.details["measurement"]["center"]
    assert center["bin"] == pytest.approx(29.3, abs=0.1)
    assert center["by_center_of_mass"] == pytest.approx(29.3, abs=0.1)
    assert any("axis of rotation found at bin 29.3" in n for n in done.details["notes"])
    shifted = retrodict.reconstruct(arrays, config=config())
    inside = disc(radius=7.5, n=done.image.values.shape[-1], pixel=done.image.spacing[0]) > 0
    near, far = (float((r.image.values[0][inside] - 0.02).abs().mean()) for r in (done, shifted))
    assert near < 0.3 * far


def test_dead_bins_are_left_out_by_iterations_and_filled_in_for_filters():
    arrays = counts(line_integrals())
    for name in ("sinogram", "flats", "darks"):
        arrays[name][..., 20] = 100.0
    parts = {"counts": {"flats": "flats", "darks": "darks"}}
    done = retrodict.reconstruct(arrays, config=config(**parts))
    assert done.details["measurement"]["corrections"]["dead_bins"] == 1
    assert done.acquired.part(0, True).mask is None
    mask = done.acquired.part(0, False).mask
    assert float(mask.sum()) == VIEWS * (BINS - 1)
    assert not bool(mask[..., 20].any())
    assert float((done.image.values[0][disc(radius=7.5) > 0] - 0.02).mean().abs()) < 1e-3


def test_stripes_go_and_are_said():
    stripe = 0.02 * (torch.arange(BINS) == 30)
    arrays = sinogram(sinogram=(line_integrals() + stripe).numpy())
    done = retrodict.reconstruct(arrays, config=config(corrections={"rings": 9}))
    left = done.acquired.part(0, True).y[0, 0].double() - line_integrals()
    assert float(left.mean(0)[30].abs()) < 0.1 * 0.02
    assert done.details["measurement"]["corrections"]["rings_rms"] > 0.001


def test_kspace_of_coils_with_maps_that_are_found():
    n = 48
    at = torch.linspace(-1, 1, n, dtype=torch.float64)
    image = ((at / 0.7) ** 2 + (at[:, None] / 0.8) ** 2 < 1) * (1 + 0.3 * torch.cos(4 * at))
    maps = birdcage((n, n), 6)
    full = CartesianMRI(torch.ones(n, n), maps=maps).forward(image.to(torch.complex128)[None, None])[0]
    lines = retrodict.sampling("equispaced", (n, n), 2, center=0.3).mask
    done = retrodict.reconstruct({"kspace": (full * lines).numpy()}, set={"iterations": 20})
    inside = (at / 0.6) ** 2 + (at[:, None] / 0.7) ** 2 < 1  # maps end with the object
    error = (done.image.values[0].abs()[inside] - image[inside]).norm() / image[inside].norm()
    assert done.method == "cg_sense"
    assert float(error) < 0.03
    assert done.details["measurement"]["maps"] == "found by ESPIRiT"
    given = retrodict.reconstruct({"kspace": (full * lines).numpy(), "maps": maps.numpy()}, set={"iterations": 60})
    assert float((given.image.values[0].abs() - image).norm() / image.norm()) < 1e-3


@pytest.mark.parametrize(
    ("problem", "more", "method"),
    [
        ("deblur", ["blur.fwhm=2.5"], ("fista", {"strength": 0.05, "iterations": 40})),
        ("inpaint", ["simulate.share=0.6"], ("admm", {"strength": 0.05, "iterations": 40})),
        ("super_resolution", ["factor=2"], ("fista", {"strength": 0.05, "iterations": 60})),
        ("kspace", ["simulate.acceleration=2", "simulate.coils=4"], ("cg_sense", {"iterations": 12})),
        ("tomography", ["simulate.views=90"], ("fista", {"strength": 20.0, "iterations": 60, "start": "fbp"})),
    ],
)
def test_what_is_simulated_is_reconstructed(problem, more, method):
    value = 0.02 if problem == "tomography" else 100.0
    unit, sigma = ("1/mm", 0.01) if problem == "tomography" else ("counts", 1.0)
    picture = Image.of(disc(96, value=value, radius=14.0).float(), unit=unit, spacing=0.5)
    field = [*more, f"simulate.sigma={sigma}"]
    settings = {"simulate": True, "problem": problem, "field": field, "method": method[0], "set": method[1]}
    done = retrodict.reconstruct(picture, **settings)
    assert done.error < 0.12 * value
    made = done.details["measurement"]["simulated"]
    if problem != "inpaint":
        assert done.image.values.shape[-1] == 48
        assert made["refine"] == 2
    again = retrodict.reconstruct(picture, **settings)
    assert torch.equal(done.image.values, again.image.values)


@pytest.mark.parametrize("size", [64, 66])
def test_coarse_pixels_of_kspace_lie_where_the_blocks_of_fine_ones_do(size):
    picture = Image.of(disc(size, center=(3.0, 2.0), radius=8.0, value=1.0).float(), unit="counts", spacing=0.5)
    field = ["simulate.acceleration=1", "simulate.coils=1", "simulate.sigma=1e-6", "simulate.center=0"]
    done = retrodict.reconstruct(picture, simulate=True, problem="kspace", field=field)
    at = torch.arange(size // 2, dtype=torch.float64)
    found, truth = (v.values[0].abs().double() ** 2 for v in (done.image, done.truth))
    for x in (0, 1):
        middles = [float((v.sum(x) * at).sum() / v.sum()) for v in (found, truth)]
        assert middles[0] == pytest.approx(middles[1], abs=0.02)  # a wrong half of a fine pixel would be 0.25


def test_an_inverse_crime_is_said():
    picture = Image.of(disc(96).float(), unit="1/mm", spacing=0.5)
    field = ["simulate.views=60", "simulate.dose=1e5", "simulate.same_grid=true"]
    done = retrodict.reconstruct(picture, simulate=True, problem="tomography", field=field)
    assert done.details["measurement"]["simulated"]["same_grid"] is True
    assert any("inverse crime" in n for n in done.details["notes"])
    assert done.image.values.shape[-1] == 96
    honest = retrodict.reconstruct(picture, simulate=True, problem="tomography", field=field[:2])
    assert not any("inverse crime" in n for n in honest.details["notes"])


def test_the_residual_of_the_truth_is_said_to_be_noise_and_a_wrong_image_is_not():
    picture = Image.of(disc(128).float(), unit="1/mm", spacing=0.25)
    field = ["simulate.views=60", "simulate.sigma=0.02"]
    job = ReconstructJob.of(picture, ReconstructOptions(simulate=True, problem="tomography", field=field))
    truth = job.acquired.truth[None].float()
    right = retrodict.reconstruct(
        picture, simulate=True, problem="tomography", field=field, solver=lambda m: closed(m, truth.clone())
    )
    law = right.residual.record
    assert law["ratio"] == pytest.approx(1, abs=0.08)
    assert law["rms"] == pytest.approx(math.sqrt(law["ratio"]), rel=1e-5)
    assert "as large as the noise" in law["said"]
    assert "it is white" in law["said"]
    wrong = retrodict.reconstruct(
        picture, simulate=True, problem="tomography", field=field, solver=lambda m: closed(m, 0.8 * truth)
    )
    assert "larger than the noise" in wrong.residual.record["said"]
    assert "correlated" in wrong.residual.record["said"]


def test_a_solver_of_ones_own_stands_beside_the_classics():
    scan = ParallelBeam(even_angles(30), BINS, PITCH)
    operator = Radon((64, 64), scan, spacing=(PITCH, PITCH))
    measurement = Measurement.simulate(operator, GaussianNoise.white(0.01), disc()[None, None].float(), [0])
    done = retrodict.reconstruct(measurement, solver=lambda m: CLASSICS["sirt"](m, iterations=5))
    named = retrodict.reconstruct(measurement, method="sirt", set={"iterations": 5})
    assert torch.equal(done.image.values, named.image.values)
    assert done.method == "solver"


# ---- files -----------------------------------------------------------------------------------------------------------


def written(tmp_path, **arrays):
    path = tmp_path / "scan.npz"
    np.savez(path, **(arrays or sinogram()))
    return path


@pytest.mark.parametrize("entry", ["image.size=32", "image.spacing=0.5"])
def test_pixels_that_a_simulation_would_not_take_are_refused(entry):
    image = Image.of(np.zeros((32, 32)), spacing=(1.0, 1.0), unit="HU")
    with pytest.raises(InputError, match=entry.split("=")[0] + ".*simulate.refine"):
        retrodict.reconstruct(image, problem="tomography", simulate=True, field=(entry,))


def test_results_of_another_input_of_the_same_name_are_not_replaced(tmp_path):
    """`--force` is for results of the same file, as in `restore`."""
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    settings = {"field": ("scan.pitch=0.5", "scan.angle_unit=deg"), "sigma": "0.01"}
    first, second = (written(folder) for folder in folders)
    retrodict.reconstruct(first, tmp_path / "out", **settings)
    with pytest.raises(InputError, match="results of another input"):
        retrodict.reconstruct(second, tmp_path / "out", force=True, **settings)
    retrodict.reconstruct(first, tmp_path / "out", force=True, **settings)


def test_results_have_spacing_unit_record_and_report(tmp_path):
    done = run("reconstruct", written(tmp_path), "-o", tmp_path / "out", "--field", "scan.pitch=0.5", "--field",
               "scan.angle_unit=deg", "--sigma", "0.01", "--set", "filter=hann")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fbp, a point estimate" in done.stdout
    image = retrodict.read(tmp_path / "out" / "scan_image.nii.gz", unit="1/mm")
    assert image.spacing == pytest.approx((0.5, 0.5))
    record = json.loads((tmp_path / "out" / "scan_reconstruct.json").read_text())
    assert record["settings"] == {"filter": "hann"}
    assert record["slices"][0]["misfit"] > 0
    page = (tmp_path / "out" / "scan_report.html").read_text()
    assert all(word in page for word in ("Reconstruction", "Sinogram", "Residual", "Whiteness", "fbp"))
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    again = run("reconstruct", written(tmp_path), "-o", tmp_path / "out", "--field", "scan.pitch=0.5", "--field",
                "scan.angle_unit=deg")  # fmt: skip
    assert again.returncode == 5
    assert "--force" in again.stderr


def test_flags_are_the_fields_and_help_says_them():
    shown = run("reconstruct", "--help", columns=200)
    assert all("--" + name.replace("_", "-") in shown.stdout for name in described())


def test_slices_that_were_finished_are_not_computed_again(tmp_path):
    p = line_integrals().numpy()
    arrays = {"sinogram": np.stack([p, 2 * p, 3 * p], 1), "angles": np.array(DEGREES)}
    calls = []

    def solver(m, fail=False):
        calls.append(1)
        if fail and len(calls) == 3:
            raise KeyboardInterrupt
        return CLASSICS["fbp"](m)

    settings = {"config": config(), "name": "stack"}
    with pytest.raises(KeyboardInterrupt):
        retrodict.reconstruct(arrays, tmp_path / "out", solver=lambda m: solver(m, True), **settings)
    assert not list((tmp_path / "out").glob("stack_*"))
    calls.clear()
    done = retrodict.reconstruct(arrays, tmp_path / "out", solver=solver, **settings)
    assert len(calls) == 1
    assert done.details["slices_of_an_earlier_run"] == 2
    whole = retrodict.reconstruct(arrays, config=config())
    assert torch.equal(done.image.values, whole.image.values)
    assert done.image.values.shape == (1, 3, 64, 64)
    assert float(whole.image.values[0, 2].mean()) == pytest.approx(3 * float(whole.image.values[0, 0].mean()), rel=1e-4)


def test_damaged_parts_are_computed_again(tmp_path):
    parts = Parts(tmp_path)
    (tmp_path / "item-000000.safetensors").write_bytes(b"no")
    assert parts.load(0) is None


def test_hdf5_of_a_beamline_says_itself_what_it_is(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py, of the extra reconstruct")
    arrays = counts(line_integrals())
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = np.stack([arrays["sinogram"]] * 2, 1).astype(np.float32)
        file["exchange/data_white"] = np.stack([arrays["flats"]] * 2, 1).astype(np.float32)
        file["exchange/data_dark"] = np.stack([arrays["darks"]] * 2, 1).astype(np.float32)
        file["exchange/theta"] = np.array(DEGREES)
    done = retrodict.reconstruct(tmp_path / "scan.h5", field=["scan.pitch=0.5"])
    assert done.image.values.shape == (1, 2, 64, 64)
    assert done.details["measurement"]["corrections"]["flats"] == 20


def test_ismrmrd_lines_are_sorted_and_oversampling_goes(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py, of the extra reconstruct")
    n, coils = 32, 4
    at = torch.linspace(-1, 1, n, dtype=torch.float64)
    image = (((at / 0.6) ** 2 + (at[:, None] / 0.7) ** 2) < 1).double()
    maps = birdcage((n, n), coils)
    wide = torch.zeros(coils, n, 2 * n, dtype=torch.complex128)
    wide[..., n // 2 : n // 2 + n] = maps * image
    axes = (-2, -1)
    k = (
        torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(wide, axes), norm="ortho"), axes)
        .to(torch.complex64)
        .numpy()
    )
    path = tmp_path / "scan.h5"
    write_ismrmrd(h5py, path, k, n)
    done = retrodict.reconstruct(path, set={"iterations": 30})
    assert done.image.values.shape == (1, n, n)
    assert done.image.spacing == pytest.approx((200 / n, 400 / (2 * n)))
    inside = image > 0
    error = (done.image.values[0].abs()[inside] - 1).square().mean().sqrt()
    assert float(error) < 0.03
    assert "GaussianNoise" in done.details["measurement"]["noise"]  # of the noise scan


def write_ismrmrd(h5py, path, k, n):
    coils, lines, samples = k.shape
    index = np.dtype([(name, np.uint16) for name in ("kspace_encode_step_1", "kspace_encode_step_2", "slice")])
    head = np.dtype([("flags", np.uint64), ("number_of_samples", np.uint16), ("active_channels", np.uint16),
                     ("center_sample", np.uint16), ("idx", index)])  # fmt: skip
    row = np.dtype([("head", head), ("data", h5py.vlen_dtype(np.float32))])
    table = np.empty(lines + 1, row)
    rng = np.random.default_rng(0)
    for i in range(lines):
        table["head"][i] = (0, samples, coils, samples // 2, (lines - 1 - i, 0, 0))
        table["data"][i] = k[:, lines - 1 - i].copy().view(np.float32).ravel()
    table["head"][lines] = (1 << 18, samples, coils, samples // 2, (0, 0, 0))
    table["data"][lines] = rng.normal(0, 0.01, 2 * coils * samples).astype(np.float32)
    sizes = "<{0}><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize><fieldOfView_mm><x>{3}</x><y>200</y><z>5</z>" \
            "</fieldOfView_mm></{0}>"  # fmt: skip
    text = (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        + sizes.format("encodedSpace", samples, lines, 400)
        + sizes.format("reconSpace", n, lines, 200)
        + "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    )
    with h5py.File(path, "w") as file:
        file["dataset/data"] = table
        file["dataset/xml"] = np.array([text.encode()], dtype=object)


def test_matlab_structs_and_tiff_stacks_are_read(tmp_path):
    io = pytest.importorskip("scipy.io", reason="MATLAB files need scipy, of the extra reconstruct")
    tifffile = pytest.importorskip("tifffile")
    p = line_integrals().numpy()
    scan = {
        "angles": np.array(DEGREES),
        "pixelSize": 0.5,
        "distanceSourceOrigin": 400.0,
        "distanceSourceDetector": 500.0,
    }
    io.savemat(tmp_path / "htc.mat", {"CtDataLimited": {"sinogram": p, "parameters": scan}})
    done = retrodict.reconstruct(tmp_path / "htc.mat", set={"filter": "hann"})
    assert done.details["measurement"]["operator"]["geometry"] == "FanBeam"
    arrays = counts(line_integrals())
    for name in ("sinogram", "flats", "darks"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.round(arrays[name])[:, None].astype(np.uint16))
    parts = {"counts": {"flats": "flats.tif", "darks": "darks.tif"}, "data": "data"}
    scan = {"pitch": 0.5, "angles": {"start": 0, "step": 3}, "angle_unit": "deg"}
    done = retrodict.reconstruct(tmp_path / "sinogram.tif", config=config(scan=scan, **parts))
    assert float(done.image.values[0, disc(radius=7.5) > 0].mean()) == pytest.approx(0.02, rel=0.03)


def bead(n=7):
    at = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.exp(-(at**2 + at[:, None] ** 2) / 3)


def test_an_image_is_deblurred_by_a_psf_of_a_file_and_written_like_it(tmp_path):
    sharp = disc(48, value=100.0, pixel=0.5) + 5
    psf = bead() / bead().sum()
    blurred = retrodict.Blur((48, 48), psf).forward(sharp[None, None])[0, 0]
    np.savez(
        tmp_path / "scan.npz", image=blurred.float().numpy(), spacing=np.array([0.5, 0.5]), unit=np.array("counts")
    )
    np.savez(tmp_path / "bead.npz", image=(50 * bead(9) + 3).float().numpy(), spacing=np.array([0.5, 0.5]))
    asked = ("--problem", "deblur", "--psf", tmp_path / "bead.npz", "--set", "iterations=200")
    done = run("reconstruct", tmp_path / "scan.npz", "-o", tmp_path / "out", *asked)
    assert done.returncode == 0, done.stderr
    image = retrodict.read(tmp_path / "out" / "scan_image.npz")
    assert (image.unit, image.spacing) == ("counts", (0.5, 0.5))
    before, after = (float((v - sharp).square().mean().sqrt()) for v in (blurred, image.values[0]))
    assert after < 0.75 * before  # an edge has no band limit: some of it is lost for good
    assert "a background of 3" in done.stderr
    np.savez(tmp_path / "wide.npz", image=bead().numpy(), spacing=np.array([0.7, 0.7]))
    for name, words in (("wide.npz", "0.7 x 0.7 mm"), ("none.npz", "no file")):
        bad = run(
            "reconstruct", tmp_path / "scan.npz", "-o", tmp_path / "b", "--problem", "deblur", "--psf", tmp_path / name
        )
        assert bad.returncode in (2, 3)
        assert words in bad.stderr


def test_masked_and_coarse_images_of_files(tmp_path):
    mask = np.random.default_rng(0).uniform(size=(48, 48)) < 0.6
    scan = (disc(48, value=100.0).numpy() * mask).astype(np.float32)
    np.savez(tmp_path / "scan.npz", image=scan, spacing=np.array([0.5, 0.5]))
    np.savez(tmp_path / "mask.npz", image=mask.astype(np.float32), spacing=np.array([0.5, 0.5]))
    settings = {"method": "admm", "set": {"strength": 0.1, "iterations": 40}}
    done = retrodict.reconstruct(tmp_path / "scan.npz", problem="inpaint", mask=str(tmp_path / "mask.npz"), **settings)
    assert float((done.image.values[0] - disc(48, value=100.0)).square().mean().sqrt()) < 10
    with pytest.raises(InputError, match="mask"):
        retrodict.reconstruct(tmp_path / "scan.npz", problem="inpaint", **settings)
    fine = retrodict.reconstruct(tmp_path / "scan.npz", problem="super_resolution", factor=2, **settings)
    assert fine.image.values.shape == (1, 96, 96)
    assert fine.image.spacing == pytest.approx((0.25, 0.25))


# ---- bad input -------------------------------------------------------------------------------------------------------


def refused(match, arrays=None, **options):
    with pytest.raises(InputError, match=match):
        retrodict.reconstruct(sinogram() if arrays is None else arrays, **{"config": config(), **options})


def test_geometry_that_does_not_match_is_refused():
    refused(r"59 angles for 60 views", sinogram(angles=np.array(DEGREES[:-1])))
    refused(r"scan\.bins: found 64 bins in the data; expected 63", config=config(scan={**SCAN, "bins": 63}))
    refused(r"scan\.pitch: found none", config=config(scan={"angles": "angles", "angle_unit": "deg"}))
    refused(r"scan\.source: found none", config=config(scan={**SCAN, "beam": "fan"}))
    refused(r"FanBeam source: found 10 mm", config=config(scan={**SCAN, "beam": "fan", "source": 10, "detector": 20}))


def test_angles_in_the_wrong_unit_or_order_are_refused():
    radians = np.radians(DEGREES)
    refused(r"60 views over 3\.089 degrees.*angle_unit=rad", sinogram(angles=radians))
    refused(r"an angle of 177 radians", config=config(scan={**SCAN, "angle_unit": "rad"}))
    refused(r"without a unit", sinogram(angles=radians), config=config(scan={"pitch": 0.5, "angles": "angles"}))
    shuffled = np.array(DEGREES)[[1, 0, *range(2, 60)]]
    refused(r"view 2 at 6 after 0|turns back", sinogram(angles=shuffled))
    wrong = np.random.default_rng(0).permutation(DEGREES)
    refused(r"center of mass follows a turn", sinogram(angles=wrong), config=config(scan={**SCAN, "order": "any"}))


def test_missing_flats_and_counts_at_the_dark_are_refused():
    arrays = counts(line_integrals())
    alone = {name: arrays[name] for name in ("sinogram", "angles")}
    refused(r"counts\.flats: found none", alone, config=config(counts={"kind": "counts"}))
    refused(r"line integrals up to", arrays, config=config(counts={"kind": "line_integrals"}))
    low = {**arrays, "sinogram": arrays["sinogram"].copy()}
    low["sinogram"][:, 10:20] = np.random.default_rng(1).uniform(0, 90, (VIEWS, 10))
    refused(
        r"600 of 3840 readings .*at or below the dark", low, config=config(counts={"flats": "flats", "darks": "darks"})
    )
    swapped = config(counts={"flats": "darks", "darks": "flats"})
    refused(r"flats: found flats of .* and darks of", arrays, config=swapped)
    short = {**arrays, "flats": arrays["flats"][:, :-1]}
    refused(r"counts\.flats: found shape \(20, 63\)", short, config=config(counts={"flats": "flats", "darks": "darks"}))


def test_kinds_of_numbers_are_compared():
    refused(r"complex values; expected real", sinogram(sinogram=line_integrals().numpy() + 0j))
    real = {"kspace": np.ones((4, 16, 16))}
    refused(r"real values .*complex k-space", real, config={"problem": "kspace"})
    bad = sinogram()
    bad["sinogram"][3, 3] = np.nan
    refused(r"1 values that are nan", bad)


def test_a_noise_level_that_is_missing_or_in_another_unit_is_refused():
    refused(r"noise: found none.*Morozov", method="fista")
    refused(r"noise: found none.*end at it", method="cgls", set={"discrepancy": 1.0})
    refused(r"noise\.unit: found 'HU'; expected '1'", config=config(noise={"sigma": 30.0, "unit": "HU"}))
    refused(r"noise\.sigma: found 30, and the data have a deviation", config=config(noise={"sigma": 30.0}))
    refused(r"sigma: found -1\.0; expected a positive", sigma=-1.0)


def test_an_adjoint_that_is_none_is_refused():
    class Wrong(Radon):
        def _adjoint(self, y):
            return 0.5 * super()._adjoint(y)

    operator = Wrong((16, 16), ParallelBeam(even_angles(8), 24, 1.0))
    measurement = Measurement(operator, torch.zeros(1, 1, 8, 24))
    with pytest.raises(InputError, match=r"an adjoint that is off by 0\.\d+"):
        retrodict.reconstruct(measurement, method="cgls")


def test_coil_maps_of_another_size_and_a_middle_that_is_too_small_are_refused():
    k = np.ones((4, 32, 32), np.complex64)
    maps = np.ones((4, 16, 16), np.complex64)
    refused(r"coils\.maps: found shape \(4, 16, 16\); expected \(4, 32, 32\)", {"kspace": k, "maps": maps}, config=None)
    k[:, :, 1::2] = 0
    refused(r"fully measured samples in the middle", {"kspace": k}, config=None)


def test_names_that_are_none_are_answered_with_the_nearest():
    refused(r"Did you mean 'fista'", method="fistas")
    refused(r"Did you mean 'iterations'", method="sirt", set={"iteration": 3})
    refused(r"set iterations: found 'many'; expected a whole number", method="sirt", set={"iterations": "many"})
    refused(r"Did you mean 'center'", field=["scan.centre=3"])
    refused(r"Did you mean 'method'", methods="fbp")
    refused(r"no array 'sino'", config=config(data="sino"))


def test_broken_files_are_input_errors(tmp_path):
    broken = {
        "a.h5": b"\x89HDF\r\n\x1a\n" + b"0" * 99,
        "b.npz": b"PK\x03\x04",
        "c.mat": b"MATLAB 5.0" + b"x" * 99,
        "d.npy": b"\x93NUMPY" + b"0" * 20,
        "e.bin": b"?",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            open_raw(tmp_path / name)
    np.savez(tmp_path / "f.npz", sinogram=np.array([{"a": 1}], dtype=object), angles=np.arange(3))
    with pytest.raises(InputError):
        retrodict.reconstruct(tmp_path / "f.npz", config=config())


def test_the_cost_counts_iterations():
    assert Method("sirt", {"iterations": 10}).applications() < Method("sirt", {"iterations": 100}).applications()
    assert Method("fbp").applications() < 5
