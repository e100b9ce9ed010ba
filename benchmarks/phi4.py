"""Phi^4 fields at the critical point, learned by a wavelet cascade and by pixel models of equal training time.

    python benchmarks/phi4.py OUT                      # 32 x 32, ten CPU minutes of training a model
    python benchmarks/phi4.py OUT --sizes 16,32,64     # cut short, it goes on where it was
    python benchmarks/phi4.py OUT --show               # print what is there
    python benchmarks/phi4.py OUT --docs               # ... into benchmarks/results and the documents

E(x) = sum_i (x_i^4 - x_i^2) - beta sum_<ij> x_i x_j on a periodic square lattice, critical near beta = 0.68 (Guth et
al. 2022).  Fields are drawn by checkerboard Metropolis steps and Swendsen-Wang clusters of signs.  What is compared, of
samples against held-out fields: relative L2 error of the log of the radial power spectrum, Kolmogorov-Smirnov distances
of the laws of a site, of its absolute value and of the mean field, and the identity E[x dE/dx] = 1 of any correct set.
The law is even and fields have mostly one sign, so that the law of a site is known to one bit a field; that of its
absolute value is known better.  "floor" is as many other fields of the simulation.  Models: "cascade"
(wavelet_cascade, db4), "pixel" (vp, one variance known) and "fourier" (vp, the whole spectrum known).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import ks_2samp

BETA = 0.68
STEPS = (4, 8, 16, 64)
MODELS = ("cascade", "pixel", "fourier")
RULES = ("matched", "dpmpp2m")


# ---- the fields ------------------------------------------------------------------------------------------------------


def sweep(x: np.ndarray, beta: float, rng: np.random.Generator, width: float = 1.2) -> None:
    """One Metropolis step of every site of fields `(n, L, L)`, black sites and then white ones, in place."""
    rows, columns = np.indices(x.shape[1:])
    for color in (0, 1):
        sites = (rows + columns) % 2 == color
        pull = beta * neighbors(x)
        new = x + rng.uniform(-width, width, x.shape)
        change = (new**4 - new**2 - pull * new) - (x**4 - x**2 - pull * x)
        taken = sites & (np.log(rng.uniform(size=x.shape)) < -change)
        x[taken] = new[taken]


def neighbors(x: np.ndarray) -> np.ndarray:
    """Sum of the four neighbors of every site."""
    return sum(np.roll(x, shift, axis) for shift in (1, -1) for axis in (1, 2))  # type: ignore[return-value]


def clusters(x: np.ndarray, beta: float, rng: np.random.Generator) -> None:
    """Swendsen-Wang on the signs, in place: bonds of like signs with 1 - exp(-2 beta |x_i x_j|), a coin a cluster."""
    place = np.arange(x.size).reshape(x.shape)
    first, second = [], []
    for axis in (1, 2):
        other = np.roll(x, -1, axis)
        bound = rng.uniform(size=x.shape) < -np.expm1(-2 * beta * np.maximum(x * other, 0))
        first.append(place[bound])
        second.append(np.roll(place, -1, axis)[bound])
    i, j = np.concatenate(first), np.concatenate(second)
    graph = coo_matrix((np.ones(len(i), dtype=bool), (i, j)), shape=(x.size, x.size))
    count, label = connected_components(graph, directed=False)
    x *= rng.choice((-1.0, 1.0), size=count)[label].reshape(x.shape)


def fields(count: int, side: int, beta: float = BETA, seed: int = 0, sweeps: int = 300, every: int = 3) -> np.ndarray:
    """`count` independent fields `(count, side, side)`, one a chain, from a cold start of random sign."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, count, side]))
    x = rng.normal(0, 0.5, (count, side, side)) + rng.choice((-0.7, 0.7), (count, 1, 1))
    for i in range(sweeps):
        sweep(x, beta, rng)
        if i % every == 0:
            clusters(x, beta, rng)
    return x * rng.choice((-1.0, 1.0), (count, 1, 1))  # the law is even


# ---- what is measured of a set ---------------------------------------------------------------------------------------


def moments(x: np.ndarray, beta: float = BETA) -> dict[str, float]:
    """Moments of fields `(n, L, L)`: of a site, of neighbors, of the mean field, and the Schwinger-Dyson identity."""
    mean = x.mean((1, 2))
    return {
        "m2": float((x**2).mean()),
        "m4": float((x**4).mean()),
        "nn": float((x * neighbors(x)).mean() / 4),
        "M2": float((mean**2).mean()),
        "U4": float(1 - (mean**4).mean() / (3 * (mean**2).mean() ** 2)),
        "identity": float((4 * x**4 - 2 * x**2 - beta * x * neighbors(x)).mean()),
    }


