"""What is claimed of residual, mean-reverting and bridge processes, and whether it holds: closed forms, no network.

    python benchmarks/residual_claims.py    # writes benchmarks/results/residual-claims.json and prints the table

Data are Gaussian, N(m, L) per coefficient, or a mixture of two; denoisers are exact, so that what differs is the
process and the sampler.  The table of `docs/processes/residual.md` is this one.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import retrodict as rd
from retrodict._random import white
from retrodict.denoisers.denoiser import FunctionDenoiser
from retrodict.processes.process import Process
from retrodict.processes.shift import resshift_nodes

FILE = Path(__file__).parent / "results" / "residual-claims.json"
ONE = rd.Pixel((1,))


@dataclass(frozen=True)
class Claim:
    """One row: who says what, whether it held here, and the figure."""

    source: str
    claim: str
    held: str
    figure: str


def at(*t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def one(name: str, **options) -> Process:
    return rd.PROCESSES[name](ONE, **options)


def sd(process: Process, t: float, L: float) -> float:
    m = process.moments(at(t))
    return math.sqrt(float(m.h**2 * L + m.s2))


def on_log_snr(process: Process, first: float, last: float, n: int) -> Tensor:
    return rd.time_at(process, torch.exp(-torch.linspace(first, last, n + 1, dtype=torch.float64)))


def errors(process: Process, times: Tensor, L: float, rule: str, **options) -> float:
    """Relative error of the standard deviation of what a rule makes from the exact law at the first time."""
    plan = rd.make_plan(rule, process, times, at(L), **options)
    card = rd.gaussian_card(plan, at(L))
    made = math.sqrt(float(card.start**2) * sd(process, float(times[0]), L) ** 2 + float(card.variance))
    return made / sd(process, float(times[-1]), L) - 1


# ---- the family (R1, R2, R7, R8) ------------------------------------------------------------------------------------

FIVE = {"ir_sde": {}, "resshift": {}, "brownian_bridge": {"variance": 1.0}, "anchored_flow": {"level": 1.0}, "rddm": {}}


def one_solver() -> Claim:
    rows = []
    for name, options in FIVE.items():
        process = replace(one(name, **options), memory=None)
        times = on_log_snr(process, -3.0, 5.0, 10)
        rows.append([errors(process, times, 0.25, "exponential", order=k) for k in (1, 2, 3)])
    gap = max(abs(a - b) for row in rows for a, b in zip(row, rows[0], strict=True))
    told = ", ".join(f"{x:+.4f}" for x in rows[0])
    text = f"errors of the std at 10 calls, orders 1-3: {told}; largest difference between five processes {gap:.0e}"
    return Claim(
        "all", "IR-SDE, RDDM, ResShift, bridges and flows are processes of their own", "not held: one family", text
    )


def memories() -> Claim:
    found = {}
    for name in FIVE:
        process = one(name, **FIVE[name])
        times = on_log_snr(process, -3.0, 5.0, 10)
        found[name] = errors(process, times, 0.25, "sde_exponential", order=1)
    told = ", ".join(f"{k} {v:+.3f}" for k, v in found.items())
    return Claim(
        "all", "they differ in their stochastic steps, by the noise memory A alone", "held", f"std, 10 calls: {told}"
    )


def kernels() -> Claim:
    bridge, shift, gap = one("brownian_bridge", variance=4.0), one("resshift"), 0.0
    eta = [x**2 for x in resshift_nodes(2.0, 15, 0.3, 0.04)]
    for i in range(2, 16):
        a = bridge.conditional(at(math.sqrt(eta[i])), at(math.sqrt(eta[i - 1])))
        b = shift.conditional(at(i / 15), at((i - 1) / 15))
        gap = max(gap, *(float((x - y).abs()) for x, y in zip(a, b, strict=True)))
    text = (
        f"largest difference of a weight over 14 steps {gap:.0e}; what differs is the start, y or y + kappa sqrt(eta) z"
    )
    return Claim("I2SB, ResShift", "they are different reverse processes", "not held", text)


def pinned() -> Claim:
    process, L = one("i2sb"), 0.01
    drawn = errors(process, at(1.0, 0.8), L, "exponential", order=1)
    m = process.moments(at(0.8))
    text = f"std after a first step to t = 0.8: {drawn:+.3f} drawn (the part h^2 L is lacking), -1.000 without noise"
    assert float(m.s2) > 0
    return Claim("bridges", "a bridge has a probability flow from its end", "not held: the first step is drawn", text)


def noise_heads() -> Claim:
    ratios = {
        n: 1 / math.sqrt(float(1 / one(n).clock(at(t))))
        for n, t in (("ir_sde", 1.0), ("resshift", 1.0), ("rddm", 0.999))
    }
    told = ", ".join(f"{k} {v:.3g}" for k, v in ratios.items())
    text = (
        f"error of D per error of eps, s/h, at the degraded end: {told}; rddm, resfusion and bridges: infinite at t = 1"
    )
    return Claim("IR-SDE, RDDM (SM-N)", "a network may as well predict the noise", "not held at the degraded end", text)


# ---- solvers (R3 - R6) ----------------------------------------------------------------------------------------------


def third_order() -> Claim:
    """Observed orders with the exact state after two steps, VP, l = -4..4, N = 320 and 640."""
    found = {}
    for form in ("published", "exact"):
        last = []
        for n in (320, 640):
            process, L = one("vp"), 0.25
            times = on_log_snr(process, -4.0, 4.0, n)
            marks = [sd(process, float(t), L) for t in times]
            states, images = [marks[0]], []
            for i, row in enumerate(rd.make_plan("exponential", process, times, form=form)):
                m = process.moments(times[i : i + 1])
                images.insert(0, float(m.h * L / (m.h**2 * L + m.s2)) * states[0])
                new = sum(float(w) * x for w, x in zip((*row.keep, *row.data), (states[0], *images), strict=False))
                states.insert(0, marks[i + 1] if i < 2 else new)
            last.append(abs(states[0] / marks[-1] - 1))
        found[form] = math.log2(last[0] / last[1])
    text = f"observed order {found['published']:.2f} as released, {found['exact']:.2f} with twice the second difference"
    return Claim(
        "MR Sampler, DPM-Solver++", "the third-order multistep update is of order 3", "not held as released", text
    )


def thinned() -> Claim:
    """Posterior sampling at N of 100 times whose every step moves one training step, and with steps re-timed."""
    process, L, rows = one("ir_sde"), 0.01, []
    for n in (5, 10, 20, 50, 100):
        value = sd(process, 1.0, L) ** 2
        for i in (int(x) for x in reversed(torch.linspace(1, 100, n, dtype=torch.float64).tolist())):
            m = process.moments(at(i / 100))
            keep, data, std = (float(x) for x in process.conditional(at(i / 100), at((i - 1) / 100)))
            value = (keep + data * float(m.h * L / (m.h**2 * L + m.s2))) ** 2 * value + std**2
        rows.append(math.sqrt(value))
    timed = errors(process, at(1.0, 0.8, 0.6, 0.4, 0.2, 0.0), L, "sde_exponential", order=1)
    text = (
        f"std left at N = 5, 10, 20, 50, 100: {', '.join(f'{x:.3f}' for x in rows)} of 0.196 at the start, 0.1 wanted; "
        f"re-timed, N = 5: {0.1 * (1 + timed):.3f}"
    )
    return Claim(
        "MR Sampler, baselines", "posterior sampling at 5-50 calls is a baseline", "not held: it is not re-timed", text
    )


def fewer_calls() -> Claim:
    """Calls to a std within 5 %, 2 % and 1 % for L = 0.01 and 0.04: posterior steps against orders 2 and 3."""
    process = one("ir_sde")

    @cache
    def old(n: int) -> float:
        return max(abs(errors(process, _even(n), L, "ancestral")) for L in (0.01, 0.04))

    @cache
    def new(n: int) -> float:
        times = on_log_snr(process, -3.669064, 5.60396, n)
        orders = [max(abs(errors(process, times, L, "exponential", order=k)) for L in (0.01, 0.04)) for k in (2, 3)]
        return min(orders)

    parts = []
    for limit in (0.05, 0.02, 0.01):
        a, b = _needed(old, limit), _needed(new, limit)
        parts.append(f"{limit:.0%}: {a} against {b}, {a / b:.0f} times")
    text = "posterior steps against the better of orders 2 and 3, calls to a std within " + "; ".join(parts)
    return Claim("MR Sampler", "10-20 times fewer calls", "held for the spread of Gaussian data", text)


def _even(n: int) -> Tensor:
    return torch.linspace(1.0, 0.0, n + 1, dtype=torch.float64)


def _needed(error: Callable[[int], float], limit: float) -> int:
    for n in (
        2,
        3,
        4,
        5,
        6,
        8,
        10,
        12,
        16,
        20,
        24,
        32,
        40,
        50,
        64,
        80,
        100,
        128,
        160,
        200,
        256,
        320,
        400,
        512,
        640,
        800,
    ):
        if error(n) <= limit:
            return n
    raise ValueError(limit)


def unidb_second() -> Claim:
    """Weight of the difference of two images: released h' e^-H + h (H - 1), exact h' (e^-H + H - 1); GOUB, T = 100."""
    process, rows = one("goub"), []
    for step in (10, 5, 2, 1):
        t, s = at(0.5), at(0.5 - step / 100)
        h, h1 = float(process.moments(t).h), float(process.moments(s).h)
        H = 2 * float(process.memory_step(t, s))
        rows.append((H, (h1 * math.exp(-H) + h * (H - 1)) / (h1 * (math.exp(-H) + H - 1))))
    told = ", ".join(f"{r:.2f} at H = {H:.2f}" for H, r in rows)
    return Claim(
        "UniDB++", "data solver 2 is of order 2", "not held as released", f"released over exact correction: {told}"
    )


def unidb_variance() -> Claim:
    values = [float(one("unidb", level=50 / 255, gamma=g).moments(at(1.0)).s2) for g in (1e2, 1e4, 1e7)]
    text = (
        f"s^2(1) = {', '.join(f'{v:.2e}' for v in values)} for gamma 1e2, 1e4, 1e7, which the released std takes as 0"
    )
    return Claim("UniDB", "its mean with the variance of gamma infinite is a process", "not held", text)


def five_calls() -> Claim:
    process, rows = one("ir_sde"), {}
    times = on_log_snr(process, -3.669064, 5.60396, 5)
    for name, rule, order in (
        ("ODE 1", "exponential", 1),
        ("ODE 2", "exponential", 2),
        ("SDE 1", "sde_exponential", 1),
    ):
        rows[name] = [errors(process, times, L, rule, order=order) for L in (0.0025, 0.01, 0.04)]
    told = "; ".join(f"{k} {min(v):+.0%} .. {max(v):+.0%}" for k, v in rows.items())
    return Claim(
        "all", "5 calls suffice for samples", "not held for the spread at order 1", f"std: {told} (L 0.0025-0.04)"
    )


# ---- RDDM -----------------------------------------------------------------------------------------------------------


def path_independence() -> Claim:
    """Three pairs of schedules with the same ends: alike in the limit, and call by call on one grid of sigma."""
    curves = [("decreased", "increased"), ("average", "average"), ("increased", "increased")]
    cases = [one("rddm", residual=r, noise=n) for r, n in curves]
    own = {n: [errors(p, _even(n), 0.25, "ddim") for p in cases] for n in (10, 1000)}
    shared = [errors(p, on_log_snr(p, -3.0, 5.0, 10), 0.25, "ddim") for p in cases]
    gap = max(shared) - min(shared)
    text = (
        f"std at 10 even steps: {', '.join(f'{x:+.3f}' for x in own[10])}; at 1000: "
        f"{', '.join(f'{x:+.4f}' for x in own[1000])}; on one grid of sigma, 10 steps: alike to {gap:.0e}"
    )
    return Claim("RDDM", "generation does not depend on the path", "held in the limit, not at few steps", text)


WEIGHT, WIDTH = 0.6, 0.1


def _posterior(x: Tensor, t: Tensor, process: Process) -> tuple[Tensor, Tensor]:
    """Probability of the mode at +1, and the means of either mode, given x_t (c = 0)."""
    m = process.moments(t)
    total = m.h**2 * WIDTH**2 + m.s2
    gain = m.h * WIDTH**2 / total
    logit = math.log(WEIGHT / (1 - WEIGHT)) + 2 * m.h * x / total
    return torch.sigmoid(logit), torch.stack([mode + gain * (x - m.h * mode) for mode in (1.0, -1.0)])


def _mean(x: Tensor, t: Tensor, process: Process) -> Tensor:
    p, (up, down) = _posterior(x, t, process)
    return p * up + (1 - p) * down


def _median(x: Tensor, t: Tensor, process: Process) -> Tensor:
    """Median of x_0 given x_t, by bisection on its distribution function: what a minimised L1 loss answers."""
    p, (up, down) = _posterior(x, t, process)
    m = process.moments(t)
    std = (WIDTH**2 * m.s2 / (m.h**2 * WIDTH**2 + m.s2)).sqrt().clamp_min(1e-12)
    low, high = torch.full_like(x, -3.0), torch.full_like(x, 3.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = p * torch.special.ndtr((middle - up) / std) + (1 - p) * torch.special.ndtr((middle - down) / std)
        low, high = torch.where(below < 0.5, middle, low), torch.where(below < 0.5, high, middle)
    return (low + high) / 2


def median() -> Claim:
    """x_0 = +-1 with weights 0.6 and 0.4 and std 0.1, c = 0, RDDM with std 1: L2 and L1 denoisers, two samplers."""
    process, n = one("rddm"), 2000
    start = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).reshape(n, 1, 1)
    c = rd.Cond(torch.zeros_like(start))
    rows = {}
    for loss, answer in (("L2", _mean), ("L1", _median)):
        for rule in ("ddim", "ancestral"):
            denoiser = FunctionDenoiser(lambda x, t, f=answer: f(x, t, process), process)
            plan = rd.make_plan(rule, process, _even(200))
            x = rd.sample(denoiser, plan, start, seeds=torch.arange(n), cond=c).x.flatten()
            up = x > 0
            rows[loss, rule] = (float(up.double().mean()), float(x.std()), float(x[up].std()))
    true = math.sqrt(4 * WEIGHT * (1 - WEIGHT) + WIDTH**2)
    told = "; ".join(f"{a} {b}: {p:.3f} at +1, std {s:.3f}, within it {w:.3f}" for (a, b), (p, s, w) in rows.items())
    text = f"truth: 0.600 at +1, std {true:.3f}, within a mode 0.100. {told}"
    text += ". The batch changes nothing of what a loss asks for; for Gaussian data the median is the mean"
    return Claim("RDDM", "an L1 loss and a batch of 1 are enough", "not held for the spread of two minds", text)


def objective_choice() -> Claim:
    """Which loss a trained share would fall to: d/da (a L_res + (1 - a) L_noise) = L_res - L_noise, exact heads."""
    process = one("rddm")
    m = process.moments(torch.arange(1, 1000, dtype=torch.float64) / 1000)
    h, s2 = m.h.flatten(), m.s2.flatten()

    def losses(L: float) -> tuple[float, float]:
        error = L * s2 / (h**2 * L + s2)
        return float(error.mean()), float((h**2 / s2 * error).mean())

    low, high = 1e-4, 1e4
    for _ in range(60):
        middle = math.sqrt(low * high)
        res, noise = losses(middle)
        low, high = (middle, high) if res < noise else (low, middle)
    told = ", ".join(f"{L:g}: {losses(L)[0]:.3f} and {losses(L)[1]:.3f}" for L in (0.01, 0.1, 1.0, 10.0))
    text = (
        f"losses of residual and noise at data variance {told}: the share falls to the smaller, the residual below a "
        f"variance of {low:.2f}. Either head gives the same D"
    )
    return Claim("RDDM (AOSA)", "training chooses the better objective", "not held: it chooses by the unit", text)


def data_steps() -> Claim:
    """The first answer of I2SB from c = y = x_0 + sigma n, L = 1: squared errors without and with the data step."""
    process, y = one("i2sb"), torch.ones(1, 1, 1, dtype=torch.float64)
    parts = []
    for sigma, prior in ((0.5, 1.0), (0.5, 0.1), (0.1, 0.1)):
        inner = FunctionDenoiser(lambda x, t, c=sigma, p=prior: x * p / (p + c**2), process)
        data = rd.Measurement(rd.Mask(torch.ones(1)), y, rd.GaussianNoise.white(sigma))
        found = []
        for step in (0.0, 0.5, 1.0):
            denoiser = rd.ConsistentDenoiser(inner, data, step=step) if step else inner
            gain = float(denoiser(y, at(1.0), rd.Cond(y)))
            found.append((1 - gain) ** 2 + gain**2 * sigma**2)
        parts.append(f"noise {sigma:g}, prior variance {prior:g}: " + ", ".join(f"{e:.3f}" for e in found))
    text = "squared error without, with half a step, with the published step; " + "; ".join(parts)
    text += ". Half a step answers with the data, noise and all; the published one overshoots by as much again"
    held = "not at the published step; at half of it, where the prior errs more than the noise"
    return Claim("CDDB", "a data step in a bridge brings the answer nearer", held, text)


# ---- ResShift, starts -----------------------------------------------------------------------------------------------


def resshift() -> Claim:
    rows = []
    for steps, least in ((15, 0.04), (4, 0.2)):
        process = one("resshift", steps=steps, least=least)
        times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
        rows.append(
            [errors(process, times, L, r) for r in ("ancestral", "exponential", "matched") for L in (0.04, 0.25)]
        )
    told = "; ".join(
        f"{n} steps: {a:+.2f}, {b:+.2f} published, {c:+.2f}, {d:+.2f} by the flow of order 3, {e:+.0f} with x_0 drawn"
        for n, (a, b, c, d, e, _) in zip((15, 4), rows, strict=True)
    )
    return Claim(
        "ResShift", "4 steps are as good as 15", "not held for the spread, of either", f"std, L = 0.04, 0.25: {told}"
    )


def starts() -> list[Claim]:
    basis, L = rd.Pixel((64,)), torch.full((64,), 0.3, dtype=torch.float64)
    process = rd.PROCESSES["anchored_flow"](basis, level=0.5)
    denoiser, plan = (
        rd.GaussianDenoiser(process, spectrum=L),
        rd.make_plan("gaussian_ode", process, at(1.0, 0.5, 0.0), L),
    )
    truth = L.sqrt() * white(range(400), "truth", 0, (1, 64)).double()
    y = torch.zeros_like(truth)
    seeds = list(range(64))
    large = rd.choose_start(denoiser, plan, y[:200], truth[:200], seeds=seeds)
    few = rd.choose_start(denoiser, plan, y[:8], truth[:8], seeds=seeds)
    new = rd.choose_start(denoiser, plan, y[200:], truth[200:], seeds=seeds).scores.mean(1)
    average = float(new.mean())
    gains = [1 - float(new[x.seed]) / average for x in (large, few)]
    seen = 1 - float(few.scores.mean(1).min() / few.scores.mean())
    zero = 1 - float(truth[200:].square().mean()) / average
    share = (
        f"share of the variance between 64 starts that is common to all images {large.share:.2f} (1/3 in closed form)"
    )
    gain = (
        f"squared error on 200 new images, against an average start: {gains[0]:.1%} less for the best of 64 on 200, "
        f"{gains[1]:.1%} for that on 8 ({seen:.1%} on the 8 themselves); {zero:.0%} less for z = 0, the posterior mean"
    )
    return [
        Claim("Optimal boundary", "one start is best for nearly all images", "a third of it", share),
        Claim("Optimal boundary", "a start chosen on few pairs helps new images", "held, a little", gain),
    ]


CLAIMS = (
    one_solver, memories, third_order, thinned, fewer_calls, unidb_second, unidb_variance, five_calls, pinned, kernels,
    noise_heads, path_independence, median, objective_choice, data_steps, resshift, starts,
)  # fmt: skip


def table(claims: list[Claim]) -> str:
    rows = ["| of | claim | held | figure |", "|---|---|---|---|"]
    return "\n".join([*rows, *(f"| {c.source} | {c.claim} | {c.held} | {c.figure} |" for c in claims)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE)
    out = parser.parse_args().out
    claims: list[Claim] = []
    for make in CLAIMS:
        found = make()
        claims += found if isinstance(found, list) else [found]
    out.write_text(json.dumps([vars(c) for c in claims], indent=1) + "\n", encoding="utf-8")
    print(table(claims))


if __name__ == "__main__":
    main()
