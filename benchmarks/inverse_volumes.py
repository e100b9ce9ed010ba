"""Volumes by a prior of slices: coupled slices, slices one by one and DiffusionMBIR, few views and a limited angle.

    python benchmarks/inverse_volumes.py [--data ../shared/data] [--patients 4] [--members 8] [--only coupled ...]
    python benchmarks/inverse_volumes.py --network --patients 3 --members 3 --only coupled apart \\
        --cases "8 views" "2 views" "limited angle"
    python benchmarks/inverse_volumes.py --docs

gaussian   8 slices of 32 x 32 pixels drawn from N(0, K x C), with neighbors correlated by 0.8: the priors are exact.
ct         8 slices, 3.27 mm apart, of the CT of a validation patient (`petct_sts`, thigh to shoulder, 1.95 mm), the
           middle 32 x 32 pixels as they are: 8 views, 2 views, 12 views over 90 degrees.
unlike     8 views of the FDG PET of the same patients, scaled to the mean and deviation of the prior.

The prior of slices is Gaussian: mean and rings of the spectrum of the 35 training patients (u = HU/1000); the
correlation of neighbors is the most likely one of the same patients, K = rho^|z - z'|.  `--network`: the shipped model
`ct`, which is told that the pixels have 1.465 mm, since it knows no larger ones: patients three quarters as large.
Parallel beams, line integrals with white noise of 1 % of their root mean square.

`coupled`  `matched` with `Coupled(prior, K)`;  `apart`  the same with K = 1, which is slices one by one;
`mbir`  DiffusionMBIR, 200 steps, its strength and coupling;  `mbir, no TV`  the same with strength 0.  Both on the
process of their paper, noise that grows geometrically from 0.01 to 10.

One row per case, prior, method and patient goes to benchmarks/results/inverse-volumes.json as soon as it is done, and
what is there is not done again.  Error: root mean square of the mean over members, less the truth, over the deviation
of the truth.  SSR^2 and coverage (90 % intervals of the means of 4 x 4 x 2 voxels): 1 and 0.9 of a right ensemble.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nn

import retrodict
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser
from retrodict.metrics.calibration import central_factor
from retrodict.models.model import open_model
from retrodict.models.prior import prior_of
from retrodict.physics import GaussianNoise, Measurement, ParallelBeam, Radon, even_angles
from retrodict.physics.algebra import Affine
from retrodict.processes.process import Process
from retrodict.processes.scalar import edm, ve
from tables import replace_block

OUT = Path(__file__).resolve().parent / "results" / "inverse-volumes.json"
SIDE, DEPTH, PIXEL, KNOWN, SCALE, NOISE = 32, 8, 1.953124, 1.465, 1000.0, 0.01
F64: dict[str, Any] = {"dtype": torch.float64}
VIEWS = {"8 views": (8, math.pi), "2 views": (2, math.pi), "limited angle": (12, math.pi / 2)}
CASES = ("gaussian", *VIEWS, "unlike")
METHODS = ("coupled", "apart", "mbir", "mbir, no TV")
RHO = 0.8
"""Correlation of neighbors in the case "gaussian"."""


def stacks(folder: Path, names: list[str], key: str = "ct_hu") -> list[tuple[str, torch.Tensor]]:
    """The middle of every stack, `(DEPTH, SIDE, SIDE)` in u."""
    out = []
    for name in names:
        with np.load(folder / f"{name}.npz") as z:
            volume = z[key].astype(np.float64)
        start = [(n - m) // 2 for n, m in zip(volume.shape, (DEPTH, SIDE, SIDE), strict=True)]
        part = volume[tuple(slice(s, s + m) for s, m in zip(start, (DEPTH, SIDE, SIDE), strict=True))]
        if part.shape == (DEPTH, SIDE, SIDE):
            out.append((name, torch.from_numpy(part) / SCALE))
    return out


def law_of(training: list[tuple[str, torch.Tensor]], basis: Fourier) -> tuple[float, torch.Tensor, float]:
    """Mean, spectrum by rings of frequency, and the most likely correlation of neighbors rho of N(m, K x C)."""
    volumes = torch.stack([x for _, x in training])
    mean = float(volumes.mean())
    u = basis.forward(volumes - mean)
    ring, weight = (basis.radius() * SIDE * PIXEL).round().long(), basis.multiplicity().expand(basis.shape)
    power = basis.energy(u).mean((0, 1))
    total, count = (
        torch.zeros(int(ring.max()) + 1, **F64).index_add(0, ring.flatten(), x.flatten()) for x in (power, weight)
    )
    spectrum = (total / count)[ring] + 1e-9
    near = (weight * (u[:, 1:] * u[:, :-1].conj()).real / spectrum).sum()
    both = (weight * (u[:, 1:].abs() ** 2 + u[:, :-1].abs() ** 2) / spectrum).sum() / 2
    return mean, spectrum, float(near / both)


def measured(truth: torch.Tensor, case: str, pixel: float, seed: int) -> Measurement:
    """Line integrals of a volume `(1, Z, H, W)` in u mm, with white noise."""
    views, span = VIEWS.get(case, VIEWS["8 views"])
    bins = math.ceil(SIDE * math.sqrt(2)) + 1
    beam = ParallelBeam(even_angles(views, span), bins, pixel)
    operator = Radon((SIDE, SIDE), beam, spacing=(pixel, pixel), channels=DEPTH, unit="1")
    sigma = NOISE * float(operator.forward(truth + 1).square().mean().sqrt())  # of u + 1, which is 0 in air
    noise = GaussianNoise.white(sigma, unit=operator.range.unit)
    return Measurement.simulate(operator, noise, truth.float(), [seed])  # single precision, as real data


def neighbors(rho: float) -> torch.Tensor:
    """K = rho^|z - z'|."""
    return retrodict.correlation(DEPTH, -1 / math.log(rho), 1.0)


