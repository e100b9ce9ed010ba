"""`retrodict evaluate`, against the truth or, with `--repeats`, against a second scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from retrodict._check import InputError
from retrodict.cli.command import command
from retrodict.cli.progress import watching
from retrodict.cli.repeats import run_repeats
from retrodict.cli.terminal import Force, Spacing, Unit, files, numbers, out, plain

__all__ = ["evaluate"]


@command
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
    patients: Annotated[
        str | None,
        typer.Option(help="Which images are of one patient: dicom, folder, or a regular expression of their names."),
    ] = None,
    repeats: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of a truth: two scans of one object (give it twice, or a folder); the first is restored."
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="With --repeats: shipped model (ct) or path.")] = "ct",
    samples: Annotated[int, typer.Option(min=2, help="With --repeats: members of the ensemble.")] = 8,
    seed: Annotated[int, typer.Option(help="With --repeats: seed of the restoration.")] = 0,
    mtf: Annotated[str | None, typer.Option(help="With --repeats: measured MTF of scan 1.")] = None,
    nps: Annotated[str | None, typer.Option(help="With --repeats: measured NPS of scan 1.")] = None,
    repeat_mtf: Annotated[
        str | None, typer.Option(help="Measured MTF of the other scans, if theirs is another.")
    ] = None,
    repeat_nps: Annotated[
        str | None, typer.Option(help="Measured NPS of the other scans, if theirs is another.")
    ] = None,
    repeat_noise: Annotated[
        float | None, typer.Option(help="Noise of the other scans over that of scan 1 (half the dose: 1.41).")
    ] = None,
    unit: Unit = None,
    spacing: Spacing = None,
    force: Force = False,
) -> dict[str, Any]:
    """Compare restorations with the truth, or their posterior with a second scan: table, calibration, report."""
    if repeats:
        if config is not None or truth or method or measured or patients:
            raise InputError("--repeats", "a truth or methods beside it", "one of the two")
        return run_repeats(
            repeats, output, force, spacing, model=model, samples=samples, seed=seed, mtf=mtf, nps=nps,
            repeat_mtf=repeat_mtf, repeat_nps=repeat_nps, repeat_noise=repeat_noise, unit=unit,
        )  # fmt: skip
    _refuse_alone(
        {"mtf": mtf, "nps": nps, "repeat_mtf": repeat_mtf, "repeat_nps": repeat_nps, "repeat_noise": repeat_noise}
    )
    from retrodict.tasks.evaluate import check_folder
    from retrodict.tasks.evaluate import evaluate as run
    from retrodict.tasks.evaluate_methods import EvaluationConfig, load_evaluation

    check_folder(output, force=force)
    if config is not None:
        if truth or method or measured or patients:
            raise InputError("evaluate", "a configuration and options", "one of the two")
        settings, base = load_evaluation(config)
    else:
        if not truth or not method:
            raise InputError("evaluate", "nothing to compare", "a CONFIG, or --truth and --method NAME=FOLDER")
        stated = {
            "truth": truth,
            "measured": measured,
            "methods": [{"name": n, "path": p} for n, p in map(_pair, method)],
            "data_range": data_range,
            "patients": patients,
            "unit": unit,
            "spacing": numbers("--spacing", spacing),
        }
        settings, base = EvaluationConfig.model_validate(stated), Path.cwd()
    with watching() as watch:
        result = run(settings, base, watch=lambda name, done, total: watch("evaluating", done, total, name))
    written = result.save(output, force=force)
    out.print(_table(result.record))
    files(written)
    return {"record": result.record, "files": [str(p) for p in written]}


def _refuse_alone(given: dict[str, Any]) -> None:
    """Options of --repeats that were given without it."""
    for name, value in given.items():
        if value is not None:
            raise InputError(name, "no repeats beside it", "--repeats SCAN --repeats SCAN")


def _pair(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name:
        raise InputError("--method", repr(text), "NAME=FOLDER")
    return name, path


def _table(record: dict[str, Any]) -> Table:
    from retrodict.tasks.evaluate_metrics import METRICS

    between = (
        ""
        if all(f["sd"] is None for m in record["methods"] for f in m["summary"].values())
        else (f"; ± standard deviation between {record['items']}")
    )
    table = Table(title=f"{record['who']}; errors in {plain(record['unit'])}{between}")
    table.add_column("method")
    columns = [c for c in record["columns"] if c not in ("bias", "cover68")]  # a terminal is narrow; the files have all
    for column in columns:
        table.add_column(METRICS[column].title, justify="right")
    for m in record["methods"]:
        table.add_row(plain(m["name"]), *(_cell(m["summary"].get(c)) for c in columns))
    return table


def _cell(found: dict[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return ""
    text = f"{found['value']:.3g}" if abs(found["value"]) < 1000 else f"{found['value']:.0f}"
    return text if found["sd"] is None else f"{text} ± {found['sd']:.2g}"
