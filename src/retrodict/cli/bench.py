"""`retrodict bench gaussian-card` and `bench wavelet`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from retrodict._check import InputError
from retrodict.cli.command import command
from retrodict.cli.processes import Set
from retrodict.cli.progress import watching
from retrodict.cli.terminal import Force, integers, numbers, out, plain

__all__ = ["gaussian_card", "wavelet"]


MOST_STEPS = 10_000
"""Longest plan that a card is drawn of."""

MOST_TIMED = 256
"""Largest side whose fields are timed: on pixels 512 x 512 needs 15,000 steps."""


@command
def gaussian_card(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="Write the records here as JSON.")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Numbers of steps, such as 1,8,32.")] = None,
    process: Annotated[str | None, typer.Option(help="One process alone; 'retrodict processes' lists them.")] = None,
    rule: Annotated[str | None, typer.Option(help="One rule alone, such as matched.")] = None,
    options: Set = None,
    peers: Annotated[Path | None, typer.Option(help="JSON of 'make bench-peers', to show beside ours.")] = None,
) -> dict[str, Any]:
    """Gain, variance and evaluations of every process and sampler against the exact answer."""
    from retrodict.tasks import gaussian_card as bench
    from retrodict.tasks.gaussian_card_table import render
    from retrodict.tasks.processes import settings

    found = integers("--steps", steps)
    if found is not None and not all(1 <= n <= MOST_STEPS for n in found):
        raise InputError("--steps", repr(steps), f"numbers from 1 to {MOST_STEPS}")
    if options and process is None:
        raise InputError("--set", "no --process", "the process whose option it is")
    records = bench.gaussian_card(
        found,
        peers,
        processes=None if process is None else [process],
        rules=None if rule is None else [rule],
        options=settings(process, options, "--set") if process is not None and options else {},
    )
    out.print(render(records))
    if output is not None:
        from retrodict._output import write_file  # brings torch

        write_file(output, json.dumps(records, indent=1).encode())
        out.print(f"records {plain(str(output))}", soft_wrap=True)
    return {"records": records}


@command
def wavelet(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="Write the records here as JSON.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Picture of the steps over the size.")] = None,
    theorems: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Steps over tolerance and condition, seconds over pixels.")
    ] = None,
    sides: Annotated[str, typer.Option(help="Sides of the images, powers of two.")] = "8,16,32,64,128,256",
    exponent: Annotated[str, typer.Option(help="Of the spectrum 1/|w|^eta; natural images are near 3.")] = "3",
    sampler: Annotated[str | None, typer.Option(help="Some samplers alone, such as euler,matched.")] = None,
    family: Annotated[str, typer.Option(help="Of the wavelet.")] = "db4",
    limit: Annotated[float, typer.Option(help="KL divergence a pixel that is allowed.")] = 0.01,
    force: Force = False,
) -> dict[str, Any]:
    """Steps that samplers need as images grow, on pixels and through a wavelet cascade: closed form."""
    from retrodict._output import refuse_existing, write_file
    from retrodict.tasks.wavelet_card import wavelet_card
    from retrodict.tasks.wavelet_card_table import picture_of, render

    pictures = (("--plot", plot, ".png"), ("--theorems", theorems, ".png"), ("--output", output, ".json"))
    for flag, path, suffix in pictures:
        if path is not None:
            refuse_existing(path, force)
            if path.suffix.lower() != suffix:
                raise InputError(flag, plain(str(path)), f"a file that ends in {suffix}")
    names = None if sampler is None else sampler.split(",")
    given = integers("--sides", sides) or (), numbers("--exponent", exponent) or ()
    with watching() as shown:
        records = wavelet_card(
            *given, names, limit=limit, family=family, watch=lambda done, total: shown("steps", done, total)
        )
    out.print(render(records))
    record: dict[str, Any] = {"records": records}
    if plot is not None:
        write_file(plot, picture_of(records))
        out.print(f"picture {plain(str(plot))}", soft_wrap=True)
    if theorems is not None:
        from retrodict.tasks.wavelet_theorems import picture
        from retrodict.tasks.wavelet_theorems import theorems as bounds

        record["theorems"] = bounds(sorted(n for n in given[0] if n <= MOST_TIMED), family=family)
        write_file(theorems, picture(record["theorems"]))
        out.print(f"picture {plain(str(theorems))}", soft_wrap=True)
    if output is not None:
        write_file(output, json.dumps(record, indent=1).encode())
        out.print(f"records {plain(str(output))}", soft_wrap=True)
    return record