class Case:
    """Truth `(1, Z, H, W)` in u, its measurement, the prior of slices on any scalar process, and rho."""

    def __init__(self, truth: torch.Tensor, m: Measurement, law: tuple[float, torch.Tensor], rho: float) -> None:
        self.truth, self.m, self.rho, self.law = truth, m, rho, law
        self.fold: Affine | None = None

    def prior(self, process: Any) -> Denoiser:
        """The Gaussian of the training patients."""
        basis = Fourier((SIDE, SIDE), self.m.operator.domain.spacing)
        middle = basis.forward(torch.full((SIDE, SIDE), self.law[0], **F64))
        return GaussianDenoiser(process(basis), middle, self.law[1])

    def back(self, x: torch.Tensor) -> torch.Tensor:
        """From the unit of the prior to u."""
        return x


class NetworkCase(Case):
    """The same with the shipped network, in whose unit scale and offset of the operator are folded."""

    model = open_model("ct")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        about = self.model.intensity
        a, b = about.scale / SCALE, about.offset / SCALE
        self.m = replace(self.m, operator=Affine.rescaled(self.m.operator, a, b, "u"))
        self.a, self.b = a, b

    def prior(self, process: Any) -> Denoiser:
        found = prior_of(self.model, (SIDE, SIDE), self.m.operator.domain.spacing)
        return found if process is start else found.at(process(found.process.basis))

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return self.a * x + self.b


def start(basis: Fourier) -> Process:
    """Plain noise up to twice the deviation of the images."""
    return edm(basis, 2.0)


def published(basis: Fourier) -> Process:
    """That of DiffusionMBIR, in a range that serves images of order 1."""
    return ve(basis, 0.01, 10.0)


def run(case: Case, label: str, members: int, steps: int) -> dict[str, Any]:
    """One method on one volume."""
    started = time.process_time()
    if label in ("coupled", "apart"):
        K = neighbors(case.rho) if label == "coupled" else torch.eye(DEPTH, **F64)
        prior: Denoiser = retrodict.Coupled(case.prior(start), K)
        options: dict[str, Any] = {"method": "matched", "steps": 16 if isinstance(case, NetworkCase) else 2}
    else:
        options = {"method": "mbir", "steps": steps} | ({} if label == "mbir" else {"strength": 0.0})
        prior = case.prior(published)
    try:
        found = retrodict.sample_posterior(prior, case.m, samples=members, uncalibrated=True, **options)
    except retrodict.InputError as fault:
        return {"failed": fault.found, "seconds": time.process_time() - started}
    x, truth = case.back(found.samples[:, 0].double()), case.truth[0].double()
    more, gap = 1 + 1 / members, (x.mean(0) - truth).square().mean()
    blocks = nn.avg_pool3d(x[:, None], (2, 4, 4))[:, 0]
    inside = (blocks.mean(0) - nn.avg_pool3d(truth[None, None], (2, 4, 4))[0, 0]).abs()
    reach = central_factor(0.9, members) * blocks.std(0)
    return {
        "error": float((gap / (truth - truth.mean()).square().mean()).sqrt()),
        "ssr2": float(x.var(0).mean() * more / gap), "cover": float((inside <= reach).double().mean()),
        "misfit": float(found.misfit.mean()), "calls": found.calls, "members": members, "kind": found.kind,
        "seconds": (time.process_time() - started) / members,
    }  # fmt: skip


