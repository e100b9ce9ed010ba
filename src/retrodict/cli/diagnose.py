"""`retrodict diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from retrodict.cli.command import command
from retrodict.cli.progress import watching
from retrodict.cli.terminal import Force, numbers, out, plain

__all__ = ["diagnose"]


@command
def diagnose(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Shipped model (ct) or path of a model.")] = "ct",
    data: Annotated[
        Path | None,
        typer.Option(help="Clean images that it was not trained on: a folder, or the validation rows of index.csv."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="New folder for the page and the record.")
    ] = None,
    points: Annotated[int, typer.Option(help="Images that are looked at.")] = 8,
    times: Annotated[
        str | None, typer.Option(help="Of the process, such as 0.05,0.5,0.95 (0 clean, 1 its end).")
    ] = None,
    probes: Annotated[int, typer.Option(help="Random directions for each Jacobian.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the whole run.")] = 0,
    mtf: Annotated[
        str | None, typer.Option(help="Measured MTF of the instrument; by default that of the record.")
    ] = None,
    nps: Annotated[str | None, typer.Option(help="Measured NPS of the instrument.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    force: Force = False,
) -> dict[str, Any]:
    """Measure whether a model is the score of one law: symmetry, transport, rank, error, trajectories."""
    from retrodict.tasks.diagnose import TIMES
    from retrodict.tasks.diagnose import diagnose as run

    given = numbers("--times", times)
    with watching() as shown:
        found = run(
            model, data, out=output, points=points, times=TIMES if given is None else given, probes=probes, seed=seed,
            mtf=mtf, nps=nps, threads=threads, force=force, watch=lambda done, total: shown("diagnosis", done, total),
        )  # fmt: skip
    _show(found.record)
    if output is not None:
        out.print(f"  page  {plain(str(output / 'diagnose.html'))}", soft_wrap=True)
    return found.record


def _show(record: dict[str, Any]) -> None:
    where = f"{record['images']} images of {record['patients']} patients"
    where = where if record["measured"] else "Gaussian fields of its spectrum (--data FOLDER for real images)"
    out.print(f"[bold]{plain(record['model'])}[/] on {where}", soft_wrap=True)
    table = Table()
    for head in ("identity of an exact score", "worst", "at t", "exact", ""):
        table.add_column(head, justify="left" if head.startswith("identity") else "right")
    for row in record["findings"]:
        error = f" ± {row['error']:.2g}" if row["error"] else ""
        word = "[green]holds[/]" if row["holds"] else "[yellow]off[/]"
        table.add_row(row["short"], f"{row['value']:.3g}{error}", f"{row['t']:g}", f"{row['exact']:g}", word)
    out.print(table)
    table = Table(title="over time")
    heads = ["t", "asymmetry", "effective rank", "Gaussian", "Fokker-Planck"]
    for head in heads + (["error / Wiener"] if record["measured"] else []):
        table.add_column(head, justify="right")
    for row in record["times"]:
        cells = [f"{row['t']:g}", f"{row['asymmetry']['mean']:.3f}", f"{row['trace']['mean']:.1f}",
                 f"{row['trace_gaussian']:.1f}", f"{row['fokker_planck']['mean']:.3g}"]  # fmt: skip
        if record["measured"]:
            cells.append(", ".join(f"{e['over_wiener']['mean']:.2f}" for e in row["error"]))
        table.add_row(*cells)
    out.print(table)
    path = record["trajectory"]
    out.print(
        f"trajectory: {100 * path['plane']['mean']:.2f} % in a plane, "
        f"{100 * path['gaussian'][-1]['mean']:.1f} % of its end explained by Gaussian data",
        soft_wrap=True,
    )
