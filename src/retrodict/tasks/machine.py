"""What this process may use of the machine: cores, memory, threads of torch, and the device."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from retrodict._check import InputError, choice

__all__ = ["device_named", "free_memory", "torch_threads", "usable_cores"]

GROUPS = Path("/sys/fs/cgroup")
"""Where Linux keeps the limits of containers and batch systems."""


def usable_cores() -> int:
    """Cores that this process may use: its affinity and the CPU quota of its control groups, at least 1.

    A share such as 1.5 cores counts as 1: a second thread would be stopped half of the time, and the first waits.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups():
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not period:  # version 1 of the control groups
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def device_named(name: str) -> str:
    """ "cpu" or "cuda" for "auto", "cpu" or "cuda"; raises `InputError` for a GPU that is not there."""
    choice("device", name, ("auto", "cpu", "cuda"))
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise InputError("device", "'cuda' on a machine where torch finds no GPU", "'cpu' or 'auto'")
    return name if name != "auto" else "cuda" if found else "cpu"


def free_memory() -> int | None:
    """Bytes that this process could still take: of the machine and of its control groups; None where nobody says."""
    found = []
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for folder in _groups():
        limit, used = _text(folder / "memory.max"), _text(folder / "memory.current")
        if not limit:
            limit, used = _text(folder / "memory.limit_in_bytes"), _text(folder / "memory.usage_in_bytes")
        if limit.isdigit() and used.isdigit():
            found.append(int(limit) - int(used) + _cached(folder))
    return min(found) if found else None


def _cached(folder: Path) -> int:
    """Bytes of files that the system keeps in memory of a group, and gives back when asked."""
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _groups() -> Iterator[Path]:
    """Folders of the control groups of this process, each with those above it."""
    yield from (GROUPS, GROUPS / "cpu", GROUPS / "memory")
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        kinds, _, inside = line.partition(":")[2].partition(":")
        for kind in kinds.split(",") or [""]:
            folder = GROUPS / kind / inside.lstrip("/")
            while folder not in (GROUPS, GROUPS / kind) and GROUPS in folder.parents:
                yield folder
                folder = folder.parent


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


@contextmanager
def torch_threads(count: int | None) -> Generator[int]:
    """Let torch use `count` CPU threads until the end of the block, and yield how many it uses.

    None: as many as before.  Never more than the cores that the process may use, whatever was asked for: more threads
    than cores only wait for each other.
    """
    before = torch.get_num_threads()
    used = min(before if count is None else count, usable_cores())
    if used != before:
        torch.set_num_threads(used)
    try:
        yield used
    finally:
        if used != before:
            torch.set_num_threads(before)
