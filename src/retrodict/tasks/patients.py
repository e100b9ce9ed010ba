"""Which images belong to one patient: figures are averaged within a patient before anything is said of patients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from retrodict._check import InputError
from retrodict.data import Image

__all__ = ["patients_of"]


def patients_of(images: Mapping[str, Image], how: str | None) -> dict[str, str] | None:
    """Patient of every image by name, or None where it is not told.

    how: "dicom" (PatientID), "folder" (name of the folder that holds the image), or a regular expression that is
    searched in the name of the image: its first group, or else the whole match, is the patient.  None: PatientID where
    every image has one.  Patients of DICOM files are numbered in the order of the images: no identity is kept.

    Raises `InputError` naming the first image whose patient cannot be told as `how` says.
    """
    if how == "folder":
        return {name: _folder(name, image) for name, image in images.items()}
    if how in (None, "dicom"):
        return _numbered({name: _identity(image) for name, image in images.items()}, how)
    try:
        pattern = re.compile(how)
    except re.error as error:
        raise InputError("patients", f"{how!r} ({error})", "'dicom', 'folder' or a regular expression") from None
    found = {}
    for name in images:
        match = pattern.search(name)
        patient = (match.group(1) if pattern.groups else match.group(0)) if match else None
        if not patient:
            raise InputError(
                "patients", f"no match of {how!r} in the name {name!r}", "a pattern that names the patient"
            )
        found[name] = patient
    return found


def _folder(name: str, image: Image) -> str:
    if not image.source:
        raise InputError("patients", f"no file behind {name!r}", "images in a folder for each patient")
    return Path(image.source[0]).resolve().parent.name


def _identity(image: Image) -> str | None:
    if not image.format.startswith("dicom") or not image.source:
        return None
    try:
        data = pydicom.dcmread(image.source[0], stop_before_pixels=True, specific_tags=["PatientID"])
    except (InvalidDicomError, OSError, ValueError):
        return None
    return str(data.get("PatientID") or "").strip() or None


def _numbered(found: Mapping[str, str | None], how: str | None) -> dict[str, str] | None:
    lacking = next((name for name, patient in found.items() if patient is None), None)
    if lacking is not None:
        if how is None:
            return None
        raise InputError("patients", f"no PatientID in {lacking!r}", "DICOM with PatientID, 'folder' or a pattern")
    order = {patient: f"patient {i + 1}" for i, patient in enumerate(dict.fromkeys(found.values()))}
    return {name: order[patient] for name, patient in found.items()}
