"""Finding images in files and folders: by what files hold, with a word for every file that is left out."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from retrodict._check import InputError
from retrodict.data.formats import FORMATS, format_of, known_suffixes, recognizable
from retrodict.data.formats.format import MARK, Format
from retrodict.data.image import Source
from retrodict.data.limits import check_regular

__all__ = ["Found", "LeftOut", "discover", "find", "summarized"]


MEASURED = ("input", "measured")
"""Roles of files of this program that are measurements, and not results."""


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is no source, and why.

    failed : it is an image by its content or its extension and cannot be opened, or a folder that cannot be searched;
        False for what is left out on purpose: no image, hidden, made by this program, or found a second time.
    error : what was raised on opening it, where something was.
    """

    path: Path
    reason: str
    failed: bool = False
    error: InputError | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        """The path and the reason in one line."""
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Found:
    """What can be read at a path, and everything else that lies there; both in a fixed order."""

    sources: tuple[Source, ...]
    left_out: tuple[LeftOut, ...] = ()


def discover(path: str | Path, *, results: bool = False) -> list[Source]:
    """Return the sources that `find` finds; what is an image and cannot be opened is an `InputError`."""
    found = find(path, results=results)
    failed = next((left for left in found.left_out if left.failed), None)
    if failed is not None:
        raise failed.error or InputError(failed.path, failed.reason, "a file that can be opened")
    return list(found.sources)


def find(path: str | Path, *, results: bool = False) -> Found:
    """Return what can be read at `path`, and what was left out there and why.

    A file is one source. A folder is searched with its subfolders, also through links: DICOM files are grouped by
    SeriesInstanceUID (format "dicom-series", or "dicom" where there is one file), every file of another format is a
    source by itself. The content of a file decides what it is, and its extension only where the content says nothing.

    results : take also what this program has written, which is left out otherwise (of a folder; a file that is given by
        its own path is always taken).

    Nothing inside a folder stops the search: what cannot be opened is left out as `failed`. `InputError` for a path
    that does not exist, for a file of unknown format, and for what is neither a file nor a folder.
    """
    path = Path(path)
    if path.is_dir():
        return _Search(path, results).found()
    if not path.exists():
        found = "a link that leads nowhere" if path.is_symlink() else "nothing"
        raise InputError(path, found, "a file or a folder")
    check_regular(path)
    row = _opened(path)
    if row is None:
        raise InputError(path, "a file of unknown format", recognizable())
    return Found((Source((path,), row.name, _stem(path)),))


