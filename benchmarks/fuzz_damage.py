"""Ways to damage a file: bytes that know nothing of a format, fields of each format, and things that are no file."""

from __future__ import annotations

import os
import re
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

Damage = Callable[[Path, Random], None]
"""Changes the file at a path in place."""

EXTREME = (0, 1, 2, 3, 127, 128, 255, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
BAD_NUMBERS = ("0", "-1", "nan", "inf", "1e400", "-1e308", "1e-320", "A", "", " ", "1.2.3", "0x10", "99999999999999999")
BAD_TEXT = ("\x1b[31mred\x1b[0m", "[bold]x[/] [/nope]", "a\nb\rc", "\u202egpj.exe", "x" * 70_000, "**", "\0", "ﬀ\ud7ff")


def change(path: Path, how: Callable[[bytearray, Random], bytes], rng: Random) -> None:
    path.write_bytes(how(bytearray(path.read_bytes()), rng))


# ---- bytes ---------------------------------------------------------------------------------------------------------


def place(data: bytes, rng: Random) -> int:
    """A position: mostly in the header, where the structure is."""
    return rng.randrange(min(len(data), 512) if rng.random() < 0.7 else len(data)) if data else 0


def flip(path: Path, rng: Random) -> None:
    def how(data: bytearray, rng: Random) -> bytes:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            data[place(data, rng)] ^= 1 << rng.randrange(8)
        return data

    change(path, how, rng)


def truncate(path: Path, rng: Random) -> None:
    change(path, lambda data, rng: data[: place(data, rng)], rng)


def lengths(path: Path, rng: Random) -> None:
    """An extreme number where a length, a count or an offset may stand."""

    def how(data: bytearray, rng: Random) -> bytes:
        for _ in range(rng.choice((1, 1, 2))):
            code = rng.choice(("<H", ">H", "<I", ">I", "<Q", "<f"))
            value = rng.choice(EXTREME)
            size = struct.calcsize(code)
            at = place(data, rng) // 2 * 2
            if code == "<f":
                number = struct.pack(code, rng.choice((float("nan"), float("inf"), -1.0, 0.0, 1e38)))
            else:
                number = struct.pack(code, value & (256**size - 1))
            data[at : at + size] = number
        return data

    change(path, how, rng)


def splice(path: Path, rng: Random) -> None:
    """Blocks exchanged, repeated, removed, or filled with noise."""

    def how(data: bytearray, rng: Random) -> bytes:
        size = rng.choice((1, 4, 16, 64, 256))
        a, b = place(data, rng), place(data, rng)
        one, two = bytes(data[a : a + size]), bytes(data[b : b + size])
        kind = rng.randrange(4)
        if kind == 0:
            data[a : a + size], data[b : b + size] = two, one
        elif kind == 1:
            data[a:a] = two * rng.choice((1, 3, 50))
        elif kind == 2:
            del data[a : a + size]
        else:
            data[a : a + size] = rng.randbytes(size)
        return data

    change(path, how, rng)


def empty(path: Path, rng: Random) -> None:
    path.write_bytes(b"" if rng.random() < 0.5 else b"\0" * rng.choice((1, 132, 352, 4096)))


def foreign(path: Path, rng: Random) -> None:
    """The content of something else under this name."""
    path.write_bytes(
        rng.choice(
            (
                b"<!DOCTYPE html><html><body>404</body></html>",
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
                b"PK\x05\x06" + b"\0" * 18,
                b"\x1f\x8b\x08\0\0\0\0\0\0\0",
                b"\x80\x04cos\nsystem\n",
                b"\0" * 128 + b"DICM",
                "Zürich\n".encode("latin-1"),
                rng.randbytes(2000),
            )
        )
    )


def appended(path: Path, rng: Random) -> None:
    change(path, lambda data, rng: data + rng.randbytes(rng.choice((1, 100, 5000))), rng)


BYTES: dict[str, Damage] = {
    "flip": flip,
    "truncate": truncate,
    "lengths": lengths,
    "splice": splice,
    "empty": empty,
    "foreign": foreign,
    "appended": appended,
}


# ---- what is no file -------------------------------------------------------------------------------------------------


def no_file(path: Path, rng: Random) -> None:
    """A FIFO, a folder, a link to itself, to nothing, to a device, or a sparse file of 1 TB."""
    kind = rng.randrange(7)
    content = path.read_bytes()
    path.unlink()
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(path.name)
    elif kind == 3:
        path.symlink_to(path.parent / "not-there")
    elif kind == 4:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/dev/stdin")))
    elif kind == 5:
        path.symlink_to(path.parent)
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[1], before[1]))
        with path.open("wb") as file:
            file.write(content)
            file.truncate(2**40)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


