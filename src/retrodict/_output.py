"""Writing that either happens completely or leaves nothing behind, and the stamp that every record carries."""

from __future__ import annotations

import datetime
import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from retrodict._check import InputError, OutputError
from retrodict._version import __version__

__all__ = [
    "kept_parts",
    "recover",
    "refuse_existing",
    "require_room",
    "said",
    "staged",
    "stamp",
    "write_file",
    "write_folder",
]

try:
    import fcntl
except ImportError:  # not on Windows: there a process is asked for by its number alone
    fcntl = None


def stamp() -> dict[str, Any]:
    """Versions of everything that a result depends on, and the date: `{"versions": ..., "date": ...}`."""
    versions = {"retrodict": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"versions": versions, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


def refuse_existing(path: Path, force: bool) -> None:
    """Raise where something stands at `path` and may not be replaced: to be asked before a long computation."""
    if path.exists() and not force:
        raise InputError(path, "something there already", "a path that does not exist", "Use {force}.", force=True)


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


# ---- results that appear together ------------------------------------------------------------------------------------

WORK = ".work"
"""Folder inside a staging folder that never becomes a result: lock, key, finished parts, and the plan of the move."""


@contextmanager
def staged(
    out: Path | str, name: str, *, force: bool = False, key: str = "", owned: Callable[[str], bool] | None = None
) -> Generator[Path]:
    """A hidden folder inside `out` whose entries are renamed into `out` at the end: all of them, or none.

    Where something fails before that, the staging folder goes, and `out` too if it was made for it.  `kept_parts` of
    it is a folder for parts of the work: what lies there when the run is killed or interrupted is found there again by
    the next run of the same `name` and `key`.  With `force`, entries of an earlier run (those that `owned` says yes to)
    that the new run does not have go when the new ones come.
    """
    target = Path(out)
    fresh = not target.exists()
    staging = target / f".{name}.tmp-{os.getpid()}"
    with said(staging):
        lock = _adopted(target, name, staging, key) if key else None
        recover(target, name)
        lock = _opened(staging, key) if lock is None else lock
    kept = False
    try:
        yield staging
        with said(target):
            _publish(staging, target, force, owned or (lambda _: False))
    except KeyboardInterrupt:
        kept = any(kept_parts(staging).iterdir())
        raise
    finally:
        os.close(lock)
        if not kept:
            shutil.rmtree(staging, ignore_errors=True)
        if fresh and target.is_dir() and not any(target.iterdir()):
            target.rmdir()


def kept_parts(staging: Path) -> Path:
    """The folder inside a staging folder for parts of the work that outlive a killed run."""
    return staging / WORK / "parts"


def recover(out: Path | str, name: str | None = None) -> list[tuple[str, str]]:
    """Tidy up after runs into `out` that died, and return (name, what was done); running ones are left alone.

    A move of finished results that was cut short is finished.  Everything else that is temporary goes, but for
    finished parts of the work, which go only where they are those of `name`.
    """
    target = Path(out)
    told: list[tuple[str, str]] = []
    for path in sorted(target.glob(".*")) if target.is_dir() else []:
        match = TEMPORARY.fullmatch(path.name)
        if match is None or not _is_dead(path, int(match["pid"])):
            continue
        whose = match["name"]
        if match["kind"] == "old" and not (target / whose).exists():
            os.rename(path, target / whose)
            told.append((whose, "put back what a run that died had moved aside"))
        elif match["kind"] == "tmp" and (path / WORK / "move.json").exists():
            with said(target):
                _move(path, target)
            shutil.rmtree(path, ignore_errors=True)
            told.append((whose, "finished the move of the results of a run that died"))
        elif not (path.is_dir() and _has_parts(path) and whose != name):
            _remove(path)
            told.append((whose, "removed what a run that died had left"))
    return told


def require_room(out: Path | str, needed: int) -> None:
    """Raise `OutputError` where fewer than `needed` bytes are free at `out`: to be asked before a long computation."""
    there = next(p for p in (Path(out).absolute(), *Path(out).absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        found = f"{free / 1e6:.0f} MB free, and the results need about {needed / 1e6:.0f} MB"
        raise OutputError(errno.ENOSPC, f"{out}: {found}; nothing was computed")


TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-(?P<pid>\d+)")
"""Names of everything that this module makes on the way to a result."""


def _opened(staging: Path, key: str) -> int:
    """Make a staging folder and hold its lock, which the system lets go of when the process ends, however it ends."""
    kept_parts(staging).mkdir(parents=True)
    (staging / WORK / "key").write_text(key)
    lock = os.open(staging / WORK / "lock", os.O_RDWR | os.O_CREAT)
    _locked(lock)
    return lock


def _locked(lock: int) -> bool | None:
    """Whether the lock is ours now; None where the file system knows no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_dead(path: Path, pid: int) -> bool:
    """Whether the run that made a temporary path has ended: by its lock, or else by the number of its process."""
    try:
        lock = os.open(path / WORK / "lock", os.O_RDWR)
    except OSError:
        return not _runs(pid)
    try:
        free = _locked(lock)
    finally:
        os.close(lock)
    return not _runs(pid) if free is None else free


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process
        return True
    return True


def _has_parts(staging: Path) -> bool:
    parts = kept_parts(staging)
    return parts.is_dir() and any(parts.iterdir())


def _adopted(target: Path, name: str, staging: Path, key: str) -> int | None:
    """Take over the staging folder of a dead run of the same name and key: its lock, or None where there is none."""
    for path in sorted(target.glob(".*")) if target.is_dir() else []:
        match = TEMPORARY.fullmatch(path.name)
        if match is None or match["name"] != name or match["kind"] != "tmp" or not _has_parts(path):
            continue
        file = path / WORK / "key"
        if not file.is_file() or file.read_text() != key or not _is_dead(path, int(match["pid"])):
            continue
        lock = os.open(path / WORK / "lock", os.O_RDWR | os.O_CREAT)
        if _locked(lock) is False:  # another run was faster
            os.close(lock)
            continue
        if path != staging:
            os.rename(path, staging)
        return lock
    return None


def _publish(staging: Path, target: Path, force: bool, owned: Callable[[str], bool]) -> None:
    """Move everything from the staging folder to the target: after a failure it is undone, after a kill completed."""
    entries = sorted(p.name for p in staging.iterdir() if p.name != WORK)
    taken = [n for n in entries if (target / n).exists()]
    if taken and not force:
        place = target / taken[0]
        raise InputError(place, "a file of an earlier run", "a new output folder", "Use {force}.", force=True)
    obsolete = sorted(p.name for p in target.iterdir() if owned(p.name) and p.name not in entries) if force else []
    (staging / WORK / "old").mkdir()
    plan = {"entries": entries, "obsolete": obsolete}
    write_file(staging / WORK / "move.json", json.dumps(plan).encode())
    try:
        _move(staging, target)
    except BaseException:
        _undo(staging, target, entries)
        raise


def _move(staging: Path, target: Path) -> None:
    """Every new entry into its place, what stood there aside; may be done again where it was cut short."""
    plan, old = json.loads((staging / WORK / "move.json").read_text()), staging / WORK / "old"
    for name in plan["entries"]:
        if (staging / name).exists():
            if (target / name).exists():
                os.replace(target / name, old / name)
            os.replace(staging / name, target / name)
    for name in plan["obsolete"]:
        if (target / name).exists():
            os.replace(target / name, old / name)


def _undo(staging: Path, target: Path, entries: list[str]) -> None:
    for name in entries:
        if not (staging / name).exists() and (target / name).exists():
            os.rename(target / name, staging / name)
    for path in (staging / WORK / "old").iterdir():
        os.rename(path, target / path.name)


# ---- the mechanism ---------------------------------------------------------------------------------------------------


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
        _remove(temporary)


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
