"""`retrodict bench gaussian-card`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from retrodict.cli.terminal import numbers, out, plain

__all__ = ["gaussian_card"]


def gaussian_card(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records here as JSON.")] = None,
    steps: Annotated[str | None, typer.Option(help="Numbers of steps, such as 1,8,32.")] = None,
    peers: Annotated[Path | None, typer.Option(help="JSON of 'make bench-peers', to show beside ours.")] = None,
) -> None:
    """Gain, variance and evaluations of every process and sampler against the exact answer."""
    from retrodict.tasks import gaussian_card as bench
    from retrodict.tasks.gaussian_card_table import render

    found = numbers("--steps", steps)
    records = bench.gaussian_card(steps=None if found is None else tuple(int(n) for n in found), peers=peers)
    out.print(render(records))
    if json_file is not None:
        from retrodict._output import write_file  # brings torch

        write_file(json_file, json.dumps(records, indent=1).encode())
        out.print(f"records {plain(json_file)}", soft_wrap=True)
