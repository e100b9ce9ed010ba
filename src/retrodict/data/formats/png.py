"""PNG: gray of 8 or 16 bits and RGB of 8 bits; what does not fit exactly is written as float32 TIFF."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrodict._check import InputError
from retrodict.data.formats import tiff
from retrodict.data.formats.compressed import head
from retrodict.data.formats.format import MARK, Format, Labels, Raw, file_reader, mark, real
from retrodict.data.image import Image, optional
from retrodict.data.limits import check_size

__all__ = ["FORMAT", "PngHeader", "check", "encode"]


@dataclass(frozen=True)
class PngHeader:
    """Bits of a number: 8 or 16."""

    bits: int


KINDS = "an 8 or 16 bit gray, or an 8 bit RGB PNG"


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _load(path: Path) -> Raw:
    with optional(path, "pillow"):
        from PIL import Image as Pillow
    start = head(path, 26)
    if not start.startswith(SIGNATURE) or start[12:16] != b"IHDR" or len(start) < 26:
        raise InputError(path, "bytes that are not PNG", "a PNG file")
    width, height, bits = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big"), start[24]
    check_size(path, (height, width, 3 if start[25] == 2 else 1))
    _check_chunks(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a size that is judged above
        with Pillow.open(path, formats=("PNG",)) as file:
            if file.mode not in ("L", "I;16", "I;16B", "I", "RGB"):
                raise InputError(path, f"a {file.mode} image", KINDS, "Convert it to gray or RGB first.")
            if bits not in (8, 16) or (file.mode == "RGB" and bits != 8):
                # The decoder would stretch two bits to eight, and drop the lower half of 16 bits of a color.
                kind = "an RGB" if file.mode == "RGB" else "a gray"
                raise InputError(path, f"{kind} image of {bits} bits", KINDS, "Convert it to TIFF first.")
            frames = getattr(file, "n_frames", 1)
            if frames != 1 or "transparency" in file.info:
                found = f"{frames} frames" if frames != 1 else "a transparent color"
                raise InputError(path, found, KINDS, "Leave out the other frames and the transparency.")
            # The resolution a PNG may carry is that of a screen or a printer, not that of the object: never used.
            array = np.asarray(file)
    if array.ndim == 2:
        return Raw(array[None], None, None, PngHeader(bits))
    return Raw(np.moveaxis(array, -1, 0), None, None, PngHeader(8), tiff.RGB)


def _check_chunks(path: Path) -> None:
    """Compare the checksum of every chunk: the decoder leaves out those of the pixels."""
    with path.open("rb") as file:
        file.seek(len(SIGNATURE))
        name = b""
        while name != b"IEND":
            length, name = int.from_bytes(file.read(4), "big"), file.read(4)
            if len(name) < 4:
                raise InputError(path, "no end of the image", "a complete PNG file", "The file is cut short.")
            sum_of, left = zlib.crc32(name), length
            while left and (part := file.read(min(left, 2**20))):
                sum_of, left = zlib.crc32(part, sum_of), left - len(part)
            if left or file.read(4) != sum_of.to_bytes(4, "big"):
                raise InputError(path, f"a chunk {name!r} whose checksum is wrong", "a PNG file without damage")


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
    info.add_text("Software", mark(labels))
    info.add_text("Description", labels.description.encode("latin-1", "replace").decode("latin-1"))
    pixels = values.astype(np.uint8 if bits == 8 else np.uint16)
    buffer = io.BytesIO()
    picture = Pillow.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _probe(path: Path) -> bool:
    return head(path, 8) == SIGNATURE


def _made(path: Path) -> str:
    found = re.search(rb"tEXtSoftware\0(%b [a-z0-9_-]+)" % MARK.encode(), head(path, 4096))
    return found[1].decode() if found else ""


FORMAT = Format("png", "PNG", (".png",), ".png", file_reader("png", _load), check, encode, _probe, made=_made)