def _opened(path: Path) -> Format | None:
    try:
        return format_of(path)
    except OSError as error:
        raise InputError(path, f"a file that cannot be opened ({error.strerror})", "a file that can be read") from error


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted(known_suffixes(), key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def summarized(left_out: Iterable[LeftOut], most: int = 5) -> list[str]:
    """Return a line for each reason: how many files, the names of up to `most` of them, and the reason."""
    groups: dict[str, list[str]] = {}
    for left in left_out:
        groups.setdefault(left.reason, []).append(left.path.name)
    lines = []
    for reason, names in groups.items():
        more = f" and {len(names) - most} more" if len(names) > most else ""
        lines.append(f"{', '.join(names[:most])}{more}: {reason}")
    return lines


@dataclass
class _Search:
    """One walk through a folder: sources by format and series, and what is left out."""

    folder: Path
    results: bool
    series: dict[tuple[str, str], list[Path]] = field(default_factory=dict)  # files by format and key
    numbers: dict[tuple[str, str], str] = field(default_factory=dict)
    single: list[Source] = field(default_factory=list)
    left: list[LeftOut] = field(default_factory=list)

    def found(self) -> Found:
        files = self._files()
        parts = {part for path in files for part in _parts(path)} & set(files)
        for path in files:
            if path not in parts:
                self._sort(path)
        sources = [*self.single, *self._series_sources()]
        named = _uniquely_named(sorted(sources, key=lambda s: s.paths[0]))
        return Found(tuple(named), tuple(sorted(self.left, key=lambda left: left.path)))

    # ---- files

    def _files(self) -> list[Path]:
        """Every regular file that is not hidden, once: links are followed after what lies there by itself."""
        files: dict[tuple[int, int] | Path, Path] = {}  # by device and number
        links: list[Path] = []
        searched: set[tuple[int, int]] = set()
        folders = [self.folder]
        while folders or links:
            linked = not folders
            folder = folders.pop() if folders else links.pop(0)
            if linked and not folder.is_dir():
                self._link(folder, files)
                continue
            at = _identity(folder)
            if at in searched:
                self.left.append(LeftOut(folder, "a link to a folder that is searched already"))
                continue
            searched.add(at)
            for entry in self._entries(folder):
                path = folder / entry.name
                if entry.name.startswith("."):
                    self.left.append(LeftOut(path, f"a hidden {'folder' if entry.is_dir() else 'file'}"))
                elif entry.is_symlink():
                    links.append(path)
                elif entry.is_dir():
                    folders.append(path)
                elif entry.is_file():
                    files.setdefault(path if _identity(path) in files else _identity(path), path)
                else:
                    self.left.append(LeftOut(path, "a pipe, device or socket"))
        return sorted(files.values())

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                yield from sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.left.append(LeftOut(folder, f"a folder that cannot be opened ({error.strerror})", failed=True))

    def _link(self, path: Path, files: dict[tuple[int, int] | Path, Path]) -> None:
        """Take a linked file, unless it is broken, leads to no file, or to one that was found by itself."""
        if not path.exists():
            self.left.append(LeftOut(path, "a link that leads nowhere", failed=_named_image(path)))
        elif not path.is_file():
            self.left.append(LeftOut(path, "a pipe, device or socket"))
        elif _identity(path) in files:
            self.left.append(LeftOut(path, "a link to a file that is found already"))
        else:
            files[_identity(path)] = path

    # ---- what they are

    def _sort(self, path: Path) -> None:
        """Put a file where it belongs: to the sources, to its series, or to what is left out."""
        try:
            row = _opened(path)
            if row is None:
                empty = path.stat().st_size == 0
                self.left.append(LeftOut(path, "an empty file" if empty else "no image of a known format"))
                return
            role = "" if self.results else _role(row, path)
            if role and role not in MEASURED:
                self.left.append(LeftOut(path, f"a result of this program ({re.sub('-[0-9]+$', '', role)})"))
            elif row.group is None:
                inside = path.relative_to(self.folder).parent.parts
                self.single.append(Source((path,), row.name, "_".join((*inside, _stem(path)))))
            elif (key := row.group(path)) is None:
                self.left.append(LeftOut(path, f"{row.title} without an image"))
            else:
                self.series.setdefault((row.name, key[0]), []).append(path)
                self.numbers.setdefault((row.name, key[0]), key[1])
        except InputError as error:
            self.left.append(LeftOut(path, f"found {error.found}; expected {error.expected}", True, error))

    def _series_sources(self) -> Iterator[Source]:
        """Name each series after its folder, with the series number where the folder holds more than one."""
        parents = [files[0].parent for files in self.series.values()]
        for key, files in self.series.items():
            parts = files[0].parent.relative_to(self.folder).parts
            name = "_".join(parts) or self.folder.resolve().name or "series"
            if parents.count(files[0].parent) > 1 and self.numbers[key]:
                name += f"-{self.numbers[key]}"
            yield Source(tuple(files), key[0] if len(files) == 1 else f"{key[0]}-series", name)


def _identity(path: Path) -> tuple[int, int]:
    at = path.stat()
    return at.st_dev, at.st_ino


def _named_image(path: Path) -> bool:
    return path.name.lower().endswith(known_suffixes())


def _parts(path: Path) -> tuple[Path, ...]:
    """Files that belong to the one at `path`, where its extension is that of a format with such files."""
    for row in FORMATS.values():
        if row.parts is not None and path.name.lower().endswith((*row.suffixes, *row.read_only)):
            with contextlib.suppress(Exception):  # a broken header is refused when it is read
                return row.parts(path)
    return ()


def _role(row: Format, path: Path) -> str:
    """The role in the mark of this program, or "": a file whose mark cannot be read is not one of ours."""
    with contextlib.suppress(Exception):
        return "" if row.made is None else row.made(path).removeprefix(MARK).strip(" :")
    return ""


def _uniquely_named(sources: list[Source]) -> list[Source]:
    """Give each source a name that is a file name, and no other's; also where upper and lower case are the same."""
    seen: dict[str, int] = {}
    named = []
    for source in sources:
        base = re.sub(r"[^\w.+-]", "_", source.name)
        name = base
        while name.casefold() in seen:
            seen[base.casefold()] += 1
            name = f"{base}-{seen[base.casefold()]}"
        seen[name.casefold()] = 1
        named.append(replace(source, name=name))
    return named
