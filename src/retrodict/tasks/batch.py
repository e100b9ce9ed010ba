"""Restoring folders: one boundary for each input, so that whatever happens to one costs no other its result."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retrodict._check import InputError, NotCalibratedError, Words, choice, in_python
from retrodict._output import kept_parts, write_file
from retrodict.data import LeftOut, Source, find
from retrodict.data.discovery import summarized
from retrodict.data.formats import format_titles
from retrodict.models.model import Model, open_model
from retrodict.samplers.plan import GRIDS
from retrodict.samplers.rules import RULES
from retrodict.tasks.inputs import open_image
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.prepare import prepared
from retrodict.tasks.restore import Job, Restored, Watch, restore_into
from retrodict.tasks.results import result_name
from retrodict.tasks.resume import Parts

__all__ = ["Failure", "Interrupted", "Summary", "restore_all"]


@dataclass(frozen=True)
class Failure:
    """An input without a result: its name, the exception, and the file that keeps the traceback of a fault."""

    name: str
    error: Exception
    log: Path | None = None

    def said(self, words: Words = in_python) -> str:
        """The reason in one line, in the words of where the user stands."""
        if isinstance(self.error, InputError | NotCalibratedError):
            text = self.error.said(words)
        elif self.unexpected:
            where = f"; the traceback is in {self.log}" if self.log else ""
            text = f"{type(self.error).__name__}: {self.error} (a fault of retrodict{where})"
        else:
            text = str(self.error)
        return " ".join(text.split())

    @property
    def reason(self) -> str:
        """The reason in one line."""
        return self.said()

    @property
    def unexpected(self) -> bool:
        """Whether this is a fault of the program rather than of the input, the options or the disk."""
        return not isinstance(self.error, InputError | NotCalibratedError | OSError)

    @property
    def trace(self) -> str:
        """The traceback, for a report of the fault."""
        return "".join(traceback.format_exception(self.error))


@dataclass(repr=False)
class Summary:
    """What became of every input of a folder.

    restored: results; failures: inputs that have none; skipped: names of inputs whose results were there already;
    left_out: files that are no input, with `path` and `reason`.  forgotten: number of results that were not kept here.
    """

    restored: list[Restored] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    forgotten: int = 0

    @property
    def count(self) -> int:
        """Number of results."""
        return len(self.restored) + self.forgotten

    def take(self, done: Restored, keep: bool) -> None:
        """Count a result, and keep it where that is wanted."""
        if keep:
            self.restored.append(done)
        else:
            self.forgotten += 1

    @property
    def notes(self) -> list[str]:
        """What was left out, in a few lines: a line for each reason."""
        return summarized(self.left_out)

    def __repr__(self) -> str:
        """One line of counts."""
        return f"Summary({self})"

    def __str__(self) -> str:
        """As a person says it: "3 restored, 1 failed"."""
        counts = {"restored": self.count, "failed": len(self.failures)}
        more = {"done before": len(self.skipped), "left out": len(self.left_out)}
        return ", ".join(f"{v} {k}" for k, v in {**counts, **{k: v for k, v in more.items() if v}}.items())


class Interrupted(KeyboardInterrupt):
    """The user stopped a run: `summary` holds what was done, `slices` counts those of `name` that are kept in `out`."""

    def __init__(self, summary: Summary, out: Path, name: str, slices: int) -> None:
        self.summary, self.out, self.name, self.slices = summary, out, name, slices
        super().__init__(self.said())

    def said(self, words: Words = in_python) -> str:
        """What was done and what is kept, in the words of where the user stands."""
        kept = f"{self.slices} finished slices" if self.slices else "nothing"
        again = f"Run it again with {words('resume', True)} to go on."
        return f"stopped: {self.summary}, and {kept} of {self.name} kept in {self.out}. {again}"


def restore_all(
    path: str | Path,
    out: str | Path,
    *,
    model: str | Path | Model = "ct",
    force: bool = False,
    resume: bool = False,
    watch: Watch | None = None,
    told: Callable[[Restored | Failure], None] | None = None,
    keep: bool = True,
    **changes: Any,
) -> Summary:
    """Restore everything that can be read at `path` (a file, a series, a folder of them) into the folder `out`.

    One bad input does not stop the rest: it is listed in `failures`, whatever went wrong.  resume: inputs whose results
    lie in `out`, with the same fingerprint of options, model and pixels, are `skipped`; failed ones are tried again.
    Slices that a killed run had finished are used in any case: the bits are those of a run that was not interrupted.
    told: called with each result and failure as it comes.  keep: False forgets results once they are written and told,
    for folders that do not fit into memory.  Options are those of `restore`; what is wrong with them for every input is
    raised at once.

    Raises `InputError` where there is no image, and `Interrupted` (a `KeyboardInterrupt`) when the user stops it.
    """
    options = RestoreOptions.of(changes, ("model", "force", "resume", "watch", "told", "keep"))
    loaded, folder = open_model(model), Path(out)
    _check(loaded, options)
    summary = Summary()
    named: set[str] = set()
    sources = _sources(Path(path), summary)
    for failure in summary.failures:
        if told is not None:
            told(failure)
    for source in sources:
        name = result_name(source.name)
        try:
            with _boundary(name, summary, folder, told):
                if name in named:
                    raise InputError(source.paths[0], f"a second input called {name!r}", "names that differ")
                named.add(name)
                image, found = open_image(source, options, loaded)
                job = Job.of(image, loaded, options, result_name(found))
                skip = "finished" if resume else "recovered"
                done = restore_into(folder, job, force=force, skip=skip, watch=watch)
                if done is None:
                    summary.skipped.append(name)
                else:
                    summary.take(done, keep)
                    if told is not None:
                        told(done)
                    _log_of(folder, name).unlink(missing_ok=True)
        except KeyboardInterrupt as error:
            slices = sum(Parts(kept_parts(p)).done() for p in folder.glob(".*") if p.name.startswith(f".{name}.tmp-"))
            raise Interrupted(summary, folder, name, slices) from error
    return summary


def _check(model: Model, options: RestoreOptions) -> None:
    """Raise what is wrong with the options for every input."""
    choice("rule", options.rule, RULES)
    if options.grid is not None:
        choice("grid", options.grid, GRIDS)
    prepared(model, options)


@contextmanager
def _boundary(
    name: str, summary: Summary, out: Path, told: Callable[[Restored | Failure], None] | None
) -> Generator[None]:
    """Nothing but the user gets past this: an exception becomes a failure of the input `name`."""
    try:
        yield
    except Exception as error:
        failure = Failure(name, error)
        if failure.unexpected:
            with suppress(OSError):
                failure = replace(failure, log=write_file(_log_of(out, name), failure.trace.encode()))
        summary.failures.append(failure)
        if told is not None:
            told(failure)


def _log_of(out: Path, name: str) -> Path:
    return out / f"{name}_error.log"


def _sources(path: Path, summary: Summary) -> tuple[Source, ...]:
    """Sources at `path`; files that cannot be opened are failures, and what is no image is left out, and said."""
    found = find(path)
    summary.left_out = [left for left in found.left_out if not left.failed]
    summary.failures += [
        Failure(left.path.name, InputError(left.path, left.reason, "a file that can be opened"))
        for left in found.left_out
        if left.failed
    ]
    if not found.sources and not summary.failures:
        why = "; ".join(summarized(summary.left_out))
        raise InputError(path, f"no image{f' ({why})' if why else ''}", f"{format_titles()} files")
    return found.sources
