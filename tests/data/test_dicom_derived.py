"""What a result in DICOM says of itself, and that every header that can be read can be written."""

import numpy as np
import pydicom
import pytest
import torch
from made_files import make_series, make_slice, rewrite, slice_values
from pydicom.dataset import Dataset

from retrodict._check import InputError
from retrodict.data import read, write
from retrodict.data.io import check_writable

SCANNER = {"Manufacturer": "ACME", "ManufacturerModelName": "CT 1", "SoftwareVersions": "V1", "StationName": "CTAWP1"}


def scan(path, **tags):
    return make_slice(path, slice_values(0), position=(0, 0, 0), **tags)


def written(source, folder, role, values=None):
    result = source if values is None else source.with_values(values)
    (out,) = write(result, folder / f"{role}.dcm", like=source, role=role, description="made")
    return pydicom.dcmread(out), out


def test_a_map_is_no_ct_and_says_so_at_once(tmp_path):
    source = read(scan(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1", VOILUTFunction="LINEAR"))
    ds, out = written(source, tmp_path, "sd", torch.rand(1, 12, 15))
    assert (ds.SOPClassUID, ds.Modality) == (pydicom.uid.SecondaryCaptureImageStorage, "OT")
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "STD_DEVIATION"]
    assert ds.SeriesDescription == "SD MAP, NOT ANATOMY: Thorax | retrodict sd"
    assert (ds.PhotometricInterpretation, ds.RescaleType) == ("MONOCHROME2", "US")
    assert "VOILUTFunction" not in ds
    meaning = ds.RealWorldValueMappingSequence[0]
    assert (meaning.RealWorldValueSlope, meaning.RealWorldValueIntercept) == (ds.RescaleSlope, ds.RescaleIntercept)
    assert meaning.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
    assert meaning.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeMeaning == "Standard Deviation"
    assert ds.DerivationCodeSequence[0].CodeMeaning == "Standard Deviation"
    with pytest.raises(InputError, match="Modality OT"):
        read(out)


def test_a_mean_is_a_ct_and_says_what_it_is(tmp_path):
    ds, _ = written(read(scan(tmp_path / "a.dcm")), tmp_path, "mean")
    assert (ds.SOPClassUID, ds.Modality) == (pydicom.uid.CTImageStorage, "CT")
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "MEAN"]
    assert (ds.WindowCenter, ds.RescaleType) == (40, "HU")
    assert ds.DerivationCodeSequence[0].CodeMeaning == "Pixel by pixel mean"


def test_the_scanner_becomes_contributing_equipment(tmp_path):
    ds, out = written(read(scan(tmp_path / "a.dcm", **SCANNER)), tmp_path, "mean")
    assert ds.Manufacturer == ds.ManufacturerModelName == "retrodict"
    assert ds.SoftwareVersions not in ("", "V1")
    assert "StationName" not in ds
    scanner, ours = ds.ContributingEquipmentSequence
    assert {k: str(scanner[k].value) for k in SCANNER} == SCANNER
    assert scanner.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Acquisition Equipment"
    assert ours.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Processing Equipment"
    again, _ = written(read(out), tmp_path / "again", "mean")
    purposes = [i.PurposeOfReferenceCodeSequence[0].CodeValue for i in again.ContributingEquipmentSequence]
    assert purposes == ["109101", "109102", "109102", "109102"]


def test_what_speaks_of_stored_values_is_dropped(tmp_path):
    path = scan(tmp_path / "a.dcm")
    ds = pydicom.dcmread(path)
    mapping = Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept, mapping.LUTLabel = 1.0, -1024.0, "HU"
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [1, 0, 16])
    table.add_new("LUTData", "US", [0])
    stale = {"RealWorldValueMappingSequence": [mapping], "HistogramSequence": [Dataset()], "IconImageSequence": [table]}
    stale |= {"ModalityLUTSequence": [table], "GrayLookupTableDescriptor": None, "PixelPaddingRangeLimit": 9}
    for keyword, value in stale.items():
        setattr(ds, keyword, value)
    for keyword in ("SmallestImagePixelValue", "LargestPixelValueInSeries", "PixelPaddingValue"):
        ds.add_new(keyword, "SS", 9)
    ds.add_new("PixelPaddingRangeLimit", "SS", 9)
    ds.add_new("GrayLookupTableDescriptor", "SS", [1, 0, 16])
    ds.add_new((0x6000, 0x3000), "OW", b"\0\0")
    ds.save_as(path)
    new, _ = written(read(path), tmp_path, "mean")
    kept = {e.keyword for e in new} & {*stale, "SmallestImagePixelValue", "LargestPixelValueInSeries"}
    assert not kept
    assert not [e for e in new if e.tag.group == 0x6000]


