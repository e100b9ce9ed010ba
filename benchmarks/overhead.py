"""Overhead of the sample loop: seconds per step with the time inside the denoiser taken off.

    .venv-peers/bin/python benchmarks/overhead.py      (peers that are not installed are left out, and said so)

Every library runs N = 50 steps of the same exact scalar Gaussian denoiser in float32, batches of 1 and 8, in one
process, in shuffled order, one thread; medians over the repeats.  The Fourier process is compared with the scalar one
plus one real FFT pair (torch.fft.rfft2 and irfft2) of the same batch.  `matched` and `ancestral` also draw noise.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import statistics
import time
from pathlib import Path

import torch

from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import Estimate
from retrodict.denoisers.spread import SpectralSpread
from retrodict.processes.fourier import fourier
from retrodict.processes.scalar import vp
from retrodict.samplers import make_plan, sample
from retrodict.samplers.plan import make_grid

OUT = Path(__file__).parent / "results" / "overhead.json"
STEPS, REPEATS, VARIANCE = 50, 21, 0.25


class Clocked:
    """A scalar Gaussian denoiser that counts the seconds spent in it."""

    def __init__(self, process=None):
        self.process, self.seconds, self.spread = process, 0.0, None
        if process is not None:
            table = torch.full((1, 1, *process.basis.shape), 0.1, dtype=torch.float64)
            self.spread = SpectralSpread(process.basis, table)

    def denoise(self, x, a, s):
        started = time.perf_counter()
        out = x * (a * VARIANCE / (a * a * VARIANCE + s * s))
        self.seconds += time.perf_counter() - started
        return out

    def __call__(self, xt, t, *_):
        return self.denoise(xt, 0.8, 0.6)

    def estimate(self, xt, t, *_):
        """With a stationary error law, which `matched` draws from."""
        return Estimate(self(xt, t), self.spread)


def ours(process, rule, batch, size):
    """One run of a plan; the plan and its tables are built once, as an ensemble does."""
    spectrum = torch.full(process.basis.shape, VARIANCE, dtype=torch.float64)
    plan = make_plan(rule, process, make_grid(process, STEPS), spectrum)
    start = process.basis.forward(torch.randn(batch, 1, size, size))
    seeds = torch.arange(batch)

    def run():
        denoiser = Clocked(process)
        started = time.perf_counter()
        sample(denoiser, plan, start, seeds=seeds)
        return time.perf_counter() - started - denoiser.seconds

    return run


def diffusers(batch, size):
    """DPM-Solver++ 2M of diffusers; a new scheduler for every run, made before the clock starts."""
    from diffusers import DPMSolverMultistepScheduler

    def run():
        scheduler, denoiser, x = DPMSolverMultistepScheduler(), Clocked(), torch.randn(batch, 1, size, size)
        scheduler.set_timesteps(STEPS)
        started = time.perf_counter()
        for t in scheduler.timesteps:
            eps = denoiser.denoise(x, 0.8, 0.6)
            x = scheduler.step(eps, t, x).prev_sample
        return time.perf_counter() - started - denoiser.seconds

    return run


def azula(name, batch, size):
    """A sampler of azula."""
    from azula import sample as samplers
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Exact(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule, self.clocked = VPSchedule(), Clocked()

        def forward(self, x_t, t, **kwargs):
            return DiracPosterior(self.clocked.denoise(x_t, 0.8, 0.6))

    def run():
        denoiser = Exact()
        sampler = getattr(samplers, name)(denoiser, steps=STEPS, silent=True)
        x = torch.randn(batch, 1, size, size)
        started = time.perf_counter()
        sampler(x)
        return time.perf_counter() - started - denoiser.clocked.seconds

    return run


def fft_pair(batch, size):
    """Seconds of STEPS real FFT pairs."""
    x = torch.randn(batch, 1, size, size)

    def run():
        started = time.perf_counter()
        for _ in range(STEPS):
            torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho"), s=(size, size), norm="ortho")
        return time.perf_counter() - started

    return run


def contestants(batch, size):
    """Name -> one timed run."""
    scalar, structured = vp(Pixel((size, size))), fourier(Fourier((size, size)))
    jobs = {}
    for rule in ("dpmpp2m", "ddim", "ancestral", "matched"):
        jobs[f"retrodict {rule}, scalar"] = ours(scalar, rule, batch, size)
        jobs[f"retrodict {rule}, Fourier"] = ours(structured, rule, batch, size)
    jobs["one FFT pair"] = fft_pair(batch, size)
    if importlib.util.find_spec("diffusers"):
        jobs["diffusers DPM-Solver++ 2M"] = diffusers(batch, size)
    if importlib.util.find_spec("azula"):
        jobs["azula DDIM"] = azula("DDIMSampler", batch, size)
        jobs["azula zAB"] = azula("zABSampler", batch, size)
    return jobs


def comparisons(medians):
    """What the figures are for: ours over the peers' (plus one FFT pair for the Fourier process)."""
    ours, pair = (
        {kind: medians[f"retrodict dpmpp2m, {kind}"] for kind in ("scalar", "Fourier")},
        medians["one FFT pair"],
    )
    found = {"dpmpp2m: Fourier above scalar, in FFT pairs": (ours["Fourier"] - ours["scalar"]) / pair}
    for peer in ("diffusers DPM-Solver++ 2M", "azula zAB"):
        if peer in medians:
            found[f"dpmpp2m, scalar over {peer}"] = ours["scalar"] / medians[peer]
            found[f"dpmpp2m, Fourier over {peer} + one FFT pair"] = ours["Fourier"] / (medians[peer] + pair)
    return found


def main():
    """Interleave, take medians, print ratios, store."""
    torch.set_num_threads(1)
    for name in ("diffusers", "azula"):
        if not importlib.util.find_spec(name):
            print(f"{name} is not installed here: use .venv-peers (make bench-peers)")
    rows = []
    for size, batch in itertools.product((64, 256), (1, 8)):
        jobs = contestants(batch, size)
        times = {name: [] for name in jobs}
        for job in jobs.values():
            job()
        shuffler = random.Random(0)
        for _ in range(REPEATS):
            for name in shuffler.sample(list(jobs), len(jobs)):
                times[name].append(jobs[name]() / STEPS)
        medians = {name: statistics.median(t) for name, t in times.items()}
        base, tail = medians["retrodict dpmpp2m, scalar"], "" if batch == 1 else f", batch {batch}"
        for name, value in medians.items():
            rows.append({"size": size, "batch": batch, "name": name + tail, "ms_per_step": value * 1e3})
            rows[-1]["ratio"] = value / base
            print(f"{size:>4} x{batch}  {name:<45}{value * 1e3:9.3f} ms per step   {value / base:6.2f} x")
        for name, ratio in comparisons(medians).items():
            rows.append({"size": size, "batch": batch, "name": name + tail, "ratio": ratio})
            print(f"{size:>4} x{batch}  {name:<70}{ratio:6.2f}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
