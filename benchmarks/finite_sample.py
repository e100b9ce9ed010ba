"""The finite-sample posterior: training images as the prior, whose posterior is a weight for each of them.

    python benchmarks/finite_sample.py [--images 800] [--items 4] [--members 48] [--calls 1 2 4 8 16 20] [--write]

Prior: patches of 32 x 32 pixels (averages of 2 x 2 pixels) from CT slices of training patients, each as likely, in
units of their deviation.  Measured through a Gaussian blur of 4 pixels FWHM with white noise such that the posterior
has eight images in the geometric mean over items (exponential of its entropy), the true one among them.  The denoiser
is exact, and so are the weights of the posterior.  (A finite set of images as test bed: arXiv 2605.30330.)

total variation  of the images that members are nearest to from the exact weights; exact members have one too
energy           energy distance of the members from the posterior, over the mean distance of two images of the set
mean, var        squared error of the mean over the posterior variance, and variance over it, both summed over items
stray            share of members that are on no image: further from the nearest than 5 % of the distance of two
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import patient_slices
from retrodict._check import InputError
from retrodict._random import member_seeds
from retrodict.bases import Fourier
from retrodict.denoisers.empirical import EmpiricalDenoiser
from retrodict.physics import Blur, GaussianNoise, Measurement
from retrodict.posterior import posterior_method
from retrodict.processes.observation import Moments
from retrodict.processes.scalar import vp
from tables import replace_block

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "finite-sample.json"
SIDE, EFFECTIVE, STRAY = 32, 8.0, 0.05
METHODS = {
    "fuse": ("fuse", None, 1, {}),
    "matched": ("matched", None, 1, {}),
    "propagated": ("propagated", None, 2, {}),
    "carried": ("carried", None, 1, {}),
    "MMPS": ("mmps", "paper", 1, {}),
    "DiffPIR": ("diffpir", "paper", 1, {}),
    "C-DPS": ("dps", "paper", 1, {}),
}
"""Name in `POSTERIORS`, style, calls of a step and options."""


def patches(count: int) -> Tensor:
    """Patches `(count, 1, 32, 32)` of the middle of training patients, mean 0 and variance 1 in all."""
    generator, out = torch.Generator().manual_seed(0), []
    found = patient_slices.slices("train")
    while len(out) < count:
        image = found[int(torch.randint(len(found), (1,), generator=generator))].image.values[0].double()
        row, column = patient_slices.body_corner(image, min(192, *image.shape))
        span = min(192, *image.shape) - 2 * SIDE + 1
        i, j = (int(torch.randint(span, (1,), generator=generator)) for _ in range(2))
        patch = image[row + i : row + i + 2 * SIDE, column + j : column + j + 2 * SIDE]
        patch = torch.nn.functional.avg_pool2d(patch.clamp(-1000, 1000)[None, None], 2)[0]
        if float(patch.std()) > 20:
            out.append(patch)
    images = torch.stack(out)
    return (images - images.mean()) / images.std()


def observed(m: Measurement, sigma: float, basis: Fourier) -> tuple[Tensor, Moments]:
    """A blurred image as coefficients and their moments."""
    form = m.operator.spectral()
    assert form is not None
    turned = form.gain.conj() / form.gain.abs().clamp_min(1e-30)
    h = form.gain.abs().double()
    return basis.forward(m.y) * turned, Moments(h, torch.zeros_like(h), torch.full_like(h, sigma**2))


def entropy(w: Tensor) -> Tensor:
    """Exponential of the entropy of weights `(B, M)`."""
    return (-(w * w.clamp_min(1e-300).log()).sum(1)).exp()


def measured(denoiser: EmpiricalDenoiser, items: int) -> tuple[list[Measurement], float, Tensor]:
    """Measurements of images of the set, the noise and the exact weights `(items, M)`."""
    basis, images = denoiser.process.basis, denoiser.images
    assert isinstance(basis, Fourier)
    blur = Blur.gaussian((SIDE, SIDE), fwhm=4.0, spacing=(1.0, 1.0))
    low, high, found, weights = 1e-2, 1e3, [], torch.zeros(0)
    for _ in range(25):
        sigma = math.sqrt(low * high)
        found = [Measurement.simulate(blur, GaussianNoise.white(sigma), images[i : i + 1], [i]) for i in range(items)]
        weights = torch.cat([denoiser.weights(*observed(m, sigma, basis)) for m in found])
        low, high = (sigma, high) if float(entropy(weights).log().mean()) < math.log(EFFECTIVE) else (low, sigma)
    return found, sigma, weights


def figures(x: Tensor, images: Tensor, w: Tensor, own: float, apart: float) -> list[float]:
    """Total variation, energy, squared error of the mean, variance, strays and exact variance of members `(K, n)`."""
    between = torch.cdist(x, images)
    near = between.argmin(1)
    counts = torch.bincount(near, minlength=len(images)).double() / len(x)
    exact = (w[:, None] * images).sum(0)
    variance = float((w * (images - exact).square().sum(1)).sum())
    inner = torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))
    energy = float(2 * (between @ w).mean() - inner) - own
    return [
        float((counts - w).abs().sum() / 2),
        energy / apart,
        float((x.mean(0) - exact).square().sum()),
        float(x.var(0).sum()),
        float((between.min(1).values > STRAY * apart).double().mean()),
        variance,
    ]


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Figures of every method and number of calls, means over items."""
    images = patches(given.images)
    denoiser = EmpiricalDenoiser(vp(Fourier((SIDE, SIDE), (1.0, 1.0))), images)
    found, sigma, weights = measured(denoiser, given.items)
    flat = images.flatten(1)
    distance = torch.cdist(flat, flat)
    aparts = [(float(w @ distance @ w), float(distance.mean())) for w in weights]
    effective = entropy(weights).tolist()
    record: dict[str, Any] = {
        "images": given.images, "items": given.items, "members": given.members, "sigma": sigma,
        "effective": effective, "rows": {},
    }  # fmt: skip
    print(f"noise {sigma:.3g}, images in the posterior {effective}", flush=True)
    draws = [torch.multinomial(w, given.members, True, generator=torch.Generator().manual_seed(0)) for w in weights]
    record["rows"]["exact"] = summary(
        [figures(flat[k], flat, w, *a) for k, w, a in zip(draws, weights, aparts, strict=True)]
    )
    for label, (name, style, each, options) in METHODS.items():
        for calls in given.calls if label in ("fuse", "matched", "carried") else [max(given.calls)]:
            started, rows = time.process_time(), []
            for item, m in enumerate(found):
                try:
                    method = posterior_method(name, denoiser, m, style=style, **options)
                    with torch.no_grad():
                        drawn = method.run(
                            member_seeds(0, item, given.members), steps=calls // each, dtype=torch.float64
                        )
                except InputError:
                    continue
                if bool(torch.isfinite(drawn.x).all()):
                    rows.append(figures(drawn.x.flatten(1), flat, weights[item], *aparts[item]))
            if not rows:
                print(f"{label}, {calls}: it diverged or is not defined", flush=True)
                continue
            record["rows"][f"{label}, {calls}"] = summary(rows)
            text = "  ".join(f"{k} {v:.3g}" for k, v in record["rows"][f"{label}, {calls}"].items())
            print(f"{label:12}{calls:3}  {text}  {time.process_time() - started:.0f} s", flush=True)
    return record


