"""The command line: parse, call one function of the library, show progress; nothing is computed here.

This module registers the commands; they do not know it.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from retrodict._check import InputError, NotCalibratedError
from retrodict._version import __version__
from retrodict.cli import bench, evaluate, fit, measure, restore
from retrodict.cli.terminal import err, out, plain

__all__ = ["app", "main"]


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Restore measured images with an uncertainty that is right.",
)


bench_app = typer.Typer(no_args_is_help=True, help="Evidence: exact cards of every process and sampler.")


measure_app = typer.Typer(no_args_is_help=True, help="Measure the instrument: NPS and MTF from phantom scans.")


for command in (restore.restore, fit.fit, evaluate.evaluate, fit.schema, restore.info, restore.demo):
    app.command()(command)
app.add_typer(bench_app, name="bench")
app.add_typer(measure_app, name="measure")
bench_app.command("gaussian-card")(bench.gaussian_card)
measure_app.command("nps")(measure.nps)
measure_app.command("mtf")(measure.mtf)


def main() -> None:
    """Entry point: a known error is one sentence and exit code 2, never a traceback."""
    try:
        app()
    except (InputError, NotCalibratedError, OSError) as error:
        err.print(f"[bold red]error[/] {plain(str(error))}", soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


def _version(show: bool) -> None:
    if show:
        out.print(f"retrodict {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    main()
