"""NRRD: its place in space, the encodings and types of other programs, and what is refused."""

import bz2
import gzip

import numpy as np
import pytest

from retrodict._check import InputError
from retrodict.data import read, write

DIRECTIONS = "(0.3,0.4,0) (0,0,0.7) (2,-1.5,0)"  # mm along x, y, z: 0.5, 0.7, 2.5
PLACE = (
    "space: left-posterior-superior",
    f"space directions: {DIRECTIONS}",
    "space origin: (1.5,2,-3)",
    "kinds: domain domain domain",
    "note:=made: here",
)


def volume():
    return np.random.default_rng(0).integers(-1000, 1000, (3, 5, 4)).astype(np.int16)


def save(path, *lines, array=None, kind="short", encoding="gzip", order="<", end="\n"):
    """Write an NRRD file; array is (z, y, x)."""
    array = volume() if array is None else array
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    head = ["NRRD0004", "# made by a test", f"type: {kind}", f"dimension: {array.ndim}", f"encoding: {encoding}"]
    head += ["sizes: " + " ".join(str(n) for n in reversed(array.shape)), *lines]
    head += [f"endian: {'big' if order == '>' else 'little'}", "", ""]
    coded = {"gzip": gzip.compress, "bz2": bz2.compress}.get(encoding, bytes)(data)
    path.write_bytes(end.join(head).encode() + coded)
    return path


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bz2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_orders_of_bytes_and_line_ends_are_read(tmp_path, encoding, order, end):
    image = read(save(tmp_path / "a.nrrd", *PLACE, encoding=encoding, order=order, end=end))
    assert np.array_equal(image.values[0], volume())
    assert image.spacing == pytest.approx((2.5, 0.7, 0.5))


def test_a_result_keeps_the_lines_that_say_where_the_image_lies(tmp_path):
    source = read(save(tmp_path / "a.nrrd", *PLACE))
    (out,) = write(
        source.with_values(source.values + 0.25), tmp_path / "b", like=source, role="mean", description="µ\n: x"
    )
    assert out.name == "b.nrrd"
    head = out.read_bytes().split(b"\n\n")[0].decode("ascii").splitlines()
    assert head[0] == "NRRD0005"
    assert {"type: float", "sizes: 4 5 3", "content: ? : x"} <= set(head)
    assert [line for line in head if line in PLACE] == list(PLACE)
    assert np.array_equal(read(out).values[0], volume() + np.float32(0.25))


def test_units_of_length_are_brought_to_mm(tmp_path):
    path = save(tmp_path / "a.nrrd", *PLACE[:2], 'space units: "cm" "cm" "cm"')
    assert read(path).spacing == pytest.approx((25.0, 7.0, 5.0))
    path = save(tmp_path / "b.nrrd", "spacings: 500 700 2500", 'units: "um" "um" "um"')
    assert read(path).spacing == pytest.approx((2.5, 0.7, 0.5))


def test_slices_without_a_distance_are_read_one_by_one(tmp_path):
    path = save(tmp_path / "a.nrrd", "spacings: 0.5 0.7 nan")
    with pytest.raises(InputError, match="2 spacings for 3 axes"):
        read(path)
    assert read(path, slices="independent").spacing[1:] == (0.7, 0.5)
    with pytest.raises(InputError, match="no spacing in the file"):
        read(save(tmp_path / "b.nrrd"))


@pytest.mark.parametrize(
    ("lines", "options", "expected"),
    [
        (PLACE, {"encoding": "hex"}, "encoding hex"),
        (PLACE, {"kind": "block"}, "type block"),
        (("data file: a.raw",), {}, "data file a.raw"),
        (("byte skip: 4",), {}, "byte skip 4"),
        ((f"space directions: none {DIRECTIONS}",), {"array": volume()[None]}, "other axes than those of space"),
        (("spacings: 1 1 1", 'units: "s" "mm" "mm"'), {}, r"3 spacings in \['s'\]"),
        (("spacings: 1 1",), {}, "2 spacings"),
        (("spacings: 1 1 1",), {"kind": "double"}, "cannot be decoded"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, lines, options, expected):
    with pytest.raises(InputError, match=expected):
        read(save(tmp_path / "a.nrrd", *lines, **options))
