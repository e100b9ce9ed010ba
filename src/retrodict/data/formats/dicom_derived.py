"""The header of a derived DICOM image: what it is, what it was made from, by what, and how its numbers are meant."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from retrodict._check import InputError
from retrodict._version import __version__
from retrodict.data.formats.dicom_file import WRITER
from retrodict.data.formats.dicom_frames import FRAMES, SHARED, has_groups, integer

__all__ = ["Series", "code", "derived", "is_image", "study_of"]


IMAGE_ROLES = ("mean", "sample", "median", "quantile", "lower", "upper", "input", "measured", "stop")


OFFSETS = {"mean": 1000, "sd": 2000, "difference": 3000, "sample": 4000, "lower": 5000, "upper": 6000, "stop": 7000,
           "stop-sd": 8000}  # fmt: skip


HIGHEST = 2**31 - 1  # of an integer string


CONTRAST = {"sd": "STD_DEVIATION", "difference": "SUBTRACTION"}
"""Fourth value of ImageType: Derived Pixel Contrast of PS3.3, C.8.16.1.4, where it has a word for the role."""


DERIVATION = {
    "mean": ("113049", "DCM", "Pixel by pixel mean"),
    "sd": ("113061", "DCM", "Standard Deviation"),
    "difference": ("113062", "DCM", "Pixel by pixel subtraction"),
}


EQUIPMENT = (
    "Manufacturer", "InstitutionName", "InstitutionAddress", "StationName", "InstitutionalDepartmentName",
    "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "DateOfLastCalibration",
    "TimeOfLastCalibration", "DeviceUID",
)  # fmt: skip
"""What describes the scanner, and moves with it into the contributing equipment."""


ACQUISITION = ("109101", "DCM", "Acquisition Equipment")


PROCESSING = ("109102", "DCM", "Processing Equipment")


SCANNER_ONLY = ("StationName", "DeviceSerialNumber", "DateOfLastCalibration", "TimeOfLastCalibration", "DeviceUID")


VIEW = (
    "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTSequence", "VOILUTFunction",
    "FrameVOILUTSequence", "SoftcopyVOILUTSequence", "PresentationLUTSequence",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """What all files of a written series have in common; `dated` is False where identity was removed."""

    role: str
    description: str
    uid: str
    study: str
    dated: bool = True
    now: datetime = field(default_factory=datetime.now)


def is_image(role: str) -> bool:
    """Say whether the role is an image like its source ("mean", "sample-000", ...) rather than a map ("sd", ...)."""
    return role.startswith(IMAGE_ROLES) and not role.endswith("-sd")


def code(value: str, scheme: str, meaning: str) -> DicomSequence:
    """A sequence of one coded concept."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return DicomSequence([item])


def derived(source: Dataset, index: int, shape: tuple[int, ...], series: Series) -> Dataset:
    """Return the data set of a file to write, still without pixels; `shape` is (H, W)."""
    own = (integer(source, "Rows", _path(source)), integer(source, "Columns", _path(source)))
    if tuple(shape) != own:
        raise InputError(_path(source), f"{tuple(shape)} pixels to write", f"{own}")
    ds = copy.deepcopy(source)
    ds.file_meta = FileMetaDataset()
    _identify(ds, source, index, series)
    _equip(ds, series)
    if not is_image(series.role):
        _make_map(ds)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationVersionName = f"{WRITER} {__version__}"[:16]
    return ds


def _path(source: Dataset) -> Path:
    return Path(str(getattr(source, "filename", None) or "DICOM"))


def study_of(first: Dataset) -> str:
    """Return the StudyInstanceUID; where the source has none, one that is the same for everything written from it."""
    known = str(first.get("StudyInstanceUID", "") or "")
    frame = str(first.get("FrameOfReferenceUID", "") or "")
    return known or generate_uid(entropy_srcs=["retrodict study", *([frame] if frame else _reference(first))])


def _reference(source: Dataset) -> tuple[str, str]:
    """Return (class, instance) UID of a file, from its meta information where the data set has none."""
    meta = getattr(source, "file_meta", None) or FileMetaDataset()
    kind = str(source.get("SOPClassUID", "") or meta.get("MediaStorageSOPClassUID", "") or CTImageStorage)
    instance = str(source.get("SOPInstanceUID", "") or meta.get("MediaStorageSOPInstanceUID", "") or "")
    return kind, instance or generate_uid(entropy_srcs=["retrodict", _path(source).name])


def _identify(ds: Dataset, source: Dataset, index: int, series: Series) -> None:
    """Give the file its own identity, and name the one it was derived from and how."""
    kind, instance = _reference(source)
    ds.SOPClassUID, ds.SOPInstanceUID = kind, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = series.study, series.uid
    ds.ImageType = _image_type(source.get("ImageType"), series.role, has_groups(source))
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = kind, instance
    reference.PurposeOfReferenceCodeSequence = code("121322", "DCM", "Source image for image processing operation")
    ds.SourceImageSequence = DicomSequence([reference])
    ds.DerivationDescription = ds.ImageComments = _ascii(series.description)  # viewers show the one or the other
    how = DERIVATION.get(series.role)
    for keyword in ("DerivationCodeSequence", "NumberOfFrames" if not has_groups(ds) else ""):
        if keyword in ds and (keyword != "NumberOfFrames" or integer(ds, keyword, _path(source), 1) == 1):
            delattr(ds, keyword)
    if how is not None:
        ds.DerivationCodeSequence = code(*how)
    ds.SeriesDescription = _series_description(str(source.get("SeriesDescription", "") or ""), series.role)
    ds.SeriesNumber = _series_number(source, series.role)
    number = _whole(source.get("InstanceNumber"))
    ds.InstanceNumber = index + 1 if number is None else number
    date, time = series.now.strftime("%Y%m%d"), series.now.strftime("%H%M%S.%f")
    for keyword in ("Content", "Series", "InstanceCreation"):
        setattr(ds, f"{keyword}Date", date if series.dated else "")
        setattr(ds, f"{keyword}Time", time if series.dated else "")
    if has_groups(ds):
        _derive_groups(ds, series.role)