NAMES = ("\x1b[31m", "[bold]", "[nope", "a\nb", "\u202egpj", "**", "x" * 200, "%s{0}", "..", " ", "\udcff", "*?")


def renamed(path: Path, rng: Random) -> None:
    """An intact file under a name that is hard to print."""
    mark = rng.choice(NAMES)
    path.rename(path.with_name(f"{mark}{path.name}"))


SYSTEM: dict[str, Damage] = {"no file": no_file, "renamed": renamed}


# ---- DICOM -----------------------------------------------------------------------------------------------------------

NUMERIC = [
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SeriesNumber",
    "InstanceNumber",
    "SliceThickness",
    "WindowCenter",
    "WindowWidth",
]
TEXTUAL = [
    "PatientName",
    "SeriesDescription",
    "Modality",
    "PhotometricInterpretation",
    "ImageType",
    "PatientID",
    "SOPInstanceUID",
]
VRS = (b"AE", b"AS", b"AT", b"DA", b"DS", b"FD", b"FL", b"IS", b"LO", b"OB", b"OF", b"OW", b"PN", b"SQ", b"UN", b"XX")


def elements(data: bytes) -> list[tuple[int, int, int]]:
    """(start, start of the value, end) of the elements of an explicit little-endian file."""
    found, at = [], 132
    long = (b"OB", b"OW", b"OF", b"SQ", b"UN", b"UT", b"OD", b"OL", b"UC", b"UR", b"OV", b"SV", b"UV")
    while at + 8 <= len(data):
        wide = bytes(data[at + 4 : at + 6]) in long
        head = 12 if wide else 8
        size = struct.unpack_from("<I" if wide else "<H", data, at + head - (4 if wide else 2))[0]
        end = at + head + size
        if end > len(data):
            break
        found.append((at, at + head, end))
        at = end
    return found


def element(tag: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    size = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value) & 0xFFFF)
    return struct.pack("<HH", *tag) + vr + size + value


def of_keyword(data: bytes, keyword: str) -> tuple[int, int, int] | None:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword) or 0
    wanted = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    return next((e for e in elements(data) if data[e[0] : e[0] + 4] == wanted), None)


def dicom_value(path: Path, rng: Random) -> None:
    """A value that the standard does not allow, in a field that matters."""

    def how(data: bytearray, rng: Random) -> bytes:
        keyword = rng.choice(NUMERIC + TEXTUAL)
        at = of_keyword(data, keyword)
        if at is None:
            return data
        tag, vr = struct.unpack_from("<HH", data, at[0]), bytes(data[at[0] + 4 : at[0] + 6])
        if vr == b"US":
            value = struct.pack("<H", rng.choice((0, 1, 3, 7, 13, 33, 65535)))
        elif keyword in NUMERIC:
            count = rng.choice((1, 1, 2, 3, 6))
            value = "\\".join(rng.choice(BAD_NUMBERS) for _ in range(count)).encode()
        else:
            value = rng.choice(BAD_TEXT)[: rng.choice((10, 64, 60_000))].encode("utf-8", "replace")
        data[at[0] : at[2]] = element(tag, vr, value)
        return data

    change(path, how, rng)


def dicom_vr(path: Path, rng: Random) -> None:
    def how(data: bytearray, rng: Random) -> bytes:
        for start, _, _ in rng.sample(elements(data), rng.choice((1, 1, 3))):
            data[start + 4 : start + 6] = rng.choice(VRS)
        return data

    change(path, how, rng)


def dicom_swap(path: Path, rng: Random) -> None:
    """Two elements exchange their tags, or one is left out, or comes twice."""

    def how(data: bytearray, rng: Random) -> bytes:
        one, two = rng.sample(elements(data), 2)
        kind = rng.randrange(3)
        if kind == 0:
            a, b = bytes(data[one[0] : one[0] + 4]), bytes(data[two[0] : two[0] + 4])
            data[one[0] : one[0] + 4], data[two[0] : two[0] + 4] = b, a
        elif kind == 1:
            del data[one[0] : one[2]]
        else:
            data[one[0] : one[0]] = data[two[0] : two[2]]
        return data

    change(path, how, rng)


def dicom_nested(path: Path, rng: Random) -> None:
    """Sequences inside sequences, of defined or undefined length."""

    def how(data: bytearray, rng: Random) -> bytes:
        depth = rng.choice((3, 100, 1000, 3000))
        if rng.random() < 0.5:
            inner = b""
            for _ in range(depth):
                item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
                inner = element((0x0040, 0xA730), b"SQ", item)
        else:
            open_ = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
            close = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
            inner = open_ * depth + close * rng.choice((depth, 0))
        found = of_keyword(data, "PixelData")
        at = found[0] if found else len(data)
        data[at:at] = inner
        return data

    change(path, how, rng)


