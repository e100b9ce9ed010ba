"""Denoising of 28 x 28 patches, y = x + 0.3 n: the score-based experiment of the slide deck, done again and checked.

    python benchmarks/patch_train.py crops|pneumonia|organ|plain|deck|repaired      (the networks)
    python benchmarks/patches.py [--sets crops pneumonia organ] [--count N] [--quick] [--resume]

Images in [-1, 1], so a data range of 2: 16.48 dB for y itself.  Test images, noise and samples are functions of fixed
seeds.  Figures are means over images of the figure of each image, with the standard error over images and, where
several patches come from one slice, that over slices too.

MMSE estimators  the Gaussian one (LMMSE), and a network in one call: y is a state of a process that ends at y's noise
samples          from there by the rule "matched" in 8 calls, or ancestrally in the 178 steps of the deck's clock that
                 lie below y; a calibrated sample lies 3.01 dB under the mean, the mean of K of them 10 log10(1 + 1/K)
deck             the loop of the deck, x_t mixed with y and called with t, as its text and as its code have it
fused            its repair: x_t and y combined by their precisions, and called at the noise level of the combination
validation       the images on which the spread of the network was scaled: sampler and spread where they should agree
SSR              sqrt(squared error of the mean of K samples / ((1 + 1/K) their variance)): 1 is calibrated
clipped          the same estimate clipped to [-1, 1], which every pixel is known to lie in
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from patch_data import NAMES, load
from patch_train import ABLATION, RUNS
from retrodict._check import InputError
from retrodict._random import key, member_seeds, white
from retrodict.bases import Basis, Cosine
from retrodict.denoisers.denoiser import Denoiser, Estimate
from retrodict.denoisers.network import NetDenoiser
from retrodict.metrics import spread_skill
from retrodict.metrics.similarity import ssim_map
from retrodict.models.model import open_model
from retrodict.processes.observation import Cond, Moments, Pairing
from retrodict.processes.process import Process
from retrodict.processes.scalar import cosine
from retrodict.samplers import Plan, make_plan, sample, start_state

RESULTS = Path(__file__).parent / "results"
SIGMA, RANGE, BATCH, MEMBERS = 0.3, 2.0, 64, 8
DECK_STEPS, DECK_IMAGES, DECK_INDEX = 1000, 64, 178
COUNT = {"crops": 512, "pneumonia": 0, "organ": 1000}
THRESHOLD = {"crops": 2.2}  # of the sliding transform, in noise standard deviations; 2.7 elsewhere
Estimator = Callable[[Tensor, Tensor], Tensor]
"""(noisy images, a seed for each) -> images."""


# ---- figures -----------------------------------------------------------------------------------------------------


def noisy(x0: Tensor, sigma: float = SIGMA) -> Tensor:
    """The measurement of every image, with one fixed draw of noise for each."""
    return x0 + sigma * white(range(len(x0)), "patch noise", 0, x0.shape[1:]).to(x0)


def psnr(x: Tensor, x0: Tensor) -> Tensor:
    """PSNR of each image in dB, `(n,)` float64."""
    return 10 * torch.log10(RANGE**2 / ((x - x0).double() ** 2).flatten(1).mean(1))


def ssim(x: Tensor, x0: Tensor) -> Tensor:
    """SSIM of each image, `(n,)` float64: 7 x 7 uniform window."""
    return ssim_map(x, x0, data_range=RANGE, window=7).flatten(1).mean(1).double()


def standard_error(values: Tensor, groups: list[int] | None = None) -> float:
    """Standard error of the mean of independent values, or of values that come in independent groups."""
    away, n = values.double() - values.double().mean(), len(values)
    labels = torch.arange(n) if groups is None else torch.tensor(groups)
    _, index = labels.unique(return_inverse=True)
    count = int(index.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, index, away)
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / n if count > 1 else math.nan


@dataclass(frozen=True)
class Patches:
    """Test images of a set, their measurements, and the slice that each comes from."""

    name: str
    x0: Tensor
    groups: list[int]

    @cached_property
    def y(self) -> Tensor:
        return noisy(self.x0)

    @cached_property
    def training(self) -> Tensor:
        return load(self.name, "train")[0]

    def first(self, count: int) -> Patches:
        return Patches(self.name, self.x0[:count], self.groups[:count])


def figures(patches: Patches, method: str, x: Tensor, calls: int, seconds: float, **more: Any) -> dict[str, Any]:
    """One row: what the estimates `x` of all images are worth."""
    clustered = len(set(patches.groups)) < len(patches.groups)
    row = {"set": patches.name, "method": method, "calls": calls, "images": len(x)}
    rated = {"psnr": psnr(x, patches.x0), "clipped": psnr(x.clamp(-1, 1), patches.x0), "ssim": ssim(x, patches.x0)}
    for name, values in rated.items():
        row[name], row[f"{name}_se"] = float(values.mean()), standard_error(values)
        if clustered:
            row[f"{name}_se_slices"] = standard_error(values, patches.groups)
    row["mse"] = float(((x - patches.x0).double() ** 2).mean())
    return {**row, "seconds": seconds, **more}


def timed(estimate: Estimator, y: Tensor, member: int = 0) -> tuple[Tensor, float]:
    """Estimates of all images, in batches, and seconds per image; member: number of the sample of each image."""
    seeds = torch.stack([member_seeds(0, i, member + 1)[member] for i in range(len(y))])
    started = time.perf_counter()
    with torch.inference_mode():
        parts = [estimate(*part) for part in zip(y.split(BATCH), seeds.split(BATCH), strict=True)]
    return torch.cat(parts), (time.perf_counter() - started) / len(y)


# ---- without a network -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GaussianPrior:
    """N(mean, C) fitted to images; C as eigenvectors (columns) and eigenvalues, float64."""

    mean: Tensor
    vectors: Tensor
    values: Tensor

    @classmethod
    def fit(cls, images: Tensor) -> GaussianPrior:
        """Mean and full covariance of images `(n, 1, *N)`."""
        flat = images.flatten(1).double()
        values, vectors = torch.linalg.eigh(torch.cov(flat.T, correction=0))
        return cls(flat.mean(0), vectors, values.clamp_min(0))

    def posterior_mean(self, y: Tensor, sigma: float = SIGMA) -> Tensor:
        """mean + C (C + sigma^2)^-1 (y - mean)."""
        gain = self.values / (self.values + sigma**2)
        away = (y.flatten(1).double() - self.mean) @ self.vectors
        return (self.mean + (away * gain) @ self.vectors.T).reshape(y.shape)

    def posterior_sample(self, y: Tensor, seeds: Tensor, sigma: float = SIGMA) -> Tensor:
        """An exact draw: the mean and N(0, C sigma^2 (C + sigma^2)^-1)."""
        root = (self.values * sigma**2 / (self.values + sigma**2)).sqrt()
        z = white(seeds, "gaussian", 0, y.shape[1:]).flatten(1).double()
        return self.posterior_mean(y, sigma) + ((z * root) @ self.vectors.T).reshape(y.shape)


def sliding_dct(y: Tensor, threshold: float, side: int = 8) -> Tensor:
    """Hard threshold (in units of y) in the orthonormal DCT of every `side` x `side` window, then the average."""
    basis, (h, w) = Cosine((side, side)), y.shape[2:]
    windows = F.unfold(y, side).transpose(1, 2).unflatten(2, (side, side))
    u = basis.forward(windows)
    keep = u.abs() >= threshold
    keep[..., 0, 0] = True
    clean = basis.inverse(u * keep).flatten(2).transpose(1, 2)
    covered = F.fold(torch.ones_like(clean), (h, w), side)
    return F.fold(clean, (h, w), side) / covered


def non_local_means(y: Tensor, h: float, patch: int, distance: int = 9) -> Tensor:
    """Non-local means of scikit-image with known noise; h in noise standard deviations."""
    from skimage.restoration import denoise_nl_means

    options = {"patch_size": patch, "patch_distance": distance, "h": h * SIGMA, "sigma": SIGMA, "fast_mode": True}
    return torch.from_numpy(np.stack([denoise_nl_means(v, **options) for v in y[:, 0].numpy()]))[:, None].to(y)


def tuned(training: Tensor, count: int = 64) -> dict[str, Any]:
    """Parameters of non-local means that are best on some training images (with noise of their own)."""
    x0 = training[torch.randperm(len(training), generator=torch.Generator().manual_seed(key(0, "tune")))[:count]]
    y = x0 + SIGMA * white(range(count), "tuning noise", 0, x0.shape[1:])
    grid = [{"h": h, "patch": patch} for h in (0.2, 0.35, 0.5, 0.65, 0.8, 1.0) for patch in (3, 5, 7)]
    return max(grid, key=lambda options: float(psnr(non_local_means(y, **options), x0).mean()))


# ---- processes, and the chain from y -----------------------------------------------------------------------------


def terminal(basis: Basis, sigma: float = SIGMA) -> Process:
    """The process that ends at y: h = 1, s = sigma t."""

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(t), 0 * t, sigma**2 * t**2

    def measurement(bound: Basis) -> Moments:
        one = torch.ones(bound.shape, dtype=torch.float64)
        return Moments(one, 0 * one, sigma**2 * one)

    return Process(lambda bound: law, basis, Pairing("terminal", measurement))


def ending_at_y(denoiser: NetDenoiser, sigma: float = SIGMA) -> NetDenoiser:
    """A network that was trained on an unconditional process, on the process that ends at y."""
    return NetDenoiser(
        denoiser.net,
        terminal(denoiser.process.basis, sigma),
        spectrum=denoiser.spectrum,
        bands=denoiser.bands,
        precision=denoiser.precision,
        spread_scale=denoiser.spread_scale,
    )


def time_of(process: Process, variance: Tensor) -> Tensor:
    """Times `(B,)` at which the clock s^2/h^2 of a scalar process is `variance` `(B,)`, by bisection."""
    low, high = torch.zeros_like(variance), torch.ones_like(variance)
    for _ in range(50):
        middle = 0.5 * (low + high)
        below = process.clock(middle).reshape(-1) < variance
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


def one_call(denoiser: Denoiser, y: Tensor) -> Tensor:
    """The posterior mean, of a denoiser whose process ends at y."""
    return denoiser(y, ones(y))


def ones(y: Tensor) -> Tensor:
    """The time 1 for every image."""
    return torch.ones(len(y), dtype=torch.float64)


def draw(denoiser: Denoiser, plan: Plan, y: Tensor, seeds: Tensor) -> Tensor:
    """Run a plan from y, as the state h y of its first time: there s/h must be the noise of y."""
    h = plan.process.moments(plan.times[:1]).h
    start = plan.process.basis.forward(h.to(y) * y)
    return sample(denoiser, plan, start, seeds=seeds).x


def matched(denoiser: NetDenoiser, calls: int) -> Estimator:
    """A posterior sample in few calls; the variance of the noise falls linearly (chosen on validation images)."""
    times = torch.linspace(1, 0, calls + 1, dtype=torch.float64).sqrt()
    plan = make_plan("matched", denoiser.process, times)
    return lambda y, seeds: draw(denoiser, plan, y, seeds)


def ancestral(denoiser: NetDenoiser, calls: int = DECK_INDEX) -> Estimator:
    """Ancestral steps of the cosine process from the time at which its state is y, uniform in its time."""
    process = denoiser.process
    start = float(time_of(process, torch.tensor([SIGMA**2], dtype=torch.float64)))
    plan = make_plan("ancestral", process, torch.linspace(start, 0, calls + 1, dtype=torch.float64))
    return lambda y, seeds: draw(denoiser, plan, y, seeds)


# ---- the deck, and its repair ------------------------------------------------------------------------------------


def deck(
    denoiser: Denoiser,
    y: Tensor,
    seeds: Tensor,
    *,
    code: bool,
    steps: int = DECK_STEPS,
    sigma: float = SIGMA,
    clamp: bool = True,
) -> Tensor:
    """The loop of the deck: mix the state with y, denoise, add fresh noise.

    x <- (1 - w) x + w y by its text, x <- w x + w y by its code, w = s^2/(s^2 + sigma^2); returns the last x_0.
    """
    process = denoiser.process
    times = torch.linspace(1, 1e-5, steps + 1, dtype=torch.float64)
    x, x0 = white(seeds, "start", 0, y.shape[1:]).to(y), y
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        s2 = float(process.moments(t[None]).s2)
        weight = s2 / (s2 + sigma**2)
        x = (weight if code else 1 - weight) * x + weight * y
        x0 = denoiser(x, t.expand(len(y)))
        x0 = x0.clamp(-1, 1) if clamp else x0
        m = process.moments(s[None])
        x = m.h.to(y) * x0 + m.s2.sqrt().to(y) * white(seeds, "step", i, y.shape[1:]).to(y)
    return x0


@dataclass(frozen=True)
class Fused:
    """E[x_0 | x_t, y] from a denoiser that knows E[x_0 | x_t] only, for a scalar process and y = x_0 + sigma n.

    Given x_0, x_t/h and y are independent with variances r = s^2/h^2 and sigma^2; their mean by precision,
    u = (h sigma^2 x_t + s^2 y)/(s^2 + h^2 sigma^2), has variance v = s^2 sigma^2/(s^2 + h^2 sigma^2) and holds all that
    both say.  It is the state u h(tau) of the process at the time tau with r(tau) = v.  The chain itself stays that of
    x_t: y enters through the denoiser, at every step once.
    """

    denoiser: Any
    y: Tensor
    sigma: float = SIGMA

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def state(self, xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The combination as a state of the process, and its time."""
        m = self.process.moments(t)
        total = m.s2 + m.h**2 * self.sigma**2
        u = (m.h * self.sigma**2 / total).to(xt) * xt + (m.s2 / total).to(xt) * self.y
        tau = time_of(self.process, (m.s2 * self.sigma**2 / total).reshape(-1))
        return self.process.moments(tau).h.to(xt) * u, tau

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        return self.denoiser(*self.state(xt, t))

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        return self.denoiser.estimate(*self.state(xt, t))


