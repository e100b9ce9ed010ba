"""The forward processes as a list: what each is, its law, source, options, and a picture of its states.

All of it is read from the constructors of `PROCESSES`: the first sentence of a docstring says what a process is, the
sentences with h = ... are its law, and a name with a year is its source.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from retrodict._check import InputError, Recipe, build, choice, read_json
from retrodict.bases import Basis, Cosine, Fourier, Pixel, Wavelet
from retrodict.processes import PROCESSES
from retrodict.processes.process import Process

__all__ = ["Entry", "described", "entries", "example", "markdown", "options_of", "settings"]

LAW = re.compile(r"(?:^|[\s(:])(?:log h|h|h\^2|H|x_t|dx) = ")
"""What a sentence of a law says: the gain, the state or its equation."""

SOURCE = re.compile(
    r"[A-Z][\w'-]+(?:(?:, (?:and )?| and )[A-Z][\w'-]+)*(?: et al\.)?,? \d{4}[a-z]?(?:, (?:eqs?\.|table|algorithm|"
    r"section|appendix|proposition|supplement|sub-VP|the [a-z -]+interpolant|linear interpolant)[^();]*?(?=[);.]|$))?"
)
"""Authors and year, and the place in the source."""

INSTRUMENT = ("scanner-mtf.json", "scanner-nps.json")
"""Shipped curves of a simulated scanner, for processes that end at measured ones."""


@dataclass(frozen=True)
class Entry:
    """One process of the list.

    conditioning: "none", "terminal" (x_1 is the measurement) or "external"; pulled: k is not 0, towards a condition
    image; memory: "Markov", or what correlates its noise between times; options: defaults by name; required: those that
    have to be given.
    """

    name: str
    what: str
    law: str
    source: str
    conditioning: str
    pulled: bool
    memory: str
    basis: str
    options: dict[str, Any]
    required: tuple[str, ...]
    text: str

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)


def entries() -> list[Entry]:
    """Every process of `PROCESSES`, in its order."""
    return [described(name) for name in PROCESSES]


def described(name: str) -> Entry:
    """One process by name; `InputError` offers the nearest for an unknown one."""
    maker = PROCESSES[choice("process", name, PROCESSES)]
    text = inspect.cleandoc(maker.__doc__ or "")
    process = example(name)
    what, law, source = told(text)
    return Entry(
        name,
        what,
        law,
        source,
        process.pairing.kind,
        process.anchored,
        _memory(process),
        type(process.basis).__name__.lower(),
        options_of(name),
        tuple(p.name for p in _parameters(name) if p.default is p.empty),
        text,
    )


def told(text: str) -> tuple[str, str, str]:
    """(what it is, its law, its source) of a docstring; empty where it says none."""
    flowing = " ".join(text.split())
    sentences = re.split(r"(?<=\.)\s+(?=[A-Z`\"(])", flowing)
    first = sentences[0]
    found = LAW.search(first)
    what = first if found is None else first[: found.start() + 1].rstrip(" :(,")
    laws = [s if s is not first or found is None else s[found.start() :] for s in sentences if LAW.search(s)]
    sources = list(dict.fromkeys(m.group(0).strip() for m in SOURCE.finditer(flowing)))
    return _bare(what), " ".join(_bare(s) for s in laws).strip(" (:"), "; ".join(sources)


def _bare(sentence: str) -> str:
    """Without citations in parentheses, which have a column of their own, and without a full stop."""
    kept = re.sub(r"\s*\((?:[^()]|\([^()]*\))*\d{4}(?:[^()]|\([^()]*\))*\)", "", sentence)
    return kept.strip().rstrip(".")


def _memory(process: Process) -> str:
    if process.memory is None:
        return "Markov" if process.markov else "no SDE: its clock falls"
    return f"{process.memory} noise" if isinstance(process.memory, str) else "a memory of its own"


# ---- options ---------------------------------------------------------------------------------------------------------


def options_of(name: str) -> dict[str, Any]:
    """Defaults of the options of a process, None where one has to be given."""
    return {p.name: None if p.default is p.empty else _plain(p.default) for p in _parameters(name)}


def _parameters(name: str) -> list[inspect.Parameter]:
    """Options of a process: what its constructor names after the basis."""
    parameters = list(inspect.signature(PROCESSES[choice("process", name, PROCESSES)]).parameters.values())[1:]
    return [p for p in parameters if p.kind is not p.VAR_KEYWORD]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def settings(name: str, given: Sequence[str], where: str = "set") -> dict[str, Any]:
    """Options of a process from texts "name=value"; a value is JSON, or else a word."""
    known, found = options_of(name), {}
    for text in given:
        key, equal, value = text.partition("=")
        if not equal:
            raise InputError(where, repr(text), "NAME=VALUE, such as beta_max=10")
        if not known:
            raise InputError(where, repr(key), f"no option: {name} has none")
        choice(where, key, known)
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


# ---- an example ------------------------------------------------------------------------------------------------------


def example(name: str, options: Mapping[str, Any] | None = None, size: int = 8, spacing: float = 1.0) -> Process:
    """Process `name` on a square grid in the first basis that it takes; measured curves are those of a shipped scanner.

    Raises `InputError` for options that it does not know.
    """
    given = dict(options or {})
    if "mtf" in options_of(name):
        folder = Path(str(resources.files("retrodict") / "assets"))
        curves = zip(("mtf", "nps"), (read_json(folder / file, "a curve") for file in INSTRUMENT), strict=True)
        given = {**dict(curves), **given}
    errors = []
    for basis in _bases(size, spacing):
        try:
            process = build(PROCESSES, Recipe(name, given), "process", basis)
            _ = process.law
        except InputError as error:
            if "basis" not in error.where:
                raise
            errors.append(error)
        else:
            return process
    raise errors[0]


def _bases(size: int, spacing: float) -> list[Basis]:
    grid, pixel = (size, size), (spacing, spacing)
    levels = 3 if size % 8 == 0 and size > 8 else 1
    return [Fourier(grid, pixel), Wavelet(grid, pixel, levels=levels), Cosine(grid, pixel), Pixel(grid, pixel)]


# ---- a page ----------------------------------------------------------------------------------------------------------


def markdown() -> str:
    """The list as a table of Markdown, for the documentation."""
    rows = ["| process | what it is | law | states | source |", "|---|---|---|---|---|"]
    for e in entries():
        cells = (f"`{e.name}`", e.what, f"`{e.law}`", states(e), e.source)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def states(entry: Entry) -> str:
    """Conditioning and memory in a few words."""
    kind = {"none": "from noise", "terminal": "ends at the measurement", "external": "from noise, sees the measurement"}
    said = "pulled to a condition image" if entry.pulled else kind[entry.conditioning]
    return f"{said}; {entry.memory}"