def cases(asked: argparse.Namespace) -> Any:
    """Patient, name and `Case` of everything that was asked for."""
    folder = asked.data / "petct_sts"
    split = json.loads((folder / "split.json").read_text())
    basis = Fourier((SIDE, SIDE), (PIXEL, PIXEL))
    mean, spectrum, rho = law_of(stacks(folder, split["train"]), basis)
    print(f"training patients: mean {SCALE * mean:.0f} HU, correlation of neighbors {rho:.3f}", flush=True)
    names = split["validation"][: asked.patients]
    pixel = KNOWN if asked.network else PIXEL
    kind = NetworkCase if asked.network else Case
    pets = dict(stacks_of_pet(folder, names, mean, spectrum, basis)) if "unlike" in asked.cases else {}
    for i, (name, volume) in enumerate(stacks(folder, names)):
        for case in asked.cases:
            if case == "gaussian":
                if asked.network:
                    continue
                z = torch.randn(DEPTH, SIDE, SIDE, generator=torch.Generator().manual_seed(i), **F64)
                white = basis.inverse(spectrum.sqrt() * basis.forward(z))
                root = torch.linalg.cholesky(neighbors(RHO))
                truth, own = mean + torch.einsum("ij,jyx->iyx", root, white)[None], RHO
            else:
                truth, own = (pets[name] if case == "unlike" else volume)[None], rho
            yield name, case, kind(truth, measured(truth, case, pixel, i), (mean, spectrum), own)


def stacks_of_pet(folder: Path, names: list[str], mean: float, spectrum: torch.Tensor, basis: Fourier) -> Any:
    """The PET of each patient as if it were CT: mean and deviation of the prior, 32 x 32 pixels by interpolation."""
    weight = basis.multiplicity().expand(basis.shape)
    deviation = math.sqrt(float((spectrum * weight).sum() / weight.sum()))
    for name in names:
        with np.load(folder / f"{name}.npz") as z:
            pet = torch.from_numpy(z["pet_msuv"].astype(np.float64))
        first = (len(pet) - DEPTH) // 2
        part = nn.interpolate(pet[first : first + DEPTH, None], (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0]
        yield name, mean + deviation * (part - part.mean()) / part.std()


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and deviation between patients, as Markdown."""
    lines = [
        "| prior | case | method | calls | error | SSR² | 90 % cover | chi² / m | CPU s a volume |",
        "|" + "---|" * 9,
    ]
    for prior in ("Gaussian", "`ct`"):
        for case in CASES:
            for label in METHODS:
                group = [r for r in rows if (r["prior"], r["case"], r["method"]) == (prior, case, label)]
                if not group:
                    continue
                cells = []
                for key, digits in (("error", 3), ("ssr2", 2), ("cover", 2), ("misfit", 2), ("seconds", 1)):
                    values = [r[key] for r in group if key in r]
                    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 and key != "seconds" else ""
                    cells.append(f"{np.mean(values):.{digits}f}{spread}" if values else "diverges")
                calls = str(group[0].get("calls", "-"))
                lines.append("| " + " | ".join([prior, case, f"`{label}`", calls, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200, help="of DiffusionMBIR, two calls each")
    parser.add_argument("--network", action="store_true", help="the shipped model as prior")
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--docs", action="store_true", help="write the table of what is in the JSON, and run nothing")
    asked = parser.parse_args()
    if asked.docs:
        found = json.loads(asked.out.read_text())["rows"]
        return replace_block(Path(__file__).resolve().parents[1] / "docs" / "posterior.md", "volumes", table(found))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prior = "`ct`" if asked.network else "Gaussian"
    rows = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
    for name, case, given in cases(asked):
        for label in asked.only:
            here = {"prior": prior, "case": case, "method": label, "patient": name}
            if any(all(r[k] == v for k, v in here.items()) for r in rows):
                continue
            row = here | run(given, label, asked.members, asked.steps)
            rows.append(row)
            asked.out.write_text(
                json.dumps({"command": "python benchmarks/inverse_volumes.py", "rows": rows}, indent=1)
            )
            print(name, case, label, {k: round(v, 3) for k, v in row.items() if isinstance(v, float)}, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
