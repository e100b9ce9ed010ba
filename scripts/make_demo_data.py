"""Make the CT slices and the curves of the scanner of the demonstration.

    python scripts/make_demo_data.py PATH_OF/ct_nysbu_chest

Two axial slices of a validation patient of COVID-19-NY-SBU (CC BY 4.0), of two dates, on their own pixels of 0.81 and
0.70 mm, cropped to the chest and written as DERIVED CT images that name nobody.  No training and no calibration of a
shipped model has seen this patient (`data.leave_out` in configs/any-scanner.yaml).  The scanner is simulated: a
standard kernel (a Hann window up to 1.2 /mm over an aperture of 0.6 mm) and 30 HU of noise at 0.81 mm, a ramp under the
square of the kernel; no model was trained on it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENT = "A048383"
ROWS, COLUMNS = slice(88, 408), slice(80, 480)
SPACING = (0.8125, 0.703125)
ASSETS = Path(__file__).resolve().parents[1] / "src" / "retrodict" / "assets"


def save(values: np.ndarray, spacing: float, number: int, destination: Path) -> None:
    """Write one slice."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[destination.name, "retrodict demo"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(destination), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["retrodict demo study", str(number)])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["retrodict demo series", str(number)])
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["retrodict demo frame", str(number)])
    ds.PatientName, ds.PatientID = "retrodict^demo", "retrodict-demo"
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "no header of the source was kept"
    ds.PatientBirthDate = ds.PatientSex = ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ""
    ds.ReferringPhysicianName = ds.Manufacturer = ds.PatientOrientation = ds.PositionReferenceIndicator = ""
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = "CT", number, 1, 1
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.SeriesDescription = "chest, for the demonstration of retrodict"
    ds.DerivationDescription = "cropped from a slice of COVID-19-NY-SBU, doi 10.7937/TCIA.BBAG-2923, CC BY 4.0"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [round((s.start - 255.5) * spacing, 4) for s in (COLUMNS, ROWS)] + [0]
    ds.PixelSpacing, ds.SliceThickness, ds.KVP = [spacing, spacing], 5, 120
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
    ds.PixelData = values.astype("<i2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.save_as(destination, enforce_file_format=True)


def scanner() -> None:
    """Write the MTF and the NPS of the simulated scanner, as `retrodict measure` would."""
    from scanners import SCANNERS, curves

    # to the corner of the plane at the finest pixels of the slices, with the noise of the coarser ones
    for name, curve in zip(("mtf", "nps"), curves(SCANNERS["standard-30"], 0.70, 0.81), strict=True):
        record = curve.to_json()
        rounded = {**record, "value": [float(f"{v:.5g}") for v in record["value"]]}
        rounded["frequency"] = [float(f"{f:.6g}") for f in record["frequency"]]
        (ASSETS / f"scanner-{name}.json").write_text(json.dumps(rounded))


def main() -> None:
    """Two slices and two curves."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    scanner()
    with np.load(Path(sys.argv[1]) / f"{PATIENT}.npz", allow_pickle=False) as archive:
        for number, (values, spacing) in enumerate(zip(archive["hu"], SPACING, strict=True), start=1):
            save(values[ROWS, COLUMNS], spacing, number, ASSETS / f"chest-{number}.dcm")


if __name__ == "__main__":
    main()
