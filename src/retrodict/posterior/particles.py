"""Weighted particles: exact for any prior as their number grows, and the only methods that give the evidence."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import uniform, white
from retrodict.denoisers.spread import SpectralSpread
from retrodict.physics.operator import inner
from retrodict.posterior.gradient import Gradient
from retrodict.posterior.law import flat_root
from retrodict.posterior.method import Draw, Drawn, Method, in_precision, noise_of, number_clock
from retrodict.samplers.loop import Noise, Step

__all__ = ["Afdps", "Tds", "effective", "systematic"]


def systematic(log_weights: Tensor, u: float) -> Tensor:
    """Indices `(J,)` of systematic resampling: particle j is taken J w_j times, rounded up or down."""
    share = (log_weights - log_weights.max()).double().exp()
    edges = (share / share.sum()).cumsum(0)
    places = (torch.arange(len(share), dtype=torch.float64, device=share.device) + u) / len(share)
    return torch.searchsorted(edges, places).clamp_max(len(share) - 1)


def effective(log_weights: Tensor) -> float:
    """Effective number of particles, (sum w)^2 / sum w^2."""
    share = (log_weights - log_weights.max()).double().exp()
    return float(share.sum() ** 2 / share.square().sum())


class _Moved(NamedTuple):
    """Particles after a step and what their log weights `(J,)` float64 gain."""

    x: Tensor
    gain: Tensor


@dataclass(frozen=True, eq=False)
class _Particles(Method):
    """A run of particles: moved, weighed in float64, and resampled where fewer than `threshold` of them count."""

    threshold: float = 0.5

    @abstractmethod
    def moved(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> _Moved:
        """One step of all particles."""

    @abstractmethod
    def first(self, x: Tensor, t: Tensor) -> Tensor:
        """Log weights `(J,)` of the particles that a run starts with."""

    def last(self, x: Tensor) -> Tensor:
        """What the log weights gain at the end."""
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """The move without its weights."""
        return self.moved(x, t, s, draw).x

    def run(
        self,
        seeds: Tensor,
        *,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
        noise: Noise = white,
        watch: Callable[[Step], None] | None = None,
    ) -> Drawn:
        """Particles `seeds`; equal weights at the end, and log p(y) from all resamplings."""
        times, like = self.times(steps), self.like(len(seeds), dtype)
        x = self.start(like, noise_of(like, seeds, 0, noise))
        weights, evidence = self.first(x, times[:1].expand(len(x))), 0.0
        lead = seeds[:1]
        for i, (t, s) in enumerate(itertools.pairwise(times)):
            if effective(weights) < self.threshold * len(x):
                evidence += _log_mean(weights)
                x = x[systematic(weights, float(uniform(lead, "resample", i)))]
                weights = torch.zeros_like(weights)
            moved = self.moved(x, t.expand(len(x)), s.expand(len(x)), noise_of(like, seeds, i + 1, noise))
            x, weights = moved.x, weights + moved.gain
            if watch is not None:
                watch(Step(i + 1, len(times) - 1, (i + 1) * self.calls))
        weights = weights + self.last(x)
        evidence += _log_mean(weights)
        x = x[systematic(weights, float(uniform(lead, "resample", len(times))))]
        count = len(times) - 1
        return Drawn(x, None, count * self.calls, count * self.gradients, weights, evidence)


def _log_mean(weights: Tensor) -> float:
    return float(torch.logsumexp(weights, 0)) - math.log(len(weights))


@dataclass(frozen=True, eq=False)
class Tds(_Particles, Gradient):
    """Twisted diffusion sampler (Wu, Trippe, Naesseth, Blei, Cunningham 2023, arXiv 2306.17775).

    Twisting p(y | x_t) = N(y; A D, A C A^H + Sigma), C = r/(1 + r), r = s^2/h^2; proposal: the model's step with its
    mean moved by variance * gradient of the log twisting; weights p(x_s | x_t) twist_s / (twist_t proposal), and the
    likelihood itself at the end: exact for the model's chain as particles grow, whatever the twisting.  The model's
    step is N(keep x_t + data D, std^2 + data^2 v), v the error variance of the denoiser where it is stationary,
    which for Gaussian data is the exact reverse step; std^2 alone elsewhere.
    """

    steps: ClassVar[int] = 50
    calls: ClassVar[int] = 2
    gradients: ClassVar[int] = 2
    grid: ClassVar[str] = "logsnr"

    def twisted(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """D, its error variance, log twisting `(J,)` and its gradient in x_t."""
        mean, spread, pullback = self.evaluated(x, t)
        r = number_clock(self.process, t, "tds")
        factor, c = flat_root(self.process.basis, torch.where(torch.isinf(r), 1.0, r / (1 + r))), self.conditioner
        better = c.mean(mean, factor)
        rest, left = c.residual(mean), c.residual(better)  # (A C A^H + Sigma)^-1 (y - A D) = Sigma^-1 (y - A better)
        log = -0.5 * (rest.conj() * left).real.double().flatten(1).sum(1)
        v = spread.v if isinstance(spread, SpectralSpread) else torch.zeros_like(r)
        return mean, v, log, pullback(c.operator.adjoint(left))

    def first(self, x: Tensor, t: Tensor) -> Tensor:
        """The twisting of the start; constants that are the same for all drop out over the run."""
        return self.twisted(x, t)[2]

    def moved(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> _Moved:
        """Two evaluations: the twisting of where a particle is, and of where it goes."""
        process, basis, real = self.process, self.process.basis, x.real.dtype
        mean, v, before, g = self.twisted(x, t)
        keep, data, std = process.conditional(t, s, 1.0)
        width = (std**2 + data**2 * v).sqrt().to(real)
        z = draw(1)[0]
        push = basis.inverse(width * basis.forward(g))  # in deviations of the step
        w = keep.to(real) * process.to_coefficients(x, t) + data.to(real) * basis.forward(mean)
        new = process.to_image(w + width * basis.forward(push + z), s)
        odds = -0.5 * inner(push, push) - inner(push, z)
        if float(s.max()) == 0.0:
            part, y = self.measurement, in_precision(self.measurement.y, new)
            y = y.expand(len(new), *y.shape[1:])
            after = part.law.log_likelihood(part.operator.forward(new), y, part.mask)
        else:
            after = self.twisted(new, s)[2]
        return _Moved(new, odds + after - before)


@dataclass(frozen=True, eq=False)
class Afdps(_Particles):
    """Particles under the likelihood of the noisy state (Chen, Ren, Min, Ying, Izzo 2025, arXiv 2506.03979).

    In the scale of the image, u = x_t/h with clock r = s^2/h^2 that falls by D a step, target p_r(u) exp(-m(u)),
    m = alpha |y - A u|^2_(Sigma^-1)/2:  u <- u + D (score - grad m) + sqrt(D) z, and the log weight gains
    D/2 (|grad m|^2 - tr Hess m) - D score . grad m - (change of alpha) m/alpha.  Nothing of p(y | x_t) is approximated:
    exact as particles and steps grow.  alpha = 1/(1 + r c)^2, c = ||A||^2/sigma^2, keeps the guidance stable at
    any noise ("natural"); "linear" is that of the paper.
    """

    tempering: str = "natural"
    steps: ClassVar[int] = 200
    grid: ClassVar[str] = "logsnr"

    @cached_property
    def _trace(self) -> float:
        """Tr A^H Sigma^-1 A: by unit vectors up to 4096 unknowns, else by 64 random signs."""
        operator, space = self.conditioner.operator, self.measurement.operator.domain
        n = math.prod(space.shape)
        if n > 4096 or space.complex:
            probes = torch.cat([space.white(k, "trace") for k in range(64)])
            return float(inner(probes, operator.gram(probes)).mean())
        units = torch.eye(n, dtype=torch.float64, device="cpu").reshape(n, *space.shape)
        return float(inner(operator.forward(units), operator.forward(units)).sum())

    @cached_property
    def _strength(self) -> float:
        return self.conditioner.operator.norm(tolerance=1e-3) ** 2

    def alpha(self, r: Tensor, t: Tensor) -> Tensor:
        """Share of the likelihood that is in the target, like r."""
        if self.tempering == "linear":
            return (1 - t.to(r)).reshape(r.shape)
        return torch.where(torch.isinf(r), 0.0, 1 / (1 + torch.where(torch.isinf(r), 0.0, r) * self._strength) ** 2)

    def first(self, x: Tensor, t: Tensor) -> Tensor:
        """-m of the start."""
        r = number_clock(self.process, t, "afdps")
        u = self._scaled(x, t)
        rest = self.conditioner.residual(u)
        return -0.5 * self.alpha(r, t).flatten() * inner(rest, rest)

    def last(self, x: Tensor) -> Tensor:
        """The constants of the likelihood."""
        part, one = self.measurement, x[:1]
        whole = part.law.log_likelihood(part.operator.forward(one), part.y.to(one), part.mask)
        rest = self.conditioner.residual(one)
        return (whole + 0.5 * inner(rest, rest)).expand(len(x))

    def _scaled(self, x: Tensor, t: Tensor) -> Tensor:
        m = self.process.moments(t)
        if bool((m.h == 0).any()):
            raise InputError("afdps", "a process that erases the image, h = 0", "one that keeps some of it at t = 1")
        return self.process.basis.inverse((1 / m.h).to(x.real) * self.process.basis.forward(x))

    def moved(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> _Moved:
        """One call."""
        c, real = self.conditioner, x.real.dtype
        before, after = (number_clock(self.process, v, "afdps") for v in (t, s))
        length = (before - after).to(real)
        u = self._scaled(x, t)
        score = (self.denoiser(x, t) - u) / before.to(real)
        rest = c.residual(u)
        alpha, then = self.alpha(before, t), self.alpha(after, s)
        pull = -alpha.to(real) * c.operator.adjoint(rest)  # grad m
        new = u + length * (score - pull) + length.sqrt() * draw(1)[0]
        d, mu = length.double().flatten(), 0.5 * inner(rest, rest)
        gain = 0.5 * d * (inner(pull, pull) - alpha.flatten() * self._trace) - d * inner(score, pull)
        gain = gain - (then - alpha).flatten() * mu
        m = self.process.moments(s)
        return _Moved(self.process.basis.inverse(m.h.to(real) * self.process.basis.forward(new)), gain)
