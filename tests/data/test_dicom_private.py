"""No name, number, date or text of a person in what is written, and geometry and pixels as they were."""

import numpy as np
import pydicom
import pytest
from made_files import make_series, make_slice, rewrite, slice_values
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from retrodict._check import InputError
from retrodict.data import deidentified, read, write
from retrodict.data.formats.dicom_private import TEXTS, unnamed

SECRET = {
    "PN": "Geheim^Jane", "LO": "GEHEIM", "SH": "GEHEIM", "ST": "GEHEIM", "LT": "GEHEIM", "UT": "GEHEIM",
    "UC": "GEHEIM", "AE": "GEHEIM", "DA": "19991231", "TM": "235959", "DT": "19991231235959", "AS": "099Y",
    "UR": "http://geheim",
}  # fmt: skip
TECHNICAL = TEXTS | {"SpecificCharacterSet"}
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns")


def crowded(path):
    """Write a slice that holds every text, name and date that the dictionary knows, also inside a sequence."""
    make_slice(path, slice_values(0), position=(1, 2, 3), ConvolutionKernel="B30f", KVP=120)
    ds = pydicom.dcmread(path)
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if vr in SECRET and keyword and not retired and tag >> 16 > 2 and keyword not in TECHNICAL and tag not in ds:
            ds.add_new(tag, vr, SECRET[vr])
    for keyword in ("PatientName", "PatientID", "SeriesDescription"):
        setattr(ds, keyword, "Geheim")
    ds.PatientWeight, ds.PatientSex, ds.PatientAge, ds.PregnancyStatus = 81.25, "F", "099Y", 2
    item = Dataset()
    item.ScheduledPerformingPhysicianName, item.ReferencedSOPInstanceUID = "Geheim", "1.2.3.777"
    ds.RequestAttributesSequence = ds.ReferencedImageSequence = [item]
    ds.private_block(0x0043, "GEHEIM", create=True).add_new(0x12, "LO", "GEHEIM")
    ds.save_as(path)
    return path


def test_nothing_personal_is_written(tmp_path):
    source = read(crowded(tmp_path / "a.dcm"))
    clean = deidentified(source)
    for role in ("mean", "sd"):
        (out,) = write(clean, tmp_path / f"{role}.dcm", like=clean, role=role, description="made")
        content = out.read_bytes()
        for word in (b"geheim", b"19991231", b"235959", b"1.2.3.777", b"1.2.3.9", b"099y", b"81.25", b"doe"):
            assert word not in content.lower(), (role, word)
        ds = pydicom.dcmread(out)
        assert (ds.PatientIdentityRemoved, ds.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
        assert ds.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber", "ContentDate"):
            assert not ds[keyword].value, keyword
        assert "PatientWeight" not in ds
        assert "PregnancyStatus" not in ds
        assert not [e for e in ds.iterall() if e.tag.is_private or (e.VR in ("DA", "DT", "TM") and e.value)]
        assert (ds.ConvolutionKernel, ds.KVP) == ("B30f", 120)


def test_geometry_and_values_stay_and_uids_are_replaced_alike(tmp_path):
    source = read(make_series(tmp_path / "in"))
    clean = deidentified(source)
    assert clean.source == ()
    files = {}
    for role in ("mean", "sample-001"):
        paths = write(clean, tmp_path / role, like=clean, role=role, description="")
        files[role] = [pydicom.dcmread(p) for p in paths]
        assert np.array_equal(read(tmp_path / role).values, source.values)
    whole = [*files["mean"], *files["sample-001"]]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({str(ds[keyword].value) for ds in whole}) == 1, keyword
    assert "1.2.3" not in {str(ds.StudyInstanceUID) for ds in whole}
    references = [[ds.SourceImageSequence[0].ReferencedSOPInstanceUID for ds in files[role]] for role in files]
    assert references[0] == references[1]
    originals = [pydicom.dcmread(p) for p in source.source]
    assert not {str(ds.SOPInstanceUID) for ds in originals} & set(references[0])
    for old, new in zip(originals, files["mean"], strict=True):
        assert all(old[tag].value == new[tag].value for tag in GEOMETRY)
        assert old.SOPClassUID == new.SOPClassUID


@pytest.mark.parametrize(
    ("tags", "part"),
    [
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation YES"),
        ({"SOPClassUID": pydicom.uid.SecondaryCaptureImageStorage}, "secondary capture"),
    ],
)
def test_pixels_that_may_hold_text_are_refused(tmp_path, tags, part):
    path = make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0), **tags)
    with pytest.raises(InputError, match=part):
        deidentified(read(path))
    rewrite(path, BurnedInAnnotation="NO")
    deidentified(read(path))


def test_another_format_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", hu=slice_values(0).astype("f4"), spacing=np.array([1.0, 1.0]))
    with pytest.raises(InputError, match="expected DICOM"):
        deidentified(read(tmp_path / "a.npz", spacing=(1, 1)))


def test_a_name_with_identity_in_it_is_replaced(tmp_path):
    image = read(make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0), PatientID="H-0815"))
    for name in ("jane_doe", "DOE-2", "scan_h0815", f"CT.{image.header.datasets[0].SOPInstanceUID}"):
        assert unnamed(name, image).startswith("image-"), name
    assert unnamed("scan_7", image) == "scan_7"
