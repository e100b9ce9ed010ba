"""PNG: gray of 8 or 16 bits and RGB of 8 bits; what does not fit exactly is written as float32 TIFF."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrodict._check import InputError
from retrodict.data.formats import tiff
from retrodict.data.formats.format import Format, Labels, Raw, file_reader, real
from retrodict.data.image import Image, optional

__all__ = ["FORMAT", "PngHeader", "check", "encode"]


@dataclass(frozen=True)
class PngHeader:
    """Bits of a number: 8 or 16."""

    bits: int


KINDS = "an 8 or 16 bit gray, or an 8 bit RGB PNG"


def _load(path: Path) -> Raw:
    with optional(path, "pillow"):
        from PIL import Image as Pillow
    with Pillow.open(path) as file:
        if file.mode not in ("L", "I;16", "I;16B", "I", "RGB"):
            raise InputError(path, f"a {file.mode} image", KINDS, "Convert it to gray or RGB first.")
        # The resolution a PNG may carry is that of a screen or a printer, not that of the object: never used.
        if file.mode != "RGB":
            return Raw(np.asarray(file)[None], None, None, PngHeader(8 if file.mode == "L" else 16))
        if _bits(path) != 8:  # the decoder would drop the lower half of each number
            raise InputError(path, f"an RGB image of {_bits(path)} bits", KINDS, "Convert it to TIFF first.")
        return Raw(np.moveaxis(np.asarray(file), -1, 0), None, None, PngHeader(8), tiff.RGB)


def _bits(path: Path) -> int:
    """Return the bit depth that the header chunk gives, at byte 24 of every PNG file."""
    with path.open("rb") as file:
        return file.read(25)[24]


def check(image: Image, path: Path) -> None:
    """Refuse complex values and missing packages; that of TIFF too, which a result with fractions needs."""
    real(image, "PNG", path)
    with optional(path, "pillow"):
        import PIL  # noqa: F401
    tiff.check(image, path)


def encode(image: Image, labels: Labels) -> Iterator[tuple[str, bytes]]:
    """Yield a PNG file of the bit depth of the source, or a TIFF file where not every value fits exactly."""
    real(image, "PNG", labels.path)
    content = _png(image, labels)
    if content is not None:
        yield labels.path.name, content
    else:
        yield from tiff.encode(image, labels._replace(path=labels.path.with_suffix(tiff.FORMAT.written)))


def _png(image: Image, labels: Labels) -> bytes | None:
    with optional(labels.path, "pillow"):
        from PIL import Image as Pillow
        from PIL.PngImagePlugin import PngInfo
    bits = image.header.bits if isinstance(image.header, PngHeader) else 8
    values = image.values.numpy()
    kind = (values.ndim, len(values), bits)
    if kind not in ((3, 1, 8), (3, 1, 16), (3, 3, 8)):
        return None
    if values.min() < 0 or values.max() > 2**bits - 1 or (values != np.rint(values)).any():
        return None
    info = PngInfo()
    info.add_text("Description", labels.description.encode("latin-1", "replace").decode("latin-1"))
    pixels = values.astype(np.uint8 if bits == 8 else np.uint16)
    buffer = io.BytesIO()
    picture = Pillow.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


FORMAT = Format("png", "PNG", (".png",), ".png", file_reader("png", _load), check, encode)
