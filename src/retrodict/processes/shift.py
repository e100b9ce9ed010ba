"""Processes that go from an image to a degraded one (k = 1 - h, or nearly) and keep noise at their end.

They differ in the schedule of sigma = s/h, in where it starts and stops, and in the memory of their noise; given the
same denoiser on the same log-SNR grid, every deterministic and every Markov solver restores the same image with each.
Published schedules are tables: t = i/steps is their index i, and between two indices the tabulated quantity is linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Basis
from retrodict.processes.process import Law, Process, assemble
from retrodict.processes.residual import elapsed_time
from retrodict.processes.scalar import _scalar

__all__ = ["anchored_flow", "denoising_sde", "ir_sde", "rddm", "resfusion", "resshift", "resshift_nodes", "time_at"]


def ir_sde(
    basis: Basis,
    level: float = 50 / 255,
    delta: float = 0.005,
    steps: int = 100,
    schedule: str = "cosine",
    **pairing: Any,
) -> Process:
    """IR-SDE on its published discrete schedule: h = e^-T, k = 1 - h, s^2 = level^2 (1 - h^2), Markov.

    T(i/steps) = dt sum_{j=1..i} theta_j, dt = -log(delta) / sum_j theta_j, with the rates of the released code:
    "cosine" theta_j = 1 - f(j + 1)/f(0), f(j) = cos^2(((j/(steps + 2)) + 0.008)/1.008 pi/2), "linear" or "constant".
    `level`: noise around the condition image at t = 1, data units; h(1) = delta (Luo et al. 2023).  `mean_reverting` is
    its continuous form.
    """
    check_level("ir_sde", level, delta)
    tau = rate_table("ir_sde", delta, steps, schedule)

    def family(bound: Basis) -> Law:
        at = nodes(tau, bound)
        return lambda t: relaxed(at(t), level)

    options = {"level": level, "delta": delta, "steps": steps, "schedule": schedule}
    return assemble(family, basis, "ir_sde", options, **{"conditioning": "external", **pairing})


def denoising_sde(
    basis: Basis, level: float = 70 / 255, delta: float = 0.04, steps: int | None = None, **pairing: Any
) -> Process:
    """Denoising-SDE: h = 1, k = 0, s^2 = level^2 (1 - e^-2T), noise memory A = e^-T: not Markov.

    dx = theta (x_0 - x) dt + sigma dW, of which x_0 is the rest point (Luo et al. 2023, supplement): the noise relaxes,
    the image stays.  T is that of `mean_reverting`, or of `ir_sde` with `steps` rates.  A noisy image is the state at
    the time when s is its noise: start there (`retrodict.time_at`).  `level`: noise at t = 1, data units.
    """
    check_level("denoising_sde", level, delta)
    table = None if steps is None else rate_table("denoising_sde", delta, steps, "cosine")

    def elapsed(bound: Basis) -> Callable[[Tensor], Tensor]:
        return elapsed_time(delta) if table is None else nodes(table, bound)

    def family(bound: Basis) -> Law:
        at = elapsed(bound)
        return lambda t: (torch.ones_like(t), 0 * t, relaxed(at(t), level)[2])

    def memory(bound: Basis) -> Callable[[Tensor], Tensor]:
        at = elapsed(bound)
        return lambda t: torch.exp(-at(t))

    options = {"level": level, "delta": delta, "steps": steps}
    return assemble(family, basis, "denoising_sde", options, memory=memory, **pairing)


GROWTH: dict[str, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "increased": lambda t, d: (t * (t + d) / (1 + d), (1 - t) * (1 + t + d) / (1 + d)),
    "decreased": lambda t, d: (t * (2 - t + d) / (1 + d), (1 - t) * (1 - t + d) / (1 + d)),
    "average": lambda t, d: (t, 1 - t),
}
"""Sums of 1, 2, ..., of T, T-1, ..., and of equal parts up to index T t, over the whole, d = 1/T; and what is left."""


def rddm(
    basis: Basis,
    level: float = 1.0,
    residual: str = "decreased",
    noise: str = "increased",
    steps: int = 1000,
    **pairing: Any,
) -> Process:
    """Residual denoising (RDDM): h = 1 - a, k = a, s = b, schedules a(t), b(t), memory A = 1: independent increments.

    One step adds alpha_i of the residual c - x_0 and beta_i of fresh noise, so that a = sum alpha_i, b^2 = sum beta_i^2
    (Liu et al. 2024, eqs. 7-10); a(1) = 1, b(1) = `level` in data units.  The parts grow ("increased"), shrink
    ("decreased") or are equal ("average"), for residual and squared noise apart; `steps` is the T of the published
    schedule.  h(1) = 0.
    """
    check_positive("rddm", "level", level)
    check_whole("rddm", "steps", steps)
    for field, kind in (("residual", residual), ("noise", noise)):
        choice(f"process 'rddm' {field}", kind, GROWTH)

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pulled, left = GROWTH[residual](t, 1 / steps)
        return left, pulled, level**2 * GROWTH[noise](t, 1 / steps)[0]

    options = {"level": level, "residual": residual, "noise": noise, "steps": steps}
    return assemble(
        _scalar(law), basis, "rddm", options, memory="independent", **{"conditioning": "external", **pairing}
    )


def resshift(
    basis: Basis, kappa: float = 2.0, steps: int = 15, power: float = 0.3, least: float = 0.04, **pairing: Any
) -> Process:
    """ResShift: h = 1 - eta, k = eta, s = kappa sqrt(eta), noise memory A = 1: independent increments.

    sqrt(eta_i) = e (0.99/e)^(((i - 1)/(steps - 1))^power), e = min(least/kappa, least), i = 1..steps, eta_0 = 0 (Yue,
    Wang, Loy 2023, eq. 10; their code takes the end of 0.99 for sqrt(eta)).  Published: 15 steps with least 0.04, and 4
    steps with least 0.2.  `kappa`: noise at eta = 1, data units; a latent of unit scale has 2.
    """
    for field, value in (("kappa", kappa), ("power", power), ("least", least)):
        check_positive("resshift", field, value)
    check_whole("resshift", "steps", steps, 2)
    table = resshift_nodes(kappa, steps, power, least)

    def family(bound: Basis) -> Law:
        at = nodes(table, bound)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            root = at(t)
            return (1 - root) * (1 + root), root**2, kappa**2 * root**2

        return law

    options = {"kappa": kappa, "steps": steps, "power": power, "least": least}
    return assemble(family, basis, "resshift", options, memory="independent", **{"conditioning": "external", **pairing})


def resshift_nodes(kappa: float, steps: int, power: float, least: float) -> list[float]:
    """sqrt(eta_i), i = 0..steps."""
    first = min(least / kappa, least)
    if not first < 0.99:
        raise InputError("process 'resshift' least", least, "a start min(least/kappa, least) below 0.99")
    return [0.0] + [first * (0.99 / first) ** ((i / (steps - 1)) ** power) for i in range(steps)]


def resfusion(basis: Basis, steps: int = 12, schedule: str = "linear", **pairing: Any) -> Process:
    """Resfusion: h = 2 a - 1, k = 1 - a, s^2 = 1 - a^2, noise memory A = a; a falls from 1 to the step where it is 1/2.

    A variance-preserving chain a = sqrt(alpha_bar) whose every step also moves along the residual c - x_0 (Shi et al.
    2024, eq. 7); at a = 1/2 nothing of x_0 is left ("acceleration step"), and the chain starts there at c/2 + sqrt(3/4)
    z, on the way of c's own diffusion.  `steps` and `schedule` ("linear", beta = 0.1/steps..20/steps, or "cosine") are
    those of the whole schedule, of which 12 leave 5; the step next to 1/2 is set to it.
    """
    check_whole("resfusion", "steps", steps, 2)
    table = resfusion_nodes(steps, schedule)

    def family(bound: Basis) -> Law:
        at = nodes(table, bound)

        def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            a = at(t)
            return 2 * a - 1, 1 - a, (1 - a) * (1 + a)

        return law

    options = {"steps": steps, "schedule": schedule}
    return assemble(
        family,
        basis,
        "resfusion",
        options,
        memory=lambda bound: nodes(table, bound),
        **{"conditioning": "external", **pairing},
    )


def resfusion_nodes(steps: int, schedule: str) -> list[float]:
    """a_0 = 1, a_1, ..., 1/2 of Resfusion's truncated schedules."""
    choice("process 'resfusion' schedule", schedule, ("linear", "cosine"))
    if schedule == "linear":
        betas = [(0.1 + 19.9 * i / (steps - 1)) / steps for i in range(steps)]
    else:
        bar = [math.cos(((i / steps) + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        betas = [min(1 - bar[i + 1] / bar[i], 0.999) for i in range(steps)]
    a = [1.0]
    for beta in betas:
        if a[-1] < 0.5:
            break  # what follows is never used, and a beta above 1 has no root
        a.append(a[-1] * math.sqrt(max(1 - beta, 0.0)))
    if a[-1] >= 0.5:
        raise InputError("process 'resfusion' steps", steps, "a schedule that reaches a = 1/2", "Give more steps.")
    last = len(a) - 1
    if 0.5 - a[last] <= 0.01 and abs(a[last - 1] - 0.5) < abs(a[last] - 0.5):
        last -= 1
    return [*a[:last], 0.5]


def anchored_flow(basis: Basis, level: float = 0.1, **pairing: Any) -> Process:
    """The straight line from the image to the condition image: h = 1 - t, k = t, s = level t, A = s: one noise.

    With a small level it is InDI (Delbracio, Milanfar 2023, eq. 6), with the estimate of a regression as condition
    image PMRF (Ohayon et al. 2024), in general a rectified flow from the degraded image; their deterministic steps are
    the same, x' = (t'/t) x + (1 - t'/t) D.  `level`: noise at t = 1, data units; h(1) = 0.
    """
    check_positive("anchored_flow", "level", level)

    def law(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 - t, t, level**2 * t**2

    return assemble(
        _scalar(law),
        basis,
        "anchored_flow",
        {"level": level},
        memory="frozen",
        **{"conditioning": "external", **pairing},
    )


# ---- schedules ------------------------------------------------------------------------------------------------------


def relaxed(elapsed: Tensor, level: float) -> tuple[Tensor, Tensor, Tensor]:
    """(h, k, s^2) of dx = theta (c - x) dt + sigma dW, sigma^2 = 2 level^2 theta, after an `elapsed` time."""
    return torch.exp(-elapsed), -torch.expm1(-elapsed), -(level**2) * torch.expm1(-2 * elapsed)


def rate_table(name: str, delta: float, steps: int, schedule: str) -> list[float]:
    """T_i = -log(delta) sum_{j=1..i} theta_j / sum_j theta_j, i = 0..steps, of the released IR-SDE code."""
    check_whole(name, "steps", steps)
    choice(f"process {name!r} schedule", schedule, ("cosine", "linear", "constant"))
    if schedule == "cosine":
        f = [math.cos(((j / (steps + 2)) + 0.008) / 1.008 * math.pi / 2) ** 2 for j in range(steps + 2)]
        rates = [1 - f[j + 1] / f[0] for j in range(1, steps + 1)]
    elif schedule == "linear":
        scale = 1000 / (steps + 1)
        rates = [scale * (1e-4 + (0.02 - 1e-4) * j / steps) for j in range(1, steps + 1)]
    else:
        rates = [1.0] * steps
    whole, total, out = math.fsum(rates), 0.0, [0.0]
    for rate in rates:
        total += rate
        out.append(-math.log(delta) * total / whole)
    return [*out[:-1], -math.log(delta)]


def nodes(values: Sequence[float], basis: Basis) -> Callable[[Tensor], Tensor]:
    """The broken line through `values` at t = 0, 1/n, ..., 1."""
    table, n = torch.tensor(values, dtype=torch.float64, device=basis.device), len(values) - 1

    def at(t: Tensor) -> Tensor:
        place = (t * n).floor().clamp(0, n - 1).long()
        part = t * n - place
        return table[place] * (1 - part) + table[place + 1] * part  # exact at both ends

    return at


# ---- options --------------------------------------------------------------------------------------------------------


def check_positive(name: str, field: str, value: float) -> None:
    """Refuse a number that is not positive and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"process {name!r} {field}", repr(value), "a positive number")


def check_whole(name: str, field: str, value: int, least: int = 1) -> None:
    """Refuse what is no whole number, or one below `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"process {name!r} {field}", repr(value), f"a whole number of at least {least}")


def check_level(name: str, level: float, delta: float) -> None:
    """Refuse a noise level or an end that a mean-reverting process cannot have."""
    check_positive(name, "level", level)
    check_positive(name, "delta", delta)
    if delta >= 1:
        raise InputError(f"process {name!r} delta", delta, "a gain h(1) below 1")


# ---- times ----------------------------------------------------------------------------------------------------------


def time_at(process: Process, sigma: float | Sequence[float] | Tensor) -> Tensor:
    """Times `(n,)` at which s/h of a process, the same at every coefficient, is `sigma` in data units; by bisection.

    A noisy image is the state of a process with h = 1 at the time of its noise.  Refused where s/h never is so large,
    and where it differs between coefficients.
    """
    wanted = torch.atleast_1d(torch.as_tensor(sigma, dtype=torch.float64, device="cpu"))
    own = process._small

    def clock(t: Tensor) -> Tensor:
        return own.clock(t).flatten(1)

    ends = clock(torch.tensor([0.5, 1.0], dtype=torch.float64, device="cpu"))
    if bool((ends != ends[:, :1]).any()):
        raise InputError("time_at", "a process whose clock differs between coefficients", "one clock for all")
    if not bool(((wanted > 0) & (wanted**2 <= ends[1, 0])).all()):
        raise InputError("time_at sigma", wanted.tolist(), f"positive numbers up to {float(ends[1, 0]) ** 0.5:.4g}")
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(80):
        middle = (low + high) / 2
        below = clock(middle)[:, 0] < wanted**2
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high
