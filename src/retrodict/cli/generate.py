"""`retrodict generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from retrodict._check import InputError
from retrodict.cli.command import command
from retrodict.cli.progress import watching
from retrodict.cli.terminal import Force, integers, numbers, out, plain

__all__ = ["generate"]


@command
def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model of an unconditional process: runs/NAME/NAME.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New folder for the images, a picture and the record.")
    ],
    samples: Annotated[int, typer.Option("--samples", "-n", help="Images to draw.")] = 16,
    seed: Annotated[int, typer.Option(help="Image i depends on the seed and on i alone.")] = 0,
    steps: Annotated[
        str | None, typer.Option(help="Of the rule; of a cascade for each level, such as 8 or 4,8,8,16 coarse to fine.")
    ] = None,
    rule: Annotated[str | None, typer.Option(help="Sampler, as for restore; matched where none is given.")] = None,
    grid: Annotated[str | None, typer.Option(help="Times of the sampler; of a cascade 'time'.")] = None,
    size: Annotated[str | None, typer.Option(help="Of an image, such as 128,128; by default that of training.")] = None,
    clamp: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Bring every answer of the model between two values; not for a cascade."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at a time; the result does not depend on it.")] = 8,
    files: Annotated[str, typer.Option(help="npz (one file) or tiff (one an image).")] = "npz",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    force: Force = False,
) -> dict[str, Any]:
    """Draw images from a model that no measurement enters."""
    from retrodict.tasks.generate import generate as run

    each, limits = integers("--steps", steps), numbers("--clamp", clamp)
    if limits is not None and len(limits) != 2:
        raise InputError("--clamp", repr(clamp), "two numbers, such as -1000,3000")
    with watching() as shown:
        made = run(
            model,
            samples,
            out=output,
            seed=seed,
            steps=each[0] if each is not None and len(each) == 1 else each,
            rule=rule,
            grid=grid,
            size=integers("--size", size),
            clamp=None if limits is None else (limits[0], limits[1]),
            batch=batch,
            files=files,
            device=device,
            threads=threads,
            force=force,
            watch=lambda done, total: shown("drawing", done, total),
        )
    record = made.record
    out.print(
        f"[bold]{len(made.images)} images[/] of {' x '.join(map(str, record['size']))} by {plain(record['rule'])}: "
        f"{record['calls']} calls each, {record['full']:.3g} of the whole grid"
    )
    color = "green" if record["law"].startswith("calibrated") else "yellow"
    out.print(f"  sampler [{color}]{plain(record['law'])}[/]", soft_wrap=True)
    out.print(f"  spread  {plain(record['spread'])}", soft_wrap=True)
    out.print(f"  folder  {plain(str(output))}", soft_wrap=True)
    return record
