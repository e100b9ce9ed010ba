"""The Fourier-diffusion experiment with one network: only the process and the sampler differ.

`benchmarks/fourier_diffusion.py` trains a network for each process.  Here the same weights answer for all of them,
because E[x_0 | w] of a process that is diagonal in the Fourier basis depends on it only through w / h and s^2 / h^2:

- Fourier, terminal: started at the measurement, which is the law of x_1 (option 2 of Tivnan et al. 2023);
- scalar, fused and VP, fused: started at noise; the measurement and the state are fused to one observation at every
  call (precisions add), so nothing is approximated there.

Printed for every process, rule and number of calls, as mean +- SD between patients: error of the mean of infinitely
many members over that of the Wiener filter (bias^2, less the share of the members that were drawn), and SSR^2, that
error over the variance of the members: both with the correction for the number of members.  1 is a posterior sampler.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from equal_budget import instrument
from retrodict._random import key, member_seeds
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.wrappers import Fused
from retrodict.metrics import decompose
from retrodict.models.model import Intensity
from retrodict.processes.observation import Moments
from retrodict.processes.process import Process
from retrodict.processes.scalar import scalar, vp
from retrodict.samplers import RULES, make_plan
from retrodict.samplers.ensemble import draw
from retrodict.samplers.plan import make_grid
from scanners import Scanner
from unseen import Case, Results, mean_sd, shown

__all__ = ["CALLS", "METHODS", "measure", "table"]

SIDE, SPACING = 64, 1.0
CALLS = (1, 2, 4, 8, 16, 32)
PROCESSES = ("Fourier, terminal", "scalar, fused", "VP, fused")
RULED = ("matched", "sde_dpmpp2m")
METHODS = [(process, rule) for process in PROCESSES for rule in RULED]


def lifted(law: Moments, ndim: int) -> Moments:
    """Tables of a measurement with axes for items and channels."""
    return Moments(*(x[(None,) * (2 + ndim - x.ndim)] if x.ndim < 2 + ndim else x for x in law))


def denoiser_for(name: str, net: NetDenoiser, end: Process, y: Tensor) -> Denoiser:
    """The network on a process; `end` is the process that ends at the measurement y `(1, 1, n, n)`."""
    if name == "Fourier, terminal":
        return net.at(end)
    bound = {"scalar, fused": scalar, "VP, fused": vp}[name](end.basis)
    assert end.measurement is not None
    return Fused(net.at(bound), y, lifted(end.measurement, end.ndim))


def members(denoiser: Denoiser, y: Tensor, rule: str, calls: int, seeds: Tensor) -> Tensor:
    """Members `(K, 1, n, n)` of `calls` calls each, on the CPU."""
    process, prior = denoiser.process, denoiser.prior()
    assert prior is not None
    variance = prior[1][0] if prior[1].ndim > process.ndim + 1 else prior[1]
    times = make_grid(process, calls, RULES[rule].grid, spectrum=variance)
    plan = make_plan(rule, process, times, variance)
    assert plan.nfe == calls, (rule, plan.nfe, calls)
    with torch.inference_mode():
        return draw(denoiser, plan, y, seeds).x.cpu()


def _row(net: NetDenoiser, case: Case, scanner: Scanner, intensity: Intensity, name: str, rule: str, calls: int,
         count: int) -> dict[str, Any]:  # fmt: skip
    """Figures of one patient."""
    middle = slice((case.truth.shape[-1] - SIDE) // 2, (case.truth.shape[-1] + SIDE) // 2)
    truth = intensity.encode(case.truth[..., middle, middle])
    end = instrument(scanner, Fourier((SIDE, SIDE), (case.spacing,) * 2), intensity.scale)
    y = end.pairing.simulate(truth, end.basis, torch.tensor([key(0, "two-processes", case.number)]))
    assert end.measurement is not None
    filtered = GaussianDenoiser(end, spectrum=net.spectrum).observe(end.basis.forward(y), end.measurement).mean
    device = net.process.basis.device
    started = time.process_time()
    denoiser = denoiser_for(name, net, end.to(device), y.to(device))
    x = members(denoiser, y.to(device), rule, calls, member_seeds(0, case.number, count))
    parts = decompose(x, truth[0])
    return {
        "patient": case.patient,
        "error": parts.bias2_corrected / float((filtered - truth).double().square().mean()),
        "ssr2": parts.bias2_corrected / parts.variance_corrected if parts.variance_corrected > 1e-9 else None,
        "mse_hu2": parts.mse * intensity.scale**2,
        "seconds": time.process_time() - started,
    }


def measure(net: NetDenoiser, found: Sequence[Case], scanner: Scanner, intensity: Intensity, results: Results,
            count: int, calls: Sequence[int] = CALLS) -> None:  # fmt: skip
    """Rows of every process, rule and number of calls, fewest calls first; those that are there are kept."""
    for n in calls:
        for name, rule in METHODS:
            results.row(
                f"{name} | {rule} | {n}",
                lambda name=name, rule=rule, n=n: [
                    _row(net, case, scanner, intensity, name, rule, n, count) for case in found
                ],
            )
            print(f"  {name}, {rule}: {n} calls", flush=True)


def table(rows: dict[str, Any], calls: Sequence[int] = CALLS) -> Table:
    """Error over Wiener and SSR^2 by number of calls."""
    out = Table(title="One network, two processes: error of the mean over Wiener, and SSR²; mean±SD between patients")
    out.add_column("process, rule")
    out.add_column("")
    for n in calls:
        out.add_column(f"{n} call{'s' * (n > 1)}", justify="right")
    for name, rule in METHODS:
        for figure, label in (("error", "/Wiener"), ("ssr2", "SSR²")):
            cells = []
            for n in calls:
                found = [r[figure] for r in rows.get(f"{name} | {rule} | {n}", [])]
                cells.append(_cell(found) if found else "")
            out.add_row(f"{name}, {rule}" if figure == "error" else "", label, *cells)
    return out


def _cell(values: list[float | None]) -> str:
    """Where members do not differ there is no ratio."""
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return "no spread"
    return shown(known) if mean_sd(known)[0] < 100 else "> 100"
