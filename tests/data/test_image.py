"""Images of arrays, what an image says of itself, and the plane that its slices lie in."""

import base64
import io
import math

import numpy as np
import pytest
import torch

from retrodict._check import InputError
from retrodict.data import Image, read, resample, write

ARRAY = np.arange(63, dtype=np.float64).reshape(7, 9)


def said(array, **options):
    """Return the sentence with which an array is refused."""
    with pytest.raises(InputError) as caught:
        Image.of(array, **{"spacing": 1.0, **options})
    return str(caught.value)


KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_and_tensors_of_every_kind_of_number_are_taken(kind):
    array = ARRAY.astype(kind)
    tensor = torch.from_numpy(ARRAY).to(getattr(torch, kind))
    for given in (array, array.astype(array.dtype.newbyteorder(">")), np.asfortranarray(array), tensor, array.tolist()):
        image = Image.of(given, unit="mGy", spacing=(0.7, 0.5))
        assert image.values.dtype == torch.float32
        assert torch.equal(image.values[0], torch.from_numpy(ARRAY).float())
        assert (image.unit, image.spacing, image.channels) == ("mGy", (0.7, 0.5), ("gray",))


def test_an_image_keeps_its_values_when_the_array_changes():
    array = ARRAY.astype(np.float32)
    tensor = torch.from_numpy(array.copy())
    images = [Image.of(given, spacing=1.0) for given in (array, tensor, tensor.clone().requires_grad_())]
    array[:] = -1
    tensor[:] = -1
    assert all(torch.equal(i.values[0], torch.from_numpy(ARRAY).float()) and not i.values.requires_grad for i in images)
    assert Image.of(torch.from_numpy(ARRAY).bfloat16(), spacing=1.0).values.dtype == torch.float32


def test_stacks_channels_and_complex_values():
    stack = np.stack([ARRAY] * 3)
    assert Image.of(stack, spacing=2.0).spacing == (2.0, 2.0, 2.0)
    assert Image.of(stack, spacing=(3, 0.7, 0.5)).regular
    apart = Image.of(stack, spacing=(0.7, 0.5))
    assert math.isnan(apart.spacing[0])
    assert not apart.regular
    named = Image.of(stack, spacing=1.0, channels=["r", "g", "b"])
    assert named.values.shape == (3, 7, 9)
    assert Image.of(stack[:, None], spacing=1.0, channels=["a", "b", "c"]).values.shape == (3, 1, 7, 9)
    assert Image.of(ARRAY * 1j, spacing=1.0).values.dtype == torch.complex64


def test_values_in_hu_are_clipped_and_their_padding_marked_unless_asked_not_to():
    array = ARRAY.copy()
    array[0, :2], array[1, 1] = -2048, 5000
    image = Image.of(array, unit="HU", spacing=1.0)
    assert image.padding is not None
    assert int(image.padding.sum()) == 2
    assert float(image.values.max()) == 3071
    assert float(Image.of(array, unit="HU", spacing=1.0, clip=False).values.max()) == 5000


def test_what_is_no_image_is_refused_by_name():
    bad = ARRAY.copy()
    bad[0, :3] = (np.nan, np.inf, -np.inf)
    assert "array: found 3 of 63 values that are nan or infinite" in said(bad)
    assert "3 of 63" in said(torch.from_numpy(bad))
    assert "1 of 63 values" in said(np.where(ARRAY == 5, 1e300, ARRAY))
    assert "type object" in said([[None, 1], [2, 3]])
    assert "an array of numbers" in said([[1, 2], [3]])
    assert "an array of numbers" in said("scan.dcm")
    assert "masked values" in said(np.ma.masked_greater(ARRAY, 5))
    assert "layout torch.sparse_coo" in said(torch.from_numpy(ARRAY).to_sparse())
    assert "shape (7,)" in said(ARRAY[:, 0])
    assert "channels=[...]" in said(np.zeros((2, 3, 4, 5)))
    assert "a color image" in said(np.zeros((20, 21, 3)))
    assert "spacings" in said(ARRAY, spacing=(1, 1, 1))
    assert "positive numbers" in said(ARRAY, spacing=(0, 1))
    assert "spacing: found None; expected numbers in mm" in said(ARRAY, spacing=None)
    assert "different name" in said(np.zeros((2, 4, 5)), channels=["a", "a"])
    assert "an empty image" in said(np.zeros((0, 4)))
    assert "complex values in HU" in said(ARRAY * 1j, unit="HU")


