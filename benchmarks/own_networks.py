"""Networks trained each for one process: what `benchmarks/processes.py`, one network for all, may hide.

    python benchmarks/own_networks.py OUT --prepare                  (the images, once; then the data are not needed)
    python benchmarks/own_networks.py OUT --device cuda --workers 16 [--jobs 'process|*' ...] [--steps 6000]
    python benchmarks/own_networks.py OUT --list [--jobs ...]        (jobs, and which are done)
    python benchmarks/own_networks.py OUT --show [--json FILE]       (the tables of what is there, and all in one file)
    python benchmarks/own_networks.py benchmarks/results/own_networks.json --show --docs
    python benchmarks/own_networks.py benchmarks/results/own_networks_pulled.json --show --docs own-networks-pulled

The same network, images, order of images, steps and seeds for every job; CT of 1 mm, 64 x 64 pixels that wrap.

process|TASK|NAME: process NAME restores what TASK measures: `low-dose` (a sharp kernel, 60 HU of colored noise),
`deblur` (a wide blur, 4 HU) or `super4` (an MTF that is 5 % at a quarter of Nyquist, 2 HU of white noise).  `measured`
ends at the measurement and its network sees nothing else; every other network sees the measurement beside the state,
and the Wiener filter before it knows the law of both; processes that are pulled to an image are pulled to the
measurement.
capacity|NAME|WIDTH: `fourier` (ends at the measurement) and `scalar` (sees it) of Tivnan et al. 2023 on their
instrument, U-Nets of that width: 0.1 to 2 million parameters.
mixer|NAME: the same two with an MLP-mixer (`retrodict.nets.Mixer`) of the size of the U-Net of width 32.

A job is a folder of OUT: checkpoints of its network (removed when it is done, unless --keep) and figures.json.  A run
that was killed, or stopped by --seconds, goes on where it was.  Every process of --workers takes the next job, or start
several with --jobs.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import multiprocessing
import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equal_budget import instrument
from own_data import INTENSITY, SIDE, SPACING, Bank, load, prepare
from processes import ending
from retrodict._check import InputError, Recipe, build
from retrodict._random import key, member_seeds
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser, channels_in, channels_out
from retrodict.denoisers.spread_scale import SpreadScale
from retrodict.metrics import decompose
from retrodict.nets import NETS, PRECISIONS, precision_for
from retrodict.processes import PROCESSES
from retrodict.processes.process import Process
from retrodict.processes.recipes import external
from retrodict.training.calibrate import calibrate_spread
from retrodict.training.loop import Progress, TrainingOptions, train
from retrodict.training.losses import simulate
from scanners import SCANNERS
from tables import replace_block
from two_processes import members
from unseen import Results

PAGE = Path(__file__).resolve().parents[1] / "docs" / "experiment-own-networks.md"
TASKS = ("low-dose", "deblur", "super4")
NAMES = (
    "measured", "vp", "cosine", "ve", "edm", "rectified_flow", "sub_vp", "blurring", "ihdm", "soft", "ir_sde",
    "resshift", "rddm", "i2sb", "ddbm_vp", "shortest_path", "matern",
)  # fmt: skip
WIDTHS = {10: "0.14 M", 16: "0.3 M", 32: "1.0 M", 48: "2.1 M"}
PAIR = ("fourier", "scalar")
MIXER = {"size": SIDE, "patch": 4, "width": 128, "depth": 4}
BANDS = 4
RULED = ("matched", "sde_dpmpp2m", "sde_exponential", "ancestral")
CALLS = (4, 8, 16)
TIMES = tuple((i + 0.5) / 10 for i in range(10))


# ---- jobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A network to train and to measure: process `process` for the instrument `task`."""

    kind: str
    task: str
    process: str
    network: str = "unet"
    width: int = 32

    @property
    def name(self) -> str:
        """As on the command line."""
        if self.kind == "process":
            return f"process|{self.task}|{self.process}"
        last = f"|{self.width}" if self.kind == "capacity" else ""
        return f"{self.kind}|{'fourier' if self.process == 'measured' else self.process}{last}"

    @property
    def folder(self) -> str:
        return self.name.replace("|", "-")

    @property
    def options(self) -> dict[str, Any]:
        """Of the network."""
        if self.network == "mixer":
            return MIXER
        shape = {"multipliers": [1, 2, 4], "blocks": 1, "patch": 2, "activation": "relu", "padding": "circular"}
        return {"width": self.width, **shape}


