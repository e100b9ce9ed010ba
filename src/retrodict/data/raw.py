"""Raw measurements in files: named arrays of HDF5, MAT, npz, npy, TIFF stacks and DICOM-CT-PD, read piece by piece.

Nothing here knows what the numbers mean.  HDF5 and MAT files of version 7.3 need the package h5py, older MAT files
scipy: both come with the extra `reconstruct`.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._check import InputError
from retrodict.data.image import decoding
from retrodict.data.limits import budget, check_regular, check_size

__all__ = ["RAW_SUFFIXES", "Raw", "Stored", "open_raw"]

EXTRA = 'pip install "retrodict[reconstruct]"'

RAW_SUFFIXES = (".h5", ".hdf5", ".hdf", ".nxs", ".mat", ".npz", ".npy", ".tif", ".tiff")
"""Extensions of files that `open_raw` takes; a folder of TIFF files is a stack, one of DICOM-CT-PD a scan."""

HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Stored:
    """An array in a file: its shape, its kind of number, and how to read a piece of it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    take: Callable[[Any], np.ndarray] = field(repr=False)

    def __str__(self) -> str:
        """Shape and kind, for errors."""
        return f"{' x '.join(map(str, self.shape)) or 'one value'} of {self.dtype}"


@dataclass(frozen=True)
class Raw:
    """A file of arrays by name, such as "exchange/data" or "CtDataLimited.parameters.angles".

    `kind` is "hdf5", "mat", "npz", "npy", "tiff" or "ct-pd"; `entries` are the arrays; `close` lets the file go.
    """

    path: Path
    kind: str
    entries: Mapping[str, Stored]
    close: Callable[[], None] = field(default=lambda: None, repr=False)

    def __enter__(self) -> Raw:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the file go."""
        self.close()

    @classmethod
    def of(cls, arrays: Mapping[str, Any], name: str = "arrays") -> Raw:
        """Arrays in memory, as if a file had held them."""
        kept = {key: np.asarray(value) for key, value in arrays.items()}
        entries = {
            key: Stored(array.shape, array.dtype, lambda index, array=array: array[index])
            for key, array in kept.items()
        }
        return cls(Path(name), "memory", entries)

    @cached_property
    def identity(self) -> str:
        """A word that is another for another file: its path, size and time, or a checksum of arrays in memory."""
        if self.kind != "memory":
            files = [self.path] if self.path.is_file() else sorted(self.path.iterdir())
            return " ".join(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files)
        total = hashlib.sha256()
        for name, entry in sorted(self.entries.items()):
            total.update(f"{name} {entry}".encode() + np.ascontiguousarray(entry.take(())).tobytes())
        return total.hexdigest()

    @cached_property
    def listing(self) -> str:
        """The largest arrays in words, for errors."""
        by_size = sorted(self.entries.items(), key=lambda e: -math.prod(e[1].shape))
        shown = [f"{name} ({stored})" for name, stored in by_size[:8]]
        return ", ".join(shown) + (f" and {len(by_size) - 8} more" if len(by_size) > 8 else "") or "no arrays"

    def stored(self, name: str) -> Stored:
        """The entry of that name; `InputError` with what there is otherwise."""
        if name not in self.entries:
            raise InputError(self.path, f"no array {name!r}; {self.listing}", f"an array called {name!r}")
        return self.entries[name]

    def read(self, name: str, index: Any = ()) -> np.ndarray:
        """A piece of an array (all of it by default); `InputError` for what cannot be decoded or is no number."""
        entry = self.stored(name)
        with decoding(self.path, self.kind):
            array = np.asarray(entry.take(index))
        for first, second in (("real", "imag"), ("r", "i")):
            if array.dtype.names == (first, second):
                pair: Any = array
                array = np.asarray(pair[first] + 1j * pair[second])
        if array.dtype.kind not in "iufbc":
            raise InputError(f"{self.path}: {name}", f"values of type {array.dtype}", "numbers")
        return array


def open_raw(path: Path | str) -> Raw:
    """Open a file of arrays, or a folder of TIFF files or DICOM projections; the kind is known by the first bytes.

    Raises `InputError` for other files, for broken ones, and where the package that reads them is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    check_regular(path)
    with decoding(path, "data"), path.open("rb") as file:
        start = file.read(256)
    with decoding(path, "data"):
        if start.startswith(HDF5) or HDF5 in start or (start.startswith(b"MATLAB 7.3") and path.stat().st_size > 512):
            return _hdf5(path)
        if start.startswith(b"MATLAB 5.0"):
            return _mat(path)
        if start.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
            return _npz(path)
        if start.startswith(b"\x93NUMPY"):
            return _npy(path)
        if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiffs(path, [path])
    expected = f"HDF5, MATLAB, npz, npy or TIFF ({' '.join(RAW_SUFFIXES)})"
    raise InputError(path, "a file of another kind", expected)


def _missing(path: Path, package: str, kind: str, error: ImportError) -> InputError:
    hint = f"Install it with: {EXTRA}"
    made = InputError(path, f"{kind}, and the package {package} is not installed", f"{package}, to read it", hint)
    made.__cause__ = error
    return made


