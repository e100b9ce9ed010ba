"""Binary glTF 2.0 (.glb): the triangles of every mesh of a scene, in metres with y up as the format has them.

A file here is one mesh; what is read may be a scene of many nodes, whose transforms are applied.  Textures, colors and
animations are left out; compressed, sparse and external data are refused by name.  Specification: Khronos Group, glTF
2.0, sections 3.6, 3.7 and 4.4.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from retrodict._check import InputError

__all__ = ["from_glb", "to_glb"]

MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
FLOATS, INDICES, TRIANGLES = 5126, {5121: "<u1", 5123: "<u2", 5125: "<u4"}, 4

UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]) / 1000
"""From (x, y, z) in mm with z up to metres with y up."""


def to_glb(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """Vertices (V, 3) in mm and faces (F, 3) as one mesh."""
    place = (vertices @ UP.T).astype("<f4")
    data = place.tobytes() + faces.astype("<u4").tobytes()
    views = [{"buffer": 0, "byteOffset": 0, "byteLength": place.nbytes, "target": 34962},
             {"buffer": 0, "byteOffset": place.nbytes, "byteLength": len(data) - place.nbytes,
              "target": 34963}]  # fmt: skip
    ends = {"min": place.min(0).tolist(), "max": place.max(0).tolist()} if len(place) else {}
    scene = {
        "asset": {"version": "2.0", "generator": "retrodict"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": TRIANGLES}]}],
        "accessors": [
            {"bufferView": 0, "componentType": FLOATS, "count": len(place), "type": "VEC3", **ends},
            {"bufferView": 1, "componentType": 5125, "count": 3 * len(faces), "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(data)}],
    }
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    chunks = _chunk(JSON_CHUNK, text) + _chunk(BINARY_CHUNK, data)
    return np.array([MAGIC, 2, 12 + len(chunks)], dtype="<u4").tobytes() + chunks


def _chunk(kind: int, content: bytes) -> bytes:
    return np.array([len(content), kind], dtype="<u4").tobytes() + content


def from_glb(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) in mm and faces (F, 3) of all meshes of the scene."""
    scene, data = _chunks(content, where)
    if scene.get("extensionsRequired"):
        raise InputError(where, f"extensions {scene['extensionsRequired']}", "a glTF file that needs none")
    corners, triangles, count = [], [], 0
    for mesh, turned in _nodes(scene):
        for part in scene["meshes"][mesh]["primitives"]:
            if part.get("mode", TRIANGLES) != TRIANGLES:
                raise InputError(where, f"primitives of the mode {part['mode']}", "triangles, mode 4")
            place = _values(scene, data, part["attributes"]["POSITION"], where).astype(np.float64)
            index = (
                _values(scene, data, part["indices"], where) if "indices" in part else np.arange(len(place))
            ).reshape(-1, 3)
            corners.append((place @ turned[:3, :3].T + turned[:3, 3]) @ np.linalg.inv(UP).T)
            mirrored = np.linalg.det(turned[:3, :3]) < 0
            triangles.append(index.astype(np.int64)[:, :: -1 if mirrored else 1] + count)
            count += len(place)
    return np.concatenate(corners or [np.empty((0, 3))]), np.concatenate(triangles or [np.empty((0, 3), np.int64)])


def _chunks(content: bytes, where: str) -> tuple[dict[str, Any], bytes]:
    head = np.frombuffer(content, "<u4", 5) if len(content) >= 20 else np.zeros(5, "<u4")
    if head[0] != MAGIC or head[1] != 2 or head[4] != JSON_CHUNK or head[2] > len(content):
        raise InputError(where, "no header of a binary glTF 2.0 file, or less than it says", "a .glb file")
    end = 20 + int(head[3])
    scene = json.loads(content[20:end])
    kind = np.frombuffer(content, "<u4", 2, end) if len(content) >= end + 8 else [0, 0]
    if any("uri" in b for b in scene.get("buffers", [])) or kind[1] != BINARY_CHUNK:
        raise InputError(where, "data in other files", "a .glb file that holds its own")
    return scene, content[end + 8 : end + 8 + int(kind[0])]


def _nodes(scene: dict[str, Any]) -> Iterator[tuple[int, np.ndarray]]:
    """Mesh and transform (4, 4) of every node of the scene that has a mesh."""
    nodes = scene.get("nodes", [])
    inner = {child for node in nodes for child in node.get("children", [])}
    roots = (
        scene["scenes"][scene.get("scene", 0)]["nodes"] if "scenes" in scene else sorted({*range(len(nodes))} - inner)
    )
    waiting = [(i, np.eye(4)) for i in roots]
    for _ in range(len(nodes) + len(roots)):  # a tree: every node once
        if not waiting:
            return
        i, outer = waiting.pop(0)
        turned = outer @ _transform(nodes[i])
        waiting += [(child, turned) for child in nodes[i].get("children", [])]
        if "mesh" in nodes[i]:
            yield nodes[i]["mesh"], turned
    if waiting:
        raise ValueError("its nodes are no tree")


def _transform(node: dict[str, Any]) -> np.ndarray:
    """The matrix of a node: its own (by columns), or translation * rotation (x, y, z, w) * scale."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    out = np.eye(4)
    out[:3, :3] = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]) * np.array(node.get("scale", (1.0, 1.0, 1.0)))  # fmt: skip
    out[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return out


def _values(scene: dict[str, Any], data: bytes, number: int, where: str) -> np.ndarray:
    """The numbers of an accessor: (n, 3) of positions, (n,) of indices."""
    found = scene["accessors"][number]
    if "sparse" in found or "bufferView" not in found:
        raise InputError(where, "sparse data", "a glTF file whose accessors are plain")
    view, wide = scene["bufferViews"][found["bufferView"]], found["type"] == "VEC3"
    kind = "<f4" if wide and found["componentType"] == FLOATS else INDICES.get(found["componentType"])
    if kind is None or found["type"] not in ("VEC3", "SCALAR"):
        raise InputError(where, f"{found['type']} of the type {found['componentType']}", "positions as 32-bit floats")
    row = np.dtype((kind, 3)) if wide else np.dtype(kind)
    stride, start = view.get("byteStride", row.itemsize), view.get("byteOffset", 0) + found.get("byteOffset", 0)
    if start + stride * (found["count"] - 1) + row.itemsize > len(data):
        raise ValueError("it ends too early")
    shape, steps = ((found["count"], 3), (stride, 4)) if wide else ((found["count"],), (stride,))
    return np.ndarray(shape, kind, data, start, steps)
