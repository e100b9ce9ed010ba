"""What does not belong to a series is left out and named; what cannot be told apart is refused and named."""

import numpy as np
import pydicom
import pytest
from made_files import make_series, make_slice, rewrite, slice_values

from retrodict._check import InputError
from retrodict.data import discover, read

STACK = np.stack([slice_values(i) for i in range(5)])


def scout(path, **tags):
    hu = slice_values(9, 20, 8)
    kind = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    return make_slice(path, hu, position=(0, 0, 0), axes=(0, 1, 0, 0, 0, -1), **{**kind, "number": 3, **tags})


@pytest.mark.parametrize("word", ["LOCALIZER", "SCOUT"])
@pytest.mark.parametrize("slices", ["volume", "independent"])
def test_a_scout_is_left_out_and_named(tmp_path, word, slices):
    folder = make_series(tmp_path / "s")
    for i, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        rewrite(path, InstanceNumber=i + 1 if i < 2 else i + 2)  # the scout has number 3
    scout(folder / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", word])
    image = read(folder, slices=slices)
    assert np.array_equal(image.values[0], STACK)
    assert image.notes == ("scout.dcm: left out, a localizer (scout view)",)


def test_a_screenshot_in_a_series_is_left_out_and_named(tmp_path):
    folder = make_series(tmp_path / "s")
    shot = make_slice(folder / "dose.dcm", slice_values(7, 30, 40), position=(0, 0, 0), number=6)
    rewrite(shot, ImageType=["DERIVED", "SECONDARY"], ImagePositionPatient=None, ImageOrientationPatient=None)
    image = read(folder)
    assert np.array_equal(image.values[0], STACK)
    assert image.notes[0].startswith("dose.dcm: left out, a secondary capture")


def test_a_series_of_scouts_alone_is_refused(tmp_path):
    for name in "ab":
        scout(tmp_path / "s" / f"{name}.dcm")
    with pytest.raises(InputError, match="a localizer"):
        read(tmp_path / "s")


def test_a_second_copy_of_a_file_is_left_out_and_named(tmp_path):
    folder = make_series(tmp_path / "s")
    (folder / "z.dcm").write_bytes((folder / "im003.dcm").read_bytes())
    image = read(folder)
    assert np.array_equal(image.values[0], STACK)
    assert image.notes == ("z.dcm: left out, a copy of another file",)


def test_one_uid_for_all_slices_does_not_make_them_copies(tmp_path):
    folder = make_series(tmp_path / "s")
    for path in folder.iterdir():
        rewrite(path, SOPInstanceUID="1.2.3.4.5")
    assert np.array_equal(read(folder).values[0], STACK)


@pytest.mark.parametrize("keyword", ["EchoTime", "AcquisitionNumber", "TemporalPositionIdentifier"])
def test_images_at_one_place_are_told_apart_in_the_message(tmp_path, keyword):
    make_slice(tmp_path / "s" / "a.dcm", slice_values(0), position=(0, 0, 0), **{keyword: 1})
    make_slice(tmp_path / "s" / "b.dcm", slice_values(1), position=(0, 0, 0), **{keyword: 2})
    with pytest.raises(InputError, match=rf"a\.dcm and b\.dcm at the same position 0\.000 mm \({keyword} 1.* and 2"):
        read(tmp_path / "s")


def test_each_slice_has_its_own_rescaling(tmp_path):
    folder = make_series(tmp_path / "s")
    for i, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        ds = pydicom.dcmread(path)
        ds.RescaleIntercept = -1024 - 10 * i
        ds.PixelData = (ds.pixel_array + 10 * i).tobytes()
        ds.save_as(path)
    assert np.array_equal(read(folder).values[0], STACK)


def test_noise_in_the_orientation_and_a_missing_thickness_do_no_harm(tmp_path):
    folder = make_series(tmp_path / "s")
    for i, path in enumerate(sorted(folder.iterdir())):
        rewrite(path, ImageOrientationPatient=[1, 1e-5 * i, 0, -1e-5 * i, 1, 0], SliceThickness=None)
    assert read(folder).spacing == pytest.approx((2.0, 0.7, 0.5))


def test_a_number_that_is_none_does_no_harm(tmp_path):
    folder = make_series(tmp_path / "s", count=3)
    for path in folder.iterdir():
        content = path.read_bytes()
        for tag in (b"\x20\x00\x11\x00IS\x02\x00", b"\x20\x00\x13\x00IS\x02\x00"):
            at = content.index(tag) + len(tag)
            content = content[:at] + b"A " + content[at + 2 :]
        path.write_bytes(content)
    (source,) = discover(folder)
    assert np.array_equal(read(source).values[0], STACK[:3])
