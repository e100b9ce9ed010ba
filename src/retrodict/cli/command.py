"""What every command has: --quiet, --json and --debug, one sentence for an error, and one table of exit codes."""

from __future__ import annotations

import inspect
import json
import logging
import math
import shlex
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import wraps
from typing import Annotated, Any

import typer

from retrodict._check import InputError, NotCalibratedError, OutputError
from retrodict.cli.terminal import err, out, plain

__all__ = [
    "CODES",
    "Code",
    "answered",
    "code_of",
    "command",
    "described",
    "in_shell",
    "is_debug",
    "is_quiet",
    "print_json",
    "sentence",
]


class Code(IntEnum):
    """Exit codes of every command."""

    done = 0
    fault = 1
    usage = 2
    bad_input = 3
    some_failed = 4
    no_output = 5
    stopped = 130


CODES = {
    Code.done: "done",
    Code.fault: "a fault of retrodict itself (--debug shows the traceback)",
    Code.usage: "an option or its value is wrong, or asks for an uncertainty that is none",
    Code.bad_input: "an input cannot be used: nothing was made",
    Code.some_failed: "some inputs failed, each named; the others are done",
    Code.no_output: "results cannot be written: no room, no permission, or others in their place",
    Code.stopped: "stopped by the user; what is kept is said",
}
"""What each code means: in the help, and in the documentation."""


QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]


JSON = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object and nothing else.")]


DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """The function as a command: it returns a record (or a record and a code), and this says and ends with it."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())
    names = [p.name for p in own]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", QUIET), ("as_json", JSON), ("debug", DEBUG))
    ]

    @wraps(function)
    def run(**given: Any) -> None:
        quiet, as_json, debug = (given.pop(p.name) for p in common)
        with _spoken(quiet, as_json, debug):
            record, code = _attempt(function, given, names, debug)
        if as_json:
            print_json({**record, "exit_code": int(code)})
        if code:
            raise typer.Exit(int(code))

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own] + common
    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def print_json(record: Any) -> None:
    """One object on the output stream; what is no number in JSON (nan, infinity) is null."""
    answered.append(True)
    sys.stdout.write(json.dumps(_finite(record), indent=1, default=str) + "\n")


answered: list[bool] = []
"""Whether this process has printed its JSON object."""


def _finite(x: Any) -> Any:
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    if isinstance(x, dict):
        return {str(k): _finite(v) for k, v in x.items()}
    return [_finite(v) for v in x] if isinstance(x, list | tuple) else x


@contextmanager
def _spoken(quiet: bool, as_json: bool, debug: bool) -> Generator[None]:
    """Let the two consoles say as much as was asked for, and the log of the library speak through the second."""
    handler, log = _Notes(), logging.getLogger("retrodict")
    before, level = out.quiet, log.level
    out.quiet = quiet or as_json
    log.addHandler(handler)
    log.setLevel(logging.ERROR if quiet else logging.INFO)
    _Notes.silent, _Notes.traces = quiet, debug
    try:
        yield
    finally:
        out.quiet = before
        log.removeHandler(handler)
        log.setLevel(level)
        _Notes.silent = _Notes.traces = False


class _Notes(logging.Handler):
    """What the library logs, as lines of the error stream."""

    silent = traces = False

    def emit(self, record: logging.LogRecord) -> None:
        err.print(plain(record.getMessage()), soft_wrap=True)


def is_quiet() -> bool:
    """Whether the running command was asked to say nothing but errors."""
    return _Notes.silent


def is_debug() -> bool:
    """Whether the running command was asked for tracebacks."""
    return _Notes.traces


# ---- errors ----------------------------------------------------------------------------------------------------------


def _attempt(
    function: Callable[..., Any], given: dict[str, Any], names: Sequence[str], debug: bool
) -> tuple[dict[str, Any], Code]:
    try:
        found = function(**given)
    except (typer.Exit, BrokenPipeError):
        raise
    except KeyboardInterrupt as error:
        said = error.said(in_shell) if hasattr(error, "said") else str(error) or "stopped"  # type: ignore[attr-defined]
        err.print(plain(said), soft_wrap=True)
        return {"stopped": said}, Code.stopped
    except Exception as error:
        if debug:
            err.print_exception()
        said, code = sentence(error, names), code_of(error, names)
        hint = "" if debug or code != Code.fault else " This is a fault of retrodict: --debug shows where."
        err.print(f"[bold red]error[/] {plain(said)}{hint}", soft_wrap=True)
        return {"error": described(error, names)}, code
    record, code = found if isinstance(found, tuple) else (found or {}, Code.done)
    return record, code


def code_of(error: Exception, names: Sequence[str] = ()) -> Code:
    """The exit code of an exception; `names` are the options of the command."""
    if isinstance(error, NotCalibratedError):
        return Code.usage
    if isinstance(error, InputError) and "force" in error.options:
        return Code.no_output
    if isinstance(error, InputError):
        return Code.usage if error.field in names or error.where.startswith("--") else Code.bad_input
    if isinstance(error, OutputError):
        return Code.no_output
    return Code.bad_input if isinstance(error, OSError) else Code.fault


def sentence(error: Exception, names: Sequence[str] = ()) -> str:
    """An exception in the words of the command line, on one line."""
    if isinstance(error, InputError):
        said = error.said(in_shell, in_shell(error.field, ...) if error.field and error.field in names else None)
    elif isinstance(error, NotCalibratedError):
        said = error.said(in_shell)
    elif isinstance(error, OSError):
        said = str(error)
    else:
        said = f"{type(error).__name__}: {error}"
    return " ".join(said.split())


def described(error: Exception, names: Sequence[str] = ()) -> dict[str, Any]:
    """An exception for programs."""
    record: dict[str, Any] = {"type": type(error).__name__, "sentence": sentence(error, names)}
    if isinstance(error, InputError):
        record |= {"where": error.where, "found": error.found, "expected": error.expected, "hint": error.hint}
    return record


def in_shell(name: str, value: Any) -> str:
    """An option as the command line writes it: `--spacing 0.7,0.7`; its flag alone for yes and for `...`."""
    flag = f"--{name.replace('_', '-')}"
    if value is ... or value is True:
        return flag
    if value is None:
        return f"{flag} any"
    many = isinstance(value, list | tuple)
    text = ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value) if many else str(value)
    return f"{flag} {shlex.quote(text)}"
