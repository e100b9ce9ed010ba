"""Where the error and the spread of `noisy_priors.py --problem mri` lie in k-space, and a picture of one patient.

    python benchmarks/noisy_mri_picture.py [--patient STS_039]      (after noisy_priors.py --problem mri)

Reads the members that were kept in runs/noisy_priors_mri.  Coefficients of an image are parted by what the mask tells
of them (k or -k was measured, or neither) and, where it tells nothing, by whether the wave is longer than four pixels;
of each part: its share of the square error, and square error over the variance of the members, (1 + 1/K) of it.  Writes
benchmarks/results/noisy_mri_parts.json, docs/images/noisy-mri.png and the table of the how-to.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from noisy_mri import LEGS, lines, mirrored
from noisy_only import METHODS, ROOT, shown
from noisy_priors import PAGE, PROBLEMS, RESULTS, SHOWN, stored
from retrodict._output import write_file
from retrodict.bases import Fourier
from tables import replace_block, table

OUT, PICTURE = RESULTS / "noisy_mri_parts.json", ROOT / "docs" / "images" / "noisy-mri.png"
PARTS = {"told": "told by the mask", "coarse": "not told, waves of 4 pixels and more", "fine": "not told, finer"}


def parts(mask: Tensor) -> dict[str, Tensor]:
    """Which coefficients of real images `(*K)` belong to a part, of a mask of k-space `(*N)`."""
    basis = Fourier(tuple(mask.shape), (1.0, 1.0))
    told = mirrored(mask)[:, : basis.shape[-1]]
    coarse = basis.radius() <= 0.25
    return {"told": told, "coarse": ~told & coarse, "fine": ~told & ~coarse}


def by_part(members: Tensor, x: Tensor, mask: Tensor) -> dict[str, tuple[float, float]]:
    """Of every part: its share of the square error of the mean of members `(K, *N)`, and error over variance."""
    basis = Fourier(tuple(mask.shape), (1.0, 1.0))
    weight = basis.multiplicity()
    error = weight * basis.energy(basis.forward(members.mean(0) - x))
    spread = weight * basis.energy(basis.forward(members - members.mean(0))).sum(0) / (len(members) - 1)
    spread = spread * (1 + 1 / len(members))
    return {
        name: (float(error[place].sum() / error.sum()), float(error[place].sum() / spread[place].sum()))
        for name, place in parts(mask).items()
    }


def read(folder: Path, method: str, patient: str) -> Tensor:
    """The members `(K, *N)` that were kept."""
    return torch.from_numpy(np.load(folder / f"{method}-{stored_steps()}" / f"{patient}.npy")).double()


def stored_steps() -> int:
    """Steps of the training that the results are of."""
    return stored(PROBLEMS["mri"], None)["setup"]["steps"]


def text(content: dict[str, Any]) -> str:
    """The table of all patients."""
    rows = []
    for method, found in content.items():
        for part, name in PARTS.items():
            share, ratio = ([each[part][i] for each in found.values()] for i in (0, 1))
            rows.append([SHOWN[method], name, shown(share), shown(ratio)])
    return table(["prior trained on", "coefficients", "share of the square error", "SSR²"], rows)


def drawn(panels: dict[str, tuple[Tensor, float, str]]) -> None:
    """Panels by title: values in units of fat, the largest that is shown, and colors."""
    figure = Figure(figsize=(13.2, 2.4), dpi=100, facecolor="white", layout="constrained")
    for axis, (title, (image, most, colors)) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        made = axis.imshow(image, cmap=colors, vmin=0, vmax=most, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
        if colors != "gray":
            figure.colorbar(made, ax=axis, fraction=0.045, pad=0.02).ax.tick_params(labelsize=7)
    figure.savefig(PICTURE)


def main() -> None:
    """The table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patient", default="STS_039")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "noisy_priors_mri")
    given = parser.parse_args()
    torch.set_num_threads(1)
    problem = PROBLEMS["mri"]
    objects = list(enumerate(problem.objects(problem.read("validation"), 8).items()))
    measured = [m for m in METHODS if any(r["method"] == m for r in stored(problem, None)["rows"])]
    content = {
        method: {
            name: by_part(read(given.runs, method, name), x[0, 0].double(), lines(tuple(x.shape[2:]), k))
            for k, (name, x) in objects
        }
        for method in measured
    }
    write_file(OUT, json.dumps(content, indent=1).encode())
    replace_block(PAGE, "noisy-mri-parts", text(content))
    number, x = next((k, x) for k, (name, x) in objects if name == given.patient)
    y, scale = problem.scan(x, number), LEGS.unit.scale
    clean, ours = (scale * read(given.runs, method, given.patient) for method in ("clean", "ours"))
    plain = {name: scale * problem.plain[name](y)[0, 0] for name in ("zero", "tv")}
    error = (ours.mean(0) - scale * x[0, 0]).abs()
    drawn({
        "truth": (scale * x[0, 0], 1.1, "gray"),
        "zero-filled": (plain["zero"], 1.1, "gray"),
        "total variation": (plain["tv"], 1.1, "gray"),
        "prior of clean images": (clean.mean(0), 1.1, "gray"),
        "prior of noisy images": (ours.mean(0), 1.1, "gray"),
        "its deviation": (ours.std(0), 0.2, "inferno"),
        "its |error|": (error, 0.2, "inferno"),
    })  # fmt: skip
    print(text(content))


if __name__ == "__main__":
    main()
