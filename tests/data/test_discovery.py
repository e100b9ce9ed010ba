"""Finding files: what they hold decides, nothing is left out unsaid, links are followed, results are known."""

import ast
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from made_files import make_mha, make_series, make_slice, slice_values

from retrodict._check import InputError
from retrodict.data import Image, discover, discovery, find, read, write
from retrodict.data.discovery import summarized
from retrodict.data.formats import FORMATS, written_suffix

nib = pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")
pillow = pytest.importorskip("PIL.Image")

ARRAY = np.arange(63, dtype=np.float32).reshape(7, 9)


def nrrd_bytes(*lines):
    head = ["NRRD0004", "type: float", "dimension: 2", "sizes: 9 7", "spacings: 1 1", "endian: little", *lines]
    return "\n".join([*head, "", ""]).encode()


def made(kind, folder):
    """Write a file of a format under the usual extension, and return its path."""
    path = folder / f"a{FORMATS[kind].suffixes[0]}"
    if kind == "dicom":
        return make_slice(path, slice_values(0), position=(0, 0, 0))
    if kind == "nifti":
        nib.save(nib.Nifti1Image(ARRAY.T, np.eye(4)), path)
    elif kind == "tiff":
        tifffile.imwrite(path, ARRAY, resolution=(10, 10), resolutionunit="CENTIMETER")
    elif kind == "png":
        pillow.fromarray(ARRAY.astype(np.uint8)).save(path)
    elif kind == "npz":
        np.savez(path, image=ARRAY, spacing=1.0)
    elif kind == "npy":
        np.save(path, ARRAY)
    elif kind == "mha":
        make_mha(path, ARRAY[None].astype(np.int16), (1, 1, 1), (0, 0, 0))
    else:
        path.write_bytes(nrrd_bytes("encoding: raw") + ARRAY.tobytes())
    return path


SINGLE = [name for name in FORMATS if name != "dicom-series"]


@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("name", ["scan", "scan.001", "scan.CT", "scan.png", "scan.dat"])
def test_the_content_decides_whatever_the_extension(tmp_path, kind, name):
    path = made(kind, tmp_path).rename(tmp_path / name)
    (source,) = discover(path)
    assert source.format == kind
    image = read(path, spacing=(1.0, 1.0), slices="independent")
    assert image.format == kind
    assert [s.format for s in discover(tmp_path)] == [kind]


