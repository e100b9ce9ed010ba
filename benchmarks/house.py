"""What the frame costs: CPU seconds of the Markov check of every process, and of a step of the loop beside its calls.

    python benchmarks/house.py

One thread; the denoiser halves its input, so that what is left is the frame.  Figures depend on the machine: compare
two commits on one machine, in one go, with nothing beside.
"""

from __future__ import annotations

import time

import torch

from retrodict.bases import Fourier, Pixel, Wavelet
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import FunctionDenoiser
from retrodict.processes import PROCESSES
from retrodict.processes.wavelet import WAVELET_PROCESSES
from retrodict.samplers import make_plan, sample
from retrodict.samplers.plan import make_grid

STEPS, REPEATS, SIZE = 50, 40, 64


def markov(name: str) -> float:
    """CPU seconds of the first check of a process on 256 x 256 pixels."""
    basis = Wavelet((256, 256)) if name in WAVELET_PROCESSES else Fourier((256, 256))
    f = [0.0, 0.25, 0.8]
    mtf = {"frequency": f, "value": [1.0, 1.1, 0.2], "unit": "1", "frequency_unit": "cycles/mm"}
    nps = {"frequency": f, "value": [0.2, 0.7, 1.0], "unit": "HU^2 mm^2", "frequency_unit": "cycles/mm"}
    process = PROCESSES[name](basis, **({"mtf": mtf, "nps": nps} if name == "measured" else {}))
    started = time.process_time()
    _ = process.markov
    return time.process_time() - started


def step(kind: str, rule: str, batch: int) -> float:
    """CPU milliseconds of one step, the least of many runs."""
    basis = Pixel((SIZE, SIZE)) if kind == "scalar" else Fourier((SIZE, SIZE))
    process = PROCESSES[kind](basis, conditioning="none")
    denoiser = FunctionDenoiser(lambda xt, t: 0.5 * xt, process, Spectrum.flat(0.0, 0.25))
    spectrum = Spectrum.flat(0.0, 0.25).on(basis)
    plan = make_plan(rule, process, make_grid(process, STEPS), spectrum)
    start = basis.forward(torch.ones(batch, 1, SIZE, SIZE))
    best = float("inf")
    for _ in range(REPEATS):
        started = time.process_time()
        sample(denoiser, plan, start, seeds=torch.arange(batch))
        best = min(best, time.process_time() - started)
    return 1e3 * best / STEPS


def main() -> None:
    """Both tables."""
    torch.set_num_threads(1)
    print("Markov check, CPU s")
    for name in PROCESSES:
        print(f"  {name:<16}{markov(name):7.3f}")
    print(f"step of the loop without its call, {SIZE} x {SIZE}, CPU ms")
    for kind in ("scalar", "fourier"):
        for rule in ("ddim", "dpmpp2m", "ancestral", "matched"):
            print(f"  {kind:<9}{rule:<11}" + "  ".join(f"batch {b}: {step(kind, rule, b):.4f}" for b in (1, 8)))


if __name__ == "__main__":
    main()
