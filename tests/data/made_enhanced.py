"""Synthetic enhanced (multi-frame) DICOM files."""

import numpy as np
import pydicom
from made_files import make_slice, slice_values
from pydicom.dataset import Dataset

ENHANCED = pydicom.uid.EnhancedCTImageStorage


def item(**tags):
    """Return a sequence of one item."""
    ds = Dataset()
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return [ds]


def make_enhanced(
    path,
    count=3,
    gap=2.0,
    order=None,
    rescale=None,
    modality="CT",
    sop=ENHANCED,
    values=slice_values,
    spacing=(0.7, 0.5),
):
    """Write `count` frames that read as slice_values(i) at z = gap * i, stored in `order`.

    rescale : None for slope 1 and intercept -1024 in the shared group, or a (slope, intercept) for each frame.
    """
    make_slice(path, values(0), position=(0, 0, 0))
    ds = pydicom.dcmread(path)
    for keyword in ("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(ds, keyword)
    del ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop
    ds.Modality, ds.ImageType, ds.NumberOfFrames = modality, ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], count
    order = list(order if order is not None else range(count))
    shared, frames, stored = Dataset(), [], []
    shared.PixelMeasuresSequence = item(PixelSpacing=list(spacing), SliceThickness=2.5)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.CTImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    if rescale is None:
        shared.PixelValueTransformationSequence = item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    for place, index in enumerate(order):
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=[0, 0, gap * index])
        frame.FrameContentSequence = item(StackID="1", InStackPositionNumber=index + 1)
        slope, intercept = (1, -1024) if rescale is None else rescale[place]
        if rescale is not None:
            frame.PixelValueTransformationSequence = item(
                RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU"
            )
        frame.FrameVOILUTSequence = item(WindowCenter=40, WindowWidth=400)
        frames.append(frame)
        stored.append(np.rint((values(index) - intercept) / slope).astype("<i2"))
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.PixelData = np.stack(stored).tobytes()
    ds.save_as(path)
    return path