def test_an_array_beyond_the_budget_is_refused_before_it_is_copied(monkeypatch):
    monkeypatch.setenv("RETRODICT_MAX_GIB", "0.001")
    assert "RETRODICT_MAX_GIB" in said(np.broadcast_to(np.float32(0), (1024, 1024)))


def test_an_image_says_in_one_line_what_it_is():
    image = Image.of(ARRAY, unit="HU", spacing=(0.7, 0.5))
    assert repr(image) == "Image(7 x 9; 0 to 62 HU; 0.7 x 0.5 mm)"
    assert repr(Image.of(ARRAY * 1j, spacing=1)) == "Image(7 x 9; complex, magnitude 0 to 62 arbitrary; 1 x 1 mm)"
    color = Image.of(np.zeros((3, 300, 200)), spacing=1.0, channels=["r", "g", "b"])
    assert repr(color) == "Image(300 x 200; channels r, g, b; 0 to 0 arbitrary; 1 x 1 mm)"
    assert all(len(repr(i)) < 120 for i in (image, color, Image.of(np.zeros((9, 512, 512)), spacing=(1, 1))))


@pytest.mark.parametrize("channels", [(), ("r", "g", "b"), ("a", "b")])
def test_a_notebook_shows_a_small_picture_in_the_shape_that_the_spacing_says(channels):
    pillow = pytest.importorskip("PIL.Image")
    array = np.random.default_rng(0).normal(0, 100, (len(channels) or 5, 900, 40))
    image = Image.of(array, unit='<b>&"', spacing=(1.0, 9.0) if channels else (2.0, 1.0, 9.0), channels=channels)
    html = image._repr_html_()
    assert "<b>" not in html
    drawn = pillow.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0])))
    assert drawn.size == (round(256 * 360 / 900), 256)
    assert len(html) < 200_000


