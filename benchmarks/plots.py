"""Pictures of the two experiments for the documents.

    python benchmarks/plots.py

docs/images/fourier-diffusion.png from benchmarks/results/fourier-diffusion.json; docs/images/patches.png from the
trained network of the CT crops (runs/patch-crops).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from patch_data import load
from patch_train import RUNS
from patches import ending_at_y, matched, noisy, one_call, sliding_dct
from retrodict.models.model import open_model
from retrodict.report.measurement import PALETTE, finish, style

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"


def fourier() -> None:
    """Error of the mean, variance and SSR over evaluations."""
    records = json.loads((ROOT / "benchmarks" / "results" / "fourier-diffusion.json").read_text())
    figure = Figure(figsize=(12.0, 3.9), layout="constrained")
    axes = figure.subplots(1, 3)
    names = [n for n in dict.fromkeys(r["method"] for r in records if r["calls"]) if "twice" not in n]
    for k, name in enumerate(sorted(names)):
        rows = sorted((r for r in records if r["method"] == name), key=lambda r: r["calls"])
        calls = [r["calls"] for r in rows]
        line = {"color": PALETTE[k], "linestyle": "-" if "matched" in name else "--", "marker": "o", "markersize": 3.5}
        for panel, key in zip(axes, ("bias2_corrected", "variance_corrected", "ssr"), strict=True):
            panel.plot(calls, [r[key] for r in rows], label=name.replace(" | ", ": "), **line)
    for panel, title, unit in zip(
        axes,
        ("squared error of the mean", "variance of the samples", "SSR, 1 is calibrated"),
        ("HU²", "HU²", ""),
        strict=True,
    ):
        style(panel, title, "network calls", unit)
        panel.set_xscale("log", base=2)
        panel.set_xticks([4, 8, 16, 32, 64, 128, 1024], ["4", "8", "16", "32", "64", "128", "1024"])
        panel.minorticks_off()
    axes[0].set_ylim(2000, 4000)
    axes[1].set_ylim(0, 10000)
    axes[2].axhline(1, color="#5d6b78", linewidth=0.8)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8.5
    )
    (IMAGES / "fourier-diffusion.png").write_bytes(finish(figure))


def patches(count: int = 8) -> None:
    """Truth, noisy, sliding DCT, posterior mean and two samples of a few crops."""
    x0 = load("crops", "test", 64)[0][5 : 5 + count]
    y = noisy(load("crops", "test", 64)[0])[5 : 5 + count]
    denoiser = ending_at_y(open_model(RUNS / "patch-crops" / "patch-crops", "float32").denoiser)
    draw = matched(denoiser, 8)
    with torch.inference_mode():
        rows = {
            "truth": x0,
            "noisy": y,
            "sliding DCT": sliding_dct(y, 2.2 * 0.3),
            "mean, one call": one_call(denoiser, y),
        }
        for k in range(2):
            rows[f"sample {k + 1}"] = draw(y, torch.arange(count) + 1000 * (k + 1))
    figure = Figure(figsize=(1.15 * count + 0.9, 1.15 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), count)
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        for panel, image in zip(line, images, strict=True):
            panel.imshow(np.asarray(image[0]), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            for spine in panel.spines.values():
                spine.set_visible(False)
        line[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    (IMAGES / "patches.png").write_bytes(finish(figure, 110))


def main() -> None:
    """Both."""
    fourier()
    patches()


if __name__ == "__main__":
    main()
