"""`retrodict processes`: the forward processes, one by one or all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrodict._check import InputError
from retrodict.cli.command import command
from retrodict.cli.terminal import Force, files, out, plain

if TYPE_CHECKING:
    from rich.table import Table

    from retrodict.tasks.processes import Entry

__all__ = ["Set", "processes"]

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An option of the process, such as beta_max=10; may be repeated."),
]


@command
def processes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One process, whole; without it all of them.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Picture of its gain and noise, and of five states.")
    ] = None,
    options: Set = None,
    force: Force = False,
) -> dict[str, Any]:
    """List the forward processes: law, conditioning, memory and source; or show one."""
    from retrodict._output import refuse_existing, write_file
    from retrodict.tasks.processes import described, entries, settings

    if name is None:
        if plot is not None or options:
            flag = "--plot" if plot is not None else "--set"
            raise InputError(flag, "no NAME", "the process that it is of", "'retrodict processes' lists them.")
        found = entries()
        out.print(_table(found))
        return {"processes": [e.to_json() for e in found]}
    entry = described(name)
    chosen = settings(name, options or (), "--set")
    if plot is not None:
        refuse_existing(plot, force)
        if plot.suffix.lower() != ".png":
            raise InputError("--plot", plain(str(plot)), "a file that ends in .png")
    _show(entry, chosen)
    if plot is not None:
        from retrodict.tasks.process_picture import picture

        write_file(plot, picture(name, chosen))
        files([plot])
    return {**entry.to_json(), "chosen": chosen, "plot": None if plot is None else str(plot)}


def _table(found: list[Entry]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from retrodict.tasks.processes import states

    table = Table.grid(padding=(0, 2, 0, 0))
    table.title = "Forward processes: x_t = h x_0 + k c + s z per coefficient"
    table.add_column("process", no_wrap=True)
    table.add_column("what it is")
    for e in found:
        told = Text(e.what)
        told.append(f"\n{e.law}", style="cyan")
        told.append(f"\n{states(e)} · {e.source}\n", style="dim")
        table.add_row(Text(e.name, style="bold"), told)
    table.caption = "'retrodict processes NAME' shows one with its options; --plot FILE.png draws it."
    return table


def _show(entry: Entry, chosen: dict[str, Any]) -> None:
    from rich.text import Text

    from retrodict.tasks.processes import states

    out.print(Text(entry.name, style="bold"))
    for paragraph in entry.text.split("\n\n"):
        lines = paragraph.splitlines()
        fixed = any(line.startswith((" ", "- ")) for line in lines)  # a list or a block, which keeps its lines
        out.print(Text(f"\n{paragraph if fixed else ' '.join(lines)}"))
    out.print()
    for label, value in (("states", states(entry)), ("basis", entry.basis), ("source", entry.source)):
        out.print(Text(f"{label:<8} {value}"))
    for option, default in entry.options.items():
        said = "(to be given)" if option in entry.required else json.dumps(default)
        now = f" -> {json.dumps(chosen[option])}" if option in chosen else ""
        out.print(Text(f"option   {option} = {said}{now}"))