def every_job() -> list[Job]:
    """The most telling first: tasks go round within a process, so that a part of them is a table already."""
    pair = {"fourier": "measured", "scalar": "scalar"}
    jobs = [Job("process", task, name) for name in NAMES[:1] for task in TASKS]
    jobs += [Job("capacity", "paper", pair[name], "unet", width) for width in WIDTHS for name in PAIR]
    jobs += [Job("mixer", "paper", pair[name], "mixer") for name in PAIR]
    return jobs + [Job("process", task, name) for name in NAMES[1:] for task in TASKS]


def chosen(patterns: Sequence[str]) -> list[Job]:
    """Jobs by name or pattern; `InputError` for one that matches nothing."""
    jobs = every_job()
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(job.name, pattern) for job in jobs):
            raise InputError("--jobs", repr(pattern), "a name of --list, or a pattern such as 'process|deblur|*'")
    return [j for j in jobs if not patterns or any(fnmatch.fnmatchcase(j.name, p) for p in patterns)]


# ---- processes -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def end_of(task: str) -> Process:
    """The process that ends at what a task measures."""
    basis = Fourier((SIDE, SIDE), (SPACING, SPACING))
    if task == "paper":
        return instrument(SCANNERS["paper"], basis, INTENSITY.scale)
    return ending(task, basis)


def process_of(job: Job, bank: Bank) -> Process:
    """The process of a job; one that is made for the spectrum of the data is given it."""
    end = end_of(job.task)
    if job.process == "measured":
        return end
    more = {"spectrum": bank.spectrum} if job.process == "shortest_path" else {}
    return external(PROCESSES[job.process](end.basis, **more), end)


def fresh(job: Job, bank: Bank, seed: int) -> NetDenoiser:
    """The network of a job; two of one shape start from the same weights, whatever their process."""
    process = process_of(job, bank)
    shape = {"ndim": 2, "in_channels": channels_in(process), "out_channels": channels_out(process, 1, BANDS)}
    torch.manual_seed(key(seed, "weights") % 2**31)
    net = build(NETS, Recipe(job.network, job.options), "network", **shape, level_features=1)
    return NetDenoiser(net, process, spectrum=bank.spectrum, bands=BANDS)


# ---- training --------------------------------------------------------------------------------------------------------


class OutOfTime(Exception):
    """The time of --seconds is over; what is done is kept."""


