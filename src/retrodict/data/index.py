"""The table of a collection of images, one row for a slice or a series: a CSV file that says what is where.

| column | | holds |
|---|---|---|
| `split` | needed | train, validation or test; all rows of a patient have the same |
| `patient` | needed | name or number of the patient |
| `file` | needed | path of the file, relative to the folder of the table; of several files, their folder |
| `files` | | JSON list of the names in that folder, in which a series of several files lies |
| `key` | | name of the array in an npz file |
| `index` | | number of the slice along the first axis; empty: all slices |
| `series` | | name of the series |
| `format`, `modality`, `unit` | | as in `Image`; without a unit, `hu` at the start of `key` means HU |
| `orientation` | | axial, coronal, sagittal or oblique |
| `slices`, `rows`, `columns` | | size |
| `pixel_spacing_mm` | | JSON list [rows, columns] |
| `slice_thickness_mm` | | of a slice |
| `manufacturer`, `model`, `kernel`, `kvp`, `tube_current_mA` | | from the header; numbers may be [least, most] |
| `noise` or `noise_hu` | | standard deviation of the image's own noise in its unit |
| `lag1_corr` | | correlation of that noise between neighboring pixels |
| `sha256` | | of the pixels, see `row_digest` |
| `licence` | | under which the image may be used |

Other columns are passed over.  An empty cell, or nan, says that nothing is known.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from retrodict._check import InputError, read_text, visible
from retrodict._output import write_file

__all__ = ["COLUMNS", "SPLITS", "IndexRow", "read_index", "write_index"]


SPLITS = ("train", "validation", "test")


MOST_BYTES = 256_000_000
"""Size of a table: more is taken for a mistake."""


LONGEST_CELL = 131_071
"""Characters that one cell may have: what readers of CSV take."""


@dataclass(frozen=True)
class IndexRow:
    """One slice or series; see the table of columns above.  `line` is where it was read from, `path` the table."""

    split: str
    patient: str
    file: str
    files: tuple[str, ...] = ()
    key: str = ""
    index: int | None = None
    series: str = ""
    format: str = ""
    modality: str = ""
    unit: str = ""
    orientation: str = ""
    slices: int | None = None
    rows: int | None = None
    columns: int | None = None
    pixel_spacing_mm: tuple[float, ...] = ()
    slice_thickness_mm: float | None = None
    manufacturer: str = ""
    model: str = ""
    kernel: str = ""
    kvp: tuple[float, ...] = ()
    tube_current_mA: tuple[float, ...] = ()
    noise: float | None = None
    lag1_corr: float | None = None
    sha256: str = ""
    licence: str = ""
    path: Path = Path()
    line: int = 0

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, from where the table lies."""
        top = self.path.parent / self.file
        return tuple(top / name for name in self.files) if self.files else (top,)

    @property
    def where(self) -> str:
        """The place of the row for errors."""
        return f"{self.path}, line {self.line}" if self.line else f"{self.path}: {self.file}"

    @property
    def known_unit(self) -> str | None:
        """The unit that the row states, or None where the file has to say it."""
        return self.unit or ("HU" if self.key.lower().startswith("hu") else None)


# ---- cells -----------------------------------------------------------------------------------------------------------


def _word(text: str) -> str:
    return text


def _split(text: str) -> str:
    if text not in SPLITS:
        raise ValueError
    return text


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise ValueError
    return value


def _several(text: str) -> tuple[float, ...]:
    """One number, or a JSON list of one or two."""
    found = json.loads(text)
    values = tuple(float(v) for v in (found if isinstance(found, list) else [found]))
    if not 1 <= len(values) <= 2 or not all(math.isfinite(v) and v >= 0 for v in values):
        raise ValueError
    return values


def _spacing(text: str) -> tuple[float, ...]:
    values = _several(text)
    if min(values) <= 0:
        raise ValueError
    return values * 2 if len(values) == 1 else values


def _names(text: str) -> tuple[str, ...]:
    found = json.loads(text)
    if not isinstance(found, list) or not found or not all(isinstance(name, str) and name for name in found):
        raise ValueError
    return tuple(found)


def _digest(text: str) -> str:
    if len(text) != 64 or set(text.lower()) - set("0123456789abcdef"):
        raise ValueError
    return text.lower()


def _plane(text: str) -> str:
    if text not in ("axial", "coronal", "sagittal", "oblique"):
        raise ValueError
    return text


Cell = tuple[Callable[[str], Any], str]


COLUMNS: dict[str, Cell] = {
    "split": (_split, "train, validation or test"),
    "patient": (_word, "a name"),
    "file": (_word, "a path"),
    "files": (_names, "a JSON list of file names"),
    "key": (_word, "a name"),
    "index": (_count, "a whole number from 0"),
    "series": (_word, "a name"),
    "format": (_word, "a name"),
    "modality": (_word, "a name"),
    "unit": (_word, "a name"),
    "orientation": (_plane, "axial, coronal, sagittal or oblique"),
    "slices": (_count, "a whole number"),
    "rows": (_count, "a whole number"),
    "columns": (_count, "a whole number"),
    "pixel_spacing_mm": (_spacing, "positive mm, such as [0.7, 0.7]"),
    "slice_thickness_mm": (_positive, "a number of mm"),
    "manufacturer": (_word, "a name"),
    "model": (_word, "a name"),
    "kernel": (_word, "a name"),
    "kvp": (_several, "a number or [least, most]"),
    "tube_current_mA": (_several, "a number or [least, most]"),
    "noise": (_positive, "a number from 0"),
    "lag1_corr": (_number, "a number"),
    "sha256": (_digest, "64 hexadecimal digits"),
    "licence": (_word, "a name"),
}
"""Every column: how a cell is read, and what it has to be."""


