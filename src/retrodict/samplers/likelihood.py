"""Log densities of images by the probability flow, for every process whose end is a known law.

The flow carries an image to noise and changes its density by the divergence (Song et al. 2021, section 4.3; estimator
of the trace: Skilling 1989, Hutchinson 1990).  Here it runs in the coordinates of `retrodict.processes.flow`: what is
integrated is what is not Gaussian, so Gaussian data are exact at any number of steps and with any probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict._random import white
from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser
from retrodict.denoisers.mixture import MixtureDenoiser
from retrodict.processes.flow import FlowTables, flow_tables, tau_step
from retrodict.processes.observation import Cond, noise_like
from retrodict.processes.process import Process
from retrodict.samplers.plan import make_grid
from retrodict.samplers.stateful_rules.adaptive import ERROR, NODES, PLACES, SHORTEST

__all__ = ["TRACES", "Likelihood", "bits_per_dimension", "log_likelihood"]

TRACES = ("exact", "hutchinson", "skilling")
"""How the divergence is found: by unit vectors, by random signs, or by Gaussian probes."""

EXACT_LIMIT = 4096
"""Numbers of an image up to which unit vectors are taken: one backward pass for each at every call."""

TOGETHER = 2**18
"""Numbers of all probes up to which they go through the denoiser as one batch."""

WASHED_OUT = 1e-3
"""Largest h^2 L/s^2 at t = 1 at which the end of the flow counts as Gaussian whatever the data are."""


class Likelihood(NamedTuple):
    """Per item: log density in nats `(B,)` float64, its standard error from the probes (0 for "exact"), bits per
    dimension, calls of the denoiser, backward passes, and the whitened end of the flow `(B, C, *K)`, unit Gaussian for
    Gaussian data.  error is of the trace alone: that of the steps is what `rtol` or `steps` leave.
    """

    log_density: Tensor
    error: Tensor
    bits: Tensor
    nfe: Tensor
    backward: Tensor
    latent: Tensor


def bits_per_dimension(log_density: Tensor, count: int, level: float = 1.0) -> Tensor:
    """-log2(p level^n)/n of images of n = `count` real numbers: bits for each, told to one `level` (a grey value).

    level = 1: the differential entropy form.  Data on a grid of levels have to be dequantised by uniform noise of one.
    """
    if not level > 0 or count < 1:
        raise InputError("level", level, "a positive grey level, and at least one dimension")
    return -log_density / (count * math.log(2)) - math.log2(level)


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    seeds: Tensor | None = None,
    cond: Cond | None = None,
    trace: str = "hutchinson",
    probes: int = 8,
    steps: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    level: float = 1.0,
    first: float | None = None,
    terminal: Callable[[Tensor], Tensor] | None = None,
    most: int = 2000,
) -> Likelihood:
    """Log density of images x `(B, C, *N)` under the probability flow of `denoiser`, item by item.

    trace: "exact", or estimated by `probes` fields of each of `seeds` `(B,)`: "hutchinson" (signs) or "skilling"
    (Gaussian), with the standard error over probes.  steps: None, steps of Dormand-Prince chosen for each item by
    `rtol`, `atol` (of whitened coefficients); or a number of Heun steps on the log-SNR grid, two calls each.  first:
    the least time that the denoiser is asked at; before it, what is not Gaussian is held constant.  terminal: log
    density `(B,)` of shifted coefficients at t = 1, where it is not a Gaussian.  cond: as for `sample`.  level: see
    `bits_per_dimension`.

    For an external process this is log p(x | y).  A guided denoiser has a flow, too: the density is then of what the
    flow makes, not of a posterior.  Raises `InputError` where the law at t = 1 is not known (a chain that ends at a
    measurement, or keeps some of the image), where there is no flow (the pinned end of a bridge), where the data have
    coefficients without variance, for a denoiser that is not differentiable, and for a tolerance that is not met.
    """
    cond = Cond() if cond is None else cond
    _check(denoiser, x, seeds, cond, trace, probes, steps, rtol + atol)
    seeds = torch.zeros(len(x), dtype=torch.int64, device="cpu") if seeds is None else seeds
    parts = [slice(i, i + 1) for i in range(len(x))] if steps is None else [slice(0, len(x))]
    settings = (trace, probes, first)
    found = []
    for part in parts:
        seen = Cond(*(None if c is None else c[part] for c in cond))
        flow = _Flow.of(denoiser, x[part], seeds[part], seen, *settings)
        _require_terminal(denoiser, flow.variance, terminal)
        state = _adaptive(flow, rtol, atol, most) if steps is None else _fixed(flow, steps)
        found.append(_assemble(flow, state, terminal, level))
    return Likelihood(*(torch.cat(values) for values in zip(*found, strict=True)))


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check(
    denoiser: Denoiser,
    x: Tensor,
    seeds: Tensor | None,
    cond: Cond,
    trace: str,
    probes: int,
    steps: int | None,
    tolerance: float,
) -> None:
    process = denoiser.process
    choice("trace", trace, TRACES)
    if x.ndim != 2 + process.ndim or tuple(x.shape[2:]) != tuple(process.basis.size):
        raise InputError("log_likelihood x", tuple(x.shape), f"(B, C, {', '.join(map(str, process.basis.size))})")
    if process.anchored and cond.image is None:
        raise InputError("log_likelihood", "no condition image", "cond with the image that the process is pulled to")
    if trace == "exact" and x[0].numel() > EXACT_LIMIT:
        found = f"{x[0].numel()} numbers"
        raise InputError("trace 'exact'", found, f"at most {EXACT_LIMIT}", "Use trace='hutchinson'.")
    if trace != "exact" and (probes < 2 or seeds is None or len(seeds) != len(x)):
        found = f"{probes} probes and {'no' if seeds is None else len(seeds)} seeds"
        raise InputError(f"trace {trace!r}", found, f"two probes or more, and a seed for each of {len(x)} items")
    if steps is not None and steps < 1:
        raise InputError("steps", steps, "at least 1, or None for steps by tolerance")
    if not tolerance > 0:
        raise InputError("tolerance", tolerance, "rtol and atol of at least 0, and one above")
    if process.pinned(torch.ones(1, dtype=torch.float64, device="cpu")):
        found = "a bridge: its end is one point, which no flow leaves"
        raise InputError("log_likelihood", found, "a process that ends in noise")


def _require_terminal(denoiser: Denoiser, variance: Tensor, terminal: object) -> None:
    """Refuse an end of the flow whose law is neither given, nor exact, nor noise."""
    if terminal is not None or isinstance(denoiser, GaussianDenoiser | MixtureDenoiser):
        return
    m = denoiser.process.moments(torch.ones(1, dtype=torch.float64, device="cpu"))
    left = torch.where(m.h == 0, 0.0, m.h**2 * variance / m.s2)
    if not bool((left <= WASHED_OUT).all()):
        found = f"a process that keeps some of the image at t = 1 (h^2 L/s^2 up to {float(left.max()):.2g})"
        hint = "Give terminal: the log density of coefficients at t = 1."
        raise InputError("log_likelihood", found, f"a law at t = 1 that is known: h^2 L/s^2 <= {WASHED_OUT}", hint)


# ---- the flow and its divergence -------------------------------------------------------------------------------------


@dataclass
class _Flow:
    """The flow of some items: reference law (mean, variance of coefficients), probes `(n, B, C, *N)`, calls made."""

    denoiser: Denoiser
    x: Tensor
    cond: Cond
    mean: Tensor
    variance: Tensor
    probes: Tensor
    first: float
    mode: str
    calls: int = 0

    @classmethod
    def of(
        cls, denoiser: Denoiser, x: Tensor, seeds: Tensor, cond: Cond, trace: str, probes: int, first: float | None
    ) -> _Flow:
        process, u = denoiser.process, denoiser.process.basis.forward(x)
        prior = denoiser.prior()
        if prior is None:  # any law does: what the coordinates do not take out is integrated
            ones = torch.ones(process.basis.shape, dtype=torch.float64, device=process.basis.device)
            prior = (0 * ones, ones)
        mean, variance = prior
        if cond.image is not None and process.pairing.sees:
            mean, variance = process.pairing.given(mean, variance, cond.image, process.basis)
        variance = torch.where(process.basis.multiplicity() == 0, 1.0, variance)
        if bool((variance <= 0).any()):
            found = f"{int((variance <= 0).sum())} coefficients without variance"
            raise InputError("log_likelihood", found, "data that have a density: a variance above 0 everywhere")
        begin = float(make_grid(process, 2, "logsnr")[1]) if first is None else first
        if not 0 < begin < 1:
            raise InputError("first", first, "a time in (0, 1)")
        drawn = _probes(x, seeds, trace, probes)
        return cls(denoiser, x, cond, mean.to(u), variance, drawn, begin, trace)

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def tables(self, t: float) -> FlowTables:
        return flow_tables(self.process, t, self.variance)

    def start(self) -> Tensor:
        """The whitened image."""
        m = self.process.moments(torch.zeros(1, dtype=torch.float64, device="cpu"))
        anchor = self.cond.image if self.process.anchored else None
        w = self.process.to_coefficients(self.x, torch.zeros(1, dtype=torch.float64, device="cpu"), anchor)
        real = w.real.dtype
        return (w - m.h.to(real) * self.mean) / (m.h**2 * self.variance + m.s2).sqrt().to(real)

    def rest(self, t: float, v: Tensor, weight: Tensor, tables: FlowTables) -> tuple[Tensor, Tensor]:
        """Weight (D - D_G) as coefficients, and its divergence in v for every probe, `(n, B)` float64; one call."""
        basis, real = self.process.basis, v.real.dtype
        h, root, gain = (x.to(real) for x in (tables.h, tables.root, tables.filter))
        w = h * self.mean + root * v
        stretch = (weight * tables.root).to(real)  # of d(v')/d(w) times dw/dv
        seen = basis.forward(self.probes)
        back, known = basis.inverse(stretch * seen), basis.inverse(stretch * gain * seen)  # known: the Gaussian part
        answer, pulled = self._pulled(w, t, back)
        traces = (self.probes.conj() * (pulled - known)).real.double().flatten(2).sum(2)
        self.calls += 1
        rest = basis.forward(answer) - self.mean - gain * (w - h * self.mean)
        return weight.to(real) * rest, traces

    def _pulled(self, w: Tensor, t: float, back: Tensor) -> tuple[Tensor, Tensor]:
        """D at states w, and J^T of each of the fields `back` `(n, B, C, *N)`: of small images all at once."""
        together = back.numel() <= TOGETHER
        count = len(back) if together else 1
        cond = Cond(*(None if c is None else c.repeat(count, *[1] * (c.ndim - 1)) for c in self.cond))
        time = torch.full((count * len(w),), t, dtype=torch.float64, device="cpu")
        with torch.enable_grad():
            state = self.process.to_image(w, time[: len(w)], self.cond.image if self.process.anchored else None)
            state = state.detach().repeat(count, *[1] * (state.ndim - 1)).requires_grad_()
            answer = self.denoiser(state, time, cond)
        if not answer.requires_grad:
            raise InputError("log_likelihood denoiser", "one that is not differentiable", "one that autograd follows")
        if together:
            (pulled,) = torch.autograd.grad(answer, state, back.flatten(0, 1))
            return answer.detach()[: len(w)], pulled.unflatten(0, (count, -1))
        last = len(back) - 1
        rows = [torch.autograd.grad(answer, state, b, retain_graph=k < last)[0] for k, b in enumerate(back)]
        return answer.detach(), torch.stack(rows)

    def opening(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """From t = 0 to `first` with Q held at its value there."""
        tables = self.tables(self.first)
        a, b = (self.process.moments(torch.tensor([t], dtype=torch.float64, device="cpu")) for t in (0.0, self.first))
        weight = tables.stretch * tau_step(a, b, self.variance)
        change, trace = self.rest(self.first, v, weight, tables)
        return v + change, trace


def _probes(x: Tensor, seeds: Tensor, trace: str, count: int) -> Tensor:
    """Unit vectors or `count` random fields, `(n, B, C, *N)`."""
    if trace == "exact":
        eye = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, 1, *x.shape[1:])
        eye = eye.expand(-1, *x.shape)
        return torch.cat([eye, 1j * eye]) if x.is_complex() else eye
    fields = torch.stack([noise_like(x, seeds, "probe", k, white) for k in range(count)])
    if trace == "skilling":
        return fields
    return torch.complex(fields.real.sign(), fields.imag.sign()) if x.is_complex() else fields.sign()


# ---- integration -----------------------------------------------------------------------------------------------------


def _sized(flow: _Flow, error: Tensor) -> float:
    """Root mean square of the coefficients of one item over real degrees of freedom."""
    weight = flow.process.basis.multiplicity().to(error.real)
    return math.sqrt(float((weight * flow.process.basis.energy(error)).sum() / (weight.expand(error.shape).sum())))


def _adaptive(flow: _Flow, rtol: float, atol: float, most: int) -> tuple[Tensor, Tensor]:
    """Whitened state at t = 1 and integrated divergence `(n, B)` of one item; Dormand-Prince in log t."""
    v, total = flow.opening(flow.start())
    span, count = math.log(1 / flow.first), flow.x.numel()

    def slope(place: float, v: Tensor) -> tuple[Tensor, Tensor]:
        t = min(flow.first * math.exp(span * place), 1.0)
        tables = flow.tables(t)
        return flow.rest(t, v, tables.speed * (t * span), tables)

    place, step = 0.0, 0.05
    now = slope(place, v)
    while place < 1:
        step = min(step, 1 - place)
        stages, new = [now], v
        for where, weights in zip(PLACES, NODES, strict=True):
            new = v + step * sum(c * k[0] for c, k in zip(weights, stages, strict=False))
            stages.append(slope(place + where * step, new))
        error = step * sum(c * k[0] for c, k in zip(ERROR, stages, strict=True))
        miss: Tensor = step * sum(c * k[1] for c, k in zip(ERROR, stages, strict=True))  # type: ignore[assignment]
        size = _sized(flow, error / (atol + rtol * torch.maximum(v.abs(), new.abs())))
        size = max(size, float(miss.mean(0).abs().max()) / ((atol + rtol) * count))
        change = min(5.0, max(0.2, 0.9 * max(size, 1e-12) ** -0.2)) if math.isfinite(size) else 0.2
        if size <= 1:
            total = total + step * sum(c * k[1] for c, k in zip(NODES[-1], stages, strict=False))
            v, now, place = new, stages[-1], 1.0 if place + step > 1 - 1e-12 else place + step
        step *= change
        if place < 1 and (flow.calls >= most or step < SHORTEST):
            found = f"tolerances that are not met in {flow.calls} calls (rtol {rtol:g}, atol {atol:g})"
            raise InputError("log_likelihood", found, "a larger rtol and atol, or fixed steps", "Use steps=64.")
    return v, total


def _fixed(flow: _Flow, steps: int) -> tuple[Tensor, Tensor]:
    """The same for all items at once: Heun steps in tau on the log-SNR grid, from its low end up."""
    v, total = flow.opening(flow.start())
    times = make_grid(flow.process, steps, "logsnr", last=flow.first).flip(0)
    for a, b in pairwise(times):
        step = tau_step(flow.process.moments(a[None]), flow.process.moments(b[None]), flow.variance)
        low, high = flow.tables(float(a)), flow.tables(float(b))
        here, trace = flow.rest(float(a), v, low.stretch * step, low)
        there, other = flow.rest(float(b), v + here, high.stretch * step, high)
        v, total = v + (here + there) / 2, total + (trace + other) / 2
    return v, total


def _assemble(
    flow: _Flow, state: tuple[Tensor, Tensor], terminal: Callable[[Tensor], Tensor] | None, level: float
) -> tuple[Tensor, ...]:
    """The fields of `Likelihood`."""
    (v, traces), process, basis = state, flow.process, flow.process.basis
    weight, axes = basis.multiplicity(), tuple(range(1, v.ndim))
    zero, one = (torch.tensor([t], dtype=torch.float64, device="cpu") for t in (0.0, 1.0))

    def volume(t: Tensor) -> Tensor:
        m = process.moments(t)
        log = (m.h**2 * flow.variance + m.s2).log() * weight
        return 0.5 * log.expand(v.shape).sum(axes)

    density = _end(flow, v, terminal, one)
    if density is None:
        density = -0.5 * (weight * (basis.energy(v).double() + math.log(2 * math.pi))).sum(axes)
    else:
        density = density + volume(one)
    exact = flow.mode == "exact"
    trace = traces.sum(0) if exact else traces.mean(0)
    error = torch.zeros_like(trace) if exact else traces.std(0) / math.sqrt(len(traces))
    log = density - volume(zero) + trace
    count = flow.x[0].numel() * (2 if flow.x.is_complex() else 1)
    calls = torch.full((len(v),), flow.calls, dtype=torch.int64, device="cpu")
    bits = bits_per_dimension(log, count, level)
    return log, error, bits, calls, calls * len(flow.probes), v


def _end(flow: _Flow, v: Tensor, terminal: Callable[[Tensor], Tensor] | None, one: Tensor) -> Tensor | None:
    """Log density of the coefficients at t = 1 `(B,)` where it is not that of the reference law."""
    m, real = flow.process.moments(one), v.real.dtype
    w = m.h.to(real) * flow.mean + (m.h**2 * flow.variance + m.s2).sqrt().to(real) * v
    if terminal is not None:
        return terminal(w)
    if not isinstance(flow.denoiser, MixtureDenoiser) or flow.process.pairing.sees:
        return None
    law = flow.denoiser.law
    logs = [p.log() + c.log_evidence(w, m) for p, c in zip(law.weights, law.components(), strict=True)]
    return torch.stack(logs, 1).logsumexp(1)
