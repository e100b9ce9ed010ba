"""Opening DICOM: by content, packed, without the mark, and never more than the budget."""

import gzip
import os
import zlib

import numpy as np
import pydicom
import pytest
from made_files import make_series, make_slice, slice_values

from retrodict._check import InputError
from retrodict.data import discover, find, read
from retrodict.data.formats.dicom_file import dataset, looks_like_dicom
from retrodict.data.limits import LIMIT_VARIABLE


def scan(path, **tags):
    return make_slice(path, slice_values(0), position=(0, 0, 0), **tags)


def bare(path, syntax=None):
    """Write the data set alone, without preamble, mark and file meta information."""
    ds = pydicom.dcmread(scan(path.with_suffix(".whole")))
    implicit, little = syntax != pydicom.uid.ExplicitVRLittleEndian, True
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = little, implicit
    pydicom.filewriter.write_dataset(buffer, ds)
    path.write_bytes(buffer.getvalue())
    return path


@pytest.mark.parametrize("how", ["mark", "no preamble", "no meta, implicit", "no meta, explicit", "gzip", "gzip, bare"])
def test_dicom_is_known_by_its_content_and_read(tmp_path, how):
    whole = scan(tmp_path / "whole.dcm").read_bytes()
    path = tmp_path / "IM0001"
    if "no meta" in how:
        bare(path, pydicom.uid.ExplicitVRLittleEndian if "explicit" in how else None)
    else:
        content = whole if how in ("mark", "gzip") else whole[132:]
        path.write_bytes(gzip.compress(content) if "gzip" in how else content)
    assert looks_like_dicom(path)
    assert np.array_equal(read(path).values[0], slice_values(0))


def test_other_content_is_not_dicom(tmp_path):
    noise = np.random.default_rng(0)
    contents = [b"", b"\x08", b"\x1f\x8b", b"hello " * 100, gzip.compress(b"a" * 900), bytes(4096)]
    contents += [b"\x08\x00\x05\x00" + bytes(500), b"\x08\x00" * 300, bytes(noise.integers(0, 256, 900, np.uint8))]
    contents.append((np.arange(2048) % 9).astype("<u2").tobytes())
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
        assert not looks_like_dicom(tmp_path / str(number)), number
    assert not looks_like_dicom(tmp_path / "absent")
    assert not looks_like_dicom(tmp_path)


def test_a_packed_slice_is_found_by_its_name_and_named_without_it(tmp_path):
    packed = tmp_path / "in" / "b.dcm.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(scan(tmp_path / "b.dcm").read_bytes()))
    (found,) = discover(tmp_path / "in")
    assert (found.name, found.format) == ("in", "dicom")
    assert [s.name for s in discover(packed)] == ["b"]
    assert np.array_equal(read(found).values[0], slice_values(0))


def test_a_junk_file_is_named_and_the_series_stays(tmp_path):
    folder = make_series(tmp_path / "in", count=4)
    (folder / "junk.dcm").write_bytes(b"\x00" * 128 + b"DICM" + b"\xff" * 40)
    (folder / "text.dcm").write_bytes(b"nothing of the kind" * 50)
    found = find(folder)
    (source,) = found.sources
    assert (source.name, source.format, len(source.paths)) == ("in", "dicom-series", 4)
    assert [(left.path.name, left.failed) for left in found.left_out] == [("junk.dcm", True), ("text.dcm", True)]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("pack", ["gzip", "deflate"])
def test_what_unpacks_beyond_the_budget_is_refused(tmp_path, monkeypatch, pack, marked):
    whole = scan(tmp_path / "a.dcm").read_bytes()
    start = 132 + 12 + int.from_bytes(whole[140:144], "little")
    if pack == "gzip":
        packed = gzip.compress(whole[0 if marked else 132 :] + bytes(3_000_000))
    else:
        ds = pydicom.dcmread(tmp_path / "a.dcm")
        ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        ds.save_as(tmp_path / "small.dcm")
        assert np.array_equal(read(tmp_path / "small.dcm").values[0], slice_values(0))
        small = (tmp_path / "small.dcm").read_bytes()
        start = 132 + 12 + int.from_bytes(small[140:144], "little")
        squeeze = zlib.compressobj(wbits=-15)
        packed = small[:start] + squeeze.compress(whole[start:] + bytes(3_000_000)) + squeeze.flush()
        packed = packed[0 if marked else 132 :]
    (tmp_path / "bomb.dcm").write_bytes(packed)
    monkeypatch.setenv(LIMIT_VARIABLE, "0.002")
    with pytest.raises(InputError, match=rf"bomb\.dcm.*0\.002 GiB when .*{LIMIT_VARIABLE}"):
        dataset(tmp_path / "bomb.dcm")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    assert not looks_like_dicom(tmp_path / "pipe.dcm")
    with pytest.raises(InputError, match="regular file"):
        read(tmp_path / "pipe.dcm")
