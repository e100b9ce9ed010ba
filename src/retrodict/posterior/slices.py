"""Volumes by a prior of slices: a Gaussian coupling along z that is exact for separable data, and DiffusionMBIR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.bases import Basis
from retrodict.denoisers.denoiser import Denoiser, Estimate
from retrodict.denoisers.spread import LocalSpread, SpectralSpread
from retrodict.denoisers.wrappers import Wrapper
from retrodict.posterior.law import Root, solve
from retrodict.posterior.method import Draw, Method, ancestral_step, in_precision, number_clock, spread_of
from retrodict.processes.observation import Cond, ratio

__all__ = ["Coupled", "DiffusionMbir", "along_z", "correlation"]


def correlation(slices: int, length: float, spacing: float) -> Tensor:
    """exp(-|z - z'| / length) `(Z, Z)` float64, of slices `spacing` mm apart and a length in mm (0: independent)."""
    if slices < 1 or not length >= 0 or not spacing > 0:
        wanted = "at least one slice, a length of at least 0, a positive spacing"
        raise InputError("slices, length, spacing", (slices, length, spacing), wanted)
    z = spacing * torch.arange(slices, dtype=torch.float64, device="cpu")
    gap = (z[:, None] - z[None]).abs()
    return torch.exp(-gap / length) if length > 0 else torch.eye(slices, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class _Turned:
    """A law whose channels are independent once turned: error = U sqrt(v) z, with v `(B|1, Z, *K)`, U `(Z, Z)`."""

    basis: Basis
    v: Tensor
    turn: Tensor
    fields: int = 1

    def draw(self, z: Tensor) -> Tensor:
        return _mix(self.turn, self.basis.inverse(self.v.sqrt().to(z.real) * self.basis.forward(z[0])))

    def variance(self) -> Tensor:
        own = SpectralSpread(self.basis, self.v).variance()
        return _mix((self.turn**2).to(own), own)

    def root(self) -> _TurnedRoot:
        """Its factor, for which the solver has a preconditioner: in turned slices A^H Sigma^-1 A is that of a slice."""
        return _TurnedRoot(self.basis, self.v.sqrt()[None], None, self.turn)


@dataclass(frozen=True)
class _TurnedRoot(Root):
    """G w = U B^-1 [sqrt(v) B w]."""

    turn: Tensor | None = None

    def raised(self, u: Tensor) -> Tensor:
        assert self.turn is not None
        return _mix(self.turn, super().raised(u))

    def adjoint(self, x: Tensor) -> Tensor:
        assert self.turn is not None
        return super().adjoint(_mix(self.turn.T, x))


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix over the slices `(B, Z, ...)`."""
    return torch.einsum("ij,bj...->bi...", matrix.to(x), x)


@dataclass(frozen=True)
class Coupled(Wrapper):
    """A prior of slices as a prior of volumes whose slices are the channels: u `(B, Z, H, W)`.

    p(u) is proportional to prod_z p(u_z) exp(-(u - m)^H ((K^-1 - 1) x C^-1) (u - m) / 2), with `coupling` K `(Z, Z)` a
    correlation along z of ones on the diagonal, and m and C mean and spectrum of the slices: for Gaussian slices that
    is N(m, K x C), every slice as before and neighbors correlated by K.  The inner denoiser is called once for each
    slice, with N(D, V); along the eigenvectors of K, with eigenvalues k, precision and mean become

        1/V_k = 1/V + (1/k - 1)/C,    D_k = m + V_k (D - m)/V,

    exact for Gaussian slices at every t; for others the coupling is the Gaussian one of their spectrum, and V its mean
    over the image.  1/V_k is kept at or above the precision h^2/s^2 of the state.
    """

    coupling: Tensor

    def __post_init__(self) -> None:
        """Refuse what is no correlation, and a prior without a spectrum."""
        k = self.coupling
        square = k.ndim == 2 and k.shape[0] == k.shape[1] and torch.allclose(k, k.T)
        if not square or not torch.allclose(k.diagonal(), torch.ones_like(k.diagonal())):
            raise InputError("coupling", tuple(k.shape), "a symmetric matrix of ones on the diagonal")
        if not float(self._turn[0].min()) > 0:
            raise InputError("coupling", "an eigenvalue of 0 or below", "a positive definite matrix")
        if self.inner.prior() is None:
            raise InputError("Coupled", "a prior without a spectrum", "one that knows mean and spectrum of its slices")

    @cached_property
    def _turn(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.coupling.double())
        return values, vectors

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        prior, ndim = self.inner.prior(), self.process.basis.ndim
        assert prior is not None
        share = self._turn[0].reshape(1, -1, *[1] * ndim)
        return prior[0], prior[1], share.to(prior[1].device)

    def prior(self) -> None:
        """None: no table of channels holds a coupling; see `prior_law`."""

    def prior_law(self) -> tuple[Tensor, _Turned]:
        """Mean `(1, Z, H, W)` and the law of the data around it, without any state."""
        mean, variance, share = self._tables()
        basis, (_, turn) = self.process.basis, self._turn
        zero = torch.zeros(1, len(turn), *basis.size, dtype=torch.float64, device=basis.device)
        zero = basis.forward(zero)
        return basis.inverse(mean.to(zero) + zero), _Turned(basis, share * variance, turn)

    def gaussian(self) -> Denoiser | None:
        """Round the Gaussian twin of the slices."""
        twin = self.inner.gaussian()
        return None if twin is None else Coupled(twin, self.coupling)

    def estimate(self, xt: Tensor, t: Tensor, cond: Cond = Cond()) -> Estimate:
        """D and the law of its error `(B, Z, H, W)`: one call of the inner denoiser with B Z images."""
        count, basis = len(self.coupling), self.process.basis
        if xt.shape[1] != count:
            raise InputError("denoiser input", f"{xt.shape[1]} slices", f"{count}, as the coupling has")
        flat = xt.reshape(-1, 1, *xt.shape[2:])
        found = self.inner.estimate(flat, t.repeat_interleave(count), cond)
        spread = spread_of(found.spread)
        if not isinstance(spread, SpectralSpread | LocalSpread):
            raise InputError("Coupled", f"an error law of kind {type(spread).__name__}", "one with a spectrum")
        power = spread.power()
        v = power.reshape(-1, count if len(power) > 1 else 1, *power.shape[2:]).mean(1, keepdim=True)
        mean, variance, share = self._tables()
        m = self.process.moments(t)
        tiny = torch.finfo(torch.float64).tiny ** 0.5
        # a network may state more than the noise of the state: D would be shrunk by what it is cut to, also where K = 1
        most = ratio(m.s2, m.h**2)
        v = torch.where(m.h > 0, torch.minimum(v, most), v)
        precision = 1 / v.clamp_min(tiny) + (1 / share - 1) / variance.clamp_min(tiny)
        own = 1 / torch.maximum(precision, ratio(m.h**2, m.s2))
        turn = self._turn[1].to(xt.real)
        middle = mean.to(basis.forward(xt[:, :1]))
        gap = basis.forward(found.mean.reshape(xt.shape)) - middle
        moved = _mix(turn, ratio(own, v.expand_as(own)).to(xt.real) * _mix(turn.T, gap))
        return Estimate(basis.inverse(middle + moved).to(xt), _Turned(basis, own, turn.double()))


# ---- DiffusionMBIR ---------------------------------------------------------------------------------------------------


def along_z(x: Tensor) -> Tensor:
    """x_(k+1) - x_k over the slices `(B, Z, H, W)`; the last difference is 0: volumes have ends."""
    return torch.cat([x[:, 1:] - x[:, :-1], torch.zeros_like(x[:, :1])], 1)


def _back(z: Tensor) -> Tensor:
    """The adjoint of `along_z`."""
    inner = z[:, :-1]
    none = torch.zeros_like(z[:, :1])
    return torch.cat([none, inner], 1) - torch.cat([inner, none], 1)


class _Split(NamedTuple):
    """Split and multiplier of the alternation, kept from one step to the next."""

    z: Tensor
    u: Tensor


@dataclass(frozen=True, eq=False)
class DiffusionMbir(Method):
    """DiffusionMBIR (Chung, Ryu, McCann, Klasky, Ye 2023, arXiv 2211.10655): slices by a prior, TV along z, one
    warm-started round of ADMM a step, on the noisy volume x_t/h of `(B, Z, H, W)`:

        x <- CG on (A^H A + c D^H D) x = A^H y + c D^H (z - u),  z <- soft(D x + u, strength / c),  u <- u + D x - z.

    Predictor (ancestral), corrector (Langevin, `snr`), then the round; z and u go on to the next step.  `strength` and
    `coupling` are for an operator of norm 1 and are multiplied by ||A||^2: theirs, 0.04 and 10, belong to sums over 256
    pixels and a back-projection times pi/(2 views), whose A^H A has the norm 256 pi/2 = 402, so that they are 1e-4 and
    0.025 here (and 10 diverges: it holds the slices to the differences of noisier ones).  D ends at the last slice,
    where the public code joins it to the first.  Noise is not known to it: the data are fitted, and the spread means
    nothing.  The denoiser is that of the slices.
    """

    strength: float = 1e-4
    coupling: float = 0.025
    snr: float = 0.16
    rounds: int = 1
    calls: ClassVar[int] = 2
    steps: ClassVar[int] = 200

    def __post_init__(self) -> None:
        """Refuse what are no slices."""
        ndim = self.process.basis.ndim
        if ndim != 2:
            raise InputError("mbir", f"images of {ndim} axes", "slices of two, which are the channels of the volume")

    @cached_property
    def _norm(self) -> float:
        return self.measurement.operator.part.norm() ** 2

    def slicewise(self, x: Tensor, t: Tensor) -> Tensor:
        """D of every slice."""
        flat = x.reshape(-1, 1, *x.shape[2:])
        return self.denoiser(flat, t.repeat_interleave(x.shape[1])).reshape(x.shape)

    def start(self, like: Tensor, draw: Draw) -> Tensor:
        """Noise of the last level in every slice."""
        return self.process.corrupt(
            torch.zeros_like(like), torch.ones(len(like), dtype=torch.float64, device="cpu"), draw(1)[0]
        )

    def stepper(self) -> Callable[[Tensor, Tensor, Tensor, Draw], Tensor]:
        """Steps that hand on split and multiplier."""
        state: _Split | None = None

        def step(x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
            nonlocal state
            x, state = self.advance(x, t, s, draw, state)
            return x

        return step

    def step(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
        """A step with a cold split."""
        return self.advance(x, t, s, draw, None)[0]

    def advance(self, x: Tensor, t: Tensor, s: Tensor, draw: Draw, state: _Split | None) -> tuple[Tensor, _Split]:
        """Predictor, corrector and one round of the alternation."""
        x = ancestral_step(self.process, x, t, s, self.slicewise(x, t), draw(1)[0])
        x = self._corrected(x, s, draw(1)[0])
        h = self._gain(s)
        x, state = self.alternate(x / h.to(x.real), state)
        return h.to(x.real) * x, state

    def _gain(self, t: Tensor) -> Tensor:
        number_clock(self.process, t, "mbir")
        h = self.process.moments(t).h.flatten(1)[:, :1].reshape(-1, 1, 1, 1)
        if not bool((h > 0).all()):
            raise InputError("mbir", "a process that erases the image, h = 0", "one that keeps some of it")
        return h

    def _corrected(self, x: Tensor, s: Tensor, z: Tensor) -> Tensor:
        """X + e score + sqrt(2 e) z with e = 2 (snr |z|/|score|)^2, item by item; nothing at s = 0."""
        m = self.process.moments(s)
        h, s2 = (v.flatten(1)[:, :1].reshape(-1, 1, 1, 1).to(x.real) for v in (m.h, m.s2))
        score = ratio(h * self.slicewise(x, s) - x, s2.expand_as(x))
        size, noise = (v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for v in (score, z))
        e = 2 * (self.snr * ratio(noise, size)) ** 2
        return torch.where(s2 > 0, x + e * score + (2 * e).sqrt() * z, x)

    def alternate(self, x: Tensor, state: _Split | None) -> tuple[Tensor, _Split]:
        """One round of the alternation from a clean-scale volume."""
        m, part, c = self.measurement, self.measurement.operator.part, self.coupling * self._norm
        z, u = state or _Split(torch.zeros_like(x), torch.zeros_like(x))

        def system(v: Tensor) -> Tensor:
            seen = part.forward(v)
            seen = seen if m.mask is None else seen * m.mask.to(seen.real)
            return part.adjoint(seen) + c * _back(along_z(v))

        rest = in_precision(m.residual(in_precision(x, m.y)), x)
        right = part.adjoint(rest) + c * _back(z - u - along_z(x))
        x = x + solve(system, lambda v: v, right, 1e-12, self.rounds, axis=0).x
        seen = along_z(x) + u
        z = seen.sgn() * (seen.abs() - self.strength / self.coupling).clamp_min(0)
        return x, _Split(z, seen - z)
