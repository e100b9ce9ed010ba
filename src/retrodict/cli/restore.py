"""`retrodict restore`, `demo` and `info`; the flags of `restore` are the fields of `RestoreOptions`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args

import typer

from retrodict.cli.command import Code, code_of, command, described, in_shell, is_debug, sentence
from retrodict.cli.progress import watching
from retrodict.cli.terminal import Force, err, numbers, out, plain
from retrodict.tasks.options import ALSO_CALLED, Option, RestoreOptions
from retrodict.tasks.options import described as options

__all__ = ["demo", "flags", "info", "restore"]


def flags() -> list[inspect.Parameter]:
    """One parameter of the command for each field: its flag, type, bound, help and default; other names are hidden."""
    defaults = {f.name: f.default for f in fields(RestoreOptions)}
    known = [_flag(name, option, bare, defaults[name]) for name, (option, bare) in options().items()]
    settings: dict[str, Any] = {"default": None, "annotation": Annotated[bool | None, typer.Option(hidden=True)]}
    return known + [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, **settings) for name in ALSO_CALLED]


def _flag(name: str, option: Option, bare: Any, default: Any) -> inspect.Parameter:
    types = [t for t in get_args(bare) if t is not NoneType] or [bare]
    # What has no type of its own in a shell: sequences come as text, curves as files.
    kind: Any = types[0] if types[0] in (int, float, bool, str) else Path if types[0] is Any else str
    said = typer.Option(f"--{name.replace('_', '-')}", help=option.help, min=option.least)
    annotation = Annotated[kind if default is not None else kind | None, said]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _with_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the flags in the place of its `**changes`, which come before `resume` and `force`."""
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own[:-2], *flags(), *own[-2:])]
    vars(function)["__signature__"] = inspect.Signature(parameters)
    return function


@command
@_with_flags
def restore(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="DICOM file or series folder, NIfTI, TIFF, PNG, npz, or a folder of them."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the results.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Shipped model (ct) or path of a model.")] = "ct",
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip inputs whose results are in OUT; try failed ones again.")
    ] = False,
    force: Force = False,
    **changes: Any,
) -> tuple[dict[str, Any], Code]:
    """Restore INPUT: posterior mean, standard deviation, report."""
    from retrodict.tasks.batch import Failure, restore_all

    changes["spacing"] = numbers("--spacing", changes["spacing"])
    names = [*changes, "model"]
    changes = _meant(changes)
    restored: list[dict[str, Any]] = []

    def told(item: Any) -> None:
        if isinstance(item, Failure):
            err.print(f"[bold red]failed[/] {plain(item.name)}: {plain(_reason(item, names))}", soft_wrap=True)
            if is_debug():
                err.print(item.trace, markup=False, soft_wrap=True)
        else:
            restored.append(_result(item))
            _show(item)

    with watching() as watch:
        summary = restore_all(
            source, output, model=model, force=force, resume=resume, watch=watch, told=told, keep=False, **changes
        )
    _say_rest(summary)
    failed = [{"name": f.name, **described(f.error, names), "log": f.log} for f in summary.failures]
    left_out = [{"path": str(left.path), "reason": left.reason} for left in summary.left_out]
    record = {"restored": restored, "failed": failed, "skipped": summary.skipped, "left_out": left_out}
    return record, _code(summary, names)


def _meant(changes: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line: one name for each option, and no defaults beside another name of it."""
    defaults = {f.name: f.default for f in fields(RestoreOptions)}
    return {name: value for name, value in changes.items() if value != defaults.get(name)}


def _reason(item: Any, names: list[str]) -> str:
    return item.said(in_shell) if item.unexpected else sentence(item.error, names)


def _say_rest(summary: Any) -> None:
    """What was not restored, and counts where there was more than one input."""
    for name in summary.skipped:
        out.print(f"[bold]{plain(name)}[/]  done before")
    for line in summary.notes:
        out.print(f"left out {plain(line)}", soft_wrap=True)
    if summary.count + len(summary.failures) + len(summary.skipped) > 1:
        (err if summary.failures else out).print(str(summary))


def _code(summary: Any, names: list[str]) -> Code:
    """0 where nothing failed, "some failed" where something did not, else the first that holds for one of them."""
    if not summary.failures:
        return Code.done
    if summary.count or summary.skipped:
        return Code.some_failed
    found = {code_of(f.error, names) for f in summary.failures}
    return next(c for c in (Code.fault, Code.no_output, Code.bad_input, Code.usage) if c in found)


def _result(item: Any) -> dict[str, Any]:
    """A result for programs; the whole record is in the file NAME_restore.json among `files`."""
    return {
        "name": item.name,
        "kind": item.kind,
        "verdict": item.verdict.text,
        "reason": item.reason,
        "seconds": item.details["seconds"],
        "files": [str(path) for path in item.files],
    }


def _show(item: Any) -> None:
    """Where the results are, and what kind of result they are."""
    seconds = item.details["seconds"]
    out.print(f"[bold]{plain(item.name)}[/]  {plain(item.verdict.text)} ({seconds:.1f} s)", soft_wrap=True)
    for path in item.files:  # one line each, however long: a path is there to be copied
        out.print(f"  {_role(item.name, path):<12}{plain(str(path))}", soft_wrap=True)


def _role(name: str, path: Path) -> str:
    stem = path.parent.name if path.parent.name.startswith(f"{name}_") else path.name
    return stem.removeprefix(f"{name}_").split(".")[0]


@command
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo"),
    samples: Annotated[int, typer.Option(min=2, help="Members of the ensemble.")] = 8,
    slices: Annotated[int, typer.Option(min=1, max=2, help="Slices to restore.")] = 2,
    force: Force = False,
) -> dict[str, Any]:
    """Restore the CT slices that ship with the package and say where the results are."""
    from retrodict.tasks.demo import again, run_demo

    with watching() as watch:
        results = run_demo(output, samples=samples, slices=slices, force=force, watch=watch)
    record = []
    for item in results:
        _show(item.restored)
        errors = {"measured": item.measured_rmse, "wiener": item.wiener_rmse, "mean": item.rmse, "spread": item.spread}
        record.append({**_result(item.restored), "rms_hu": errors})
        out.print(
            f"  error against the truth, HU rms: measured {item.measured_rmse:.1f}, Wiener filter "
            f"{item.wiener_rmse:.1f}, posterior mean {item.rmse:.1f}; ensemble spread {item.spread:.1f}",
            soft_wrap=True,
        )
    command_line = again(output)
    out.print(f"The same by hand, with the curves of the scanner:\n  {plain(command_line)}", soft_wrap=True)
    return {"restored": record, "again": command_line}


@command
def info(model: Annotated[str, typer.Argument(help="Shipped model (ct) or path of a model.")] = "ct") -> dict[str, Any]:
    """Print the card of a model."""
    from retrodict.tasks.prepare import model_card

    card = model_card(model)
    out.print_json(json.dumps(card, default=str))
    return card
