"""DICOM out: the values within quantization, the geometry exactly, and nothing half written."""

import errno
import os

import numpy as np
import pydicom
import pytest
import torch
from made_files import make_series, make_slice, rewrite, slice_values

from retrodict import _output as atomic
from retrodict._check import InputError, OutputError
from retrodict.data import discover, read, resample, write

GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns")
IDENTITY = ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "InstanceNumber")
OBLIQUE = (np.cos(0.3), np.sin(0.3), 0, 0, 0, -1)


def restored(image, seed=0):
    """Return the image with values that are no whole numbers."""
    noise = torch.randn(image.values.shape, generator=torch.Generator().manual_seed(seed))
    return image.with_values(image.values + 3 * noise)


def plain(paths):
    """Read files with pydicom alone: values (Z, H, W) float64."""
    slices = [pydicom.dcmread(p) for p in paths]
    return np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])


def no_litter(folder):
    """Say that nothing hidden or temporary is left below the folder."""
    return not [p for p in folder.rglob("*") if p.name.startswith(".") or "tmp-" in p.name]


@pytest.mark.parametrize("axes", [(1, 0, 0, 0, 1, 0), OBLIQUE])
def test_series_round_trip(tmp_path, axes):
    source = read(make_series(tmp_path / "in", axes=axes, gap=1.3))
    mean = restored(source)
    paths = write(mean, tmp_path / "out", like=source, role="mean", description="posterior mean")
    again = read(tmp_path / "out")
    assert again.spacing == pytest.approx(source.spacing, rel=1e-9)
    assert (again.values - mean.values).abs().max() <= 0.05
    assert np.abs(plain(paths) - mean.values[0].numpy()).max() <= 0.05
    assert no_litter(tmp_path)
    for old, new in zip(source.source, paths, strict=True):
        one, two = pydicom.dcmread(old), pydicom.dcmread(new)
        for tag in (*GEOMETRY, *IDENTITY, "WindowCenter", "WindowWidth"):
            assert one[tag].value == two[tag].value, tag


def test_written_slices_say_what_they_are(tmp_path):
    source = read(make_series(tmp_path / "in"))
    paths = write(restored(source), tmp_path / "out", like=source, role="sample-007", description="one sample, µ")
    files = [pydicom.dcmread(p) for p in paths]
    assert len({f.SOPInstanceUID for f in files}) == 5
    assert len({f.SeriesInstanceUID for f in files}) == 1
    assert files[0].SeriesInstanceUID != "1.2.3.4"
    for old, new in zip(source.source, files, strict=True):
        reference = new.SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == pydicom.dcmread(old).SOPInstanceUID
        assert reference.ReferencedSOPClassUID == new.SOPClassUID == new.file_meta.MediaStorageSOPClassUID
        assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
        assert new.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert list(new.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "SAMPLE_007"]
        assert new.SeriesDescription == "Thorax | retrodict sample-007"
        assert new.DerivationDescription == "one sample, ?"
        assert (new.SeriesNumber, new.RescaleType) == (4010, "HU")
        assert new.ContentDate


def test_long_description_keeps_the_role(tmp_path):
    path = make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0), SeriesDescription="x" * 64)
    source = read(path)
    (out,) = write(source, tmp_path / "b.dcm", like=source, role="mean", description="d" * 3000)
    ds = pydicom.dcmread(out)
    assert len(ds.SeriesDescription) == 64
    assert ds.SeriesDescription.endswith(" | retrodict mean")
    assert len(ds.DerivationDescription) == 1024


def test_slices_written_alone_can_share_a_series(tmp_path):
    uid = "1.2.9.9"
    for i in range(2):
        source = read(make_slice(tmp_path / f"{i}.dcm", slice_values(i), position=(0, 0, i)))
        write(source, tmp_path / "out" / f"{i}", like=source, role="mean", description="", series_uid=uid)
    (found,) = discover(tmp_path / "out", results=True)
    assert len(found.paths) == 2


def test_whole_hu_survive_exactly(tmp_path):
    source = read(make_series(tmp_path / "in"))
    write(source, tmp_path / "out", like=source, role="mean", description="")
    assert torch.equal(read(tmp_path / "out").values, source.values)


