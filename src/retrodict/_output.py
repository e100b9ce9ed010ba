"""Writing that either happens completely or leaves nothing behind."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import torch

from retrodict._check import InputError, OutputError
from retrodict._version import __version__

__all__ = ["replace_file", "replace_folder", "write_atomic"]


def _temporary(destination: Path) -> Path:
    # The same folder means the same file system, and so a rename that is atomic.
    return destination.with_name(f".{destination.name}.tmp-{os.getpid()}")


def _put(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _cleaned(destination: Path, temporary: Path) -> Generator[None]:
    """Remove `temporary` whatever happens, and say a failure of the file system as an `OutputError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        reason = error.strerror or str(error)
        raise OutputError(
            error.errno, f"{destination}: could not be written ({reason}); what had been written was removed"
        ) from error
    finally:
        _remove(temporary)


def _refuse_existing(destination: Path, force: bool) -> None:
    if destination.exists() and not force:
        raise InputError(
            destination, "something there already", "a path that does not exist", "Use force to replace it."
        )


def replace_file(destination: Path, content: bytes, force: bool) -> None:
    """Write `content` to `destination`; an existing file is replaced only with `force`."""
    _refuse_existing(destination, force)
    if destination.is_dir():
        raise InputError(destination, "a folder", "the path of a file")
    temporary = _temporary(destination)
    with _cleaned(destination, temporary):
        destination.parent.mkdir(parents=True, exist_ok=True)
        _put(temporary, content)
        os.replace(temporary, destination)


def replace_folder(destination: Path, files: Iterable[tuple[str, bytes]], force: bool) -> list[Path]:
    """Write a folder of (name, content); the folder appears under its name only when every file is complete.

    An existing folder is replaced only with `force`, and only if it holds nothing but DICOM files.
    """
    _refuse_existing(destination, force)
    if destination.exists():
        _refuse_foreign(destination)
    temporary = _temporary(destination)
    names = []
    with _cleaned(destination, temporary):
        temporary.mkdir(parents=True)
        for name, content in files:
            _put(temporary / name, content)
            names.append(name)
        _swap(temporary, destination)
    return [destination / name for name in names]


def _refuse_foreign(folder: Path) -> None:
    """Refuse to replace a folder that holds anything but the files of a series, so force costs no other work."""
    foreign = [str(folder)] if not folder.is_dir() else [p.name for p in folder.iterdir() if p.suffix.lower() != ".dcm"]
    if foreign:
        raise InputError(
            folder, f"{sorted(foreign)[0]!r}", "a folder that holds only .dcm files", "Choose another path."
        )


def _swap(temporary: Path, destination: Path) -> None:
    # POSIX renames no folder over one that holds files: move the old one aside, and back again if the rename fails.
    if not destination.exists():
        os.rename(temporary, destination)
        return
    aside = destination.with_name(f".{destination.name}.old-{os.getpid()}")
    os.rename(destination, aside)
    try:
        os.rename(temporary, destination)
    except BaseException:
        os.rename(aside, destination)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary name in the same folder, flush to disk, rename; nothing half-written stays behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(path, f"an error while writing ({error.strerror})", "room and permission to write") from error
    finally:
        temporary.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of everything that a result depends on."""
    return {"retrodict": __version__, "torch": torch.__version__, "python": platform.python_version()}
