"""Stored numbers become the right values, or the file is refused: bits, signs, rescaling, declared sizes."""

import numpy as np
import pydicom
import pytest
from made_files import make_slice, rewrite, slice_values
from pydicom.dataset import Dataset

from retrodict._check import InputError
from retrodict.data import acquisition, read
from retrodict.data.limits import LIMIT_VARIABLE

HU = slice_values(0).astype(int)  # -200 to 57


def stored(path, numbers, kind, **tags):
    """Write a slice with these stored numbers of a dtype; slope 1 and intercept -1024 unless the tags say otherwise."""
    make_slice(path, HU, position=(0, 0, 0))
    ds = pydicom.dcmread(path)
    size = np.dtype(kind).itemsize * 8
    ds.BitsAllocated = ds.BitsStored = size
    ds.HighBit, ds.PixelRepresentation = size - 1, int(np.dtype(kind).kind == "i")
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    del ds.PixelData
    ds.add_new("PixelData", "OB" if size == 8 else "OW", np.asarray(numbers).astype(kind).tobytes())
    ds.save_as(path)
    return path


@pytest.mark.parametrize(
    ("kind", "intercept", "offset"),
    [("<u2", -1024, 1024), ("<i2", 0, 0), ("<i2", -1024, 1024), ("u1", -200, 200), ("<u4", -1024, 1024), ("<i4", 0, 0)],
)
def test_every_width_and_sign(tmp_path, kind, intercept, offset):
    numbers = np.minimum(HU + offset, 255 if kind == "u1" else 2**31 - 1)
    path = stored(tmp_path / "a.dcm", numbers, kind, RescaleIntercept=intercept)
    assert np.array_equal(read(path).values[0], numbers - offset)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [11, 13, 15])
@pytest.mark.parametrize("junk", [0, 0xFFFF])
def test_values_are_read_from_the_bits_that_hold_them(tmp_path, signed, high, junk):
    """The bits around the value may hold anything where it does not sit at the bottom, and an overlay where it does."""
    raw = (HU if signed else HU + 1024) & 0xFFF
    shift = high - 11
    word = (raw << shift) | (junk & ~(0xFFF << shift) & 0xFFFF)
    tags = {"BitsStored": 12, "HighBit": high, "PixelRepresentation": int(signed)}
    path = stored(tmp_path / "a.dcm", word, "<u2", RescaleIntercept=0 if signed else -1024, **tags)
    if high == 11 and junk:
        ds = pydicom.dcmread(path)
        for place, element in ((0x0100, 16), (0x0102, 12)):
            ds.add_new((0x6000, place), "US", element)
        ds.save_as(path)
    assert np.array_equal(read(path).values[0], HU)


def test_bits_that_can_be_read_in_two_ways_are_refused(tmp_path):
    path = stored(tmp_path / "a.dcm", np.where(HU > 0, 5000, HU + 1024), "<u2", BitsStored=12, HighBit=11)
    with pytest.raises(InputError, match=r"\d+ pixels beyond 12 stored bits; expected 0 to 4095"):
        read(path)
    rewrite(path, HighBit=5)
    with pytest.raises(InputError, match="BitsStored 12, HighBit 5"):
        read(path)


def test_padding_outside_the_stored_bits_is_padding(tmp_path):
    path = stored(tmp_path / "a.dcm", np.where(HU > 0, 63536, HU + 1024), "<u2", BitsStored=12, HighBit=11)
    ds = pydicom.dcmread(path)
    ds.add_new("PixelPaddingValue", "US", 63536)
    ds.save_as(path)
    image = read(path)
    assert np.array_equal(image.padding, HU > 0)


def test_monochrome1_says_how_to_show_and_not_what_the_values_are(tmp_path):
    path = make_slice(tmp_path / "a.dcm", HU, position=(0, 0, 0), PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read(path).values[0], HU)


def test_a_table_of_values_is_applied(tmp_path):
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 0, 16])
    table.add_new("LUTData", "US", [3 * i for i in range(256)])
    table.ModalityLUTType = "HU"
    path = stored(tmp_path / "a.dcm", HU + 200, "<u2", BitsStored=12, HighBit=11, ModalityLUTSequence=[table])
    rewrite(path, RescaleSlope=None, RescaleIntercept=None)
    assert np.array_equal(read(path).values[0], 3 * np.minimum(HU + 200, 255))
    table.ModalityLUTType = "OD"
    rewrite(path, ModalityLUTSequence=[table])
    with pytest.raises(InputError, match="RescaleType OD"):
        read(path)


