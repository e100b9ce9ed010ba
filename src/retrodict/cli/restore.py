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

from retrodict.cli.terminal import Force, err, numbers, out, plain, watching
from retrodict.tasks.options import Option, RestoreOptions, described

__all__ = ["demo", "flags", "info", "restore"]


def flags() -> list[inspect.Parameter]:
    """One parameter of the command for each field: its flag, type, bound, help and default."""
    defaults = {f.name: f.default for f in fields(RestoreOptions)}
    return [_flag(name, option, bare, defaults[name]) for name, (option, bare) in described().items()]


def _flag(name: str, option: Option, bare: Any, default: Any) -> inspect.Parameter:
    types = [t for t in get_args(bare) if t is not NoneType] or [bare]
    # What has no type of its own in a shell: sequences come as text, curves as files.
    kind: Any = types[0] if types[0] in (int, bool, str) else Path if types[0] is Any else str
    said = typer.Option(f"--{name.replace('_', '-')}", help=option.help, min=option.least)
    annotation = Annotated[kind if default is not None else kind | None, said]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the flags in the place of its `**changes`, which come before `force`."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = [*own[:-1], *flags(), own[-1]]
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


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
    force: Force = False,
    **changes: Any,
) -> None:
    """Restore INPUT: posterior mean, standard deviation, report."""
    from retrodict.tasks.restore import restore_all

    changes["spacing"] = numbers("--spacing", changes["spacing"])
    with watching() as watch:
        summary = restore_all(source, output, watch=watch, model=model, force=force, **changes)
    for item in summary.restored:
        _show(item)
    for name, reason in summary.failures:
        err.print(f"[bold red]failed[/] {plain(name)}: {plain(reason)}", soft_wrap=True)
    if summary.failures:
        if len(summary.restored) + len(summary.failures) > 1:
            err.print(f"{len(summary.restored)} restored, {len(summary.failures)} failed")
        raise typer.Exit(1)


def _show(item: Any) -> None:
    """Where the results are, and what kind of result they are."""
    kind = "posterior" if item.sd is not None else "point estimate, no uncertainty"
    seconds = item.details["seconds"]
    out.print(f"[bold]{plain(item.name)}[/]  {kind}, {seconds:.1f} s")
    for path in item.files:  # one line each, however long: a path is there to be copied
        out.print(f"  {_role(item.name, path):<12}{plain(str(path))}", soft_wrap=True)


def _role(name: str, path: Path) -> str:
    stem = path.parent.name if path.parent.name.startswith(f"{name}_") else path.name
    return stem.removeprefix(f"{name}_").split(".")[0]


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo"),
    samples: Annotated[int, typer.Option(min=2, help="Members of the ensemble.")] = 8,
    slices: Annotated[int, typer.Option(min=1, max=2, help="Slices to restore.")] = 2,
) -> None:
    """Restore the CT slices that ship with the package and say where the results are."""
    from retrodict.tasks.demo import run_demo

    with watching() as watch:
        results = run_demo(output, samples=samples, slices=slices, watch=watch)
    for item in results:
        _show(item.restored)
        out.print(
            f"  error against the truth, HU rms: measured {item.measured_rmse:.1f}, Wiener filter "
            f"{item.wiener_rmse:.1f}, posterior mean {item.rmse:.1f}; ensemble spread {item.spread:.1f}",
            soft_wrap=True,
        )


def info(model: Annotated[str, typer.Argument(help="Shipped model (ct) or path of a model.")] = "ct") -> None:
    """Print the card of a model."""
    from retrodict.tasks.prepare import model_card

    out.print_json(json.dumps(model_card(model), default=str))
