"""Multiplicative noise on positive images: published samplers, speckle with an uncertainty, and generation.

    python benchmarks/multiplicative.py [--steps N]

golden      both samplers of the publication on log-normal data, 400 steps, 200,000 samples
speckle     patches of validation patients under log-normal speckle of mean 1: raw, geometric mean exp(E[log x | y]) and
            arithmetic mean E[x | y] with its deviation, in relative attenuation; SSR^2 is squared error over variance.
            The same under gamma speckle of as many looks, whose logarithm is not Gaussian
generation  a small network trained on the logarithm of synthetic positive images; pictures and positivity
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from general_operator import mean_sd
from patient_slices import body_corner, slices, there
from retrodict._random import key, white
from retrodict.bases import Cosine, Fourier
from retrodict.bases.spectrum import radial_spectrum
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.nets import UNet
from retrodict.processes.multiplicative import FORMS, GeometricBrownian, LogDomain, geometric
from retrodict.samplers import make_plan, sample, start_state
from retrodict.samplers.ensemble import SamplingOptions, restore_batch
from retrodict.samplers.multiplicative import multiplicative_sample
from retrodict.samplers.plan import make_grid
from retrodict.training.loop import TrainingOptions, train

OUT = Path(__file__).parent / "results" / "multiplicative.json"
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "multiplicative.png"
SIDE, SIGMA, SMALL = 64, 0.25, 16
AIR, FLOOR = -1024.0, -900.0  # attenuation over that of water is (HU - AIR) / 1024; darker pixels are raised to FLOOR


def golden(console: Console) -> dict[str, list[float]]:
    """Log mean and variance of both samplers; the data have 0.3 and 0.2."""
    law, found, count = GeometricBrownian(0.1, 1.0), {}, 200_000
    start = 0.3 + law.shift(1.0) + 1.2**0.5 * white([0], "start", 0, (count,)).double()

    def score(x: Tensor, t: float) -> Tensor:
        return -(x.log() - 0.3 - law.shift(t)) / (0.2 + law.variance(t)) - 1

    for form in FORMS:
        times = torch.linspace(1, 0, 401).double()
        u = multiplicative_sample(law, score, start.exp(), times, seeds=torch.tensor([1]), form=form).log()
        found[form] = [float(u.mean()), float(u.var())]
        console.print(f"sampler '{form}': log mean {found[form][0]:.4f}, variance {found[form][1]:.4f} (0.3, 0.2)")
    return found


# ---- speckle ---------------------------------------------------------------------------------------------------------


def crops(split: str, most: int) -> dict[str, Tensor]:
    """One patch `(1, SIDE, SIDE)` of the body of each patient, in HU."""
    out: dict[str, Tensor] = {}
    for item in slices(split):
        values = item.image.values.reshape(-1, *item.image.values.shape[-2:])[0]
        if item.patient not in out and len(out) < most and min(values.shape) >= SIDE:
            y, x = body_corner(values, SIDE)
            out[item.patient] = values[None, y : y + SIDE, x : x + SIDE].double().clamp(FLOOR, 1500)
    return out


def speckle(number: int, kind: str) -> Tensor:
    """Factors of mean 1 and log variance about SIGMA^2, `(1, SIDE, SIDE)`."""
    if kind == "log-normal":
        z = white([key(0, "speckle", number)], "measurement", 0, (1, SIDE, SIDE))[0].double()
        return (-0.5 * SIGMA**2 + SIGMA * z).exp()
    looks = round(1 / SIGMA**2)  # gamma of that many looks: a sum of exponentials, -log of uniforms from normals
    z = white([key(0, "looks", number)], "measurement", 0, (looks, SIDE, SIDE))[0].double()
    return -torch.special.ndtr(z).log().mean(0, keepdim=True)


def restored(denoiser: GaussianDenoiser, patients: dict[str, Tensor], kind: str) -> dict[str, dict[str, list[float]]]:
    clean = LogDomain(offset=AIR, scale=1024.0)
    measured = LogDomain(offset=AIR, scale=1024.0, shift=-0.5 * SIGMA**2)
    found = {n: {"rms": [], "bias": [], "ssr2": []} for n in ("measured", "geometric mean", "arithmetic mean")}
    for number, truth in enumerate(patients.values()):
        y = AIR + (truth - AIR) * speckle(number, kind)
        u = measured.encode(y)[None]
        result = restore_batch(denoiser, u, SamplingOptions(instant=True), finish=clean)
        inner = restore_batch(denoiser, u, SamplingOptions(instant=True))
        assert result.sd is not None
        for name, x in (("measured", y), ("geometric mean", clean(inner.mean)[0]), ("arithmetic mean", result.mean[0])):
            error = x - truth
            found[name]["rms"].append(float(error.square().mean().sqrt()))
            found[name]["bias"].append(float(error.mean()))
            if name == "arithmetic mean":
                found[name]["ssr2"].append(float(error.square().sum() / result.sd.square().sum()))
    return found


def shown(found: dict[str, dict[str, list[float]]], kind: str) -> Table:
    table = Table(title=f"{kind} speckle of {SIGMA:.0%}: mean ± SD between patients, HU")
    for name in ("", "RMS error", "mean error", "SSR²"):
        table.add_column(name, justify="right" if name else "left")
    for name, rows in found.items():
        table.add_row(name, *(mean_sd(rows[k]) if rows[k] else "" for k in ("rms", "bias", "ssr2")))
    return table


# ---- generation ------------------------------------------------------------------------------------------------------


def discs(keys: list[int]) -> Tensor:
    """Positive images `(B, 1, SMALL, SMALL)`: three discs of 0.3 to 3 times a background of 0.2."""
    line = torch.arange(SMALL, dtype=torch.float32)
    y, x = torch.meshgrid(line, line, indexing="ij")
    images = []
    for k in keys:
        u = torch.rand(3, 4, generator=torch.Generator().manual_seed(k))
        image = torch.full((SMALL, SMALL), 0.2)
        for cy, cx, r, v in u.tolist():
            inside = (y - SMALL * cy) ** 2 + (x - SMALL * cx) ** 2 < (2 + 3 * r) ** 2
            image = torch.where(inside, 0.3 * 10**v, image)
        images.append(image[None])
    return torch.stack(images)


def generated(steps: int, count: int = 48) -> tuple[Tensor, Tensor]:
    """Images of a network trained on the logarithm, and held-out ones, `(count, 1, SMALL, SMALL)`."""
    domain, basis = LogDomain(), Cosine((SMALL, SMALL))
    process = geometric(basis, sigma=4.0)
    spectrum = radial_spectrum([domain.encode(x[0]) for x in discs(list(range(10_000, 10_400)))], (1.0, 1.0), bins=10)
    torch.manual_seed(0)
    net = UNet(in_channels=2, out_channels=1, width=24, multipliers=(1, 2), blocks=1, level_features=1, padding="zeros")
    denoiser = NetDenoiser(net, process, spectrum=spectrum)
    options = TrainingOptions(steps=steps, batch=24, learning_rate=2e-3, warmup=20, ema=0.98, checkpoint_every=steps)
    with tempfile.TemporaryDirectory() as folder:
        weights = train(denoiser, lambda keys: domain.encode(discs(keys)), options, Path(folder))
    net.load_state_dict(weights)
    mean, variance = denoiser.prior()  # type: ignore[misc]
    plan = make_plan("dpmpp2m", process, make_grid(process, 32, "logsnr"), variance)
    seeds = torch.arange(count)
    start = start_state(process, seeds, (1, SMALL, SMALL), mean=mean, spectrum=variance)
    with torch.no_grad():
        drawn = sample(denoiser, plan, start, seeds=seeds).x
    return domain(drawn), discs(list(range(20_000, 20_000 + count)))


def draw(made: Tensor, known: Tensor) -> None:
    figure = Figure(figsize=(13.2, 2.6), dpi=100, facecolor="white", layout="constrained")
    axes = figure.subplots(2, 12)
    for row, images, name in zip(axes, (known, made), ("data", "generated"), strict=True):
        for ax, image in zip(row, images, strict=False):
            ax.imshow(image[0], cmap="gray", vmin=0, vmax=3)
            ax.set_axis_off()
        row[0].set_title(name, fontsize=10, loc="left")
    figure.savefig(PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, started = Console(width=120), time.process_time()
    record: dict[str, object] = {"golden": golden(console)}
    assert there(), "the CT sets are not beside the repository (../shared/data)"
    domain = LogDomain(offset=AIR, scale=1024.0)
    logs = [domain.encode(x[0]) for x in crops("train", 60).values()]
    process = geometric(Fourier((SIDE, SIDE)), sigma=SIGMA, conditioning="terminal")
    denoiser = GaussianDenoiser(process, spectrum=radial_spectrum(logs, (1.0, 1.0), bins=16))
    patients = crops("validation", 40)
    for kind in ("log-normal", "gamma"):
        found = restored(denoiser, patients, kind)
        console.print(shown(found, f"{kind} ({len(patients)} patients)"))
        record[kind] = found
    print(f"({time.process_time() - started:.0f} s)", flush=True)
    made, known = generated(options.steps)
    figures = {n: [float(x.min()), float(x.mean()), float(x.log().mean()), float(x.log().std())]
               for n, x in (("data", known), ("generated", made))}  # fmt: skip
    for name, (low, mean, center, deviation) in figures.items():
        console.print(f"{name}: least value {low:.3f}, mean {mean:.3f}, log mean {center:.3f}, log SD {deviation:.3f}")
    draw(made, known)
    OUT.write_text(json.dumps({**record, "generation": figures, "steps": options.steps}, indent=1))
    print(f"wrote {OUT.name} and {PICTURE.name} ({time.process_time() - started:.0f} s)")


if __name__ == "__main__":
    main()
