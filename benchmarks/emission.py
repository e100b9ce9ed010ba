"""Emission tomography at several counts: posterior samples beside ML-EM, OS-EM, and two MAP estimates, by patient.

    python benchmarks/emission.py [--data ../shared/data] [--patients 4] [--members 8] [--counts 1e5 1e4]

The activity is the FDG PET of a patient (`petct_sts`, SUV, one axial slice through the middle of the tumor, its middle
24 x 24 pixels, 4 to 5.5 mm), taken as the truth; the acquisition is simulated: 32 views of 36 bins, attenuation by
water in a disk that holds the image, a fifth of the expected counts from randoms and scatter, and so many expected
counts in all.  Prior: a mixture of eight Gaussians in the Fourier basis, each a share of the slices of the 35 training
patients with as much activity (its mean a constant, its spectrum a mean over rings of frequency): no network, and what
a spectrum cannot say of an image it does not know.  `map_prior` is the mode of the Gaussian law of that prior and the
counts.  `counted` and `matched` have 8 calls.  TV: the maximum of the Poisson law with weights laid anew three times
and x >= 0; strength (of five) and iterations of ML-EM (of 2 to 40) and OS-EM (of 1 to 10) are the best of three
training patients at each count, so these are favored.

One row per count, method and patient goes to benchmarks/results/emission.json.  Error: root mean square over the root
mean square of the truth.  Coverage: of 90 % intervals of the means of 3 x 3 pixels.  Deviance: of the Poisson law per
datum, of every sample or of the point; "truth" is what it should be.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nn

import retrodict
from retrodict.bases import Fourier
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.metrics.calibration import central_factor
from retrodict.physics import GaussianNoise, Measurement, ParallelBeam, PoissonNoise, Radon, emission, even_angles
from retrodict.physics.classics import fista, ml_em, os_em
from retrodict.posterior import posterior_method
from retrodict.processes.scalar import vp

OUT = Path(__file__).resolve().parent / "results" / "emission.json"
SIDE, VIEWS, PARTS, SHARE, WATER = 24, 32, 8, 0.2, 0.0096
"""Pixels, views, Gaussians of the prior, share of randoms and scatter, attenuation in 1/mm at 511 keV."""
F64: dict[str, Any] = {"dtype": torch.float64}
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
EM, SUBSETS = (2, 5, 10, 20, 40), (1, 2, 3, 5, 10)
METHODS = ("truth", "ml_em", "os_em", "map_tv", "map_prior", "counted", "matched", "dps weighted")
STEPS = 8
COUNTED = ("counted", "matched", "dps weighted")


def slices(folder: Path, names: list[str], most: int) -> list[tuple[str, np.ndarray, float]]:
    """Slices `(K, SIDE, SIDE)` in SUV around the middle of the tumor of each patient, and its pixel in mm."""
    out = []
    for name in names:
        with np.load(folder / f"{name}.npz") as z:
            pet, mask, meta = z["pet_msuv"] / 1000.0, z["mask"], json.loads(str(z["meta_json"]))
        middle = round(np.average(np.arange(len(mask)), weights=mask.sum((1, 2)) + 1e-9) * len(pet) / len(mask))
        y, x = (n // 2 - SIDE // 2 for n in pet.shape[1:])
        half = most // 2
        rows = pet[max(0, middle - half) : middle - half + most, y : y + SIDE, x : x + SIDE]
        out.append((name, rows.astype(np.float64), float(meta["pet_spacing_mm"][1])))
    return out


def fitted(training: list[tuple[str, np.ndarray, float]], basis: Fourier) -> MixtureLaw:
    """Eight Gaussians of slices sorted by their total activity."""
    images = torch.from_numpy(np.concatenate([rows for _, rows, _ in training]))
    groups = images[images.mean((1, 2)).argsort()].chunk(PARTS)
    ring = (basis.radius() * SIDE).round().long()
    means, spectra = [], []
    for group in groups:
        flat = torch.full((SIDE, SIDE), float(group.mean()), **F64)
        power = basis.energy(basis.forward(group - flat)).mean(0)
        weight = basis.multiplicity().expand(power.shape)
        total = torch.zeros(int(ring.max()) + 1, **F64).index_add(0, ring.flatten(), (power * weight).flatten())
        count = torch.zeros_like(total).index_add(0, ring.flatten(), weight.flatten())
        means.append(basis.forward(flat))
        spectra.append((total / count)[ring] + 1e-9)
    weights = torch.tensor([len(g) for g in groups], **F64) / len(images)
    return MixtureLaw(basis, weights, torch.stack(means), torch.stack(spectra))


def measured(truth: torch.Tensor, pixel: float, counts: float, seed: int) -> Measurement:
    """Counts of one slice `(1, 1, SIDE, SIDE)`."""
    geometry = ParallelBeam(even_angles(VIEWS), 36, pixel)
    radon = Radon((SIDE, SIDE), geometry, spacing=(pixel, pixel), unit="SUV")
    axis = torch.arange(SIDE, **F64) - (SIDE - 1) / 2
    water = WATER * ((axis[:, None] ** 2 + axis[None] ** 2).sqrt() <= SIDE / 2).double()
    bare = emission(radon, attenuation=water).part.forward(truth)
    scale = counts * (1 - SHARE) / float(bare.sum())
    known = emission(radon, attenuation=water, sensitivity=scale, randoms=counts * SHARE / bare.numel())
    return Measurement.simulate(known, PoissonNoise(unit="counts"), truth, [seed])


def deviance(m: Measurement, x: torch.Tensor) -> float:
    """2 sum (y log(y/u) - y + u) per datum, mean over images; a mean below a millionth of a count is taken as one."""
    u = m.operator.forward(x).clamp_min(1e-6)
    return float((2 * (torch.special.xlogy(m.y, m.y / u) - m.y + u)).flatten(1).mean(1).mean())


def map_tv(m: Measurement, strength: float) -> torch.Tensor:
    """TV by weights 1/u of the last image, three times."""
    x = os_em(m, subsets=4, iterations=3).image
    for _ in range(3):
        u = m.operator.forward(x).clamp_min(0.1)
        part = Measurement(m.operator, m.y, GaussianNoise.per_pixel(u.sqrt(), unit="counts"))
        x = fista(part, strength=strength, nonnegative=True, iterations=40, tolerance=1e-3, inner=10, start=x).image
    return x


def error(x: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative root mean square."""
    return float((x - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def tuned(training: list[tuple[str, np.ndarray, float]], counts: float) -> dict[str, float]:
    """The best settings on three training patients."""
    cases = []
    for i, (_, rows, pixel) in enumerate(training[:: len(training) // 3][:3]):
        truth = torch.from_numpy(rows[len(rows) // 2])[None, None]
        cases.append((measured(truth, pixel, counts, 1000 + i), truth))

    def best(values: tuple[Any, ...], run: Any) -> Any:
        return min(values, key=lambda v: sum(error(run(m, v), truth) for m, truth in cases))

    return {
        "ml_em": best(EM, lambda m, v: ml_em(m, iterations=v).image),
        "os_em": best(SUBSETS, lambda m, v: os_em(m, subsets=8, iterations=v).image),
        "map_tv": best(STRENGTHS, map_tv),
    }


def run(
    label: str, m: Measurement, truth: torch.Tensor, law: MixtureLaw, best: dict[str, float], members: int
) -> dict[str, Any]:
    """One method on one patient."""
    started = time.process_time()
    prior = MixtureDenoiser(vp(law.basis), law)
    if label == "truth":
        return {"deviance": deviance(m, truth)}
    if label not in COUNTED:
        if label == "map_prior":
            method = posterior_method("counted", prior, m, rounds=0, probes=0)
            x = method.mode
        else:
            made = {"ml_em": ml_em, "os_em": os_em}.get(label)
            if label == "map_tv":
                x = map_tv(m, best[label])
            else:
                extra = {"subsets": 8} if label == "os_em" else {}
                x = made(m, iterations=int(best[label]), **extra).image
        row = {"error": error(x, truth), "deviance": deviance(m, x), "seconds": time.process_time() - started}
        return row if label == "map_prior" else {**row, "setting": best[label]}
    options: dict[str, Any] = {"method": label.split()[0], "steps": STEPS}
    if label == "dps weighted":
        options |= {"style": "paper", "form": "weighted", "steps": 200, "strength": 1e-2}
    try:
        found = retrodict.sample_posterior(prior, m, samples=members, uncalibrated=True, **options)
    except retrodict.InputError as fault:
        return {"failed": fault.found, "seconds": time.process_time() - started}
    x = found.samples[:, 0].double()
    more, sd = 1 + 1 / members, x.var(0).mean()
    regions = nn.avg_pool2d(x, 3)
    gap = regions.mean(0) - nn.avg_pool2d(truth[0], 3)
    inside = gap.abs() <= central_factor(0.9, members) * regions.std(0)
    return {
        "error": error(x.mean(0), truth[0]), "deviance": deviance(m, x), "chi2": float(found.misfit.mean()),
        "ssr2": float(sd * more / (x.mean(0) - truth[0]).square().mean()),
        "cover": float(inside.double().mean()), "calls": found.calls, "seconds": time.process_time() - started,
    }  # fmt: skip


def table(rows: list[dict[str, Any]], levels: list[float]) -> str:
    """Mean and deviation between patients, as Markdown."""
    keys = (("error", 3), ("cover", 2), ("ssr2", 2), ("deviance", 3), ("seconds", 1))
    head = ["counts", "method", "setting", "error", "90 % cover", "SSR²", "deviance", "CPU s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for counts in levels:
        for label in METHODS:
            group = [r for r in rows if r["counts"] == counts and r["method"] == label]
            if not group:
                continue
            cells = []
            for key, digits in keys:
                values = [r[key] for r in group if key in r]
                text = f"{np.mean(values):.{digits}f}" if values else "-"
                cells.append(f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text)
            if any("failed" in r for r in group):
                cells[0] = f"{sum('failed' in r for r in group)} diverge"
            setting = str(group[0].get("setting", group[0].get("calls", "-")))
            lines.append("| " + " | ".join([f"{counts:.0e}", f"`{label}`", setting, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--counts", type=float, nargs="*", default=[1e5, 1e4])
    parser.add_argument("--only", nargs="*", default=list(METHODS))
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = asked.data / "petct_sts"
    split = json.loads((folder / "split.json").read_text())
    training = slices(folder, split["train"], 24)
    law = fitted(training, Fourier((SIDE, SIDE), (1.0, 1.0)))
    held = slices(folder, split["validation"][: asked.patients], 1)
    rows = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
    for counts in asked.counts:
        best = {r["method"]: r["setting"] for r in rows if r["counts"] == counts and "setting" in r}
        best = best if len(best) == 3 else tuned(training, counts)
        print(f"{counts:.0e}: {best}", flush=True)
        for i, (name, image, pixel) in enumerate(held):
            truth = torch.from_numpy(image[:1])[None]
            m = measured(truth, pixel, counts, i)
            own = MixtureLaw(Fourier((SIDE, SIDE), (pixel, pixel)), law.weights, law.means, law.spectra)
            for label in asked.only:
                if any((r["counts"], r["method"], r["patient"]) == (counts, label, name) for r in rows):
                    continue
                row = {
                    "counts": counts,
                    "method": label,
                    "patient": name,
                    **run(label, m, truth, own, best, asked.members),
                }
                rows.append(row)
                asked.out.write_text(json.dumps({"command": "python benchmarks/emission.py", "rows": rows}, indent=1))
                print(name, label, {k: round(v, 3) for k, v in row.items() if isinstance(v, float)}, flush=True)
    print(table(rows, asked.counts))


if __name__ == "__main__":
    main()
