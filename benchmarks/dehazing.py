"""Haze taken off ultrasound in its radio-frequency data, or in the image that is made of them.

    python benchmarks/dehazing.py docs/images [--data ../shared/data] [--frames 16] [--samples 32] [--docs]

y = x + g h + n: tissue x, haze h of a color of its own, white noise n of 1 % of the tissue.  Three kinds of frame:

apart   tissue and haze drawn from Gaussian laws that are known (128 x 32 samples of 0.055 x 0.298 mm, 5 MHz): the haze
        is lower by 0.8 cycles/mm, narrower, and four times as wide across the lines, as reverberation is
alike   the same with haze of the law of the tissue, which nothing can tell from it
disc    plane-wave data of a disc in water, delayed and summed (256 x 64 samples); the haze of "apart" is added.  Law of
        the tissue: the periodogram of the other half of the disc, mirrored (20 of its 64 lines are in both), in four
        earlier frames.  It is one disc: its speckle three frames on has a correlation of 0.6 in dB inside the disc, so
        that frames differ by their haze more than by their tissue

What is asked is the image: 20 log10 of the envelope of x, in dB.

rf             both unknowns drawn jointly, `--samples` times, by the closed form that two Gaussian laws have (what
               `JointDenoiser` with `beside` draws by solves: compared on the first frame); mean of their images
rf mean        image of the mean of these draws
rf, off        as rf, with a law of the haze that is stated wrongly: 0.2 cycles/mm too high, and 1.8 times as wide
               across the lines as it is ("alike": 1.2 times)
image, priors  in the image: clean image and what the haze adds, Gaussian each, with mean and spectrum of training
image, linear  in the image: the best stationary linear estimate, from spectra and cross-spectra of pairs of training
image, network the same and a correction of a network of 4 layers (5 x 5, 24 channels), trained on pairs of images
hazy           nothing is done

The image is a function of the data, so where the laws are known no method of the image can have a smaller mean square
than "rf" with many draws; the figures say by how much it is worse, and whether that outlasts a law that is fitted.
Everything is trained anew for each case on other frames (of the laws: as many as are asked for).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reconstruct_real import beamformed, picture, scatter
from retrodict import open_raw
from retrodict._random import member_seeds, uniform, white
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.physics import GaussianNoise, Identity, Measurement, beside
from retrodict.physics.algebra import Scaled
from retrodict.posterior.ensemble import sample_posterior
from retrodict.posterior.joint import JointDenoiser
from retrodict.processes.scalar import edm
from tables import replace_block, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "dehazing.json"
SPACING = (1.48 / (4 * 6.6666667), 0.298)
"""Axial and lateral, in mm: 1480 m/s, half of the samples of 6.67 MHz."""
NOISE, FLOOR, BLOCK = 0.01, -60.0, (16, 8)
"""Noise over the deviation of the tissue; dB below which an image is black; samples of a region."""
TISSUE, HAZE, OFF = (6.4, 0.6, 0.5), (5.6, 0.3, 0.12), (0.2, 0.0, 0.096)
"""Carrier and the deviations of a Gaussian spectrum, axial and lateral, in cycles/mm; what is added to state it
wrongly."""
ROWS, LEFT, RIGHT = slice(130, 386), slice(8, 72), slice(52, 116)
"""Of the 668 x 128 samples of the disc: depths, lines to judge and lines to learn from."""
INSIDE, WATER = (slice(70, 210), slice(25, 52)), (slice(70, 210), slice(2, 14))
EARLY, LATE = (0, 4, 8, 12), (16, 19, 22, 25, 28, 31)
METHODS = ("hazy", "image, priors", "image, linear", "image, network", "rf mean", "rf, off", "rf")
CASES = {"apart": (0.5, 1.0, 2.0), "alike": (1.0,), "disc": (0.5, 1.0)}
"""Haze over tissue, deviations of the two (of the disc: of all its frame)."""
Frames = Callable[[str, int], Tensor]


# ---- laws and frames -------------------------------------------------------------------------------------------------


def law(basis: Fourier, shape: tuple[float, float, float]) -> Tensor:
    """Variance of every coefficient of a band around a carrier; 1 per sample."""
    fz, fx = (f.double() for f in basis_frequencies(basis))
    center, axial, lateral = shape
    power = torch.exp(-0.5 * ((fz.abs() - center) / axial) ** 2 - 0.5 * (fx / lateral) ** 2) + 1e-6
    return unit(power, basis)


def basis_frequencies(basis: Fourier) -> tuple[Tensor, Tensor]:
    """Axial and lateral frequency of every coefficient, in cycles/mm."""
    (rows, columns), (dz, dx) = basis.size, basis.spacing
    fz = torch.fft.fftfreq(rows, dz, dtype=torch.float64)
    half = basis.shape[-1] == columns // 2 + 1
    fx = (torch.fft.rfftfreq if half else torch.fft.fftfreq)(columns, dx, dtype=torch.float64)
    rows_of, columns_of = torch.meshgrid(fz, fx, indexing="ij")
    return rows_of, columns_of


def unit(power: Tensor, basis: Fourier) -> Tensor:
    """The spectrum with a variance of 1 per sample."""
    weight = basis.multiplicity()
    return power * weight.sum() / (power * weight).sum()


def drawn(basis: Fourier, power: Tensor, seed: int, stream: str) -> Tensor:
    """An image `(1, 1, *N)` of a law."""
    z = white(torch.tensor([seed]), stream, 0, (1, *basis.size)).double()
    return basis.inverse(power.sqrt() * basis.forward(z))


def decibel(rf: Tensor) -> Tensor:
    """20 log10 of the envelope along depth, at least `FLOOR`."""
    n = rf.shape[-2]
    step = torch.zeros(n, 1, dtype=torch.float64)
    step[0], step[1 : (n + 1) // 2] = 1, 2
    envelope = torch.fft.ifft(torch.fft.fft(rf.double(), dim=-2) * step, dim=-2).abs()
    return (20 * envelope.clamp_min(1e-12).log10()).clamp_min(FLOOR)


@dataclass(frozen=True)
class Case:
    """Frames of one kind: `clean(part, i)` of "train" and "test", law of tissue and haze, strength g of the haze."""

    basis: Fourier
    clean: Frames
    tissue: Tensor
    haze: Tensor
    band: tuple[float, float, float]
    strength: float
    count: int
    early: int | None

    def off(self) -> Case:
        """The same with another law of the haze."""
        wrong = tuple(a + b for a, b in zip(self.band, OFF, strict=True))
        return replace(self, haze=law(self.basis, (wrong[0], wrong[1], wrong[2])))

    def pair(self, part: str, i: int) -> tuple[Tensor, Tensor]:
        """Clean and hazy RF `(1, 1, *N)`; haze and noise are drawn anew for every i."""
        x = self.clean(part, i if self.early is None or part == "test" else i % self.early)
        h = drawn(self.basis, self.haze, i, f"{part}-haze")
        n = white(torch.tensor([i]), f"{part}-noise", 0, (1, *self.basis.size)).double()
        return x, x + self.strength * h + NOISE * n


def simulated(strength: float, alike: bool, frames: int) -> Case:
    basis = Fourier((128, 32), SPACING)
    tissue, band = law(basis, TISSUE), TISSUE if alike else HAZE

    def clean(part: str, i: int) -> Tensor:
        return drawn(basis, tissue, i, f"{part}-tissue")

    return Case(basis, clean, tissue, law(basis, band), band, strength, frames, None)


def lines(data: Path) -> Tensor:
    """All frames that are used, delayed and summed, `(F, rows, lines)`."""
    with open_raw(data / "us_rf_disk_must" / "PWI_disk.mat") as raw:
        rf = raw.read("RF").astype(np.float64)
        known = [float(raw.read(f"param.{n}")) for n in ("fs", "fc", "pitch", "c", "t0")]
    return torch.from_numpy(np.stack([beamformed(rf[:, :, k], *known) for k in (*EARLY, *LATE)]))


def disc(found: Tensor, strength: float) -> Case:
    early = found[: len(EARLY), ROWS, RIGHT].flip(-1)[:, None, None]
    late, scale = found[len(EARLY) :, ROWS, LEFT][:, None, None], float(early.std())
    basis = Fourier((256, 64), SPACING)
    energy = basis.energy(basis.forward(early[:, 0] / scale)).mean((0, 1))
    smooth = torch.nn.functional.avg_pool2d(energy[None], 5, 1, 2, count_include_pad=False)[0]

    def clean(part: str, i: int) -> Tensor:
        return (early if part == "train" else late)[i] / scale

    return Case(basis, clean, smooth, law(basis, HAZE), HAZE, strength, len(LATE), len(EARLY))


# ---- methods ---------------------------------------------------------------------------------------------------------


def share(case: Case) -> Tensor:
    """E[x | y] is this share of y: everything is diagonal in the Fourier basis."""
    return case.tissue / (case.tissue + case.strength**2 * case.haze + NOISE**2)


def draws(case: Case, y: Tensor, seed: int, samples: int) -> Tensor:
    """Tissue of the joint posterior, `(K, 1, 1, *N)`: x' + share (y - x' - g h' - n') with x', h', n' of their laws."""
    out = []
    for member in member_seeds(seed, 0, samples).tolist():
        x, h = (drawn(case.basis, p, member, s) for p, s in ((case.tissue, "tissue"), (case.haze, "haze")))
        n = white(torch.tensor([member]), "noise", 0, (1, *case.basis.size)).double()
        rest = case.basis.forward(y - x - case.strength * h - NOISE * n)
        out.append(x + case.basis.inverse(share(case) * rest))
    return torch.stack(out)


