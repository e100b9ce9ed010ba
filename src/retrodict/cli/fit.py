"""`retrodict fit` and `schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from retrodict.cli.command import command, is_quiet
from retrodict.cli.progress import watching
from retrodict.cli.terminal import err, out, plain

__all__ = ["fit", "run_fit", "schema"]


@command
def fit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run (default runs/NAME).")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override, a.b=value.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
) -> dict[str, Any]:
    """Train a model; a run that was stopped or killed goes on where it was."""
    from retrodict.tasks.fit_config import load_config

    return run_fit(load_config(config, overrides or ()), output, config.resolve().parent, dry_run)


def run_fit(settings: Any, output: Path | None, base: Path, dry_run: bool) -> dict[str, Any]:
    """Train by a configuration that is loaded, and say how it goes."""
    from retrodict.tasks.fit import fit as run
    from retrodict.tasks.fit import prepare_fit

    folder = output or Path("runs") / settings.name
    plan = prepare_fit(settings, folder, base)
    out.print(f"[bold]{plain(settings.name)}[/]  {plan.parameters:,} parameters, {len(plan.training)} training images")
    for note in (*plan.training.notes, *plan.notes):
        out.print(f"  {plain(note)}", soft_wrap=True)
    left = plan.steps - plan.start_step
    resumed = f" (resuming at {plan.start_step})" if plan.start_step else ""
    out.print(f"  {left} steps of {plan.seconds_per_step:.2f} s: about {_duration(plan.seconds)}{resumed}")
    cost = {"parameters": plan.parameters, "images": len(plan.training), "steps_left": left, "seconds": plan.seconds}
    if dry_run:
        return cost
    with watching() as shown:

        def watch(p: Any) -> None:
            shown("training", p.step, plan.steps, f"loss {p.loss:.4f}  {1 / p.seconds:.2f} steps/s")
            if p.validation is not None and not is_quiet():
                err.print(f"step {p.step}: validation loss {p.validation:.4f}")

        try:
            path = run(plan, folder, watch=watch)
        except KeyboardInterrupt as error:
            said = f"stopped; what was trained until the last checkpoint is kept in {folder}. Run it again to go on."
            raise KeyboardInterrupt(said) from error
    out.print(f"model {plain(str(path))}", soft_wrap=True)
    return {**cost, "model": str(path)}


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


@command
def schema() -> dict[str, Any]:
    """Print the JSON schema of a training configuration."""
    from retrodict.tasks.fit_config import FitConfig

    found = FitConfig.model_json_schema()
    out.print_json(json.dumps(found))
    return found