def spectrum(x: np.ndarray) -> np.ndarray:
    """Mean power in rings of one frequency step, the mean field first."""
    side = x.shape[-1]
    power = (np.abs(np.fft.fft2(x, norm="ortho")) ** 2).mean(0)
    f = np.fft.fftfreq(side) * side
    ring = np.rint(np.hypot(f[:, None], f)).astype(int)
    keep = ring <= side // 2
    return np.bincount(ring[keep], power[keep]) / np.bincount(ring[keep])


def _distance(x: np.ndarray, y: np.ndarray, most: int = 400_000) -> float:
    """Kolmogorov-Smirnov distance of two sets of numbers, of at most `most` of each."""
    parts = [z.ravel()[:: max(1, z.size // most)] for z in (x, y)]
    return float(ks_2samp(*parts).statistic)  # type: ignore[attr-defined]


def errors(x: np.ndarray, truth: np.ndarray, beta: float = BETA) -> dict[str, float]:
    """Distances of a set of fields from a reference set."""
    own, known = np.log(spectrum(x)), np.log(spectrum(truth))
    return {
        "spectrum": float(np.linalg.norm(own - known) / math.sqrt(len(known))),
        "site": _distance(x, truth),
        "|site|": _distance(np.abs(x), np.abs(truth)),
        "mean field": _distance(x.mean((1, 2)), truth.mean((1, 2))),
        "identity": abs(moments(x, beta)["identity"] - 1),
    }


# ---- models ----------------------------------------------------------------------------------------------------------


def configuration(model: str, root: Path, side: int, steps: int, threads: int) -> dict[str, Any]:
    """What `retrodict fit` is given: `configs/phi4.yaml` with the process, network and size of a model."""
    import yaml

    record = yaml.safe_load((Path(__file__).resolve().parents[1] / "configs" / "phi4.yaml").read_text())
    record["name"] = f"phi4-{model}-{side}"
    record["data"] |= {"root": str(root), "patch": [side, side]}
    record["training"] |= {"steps": steps, "threads": threads}
    if model == "cascade":
        record["process"]["basis"]["options"]["levels"] = max(1, round(math.log2(side / 4)))
        return record
    record["process"] = {"name": "vp", "basis": {"name": model}}
    record["network"] = record["network"]["options"]["net"]
    record["network"]["options"]["multipliers"] = [1, 2, 2]
    record["bands"] = 0 if model == "pixel" else 4
    return record


def write_fields(x: np.ndarray, folder: Path) -> None:
    """A file for each field: each is a group by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, field in enumerate(x):
        np.savez(folder / f"field-{i:05d}.npz", image=field.astype(np.float32), spacing=[1.0, 1.0], unit="arbitrary")


def train(model: str, out: Path, side: int, seconds: float, threads: int) -> Path:
    """Fit a model for `seconds` of CPU time of steps, which are counted once and written down; returns its path."""
    from retrodict.tasks.fit import fit, prepare_fit
    from retrodict.tasks.fit_config import FitConfig

    folder = out / f"{model}-{side}"
    name = folder / f"phi4-{model}-{side}"
    if name.with_suffix(".json").exists():
        return name
    folder.mkdir(parents=True, exist_ok=True)
    stated = folder / "steps.json"
    root = out / f"fields-{side}"
    if not stated.exists():

        def spent(steps: int) -> float:
            """CPU seconds of a short training, which other work on the machine hardly changes."""
            short = FitConfig.model_validate(configuration(model, root, side, steps, threads))
            plan = prepare_fit(short, folder / f"timing-{steps}", out)
            begin = time.process_time()
            fit(plan, folder / f"timing-{steps}", tensorboard=False)
            return time.process_time() - begin

        one = (spent(24) - spent(4)) / 20
        stated.write_text(json.dumps({"steps": max(2, int(seconds / one)), "cpu_seconds_per_step": one}))
    steps = json.loads(stated.read_text())["steps"]
    plan = prepare_fit(FitConfig.model_validate(configuration(model, root, side, steps, threads)), folder, out)
    said = [time.perf_counter()]

    def watch(p: Any) -> None:
        if time.perf_counter() - said[0] > 20:
            said[0] = time.perf_counter()
            print(f"{model} {side}: step {p.step} of {p.steps}, loss {p.loss:.4f}, {p.left:.0f} s left", flush=True)

    fit(plan, folder, watch=watch, tensorboard=False)
    return name


def run(out: Path, sides: Sequence[int], seconds: float, count: int, samples: int, steps: Sequence[int], threads: int,
        models: Sequence[str] = MODELS, rules: Sequence[str] = RULES) -> None:  # fmt: skip
    """Fields, models and figures; what is there already is kept."""
    from retrodict.tasks.generate import generate

    out.mkdir(parents=True, exist_ok=True)
    result = out / "phi4.json"
    known: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    for side in sides:
        truth_file = out / f"truth-{side}.npy"
        if not truth_file.exists():
            print(f"{side}: {count} fields to train on, 2 x {samples} to compare with", flush=True)
            write_fields(fields(count, side, seed=1), out / f"fields-{side}" / "fields")
            both = fields(2 * samples, side, seed=2)
            np.save(truth_file, both)
        truth, other = np.split(np.load(truth_file), 2)
        as_many = other[:samples]
        known[f"{side} floor"] = {"side": side, "model": "floor", **errors(as_many, truth), **_named(moments(as_many))}
        known[f"{side} truth"] = {"side": side, "model": "truth", **_named(moments(truth))}
        for model in models:
            path = train(model, out, side, seconds, threads)
            for rule in rules:
                for n in steps:
                    label = f"{side} {model} {rule} {n}"
                    if label in known:
                        continue
                    begin = time.perf_counter()
                    made = generate(path, samples, seed=3, steps=n, rule=rule, batch=50, threads=threads)
                    x = made.images[:, 0].double().numpy()
                    spent = time.perf_counter() - begin
                    row = {"side": side, "model": model, "rule": rule, "steps": n, "full": made.record["full"]}
                    known[label] = {**row, "seconds": spent, **errors(x, truth), **_named(moments(x))}
                    result.write_text(json.dumps(known, indent=1))
                    print(f"{label}: {known[label]['spectrum']:.3f}", flush=True)
        result.write_text(json.dumps(known, indent=1))
    show(known)


def _named(found: dict[str, float]) -> dict[str, float]:
    return {f"<{name}>": value for name, value in found.items() if name != "identity"}


def show(known: dict[str, Any]) -> None:
    """Print the table."""
    print(table(known))


def documents(out: Path) -> None:
    """What is in OUT, into benchmarks/results and the page of cascades."""
    from tables import replace_block

    root = Path(__file__).resolve().parents[1]
    known = json.loads((out / "phi4.json").read_text())
    (root / "benchmarks" / "results" / "phi4.json").write_text(json.dumps(known, indent=1))
    replace_block(root / "docs" / "experiment-wavelet-cascade.md", "phi4", table(known))


def table(known: dict[str, Any]) -> str:
    """All rows in Markdown."""
    names = ("spectrum", "site", "|site|", "mean field", "identity", "<m2>", "<m4>", "<nn>", "<M2>", "<U4>")
    titles = " | ".join(n.replace("|", "&#124;") for n in names)
    lines = [f"| side | model | rule | steps | full-grid calls | {titles} |"]
    lines.append("|" + "---|" * (5 + len(names)))
    for row in known.values():
        head = [str(row["side"]), row["model"], row.get("rule", ""), str(row.get("steps", ""))]
        head.append(f"{row['full']:.3g}" if "full" in row else "")
        lines.append("| " + " | ".join([*head, *(f"{row[n]:.3f}" if n in row else "" for n in names)]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run or show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", default="32")
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds of training steps a model")
    parser.add_argument("--fields", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", default=",".join(map(str, STEPS)))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--docs", action="store_true", help="write what is there into the documents")
    a = parser.parse_args()
    if a.docs:
        return documents(a.out)
    if a.show:
        show(json.loads((a.out / "phi4.json").read_text()))
        return
    sides, steps = ([int(n) for n in text.split(",")] for text in (a.sizes, a.steps))
    run(
        a.out.resolve(),
        sides,
        a.seconds,
        a.fields,
        a.samples,
        steps,
        a.threads,
        a.models.split(","),
        a.rules.split(","),
    )


if __name__ == "__main__":
    main()
