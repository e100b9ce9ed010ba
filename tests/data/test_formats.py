"""What holds of every row of FORMATS, and so of a new one as soon as it is in the table."""

import builtins
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_files import make_mha, make_series, make_slice, slice_values

from retrodict._check import InputError
from retrodict.data import Image, discover, read, write
from retrodict.data.formats import FORMATS, accepted_suffixes, format_titles, known_suffixes, written_suffix
from retrodict.data.formats.format import Format, Raw, file_reader
from retrodict.data.formats.tiff import TiffHeader
from retrodict.data.io import check_writable

nib = pytest.importorskip("nibabel")

GRID = (9, 7)
SPACING = (0.7, 0.5)


def whole(channels=1, seed=0, grid=GRID):
    """Return whole numbers of one byte, (C, *grid) float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, *grid), generator=generator).float()


def nifti_file(folder):
    nib.save(nib.Nifti1Image(whole()[0].numpy().T, np.diag([0.5, 0.7, 2.0, 1.0])), folder / "in.nii")
    return folder / "in.nii"


def two_slices():
    return np.stack([slice_values(0), slice_values(1)])


# A file of each format whose writer needs the header of a source; those of the others are written by themselves.
MAKERS = {
    "dicom": lambda folder: make_slice(folder / "in.dcm", slice_values(0), position=(0, 0, 0)),
    "dicom-series": lambda folder: make_series(folder / "in"),
    "nifti": nifti_file,
    "mha": lambda folder: make_mha(
        folder / "in.mha", np.stack([slice_values(i) for i in range(2)]), (0.5, 0.7, 2.5), (0, 0, 0)
    ),
}


def made(name, folder):
    """Return an image read from a gray file of the format."""
    if name in MAKERS:
        return read(MAKERS[name](folder))
    image = Image(whole(), "arbitrary", SPACING, name, ())
    (path,) = write(image, folder / "in", like=image, role="mean", description="")
    assert path.suffix == written_suffix(name), "whole numbers of one byte fit every format"
    return opened(path)


def opened(path):
    """Read a file; the spacing is told only where the file has none."""
    return read(path, spacing=SPACING if "no spacing" in (answer(read, path) or "") else None)


def answer(function, *args, **options):
    """Return the sentence with which a call refuses, or None."""
    try:
        function(*args, **options)
    except InputError as error:
        return str(error)
    return None


def both(like, path):
    """Return the answers of the check before the work and of the writer after it."""
    written = answer(write, like, path, like=like, role="mean", description="", force=True)
    return answer(check_writable, like, path), written


KINDS = {
    "gray": ("gray",),
    "rgb": ("r", "g", "b"),
    "named": ("water", "iodine"),
    "vector": ("dy", "dx"),
    "complex": ("gray",),
    "coils": ("0", "1", "2"),
}
COMPLEX = ("complex", "coils")


def of_kind(source, kind):
    """Return an image on the grid of the source, with its header, and with the channels and numbers of the kind."""
    names, grid = KINDS[kind], tuple(source.values.shape[1:])
    values = whole(len(names), seed=1, grid=grid)
    if kind in COMPLEX:
        values = torch.complex(values, whole(len(names), seed=2, grid=grid))
    return replace(source, values=values, channels=names)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_does_not_refuse_before_the_work_it_writes_and_reads_back(tmp_path, name, kind):
    source = of_kind(made(name, tmp_path), kind)
    out = tmp_path / "out"
    early, late = both(source, out)
    assert early == late
    assert not (kind == "gray" and early), early
    if early is not None:
        return
    for fraction in (0.0, 0.25):
        result = source.with_values(source.values + fraction)
        (path, *_) = write(result, out, like=source, role="mean", description="a test", force=True)
        again = opened(path if written_suffix(name) else path.parent)
        tolerance = 0.05 if name.startswith("dicom") else 0.0
        assert (again.values - result.values).abs().max() <= tolerance
        assert again.values.dtype == result.values.dtype
        assert again.spacing == pytest.approx(source.spacing, rel=1e-6)
        assert again.channels == source.channels
        assert again.unit == source.unit


@pytest.mark.parametrize("name", ["dicom", "dicom-series", "nifti", "mha"])
@pytest.mark.parametrize("kind", ["rgb", "complex"])
def test_a_format_of_gray_images_names_itself_when_it_refuses_others(tmp_path, name, kind):
    sentence, _ = both(of_kind(made(name, tmp_path), kind), tmp_path / "out")
    assert sentence is not None
    assert ("3 channels (r, g, b)" if kind == "rgb" else "complex values") in sentence
    assert {"dicom": "DICOM", "dicom-series": "DICOM"}.get(name, "NIfTI") in sentence


@pytest.mark.parametrize("name", ["png", "tiff"])
def test_pictures_refuse_complex_values_and_say_what_can_hold_them(tmp_path, name):
    sentence, _ = both(of_kind(made(name, tmp_path), "complex"), tmp_path / "out")
    assert sentence is not None
    assert f"real values to write as {FORMATS[name].title}" in sentence
    assert "npz" in sentence


DEFECTS = {
    "no header": lambda source: replace(source, header=None),
    "the header of another format": lambda source: replace(source, header=TiffHeader(None, "ome")),
    "another grid": lambda source: replace(source, values=source.values[..., :-1], padding=None),
    "another number of slices": lambda source: replace(
        source, values=source.values[:, :-1] if source.values.ndim == 4 else source.values, padding=None
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_header_that_cannot_be_written_is_refused_before_the_work_in_the_same_words(tmp_path, name, defect):
    early, late = both(DEFECTS[defect](made(name, tmp_path)), tmp_path / "out")
    assert early == late
    if "header" in defect and name in MAKERS:  # their place in space is in the header
        assert early is not None
        assert "A resampled image has lost it" in early
    if name in ("dicom", "dicom-series", "nifti") and defect == "another grid":
        assert "to write" in (early or "")


@pytest.mark.parametrize("name", FORMATS)
def test_the_extension_of_another_format_and_the_source_itself_are_refused_before_the_work(tmp_path, name):
    source = made(name, tmp_path)
    if written_suffix(name):
        other = next(s for s in known_suffixes() if s not in accepted_suffixes(FORMATS[name]))
        early, late = both(source, tmp_path / f"out{other}")
        assert early == late
        assert f"found the extension {other}; expected {accepted_suffixes(FORMATS[name])[0]}" in early
    if written_suffix(name) in FORMATS[name].suffixes or not written_suffix(name):
        own = source.source[0] if written_suffix(name) else source.source[0].parent
        early, late = both(source, own)
        assert early == late
        assert "never replaced" in early


@pytest.mark.parametrize(
    ("name", "package"), [("nifti", "nibabel"), ("mha", "nibabel"), ("tiff", "tifffile"), ("png", "tifffile")]
)
def test_a_package_that_only_the_writer_needs_is_missed_before_the_work(tmp_path, monkeypatch, name, package):
    source = made(name, tmp_path)
    result = source.with_values(source.values + 0.5)  # no whole number: a PNG becomes a TIFF
    actual = builtins.__import__

    def without(module, *args, **kwargs):
        if module.split(".")[0] == package:
            raise ImportError(module)
        return actual(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    early = answer(check_writable, source, tmp_path / "out")
    late = answer(write, result, tmp_path / "out", like=source, role="mean", description="")
    for sentence in (early, late):
        assert sentence is not None
        assert f"the package {package} is not installed" in sentence


SUFFIXES = [(row.name, suffix) for row in FORMATS.values() if row.written for suffix in (*row.suffixes, *row.read_only)]


@pytest.mark.parametrize(("name", "suffix"), SUFFIXES)
def test_every_extension_is_found_and_broken_bytes_are_refused(tmp_path, name, suffix):
    path = tmp_path / f"scan{suffix.upper()}"
    path.write_bytes(b"nothing of the kind, " * 60)
    (source,) = discover(path)
    assert (source.format, source.name) == (name, "scan")
    assert path.name in (answer(read, path, spacing=SPACING) or "")


@pytest.mark.parametrize("name", FORMATS)
def test_a_result_has_the_extension_of_a_format_in_the_table(name):
    row = FORMATS[name]
    assert row.name == name
    assert row.written == "" or row.written in accepted_suffixes(row)
    assert all(s.startswith(".") and s == s.lower() for s in row.suffixes)


def toy_row():
    """Return a format that a test makes up: one line of numbers a row."""

    def load(path):
        return Raw(np.loadtxt(path, ndmin=2)[None], (1.0, 1.0), None, "toy header")

    def check(image, path):
        if image.header != "toy header":
            raise InputError(path, "no toy header", "one")

    def encode(image, labels):
        check(image, labels.path)
        lines = [" ".join(repr(float(v)) for v in row) for row in image.values[0]]
        yield labels.path.name, "\n".join(lines).encode()

    return Format("toy", "Toy", (".toy",), ".toy", file_reader("toy", load), check, encode)


def test_a_line_in_the_table_is_all_that_a_new_format_needs(tmp_path, monkeypatch):
    path = tmp_path / "a.toy"
    path.write_text("1 2 3\n4 5 6.5\n")
    assert "unknown format; expected DICOM, " in (answer(read, path) or "")
    assert ".toy" not in (answer(read, path) or "").split("expected")[1]
    monkeypatch.setitem(FORMATS, "toy", toy_row())
    source = read(path)
    assert source.format == "toy"
    assert torch.equal(source.values[0, 1], torch.tensor([4, 5, 6.5]))
    (out,) = write(source, tmp_path / "b", like=source, role="mean", description="")
    assert out.name == "b.toy"
    assert torch.equal(read(out).values, source.values)
    assert [s.name for s in discover(tmp_path)] == ["a", "b"]
    early, late = both(replace(source, header=None), tmp_path / "c")
    assert early == late == f"{tmp_path / 'c.toy'}: found no toy header; expected one."
    (tmp_path / "x.other").write_text("")
    assert " .toy)" in (answer(read, tmp_path / "x.other") or "")
    assert format_titles().startswith("DICOM, NIfTI, TIFF, PNG, npz, npy, MetaImage, ")
    assert format_titles().endswith(" or Toy")


@pytest.mark.parametrize("name", FORMATS)
def test_without_a_destination_only_the_header_is_tried(tmp_path, monkeypatch, name):
    source = made(name, tmp_path)
    here = source.source[0].parent / "result"  # a relative name must not be taken for the source
    (here.parent / "result").mkdir()
    monkeypatch.chdir(here.parent)
    assert answer(check_writable, replace(source, source=(here / "x", *source.source))) is None
    refused = answer(check_writable, replace(source, header=None))
    assert (refused is not None) == (name in MAKERS)


def test_an_unknown_format_is_answered_with_the_table(tmp_path):
    image = Image(whole(), "arbitrary", SPACING, "jpeg", ())
    early, late = both(image, tmp_path / "out")
    assert early == late
    assert early is not None
    assert "format 'jpeg'; expected dicom, dicom-series, nifti, " in early
    (tmp_path / "a.jpeg").write_bytes(b"x")
    sentence = answer(read, tmp_path / "a.jpeg") or ""
    assert f"expected {format_titles()} (.dcm" in sentence
    for row in FORMATS.values():
        assert row.name in early
        assert row.title in format_titles()
        assert all(f"{suffix} " in sentence.replace(")", " ") for suffix in (*row.suffixes, *row.read_only))
