"""Files that lie about themselves, packed bombs, damage at random: one clear error each, before anything is made."""

import gzip
import io
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
from made_files import make_mha

from retrodict._check import InputError
from retrodict.data import read, write
from retrodict.data.formats.compressed import take
from retrodict.data.io import check_writable

nib = pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")
pillow = pytest.importorskip("PIL.Image")

STACK = np.random.default_rng(0).integers(0, 255, (3, 12, 14)).astype(np.int16)
FLAT = STACK[0].astype(np.uint8)


def nrrd(encoding, data, *lines, kind="short", sizes="14 12 3"):
    head = ["NRRD0004", f"type: {kind}", f"dimension: {len(sizes.split())}", f"sizes: {sizes}", f"encoding: {encoding}"]
    head += ["space: left-posterior-superior", *lines, "endian: little", "", ""]
    return "\n".join(head).encode() + data


PLACE = "space directions: (0.5,0,0) (0,0.7,0) (0,0,2)"


def save_nifti(path):
    nib.save(nib.Nifti1Image(STACK.T, np.diag([0.5, 0.7, 2, 1])), path)


def save_tiff(path, array=STACK, **options):
    tifffile.imwrite(path, array, photometric="minisblack", **options)


WRITERS = {
    "a.nii": save_nifti,
    "a.nii.gz": save_nifti,
    "a.tif": save_tiff,
    "z.tif": lambda path: save_tiff(path, FLAT, compression="zlib"),
    "l.tif": lambda path: pillow.fromarray(FLAT).save(path, compression="tiff_lzw"),
    "o.ome.tif": lambda path: save_tiff(path, ome=True, metadata={"axes": "ZYX"}),
    "i.tif": lambda path: save_tiff(path, imagej=True, metadata={"axes": "ZYX", "unit": "um"}),
    "a.png": lambda path: pillow.fromarray(FLAT).save(path),
    "a.npz": lambda path: np.savez(path, image=STACK, spacing=[1.0, 1.0, 1.0]),
    "c.npz": lambda path: np.savez_compressed(path, image=FLAT, x=np.arange(9)),
    "a.npy": lambda path: np.save(path, FLAT),
    "a.mha": lambda path: make_mha(path, STACK, (0.5, 0.7, 2.0), (0, 0, 0)),
    "b.mha": lambda path: make_mha(path, STACK, (0.5, 0.7, 2.0), (0, 0, 0), compressed=False),
    "a.nrrd": lambda path: path.write_bytes(nrrd("raw", STACK.tobytes(), PLACE)),
    "z.nrrd": lambda path: path.write_bytes(nrrd("gzip", gzip.compress(STACK.tobytes()), PLACE)),
}
CHECKED = ("a.nii.gz", "z.nrrd", "a.png", "a.npz", "c.npz")  # with a checksum over the values


def damaged(content, draw):
    """Return bytes cut, changed, moved, or with numbers at their limits in the first part."""
    data, kind, at = bytearray(content), draw.randrange(6), draw.randrange(len(content))
    early = draw.randrange(min(400, len(data)))
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        data[at] ^= 1 << draw.randrange(8)
    elif kind == 2:
        limits = (b"\xff\xff\xff\x7f", bytes(4), b"\xff" * 4, struct.pack("<f", np.nan), struct.pack("<f", np.inf))
        data[early : early + 4] = draw.choice(limits)
    elif kind == 3:
        del data[at : at + draw.randrange(1, 30)]
    elif kind == 4:
        data[at:at] = draw.randbytes(draw.randrange(1, 30))
    else:
        data[early] = draw.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("name", WRITERS)
def test_damage_ends_in_one_error_or_in_an_image_that_can_be_written(tmp_path, name):
    WRITERS[name](tmp_path / name)
    good, draw = (tmp_path / name).read_bytes(), random.Random(name)
    given, path = (1.0, 1.0), tmp_path / f"bad-{name}"
    truth = read(tmp_path / name, spacing=given, slices="independent").values
    for number in range(40):
        path.write_bytes(damaged(good, draw))
        try:
            image = read(path, spacing=given if number % 2 else None, slices="independent")
        except InputError:
            continue
        check_writable(image)
        write(image, tmp_path / "out", like=image, role="mean", description="", force=True)
        if name in CHECKED and image.values.shape == truth.shape:
            assert bool((image.values == truth).all()), f"values changed unseen in case {number}"


def said(path, **options):
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert path.name in str(caught.value)
    return str(caught.value)


# --- declared sizes


def nifti_header(shape, **fields):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["dim"][: len(shape) + 1] = [len(shape), *shape]
    header["pixdim"][1:4], header["magic"], header["vox_offset"] = 1, b"n+1", 352
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + bytes(4)


