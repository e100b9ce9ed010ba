"""Training sets: splits by group, the spacing policy, and patches that are functions of a number."""

import numpy as np
import pytest
import torch
from made_files import make_series, make_slice, slice_values

from retrodict._check import InputError
from retrodict.data import Group, Image, PatchSet, split


def picture(height=40, width=50, spacing=(1.0, 1.0), seed=0, unit="HU", depth=None):
    """Return an image whose values are all different."""
    shape = (1, height, width) if depth is None else (1, depth, height, width)
    values = torch.randperm(int(np.prod(shape)), generator=torch.Generator().manual_seed(seed)).reshape(shape)
    return Image(values.float(), unit, spacing, "npz", ())


def group(name, *images, **options):
    return Group(name, images=images, **options)


def test_split_is_by_group_and_does_not_depend_on_order():
    groups = [Group(f"p{i}") for i in range(10)]
    train, val = split(groups, 0.3, seed=4)
    assert len(val) == 3
    assert not {g.name for g in train} & {g.name for g in val}
    again = split(groups[::-1], 0.3, seed=4)[1]
    assert {g.name for g in again} == {g.name for g in val}
    assert {g.name for g in split(groups, 0.3, seed=5)[1]} != {g.name for g in val}
    assert [g.name for g in split(groups, ["p3"])[1]] == ["p3"]
    assert split(groups, 0.0)[1] == []


def test_bad_splits_are_refused(tmp_path):
    groups = [Group("p1"), Group("p2")]
    with pytest.raises(InputError, match="Did you mean 'p1'"):
        split(groups, ["p11"])
    with pytest.raises(InputError, match="at least one group left"):
        split(groups, ["p1", "p2"])
    with pytest.raises(InputError, match="twice"):
        split([Group("p1"), Group("p1")], 0.5)
    with pytest.raises(InputError, match="fraction"):
        split(groups, 1.5)
    np.savez(tmp_path / "a.npz", image=np.zeros((10, 4, 4)), spacing=1.0)
    twice = [Group("a", (tmp_path / "a.npz",)), Group("b", (str(tmp_path / "*.npz"),))]
    with pytest.raises(InputError, match="every file in one group"):
        split(twice, 0.5)
    halves = [Group("a", (tmp_path / "a.npz",), keep=(0, 5)), Group("b", (tmp_path / "a.npz",), keep=(5, 10))]
    assert len(split(halves, 0.5)[1]) == 1
    with pytest.raises(InputError, match="group x: found no image"):
        split([Group("x", (str(tmp_path / "*.dcm"),)), Group("y")], 0.5)


def test_patch_is_a_function_of_its_number():
    make = [group("a", picture()), group("b", picture(30, 33, seed=1))]
    one, two = PatchSet(make, size=(16, 12)), PatchSet(make, size=(16, 12))
    keys = [3, 1, 4, 1, 5, 2**60]
    batch = one.batch(keys)
    assert batch.shape == (6, 1, 16, 12)
    assert batch.dtype == torch.float32
    for i, key in reversed(list(enumerate(keys))):
        assert torch.equal(two.patch(key), batch[i])
    assert not torch.equal(batch[0], batch[1])
    assert not torch.equal(PatchSet(make, size=(16, 12), seed=1).patch(3), batch[0])


def test_patch_leaves_the_global_generator_alone():
    data = PatchSet([group("a", picture())], size=8)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    data.patch(7)
    assert torch.equal(torch.rand(3), expected)


def test_patches_are_cut_where_place_says():
    source = picture()
    data = PatchSet([group("a", source)], size=(16, 12), flips=False, rotations=False)
    for key in range(20):
        place = data.place(key)
        y, x = place.offset
        assert torch.equal(data.patch(key)[0], source.values[0, y : y + 16, x : x + 12])
        assert place.spacing == (1.0, 1.0)


def test_every_turn_and_every_place_occurs():
    source = picture(9, 9)
    data = PatchSet([group("a", source)], size=8)
    seen = {tuple(data.patch(k)[0].flatten().tolist()) for k in range(400)}
    assert len(seen) == 4 * 8  # places times symmetries of the square
    oblong = PatchSet([group("a", picture(8, 8, spacing=(1.0, 2.0)))], size=8)
    assert len({tuple(oblong.patch(k)[0].flatten().tolist()) for k in range(100)}) == 4  # no quarter turns


