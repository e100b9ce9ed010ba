"""Methods that give one image and no uncertainty: RED-diff, FlowChef and ShaRP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import white
from retrodict.posterior.method import Draw, Drawn, Kind, Method, ancestral_step, in_precision, noise_of, number_clock
from retrodict.processes.observation import ratio
from retrodict.samplers.loop import Noise, Step

__all__ = ["FlowChef", "RedDiff", "Sharp"]


def _rough(method: Method, like: Tensor) -> Tensor:
    """A^+ y where there is a closed pseudo-inverse, and A^H y / ||A||^2 elsewhere."""
    operator, y = method.measurement.operator, in_precision(method.measurement.y, like)
    y = y if operator.offset is None else y - operator.offset.to(y)
    try:
        x = operator.part.pinv(y)
    except InputError:
        x = operator.part.adjoint(y) / operator.part.norm() ** 2
    return x.expand_as(like)


@dataclass(frozen=True, eq=False)
class RedDiff(Method):
    """RED-diff (Mardani et al. 2023, arXiv 2305.04391): stochastic optimization of one image mu by Adam.

    Gradient v/m A^H (A mu - y) + w_t/d (e(x_t) - n), x_t = h mu + s n with fresh n, e the noise that the denoiser sees,
    w_t = `weight` s/h; t falls from 1 to 0; m data, d unknowns, as means over both have it.  The start is A^+ y where
    there is a closed pseudo-inverse and A^H y/||A||^2 elsewhere.  `rate` in the unit of the image.  Neither MAP nor
    mean.
    """

    weight: float = 0.25
    rate: float = 0.1
    data: float = 1.0
    kind: ClassVar[Kind] = "point"
    steps: ClassVar[int] = 1000

    def start(self, like: Tensor, draw: Draw) -> Tensor:
        """A rough inverse of the data."""
        return _rough(self, like)

    def gradient(self, mu: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Of the loss at time t with noise z."""
        m, real = self.process.moments(t), mu.real.dtype
        x = self.process.corrupt(mu, t, z)
        mean, basis = self.denoiser(x, t), self.process.basis
        e = basis.inverse(
            ratio(torch.ones_like(m.s2), m.s2.sqrt()).to(real) * (basis.forward(x) - m.h.to(real) * basis.forward(mean))
        )
        level = number_clock(self.process, t, "red_diff").sqrt().to(real)
        level = torch.where(torch.isfinite(level), level, 0.0)
        rest = in_precision(self.measurement.residual(in_precision(mu, self.measurement.y)), mu)
        up = self.measurement.operator.adjoint(rest)
        size = self.measurement.operator.domain.count
        return -self.data / self.measurement.count * up + self.weight / size * level * (e - z)

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One step of plain gradient descent; `run` uses Adam."""
        return x - self.rate * self.gradient(x, t, draw(1)[0])

    def run(
        self,
        seeds: Tensor,
        *,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
        noise: Noise = white,
        watch: Callable[[Step], None] | None = None,
    ) -> Drawn:
        """Adam (0.9, 0.99) over falling times."""
        times, like = self.times(steps), self.like(len(seeds), dtype)
        x = self.start(like, noise_of(like, seeds, 0, noise)).clone()
        first, second = torch.zeros_like(x), torch.zeros_like(x.real)
        for i, t in enumerate(times[:-1], 1):
            g = self.gradient(x, t.expand(len(x)), noise_of(like, seeds, i, noise)(1)[0])
            first = 0.9 * first + 0.1 * g
            second = 0.99 * second + 0.01 * g.abs() ** 2
            x = x - self.rate * (first / (1 - 0.9**i)) / ((second / (1 - 0.99**i)).sqrt() + 1e-8)
            if watch is not None:
                watch(Step(i, len(times) - 1, i))
        return Drawn(x, None, len(times) - 1, 0)


@dataclass(frozen=True, eq=False)
class FlowChef(Method):
    """FlowChef (Patel et al. 2024, arXiv 2412.00100): a deterministic flow, and a gradient step on ||A D - y||^2 that
    leaves the derivative of the denoiser out.

    x <- x - k A^H (A D - y), k = `step_size`/||A||^2 (stable below 2), then the flow with the velocity of before; none
    at the last step.  Written for rectified flows; any process will do.
    """

    step_size: float = 1.0
    kind: ClassVar[Kind] = "point"

    @cached_property
    def _norm(self) -> float:
        return self.measurement.operator.part.norm()

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One call."""
        mean = self.denoiser(x, t)
        rest = in_precision(self.measurement.residual(in_precision(mean, self.measurement.y)), mean)
        shift = self.step_size / self._norm**2 * self.measurement.operator.adjoint(rest)
        shift = torch.where(s.reshape(-1, *[1] * (x.ndim - 1)) > 0, shift, 0.0)
        return ancestral_step(self.process, x, t, s, mean, None, 0.0) + shift


