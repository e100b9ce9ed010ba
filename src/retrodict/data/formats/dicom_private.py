"""Removing identity from DICOM headers: the Basic Application Level Confidentiality Profile of PS3.15, Annex E.

The profile is a list of some 600 attributes and what becomes of each.  Here it is turned round, so that what no list
knows goes as well: text, names, dates, unknown and binary values go unless they are on a short list of technical ones,
sequences likewise, and of numbers and codes go those outside a few technical groups.  UIDs are replaced by others.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import replace
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, generate_uid

from retrodict._check import InputError
from retrodict._version import __version__
from retrodict.data.formats.dicom_derived import code
from retrodict.data.formats.dicom_read import DicomHeader
from retrodict.data.image import Image

__all__ = ["deidentified", "unnamed"]


SALT = secrets.token_hex(16)  # of this process: the same input gives other UIDs in another run, and nobody can go back


GROUPS = {0x0008, 0x0018, 0x0020, 0x0028, 0x0054, 0x2050, 0x5200}
"""Groups that hold technical attributes; of all others (patient, trial, visit, request, place, ...) nothing is kept."""


NUMBERS = {"CS", "DS", "IS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT"}


TEXTS = {
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "ConvolutionKernel", "FilterType", "RescaleType",
    "SequenceName", "PulseSequenceName", "ImagedNucleus", "ReceiveCoilName", "TransmitCoilName", "StackID",
    "CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning", "ReconstructionAlgorithm",
}  # fmt: skip
"""Text that says how an image was made and never of whom."""


SEQUENCES = {
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelMeasuresSequence",
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence", "FrameContentSequence",
    "FrameVOILUTSequence", "VOILUTSequence", "FrameAnatomySequence", "AnatomicRegionSequence",
    "AnatomicRegionModifierSequence", "DimensionOrganizationSequence", "DimensionIndexSequence",
    "SourceImageSequence", "ReferencedImageSequence", "PurposeOfReferenceCodeSequence", "DerivationCodeSequence",
    "CTDIPhantomTypeCodeSequence",
}  # fmt: skip


MACROS = re.compile(r"(CT|MR|PET)[A-Z]\w*Sequence")  # functional groups with the parameters of an acquisition


EMPTY = {
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName", "AccessionNumber", "StudyID",
    "PositionReferenceIndicator", "ContrastBolusAgent", "ContentDate", "ContentTime", "AcquisitionDate",
    "AcquisitionTime",
}  # fmt: skip
"""Attributes that must be there and may be empty (type 2)."""


NAMING = (
    "PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber", "StudyID", "StudyInstanceUID",
    "SeriesInstanceUID", "SOPInstanceUID", "InstitutionName",
)  # fmt: skip
"""Attributes whose value a file name must not hold."""


def deidentified(image: Image) -> Image:
    """Return the image with headers of which identity is removed, to write results with; its values are the same.

    Names, IDs, dates, text, private elements and every attribute that is not technical go; UIDs are replaced, one and
    the same by one and the same within a run.  The image has no `source` any more, because file names may name a
    person.  The pixels stay: `InputError` where they have text burned in, or may have (a secondary capture that does
    not say no), and for an image that is no DICOM.
    """
    header = image.header
    where = image.source[0] if image.source else image.format
    if not isinstance(header, DicomHeader):
        raise InputError(where, f"the format {image.format}", "DICOM, whose headers name a person and can be cleaned")
    for ds in header.datasets:
        burned = str(ds.get("BurnedInAnnotation", "") or "").strip().upper()
        captured = "Secondary Capture" in UID(str(ds.get("SOPClassUID", "") or "")).name
        if burned == "YES" or (captured and burned != "NO"):
            said = f"BurnedInAnnotation {burned or 'not given'}" + (" in a secondary capture" if captured else "")
            hint = "Text in the pixels is not removed: crop or mask it first, and say BurnedInAnnotation NO."
            raise InputError(getattr(ds, "filename", None) or where, said, "pixels without text", hint)
    cleaned = tuple(_cleaned(ds) for ds in header.datasets)
    notes = tuple(note.split(": ", 1)[-1] for note in image.notes)
    return replace(image, header=replace(header, datasets=cleaned), source=(), notes=notes)


def unnamed(name: str, image: Image) -> str:
    """Return `name`, or another one where it holds a name, number or UID of the header of `image` as it was read."""
    header = image.header
    if not isinstance(header, DicomHeader):
        return name
    squeezed = _squeezed(name)
    for ds in header.datasets:
        for keyword in NAMING:
            for part in re.split(r"[\^=\\]", str(ds.get(keyword, "") or "")):
                if len(_squeezed(part)) >= 3 and _squeezed(part) in squeezed:
                    return f"image-{_hashed(str(ds.get('SOPInstanceUID', '')) or name)}"
    return name


def _squeezed(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def _hashed(text: str) -> str:
    return hashlib.sha256(f"{SALT} {text}".encode()).hexdigest()[:8]


def _cleaned(source: Dataset) -> Dataset:
    patient = f"ANON-{_hashed(str(source.get('PatientID', '')) + str(source.get('PatientName', '')))}"
    ds = _kept(source)
    for keyword in EMPTY:
        if keyword in source:
            setattr(ds, keyword, None)
    ds.PatientName = ds.PatientID = patient
    ds.PatientBirthDate = ds.PatientSex = None
    ds.PatientIdentityRemoved, ds.LongitudinalTemporalInformationModified = "YES", "REMOVED"
    ds.DeidentificationMethod = f"retrodict {__version__}: PS3.15 Annex E Basic Profile"
    ds.DeidentificationMethodCodeSequence = code("113100", "DCM", "Basic Application Confidentiality Profile")
    ds.file_meta = FileMetaDataset()
    return ds


def _kept(source: Dataset) -> Dataset:
    """Return a copy of what is technical in a data set or an item of a sequence."""
    ds = Dataset()
    for element in source:
        keyword = element.keyword
        if not keyword or element.tag.group not in GROUPS or element.tag.is_private:
            continue
        if element.VR == "SQ":
            if keyword in SEQUENCES or MACROS.fullmatch(keyword):
                ds.add_new(element.tag, "SQ", [_kept(item) for item in element.value])
        elif element.VR == "UI":
            ds.add_new(element.tag, "UI", _replaced(element.value))
        elif element.VR in NUMBERS or keyword in TEXTS:
            ds.add_new(element.tag, element.VR, element.value)
    return ds


def _replaced(value: Any) -> Any:
    """Other UIDs, the same for the same; those of the standard (classes, transfer syntaxes) stay."""
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        return [_replaced(v) for v in value]
    text = str(value or "")
    return text if not text or text.startswith("1.2.840.10008.") else generate_uid(entropy_srcs=[SALT, text])
