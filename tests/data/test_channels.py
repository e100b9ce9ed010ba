"""Several channels and complex values: files that other programs write, and what `Image` says of channels."""

import numpy as np
import pytest
import torch

from retrodict._check import InputError
from retrodict.data import Image, read, write

tifffile = pytest.importorskip("tifffile")
pillow = pytest.importorskip("PIL.Image")

COLOR = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)  # (H, W, C)
SPACING = (0.7, 0.5)


def copied(source, path, shift=0.0):
    """Write the image with a shift, read it again, check values and names, and return the path."""
    result = source.with_values(source.values + shift)
    (out,) = write(result, path, like=source, role="mean", description="", force=True)
    try:
        again = read(out)
    except InputError:
        again = read(out, spacing=source.spacing)
    assert torch.equal(again.values, result.values)
    assert again.channels == source.channels
    assert again.spacing == pytest.approx(source.spacing, rel=1e-5)
    return out


def test_rgb_png_round_trip(tmp_path):
    pillow.fromarray(COLOR).save(tmp_path / "in.png")
    source = read(tmp_path / "in.png", spacing=SPACING)
    assert source.channels == ("r", "g", "b")
    assert np.array_equal(source.values, np.moveaxis(COLOR, -1, 0))
    out = copied(source, tmp_path / "same.png")
    assert np.array_equal(np.asarray(pillow.open(out)), COLOR)
    out = copied(source, tmp_path / "mean.png", shift=0.25)
    assert out.name == "mean.tif"
    assert tifffile.imread(out).shape == (9, 7, 3)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_rgb_tiff_round_trip(tmp_path, planar):
    pixels = COLOR if planar == "contig" else np.moveaxis(COLOR, -1, 0)
    tifffile.imwrite(
        tmp_path / "in.tif", pixels, photometric="rgb", planarconfig=planar, resolution=(20, 10), resolutionunit=3
    )
    source = read(tmp_path / "in.tif")
    assert (source.channels, source.spacing) == (("r", "g", "b"), (1.0, 0.5))
    assert np.array_equal(source.values, np.moveaxis(COLOR, -1, 0))
    copied(source, tmp_path / "out.tif", shift=0.25)


NAMES = ["DAPI", "GFP"]
OME = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.7, "PhysicalSizeXUnit": "mm", "PhysicalSizeYUnit": "mm"}
DEPTH = {"PhysicalSizeZ": 2.5, "PhysicalSizeZUnit": "mm"}


@pytest.mark.parametrize(
    ("kind", "axes"),
    [(k, a) for k in ("plain", "imagej", "ome") for a in ("CYX", "ZCYX", "CZYX") if (k, a) != ("imagej", "CZYX")],
)
def test_a_tiff_with_an_axis_of_channels_keeps_them_and_their_names(tmp_path, kind, axes):
    sizes = {"C": 2, "Z": 4, "Y": 9, "X": 7}
    array = np.random.default_rng(1).normal(size=[sizes[a] for a in axes]).astype(np.float32)
    metadata = {"axes": axes, "unit": "mm", "spacing": 2.5}
    metadata |= {
        "imagej": {"Labels": NAMES * (4 if "Z" in axes else 1)},
        "plain": {"channels": NAMES},
        "ome": {"Channel": {"Name": NAMES}, **OME, **DEPTH},
    }[kind]
    options = {} if kind == "plain" else {kind: True}
    code = {"resolutionunit": 3, "resolution": (20, 10 / 0.7)} if kind == "plain" else {"resolution": (2, 1 / 0.7)}
    tifffile.imwrite(tmp_path / "in.tif", array, metadata=metadata, photometric="minisblack", **code, **options)
    source = read(tmp_path / "in.tif")
    assert source.channels == ("DAPI", "GFP")
    assert source.spacing == pytest.approx((2.5, 0.7, 0.5)[-len(axes) + 1 :], rel=1e-5)
    assert np.array_equal(source.values, np.moveaxis(array, axes.index("C"), 0))
    copied(source, tmp_path / "out.tif", shift=0.25)


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_color_of_imagej_and_ome_keeps_its_names(tmp_path, kind):
    metadata = {"axes": "YXS"} | ({"unit": "mm"} if kind == "imagej" else OME)
    tifffile.imwrite(
        tmp_path / "in.tif", COLOR, photometric="rgb", resolution=(2, 1 / 0.7), metadata=metadata, **{kind: True}
    )
    source = read(tmp_path / "in.tif")
    assert source.channels == ("r", "g", "b")
    copied(source, tmp_path / "out.tif", shift=0.25)


