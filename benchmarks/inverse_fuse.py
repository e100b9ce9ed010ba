"""Fusion against every other method at equal calls, where process, operator and noise share the Fourier basis.

    python benchmarks/inverse_fuse.py [--calls 16] [--members 64] [--only fuse dps ...]

Three problems on 8 x 8 pixels of 1 mm: a Gaussian blur of 2 mm with white noise; super-resolution, of which the
coefficients below half the Nyquist frequency are seen with white noise (an ideal detector of twice the pixel); and
noise of a spectrum that grows with frequency, without blur.  Two laws of the data each: Gaussian of power-law spectrum,
and a mixture of two of them around images that differ.  Every denoiser is exact, every method has `calls` calls and
what it needs of gradients and solves beside.  Printed: error of the mean in deviations of the posterior (of K exact
members it is 1/sqrt(K)), variance over the exact one, and for the mixture the share of members in the second mode less
the exact one.  Written to benchmarks/results/inverse-fuse.json.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import Denoiser
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.physics import Blur, Covariance, GaussianNoise, Identity, Measurement
from retrodict.posterior import POSTERIORS, posterior_method
from retrodict.posterior.card import dense_posterior
from retrodict.posterior.fused import coefficients_of
from retrodict.processes.scalar import vp

OUT = Path(__file__).resolve().parent / "results" / "inverse-fuse.json"
F: dict[str, Any] = {"dtype": torch.float64}
SIZE = (8, 8)
LEFT_OUT = ("tds", "afdps", "red_diff", "flowchef", "pnp_dm")
"""Particles, points, and a method whose calls are those of inner runs."""


@dataclass
class Problem:
    """A measurement, the exact posterior, and how far a member has gone from the first mode (0) to the second (1)."""

    name: str
    denoiser: Denoiser
    measurement: Measurement
    mean: torch.Tensor
    trace: float
    axis: torch.Tensor
    share: float


def problems() -> list[Problem]:
    basis = Fourier(SIZE, (1.0, 1.0))
    radius = basis.radius()
    L = 1 / (0.02 + radius**2) / 60
    ideal = Blur.mtf(SIZE, (radius <= 0.25).double(), spacing=(1.0, 1.0))
    tasks = {
        "deblurring": (Blur.gaussian(SIZE, fwhm=2.0, spacing=(1.0, 1.0)), GaussianNoise.white(0.5)),
        "super-resolution": (ideal, GaussianNoise.white(0.6)),
        "coloured noise": (Identity(SIZE), GaussianNoise(Covariance(0.2 + 6 * radius**2, basis))),
    }
    out = []
    for task, (operator, noise) in tasks.items():
        for kind in ("Gaussian", "mixture"):
            out.append(problem(f"{task}, {kind}", basis, L, operator, noise, kind == "mixture"))
    return out


def problem(name: str, basis: Fourier, L: torch.Tensor, operator: Any, noise: Any, mixed: bool) -> Problem:
    """The measurement of an image between the modes, and its exact posterior."""
    ramp = torch.linspace(-1, 1, SIZE[0], **F)
    image = 0.5 * ramp[:, None] * ramp[None, :] + 0.25 * ramp[:, None] + 0.15
    second = basis.forward(image[None, None])[0, 0] * (1.0 if mixed else 0.0)
    law = MixtureLaw(basis, torch.tensor([0.5, 0.5], **F), torch.stack([0 * second, second]), torch.stack([L, L]))
    z = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1), **F)
    x = basis.inverse(0.5 * second + 0.5 * L.sqrt() * basis.forward(z))
    m = Measurement.simulate(operator, noise, x, [0])
    found = coefficients_of(m, basis)
    assert found is not None
    w = law.posterior(*found)[0][0]
    n = SIZE[0] * SIZE[1]
    units = torch.eye(n, **F).reshape(n, 1, *SIZE)
    covariance = basis.inverse(L * basis.forward(units)).reshape(n, n)
    parts = [dense_posterior(m, basis.inverse(mean[None, None]).flatten(), covariance) for mean in law.means]
    mean = sum((w[k] * parts[k].mean for k in range(2)), torch.zeros(n, **F))
    gap = parts[1].mean - parts[0].mean
    trace = float(parts[0].covariance.trace() + w[0] * w[1] * (gap @ gap))
    axis = image.flatten() / (image.flatten() @ image.flatten())
    return Problem(name, MixtureDenoiser(vp(basis), law), m, mean, trace, axis, float(w[1]) if mixed else 0.0)


def measured(task: Problem, name: str, style: str, calls: int, members: int) -> dict[str, Any]:
    """Figures of a method with `calls` calls."""
    options = {"inner": 2} if (name, style) == ("daps", "paper") else {}
    try:
        method = posterior_method(name, task.denoiser, task.measurement, style=style, **options)
        started = time.process_time()
        with torch.no_grad():
            run = method.run(torch.arange(members), steps=calls // method.calls, dtype=torch.float64)
    except InputError as error:
        return {"refused": str(error)}
    x = run.x.flatten(1)
    if not bool(torch.isfinite(x).all()):
        return {"refused": "it diverged", "calls": run.calls}
    found = {
        "calls": run.calls,
        "gradients": run.gradients,
        "seconds": round(time.process_time() - started, 2),
        "bias": float((x.mean(0) - task.mean).norm()) / task.trace**0.5,
        "variance": float(x.var(0).sum()) / task.trace,
    }
    if task.share:
        found["share"] = float(((x @ task.axis) > 0.5).double().mean())
        found["exact_share"] = task.share
    return found


def shown(found: dict[str, Any]) -> str:
    if "refused" in found:
        return "-"
    off = f" / {found['share'] - found['exact_share']:+.2f}" if "share" in found else ""
    return f"{found['bias']:.2f} / {found['variance']:.2f}{off}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=16)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--only", nargs="*", choices=sorted(POSTERIORS))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    tasks, record = problems(), {}
    print("exact shares:", *(f"{t.share:.2f}" for t in tasks if t.share))
    print("| method | style | " + " | ".join(t.name for t in tasks) + " |", flush=True)
    for name, row in POSTERIORS.items():
        if name in LEFT_OUT or (args.only and name not in args.only):
            continue
        for style in row.styles():
            if style == "calibrated" and name in ("dds", "diffpir"):  # they are "matched"
                continue
            found = {t.name: measured(t, name, style, args.calls, args.members) for t in tasks}
            record[f"{name} {style}"] = {"members": args.members, **found}
            print(f"| `{name}` | {style} | " + " | ".join(shown(found[t.name]) for t in tasks) + " |", flush=True)
            args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
