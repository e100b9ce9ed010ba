"""DICOM in: values, geometry, and a sentence for every input that cannot be used."""

import numpy as np
import pydicom
import pytest
import torch
from made_files import make_series, make_slice, rewrite, slice_values

from retrodict._check import InputError
from retrodict.data import discover, read

TILT = np.deg2rad(18)


def refused(*parts, path, **options):
    """Check that reading is an InputError whose sentence has all the parts."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_slice_is_in_hu_with_row_spacing_first(tmp_path):
    image = read(make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0)))
    assert image.values.dtype == torch.float32
    assert image.values.shape == (1, 12, 15)
    assert (image.unit, image.spacing, image.format) == ("HU", (0.7, 0.5), "dicom")
    assert np.array_equal(image.values[0], slice_values(0))
    assert image.padding is None


def test_series_is_sorted_by_position(tmp_path):
    image = read(make_series(tmp_path / "s"))
    assert image.format == "dicom-series"
    assert image.spacing == pytest.approx((2.0, 0.7, 0.5))
    assert [p.name for p in image.source] == [f"im{n:03d}.dcm" for n in (5, 4, 3, 2, 1)]
    assert np.array_equal(image.values[0], np.stack([slice_values(i) for i in range(5)]))


def test_oblique_series_has_its_true_slice_distance(tmp_path):
    axes = (np.cos(TILT), np.sin(TILT), 0, 0, 0, -1)
    image = read(make_series(tmp_path / "s", axes=axes, gap=1.3))
    assert image.spacing[0] == pytest.approx(1.3, rel=1e-6)
    assert np.array_equal(image.values[0, 0], slice_values(0))


def test_slope_and_intercept_are_applied(tmp_path):
    path = make_slice(
        tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0), RescaleSlope="0.5", RescaleIntercept="-7.5"
    )
    expected = (slice_values(0) + 1024.0) * 0.5 - 7.5
    assert np.allclose(read(path).values[0], expected)


@pytest.mark.parametrize("declared", [-2000, 63536, None])
def test_padding_is_marked_and_becomes_air(tmp_path, declared):
    hu = slice_values(0)
    hu[:2] = -2000 - 1024
    tags = {} if declared is None else {"PixelPaddingValue": declared}
    if declared == 63536:  # the sign of the tag does not match that of the pixels
        path = make_slice(tmp_path / "a.dcm", hu, position=(0, 0, 0))
        ds = pydicom.dcmread(path)
        ds.add_new("PixelPaddingValue", "US", 63536)
        ds.save_as(path)
    else:
        path = make_slice(tmp_path / "a.dcm", hu, position=(0, 0, 0), **tags)
    image = read(path)
    assert image.padding is not None
    assert image.padding[:2].all()
    assert not image.padding[2:].any()
    assert (image.values[0, :2] == -1024).all()
    assert np.array_equal(image.values[0, 2:], hu[2:])


def test_values_are_clipped_to_twelve_bits(tmp_path):
    hu = slice_values(0)
    hu[0, 0], hu[0, 1], hu[0, 2] = 5000, -1100, -1500  # -1500 is padding only where nothing is below it
    hu[0, 3] = -1600
    image = read(make_slice(tmp_path / "a.dcm", hu, position=(0, 0, 0)))
    assert image.values[0, 0, :4].tolist() == [3071, -1024, -1024, -1024]
    assert image.padding is None


def test_discover_groups_by_series_and_skips_the_rest(tmp_path):
    make_series(tmp_path / "one", series="1.2.1")
    make_series(tmp_path / "two", series="1.2.2", count=3)
    make_slice(tmp_path / "two" / "1.2.840.77", slice_values(0), position=(0, 0, 99), series="1.2.5")
    for name in ("one/SOURCE.txt", "x.json", ".hidden.dcm", "README"):
        (tmp_path / name).write_text("no image")
    found = discover(tmp_path)
    assert [(s.format, len(s.paths)) for s in found] == [("dicom-series", 5), ("dicom", 1), ("dicom-series", 3)]
    assert [s.name for s in found] == ["one", "two-3", "two-3-2"]
    assert discover(tmp_path) == found


def test_series_without_uid_belong_to_their_folder(tmp_path):
    for name in ("a", "b"):
        for path in make_series(tmp_path / name, count=2).iterdir():
            rewrite(path, SeriesInstanceUID="")
    assert [s.name for s in discover(tmp_path)] == ["a", "b"]


def test_folder_with_two_series_is_refused(tmp_path):
    make_series(tmp_path / "one", series="1.2.1", count=2)
    make_series(tmp_path / "two", series="1.2.2", count=2)
    refused("2 images or series", "one, two", "exactly one", path=tmp_path)
    refused("0 images", path=(tmp_path / "empty").mkdir() or tmp_path / "empty")
    refused("nothing", path=tmp_path / "absent")


def test_another_modality_is_refused_unless_asked_for(tmp_path):
    path = make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0), Modality="MR", RescaleSlope=None)
    refused("a.dcm", "Modality MR", "Modality CT", "expect=None", path=path)
    image = read(path, expect=None)
    assert image.unit == "arbitrary"
    assert read(path, expect="MR").unit == "arbitrary"


@pytest.mark.parametrize("tag", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope"])
def test_missing_tag_is_named(tmp_path, tag):
    path = make_slice(tmp_path / "bad.dcm", slice_values(0), position=(0, 0, 0), **{tag: None})
    refused("bad.dcm", f"no {tag} (", path=path)


def test_spacing_can_be_supplied(tmp_path):
    path = make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0), PixelSpacing=None)
    assert read(path, spacing=(0.3, 0.4)).spacing == (0.3, 0.4)
    refused("spacing", "3 numbers", path=path, spacing=(1, 1, 1))
    refused("spacing", "positive", path=path, spacing=(0, 1))


@pytest.mark.parametrize(
    ("tags", "part"),
    [
        ({"RescaleSlope": 0}, "RescaleSlope = 0"),
        ({"RescaleType": "US"}, "RescaleType US"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"NumberOfFrames": 2}, "cut short"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "color"),
        ({"PixelSpacing": [0.5, 0.0]}, "PixelSpacing"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 1, 0]}, "ImageOrientationPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]}, "right angle"),
        ({"NumberOfFrames": 0}, "0 x 12 x 15 pixels"),
        ({"BitsAllocated": 1}, "of 1 bits"),
    ],
)
def test_unusable_tags_are_refused(tmp_path, tags, part):
    refused("bad.dcm", part, path=make_slice(tmp_path / "bad.dcm", slice_values(0), position=(0, 0, 0), **tags))


def test_missing_slice_names_its_neighbors(tmp_path):
    folder = make_series(tmp_path / "s", count=8, leave_out=(3,))
    refused("missing slices", "4.00 mm", "im006.dcm and im004.dcm", "2.00 mm between all", path=folder)
    refused("missing slices", "InstanceNumber 3 and 5", "allow_gaps=True", path=folder, slices="independent")
    assert read(folder, slices="independent", allow_gaps=True).values.shape == (1, 7, 12, 15)


def test_uneven_distances_need_independent_slices(tmp_path):
    folder = make_series(tmp_path / "s")
    rewrite(folder / "im001.dcm", ImagePositionPatient=[-10, 5, 39.1])
    refused("uneven", "3.10 mm between im002.dcm and im001.dcm", 'slices="independent"', path=folder)
    image = read(folder, slices="independent")
    assert np.isnan(image.spacing[0])
    assert image.spacing[1:] == (0.7, 0.5)
    assert not image.regular


def test_sheared_stack_of_a_tilted_gantry_needs_independent_slices(tmp_path):
    axes = (1, 0, 0, 0, np.cos(TILT), -np.sin(TILT))
    folder = make_series(tmp_path / "s", axes=axes)
    for i, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        rewrite(path, ImagePositionPatient=[-10, 5, 30 + 2 * i])  # along the table, not along the normal
    refused("tilted gantry", "pixels", 'slices="independent"', path=folder)
    assert read(folder, slices="independent").values.shape[1] == 5


def test_mixed_sizes_are_refused_in_both_modes(tmp_path):
    folder = make_series(tmp_path / "s")
    make_slice(folder / "odd.dcm", slice_values(0, 8, 9), position=(-10, 5, 90), number=6)
    for mode in ("volume", "independent"):
        refused("5 slice(s) with 12 x 15", "1 slice(s) with 8 x 9 pixels (odd.dcm)", path=folder, slices=mode)


def test_mixed_pixel_spacing_is_refused(tmp_path):
    folder = make_series(tmp_path / "s")
    rewrite(folder / "im002.dcm", PixelSpacing=[0.7, 0.6])
    refused("PixelSpacing 0.7 x 0.6 (im002.dcm)", "of one pixel spacing", path=folder)


def test_mixed_orientation_is_refused(tmp_path):
    folder = make_series(tmp_path / "s")
    rewrite(folder / "im002.dcm", ImageOrientationPatient=[0, 1, 0, 0, 0, 1])
    refused("orientation", "im002.dcm", "of one orientation", path=folder)
    refused("another plane (im002.dcm)", path=folder, slices="independent")


def test_duplicated_position_names_both_files(tmp_path):
    folder = make_series(tmp_path / "s")
    make_slice(folder / "twin.dcm", slice_values(7), position=(-10, 5, 34), number=6)
    refused("im003.dcm and twin.dcm at the same position 34.000 mm", "one file per position", path=folder)


@pytest.mark.parametrize("kept", [0.9, 0.5])
def test_truncated_file_is_refused(tmp_path, kept):
    path = make_slice(tmp_path / "cut.dcm", slice_values(0, 40, 40), position=(0, 0, 0))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused("cut.dcm", "cut short", "40 x 40", "truncated", path=path)


def test_file_cut_in_its_header_is_refused(tmp_path):
    path = make_slice(tmp_path / "cut.dcm", slice_values(0), position=(0, 0, 0))
    path.write_bytes(path.read_bytes()[:700])
    refused("cut.dcm", path=path)


def test_bytes_that_are_not_dicom_are_refused(tmp_path):
    path = tmp_path / "fake.dcm"
    path.write_bytes(b"nothing of the kind" * 50)
    refused("fake.dcm", "not DICOM", path=path)
    with pytest.raises(InputError, match=r"fake\.dcm"):
        discover(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_refused(tmp_path, value):
    path = make_slice(tmp_path / "bad.dcm", slice_values(0), position=(0, 0, 0))
    ds = pydicom.dcmread(path)
    pixels = slice_values(0).astype("<f4")
    pixels[3, 4] = value
    del ds.PixelData, ds.PixelRepresentation, ds.BitsStored, ds.HighBit
    ds.BitsAllocated = 32
    ds.add_new("FloatPixelData", "OF", pixels.tobytes())
    ds.save_as(path)
    refused("bad.dcm", "1 of 180 values", "nan or infinite", path=path)


@pytest.mark.parametrize(
    ("uid", "parts"),
    [
        ("1.2.840.10008.1.2.4.90", ("JPEG 2000", 'pip install "retrodict[io]"')),
        ("1.2.840.10008.1.2.4.70", ("JPEG Lossless", "one of", "pylibjpeg-libjpeg")),
    ],
)
def test_missing_codec_names_syntax_and_extra(tmp_path, monkeypatch, uid, parts):
    path = make_slice(tmp_path / "packed.dcm", slice_values(0), position=(0, 0, 0))
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = uid
    ds.PixelData = pydicom.encaps.encapsulate([b"no codestream "])
    ds["PixelData"].VR = "OB"
    ds.save_as(path)
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    missing = ["pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1"]
    monkeypatch.setattr(Decoder, "missing_dependencies", property(lambda self: missing))
    refused("packed.dcm", uid, *parts, path=path)


def test_broken_codestream_is_refused(tmp_path, shared):
    source = sorted(shared("ct_body_totalsegmentator", "dicom").iterdir())[0]
    path = tmp_path / "broken.dcm"
    content = bytearray(source.read_bytes())
    path.write_bytes(content[: len(content) // 3])
    refused("broken.dcm", path=path)


def test_wrong_mode_is_refused(tmp_path):
    refused("slices", "volume", path=make_series(tmp_path / "s"), slices="volumes")


def test_ge_head(shared):
    folder = shared("ct_head_ge")
    refused("uneven", path=folder)
    refused("InstanceNumber 9 and 15", "allow_gaps=True", path=folder, slices="independent")
    image = read(folder, slices="independent", allow_gaps=True)
    assert image.values.shape == (1, 20, 512, 512)
    assert image.padding is not None
    assert 0.2 < image.padding.float().mean() < 0.25
    assert (image.values[0][image.padding] == -1024).all()
    assert [p.name for p in image.source] == sorted(p.name for p in image.source)


def test_siemens_jpeg2000_agrees_with_the_decoded_copy(shared):
    image = read(shared("ct_body_totalsegmentator", "dicom"))
    copy = read(shared("ct_body_totalsegmentator", "example_ct_dicom_hu.npz"))
    flipped = image.values.flip(1)
    assert torch.equal(image.values, copy.values) or torch.equal(flipped, copy.values)
    assert image.spacing == pytest.approx(copy.spacing)
    assert image.unit == copy.unit == "HU"


def test_ge_abdomen_padding_after_rescale(shared):
    image = read(shared("ct_abdomen_dcmqi"))
    assert image.padding is not None
    assert image.spacing[0] == pytest.approx(1.0)
    assert image.values.min() == -1024
