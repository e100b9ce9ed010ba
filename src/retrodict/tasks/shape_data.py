"""Shapes to train on and to compare with: what `data.shapes` of a configuration names, as truncated distances in mm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrodict._check import InputError
from retrodict._random import key
from retrodict.data import Group, read
from retrodict.data.image import Image
from retrodict.shapes.families import draw_shape
from retrodict.shapes.files import MESHES, read_mesh
from retrodict.shapes.mesh import distance_of_mesh
from retrodict.shapes.volume import Volume, distance_of_labels, in_cube, volume_of_shape
from retrodict.tasks.fit_config import FitConfig, ShapesConfig

__all__ = ["shape_groups", "volume_of"]

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".npz", ".tif", ".tiff")
"""Label volumes are looked for under these names."""


def shape_groups(config: FitConfig, base: Path) -> list[Group]:
    """A group for every shape that the configuration names; none where it names no shapes.

    Raises `InputError` that names the file: a mesh that is not watertight, a mask that is empty or inverted, a shape
    that does not fit, a spacing that is missing, a folder without shapes.
    """
    stated = config.data.shapes
    if stated is None:
        return []
    side, spacing = config.data.patch[0], config.spacing[0]
    made = _procedural(stated, side, spacing)
    root = base / config.data.root
    found = [_group(path, stated, side, spacing, config) for path in _files(stated, root)]
    return [*made, *found]


def _procedural(stated: ShapesConfig, side: int, spacing: float) -> list[Group]:
    groups = []
    for i in range(stated.images):
        shape = draw_shape(key(stated.seed, "shapes", i), stated.families, turned=stated.turned)
        groups.append(_named(f"shape-{i}", volume_of_shape(shape, side, spacing), stated.clip * spacing))
    return groups


def _named(name: str, volume: Volume, clip: float) -> Group:
    values = volume.truncated(clip).values.astype(np.float32)
    return Group(name, images=(Image.of(values, unit="mm", spacing=volume.spacing),))


def _files(stated: ShapesConfig, root: Path) -> Iterator[Path]:
    for field, folders, suffixes in (("labels", stated.labels, VOLUMES), ("meshes", stated.meshes, tuple(MESHES))):
        for folder in folders:
            top = root / folder
            if not top.is_dir():
                hint = "Set data.root in the configuration, or give --set data.root=/path/to/the/shapes."
                raise InputError(f"data.shapes.{field}", f"no folder {top}", "a folder with a file a shape", hint)
            paths = sorted(p for p in top.iterdir() if p.name.lower().endswith(suffixes))
            if not paths:
                wanted = f"files that end in {', '.join(suffixes)}"
                raise InputError(f"data.shapes.{field}", f"none in {top}", wanted)
            yield from paths


def _group(path: Path, stated: ShapesConfig, side: int, spacing: float, config: FitConfig) -> Group:
    given = config.data.spacing
    try:
        volume = volume_of(path, side, spacing, inside=stated.inside, given=None if given is None else tuple(given))
    except InputError as error:
        if "spacing" not in error.options:
            raise
        hint = "Give data.spacing: [1.0, 0.7, 0.7] in the configuration."  # a configuration has no option of its own
        raise InputError(path, error.found, error.expected, hint) from error
    return _named(path.name.partition(".")[0], volume, stated.clip * spacing)


def volume_of(
    path: str | Path,
    side: int,
    spacing: float,
    *,
    inside: list[int] | None = None,
    given: tuple[float, ...] | None = None,
) -> Volume:
    """The signed distance of the shape in a file, a mesh or a label volume, in a cube of `side` voxels of `spacing` mm.

    inside: labels that are the shape.  given: mm of the voxels of a label volume that states none.
    """
    path = Path(path)
    if path.suffix.lower() in MESHES:
        return distance_of_mesh(read_mesh(path), side, spacing, name=str(path))
    image = read(path, spacing=given, unit="arbitrary", expect=None)
    if len(image.spacing) != 3 or image.values.shape[0] != 1:
        raise InputError(path, f"an image of {image.values.ndim - 1} axes", "a label volume, or a mesh")
    try:
        found = distance_of_labels(image.values[0].round().numpy().astype(np.int64), image.spacing, inside)
        return in_cube(found, side, spacing, str(path))
    except InputError as error:
        if error.where in ("labels", "spacing"):
            raise InputError(path, error.found, error.expected, error.hint) from error
        raise