def test_every_file_that_is_left_out_is_named_with_its_reason(tmp_path):
    make_series(tmp_path / "s", count=2)
    (tmp_path / "s" / "notes.txt").write_text("no image")
    (tmp_path / "s" / "empty.dat").write_bytes(b"")
    (tmp_path / "s" / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 JFIF")
    (tmp_path / "s" / ".DS_Store").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.dcm").write_bytes(b"x")
    (tmp_path / "s" / "fake.dcm").write_bytes(b"nothing of the kind" * 50)
    found = find(tmp_path)
    assert [(s.format, len(s.paths)) for s in found.sources] == [("dicom-series", 2)]
    said = {str(left.path.relative_to(tmp_path)): (left.reason, left.failed) for left in found.left_out}
    assert set(said) == {"s/notes.txt", "s/empty.dat", "s/photo.jpg", "s/.DS_Store", ".git", "s/fake.dcm"}
    assert "no image of a known format" in said["s/notes.txt"][0]
    assert said["s/empty.dat"] == ("an empty file", False)
    assert said[".git"] == ("a hidden folder", False)
    assert [name for name, (_, failed) in said.items() if failed] == ["s/fake.dcm"]
    lines = summarized(found.left_out)
    assert any("notes.txt" in line and "photo.jpg" in line for line in lines)
    with pytest.raises(InputError, match=r"fake\.dcm: found .*; expected a DICOM file") as caught:
        discover(tmp_path)
    assert str(caught.value).count("found") == 1


def test_a_long_list_is_cut_and_counted(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text("x")
    assert summarized(find(tmp_path).left_out, most=2) == ["0.txt, 1.txt and 7 more: no image of a known format"]
    with pytest.raises(InputError, match=r"0 images.*0\.txt, 1\.txt"):
        read(tmp_path)


def test_links_are_followed_once_and_loops_end(tmp_path):
    make_series(tmp_path / "store" / "s", count=2)
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "store" / "s")
    (inside / "again").symlink_to(tmp_path / "store" / "s")
    (inside / "loop").symlink_to(inside)
    (inside / "one.dcm").symlink_to(tmp_path / "store" / "s" / "im001.dcm")
    (inside / "gone.dcm").symlink_to(tmp_path / "nothing")
    (inside / "gone.txt").symlink_to(tmp_path / "nothing")
    found = find(inside)
    assert [len(s.paths) for s in found.sources] == [2]
    said = {left.path.name: (left.reason, left.failed) for left in found.left_out}
    assert set(said) == {"link", "loop", "one.dcm", "gone.dcm", "gone.txt"}  # "again" is read, being first
    assert said["loop"][0] == said["link"][0] == "a link to a folder that is searched already"
    assert said["one.dcm"][0] == "a link to a file that is found already"
    assert [name for name, (_, failed) in said.items() if failed] == ["gone.dcm"]
    with pytest.raises(InputError, match="a link that leads nowhere"):
        read(inside / "gone.dcm")


def test_what_lies_there_by_itself_is_found_before_links_to_it(tmp_path):
    make_slice(tmp_path / "z" / "a.dcm", slice_values(0), position=(0, 0, 0))
    (tmp_path / "a").symlink_to(tmp_path / "z")
    found = find(tmp_path)
    assert [s.paths for s in found.sources] == [(tmp_path / "z" / "a.dcm",)]
    assert [left.path.name for left in found.left_out] == ["a"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_and_devices_are_refused_and_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.nii")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    assert [left.reason for left in find(tmp_path).left_out] == ["a pipe, device or socket"] * 2
    for name in ("a.nii", "b.png"):
        with pytest.raises(InputError, match="regular file"):
            read(tmp_path / name, spacing=(1, 1))


def test_a_folder_that_cannot_be_opened_is_a_failure(tmp_path, monkeypatch):
    made("npz", tmp_path)
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find(tmp_path)
    assert len(found.sources) == 1
    assert [(left.path.name, left.failed) for left in found.left_out] == [("locked", True)]
    assert "Permission denied" in found.left_out[0].reason


RESULTS = {"mean": False, "sd": False, "sample-003": False, "measured": True, "input": True}


@pytest.mark.parametrize("role", RESULTS)
@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("description", ["", "retrodict posterior mean, model ct", "µ: another\ntext"])
def test_results_of_this_program_are_no_inputs_of_it(tmp_path, kind, role, description):
    """Each by the mark in the file: names and descriptions may be anything."""
    source = read(made(kind, tmp_path), spacing=(1.0, 1.0), slices="independent")
    target = tmp_path / "in" / f"renamed{written_suffix(kind)}"
    target.parent.mkdir()
    write(source, target, like=source, role=role, description=description)
    write(source.with_values(source.values + 0.5), target.with_name("other"), like=source, role=role, description="")
    taken = [s.paths[0] for s in find(target.parent).sources]
    left = find(target.parent).left_out
    # Two slices written into two series are two sources.
    assert (len(taken), len(left)) == ((2, 0) if RESULTS[role] else (0, 2))
    assert all("a result of this program" in one.reason and not one.failed for one in left)
    assert len(find(target.parent, results=True).sources) == 2
    assert read(target, spacing=(1.0, 1.0), slices="independent", expect=None).values.numel() == source.values.numel()


def test_a_written_series_is_left_out_and_read_when_it_is_named(tmp_path):
    source = read(make_series(tmp_path / "in", count=3))
    write(source, tmp_path / "in" / "out", like=source, role="sd", description="")
    found = find(tmp_path)
    assert [len(s.paths) for s in found.sources] == [3]
    assert {left.reason for left in found.left_out} == {"a result of this program (sd)"}
    assert read(tmp_path / "in" / "out", expect=None).values.shape == source.values.shape


def test_files_with_their_values_elsewhere_are_one_image(tmp_path):
    (tmp_path / "m.raw").write_bytes(ARRAY.tobytes())
    head = "NDims = 2\nDimSize = 9 7\nElementSpacing = 0.5 0.7\nElementType = MET_FLOAT\nElementDataFile = m.raw"
    (tmp_path / "m.mhd").write_text(head)  # without a last line end
    (tmp_path / "n.bin").write_bytes(gzip.compress(ARRAY.tobytes()))
    (tmp_path / "n.nhdr").write_bytes(nrrd_bytes("encoding: gzip", "data file: n.bin"))
    nib.save(nib.Nifti1Pair(ARRAY.T, np.diag([0.5, 0.7, 1, 1])), tmp_path / "p.hdr")
    found = find(tmp_path)
    assert [(s.name, s.format) for s in found.sources] == [("m", "mha"), ("n", "nrrd"), ("p", "nifti")]
    assert found.left_out == ()
    for source in found.sources:
        image = read(source)
        assert torch.equal(image.values[0], torch.from_numpy(ARRAY))
        (out,) = write(image, tmp_path / "out" / source.name, like=image, role="mean", description="")
        assert out.name.endswith(written_suffix(source.format))
        assert torch.equal(read(out).values, image.values)
        assert read(out).spacing == pytest.approx(image.spacing)
    assert read(tmp_path / "p.img").spacing == pytest.approx((0.7, 0.5))
    (tmp_path / "p.hdr").unlink()
    with pytest.raises(InputError, match=r"p\.img: found no header beside it; expected a file p\.hdr"):
        read(tmp_path / "p.img")


def test_names_differ_also_where_case_does_not_count(tmp_path):
    for name in ("A.npz", "a.npy", "a-2.nrrd"):
        np.savez(tmp_path / "x.npz", image=ARRAY, spacing=1.0)
        (tmp_path / "x.npz").rename(tmp_path / name)
    names = [s.name for s in discover(tmp_path)]
    assert len({n.casefold() for n in names}) == 3


def test_an_image_of_no_file_is_written_as_npz(tmp_path):
    image = Image(torch.zeros(1, 4, 5), "HU", (1.0, 2.0))
    (out,) = write(image, tmp_path / "a", like=image, role="mean", description="")
    assert out.name == "a.npz"
    assert read(out).spacing == (1.0, 2.0)


def test_packages_of_single_formats_are_imported_where_they_are_used():
    folder = Path(discovery.__file__).parent
    at_once = [
        f"{path.name}: {name}"
        for path in folder.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.split(".")[0] in ("nibabel", "tifffile", "PIL")
    ]
    assert at_once == []