# ---- HDF5 ------------------------------------------------------------------------------------------------------------


def _hdf5(path: Path) -> Raw:
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise _missing(path, "h5py", "an HDF5 file", error) from error
    file = h5py.File(path, "r")
    entries: dict[str, Stored] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            check_size(f"{path}: {name}", item.shape, 1)
            entries[name] = Stored(tuple(item.shape), item.dtype, lambda index, item=item: item[index])

    file.visititems(visit)
    return Raw(path, "hdf5", entries, file.close)


# ---- MATLAB ----------------------------------------------------------------------------------------------------------


def _mat(path: Path) -> Raw:
    try:
        loadmat: Any = importlib.import_module("scipy.io").loadmat
    except ImportError as error:
        raise _missing(path, "scipy", "a MATLAB file of version 5", error) from error
    if path.stat().st_size > budget():
        raise InputError(path, f"{path.stat().st_size / 1e9:.1f} GB", f"at most {budget() / 1e9:.1f} GB")
    found = loadmat(path, squeeze_me=True, struct_as_record=False)
    entries: dict[str, Stored] = {}

    def flatten(name: str, value: Any, level: int = 0) -> None:
        names = getattr(value, "_fieldnames", None)
        if names is not None and level < 8:
            for inner in names:
                flatten(f"{name}.{inner}", getattr(value, inner), level + 1)
        elif isinstance(value, np.ndarray | int | float | complex) and np.asarray(value).dtype.kind in "iufbc":
            array = np.asarray(value)
            entries[name] = Stored(array.shape, array.dtype, lambda index, array=array: array[index])

    for name, value in found.items():
        if not name.startswith("__"):
            flatten(name, value)
    return Raw(path, "mat", entries)


# ---- numpy -----------------------------------------------------------------------------------------------------------


def _npz(path: Path) -> Raw:
    archive = np.load(path, allow_pickle=False)
    entries: dict[str, Stored] = {}
    with zipfile.ZipFile(path) as opened:
        for name in archive.files:
            with opened.open(f"{name}.npy") as entry:
                shape, dtype = _declared(entry)
            if dtype.kind in "iufbc":
                check_size(f"{path}: {name}", shape, dtype.itemsize)
                entries[name] = Stored(shape, dtype, lambda index, name=name: archive[name][index])
    return Raw(path, "npz", entries, archive.close)


def _declared(entry: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(entry)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(entry)
    return tuple(shape), dtype


def _npy(path: Path) -> Raw:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return Raw(path, "npy", {"data": Stored(array.shape, array.dtype, lambda index: np.array(array[index]))})


# ---- TIFF ------------------------------------------------------------------------------------------------------------


def _folder(path: Path) -> Raw:
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".tif", ".tiff") and p.is_file())
    if files:
        return _tiffs(path, files)
    from retrodict.data.ct_pd import headers_of  # pydicom takes long to import

    others = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    headers = headers_of(others)
    if not headers:
        expected = "one TIFF file for every view, in the order of their names, or projections of DICOM-CT-PD"
        raise InputError(path, "a folder without TIFF files or projections", expected)
    return _projections(path, headers)


def _projections(path: Path, headers: list[Any]) -> Raw:
    """Line integrals "projections" `(views, rows, columns)`, and the geometry as arrays."""
    from retrodict.data.ct_pd import read_ct_pd

    scan = read_ct_pd(path, headers)

    def take(index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        chosen = np.arange(scan.shape[0])[index[0]] if index else np.arange(scan.shape[0])
        if np.ndim(chosen) == 0:
            return scan.view(int(chosen))[index[1:]]
        return np.stack([scan.view(int(i))[index[1:]] for i in chosen])

    entries = {"projections": Stored(scan.shape, np.dtype(np.float64), take)}
    for name, array in scan.arrays.items():
        entries[name] = Stored(array.shape, array.dtype, lambda index, array=array: array[index])
    return Raw(path, "ct-pd", entries)


def _tiffs(path: Path, files: list[Path]) -> Raw:
    """Pages of one file, or one page of every file, as the first axis."""
    import tifffile

    with tifffile.TiffFile(files[0]) as first:
        pages = len(first.pages) if len(files) == 1 else 1
        page: Any = first.pages[0]
        shape, dtype = (max(pages, len(files)), *page.shape), np.dtype(page.dtype)
    check_size(path, shape, dtype.itemsize)

    def one(i: int) -> np.ndarray:
        found = tifffile.imread(files[i]) if len(files) > 1 else tifffile.imread(files[0], key=i)
        if found.shape != shape[1:]:
            raise InputError(
                files[i if len(files) > 1 else 0], f"a page of {found.shape}", f"{shape[1:]}, as the first"
            )
        return found

    def take(index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        chosen = np.arange(shape[0])[index[0]] if index else np.arange(shape[0])
        if np.ndim(chosen) == 0:
            return one(int(chosen))[index[1:]]
        return np.stack([one(int(i))[index[1:]] for i in chosen])

    return Raw(path, "tiff", {"data": Stored(shape, dtype, take)})
