"""Enhanced DICOM: what belongs to a frame comes from its functional groups, and goes back there."""

import numpy as np
import pydicom
import pytest
from made_enhanced import item, make_enhanced
from made_files import make_slice, slice_values

from retrodict._check import InputError
from retrodict.data import discover, read, write
from retrodict.data.formats.dicom_frames import of_frame

STACK = np.stack([slice_values(i) for i in range(3)])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_frames_are_slices_in_the_order_of_their_positions(tmp_path, order):
    image = read(make_enhanced(tmp_path / "e.dcm", order=order))
    assert (image.unit, image.format, image.spacing) == ("HU", "dicom", (2.0, 0.7, 0.5))
    assert np.array_equal(image.values[0], STACK)
    assert image.axes == ((0, 0, 1), (0, -1, 0), (-1, 0, 0))  # across, to posterior and to the left


def test_each_frame_has_its_own_rescaling(tmp_path):
    scales = ((1, -1024), (0.5, -1000), (2, -200))
    image = read(make_enhanced(tmp_path / "e.dcm", rescale=scales))
    assert np.abs(image.values[0].numpy() - STACK).max() <= 1.0  # half a step of the coarsest frame
    assert np.array_equal(image.values[0, 0], STACK[0])


def test_one_frame_is_a_slice(tmp_path):
    image = read(make_enhanced(tmp_path / "e.dcm", count=1))
    assert (tuple(image.values.shape), image.spacing) == ((1, 12, 15), (0.7, 0.5))
    for i in range(3):
        path = make_enhanced(tmp_path / "s" / f"{i}.dcm", count=1)
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID += f".{i}"
        ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence = item(ImagePositionPatient=[0, 0, 3 * i])
        ds.save_as(path)
    assert read(tmp_path / "s").spacing == (3.0, 0.7, 0.5)


@pytest.mark.parametrize("count", [1, 3])
def test_results_keep_the_frames_and_their_order(tmp_path, count):
    order = (2, 0, 1) if count == 3 else (0,)
    source = read(make_enhanced(tmp_path / "e.dcm", count=count, order=order))
    result = source.with_values(source.values + 0.25)
    (out,) = write(result, tmp_path / "mean.dcm", like=source, role="mean", description="made")
    again = read(out)
    assert again.spacing == source.spacing
    assert (again.values - result.values).abs().max() <= 0.0501
    old, new = pydicom.dcmread(tmp_path / "e.dcm"), pydicom.dcmread(out)
    assert new.SOPClassUID == old.SOPClassUID
    assert list(new.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "MEAN"]
    for frame in range(count):
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            assert of_frame(old, frame, keyword) == of_frame(new, frame, keyword)
    shared = new.SharedFunctionalGroupsSequence[0]
    assert "RescaleSlope" not in new
    assert shared.PixelValueTransformationSequence[0].RescaleType == "HU"
    assert shared.CTImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    reference = shared.DerivationImageSequence[0].SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == old.SOPInstanceUID


def test_a_map_of_frames_is_no_ct_and_keeps_its_place(tmp_path):
    source = read(make_enhanced(tmp_path / "e.dcm", order=(1, 2, 0)))
    (out,) = write(source, tmp_path / "sd.dcm", like=source, role="sd", description="made")
    ds = pydicom.dcmread(out)
    assert (ds.SOPClassUID.name, ds.Modality) == ("Multi-frame Grayscale Word Secondary Capture Image Storage", "OT")
    assert "FrameVOILUTSequence" not in ds.PerFrameFunctionalGroupsSequence[0]
    again = read(out, expect=None)
    assert again.spacing == source.spacing
    assert (again.values - source.values).abs().max() < 0.01


def test_enhanced_mr_is_read_in_an_arbitrary_unit(tmp_path):
    path = make_enhanced(tmp_path / "e.dcm", modality="MR", sop=pydicom.uid.EnhancedMRImageStorage)
    with pytest.raises(InputError, match="Modality MR"):
        read(path)
    assert read(path, expect="MR").unit == "arbitrary"


def test_two_frames_at_one_place_say_what_they_differ_in(tmp_path):
    path = make_enhanced(tmp_path / "e.dcm", modality="MR", sop=pydicom.uid.EnhancedMRImageStorage)
    ds = pydicom.dcmread(path)
    for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence = item(ImagePositionPatient=[0, 0, number // 2])
        frame.MREchoSequence = item(EffectiveEchoTime=10.0 + number)
    ds.save_as(path)
    with pytest.raises(InputError, match=r"frame 1 and e\.dcm frame 2 at the same .*EffectiveEchoTime 10\.0 and 11\.0"):
        read(path, expect=None, slices="independent")


def test_frames_without_a_place_are_independent_slices(tmp_path):
    path = make_slice(tmp_path / "sc.dcm", slice_values(0), position=(0, 0, 0), Modality="OT")
    ds = pydicom.dcmread(path)
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    ds.NumberOfFrames, ds.PixelData = 2, ds.PixelData * 2
    ds.save_as(path)
    assert tuple(read(path, expect=None, slices="independent").values.shape) == (1, 2, 12, 15)
    with pytest.raises(InputError, match="no ImagePositionPatient"):
        read(path, expect=None)


def test_damaged_groups_are_named(tmp_path):
    path = make_enhanced(tmp_path / "e.dcm")
    ds = pydicom.dcmread(path)
    del ds.PerFrameFunctionalGroupsSequence[2]
    ds.save_as(path)
    with pytest.raises(InputError, match="2 functional groups for 3 frames"):
        read(path)
    path = make_enhanced(tmp_path / "e.dcm")
    ds = pydicom.dcmread(path)
    del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    ds.save_as(path)
    with pytest.raises(InputError, match="no PixelSpacing"):
        read(path)


def test_files_of_many_frames_are_images_by_themselves(tmp_path):
    for name in "ab":
        make_enhanced(tmp_path / "in" / f"{name}.dcm")
    assert [(s.format, len(s.paths)) for s in discover(tmp_path / "in")] == [("dicom", 1)] * 2