def big_png(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def npy_header(shape, kind="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


LIARS = {
    "a.nii": nifti_header((32767, 32767, 32767)),
    "a.nii.gz": gzip.compress(nifti_header((32767, 32767, 32767))),
    "a.png": big_png(2**31 - 1, 2**31 - 1),
    "a.npy": npy_header((10**6, 10**6)),
    "b.npy": npy_header((3, 3), "<U400000000"),
    "a.mha": b"NDims = 3\nDimSize = 99999 99999 99999\nElementType = MET_SHORT\nElementDataFile = LOCAL\n",
    "a.nrrd": nrrd("gzip", gzip.compress(bytes(9)), "spacings: 1 1 1", sizes="99999 99999 99999"),
}


@pytest.mark.parametrize("name", LIARS)
def test_a_declared_size_is_judged_before_anything_of_it_is_made(tmp_path, name):
    (tmp_path / name).write_bytes(LIARS[name])
    sentence = said(tmp_path / name, spacing=(1, 1), slices="independent")
    assert "GiB when read; expected at most 2 GiB" in sentence
    assert "RETRODICT_MAX_GIB" in sentence


def test_the_values_far_behind_a_header_are_not_looked_for(tmp_path):
    for offset in (1e30, np.inf, np.nan, -1e9, 2**27):
        (tmp_path / "a.nii").write_bytes(nifti_header((4, 4, 4), vox_offset=offset) + bytes(128))
        said(tmp_path / "a.nii")


# --- packed


class Counted:
    """A file of zeros that never ends, packed, and how much of it was asked for."""

    def __init__(self, kind):
        self.packer = zlib.compressobj(9, wbits=31 if kind == "gzip" else 15)
        self.asked, self.rest = 0, b""

    def read(self, count=-1):
        while len(self.rest) < count:
            self.rest += self.packer.compress(bytes(2**20))
        self.asked += count
        found, self.rest = self.rest[:count], self.rest[count:]
        return found


@pytest.mark.parametrize("kind", ["gzip", "zlib"])
def test_unpacking_stops_where_the_header_says(kind, monkeypatch):
    monkeypatch.setattr("retrodict.data.formats.compressed.SURPLUS", 2**22)
    monkeypatch.setattr("retrodict.data.formats.compressed.STEP", 2**14)
    endless = Counted(kind)
    with pytest.raises(ValueError, match="far more packed than the header declares"):
        take(endless, kind, 100)
    assert endless.asked < 2**20


def test_arrays_of_an_npz_that_are_not_used_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("retrodict.data.formats.npz.CARRIED", 10_000)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in {"big": np.ones(5000), "image": FLAT, "spacing": np.ones(2), "small": np.ones(3)}.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
        archive.writestr("broken.npy", npy_header((10**9,)))
        archive.writestr("odd.npy", npy_header((1,), "|O"))
    opened, real = [], np.lib.format.read_array

    def watched(file, **options):
        opened.append(file.name)
        return real(file, **options)

    monkeypatch.setattr(np.lib.format, "read_array", watched)
    image = read(path)
    assert sorted(opened) == ["image.npy", "small.npy", "spacing.npy"]
    (out,) = write(image, tmp_path / "b", like=image, role="mean", description="")
    with np.load(out) as file:
        assert np.array_equal(file["small"], np.ones(3))
        assert sorted(file["not_copied"]) == ["big", "broken", "odd"]


# --- geometry


def test_directions_that_span_no_space_are_refused(tmp_path):
    path = make_mha(tmp_path / "a.mha", STACK, (1, 1, 1), (0, 0, 0), matrix=(1, 0, 0, 1, 0, 0, 0, 0, 1))
    assert "TransformMatrix; expected axes of which none depends on the others" in said(path)
    make_mha(path, STACK, (1, 1, 1), (0, 0, 0), matrix=(0,) * 9)
    assert "TransformMatrix" in said(path)
    make_mha(path, STACK, (1, 1, 1), (0, 0, 0), matrix=(2, 0, 0, 0, 1, 0, 0, 0, 1))
    assert "unit vectors" in said(path)
    make_mha(path, STACK, (1, 1, 1), ("nan", 0, 0))
    assert "finite numbers" in said(path)
    flat = "space directions: (1,0,0) (0,1,0) (1,1,0)"
    (tmp_path / "a.nrrd").write_bytes(nrrd("raw", STACK.tobytes(), flat))
    assert "space directions" in said(tmp_path / "a.nrrd")
    affine = np.array([[1, 0.9999999, 0, 0], [0, 1e-7, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    image = nib.Nifti1Image(STACK.T, None)
    image.header.set_sform(affine, code=1)
    nib.save(image, tmp_path / "a.nii")
    assert "affine" in said(tmp_path / "a.nii")


def test_a_metaimage_without_spacing_has_none(tmp_path):
    head = b"NDims = 2\nDimSize = 14 12\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(head + STACK[0].tobytes())
    assert "no spacing in the file" in said(tmp_path / "a.mha")
    assert read(tmp_path / "a.mha", spacing=(2, 3)).spacing == (2, 3)


def test_analyze_is_refused_because_it_does_not_know_left_from_right(tmp_path):
    nib.save(nib.AnalyzeImage(STACK.T, np.eye(4)), tmp_path / "a.img")
    for name in ("a.hdr", "a.img"):
        assert "which does not say where left and right are" in said(tmp_path / name)


# --- PNG


def test_a_png_that_holds_more_than_its_picture_is_refused(tmp_path):
    path = tmp_path / "a.png"
    pillow.fromarray(FLAT).save(path, transparency=3)
    assert "a transparent color" in said(path, spacing=(1, 1))
    pages = [pillow.fromarray(FLAT), pillow.fromarray(FLAT + 1)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert "2 frames" in said(path, spacing=(1, 1))
    pillow.fromarray(FLAT).save(path)
    good = path.read_bytes()
    path.write_bytes(good[:-12])  # without the chunk that ends it
    assert "cut short" in said(path, spacing=(1, 1))
    path.write_bytes(good[:-13] + b"x" + good[-12:])
    assert "checksum is wrong" in said(path, spacing=(1, 1))


def test_every_exception_of_a_decoder_keeps_its_cause(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00\x05\x00abc")
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.npy", spacing=(1, 1))
    assert caught.value.__cause__ is not None