@pytest.mark.parametrize("axis", [None, 0, -1, 1])
def test_npz_keeps_the_axis_and_the_names_of_its_channels(tmp_path, axis):
    values = np.random.default_rng(2).normal(size=(2, 9, 7)).astype(np.float32)
    place = {} if axis is None else {"channel_axis": axis}
    array = np.moveaxis(values, 0, axis or 0)
    np.savez(tmp_path / "in.npz", field=array, channels=["dy", "dx"], spacing=SPACING, unit="mm", **place)
    source = read(tmp_path / "in.npz")
    assert (source.channels, source.unit) == (("dy", "dx"), "mm")
    assert np.array_equal(source.values, values)
    out = copied(source, tmp_path / "out.npz", shift=0.5)
    with np.load(out) as file:
        assert file["field"].shape == array.shape
        assert file["channels"].tolist() == ["dy", "dx"]


def test_npz_holds_complex_values_of_a_volume_and_of_one_named_channel(tmp_path):
    values = np.random.default_rng(3).normal(size=(4, 9, 7, 2)).view(np.complex128)[..., 0]
    np.savez(tmp_path / "in.npz", image=values, spacing=(2.0, *SPACING))
    source = read(tmp_path / "in.npz")
    assert source.values.dtype == torch.complex64
    assert np.array_equal(source.values[0], values.astype(np.complex64))
    assert source.channels == ("gray",)
    copied(source, tmp_path / "out.npz", shift=0.5 - 2j)
    np.savez(tmp_path / "one.npz", image=values[0], spacing=SPACING, channels=["coil"])
    source = read(tmp_path / "one.npz")
    assert source.channels == ("coil",)
    copied(source, tmp_path / "out.npz")
    values[1, 2, 3] = complex(0, np.nan)
    np.savez(tmp_path / "bad.npz", image=values, spacing=(2.0, *SPACING))
    with pytest.raises(InputError, match="1 of 252 values that are nan"):
        read(tmp_path / "bad.npz")


def test_npz_arrays_may_have_the_names_of_arguments_of_savez(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.ones((9, 7)), spacing=1.0)
    source = read(tmp_path / "a.npz")
    source.header.others["file"] = np.arange(3)
    (out,) = write(source, tmp_path / "b.npz", like=source, role="mean", description="")
    with np.load(out) as file:
        assert file["file"].tolist() == [0, 1, 2]


def test_values_in_hu_are_cleaned_in_every_channel_and_their_padding_is_shared(tmp_path):
    values = np.random.default_rng(4).normal(0, 100, (2, 9, 7))
    values[0, 0] = -2000
    values[1, 5, 5] = 9000
    np.savez(tmp_path / "a.npz", hu=values, channels=["80 kV", "140 kV"], spacing=SPACING)
    image = read(tmp_path / "a.npz")
    assert (image.values[:, 0] == -1024).all()
    assert image.values[1, 5, 5] == 3071
    assert image.padding is not None
    assert image.padding[0].all()
    assert not image.padding[1:].any()


def image(count, dtype=torch.float32, **options):
    return Image(torch.zeros(count, 4, 5, dtype=dtype), "mm", (1.0, 1.0), "npz", (), **options)


def test_an_image_names_its_channels():
    assert image(1).channels == ("gray",)
    assert image(3).channels == ("0", "1", "2")
    assert image(2, channels=("dy", "dx")).channels == ("dy", "dx")
    for names in (("dy",), ("dy", "dy")):
        with pytest.raises(InputError, match="a different name for each of the 2"):
            image(2, channels=names)
    named = image(2, channels=("dy", "dx"))
    assert named.with_values(torch.zeros(2, 4, 5)).channels == ("dy", "dx")
    assert named.with_values(torch.zeros(1, 4, 5)).channels == ("gray",)
    assert named.with_values(torch.zeros(2, 4, 5, dtype=torch.complex128)).values.dtype == torch.complex64


def test_gray_says_what_is_not_gray():
    one = image(1)
    assert one.gray() is one
    with pytest.raises(InputError, match=r"2 channels \(dy, dx\); expected a gray image"):
        image(2, channels=("dy", "dx")).gray()
    with pytest.raises(InputError, match="complex values; expected a gray image of real values"):
        image(1, torch.complex64).gray()


def test_a_result_of_other_channels_than_its_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="the size of the source"):
        write(image(3), tmp_path / "a", like=image(1), role="mean", description="")
