"""Meshes in files: PLY, OBJ, STL and binary glTF, by trimesh, in mm (glTF: metres, y up).

A vertex of a `Mesh` is (z, y, x) as the axes of its volume; in a file it is (x, y, z), and the triangles are turned
with it, so that they stay counterclockwise from outside.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._check import InputError
from retrodict.shapes.mesh import Mesh
from retrodict.shapes.volume import needed

__all__ = ["MESHES", "encode_mesh", "read_mesh"]

MESHES: dict[str, dict[str, Any]] = {
    ".ply": {},
    ".obj": {"header": "millimeters", "digits": 9, "include_normals": False},
    ".stl": {},
    ".glb": {},
}
"""Formats of meshes by the extension of a file, with what each is asked of when it is written."""

MOST_BYTES = 1 << 29
"""Of a mesh file."""

UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]) / 1000
"""From (x, y, z) in mm with z up to metres with y up, as glTF has them."""


def encode_mesh(mesh: Mesh, suffix: str) -> bytes:
    """The bytes of a file of ".ply", ".obj", ".stl" or ".glb".

    Raises `InputError` for another format, and where trimesh (the extra `shapes`) is not installed.
    """
    if suffix not in MESHES:
        raise InputError("files", suffix, f"one of {', '.join(MESHES)}")
    vertices = mesh.vertices[:, ::-1] @ UP.T if suffix == ".glb" else mesh.vertices[:, ::-1]
    made = needed("trimesh").Trimesh(vertices, mesh.faces[:, ::-1], process=False)
    content = made.export(file_type=suffix[1:], **MESHES[suffix])
    return content.encode() if isinstance(content, str) else content


def read_mesh(path: str | Path) -> Mesh:
    """A mesh from a PLY, OBJ, STL or glTF (.glb) file; corners at one place are one vertex, polygons become triangles,
    and the parts of a scene stand where its nodes put them.

    Raises `InputError`, which names the file, for another format, a file that is damaged and one without triangles.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MESHES:
        raise InputError(path, f"the extension {path.suffix!r}", f"a mesh: {', '.join(MESHES)}")
    if not path.is_file():
        raise InputError(path, "no such file", "a mesh")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(path, f"{path.stat().st_size / 1e6:.0f} MB", f"at most {MOST_BYTES / 1e6:.0f} MB")
    load = needed("trimesh").load_scene
    try:  # from memory: a file cannot name others
        found = load(io.BytesIO(path.read_bytes()), file_type=suffix[1:], process=False).to_mesh()
        vertices, faces = np.asarray(found.vertices, dtype=np.float64), np.asarray(found.faces, dtype=np.int64)
    except Exception as error:  # whatever a reader of foreign bytes may raise
        raise InputError(path, f"a damaged mesh ({error})", "a PLY, OBJ, STL or GLB file that can be read") from error
    if len(faces) == 0:
        raise InputError(path, "no triangles", "a PLY, OBJ, STL or GLB file of a surface")
    vertices = vertices @ np.linalg.inv(UP).T if suffix == ".glb" else vertices
    try:
        return Mesh(vertices[:, ::-1], faces[:, ::-1]).merged()
    except InputError as error:
        raise InputError(path, error.found, error.expected, error.hint) from error
