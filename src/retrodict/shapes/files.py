"""Meshes in files: binary PLY, OBJ, binary STL and binary glTF, written and read back, in mm (glTF: metres).

A vertex of a `Mesh` is (z, y, x) as the axes of its volume; in a file it is (x, y, z), and the triangles are turned
with it, so that they stay counterclockwise from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retrodict._check import InputError
from retrodict.shapes.gltf import from_glb, to_glb
from retrodict.shapes.mesh import Mesh

__all__ = ["MESHES", "encode_mesh", "read_mesh"]

MOST_BYTES = 1 << 29
"""Of a mesh file."""


class MeshFormat(NamedTuple):
    """How a format is written and read: vertices (V, 3) as x, y, z and faces (F, 3)."""

    encode: Callable[[np.ndarray, np.ndarray], bytes]
    decode: Callable[[bytes, str], tuple[np.ndarray, np.ndarray]]


def encode_mesh(mesh: Mesh, suffix: str) -> bytes:
    """The bytes of a file of ".ply", ".obj", ".stl" or ".glb"."""
    if suffix not in MESHES:
        raise InputError("files", suffix, f"one of {', '.join(MESHES)}")
    return MESHES[suffix].encode(mesh.vertices[:, ::-1], mesh.faces[:, ::-1])


def read_mesh(path: str | Path) -> Mesh:
    """A mesh from a PLY, OBJ, STL or glTF (.glb) file; corners at one place are one vertex, polygons become triangles.

    Raises `InputError`, which names the file, for another format and for a file that is damaged.
    """
    path = Path(path)
    if path.suffix.lower() not in MESHES:
        raise InputError(path, f"the extension {path.suffix!r}", f"a mesh: {', '.join(MESHES)}")
    if not path.is_file():
        raise InputError(path, "no such file", "a mesh")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(path, f"{path.stat().st_size / 1e6:.0f} MB", f"at most {MOST_BYTES / 1e6:.0f} MB")
    try:
        vertices, faces = MESHES[path.suffix.lower()].decode(path.read_bytes(), str(path))
        return Mesh(vertices[:, ::-1], faces[:, ::-1]).merged()
    except InputError as error:
        if error.where == "mesh":
            raise InputError(path, error.found, error.expected, error.hint) from error
        raise
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InputError(path, f"a damaged mesh ({error})", "a PLY, OBJ, STL or GLB file that can be read") from error


def _triangles(polygons: list[list[int]]) -> np.ndarray:
    """A fan for every polygon."""
    fans = [(p[0], p[i], p[i + 1]) for p in polygons for i in range(1, len(p) - 1)]
    return np.array(fans, dtype=np.int64).reshape(-1, 3)


# ---- PLY -------------------------------------------------------------------------------------------------------------

PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip


def _to_ply(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment millimeters\n"
        f"element vertex {len(vertices)}\nproperty double x\nproperty double y\nproperty double z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    rows["count"], rows["index"] = 3, faces
    return header.encode() + vertices.astype("<f8").tobytes() + rows.tobytes()


class _Element(NamedTuple):
    name: str
    count: int
    properties: list[list[str]]


def _ply_header(content: bytes, where: str) -> tuple[str, list[_Element], bytes]:
    mark = content.find(b"end_header")
    end = content.find(b"\n", mark) + 1
    if not content.startswith(b"ply") or mark < 0 or end == 0:
        raise InputError(where, "no header of a PLY file", "a PLY file")
    kind, elements = "", list[_Element]()
    for line in content[:mark].decode("ascii", "replace").splitlines():
        words = line.split()
        if words[:1] == ["format"]:
            kind = words[1]
        elif words[:1] == ["element"]:
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[:1] == ["property"]:
            elements[-1].properties.append(words[1:])
    if kind not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise InputError(where, f"a PLY file of the format {kind!r}", "ascii or binary")
    return kind, elements, content[end:]


def _from_ply(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    kind, elements, body = _ply_header(content, where)
    read = _Words(body.split()) if kind == "ascii" else _Bytes(body, "<" if "little" in kind else ">")
    vertices, polygons = np.empty((0, 3)), list[list[int]]()
    for element in elements:
        names = [p[-1] for p in element.properties]
        if element.name == "vertex" and all(p[0] != "list" for p in element.properties):
            table = read.table(element.count, [PLY_TYPES[p[0]] for p in element.properties])
            vertices = np.stack([table[names.index(axis)] for axis in "xyz"], -1).astype(np.float64)
            continue
        for _ in range(element.count):
            for words in element.properties:
                if words[0] != "list":
                    read.take(1, PLY_TYPES[words[0]])
                    continue
                count = int(read.take(1, PLY_TYPES[words[1]])[0])
                values = read.take(count, PLY_TYPES[words[2]])
                if element.name == "face" and words[-1] in ("vertex_indices", "vertex_index"):
                    polygons.append([int(v) for v in values])
    return vertices, _triangles(polygons)


class _Words:
    """Numbers of an ASCII file, in order."""

    def __init__(self, words: list[bytes]) -> None:
        self.words, self.place = words, 0

    def take(self, count: int, kind: str) -> np.ndarray:
        found = self.words[self.place : self.place + count]
        if len(found) < count:
            raise ValueError("it ends too early")
        self.place += count
        return np.array([float(w) for w in found]).astype(kind)

    def table(self, count: int, kinds: list[str]) -> list[np.ndarray]:
        return list(self.take(count * len(kinds), "f8").reshape(count, len(kinds)).T)


class _Bytes:
    """Numbers of a binary file, in order."""

    def __init__(self, content: bytes, order: str) -> None:
        self.content, self.order, self.place = content, order, 0

    def take(self, count: int, kind: str) -> np.ndarray:
        found = np.frombuffer(self.content, self.order + kind, count, self.place)
        self.place += found.nbytes
        return found

    def table(self, count: int, kinds: list[str]) -> list[np.ndarray]:
        row = np.dtype([(str(i), self.order + kind) for i, kind in enumerate(kinds)])
        found = np.frombuffer(self.content, row, count, self.place)
        self.place += found.nbytes
        return [found[str(i)] for i in range(len(kinds))]


# ---- OBJ -------------------------------------------------------------------------------------------------------------


def _to_obj(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = ["# millimeters", *(f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices.tolist())]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def _from_obj(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    vertices, polygons = list[list[float]](), list[list[int]]()
    for line in content.decode("utf-8", "replace").splitlines():
        words = line.split()
        if words[:1] == ["v"]:
            vertices.append([float(w) for w in words[1:4]])
        elif words[:1] == ["f"]:
            numbers = [int(w.partition("/")[0]) for w in words[1:]]
            polygons.append([n - 1 if n > 0 else len(vertices) + n for n in numbers])
    return np.array(vertices, dtype=np.float64).reshape(-1, 3), _triangles(polygons)


# ---- STL -------------------------------------------------------------------------------------------------------------

STL_ROW = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])


def _to_stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    rows = np.zeros(len(faces), dtype=STL_ROW)
    rows["normal"], rows["corners"] = normal / np.where(length > 0, length, 1.0), corners
    return b"millimeters".ljust(80) + np.uint32(len(faces)).tobytes() + rows.tobytes()


def _from_stl(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    count = int(np.frombuffer(content, "<u4", 1, 80)[0]) if len(content) >= 84 else -1
    if len(content) == 84 + count * STL_ROW.itemsize:
        corners = np.frombuffer(content, STL_ROW, count, 84)["corners"].astype(np.float64)
    elif content.lstrip().startswith(b"solid"):
        words = content.split()
        places = [i for i, word in enumerate(words) if word == b"vertex"]
        corners = np.array([[float(w) for w in words[i + 1 : i + 4]] for i in places]).reshape(-1, 3, 3)
    else:
        raise InputError(where, f"{len(content)} bytes of {count} triangles", "an STL file, binary or ASCII")
    return corners.reshape(-1, 3), np.arange(3 * len(corners), dtype=np.int64).reshape(-1, 3)


MESHES: dict[str, MeshFormat] = {
    ".ply": MeshFormat(_to_ply, _from_ply),
    ".obj": MeshFormat(_to_obj, _from_obj),
    ".stl": MeshFormat(_to_stl, _from_stl),
    ".glb": MeshFormat(to_glb, from_glb),
}
"""Formats of meshes, by the extension of a file."""