def _image_type(old: Any, role: str, enhanced: bool) -> list[str]:
    values = [old] if isinstance(old, str) else [str(v) for v in old or []]
    name = "".join(c if c.isalnum() else "_" for c in role.upper())[:16]
    third = values[2] if len(values) > 2 and values[2] else "AXIAL" if not enhanced else "VOLUME"
    # PS3.3, C.8.16.1.2 leaves enhanced images no second value but PRIMARY; a map becomes a secondary capture below.
    second = "PRIMARY" if enhanced and is_image(role) else "SECONDARY"
    return ["DERIVED", second, third[:16], CONTRAST.get(role, name)]


def _ascii(text: str, most: int = 1024) -> str:
    return text.encode("ascii", "replace").decode()[:most]  # whatever the character set of the file


def _series_description(old: str, role: str) -> str:
    """Name the result for a list of series: first what a map is, so that a short column shows it, and last the role."""
    head = "" if is_image(role) else f"{'SD' if role == 'sd' else role.upper()} MAP, NOT ANATOMY: "
    tail = f" | retrodict {role}"
    room = max(0, 64 - len(head) - len(tail))
    return f"{head}{old.replace(chr(92), ' ')[:room]}{tail}".strip()[:64]


def _series_number(source: Dataset, role: str) -> int:
    """The number of the source plus that of the role; that of the role alone where an integer string ends."""
    name, _, number = role.partition("-")
    offset = OFFSETS.get(role, OFFSETS.get(name, 9000)) + (int(number) if number.isdecimal() else 0)
    own = _whole(source.get("SeriesNumber")) or 0
    return own + offset if own + offset <= HIGHEST else offset


def _whole(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if -HIGHEST - 1 <= number <= HIGHEST else None


def _derive_groups(ds: Dataset, role: str) -> None:
    """Say in the functional groups of an enhanced image what its frames are and were derived from."""
    if not ds.get(SHARED):
        ds.add_new(SHARED, "SQ", [Dataset()])
    for group in (*ds[SHARED].value, *(ds.get(FRAMES) or ())):
        for element in group:
            if element.keyword.endswith("FrameTypeSequence") and element.value:
                element.value[0].FrameType = _image_type(element.value[0].get("FrameType"), role, True)
        for keyword in ("PixelValueTransformationSequence", "DerivationImageSequence"):
            if keyword in group:
                delattr(group, keyword)
    item = Dataset()
    item.DerivationDescription, item.SourceImageSequence = ds.DerivationDescription, ds.SourceImageSequence
    if "DerivationCodeSequence" in ds:
        item.DerivationCodeSequence = ds.DerivationCodeSequence
    ds[SHARED].value[0].DerivationImageSequence = DicomSequence([item])


def _equip(ds: Dataset, series: Series) -> None:
    """Name this package as what made the series, and the scanner as what acquired the data (PS3.3, C.7.5.1, C.12.1)."""
    known: list[Dataset] = list(ds.get("ContributingEquipmentSequence") or ())
    scanner = Dataset()
    for keyword in EQUIPMENT:
        if keyword in ds:
            scanner.add(copy.deepcopy(ds[keyword]))
    if len(scanner):
        first = not any(_purpose(item) == "109101" for item in known)
        scanner.PurposeOfReferenceCodeSequence = code(*(ACQUISITION if first else PROCESSING))
        if "Manufacturer" not in scanner:
            scanner.Manufacturer = ""
        known.append(scanner)
    ours = Dataset()
    ours.Manufacturer = ours.ManufacturerModelName = "retrodict"
    ours.SoftwareVersions = __version__
    ours.ContributionDescription = _ascii(series.description)
    if series.dated:
        ours.ContributionDateTime = series.now.strftime("%Y%m%d%H%M%S.%f")
    ours.PurposeOfReferenceCodeSequence = code(*PROCESSING)
    ds.ContributingEquipmentSequence = DicomSequence([*known, ours])
    for keyword in SCANNER_ONLY:
        if keyword in ds:
            delattr(ds, keyword)
    ds.Manufacturer = ds.ManufacturerModelName = "retrodict"
    ds.SoftwareVersions = __version__


def _purpose(item: Dataset) -> str:
    purposes = item.get("PurposeOfReferenceCodeSequence")
    return str(purposes[0].get("CodeValue", "")) if purposes else ""


def _make_map(ds: Dataset) -> None:
    """Make the file a secondary capture of no imaging modality: a map of numbers is no CT or MR image.

    A CT Image is what viewers measure in HU and treatment planning takes for tissue; a Secondary Capture (PS3.3, A.8)
    is shown by every viewer and taken for anatomy by none.  Parametric Map Storage (A.75) is meant for such maps, but
    many archives and viewers show nothing of it.  Position, orientation and spacing stay, as a standard extension.
    """
    many = has_groups(ds) or "NumberOfFrames" in ds
    ds.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage if many else SecondaryCaptureImageStorage
    ds.Modality, ds.ConversionType = "OT", "WSD"
    ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME2", "IDENTITY"
    for group in (ds, *(ds.get(SHARED) or ()), *(ds.get(FRAMES) or ())):
        # The window of the source would show a map of a few HU as one shade of gray.
        for keyword in VIEW:
            if keyword in group:
                delattr(group, keyword)
