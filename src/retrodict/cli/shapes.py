"""`retrodict shapes fit`, `generate`, `vary` and `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from retrodict._check import InputError
from retrodict.cli.command import command
from retrodict.cli.fit import run_fit
from retrodict.cli.progress import watching
from retrodict.cli.terminal import Force, Spacing, integers, numbers, out, plain

__all__ = ["evaluate", "fit", "generate", "vary"]

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model of shapes: runs/NAME/NAME.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="New folder for meshes, volumes, picture and record.")]
Files = Annotated[str, typer.Option(help="Of the meshes: ply, obj, stl or glb.")]
Steps = Annotated[str | None, typer.Option(help="Of the rule for each level, such as 16 or 16,8 coarse to fine.")]
Seed = Annotated[int, typer.Option(help="Shape i depends on the seed and on i alone.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]


@command
def fit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration with data.shapes.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run (default runs/NAME).")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override, a.b=value.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
) -> dict[str, Any]:
    """Train a generator of shapes; a run that was stopped or killed goes on where it was."""
    from retrodict.tasks.fit_config import load_config

    settings = load_config(config, overrides or ())
    if settings.data.shapes is None:
        raise InputError(f"{config}: data.shapes", "none", "shapes", "For images use retrodict fit.")
    return run_fit(settings, output, config.resolve().parent, dry_run)


@command
def generate(
    model: Model,
    output: Output,
    samples: Annotated[int, typer.Option("--samples", "-n", help="Shapes to draw.")] = 16,
    seed: Seed = 0,
    steps: Steps = None,
    rule: Annotated[str | None, typer.Option(help="Sampler; matched where none is given.")] = None,
    files: Files = "ply",
    batch: Annotated[int, typer.Option(help="Shapes drawn together.")] = 8,
    threads: Threads = None,
    force: Force = False,
) -> dict[str, Any]:
    """Draw shapes: closed meshes by marching cubes, their distances, and a picture."""
    from retrodict.tasks.shapes import generate_shapes

    with watching() as shown:
        made = generate_shapes(
            model, samples, out=output, seed=seed, steps=_steps(steps), rule=rule, batch=batch, files=files,
            threads=threads, force=force, watch=lambda done, total: shown("drawing", done, total),
        )  # fmt: skip
    _say(made.record, len(made.meshes), output)
    return {**made.record, "output": str(output)}


@command
def vary(
    model: Model,
    shape: Annotated[Path, typer.Argument(metavar="SHAPE", help="A mesh (PLY, OBJ, STL, GLB) or a label volume.")],
    output: Output,
    strength: Annotated[float, typer.Option(help="From 0 to 1: 0.5 of a model of one level keeps the coarse shape.")],
    samples: Annotated[int, typer.Option("--samples", "-n", help="Variations to draw.")] = 8,
    seed: Seed = 0,
    steps: Steps = None,
    inside: Annotated[str | None, typer.Option(help="Labels that are the shape, such as 1,2.")] = None,
    spacing: Spacing = None,
    files: Files = "ply",
    threads: Threads = None,
    force: Force = False,
) -> dict[str, Any]:
    """Draw variations of a given shape: what is coarser than the strength says stays."""
    from retrodict._output import refuse_existing
    from retrodict.tasks.shape_edit import vary_shape

    refuse_existing(output, force)
    given, labels = numbers("--spacing", spacing), integers("--inside", inside)
    made = vary_shape(
        model, shape, samples, strength=strength, seed=seed, steps=_steps(steps), threads=threads,
        inside=None if labels is None else list(labels), spacing=None if given is None else tuple(given),
    )  # fmt: skip
    made.save(output, files, force)
    _say(made.record, len(made.meshes), output)
    return {**made.record, "output": str(output)}


@command
def evaluate(
    model: Model,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration whose held-out shapes are used.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="Write the record here.")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", "-n", help="Shapes to draw; as many as held out.")] = None,
    points: Annotated[int, typer.Option(help="On every surface.")] = 512,
    distance: Annotated[str, typer.Option(help="chamfer, sliced, emd (exact and slow), or several.")] = (
        "chamfer,sliced"
    ),
    seed: Seed = 0,
    steps: Steps = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override of the configuration.")] = None,
    threads: Threads = None,
    force: Force = False,
) -> dict[str, Any]:
    """Compare drawn shapes with held-out ones: MMD, COV, 1-NNA and novelty."""
    from retrodict._output import refuse_existing, write_file
    from retrodict.tasks.fit_config import load_config
    from retrodict.tasks.shapes import evaluate_shapes

    if output is not None:
        refuse_existing(output, force)
    with watching() as shown:
        record = evaluate_shapes(
            model, load_config(config, overrides or ()), config.resolve().parent, samples=samples, points=points,
            distances=distance.split(","), seed=seed, steps=_steps(steps), threads=threads,
            watch=lambda done, total: shown("drawing", done, total),
        )  # fmt: skip
    table = Table(title=f"against {record['reference']} held-out shapes, {points} points on each")
    for name in ("", "distance", "MMD", "COV", "1-NNA"):
        table.add_column(name, justify="left" if not name else "right")
    for side, words in (("made", "drawn shapes"), ("training", "training shapes instead")):
        for name in distance.split(","):
            row = record[side][name]
            unit = "mm^2" if name == "chamfer" else "mm"
            table.add_row(words, name, f"{row['mmd']:.3g} {unit}", f"{row['cov']:.2f}", f"{row['one_nna']:.2f}")
    out.print(table)
    out.print("  1-NNA: 0.5 where drawn and held-out shapes cannot be told apart, 1 where none is like another")
    if "novelty" in record["made"]:
        out.print(f"  novelty  {record['made']['novelty']:.2f} (1: as far from the training shapes as they are apart)")
    if record["empty"]:
        out.print(f"  empty    {record['empty']} volumes hold no surface and were left out")
    if output is not None:
        write_file(output, json.dumps(record, indent=1).encode())
        out.print(f"  record   {plain(str(output))}", soft_wrap=True)
    return record


def _steps(text: str | None) -> int | tuple[int, ...] | None:
    found = integers("--steps", text)
    if found is None:
        return None
    first, *rest = found
    return found if rest else first


def _say(record: dict[str, Any], count: int, folder: Path) -> None:
    empty = f", {record['empty']} without a surface" if record["empty"] else ""
    out.print(f"[bold]{count} shapes[/]{empty}  in {plain(str(folder))}", soft_wrap=True)
    if "law" in record:
        out.print(f"  sampler  {plain(record['law'])}", soft_wrap=True)
        out.print(f"  details  {plain(record['details'])}", soft_wrap=True)
