"""Whitened-score diffusion against the isotropic prior: the four experiments of its paper at small scale.

    python benchmarks/whitened.py [--calls 100] [--network-calls 50] [--patients 4] [--only gaussian mixture network]

Noise of unit energy through a kernel, 100 HU per pixel, on validation patients of CT (64 x 64 pixels of body, 1 mm),
whole (dehazing) and after a Gaussian blur of 1 mm (deblurring + haze).  "overlap": a Gaussian of 3 mm, so that noise is
where the image has its power; "apart": what a Gaussian of 1 mm leaves, so that it is where the image has next to none.
A share of white noise keeps every frequency noisy.  The prior is one and the same, its process is not: the structured
one has the kernel of the measurement, the isotropic one none.  Three priors:

- Gaussian of the spectrum of the network, exact: no draws, from the card of the whole run;
- a mixture of two Gaussians (a third and five thirds of that power), exact denoiser, drawn images;
- the shipped network "ct", which is told the clock and so serves every process that is diagonal in frequency.

Error of one run over that of the exact posterior mean (for the network: of its one call at y) by patient or image.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from patient_slices import there
from retrodict._random import key
from retrodict.bases import Fourier
from retrodict.denoisers.denoiser import GaussianDenoiser, Observer
from retrodict.denoisers.likelihood import LikelihoodGuided
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.wrappers import Fused
from retrodict.models.model import Model, open_model
from retrodict.processes.observation import Moments, noise_like, wiener
from retrodict.processes.process import Process
from retrodict.processes.scalar import vp
from retrodict.processes.whitened import kernel_power, whitened
from retrodict.samplers import make_plan, sample
from retrodict.samplers.card import card, gaussian_card
from retrodict.samplers.whitened import whitened_plan
from unseen import cases

PRIORS = ("gaussian", "mixture", "network")
OUT = Path(__file__).parent / "results" / "whitened.json"
SIDE, SPACING, SIGMA, WHITE, BLUR = 64, 1.0, 100.0, 0.02, 1.0
KERNELS: dict[str, dict[str, Any]] = {"overlap": {"width": 3.0}, "apart": {"width": 1.0, "high": True}}
TASKS = [(what, kernel) for what in ("dehazing", "deblurring + haze") for kernel in KERNELS]
STRENGTHS = (0.1, 0.5, 1.0, 2.0, 4.0)
FUSED_CALLS = 16
LEADING = ("structured, algorithm 1", "isotropic, as if white", "structured, x/a", "isotropic, x/a")
"""Methods and strengths of the network, whose calls cost most: those that do not diverge."""
LEADING_STRENGTHS = (0.5, 1.0, 2.0)


class Method(NamedTuple):
    """A prior's process, the noise that its likelihood believes in, and what stands for x_0 in it."""

    process: str
    believes: str
    state: str
    strengths: tuple[float, ...] = STRENGTHS
    sign: str = "corrected"


METHODS = {
    "structured, algorithm 1": Method("structured", "true", "as image"),
    "isotropic, as if white": Method("isotropic", "white", "as image"),
    "isotropic, true noise": Method("isotropic", "true", "as image", (1.0,)),
    "structured, norm of the code": Method("structured", "true", "norm", (0.5, 1.0, 2.0)),
    "isotropic, norm of the code": Method("isotropic", "true", "norm", (0.5, 1.0, 2.0)),
    "structured, x/a": Method("structured", "true", "scaled", (1.0,)),
    "isotropic, x/a": Method("isotropic", "true", "scaled", (1.0,)),
    "structured, printed sign": Method("structured", "true", "as image", (1.0,), "published"),
}


