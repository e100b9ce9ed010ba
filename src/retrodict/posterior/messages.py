"""Expectation propagation in every step: fusion for operators that no basis makes diagonal.

The likelihood of y is stood for by a Gaussian message, coefficients r with precisions g in the basis of the process, so
that state and message are one observation that the denoiser answers for in one call (identity I5).  What the answer
(d, V) adds to the message,

    V_0^-1 = V^-1 - g,    V_0^-1 m_0 = V^-1 d - g r,

is the Gaussian that prior and state are *where the posterior lies*, not where the prior does.  It is updated by the
likelihood itself, x ~ N(m_0, V_0) given y, and the message is what that changes (expectation propagation: Minka, UAI
2001; with one covariance for all, vector approximate message passing: Rangan, Schniter, Fletcher, IEEE T. Inf. Theory
65, 2019).

For Gaussian data m_0 and V_0 are those of x_0 given x_t whatever the message is: the step is exact.  Where A is
diagonal in the basis the message is the measurement and the step is that of "fuse".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis
from retrodict.denoisers.denoiser import Estimate, Observer
from retrodict.denoisers.spread import LocalSpread, SpectralSpread, Spread
from retrodict.physics.operator import Space
from retrodict.posterior.law import ConditionalSpread, Conditioner, root_of
from retrodict.posterior.matched import Matched
from retrodict.posterior.method import Draw, drawn_step, spread_of
from retrodict.processes.observation import Moments, fuse, ratio
from retrodict.samplers.principal import lanczos

__all__ = ["SMALL", "Message", "Propagated", "Response", "observation_of", "power_of", "without"]

FLOOR = 1e-3
"""Least precision of prior and state over that of the answer: a prior between two modes has none, or a negative one."""

PROBES, ROUNDS, SMALL = 8, 12, 256
"""Random images and rounds of Lanczos' method from which the eigenvalues of an operator are known; up to SMALL real
numbers it is all unit images, as random ones scatter there.
"""


class Message(NamedTuple):
    """What stands for the likelihood: precision-weighted coefficients g r `(B, C, *K)` and
    precisions g `(B|1, C|1, *K)`, float64.
    """

    weighted: Tensor
    precision: Tensor


class Response:
    """A^H Sigma^-1 A of a measurement in a basis: numbers G per coefficient, and eigenvalues of G^-1/2 . G^-1/2.

    The eigenvalues theta_i and their weights w_i are those of a stochastic Lanczos quadrature (Ubaru, Chen, Saad, SIAM
    J. Matrix Anal. 38, 2017), so that the variance of a coefficient given y and a prior of precision p is
    sum_i w_i / (p + theta_i G).  Where A is diagonal in the basis every theta is 1.
    """

    def __init__(self, conditioner: Conditioner, basis: Basis, like: Tensor) -> None:
        wide = like[:1].to(torch.complex128 if like.is_complex() else torch.float64)
        operator, space = conditioner.operator, conditioner.operator.domain
        found = conditioner.gain(basis, wide)
        probes = _probes(space).to(wide)
        if found is None:
            images = operator.forward(probes)
            mean = float((images.abs() ** 2).sum() / (probes.abs() ** 2).sum())
            found = torch.full(basis.shape, mean, dtype=torch.float64, device=basis.device)
        self.gain = found.double().clamp_min(0.0)
        root = ratio(torch.ones_like(self.gain), self.gain.sqrt())

        def applied(x: Tensor) -> Tensor:
            image = basis.inverse(root * basis.forward(x))
            return basis.inverse(root * basis.forward(operator.gram(image)))

        seen = basis.inverse((self.gain > 0).to(wide.real.dtype) * basis.forward(probes))
        _, table = lanczos(applied, seen, min(ROUNDS, space.count))
        values, vectors = torch.linalg.eigh(table)
        self.weights = (vectors[:, 0] ** 2).flatten() / len(values)
        self.values = values.clamp_min(0.0).flatten()

    def precision(self, prior: Tensor) -> Tensor:
        """G of the message to a prior of precisions `(B|1, C|1, *K)`: 1/(variance given y) - prior."""
        left = torch.zeros_like(prior + self.gain)
        for w, theta in zip(self.weights, self.values, strict=True):
            left = left + w / (prior + theta * self.gain)
        return (1 / left - prior).clamp_min(0.0)


def _probes(space: Space) -> Tensor:
    if space.complex or space.count > SMALL:
        return torch.cat([space.white(k, "eigenvalues") for k in range(PROBES)])
    return torch.eye(space.count, dtype=torch.float64, device="cpu").reshape(-1, *space.shape)


@dataclass(frozen=True, eq=False)
class Propagated(Matched):
    """`Matched` whose law of x_0 is fitted where the posterior lies: `rounds` of expectation propagation a step.

    For denoisers that answer for any observation, any linear operator and noise.  Exact on Gaussian data at any number
    of steps; on mixtures the modes get their weights.  1 + `rounds` calls and 2 + `rounds` solves a step, no gradients.
    """

    rounds: int = 1
    steps: ClassVar[int] = 10

    def __post_init__(self) -> None:
        """Refuse what cannot answer, before anything is run."""
        if not isinstance(self.denoiser, Observer) or not self.denoiser.any_clock:
            wanted = "a denoiser that answers for any observation (level='clock' for a network)"
            raise InputError("propagated", type(self.denoiser).__name__, wanted, "Use 'matched'.")
        if self.rounds < 1:
            raise InputError("propagated", f"{self.rounds} rounds", "at least 1", "'matched' has none.")

    @property
    def calls(self) -> int:  # type: ignore[override]
        """One for the state alone, and one for every message."""
        return 1 + self.rounds

    @cached_property
    def response(self) -> Response:
        """That of the measurement."""
        return Response(self.conditioner, self.process.basis, self.like(1, torch.float64))

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        """E[x_0 | x_t, y] and the law of x_0 around it."""
        denoiser, process, basis, c = self.denoiser, self.process, self.process.basis, self.conditioner
        assert isinstance(denoiser, Observer)
        w, m = process.to_coefficients(x, t), process.moments(t)
        mean, spread = denoiser.estimate(x, t)
        left, least = Estimate(mean, spread_of(spread)), ratio(m.h**2, m.s2)
        for _ in range(self.rounds):
            message = self._message(left)
            found = denoiser.observe(*fuse(w, m, *observation_of(message, x)))
            left = without(found, message, basis, least)
        law = spread_of(left.spread)
        return Estimate(c.mean(left.mean, root_of(law)), ConditionalSpread(c, law))

    def _message(self, left: Estimate) -> Message:
        """What y adds to a law N(m_0, V_0): the message that its mean given y and their variances have."""
        basis, spread = self.process.basis, spread_of(left.spread)
        prior = 1 / power_of(spread)
        g = self.response.precision(prior)
        mean, real = self.conditioner.mean(left.mean, root_of(spread)), left.mean.real
        weighted = (g + prior).to(real) * basis.forward(mean) - prior.to(real) * basis.forward(left.mean)
        return Message(torch.where(g > 0, weighted, 0.0), g)

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """x_0 ~ N(E[x_0 | x_t, y], V), then x_s ~ q(x_s | x_t, x_0)."""
        return drawn_step(self.process, x, t, s, self.estimate(x, t), draw)


def observation_of(message: Message, like: Tensor) -> tuple[Tensor, Moments]:
    """A message as coefficients of an observation of gain 1, or 0 where it says nothing, and their moments."""
    told = ratio(torch.ones_like(message.precision), message.precision)
    where = (message.precision > 0).to(told)
    law = Moments(where, torch.zeros_like(where), torch.where(where > 0, told, 1.0))
    return told.to(like.real) * message.weighted, law


def power_of(spread: Spread) -> Tensor:
    """Variance per coefficient of a law that has one."""
    if not isinstance(spread, SpectralSpread | LocalSpread):
        hint = "Use 'matched', which takes any law."
        raise InputError("propagated", f"an error law of kind {type(spread).__name__}", "one with a spectrum", hint)
    power = spread.power()
    return power.clamp_min(torch.finfo(torch.float64).tiny ** 0.5)


def without(found: Estimate, message: Message, basis: Basis, least: Tensor | None = None) -> Estimate:
    """The law of an answer with a message taken out of it again.

    `least`: the precision per coefficient that is left in any case, that of the state (None: `FLOOR` of the answer's).
    """
    spread = spread_of(found.spread)
    total = 1 / power_of(spread)
    floor = FLOOR * total if least is None else torch.maximum(least, 1e-9 * total)
    own = torch.maximum(total - message.precision, floor)
    d = basis.forward(found.mean)
    real = d.real
    # m_0 = V_0 (V^-1 d - g r) as a step from d, which a floor under V_0^-1 does not move
    shift = ratio(message.precision, own).to(real) * d - (1 / own).to(real) * message.weighted
    mean = d + shift
    assert isinstance(spread, SpectralSpread | LocalSpread)
    return Estimate(basis.inverse(mean), replace(spread, v=spread.v * (total / own)))
