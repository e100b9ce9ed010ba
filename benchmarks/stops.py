"""One detail of a chest at five times between its measurement and its restoration, with what each leaves to chance.

    python benchmarks/stops.py [--picture docs/images/stops.png] [--members 8] [--steps 4]

Vessels of the shipped slice chest-1, whose patient no shipped model was trained or calibrated on, measured by the
shipped scanner (30 HU of noise) on 128 x 128 pixels.  For each of the times: one draw of the image, its deviation given
the measurement (rms over the detail), and MTF 50 % and noise as the law of the process promises them and as they are
found in the members.  At 1 they are found from the measurement and its truth; at 0 there is no instrument left.  The
noise is that of frequencies up to Nyquist along a row.  `benchmarks/results/stops.json` keeps the numbers, and the
table of docs/concepts-stops.md is written from them.
"""

from __future__ import annotations

import argparse
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from retrodict import Image, read, restore
from retrodict.models.instrument import model_with_instrument
from retrodict.models.model import open_model
from retrodict.models.range import at_spacing
from retrodict.samplers.stop import StopMoments
from retrodict.tasks.stop import Stop
from tables import replace_block, table

ROOT = Path(__file__).resolve().parents[1]
ASSETS = Path(str(resources.files("retrodict") / "assets"))
CURVES = {"mtf": ASSETS / "scanner-mtf.json", "nps": ASSETS / "scanner-nps.json"}
TIMES = (1.0, 0.6, 0.4, 0.2, 0.0)
CORNER, SIDE, AROUND = (152, 60), 128, 24
DETAIL = (slice(48, 96), slice(44, 92))
WINDOW = (-1000, -350)
Found = tuple[float, Image, Image | None, Stop | None]
"""A time, one draw of the image there, its deviation and its curves."""
HIGH = 0.5
"""Frequency (/mm) at which the MTF is told, for where it is not half at any that the pixels hold."""


def measured() -> tuple[Image, Stop]:
    """The measured crop, and the stop at 1, whose curves are found from the truth."""
    truth = read(ASSETS / "chest-1.dcm")
    bound, _ = model_with_instrument(at_spacing(open_model("ct"), truth.spacing[-2:]), **CURVES)
    y, x = (slice(c - AROUND, c + SIDE + AROUND) for c in CORNER)
    inner = (..., slice(AROUND, AROUND + SIDE), slice(AROUND, AROUND + SIDE))
    wide = bound.intensity.encode(truth.values[None, :, y, x])
    process = bound.denoiser.process.on(tuple(wide.shape[2:]))
    taken = process.pairing.simulate(wide, process.basis, torch.tensor([0]))
    moments = StopMoments(process, 1.0)
    moments.add(taken, wide, taken[inner])
    image = Image.of(bound.intensity.decode(taken[inner])[0, 0].numpy(), unit="HU", spacing=truth.spacing[-2:])
    return image, Stop.of((moments.part(),), 1.0, bound, lambda _: image)


def stops(members: int, steps: int) -> list[Found]:
    """What is found at every time."""
    image, first = measured()
    found: list[Found] = [(1.0, image, None, first)]
    options: dict[str, Any] = {"model": "ct", **CURVES, "samples": members, "steps": steps, "keep_samples": True}
    for time in TIMES[1:-1]:
        result = restore(image, stop_at=time, **options)
        assert result.stop is not None
        found.append((time, result.stop.image, result.stop.sd, result.stop))
    found.append((0.0, result.samples[0], result.sd, None))
    return found


def half(frequency: tuple[float, ...], mtf: tuple[float, ...]) -> float:
    """Frequency (/mm) where a curve falls through one half; infinite where it does not."""
    for i in range(1, len(mtf)):
        if mtf[i] < 0.5 <= mtf[i - 1]:
            part = (mtf[i - 1] - 0.5) / (mtf[i - 1] - mtf[i])
            return frequency[i - 1] + part * (frequency[i] - frequency[i - 1])
    return math.inf


def noise(frequency: tuple[float, ...], nps: tuple[float, ...]) -> float:
    """Deviation of a pixel (HU) by an isotropic NPS of bands of equal width."""
    width = 2 * frequency[0]
    return math.sqrt(sum(2 * math.pi * f * p * width for f, p in zip(frequency, nps, strict=True)))