def summary(rows: list[list[float]]) -> dict[str, float]:
    """Means over items, and the standard error of the total variation."""
    table = torch.tensor(rows, dtype=torch.float64)
    names = ("variation", "energy", "mean", "var", "stray")
    error = float(table[:, 0].std() / math.sqrt(len(table))) if len(table) > 1 else 0.0
    means = table.mean(0)
    means[2:4] /= means[5].clone()  # a posterior of one image has no variance to divide by
    return {**dict(zip(names, means[:5].tolist(), strict=True)), "variation_error": error}


def table(record: dict[str, Any]) -> str:
    """The table of the documents."""
    lines = [
        "| method, calls of a member | total variation | energy | error of the mean | variance | on no image |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for label, f in record["rows"].items():
        name = "exact members" if label == "exact" else f"`{label.split(',')[0]}`, {label.split(', ')[1]}"
        name = name if name.split("`")[1:2] not in (["MMPS"], ["DiffPIR"], ["C-DPS"]) else name.replace("`", "")
        lines.append(
            f"| {name} | {f['variation']:.2f} ± {f['variation_error']:.2f} | {f['energy']:.3f} | {f['mean']:.3f} | "
            f"{f['var']:.2f} | {f['stray']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print a line for each method and number of calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--items", type=int, default=4)
    parser.add_argument("--members", type=int, default=48)
    parser.add_argument("--calls", nargs="+", type=int, default=[1, 2, 4, 8, 16, 20])
    parser.add_argument("--write", action="store_true", help="keep the figures and put the table into the documents")
    given = parser.parse_args()
    if not patient_slices.there():
        raise SystemExit(f"no CT collections at {patient_slices.DATA}: they are described in data.md beside them")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    record = run(given)
    if given.write:
        OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        replace_block(ROOT / "docs" / "experiment-levy.md", "finite-sample", table(record))


if __name__ == "__main__":
    main()
