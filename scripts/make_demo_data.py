"""Make the CT slices that ship with the package from the dcmqi test slices (BSD-3-Clause).

    python scripts/make_demo_data.py PATH_OF/ct_abdomen_dcmqi

Each slice is averaged to 1 mm pixels, cropped to 416 x 416, and written as a DERIVED CT image with new UIDs; patient
fields were already anonymous.  These slices were never in the training set of the shipped model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from retrodict.data import read, resample

SIZE = 416
ASSETS = Path(__file__).resolve().parents[1] / "src" / "retrodict" / "assets"


def derive(source: Path, destination: Path) -> None:
    """Write one slice at 1 mm."""
    image = resample(read(source), (1.0, 1.0))
    values = np.full((SIZE, SIZE), -1024, dtype=np.int16)
    pixels = np.rint(image.values[0].numpy()).astype(np.int16)
    height, width = pixels.shape
    row, column = (SIZE - height) // 2, (SIZE - width) // 2
    values[row : row + height, column : column + width] = pixels
    dataset = pydicom.dcmread(source)
    dataset.Rows, dataset.Columns = SIZE, SIZE
    dy, dx = image.spacing
    dataset.PixelSpacing = [f"{dy:.6g}", f"{dx:.6g}"]
    first = np.array(dataset.ImagePositionPatient, dtype=float)
    across, down = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
    old = np.array(pydicom.dcmread(source).PixelSpacing, dtype=float)
    corner = first - 0.5 * old[1] * across - 0.5 * old[0] * down  # outer corner of the first pixel stays in place
    corner += (0.5 - column) * dx * across + (0.5 - row) * dy * down
    dataset.ImagePositionPatient = [f"{v:.6g}" for v in corner]
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    dataset.PixelRepresentation = 1
    for name in ("PixelPaddingValue", "SmallestImagePixelValue", "LargestImagePixelValue"):
        if name in dataset:
            del dataset[name]
    dataset.remove_private_tags()
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    dataset.DerivationDescription = "resampled to 1 mm pixels from dcmqi ct-3slice (BSD-3-Clause)"
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[destination.name, "retrodict demo"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["retrodict demo series"])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(destination, enforce_file_format=True)


def main() -> None:
    """Two slices."""
    folder = Path(sys.argv[1])
    ASSETS.mkdir(exist_ok=True)
    for number in (1, 3):
        derive(folder / f"{number:02d}.dcm", ASSETS / f"abdomen-{number}.dcm")


if __name__ == "__main__":
    main()