def numbers(time: float, sd: Image | None, stop: Stop | None) -> dict[str, Any]:
    """A row of the table; pairs are (promised, found)."""
    deviation = 0.0 if sd is None else float(sd.values[0][DETAIL].double().square().mean().sqrt())
    if stop is None:
        return {"time": time, "sd_hu": deviation, "mtf50_per_mm": None, "mtf_high": [1.0, 1.0], "noise_hu": [0.0, 0.0]}
    near = min(range(len(stop.frequency)), key=lambda i: abs(stop.frequency[i] - HIGH))
    return {
        "time": time,
        "sd_hu": deviation,
        "nyquist_per_mm": stop.frequency[-1] + stop.frequency[0],
        "mtf50_per_mm": [half(stop.frequency, curve) for curve in stop.mtf],
        "mtf_high": [curve[near] for curve in stop.mtf],
        "noise_hu": [noise(stop.frequency, curve) for curve in stop.nps],
    }


def shown(row: dict[str, Any]) -> tuple[str, str]:
    """MTF 50 % and noise of a row, promised and found, in words."""
    if row["mtf50_per_mm"] is None:
        return "no blur", "0"
    high = row["nyquist_per_mm"]
    halves = [f"{f:.2f}" if math.isfinite(f) else f"> {high:.2f}" for f in row["mtf50_per_mm"]]
    return " / ".join(halves), " / ".join(f"{v:.1f}" for v in row["noise_hu"])


def _high(row: dict[str, Any]) -> str:
    return " / ".join(f"{v:.2f}" for v in row["mtf_high"]) if row["mtf50_per_mm"] is not None else "1"


def picture(rows: list[dict[str, Any]], found: list[Found], path: Path) -> None:
    """The detail at every time over its deviation."""
    figure = Figure(figsize=(11.6, 5.6), dpi=100, facecolor="white", layout="constrained")
    axes = figure.subplots(2, len(found))
    most = max(float(sd.values[0][DETAIL].max()) for _, _, sd, _ in found if sd is not None)
    names = {1.0: "1: as measured", 0.0: "0: restored"}
    pair = [None, None]
    for column, (row, (time, image, sd, _)) in enumerate(zip(rows, found, strict=True)):
        top, low = axes[:, column]
        flat = torch.zeros_like(image.values) if sd is None else sd.values
        pair[0] = top.imshow(image.values[0][DETAIL], cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1])
        pair[1] = low.imshow(flat[0][DETAIL], cmap="inferno", vmin=0, vmax=most)
        top.set_title(names.get(time, f"{time:g}"), fontsize=11, color="#222", pad=6)
        halves, levels = shown(row)
        unit = "" if row["mtf50_per_mm"] is None else " /mm"
        top.set_xlabel(f"MTF 50 %: {halves}{unit}\nnoise: {levels} HU", fontsize=8.5, color="#333", labelpad=5)
        low.set_xlabel(f"deviation {row['sd_hu']:.1f} HU rms", fontsize=8.5, color="#333", labelpad=5)
        for axis in (top, low):
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
    axes[0, 0].set_ylabel("one draw", fontsize=10, color="#222")
    axes[1, 0].set_ylabel("deviation given the measurement", fontsize=10, color="#222")
    for drawn, line in zip(pair, axes, strict=True):
        bar = figure.colorbar(drawn, ax=list(line), fraction=0.012, pad=0.01)
        bar.ax.tick_params(labelsize=8, color="#888", labelcolor="#444")
        bar.set_label("HU", fontsize=8, color="#444")
        bar.outline.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Numbers, table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "stops.png")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    given = parser.parse_args()
    found = stops(given.members, given.steps)
    rows = [numbers(time, sd, stop) for time, _, sd, stop in found]
    record = {"members": given.members, "steps": given.steps, "rows": rows}
    (ROOT / "benchmarks" / "results" / "stops.json").write_text(json.dumps(record, indent=1) + "\n")
    head = ["time", "deviation given y, HU rms", f"MTF at {HIGH:g} /mm", "MTF 50 %, /mm", "noise, HU"]
    text = table(head, [[f"{r['time']:g}", f"{r['sd_hu']:.1f}", _high(r), *shown(r)] for r in rows])
    replace_block(ROOT / "docs" / "concepts-stops.md", "stops", text)
    picture(rows, found, given.picture)
    print(text, given.picture, sep="\n")


if __name__ == "__main__":
    main()
