"""The header of a DICOM file as far as it can be written again: what cannot be encoded is found when it is read."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any, cast

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.tag import Tag

__all__ = ["stale", "writable"]


STALE = {
    Tag(keyword)
    for keyword in (
        # pixels, and what speaks of stored values: these are coded anew
        "PixelData", "FloatPixelData", "DoubleFloatPixelData", "PixelDataProviderURL", "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths", "PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue",
        "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
        "SmallestImagePixelValueInPlane", "LargestImagePixelValueInPlane", "ModalityLUTSequence",
        "RealWorldValueMappingSequence", "HistogramSequence", "IconImageSequence", "GrayLookupTableDescriptor",
        "GrayLookupTableData", "RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
        "GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData",
        "BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData", "PixelAspectRatio",
        "FloatPixelPaddingValue", "DoubleFloatPixelPaddingValue", "FloatPixelPaddingRangeLimit",
        "DoubleFloatPixelPaddingRangeLimit", "BitsMappedToColorLookupTable",
        # signatures of another content
        "DigitalSignaturesSequence", "MACParametersSequence", "EncryptedAttributesSequence", "DataSetTrailingPadding",
    )
}  # fmt: skip


def stale(element: Any) -> bool:
    """Say whether an element does not hold for a derived image: private, curve, overlay, or about stored values."""
    tag = element if not hasattr(element, "tag") else element.tag
    return tag.group == 0x0002 or tag.is_private or tag.group & 0xFF00 in (0x5000, 0x6000) or tag in STALE


def writable(source: Dataset, charset: Any = None) -> tuple[Dataset, list[str]]:
    """Return a copy of a header that can be encoded, and the names of the elements left out because they cannot.

    What is `stale` is not copied, and not named.  Numbers stay the text
    that they are, so that the geometry stays exactly what it was.
    """
    copy, lost = Dataset(), []
    charset = _charset(source, charset)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # about values that break a rule of their VR: what counts is whether they encode
        for tag in list(source.keys()):
            if stale(tag):
                continue
            try:
                copy.add(_kept(source[tag], source, charset, lost))
            except Exception:  # a value that is no value of its VR raises almost anything
                lost.append(str(tag))
    return copy, lost


def _charset(source: Dataset, inherited: Any) -> Any:
    try:
        own = source.get("SpecificCharacterSet", inherited)
        convert_encodings(own or "ISO_IR 6")
        return own
    except Exception:  # the name of a character set that nobody knows
        return inherited


def _kept(element: DataElement, owner: Dataset, charset: Any, lost: list[str]) -> DataElement:
    if element.VR == "SQ":
        items = []
        for item in element.value:
            inner, missing = writable(item, charset)
            lost += [f"{element.tag}/{name}" for name in missing]
            items.append(inner)
        return DataElement(element.tag, "SQ", items)
    if len(element.VR) != 2:
        element = cast(DataElement, correct_ambiguous_vr_element(element, owner, True))
    if element.tag == Tag("SpecificCharacterSet"):
        convert_encodings(element.value or "ISO_IR 6")
    stream = DicomIO(BytesIO())
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_data_element(stream, element, charset)
    return element
