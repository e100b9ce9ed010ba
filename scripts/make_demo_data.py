"""Make the CT slices and the curves of the scanner of the demonstration.

    python scripts/make_demo_data.py PATH_OF/ct_abdomen_dcmqi

Slices of the dcmqi test series (BSD-3-Clause) on their own pixels of 0.81 mm, cropped to the body and written as
DERIVED CT images with new UIDs; patient fields were already anonymous.  This patient was never in the training set of a
shipped model.  The scanner is simulated: a standard kernel (a Hann window up to 1.2 /mm over an aperture of 0.6 mm) and
30 HU of noise, a ramp under the square of the kernel; no model was trained on it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from retrodict.data import read

ROWS, COLUMNS = slice(80, 504), slice(24, 504)  # the body and some air
ASSETS = Path(__file__).resolve().parents[1] / "src" / "retrodict" / "assets"


def derive(source: Path, destination: Path) -> None:
    """Write one slice, cropped."""
    image = read(source)
    values = np.rint(image.values[0].numpy()).astype(np.int16)[ROWS, COLUMNS]
    dataset = pydicom.dcmread(source)
    dataset.Rows, dataset.Columns = values.shape
    dy, dx = image.spacing
    first = np.array(dataset.ImagePositionPatient, dtype=float)
    across, down = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
    corner = first + COLUMNS.start * dx * across + ROWS.start * dy * down
    dataset.ImagePositionPatient = [f"{v:.6g}" for v in corner]
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    dataset.PixelRepresentation = 1
    for name in ("PixelPaddingValue", "SmallestImagePixelValue", "LargestImagePixelValue"):
        if name in dataset:
            del dataset[name]
    dataset.remove_private_tags()
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    dataset.DerivationDescription = "cropped from dcmqi ct-3slice (BSD-3-Clause)"
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[destination.name, "retrodict demo"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["retrodict demo series"])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(destination, enforce_file_format=True)


def scanner() -> None:
    """Write the MTF and the NPS of the simulated scanner, as `retrodict measure` would."""
    from scanners import SCANNERS, curves

    for name, curve in zip(("mtf", "nps"), curves(SCANNERS["standard-30"], 0.81), strict=True):
        record = curve.to_json()
        rounded = {**record, "value": [float(f"{v:.5g}") for v in record["value"]]}
        rounded["frequency"] = [float(f"{f:.6g}") for f in record["frequency"]]
        (ASSETS / f"scanner-{name}.json").write_text(json.dumps(rounded))


def main() -> None:
    """Two slices and two curves."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    scanner()
    folder = Path(sys.argv[1])
    ASSETS.mkdir(exist_ok=True)
    for number in (1, 3):
        derive(folder / f"{number:02d}.dcm", ASSETS / f"abdomen-{number}.dcm")


if __name__ == "__main__":
    main()
