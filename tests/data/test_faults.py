"""Closed forms of readers, writers and training sets that their round trips leave open."""

from __future__ import annotations

import dataclasses

import numpy as np
import pydicom
import pytest
import torch
from made_files import make_mha, make_series, make_slice, rewrite, slice_values

from retrodict import InputError, read, write
from retrodict.data import Group, Image, PatchSet, split

MEAN = {"role": "mean", "description": "a test"}


# ---- DICOM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "tilted"), [(0, True), (1, False)])
def test_a_shear_is_measured_in_pixels_of_its_own_axis(tmp_path, axis, tilted):
    """0.4 mm from the first slice to the last: 0.8 pixels of 0.5 mm along x, 0.2 of 2 mm along y."""
    folder = make_series(tmp_path / "s", spacing=(2.0, 0.5))
    for i, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        place = [-10.0, 5.0, 30 + 2.0 * i]
        place[axis] += 0.1 * i
        rewrite(path, ImagePositionPatient=place)
    if tilted:
        with pytest.raises(InputError, match="tilted gantry"):
            read(folder)
    else:
        assert read(folder).spacing == (2.0, 2.0, 0.5)


def test_a_window_of_a_map_is_what_the_map_spans(tmp_path):
    """From 0 to the largest value: its center is half of its width."""
    image = read(make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0)))
    ramp = torch.linspace(2, 10, image.values.numel()).reshape(image.values.shape)
    (path,) = write(image.with_values(ramp), tmp_path / "sd.dcm", like=image, role="sd", description="a test")
    ds = pydicom.dcmread(path)
    assert float(ds.WindowWidth) == pytest.approx(10, rel=0.01)
    assert float(ds.WindowCenter) == pytest.approx(5, rel=0.01)


def test_written_values_are_those_given_to_a_twentieth_of_a_unit(tmp_path):
    """Slope, intercept and rounding: the first, the last and every value between."""
    image = read(make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0)))
    values = torch.linspace(-1024, 3071, image.values.numel()).reshape(image.values.shape)
    (path,) = write(image.with_values(values), tmp_path / "b.dcm", like=image, **MEAN)
    assert float((read(path).values - values).abs().max()) <= 0.05


def test_padding_is_marked_by_its_own_stored_value(tmp_path):
    """PixelPaddingValue is stored in the padding and nowhere else."""
    hu = slice_values(0)
    hu[0] = -2000
    image = read(make_slice(tmp_path / "a.dcm", hu, position=(0, 0, 0)))
    assert bool(image.padding[0].all())
    (path,) = write(image, tmp_path / "b.dcm", like=image, **MEAN)
    ds = pydicom.dcmread(path)
    marked = ds.pixel_array == int(ds.PixelPaddingValue)
    assert np.array_equal(marked, image.padding.numpy())


def test_a_measurement_keeps_the_noise_of_air(tmp_path):
    image = read(make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0)))
    values = image.values.clone()
    values[0, 0, 0] = -1300.0
    noisy = dataclasses.replace(image, values=values)
    (path,) = write(noisy, tmp_path / "b.dcm", like=image, role="measured", description="a test")
    assert float(read(path, clip=False).values[0, 0, 0]) == pytest.approx(-1300, abs=0.1)


def test_the_spacing_that_is_given_for_a_series_is_used(tmp_path):
    folder = make_series(tmp_path / "s")
    assert read(folder, spacing=(3.0, 0.9, 0.8)).spacing == (3.0, 0.9, 0.8)
    assert read(folder, spacing=(0.9, 0.8)).spacing == (2.0, 0.9, 0.8)


# ---- other files -----------------------------------------------------------------------------------------------------