@dataclass(frozen=True, eq=False)
class Sharp(Method):
    """ShaRP, stochastic deep restoration priors (Hu et al. 2024, arXiv 2410.02057): descent on one image,

        x <- x - g [ A^H Sigma^-1 (A x - y) + strength H^H S^-1 H (x - R(H x + n)) ],

    R a restorer of degraded images H x + n, n ~ N(0, S): the gradient of -strength E log p(H x + n).  Here it is the
    denoiser at a time t of the process, H = h(t), S = s(t)^2, which may differ between coefficients; t runs through
    [`low`, `high`] by golden sections, the family of degradations.  g = 1/(||Sigma^-1/2 A||^2 + largest strength
    h^2/s^2), `rate` times.  Neither MAP nor mean: for Gaussian data and a linear R the image ends where

        A^H Sigma^-1 (A x - y) + strength mean_t [H^H S^-1 H (1 - R H)] (x - mean) = 0,

    which a constant rate only reaches on average over the last of the noise; `tail` of the iterations are averaged.
    """

    strength: float = 1.0
    low: float = 0.3
    high: float = 0.7
    rate: float = 1.0
    tail: float = 0.5
    kind: ClassVar[Kind] = "point"
    steps: ClassVar[int] = 200

    def __post_init__(self) -> None:
        """Refuse a window that is none."""
        if not 0 < self.low <= self.high <= 1 or not 0 <= self.tail < 1:
            raise InputError("sharp", (self.low, self.high, self.tail), "0 < low <= high <= 1 and 0 <= tail < 1")

    def start(self, like: Tensor, draw: Draw) -> Tensor:
        """A rough inverse of the data."""
        return _rough(self, like)

    def time(self, k: int) -> float:
        """That of iteration k."""
        return self.low + (self.high - self.low) * ((k + 0.5) * 0.6180339887498949 % 1.0)

    def _precision(self, t: Tensor) -> Tensor:
        m = self.process.moments(t)
        return ratio(m.h**2, m.s2)

    @cached_property
    def length(self) -> float:
        """G of the gradient step."""
        early = torch.tensor([self.low], dtype=torch.float64, device="cpu")
        most = float(self._precision(early.to(self.process.basis.device)).max())
        return self.rate / (self.conditioner.operator.norm() ** 2 + self.strength * most)

    def gradient(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Of data and prior at time t `(B,)` with noise z."""
        c, basis = self.conditioner, self.process.basis
        rest = x - self.denoiser(self.process.corrupt(x, t, z), t)
        prior = basis.inverse(self._precision(t).to(x.real) * basis.forward(rest))
        return self.strength * prior - c.operator.adjoint(c.residual(x))

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """One step of descent at time t."""
        return x - self.length * self.gradient(x, t, draw(1)[0])

    def run(
        self,
        seeds: Tensor,
        *,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
        noise: Noise = white,
        watch: Callable[[Step], None] | None = None,
    ) -> Drawn:
        """Descent, and the mean of its tail."""
        count, like = steps or self.steps, self.like(len(seeds), dtype)
        x = self.start(like, noise_of(like, seeds, 0, noise)).clone()
        total, kept = torch.zeros_like(x), 0
        for k in range(count):
            t = torch.full((len(x),), self.time(k), dtype=torch.float64, device="cpu")
            x = self.step(x, t, t, noise_of(like, seeds, k + 1, noise))
            if k + 1 > count * (1 - self.tail) or k + 1 == count:
                total, kept = total + x, kept + 1
            if watch is not None:
                watch(Step(k + 1, count, k + 1))
        return Drawn(total / kept, None, count, 0)
