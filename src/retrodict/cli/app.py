"""The command line: parse, call one function of the library, show progress; nothing is computed here.

This module registers the commands; they do not know it.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from retrodict._version import __version__
from retrodict.cli import (
    bench,
    calibrate,
    data,
    diagnose,
    distill,
    evaluate,
    fit,
    generate,
    measure,
    processes,
    reconstruct,
    restore,
    shapes,
)
from retrodict.cli.command import CODES, Code, answered, print_json
from retrodict.cli.terminal import out

__all__ = ["app", "main"]


EPILOG = "Exit codes: " + "; ".join(f"{int(code)} {text}" for code, text in CODES.items()) + "."


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    help="Restore measured images with an uncertainty that is right.",
)


bench_app = typer.Typer(no_args_is_help=True, help="Evidence: exact cards of every process and sampler.")


measure_app = typer.Typer(
    no_args_is_help=True, help="Measure the instrument: NPS, MTF and noise maps, or an estimate without a phantom."
)


data_app = typer.Typer(no_args_is_help=True, help="Images to train on: the table of a folder.")


shapes_app = typer.Typer(
    no_args_is_help=True, help="Shapes from masks and meshes: train a generator, draw, vary and compare."
)


for command in (
    restore.restore,
    reconstruct.reconstruct,
    fit.fit,
    generate.generate,
    evaluate.evaluate,
    calibrate.calibrate,
    diagnose.diagnose,
    distill.distill,
    fit.schema,
    restore.info,
    restore.demo,
    processes.processes,
):
    app.command(epilog=EPILOG)(command)
app.add_typer(bench_app, name="bench")
app.add_typer(measure_app, name="measure")
app.add_typer(data_app, name="data")
app.add_typer(shapes_app, name="shapes")
for command in (shapes.fit, shapes.generate, shapes.vary, shapes.evaluate):
    shapes_app.command(epilog=EPILOG)(command)
data_app.command("index", epilog=EPILOG)(data.index)
bench_app.command("gaussian-card", epilog=EPILOG)(bench.gaussian_card)
bench_app.command("wavelet", epilog=EPILOG)(bench.wavelet)
measure_app.command("nps", epilog=EPILOG)(measure.nps)
measure_app.command("mtf", epilog=EPILOG)(measure.mtf)
measure_app.command("noise-map", epilog=EPILOG)(measure.noise_map)
measure_app.command("instrument", epilog=EPILOG)(measure.instrument)


def main() -> None:
    """Entry point: whatever goes wrong is one sentence and a code of the table, and with --json one object."""
    answered.clear()
    try:
        app()
    except KeyboardInterrupt:  # before a command began
        sys.exit(int(Code.stopped))
    except SystemExit as end:
        if end.code == Code.usage and "--json" in sys.argv and not answered:  # typer has said it in words
            print_json({"error": {"type": "UsageError"}, "exit_code": int(Code.usage)})
        raise


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
