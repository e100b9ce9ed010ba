"""The images that a configuration of training names: found, grouped by patient, split, and loaded."""

from __future__ import annotations

import glob
from pathlib import Path

from retrodict._check import InputError
from retrodict.data import Group, PatchSet
from retrodict.data.formats import format_titles
from retrodict.data.simulated import ellipses
from retrodict.data.units import unit
from retrodict.tasks.fit_config import DataConfig, FitConfig, GroupConfig
from retrodict.tasks.shape_data import shape_groups

__all__ = ["groups_of", "how_to_set", "patch_set"]


def patch_set(config: FitConfig, groups: list[Group]) -> PatchSet:
    """The patches of one side of the split at the spacing of the model, in the unit that the configuration says."""
    size = tuple(config.data.patch)
    patches = PatchSet(
        groups,
        size,
        ndim=len(size),
        spacing=tuple(config.spacing),
        coarser=config.data.coarser,
        empty_below=unit(config.intensity.unit).empty_below,
        balance="groups" if config.data.balance == "patients" else "pixels",
        seed=config.training.seed,
        channels=config.data.channels,
        flips=config.data.turn,
        rotations=config.data.turn,
    )
    if patches.unit != config.intensity.unit:
        raise InputError("data", f"images in {patches.unit!r}", f"intensity.unit {config.intensity.unit!r}")
    return patches


def groups_of(config: FitConfig, base: Path) -> list[Group]:
    """Every patient or series that the configuration names, in a fixed order.

    Raises `InputError` for a folder or file that is not there: it says where it was looked for, and how to set it.
    """
    data = config.data
    root = base / data.root
    if (data.groups or data.folders or data.indices) and not _is_dir(root):
        raise InputError("data.root", f"no folder {root}", "the folder of the images", how_to_set(data))
    named = [_group(g, data, root) for g in data.groups]
    found = [group for folder in data.folders for group in _patients(folder, data, root)]
    return named + found + _simulated(config) + shape_groups(config, base)


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or has a zero byte
        return False


def how_to_set(data: DataConfig) -> str:
    """What mends a folder or a file that is not there."""
    return f"Set data.root (now {data.root!r}) in the configuration, or give --set data.root=/path/to/the/images."


def _group(stated: GroupConfig, data: DataConfig, root: Path) -> Group:
    for path in stated.paths:
        if not glob.has_magic(path) and not _exists(root / path):
            where = f"data.groups: {stated.name}"
            raise InputError(where, f"nothing at {root / path}", "a file or a folder of images", how_to_set(data))
    return _made(stated.name, [str(root / p) for p in stated.paths], data, stated.spacing, stated.unit)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _made(
    name: str, paths: list[str], data: DataConfig, spacing: list[float] | None = None, unit: str | None = None
) -> Group:
    given = spacing or data.spacing
    return Group(
        name,
        tuple(paths),
        spacing=None if given is None else tuple(given),
        unit=unit or data.unit,
        expect=data.modality,
    )


def _patients(folder: str, data: DataConfig, root: Path) -> list[Group]:
    """A group for each folder in a folder, and for each file that lies directly in it."""
    top = root / folder
    if not _is_dir(top):
        raise InputError("data.folders", f"no folder {top}", f"a folder of {format_titles()} images", how_to_set(data))
    entries = sorted(p for p in top.iterdir() if not p.name.startswith("."))
    groups = [_made(f"{folder}/{p.name}", [glob.escape(str(p))], data) for p in entries if _holds_images(p)]
    if not groups:
        found = f"no image in {top}"
        raise InputError(
            "data.folders", found, f"a folder for each patient, of {format_titles()} images", how_to_set(data)
        )
    return groups


def _holds_images(path: Path) -> bool:
    """Whether there is something to read: a README beside the images is no patient, and a damaged image is an error."""
    from retrodict.data import discover

    try:
        return bool(discover(path))
    except InputError as error:
        if "unknown format" in error.found:
            return False
        raise


def _simulated(config: FitConfig) -> list[Group]:
    stated = config.data.simulated
    if stated is None:
        return []
    if len(set(config.spacing)) != 1 or len(config.spacing) != 2:
        raise InputError(
            "data.simulated", f"a spacing of {config.spacing}", "two equal numbers: slices of square pixels"
        )
    return [
        Group(f"simulated-{i}", images=(ellipses(stated.seed + i, stated.side, config.spacing[0]),))
        for i in range(stated.images)
    ]
