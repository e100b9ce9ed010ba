"""How much a file may make a reader hold, asked of the sizes that it declares: before anything is decoded."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from retrodict._check import InputError

__all__ = ["LIMIT_VARIABLE", "VALUE_BUDGET", "budget", "check_regular", "check_size"]


VALUE_BUDGET = 2 * 1024**3
"""Bytes that the values of one image may take: 2 GiB, 2048 slices of 512 x 512 as float32."""


LIMIT_VARIABLE = "RETRODICT_MAX_GIB"
"""Environment variable that sets the budget instead, in GiB."""


HELD = 4  # bytes a value takes here, whatever the file stores it in: float32


def budget() -> int:
    """Bytes that the values of one image may take; raises `InputError` for a variable that is no positive number."""
    asked = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not asked:
        return VALUE_BUDGET
    try:
        size = float(asked)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        raise InputError(LIMIT_VARIABLE, repr(asked), "a positive number of GiB")
    return int(size * 1024**3)


def check_size(name: object, shape: Sequence[int], bytes_per_value: float = HELD) -> None:
    """Raise `InputError` where an array that a file declares needs more than the budget, without making it.

    name : the file, for the message; shape : as declared, any integers; bytes_per_value : as stored. What is stored in
    fewer bytes than a float32 counts as a float32, because that is what it becomes.
    """
    sizes = [int(n) for n in shape]
    declared = " x ".join(str(n) for n in sizes)
    if min(sizes, default=1) < 0:
        raise InputError(name, f"a declared size of {declared}", "sizes that are not negative")
    needed, most = math.prod(sizes) * max(float(bytes_per_value), HELD), budget()
    if needed > most:
        found = f"{declared} values, {needed / 1024**3:.3g} GiB when read"
        hint = f"Set the environment variable {LIMIT_VARIABLE} to allow more."
        raise InputError(name, found, f"at most {most / 1024**3:.3g} GiB", hint)


def check_regular(path: Path) -> None:
    """Raise `InputError` for a pipe, a device or a socket: reading one may never end."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # whoever opens it says why it cannot
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(path, "a pipe, device or socket", "a regular file")
