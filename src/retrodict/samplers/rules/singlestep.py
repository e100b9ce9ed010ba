"""Singlestep exponential integrators: order 2 and 3 within a step, without a history.

Per coefficient: l = log(h/s), H = l' - l, and r = (l_1 - l)/H for a time within the step, which all coefficients share.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.processes.observation import log_snr_step, ratio
from retrodict.processes.process import Process
from retrodict.samplers.plan import Plan, Row
from retrodict.samplers.rules.interpolate import node_of, phi
from retrodict.samplers.rules.nodes import stand_in, times_within

__all__ = ["dpmpp2s", "dpmpp3s", "seeds"]


def dpmpp2s(process: Process, times: Tensor, spectrum: Tensor | None = None, *, part: float = 0.5) -> Plan:
    """DPM-Solver++ 2S (Lu et al. 2022, algorithm 1), order 2, deterministic, two calls a step.

    u at l + r H by DDIM; w' = (s'/s) w + h' p1(H) [D + (D_1 - D)/(2 r)], with the r that a coefficient has at the time
    that is `part` of the step on in the mean log clock.  A step onto a noise-free state is DDIM, with one call.
    """
    if not 0 < part <= 1:
        raise InputError("dpmpp2s part", part, "a part of the step above 0 and at most 1")
    inner = times_within(process, times, part)

    def rows(i: int) -> list[Callable[[], Row]]:
        t, a, s = times[i : i + 1], inner[i : i + 1], times[i + 1 : i + 2]
        return [lambda: _ddim(process, t, a, i), lambda: last(t, a, s)]

    def last(t: Tensor, a: Tensor, s: Tensor) -> Row:
        keep, data, _ = process.conditional(t, s, 0.0)
        r = node_of(_between(process, t, a), _between(process, t, s))
        slope = torch.where(r != 0, 0.5 * data * ratio(torch.ones_like(r), r), 0.0)
        return Row(float(a), True, (0 * keep, keep), (slope, data - slope))

    return _singlestep(process, times, rows, "dpmpp2s", 2)


def dpmpp3s(process: Process, times: Tensor, spectrum: Tensor | None = None) -> Plan:
    """DPM-Solver++ 3S (Lu et al. 2022; r = 1/3, 2/3), order 3, deterministic, three calls a step.

    u_1 by DDIM to l + H/3; u_2 = (s_2/s) w + h_2 [p1 D + (r_2/r_1) p2 (D_1 - D)] at r_2 H;
    w' = (s'/s) w + h' [p1(H) D + p2(H)/r_2 (D_2 - D)].  A step onto a noise-free state is DDIM, with one call.
    """
    first, second = times_within(process, times, 1 / 3), times_within(process, times, 2 / 3)

    def rows(i: int) -> list[Callable[[], Row]]:
        t, a, b, s = times[i : i + 1], first[i : i + 1], second[i : i + 1], times[i + 1 : i + 2]
        return [lambda: _ddim(process, t, a, i), lambda: middle(t, a, b), lambda: last(t, b, s)]

    def middle(t: Tensor, a: Tensor, b: Tensor) -> Row:
        keep, data, slope = _sloped(process, t, a, b)
        return Row(float(a), True, (0 * keep, keep), (slope, data - slope))

    def last(t: Tensor, b: Tensor, s: Tensor) -> Row:
        keep, data, slope = _sloped(process, t, b, s)
        return Row(float(b), True, (0 * keep, 0 * keep, keep), (slope, 0 * slope, data - slope))

    return _singlestep(process, times, rows, "dpmpp3s", 3)


def seeds(
    process: Process, times: Tensor, spectrum: Tensor | None = None, *, order: int = 2, form: str = "data"
) -> Plan:
    """SEEDS-1 and -2 (Gonzalez et al. 2023) for any noise memory: exact linear part and noise; `order` calls a step.

    Order 1 in data form is `ancestral`.  Order 2, with X = log(A/s), H = dl + dX (2 dl where A = h, the case of the
    paper) and r = (dl_1 + dX_1)/H at a time half way: u there by that step with noise z_1, then the exact conditional
    with h' p2(H)/r (D_1 - D) more; both share one path of the noise, so z_1 goes on into w' by (A s'^2)/(A' s_1^2).
    form "noise" is that of the paper: w' = (h'/h) w - 2 s' (e^dl - 1) eps + noise, eps at the middle; it is for A = h,
    inflates the variance at wide steps, 60 times and more for dl = 1, and is refused for a dl above 0.5.
    """
    if order not in (1, 2):
        raise InputError("seeds order", order, "1 or 2")
    if form not in ("data", "noise"):
        raise InputError("seeds form", repr(form), "'data' or 'noise'")
    process.require_admissible("seeds")
    if form == "noise":
        process.require_markov("seeds form 'noise'")
        _require_narrow(process, times)
    inner, noisy = times_within(process, times, 0.5), form == "noise"

    def rows(i: int) -> list[Callable[[], Row]]:
        t, a, s = times[i : i + 1], inner[i : i + 1], times[i + 1 : i + 2]
        step = _noise_step if noisy else _exact_step
        if order == 1:
            return [lambda: step(process, t, s)]
        return [lambda: step(process, t, a), lambda: _noise_last(process, t, a, s) if noisy else last(t, a, s)]

    def last(t: Tensor, a: Tensor, s: Tensor) -> Row:
        keep, data, _ = process.conditional(t, s, 1.0)
        (onward, _, fresh), old = process.conditional(a, s, 1.0), process.conditional(t, a, 1.0)[2]
        H = _total(process, t, s)
        r = node_of(_total(process, t, a), H)
        finite = torch.where(torch.isfinite(H), H, 0.0)
        slope = torch.where(r != 0, process.moments(s).h * phi(finite, 2)[1] * ratio(torch.ones_like(r), r), 0.0)
        return Row(float(a), True, (0 * keep, keep), (slope, data - slope), (fresh, onward * old))

    return _singlestep(process, times, rows, "seeds", order, stochastic=True, ends=_exact_step)


def _between(process: Process, t: Tensor, s: Tensor) -> Tensor:
    return log_snr_step(process.moments(t), process.moments(s))


def _total(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """The step of the clock G = log(h/s) + log(A/s), in which the rest of the state fades."""
    return _between(process, t, s) + process.memory_step(t, s)


def _ddim(process: Process, t: Tensor, s: Tensor, i: int) -> Row:
    keep, data, std = process.conditional(t, s, 0.0)
    return Row(float(t), True, (keep,), (data,), (std,) if i == 0 and process.pinned(t) else ())


def _sloped(process: Process, t: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keep and data of DDIM from t to s, and the weight h_s p2/r of D_a - D, 0 where a is no node of the step."""
    keep, data, _ = process.conditional(t, s, 0.0)
    H = _between(process, t, s)
    r = node_of(_between(process, t, a), H)
    finite = torch.where(torch.isfinite(H), H, 0.0)
    slope = process.moments(s).h * phi(finite, 2)[1] * ratio(torch.ones_like(r), r)
    return keep, data, torch.where(r != 0, slope, 0.0)


