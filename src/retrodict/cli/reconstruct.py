"""`retrodict reconstruct`; its flags are the fields of `ReconstructOptions`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from retrodict.cli.command import command
from retrodict.cli.progress import watching
from retrodict.cli.terminal import Force, numbers, out, plain
from retrodict.tasks.options import Option
from retrodict.tasks.recon_options import ReconstructOptions, described

__all__ = ["flags", "reconstruct"]

REPEATED = ("field", "set", "region")


def flags() -> list[inspect.Parameter]:
    """One parameter of the command for each field: its flag, type, bound, help and default."""
    defaults = {f.name: f.default for f in fields(ReconstructOptions)}
    return [_flag(name, option, defaults[name]) for name, (option, _) in described().items()]


def _flag(name: str, option: Option, default: Any) -> inspect.Parameter:
    kinds: dict[str, Any] = {"factor": int, "threads": int, "simulate": bool, "config": Path}
    kinds |= {"posterior": bool, "samples": int, "calls": int, "seed": int, "hold_out": float, "coupling": float}
    kind, extra = kinds.get(name, str), {"-m"} if name == "method" else set()
    metavar = {
        "field": "KEY=VALUE",
        "set": "KEY=VALUE",
        "region": "Y,X,H,W",
        "hold_out": "SHARE",
        "coupling": "CORRELATION",
        "prior_spectrum": "fit|PATH",
    }.get(name)
    said = typer.Option(f"--{name.replace('_', '-')}", *extra, help=option.help, min=option.least, metavar=metavar)
    if name in REPEATED:
        annotation, default = Annotated[list[str] | None, said], None
    else:
        annotation = Annotated[kind if default is not None else kind | None, said]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _with_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own[:-2], *flags(), *own[-2:])]
    vars(function)["__signature__"] = inspect.Signature(parameters)
    return function


@command
@_with_flags
def reconstruct(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="Sinograms or k-space (HDF5, ISMRMRD, MAT, npz, TIFF, DICOM-CT-PD), or an image."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the results.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Replace results of the very same call that are in OUT.")
    ] = False,
    force: Force = False,
    **changes: Any,
) -> dict[str, Any]:
    """Reconstruct raw data: an image by a classical method, or samples of the posterior; misfit, report."""
    from retrodict.tasks.reconstruct import reconstruct as run

    changes["spacing"] = numbers("--spacing", changes["spacing"])
    given = {name: value for name, value in changes.items() if value is not None}
    with watching() as watch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"measurement \d", UserWarning)  # they are shown below, in their place
        done = run(source, output, resume=resume, force=force, watch=watch, **given)
    _show(done)
    return {
        "name": done.name,
        "kind": done.kind,
        "method": done.method,
        "said": done.said,
        "residual": done.residual.record,
        "seconds": done.details["seconds"],
        "error_rms": done.error,
        **(
            {}
            if done.samples is None
            else {k: done.details[k] for k in ("posterior", "regions", "held_out") if k in done.details}
        ),
        "files": [str(path) for path in done.files],
    }


def _show(done: Any) -> None:
    """Where the results are, and how well they explain the data."""
    seconds = done.details["seconds"]
    what = {"point": "a point estimate", "uncalibrated": "samples, uncalibrated"}.get(done.kind, done.kind)
    out.print(f"[bold]{plain(done.name)}[/]  {plain(done.method)}, {what} ({seconds:.1f} s)", soft_wrap=True)
    if done.samples is not None:
        _show_posterior(done.details)
    out.print(f"  {plain(done.said)}", soft_wrap=True)
    if done.error is not None:
        out.print(f"  Error against what was simulated: {done.error:.4g} {plain(done.image.unit)} rms.", soft_wrap=True)
    for path in done.files:
        role = path.name.removeprefix(f"{done.name}_").split(".")[0]
        out.print(f"  {role:<12}{plain(str(path))}", soft_wrap=True)


def _show_posterior(details: dict[str, Any]) -> None:
    """How the spread is known, whether the samples fit, what speaks against it, and the regions that were asked for."""
    found, unit = details["posterior"], plain(details["unit"])
    out.print(f"  {plain(found['said'])}", soft_wrap=True)
    if "held_out" in details:
        out.print(f"  {plain(details['held_out']['said'])}", soft_wrap=True)
    for text in found["warnings"]:
        out.print(f"  [yellow]{plain(text)}[/]", soft_wrap=True)
    for row in details["regions"]:
        where = ",".join(map(str, row["region"])) + (f" of slice {row['slice']}" if row["slices"] > 1 else "")
        reach = f", {row['low']:.5g} to {row['high']:.5g} with {row['level']:.0%}" if "low" in row else ", no interval"
        truth = f" (simulated: {row['truth']:.5g})" if "truth" in row else ""
        out.print(f"  region {where}: mean {row['mean']:.5g} {unit}{reach}{truth}", soft_wrap=True)