def padded_series(folder, level=-2000):
    make_series(folder)
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        pixels = ds.pixel_array.copy()
        pixels[:, :3] = level
        ds.PixelData = pixels.tobytes()
        ds.add_new("PixelPaddingValue", "SS", level)
        ds.add_new("SmallestImagePixelValue", "SS", level)
        ds.save_as(path)
    return read(folder)


@pytest.mark.parametrize(("level", "hu"), [(-2000, -3024), (0, -1025), (-30000, -3072)])
def test_padding_is_restored_and_stays_apart_from_air(tmp_path, level, hu):
    source = padded_series(tmp_path / "in", level)
    mean = restored(source)
    mean.values[:, :, 5, 5] = -1024  # air in the body is no padding
    paths = write(mean, tmp_path / "out", like=source, role="mean", description="")
    again = read(tmp_path / "out")
    assert again.padding is not None
    assert source.padding is not None
    assert torch.equal(again.padding, source.padding)
    valid = ~source.padding
    assert (again.values[0] - mean.values[0])[valid].abs().max() <= 0.0501
    assert np.allclose(plain(paths)[:, :, :3], hu)
    assert all("SmallestImagePixelValue" not in pydicom.dcmread(p) for p in paths)


def test_map_is_finer_and_has_no_padding(tmp_path):
    source = padded_series(tmp_path / "in")
    sd = source.with_values(20 * torch.rand(source.values.shape, generator=torch.Generator().manual_seed(1)))
    paths = write(sd, tmp_path / "sd", like=source, role="sd", description="")
    again = read(tmp_path / "sd", expect=None)
    assert again.padding is None
    assert (again.values[..., 3:] - sd.values[..., 3:]).abs().max() < 0.0005
    assert (again.values[..., :3] == 0).all()
    ds = pydicom.dcmread(paths[0])
    assert "PixelPaddingValue" not in ds
    assert float(ds.WindowWidth) == pytest.approx(20, rel=0.05)


def test_values_beyond_the_scale_are_kept(tmp_path):
    source = read(make_series(tmp_path / "in"))
    image = source.with_values(source.values.clone())
    image.values[0, 0, 0, :2] = torch.tensor([9000.0, -4000.0])
    paths = write(image, tmp_path / "out", like=source, role="mean", description="made")
    assert read(tmp_path / "out", clip=False).values[0, 0, 0, :2].tolist() == [9000, -4000]
    assert read(tmp_path / "out").values[0, 0, 0, :2].tolist() == [3071, -1024]
    assert pydicom.dcmread(paths[0]).DerivationDescription == "made; stored in steps of 0.2 HU"


def test_constant_image(tmp_path):
    source = read(make_series(tmp_path / "in"))
    write(
        source.with_values(torch.full_like(source.values, 7.0)), tmp_path / "o", like=source, role="sd", description=""
    )
    assert (read(tmp_path / "o", expect=None).values == 7).all()


def test_stale_and_private_tags_are_dropped_and_lossy_stays(tmp_path):
    path = make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0), LossyImageCompression="01")
    ds = pydicom.dcmread(path)
    ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x12, "SS", 4)
    ds.add_new((0x6000, 0x0010), "US", 12)
    ds.add_new("LargestImagePixelValue", "SS", 9)
    ds.save_as(path)
    source = read(path)
    (out,) = write(source, tmp_path / "b.dcm", like=source, role="mean", description="")
    new = pydicom.dcmread(out)
    assert new.LossyImageCompression == "01"
    assert not [e for e in new if e.tag.is_private or e.tag.group == 0x6000]
    assert "LargestImagePixelValue" not in new
    assert "WindowCenter" in new


def test_empty_uids_of_an_anonymizer(tmp_path):
    folder = make_series(tmp_path / "in")
    for path in folder.iterdir():
        rewrite(path, StudyInstanceUID="", SOPInstanceUID="", SOPClassUID="", SeriesInstanceUID="", SeriesNumber=None)
    source = read(folder)
    studies = set()
    for role in ("mean", "sd"):
        paths = write(source, tmp_path / role, like=source, role=role, description="")
        studies |= {str(pydicom.dcmread(p).StudyInstanceUID) for p in paths}
        assert all(pydicom.dcmread(p).SourceImageSequence[0].ReferencedSOPInstanceUID for p in paths)
    assert len(studies) == 1
    assert "" not in studies