@pytest.mark.parametrize(("number", "role", "expected"), [(2**31 - 1, "mean", 1000), (7, "sd", 2007), (-5, "sd", 1995)])
def test_the_series_number_stays_an_integer_string(tmp_path, number, role, expected):
    ds, _ = written(read(scan(tmp_path / "a.dcm", SeriesNumber=number)), tmp_path, role)
    assert ds.SeriesNumber == expected


def test_one_outlier_does_not_coarsen_a_map(tmp_path):
    source = read(scan(tmp_path / "a.dcm"))
    values = 20 * torch.rand(1, 12, 15, generator=torch.Generator().manual_seed(0))
    values[0, 0, 0] = 1e5
    ds, out = written(source, tmp_path, "sd", values)
    assert ds.BitsAllocated == 32
    again = read(out, expect=None).values
    assert (again - values).abs().flatten()[1:].max() < 1e-4
    assert again[0, 0, 0] == 1e5


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6, 1e20])
def test_values_of_any_size_are_kept(tmp_path, scale):
    source = read(scan(tmp_path / "a.dcm", Modality="MR"), expect=None)
    values = scale * torch.rand(1, 12, 15, generator=torch.Generator().manual_seed(0))
    for role in ("mean", "sd"):
        _, out = written(source, tmp_path, role, values)
        assert (read(out, expect=None).values - values).abs().max() <= scale * 3e-5  # half of 2 / 65533, at most


def patched(path, keyword, vr, content):
    """Write the value of an element over in the file, byte for byte."""
    ds = pydicom.dcmread(path)
    ds.add_new(keyword, vr, "#" * len(content))
    ds.save_as(path)
    path.write_bytes(path.read_bytes().replace(b"#" * len(content), content, 1))
    return path


@pytest.mark.parametrize(
    ("keyword", "vr", "content"),
    [
        ("KVP", "SH", b"A lot of volts  "),
        ("SeriesNumber", "SH", b"A   "),
        ("InstanceNumber", "SH", b"A 1 "),
        ("StudyDate", "SH", b"yesterday "),
        ("Exposure", "SH", b"1e99"),
        ("PatientName", "SH", b"\xff\xfe\x81=^^^=\\"),
        ("SpecificCharacterSet", "SH", b"ISO_IR 999"),
        ("WindowCenter", "SH", b"a\\b "),
    ],
)
def test_a_value_that_is_none_costs_no_result(tmp_path, keyword, vr, content):
    """The value is written as text over an element of another kind, and then given its own VR again."""
    path = patched(scan(tmp_path / "a.dcm"), keyword, vr, content)
    tag = pydicom.tag.Tag(keyword)
    own = pydicom.datadict.dictionary_VR(keyword).encode()
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
    path.write_bytes(path.read_bytes().replace(head + vr.encode(), head + own, 1))
    source = read(path)
    check_writable(source, tmp_path / "b.dcm")
    for role in ("mean", "sd"):
        ds, _ = written(source, tmp_path, role)
        assert np.array_equal(ds.pixel_array.shape, (12, 15))


def test_an_unknown_vr_is_left_out_and_named(tmp_path):
    path = scan(tmp_path / "a.dcm", KVP=120)
    path.write_bytes(path.read_bytes().replace(b"\x18\x00\x60\x00DS", b"\x18\x00\x60\x00QQ", 1))
    source = read(path)
    check_writable(source, tmp_path / "b.dcm")
    ds, _ = written(source, tmp_path, "mean")
    assert "KVP" not in ds
    assert "(0018,0060)" in source.notes[0]


@pytest.mark.parametrize(("charset", "name"), [("ISO_IR 192", "Müller^Jürgen^李"), ("ISO_IR 100", "Müller^Jürgen")])
def test_character_sets_survive(tmp_path, charset, name):
    path = scan(tmp_path / "a.dcm", SpecificCharacterSet=charset, PatientName=name)
    rewrite(path, SeriesDescription="Schädel\u00a0à")
    ds, _ = written(read(path), tmp_path, "mean")
    assert str(ds.PatientName) == name
    assert ds.SeriesDescription == "Schädel\u00a0à | retrodict mean"
    assert ds.SpecificCharacterSet == charset


def test_decimal_strings_stay_what_they_were(tmp_path):
    text = "0.70000000000000012345678"
    path = patched(scan(tmp_path / "a.dcm"), "PixelSpacing", "SH", f"{text}\\0.5 ".encode())
    path.write_bytes(path.read_bytes().replace(b"\x28\x00\x30\x00SH", b"\x28\x00\x30\x00DS", 1))
    source = read(path)
    _, out = written(source, tmp_path, "mean")
    assert read(out).spacing == source.spacing
    assert text.encode() in out.read_bytes()


def test_a_header_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    source = read(make_series(tmp_path / "in"))
    monkeypatch.setattr(Dataset, "save_as", lambda *a, **k: (_ for _ in ()).throw(AttributeError("no such thing")))
    with pytest.raises(InputError, match=r"im005\.dcm.*AttributeError: no such thing.*valid DICOM header"):
        check_writable(source, tmp_path / "out")