def test_pixels_or_groups_are_balanced():
    groups = [group("large", picture(80, 80)), group("small", picture(20, 20), picture(20, 20, seed=2))]
    for balance, share in (("pixels", 6400 / 7200), ("groups", 0.5)):
        data = PatchSet(groups, size=16, balance=balance)
        large = sum(data.place(k).group == "large" for k in range(600)) / 600
        assert large == pytest.approx(share, abs=0.07)


def test_empty_patches_are_drawn_again():
    values = torch.full((1, 100, 100), -1024.0)
    values[0, 40:70, 40:70] = 50
    source = Image(values, "HU", (1.0, 1.0), "npz", ())
    data = PatchSet([group("a", source)], size=16, tries=64)
    assert all((data.patch(k) < -900).float().mean() <= 0.9 for k in range(50))
    free = PatchSet([group("a", source)], size=16, empty_below=None)
    assert any((free.patch(k) < -900).all() for k in range(50))
    air = Image(torch.full((1, 30, 30), -1024.0), "HU", (1.0, 1.0), "npz", ())
    assert PatchSet([group("a", air)], size=16).patch(0).shape == (1, 16, 16)  # nothing better: no endless search


def test_spacing_policy():
    fine, same, coarse = picture(spacing=(0.5, 0.5)), picture(spacing=(1.01, 1.0)), picture(spacing=(2.0, 2.0))
    data = PatchSet([group("f", fine), group("s", same), group("c", coarse)], size=8, spacing=1.0)
    sizes = {name: tuple(v.shape[1:]) for name, v in data.images()}
    assert sizes == {"f": (20, 25), "s": (40, 50), "c": (40, 50)}
    assert [n for n in data.notes if "kept" in n and "group c" in n]
    up = PatchSet([group("c", coarse)], size=8, spacing=1.0, coarser="resample")
    assert up.images()[0][1].shape == (1, 80, 100)
    with pytest.raises(InputError, match="1 x 1 mm or finer"):
        PatchSet([group("c", coarse)], size=8, spacing=1.0, coarser="refuse")


def test_small_images_are_reflected_or_left_out():
    tiny = picture(5, 30)
    data = PatchSet([group("t", tiny)], size=16, flips=False, rotations=False)
    assert "continued by reflection" in data.notes[0]
    patch = data.images()[0][1][0]
    assert patch.shape == (16, 30)
    assert torch.equal(patch[5:10], tiny.values[0])
    assert torch.equal(patch[4], tiny.values[0, 1])
    assert torch.equal(patch[10], tiny.values[0, 3])
    left = PatchSet([group("t", tiny), group("p", picture())], size=16, small="skip")
    assert len(left) == 1
    with pytest.raises(InputError, match="no image"):
        PatchSet([group("t", tiny)], size=16, small="skip")


def test_volumes_give_slices_along_any_axis_and_volumes():
    source = picture(20, 30, spacing=(3.0, 1.0, 2.0), depth=10)
    for axis, count, spacing in ((0, 10, (1.0, 2.0)), (1, 20, (3.0, 2.0)), (2, 30, (3.0, 1.0))):
        data = PatchSet([group("v", source, axis=axis)], size=8)
        assert len(data) == count
        assert data.place(0).spacing == spacing
    assert len(PatchSet([group("v", source, keep=(2, 5))], size=8)) == 3
    data = PatchSet([group("v", source)], size=(4, 8, 8), ndim=3)
    assert len(data) == 1
    assert data.patch(0).shape == (1, 4, 8, 8)


def test_mixed_units_are_refused():
    with pytest.raises(InputError, match="unit 'arbitrary'"):
        PatchSet([group("a", picture()), group("b", picture(unit="arbitrary"))], size=8)


def field(channels, axes="yx", size=12):
    """Return the vector field whose components are the coordinates, from the middle of the image, of every pixel."""
    grid = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * len(axes), indexing="ij")
    along = {f"d{axis}": values for axis, values in zip(axes, grid, strict=True)}
    return along, torch.stack([along.get(name, 100 + grid[0]) for name in channels])


