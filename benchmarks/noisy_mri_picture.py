"""Where the error and the spread of `noisy_priors.py --problem mri` lie in k-space, and a picture of one patient.

    python benchmarks/noisy_mri_picture.py [--patient STS_039]      (after noisy_priors.py --problem mri)

Reads the members that were kept in runs/noisy_priors_mri.  Coefficients of an image are parted by what the mask tells
of them (k or -k was measured, or neither) and, where it tells nothing, by whether the wave is longer than four pixels.
Of each part: its share of the square error; square error over the variance of the members, (1 + 1/K) of it; power of
the members over that of the truth; and, to tell the network from the chain of its calls, square error over stated
variance of one call that sees the truth with white noise of 0.15 of fat.  Writes
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
from noisy_only import ROOT, shown
from noisy_priors import PAGE, PROBLEMS, RESULTS, SHOWN, prior_of, stored
from retrodict._output import write_file
from retrodict._random import key, white
from retrodict.bases import Fourier
from retrodict.denoisers.network import NetDenoiser
from retrodict.processes.clocks import at_rest
from tables import replace_block, table

NOISE, DRAWS = 0.15, 16
OUT, PICTURE = RESULTS / "noisy_mri_parts.json", ROOT / "docs" / "images" / "noisy-mri.png"
PARTS = {"told": "told by the mask", "coarse": "not told, waves of 4 pixels and more", "fine": "not told, finer"}


def parts(mask: Tensor) -> dict[str, Tensor]:
    """Which coefficients of real images `(*K)` belong to a part, of a mask of k-space `(*N)`."""
    basis = Fourier(tuple(mask.shape), (1.0, 1.0))
    told = mirrored(mask)[:, : basis.shape[-1]]
    coarse = basis.radius() <= 0.25
    return {"told": told, "coarse": ~told & coarse, "fine": ~told & ~coarse}


def by_part(members: Tensor, x: Tensor, mask: Tensor) -> dict[str, dict[str, float]]:
    """Of every part: its share of the square error of the mean of members `(K, *N)`, that error over their variance
    (SSR^2), and the power of the members over that of the truth x `(*N)`.
    """
    basis = Fourier(tuple(mask.shape), (1.0, 1.0))
    weight = basis.multiplicity()
    error, truth = (weight * basis.energy(basis.forward(z)) for z in (members.mean(0) - x, x))
    spread = weight * basis.energy(basis.forward(members - members.mean(0))).sum(0) / (len(members) - 1)
    spread, power = spread * (1 + 1 / len(members)), weight * basis.energy(basis.forward(members)).mean(0)
    out = {}
    for name, place in parts(mask).items():
        e, v, p, t = (float(z[place].sum()) for z in (error, spread, power, truth))
        out[name] = {"share": e / float(error.sum()), "ssr2": e / v, "power": p / t}
    return out


def fields(x: Tensor, seeds: Tensor, draw: int, count: int) -> Tensor:
    """Unit noise `(count, *x.shape)` of one draw from the spread of an image."""
    return torch.stack([white(seeds, "draw", DRAWS * k + draw, tuple(x.shape[1:])) for k in range(count)])


def one_call(prior: NetDenoiser, x: Tensor, mask: Tensor, number: int) -> dict[str, float]:
    """Of every part: square error over stated variance of one call, of an image `(1, 1, *N)` with white noise."""
    basis = Fourier(tuple(mask.shape), (1.0, 1.0))
    seeds, std, weight = torch.tensor([key(number, "one call")]), NOISE / LEGS.unit.scale, basis.multiplicity()
    seen = x + std * white(seeds, "noise", 0, tuple(x.shape[1:]))
    bound = prior.at(at_rest(basis, torch.full((1, 1, *basis.shape), std**2, dtype=torch.float64)))
    with torch.no_grad():
        said = bound.estimate(seen, torch.ones(1, dtype=torch.float64))
        assert said.spread is not None
        draws = torch.cat([said.spread.draw(fields(x, seeds, i, said.spread.fields)) for i in range(DRAWS)])
    error = weight * basis.energy(basis.forward((said.mean - x)[0, 0].double()))
    spread = weight * basis.energy(basis.forward(draws[:, 0].double())).mean(0)
    return {name: float(error[place].sum() / spread[place].sum()) for name, place in parts(mask).items()}


def text(content: dict[str, Any]) -> str:
    """The table of all patients."""
    rows = []
    for method, found in content.items():
        for part, name in PARTS.items():
            cells = [shown([each[part][k] for each in found.values()]) for k in ("share", "ssr2", "power", "call")]
            rows.append([SHOWN[method], name, *cells])
    head = ["prior trained on", "coefficients", "share of the square error", "SSR²", "power of members over the truth",
            "SSR² of one call"]  # fmt: skip
    return table(head, rows)


def read(folder: Path, patient: str) -> Tensor:
    """The members `(K, *N)` that were kept of a patient."""
    return torch.from_numpy(np.load(folder / f"{patient}.npy")).double()


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
    steps = stored(problem, None)["setup"]["steps"]
    folders = {method: given.runs / f"{method}-{steps}" for method in ("clean", "ours")}
    members = {m: {name: read(folders[m], name) for _, (name, _) in objects} for m in folders}
    content: dict[str, Any] = {}
    for method, folder in folders.items():
        prior = prior_of(problem, method, steps, folder)
        for k, (name, x) in objects:
            mask = lines(tuple(x.shape[2:]), k)
            found, calls = by_part(members[method][name], x[0, 0].double(), mask), one_call(prior, x, mask, k)
            content.setdefault(method, {})[name] = {p: {**each, "call": calls[p]} for p, each in found.items()}
    write_file(OUT, json.dumps(content, indent=1).encode())
    replace_block(PAGE, "noisy-mri-parts", text(content))
    number, x = next((k, x) for k, (name, x) in objects if name == given.patient)
    y, scale = problem.scan(x, number), LEGS.unit.scale
    clean, ours = (scale * members[method][given.patient] for method in folders)
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
