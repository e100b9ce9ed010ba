"""Every rule against the exact law at 1 to 32 network calls, beside solvers of other libraries on the same denoiser.

    python benchmarks/solvers.py              # all; writes benchmarks/results/solvers.json, .png and prints the table
    python benchmarks/solvers.py --claims     # what papers claim of single rules, on the same beds

Three beds of 16 coefficients with variances (1 + k)^-2, VP, unconditional, the exact denoiser:
gaussian; "two modes", +-1.3 deviations along the strongest coefficient; "across bands", +-0.77 deviations of *every*
coefficient at once, which no covariance per coefficient knows.  Error of the mean in deviations (root mean square over
coefficients), of the total variance, and of the variance along the line between the modes, as parts of the exact one.
Gaussian rows of ours are exact (the card); the others are `--items` draws, with the standard error beside.
Peers (diffusers, azula), where importable, run the very same function in the same process with their own defaults.
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
from retrodict.processes.observation import Moments
from retrodict.processes.scalar import vp
from retrodict.samplers import RULES, Plan, make_plan, sample, start_state
from retrodict.samplers.card import gaussian_card, start_law
from retrodict.samplers.optimal import optimal_grid
from retrodict.samplers.plan import make_grid
from retrodict.samplers.stateful import Run, stateful_sample
from retrodict.samplers.stateful_rules import make_stateful_plan

SIZE = 16
CALLS = (1, 2, 4, 6, 8, 10, 12, 16, 20, 32)
RESULT = Path(__file__).parent / "results" / "solvers.json"
BEDS = ("gaussian", "two modes", "across bands")
OPTIMISED = ("dpmpp2m",)
Record = dict[str, Any]


@dataclass(frozen=True)
class Bed:
    """Data, their exact denoiser on VP, and the line along which they have modes."""

    name: str
    denoiser: MixtureDenoiser
    mean: Tensor
    variance: Tensor
    line: Tensor

    def errors(self, x: Tensor) -> Record:
        """Errors of samples `(n, 1, d)` and their standard errors."""
        x = x.reshape(len(x), -1).double()
        x = x[torch.isfinite(x).all(1)] if not bool(torch.isfinite(x).all()) else x
        if len(x) < 2:
            return {"mean": math.inf, "variance": math.inf, "along": math.inf, "error": 0.0}
        count, centered = len(x), x - x.mean(0)
        mean = ((x.mean(0) - self.mean).square() / self.variance).mean().sqrt()
        squares = centered.square().sum(1)
        total = squares.mean() / self.variance.sum()
        along = (centered @ self.line).square().mean() / (self.line @ self.covariance() @ self.line)
        error = squares.std() / squares.mean() / math.sqrt(count)
        return {
            "mean": float(mean),
            "variance": float(total - 1),
            "along": float(along - 1),
            "error": float(error),
            "mean floor": 1 / math.sqrt(count),
        }

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
    mode = (share * L).sqrt()
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    means = torch.stack([mode, -mode])
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


def judged(case: Bed, plan: Plan, items: int) -> Record:
    """Errors of a plan on a bed; exact on Gaussian data."""
    process = case.denoiser.process
    if case.name == "gaussian":
        card, (_, start) = gaussian_card(plan, case.variance, 1.0), start_law(process, case.variance)
        mean = card.offset + card.start * process.moments(plan.times[:1]).h[0, 0] - 1
        variance = card.start**2 * start + card.variance
        ratio = variance / case.variance
        return {
            "mean": float((mean.square() / case.variance).mean().sqrt()),
            "variance": float((ratio - 1).square().mean().sqrt()),
            "along": float(ratio[0] - 1),
            "error": 0.0,
            "mean floor": 0.0,
        }
    seeds, noise = torch.arange(items), Drawn(1)
    settings = {"mean": case.mean, "spectrum": case.variance, "dtype": torch.float64, "noise": noise}
    start = start_state(process, seeds, (1, SIZE), **settings)
    return case.errors(sample(case.denoiser, plan, start, seeds=seeds, noise=noise).x)


def ours(case: Bed, calls: tuple[int, ...], items: int, rules: list[str]) -> Iterator[Record]:
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
                    found = judged(case, plan, items)
                    yield {"bed": case.name, "library": "retrodict", "rule": name, "nfe": nfe, "made": plan.nfe} | found


# ---- peers ----------------------------------------------------------------------------------------------------------


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
        "DEIS": lambda: d.DEISMultistepScheduler(**beta),
        "Heun": lambda: d.HeunDiscreteScheduler(**beta),
    }


def run_diffusers(make: Callable[[], Any], same: Same, steps: int, items: int) -> Tensor:
    """Samples of a scheduler."""
    scheduler, noise = make(), torch.Generator().manual_seed(0)
    scheduler.set_timesteps(steps)
    x = torch.randn(items, 1, 1, SIZE, generator=noise, dtype=torch.float64) * float(scheduler.init_noise_sigma)
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
    return sampler(sampler.init((items, 1, 1, SIZE), mean=same.case.mean, var=same.case.variance))


AZULA = ("DDPMSampler", "DDIMSampler", "HeunSampler", "zABSampler", "xEABSampler", "REABSampler")


def peers(case: Bed, calls: tuple[int, ...], items: int) -> Iterator[Record]:
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
                yield head | {"failed": f"{type(error).__name__}: {error}"[:200]}
                continue
            if same.calls <= nfe:
                found = case.errors(x)
                if case.name == "gaussian":  # as ours: root mean square over coefficients
                    ratio = x.reshape(items, -1).double().var(0) / case.variance
                    found["variance"] = float((ratio - 1).square().mean().sqrt())
                    found["error"] = math.sqrt(2 / items)
                yield head | {"made": same.calls} | found


# ---- claims ---------------------------------------------------------------------------------------------------------


def claims(items: int) -> list[Record]:
    """What is said of single rules: total variance, and along the modes, at 5, 10 and 20 calls on both mixtures."""
    found: list[Record] = []

    def add(claim: str, what: str, case: Bed, nfe: float, errors: Record) -> None:
        found.append({"claim": claim, "what": what, "bed": case.name, "nfe": nfe} | errors)

    for name in ("two modes", "across bands"):
        case = bed(name)
        process, noise = case.denoiser.process, Drawn(1)
        seeds = torch.arange(items)
        settings = {"mean": case.mean, "spectrum": case.variance, "dtype": torch.float64, "noise": noise}
        start = start_state(process, seeds, (1, SIZE), **settings)
        for nfe in (5, 10, 20):
            times = make_grid(process, nfe, "logsnr", last=1e-3)
            fine = make_grid(process, 256, "logsnr", last=1e-3)
            exact = sample(case.denoiser, make_plan("exponential", process, fine), start, seeds=seeds).x

            def distance(x: Tensor, exact: Tensor = exact) -> Record:
                return {"path": float(((x - exact).square().mean() / exact.square().mean()).sqrt())}

            plans = {
                "data, 2M": ("dpmpp2m", {}),
                "noise, tAB 1": ("deis", {"order": 1}),
                "data, 3M": ("exponential", {}),
                "noise, tAB 2": ("deis", {"order": 2}),
                "3M as published": ("exponential", {"form": "published"}),
                "pece2": ("pece2", {}),
                "unipc": ("unipc", {}),
                "ddim": ("ddim", {}),
            }
            for what, (rule, options) in plans.items():
                x = sample(case.denoiser, make_plan(rule, process, times, **options), start, seeds=seeds).x
                add("solver", what, case, nfe, distance(x) | case.errors(x))
            for what, options in {"evodiff": {}, "lml": {"rho": 0.1}, "lml 0.3": {"rho": 0.3}}.items():
                plan = make_stateful_plan(what.split()[0], process, times, case.variance, **options)
                x = stateful_sample(case.denoiser, plan, start, seeds=seeds, noise=noise).x
                add("solver", what, case, nfe, distance(x) | case.errors(x))
        found += _chains(case)
    return found


def _chains(case: Bed, chains: int = 16, each: int = 12) -> list[Record]:
    """Denoising MCMC with four integrators, its warm-up not counted, beside the integrator alone at the same calls."""
    found = []
    for rule in ("ddim", "dpmpp2m", "heun", "unipc"):
        for budget in (10, 20):
            skip = budget // 2
            down = max(1, (budget - skip) // RULES[rule].calls_per_step)
            process = case.denoiser.process
            times = make_grid(process, down, "logsnr", last=1e-3)
            plan = make_stateful_plan("dmcmc", process, times, case.variance, rule=rule, skip=skip, pick="draw")
            settings = {"mean": case.mean, "spectrum": case.variance, "dtype": torch.float64}
            start, drawn = start_state(process, torch.arange(chains), (1, SIZE), **settings), []
            for k in range(chains):
                run = Run(case.denoiser, plan, torch.tensor([k]), noise=Drawn(k))
                samples = plan.rule.samples(run, start[k : k + 1])  # type: ignore[attr-defined]
                drawn += [next(samples) for _ in range(each)]
            head = {"claim": "DMCMC", "bed": case.name, "nfe": budget}
            found.append(head | {"what": f"dmcmc {rule}"} | case.errors(torch.cat(drawn)))
            alone = make_plan(
                rule,
                process,
                make_grid(process, budget // RULES[rule].calls_per_step, "logsnr", last=1e-3),
                case.variance,
            )
            found.append(head | {"what": f"{rule} alone"} | judged(case, alone, chains * each))
    return found


# ---- output ---------------------------------------------------------------------------------------------------------


def best(records: list[Record], case: str, nfe: int, key: str, mine: bool) -> Record | None:
    """The most accurate solver at a number of calls: ours, or another library's."""
    some = [r for r in records if r["bed"] == case and r["nfe"] == nfe and key in r]
    some = [r for r in some if (r["library"] == "retrodict") == mine and math.isfinite(r[key])]
    return min(some, key=worst, default=None)