def dicom_encoded(path: Path, rng: Random) -> None:
    """Another transfer syntax than the one the pixels are in; encapsulated junk; a frame that declares more."""

    def how(data: bytearray, rng: Random) -> bytes:
        syntaxes = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5",
                    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.50", "1.2.3")  # fmt: skip
        if rng.random() < 0.6:
            fragment = rng.choice((b"", b"\1\0\0\0\x40\0\0\0" + b"\0" * 56 + b"\x81\0" * 2000, rng.randbytes(300)))
            items = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + struct.pack("<I", len(fragment)) + fragment
            found = of_keyword(data, "PixelData")
            if found:
                end = b"\xfe\xff\xdd\xe0\0\0\0\0" if rng.random() < 0.7 else b""
                data[found[0] :] = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + items + end
            for keyword in ("Rows", "Columns"):
                size = of_keyword(data, keyword)
                if size and rng.random() < 0.5:
                    struct.pack_into("<H", data, size[1], rng.choice((65535, 4096, 0)))
        where = next((e for e in elements(data) if data[e[0] : e[0] + 4] == b"\x02\0\x10\0"), None)
        if where:
            data[where[0] : where[2]] = element((2, 0x10), b"UI", rng.choice(syntaxes).encode())
        return data

    change(path, how, rng)


DICOM: dict[str, Damage] = {
    "value": dicom_value,
    "vr": dicom_vr,
    "swapped tags": dicom_swap,
    "nested": dicom_nested,
    "encoded": dicom_encoded,
}


# ---- other images ----------------------------------------------------------------------------------------------------


def nifti_field(path: Path, rng: Random) -> None:
    """dim, datatype, bitpix, pixdim, vox_offset, slope, intercept, codes and affine."""
    import gzip

    packed = path.name.endswith(".gz")
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, code = rng.choice(
            [(40 + 2 * i, "<h") for i in range(8)] + [(70, "<h"), (72, "<h"), (252, "<h"), (254, "<h"), (0, "<i")]
            + [(76 + 4 * i, "<f") for i in range(5)] + [(108, "<f"), (112, "<f"), (116, "<f")]
            + [(280 + 4 * i, "<f") for i in range(12)] + [(123, "<b"), (344, "<i")]
        )  # fmt: skip
        small = {"<h": (0, -1, 1, 7, 8, 512, 32767, -32768), "<b": (0, -1, 3, 127), "<i": (0, -1, 2**31 - 1)}
        values = small.get(code, (float("nan"), float("inf"), 0.0, -1.0, 1e30, 1e-30, 1.0))
        struct.pack_into(code, data, at, rng.choice(values))
    path.write_bytes(gzip.compress(bytes(data), 1) if packed else bytes(data))


def tiff_field(path: Path, rng: Random) -> None:
    """Tag, type, count or value of entries of the first directory, or where the directories are."""

    def how(data: bytearray, rng: Random) -> bytes:
        order = "<" if data[:2] == b"II" else ">"
        first = struct.unpack_from(order + "I", data, 4)[0]
        if rng.random() < 0.1 or first + 2 > len(data):
            struct.pack_into(order + "I", data, 4, rng.choice((0, 1, 4, len(data) - 1, 2**31)))
            return data
        count = struct.unpack_from(order + "H", data, first)[0]
        if rng.random() < 0.1:  # the directory follows itself
            struct.pack_into(order + "I", data, first + 2 + 12 * count, rng.choice((first, 8, 2**31)))
            return data
        for _ in range(rng.choice((1, 1, 2))):
            at = first + 2 + 12 * rng.randrange(count)
            kind = rng.randrange(4)
            if kind == 0:
                struct.pack_into(order + "H", data, at, rng.choice((256, 257, 258, 259, 273, 277, 282, 339, 65000)))
            elif kind == 1:
                struct.pack_into(order + "H", data, at + 2, rng.choice((0, 1, 2, 3, 4, 5, 11, 12, 13, 99)))
            elif kind == 2:
                struct.pack_into(order + "I", data, at + 4, rng.choice(EXTREME))
            else:
                struct.pack_into(order + "I", data, at + 8, rng.choice((*EXTREME, 5, 7, 8, 34712, 50000, len(data))))
        return data

    change(path, how, rng)