def checked(case: Case, samples: int) -> dict[str, float]:
    """What `sample_posterior` with two priors says of the first frame: squared distance of its mean from the exact one
    over the posterior variance (1 / samples is expected), and its variance over that.
    """
    process = edm(case.basis, 4.0)
    zero = torch.zeros_like(case.tissue)
    prior = JointDenoiser(tuple(GaussianDenoiser(process, zero, power) for power in (case.tissue, case.haze)))
    one = Identity(case.basis.size, spacing=SPACING)
    _, y = case.pair("test", 0)
    measurement = Measurement(beside(one, Scaled(one, case.strength)), y, GaussianNoise.white(NOISE))
    found = sample_posterior(prior, measurement, "matched", samples=samples, steps=1, chunk=samples).samples[:, :, :1]
    weight = case.basis.multiplicity()
    variance = float((weight * case.tissue * (1 - share(case))).sum() / weight.sum())
    exact = case.basis.inverse(share(case) * case.basis.forward(y))
    return {
        "mean": float((found.mean(0) - exact).square().mean()) / variance,
        "variance": float(found.var(0).mean()) / variance, "samples": samples,
    }  # fmt: skip


@dataclass(frozen=True)
class Linear:
    """mean + gain (image - hazy mean), a gain for every coefficient."""

    basis: Fourier
    clean: float
    hazy: float
    gain: Tensor

    def __call__(self, image: Tensor) -> Tensor:
        """Image `(1, 1, *N)`, in dB."""
        basis = self.basis
        return self.clean + basis.inverse(self.gain * basis.forward(image - self.hazy))


