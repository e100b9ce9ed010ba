"""The command line: parse, call one function of the library, show progress; nothing is computed here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from retrodict._check import InputError, NotCalibratedError
from retrodict._version import __version__

__all__ = ["app", "main"]


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Restore measured images with an uncertainty that is right.",
)


bench_app = typer.Typer(no_args_is_help=True, help="Evidence: exact cards of every process and sampler.")


app.add_typer(bench_app, name="bench")


measure_app = typer.Typer(no_args_is_help=True, help="Measure the instrument: NPS and MTF from phantom scans.")


app.add_typer(measure_app, name="measure")


out = Console(highlight=False)


err = Console(stderr=True, highlight=False)


def main() -> None:
    """Entry point: a known error is one sentence and exit code 2, never a traceback."""
    try:
        app()
    except (InputError, NotCalibratedError) as error:
        err.print(f"[bold red]error[/] {_plain(str(error))}", soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        err.print(f"[bold red]error[/] {_plain(str(error))}", soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _version(show: bool) -> None:
    if show:
        out.print(f"retrodict {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, transient=True)


@app.command()
def restore(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="DICOM file or series folder, NIfTI, TIFF, PNG, npz, or a folder of them."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the results.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Shipped model (ct) or path of a model.")] = "ct",
    samples: Annotated[int, typer.Option(min=1, help="Members of the ensemble.")] = 8,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Network evaluations per member (default of the rule).")
    ] = None,
    rule: Annotated[str, typer.Option(help="Sampler; see 'retrodict bench gaussian-card'.")] = "matched",
    seed: Annotated[int, typer.Option(help="Seed of the whole run.")] = 0,
    keep_samples: Annotated[bool, typer.Option("--keep-samples", help="Write every member too.")] = False,
    point: Annotated[bool, typer.Option("--point", help="A point estimate, without an uncertainty map.")] = False,
    spacing: Annotated[
        str | None, typer.Option(help="Pixel spacing in mm (rows,columns) for files that have none.")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="Unit of the values for files that have none, such as HU.")] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Bring images of another pixel spacing to the model's and back.")
    ] = False,
    allow_gaps: Annotated[bool, typer.Option("--allow-gaps", help="Accept a series with missing slices.")] = False,
    tile: Annotated[int | None, typer.Option(min=64, help="Run the network on tiles of this side.")] = None,
    mtf: Annotated[
        Path | None, typer.Option(help="Measured MTF (retrodict measure mtf) instead of that of the training.")
    ] = None,
    nps: Annotated[
        Path | None, typer.Option(help="Measured NPS (retrodict measure nps) instead of that of the training.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace results of an earlier run.")] = False,
) -> None:
    """Restore INPUT: posterior mean, standard deviation, report."""
    from retrodict.tasks.restore import restore_all

    _threads(threads)
    with _bar() as bar:
        tasks: dict[str, Any] = {}

        def watch(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(_plain(name), total=total)
            bar.update(tasks[name], completed=done)

        summary = restore_all(
            source,
            output,
            watch=watch,
            model=model,
            samples=samples,
            steps=steps,
            rule=rule,
            seed=seed,
            uncertainty=not point,
            keep_samples=keep_samples,
            spacing=_numbers("--spacing", spacing),
            unit=unit,
            resampling=resample,
            allow_gaps=allow_gaps,
            tile=tile,
            mtf=mtf,
            nps=nps,
            force=force,
        )
    for item in summary.restored:
        _show(item)
    for name, reason in summary.failures:
        err.print(f"[bold red]failed[/] {_plain(name)}: {_plain(reason)}", soft_wrap=True)
    if summary.failures:
        if len(summary.restored) + len(summary.failures) > 1:
            err.print(f"{len(summary.restored)} restored, {len(summary.failures)} failed")
        raise typer.Exit(1)


def _numbers(name: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(name, repr(text), "numbers separated by commas, such as 1.0,1.0") from error


def _integers(name: str, text: str | None, separator: str = ",") -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(separator))
    except ValueError as error:
        raise InputError(name, repr(text), f"whole numbers separated by {separator!r}") from error


def _threads(count: int | None) -> None:
    if count:
        import torch

        torch.set_num_threads(count)


def _show(item: Any) -> None:
    """Where the results are, and what kind of result they are."""
    kind = "posterior" if item.sd is not None else "point estimate, no uncertainty"
    seconds = item.details["seconds"]
    out.print(f"[bold]{_plain(item.name)}[/]  {kind}, {seconds:.1f} s")
    for path in item.files:  # one line each, however long: a path is there to be copied
        out.print(f"  {_role(item.name, path):<12}{_plain(str(path))}", soft_wrap=True)


def _role(name: str, path: Path) -> str:
    stem = path.parent.name if path.parent.name.startswith(f"{name}_") else path.name
    return stem.removeprefix(f"{name}_").split(".")[0]


@app.command()
def fit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run (default runs/NAME).")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override, a.b=value.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
) -> None:
    """Train a model; a run that was stopped or killed goes on where it was."""
    from retrodict.tasks.fit import fit as run
    from retrodict.tasks.fit import prepare_fit
    from retrodict.tasks.fit_config import load_config

    settings = load_config(config, overrides or ())
    folder = output or Path("runs") / settings.name
    plan = prepare_fit(settings, folder, config.resolve().parent)
    out.print(f"[bold]{settings.name}[/]  {plan.parameters:,} parameters, {len(plan.training)} training images")
    for note in plan.training.notes:
        out.print(f"  {_plain(note)}", soft_wrap=True)
    left = settings.training.steps - plan.start_step
    resumed = f" (resuming at {plan.start_step})" if plan.start_step else ""
    out.print(f"  {left} steps of {plan.seconds_per_step:.2f} s: about {_duration(plan.seconds)}{resumed}")
    if dry_run:
        return
    with _bar() as bar:
        task = bar.add_task("training", total=settings.training.steps, completed=plan.start_step)

        def watch(p: Any) -> None:
            bar.update(task, completed=p.step, description=f"loss {p.loss:.4f}  {1 / p.seconds:.2f} steps/s")
            if p.validation is not None:
                bar.console.print(f"step {p.step}: validation loss {p.validation:.4f}")

        path = run(plan, folder, watch=watch)
    out.print(f"model {path}")


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


Spacing = Annotated[str | None, typer.Option(help="Pixel spacing in mm (rows,columns) for files that have none.")]


Unit = Annotated[str | None, typer.Option(help="Unit of the values for files that have none, such as HU.")]


Json = Annotated[Path, typer.Option("--output", "-o", metavar="FILE.json", help="Curve; a picture goes beside it.")]


At = Annotated[float | None, typer.Option(help="Bring the images to this pixel spacing in mm first.")]


Slices = Annotated[str | None, typer.Option(help="First and last + 1 slice to use, such as 3:8.")]


Force = Annotated[bool, typer.Option("--force", help="Replace results of an earlier run.")]


@measure_app.command("nps")
def measure_noise(
    sources: Annotated[list[Path], typer.Argument(metavar="SCAN...", help="One scan, or repeated scans.")],
    output: Json,
    repeats: Annotated[
        str, typer.Option(help="none: one scan, uniform regions; scans: repeats of one object; half-dose: two halves.")
    ] = "none",
    size: Annotated[int, typer.Option(help="Side of a region in pixels, even.")] = 32,
    count: Annotated[int, typer.Option(help="Regions to look for.")] = 64,
    region: Annotated[
        list[str] | None, typer.Option(help="First pixel of a region, row,column or slice,row,column (repeatable).")
    ] = None,
    slices: Slices = None,
    detrend: Annotated[str, typer.Option(help="poly2 or mean, for one scan.")] = "poly2",
    window: Annotated[str, typer.Option(help="none or hann.")] = "none",
    spacing: Spacing = None,
    unit: Unit = None,
    at: At = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    force: Force = False,
) -> None:
    """Noise power spectrum with 95 % bands, autocorrelation and a test of whiteness."""
    from retrodict.report.measurement import chance
    from retrodict.tasks.measure import check_target, measure_nps

    check_target(output, force=force)
    result = measure_nps(
        sources,
        repeats=repeats,  # type: ignore[arg-type]
        size=size,
        count=count,
        regions=[_integers("--region", r) or () for r in region] if region else None,
        slices=_range(slices),
        detrend=detrend,  # type: ignore[arg-type]
        window=window,  # type: ignore[arg-type]
        spacing=_numbers("--spacing", spacing),
        unit=unit,
        at=at,
        seed=seed,
    )
    files = result.save(output, force=force)
    summary, white = result.record["summary"], result.record["whiteness"]
    out.print(f"noise [bold]{summary['noise_sd']:.4g} {_plain(summary['unit'])}[/] in {summary['regions']} regions")
    out.print(f"average frequency {summary['average_frequency']:.3g}, peak {summary['peak_frequency']:.3g} cycles/mm")
    verdict = "white" if white["white"] else "not white"
    out.print(f"{verdict} ({chance(white['p_value'])}), largest correlation {white['strongest_correlation']:.2f}")
    _files(files)


@measure_app.command("mtf")
def measure_resolution(
    source: Annotated[Path, typer.Argument(metavar="SCAN", help="Scan with an edge, a disc insert, a wire or a bead.")],
    output: Json,
    kind: Annotated[str, typer.Option(help="edge (tilted, straight), disc (its rim), wire, bead.")] = "edge",
    region: Annotated[
        str | None, typer.Option(help="Rows and columns that hold it, first:last+1,first:last+1.")
    ] = None,
    slices: Slices = None,
    diameter: Annotated[float, typer.Option(help="Diameter of the wire or bead in mm.")] = 0.0,
    radius: Annotated[float | None, typer.Option(help="Radius of the disc in mm (estimated without).")] = None,
    half_width: Annotated[float | None, typer.Option(help="Half width of the window in pixels.")] = None,
    window: Annotated[str, typer.Option(help="auto, hann or tukey.")] = "auto",
    spacing: Spacing = None,
    unit: Unit = None,
    at: At = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    force: Force = False,
) -> None:
    """Modulation transfer function with 95 % bands and its 50 % and 10 % frequencies."""
    from retrodict.tasks.measure import check_target, measure_mtf

    check_target(output, force=force)
    result = measure_mtf(
        source,
        kind=kind,  # type: ignore[arg-type]
        region=_box(region),
        slices=_range(slices),
        diameter=diameter,
        radius=radius,
        half_width=half_width,
        window=window,  # type: ignore[arg-type]
        spacing=_numbers("--spacing", spacing),
        unit=unit,
        at=at,
        seed=seed,
    )
    files = result.save(output, force=force)
    summary = result.record["summary"]
    for name, level in (("mtf50", "50 %"), ("mtf10", "10 %")):
        value = summary[name]
        if value["value"] is None:
            out.print(f"{level} not reached below Nyquist ({summary['nyquist']:.3g} cycles/mm)")
        else:
            band = "" if value["lower"] is None else f" (95 % band {value['lower']:.3g} to {value['upper']:.3g})"
            out.print(f"{level} at [bold]{value['value']:.4g} cycles/mm[/]{band}")
    unit_text = _plain(summary["unit"])
    noise = summary["noise_sd_per_pixel"]
    out.print(f"contrast {summary['contrast']:.4g} {unit_text}, noise {noise:.3g} {unit_text} per pixel")
    _files(files)


def _range(text: str | None) -> tuple[int, int] | None:
    found = _integers("--slices", text, ":")
    if found is not None and len(found) != 2:
        raise InputError("--slices", repr(text), "first:last+1, such as 3:8")
    return found  # type: ignore[return-value]


def _box(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    numbers = [n for part in parts for n in _integers("--region", part, ":") or ()]
    if len(parts) != 2 or len(numbers) != 4:
        raise InputError("--region", repr(text), "first:last+1,first:last+1, such as 100:164,80:144")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _files(paths: list[Path]) -> None:
    for path in paths:
        out.print(f"  {_plain(str(path))}", soft_wrap=True)


@app.command()
def evaluate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for table and report.")],
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="YAML evaluation, or use the options.")
    ] = None,
    truth: Annotated[list[str] | None, typer.Option(help="Image or folder of true images (repeatable).")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of results, as restore writes them (repeatable).")
    ] = None,
    measured: Annotated[str | None, typer.Option(help="Image or folder of measured images.")] = None,
    data_range: Annotated[float | None, typer.Option(help="For PSNR and SSIM (2000 for HU).")] = None,
    unit: Unit = None,
    spacing: Spacing = None,
    force: Force = False,
) -> None:
    """Compare restorations with the truth: table, calibration, paired differences, report."""
    from retrodict.tasks.evaluate import EvaluationConfig, check_folder, load_evaluation
    from retrodict.tasks.evaluate import evaluate as run

    check_folder(output, force=force)

    if config is not None:
        if truth or method or measured:
            raise InputError("evaluate", "a configuration and options", "one of the two")
        settings, base = load_evaluation(config)
    else:
        if not truth or not method:
            raise InputError("evaluate", "nothing to compare", "a CONFIG, or --truth and --method NAME=FOLDER")
        settings, base = (
            EvaluationConfig.model_validate(
                {
                    "truth": truth,
                    "measured": measured,
                    "methods": [{"name": n, "path": p} for n, p in map(_pair, method)],
                    "data_range": data_range,
                    "unit": unit,
                    "spacing": _numbers("--spacing", spacing),
                }
            ),
            Path.cwd(),
        )
    with _bar() as bar:
        task = bar.add_task("evaluating")

        def watch(name: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=_plain(name))

        result = run(settings, base, watch=watch)
    files = result.save(output, force=force)
    out.print(_table(result.record))
    _files(files)


def _pair(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name:
        raise InputError("--method", repr(text), "NAME=FOLDER")
    return name, path


def _table(record: dict[str, Any]) -> Any:
    from rich.table import Table

    from retrodict.tasks.evaluate import METRICS

    table = Table(title=f"{record['images']} images, errors in {_plain(record['unit'])}")
    table.add_column("method")
    columns = [c for c in record["columns"] if c not in ("bias", "cover68")]  # a terminal is narrow; the files have all
    for column in columns:
        table.add_column(METRICS[column][0], justify="right")
    for m in record["methods"]:
        values = [m["summary"].get(c, {}).get("value") for c in columns]
        table.add_row(
            _plain(m["name"]), *("" if v is None else f"{v:.3g}" if abs(v) < 1000 else f"{v:.0f}" for v in values)
        )
    return table


@app.command()
def schema() -> None:
    """Print the JSON schema of a training configuration."""
    from retrodict.tasks.fit_config import FitConfig

    out.print_json(json.dumps(FitConfig.model_json_schema()))


@app.command()
def info(model: Annotated[str, typer.Argument(help="Shipped model (ct) or path of a model.")] = "ct") -> None:
    """Print the card of a model."""
    from retrodict.models.model import open_model

    opened = open_model(model)
    record = {"source": opened.source, "spacing_mm": opened.spec.spacing, "unit": opened.intensity.unit}
    out.print_json(json.dumps({**record, "process": opened.spec.process, **opened.spec.card}, default=str))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo"),
    samples: Annotated[int, typer.Option(min=2, help="Members of the ensemble.")] = 8,
    slices: Annotated[int, typer.Option(min=1, max=2, help="Slices to restore.")] = 2,
) -> None:
    """Restore the CT slices that ship with the package and say where the results are."""
    from retrodict.tasks.demo import run_demo

    with _bar() as bar:
        tasks: dict[str, Any] = {}

        def watch(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(_plain(name), total=total)
            bar.update(tasks[name], completed=done)

        results = run_demo(output, samples=samples, slices=slices, watch=watch)
    for item in results:
        _show(item.restored)
        out.print(
            f"  error against the truth, HU rms: measured {item.measured_rmse:.1f}, Wiener filter "
            f"{item.wiener_rmse:.1f}, posterior mean {item.rmse:.1f}; ensemble spread {item.spread:.1f}",
            soft_wrap=True,
        )


@bench_app.command("gaussian-card")
def gaussian_card(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records here as JSON.")] = None,
    steps: Annotated[str | None, typer.Option(help="Numbers of steps, such as 1,8,32.")] = None,
    peers: Annotated[Path | None, typer.Option(help="JSON of 'make bench-peers', to show beside ours.")] = None,
) -> None:
    """Gain, variance and evaluations of every process and sampler against the exact answer."""
    from retrodict.tasks import gaussian_card as bench

    numbers = _numbers("--steps", steps)
    records = bench.gaussian_card(steps=None if numbers is None else tuple(int(n) for n in numbers), peers=peers)
    out.print(bench.render(records))
    if json_file is not None:
        from retrodict._output import write_file

        write_file(json_file, json.dumps(records, indent=1).encode())
        out.print(f"records {json_file}")


if __name__ == "__main__":
    main()