@pytest.mark.parametrize("word", ["HU", "hu", "Hounsfield Units"])
def test_spellings_of_hu(tmp_path, word):
    path = make_slice(tmp_path / "a.dcm", HU, position=(0, 0, 0), RescaleType=word)
    assert read(path).unit == "HU"


def test_the_unit_that_a_user_gives_stands_above_that_of_the_file(tmp_path):
    path = make_slice(tmp_path / "a.dcm", HU, position=(0, 0, 0), RescaleType="US")
    with pytest.raises(InputError, match="unit='HU'"):
        read(path)
    assert read(path, unit="HU").unit == "HU"


def test_a_missing_modality_is_that_of_the_storage_class(tmp_path):
    path = make_slice(tmp_path / "a.dcm", HU, position=(0, 0, 0), Modality=None)
    assert read(path).unit == "HU"
    rewrite(path, SOPClassUID=pydicom.uid.SecondaryCaptureImageStorage)
    with pytest.raises(InputError, match="Modality none"):
        read(path)
    assert read(path, expect=None).unit == "arbitrary"
    assert read(path, expect=None, unit="HU").unit == "HU"
    rewrite(path, RescaleType="HU")
    assert read(path, expect=None).unit == "HU"


def test_a_projection_needs_no_place_and_says_whose_spacing_it_has(tmp_path):
    path = make_slice(tmp_path / "a.dcm", HU, position=(0, 0, 0), Modality="DX", ImagerPixelSpacing=[0.2, 0.1])
    rewrite(path, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
    image = read(path, expect=None)
    assert (image.spacing, image.axes) == ((0.2, 0.1), ())
    assert "ImagerPixelSpacing" in image.notes[0]


@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.RLELossless])
def test_a_declared_size_beyond_the_budget_is_refused_before_decoding(tmp_path, syntax):
    path = make_slice(tmp_path / "big.dcm", HU, position=(0, 0, 0), Rows=65535, Columns=65535)
    ds = pydicom.dcmread(path)
    if syntax.is_compressed:
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
        ds["PixelData"].VR = "OB"
        ds.save_as(path)
    with pytest.raises(InputError, match=rf"big\.dcm.*1 x 65535 x 65535.*2 GiB.*{LIMIT_VARIABLE}"):
        read(path)


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        ("1.2.840.10008.1.2.4.90", b"\xff\x4f\xff\x51\0\x29\0\0" + b"\0\0\xff\xff" * 2 + bytes(40)),
        ("1.2.840.10008.1.2.4.50", b"\xff\xd8\xff\xdb\0\x04\0\0\xff\xc0\0\x0b\x08\xff\xff\xff\xff" + bytes(40)),
    ],
)
def test_a_codestream_that_declares_more_is_refused_before_decoding(tmp_path, monkeypatch, syntax, stream):
    path = make_slice(tmp_path / "bomb.dcm", HU, position=(0, 0, 0))
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    ds.PixelData = pydicom.encaps.encapsulate([stream])
    ds["PixelData"].VR = "OB"
    ds.save_as(path)
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda self: True))
    with pytest.raises(InputError, match="a compressed frame of 65535 x 65535 pixels; expected 12 x 15"):
        read(path)


def test_lossy_compression_is_noted(tmp_path):
    path = make_slice(tmp_path / "a.dcm", HU, position=(0, 0, 0), LossyImageCompression="01")
    assert "lossy" in read(path).notes[0]
    assert read(make_slice(tmp_path / "b.dcm", HU, position=(0, 0, 0))).notes == ()


def test_the_scanner_of_a_derived_image_is_the_equipment_that_acquired_it(tmp_path):
    from retrodict.data import write

    path = make_slice(tmp_path / "a.dcm", HU, position=(0, 0, 0), Manufacturer="ACME", SoftwareVersions="V1", KVP=120)
    source = read(path)
    (out,) = write(source, tmp_path / "b.dcm", like=source, role="mean", description="")
    known = {"manufacturer": "ACME", "software": "V1", "tube_voltage_kV": 120.0, "slice_thickness_mm": 2.5}
    assert acquisition([path]) == known
    assert acquisition([out]) == known
    assert acquisition([tmp_path / "absent.dcm"]) == {}
