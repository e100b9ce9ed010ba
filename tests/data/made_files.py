"""Synthetic files for the tests of the data package."""

import zlib

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def slice_values(index, rows=12, columns=15):
    """Return integer HU (rows, columns) that differ from slice to slice and have no symmetry."""
    y, x = np.mgrid[:rows, :columns]
    return (17 * y + 5 * x + 31 * index - 200).astype(np.int16)


def make_slice(path, hu, *, position, series="1.2.3.4", axes=(1, 0, 0, 0, 1, 0), number=1, spacing=(0.7, 0.5), **tags):
    """Write a CT slice that reads as hu, stored with slope 1 and intercept -1024; a tag of None is left out."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", series, "1.2.3.9"
    ds.Modality, ds.PatientName, ds.PatientID = "CT", "Doe^Jane", "P7"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber = "Thorax", 3, number
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [float(v) for v in position], [float(v) for v in axes]
    ds.PixelSpacing, ds.SliceThickness = list(spacing), 2.5
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.Rows, ds.Columns = hu.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 16, 16, 15, 1, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.add_new("PixelData", "OW", (hu.astype(np.int32) + 1024).astype("<i2").tobytes())
    for keyword, value in tags.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, ds.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def make_series(folder, count=5, gap=2.0, axes=(1, 0, 0, 0, 1, 0), leave_out=(), **options):
    """Write a series whose file names run against the positions; returns the folder."""
    normal = np.cross(axes[:3], axes[3:])
    for i in range(count):
        if i not in leave_out:
            place = np.array([-10.0, 5.0, 30.0]) + i * gap * normal
            path = folder / f"im{count - i:03d}.dcm"
            make_slice(path, slice_values(i), position=place, axes=axes, number=i + 1, **options)
    return folder


def rewrite(path, **tags):
    """Change tags of a written slice; None removes one."""
    ds = pydicom.dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.save_as(path)


def make_mha(path, array, spacing, offset, matrix=(1, 0, 0, 0, 1, 0, 0, 0, 1), compressed=True):
    """Write a MetaImage; array is (z, y, x) int16, the rest in the order x, y, z."""
    content = array.astype("<i2").tobytes()
    content = zlib.compress(content) if compressed else content
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += [f"CompressedData = {compressed}", "TransformMatrix = " + " ".join(str(v) for v in matrix)]
    lines += ["Offset = " + " ".join(str(v) for v in offset), "ElementSpacing = " + " ".join(str(v) for v in spacing)]
    lines += ["DimSize = " + " ".join(str(n) for n in array.shape[::-1]), "ElementType = MET_SHORT"]
    path.write_bytes("\n".join([*lines, "ElementDataFile = LOCAL", ""]).encode() + content)
    return path