def even(steps: int) -> Tensor:
    """Times of algorithm 1."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def setup(task: tuple[str, str], size: int, scale: float) -> tuple[dict[str, Process], dict[str, Moments]]:
    """The two processes, and the law of the measurement as it is ("true") and as if its noise were white."""
    basis, options = Fourier((size, size), (SPACING, SPACING)), KERNELS[task[1]]
    processes = {"structured": whitened(basis, white=WHITE, **options), "isotropic": vp(basis)}
    widths = torch.full((1, 2), options["width"], dtype=torch.float64)
    power = kernel_power(basis, widths, white=WHITE, high=options.get("high", False))[0, 0]
    blur = torch.exp(-2 * (math.pi * BLUR * basis.radius()) ** 2) if task[0] != "dehazing" else torch.ones_like(power)
    variance, none = (SIGMA / scale) ** 2, torch.zeros_like(power)
    return processes, {
        "true": Moments(blur, none, variance * power),
        "white": Moments(blur, none, variance + none),
    }


# ---- the golden numbers ------------------------------------------------------------------------------------------


def golden(console: Console) -> dict[str, float]:
    """Variance over P that algorithm 1 ends with, by its card: |K|^2 = 1, P = 1."""
    process = whitened(Fourier((4,)), 0.0)
    spectrum = torch.ones(process.basis.shape, dtype=torch.float64)

    def variance(steps: int, **options: Any) -> float:
        return float(gaussian_card(whitened_plan(process, even(steps), **options), spectrum).start[0]) ** 2

    found = {f"{n} steps": variance(n) for n in (250, 500, 1000)}
    found["1000 steps, published sign of n"] = variance(1000, signs="published")
    console.print(
        "Algorithm 1 on Gaussian data, variance over P: " + ", ".join(f"{k} {v:.6g}" for k, v in found.items())
    )
    return found


# ---- priors ------------------------------------------------------------------------------------------------------


class Prior(NamedTuple):
    """A prior as a denoiser of any process, true images `(B, 1, n, n)` of it, and who they are."""

    at: Callable[[Process], Observer]
    truth: Tensor
    names: list[str]


def spectrum_of(net: NetDenoiser, size: int) -> Tensor:
    """Power of every coefficient on a grid."""
    assert net.spectrum is not None
    return net.spectrum.on(Fourier((size, size), (SPACING, SPACING)))


def mixture_prior(net: NetDenoiser, count: int, size: int = 16) -> Prior:
    """A mixture of a third and of five thirds of the power of the network, and draws of it."""
    basis, power = Fourier((size, size), (SPACING, SPACING)), spectrum_of(net, size)
    law = MixtureLaw(basis, torch.tensor([0.5, 0.5], dtype=torch.float64), 0 * power.expand(2, *power.shape),
                     torch.stack([power / 3, 5 * power / 3]))  # fmt: skip
    like, seeds = torch.zeros(count, 1, size, size, dtype=torch.float64), torch.arange(count)
    z = noise_like(like, seeds, "image", 0)
    x = torch.stack([part.draw(z[i : i + 1])[0] for i, part in enumerate(law.components() * (count // 2))])
    return Prior(lambda process: MixtureDenoiser(process, law), x, [f"image {i}" for i in range(count)])


def network_prior(model: Model, patients: int) -> Prior:
    """The shipped network on crops of validation patients."""
    assert isinstance(model.denoiser, NetDenoiser)
    found = cases(SPACING, patients)
    middle = slice((found[0].truth.shape[-1] - SIDE) // 2, (found[0].truth.shape[-1] + SIDE) // 2)
    truth = torch.cat([model.intensity.encode(case.truth[..., middle, middle]) for case in found])
    return Prior(model.denoiser.at, truth, [case.patient for case in found])


# ---- runs --------------------------------------------------------------------------------------------------------


def measured(prior: Prior, law: Moments, process: Process) -> Tensor:
    """Measurements of the true images, each with noise of its own."""
    seeds = torch.tensor([key(0, "whitened", i) for i in range(len(prior.truth))])
    noise = process.basis.forward(noise_like(prior.truth, seeds, "measurement", 0))
    real = prior.truth.dtype
    return process.basis.inverse(law.h.to(real) * process.basis.forward(prior.truth) + law.s2.sqrt().to(real) * noise)


def rms(x: Tensor, truth: Tensor) -> list[float]:
    """Root mean squared error of every item."""
    return (x - truth).double().square().flatten(1).mean(1).sqrt().tolist()


def run(
    prior: Prior, task: tuple[str, str], scale: float, calls: int, *, all_methods: bool = True
) -> dict[str, dict[str, list[float]]]:
    """Errors in HU by method and strength; every method starts at the same noise."""
    truth = prior.truth
    processes, laws = setup(task, truth.shape[-1], scale)
    y = measured(prior, laws["true"], processes["isotropic"])
    seeds = torch.arange(len(truth))
    z = noise_like(truth, seeds, "start", 0)
    rest = prior.at(processes["isotropic"])
    u = rest.process.basis.forward(y)
    lifted = Moments(*(x[None, None] for x in laws["true"]))
    exact = rest.observe(u, lifted).mean
    out: dict[str, dict[str, list[float]]] = {"measurement": {"": rms(y, truth)}, "exact mean": {"": rms(exact, truth)}}
    known = rest.prior()
    if known is not None:
        gain, _ = wiener(lifted, known[1])
        mean = known[0].to(u)
        real = y.dtype
        linear = rest.process.basis.inverse(mean + gain.to(real) * (u - lifted.h.to(real) * mean))
        out["Wiener"] = {"": rms(linear, truth)}
    for name, method in METHODS.items():
        process = processes[method.process]
        plan = whitened_plan(process, even(calls))
        if not all_methods and name not in LEADING:
            continue
        out[name] = {}
        for strength in method.strengths:
            if not all_methods and strength not in LEADING_STRENGTHS:
                continue
            inner = prior.at(process)
            guided = LikelihoodGuided(inner, y, laws[method.believes], strength, method.state, method.sign)
            x = sample(guided, plan, process.start(z), seeds=seeds).x
            out[name][f"{strength:g}"] = rms(x, truth)
    for name, process in processes.items():
        fused = Fused(prior.at(process), y, lifted)
        given = fused.prior()
        start = process.start(z) if given is None else process.start(z, None, *given)
        plan = make_plan("ddim", process, even(FUSED_CALLS))
        out[f"{name}, fused, {FUSED_CALLS} calls"] = {"": rms(sample(fused, plan, start, seeds=seeds).x, truth)}
    return {k: {s: [scale * e for e in v] for s, v in found.items()} for k, found in out.items()}


def run_gaussian(
    spectrum: Tensor, task: tuple[str, str], scale: float, calls: int
) -> dict[str, dict[str, list[float]]]:
    """The same for Gaussian data of mean 0, expected over images, noise and starts: no draws."""
    size = spectrum.shape[0]
    processes, laws = setup(task, size, scale)
    weight, true = processes["isotropic"].basis.multiplicity(), laws["true"]

    def error(start: Tensor, measurement: Tensor, first: Tensor) -> list[float]:
        squares = (1 - measurement * true.h) ** 2 * spectrum + measurement**2 * true.s2 + start**2 * first
        return [scale * math.sqrt(float((squares * weight).sum() / weight.sum()))]

    gain, variance = wiener(true, spectrum)
    none = torch.zeros_like(gain)
    out = {"measurement": {"": error(none, none + 1, none)}, "exact mean": {"": error(none, gain, none)}}
    out["exact sample"] = {"": error(none + 1, gain, variance)}
    y = torch.zeros(1, 1, size, size, dtype=torch.float64)
    for name, method in METHODS.items():
        if method.state == "norm":  # not linear
            continue
        process = processes[method.process]
        plan, inner = whitened_plan(process, even(calls)), GaussianDenoiser(process, 0.0, spectrum)
        first = process.moments(torch.ones(1, dtype=torch.float64)).s2[0, 0]
        out[name] = {}
        for strength in method.strengths:
            guided = LikelihoodGuided(inner, y, laws[method.believes], strength, method.state, method.sign)
            found = card(plan, guided)
            out[name][f"{strength:g}"] = error(found.start, found.measurement, first)
    return out


# ---- tables ------------------------------------------------------------------------------------------------------


def shown(errors: list[float], best: list[float]) -> str:
    """Error over that of the exact mean, mean and SD between items; what is no number has diverged."""
    ratios = [e / b for e, b in zip(errors, best, strict=True)]
    if not all(math.isfinite(r) and r < 100 for r in ratios):
        return "diverges"
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    return f"{statistics.mean(ratios):.2f}±{statistics.stdev(ratios):.2f}"


def table(title: str, results: dict[str, dict[str, dict[str, list[float]]]]) -> Table:
    """Methods and strengths down, tasks across."""
    out = Table(title=title)
    out.add_column("process, likelihood")
    out.add_column("λ")
    for name in results:
        out.add_column(name, justify="right")
    first = next(iter(results.values()))
    out.add_row("exact mean, HU", "", *(_hu(found["exact mean"][""]) for found in results.values()), end_section=True)
    for method, by_strength in first.items():
        if method == "exact mean":
            continue
        for i, strength in enumerate(by_strength):
            cells = (shown(found[method][strength], found["exact mean"][""]) for found in results.values())
            out.add_row(method if i == 0 else "", strength, *cells)
    return out


def _hu(errors: list[float]) -> str:
    if len(errors) == 1:
        return f"{errors[0]:.1f}"
    return f"{statistics.mean(errors):.1f}±{statistics.stdev(errors):.1f}"


def main() -> None:
    """Three tables and a record, which keeps what another run has put there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100, help="denoiser calls of a run of algorithm 1")
    parser.add_argument("--network-calls", type=int, default=50, help="the same for the network")
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--images", type=int, default=16, help="draws of the mixture, an even number")
    parser.add_argument("--only", nargs="+", choices=PRIORS, default=PRIORS)
    parser.add_argument("--json", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console, started = Console(width=130), time.process_time()
    model = open_model("ct")
    net, scale = model.denoiser, model.intensity.scale
    assert isinstance(net, NetDenoiser)
    record: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    record |= {"sigma_hu": SIGMA, "golden": golden(console)}

    def put(kind: str, calls: int, title: str, one: Callable[[tuple[str, str]], Any], names: list[str] | None) -> None:
        with torch.inference_mode():
            found = {f"{task[0]}, {task[1]}": one(task) for task in TASKS}
        record[kind] = {"calls": calls, "items": names, "errors_hu": found}
        console.print(table(title, found))
        arguments.json.write_text(json.dumps(record, indent=1))

    calls, fewer = arguments.calls, arguments.network_calls
    if "gaussian" in arguments.only:
        power = spectrum_of(net, 32)
        title = f"Gaussian prior, exact, {calls} calls: error of one run over that of the posterior mean"
        put("gaussian", calls, title, lambda task: run_gaussian(power, task, scale, calls), None)
    if "mixture" in arguments.only:
        mixture = mixture_prior(net, arguments.images)
        title = f"Mixture prior, {calls} calls, {arguments.images} images: mean±SD between images"
        put("mixture", calls, title, lambda task: run(mixture, task, scale, calls), mixture.names)
    if "network" in arguments.only and there():
        prior = network_prior(model, arguments.patients)
        title = f"Network, {fewer} calls, {len(prior.names)} validation patients: mean±SD between patients"
        put("network", fewer, title, lambda task: run(prior, task, scale, fewer, all_methods=False), prior.names)
    elif "network" in arguments.only:
        console.print("no patients beside the repository: the table of the network is left out")
    console.print(f"{time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