@dataclass(frozen=True)
class Settings:
    """What all jobs share."""

    out: Path
    device: str
    steps: int
    batch: int
    members: int
    most: int
    seed: int
    keep: bool
    precision: str = "float32"
    until: float = math.inf

    def check_time(self) -> None:
        """Raise `OutOfTime` where the time of --seconds is over."""
        if time.time() > self.until:
            raise OutOfTime

    @property
    def data(self) -> Path:
        return self.out / "data.safetensors"

    @property
    def training(self) -> TrainingOptions:
        """Of every network."""
        every = max(1, min(500, self.steps // 4))
        warmup = max(1, min(200, self.steps // 10))
        return TrainingOptions(steps=self.steps, batch=self.batch, warmup=warmup, decay=0.25, ema=0.999,
                               seed=self.seed, checkpoint_every=every, validate_every=every)  # fmt: skip

    def setup(self, job: Job) -> dict[str, Any]:
        """What the figures of a job depend on."""
        options = {k: v for k, v in asdict(self.training).items() if not k.endswith("_every")}
        setup = {"job": asdict(job), "network": job.options, "training": options, "members": self.members,
                 "most": self.most, "bands": BANDS}  # fmt: skip
        return setup if self.precision == "float32" else {**setup, "precision": self.precision}


def trained(job: Job, bank: Bank, s: Settings) -> tuple[NetDenoiser, float]:
    """The network of a job with averaged weights and factors on its spread, and the seconds of a step."""
    denoiser = replace(fresh(job, bank, s.seed), precision=s.precision).to(s.device)
    folder, pace = s.out / job.folder / "network", [0.0]
    folder.mkdir(parents=True, exist_ok=True)

    def watch(p: Progress) -> None:
        pace[0] = p.seconds
        s.check_time()
        if p.step % 500 == 0 or p.step == p.steps:
            print(f"  {job.name}: step {p.step} of {p.steps}, loss {p.loss:.3f}, {1000 * p.seconds:.0f} ms a step, "
                  f"{p.left:.0f} s left", flush=True)  # fmt: skip

    identity = {"job": job.name, "network": job.options, "patches": list(bank.training.shape)}
    average = train(denoiser, bank.batch(), s.training, folder, identity=identity, watch=watch)
    denoiser.net.load_state_dict(average)
    denoiser = replace(denoiser, net=denoiser.net.eval().requires_grad_(False))
    scale = calibrate_spread(denoiser, bank.batch(held=True), items=min(64, len(bank.held)), seed=s.seed)
    return replace(denoiser, spread_scale=None if scale is None else rising(scale)), pace[0]


def rising(scale: SpreadScale, least: float = 1e-3) -> SpreadScale:
    """Without levels that are hardly above the one before: beside a measurement the last times all tell as little."""
    kept = [0]
    for i in range(1, len(scale.level)):
        if scale.level[i] > scale.level[kept[-1]] + least:
            kept.append(i)
    level, factor = [scale.level[i] for i in kept], [scale.factor[i] for i in kept]
    if len(kept) == 1:
        level, factor = [level[0], level[0] + 1.0], factor * 2
    return SpreadScale(tuple(level), tuple(factor))


# ---- measuring -------------------------------------------------------------------------------------------------------


class Measured:
    """The crops of all patients, measured, and the error of the Wiener filter of each; figures are in HU^2."""

    def __init__(self, task: str, bank: Bank, device: str) -> None:
        end, count = end_of(task), len(bank.patients)
        self.truth, self.patients, self.device = bank.truth, bank.patients, device
        self.seeds = torch.tensor([key(0, "own-networks", n) for n in range(count)])
        self.y = end.pairing.simulate(bank.truth, end.basis, self.seeds)
        assert end.measurement is not None
        filtered = GaussianDenoiser(end, spectrum=bank.spectrum).observe(end.basis.forward(self.y), end.measurement)
        self.wiener = squares(filtered.mean - bank.truth)

    def restored(self, denoiser: NetDenoiser, rule: str, calls: int, count: int) -> list[dict[str, Any]]:
        """Figures of every crop, or one row that says why the rule is not defined."""
        y = self.y.repeat_interleave(count, 0).to(self.device)
        streams = torch.cat([member_seeds(0, n + 1, count) for n in range(len(self.patients))])
        try:
            x = members(denoiser, y, rule, calls, streams)
        except InputError as error:
            return [{"undefined": str(error)}]
        if not bool(torch.isfinite(x).all()):
            return [{"undefined": "the states are not finite"}]
        return [self._row(n, part) for n, part in enumerate(x.split(count))]

    def _row(self, n: int, x: Tensor) -> dict[str, Any]:
        parts, square = decompose(x, self.truth[n]), INTENSITY.scale**2
        return {
            "patient": self.patients[n],
            "error": parts.bias2_corrected * square,
            "single": parts.mse * square,
            "variance": parts.variance_corrected * square,
            "wiener": self.wiener[n] * square,
        }

    def denoised(self, denoiser: NetDenoiser, time: float) -> list[dict[str, Any]]:
        """Error of one call at a time and that of the Wiener filter there, of every crop."""
        t = torch.full((len(self.patients),), time, dtype=torch.float64)
        twin, truth = denoiser.gaussian(), self.truth.to(self.device)
        y = self.y.to(self.device) if denoiser.process.pairing.sees else None
        with torch.inference_mode():
            xt, cond = simulate(denoiser.process, truth, t, self.seeds, y)
            ours, theirs = (squares(d(xt, t, cond) - truth) for d in (denoiser, twin))
        square = INTENSITY.scale**2
        return [{"patient": p, "error": a * square, "wiener": b * square}
                for p, a, b in zip(self.patients, ours, theirs, strict=True)]  # fmt: skip


def squares(error: Tensor) -> list[float]:
    """Mean square of every item."""
    return error.double().square().flatten(1).mean(1).tolist()


def perform(job: Job, bank: Bank, s: Settings) -> None:
    """Train and measure; a job that is done is left alone."""
    results = Results(s.out / job.folder / "figures.json", s.setup(job))
    wanted = rows_of(job)
    if set(wanted) <= set(results.rows):
        return
    started = time.perf_counter()
    denoiser, pace = trained(job, bank, s)
    ready, found = time.perf_counter(), Measured(job.task, bank, s.device)
    parameters = sum(p.numel() for p in denoiser.net.parameters())
    makers: dict[str, Callable[[], Any]] = {
        "network": lambda: {"parameters": parameters, "step_s": pace, "training_s": ready - started}
    }
    makers |= {f"time | {t:.2f}": lambda t=t: found.denoised(denoiser, t) for t in TIMES}
    makers |= {f"{r} | {n}": lambda r=r, n=n: found.restored(denoiser, r, n, s.members) for r in RULED for n in CALLS}
    for name in wanted:
        s.check_time()
        results.row(name, makers[name])
    if not s.keep:
        shutil.rmtree(s.out / job.folder / "network")
    print(f"  {job.name}: done, {ready - started:.0f} s of training, {time.perf_counter() - ready:.0f} s of measuring",
          flush=True)  # fmt: skip


def rows_of(job: Job) -> list[str]:
    """Names of the rows of a job in the order in which they are made."""
    pairs = [(r, n) for r in RULED for n in CALLS] if job.kind == "process" else [(r, CALLS[-1]) for r in RULED[:2]]
    return ["network", *(f"time | {t:.2f}" for t in TIMES), *(f"{r} | {n}" for r, n in pairs)]


# ---- workers ---------------------------------------------------------------------------------------------------------


def work(queue: Any, s: Settings, failed: Any = None) -> None:
    """Jobs off the queue until there are none; one that fails is said and the next is taken."""
    torch.set_num_threads(1)
    bank = load(s.data, s.device, s.most)
    while (job := queue.get()) is not None:
        try:
            s.check_time()
            perform(job, bank, s)
        except OutOfTime:
            print(f"  {job.name}: no time left; start again to go on", flush=True)
            return
        except Exception:
            print(f"  {job.name}: FAILED\n{traceback.format_exc()}", flush=True)
            if failed is None:
                raise
            failed.put(job.name)


def spread_out(jobs: Sequence[Job], s: Settings, workers: int) -> list[str]:
    """All jobs by so many processes; names of those that failed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    queue, failed = context.Queue(), context.SimpleQueue()
    for item in [*jobs, *[None] * workers]:
        queue.put(item)
    crew = [context.Process(target=work, args=(queue, s, failed)) for _ in range(workers)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    names = []
    while not failed.empty():
        names.append(failed.get())
    if any(process.exitcode for process in crew):
        names.append("a worker that ended")
    return names


class _Listed:
    """Jobs in turn, as a queue gives them."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.left: list[Job | None] = [*jobs, None]

    def get(self) -> Job | None:
        return self.left.pop(0)


def main() -> None:
    """Train and measure what is not there yet, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--steps", type=int, default=6000, help="of training, of every network")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--most", type=int, default=99, help="validation patients to measure")
    parser.add_argument("--seed", type=int, default=0, help="of weights and training")
    parser.add_argument("--jobs", nargs="+", default=[], metavar="NAME", help="names or patterns, such as 'mixer|*'")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help="of the networks")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the jobs")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many, to go on another time")
    parser.add_argument("--patches", type=int, default=6144, help="to train on, of --prepare")
    parser.add_argument("--keep", action="store_true", help="keep the networks of jobs that are done")
    parser.add_argument("--prepare", action="store_true", help="only cut the images")
    parser.add_argument("--list", action="store_true", help="only list the jobs")
    parser.add_argument("--show", action="store_true", help="only print the tables of what is there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="gather what is there in one file")
    parser.add_argument("--docs", nargs="?", const="own-networks", metavar="BLOCK",
                        help="with --show: write a table of the documents; or own-networks-pulled")  # fmt: skip
    a = parser.parse_args()
    s = Settings(a.out, a.device, a.steps, a.batch, a.members, a.most, a.seed, a.keep,
                 precision_for(a.precision, a.device), time.time() + a.seconds)  # fmt: skip
    try:
        jobs = chosen(a.jobs)
    except InputError as error:
        parser.error(str(error))
    if a.out.suffix == ".json" and not a.show:
        parser.error("a file of results: only --show")
    if a.out.suffix != ".json":
        a.out.mkdir(parents=True, exist_ok=True)
    if a.list:
        for job in jobs:
            path = a.out / job.folder / "figures.json"
            done = path.exists() and set(rows_of(job)) <= set(json.loads(path.read_text())["rows"])
            print(f"{job.name:<32}{'done' if done else ''}")
        return
    failed: list[str] = []
    if not a.show:
        prepare(s.data, a.patches)
        if a.workers > 1:
            failed = spread_out(jobs, s, a.workers)
        elif not a.prepare:
            work(_Listed(jobs), s)
    if not a.prepare:
        from own_tables import gathered, markdown, read, show

        show(a.out, jobs)
        if a.docs:
            replace_block(PAGE, a.docs, markdown(read(a.out, jobs)))
        if a.json is not None:
            a.json.write_text(json.dumps(gathered(a.out, jobs), separators=(",", ":")))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
