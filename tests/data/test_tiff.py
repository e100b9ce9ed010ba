"""TIFF as other programs write it: kinds of numbers and colors, compressions, pixel sizes, and what is refused."""

import warnings
import zlib

import numpy as np
import pytest

from retrodict._check import InputError
from retrodict.data import Image, read, write
from retrodict.data.io import check_writable
from retrodict.data.units import length_unit

tifffile = pytest.importorskip("tifffile")
pillow = pytest.importorskip("PIL.Image")

ARRAY = (np.arange(20 * 24).reshape(20, 24) * 7 % 251).astype(np.uint8)
TENTH = {"resolution": (100, 100), "resolutionunit": "CENTIMETER"}  # 0.1 mm


def made(path, array=ARRAY, **options):
    """Write a TIFF file with tifffile; 0.1 mm unless told otherwise."""
    tifffile.imwrite(path, array, **{"photometric": "minisblack", "metadata": None, **TENTH, **options})
    return path


def changed(path, **tags):
    """Change numbers in the tags of the first page in place; returns the path."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        places = [(page.tags[name], value) for name, value in tags.items()]
        order = "little" if file.byteorder == "<" else "big"
    content = bytearray(path.read_bytes())
    for tag, value in places:
        width = {3: 2, 4: 4, 5: 4, 16: 8}[int(tag.dtype)]
        for i, number in enumerate(value if isinstance(value, tuple) else (value,)):
            start = tag.valueoffset + i * width
            content[start : start + width] = int(number).to_bytes(width, order)
    path.write_bytes(content)
    return path


def said(path, **options):
    """Return the sentence with which a file is refused."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert path.name in str(caught.value)
    return str(caught.value)


# --- numbers and colors

KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "float32", "float64")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_number_is_read(tmp_path, kind, order):
    values = ARRAY.astype(kind) if kind != "int8" else (ARRAY // 2 - 60).astype(np.int8)
    for big in (False, True):
        path = made(tmp_path / "a.tif", values, byteorder=order, bigtiff=big)
        image = read(path)
        assert np.array_equal(image.values[0], values.astype(np.float32))
        assert image.spacing == pytest.approx((0.1, 0.1))
        check_writable(image)


@pytest.mark.parametrize(("kind", "white"), [("uint8", 255), ("uint16", 65535), ("uint32", 2**32 - 1)])
def test_where_zero_is_white_brightness_is_turned(tmp_path, kind, white):
    values = ARRAY.astype(kind)
    image = read(made(tmp_path / "a.tif", values, photometric="miniswhite"))
    assert np.array_equal(image.values[0], (white - values).astype(np.float32))
    (out,) = write(image, tmp_path / "b", like=image, role="mean", description="")
    assert np.array_equal(read(out).values, image.values)
    packed = tmp_path / "c.tif"  # Pillow, which unpacks LZW here, turns 8 bits by itself and no others
    mode = {"uint8": "L", "uint16": "I;16"}.get(kind)
    if mode:
        pillow.fromarray(values).save(packed, compression="tiff_lzw", tiffinfo={262: 0, 282: 100, 283: 100, 296: 3})
        with tifffile.TiffFile(packed) as file:
            stored = 255 - values if kind == "uint8" else values  # Pillow also turns what it writes
            photometric = int(file.pages[0].photometric)
        expected = white - stored.astype(np.float32) if photometric == 0 else values
        assert np.array_equal(read(packed, spacing=(1, 1)).values[0], expected)


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_where_zero_is_white_and_black_is_not_known_the_file_is_refused(tmp_path, kind):
    assert "WhiteIsZero" in said(made(tmp_path / "a.tif", ARRAY.astype(kind), photometric="miniswhite"))


COLORS = {3: "a palette", 4: "a transparency mask", 5: "CMYK", 6: "YCbCr", 8: "CIE L*a*b*", 32803: "a color filter"}


@pytest.mark.parametrize("code", [*COLORS, 34892, 999])
def test_colors_that_are_neither_gray_nor_rgb_are_refused(tmp_path, code):
    path = changed(made(tmp_path / "a.tif"), PhotometricInterpretation=code)
    sentence = said(path)
    assert COLORS.get(code, "colors stored as") in sentence or "decoded" in sentence


def test_a_palette_is_not_taken_for_gray(tmp_path):
    picture = pillow.fromarray(ARRAY)
    picture = picture.convert("RGB").quantize(16)
    picture.save(tmp_path / "a.tif")
    assert "a palette" in said(tmp_path / "a.tif", spacing=(1, 1))


def test_samples_of_a_pixel_are_colors_channels_or_refused(tmp_path):
    color = np.stack([ARRAY, ARRAY // 2, 255 - ARRAY], -1)
    for planar in ("contig", "separate"):
        stored = color if planar == "contig" else np.moveaxis(color, -1, 0)
        image = read(made(tmp_path / "rgb.tif", stored, photometric="rgb", planarconfig=planar))
        assert image.channels == ("r", "g", "b")
        assert np.array_equal(image.values, np.moveaxis(color, -1, 0))
        gray = read(made(tmp_path / "s.tif", stored, planarconfig=planar, extrasamples=["unspecified"] * 2))
        assert gray.channels == ("0", "1", "2")
        assert np.array_equal(gray.values, image.values)
    four = np.concatenate([color, color[..., :1]], -1)
    for extra in ("unassalpha", "assocalpha", "unspecified"):
        assert "4 samples" in said(made(tmp_path / "x.tif", four, photometric="rgb", extrasamples=[extra]))
    pillow.fromarray(ARRAY).convert("LA").save(tmp_path / "la.tif")
    assert "alpha" in said(tmp_path / "la.tif", spacing=(1, 1))


def test_bits_that_are_no_bytes_are_refused(tmp_path):
    pillow.fromarray(ARRAY > 100).save(tmp_path / "a.tif")
    assert "1 bits a value" in said(tmp_path / "a.tif", spacing=(1, 1))


# --- pages and axes


def test_pages_of_one_kind_are_a_stack_and_others_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for i in range(3):
            file.write(ARRAY + i, photometric="minisblack", metadata=None, **TENTH)
    image = read(tmp_path / "a.tif", slices="independent")
    assert image.values.shape == (1, 3, 20, 24)
    assert float(image.values[0, 2, 0, 0]) == ARRAY[0, 0] + 2
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(ARRAY, photometric="minisblack", metadata=None)
        file.write(ARRAY[:9], photometric="minisblack", metadata=None)
    assert "2 images of different size or kind" in said(tmp_path / "b.tif", spacing=(1, 1))
    with tifffile.TiffWriter(tmp_path / "c.tif") as file:
        file.write(ARRAY, photometric="minisblack", metadata=None)
        file.write(ARRAY, photometric="miniswhite", metadata=None)
    assert "2 images" in said(tmp_path / "c.tif", spacing=(1, 1), slices="independent")


@pytest.mark.parametrize("flavor", ["ome", "imagej", "plain"])
def test_a_time_series_is_no_volume(tmp_path, flavor):
    stack = np.stack([ARRAY] * 3).astype(np.float32)
    flags = {} if flavor == "plain" else {flavor: True}
    path = made(tmp_path / "a.tif", stack, metadata={"axes": "TYX"}, **flags)
    assert "3 frames, a time series" in said(path, spacing=(1, 1, 1))
    image = read(path, spacing=(1, 1), slices="independent")
    assert image.values.shape == (1, 3, 20, 24)
    assert not image.regular
    four = np.stack([stack] * 2)
    path = made(tmp_path / "b.tif", four, metadata={"axes": "TZYX"}, **flags)
    assert "axes TZYX" in said(path, spacing=(1, 1), slices="independent")


# --- compressions

PACKINGS = {"tiff_lzw": "uint8 uint16 float32 rgb", "packbits": "uint8 uint16 rgb", "tiff_adobe_deflate": "uint8 rgb"}
PACKINGS |= {"zstd": "uint8 uint16", "lzma": "uint8"}


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize(("packing", "kind"), [(p, k) for p, kinds in PACKINGS.items() for k in kinds.split()])
def test_packed_files_are_read_whichever_library_unpacks_them(tmp_path, packing, kind, predictor):
    if predictor == 2 and (packing == "packbits" or kind == "float32"):
        pytest.skip("no such file")
    values = np.stack([ARRAY, ARRAY // 2, 255 - ARRAY], -1) if kind == "rgb" else ARRAY.astype(kind)
    try:
        pillow.fromarray(values).save(tmp_path / "a.tif", compression=packing, tiffinfo={317: predictor})
    except (OSError, RuntimeError):
        pytest.skip("not in this build of libtiff")
    image = read(tmp_path / "a.tif", spacing=(1, 1))
    assert np.array_equal(image.values, np.moveaxis(values.reshape(20, 24, -1), -1, 0).astype(np.float32))


def test_a_stack_in_lzw_is_read_page_by_page(tmp_path):
    pages = [pillow.fromarray(ARRAY + i) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    image = read(tmp_path / "a.tif", spacing=(1, 1), slices="independent")
    assert np.array_equal(image.values[0], np.stack([ARRAY + i for i in range(3)]))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_lzw_of_either_order_of_bytes_is_right_or_refused(tmp_path, kind, order):
    """Pillow has the bytes of some of them in the wrong order."""
    values = (ARRAY.astype(int) - (100 if kind[0] != "u" else 0)).clip(-128, 127 if kind == "i1" else 255).astype(kind)
    stored = np.frombuffer(values.astype(order + kind).tobytes(), np.uint8).reshape(20, -1)
    pillow.fromarray(stored).save(tmp_path / "bytes.tif", compression="tiff_lzw", strip_size=10**6)
    with tifffile.TiffFile(tmp_path / "bytes.tif") as file:
        (start,), (count,) = file.pages[0].dataoffsets, file.pages[0].databytecounts
    strip = (tmp_path / "bytes.tif").read_bytes()[start : start + count]
    path = made(tmp_path / "a.tif", values, byteorder=order)
    content = path.read_bytes()
    path.write_bytes(content + strip)
    changed(path, StripOffsets=len(content), StripByteCounts=count, Compression=5)
    if kind in ("u1", "i1", "u2") or (order == "<" and kind != "f8"):
        assert np.array_equal(read(path).values[0], values.astype(np.float32))
    else:
        assert "pip install imagecodecs" in said(path)


def test_a_compression_that_nothing_here_unpacks_says_what_to_install(tmp_path):
    for code in (34712, 50002):  # JPEG 2000, JPEG XL
        sentence = said(changed(made(tmp_path / "a.tif"), Compression=code))
        assert "compression of uint8 values" in sentence
        assert "pip install imagecodecs" in sentence


def test_missing_and_short_segments_are_not_read_as_zeros(tmp_path):
    for tags in ({"StripByteCounts": 0}, {"StripOffsets": 0}, {"StripByteCounts": 479}, {"StripOffsets": 10**6}):
        path = changed(made(tmp_path / "a.tif"), **tags)
        assert "complete TIFF file" in said(path) or "cut short" in said(path) or "decoded" in said(path)
    path = made(tmp_path / "b.tif", compression="zlib")
    path.write_bytes(path.read_bytes()[:-9])
    said(path)


def test_deflate_that_unpacks_to_far_more_than_declared_is_stopped(tmp_path):
    bomb, path = zlib.compress(bytes(2**26 + 2**20), 1), made(tmp_path / "a.tif", compression="zlib")
    content = path.read_bytes()
    path.write_bytes(content + bomb)
    changed(path, StripOffsets=len(content), StripByteCounts=len(bomb))
    assert "unpacks to more than" in said(path)


def test_a_declared_size_is_judged_before_it_is_read(tmp_path):
    path = changed(made(tmp_path / "a.tif"), ImageWidth=2**16 - 1, ImageLength=2**16 - 1)
    assert "GiB" in said(path) or "complete" in said(path) or "cut short" in said(path)


# --- the size of a pixel


@pytest.mark.parametrize("dpi", [1, 72, 96, 100, 150, 200, 300, 600, 1200, 2400])
@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER"])
def test_the_resolution_of_a_screen_is_no_pixel_size(tmp_path, dpi, unit):
    value = dpi if unit == "INCH" else round(dpi / 2.54, 3 if dpi > 1 else 6)
    path = made(tmp_path / "a.tif", resolution=(value, value), resolutionunit=unit)
    sentence = said(path)
    assert "dots per inch, which screens and printers use" in sentence
    assert "Give spacing=(" in sentence
    image = read(path, spacing=(0.3, 0.2))
    (out,) = write(image, tmp_path / "b", like=image, role="mean", description="")
    assert read(out).spacing == pytest.approx((0.3, 0.2))


def test_what_pillow_and_cameras_write_is_no_pixel_size(tmp_path):
    pillow.fromarray(ARRAY).save(tmp_path / "a.tif", dpi=(72, 72))
    assert "72 dots" in said(tmp_path / "a.tif")
    path = changed(made(tmp_path / "b.tif"), XResolution=(720000, 10000), YResolution=(720000, 10000), ResolutionUnit=2)
    assert "72 dots" in said(path)
    text = "ImageJ=1.54f\nunit=inch\n"
    path = made(tmp_path / "c.tif", description=text, resolution=(72, 72), resolutionunit="NONE")
    assert "72 dots" in said(path)


def test_a_spacing_that_was_told_is_read_back_although_it_is_that_of_a_screen(tmp_path):
    image = Image.of(ARRAY, spacing=(25.4 / 72, 25.4 / 96))
    (out,) = write(
        Image(image.values, "arbitrary", image.spacing, "tiff"),
        tmp_path / "a",
        like=Image(image.values, "arbitrary", image.spacing, "tiff"),
        role="measured",
        description="",
    )
    assert read(out).spacing == (25.4 / 72, 25.4 / 96)


@pytest.mark.parametrize(("code", "mm"), [(2, 25.4), (3, 10.0), (4, 1.0), (5, 1e-3)])
def test_resolutions_that_someone_measured_are_pixel_sizes(tmp_path, code, mm):
    path = made(tmp_path / "a.tif", resolution=(37, 41), resolutionunit=code)
    assert read(path).spacing == pytest.approx((mm / 41, mm / 37))


WRONG = [{"XResolution": (1, 0)}, {"XResolution": (0, 1)}, {"YResolution": (0, 0)}, {"ResolutionUnit": 8}]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_resolution_without_a_value_is_none_and_can_be_written(tmp_path, wrong):
    path = changed(made(tmp_path / "a.tif"), **wrong)
    assert "no spacing in the file" in said(path)
    image = read(path, spacing=(0.3, 0.2))
    check_writable(image)
    (out,) = write(image, tmp_path / "b", like=image, role="mean", description="")
    assert read(out).spacing == pytest.approx((0.3, 0.2))


MICROMETERS = ("\\u00B5m", "\\u00b5m", "\\u03BCm", "um", "UM", "micron", "microns", "Micrometer", "micrometre", "\xb5m")
LENGTHS = dict.fromkeys(MICROMETERS, 1e-3) | {"nm": 1e-6, "cm": 10.0, "inches": 25.4, "mm": 1.0, "Millimeters": 1.0}


@pytest.mark.parametrize("unit", [*LENGTHS, "pixel", "", "sec"])
def test_the_units_of_imagej_are_known_however_they_are_spelled(tmp_path, unit):
    text = f"ImageJ=1.53t\nunit={unit}\nspacing=3.0\nimages=2\nslices=2\n".encode("latin-1")
    stack = np.stack([ARRAY, ARRAY])
    path = made(tmp_path / "a.tif", stack, description=text, resolution=(2, 4), resolutionunit="NONE")
    if unit not in LENGTHS:
        assert "no spacing" in said(path)
        return
    mm = LENGTHS[unit]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(path).spacing == pytest.approx((3 * mm, mm / 4, mm / 2))


def test_units_of_length_in_all_spellings():
    known = {"µm": 1e-3, "μm": 1e-3, "Âµm": 1e-3, "\\\\u00B5m": 1e-3, " um ": 1e-3, "Å": 1e-7, "m": 1e3, '"': 25.4}
    assert {name: length_unit(name) for name in known} == known
    assert [length_unit(name) for name in ("ms", "s", "pixels", "mmm", "", None, 7)] == [None] * 7


def test_a_unit_that_tiff_does_not_know_is_not_written_back(tmp_path):
    text = "ImageJ=1.53t\nunit=um\n"
    path = made(tmp_path / "a.tif", description=text, resolution=(2, 4), resolutionunit="NONE")
    image = read(changed(path, ResolutionUnit=8582))
    check_writable(image)
    (out,) = write(image, tmp_path / "b", like=image, role="mean", description="")
    assert read(out).spacing == pytest.approx((0.25e-3, 0.5e-3))


def test_imagej_may_have_another_unit_along_each_axis(tmp_path):
    text = "ImageJ=1.53t\nimages=2\nslices=2\nunit=um\nyunit=nm\nzunit=mm\nspacing=-3.0\n"
    path = made(tmp_path / "a.tif", np.stack([ARRAY] * 2), description=text, resolution=(2, 4), resolutionunit="NONE")
    assert read(path).spacing == pytest.approx((3.0, 0.25e-6, 0.5e-3))