def worst(r: Record) -> float:
    """The larger error of the two variances: in total, and along the line between the modes."""
    return abs(r["variance"]) if r["bed"] == "gaussian" else max(abs(r["variance"]), abs(r["along"]))


def print_table(records: list[Record], calls: tuple[int, ...]) -> None:
    """Best of ours and best of the peers at every number of calls."""
    for case in BEDS:
        print(
            f"\n{case}: least error of the variance (in total or along the modes), and error of the mean in deviations"
        )
        for nfe in calls:
            cells = []
            for mine in (True, False):
                r = best(records, case, nfe, "variance", mine)
                text = "-" if r is None else f"{r['rule']:<26} {worst(r):8.1e} {r['mean']:8.1e}"
                cells.append(f"{'' if mine or r is None else r['library'] + ' '}{text}")
            print(f"{nfe:4d}  {cells[0]:<48} | {cells[1]}")


def picture(records: list[Record], path: Path, calls: tuple[int, ...]) -> None:
    """Error of the variance against calls, three beds: every solver in gray, the best of each side in color."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(BEDS), figsize=(12, 4), sharey=True, layout="constrained")
    for axis, case in zip(axes, BEDS, strict=True):
        floor = 1e-3
        for key in sorted({(r["library"], r["rule"]) for r in records}):
            line = [r for r in records if (r["library"], r["rule"]) == key and r["bed"] == case and "variance" in r]
            xs, ys = [r["nfe"] for r in line], [max(worst(r), floor) for r in line]
            color = "#9db8d2" if key[0] == "retrodict" else "#e3b9a0"
            axis.plot(xs, ys, color=color, lw=0.8, zorder=1)
        for mine, color, label in (
            (True, "#1f5fa8", "best of retrodict"),
            (False, "#c4501b", "best of diffusers, azula"),
        ):
            found = [(n, best(records, case, n, "variance", mine)) for n in calls]
            points = [(n, max(worst(r), floor)) for n, r in found if r is not None]
            if points:
                axis.plot(*zip(*points, strict=True), "o-", color=color, lw=2.2, ms=5, label=label, zorder=3)
        errors = [r["error"] for r in records if r["bed"] == case and r.get("error")]
        if errors:
            axis.axhspan(floor, sorted(errors)[len(errors) // 2], color="#eeeeee", zorder=0)
        axis.set(xscale="log", yscale="log", xlabel="network calls", title=case, ylim=(floor * 0.9, 3))
        axis.set_xticks(calls, [str(n) for n in calls], fontsize=8)
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("error of the variance, part of the exact one")
    axes[0].legend(frameon=False, fontsize=9)
    axes[-1].text(0.97, 0.03, "gray: error of sampling", transform=axes[-1].transAxes, ha="right", fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run, write and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--items", type=int, default=2048, help="draws on the mixtures and of peers")
    parser.add_argument("--calls", type=lambda s: tuple(map(int, s.split(","))), default=CALLS)
    parser.add_argument("--rules", default=",".join(RULES), help="rules of ours")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--claims", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    started = time.process_time()
    if options.claims:
        records = claims(options.items)
        for r in records:
            path = f"path {r['path']:.4f}  " if "path" in r else ""
            errors = f"variance {r['variance']:+.3f} along {r['along']:+.3f}"
            print(f"{r['bed']:<13} {r['nfe']:>3} {r['what']:<18} {path}{errors}")
        out = options.out.with_name("solvers_claims.json")
    else:
        records = []
        for name in BEDS:
            case = bed(name)
            records += ours(case, options.calls, options.items, options.rules.split(","))
            records += [] if options.no_peers else peers(case, options.calls, options.items)
            print(f"{name}: {time.process_time() - started:.0f} s of CPU")
        print_table(records, options.calls)
        picture(records, options.out.with_suffix(".png"), options.calls)
        out = options.out
    out.parent.mkdir(exist_ok=True)
    record = {"items": options.items, "seconds": round(time.process_time() - started), "records": records}
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
