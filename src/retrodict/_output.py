"""Writing that either happens completely or leaves nothing behind, and the stamp that every record carries."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from retrodict._check import InputError, OutputError
from retrodict._version import __version__

__all__ = ["refuse_existing", "said", "staged", "stamp", "write_file", "write_folder"]


def stamp() -> dict[str, Any]:
    """Versions of everything that a result depends on, and the date: `{"versions": ..., "date": ...}`."""
    versions = {"retrodict": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"versions": versions, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


def refuse_existing(path: Path, force: bool) -> None:
    """Raise where something stands at `path` and may not be replaced: to be asked before a long computation."""
    if path.exists() and not force:
        raise InputError(path, "something there already", "a path that does not exist", "Use force to replace it.")


def write_file(path: Path | str, content: bytes, *, force: bool = True) -> Path:
    """Write through a temporary name in the same folder, flushed to the disk; an existing file stays without `force`.

    Raises `OutputError` where the file system refuses; nothing half-written stays behind.
    """
    target = Path(path)
    refuse_existing(target, force)
    if target.is_dir():
        raise InputError(target, "a folder", "the path of a file")
    with _temporary(target) as temporary:
        target.parent.mkdir(parents=True, exist_ok=True)
        _put(temporary, content)
        os.replace(temporary, target)
    return target


def write_folder(
    path: Path | str, files: Iterable[tuple[str, bytes]], *, force: bool = False, only: str | None = None
) -> list[Path]:
    """Write a folder of (name, content); it appears under its name only when every file is complete.

    An existing folder is replaced only with `force`, and only if its files all end in `only`, so that force costs no
    other work (None: any may be replaced).
    """
    target = Path(path)
    refuse_existing(target, force)
    if target.exists() and only is not None:
        _refuse_foreign(target, only)
    names = []
    with _temporary(target) as temporary:
        temporary.mkdir(parents=True)
        for name, content in files:
            _put(temporary / name, content)
            names.append(name)
        _swap(temporary, target)
    return [target / name for name in names]


@contextmanager
def staged(out: Path | str, name: str, *, force: bool = False) -> Generator[Path]:
    """A hidden folder inside `out` whose entries are renamed into `out` at the end: all of them, or none.

    Where something fails before that, the staging folder goes, and `out` too if it was made for it.
    """
    target = Path(out)
    fresh = not target.exists()
    staging = target / f".{name}.tmp-{os.getpid()}"
    try:
        with said(staging):
            staging.mkdir(parents=True)
        yield staging
        with said(target):
            _move_all(staging, target, force)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if fresh and target.is_dir() and not any(target.iterdir()):
            target.rmdir()


def _move_all(staging: Path, target: Path, force: bool) -> None:
    entries = sorted(staging.iterdir())
    for entry in entries:
        place = target / entry.name
        if place.exists() and not force:
            raise InputError(place, "a file of an earlier run", "a new output folder", "Use --force to replace it.")
    for entry in entries:
        place = target / entry.name
        if place.is_dir():
            _swap(entry, place)
        else:
            os.replace(entry, place)


def _put(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def said(path: Path) -> Generator[None]:
    """Say a failure of the file system as an `OutputError` that names the path."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        reason = error.strerror or str(error)
        raise OutputError(
            error.errno, f"{path}: could not be written ({reason}); what had been written was removed"
        ) from error


@contextmanager
def _temporary(target: Path) -> Generator[Path]:
    """A name in the same folder, and so on the same file system, where a rename is atomic; gone at the end."""
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        with said(target):
            yield temporary
    finally:
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _refuse_foreign(folder: Path, suffix: str) -> None:
    foreign = [str(folder)] if not folder.is_dir() else [p.name for p in folder.iterdir() if p.suffix.lower() != suffix]
    if foreign:
        wanted = f"a folder that holds only {suffix} files"
        raise InputError(folder, f"{sorted(foreign)[0]!r}", wanted, "Choose another path.")


def _swap(temporary: Path, target: Path) -> None:
    # POSIX renames no folder over one that holds files: move the old one aside, and back again if the rename fails.
    if not target.exists():
        os.rename(temporary, target)
        return
    aside = target.with_name(f".{target.name}.old-{os.getpid()}")
    os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
