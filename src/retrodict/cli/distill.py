"""`retrodict distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from retrodict.cli.command import command
from retrodict.cli.progress import watching
from retrodict.cli.terminal import Force, out, plain

__all__ = ["distill"]


@command
def distill(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model that generates images: runs/NAME/NAME.")],
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration whose images are used.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Path of the new model.")],
    method: Annotated[
        str,
        typer.Option(
            help="progressive (1 to 4 calls), consistency (1), trajectory, average_velocity (any to 4), mmd (1 to 4)."
        ),
    ] = "progressive",
    calls: Annotated[int, typer.Option(help="Calls of the new model.")] = 1,
    steps: Annotated[int, typer.Option(help="Training steps of a round; progressive has three.")] = 1000,
    batch: Annotated[int, typer.Option(help="Images of a step.")] = 16,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of the training.")] = 3e-4,
    seed: Annotated[int, typer.Option(help="Seed of the whole run.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    force: Force = False,
) -> dict[str, Any]:
    """Distill a model that generates to one to four calls, and show its images against held-out ones."""
    from retrodict.tasks.distill import distill as run

    with watching() as shown:
        made = run(
            model, config, output, method=method, calls=calls, steps=steps, batch=batch, learning_rate=learning_rate,
            seed=seed, threads=threads, force=force,
            watch=lambda p: shown("distilling", p.step, p.steps, f"loss {p.loss:.4f}"),
        )  # fmt: skip
    record = made.record
    table = Table(title=f"variance over that of {record['held_out_images']} held-out images, by band in cycles/mm")
    table.add_column("")
    for row in record["after"]["variance"]:
        table.add_column(f"{row['band'][0]:.2f}-{row['band'][1]:.2f}", justify="right")
    table.add_column("distance", justify="right")
    names = (("teacher_many", f"teacher, {record['many']} calls"), ("before", f"teacher, {record['calls']} calls"),
             ("after", f"student, {record['calls']} calls"))  # fmt: skip
    for name, words in names:
        cells = [f"{row['ratio']:.3f}" for row in record[name]["variance"]]
        table.add_row(words, *cells, f"{record[name]['distance']:.3f}")
    out.print(table)
    out.print("distance: from the end of the teacher's many calls, over the contrast of it", soft_wrap=True)
    out.print(f"  uncertainty  {plain(record['uncertainty'])}", soft_wrap=True)
    out.print(f"  model        {plain(str(made.path))}", soft_wrap=True)
    return {**record, "model": str(made.path)}
