"""`retrodict bench gaussian-card`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from retrodict._check import InputError
from retrodict.cli.command import command
from retrodict.cli.processes import Set
from retrodict.cli.terminal import integers, out, plain

__all__ = ["gaussian_card"]


MOST_STEPS = 10_000
"""Longest plan that a card is drawn of."""


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
