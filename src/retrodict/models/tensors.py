"""Tensors on disk: safetensors files, looked at before they are loaded; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from retrodict._check import InputError

__all__ = ["as_ever", "load_weights", "read_tensors"]


PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


MOST_HEADER = 16_000_000
"""Bytes of the header: a hundred thousand tensors."""


WIDEST = 16
"""Bytes of one value of the widest type: complex128."""


@contextmanager
def as_ever() -> Iterator[None]:
    """Networks are made on the CPU in float32, whatever the default device and dtype of the caller are."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def load_weights(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy `tensors` into `net` after checking names, shapes, types and that every number is finite.

    Floating-point types are converted to that of the network; the `InputError` names the tensor.
    """
    own = net.state_dict()
    _check_names(set(tensors), own, path)
    for name, value in own.items():
        given = tensors[name]
        if given.shape != value.shape:
            raise InputError(f"{path}: {name}", f"shape {tuple(given.shape)}", f"shape {tuple(value.shape)}")
        if given.dtype != value.dtype and not (given.is_floating_point() and value.is_floating_point()):
            raise InputError(f"{path}: {name}", str(given.dtype), str(value.dtype))
        if not bool(torch.isfinite(given.to(value.dtype)).all()):
            raise InputError(f"{path}: {name}", "NaN or infinite weights", "finite weights")
    net.load_state_dict({name: tensors[name].to(own[name].dtype) for name in own})


def _check_names(given: set[str], own: Mapping[str, Any], path: Path) -> None:
    missing, surplus = sorted(set(own) - given), sorted(given - set(own))
    if missing or surplus:
        what = f"no tensor {missing[0]!r}" if missing else f"a tensor {surplus[0]!r} that the network lacks"
        raise InputError(path, what, f"exactly the {len(own)} tensors of the network in the JSON file")


def read_tensors(path: Path, like: Mapping[str, Tensor] | None = None, sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    `like`: tensors of the names and shapes that are expected; what else the file declares is refused before it is
    loaded.  `sha256`: checksum of the file, where it is known.
    """
    size = _regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if start.startswith(PICKLES):
                hint = "Convert it where it was made."
                raise InputError(path, "a pickle (it could run code)", "a safetensors file", hint)
            header = _header(path, start, file.read(min(MOST_HEADER, max(0, size - 8))), size)
            if like is not None:
                _check_declared(path, header, like)
            file.seek(0)
            data = file.read()
    except OSError as error:
        raise InputError(path, error.strerror or error, "a readable safetensors file") from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        found = "weights that are not those of its record (their checksum is another)"
        raise InputError(path, found, "the files of one model", "Copy both files anew.")
    try:
        return load_tensors(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(path, f"a damaged file ({error})", "a safetensors file") from error


def _regular(path: Path) -> int:
    """Size of a file that is one."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a safetensors file") from error
    except (OSError, ValueError) as error:
        raise InputError(path, getattr(error, "strerror", None) or error, "a safetensors file") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(path, "no regular file", "a safetensors file")
    return status.st_size


def _header(path: Path, start: bytes, rest: bytes, size: int) -> dict[str, Any]:
    """The declared tensors, for a file as long as they say."""
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= len(rest):
        raise InputError(path, f"a damaged file (a header of {length} bytes in {size})", "a safetensors file")
    try:
        header = json.loads(rest[:length].decode())
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        for entry in entries.values():
            math.prod(entry["shape"])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise InputError(path, "a damaged file (its header cannot be read)", "a safetensors file") from error
    if size != 8 + length + end:
        raise InputError(path, f"a damaged file ({size} bytes)", f"the {8 + length + end} bytes that it declares")
    return entries


def _check_declared(path: Path, header: Mapping[str, Any], like: Mapping[str, Tensor]) -> None:
    """Names and shapes before anything is loaded, so that a file cannot take more memory than the network does."""
    _check_names(set(header), like, path)
    for name, value in like.items():
        shape, (first, last) = header[name]["shape"], header[name]["data_offsets"]
        if list(shape) != list(value.shape):
            raise InputError(f"{path}: {name}", f"shape {tuple(shape)}", f"shape {tuple(value.shape)}")
        if not 0 <= last - first <= WIDEST * value.numel():
            raise InputError(f"{path}: {name}", f"{last - first} bytes", f"{value.numel()} numbers")
