"""Posterior methods whose data step is a linear least-squares problem: DDS, DiffPIR, DAPS and PnP-DM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases.wavelet_tv import wavelet_tv_gradient
from retrodict.physics.covariance import Covariance
from retrodict.physics.measurement import Measurement
from retrodict.physics.noise import GaussianNoise
from retrodict.posterior.law import Conditioner, Factor, flat_root, root_of, solve
from retrodict.posterior.method import (
    Draw,
    Method,
    ancestral_step,
    drawn_step,
    in_precision,
    number_clock,
    renoise_step,
    spread_of,
)

__all__ = ["Daps", "Dds", "DiffPir", "ExactDaps", "PnpDm", "smoothed"]

TV_STEPS, TV_LEVELS = 10, 3
"""Gradient steps of a call of `smoothed`, and levels of the wavelet bands that they smooth."""


@dataclass(frozen=True, eq=False)
class Dds(Method):
    """Decomposed diffusion sampling (Chung, Lee, Ye 2024, arXiv 2303.05754).

    x_y = argmin (gamma/2) ||y - A x||^2 + 1/2 ||x - D||^2 by `rounds` conjugate gradients from D, then
    x_s = h_s x_y + s_s (eta z + sqrt(1 - eta^2) e) with the noise e of D.  `gamma` is in units of 1/y^2 times those of
    x and knows no noise level: the mean is not that of the posterior and the variance a small part of it.
    `variance` (that of the data per pixel, where given): gamma = r_t^2/sigma^2 with r_t^2 = variance r/(variance + r).
    `wavelet_tv`: x_y goes on by `TV_STEPS` steps down the gradient of the total variation of its wavelet details
    (`retrodict.wavelet_tv`; the idea of WISGM, Wu et al. 2024), together at most this share of the way |x_y - D| that
    the data moved it, image by image (the balance of ASD-POCS, Sidky and Pan 2008); 0 leaves it out.

    Raises `InputError` for a share below 0 or above 1.
    """

    gamma: float = 1.0
    eta: float = 0.85
    rounds: int = 5
    variance: float | None = None
    wavelet_tv: float = 0.0
    steps: ClassVar[int] = 50

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 <= self.wavelet_tv <= 1:
            raise InputError("dds wavelet_tv", self.wavelet_tv, "a share from 0 to 1 of what the data move")

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call and a few conjugate gradients."""
        mean = self.denoiser(x, t)
        if self.variance is None:
            new = self._decomposed(mean)
        else:
            r = number_clock(self.process, t, "dds")
            left = torch.where(torch.isinf(r), self.variance, self.variance * r / (self.variance + r))
            new = self.conditioner.mean(mean, flat_root(self.process.basis, left))
        if self.wavelet_tv:
            new = smoothed(new, mean, self.wavelet_tv)
        return renoise_step(self.process, x, t, s, new, mean, draw(1)[0], self.eta)

    def _decomposed(self, mean: Tensor) -> Tensor:
        m, part = self.measurement, self.measurement.operator.part
        rest = in_precision(m.residual(in_precision(mean, m.y)), mean)
        right = self.gamma * part.adjoint(rest)
        mask = m.mask

        def system(v: Tensor) -> Tensor:
            u = part.forward(v)
            return v + self.gamma * part.adjoint(u if mask is None else u * mask.to(u.real))

        return mean + solve(system, lambda v: v, right, 1e-12, self.rounds, axis=0).x


def smoothed(new: Tensor, mean: Tensor, share: float) -> Tensor:
    """`new` `(B, C, *N)` with less total variation of its wavelet details: `share` of |new - mean| in `TV_STEPS` steps.

    The scale of the smoothing of the penalty is 1e-4 of the root mean square of `new`.
    """
    one = [1] * (new.ndim - 1)
    away = (new - mean).flatten(1).norm(dim=1)
    levels = max(1, min(TV_LEVELS, int(math.log2(min(new.shape[2:]))) - 1))
    out = []
    for item, length in zip(new, away, strict=True):  # each with a scale of its own
        x = item[None]
        scale = 1e-4 * float(item.detach().abs().square().mean().sqrt())
        for _ in range(TV_STEPS):
            down = wavelet_tv_gradient(x, levels, ndim=x.ndim - 2, smooth=scale)
            size = down.flatten(1).norm(dim=1).clamp_min(torch.finfo(down.real.dtype).tiny)
            x = x - (share / TV_STEPS * length / size).reshape(-1, *one).to(x) * down
        out.append(x)
    return torch.cat(out)