def png_field(path: Path, rng: Random) -> None:
    """Size, depth, color and method with a right checksum; chunks left out; much behind little."""

    def how(data: bytearray, rng: Random) -> bytes:
        kind = rng.randrange(4)
        if kind < 2:
            at, code = rng.choice(((16, ">I"), (20, ">I"), (24, "B"), (25, "B"), (26, "B"), (27, "B"), (28, "B")))
            values = (0, 1, 12000, 65535, 2**31 - 1, 2**32 - 1) if code == ">I" else (0, 1, 2, 3, 4, 6, 7, 16, 255)
            struct.pack_into(code, data, at, rng.choice(values))
        elif kind == 2:  # 12000 x 12000 pixels in a few hundred kilobytes
            struct.pack_into(">II", data, 16, 12000, 12000)
            body = zeros(12000 * 12001)
            data[33:] = chunk(b"IDAT", body) + chunk(b"IEND", b"")
        else:
            text = zlib.compress(b"\0" * 10 ** rng.choice((3, 7)))
            data[33:33] = chunk(rng.choice((b"zTXt", b"iCCP")), b"a\0\0" + text)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        return data

    change(path, how, rng)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def zeros(count: int) -> bytes:
    """A zlib stream of (at least) `count` zero bytes, made without compressing them all."""
    packer = zlib.compressobj(9)
    block = 1 << 20
    head = packer.compress(b"\0" * block) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b"\0" * block) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + again * (count // block) + packer.flush()


NPY = ("(20, 24)", "(99999999, 9)", "(-1, 24)", "(20,)", "()", "(0, 24)", "('a', 24)", "(20, 24, 1, 1, 1)", "([],)")
KINDS = ("'<f4'", "'|O'", "'<U9999999'", "'<f16'", "'V4'", "[('a', '<f4')]", "'M8'", "1", "'<c8'", "(" * 200)


def npz_field(path: Path, rng: Random) -> None:
    """The header of an array, members that declare another size, and arrays that nobody asked for."""
    import zipfile

    kind = rng.randrange(3)
    if kind == 2:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("unused.npy", "w") as member:
            member.write(npy(f"({rng.choice((64, 700))} * 2**20,)".replace(" * 2**20", "000000"), "'|u1'"))
            for _ in range(rng.choice((64, 300))):
                member.write(b"\0" * 1_000_000)
        return
    with zipfile.ZipFile(path) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    name = rng.choice(list(members))
    members[name] = npy(rng.choice(NPY), rng.choice(KINDS)) + rng.randbytes(rng.choice((0, 100, 1920)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for n, content in members.items():
            archive.writestr(n, content)
    if kind == 1:
        data = bytearray(path.read_bytes())
        at = data.rfind(b"PK\x01\x02")
        struct.pack_into("<I", data, at + rng.choice((20, 24, 42)), rng.choice(EXTREME))
        path.write_bytes(data)


def npy(shape: str, kind: str) -> bytes:
    head = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def header_line(path: Path, rng: Random) -> None:
    """A line of a text header (MetaImage, NRRD): bad value, doubled, left out, another file, or much too long."""

    def how(data: bytearray, rng: Random) -> bytes:
        end = data.find(b"LOCAL\n") + 6 if b"LOCAL\n" in data else data.find(b"\n\n") + 1
        lines = bytes(data[:end]).split(b"\n")[:-1]
        i = rng.randrange(len(lines))
        match = re.match(rb"([^:=]*(?::=|:|=)\s*)(.*)", lines[i], re.S)
        kind = rng.randrange(6)
        if kind <= 3 and match:
            files = ("/dev/zero", "../../../../etc/passwd", "LIST", ".", "\x1b[31m", "%03d.raw 1 9999999 1")
            sizes = ("99999 99999 99999", "-1 5 5", "0 0 0", "5", "1 1 1 1 1 1 1 1 1 1", "1e3 5 5", "5 5")
            value = rng.choice((*BAD_NUMBERS, *files, *sizes, "0 0 0", "(0,0,0) (0,0,0) (0,0,0)", "none", "block"))
            lines[i] = match[1] + value.encode()
        elif kind == 4:
            lines[i:i] = [lines[i]] * rng.choice((1, 1000))
        else:
            lines[i] = rng.choice((b"", b"x" * 10**6, b"\xff\xfe", b":", b"="))
        return b"\n".join(lines) + b"\n" + bytes(data[end:])

    change(path, how, rng)


def bomb(path: Path, rng: Random) -> None:
    """A stream that unpacks to hundreds of megabytes, in a .gz or behind a text header."""
    size = rng.choice((64, 512, 4096)) << 20
    data = path.read_bytes()
    if path.name.endswith(".gz"):
        stream = zeros(size)[2:]
        path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + stream)
    else:
        end = data.find(b"LOCAL\n") + 6 if b"LOCAL\n" in data else data.find(b"\n\n") + 2
        path.write_bytes(data[:end] + zeros(size))


IMAGES: dict[str, dict[str, Damage]] = {
    "dicom": DICOM,
    "nifti": {"field": nifti_field, "bomb": bomb},
    "tiff": {"field": tiff_field},
    "png": {"field": png_field},
    "npz": {"field": npz_field},
    "metaimage": {"line": header_line, "bomb": bomb},
    "nrrd": {"line": header_line, "bomb": bomb},
}
