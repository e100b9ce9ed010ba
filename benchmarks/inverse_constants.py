"""What a method's constants are worth: every one a tenth of its default, the default, and ten times it.

    python benchmarks/inverse_constants.py [--members 64] [--docs]
    python benchmarks/inverse_constants.py --particles

Card B of benchmarks/inverse.py: power-law data on 8 x 8 pixels, a Gaussian blur of 2 mm, white noise 0.2, the exact
denoiser.  Figures: gain of the mean and variance over those of the exact posterior, 1 is right; point methods have no
variance.  "unit" is the constant that no method lists: the same images, data and noise in another unit (a tenth, ten
times), which changes nothing in the posterior but the unit.  Methods without a constant have the calls varied instead.

One row per constant goes to benchmarks/results/inverse-constants.json; `--docs` puts the table into docs/posterior.md.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch

from inverse import gaussian_card, judged
from retrodict._check import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.physics import Blur, GaussianNoise, Measurement, Space
from retrodict.physics.adapters import MatrixFree
from retrodict.posterior import posterior_method
from retrodict.posterior.card import dense_posterior, prior_matrix
from retrodict.processes.scalar import vp
from tables import replace_block

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "inverse-constants.json"
UNIT = "unit"
FACTORS = (0.1, 1.0, 10.0)
CONSTANTS: dict[str, tuple[str, dict[str, float]]] = {
    "matched": ("calibrated", {UNIT: 1.0, "calls": 16}),
    "fuse": ("calibrated", {UNIT: 1.0, "calls": 16}),
    "propagated": ("calibrated", {UNIT: 1.0, "calls": 20}),
    "pigdm": ("paper", {UNIT: 1.0, "calls": 100}),
    "diffpir": ("paper", {UNIT: 1.0, "strength": 1.0, "zeta": 0.1}),
    "dps": ("paper", {UNIT: 1.0, "strength": 1.0}),
    "red_diff": ("paper", {UNIT: 1.0, "weight": 0.25, "rate": 0.1}),
}
"""Style, and the constants with their defaults."""
PARTICLES, COUNTS, RUNS = (("tds", 20), ("afdps", 50), ("afdps", 200)), (25, 100, 400, 1600), 8
F: dict[str, Any] = {"dtype": torch.float64}


def figures(name: str, constant: str, value: float, members: int) -> dict[str, Any]:
    """Gain and variance of a method with one constant moved."""
    style = CONSTANTS[name][0]
    unit = value if constant == UNIT else 1.0
    basis = Fourier((8, 8), (1.0, 1.0))
    power = unit**2 / (0.02 + basis.radius() ** 2) / 30
    denoiser = GaussianDenoiser(vp(basis), torch.zeros_like(power), power)
    card = gaussian_card("B", denoiser, Blur.gaussian((8, 8), fwhm=2.0, spacing=(1.0, 1.0)), 0.2 * unit)
    options = {} if constant in (UNIT, "calls") else {constant: value}
    try:
        method = posterior_method(name, denoiser, card.measurement, style=style, **options)
        steps = max(1, round(value / method.calls)) if constant == "calls" else None
        count = 2 if method.kind == "point" else members
        with torch.no_grad():
            run = method.run(torch.arange(count), steps=steps, dtype=torch.float64)
    except InputError as error:
        return {"refused": str(error)}
    found = judged(card, run.x.flatten(1), {"calls": run.calls})
    if method.kind == "point":
        found.pop("variance", None)
    return found


def two_pixels() -> tuple[GaussianDenoiser, Measurement]:
    """Two unknowns and two data that mix them, noise of 1."""
    A = torch.tensor([[1, 0.4], [-0.2, 0.7]], **F)
    operator = MatrixFree(lambda x: x @ A.T.to(x), lambda y: y @ A.to(y), Space((1, 2)), Space((1, 2)))
    y = torch.tensor([[[0.8, -0.5]]], **F)
    prior = GaussianDenoiser(vp(Pixel((2,))), torch.zeros(2, **F), torch.full((2,), 0.25, **F))
    return prior, Measurement(operator, y, GaussianNoise.white(1.0))


def particles(name: str, steps: int, count: int) -> dict[str, Any]:
    """Root mean square error of mean and log p(y) over `RUNS` runs of `count` particles."""
    denoiser, m = two_pixels()
    method = posterior_method(name, denoiser, m)
    mean, covariance = prior_matrix(method)
    exact = dense_posterior(m, mean, covariance)
    A = m.operator.forward(torch.eye(2, **F)[:, None])[:, 0].T
    total = torch.distributions.MultivariateNormal(A @ mean, A @ covariance @ A.T + torch.eye(2, **F))
    log, off, evidence = float(total.log_prob(m.y[0, 0])), [], []
    for run in range(RUNS):
        with torch.no_grad():
            found = method.run(torch.arange(count) + run * 10_000, steps=steps, dtype=torch.float64)
        gap = found.x.flatten(1).mean(0) - exact.mean
        off.append(float(gap.square().sum() / exact.covariance.diagonal().sum()))
        assert found.log_evidence is not None
        evidence.append((found.log_evidence - log) ** 2)
    return {
        "method": name, "steps": steps, "particles": count,
        "mean": math.sqrt(sum(off) / RUNS), "evidence": math.sqrt(sum(evidence) / RUNS),
    }  # fmt: skip


def particle_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| method | steps | particles | error of the mean | of log p(y) |", "|---|---:|---:|---:|---:|"]
    return "\n".join(
        [
            *lines,
            *(
                f"| `{r['method']}` | {r['steps']} | {r['particles']} | {r['mean']:.3f} | {r['evidence']:.3f} |"
                for r in rows
            ),
        ]
    )


def cell(found: dict[str, Any]) -> str:
    """Gain and variance, or that there are none."""
    if "refused" in found:
        return "diverges" if "diverged" in found["refused"] or "NaN" in found["refused"] else "refused"
    numbers = [found[key] for key in ("gain", "variance") if key in found]
    return " / ".join(f"{v:.2f}" if abs(v) < 100 else f"{v:.0e}" for v in numbers)


def table(record: dict[str, Any]) -> str:
    """Markdown: a row for each constant, a column for each factor."""
    lines = ["| method | constant | default | a tenth | default | ten times |", "|---|---|---:|---|---|---|"]
    for row in record["rows"]:
        cells = [cell(found) for found in row["found"]]
        lines.append("| " + " | ".join([f"`{row['method']}`", row["constant"], f"{row['default']:g}", *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run every constant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--particles", action="store_true", help="the table of particles instead")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/posterior.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    docs = ROOT / "docs" / "posterior.md"
    if given.particles:
        rows = [particles(name, steps, count) for name, steps in PARTICLES for count in COUNTS]
        record = json.loads(OUT.read_text(encoding="utf-8")) | {"particles": rows}
        OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(particle_table(rows))
        return replace_block(docs, "particles", particle_table(rows))
    record: dict[str, Any] = {"command": "python benchmarks/inverse_constants.py --docs", "members": given.members}
    record["rows"] = []
    for name, (style, constants) in CONSTANTS.items():
        default = None
        for constant, value in constants.items():
            found = []
            for factor in FACTORS:
                if factor == 1.0 and default is not None:
                    found.append(default)
                    continue
                found.append(figures(name, constant, factor * value, given.members))
                default = found[-1] if factor == 1.0 else default
            row = {"method": name, "style": style, "constant": constant, "default": value, "found": found}
            record["rows"].append(row)
            print(name, constant, [cell(x) for x in found], flush=True)
            OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))
    if given.docs:
        replace_block(docs, "constants", table(record))


if __name__ == "__main__":
    main()