@dataclass(frozen=True, eq=False)
class DiffPir(Method):
    """DiffPIR (Zhu et al. 2023, arXiv 2305.08995).

    x_y = argmin ||y - A x||^2_(Sigma^-1) + (strength/r) ||x - D||^2, r = s^2/h^2: the prior around D is taken as flat,
    C = r/strength.  Then x_s = h_s x_y + s_s (sqrt(1 - zeta) e + sqrt(zeta) z), e = (x_t - h_t x_y)/s_t.
    """

    strength: float = 1.0
    zeta: float = 0.1

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call and one solve."""
        r = self.process.clock(t)
        if bool(torch.isinf(r).any()):
            raise InputError("diffpir", "a process that erases the image, h = 0", "one that keeps some of it at t = 1")
        mean = self.conditioner.mean(self.denoiser(x, t), flat_root(self.process.basis, r / self.strength))
        return renoise_step(self.process, x, t, s, mean, mean, draw(1)[0], math.sqrt(self.zeta))


@dataclass(frozen=True, eq=False)
class Daps(Method):
    """Decoupled annealing posterior sampling (Zhang et al. 2025, arXiv 2407.01521).

    x_0' by `inner` steps of the probability-flow ODE from x_t to the end; a draw of N(x_0', r I) times the likelihood
    of noise `tau` in the unit of y, with r = s^2/h^2; x_s = h_s x_0 + s_s z.  Their Langevin steps aim at
    exp(-||y - A x||^2/tau^2), without a half, at tau = 0.01 whatever the noise is: the law here has covariance tau^2/2
    and is drawn from exactly (perturb and solve).  `tau` None takes the noise of the measurement."""

    tau: float | None = 0.01
    inner: int = 5
    steps: ClassVar[int] = 200

    @property
    def calls(self) -> int:  # type: ignore[override]
        """Those of the flow."""
        return self.inner

    @cached_property
    def conditioner(self) -> Conditioner:
        """The measurement with the noise that the method is told."""
        if self.tau is None:
            return Conditioner(self.measurement)
        m = self.measurement
        noise = GaussianNoise(Covariance.white(self.tau / math.sqrt(2)))
        return Conditioner(Measurement(m.operator, m.y, noise, m.mask))

    def flow(self, x: Tensor, t: Tensor) -> Tensor:
        """x_0' of the probability-flow ODE by DDIM steps on a grid that is even in log r."""
        process, t = self.process, t.clone()
        target = self.times(None)[-2]
        for j in range(self.inner):
            last = j == self.inner - 1
            s = torch.zeros_like(t) if last else t + (target.clamp_max(float(t.min())) - t) / (self.inner - j)
            x = ancestral_step(process, x, t, s, self.denoiser(x, t), None, 0.0)
            t = s
        return x

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """A few calls, two solves."""
        r = self.process.clock(t)
        if bool(torch.isinf(r).any()):
            raise InputError("daps", "a process that erases the image, h = 0", "one that keeps some of it at t = 1")
        middle = self.flow(x, t)
        return _renoised(self, s, middle, flat_root(self.process.basis, r), draw)


@dataclass(frozen=True, eq=False)
class ExactDaps(Method):
    """`Daps` with the noise of the measurement, D itself for the endpoint of the ODE, and the covariance that the
    denoiser predicts: exact on Gaussian data at any number of steps.
    """

    style: ClassVar[str] = "calibrated"
    steps: ClassVar[int] = 16
    grid: ClassVar[str] = "logsnr"
    conditional_start: ClassVar[bool] = True

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call, two solves."""
        mean, spread = self.denoiser.estimate(x, t)
        return _renoised(self, s, mean, root_of(spread_of(spread)), draw)


def _renoised(method: Method, s: Tensor, middle: Tensor, factor: Factor, draw: Draw) -> Tensor:
    """h_s x_0 + s_s z with x_0 drawn from N(middle, G G^H) given y."""
    c, fields = method.conditioner, factor.fields
    x0 = c.mean(middle, factor) + c.error(draw(fields + c.extra), fields, factor)
    return method.process.corrupt(x0, s, draw(1)[0])


@dataclass(frozen=True, eq=False)
class PnpDm(Method):
    """Plug-and-play diffusion, a split Gibbs sampler (Wu et al. 2024, arXiv 2405.18782).

    In turn x' ~ N(x, rho^2 I) times the likelihood, drawn exactly, and x ~ p(x_0 | x_0 + rho n = x') by a diffusion run
    from the time of rho (`inner` steps with x_0 drawn from the law of the denoiser).  rho falls by `decay` an iteration
    from `first` to `last`, in units of the noise the data have at best: the law it ends in is the posterior of noise
    Sigma + rho^2 A A^H.  Their numbers are rho = 10 to 0.3 in [-1, 1], far above most noise.
    """

    first: float = 10.0
    last: float = 0.3
    decay: float = 0.9
    inner: int = 10
    burn: int = 20
    steps: ClassVar[int] = 60

    @property
    def calls(self) -> int:  # type: ignore[override]
        """Those of the inner run."""
        return self.inner

    def rho(self, i: int) -> float:
        """Coupling of iteration i."""
        return max(self.first * self.decay**i, self.last)

    def levels(self, steps: int) -> list[float]:
        """The couplings of a run: `burn` iterations at the last one."""
        return [self.rho(i) for i in range(steps)]

    def times(self, steps: int | None = None) -> Tensor:
        """Times of the couplings, falling, as the loop wants them; the last is 0."""
        count = steps or self.steps
        found = [self.time_of(rho) for rho in self.levels(count)]
        small = 1e-12 * torch.arange(count, 0, -1, dtype=torch.float64, device="cpu")
        return torch.cat([torch.tensor(found, dtype=torch.float64, device="cpu") + small, small.new_zeros(1)])

    def time_of(self, rho: float) -> float:
        """The time at which s/h is rho, by bisection; 1 where it never is as large."""
        low, high = 0.0, 1.0

        def level(t: float) -> float:
            one = torch.tensor([t], dtype=torch.float64, device="cpu")
            return float(number_clock(self.process, one, "pnp_dm").flatten()[0])

        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if level(middle) < rho**2 else (low, middle)
        return high

    def start(self, like: Tensor, draw: Draw) -> Tensor:
        """Zero, as an image: the chain forgets it."""
        return torch.zeros_like(like)

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One round of Gibbs sampling at the coupling of t; the state is an image, not a noisy one."""
        r = number_clock(self.process, t, "pnp_dm")
        factor, c = flat_root(self.process.basis, r), self.conditioner
        noisy = c.mean(x, factor) + c.error(draw(1 + c.extra), 1, factor)
        state = self.process.to_image(self.process.moments(t).h.to(x.real) * self.process.basis.forward(noisy), t)
        for j in range(self.inner, 0, -1):
            now, then = t * j / self.inner, t * (j - 1) / self.inner
            state = drawn_step(self.process, state, now, then, self.denoiser.estimate(state, now), draw)
        return state
