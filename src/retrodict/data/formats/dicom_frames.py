"""What a DICOM file says of one of its frames: at the top level, or in functional groups (enhanced multi-frame)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from retrodict._check import InputError
from retrodict.data.image import decoding

__all__ = [
    "FRAMES",
    "SHARED",
    "frame_count",
    "has_groups",
    "integer",
    "modality",
    "number",
    "numbers",
    "of_frame",
    "words",
]


SHARED, FRAMES = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


MACROS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "StackID": "FrameContentSequence",
}
"""Attributes of a frame, and the functional group that holds them (PS3.3, C.7.6.16)."""


KINDS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # enhanced
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # legacy converted
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
}


def has_groups(ds: Dataset) -> bool:
    """Say whether the file keeps what belongs to a frame in functional groups."""
    return bool(ds.get(SHARED)) or bool(ds.get(FRAMES))


def frame_count(ds: Dataset, path: Path) -> int:
    """Frames of the file; `InputError` where the functional groups are of another number."""
    count = integer(ds, "NumberOfFrames", path, 1)
    groups = ds.get(FRAMES)
    if groups and len(groups) != count:
        found = f"{len(groups)} functional groups for {count} frames"
        raise InputError(path, found, "one functional group for each frame", "The file is damaged.")
    return count


def of_frame(ds: Dataset, frame: int, keyword: str) -> Any:
    """The attribute for a frame: from its own functional group, the shared one, or the top level; None without it."""
    macro = MACROS.get(keyword)
    if macro is not None:
        per_frame, shared = ds.get(FRAMES), ds.get(SHARED)
        for group in (per_frame[frame] if per_frame else None, shared[0] if shared else None):
            item = group.get(macro) if group is not None else None
            if item and item[0].get(keyword) not in (None, ""):
                return item[0].get(keyword)
    value = ds.get(keyword)
    return None if value is None or value == "" else value


def words(ds: Dataset, frame: int = 0) -> list[str]:
    """ImageType and, in functional groups, FrameType of a frame, in upper case."""
    found = [ds.get("ImageType")]
    for group in (ds.get(FRAMES), ds.get(SHARED)):
        item = group[min(frame, len(group) - 1)] if group else None
        found += [
            e.value[0].get("FrameType") for e in item or () if e.keyword.endswith("FrameTypeSequence") and e.value
        ]
    flat: list[str] = []
    for value in found:
        flat += [value] if isinstance(value, str) else [str(v) for v in value or ()]
    return [word.strip().upper() for word in flat]


def modality(ds: Dataset) -> str:
    """The Modality; where there is none, that of the storage class, or "none"."""
    kind = str(ds.get("SOPClassUID", "") or ds.file_meta.get("MediaStorageSOPClassUID", "") or "")
    return str(ds.get("Modality", "") or "").strip() or KINDS.get(kind, "none")


def integer(ds: Dataset, keyword: str, path: Path, default: int | None = None) -> int:
    """The tag as a whole number; `default` where it is missing, or an `InputError` that names file and tag."""
    value = ds.get(keyword)
    if value is None or value == "":
        if default is None:
            raise InputError(path, f"no {keyword} {Tag(keyword)}", f"the tag {keyword}")
        return default
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not found.is_integer():
        raise InputError(path, f"{keyword} {Tag(keyword)} = {_shown(value)}", "a whole number")
    return int(found)


def _shown(value: Any) -> str:
    """Text and bytes as Python writes them, so that what cannot be printed is seen."""
    return repr(value) if isinstance(value, str | bytes) else str(value)


def number(ds: Dataset, frame: int, keyword: str, path: Path) -> float:
    """The tag of a frame as one finite number."""
    return float(numbers(ds, frame, keyword, 1, path)[0])


def numbers(ds: Dataset, frame: int, keyword: str, count: int, path: Path) -> np.ndarray:
    """The tag of a frame as `count` finite float64, or an `InputError` that names file and tag."""
    tag = f"{keyword} {Tag(keyword)}"
    value = of_frame(ds, frame, keyword)
    if value is None:
        raise InputError(path, f"no {tag}", f"the tag {keyword}", "Without it the pixels have no place in space.")
    with decoding(path, "DICOM"):
        found = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if found.shape != (count,) or not np.isfinite(found).all():
        raise InputError(path, f"{tag} = {_shown(value)}", f"{count} finite numbers")
    return found
