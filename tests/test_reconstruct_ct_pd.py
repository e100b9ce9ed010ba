"""DICOM-CT-PD: projections that we write from a disc in closed form become its attenuation where it lies."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

import retrodict
from retrodict import InputError
from retrodict.data.ct_pd import ELEMENTS
from retrodict.data.raw import open_raw
from retrodict.tasks.recon_options import ReconstructOptions
from retrodict.tasks.reconstruct import ReconstructJob
from shell import retrodict as run

ROWS, COLUMNS, VIEWS = 3, 81, 120
PITCH, ROW_PITCH, SOURCE, DETECTOR = 2.4, 2.0, 300.0, 520.0
CENTER = (39.6, 2.0)  # from 1; the middle is 41
MU, RADIUS, PLACE = 0.02, 22.0, (14.0, -9.0)  # x to the patient's left, y to the front
START = 0.4
SLOPE = 1e-4


def views(count=VIEWS):
    return START + 2 * math.pi * np.arange(count) / count


def integrals(angle, flat=False):
    """Of the disc in the coordinates of the format: a focal spot at (sin f, cos f) and columns that turn with f."""
    at = (np.arange(1, COLUMNS + 1) - CENTER[0]) * PITCH / DETECTOR
    ray = angle + (np.arctan(at) if flat else at)
    spot = SOURCE * np.array([math.sin(angle), math.cos(angle)])
    along = np.stack([-np.sin(ray), -np.cos(ray)])
    gap = np.array(PLACE)[:, None] - spot[:, None]
    distance = np.abs(gap[0] * along[1] - gap[1] * along[0])
    return 2 * MU * np.sqrt(np.clip(RADIUS**2 - distance**2, 0, None))


def write(folder, angle, number, *, implicit=False, transposed=True, flat=False, photons=None, drop=(), **changes):
    folder.mkdir(exist_ok=True)
    row = integrals(angle, flat)
    values = np.stack([row * (1 + 0.5 * k) for k in range(-1, ROWS - 1)])  # the middle row is that of the disc
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.2", generate_uid(), "CT"
    ds.SeriesInstanceUID, ds.InstanceNumber = "1.2.3", number
    stored = np.round((values.T if transposed else values) / SLOPE).astype("<u2")
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 16, 16, 15, 0, 1
    ds.PhotometricInterpretation, ds.RescaleSlope, ds.RescaleIntercept = "MONOCHROME2", SLOPE, 0
    ds.add_new("PixelData", "OW", stored.tobytes())
    given = {
        "NumberofDetectorRows": ROWS,
        "NumberofDetectorColumns": COLUMNS,
        "DetectorElementTransverseSpacing": PITCH,
        "DetectorElementAxialSpacing": ROW_PITCH,
        "DetectorShape": "FLAT" if flat else "CYLINDRICAL",
        "DetectorFocalCenterAngularPosition": math.remainder(angle, 2 * math.pi),
        "DetectorFocalCenterAxialPosition": 12.5,
        "DetectorFocalCenterRadialDistance": SOURCE,
        "ConstantRadialDistance": DETECTOR,
        "DetectorCentralElement": list(CENTER),
        "SourceAngularPositionShift": 0.0,
        "SourceAxialPositionShift": 0.0,
        "SourceRadialDistanceShift": 0.0,
        "FlyingFocalSpotMode": "FFSNONE",
        "TypeofProjectionData": "AXIAL",
        "TypeofProjectionGeometry": "FANBEAM",
        "LogFlag": "YES",
        "WaterAttenuationCoefficient": "0.0192",
        **({} if photons is None else {"PhotonStatistics": photons}),
        **changes,
    }
    for name, value in given.items():
        if name not in drop:
            ds.add_new(ELEMENTS[name][0], ELEMENTS[name][1], value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    # names run against the views
    ds.save_as(folder / f"p{10000 - number}.dcm", enforce_file_format=True)


def scan(folder, count=VIEWS, **options):
    for k, angle in enumerate(views(count)):
        write(folder, angle, k + 1, **{name: v(k) if callable(v) else v for name, v in options.items()})
    return folder


def inside(image, radius=RADIUS - 4, away=0.0):
    """Pixels that lie in the disc, or beyond it by `away` mm and within the field."""
    (dy, dx), (ny, nx) = image.spacing[-2:], image.values.shape[-2:]
    y = -(torch.arange(ny, dtype=torch.float64) - (ny - 1) / 2)[:, None] * dy
    x = (torch.arange(nx, dtype=torch.float64) - (nx - 1) / 2) * dx
    distance = ((x - PLACE[0]) ** 2 + (y - PLACE[1]) ** 2).sqrt()
    return (distance > RADIUS + away) & (x**2 + y**2 < 40**2) if away else distance < radius


@pytest.mark.parametrize("options", [{}, {"implicit": True, "transposed": False}, {"flat": True}])
def test_projections_become_the_disc_where_it_lies(tmp_path, options):
    done = retrodict.reconstruct(scan(tmp_path / "scan", **options), config={"image": {"size": 64, "spacing": 1.5}})
    found = done.image.values[0].double()
    assert float((found[inside(done.image)] - MU).abs().mean()) < 0.01 * MU
    assert float(found[inside(done.image, away=4)].abs().mean()) < 0.02 * MU
    assert done.image.spacing == pytest.approx((1.5, 1.5))
    assert done.details["measurement"]["tilt_degrees"] == 0


def test_the_water_of_the_file_makes_hounsfield_units(tmp_path):
    config = {"image": {"size": 64, "spacing": 1.5, "unit": "HU"}}
    done = retrodict.reconstruct(scan(tmp_path / "scan", 60), config=config)
    level = float(done.image.values[0][inside(done.image)].double().mean())
    assert level == pytest.approx(1000 * (MU / 0.0192 - 1), abs=8)


def test_photons_of_the_file_are_the_law_of_the_noise_in_the_order_of_the_bins(tmp_path):
    ramp = np.linspace(4000, 9000, COLUMNS)
    folder = scan(tmp_path / "scan", photons=lambda k: [float(v) for v in ramp * (1 + 0.001 * k)])
    part = ReconstructJob.of(folder, ReconstructOptions()).acquired.part(0, True)
    dose = part.noise.transmission.dose
    assert dose.shape[-2:] == (VIEWS, COLUMNS)
    assert dose.reshape(VIEWS, COLUMNS)[7].numpy() == pytest.approx(ramp[::-1] * 1.007, rel=1e-6)


def test_a_row_that_was_asked_for_is_read_and_its_tilt_said(tmp_path):
    folder = scan(tmp_path / "scan", DetectorElementAxialSpacing=9.0)
    config = {"image": {"size": 64, "spacing": 1.5}, "slices": [2, 3]}
    done = retrodict.reconstruct(folder, config=config)
    assert float(done.image.values[0][inside(done.image)].double().mean()) == pytest.approx(1.5 * MU, rel=0.01)
    assert done.details["measurement"]["tilt_degrees"] == pytest.approx(math.degrees(math.atan(9 / DETECTOR)))
    assert "out of the plane of the turn" in done.details["notes"][0]


def test_a_short_scan_is_one(tmp_path):
    for k in range(85):  # 255 degrees: more than half a turn and the fan
        write(tmp_path / "scan", views()[k], k + 1)
    done = retrodict.reconstruct(tmp_path / "scan", config={"image": {"size": 64, "spacing": 1.5}})
    assert float((done.image.values[0][inside(done.image)].double() - MU).abs().mean()) < 0.02 * MU


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"TypeofProjectionData": "HELICAL"}, "a helical scan"),
        ({"DetectorFocalCenterAxialPosition": lambda k: 0.4 * k}, r"a helical scan \(2.8 mm along the axis\)"),
        ({"DetectorFocalCenterAxialPosition": lambda k: 5.0 * (k > 5)}, "2 table positions"),
        ({"FlyingFocalSpotMode": "FFSXY"}, r"a flying focal spot \(FFSXY\)"),
        ({"SourceRadialDistanceShift": lambda k: 5.0 * (k % 2)}, "a flying focal spot .*5 mm outwards"),
        ({"SourceAngularPositionShift": lambda k: 1e-3 * (k % 2)}, "a flying focal spot .*0.3 mm along the turn"),
        ({"SourceAxialPositionShift": lambda k: -0.6 * (k % 2)}, "a flying focal spot .*0.6 mm along the axis"),
        ({"DetectorFocalCenterRadialDistance": lambda k: 300.0 + k}, "focal centers 300 to 307 mm"),
        ({"TypeofProjectionGeometry": "PARALLEL"}, "'PARALLEL'"),
        ({"NumberofSpectra": 2}, "2 spectra"),
        ({"DetectorShape": "SPHERICAL"}, "'SPHERICAL'"),
        ({"DetectorCentralElement": [500.0, 2.0]}, "column 500, row 2"),
        ({"DetectorElementTransverseSpacing": 0.0}, "pitch: found 0"),
        ({"DetectorFocalCenterAngularPosition": lambda k: 1.0 * k}, "8 views over 1.27 turns"),
        ({"drop": ("ConstantRadialDistance",)}, r"no ConstantRadialDistance \(7031,1031\)"),
        ({"LogFlag": "NO"}, "counts.flats"),
        ({"NumberofDetectorRows": 4}, r"pixels of \(81, 3\)"),
    ],
)
def test_what_a_fan_beam_is_not_is_refused_by_name(tmp_path, options, words):
    folder = scan(tmp_path / "scan", 8, **options)
    with pytest.raises(InputError, match=words):
        retrodict.reconstruct(folder, config={"image": {"size": 16, "spacing": 5.0}})


def test_elements_of_broken_bytes_are_refused(tmp_path):
    folder = scan(tmp_path / "scan", 3, implicit=True)
    path = sorted(folder.iterdir())[0]
    content = path.read_bytes()
    good = struct.pack("<HHIf", 0x7031, 0x1031, 4, DETECTOR)
    assert content.count(good) == 1
    for bad, words in ((struct.pack("<f", math.nan), "finite numbers"), (struct.pack("<f", -5.0), "positive length")):
        for file in folder.iterdir():
            file.write_bytes(
                file.read_bytes().replace(good[:8] + file.read_bytes().split(good[:8])[1][:4], good[:8] + bad)
            )
        with pytest.raises(InputError, match=words):
            open_raw(folder)


def test_a_folder_of_other_files_says_what_was_expected(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(InputError, match="or projections of DICOM-CT-PD"):
        open_raw(tmp_path)


def test_the_command_line_takes_the_folder(tmp_path):
    folder = scan(tmp_path / "scan", 60)
    found = run("reconstruct", folder, "-o", tmp_path / "out", "--field", "image.size=32", "--field", "image.spacing=3")
    assert found.returncode == 0, found.stderr
    assert "scan" in found.stdout
    assert (tmp_path / "out" / "scan_image.nii.gz").exists()