@pytest.mark.parametrize("channels", [("dy", "dx"), ("dx", "m", "dy"), ("dx",), ("dy",), ("dz", "dy", "dx")])
def test_a_vector_field_that_points_away_from_the_middle_does_so_after_every_turn(channels):
    axes = "zyx" if "dz" in channels else "yx"
    along, values = field(channels, axes)
    image = Image(values, "mm", (1.0,) * len(axes), "npz", (), channels=channels)
    data = PatchSet([group("a", image)], size=12, ndim=len(axes), channels=None, empty_below=None)
    assert data.names == channels
    turns = {data._draw(key)[2] for key in range(400)}
    paired = {"dy", "dx"} <= set(channels)
    assert len(turns) == (4 if paired else 2) * 2 ** len(axes)
    for key in range(100):
        patch = data.patch(key)
        for name, component in zip(channels, patch, strict=True):
            if name in along:
                assert torch.equal(component, along[name]), (name, data._draw(key)[2])


def test_a_component_that_leaves_the_plane_is_moved_like_a_gray_value():
    along, values = field(("dz", "dy", "dx"), "zyx")
    image = Image(values, "mm", (1.0, 1.0, 1.0), "npz", (), channels=("dz", "dy", "dx"))
    data = PatchSet([group("a", image, axis=1)], size=12, channels=3, empty_below=None)  # planes of z and x
    for key in range(40):
        dz, dy, dx = data.patch(key)
        assert (dy == dy[0, 0]).all()
        assert torch.equal(dz, along["dz"][:, 0])
        assert torch.equal(dx, along["dx"][0])


def test_channels_stay_together_and_draws_do_not_depend_on_their_number():
    gray = picture()
    three = Image(gray.values * torch.tensor([1.0, 2.0, -3.0])[:, None, None], "HU", (1.0, 1.0), "npz", ())
    one, many = PatchSet([group("a", gray)], size=8), PatchSet([group("a", three)], size=8, channels=3)
    for key in range(20):
        patch = many.patch(key)
        assert torch.equal(patch[0], one.patch(key)[0])
        assert torch.equal(patch[1] * -1.5, patch[2])
    assert many.batch([1, 2]).shape == (2, 3, 8, 8)
    assert torch.equal(many.images()[0][1], three.values)


def test_complex_images_give_complex_patches():
    values = torch.complex(picture().values, picture(seed=1).values)
    data = PatchSet([group("a", Image(values, "arbitrary", (1.0, 1.0), "npz", ()))], size=50, small="reflect")
    assert data.patch(3).dtype == torch.complex64
    with pytest.raises(InputError, match="real values; expected complex"):
        PatchSet([group("a", Image(values, "HU", (1.0, 1.0), "npz", ())), group("b", picture())], size=8)


def test_other_channels_than_asked_for_are_refused():
    three = Image(picture().values.repeat(3, 1, 1), "HU", (1.0, 1.0), "npz", ())
    with pytest.raises(InputError, match="3 channels; expected one"):
        PatchSet([group("a", three)], size=8)
    with pytest.raises(InputError, match=r"'gray',.*those of the images before"):
        PatchSet([group("a", three), group("b", picture())], size=8, channels=None)


def test_files_are_found_by_folder_and_by_pattern(tmp_path):
    make_series(tmp_path / "s", leave_out=(2,))
    (tmp_path / "s" / "README.txt").write_text("no image")
    make_slice(tmp_path / "one.dcm", slice_values(0), position=(0, 0, 0))
    folder = PatchSet([Group("s", (tmp_path / "s",)), Group("o", (tmp_path / "one.dcm",))], size=8)
    pattern = PatchSet([Group("s", (str(tmp_path / "s" / "*"),))], size=8)
    assert (len(folder), len(pattern)) == (5, 4)
    assert folder.unit == "HU"


def test_real_head_slices(shared):
    data = PatchSet([Group("head", (shared("ct_head_ge"),))], size=64, spacing=0.9765)
    assert len(data) == 20
    assert data.images()[0][1].shape == (1, 256, 256)
    assert data.batch(range(8)).isfinite().all()


def test_real_blocks_of_small_slices(shared):
    path = shared("mednist_ct64", "chestct.npz")
    blocks = [Group(f"b{i}", (path,), keep=(300 * i, 300 * i + 300), spacing=(1, 1)) for i in range(2)]
    train, val = split(blocks, 0.5)
    data = PatchSet(train, size=64)
    assert (len(data), len(val)) == (300, 1)
    assert data.patch(0).shape == (1, 64, 64)