def _exact_step(process: Process, t: Tensor, s: Tensor) -> Row:
    keep, data, std = process.conditional(t, s, 1.0)
    return Row(float(t), True, (keep,), (data,), (std,))


def _noise_step(process: Process, t: Tensor, s: Tensor) -> Row:
    now, after, dl = process.moments(t), process.moments(s), _between(process, t, s)
    pull = 2 * after.s2.sqrt() * torch.expm1(dl) / now.s2.sqrt()
    noise = after.s2.sqrt() * torch.expm1(2 * dl).clamp_min(0.0).sqrt()
    return Row(float(t), True, (after.h / now.h - pull,), (pull * now.h,), (noise,))


def _noise_last(process: Process, t: Tensor, a: Tensor, s: Tensor) -> Row:
    now, middle, after = (process.moments(x) for x in (t, a, s))
    dl, rest, std = _between(process, t, s), _between(process, a, s), after.s2.sqrt()
    pull = 2 * std * torch.expm1(dl) / middle.s2.sqrt()
    fresh = std * torch.expm1(2 * rest).clamp_min(0.0).sqrt()
    onward = std * (torch.expm1(2 * dl) - torch.expm1(2 * rest)).clamp_min(0.0).sqrt()
    return Row(float(a), True, (-pull, after.h / now.h), (pull * middle.h,), (fresh, onward))


def _require_narrow(process: Process, times: Tensor) -> None:
    small = stand_in(process)
    widest = max(float(_between(small, times[i : i + 1], times[i + 1 : i + 2]).max()) for i in range(len(times) - 1))
    if not widest <= 0.5 + 1e-9:
        found = f"a step of {widest:.3g} in log-SNR"
        hint = "Take more steps on a log-SNR grid that ends above t = 0, or form='data'."
        raise InputError("seeds form 'noise'", found, "steps of at most 0.5: beyond, it inflates the variance", hint)


def _singlestep(
    process: Process,
    times: Tensor,
    rows: Callable[[int], list[Callable[[], Row]]],
    name: str,
    calls: int,
    stochastic: bool = False,
    ends: Callable[[Process, Tensor, Tensor], Row] | None = None,
) -> Plan:
    """The rows of all steps; onto a noise-free end one row is enough (`ends`, DDIM without)."""
    steps = len(times) - 1
    made: list[Callable[[], Row]] = []
    for i in range(steps):
        t, s = times[i : i + 1], times[i + 1 : i + 2]
        if i == steps - 1 and process.noise_free(s):
            made.append(lambda t=t, s=s, i=i: _ddim(process, t, s, i) if ends is None else ends(process, t, s))
        else:
            made += rows(i)
    length, noisy = len(made), stochastic or process.pinned(times[:1])
    return Plan(process, times, lambda k: made[k](), length, length, name, depth=max(2, calls), stochastic=noisy)
