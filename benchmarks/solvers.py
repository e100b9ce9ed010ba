"""Every rule against the exact law at 1 to 20 network calls, beside solvers of other libraries on the same denoiser.

    python benchmarks/solvers.py              # all; writes benchmarks/results/solvers.json, docs and their figure
    python benchmarks/solvers.py --claims     # what papers claim of single rules, on the same beds

Three beds of 16 coefficients with variances (1 + k)^-2, VP, unconditional, the exact denoiser: gaussian; "two modes"
of weights 0.7 and 0.3 that share 0.9 of the strongest coefficient; "across bands", the same with 0.6 of *every*
coefficient at once, which no covariance per coefficient knows.  Two errors, neither of which can pass through zero
where a law is wrong: that of the mean, as root mean square over coefficients in their deviations; that of the
variance, as root mean square of the relative error over coefficients and along the line between the modes, half each.
What sampling adds to either is taken off.

Of each side the solver of the least sqrt(mean^2 + variance^2) is *selected* on one half of the draws, and both are
*compared* on the other half: one of ours against one of theirs, by the differences of both squared errors, with the
two-sided 95 % band of 400 bootstrap draws of the items, the same for both.  All solvers start from the same noise.
Gaussian figures of ours are exact (the card).  Peers (diffusers, azula), where importable, run the very same function
in the same process with their own defaults.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Pixel
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.processes.flow import flow_weights
from retrodict.processes.observation import Moments
from retrodict.processes.scalar import vp
from retrodict.samplers import RULES, Plan, make_plan, sample, start_state
from retrodict.samplers.card import gaussian_card, start_law
from retrodict.samplers.optimal import optimal_grid
from retrodict.samplers.plan import make_grid
from retrodict.samplers.stateful import Run, stateful_sample
from retrodict.samplers.stateful_rules import make_stateful_plan
from tables import replace_block

SIZE = 16
CALLS = (1, 2, 4, 6, 8, 10, 12, 16, 20)
RESULT = Path(__file__).parent / "results" / "solvers.json"
DOCS = Path(__file__).resolve().parents[1] / "docs"
BEDS = ("gaussian", "two modes", "across bands")
OPTIMISED = ("dpmpp2m",)
Record = dict[str, Any]
Found = tuple[Record, Tensor | None]
"""A record, whose errors are those of the half that selects, and all draws, `(items, ...)`."""


@dataclass(frozen=True)
class Bed:
    """Data, their exact denoiser on VP, and the line along which they have modes."""

    name: str
    denoiser: MixtureDenoiser
    mean: Tensor
    variance: Tensor
    line: Tensor

    def errors(self, x: Tensor) -> Record:
        """Errors of samples `(n, 1, d)`: see the head of this file."""
        x = x.reshape(len(x), -1).double()
        if not bool(torch.isfinite(x).all()):
            return {"mean": math.inf, "variance": math.inf, "along": math.inf, "total": math.inf}
        found = self.of(x, torch.full((1, len(x)), 1 / len(x), dtype=torch.float64), 1)
        mean, variance = (float(f.clamp_min(0).sqrt()) for f in found[:2])
        return {"mean": mean, "variance": variance, "along": float(found[2]), "total": float(found[3])}

    def of(self, x: Tensor, weights: Tensor, noises: int) -> tuple[Tensor, ...]:
        """Squared errors of mean and variance, and signed ones along the line and in all, for weights `(R, n)`.

        What sampling adds to a square, `noises` times, is taken off (once; twice of a bootstrap draw): else a solver
        that puts all draws on one point would have the best mean.
        """
        x = torch.cat([x, (x @ self.line)[:, None]], 1)  # coefficients, and the line
        exact = torch.cat([self.variance, (self.line @ self.covariance() @ self.line)[None]])
        centered = x - x.mean(0)
        first, second = weights @ centered, weights @ centered.square()
        spread, fourth = second - first.square(), centered.pow(4).mean(0) - centered.square().mean(0).square()
        means = (first + x.mean(0))[:, :-1] - self.mean
        lost = noises * centered.square().mean(0)[:-1] / len(x)
        mean = ((means.square() - lost) / self.variance).mean(1)
        ratio = spread / exact - 1
        parts = ratio.square() - noises * fourth / len(x) / exact.square()
        variance = (parts[:, :-1].mean(1) + parts[:, -1]) / 2
        return mean, variance, ratio[:, -1], spread[:, :-1].sum(1) / self.variance.sum() - 1

    def covariance(self) -> Tensor:
        """The exact covariance of the data."""
        law = self.denoiser.law
        m = law.means - self.mean
        return torch.diag(law.spectra[0]) + (law.weights[:, None, None] * m[:, :, None] * m[:, None, :]).sum(0)


def bed(name: str) -> Bed:
    """Bed `name` of BEDS."""
    process = vp(Pixel((SIZE,)))
    L = (1 + torch.arange(SIZE, dtype=torch.float64)).pow(-2.0)
    share = torch.zeros(SIZE, dtype=torch.float64)
    if name == "two modes":
        share[0] = 0.9
    if name == "across bands":
        share[:] = 0.6
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    mode = (share * L).sqrt()
    means = torch.stack([mode * math.sqrt(3 / 7), -mode * math.sqrt(7 / 3)])  # mean 0, variance share * L
    law = MixtureLaw(process.basis, weights, means, torch.stack([(1 - share) * L] * 2))
    line = mode if name != "gaussian" else torch.eye(SIZE, dtype=torch.float64)[0]
    return Bed(name, MixtureDenoiser(process, law), torch.zeros(SIZE, dtype=torch.float64), L, line / line.norm())


class Drawn:
    """Noise in one stream for the whole batch: what is compared are laws, and single seeds cost more than the rule."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator(device="cpu").manual_seed(seed)

    def __call__(self, seeds: Tensor, stream: str, step: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(len(seeds), *shape, generator=self.generator, dtype=torch.float64)


# ---- ours -----------------------------------------------------------------------------------------------------------


@cache
def plan_of(rule: str, calls: int, grid: str | None = None) -> Plan | None:
    """The plan with the most steps that makes at most `calls` calls and more than two thirds of them.

    One for all beds: their coefficients have the same variances.
    """
    process, variance, entry = bed("gaussian").denoiser.process, bed("gaussian").variance, RULES[rule]
    for steps in range(calls, 0, -1):
        if steps > calls // entry.calls_per_step + 1:
            continue
        if grid == "optimal":
            times = optimal_grid(process, steps, rule, variance, rounds=8)
        else:
            times = make_grid(process, steps, grid or entry.grid, spectrum=variance)
        plan = make_plan(rule, process, times, variance)
        if plan.nfe <= calls:
            return plan if 3 * plan.nfe > 2 * calls else None
    return None


def judged(case: Bed, plan: Plan, items: int) -> tuple[Record, Tensor | None]:
    """Errors of a plan on a bed, and its draws; exact on Gaussian data."""
    process = case.denoiser.process
    if case.name == "gaussian":
        card, (_, start) = gaussian_card(plan, case.variance, 1.0), start_law(process, case.variance)
        mean = card.offset + card.start * process.moments(plan.times[:1]).h[0, 0] - 1
        parts = (card.start**2 * start + card.variance) / case.variance - 1
        along = float(parts[0])
        variance = math.sqrt((float(parts.square().mean()) + along**2) / 2)
        return {"mean": float((mean.square()).mean().sqrt()), "variance": variance, "along": along}, None
    seeds, noise = torch.arange(items), Drawn(1)
    settings = {"mean": case.mean, "spectrum": case.variance, "dtype": torch.float64, "noise": noise}
    start = start_state(process, seeds, (1, SIZE), **settings)
    x = sample(case.denoiser, plan, start, seeds=seeds, noise=noise).x
    return case.errors(x[: items // 2]), x


def ours(case: Bed, calls: tuple[int, ...], items: int, rules: list[str]) -> Iterator[Found]:
    """Records of every rule that applies, and of one on grids made for the card."""
    for rule in rules:
        for grid in (None, "optimal") if rule in OPTIMISED else (None,):
            for nfe in calls:
                if grid and nfe > 20:
                    continue
                try:
                    plan = plan_of(rule, nfe, grid)
                except InputError:
                    plan = None
                if plan is not None:
                    name = f"{rule} (optimal grid)" if grid else rule
                    found, x = judged(case, plan, items)
                    head = {"bed": case.name, "library": "retrodict", "rule": name, "nfe": nfe, "made": plan.nfe}
                    yield head | found, x


# ---- peers ----------------------------------------------------------------------------------------------------------


def first_noise(items: int) -> Tensor:
    """The noise `(items, 1, d)` that every solver starts from."""
    return Drawn(1)(torch.arange(items), "start", 0, (1, SIZE))


class Same:
    """The denoiser of a bed as a function of (x, alpha, sigma), which counts its calls."""

    def __init__(self, case: Bed) -> None:
        self.case, self.calls = case, 0

    def __call__(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        self.calls += 1
        a, s = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 1, 1)[:1] for v in (alpha, sigma))
        u = x.double().reshape(len(x), 1, SIZE)
        return self.case.denoiser.observe(u, Moments(a, 0 * a, s**2)).mean.reshape(x.shape).to(x)


def diffusers_makers() -> dict[str, Callable[[], Any]]:
    """Schedulers of diffusers by name, with the defaults of the library but for clipping."""
    import diffusers as d  # type: ignore[import-not-found]

    beta = {"beta_start": 1e-4, "beta_end": 0.02}
    many = d.DPMSolverMultistepScheduler
    return {
        "DDIM": lambda: d.DDIMScheduler(clip_sample=False, timestep_spacing="trailing", **beta),
        "DDPM": lambda: d.DDPMScheduler(clip_sample=False, timestep_spacing="trailing", **beta),
        "DPM++2M": lambda: many(**beta),
        "DPM++2M Karras": lambda: many(use_karras_sigmas=True, **beta),
        "DPM++2M logSNR": lambda: many(use_lu_lambdas=True, **beta),
        "DPM++3M": lambda: many(solver_order=3, **beta),
        "SDE-DPM++2M": lambda: many(algorithm_type="sde-dpmsolver++", **beta),
        "UniPC": lambda: d.UniPCMultistepScheduler(**beta),
        "UniPC Karras": lambda: d.UniPCMultistepScheduler(use_karras_sigmas=True, **beta),
        "UniPC logSNR": lambda: d.UniPCMultistepScheduler(use_exponential_sigmas=True, **beta),
        "DEIS": lambda: d.DEISMultistepScheduler(**beta),
        "Heun": lambda: d.HeunDiscreteScheduler(**beta),
    }


def run_diffusers(make: Callable[[], Any], same: Same, steps: int, items: int) -> Tensor:
    """Samples of a scheduler."""
    scheduler, noise = make(), torch.Generator().manual_seed(0)
    scheduler.set_timesteps(steps)
    x = first_noise(items)[:, None] * float(scheduler.init_noise_sigma)
    options = {"generator": noise} if "generator" in type(scheduler).step.__code__.co_varnames else {}
    table = scheduler.alphas_cumprod.double()
    for t in scheduler.timesteps:
        scaled, index = scheduler.scale_model_input(x, t), float(t)
        low = min(int(index), len(table) - 2)
        sigma = ((1 - table) / table).sqrt()[low : low + 2]
        sigma = (sigma[0].log() * (low + 1 - index) + sigma[1].log() * (index - low)).exp()
        a, s = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
        eps = (scaled - a * same(scaled, a, s)) / s
        x = scheduler.step(eps, t, x, **options).prev_sample
    return x


def run_azula(name: str, same: Same, steps: int, items: int) -> Tensor:
    """Samples of a sampler of azula on its VP schedule, started from the exact marginal as its `init` does."""
    from azula import sample as samplers  # type: ignore[import-not-found]
    from azula.denoise import Denoiser, DiracPosterior  # type: ignore[import-not-found]
    from azula.noise import VPSchedule  # type: ignore[import-not-found]

    class Wrapped(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            return DiracPosterior(same(x_t, *self.schedule(t)))

    torch.manual_seed(0)
    sampler = getattr(samplers, name)(Wrapped(), steps=steps, silent=True, dtype=torch.float64)
    alpha, sigma = (float(v) for v in VPSchedule()(torch.ones((), dtype=torch.float64)))
    start = alpha * same.case.mean + (alpha**2 * same.case.variance + sigma**2).sqrt() * first_noise(items)[:, None]
    return sampler(start)


AZULA = ("DDPMSampler", "DDIMSampler", "HeunSampler", "zABSampler", "xEABSampler", "REABSampler")


def peers(case: Bed, calls: tuple[int, ...], items: int) -> Iterator[Found]:
    """Records of every solver of a library that is there; a call that fails is recorded with its reason."""
    jobs: list[tuple[str, str, Callable[[Same, int], Tensor]]] = []
    if find_spec("diffusers"):
        for name, make in diffusers_makers().items():
            jobs.append(("diffusers", name, lambda same, n, make=make: run_diffusers(make, same, n, items)))
    if find_spec("azula"):
        for name in AZULA:
            jobs.append(
                ("azula", name.removesuffix("Sampler"), lambda same, n, name=name: run_azula(name, same, n, items))
            )
    for library, name, run in jobs:
        for nfe in calls:
            steps, same = (nfe + 1) // 2 if "Heun" in name else nfe, Same(case)
            head = {"bed": case.name, "library": library, "rule": name, "nfe": nfe}
            try:
                with torch.no_grad():
                    x = run(same, steps)
            except Exception as error:  # whatever a library raises is a finding
                yield head | {"failed": f"{type(error).__name__}: {error}"[:200]}, None
                continue
            if same.calls <= nfe:
                yield head | {"made": same.calls} | case.errors(x[: items // 2]), x.reshape(items, 1, SIZE)


# ---- one of ours against one of theirs -------------------------------------------------------------------------------


def score(r: Record) -> float:
    """What a solver is selected by."""
    return math.hypot(r["mean"], r["variance"])


def best(found: list[Found], case: str, nfe: int, mine: bool) -> Found | None:
    """The solver of one side that is selected at a number of calls."""
    some = [f for f in found if f[0]["bed"] == case and f[0]["nfe"] == nfe and "mean" in f[0]]
    some = [f for f in some if (f[0]["library"] == "retrodict") == mine and math.isfinite(score(f[0]))]
    return min(some, key=lambda f: score(f[0]), default=None)


def compare(case: Bed, one: Found, other: Found, draws: int = 400) -> Record:
    """Both errors of the two on the half that has not selected them, and the bands of the differences of their squares,
    theirs minus ours: "ours", "tie" or "theirs" for each.
    """
    halves = [None if x is None else x[len(x) // 2 :].reshape(-1, SIZE).double() for _, x in (one, other)]
    count = len(halves[1]) if halves[1] is not None else 1
    generator = torch.Generator().manual_seed(7)
    picks = torch.randint(count, (draws, count), generator=generator)
    resampled = torch.zeros(draws, count, dtype=torch.float64).scatter_add_(
        1, picks, torch.full(picks.shape, 1 / count, dtype=torch.float64)
    )
    once = torch.full((1, count), 1 / count, dtype=torch.float64)
    errors = []
    for (record, _), x in zip((one, other), halves, strict=True):
        squares = [torch.full((draws + 1,), record[k] ** 2, dtype=torch.float64) for k in ("mean", "variance")]
        if x is not None:
            squares = [
                torch.cat(pair) for pair in zip(case.of(x, once, 1)[:2], case.of(x, resampled, 2)[:2], strict=True)
            ]
        errors.append(squares)
    out: Record = {"bed": case.name, "nfe": one[0]["nfe"], "ours": one[0]["rule"]}
    out["theirs"] = f"{other[0]['library']} {other[0]['rule']}"
    for k, name in enumerate(("mean", "variance")):
        a, b = errors[0][k], errors[1][k]
        low, high = torch.quantile((b - a)[1:], torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        out[name] = [math.sqrt(max(float(v[0]), 0.0)) for v in (a, b)]
        out[f"{name} band"] = [low, high]
        out[f"{name} won"] = "ours" if low > 0 else "theirs" if high < 0 else "tie"
    return out


# ---- claims ---------------------------------------------------------------------------------------------------------


def claims(items: int) -> list[Record]:
    """Distance to the converged flow, from the same noise, at 5, 10 and 20 calls on both mixtures; chains by law."""
    found: list[Record] = []
    for name in ("two modes", "across bands"):
        case = bed(name)
        process, noise = case.denoiser.process, Drawn(1)
        seeds = torch.arange(items)
        settings = {"mean": case.mean, "spectrum": case.variance, "dtype": torch.float64, "noise": noise}
        start = start_state(process, seeds, (1, SIZE), **settings)
        fine = make_grid(process, 128, "logsnr", last=1e-3)
        exact = sample(case.denoiser, make_plan("exponential", process, fine), start, seeds=seeds).x
        for nfe in (5, 10, 20):
            for what, x in _claimed(case, start, seeds, nfe, noise):
                path = float(((x - exact).square().mean() / exact.square().mean()).sqrt())
                found.append({"bed": name, "nfe": nfe, "what": what, "error": path})
        found += _chains(case)
    return found


def _claimed(case: Bed, start: Tensor, seeds: Tensor, nfe: int, noise: Drawn) -> Iterator[tuple[str, Tensor]]:
    """Ends of every solver that a claim names, at `nfe` calls; two-call steps take half as many."""
    process = case.denoiser.process
    times = make_grid(process, nfe, "logsnr", last=1e-3)
    half = make_grid(process, nfe // 2, "rho", last=1e-3)
    plans = {
        "2M": ("dpmpp2m", {}, times),
        "tAB 1": ("deis", {"order": 1}, times),
        "3M": ("exponential", {}, times),
        "tAB 2": ("deis", {"order": 2}, times),
        "3M published": ("exponential", {"form": "published"}, times),
        "pece2": ("pece2", {}, times),
        "ddim": ("ddim", {}, times),
        "bdia": ("bdia", {}, times),
        "bdia 0.5": ("bdia", {"gamma": 0.5}, times),
        "bdia gaussian": ("bdia", {"form": "gaussian"}, times),
        "heun": ("heun", {}, half),
    }
    for what, (rule, options, grid) in plans.items():
        plan = make_plan(rule, process, grid, case.variance, **options)
        yield what, sample(case.denoiser, plan, start, seeds=seeds).x
    for what, options in {"evodiff": {}, "lml": {"rho": 0.1}}.items():
        plan = make_stateful_plan(what, process, times, case.variance, **options)
        yield what, stateful_sample(case.denoiser, plan, start, seeds=seeds, noise=noise).x
    for gamma in (1.0, 0.5):
        yield f"bdia of heun {gamma:g}", _bdia_of_heun(case, start, half, gamma)


def _bdia_of_heun(case: Bed, w: Tensor, times: Tensor, gamma: float) -> Tensor:
    """BDIA with Heun's increment down and Euler's up, so that the one call at w_i serves both; two calls a step."""
    process, zero = case.denoiser.process, torch.zeros(1, dtype=torch.float64)

    def denoised(w: Tensor, t: Tensor) -> Tensor:
        return case.denoiser(w, t.expand(len(w)))

    older = None
    for i in range(len(times) - 1):
        now, after = times[i : i + 1], times[i + 1 : i + 2]
        D = denoised(w, now)
        keep, data = flow_weights(process, now, after, zero)
        guess = keep * w + data * D
        a, b = process.moments(now), process.moments(after)
        sigma, new = (m.s2.sqrt() / m.h for m in (a, b))
        slope = ((w / a.h - D) / sigma + (guess / b.h - denoised(guess, after)) / new) / 2
        moved = b.h * (w / a.h + (new - sigma) * slope)
        if older is not None:
            back, up = flow_weights(process, now, times[i - 1 : i], zero)
            moved = moved + gamma * (older - back * w - up * D)
        older, w = w, moved
    return w


CLAIMS = (
    ("data prediction beats noise prediction, order 2", "2M", "tAB 1"),
    ("data prediction beats noise prediction, order 3", "3M", "tAB 2"),
    ("the third order pays: 3M over 2M", "3M", "2M"),
    ("the right third-order coefficient beats the published one", "3M", "3M published"),
    ("EVODiff as released beats DDIM", "evodiff", "ddim"),
    ("its optimised scalars beat the Taylor values (`pece2`)", "evodiff", "pece2"),
    ("LML (rho 0.1) beats DDIM", "lml", "ddim"),
    ("BDIA, gamma 1, beats DDIM as a sampler", "bdia", "ddim"),
    ("BDIA, gamma 0.5, beats DDIM as a sampler", "bdia 0.5", "ddim"),
    ("BDIA, gamma 1, improves EDM's Heun", "bdia of heun 1", "heun"),
    ("BDIA, gamma 0.5, improves EDM's Heun", "bdia of heun 0.5", "heun"),
    ("exact in the Gaussian part is better than DDIM inside BDIA", "bdia gaussian", "bdia"),
    *((f"DMCMC accelerates {rule}", f"dmcmc {rule}", f"{rule} alone") for rule in ("ddim", "dpmpp2m", "heun", "unipc")),
)
"""(claim, the solver that it speaks for, the one that it is compared with)."""


CLAIMS_HEAD = """### What papers claim of single rules

On the two beds with modes, error of the end against the converged flow from the same noise (of chains: of the law), at
5, 10 and 20 calls (`python benchmarks/solvers.py --claims`); grids even in log-SNR, Heun's that of EDM (rho 7):

"""
"""What stands above the table of claims in the document."""


def claim_table(records: list[Record]) -> str:
    """Claim, held or not, and the errors of both in every cell where both are."""
    lines = ["| claim | held | error of it / of the other, at each number of calls |", "|---|---|---|"]
    for claim, one, other in CLAIMS:
        cells, held = [], []
        for name in ("two modes", "across bands"):
            rows = {
                w: {r["nfe"]: r["error"] for r in records if r["bed"] == name and r["what"] == w} for w in (one, other)
            }
            both = sorted(rows[one].keys() & rows[other].keys())
            held += [rows[one][n] < rows[other][n] for n in both]
            cells.append(f"{name} " + ", ".join(f"{n}: {rows[one][n]:.3g} / {rows[other][n]:.3g}" for n in both))
        verdict = "yes" if all(held) else "no" if not any(held) else f"in {sum(held)} of {len(held)}"
        lines.append(f"| {claim} | {verdict} | {'; '.join(cells)} |")
    return "\n".join(lines)


def _spaced(rule: str) -> str:
    """The grid with which a rule was published."""
    return "rho" if rule == "heun" else "logsnr"


def _chains(case: Bed, chains: int = 12, each: int = 8) -> list[Record]:
    """Denoising MCMC with four integrators, its warm-up not counted, beside the integrator alone at the same calls."""
    found = []
    for rule in ("ddim", "dpmpp2m", "heun", "unipc"):
        for budget in (10, 20):
            skip = budget // 2
            down = max(1, (budget - skip) // RULES[rule].calls_per_step)
            process = case.denoiser.process
            times = make_grid(process, down, _spaced(rule), last=1e-3)
            plan = make_stateful_plan("dmcmc", process, times, case.variance, rule=rule, skip=skip, pick="draw")
            settings = {"mean": case.mean, "spectrum": case.variance, "dtype": torch.float64}
            start, drawn = start_state(process, torch.arange(chains), (1, SIZE), **settings), []
            for k in range(chains):
                run = Run(case.denoiser, plan, torch.tensor([k]), noise=Drawn(k))
                samples = plan.rule.samples(run, start[k : k + 1])  # type: ignore[attr-defined]
                drawn += [next(samples) for _ in range(each)]
            head = {"bed": case.name, "nfe": budget}
            found.append(head | {"what": f"dmcmc {rule}", "error": score(case.errors(torch.cat(drawn)))})
            steps = budget // RULES[rule].calls_per_step
            alone = make_plan(rule, process, make_grid(process, steps, _spaced(rule), last=1e-3), case.variance)
            alike = judged(case, alone, 2 * chains * each)[0]  # errors of half of them: as many draws
            found.append(head | {"what": f"{rule} alone", "error": score(alike)})
    return found


# ---- output ---------------------------------------------------------------------------------------------------------


def table(pairs: list[Record]) -> str:
    """Bed by bed: the two that were selected, their errors of mean and variance, and who is better beyond the band."""
    lines = [
        "| bed | calls | ours | of others | error of the mean | | error of the variance | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for p in pairs:
        cells = [p["bed"], p["nfe"], f"`{p['ours']}`", p["theirs"]]
        for name in ("mean", "variance"):
            a, b = p[name]
            cells += [f"{a:.3f}, {b:.3f}", p[f"{name} won"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    counts = []
    for name in ("mean", "variance"):
        won = [p[f"{name} won"] for p in pairs]
        counts.append(f"{name}: ours {won.count('ours')}, tie {won.count('tie')}, theirs {won.count('theirs')}")
    return "\n".join([*lines, "", f"Of {len(pairs)} cells, {'; '.join(counts)}."])


def picture(records: list[Record], pairs: list[Record], path: Path, items: int) -> None:
    """Error of the variance against calls, three beds: every solver in pale, the selected one of each side in color."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(BEDS), figsize=(12, 4), sharey=True, layout="constrained")
    records, floor, calls = [r for r in records if "variance" in r], 1e-2, sorted({p["nfe"] for p in pairs})
    for axis, case in zip(axes, BEDS, strict=True):
        for key in sorted({(r["library"], r["rule"]) for r in records}):
            line = [r for r in records if (r["library"], r["rule"]) == key and r["bed"] == case]
            color = "#9db8d2" if key[0] == "retrodict" else "#e3b9a0"
            heights = [max(r["variance"], floor) for r in line]
            axis.plot([r["nfe"] for r in line], heights, color=color, lw=0.8, zorder=1)
        here = [p for p in pairs if p["bed"] == case]
        for k, (color, label) in enumerate((("#1f5fa8", "of retrodict"), ("#c4501b", "of diffusers, azula"))):
            heights = [max(p["variance"][k], floor) for p in here]
            axis.plot([p["nfe"] for p in here], heights, "o-", color=color, lw=2.2, ms=5, label=label, zorder=3)
        if case != "gaussian":
            axis.axhspan(floor / 2, math.sqrt(2 / (items // 2)), color="#eeeeee", zorder=0)
        axis.set(xscale="log", yscale="log", xlabel="network calls", title=case, ylim=(floor * 0.85, 3))
        axis.set_xticks(calls, [str(n) for n in calls], fontsize=8)
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("error of the variance, part of the exact one")
    axes[0].legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0.0, 0.08))
    axes[0].text(0.97, 0.05, "bottom: 1 % or less", transform=axes[0].transAxes, ha="right", fontsize=8)
    axes[-1].text(0.03, 0.2, "gray: what the draws cannot tell", transform=axes[-1].transAxes, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run, write and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--items", type=int, default=2048, help="draws: half of them select, half compare")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--rules", default=",".join(RULES), help="rules of ours")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--claims", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    started, calls = time.process_time(), tuple(options.calls)
    if options.claims:
        records: list[Record] = claims(options.items // 4)
        text, name, out = (
            CLAIMS_HEAD + claim_table(records),
            "solver-claims",
            options.out.with_name("solvers_claims.json"),
        )
        pairs: list[Record] = []
    else:
        found: list[Found] = []
        for name in BEDS:
            case = bed(name)
            found += ours(case, calls, options.items, options.rules.split(","))
            print(f"{name}: {time.process_time() - started:.0f} s of CPU", flush=True)
            found += [] if options.no_peers else peers(case, calls, options.items)
            print(f"{name}: {time.process_time() - started:.0f} s of CPU", flush=True)
        chosen = [(bed(name), best(found, name, n, True), best(found, name, n, False)) for name in BEDS for n in calls]
        pairs = [compare(case, a, b) for case, a, b in chosen if a is not None and b is not None]
        records, out, text, name = [r for r, _ in found], options.out, table(pairs), "solvers"
        if options.out == RESULT and pairs:
            picture(records, pairs, DOCS / "images" / "solvers.png", options.items)
    print(text)
    out.parent.mkdir(exist_ok=True)
    seconds = round(time.process_time() - started)
    print(f"{seconds} s of CPU")
    record = {"items": options.items, "seconds": seconds, "pairs": pairs, "records": records}
    out.write_text(json.dumps(record, indent=1) + "\n")
    if options.out == RESULT and (pairs or options.claims):
        replace_block(DOCS / "concepts-samplers.md", name, text)


if __name__ == "__main__":
    main()
