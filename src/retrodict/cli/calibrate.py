"""`retrodict calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from retrodict.cli.command import command
from retrodict.cli.progress import watching
from retrodict.cli.terminal import Force, Spacing, Unit, files, numbers, out, plain

__all__ = ["calibrate"]


@command
def calibrate(
    pairs: Annotated[
        Path,
        typer.Argument(metavar="PAIRS", help="CSV of measured, truth, patient; or a folder with measured/ and truth/."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="JSON file of the factors.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Shipped model (ct) or path of a model.")] = "ct",
    alpha: Annotated[float, typer.Option(help="Part of the body that may lie outside the interval.")] = 0.1,
    delta: Annotated[float, typer.Option(help="Probability that the guarantee fails.")] = 0.1,
    method: Annotated[str, typer.Option(help="split: for the next patient; risk: on average over patients.")] = "split",
    bound: Annotated[str, typer.Option(help="Of risk: hoeffding-bentkus or betting.")] = "hoeffding-bentkus",
    by: Annotated[str, typer.Option(help="One factor for all pixels, or one for each of the classes.")] = "pixels",
    patients: Annotated[
        str | None,
        typer.Option(help="Which pairs are of one patient: dicom, folder, or a regular expression of their names."),
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Members of the ensemble.")] = 8,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the sampler (default of the rule).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the whole run.")] = 0,
    mtf: Annotated[str | None, typer.Option(help="Measured MTF of the instrument.")] = None,
    nps: Annotated[str | None, typer.Option(help="Measured NPS of the instrument.")] = None,
    unit: Unit = None,
    spacing: Spacing = None,
    force: Force = False,
) -> dict[str, Any]:
    """Find factors on the stated deviation that hold for the next patient, from pairs of measured and true images."""
    from retrodict.tasks.calibrate import calibrate as run

    with watching() as watch:
        found = run(
            pairs, output, model=model, alpha=alpha, delta=delta, method=method, bound=bound, by=by,
            patients=patients, samples=samples, steps=steps, seed=seed, mtf=mtf, nps=nps, unit=unit,
            spacing=numbers("--spacing", spacing), force=force, watch=watch,
        )  # fmt: skip
    _show(found.record)
    files([output])
    return {"record": found.record, "files": [str(output)]}


def _show(record: dict[str, Any]) -> None:
    """Factors, patients and the guarantee."""
    factors = record["factors"]
    table = Table(title=f"factors on the stated deviation (a normal law has {record['of_the_law']:.2f})")
    for head in ("of", "factor", "patients", "covered"):
        table.add_column(head, justify="left" if head == "of" else "right")
    rows = [("pixels", factors["pixels"]), *factors["classes"].items()]
    rows += [(f"means of discs of {d} mm", row) for d, row in factors["discs"].items()]
    for k, (name, row) in enumerate(rows):
        end = k in (0, len(factors["classes"]))
        if row["factor"] is None:
            table.add_row(plain(name), "none", str(row["patients"]), "", end_section=end)
        else:
            scatter = "" if row["covered_sd"] is None else f" ± {row['covered_sd']:.1%}"
            cells = (f"{row['factor']:.2f}", str(row["patients"]), f"{row['covered']:.1%}{scatter}")
            table.add_row(plain(name), *cells, end_section=end)
    out.print(table)
    out.print("covered: of these patients, mean ± standard deviation between them", soft_wrap=True)
    missing = {row["reason"] for _, row in rows if row["factor"] is None}
    for reason in sorted(missing):
        out.print(f"none: {plain(reason)}", soft_wrap=True)
    if record["left_out"]:
        out.print(f"left out: {len(record['left_out'])} images without a posterior, named in the file", soft_wrap=True)
    if record["training_images"] == "unknown":
        out.print("The model does not say what it was trained on: make sure that these patients were not in it.",
                  soft_wrap=True)  # fmt: skip
    out.print(f"[bold]{plain(record['statement'])}[/]", soft_wrap=True)