def fused(denoiser: Denoiser, y: Tensor, seeds: Tensor, *, steps: int = DECK_INDEX, rule: str = "ancestral") -> Tensor:
    """The whole chain from white noise at t = 1, with the measurement in the denoiser."""
    process = denoiser.process
    plan = make_plan(rule, process, torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    start = start_state(process, seeds, tuple(y.shape[1:]), dtype=y.dtype)
    return sample(Fused(denoiser, y), plan, start, seeds=seeds).x


# ---- rows --------------------------------------------------------------------------------------------------------

MEAN, SAMPLE, VALIDATION = "network, one call (mean)", "network, sample (matched)", " validation"
SAMPLE_LAW = {"law_dB": -10 * math.log10(2)}


@dataclass(frozen=True)
class Job:
    """Rows that are computed together, when they are asked for."""

    patches: Patches
    methods: tuple[str, ...]
    compute: Callable[[], list[dict[str, Any]]]

    def stored(self, done: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """These rows as an earlier run left them, or None."""
        wanted = [(self.patches.name, method, len(self.patches.x0)) for method in self.methods]
        rows = [r for r in done if (r["set"], r["method"], r["images"]) in wanted]
        return rows if len(rows) == len(wanted) else None


def job(patches: Patches, method: str, calls: int, prepare: Callable[[], Estimator], **more: Any) -> Job:
    """One row; `prepare` makes the estimator, outside the time that is measured."""

    def compute() -> list[dict[str, Any]]:
        x, seconds = timed(prepare(), patches.y)
        return [figures(patches, method, x, calls, seconds, **more)]

    return Job(patches, (method,), compute)


def classical(patches: Patches) -> Iterator[Job]:
    """What needs no network."""
    yield job(patches, "noisy", 0, lambda: lambda y, _: y)
    yield job(patches, "noisy, clipped", 0, lambda: lambda y, _: y.clamp(-1, 1))
    factor = THRESHOLD.get(patches.name, 2.7)
    yield job(patches, f"sliding DCT, {factor} sigma", 0, lambda: lambda y, _: sliding_dct(y, factor * SIGMA))

    def averaged() -> list[dict[str, Any]]:
        options = tuned(patches.training)
        x, seconds = timed(lambda y, _: non_local_means(y, **options), patches.y)
        return [figures(patches, "non-local means", x, 0, seconds, options=options)]

    yield Job(patches, ("non-local means",), averaged)
    names = ("LMMSE (Gaussian prior)", "Gaussian posterior sample")

    def gaussian() -> list[dict[str, Any]]:
        prior = GaussianPrior.fit(patches.training)
        estimates: tuple[Estimator, ...] = (lambda y, _: prior.posterior_mean(y), prior.posterior_sample)
        found = [timed(estimate, patches.y) for estimate in estimates]
        return [figures(patches, name, x, 0, seconds) for name, (x, seconds) in zip(names, found, strict=True)]

    yield Job(patches, names, gaussian)


def ensemble(patches: Patches, denoiser: NetDenoiser, calls: int, members: int) -> Job:
    """One matched sample, and the mean of several."""
    names = (SAMPLE, f"network, mean of {members} samples")

    def compute() -> list[dict[str, Any]]:
        estimate = matched(denoiser, calls)
        drawn, seconds = zip(*(timed(estimate, patches.y, k) for k in range(members)), strict=True)
        x = torch.stack(drawn).double()
        ssr = spread_skill(x.mean(0), x.var(0), patches.x0.double(), members).ssr
        stated = timed(lambda y, _: denoiser.estimate(y, ones(y)).spread.variance(), patches.y)[0]
        law = {"law_dB": -10 * math.log10(1 + 1 / members), "ssr": ssr}
        law |= {"variance": float(x.var(0).mean()), "stated_variance": float(stated.mean())}
        return [
            figures(patches, names[0], drawn[0], calls, seconds[0], **SAMPLE_LAW),
            figures(patches, names[1], x.mean(0), calls * members, sum(seconds), **law),
        ]

    return Job(patches, names, compute)


def network(patches: Patches, source: Path, quick: bool) -> Iterator[Job]:
    """The rows of one trained network; the loop of the deck and its repair on the first images only."""
    trained = open_model(source).denoiser
    at_y = ending_at_y(trained)
    clock = trained.at(cosine(trained.process.basis, end=1.0))
    few, divisor = patches.first(16 if quick else DECK_IMAGES), 8 if quick else 1
    short, steps = DECK_INDEX // divisor, DECK_STEPS // divisor
    yield job(patches, MEAN, 1, lambda: lambda y, _: one_call(at_y, y), law_dB=0.0)
    yield ensemble(patches, at_y, 8, 2 if quick else MEMBERS)
    held = Patches(patches.name + VALIDATION, *load(patches.name, "val", 64 if quick else 256))
    yield job(held, MEAN, 1, lambda: lambda y, _: one_call(at_y, y), law_dB=0.0)
    yield ensemble(held, at_y, 8, 2 if quick else MEMBERS)
    yield job(
        few if quick else patches, "network, sample (ancestral)", short, lambda: ancestral(clock, short), **SAMPLE_LAW
    )
    yield job(few, MEAN, 1, lambda: lambda y, _: one_call(at_y, y), law_dB=0.0)
    repaired = "fused, ancestral"
    yield job(few, repaired, short, lambda: lambda y, seeds: fused(clock, y, seeds, steps=short), **SAMPLE_LAW)
    for code, name in ((False, "deck, slide text"), (True, "deck, printed code")):
        yield job(few, name, steps, lambda c=code: lambda y, seeds: deck(clock, y, seeds, code=c, steps=steps))


def ablation(patches: Patches, name: str, source: Path) -> Job:
    """Mean mode of a network that was trained with one of the frequency losses."""

    def prepare() -> Estimator:
        denoiser = ending_at_y(open_model(source).denoiser)
        return lambda y, _: one_call(denoiser, y)

    return job(patches, f"loss {name!r}, one call", 1, prepare)


def jobs(patches: Patches, runs: Path, quick: bool) -> Iterator[Job]:
    """All rows of one set; a model that is missing is named."""
    yield from classical(patches)
    for name in (patches.name, *(ABLATION if patches.name == "crops" else ())):
        source = runs / f"patch-{name}" / f"patch-{name}"
        if not source.with_suffix(".json").exists():
            print(f"{name}: no model {source}; train it with python benchmarks/patch_train.py {name}")
        elif name in ABLATION:
            yield ablation(patches, name, source)
        else:
            yield from network(patches, source, quick)


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, stored after each; with --resume those of an earlier run are kept."""
    path, records = arguments.json, []
    done = json.loads(path.read_text()) if arguments.resume and path.exists() else []
    for name in arguments.sets:
        count = arguments.count or (64 if arguments.quick else COUNT[name])
        try:
            x0, groups = load(name, "test", count)
        except InputError as error:
            print(f"{name}: left out. {error}")
            continue
        for one in jobs(Patches(name, x0, groups), arguments.runs, arguments.quick):
            rows = one.stored(done) or one.compute()
            records += rows
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(records, indent=1))
            for row in rows:
                print(json.dumps(row), flush=True)
    return records


# ---- table -------------------------------------------------------------------------------------------------------


def found(records: list[dict[str, Any]], name: str, method: str, images: int = 0) -> dict[str, Any] | None:
    """The row of a method on a set, on the most images or on as many as given."""
    rows = [r for r in records if (r["set"], r["method"]) == (name, method) and images in (0, r["images"])]
    return max(rows, key=lambda r: r["images"], default=None)


def verdicts(records: list[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """What the experiment must reach, and whether it does."""
    for name in dict.fromkeys(r["set"] for r in records):
        mean, drawn = found(records, name, MEAN), found(records, name, SAMPLE)
        raw, clipped = found(records, name, "noisy"), found(records, name, "noisy, clipped")
        if mean is None:
            continue
        for least, word in ((22.5, "at least"), (23.5, "target")) if name == "crops" else ():
            yield f"{name}: mean mode {mean['psnr']:.2f} dB, {word} {least}", mean["psnr"] >= least
        if raw is not None and clipped is not None:
            gain, rise = mean["psnr"] - clipped["psnr"], mean["ssim"] - raw["ssim"]
            yield f"{name}: mean mode {gain:.2f} dB over the clipped input, at least 5", gain >= 5
            yield f"{name}: SSIM of the mean {rise:.3f} over noisy, at least 0.15", rise >= 0.15
        if drawn is not None:
            fall = mean["psnr"] - drawn["psnr"]
            yield f"{name}: sample {fall:.2f} dB under the mean, 3.0 +- 0.3", abs(fall - 3.0) <= 0.3


def calibration(records: list[dict[str, Any]]) -> Iterator[str]:
    """Error of the mean, variance of the samples, and the variance that the network states: equal if calibrated."""
    for row in records:
        mean = found(records, row["set"], MEAN, row["images"])
        if "stated_variance" in row and mean is not None:
            values = f"samples {row['variance']:.4f}, stated by the network {row['stated_variance']:.4f}"
            yield f"{row['set']}: squared error of one call {mean['mse']:.4f}, variance of {values}"


def line(row: dict[str, Any], records: list[dict[str, Any]]) -> list[str]:
    """Cells of one row; `law` is what the mean mode and a calibrated posterior predict."""
    mean = found(records, row["set"], MEAN, row["images"])
    law = f"{mean['psnr'] + row['law_dB']:.2f}" if mean is not None and "law_dB" in row else ""
    slices = f"{row['psnr_se_slices']:.2f}" if "psnr_se_slices" in row else ""
    cells = [row["method"], str(row["calls"] or ""), str(row["images"]), f"{row['psnr']:.2f}", f"{row['psnr_se']:.2f}"]
    cells += [slices, law, f"{row['clipped']:.2f}", f"{row['ssim']:.3f}", f"{row['ssim_se']:.3f}"]
    return [*cells, f"{row['ssr']:.3f}" if "ssr" in row else "", f"{row['seconds']:.3g}"]


def render(records: list[dict[str, Any]], name: str) -> Table:
    """The table of one set."""
    table = Table(title=f"{name}: y = x + {SIGMA} n, data range {RANGE:g}")
    columns = ("method", "calls", "images", "PSNR", "+-", "slices +-", "law", "clipped", "SSIM", "+-", "SSR", "s/image")
    for column in columns:
        table.add_column(column, justify="left" if column == "method" else "right")
    rows = [r for r in records if r["set"] == name]
    for row in sorted(rows, key=lambda r: -r["images"]):
        table.add_row(*line(row, records))
    return table


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--count", type=int, default=0, help="test images of every set")
    parser.add_argument("--quick", action="store_true", help="64 images, an eighth of the steps: does it all run?")
    parser.add_argument("--resume", action="store_true", help="keep the rows of a run that was cut short")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the trained networks")
    parser.add_argument("--json", type=Path, default=RESULTS / "patches.json")
    records = run(parser.parse_args())
    console = Console(width=140)
    for name in dict.fromkeys(r["set"] for r in records):
        console.print(render(records, name))
    for text in calibration(records):
        console.print(text)
    for text, passed in verdicts(records):
        console.print(f"{'pass' if passed else 'FAIL'}  {text}")


if __name__ == "__main__":
    main()
