"""The linear samplers: each rule is a function that builds a `Plan`, and one line in `RULES`.

Notation per coefficient: primes mark the next (cleaner) time, l = log(h/s), q = r'/r with the clock r = s^2/h^2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.process import Process, ratio
from retrodict.samplers.card import gaussian_posterior
from retrodict.samplers.plan import Level, Levels, Plan, Row

__all__ = ["RULES", "Rule", "make_plan"]


# ---- rules -------------------------------------------------------------------------------------------------------


def euler(process: Process, times: Tensor, spectrum: Tensor | None = None, *, final: bool = True) -> Plan:
    """Euler-Maruyama on the reverse SDE (Tivnan et al. 2023, eq. 21), NFE = N.

    w' = w - [F w - G^2 score] d + G sqrt(d) z, score = (h D - w)/s^2.  With `final` the step onto t = 0 returns D.
    """
    process.require_markov("euler")

    def row(i: int) -> Row:
        t, s = levels.pair(i)
        if final and i == len(levels) - 1 and float(s) == 0:
            return _denoise(float(t))
        m, r, step = process.moments(t), process.rates(t), float(t - s)
        pull = ratio(r.G2 * step, m.s2)
        noise = (r.G2.clamp_min(0.0) * step).sqrt()
        return Row(float(t), True, (1 - r.F * step - pull,), (pull * m.h,), noise)

    levels = Levels(process, times)
    return Plan(process, times, row, len(levels), len(levels), "euler", stochastic=True)


def ddim(process: Process, times: Tensor, spectrum: Tensor | None = None, *, eta: float = 0.0) -> Plan:
    """DDIM in the consistent convention (Song, Meng, Ermon 2020), NFE = N; eta = 1 is the ancestral sampler.

    w' = keep w + data D + eta sqrt(V) z with the weights of `Process.conditional`.
    """
    if eta:
        process.require_markov("ddim with eta > 0")

    def row(i: int) -> Row:
        t, s = levels.pair(i)
        keep, data, std = process.conditional(t, s, eta)
        return Row(float(t), True, (keep,), (data,), std if eta else None)

    levels = Levels(process, times)
    return Plan(process, times, row, len(levels), len(levels), "ddim", stochastic=eta > 0)


def ancestral(process: Process, times: Tensor, spectrum: Tensor | None = None) -> Plan:
    """Ancestral sampling, q(x_s | x_t, x_0 = D): exact mean, too little variance at few steps, NFE = N."""
    plan = ddim(process, times, eta=1.0)
    return Plan(process, times, plan.build, len(plan), plan.nfe, "ancestral", stochastic=True)


def matched(process: Process, times: Tensor, spectrum: Tensor | None = None) -> Plan:
    """Ancestral steps with x_0 *drawn* from the denoiser's law N(D, Cov[x_0 | x_t]) instead of set to its mean.

    w' = keep w + data (D + e) + sqrt(V) z, so that mean and covariance of w' | w are those of the exact transition
    (law of total variance) at any number of steps.  With the Wiener law of a stored spectrum it integrates the
    Gaussian part of the reverse SDE exactly: keep w + data D is the exact drift with the non-Gaussian rest of the
    whitened score held constant over the step, and V + data^2 v the exact Gaussian noise.  NFE = N.
    """
    process.require_markov("matched")

    def row(i: int) -> Row:
        t, s = levels.pair(i)
        keep, data, std = process.conditional(t, s, 1.0)
        noise = None if float(s) == 0 and not bool(std.any()) else std
        return Row(float(t), True, (keep,), (data,), noise, data)

    levels = Levels(process, times)
    return Plan(process, times, row, len(levels), len(levels), "matched", stochastic=True, uses_spread=True)


def dpmpp2m(
    process: Process, times: Tensor, spectrum: Tensor | None = None, *, order: int = 2, lower_last: bool = True
) -> Plan:
    """DPM-Solver++ 2M, midpoint form (Lu et al. 2022, algorithm 2), deterministic, NFE = N.

    w' = (s'/s) w + h' (1 - e^-dl) [D + (D - D_old)/(2 r)], r = dl_old/dl, dl = l' - l per coefficient; the first
    step is of order 1, and the last one too with `lower_last` or where it lands on t = 0.  `order=1` is
    DPM-Solver++ 1, equal to `ddim(eta=0)`.
    """
    return _multistep(process, times, eta=0.0, order=order, lower_last=lower_last, name="dpmpp2m")


def sde_dpmpp2m(
    process: Process,
    times: Tensor,
    spectrum: Tensor | None = None,
    *,
    eta: float = 1.0,
    order: int = 2,
    lower_last: bool = False,
) -> Plan:
    """SDE-DPM-Solver++ 2M, midpoint form (Lu et al. 2022; stochastic), NFE = N.

    H = (1 + eta) dl: w' = (s'/s) e^(-eta dl) w + h' (1 - e^-H) [D + (D - D_old)/(2 r)] + s' sqrt(1 - e^(-2 eta dl)) z.
    """
    return _multistep(process, times, eta=eta, order=order, lower_last=lower_last, name="sde_dpmpp2m")


def gaussian_ode(process: Process, times: Tensor, spectrum: Tensor | None = None, *, order: int = 2) -> Plan:
    """Probability-flow steps that are exact in the Gaussian part, NFE = N; deterministic.

    With y = w/h, clock r and data variance L, the flow dy/dr = -score_y/2 becomes dY/dtau = Q in Y = y/sqrt(L + r),
    tau = 1/sqrt(L + r), where Q = (D - L y/(L + r)) (L + r)/r is the non-Gaussian rest of the denoiser (zero for
    Gaussian data).  Q is held constant (order 1) or continued linearly in tau (order 2, Adams-Bashforth).  L = 0 gives
    DDIM; for external conditioning with a known law L is the posterior variance given y.  Order 1 in weights:
    a = sqrt((L + r')/(L + r)), b = (1 - r'/r)/(1 + a): y' = (1 - b) y + b D.
    """
    if spectrum is None:
        raise InputError("gaussian_ode", "no spectrum", "the data spectrum (variance of every coefficient)")
    if order not in (1, 2):
        raise InputError("gaussian_ode order", order, "1 or 2")
    if process.conditioning == "external" and process.measured is not None:
        _, spectrum = gaussian_posterior(spectrum, process.measured)  # the flow of the Gaussian posterior given y

    def row(i: int) -> Row:
        t, s = levels.pair(i)
        mt, ms = process.moments(t), process.moments(s)
        rt, rs = process.clock(t), process.clock(s)
        q = torch.where(torch.isinf(rt), 0.0, torch.where(rt == 0, 1.0, ratio(rs, rt)))
        root = torch.where(torch.isinf(rt), 0.0, ratio(spectrum + rs, spectrum + rt, otherwise=1.0).sqrt())
        b = (1 - q) / (1 + root)
        keep, data = torch.where(mt.h == 0, 0.0, ratio(ms.h, mt.h) * (1 - b)), ms.h * b
        if order == 1 or i == 0:
            return Row(float(t), True, (keep,), (data,))
        # second difference: with g = (L + r)/r the rest is Q = g D - (g - 1) y, so that g (1 - L/(L + r)) = 1
        rp = process.clock(times[i - 1 : i])
        tau, before, after = (_inverse_root(spectrum + r) for r in (rt, rp, rs))
        step, previous = after - tau, tau - before
        part = 0.5 * ratio(step, previous) * step * (spectrum + rs).sqrt()
        usable = torch.isfinite(rp) & (rt > 0) & (previous != 0)
        gt, gp = (torch.where(usable, ratio(spectrum + r, r), 0.0) for r in (rt, rp))
        part = torch.where(usable, part, 0.0)
        hp = process.moments(times[i - 1 : i]).h
        ct, cp = part * gt, part * gp
        lt, lp = (ratio(spectrum, spectrum + r) for r in (rt, torch.where(usable, rp, 1.0)))
        keeps = (keep - ms.h * ct * ratio(lt, mt.h), torch.where(usable, ms.h * cp * ratio(lp, hp), 0.0))
        return Row(float(t), True, keeps, (data + ms.h * ct, -ms.h * cp))

    levels = Levels(process, times)
    depth = 1 if order == 1 else 2
    return Plan(process, times, row, len(levels), len(levels), "gaussian_ode", depth=depth)


# ---- shared pieces -----------------------------------------------------------------------------------------------


def _denoise(t: float) -> Row:
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return Row(t, True, (zero,), (one,))


def _inverse_root(x: Tensor) -> Tensor:
    return torch.where(torch.isinf(x), 0.0, ratio(torch.ones_like(x), x.sqrt()))


def _multistep(process: Process, times: Tensor, *, eta: float, order: int, lower_last: bool, name: str) -> Plan:
    if order not in (1, 2):
        raise InputError(f"{name} order", order, "1 or 2")
    if eta:
        process.require_markov(name)

    def row(i: int) -> Row:
        t, s = levels.pair(i)
        now, nxt = levels[i], levels[i + 1]
        step = _advance(now, nxt)
        moved = step > 0
        dl = torch.where(moved, step, 0.0)
        final = torch.isinf(dl)
        decay = torch.where(final, 0.0, torch.exp(-eta * torch.where(final, 0.0, dl)))
        scale = torch.where(now.s == 0, ratio(nxt.h, now.h), ratio(nxt.s, now.s))
        keep = scale * decay
        total = (1 + eta) * dl
        data = torch.where(moved, nxt.h * -torch.expm1(-total), 0.0)
        std = nxt.s * (-torch.expm1(-2 * eta * dl)).clamp_min(0.0).sqrt() if eta else None
        last = i == len(levels) - 1 and (lower_last or float(s) == 0)
        if order == 1 or i == 0 or last:
            return Row(float(t), True, (keep,), (data,), std)
        before = _advance(levels[i - 1], now)
        usable = moved & (before > 0) & torch.isfinite(before) & torch.isfinite(dl)
        half = torch.where(usable, 0.5 * data * ratio(dl, torch.where(usable, before, 1.0)), 0.0)
        return Row(float(t), True, (keep,), (data + half, -half), std)

    levels = Levels(process, times)
    return Plan(process, times, row, len(levels), len(levels), name, depth=order, stochastic=eta > 0)


def _advance(now: Level, nxt: Level) -> Tensor:
    """Dl = l' - l >= 0 per coefficient; infinite onto s' = 0; 0 where both times are noise-free."""
    clean = (now.s == 0) & (nxt.s == 0)
    return torch.where(clean, 0.0, nxt.l - now.l)


# ---- the dictionary ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A rule and what may be said of it.

    posterior: from a fixed measurement its samples have the gain and variance of the posterior (within 2 % and 5 % on
    the Gaussian card at `steps` evaluations); where False the spread is not an uncertainty and is refused as one.
    deterministic: no randomness after the start.
    """

    build: Callable[..., Plan]
    steps: int
    posterior: bool
    deterministic: bool
    grid: str
    reference: str


RULES: dict[str, Rule] = {
    "matched": Rule(matched, 8, True, False, "time", "ancestral with drawn x_0; exact in the Gaussian part"),
    "euler": Rule(euler, 256, False, False, "time", "Tivnan et al. 2023, eq. 21"),
    "ancestral": Rule(ancestral, 32, False, False, "time", "Ho, Jain, Abbeel 2020; Song et al. 2020, eta = 1"),
    "ddim": Rule(ddim, 32, False, True, "time", "Song, Meng, Ermon 2020"),
    "dpmpp2m": Rule(dpmpp2m, 16, False, True, "logsnr", "Lu et al. 2022, algorithm 2"),
    "sde_dpmpp2m": Rule(sde_dpmpp2m, 64, True, False, "logsnr", "Lu et al. 2022, stochastic 2M"),
    "gaussian_ode": Rule(gaussian_ode, 8, False, True, "time", "probability flow, exact in the Gaussian part"),
}
"""Rules by name.  A deterministic rule is a posterior sampler only from a random start (external conditioning)."""


def make_plan(name: str, process: Process, times: Tensor, spectrum: Tensor | None = None, **options: object) -> Plan:
    """Plan of rule `name` on a time grid; unknown rules and options are errors."""
    rule = RULES[choice("rule", name, RULES)]
    try:
        return rule.build(process, times, spectrum, **options)
    except TypeError as error:
        raise InputError(f"rule {name!r}", str(error), "options that this rule knows") from error