def test_other_modality_round_trip(tmp_path):
    path = make_slice(tmp_path / "a.dcm", slice_values(0), position=(0, 0, 0), Modality="MR")
    source = read(path, expect=None)
    (out,) = write(source, tmp_path / "b.dcm", like=source, role="mean", description="")
    again = read(out, expect=None)
    assert torch.equal(again.values, source.values)
    assert pydicom.dcmread(out).RescaleType == "US"


def test_another_size_is_refused(tmp_path):
    source = read(make_series(tmp_path / "in"))
    other = resample(source, (2.0, 1.4, 1.0))
    with pytest.raises(InputError, match="the size of the source"):
        write(other, tmp_path / "out", like=source, role="mean", description="")
    with pytest.raises(InputError, match="DICOM header"):
        write(other, tmp_path / "out", like=other, role="mean", description="")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_values_that_are_not_finite_are_refused(tmp_path):
    source = read(make_series(tmp_path / "in"))
    with pytest.raises(InputError, match="nan or infinite"):
        write(source.with_values(source.values / 0), tmp_path / "out", like=source, role="mean", description="")
    with pytest.raises(InputError, match="role"):
        write(source, tmp_path / "out", like=source, role="../x", description="")


def test_existing_folder_needs_force_and_only_dicom_is_replaced(tmp_path):
    source = read(make_series(tmp_path / "in"))
    out = tmp_path / "out"
    write(source, out, like=source, role="mean", description="")
    with pytest.raises(InputError, match="force"):
        write(source, out, like=source, role="mean", description="")
    changed = source.with_values(source.values + 1)
    write(changed, out, like=source, role="mean", description="", force=True)
    assert torch.equal(read(out).values, changed.values)
    for place in (tmp_path / "in", tmp_path):
        with pytest.raises(InputError, match="never replaced"):
            write(source, place, like=source, role="mean", description="", force=True)
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        write(source, out, like=source, role="mean", description="", force=True)
    assert (out / "thesis.txt").exists()
    assert no_litter(tmp_path)


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    source = read(make_series(tmp_path / "in"))
    put, count = atomic._put, []

    def failing(path, content):
        count.append(path)
        if len(count) == 3:
            path.write_bytes(content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(path, content)

    monkeypatch.setattr(atomic, "_put", failing)
    with pytest.raises(OutputError, match=r"out: could not be written \(No space left on device\)"):
        write(source, tmp_path / "out", like=source, role="mean", description="")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_failure_while_replacing_keeps_the_old_series(tmp_path, monkeypatch):
    source = read(make_series(tmp_path / "in"))
    out = tmp_path / "out"
    write(source, out, like=source, role="mean", description="")
    rename = os.rename

    def failing(a, b):
        if "tmp-" in str(a):
            raise OSError(errno.EIO, "Input/output error")
        rename(a, b)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputError):
        write(source.with_values(source.values + 1), out, like=source, role="mean", description="", force=True)
    assert torch.equal(read(out).values, source.values)
    assert no_litter(tmp_path)


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    source = read(make_series(tmp_path / "in"))

    def interrupted(path, content):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "_put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "out", like=source, role="mean", description="")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("name", ["ct_abdomen_dcmqi", "ct_body_totalsegmentator/dicom"])
def test_real_series_round_trip(tmp_path, shared, name):
    found = sorted(shared(*name.split("/")).glob("*.dcm"))[:3]
    for path in found:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    source = read(tmp_path / "in")
    mean = restored(source)
    paths = write(mean, tmp_path / "out", like=source, role="mean", description="test")
    again = read(tmp_path / "out")
    inside = mean.values.clamp(-1024, 3071)
    valid = torch.ones_like(inside[0], dtype=torch.bool) if source.padding is None else ~source.padding
    assert (again.values - inside)[0][valid].abs().max() <= 0.0501
    assert again.spacing == pytest.approx(source.spacing)
    assert np.abs(plain(paths) - mean.values[0].numpy())[valid.numpy()].max() <= 0.0501
    for old, new in zip(source.source, paths, strict=True):
        one, two = pydicom.dcmread(old), pydicom.dcmread(new)
        assert all(one[tag].value == two[tag].value for tag in GEOMETRY)
