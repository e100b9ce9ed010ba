"""Multiplicative noise on positive images (speckle, gain noise), which is additive in u = log x.

Geometric Brownian motion dX = mu X dt + sigma X dW, pixel by pixel, has log X_t = log X_0 + m(t) + sigma sqrt(t) z with
m(t) = (mu - sigma^2 / 2) t: a variance-exploding process in u, up to the shift m.  So losses, rules and posterior
samplers run in u unchanged, with any process of the package; `LogDomain` goes there and back, and `GeometricBrownian`
says what they are in x (Shetty, Prasath, Seelamantula 2025, arXiv 2510.02730).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, choice
from retrodict.bases import Basis
from retrodict.processes.observation import Moments
from retrodict.processes.process import Law, Process, assemble

__all__ = ["FORMS", "GeometricBrownian", "LogDomain", "geometric"]

FORMS = ("log", "ambient")
"""Reverse steps of multiplicative noise: in the logarithm, which keeps the sign, and in x itself."""


def geometric(basis: Basis, sigma: float = 1.0, **pairing: Any) -> Process:
    """Multiplicative noise (geometric Brownian motion) of positive images, in u = log x: h = 1, k = 0, s = sigma t.

    At t the Brownian motion has run for the time t^2, so that noise grows evenly and next to none is left at the first
    node of a grid.  The drift mu only moves u by m(t^2), m(t) = (mu - sigma^2 / 2) t, which `LogDomain` takes away.
    `sigma` is the standard deviation of log x at t = 1.  With conditioning "terminal" x_1 is the measurement: an image
    under log-normal speckle of that deviation.  Shetty, Prasath, Seelamantula 2025 ("Dale meets Langevin"), their
    forward equation.
    """
    if not 0 < sigma < math.inf:
        raise InputError("geometric sigma", sigma, "a positive standard deviation of log x")

    def family(bound: Basis) -> Law:
        return lambda t: (torch.ones_like(t), 0 * t, (sigma * t) ** 2)

    def measured(bound: Basis) -> Moments:
        one = torch.ones(bound.shape, dtype=torch.float64, device=bound.device)
        return Moments(one, 0 * one, sigma**2 * one)

    return assemble(family, basis, "geometric", {"sigma": sigma}, measurement=measured, **pairing)


@dataclass(frozen=True)
class LogDomain:
    """Positive values and their logarithms: u = log((value - offset) / scale) - shift.

    `offset` and `scale` are in the unit of the data, `shift` is in nats.  Attenuation instead of HU is offset -1000
    (and a little below it, as a floor).  `shift` of a *measured* image is m(1) of its noise, -sigma^2 / 2 for noise of
    mean 1: see `GeometricBrownian.shift`; of clean images it is 0.

    As the `finish` of `restore_batch` it delivers mean and deviation in the unit of the data: E[x | y] is the
    arithmetic mean, while the exponential of E[u | y] is the geometric one, which is lower (Jensen).
    """

    offset: float = 0.0
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a scale that is none."""
        if not 0 < self.scale < math.inf:
            raise InputError("LogDomain scale", self.scale, "a positive number, in the unit of the data")

    def encode(self, values: Tensor) -> Tensor:
        """Values in the unit of the data to u.  Raises `InputError` for values at or below the offset."""
        least = values.amin() if values.numel() else values.new_ones(())
        if not bool(torch.isfinite(values).all()) or not float(least) > self.offset:
            found = f"values down to {float(least):.6g}"
            hint = "Give an offset below all of them, or use a process of additive noise, such as ve."
            raise InputError("multiplicative noise", found, f"finite values above {self.offset:g}", hint)
        return ((values - self.offset) / self.scale).log() - self.shift

    def decode(self, u: Tensor) -> Tensor:
        """Inverse of `encode` for clean images: offset + scale exp(u)."""
        return self.offset + self.scale * u.exp()

    def __call__(self, u: Tensor) -> Tensor:
        """`decode`: members of an ensemble in the unit of the data."""
        return self.decode(u)

    def moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Arithmetic mean and variance of the values where u ~ N(mean, variance), pixel by pixel (log-normal).

        offset + scale exp(mean + variance / 2), and (scale exp(mean + variance / 2))^2 (exp(variance) - 1).
        """
        level = self.scale * (mean + 0.5 * variance).exp()
        return self.offset + level, level**2 * torch.expm1(variance)


@dataclass(frozen=True)
class GeometricBrownian:
    """dX = mu X dt + sigma X dW in x itself, for t in [0, 1]: what `geometric` is in u, at its time sqrt(t).

    `score` here is h = x grad log p(x) (element by element), which is the score of log x minus 1.
    """

    mu: float = 0.0
    sigma: float = 1.0

    def shift(self, t: Tensor | float) -> Tensor:
        """m(t) = (mu - sigma^2 / 2) t, in nats; zero for mu = sigma^2 / 2."""
        return (self.mu - 0.5 * self.sigma**2) * _time(t)

    def variance(self, t: Tensor | float) -> Tensor:
        """Variance of log x_t given x_0, sigma^2 t."""
        return self.sigma**2 * _time(t)

    def corrupt(self, x0: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """x_t = x_0 exp(m(t) + sigma sqrt(t) z); x0, z `(B, ...)`, t `(B,)`."""
        lifted = t.reshape(-1, *[1] * (x0.ndim - 1))
        return x0 * (self.shift(lifted).to(x0) + self.variance(lifted).sqrt().to(x0) * z).exp()

    def moments(self, x0: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Mean x_0 e^(mu t) and variance (x_0 e^(mu t))^2 (e^(sigma^2 t) - 1) of x_t given x_0."""
        mean = x0 * math.exp(self.mu * t)
        return mean, mean**2 * math.expm1(self.sigma**2 * t)

    def target(self, xt: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The conditional score -(log x_t - log x_0 - m) / Sigma - 1, which a network is to learn; t `(B,)` > 0."""
        lifted = t.reshape(-1, *[1] * (x0.ndim - 1))
        return -(xt.log() - x0.log() - self.shift(lifted).to(x0)) / self.variance(lifted).to(x0) - 1

    def loss(self, score: Tensor, xt: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Multiplicative denoising score matching, mean square of score - target, of each item `(B,)`.

        The same as the score-matching loss of the variance-exploding process in log x: `WEIGHTS["score"]`.
        """
        return (score - self.target(xt, x0, t)).square().flatten(1).mean(1)

    def score_of(self, mean: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """Score h = x grad log p_t from D = E[log x_0 | x_t] (Tweedie): (D + m - log x_t) / Sigma - 1."""
        return self.target(xt, mean.exp(), t)

    def log_mean(self, score: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """E[log x_0 | x_t] = log x_t - m + Sigma (1 + h), the inverse of `score_of`."""
        lifted = t.reshape(-1, *[1] * (xt.ndim - 1))
        return xt.log() - self.shift(lifted).to(xt) + self.variance(lifted).to(xt) * (1 + score)

    def step(self, x: Tensor, score: Tensor, d: float, z: Tensor, form: str = "log") -> Tensor:
        """One Euler step back in time by d with white noise z.

        "log": x exp((3/2 sigma^2 - mu) d + sigma^2 d h + sigma sqrt(d) z), the Euler step of the reverse equation of
        log x, which keeps the sign.  "ambient": x (1 + (2 sigma^2 - mu) d + sigma^2 d h + sigma sqrt(d) z), that of x;
        it may turn negative.
        """
        s2, noise = self.sigma**2, self.sigma * math.sqrt(d) * z
        if choice("form", form, FORMS) == "log":
            return x * ((1.5 * s2 - self.mu) * d + s2 * d * score + noise).exp()
        return x * (1 + (2 * s2 - self.mu) * d + s2 * d * score + noise)


def _time(t: Tensor | float) -> Tensor:
    return t.double() if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64, device="cpu")
