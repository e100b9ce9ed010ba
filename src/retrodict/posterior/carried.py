"""Expectation propagation along the chain: the message of one step is where the next one starts.

`Propagated` forgets its message after every step and pays a call to find it again.  The posterior of x_0 moves little
from one step to the next, so the message, taken along, is nearly right: state and message are one observation, answered
in ONE call, and the answer with the message taken out is the law that the measurement updates (see
`retrodict.posterior.messages`).  A run of N steps is N rounds of expectation propagation, and N calls.

The state is a Gaussian observation, and a prior that is a scale mixture of Gaussians adds to its precision.  An answer
that is less sure than state and message together (tails so heavy that it hesitates between both) would leave a law with
less precision than the state has; that is the least which is left, and the answer itself stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from retrodict.bases import Pixel
from retrodict.denoisers.denoiser import Estimate, Observer
from retrodict.posterior.law import ConditionalSpread, Conditioner, root_of
from retrodict.posterior.messages import SMALL, Message, Propagated, observation_of, power_of, without
from retrodict.posterior.method import Draw, ancestral_step, drawn_step, spread_of
from retrodict.processes.observation import fuse, ratio

__all__ = ["Carried"]

NONE = 1e-9
"""Precision of a message over that of the prior below which there is none."""


class _Answer(NamedTuple):
    """What y makes of a law N(m_0, V_0) of independent pixels: mean, the factor of a draw, and the message."""

    mean: Tensor
    root: Tensor
    factor: Tensor
    message: Message

    def drawn(self, z: Tensor) -> Tensor:
        """x_0 `(B, C, *N)` from white noise like it."""
        turned = torch.linalg.solve_triangular(self.factor.mT, z.double().flatten(1)[..., None], upper=True)[..., 0]
        return self.mean + (self.root * turned).reshape(z.shape).to(z)


class _Dense:
    """A^H Sigma^-1 A as a matrix, for at most `SMALL` real pixels: variances given y are exact, not averages."""

    def __init__(self, conditioner: Conditioner, like: Tensor) -> None:
        units = torch.eye(like[0].numel(), dtype=torch.float64, device=like.device).reshape(-1, *like.shape[1:])
        self.gram = conditioner.operator.gram(units).flatten(1)
        self.data = conditioner.operator.adjoint(conditioner.white(units)).flatten(1)

    def __call__(self, mean: Tensor, variance: Tensor) -> _Answer:
        """Means and variances `(B, C, *N)` of x_0 before y is seen; item by item."""
        root, m0 = variance.double().sqrt().expand(mean.shape).flatten(1), mean.double().flatten(1)
        unit = torch.eye(len(self.gram), dtype=torch.float64, device=mean.device)
        factor = torch.linalg.cholesky(unit + root[:, :, None] * self.gram * root[:, None, :])
        rest = self.data - (self.gram * m0[:, None, :]).sum(-1)
        moved = m0 + root * torch.cholesky_solve((root * rest)[..., None], factor)[..., 0]
        left = root**2 * torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1)
        prior = root**-2
        g = 1 / left - prior
        told = g > NONE * prior
        weighted = torch.where(told, moved / left - prior * m0, 0.0)
        message = Message(weighted.reshape(mean.shape), torch.where(told, g, 0.0).reshape(mean.shape))
        return _Answer(moved.reshape(mean.shape).to(mean), root, factor, message)


@dataclass(frozen=True, eq=False)
class Carried(Propagated):
    """`Propagated` with a message that is carried along: one call a step.

    For denoisers that answer for any observation, any linear operator and noise.  Exact on Gaussian data at any number
    of steps.  On the `Pixel` basis with at most 256 real pixels the variances given y are exact and the update is by
    matrices; elsewhere they are those of the eigenvalues of the operator, and the update is by two solves.
    """

    steps: ClassVar[int] = 20

    @property
    def calls(self) -> int:  # type: ignore[override]
        """One."""
        return 1

    @cached_property
    def dense(self) -> _Dense | None:
        """The operator as a matrix, where it is small and the pixels are the coefficients."""
        space = self.measurement.operator.domain
        if not isinstance(self.process.basis, Pixel) or space.complex or space.count > SMALL:
            return None
        return _Dense(self.conditioner, self.like(1, torch.float64))

    def stepper(self) -> Callable[[Tensor, Tensor, Tensor, Draw], Tensor]:
        """Steps that hand on their message; each run has its own."""
        message: Message | None = None

        def step(x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
            nonlocal message
            x, message = self.advance(x, t, s, draw, message)
            return x

        return step

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """A step to which nothing was handed on: that of "matched"."""
        return self.advance(x, t, s, draw, None)[0]

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        """E[x_0 | x_t, y] and the law of x_0 around it, with no message yet."""
        left, c = self.cavity(x, t, None), self.conditioner
        law = spread_of(left.spread)
        return Estimate(c.mean(left.mean, root_of(law)), ConditionalSpread(c, law))

    def cavity(self, x: Tensor, t: Tensor, message: Message | None) -> Estimate:
        """What prior and state say of x_0 where the posterior lies, N(m_0, V_0); one call."""
        denoiser, process = self.denoiser, self.process
        assert isinstance(denoiser, Observer)  # __post_init__ has looked
        if message is None:
            return denoiser.estimate(x, t)
        w, m = process.to_coefficients(x, t), process.moments(t)
        found = denoiser.observe(*fuse(w, m, *observation_of(message, x)))
        return without(found, message, process.basis, ratio(m.h**2, m.s2))

    def advance(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw, message: Message | None) -> tuple[Tensor, Message]:
        """x_t to x_s with the message of the step before, and the message for the next."""
        left = self.cavity(x, t, message)
        if self.dense is not None:
            answer = self.dense(left.mean, power_of(spread_of(left.spread)))
            x0 = answer.drawn(draw(1)[0])
            return ancestral_step(self.process, x, t, s, x0, draw(1)[0]), answer.message
        told, c, law = self._message(left), self.conditioner, spread_of(left.spread)
        found = Estimate(c.mean(left.mean, root_of(law)), ConditionalSpread(c, law))
        return drawn_step(self.process, x, t, s, found, draw), told
