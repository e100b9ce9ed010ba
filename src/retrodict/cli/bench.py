"""`retrodict bench gaussian-card`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from retrodict._check import InputError
from retrodict.cli.command import command
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
    peers: Annotated[Path | None, typer.Option(help="JSON of 'make bench-peers', to show beside ours.")] = None,
) -> dict[str, Any]:
    """Gain, variance and evaluations of every process and sampler against the exact answer."""
    from retrodict.tasks import gaussian_card as bench
    from retrodict.tasks.gaussian_card_table import render

    found = integers("--steps", steps)
    if found is not None and not all(1 <= n <= MOST_STEPS for n in found):
        raise InputError("--steps", repr(steps), f"numbers from 1 to {MOST_STEPS}")
    records = bench.gaussian_card(steps=found, peers=peers)
    out.print(render(records))
    if output is not None:
        from retrodict._output import write_file  # brings torch

        write_file(output, json.dumps(records, indent=1).encode())
        out.print(f"records {plain(str(output))}", soft_wrap=True)
    return {"records": records}
