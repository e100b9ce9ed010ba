"""NIfTI, TIFF, PNG, npz and MetaImage: round trips of values and geometry, and a sentence for every bad file."""

import builtins
import errno
import struct
import zlib

import numpy as np
import pytest
import torch
from made_files import make_mha

from retrodict import _output as atomic
from retrodict._check import InputError, OutputError
from retrodict.data import Image, discover, read, write

nib = pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")
pillow = pytest.importorskip("PIL.Image")

TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]  # an oblique frame


def volume(shape=(5, 7, 9), seed=0):
    """Return (z, y, x) float32 without symmetry."""
    return np.random.default_rng(seed).normal(0, 100, shape).astype(np.float32)


def refused(*parts, path, **options):
    with pytest.raises(InputError) as caught:
        read(path, **options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def save_nifti(path, array, zooms=(0.5, 0.7, 2.5), turn=TURN, units="mm"):
    """Write a (z, y, x) array with an oblique sform, a qform of the same and the given zooms (x, y, z)."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * np.array(zooms), (-31.5, 12.25, 400)
    image = nib.Nifti1Image(array.T, affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units(units)
    nib.save(image, path)
    return path


def changed(image, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return image.with_values(image.values + torch.randn(image.values.shape, generator=generator))


def rewritten(source, path, role="mean", **options):
    """Write a changed copy, read it again, check values and spacing; returns (paths, image read again)."""
    mean = changed(source)
    paths = write(mean, path, like=source, role=role, description="a test", **options)
    again = read(paths[0])
    assert torch.equal(again.values, mean.values)
    assert again.spacing == pytest.approx(source.spacing, rel=1e-6)
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]
    return paths, again


# --- NIfTI


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_round_trip_keeps_the_oblique_affine(tmp_path, suffix):
    path = save_nifti(tmp_path / f"in{suffix}", volume())
    source = read(path)
    assert source.values.shape == (1, 5, 7, 9)
    assert source.spacing == pytest.approx((2.5, 0.7, 0.5))
    assert np.array_equal(source.values[0], volume())
    rewritten(source, tmp_path / f"out{suffix}")
    one, two = nib.load(path).header, nib.load(tmp_path / f"out{suffix}").header
    for name in (
        "pixdim",
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "sform_code",
    ):
        assert np.array_equal(one[name], two[name]), name
    assert two.get_data_dtype() == np.float32
    assert two.get_xyzt_units()[0] == "mm"
    assert bytes(two["descrip"]).startswith(b"retrodict mean: a test")


def test_nifti_scale_is_applied_and_written_out(tmp_path):
    path = save_nifti(tmp_path / "in.nii", volume().astype(np.int16))
    image = nib.load(path)
    image.header.set_slope_inter(2, -1024)
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([2, -1024], "<f4").tobytes()
    path.write_bytes(content)
    source = read(path)
    assert np.allclose(source.values[0], volume().astype(np.int16) * 2.0 - 1024)
    rewritten(source, tmp_path / "out.nii")


@pytest.mark.parametrize("shape", [(1, 7, 9), (7, 9)])
def test_nifti_of_one_slice_is_2d_and_keeps_its_shape(tmp_path, shape):
    path = tmp_path / "in.nii"
    image = nib.Nifti1Image(volume(shape).T, np.diag([0.5, 0.7, 3, 1]))
    nib.save(image, path)
    source = read(path)
    assert source.values.shape == (1, 7, 9)
    assert source.spacing == pytest.approx((0.7, 0.5))
    rewritten(source, tmp_path / "out.nii")
    assert nib.load(tmp_path / "out.nii").shape == shape[::-1]


def test_nifti_units_are_converted(tmp_path):
    path = save_nifti(tmp_path / "in.nii", volume(), zooms=(500, 700, 2500), units="micron")
    assert read(path).spacing == pytest.approx((2.5, 0.7, 0.5))


def test_nifti_with_time_or_color_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 2), np.float32), np.eye(4)), tmp_path / "t.nii")
    refused("t.nii", "(4, 5, 6, 2)", "time", path=tmp_path / "t.nii")
    rgb = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "c.nii")
    refused("c.nii", "one real number per voxel", path=tmp_path / "c.nii")


def test_nifti_that_contradicts_itself_is_refused(tmp_path):
    path = save_nifti(tmp_path / "in.nii", volume())
    content = bytearray(path.read_bytes())
    content[80:84] = np.array([0.9], "<f4").tobytes()  # pixdim[1]
    path.write_bytes(content)
    refused("in.nii", "affine", path=path)


def test_unit_hu_cleans_any_format(tmp_path):
    array = volume()
    array[:, 0] = -2048
    array[0, 3, 3] = 4000
    source = read(save_nifti(tmp_path / "in.nii", array), unit="HU")
    assert source.padding is not None
    assert source.padding[:, 0].all()
    assert (source.values[0, :, 0] == -1024).all()
    assert source.values[0, 0, 3, 3] == 3071


# --- TIFF


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiff_round_trip_keeps_the_resolution_tags(tmp_path, dtype):
    path = tmp_path / "in.tif"
    array = np.abs(volume((11, 13))).astype(dtype)
    tifffile.imwrite(path, array, resolution=((200, 7), (300, 11)), resolutionunit="CENTIMETER")
    source = read(path)
    assert source.spacing == pytest.approx((110 / 300, 70 / 200))
    assert np.array_equal(source.values[0], array.astype(np.float32))
    rewritten(source, tmp_path / "out.tif")
    for name in ("XResolution", "YResolution", "ResolutionUnit"):
        tags = [tifffile.TiffFile(p).pages[0].tags[name].value for p in (path, tmp_path / "out.tif")]
        assert tags[0] == tags[1], name


def test_tiff_in_inches(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", volume((4, 5)), resolution=(254, 127), resolutionunit="INCH")
    assert read(tmp_path / "in.tif").spacing == pytest.approx((0.2, 0.1))


@pytest.mark.parametrize("unit", ["mm", "micron"])
def test_imagej_stack_round_trip(tmp_path, unit):
    scale = {"mm": 1.0, "micron": 1e3}[unit]
    metadata = {"axes": "ZYX", "unit": unit, "spacing": 2.5 * scale}
    resolution = (1 / (0.5 * scale), 1 / (0.7 * scale))
    tifffile.imwrite(tmp_path / "in.tif", volume(), imagej=True, resolution=resolution, metadata=metadata)
    source = read(tmp_path / "in.tif")
    assert source.spacing == pytest.approx((2.5, 0.7, 0.5), rel=1e-5)
    rewritten(source, tmp_path / "out.tif")


def test_ome_stack_round_trip(tmp_path):
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.7, "PhysicalSizeZ": 2500.0}
    metadata |= {"PhysicalSizeXUnit": "mm", "PhysicalSizeYUnit": "mm", "PhysicalSizeZUnit": "µm"}
    tifffile.imwrite(tmp_path / "in.ome.tif", volume(), ome=True, metadata=metadata)
    source = read(tmp_path / "in.ome.tif")
    assert source.spacing == pytest.approx((2.5, 0.7, 0.5))
    rewritten(source, tmp_path / "out.ome.tif")


def test_plain_tiff_takes_and_keeps_the_spacing_given(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", volume(), photometric="minisblack")
    refused("in.tif", "no spacing", "(dz, dy, dx)", path=tmp_path / "in.tif")
    source = read(tmp_path / "in.tif", spacing=(2.5, 0.7, 0.0005))
    rewritten(source, tmp_path / "out.tif")


def test_tiff_with_alpha_of_other_axes_or_of_other_numbers_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "rgba.tif", np.zeros((20, 21, 4), np.uint8), photometric="rgb", extrasamples=[2])
    refused("rgba.tif", "4 samples", "alpha", path=tmp_path / "rgba.tif", spacing=(1, 1))
    tifffile.imwrite(tmp_path / "t.tif", np.zeros((2, 20, 21), np.uint8), metadata={"axes": "TYX"})
    refused("t.tif", "2 frames", "time series", 'slices="independent"', path=tmp_path / "t.tif", spacing=(1, 1))
    assert read(tmp_path / "t.tif", spacing=(1, 1), slices="independent").values.shape == (1, 2, 20, 21)
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((20, 21), np.complex64))
    refused("c.tif", "complex64", path=tmp_path / "c.tif", spacing=(1, 1))


# --- PNG


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_its_depth_for_whole_values_and_becomes_tiff_otherwise(tmp_path, dtype):
    array = np.arange(63, dtype=dtype).reshape(7, 9) * (200 if dtype == np.uint16 else 4)
    pillow.fromarray(array).save(tmp_path / "in.png")
    refused("in.png", "no spacing", "Give spacing=(", path=tmp_path / "in.png")
    source = read(tmp_path / "in.png", spacing=(0.7, 0.5))
    assert np.array_equal(source.values[0], array.astype(np.float32))
    (same,) = write(source, tmp_path / "same.png", like=source, role="mean", description="")
    assert np.array_equal(np.asarray(pillow.open(same)), array)
    paths, _ = rewritten(source, tmp_path / "mean.png")
    assert paths[0].name == "mean.tif"
    assert not (tmp_path / "mean.png").exists()


@pytest.mark.parametrize("mode", ["RGBA", "P", "1"])
def test_png_that_is_neither_gray_nor_rgb_is_refused(tmp_path, mode):
    pillow.new(mode, (9, 8)).save(tmp_path / "c.png")
    refused("c.png", mode, "gray", path=tmp_path / "c.png", spacing=(1, 1))


def test_png_of_16_bit_rgb_is_refused_because_its_lower_bytes_would_be_lost(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(range(30)) for _ in range(4))  # 5 pixels of 3 numbers of 2 bytes
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0))
    (tmp_path / "c.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    refused("c.png", "16 bits", "TIFF", path=tmp_path / "c.png", spacing=(1, 1))


# --- npz


def test_npz_round_trip_keeps_the_other_arrays(tmp_path):
    extra = np.arange(4)
    np.savez(
        tmp_path / "in.npz",
        hu=np.round(volume()),
        pixel_spacing_mm=[0.7, 0.5],
        slice_location=[8.0, 6, 4, 2, 0],
        e=extra,
    )
    source = read(tmp_path / "in.npz")
    assert (source.unit, source.spacing) == ("HU", (2.0, 0.7, 0.5))
    paths, again = rewritten(source, tmp_path / "out")
    assert paths[0].name == "out.npz"
    assert again.unit == "HU"
    with np.load(paths[0]) as file:
        assert np.array_equal(file["e"], extra)
        assert str(file["role"]) == "mean"


def test_npz_unit_spacing_and_the_only_array(tmp_path):
    np.savez(tmp_path / "a.npz", image=volume((7, 9)), spacing=0.5, unit="mGy")
    image = read(tmp_path / "a.npz")
    assert (image.unit, image.spacing) == ("mGy", (0.5, 0.5))
    np.savez(tmp_path / "b.npz", pictures=volume(), first=np.ones(5, bool))
    image = read(tmp_path / "b.npz", spacing=(1, 1), slices="independent")
    assert image.values.shape == (1, 5, 7, 9)
    assert not image.regular
    (out,) = write(image, tmp_path / "c.npz", like=image, role="mean", description="")
    assert read(out, slices="independent").spacing[1:] == (1, 1)
    refused("2 spacings for 3 axes", "independent", path=out)


def test_unusable_npz_is_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=volume((4, 5)), b=volume((4, 5)))
    refused("two.npz", "a (4, 5), b (4, 5)", "image or hu", path=tmp_path / "two.npz")
    np.savez(tmp_path / "obj.npz", image=np.array([{"x": 1}], dtype=object))
    refused("obj.npz[image]", "Python objects", path=tmp_path / "obj.npz")
    np.savez(tmp_path / "rgb.npz", image=np.zeros((20, 21, 3)))
    refused("rgb.npz[image]", "color", path=tmp_path / "rgb.npz", spacing=(1, 1, 1))
    np.savez(tmp_path / "4d.npz", image=np.zeros((2, 3, 4, 5)))
    refused("4d.npz[image]", "(2, 3, 4, 5)", path=tmp_path / "4d.npz")
    np.savez(tmp_path / "c.npz", image=np.zeros((3, 4), complex), spacing=1.0)
    refused("c.npz", "complex values in HU", path=tmp_path / "c.npz", unit="HU")
    np.savez(tmp_path / "s.npz", image=np.array([["a", "b"]]))
    refused("s.npz[image]", "<U1", path=tmp_path / "s.npz")
    np.savez(tmp_path / "n.npz", image=np.zeros((2, 5, 6)), channels=["a", "b", "c"])
    refused("n.npz[image]", "3 channels along axis 0", "a, b, c", path=tmp_path / "n.npz")
    np.savez(tmp_path / "nothing.npz", image=np.zeros((0, 4)), spacing=1.0)
    refused("nothing.npz", "empty", path=tmp_path / "nothing.npz")


# --- MetaImage


@pytest.mark.parametrize("compressed", [True, False])
def test_mha_is_written_as_nifti_with_the_same_place_in_space(tmp_path, compressed):
    array = volume().astype(np.int16)
    spacing, offset = (0.5, 0.7, 2.5), (-20.0, 30.0, -140.0)
    path = make_mha(tmp_path / "in.mha", array, spacing, offset, matrix=TURN.T.ravel(), compressed=compressed)
    source = read(path)
    assert np.array_equal(source.values[0], array)
    assert source.spacing == (2.5, 0.7, 0.5)
    (out,), _ = rewritten(source, tmp_path / "out")
    assert out.name == "out.nii.gz"
    # voxel (x, y, z) = (3, 2, 1): from LPS to RAS the first two coordinates change sign
    place = np.array(offset) + TURN @ (np.array([3, 2, 1]) * spacing)
    loaded = nib.load(out)
    for affine in (loaded.get_sform(), loaded.get_qform()):
        assert affine @ [3, 2, 1, 1] == pytest.approx([-place[0], -place[1], place[2], 1], abs=1e-3)


def test_unusable_mha_is_refused(tmp_path):
    path = make_mha(tmp_path / "in.mha", volume().astype(np.int16), (1, 1, 1), (0, 0, 0))
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    refused("in.mha", "cannot be decoded", path=path)
    path.write_bytes(content.replace(b"= LOCAL", b"= b.raw"))
    refused("in.mha", "ElementDataFile b.raw", "no file there", path=path)
    path.write_bytes(content.replace(b"= LOCAL", b"= ../in.mha"))
    refused("in.mha", "ElementDataFile ../in.mha", "in the same folder", path=path)
    path.write_bytes(b"\x00\x01" * 5000)
    refused("in.mha", "MetaImage", path=path)


# --- all of them


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.tif", "a.png", "a.npz", "a.mha"])
def test_broken_bytes_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"nothing of the kind, " * 60)
    refused(name, path=path, spacing=(1, 1))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.tif", "a.png", "a.npz"])
def test_truncated_files_are_refused(tmp_path, name):
    path, array = tmp_path / name, np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
    if name == "a.tif":
        tifffile.imwrite(path, array)
    elif name == "a.png":
        pillow.fromarray(array).save(path)
    elif name == "a.npz":
        np.savez_compressed(path, image=array)
    else:
        save_nifti(path, np.stack([array] * 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refused(name, path=path, spacing=(1, 1))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("name", ["a.nii", "a.tif", "a.npz"])
def test_values_that_are_not_finite_are_refused(tmp_path, name, value):
    array, path = volume(), tmp_path / name
    array[1, 2, 3] = value
    if name == "a.nii":
        save_nifti(path, array)
    elif name == "a.tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        np.savez(path, image=array)
    refused(name, "1 of 315 values", "nan or infinite", path=path, spacing=(1, 1, 1))


@pytest.mark.parametrize(("name", "package"), [("a.nii", "nibabel"), ("a.tif", "tifffile"), ("a.png", "pillow")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name, package):
    (tmp_path / name).write_bytes(b"x")
    real = builtins.__import__

    def without(module, *args, **kwargs):
        if module.split(".")[0] in ("nibabel", "tifffile", "PIL"):
            raise ImportError(module)
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(name, package, f"pip install {package}", path=tmp_path / name)


def test_unknown_extension_and_wrong_extension(tmp_path):
    (tmp_path / "a.jpeg").write_bytes(b"x")
    refused("a.jpeg", "unknown format", path=tmp_path / "a.jpeg")
    np.savez(tmp_path / "a.npz", image=volume((4, 5)), spacing=1.0)
    source = read(tmp_path / "a.npz")
    with pytest.raises(InputError, match="extension"):
        write(source, tmp_path / "b.png", like=source, role="mean", description="")


def test_existing_file_needs_force(tmp_path):
    np.savez(tmp_path / "a.npz", image=volume((4, 5)), spacing=1.0)
    source = read(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"old")
    with pytest.raises(InputError, match="force"):
        write(changed(source), tmp_path / "b.npz", like=source, role="mean", description="")
    assert (tmp_path / "b.npz").read_bytes() == b"old"
    rewritten(source, tmp_path / "b.npz", force=True)
    with pytest.raises(InputError, match="never replaced"):
        write(changed(source), tmp_path / "a.npz", like=source, role="mean", description="", force=True)
    assert torch.equal(read(tmp_path / "a.npz").values, source.values)


@pytest.mark.parametrize("existing", [False, True])
def test_full_disk_keeps_what_was_there(tmp_path, monkeypatch, existing):
    np.savez(tmp_path / "a.npz", image=volume((4, 5)), spacing=1.0)
    source = read(tmp_path / "a.npz")
    if existing:
        (tmp_path / "b.npz").write_bytes(b"old")

    def full(path, content):
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "_put", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        write(source, tmp_path / "b.npz", like=source, role="mean", description="", force=True)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", *(["b.npz"] if existing else [])]
    assert not existing or (tmp_path / "b.npz").read_bytes() == b"old"


def test_image_checks_itself():
    values = torch.zeros(1, 4, 5)
    with pytest.raises(InputError, match="spacings"):
        Image(values, "HU", (1.0,), "npz", ())
    with pytest.raises(InputError, match="positive"):
        Image(values, "HU", (1.0, float("nan")), "npz", ())
    with pytest.raises(InputError, match="padding"):
        Image(values, "HU", (1.0, 1.0), "npz", (), padding=torch.zeros(3, 3))
    with pytest.raises(InputError, match="values of shape"):
        Image(values, "HU", (1.0, 1.0), "npz", ()).with_values(torch.zeros(1, 4, 6))


def test_discover_names_files_in_subfolders(tmp_path):
    (tmp_path / "x").mkdir()
    np.savez(tmp_path / "x" / "a.npz", image=volume((4, 5)))
    save_nifti(tmp_path / "x" / "a.nii.gz", volume())
    assert [(s.name, s.format) for s in discover(tmp_path)] == [("x_a", "nifti"), ("x_a-2", "npz")]


@pytest.mark.parametrize(
    "name",
    [
        "ct_body_totalsegmentator/example_ct_sm.nii.gz",
        "mr_brain_t2_fpg/t2.nii.gz",
        "mr_hippocampus_msd/hippocampus_001.nii.gz",
    ],
)
def test_real_nifti_round_trip(tmp_path, shared, name):
    path = shared(*name.split("/"))
    rewritten(read(path), tmp_path / "out.nii")
    assert np.array_equal(nib.load(path).affine, nib.load(tmp_path / "out.nii").affine)


def test_real_mha(tmp_path, shared):
    source = read(shared("ct_lung3d_elastix", "3DCT_lung_baseline_small.mha"), unit="HU")
    assert source.values.shape == (1, 64, 78, 57)
    assert source.spacing == (5.0, 2.732, 2.732)
    assert source.values.mean() < -300


def test_real_npz(shared):
    image = read(shared("ct_headphantom_philips", "head_phantom_5mm_hu.npz"))
    assert image.spacing == pytest.approx((5.0, 0.45117188, 0.45117188))
    assert image.unit == "HU"
