"""Structure-modulated noise (SAM-DiffSR), small: what it does to the error of a denoiser, region by region.

    python benchmarks/structure_noise.py [--steps N] [--seeds 3]

The same small network, steps and patches of training patients with plain noise, with the published code and amplitude
(mean over the image), with that mean over the region, and with random signs of amplitude 1 - t; superpixels of the
clean image are the regions.  Validation patients: error of D on 32 x 32 patches at three noise levels, plain noise,
over that of plain training (paired), everywhere, on pixels at an edge between regions, and for the worst region.
Mean and scatter between patients (over the mean of the seeds), and between seeds (over the mean of the patients).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from general_operator import SIDE, patches
from patient_slices import there
from retrodict._random import key
from retrodict.bases import Cosine
from retrodict.bases.spectrum import radial_spectrum
from retrodict.denoisers.network import NetDenoiser
from retrodict.nets import UNet
from retrodict.processes.scalar import cosine
from retrodict.training.loop import TrainingOptions, train
from retrodict.training.losses import Example, denoising_loss, simulate
from retrodict.training.structure import Structure, regions

OUT = Path(__file__).parent / "results" / "structure_noise.json"
KINDS: dict[str, Any] = {
    "plain": denoising_loss,
    "published": Structure("spe_area", "published", standardize=False),
    "mean over region": Structure("spe_mean", "published"),
    "random sign": Structure("sign", 1.0),
}
TIMES, COUNT = (0.1, 0.3, 0.6), 36


def encoded(hu: Tensor) -> Tensor:
    """Patches `(k, 1, SIDE, SIDE)` with a window of -1000 to 1000 HU as -1 to 1."""
    return (hu.clamp(-1000, 1000) / 1000).float().reshape(-1, 1, SIDE, SIDE)


def edges(labels: Tensor) -> Tensor:
    """Pixels with a neighbor of another region, `(B, N, N)`."""
    out = torch.zeros_like(labels, dtype=torch.bool)
    for axis in (1, 2):
        differ = labels.narrow(axis, 1, SIDE - 1) != labels.narrow(axis, 0, SIDE - 1)
        out.narrow(axis, 1, SIDE - 1).logical_or_(differ)
        out.narrow(axis, 0, SIDE - 1).logical_or_(differ)
    return out


def trained(kind: str, seed: int, steps: int, x: Tensor, labels: Tensor) -> NetDenoiser:
    """A network trained on patches `(n, 1, N, N)`; weights, batches and noise of a seed are the same for every kind."""
    torch.manual_seed(key(seed, "weights") % 2**31)
    net = UNet(in_channels=2, out_channels=1, width=12, multipliers=(1, 2), blocks=1, level_features=1, padding="zeros")
    spectrum = radial_spectrum(list(x[:, 0]), (1.0, 1.0), bins=12)
    denoiser = NetDenoiser(net, cosine(Cosine((SIDE, SIDE)), end=0.995), spectrum=spectrum)

    def batch(keys: list[int]) -> Example:
        index = torch.tensor([key(k, "patch") % len(x) for k in keys])
        return Example(x[index], labels=labels[index])

    options = TrainingOptions(steps=steps, batch=8, learning_rate=2e-3, warmup=20, ema=0.98, seed=seed,
                              checkpoint_every=steps)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        net.load_state_dict(train(denoiser, batch, options, Path(folder), objective=KINDS[kind]))
    return denoiser


def errors(denoiser: NetDenoiser, x: Tensor, labels: Tensor, number: int) -> dict[str, float]:
    """Mean squared errors of the patches of a patient over the noise levels."""
    edge, out = edges(labels), {"everywhere": 0.0, "edges": 0.0, "worst region": 0.0}
    for i, t in enumerate(TIMES):
        seeds = torch.tensor([key(number, "patch", 10 * i + j) for j in range(len(x))])
        times = torch.full((len(x),), t, dtype=torch.float64)
        xt, _ = simulate(denoiser.process, x, times, seeds)
        with torch.no_grad():
            squared = (denoiser(xt, times) - x)[:, 0].square()
        worst = [max(float(e[m == k].mean()) for k in m.unique()) for e, m in zip(squared, labels, strict=True)]
        out["everywhere"] += float(squared.mean())
        out["edges"] += float(squared[edge].mean())
        out["worst region"] += sum(worst) / len(worst)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    assert there(), "the CT sets are not beside the repository (../shared/data)"
    started = time.process_time()
    x = encoded(torch.cat(list(patches("train", 60).values())))
    labels = torch.stack([regions(one, COUNT) for one in x])
    held = {name: encoded(four) for name, four in patches("validation", 40).items()}
    masks = {name: torch.stack([regions(one, COUNT) for one in four]) for name, four in held.items()}
    rows: dict[str, list[list[dict[str, float]]]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        for seed in range(options.seeds):
            denoiser = trained(kind, seed, options.steps, x, labels)
            rows[kind].append([errors(denoiser, held[p], masks[p], i) for i, p in enumerate(held)])
            print(f"  {kind}, seed {seed} ({time.process_time() - started:.0f} s)", flush=True)
    table = Table(title=f"Squared error over plain training, {len(held)} patients, {options.seeds} seeds: "
                        "mean ± SD between patients (± between seeds)")  # fmt: skip
    for name in ("noise in training", "everywhere", "edges", "worst region"):
        table.add_column(name, justify="left" if name == "noise in training" else "right")
    for kind in list(KINDS)[1:]:
        cells = []
        for part in ("everywhere", "edges", "worst region"):
            own, plain = (torch.tensor([[r[part] for r in seed] for seed in rows[k]]) for k in (kind, "plain"))
            ratio = own / plain
            between = float(ratio.mean(1).std()) if options.seeds > 1 else float("nan")
            cells.append(f"{float(ratio.mean()):.3f} ± {float(ratio.mean(0).std()):.3f} (± {between:.3f})")
        table.add_row(kind, *cells)
    Console(width=120).print(table)
    OUT.write_text(json.dumps({"steps": options.steps, "patients": list(held), "rows": rows}, indent=1))
    print(f"wrote {OUT.name} ({time.process_time() - started:.0f} s)")


if __name__ == "__main__":
    main()