def test_numbers_of_the_other_byte_order_are_read(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = make_mha(tmp_path / "a.mha", array.byteswap(), (1, 1, 1), (0, 0, 0), compressed=False)
    path.write_bytes(path.read_bytes().replace(b"MSB = False", b"MSB = True"))
    assert torch.equal(read(path).values[0], torch.from_numpy(array.astype(np.float32)))


def test_a_direction_of_a_metaimage_is_a_row_of_its_matrix(tmp_path):
    """x runs down the patient's y: LPS (0, 2, 0) a voxel, (0, -2, 0) in RAS."""
    nibabel = pytest.importorskip("nibabel")
    matrix = (0, 1, 0, 0, 0, 1, 1, 0, 0)
    path = make_mha(tmp_path / "a.mha", np.zeros((2, 3, 4), np.int16), (2, 3, 5), (7, 8, 9), matrix)
    image = read(path)
    (out,) = write(image, tmp_path / "b.nii.gz", like=image, **MEAN)
    affine = nibabel.load(out).affine
    assert affine[:3, 0].tolist() == pytest.approx([0, -2, 0])
    assert affine[:3, 1].tolist() == pytest.approx([0, 0, 3])
    assert affine[:3, 2].tolist() == pytest.approx([-5, 0, 0])
    assert affine[:3, 3].tolist() == pytest.approx([-7, -8, 9])


@pytest.mark.parametrize(("places", "known"), [([0.0, 2.0, 4.0, 6.0], True), ([0.0, 2.0, 5.0, 6.0], False)])
def test_only_even_slice_locations_give_a_distance(tmp_path, places, known):
    arrays = {"image": np.zeros((4, 5, 6)), "spacing": [0.5, 0.7], "slice_location": np.array(places)}
    np.savez(tmp_path / "a.npz", **arrays)
    if known:
        assert read(tmp_path / "a.npz").spacing == (2.0, 0.5, 0.7)
    else:
        with pytest.raises(InputError, match="2 spacings"):
            read(tmp_path / "a.npz")


def test_resolution_of_a_tiff_is_that_of_its_axes(tmp_path):
    """254 pixels an inch across and 127 down: 0.1 mm and 0.2 mm."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 6), np.float32), resolution=(254, 127), resolutionunit=2)
    assert read(tmp_path / "a.tif").spacing == pytest.approx((0.2, 0.1))


def test_hu_are_clipped_to_what_twelve_bits_hold(tmp_path):
    np.savez(tmp_path / "a.npz", hu=np.array([[-1200.0, -1010.0], [3000.0, 4000.0]]), spacing=1.0)
    assert read(tmp_path / "a.npz").values.flatten().tolist() == [-1024, -1010, 3000, 3071]
    assert read(tmp_path / "a.npz", clip=False).values.flatten().tolist() == [-1200, -1010, 3000, 4000]


# ---- training sets ---------------------------------------------------------------------------------------------------


def picture(*shape, **options):
    values = torch.arange(float(np.prod(shape))).reshape(1, *shape)
    return Image(values, "HU", (1.0,) * len(shape), "npz", (), **options)


def test_another_seed_of_a_set_gives_other_patches():
    groups = [Group("a", images=(picture(40, 40),))]
    one, two = (PatchSet(groups, size=8, seed=s, empty_below=None) for s in (0, 1))
    assert any(not torch.equal(one.patch(k), two.patch(k)) for k in range(5))


def test_every_place_of_a_small_image_is_drawn():
    """10 pixels and patches of 8: offsets 0, 1 and 2 along both axes."""
    patches = PatchSet([Group("a", images=(picture(10, 10),))], size=8, empty_below=None)
    assert {patches.place(k).offset for k in range(200)} == {(i, j) for i in range(3) for j in range(3)}


@pytest.mark.parametrize(("start", "allowed"), [(5, True), (4, False)])
def test_parts_of_one_stack_share_no_slice(tmp_path, start, allowed):
    np.savez(tmp_path / "a.npz", image=np.zeros((10, 4, 4)), spacing=1.0)
    parts = [Group(n, (tmp_path / "a.npz",), keep=k) for n, k in (("a", (0, 5)), ("b", (start, 10)))]
    if allowed:
        assert len(split(parts, ["b"])[1]) == 1
    else:
        with pytest.raises(InputError, match="every file in one group"):
            split(parts, ["b"])
