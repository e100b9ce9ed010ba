"""`retrodict measure nps`, `measure mtf`, `measure noise-map` and `measure instrument`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from retrodict._check import InputError
from retrodict.cli.command import command
from retrodict.cli.terminal import Force, Spacing, Unit, files, integers, numbers, out, plain

__all__ = ["instrument", "mtf", "noise_map", "nps"]


Json = Annotated[Path, typer.Option("--output", "-o", metavar="FILE.json", help="Curve; a picture goes beside it.")]


At = Annotated[float | None, typer.Option(help="Bring the images to this pixel spacing in mm first.")]


Slices = Annotated[str | None, typer.Option(help="First and last + 1 slice to use, such as 3:8.")]


Seed = Annotated[int, typer.Option(help="Seed of the bootstrap.")]


@command
def nps(
    sources: Annotated[list[Path], typer.Argument(metavar="SCAN...", help="One scan, or repeated scans.")],
    output: Json,
    repeats: Annotated[
        str, typer.Option(help="none: one scan, uniform regions; scans: repeats of one object; half-dose: two halves.")
    ] = "none",
    size: Annotated[int, typer.Option(help="Side of a region in pixels, even.")] = 32,
    count: Annotated[int, typer.Option(help="Regions to look for.")] = 64,
    region: Annotated[
        list[str] | None,
        typer.Option(help="First pixel of a region in the file, row,column or slice,row,column (repeatable)."),
    ] = None,
    slices: Slices = None,
    detrend: Annotated[str, typer.Option(help="poly2 or mean, for one scan.")] = "poly2",
    window: Annotated[str, typer.Option(help="none or hann.")] = "none",
    spacing: Spacing = None,
    unit: Unit = None,
    at: At = None,
    seed: Seed = 0,
    force: Force = False,
) -> dict[str, Any]:
    """Noise power spectrum with 95 % bands, autocorrelation and a test of whiteness."""
    from retrodict.tasks.measure import measure_nps

    own: dict[str, Any] = {"repeats": repeats, "size": size, "count": count, "detrend": detrend, "window": window}

    def measured(shared: dict[str, Any]) -> Any:
        regions = [integers("--region", r) or () for r in region] if region else None
        return measure_nps(sources, regions=regions, **own, **shared)

    return _run(measured, _say_nps, output, force, slices, spacing, {"unit": unit, "at": at, "seed": seed})


@command
def mtf(
    source: Annotated[Path, typer.Argument(metavar="SCAN", help="Scan with an edge, a disc insert, a wire or a bead.")],
    output: Json,
    kind: Annotated[str, typer.Option(help="edge (tilted, straight), disc (its rim), wire, bead.")] = "edge",
    region: Annotated[
        str | None, typer.Option(help="Rows and columns of the file that hold it, first:last+1,first:last+1.")
    ] = None,
    slices: Slices = None,
    diameter: Annotated[float, typer.Option(help="Diameter of the wire or bead in mm.")] = 0.0,
    radius: Annotated[float | None, typer.Option(help="Radius of the disc in mm (estimated without).")] = None,
    half_width: Annotated[float | None, typer.Option(help="Half width of the window in pixels.")] = None,
    window: Annotated[str, typer.Option(help="auto, hann or tukey.")] = "auto",
    spacing: Spacing = None,
    unit: Unit = None,
    at: At = None,
    seed: Seed = 0,
    force: Force = False,
) -> dict[str, Any]:
    """Modulation transfer function with 95 % bands and its 50 % and 10 % frequencies."""
    from retrodict.tasks.measure import measure_mtf

    own: dict[str, Any] = {"kind": kind, "diameter": diameter, "radius": radius, "half_width": half_width}

    def measured(shared: dict[str, Any]) -> Any:
        return measure_mtf(source, region=_box(region), window=window, **own, **shared)  # type: ignore[arg-type]

    return _run(measured, _say_mtf, output, force, slices, spacing, {"unit": unit, "at": at, "seed": seed})


@command
def noise_map(
    source: Annotated[
        Path, typer.Argument(metavar="SCAN", help="A scan whose noise is not equally strong everywhere.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.npz", help="Map; record and picture go beside it.")
    ],
    nps: Annotated[
        Path | None, typer.Option(help="NPS of the instrument (retrodict measure nps) that the map is relative to.")
    ] = None,
    above: Annotated[float | None, typer.Option(help="Cycles/mm from which on there is noise alone.")] = None,
    tile: Annotated[int, typer.Option(help="Side in pixels of the squares whose power is taken.")] = 16,
    together: Annotated[bool, typer.Option("--together", help="One map of all slices.")] = False,
    slices: Slices = None,
    spacing: Spacing = None,
    unit: Unit = None,
    force: Force = False,
) -> dict[str, Any]:
    """How strong the noise is at every place of a scan, for restore --noise-map."""
    from retrodict.tasks.measure_map import check_map_target, measure_noise_map

    check_map_target(output, force=force)
    given: dict[str, Any] = {"nps": nps, "above": above, "tile": tile, "together": together, "unit": unit}
    found = measure_noise_map(source, slices=_range(slices), spacing=numbers("--spacing", spacing), **given)
    written = found.save(output, force=force)
    summary = found.record["summary"]
    out.print(
        f"noise between [bold]{summary['lowest']:.3g} and {summary['highest']:.3g}[/] times "
        f"{plain('that of the NPS' if nps else 'its root mean square')}, known to {summary['relative_error']:.1%}"
    )
    out.print(f"from {summary['tiles']} tiles above {found.record['method']['above']:.3g} cycles/mm")
    files(written)
    return {"record": found.record, "files": [str(p) for p in written]}


@command
def instrument(
    source: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="The image or series of a patient: no phantom needed.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.json", help="FILE-mtf.json, FILE-nps.json, and a picture.")
    ],
    mtf: Annotated[Path | None, typer.Option(help="An MTF that is known: only the NPS is estimated.")] = None,
    nps: Annotated[Path | None, typer.Option(help="An NPS that is known: only the MTF is estimated.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Model whose images the blur is relative to.")] = "ct",
    spacing: Spacing = None,
    unit: Unit = None,
    seed: Seed = 0,
    force: Force = False,
) -> dict[str, Any]:
    """Estimate NPS and MTF from the image itself, with 95 % bands; refused where it cannot know."""
    from retrodict.tasks.estimate import check_estimate, estimate_instrument

    check_estimate(output, mtf=mtf, nps=nps, force=force)
    reading = {"spacing": numbers("--spacing", spacing), "unit": unit}
    found = estimate_instrument(source, model=model, mtf=mtf, nps=nps, seed=seed, **reading)
    written = found.save(output, force=force)
    out.print(plain(found.text), soft_wrap=True)
    for line in (*([found.unknown] if found.unknown else []), *found.warnings):
        out.print(f"  [yellow]{plain(line)}[/]", soft_wrap=True)
    files(written)
    return {"record": {"estimated": found.text, "unknown": found.unknown, "warnings": list(found.warnings),
                       "summary": found.summary, "mtf": found.mtf, "nps": found.nps},
            "files": [str(p) for p in written]}  # fmt: skip


def _run(
    measured: Callable[[dict[str, Any]], Any],
    say: Callable[[dict[str, Any]], None],
    output: Path,
    force: bool,
    slices: str | None,
    spacing: str | None,
    shared: dict[str, Any],
) -> dict[str, Any]:
    """What both have in common: look at the target, measure, save, and say what was found and where it is."""
    from retrodict.tasks.measure import check_target

    check_target(output, force=force)
    result = measured({"slices": _range(slices), "spacing": numbers("--spacing", spacing), **shared})
    written = result.save(output, force=force)
    say(result.record)
    files(written)
    return {"record": result.record, "files": [str(p) for p in written]}


def _say_nps(record: dict[str, Any]) -> None:
    from retrodict.tasks.measure import verdict

    summary, white = record["summary"], record["whiteness"]
    out.print(f"noise [bold]{summary['noise_sd']:.4g} {plain(summary['unit'])}[/] in {summary['regions']} regions")
    out.print(f"average frequency {summary['average_frequency']:.3g}, peak {summary['peak_frequency']:.3g} cycles/mm")
    out.print(f"{verdict(white)}, largest correlation {white['strongest_correlation']:.2f}")


def _say_mtf(record: dict[str, Any]) -> None:
    summary = record["summary"]
    for name, level in (("mtf50", "50 %"), ("mtf10", "10 %")):
        value = summary[name]
        if value["value"] is None:
            out.print(f"{level} not reached below Nyquist ({summary['nyquist']:.3g} cycles/mm)")
        else:
            band = "" if value["lower"] is None else f" (95 % band {value['lower']:.3g} to {value['upper']:.3g})"
            out.print(f"{level} at [bold]{value['value']:.4g} cycles/mm[/]{band}")
    unit, noise = plain(summary["unit"]), summary["noise_sd_per_pixel"]
    out.print(f"contrast {summary['contrast']:.4g} {unit}, noise {noise:.3g} {unit} per pixel")


def _range(text: str | None) -> tuple[int, int] | None:
    found = integers("--slices", text, ":")
    if found is None:
        return None
    if len(found) != 2:
        raise InputError("--slices", repr(text), "first:last+1, such as 3:8")
    return found[0], found[1]


def _box(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    found = [n for part in parts for n in integers("--region", part, ":") or ()]
    if len(parts) != 2 or len(found) != 4:
        raise InputError("--region", repr(text), "first:last+1,first:last+1, such as 100:164,80:144")
    return found[0], found[1], found[2], found[3]
