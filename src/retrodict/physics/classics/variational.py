"""Least squares with a penalty: FISTA and ADMM, with total variation or wavelets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Fourier
from retrodict.bases.solve import conjugate_gradients
from retrodict.physics.classics.bounds import Bound, Box, box_of
from retrodict.physics.classics.penalties import Penalty, make_penalty
from retrodict.physics.classics.result import (
    Reconstruction,
    Stop,
    closed,
    each_item,
    iterate,
    least_squares,
    start_of,
    told,
)
from retrodict.physics.conditional import Whitened, point_response
from retrodict.physics.measurement import Measurement
from retrodict.physics.operator import scaled_by

__all__ = ["admm", "fista", "objective"]


def objective(part: Measurement, x: Tensor, penalty: Penalty, strength: float) -> float:
    """|W (y - A x)|^2 / 2 + strength R(x) of one item."""
    operator, data = least_squares(part)
    gap = data - operator.forward(x)
    return 0.5 * float(gap.abs().double().square().sum()) + strength * penalty.value(x)


def _strength(strength: float) -> None:
    if not (math.isfinite(strength) and strength >= 0):
        raise InputError("strength", strength, "a number of at least 0")


def fista(
    measurement: Measurement,
    *,
    strength: float,
    penalty: str = "tv",
    iterations: int = 200,
    tolerance: float = 1e-6,
    discrepancy: float | None = None,
    nonnegative: bool = False,
    lower: Bound = None,
    upper: Bound = None,
    support: Tensor | None = None,
    weights: Sequence[float] | None = None,
    direction: float = 0.0,
    family: str = "db2",
    levels: int = 3,
    inner: int = 20,
    start: Tensor | None = None,
) -> Reconstruction:
    """Argmin |y - A x|^2_(Sigma^-1) / 2 + strength R(x) by accelerated proximal gradients.

    Beck and Teboulle (SIAM J. Imaging Sci. 2, 2009), restarted where the momentum points uphill (O'Donoghue and Candes,
    2015).  `penalty` "tv": sum of |grad x|, its proximal map in `inner` warm steps; "wavelet": sum of |details| of
    `family`, `levels`.  `strength` in 1 / unit of the image; without a law of noise Sigma = 1.  The norm of A comes
    from its power iteration, once.

    The image may be held between `lower` and `upper` (numbers, or maps `(C, *N)`, in the unit of the image), above 0
    (`nonnegative`), and at 0 outside `support`; the minimum is that over these images.  `weights` and `direction` (in
    degrees) are those of `TotalVariation`.
    """
    _strength(strength)
    stop = Stop(iterations, tolerance, discrepancy)
    box = box_of(measurement.operator.domain, lower, upper, nonnegative, support)

    def one(part: Measurement) -> Reconstruction:
        kind = make_penalty(penalty, part.operator.domain, family, levels, weights, direction)
        operator, data = least_squares(part)
        x = start_of(part, start)
        # the power method comes from below
        length = 1 / (1.001 * _norm_of(part, operator, x) ** 2)
        state = _Momentum(x, operator.forward(x) - data)
        history: list[float] = []

        def update(x: Tensor) -> Tensor:
            near = kind.near(
                state.point - length * operator.adjoint(state.gap), length * strength, box, state.dual, inner
            )
            gap = operator.forward(near.x) - data
            history.append(0.5 * float(gap.abs().double().square().sum()) + strength * kind.value(near.x))
            state.move(x, near.x, gap)
            state.dual = near.dual
            return near.x

        found = iterate(part, x, update, stop)
        return told(found, strength, kind.value(found.image), history)

    return each_item(measurement, one)


def _norm_of(part: Measurement, operator: Whitened, x: Tensor) -> float:
    """Norm of the whitened operator; of white noise from that of A, which is computed once for all items.

    What a mask leaves out lowers it, so that of A is large enough.
    """
    settings = {"tolerance": 1e-5, "dtype": x.real.dtype}
    variance = operator.covariance.number
    if variance is None:
        return operator.norm(**settings)
    return part.operator.part.norm(**settings) / math.sqrt(variance)


class _Momentum:
    """The point of Nesterov's method from which the next gradient step is made, and the dual variable of the prox.

    `gap` is A point - y; as the point is a combination of the last two images, so is it of theirs.
    """

    def __init__(self, x: Tensor, gap: Tensor) -> None:
        self.point, self.time, self.gap, self.last = x, 1.0, gap, gap
        self.dual: Tensor | None = None

    def move(self, old: Tensor, new: Tensor, gap: Tensor) -> None:
        """Go on beyond the new image with its gap, or stand still where that would go back uphill."""
        last, self.last = self.last, gap
        if float(((self.point - new).conj() * (new - old)).real.sum()) > 0:
            self.time, self.point, self.gap = 1.0, new, gap
            return
        later = 0.5 * (1 + math.sqrt(1 + 4 * self.time**2))
        beyond = (self.time - 1) / later
        self.point, self.gap = new + beyond * (new - old), gap + beyond * (gap - last)
        self.time = later


def admm(
    measurement: Measurement,
    *,
    strength: float,
    penalty: str = "tv",
    iterations: int = 200,
    tolerance: float = 1e-6,
    discrepancy: float | None = None,
    nonnegative: bool = False,
    lower: Bound = None,
    upper: Bound = None,
    support: Tensor | None = None,
    weights: Sequence[float] | None = None,
    direction: float = 0.0,
    family: str = "db2",
    levels: int = 3,
    coupling: float | None = None,
    inner: int = 30,
    start: Tensor | None = None,
) -> Reconstruction:
    """The problem of `fista`, by alternating directions: z = D x, scaled multiplier u (Boyd et al., 2011).

    x from (A^H W A + c D^H D) x = A^H W y + c D^H (z - u) by conjugate gradients from the last x (`inner` rounds at
    most, the circulant of A and D as preconditioner), z = shrink(D x + u, strength / c), u += D x - z.  `coupling` c
    starts from the given number and is balanced for the first half of the iterations between both residuals; it changes
    the way, not the end.  Bounds are split off the same way.
    """
    _strength(strength)
    stop = Stop(iterations, tolerance, discrepancy)
    box = box_of(measurement.operator.domain, lower, upper, nonnegative, support)

    def one(part: Measurement) -> Reconstruction:
        kind = make_penalty(penalty, part.operator.domain, family, levels, weights, direction)
        solver = _Alternation(part, kind, strength, box, inner, coupling, start_of(part, start))
        history: list[float] = []
        x, done, why = solver.x, 0, "iterations"
        while done < iterations and why == "iterations":
            solver.step(balance=done < iterations // 2 and done % 10 == 9)
            x, done = solver.x, done + 1
            history.append(objective(part, x, kind, strength))
            if stop.reached(part, x):
                why = "discrepancy"
            elif tolerance and solver.gap <= tolerance:
                why = "tolerance"
        image = box.nearest(x)
        return told(closed(part, image, done, why), strength, kind.value(image), history)

    return each_item(measurement, one)


class _Alternation:
    """State of ADMM: image x, splits z and multipliers u, the coupling and how far both residuals are."""

    def __init__(
        self,
        part: Measurement,
        penalty: Penalty,
        strength: float,
        box: Box,
        inner: int,
        coupling: float | None,
        x: Tensor,
    ) -> None:
        self.operator, data = least_squares(part)
        self.penalty, self.strength, self.box, self.inner = penalty, strength, box, inner
        self.back, self.x, self.gap = self.operator.adjoint(data), x, math.inf
        self.basis, self.response = _circulant(self.operator, x)
        if coupling is None:
            coupling = max(float(self.response.mean()), 1e-12)
        if not (math.isfinite(coupling) and coupling > 0):
            raise InputError("coupling", coupling, "a positive number")
        self.coupling = coupling
        self.z = [penalty.analyse(x)] + ([] if box.free else [box.nearest(x)])
        self.u = [torch.zeros_like(z) for z in self.z]

    def _split(self, x: Tensor) -> list[Tensor]:
        return [self.penalty.analyse(x)] + ([] if self.box.free else [x])

    def _join(self, parts: list[Tensor]) -> Tensor:
        back = self.penalty.synthesise(parts[0])
        return back if self.box.free else back + parts[1]

    def _system(self, x: Tensor) -> Tensor:
        return self.operator.gram(x) + self.coupling * self._join(self._split(x))

    def _guess(self) -> Callable[[Tensor], Tensor]:
        symbol = self.response + self.coupling * (self.penalty.symbol(self.basis) + float(not self.box.free))
        inverse = 1 / symbol.clamp_min(1e-6 * float(symbol.max()))
        return lambda r: self.basis.inverse(scaled_by(inverse, self.basis.forward(r)))

    def step(self, balance: bool) -> None:
        """One round of x, z, u."""
        right = self.back + self.coupling * self._join([z - u for z, u in zip(self.z, self.u, strict=True)])
        rest = right - self._system(self.x)
        aim = max(0.1 * min(self.gap, 1.0), 1e-12)
        self.x = self.x + conjugate_gradients(self._system, self._guess(), rest, aim, self.inner).x
        seen, old = self._split(self.x), self.z
        self.z = [self.penalty.shrink(seen[0] + self.u[0], self.strength / self.coupling)]
        if not self.box.free:
            self.z.append(self.box.nearest(seen[1] + self.u[1]))
        self.u = [u + s - z for u, s, z in zip(self.u, seen, self.z, strict=True)]
        primal = _norm([s - z for s, z in zip(seen, self.z, strict=True)])
        dual = self.coupling * _size(self._join([z - o for z, o in zip(self.z, old, strict=True)]))
        forward = max(_norm(seen), _norm(self.z), 1e-300)
        backward = max(self.coupling * _size(self._join(self.u)), _size(self.back), 1e-300)
        self.gap = max(primal / forward, dual / backward)
        if balance:
            self._balance(primal / forward, dual / backward)

    def _balance(self, primal: float, dual: float) -> None:
        """Twice or half the coupling where one residual is far ahead (Boyd et al., section 3.4.1)."""
        factor = 2.0 if primal > 5 * dual else 0.5 if dual > 5 * primal else 1.0
        self.coupling *= factor
        self.u = [u / factor for u in self.u]


def _size(x: Tensor) -> float:
    return math.sqrt(float(x.abs().double().square().sum()))


def _norm(parts: list[Tensor]) -> float:
    return math.sqrt(sum(_size(p) ** 2 for p in parts))


def _circulant(operator: Whitened, x: Tensor) -> tuple[Fourier, Tensor]:
    """A^H W A as if it were a convolution of the image."""
    space = operator.domain
    size = space.shape[1:]
    spacing = space.spacing if len(space.spacing) == len(size) else ()
    basis = Fourier(size, spacing, complex=space.complex)
    response = point_response(operator, basis, x)
    probe = space.white(0, "circulant", dtype=torch.float64).to(x)
    level = float((probe.conj() * operator.gram(probe)).real.double().mean() / probe.abs().double().square().mean())
    # where the point is a pixel that nothing measures, it says nothing of the others
    return basis, response if float(response.mean()) > 0.01 * level else torch.full_like(response, level)