NEEDED = ("split", "patient", "file")


OTHER_NAMES = {"noise_hu": "noise"}


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_index(path: Path | str) -> list[IndexRow]:
    """The rows of a table.

    Raises `InputError` that names file, line and column for a cell that cannot be meant, a row with too few or too many
    cells, a needed column that is missing, a patient on two sides of the split, and an image that is listed twice.
    """
    path = Path(path)
    what = "a CSV table of images, as `retrodict data index` writes it"
    lines = csv.reader(io.StringIO(read_text(path, what, MOST_BYTES).removeprefix("\ufeff"), newline=""), strict=True)
    try:
        names = _header(next(lines, []), path)
        rows = [_row(names, cells, path, lines.line_num) for cells in lines if cells]
    except csv.Error as error:
        raise InputError(f"{path}, line {lines.line_num}", f"unreadable CSV ({error})", what) from error
    if not rows:
        raise InputError(path, "no row", "a row for each slice or series")
    _check_together(rows)
    return rows


def _header(cells: Sequence[str], path: Path) -> list[str]:
    names = [OTHER_NAMES.get(cell.strip(), cell.strip()) for cell in cells]
    for name in NEEDED:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]!r} to be it?" if near else "See the documentation of the table for columns."
            found = f"the columns {visible(', '.join(names), 200)}" if any(names) else "nothing"
            raise InputError(f"{path}, line 1", found, f"a column {name!r}", hint)
    twice = next((name for name in names if name in COLUMNS and names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}, line 1", f"the column {twice!r} twice", "every column once")
    return names


def _row(names: Sequence[str], cells: Sequence[str], path: Path, line: int) -> IndexRow:
    where = f"{path}, line {line}"
    if len(cells) != len(names):
        raise InputError(where, f"{len(cells)} cells", f"{len(names)}, as the first line has")
    found: dict[str, Any] = {}
    for name, cell in zip(names, map(str.strip, cells), strict=True):
        if name not in COLUMNS or cell.lower() in ("", "nan"):
            continue
        read, expected = COLUMNS[name]
        try:
            found[name] = read(cell)
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise InputError(f"{where}, column {name}", repr(cell)[:80], expected) from error
    for name in NEEDED:
        if name not in found:
            raise InputError(f"{where}, column {name}", "an empty cell", COLUMNS[name][1])
    return IndexRow(**found, path=path, line=line)


def _check_together(rows: Sequence[IndexRow]) -> None:
    """Raise for a patient on two sides, and for one image in two rows."""
    sides: dict[str, IndexRow] = {}
    images: dict[tuple[str, tuple[str, ...], str, int | None], IndexRow] = {}
    for row in rows:
        first = sides.setdefault(row.patient, row)
        if first.split != row.split:
            found = f"{row.split!r} for the patient {row.patient!r}, who is in {first.split!r} in line {first.line}"
            hint = "Otherwise validation sees a patient of the training."
            raise InputError(f"{row.where}, column split", found, "one side for all rows of a patient", hint)
        same = images.setdefault((os.path.normpath(row.file), row.files, row.key, row.index), row)
        if same is not row:
            raise InputError(f"{row.where}, column file", f"the image of line {same.line} again", "every image once")


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_index(rows: Iterable[IndexRow], path: Path | str, *, force: bool = False) -> Path:
    """Write a table; paths become relative to its folder.

    Columns of which no row knows anything are left out.  `OutputError` if the file system refuses.
    """
    path = Path(path)
    moved = [replace(row, file=_relative(row, path)) for row in rows]
    names = [n for n in COLUMNS if n in NEEDED or any(_text(getattr(row, n)) for row in moved)]
    stream = io.StringIO(newline="")
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(names)
    for row in moved:
        cells = [_text(getattr(row, name)) for name in names]
        longest = max(range(len(cells)), key=lambda i: len(cells[i]))
        if len(cells[longest]) > LONGEST_CELL:
            found = f"{len(cells[longest])} characters"
            raise InputError(f"{row.file}, column {names[longest]}", found, f"at most {LONGEST_CELL}")
        table.writerow(cells)
    write_file(path, stream.getvalue().encode(), force=force)
    return path


def _relative(row: IndexRow, path: Path) -> str:
    here = (row.path.parent / row.file).absolute()
    return Path(os.path.relpath(here, path.parent.absolute())).as_posix()


def _text(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        numbers = [float(f"{v:.8g}") if isinstance(v, float) else v for v in value]
        return json.dumps(numbers[0] if len(numbers) == 1 and isinstance(numbers[0], float) else numbers)
    return str(value)


assert set(COLUMNS) <= {f.name for f in fields(IndexRow)}
