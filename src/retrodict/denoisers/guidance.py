"""Guidance by a worse denoiser and by the gradient of a classifier, and what guidance does to Gaussian data.

Guided draws carry no uncertainty: a guided denoiser is no posterior mean, states no law of its error, and the gate
(`retrodict.gate`) gives none.  Classifier-free guidance, in an interval or not, is `retrodict.Guided`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.denoisers.denoiser import Denoiser, ErrorLaw, Estimate
from retrodict.denoisers.wrappers import Guided, Wrapper
from retrodict.processes.observation import Cond

__all__ = ["Autoguided", "ClassifierGuided", "GuidedLaw", "guided_law"]


@dataclass(frozen=True)
class Autoguided(Guided):
    """Autoguidance: D = free + weight (inner - free), where `free` is a worse denoiser of the *same* data, which sees
    the same condition (Karras et al. 2024).  interval: as of `Guided`.
    """

    def __post_init__(self) -> None:
        """Refuse two denoisers that do not share their states and their condition."""
        self._check_pair()
        if self.free.process.pairing.sees != self.inner.process.pairing.sees:
            raise InputError("Autoguided free", "a denoiser of another condition", "one that sees what `inner` sees")

    def _freely(self, xt: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.free(xt, t, cond)


@dataclass(frozen=True)
class ClassifierGuided(Wrapper):
    """A denoiser with `weight` times the gradient of a classifier in its score (Dhariwal, Nichol 2021).

        D' = D + weight B^-1 [(s^2/h) B grad log p(c | x_t)]

    log_probability(xt, t): log p(c | x_t) `(B,)` of the wanted class, or of whatever else is known, differentiable in
    xt `(B, C, *N)`; it has to be of *noisy* states.  With the exact one and weight 1 D' is E[x_0 | x_t, c]; nobody
    vouches for that, so no law of the error is stated at any weight.  interval: times in which it is done.
    """

    log_probability: Callable[[Tensor, Tensor], Tensor]
    weight: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse an interval that is none."""
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise InputError("ClassifierGuided interval", self.interval, "two times 0 <= low < high <= 1")

    @property
    def error_law(self) -> ErrorLaw:  # type: ignore[override]
        """None: the result is no posterior mean that anybody vouches for."""
        return "none"

    def gaussian(self) -> Denoiser | None:
        """None: a classifier has no Gaussian twin."""
        return None

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D' of a state; the law of its error is not known."""
        mean = self.inner(xt, t, cond)
        inside = (t >= self.interval[0]) & (t <= self.interval[1])
        if not bool(inside.any()):
            return Estimate(mean, None)
        followed = torch.is_grad_enabled() and xt.requires_grad  # by who wants the derivative of D'
        with torch.enable_grad():
            state = xt if followed else xt.detach().requires_grad_()
            value = self.log_probability(state, t)
        if value.shape != (len(xt),) or not value.requires_grad:
            found = f"{tuple(value.shape)}, {'' if value.requires_grad else 'not '}differentiable in the state"
            raise InputError("ClassifierGuided log_probability", found, f"({len(xt)},), differentiable in the state")
        (gradient,) = torch.autograd.grad(value, state, torch.ones_like(value), create_graph=followed)
        weight = (self.weight * inside).reshape(-1, *[1] * (xt.ndim - 1)).to(mean)
        return Estimate(mean + weight * self.process.tweedie(gradient.to(mean), t), None)


class GuidedLaw(NamedTuple):
    """Of samples of the guided flow: their mean over that without guidance, and their variance."""

    gain: Tensor
    variance: Tensor


def guided_law(
    free: Tensor, variance: Tensor, weight: float, clocks: tuple[float, float] = (0.0, math.inf), nodes: int = 4000
) -> GuidedLaw:
    """What guidance does to Gaussian data: the exact end of the guided probability flow, per coefficient.

    The free law is N(0, `free`), the guided one N(mu, `variance`); the flow starts at pure noise.  From
    dy/dr = (1/2) [(1 - w) y/(L + r) + w (y - mu)/(v + r)] in the noise clock r = s^2/h^2:

        Var = L^(1-w) v^w,     mean = mu (w/2) int_0^inf g(r) dr/(v + r),
        g(r) = (L/(L + r))^((1-w)/2) (v/(v + r))^(w/2),

    and w = 1 outside `clocks`.  Weight 1 gives (1, v).  It is *not* the tilted density p_free^(1-w) p^w, whose
    precision is (1 - w)/L + w/v.  For autoguidance mu = 0 and `free` is the variance that the worse denoiser believes
    in.  The integral by `nodes` points of the trapezoid rule in log r (1e-6).
    """
    low, high = clocks
    if not 0 <= low < high or nodes < 2:
        raise InputError("guided_law clocks", clocks, "0 <= low < high")
    free, variance = (torch.as_tensor(x, dtype=torch.float64, device="cpu") for x in (free, variance))
    if not bool(((free > 0) & (variance > 0)).all()):
        raise InputError("guided_law", "a variance of 0 or less", "variances above 0")
    scale = float(torch.minimum(free.min(), variance.min())), float(torch.maximum(free.max(), variance.max()))
    log = torch.linspace(
        math.log(scale[0] * 1e-8), math.log(scale[1] * 1e16), nodes, dtype=torch.float64, device=free.device
    )
    r = log.exp().reshape(-1, *[1] * free.ndim)
    inside = (r >= low) & (r <= high)
    w = torch.where(inside, weight, 1.0)
    # log g is the integral of its slope from 0: in the pieces where w is constant it is known
    tops = r.clamp(low, high)
    base = torch.full_like(r, low)
    guided = _log_gain(base, tops, free, variance, weight)
    plain = _log_gain(torch.zeros_like(r), r.clamp(max=low), free, variance, 1.0)
    beyond = _log_gain(torch.full_like(r, high), r, free, variance, 1.0) if math.isfinite(high) else 0.0
    g = (plain + guided + torch.where(r > high, beyond, 0.0)).exp()
    gain = torch.trapezoid(0.5 * w * g * r / (variance + r), log, dim=0)
    # the variance from the whole way: g(r)^2 (start variance r) as r goes to infinity
    last = r[-1]
    return GuidedLaw(gain, g[-1] ** 2 * (last + (free if math.isinf(high) else variance)))


def _log_gain(a: Tensor, b: Tensor, free: Tensor, variance: Tensor, weight: float) -> Tensor:
    """Log of what is left at clock a of a difference at clock b."""
    return 0.5 * ((1 - weight) * ((free + a) / (free + b)).log() + weight * ((variance + a) / (variance + b)).log())