RAS = {"axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)), "coronal": ((0, 1, 0), (0, 0, 1), (1, 0, 0))}
RAS["sagittal"] = ((1, 0, 0), (0, 0, 1), (0, 1, 0))


@pytest.mark.parametrize("plane", RAS)
def test_the_plane_of_the_slices_is_the_nearest_one(plane):
    values = torch.zeros(1, 2, 3, 4)

    def turned(degrees):
        """Tilt the slices about their rows, as a gantry does."""
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        normal, down, across = (np.array(v, float) for v in RAS[plane])
        axes = (c * normal + s * down, c * down - s * normal, across)
        return Image(values, "HU", (1.0, 1.0, 1.0), axes=tuple(tuple(a) for a in axes))

    assert [turned(angle).plane for angle in (0, 30, -39, 44)] == [plane, plane, plane, "oblique"]
    flat = Image(values[:, 0], "HU", (1.0, 1.0), axes=RAS[plane][1:])
    assert flat.plane == plane
    assert Image(values, "HU", (1.0, 1.0, 1.0)).plane is None
    assert resample(turned(0), (1.0, 2.0, 2.0)).plane == plane
    with pytest.raises(InputError, match="2 axes"):
        Image(values, "HU", (1.0, 1.0, 1.0), axes=RAS[plane][1:])


def stored(folder, kind, order):
    """Write a volume of three formats whose axes run along the patient's in the given order, with its truth."""
    nib = pytest.importorskip("nibabel")
    truth = np.random.default_rng(0).normal(0, 1, (5, 6, 7)).astype(np.float32)  # along superior, anterior, right
    sizes = {0: 0.5, 1: 0.75, 2: 2.0}  # mm along right, anterior, superior
    array = truth.transpose([{2: 0, 1: 1, 0: 2}[axis] for axis in order])  # slowest first
    affine = np.eye(4)
    for column, axis in enumerate(reversed(order)):
        affine[:3, column] = np.eye(3)[axis] * sizes[axis]
    if kind == "nifti":
        nib.save(nib.Nifti1Image(array.T, affine), folder / "a.nii")
        return folder / "a.nii", truth
    turn = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]  # LPS
    if kind == "nrrd":
        vectors = " ".join(f"({','.join(str(v) for v in turn[:, i])})" for i in range(3))
        shape = " ".join(str(n) for n in reversed(array.shape))
        lines = ["NRRD0004", "type: float", "dimension: 3", f"sizes: {shape}", "space: left-posterior-superior"]
        lines += [f"space directions: {vectors}", "encoding: raw", "endian: little", "", ""]
        (folder / "a.nrrd").write_bytes("\n".join(lines).encode() + array.tobytes())
        return folder / "a.nrrd", truth
    spacing = [sizes[axis] for axis in reversed(order)]
    matrix = " ".join(str(v) for v in (turn / spacing).T.ravel())
    lines = ["NDims = 3", f"DimSize = {' '.join(str(n) for n in reversed(array.shape))}", "ElementType = MET_FLOAT"]
    lines += [f"TransformMatrix = {matrix}", f"ElementSpacing = {' '.join(map(str, spacing))}"]
    (folder / "a.mha").write_bytes("\n".join([*lines, "ElementDataFile = LOCAL", ""]).encode() + array.tobytes())
    return folder / "a.mha", truth


@pytest.mark.parametrize("slices", ["volume", "independent"])
@pytest.mark.parametrize("order", [(0, 2, 1), (1, 2, 0), (0, 1, 2), (1, 0, 2), (2, 1, 0), (2, 0, 1)])
@pytest.mark.parametrize("kind", ["nifti", "mha", "nrrd"])
def test_a_volume_is_brought_to_the_axial_plane_and_written_back_as_it_was(tmp_path, kind, order, slices):
    path, truth = stored(tmp_path, kind, order)
    plain, axial = (read(path, slices=slices, plane=plane) for plane in (None, "axial"))
    assert plain.plane == {0: "sagittal", 1: "coronal", 2: "axial"}[order[0]]
    assert axial.plane == "axial"
    if order[0] == 2:  # as stored, whichever way its slices are turned
        assert axial.order == ()
        assert torch.equal(axial.values, plain.values)
    else:
        assert torch.equal(axial.values[0], torch.from_numpy(truth))
        assert axial.spacing[-2:] == pytest.approx((0.75, 0.5))
        assert slices == "independent" or axial.spacing[0] == pytest.approx(2.0)
    (one,) = write(plain.with_values(plain.values + 1), tmp_path / "one", like=plain, role="mean", description="")
    (two,) = write(axial.with_values(axial.values + 1), tmp_path / "two", like=axial, role="mean", description="")
    assert torch.equal(read(one).values, read(two).values)
    assert read(one).axes == read(two).axes
    assert read(one).spacing == read(two).spacing


def test_an_unknown_plane_is_answered_with_the_known_ones(tmp_path):
    path, _ = stored(tmp_path, "nifti", (2, 1, 0))
    with pytest.raises(InputError, match="Did you mean 'axial'"):
        read(path, plane="axiol")


def test_a_volume_that_does_not_say_how_it_lies_has_no_plane(tmp_path):
    nib = pytest.importorskip("nibabel")
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / "a.nii")
    assert read(tmp_path / "a.nii", plane="axial").plane is None
