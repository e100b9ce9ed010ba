"""`retrodict data index`: the table of a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from retrodict.cli.command import Code, command
from retrodict.cli.progress import watching
from retrodict.cli.terminal import Force, Spacing, Unit, err, files, numbers, out, plain

__all__ = ["index"]


@command
def index(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of images, with its subfolders.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="CSV", help="The table (default FOLDER/index.csv).")
    ] = None,
    validation: Annotated[float, typer.Option(help="Fraction of the patients to hold out for validation.")] = 0.15,
    test: Annotated[float, typer.Option(help="Fraction of the patients that training never sees.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed holds out other patients.")] = 0,
    patients: Annotated[
        str, typer.Option(help="header: PatientID, or else the folder; folder: each folder in FOLDER is a patient.")
    ] = "header",
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Number the patients; refuse paths that hold their names.")
    ] = False,
    modality: Annotated[str | None, typer.Option(help="Only DICOM files of this modality, such as CT.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the images, for the card of a model.")] = "",
    spacing: Spacing = None,
    unit: Unit = None,
    force: Force = False,
) -> tuple[dict[str, Any], Code]:
    """List the images of a folder: patients, kernels, spacing, own noise, and who is held out."""
    from retrodict._output import refuse_existing
    from retrodict.tasks.index import index_folder

    target = output or folder / "index.csv"
    refuse_existing(target, force)
    with watching() as shown:
        found = index_folder(
            folder,
            validation=validation,
            test=test,
            seed=seed,
            patients=patients,
            deidentify=deidentify,
            modality=modality,
            spacing=numbers("--spacing", spacing),
            unit=unit,
            licence=licence,
            watch=lambda done, total, name: shown("reading", done, total, name),
        )
    written = found.save(target, force=force)
    first, *rest = found.summary()
    out.print(f"[bold]{plain(first)}[/]")
    for line in rest:
        out.print(f"  {plain(line)}", soft_wrap=True)
    for line in found.reasons():
        out.print(f"  left out {plain(line)}", soft_wrap=True)
    for note in found.notes:
        out.print(f"[bold]note[/] {plain(note)}", soft_wrap=True)
    files([written])
    failed = sum(x.failed for x in found.left_out)
    if failed:
        err.print(f"{failed} of the images cannot be read", soft_wrap=True)
    return {**found.record, "index": str(written)}, Code.some_failed if failed else Code.done
