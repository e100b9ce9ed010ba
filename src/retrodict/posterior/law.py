"""The law of x_0 once a measurement is known too: conditional mean and exact draws by perturb and solve."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis, Fourier
from retrodict.denoisers.spread import LocalSpread, SpectralSpread, Spread
from retrodict.physics.conditional import Whitened, point_response
from retrodict.physics.measurement import Measurement

__all__ = ["ConditionalSpread", "Conditioner", "Factor", "Root", "Solved", "flat_root", "root_of", "solve"]

ROUNDS = 4000
"""Of a solve at most.  Tens are usual; a limited angle under a prior whose power falls by 10^8 takes thousands."""

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}
"""Residual over the first at which the conjugate gradients end, by precision."""

ENOUGH = {torch.float64: 0.0, torch.float32: 0.01}
"""Error of an answer in deviations of the conditional law, root mean square, at which they end in any case: far below
the scatter of what is drawn.  In double precision answers are compared with matrices, and it has no say."""

REFRESH = 25
"""Rounds after which a residual is computed anew."""


# ---- factors of a covariance ----------------------------------------------------------------------------------------


class Factor(Protocol):
    """G of a covariance C = G G^H: the error is G w for white w `(fields, B, C, *N)`."""

    @property
    def fields(self) -> int:
        """Number of white fields."""
        ...

    def forward(self, w: Tensor) -> Tensor:
        """G w `(B, C, *N)`."""
        ...

    def raised(self, u: Tensor) -> Tensor:
        """G of unknowns u as the solver keeps them: images, or coefficients, which saves transforms."""
        ...

    def adjoint(self, x: Tensor) -> Tensor:
        """G^H x, as unknowns."""
        ...

    def weight(self) -> Tensor | None:
        """Weights of the inner product of unknowns; None: 1."""
        ...


@dataclass(frozen=True)
class Root:
    """G w = sum_b weights_b B^-1 [tables_b B w_b]: the factor of the laws of `retrodict.denoisers.spread`.

    `tables` `(F, B|1, C|1, *K)` real, `weights` `(F, B, C|1, *N)` or None for 1.
    """

    basis: Basis
    tables: Tensor
    weights: Tensor | None = None

    @property
    def fields(self) -> int:
        """One for every table."""
        return len(self.tables)

    def forward(self, w: Tensor) -> Tensor:
        """G w."""
        return self.raised(self.basis.forward(w))

    def raised(self, u: Tensor) -> Tensor:
        """G of coefficients u `(F, B, C, *K)`."""
        scaled = self.tables.to(u.real) * u
        if self.weights is None:
            return self.basis.inverse(scaled.sum(0))
        fields = self.basis.inverse(scaled)
        return (self.weights.to(u.real) * fields).sum(0)

    def adjoint(self, x: Tensor) -> Tensor:
        """G^H x as coefficients."""
        if self.weights is None:
            return self.tables.to(x.real) * self.basis.forward(x)
        return self.tables.to(x.real) * self.basis.forward(self.weights.to(x.real) * x)

    def weight(self) -> Tensor:
        """Real degrees of freedom of every coefficient: the basis is an isometry under it."""
        return self.basis.multiplicity()

    def levels(self) -> Tensor:
        """The factor as numbers per coefficient `(F, B|1, C|1, *K)`, weights averaged over the image."""
        if self.weights is None:
            return self.tables
        mean = self.weights.flatten(3).mean(-1)
        return self.tables * mean[(..., *[None] * self.basis.ndim)].to(self.tables)


@dataclass(frozen=True)
class _Drawn:
    """The factor of any law by its `draw`, which is linear in the noise; the adjoint is its derivative."""

    spread: Spread

    @property
    def fields(self) -> int:
        return self.spread.fields

    def forward(self, w: Tensor) -> Tensor:
        return self.spread.draw(w)

    def raised(self, u: Tensor) -> Tensor:
        return self.spread.draw(u)

    def weight(self) -> None:
        return None

    def adjoint(self, x: Tensor) -> Tensor:
        zero = x.new_zeros(self.spread.fields, *x.shape).requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self.spread.draw(zero), zero, x)
        return g


def root_of(spread: Spread) -> Factor:
    """The factor of an error law; a law may have one of its own, `root()`."""
    own = getattr(spread, "root", None)
    if own is not None:
        return own()
    if isinstance(spread, SpectralSpread):
        return Root(spread.basis, spread.v.sqrt()[None])
    if isinstance(spread, LocalSpread):
        shape = [-1, *[1] * (spread.v.ndim - spread.basis.ndim), *spread.basis.shape]
        tables = spread.v.sqrt()[None] * spread.filters.reshape(shape)
        return Root(spread.basis, tables, (0.5 * spread._ratios.transpose(0, 1)).exp())
    return _Drawn(spread)


def flat_root(basis: Basis, variance: Tensor) -> Root:
    """The factor of a covariance that is numbers `(B|1, C|1, *K)` in a basis."""
    return Root(basis, variance.expand(*variance.shape[:2], *basis.shape).sqrt()[None])


# ---- conjugate gradients, item by item -------------------------------------------------------------------------------


class Solved(NamedTuple):
    """The answer, the residual that is `left` over the first `(B,)`, the number of `rounds` of the slowest item, and
    the square of the preconditioned `norm` of that residual `(B,)`: of the error in the metric of the system.
    """

    x: Tensor
    left: Tensor
    rounds: int
    norm: Tensor


def solve(
    system: Callable[[Tensor], Tensor],
    guess: Callable[[Tensor], Tensor],
    right: Tensor,
    tolerance: float,
    rounds: int,
    axis: int = 1,
    weight: Tensor | None = None,
    enough: float = 0.0,
) -> Solved:
    """Preconditioned conjugate gradients for a batch along `axis`, with numbers of its own for every item.

    `weight`: of the inner product, in which the maps are Hermitian.  They end where the preconditioned norm of the
    residual has fallen to `tolerance` of the first, or its square to `enough`.  An item that is done stands still,
    so that none depends on the others (Hestenes and Stiefel, J. Res. NBS 49, 1952).
    """
    axes = [a for a in range(right.ndim) if a != axis]

    def dot(a: Tensor, b: Tensor) -> Tensor:
        product = (a.conj() * b).real.double()
        return (product if weight is None else weight * product).sum(axes, keepdim=True)

    answer, residual = torch.zeros_like(right), right
    step = z = guess(residual)
    size = first = dot(residual, z)
    done = 0
    for done in range(1, rounds + 1):
        going = size > (tolerance**2 * first).clamp_min(enough)
        if not bool(going.any()):
            done -= 1
            break
        image = system(step)
        curvature = dot(step, image)
        length = torch.where(going & (curvature > 0), size / torch.where(curvature > 0, curvature, 1.0), 0.0)
        answer = answer + length.to(right.real) * step
        residual = right - system(answer) if done % REFRESH == 0 else residual - length.to(right.real) * image
        z = guess(residual)
        after = dot(residual, z)
        turn = torch.where(going, after / torch.where(size > 0, size, 1.0), 0.0)
        step = torch.where(going, z + turn.to(right.real) * step, step)
        size = torch.where(going, after, size)
    left = (size.clamp_min(0.0) / torch.where(first > 0, first, 1.0)).sqrt().flatten()
    return Solved(answer, left, done, size.clamp_min(0.0).flatten())


# ---- conditioning ----------------------------------------------------------------------------------------------------


class Conditioner:
    """One measurement as an update of Gaussian laws N(mean, C), C = G G^H, of x_0 `(B, C, *N)`:

        E[x_0 | y] = mean + G w,    (1 + G^H A^H Sigma^-1 A G) w = G^H A^H Sigma^-1 (y - A mean),

    the Kalman update C A^H (A C A^H + Sigma)^-1 (y - A mean) in the space of the factor, where the eigenvalues of the
    system are at least 1.  By conjugate gradients, whose preconditioner is the same system with A^H Sigma^-1 A as
    numbers in the basis of C (its spectral form, or its response to a point); where that is exact they take one round.

    The measurement is of one item and has a noise law; a law that is not Gaussian is represented by the Gaussian one
    beside its data (`Measurement.gaussian`).  `tolerance`: residual over the first (None: by precision, and in
    single precision an error of 0.01 deviations of the conditional law is enough).  `enough`: that error, where another
    one is.
    """

    unsolved = ""
    """What is to be said of solves that did not end."""

    error_left = 0.0
    """Error of the worst item of the last solve, root mean square in deviations of the conditional law."""

    def __init__(
        self,
        measurement: Measurement,
        tolerance: float | None = None,
        rounds: int = ROUNDS,
        enough: float | None = None,
    ) -> None:
        self.measurement, self.tolerance, self.rounds, self.enough = measurement, tolerance, rounds, enough
        self.operator, self.data = measurement.whitened()
        self._gains: dict[Basis, Tensor | None] = {}

    def white(self, like: Tensor) -> Tensor:
        """W y `(1, *range)` in the precision and place of images `like`."""
        double = like.dtype in (torch.float64, torch.complex128)
        real, whole = (torch.float64, torch.complex128) if double else (torch.float32, torch.complex64)
        return self.data.to(dtype=whole if self.data.is_complex() else real, device=like.device)

    def residual(self, x: Tensor) -> Tensor:
        """W (y - A x) `(B, *range)`."""
        return self.white(x) - self.operator.forward(x)

    def mean(self, mean: Tensor, factor: Factor) -> Tensor:
        """E[x_0 | y] for x_0 ~ N(mean, G G^H)."""
        return mean + self._solve(self.residual(mean), factor)

    def error(self, z: Tensor, fields: int, factor: Factor) -> Tensor:
        """A draw of x_0 - E[x_0 | y] from white noise z `(fields + extra, B, C, *N)`; see `extra`.

        e_0 = G z_1 is a draw of N(0, C); e_0 + K (z_2 - A e_0), with z_2 the noise of the data, is one of the
        conditional law (perturb and solve: Papandreou and Yuille, NeurIPS 2010).
        """
        prior = factor.forward(z[:fields])
        return prior + self._solve(self.noise(z[fields:]) - self.operator.forward(prior), factor)

    @property
    def extra(self) -> int:
        """Image fields that hold as many real numbers as the data."""
        return math.ceil(self.operator.range.count / self.operator.domain.count)

    def noise(self, z: Tensor) -> Tensor:
        """White image fields `(extra, B, C, *N)` as white data `(B, *range)`."""
        space = self.operator.range
        flat = torch.view_as_real(z) if z.is_complex() else z
        flat = flat.transpose(0, 1).flatten(1)[:, : space.count]
        if space.complex:
            return torch.view_as_complex(flat.reshape(len(flat), *space.shape, 2).contiguous())
        return flat.reshape(len(flat), *space.shape)

    def drawn(self, mean: Tensor, z: Tensor, fields: int, factor: Factor) -> Tensor:
        """A draw of the conditional law, `mean(...) + error(...)` by one solve, in which both are linear."""
        prior = mean + factor.forward(z[:fields])
        return prior + self._solve(self.residual(prior) + self.noise(z[fields:]), factor)

    def squared_distance(self, mean: Tensor, factor: Factor) -> Tensor:
        """(y - A m)^H (A C A^H + Sigma)^-1 (y - A m) `(B,)` float64: chi^2 of y under N(A m, A C A^H + Sigma)."""
        rest = self.residual(mean)
        left = rest - self.operator.forward(self._solve(rest, factor))
        return (rest.conj() * left).real.double().flatten(1).sum(1)

    def _solve(self, rest: Tensor, factor: Factor) -> Tensor:
        """G w of whitened residuals `(B, *range)`."""
        return self._moved(self.operator.adjoint(rest), factor)

    def _moved(self, image: Tensor, factor: Factor) -> Tensor:
        """G w of A^H Sigma^-1 (y - A mean) `(B, C, *N)`."""
        right = factor.adjoint(image)
        single = right.real.dtype
        tolerance = TOLERANCE[single] if self.tolerance is None else self.tolerance

        def system(w: Tensor) -> Tensor:
            return w + factor.adjoint(self.operator.gram(factor.raised(w)))

        # the residual's norm is the answer's error in the metric of the system, the inverse of the covariance of w | y
        error = self.enough if self.enough is not None else ENOUGH[single] if self.tolerance is None else 0.0
        enough = error**2 * self.operator.domain.count
        guess, weight = self._guess(factor, image), factor.weight()
        found = solve(system, guess, right, tolerance, self.rounds, weight=weight, enough=enough)
        self._note(found)
        return factor.raised(found.x)

    def _note(self, found: Solved) -> None:
        """Keep what is to be said where the rounds did not suffice: what is drawn then misfits the data."""
        left = float(found.left.max())
        self.error_left = math.sqrt(float(found.norm.max()) / self.operator.domain.count)
        if found.rounds >= self.rounds and left > 1e-3:
            rounds = f"a data step ended after {found.rounds} rounds with {left:.1g} of its residual left"
            self.unsolved = f"{rounds}: samples do not fit the data as they should"

    def _guess(self, factor: Factor, like: Tensor) -> Callable[[Tensor], Tensor]:
        """Nearly the inverse of the system, coefficient by coefficient (Sherman and Morrison)."""
        gain = self.gain(factor.basis, like) if isinstance(factor, Root) else None
        if gain is None or not isinstance(factor, Root):
            return lambda w: w
        levels = factor.levels()
        share = (gain / (1 + gain * levels.square().sum(0))).to(like.real)
        levels = levels.to(like.real)

        return lambda u: u - levels * share * (levels * u).sum(0)

    def gain(self, basis: Basis, like: Tensor) -> Tensor | None:
        """A^H Sigma^-1 A as numbers `(*K)` in a basis, or None."""
        if basis not in self._gains:
            self._gains[basis] = _gain(self.operator, basis, like[:1])
        return self._gains[basis]


def _gain(operator: Whitened, basis: Basis, like: Tensor) -> Tensor | None:
    form = operator.inner.part.spectral()
    variance = torch.as_tensor(operator.covariance.variance, dtype=torch.float64, device="cpu")
    if form is not None and form.basis == basis:
        own = operator.covariance.basis == basis and tuple(variance.shape) == basis.shape and form.left is None
        precision = 1 / variance if own else (1 / variance).mean()
        return (form.gain.abs() ** 2 * precision.to(form.gain.device)).to(basis.device)
    if isinstance(basis, Fourier) and basis.ndim == like.ndim - 2:
        return _scaled_response(operator, basis, like).to(basis.device)
    return None


def _scaled_response(operator: Whitened, basis: Fourier, like: Tensor) -> Tensor:
    """The response to the point in the middle, scaled so that its trace is that of A^H Sigma^-1 A: a point may be one
    that was not measured, and others may be.
    """
    probes = torch.cat([operator.domain.white(k, "trace") for k in range(8)]).to(like)
    images = operator.forward(probes)
    mean = float((images.abs() ** 2).double().sum() / (probes.abs() ** 2).double().sum())
    found, weight = point_response(operator, basis, like), basis.multiplicity().to("cpu")
    level = float((found * weight).sum() / weight.sum())
    return found * (mean / level) if level > 1e-3 * mean else torch.full_like(found, mean)


@dataclass(frozen=True)
class ConditionalSpread:
    """The law of x_0 - E[x_0 | x_t, y]: Gaussian with the covariance of `inner` updated by the measurement."""

    conditioner: Conditioner
    inner: Spread

    @property
    def fields(self) -> int:
        """Those of the inner law, and as many as hold the noise of the data."""
        return self.inner.fields + self.conditioner.extra

    def draw(self, z: Tensor) -> Tensor:
        """White noise `(fields, B, C, *N)` to an error `(B, C, *N)`; one solve."""
        return self.conditioner.error(z, self.inner.fields, root_of(self.inner))

    def variance(self) -> Tensor:
        """It has no closed form for a general operator: raise `InputError`."""
        raise InputError("variance", "a conditional law without a closed variance", "that of samples")
