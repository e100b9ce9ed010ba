"""The picture of the README: a shipped slice, measured and restored by the shipped model.

python benchmarks/picture.py        writes docs/images/restoration.png
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from matplotlib.figure import Figure

from retrodict.data import read
from retrodict.models.instrument import measure, model_with_instrument
from retrodict.models.model import open_model
from retrodict.models.range import at_spacing
from retrodict.tasks.restore import restore

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "restoration.png"
ASSETS = Path(str(resources.files("retrodict") / "assets"))
CURVES = {"mtf": ASSETS / "scanner-mtf.json", "nps": ASSETS / "scanner-nps.json"}
CROP = (slice(40, 290), slice(40, 345))
WINDOW = (-160, 240)


def main():
    """Restore chest-1 by one call and draw four panels."""
    model, truth = open_model("ct"), read(ASSETS / "chest-1.dcm")
    scanner, _ = model_with_instrument(at_spacing(model, truth.spacing[-2:]), **CURVES)
    measured = measure(truth, scanner)
    result = restore(measured, model=model, instant=True, samples=8, **CURVES)
    print(result.verdict.text)
    panels = [
        ("Measured", measured.values[0], WINDOW, "gray"),
        ("Posterior mean", result.mean.values[0], WINDOW, "gray"),
        ("Standard deviation", result.sd.values[0], (0, 40), "inferno"),
        ("Truth", truth.values[0], WINDOW, "gray"),
    ]
    figure = Figure(figsize=(13.2, 2.75), dpi=100, facecolor="white", layout="constrained")
    axes = figure.subplots(1, 4)
    for axis, (title, image, limits, colors) in zip(axes, panels, strict=True):
        shown = axis.imshow(image[CROP], cmap=colors, vmin=limits[0], vmax=limits[1], interpolation="nearest")
        axis.set_title(title, fontsize=11, color="#222", pad=5)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
        if title in ("Standard deviation", "Truth"):
            bar = figure.colorbar(shown, ax=axis, fraction=0.045, pad=0.02, aspect=22)
            bar.ax.tick_params(labelsize=8, color="#888", labelcolor="#444")
            bar.set_label("HU", fontsize=8, color="#444")
            bar.outline.set_visible(False)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT)
    print(OUT)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
