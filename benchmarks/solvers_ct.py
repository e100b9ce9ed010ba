"""Solvers of the probability flow on a trained network: distance to the converged flow at 4 to 64 network calls.

    python benchmarks/solvers_ct.py [--patients 4] [--members 2]      (writes results and the table of the documents)

The posterior flow of the shipped network "ct": VP from noise to an image, given a measurement of a validation patient
(64 x 64 pixels of 1 mm, a sharp kernel under 60 HU of colored noise), which is fused to the state at every call.  There
is no exact law of a trained network, so the reference is the same flow from the same noise in 192 steps of order three,
and its own distance to that in 96 steps is printed.  The error is the root mean square distance to it over the root
mean square deviation of the converged members about the denoised measurement: 1 is as far off as another draw.  Solvers
of other libraries (diffusers, where importable) run the very same function from the same noise, and end where theirs
end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patient_slices import body_corner, there
from processes import SPACING, ending
from retrodict._check import InputError
from retrodict._random import key, member_seeds
from retrodict.bases import Fourier
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import open_model
from retrodict.processes.observation import Cond, Moments, fuse
from retrodict.processes.recipes import external
from retrodict.processes.scalar import vp
from retrodict.samplers import RULES, make_plan, sample, start_state
from retrodict.samplers.plan import make_grid
from solvers import diffusers_makers
from tables import replace_block
from unseen import cases

SIDE = 64
CALLS = (4, 6, 8, 10, 12, 16, 20, 32, 64)
OURS = [name for name, rule in RULES.items() if rule.deterministic]
RESULT = Path(__file__).parent / "results" / "solvers_ct.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "concepts-samplers.md"
STOCHASTIC = ("DDPM", "SDE-DPM++2M")
LAST = 1e-3
"""The time at which flows even in log-SNR end, before the last denoised image."""
Record = dict[str, Any]


class Posterior:
    """The denoiser of patients given their measurements, and the noise that all solvers start from."""

    def __init__(self, patients: int, members: int) -> None:
        model, found = open_model("ct"), cases(SPACING, patients)
        basis = Fourier((SIDE, SIDE), (SPACING,) * 2)
        end = ending("low-dose", basis)
        self.denoiser: NetDenoiser = model.denoiser.on((SIDE, SIDE)).at(external(vp(basis), end))
        truths = []
        for case in found:
            top, left = body_corner(case.truth, SIDE)
            truths.append(model.intensity.encode(case.truth[..., top : top + SIDE, left : left + SIDE]))
        seeds = torch.tensor([key(0, "solvers-ct", case.number) for case in found])
        self.patients = len(found)
        self.y = end.pairing.simulate(torch.cat(truths), basis, seeds).repeat_interleave(members, 0)
        self.seeds = torch.cat([member_seeds(0, case.number, members) for case in found])
        prior = self.denoiser.prior()
        assert prior is not None
        self.mean, variance = prior
        self.variance = variance[0] if variance.ndim > 3 else variance
        self.calls = 0

    def start(self) -> Tensor:
        """States at t = 1, coefficients."""
        process, shape = self.denoiser.process, (1, SIDE, SIDE)
        return start_state(process, self.seeds, shape, measurement=self.y, mean=self.mean, spectrum=self.variance)

    def __call__(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """E[x_0 | alpha x_0 + sigma z = x, y], as a function of the state alone; counts its calls."""
        self.calls += 1
        process = self.denoiser.process
        assert process.measurement is not None
        a, s = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 1, 1, 1)[:1] for v in (alpha, sigma))
        image = x.reshape(self.y.shape).float()
        u, m = fuse(process.basis.forward(image), Moments(a, 0 * a, s**2), process.basis.forward(self.y),
                    Moments(*(v.reshape(1, *v.shape[-3:]) for v in process.measurement)))  # fmt: skip
        return self.denoiser.observe(u, m).mean.reshape(x.shape).to(x)


def ours(bed: Posterior, rule: str, calls: int) -> Tensor | None:
    """The end of one of our flows of at most `calls` calls and more than two thirds of them."""
    process, entry = bed.denoiser.process, RULES[rule]
    steps = calls // entry.calls_per_step
    last = {"last": LAST} if entry.grid == "logsnr" else {}
    try:
        plan = make_plan(rule, process, make_grid(process, steps, entry.grid, spectrum=bed.variance, **last),
                         bed.variance)  # fmt: skip
    except InputError:
        return None
    if not 2 * calls < 3 * plan.nfe <= 3 * calls:
        return None
    with torch.inference_mode():
        return sample(bed.denoiser, plan, bed.start(), seeds=bed.seeds, cond=Cond(bed.y)).x


def theirs(bed: Posterior, make: Callable[[], Any], steps: int) -> Tensor:
    """The end of a scheduler of diffusers."""
    scheduler = make()
    scheduler.set_timesteps(steps)
    x = bed.denoiser.process.basis.inverse(bed.start()).double() * float(scheduler.init_noise_sigma)
    table = scheduler.alphas_cumprod.double()
    ratios = ((1 - table) / table).sqrt()
    with torch.inference_mode():
        for t in scheduler.timesteps:
            scaled, index = scheduler.scale_model_input(x, t), float(t)
            low = min(int(index), len(table) - 2)
            sigma = (ratios[low].log() * (low + 1 - index) + ratios[low + 1].log() * (index - low)).exp()
            a, s = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
            x = scheduler.step((scaled - a * bed(scaled, a, s)) / s, t, x).prev_sample
    return x


def measured(bed: Posterior, calls: tuple[int, ...]) -> Iterator[Record]:
    """A record for every solver and number of calls, the reference first."""
    reference, coarser = ours(bed, "exponential", 192), ours(bed, "exponential", 96)
    assert reference is not None
    assert coarser is not None
    zero = torch.zeros((), dtype=torch.float64)
    spread = float((reference - bed(torch.zeros_like(reference), zero, zero + 1)).double().square().mean().sqrt())

    def error(x: Tensor) -> list[float]:
        """By patient."""
        off = (x.reshape(reference.shape).double() - reference).square().flatten(1).mean(1)
        return (off.reshape(bed.patients, -1).mean(1).sqrt() / spread).tolist()

    yield {"library": "retrodict", "rule": "reference, 96 steps", "nfe": 96, "error": error(coarser)}
    for n in calls:
        for rule in OURS:
            found = ours(bed, rule, n)
            if found is not None:
                yield {"library": "retrodict", "rule": rule, "nfe": n, "error": error(found)}
        for name, make in _peers().items():
            bed.calls = 0
            x = theirs(bed, make, (n + 1) // 2 if name == "Heun" else n)
            if bed.calls <= n:
                yield {"library": "diffusers", "rule": name, "nfe": n, "error": error(x)}


def _peers() -> dict[str, Callable[[], Any]]:
    try:
        return {name: make for name, make in diffusers_makers().items() if name not in STOCHASTIC}
    except ImportError:
        return {}


def table(records: list[Record]) -> str:
    """Solver by calls; the least of each column in bold."""
    rows: dict[tuple[str, str], dict[int, float]] = {}
    reference, *rest = records
    for r in rest:
        rows.setdefault((r["library"], r["rule"]), {})[r["nfe"]] = sum(r["error"]) / len(r["error"])
    calls = sorted({r["nfe"] for r in rest})
    least = {n: min(row[n] for row in rows.values() if n in row) for n in calls}
    lines = ["| solver | " + " | ".join(f"{n} calls" for n in calls) + " |", "|---" * (1 + len(calls)) + "|"]
    for (library, rule), row in rows.items():
        cells = ["" if n not in row else f"**{row[n]:.3f}**" if row[n] == least[n] else f"{row[n]:.3f}" for n in calls]
        lines.append(f"| {f'`{rule}`' if library == 'retrodict' else f'{rule}, {library}'} | {' | '.join(cells)} |")
    won = sum(any(abs(row.get(n, 9) - least[n]) == 0 for (lib, _), row in rows.items() if lib == "retrodict")
              for n in calls)  # fmt: skip
    own = sum(reference["error"]) / len(reference["error"])
    count = len(reference["error"])
    said = (f"{count} patients; least of all is one of ours in {won} of {len(calls)} columns; the reference is "
            f"{own:.4f} from that of half its steps.")  # fmt: skip
    return "\n".join([*lines, "", said])


def main() -> None:
    """Run, write and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if not there():
        raise SystemExit("the patients of the benchmarks are not there: see docs/figures.md")
    started = time.process_time()
    records = list(measured(Posterior(options.patients, options.members), tuple(options.calls)))
    text = table(records)
    print(text)
    seconds = round(time.process_time() - started)
    settings = {"patients": options.patients, "members": options.members, "seconds": seconds}
    options.out.write_text(json.dumps(settings | {"records": records}, indent=1) + "\n")
    if options.out == RESULT:
        replace_block(PAGE, "solvers-ct", text)


if __name__ == "__main__":
    main()
