"""What a DICOM file says of how an image was made: technical tags only, nothing of the person."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrodict._check import InputError

__all__ = ["acquisition", "fingerprints"]


TAGS = {
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "scanner",
    "SoftwareVersions": "software",
    "ConvolutionKernel": "kernel",
    "FilterType": "filter",
    "ReconstructionDiameter": "reconstruction_diameter_mm",
    "SliceThickness": "slice_thickness_mm",
    "KVP": "tube_voltage_kV",
    "XRayTubeCurrent": "tube_current_mA",
    "ExposureTime": "exposure_time_ms",
    "Exposure": "exposure_mAs",
    "CTDIvol": "CTDIvol_mGy",
    "SpiralPitchFactor": "pitch",
    "MagneticFieldStrength": "field_T",
    "EchoTime": "echo_time_ms",
    "RepetitionTime": "repetition_time_ms",
}


EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions")


ACQUISITION = "109101"  # purpose "Acquisition Equipment" of a contributing equipment


def acquisition(paths: Sequence[Path]) -> dict[str, Any]:
    """Kernel, dose and scanner tags of DICOM files; a tag that differs between files gives (smallest, largest).

    In a derived image the scanner is the equipment that acquired it, not what made the image. Empty for files that are
    no DICOM; a tag whose value cannot be read is left out.
    """
    from retrodict.data.formats.dicom_file import dataset

    found: dict[str, list[Any]] = {}
    for path in paths:
        try:
            data = dataset(path, header_only=True)
        except InputError:
            continue
        scanner = _scanner(data)
        for tag, name in TAGS.items():
            try:
                value = (scanner if tag in EQUIPMENT else data).get(tag)
                if value not in (None, ""):
                    found.setdefault(name, []).append(_plain(value))
            except Exception:  # pydicom raises almost anything on a value that is none of its kind
                continue
    return {name: _merged(values) for name, values in found.items()}


def _scanner(data: Any) -> Any:
    """The equipment that acquired the data of a derived image; the data set itself where none is named."""
    try:
        for item in data.get("ContributingEquipmentSequence") or ():
            purpose = item.get("PurposeOfReferenceCodeSequence")
            if purpose and str(purpose[0].get("CodeValue", "")) == ACQUISITION:
                return item
    except Exception:  # a damaged sequence names no equipment
        pass
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return (
            " ".join(str(v) for v in value)
            if isinstance(value, list | tuple) or hasattr(value, "__iter__")
            else str(value)
        )


def _merged(values: list[Any]) -> Any:
    if all(v == values[0] for v in values):
        return values[0]
    return [min(values), max(values)] if all(isinstance(v, float) for v in values) else sorted({str(v) for v in values})


def fingerprints(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Name and SHA-256 of each file."""
    return [{"name": p.name, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in paths]
