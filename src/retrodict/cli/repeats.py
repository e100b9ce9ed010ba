"""`retrodict evaluate --repeats`: a second scan against the posterior of the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from retrodict.cli.progress import watching
from retrodict.cli.terminal import files, numbers, out, plain

__all__ = ["run_repeats", "show_repeats"]


def run_repeats(scans: list[str], output: Path, force: bool, spacing: str | None, **options: Any) -> dict[str, Any]:
    """Run the test, write its files, show its table; the record."""
    from retrodict.tasks.evaluate import check_folder
    from retrodict.tasks.repeats import FILES, evaluate_repeats

    check_folder(output, force=force, files=FILES)
    given: Any = scans if len(scans) > 1 else scans[0]
    with watching() as watch:
        found = evaluate_repeats(given, watch=watch, spacing=numbers("--spacing", spacing), **options)
    written = found.save(output, force=force)
    show_repeats(found.record)
    files(written)
    return {"record": found.record, "files": [str(p) for p in written]}


def show_repeats(record: dict[str, Any]) -> None:
    """The verdict, the table and what is to be known of them."""
    from retrodict.tasks.repeats import rows_of

    verdict = record["verdict"]
    out.print(f"[bold]{plain(verdict['text'])}[/]", soft_wrap=True)
    table = Table(title=f"{plain(record['scans'][0])} against {plain(', '.join(record['scans'][1:]))}")
    for head in ("", "ratio", "95 % band", "share", "spread", "sees", "in 90 %"):
        table.add_column(head, justify="left" if not head else "right", no_wrap=True)
    sections = (len(record["bands"]), len(record["bands"]) + len(record["classes"]))
    for k, (name, row) in enumerate(rows_of(record)):
        table.add_row(name, *_cells(row), end_section=k + 1 in sections)
    out.print(table)
    out.print(
        "ratio: power of scan 2 minus its prediction over what is predicted; share: of the posterior in what is "
        "predicted; spread: the posterior's variance that would explain scan 2 over the stated one; sees: the error of "
        "that variance which would be found.",
        soft_wrap=True,
    )
    for note in (*verdict["notes"], verdict["cannot_see"]):
        out.print(plain(note), soft_wrap=True)


def _cells(row: dict[str, Any]) -> list[str]:
    cover = row["coverage"]
    sees = row["sees"]
    return [
        f"{row['ratio']:.2f}",
        f"{row['lower']:.2f}-{row['upper']:.2f}",
        f"{row['share']:.0%}" if row["share"] >= 0.095 else f"{row['share']:.1%}",
        f"{row['spread']:.2f}" if sees < 1 else "",
        f"± {sees:.0%}" if sees < 10 else "nothing",
        f"{cover['0.9']:.1%}" if "0.9" in cover else "",  # a terminal is narrow; the files have 50 %, too
    ]
