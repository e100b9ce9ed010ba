"""Checkpoints of a run: whole or not there, checked before they are used, and used only by the run they belong to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from retrodict._check import InputError, OutputError, read_json
from retrodict._output import write_folder
from retrodict.models.tensors import read_tensors

__all__ = ["Checkpoint", "differing", "flat", "identity_hash", "newest", "save_checkpoint", "sweep"]


FILES = ("weights.safetensors", "average.safetensors", "optimizer.safetensors")


class Checkpoint(NamedTuple):
    """A checkpoint that was found whole: its folder, the step it was written after, and its record."""

    path: Path
    step: int
    record: Mapping[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of its files: "weights", "average" or "optimizer"."""
        return read_tensors(self.path / f"{name}.safetensors")


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for every newer one that is not.

    Whole: its record can be read and its files have the checksums that stand there.  Raises `InputError` where there
    are checkpoints and none of them is whole.
    """
    damage: list[InputError] = []
    for path in _folders(folder):
        try:
            found = _opened(path)
        except InputError as error:
            damage.append(error)
            continue
        return found, [f"{error} The checkpoint before it, {found.path.name}, is used." for error in damage]
    if damage:
        first = damage[0]
        hint = "No other checkpoint is whole: remove the folder to start again."
        raise InputError(first.where, first.found, first.expected, hint)
    return None, []


def _folders(folder: Path) -> Iterator[Path]:
    found = (p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal())
    yield from sorted(found, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _opened(path: Path) -> Checkpoint:
    where = path / "state.json"
    record = read_json(where, "the record of a checkpoint")
    step, sums = record.get("step"), record.get("files")
    if not isinstance(step, int) or step != _step_of(path):
        raise InputError(f"{where}: step", repr(step), f"{_step_of(path)}, as in the name of the folder")
    if not isinstance(record.get("options"), dict) or not isinstance(record.get("identity"), dict):
        raise InputError(where, "no options or no identity of the run", "a checkpoint of this version")
    if not isinstance(sums, dict) or set(sums) != set(FILES):
        raise InputError(f"{where}: files", repr(sums)[:80], f"size and checksum of {', '.join(FILES)}")
    for name in FILES:
        _check_file(path / name, sums[name])
    return Checkpoint(path, step, record)


def _check_file(path: Path, stated: Any) -> None:
    """Raise for a file that is not as it was written; its size is looked at first."""
    wanted = "the file that was written"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(path, "no regular file", wanted)
        if not isinstance(stated, dict) or status.st_size != stated.get("bytes"):
            raise InputError(path, f"{status.st_size} bytes", f"{wanted}, of another size")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(path, error.strerror or error, wanted) from error
    if hashlib.sha256(content).hexdigest() != stated.get("sha256"):
        raise InputError(path, "a damaged file (its checksum is another)", wanted)


def save_checkpoint(
    folder: Path, step: int, files: Mapping[str, bytes], options: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Write a checkpoint as one folder, so that a kill at any moment leaves whole ones, and keep it and the one before.

    Raises `OutputError` that says how much room is needed and how much there is; nothing half-written stays.
    """
    assert set(files) == set(FILES)
    sums = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()}
    record = {"step": step, "options": dict(options), "identity": dict(identity), "files": sums}
    content = {**files, "state.json": json.dumps(record).encode()}
    try:
        write_folder(folder / f"checkpoint-{step:08d}", content.items(), force=True)
    except OutputError as error:
        needed = sum(map(len, content.values())) / 1e6
        free = f", {shutil.disk_usage(folder).free / 1e6:.1f} MB are free" if folder.is_dir() else ""
        raise OutputError(error.errno, f"{error.strerror}: a checkpoint needs {needed:.1f} MB{free}") from error
    for old in _folders(folder):  # what is newer was damaged, or belongs to steps that are done anew
        if _step_of(old) > step:
            shutil.rmtree(old, ignore_errors=True)
    for old in list(_folders(folder))[2:]:
        shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a run that was killed while writing left under temporary names."""
    for path in (*folder.glob(".checkpoint-*.tmp-*"), *folder.glob(".checkpoint-*.old-*")):
        pid = path.name.rpartition("-")[2]
        if pid.isdecimal() and not _runs(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


# ---- what a run is ---------------------------------------------------------------------------------------------------


def flat(record: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a nested record by dotted name; a list is a leaf, a long one a digest of it."""
    if isinstance(record, Mapping) and record:
        return {k: v for key, value in record.items() for k, v in flat(value, f"{name}.{key}" if name else key).items()}
    text = json.dumps(record, sort_keys=True, default=str)
    if len(text) > 200:
        return {name: f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"}
    return {name: json.loads(text)}


def identity_hash(identity: Mapping[str, Any]) -> str:
    """SHA-256 of a flat identity."""
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The names that are not the same in two flat identities, in order."""
    missing = object()
    return sorted(k for k in {*found, *wanted} if found.get(k, missing) != wanted.get(k, missing))