def linear(case: Case, frames: int) -> tuple[Linear, Linear]:
    """With two independent priors (clean image, and what the haze adds), and the best one, from images of training."""
    pairs = [tuple(decibel(v) for v in case.pair("train", i)) for i in range(frames)]
    clean, hazy = (torch.cat(v) for v in zip(*pairs, strict=True))
    a, b = float(clean.mean()), float(hazy.mean())
    x, y = (case.basis.forward(v - m) for v, m in ((clean, a), (hazy, b)))

    def mean(power: Tensor) -> Tensor:
        flat = power.mean((0, 1))[None]
        return torch.nn.functional.avg_pool2d(flat, 5, 1, 2, count_include_pad=False)[0]

    energy = case.basis.energy
    own, seen, added = (mean(energy(v)) for v in (x, y, y - x))
    cross = 0.5 * (own + seen - added)  # the real part: the laws have no direction
    return Linear(case.basis, a, b, own / (own + added)), Linear(case.basis, a, b, cross / seen)


def network(case: Case, first: Linear, steps: int, batch: int) -> Callable[[Tensor], Tensor]:
    """What is to be added to a linear estimate, trained on as many pairs of images as are asked for (of the disc: four
    frames with haze drawn anew).
    """
    torch.manual_seed(0)
    sizes = [1, 24, 24, 24, 1]
    layers: list[torch.nn.Module] = []
    for k, (i, o) in enumerate(itertools.pairwise(sizes)):
        layers += [torch.nn.Conv2d(i, o, 5, padding=2, padding_mode="circular")]
        layers += [torch.nn.ReLU()] if k < len(sizes) - 2 else []
    net = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rows, columns = case.basis.size

    def correction(image: Tensor) -> Tensor:
        return 10 * net(((image - first.hazy) / 10).float()).to(image)

    for step in range(steps):
        pairs = [tuple(decibel(v) for v in case.pair("train", 10_000 + step * batch + k)) for k in range(batch)]
        clean, hazy = (torch.cat(v) for v in zip(*pairs, strict=True))
        place = uniform(torch.tensor([2 * step, 2 * step + 1]), "crop", 0)
        i, j = int(place[0] * (rows - 127)), int(place[1] * (columns - 31))
        crop = (..., slice(i, i + 128), slice(j, j + 32))
        loss = (correction(hazy[crop]) - (clean - first(hazy))[crop]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    def answer(image: Tensor) -> Tensor:
        with torch.no_grad():
            return first(image) + correction(image)

    return answer


# ---- figures ---------------------------------------------------------------------------------------------------------


def contrast(image: Tensor) -> float:
    """Generalized contrast of disc and water: 1 less the overlap of their histograms of 256 bins."""
    a, b = (image[0, 0][region].flatten() for region in (INSIDE, WATER))
    low, high = float(torch.cat([a, b]).min()), float(torch.cat([a, b]).max())
    shares = [torch.histc(v, 256, low, high) / v.numel() for v in (a, b)]
    return 1 - float(torch.minimum(*shares).sum())


def covered(images: Tensor, truth: Tensor) -> float:
    """Share of regions whose mean in dB lies in the 90 % interval of the draws (of K + 1 ranks, all are as likely)."""
    means = torch.nn.functional.avg_pool2d(images[:, 0], BLOCK)
    rank = (means < torch.nn.functional.avg_pool2d(truth[0], BLOCK)).sum(0)
    k = len(images)
    tail = 0.05 * (k + 1)
    edge = int(tail)  # ranks below are out, and of the edge its share
    out = (rank < edge).double() + (rank > k - edge).double()
    out += (tail - edge) * ((rank == edge) | (rank == k - edge)).double()
    return 1 - float(out.mean())


def one(case: Case, asked: argparse.Namespace, panels: bool) -> tuple[dict[str, Any], list[Any]]:
    """Figures of every method and frame, and panels of the first frame."""
    started = time.process_time()
    priors, best = linear(case, asked.frames)
    steps = asked.steps or (300 if case.early is None else 1000)
    net = network(case, best, steps, asked.batch)
    rows: dict[str, list[float]] = {m: [] for m in METHODS}
    gcnr: dict[str, list[float]] = {m: [] for m in ("clean", *METHODS)}
    cover, shown = [], []
    for i in range(case.count):
        x, y = case.pair("test", i)
        truth, hazy = decibel(x), decibel(y)
        found = draws(case, y, i, asked.samples)
        images = decibel(found)
        answers = {
            "hazy": hazy, "image, priors": priors(hazy), "image, linear": best(hazy), "image, network": net(hazy),
            "rf mean": decibel(found.mean(0)),
            "rf, off": decibel(draws(case.off(), y, i, asked.samples)).mean(0), "rf": images.mean(0),
        }  # fmt: skip
        for name, image in answers.items():
            rows[name].append(float((image - truth).square().mean().sqrt()))
        cover.append(covered(images, truth))
        if panels:
            for name, image in {"clean": truth, **answers}.items():
                gcnr[name].append(contrast(image))
        if panels and i == 0:
            top = float(truth.max())
            asked_for = {"clean": truth, "haze added": hazy, "image, network": answers["image, network"],
                         "rf, mean image": answers["rf"], "rf, one draw": images[0]}  # fmt: skip
            shown = [(name, image[0, 0].numpy(), (top - 45, top)) for name, image in asked_for.items()]
    record: dict[str, Any] = {"error_dB": rows, "cover": cover, "steps": steps}
    record["seconds"] = time.process_time() - started
    if panels:
        record["gcnr"] = gcnr
    return record, shown


def gap(cell: dict[str, Any]) -> str:
    """Error of the best method of the image less that of "rf", frame by frame, and in how many it is above 0."""
    rows = {name: np.array(values) for name, values in cell["error_dB"].items()}
    best = min((name for name in rows if name.startswith("image")), key=lambda name: rows[name].mean())
    gaps = rows[best] - rows["rf"]
    return f"{scatter(gaps.tolist(), 2)}, {int((gaps > 0).sum())} of {len(gaps)}"


def shown(record: dict[str, Any]) -> str:
    """The tables of the documents."""
    names = [f"`{m}`" for m in METHODS]
    rows, second = [], []
    for name, cell in sorted(record["cases"].items(), key=lambda item: list(CASES).index(item[0].split()[0])):
        kind, haze = name.split()
        first = [kind, haze.replace("dB", " dB").replace("-", "−"), str(len(cell["cover"]))]
        cells = [scatter(cell["error_dB"][m], 2) for m in METHODS]
        rows.append([*first, *cells, gap(cell), scatter(cell["cover"], 2)])
        if "gcnr" in cell:
            second.append([*first, *(scatter(v, 3) for v in cell["gcnr"].values())])
    head = ["kind", "haze", "frames"]
    errors = table([*head, *names, "best of the image less `rf`", "regions in 90 %"], rows)
    return (
        f"Error of the image in dB, root mean square over its samples:\n\n{errors}\n\n"
        f"Generalized contrast of disc and water:\n\n{table([*head, 'clean', *names], second)}"
    )


def main() -> None:
    """Run all cases, or write what was found into the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", nargs="*", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--steps", type=int, help="of the training of the network, if not 300, and 1000 of the disc")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="write the tables of what was found")
    asked = parser.parse_args()
    if asked.docs:
        replace_block(ROOT / "docs" / "posterior.md", "dehazing", shown(json.loads(asked.json.read_text())))
        return
    torch.set_num_threads(1)
    record = json.loads(asked.json.read_text()) if asked.json.exists() else {"cases": {}}
    frames = lines(asked.data) if "disc" in asked.only else torch.zeros(0)
    for kind in asked.only:
        for strength in CASES[kind]:
            case = disc(frames, strength) if kind == "disc" else simulated(strength, kind == "alike", asked.frames)
            found, panels = one(case, asked, kind == "disc")
            record["cases"][f"{kind} {20 * math.log10(strength):+.0f}dB"] = found
            if kind == "apart" and strength == 1.0:
                record["joint_denoiser"] = checked(case, 8)
                print(f"JointDenoiser on the first frame: {record['joint_denoiser']}", flush=True)
            record["settings"] = {k: getattr(asked, k) for k in ("frames", "samples", "batch")}
            asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            errors = "  ".join(f"{m} {scatter(v, 2)}" for m, v in found["error_dB"].items())
            print(
                f"{kind} {strength}: {errors}  cover {scatter(found['cover'], 2)}, {found['seconds']:.0f} s", flush=True
            )
            if panels and strength == 1.0 and asked.out:
                picture(asked.out / "dehazing.png", panels, 2.4, SPACING[0] / SPACING[1])


if __name__ == "__main__":
    main()
